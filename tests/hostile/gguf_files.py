"""GGUF files that lie: counts and lengths beyond the file, tensors over one another, alignments that cannot be."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from pathlib import Path

from hostile.corpus import Fault, Table, rows

READER = "GGUF"


def text(value: str | bytes, length: int | None = None) -> bytes:
    """A text as the format stores it."""
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw) if length is None else length) + raw


def field(name: str, kind: int, raw: bytes) -> bytes:
    """One field of the metadata."""
    return text(name) + struct.pack("<I", kind) + raw


def info(
    name: str = "w", dims: Sequence[int] = (3, 2), form: int = 0, offset: int = 0, rank: int | None = None
) -> bytes:
    """What the header says of one tensor."""
    count = len(dims) if rank is None else rank
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", count, *dims, form, offset)


def written(
    folder: Path,
    infos: Sequence[bytes] = (),
    fields: Sequence[bytes] = (),
    *,
    data: bytes = bytes(24),
    version: int = 3,
    count: int | None = None,
    pairs: int | None = None,
) -> Path:
    """A file of those parts."""
    counts = (version, len(infos) if count is None else count, len(fields) if pairs is None else pairs)
    head = b"GGUF" + struct.pack("<IQQ", *counts) + b"".join(fields) + b"".join(infos)
    path = folder / "m.gguf"
    path.write_bytes(head + bytes(-len(head) % 32) + data)
    return path


LIES: Table = {
    "a version that is none": {
        "version 1": {"version": 1},
        "version 9": {"version": 9},
    },
    "a count beyond the file": {
        "more tensors than the file": {"count": 1000},
        "2^63 tensors": {"count": 2**63},
        "more fields than the file": {"pairs": 1000},
        "2^64 fields": {"pairs": 2**64 - 1},
    },
    "values cut short": {
        "values cut short": {"infos": [info()], "data": bytes(23)},
        "no values": {"infos": [info()], "data": b""},
    },
    "gigabytes declared in a small file": {
        "10 GB": {"infos": [info(dims=(50_000, 50_000))]},
    },
    "a shape that overflows": {
        "a shape that overflows": {"infos": [info(dims=(2**62, 2**62))]},
        "a shape of 2^64": {"infos": [info(dims=(2**64 - 1,))]},
    },
    "an empty axis beside a huge one": {
        "an empty axis beside a huge one": {"infos": [info(dims=(0, 2**63))]},
    },
    "more axes than an array has": {
        "65 axes": {"infos": [info(dims=(1,) * 65)]},
        "2^32 axes": {"infos": [info(rank=2**32 - 1)]},
    },
    "an offset beyond the end": {
        "an offset beyond the file": {"infos": [info(offset=32)]},
    },
    "an offset that overflows": {
        "an offset of 2^64": {"infos": [info(offset=2**64 - 32)]},
    },
    "an offset that is not aligned": {
        "an offset that is not aligned": {"infos": [info(dims=(1,), offset=4)]},
    },
    "one place under two names": {
        "tensors in the same bytes": {"infos": [info("a"), info("b")]},
    },
    "values that overlap": {
        "a tensor within another": {"infos": [info("a", (40,)), info("b", (1,), offset=32)], "data": bytes(200)},
        "a quantised tensor in the bytes of another": {
            "infos": [info("a", (32, 4), form=8), info("b", (8,), offset=64)],
            "data": bytes(500),
        },
    },
    "a name twice": {
        "a name twice": {"infos": [info("a", (1,)), info("a", (1,), offset=32)], "data": bytes(200)},
    },
    "a name of thousands of characters": {
        "a name that is too long": {"infos": [info("x" * 5000)]},
    },
    "a length beyond the file": {
        "a name beyond the file": {"infos": [text("w", 2**40)]},
        "a name of 2^64 bytes": {"infos": [text("w", 2**64 - 1)]},
        "a text beyond the file": {"fields": [field("a", 8, text("x", 2**50))]},
        "an array beyond the file": {"fields": [field("a", 9, struct.pack("<IQ", 4, 2**40))]},
        "an array of 2^64": {"fields": [field("a", 9, struct.pack("<IQ", 12, 2**64 - 1))]},
        "an array of 2^61 texts": {"fields": [field("a", 9, struct.pack("<IQ", 8, 2**61))]},
    },
    "text that is not UTF-8": {
        "a name that is no text": {"infos": [info().replace(b"w", b"\xff")]},
    },
    "half a block": {
        "a quantised tensor in half a block": {"infos": [info(dims=(33, 2), form=8)], "data": bytes(500)},
        "a quantised tensor beyond the file": {"infos": [info(dims=(32, 2000), form=8)]},
    },
    "a field twice": {
        "a field twice": {"fields": [field("a", 0, b"\0"), field("a", 0, b"\1")]},
    },
    "a field of an unknown type": {
        "a field of an unknown type": {"fields": [field("a", 13, b"")]},
        "an array of an unknown type": {"fields": [field("a", 9, struct.pack("<IQ", 77, 1))]},
    },
    "a truth value that is neither": {
        "a truth value that is none": {"fields": [field("a", 7, b"\2")]},
    },
    "nesting without end": {
        "an array of arrays": {"fields": [field("a", 9, struct.pack("<IQ", 9, 2**30))]},
    },
    "an alignment that cannot be": {
        "an alignment of nothing": {"fields": [field("general.alignment", 4, bytes(4))]},
        "an alignment of 4 GB": {"fields": [field("general.alignment", 4, b"\xff" * 4)]},
        "an alignment that is a text": {"fields": [field("general.alignment", 8, text("32"))]},
    },
}


def _cut(size: int) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = written(folder, [info()], [field("general.alignment", 4, struct.pack("<I", 32))])
        path.write_bytes(path.read_bytes()[:size])
        return path

    return make


NAMES = (("a..b",), ("a", "a.b"), ("",))

FAULTS = (
    *(Fault(READER, k, n, lambda f, m=m: written(f, **m)) for k, n, m in rows(LIES)),
    *(
        Fault(
            READER, "an array inside another by name" if len(names) == 2 else "a name with an empty segment", str(names),
            lambda f, names=names: written(
                f, [info(name, (1,), offset=32 * n) for n, name in enumerate(names)], data=bytes(200)
            ),
        )
        for names in NAMES
    ),
    Fault(
        READER, "a part that passes for the whole", "one of three files",
        lambda f: written(f, [info()], [field("split.count", 2, struct.pack("<H", 3))]), "one of the 3 parts",
    ),
    Fault(
        READER, "a form that nobody knows", "999",
        lambda f: written(f, [info("a", (2,)), info("b", form=999, offset=2**40)]), opaque=("b",),
    ),
    *(Fault(READER, "a file cut in its header", f"at byte {size}", _cut(size)) for size in (0, 3, 4, 15, 30, 60, 90)),
    *(
        Fault(
            READER, "more than a limit", limit,
            lambda f: written(f, [info("aaaa", (1, 1))], [field("f", 8, text("x" * 300))]), limit,
            options=(("limits", {limit: value}),),
        )
        for limit, value in {"header_bytes": 100, "rank": 1, "name_chars": 2}.items()
    ),
)  # fmt: skip
