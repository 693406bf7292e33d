"""Owners: norms told by the convolutions or linears that they belong to, where those are decided and the norms are not.

A norm belongs to the one layer that shares its container, or whose name its own begins with, or that comes right before it
in the order of calls or of declaration, or else in its list. Only where that is so of every norm of a class, on both sides,
and each has another owner.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from stateregistry.alignment.colours import NORMS
from stateregistry.alignment.containers import Item, Tied, name_of
from stateregistry.alignment.evidence.population import Around
from stateregistry.alignment.lexicon import words_of
from stateregistry.alignment.model import Grade, View, worse

_KERNELS: Final = frozenset({"conv", "conv_transpose", "linear"})
_NORM: Final = frozenset({"norm"})
#: Above so many units in a scope nothing is looked at.
_MOST: Final = 512

#: For a norm the unit that it belongs to, and how sure that is.
_Owned = tuple[int, Grade]


def by_owner(xs: Sequence[Item], ys: Sequence[Item], around: Around) -> list[Tied]:
    """Norms whose owners are decided; nothing if one of them has none, or two have the same."""
    items = around.population.items
    if len(xs) != len(ys) or not xs or max(map(len, items)) > _MOST:
        return []
    if any(not item.single or item.units[0].colour[0] not in NORMS for item in (*xs, *ys)):
        return []
    mine, its = _owners(xs, items[0], around.source), _owners(ys, items[1], around.target)
    decided = {
        id(a.source.units[0]): (id(a.target.units[0]), a) for a in around.anchors if a.source.single and a.target.single
    }
    there = {owner: (item, grade) for item, (owner, grade) in its.items()}
    if len(mine) != len(xs) or len(there) != len(ys) or len({owner for owner, _ in mine.values()}) != len(xs):
        return []
    by_id = {id(item): item for item in (*xs, *ys)}
    found = []
    for item, (owner, grade) in mine.items():
        mate, anchor = decided.get(owner, (0, None))
        if anchor is None or mate not in there:
            return []
        other, its_grade = there[mate]
        sure = worse(worse(grade, its_grade), anchor.grade)
        text = f"the norm of {name_of(anchor.source)} = {name_of(anchor.target)}"
        found.append(Tied(by_id[item], by_id[other], text, sure, anchor.counted, anchor.leaf))
    return found


def torn_away(numbered: Sequence[Tied], around: Around) -> list[Tied]:
    """Norms as they belong, where numbers of modules that were counted as they were made say otherwise; else nothing.

    What is made first may be called last, so that `Block_0` holds the second convolution: its norm is the second one too.
    """
    xs, ys = [pair.source for pair in numbered], [pair.target for pair in numbered]
    if not any(_was_made(item) for item in (*xs, *ys)):
        return []
    owned = by_owner(xs, ys, around)
    said = {id(pair.source): pair.target for pair in owned}
    return owned if any(said.get(id(pair.source), pair.target) is not pair.target for pair in numbered) else []


def _was_made(item: Item) -> bool:
    """Whether a name on the way to an item was given by Linen, which counts what is made first."""
    return any(token.automatic for token in item.path)


def _owners(norms: Sequence[Item], items: Sequence[Item], view: View) -> Mapping[int, _Owned]:
    """The owner of each norm of one side that has one."""
    turn = _in_turn(items, view)
    place = {id(item): number for number, item in enumerate(turn)}
    found: dict[int, _Owned] = {}
    for norm in norms:
        named = [item for item in items if _is_kernel(item) and _named_after(norm, item)]
        if len(named) == 1:
            found[id(norm)] = id(named[0].units[0]), "certain"
            continue
        owner = _beside(norm, items)
        if owner is not None:
            # A norm before its convolution is one of another habit: what comes right after it is none of its own.
            if turn and place[id(owner)] > place[id(norm)]:
                continue
            found[id(norm)] = id(owner.units[0]), "certain" if turn else "assumption"
            continue
        before = turn[place[id(norm)] - 1] if turn and place[id(norm)] else None
        if before is not None and _is_kernel(before):
            called = view.called and before.call is not None
            found[id(norm)] = id(before.units[0]), "numbers" if called else "assumption"
        elif not turn and (earlier := _before_in_list(norm, items)) is not None:
            found[id(norm)] = id(earlier.units[0]), "assumption"
    return found


def _before_in_list(norm: Item, items: Sequence[Item]) -> Item | None:
    """The layer right before a norm in a list of layers of any kind (`conv/0`, `conv/1`), which is called in its order."""
    own = norm.path[-1] if norm.path else None
    if own is None or own.number is None or not (own.apart or not own.stem):
        return None
    earlier = [
        item
        for item in items
        if item.same[:-1] == norm.same[:-1]
        and (last := item.path[-1]).stem == own.stem
        and last.apart is own.apart
        and last.number is not None
        and last.number < own.number
    ]
    nearest = max(earlier, key=lambda item: item.path[-1].number or 0, default=None)
    return nearest if nearest is not None and _is_kernel(nearest) else None


def _in_turn(items: Sequence[Item], view: View) -> list[Item]:
    """The layers of a scope as they are called, or else as they are declared; nothing where neither is known."""
    layers = [item for item in items if item.units[0].layer is not None]
    if view.called and all(item.call is not None for item in layers):
        return sorted(layers, key=lambda item: item.call or 0)
    return sorted(layers, key=lambda item: item.place) if view.ordered else []


def _is_kernel(item: Item) -> bool:
    return item.units[0].colour[0] in _KERNELS


def _beside(norm: Item, items: Sequence[Item]) -> Item | None:
    """The one layer that shares the container of a norm, if nothing else does."""
    home = norm.same[:-1]
    near = [item for item in items if item is not norm and home and item.same[: len(home)] == home]
    return near[0] if len(near) == 1 and _is_kernel(near[0]) else None


def _named_after(norm: Item, item: Item) -> bool:
    """Whether a norm is called like a layer and `norm`: `conv3_norm` of `conv3`, `stem_bn` of `stem`."""
    if norm.same[:-1] == item.same and words_of(norm.path[-1].text) == _NORM:
        return True
    if norm.same[:-1] != item.same[:-1] or not item.path:
        return False
    whole, part = norm.path[-1], item.path[-1]
    rest = whole.text.removeprefix(f"{part.text}_")
    return bool(part.text) and whole.number == part.number and rest != whole.text and words_of(rest) == _NORM
