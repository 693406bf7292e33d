"""Casts of a plan: a dtype changes only where `dtype=` asked for it, and the values are asked before anything is written.

`dtype=` is the name of a floating dtype, for all floating entries; `"target"`, for whatever dtype the target has; or
`"lossless"`, likewise, where every value must come back. Integers and booleans are cast only without loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import final

from stateregistry.conversion.planning.plan import Condition, Move, PlanProblem
from stateregistry.entry import DTYPES, numpy_dtype
from stateregistry.errors import PlanError

_FLOATS = tuple(name for name in DTYPES if "float" in name)
_KINDS = (("bool",), ("uint", "int"), ("float", "bfloat"), ("complex",))


@final
@dataclass(frozen=True, slots=True)
class Cast:
    """What one move does about dtypes."""

    dtype: str = ""
    lossless: bool = True
    conditions: tuple[Condition, ...] = ()
    problem: PlanProblem | None = None


def check_dtype(dtype: str | None) -> str | None:
    """The `dtype=` of a plan.

    Raises:
        PlanError: not a floating dtype name, `"target"` or `"lossless"`.
    """
    if dtype is None or dtype in _FLOATS or dtype in ("target", "lossless"):
        return dtype
    raise PlanError(
        f"{dtype!r} is no dtype to cast to", plan=None, hint=f"it takes 'target', 'lossless', {', '.join(_FLOATS)}"
    )


def family(dtype: str) -> int:
    """Booleans, integers, floats and complex numbers do not become one another."""
    return next(n for n, starts in enumerate(_KINDS) if dtype.startswith(starts))


def plan_cast(source: str, target: str, have: str, want: str, asked: str | None) -> Cast:
    """The cast between two entries, or the problem that there is none."""
    keys = (source, target)
    if asked in _FLOATS and family(want) == family("float32") and want != asked:
        text = f"dtype={asked!r} was asked for, and the target holds {want}"
        return Cast(problem=PlanProblem("dtype", keys, text, "cast the target model first, or ask for dtype='target'"))
    if have == want:
        return Cast()
    text = f"dtype {have} in the source, {want} in the target"
    if family(have) != family(want):
        return Cast(problem=PlanProblem("dtype", keys, f"{text}: such a cast never keeps the meaning"))
    floating = family(want) >= family("float32")
    if asked is None or (floating and asked in _FLOATS and asked != want):
        return Cast(problem=PlanProblem("dtype", keys, text, "ask for a cast with dtype='target' or dtype='lossless'"))
    lossless = not floating or asked == "lossless"
    return Cast(want, lossless, (Condition("fits", (source,), want, lossless),))


def applied(move: Move, cast: Cast) -> Move:
    """The move with its cast."""
    if not cast.dtype:
        return move
    if cast.lossless:
        return replace(move, cast=cast.dtype)
    reason = "; ".join(part for part in (move.reason, f"rounded to {cast.dtype}, as dtype= asks") if part)
    cls = "lossy" if move.cls == "exact" else move.cls
    return replace(move, cast=cast.dtype, cls=cls, reason=reason)


def cannot_hold(value: float, dtype: str) -> str:
    """Why a dtype cannot hold a number, empty if it can: a float may round, a finite one must stay finite."""
    bits = DTYPES[dtype] * 8
    if dtype == "bool":
        return "" if value in (0, 1) else "is neither true nor false"
    if "int" in dtype:
        low, high = (0, 2**bits) if dtype.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1))
        return "" if value == value // 1 and low <= value < high else f"is no {dtype}"
    made = _rounded(value, dtype)
    return f"is too large for {dtype}" if math.isfinite(value) and not math.isfinite(made) else ""


def _rounded(value: float, dtype: str) -> float:
    import numpy as np

    with np.errstate(all="ignore"):
        return float(np.asarray(value, np.float64).astype(numpy_dtype(dtype)).real)
