"""NumPy archives that lie: headers that are programs, members that are pickles, and deflate streams that never end."""

from __future__ import annotations

import json
import os
import pickle
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hostile.corpus import Fault, Table, rows

READER = "npz"
DATA = bytes(range(24))
RECORD = "stateregistry.json"


def npy(text: str | bytes, data: bytes = b"", version: int = 1, length: int | None = None) -> bytes:
    """An array of any header."""
    raw = text.encode("latin-1") if isinstance(text, str) else text
    count = len(raw) if length is None else length
    return b"\x93NUMPY" + bytes([version, 0]) + count.to_bytes(2 if version == 1 else 4, "little") + raw + data


def header(descr: str = "'<f4'", fortran: str = "False", shape: str = "(2, 3)") -> str:
    """What a header says."""
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n"


GOOD = npy(header(), DATA)


def written(folder: Path, members: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    """An archive of members as they are given."""
    path = folder / "m.npz"
    with zipfile.ZipFile(path, "w", method) as out:
        for name, data in members.items():
            out.writestr(name, data)
    return path


#: The member `w`, beside a good one.
LIES: Table = {
    "a header that is none": {
        "not npy": b"something else altogether",
        "empty": b"",
        "magic only": b"\x93NUMPY",
        "no dict": npy("(1, 2)", DATA),
    },
    "a version that is none": {
        "version 9": npy(header(), DATA, 1).replace(b"\x93NUMPY\x01", b"\x93NUMPY\x09"),
        "minor version": npy(header(), DATA).replace(b"NUMPY\x01\x00", b"NUMPY\x01\x07"),
    },
    "a length beyond the file": {
        "header longer than the member": npy(header(), DATA, length=5000),
        "header of 4 GB": npy(header(), DATA, version=2, length=2**32 - 1),
    },
    "a header above the limit": {
        "header above the limit": npy(header() + " " * 20_000, DATA),
    },
    "an expression for a value": {
        "a call": npy(header(shape="__import__('os').system('touch owned')"), DATA),
        "an expression": npy(header(shape="(2, 1+2)"), DATA),
        "a power": npy(header(shape="(9**9**9,)"), DATA),
    },
    "a size that is negative": {
        "negative": npy(header(shape="(-2, -3)"), DATA),
    },
    "a number that is no integer": {
        "a float": npy(header(shape="(2.0, 3)"), DATA),
    },
    "a size that is a truth value": {
        "a bool for a size": npy(header(shape="(True, 6)"), DATA),
    },
    "a size of another type": {
        "a text for a size": npy(header(shape="('2', 3)"), DATA),
    },
    "a shape of another type": {
        "a list for the shape": npy(header(shape="[2, 3]"), DATA),
        "a number for the shape": npy(header(shape="6"), DATA),
    },
    "text that is no literal": {
        "a missing comma": npy(header(shape="(2 3)"), DATA),
        "a comma too many": npy(header(shape="(2,, 3)"), DATA),
        "only a comma": npy(header(shape="(,)"), DATA),
        "an escape": npy(header(descr="'\\x3cf4'"), DATA),
        "more after the end": npy(header() + "import os", DATA),
    },
    "a field that is missing": {
        "a key missing": npy("{'descr': '<f4', 'shape': (2, 3)}", DATA),
    },
    "a field that nobody knows": {
        "a key too many": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), 'x': 1}", DATA),
    },
    "a field twice": {
        "a key twice": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), 'shape': (3, 2)}", DATA),
    },
    "a flag that cannot be": {
        "fortran is a number": npy(header(fortran="0"), DATA),
    },
    "nesting without end": {
        "nested deep": npy(header(shape="(" * 4000 + ")" * 4000), DATA),
        "brackets deep": npy("[" * 9000, DATA),
    },
    "an integer of thousands of digits": {
        "a number of 5000 digits": npy(header(shape=f"({'9' * 5000},)"), DATA),
    },
    "text that is not UTF-8": {
        "no text": npy(b"\xff\xfe" + header().encode(), DATA, version=3),
    },
    "shape and bytes disagree": {
        "shape too large": npy(header(shape="(1000, 1000)"), DATA),
        "shape too small": npy(header(shape="(2, 2)"), DATA),
    },
    "a shape that overflows": {
        "shape overflows": npy(header(shape="(4611686018427387904, 4611686018427387904, 4)"), DATA),
    },
    "an empty axis beside a huge one": {
        "an empty axis beside a huge one": npy(header(shape="(0, 4611686018427387904, 8)")),
    },
    "gigabytes declared in a small file": {
        "10 GB declared": npy(header(shape="(2684354560,)"), DATA),
    },
    "more axes than an array has": {
        "65 axes": npy(header(shape="(" + "1, " * 64 + "6)"), DATA),
    },
    "a dtype that is none": {
        "an unknown dtype": npy(header(descr="'float32'"), DATA),
    },
    "a dtype of no byte order": {
        "a dtype of no order": npy(header(descr="'|f4'"), DATA),
        "a dtype of this machine": npy(header(descr="'=f4'"), DATA),
    },
    "a dtype of another type": {
        "a dtype that is a dict": npy(header(descr="{'a': 1}"), DATA),
        "a dtype that is a number": npy(header(descr="4"), DATA),
    },
    "values cut short": {
        "values cut short": npy(header(), DATA[:-1]),
    },
    "bytes that nobody claims": {
        "values too long": npy(header(), DATA + b"\0"),
    },
}


