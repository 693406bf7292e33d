"""Torch files of the format before zip: five pickles and the values, each of which can lie. torch must never see these."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hostile.corpus import Fault, Table, rows
from hostile.torch_pickles import Call, Storage, forge_pickle, touch
from hostile.torch_pickles import tensor as tensor_of

READER = "torch legacy"
SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
FLOATS = torch.FloatStorage


def old(kind: Any, key: Any, location: Any, count: Any, *view: Any, head: str = "storage") -> Storage:
    """A storage as the format before zip names it: with the view that it may be of another."""
    return Storage(kind, key, count, location, head, view)


FOUR = old(FLOATS, "0", "cpu", 4, None)


def tensor(storage: Any = FOUR, shape: Any = (4,), stride: Any = (1,), offset: Any = 0) -> Call:
    """A tensor of the four floats, or of another storage."""
    return tensor_of(offset, shape, stride, storage=storage)


def written(
    folder: Path,
    root: Any,
    keys: Any = ("0",),
    data: bytes | None = None,
    magic: int = 0x1950A86A20F9469CFC6C,
    protocol: int = 1001,
    system: Any = SYSTEM,
) -> Path:
    """A file of those parts."""
    data = (4).to_bytes(8, "little") + np.arange(4, dtype="<f4").tobytes() if data is None else data
    parts = [magic, protocol, system, root, list(keys) if isinstance(keys, tuple) else keys]
    path = folder / "m.pt"
    path.write_bytes(b"".join(forge_pickle(part) for part in parts) + data)
    return path


UNSAFE: Table = {
    "a call of a function": {
        "os.system": {"w": Call(os.system, touch("owned"))},
        "eval": {"w": Call(eval, "open('owned', 'w')")},
        "a function of torch": {"w": Call(torch.hub.load, "a/b", "c")},
    },
    "a class of another package": {
        "a class": {"w": tensor(), "model": torch.nn.Linear(2, 2)},
    },
    "a function that is named and not called": {
        "a class that is not called": {"w": tensor(), "cls": subprocess.Popen},
    },
}

#: Parts that are other than they should be.
LIES: Table = {
    "a protocol that is none": {
        "another protocol": {"protocol": 1000},
    },
    "a byte order that is none": {
        "another byte order": {"system": {"little_endian": False}},
        "no system": {"system": [1]},
    },
    "a storage that is not listed": {
        "a storage that is not listed": {"keys": ()},
    },
    "a storage that is listed twice": {
        "a storage that is listed twice": {"keys": ("0", "0"), "data": 2 * ((4).to_bytes(8, "little") + bytes(16))},
    },
    "a storage that nobody uses": {
        "a storage that nobody uses": {"keys": ("0", "1"), "data": 2 * ((4).to_bytes(8, "little") + bytes(16))},
    },
    "a list of another type": {
        "keys that are no list": {"keys": {"0": 1}},
        "keys that are no names": {"keys": [0]},
    },
    "values cut short": {
        "no values": {"data": b""},
        "values cut short": {"data": (4).to_bytes(8, "little") + bytes(15)},
    },
    "bytes that nobody claims": {
        "more after the end": {"data": (4).to_bytes(8, "little") + bytes(17)},
    },
    "shape and bytes disagree": {
        "another number of elements": {"data": (5).to_bytes(8, "little") + bytes(20)},
    },
    "a length that overflows": {
        "a number of elements of 2^63": {"data": (2**63).to_bytes(8, "little") + bytes(16)},
    },
    "gigabytes declared in a small file": {
        "10 GB declared": {"root": {"w": tensor(old(FLOATS, "0", "cpu", 2684354560, None))}},
        "2^62 elements": {"root": {"w": tensor(old(FLOATS, "0", "cpu", 2**62, None))}},
    },
    "a storage that cannot be": {
        "negative elements": {"root": {"w": tensor(old(FLOATS, "0", "cpu", -4, None))}},
        "no class of a storage": {"root": {"w": tensor(old("FloatStorage", "0", "cpu", 4, None))}},
    },
    "a storage that is a view of another": {
        "a view of another storage": {"root": {"w": tensor(old(FLOATS, "0", "cpu", 4, ("1", 0, 4)))}},
    },
    "a persistent id of another sort": {
        "a storage of an archive": {"root": {"w": tensor(old(FLOATS, "0", "cpu", 4))}},
        "a module": {"root": {"w": tensor(), "m": Storage(FLOATS, "x.py", "source", head="module")}},
    },
    "one storage that is two things": {
        "two dtypes": {"root": {"w": tensor(), "v": tensor(old(torch.IntStorage, "0", "cpu", 4, None))}},
    },
    "an offset beyond the end": {
        "beyond the storage": {"root": {"w": tensor(shape=(5,))}},
        "beyond by offset": {"root": {"w": tensor(offset=1)}},
    },
    "a stride beyond the end": {
        "beyond by strides": {"root": {"w": tensor(shape=(2, 2), stride=(3, 1))}},
    },
    "strides that cannot be": {
        "a negative stride": {"root": {"w": tensor(stride=(-1,), offset=3)}},
    },
    "a tensor repeated without end": {
        "repeated without end": {"root": {"w": tensor(shape=(2**40,), stride=(0,))}},
    },
    "a shape that overflows": {
        "a shape that overflows": {"root": {"w": tensor(shape=(2**40, 2**40), stride=(0, 0))}},
    },
    "more axes than an array has": {
        "65 axes": {"root": {"w": tensor(shape=(1,) * 65, stride=(1,) * 65)}},
    },
}


def _lying(parts: dict[str, Any]) -> Callable[[Path], Path]:
    more = dict(parts)
    root = more.pop("root", {"w": tensor()})
    return lambda folder: written(folder, root, **more)


def _cut(size: int) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = written(folder, {"w": tensor()})
        path.write_bytes(path.read_bytes()[:size])
        return path

    return make


BAD = Call(os.system, touch("owned"))
FAULTS = (
    *(Fault(READER, k, n, lambda f, m=m: written(f, m), unsafe=True) for k, n, m in rows(UNSAFE)),
    Fault(
        READER, "a call in a pickle beside the state", "the system",
        lambda f: written(f, {"w": tensor()}, system={"little_endian": True, "x": BAD}), unsafe=True,
    ),
    Fault(
        READER, "a call in a pickle beside the state", "the keys",
        lambda f: written(f, {"w": tensor()}, keys=[BAD]), unsafe=True,
    ),
    *(Fault(READER, k, n, _lying(m)) for k, n, m in rows(LIES)),
    *(Fault(READER, "a pickle cut short", f"at byte {size}", _cut(size)) for size in (1, 9, 30, 100, 180)),
)  # fmt: skip
