"""One value on its way: where it is read, how its elements are rearranged and cast, and where it is written.

Plain data that can be pickled, so that any executor can carry it to another process or machine; workers write disjoint
stretches of files that are there. `perform` needs memory for a window and a piece of it, whatever the size of the value.
Imports NumPy and the core's cast; knows no plan and no store.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, final

import numpy as np

from stateregistry import errors
from stateregistry.casting import cast
from stateregistry.entry import Entry, Kind, numpy_dtype
from stateregistry.streaming import digests, tiles
from stateregistry.streaming.buffers import Buffers
from stateregistry.streaming.disk import File
from stateregistry.streaming.geometry import Group, Window, boxes, follows_source, reading, runs, windows
from stateregistry.streaming.origins import Extents, Held, Joined, Origin, Stored, spread

__all__ = ["Extents", "Held", "Joined", "Origin", "Outcome", "Recipe", "Stopped", "Stored", "Task", "perform", "spread"]

#: Bytes of one window as it is read: the larger, the longer the stretches that a transpose reads.
WINDOW = 1 << 25
#: Bytes of a window that are rearranged and written at once.
PIECE = 1 << 22
#: Elements that are cast at once: casting with a check takes some ten times their memory.
_CAST = 1 << 18
_LINE = 64
#: Pieces of so many bytes are worth telling the disk about.
_HURRY = 1 << 20


@final
@dataclass(frozen=True, slots=True)
class Recipe:
    """What becomes a value: origins, how their elements are placed, and the rule of a cast."""

    origins: tuple[Origin, ...]
    groups: tuple[Group, ...]
    cast: Literal["", "lossless", "same_kind"] = ""


@final
@dataclass(frozen=True, slots=True)
class Task:
    """One value.

    Attributes:
        key: of the target. dtype, shape: of the target.
        path: the file to write into. places: where in it, once for each copy.
        origins: what is read. groups: how it becomes the target.
        cast: the rule of a cast, empty for none.
        proven: the digest that an earlier run noted: if what lies there has it, nothing is done again.
    """

    key: str
    dtype: str
    shape: tuple[int, ...]
    path: str
    places: tuple[Extents, ...]
    origins: tuple[Origin, ...]
    groups: tuple[Group, ...]
    cast: Literal["", "lossless", "same_kind"] = ""
    proven: str = ""

    @property
    def nbytes(self) -> int:
        """Bytes of the value."""
        return sum(size for _, size in self.places[0])


@final
@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a task: the digest of the value."""

    key: str
    digest: str


def perform(
    tasks: Sequence[Task], wrote: Callable[[int], None] | None = None, stop: Callable[[], bool] | None = None
) -> list[Outcome]:
    """Move values, one after another.

    Args:
        wrote: told the bytes of each piece that was written.
        stop: asked between pieces whether to give up.

    Raises:
        FileAccessError, FileFormatError: reading or writing failed. CastError: a value does not fit.
    """
    files: dict[tuple[str, bool], File] = {}
    buffers = Buffers()
    try:
        return [_Move(task, files, buffers, wrote, stop).run() for task in tasks]
    finally:
        buffers.give_back()
        for file in files.values():
            file.close()


class Stopped(Exception):  # noqa: N818  # no error: somebody asked for it
    """The work was given up because another part of it failed."""


