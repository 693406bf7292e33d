"""Folding: the tree of a model with what repeats said once: `conv{1..6}_BN x6`.

Siblings fold where their names differ in one number and what is below them has the same names, kinds, dtypes and
ranks. Sizes may differ: an axis that does is shown as `*`. A fold says exactly which names it stands for. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

from stateregistry import keys
from stateregistry.entry import Entry

#: Below this depth names are joined instead of nested: no model is so deep, but a hostile file may be.
MAX_DEPTH = 64

#: How many numbers of a name are looked at, and how long one is: a hostile name may be a million digits.
MAX_NUMBERS = 8
_NUMBER = re.compile(r"([0-9]{1,15})")
Sizes = tuple[int | None, ...]


@final
@dataclass(frozen=True, slots=True)
class Branch:
    """One line of the folded tree: a container, or an array.

    Attributes:
        name: the name of the line, a pattern such as `conv{1..6}` where it stands for several.
        times: how many siblings it stands for.
        tensors, elements, nbytes: totals over all of them.
        entry: one of the entries, `None` for a container.
        sizes: the shape of all of them, `None` for an axis where they differ.
        children: the lines below.
        keys: of the entries that an array stands for, in order; empty for a container.
    """

    name: str
    times: int
    tensors: int
    elements: int
    nbytes: int
    entry: Entry | None = None
    sizes: Sizes = ()
    children: tuple[Branch, ...] = ()
    form: object = field(default=None, repr=False)
    keys: tuple[str, ...] = ()


def fold(entries: Mapping[str, Entry], /) -> tuple[Branch, ...]:
    """The folded tree of some entries, in the natural order of names."""
    tree: dict[str, object] = {}
    for key, entry in entries.items():
        segments = key.split("/")
        if len(segments) > MAX_DEPTH:
            segments = [*segments[: MAX_DEPTH - 1], "/".join(segments[MAX_DEPTH - 1 :])]
        *parents, leaf = segments
        node = tree
        for parent in parents:
            below = node.setdefault(parent, {})
            assert isinstance(below, dict)  # the keys of a registry are prefix-free
            node = below
        node[leaf] = (key, entry)
    return _fold(tree)


def _fold(tree: Mapping[str, object]) -> tuple[Branch, ...]:
    if len(tree) == 1:  # a name alone has none to fold with; of the containers of a large file most are such
        ((name, below),) = tree.items()
        return (_branch(name, below),)
    branches = [_branch(name, tree[name]) for name in sorted(tree, key=keys.natural)]
    return tuple(_merged(branches))


def _branch(name: str, below: object) -> Branch:
    if isinstance(below, tuple):
        key, e = below
        assert isinstance(e, Entry)
        form = (e.kind, e.dtype, len(e.shape), e.trainable, e.persistent, e.concrete, e.rng)
        return Branch(name, 1, 1, e.size, e.nbytes, e, e.shape, form=form, keys=(key,))
    assert isinstance(below, dict)
    children = _fold(below)
    if len(children) == 1 and children[0].times == 1 and children[0].entry is None:
        only = children[0]  # a chain of containers is one line
        return Branch(
            f"{name}/{only.name}", 1, *_totals([only]), children=only.children, form=("in", only.form, only.name)
        )
    return Branch(name, 1, *_totals(children), children=children, form=tuple((c.name, c.form) for c in children))


def _totals(branches: Sequence[Branch]) -> tuple[int, int, int]:
    return (sum(b.tensors for b in branches), sum(b.elements for b in branches), sum(b.nbytes for b in branches))


def _merged(branches: Sequence[Branch]) -> Iterator[Branch]:
    """The branches with each family of alike siblings as one, at the place of its first member."""
    families: dict[tuple[int, object, object], list[tuple[int, Branch]]] = {}
    for index, branch in enumerate(branches):
        parts = _NUMBER.split(branch.name, maxsplit=MAX_NUMBERS)
        for place in range(1, len(parts), 2):
            family = (place, (*parts[:place], None, *parts[place + 1 :]), branch.form)
            families.setdefault(family, []).append((index, branch))
    taken: dict[int, Branch | None] = {}
    for (place, _, _), members in sorted(families.items(), key=lambda item: -len(item[1])):  # stable: the first first
        free = [(index, branch) for index, branch in members if index not in taken]
        pattern = _pattern([branch.name for _, branch in free], place) if len(free) > 1 else None
        if pattern is not None:
            taken |= dict.fromkeys((index for index, _ in free), None)
            taken[free[0][0]] = _join(pattern, [branch for _, branch in free])
    for index, branch in enumerate(branches):
        standing = taken.get(index, branch)
        if standing is not None:
            yield standing


def _pattern(names: Sequence[str], place: int) -> str | None:
    """The one spelling of names that differ in the number at `place`; `None` where none would say exactly which."""
    parts = [_NUMBER.split(name, maxsplit=MAX_NUMBERS) for name in names]
    inner = span([part[place] for part in parts])
    if inner is None:
        return None
    before, after = "".join(parts[0][:place]), "".join(parts[0][place + 1 :])
    return f"{before}{inner}{after}"


def span(digits: Sequence[str], /) -> str | None:
    """Spell numbers as they are written: `{1..6}`, `{0,2..10}`, `{1,2,10}`; `None` if too many for the last."""
    first, step = int(digits[0]), int(digits[1]) - int(digits[0])
    counted = [first + step * n for n in range(len(digits))]
    if step > 0 and digits == [f"{n:0{len(digits[0])}d}" for n in counted] and (step == 1 or len(digits) > 3):
        second = "" if step == 1 else f",{digits[1]}"
        return f"{{{digits[0]}{second}..{digits[-1]}}}"
    return f"{{{','.join(digits)}}}" if len(digits) <= 8 else None


def _join(name: str, branches: Sequence[Branch]) -> Branch:
    """One branch that stands for several of the same form."""
    first = branches[0]
    children = tuple(
        _join(child.name, [branch.children[index] for branch in branches]) for index, child in enumerate(first.children)
    )
    times = len(branches) if name != first.name else first.times
    standing = tuple(key for branch in branches for key in branch.keys)
    return Branch(
        name,
        times,
        *_totals(branches),
        first.entry,
        _common([b.sizes for b in branches]),
        children,
        first.form,
        standing,
    )


def _common(shapes: Sequence[Sizes]) -> Sizes:
    return tuple(axis[0] if len(set(axis)) == 1 else None for axis in zip(*shapes, strict=True))


def rows(lines: Sequence[tuple[str, ...]], /) -> list[tuple[str, ...]]:
    """Rows that differ in one number, by the same step wherever it stands, as one: `conv{1..6}/kernel`."""
    alike: dict[object, list[int]] = {}
    split = [tuple(_NUMBER.split(cell, maxsplit=MAX_NUMBERS) for cell in row) for row in lines]
    numbers = [[int(digits) for cell in row for digits in cell[1::2]] for row in split]
    for index, row in enumerate(split):
        alike.setdefault(tuple(tuple(cell[::2]) for cell in row), []).append(index)
    families: list[tuple[list[int], set[int]]] = []
    for members in alike.values():
        families += _families(members, numbers, split)
    folded = {members[0]: _joined(members, moving, lines, split, numbers) for members, moving in families}
    return [row for index in sorted(folded) for row in folded[index]]


def _families(
    members: list[int], numbers: Sequence[Sequence[int]], split: Sequence[tuple[list[str], ...]]
) -> list[tuple[list[int], set[int]]]:
    """Rows of one wording in as few families as one moving number gives, each with the places that it moves."""
    columns = list(zip(*(numbers[index] for index in members), strict=True))
    # What stands still is compared as it is written: `1` is not `01`.
    written = [[digits for cell in split[index] for digits in cell[1::2]] for index in members]
    varying = [place for place, column in enumerate(columns) if len(set(column)) > 1]
    best: list[tuple[list[int], set[int]]] = [([index], set()) for index in members]
    for driver in varying:
        moving, rest = {driver}, [[0] * len(members)]
        for place in varying:
            steps = [own - leading for own, leading in zip(columns[place], columns[driver], strict=True)]
            # What varies moves with the driver, or is one number in a family: whichever makes fewer of them.
            if len(set(steps)) < len(set(columns[place])):
                moving.add(place)
                rest.append(steps)
        still = [place for place in range(len(columns)) if place not in moving]
        parts: dict[object, list[int]] = {}
        for index, texts, key in zip(members, written, zip(*rest, strict=True), strict=True):
            parts.setdefault((key, tuple(texts[place] for place in still)), []).append(index)
        if len(parts) < len(best):
            best = [(part, moving) for part in parts.values()]
    return best


def _joined(
    members: Sequence[int],
    moving: set[int],
    lines: Sequence[tuple[str, ...]],
    split: Sequence[tuple[list[str], ...]],
    numbers: Sequence[Sequence[int]],
) -> list[tuple[str, ...]]:
    """The one row of a family, or all of them where no spelling says exactly which."""
    if len(members) == 1:
        return [lines[members[0]]]
    order = sorted(members, key=lambda index: [numbers[index][place] for place in sorted(moving)])
    cells, place = [], 0
    for column, first in enumerate(split[order[0]]):
        made = list(first)
        for part in range(1, len(first), 2):
            if place in moving:
                inner = span([split[index][column][part] for index in order])
                if inner is None:
                    return [lines[index] for index in members]
                made[part] = inner
            place += 1
        cells.append("".join(made))
    return [tuple(cells)]
