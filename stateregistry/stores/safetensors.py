"""The safetensors store: a reader and a writer of our own, because streaming needs both. This module is the store.

Reading is lazy: headers when the file is opened, values memory-mapped when they are viewed. A sharded checkpoint is opened
by its index, or by the directory that has one. Writing streams, C-contiguous and little-endian, whatever layout the source
has. Kinds, flags, aliases, native order and digests travel in `__metadata__["stateregistry"]`; every other reader of the
format sees an ordinary file. Refuses what the format cannot hold before it writes. Reading a header needs no NumPy and
writing no framework; the `safetensors` library is never imported.
"""

from __future__ import annotations

import struct
import sys
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, final

from stateregistry import errors
from stateregistry.entry import numpy_dtype
from stateregistry.stores import safetensors_index
from stateregistry.stores.base import Document, Progress
from stateregistry.stores.collector import collector_paused
from stateregistry.stores.limits import DEFAULT, Limits
from stateregistry.stores.listed import ListedFile
from stateregistry.stores.listing import Stored, list_stored
from stateregistry.stores.mapped import MappedFile
from stateregistry.stores.safetensors_header import (
    INDEX_SUFFIX,
    METADATA_NAME,
    SUFFIX,
    Header,
    header_length,
    parse_header,
)
from stateregistry.streaming.origins import Stored as Place

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np

    from stateregistry.registry import StateRegistry
    from stateregistry.streaming.layout import Layout

__all__ = ["METADATA_NAME", "dialect", "install", "layout", "name", "open", "open_within", "sniff", "suffixes", "write"]

name = "safetensors"
suffixes = (SUFFIX, INDEX_SUFFIX)
install = "nothing to install"
dialect = ""

#: A header that a file of this format can plausibly have; beyond it, another format begins with 8 odd bytes.
_PLAUSIBLE_HEADER = 1 << 32


def sniff(path: Path, head: bytes, /) -> bool:  # the Store protocol has it
    """Whether a file begins with the length of a header and a `{`, or is the index of such files; or a directory has one."""
    if not head:
        return path.is_dir() and safetensors_index.in_folder(path) is not None
    if safetensors_index.looks_like_it(path, head):
        return True
    if len(head) < 9 or head[8:9] != b"{":
        return False
    length: int = struct.unpack("<Q", head[:8])[0]
    return 2 <= length < _PLAUSIBLE_HEADER


def open(path: Path, /) -> SafetensorsRegistry:  # noqa: A001  # the name that the Store protocol has
    """A lazy, read-only registry over a file, or over the shards that an index names.

    Raises:
        FileMissingError, FileAccessError, FileFormatError; KeyPathError, DuplicateKeyError (names that give no keys).
        UnsafeFileError: an index that leads out of its directory.
    """
    return open_within(path, DEFAULT)


def open_within(path: Path, limits: Limits, /) -> SafetensorsRegistry:
    """As `open`, with limits other than the defaults."""
    listed = safetensors_index.in_folder(path) if path.is_dir() else None
    index = listed or path
    with MappedFile(index) as first, collector_paused():
        head = first.read(0, min(4096, first.size))
        if not safetensors_index.looks_like_it(index, head):
            if index.name.endswith(INDEX_SUFFIX):
                raise errors.FileFormatError(f"{index}: is no index of safetensors files", hint="restore it")
            return _over([index], path, None, limits)
        found = safetensors_index.read(first, index, limits)
    with collector_paused():
        return _over([found.folder / shard for shard in found.shards], path, found, limits)


def _over(
    paths: Sequence[Path], path: Path, index: safetensors_index.Index | None, limits: Limits
) -> SafetensorsRegistry:
    files: list[MappedFile] = []
    try:
        headers = []
        for one in paths:
            files.append(MappedFile(one))
            headers.append(_header(files[-1], limits))
            limits.check("entries", sum(len(header.names) for header in headers), f"{path}: number of arrays")
        if index is not None:
            index.check([header.names for header in headers])
        return SafetensorsRegistry(path, files, headers, _document(path, headers, index, limits), index)
    except BaseException:
        for file in files:
            file.close()
        raise


def _header(file: MappedFile, limits: Limits) -> Header:
    where = str(file.path)
    length = header_length(file.read(0, min(8, file.size)), file.size, where, limits)
    return parse_header(file.read(8, length), file.size, where, limits)


def _document(
    path: Path, headers: Sequence[Header], index: safetensors_index.Index | None, limits: Limits
) -> Document | None:
    """What our metadata says of all: that of the index, else of the files where all have some."""
    texts = [header.metadata.get(METADATA_NAME) for header in headers]
    if index is not None and index.document is not None:
        texts = [index.document]
    if not texts or any(text is None for text in texts):
        return None
    documents = []
    for text in texts:
        limits.check("document_bytes", len(str(text)), f"{path}: length of our metadata")
        documents.append(Document.from_json(str(text), str(path)))
    return documents[0] if len(documents) == 1 else safetensors_index.merged(documents)


