"""Mutants of chapter 11, part one: values that take a detour over another dtype, and dtypes that are not those of the model.

`cast` is a function of the core; what can be wrong with it is in `functions`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace as with_fields
from typing import Any, Self

import numpy as np

from mutants.support import BF16, BUFFER, F16, F32, F64, Alters, Chapter, bits, noise, one, over, shown
from stateregistry.entry import Entry
from stateregistry_conformance.harness import Harness
from stateregistry_numpy.registry import FrozenRegistry, MutableRegistry

CHAPTER = Chapter()


def detour(base: type, way: Callable[[np.ndarray], np.ndarray], when: str = "write") -> type:
    """A registry whose values go another way, when they are written or when they are read."""

    class Detour(base):
        if when == "write":

            def _stage(self, key: str, value: np.ndarray, /) -> Any:
                with np.errstate(all="ignore"):
                    return super()._stage(key, np.array(way(value), order="C"))

        else:

            def _read(self, key: str, /) -> np.ndarray:
                with np.errstate(all="ignore"):
                    return way(super()._read(key))

    return Detour


def through(dtype: Any, *of: Any) -> Callable[[np.ndarray], np.ndarray]:
    """The way of an array over another dtype and back, for arrays of the dtypes given."""
    return lambda array: array.astype(dtype).astype(array.dtype) if array.dtype in of else array


def changes(value: np.ndarray, kind: Any = BUFFER) -> Callable[[Harness], None]:
    """The proof that a value of the dtype of its place does not come back from a write followed by a read."""

    def proof(harness: Harness) -> None:
        _, registry = over(harness, one(np.zeros_like(value), kind=kind))
        shown(bits(registry.replace({"x": value}).read("x")) != bits(value))

    return proof


def patterns(dtype: Any) -> np.ndarray:
    """Every bit pattern of a dtype of 8 or 16 bits."""
    width = np.dtype(dtype).itemsize
    return np.arange(1 << 8 * width, dtype=f"u{width}").view(dtype)


def words(dtype: Any, *numbers: int) -> np.ndarray:
    """An array with the bits given."""
    return np.array(numbers, f"u{np.dtype(dtype).itemsize}").view(dtype)


# ---------------------------------------------------------------------------------------------------------- DTYPE-001


class ListsOpaque(Alters):
    """Makes entries of arrays that no registry holds; `shown_as` says how they are read."""

    def shown_as(self, array: np.ndarray) -> np.ndarray | None:
        return None

    def _raw(self) -> dict[str, np.ndarray]:
        return {}

    def _pressed(self) -> dict[str, np.ndarray]:
        found = {key: self.shown_as(array) for key, array in self._raw().items()}
        return {key: array for key, array in found.items() if array is not None}

    def _entries(self) -> Mapping[str, Entry]:
        extra = {key: Entry(BUFFER, array.shape, array.dtype.name) for key, array in self._pressed().items()}
        return {**super()._entries(), **extra}

    def _find(self, key: str, /) -> Entry | None:
        return self._entries().get(key)

    def _opaque(self) -> Mapping[str, str]:
        pressed = self._pressed()
        return {key: why for key, why in super()._opaque().items() if key not in pressed}

    def _read(self, key: str, /) -> np.ndarray:
        pressed = self._pressed()
        return pressed[key] if key in pressed else super()._read(key)


class ListsStructuredAsBytes(ListsOpaque, MutableRegistry):
    def _raw(self) -> dict[str, np.ndarray]:
        return {key: cell.array for key, cell in self._module.cells() if cell.dtype.names}

    def shown_as(self, array: np.ndarray) -> np.ndarray | None:
        return np.frombuffer(array.tobytes(), np.uint8)


class ListsTextAsNumbers(ListsOpaque, FrozenRegistry):
    def _raw(self) -> dict[str, np.ndarray]:
        leaves = {"/".join(map(str, path)): leaf for _, path, leaf in self._model.leaves()}
        return {k: leaf for k, leaf in leaves.items() if isinstance(leaf, np.ndarray) and leaf.dtype.kind == "U"}

    def shown_as(self, array: np.ndarray) -> np.ndarray | None:
        return np.frombuffer(array.tobytes(), np.uint32)


def _presses(harness: Harness) -> None:
    specimen = harness.specimen("opaque")
    shown(set(specimen.keys) & set(harness.registry(specimen.model)))


CHAPTER.mutant(
    "m-dtype-structured-as-bytes",
    "DTYPE-001",
    ListsStructuredAsBytes,
    story="Packed weights (int4, GGUF blocks) are listed as the bytes they lie in: right bits, and no other side knows what.",
    also=("LIST-003", "LIST-006", "SNAP-005"),
)(_presses)
CHAPTER.mutant(
    "m-dtype-text-as-numbers",
    "DTYPE-001",
    ListsTextAsNumbers,
    story="A vocabulary in the checkpoint, as TensorFlow's string tensors, becomes an array of code points.",
    also=("LIST-003", "LIST-006", "SNAP-005"),
)(_presses)


# ---------------------------------------------------------------------------------------------------------- DTYPE-002


class NarrowsTheCell(Alters, MutableRegistry):
    """Holds 64 bits in 32 after a write and goes on saying 64."""

    def _wide(self) -> dict[str, str]:
        return self.__dict__.setdefault("wide", {})

    def alter(self, key: str, entry: Entry) -> Entry:
        return with_fields(entry, dtype=self._wide().get(key, entry.dtype))

    def _read(self, key: str, /) -> np.ndarray:
        array = super()._read(key)
        return array.astype(self._wide().get(key, array.dtype))

    def _commit(self, staged: Mapping[str, Any], /) -> Self:
        super()._commit(staged)
        for key, value in staged.items():
            if value is not None and value.dtype == F64:
                with np.errstate(all="ignore"):
                    self._known(key).array = value.astype(F32)
                self._wide()[key] = "float64"
        return self


@CHAPTER.mutant(
    "m-dtype-cell-narrowed",
    "DTYPE-002",
    NarrowsTheCell,
    story="The entry is what the model was declared with; the array behind it is what JAX made of it with x64 switched off.",
    also=("DTYPE-008", "WRITE-008", "WRITE-009", "SNAP-006"),
)
def _(harness: Harness) -> None:
    model, registry = over(harness, one(noise((3,), F64)))
    registry.replace({"x": np.array([1e300, 0.1, 1.0])})
    shown(registry["x"].dtype == "float64" and harness.peek(model, "x").dtype == F32)


def _x64_off(array: np.ndarray) -> np.ndarray:
    narrow = {"int64": np.int32, "uint64": np.uint32, "float64": F32, "complex128": np.complex64}.get(array.dtype.name)
    return array if narrow is None else array.astype(narrow).astype(array.dtype)


CHAPTER.mutant(
    "m-dtype-x64-off",
    "DTYPE-002",
    detour(FrozenRegistry, _x64_off),
    story="With x64 switched off `jnp.asarray` turns 2**40 + 7 into 7 and 1e300 into infinity without an error.",
    also=("DTYPE-006", "DTYPE-007", "DTYPE-008", "WRITE-001"),
)(changes(np.array([2**40 + 7, -1])))


def _clipped(array: np.ndarray) -> np.ndarray:
    return np.clip(array, -65504, 65504).astype(array.dtype) if array.dtype in (F32, F64) else array


CHAPTER.mutant(
    "m-dtype-clipped-to-half",
    "DTYPE-002",
    detour(MutableRegistry, _clipped),
    story="Values are clipped to the range of float16 'for stability': mixed-precision loaders of diffusion models do it.",
    also=("DTYPE-003", "DTYPE-008", "WRITE-001"),
)(changes(np.array([1e30, 1.0], F32)))


# ---------------------------------------------------------------------------------------------------------- DTYPE-003


def _quiet(dtype: Any, exponent: int, quiet: int) -> Callable[[np.ndarray], np.ndarray]:
    word = f"u{np.dtype(dtype).itemsize}"

    def way(array: np.ndarray) -> np.ndarray:
        if array.dtype != dtype:
            return array
        raw = np.array(array, order="C").view(word)
        nan = ((raw & exponent) == exponent) & ((raw & (quiet * 2 - 1)) != 0)
        return np.where(nan, raw | quiet, raw).astype(word).view(dtype)

    return way


def _flushed(dtype: Any) -> Callable[[np.ndarray], np.ndarray]:
    def way(array: np.ndarray) -> np.ndarray:
        if array.dtype != dtype:
            return array
        tiny = np.abs(array) < np.finfo(dtype).tiny
        return np.where(tiny, np.copysign(dtype(0), array), array)

    return way


def _one_nan(*dtypes: Any) -> Callable[[np.ndarray], np.ndarray]:
    return lambda a: np.where(np.isnan(a), np.array(np.nan, a.dtype), a) if a.dtype in dtypes else a


for name, base, way, value, when, why in (
    (
        "m-dtype-float32-quietened",
        MutableRegistry,
        _quiet(F32, 0x7F800000, 0x400000),
        words(F32, 0x7F800001, 0xFFA00000),
        "write",
        "One pass through a floating-point register (x87, or `x * 1`) quietens signalling NaNs.",
    ),
    (
        "m-dtype-float16-one-nan",
        FrozenRegistry,
        _one_nan(F16),
        words(F16, 0x7E01),
        "write",
        "Half goes over float32, where a conversion in software makes one NaN of all.",
    ),
    (
        "m-dtype-float16-subnormals-flushed",
        MutableRegistry,
        _flushed(F16),
        words(F16, 0x0001, 0x83FF),
        "read",
        "GPUs and some CPUs flush subnormal halves: every 50th weight of a small embedding is one.",
    ),
    (
        "m-dtype-float32-subnormals-flushed",
        FrozenRegistry,
        _flushed(F32),
        words(F32, 0x00000001),
        "write",
        "XLA on CPU runs with denormals flushed; a copy that is a computation loses them.",
    ),
    (
        "m-dtype-float16-via-bfloat16",
        MutableRegistry,
        through(BF16, F16),
        np.array([1.001], F16),
        "write",
        "Both are 'half'; a TPU has only one of them.",
    ),
):
    CHAPTER.mutant(
        name,
        "DTYPE-003",
        detour(base, way, when),
        story=why,
        also=("READ-004",) if when == "read" else ("DTYPE-002", "WRITE-001"),
    )(changes(value))


# ---------------------------------------------------------------------------------------------------------- DTYPE-004


for name, base, way, value, when, why in (
    (
        "m-dtype-bfloat16-quietened",
        MutableRegistry,
        _quiet(BF16, 0x7F80, 0x0040),
        words(BF16, 0x7F81),
        "write",
        "`.float().numpy()`: the usual detour of torch's bfloat16 over float32 changes signalling NaNs.",
    ),
    (
        "m-dtype-bfloat16-via-float16",
        FrozenRegistry,
        through(F16, BF16),
        np.array([1e38, 1e-30], BF16),
        "write",
        "Halves are taken for one another: above 65504 is infinity.",
    ),
    (
        "m-dtype-bfloat16-subnormals-flushed",
        MutableRegistry,
        lambda a: (
            np.where(np.abs(a.astype(F32)) < np.finfo(F32).tiny, a * 0, a).astype(a.dtype) if a.dtype == BF16 else a
        ),
        words(BF16, 0x0001),
        "read",
        "Accelerators have no subnormal bfloat16.",
    ),
    (
        "m-dtype-bfloat16-one-nan",
        FrozenRegistry,
        _one_nan(BF16),
        words(BF16, 0x7FC1, 0xFFFF),
        "read",
        "`nan_to_num`-like cleaning that keeps NaNs and makes one of them.",
    ),
):
    CHAPTER.mutant(
        name,
        "DTYPE-004",
        detour(base, way, when),
        story=why,
        also=("READ-004",) if when == "read" else ("DTYPE-002", "WRITE-001"),
    )(changes(value))
