"""The engine: tasks through workers in one pass over the source, bounded bytes in flight, digests as they come.

Threads of this process, or any `concurrent.futures.Executor`: tasks are data, and workers write disjoint stretches of
files that are there. Threads share one budget of memory in equal rooms; a process of an executor has one room. A value so
large that one worker would be at it alone is shared in parts, and looked at once more for its digest. The first failure, or
Ctrl-C, stops all workers at their next piece. Imports no store and no plan.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from stateregistry import errors
from stateregistry.streaming import buffers, digests
from stateregistry.streaming.disk import File
from stateregistry.streaming.layout import Frame
from stateregistry.streaming.task import Held, Outcome, Stopped, Task, measure, parts, perform, perform_part

#: Tasks are handed out until a batch has this many bytes or so many tasks.
_BATCH_BYTES = 1 << 23
_BATCH_TASKS = 256
#: To other machines, batches are handed out that are larger, up to this, and so many for each worker.
_LARGEST = 1 << 30
_EACH = 32
#: Bytes of one part of a value that workers share, at least.
_PART = 1 << 27

Told = Callable[[int, int], None]


@final
@dataclass(frozen=True, slots=True)
class How:
    """How the work is done: threads or an executor, and what is told meanwhile."""

    workers: int | None = None
    executor: Executor | None = None
    told: Callable[[int, int], None] | None = None
    resume: bool = False

    @property
    def count(self) -> int:
        """Workers: by default two, which is what a disk can use, or one on a machine with one processor."""
        if self.workers is None:
            return min(2, os.cpu_count() or 1)
        if type(self.workers) is not int or self.workers < 1:
            raise errors.UnsupportedError(f"workers is a positive number, not {self.workers!r}")
        return self.workers


@final
@dataclass(slots=True)
class Meter:
    """Bytes done, told to the caller from whichever thread did them."""

    total: int
    told: Told | None
    done: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def wrote(self, nbytes: int) -> None:
        """Take note of one piece."""
        with self.lock:
            self.done += nbytes
            if self.told is not None:
                self.told(self.done, max(self.total, self.done))


def batch_bytes(total: int, workers: int) -> int:
    """Bytes after which a batch for an executor is full: enough of them that all are busy, few enough to be handed out."""
    return min(_LARGEST, max(_BATCH_BYTES, total // (_EACH * workers)))


def batches(tasks: Iterable[Task], limit: int = _BATCH_BYTES) -> Iterator[tuple[Task, ...]]:
    """Tasks in groups that are worth handing out."""
    batch: list[Task] = []
    size = 0
    for task in tasks:
        batch.append(task)
        size += task.nbytes
        if size >= limit or len(batch) >= _BATCH_TASKS:
            yield tuple(batch)
            batch, size = [], 0
    if batch:
        yield tuple(batch)


@final
@dataclass(frozen=True, slots=True)
class Ending:
    """A file all values of which are written: its number, where it is, and what closes it."""

    number: int
    path: str
    frames: tuple[Frame, ...]


@final
class Read:
    """The files that values are read from, and their digests, which are made when a worker has nothing else to do."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)
        self._going: list[Future[str]] = []

    def begin(self, pool: Executor) -> None:
        """Let a pool do it."""
        self._going = self._going or [pool.submit(digests.of_file, str(path)) for path in self.paths]

    def cancel(self) -> None:
        """Give it up, and wait until nobody is at it."""
        for one in self._going:
            one.cancel()
        wait(self._going)

    def result(self) -> list[str]:
        """xxh3_128 of each file.

        Raises:
            FileMissingError, FileAccessError.
        """
        return [one.result() for one in self._going]


@final
class _Flight:
    """What has been handed out and has not come back."""

    def __init__(
        self, pool: Executor, more: tuple[Any, ...], took: Callable[[Sequence[Outcome]], None], meter: Meter | None
    ) -> None:
        self._pool, self._more, self._took, self._meter = pool, more, took, meter
        self._bytes: dict[Future[list[Outcome]], int] = {}
        self._held: dict[Future[list[Outcome]], int] = {}
        self._shared: dict[Future[list[Outcome]], Task] = {}
        self._left: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._bytes)

    @property
    def pending(self) -> list[Future[list[Outcome]]]:
        """What is under way."""
        return list(self._bytes)

    @property
    def held(self) -> int:
        """Bytes in memory of the values that are under way."""
        return sum(self._held.values())

    def batch(self, tasks: tuple[Task, ...]) -> None:
        """Hand out some tasks."""
        future = self._pool.submit(perform, tasks, *self._more)
        self._bytes[future] = sum(task.nbytes for task in tasks)
        self._held[future] = sum(one.array.nbytes for task in tasks for one in task.origins if isinstance(one, Held))

    def part(self, task: Task, number: int, of: int) -> None:
        """Hand out one of the parts of a task."""
        future = self._pool.submit(perform_part, task, number, of, *self._more)
        self._bytes[future] = task.nbytes * (number + 1) // of - task.nbytes * number // of
        self._shared[future] = task
        self._left.setdefault(task.key, of)

    def land(self) -> None:
        """Wait until at least something is done.

        Raises:
            What it raised.
        """
        done, _ = wait(self._bytes, return_when=FIRST_COMPLETED)
        failed = [future for future in done if future.exception() is not None]
        real = [future for future in failed if not isinstance(future.exception(), Stopped)]
        for future in done - set(failed):
            nbytes = self._bytes.pop(future)
            self._held.pop(future, None)
            if future in self._shared:
                self._landed(self._shared.pop(future))
            self._took(future.result())
            if self._meter is not None:
                self._meter.wrote(nbytes)
        for future in (*real, *failed):
            self._bytes.pop(future, None)
            future.result()

    def _landed(self, task: Task) -> None:
        self._left[task.key] -= 1
        if not self._left[task.key]:
            self._bytes[self._pool.submit(measure, task)] = 0


