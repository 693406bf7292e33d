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
#: Fault class -> header, values, what the error says.
HEADERS = {
    "empty header": (b"", DATA, "header is said"),
    "one byte": (b"{", b"", "at least 10|header is said"),
    "not json": (b"{]", DATA, "not the JSON"),
    "an array at the top": ("[]", DATA, "begins with"),
    "a number at the top": ("12", DATA, "begins with"),
    "a space before the brace": (" " + text(("w", GOOD)), DATA, "begins with"),
    "a byte order mark": ("\ufeff" + text(("w", GOOD)), DATA, "begins with"),
    "two objects": (text(("w", GOOD)) + "{}", DATA, "not the JSON"),
    "bad utf-8": (b'{"\xff\xfe":1}', DATA, "not the JSON"),
    "cut utf-8": (b'{"\xe2\x82":1}', DATA, "not the JSON"),
    "half a surrogate pair": (text(("w", GOOD)).replace('"w"', '"\\ud800"'), DATA, "surrogate"),
    "a raw control character": (b'{"a\x01":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}', DATA, "not the JSON"),
    "nan": (text(("w", '{"dtype":"F32","shape":[NaN],"data_offsets":[0,16]}')), DATA, "NaN"),
    "infinity": (text(("w", '{"dtype":"F32","shape":[2,2],"data_offsets":[0,Infinity]}')), DATA, "Infinity"),
    "a fraction": (text(("w", '{"dtype":"F32","shape":[2,2],"data_offsets":[0,16.0]}')), DATA, "16.0"),
    "an exponent": (text(("w", '{"dtype":"F32","shape":[2,2],"data_offsets":[0,1e1]}')), DATA, "1e1"),
    "deep nesting": ('{"w":' + "[" * 200_000 + "]" * 200_000 + "}", DATA, "too deep|not the JSON"),
    "deep objects": ('{"w":' * 100_000 + "1" + "}" * 100_000, DATA, "too deep|not the JSON"),
    "an integer of 5,000 digits": (
        text(("w", row(begin=0, end=0))).replace("[2, 2]", f"[{'9' * 5000}]"),
        b"",
        "not the JSON",
    ),
    "an integer of 4,000 digits": (
        text(("w", row(begin=0, end=0))).replace("[2, 2]", f"[{'9' * 4000}]"),
        b"",
        "more elements",
    ),
    "a name twice": (text(("w", GOOD), ("w", row(dtype="I32", shape=[4]))), DATA, "stands twice"),
    "a name twice, once escaped": (text(("w", GOOD), ("v", GOOD)).replace('"v"', '"\\u0077"'), DATA, "stands twice"),
    "a field twice": (
        text(("w", '{"dtype":"F32","dtype":"I32","shape":[2,2],"data_offsets":[0,16]}')),
        DATA,
        "each once",
    ),
    "metadata twice": (text(("__metadata__", {}), ("__metadata__", {}), ("w", GOOD)), DATA, "stands twice"),
    "a metadata text twice": (text(("__metadata__", '{"a":"1","a":"2"}'), ("w", GOOD)), DATA, "stands twice"),
    "metadata of numbers": (text(("__metadata__", {"a": 1}), ("w", GOOD)), DATA, "object of texts"),
    "metadata that nests": (text(("__metadata__", {"a": {"b": "c"}}), ("w", GOOD)), DATA, "object of texts"),
    "metadata that is a list": (text(("__metadata__", ["a"]), ("w", GOOD)), DATA, "object of texts"),
    "metadata that is null": (text(("__metadata__", None), ("w", GOOD)), DATA, "object of texts"),
    "an unknown field": ({"w": row(strides=[1])}, DATA, "expected dtype, shape and data_offsets"),
    "no dtype": ({"w": {"shape": [2, 2], "data_offsets": [0, 16]}}, DATA, "expected dtype"),
    "no offsets": ({"w": {"dtype": "F32", "shape": [2, 2]}}, DATA, "expected dtype"),
    "a row that is a number": ({"w": 5}, DATA, "not an object"),
    "a row that is a list of pairs": (
        {"w": [["dtype", "F32"], ["shape", [2, 2]], ["data_offsets", [0, 16]]]},
        DATA,
        "not an object",
    ),
    "a row that is a text": ({"w": "abc"}, DATA, "not an object"),
    "a row that is null": ({"w": None}, DATA, "not an object"),
    "a dtype that is a number": ({"w": row(dtype=5)}, DATA, "dtype"),
    "a dtype that is a list": ({"w": row(dtype=["F32"])}, DATA, "dtype"),
    "a dtype that is a sentence": ({"w": row(dtype="float32; DROP")}, DATA, "not a dtype"),
    "a shape that is a text": ({"w": {**GOOD, "shape": "22"}}, DATA, "list of sizes"),
    "a shape that is an object": (
        {"w": {**GOOD, "shape": {}}, "v": row(shape=[], begin=16, end=20)},
        bytes(20),
        "list of sizes",
    ),
    "a shape that is null": ({"w": {**GOOD, "shape": None}}, DATA, "list of sizes"),
    "a negative size": ({"w": row(shape=[-2, -2])}, DATA, "list of sizes"),
    "a size that is a text": ({"w": row(shape=["2", "2"])}, DATA, "list of sizes"),
    "a size that is true": (
        {"a": row(shape=[1], end=4), "b": row(shape=[True], begin=4, end=8)},
        bytes(8),
        "list of sizes",
    ),
    "a size that is a list": ({"w": row(shape=[[2], 2])}, DATA, "list of sizes"),
    "too many axes": ({"w": row(shape=[1] * 65, end=4)}, bytes(4), "rank=64"),
    "a million axes": ({"w": row(shape=[1] * 1_000_001, end=4)}, bytes(4), "rank=64"),
    "a product above 2**64": ({"w": row(shape=[2**32, 2**32, 4], end=0)}, b"", "more elements"),
    "a product that wraps to 16 bytes": ({"w": row(shape=[2**62 + 1, 4])}, DATA, "more elements"),
    "an empty array that NumPy cannot hold": ({"w": row(shape=[0, 2**62, 2**62], end=0)}, b"", "more elements"),
    "10 GB declared": ({"w": row(shape=[50_000, 50_000], end=10_000_000_000)}, DATA, "outside of the file"),
    "size and shape disagree": ({"w": row(shape=[2, 3])}, DATA, "takes 24 bytes"),
    "half a byte": ({"w": row(dtype="F4", shape=[3], end=2)}, b"ab", "whole bytes"),
    "offsets that are a text": ({"w": {**GOOD, "data_offsets": "0,16"}}, DATA, "pair of integers"),
    "offsets that are three": ({"w": {**GOOD, "data_offsets": [0, 16, 16]}}, DATA, "pair of integers"),
    "offsets that are true": ({"w": row(dtype="I8", shape=[1], begin=False, end=True)}, b"a", "pair of integers"),
    "offsets that run backwards": ({"w": row(begin=16, end=0)}, DATA, "outside"),
    "a negative offset": ({"w": row(begin=-16, end=0)}, DATA, "outside"),
    "an offset beyond the end": ({"w": row(begin=16, end=32)}, DATA, "outside"),
    "an offset above 2**64": ({"w": row(begin=2**64, end=2**64 + 16)}, DATA, "outside"),
    "a hole": ({"a": row(), "b": row(begin=20, end=36)}, bytes(36), "hole"),
    "a hole at the beginning": ({"a": row(begin=4, end=20)}, bytes(20), "hole"),
    "an overlap": ({"a": row(), "b": row(begin=8, end=24)}, bytes(24), "overlaps"),
    "one range under two names": ({"a": row(), "b": row()}, DATA, "overlaps"),
    "an empty array inside another": ({"a": row(), "b": row(shape=[0], begin=8, end=8)}, DATA, "overlaps"),
    "bytes after the last array": ({"w": GOOD}, bytes(17), "follow the last array"),
    "values without an array": ({}, DATA, "follow the last array"),
    "truncated values": ({"w": GOOD}, bytes(15), "outside"),
    "an empty name": ({"": GOOD}, DATA, "empty segment"),
    "an empty segment": ({"a..b": GOOD}, DATA, "empty segment"),
    "a name inside another": ({"a": row(), "a.b": row(begin=16, end=32)}, bytes(32), "'a' is an array and holds 'a.b'"),
    "a very long name": ({"x" * 5000: GOOD}, DATA, "name_chars"),
}


