"""Places: layers told by the layer they belong to, by their place among calls, by their whole name, by lists that go on."""

from __future__ import annotations

import pytest
import toy

from stateregistry.alignment import transposed
from stateregistry.alignment.lexicon import words_of
from stateregistry.alignment.model import Pair, Unit, View
from stateregistry.alignment.spelling import tokens
from stateregistry.conversion.planning.plan import Plan
from stateregistry.conversion.planning.planner import make
from stateregistry.conversion.side import Side
from stateregistry.layers.vocabulary import Layer, Piece

TYPED = (True, True)
ALLOW = ("choice", "assumption")


def problems(plan: Plan) -> set[str]:
    return {problem.problem for problem in plan.problems}


def as_tree(toys: toy.Model, *, typed: bool = False) -> Side:
    """A side in the order of the alphabet, which says nothing."""
    side = toy.side(toys, "flax", typed=typed)
    return toy.replace(side, entries=dict(sorted(side.entries.items())))


# -------------------------------------------------------------------- norms and their owners


def owned(names: tuple[str, str, str, str], *, norms_first: bool = False) -> toy.Model:
    """Two kernels of two sizes and a norm behind each; their norms are of one size, and share no word with one another."""
    rows = [
        ("linear", (6, 9), "pw", names[0]), ("batch_norm", (9,), "bn1", names[1]),
        ("linear", (9, 9), "dw", names[2]), ("batch_norm", (9,), "bn2", names[3]),
    ]  # fmt: skip
    return toy.model([rows[n] for n in ((1, 0, 3, 2) if norms_first else (0, 1, 2, 3))])


IN_CONTAINERS = "expand/conv", "expand/bn", "spatial/conv", "spatial/bn"


def test_a_norm_behind_its_kernel_is_the_one_that_shares_a_container_with_it() -> None:
    toys = owned(IN_CONTAINERS)
    sides = toy.side(toys, "torch", typed=True), as_tree(toys)
    assert problems(make(*sides, allow=("choice",))) == {"assumption"}
    plan = make(*sides, allow=ALLOW)
    assert plan.ok, str(plan)
    assert toy.judge(toys, toys, plan) == "right"


def test_a_norm_before_its_kernel_belongs_to_none_that_stands_before_it() -> None:
    toys = owned(IN_CONTAINERS, norms_first=True)
    assert "ambiguous" in problems(make(toy.side(toys, "torch", typed=True), as_tree(toys), allow=ALLOW))


def test_a_norm_that_bears_the_name_of_its_kernel_is_its_norm() -> None:
    toys = toy.model([
        ("linear", (6, 9), "dense.conv", "conv3"), ("batch_norm", (9,), "dense.bn", "conv3_norm"),
        ("linear", (9, 9), "point.conv", "conv1"), ("batch_norm", (9,), "point.bn", "conv1_norm"),
    ])  # fmt: skip
    plan = make(toy.side(toys, "torch", typed=True), as_tree(toys), allow=("choice",))
    assert plan.ok, str(plan)
    assert toy.judge(toys, toys, plan) == "right"
    other = {"conv3_norm": "red_norm", "conv1_norm": "blue_norm"}
    odd = tuple(toy.replace(each, flax=other.get(each.flax, each.flax)) for each in toys)
    assert "ambiguous" in problems(make(toy.side(odd, "torch", typed=True), as_tree(odd), allow=ALLOW))


# -------------------------------------------------------------------- places among calls


def alternating(second: tuple[int, int] = (6, 6)) -> toy.Model:
    """Kernels of one size, with others in between."""
    return toy.model([
        ("linear", (6, 6), "net.0", "enter"), ("linear", (6, 9), "net.1", "spread"),
        ("linear", (9, 6), "net.2", "gather"), ("linear", second, "net.3", "leave"),
    ])  # fmt: skip


