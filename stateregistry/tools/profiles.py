"""Profiles: what the values of an array look like: statistics, a histogram, and the size of every slice along each axis.

Read block by block, in double precision, so that the memory is that of one block whatever the array is. Exact counts: the
histogram has every finite value in it. Knows no page; imports NumPy and the core.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import numpy as np

from stateregistry.tools.derived import BLOCK
from stateregistry.tools.statistics import Statistics, describe

#: Bins of a histogram.
BINS = 48
#: Points that the sizes along one axis are told in; a longer axis is told in groups of neighbours.
POINTS = 96
#: Axes that are told; an array of more has its first ones told.
AXES = 4
#: Standard deviations that a histogram reaches to each side: outliers would leave nothing of the rest to see.
SPREAD = 5.0


@final
@dataclass(frozen=True, slots=True)
class Axis:
    """The sizes of the slices of an array along one axis.

    Attributes:
        number: of the axis. length: how many slices there are.
        low, mean, high: of each group of neighbouring slices, the least, the mean and the largest root mean square.
        zero: how many slices are all zero.
    """

    number: int
    length: int
    low: tuple[float, ...]
    mean: tuple[float, ...]
    high: tuple[float, ...]
    zero: int


@final
@dataclass(frozen=True, slots=True)
class Profile:
    """What the values of one array look like.

    Attributes:
        statistics: of all its values.
        low, high: the range of the histogram: within `SPREAD` standard deviations of the mean, where values lie.
        counts: of its finite values in `BINS` bins of one width; those beyond the range are in its first and last bin.
            Empty where none is finite, one bin where all are the same.
        axes: every axis of two slices or more, at most `AXES` of them.
    """

    statistics: Statistics
    low: float
    high: float
    counts: tuple[int, ...]
    axes: tuple[Axis, ...]


def profile(array: np.ndarray, /) -> Profile:
    """Profile an array of any dtype that a registry holds. Of complex values the magnitudes count."""
    found = describe(array)
    if not found.finite:
        return Profile(found, math.nan, math.nan, (), ())
    low, high = span(found)
    counts = np.zeros(BINS if high > low else 1, np.int64)
    top = max(abs(found.least), abs(found.largest)) or 1.0
    told = [number for number, length in enumerate(array.shape) if length > 1][:AXES]
    squares = {number: np.zeros(array.shape[number]) for number in told}
    numbers = {number: np.zeros(array.shape[number], np.int64) for number in told}
    for box, values in _boxes(array):
        finite = np.isfinite(values)
        inside = values[finite]
        counts += counted(inside, low, high, len(counts))
        # Of values over the largest: their squares neither overflow nor vanish.
        scaled = np.square(np.where(finite, values, 0.0) / top)
        for number in told:
            others = tuple(other for other in range(array.ndim) if other != number)
            squares[number][box[number]] += scaled.sum(axis=others)
            numbers[number][box[number]] += finite.sum(axis=others)
    axes = tuple(_axis(number, squares[number], numbers[number], top) for number in told)
    return Profile(found, low, high, tuple(map(int, counts)), axes)


def pair_counts(a: np.ndarray, b: np.ndarray, /) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The histograms of two arrays over one range; empty where one of them has no finite value."""
    found = describe(a), describe(b)
    if not (found[0].finite and found[1].finite):
        return (), ()
    ranges = [span(one) for one in found]
    low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
    if not low < high:
        return (), ()
    counts = []
    for array in (a, b):
        total = np.zeros(BINS, np.int64)
        for _, values in _boxes(array):
            total += counted(values[np.isfinite(values)], low, high, BINS)
        counts.append(tuple(map(int, total)))
    return counts[0], counts[1]


def span(found: Statistics, /) -> tuple[float, float]:
    """The range of the histogram of values with these statistics."""
    away = SPREAD * found.std
    low, high = max(found.least, found.mean - away), min(found.largest, found.mean + away)
    return (low, high) if low < high else (found.least, found.largest)


def _boxes(array: np.ndarray) -> Iterator[tuple[tuple[slice, ...], np.ndarray]]:
    """The array in boxes of at most a block, each with its place; the values as `float64`."""
    shape = array.shape
    split, below = 0, math.prod(shape[1:])
    while split < len(shape) - 1 and below > BLOCK:
        split += 1
        below //= max(shape[split], 1)
    step = max(1, BLOCK // max(below, 1))
    for outer in np.ndindex(*shape[:split]):
        head = tuple(slice(at, at + 1) for at in outer)
        for start in range(0, shape[split] if shape else 1, step):
            box = (*head, slice(start, start + step), *(slice(None) for _ in shape[split + 1 :])) if shape else ()
            part = array[box] if shape else array.reshape(())
            if part.dtype.kind == "c":
                with np.errstate(all="ignore"):
                    yield box, np.abs(part.astype(np.complex128))
            else:
                yield box, np.asarray(part).astype(np.float64)


def counted(values: np.ndarray, least: float, largest: float, bins: int) -> np.ndarray:
    """The number of finite values in each of some bins of one width; the ends take what is beyond them."""
    if bins == 1:
        return np.array([values.size], np.int64)
    # Halved first, clipped before it is divided: the span of two doubles of opposite sign may be more than the largest double.
    width = largest * 0.5 - least * 0.5
    if not width:  # two neighbours of the least magnitude that there is
        return np.bincount(np.where(values > least, bins - 1, 0), minlength=bins)
    place = (np.clip(values, least, largest) * 0.5 - least * 0.5) / width * bins
    return np.bincount(np.minimum(place.astype(np.int64), bins - 1), minlength=bins)


def _axis(number: int, squares: np.ndarray, numbers: np.ndarray, top: float) -> Axis:
    sizes = np.sqrt(squares / np.maximum(numbers, 1)) * top
    groups = np.array_split(sizes, min(POINTS, len(sizes)))
    low, mean, high = ([float(how(group)) for group in groups] for how in (np.min, np.mean, np.max))
    return Axis(number, len(sizes), tuple(low), tuple(mean), tuple(high), int(np.count_nonzero(sizes == 0)))