class Runs:
    """What a pickle of this would run."""

    def __reduce__(self):
        return os.system, ("touch owned",)


def _objects(dtype: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        array = np.zeros(1, dtype)
        if dtype == "O":
            array[0] = Runs()
        np.savez(folder / "m.npz", w=np.zeros(3, np.float32), bad=array)
        return folder / "m.npz"

    return make


def _twice(folder: Path) -> Path:
    path = folder / "m.npz"
    with zipfile.ZipFile(path, "w") as out, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out.writestr("w.npy", GOOD)
        out.writestr("w.npy", npy(header(), DATA[::-1]))
    return path


def _bomb(folder: Path) -> Path:
    """400 MB of zeros, as declared."""
    path, size = folder / "m.npz", 3 * 2**27
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out, out.open("w.npy", "w") as member:
        member.write(npy(header(descr="'|u1'", shape=f"({size},)")))
        for _ in range(size // 2**24):
            member.write(bytes(2**24))
    return path


def _secret_bomb(folder: Path) -> Path:
    """50 MB of zeros that declare to be 1,000 bytes."""
    path = folder / "m.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("w.npy", npy(header(descr="'|u1'", shape="(1000,)"), bytes(50 * 2**20)))
    raw = bytearray(path.read_bytes())
    full = len(npy(header(descr="'|u1'", shape="(1000,)"))) + 1000
    for signature, at in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        begin = raw.index(signature)
        raw[begin + at : begin + at + 4] = struct.pack("<I", full)
    path.write_bytes(raw)
    return path


def deflated(path: Path, name: str, packed: bytes, body: bytes) -> Path:
    """An archive of one deflated member, whatever its bytes are."""
    crc, raw_name = zlib.crc32(body), name.encode()
    numbers = (20, 0, 8, 0, 0x21, crc, len(packed), len(body), len(raw_name), 0)
    local = struct.pack("<4s5H3I2H", b"PK\x03\x04", *numbers) + raw_name + packed
    central = struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 20, *numbers, 0, 0, 0, 0, 0) + raw_name
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 1, 1, len(central), len(local), 0)
    path.write_bytes(local + central + end)
    return path


