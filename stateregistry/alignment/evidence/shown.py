"""Shown: the way in which numbers run, where the order of calls contradicts them and a size that is decided confirms them.

A feature pyramid is called from the top down, and its levels are counted from the bottom up by every author. Where one layer
of two names is decided by its size at the same place of both, and would not be if one of them ran down, the numbers outrank
the calls; so they do for names that count the same beside these, in the same order of calls. Never what was counted as it
was made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stateregistry.alignment.containers import Item, Tied
from stateregistry.alignment.evidence.population import Population
from stateregistry.alignment.model import is_automatic
from stateregistry.alignment.ranks import ranks, run_alike

#: A name that counts single layers, with what it is in; what is inside of a counted step is part of the name.
_Name = tuple[tuple[tuple[str, int | None], ...], tuple[str, ...]]


def shown(chain: Sequence[tuple[Item, Item]], anchors: Sequence[Tied], population: Population) -> bool:
    """Whether something decided shows that the numbers of a chain of single layers run one way on both sides."""
    if not all(item.single for pair in chain for item in pair) or any(
        is_automatic(item.units[0]) for pair in chain for item in pair
    ):
        return False
    counted = [_counted([pair[side] for pair in chain]) for side in (0, 1)]
    if None in counted:
        return False
    held = [
        _held(items, [(anchor.source, anchor.target)[side] for anchor in anchors])
        for side, items in enumerate(population.items)
    ]
    own = [name for name in counted if name is not None]
    ranges = [frozenset(held[side].get(own[side], ())) for side in (0, 1)]
    if len(ranges[0]) != len(ranges[1]) or len(ranges[0]) < len(chain):
        return False
    rows: dict[tuple[_Name, _Name], set[tuple[int, int]]] = {}
    for anchor in anchors:
        if anchor.grade == "certain" and anchor.source.single and anchor.target.single:
            one, two = _name(anchor.source), _name(anchor.target)
            if one is not None and two is not None:
                rows.setdefault((one[0], two[0]), set()).add((one[1], two[1]))
    both = own[0], own[1]
    mine = {pair for pair in rows if pair[0] == both[0] or pair[1] == both[1]}
    if mine - {both}:
        return False  # something that one of them counts is what another name counts there
    told = [both] if mine else [pair for pair in rows if _beside(pair, both, held, ranges)]
    return bool(told) and all(run_alike(rows[pair], ranks(ranges[0]), ranks(ranges[1])) for pair in told)


def _beside(
    pair: tuple[_Name, _Name],
    both: tuple[_Name, _Name],
    held: Sequence[Mapping[_Name, Mapping[int, Item]]],
    ranges: Sequence[frozenset[int]],
) -> bool:
    """Whether two names stand where two others do, count the same, and come in the same order on each side."""
    return all(
        pair[side][0] == both[side][0]
        and frozenset(held[side].get(pair[side], ())) == ranges[side]
        and _order(held[side][pair[side]]) == _order(held[side][both[side]])
        for side in (0, 1)
    )


def _order(items: Mapping[int, Item]) -> tuple[int, ...]:
    """The numbers of a name as its layers are called, or else declared."""
    known = all(item.call is not None for item in items.values())
    places = {number: (item.call or 0) if known else item.place for number, item in items.items()}
    return tuple(sorted(places, key=lambda number: places[number]))


def _name(item: Item) -> tuple[_Name, int] | None:
    """The innermost counted name around an item, and its number."""
    depth = max((n for n, token in enumerate(item.path) if token.number is not None and token.stem), default=None)
    if depth is None:
        return None
    token = item.path[depth]
    return (item.same[:depth], (token.stem, *(str(step) for step in item.same[depth + 1 :]))), token.number or 0


def _counted(items: Sequence[Item]) -> _Name | None:
    """The one name that counts some items; `None` if there are several."""
    names = {name[0] if (name := _name(item)) is not None else None for item in items}
    return next(iter(names)) if len(names) == 1 else None


def _held(items: Sequence[Item], others: Sequence[Item]) -> Mapping[_Name, Mapping[int, Item]]:
    """What every name of a side counts, by its numbers."""
    found: dict[_Name, dict[int, Item]] = {}
    for item in (*items, *others):
        name = _name(item)
        if name is not None:
            found.setdefault(name[0], {})[name[1]] = item
    return found
