"""Reads torch distributed checkpoints (DCP): a directory with `.metadata` and files of shards. No torch is needed.

The metadata goes through `dcp_metadata`, every value through the reader of torch archives: nothing is run, and each part of a
tensor is held against what the metadata says of it when it is read. Tensors that were sharded over processes are put together
one at a time. A file is opened for the moment in which it is read, so that thousands of them need no handles, and refused if
it has changed. Files stay inside the directory. Imports NumPy, no framework.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, NoReturn, final

import numpy as np

from stateregistry import errors, keys
from stateregistry.entry import DTYPES, numpy_dtype
from stateregistry.parts import Box
from stateregistry.stores.boxes import read_box
from stateregistry.stores.collector import collector_paused
from stateregistry.stores.dcp_metadata import Checkpoint, Chunk, Described, read_metadata
from stateregistry.stores.folder import DOCUMENT, frame_problem, read_document
from stateregistry.stores.limits import DEFAULT, Limits
from stateregistry.stores.links import refuse_leading_out
from stateregistry.stores.listed import ListedFile
from stateregistry.stores.listing import list_stored
from stateregistry.stores.mapped import MappedFile
from stateregistry.stores.names import DOT
from stateregistry.stores.pickle_machine import Table
from stateregistry.stores.torch_listing import stored_of
from stateregistry.stores.torch_objects import Storage, Tensor, TorchDtype
from stateregistry.stores.torch_tree import select_state
from stateregistry.stores.torch_zip import is_contiguous, read_archive, shaped, span_of
from stateregistry.stores.zip_archive import LOCAL_MAGIC
from stateregistry.streaming.origins import Joined
from stateregistry.streaming.task import Stored as Place

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from stateregistry.stores.bits import ByteOrder
    from stateregistry.stores.document import Document
    from stateregistry.stores.zip_archive import Member

METADATA: Final = ".metadata"
#: What the names of the files end with that torch puts values in.
_SHARD: Final = ".distcp"


def is_checkpoint(path: Path) -> bool:
    """Whether a directory has a `.metadata` that begins as a pickle."""
    try:
        with MappedFile(path / METADATA) as file:
            head = file.read(0, min(2, file.size))
    except errors.StateError:
        return False
    return head[:1] == b"\x80" and head[1:] in (b"\x02", b"\x03", b"\x04", b"\x05")


def strangers(folder: Path) -> tuple[str, ...]:
    """The names in a directory that are no part of one such checkpoint; all of them, or its own, where it is none."""
    names = tuple(path.name for path in folder.iterdir())
    if not is_checkpoint(folder):
        return names or (folder.name,)
    own = (METADATA, DOCUMENT)
    return tuple(name for name in names if not (name in own or (name.endswith(_SHARD) and (folder / name).is_file())))


def open_dcp(path: Path, /, *, part: str = "", limits: Limits = DEFAULT) -> DcpRegistry:
    """A lazy, read-only registry over a checkpoint directory.

    Args:
        path: the directory. part: the sub-key of the state inside, as `open_torch` takes it.
        limits: how much it may ask for.

    Raises:
        UnsafeFileError: reading it as torch does would run code from it, or it leads out of its directory.
        FileFormatError: damaged, incomplete, contradicting itself, over a limit, or not a mapping of names to tensors.
        FileMissingError, FileAccessError; KeyPathError, DuplicateKeyError (names that give no keys).
    """
    where = str(path)
    with collector_paused():
        refuse_leading_out(path, METADATA)
        with MappedFile(path / METADATA) as file:
            limits.check("pickle_bytes", file.size, f"{file.path}: length")
            raw = file.read(0, file.size)
        found = read_metadata(raw, str(path / METADATA), limits)
        files = {name: _stat(path, name, end) for name, end in found.files.items()}
        state = select_state(_tree(found, where), part, where, limits)
        document = None if part else read_document(path, limits)
        return DcpRegistry(path, state, found, files, document, limits)


def _tree(found: Checkpoint, where: str) -> Table:
    """The tree that was saved, made of inert values; a list of it is a table of numbers."""
    root = Table()
    for name, path in found.paths.items():
        node = root
        for part in path[:-1]:
            inner = node.setdefault(part, Table())
            if not isinstance(inner, Table):
                _fail(where, f"holds a value and others below it at {'.'.join(map(str, path))[:200]!r}")
            node = inner
        if path[-1] in node:
            _fail(where, f"holds two values, or a value and others below it, at {'.'.join(map(str, path))[:200]!r}")
        item = found.items[name]
        node[path[-1]] = _inert(item) if isinstance(item, Described) else item
    return root


def _inert(item: Described) -> Tensor:
    """A tensor in the terms of the reader of archives: each has a place of its own, as DCP stores every name."""
    stride, step = [], 1
    for size in reversed(item.shape):
        stride.append(step)
        step *= max(size, 1)
    storage = Storage(item.name, step * DTYPES[item.dtype], TorchDtype(item.dtype, item.dtype))
    return Tensor(storage, item.dtype, 0, item.shape, tuple(reversed(stride)), item.requires_grad)


@final
@dataclass(frozen=True, slots=True)
class _Known:
    """A file as it was when the checkpoint was opened."""

    size: int
    modified: int


def _stat(folder: Path, name: str, end: int) -> _Known:
    """Length and time of a file, which reaches at least to `end`.

    Raises:
        UnsafeFileError: a link that leads out of the directory. FileFormatError: it ends before a value does.
    """
    refuse_leading_out(folder, name)
    file = folder / name
    with MappedFile(file) as opened:
        if end > opened.size:
            _fail(str(file), f"has {opened.size:,} bytes, and a value of it ends at {end:,}")
        return _Known(opened.size, opened.modified)


def frame_order(files: Iterable[str]) -> tuple[str, ...]:
    """The files of a checkpoint in the order in which their digest takes them."""
    return (*sorted(files), METADATA)


def _fail(where: str, what: str) -> NoReturn:
    hint = "the checkpoint is incomplete or damaged: get it again"
    raise errors.FileFormatError(f"{where}: {what}", hint=hint)


@final
class _Stretch:
    """A stretch of an open file that is an archive of its own."""

    def __init__(self, file: MappedFile, begin: int, size: int) -> None:
        self._file, self.begin, self._size = file, begin, size

    @property
    def path(self) -> Path:
        """The file."""
        return self._file.path

    @property
    def size(self) -> int:
        """Bytes of the stretch."""
        return self._size

    def read(self, offset: int, nbytes: int) -> bytes:
        """Bytes of the stretch.

        Raises:
            FileFormatError: they lie outside of it.
        """
        if offset < 0 or nbytes < 0 or offset + nbytes > self._size:
            _fail(str(self.path), f"a value lies outside of the {self._size:,} bytes that are its own")
        return self._file.read(self.begin + offset, nbytes)


@final
@dataclass(frozen=True, slots=True)
class _Part:
    """One part of a tensor, found in its file."""

    tensor: Tensor
    records: Mapping[str, Member]
    order: ByteOrder
    begin: int


@final
class DcpRegistry(ListedFile):
    """A registry over the state in one distributed checkpoint."""

    adapter: ClassVar[str] = "torch"

    def __init__(
        self,
        path: Path,
        state: Table,
        found: Checkpoint,
        files: Mapping[str, _Known],
        document: Document | None,
        limits: Limits,
    ) -> None:
        self.path, self._known, self._limits, self._closed = path, files, limits, False
        items = {item.name: item for item in found.items.values() if isinstance(item, Described)}
        values = self._without_copies(state, items, document)
        listing = list_stored(stored_of(values, document), str(path))
        told = dict(zip(listing.keys, values.values(), strict=True))
        tensors = {key: tensor for key, tensor in told.items() if isinstance(tensor, Tensor)}
        super().__init__(path, listing, dialect="torch", document=document)
        self._items = {key: items[tensors[key].storage.key] for key in listing.entries}

    def _without_copies(
        self, state: Table, items: Mapping[str, Described], document: Document | None
    ) -> dict[str, object]:
        """The values by name, less the copies that our document lists as aliases.

        Raises:
            FileFormatError: one is not the same, byte for byte, as that of its canonical key.
        """
        values = {name: value for name, value in state.items() if value is not None}
        for alias, key in document.aliases.items() if document is not None else ():
            copy, first = values.get(_dotted(alias)), values.get(_dotted(key))
            if not isinstance(copy, Tensor) or not isinstance(first, Tensor):
                continue
            one, two = items[copy.storage.key], items[first.storage.key]
            if (one.shape, one.dtype) != (two.shape, two.dtype) or not self._equal(one, two):
                message = f"{self.path}: our metadata calls {alias!r} an alias of {key!r}, and their values differ"
                hint = "another program has written one of them: restore the checkpoint"
                raise errors.FileFormatError(message, keys=(alias, key), hint=hint)
            del values[_dotted(alias)]
        return values

    def _equal(self, one: Described, two: Described) -> bool:
        return self._value(one).tobytes() == self._value(two).tobytes()

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that is read."""
        return tuple(self.path / name for name in (*self._known, METADATA))

    def _file(self, name: str) -> MappedFile:
        """A file of the checkpoint, opened.

        Raises:
            FileFormatError: it has changed since the checkpoint was opened. UnsupportedError: closed.
        """
        if self._closed:
            message = f"{self.path}: the registry over this checkpoint is closed"
            raise errors.UnsupportedError(message, hint="read the values inside the with block")
        file = MappedFile(self.path / name)
        known = self._known[name]
        if (file.size, file.modified) != (known.size, known.modified):
            file.close()
            message = f"{file.path}: has changed since the checkpoint was opened"
            raise errors.FileFormatError(message, hint="another program writes it: open it again when it is done")
        return file

    def _part(self, file: MappedFile, item: Described, chunk: Chunk) -> _Part:
        """What a part is stored as, held against what the metadata says of it.

        Raises:
            UnsafeFileError, FileFormatError: as for an archive; or it is another tensor.
        """
        place = chunk.place
        where = f"{file.path}: the part of {item.name!r} at byte {place.offset:,}"
        stretch = _Stretch(file, place.offset, place.length)
        if stretch.read(0, min(4, place.length)) != LOCAL_MAGIC:
            _fail(where, "is no torch archive")
        archive = read_archive(stretch, self._limits)
        tensor = archive.root
        if not isinstance(tensor, Tensor):
            _fail(where, "holds no tensor")
        if (tensor.shape, tensor.dtype) != (chunk.sizes, item.dtype):
            what = f"is {tensor.dtype}{list(tensor.shape)}, and the metadata says {item.dtype}{list(chunk.sizes)}"
            _fail(where, what)
        return _Part(tensor, archive.records, archive.order, place.offset)

    def place(self, key: str, /) -> Place | None:
        """Where the value lies, if it lies in one piece as it is; `None` for one that has to be put together."""
        item = self._items[key]
        return self._place(item, item.chunks[0]) if len(item.chunks) == 1 else None

    def origin(self, key: str, /) -> Place | Joined | None:
        """As `place`, and for a tensor that was sharded over processes, where each of its parts lies as it is."""
        item = self._items[key]
        if len(item.chunks) == 1:
            return self.place(key)
        parts = []
        for chunk in item.chunks:
            part = self._place(item, chunk)
            if part is None:
                return None
            parts.append(part)
        offsets, sizes = (tuple(getattr(chunk, name) for chunk in item.chunks) for name in ("offsets", "sizes"))
        return Joined(item.shape, item.dtype, tuple(parts), offsets, sizes, f"{self.path}: {key!r}")

    def _place(self, item: Described, chunk: Chunk) -> Place | None:
        """Where a part lies, if it is contiguous and nothing has to be done to its bits."""
        if sys.byteorder == "big" or item.dtype == "bool":
            return None
        with self._file(chunk.place.file) as file:
            part = self._part(file, item, chunk)
            tensor = part.tensor
            if part.order == "big" or tensor.conjugate or tensor.negative or not is_contiguous(tensor):
                return None
            begin, nbytes = span_of(tensor, part.records)
            extents = ((part.begin + begin, nbytes),)
            return Place(file.absolute, file.size, file.modified, extents, item.dtype, f"{self.path}: {item.name!r}")

    def _read(self, key: str, /) -> np.ndarray:
        return self._value(self._items[key])

    def _value(self, item: Described) -> np.ndarray:
        whole = np.empty(item.shape, numpy_dtype(item.dtype))
        for chunk in item.chunks:
            window = tuple(slice(at, at + size) for at, size in zip(chunk.offsets, chunk.sizes, strict=True))
            # As integers: no bit of a value may depend on how it is copied.
            _as_bytes(whole)[window] = _as_bytes(self._piece(item, chunk))
        return whole

    def _piece(self, item: Described, chunk: Chunk) -> np.ndarray:
        """The value of a part."""
        with self._file(chunk.place.file) as file:
            part = self._part(file, item, chunk)
            begin, nbytes = span_of(part.tensor, part.records)
            raw = np.empty(nbytes, np.uint8)
            file.copy_into(raw, part.begin + begin)
        return shaped(raw, part.tensor, part.order, f"{self.path}: {item.name!r}")

    def read_part(self, key: str, box: Box, /) -> np.ndarray:
        """As that of every file; of the parts that the box does not touch nothing is read, their headers included."""
        self._hold(key)
        item = self._items[key]
        whole = np.empty(box.sizes, numpy_dtype(item.dtype))
        for chunk in item.chunks:
            rows = list(zip(box.offsets, box.sizes, chunk.offsets, chunk.sizes, strict=True))
            begin = [max(at, there) for at, _, there, _ in rows]
            end = [min(at + size, there + width) for at, size, there, width in rows]
            if any(low >= high for low, high in zip(begin, end, strict=True)):
                continue
            inner = Box(
                tuple(low - at for low, at in zip(begin, chunk.offsets, strict=True)),
                tuple(high - low for low, high in zip(begin, end, strict=True)),
            )
            place = self._place(item, chunk)
            if place is None:
                window = tuple(slice(at, at + size) for at, size in zip(inner.offsets, inner.sizes, strict=True))
                piece = self._piece(item, chunk)[window]
            else:
                piece = read_box(place, chunk.sizes, inner)
            here = tuple(slice(low - at, high - at) for low, high, at in zip(begin, end, box.offsets, strict=True))
            _as_bytes(whole)[here] = _as_bytes(np.ascontiguousarray(piece).reshape(inner.sizes))
        return whole

    def _load(self, key: str, /) -> np.ndarray:
        return self._read(key)

    def _frame_problem(self) -> str | None:
        return frame_problem(self.path, frame_order(self._known), self.document)

    def close(self) -> None:
        """Nothing is open between reads; values can be read no more. Idempotent."""
        self._closed = True


def _dotted(key: str) -> str:
    return DOT.join(keys.split(key))


def _as_bytes(array: np.ndarray) -> np.ndarray:
    """The same elements as pieces of memory without a meaning."""
    return array.view(np.dtype(f"V{array.dtype.itemsize}"))
