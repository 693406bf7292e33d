"""`sr.save`: all of the persistent state or nothing, whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import stateregistry as sr
from stateregistry import errors
from stateregistry.entry import Entry, Kind
from stateregistry.stores import safetensors as store
from stateregistry.stores.sidecar import sidecar_path

SUFFIXES = [".safetensors", ".pt", ".msgpack"]


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 3, 3)
        self.bn = torch.nn.BatchNorm2d(3)
        self.tied = torch.nn.Conv2d(3, 3, 3)
        self.tied.weight = self.conv.weight
        self.conv.bias.requires_grad_(False)
        self.register_buffer("scratch", torch.ones(2), persistent=False)
        self.register_buffer("mask", torch.tensor([True, False]))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_model_comes_back_with_kinds_flags_ties_and_bits(tmp_path, suffix):
    model = Net()
    expected = sr.of(model)
    path = sr.save(model, tmp_path / f"x{suffix}", extra={"note": {"n": 1}})
    assert path == tmp_path / f"x{suffix}"
    with sr.open(path) as found:
        assert dict(found) == {key: entry for key, entry in expected.items() if entry.persistent}
        assert found.aliases == {"tied/weight": "conv/weight"}
        assert found.document.extra == {"note": {"n": 1}}
        assert found.dialect == "torch"
        for key in found:
            assert found.read(key).tobytes() == expected.read(key).tobytes()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_same_state_gives_the_same_file(tmp_path, suffix):
    model = Net()
    one, two = (sr.save(model, tmp_path / f"{name}{suffix}") for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("first", SUFFIXES)
@pytest.mark.parametrize("second", SUFFIXES)
def test_a_file_is_saved_as_another(tmp_path, first, second):
    model = Net()
    with sr.open(sr.save(model, tmp_path / f"a{first}")) as source:
        path = sr.save(source, tmp_path / f"b{second}")
        with sr.open(path) as found:
            assert dict(found) == dict(source)
            assert found.aliases == source.aliases
            assert all(found.read(key).tobytes() == source.read(key).tobytes() for key in source)


def test_a_mapping_of_arrays_is_saved_with_inferred_kinds(tmp_path, bits):
    arrays = {"bn/running_mean": bits("float32", (3,)), "fc/weight": bits("bfloat16", (3, 3)).T, "n": np.int64(7)}
    with sr.open(sr.save(arrays, tmp_path / "x.safetensors")) as found:
        assert {key: (entry.kind, entry.inferred) for key, entry in found.items()} == {
            "bn/running_mean": (Kind.BUFFER, True),
            "fc/weight": (Kind.PARAMETER, True),
            "n": (Kind.PARAMETER, True),
        }
        assert found.read("fc/weight").tobytes() == np.ascontiguousarray(arrays["fc/weight"]).tobytes()
        assert found.read("n").shape == ()


def test_a_snapshot_is_saved(tmp_path):
    model = Net()
    with sr.open(sr.save(sr.snapshot(sr.of(model)), tmp_path / "x.safetensors")) as found:
        assert sorted(found) == sorted(sr.snapshot(sr.of(model)))


def test_a_tie_to_an_entry_that_is_not_persistent_is_left_out(tmp_path, bits, specimen):
    entries = {"a": Entry(Kind.BUFFER, (2,), "int8", persistent=False)}
    source = specimen({"a": bits("int8", (2,)), "b": bits("int8", (3,))}, entries, aliases={"c": "a", "d": "b"})
    with sr.open(sr.save(source, tmp_path / "x.safetensors")) as found:
        assert list(found) == ["b"]
        assert found.aliases == {"d": "b"}


def test_progress_is_told_every_value(tmp_path):
    told = []
    sr.save(Net(), tmp_path / "x.safetensors", progress=lambda key, nbytes: told.append((key, nbytes)))
    with sr.open(tmp_path / "x.safetensors") as found:
        assert sorted(told) == [(key, entry.nbytes) for key, entry in found.items()]


def test_a_format_is_named_where_the_suffix_does_not(tmp_path):
    path = sr.save({"w": np.ones(2)}, tmp_path / "x.weights", format="safetensors")
    with sr.open(path) as found:
        assert list(found) == ["w"]


# -------------------------------------------------------------------- refusals, all of which leave what was there


@pytest.fixture
def old(tmp_path):
    path = tmp_path / "x.safetensors"
    sr.save({"w": np.arange(3.0)}, path)
    return path


@pytest.fixture
def unchanged(tmp_path):
    """What is in the directory before is there afterwards, byte for byte."""
    before = {}

    def look():
        return {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}

    yield lambda: before.update(look())
    assert look() == before


def test_an_existing_file_needs_overwrite(old, unchanged):
    unchanged()
    with pytest.raises(FileExistsError, match="overwrite=True") as caught:
        sr.save({"w": np.ones(2)}, old)
    assert isinstance(caught.value, errors.TargetExistsError)


def test_an_existing_file_is_overwritten_on_request(old):
    sr.save({"v": np.ones(2)}, old, overwrite=True)
    with sr.open(old) as found:
        assert list(found) == ["v"]


@pytest.mark.parametrize("spelling", ["same", "symbolic link", "hard link", "detour"])
@pytest.mark.parametrize("overwrite", [True, False])
def test_source_and_target_may_not_be_one_file(tmp_path, old, unchanged, spelling, overwrite):
    other = old
    if spelling == "symbolic link":
        other = tmp_path / "link.safetensors"
        other.symlink_to(old)
    elif spelling == "hard link":
        other = tmp_path / "hard.safetensors"
        os.link(old, other)
    elif spelling == "detour":
        (tmp_path / "sub").mkdir()
        other = tmp_path / "sub" / ".." / old.name
    unchanged()
    with sr.open(old) as source, pytest.raises(errors.UnsupportedError, match="values come from"):
        sr.save(source, other, overwrite=overwrite)


def test_state_that_is_no_array_is_not_left_out_silently(old, unchanged, bits, specimen):
    unchanged()
    source = specimen({"w": bits("int8", (2,))}, opaque={"sub/_extra_state": "a dict"})
    with pytest.raises(errors.OpaqueError, match=r"sub/_extra_state.*a dict") as caught:
        sr.save(source, old, overwrite=True)
    assert caught.value.keys == ("sub/_extra_state",)


@pytest.mark.parametrize(("name", "says"), [("x" * 300 + ".pt", "too long"), ("a\0b.pt", "null byte")])
def test_a_name_that_no_system_takes_is_one_error(tmp_path, specimen, bits, name, says):
    with pytest.raises(errors.FileAccessError, match=says):
        sr.save(specimen({"w": bits("float32", (2,))}), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_an_alias_that_no_reader_would_accept_is_not_written(old, unchanged, bits, specimen):
    """The key of a place is the least of its names: a file that says otherwise is refused when it is opened."""
    unchanged()
    with pytest.raises(errors.UnsupportedError, match="'a/w' is listed as an alias of 'b/w'"):
        sr.save(specimen({"b/w": bits("float32", (2,))}, aliases={"a/w": "b/w"}), old, overwrite=True)


def test_entries_without_values_are_all_named(old, unchanged):
    unchanged()
    with pytest.raises(errors.AbstractError, match="2 entries") as caught:
        sr.save(torch.nn.Linear(2, 2, device="meta"), old, overwrite=True)
    assert caught.value.keys == ("bias", "weight")


def test_an_entry_without_values_that_is_not_persistent_is_no_obstacle(tmp_path, bits, specimen):
    entries = {"a": Entry(Kind.BUFFER, (2,), "int8", persistent=False, concrete=False)}
    sr.save(specimen({"a": bits("int8", (2,)), "b": bits("int8", (2,))}, entries), tmp_path / "x.safetensors")


@pytest.mark.parametrize("name", ["x.txt", "x", "x.npz.gz"])
def test_a_suffix_that_names_no_format_is_refused_with_those_that_do(tmp_path, name):
    with pytest.raises(
        errors.UnsupportedError, match=r"safetensors \(\.safetensors \.safetensors\.index\.json\), torch \(\.pt"
    ):
        sr.save({}, tmp_path / name)


def test_a_format_that_is_not_installed_is_refused(tmp_path):
    with pytest.raises(errors.AdapterError, match="no store 'hdf5'"):
        sr.save({}, tmp_path / "x", format="hdf5")


@pytest.mark.parametrize("name", ["x.pt", "x.msgpack"])
def test_shards_are_refused_where_the_format_has_none(tmp_path, name):
    with pytest.raises(errors.UnsupportedError, match="one file"):
        sr.save({"w": np.ones(3, np.float32)}, tmp_path / name, shard_bytes=10**9)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", ["npz", "pt", "dcp"])
def test_a_disk_that_is_too_small_is_said_before_the_work_starts(tmp_path, bits, monkeypatch, specimen, suffix):
    source = specimen({"a/w": bits("float32", (8, 8))})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=255))
    monkeypatch.setattr(type(source), "view", lambda *_: 1 / 0)
    with pytest.raises(errors.FileAccessError, match=r"needs 256 bytes, and the disk has 255 free"):
        sr.save(source, tmp_path / f"x.{suffix}")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_does_not_exist_is_said_before_the_work_starts(tmp_path, specimen, bits):
    told = []
    source = specimen({"w": bits("int8", (2,))})
    with pytest.raises(errors.FileMissingError, match="does not exist"):
        sr.save(source, tmp_path / "no" / "x.safetensors", progress=lambda key, nbytes: told.append(key))
    assert not told


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ({"w": np.array(["a"])}, errors.DtypeError),
        ({"w": np.array([object()])}, errors.DtypeError),
        ({"w": np.array([1], "datetime64[s]")}, errors.DtypeError),
        ({"w": np.zeros(2, np.longdouble)}, errors.DtypeError),
        ({"a//b": np.ones(2)}, errors.KeyPathError),
        ({"": np.ones(2)}, errors.KeyPathError),
        ({"a": np.ones(2), "a/b": np.ones(2)}, errors.DuplicateKeyError),
        ({1: np.ones(2)}, errors.AdapterError),
        ({"w": [1, 2]}, errors.AdapterError),
        ("x.safetensors", errors.AdapterError),
        (3.5, errors.AdapterError),
        ({"__metadata__": np.ones(2)}, errors.KeyPathError),
        ({"w": np.zeros(2, np.complex128)}, errors.UnsupportedError),
    ],
    ids=lambda value: None if isinstance(value, type) else repr(value)[:30],
)
def test_what_cannot_be_saved_is_refused_and_the_target_stays(old, unchanged, source, error):
    unchanged()
    with pytest.raises(error):
        sr.save(source, old, overwrite=True)


class HalfRaising(Mapping):
    def __iter__(self):
        return iter(("a", "b"))

    def __len__(self):
        return 2

    def __getitem__(self, key):
        if key == "b":
            raise RuntimeError("half way")
        return np.ones(2)


def test_a_mapping_that_raises_half_way_is_one_error(old, unchanged):
    unchanged()
    with pytest.raises(errors.UnsupportedError, match="RuntimeError: half way"):
        sr.save(HalfRaising(), old, overwrite=True)


class Failing:
    """Writes half of a file, then something happens."""

    name, suffixes, install, dialect = "failing", (".failing",), "", ""

    def __init__(self, error):
        self.error = error

    def sniff(self, path, head):
        return False

    def write(self, path, source, *, extra, progress):
        path.write_bytes(b"half")
        raise self.error


@pytest.mark.parametrize("sidecar", [True, False])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("bug"), KeyboardInterrupt()])
@pytest.mark.parametrize("there", [True, False])
def test_a_write_that_fails_half_way_leaves_no_trace(tmp_path, monkeypatch, unchanged, error, there, sidecar):
    failing = Failing(error)
    if sidecar:
        failing.sidecar = True
    monkeypatch.setattr("stateregistry.plugins.stores", lambda: {"failing": failing})
    path = tmp_path / "x.failing"
    if there:
        path.write_bytes(b"old")
    unchanged()
    expected = errors.FileAccessError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected):
        sr.save({"w": np.ones(2)}, path, overwrite=True)


def test_a_source_file_that_is_cut_while_it_is_saved_is_an_error_not_a_fault(tmp_path, bits):
    path = sr.save({key: bits("float32", (1000, 100)) for key in "abc"}, tmp_path / "x.safetensors")
    target = tmp_path / "y.safetensors"
    with sr.open(path) as source, pytest.raises(errors.FileFormatError, match="when it was opened"):
        sr.save(source, target, progress=lambda key, nbytes: os.truncate(path, 4096))
    assert not target.exists()


def test_a_sidecar_is_written_for_a_format_without_room(tmp_path):
    path = sr.save(Net(), tmp_path / "x.msgpack", extra={"residual": {"a": 1}})
    assert sidecar_path(path).exists()
    with sr.open(path) as found:
        assert found.document.extra == {"residual": {"a": 1}}
    sr.save({"w": np.ones(2, np.float32)}, path, overwrite=True)
    with sr.open(path) as found:
        assert list(found) == ["w"]
        assert found.aliases == {}


@pytest.mark.parametrize("there", SUFFIXES)
@pytest.mark.parametrize("here", SUFFIXES)
def test_documents_of_a_source_file_travel_on_and_those_given_win(tmp_path, here, there):
    first = sr.save(Net(), tmp_path / f"x{here}", extra={"residual": {"a": 1}, "note": 1})
    with sr.open(first) as file:
        second = sr.save(file, tmp_path / f"y{there}", extra={"note": 2, "more": 3})
        assert file.document.extra == {"residual": {"a": 1}, "note": 1}
    with sr.open(second) as file:
        assert file.document.extra == {"residual": {"a": 1}, "note": 2, "more": 3}


def test_extra_that_is_not_json_is_refused_before_the_work(tmp_path):
    for suffix in SUFFIXES:
        with pytest.raises(errors.UnsupportedError, match="JSON"):
            sr.save(Net(), tmp_path / f"x{suffix}", extra={"x": object()})
    assert not list(tmp_path.iterdir())


def test_a_path_like_object_is_a_path(tmp_path):
    class Somewhere:
        def __fspath__(self):
            return str(tmp_path / "x.safetensors")

    assert sr.save({"w": np.ones(2)}, Somewhere()) == Path(tmp_path / "x.safetensors")
    with sr.open(Somewhere()) as found:
        assert list(found) == ["w"]


def test_what_is_saved_is_what_the_store_is_given(tmp_path, monkeypatch):
    """A functional change of the store's own write is seen: the file is made by it and by nothing else."""
    seen = []
    real = store.write
    monkeypatch.setattr(
        store, "write", lambda path, source, **options: seen.append(list(source)) or real(path, source, **options)
    )
    sr.save({"b": np.ones(2), "a": np.ones(2)}, tmp_path / "x.safetensors")
    assert seen == [["a", "b"]]
