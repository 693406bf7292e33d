"""MsgpackStore: the files that `flax.serialization.to_bytes` writes, read lazily and without Flax, written streaming.

What the tree says is told by `variables_file`. Our own metadata has no room in the format and stands beside the file
(`stateregistry.stores.sidecar`). Imports neither JAX nor Flax.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np
import xxhash

from stateregistry import errors
from stateregistry.entry import numpy_dtype
from stateregistry.stores import bits, sidecar
from stateregistry.stores.collector import collector_paused
from stateregistry.stores.limits import DEFAULT, Limits
from stateregistry.stores.mapped import MappedFile
from stateregistry.streaming.task import Stored
from stateregistry_flax.dialect import LINEN
from stateregistry_flax.msgpack_scan import Array, Scanner, looks_like_it
from stateregistry_flax.variables_file import VariablesFile

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from stateregistry.registry import StateRegistry
    from stateregistry.stores.base import Document, FileRegistry, Progress
    from stateregistry.streaming.layout import Layout


#: Bytes that are compared at once.
_PIECE = 2**20


@final
class MsgpackFile(VariablesFile[Array]):
    """A Flax msgpack file."""

    adapter: ClassVar[str] = "flax-msgpack"

    def __init__(self, file: MappedFile, tree: Mapping[str, Any], document: Document | None) -> None:
        self._file = file
        super().__init__(file.path, tree, document, sidecar.sidecar_path(file.path))
        #: Where values lie, those of copies and of what is no entry included.
        self._values = [part for _, _, leaf in self._places if isinstance(leaf, Array) for part in leaf.parts]

    def _equal(self, one: Array, two: Array) -> bool:
        """Whether two arrays are the same: read in pieces, which opening can afford for what is stored twice."""
        if (one.shape, one.dtype) != (two.shape, two.dtype):
            return False
        if [size for _, size in one.parts] != [size for _, size in two.parts]:
            return False  # who writes one array in other chunks than its copy has not copied it
        return all(
            self._file.read(first + done, min(_PIECE, size - done))
            == self._file.read(second + done, min(_PIECE, size - done))
            for (first, size), (second, _) in zip(one.parts, two.parts, strict=True)
            for done in range(0, size, _PIECE)
        )

    def _read(self, key: str, /) -> np.ndarray:
        array = self._arrays[key]
        parts = [self._file.view(offset, size) for offset, size in array.parts]
        raw = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return bits.decode(raw, array.shape, array.dtype, "little", f"{self.path}: {key!r}")

    def _load(self, key: str, /) -> np.ndarray:
        array = self._arrays[key]
        value = np.empty(array.shape, numpy_dtype(array.dtype))
        raw, done = value.reshape(-1).view(np.uint8), 0
        for offset, size in array.parts:
            self._file.copy_into(raw[done : done + size], offset)
            done += size
        return bits.settle(value, "little", f"{self.path}: {key!r}")

    def place(self, key: str, /) -> Stored | None:
        """Where the value lies, in one or more chunks."""
        if sys.byteorder == "big":
            return None
        array, file = self._arrays[key], self._file
        where = f"{self.path}: {key!r}"
        return Stored(file.absolute, file.size, file.modified, tuple(array.parts), array.dtype, where)

    @property
    def files(self) -> tuple[Path, ...]:
        """The file, and its sidecar where it has one."""
        beside = sidecar.sidecar_path(self.path)
        return (self.path, beside) if beside.exists() else (self.path,)

    def _frame_problem(self) -> str | None:
        state, position = xxhash.xxh3_128(), 0
        for offset, size in (*sorted(self._values), (self._file.size, 0)):
            for start in range(position, offset, _PIECE):
                state.update(self._file.read(start, min(_PIECE, offset - start)))
            position = offset + size
        if state.hexdigest() != self.document.frame:
            return "what lies between its values is not what was written"
        return sidecar.problem(self.path)

    def close(self) -> None:
        """Release the file. Idempotent."""
        self._file.close()


@final
class MsgpackStore:
    """Opens and writes Flax msgpack files."""

    name = "flax-msgpack"
    suffixes = (".msgpack",)
    install = "pip install 'stateregistry[flax]'"
    dialect = LINEN.name
    #: The format has no room for our metadata: `sr.save` writes it beside the file.
    sidecar = True

    def sniff(self, path: Path, head: bytes, /) -> bool:
        """A msgpack map from names."""
        return bool(head) and looks_like_it(head, path.stat().st_size)

    def open(self, path: Path, /) -> FileRegistry:
        """A lazy registry over the file.

        Raises:
            FileMissingError, FileAccessError, FileFormatError; KeyPathError, DuplicateKeyError: names that give no keys.
        """
        return self.open_within(path, DEFAULT)

    def open_within(self, path: Path, limits: Limits, /) -> FileRegistry:
        """As `open`, with limits other than the defaults."""
        file = MappedFile(path)
        try:
            with collector_paused():
                tree = Scanner(file.read, file.size, str(path), limits).document()
                return MsgpackFile(file, tree, sidecar.read_document(path, limits))
        except BaseException:
            file.close()
            raise

    def write(self, path: Path, source: StateRegistry, /, *, extra: Mapping[str, Any], progress: Progress) -> None:
        """Write the values of `source` by collection. Kinds, flags, aliases, order and `extra` are for the sidecar.

        Raises:
            UnsupportedError: a name that the format reserves. MissingDependencyError: no msgpack.
            FileAccessError: writing failed.
        """
        from stateregistry.stores.streamed import fill  # lazy: the engine, for who writes

        fill(path, self.layout(path, source, extra=extra, shard_bytes=None, before=None), source, progress)

    def layout(
        self,
        path: Path,
        source: StateRegistry,
        /,
        *,
        extra: Mapping[str, Any],
        shard_bytes: int | None,
        before: Sequence[str] | None,
    ) -> Layout:
        """Where every value will lie; the format has no shards.

        Raises:
            UnsupportedError: a name that the format reserves, or shards. MissingDependencyError: no msgpack.
        """
        from stateregistry_flax.msgpack_write import layout

        if shard_bytes is not None:
            message = f"{path}: the format {self.name} has one file, however large"
            raise errors.UnsupportedError(message, hint="leave shard_bytes out, or write .safetensors")
        return layout(path, source)
