"""The reader of msgpack files: those that `flax.serialization.to_bytes` writes, read lazily and without Flax.

What the tree says is told by `variables_file`. Our own metadata has no room in the format and stands beside the file
(`stateregistry.stores.sidecar`). Imports neither JAX nor Flax.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np
import xxhash

from stateregistry.entry import numpy_dtype
from stateregistry.stores import bits, sidecar
from stateregistry.stores.collector import collector_paused
from stateregistry.stores.limits import DEFAULT, Limits
from stateregistry.stores.mapped import MappedFile
from stateregistry.streaming.task import Stored
from stateregistry_flax.msgpack_scan import Array, Scanner
from stateregistry_flax.variables_file import VariablesFile

if TYPE_CHECKING:
    from pathlib import Path

    from stateregistry.stores.base import Document


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


def open_msgpack(path: Path, /, limits: Limits = DEFAULT) -> MsgpackFile:
    """A lazy, read-only registry over a file.

    Raises:
        FileMissingError, FileAccessError, FileFormatError; KeyPathError, DuplicateKeyError: names that give no keys.
    """
    file = MappedFile(path)
    try:
        with collector_paused():
            tree = Scanner(file.read, file.size, str(path), limits).document()
            return MsgpackFile(file, tree, sidecar.read_document(path, limits))
    except BaseException:
        file.close()
        raise
