"""toybox: a framework of boxes in boxes. It computes in plain Python and needs nothing else."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence

#: What a slot can hold, with the code that `struct` has for it.
CODES = {"bool": "?", "int32": "i", "int64": "q", "float16": "e", "float32": "f", "float64": "d"}


class Slot:
    """A place for numbers: a shape, a dtype, and bytes that it owns and never moves."""

    def __init__(self, shape: Sequence[int], dtype: str = "float32", data: bytes | None = None) -> None:
        size = math.prod(shape) * struct.calcsize("=" + CODES[dtype])
        self._bytes = bytearray(size) if data is None else bytearray(data)
        if len(self._bytes) != size:
            raise ValueError(f"{dtype}{list(shape)} has {size} bytes, not {len(self._bytes)}")
        self.shape, self.dtype, self.locked = tuple(shape), dtype, False

    @property
    def data(self) -> memoryview:
        """The bytes themselves; assigning to `data[:]` fails where the slot is locked."""
        view = memoryview(self._bytes)
        return view.toreadonly() if self.locked else view

    @property
    def numbers(self) -> tuple[float, ...]:
        """The values, row by row."""
        return struct.unpack(f"={math.prod(self.shape)}{CODES[self.dtype]}", self._bytes)

    @numbers.setter
    def numbers(self, values: Sequence[float]) -> None:
        self.data[:] = struct.pack(f"={math.prod(self.shape)}{CODES[self.dtype]}", *values)


class Weight(Slot):
    """What training changes."""


class Stat(Slot):
    """What is counted or measured on the way; `kept` says whether it is saved."""

    def __init__(
        self, shape: Sequence[int], dtype: str = "float32", data: bytes | None = None, *, kept: bool = True
    ) -> None:
        super().__init__(shape, dtype, data)
        self.kept = kept


class Box:
    """A model: the slots and boxes that are its attributes. One slot under two names is a tie."""

    def __setattr__(self, name: str, value: object) -> None:
        if isinstance(value, Box) and any(inner is self for _, inner in boxes(value)):
            raise ValueError(f"a box cannot contain itself, as {name!r}")
        super().__setattr__(name, value)


def boxes(box: Box, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Box]]:
    """The box and all boxes inside, outer ones first, each with every path that leads to it."""
    yield path, box
    for name, value in vars(box).items():
        if isinstance(value, Box):
            yield from boxes(value, (*path, name))


def slots(box: Box) -> Iterator[tuple[tuple[str, ...], Slot]]:
    """All slots, each with every path that leads to it."""
    for path, inner in boxes(box):
        for name, value in vars(inner).items():
            if isinstance(value, Slot):
                yield (*path, name), value


class Affine(Box):
    """`y[j] = sum(x[i] * grid[i, j] for every i) + shift[j]`."""

    def __init__(self, inputs: int, outputs: int) -> None:
        self.grid = Weight((inputs, outputs))
        self.shift = Weight((outputs,))

    def __call__(self, x: Sequence[float]) -> list[float]:
        """Map a vector."""
        outputs = self.grid.shape[1]
        columns = [self.grid.numbers[j::outputs] for j in range(outputs)]
        sums = [sum(a * b for a, b in zip(x, column, strict=True)) for column in columns]
        return [a + b for a, b in zip(sums, self.shift.numbers, strict=True)]
