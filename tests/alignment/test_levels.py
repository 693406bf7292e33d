"""Levels: two numbers in a name, of which one side counts the blocks first and the other their places."""

from __future__ import annotations

import pytest
import toy

from stateregistry.conversion.planning.plan import Plan

ASSUMING = ("assumption",)


def grid(here: str, there: str, blocks: int = 2, places: int = 2) -> toy.Model:
    """Layers of one size, called block by block, with names that hold the number of the block and of the place."""
    rows = [
        ("linear", (8, 8), here.format(b=b, p=p), there.format(b=b, p=p)) for b in range(blocks) for p in range(places)
    ]
    return toy.model([*rows, ("linear", (8, 5), "head", "logits")])


def by_places(toys: toy.Model, places: int = 2) -> toy.Model:
    """Declared place by place, as lists are: one list of all first layers, one of all second ones."""
    inner = toys[:-1]
    return (*(layer for place in range(places) for layer in inner[place::places]), toys[-1])


def wrong(toys: toy.Model, plan: Plan) -> bool:
    return toy.judge(toys, toys, plan).startswith("wrong")


@pytest.mark.parametrize("typed", [(True, True), (True, False), (False, False)])
def test_a_word_says_which_number_is_its_own(typed: tuple[bool, bool]) -> None:
    """A list for each matrix, against experts that hold them: `wi_0/1` is the first matrix of the second expert."""
    toys = grid("moe.wi_{p}.{b}", "moe/experts_{b}/wi_{p}")
    plan = toy.planned(by_places(toys), toys, typed=typed, allow=ASSUMING)
    assert not wrong(toys, plan), toy.judge(toys, toys, plan)
    told = {move.target: move.sources[0].key for move in plan.moves if move.op == "copy"}
    assert told.get("moe/experts_1/wi_0/kernel", "moe/wi_0/1/weight") == "moe/wi_0/1/weight"


def test_numbers_of_two_levels_are_no_evidence_where_calls_run_through_places() -> None:
    toys = grid("stage{b}_dense{p}", "fc{p}_block{b}")
    plan = toy.planned(toys, toys, typed=(True, True))
    assert not plan.ok
    assert all(problem.problem in {"ambiguous", "assumption"} for problem in plan.problems)


def test_numbers_of_two_levels_are_no_evidence_where_one_side_has_no_order() -> None:
    toys = grid("branch{b}.layers{p}", "layers_{p}/critic_{b}")
    assert not toy.planned(toys, sorted(toys, key=lambda each: each.flax), typed=(True, False)).ok


@pytest.mark.parametrize("blocks", [2, 3])
def test_equal_words_before_both_numbers_say_which_is_which(blocks: int) -> None:
    toys = grid("layers.{b}.experts.{p}", "layer_{b}/expert_{p}", blocks)
    plan = toy.planned(toys, toys, typed=(True, True))
    assert plan.ok, str(plan)
    assert toy.judge(toys, toys, plan) == "right"
