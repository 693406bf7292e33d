"""Parts of values: what one process of several holds of an array, and where a part lies in the whole.

A registry over sharded arrays says which box of each value is in this process (`HoldsParts`), a registry over a file can read
a box without the rest (`ReadsParts`), and processes that hold one state can talk to each other (`Together`). Pure: imports
nothing but the standard library.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, final, runtime_checkable

if TYPE_CHECKING:
    import numpy as np


@final
@dataclass(frozen=True, slots=True)
class Box:
    """A box of an array: where it begins and how far it reaches along each axis, in elements.

    Attributes:
        first: whether this process is the first of those that hold the same box. copies: how many do.
    """

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    first: bool = True
    copies: int = 1

    @property
    def count(self) -> int:
        """Elements of it."""
        return math.prod(self.sizes)

    def runs(self, shape: tuple[int, ...]) -> tuple[int, Iterator[int]]:
        """The stretches that it is of an array in C order: elements of each, and where each begins, in the box's own order.

        Args:
            shape: of the whole.
        """
        if not self.count:
            return 0, iter(())
        steps = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
        inner = len(shape)
        while inner and self.sizes[inner - 1] == shape[inner - 1]:
            inner -= 1  # from this axis on, the box is as wide as the whole
        rows = max(0, inner - 1)  # along this axis, and all after it, the box lies in one stretch
        base = sum(at * step for at, step in zip(self.offsets, steps, strict=True))
        outer = zip(self.sizes[:rows], steps[:rows], strict=True)
        places = itertools.product(*(range(0, size * step, step) for size, step in outer))
        return math.prod(self.sizes[rows:]), (base + sum(place) for place in places)


class Together(Protocol):
    """The processes that hold one state, of which each runs the same program.

    Attributes:
        rank: the number of this one. count: how many there are.
    """

    rank: int
    count: int

    def tell(self, value: Any, /) -> list[Any]:
        """What every process told, by number. All of them have to call it.

        Raises:
            FileAccessError: another process is gone.
        """


@runtime_checkable
class HoldsParts(Protocol):
    """A registry some of whose values lie in parts in several processes."""

    def together(self) -> Together | None:
        """The processes that hold the state, `None` where it is all here."""

    def boxes(self) -> Mapping[str, Box]:
        """The box of this process of each value that lies in parts, by canonical key. Of others it has the whole."""

    def part(self, key: str, /) -> np.ndarray:
        """The elements of the box, borrowed. Talks to no other process."""


@runtime_checkable
class ReadsParts(Protocol):
    """A registry that can read a box of a value without the rest."""

    def read_part(self, key: str, box: Box, /) -> np.ndarray:
        """The elements of a box of a canonical key's value, as an array of the caller's own in C order."""
