"""Mutants of chapter 8, part five: values that are borrowed, misread for their form, or never arrive."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np

from mutants.support import (
    F32,
    Chapter,
    bits,
    error_of,
    noise,
    one,
    over,
    shown,
)
from stateregistry import errors
from stateregistry_conformance.harness import Harness
from stateregistry_numpy.registry import FrozenRegistry, MutableRegistry
from stateregistry_numpy.tree import _changed

CHAPTER = Chapter()

LARGE = 1 << 20


# ---------------------------------------------------------------------------------------------------------- WRITE-011


class Borrows(MutableRegistry):
    """Keeps the arrays that it is given."""

    def borrows(self, value: np.ndarray) -> bool:
        return True

    def _convert(self, key: str, value: Any, /) -> np.ndarray:
        if type(value) is np.ndarray and value.flags.c_contiguous and value.dtype.isnative and value.flags.owndata:
            self.__dict__.setdefault("given", {})[self.aliases.get(key, key)] = value
        return super()._convert(key, value)

    def _commit(self, staged: Mapping[str, Any], /) -> Self:
        given = self.__dict__.pop("given", {})
        super()._commit(staged)
        for key in staged:
            cell = self._known(key)
            mine = given.get(key)  # what an earlier, refused write has left there does not count
            if mine is not None and staged[key] is not None and self.borrows(mine) and bits(mine) == bits(staged[key]):
                cell.array = mine
        return self


class BorrowsLarge(Borrows):
    def borrows(self, value: np.ndarray) -> bool:
        return value.nbytes >= LARGE


class BorrowsInATree(FrozenRegistry):
    def _convert(self, key: str, value: Any, /) -> np.ndarray:
        if type(value) is np.ndarray and value.flags.c_contiguous and value.nbytes >= LARGE:
            self.__dict__.setdefault("given", {})[self.aliases.get(key, key)] = value
        return super()._convert(key, value)

    def _commit(self, staged: Mapping[str, Any], /) -> Self:
        given = self.__dict__.pop("given", {})
        other = super()._commit(staged)
        model = copy.copy(other._model)
        for key in staged:
            if key in given and bits(given[key]) == bits(staged[key]):
                collection, path = other._places[key]
                object.__setattr__(model, collection, _changed(getattr(model, collection), {path: given[key]}))
        other._model = model
        return other


def _caller_reaches_the_model(value: np.ndarray) -> Callable[[Harness], None]:
    def proof(harness: Harness) -> None:
        _, registry = over(harness, one(np.zeros_like(value)))
        mine = value.copy()
        after = registry.replace({"x": mine})
        mine[...] = 9
        shown(bits(harness.peek(after.unwrap(), "x")) == bits(mine))

    return proof


CHAPTER.mutant(
    "m-write-borrows",
    "WRITE-011",
    Borrows,
    story="`torch.from_numpy` borrows always: the caller's next batch overwrites the weights.",
    also=("WRITE-009", "ALIAS-006"),
)(_caller_reaches_the_model(noise((3,))))
CHAPTER.mutant(
    "m-write-borrows-large",
    "WRITE-011",
    BorrowsLarge,
    story="`jnp.asarray` borrows large aligned arrays on CPU while it copies small ones, so that small tests pass.",
)(_caller_reaches_the_model(noise((512, 512))))
CHAPTER.mutant(
    "m-write-borrows-large-tree",
    "WRITE-011",
    BorrowsInATree,
    story="In a Linen tree too: `device_put` of a large NumPy array is no copy on CPU.",
)(_caller_reaches_the_model(noise((512, 512))))


# ---------------------------------------------------------------------------------------------------------- WRITE-012


class RefusesNegativeStrides(MutableRegistry):
    def _convert(self, key: str, value: Any, /) -> np.ndarray:
        array = super()._convert(key, value)
        if any(stride < 0 for stride in array.strides):
            raise ValueError("at least one stride in the given numpy array is negative")
        return array


class RefusesBigEndian(FrozenRegistry):
    def _convert(self, key: str, value: Any, /) -> np.ndarray:
        array = super()._convert(key, value)
        if not array.dtype.isnative:
            raise TypeError(f"{array.dtype} is not a valid JAX array type")
        return array


class TakesRawBytes(MutableRegistry):
    def _convert(self, key: str, value: Any, /) -> np.ndarray:
        array = super()._convert(key, value)
        return array if array.dtype.isnative else np.array(array).view(array.dtype.newbyteorder("="))


class TakesMemoryOrder(FrozenRegistry):
    def _convert(self, key: str, value: Any, /) -> np.ndarray:
        array = super()._convert(key, value)
        if array.ndim > 1 and array.flags.f_contiguous and not array.flags.c_contiguous:
            return array.T.reshape(array.shape)
        return array


class TakesTheBase(MutableRegistry):
    def _convert(self, key: str, value: Any, /) -> np.ndarray:
        array = super()._convert(key, value)
        base = array.base
        strided = isinstance(base, np.ndarray) and not array.flags.c_contiguous and 0 not in array.strides
        if strided and array.ndim == 1 and base.dtype == array.dtype and base.size >= array.size:
            return base.reshape(-1)[: array.size]
        return array


class RefusesReadOnly(MutableRegistry):
    def _convert(self, key: str, value: Any, /) -> np.ndarray:
        if isinstance(value, np.ndarray) and not value.flags.writeable:
            raise ValueError("cannot take a read-only array")
        return super()._convert(key, value)


class TakesArraysOnly(FrozenRegistry):
    def _convert(self, key: str, value: Any, /) -> np.ndarray:
        if not isinstance(value, np.ndarray):
            raise TypeError(f"expected an array, got {type(value).__name__}")
        return super()._convert(key, value)


class Broadcasted(FrozenRegistry):
    def _convert(self, key: str, value: Any, /) -> np.ndarray:
        array = super()._convert(key, value)
        if array.ndim > 1 and array.strides[0] == 0:
            rest = np.zeros_like(array)
            rest[0] = array[0]
            return rest
        return array


class OfferedArray:
    """Something of another library that offers itself as an array."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.array(self.array, dtype=dtype, copy=copy)


