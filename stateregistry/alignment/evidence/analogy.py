"""Analogy: what a counted name is, as far as some of what it counts is decided already.

Where `norm_2` is `layers/2/0` and `norm_3` is `layers/3/0`, `norm_1` is `layers/1/0`: two decided pairs at least have to
agree on one name of the other side and on one distance of the numbers, and no decided pair of the name may have another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from stateregistry.alignment.containers import Item, Tied
from stateregistry.alignment.evidence.population import NOBODY, Counts, Population
from stateregistry.alignment.spelling import steps_of

#: So many decided pairs say what a name is.
_LEAST: Final = 2
#: Above this many decided pairs in a scope nothing is told by them.
_MOST: Final = 512

#: A counted name, and which of its numbers counts.
_Name = tuple[tuple[str, ...], int, tuple[int, ...]]
#: For every name its first number and its step, of the source and of the target.
_Steps = dict[_Name, tuple[int, int]]
_Both = tuple[_Steps, _Steps]


def as_counted(
    xs: Sequence[Item], ys: Sequence[Item], anchors: Sequence[Tied], population: Population = NOBODY
) -> list[Tied]:
    """Pairs of items whose names count on as they do in what is decided; none where two would have one partner.

    A name of either side: one that counts all layers of a model says nothing of the other's, but that may say where it goes on.
    A name that counts in steps of two or more, whatever it counts, is one that counts in ones.
    """
    if len(anchors) > _MOST:
        return []
    steps = [
        _steps([*items, *((each.source, each.target)[side] for each in anchors)], population.counts[side])
        for side, items in enumerate((xs, ys))
    ]
    found = _counted_on(xs, ys, anchors, (steps[0], steps[1]))
    if found:
        return found
    back = [Tied(each.target, each.source, each.evidence) for each in anchors]
    turned = _counted_on(ys, xs, back, (steps[1], steps[0]))
    return [Tied(each.target, each.source, each.evidence, each.grade, each.counted, each.leaf) for each in turned]


def _steps(items: Sequence[Item], counts: Counts) -> _Steps:
    """Where each name begins to count and in what steps, in all of a scope that it counts."""
    known = {stems: [item.numbers for item in several] for stems, several in _named(items).items()}
    numbers: dict[_Name, set[int]] = {}
    for stems, rows in known.items():
        for row in (*rows, *(row for row, _ in counts.get(stems, ()))):
            for at, number in enumerate(row):
                numbers.setdefault((stems, at, (*row[:at], *row[at + 1 :])), set()).add(number)
    return {name: (min(found), steps_of(found)) for name, found in numbers.items()}


def _named(items: Sequence[Item]) -> dict[tuple[str, ...], list[Item]]:
    found: dict[tuple[str, ...], list[Item]] = {}
    for item in items:
        found.setdefault(item.stems, []).append(item)
    return found


def _counted_on(xs: Sequence[Item], ys: Sequence[Item], anchors: Sequence[Tied], steps: _Both) -> list[Tied]:
    learned = _learned(anchors, steps)
    there = {(item.stems, item.numbers): item for item in ys}
    found: dict[int, Tied] = {}
    taken: set[int] = set()
    for item in xs:
        mates: dict[int, Item] = {}
        for name in _names(item):
            for stems, at, rest, distance in learned.get(name, ()):
                first, step = steps[1][stems, at, rest]
                number = first + step * (_turn(item.numbers[name[1]], steps[0][name]) + distance)
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


def _turn(number: int, step: tuple[int, int]) -> int:
    """Which of the steps of a name a number is."""
    return (number - step[0]) // step[1]


def _names(item: Item) -> Iterator[_Name]:
    """Every way to see an item as one of a counted name."""
    for at in range(len(item.numbers)):
        yield item.stems, at, (*item.numbers[:at], *item.numbers[at + 1 :])


def _learned(
    anchors: Sequence[Tied], steps: _Both
) -> dict[_Name, list[tuple[tuple[str, ...], int, tuple[int, ...], int]]]:
    """What each counted name of the source is in the target, if all that is decided of it agrees."""
    votes: dict[_Name, list[tuple[Tied, set[tuple[tuple[str, ...], int, tuple[int, ...], int]]]]] = {}
    for anchor in anchors:
        for name in _names(anchor.source):
            turn = _turn(anchor.source.numbers[name[1]], steps[0][name])
            means = {
                (*other, _turn(anchor.target.numbers[other[1]], steps[1][other]) - turn)
                for other in _names(anchor.target)
            }
            votes.setdefault(name, []).append((anchor, means))
    found = {}
    for name, several in votes.items():
        agreed = set.intersection(*(means for _, means in several))
        if len({anchor.source.numbers for anchor, _ in several}) >= _LEAST and len(agreed) == 1:
            found[name] = list(agreed)
    return found
