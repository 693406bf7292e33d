"""Files that contradict themselves or the format: each is refused with one error that says what is wrong, and cheaply."""

from __future__ import annotations

import json
import struct
from contextlib import nullcontext

import pytest
import safetensors
import torch
from hypothesis import given
from hypothesis import strategies as st

from stateregistry import errors
from stateregistry.stores import safetensors as store
from stateregistry.stores.limits import Limits


def row(dtype="F32", shape=(2, 2), begin=0, end=16, **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end], **more}


def text(*pairs):
    """A header with names as often as they are given."""
    return (
        "{"
        + ",".join(
            f"{json.dumps(name)}:{value if isinstance(value, str) else json.dumps(value)}" for name, value in pairs
        )
        + "}"
    )


GOOD = row()
DATA = bytes(16)


def test_more_entries_than_the_limit_are_refused(forge):
    header = {str(index): row(dtype="I8", shape=[0], begin=0, end=0) for index in range(11)}
    path = forge(header)
    with store.open_within(path, Limits(entries=11)) as found:
        assert len(found) == 11
    with pytest.raises(errors.FileFormatError, match="entries=10"):
        store.open_within(path, Limits(entries=10))


def test_names_are_not_paths(forge):
    """A key is a name in a registry: nothing is ever opened by it."""
    header = {"../../etc/passwd": row(dtype="I8", shape=[1], end=1)}
    path = forge(header, b"a")
    with pytest.raises(errors.KeyPathError, match="empty segment"):
        store.open(path)
    with store.open(
        forge({"/etc/passwd": row(dtype="I8", shape=[1], end=1), "a.b": row("I8", [1], 1, 2)}, b"ab")
    ) as found:
        assert list(found) == ["a/b", "~1etc~1passwd"]
        assert bytes(found.read("~1etc~1passwd")) == b"a"


# -------------------------------------------------------------------- anything at all


VALID = text(
    ("__metadata__", {"by": "hand"}), ("a.b", row()), ("c", row("I8", [3], 16, 19)), ("d", row("BF16", [], 19, 21))
)
BYTES = st.one_of(st.sampled_from(sorted(b'{}[]",:0123456789-.eE\\ tfnullrueasdyphoFIBUC_')), st.integers(0, 255))


@given(st.lists(st.tuples(st.integers(0, len(VALID) + 28), BYTES), min_size=1, max_size=4))
def test_a_flipped_file_is_refused_wherever_the_library_refuses_it(tmp_path_factory, changes):
    """Never laxer than the format's own library, and where both read a file they read the same."""
    raw = bytearray(struct.pack("<Q", len(VALID)) + VALID.encode() + bytes(range(21)))
    for at, value in changes:
        raw[at] = value
    path = tmp_path_factory.mktemp("flipped") / "x.safetensors"
    path.write_bytes(raw)
    try:
        found = store.open(path)
    except errors.StateError:
        return
    with found, safetensors.safe_open(path, "pt") if not found.opaque else nullcontext() as library:
        for key, name in found.stored_names.items():
            value = found.read(key)
            if library is not None:
                theirs = library.get_tensor(name)
                assert (tuple(theirs.shape), str(theirs.dtype)) == (value.shape, f"torch.{value.dtype.name}")
                assert theirs.reshape(-1).view(torch.uint8).numpy().tobytes() == value.tobytes()


# -------------------------------------------------------------------- our own metadata, forged


def document(**parts):
    return {"schema": "stateregistry.file/1", **parts}


def forged(forge, body, names=("w",)):
    metadata = {"stateregistry": body if isinstance(body, str) else json.dumps(body)}
    header = {"__metadata__": metadata}
    header |= {name: row(begin=16 * index, end=16 * index + 16) for index, name in enumerate(names)}
    return forge(header, bytes(16 * len(names)))


def test_an_array_that_was_added_to_our_file_is_inferred(forge):
    """Another program keeps `__metadata__` and adds an array: what the document does not speak of is like foreign."""
    body = document(entries={"w": {"kind": "buffer"}})
    with store.open(forged(forge, body, names=("w", "v"))) as found:
        assert not found["w"].inferred
        assert found["v"].inferred
