"""One value moved: windows or boxes of it are read, put in the order of the target, cast, written, and hashed.

Whatever the size of the value, memory is one room: most of it for what is read, some for a piece on its way out. In windows
the digest is made on the way; boxes are written where they belong and the value is read once more. Positioned reads and
writes only. Values are moved as integers of their width.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Self, final

import numpy as np

from stateregistry import errors
from stateregistry.casting import cast
from stateregistry.entry import Entry, Kind, numpy_dtype
from stateregistry.streaming import digests, tiles
from stateregistry.streaming.buffers import Room
from stateregistry.streaming.cutting import Boxes, Cut, boxes, cut
from stateregistry.streaming.disk import File
from stateregistry.streaming.geometry import ASK, READ, Group, Window, group, reading, runs, starts, windows
from stateregistry.streaming.origins import Answers, Asked, Asks, Held, Joined, Origin, Stored, spread
from stateregistry.streaming.remote import is_url

if TYPE_CHECKING:
    from stateregistry.streaming.task import Task

#: Elements that are cast at once: casting with a check takes some ten times their memory.
_CAST = 1 << 16
_LINE = 64
#: Pieces of so many bytes are worth telling the disk about.
_HURRY = 1 << 20
#: Stretches that are listed at once.
_LISTED = 1 << 13
#: What lies within so many bytes is asked of the disk at once, where it is read a little here and there.
_AHEAD = 1 << 28


class Stopped(Exception):  # noqa: N818  # no error: somebody asked for it
    """The work was given up because another part of it failed."""


@final
class Hands:
    """What a worker works with: its memory, the files it has open, and whom it tells. A context manager."""

    def __init__(
        self, room: int, wrote: Callable[[int], None] | None = None, stop: Callable[[], bool] | None = None
    ) -> None:
        self.room = Room(room)
        self._wrote, self._stop = wrote, stop
        self._files: dict[tuple[str, bool], File] = {}
        self._asked: dict[Asks, Answers] = {}

    def file(self, path: str, *, writing: bool = False) -> File:
        """A file, opened when it is first asked for."""
        file = self._files.get((path, writing))
        if file is None:
            file = File.writing(path) if writing else File.reading(path)
            self._files[path, writing] = file
        return file

    def answers(self, asks: Asks) -> Answers:
        """What a library has opened, when it is first asked for."""
        if asks not in self._asked:
            self._asked[asks] = asks.open()
        return self._asked[asks]

    def ask(self) -> None:
        """Give up if somebody wants that.

        Raises:
            Stopped.
        """
        if self._stop is not None and self._stop():
            raise Stopped

    def tell(self, nbytes: int) -> None:
        """Say that so much was written."""
        if self._wrote is not None:
            self._wrote(nbytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.room.give_back()
        for file in self._files.values():
            file.close()


@final
class Move:
    """One task at work."""

    def __init__(self, task: Task, hands: Hands) -> None:
        self.task, self._hands, self._room = task, hands, hands.room
        self._dtype = numpy_dtype(task.origins[0].dtype if task.cast else task.dtype)
        self._made_width = numpy_dtype(task.dtype).itemsize
        self._count = sum(one.count for one in task.groups) if task.nbytes else 0
        self._gathered = len(task.groups) > 1 or any(len(one.feeds) > 1 for one in task.groups)
        self._call = max(map(_call, task.origins))
        self._divide(hands.room.nbytes)

    def _divide(self, room: int) -> None:
        """How much of the room is for what is read, and how many elements are made, and cast, at once."""
        width = self._dtype.itemsize
        piece = max(width, room // 8)
        self._step = max(1, piece // max(width, self._made_width))
        rest = room - self._step * (width + (self._made_width if self.task.cast else 0)) - 4 * _LINE
        if self._gathered:  # what is put together from several is made whole: a window as it is read, and as it is made
            rest = (room - (self._step * self._made_width if self.task.cast else 0) - 4 * _LINE) // 2
        self._padded = max(width, rest)
        self._reads = max(width, rest - rest // 16)  # rows that would push one another out of the cache are set apart

    def _cut(self) -> Cut:
        task, width = self.task, self._dtype.itemsize
        if all(isinstance(one, Held) for one in task.origins) and not self._gathered:
            return Cut(True, max(1, self._reads // width))
        return cut(task.groups, self._count, width, self._reads, self._call)

    def _boxes(self, limit: int) -> list[Boxes]:
        return [boxes(one, limit, self._call) for one in self.task.groups]

    # ------------------------------------------------------------- the whole, or a part

    def whole(self) -> str:
        """Move all of it; its digest."""
        task = self.task
        state = digests.start(task.dtype, task.shape)
        if not self._count:
            return state.hexdigest()
        if task.proven and self._stands():
            return task.proven
        how = self._cut()
        if not how.ordered:
            for one in self._boxes(how.limit):
                for index in range(len(one)):
                    self._box(one[index])
            return self.measured()
        for window in windows(Window(0, self._count, task.groups), how.limit):
            for part, made in self._pieces(window):
                self._write(made, part)
                state.update(made.view(np.uint8).data)
        return state.hexdigest()

    def boxes_in_all(self) -> int:
        """How many boxes the value is cut into where it is not cheaper to move it in order: else 1."""
        if not self._count or any(isinstance(one, Held) for one in self.task.origins):
            return 1
        how = self._cut()
        return 1 if how.ordered else sum(map(len, self._boxes(how.limit)))

    def part(self, number: int, of: int) -> None:
        """Move one of several parts of a value that is cut into boxes."""
        cuts = self._boxes(self._cut().limit)
        count = sum(map(len, cuts))
        for index in range(count * number // of, count * (number + 1) // of):
            at = index
            for one in cuts:
                if at < len(one):
                    self._box(one[at])
                    break
                at -= len(one)

    def measured(self) -> str:
        """The digest of what lies in the file."""
        task = self.task
        return digests.of_stored(self._out, task.dtype, task.shape, task.places[0])

    def _stands(self) -> bool:
        """Whether an earlier run has written the value: the digest of what lies there says so, not the journal."""
        task = self.task
        found = {digests.of_stored(self._out, task.dtype, task.shape, extents) for extents in task.places}
        if found != {task.proven}:
            return False
        self._hands.tell(task.nbytes)
        return True

    # ------------------------------------------------------------- what is made of it

    def _pieces(self, window: Window) -> Iterator[tuple[Group, np.ndarray]]:
        """A window in dense pieces of the target's dtype: where each belongs, and its elements."""
        only = window.groups[0] if len(window.groups) == 1 else None
        if only is not None and len(only.feeds) == 1:
            yield from self._turned(only)
            return
        self._room.reuse()
        out = self._room.take(window.count, self._dtype)
        for one in window.groups:
            self._gather(one, _strided(out, one.out - window.start, one.shape, [axis.out for axis in one.axes]))
        yield from self._in_steps(out, window.start)

    def _box(self, box: Group) -> None:
        """Move a box, which is many stretches of the target."""
        if len(box.feeds) == 1:
            for one, made in self._turned(box):
                self._write(made, one)
            return
        self._room.reuse()
        out = self._room.take(box.count, self._dtype).reshape(box.shape)
        self._gather(box, out)
        used = self._room.used
        for part, place in _divided(box, self._step):
            self._room.reuse(used)
            self._write(self._cast(out[place].reshape(-1)), part)

    def _turned(self, one: Group) -> Iterator[tuple[Group, np.ndarray]]:
        """What comes from one source, in the order of the target, a piece at a time."""
        self._room.reuse()
        view = self._taken(one, 0)
        used = self._room.used
        if view.ndim <= 1 and view.flags.c_contiguous and one.count == one.reach:
            yield from self._in_steps(view.reshape(-1), one.out)
            return
        for part, place in _divided(one, self._step):
            self._room.reuse(used)
            out = self._room.take(part.count, self._dtype)
            tiles.copy(out.reshape(part.shape), view[place])
            yield part, self._cast(out)

    def _in_steps(self, flat: np.ndarray, start: int) -> Iterator[tuple[Group, np.ndarray]]:
        used = self._room.used
        for first in range(0, flat.size, self._step):
            self._room.reuse(used)
            made = self._cast(flat[first : first + self._step])
            yield _dense(start + first, made.size), made

    def _gather(self, one: Group, part: np.ndarray) -> None:
        """Put what a group takes from its sources, added up in order, where it belongs."""
        used = self._room.used
        if not one.feeds:
            part[...] = 0
        for feed in range(len(one.feeds)):
            self._room.reuse(used)
            view = self._taken(one, feed)
            if feed == 0:
                tiles.copy(part, view)
            else:
                part[...] = part + view
        self._room.reuse(used)

    def _cast(self, array: np.ndarray) -> np.ndarray:
        task = self.task
        if not task.cast:
            return array
        out = self._room.take(array.size, numpy_dtype(task.dtype))
        for start in range(0, array.size, _CAST):
            piece = array[start : start + _CAST]
            entry = Entry(Kind.BUFFER, piece.shape, task.dtype)
            out[start : start + _CAST] = cast({task.key: piece}, {task.key: entry}, task.cast)[task.key]
        return out

    # ------------------------------------------------------------- where it comes from

    def _taken(self, one: Group, feed: int) -> np.ndarray:
        """What a group takes from one source, with the axes of the group."""
        source, first = one.feeds[feed]
        origin = self.task.origins[source]
        steps = [axis.ins[feed] for axis in one.axes]
        if isinstance(origin, Held):
            array = origin.array
            if array.size > 1 and not any(array.strides):
                return np.broadcast_to(array.reshape(-1)[:1].reshape(()), one.shape)
            return _strided(array.reshape(-1), first, one.shape, steps)
        dtype = numpy_dtype(origin.dtype)
        width = dtype.itemsize
        plan = reading(one, feed, width, self._reads, self._call)
        pitch = plan.span
        apart = pitch + _LINE // width
        if plan.reads > 1 and tiles.clashes(pitch * width) and plan.reads * apart * width <= self._padded:
            pitch = apart
        buffer = self._room.take(plan.reads * pitch, dtype)
        if origin.dtype == "bool":
            buffer[...] = 0  # what lies between rows is looked at with them
        raw = buffer.view(np.uint8)
        row = 0
        outer = [(one.axes[number].n, abs(steps[number])) for number in plan.outer]
        for offsets in _offsets(plan.base, outer, width):
            rows = raw[row * pitch * width :]
            if isinstance(origin, Asked):
                self._hands.answers(origin.asks).read_rows(rows, pitch * width, plan.span * width, offsets)
            elif isinstance(origin, Joined):
                self._read_joined(origin, rows, pitch * width, plan.span * width, offsets)
            else:
                self._read_rows(origin, rows, pitch * width, plan.span * width, offsets)
            row += len(offsets)
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
        file = self._hands.file(origin.path)
        file.expect(origin.size, origin.modified)
        return file

    def _read_rows(self, origin: Stored, raw: np.ndarray, pitch: int, span: int, offsets: Sequence[int]) -> None:
        """Read a stretch of `span` bytes from each offset in a value into rows that are `pitch` bytes apart."""
        file = self._source(origin)
        if len(origin.extents) == 1:
            base = origin.extents[0][0]
            reach = offsets[-1] + span - offsets[0]
            if len(offsets) > 1 and 0 < reach <= _AHEAD:
                file.advise(base + offsets[0], reach)
            file.read_rows(raw, pitch, span, [base + offset for offset in offsets])
            return
        for row, start in enumerate(offsets):
            for offset, first, size in spread(origin.extents, start, span):
                at = row * pitch + first
                file.read_into(raw[at : at + size], offset)

    def _read_joined(self, origin: Joined, raw: np.ndarray, pitch: int, span: int, offsets: Sequence[int]) -> None:
        """As `_read_rows`, of a value whose parts lie in several files."""
        files = {part.path: self._source(part) for part in origin.parts}
        for row, start in enumerate(offsets):
            for path, offset, first, size in origin.stretches(start, span):
                at = row * pitch + first
                files[path].read_into(raw[at : at + size], offset)

    # ------------------------------------------------------------- where it goes

    @property
    def _out(self) -> File:
        return self._hands.file(self.task.path, writing=True)

    def _write(self, made: np.ndarray, one: Group) -> None:
        """Write the elements of a group, which are in its order, to every place of the value."""
        self._hands.ask()
        raw, width, out = made.view(np.uint8), made.dtype.itemsize, self._out
        number, length = runs(one)
        for extents in self.task.places:
            if number > 1 and len(extents) == 1:
                base = extents[0][0]
                out.write_rows(raw, length * width, (base + start * width for start in starts(one)))
                continue
            for index, start in enumerate(starts(one)):
                at = index * length * width
                for offset, first, size in spread(extents, start * width, length * width):
                    out.write(raw[at + first : at + first + size], offset)
                    if size >= _HURRY:
                        out.hurry(offset, size)
        self._hands.tell(raw.size)


