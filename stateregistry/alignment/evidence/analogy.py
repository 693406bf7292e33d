"""Analogy: what a counted name is, as far as some of what it counts is decided already.

Where `norm_2` is `layers/2/0` and `norm_3` is `layers/3/0`, `norm_1` is `layers/1/0`: two decided pairs at least have to
agree on one name of the other side and on one distance of the numbers, and no decided pair of the name may have another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from stateregistry.alignment.containers import Item, Tied

#: So many decided pairs say what a name is.
_LEAST: Final = 2
#: Above this many decided pairs in a scope nothing is told by them.
_MOST: Final = 512

#: A counted name, and which of its numbers counts.
_Name = tuple[tuple[str, ...], int, tuple[int, ...]]


def as_counted(xs: Sequence[Item], ys: Sequence[Item], anchors: Sequence[Tied]) -> list[Tied]:
    """Pairs of items whose names count on as they do in what is decided; none where two would have one partner.

    A name of either side: one that counts all layers of a model says nothing of the other's, but that may say where it goes on.
    """
    found = _counted_on(xs, ys, anchors)
    if found:
        return found
    turned = _counted_on(ys, xs, [Tied(each.target, each.source, each.evidence) for each in anchors])
    return [Tied(each.target, each.source, each.evidence, each.grade, each.counted, each.leaf) for each in turned]


def _counted_on(xs: Sequence[Item], ys: Sequence[Item], anchors: Sequence[Tied]) -> list[Tied]:
    if len(anchors) > _MOST:
        return []
    learned = _learned(anchors)
    there = {(item.stems, item.numbers): item for item in ys}
    found: dict[int, Tied] = {}
    taken: set[int] = set()
    for item in xs:
        mates: dict[int, Item] = {}
        for name in _names(item):
            for stems, at, rest, distance in learned.get(name, ()):
                number = item.numbers[name[1]] + distance
                other = there.get((stems, (*rest[:at], number, *rest[at:])))
                if other is not None:
                    mates[id(other)] = other
        if len(mates) == 1:
            other = next(iter(mates.values()))
            if id(other) in taken:
                return []
            taken.add(id(other))
            text = "counted on from what is paired"
            found[id(item)] = Tied(item, other, text, "numbers", counted=True, leaf=True)
    return list(found.values())


def _names(item: Item) -> Iterator[_Name]:
    """Every way to see an item as one of a counted name."""
    for at in range(len(item.numbers)):
        yield item.stems, at, (*item.numbers[:at], *item.numbers[at + 1 :])


def _learned(anchors: Sequence[Tied]) -> dict[_Name, list[tuple[tuple[str, ...], int, tuple[int, ...], int]]]:
    """What each counted name of the source is in the target, if all that is decided of it agrees."""
    votes: dict[_Name, list[tuple[Tied, set[tuple[tuple[str, ...], int, tuple[int, ...], int]]]]] = {}
    for anchor in anchors:
        for name in _names(anchor.source):
            number = anchor.source.numbers[name[1]]
            means = {(stems, at, rest, anchor.target.numbers[at] - number) for stems, at, rest in _names(anchor.target)}
            votes.setdefault(name, []).append((anchor, means))
    found = {}
    for name, several in votes.items():
        agreed = set.intersection(*(means for _, means in several))
        if len({anchor.source.numbers for anchor, _ in several}) >= _LEAST and len(agreed) == 1:
            found[name] = list(agreed)
    return found
