"""Copies: layers that one side has twice and calls so: `head` and `head_ema`, `fc.old` beside `fc`.

Authors keep averages, backups and earlier states beside what they stand for. A copy is told by its name alone: what is left of
a path without such a word is the path of another unit that looks the same. Which of the two is wanted is for the caller to say,
so that what is paired in the place of a copy rests on an assumption. Reads units.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from stateregistry.alignment.engine import pair_up

if TYPE_CHECKING:
    from stateregistry.alignment.model import Result, Unit, View

#: What copies are called; `target`, `momentum` and `teacher` are networks of their own.
_WORDS: Final = frozenset({"backup", "bak", "clone", "copy", "duplicate", "ema", "old", "previous", "prev", "shadow"})
_PARTS: Final = re.compile(r"[_.\-\s]+|(?<=[a-z0-9])(?=[A-Z])")

Views = tuple["View", "View"]


def paired(
    views: Callable[[], Views], anchor: Callable[[str], str | None], *, by_structure: bool
) -> tuple[Result, Views]:
    """Pair two sides; where that leaves something open, once more without what one side calls copies.

    Args:
        views: gives the views anew: pairing brings them to one granularity.
        anchor, by_structure: as for `pair_up`.

    Returns:
        The result without copies if nothing but them is left over in it, else that of everything; and its views.
    """
    sides = views()
    found = pair_up(*sides, anchor, by_structure=by_structure)
    if found.by_name or not by_structure or _is_whole(found):
        return found, sides
    told = _told(sides[0], anchor)
    for number, side in enumerate(sides):
        if not any(_plain(key)[1] for key in side.entries):
            continue  # views are made anew only where something is called a copy
        fresh = views()
        twice = [(copy, first) for copy, first in copies(fresh[number].units) if copy.path not in told[number]]
        if not twice or copies(fresh[1 - number].units):
            continue
        aside = {id(copy) for copy, _ in twice}
        fresh[number].units = [unit for unit in fresh[number].units if id(unit) not in aside]
        again = pair_up(*fresh, anchor, by_structure=by_structure)
        if _is_whole(again):
            _doubt(again, twice, number)
            return again, fresh
    return found, sides


def copies(units: Sequence[Unit]) -> list[tuple[Unit, Unit]]:
    """Every unit that is called a copy of another one, with that one."""
    plain = [(unit, *_plain(unit.path)) for unit in units]
    there = {path: unit for unit, path, copied in plain if not copied}
    found = []
    for unit, path, copied in plain:
        first = there.get(path) if copied else None
        if first is not None and set(first.options) == set(unit.options) and not (unit.spare or first.spare):
            found.append((unit, first))
    return found


def _plain(path: str) -> tuple[tuple[str, ...], bool]:
    """A path without the words that say copy, and whether there was one."""
    steps = []
    copied = False
    for step in path.split("/"):
        parts = [part for part in _PARTS.split(step) if part]
        rest = [part for part in parts if part.lower() not in _WORDS]
        copied |= len(rest) < len(parts)
        if rest or not parts:
            steps.append("_".join(rest).lower())
    return tuple(steps), copied


def _told(source: View, anchor: Callable[[str], str | None]) -> tuple[set[str], set[str]]:
    """The paths of either side that rules name."""
    found = {unit.path: new for unit in source.units if (new := anchor(unit.path)) is not None}
    return set(found), set(found.values())


def _is_whole(result: Result) -> bool:
    return not result.questions and all(unit.spare for units in result.left for unit in units)


def _doubt(result: Result, twice: Sequence[tuple[Unit, Unit]], number: int) -> None:
    """The one of two that took the place is an assumption; the other is left over, as a copy."""
    named = {id(first): copy for copy, first in twice}
    for pair in result.pairs:
        copy = named.get(id((pair.source, pair.target)[number]))
        if copy is not None:
            pair.doubt("assumption", f"{copy.path} is called a copy of it, and has no place of its own")
    result.copies[number].extend(twice)
