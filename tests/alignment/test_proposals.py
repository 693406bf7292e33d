"""A rule that is proposed and pasted unread leads to no wrong model: it is refused, or a guess by a name that is shared."""

from __future__ import annotations

import re

import pytest
import toy
from toy import Model, model, planned

import stateregistry as sr
from stateregistry.conversion.planning.plan import Plan, PlanProblem
from stateregistry.conversion.planning.planner import make
from stateregistry.conversion.rules.rules import Rules
from stateregistry.errors import RuleError

TYPED = (True, True)
_SAID = re.compile(r'\[\[rename\]\] source = "(.*?)" target = "(.*?)"')


def linears(*names: tuple[str, str], size: int = 6) -> Model:
    return model([("linear", (size, size), *name) for name in names])


def question(toys: Model) -> PlanProblem:
    (problem,) = planned(toys, toys, typed=TYPED).problems
    return problem


def said(problem: PlanProblem) -> tuple[str, str]:
    found = _SAID.search(problem.hint)
    assert found is not None, problem.hint
    return found.group(1), found.group(2)


def sides(toys: Model) -> tuple[sr.conversion.side.Side, sr.conversion.side.Side]:
    return toy.side(toys, "torch", typed=True), toy.side(toys, "flax", typed=True)


@pytest.mark.parametrize(
    "given",
    [
        {"w1": "<one of: gate, up>"},
        {"<one of: w1, w3>": "gate"},
        {"w1": "<if so: gate>"},
        {"rename": [{"source": "w1", "target": "<one of: gate, up, ...>"}]},
        [("w1", "<one of: gate>")],
    ],
)
def test_a_rule_that_is_still_to_be_completed_is_refused_with_what_it_leaves_open(given) -> None:
    with pytest.raises(RuleError, match="is not complete") as error:
        Rules.of(given)
    assert "gate" in str(error.value) or "w1" in str(error.value)


def test_where_nothing_speaks_for_a_candidate_the_rule_names_all_and_is_refused() -> None:
    problem = question(linears(("w1", "gate"), ("w3", "up")))
    assert said(problem) == ("w1", "<one of: gate, up>")
    with pytest.raises(RuleError, match="gate, up"):
        Rules.of([said(problem)])


@pytest.mark.parametrize(
    ("names", "guess"),
    [
        ([("net.key", "block/relative_key"), ("side.r", "block/key")], ("net/key", "block/key")),
        ([("track", "book_track"), ("track_old", "book_track_seen")], ("track", "book_track")),
    ],
)
def test_a_guess_says_that_it_is_one_and_what_it_rests_on(names, guess) -> None:
    size = len(names)
    toys = linears(*names)
    plan = planned(toys, toys, typed=TYPED)
    if plan.ok:
        pytest.fail(f"nothing is asked of {size} layers any more: the case shows nothing")
    (problem,) = plan.problems
    assert said(problem) == guess
    assert problem.hint.startswith("a guess, by ")
    assert problem.candidates[0] == guess


def test_candidates_stand_in_the_order_of_their_numbers_not_of_the_alphabet() -> None:
    rows = [
        ("linear", (6, 6), f"blocks.{n}.{here}", f"{there}_{n}")
        for n in range(2) for here, there in (("alpha", "zed"), ("beta", "cam"))
    ]  # fmt: skip
    toys = model(rows)
    plan = make(
        *(
            toy.side(sorted(toys, key=lambda each: (each.torch, each.flax)), side, typed=False)
            for side in ("torch", "flax")
        )
    )
    problem = next(problem for problem in plan.problems if problem.candidates)
    sources = list(dict.fromkeys(source for source, _ in problem.candidates))
    assert sources == ["blocks/0/alpha", "blocks/0/beta", "blocks/1/alpha", "blocks/1/beta"]
    shown = said(problem)[1]
    assert shown.index("cam_0") < shown.index("zed_1")
    assert shown.index("zed_0") < shown.index("cam_1")


def repeated(blocks: int, shift: int = 0) -> Model:
    return model([
        ("linear", (6, 6), f"layers.{n}.{a}", f"Block_{n + shift}/{b}")
        for n in range(blocks) for a, b in (("w1", "gate"), ("w3", "up"))
    ])  # fmt: skip


