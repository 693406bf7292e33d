"""Importing stateregistry imports no framework, and neither does using an adapter whose framework is another.

Every check runs in an interpreter of its own. `test_the_check_itself_can_fail` proves that it would notice.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

FRAMEWORKS = ("torch", "jax", "flax")
HEAVY = (*FRAMEWORKS, "numpy", "ml_dtypes", "click", "rich", "importlib.metadata")


def imported(code: str, names: tuple[str, ...]) -> list[str]:
    """Which of `names` are loaded after `code` ran in a fresh interpreter."""
    tail = f"import sys\nprint('LOADED', *[name for name in {names!r} if name in sys.modules])"
    command = [sys.executable, "-c", textwrap.dedent(code) + "\n" + tail]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()[1:]


def test_importing_the_package_imports_nothing_heavy():
    assert imported("import stateregistry", HEAVY) == []


@pytest.mark.parametrize("name", [*FRAMEWORKS, "numpy"])
def test_the_check_itself_can_fail(name):
    assert name in imported(f"import stateregistry\nimport {name}", HEAVY)


def test_discovering_every_plugin_imports_no_framework():
    code = """
        from stateregistry import plugins
        assert len(plugins.adapters()) == 7, plugins.discover(plugins.ADAPTERS)
        assert len(plugins.stores()) == 8, plugins.discover(plugins.STORES)
    """
    assert imported(code, FRAMEWORKS) == []


def test_a_numpy_model_needs_no_framework():
    code = """
        import numpy as np
        import stateregistry as sr
        import stateregistry_numpy
        model = stateregistry_numpy.Module()
        model.register_parameter("w", np.ones(3))
        reg = sr.of(model).replace({"w": np.zeros(3)})
        assert reg.read("w").tolist() == [0, 0, 0]
    """
    assert imported(code, FRAMEWORKS) == []


def test_a_torch_model_needs_no_jax():
    code = """
        import torch
        import stateregistry as sr
        assert list(sr.of(torch.nn.Linear(2, 3))) == ["bias", "weight"]
    """
    assert imported(code, ("jax", "flax")) == []


def test_a_linen_tree_needs_no_torch():
    code = """
        import jax.numpy as jnp
        import stateregistry as sr
        assert list(sr.of({"params": {"w": jnp.ones(2)}})) == ["w"]
    """
    assert imported(code, ("torch",)) == []


def test_an_object_that_nobody_knows_imports_no_framework():
    code = """
        import stateregistry as sr
        try:
            sr.of(object())
        except sr.StateError as error:
            assert "numpy, numpy-frozen" in str(error), error
        else:
            raise SystemExit("accepted")
    """
    assert imported(code, FRAMEWORKS) == []


def test_opening_a_file_imports_no_framework(tmp_path):
    import numpy as np

    import stateregistry as sr
    import stateregistry_numpy

    model = stateregistry_numpy.Module()
    model.register_parameter("w", np.arange(4.0))
    sr.save(model, tmp_path / "a.safetensors")
    code = f"""
        import stateregistry as sr
        with sr.open({str(tmp_path / "a.safetensors")!r}) as file:
            assert file.read("w").tolist() == [0, 1, 2, 3]
    """
    assert imported(code, (*FRAMEWORKS, "safetensors")) == []


# ------------------------------------------------------------------------------------------------------ the command line

#: What looking at the header of a safetensors file has no use for.
UNUSED = (
    *FRAMEWORKS, "numpy", "ml_dtypes", "rich", "fsspec", "h5py", "tensorstore", "msgpack", "safetensors", "xxhash",
    "concurrent.futures",
)  # fmt: skip
#: Rooms of ours, and the readers of the other formats, which are asked all the same whether the file is theirs.
OTHER_ROOMS = (
    "stateregistry.streaming.engine", "stateregistry.conversion", "stateregistry.alignment", "stateregistry.layers",
    "stateregistry.pages", "stateregistry.tools", "stateregistry.stores.api", "stateregistry.stores.gguf",
    "stateregistry.stores.keras", "stateregistry.stores.npz", "stateregistry.stores.torch_zip",
    "stateregistry.stores.torch_dcp", "stateregistry_torch.plugin", "stateregistry_torch.declared",
    "stateregistry_flax.plugin", "stateregistry_flax.declared", "stateregistry_flax.msgpack_store",
    "stateregistry_flax.orbax_store",
)  # fmt: skip


def header_only(path: Path, tensors: int) -> Path:
    """A safetensors file of many small tensors, by the letter of the format. Its length begins with no other's magic."""
    header = {
        f"block.{i // 4}.layer{i % 4}.weight": {"dtype": "F32", "shape": [4], "data_offsets": [16 * i, 16 * i + 16]}
        for i in range(tensors)
    }
    text = json.dumps(header).encode()
    text += b" " * ((8 - len(text)) % 256)
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(16 * tensors))
    return path


def running(*arguments: str) -> str:
    """Code that runs a command as the script does, and goes on when it has ended."""
    return f"""
        import sys
        sys.argv = ["stateregistry", *{list(arguments)!r}]
        from stateregistry.cli import main
        try:
            main()
        except SystemExit as end:
            assert not end.code, end.code
    """


@pytest.mark.parametrize("arguments", [("--version",), ("--help",), ("inspect", "--help"), ("convert", "--help")])
def test_help_loads_nothing_that_it_does_not_need(arguments):
    heavy = (*UNUSED, *OTHER_ROOMS, "importlib.metadata", "stateregistry.registry", "stateregistry.plugins")
    assert imported(running(*arguments), heavy) == []


@pytest.mark.parametrize("more", [(), ("--json",), ("--match", "block/1*"), ("--depth", "1")])
def test_looking_at_a_header_loads_its_own_reader_and_no_numpy(tmp_path, more):
    file = header_only(tmp_path / "model.safetensors", 1000)
    expected = ["stateregistry.stores.safetensors"]
    assert imported(running("inspect", str(file), *more), (*UNUSED, *OTHER_ROOMS, *expected)) == expected


def test_every_store_is_asked_before_a_file_is_opened(tmp_path, monkeypatch):
    from stateregistry import plugins
    from stateregistry.stores.opening import open as open_file

    class Asked:
        def __init__(self, name: str) -> None:
            self.name, self.suffixes, self.asked = name, (".asked",), 0

        def sniff(self, path: Path, head: bytes, /) -> bool:
            self.asked += 1
            return False

    strangers = {name: Asked(name) for name in ("aaa", "zzz")}
    known = {**plugins.stores(), **strangers}
    monkeypatch.setattr(plugins, "stores", lambda: known)
    with open_file(header_only(tmp_path / "model.safetensors", 3)) as file:
        assert len(file) == 3
    assert [stranger.asked for stranger in strangers.values()] == [1, 1]
