"""The laws of the algebra of named axes, bit for bit, and the traps that it exists for."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stateregistry.errors import AxesError
from stateregistry.layers import axes


@st.composite
def patterns(draw: st.DrawFn) -> tuple[str, tuple[int, ...], dict[str, int]]:
    """A pattern over a random set of axes, with a shape that fits it and the size of every axis."""
    names = draw(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=5, unique=True))
    sizes = {name: draw(st.integers(1, 4)) for name in names}
    words: list[str] = []
    shape: list[int] = []
    left = draw(st.permutations(names))
    parted = False
    while left:
        take = draw(st.integers(1, min(3, len(left))))
        atoms, left = left[:take], left[take:]
        spelled = [
            ("-" if draw(st.booleans()) else "") + name + (f"={sizes[name]}" if draw(st.integers(0, 3)) == 0 else "")
            for name in atoms
        ]
        size = math.prod(sizes[name] for name in atoms)
        if not parted and draw(st.integers(0, 4)) == 0:
            parted = True
            outer = draw(st.integers(0, take))
            words.append(f"({' '.join([*spelled[:outer], 'x|y|z:', *spelled[outer:]])})")
            shape.append(3 * size)
        elif take > 1:
            words.append(f"({' '.join(spelled)})")
            shape.append(size)
        else:
            words.append(spelled[0])
            shape.append(size)
        if draw(st.integers(0, 5)) == 0:
            words.append("1")
            shape.append(1)
    return " ".join(words), tuple(shape), sizes


def filled(shape: tuple[int, ...], dtype: str = "uint16") -> np.ndarray:
    """Every element different, so that any wrong order shows."""
    return np.arange(math.prod(shape), dtype=dtype).reshape(shape)


@given(patterns())
def test_collapse_undoes_expand_bit_for_bit(case: tuple[str, tuple[int, ...], dict[str, int]]) -> None:
    pattern, shape, sizes = case
    array = filled(shape)
    bound = axes.bind(pattern, shape, sizes)
    back = bound.collapse(bound.expand(array))
    assert back.shape == shape
    assert back.tobytes() == array.tobytes()


@given(patterns(), st.randoms(use_true_random=False))
def test_the_move_back_undoes_the_move(case: tuple[str, tuple[int, ...], dict[str, int]], random: object) -> None:
    pattern, shape, sizes = case
    words = [word for word in pattern.split() if word != "1"]
    if "(" in pattern:
        words = [pattern]  # a composite is kept whole; its twin below takes it apart
    random.shuffle(words)  # type: ignore[attr-defined]
    other = " ".join(words)
    target = axes.native_shape(other.replace("-", ""), sizes) if "|" not in other else shape
    move = axes.derive(pattern, shape, other, target, sizes)
    array = filled(shape)
    assert move.inverse().apply(move.apply(array)).tobytes() == array.tobytes()


def test_a_family_that_is_one_native_axis_is_the_axis_of_that_name() -> None:
    """One side calls a vector `features`, the other says that all axes of the features are in one: the same vector."""
    x = np.arange(4.0)
    for source, target in (("features", "(*features)"), ("(*features)", "features"), ("(*features)", "(*features)")):
        assert axes.derive(source, (4,), target, (4,)).apply(x).tolist() == x.tolist()
    assert axes.derive("*features", (2, 3), "(*features)", (6,)).apply(np.ones((2, 3))).shape == (6,)


def test_parts_inside_every_head_are_taken_out_head_by_head() -> None:
    array = filled((12, 2))  # two heads, and in each of them two rows of q, then of k, then of v
    parts = axes.bind("(heads=2 q|k|v: head_dim) in", array.shape).expand(array)
    assert parts["q"][0].tolist() == array[[0, 6]].tolist()  # head_dim, heads, in: sorted
    assert parts["v"][1].tolist() == array[[5, 11]].tolist()
    whole = "(q|k|v: heads=2 head_dim) in"
    move = axes.derive("(heads=2 q|k|v: head_dim) in", array.shape, whole, array.shape)
    assert not move.is_identity
    assert move.apply(array)[:, 0].tolist() == array[[0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11], 0].tolist()


@pytest.mark.parametrize("pattern", ["(heads=0 d) in", "(heads=x d) in", "(*s=2 d) in", "(=2 d) in", "(h=2=3 d) in"])
def test_a_size_that_is_no_size_does_not_parse(pattern: str) -> None:
    with pytest.raises(AxesError, match="is not an axis"):
        axes.parse(pattern)


def test_two_sizes_of_one_axis_are_refused() -> None:
    with pytest.raises(AxesError, match="heads has size 2 elsewhere"):
        axes.derive("(heads=2 d)", (12,), "(d heads=3)", (12,))
    with pytest.raises(AxesError, match="does not agree"):
        axes.bind("(heads=5 d)", (12,))


@given(st.permutations(["out", "in", "h", "w"]), st.permutations(["out", "in", "h", "w"]))
def test_moves_compose(middle: list[str], last: list[str]) -> None:
    sizes = {"out": 2, "in": 3, "h": 4, "w": 5}

    def shape(names: list[str]) -> tuple[int, ...]:
        return tuple(sizes[name] for name in names)

    first = ["out", "in", "h", "w"]
    one = axes.derive(" ".join(first), shape(first), " ".join(middle), shape(middle))
    two = axes.derive(" ".join(middle), shape(middle), " ".join(last), shape(last))
    whole = axes.derive(" ".join(first), shape(first), " ".join(last), shape(last))
    array = filled(shape(first))
    assert two.apply(one.apply(array)).tobytes() == whole.apply(array).tobytes()


def test_a_square_matrix_is_transposed_although_its_shape_cannot_tell() -> None:
    array = filled((4, 4))
    move = axes.derive("out in", (4, 4), "in out", (4, 4))
    assert not move.is_identity
    assert np.array_equal(move.apply(array), array.T)


def test_a_convolution_with_equal_sizes_everywhere_is_permuted_by_name() -> None:
    """(2, 3, 1, 0) is not its own inverse: the trap of a permutation stored once for both directions."""
    array = filled((3, 3, 3, 3))
    there = axes.derive("out in/groups *spatial", array.shape, "*spatial in/groups out", array.shape)
    assert np.array_equal(there.apply(array), array.transpose(2, 3, 1, 0))
    assert np.array_equal(there.inverse().apply(array), array.transpose(3, 2, 0, 1))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_family_takes_as_many_axes_as_the_rank_leaves(rank: int) -> None:
    array = filled((2, 3, *(4, 5, 6)[:rank]))
    target = (*array.shape[2:], 3, 2)
    move = axes.derive("out in/groups *spatial", array.shape, "*spatial in/groups out", target)
    assert np.array_equal(move.apply(array), array.transpose(*range(2, 2 + rank), 1, 0))


def test_a_reversed_family_flips_every_one_of_its_axes() -> None:
    array = filled((3, 3, 2, 2))
    move = axes.derive("in out *spatial", array.shape, "-*spatial in out", (2, 2, 3, 3))
    assert np.array_equal(move.apply(array), array.transpose(2, 3, 0, 1)[::-1, ::-1])


def test_heads_are_split_out_of_a_merged_axis_by_the_other_side() -> None:
    array = filled((12, 5))
    move = axes.derive("(heads head_dim) in", (12, 5), "in heads head_dim", (5, 3, 4))
    assert np.array_equal(move.apply(array), array.T.reshape(5, 3, 4))


def test_a_plain_axis_is_refined_where_the_other_side_has_a_family() -> None:
    array = filled((12, 5))
    move = axes.derive("out in", (12, 5), "in *out", (5, 3, 4))
    assert np.array_equal(move.apply(array), array.T.reshape(5, 3, 4))


def test_parts_lie_one_after_another() -> None:
    array = filled((9, 3))
    parts = axes.bind("(q|k|v: out) in", (9, 3)).expand(array)
    for number, name in enumerate("qkv"):
        assert np.array_equal(parts[name], array[3 * number : 3 * number + 3].T)  # neutral order is sorted: in out


def test_stacked_layers_are_parts_of_an_axis_that_only_counts() -> None:
    array = filled((2, 4, 4))
    parts = axes.bind("(0|1:) in out", array.shape).expand(array)
    assert np.array_equal(parts["1"], array[1])
    fused = filled((2, 6, 3))
    bound = axes.bind("(0|1:) (q|k: out) in", fused.shape)
    assert bound.parts == ("0.q", "0.k", "1.q", "1.k")
    assert np.array_equal(bound.expand(fused)["1.k"], fused[1, 3:].T)
    assert bound.collapse(bound.expand(fused)).tobytes() == fused.tobytes()


def test_parts_of_several_arrays_are_joined_and_added() -> None:
    query, key, more = filled((3, 2)), filled((3, 2)) + 50, filled((3, 2)) + 200
    feeds = [axes.Feed("in out", (3, 2), into="q"), axes.Feed("in out", (3, 2), into="k")]
    joined = axes.assemble(feeds, "(q|k: out) in", (4, 3))
    assert np.array_equal(joined.apply([query, key]), np.concatenate([query.T, key.T]))
    summed = axes.assemble([*feeds, axes.Feed("in out", (3, 2), into="k")], "(q|k: out) in", (4, 3))
    assert np.array_equal(summed.apply([query, key, more]), np.concatenate([query.T, (key + more).T]))
    with pytest.raises(AxesError, match="nothing gives"):
        axes.assemble(feeds[:1], "(q|k: out) in", (4, 3))


def test_zero_sized_axes_move_too() -> None:
    move = axes.derive("out in", (0, 3), "in out", (3, 0))
    assert move.apply(np.zeros((0, 3), np.float32)).shape == (3, 0)


def test_expanding_never_copies() -> None:
    array = filled((12, 5))
    for part in axes.bind("(heads head_dim) in", (12, 5), {"heads": 3}).expand(array).values():
        assert np.shares_memory(part, array)


@pytest.mark.parametrize(
    "pattern",
    ["out out", "(a", "a)", "(a (b))", "()", "(q|q: a)", "(q|: a)", "a b-c", "-", "*", "a,b"],
)
def test_a_malformed_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(AxesError, match="axis pattern"):
        axes.parse(pattern)


@pytest.mark.parametrize(
    ("pattern", "shape"),
    [
        ("out in", (3,)),
        ("out in", (3, 4, 5)),
        ("(heads head_dim) in", (12, 5)),  # nothing says how many heads
        ("(x|y: a) b", (5, 2)),  # five is no multiple of two parts
        ("*a *b", (2, 3)),
        ("1 a", (2, 3)),
        ("out in/groups *spatial", (2, 3)),  # a family has at least one axis
    ],
)
def test_a_pattern_that_does_not_fit_its_shape_is_refused(pattern: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(AxesError):
        axes.bind(pattern, shape)


def test_sizes_that_contradict_name_the_axis() -> None:
    with pytest.raises(AxesError, match=r"\(in\) has size 3"):
        axes.derive("out in", (3, 4), "in out", (3, 4))


def test_different_axes_are_not_a_move() -> None:
    with pytest.raises(AxesError, match="same axes"):
        axes.derive("out in", (3, 4), "vocab features", (3, 4))


@pytest.mark.parametrize(("one", "two"), list(itertools.permutations(["a b c", "c b a", "b a c"], 2)))
def test_signatures_tell_different_moves_of_one_shape_apart(one: str, two: str) -> None:
    shape = (4, 4, 4)
    assert axes.derive("a b c", shape, one, shape).signature != axes.derive("a b c", shape, two, shape).signature


@pytest.mark.parametrize(("outs", "ins"), [((2, 2), (2, 2)), ((2, 3), (5,)), ((6,), (2, 2, 2))])
def test_axes_that_are_written_out_refine_a_plain_axis_of_the_same_name(
    outs: tuple[int, ...], ins: tuple[int, ...]
) -> None:
    """A layer with several axes in or out, and one that has them in one: the last varies fastest, as in a reshape."""
    many = " ".join(
        [f"in.{n}" if len(ins) > 1 else "in" for n in range(len(ins))]
        + [f"out.{n}" if len(outs) > 1 else "out" for n in range(len(outs))]
    )
    flat = (math.prod(outs), math.prod(ins))
    array = filled(flat)
    move = axes.derive("out in", flat, many, (*ins, *outs))
    assert np.array_equal(move.apply(array), array.T.reshape(*ins, *outs))
    assert move.inverse().apply(move.apply(array)).tobytes() == array.tobytes()
    bias = axes.derive("out", flat[:1], many[many.index("out") :], outs)
    assert np.array_equal(bias.apply(filled(flat[:1])), filled(outs))


def test_written_out_axes_that_do_not_multiply_to_the_plain_one_are_refused() -> None:
    with pytest.raises(AxesError, match="does not agree"):
        axes.derive("out in", (5, 3), "in out.0 out.1", (3, 2, 2))
    with pytest.raises(AxesError, match="same axes"):
        axes.derive("in out.0 out.1", (3, 2, 2), "in out.0 out.1 out.2", (3, 2, 2, 1))


def test_a_family_in_one_native_axis_has_as_many_members_as_another_array_says() -> None:
    alone = axes.bind("(*features)", (24,))
    assert alone.neutral == ("features.0",)
    array = filled((4, 6))
    move = axes.derive("*features", array.shape, "(*features)", (24,))
    assert move.target.neutral == ("features.0", "features.1")
    assert np.array_equal(move.apply(array), array.reshape(24))
    assert move.inverse().apply(move.apply(array)).tobytes() == array.tobytes()
    with pytest.raises(AxesError, match="nothing says how many"):
        axes.bind("(in *spatial)", (12,), {"in": 3})


def test_a_reversed_axis_stays_reversed_when_it_is_refined() -> None:
    array = filled((6,))
    move = axes.derive("-a", (6,), "a.0 a.1", (2, 3))
    assert np.array_equal(move.apply(array), array[::-1].reshape(2, 3))
