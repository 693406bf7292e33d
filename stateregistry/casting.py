"""Casting: the one operation that changes a dtype, explicit and pure (SR-DTYPE-011 to 015).

Whether a cast is allowed is decided by the values, never by the pair of dtypes alone: `int64` 5 becomes `int32` without
loss, `2**40` does not. Refused under every rule: complex to real, floating to integer, anything to or from `bool`. A NaN stays
a NaN; under `lossless` one whose payload the conversion would not bring back is refused like any other value that changes.
Imports NumPy, no framework.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from stateregistry import checking, errors
from stateregistry.display import counted
from stateregistry.entry import EXTENDED, Entry, dtype_name, numpy_dtype
from stateregistry.registry import StateRegistry

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

Rule: TypeAlias = Literal["exact", "lossless", "same_kind"]
RULES: tuple[Rule, ...] = ("exact", "lossless", "same_kind")

_Truth: TypeAlias = "NDArray[np.bool_]"


def cast(values: Mapping[str, Any], reg: Mapping[str, Entry], rule: Rule = "exact") -> dict[str, np.ndarray]:
    """The values in the dtypes of a registry, in arrays of the caller's own.

    Args:
        values: arrays by key; aliases are understood where `reg` is a registry. A registry is read.
        reg: the registry, or a mapping of entries, whose dtypes are wanted.
        rule: `exact`: nothing is cast, a dtype that differs is refused. `lossless`: a value is cast if casting it back
            gives the same bits. `same_kind`: integers to integers, floating to floating, complex to complex; floating
            and complex values may be rounded, an integer out of range or a finite value that would not stay finite (or
            lose its sign) is refused.

    Returns:
        A new dict with the keys of `values`, in their order.

    Raises:
        CastError: names every key that the rule refuses, or that `reg` does not have. Nothing is returned.
        SourceError: values that are no arrays, or a mapping that raises while it is read.
    """
    if rule not in RULES:
        message = f"{rule!r} is not a rule of casting"
        raise errors.CastError(message, expected=RULES, found=rule, hint=f"use one of {', '.join(map(repr, RULES))}")
    convert = reg._convert if isinstance(reg, StateRegistry) else None  # noqa: SLF001  # the hook of the same package
    source = {key: values.view(key) for key in values} if isinstance(values, StateRegistry) else values
    arrays, problems = checking.gather(source, convert)
    if problems:
        raise checking.refuse(checking.Report.of(problems), "cannot cast")
    aliases = reg.aliases if isinstance(reg, StateRegistry) else {}
    entries = dict(reg)
    done: dict[str, np.ndarray] = {}
    refused: dict[str, str] = {}
    for key, array in arrays.items():
        entry = entries.get(aliases.get(key, key))
        if entry is None:
            refused[key] = "the registry has no such key"
            continue
        target = numpy_dtype(entry.dtype)
        if array.dtype == target:
            done[key] = array
            continue
        result, lost = _cast(array, target, rule)
        if lost:
            refused[key] = f"{dtype_name(array.dtype)} to {entry.dtype}: {lost}"
        else:
            done[key] = result
    if refused:
        lines = "\n".join(f"  {key}: {text}" for key, text in sorted(refused.items()))
        message = f"{counted(len(refused), 'value')} cannot be cast under the rule {rule!r}\n{lines}"
        raise errors.CastError(message, keys=tuple(sorted(refused)), hint=_hint(rule))
    return done


def _hint(rule: Rule) -> str:
    if rule == "exact":
        return "the rule 'lossless' casts values that do not change"
    if rule == "lossless":
        return "the rule 'same_kind' may round floating and complex values"
    return "leave these keys out, or give values that fit"


def _family(dtype: np.dtype[Any]) -> str:
    name = str(dtype_name(dtype))
    return next(word for word in ("bool", "int", "float", "complex") if word in name)


def _cast(array: np.ndarray, target: np.dtype[Any], rule: Rule) -> tuple[np.ndarray, str]:
    """The cast array, and what forbids it (empty where nothing does)."""
    have, want = _family(array.dtype), _family(target)
    if rule == "exact":
        return array, "the dtypes differ"
    if "bool" in {have, want}:
        return array, "bool is never cast"
    order = ("int", "float", "complex")
    if order.index(have) > order.index(want):
        return array, "complex to real is never cast" if have == "complex" else "floating to integer is never cast"
    if rule == "same_kind" and have != want:
        return array, f"{have} and {want} are not of one kind"
    with np.errstate(all="ignore"):  # what overflows is refused below, by value
        result, good = _ways[have, want](array, target, exact=rule == "lossless")
    if good.all():
        return result, ""
    where = tuple(int(i) for i in np.argwhere(~good)[0])
    count = int(good.size - np.count_nonzero(good))
    number = "1 value does" if count == 1 else f"{count} values do"
    return result, f"{number} not fit, the first is {array[where]} at {list(where)}"


def _integers(array: np.ndarray, target: np.dtype[Any], *, exact: bool) -> tuple[np.ndarray, _Truth]:
    # By range: a round trip through the two's complement would bring -1 back from uint8.
    limits = np.iinfo(target)
    low, high = (
        max(int(limits.min), int(np.iinfo(array.dtype).min)),
        min(int(limits.max), int(np.iinfo(array.dtype).max)),
    )
    good = (array >= array.dtype.type(low)) & (array <= array.dtype.type(high))
    return array.astype(target), np.asarray(good)


def _integer_to_floating(array: np.ndarray, target: np.dtype[Any], *, exact: bool) -> tuple[np.ndarray, _Truth]:
    result = array.astype(target)
    wide = result.astype(np.float64)  # exact: float64 holds every floating dtype
    limits = np.iinfo(array.dtype)
    # Floating bounds that are powers of two are exact; converting a value beyond them back would be undefined.
    inside = np.isfinite(wide) & (wide >= float(limits.min)) & (wide < 2.0 ** int(limits.max).bit_length())
    back = np.where(inside, wide, 0.0).astype(array.dtype)
    return result, np.asarray(inside & (back == array))


def _floating(array: np.ndarray, target: np.dtype[Any], *, exact: bool) -> tuple[np.ndarray, _Truth]:
    result = rounded(array, target)
    old, new = array.astype(np.float64), result.astype(np.float64)
    if exact:
        back = rounded(result, array.dtype)
        same_value = (old == new) | (np.isnan(old) & np.isnan(new))
        return result, np.asarray(_same_bits(array, back) & same_value)
    keeps = np.where(np.isfinite(old), np.isfinite(new) & ~((np.sign(old) * np.sign(new)) < 0), False)  # a value
    infinite = np.isinf(old) & (old == new)
    return result, np.asarray(keeps | infinite | (np.isnan(old) & np.isnan(new)))


def rounded(array: np.ndarray, target: np.dtype[Any]) -> np.ndarray:
    """The nearest numbers of a floating or complex dtype, rounded once.

    ml_dtypes rounds `float64` to `float32` first and then again, which is off by one in the last place now and then; and some
    pairs of its own dtypes it does not convert at all.
    """
    if target.name in EXTENDED:
        if array.dtype == np.float64:
            array = _to_odd(array)
        elif array.dtype.name in EXTENDED:
            array = array.astype(np.float32)  # exact: float32 holds every one of them
    return array.astype(target)


def _to_odd(array: np.ndarray) -> np.ndarray:
    """`float64` as `float32`, where what is cut off leaves its mark in the last bit: rounding that again rounds once."""
    near = np.asarray(array.astype(np.float32))
    bits = near.view(np.uint32)
    cut = np.isfinite(array) & (near.astype(np.float64) != array)
    away = cut & (np.abs(near.astype(np.float64)) > np.abs(array))
    return np.asarray(np.where(cut, (bits - away.astype(np.uint32)) | np.uint32(1), bits)).view(np.float32)


def _real_to_complex(array: np.ndarray, target: np.dtype[Any], *, exact: bool) -> tuple[np.ndarray, _Truth]:
    part = np.empty(0, target).real.dtype
    way = _integer_to_floating if _family(array.dtype) == "int" else _floating
    real, good = (array, np.ones(array.shape, bool)) if array.dtype == part else way(array, part, exact=exact)
    result = np.zeros(array.shape, target)
    result.real = real
    return result, good


def _complexes(array: np.ndarray, target: np.dtype[Any], *, exact: bool) -> tuple[np.ndarray, _Truth]:
    part = np.empty(0, target).real.dtype
    real, first = _floating(np.array(array.real), part, exact=exact)
    imag, second = _floating(np.array(array.imag), part, exact=exact)
    result = np.empty(array.shape, target)
    result.real, result.imag = real, imag
    return result, np.asarray(first & second)


def _same_bits(first: np.ndarray, second: np.ndarray) -> _Truth:
    words = np.dtype(f"u{first.dtype.itemsize}")
    return np.asarray(first.view(words) == second.view(words))


_ways = {
    ("int", "int"): _integers,
    ("int", "float"): _integer_to_floating,
    ("int", "complex"): _real_to_complex,
    ("float", "float"): _floating,
    ("float", "complex"): _real_to_complex,
    ("complex", "complex"): _complexes,
}
