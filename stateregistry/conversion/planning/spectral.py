"""Spectral: what one layer under spectral_norm holds and another does not, computed from the kernel: u, v and sigma.

Float64 from the definition (spec chapter Layers): a layer divides its kernel by `sigma = u W v`, with u and v as they are
stored or after some steps of the power iteration. So what a layer that iterates divides by can be stored in one that does
not, and whether two layers divide by the same can be asked before anything is written. Knows no framework.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, final

from stateregistry.entry import numpy_dtype
from stateregistry.errors import AxesError, CastError, UnsupportedError
from stateregistry.layers import axes
from stateregistry.layers.vocabulary import WRAPPERS, Layer

if TYPE_CHECKING:
    import numpy as np

    from stateregistry.conversion.planning.plan import Feed

ORIGINAL, U, V, SIGMA = WRAPPERS["spectral_norm"]

#: `count` is how many updates an optimizer has made (`stateregistry.conversion.planning.training`).
Formula = Literal["", "u", "v", "sigma", "count"]

#: How far the sigmas of two layers may be apart, as a part of sigma: what float32 arithmetic in another order may give.
TOLERANCE: Final = 1e-6


@final
@dataclass(frozen=True, slots=True)
class Iteration:
    """What a layer does with u and v before it divides, in evaluation.

    Attributes:
        steps: how often it iterates. eps: what it adds to the sum of squares that it divides by the root of.
        stored: v is stored beside u: then v is the newer of the two, and a step begins with u.
    """

    steps: int = 0
    eps: float = 0.0
    stored: bool = False

    @classmethod
    def of(cls, layer: Layer, role: str) -> Iteration:
        """That of a layer for a wrapped role."""
        steps, eps = layer.config.get("power_iterations", 0), layer.config.get("spectral_norm_eps", 0.0)
        assert isinstance(steps, int)
        assert isinstance(eps, (int, float))
        return cls(steps, float(eps), role + V in layer.roles)

    @property
    def divides(self) -> str:
        """What it divides by, in words."""
        if not self.steps:
            return "u and v as they are stored"
        return f"u and v after {self.steps} step{'s' * (self.steps != 1)} of the iteration"


#: A layer that does not iterate, or is under no spectral_norm.
AT_ONCE: Final = Iteration()


@final
@dataclass(frozen=True, slots=True)
class _Layout:
    """Where rows and columns are: the axes of u, and the other axes of the original, sorted."""

    original: axes.Bound
    u: axes.Bound
    v: axes.Bound | None
    rows: tuple[str, ...]
    columns: tuple[str, ...]

    def sizes(self, names: Sequence[str]) -> tuple[int, ...]:
        return tuple(self.original.sizes[name] for name in names)


def _layout(feeds: Sequence[Feed], shapes: Sequence[tuple[int, ...]]) -> _Layout:
    first, left, *right = feeds
    original = axes.bind(first.axes, shapes[0])
    u = axes.bind(left.axes, shapes[1], original.sizes)
    v = axes.bind(right[0].axes, shapes[2], original.sizes) if right else None
    columns = tuple(name for name in original.neutral if name not in u.neutral)
    if not set(u.neutral) <= set(original.neutral) or (v is not None and v.neutral != columns):
        found = " and ".join(" ".join(bound.neutral) for bound in (u, v) if bound is not None)
        message = f"u and v have the axes {found}, the array {' '.join(original.neutral)!r}"
        raise AxesError(message, expected=original.neutral, found=u.neutral)
    return _Layout(original, u, v, u.neutral, columns)


def placed(
    formula: Formula, feeds: Sequence[Feed], shapes: Sequence[tuple[int, ...]], pattern: str, shape: tuple[int, ...]
) -> axes.Assembly:
    """The move of computed values, each in its neutral axes, into their place: one, or one for each part of a stack.

    Args:
        formula: what is computed. feeds, shapes: for every part, the original, u and, where it is stored, v.
        pattern, shape: of the place.

    Raises:
        AxesError: the arrays do not belong together, or the place has other axes.
    """
    made: list[axes.Feed] = []
    sizes: dict[str, int] = {}
    for part, numbers in _by_part(feeds).items():
        laid = _layout([feeds[number] for number in numbers], [shapes[number] for number in numbers])
        names = {"u": laid.rows, "v": laid.columns}.get(formula, ())
        made.append(axes.Feed(" ".join(names), laid.sizes(names), "", part))
        sizes |= laid.original.sizes
    return axes.assemble(made, pattern, shape, sizes)


def _by_part(feeds: Sequence[Feed]) -> dict[str, list[int]]:
    """The numbers of the feeds of every part of the place, in order."""
    found: dict[str, list[int]] = {}
    for number, feed in enumerate(feeds):
        found.setdefault(feed.into, []).append(number)
    return found


def computed(
    formula: Formula,
    iteration: Iteration,
    feeds: Sequence[Feed],
    arrays: Sequence[np.ndarray],
    pattern: str,
    shape: tuple[int, ...],
    dtype: str,
) -> np.ndarray:
    """The value of a place: what the source's layers have after their iteration, in the axes and the dtype of the place.

    Raises:
        AxesError: as `placed`. CastError: it is finite and too large for the dtype. UnsupportedError: complex values.
    """
    import numpy as np

    move = placed(formula, feeds, [array.shape for array in arrays], pattern, shape)
    values = []
    for numbers, (bound, _) in zip(_by_part(feeds).values(), move.sources, strict=True):
        own = [feeds[number] for number in numbers], [arrays[number] for number in numbers]
        left, right, sigma = _iterated(iteration, *own)
        values.append(np.asarray({"u": left, "v": right}.get(formula, sigma), np.float64).reshape(bound.shape))
    with np.errstate(all="ignore"):
        whole = np.array(move.apply(values), order="C")
        rounded = whole.astype(numpy_dtype(dtype))
    if np.isfinite(whole).all() and not np.isfinite(rounded.astype(np.float64)).all():
        keys = tuple(feed.key for feed in feeds)
        raise CastError(f"{formula} of {keys[0]!r} is too large for {dtype}", keys=keys, expected=dtype)
    return rounded


def apart(one: Iteration, two: Iteration, feeds: Sequence[Feed], arrays: Sequence[np.ndarray]) -> str:
    """In what the sigmas of two layers differ by more than rounding; empty where they do not."""
    import ml_dtypes
    import numpy as np

    found = [_iterated(each, feeds, arrays)[2] for each in (one, two)]
    resolution = ml_dtypes.finfo(arrays[0].dtype).eps  # type: ignore[no-untyped-call]  # it knows bfloat16, NumPy does not
    tolerance = max(TOLERANCE, float(resolution))
    scale = max(abs(sigma) for sigma in found)
    if scale and math.isfinite(scale) and abs(found[0] - found[1]) <= tolerance * scale:
        return ""
    with np.errstate(all="ignore"):
        values = " and ".join(f"{sigma:.9g} with {each.divides}" for sigma, each in zip(found, (one, two), strict=True))
    return f"has not converged: sigma is {values}"


def _iterated(
    iteration: Iteration, feeds: Sequence[Feed], arrays: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, float]:
    """u, v and sigma as the layer divides by them; u and v as vectors over the sorted axes."""
    import numpy as np

    laid = _layout(feeds, [array.shape for array in arrays])
    if any(array.dtype.kind == "c" for array in arrays):
        keys = tuple(feed.key for feed in feeds)
        raise UnsupportedError(f"{keys[0]!r} is complex: the formula of spectral_norm is real", keys=keys)
    bounds = [laid.original, laid.u, *([] if laid.v is None else [laid.v])]
    parts = [bound.expand(array)[feed.part] for bound, array, feed in zip(bounds, arrays, feeds, strict=True)]
    whole, left, *right = (part.astype(np.float64) for part in parts)
    names = laid.original.neutral
    order = [names.index(name) for name in (*laid.rows, *laid.columns)]
    matrix = whole.transpose(order).reshape(math.prod(laid.sizes(laid.rows)), -1)
    u = left.reshape(-1)
    with np.errstate(all="ignore"):
        if iteration.stored:
            v = right[0].reshape(-1)
            for _ in range(iteration.steps):
                u = _unit(matrix @ v, iteration.eps)
                v = _unit(u @ matrix, iteration.eps)
        else:
            v = np.zeros(matrix.shape[1])
            for _ in range(iteration.steps):
                v = _unit(u @ matrix, iteration.eps)
                u = _unit(matrix @ v, iteration.eps)
        return u, v, float(u @ matrix @ v)


def _unit(vector: np.ndarray, eps: float) -> np.ndarray:
    import numpy as np

    unit: np.ndarray = vector / np.sqrt(np.sum(vector * vector) + eps)
    return unit
