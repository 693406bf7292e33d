"""Torch files of the format before zip: read by torch alone, after they were looked through, and never trusted."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile import corpus

import stateregistry as sr
from stateregistry import errors
from stateregistry.entry import DTYPES, Kind, dtype_name
from stateregistry.stores.limits import Limits
from stateregistry_torch import legacy
from stateregistry_torch.bits import lend


def installed(package, *parts):
    """A file of an installed package, which is not imported."""
    spec = importlib.util.find_spec(package)
    return Path(spec.submodule_search_locations[0]).joinpath(*parts)


FACENET = installed("facenet_pytorch", "data")
RESEMBLYZER = installed("resemblyzer", "pretrained.pt")


def saved(path, obj):
    torch.save(obj, path, _use_new_zipfile_serialization=False)
    return path


# ------------------------------------------------------------------ real files


@pytest.mark.parametrize("name", ["pnet.pt", "rnet.pt", "onet.pt"])
def test_the_files_of_facenet_are_read_bit_for_bit(name, tmp_path):
    expected = torch.load(FACENET / name, weights_only=True)
    with sr.open(FACENET / name) as found:
        assert list(found.stored_names.values()) == list(expected)
        for key, stored in found.stored_names.items():
            assert found.read(key).tobytes() == expected[stored].numpy().tobytes()
            assert found[key].shape == tuple(expected[stored].shape)
        sr.save(found, tmp_path / "new.pt")
    again = torch.load(tmp_path / "new.pt", weights_only=True)
    assert list(again) == list(expected)
    assert all(again[key].numpy().tobytes() == expected[key].numpy().tobytes() for key in expected)


def test_the_file_of_resemblyzer_holds_several_states_and_each_is_read_by_its_sub_key():
    path = RESEMBLYZER
    with pytest.raises(errors.FileFormatError, match="model_state: 16 tensors"):
        sr.open(path)
    expected = torch.load(path, weights_only=True, map_location="cpu")["model_state"]
    with sr.open(f"{path}::model_state") as found:
        names = {**found.stored_names}
        assert {names[key] for key in found} == set(expected)
        for key in found:
            assert found.read(key).tobytes() == expected[names[key]].numpy().tobytes()


# ------------------------------------------------------------------ what is read


@pytest.mark.parametrize(
    "dtype", [name for name in DTYPES if not name.startswith(("float8", "uint16", "uint32", "uint64"))]
)
@pytest.mark.parametrize("shape", [(), (5, 5), (0, 3), (2, 3, 4)], ids=str)
def test_every_dtype_that_the_format_has_comes_back_bit_for_bit(tmp_path, bits, dtype, shape):
    from stateregistry_torch.bits import adopt

    value = bits(dtype, shape)
    path = saved(tmp_path / "x.pt", {"a.w": adopt(value.copy())})
    with sr.open(path) as found:
        assert found["a/w"].dtype == dtype_name(value.dtype)
        for array in (found.read("a/w"), found.view("a/w")):
            assert (array.shape, array.dtype, array.tobytes()) == (value.shape, value.dtype, value.tobytes())
        assert found.read("a/w").flags.writeable
        assert not found.view("a/w").flags.writeable


def test_it_says_the_same_as_of_an_archive_of_the_same_state(tmp_path):
    torch.manual_seed(1)
    base = torch.randn(6, 6)
    state = OrderedDict(
        {
            "p": torch.nn.Parameter(torch.randn(3, 3), requires_grad=False), "w": base, "tied": base, "turned": base.t(),
            "row": base[2], "wide": base[:1].expand(4, 6), "bn.running_mean": torch.randn(4), "step": 3, "nothing": None,
            "conj": torch.randn(3, 3, dtype=torch.complex64).conj(), "sparse": torch.eye(3).to_sparse(),
        }
    )  # fmt: skip
    torch.save(state, tmp_path / "new.pt")
    with sr.open(saved(tmp_path / "old.pt", state)) as old, sr.open(tmp_path / "new.pt") as new:
        assert dict(old) == dict(new)
        assert old.native_order == new.native_order
        assert old.aliases == new.aliases == {"w": "tied"}
        assert old.opaque.keys() == new.opaque.keys() == {"step", "sparse"}
        assert old.stored_names == new.stored_names
        assert old["p"].kind is Kind.PARAMETER
        assert not old["p"].trainable
        for key in new:
            assert old.read(key).tobytes() == new.read(key).tobytes()


def test_sub_keys_are_those_of_an_archive(tmp_path):
    state = {"model": {"a.w": torch.ones(2)}, "optimizer": {"state": [{"m": torch.zeros(2)}]}}
    path = saved(tmp_path / "x.pt", state)
    with pytest.raises(errors.FileFormatError, match="tensors by name are in"):
        sr.open(path)
    with sr.open(f"{path}::model") as found:
        assert found.read("a/w").tolist() == [1, 1]
    with sr.open(f"{path}::optimizer.state.0") as found:
        assert found.read("m").tolist() == [0, 0]
    with pytest.raises(errors.FileFormatError, match="no part"):
        sr.open(f"{path}::nowhere")


def test_a_closed_registry_gives_no_values(tmp_path):
    with sr.open(saved(tmp_path / "x.pt", {"w": torch.ones(2)})) as found:
        pass
    with pytest.raises(errors.UnsupportedError, match="closed"):
        found.read("w")


def test_without_torch_it_is_said_that_torch_is_needed(tmp_path):
    path = saved(tmp_path / "x.pt", {"w": torch.ones(2)})
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import stateregistry as sr\n"
        f"try: sr.open({str(path)!r})\n"
        "except sr.errors.MissingDependencyError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "before 1.6 needs the package 'torch'" in done.stdout
    assert "pip install" in done.stdout


@pytest.mark.parametrize("version", ["2.5.1", "2.9.1+cpu", "1.13.0", "unknown"])
def test_a_torch_that_is_known_to_be_unsafe_is_not_asked(tmp_path, monkeypatch, version):
    path = saved(tmp_path / "x.pt", {"w": torch.ones(2)})
    monkeypatch.setattr(legacy.torch, "__version__", version)
    monkeypatch.setattr(legacy.torch, "load", None)
    with pytest.raises(errors.MissingDependencyError, match=r"torch>=2\.10"):
        sr.open(path)


# ---------------------------------------------------------------- hostile files


@pytest.mark.parametrize("fault", corpus.faults("torch legacy"), ids=lambda fault: fault.id)
def test_torch_never_sees_a_file_that_lies_or_would_run_code(tmp_path, monkeypatch, fault):
    monkeypatch.setattr(legacy.torch, "load", lambda *_, **__: pytest.fail("torch was asked"))
    with pytest.raises(errors.StateError):
        sr.open(fault.make(tmp_path))


def test_a_file_cut_anywhere_is_refused(tmp_path):
    raw = saved(tmp_path / "x.pt", {"w": torch.arange(3.0), "v": torch.ones(2)}).read_bytes()
    for length in range(len(raw)):
        (tmp_path / "d.pt").write_bytes(raw[:length])
        with pytest.raises(errors.StateError):
            sr.open(tmp_path / "d.pt")


def test_a_flipped_bit_outside_of_the_values_is_refused_or_gives_values_of_the_file(tmp_path):
    """The format has no checksum: a stride or a name can change. Memory that is not the file's never shows."""
    path = saved(tmp_path / "x.pt", {"w": torch.arange(4.0)})
    raw = path.read_bytes()
    rng = np.random.default_rng(3)
    refused = 0
    for at in rng.choice((len(raw) - 16) * 8, 800, replace=False):
        damaged = bytearray(raw)
        damaged[at // 8] ^= 1 << (at % 8)
        (tmp_path / "d.pt").write_bytes(damaged)
        try:
            with sr.open(tmp_path / "d.pt") as found:
                for key in found:
                    assert set(found.read(key).reshape(-1).tolist()) <= {0.0, 1.0, 2.0, 3.0}
        except errors.StateError:
            refused += 1
    assert refused > 300


def test_a_pickle_of_many_megabytes_is_looked_through_to_its_end(tmp_path):
    state = {f"layer.{n}.{'name' * 30}": torch.full((1,), float(n)) for n in range(12_000)}
    path = saved(tmp_path / "x.pt", state)
    assert path.stat().st_size > 2**21
    with sr.open(path) as found:
        assert len(found) == 12_000
        key = next(key for key in found if key.startswith("layer/11999/"))
        assert found.read(key).tolist() == [11999]


def test_limits_are_named(tmp_path):
    path = saved(tmp_path / "x.pt", {"aa": torch.ones(2, 2), "b": torch.ones(1, 2).expand(9, 2)})
    for limit in ({"entries": 1}, {"name_chars": 1}, {"rank": 1}, {"expansion": 2}, {"pickle_bytes": 30}):
        with pytest.raises(
            errors.FileFormatError, match=next(iter(limit)) if limit != {"pickle_bytes": 30} else "damaged"
        ):
            sr.open(path, limits=Limits(**limit))


def test_values_that_a_registry_gives_are_those_of_torch_for_awkward_tensors(tmp_path):
    base = torch.randn(4, 4, dtype=torch.complex64)
    state = {
        "neg": torch.randn(3, 3, dtype=torch.complex64).conj().imag,
        "conj": base.conj().t()[1:],
        "bf": torch.randn(3, 3).bfloat16().t(),
    }
    with sr.open(saved(tmp_path / "x.pt", state)) as found:
        for key, value in state.items():
            assert found.read(key).tobytes() == lend(value).tobytes()
