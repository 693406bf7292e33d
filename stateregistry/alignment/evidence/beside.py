"""Beside: what stands closest to a pair that is decided, on both sides.

Closeness is a container in common, words in common, or a number in common. Both sides have to be close in the same, and all
decided pairs have to agree; numbers say something of a neighbour only where both sides count the same from the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from stateregistry.alignment.containers import Item, Tied, in_order, name_of
from stateregistry.alignment.lexicon import SIDES, similarity
from stateregistry.alignment.model import View, worse

#: Above this many candidates nothing is told by what stands beside it.
BESIDE: Final = 12

Nearness = tuple[int, float, bool]


def _nearness(item: Item, anchor: Item, common: frozenset[str], *, words: bool) -> Nearness:
    """How much of their path is the same, how many words, and whether their number is."""
    depth = 0
    for one, two in zip(item.same[:-1], anchor.same[:-1], strict=False):
        if one != two:
            break
        depth += 1
    shared = similarity(item.raw - common, anchor.raw - common) if words else 0.0
    # A number says something beside the same number only: further away, or in a list, it counts something else.
    siblings = item.same[:-1] == anchor.same[:-1] and bool(item.path) and bool(anchor.path)
    if siblings and item.path[-1].apart and anchor.path[-1].apart and item.path[-1].stem == anchor.path[-1].stem:
        return depth + 1, shared, False
    siblings = siblings and item.path[-1].apart is anchor.path[-1].apart
    return (depth, shared, siblings and bool(item.numbers) and item.numbers == anchor.numbers)


def _closest(items: Sequence[Item], anchor: Item, *, words: bool) -> tuple[Item, bool] | None:
    """The one strictly closest to an anchor, and whether by its container or by words: else it is by a number alone."""
    # What all of them are called says nothing of one: `norm` is no nearer to `epsilon` than `mlp_norm`, only shorter.
    common = frozenset.intersection(*(item.raw for item in items))
    near = [_nearness(item, anchor, common, words=words) for item in items]
    scores = [depth + 0.5 * shared + 0.4 * number for depth, shared, number in near]
    best = max(scores)
    at = scores.index(best)
    if scores.count(best) > 1 or best <= 0:
        return None
    others = [one for n, one in enumerate(near) if n != at]
    depth, shared = (max((one[0] for one in others), default=0), max((one[1] for one in others), default=0.0))
    return items[at], near[at][0] > depth or near[at][1] > shared  # what all of them share says nothing of one


def beside(xs: Sequence[Item], ys: Sequence[Item], anchors: Sequence[Tied], source: View, target: View) -> list[Tied]:
    """What stands closest to a decided one on both sides, if all that are decided agree.

    Both have to be close in the same: a word that one shares with its neighbour says nothing of a number on the other side.
    A number that runs against the order of its side says nothing of a neighbour's.
    """
    found: dict[int, Tied] = {}
    taken: dict[int, Tied] = {}
    words = not any(item.words & SIDES for item in (*xs, *ys))
    for anchor in anchors:
        one, two = (_closest(xs, anchor.source, words=words), _closest(ys, anchor.target, words=words))
        if one is None or two is None or one[1] is not two[1]:
            continue
        if not one[1] and len(one[0].numbers) != len(two[0].numbers):
            continue  # one counts what a block holds, the other blocks
        if not one[1] and _rank(one[0], xs) != _rank(two[0], ys):
            continue  # counted from elsewhere on one side: the same number is another one
        if not one[1] and not (_runs(one[0], xs, source) and _runs(two[0], ys, target)):
            continue
        x, y = one[0], two[0]
        if _may_be_turned(x, y, xs, ys, anchor, anchors):
            continue
        text = f"beside {name_of(anchor.source)} = {name_of(anchor.target)}"
        # What stands beside it by its number alone is as sure as a number is.
        by_number = not one[1]
        grade = worse(anchor.grade, "numbers") if by_number else anchor.grade
        made = Tied(x, y, text, grade, counted=by_number, leaf=by_number and x.single and y.single)
        for known in (found.get(id(x)), taken.get(id(y))):
            if known is not None and (known.source is not x or known.target is not y):
                return []
        if id(x) not in found or anchor.grade == "certain":
            found[id(x)] = taken[id(y)] = made
    return list(found.values())


def _may_be_turned(
    x: Item, y: Item, xs: Sequence[Item], ys: Sequence[Item], anchor: Tied, anchors: Sequence[Tied]
) -> bool:
    """Whether what is a container on one side may be a list of one layer of each container on the other.

    `fc1/0`, `fc1/1` are no neighbours as `stage0/in`, `stage0/out` are: `stage1/in` has as much in common with `stage0/in`.
    Layers of two kinds stand in one container only where they belong together, and two decided pairs say that containers are
    partners.
    """
    if not (x.single and y.single and anchor.source.single and anchor.target.single):
        return False
    kinds = {item.units[0].colour[0] for item in (x, y, anchor.source, anchor.target)}
    if len(kinds) > 1:
        return False
    homes = anchor.source.same[:-1], anchor.target.same[:-1]
    if all(homes) and any(
        other is not anchor and (other.source.same[:-1], other.target.same[:-1]) == homes for other in anchors
    ):
        return False
    return any(
        other is not item and _crosses(other, own)
        for item, own, items in ((x, anchor.source, xs), (y, anchor.target, ys))
        for other in items
    )


def _crosses(item: Item, anchor: Item) -> bool:
    """Whether an item that is named as deep as an anchor has the same name as that, or its number, in another container."""
    if len(item.path) != len(anchor.path) or not item.path:
        return False
    one, two = item.path[-1], anchor.path[-1]
    if one.same == two.same:
        return item.same != anchor.same
    return one.number is not None is not two.number and (one.number == two.number or one.stem == two.stem)


def _runs(item: Item, items: Sequence[Item], view: View) -> bool:
    """Whether those of the name of an item are declared or called in the order of their numbers."""
    return in_order(sorted((one for one in items if one.stems == item.stems), key=lambda one: one.numbers), view)


def _rank(item: Item, items: Sequence[Item]) -> int:
    """Which of those of its name an item is."""
    return sum(other.numbers < item.numbers for other in items if other.stems == item.stems)
