"""Counting: which of several items is which by their numbers, and by the calls of a side whose names do not count.

Numbers are evidence where nothing but a number of one name sets the items of a side apart, no order that is known contradicts
them, and both sides count the same. Calls tell norms, and kernels that were counted as modules were made.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect
from collections import Counter
from collections.abc import Sequence
from typing import Final

from stateregistry.alignment.colours import Colour
from stateregistry.alignment.containers import Item, Tied, in_order
from stateregistry.alignment.evidence.levels import EITHER, crossed, in_turns, unknown
from stateregistry.alignment.evidence.population import Around, Counts
from stateregistry.alignment.evidence.shown import shown
from stateregistry.alignment.model import Grade, View, is_automatic

#: What blocks are called: a name that counts them inside of what else is counted holds one layer of each.
_BLOCKS: Final = frozenset({"block", "layer", "stage", "cell", "level", "expert"})
#: More norms than this are more than those of one block.
_NORMS: Final = 4


def chained(xs: Sequence[Item], ys: Sequence[Item]) -> list[tuple[Item, Item]] | None:
    """Both sides in the order of their numbers, where nothing but a number of one name sets any two of a side apart.

    What comes after that number says no more: blocks may call what they hold as they like.
    """
    both = _sorted(xs), _sorted(ys)
    return list(zip(*both, strict=True)) if _are_counted(both[0]) and _are_counted(both[1]) else None


def _counted_apart(one: Item, two: Item) -> bool:
    """Whether the first step in which two paths differ is one name with two numbers."""
    for a, b in zip(one.path, two.path, strict=False):
        if a.same != b.same:
            return a.stem == b.stem and a.number is not None and b.number is not None
    return False


def by_numbers(xs: Sequence[Item], ys: Sequence[Item], around: Around) -> tuple[list[Tied], str]:
    """Pairs in the order of their numbers, and why there are none although both sides are counted."""
    if not xs or len(xs) != len(ys):
        return [], ""
    chain = chained(xs, ys)
    if chain is None:
        return [], ""
    turned = crossed([x for x, _ in chain], [y for _, y in chain])
    if turned is not None:
        return counted(turned, "by the numbers of their words"), "their names count two things, which do not fit"
    ordered = in_order([x for x, _ in chain], around.source) and in_order([y for _, y in chain], around.target)
    if not ordered and not shown(chain, around.anchors, around.population):
        return ([], "their numbers contradict the order in which they are declared or called")
    containers = not chain[0][0].single and not chain[0][1].single
    if containers and _crosswise(*chain[0]):
        return [], "both sides count the same two, one in the other, the other way round"
    if not _count_alike(counted_by(xs, around.population.counts[0]), counted_by(ys, around.population.counts[1])):
        return [], "their names count other layers in another order on either side"
    found = counted(
        chain, "by number" if ordered else "by number, as what is decided of their names or of names beside them"
    )
    crossing = containers and _half_crosswise(*chain[0])
    if any(
        _may_be_turned([pair[side] for pair in chain], view, around.population.counts[side], crossing=crossing)
        for side, view in enumerate((around.source, around.target))
    ):
        found = _assumed(found, "by number; a list may hold one of each block, or all of one")
    elif unknown(xs, ys, around.source, around.target):
        found = _assumed(found, f"by number; {EITHER}")
    return found, ""


def _assumed(pairs: Sequence[Tied], text: str) -> list[Tied]:
    return [Tied(each.source, each.target, text, "assumption", each.counted, each.leaf) for each in pairs]


def _may_be_turned(items: Sequence[Item], view: View, counts: Counts, *, crossing: bool) -> bool:
    """Whether lists that are numbered by their names (`conv1/0`, `conv2/0`) may be counted the other way round as well.

    A side whose calls are known shows its order, unless it calls its lists in turns. Else sizes show it, where the other
    order does not have the same ones.
    """
    turns = view.called and in_turns(items)
    if view.called and not turns and all(item.call is not None for item in items):
        return False
    if not any(item.single for item in items):
        rows_of = [_places(item, named=crossing or turns) for item in items]
        return len(items) > 1 and all(len(row) == len(items) for row in rows_of) and _is_symmetric(rows_of)
    grid = [place for item in items if (place := _listed(item)) is not None]
    if len(grid) < len(items) or any(len({place[n] for place in grid}) < 2 for n in (0, 1)):
        return False
    rows = counted_by(items, counts) or [(item.numbers, item.units[0].colour) for item in items]
    if math.prod(len(set(values)) for values in zip(*(numbers for numbers, _ in rows), strict=False)) != len(rows):
        return False  # lists by place have one layer of every block
    turned = sorted(rows, key=lambda row: row[0][::-1])
    return [colour for _, colour in sorted(rows, key=lambda row: row[0])] == [colour for _, colour in turned]


def _listed(item: Item) -> tuple[int, int] | None:
    """The number that the name of a list ends in, and the place in the list."""
    for name, place in itertools.pairwise(item.path):
        if name.number is not None and not name.apart and not place.stem and place.number is not None:
            return name.number, place.number
    return None


def _places(item: Item, *, named: bool) -> list[Colour]:
    """The colours of a list that is numbered by its name and holds single layers alone, by their places; else none.

    The places of a list of one layer of each block may be `named`, and are where they are named after blocks (`fc0_block1`).
    """
    depth = item.depth + len(item.path)
    inner = [unit.tokens[depth:] for unit in item.units]
    if item.path[-1].number is None or item.path[-1].apart or any(len(path) != 1 for path in inner):
        return []
    names = {path[0].stem for path in inner}
    if len(names) != 1 or any(path[0].number is None for path in inner):
        return []
    if names != {""} and not named and not (names <= _BLOCKS and item.path[-1].stem not in _BLOCKS):
        return []
    return [unit.colour for unit in sorted(item.units, key=lambda unit: unit.tokens[-1].number or 0)]


def _is_symmetric(rows: Sequence[Sequence[Colour]]) -> bool:
    return all(rows[i][j] == rows[j][i] for i in range(len(rows)) for j in range(i))


def _crosswise(x: Item, y: Item) -> bool:
    """Whether containers are counted by what counts inside of their partners, and their partners by what counts in them.

    `heads/0/layers/1` and `layer_1_head_0`: the first number of one is the second of the other.
    """
    (mine, inside), (its, within) = _counters(x), _counters(y)
    if not mine or not its or mine == its:
        return False
    # A list that is numbered by its name (`wi_0/1`) holds one of each of what the other side counts outside.
    listed = [not item.path[-1].apart and "" in each for item, each in ((x, inside), (y, within))]
    return (mine in within and (its in inside or listed[0])) or (its in inside and listed[1])


def _half_crosswise(x: Item, y: Item) -> bool:
    """Whether what counts containers on one side counts what is inside of them on the other."""
    (mine, inside), (its, within) = _counters(x), _counters(y)
    return mine != its and ((bool(mine) and mine in within) or (bool(its) and its in inside))


def _counters(item: Item) -> tuple[str, set[str]]:
    """What a container is counted by, and what counts inside of it; singular and plural are one."""
    own = next((token.stem for token in reversed(item.path) if token.number is not None), "")
    depth = item.depth + len(item.path)
    inner = {token.stem for unit in item.units for token in unit.tokens[depth:] if token.number is not None}
    return own.removesuffix("s"), {stem.removesuffix("s") for stem in inner}


def counted_by(items: Sequence[Item], counts: Counts) -> list[tuple[tuple[int, ...], Colour]]:
    """Everything that the names of some items count in the scope."""
    return [each for stems in dict.fromkeys(item.stems for item in items) for each in counts.get(stems, ())]


def _count_alike(one: Sequence[tuple[tuple[int, ...], Colour]], two: Sequence[tuple[tuple[int, ...], Colour]]) -> bool:
    """Whether two names count what both of them count in the same order."""
    return _come_alike(_in_turns(one), _in_turns(two))


def called_alike(rows: Sequence[tuple[tuple[int, ...], Colour]], others: Sequence[Colour]) -> bool:
    """Whether names count what is on both sides in the order in which the other side has it."""
    return _come_alike(_in_turns(rows), [[colour] for colour in others])


def _in_turns(rows: Sequence[tuple[tuple[int, ...], Colour]]) -> list[list[Colour]]:
    """The colours of each number, in the order of numbers: two names of one number have no order (`0/conv`, `0/proj`)."""
    turns: dict[tuple[int, ...], list[Colour]] = {}
    for number, colour in rows:
        turns.setdefault(number, []).append(colour)
    return [turns[number] for number in sorted(turns)]


def _come_alike(one: Sequence[Sequence[Colour]], two: Sequence[Sequence[Colour]]) -> bool:
    """Whether what both sides have comes in the same order, as far as either has an order."""
    shared = {colour for turn in one for colour in turn} & {colour for turn in two for colour in turn}
    first, second = ([[colour for colour in turn if colour in shared] for turn in side] for side in (one, two))
    if not shared:
        return True
    ends = [list(itertools.accumulate(map(len, side))) for side in (first, second)]
    if ends[0][-1:] != ends[1][-1:]:
        return False
    flat = [[colour for turn in side for colour in turn] for side in (first, second)]
    steps = [0, *sorted({*ends[0]} & {*ends[1]})]
    return all(Counter(flat[0][a:b]) == Counter(flat[1][a:b]) for a, b in itertools.pairwise(steps))


def by_call(xs: Sequence[Item], ys: Sequence[Item], around: Around) -> list[Tied]:
    """What one side counts, in the order in which the other side calls it.

    Norms, whatever they are called there: a block normalises one after another, unless what is decided around them stands in
    another order than it is called. Of kernels it is evidence only where they are one name that was counted as modules were
    made: those with names of their own (gate and up) are called in any order.
    Numbers that an author gave and that run against the calls are no mistake: these may be equal numbers on both sides.
    """
    if not xs or not all(item.single for item in (*xs, *ys)):
        return []
    norms = len(xs) <= _NORMS and all(item.vector for item in (*xs, *ys))
    for side, (own, others, view, other) in enumerate(around.ways(xs, ys)):
        if not other.called or any(item.call is None for item in others):
            continue
        first, made = _sorted(own), _are_counted(_sorted(others))
        if not _are_counted(first) or not in_order(first, view) or not (norms or made):
            continue
        if made and (in_order(_sorted(others), other) or not all(is_automatic(item.units[0]) for item in others)):
            continue
        if not called_alike(counted_by(own, around.population.counts[side]), around.population.calls[1 - side]):
            continue
        chain = list(zip(first, sorted(others, key=lambda item: item.call or 0), strict=True))
        if _crossed(chain, around.anchors, view, side):
            continue
        pairs = chain if own is xs else [(y, x) for x, y in chain]
        evidence = f"{'norms, ' if norms else ''}by number on one side and by call on the other"
        grade: Grade = "assumption" if made else "numbers"
        if made:
            evidence = f"{evidence}, where they were counted as they were made"
        return [Tied(x, y, evidence, grade, counted=True, leaf=True) for x, y in pairs]
    return []


def _crossed(chain: Sequence[tuple[Item, Item]], anchors: Sequence[Tied], view: View, side: int) -> bool:
    """Whether what is decided between counted items is called in another order: what they serve was added later, or moved.

    XCiT counts `norm1, attn, norm2, mlp, norm3, local` and calls the third before the second.
    """
    if not view.ordered and not view.called:
        return False
    counted_at, called_at = [_position(item, view) for item, _ in chain], [item.call or 0 for _, item in chain]
    rows = sorted(
        (bisect(counted_at, _position(own, view)), bisect(called_at, other.call))
        for own, other in ((a.source, a.target)[:: -1 if side else 1] for a in anchors)
        if own.single and other.single and other.call is not None
    )
    highest = itertools.accumulate((called for _, called in rows), max)
    last = {counted: high for (counted, _), high in zip(rows, highest, strict=True)}
    return any(high > called for counted, called in rows for before, high in last.items() if before < counted)


def _position(item: Item, view: View) -> int:
    """Where an item is called, or else declared."""
    return item.call if view.called and item.call is not None else item.place


def _sorted(items: Sequence[Item]) -> list[Item]:
    return sorted(items, key=lambda item: item.numbers)


def _are_counted(items: Sequence[Item]) -> bool:
    """Whether nothing but a number sets one of them, in their order, apart from the next."""
    return all(_counted_apart(one, two) for one, two in itertools.pairwise(items))


def counted(chain: Sequence[tuple[Item, Item]], evidence: str) -> list[Tied]:
    """Pairs by number; of single units, if their own numbers differ on either side."""
    own = [{item.path[-1].number for item in side if item.single and item.path} for side in zip(*chain, strict=True)]
    leaf = any(len(numbers) > 1 for numbers in own)
    return [Tied(x, y, evidence, "numbers", counted=True, leaf=leaf) for x, y in chain]
