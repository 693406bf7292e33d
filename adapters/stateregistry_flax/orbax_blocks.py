"""Large values of an Orbax directory in the blocks that they are stored in, so that none of them is in memory whole.

TensorStore inflates a block as a whole: what is asked for is put together from a bounded number of blocks, of which some
are kept for who asks for their neighbours. A file that changes meanwhile is an error. Imports TensorStore when it is used.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np

from stateregistry import errors
from stateregistry.entry import numpy_dtype

if TYPE_CHECKING:
    from stateregistry.streaming.origins import Answers

#: Bytes of blocks that are kept, in all; a multiple of the largest block that is read so.
_KEPT: Final = 1 << 24
#: Bytes that are under way at once; as much again is being inflated.
_UNDER_WAY: Final = 1 << 23

Stamps = tuple[tuple[str, int, int], ...]


def stamp_of(path: str) -> tuple[int, int]:
    """Length and time of a file."""
    status = Path(path).stat()
    return status.st_size, status.st_mtime_ns


@final
@dataclass(frozen=True, slots=True)
class Blocks:
    """How TensorStore is asked for an array.

    Attributes:
        spec: of the array, as JSON. dtype: what it holds. where: what to call it in an error.
        stamps: the files that it rests on, each with its length and time when the checkpoint was opened.
    """

    spec: str
    dtype: str
    where: str
    stamps: Stamps = field(compare=False, repr=False)

    def open(self) -> Answers:
        """Open it, with some room for blocks of its own.

        Raises:
            MissingDependencyError: no TensorStore. FileFormatError: it cannot be opened.
        """
        try:
            import tensorstore
        except ModuleNotFoundError as error:
            message = f"{self.where}: reading it needs the package 'tensorstore'"
            raise errors.MissingDependencyError(message, hint="pip install 'stateregistry[orbax]'") from error
        context = tensorstore.Context({"cache_pool": {"total_bytes_limit": _KEPT}})
        try:
            store = tensorstore.open(json.loads(self.spec), read=True, open=True, context=context).result()
        except (ValueError, OSError) as error:
            raise self.unreadable(error) from error
        return _Opened(self, store)

    def unreadable(self, error: Exception) -> errors.FileFormatError:
        """What an error of TensorStore becomes."""
        message = f"{self.where}: cannot be read: {str(error)[:300]}"
        return errors.FileFormatError(message, hint="the checkpoint is damaged or incomplete: get it again")

    def unchanged(self) -> None:
        """See that the files are what they were.

        Raises:
            FileFormatError: one is not.
        """
        for path, *stamp in self.stamps:
            try:
                same = stamp_of(path) == tuple(stamp)
            except OSError:
                same = False
            if not same:
                message = f"{path}: has changed since the checkpoint was opened"
                raise errors.FileFormatError(message, hint="another program writes it: open it again when it is done")


@final
class _Opened:
    """An array that is open, read in stretches of its C order."""

    def __init__(self, blocks: Blocks, store: Any) -> None:
        self._blocks, self._store = blocks, store
        self._shape = tuple(store.shape)
        self._width = numpy_dtype(blocks.dtype).itemsize
        chunk = store.chunk_layout.read_chunk.shape
        self._most = math.prod(chunk) if chunk else max(1, math.prod(self._shape))

    def read_rows(self, raw: np.ndarray, pitch: int, span: int, offsets: Sequence[int], /) -> None:
        """See `Answers.read_rows`."""
        self._blocks.unchanged()
        waiting: deque[tuple[int, int, Any]] = deque()
        under_way = 0

        def land() -> None:
            nonlocal under_way
            at, nbytes, future = waiting.popleft()
            under_way -= nbytes
            try:
                found = np.asarray(future.result())
            except (ValueError, OSError) as error:
                raise self._blocks.unreadable(error) from error
            raw[at : at + nbytes] = np.ascontiguousarray(found).reshape(-1).view(np.uint8)

        for row, offset in enumerate(offsets):
            at = row * pitch
            for box, count in self._boxes(offset // self._width, span // self._width):
                nbytes = count * self._width
                while waiting and under_way + nbytes > _UNDER_WAY:
                    land()
                waiting.append((at, nbytes, self._store[box].read(order="C")))
                under_way += nbytes
                at += nbytes
        while waiting:
            land()

    def _boxes(self, start: int, count: int) -> Iterator[tuple[tuple[slice, ...], int]]:
        """A stretch in boxes, cut where a block ends if blocks lie in C order: one block is inflated at a time."""
        end = start + count
        while start < end:
            size = min(end - start, self._most - start % self._most)
            yield from stretches(self._shape, start, size)
            start += size


def stretches(shape: Sequence[int], start: int, count: int) -> Iterator[tuple[tuple[slice, ...], int]]:
    """The boxes that `count` elements from `start` on are, counted in C order; with the elements of each."""
    if not shape or not count:
        if count:
            yield (), 1
        return
    inner = math.prod(shape[1:])
    row, into = divmod(start, inner)
    if into or count < inner:
        part = min(inner - into, count)
        for box, size in stretches(shape[1:], into, part):
            yield (slice(row, row + 1), *box), size
        count -= part
        row += 1
    rows = count // inner
    if rows:
        yield (slice(row, row + rows), *(slice(0, n) for n in shape[1:])), rows * inner
    rest = count - rows * inner
    if rest:
        for box, size in stretches(shape[1:], 0, rest):
            yield (slice(row + rows, row + rows + 1), *box), size
