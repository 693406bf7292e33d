"""Preference: in what order the candidates of a question are shown, and which of them a person would look at first.

Nothing here decides. Candidates stand in the order of calls, of declaration where that says something, else of their numbers,
so that the first of one side is opposite the first of the other. A guess is made by the own name or by words alone: no order
is reason enough, and whatever is told by equal words alone is not guessed by others. Reads units.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

from stateregistry.alignment.colours import is_vector
from stateregistry.alignment.lexicon import SIDES, similarity, telling
from stateregistry.alignment.spelling import numbers, stems

if TYPE_CHECKING:
    from stateregistry.alignment.model import Unit, View

#: A pair of words is preferred where it is so near, and every other that either could be in by so much less.
_LEAST: Final = 0.5
_MARGIN: Final = 0.25
#: Candidates above this number are not compared with one another.
_MANY: Final = 32


@final
@dataclass(frozen=True, slots=True)
class Guess:
    """The places of two candidates, and what speaks for them."""

    source: int
    target: int
    why: str


def in_order(units: Sequence[Unit], view: View) -> list[Unit]:
    """Units as they are called, or declared where the order of a side says something, or by the numbers in their paths."""
    calls = {id(unit): unit.call for unit in units if unit.call is not None}
    if view.called and len(calls) == len(units):
        return sorted(units, key=lambda unit: calls[id(unit)])
    if view.ordered:
        return sorted(units, key=lambda unit: unit.place)
    return sorted(units, key=lambda unit: (numbers(unit.tokens), stems(unit.tokens), unit.path))


def guessed(sources: Sequence[Unit], targets: Sequence[Unit]) -> Guess | None:
    """The pair of candidates, all of one colour, that something speaks for; `None` where nothing does.

    Args:
        sources, targets: as `in_order` gives them.
    """
    if not sources or not targets or max(len(sources), len(targets)) > _MANY:
        return None
    if len(sources) == len(targets) == 1:
        return None  # something speaks against it, or it would not be asked
    if len({unit.colour for unit in (*sources, *targets)}) != 1:
        return None
    return _by_own_name(sources, targets) or _by_words(sources, targets)


def nearest(source: Unit, targets: Sequence[Unit], sources: Sequence[Unit]) -> list[int]:
    """The places of all targets, those with the most in common with a source first, then those that stand opposite it."""
    mine, its = telling([unit.words for unit in sources]), telling([unit.words for unit in targets])
    at = next(number for number, unit in enumerate(sources) if unit is source)
    near = [similarity(mine[at], words) for words in its]
    return sorted(range(len(targets)), key=lambda place: (-near[place], abs(place - at)))


def _once(units: Sequence[Unit], key: Callable[[Unit], Hashable]) -> dict[Hashable, int]:
    """Where what only one of them has is."""
    found = [key(unit) for unit in units]
    counts = Counter(found)
    return {each: place for place, each in enumerate(found) if each is not None and counts[each] == 1}


def _by_own_name(sources: Sequence[Unit], targets: Sequence[Unit]) -> Guess | None:
    """What is called the same by its last name and nobody else is."""
    left, right = _once(sources, _last), _once(targets, _last)
    shared = [name for name in left if name in right]
    return Guess(left[shared[0]], right[shared[0]], f"the name `{shared[0]}`") if shared else None


def _last(unit: Unit) -> str | None:
    """The last name of a unit; none where it is a number."""
    token = unit.tokens[-1] if unit.tokens else None
    return token.stem if token is not None and token.number is None and token.stem else None


def _by_words(sources: Sequence[Unit], targets: Sequence[Unit]) -> Guess | None:
    """What shares more words than any other, or is the one of its side of which no more is said than of all."""
    left, right = telling([unit.words for unit in sources]), telling([unit.words for unit in targets])
    if is_vector(sources[0].colour) or any(SIDES & words for words in (*left, *right)):
        return None
    scores = [[similarity(one, two) for two in right] for one in left]
    for row, found in enumerate(scores):
        best = max(range(len(found)), key=found.__getitem__)
        others = [found[at] for at in range(len(found)) if at != best]
        others += [scores[at][best] for at in range(len(scores)) if at != row]
        if found[best] >= _LEAST and found[best] - max(others, default=0.0) >= _MARGIN:
            return Guess(row, best, f"the words {' '.join(sorted(left[row] & right[best]))}")
    plain = [[place for place, words in enumerate(side) if not words] for side in (left, right)]
    if len(plain[0]) == len(plain[1]) == 1 and len(sources) == len(targets) == 2:
        one, two = plain[0][0], plain[1][0]
        if sources[one].words & targets[two].words:
            return Guess(one, two, "their names, which say no more than those beside them")
    return None
