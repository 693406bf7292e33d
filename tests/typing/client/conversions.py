"""Plans, converts and verifies."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, assert_type

import numpy as np

import stateregistry as sr


def planned(source: object, target: object) -> sr.Plan:
    plan = sr.plan(source, target, rules={"layers.{i}": "h/{i}"}, allow=("choice",), dtype="bfloat16")
    assert_type(plan, sr.Plan)
    for problem in plan.problems:
        print(problem.problem, problem.keys, problem.hint, [pair[0] for pair in problem.candidates])
    for move in plan.moves:
        print(move.op, move.cls, move.grade, move.target, [feed.key for feed in move.sources])
    for finding in plan.findings:
        print(finding.key, finding.matters == "evaluation", finding.hint)
    for condition in plan.conditions:
        print(condition.test, condition.keys)
    assert_type(plan.ok, bool)
    assert_type(plan.to_json(), str)
    return sr.Plan.from_json(plan.to_json()).invert()


def converted(source: Path, out: Path) -> dict[str, str]:
    def told(done: int, whole: int) -> None:
        print(f"{done / whole:.0%}")

    rules = sr.rules.Rules.of("names.toml")
    plan = sr.plan(source, to="flax-linen", rules=rules)
    with ThreadPoolExecutor(2) as pool:
        done = plan.execute(source, out=out, shard_bytes=5 * 10**9, executor=pool, progress=told, resume=True)
    print(done.plan.digest(), done.residual.records, done.receipt.stale, sr.rules.suggest(plan))
    return dict(done.receipt.digests)


def in_one_call(model: object, variables: Any, x: np.ndarray) -> Any:
    def run(inputs: np.ndarray) -> np.ndarray:
        return inputs

    def apply(target: Any, inputs: np.ndarray) -> np.ndarray:
        return inputs

    done = sr.convert(model, variables, forward=(run, apply, x), tolerance=1e-4, allow=("assumption",))
    found = sr.verify(model, done.target, plan=done.plan, forward=(run, run, x))
    assert_type(found, sr.Verification)
    if not found.equal or not found.outputs_equal():
        print(found.first_departure, [difference.source for difference in found.differences])
    return done.target
