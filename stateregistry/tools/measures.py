"""Measures: how far two arrays of one shape are from one another, block by block in double precision.

Dtypes may differ. NaN against NaN and equal infinities are no distance; any other pair that is not finite is an infinite one
and left out of means. Imports NumPy and `derived`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from stateregistry.tools.derived import blocks


@final
@dataclass(frozen=True, slots=True)
class Measures:
    """How far `b` is from `a`.

    Attributes:
        mean_abs, max_rel, mean_rel: of the absolute difference, and of it over the magnitude of `a` (where `a` is not 0).
        rel_l2: the Euclidean norm of the difference over that of `a`; infinite where `a` is 0 and `b` is not.
        cosine: of the angle between them; `nan` where one of them is 0.
        scale: by which number `b` is `a` times it, up to rounding; `nan` where it is not.
        close: whether every difference is at most `atol + rtol * |b|`.
    """

    mean_abs: float
    max_rel: float
    mean_rel: float
    rel_l2: float
    cosine: float
    scale: float
    close: bool

    def to_json(self) -> dict[str, Any]:
        """As JSON types; numbers that JSON does not have as text."""
        names = ("mean_abs", "max_rel", "mean_rel", "rel_l2", "cosine", "scale")
        values = {name: getattr(self, name) for name in names}
        return {name: value if math.isfinite(value) else str(value) for name, value in values.items()}


def measure(a: np.ndarray, b: np.ndarray, *, rtol: float = 0.0, atol: float = 0.0) -> Measures:
    """Measure two arrays of one shape."""
    top = max(_top(a), _top(b)) or 1.0  # so that no square overflows or vanishes
    far = ratios = aa = bb = ab = dd = 0.0
    finite = nonzero = 0
    worst, close, lone = 0.0, True, False
    # Two passes of one walk would read twice: of `a` and `b` together one is enough.
    for _, (first, second) in _pairs(a, b):
        with np.errstate(all="ignore"):
            away = np.abs(second - first)
            same = (first == second) | (np.isnan(first) & np.isnan(second))
            away = np.where(same, 0.0, away)
            known = np.isfinite(away)
            close = close and bool(np.all(known & (away <= atol + rtol * np.abs(second)) | same))
            lone = lone or not bool(known.all())
            size = np.abs(first)
            inside = known & np.isfinite(size)
            some = inside & (size > 0)
            relative = away[some] / size[some]
        far += float(away[inside].sum())
        finite += int(np.count_nonzero(inside))
        ratios += float(relative.sum())
        nonzero += int(np.count_nonzero(some))
        worst = max(worst, float(relative.max(initial=0.0)))
        x, y = first[inside] / top, second[inside] / top
        aa += float(np.square(np.abs(x)).sum())
        bb += float(np.square(np.abs(y)).sum())
        ab += float((np.conj(x) * y).real.sum())
        dd += float(np.square(away[inside] / top).sum())
    norm = math.sqrt(aa) * math.sqrt(bb)
    cosine = max(-1.0, min(1.0, ab / norm)) if norm else math.nan
    relative_l2 = math.sqrt(dd / aa) if aa else (math.inf if dd else 0.0)
    return Measures(
        far / finite if finite else math.nan,
        math.inf if lone else worst if nonzero else math.nan,
        ratios / nonzero if nonzero else math.nan,
        math.inf if lone else relative_l2,
        cosine,
        _scale(aa, ab, dd, bb) if not lone else math.nan,
        close,
    )


def _scale(aa: float, ab: float, dd: float, bb: float) -> float:
    """The factor that takes `a` to `b`, if what it leaves is rounding."""
    if not aa or not bb or not dd:
        return math.nan
    factor = ab / aa
    rest = max(bb - factor * ab, 0.0)
    return factor if rest <= 1e-12 * bb else math.nan


def _top(array: np.ndarray) -> float:
    largest = 0.0
    for _, (part,) in blocks(array):
        with np.errstate(all="ignore"):
            wide = np.abs(_wide(part))
        largest = max(largest, float(np.max(wide, where=np.isfinite(wide), initial=0.0)))
    return largest


def _pairs(a: np.ndarray, b: np.ndarray) -> Any:
    for place, (first, second) in blocks(a, b):
        yield place, (_wide(first), _wide(second))


def _wide(part: np.ndarray) -> np.ndarray:
    return part.astype(np.complex128 if part.dtype.kind == "c" else np.float64)