def _stream(ending: Callable[[Any], bytes]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        packed = zlib.compressobj(9, zlib.DEFLATED, -15)
        return deflated(folder / "m.npz", "w.npy", packed.compress(GOOD) + ending(packed), GOOD)

    return make


def _overlap(folder: Path) -> Path:
    """Two rows of the directory that lead to one member: the bomb without recursion, made small."""
    path = written(folder, {"v.npy": GOOD, "w.npy": GOOD})
    raw = bytearray(path.read_bytes())
    second = raw.index(b"PK\x01\x02", raw.index(b"PK\x01\x02") + 1)
    raw[second + 42 : second + 46] = bytes(4)
    path.write_bytes(raw)
    return path


def _flipped(folder: Path) -> Path:
    path = written(folder, {"w.npy": GOOD})
    raw = path.read_bytes()
    at = raw.index(DATA) + 5
    path.write_bytes(raw[:at] + bytes([raw[at] ^ 4]) + raw[at + 1 :])
    return path


def _cut(size: int) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = written(folder, {"w.npy": GOOD})
        path.write_bytes(path.read_bytes()[:size])
        return path

    return make


def with_document(folder: Path, change: Callable[[Any], Any]) -> Path:
    """A file of ours whose document says something else."""
    import stateregistry as sr

    old = sr.save({"w": np.arange(6, dtype=np.uint16), "v": np.arange(6, dtype=np.float32)}, folder / "old.npz")
    with zipfile.ZipFile(old) as source:
        members = {name: source.read(name) for name in source.namelist()}
    body = json.loads(members[RECORD])
    told = change(body)
    members[RECORD] = json.dumps(body).encode() if told is None else told
    old.unlink()
    return written(folder, members)


#: What is done to our document.
DOCUMENTS: Table = {
    "a dtype of ours that cannot be": {
        "of another width": lambda body: body.update(dtypes={"w": "float8_e5m2"}),
        "of floats": lambda body: body.update(dtypes={"v": "bfloat16"}),
        "one that needs none": lambda body: body.update(dtypes={"w": "float32"}),
        "a number": lambda body: body.update(dtypes={"w": 3}),
        "a list": lambda body: body.update(dtypes=["w"]),
        "of nobody": lambda body: body.update(dtypes={"none": "bfloat16"}),
    },
    "metadata of ours of another schema": {"another": lambda body: body.update(schema="other/1")},
    "metadata of ours of another type": {"digests are a text": lambda body: body.update(digests="00")},
    "metadata of ours for what is not stored": {
        "an entry": lambda body: body["entries"].update(none={"kind": "parameter"}),
    },
    "an alias that cannot be": {"an entry": lambda body: body.update(aliases={"w": "v"})},
    "metadata of ours that nests without end": {"brackets": lambda body: b"[" * 100_000},
    "metadata of ours that is no JSON": {"NaN": lambda body: b'{"schema": NaN}', "no UTF-8": lambda body: b"\xff\xfe"},
}
OBJECTS: Table = {
    "an array of objects": {
        "objects": "O",
        "a field": [("a", "<f4"), ("b", "O")],
        "a field within a field": [("a", [("b", "O", (2,))])],
    }
}
METHODS = {"bzip2": zipfile.ZIP_BZIP2, "LZMA": zipfile.ZIP_LZMA}
NAMES = ("../up", "/etc/passwd", "a//b", "a..b", ".", "..", "", "a/")

FAULTS = (
    *(
        Fault(READER, k, n, lambda f, m=m: written(f, {"good.npy": GOOD, "w.npy": m}), r"w\.npy")
        for k, n, m in rows(LIES)
    ),
    *(
        Fault(
            READER, k, f"{n}, deflated",
            lambda f, m=m: written(f, {"good.npy": GOOD, "w.npy": m}, zipfile.ZIP_DEFLATED), r"w\.npy",
        )
        for k, n, m in rows(LIES)
        if k in ("a length beyond the file", "gigabytes declared in a small file", "shape and bytes disagree")
    ),
    *(Fault(READER, k, n, _objects(m), "'bad'", unsafe=True) for k, n, m in rows(OBJECTS)),
    Fault(
        READER, "a pickle for a member", "a call",
        lambda f: written(f, {"good.npy": GOOD, "w.npy": pickle.dumps(Runs())}), r"w\.npy",
    ),
    *(
        Fault(
            READER, "a name that is a path", repr(name),
            lambda f, name=name: written(f, {f"{name}.npy": GOOD, "x/y.npy": GOOD}),
        )
        for name in NAMES
    ),
    Fault(READER, "a member twice", "with other values", _twice, "twice"),
    Fault(
        READER, "an array inside another by name", "a and a.b", lambda f: written(f, {"a.npy": GOOD, "a.b.npy": GOOD}),
    ),
    *(
        Fault(READER, "a method of compression that nobody uses", n, lambda f, m=m: written(f, {"w.npy": GOOD}, m), "method")
        for n, m in METHODS.items()
    ),
    Fault(READER, "a compressed bomb", "400 MB that are declared", _bomb, "inflation"),
    Fault(READER, "a compressed bomb that declares little", "50 MB for 1,000 bytes", _secret_bomb, "more than"),
    Fault(
        READER, "a compressed stream cut short", "without its last block",
        _stream(lambda packed: packed.flush(zlib.Z_SYNC_FLUSH)), "ends in the middle",
    ),
    Fault(
        READER, "bytes after a compressed stream", "four of them",
        _stream(lambda packed: packed.flush() + b"more"), "declares",
    ),
    Fault(READER, "members that overlap", "two names for one member", _overlap),
    Fault(READER, "a checksum that does not fit", "a flipped bit in the values", _flipped, "CRC-32"),
    *(Fault(READER, "a zip archive cut short", f"at byte {size}", _cut(size)) for size in (0, 3, 30, 100, -5, -22)),
    *(Fault(READER, k, n, lambda f, m=m: with_document(f, m)) for k, n, m in rows(DOCUMENTS)),
    Fault(
        READER, "a truth value that is neither", "a byte 2",
        lambda f: written(f, {"w.npy": npy(header(descr="'|b1'", shape="(3,)"), b"\0\1\2")}), "bool",
    ),
    Fault(
        READER, "an archive of other things", "a document and a false array",
        lambda f: written(f, {"word/document.xml": b"<x/>", "fake.npy": b"no array"}), "of no known format",
    ),
    Fault(
        READER, "more members than the limit", "5 of 4",
        lambda f: written(f, {f"k{n}.npy": GOOD for n in range(5)}), "archive_members",
        options=(("limits", {"archive_members": 4}),),
    ),
)  # fmt: skip
