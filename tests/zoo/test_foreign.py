"""Foreign names: pairs in the style of public code convert without rules, both ways, and compute the same.

Where rules are needed a pair says so, and without them it must be refused: an answer nobody can know is no answer.
"""

from __future__ import annotations

import pytest
import torch
from zoo_all import FOREIGN
from zoo_pairs import TOLERANCE, Pair, difference
from zoo_survey import WAYS, survey, ways

PAIRS = {pair.name: pair for pair in FOREIGN}
SIDES: dict[str, object] = {}


def side_of(pair: Pair):
    """One Flax side for all tests of a pair: it keeps what was compiled."""
    return SIDES.setdefault(pair.name, pair.flax())


@pytest.mark.parametrize(("name", "way"), [(name, way) for name in PAIRS for way in WAYS])
def test_a_foreign_pair_converts_both_ways_and_computes_the_same(name: str, way: str) -> None:
    pair = PAIRS[name]
    side = side_of(pair)
    if way not in ways(pair, side):
        way = "live"
    found = survey(pair, way, side)
    assert found.outcome == "right", "\n".join([str(found), *found.problems[:40]])


UNDECIDED = [
    (name, way) for name, pair in PAIRS.items() for way in (WAYS if pair.rules else pair.open)
]  # fmt: skip


@pytest.mark.parametrize(("name", "way"), UNDECIDED)
def test_what_no_header_decides_is_refused_without_its_rule(name: str, way: str) -> None:
    pair = PAIRS[name]
    found = survey(pair, way, side_of(pair), rules=None)
    assert found.outcome == "refused", str(found)
    assert found.problems


@pytest.mark.parametrize("name", PAIRS)
def test_exchanging_any_two_layers_of_one_shape_shows_in_the_outputs(name: str) -> None:
    """Or agreement of outputs would prove nothing about the pairing."""
    pair = PAIRS[name]
    side = side_of(pair)
    model = pair.fresh_torch(1)
    expected = pair.run_torch(model, side)
    groups: dict[tuple[object, ...], list[torch.nn.Module]] = {}
    for module in model.modules():
        held = tuple((name, tuple(value.shape)) for name, value in module.named_parameters(recurse=False))
        if held:
            groups.setdefault((type(module), held), []).append(module)
    for modules in groups.values():
        neighbours = list(zip(modules, modules[1:], strict=False))
        for one, two in neighbours[:: len(neighbours) // 12 + 1]:
            exchange(one, two)
            assert difference(pair.run_torch(model, side), expected) > 10 * TOLERANCE, (one, two)
            exchange(one, two)


def exchange(one: torch.nn.Module, two: torch.nn.Module) -> None:
    """What the modules hold themselves; what is inside of them stays."""
    with torch.no_grad():
        for held in ("named_parameters", "named_buffers"):
            mine, its = (dict(getattr(module, held)(recurse=False)) for module in (one, two))
            for name, value in mine.items():
                kept = value.clone()
                value.copy_(its[name])
                its[name].copy_(kept)
