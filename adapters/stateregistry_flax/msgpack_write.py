"""The layout of a registry as Flax msgpack, byte for byte what `flax.serialization.to_bytes` writes of the same nested dict.

Where every value will lie is known from metadata, so that the engine streams them. Only the headers of records are packed
by hand, as the `msgpack` package would need a second copy of every array. An array of several names is written under
each, as the readers of Flax know no aliases. Names that the format reserves are refused before the first byte. Imports
msgpack.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, final

from stateregistry import errors
from stateregistry.entry import DTYPES
from stateregistry.streaming.layout import Layout, OutFile, Slot
from stateregistry_flax.msgpack_scan import CHUNKED, NDARRAY
from stateregistry_flax.variables_tree import nested

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from stateregistry.entry import Entry
    from stateregistry.registry import StateRegistry

try:
    import msgpack  # type: ignore[import-untyped]  # it ships no types
except ModuleNotFoundError as error:
    message = "writing Flax msgpack files needs the package 'msgpack'"
    raise errors.MissingDependencyError(message, hint="pip install 'stateregistry[flax]'") from error

#: Flax cuts larger arrays: msgpack ends at 4 GiB.
MAX_CHUNK_BYTES = 2**30


def layout(path: Path, source: StateRegistry) -> Layout:
    """Where every entry of a registry will lie in `{"params": {...}, "batch_stats": {...}, ...}`, again for every alias.

    Raises:
        UnsupportedError: a name that the format reserves, or keys of which it is not known whether they begin with their
            collections.
    """
    aliases = source.aliases
    writer = _Writer(source, aliases)
    writer.tree(nested(source))
    slots = {key: Slot(0, tuple(places)) for key, places in writer.places.items()}
    return Layout((OutFile(path.name, writer.position, tuple(writer.frames())),), slots)


@final
class _Writer:
    """Goes through a tree as the file will; values take up room and are not looked at."""

    def __init__(self, source: StateRegistry, aliases: Mapping[str, str]) -> None:
        self._source, self._aliases = source, aliases
        self._pieces: list[tuple[int, bytes]] = []
        self.places: dict[str, list[tuple[tuple[int, int], ...]]] = {}
        self.position = 0

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """All that lies between the values, neighbours joined."""
        start, joined = 0, bytearray()
        for offset, data in self._pieces:
            if joined and offset != start + len(joined):
                yield start, bytes(joined)
                joined.clear()
            if not joined:
                start = offset
            joined += data
        if joined:
            yield start, bytes(joined)

    def _put(self, data: bytes) -> None:
        self._pieces.append((self.position, data))
        self.position += len(data)

    def _room(self, nbytes: int) -> tuple[int, int]:
        self.position += nbytes
        return self.position - nbytes, nbytes

    def tree(self, tree: Mapping[str, Any]) -> None:
        """A map and all below it."""
        packer = msgpack.Packer()
        self._put(packer.pack_map_header(len(tree)))
        for name, node in tree.items():
            self._put(packer.pack(name))
            if isinstance(node, dict):
                self.tree(node)
                continue
            canonical = self._aliases.get(node, node)
            entry = self._source[canonical]
            if entry.nbytes <= MAX_CHUNK_BYTES:
                extents = [self._record(entry.shape, entry.dtype, entry.nbytes)]
            else:
                extents = self._chunks(entry)
            self.places.setdefault(canonical, []).append(tuple(extents))

    def _chunks(self, entry: Entry) -> list[tuple[int, int]]:
        packer, width = msgpack.Packer(), DTYPES[entry.dtype]
        step = max(1, MAX_CHUNK_BYTES // width) * width
        starts = range(0, entry.nbytes, step)
        self._put(packer.pack_map_header(3))
        self._put(packer.pack(CHUNKED) + packer.pack(True))  # the value that is packed
        self._put(packer.pack("shape") + packer.pack({str(axis): size for axis, size in enumerate(entry.shape)}))
        self._put(packer.pack("chunks") + packer.pack_map_header(len(starts)))
        extents = []
        for index, start in enumerate(starts):
            nbytes = min(step, entry.nbytes - start)
            self._put(packer.pack(str(index)))
            extents.append(self._record((nbytes // width,), entry.dtype, nbytes))
        return extents

    def _record(self, shape: tuple[int, ...], dtype: str, nbytes: int) -> tuple[int, int]:
        """An extension of type 1 around `[shape, name of the dtype, bytes]`."""
        packer = msgpack.Packer()
        head = b"\x93" + packer.pack(shape) + packer.pack(dtype) + _header(nbytes, 0xC4)
        size = len(head) + nbytes
        fixed = {1: 0xD4, 2: 0xD5, 4: 0xD6, 8: 0xD7, 16: 0xD8}.get(size)
        self._put((_header(size, 0xC7) if fixed is None else bytes([fixed])) + bytes([NDARRAY]) + head)
        return self._room(nbytes)


def _header(size: int, first: int) -> bytes:
    """A type byte and the length in 1, 2 or 4 bytes, as msgpack spells binaries and extensions."""
    step, form = (0, ">BB") if size <= 0xFF else (1, ">BH") if size <= 0xFFFF else (2, ">BI")
    return struct.pack(form, first + step, size)
