"""How much longer than bare Python the cheapest things take: `import stateregistry` and `stateregistry --version`.

Each is timed as a paired ratio: bare Python and the command take turns, so that a slow moment of the machine falls on
both, and the medians of the pairs are reported. Exits 1 where one of the limits is passed: 60 ms more than bare Python.
`inspect` of a file and `--help` are shown beside them, without a limit of that kind.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import struct
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

LIMIT_MS = 60.0
SCRIPT = str(Path(sysconfig.get_path("scripts")) / "stateregistry")


@dataclass(frozen=True, slots=True)
class Case:
    """One command, and whether it has to stay under the limit."""

    name: str
    command: tuple[str, ...]
    limit: float | None


@dataclass(frozen=True, slots=True)
class Timing:
    """The medians over all pairs."""

    case: Case
    bare_ms: float
    ms: float
    more_ms: float
    ratio: float

    @property
    def passed(self) -> bool:
        """Under the limit, or without one."""
        return self.case.limit is None or self.more_ms <= self.case.limit


#: As users run: with compiled modules kept, which the first, discarded run makes.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def seconds(command: tuple[str, ...]) -> float:
    """Wall time of one run of a command that must succeed."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, env=ENVIRONMENT)
    return time.perf_counter() - start


def measure(case: Case, pairs: int) -> Timing:
    """Time a case against bare Python, taking turns, the first pair thrown away."""
    bare = (sys.executable, "-c", "pass")
    seconds(bare), seconds(case.command)
    found = [(seconds(bare), seconds(case.command)) for _ in range(pairs)]
    return Timing(
        case,
        1e3 * statistics.median(a for a, _ in found),
        1e3 * statistics.median(b for _, b in found),
        1e3 * statistics.median(b - a for a, b in found),
        statistics.median(b / a for a, b in found),
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
            Case("import stateregistry", (sys.executable, "-c", "import stateregistry"), LIMIT_MS),
            Case("stateregistry --version", (SCRIPT, "--version"), LIMIT_MS),
            Case("stateregistry --help", (SCRIPT, "--help"), None),
            Case("stateregistry inspect, 1,000 tensors", (SCRIPT, "inspect", str(file)), None),
        )
        timings = [measure(case, options.pairs) for case in cases]
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, {options.pairs} pairs each; medians\n")
    print("| command | bare Python, ms | command, ms | more, ms | ratio | limit, ms |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for t in timings:
        limit = f"{t.case.limit:.0f}" if t.case.limit is not None else "-"
        print(f"| {t.case.name} | {t.bare_ms:.1f} | {t.ms:.1f} | {t.more_ms:.1f} | {t.ratio:.2f} | {limit} |")
    late = [t.case.name for t in timings if not t.passed]
    if late:
        print(f"\nover the limit: {', '.join(late)}", file=sys.stderr)
    return 1 if late else 0


if __name__ == "__main__":
    sys.exit(main())
