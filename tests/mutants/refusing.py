"""Mutants of chapter 8, part two: values that are taken though they do not fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np

from mutants.support import (
    F16,
    F32,
    F64,
    PLAIN,
    Chapter,
    accepted,
    entry_of,
    looked,
    names_of,
    noise,
    one,
    over,
    shown,
    without,
)
from stateregistry.entry import Entry, numpy_dtype
from stateregistry_conformance.harness import Harness
from stateregistry_numpy.registry import FrozenRegistry, MutableRegistry

CHAPTER = Chapter()


class Fits:
    """Makes values fit on the way in: `fit` says how, for an array and the entry that it is meant for."""

    def fit(self, array: np.ndarray, entry: Entry) -> np.ndarray:
        return array

    def _convert(self, key: str, value: Any, /) -> np.ndarray:
        array = super()._convert(key, value)
        entry = entry_of(self, key)
        return array if entry is None else self.fit(array, entry)


def takes(value: np.ndarray, given: Any) -> Callable[[Harness], None]:
    """The proof that `given` is taken for a place that holds `value`."""

    def proof(harness: Harness) -> None:
        _, registry = over(harness, one(value))
        shown(accepted(lambda: registry.replace({"x": given})))

    return proof


# ---------------------------------------------------------------------------------------------------------- WRITE-005


class Broadcasts(Fits, MutableRegistry):
    def fit(self, array: np.ndarray, entry: Entry) -> np.ndarray:
        try:
            return np.broadcast_to(array, entry.shape)
        except ValueError:
            return array


class BroadcastsOne(Fits, FrozenRegistry):
    def fit(self, array: np.ndarray, entry: Entry) -> np.ndarray:
        return np.full(entry.shape, array.item(), array.dtype) if array.shape == (1,) and entry.shape else array


class ExchangesScalars(Fits, FrozenRegistry):
    def fit(self, array: np.ndarray, entry: Entry) -> np.ndarray:
        return array.reshape(entry.shape) if {array.shape, entry.shape} == {(), (1,)} else array


class ScalarFromOne(Fits, MutableRegistry):
    def fit(self, array: np.ndarray, entry: Entry) -> np.ndarray:
        return array[0] if array.shape == (1,) and entry.shape == () else array


class ReshapesEqualSizes(Fits, FrozenRegistry):
    def fit(self, array: np.ndarray, entry: Entry) -> np.ndarray:
        return array.reshape(entry.shape) if array.size == entry.size and array.size > 1 else array


class Transposes(Fits, MutableRegistry):
    def fit(self, array: np.ndarray, entry: Entry) -> np.ndarray:
        return array.T if array.ndim == 2 and array.shape != entry.shape and array.T.shape == entry.shape else array


class EmptyIsEmpty(Fits, MutableRegistry):
    def fit(self, array: np.ndarray, entry: Entry) -> np.ndarray:
        return array.reshape(entry.shape) if array.size == entry.size == 0 else array


class DropsLeadingOnes(Fits, FrozenRegistry):
    def fit(self, array: np.ndarray, entry: Entry) -> np.ndarray:
        while array.ndim > len(entry.shape) and array.shape[0] == 1 and array.ndim > 1:
            array = array[0]
        return array


class CutsRows(Fits, MutableRegistry):
    def fit(self, array: np.ndarray, entry: Entry) -> np.ndarray:
        longer = array.ndim == len(entry.shape) > 0 and array.shape[1:] == entry.shape[1:]
        return array[: entry.shape[0]] if longer else array


for name, cls, value, given, why in (
    ("m-write-broadcast", Broadcasts, noise((3,)), noise((1,)), "`v[...] = value` of an NNX variable broadcasts."),
    (
        "m-write-broadcast-rows",
        Broadcasts,
        noise((2, 3)),
        noise((3,)),
        "NumPy's assignment repeats a row for a matrix.",
    ),
    (
        "m-write-broadcast-one",
        BroadcastsOne,
        noise((3,)),
        noise((1,)),
        "A single number per tensor, as scales of quantized weights are stored, is spread over the channels.",
    ),
    (
        "m-write-scalar-and-one",
        ExchangesScalars,
        noise((1,)),
        noise(()),
        "Formats without rank 0: () and (1,) are taken for one another in both directions.",
    ),
    ("m-write-scalar-from-one", ScalarFromOne, noise(()), noise((1,)), "torch's `load_state_dict` takes (1,) for ()."),
    (
        "m-write-reshaped",
        ReshapesEqualSizes,
        noise((2, 3)),
        noise((3, 2)),
        "TensorFlow's assign from a flat buffer asks for the number of elements only.",
    ),
    (
        "m-write-transposed",
        Transposes,
        noise((2, 3)),
        noise((3, 2)),
        "A loader that turns a Linear kernel when that makes it fit; square ones it leaves, and they are wrong.",
    ),
    (
        "m-write-empty-sizes",
        EmptyIsEmpty,
        np.zeros((0, 3), F32),
        np.zeros((2, 0), F32),
        "There is nothing to copy, so the shapes are never compared.",
    ),
    (
        "m-write-leading-ones",
        DropsLeadingOnes,
        noise((3,)),
        noise((1, 3)),
        "An axis of one element for a batch or a device, as `jax.pmap` adds it, is stripped.",
    ),
    (
        "m-write-cut-to-size",
        CutsRows,
        noise((2, 3)),
        noise((4, 3)),
        "The padded rows of an embedding table are cut off when the model has a smaller vocabulary.",
    ),
):
    CHAPTER.mutant(name, "WRITE-005", cls, story=why, also=("LOAD-002",))(takes(value, given))


# ---------------------------------------------------------------------------------------------------------- WRITE-006


class Casts(Fits, MutableRegistry):
    def fit(self, array: np.ndarray, entry: Entry) -> np.ndarray:
        with np.errstate(all="ignore"):
            real = array.real if array.dtype.kind == "c" and "complex" not in entry.dtype else array
            return real.astype(numpy_dtype(entry.dtype)) if array.dtype.kind in "biufc" else array


class CastsSafely(Fits, FrozenRegistry):
    def fit(self, array: np.ndarray, entry: Entry) -> np.ndarray:
        target = numpy_dtype(entry.dtype)
        return array.astype(target) if np.can_cast(array.dtype, target, "safe") else array


class CastsFloats(Fits, FrozenRegistry):
    def fit(self, array: np.ndarray, entry: Entry) -> np.ndarray:
        both = array.dtype.kind == "f" and entry.dtype.startswith("float") and "float8" not in entry.dtype
        with np.errstate(all="ignore"):
            return array.astype(numpy_dtype(entry.dtype)) if both else array


class DropsImaginaryParts(Fits, FrozenRegistry):
    def fit(self, array: np.ndarray, entry: Entry) -> np.ndarray:
        return array.real if array.dtype == np.complex64 and entry.dtype == "float32" else array


class Reinterprets(Fits, MutableRegistry):
    def fit(self, array: np.ndarray, entry: Entry) -> np.ndarray:
        target = numpy_dtype(entry.dtype)
        foreign = array.dtype != target and array.dtype.itemsize == target.itemsize and array.dtype.kind in "iu"
        return np.array(array, order="C").view(target) if foreign else array


class WeakScalars(FrozenRegistry):
    def _convert(self, key: str, value: Any, /) -> np.ndarray:
        entry = entry_of(self, key)
        if entry is not None and type(value) in {int, float, list} and "float" in entry.dtype:
            return np.asarray(value, numpy_dtype(entry.dtype))
        return super()._convert(key, value)


class BooleansAreBytes(Fits, MutableRegistry):
    def fit(self, array: np.ndarray, entry: Entry) -> np.ndarray:
        return array.astype(bool) if entry.dtype == "bool" and array.dtype == np.uint8 else array


for name, cls, value, given, why in (
    (
        "m-write-casts",
        Casts,
        np.arange(3, dtype=np.int32),
        np.array([2.7, 1.0, 0.0], F32),
        "torch and Keras cast while they load: 2.7 becomes 2.",
    ),
    (
        "m-write-casts-safely",
        CastsSafely,
        noise((3,), F64),
        noise((3,), F32),
        "'No information is lost': a float32 checkpoint goes into a float64 model, which then is not what it says.",
    ),
    (
        "m-write-casts-floats",
        CastsFloats,
        noise((3,), F32),
        noise((3,), F64),
        "Orbax casts to the dtype of the target; float64 is rounded without a word.",
    ),
    (
        "m-write-drops-imaginary",
        DropsImaginaryParts,
        noise((3,), F32),
        noise((3,), np.complex64) * np.complex64(1j),
        "torch loads a complex value into a real parameter by dropping the imaginary part.",
    ),
    (
        "m-write-reinterprets",
        Reinterprets,
        noise((3,), F32),
        np.arange(3, dtype=np.uint32),
        "Raw bits are how bfloat16 gets out of torch; taken for granted on the way in, every uint16 is a bfloat16.",
    ),
    (
        "m-write-weak-scalars",
        WeakScalars,
        noise((), F32),
        1.5,
        "JAX' weak types: a Python float has no dtype of its own and takes that of the place.",
    ),
    (
        "m-write-bytes-for-booleans",
        BooleansAreBytes,
        np.array([True, False]),
        np.array([2, 0], np.uint8),
        "Old checkpoints of torch store masks as uint8; what is not zero counts as true.",
    ),
):
    CHAPTER.mutant(name, "WRITE-006", cls, story=why, also=("LOAD-002",))(takes(value, given))


class AdoptsDtypes(MutableRegistry):
    def replace(self, values: Mapping[str, Any], /) -> Self:
        foreign = {}
        for key in names_of(values):
            entry, array = entry_of(self, key), looked(values, key)
            if entry is not None and array is not None and array.dtype.kind == "f" and array.shape == entry.shape:
                if array.dtype != numpy_dtype(entry.dtype) and "float" in entry.dtype:
                    foreign[key] = np.array(array, dtype=array.dtype.newbyteorder("="), order="C", copy=True)
        super().replace(without(values, foreign.__contains__))
        for key, array in foreign.items():
            self._known(self.aliases.get(key, key)).array = array
        return self


@CHAPTER.mutant(
    "m-write-adopts-dtype",
    "WRITE-006",
    AdoptsDtypes,
    story="Linen, NNX and MLX install the value with whatever dtype it has: the model is float16 from then on.",
    also=("WRITE-008", "WRITE-009", "DTYPE-002"),
)
def _(harness: Harness) -> None:
    model, registry = over(harness, PLAIN)
    shown(accepted(lambda: registry.replace({"enc/b": noise((3,), F16)})))
    shown(registry["enc/b"].dtype == "float16" and harness.peek(model, "enc/b").dtype == F16)
