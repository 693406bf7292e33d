"""Mutants of chapter 5, part one: kinds that are not what was declared, entries that are no values, generators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace as with_fields
from typing import Any, Self

import numpy as np

from mutants.support import (
    BUFFER,
    F32,
    GENERATOR,
    PARAMETER,
    PLAIN,
    Alters,
    Chapter,
    accepted,
    bits,
    fields,
    kept,
    noise,
    one,
    over,
    rebind,
    shown,
)
from stateregistry.entry import Entry
from stateregistry_conformance.declaration import Declaration, Leaf
from stateregistry_conformance.harness import Harness
from stateregistry_numpy.cells import Buffer, Parameter, Rng
from stateregistry_numpy.registry import FrozenRegistry, MutableRegistry

CHAPTER = Chapter()


def as_buffer(entry: Entry) -> Entry:
    """The entry of something that is no parameter."""
    return with_fields(entry, kind=BUFFER, trainable=False)


# ----------------------------------------------------------------------------------------------------------- KIND-001


class IntegersAreBuffers(Alters, MutableRegistry):
    def alter(self, key: str, entry: Entry) -> Entry:
        return entry if entry.can_train else as_buffer(entry)


@CHAPTER.mutant(
    "m-kind-by-dtype",
    "KIND-001",
    IntegersAreBuffers,
    story="Equinox filters by `is_inexact_array`: an integer weight that was declared as a parameter counts as a buffer.",
)
def _(harness: Harness) -> None:
    _, registry = over(harness, one(np.arange(3, dtype=np.int32)))
    shown(registry["x"].kind is BUFFER)


class KindsByName(Alters, FrozenRegistry):
    def alter(self, key: str, entry: Entry) -> Entry:
        name = key.rpartition("/")[2]
        return as_buffer(entry) if name in {"mean", "var", "running_mean", "running_var"} else entry


@CHAPTER.mutant(
    "m-kind-by-name",
    "KIND-001",
    KindsByName,
    story="Converters decide by name that `running_mean` is a statistic; a learned `mean` is then no parameter.",
)
def _(harness: Harness) -> None:
    _, registry = over(harness, one(noise((3,)), key="prior/mean"))
    shown(registry["prior/mean"].kind is BUFFER)


class ScalarsAreBuffers(Alters, MutableRegistry):
    def alter(self, key: str, entry: Entry) -> Entry:
        return entry if entry.shape else as_buffer(entry)


@CHAPTER.mutant(
    "m-kind-by-rank",
    "KIND-001",
    ScalarsAreBuffers,
    story="A checkpoint reader takes every scalar for a counter; CLIP's learned temperature `logit_scale` is one too.",
)
def _(harness: Harness) -> None:
    _, registry = over(harness, one(noise(())))
    shown(registry["x"].kind is BUFFER)


class UnknownCollectionsAreParameters(Alters, FrozenRegistry):
    def alter(self, key: str, entry: Entry) -> Entry:
        return entry if entry.persistent or entry.rng else with_fields(entry, kind=PARAMETER, trainable=False)


@CHAPTER.mutant(
    "m-kind-unknown-collection",
    "KIND-001",
    UnknownCollectionsAreParameters,
    story="A table of known Flax collections; what it does not have (`cache`, `intermediates`) is taken for `params`.",
)
def _(harness: Harness) -> None:
    _, registry = over(harness, one(noise((3,)), kind=BUFFER, persistent=False))
    shown(registry["x"].kind is PARAMETER)


# ----------------------------------------------------------------------------------------------------------- KIND-002


class FreezingDemotes(Alters, MutableRegistry):
    def alter(self, key: str, entry: Entry) -> Entry:
        return as_buffer(entry) if entry.can_train and not entry.trainable else entry


class FreezingDemotesInATree(Alters, FrozenRegistry):
    demoted: frozenset[str] = frozenset()

    def alter(self, key: str, entry: Entry) -> Entry:
        return as_buffer(entry) if key in self.demoted else entry

    def _commit_trainable(self, mask: Mapping[str, bool], /) -> Self:
        other = super()._commit_trainable(mask)
        other.demoted = frozenset(key for key, flag in other._flags.items() if not flag)
        return other


def _freezing_changes_the_kind(harness: Harness) -> None:
    _, registry = over(harness, PLAIN)
    shown(registry.with_trainable({"enc/w": False})["enc/w"].kind is BUFFER)


CHAPTER.mutant(
    "m-kind-freezing-demotes",
    "KIND-002",
    FreezingDemotes,
    story="Keras moves a frozen weight to `non_trainable_weights`, where it looks like a running mean.",
    also=("KIND-001", "WRITE-015"),
)(_freezing_changes_the_kind)
CHAPTER.mutant(
    "m-kind-freezing-demotes-tree",
    "KIND-002",
    FreezingDemotesInATree,
    story="A partition into trainable and frozen trees, as Equinox does it, forgets what the frozen part was declared as.",
    also=("WRITE-015",),
)(_freezing_changes_the_kind)


class WritingPromotes(MutableRegistry):
    def _commit(self, staged: Mapping[str, Any], /) -> Self:
        super()._commit(staged)
        for key in staged:
            cell = self._known(key)
            if isinstance(cell, Buffer) and not isinstance(cell, Rng) and cell.dtype.kind == "f":
                rebind(self._module, cell, Parameter(cell.array))
        return self


@CHAPTER.mutant(
    "m-kind-writing-promotes",
    "KIND-002",
    WritingPromotes,
    story="`setattr(module, name, Parameter(value))` over a torch buffer makes it a parameter without a word.",
    also=("WRITE-002", "WRITE-008", "WRITE-009"),
)
def _(harness: Harness) -> None:
    _, registry = over(harness, PLAIN)
    shown(registry.replace({"norm/mean": noise((3,))})["norm/mean"].kind is PARAMETER)


class LoadingTakesTheKind(Alters, FrozenRegistry):
    """A value that looks like a statistic (one axis, nothing negative) makes its entry one."""

    statistics: frozenset[str] = frozenset()

    def alter(self, key: str, entry: Entry) -> Entry:
        return as_buffer(entry) if key in self.statistics else entry

    def _commit(self, staged: Mapping[str, Any], /) -> Self:
        other = super()._commit(staged)
        other.statistics = frozenset(k for k, v in staged.items() if v.ndim == 1 and v.size and (v >= 0).all())
        return other


@CHAPTER.mutant(
    "m-kind-from-the-values",
    "KIND-002",
    LoadingTakesTheKind,
    story="A loader infers kinds from a bare file and lets the file win over the live model.",
    also=("WRITE-008",),
)
def _(harness: Harness) -> None:
    _, registry = over(harness, PLAIN)
    shown(registry.replace({"enc/b": np.ones(3, F32)})["enc/b"].kind is BUFFER)


# ----------------------------------------------------------------------------------------------------------- KIND-007


class TaggedEntry(Entry):
    """Compares native labels too, where both sides have one."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Entry):
            return NotImplemented
        same = Entry(**fields(self)) == Entry(**fields(other))
        return same and (self.tag == other.tag or not self.tag or not other.tag)

    __hash__ = Entry.__hash__


