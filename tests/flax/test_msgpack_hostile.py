"""Damaged and hostile msgpack files: one clear error, nothing executed, no memory taken for what is only announced."""

from __future__ import annotations

import resource
import struct

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


@pytest.mark.parametrize("cut", [*range(1, 30), len(GOOD) - 1])
def test_a_file_that_is_cut_off_is_refused(tmp_path, cut):
    assert isinstance(refused(tmp_path, GOOD[:cut]), errors.FileFormatError)


def test_an_empty_file_is_refused(tmp_path):
    assert isinstance(refused(tmp_path, b""), errors.FileFormatError)


@pytest.mark.parametrize("more", [b"\x00", b"\xc0", GOOD])
def test_bytes_after_the_end_are_refused(tmp_path, more):
    assert isinstance(refused(tmp_path, GOOD + more), errors.FileFormatError)


@pytest.mark.parametrize(
    ("shape", "dtype", "data"),
    [
        ([2, 3], F4, bytes(23)),
        ([2, 3], F4, bytes(25)),
        ([2, 4], F4, bytes(24)),
        ([-1, 6], F4, bytes(24)),
        ([-2, -3], F4, bytes(24)),
        ([2.0, 3], F4, bytes(24)),
        ([True, 6], F4, bytes(24)),
        ("23", F4, bytes(24)),
        (6, F4, bytes(24)),
        ([[6]], F4, bytes(24)),
        ([2**63, 0], F4, b""),
        ([0, 2**62, 2**62], F4, b""),
        ([2**32, 2**32], F4, bytes(24)),
        ([6], ">f4", bytes(24)),
        ([6], "f4", bytes(24)),
        ([6], "V4", bytes(24)),
        ([6], "object", bytes(48)),
        ([6], "str32", bytes(24)),
        ([6], "", bytes(24)),
        ([6], 4, bytes(24)),
        ([6], F4, None),
        ([6], F4, [0] * 6),
        ([1] * 65, F4, bytes(4)),
    ],
)
def test_an_array_that_is_not_what_it_says_is_refused(tmp_path, shape, dtype, data):
    assert isinstance(refused(tmp_path, document(record(shape, dtype, data))), errors.FileFormatError)


@pytest.mark.parametrize(
    "body",
    [
        reference.packb((([2], F4, bytes(8)), 1)),
        reference.packb(([2], F4, bytes(8), 1)),
        reference.packb(([2], F4, bytes(8))) + b"\x00",
        reference.packb(([2], F4, bytes(8)))[:-1],
        reference.packb(3),
        b"",
        b"\x93\x91\x02\xa7float32\xc6\xff\xff\xff\xff" + bytes(8),
    ],
)
def test_a_record_that_is_no_array_record_is_refused(tmp_path, body):
    assert isinstance(refused(tmp_path, document(reference.ExtType(1, body))), errors.FileFormatError)


@pytest.mark.parametrize(
    "data",
    [
        b"\x82\xa6params\x81\xa1w\xc0\xa6params\x81\xa1w\xc0",
        b"\x81\xa6params\x82\xa1w\xc0\xa1w\xc0",
        reference.packb({"params": {1: None}}),
        reference.packb({"params": {None: 1}}),
        reference.packb({b"params": {}}),
        reference.packb([{"params": {}}]),
        reference.packb("params"),
        reference.packb(3),
        b"\xc1",
        b"\x81\xa6params\xc1",
        b"\x81\xa2\xff\xfe\x01",
    ],
    ids=[
        "top-twice",
        "name-twice",
        "int-name",
        "none-name",
        "bytes-name",
        "list",
        "str",
        "int",
        "c1",
        "inner-c1",
        "utf8",
    ],
)
def test_a_structure_that_flax_does_not_write_is_refused(tmp_path, data):
    assert isinstance(refused(tmp_path, data), errors.FileFormatError)


