"""Suggested rules say what a plan found, and give it again."""

from __future__ import annotations

import tomllib

import pytest
import torch

import stateregistry as sr
from stateregistry.conversion.rules.rules import Rules


def model(*paths: str) -> torch.nn.Module:
    root = torch.nn.Module()
    for path in paths:
        *above, name = path.split("/")
        at = root
        for part in above:
            if part not in dict(at.named_children()):
                at.add_module(part, torch.nn.Module())
            at = getattr(at, part)
        at.add_module(name, torch.nn.Linear(2, 3))
    return root


def suggested(renames: dict[str, str], extra: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    """What is suggested for a plan that rested on plain renames; giving it again gives the same plan."""
    source = model(*renames, *extra)
    target = sr.convert(source, to="flax-linen", rules=renames).target
    plan = sr.plan(source, target, rules=renames)
    rules = Rules.of(tomllib.loads(sr.rules.suggest(plan)) or None)
    again = sr.plan(source, target, rules=rules)
    assert again.ok, str(again)
    assert [str(move) for move in again.moves] == [str(move) for move in plan.moves]
    return [(rule.source, rule.target) for rule in rules.renames]


def test_equal_names_need_no_rule() -> None:
    plan = sr.plan(model("a/b"), to="flax-linen")
    assert sr.rules.suggest(plan) == ""


@pytest.mark.parametrize(
    ("renames", "rules"),
    [
        ({"a/x": "b/x", "a/y": "b/y"}, [("a", "b")]),
        ({"a/x": "b/x", "a/y": "b/z"}, [("a/x", "b/x"), ("a/y", "b/z")]),
        ({f"enc/layer/{n}/fc": f"blocks/{n}/fc" for n in range(12)}, [("enc/layer", "blocks")]),
        ({f"enc/layer/{n}/fc": f"blocks_{n}/fc" for n in range(12)}, [("enc/layer/{i}", "blocks_{i}")]),
        ({f"layer{n}": f"block_{n + 1}" for n in range(3)}, [("layer{i}", "block_{i+1}")]),
        ({f"layer{n + 2}": f"block_{n}" for n in range(3)}, [("layer{i+2}", "block_{i}")]),
        ({f"s{n}/b{m}": f"t{m}/c{n}" for n in range(2) for m in (4, 6, 7)}, None),
        (
            {f"layer{n}/{m}": f"Block_{3 * n + m}" for n in range(2) for m in range(3)},
            [("layer{i}/{j}", "Block_{count}")],
        ),
        ({f"Block_{3 * n + m}": f"layer{n}/{m}" for n in range(2) for m in range(3)}, [("Block_{count}", "layer{i}/{j}")]),
        ({"l0": "k3", "l1": "k1", "l2": "k2"}, [("l0", "k3"), ("l1", "k1"), ("l2", "k2")]),
    ],
)  # fmt: skip
def test_what_is_suggested_is_short_and_gives_the_same_plan(renames, rules) -> None:
    found = suggested(renames)
    if rules is not None:
        assert sorted(found) == sorted(rules)


def test_what_was_assumed_is_suggested_as_what_it_was_taken_for() -> None:
    source = torch.nn.ModuleList([torch.nn.Linear(2, 2) for _ in range(3)])
    target = sr.convert(source, to="flax-linen").target
    assert sr.plan(source, target).problems
    text = sr.rules.suggest(sr.plan(source, target))
    assert tomllib.loads(text) == {"layer": [{"path": "{i}", "kind": "linear"}]}
    assert sr.plan(source, target, rules=tomllib.loads(text)).ok


def test_a_general_rule_that_would_rename_what_stays_is_not_suggested() -> None:
    renames = {f"layer/{n}": f"block/{n}" for n in range(3)}
    assert sorted(suggested(renames, extra=("layer/7",))) == sorted(renames.items())
