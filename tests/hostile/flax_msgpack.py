"""Msgpack files of Flax that lie: lengths, records of arrays, chunks, and types that nobody writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgpack

from hostile.corpus import Fault, Table, rows

READER = "msgpack"
F4 = "float32"


def record(shape: Any, dtype: Any, data: Any, code: int = 1) -> msgpack.ExtType:
    """An array as Flax writes one."""
    return msgpack.ExtType(code, msgpack.packb((shape, dtype, data)))


def document(leaf: Any) -> bytes:
    """Variables of one leaf."""
    packed: bytes = msgpack.packb({"params": {"w": leaf}})
    return packed


def chunked(shape: Any, chunks: Any, marker: Any = True, **more: Any) -> bytes:
    """An array in chunks."""
    return document({"__msgpack_chunked_array__": marker, "shape": shape, "chunks": chunks, **more})


GOOD = document(record([2, 3], F4, bytes(range(24))))
HALF = record([3], F4, bytes(range(12)))
BOTH = {"0": HALF, "1": HALF}

#: Shape, dtype and data of a record.
RECORDS: Table = {
    "shape and bytes disagree": {
        "a byte too few": ([2, 3], F4, bytes(23)),
        "a byte too many": ([2, 3], F4, bytes(25)),
        "a larger shape": ([2, 4], F4, bytes(24)),
    },
    "a size that is negative": {"minus one": ([-1, 6], F4, bytes(24)), "two of them": ([-2, -3], F4, bytes(24))},
    "a number that is no integer": {"2.0": ([2.0, 3], F4, bytes(24))},
    "a size that is a truth value": {"true": ([True, 6], F4, bytes(24))},
    "a shape of another type": {"a text": ("23", F4, bytes(24)), "a number": (6, F4, bytes(24))},
    "a size of another type": {"a list": ([[6]], F4, bytes(24))},
    "an empty axis beside a huge one": {
        "2**63": ([2**63, 0], F4, b""),
        "2**62 twice": ([0, 2**62, 2**62], F4, b""),
    },
    "a shape that overflows": {"2**64 elements": ([2**32, 2**32], F4, bytes(24))},
    "a dtype of another byte order": {">f4": ([6], ">f4", bytes(24))},
    "a dtype that is none": {
        "f4": ([6], "f4", bytes(24)),
        "V4": ([6], "V4", bytes(24)),
        "V256": ([6], "V256", bytes(192)),
        "str32": ([6], "str32", bytes(24)),
        "an empty text": ([6], "", bytes(24)),
    },
    "an array of objects": {"object": ([6], "object", bytes(48))},
    "a dtype of another type": {"a number": ([6], 4, bytes(24))},
    "values of another type": {"none": ([6], F4, None), "a list": ([6], F4, [0] * 6)},
    "more axes than an array has": {"65": ([1] * 65, F4, bytes(4))},
    "gigabytes declared in a small file": {"40 GB": ([10**10], F4, bytes(24))},
}

#: The body of an extension of the type of arrays.
BODIES: Table = {
    "a record of another length": {
        "a pair of triples": msgpack.packb((([2], F4, bytes(8)), 1)),
        "four values": msgpack.packb(([2], F4, bytes(8), 1)),
        "a number": msgpack.packb(3),
        "nothing": b"",
    },
    "bytes that nobody claims": {"in a record": msgpack.packb(([2], F4, bytes(8))) + b"\x00"},
    "values cut short": {"in a record": msgpack.packb(([2], F4, bytes(8)))[:-1]},
    "a length beyond the file": {"in a record": b"\x93\x91\x02\xa7float32\xc6\xff\xff\xff\xff" + bytes(8)},
}

#: Whole files.
FILES: Table = {
    "a name twice": {
        "a collection": b"\x82\xa6params\x81\xa1w\xc0\xa6params\x81\xa1w\xc0",
        "a leaf": b"\x81\xa6params\x82\xa1w\xc0\xa1w\xc0",
    },
    "a name of another type": {
        "a number": msgpack.packb({"params": {1: None}}),
        "none": msgpack.packb({"params": {None: 1}}),
        "bytes": msgpack.packb({b"params": {}}),
    },
    "a top level of another type": {
        "a list": msgpack.packb([{"params": {}}]),
        "a text": msgpack.packb("params"),
        "a number": msgpack.packb(3),
    },
    "a byte that is reserved": {"at the top": b"\xc1", "inside": b"\x81\xa6params\xc1"},
    "text that is not UTF-8": {"a name": b"\x81\xa2\xff\xfe\x01"},
    "a length beyond the file": {
        "a map": b"\xdf\xff\xff\xff\xff",
        "a map of 2**31": b"\xdf\x7f\xff\xff\xff\xa1a",
        "a list": b"\x81\xa6params\xdd\xff\xff\xff\xff",
        "bytes": b"\x81\xa6params\xc6\xff\xff\xff\xff",
        "a text": b"\x81\xa6params\xdb\xff\xff\xff\xff",
        "an extension": b"\x81\xa6params\xc9\xff\xff\xff\xff\x01",
        "a name": b"\xde\xff\xff\xdb\xff\xff\xff\xff",
        "a map of empty names": b"\xdf\x80\x00\x00\x00" + b"\xa0" * 100,
    },
    "nesting without end": {
        "maps": b"\x81\xa6params" + b"\x81\xa1a" * 100_000 + b"\xc0",
        "lists": b"\x81\xa6params" + b"\x91" * 100_000 + b"\xc0",
    },
    "bytes that nobody claims": {"a zero": GOOD + b"\x00", "a none": GOOD + b"\xc0", "another file": GOOD + GOOD},
    "values cut short": {f"at byte {size}": GOOD[:size] for size in (1, 7, 8, 10, 14, 20, 30, len(GOOD) - 1)},
    "an empty file": {"of no bytes": b""},
    "chunks that do not fit": {
        "a larger shape": chunked({"0": 2, "1": 4}, BOTH),
        "one missing": chunked({"0": 2, "1": 3}, {"0": HALF}),
        "one skipped": chunked({"0": 2, "1": 3}, {"0": HALF, "2": HALF}),
        "none": chunked({"0": 2, "1": 3}, {}),
        "nothing at all": chunked({}, {}),
        "an axis skipped": chunked({"0": 2, "2": 3}, BOTH),
        "of another dtype": chunked({"0": 2, "1": 3}, {"0": HALF, "1": record([3], "int32", bytes(12))}),
        "of two axes": chunked({"0": 2, "1": 3}, {"0": HALF, "1": record([3, 1], F4, bytes(12))}),
        "a number": chunked({"0": 2, "1": 3}, {"0": HALF, "1": 3}),
        "negative sizes": chunked({"0": -2, "1": -3}, BOTH),
        "a size that is a text": chunked({"0": 2, "1": "3"}, BOTH),
        "of no type": chunked(None, None),
        "that are arrays": chunked(HALF, HALF),
    },
    "the mark of chunks where there are none": {
        "false": chunked([2, 3], BOTH, marker=False),
        "a number": chunked({"0": 6}, BOTH, marker=1),
        "with another name": chunked({"0": 6}, BOTH, other=1),
        "alone": document({"__msgpack_chunked_array__": True}),
    },
}


def written(folder: Path, data: bytes) -> Path:
    """A file of those bytes."""
    path = folder / "m.msgpack"
    path.write_bytes(data)
    return path


def _extensions() -> bytes:
    packed: bytes = msgpack.packb({"params": {"e": msgpack.ExtType(77, b"cos\nsystem\n"), "t": msgpack.Timestamp(0)}})
    return packed


def _many() -> bytes:
    packed: bytes = msgpack.packb({"params": {f"w{index}": record([], F4, bytes(4)) for index in range(20)}})
    return packed


FAULTS = (
    *(Fault(READER, k, n, lambda f, m=m: written(f, document(record(*m)))) for k, n, m in rows(RECORDS)),
    *(Fault(READER, k, n, lambda f, m=m: written(f, document(msgpack.ExtType(1, m)))) for k, n, m in rows(BODIES)),
    *(Fault(READER, k, n, lambda f, m=m: written(f, m)) for k, n, m in rows(FILES)),
    Fault(READER, "a type of extension that nobody knows", "77", lambda f: written(f, _extensions()), opaque=("e", "t")),
    Fault(
        READER, "a truth value that is neither", "a byte 2",
        lambda f: written(f, document(record([2], "bool", b"\x01\x02"))), "bool",
    ),
    Fault(
        READER, "more arrays than the limit", "20 of 19", lambda f: written(f, _many()), "entries",
        options=(("limits", {"entries": 19}),),
    ),
    Fault(
        READER, "a name of thousands of characters", "5,000",
        lambda f: written(f, msgpack.packb({"params": {"n" * 5000: record([], F4, bytes(4))}})), "name_chars|no known",
    ),
    *(
        Fault(
            READER, k, ascii(name),
            lambda f, name=name: written(f, msgpack.packb({"params": {name: record([], F4, bytes(4))}})), kept=(name,),
        )
        for k, name in (
            ("a control character in a name", "a\x1b[2Jb"), ("a control character in a name", "a\0b"),
            ("a name that is a path", ".."), ("a name that shows as another", "\u202etxt"),
        )
    ),
    Fault(
        READER, "a name with an empty segment", "an empty name",
        lambda f: written(f, msgpack.packb({"params": {"": record([], F4, bytes(4))}})),
    ),
)  # fmt: skip
