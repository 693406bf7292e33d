"""Suggested rules say what a plan found, and give it again."""

from __future__ import annotations

import tomllib

import numpy as np
import pytest
import torch

import stateregistry as sr
from stateregistry.conversion.rules.rules import Rules
from stateregistry.conversion.rules.writing import toml


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


@pytest.mark.parametrize(
    ("renames", "rules"),
    [
        (
            {
                f"layer{s}/{b}/conv{c + 1}": f"Block_{2 * (s - 1) + b}/Conv_{c}"
                for s in (1, 2) for b in range(2) for c in range(2)
            },
            [("layer{i}/{j}/conv{k+1}", "Block_{count}/Conv_{k}")],
        ),
        (
            {f"stage_{n}/unit": f"block{n + 1}/unit0{n + 1}/fc" for n in range(3)},
            [("stage_{i}/unit", "block{i+1}/unit0{i+1}/fc")],
        ),
        (
            {f"h/{n}/{name}": f"b_{n}/{name}/{m}" for n in range(4) for m, name in enumerate(("up", "down"))},
            [("h/{i}/up", "b_{i}/up/0"), ("h/{i}/down", "b_{i}/down/1")],
        ),
        (
            {f"h/{n}/{m}": f"b_{n}/{(0, 5)[m]}" for n in range(4) for m in range(2)},
            [("h/{i}/0", "b_{i}/0"), ("h/{i}/1", "b_{i}/5")],
        ),
        ({**{f"d_{n}": f"x/{n}/1" for n in range(3)}, "d_norm": "x/norm"}, None),
    ],
)  # fmt: skip
def test_blocks_of_several_layers_are_a_few_rules_that_read_backwards(renames, rules) -> None:
    found = suggested(renames)
    assert len(found) < len(renames)
    if rules is not None:
        assert sorted(found) == sorted(rules)
    back = Rules.of([(target, source) for source, target in found])
    forth = Rules.of(found)
    if not any(rule.counts for rule in forth.renames):
        assert {target: back.rename(target) for target in renames.values()} == {b: a for a, b in renames.items()}


def test_what_the_rules_of_a_plan_say_beside_their_renames_is_suggested_too() -> None:
    source, target = model("a/one", "a/two", "extra"), sr.convert(model("b/x", "b/y", "c"), to="flax-linen").target
    rules = {
        "rename": [{"source": "a/two", "target": "b/x"}, {"source": "a/one", "target": "b/y"}],
        "drop": [{"source": "extra"}],
        "fill": [{"target": "c", "value": 0.5}],
    }
    plan = sr.plan(source, target, rules=rules)
    assert plan.ok, str(plan)
    said = tomllib.loads(sr.rules.suggest(plan))
    assert said == rules
    assert sr.plan(source, target, rules=said).ok


class Fused(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.h = torch.nn.ModuleList([torch.nn.ModuleDict({"qkv": torch.nn.Linear(5, 15)}) for _ in range(2)])


def test_a_fused_layer_that_was_taken_apart_is_suggested_as_a_split_and_on_the_way_back_as_a_join() -> None:
    source = Fused()
    parts = model(*(f"b/{n}/{name}" for n in range(2) for name in ("query", "key", "value")))
    for block in parts.b.children():
        for name in ("query", "key", "value"):
            setattr(block, name, torch.nn.Linear(5, 5))
    target = sr.convert(parts, to="flax-linen").target
    for ends, table in (((source, target), "split"), ((target, source), "join")):
        plan = sr.plan(*ends, allow=("assumption",))
        assert plan.ok, str(plan)
        said = tomllib.loads(sr.rules.suggest(plan))
        assert len(said[table]) == 1
        assert said[table][0]["axes"] == "query|key|value: out"
        again = sr.plan(*ends, rules={table: said[table]}, allow=("assumption",))
        whole = sr.plan(*ends, rules=said, allow=("assumption",))
        assert again.ok
        assert whole.ok
        assert not any("taken apart" in move.reason for move in whole.moves)


def test_arrays_of_no_layer_are_suggested_with_the_axes_that_were_assumed() -> None:
    class Own(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tables = torch.nn.ParameterList([torch.rand(3, 3, 5) for _ in range(2)])

    target = {"params": {f"table_{n}": np.zeros((3, 3, 5), np.float32) for n in range(2)}}
    renames = {"tables/{i}": "table_{i}"}
    plan = sr.plan(Own(), target, rules=renames, allow=("assumption",))
    assert plan.ok, str(plan)
    said = tomllib.loads(sr.rules.suggest(plan))
    assert said["layout"] == [{"source": "tables/{i}", "source_axes": "a0 a1 a2", "target_axes": "a0 a1 a2"}]
    assert sr.plan(Own(), target, rules=said).ok


@pytest.mark.parametrize(
    "rules",
    [
        {"fill": [{"target": "a", "value": 0.5}, {"target": "b", "value": True}, {"target": "c", "value": float("inf")}]},
        {"split": [{"source": "a", "axis": "out", "axes": "q|k: out", "targets": ["x", "y"]}], "drop": [{"source": 'a"\\b'}]},
        {"order": [{"axis": "in", "source_axes": "c=2 h", "target_axes": "h c", "target": "fc"}], "keep": [{"target": "é\t"}]},
        {"rename": [{"source": "", "target": "m"}], "layer": [{"path": "a", "kind": "linear"}]},
        {},
    ],
)  # fmt: skip
def test_rules_that_are_written_read_back_as_the_same(rules) -> None:
    made = Rules.of(rules or None)
    assert Rules.of(tomllib.loads(toml(made)) or None) == made
