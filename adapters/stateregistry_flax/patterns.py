"""Patterns: axis patterns taken apart into one word for each native axis, and put together again with more axes.

What a transform stacks and what a wrapper keeps is said of native axes, so both need the words of a pattern. Does no
algebra: that is `stateregistry.layers.axes`. Imports the core.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

_WORD: Final = re.compile(r"-?\([^)]*\)|\S+")


def words(pattern: str, rank: int) -> list[str] | None:
    """One word for each native axis, families written out; `None` where the pattern does not have so many axes."""
    found = _WORD.findall(pattern)
    families = [number for number, word in enumerate(found) if word.lstrip("-").startswith("*")]
    if len(families) > 1 or (not families and len(found) != rank):
        return None
    if families:
        (at,) = families
        count = rank - len(found) + 1
        if count < 1:
            return None
        sign, name = ("-", found[at][2:]) if found[at].startswith("-") else ("", found[at][1:])
        found[at : at + 1] = [f"{sign}{name}.{number}" for number in range(count)]
    return found


def stacked(pattern: str, rank: int, stack: Sequence[tuple[int, int]]) -> str | None:
    """The pattern of an array that holds many of the arrays of another pattern.

    Args:
        pattern: of one of them. rank: its number of axes.
        stack: the axes that count them: where each is in the array of all, and how long it is; in ascending order.

    Returns:
        The pattern, or `None`: the pattern does not fit the rank, or an axis that is divided comes before one that counts.
    """
    made = words(pattern, rank)
    if made is None:
        return None
    for place, length in stack:
        if any("|" in word for word in made[:place]) and not all(_counts(word) for word in made[:place] if "|" in word):
            return None
        made.insert(place, f"({'|'.join(map(str, range(length)))}:)")
    return " ".join(made)


def _counts(word: str) -> bool:
    """Whether a word only counts: it has parts and no axis of its own."""
    return word.endswith(":)")


def split_axes(count: int, name: str) -> str:
    """`name` for one axis, `name.0 name.1 ...` for several."""
    return name if count == 1 else " ".join(f"{name}.{number}" for number in range(count))
