"""Levels: which of two numbers in a name counts what, where one side may count the blocks first and the other their places.

`wi_0/1` and `experts_1/wi_0` are one layer: the first matrix of the second expert. Numbers of two levels are compared level
by level only where something shows which level is which: a word before them, how far they count, or an order that is known.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

from stateregistry.alignment.containers import Item
from stateregistry.alignment.model import View
from stateregistry.alignment.ranks import ranks

#: How the doubt is told.
EITHER: Final = "which of two numbers counts what is not shown"


@final
@dataclass(frozen=True, slots=True)
class Level:
    """One number that sets items of a name apart.

    Attributes:
        word: what it counts; empty for a place in a list. numbers: that of every item, in their order.
    """

    word: str
    numbers: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return len(set(self.numbers))


def levels(items: Sequence[Item]) -> list[Level]:
    """The numbers that differ between items whose names differ in nothing else; nothing where their names do."""
    if len({tuple(token.stem for token in item.path) for item in items}) != 1:
        return []
    found = []
    for tokens in zip(*(item.path for item in items), strict=True):
        counted = [token.number for token in tokens if token.number is not None]
        if len(counted) == len(items) and len({*counted}) > 1:
            found.append(Level(tokens[0].stem.removesuffix("s"), tuple(counted)))
    return found


def crossed(xs: Sequence[Item], ys: Sequence[Item]) -> list[tuple[Item, Item]] | None:
    """Pairs of what both sides count by two numbers, one of which has one word on both sides and another place in the names.

    `None` where that is not so; empty where it is and the numbers do not fit.
    """
    one, two = levels(xs), levels(ys)
    if len(one) != 2 or len(two) != 2 or not _crosswise(one, two):
        return None
    keys = [_ranks(side) for side in (one, two)]
    mine = dict(zip(keys[0], xs, strict=True))
    its = {(second, first): item for (first, second), item in zip(keys[1], ys, strict=True)}
    return [(item, its[key]) for key, item in mine.items()] if mine.keys() == its.keys() else []


def unknown(xs: Sequence[Item], ys: Sequence[Item], source: View, target: View) -> bool:
    """Whether the numbers of single layers may be compared the other way round as well."""
    if not all(item.single for item in (*xs, *ys)):
        return False
    sides = levels(xs), levels(ys)
    if max(map(len, sides)) != 2 or not all(sides):
        return False
    doubtful = [
        len(side) == 2 and not _shows_order(items, view)
        for side, items, view in zip(sides, (xs, ys), (source, target), strict=True)
    ]
    if not any(doubtful):
        return False
    if len(sides[0]) != len(sides[1]):
        return True
    one, two = sides
    if any(a.word and a.word == b.word for a, b in zip(one, two, strict=True)):
        return False
    return one[0].size == one[1].size or [level.size for level in one] != [level.size for level in two]


def _crosswise(one: Sequence[Level], two: Sequence[Level]) -> bool:
    """Whether a word of the first level is that of the other side's second, and no level has one word on both sides."""
    if any(a.word and a.word == b.word for a, b in zip(one, two, strict=True)):
        return False
    return any(a.word and a.word == b.word for a, b in zip(one, reversed(two), strict=True))


def _ranks(side: Sequence[Level]) -> list[tuple[int, int]]:
    """The rank of the numbers of every item in each of two levels: sides may count from another number."""
    places = [ranks(level.numbers) for level in side]
    return [(places[0][a], places[1][b]) for a, b in zip(side[0].numbers, side[1].numbers, strict=True)]


def _shows_order(items: Sequence[Item], view: View) -> bool:
    """Whether calls or declarations show the order of items, which numbers that decide are held against anyway."""
    return view.ordered or (view.called and all(item.call is not None for item in items))


def in_turns(items: Sequence[Item]) -> bool:
    """Whether containers are called in turns: something of the second before the last of the first."""
    spans = []
    for item in items:
        calls = [unit.call for unit in item.units if unit.call is not None]
        if len(calls) != len(item.units):
            return False
        spans.append((min(calls), max(calls)))
    spans.sort()
    return any(last > first for (_, last), (first, _) in itertools.pairwise(spans))
