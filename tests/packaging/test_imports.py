"""Importing stateregistry imports no framework, and neither does using an adapter whose framework is another.

Every check runs in an interpreter of its own. `test_the_check_itself_can_fail` proves that it would notice.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap

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
