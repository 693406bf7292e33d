"""Torch archives that lie: their zip directories, their members, and the pickles in them."""

from __future__ import annotations

import os
import struct
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from hostile.corpus import Fault, Table, rows
from hostile.torch_pickles import (
    GROWING,
    PICKLES,
    RECORDS,
    Call,
    Storage,
    forge_pickle,
    proto,
    tensor,
    touch,
    unsafe_pickles,
)

READER = "torch zip"


def written(
    folder: Path,
    data: Any,
    records: Mapping[str, bytes] | None = None,
    *,
    top: str = "archive",
    compression: int = zipfile.ZIP_STORED,
) -> Path:
    """A torch archive: the pickle, and records by their name below the top folder."""
    path = folder / "m.pt"
    raw = data if isinstance(data, bytes) else forge_pickle(data)
    with zipfile.ZipFile(path, "w", compression) as target:
        target.writestr(f"{top}/data.pkl", raw)
        for record, value in (records or {}).items():
            target.writestr(f"{top}/{record}", value)
    return path


def good(folder: Path) -> Path:
    """An archive with which nothing is wrong."""
    return written(folder, {"w": tensor()}, {**RECORDS, "byteorder": b"little", "version": b"3\n"})


def central(raw: bytes) -> dict[str, int]:
    """Offsets of the rows of the directory, by name."""
    found, at = {}, raw.index(b"PK\x01\x02")
    while raw[at : at + 4] == b"PK\x01\x02":
        name, extra, comment = struct.unpack_from("<3H", raw, at + 28)
        found[raw[at + 46 : at + 46 + name].decode()] = at
        at += 46 + name + extra + comment
    return found


def patched(raw: bytes, at: int, form: str, value: int) -> bytes:
    """The same with one number replaced."""
    return raw[:at] + struct.pack(form, value) + raw[at + struct.calcsize(form) :]


def local(raw: bytes, name: str) -> int:
    """Where the header of a member begins."""
    found: int = struct.unpack_from("<I", raw, central(raw)[name] + 42)[0]
    return found


W = "archive/data/0"
P = "archive/data.pkl"
#: Bytes of a good archive to bytes of a bad one, what the error says.
ARCHIVES: Table = {
    "a zip archive cut short": {
        "cut in the directory": (lambda r: r[:-30], "no directory|follows"),
        "cut in the values": (lambda r: r[:200], "no directory"),
        "cut after the first name": (lambda r: r[:46], "no directory"),
    },
    "bytes that nobody claims": {
        "a byte after the archive": (lambda r: r + b"x", "follows the end"),
    },
    "something before the archive": {
        "bytes before the beginning": (lambda r: b"PK\x03\x04" + r, "directory|no known"),
    },
    "a comment of another length": {
        "a comment that is too long": (lambda r: patched(r, len(r) - 2, "<H", 5), "follows the end"),
    },
    "a count of members that lies": {
        "one member too many": (
            lambda r: patched(patched(r, len(r) - 14, "<H", 5), len(r) - 12, "<H", 5),
            "damaged|cut short|said to lie",
        ),
        "one member too few": (lambda r: patched(patched(r, len(r) - 14, "<H", 3), len(r) - 12, "<H", 3), "bytes more"),
    },
    "an archive of several disks": {
        "several disks": (lambda r: patched(r, len(r) - 18, "<H", 1), "several files"),
    },
    "a directory that lies elsewhere": {
        "a directory that lies elsewhere": (lambda r: patched(r, len(r) - 6, "<I", 5), "does not end"),
        "a directory beyond the end": (lambda r: patched(r, len(r) - 6, "<I", 2**31), "does not end"),
    },
    "a 64-bit directory that lies": {
        "a zip64 directory without a locator": (lambda r: patched(r, len(r) - 6, "<I", 2**32 - 1), "no locator"),
        "a zip64 length that is not given": (lambda r: patched(r, central(r)[W] + 20, "<I", 2**32 - 1), "not given"),
    },
    "a directory that is damaged": {
        "a directory that is damaged": (lambda r: patched(r, central(r)[W], "<I", 7), "damaged"),
        "a name that reaches over the end": (lambda r: patched(r, central(r)[W] + 28, "<H", 60000), "damaged"),
    },
    "an encrypted member": {
        "encrypted": (lambda r: patched(r, central(r)[W] + 8, "<H", 1), "encrypted"),
        "encrypted in its own header": (lambda r: patched(r, local(r, W) + 6, "<H", 1), "header of the member"),
    },
    "directory and header of a member disagree": {
        "compressed by the directory alone": (
            lambda r: patched(r, central(r)[W] + 10, "<H", 8),
            "header of the member",
        ),
        "compressed by its header alone": (lambda r: patched(r, local(r, W) + 8, "<H", 8), "header of the member"),
        "another name in its own header": (lambda r: patched(r, local(r, W) + 30, "<B", 66), "another name"),
        "a header that is none": (lambda r: patched(r, local(r, W), "<I", 7), "header of the member"),
        "a header beyond the directory": (lambda r: patched(r, central(r)[W] + 42, "<I", len(r) - 10), "beyond"),
    },
    "two lengths for one member": {
        "two lengths in the directory": (lambda r: patched(r, central(r)[W] + 24, "<I", 40), "40 bytes stored as 16"),
        "another length in its own header": (lambda r: patched(r, local(r, W) + 22, "<I", 8), "another size"),
        "a length beyond the archive": (
            lambda r: patched(patched(r, central(r)[W] + 20, "<I", 2**30), central(r)[W] + 24, "<I", 2**30),
            "another size|ends before",
        ),
    },
    "members that overlap": {
        "two members over the same bytes": (
            lambda r: patched(r, central(r)[W] + 42, "<I", local(r, P)),
            "overlaps|another",
        ),
    },
    "an extra field over the end": {
        "an extra field over the end": (lambda r: patched(r, local(r, W) + 28, "<H", 60000), "damaged|ends before"),
    },
    "a checksum that does not fit": {
        "a pickle with another checksum": (lambda r: patched(r, central(r)[P] + 16, "<I", 7), "CRC-32"),
        "a flipped bit in the pickle": (lambda r: r.replace(b"FloatStorage", b"floatStorage"), "CRC-32"),
    },
}


