"""Models that do not correspond are told apart in one sentence: a size, a list, or a part, and never by every key."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import toy
from toy import Model, Toy, model

from stateregistry.conversion.planning.plan import Plan
from stateregistry.conversion.planning.planner import make

Row = tuple[str, tuple[int, ...], str, str]


def plans(here: Sequence[Toy], there: Sequence[Toy], allow: tuple[str, ...] = ()) -> list[Plan]:
    """Typed and not, there and back."""
    found = []
    for typed in (True, False):
        sides = toy.side(here, "torch", typed=typed), toy.side(there, "flax", typed=typed)
        found += [make(*sides, allow=("assumption", *allow)), make(*sides[::-1], allow=("assumption", *allow))]
    return found


def body(blocks: int, classes: int = 7, width: int = 6) -> list[Row]:
    rows: list[Row] = [("embedding", (31, width), "wte", "tokens")]
    for n in range(blocks):
        rows += [
            ("layer_norm", (width,), f"h.{n}.ln", f"norm_{n}"),
            ("linear", (width, 4 * width), f"h.{n}.fc", f"mlp_in_{n}"),
            ("linear", (4 * width, width), f"h.{n}.proj", f"mlp_out_{n}"),
        ]
    return [*rows, ("linear", (width, classes), "classifier", "readout")]


def side(rows: list[Row]) -> Model:
    return model(rows)


def test_one_layer_of_another_size_is_one_sentence() -> None:
    for plan in plans(side(body(2, classes=7)), side(body(2, classes=11))):
        text = str(plan)
        assert not plan.ok
        assert {problem.problem for problem in plan.problems} == {"missing", "unexpected"}
        assert len(plan.problems) == 2
        assert "differ in one size: " in text
        assert "`classifier` (linear 6 to 7)" in text
        assert "`readout` (linear 6 to 11)" in text


def test_a_layer_of_another_size_is_left_out_where_that_is_allowed() -> None:
    for plan in plans(side(body(2, classes=7)), side(body(2, classes=11)), allow=("missing", "unexpected")):
        assert plan.ok, str(plan)
        assert not any("readout" in key for move in plan.moves if move.op == "copy" for key in move.keys)


def test_a_size_that_several_layers_have_is_named_once() -> None:
    one = [
        ("embedding", (9, 6), "embed", "table"),
        ("conv", (6, 6, 3), "stem", "first"),
        ("linear", (6, 9), "last", "out"),
    ]
    two = [(kind, tuple(5 if size == 9 else size for size in sizes), a, b) for kind, sizes, a, b in one]
    for number, plan in enumerate(plans(side(one), side(two))):
        here, there = (9, 5) if number % 2 == 0 else (5, 9)
        assert len(plan.problems) == 2, str(plan)
        assert all(f"one size differs: {here} in the source is {there} in the target" in p.text for p in plan.problems)


@pytest.mark.parametrize(("blocks", "others"), [(3, 2), (2, 3), (5, 1)])
def test_blocks_that_the_other_side_counts_in_flat_names_are_counted(blocks: int, others: int) -> None:
    for plan in plans(side(body(blocks)), side(body(others))):
        (problem,) = plan.problems
        assert problem.problem == "structure"
        noun = "repetition" if blocks == 1 else "repetitions"
        assert f"has {blocks} {noun} of `h`" in problem.text, problem.text
        assert str(others) in problem.text


@pytest.mark.parametrize(("here", "there"), [(1, 3), (2, 3), (4, 3)])
def test_lists_on_both_sides_are_counted_whole_and_in_good_grammar(here: int, there: int) -> None:
    """The first block has a layer of another size: it is one of the list all the same."""

    def blocks(count: int) -> Model:
        return model([
            row for n in range(count)
            for row in (
                ("linear", (6, 8 if n == 0 else 9), f"layers.{n}.a", f"gated_{n}/x"),
                ("linear", (12, 15), f"layers.{n}.b", f"gated_{n}/y"),
            )
        ])  # fmt: skip

    for number, plan in enumerate(plans(blocks(here), blocks(there))):
        (problem,) = plan.problems
        first, second = (
            (("layers", here), ("gated", there)) if number % 2 == 0 else (("gated", there), ("layers", here))
        )
        noun = "repetition" if first[1] == 1 else "repetitions"
        assert "1 repetitions" not in problem.text
        assert (
            problem.text
            == f"the source has {first[1]} {noun} of `{first[0]}`, the target has {second[1]} of `{second[0]}`"
        )


def test_a_part_that_one_side_has_alone_is_named_by_the_words_that_the_other_lacks() -> None:
    rows: list[Row] = [
        row for name in ("user", "item")
        for row in (
            ("linear", (12, 24), f"{name}_tower.0", f"{name}_net/Dense_0"),
            ("linear", (24, 12), f"{name}_tower.1", f"{name}_net/Dense_1"),
        )
    ]  # fmt: skip
    whole = model(rows)
    half = [each for each in whole if each.torch.startswith("user")]
    for plan in plans(half, whole):
        (problem,) = plan.problems
        assert "has `item_net`, and the" in problem.text
    for plan in plans(whole, half):
        (problem,) = plan.problems
        assert "has `item_tower" in problem.text


def normed(kind: str) -> Model:
    rows: list[Row] = []
    for n, width in enumerate((6, 8, 6, 8)):
        rows.append(("linear", (width, 14 - width), f"h.{n}.fc", f"dense_{n}"))
        rows.append((kind, (14 - width,), f"h.{n}.ln", f"scale_{n}"))
    return side(rows)


@pytest.mark.parametrize(("here", "there"), [("layer_norm", "batch_norm"), ("batch_norm", "layer_norm")])
def test_norms_of_another_kind_are_one_sentence_and_not_every_statistic(here: str, there: str) -> None:
    for plan in plans(normed(here), normed(there)):
        assert not plan.ok
        assert len(plan.problems) == 2, str(plan)
        assert all("4 norms are" in problem.text and "batch norm" in problem.text for problem in plan.problems)


def test_what_sets_models_apart_is_said_before_what_is_open() -> None:
    rows = [("linear", (6, 6), f"part.{name}", f"other_{number}") for number, name in enumerate(("ex", "why"))]
    one, two = ([*rows, ("conv", (3, 6, size), "stem", "first")] for size in (3, 5))
    for plan in plans(side(one), side(two)):
        asked = [bool(problem.candidates) for problem in plan.problems]
        assert asked == sorted(asked)
        assert {*asked} == {False, True}, str(plan)
