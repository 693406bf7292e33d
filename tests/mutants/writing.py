"""Mutants of chapter 8, part one: which model a write reaches, and what it returns.

What it has to refuse is in `refusing`, flags are in `masks`, forms of values in `copying`, what a write keeps in `preserving`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np

from mutants.oddities import (
    Sharded,
    ShardedRegistry,
    ShardedSubject,
)
from mutants.support import (
    BUFFER,
    F32,
    PARAMETER,
    PLAIN,
    Chapter,
    accepted,
    bits,
    kept,
    noise,
    one,
    over,
    rebind,
    shown,
)
from stateregistry import errors
from stateregistry_conformance.declaration import Declaration, Leaf
from stateregistry_conformance.harness import Harness
from stateregistry_numpy.cells import Buffer, Parameter, Rng
from stateregistry_numpy.registry import FrozenRegistry, MutableRegistry
from stateregistry_numpy.tree import FrozenModel

CHAPTER = Chapter()

LARGE = 1 << 20


def _wrong_after(declaration: Declaration, values: Mapping[str, np.ndarray]) -> Callable[[Harness], None]:
    """The proof that a legal write does not lead to the given bits where they were given and the old ones elsewhere."""

    def proof(harness: Harness) -> None:
        _, registry = over(harness, declaration)
        after = registry.replace(values)
        wanted = {**declaration.values(), **values}
        shown(any(bits(after.read(key)) != bits(value) for key, value in wanted.items()))

    return proof


# ---------------------------------------------------------------------------------------------------------- WRITE-001


class SkipsZeros(MutableRegistry):
    def _commit(self, staged: Mapping[str, Any], /) -> Self:
        return super()._commit({key: value for key, value in staged.items() if value is None or value.any()})


CHAPTER.mutant(
    "m-write-zeros-skipped",
    "WRITE-001",
    SkipsZeros,
    story="`if value.any():` or `params.get(k) or default`: an array of zeros is as good as none given.",
    also=("SNAP-006", "DTYPE-002"),
)(_wrong_after(PLAIN, {"enc/b": np.zeros(3, F32)}))


class SkipsScalars(FrozenRegistry):
    def _commit(self, staged: Mapping[str, Any], /) -> Self:
        return super()._commit({key: value for key, value in staged.items() if value.ndim})


CHAPTER.mutant(
    "m-write-scalars-skipped",
    "WRITE-001",
    SkipsScalars,
    story="A restore that writes chunk by chunk writes nothing for an array without axes (Zarr, tensorstore).",
    also=(
        "SNAP-006",
        "LOAD-002",
        "DTYPE-003",
        "DTYPE-004",
        "DTYPE-005",
        "DTYPE-006",
        "DTYPE-007",
        "DTYPE-008",
        "DTYPE-009",
        "DTYPE-010",
    ),
)(_wrong_after(one(noise(())), {"x": noise((), seed=9)}))


class WritesIntoTheOriginal(FrozenRegistry):
    def _commit(self, staged: Mapping[str, Any], /) -> Self:
        origin = self.__dict__.get("origin", self._model)
        other = type(self)(origin.with_leaves({self._places[key]: value for key, value in staged.items()}))
        other.origin = origin
        return other


@CHAPTER.mutant(
    "m-write-into-the-original",
    "WRITE-001",
    WritesIntoTheOriginal,
    story="`base = self.variables` kept from the start: of two updates of a Linen tree only the second is there.",
)
def _(harness: Harness) -> None:
    _, registry = over(harness, PLAIN)
    value = noise((3,), seed=9)
    after = registry.replace({"enc/b": value}).replace({"norm/mean": value})
    shown(bits(after.read("enc/b")) != bits(value))


class LosesTheLastBatch(MutableRegistry):
    def _commit(self, staged: Mapping[str, Any], /) -> Self:
        whole = len(staged) if len(staged) < 8 else len(staged) // 8 * 8
        return super()._commit(dict(list(staged.items())[:whole]))


_TEN = Declaration(tuple(Leaf(f"l{n}", PARAMETER, noise((2,), seed=n)) for n in range(10)))
CHAPTER.mutant(
    "m-write-last-batch-lost",
    "WRITE-001",
    LosesTheLastBatch,
    story="Values are written in batches of eight to save transfers, and the rest after the last full batch is forgotten.",
    also=("SNAP-006",),
)(_wrong_after(_TEN, {f"l{n}": noise((2,), seed=n + 50) for n in range(10)}))


class AddsToCounters(MutableRegistry):
    def _stage(self, key: str, value: np.ndarray, /) -> np.ndarray:
        cell = self._known(key)
        counts = isinstance(cell, Buffer) and not isinstance(cell, Rng) and cell.concrete and cell.dtype.kind == "i"
        return value + cell.array if counts else value


CHAPTER.mutant(
    "m-write-counters-added",
    "WRITE-001",
    AddsToCounters,
    story="Statistics are merged instead of replaced: the count of batches after a resume is the sum of both runs.",
    also=("SNAP-006", "DTYPE-002", "DTYPE-007", "DTYPE-009", "LOAD-002"),
)(_wrong_after(one(np.array([5], np.int64), kind=BUFFER), {"x": np.array([7], np.int64)}))


class ZeroesStatistics(MutableRegistry):
    def _commit(self, staged: Mapping[str, Any], /) -> Self:
        super()._commit(staged)
        for key, cell in self._module.cells():
            beside = any(key.rpartition("/")[0] == other.rpartition("/")[0] for other in staged)
            if isinstance(cell, Buffer) and key not in staged and beside and cell.concrete and cell.dtype.kind == "f":
                cell.array[...] = 0
        return self


CHAPTER.mutant(
    "m-write-statistics-reset",
    "WRITE-001",
    ZeroesStatistics,
    story="`reset_running_stats` is called when the weights of a BatchNorm layer are set anew.",
    also=("LOAD-003",),
)(
    _wrong_after(
        Declaration((Leaf("n/w", PARAMETER, noise((3,))), Leaf("n/mean", BUFFER, noise((3,), seed=8)))),
        {"n/w": noise((3,), seed=9)},
    )
)


class RefusesNothing(MutableRegistry):
    def replace(self, values: Mapping[str, Any], /) -> Self:
        if not values:
            raise errors.UnsupportedError("there is nothing to write")
        return super().replace(values)


@CHAPTER.mutant(
    "m-write-nothing-refused",
    "WRITE-001",
    RefusesNothing,
    story="Keras refuses an empty list of weights: a filter that selects nothing has to be treated apart by every caller.",
    also=("LIST-014", "WRITE-002"),
)
def _(harness: Harness) -> None:
    shown(not accepted(lambda: over(harness, PLAIN)[1].replace({})))


class WritesOneShard(ShardedRegistry):
    def _commit(self, staged: Mapping[str, Any], /) -> Self:
        local = {key: value for key, value in staged.items() if isinstance(self._known(key), Sharded)}
        for key, value in local.items():
            self._known(key).shards[0][...] = value[:1]
        return super()._commit({key: value for key, value in staged.items() if key not in local})


@CHAPTER.mutant(
    "m-write-one-shard",
    "WRITE-001",
    WritesOneShard,
    story="`dtensor.to_local().copy_(...)` on one process: the other shards keep the old values.",
    subject=ShardedSubject,
    correct=ShardedRegistry,
)
def _(harness: Any) -> None:
    specimen = harness.specimen("sharded")
    value = noise((3, 4), seed=9)
    harness.registry(specimen.model).replace({"w": value})
    shown(bits(harness.peek(specimen.model, "w")) != bits(value))


# ---------------------------------------------------------------------------------------------------------- WRITE-002


class ReturnsACopy(MutableRegistry):
    def replace(self, values: Mapping[str, Any], /) -> Self:
        return copy.copy(super().replace(values))


class ReturnsACopyOfFlags(MutableRegistry):
    def with_trainable(self, mask: Mapping[str, bool], /) -> Self:
        return copy.copy(super().with_trainable(mask))


CHAPTER.mutant(
    "m-write-returns-another",
    "WRITE-002",
    ReturnsACopy,
    story="A functional API over a mutable model: `replace` always gives a new handle, so `is` says that nothing was done.",
)(lambda harness: shown((r := over(harness, PLAIN)[1]).replace({"enc/b": noise((3,))}) is not r))
CHAPTER.mutant(
    "m-write-flags-return-another",
    "WRITE-002",
    ReturnsACopyOfFlags,
    story="A functional API for flags over a mutable model: the mask returns a new handle each time.",
)(lambda harness: shown((r := over(harness, PLAIN)[1]).with_trainable({"enc/b": False}) is not r))


class BindsNewCells(MutableRegistry):
    def rebinds(self, cell: object) -> bool:
        return isinstance(cell, Parameter)

    def _commit(self, staged: Mapping[str, Any], /) -> Self:
        for key in staged:
            cell = self._known(key)
            if self.rebinds(cell) and cell.concrete:
                new = copy.copy(cell)
                new._array = np.array(cell.array, copy=True)
                rebind(self._module, cell, new)
        return super()._commit(staged)


class BindsNewBuffers(BindsNewCells):
    def rebinds(self, cell: object) -> bool:
        return isinstance(cell, Buffer)


def _new_cell(key: str) -> Callable[[Harness], None]:
    def proof(harness: Harness) -> None:
        model, registry = over(harness, PLAIN)
        cell = harness.cell(model, key)
        registry.replace({key: noise(registry[key].shape)})
        shown(harness.cell(model, key) is not cell)

    return proof


CHAPTER.mutant(
    "m-write-new-parameters",
    "WRITE-002",
    BindsNewCells,
    story="torch's `load_state_dict(assign=True)` puts new objects in place, and the optimizer goes on updating orphans.",
    also=("WRITE-009", "ATOM-001", "ALIAS-006", "ATOM-005"),
)(_new_cell("enc/w"))
CHAPTER.mutant(
    "m-write-new-buffers",
    "WRITE-002",
    BindsNewBuffers,
    story="torch's `.to()` and `.double()` keep parameters and make new buffers: a handle on `running_mean` goes stale.",
    also=("WRITE-009", "ATOM-001", "ATOM-005"),
)(_new_cell("norm/mean"))


class FlagsBindNewCells(MutableRegistry):
    def _commit_trainable(self, mask: Mapping[str, bool], /) -> Self:
        for key in mask:
            cell = self._known(key)
            if isinstance(cell, Parameter):
                rebind(self._module, cell, new := copy.copy(cell))
                assert new.dtype == cell.dtype
        self._walk()
        return super()._commit_trainable(mask)


@CHAPTER.mutant(
    "m-write-flags-new-parameters",
    "WRITE-002",
    FlagsBindNewCells,
    story="`module.weight = Parameter(module.weight.detach(), requires_grad=False)` is how many scripts freeze.",
)
def _(harness: Harness) -> None:
    model, registry = over(harness, PLAIN)
    cell = harness.cell(model, "enc/w")
    registry.with_trainable({"enc/w": False})
    shown(harness.cell(model, "enc/w") is not cell)


# ---------------------------------------------------------------------------------------------------------- WRITE-003


class WritesThroughTheTree(FrozenRegistry):
    def _commit(self, staged: Mapping[str, Any], /) -> Self:
        other = super()._commit(staged)
        for key, value in staged.items():
            if self[key].concrete:
                leaf = self._read(key)
                leaf.flags.writeable = True
                leaf[...] = value
                leaf.flags.writeable = False
        return other


@CHAPTER.mutant(
    "m-write-through-the-tree",
    "WRITE-003",
    WritesThroughTheTree,
    story="A 'new' tree of the same mutable arrays, written in place: every holder of the old one sees the new values.",
)
def _(harness: Harness) -> None:
    model, registry = over(harness, PLAIN)
    registry.replace({"enc/b": noise((3,), seed=9)})
    shown(not kept(harness, model, PLAIN))


class SharesFlags(FrozenRegistry):
    def _commit_trainable(self, mask: Mapping[str, bool], /) -> Self:
        other = super()._commit_trainable(mask)
        self._flags, self._listed = other._flags, None
        return other


class FlagsInPlace(FrozenRegistry):
    def _commit_trainable(self, mask: Mapping[str, bool], /) -> Self:
        self._flags, self._listed = {**self._flags, **mask}, None
        return self


def _receiver_is_frozen(harness: Harness) -> None:
    _, registry = over(harness, PLAIN)
    registry.with_trainable({"enc/w": False})
    shown(not registry["enc/w"].trainable)


CHAPTER.mutant(
    "m-write-flags-shared",
    "WRITE-003",
    SharesFlags,
    story="One dict of flags for all registries over a model: freezing for an experiment freezes the original too.",
)(_receiver_is_frozen)
CHAPTER.mutant(
    "m-write-flags-in-place",
    "WRITE-003",
    FlagsInPlace,
    story="Values are functional, the mask is an attribute that is set: half of the handle is mutable.",
)(_receiver_is_frozen)


class ReplacesItself(FrozenRegistry):
    def _commit(self, staged: Mapping[str, Any], /) -> Self:
        other = super()._commit(staged)
        self.__dict__.pop("_listed", None)
        self.__dict__.update(other.__dict__)
        return self


@CHAPTER.mutant(
    "m-write-receiver-follows",
    "WRITE-003",
    ReplacesItself,
    story="A wrapper that swaps its own tree, as Flax' TrainState in a closure: the old handle is no longer a snapshot.",
)
def _(harness: Harness) -> None:
    _, registry = over(harness, PLAIN)
    registry.replace({"enc/b": noise((3,), seed=9)})
    shown(bits(registry.read("enc/b")) != bits(PLAIN.values()["enc/b"]))


# ---------------------------------------------------------------------------------------------------------- WRITE-004


class UnwrapsACopy(MutableRegistry):
    def unwrap(self) -> Any:
        return copy.deepcopy(self._module)


class UnwrapsTheOriginal(FrozenRegistry):
    def unwrap(self) -> FrozenModel:
        return self.__dict__.get("first", self._model)

    def _commit(self, staged: Mapping[str, Any], /) -> Self:
        other = super()._commit(staged)
        other.first = self.unwrap()
        return other


@CHAPTER.mutant(
    "m-write-unwraps-a-copy",
    "WRITE-004",
    UnwrapsACopy,
    story="`nnx.merge(graphdef, state)` at every call gives an equal module, which is not the one that is trained.",
)
def _(harness: Harness) -> None:
    model, registry = over(harness, PLAIN)
    shown(registry.unwrap() is not model)


@CHAPTER.mutant(
    "m-write-unwraps-the-original",
    "WRITE-004",
    UnwrapsTheOriginal,
    story="The handle remembers what it was made from; the Linen loop goes on with the untrained tree.",
)
def _(harness: Harness) -> None:
    _, registry = over(harness, PLAIN)
    value = noise((3,), seed=9)
    shown(bits(harness.peek(registry.replace({"enc/b": value}).unwrap(), "enc/b")) != bits(value))
