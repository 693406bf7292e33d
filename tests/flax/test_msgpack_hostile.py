"""Damaged and hostile msgpack files: one clear error, nothing executed, no memory taken for what is only announced."""

from __future__ import annotations

import msgpack as reference
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import stateregistry as sr
from stateregistry import errors
from stateregistry.stores.limits import Limits

F4 = "float32"


def record(shape, dtype, data, code=1):
    return reference.ExtType(code, reference.packb((shape, dtype, data)))


def document(leaf):
    return reference.packb({"params": {"w": leaf}})


GOOD = document(record([2, 3], F4, bytes(range(24))))


def opened(tmp_path, data, **limits):
    path = tmp_path / "x.msgpack"
    path.write_bytes(data)
    return sr.open(path, format="flax-msgpack", limits=Limits(**limits))


def refused(tmp_path, data, **limits):
    with pytest.raises(errors.StateError) as caught:
        opened(tmp_path, data, **limits)
    return caught.value


def test_the_good_file_opens(tmp_path, same):
    with opened(tmp_path, GOOD) as file:
        same(file.read("w"), np.frombuffer(bytes(range(24)), np.float32).reshape(2, 3))


def chunked(shape, chunks, marker=True, **more):
    return reference.packb(
        {"params": {"w": {"__msgpack_chunked_array__": marker, "shape": shape, "chunks": chunks, **more}}}
    )


HALF = record([3], F4, bytes(range(12)))


def test_good_chunks_are_joined(tmp_path, same):
    with opened(tmp_path, chunked({"0": 2, "1": 3}, {"0": HALF, "1": HALF})) as file:
        same(file.read("w"), np.frombuffer(bytes(range(12)) * 2, np.float32).reshape(2, 3))


def test_limits_are_kept(tmp_path):
    many = reference.packb({"params": {f"w{index}": record([], F4, bytes(4)) for index in range(20)}})
    assert "entries" in str(refused(tmp_path, many, entries=19))
    assert "rank" in str(refused(tmp_path, document(record([1, 1, 1], F4, bytes(4))), rank=2))
    assert "name_chars" in str(refused(tmp_path, reference.packb({"params": {"n" * 30: None}}), name_chars=20))
    assert len(opened(tmp_path, many, entries=20)) == 20


def test_a_file_that_shrinks_while_it_is_open_is_an_error_and_no_crash(tmp_path):
    with opened(tmp_path, document(record([2**18], F4, bytes(2**20)))) as file:
        (tmp_path / "x.msgpack").write_bytes(GOOD)
        for look in (file.read, file.view):
            with pytest.raises(errors.FileFormatError):
                look("w")


@given(st.data())
def test_a_flipped_or_inserted_byte_never_escapes_as_another_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("fuzz") / "x.msgpack"
    good = bytearray(reference.packb({
        "params": {"a": {"w": record([2, 3], F4, bytes(24)), "b": record([], "bool", b"\x01")}, "n": None, "i": 300},
        "batch_stats": {"big": {"__msgpack_chunked_array__": True, "shape": {"0": 6}, "chunks": {"0": HALF, "1": HALF}}},
    }))  # fmt: skip
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(good) - 1))
        if data.draw(st.booleans()):
            good[place] = data.draw(st.integers(0, 255))
        else:
            good[place:place] = data.draw(st.binary(min_size=1, max_size=5))
    path.write_bytes(good)
    try:
        with sr.open(path, format="flax-msgpack") as file:
            for key in file:
                value = file.read(key)
                assert (value.shape, value.dtype.name) == (file[key].shape, file[key].dtype)
    except errors.StateError:
        pass


PLAIN = st.none() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.booleans() | st.text() | st.binary()


@given(st.recursive(PLAIN, lambda inner: st.lists(inner) | st.dictionaries(st.text(min_size=1), inner), max_leaves=20))
def test_every_document_of_plain_values_is_scanned_to_its_end(tmp_path_factory, tree):
    """No arrays, so no entries: what counts is that nothing is misread and every leaf is named."""
    path = tmp_path_factory.mktemp("plain") / "x.msgpack"
    path.write_bytes(reference.packb({"params": {"tree": tree}}))
    with sr.open(path, format="flax-msgpack") as file:
        assert len(file) == 0
        assert len(file.opaque) == leaves(tree)


def leaves(tree):
    if isinstance(tree, dict):
        return sum(map(leaves, tree.values()))
    if isinstance(tree, list):
        return sum(map(leaves, tree))
    return int(tree is not None)
