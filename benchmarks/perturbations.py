"""How pairing bears perturbations: names, numbers, order and layers of the pairs of the zoo changed at random.

`python benchmarks/perturbations.py [--rounds N] [--forward N] [--seed N] [--pairs N] [--page] [--json]`. `--page` also converts
every pair and writes docs/zoo.md. Exit status 1 where a wrong answer was not refused.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "zoo"))

from zoo_all import PAIRS, PLAIN
from zoo_page import page
from zoo_samples import FORWARD, forward_samples, samples, table, truth
from zoo_survey import survey, ways

PAGE = Path(__file__).resolve().parents[1] / "docs" / "zoo.md"


def main() -> int:
    """Measure, print a table, and write the page if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=1, help="how often each pair is perturbed in each way")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--forward", type=int, default=FORWARD, help="how many of each perturbation run both models")
    parser.add_argument("--pairs", type=int, default=len(PAIRS), help="how many pairs to draw from")
    parser.add_argument("--page", action="store_true", help="write docs/zoo.md")
    parser.add_argument("--json", action="store_true")
    wanted = parser.parse_args()
    started = time.perf_counter()
    plain = list(PLAIN)
    Random(wanted.seed).shuffle(plain)  # noqa: S311  # which pairs are drawn, no secret
    truths = [one for pair in plain[: wanted.pairs] if (one := truth(pair)) is not None]
    found = [*samples(truths, wanted.seed, wanted.rounds), *forward_samples(truths, wanted.seed, wanted.forward)]
    wrong = [one for one in found if one.outcome == "wrong"]
    if wanted.json:
        rows = [asdict(one) for one in found]
        print(json.dumps({"schema": "stateregistry.benchmark.perturbations/1", "seed": wanted.seed, "samples": rows}))
    else:
        print(
            f"{len(found)} perturbed pairs of {len(truths)}, seed {wanted.seed}, {time.perf_counter() - started:.0f} s"
        )
        print("\n".join(table(found)))
        for one in wrong:
            print(f"wrong: {one.pair}, {one.perturbation}, {one.way}, seed {one.seed}: {one.detail}")
    if wanted.page:
        surveys = {}
        for pair in PAIRS:
            side = pair.flax()
            surveys[pair.name] = {way: survey(pair, way, side) for way in ways(pair, side)}
        PAGE.write_text(page(PAIRS, surveys, found, wanted.seed), encoding="utf-8")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
