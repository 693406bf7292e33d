"""How long a conversion takes, and in how much memory: a sharded safetensors checkpoint from torch's layout to Flax's.

Shapes of a 7B model in float32, every matrix transposed, digests included. Beside it, in one run and each in a process of
its own: a plain copy of the same bytes (the limit), the usual ways with the `safetensors` library, and those of the
frameworks into their own formats. All of them end with fsync, and every output of every case is compared with the source in
full. The promises (`--check` fails beyond them) are those of `PROMISES`.

    python benchmarks/conversion.py [--gb 0.5] [--rounds 3] [--folder DIR] [--single] [--groups NAME...] [--check] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

from converting.checkpoint import made
from converting.looking import Memory, difference
from converting.routes import ROUTES, missing, prepare

SCHEMA = "stateregistry.bench.conversion/2"


@final
@dataclass(frozen=True, slots=True)
class Row:
    """One case: seconds, the ratio to a plain copy (median of the rounds), and what it took of the machine.

    `processor` is in seconds of user and system, which other work on the machine changes little; `anonymous` and `total`
    are peaks over the idle process in MB, of anonymous memory and of all that is resident. `wrong` says what is wrong with
    the output.
    """

    group: str
    case: str
    median: float
    best: float
    ratio: float
    processor: float
    anonymous: float
    total: float
    wrong: str


Table = dict[str, Row]

#: What has to hold of a table, where it has the cases; the second are those of many matrices, not of a single one.
PROMISES: dict[str, tuple[tuple[str, ...], bool, Callable[[Table], bool]]] = {
    "ours-2 takes at most 2.5 times a copy": (("copy", "ours-2"), False, lambda t: t["ours-2"].ratio <= 2.5),
    "ours-1 takes at most 3.5 times a copy": (("copy", "ours-1"), True, lambda t: t["ours-1"].ratio <= 3.5),
    "ours-2 is 3 times faster than ascontiguousarray": (
        ("ours-2", "numpy"), False, lambda t: t["ours-2"].median * 3 <= t["numpy"].median,
    ),
    "ours-2 is no slower than torch": (
        ("ours-2", "torch"), False, lambda t: t["ours-2"].median <= t["torch"].median,
    ),
    "96 MB of anonymous memory to safetensors and msgpack": (
        (), False,
        lambda t: all(
            row.anonymous <= 96 for row in t.values() if row.case.startswith("ours") and row.group in {"safetensors", "msgpack"}
        ),
    ),
    "msgpack in a fifth of the memory of flax": (
        ("ours-msgpack-2", "flax"), False,
        lambda t: 5 * max(t[f"ours-msgpack-{n}"].total for n in (1, 2)) <= t["flax"].total,
    ),
    "msgpack is no slower than flax": (
        ("ours-msgpack-1", "flax"), False, lambda t: t["ours-msgpack-1"].median <= t["flax"].median,
    ),
    "orbax in half of the memory of StandardCheckpointer": (
        ("ours-orbax-1", "orbax"), True, lambda t: 2 * t["ours-orbax-1"].anonymous <= t["orbax"].anonymous,
    ),
    "orbax is no slower than StandardCheckpointer": (
        ("ours-orbax-1", "orbax"), False, lambda t: t["ours-orbax-1"].median <= t["orbax"].median,
    ),
    "every output of ours is right": (
        (), False, lambda t: not any(row.wrong for row in t.values() if row.case.startswith("ours")),
    ),
}  # fmt: skip


def one(case: str, source: Path, target: Path) -> None:
    """Run one case here and print what it took."""
    route = prepare(case, source)
    watch = Memory()
    watch.start()
    begin, used = time.perf_counter(), time.process_time()
    route(source, target)
    took, used = time.perf_counter() - begin, time.process_time() - used
    anonymous, total = watch.beyond()
    print(json.dumps({"seconds": took, "processor": used, "anonymous": anonymous, "total": total}))


def called(case: str, source: Path, target: Path) -> dict[str, Any]:
    """What a case took in a process of its own."""
    command = [sys.executable, __file__, "--one", case, str(source), str(target)]
    environment = {"JAX_PLATFORMS": "cpu", **os.environ}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measured(group: str, case: str, source: Path, room: Path) -> dict[str, Any]:
    """Run one case in a process of its own, into an empty directory, and compare what it wrote."""
    target = room / "out"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    os.sync()
    found = called(case, source, target)
    turned = group != "from orbax" and case not in {"copy", "orbax-alone"}
    found["wrong"] = difference(source, target, turned=turned)
    shutil.rmtree(target)
    return found


def backwards(source: Path, folder: Path) -> Path:
    """A directory with the Orbax checkpoint to come back from, and the files that it was made of."""
    folder.mkdir()
    called("orbax", source, folder)
    for path in source.iterdir():
        (folder / path.name).symlink_to(path)
    return folder


def rows(sources: dict[str, Path], room: Path, rounds: int, cases: list[tuple[str, str]]) -> Iterator[Row]:
    """Every case, interleaved."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {case: [] for case in cases}
    for _ in range(rounds):
        for which in cases:
            found[which].append(measured(*which, sources[which[0]], room))
    limit = statistics.median(run["seconds"] for run in found["safetensors", "copy"])
    for (group, case), runs in found.items():
        seconds = [run["seconds"] for run in runs]
        median = statistics.median(seconds)
        used = statistics.median(run["processor"] for run in runs)
        anonymous, total = (max(run[what] for run in runs) for what in ("anonymous", "total"))
        wrong = next((run["wrong"] for run in runs if run["wrong"]), "")
        yield Row(group, case, median, min(seconds), median / limit, used, anonymous, total, wrong)


