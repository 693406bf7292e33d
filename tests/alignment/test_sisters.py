"""Sister blocks: what a block's sizes leave open is what the same names are in the blocks beside it, or a question."""

from __future__ import annotations

from dataclasses import replace

import pytest
import toy

from stateregistry.conversion.planning.plan import Plan
from stateregistry.conversion.planning.planner import make
from stateregistry.conversion.rules.rules import Rules

TYPED = (True, True)
SQUARE, TOLD = (8, 8), (16, 8)


def fires(*sizes: tuple[int, int], inner: tuple[str, str] = ("squeeze", "expand1x1")) -> toy.Model:
    """Blocks whose first two layers are told by their sizes or not; widths outside of them are each its own."""
    rows: list[tuple[str, tuple[int, ...], str, str]] = []
    for n, size in enumerate(sizes):
        rows += [
            ("linear", size, f"features.{n}.{inner[0]}", f"Fire_{n}/Dense_0"),
            ("linear", SQUARE, f"features.{n}.{inner[1]}", f"Fire_{n}/Dense_1"),
            ("linear", (8, 20 + n), f"features.{n}.expand3x3", f"Fire_{n}/Dense_2"),
            ("linear", (20 + n, 40 + n), f"features.{n}.last", f"Fire_{n}/Dense_3"),
        ]
    return toy.model(rows)


def grades(plan: Plan, block: int) -> set[str]:
    return {
        move.grade
        for move in plan.moves
        if move.target.startswith((f"Fire_{block}/Dense_0/", f"Fire_{block}/Dense_1/"))
    }


def renamed(toys: toy.Model, block: int, names: dict[str, str], side: str = "torch") -> toy.Model:
    """One block whose layers are called otherwise."""
    start = f"features.{block}." if side == "torch" else f"Fire_{block}/"
    return tuple(
        replace(each, **{side: start + names.get(old, old)})
        if (name := getattr(each, side)).startswith(start) and (old := name.removeprefix(start)) is not None
        else each
        for each in toys
    )


def test_two_sisters_that_agree_decide_a_third() -> None:
    toys = fires(SQUARE, TOLD, TOLD)
    plan = toy.planned(toys, toys, typed=TYPED)
    assert plan.ok, str(plan)
    assert toy.judge(toys, toys, plan) == "right"
    assert grades(plan, 0) == {"numbers"}


def test_one_sister_is_an_assumption() -> None:
    toys = fires(SQUARE, TOLD)
    assert {problem.problem for problem in toy.planned(toys, toys, typed=TYPED).problems} == {"assumption"}
    assert toy.judge(toys, toys, toy.planned(toys, toys, typed=TYPED, allow=("assumption",))) == "right"


def test_no_sister_is_a_question() -> None:
    toys = fires(SQUARE, SQUARE, SQUARE)
    assert "ambiguous" in {problem.problem for problem in toy.planned(toys, toys, typed=TYPED).problems}


def test_sisters_that_disagree_say_nothing() -> None:
    toys = fires(SQUARE, TOLD, TOLD)
    crossed = renamed(toys, 2, {"Dense_0": "Dense_1", "Dense_1": "Dense_0"}, "flax")
    plan = toy.planned(toys, crossed, typed=TYPED, allow=("assumption",))
    assert "ambiguous" in {problem.problem for problem in plan.problems}


@pytest.mark.parametrize("side", ["torch", "flax"])
def test_sisters_that_hold_other_names_beside_are_an_assumption(side: str) -> None:
    toys = fires(SQUARE, TOLD, TOLD)
    names = {"last": "project"} if side == "torch" else {"Dense_3": "Dense_5"}
    other = renamed(toys, 0, names, side)
    assert {problem.problem for problem in toy.planned(other, other, typed=TYPED).problems} == {"assumption"}


def test_an_answer_in_one_block_is_an_assumption_in_the_others() -> None:
    toys = fires(SQUARE, SQUARE, SQUARE)
    sides = toy.side(toys, "torch", typed=True), toy.side(toys, "flax", typed=True)
    rules = Rules.of({"features/1/squeeze": "Fire_1/Dense_0"})
    assert {problem.problem for problem in make(*sides, rules=rules, allow=("choice",)).problems} == {"assumption"}
    plan = make(*sides, rules=rules, allow=("choice", "assumption"))
    assert plan.ok, str(plan)
    assert toy.judge(toys, toys, plan) == "right"
    turned = make(*sides, rules=Rules.of({"features/1/squeeze": "Fire_1/Dense_1"}), allow=("choice", "assumption"))
    moves = {move.target: move.sources[0].key for move in turned.moves}
    assert moves["Fire_0/Dense_1/kernel"] == "features/0/squeeze/weight"
