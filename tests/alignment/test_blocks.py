"""Blocks: layers of blocks against flat names with the block's number, small lists, and numbers that members contradict."""

from __future__ import annotations

import pytest
import torch
import toy

import stateregistry as sr
from stateregistry.alignment.containers import Item, Tied, listed_alike
from stateregistry.alignment.evidence.blocks import by_block
from stateregistry.alignment.evidence.population import Around, Population
from stateregistry.alignment.model import Unit, View
from stateregistry.alignment.spelling import tokens
from stateregistry.conversion.planning.plan import Plan
from stateregistry.conversion.planning.planner import make
from stateregistry.conversion.rules.rules import Rules
from stateregistry.conversion.side import Side

TYPED = (True, True)


def problems(plan: Plan) -> set[str]:
    return {problem.problem for problem in plan.problems}


def as_tree(toys: toy.Model) -> Side:
    """A side without types, in the order of the alphabet."""
    side = toy.side(toys, "flax", typed=False)
    return toy.replace(side, entries=dict(sorted(side.entries.items())))


def flat(numbers: tuple[int, int] = (0, 1), *, words: tuple[str, str] = ("attention_ln", "mlp_ln")) -> toy.Model:
    """Blocks of two norms; the other side has no blocks, but their number in every name; a norm beside them."""
    rows = []
    for n, other in enumerate(numbers):
        rows += [
            ("linear", (6, 6), f"body.{n}.mix", f"mixing_{n}"), ("layer_norm", (6,), f"body.{n}.norm1", f"{words[0]}_{other}"),
            ("linear", (6, 9), f"body.{n}.up", f"wide_{n}"), ("linear", (9, 6), f"body.{n}.down", f"narrow_{n}"),
            ("layer_norm", (6,), f"body.{n}.norm2", f"{words[1]}_{other}"),
        ]  # fmt: skip
    return toy.model([*rows, ("layer_norm", (6,), "tail", "last_ln")])


def test_the_number_of_a_flat_name_is_that_of_the_block() -> None:
    toys = flat()
    plan = toy.planned(toys, toys, typed=TYPED)
    assert plan.ok, str(plan)
    assert toy.judge(toys, toys, plan) == "right"
    norms = {move.target: move for move in plan.moves if "_ln_" in move.target}
    assert {move.grade for move in norms.values()} == {"numbers"}
    assert all("number of the block" in move.evidence for move in norms.values())


def test_a_flat_name_with_other_numbers_than_its_neighbours_counts_something_else() -> None:
    toys = flat((0, 2))
    assert "ambiguous" in problems(toy.planned(toys, toys, typed=TYPED, allow=("assumption",)))


def renumbered(toys: toy.Model, numbers: tuple[int, ...]) -> toy.Model:
    """With other numbers of blocks in the flat names."""
    return tuple(
        toy.replace(each, flax=f"{stem}_{numbers[int(number)]}" if number.isdigit() else each.flax)
        for each in toys
        for stem, _, number in [each.flax.rpartition("_")]
    )


@pytest.mark.parametrize("numbers", [(3, 4), (1, 4), (0, 7)])
def test_blocks_are_the_same_in_whatever_steps_they_are_counted(numbers: tuple[int, int]) -> None:
    toys = renumbered(flat(), numbers)
    plan = toy.planned(toys, toys, typed=TYPED, allow=("assumption",))
    assert plan.ok, str(plan)
    assert toy.judge(toys, toys, plan) == "right"
    norms = {move.target: move for move in plan.moves if "_ln_" in move.target}
    assert all("number of the block" in move.evidence for move in norms.values())


@pytest.mark.parametrize(
    ("numbers", "known", "parts"),
    [
        ((2, 4, 6), (0, 1), 3),
        ((1, 2, 9), (0, 1), 0),
        ((1, 2, 9), (0, 1, 2), 3),
        ((2, 4, 6), (0, 2, 1), 0),
        ((2, 4), (0, 1), 0),
    ],
)
def test_of_blocks_counted_in_other_proportions_only_what_is_paired_says_which_they_are(
    numbers: tuple[int, ...], known: tuple[int, ...], parts: int
) -> None:
    def item(path: str, place: int = 0) -> Item:
        unit = Unit(path, tokens(path), (("layer_norm", 6),), {}, (path,), typed=True, place=place)
        return Item([unit], unit.tokens, single=True)

    # What is paired of each block is at the place that `known` says.
    anchors = [
        Tied(item(f"body/{n}/up"), item(f"wide_{numbers[at]}"), "") for n, at in enumerate(known) if at < len(numbers)
    ]
    xs = [item(f"body/{n}/{name}") for n in range(3) for name in ("one", "two")]
    ys = [item(f"wide_{n}_{name}") for n in numbers for name in ("red", "blue")]
    found = by_block(xs, ys, Around(anchors, View([], {}, {}), View([], {}, {}), Population((xs, ys))))
    assert len(found) == parts
    for place, part in enumerate(found):
        assert {each.numbers for each in part.xs} == {(place,)}
        assert {each.numbers for each in part.ys} == {(numbers[place],)}


