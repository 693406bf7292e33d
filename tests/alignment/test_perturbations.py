"""Whatever is done to names, order and layers, no pair of a plan that is accepted is wrong."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import toy
from hypothesis import given, settings
from hypothesis import strategies as st

from stateregistry.conversion.planning.plan import Plan

TYPES = [(True, True), (True, False), (False, True), (False, False)]
#: Layers of one shape in one row: whatever they are called, no header shows that they changed places.
UNDECIDABLE = {("perceptron", "anonymous, shuffled"), ("perceptron", "leaves backwards")}
CASES = [(m, p) for m in toy.MODELS for p in toy.PERTURBATIONS if (m, p) not in UNDECIDABLE]


def run(name: str, change: str, framework: str, seed: int) -> tuple[str, Plan]:
    luck = random.Random(f"{name} {change} {framework} {seed}")
    sides = {"torch": list(toy.MODELS[name]), "flax": list(toy.MODELS[name])}
    sides[framework] = toy.PERTURBATIONS[change](sides[framework], framework, luck)
    plan = toy.planned(sides["torch"], sides["flax"], typed=luck.choice(TYPES))
    return toy.judge(sides["torch"], sides["flax"], plan), plan


@pytest.mark.parametrize(("name", "change"), CASES)
@pytest.mark.parametrize("framework", ["torch", "flax"])
def test_no_accepted_plan_holds_a_wrong_pair(name: str, change: str, framework: str) -> None:
    found = [run(name, change, framework, seed) for seed in range(2)]
    assert not [verdict for verdict, _ in found if verdict.startswith("wrong")]
    assert all(plan.problems for verdict, plan in found if verdict == "refused")


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["transformer", "convnet", "two towers"]), st.integers(0, 2**32), st.sampled_from(["torch", "flax"])
)
def test_names_that_mean_nothing_never_give_a_wrong_pair(name: str, seed: int, framework: str) -> None:
    verdict, _ = run(name, "stems renamed", framework, seed)
    assert not verdict.startswith("wrong"), verdict


def test_refusing_everything_would_be_a_failure_too() -> None:
    kept = ("as it is", "sorted", "a prefix", "renumbered")
    right = Counter(
        run(name, change, framework, 1)[0] for name in toy.MODELS for change in kept for framework in ("torch", "flax")
    )
    assert right["right"] >= 0.6 * right.total(), right