def broken(table: Table, *, single: bool) -> list[str]:
    """The promises that do not hold."""
    asked = {
        text: kept
        for text, (needs, several, kept) in PROMISES.items()
        if set(needs) <= set(table) and not (single and several)
    }
    return [text for text, kept in asked.items() if not kept(table)]


def shown(table: Table) -> None:
    """Print the table, a part for each group."""
    for group in dict.fromkeys(row.group for row in table.values()):
        print(f"\n{'from orbax to safetensors' if group == 'from orbax' else f'to {group}'}:\n")
        print("| case | median s | best s | to a copy | processor s | anonymous MB | total MB | output |")
        print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |")
        for row in table.values():
            if row.group == group:
                times = f"{row.median:.2f} | {row.best:.2f} | {row.ratio:.2f} | {row.processor:.2f}"
                memory = f"{row.anonymous:.0f} | {row.total:.0f}"
                print(f"| {row.case} | {times} | {memory} | {row.wrong or 'equal'} |")


def main() -> int:
    """Run the cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gb", type=float, default=0.5, help="gigabytes of the checkpoint")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to work: the disk that is measured")
    parser.add_argument("--single", action="store_true", help="one matrix instead of many")
    parser.add_argument("--check", action="store_true", help="fail where a promise does not hold")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--groups", nargs="+", choices=list(ROUTES), default=list(ROUTES))
    parser.add_argument("--one", nargs=3, metavar=("CASE", "SOURCE", "TARGET"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        one(asked.one[0], Path(asked.one[1]), Path(asked.one[2]))
        return 0
    cases = [("safetensors", "copy")]
    for group in asked.groups:
        for case, (_, needs) in ROUTES[group].items():
            lacks = missing(needs)
            if lacks:
                print(f"{case} is left out: {lacks} is not installed", file=sys.stderr)
            elif case != "copy":
                cases.append((group, case))
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        room = Path(name)
        source = room / "in"
        source.mkdir()
        total = made(source, asked.gb, single=asked.single)
        sources = dict.fromkeys(ROUTES, source)
        if any(group == "from orbax" for group, _ in cases):
            sources["from orbax"] = backwards(source, room / "back")
        table = {row.case: row for row in rows(sources, room, asked.rounds, cases)}
    failed = broken(table, single=asked.single) if asked.check else []
    if asked.json:
        told: dict[str, Any] = {"schema": SCHEMA, "bytes": total, "rows": [asdict(row) for row in table.values()]}
        print(json.dumps({**told, "broken": failed}, indent=1))
    else:
        print(f"{total / 1e9:.2f} GB, {asked.rounds} rounds, each case in a process of its own")
        shown(table)
        print(*(f"not kept: {text}" for text in failed), sep="\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
