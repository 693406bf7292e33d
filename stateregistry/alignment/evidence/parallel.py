"""Parallel: lists side by side, where the other side has counted blocks that hold one of each.

`mixers/0`, `norms/0` are what `layers/0` holds elsewhere. Blocks that are paired already say which number is which; a list
counts only if its numbers are those of the list of blocks.
"""

from __future__ import annotations

from collections.abc import Sequence

from stateregistry.alignment.containers import Item, Tied


def in_parallel(xs: Sequence[Item], ys: Sequence[Item], anchors: Sequence[Tied]) -> list[Tied]:
    """What one side has inside of counted blocks and the other in a list beside the list of blocks, of the same numbers."""
    if len(xs) < 2:
        return []
    for inside, beside, own in ((xs, ys, 0), (ys, xs, 1)):
        blocks = [(a.source, a.target) if own == 0 else (a.target, a.source) for a in anchors]
        listed = _runs([other for _, other in blocks if other.path])
        homes = {_block(one): other for one, other in blocks if one.numbers}
        rows = _runs([item for item in beside if item.path])
        for stems, row in rows.items():
            for counted in listed.values():
                if row.keys() != counted.keys() or len(row) < 2 or stems in listed:
                    continue
                mates = {id(other): number for number, other in counted.items()}
                pairs: dict[int, tuple[Item, Item]] = {}
                twice = False
                for item in inside:
                    number = mates.get(id(homes[_block(item)])) if item.numbers and _block(item) in homes else None
                    if number is not None:
                        twice |= number in pairs
                        pairs[number] = (item, row[number])
                if pairs.keys() == row.keys() and not twice:
                    text = "lists side by side, by number"
                    both = (pair if own == 0 else pair[::-1] for pair in pairs.values())
                    return [Tied(x, y, text, "numbers", counted=True, leaf=x.single) for x, y in both]
    return []


def _block(item: Item) -> tuple[tuple[str, int | None], ...]:
    """The innermost counted container of an item, or itself."""
    return item.same[: max(n for n, token in enumerate(item.path, start=1) if token.number is not None)]


def _runs(items: Sequence[Item]) -> dict[tuple[str, ...], dict[int, Item]]:
    """Items of lists, by the name of the list and their number in it."""
    found: dict[tuple[str, ...], dict[int, Item]] = {}
    for item in items:
        last = item.path[-1]
        if last.apart and last.number is not None and len(item.numbers) == 1:
            found.setdefault(item.stems, {})[last.number] = item
    return found
