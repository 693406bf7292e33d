"""Where the elements of a value come from: strides on both sides, cut into windows of bounded size.

A move between two layouts is a set of groups. Each says, for every element of a part of the target, how far apart
neighbours lie in the target and in each source; nothing else is needed to move it in pieces of any size. Windows of a
target are dense and in order, so that they are written in one piece and hashed on the way. Pure arithmetic: touches no
array and no file.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import final

#: What reading one stretch costs, in bytes that could be copied meanwhile: from a file, and over a network.
READ, ASK = 1 << 13, 1 << 20


@final
@dataclass(frozen=True, slots=True)
class Axis:
    """One axis: how many elements, how far apart in the target (positive), and in each source (any sign)."""

    n: int
    out: int
    ins: tuple[int, ...]


@final
@dataclass(frozen=True, slots=True)
class Group:
    """A part of the target and what it is made of.

    Attributes:
        axes: largest stride in the target first.
        out: the first element in the target.
        feeds: which source, and its first element; values of several are added up in order, of none it is zero.
    """

    axes: tuple[Axis, ...]
    out: int
    feeds: tuple[tuple[int, int], ...]

    @property
    def count(self) -> int:
        """Elements."""
        return math.prod(axis.n for axis in self.axes)

    @property
    def shape(self) -> tuple[int, ...]:
        """Elements along each axis."""
        return tuple(axis.n for axis in self.axes)

    @property
    def reach(self) -> int:
        """Elements of the target from the first to the last, both included."""
        return 1 + sum(axis.out * (axis.n - 1) for axis in self.axes)

    def part(self, number: int, start: int, count: int) -> Group:
        """The same with `count` elements from `start` on along one axis."""
        axis = self.axes[number]
        axes = (*self.axes[:number], replace(axis, n=count), *self.axes[number + 1 :])
        feeds = tuple((source, at + start * axis.ins[n]) for n, (source, at) in enumerate(self.feeds))
        return Group(axes, self.out + start * axis.out, feeds)

    def at(self, start: int) -> Group:
        """The same at one place along the first axis, which is gone then."""
        first = self.part(0, start, 1)
        return replace(first, axes=first.axes[1:])


def group(
    shape: Sequence[int], out: tuple[int, Sequence[int]], feeds: Sequence[tuple[int, int, Sequence[int]]]
) -> Group:
    """A group from offsets and strides of equal axes, in any order and of any sign, in elements.

    Args:
        shape: sizes, none of them zero.
        out: offset and strides in the target.
        feeds: number, offset and strides of each source.
    """
    start, strides = out
    firsts = [at for _, at, _ in feeds]
    axes: list[Axis] = []
    for number, n in enumerate(shape):
        if n == 1:
            continue
        ins = [steps[number] for _, _, steps in feeds]
        step = strides[number]
        if step < 0:  # read the other way round, written forwards
            start += step * (n - 1)
            firsts = [at + one * (n - 1) for at, one in zip(firsts, ins, strict=True)]
            step, ins = -step, [-one for one in ins]
        axes.append(Axis(n, step, tuple(ins)))
    axes.sort(key=lambda axis: -axis.out)
    joined: list[Axis] = []
    for axis in axes:
        last = joined[-1] if joined else None
        if last is not None and last.out == axis.out * axis.n and last.ins == tuple(i * axis.n for i in axis.ins):
            joined[-1] = Axis(last.n * axis.n, axis.out, axis.ins)
        else:
            joined.append(axis)
    return Group(tuple(joined), start, tuple((feed[0], at) for feed, at in zip(feeds, firsts, strict=True)))


def whole(count: int) -> Group:
    """The first source as it is."""
    return group((count,), (0, (1,)), ((0, 0, (1,)),))


@final
@dataclass(frozen=True, slots=True)
class Window:
    """A dense piece of the target: its first element, how many, and the groups that fill it."""

    start: int
    count: int
    groups: tuple[Group, ...]


def windows(window: Window, limit: int) -> Iterator[Window]:
    """Cut a dense piece of a target into dense pieces of at most `limit` elements, in order.

    A piece that no axis divides for all its groups at once stays whole.
    """
    if window.count <= limit:
        yield window
        return
    groups = sorted(window.groups, key=lambda one: one.out)
    if len(groups) > 1 and _apart(groups):
        for one in groups:
            yield from windows(Window(one.out, one.count, (one,)), limit)
        return
    row = _shared_row(window)
    if row is None:
        yield window
        return
    n = groups[0].axes[0].n
    if row > limit:
        for index in range(n):
            yield from windows(Window(window.start + index * row, row, tuple(g.at(index) for g in groups)), limit)
        return
    step = limit // row
    for index in range(0, n, step):
        count = min(step, n - index)
        yield Window(window.start + index * row, count * row, tuple(g.part(0, index, count) for g in groups))


def _apart(groups: Sequence[Group]) -> bool:
    """Whether each fills a stretch of its own."""
    dense = all(one.count == one.reach for one in groups)
    return dense and all(a.out + a.count <= b.out for a, b in itertools.pairwise(groups))


def _shared_row(window: Window) -> int | None:
    """The elements of one row of the outermost axis, where all groups have that axis and fill whole rows."""
    if not all(one.axes for one in window.groups):
        return None
    first = window.groups[0].axes[0]
    for one in window.groups:
        axis = one.axes[0]
        inside = one.out - window.start + one.reach - axis.out * (axis.n - 1)
        if (axis.n, axis.out) != (first.n, first.out) or inside > first.out:
            return None
    return first.out if first.n * first.out == window.count else None


@final
@dataclass(frozen=True, slots=True)
class Reading:
    """How the elements of a group are read from one source: `outer` axes in turn, `inner` ones in one stretch each.

    Attributes:
        base: the first element, counted in the source.
        outer, inner: numbers of axes of the group, largest stride in the source first.
        span: elements of one stretch, holes included.
    """

    base: int
    outer: tuple[int, ...]
    inner: tuple[int, ...]
    span: int
    reads: int


def reading(one: Group, feed: int, width: int, room: int, call: int = READ) -> Reading:
    """The cheapest way to read what a group takes from a source into at most `room` bytes, which hold its elements.

    Args:
        width: bytes of an element. call: what a read costs, in bytes.
    """
    axes = one.axes
    steps = [axis.ins[feed] for axis in axes]
    base = one.feeds[feed][1] + sum(min(0, step * (axis.n - 1)) for axis, step in zip(axes, steps, strict=True))
    order = sorted(range(len(axes)), key=lambda number: -abs(steps[number]))
    best, least = None, 0
    reads = 1
    for cut in range(len(order) + 1):
        inner = order[cut:]
        span = 1 + sum(abs(steps[number]) * (axes[number].n - 1) for number in inner)
        if cut:
            reads *= axes[order[cut - 1]].n
        nbytes = span * reads * width
        cost = nbytes + reads * call
        if (nbytes <= room or cut == len(order)) and (best is None or cost < least):
            best, least = Reading(base, tuple(order[:cut]), tuple(inner), span, reads), cost
    assert best is not None  # the last cut is always taken
    return best


def runs(one: Group) -> tuple[int, int]:
    """How many stretches of the target a group fills, and the elements of each."""
    length = 1
    for axis in reversed(one.axes):
        if axis.out != length:
            break
        length *= axis.n
    return one.count // length, length


def starts(one: Group) -> Iterator[int]:
    """Where in the target the stretches of a group begin, in the order of its elements."""
    number, _ = runs(one)
    outer = []
    for axis in one.axes:
        if number == 1:
            break
        outer.append(axis)
        number //= axis.n
    for place in itertools.product(*(range(0, axis.n * axis.out, axis.out) for axis in outer)):
        yield one.out + sum(place)
