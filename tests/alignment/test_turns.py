"""Turns: kernels told by number and call where the file shows no order, and orders in which nobody wrote a file."""

from __future__ import annotations

import random

import pytest
import toy

from stateregistry.alignment.containers import Item, Tied
from stateregistry.alignment.evidence.population import Around, Population
from stateregistry.alignment.evidence.sequence import in_sequence
from stateregistry.alignment.model import Unit, View
from stateregistry.alignment.spelling import tokens
from stateregistry.conversion.planning.planner import make


def item(path: str, call: int | None = None, kind: str = "linear") -> Item:
    colour = ("layer_norm", 6) if kind == "layer_norm" else (kind, 6, 6, True)
    return Item(
        [Unit(path, tokens(path), (colour,), {}, (path,), typed=True, place=0, call=call)], tokens(path), single=True
    )


@pytest.mark.parametrize(
    ("between", "ordered", "kind", "paths", "found"),
    [
        (1, False, "linear", ("conv1", "conv2"), True),
        (5, False, "linear", ("conv1", "conv2"), False),  # they are called one after another: gate and up
        (1, True, "linear", ("conv1", "conv2"), False),  # an order of declaration is known, and is to say it
        (1, False, "layer_norm", ("conv1", "conv2"), False),
        (1, False, "linear", ("conv1", "other2"), False),  # no one name counts them
    ],
)
def test_kernels_that_one_side_counts_are_as_the_other_calls_them_if_something_decided_is_called_between(
    between: int, ordered: bool, kind: str, paths: tuple[str, str], found: bool
) -> None:
    xs, ys = [item(path, kind=kind) for path in paths], [item("b", 2, kind), item("a", 0, kind)]
    anchors = [Tied(item("n", kind="layer_norm"), item("m", between, "layer_norm"), "")]
    here, there = View([], {}, {}, ordered=ordered), View([], {}, {}, called=True)
    # Of the rest of the scope nothing is known, so that no line of all its layers says it either.
    pairs = in_sequence(xs, ys, Around(anchors, here, there, Population((xs, [*ys, item("odd", 9, "embedding")]))))
    back = [Tied(each.target, each.source, "") for each in anchors]
    turned = in_sequence(ys, xs, Around(back, there, here, Population(([*ys, item("odd", 9, "embedding")], xs))))
    assert [(p.source, p.target, p.grade) for p in pairs] == [
        (xs[0], ys[1], "assumption"), (xs[1], ys[0], "assumption")
    ] * found  # fmt: skip
    assert [(p.target, p.source) for p in turned] == [(p.source, p.target) for p in pairs]


def test_names_that_count_others_in_another_order_than_they_are_called_tell_no_kernels() -> None:
    xs, ys = [item("conv1"), item("conv3")], [item("a", 1), item("b", 3)]
    wide = [Item([Unit(n, tokens(n), (("linear", 6, 9, True),), {}, (n,), typed=True, place=0, call=c)], tokens(n), single=True)
            for n, c in (("conv2", None), ("w", 0))]  # fmt: skip
    anchors = [Tied(item("n", kind="layer_norm"), item("m", 2, "layer_norm"), "")]
    here, there = View([], {}, {}), View([], {}, {}, called=True)
    assert in_sequence(xs, ys, Around(anchors, here, there, Population((xs, ys))))
    assert not in_sequence(xs, ys, Around(anchors, here, there, Population(([*xs, wide[0]], [*ys, wide[1]]))))


@pytest.mark.parametrize("seed", range(4))
def test_a_shuffled_file_whose_modules_have_one_array_each_is_in_nobodys_order(seed: int) -> None:
    """Runs of arrays of one module do not show it: containers that are torn apart do."""
    rows = [
        ("embedding", (size, 4), f"experts.{n}.{name}", f"Expert_{n}/{name}")
        for n in range(4)
        for size, name in ((5, "up"), (6, "mid"), (7, "out"))
    ]
    toys = toy.model([*rows, ("linear", (6, 3), "tail", "head")])
    here = toy.side(toys, "torch", typed=True)
    there = toy.side(toys, "flax", typed=True)
    plan = make(here, there, allow=("choice",))
    assert plan.ok, str(plan)
    keys = list(here.entries)
    random.Random(seed).shuffle(keys)
    torn = toy.replace(here, entries={key: here.entries[key] for key in keys})
    assert {problem.problem for problem in make(torn, there, allow=("choice",)).problems} == {"assumption"}
    plan = make(torn, there, allow=("choice", "assumption"))
    assert plan.ok, str(plan)
    assert toy.judge(toys, toys, plan) == "right"
    # One part that is declared apart from the rest of its container is no reason to doubt an order.
    apart = [key for key in here.entries if "experts/0/out" in key]
    apart = {key: here.entries[key] for key in (*(k for k in here.entries if k not in apart), *apart)}
    assert "nobody" not in str(make(toy.replace(here, entries=apart), there, allow=("choice",)))


def pyramid(
    turn: tuple[int, ...], sizes: tuple[int, ...], names: tuple[str, str] = ("lateral_p", "smooth_p")
) -> toy.Model:
    """Levels that the target counts from two on; `turn`: in what order it calls them, `sizes`: of what is read at each."""
    rows = [("linear", (sizes[level], 8), f"inner.{level}", f"{names[0]}{level + 2}") for level in turn]
    rows += [("conv", (8, 8, 3), f"outer.{level}", f"{names[1]}{level + 2}") for level in turn]
    return toy.model(rows)


@pytest.mark.parametrize("names", [("lateral_p", "smooth_p"), ("Dense_", "Conv_")])
@pytest.mark.parametrize(("sizes", "shows"), [((8, 8, 16), True), ((8, 16, 8), False), ((8, 8, 8), False)])
def test_a_size_at_one_end_outranks_the_calls_of_numbers_that_an_author_gave(
    sizes: tuple[int, ...], shows: bool, names: tuple[str, str]
) -> None:
    called = pyramid((2, 1, 0), sizes, names)
    declared = sorted(called, key=lambda one: one.torch)
    plan = make(toy.side(declared, "torch", typed=True), toy.side(called, "flax", typed=True), allow=("choice",))
    # What Linen counted as it was made says nothing against the calls, whatever a size shows.
    assert toy.judge(declared, called, plan) == ("right" if shows and names[0] == "lateral_p" else "refused"), str(plan)


def test_a_size_that_shows_numbers_to_run_against_one_another_confirms_nothing() -> None:
    called = pyramid((2, 1, 0), (8, 8, 16))
    turned = [toy.replace(one, torch=f"{one.torch.partition('.')[0]}.{2 - int(one.torch[-1])}") for one in called]
    plan = make(
        toy.side(sorted(turned, key=lambda one: one.torch), "torch", typed=True),
        toy.side(called, "flax", typed=True),
        allow=("choice", "assumption"),
    )
    assert toy.judge(turned, called, plan) in ("right", "refused"), str(plan)


def test_names_beside_that_are_called_the_other_way_show_nothing() -> None:
    first, second = pyramid((0, 1, 2), (8, 8, 16)), pyramid((2, 1, 0), (8, 8, 16))
    called = [*first[:3], *second[3:]]
    declared = sorted(called, key=lambda one: one.torch)
    turned = [*declared[:3], *(toy.replace(one, torch=f"outer.{2 - int(one.torch[-1])}") for one in declared[3:])]
    order = sorted(turned, key=lambda one: one.torch)
    plan = make(toy.side(order, "torch", typed=True), toy.side(called, "flax", typed=True), allow=("choice",))
    assert toy.judge(turned, called, plan) == "refused", str(plan)
