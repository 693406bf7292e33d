"""Where a value is taken from: a place in a file, memory, the parts that several processes have written of it, or a library.

Plain data that can be pickled. A value in parts is read as if it lay in one piece: a stretch of it, counted in C order, is
found in the parts, without putting the whole together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, final

from stateregistry.entry import DTYPES

if TYPE_CHECKING:
    import numpy as np

Extents = tuple[tuple[int, int], ...]


@final
@dataclass(frozen=True, slots=True)
class Stored:
    """A value in a file: C order, little-endian, in one or more stretches.

    Attributes:
        path: the file. size, modified: what it has to have. extents: offset and bytes of each stretch.
        where: what to call it in an error.
    """

    path: str
    size: int
    modified: int
    extents: Extents
    dtype: str
    where: str = ""


@final
@dataclass(frozen=True, slots=True)
class Held:
    """A value in memory, C-contiguous or with all strides zero."""

    array: np.ndarray

    @property
    def dtype(self) -> str:
        """Its dtype."""
        return self.array.dtype.name


@final
@dataclass(frozen=True)
class Joined:
    """A value in parts, each a box of it, that together are all of it and overlap nowhere.

    Attributes:
        shape, dtype: of the whole. parts: where each lies, C order and little-endian.
        offsets, sizes: of each box, in elements along each axis.
        where: what to call it in an error.
    """

    shape: tuple[int, ...]
    dtype: str
    parts: tuple[Stored, ...]
    offsets: tuple[tuple[int, ...], ...]
    sizes: tuple[tuple[int, ...], ...]
    where: str = ""

    @property
    def path(self) -> str:
        """The file of the first part."""
        return self.parts[0].path

    @property
    def extents(self) -> Extents:
        """The stretches of the first part: where reading begins."""
        return self.parts[0].extents

    @cached_property
    def _order(self) -> tuple[int, ...]:
        """The parts by where they begin, so that the next one is most often the one after."""
        return tuple(sorted(range(len(self.parts)), key=lambda number: self.offsets[number]))

    @cached_property
    def _steps(self) -> tuple[int, ...]:
        return tuple(math.prod(self.shape[axis + 1 :]) for axis in range(len(self.shape)))

    def stretches(self, start: int, count: int) -> Iterator[tuple[str, int, int, int]]:
        """Where bytes `start` to `start + count` of the whole lie: file, offset in it, the first of them, how many."""
        width = DTYPES[self.dtype]
        at, end, guess = start, start + count, 0
        while at < end:
            element, inside = divmod(at, width)
            index = self._index(element)
            guess = self._part_of(index, guess)
            number = self._order[guess]
            first, run = self._run(index, number)
            size = min(run * width - inside, end - at)
            for offset, begin, length in spread(self.parts[number].extents, first * width + inside, size):
                yield self.parts[number].path, offset, at - start + begin, length
            at += size

    def _index(self, element: int) -> tuple[int, ...]:
        index = []
        for step in self._steps:
            place, element = divmod(element, step)
            index.append(place)
        return tuple(index)

    def _part_of(self, index: tuple[int, ...], guess: int) -> int:
        """The part, counted in `_order`, that holds an element; looked for from the last one on."""
        for step in range(len(self._order)):
            place = (guess + step) % len(self._order)
            number = self._order[place]
            begin, size = self.offsets[number], self.sizes[number]
            if all(b <= i < b + s for i, b, s in zip(index, begin, size, strict=True)):
                return place
        raise AssertionError("the parts are all of the value: the store has seen to that")

    def _run(self, index: tuple[int, ...], number: int) -> tuple[int, int]:
        """The element of a part that an index is, and how many from there on lie on in the part as in the whole."""
        begin, size = self.offsets[number], self.sizes[number]
        inner = len(size)
        while inner and size[inner - 1] == self.shape[inner - 1]:
            inner -= 1  # from this axis on, the part is as wide as the whole
        inside = [i - b for i, b in zip(index, begin, strict=True)]
        first = 0
        for place, extent in zip(inside, size, strict=True):
            first = first * extent + place
        rows = max(0, inner - 1)  # along this axis, and all after it, what follows in the part follows in the whole
        block = math.prod(size[rows:])
        return first, block - first % block


class Answers(Protocol):
    """A value that a library has opened. Closed with whoever works with it."""

    def read_rows(self, raw: np.ndarray, pitch: int, span: int, offsets: Sequence[int], /) -> None:
        """Put `span` bytes of the value, in C order and native byte order, from each offset into rows `pitch` bytes apart.

        Raises:
            FileFormatError: what is read has changed, or is damaged.
        """


class Asks(Protocol):
    """How a library is asked for a value: plain data that can be pickled, and compares by what is asked for."""

    def open(self) -> Answers:
        """Open it, in the process that works with it.

        Raises:
            FileFormatError, MissingDependencyError.
        """


@final
@dataclass(frozen=True, slots=True)
class Asked:
    """A value that a library reads in blocks, such as compressed ones.

    Attributes:
        asks: how it is opened. block: bytes that reading any of it costs; no more than a room of the engine has place for.
        path: where it is. where: what to call it in an error.
    """

    shape: tuple[int, ...]
    dtype: str
    asks: Asks
    block: int
    path: str
    where: str = ""

    @property
    def extents(self) -> Extents:
        """One stretch, of which only the place among others means something."""
        return ((0, math.prod(self.shape) * DTYPES[self.dtype]),)


Origin = Stored | Held | Joined | Asked


def spread(extents: Extents, start: int, count: int) -> list[tuple[int, int, int]]:
    """Where bytes `start` to `start + count` of a value lie: offset in the file, first of them, how many."""
    if len(extents) == 1:
        return [(extents[0][0] + start, 0, count)]
    found = []
    position = 0
    for offset, size in extents:
        low, high = max(start, position), min(start + count, position + size)
        if low < high:
            found.append((offset + low - position, low - start, high - low))
        position += size
    return found
