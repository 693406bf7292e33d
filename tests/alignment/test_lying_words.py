"""Words and letters that lie: families that letters count, names that are one place off, a word out of a numbered family."""

from __future__ import annotations

import pytest
import toy

from stateregistry.alignment.containers import said
from stateregistry.alignment.spelling import tokens

TYPED = (True, True)


@pytest.mark.parametrize(
    "names",
    [("conv1a", "conv1b", "conv2a", "conv2b"), ("a1", "b1", "a2", "b2"), ("conv_a1", "conv_b1", "conv_a2", "conv_b2")],
)
@pytest.mark.parametrize("inner", [True, False])
def test_letters_that_count_are_no_words_that_two_layers_share(names: tuple[str, ...], inner: bool) -> None:
    sizes = ((4, 8), (8, 8), (8, 8), (8, 12))
    places = [f"block_{n // 2 if inner else n % 2}/Dense_{n % 2 if inner else n // 2}" for n in range(4)]
    toys = toy.model(
        [("linear", size, *both) for size, both in zip(sizes, zip(names, places, strict=True), strict=True)]
    )
    plan = toy.planned(toys, toys, typed=TYPED)
    assert not plan.ok
    assert {problem.problem for problem in plan.problems} == {"ambiguous"}
    assert not toy.planned(toys, toys, typed=TYPED, allow=("assumption",)).ok
    sure = {
        move.target.rpartition("/")[0]
        for move in plan.moves
        if move.op == "copy" and move.grade in ("certain", "numbers")
    }
    assert sure <= {places[0], places[3]}  # by their sizes
    for question in plan.problems:
        if question.problem == "ambiguous":
            assert {(names[1], places[1]), (names[2], places[2])} <= set(question.candidates)


def test_letters_of_a_name_without_numbers_are_words() -> None:
    assert said(tokens("conv_a")[0]) == ["conv", "a"]
    assert said(tokens("conv1a")[0]) == ["conv"]
    assert said(tokens("a1")[0]) == []
    assert said(tokens("in2f")[0]) == ["in", "f"]


@pytest.mark.parametrize(
    ("here", "there"),
    [
        (("input", "hidden", "output"), ("hidden", "output", "readout")),
        (("fc", "proj", "out"), ("proj", "out", "head")),
    ],
)
def test_what_names_that_are_one_place_off_leave_is_an_assumption(
    here: tuple[str, ...], there: tuple[str, ...]
) -> None:
    toys = toy.model([("linear", (8, 8), *both) for both in zip(here, there, strict=True)])
    away = (*toys, *toy.model([("linear", (8, n), f"a{n}", f"Z{n}z") for n in range(20, 30)]))
    plan = toy.planned(away, away, typed=TYPED)
    assert not plan.ok
    assert all("by number" not in move.evidence for move in plan.moves)
    assert "assumption" in {problem.problem for problem in plan.problems}


def test_what_follows_an_attention_is_left_by_its_parts() -> None:
    rows = [("w_qs", "query"), ("w_ks", "key"), ("w_vs", "value"), ("fc", "out")]
    toys = toy.model([("linear", (8, 8), *both) for both in rows])
    plan = toy.planned(toys, toys, typed=TYPED)
    assert plan.ok, str(plan)
    assert toy.judge(toys, toys, plan) == "right"


def test_a_word_out_of_a_numbered_family_takes_nothing_from_the_others() -> None:
    rows = [("up1", "skip"), ("low1", "down"), ("low2", "inner"), ("low3", "up")]
    toys = toy.model([("linear", (8, 8), *both) for both in rows])
    plan = toy.planned(toys, toys, typed=TYPED, allow=("assumption",))
    assert not plan.ok
    (question,) = (problem for problem in plan.problems if problem.problem == "ambiguous")
    assert set(rows) <= set(question.candidates)


def test_a_word_out_of_a_numbered_family_is_an_assumption_where_it_leaves_one() -> None:
    toys = toy.model([("linear", (8, 8), "up1", "up"), ("linear", (8, 8), "low1", "narrow")])
    assert {problem.problem for problem in toy.planned(toys, toys, typed=TYPED).problems} == {"assumption"}
    assert toy.judge(toys, toys, toy.planned(toys, toys, typed=TYPED, allow=("assumption",))) == "right"


def test_a_place_in_a_list_makes_no_family() -> None:
    rows = [("bn1", "BatchNorm_0"), ("bn2", "BatchNorm_1"), ("downsample.1", "skip_norm")]
    toys = toy.model([("batch_norm", (8,), *both) for both in rows])
    plan = toy.planned(toys, toys, typed=TYPED)
    grades = {move.target.rpartition("/")[0]: move.grade for move in plan.moves}
    assert grades["skip_norm"] == "certain"
