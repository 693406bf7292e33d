"""A file and the document beside it: at every moment the file that is there is described, or refused."""

from __future__ import annotations

import json

import pytest

from stateregistry import errors
from stateregistry.stores import atomic, sidecar
from stateregistry.stores.base import Document
from stateregistry.stores.limits import Limits
from stateregistry.stores.sidecar import Fingerprint, read_document, replacing_pair, sidecar_path


def doc(name):
    return Document({"w": {"kind": "buffer", "tag": name}}, {}, {"x": "w"}, name, {"residual": [1, "é"]})


def put(path, raw, name, *, overwrite=False):
    with replacing_pair(path, doc(name), overwrite=overwrite) as temporary:
        temporary.write_bytes(raw)


@pytest.fixture
def pair(tmp_path):
    path = tmp_path / "x.bin"
    put(path, b"one", "first")
    return path


def test_a_pair_is_read_back(pair):
    assert read_document(pair) == doc("first")
    assert sorted(path.name for path in pair.parent.iterdir()) == ["x.bin", "x.bin.stateregistry.json"]
    # A reader that knows nothing of pairs finds the document all the same.
    assert Document.from_json(sidecar_path(pair).read_text(), "x") == doc("first")


def test_a_replaced_pair_is_described_alone(pair):
    put(pair, b"two", "second", overwrite=True)
    assert read_document(pair) == doc("second")
    assert "before" not in json.loads(sidecar_path(pair).read_text())


def test_a_link_leads_to_the_sidecar_of_the_file(pair, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link.bin"
    link.symlink_to(pair)
    assert read_document(link) == doc("first")
    put(link, b"two", "second", overwrite=True)
    assert (pair.read_bytes(), read_document(pair), read_document(link)) == (b"two", doc("second"), doc("second"))
    assert [path.name for path in link.parent.iterdir()] == ["link.bin"]


def test_a_file_and_a_sidecar_that_are_linked_one_by_one_are_a_pair(pair, tmp_path):
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    sidecar_path(pair).rename(blobs / "def")
    pair.rename(blobs / "abc")
    pair.symlink_to(blobs / "abc")
    pair.with_name("x.bin.stateregistry.json").symlink_to(blobs / "def")
    assert read_document(pair) == doc("first")
    put(pair, b"two", "second", overwrite=True)
    assert read_document(pair) == doc("second")


def test_a_file_without_a_sidecar_has_no_document(tmp_path):
    (tmp_path / "x.bin").write_bytes(b"x")
    assert read_document(tmp_path / "x.bin") is None


def test_a_file_that_another_program_changed_is_refused(pair):
    pair.write_bytes(b"changed")
    with pytest.raises(errors.FileFormatError, match=r"another program(.|\n)*remove x\.bin\.stateregistry\.json"):
        read_document(pair)


def test_a_sidecar_that_names_no_file_is_taken_at_its_word(pair):
    sidecar_path(pair).write_text(doc("by hand").to_json())
    assert read_document(pair) == doc("by hand")


class Killed(BaseException):
    """Stands for a process that ends here: nothing that would run afterwards runs."""


@pytest.mark.parametrize("old", ["a pair", "a foreign file", "nothing"])
@pytest.mark.parametrize("moment", ["before the sidecar", "between", "before the last sidecar"])
def test_a_crash_at_any_moment_leaves_a_file_that_is_described(tmp_path, monkeypatch, old, moment):
    path = tmp_path / "x.bin"
    if old == "a pair":
        put(path, b"one", "first")
    elif old == "a foreign file":
        path.write_bytes(b"one")
    commit, undo = atomic._commit, sidecar._put_back
    done = []

    def counted(temporary, real, shown, *, overwrite):
        if len(done) == ["before the sidecar", "between", "before the last sidecar"].index(moment):
            raise Killed
        commit(temporary, real, shown, overwrite=overwrite)
        done.append(real)

    monkeypatch.setattr(atomic, "_commit", counted)
    monkeypatch.setattr(sidecar, "_put_back", lambda *_: None)
    last = old == "nothing" and moment == "before the last sidecar"
    if last:  # nothing was there before, so there is no third commit
        put(path, b"two", "second")
    else:
        with pytest.raises(Killed):
            put(path, b"two", "second", overwrite=True)
    monkeypatch.setattr(atomic, "_commit", commit)
    monkeypatch.setattr(sidecar, "_put_back", undo)
    if moment == "before the last sidecar":
        assert path.read_bytes() == b"two"
        assert read_document(path) == doc("second")
    elif old == "nothing":
        assert not path.exists()
    else:
        assert path.read_bytes() == b"one"
        assert read_document(path) == (doc("first") if old == "a pair" else None)
    put(path, b"three", "third", overwrite=True)
    assert (path.read_bytes(), read_document(path)) == (b"three", doc("third"))


@pytest.mark.parametrize("old", [True, False])
def test_a_failure_puts_the_sidecar_back_as_it_was(tmp_path, monkeypatch, old):
    path = tmp_path / "x.bin"
    if old:
        put(path, b"one", "first")
    before = {item.name: item.read_bytes() for item in tmp_path.iterdir()}
    commit = atomic._commit

    def fails_for_the_file(temporary, real, shown, *, overwrite):
        if real == path:
            raise OSError(5, "injected")
        commit(temporary, real, shown, overwrite=overwrite)

    with monkeypatch.context() as patch, pytest.raises(errors.FileAccessError, match="injected"):  # noqa: PT012
        patch.setattr(atomic, "_commit", fails_for_the_file)
        put(path, b"two", "second", overwrite=True)
    assert {item.name: item.read_bytes() for item in tmp_path.iterdir()} == before


def test_a_failure_of_the_work_touches_no_sidecar(pair):
    before = sidecar_path(pair).read_bytes()
    with pytest.raises(ValueError, match="x"), replacing_pair(pair, doc("second"), overwrite=True):
        raise ValueError("x")
    assert sidecar_path(pair).read_bytes() == before
    assert read_document(pair) == doc("first")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "\xff",
        '{"file":{}}',
        '{"file":{"bytes":"3","xxh3_128":"x"}}',
        '{"file":5}',
        '{"schema":"stateregistry.file/1","schema":1}',
        '{"schema":"other"}',
        '{"file":{"bytes":true,"xxh3_128":"x"}}',
        '{"schema":"stateregistry.file/1","file":{"bytes":3,"xxh3_128":"x"},"before":[]}',
    ],
)
def test_a_sidecar_that_cannot_be_is_refused_and_can_be_overwritten(pair, text):
    sidecar_path(pair).write_bytes(text.encode("latin-1"))
    with pytest.raises(errors.FileFormatError):
        read_document(pair)
    put(pair, b"two", "second", overwrite=True)
    assert read_document(pair) == doc("second")


def test_a_sidecar_above_the_limit_is_refused(pair):
    with pytest.raises(errors.FileFormatError, match="document_bytes=10"):
        read_document(pair, Limits(document_bytes=10))


@pytest.mark.parametrize("size", [0, 1, 16 * 2**20, 16 * 2**20 + 1, 40 * 2**20])
@pytest.mark.parametrize("at", [0, -1])
def test_a_fingerprint_sees_the_length_and_both_ends(tmp_path, size, at):
    path = tmp_path / "x"
    raw = bytearray(size)
    path.write_bytes(raw)
    one = Fingerprint.of(path)
    assert one.size == size
    path.write_bytes(raw + b"\0")
    assert Fingerprint.of(path) != one
    if size:
        raw[at] = 1
        path.write_bytes(raw)
        assert Fingerprint.of(path) != one