@final
class SafetensorsRegistry(ListedFile):
    """A registry over one safetensors file, or over all shards of a checkpoint.

    Attributes:
        metadata: the texts of `__metadata__`, ours included; of shards, those that all of them have.
    """

    adapter: ClassVar[str] = name

    def __init__(
        self,
        path: Path,
        files: Sequence[MappedFile],
        headers: Sequence[Header],
        document: Document | None,
        index: safetensors_index.Index | None = None,
    ) -> None:
        shared = [set(header.metadata.items()) for header in headers]
        metadata = dict(set.intersection(*shared)) if shared else {}
        bare = "torch" if metadata.get("format") == "pt" else dialect
        one = headers[0] if len(headers) == 1 else None
        names = one.names if one else [name for header in headers for name in header.names]
        shapes = one.shapes if one else [shape for header in headers for shape in header.shapes]
        dtypes = one.dtypes if one else [dtype for header in headers for dtype in header.dtypes]
        opaque = {name: reason for header in headers for name, reason in header.opaque.items()}
        listing = list_stored(Stored(names, shapes, dtypes, opaque=opaque, dialect=bare, document=document), str(path))
        super().__init__(path, listing, dialect=bare, document=document)
        self.metadata = MappingProxyType(metadata)
        self._open_files, self._index = tuple(files), index
        self._texts = tuple(header.metadata.get(METADATA_NAME) for header in headers)
        starts = ((number, start) for number, header in enumerate(headers) for start in header.starts)
        self._starts = dict(zip(listing.keys, starts, strict=True))

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that is read: the shards, and their index."""
        shards = tuple(file.path for file in self._open_files)
        return shards if self._index is None else (*shards, self._index.path)

    def place(self, key: str, /) -> Place | None:
        """Where the value lies."""
        if sys.byteorder == "big":
            return None
        number, start = self._starts[key]
        entry, file = self._list.entries[key], self._open_files[number]
        where = f"{file.path}: {key!r}"
        return Place(file.absolute, file.size, file.modified, ((start, entry.nbytes),), entry.dtype, where)

    def _read(self, key: str, /) -> np.ndarray:
        from stateregistry.stores import bits  # lazy: NumPy, for who reads values

        entry = self._list.entries[key]
        number, start = self._starts[key]
        raw = self._open_files[number].view(start, entry.nbytes)
        return bits.decode(raw, entry.shape, entry.dtype, "little", f"{self.path}: {key!r}")

    def _load(self, key: str, /) -> np.ndarray:
        import numpy as np  # lazy: as above

        from stateregistry.stores import bits

        entry = self._list.entries[key]
        array = np.empty(entry.shape, numpy_dtype(entry.dtype))
        number, start = self._starts[key]
        self._open_files[number].copy_into(array, start)
        return bits.settle(array, "little", f"{self.path}: {key!r}")

    def _frame_problem(self) -> str | None:
        from stateregistry.streaming.digests import NONE_YET, of_text  # lazy: only who verifies

        for file, text in zip(self._open_files, self._texts, strict=True):
            frame = Document.from_json(text, str(file.path)).frame if text is not None else ""
            if not frame:
                return f"the header of {file.path.name} carries no digest"
            length: int = struct.unpack("<Q", file.read(0, 8))[0]
            # The digest was made with zeros where it stands itself.
            raw = file.read(0, 8 + length).replace(frame.encode(), NONE_YET.encode(), 1)
            if of_text(raw) != frame:
                return f"the header of {file.path.name} is not what was written"
        return None if self._index is None else self._index.problem()

    def close(self) -> None:
        """Release the files. Idempotent."""
        for file in self._open_files:
            file.close()


def layout(
    path: Path,
    source: StateRegistry,
    /,
    *,
    extra: Mapping[str, Any],
    shard_bytes: int | None,
    before: Sequence[str] | None = None,
) -> Layout:
    """Where every value will lie, in one file or in shards; see `stateregistry.stores.safetensors_layout`."""
    from stateregistry.stores.safetensors_layout import layout as laid_out  # lazy: for who writes

    return laid_out(path, source, extra=extra, shard_bytes=shard_bytes, before=before)


def write(path: Path, source: StateRegistry, /, *, extra: Mapping[str, Any], progress: Progress) -> None:
    """Write every entry of `source` to `path`, one value at a time, in native order within each width of element.

    Raises:
        UnsupportedError: a dtype that the format does not have, or a header beyond what it allows.
        KeyPathError: a key that cannot name an array. FileAccessError: writing failed.
    """
    if path.name.endswith(INDEX_SUFFIX):
        message = f"{path}: is the name of an index of shards"
        raise errors.UnsupportedError(
            message, hint="say how large they are to be, shard_bytes=, or name a .safetensors"
        )
    from stateregistry.stores.streamed import fill  # lazy: the engine, for who writes

    fill(path, layout(path, source, extra=extra, shard_bytes=None), source, progress)