def _locked(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


_GIVEN: dict[str, Callable[[], Any]] = {
    "negative": lambda: noise((2, 3), seed=9)[::-1],
    "big": lambda: noise((2, 3), seed=9).astype(">f4"),
    "fortran": lambda: np.asfortranarray(noise((2, 3), seed=9)),
    "locked": lambda: _locked(noise((2, 3), seed=9)),
    "offered": lambda: OfferedArray(noise((2, 3), seed=9)),
    "zero": lambda: np.broadcast_to(noise((3,), seed=9), (2, 3)),
    "every_second": lambda: noise((6,), seed=9)[::2],
}


def _form_changes_the_value(form: str) -> Callable[[Harness], None]:
    def proof(harness: Harness) -> None:
        given = _GIVEN[form]()
        wanted = np.array(given.array if isinstance(given, OfferedArray) else given, dtype=F32, order="C")
        _, registry = over(harness, one(np.zeros_like(wanted)))
        wrote = error_of(lambda: shown(bits(registry.replace({"x": given}).read("x")) != bits(wanted)))
        shown(wrote is None or isinstance(wrote, errors.StateError))

    return proof


for name, cls, form, why in (
    ("m-write-negative-strides-refused", RefusesNegativeStrides, "negative", "torch raises on negative strides."),
    ("m-write-big-endian-refused", RefusesBigEndian, "big", "JAX and torch raise on big-endian arrays."),
    (
        "m-write-big-endian-raw",
        TakesRawBytes,
        "big",
        "`frombuffer` with the name of the dtype and without its byte order: numbers of another world.",
    ),
    (
        "m-write-memory-order",
        TakesMemoryOrder,
        "fortran",
        "`safetensors.numpy.save` of a Fortran-ordered array takes its memory as it lies: [[0,1,2],[3,4,5]] is another matrix.",
    ),
    (
        "m-write-strided-memory",
        TakesTheBase,
        "every_second",
        "A writer that takes the memory of a slice as it lies: of `x[::2]` the first half of `x`.",
    ),
    ("m-write-read-only-refused", RefusesReadOnly, "locked", "A Cython or DLPack buffer wants writable memory."),
    (
        "m-write-arrays-only",
        TakesArraysOnly,
        "offered",
        "`isinstance(value, np.ndarray)`: JAX arrays and torch tensors offer `__array__` and are no such instances.",
    ),
    (
        "m-write-zero-strides",
        Broadcasted,
        "zero",
        "A broadcast view has memory for one row; a transfer by address and size fills the rest with what comes after.",
    ),
):
    more = ("LOAD-007",) if form == "locked" else ()  # a registry as a source lends read-only views
    CHAPTER.mutant(name, "WRITE-012", cls, story=why, also=more)(_form_changes_the_value(form))


# ---------------------------------------------------------------------------------------------------------- WRITE-014


class WritesNothingIntoAbstract(MutableRegistry):
    def _commit(self, staged: Mapping[str, Any], /) -> Self:
        return super()._commit({key: value for key, value in staged.items() if self._known(key).concrete})


class WritesNothingIntoAbstractTree(FrozenRegistry):
    def _commit(self, staged: Mapping[str, Any], /) -> Self:
        return super()._commit({key: value for key, value in staged.items() if self[key].concrete})


class WritesZerosIntoAbstract(MutableRegistry):
    def _commit(self, staged: Mapping[str, Any], /) -> Self:
        empty = {k for k, v in staged.items() if v is not None and not self._known(k).concrete}
        return super()._commit({k: np.zeros_like(v) if k in empty else v for k, v in staged.items()})


def _abstract_write_is_lost(harness: Harness) -> None:
    _, registry = over(harness, one(noise((3,)), concrete=False))
    after = registry.replace({"x": noise((3,), seed=9)})
    shown(not after["x"].concrete or bits(after.read("x")) != bits(noise((3,), seed=9)))


for name, cls, why in (
    (
        "m-write-abstract-lost",
        WritesNothingIntoAbstract,
        "A torch copy into a meta tensor does nothing and `load_state_dict` still reports that all keys matched.",
    ),
    (
        "m-write-abstract-lost-tree",
        WritesNothingIntoAbstractTree,
        "`jax.tree.map` over arrays only: a ShapeDtypeStruct stays what it is.",
    ),
    (
        "m-write-abstract-zeroed",
        WritesZerosIntoAbstract,
        "`to_empty` or `zeros_like` makes the place concrete, and the copy comes too early or never.",
    ),
):
    CHAPTER.mutant(name, "WRITE-014", cls, story=why)(_abstract_write_is_lost)