def test_a_list_of_single_layers_counts_no_blocks() -> None:
    """`time/0`, `time/2` and `dense_0`, `dense_1` are paired: what else has the numbers of `dense` is not theirs."""

    def item(path: str) -> Item:
        unit = Unit(path, tokens(path), (("layer_norm", 6),), {}, (path,), typed=True, place=0)
        return Item([unit], unit.tokens, single=True)

    for inner in ("", "/mix"):
        anchors = [Tied(item(f"time/{2 * n}{inner}"), item(f"dense_{n}{inner}"), "") for n in (0, 1)]
        xs = [item(f"time/{2 * n}/{name}") for n in (0, 1) for name in ("one", "two")]
        ys = [item(f"{name}_{n}") for n in (0, 1) for name in ("red", "blue")]
        found = by_block(xs, ys, Around(anchors, View([], {}, {}), View([], {}, {}), Population((xs, ys))))
        assert len(found) == (2 if inner else 0)


def test_blocks_that_hold_another_number_of_layers_are_not_divided() -> None:
    toys = flat()
    # Both norms of the first block, and the one outside, are called as if they were of other blocks.
    names = {"attention_ln_0": "odd_a", "mlp_ln_0": "odd_b"}
    odd = tuple(toy.replace(each, flax=names.get(each.flax, each.flax)) for each in toys)
    assert "ambiguous" in problems(toy.planned(odd, odd, typed=(True, False), allow=("assumption",)))


def test_without_calls_what_no_word_tells_is_asked_block_by_block() -> None:
    toys = flat(words=("first_half", "second_half"))
    toys = tuple(
        toy.replace(each, flax=each.flax.replace("first_half", "red").replace("second_half", "blue")) for each in toys
    )
    sides = toy.side(toys, "torch", typed=True), as_tree(toys)
    plan = make(*sides, allow=("choice", "assumption"))
    (problem,) = [problem for problem in plan.problems if problem.problem == "ambiguous"]
    assert "2 and 2 of `layer norm 6`" in problem.text
    assert "tail" not in str(problem)  # what is in no block is decided
    answer = {"body/{i}/norm1": "red_{i}"}
    plan = make(*sides, rules=Rules.of(answer), allow=("choice", "assumption"))
    assert plan.ok, str(plan)
    assert toy.judge(toys, toys, plan) == "right"
    other = make(*sides, rules=Rules.of({"body/{i}/norm1": "blue_{i}"}), allow=("choice", "assumption"))
    assert {move.sources[0].key for move in other.moves if move.target.startswith("red_1")} == {
        "body/1/norm2/weight", "body/1/norm2/bias",
    }  # fmt: skip


@pytest.mark.parametrize(("one", "two"), [("embed_norm", "final_norm"), ("norm_f", "stem_norm")])
def test_what_is_in_no_block_is_not_paired_from_the_beginning_to_the_end(one: str, two: str) -> None:
    toys = flat()
    for model in (toys, toys[-1:]):
        named = (*model[:-1], toy.replace(model[-1], torch=one, flax=two))
        assert not toy.planned(named, named, typed=TYPED).ok
        meant = (*model[:-1], toy.replace(model[-1], torch=one, flax=one.replace("norm", "layer_norm")))
        assert toy.planned(meant, meant, typed=TYPED).ok


def crossed() -> toy.Model:
    """A decoder that is counted backwards on one side: its sizes say so of one layer in each part, the others are alike."""
    rows = [("linear", (6, 6), f"decoder.{n}.0", f"up{1 - n}_mix") for n in (0, 1)]
    rows += [("linear", (6, 7 + n), f"decoder.{n}.2", f"up{1 - n}") for n in (0, 1)]
    return toy.model([*rows, ("linear", (9, 3), "tail", "head")])


@pytest.mark.parametrize("typed", [(True, False), (False, False)])
def test_numbers_decide_nothing_where_another_layer_of_the_same_parts_goes_against_them(
    typed: tuple[bool, bool],
) -> None:
    toys = crossed()
    plan = toy.planned(toys, toys, typed=typed, allow=("assumption",))
    assert toy.judge(toys, toys, plan) in ("refused", "right")
    straight = tuple(toy.replace(each, flax=each.flax.translate(str.maketrans("01", "10"))) for each in toys)
    plan = toy.planned(straight, straight, typed=typed, allow=("assumption",))
    assert plan.ok, str(plan)
    assert toy.judge(straight, straight, plan) == "right"


def test_a_number_within_a_block_is_not_that_of_a_block() -> None:
    """`norm1` has the number of `linear1`, `mlp_ln_0` that of `mlp_in_0`: two numbers of two things."""
    rows: list[tuple[str, tuple[int, ...], str, str]] = []
    for n in (0, 1):
        rows += [
            ("linear", (6, 9), f"layers.{n}.linear1", f"mlp_in_{n}"), ("linear", (9, 6), f"layers.{n}.linear2", f"mlp_out_{n}"),
            ("layer_norm", (6,), f"layers.{n}.norm1", f"mixer_ln_{n}"),
            ("layer_norm", (6,), f"layers.{n}.norm2", f"mlp_ln_{n}"),
        ]  # fmt: skip
    toys = toy.model(rows)
    plan = toy.planned(toys, toys, typed=(True, False), allow=("assumption",))
    assert all("beside" not in move.evidence for move in plan.moves if "_ln_" in move.target)
    assert toy.judge(toys, toys, plan) in ("refused", "right")