@pytest.mark.parametrize(
    "head",
    [
        b"\xdf\xff\xff\xff\xff",
        b"\xdf\x7f\xff\xff\xff\xa1a",
        b"\x81\xa6params\xdd\xff\xff\xff\xff",
        b"\x81\xa6params\xc6\xff\xff\xff\xff",
        b"\x81\xa6params\xdb\xff\xff\xff\xff",
        b"\x81\xa6params\xc9\xff\xff\xff\xff\x01",
        b"\xde\xff\xff\xdb\xff\xff\xff\xff",
    ],
)
def test_lengths_beyond_the_file_take_no_memory(tmp_path, head):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert isinstance(refused(tmp_path, head), errors.FileFormatError)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**15


@pytest.mark.parametrize("opening", [b"\x81\xa1a", b"\x91"])
def test_nesting_without_end_is_refused(tmp_path, opening):
    error = refused(tmp_path, b"\x81\xa6params" + opening * 100_000 + b"\xc0")
    assert isinstance(error, errors.FileFormatError)
    assert "nesting" in str(error)


def chunked(shape, chunks, marker=True, **more):
    return reference.packb(
        {"params": {"w": {"__msgpack_chunked_array__": marker, "shape": shape, "chunks": chunks, **more}}}
    )


HALF = record([3], F4, bytes(range(12)))


def test_good_chunks_are_joined(tmp_path, same):
    with opened(tmp_path, chunked({"0": 2, "1": 3}, {"0": HALF, "1": HALF})) as file:
        same(file.read("w"), np.frombuffer(bytes(range(12)) * 2, np.float32).reshape(2, 3))


@pytest.mark.parametrize(
    "data",
    [
        chunked({"0": 2, "1": 4}, {"0": HALF, "1": HALF}),
        chunked({"0": 2, "1": 3}, {"0": HALF}),
        chunked({"0": 2, "1": 3}, {"0": HALF, "2": HALF}),
        chunked({"0": 2, "2": 3}, {"0": HALF, "1": HALF}),
        chunked({"0": 2, "1": 3}, {"0": HALF, "1": record([3], "int32", bytes(12))}),
        chunked({"0": 2, "1": 3}, {"0": HALF, "1": record([3, 1], F4, bytes(12))}),
        chunked({"0": 2, "1": 3}, {"0": HALF, "1": 3}),
        chunked({"0": 2, "1": 3}, {}),
        chunked({}, {}),
        chunked({"0": -2, "1": -3}, {"0": HALF, "1": HALF}),
        chunked({"0": 2, "1": "3"}, {"0": HALF, "1": HALF}),
        chunked([2, 3], {"0": HALF, "1": HALF}, marker=False),
        chunked({"0": 6}, {"0": HALF, "1": HALF}, marker=1),
        chunked({"0": 6}, {"0": HALF, "1": HALF}, other=1),
        chunked(None, None),
        chunked(HALF, HALF),
        reference.packb({"params": {"w": {"__msgpack_chunked_array__": True}}}),
    ],
)
def test_chunks_that_do_not_fit_are_refused(tmp_path, data):
    assert isinstance(refused(tmp_path, data), errors.FileFormatError)


def test_a_bool_that_is_none_is_refused_when_it_is_read(tmp_path):
    with opened(tmp_path, document(record([2], "bool", b"\x01\x02"))) as file:
        assert file["w"].dtype == "bool"
        for look in (file.read, file.view):
            with pytest.raises(errors.FileFormatError):
                look("w")


def test_unknown_extensions_are_opaque_and_not_run(tmp_path):
    data = reference.packb({"params": {"e": reference.ExtType(77, b"cos\nsystem\n"), "t": reference.Timestamp(0)}})
    with opened(tmp_path, data) as file:
        assert set(file.opaque) == {"e", "t"}


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


def test_a_header_of_a_large_map_of_nothing_is_refused_quickly(tmp_path):
    assert isinstance(refused(tmp_path, b"\xdf" + struct.pack(">I", 2**31) + b"\xa0" * 100), errors.FileFormatError)