def test_what_is_counted_has_its_place_among_calls_where_all_comes_in_one_order() -> None:
    toys = alternating()
    plan = toy.planned(toys, toys, typed=TYPED)
    assert plan.ok, str(plan)
    assert toy.judge(toys, toys, plan) == "right"
    assert "ambiguous" in problems(make(toy.side(toys, "torch", typed=True), as_tree(toys), allow=ALLOW))


@pytest.mark.parametrize("calls", [(0, 3, 1, 2), (1, 0, 3, 2)])
def test_kernels_that_are_called_one_after_another_or_in_another_order_have_no_place(calls: tuple[int, ...]) -> None:
    toys = alternating()
    called = tuple(toys[n] for n in calls)
    plan = make(toy.side(toys, "torch", typed=True), toy.side(called, "flax", typed=True), allow=ALLOW)
    assert "ambiguous" in problems(plan)


def test_gate_and_up_are_called_in_any_order() -> None:
    toys = toy.model([
        ("linear", (6, 9), "w1", "gate"), ("linear", (6, 9), "w2", "wide"), ("linear", (9, 6), "w3", "down"),
    ])  # fmt: skip
    assert "ambiguous" in problems(toy.planned(toys, toys, typed=TYPED, allow=ALLOW[1:]))


# -------------------------------------------------------------------- names


def test_the_whole_own_name_outranks_one_word_of_a_longer_one() -> None:
    rows = [("linear", (6, 6), "attn.key", "att/key"), ("linear", (6, 6), "attn.blob", "att/relative_key")]
    toys = toy.model([*rows, ("linear", (6, 9), "attn.tail", "att/end")])
    plan = toy.planned(toys, toys, typed=(True, False), allow=("assumption",))
    assert plan.ok, str(plan)
    assert toy.judge(toys, toys, plan) == "right"
    apart = toy.model([(kind, sizes, one.replace("attn.blob", "other.blob"), two) for kind, sizes, one, two in rows])
    assert not toy.planned(apart, apart, typed=(True, False), allow=("assumption",)).ok  # of two containers each


def test_the_last_letter_of_several_words_may_be_height_or_width() -> None:
    assert "height" in words_of("rel_pos_h")
    assert "width" in words_of("rel_pos_w")
    assert words_of("h") == {"h"}
    assert words_of("w_qs") & words_of("query")


def test_two_norms_that_both_sides_name_come_in_the_order_of_habit() -> None:
    rows = [
        ("layer_norm", (6,), "input_layernorm", "attn_norm"),
        ("layer_norm", (6,), "post_attention_layernorm", "ffn_norm"),
    ]
    toys = toy.model(rows)
    assert problems(toy.planned(toys, toys, typed=TYPED)) == {"assumption"}
    plan = toy.planned(toys, toys, typed=TYPED, allow=("assumption",))
    assert toy.judge(toys, toys, plan) == "right"
    gemma = toy.model([(kind, sizes, one, f"pre_{two}") for kind, sizes, one, two in rows])
    assert toy.judge(gemma, gemma, toy.planned(gemma, gemma, typed=TYPED, allow=("assumption",))) == "right"
    odd = tuple(toy.replace(each, flax=each.flax.replace("attn", "mid")) for each in toys)
    assert "ambiguous" in problems(toy.planned(odd, odd, typed=(True, False), allow=("assumption",)))


@pytest.mark.parametrize(("name", "order"), [("kqv", "kqv"), ("to_vqk", "vqk"), ("qkv", "qkv")])
def test_a_fused_name_that_spells_its_parts_is_taken_apart_in_that_order(name: str, order: str) -> None:
    parts = [("linear", (6, 6), f"x{n}", f"attn/{word}") for n, word in enumerate(("query", "key", "value"))]
    there = toy.model([*parts, ("linear", (6, 5), "tail", "head")])
    here = toy.model([("linear", (6, 18), name, "none"), ("linear", (6, 5), "tail", "head")])
    plan = make(toy.side(here, "torch", typed=True), toy.side(there, "flax", typed=True), allow=ALLOW)
    assert plan.ok, str(plan)
    feed = next(feed for move in plan.moves if move.target == "attn/query/kernel" for feed in move.sources)
    words = {"q": "query", "k": "key", "v": "value"}
    assert "|".join(words[letter] for letter in order) in str(
        next(m for m in plan.moves if m.target == "attn/query/kernel")
    )
    assert feed.part == "query"
    assert problems(make(toy.side(here, "torch", typed=True), toy.side(there, "flax", typed=True))) == {"assumption"}