@pytest.mark.parametrize("fault", HEADERS)
def test_a_file_that_cannot_be_is_refused(forge, bounded, fault):
    header, data, says = HEADERS[fault]
    path = forge(header, data)
    with bounded(path.stat().st_size), pytest.raises(errors.StateError, match=says) as caught:
        store.open(path)
    assert str(path) in str(caught.value)
    assert isinstance(caught.value, (errors.FileFormatError, errors.KeyPathError, errors.DuplicateKeyError))
    assert len(str(caught.value)) < 20_000


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 100_000_001, 2**32, 5000, 0, 1])
def test_a_header_length_that_cannot_be_is_refused(forge, bounded, length):
    path = forge({"w": GOOD}, DATA, length=length)
    with bounded(path.stat().st_size), pytest.raises(errors.FileFormatError, match="header"):
        store.open(path)


@pytest.mark.parametrize("size", range(0, 90, 7))
def test_a_file_cut_anywhere_is_refused(forge, size):
    path = forge({"w": GOOD}, DATA)
    raw = path.read_bytes()
    path.write_bytes(raw[: min(size, len(raw) - 1)])
    with pytest.raises(errors.FileFormatError):
        store.open(path)


def test_a_bool_that_is_neither_true_nor_false_is_refused_when_it_is_read(forge):
    with store.open(forge({"w": row(dtype="BOOL", shape=[3], end=3)}, b"\0\1\2")) as found:
        for how in (found.read, found.view):
            with pytest.raises(errors.FileFormatError, match="byte 2, expected 0 or 1"):
                how("w")


