"""Habits: what nearly every author does, and no metadata shows: pairs that rest on one are assumptions, and say so.

Of two recurrent layers that one side calls forward and backward and the other counts, the forward one comes first; of the two
norms of a block, that of the attention comes before that of what follows it, and that of the input before one after something.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from stateregistry.alignment.containers import Item, Tied, in_order
from stateregistry.alignment.evidence.population import Around, Counts
from stateregistry.alignment.lexicon import SIDES
from stateregistry.alignment.model import View, is_automatic

_REVERSE: Final = "reverse"
#: What the norms of a block belong to, in the order in which blocks are written.
_BLOCK: Final = (frozenset({"attention"}), frozenset({"mlp", "moe"}))
#: What is before all else in a block, and what comes after some of it.
_SIDES: Final = ("input", "post")


def by_habit(xs: Sequence[Item], ys: Sequence[Item], around: Around) -> list[Tied]:
    """Two items that one side counts and the other names, or two norms that both name, in the order of habit.

    Args:
        xs, ys: the items. source, target: the sides.
        population: what else their names count, on either side: a name that counts layers of every kind has no habit.
    """
    if len(xs) != 2 or len(ys) != 2:
        return []
    for number, (counted, named, view, _) in enumerate(around.ways(xs, ys)):
        first = _in_numbers(counted, view, around.population.counts[number])
        second, why = _in_words(named)
        if first and second:
            pairs = zip(second, first, strict=True) if number else zip(first, second, strict=True)
            return [Tied(x, y, why, "assumption", counted=True, leaf=True) for x, y in pairs]
    if not all(item.vector for item in (*xs, *ys)):
        return []
    one, two = (_in_words(items)[0] or _to_the_end(items) for items in (xs, ys))
    if one and two:
        text = "two norms of a block, in the order that their names have by habit"
        return [Tied(x, y, text, "assumption") for x, y in zip(one, two, strict=True)]
    return []


def _to_the_end(items: Sequence[Item]) -> list[Item]:
    """The norm of the attention, then the final one of a block; against counted norms these names say nothing."""
    first = [item for item in items if "attention" in item.words and not item.words & SIDES]
    last = [item for item in items if item.words & SIDES == {"final"}]
    return [*first, *last] if len(first) == len(last) == 1 else []


def _in_numbers(items: Sequence[Item], view: View, counts: Counts) -> list[Item]:
    """Items of one name in the order of their numbers, if no order contradicts it and it counts nothing else."""
    if len({item.stems for item in items}) != 1 or len({item.numbers for item in items}) != len(items):
        return []
    if len({colour[0] for _, colour in counts.get(items[0].stems, ())}) > 1:
        return []
    first = sorted(items, key=lambda item: item.numbers)
    if first[0].numbers and not in_order(first, view) and view.called and all(map(_is_made, items)):
        return sorted(items, key=lambda item: item.call or 0)  # counted as they were made, and called in this order
    return first if first[0].numbers and in_order(first, view) else []


def _is_made(item: Item) -> bool:
    return item.single and item.call is not None and is_automatic(item.units[0])


def _in_words(items: Sequence[Item]) -> tuple[list[Item], str]:
    """Two items in the order that is usual for what they are called, with the reason; nothing if there is no such."""
    sides = [item.words & SIDES for item in items]
    if any(sides) and (sides[0] != sides[1] or len(sides[0]) != 1):
        return _in_sides(items)
    backward = [item for item in items if _REVERSE in item.words]
    if len(backward) == 1 and not items[0].vector:
        forward = next(item for item in items if item is not backward[0])
        return [forward, backward[0]], "two directions, counted on one side: the forward one comes first by habit"
    if all(item.vector for item in items):
        found = [[item for item in items if item.words & words] for words in _BLOCK]
        if all(len(each) == 1 for each in found) and found[0][0] is not found[1][0]:
            text = "norms, counted on one side: that of the attention comes before that of the mlp by habit"
            return [each[0] for each in found], text
    return [], ""


def _in_sides(items: Sequence[Item]) -> tuple[list[Item], str]:
    """The norm of the input of a block, then the one that comes after something in it. Of other sides nothing is usual."""
    found = [[item for item in items if item.words & SIDES == {word}] for word in _SIDES]
    if not all(len(each) == 1 and each[0].vector for each in found):
        return [], ""
    return [each[0] for each in found], "norms, counted on one side: that of the input comes first by habit"
