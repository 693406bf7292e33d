"""Families of `transformers` 4.x convert from torch to Flax and back without rules, and compute the same.

One test per family and way; the ways of a family share one Flax side, so that it is traced and compiled once.
"""

from __future__ import annotations

from functools import cache

import pytest
import zoo_families
from zoo_pairs import Pair
from zoo_survey import WAYS, survey

PAIRS = {pair.name: pair for pair in zoo_families.PAIRS}

# A deprecated call inside a third party's code is no business of these tests.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@cache
def built(name: str) -> tuple[Pair, zoo_families.HubLinen]:
    pair = PAIRS[name]
    return pair, pair.flax()


def test_the_families_are_at_least_twenty_and_have_names_of_their_own() -> None:
    assert len(PAIRS) == len(zoo_families.FAMILIES) >= 20


@pytest.mark.parametrize(("name", "way"), [(name, way) for name in PAIRS for way in WAYS])
def test_a_family_converts_both_ways_and_computes_the_same(name: str, way: str) -> None:
    pair, side = built(name)
    found = survey(pair, way, side)
    assert found.outcome == "right", "\n".join([str(found), *found.problems[:40]])
