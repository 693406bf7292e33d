"""Blocks: which block a layer is of, where one side has containers and the other has flat names with the block's number.

`blocks/0/ln1` and `time_norm_0` are of one block if what is paired already says that `blocks/{n}` is `time_mixing_{n}`, and if
`time_norm` has the numbers of `time_mixing` beside it. A class is divided only as a whole: every block has to have as many on
both sides, and what is in no block too. Which is which inside of a block is for `ties` to say. Sides may count from other
numbers and in other steps (`blocks/2`, `blocks/5`), as long as they count as many and in one proportion.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, final

from stateregistry.alignment.containers import Item, Tied, in_order
from stateregistry.alignment.evidence.population import Around, Population
from stateregistry.alignment.model import Grade, View
from stateregistry.alignment.ranks import ranks

#: So many blocks have to be paired before their number says anything.
_LEAST: Final = 2
#: Above so many decided pairs, and so many more for each candidate, nothing is told by them.
_MOST: Final = 512
_EACH: Final = 64

#: The first name on the way to an item that has a number, with the names before it.
_Name = tuple[tuple[tuple[str, int | None], ...], str]
#: The numbers of every name of a side, each with its place among them, and the family of those that count blocks.
_Ranges = Mapping[_Name, Mapping[int, int]]
_Families = dict[_Name, int]


@final
@dataclass(frozen=True, slots=True)
class Part:
    """What a class has in one block or part of a model, or outside of all.

    Attributes:
        text, grade: what says that it belongs together, and how sure that is. xs, ys: as many on both sides.
        anchors: what is decided in it. population: what else it holds.
        counted: numbers say it. leaf: the numbers of single units.
    """

    text: str
    grade: Grade
    xs: Sequence[Item]
    ys: Sequence[Item]
    anchors: Sequence[Tied]
    population: Population
    counted: bool = False
    leaf: bool = False


def by_block(xs: Sequence[Item], ys: Sequence[Item], around: Around) -> list[Part]:
    """A class in parts of one block each, the last what is in none; empty where not all of it can be divided."""
    if len(xs) < _LEAST or len(around.anchors) > _MOST + _EACH * len(xs):
        return []
    here, there = around.population.items
    ranges = _ranges((*here, *xs), 0, around.anchors), _ranges((*there, *ys), 1, around.anchors)
    homes, crossed = _families(ranges, around.anchors)
    for side, items in enumerate((xs, ys)):
        if any((counter := _counter(item)) is not None and counter[0] in crossed[side] for item in items):
            return []  # what is paired of these blocks runs against their numbers
    divided = _divided((xs, ys), homes, ranges)
    blocks = [mark for mark in divided if mark is not None]
    if len(blocks) < _LEAST or any(len(one) != len(two) for one, two in divided.values()):
        return []
    for side, (items, view) in enumerate(((xs, around.source), (ys, around.target))):
        if not _in_turn(items, homes[side], ranges[side], view):
            return []
    outer = divided.get(None, ([], []))
    turns = _turns(xs, outer[0], around.source), _turns(ys, outer[1], around.target)
    if None not in turns and turns[0] != turns[1]:
        return []  # what is in no block comes before the blocks on one side and after them on the other
    known: dict[tuple[int, int] | None, list[Tied]] = {}
    for anchor in around.anchors:
        one, two = (_home(anchor.source, homes[0], ranges[0]), _home(anchor.target, homes[1], ranges[1]))
        if one == two:
            known.setdefault(one, []).append(anchor)
    held = _divided(around.population.items, homes, ranges)
    return [
        Part(
            "outside of all blocks" if mark is None else "by the number of the block", "numbers", one, two,
            known.get(mark, ()), Population(held.get(mark, ((), ()))), counted=True, leaf=mark is not None,
        )
        for mark, (one, two) in sorted(divided.items(), key=lambda each: (each[0] is None, each[0] or ()))
    ]  # fmt: skip


def _divided(
    items: tuple[Sequence[Item], Sequence[Item]], homes: tuple[_Families, _Families], ranges: tuple[_Ranges, _Ranges]
) -> dict[tuple[int, int] | None, tuple[list[Item], list[Item]]]:
    """The items of both sides by their blocks; under `None` those that are in none."""
    found: dict[tuple[int, int] | None, tuple[list[Item], list[Item]]] = {}
    for side, several in enumerate(items):
        for item in several:
            found.setdefault(_home(item, homes[side], ranges[side]), ([], []))[side].append(item)
    return found


def _counter(item: Item) -> tuple[_Name, int] | None:
    for depth, token in enumerate(item.path):
        if token.number is not None:
            return (item.same[:depth], token.stem), token.number
    return None


def _is_inside(item: Item, name: _Name) -> bool:
    """Whether what a name counts holds an item: a name that counts single layers on both sides counts no blocks."""
    return len(item.path) > len(name[0]) + 1 or not item.single


def _ranges(items: Sequence[Item], side: int, anchors: Sequence[Tied]) -> dict[_Name, dict[int, int]]:
    """The numbers that every name has in the scope, with their places."""
    found: dict[_Name, set[int]] = {}
    for item in (*items, *((anchor.source, anchor.target)[side] for anchor in anchors)):
        counter = _counter(item)
        if counter is not None:
            found.setdefault(counter[0], set()).add(counter[1])
    return {name: ranks(numbers) for name, numbers in found.items()}


def _families(
    ranges: tuple[_Ranges, _Ranges], anchors: Sequence[Tied]
) -> tuple[tuple[_Families, _Families], tuple[set[_Name], set[_Name]]]:
    """The names of either side that count the same blocks, by the number of a family; and those that run against another.

    Two names are of one family if what is decided of them says so for two numbers at least, and for none otherwise; a name of
    which nothing is decided, if it stands beside one of one family alone and has its numbers.
    """
    links: dict[tuple[_Name, _Name], dict[int, int]] = {}
    crossed: tuple[set[_Name], set[_Name]] = (set(), set())
    for anchor in anchors:
        one, two = _counter(anchor.source), _counter(anchor.target)
        if (
            one is not None
            and two is not None
            and (_is_inside(anchor.source, one[0]) or _is_inside(anchor.target, two[0]))
        ):
            both = one[0], two[0]
            if links.setdefault(both, {}).setdefault(one[1], two[1]) != two[1]:
                crossed[0].add(one[0])
                crossed[1].add(two[0])
    families: tuple[_Families, _Families] = ({}, {})
    for number, (both, row) in enumerate(links.items()):
        first, second = (ranges[side][both[side]] for side in (0, 1))
        if len(row) < _LEAST or not _count_alike(first, second, row):
            continue
        if any(first[i] != second[j] for i, j in row.items()):
            if len({b - a for a, b in zip(first, second, strict=True)}) == 1:  # else they count different things
                crossed[0].add(both[0])
                crossed[1].add(both[1])
            continue
        old = {families[side][name] for side, name in enumerate(both) if name in families[side]}
        families[0][both[0]] = families[1][both[1]] = number
        for family in families:
            family.update({name: number for name, known in family.items() if known in old})
    for side, family in enumerate(families):
        for name in crossed[side]:
            family.pop(name, None)
        _extend(family, ranges[side], crossed[side])
    return families, crossed


def _count_alike(first: Mapping[int, int], second: Mapping[int, int], row: Mapping[int, int]) -> bool:
    """Whether two names count equally many blocks in steps of one proportion, from any number on, or all of it is decided.

    Of other steps the places say nothing: the third of 0, 1, 4 need not be that of 2, 5, 6.
    """
    if len(first) != len(second) or len(row) == len(first):
        return len(first) == len(second)
    one, two = ([b - a for a, b in itertools.pairwise(numbers)] for numbers in (first, second))
    return all(a * two[0] == b * one[0] for a, b in zip(one, two, strict=True))


def _extend(family: _Families, ranges: _Ranges, crossed: set[_Name]) -> None:
    """Add the names that stand beside those of one family and have their numbers."""
    beside: dict[tuple[object, frozenset[int]], set[int]] = {}
    for name, number in family.items():
        beside.setdefault((name[0], frozenset(ranges[name])), set()).add(number)
    for name, numbers in ranges.items():
        found = beside.get((name[0], frozenset(numbers)), set())
        if name not in family and name not in crossed and len(found) == 1:
            family[name] = next(iter(found))


def _home(item: Item, families: _Families, ranges: _Ranges) -> tuple[int, int] | None:
    """The family and the place in it of the block that an item is of."""
    counter = _counter(item)
    if counter is None or counter[0] not in families:
        return None
    return families[counter[0]], ranges[counter[0]][counter[1]]


def _in_turn(items: Sequence[Item], families: _Families, ranges: _Ranges, view: View) -> bool:
    """Whether no order contradicts that of the blocks, in anything that several of them hold."""
    rows: dict[tuple[object, ...], list[tuple[int, Item]]] = {}
    for item in items:
        home, counter = _home(item, families, ranges), _counter(item)
        if home is not None and counter is not None:
            depth = len(counter[0][0])
            rows.setdefault((counter[0], item.same[depth + 1 :]), []).append((home[1], item))
    return all(in_order([item for _, item in sorted(row, key=lambda each: each[0])], view) for row in rows.values())


def _turns(items: Sequence[Item], outer: Sequence[Item], view: View) -> tuple[int, ...] | None:
    """How many items of blocks come before each of those that are in none; `None` where no order is known."""
    if view.called and all(item.call is not None for item in items):
        places = {id(item): item.call or 0 for item in items}
    elif view.ordered:
        places = {id(item): item.place for item in items}
    else:
        return None
    loose = {id(item) for item in outer}
    inside = [places[id(item)] for item in items if id(item) not in loose]
    return tuple(sorted(sum(place < places[id(item)] for place in inside) for item in outer))
