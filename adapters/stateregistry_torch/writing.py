"""Writing `.pt` files: the archive that `torch.save` makes of a state_dict, one value in memory at a time.

`torch.save` wants every tensor at once. Here the pickle, which holds no values, is made first with stand-ins for the
tensors: it is byte for byte the one that `torch.save` makes of the same tensors. Then each value goes straight from its
source into its record, so the peak of memory is the largest value (nothing is copied of a live model on the CPU).
Our own metadata is one more record, `stateregistry.json`, which `torch.load` does not look at; it has a digest of every value,
and the comment of the archive is the digest of all else.
The bytes depend on names, values and `extra` alone. Imports torch.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import torch

from stateregistry.entry import Entry
from stateregistry.registry import StateRegistry
from stateregistry.stores import zip_frame
from stateregistry.stores.base import Document, Progress
from stateregistry.stores.bits import encode
from stateregistry.streaming.digests import of_array
from stateregistry_torch.assembly import further_names, refuse_unfit
from stateregistry_torch.bits import DTYPES
from stateregistry_torch.spelling import dotted

#: The folder that all records are in, as `torch.save` calls it for a stream.
PREFIX: Final = "archive"
#: The record with our metadata.
DOCUMENT: Final = "stateregistry.json"
#: Values begin at multiples of this, as `torch.save` lays them out, so that `torch.load(mmap=True)` can map them.
ALIGNMENT: Final = 64

#: Bytes of the header before each record, less name and extra field.
_FILE_HEADER: Final = 30

#: The storage types that `torch.save` names; any other dtype is an untyped storage.
_TYPED: Final[Mapping[str, Any]] = {
    "bool": torch.BoolStorage,
    "uint8": torch.ByteStorage,
    "int8": torch.CharStorage,
    "int16": torch.ShortStorage,
    "int32": torch.IntStorage,
    "int64": torch.LongStorage,
    "float16": torch.HalfStorage,
    "bfloat16": torch.BFloat16Storage,
    "float32": torch.FloatStorage,
    "float64": torch.DoubleStorage,
    "complex64": torch.ComplexFloatStorage,
    "complex128": torch.ComplexDoubleStorage,
}


def write_torch(path: Path, source: StateRegistry, /, *, extra: Mapping[str, Any], progress: Progress) -> None:
    """Write every entry of `source`, aliases as further names of one tensor, and our document.

    Raises:
        UnsupportedError: a name with a dot. AbstractError: an entry without values. Both before the file is opened.
    """
    refuse_unfit(source, "a .pt file")
    order = source.native_order
    entries = dict(source.items())
    document = Document.describe(source, extra=extra)
    document.to_json()  # what is not JSON is refused before the work starts
    digests: dict[str, str] = {}
    values: list[tuple[int, int]] = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        _record(archive, "data.pkl", _pickle(order, entries, further_names(source)))
        _record(archive, "byteorder", b"little")
        for number, key in enumerate(order):
            value = source.view(key)
            digests[key] = of_array(value)
            values.append(_record(archive, f"data/{number}", encode(value)))
            progress(key, entries[key].nbytes)
        _record(archive, DOCUMENT, document.with_digests(digests, "").to_json().encode("ascii"))
        _record(archive, "version", b"3\n")
        zip_frame.leave_room(archive)
    zip_frame.seal(path, values)


def _record(archive: zipfile.ZipFile, name: str, data: bytes | memoryview) -> tuple[int, int]:
    """Add a record, uncompressed and aligned, with the date of every file that torch writes; where its bytes lie."""
    info = zipfile.ZipInfo(f"{PREFIX}/{name}", date_time=(1980, 1, 1, 0, 0, 0))
    info.create_system = 0  # the default differs between systems
    info.file_size = len(data)
    big = info.file_size * 1.05 > zipfile.ZIP64_LIMIT
    stream = archive.fp
    assert stream is not None  # it is open
    header = stream.tell() + _FILE_HEADER + len(info.filename) + 4 + (20 if big else 0)
    padding = -header % ALIGNMENT
    # The extra field that torch pads with: id "FB", its length, and bytes that mean nothing.
    info.extra = b"FB" + padding.to_bytes(2, "little") + b"Z" * padding
    with archive.open(info, "w", force_zip64=big) as record:
        record.write(data)
    end = stream.tell()
    return end - len(data), end


@final
@dataclass(frozen=True, slots=True)
class _Storage:
    """Stands for a storage: written as the persistent id by which `torch.load` finds its record."""

    type: Any
    number: str
    size: int

    @property
    def id(self) -> tuple[Any, ...]:
        return ("storage", self.type, self.number, "cpu", self.size)


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Tensor:
    """Stands for a contiguous tensor over a storage of its own."""

    storage: _Storage
    shape: tuple[int, ...]
    dtype: torch.dtype

    def reduced(self) -> tuple[Any, ...]:
        """How a tensor is pickled: a function of torch and its arguments."""
        stride, step = [], 1
        for size in reversed(self.shape):
            stride.append(step)
            step *= max(size, 1)
        # Objects of its own for every tensor: a pickle writes one object that comes twice by reference.
        shape = tuple(list(self.shape))  # noqa: C414  # tuple() of a tuple is the same object
        hooks: OrderedDict[str, Any] = OrderedDict()
        arguments = (self.storage, 0, shape, tuple(reversed(stride)), False, hooks)
        if self.storage.type is torch.UntypedStorage:
            return (torch._utils._rebuild_tensor_v3, (*arguments, self.dtype))  # noqa: SLF001  # the names in every .pt
        return (torch._utils._rebuild_tensor_v2, arguments)  # noqa: SLF001


@final
class _Pickler(pickle.Pickler):
    def persistent_id(self, obj: Any) -> tuple[Any, ...] | None:
        return obj.id if isinstance(obj, _Storage) else None

    def reducer_override(self, obj: Any) -> Any:
        return obj.reduced() if isinstance(obj, _Tensor) else NotImplemented


def _pickle(order: tuple[str, ...], entries: Mapping[str, Entry], aliases: Mapping[str, list[str]]) -> bytes:
    """The `data.pkl` of a state_dict whose n-th tensor is the record `data/n`."""
    tensors: OrderedDict[str, _Tensor] = OrderedDict()
    for number, key in enumerate(order):
        entry = entries[key]
        kind = _TYPED.get(entry.dtype, torch.UntypedStorage)
        size = entry.nbytes if kind is torch.UntypedStorage else entry.size
        tensor = _Tensor(_Storage(kind, str(number), size), entry.shape, DTYPES[entry.dtype])
        for name in (key, *aliases.get(key, ())):
            tensors[dotted(name)] = tensor
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=2).dump(tensors)
    return buffer.getvalue()
