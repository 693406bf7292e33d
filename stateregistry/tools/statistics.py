"""Statistics of values: one pass, block by block, in double precision, numerically stable."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np

from stateregistry import plugins
from stateregistry.tools.derived import blocks
from stateregistry.tools.select import Where, selector

if TYPE_CHECKING:
    from stateregistry.registry import StateRegistry


@final
@dataclass(frozen=True, slots=True)
class Statistics:
    """What the values of one entry, or of several together, are like.

    Attributes:
        elements: how many there are. nan, infinite, zero: how many of them are that.
        least, largest, mean, std, norm: of the finite ones (of the magnitudes, where they are complex): extremes, mean,
            population standard deviation, Euclidean norm; `nan` where there is no finite one.
    """

    elements: int
    nan: int
    infinite: int
    zero: int
    least: float
    largest: float
    mean: float
    std: float
    norm: float

    @property
    def finite(self) -> int:
        """How many are finite."""
        return self.elements - self.nan - self.infinite


def stats(reg: StateRegistry | Any, where: Where = None) -> dict[str, Statistics]:
    """The statistics of every entry selected that has values, by key. Reads one value at a time.

    Args:
        reg: a registry or a live object.
        where: a pattern of keys, a `Kind`, a predicate of `(key, entry)`; by default all.
    """
    registry = plugins.of(reg)
    chosen = selector(where, lambda _key, _entry: True)
    return {
        key: describe(registry.view(key)) for key, entry in registry.items() if entry.concrete and chosen(key, entry)
    }


def describe(array: np.ndarray) -> Statistics:
    """The statistics of one array of any dtype that a registry holds."""
    nan = infinite = zero = count = 0
    least, largest, mean, squares, scaled, scale = math.inf, -math.inf, 0.0, 0.0, 0.0, 0.0
    for _, (part,) in blocks(array):
        if part.dtype.kind == "c":
            with np.errstate(all="ignore"):
                values = np.abs(part.astype(np.complex128))
            missing = np.isnan(part.real) | np.isnan(part.imag)
            values = np.where(missing, np.nan, values)
        else:
            values = part.astype(np.float64)
        nan += int(np.count_nonzero(np.isnan(values)))
        infinite += int(np.count_nonzero(np.isinf(values)))
        zero += int(np.count_nonzero(values == 0))
        finite = values[np.isfinite(values)]
        if not finite.size:
            continue
        least, largest = min(least, float(finite.min())), max(largest, float(finite.max()))
        # Chan, Golub and LeVeque: means and squared deviations of blocks put together, without cancellation.
        with np.errstate(over="ignore"):
            here = float(finite.mean())
            away = float(np.square(finite - here).sum())
            gap = here - mean
            total = count + finite.size
            squares += away + gap * gap * count * finite.size / total
            mean += gap * finite.size / total
        count = total
        top = float(np.abs(finite).max())
        if top > scale:  # the norm is scaled, so that squares neither overflow nor vanish
            scaled *= (scale / top) ** 2
            scale = top
        if scale:
            scaled += float(np.square(finite / scale).sum())
    if not count:
        least = largest = mean = spread = norm = math.nan
    else:
        spread, norm = math.sqrt(squares / count), scale * math.sqrt(scaled)
    return Statistics(array.size, nan, infinite, zero, least, largest, mean, spread, norm)
