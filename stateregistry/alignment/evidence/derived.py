"""Derived: what is called by words of one stem (`projection_head`, `projector`), or by letters where the other side counts.

Authors choose `encoder`, `encoding` or `encode` as they like. Words of one stem tell a class only if they tell all of it, one
from another on both sides; letters (`conv_a`, `conv_b`) only if they run from `a` on. Both are habits, and an `assumption`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from stateregistry.alignment.containers import Item, Tied
from stateregistry.alignment.lexicon import SIDES, telling
from stateregistry.alignment.spelling import Token

#: Above so many candidates nothing is told by stems.
_MOST: Final = 12
#: Ends of words that are not what they mean, from the longest.
_ENDS: Final = ("ition", "ation", "ment", "ions", "ors", "ers", "ing", "ion", "ive", "or", "er", "ed", "al", "e", "s")
_LEAST: Final = 5


def stem(word: str) -> str:
    """A word without what makes it a noun or a verb, if enough of it is left."""
    end = next((end for end in _ENDS if word.endswith(end) and len(word) - len(end) >= _LEAST), "")
    return word.removesuffix(end)


def by_stem(xs: Sequence[Item], ys: Sequence[Item]) -> list[Tied]:
    """All of a class, where the words of each share a stem with those of one of the other side alone."""
    if not 1 < len(xs) == len(ys) <= _MOST or any(item.words & SIDES for item in (*xs, *ys)):
        return []
    left, right = telling(_stems(xs)), telling(_stems(ys))
    found: list[Tied] = []
    for x, mine in zip(xs, left, strict=True):
        mates = [n for n, its in enumerate(right) if mine & its]
        if len(mates) != 1 or sum(bool(words & right[mates[0]]) for words in left) != 1:
            return []
        text = f"words of one stem, {' '.join(sorted(mine & right[mates[0]]))}"
        found.append(Tied(x, ys[mates[0]], text, "assumption"))
    return found


def _stems(items: Sequence[Item]) -> list[frozenset[str]]:
    return [frozenset(stem(word) for word in item.raw if len(word) >= _LEAST) for item in items]


def lettered(items: Sequence[Item]) -> list[Item] | None:
    """The items with numbers for the letters that their names end in, if these run from `a` on and set them apart."""
    made = []
    for item in items:
        last = item.path[-1] if item.single and item.path else None
        name, _, letter = last.text.rpartition("_") if last is not None else ("", "", "")
        if last is None or last.number is not None or not name or len(letter) != 1 or not "a" <= letter <= "z":
            return None
        token = replace(last, stem=Token(name.replace("_", "").lower()).stem, number=ord(letter) - ord("a"), text=name)
        made.append(Item(item.units, (*item.path[:-1], token), single=True, depth=item.depth))
    runs: dict[object, list[int]] = {}
    for item in made:
        runs.setdefault((item.same[:-1], item.path[-1].stem), []).append(item.path[-1].number or 0)
    apart = all(len(run) > 1 and sorted(run) == list(range(len(run))) for run in runs.values())
    return made if made and apart else None