def test_kernels_that_read_one_input_are_told_by_no_number_that_linen_gave() -> None:
    toys = toy.model([
        ("linear", (9, 6), "fc1", "Dense_0"), ("linear", (6, 4), "fc21", "Dense_1"), ("linear", (6, 4), "fc22", "Dense_2"),
    ])  # fmt: skip
    assert problems(toy.planned(toys, toys, typed=TYPED)) == {"assumption"}
    chain = toy.model([("linear", (6, 6), f"fc{n}", f"Dense_{n}") for n in range(3)])
    assert toy.planned(chain, chain, typed=TYPED).ok  # each may read what the one before it gives


# -------------------------------------------------------------------- lists that go on


def radiance(*, last: tuple[int, int] = (6, 3)) -> toy.Model:
    """A list, of which sizes decide both ends, among layers that the other side counts on with it."""
    sizes = [(4, 6), (6, 6), (6, 6), (9, 6), (6, 6)]
    rows = [("linear", size, f"points.{n}", f"Dense_{n}") for n, size in enumerate(sizes)]
    return toy.model([*rows, ("linear", last, "alpha", "Dense_5"), ("linear", (6, 8), "views", "Dense_6")])


def test_a_list_counts_on_whatever_else_its_counterpart_counts_in_another_order() -> None:
    toys = radiance()
    declared = [*toys[:5], toys[6], toys[5]]  # the source declares the views before alpha
    sides = toy.side(declared, "torch", typed=True), toy.side(toys, "flax", typed=True)
    plan = make(*sides, allow=ALLOW)
    assert plan.ok, str(plan)
    assert toy.judge(declared, toys, plan) == "right"
    grades = {move.target: move.grade for move in plan.moves}
    assert grades["Dense_1/kernel"] == grades["Dense_2/kernel"] == "numbers"  # between two that sizes decide
    assert grades["Dense_4/kernel"] == "assumption"
    assert "ambiguous" in problems(
        make(toy.side(declared[1:], "torch", typed=True), toy.side(toys[1:], "flax", typed=True), allow=ALLOW)
    )  # with one end of the list alone nothing holds its numbers


# -------------------------------------------------------------------- transposed convolutions


def transposed_unit(name: str, shape: tuple[int, ...], axes: str) -> tuple[Unit, View]:
    layer = Layer("conv_transpose", name, (Piece("kernel", "kernel", axes),), inferred=True)
    colour = ("conv_transpose", *shape)
    key = f"{name}/kernel"
    unit = Unit(name, tokens(name), (colour,), {colour: layer}, (key,), typed=False, place=0)
    return unit, View([unit], {key: toy.entry(*shape)}, {})


@pytest.mark.parametrize("decided", [None, *transposed.WAYS])
def test_a_square_kernel_lies_as_those_that_sizes_decide_and_is_an_assumption_without_them(decided: str | None) -> None:
    square, view = transposed_unit("up", (3, 3, 8, 8), transposed.WAYS[0])
    other, its = transposed_unit("there", (3, 3, 8, 8), "in out/groups *spatial")
    pairs = [Pair(other, square, ["same path"])]
    if decided is not None:
        known, more = transposed_unit("wide", (3, 3, 8, 6), decided)
        view = View([*view.units, known], {**view.entries, **more.entries}, {})
        pairs.append(Pair(other, known, ["same path"]))
    transposed.agree(pairs, its, view)
    assert square.layer is not None
    assert square.layer.pieces[0].axes == (decided or transposed.WAYS[0])
    assert pairs[0].grade == ("certain" if decided else "assumption")
