"""Mutants of `cast`: rules that take what they have to refuse, and casts that have an effect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mutants.support import (
    F16,
    F32,
    F64,
    PLAIN,
    accepted,
    error_of,
    kept,
    noise,
    one,
    over,
    shown,
)
from mutants.swapping import Functions, Make
from stateregistry import casting, errors
from stateregistry.casting import cast
from stateregistry.registry import StateRegistry
from stateregistry_conformance.harness import Harness

FUNCTIONS = Functions()
mutant = FUNCTIONS.mutant


def _cast_one(change: Callable[[Callable[..., Any], np.ndarray, Any, str], Any]) -> Make:
    """`cast` with another decision about one array: `change(original, array, dtype, rule)` gives (array, why not)."""

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        return lambda array, target, rule: change(original, array, target, rule)

    return make


def _into(dtype: Any, value: Any, rule: str) -> Callable[[Harness], Any]:
    return lambda harness: cast({"x": np.asarray(value)}, over(harness, one(np.zeros(np.shape(value), dtype)))[1], rule)


def _casts_to(dtype: Any, value: Any, rule: str) -> Callable[[Harness], None]:
    return lambda harness: shown(accepted(lambda: _into(dtype, value, rule)(harness)))


def _cast_in_place(original: Callable[..., Any]) -> Callable[..., Any]:
    def changed(values: Any, reg: Any, rule: str = "exact") -> Any:
        done = original(values, reg, rule)
        if type(values) is dict:
            values.update(done)
        return done

    return changed


def _cast_writes(original: Callable[..., Any]) -> Callable[..., Any]:
    def changed(values: Any, reg: Any, rule: str = "exact") -> Any:
        done = original(values, reg, rule)
        if isinstance(reg, StateRegistry) and reg.in_place:
            reg.replace(
                {key: array for key, array in done.items() if array.shape == reg[reg.aliases.get(key, key)].shape}
            )
        return done

    return changed


def _cast_names_one(original: Callable[..., Any]) -> Callable[..., Any]:
    def changed(values: Any, reg: Any, rule: str = "exact") -> Any:
        try:
            return original(values, reg, rule)
        except errors.CastError as error:
            raise errors.CastError(error.message, keys=error.keys[:1]) from None

    return changed


def _cast_drops(original: Callable[..., Any]) -> Callable[..., Any]:
    def changed(values: Any, reg: Any, rule: str = "exact") -> Any:
        try:
            return original(values, reg, rule)
        except errors.CastError as error:
            if not error.keys or len(error.keys) == len(values):
                raise
            return original({key: values[key] for key in values if key not in error.keys}, reg, rule)

    return changed


@mutant(
    "f-cast-in-place",
    "DTYPE-011",
    cast,
    _cast_in_place,
    story="`for k in d: d[k] = d[k].half()`: the caller's checkpoint is rounded along with the copy.",
)
def _(harness: Harness) -> None:
    values = {"x": np.arange(3)}
    cast(values, over(harness, one(np.zeros(3, np.int32)))[1], "lossless")
    shown(values["x"].dtype == np.int32)


@mutant(
    "f-cast-writes",
    "DTYPE-011",
    cast,
    _cast_writes,
    story="A cast is a side effect of loading, so asking for one loads.",
)
def _(harness: Harness) -> None:
    model, registry = over(harness, PLAIN)
    cast({"enc/b": noise((3,), seed=9)}, registry, "exact")
    shown(not kept(harness, model, PLAIN))


@mutant(
    "f-cast-names-one-key",
    "DTYPE-011",
    cast,
    _cast_names_one,
    story="The error comes from the first array that cannot be cast.",
    also=("ERR-003",),
)
def _(harness: Harness) -> None:
    values = {"enc/b": noise((3,), F64), "enc/w": noise((2, 3), F64)}
    shown(error_of(lambda: cast(values, over(harness, PLAIN)[1], "exact")).keys == ("enc/b",))


@mutant(
    "f-cast-leaves-out",
    "DTYPE-011",
    cast,
    _cast_drops,
    story="What cannot be cast is left out with a warning that nobody reads.",
    also=("DTYPE-012", "DTYPE-013", "DTYPE-014", "DTYPE-015"),
)
def _(harness: Harness) -> None:
    values = {"enc/b": noise((3,), F64), "enc/w": noise((2, 3))}
    shown(accepted(lambda: cast(values, over(harness, PLAIN)[1], "exact")))


def _exact_if_wider(original: Callable[..., Any], array: np.ndarray, target: Any, rule: str) -> Any:
    if rule == "exact" and array.dtype.kind == target.kind and np.can_cast(array.dtype, target, "safe"):
        return array.astype(target), ""
    return original(array, target, rule)


mutant(
    "f-cast-exact-widens",
    "DTYPE-012",
    casting._cast,
    _cast_one(_exact_if_wider),
    story="Widening changes no number, so 'exact' takes it; the dtype of the checkpoint is no longer checked.",
)(_casts_to(F64, noise((3,), F32), "exact"))


def _exact_if_equal(original: Callable[..., Any], array: np.ndarray, target: Any, rule: str) -> Any:
    if rule == "exact" and {array.dtype.kind, target.kind} <= {"i", "u"}:
        return original(array, target, "lossless")
    return original(array, target, rule)


mutant(
    "f-cast-exact-takes-equal-integers",
    "DTYPE-012",
    casting._cast,
    _cast_one(_exact_if_equal),
    story="Integers are integers: int64 from torch is taken for an int32 of JAX.",
)(_casts_to(np.int32, np.arange(3), "exact"))


def _lossless_by_dtype(original: Callable[..., Any], array: np.ndarray, target: Any, rule: str) -> Any:
    if rule == "lossless" and not np.can_cast(array.dtype, target, "safe"):
        return array, "may lose information"
    return original(array, target, rule)


@mutant(
    "f-cast-lossless-by-dtype",
    "DTYPE-013",
    casting._cast,
    _cast_one(_lossless_by_dtype),
    story="`np.can_cast` decides by the pair of dtypes: torch's int64 counters never fit into JAX, whatever they count.",
)
def _(harness: Harness) -> None:
    shown(not accepted(lambda: _into(np.int32, np.array([5]), "lossless")(harness)))


def _lossless_if_close(original: Callable[..., Any], array: np.ndarray, target: Any, rule: str) -> Any:
    if rule == "lossless" and array.dtype == F64 and target == F32:
        with np.errstate(all="ignore"):
            small = array.astype(F32)
        if np.allclose(small, array, equal_nan=True):
            return small, ""
    return original(array, target, rule)


mutant(
    "f-cast-lossless-if-close",
    "DTYPE-013",
    casting._cast,
    _cast_one(_lossless_if_close),
    story="`allclose` after the cast: 0.1 has lost half of its digits.",
)(_casts_to(F32, np.array([0.1]), "lossless"))


def _lossless_by_value(original: Callable[..., Any], array: np.ndarray, target: Any, rule: str) -> Any:
    if rule == "lossless" and array.dtype.kind == "i" and target.kind == "f":
        result = array.astype(target)
        with np.errstate(all="ignore"):
            return (result, "") if (result == array).all() else (array, "differs")
    return original(array, target, rule)


mutant(
    "f-cast-lossless-by-comparison",
    "DTYPE-013",
    casting._cast,
    _cast_one(_lossless_by_value),
    story="`float64(x) == x` for an int64 compares two roundings of the same number: 2**53 + 1 passes.",
)(_casts_to(F64, np.array([2**53 + 1]), "lossless"))


def _wraps(original: Callable[..., Any], array: np.ndarray, target: Any, rule: str) -> Any:
    if rule == "same_kind" and {array.dtype.kind, target.kind} <= {"i", "u"}:
        return array.astype(target), ""
    return original(array, target, rule)


def _overflows(original: Callable[..., Any], array: np.ndarray, target: Any, rule: str) -> Any:
    if rule == "same_kind" and array.dtype.kind == target.kind == "f":
        with np.errstate(all="ignore"):
            return array.astype(target), ""
    return original(array, target, rule)


def _clips(original: Callable[..., Any], array: np.ndarray, target: Any, rule: str) -> Any:
    if rule == "same_kind" and array.dtype == F32 and target == F16:
        limit = np.finfo(F16).max
        return np.clip(array, -limit, limit).astype(F16), ""
    return original(array, target, rule)


def _mixes_kinds(original: Callable[..., Any], array: np.ndarray, target: Any, rule: str) -> Any:
    if rule == "same_kind" and array.dtype.kind in "iu" and target.kind == "f":
        return array.astype(target), ""
    return original(array, target, rule)


def _never_rounds(original: Callable[..., Any], array: np.ndarray, target: Any, rule: str) -> Any:
    return original(array, target, "lossless" if rule == "same_kind" and array.dtype.kind == "f" else rule)


for _name, _way, _dtype, _value, _why in (
    (
        "f-cast-wraps",
        _wraps,
        np.int32,
        np.array([2**40]),
        "`astype` wraps integers without a word, in NumPy, torch and JAX.",
    ),
    ("f-cast-overflows", _overflows, F32, np.array([1e300]), "`astype` makes infinity of 1e300."),
    ("f-cast-saturates", _clips, F16, np.array([1e6], F32), "Casts saturate on accelerators: 1e6 becomes 65504."),
    (
        "f-cast-mixes-kinds",
        _mixes_kinds,
        F32,
        np.array([1, 2]),
        "NumPy's own `same_kind` takes integers to floating numbers.",
    ),
):
    mutant(_name, "DTYPE-014", casting._cast, _cast_one(_way), story=_why)(_casts_to(_dtype, _value, "same_kind"))


@mutant(
    "f-cast-never-rounds",
    "DTYPE-014",
    casting._cast,
    _cast_one(_never_rounds),
    story="`same_kind` is as strict as `lossless`, so nobody can make a float32 of a float64 checkpoint.",
)
def _(harness: Harness) -> None:
    shown(not accepted(lambda: _into(F32, np.array([0.1]), "same_kind")(harness)))


def _takes(kinds: str, targets: str) -> Make:
    def change(original: Callable[..., Any], array: np.ndarray, target: Any, rule: str) -> Any:
        if rule != "exact" and array.dtype.kind in kinds and target.kind in targets:
            with np.errstate(all="ignore"):
                result = (array.real if array.dtype.kind == "c" else array).astype(target)
                if (result.astype(array.dtype) == array).all():
                    return result, ""
        return original(array, target, rule)

    return _cast_one(change)


for _name, _kinds, _targets, _dtype, _value, _why in (
    (
        "f-cast-complex-to-real",
        "c",
        "f",
        F32,
        np.array([1 + 0j], np.complex64),
        "An imaginary part of zero is dropped: it comes back, so it passes for lossless (-0.0 does not).",
    ),
    (
        "f-cast-floating-to-integer",
        "f",
        "iu",
        np.int32,
        np.array([2.0], F32),
        "A whole number is a whole number: 2.0 becomes 2.",
    ),
    ("f-cast-to-bool", "iu", "b", np.bool_, np.array([0, 1]), "Masks that were saved as 0 and 1 become masks again."),
    ("f-cast-from-bool", "b", "iuf", np.int32, np.array([True]), "NumPy's `safe` takes bool to every number."),
):
    mutant(_name, "DTYPE-015", casting._cast, _takes(_kinds, _targets), story=_why, also=("DTYPE-013", "DTYPE-014"))(
        _casts_to(_dtype, _value, "lossless")
    )
