"""Containers: the parts of a model that hold several units, with what they hold as a signature.

An `Item` is what is paired at one level: a unit, or a container with all of its units. Two containers that hold the same
colours equally often may be one; which repeated one is which is for `ties` to say.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, final

from stateregistry.alignment.colours import Colour, is_vector
from stateregistry.alignment.lexicon import words
from stateregistry.alignment.model import Grade, Unit, View
from stateregistry.alignment.spelling import Token, Tokens, numbers, split_words, stems

#: Up to so many letters before a `2` it means "to".
_SHORT: Final = 2

Signature = tuple[tuple[int, int], ...]


@final
@dataclass(eq=False, slots=True)
class Item:
    """A unit or a container inside a scope.

    Attributes:
        units: what it holds. path: relative to the scope. single: it is a unit. depth: of the scope.
    """

    units: list[Unit]
    path: Tokens
    single: bool = False
    depth: int = 0
    words: frozenset[str] = field(init=False)
    raw: frozenset[str] = field(init=False)
    same: tuple[tuple[str, int | None], ...] = field(init=False)
    stems: tuple[str, ...] = field(init=False)
    numbers: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.words = words(self.path)
        self.raw = frozenset(word for token in self.path for word in said(token))
        self.same = tuple(token.same for token in self.path)
        self.stems, self.numbers = stems(self.path), numbers(self.path)

    @property
    def counts(self) -> tuple[str, ...]:
        """Every name with a number on the way from the scope to it: the names around it without their numbers, joined."""
        whole = self.units[0].tokens[: self.depth + len(self.path)]
        return tuple(
            counted_name(whole[: end + 1]) for end in range(self.depth, len(whole)) if whole[end].number is not None
        )

    @property
    def place(self) -> int:
        """Where it begins in the native order."""
        return min(unit.place for unit in self.units)

    @property
    def call(self) -> int | None:
        """Where it is called first; `None` where that is not known of all of it."""
        calls = [unit.call for unit in self.units]
        return None if None in calls else min(call for call in calls if call is not None)

    @property
    def vector(self) -> bool:
        """Whether it is a norm or a vector."""
        return self.single and is_vector(self.units[0].colour)


@final
@dataclass(frozen=True, slots=True)
class Tied:
    """Two items that are one.

    Attributes:
        counted: numbers decided. leaf: the numbers of single units, not of containers around them.
    """

    source: Item
    target: Item
    evidence: str
    grade: Grade = "certain"
    counted: bool = False
    leaf: bool = False


def in_order(items: Sequence[Item], view: View) -> bool:
    """Whether no order that the side has contradicts the order of the items."""
    calls = [item.call for item in items]
    if view.called and None not in calls:
        return all(a < b for a, b in itertools.pairwise(calls))  # type: ignore[operator]  # None was excluded
    places = [item.place for item in items]
    return not view.ordered or all(a <= b for a, b in itertools.pairwise(places))


def counted_name(path: Tokens) -> str:
    """What a counted name is called wherever its containers have other numbers."""
    return "/".join(token.stem or "#" for token in path)


def said(token: Token) -> list[str]:
    """The words that a name is written in: no numbers, and no letters that count like one (`conv1a`, `conv2b`, `a1`)."""
    found = split_words(token.text)
    words = [word for word in found if not word.isdigit()]
    if len(found[-1:]) and len(found[-1]) == 1 and words:
        before = found[-2] if len(found) > 1 else ""
        meant = before == "2" and len(found) > 2 and len(found[-3]) <= _SHORT  # `in2f` goes from one to the other
        if token.number is not None or (before.isdigit() and not meant):
            return words[:-1]
    return words


def name_of(item: Item) -> str:
    """What an item is called in a sentence."""
    steps = (f"{token.text}{'' if token.number is None else token.number}" for token in item.path)
    return "/".join(steps) or "(the scope)"


def item_of(unit: Unit, depth: int) -> Item:
    """A unit as an item of a scope of a depth."""
    return Item([unit], unit.tokens[depth:], single=True, depth=depth)


@final
class Palette:
    """Numbers for colours, the same on both sides."""

    def __init__(self) -> None:
        self._numbers: dict[Colour, int] = {}

    def of(self, colour: Colour) -> int:
        """The number of a colour."""
        return self._numbers.setdefault(colour, len(self._numbers))

    def signature(self, units: Sequence[Unit]) -> Signature:
        """What a group of units holds."""
        return tuple(sorted(Counter(self.of(unit.colour) for unit in units).items()))


def containers(units: Sequence[Unit], depth: int) -> list[Item]:
    """Every container below a scope that holds some but not all of its units, each once, however it is wrapped."""
    groups: dict[Tokens, list[Unit]] = {}
    for unit in units:
        path = unit.tokens
        for end in range(depth + 1, len(path)):
            groups.setdefault(path[depth:end], []).append(unit)
    found: dict[tuple[int, int], Item] = {}
    for path, members in groups.items():
        if 1 < len(members) < len(units):
            # One inside the other with as many units holds the same: the outer name comes first, and the inner says more.
            mark = (id(members[0]), len(members))
            if mark not in found or _inside(path, found[mark].path):
                found[mark] = Item(members, path, depth=depth)
    return list(found.values())


def _inside(path: Tokens, outer: Tokens) -> bool:
    return path[: len(outer)] == outer


def listed_alike(xs: Sequence[Item], ys: Sequence[Item], source: View, target: View) -> Grade:
    """How sure it is that containers of one signature are one list: of the same numbers, in which all comes in one order."""
    numbers = [sorted(item.numbers for item in items) for items in (xs, ys)]
    if numbers[0] != numbers[1] or len(xs) < 2 or any(len(number) != 1 for number in numbers[0]):
        return "question"
    if any(len({item.stems for item in items}) != 1 for items in (xs, ys)):
        return "question"
    lines = {_line(item, view) for items, view in ((xs, source), (ys, target)) for item in items}
    if None in lines:
        return "assumption"
    return "certain" if len(lines) == 1 else "question"


def _line(item: Item, view: View) -> tuple[Colour, ...] | None:
    """The colours of what a container holds, as it is called or else declared; `None` where neither is known."""
    if view.called and item.call is not None:
        return tuple(unit.colour for unit in sorted(item.units, key=lambda unit: unit.call or 0))
    return tuple(unit.colour for unit in sorted(item.units, key=lambda unit: unit.place)) if view.ordered else None