def run(
    tasks: Iterable[Task],
    *,
    workers: int,
    executor: Executor | None,
    meter: Meter,
    note: Callable[[Mapping[str, str]], Sequence[Ending]],
    read: Read | None = None,
) -> tuple[dict[str, str], dict[int, str]]:
    """Perform tasks; the digest of every value by key, and the sha256 of every file that `note` said is complete.

    Args:
        tasks: made when they are asked for, so that values in memory are taken one after another.
        workers: threads that move values; with an executor, twice as many batches are in flight as it is said to have.
        note: told the digests of each batch that is done; says which files are complete now. They are closed, synced
            and hashed beside what follows.
        read: begun when the last task has been handed out.

    Raises:
        Whatever a task raises; the others have stopped by then.
    """
    found: dict[str, str] = {}
    ends: dict[int, Future[str]] = {}
    stop = threading.Event()
    read = read or Read(())
    room = buffers.LARGEST if executor is not None else buffers.room_for(workers)
    with ExitStack() as stack:
        stack.enter_context(buffers.memory.kept())
        beside = executor or stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="stateregistry-end"))

        def took(outcomes: Sequence[Outcome]) -> None:
            made = {outcome.key: outcome.digest for outcome in outcomes}
            found.update(made)
            for end in note(made):
                ends[end.number] = beside.submit(finish, end.path, end.frames)

        # A callback would not reach another process.
        more = (meter.wrote, stop.is_set, room) if executor is None else (None, None, room)
        pool = executor or stack.enter_context(ThreadPoolExecutor(workers, thread_name_prefix="stateregistry"))
        flight = _Flight(pool, more, took, meter if executor is not None else None)
        limit = _BATCH_BYTES if executor is None else batch_bytes(meter.total, workers)
        try:
            for batch in batches(tasks, limit):
                if executor is None and workers == 1:
                    took(perform(batch, *more))
                    continue
                for job in _jobs(batch, max(_PART, limit), room):
                    flight.batch(job) if isinstance(job, tuple) else flight.part(job.task, job.number, job.of)
                    while len(flight) >= (workers if flight.held > buffers.BUDGET else 2 * workers):
                        flight.land()
            read.begin(pool)
            while flight:
                flight.land()
            return found, {number: end.result() for number, end in ends.items()}
        except BaseException:
            stop.set()
            pending: list[Future[Any]] = [*flight.pending, *ends.values()]
            for future in pending:
                future.cancel()
            wait(pending)  # nobody writes any more when the files are removed
            read.cancel()
            raise


@final
@dataclass(frozen=True, slots=True)
class _Part:
    task: Task
    number: int
    of: int


def _jobs(batch: Sequence[Task], nbytes: int, room: int) -> Iterator[tuple[Task, ...] | _Part]:
    """A batch without what is shared in parts, and the parts."""
    alone = []
    for task in batch:
        of = parts(task, nbytes, room)
        if of == 1:
            alone.append(task)
        for number in range(of if of > 1 else 0):
            yield _Part(task, number, of)
    if alone:
        yield tuple(alone)


def finish(path: str, frames: Sequence[Frame]) -> str:
    """Write what closes a file, wait until it is on the disk, and give its sha256."""
    with File.writing(path) as file:
        for offset, data in frames:
            file.write(data, offset)
        with ThreadPoolExecutor(1) as beside:  # the disk and the processor work at the same time
            synced = beside.submit(file.sync)
            text = digests.sha256(path)
            synced.result()
    return text


def finish_all(
    jobs: Sequence[tuple[str, Sequence[Frame]]],
    origins: Sequence[Path] | Read,
    *,
    workers: int,
    executor: Executor | None,
) -> tuple[list[str], list[str]]:
    """`finish` for several files, and the digests of those that were read: while one waits for the disk, another is hashed."""
    read = origins if isinstance(origins, Read) else Read(origins)
    pool = executor if executor is not None else ThreadPoolExecutor(max(2, workers), thread_name_prefix="stateregistry")
    try:
        ends = [pool.submit(finish, *job) for job in jobs]
        read.begin(pool)
        try:
            return [one.result() for one in ends], read.result()
        except BaseException:
            for one in ends:
                one.cancel()
            wait(ends)
            read.cancel()
            raise
    finally:
        if executor is None:
            pool.shutdown(wait=True)
