"""`sr.open`: the content decides, a suffix that disagrees is an error, and nothing is guessed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import stateregistry as sr
from stateregistry import errors, plugins
from stateregistry.entry import Entry, Kind
from stateregistry.stores.limits import Limits


@pytest.fixture
def files(tmp_path):
    """One state in every format that is installed."""
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 3), torch.nn.BatchNorm2d(3))
    model[0].bias.requires_grad_(False)
    return model, {name: sr.save(model, tmp_path / f"x{suffix}") for name, suffix in FORMATS.items()}


FORMATS = {"safetensors": ".safetensors", "torch": ".pt", "flax-msgpack": ".msgpack"}


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_is_opened_by_its_content(tmp_path, files, name):
    model, paths = files
    expected = sr.of(model)
    bare = paths[name].rename(tmp_path / "no-suffix")
    if name == "flax-msgpack":
        Path(f"{paths[name]}.stateregistry.json").rename(tmp_path / "no-suffix.stateregistry.json")
    with sr.open(str(bare)) as found:
        assert found.adapter == name
        assert dict(found) == dict(expected)
        for key in found:
            assert found.read(key).tobytes() == expected.read(key).tobytes()


@pytest.mark.parametrize(("name", "other"), [(a, b) for a in FORMATS for b in FORMATS if a != b])
def test_a_suffix_that_disagrees_with_the_content_is_refused_and_both_are_named(tmp_path, files, name, other):
    _, paths = files
    wrong = tmp_path / f"wrong{FORMATS[other]}"
    wrong.write_bytes(paths[name].read_bytes())
    with pytest.raises(errors.FileFormatError, match=f"suffix says '{other}', and its content is '{name}'") as caught:
        sr.open(wrong)
    assert f"format='{name}'" in str(caught.value)
    with sr.open(wrong, format=name) as found:
        assert found.adapter == name
    with pytest.raises(errors.FileFormatError, match=f"was to be read as '{other}', and its content is '{name}'"):
        sr.open(wrong, format=other)


def test_an_upper_case_suffix_is_a_suffix(tmp_path, files):
    path = files[1]["torch"].rename(tmp_path / "X.PT")
    with sr.open(path) as found:
        assert found.adapter == "torch"


@pytest.mark.parametrize("raw", [b"", b"hello world", b"\x7fELF\2\1\1", b"PK\x05\x06" + bytes(18), bytes(5000)])
@pytest.mark.parametrize("name", ["x.bin", "x.safetensors", "x"])
def test_unknown_content_is_refused_and_what_is_known_is_listed(tmp_path, raw, name):
    path = tmp_path / name
    path.write_bytes(raw)
    with pytest.raises(errors.FileFormatError, match="no known format") as caught:
        sr.open(path)
    assert "safetensors, torch" in str(caught.value)
    assert ("suffix says" in str(caught.value)) == (name != "x")
    assert ("is empty" in str(caught.value)) == (not raw)


def test_a_format_that_is_not_installed_is_refused(tmp_path, files):
    with pytest.raises(errors.AdapterError, match=r"no store 'hdf5'; installed: flax-msgpack, .*safetensors, torch"):
        sr.open(files[1]["torch"], format="hdf5")


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        sr.open(tmp_path / "no.pt")
    assert isinstance(caught.value, errors.FileMissingError)
    assert "no.pt" in str(caught.value)
    with pytest.raises(errors.FileMissingError):
        sr.open(f"{tmp_path / 'no.pt'}::model")


def test_a_dangling_link_is_no_file(tmp_path):
    link = tmp_path / "x.pt"
    link.symlink_to(tmp_path / "nowhere")
    with pytest.raises(errors.StateError, match=r"x\.pt"):
        sr.open(link)


def test_a_directory_is_no_file(tmp_path):
    with pytest.raises(errors.FileAccessError, match="is a directory"):
        sr.open(tmp_path)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.pt")
    with pytest.raises(errors.FileAccessError, match="not a regular file"):
        sr.open(tmp_path / "x.pt")


def test_a_file_that_may_not_be_read_is_said_so(tmp_path, monkeypatch):
    path = tmp_path / "x.pt"
    path.write_bytes(b"x")

    def refuse(self, *args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(errors.FileAccessError, match="Permission denied") as caught:
        sr.open(path)
    assert isinstance(caught.value, OSError)


# -------------------------------------------------------------------- parts and limits


def test_a_part_of_a_torch_file_is_opened_by_its_spelling(tmp_path):
    path = tmp_path / "trainer.pt"
    torch.save({"model": {"a.w": torch.ones(2)}, "ema": {"inner": {"w": torch.zeros(3)}}, "epoch": 1}, path)
    with pytest.raises(errors.FileFormatError, match="more than one state"):
        sr.open(path)
    with sr.open(f"{path}::model") as found:
        assert list(found) == ["a/w"]
    with sr.open(f"{path}::ema.inner") as found:
        assert list(found) == ["w"]
    with sr.open(f"{path}::.") as found:
        assert set(found.opaque) == {"model", "ema", "epoch"}
    with pytest.raises(errors.FileFormatError, match="no part 'x'"):
        sr.open(f"{path}::x")


def test_a_file_with_colons_in_its_name_is_a_file(tmp_path):
    path = tmp_path / "a::b.pt"
    torch.save({"w": torch.ones(2)}, path)
    with sr.open(path) as found:
        assert list(found) == ["w"]


@pytest.mark.parametrize("spelling", ["x.pt::", "::model"])
def test_half_of_a_part_spelling_is_refused(spelling):
    with pytest.raises(errors.KeyPathError, match="::"):
        sr.open(spelling)


def test_a_part_of_a_file_that_has_none_is_refused(files):
    with pytest.raises(errors.UnsupportedError, match="holds one state"):
        sr.open(f"{files[1]['safetensors']}::model")


@pytest.mark.parametrize("name", FORMATS)
def test_limits_reach_the_reader(files, name):
    with pytest.raises(errors.FileFormatError, match="entries=2"):
        sr.open(files[1][name], limits=Limits(entries=2))


# -------------------------------------------------------------------- stores that overlap


class Fake:
    install = dialect = ""

    def __init__(self, name, suffixes):
        self.name, self.suffixes = name, suffixes

    def sniff(self, path, head):
        return head.startswith(b"FAKE")

    def open(self, path):
        return self.name

    def write(self, path, source, *, extra, progress):
        path.write_bytes(b"FAKE")


@pytest.fixture
def twins(monkeypatch):
    found = {"one": Fake("one", (".one", ".both")), "two": Fake("two", (".two", ".both"))}
    monkeypatch.setattr(plugins, "stores", lambda: found)
    return found


@pytest.mark.parametrize(("name", "opened"), [("x.one", "one"), ("x.two", "two")])
def test_a_suffix_decides_between_formats_that_begin_alike(tmp_path, twins, name, opened):
    (tmp_path / name).write_bytes(b"FAKE")
    assert sr.open(tmp_path / name) == opened


def test_limits_for_a_store_without_any_are_refused(tmp_path, twins):
    (tmp_path / "x.one").write_bytes(b"FAKE")
    with pytest.raises(errors.UnsupportedError, match="no limits"):
        sr.open(tmp_path / "x.one", limits=Limits(entries=2))


@pytest.mark.parametrize("name", ["x", "x.both"])
def test_content_that_could_be_two_formats_is_refused(tmp_path, twins, name):
    (tmp_path / name).write_bytes(b"FAKE")
    with pytest.raises(errors.FileFormatError, match="'one' or 'two'"):
        sr.open(tmp_path / name)


def test_a_suffix_that_stands_for_two_formats_names_none_to_write(tmp_path, twins):
    with pytest.raises(errors.UnsupportedError, match="'one' or 'two'"):
        sr.save({}, tmp_path / "x.both")


# -------------------------------------------------------------------- like=


@pytest.fixture
def bare(tmp_path):
    """A foreign file: nothing in it says a kind."""
    state = {
        "scale": torch.ones(2),
        "table": torch.ones(3),
        "codes": torch.ones(2, dtype=torch.int32),
        "own": torch.ones(1),
    }
    torch.save(state, tmp_path / "bare.pt")
    return tmp_path / "bare.pt"


class Live(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(2), requires_grad=False)
        self.register_buffer("table", torch.ones(3))
        self.codes = torch.nn.Parameter(torch.ones(2))  # floating here, integers in the file


def test_a_live_side_says_the_kinds_that_a_file_does_not(bare):
    with sr.open(bare) as plain, sr.open(bare, like=Live()) as found, sr.open(bare, like=sr.of(Live())) as same:
        assert dict(found) == dict(same)
        assert {key: (entry.kind, entry.trainable, entry.inferred) for key, entry in found.items()} == {
            "scale": (Kind.PARAMETER, False, False),
            "table": (Kind.BUFFER, False, False),
            "codes": (Kind.PARAMETER, False, False),
            "own": (Kind.PARAMETER, True, True),
        }
        assert found["table"].tag == sr.of(Live())["table"].tag
        assert all(plain[key].inferred for key in plain)
        assert found.read("table").tobytes() == plain.read("table").tobytes()
        assert found.native_order == plain.native_order


def test_what_our_document_says_is_not_inferred_and_stays(tmp_path, bits, specimen):
    entry = Entry(Kind.BUFFER, (3,), "float32", tag="batch_stats")
    path = sr.save(specimen({"table": bits("float32", (3,))}, {"table": entry}), tmp_path / "x.safetensors")
    live = torch.nn.Module()
    live.table = torch.nn.Parameter(torch.ones(3))
    with sr.open(path, like=live) as found:
        assert found["table"] == entry
        assert found["table"].tag == "batch_stats"


def test_a_tie_of_the_live_side_speaks_for_both_names(tmp_path):
    torch.save({"a": torch.ones(2), "b": torch.zeros(2)}, tmp_path / "x.pt")
    live = torch.nn.Module()
    live.a = torch.nn.Parameter(torch.ones(2), requires_grad=False)
    live.b = live.a
    with sr.open(tmp_path / "x.pt", like=live) as found:
        assert [found[key].trainable for key in ("a", "b")] == [False, False]
        assert found.aliases == {}


def test_a_like_that_nobody_knows_is_refused_and_the_file_closed(bare):
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        with pytest.raises(errors.AdapterError):
            sr.open(bare, like=object())
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


# -------------------------------------------------------------------- what is loaded


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import stateregistry.stores", "numpy torch jax flax safetensors json"),
        ("from stateregistry.stores import safetensors; assert safetensors.name == 'safetensors'", "torch jax flax"),
        ("import stateregistry as sr; sr.open; sr.save", "torch jax flax"),
        (
            "from importlib.metadata import entry_points as e; [p.load() for p in e(group='stateregistry.stores')]",
            "torch jax flax",
        ),
    ],
)
def test_the_stores_load_no_framework(code, absent):
    code += f"\nimport sys; print([name for name in {absent.split()!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_guard_against_loading_can_fail():
    code = "import numpy, sys; print([name for name in ['numpy'] if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['numpy']"


def test_a_name_that_the_package_lacks_is_an_attribute_error():
    import stateregistry.stores

    with pytest.raises(AttributeError, match="nothing_here"):
        _ = stateregistry.stores.nothing_here


def test_a_file_written_by_numpy_is_not_taken_for_a_torch_archive(tmp_path):
    np.savez(tmp_path / "x.npz", w=np.ones(2))
    with sr.open(tmp_path / "x.npz") as found:
        assert found.adapter == "npz"
    (tmp_path / "x.npz").rename(tmp_path / "x.pt")
    with pytest.raises(errors.FileFormatError, match="its suffix says 'torch', and its content is 'npz'"):
        sr.open(tmp_path / "x.pt")


def test_a_directory_that_may_not_be_looked_into_is_one_error(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "closed").mkdir()
    monkeypatch.setattr(Path, "is_file", refuse)
    with pytest.raises(errors.FileAccessError, match="closed: cannot be read: Permission denied"):
        sr.open(tmp_path / "closed")
