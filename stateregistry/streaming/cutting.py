"""How a value is taken apart: in windows of the target where these are read in long stretches, else in boxes.

A window is dense and comes in order, so that it is written in one piece and hashed on the way. A box has long stretches on
both sides, as long as what calls cost makes worth while, and is found by its number, so that several workers can share one
value; its digest needs a second look. What costs less is taken. Pure arithmetic: touches no array and no file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from stateregistry.streaming.geometry import READ, Group, Window, reading, runs, windows

#: What writing one stretch costs, in bytes that could be copied meanwhile.
WRITE = 1 << 15


@final
@dataclass(frozen=True, slots=True)
class Boxes:
    """A group in parts of bounded size, in the order of its source, by number.

    Attributes:
        group: the whole. sizes: elements of a part along each axis. order: numbers of axes, the slowest first.
    """

    group: Group
    sizes: tuple[int, ...]
    order: tuple[int, ...]

    def _times(self, number: int) -> int:
        return -(-self.group.axes[number].n // self.sizes[number])

    def __len__(self) -> int:
        return math.prod(self._times(number) for number in self.order)

    def __getitem__(self, index: int) -> Group:
        if not 0 <= index < len(self):
            raise IndexError(index)
        box = self.group
        for number in reversed(self.order):
            index, place = divmod(index, self._times(number))
            start = place * self.sizes[number]
            box = box.part(number, start, min(self.sizes[number], self.group.axes[number].n - start))
        return box


def boxes(one: Group, limit: int, call: int = READ) -> Boxes:
    """Cut a group into parts of at most `limit` elements, in which neighbours are many on both sides.

    A part grows along whichever side costs more calls; `call` is what a read costs, in bytes.
    """
    axes = one.axes
    targets = list(range(len(axes) - 1, -1, -1))
    outs = [axis.out for axis in axes]
    steps = [abs(axis.ins[0]) if one.feeds else axis.out for axis in axes]
    sources = sorted(targets, key=lambda number: steps[number])
    sizes = [1] * len(axes)

    def run(order: Sequence[int], stride: Sequence[int]) -> tuple[int, int | None]:
        """Neighbours that a part has in a row, and the axis along which it would have more."""
        length = 1
        for number in order:
            if stride[number] != length:
                break
            if sizes[number] < axes[number].n:
                return length * sizes[number], number
            length *= axes[number].n
        return length, None

    while True:
        written, along = run(targets, outs)
        read, across = run(sources, steps)
        rest = next((number for number in targets if sizes[number] < axes[number].n), None)
        if rest is None:
            break
        by_read = across is not None and (along is None or read * WRITE <= written * call)
        number = across if by_read else along
        if number is None:
            number = rest
        fits = min(axes[number].n, limit // (math.prod(sizes) // sizes[number]))
        if fits <= sizes[number]:
            break
        sizes[number] = min(fits, 2 * sizes[number])
    even = [-(-axis.n // -(-axis.n // size)) for axis, size in zip(axes, sizes, strict=True)]
    order = tuple(sorted(range(len(axes)), key=lambda number: -steps[number]))
    return Boxes(one, tuple(even), order)


@final
@dataclass(frozen=True, slots=True)
class Cut:
    """How a value is taken apart: in windows, in the order of the target, or in boxes; of at most `limit` elements."""

    ordered: bool
    limit: int


def cut(groups: Sequence[Group], count: int, width: int, room: int, call: int = READ) -> Cut:
    """The cheaper way: windows, which need no second look, or boxes, which are read again for a digest.

    Args:
        count: elements of the value. width: bytes of one. room: bytes for what is read of one piece.
        call: what a read costs, in bytes.
    """
    limit = max(1, room // width)
    if 4 * count <= limit:
        return Cut(True, limit)
    found: list[tuple[float, int, bool]] = []
    for shrink in (1, 2, 4):  # what is read with holes needs more room than it has elements
        less = max(1, limit // shrink)
        cost = _cost_of_windows(Window(0, count, tuple(groups)), less, width, room, call)
        if cost is not None:
            found.append((cost, -less, True))
            if cost < 1.25:
                break
        found.append((1 + _cost_of_boxes(groups, less, width, room, call), -less, False))
    _, least, ordered = min(found)
    return Cut(ordered, -least)


def _cost_of_windows(value: Window, limit: int, width: int, room: int, call: int) -> float | None:
    """What a byte of the first window costs, in bytes; `None` where a window cannot be made small enough."""
    first: Window | None = None
    for window in windows(value, limit):
        if window.count > limit:
            return None
        first = first or window
        if len(value.groups) == 1:
            break  # what is dense by itself can be divided anywhere
    assert first is not None
    return _cost(first.groups, first.count * width, width, room, call)


def _cost_of_boxes(groups: Sequence[Group], limit: int, width: int, room: int, call: int) -> float:
    """What a byte costs, on average, in bytes."""
    total = sum(one.count for one in groups)
    cost = 0.0
    for one in groups:
        first = boxes(one, limit, call)[0]
        nbytes = first.count * width
        cost += (_cost((first,), nbytes, width, room, call) + runs(first)[0] * WRITE / nbytes) * one.count / total
    return cost


def _cost(groups: Sequence[Group], nbytes: int, width: int, room: int, call: int) -> float:
    cost = 0
    for one in groups:
        for feed in range(len(one.feeds)):
            plan = reading(one, feed, width, room, call)
            cost += plan.span * plan.reads * width + plan.reads * call
    return cost / nbytes