def test_the_number_that_a_neighbour_owes_to_its_number_is_an_assumption_where_linen_gave_it() -> None:
    rows: list[tuple[str, tuple[int, ...], str, str]] = []
    for n in (0, 1):
        rows += [("linear", (6, 9 + m), f"mixers.{n}.part{m}", f"Mixer_{n}/part{m}") for m in range(4)]
        rows += [("layer_norm", (6,), f"norms.{n}", f"LayerNorm_{n}")]
    toys = toy.model(rows)
    plan = toy.planned(toys, toys, typed=(True, False))
    assert problems(plan) == {"assumption"}
    named = tuple(toy.replace(each, flax=each.flax.replace("LayerNorm", "mixer_norm")) for each in toys)
    assert toy.planned(named, named, typed=TYPED).ok


# -------------------------------------------------------------------- small lists and two lists in one another


@pytest.mark.parametrize(
    ("calls", "grade"), [((0, 1, 2, 3), "certain"), ((1, 0, 3, 2), "question"), (None, "assumption")]
)
def test_small_containers_are_one_list_as_far_as_their_order_inside_is_known(
    calls: tuple[int, ...] | None, grade: str
) -> None:
    def listed(name: str, calls: tuple[int, ...] | None = None, numbers: tuple[int, int] = (1, 2)) -> list[Item]:
        found = []
        for place, number in enumerate(numbers):
            units = [
                Unit(
                    f"{name}/{number}/{part}", tokens(f"{name}/{number}/{part}"), ((part, 6),), {}, (part,), typed=True,
                    place=2 * place + at, call=calls[2 * place + at] if calls else None,
                )
                for at, part in enumerate(("norm", "core"))
            ]  # fmt: skip
            found.append(Item(units, tokens(f"{name}/{number}")))
        return found

    source, target = View([], {}, {}, ordered=True), View([], {}, {}, called=calls is not None)
    assert listed_alike(listed("rnns"), listed("cells", calls), source, target) == grade
    assert listed_alike(listed("rnns"), listed("cells", calls, (0, 1)), source, target) == "question"


@pytest.mark.parametrize("words", [("heads", "layers"), ("a", "b")])
def test_lists_in_lists_are_not_paired_the_other_way_round(words: tuple[str, str]) -> None:
    rows = [
        ("linear", (6, 6), f"{words[0]}.{h}.{words[1]}.{n}", f"layer_{n}_head_{h}") for n in range(3) for h in range(3)
    ]
    toys = toy.model(rows)
    plan = toy.planned(toys, toys, typed=TYPED, allow=("assumption",))
    if words[0] == "heads":
        assert toy.judge(toys, toys, plan) == "refused"
        assert "the other way round" in str(plan)
    straight = tuple(toy.replace(each, flax=f"head_{each.id % 3}_layer_{each.id // 3}") for each in toys)
    here = sorted(straight, key=lambda each: each.torch)
    there = sorted(straight, key=lambda each: each.flax)
    plan = make(toy.side(here, "torch", typed=True), toy.side(there, "flax", typed=True), allow=("choice",))
    assert toy.judge(here, there, plan) == "right", str(plan)


def test_a_table_that_containers_share_tears_none_of_them() -> None:
    def blocks(*, shared: bool) -> torch.nn.Module:
        table = torch.nn.Embedding(4, 4)
        net = torch.nn.Module()
        net.layers = torch.nn.ModuleList()
        for _ in range(2):
            one, two = torch.nn.Module(), torch.nn.Module()
            one.query, one.key, one.out = (torch.nn.Linear(6, 6) for _ in range(3))
            two.up, two.down = torch.nn.Linear(6, 9), torch.nn.Linear(9, 6)
            if shared or not len(net.layers):
                one.table = table
            net.layers.extend(torch.nn.ModuleList([torch.nn.LayerNorm(6), part]) for part in (one, two))
        return net

    class Other(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.biases = torch.nn.Embedding(4, 4)
            self.attention = torch.nn.ModuleList(
                torch.nn.ModuleDict({"norm": torch.nn.LayerNorm(6), **{name: torch.nn.Linear(6, 6) for name in "qko"}})
                for _ in range(2)
            )
            self.mlp = torch.nn.ModuleList(
                torch.nn.ModuleDict(
                    {"norm": torch.nn.LayerNorm(6), "wi": torch.nn.Linear(6, 9), "wo": torch.nn.Linear(9, 6)}
                )
                for _ in range(2)
            )

    plan = sr.plan(blocks(shared=True), Other())
    assert plan.ok, str(plan)
    moved = {move.target: move.sources[0].key for move in plan.moves}
    assert moved["attention/1/k/weight"] == "layers/2/1/key/weight"
    assert moved["mlp/0/wo/weight"] == "layers/1/1/down/weight"
    assert "ambiguous" in problems(sr.plan(blocks(shared=False), Other()))