def large(folder: Path) -> Path:
    """The good archive with the structures of archives above 4 GiB."""
    found = good(folder)
    with zipfile.ZipFile(found) as source:
        members = {info.filename: source.read(info) for info in source.infolist()}
    limits = zipfile.ZIP64_LIMIT, zipfile.ZIP_FILECOUNT_LIMIT
    zipfile.ZIP64_LIMIT, zipfile.ZIP_FILECOUNT_LIMIT = 10, 2
    try:
        with zipfile.ZipFile(found, "w") as target:
            for name, data in members.items():
                target.writestr(name, data)
    finally:
        zipfile.ZIP64_LIMIT, zipfile.ZIP_FILECOUNT_LIMIT = limits
    return found


def end64(raw: bytes) -> int:
    """Where the end of the large directory is."""
    return raw.index(b"PK\x06\x06")


def locator(raw: bytes) -> int:
    """Where it is said to be."""
    return raw.index(b"PK\x06\x07")


def extra64(raw: bytes) -> int:
    """Where the 64-bit numbers of the record begin in its row of the directory."""
    return central(raw)[W] + 46 + len(W)


def counted(raw: bytes, count: int) -> bytes:
    """As many members as that, by the large directory; the small one says to look there."""
    for at, form, value in (
        (len(raw) - 14, "<H", 0xFFFF), (len(raw) - 12, "<H", 0xFFFF),
        (end64(raw) + 24, "<Q", count), (end64(raw) + 32, "<Q", count),
    ):  # fmt: skip
        raw = patched(raw, at, form, value)
    return raw


LARGE: Table = {
    "a 64-bit directory that lies": {
        "a locator to elsewhere": (lambda r: patched(r, locator(r) + 8, "<Q", 0), "does not lie"),
        "a locator of several disks": (lambda r: patched(r, locator(r) + 16, "<I", 2), "does not lie"),
        "an end that is none": (lambda r: patched(r, end64(r), "<I", 7), "damaged"),
        "an end of another length": (lambda r: patched(r, end64(r) + 4, "<Q", 2**60), "damaged"),
        "a count of the small directory": (
            lambda r: patched(patched(r, len(r) - 14, "<H", 1), len(r) - 12, "<H", 1),
            "contradict",
        ),
        "a length that is cut": (lambda r: patched(r, extra64(r) + 2, "<H", 7), "not given"),
        "a length that is cut further": (lambda r: patched(r, extra64(r) + 2, "<H", 60000), "not given"),
        "a length under another tag": (lambda r: patched(r, extra64(r), "<H", 9), "not given"),
    },
    "a directory that lies elsewhere": {
        "a directory of 2**62 bytes": (lambda r: patched(r, end64(r) + 40, "<Q", 2**62), "does not end|contradict"),
    },
    "a count of members that lies": {
        "2**40 members": (lambda r: counted(r, 2**40), "archive_members"),
        "100,000 members in a small directory": (lambda r: counted(r, 10**5), "said to lie"),
    },
    "two lengths for one member": {
        "a member of 2**62 bytes": (
            lambda r: patched(patched(r, extra64(r) + 4, "<Q", 2**62), extra64(r) + 12, "<Q", 2**62),
            "ends before|another size",
        ),
    },
}


def changed(path: Path, change: Callable[[bytes], bytes]) -> Path:
    """The same file with other bytes."""
    raw = path.read_bytes()
    bad = change(raw)
    if bad == raw:
        raise ValueError("the change changes nothing")
    path.write_bytes(bad)
    return path


def _of(names: list[str]) -> Callable[[Path], Path]:
    """An archive with those members."""

    def make(folder: Path) -> Path:
        path = folder / "m.pt"
        with zipfile.ZipFile(path, "w") as target:
            for name in names:
                target.writestr(name, forge_pickle({}))
        return path

    return make


