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


def in_a_list(*, norms_first: bool = False, backwards: bool = True) -> toy.Model:
    """A list of two kernels and two norms against modules that Linen counted as they were made, the last one called first."""
    made = (1, 0) if backwards else (0, 1)
    norms, kernels = ((0, 3), (1, 4)) if norms_first else ((1, 4), (0, 3))
    rows = [
        row
        for n in (0, 1)
        for row in (
            ("linear", ((6, 9), (9, 9))[n], f"conv.{kernels[n]}", f"CNA_{made[n]}/Dense_0"),
            ("batch_norm", (9,), f"conv.{norms[n]}", f"CNA_{made[n]}/BatchNorm_0"),
        )
    ]
    return toy.model(rows)


@pytest.mark.parametrize("backwards", [True, False])
def test_a_norm_is_not_torn_from_its_kernel_by_numbers_that_were_counted_as_modules_were_made(backwards: bool) -> None:
    toys = in_a_list(backwards=backwards)
    for source in (
        toy.side(toys, "torch", typed=False),
        toy.side(sorted(toys, key=lambda one: one.torch), "torch", typed=True),
    ):
        plan = make(source, as_tree(toys), allow=ALLOW)
        assert toy.judge(toys, toys, plan) == "right", str(plan)


def test_a_norm_before_its_kernel_is_not_that_of_the_kernel_before_it() -> None:
    toys = in_a_list(norms_first=True, backwards=False)
    plan = make(toy.side(toys, "torch", typed=False), as_tree(toys), allow=ALLOW)
    assert toy.judge(toys, toys, plan) in ("right", "refused")


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


def late_norms(order: tuple[int, ...]) -> tuple[Side, Side]:
    """A block that declares a norm and what follows it three times, and calls these pairs in an order."""
    rows = [
        ("layer_norm", (6,), "norm1", "mix_norm"), ("linear", (6, 9), "mix", "mixing"),
        ("layer_norm", (6,), "norm2", "wide_norm"), ("linear", (6, 12), "wide", "widening"),
        ("layer_norm", (6,), "norm3", "near_norm"), ("linear", (6, 15), "near", "nearing"),
    ]  # fmt: skip
    toys = toy.model(
        [(kind, sizes, f"blocks.{n}.{a}", f"Block_{n}/{b}") for n in range(2) for kind, sizes, a, b in rows]
    )
    toys = toy.model(
        [(t.kind, t.sizes, t.torch.replace("mix", "a").replace("wide", "b").replace("near", "c"), t.flax) for t in toys]
    )
    called = [toys[6 * n + 2 * pair + k] for n in range(2) for pair in order for k in range(2)]
    return toy.side(toys, "torch", typed=True), toy.side(called, "flax", typed=True)


def test_norms_that_one_side_counts_are_told_by_calls() -> None:
    plan = make(*late_norms((0, 1, 2)), allow=("choice",))
    assert plan.ok, str(plan)
    assert [move.sources[0].key for move in plan.moves if move.target == "Block_1/near_norm/scale"] == [
        "blocks/1/norm3/weight"
    ]


def test_norms_are_told_by_no_call_where_what_they_serve_is_called_in_another_order() -> None:
    """XCiT: the norm that was added last is called in the middle; its number says when it was written."""
    assert "ambiguous" in problems(make(*late_norms((0, 2, 1)), allow=ALLOW))


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


@pytest.mark.parametrize(
    ("several", "one"),
    [("wqs", "wq"), ("wos", "wo"), ("wo_mlps", "wo_mlp"), ("querys", "query"), ("to_outs", "to_out")],
)
def test_a_list_means_what_its_members_mean(several: str, one: str) -> None:
    assert words_of(several) == words_of(one)


def test_no_word_that_ends_in_s_by_itself_is_taken_for_a_list() -> None:
    assert [words_of(word) for word in ("bias", "cls", "pos", "class")] == [
        {"bias"},
        {"class"},
        {"position"},
        {"class"},
    ]


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
