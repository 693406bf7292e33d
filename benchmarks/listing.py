"""How long a listing takes: a torch model of many modules with two parameters each.

Compares a registry's listing of all entries with all their fields with `named_parameters()` and `named_buffers()` of the same
model, interleaved in the same run, in time of the processor. The promise is a ratio of at most 4 for such models, for one
listing and for a lookup of every key after it (`--check` fails above); a model of BatchNorm layers stands beside them.

    python benchmarks/listing.py [--modules 50000] [--rounds 7] [--json] [--check]
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, final

import torch
from torch import nn

import stateregistry as sr

LIMIT = 4.0
SCHEMA = "stateregistry.bench.listing/1"


@final
@dataclass(frozen=True, slots=True)
class Row:
    """One measurement: seconds, and the ratio to the baseline of the same model."""

    model: str
    what: str
    entries: int
    median: float
    best: float
    ratio: float


def flat(modules: int) -> nn.Module:
    """All modules in one list."""
    return nn.ModuleList([_leaf() for _ in range(modules)])


def deep(modules: int) -> nn.Module:
    """A tree whose nodes have ten children, some five levels deep."""
    layer: list[nn.Module] = [_leaf() for _ in range(modules)]
    while len(layer) > 1:
        layer = [nn.ModuleList(layer[start : start + 10]) for start in range(0, len(layer), 10)]
    return layer[0]


def normalised(modules: int) -> nn.Module:
    """BatchNorm layers: two parameters and three buffers each."""
    return nn.ModuleList([nn.BatchNorm1d(2) for _ in range(modules * 2 // 5)])


def _leaf() -> nn.Module:
    module = nn.Module()
    module.weight = nn.Parameter(torch.empty(2, 2))
    module.bias = nn.Parameter(torch.empty(2))
    return module


def native(model: nn.Module) -> object:
    """What torch itself lists."""
    return list(model.named_parameters()) + list(model.named_buffers())


def measure(name: str, model: nn.Module, rounds: int) -> list[Row]:
    """The rows of one model; baseline and candidates take turns, so that noise meets all of them."""
    reg = sr.of(model)
    candidates: dict[str, Callable[[], Any]] = {
        "named_parameters + named_buffers": lambda: native(model),
        "dict(reg.items())": lambda: dict(reg.items()),
        "dict(reg)": lambda: dict(reg),  # a lookup by key for every entry
        "sr.of(model)": lambda: sr.of(model),
        "reg.aliases": lambda: reg.aliases,
    }
    times: dict[str, list[float]] = {what: [] for what in candidates}
    for _ in range(rounds):
        for what, run in candidates.items():
            gc.collect()
            start = time.process_time()
            run()
            times[what].append(time.process_time() - start)
    base = statistics.median(next(iter(times.values())))
    return [
        Row(name, what, len(reg), statistics.median(taken), min(taken), statistics.median(taken) / base)
        for what, taken in times.items()
    ]


def main() -> int:
    """Measure, print, and with `--check` say whether the promise is kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modules", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="one JSON document instead of the table")
    parser.add_argument(
        "--check", action="store_true", help=f"exit 1 if a listing takes more than {LIMIT} times as long"
    )
    options = parser.parse_args()
    rows: list[Row] = []
    for build in (flat, deep, normalised):
        rows += measure(build.__name__, build(options.modules), options.rounds)
    if options.json:
        print(json.dumps({"schema": SCHEMA, "limit": LIMIT, "rows": [asdict(row) for row in rows]}, indent=2))
    else:
        print(f"{options.modules:,} modules, median of {options.rounds} rounds; torch {torch.__version__}")
        print(f"{'model':<12}{'what':<36}{'entries':>9}{'median ms':>12}{'best ms':>10}{'ratio':>8}")
        for row in rows:
            line = f"{row.model:<12}{row.what:<36}{row.entries:>9,}{row.median * 1e3:>12.0f}{row.best * 1e3:>10.0f}"
            print(f"{line}{row.ratio:>8.2f}")
    promised = {(build.__name__, what) for build in (flat, deep) for what in ("dict(reg)", "dict(reg.items())")}
    slow = [row for row in rows if (row.model, row.what) in promised and row.ratio > LIMIT]
    for row in slow if options.check else ():
        print(f"{row.model}: {row.what} takes {row.ratio:.2f} times as long, promised is {LIMIT}", file=sys.stderr)
    return 1 if slow and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
