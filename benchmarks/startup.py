"""How much longer than bare Python the cheapest things take: importing, `--version`, `--help`, `inspect` of a header.

Each is timed as a pair: bare Python and the command take turns, so that a slow moment of the machine falls on both, and
the medians of the pairs are reported. What counts is the processor time of the process, user and system: another program
takes little of that, and much of the clock, which is shown beside it. Exits 1 where a promise is broken: 60 ms more than
bare Python for an import, 100 for `--version` and `--help`, 200 for `inspect` of a safetensors file of 1,000 tensors.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import struct
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

SCRIPT = str(Path(sysconfig.get_path("scripts")) / "stateregistry")


@dataclass(frozen=True, slots=True)
class Case:
    """One command, and how many milliseconds more than bare Python it may take of a processor."""

    name: str
    command: tuple[str, ...]
    limit: float


@dataclass(frozen=True, slots=True)
class Took:
    """What one process took, in milliseconds."""

    processor: float
    clock: float


@dataclass(frozen=True, slots=True)
class Timing:
    """The medians over all pairs, in milliseconds."""

    case: Case
    bare: float
    processor: float
    more: float
    clock_more: float

    @property
    def passed(self) -> bool:
        """Within the limit."""
        return self.more <= self.case.limit


#: As users run: with compiled modules kept, which the first, discarded run makes.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def took(command: tuple[str, ...]) -> Took:
    """One run of a command that must succeed. Nothing else may run as a child of this process meanwhile."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, env=ENVIRONMENT)
    after, end = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    return Took(
        1e3 * (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime),
        1e3 * (end - start),
    )


def measure(case: Case, pairs: int) -> Timing:
    """Time a case against bare Python, taking turns, the first pair thrown away."""
    bare = (sys.executable, "-c", "pass")
    took(bare), took(case.command)
    found = [(took(bare), took(case.command)) for _ in range(pairs)]
    return Timing(
        case,
        statistics.median(a.processor for a, _ in found),
        statistics.median(b.processor for _, b in found),
        statistics.median(b.processor - a.processor for a, b in found),
        statistics.median(b.clock - a.clock for a, b in found),
    )


def write_file(path: Path, tensors: int) -> None:
    """A safetensors file of many small tensors, written by the letter of the format."""
    header = {
        f"block.{i // 4}.layer{i % 4}.weight": {"dtype": "F32", "shape": [4], "data_offsets": [16 * i, 16 * i + 16]}
        for i in range(tensors)
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(16 * tensors))


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=15, help="how many pairs are timed (default 15)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as room:
        file = Path(room) / "model.safetensors"
        write_file(file, 1000)
        cases = (
            Case("import stateregistry", (sys.executable, "-c", "import stateregistry"), 60),
            Case("stateregistry --version", (SCRIPT, "--version"), 100),
            Case("stateregistry --help", (SCRIPT, "--help"), 100),
            Case("stateregistry inspect, 1,000 tensors", (SCRIPT, "inspect", str(file)), 200),
        )
        timings = [measure(case, options.pairs) for case in cases]
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, {options.pairs} pairs each; medians, ms\n")
    print("| command | bare Python, processor | command, processor | more | promised | more by the clock |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for t in timings:
        cells = (f"{t.bare:.0f}", f"{t.processor:.0f}", f"{t.more:.0f}", f"{t.case.limit:.0f}", f"{t.clock_more:.0f}")
        print(f"| {t.case.name} | {' | '.join(cells)} |")
    late = [t.case.name for t in timings if not t.passed]
    if late:
        print(f"\nover the limit: {', '.join(late)}", file=sys.stderr)
    return 1 if late else 0


if __name__ == "__main__":
    sys.exit(main())
