"""Mutants of chapter 7, part one: arrays that are not what the model holds, or that hang on its memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace as with_fields
from typing import Any

import numpy as np

from mutants.oddities import Sharded, ShardedRegistry, ShardedSubject
from mutants.support import (
    F32,
    PLAIN,
    Alters,
    Chapter,
    bits,
    noise,
    one,
    over,
    shown,
)
from stateregistry.entry import Entry
from stateregistry_conformance.harness import Harness
from stateregistry_numpy.registry import FrozenRegistry, MutableRegistry

CHAPTER = Chapter()

LARGE = 1 << 20


# ----------------------------------------------------------------------------------------------------------- READ-001


class ShapesOfNumpyIntegers(Alters, MutableRegistry):
    def alter(self, key: str, entry: Entry) -> Entry:
        return with_fields(entry, shape=tuple(np.array(entry.shape, np.int64)))


@CHAPTER.mutant(
    "m-read-shape-of-numpy-integers",
    "READ-001",
    ShapesOfNumpyIntegers,
    story="Shapes taken from an array of sizes (HDF5, safetensors via NumPy) hold np.int64, which json.dumps refuses.",
)
def _(harness: Harness) -> None:
    shown(not all(type(size) is int for size in over(harness, PLAIN)[1]["enc/w"].shape))


class ScalarsHaveAnAxis(Alters, MutableRegistry):
    def alter(self, key: str, entry: Entry) -> Entry:
        return entry if entry.shape else with_fields(entry, shape=(1,))

    def _read(self, key: str, /) -> np.ndarray:
        array = super()._read(key)
        return array if array.shape else array.reshape(1)

    def _stage(self, key: str, value: np.ndarray, /) -> np.ndarray:
        return value.reshape(self._known(key).shape)


@CHAPTER.mutant(
    "m-read-scalars-have-an-axis",
    "READ-001",
    ScalarsHaveAnAxis,
    story="Formats and frameworks without rank 0 store (1,); torch takes the one for the other when it loads.",
    also=(
        "READ-002",
        "WRITE-005",
        "DTYPE-003",
        "DTYPE-004",
        "DTYPE-005",
        "DTYPE-006",
        "DTYPE-007",
        "DTYPE-008",
        "DTYPE-009",
        "DTYPE-010",
    ),
)
def _(harness: Harness) -> None:
    registry = over(harness, one(noise(())))[1]
    shown(registry["x"].shape == (1,) and registry.read("x").shape == (1,))


class ListsTheLocalShape(Alters, ShardedRegistry):
    def alter(self, key: str, entry: Entry) -> Entry:
        cell = self._known(key)
        return with_fields(entry, shape=cell.shards[0].shape) if isinstance(cell, Sharded) else entry

    def _read(self, key: str, /) -> np.ndarray:
        cell = self._known(key)
        return cell.shards[0] if isinstance(cell, Sharded) else super()._read(key)


@CHAPTER.mutant(
    "m-read-local-shape",
    "READ-001",
    ListsTheLocalShape,
    story="`DTensor.to_local()`: shape and values of the shard that this process has, correct among themselves.",
    also=("READ-005",),
    subject=ShardedSubject,
    correct=ShardedRegistry,
)
def _(harness: Any) -> None:
    specimen = harness.specimen("sharded")
    shown(harness.registry(specimen.model)["w"].shape == (1, 4))


# ----------------------------------------------------------------------------------------------------------- READ-002


class ReadsScalarsAsNumbers(MutableRegistry):
    def read(self, key: str, /) -> Any:
        array = super().read(key)
        return array if array.shape else array[()]


@CHAPTER.mutant(
    "m-read-scalars-as-numbers",
    "READ-002",
    ReadsScalarsAsNumbers,
    story="`array[()]`, `.item()` and reductions give a NumPy scalar where an array of rank 0 was meant.",
    also=(
        "SNAP-002",
        "DTYPE-003",
        "DTYPE-004",
        "DTYPE-005",
        "DTYPE-006",
        "DTYPE-007",
        "DTYPE-008",
        "DTYPE-009",
        "DTYPE-010",
    ),
)
def _(harness: Harness) -> None:
    shown(not isinstance(over(harness, one(noise(())))[1].read("x"), np.ndarray))


class ReadsContiguous(FrozenRegistry):
    def read(self, key: str, /) -> np.ndarray:
        return np.ascontiguousarray(super().read(key))


@CHAPTER.mutant(
    "m-read-contiguous-scalar",
    "READ-002",
    ReadsContiguous,
    story="`numpy.ascontiguousarray` turns shape () into (1,).",
    also=("SNAP-006",),
)
def _(harness: Harness) -> None:
    shown(over(harness, one(noise(())))[1].read("x").shape == (1,))


class ReadsFortranOrder(FrozenRegistry):
    def read(self, key: str, /) -> np.ndarray:
        return np.array(self.view(key), order="F", copy=True)


class ReadsReadOnly(FrozenRegistry):
    def read(self, key: str, /) -> np.ndarray:
        array = super().read(key)
        array.flags.writeable = False
        return array


class ReadsBorrowed(MutableRegistry):
    def read(self, key: str, /) -> np.ndarray:
        array = super().read(key)
        return array.reshape(-1).reshape(array.shape)


class ReadsBigEndian(MutableRegistry):
    def read(self, key: str, /) -> np.ndarray:
        array = super().read(key)
        return array.astype(array.dtype.newbyteorder(">")) if array.dtype.kind in "iu" else array


class ReadsHalfWider(FrozenRegistry):
    def read(self, key: str, /) -> np.ndarray:
        array = super().read(key)
        return array.astype(np.float64) if array.dtype == np.float16 else array


for name, cls, value, wrong, why in (
    (
        "m-read-fortran-order",
        ReadsFortranOrder,
        noise((2, 3)),
        lambda a: not a.flags.c_contiguous,
        "Kernels that are transposed on the way, or Keras' column-major weights, come out in the order they were made in.",
    ),
    (
        "m-read-read-only",
        ReadsReadOnly,
        noise((3,)),
        lambda a: not a.flags.writeable,
        "`np.asarray` of a JAX array is read-only.",
    ),
    (
        "m-read-not-the-owner",
        ReadsBorrowed,
        noise((2, 3)),
        lambda a: not a.flags.owndata,
        "A reshape at the end of `read`: the array is right and independent, but a view that cannot be resized or given away.",
    ),
    (
        "m-read-big-endian",
        ReadsBigEndian,
        np.arange(3, dtype=np.int32),
        lambda a: not a.dtype.isnative,
        "Counters of an HDF5 file or a network protocol are big-endian; `tobytes` of such an array is another text.",
    ),
    (
        "m-read-float16-widened",
        ReadsHalfWider,
        noise((3,), np.float16),
        lambda a: a.dtype != np.float16,
        "Half precision is widened for convenience, since NumPy computes so slowly with it.",
    ),
):

    def _proof(harness: Harness, value: Any = value, wrong: Callable[[Any], bool] = wrong) -> None:
        shown(wrong(over(harness, one(value))[1].read("x")))

    more = ("DTYPE-003",) if cls is ReadsHalfWider else ()
    CHAPTER.mutant(name, "READ-002", cls, story=why, also=more)(_proof)


# ----------------------------------------------------------------------------------------------------------- READ-003


class ReadsTheMemory(MutableRegistry):
    def borrows(self, array: np.ndarray) -> bool:
        return True

    def read(self, key: str, /) -> np.ndarray:
        array = super().read(key)
        live = self._known(self.aliases.get(key, key)).array
        return live if self.borrows(live) else array


class ReadsLargeMemory(ReadsTheMemory):
    def borrows(self, array: np.ndarray) -> bool:
        return array.nbytes >= LARGE


class ReadsTheSameArrayAgain(FrozenRegistry):
    def read(self, key: str, /) -> np.ndarray:
        cache: dict[str, np.ndarray] = self.__dict__.setdefault("cache", {})
        if key not in cache:
            cache[key] = super().read(key)
        return cache[key]

    def replace(self, values: Any, /) -> Any:
        other = super().replace(values)
        if other is not self:
            other.__dict__.pop("cache", None)
        return other


def _hangs_on_memory(value: np.ndarray) -> Callable[[Harness], None]:
    def proof(harness: Harness) -> None:
        model, registry = over(harness, one(value))
        old = bits(harness.peek(model, "x"))
        array = registry.read("x")
        array[...] = 9
        shown(bits(harness.peek(model, "x")) != old)

    return proof


CHAPTER.mutant(
    "m-read-memory-of-the-model",
    "READ-003",
    ReadsTheMemory,
    story="`tensor.numpy()` and torch's `state_dict` return the live memory.",
    also=("SNAP-002", "READ-011"),
)(_hangs_on_memory(noise((3,))))
CHAPTER.mutant(
    "m-read-memory-when-large",
    "READ-003",
    ReadsLargeMemory,
    story="Copies are made of small arrays only, 'since large ones are too expensive': tests use small arrays.",
    also=("SNAP-002",),
)(_hangs_on_memory(noise((512, 512))))


@CHAPTER.mutant(
    "m-read-one-copy-for-all",
    "READ-003",
    ReadsTheSameArrayAgain,
    story="The copy is made once and handed to everybody: who edits it edits what the next caller reads.",
    also=("LIST-009",),
)
def _(harness: Harness) -> None:
    registry = over(harness, PLAIN)[1]
    old = bits(registry.read("enc/w"))
    registry.read("enc/w")[...] = 9
    shown(bits(registry.read("enc/w")) != old)


# ----------------------------------------------------------------------------------------------------------- READ-004


class ReadsCanonicalNan(MutableRegistry):
    def _read(self, key: str, /) -> np.ndarray:
        array = super()._read(key)
        return np.where(np.isnan(array), array.dtype.type(np.nan), array) if array.dtype == F32 else array


class ReadsPositiveZero(FrozenRegistry):
    def _read(self, key: str, /) -> np.ndarray:
        array = super()._read(key)
        return array + array.dtype.type(0) if array.dtype.kind == "f" and not np.isnan(array).any() else array


class ReadsNoSubnormals(MutableRegistry):
    def _read(self, key: str, /) -> np.ndarray:
        array = super()._read(key)
        if array.dtype.kind != "f":
            return array
        return np.where(np.abs(array) < np.finfo(array.dtype).tiny, np.copysign(array.dtype.type(0), array), array)


for name, cls, number, why in (
    (
        "m-read-one-nan",
        ReadsCanonicalNan,
        0x7FC01234,
        "Every NaN becomes `numpy.nan`: payloads mark missing data in R.",
    ),
    (
        "m-read-no-negative-zero",
        ReadsPositiveZero,
        0x80000000,
        "`x + 0.0` makes 0.0 of -0.0; diffs then find no change.",
    ),
    (
        "m-read-no-subnormals",
        ReadsNoSubnormals,
        0x00000001,
        "Flush-to-zero is on while values are copied (XLA, -ffast-math).",
    ),
):

    def _loses(harness: Harness, number: int = number) -> None:
        value = np.array([number, 0x3F800000], np.uint32).view(F32)
        model, registry = over(harness, one(value))
        shown(bits(registry.read("x")) != bits(harness.peek(model, "x")))

    CHAPTER.mutant(name, "READ-004", cls, story=why, also=("DTYPE-003",))(_loses)


# ----------------------------------------------------------------------------------------------------------- READ-005


class ReadsOneShard(ShardedRegistry):
    def _read(self, key: str, /) -> np.ndarray:
        cell = self._known(key)
        array = super()._read(key)
        if not isinstance(cell, Sharded):
            return array
        part = np.zeros_like(array)
        part[:1] = cell.shards[0]
        return part


class RepeatsOneShard(ShardedRegistry):
    def _read(self, key: str, /) -> np.ndarray:
        cell = self._known(key)
        return np.broadcast_to(cell.shards[0], cell.shape) if isinstance(cell, Sharded) else super()._read(key)


def _reads_a_part(harness: Any) -> None:
    specimen = harness.specimen("sharded")
    full = specimen.declaration.values()["w"]
    found = harness.registry(specimen.model).read("w")
    shown(found.shape == full.shape and bits(found) != bits(full))


CHAPTER.mutant(
    "m-read-one-shard",
    "READ-005",
    ReadsOneShard,
    story="`addressable_shards[0]` put into an array of the global shape: the rest is zero.",
    subject=ShardedSubject,
    correct=ShardedRegistry,
)(_reads_a_part)
CHAPTER.mutant(
    "m-read-shard-repeated",
    "READ-005",
    RepeatsOneShard,
    story="A sharded array is read like a replicated one: the first shard stands for all.",
    subject=ShardedSubject,
    correct=ShardedRegistry,
)(_reads_a_part)
