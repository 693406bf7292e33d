"""What is paired, on what evidence, and what is asked: every rule of the engine on the smallest model that shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import toy
from toy import Model, model, planned

import stateregistry as sr
from stateregistry.conversion.planning.plan import Plan
from stateregistry.conversion.planning.planner import make
from stateregistry.conversion.rules.rules import Rules
from stateregistry.errors import AmbiguousAlignment

TYPED = (True, True)
FILES = (False, False)


def pairs(plan: Plan) -> dict[str, str]:
    """Source layer -> target layer, of every kernel, table or scale that is copied."""
    return {
        feed.key.rpartition("/")[0]: move.target.rpartition("/")[0]
        for move in plan.moves if move.op == "copy"
        for feed in move.sources if not feed.key.endswith("bias")
    }  # fmt: skip


def grades(plan: Plan) -> set[str]:
    return {move.grade for move in plan.moves if move.op == "copy"}


def linears(*names: tuple[str, str], size: int = 6) -> Model:
    return model([("linear", (size, size), *name) for name in names])


@pytest.mark.parametrize("typed", [TYPED, (True, False), (False, True)])
@pytest.mark.parametrize("name", ["transformer", "convnet", "convnet with a deep stage", "two towers", "perceptron"])
def test_foreign_names_are_paired_right(name: str, typed: tuple[bool, bool]) -> None:
    toys = toy.MODELS[name]
    plan = planned(toys, toys, typed=typed, allow=("assumption",))
    assert toy.judge(toys, toys, plan) == "right", str(plan)
    assert toy.judge(toys, toys, planned(toys, toys, typed=TYPED)) == "right"


def test_every_move_says_its_evidence() -> None:
    toys = toy.MODELS["transformer"]
    assert all(move.evidence for move in planned(toys, toys, typed=TYPED).moves)


def test_words_decide_the_four_projections_of_an_attention() -> None:
    toys = linears(("a.q_proj", "x/query"), ("a.k_proj", "x/key"), ("a.v_proj", "x/value"), ("a.o_proj", "x/out"))
    plan = planned(toys, toys, typed=TYPED)
    assert plan.ok
    assert grades(plan) == {"certain"}


def test_words_that_do_not_meet_are_a_question_with_both_candidates_and_a_rule() -> None:
    toys = linears(("w1", "gate"), ("w3", "up"))
    plan = planned(toys, toys, typed=TYPED)
    (problem,) = plan.problems
    assert problem.problem == "ambiguous"
    assert set(problem.candidates) == {("w1", "gate"), ("w1", "up"), ("w3", "gate"), ("w3", "up")}
    assert '[[rename]] source = "w1" target = "<one of: gate, up>"' in problem.hint
    with pytest.raises(AmbiguousAlignment, match="w3"):
        plan.require()
    assert Plan.from_json(plan.to_json()) == plan


def test_an_answer_is_an_anchor_and_the_rest_follows() -> None:
    toys = linears(("w1", "gate"), ("w3", "up"))
    sides = toy.side(toys, "torch", typed=True), toy.side(toys, "flax", typed=True)
    for answer in ({"w1": "gate"}, {"w3": "up"}):
        plan = make(*sides, rules=Rules.of(answer), allow=("assumption",))
        assert plan.ok, str(plan)
        assert pairs(plan) == {"w1": "gate", "w3": "up"}
    assert pairs(make(*sides, rules=Rules.of({"w1": "up"}), allow=("assumption",))) == {"w1": "up", "w3": "gate"}


def test_the_same_question_in_every_block_is_asked_once_with_one_rule_for_all() -> None:
    toys = model([
        ("linear", (6, 6), f"layers.{n}.{a}", f"Block_{n}/{b}") for n in range(3) for a, b in (("w1", "gate"), ("w3", "up"))
    ])  # fmt: skip
    (problem,) = planned(toys, toys, typed=TYPED).problems
    assert 'source = "layers/{i}/w1" target = "<one of: Block_{i}/gate, Block_{i}/up>"' in problem.hint
    sides = toy.side(toys, "torch", typed=True), toy.side(toys, "flax", typed=True)
    rules = Rules.of({"layers/{i}/w1": "Block_{i}/gate"})
    plan = make(*sides, rules=rules, allow=("assumption",))
    assert plan.ok, str(plan)
    assert toy.judge(toys, toys, plan) == "right"


def test_block_numbers_are_listed_and_not_accepted_against_the_order() -> None:
    toys = model([("linear", (6, 6), f"blocks.{n}.fc", f"stage_{n}/dense") for n in range(4)])
    plan = planned(toys, toys, typed=TYPED)
    assert plan.ok
    assert grades(plan) == {"numbers"}
    assert "numbers" in str(plan)
    turned = planned(toys[::-1], toys, typed=TYPED)
    assert not turned.ok
    assert "contradict the order" in str(turned)


def test_numbers_that_linen_gave_as_modules_were_made_need_the_order_of_calls() -> None:
    toys = toy.perceptron(3)
    assert grades(planned(toys, toys, typed=TYPED)) == {"numbers"}
    plan = planned(toys, toys, typed=(True, False))
    assert {problem.problem for problem in plan.problems} == {"assumption"}
    nested = toy.backwards(toys, "flax", None)  # type: ignore[arg-type]  # needs no luck
    assert {problem.problem for problem in planned(toys, nested, typed=TYPED).problems} == {"assumption"}
    plan = planned(toys, nested, typed=TYPED, allow=("assumption",))
    assert toy.judge(toys, nested, plan) == "right"
    assert all("by call" in move.evidence for move in plan.moves if move.grade == "assumption")
    named = [
        replace(one, flax=one.flax.replace("Dense", "up")) for one in nested
    ]  # an author's count may run backwards
    assert toy.judge(toys, named, planned(toys, named, typed=TYPED, allow=("assumption",))) == "refused"
    assert toy.judge(toys, nested, planned(toys, nested, typed=(True, False))) == "refused"


def test_calls_do_not_tell_kernels_that_have_names_of_their_own() -> None:
    toys = model([("linear", (6, 6), "w1", "up"), ("linear", (6, 6), "w2", "gate"), ("linear", (6, 3), "w3", "down")])
    assert {problem.problem for problem in planned(toys, toys, typed=TYPED).problems} == {"ambiguous"}


def test_numbers_that_count_other_layers_in_another_order_than_calls_tell_no_norms() -> None:
    rows = [("layer_norm", (6,), "n0", "LayerNorm_1"), ("linear", (6, 4), "n2", "down"), ("linear", (4, 6), "n1", "up")]
    toys = model([*rows, ("layer_norm", (6,), "n3", "LayerNorm_0")])
    assert {problem.problem for problem in planned(toys, toys, typed=TYPED).problems} == {"ambiguous"}


def test_a_number_tells_items_apart_whatever_comes_after_it() -> None:
    rows = [("linear", (6, 6), f"stage.{n}.{word}", f"Block_{n}/dense") for n, word in enumerate(("one", "two", "six"))]
    plan = planned(model(rows), model(rows), typed=TYPED)
    assert plan.ok
    assert grades(plan) == {"numbers"}
    rows = [("linear", (6, 6), f"{word}.{n}", f"Block_{n}/dense") for n, word in enumerate(("one", "two", "six"))]
    assert not planned(model(rows), model(rows), typed=TYPED).ok


@pytest.mark.parametrize(("one", "two"), [("attention_norm", "post_attention_layernorm"), ("norm", "pre_norm")])
def test_norms_are_told_by_equal_words_only(one: str, two: str) -> None:
    toys = model([("layer_norm", (6,), one, two), ("layer_norm", (6,), "other_scale", "ffn_thing")])
    assert not planned(toys, toys, typed=(True, False)).ok


def test_a_leftover_of_one_shape_is_no_partner_without_a_word_in_common() -> None:
    named = [
        toy.Toy(each.id, each.kind, each.sizes, each.flax.replace("/", "."), each.flax) for each in toy.transformer(3)
    ]
    without = [each for each in named if "TransformerBlock_1.attention.query" not in each.torch]
    pooled = [*without, toy.Toy(-1, "linear", (16, 16), "pooler", "")]
    plan = planned(pooled, named, typed=TYPED, allow=("assumption",))
    assert {problem.problem for problem in plan.problems} == {"missing", "unexpected"}


def test_a_prefix_on_one_side_is_left_out() -> None:
    same = [
        toy.Toy(each.id, each.kind, each.sizes, each.flax.replace("/", "."), each.flax) for each in toy.transformer(2)
    ]
    plan = planned(toy.prefix(same, "torch", None), same, typed=TYPED)  # type: ignore[arg-type]  # needs no luck
    assert plan.ok, str(plan)
    assert grades(plan) == {"certain"}


DEPTHS: Sequence[tuple[int, int]] = [(12, 6), (6, 12)]


@pytest.mark.parametrize("foreign", [True, False])
@pytest.mark.parametrize(("deep", "shallow"), DEPTHS)
def test_another_depth_is_one_problem_that_counts_repetitions(deep: int, shallow: int, foreign: bool) -> None:
    one, two = toy.transformer(deep), toy.transformer(shallow)
    if not foreign:
        one, two = (
            tuple(toy.Toy(t.id, t.kind, t.sizes, t.flax.replace("/", "."), t.flax) for t in m) for m in (one, two)
        )
    plan = planned(one, two, typed=TYPED)
    assert f"{deep} repetitions" in str(plan)
    assert f"the target has {shallow}" in str(plan)
    assert len(plan.problems) <= 3


def test_another_width_is_one_problem() -> None:
    plan = planned(toy.transformer(3, 16), toy.transformer(3, 24), typed=TYPED)
    assert "other sizes" in str(plan)
    assert "16 in the source and 24 in the target" in str(plan)


def test_a_missing_head_that_is_like_nothing_else_is_missing_and_may_be() -> None:
    toys = toy.transformer(3)
    plan = planned(toys[:-1], toys, typed=TYPED)
    assert {(problem.problem, problem.keys) for problem in plan.problems} == {
        ("missing", ("classifier/kernel",)), ("missing", ("classifier/bias",)),
    }  # fmt: skip
    assert not sr.Plan.from_json(plan.to_json()).ok
    assert toy.judge(toys, toys, planned(toys[:-1], toys, typed=TYPED, allow=("missing",))) == "right"


def test_what_foreign_names_leave_over_is_not_waved_through_by_allowing_missing() -> None:
    toys = toy.transformer(3)
    without = [each for each in toys if each.torch != "h.1.attn.v_proj"]
    assert not planned(without, toys, typed=TYPED, allow=("missing", "unexpected", "assumption")).ok