@pytest.mark.parametrize("shift", [0, 2])
def test_one_rule_answers_for_all_blocks(shift: int) -> None:
    toys = repeated(3, shift)
    problem = question(toys)
    there = f"Block_{{i+{shift}}}" if shift else "Block_{i}"
    assert said(problem) == ("layers/{i}/w1", f"<one of: {there}/gate, {there}/up>")
    for source, target in problem.answers:
        assert set(re.findall(r"\{.*?\}", source)) == {"{i}"}
        plan = make(*sides(toys), rules=Rules.of([(source, target)]), allow=("assumption",))
        right = (source, target) in {("layers/{i}/w1", f"{there}/gate"), ("layers/{i}/w3", f"{there}/up")}
        assert plan.ok, str(plan)
        assert (toy.judge(toys, toys, plan) == "right") is right


def test_an_answer_for_all_blocks_speaks_of_no_block_that_was_answered() -> None:
    toys = repeated(4)
    given = {"layers/0/w1": "Block_0/gate"}
    plan = make(*sides(toys), rules=Rules.of(given))
    for problem in plan.problems:
        for answer in problem.answers:
            rules = Rules.of([*given.items(), answer])
            made = make(*sides(toys), rules=rules, allow=("assumption",))
            assert not any(each.problem == "rule" for each in made.problems), str(made)


def test_one_place_is_never_made_a_rule_for_others() -> None:
    """Two questions of one block, whose numbers are those of the layers in it, say nothing of other blocks."""
    rows = [
        ("linear", (6, 6), f"layers.{n}.{a}", f"Block_{n}/{b}")
        for n in (1, 2)
        for a, b in (("w1", "gate"), ("w3", "up"))
    ]
    toys = model([*rows, ("linear", (6, 6), "layers.7.w1", "tail/last")])
    for problem in planned(toys, toys, typed=TYPED).problems:
        for source, _ in problem.answers:
            assert "{" not in source or not Rules.of([(source, source)]).renames[0].apply("layers/7/w1")


def test_what_is_suggested_answers_no_question_that_is_open() -> None:
    toys = model([
        *(("linear", (6, 9), f"layers.{n}.fc", f"Block_{n}/dense") for n in range(3)),
        ("linear", (6, 6), "layers.0.w1", "Block_0/gate"), ("linear", (6, 6), "layers.0.w3", "Block_0/up"),
    ])  # fmt: skip
    plan: Plan = planned(toys, toys, typed=TYPED)
    asked = {source for problem in plan.problems for source, _ in problem.candidates}
    assert asked
    text = sr.rules.suggest(plan)
    rules = Rules.of(re.findall(r'source = "(.*?)"\ntarget = "(.*?)"', text))
    assert all(rules.rename(path) is None for path in asked), text
    assert rules.rename("layers/2/fc") == "Block_2/dense"


def towers() -> Model:
    """Two containers that hold the same, and a third one of which a size tells which it is."""
    places = (("head_0", "block_0"), ("middle_0", "block_1"), ("up_0", "block_2"))
    return model(
        [
            (kind, size, f"{mine}.{a}", f"{its}/{b}")
            for mine, its in places
            for kind, size, a, b in (
                ("linear", (6, 6), "enter", "first"),
                ("linear", (6, 9), "wide", "spread"),
                ("linear", (9, 12), "wider", "far"),
                ("linear", (12, 9), "near", "back"),
                ("linear", (9, 15), "up", "over"),
                ("linear", (15, 9), "down", "under"),
                ("linear", (9, 4 if its == "block_2" else 6), "leave", "last"),
            )
        ]
    )


@pytest.mark.parametrize("rule", [{"head_0": "block_0"}, {"middle_0": "block_1"}])
def test_one_answer_about_two_counted_containers_decides_both(rule: dict[str, str]) -> None:
    """The name that a rule gives is a place of the other side, however many of its name there are on this one."""
    toys = towers()
    assert {asked.problem for asked in planned(toys, toys, typed=(False, False)).problems} == {"ambiguous"}
    plan = make(
        toy.side(toys, "torch", typed=False),
        toy.side(toys, "flax", typed=False),
        rules=Rules.of(rule),
        allow=("choice",),
    )
    assert plan.ok, str(plan)
    assert toy.judge(toys, toys, plan) == "right"


def test_an_answer_that_exchanges_two_containers_is_followed_too() -> None:
    toys = towers()
    plan = make(
        toy.side(toys, "torch", typed=False), toy.side(toys, "flax", typed=False),
        rules=Rules.of({"head_0": "block_1"}), allow=("choice",),
    )  # fmt: skip
    assert plan.ok, str(plan)
    assert toy.judge(toys, toys, plan).startswith("wrong")