def _twice(folder: Path) -> Path:
    path = folder / "m.pt"
    with zipfile.ZipFile(path, "w") as target, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        target.writestr("archive/data.pkl", forge_pickle({"w": tensor()}))
        for value in (bytes(16), bytes([1]) * 16):
            target.writestr("archive/data/0", value)
    return path


def _bomb(method: int) -> Callable[[Path], Path]:
    """100 MB of zeros in some kilobytes."""
    state = {"w": tensor(shape=(25_000_000,), stride=(1,), count=25_000_000)}
    return lambda folder: written(folder, state, {"data/0": bytes(10**8)}, compression=method)


def _bools(folder: Path) -> Path:
    return written(folder, {"w": tensor(storage=Storage(torch.BoolStorage))}, {"data/0": b"\0\1\2\1"})


def _script(folder: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(torch.nn.ReLU(), torch.ones(1)).save(folder / "m.pt")
    return folder / "m.pt"


def _module(folder: Path) -> Path:
    torch.save(torch.nn.Linear(2, 2), folder / "m.pt")
    return folder / "m.pt"


def _bare(folder: Path) -> Path:
    (folder / "m.pt").write_bytes(forge_pickle({"x": Call(os.system, touch("owned"))}))
    return folder / "m.pt"


def _shared(levels: int) -> Callable[[Path], Path]:
    """Lists that share one another: 10**levels places in some kilobytes."""

    def make(folder: Path) -> Path:
        inner: list[Any] = [tensor()]
        for _ in range(levels):
            inner = [inner] * 10
        return written(folder, {"w": inner}, RECORDS)

    return make


def _unsafe(kind: str, name: str) -> Callable[[Path], Path]:
    return lambda folder: written(folder, unsafe_pickles(folder / "owned")[kind][name][0], RECORDS)


def _cut(size: int) -> Callable[[Path], Path]:
    return lambda folder: changed(good(folder), lambda raw: raw[:size])


METHODS = {"deflate": zipfile.ZIP_DEFLATED, "bzip2": zipfile.ZIP_BZIP2, "LZMA": zipfile.ZIP_LZMA}
FOLDERS = (
    ["a/data.pkl", "b/data.pkl"], ["b/other", "a/data.pkl"], ["data.pkl"], ["/data.pkl"], ["a/b/data.pkl"], ["a/other"],
    ["../data.pkl"],
)  # fmt: skip

FAULTS = (
    *(Fault(READER, k, n, _unsafe(k, n), m[1], unsafe=True) for k, n, m in rows(unsafe_pickles("owned"))),
    Fault(READER, "a call of a function", "in a bare pickle", _bare, r"posix\.system", unsafe=True),
    Fault(READER, "a class of another package", "a whole module", _module, r"torch\.save\(model", unsafe=True),
    Fault(READER, "a program instead of values", "a TorchScript archive", _script, "TorchScript", unsafe=True),
    *(
        Fault(
            READER, k, n, lambda f, m=m: written(f, m[0], m[1]), m[2] or "", opaque=() if m[2] else ("w",),
        )
        for k, n, m in rows(PICKLES)
    ),
    *(
        Fault(READER, k, n, lambda f, m=m: written(f, proto(m + b"."), RECORDS), "pickle_stack")
        for k, n, m in rows(GROWING)
    ),
    Fault(
        READER, "more instructions than the limit", "100,000 of 50,000",
        lambda f: written(f, proto(b"]" + b"q\x00" * 100_000 + b"."), RECORDS), "pickle_steps=50,000",
        options=(("limits", {"pickle_steps": 50_000}),),
    ),
    Fault(READER, "containers that share one another", "20 levels of 10", _shared(20), "its state further down"),
    Fault(READER, "containers that share one another", "60 levels of 10", _shared(60), opaque=("w",)),
    *(Fault(READER, k, n, lambda f, m=m: changed(good(f), m[0]), m[1]) for k, n, m in rows(ARCHIVES)),
    *(Fault(READER, k, n, lambda f, m=m: changed(large(f), m[0]), m[1]) for k, n, m in rows(LARGE)),
    *(Fault(READER, "a zip archive cut short", f"at byte {n}", _cut(n)) for n in (0, 1, 3, 4, 21, 30, 300, 500)),
    Fault(READER, "a member twice", "two records", _twice, "stands twice"),
    *(Fault(READER, "a compressed bomb", name, _bomb(method), "compressed") for name, method in METHODS.items()),
    *(Fault(READER, "an archive without one folder", " and ".join(n), _of(n), "one folder|begins with") for n in FOLDERS),
    *(
        Fault(
            READER, "a byte order that is none", repr(order[:10]),
            lambda f, order=order: written(f, {"w": tensor()}, {**RECORDS, "byteorder": order}), "byteorder",
        )
        for order in (b"middle", b"", b"LITTLE", b"little\n", b"x" * 1000)
    ),
    Fault(READER, "a truth value that is neither", "a byte 2", _bools, "byte 2"),
)  # fmt: skip
