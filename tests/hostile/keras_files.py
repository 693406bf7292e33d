"""Files of Keras 3 that lie: HDF5 that leads out of itself, loads code, holds what was never written, or has no end."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hostile.corpus import Fault, Table, rows

READER = "Keras"
VALUES = np.arange(4, dtype=np.float32)


def weights(folder: Path, change: Callable[[h5py.File, Path], Any] = lambda file, folder: None) -> Path:
    """A file of one layer to which something was done."""
    path = folder / "m.weights.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("layers/a/vars")
        group.attrs["name"] = "a"
        group.create_dataset("0", data=VALUES)
        change(file, folder)
    return path


def archive(folder: Path, change: Callable[[bytes], bytes] = lambda raw: raw, **options: Any) -> Path:
    """A `.keras` archive around such a file."""
    inner = weights(folder)
    raw = inner.read_bytes()
    inner.unlink()
    path = folder / "m.keras"
    with zipfile.ZipFile(path, "w", **options) as out:
        out.writestr("metadata.json", json.dumps({"keras_version": "3.15.1", "date_saved": "today"}))
        out.writestr("config.json", '{"class_name": "Sequential"}')
        out.writestr("model.weights.h5", change(raw))
    return path


WHERE = "layers/a/vars/1"


def _external(file: h5py.File, folder: Path) -> None:
    with h5py.File(folder / "other.h5", "w") as other:
        other["x"] = VALUES
    file[WHERE] = h5py.ExternalLink(str(folder / "other.h5"), "/x")


def _external_storage(file: h5py.File, folder: Path) -> None:
    (folder / "secret").write_bytes(VALUES.tobytes())
    file.create_dataset(WHERE, (4,), "f4", external=[(str(folder / "secret"), 0, 16)])


def _virtual(file: h5py.File, folder: Path) -> None:
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "x", (4,), "f4")
    file.create_virtual_dataset(WHERE, layout)


def _filter(file: h5py.File, folder: Path) -> None:
    """A filter that HDF5 would look for among the plugins of the machine."""
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((4,))
    plist.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, ())
    space = h5py.h5s.create_simple((4,))
    made = h5py.h5d.create(file["layers/a/vars"].id, b"1", h5py.h5t.IEEE_F32LE, space, plist)
    made.write(h5py.h5s.ALL, h5py.h5s.ALL, VALUES)


def _loop(file: h5py.File, folder: Path) -> None:
    file["layers/a/loop"] = file["layers"]


def _deep(file: h5py.File, folder: Path) -> None:
    file.create_dataset("layers/" + "/".join("abcdefghijklmnopqrstuvwxyzabcdefghijkl") + "/vars/0", data=VALUES)


def _hole(file: h5py.File, folder: Path) -> None:
    file.create_dataset(WHERE, (8,), "f4")


def _half_a_hole(file: h5py.File, folder: Path) -> None:
    file.create_dataset(WHERE, (8,), "f4", chunks=(2,))[:2] = 1


def _huge(file: h5py.File, folder: Path) -> None:
    file.create_dataset(WHERE, (1 << 40,), "f4")


def _huge_blocks(file: h5py.File, folder: Path) -> None:
    file.create_dataset(WHERE, (1 << 40,), "f4", chunks=(1 << 20,), compression="gzip")


def _bomb(file: h5py.File, folder: Path) -> None:
    options = {"compression": "gzip", "compression_opts": 9, "chunks": (1 << 22,)}
    file.create_dataset(WHERE, data=np.zeros(1 << 25, np.float32), **options)


def _other(folder: Path) -> Path:
    path = folder / "m.weights.h5"
    with h5py.File(path, "w") as file:
        file["dense/dense/kernel:0"] = np.zeros((2, 2), "f4")
    return path


def _without(folder: Path) -> Path:
    path = folder / "m.keras"
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("metadata.json", "{}")
        out.writestr("config.json", "{}")
    return path


UNSAFE: Table = {
    "a link within a file": {
        "a soft one": lambda file, folder: file.__setitem__(WHERE, h5py.SoftLink("/layers/a/vars/0"))
    },
    "a link to another file": {"an external one": _external},
    "values of another file": {"external storage": _external_storage, "a virtual array": _virtual},
    "a filter that would be loaded": {"32015": _filter},
}
LIES: Table = {
    "a container inside itself": {"a group": _loop},
    "nesting without end": {"groups": _deep},
    "values that were never written": {"a hole": _hole, "half a hole": _half_a_hole},
    "gigabytes declared in a small file": {"in one stretch": _huge, "in blocks": _huge_blocks},
    "a gzip bomb": {"128 MB of zeros": _bomb},
}


def _cut(make: Callable[..., Path], size: int) -> Callable[[Path], Path]:
    def made(folder: Path) -> Path:
        path = make(folder)
        path.write_bytes(path.read_bytes()[:size])
        return path

    return made


FAULTS = (
    *(Fault(READER, k, n, lambda f, m=m: weights(f, m), "vars/1", unsafe=True) for k, n, m in rows(UNSAFE)),
    *(Fault(READER, k, n, lambda f, m=m: weights(f, m)) for k, n, m in rows(LIES)),
    Fault(READER, "an HDF5 file of other things", "of an earlier Keras", _other, "which Keras 3 does not write"),
    Fault(READER, "a file that is missing", "the weights of an archive", _without, "has no model"),
    Fault(
        READER, "a compressed member where none is", "the weights",
        lambda f: archive(f, compression=zipfile.ZIP_DEFLATED), "compressed",
    ),
    Fault(
        READER, "a checksum that does not fit", "a flipped bit in an archive",
        lambda f: _flipped(archive(f)),
    ),
    *(Fault(READER, "an HDF5 file cut short", f"at {n}", _cut(weights, n)) for n in (0, 7, 8, 97, 800, 2000, -1)),
    *(Fault(READER, "a zip archive cut short", f"at {n}", _cut(archive, n)) for n in (0, 30, 300, -1)),
    *(
        Fault(
            READER, "more than a limit", f"{limit}={value}", weights, "limit", options=(("limits", {limit: value}),),
        )
        for limit, value in {"name_chars": 3, "nesting": 2}.items()
    ),
)  # fmt: skip


def _flipped(path: Path) -> Path:
    raw = path.read_bytes()
    at = raw.index(VALUES.tobytes()) + 6
    path.write_bytes(raw[:at] + bytes([raw[at] ^ 16]) + raw[at + 1 :])
    return path
