"""Pairing two models whose names have nothing in common: stateregistry and `weightbridge` on the pairs of the zoo, in one run.

Neither is given rules or hints. `weightbridge` gets the arrays of both sides and their formats; stateregistry gets the same
arrays as files, and, in further rows, the two models. From torch to Flax, which is what `weightbridge` is made for.
`python benchmarks/rivals.py [--all] [--only NAME] [--json]`: all foreign pairs and every fourth family, or every one with
`--all`. Right: every output agrees to 1e-5; wrong: it answered, and they do not.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "zoo"))

from flax import nnx, serialization, traverse_util
from zoo_all import FOREIGN, PAIRS
from zoo_pairs import TOLERANCE, FlaxSide, Pair, difference
from zoo_survey import FILES, LIVE, loaded, to_flax, ways

import stateregistry as sr


def weightbridge(pair: Pair, source: Any, side: FlaxSide, template: Any) -> Any:
    """The Flax state that `weightbridge.adapt` makes of a torch state.

    Counters, and second names of tied tensors, are taken away first: it has no notion of either.
    """
    import weightbridge as rival

    seen: set[int] = set()
    given = {}
    for name, tensor in source.state_dict().items():
        if not name.endswith("num_batches_tracked") and tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            given[name] = tensor.numpy()
    if isinstance(template, nnx.Module):
        flat = {tuple(map(str, path)): leaf for path, leaf in nnx.to_flat_state(nnx.state(template))}
        wanted = traverse_util.unflatten_dict({path: np.asarray(leaf.get_value()) for path, leaf in flat.items()})
        with contextlib.redirect_stdout(io.StringIO()):
            made = rival.adapt(
                given, wanted, in_format="pytorch", out_format="flax", in_separator=".", out_separator="/"
            )
        return loaded(template, made)
    # One tree, so that the statistics of a layer lie beside its scale.
    collections = serialization.to_state_dict(template)
    homes = {}
    for name, tree in collections.items():
        for path, leaf in traverse_util.flatten_dict(tree).items():
            homes[path] = (name, np.asarray(leaf))
    wanted = traverse_util.unflatten_dict({path: leaf for path, (_, leaf) in homes.items()})
    with contextlib.redirect_stdout(io.StringIO()):
        made = rival.adapt(given, wanted, in_format="pytorch", out_format="flax", in_separator=".", out_separator="/")
    flat_made = traverse_util.flatten_dict(made)
    return traverse_util.unflatten_dict({(homes[path][0], *path): leaf for path, leaf in flat_made.items()})


def ours(way: str, leave: tuple[str, ...]) -> Callable[..., Any]:
    """The Flax state that `sr.convert` makes of it."""

    def convert(pair: Pair, source: Any, side: FlaxSide, template: Any) -> Any:
        with tempfile.TemporaryDirectory() as room:
            allow = tuple(dict.fromkeys(("choice", "unexpected", *leave)))
            # An NNX module has no file that all agree on: it is taken as it is.
            chosen = way if way in ways(pair, side) else LIVE
            return to_flax(chosen, source, side, template, Path(room), {"allow": allow, "rules": None})[0]

    return convert


CONTENDERS: dict[str, Callable[..., Any]] = {
    "weightbridge": weightbridge,
    "stateregistry, files": ours(FILES, ()),
    "stateregistry, files, allow assumption": ours(FILES, ("assumption",)),
    "stateregistry, models": ours(LIVE, ()),
    "stateregistry, models, allow assumption": ours(LIVE, ("assumption",)),
}


def attempt(convert: Callable[..., Any], pair: Pair, side: FlaxSide) -> tuple[str, float]:
    """`right`, `refused` or `wrong`, and the seconds it took."""
    source, template = pair.fresh_torch(1), side.fresh(2)
    started = time.perf_counter()
    try:
        made = convert(pair, source, side, template)
    except (sr.StateError, ValueError, AssertionError, KeyError, IndexError, TypeError):
        return "refused", time.perf_counter() - started  # the rival says no by errors of every class
    seconds = time.perf_counter() - started
    gap = difference(side.run(made), pair.run_torch(source, side))
    return ("right" if gap <= TOLERANCE else "wrong"), seconds


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true", help="every family of transformers, not every fourth: an hour")
    parser.add_argument("--only", action="append", help="the name of a pair; may be given again")
    parser.add_argument("--json", action="store_true")
    wanted = parser.parse_args()
    pairs = [*FOREIGN, *(pair for pair in PAIRS[len(FOREIGN) :: 1 if wanted.all else 4])]
    if wanted.only:
        pairs = [pair for pair in PAIRS if pair.name in wanted.only]
    found: dict[str, Counter[str]] = {name: Counter() for name in CONTENDERS}
    took = dict.fromkeys(CONTENDERS, 0.0)
    rows = []
    for pair in pairs:
        side = pair.flax()
        outcomes = {}
        for name, convert in CONTENDERS.items():
            outcomes[name], seconds = attempt(convert, pair, side)
            found[name][outcomes[name]] += 1
            took[name] += seconds
        rows.append({"pair": pair.name, **outcomes})
    if wanted.json:
        summary = [{"who": name, **found[name], "seconds": took[name]} for name in CONTENDERS]
        print(json.dumps({"schema": "stateregistry.benchmark.rivals/1", "pairs": rows, "summary": summary}))
        return
    print(f"{len(pairs)} pairs from torch to Flax, no rules and no hints")
    print(f"  {'':40} {'right':>6} {'refused':>8} {'silently wrong':>15} {'seconds':>8}")
    for name in CONTENDERS:
        count = found[name]
        print(f"  {name:40} {count['right']:>6} {count['refused']:>8} {count['wrong']:>15} {took[name]:>8.1f}")
    for row in rows:
        if "wrong" in row.values():
            print(f"  wrong: {row['pair']}: {', '.join(name for name, what in row.items() if what == 'wrong')}")


if __name__ == "__main__":
    main()