class UnhashableEntry(Entry):
    """`__eq__` without `__hash__`: Python then takes the hash away."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Entry) and Entry(**fields(self)) == Entry(**fields(other))


class MutableEntry(Entry):
    """Lets everybody assign."""

    __slots__ = ()
    __setattr__ = object.__setattr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Entry) and Entry(**fields(self)) == Entry(**fields(other))

    __hash__ = Entry.__hash__


class ListsTaggedEntries(Alters, MutableRegistry):
    def alter(self, key: str, entry: Entry) -> Entry:
        return TaggedEntry(**fields(entry))


@CHAPTER.mutant(
    "m-kind-entries-compare-tags",
    "KIND-007",
    ListsTaggedEntries,
    story="An adapter's own subclass of Entry with a full dataclass `__eq__`: the same model differs across frameworks.",
    also=("KIND-010",),
)
def _(harness: Harness) -> None:
    entry = over(harness, PLAIN)[1]["enc/w"]
    shown(with_fields(entry, tag="kernel") != entry)


class ListsUnhashableEntries(Alters, FrozenRegistry):
    def alter(self, key: str, entry: Entry) -> Entry:
        return UnhashableEntry(**fields(entry))


@CHAPTER.mutant(
    "m-kind-entries-unhashable",
    "KIND-007",
    ListsUnhashableEntries,
    story="A subclass that defines `__eq__` and so loses `__hash__`, which nobody notices before the first set of entries.",
)
def _(harness: Harness) -> None:
    entry = over(harness, PLAIN)[1]["enc/w"]
    shown(not accepted(lambda: hash(entry)))


class ListsMutableEntries(Alters, MutableRegistry):
    def alter(self, key: str, entry: Entry) -> Entry:
        return MutableEntry(**fields(entry))


@CHAPTER.mutant(
    "m-kind-entries-mutable",
    "KIND-007",
    ListsMutableEntries,
    story="Metadata objects are editable in NNX and Orbax; a script edits one and believes to have frozen the weight.",
)
def _(harness: Harness) -> None:
    entry = over(harness, PLAIN)[1]["enc/w"]
    shown(accepted(lambda: setattr(entry, "trainable", False)))


# ----------------------------------------------------------------------------------------------------------- KIND-008


class MarksBuffersInferred(Alters, MutableRegistry):
    def alter(self, key: str, entry: Entry) -> Entry:
        return with_fields(entry, inferred=entry.kind is BUFFER)


class MarksEverythingInferred(Alters, FrozenRegistry):
    def alter(self, key: str, entry: Entry) -> Entry:
        return with_fields(entry, inferred=True)


def _marks_as_inferred(harness: Harness) -> None:
    shown(any(entry.inferred for entry in over(harness, PLAIN)[1].values()))


CHAPTER.mutant(
    "m-kind-buffers-inferred",
    "KIND-008",
    MarksBuffersInferred,
    story="Copied from the reader of bare files, where only the name says that something is a statistic.",
)(_marks_as_inferred)
CHAPTER.mutant(
    "m-kind-all-inferred",
    "KIND-008",
    MarksEverythingInferred,
    story="An adapter by a careful author: a tree of arrays does not promise kinds, although its collections state them.",
)(_marks_as_inferred)


# ----------------------------------------------------------------------------------------------------------- KIND-009

_DROPOUT = Declaration(
    (Leaf("drop/rng", BUFFER, GENERATOR, rng=True), Leaf("table", BUFFER, np.array([7, 9], np.uint32)))
)


class ForgetsGenerators(Alters, MutableRegistry):
    def alter(self, key: str, entry: Entry) -> Entry:
        return with_fields(entry, rng=False)


@CHAPTER.mutant(
    "m-kind-generator-unmarked",
    "KIND-009",
    ForgetsGenerators,
    story="Keras keeps the state of its seed generators as plain non-trainable uint32 variables.",
)
def _(harness: Harness) -> None:
    shown(not over(harness, _DROPOUT)[1]["drop/rng"].rng)


class GuessesGenerators(Alters, FrozenRegistry):
    def alter(self, key: str, entry: Entry) -> Entry:
        return with_fields(entry, rng=entry.rng or (entry.dtype == "uint32" and entry.shape == (2,)))


@CHAPTER.mutant(
    "m-kind-generator-guessed",
    "KIND-009",
    GuessesGenerators,
    story="An old-style JAX key is any uint32[2], so every such array passes for a generator.",
)
def _(harness: Harness) -> None:
    shown(over(harness, _DROPOUT)[1]["table"].rng)


class GeneratorsAreParameters(Alters, FrozenRegistry):
    def alter(self, key: str, entry: Entry) -> Entry:
        return with_fields(entry, kind=PARAMETER) if entry.rng else entry


@CHAPTER.mutant(
    "m-kind-generator-is-parameter",
    "KIND-009",
    GeneratorsAreParameters,
    story="An optimizer that is given every NNX variable treats RngKey like a weight.",
    also=("KIND-001",),
)
def _(harness: Harness) -> None:
    shown(over(harness, _DROPOUT)[1]["drop/rng"].kind is PARAMETER)


class GeneratorsBecomeBuffers(MutableRegistry):
    def _commit(self, staged: Mapping[str, Any], /) -> Self:
        super()._commit(staged)
        for key in staged:
            cell = self._known(key)
            if isinstance(cell, Rng):
                rebind(self._module, cell, Buffer(cell.array, cell.persistent))
        return self


@CHAPTER.mutant(
    "m-kind-generator-written-as-array",
    "KIND-009",
    GeneratorsBecomeBuffers,
    story="Raw uint32 data written over a typed JAX key leaves an array that `jax.random.split` treats as legacy or refuses.",
    also=("WRITE-002", "WRITE-008", "WRITE-009"),
)
def _(harness: Harness) -> None:
    model, registry = over(harness, _DROPOUT)
    registry = registry.replace({"drop/rng": GENERATOR + 1})
    shown(not isinstance(harness.cell(model, "drop/rng"), Rng))
    shown(bits(registry.read("drop/rng")) == bits(GENERATOR + 1))


class GeneratorsAreReseeded(MutableRegistry):
    def _stage(self, key: str, value: np.ndarray, /) -> np.ndarray:
        if isinstance(self._known(key), Rng):
            value[1] = 0
        return value


@CHAPTER.mutant(
    "m-kind-generator-reseeded",
    "KIND-009",
    GeneratorsAreReseeded,
    story="The seed is restored and the count of draws is not: dropout after a resume repeats the masks of the first step.",
    also=("WRITE-001", "DTYPE-002", "SNAP-006"),
)
def _(harness: Harness) -> None:
    model, registry = over(harness, _DROPOUT)
    registry.replace({"drop/rng": GENERATOR + 1})
    shown(harness.peek(model, "drop/rng")[1] == 0)
    shown(kept(harness, model, one(np.array([7, 9], np.uint32), key="table", kind=BUFFER)))