@final
class _Move:
    """One task at work."""

    def __init__(
        self,
        task: Task,
        files: dict[tuple[str, bool], File],
        buffers: Buffers,
        wrote: Callable[[int], None] | None,
        stop: Callable[[], bool] | None,
    ) -> None:
        self.task, self._files, self._buffers = task, files, buffers
        self._wrote, self._stop = wrote, stop
        self._out = self._file(task.path, writing=True)
        self._dtype = numpy_dtype(task.origins[0].dtype if task.cast else task.dtype)

    def _file(self, path: str, *, writing: bool = False) -> File:
        file = self._files.get((path, writing))
        if file is None:
            file = File.writing(path) if writing else File.reading(path)
            self._files[path, writing] = file
        return file

    def run(self) -> Outcome:
        task = self.task
        state = digests.start(task.dtype, task.shape)
        count = sum(one.count for one in task.groups) if task.nbytes else 0
        if not count:
            return Outcome(task.key, state.hexdigest())
        if task.proven and self._stands():
            return Outcome(task.key, task.proven)
        plain = len(task.groups) == 1 and len(task.groups[0].feeds) == 1
        room = WINDOW if plain else WINDOW // 2  # what is put together from several needs room for the whole of it
        limit = max(1, room // max(self._dtype.itemsize, numpy_dtype(task.dtype).itemsize))
        if len(task.groups) == 1 and follows_source(task.groups[0], limit, self._dtype.itemsize):
            for box in boxes(task.groups[0], max(1, limit // 2)):  # it is in memory twice
                self._scatter(box)
            stored = digests.of_stored(self._out, task.dtype, task.shape, task.places[0])
            return Outcome(task.key, stored)
        for window in windows(Window(0, count, task.groups), limit):
            for start, made in self._made(window):
                state.update(made.view(np.uint8).data)
                self._write(made, start)
        return Outcome(task.key, state.hexdigest())

    def _stands(self) -> bool:
        """Whether an earlier run has written the value: the digest of what lies there says so, not the journal."""
        task = self.task
        found = {digests.of_stored(self._out, task.dtype, task.shape, extents) for extents in task.places}
        if found != {task.proven}:
            return False
        if self._wrote is not None:
            self._wrote(task.nbytes)
        return True

    def _made(self, window: Window) -> Iterator[tuple[int, np.ndarray]]:
        """The elements of a window in the target's dtype, in dense pieces: the first element of each, and the piece."""
        step = max(1, PIECE // max(self._dtype.itemsize, numpy_dtype(self.task.dtype).itemsize))
        only = window.groups[0] if len(window.groups) == 1 else None
        if only is not None and len(only.feeds) == 1:
            view = self._taken(only, 0)
            row = only.axes[0].out if only.axes else 1
            if view.ndim <= 1 and view.flags.c_contiguous and view.size == window.count:
                flat = view.reshape(-1)
                for start in range(0, window.count, step):
                    yield window.start + start, self._cast(flat[start : start + step])
                return
            if only.count == only.reach and row <= step:
                shape, steps = only.shape[1:], [axis.out for axis in only.axes]
                out = self._buffers.take("made", min(step // row, view.shape[0]) * row, self._dtype)
                for start in range(0, view.shape[0], step // row):
                    rows = view[start : start + step // row]
                    tiles.copy(_strided(out, 0, (len(rows), *shape), steps), rows)
                    yield window.start + start * row, self._cast(out[: len(rows) * row])
                return
        out = self._buffers.take("made", window.count, self._dtype)
        for one in window.groups:
            part = _strided(out, one.out - window.start, one.shape, [axis.out for axis in one.axes])
            if not one.feeds:
                part[...] = 0
            for feed in range(len(one.feeds)):
                view = self._taken(one, feed)
                if feed == 0:
                    tiles.copy(part, view)
                else:
                    part[...] = part + view
        for start in range(0, window.count, step):
            yield window.start + start, self._cast(out[start : start + step])

    def _scatter(self, box: Group) -> None:
        """Write a box of the source, which is many stretches of the target."""
        out = self._buffers.take("made", box.count, self._dtype)
        tiles.copy(out.reshape(box.shape), self._taken(box, 0))
        made = self._cast(out)
        number, length = runs(box)
        outer = []
        for axis in box.axes:
            if number == 1:
                break
            outer.append(axis)
            number //= axis.n
        places = itertools.product(*(range(axis.n) for axis in outer))
        for index, place in enumerate(places):
            at = box.out + sum(axis.out * step for axis, step in zip(outer, place, strict=True))
            self._write(made[index * length : (index + 1) * length], at)

    def _taken(self, one: Group, feed: int) -> np.ndarray:
        """What a group takes from one source, with the axes of the group."""
        source, _ = one.feeds[feed]
        origin = self.task.origins[source]
        steps = [axis.ins[feed] for axis in one.axes]
        if isinstance(origin, Held):
            array = origin.array
            if array.size > 1 and not any(array.strides):
                return np.broadcast_to(array.reshape(-1)[:1].reshape(()), one.shape)
            return _strided(array.reshape(-1), one.feeds[feed][1], one.shape, steps)
        plan = reading(one, feed)
        dtype = numpy_dtype(origin.dtype)
        pitch = plan.span
        if plan.reads > 1 and tiles.clashes(pitch * dtype.itemsize):
            pitch += _LINE // dtype.itemsize
        buffer = self._buffers.take("read", plan.reads * pitch, dtype)
        if origin.dtype == "bool":
            buffer[...] = 0  # what lies between rows is looked at with them
        sizes = [one.axes[number].n for number in plan.outer]
        offsets = np.full((1,) * len(sizes), plan.base, np.int64)
        for place, number in enumerate(plan.outer):
            shape = [-1 if place == index else 1 for index in range(len(sizes))]
            offsets = offsets + (np.arange(sizes[place], dtype=np.int64) * abs(steps[number])).reshape(shape)
        raw = buffer.view(np.uint8)
        width = dtype.itemsize
        stretches = [(int(at) * width) for at in offsets.reshape(-1)]
        if isinstance(origin, Joined):
            self._read_joined(origin, raw, pitch * width, plan.span * width, stretches)
        else:
            _read_rows(self._source(origin), raw, pitch * width, plan.span * width, stretches, origin.extents)
        if origin.dtype == "bool" and raw.size:
            _check_bools(raw, origin.where)
        inside = {number: abs(steps[number]) for number in plan.inner}
        place = pitch
        for number in reversed(plan.outer):
            inside[number] = place
            place *= one.axes[number].n
        start = sum(inside[n] * (axis.n - 1) for n, axis in enumerate(one.axes) if steps[n] < 0)
        signed = [inside[n] if steps[n] >= 0 else -inside[n] for n in range(len(steps))]
        return _strided(buffer, start, one.shape, signed)

    def _source(self, origin: Stored) -> File:
        file = self._file(origin.path)
        file.expect(origin.size, origin.modified)
        return file

    def _read_joined(self, origin: Joined, raw: np.ndarray, pitch: int, span: int, starts: Sequence[int]) -> None:
        """As `_read_rows`, of a value whose parts lie in several files."""
        files = {part.path: self._source(part) for part in origin.parts}
        for row, start in enumerate(starts):
            for path, offset, first, size in origin.stretches(start, span):
                at = row * pitch + first
                files[path].read_into(raw[at : at + size], offset)

    def _cast(self, array: np.ndarray) -> np.ndarray:
        task = self.task
        if not task.cast:
            return array
        wanted = Entry(Kind.BUFFER, (), task.dtype)
        out = self._buffers.take("cast", array.size, numpy_dtype(task.dtype))
        for start in range(0, array.size, _CAST):
            piece = array[start : start + _CAST]
            entry = Entry(wanted.kind, piece.shape, task.dtype)
            out[start : start + _CAST] = cast({task.key: piece}, {task.key: entry}, task.cast)[task.key]
        return out

    def _write(self, made: np.ndarray, start: int) -> None:
        if self._stop is not None and self._stop():
            raise Stopped
        raw = made.view(np.uint8)
        begin = start * made.dtype.itemsize
        for extents in self.task.places:
            for offset, first, size in spread(extents, begin, raw.size):
                self._out.write(raw[first : first + size], offset)
                if size >= _HURRY:
                    self._out.hurry(offset, size)
        if self._wrote is not None:
            self._wrote(raw.size)


def _strided(flat: np.ndarray, start: int, shape: Sequence[int], steps: Sequence[int]) -> np.ndarray:
    """A view of a flat array; NumPy refuses one that would leave it."""
    width = flat.dtype.itemsize
    raw = flat.view(np.uint8).data  # the dtypes of ml_dtypes have no buffer format
    return np.ndarray(tuple(shape), flat.dtype, raw, start * width, tuple(step * width for step in steps))


def _read_rows(file: File, raw: np.ndarray, pitch: int, span: int, starts: Sequence[int], extents: Extents) -> None:
    """Read a stretch of `span` bytes from each start in a value into rows that are `pitch` bytes apart."""
    if len(extents) == 1:
        base = extents[0][0]
        file.read_rows(raw, pitch, span, [base + start for start in starts])
        return
    for row, start in enumerate(starts):
        for offset, first, size in spread(extents, start, span):
            at = row * pitch + first
            file.read_into(raw[at : at + size], offset)


def _check_bools(raw: np.ndarray, where: str) -> None:
    largest = int(raw.max())
    if largest > 1:
        message = f"{where}: a bool is stored as the byte {largest}, expected 0 or 1"
        raise errors.FileFormatError(
            message, expected="0 or 1", found=largest, hint="the file is damaged: get it again"
        )
