"""Mutants of chapter 11, part two: numbers of one byte, complex numbers, integers and truth values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace as with_fields
from typing import Any, Self

import ml_dtypes
import numpy as np

from mutants.dtypes import changes, detour, patterns, through, words
from mutants.support import BUFFER, F16, F32, F64, Alters, Chapter, accepted, one, over, shown
from stateregistry.entry import Entry
from stateregistry_conformance.harness import Harness
from stateregistry_numpy.registry import FrozenRegistry, MutableRegistry

CHAPTER = Chapter()


# ---------------------------------------------------------------------------------------------------------- DTYPE-005

FP8 = tuple(
    np.dtype(getattr(ml_dtypes, f"float8_{name}")) for name in ("e4m3fn", "e5m2", "e4m3fnuz", "e5m2fnuz", "e8m0fnu")
)
E4M3FN, E5M2, E4M3FNUZ, _, E8M0FNU = FP8


def _saturated(array: np.ndarray) -> np.ndarray:
    if array.dtype != E5M2:
        return array
    wide = array.astype(F32)
    return np.where(np.isinf(wide), np.copysign(F32(57344), wide), wide).astype(E5M2)


def _fnuz_as_fn(array: np.ndarray) -> np.ndarray:
    if array.dtype != E4M3FNUZ:
        return array
    codes = np.array(array, order="C").view(np.uint8)
    return np.where(codes == 0x80, 0, codes).astype(np.uint8).view(E4M3FNUZ)


for name, base, way, value, why in (
    (
        "m-dtype-float8-via-float32",
        MutableRegistry,
        through(F32, E5M2),
        patterns(E5M2),
        "torch has no conversion of float8 to NumPy; over float32 the six NaNs of e5m2 become two.",
    ),
    (
        "m-dtype-float8-saturated",
        FrozenRegistry,
        _saturated,
        patterns(E5M2),
        "Casts to float8 saturate on accelerators: infinity comes back as 57344.",
    ),
    (
        "m-dtype-float8-nan-is-zero",
        MutableRegistry,
        _fnuz_as_fn,
        patterns(E4M3FNUZ),
        "The code 0x80 is the one NaN of the fnuz formats and minus zero in the others.",
    ),
    (
        "m-dtype-float8-scale-via-float16",
        FrozenRegistry,
        through(F16, E8M0FNU),
        patterns(E8M0FNU),
        "The scales of microscaling formats are powers of two from 2**-127 on, which is more than half has.",
    ),
    (
        "m-dtype-float8-without-sign-of-zero",
        MutableRegistry,
        lambda a: np.where(a.astype(F32) == 0, F32(0), a.astype(F32)).astype(a.dtype) if a.dtype == E4M3FN else a,
        words(E4M3FN, 0x80),
        "`abs`-max scaling and a division bring 0 back as plus zero.",
    ),
):
    CHAPTER.mutant(name, "DTYPE-005", detour(base, way), story=why, also=("DTYPE-002", "WRITE-001"))(changes(value))


# ---------------------------------------------------------------------------------------------------------- DTYPE-006


def _by_arithmetic(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind != "c":
        return array
    return (array.real + array.imag * np.array(1j, array.dtype)).astype(array.dtype)


def _real_if_close(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind != "c" or np.any(array.imag != 0):
        return array
    return array.real.astype(array.dtype)


_PARTS = [0.0, -0.0, 1.5, np.inf, -np.inf, np.nan]
_COMPLEX = np.empty(36, np.complex64)
_COMPLEX.real, _COMPLEX.imag = np.repeat(_PARTS, 6), np.tile(_PARTS, 6)

for name, base, way, value, why in (
    (
        "m-dtype-complex-by-arithmetic",
        MutableRegistry,
        _by_arithmetic,
        _COMPLEX,
        "`re + 1j * im` puts two halves together: an infinite part makes the other one NaN, and -0.0 is lost.",
    ),
    (
        "m-dtype-complex-real-if-close",
        FrozenRegistry,
        _real_if_close,
        np.array([complex(1.0, -0.0)], np.complex64),
        "`np.real_if_close`: imaginary parts that are all zero are left out and come back as plus zero.",
    ),
    (
        "m-dtype-complex128-via-complex64",
        MutableRegistry,
        through(np.complex64, np.complex128),
        np.array([0.1 + 0.2j]),
        "JAX narrows complex128 to complex64 by default.",
    ),
):
    CHAPTER.mutant(name, "DTYPE-006", detour(base, way), story=why, also=("DTYPE-002", "WRITE-001"))(changes(value))


# ------------------------------------------------------------------------------------------- DTYPE-007, 008, 009, 010


def _clip_to(dtype: Any, *of: Any) -> Callable[[np.ndarray], np.ndarray]:
    limits = np.iinfo(dtype)

    def way(array: np.ndarray) -> np.ndarray:
        if array.dtype not in of:
            return array
        low, high = max(limits.min, np.iinfo(array.dtype).min), min(limits.max, np.iinfo(array.dtype).max)
        return np.clip(array, low, high).astype(array.dtype)

    return way


def _as_text(array: np.ndarray) -> np.ndarray:
    if array.dtype != F64:
        return array
    return np.array([float(repr(float(number))) for number in array.ravel()], F64).reshape(array.shape)


def _via_float64(array: np.ndarray) -> np.ndarray:
    if array.dtype not in (np.int64, np.uint64):
        return array
    limit = 2.0**63 if array.dtype == np.int64 else 2.0**64
    wide = array.astype(F64)
    return np.where(wide < limit, wide, np.nextafter(limit, 0)).astype(array.dtype)


_INT64 = np.array([2**53 + 1, -(2**63), 2**63 - 1])
_UINT64 = np.array([2**63 + 5, 2**64 - 1], np.uint64)

for name, violates, base, way, value, why in (
    (
        "m-dtype-int64-via-float64",
        "DTYPE-007",
        MutableRegistry,
        _via_float64,
        _INT64,
        "HDF5 attributes, JSON and every spreadsheet hold numbers as float64: odd ones above 2**53 are lost.",
    ),
    (
        "m-dtype-int64-wrapped",
        "DTYPE-007",
        FrozenRegistry,
        through(np.int32, np.int64),
        _INT64,
        "`num_batches_tracked` is int64 in torch and int32 in JAX.",
    ),
    (
        "m-dtype-uint64-via-int64",
        "DTYPE-007",
        MutableRegistry,
        _clip_to(np.int64, np.dtype(np.uint64)),
        _UINT64,
        "torch had no uint64 for years; hash tables above 2**63 are clipped.",
    ),
    (
        "m-dtype-float64-via-float32",
        "DTYPE-008",
        FrozenRegistry,
        through(F32, F64),
        np.array([0.1, 1e300]),
        "JAX narrows to float32 by default, where 1e300 is infinite.",
    ),
    (
        "m-dtype-float64-as-text",
        "DTYPE-008",
        MutableRegistry,
        _as_text,
        words(F64, 0x7FF8000000001234, 0xFFF8000000000000),
        "Through JSON or a text file every finite number comes back, and every NaN as the same one.",
    ),
    (
        "m-dtype-uint32-via-int32",
        "DTYPE-009",
        MutableRegistry,
        _clip_to(np.int32, np.dtype(np.uint32)),
        np.array([2**32 - 1], np.uint32),
        "torch has no uint32 worth the name: NNX' RngCount and quantized words of MLX are clipped.",
    ),
    (
        "m-dtype-int32-via-float32",
        "DTYPE-009",
        FrozenRegistry,
        lambda a: np.clip(a.astype(F32), -(2.0**31), 2147483520.0).astype(np.int32) if a.dtype == np.int32 else a,
        np.array([2**24 + 1], np.int32),
        "All inputs become float32 first: 2**24 + 1 does not.",
    ),
    (
        "m-dtype-int8-via-uint8",
        "DTYPE-009",
        MutableRegistry,
        _clip_to(np.uint8, np.dtype(np.int8)),
        np.array([-128, -1], np.int8),
        "Quantized weights are bytes; negative ones are clipped to zero.",
    ),
    (
        "m-dtype-uint16-via-float16",
        "DTYPE-009",
        FrozenRegistry,
        lambda a: np.clip(a.astype(F16).astype(F32), 0, 65504).astype(np.uint16) if a.dtype == np.uint16 else a,
        np.array([2049, 65535], np.uint16),
        "Sixteen bits are sixteen bits: indices of a codebook travel as halves.",
    ),
):
    CHAPTER.mutant(name, violates, detour(base, way), story=why, also=("DTYPE-002", "WRITE-001"))(changes(value))


class BooleansAreNumbers(Alters):
    """Lists, reads and takes booleans as integers."""

    number = "uint8"

    def alter(self, key: str, entry: Entry) -> Entry:
        return with_fields(entry, dtype=self.number) if entry.dtype == "bool" else entry

    def _read(self, key: str, /) -> np.ndarray:
        array = super()._read(key)
        return array.astype(self.number) if array.dtype == bool else array

    def _convert(self, key: str, value: Any, /) -> np.ndarray:
        array = super()._convert(key, value)
        entry = self.get(self.aliases.get(key, key)) if isinstance(key, str) else None
        return array.astype(self.number) if entry is not None and array.dtype == bool else array

    def _stage(self, key: str, value: np.ndarray, /) -> Any:
        return super()._stage(key, value.astype(bool) if self.was_bool(key) else value)


class BooleansAreBytes(BooleansAreNumbers, MutableRegistry):
    def was_bool(self, key: str) -> bool:
        return self._known(key).dtype == bool


class BooleansAreSmallIntegers(BooleansAreNumbers, FrozenRegistry):
    number = "int8"

    def was_bool(self, key: str) -> bool:
        return self._known_entries[key].dtype == "bool"


class StoresBooleansAsBytes(Alters, MutableRegistry):
    def _bytes(self) -> set[str]:
        return self.__dict__.setdefault("as_bytes", set())

    def alter(self, key: str, entry: Entry) -> Entry:
        return with_fields(entry, dtype="bool") if key in self._bytes() else entry

    def _read(self, key: str, /) -> np.ndarray:
        array = super()._read(key)
        return array.astype(bool) if key in self._bytes() else array

    def _commit(self, staged: Mapping[str, Any], /) -> Self:
        super()._commit(staged)
        for key, value in staged.items():
            if value is not None and value.dtype == bool:
                self._known(key).array = value.astype(np.uint8)
                self._bytes().add(key)
        return self


_MASK = one(np.array([True, False, True]), kind=BUFFER)


def _listed_as_a_number(harness: Harness) -> None:
    registry = over(harness, _MASK)[1]
    shown(registry["x"].dtype != "bool" and registry.read("x").dtype != bool)


CHAPTER.mutant(
    "m-dtype-bool-as-uint8",
    "DTYPE-010",
    BooleansAreBytes,
    story="Attention masks were uint8 in old torch, and still are in many formats.",
    also=("READ-006", "WRITE-006"),
)(_listed_as_a_number)
CHAPTER.mutant(
    "m-dtype-bool-as-int8",
    "DTYPE-010",
    BooleansAreSmallIntegers,
    story="NumPy's bool is an int8 for Numba and for Arrow.",
    also=("WRITE-006", "READ-006"),
)(_listed_as_a_number)


@CHAPTER.mutant(
    "m-dtype-bool-stored-as-bytes",
    "DTYPE-010",
    StoresBooleansAsBytes,
    story="The loaded mask is 0 and 1 in bytes: `x[mask]` picks rows 0 and 1 instead of masking.",
    also=("DTYPE-002", "WRITE-009", "ATOM-001"),
)
def _(harness: Harness) -> None:
    model, registry = over(harness, _MASK)
    shown(accepted(lambda: registry.replace({"x": np.array([False, False, True])})))
    shown(registry["x"].dtype == "bool" and harness.peek(model, "x").dtype == np.uint8)
