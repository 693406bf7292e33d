"""Sequence: layers that one side counts, told by the calls of the other, where the whole scope comes in one order.

Kernels of one size may be called in any order. Where every layer of a scope is declared on one side in the order of kinds and
sizes in which the other calls them, and something decided stands between any two of them, they have only one place each.
"""

from __future__ import annotations

import itertools
from bisect import bisect
from collections.abc import Sequence
from typing import Final

from stateregistry.alignment.containers import Item, Tied, in_order
from stateregistry.alignment.evidence.counting import called_alike, counted_by
from stateregistry.alignment.evidence.population import Around
from stateregistry.alignment.model import View

#: Above so many units in a scope nothing is looked at.
_MOST: Final = 512


def in_sequence(xs: Sequence[Item], ys: Sequence[Item], around: Around) -> list[Tied]:
    """What one side counts, at the place that it has among the calls of the other."""
    if len(xs) < 2 or len(xs) != len(ys) or not all(item.single for item in (*xs, *ys)):
        return []
    return _in_line(xs, ys, around) or _one_by_one(xs, ys, around)


def _in_line(xs: Sequence[Item], ys: Sequence[Item], around: Around) -> list[Tied]:
    """Where all that a scope holds comes in one order on both sides."""
    pairs = {
        id(a.source.units[0]): id(a.target.units[0]) for a in around.anchors if a.source.single and a.target.single
    }
    back = {its: mine for mine, its in pairs.items()}
    for own, (counted, called, view, other) in enumerate(around.ways(xs, ys)):
        lines = _line(around.population.items[own], view), _line(around.population.items[1 - own], other)
        mates = back if own else pairs
        if not other.called or not lines[0] or not _same(lines, mates) or not _numbered(counted, view):
            continue
        names = {item.stems for item in counted}
        if not all(_in_turn(lines[0], name) for name in names):
            continue  # these numbers count others too, and those in another order
        places = {id(item.units[0]): place for place, item in enumerate(lines[0])}
        if not all(id(item.units[0]) in places for item in counted):
            continue
        chosen = sorted(counted, key=lambda item: places[id(item.units[0])])
        decided = [id(item.units[0]) in mates for item in lines[0]]
        taken = [places[id(item.units[0])] for item in chosen]
        if not all(any(decided[one + 1 : two]) for one, two in itertools.pairwise(taken)):
            continue  # they follow one another: gate and up are called in any order
        by_unit = {id(item.units[0]): item for item in called}
        found = [by_unit.get(id(lines[1][place].units[0])) for place in taken]
        both = [(one, two) for one, two in zip(chosen, found, strict=True) if two is not None]
        if len(both) != len(chosen):
            continue
        text = "by number on one side and by call on the other, as all layers around them"
        return [Tied(*(pair[::-1] if own else pair), text, "numbers", counted=True, leaf=True) for pair in both]
    return []


def _one_by_one(xs: Sequence[Item], ys: Sequence[Item], around: Around) -> list[Tied]:
    """Kernels that one side counts, in an order that it does not show, as the other calls them with something decided between.

    What is called right after another may read the same (gate and up); what is called after its norm reads what it gave. That
    authors count in this order is a habit.
    """
    if any(item.vector for item in (*xs, *ys)):
        return []
    for own, (counted, called, view, other) in enumerate(around.ways(xs, ys)):
        rows = [(item.call, item) for item in called if item.call is not None]
        if view.called or view.ordered or not other.called or len(rows) != len(called) or not _numbered(counted, view):
            continue
        decided = sorted(
            unit.call
            for a in around.anchors
            for unit in ((a.source, a.target)[1 - own].units[0],)
            if (a.source, a.target)[1 - own].single and unit.call is not None
        )
        rows.sort(key=lambda row: row[0])
        if any(bisect(decided, one) == bisect(decided, two) for (one, _), (two, _) in itertools.pairwise(rows)):
            continue
        if not called_alike(counted_by(counted, around.population.counts[own]), around.population.calls[1 - own]):
            continue
        first = sorted(counted, key=lambda item: item.numbers)
        text = "by number on one side, whose order is not known, and by call on the other, with others between"
        pairs = zip(first, (item for _, item in rows), strict=True)
        return [Tied(*(pair[::-1] if own else pair), text, "assumption", counted=True, leaf=True) for pair in pairs]
    return []


def _line(items: Sequence[Item], view: View) -> list[Item]:
    """The layers of a scope as they are called or declared; nothing if that is not known of all."""
    layers = [item for item in items if item.units[0].layer is not None]
    if len(layers) > _MOST:
        return []
    if view.called:
        known = all(item.call is not None for item in layers)
        return sorted(layers, key=lambda item: item.call or 0) if known else []
    return sorted(layers, key=lambda item: item.place) if view.ordered else []


def _in_turn(line: Sequence[Item], name: tuple[str, ...]) -> bool:
    """Whether all that a name counts stands in the order of its numbers."""
    numbers = [item.numbers for item in line if item.stems == name]
    return numbers == sorted(numbers)


def _same(lines: tuple[Sequence[Item], Sequence[Item]], mates: dict[int, int]) -> bool:
    """Whether two lines have the same colours, and what is decided stands at the same places."""
    one, two = lines
    return len(one) == len(two) and all(
        a.units[0].colour == b.units[0].colour and mates.get(id(a.units[0]), id(b.units[0])) == id(b.units[0])
        for a, b in zip(one, two, strict=True)
    )


def _numbered(items: Sequence[Item], view: View) -> bool:
    """Whether a number of one name sets the items apart, and they stand in the order of their numbers."""
    first = sorted(items, key=lambda item: item.numbers)
    for one, two in itertools.pairwise(first):
        step = next(((a, b) for a, b in zip(one.path, two.path, strict=False) if a.same != b.same), None)
        if step is None or step[0].stem != step[1].stem or None in (step[0].number, step[1].number):
            return False
    return in_order(first, view)