def _call(origin: Origin) -> int:
    """What reading one stretch costs, in bytes that could be copied meanwhile."""
    if isinstance(origin, Asked):
        return max(READ, origin.block)
    return ASK if isinstance(origin, Stored) and is_url(origin.path) else READ


def _dense(start: int, count: int) -> Group:
    """Elements in a row."""
    return group((count,), (start, (1,)), ())


def _divided(one: Group, step: int) -> Iterator[tuple[Group, tuple[slice, ...]]]:
    """A group in parts of at most `step` elements that follow one another in its order, and the place of each in it."""
    sizes, left = [], step
    for axis in reversed(one.axes):
        sizes.append(max(1, min(axis.n, left)))
        left //= sizes[-1]
    sizes.reverse()
    for place in itertools.product(*(range(0, axis.n, n) for axis, n in zip(one.axes, sizes, strict=True))):
        part = one
        for number, start in enumerate(place):
            part = part.part(number, start, min(sizes[number], one.axes[number].n - start))
        yield part, tuple(slice(start, start + n) for start, n in zip(place, sizes, strict=True))


def _offsets(base: int, outer: Sequence[tuple[int, int]], width: int) -> Iterator[list[int]]:
    """Where stretches begin, in bytes, a bounded number at a time: of axes with sizes and steps in elements."""
    sizes = [n for n, _ in outer]
    total = math.prod(sizes)
    for first in range(0, total, _LISTED):
        rest = np.arange(first, min(first + _LISTED, total), dtype=np.int64)
        found = np.full(rest.shape, base, np.int64)
        for n, step in reversed(outer):
            rest, index = np.divmod(rest, n)
            found += index * step
        yield (found * width).tolist()


def _strided(flat: np.ndarray, start: int, shape: Sequence[int], steps: Sequence[int]) -> np.ndarray:
    """A view of a flat array; NumPy refuses one that would leave it."""
    width = flat.dtype.itemsize
    raw = flat.view(np.uint8).data  # the dtypes of ml_dtypes have no buffer format
    return np.ndarray(tuple(shape), flat.dtype, raw, start * width, tuple(step * width for step in steps))


def _check_bools(raw: np.ndarray, where: str) -> None:
    largest = int(raw.max())
    if largest > 1:
        message = f"{where}: a bool is stored as the byte {largest}, expected 0 or 1"
        raise errors.FileFormatError(
            message, expected="0 or 1", found=largest, hint="the file is damaged: get it again"
        )
