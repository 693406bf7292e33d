"""The engine: tasks through workers in one pass over the source, bounded bytes in flight, digests as they come.

Threads of this process, or any `concurrent.futures.Executor`: tasks are data, and workers write disjoint stretches of
files that are there. A worker has one window in memory, and a piece of it on its way out: the peak is workers times
that. The first failure, or Ctrl-C, stops all workers at their next piece. Imports no store and no plan.
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
from stateregistry.streaming.task import Outcome, Stopped, Task, perform

#: Tasks are handed out until a batch has this many bytes or so many tasks.
_BATCH_BYTES = 1 << 23
_BATCH_TASKS = 256
#: To other machines, batches are handed out that are larger, up to this, and so many for each worker.
_LARGEST = 1 << 30
_EACH = 32

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


def run(
    tasks: Iterable[Task],
    *,
    workers: int,
    executor: Executor | None,
    meter: Meter,
    note: Callable[[Mapping[str, str]], Sequence[Ending]],
) -> tuple[dict[str, str], dict[int, str]]:
    """Perform tasks; the digest of every value by key, and the sha256 of every file that `note` said is complete.

    Args:
        tasks: made when they are asked for, so that values in memory are taken one after another.
        workers: threads that move values; with an executor, twice as many batches are in flight as it is said to have.
        note: told the digests of each batch that is done; says which files are complete now. They are closed, synced
            and hashed beside what follows.

    Raises:
        Whatever a task raises; the others have stopped by then.
    """
    found: dict[str, str] = {}
    ends: dict[int, Future[str]] = {}
    stop = threading.Event()
    flying: dict[Future[list[Outcome]], int] = {}
    with ExitStack() as stack:
        stack.callback(buffers.release)
        beside = executor or stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="stateregistry-end"))
        pool = executor
        if pool is None and workers > 1:
            pool = stack.enter_context(ThreadPoolExecutor(workers, thread_name_prefix="stateregistry"))

        def took(outcomes: Sequence[Outcome]) -> None:
            made = {outcome.key: outcome.digest for outcome in outcomes}
            found.update(made)
            for end in note(made):
                ends[end.number] = beside.submit(finish, end.path, end.frames)

        try:
            limit = _BATCH_BYTES if executor is None else batch_bytes(meter.total, workers)
            for batch in batches(tasks, limit):
                if pool is None:
                    took(perform(batch, meter.wrote))
                    continue
                # A callback would not reach another process.
                more = (meter.wrote, stop.is_set) if executor is None else ()
                flying[pool.submit(perform, batch, *more)] = sum(task.nbytes for task in batch)
                if len(flying) >= 2 * workers:
                    _land(flying, took, meter if executor is not None else None)
            while flying:
                _land(flying, took, meter if executor is not None else None)
            return found, {number: end.result() for number, end in ends.items()}
        except BaseException:
            stop.set()
            pending: list[Future[Any]] = [*flying, *ends.values()]
            for future in pending:
                future.cancel()
            wait(pending)  # nobody writes any more when the files are removed
            raise


def _land(
    flying: dict[Future[list[Outcome]], int], took: Callable[[Sequence[Outcome]], None], meter: Meter | None
) -> None:
    """Wait until at least one batch is done."""
    done, _ = wait(flying, return_when=FIRST_COMPLETED)
    failed = [future for future in done if future.exception() is not None]
    real = [future for future in failed if not isinstance(future.exception(), Stopped)]
    for future in done - set(failed):
        nbytes = flying.pop(future)
        took(future.result())
        if meter is not None:
            meter.wrote(nbytes)
    for future in (*real, *failed):
        flying.pop(future, None)
        future.result()


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
    origins: Sequence[Path],
    *,
    workers: int,
    executor: Executor | None,
) -> tuple[list[str], list[str]]:
    """`finish` for several files, and the digests of those that were read: while one waits for the disk, another is hashed."""
    pool = executor if executor is not None else ThreadPoolExecutor(max(2, workers), thread_name_prefix="stateregistry")
    try:
        ends = [pool.submit(finish, *job) for job in jobs]
        read = [pool.submit(digests.of_file, str(path)) for path in origins]
        try:
            return [one.result() for one in ends], [one.result() for one in read]
        except BaseException:
            for one in (*ends, *read):
                one.cancel()
            wait((*ends, *read))
            raise
    finally:
        if executor is None:
            pool.shutdown(wait=True)
