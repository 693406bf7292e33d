"""Models that do not correspond are told apart in one sentence: a size, a list, or a part, and never by every key."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import toy
from toy import Model, Toy, model

from stateregistry.conversion.planning.plan import Plan
from stateregistry.conversion.planning.planner import make
from stateregistry.conversion.rules.rules import Rules

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


def stack(*lists: tuple[str, str, int], width: int = 6) -> Model:
    """Lists of square layers, as both sides call them, with as many in each."""
    return side([
        ("linear", (width, width), f"{here}.{n}", f"{there}_{n}") for here, there, count in lists for n in range(count)
    ])  # fmt: skip


def test_of_two_lists_the_one_that_is_longer_is_named() -> None:
    one = stack(("encoder", "front", 3), ("decoder", "back", 5))
    two = stack(("encoder", "front", 3), ("decoder", "back", 4))
    for number, plan in enumerate(plans(one, two)):
        (problem,) = plan.problems
        first, second = ("decoder", "back") if number % 2 == 0 else ("back", "decoder")
        here, there = (5, 4) if number % 2 == 0 else (4, 5)
        assert problem.text == f"the source has {here} repetitions of `{first}`, the target has {there} of `{second}`"


def test_two_lists_that_differ_are_both_named() -> None:
    one = stack(("encoder", "front", 6), ("decoder", "back", 3))
    two = stack(("encoder", "front", 5), ("decoder", "back", 1))
    for plan in plans(one, two)[::2]:
        assert "6 repetitions of `encoder` and 3 of `decoder`" in plan.problems[0].text
        assert "the target has 5 of `front` and 1 of `back`" in plan.problems[0].text


def test_where_nothing_says_which_list_is_longer_all_are_named() -> None:
    one = stack(("this", "x", 3), ("that", "y", 3))
    two = stack(("this", "x", 3), ("that", "y", 2))
    for plan in plans(one, two)[::2]:
        (problem,) = plan.problems
        assert (
            problem.text == "the source has 3 repetitions of `this` or 3 of `that`, the target has 2 repetitions of `y`"
        )


def test_stages_are_not_counted_as_the_blocks_that_they_hold() -> None:
    def staged(counts: tuple[int, ...]) -> Model:
        rows: list[Row] = []
        flat = 0
        for stage, count in enumerate(counts):
            for n in range(count):
                rows.append(("linear", (6, 6), f"layer{stage}.{n}.one", f"block_{flat}/a"))
                rows.append(("layer_norm", (6,), f"layer{stage}.{n}.two", f"block_{flat}/b"))
                flat += 1
        return side(rows)

    for plan in plans(staged((2, 1, 2)), staged((2, 2, 2)))[::2]:
        assert "the source has 5 repetitions of `layer/#`, the target has 6 of `block`" in plan.problems[0].text


@pytest.mark.parametrize("name", ["aside", "spare_part"])
def test_a_layer_beside_the_list_that_it_is_like_is_named_itself(name: str) -> None:
    rows: list[Row] = [("linear", (6, 8), f"h.{n}.up", f"up_{n}") for n in range(3)]
    rows += [("linear", (8, 6), f"h.{n}.down", f"down_{n}") for n in range(3)]
    one = side([*rows, ("linear", (6, 8), name, name)])
    for plan in plans(one, side(rows)):
        assert "3 repetitions of" not in str(plan)
        assert "4 repetitions of" not in str(plan)
        assert name in str(plan)


def test_models_that_share_no_layer_are_told_so_once() -> None:
    one = side(
        [("conv", (3, 4, 3), "conv", "first"), ("batch_norm", (4,), "bn", "scale"), ("linear", (4, 2), "fc", "out")]
    )
    two = side([("linear", (9, 27), "a", "x"), ("layer_norm", (27,), "b", "y")])
    for number, plan in enumerate(plans(one, two)):
        assert len(plan.problems) == 2, str(plan)
        kinds = "the source has 1 conv, 1 batch norm, 1 linear; the target has 1 linear, 1"
        assert "no layer of one side is like any of the other" in plan.problems[0].text
        assert number % 2 or kinds in plan.problems[0].text


def test_an_empty_side_is_one_sentence() -> None:
    one = side([("linear", (3, 4), "fc", "out"), ("layer_norm", (4,), "ln", "scale")])
    for number, plan in enumerate(plans(one, [])):
        (problem,) = plan.problems
        here, there = ("target", "source") if number % 2 == 0 else ("source", "target")
        assert f"the {here} has no layers and no arrays, the {there} has 1 linear, 1 layer norm" in problem.text


def crossed(first: str, second: str) -> Model:
    """Equal names; `first` is the one of three that comes back to the width of the model."""
    rows: list[Row] = [("embedding", (11, 8), "embed", "embed")]
    for n in range(3):
        rows += [
            ("linear", (12, 8) if name == first else (8, 12), f"h.{n}.{name}", f"h_{n}/{name}")
            for name in ("w1", first, second)
        ]
    return side([*rows, ("linear", (8, 5), "head", "head"), *((("layer_norm", (8,), "ln", "ln")),)])


def test_layers_that_have_one_anothers_sizes_under_equal_names_are_one_question_with_both_rules() -> None:
    for plan in plans(crossed("w2", "w3"), crossed("w3", "w2")):
        (problem,) = plan.problems
        assert problem.problem == "ambiguous"
        assert "change places between the sides, and 2 times more elsewhere" in problem.text
        assert problem.hint.count("[[rename]]") == 2
        assert len(problem.answers) == 2


def test_the_rules_of_that_question_are_its_answer_and_where_nothing_is_crossed_nothing_is_asked() -> None:
    here, there = (
        toy.side(crossed(*names), framework, typed=True)
        for names, framework in ((("w2", "w3"), "torch"), (("w3", "w2"), "flax"))
    )
    (problem,) = make(here, there, allow=("assumption",)).problems
    plan = make(here, there, rules=Rules.of(list(problem.answers)), allow=("assumption",))
    assert plan.ok, str(plan)
    told = [str(move) for move in plan.moves if move.op == "copy" and any(name in str(move) for name in ("/w1", "/w2"))]
    assert len(told) == 18  # three layers in three blocks, a kernel and a bias each
    for text in told:
        assert ("w2" in text) == ("w3" in text), text
    assert make(here, toy.side(crossed("w2", "w3"), "flax", typed=True)).ok
