"""Derived: words of one stem and letters that count are the last that is asked, and an assumption."""

from __future__ import annotations

import pytest
import toy

from stateregistry.alignment.containers import Item, Tied
from stateregistry.alignment.evidence.beside import beside
from stateregistry.alignment.evidence.counting import called_alike
from stateregistry.alignment.evidence.derived import by_stem, lettered, stem
from stateregistry.alignment.evidence.habits import by_habit
from stateregistry.alignment.evidence.population import Around
from stateregistry.alignment.model import Unit, View
from stateregistry.alignment.spelling import tokens
from stateregistry.conversion.planning.planner import make

ALLOW = ("choice", "assumption")


def items(*paths: str, norm: bool = False) -> list[Item]:
    colour = ("layer_norm", 6) if norm else ("linear", 6, 6, True)
    units = [Unit(path, tokens(path), (colour,), {}, (path,), typed=True, place=0) for path in paths]
    return [Item([unit], unit.tokens, single=True) for unit in units]


@pytest.mark.parametrize(
    "words", [("projection", "projector", "project"), ("encoding", "encode", "encoder"), ("composition", "compose")]
)
def test_words_of_one_author_and_of_another_have_one_stem(words: tuple[str, ...]) -> None:
    assert len({stem(word) for word in words}) == 1


@pytest.mark.parametrize(
    "words", [("content", "context"), ("transition", "transformer"), ("inner", "input"), ("key", "keys")]
)
def test_what_merely_begins_alike_has_not(words: tuple[str, str]) -> None:
    assert stem(words[0]) != stem(words[1])


def test_stems_tell_a_class_as_a_whole_or_not_at_all() -> None:
    xs = items("projection_head/0", "prediction_head/0")
    found = by_stem(xs, items("predictor/hidden", "projector/hidden"))
    assert [(p.source, p.target.units[0].path, p.grade) for p in found] == [
        (xs[0], "projector/hidden", "assumption"), (xs[1], "predictor/hidden", "assumption")
    ]  # fmt: skip
    assert not by_stem(xs, items("projector/hidden", "other/hidden"))
    assert not by_stem(xs, items("projector_a", "projector_b"))
    assert not by_stem(items("projection", "projector"), items("projected", "other"))
    assert not by_stem(items("pre_projection", "post_prediction"), items("predictor", "projector"))


def test_letters_count_where_they_run_from_a_on_and_set_apart() -> None:
    made = lettered(items("block/conv_a", "block/conv_b"))
    assert made is not None
    assert [item.numbers for item in made] == [(0,), (1,)]
    for paths in (
        ("to_q", "to_k"),
        ("conv_a", "other_b"),
        ("conv_b", "conv_c"),
        ("conv_a", "conv"),
        ("conva", "convb"),
    ):
        assert lettered(items(*paths)) is None, paths


def lists(first: str, second: str, *, extra: bool = False) -> toy.Model:
    rows = [("conv", (6, 6, 3), "block.1", f"trunk/{first}"), ("conv", (6, 6, 3), "block.6", f"trunk/{second}")]
    return toy.model([*rows, ("conv", (6, 9, 3), "last", "trunk/end")] if extra else rows)


def test_letters_against_numbers_are_an_assumption_and_words_are_a_question() -> None:
    for toys, outcome in ((lists("conv_a", "conv_b"), "right"), (lists("conv_q", "conv_k"), "refused")):
        plan = toy.planned(toys, toys, typed=(True, False), allow=("assumption",))
        assert toy.judge(toys, toys, plan) == outcome, str(plan)
    toys = lists("conv_a", "conv_b")
    plan = make(toy.side(toys, "torch", typed=True), toy.side(toys, "flax", typed=False), allow=("choice",))
    assert not plan.ok
    assert {move.grade for move in plan.moves} == {"assumption"}


def test_numbers_that_run_against_the_order_of_a_side_are_told_by_no_letter() -> None:
    toys = lists("conv_a", "conv_b", extra=True)[::-1]
    plan = toy.planned(toys, toys, typed=(True, False), allow=("assumption",))
    assert toy.judge(toys, toys, plan) in ("right", "refused"), str(plan)
    assert not plan.ok


def test_the_norm_of_a_mixture_of_experts_is_that_of_an_mlp() -> None:
    xs = items("input_layernorm", "post_attention_layernorm", norm=True)
    around = Around((), View([], {}, {}), View([], {}, {}))
    for word in ("mlp", "moe", "ffn"):
        ys = items(f"pre_{word}_norm", "pre_attention_norm", norm=True)
        found = by_habit(xs, ys, around)
        assert [(p.target.units[0].path, p.grade) for p in found] == [
            ("pre_attention_norm", "assumption"), (f"pre_{word}_norm", "assumption")
        ]  # fmt: skip
    assert not by_habit(xs, items("pre_mixer_norm", "pre_attention_norm", norm=True), around)


def test_what_all_candidates_are_called_says_nothing_of_what_stands_beside_one() -> None:
    """`norm` shares no more with `epsilon` than `mlp_norm` does: it is only shorter."""
    xs, ys = items("convs/1/nn/1", "batch_norms/1", norm=True), items("layer_1/mlp_norm", "layer_1/norm", norm=True)
    one, two = items("convs/1/eps", "layer_1/epsilon")
    anchor = Tied(one, two, "")
    here = View([], {}, {})
    assert not beside(xs, ys, [anchor], here, here)
    assert not beside(ys, xs, [Tied(anchor.target, anchor.source, "")], here, here)
    ys = items("layer_1/mlp_norm", "layer_1/epsilon_norm", norm=True)
    assert [(p.source, p.target) for p in beside(xs, ys, [anchor], here, here)] == [(xs[0], ys[1])]


@pytest.mark.parametrize("turned", [False, True])
def test_two_names_of_one_number_have_no_order_between_them(turned: bool) -> None:
    def row(number: int, size: int) -> tuple[tuple[int, ...], tuple[object, ...]]:
        return (number,), ("linear", 8, size, True)

    rows = [row(0, 8), row(0, 12), row(1, 8), row(1, 4)]
    rows = [rows[n] for n in ((1, 0, 3, 2) if turned else (0, 1, 2, 3))]
    calls = [colour for _, colour in (row(0, 12), row(0, 8), row(1, 4), row(1, 8))]
    assert called_alike(rows, calls)
    assert called_alike(rows, [calls[n] for n in (1, 0, 2, 3)])
    assert not called_alike(rows, [calls[n] for n in (0, 2, 1, 3)])
    assert not called_alike(rows, calls[:3])
    assert called_alike(rows, [("conv", 1)])
