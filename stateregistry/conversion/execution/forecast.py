"""How many bytes a conversion moves, and how long N machines take for it: on paper, before anything is started.

The moves of a plan are independent and their bytes known, so the time has a lower and an upper bound that are simple sums
(Graham's bounds for list scheduling), and a simulation of the same queue lies between them. Imports the plan and nothing that
touches a file.

    python -m stateregistry.conversion.execution.forecast model.safetensors.index.json --to flax-linen --machines 1 10 100
"""

from __future__ import annotations

import argparse
import heapq
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import final

from stateregistry.conversion.planning.plan import Plan
from stateregistry.streaming.engine import batch_bytes


@final
@dataclass(frozen=True, slots=True)
class Machines:
    """What the work runs on.

    Attributes:
        count: machines. workers: of each.
        speed: bytes of the target that one worker reads, rearranges and writes in a second.
        hashing: bytes that one worker hashes in a second, reading included.
        storage: bytes that the shared storage takes and gives in a second, of all workers together.
        dispatch: seconds of the coordinator for each batch that it hands out.
    """

    count: int = 1
    workers: int = 2
    speed: float = 3e8
    hashing: float = 1e9
    storage: float = 1e9
    dispatch: float = 1e-3

    @property
    def hands(self) -> int:
        """Workers of all machines."""
        return self.count * self.workers


@final
@dataclass(frozen=True, slots=True)
class Work:
    """What has to be done: bytes of every batch, and of every file that is hashed (those written, then those read)."""

    batches: tuple[int, ...]
    written: tuple[int, ...]
    read: tuple[int, ...]

    @property
    def moved(self) -> int:
        """Bytes that go through the storage: values read and written, and both sides read again for their digests."""
        return 2 * sum(self.batches) + sum(self.written) + sum(self.read)


@final
@dataclass(frozen=True, slots=True)
class Forecast:
    """Seconds that a conversion takes at least and at most, and what holds it up."""

    machines: Machines
    work: Work
    least: float
    most: float
    bound_by: str

    def __str__(self) -> str:
        made = f"{self.machines.count:>8,} {self.machines.hands:>8,} {len(self.work.batches):>9,}"
        return f"{made} {_size(self.work.moved):>10} {_time(self.least):>10} {_time(self.most):>10}  {self.bound_by}"


HEAD = f"{'machines':>8} {'workers':>8} {'batches':>9} {'moved':>10} {'at least':>10} {'at most':>10}  held up by"


def work_of(plan: Plan, machines: Machines, *, shard_bytes: int | None = None) -> Work:
    """The work of a plan that is written to a file, or to shards."""
    sizes = [plan.target.entries[move.target].nbytes for move in plan.moves if move.target]
    taken = {feed.key for move in plan.moves if move.target for feed in move.sources}
    source = sum(plan.source.entries[key].nbytes for key in taken)
    limit = shard_bytes or sum(sizes)
    # Which source files there are, a plan does not know: as large as those of the target, or as the whole.
    return Work(
        cut(sizes, batch_bytes(sum(sizes), machines.hands)), cut(sizes, limit), cut([source], limit, split=True)
    )


def cut(sizes: Iterable[int], limit: int, *, split: bool = False) -> tuple[int, ...]:
    """Values in groups that end as soon as they reach a limit, as the engine hands them out."""
    return tuple(_cut(sizes, max(1, limit), split=split))


def _cut(sizes: Iterable[int], limit: int, *, split: bool) -> Iterator[int]:
    held = 0
    for size in sizes:
        held += size
        while split and held > limit:
            yield limit
            held -= limit
        if held >= limit and not split:
            yield held
            held = 0
    if held:
        yield held


def forecast(work: Work, machines: Machines) -> Forecast:
    """The bounds: of the moves, then of the digests, each held up by workers, the largest piece, storage or dispatch."""
    moves = _bounds(work.batches, machines, machines.speed, 2.0)
    ends = _bounds((*work.written, *work.read), machines, machines.hashing, 1.0)
    slowest = moves if max(moves.values()) >= max(ends.values()) else ends
    least = sum(max(one.values()) for one in (moves, ends))
    # Storage that is shared evenly never idles while it is short, nor does a worker while there is a batch.
    most = sum(one["workers"] + one["the largest piece"] + one["storage"] + one["dispatch"] for one in (moves, ends))
    return Forecast(machines, work, least, most, max(slowest, key=lambda name: slowest[name]))


def _bounds(pieces: Sequence[int], machines: Machines, speed: float, traffic: float) -> dict[str, float]:
    total = sum(pieces)
    return {
        "workers": total / speed / machines.hands,
        "the largest piece": max(pieces, default=0) / speed,
        "storage": traffic * total / machines.storage,
        "dispatch": machines.dispatch * len(pieces),
    }


def simulated(work: Work, machines: Machines) -> float:
    """Seconds of the same work on a simulated cluster: one queue, workers that take the next batch, storage shared evenly."""
    moves = _simulated(work.batches, machines, machines.speed, 2.0)
    return moves + _simulated((*work.written, *work.read), machines, machines.hashing, 1.0)


def _simulated(pieces: Sequence[int], machines: Machines, speed: float, traffic: float) -> float:
    """All who work get on at one pace, so that a piece is done when the common progress reaches its mark."""
    now = progress = ready = 0.0
    marks: list[float] = []
    waiting = iter(pieces)
    piece = next(waiting, None)
    while piece is not None or marks:
        pace = min(speed, machines.storage / traffic / len(marks)) if marks else 0.0
        done = now + (marks[0] - progress) / pace if marks else float("inf")
        starts = (
            max(now, ready + machines.dispatch) if piece is not None and len(marks) < machines.hands else float("inf")
        )
        then = min(done, starts)
        progress += pace * (then - now)
        now = then
        if starts <= done:
            assert piece is not None
            heapq.heappush(marks, progress + piece)
            ready, piece = now, next(waiting, None)
        else:
            heapq.heappop(marks)
    return now


def _size(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if number < 1000 or unit == "TB":
            break
        number /= 1000
    return f"{number:,.1f} {unit}"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:,.1f} s"
    return f"{seconds / 60:,.1f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the forecast for one checkpoint and several numbers of machines."""
    import stateregistry as sr

    ours = Machines()
    parser = argparse.ArgumentParser(prog="python -m stateregistry.conversion.execution.forecast", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("source")
    parser.add_argument("--to", help="framework of the target; without it the source is copied as it is")
    parser.add_argument("--allow", action="append", default=[])
    parser.add_argument("--machines", type=int, nargs="+", default=[1, 10, 100])
    parser.add_argument("--workers", type=int, default=ours.workers, help="of each machine (%(default)s)")
    parser.add_argument(
        "--speed", type=float, default=ours.speed, help="bytes a worker moves in a second (%(default)g)"
    )
    parser.add_argument("--hashing", type=float, default=ours.hashing, help="bytes it hashes (%(default)g)")
    parser.add_argument("--storage", type=float, default=ours.storage, help="bytes the storage moves (%(default)g)")
    parser.add_argument("--shard-bytes", type=float, default=5e9, help="of one file of the output (%(default)g)")
    asked = parser.parse_args(arguments)
    with sr.open(asked.source) as found:
        plan = sr.plan(found, None if asked.to else found, to=asked.to, allow=tuple(asked.allow))
    plan.require()
    sys.stdout.write(f"{HEAD}\n")
    for count in asked.machines:
        machines = Machines(count, asked.workers, asked.speed, asked.hashing, asked.storage)
        work = work_of(plan, machines, shard_bytes=int(asked.shard_bytes))
        sys.stdout.write(f"{forecast(work, machines)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
