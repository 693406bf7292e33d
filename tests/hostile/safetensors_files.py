"""Safetensors files that lie: their headers, their lengths, and values that no header can explain."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hostile.corpus import Fault, Table, rows

READER = "safetensors"
DATA = bytes(16)


def written(folder: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    """A file of any header: an object, a text or bytes; `length` is what the first 8 bytes say."""
    if isinstance(header, (dict, list)):
        header = json.dumps(header)
    raw = header.encode("utf-8", "surrogatepass") if isinstance(header, str) else header
    path = folder / "m.safetensors"
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return path


def row(dtype: Any = "F32", shape: Any = (2, 2), begin: Any = 0, end: Any = 16, **more: Any) -> dict[str, Any]:
    """What a header says of one array."""
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end], **more}


def text(*pairs: tuple[str, Any]) -> str:
    """A header with names as often as they are given."""
    parts = (f"{json.dumps(name)}:{value if isinstance(value, str) else json.dumps(value)}" for name, value in pairs)
    return "{" + ",".join(parts) + "}"


GOOD = row()
#: Header, values, what the refusal says.
HEADERS: Table = {
    "a header shorter than any": {
        "empty header": (b"", DATA, "no known format"),
        "one byte": (b"{", b"", "no known format"),
    },
    "text that is no JSON": {
        "not json": (b"{]", DATA, "not the JSON"),
        "two objects": (text(("w", GOOD)) + "{}", DATA, "not the JSON"),
    },
    "a top level of another type": {
        "an array at the top": ("[]", DATA, "begins with"),
        "a number at the top": ("12", DATA, "begins with"),
    },
    "something before the text": {
        "a space before the brace": (" " + text(("w", GOOD)), DATA, "begins with"),
        "a byte order mark": ("\ufeff" + text(("w", GOOD)), DATA, "begins with"),
    },
    "text that is not UTF-8": {
        "bad utf-8": (b'{"\xff\xfe":1}', DATA, "not the JSON"),
        "cut utf-8": (b'{"\xe2\x82":1}', DATA, "not the JSON"),
    },
    "half a surrogate pair": {
        "half a surrogate pair": (text(("w", GOOD)).replace('"w"', '"\\ud800"'), DATA, "surrogate"),
    },
    "a raw control character": {
        "a raw control character": (
            b'{"a\x01":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}',
            DATA,
            "not the JSON",
        ),
    },
    "NaN or infinity for a number": {
        "nan": (text(("w", '{"dtype":"F32","shape":[NaN],"data_offsets":[0,16]}')), DATA, "NaN"),
        "infinity": (text(("w", '{"dtype":"F32","shape":[2,2],"data_offsets":[0,Infinity]}')), DATA, "Infinity"),
    },
    "a number that is no integer": {
        "a fraction": (text(("w", '{"dtype":"F32","shape":[2,2],"data_offsets":[0,16.0]}')), DATA, "16.0"),
        "an exponent": (text(("w", '{"dtype":"F32","shape":[2,2],"data_offsets":[0,1e1]}')), DATA, "1e1"),
    },
    "nesting without end": {
        "deep nesting": ('{"w":' + "[" * 200_000 + "]" * 200_000 + "}", DATA, "too deep|not the JSON"),
        "deep objects": ('{"w":' * 100_000 + "1" + "}" * 100_000, DATA, "too deep|not the JSON"),
    },
    "an integer of thousands of digits": {
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
    },
    "a name twice": {
        "a name twice": (text(("w", GOOD), ("w", row(dtype="I32", shape=[4]))), DATA, "stands twice"),
    },
    "a name twice, spelled in two ways": {
        "a name twice, once escaped": (
            text(("w", GOOD), ("v", GOOD)).replace('"v"', '"\\u0077"'),
            DATA,
            "stands twice",
        ),
    },
    "a field twice": {
        "a field twice": (
            text(("w", '{"dtype":"F32","dtype":"I32","shape":[2,2],"data_offsets":[0,16]}')),
            DATA,
            "each once",
        ),
        "metadata twice": (text(("__metadata__", {}), ("__metadata__", {}), ("w", GOOD)), DATA, "stands twice"),
        "a metadata text twice": (text(("__metadata__", '{"a":"1","a":"2"}'), ("w", GOOD)), DATA, "stands twice"),
    },
    "metadata of another type": {
        "metadata of numbers": (text(("__metadata__", {"a": 1}), ("w", GOOD)), DATA, "object of texts"),
        "metadata that nests": (text(("__metadata__", {"a": {"b": "c"}}), ("w", GOOD)), DATA, "object of texts"),
        "metadata that is a list": (text(("__metadata__", ["a"]), ("w", GOOD)), DATA, "object of texts"),
        "metadata that is null": (text(("__metadata__", None), ("w", GOOD)), DATA, "object of texts"),
    },
    "a field that nobody knows": {
        "an unknown field": ({"w": row(strides=[1])}, DATA, "expected dtype, shape and data_offsets"),
    },
    "a field that is missing": {
        "no dtype": ({"w": {"shape": [2, 2], "data_offsets": [0, 16]}}, DATA, "expected dtype"),
        "no offsets": ({"w": {"dtype": "F32", "shape": [2, 2]}}, DATA, "expected dtype"),
    },
    "a row of another type": {
        "a row that is a number": ({"w": 5}, DATA, "not an object"),
        "a row that is a list of pairs": (
            {"w": [["dtype", "F32"], ["shape", [2, 2]], ["data_offsets", [0, 16]]]},
            DATA,
            "not an object",
        ),
        "a row that is a text": ({"w": "abc"}, DATA, "not an object"),
        "a row that is null": ({"w": None}, DATA, "not an object"),
    },
    "a dtype of another type": {
        "a dtype that is a number": ({"w": row(dtype=5)}, DATA, "dtype"),
        "a dtype that is a list": ({"w": row(dtype=["F32"])}, DATA, "dtype"),
    },
    "a dtype that is none": {
        "a dtype that is a sentence": ({"w": row(dtype="float32; DROP")}, DATA, "not a dtype"),
    },
    "a shape of another type": {
        "a shape that is a text": ({"w": {**GOOD, "shape": "22"}}, DATA, "list of sizes"),
        "a shape that is an object": (
            {"w": {**GOOD, "shape": {}}, "v": row(shape=[], begin=16, end=20)},
            bytes(20),
            "list of sizes",
        ),
        "a shape that is null": ({"w": {**GOOD, "shape": None}}, DATA, "list of sizes"),
    },
    "a size of another type": {
        "a size that is a text": ({"w": row(shape=["2", "2"])}, DATA, "list of sizes"),
        "a size that is a list": ({"w": row(shape=[[2], 2])}, DATA, "list of sizes"),
    },
    "a size that is negative": {
        "a negative size": ({"w": row(shape=[-2, -2])}, DATA, "list of sizes"),
    },
    "a size that is a truth value": {
        "a size that is true": (
            {"a": row(shape=[1], end=4), "b": row(shape=[True], begin=4, end=8)},
            bytes(8),
            "list of sizes",
        ),
    },
    "more axes than an array has": {
        "too many axes": ({"w": row(shape=[1] * 65, end=4)}, bytes(4), "rank=64"),
        "a million axes": ({"w": row(shape=[1] * 1_000_001, end=4)}, bytes(4), "rank=64"),
    },
    "a shape that overflows": {
        "a product above 2**64": ({"w": row(shape=[2**32, 2**32, 4], end=0)}, b"", "more elements"),
    },
    "a shape that wraps around to the right size": {
        "a product that wraps to 16 bytes": ({"w": row(shape=[2**62 + 1, 4])}, DATA, "more elements"),
    },
    "an empty axis beside a huge one": {
        "an empty array that NumPy cannot hold": ({"w": row(shape=[0, 2**62, 2**62], end=0)}, b"", "more elements"),
    },
    "gigabytes declared in a small file": {
        "10 GB declared": ({"w": row(shape=[50_000, 50_000], end=10_000_000_000)}, DATA, "outside of the file"),
    },
    "shape and bytes disagree": {
        "size and shape disagree": ({"w": row(shape=[2, 3])}, DATA, "takes 24 bytes"),
    },
    "half a byte": {
        "half a byte": ({"w": row(dtype="F4", shape=[3], end=2)}, b"ab", "whole bytes"),
    },
    "offsets of another type": {
        "offsets that are a text": ({"w": {**GOOD, "data_offsets": "0,16"}}, DATA, "pair of integers"),
        "offsets that are three": ({"w": {**GOOD, "data_offsets": [0, 16, 16]}}, DATA, "pair of integers"),
        "offsets that are true": ({"w": row(dtype="I8", shape=[1], begin=False, end=True)}, b"a", "pair of integers"),
    },
    "offsets that run backwards": {
        "offsets that run backwards": ({"w": row(begin=16, end=0)}, DATA, "outside"),
    },
    "an offset that is negative": {
        "a negative offset": ({"w": row(begin=-16, end=0)}, DATA, "outside"),
    },
    "an offset beyond the end": {
        "an offset beyond the end": ({"w": row(begin=16, end=32)}, DATA, "outside"),
    },
    "an offset that overflows": {
        "an offset above 2**64": ({"w": row(begin=2**64, end=2**64 + 16)}, DATA, "outside"),
    },
    "a hole between values": {
        "a hole": ({"a": row(), "b": row(begin=20, end=36)}, bytes(36), "hole"),
        "a hole at the beginning": ({"a": row(begin=4, end=20)}, bytes(20), "hole"),
    },
    "values that overlap": {
        "an overlap": ({"a": row(), "b": row(begin=8, end=24)}, bytes(24), "overlaps"),
    },
    "one place under two names": {
        "one range under two names": ({"a": row(), "b": row()}, DATA, "overlaps"),
    },
    "an empty array inside another": {
        "an empty array inside another": ({"a": row(), "b": row(shape=[0], begin=8, end=8)}, DATA, "overlaps"),
    },
    "bytes that nobody claims": {
        "bytes after the last array": ({"w": GOOD}, bytes(17), "follow the last array"),
        "values without an array": ({}, DATA, "follow the last array"),
    },
    "values cut short": {
        "truncated values": ({"w": GOOD}, bytes(15), "outside"),
    },
    "a name with an empty segment": {
        "an empty name": ({"": GOOD}, DATA, "empty segment"),
        "an empty segment": ({"a..b": GOOD}, DATA, "empty segment"),
    },
    "an array inside another by name": {
        "a name inside another": (
            {"a": row(), "a.b": row(begin=16, end=32)},
            bytes(32),
            "'a' is an array and holds 'a.b'",
        ),
    },
    "a name of thousands of characters": {
        "a very long name": ({"x" * 5000: GOOD}, DATA, "name_chars"),
    },
}

#: What the first eight bytes say of a good header.
LENGTHS: Table = {
    "a length beyond the file": {str(length): length for length in (5000, 2**32)},
    "a length above the limit": {str(length): length for length in (100_000_001, 2**40)},
    "a length that overflows": {str(length): length for length in (2**63, 2**64 - 1)},
    "a length of nothing": {str(length): length for length in (0, 1)},
}

#: How much of a good file is there.
CUTS: Table = {
    "a file cut in its length": {str(size): size for size in (0, 1, 7)},
    "a file cut in its header": {str(size): size for size in (8, 9, 40, 65)},
    "values cut short": {f"the file at {size} bytes": size for size in (-16, -9, -1)},
}


def _cut(folder: Path, size: int) -> Path:
    path = written(folder, {"w": GOOD}, DATA)
    path.write_bytes(path.read_bytes()[:size])
    return path


def _many_values(folder: Path) -> Path:
    return written(folder, '{"w":[' + "0," * 20_000_000 + "0]}")


def _many_arrays(folder: Path) -> Path:
    return written(folder, {str(number): row("I8", [0], 0, 0) for number in range(11)})


def _bools(folder: Path) -> Path:
    return written(folder, {"w": row("BOOL", [3], 0, 3)}, b"\0\1\2")


def _named(name: str) -> Callable[[Path], Path]:
    return lambda folder: written(folder, {name: row("I8", [1], 0, 1)}, b"a")


def _many_empty(folder: Path) -> Path:
    """Half a million arrays of nothing: what is cheap to write and dear to list."""
    one = '":{"dtype":"I8","shape":[0],"data_offsets":[0,0]}'
    return written(folder, "{" + ",".join(f'"{number}{one}' for number in range(500_000)) + "}")


def _zipped(name: str) -> Callable[[Path], Path]:
    """A gzip of a gigabyte of zeros, in some kilobytes, under the name of a checkpoint: nobody inflates it."""

    def make(folder: Path) -> Path:
        packed = zlib.compressobj(9, zlib.DEFLATED, 31)
        block = bytes(1 << 22)
        with (folder / name).open("wb") as out:
            for _ in range(256):
                out.write(packed.compress(block))
            out.write(packed.flush())
        return folder / name

    return make


STRANGE = {
    "a control character in a name": ("a\x1b[2Jb", "a\0b", "a\rb", "a\nb", "\x9b31m"),
    "a name that shows as another": ("\u202etxt", "w\u0435ight", "a\u200fb"),
}

FAULTS = (
    *(Fault(READER, k, n, lambda f, m=m: written(f, m[0], m[1]), m[2]) for k, n, m in rows(HEADERS)),
    *(
        Fault(READER, k, n, lambda f, m=m: written(f, {"w": GOOD}, DATA, m), "header|no known format")
        for k, n, m in rows(LENGTHS)
    ),
    *(Fault(READER, k, n, lambda f, m=m: _cut(f, m)) for k, n, m in rows(CUTS)),
    Fault(READER, "millions of values for one", "a list of 20 million numbers", _many_values, "entries=1,000,000"),
    Fault(
        READER, "more arrays than the limit", "11 of 10", _many_arrays, "entries=10",
        options=(("limits", {"entries": 10}),),
    ),
    Fault(READER, "a truth value that is neither", "a byte 2", _bools, "byte 2, expected 0 or 1"),
    *(
        Fault(
            READER, "a name that is a path", name,
            lambda f, name=name: written(f, {name: row("I8", [1], 0, 1)}, b"a"), "empty segment",
        )
        for name in ("../../etc/passwd", "..", "a/../../b", "/etc//x")
    ),
    *(
        Fault(READER, "a gzip bomb under another name", name, _zipped(name), "no known format")
        for name in ("m.safetensors", "m.npz", "m.pt", "m.gguf")
    ),
    *(Fault(READER, k, ascii(name), _named(name), kept=(name,)) for k, names in STRANGE.items() for name in names),
    Fault(
        READER, "arrays of nothing without end", "500,000", _many_empty, "entries",
        options=(("limits", {"entries": 400_000}),),
    ),
)  # fmt: skip
