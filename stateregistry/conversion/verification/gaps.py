"""Gaps: how far two computed values lie apart, as a share of their scale.

Values are compared as numbers, in float64: equal NaNs and equal infinities at one place are equal, one alone is an infinite
gap. The scale is the largest finite magnitude of the first value. Activations are compared up to what a layout may differ
in, by the names of their axes. Knows no framework; imports NumPy.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, final

import ml_dtypes
import numpy as np

from stateregistry.errors import StateError
from stateregistry.layers.calls import Activation, tabled

#: What float32 arithmetic in another order may differ by, as a share of the scale.
TOLERANCE = 1e-5


@final
@dataclass(frozen=True, slots=True)
class Gap:
    """How far two values lie apart.

    Attributes:
        difference: the largest absolute difference of two elements; infinite where shapes differ or only one is a NaN.
        scale: the largest finite magnitude of the first value.
        remark: how they were compared, where it was not element by element; or why they cannot be.
    """

    difference: float
    scale: float
    remark: str = ""

    @property
    def share(self) -> float:
        """The difference as a share of the scale."""
        if self.difference == 0.0:
            return 0.0
        return self.difference / self.scale if self.scale > 0.0 else float("inf")

    def __str__(self) -> str:
        if self.difference == float("inf"):
            return self.remark or "infinite, or a NaN on one side"
        text = f"{self.difference:.3g}, {self.share:.2g} of the scale {self.scale:.3g}"
        return f"{text} ({self.remark})" if self.remark else text


def number(value: float) -> float | str:
    """A number for JSON, which has no infinity and no NaN: those as text."""
    return value if math.isfinite(value) else str(value)


def gap(one: np.ndarray, two: np.ndarray, /, remark: str = "") -> Gap:
    """The gap between two arrays of one shape."""
    left, right = _wide(one), _wide(two)
    if not left.size:
        return Gap(0.0, 0.0, remark)
    with np.errstate(all="ignore"):
        apart = np.abs(left - right)
    same = (left == right) | (np.isnan(left) & np.isnan(right))
    apart = np.where(same, 0.0, np.where(np.isnan(apart), np.inf, apart))
    finite = np.abs(left[np.isfinite(left)])
    return Gap(float(apart.max()), float(finite.max()) if finite.size else 0.0, remark)


def _wide(array: np.ndarray) -> np.ndarray:
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)


def resolution(*activations: Activation | None) -> float:
    """The step from one to the next number in the coarsest floating dtype among them; 0 for none."""
    found = 0.0
    for activation in activations:
        dtype = None if activation is None else activation.array.dtype
        if dtype is None or dtype.kind in "biu":
            continue
        with contextlib.suppress(ValueError):  # the integers of ml_dtypes have the kind of its floats
            found = max(found, float(ml_dtypes.finfo(dtype).eps))  # type: ignore[no-untyped-call]
    return found


def between(one: Activation, two: Activation, tolerance: float) -> Gap:
    """The gap between two activations, whatever their layouts.

    With named axes both are brought into rows of features, element by element; if they differ by more than `tolerance`, the
    other orders of the batch axes are tried. Where a side has no names, elements are compared as they lie or, failing that,
    sorted; the remark says so.
    """
    if one.known and two.known:
        return _named(one, two, tolerance)
    plain = gap(one.array, two.array) if one.array.shape == two.array.shape else None
    if plain is not None and plain.share <= tolerance:
        return plain
    if one.array.size != two.array.size:
        return _misshapen(one, two)
    loose = gap(np.sort(_wide(one.array), axis=None), np.sort(_wide(two.array), axis=None), "without regard to order")
    return loose if plain is None or loose.share <= tolerance else plain


def _named(one: Activation, two: Activation, tolerance: float) -> Gap:
    left = next(tabled(one))
    found: list[Gap] = []
    for number, right in enumerate(tabled(two)):
        if left.shape != right.shape:
            return _misshapen(one, two)
        found.append(gap(left, right, "with batch axes in another order" if number else ""))
        if found[-1].share <= tolerance:
            return found[-1]
    return min(found, key=lambda each: each.share)


def _misshapen(one: Activation, two: Activation) -> Gap:
    finite = np.abs(_wide(one.array)[np.isfinite(_wide(one.array))])
    scale = float(finite.max()) if finite.size else 0.0
    return Gap(float("inf"), scale, f"shape {_shape(one)} against {_shape(two)}")


def _shape(activation: Activation) -> str:
    sizes = ", ".join(map(str, activation.array.shape))
    names = " ".join(name.partition(".")[0] for name in activation.axes)
    return f"({sizes})" + (f" ({names})" if names else "")


# -------------------------------------------------------------------- outputs of whole models


def outputs(left: Any, right: Any) -> Gap:
    """The gap between the outputs of two models: arrays, or nested sequences, mappings and dataclasses of them.

    Of several arrays it is the one that is largest as a share of its own scale. `None` counts as nothing.

    Raises:
        StateError: they have other structures or shapes, or hold what is no array.
    """
    one, two = dict(_leaves(left)), dict(_leaves(right))
    if one.keys() != two.keys():
        message = f"the outputs have different structure: {_listed(one)} against {_listed(two)}"
        raise StateError(
            message, hint="let fa and fb return the same structure, in which the same things have one place"
        )
    worst = Gap(0.0, 0.0)
    for path, first in one.items():
        second = two[path]
        if first.shape != second.shape:
            message = f"the output {path or '(all of it)'} has shape {first.shape} against {second.shape}"
            hint = "let fa and fb return one layout: move the channels of one of them"
            raise StateError(message, expected=first.shape, found=second.shape, hint=hint)
        found = gap(first, second)
        worst = max(worst, found, key=lambda each: (each.share, each.scale))
    return worst


def without_numbers(left: Any, right: Any) -> str:
    """Why two outputs say nothing of two models, however equal they are; empty where they say something.

    Equal NaNs are no evidence: whatever is computed from a NaN is one, and so is nothing at all.

    Raises:
        StateError: they hold what is no array.
    """
    elements, finite = 0, 0
    for _, array in (*_leaves(left), *_leaves(right)):
        elements += array.size
        finite += int(np.isfinite(_wide(array)).sum())
    if finite:
        return ""
    return "every output is a NaN or infinite on both sides" if elements else "there is no output"


def _listed(found: Mapping[str, np.ndarray]) -> str:
    return ", ".join(sorted(path or "one array" for path in found)) or "nothing"


def _leaves(output: Any, path: str = "") -> Iterator[tuple[str, np.ndarray]]:
    if output is None:
        return
    if isinstance(output, Mapping):
        for name, value in output.items():
            yield from _leaves(value, f"{path}/{name}")
    elif isinstance(output, Sequence) and not isinstance(output, (str, bytes)):
        for number, value in enumerate(output):
            yield from _leaves(value, f"{path}/{number}")
    elif is_dataclass(output) and not isinstance(output, type):
        for field in fields(output):
            yield from _leaves(getattr(output, field.name), f"{path}/{field.name}")
    else:
        yield path, _array(output, path)


def _array(value: Any, path: str) -> np.ndarray:
    if hasattr(value, "detach"):  # a tensor, of which NumPy takes only what is on the CPU and recorded by no autograd
        value = value.detach().cpu()
        if "bfloat16" in str(value.dtype) or "float8" in str(value.dtype):
            value = value.double()  # NumPy knows no such dtype; every value of it is a float64
    array = np.asarray(value)
    if array.dtype.kind in "OSUMm":
        message = f"the output {path or '(all of it)'} is a {type(value).__name__}, not an array"
        raise StateError(message, hint="let fa and fb return arrays, or nested sequences and mappings of arrays")
    return array
