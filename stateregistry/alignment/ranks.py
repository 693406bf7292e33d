"""Ranks: the place of numbers among those of their name, and what decided pairs say of the way in which two names count.

Sides may count from another number and in other steps: only the places are compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def ranks(numbers: Iterable[int]) -> dict[int, int]:
    """The place of each of some numbers among them."""
    return {number: rank for rank, number in enumerate(sorted({*numbers}))}


def run_alike(rows: Iterable[tuple[int, int]], first: Mapping[int, int], second: Mapping[int, int]) -> bool:
    """Whether all that is decided of two names has one place in both, and some of it would not if one ran down.

    Args:
        rows: the numbers of decided pairs. first, second: the ranks of what the names count, as many on both sides.
    """
    places = [(first[one], second[two]) for one, two in rows]
    if len(first) != len(second) or any(one != two for one, two in places):
        return False
    return any(2 * one != len(first) - 1 for one, _ in places)