def test_more_entries_than_the_limit_are_refused(forge):
    header = {str(index): row(dtype="I8", shape=[0], begin=0, end=0) for index in range(11)}
    path = forge(header)
    with store.open_within(path, Limits(entries=11)) as found:
        assert len(found) == 11
    with pytest.raises(errors.FileFormatError, match="entries=10"):
        store.open_within(path, Limits(entries=10))


def test_a_header_of_many_values_is_refused_before_it_is_parsed(forge, bounded):
    path = forge('{"w":[' + "0," * 20_000_000 + "0]}")
    with bounded(path.stat().st_size), pytest.raises(errors.FileFormatError, match="entries=1,000,000"):
        store.open(path)


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


DOCUMENTS = {
    "not json": ("{", "not JSON"),
    "not an object": ("[1]", "expected an object"),
    "nests deep": ('{"a":' + "[" * 100_000, "not JSON"),
    "nan": ('{"schema":NaN}', "not JSON"),
    "another schema": ({"schema": "stateregistry.file/9"}, "update stateregistry"),
    "no schema": ({}, "update stateregistry"),
    "a name twice": ('{"schema":"stateregistry.file/1","schema":"stateregistry.file/1"}', "twice"),
    "entries that are a list": (document(entries=[]), "wrong type: entries"),
    "an entry that is a text": (document(entries={"w": "parameter"}), "wrong type: entries"),
    "names that are numbers": (document(names={"w": 1}), "wrong type: names"),
    "aliases that are lists": (document(aliases={"x": ["w"]}), "wrong type: aliases"),
    "a dialect that is a list": (document(dialect=["torch"]), "wrong type: dialect"),
    "an order of texts": (document(order=["w"]), "wrong type: order"),
    "an order of true": (document(order=[True]), "wrong type: order"),
    "an order that is none": (document(order=[1]), "native order"),
    "an order that is too long": (document(order=[0, 0]), "native order"),
    "a kind that is none": (document(entries={"w": {"kind": "weight"}}), "metadata of 'w'"),
    "a kind that is missing": (document(entries={"w": {}}), "metadata of 'w'"),
    "a kind that is a list": (document(entries={"w": {"kind": ["parameter"]}}), "metadata of 'w'"),
    "a buffer that is trainable": (document(entries={"w": {"kind": "buffer", "trainable": True}}), "metadata of 'w'"),
    "a flag that is a number": (document(entries={"w": {"kind": "buffer", "rng": 1}}), "metadata of 'w'"),
    "a tag that is a number": (document(entries={"w": {"kind": "buffer", "tag": 1}}), "metadata of 'w'"),
    "an entry that is not stored": (
        document(entries={"w": {"kind": "buffer"}, "x": {"kind": "buffer"}}),
        "not stored: x",
    ),
    "a name that is not stored": (document(names={"w": "nowhere"}), "not there: w"),
    "one name for two keys": (document(names={"a": "w", "b": "w"}), "two keys"),
    "an illegal key": (document(names={"a//b": "w"}), "illegal key"),
    "an alias of nothing": (document(aliases={"x": "nowhere"}), "cannot be"),
    "an alias that is an entry": (document(aliases={"w": "w"}), "cannot be"),
    "an alias less than its key": (document(aliases={"a": "w"}), "cannot be"),
    "an alias of an alias": (document(aliases={"x": "w", "y": "x"}), "cannot be"),
    "an alias with an illegal key": (document(aliases={"x~2": "w"}), "illegal key"),
    "an alias inside an entry": (document(aliases={"w/x": "w"}), "tree"),
}


@pytest.mark.parametrize("fault", DOCUMENTS)
def test_metadata_of_ours_that_cannot_be_is_refused(forge, bounded, fault):
    body, says = DOCUMENTS[fault]
    path = forged(forge, body)
    with bounded(path.stat().st_size), pytest.raises(errors.StateError, match=says):
        store.open(path)


def test_an_integer_array_is_not_made_trainable_by_metadata(forge):
    body = json.dumps(document(entries={"w": {"kind": "parameter", "trainable": True}}))
    header = {"__metadata__": {"stateregistry": body}, "w": row(dtype="I32")}
    with pytest.raises(errors.FileFormatError, match="cannot be trainable"):
        store.open(forge(header, DATA))


def test_an_array_that_was_added_to_our_file_is_inferred(forge):
    """Another program keeps `__metadata__` and adds an array: what the document does not speak of is like foreign."""
    body = document(entries={"w": {"kind": "buffer"}})
    with store.open(forged(forge, body, names=("w", "v"))) as found:
        assert not found["w"].inferred
        assert found["v"].inferred


def test_metadata_above_the_limit_is_refused(forge):
    path = forged(forge, document(dialect="x" * 1000))
    with pytest.raises(errors.FileFormatError, match="document_bytes=500"):
        store.open_within(path, Limits(document_bytes=500))
