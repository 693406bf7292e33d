"""Mutants of chapter 10: registries that make `check` and `load` say or do something else.

The functions themselves are the core's; what can be wrong with them is in `functions`. An adapter reaches them through its
hooks: how it converts, what it lists, and how it writes what was found right.
"""

from __future__ import annotations

from collections.abc import ItemsView, Mapping
from dataclasses import replace as with_fields
from typing import Any, Self

import numpy as np

from mutants.support import (
    BUFFER,
    F32,
    PARAMETER,
    PLAIN,
    TIED,
    Alters,
    Chapter,
    accepted,
    bits,
    error_of,
    names_of,
    noise,
    one,
    over,
    shown,
    without,
)
from stateregistry import errors
from stateregistry.checking import check
from stateregistry.entry import Entry
from stateregistry.transfer import load, snapshot
from stateregistry_conformance.declaration import Declaration, Leaf
from stateregistry_conformance.harness import Harness
from stateregistry_numpy.cells import Buffer
from stateregistry_numpy.registry import FrozenRegistry, MutableRegistry

CHAPTER = Chapter()

#: Saved and unsaved state, a counter among it.
MIXED = Declaration(
    (
        Leaf("bn/w", PARAMETER, noise((3,), seed=1)),
        Leaf("bn/mean", BUFFER, noise((3,), seed=2)),
        Leaf("bn/count", BUFFER, np.array(17, np.int64)),
        Leaf("cache", BUFFER, noise((2,), seed=3), persistent=False),
    )
)


def saved(declaration: Declaration = MIXED) -> dict[str, np.ndarray]:
    """Other values for everything that is saved."""
    return {
        key: (declaration.values()[key] + 2).astype(declaration.values()[key].dtype)
        for key, entry in declaration.entries().items()
        if entry.persistent
    }


class Loads:
    """Tells `load` from `replace`, and says what it writes: `chosen` of the arrays that were found right."""

    replacing = False

    def chosen(self, arrays: Mapping[str, np.ndarray], entries: Mapping[str, Entry]) -> Mapping[str, np.ndarray]:
        return arrays

    def replace(self, values: Mapping[str, Any], /) -> Self:
        self.replacing = True
        try:
            return super().replace(values)
        finally:
            self.replacing = False

    def _write(self, arrays: Mapping[str, np.ndarray], entries: Mapping[str, Entry]) -> Self:
        return super()._write(arrays if self.replacing else self.chosen(arrays, entries), entries)


# ----------------------------------------------------------------------------------------------------------- LOAD-001


class StickyFailure(MutableRegistry):
    """After a value that it cannot take it takes no further one of the same call."""

    broken = False

    def _entries(self) -> Mapping[str, Entry]:
        self.broken = False
        return super()._entries()

    def _convert(self, key: str, value: Any, /) -> np.ndarray:
        array = super()._convert(key, value)
        self.broken |= array.dtype.kind in "OU"
        if self.broken:
            raise RuntimeError("a previous transfer has failed")
        return array


@CHAPTER.mutant(
    "m-load-failure-sticks",
    "LOAD-001",
    StickyFailure,
    story="After one failed transfer a CUDA context fails everything: what the report names depends on the order.",
    also=("ATOM-002",),
)
def _(harness: Harness) -> None:
    registry = over(harness, PLAIN)[1]
    values: dict[str, Any] = {**PLAIN.values(), "enc/b": "text"}
    turned = dict(reversed(values.items()))
    shown(check(registry, values).invalid != check(registry, turned).invalid)


class ReportsFirstTime(FrozenRegistry):
    def _convert(self, key: str, value: Any, /) -> np.ndarray:
        array = super()._convert(key, value)
        entry = self.get(key)
        warned: set[str] = self.__dict__.setdefault("warned", set())
        if entry is not None and array.shape != entry.shape and array.size == entry.size:
            if key in warned:
                return array.reshape(entry.shape)
            warned.add(key)
        return array


@CHAPTER.mutant(
    "m-load-reported-once",
    "LOAD-001",
    ReportsFirstTime,
    story="A warning that is given once: the second check of the same values finds them right.",
    also=("LIST-009", "WRITE-005", "LOAD-002"),
)
def _(harness: Harness) -> None:
    registry = over(harness, PLAIN)[1]
    values = {**PLAIN.values(), "enc/w": noise((3, 2))}
    shown(check(registry, values).shape == ("enc/w",) and check(registry, values).ok)


# ----------------------------------------------------------------------------------------------------------- LOAD-002


class LoadsParameters(Loads, MutableRegistry):
    def chosen(self, arrays: Mapping[str, np.ndarray], entries: Mapping[str, Entry]) -> Mapping[str, np.ndarray]:
        return {key: array for key, array in arrays.items() if entries[key].kind is PARAMETER}


class LoadsWhatDiffers(Loads, FrozenRegistry):
    def chosen(self, arrays: Mapping[str, np.ndarray], entries: Mapping[str, Entry]) -> Mapping[str, np.ndarray]:
        def differs(key: str, array: np.ndarray) -> bool:
            known = array.dtype.kind in "biufc" and entries[key].concrete
            return not known or not np.allclose(self._read(key), array, equal_nan=True)

        return {key: array for key, array in arrays.items() if differs(key, array)}


class LoadsUnfrozen(Loads, MutableRegistry):
    def chosen(self, arrays: Mapping[str, np.ndarray], entries: Mapping[str, Entry]) -> Mapping[str, np.ndarray]:
        return {key: array for key, array in arrays.items() if entries[key].trainable or entries[key].kind is BUFFER}


def _not_loaded(declaration: Declaration, values: Mapping[str, np.ndarray]) -> Any:
    def proof(harness: Harness) -> None:
        after = load(over(harness, declaration)[1], values)
        shown(any(bits(after.read(key)) != bits(value) for key, value in values.items()))

    return proof


CHAPTER.mutant(
    "m-load-parameters-only",
    "LOAD-002",
    LoadsParameters,
    story="`optax` state and `params` are restored, `batch_stats` stay as they were initialised: accuracy at chance.",
    also=("SNAP-006", "LOAD-007"),
)(_not_loaded(MIXED, saved()))
CHAPTER.mutant(
    "m-load-close-is-equal",
    "LOAD-002",
    LoadsWhatDiffers,
    story="To spare transfers only what differs is written, and `allclose` says what differs.",
    also=("SNAP-006", "LOAD-007"),
)(_not_loaded(PLAIN, {key: np.nextafter(value, F32(9)) for key, value in PLAIN.values().items()}))
CHAPTER.mutant(
    "m-load-frozen-weights-skipped",
    "LOAD-002",
    LoadsUnfrozen,
    story="A restore over `trainable_variables`: frozen weights of the pretrained backbone are never loaded.",
    also=("SNAP-006", "LOAD-007"),
)(_not_loaded(one(noise((3,)), trainable=False), {"x": noise((3,), seed=9)}))


class LoadsWhatOverlaps(FrozenRegistry):
    """Makes the shape of a value that does not fit that of the entry, filled with what is there."""

    def _convert(self, key: str, value: Any, /) -> np.ndarray:
        array = super()._convert(key, value)
        entry = self.get(self.aliases.get(key, key))
        if entry is None or not entry.concrete or array.ndim != len(entry.shape) or array.dtype.name != entry.dtype:
            return array
        if array.shape == entry.shape or not array.size:
            return array
        filled = self.read(key)
        common = tuple(slice(0, min(pair)) for pair in zip(array.shape, entry.shape, strict=True))
        filled[common] = array[common]
        return filled


@CHAPTER.mutant(
    "m-load-what-overlaps",
    "LOAD-002",
    LoadsWhatOverlaps,
    story="Vision transformers and resized vocabularies: the part that the two shapes have in common is copied.",
    also=("WRITE-005", "LOAD-003"),
)
def _(harness: Harness) -> None:
    registry = over(harness, PLAIN)[1]
    shown(accepted(lambda: load(registry, {**PLAIN.values(), "enc/w": noise((4, 3))})))


# ----------------------------------------------------------------------------------------------------------- LOAD-003


class MissingIsZero(Loads, MutableRegistry):
    def chosen(self, arrays: Mapping[str, np.ndarray], entries: Mapping[str, Entry]) -> Mapping[str, np.ndarray]:
        wanted = {k for k, e in entries.items() if e.persistent and e.concrete and k not in arrays}
        return {**arrays, **{key: np.zeros_like(self._read(key)) for key in sorted(wanted)}}


class MissingIsDrawn(Loads, FrozenRegistry):
    def chosen(self, arrays: Mapping[str, np.ndarray], entries: Mapping[str, Entry]) -> Mapping[str, np.ndarray]:
        drawn = {
            key: noise(entry.shape, seed=77)
            for key, entry in entries.items()
            if entry.kind is PARAMETER and entry.dtype == "float32" and key not in arrays
        }
        return {**arrays, **drawn}


def _missing_is_changed(harness: Harness) -> None:
    registry = over(harness, PLAIN)[1]
    after = load(registry, {"enc/w": noise((2, 3), seed=9)}, allow={"missing"})
    shown(bits(after.read("enc/b")) != bits(PLAIN.values()["enc/b"]))


CHAPTER.mutant(
    "m-load-missing-zeroed",
    "LOAD-003",
    MissingIsZero,
    story="maxtext's restore filled missing NNX weights with zeros.",
)(_missing_is_changed)
CHAPTER.mutant(
    "m-load-missing-drawn",
    "LOAD-003",
    MissingIsDrawn,
    story="transformers initialises anew what a checkpoint does not have, also when the model had been trained.",
)(_missing_is_changed)


class UnexpectedIsCreated(MutableRegistry):
    def _convert(self, key: str, value: Any, /) -> np.ndarray:
        array = super()._convert(key, value)
        fresh = isinstance(key, str) and key.isidentifier() and self._module.find(key) is None and key not in self
        if fresh and array.dtype.kind == "f":
            self._module.register_buffer(key, Buffer(array))
        return array


@CHAPTER.mutant(
    "m-load-unexpected-created",
    "LOAD-003",
    UnexpectedIsCreated,
    story="A lazy module registers whatever a checkpoint has for it; what is unexpected is no longer left out.",
    also=("WRITE-007", "WRITE-008", "LIST-009", "LOAD-002", "ATOM-001"),
)
def _(harness: Harness) -> None:
    registry = over(harness, PLAIN)[1]
    load(registry, {**PLAIN.values(), "extra": noise((3,))}, allow={"unexpected"})
    shown("extra" in registry)


# ----------------------------------------------------------------------------------------------------------- LOAD-004


class CountersAreOptional(FrozenRegistry):
    def items(self) -> ItemsView[str, Entry]:
        found = super().items()
        return {key: entry for key, entry in found if not (entry.kind is BUFFER and "int" in entry.dtype)}.items()


@CHAPTER.mutant(
    "m-load-counters-never-missing",
    "LOAD-004",
    CountersAreOptional,
    story="torch counts `num_batches_tracked` as missing or not depending on the `_metadata` of the file.",
    also=("LIST-004", "SNAP-002", "SNAP-003", "LOAD-007"),
)
def _(harness: Harness) -> None:
    values = saved()
    del values["bn/count"]
    shown(check(over(harness, MIXED)[1], values).ok)


class MissingUnderAShortName(MutableRegistry):
    def items(self) -> ItemsView[str, Entry]:
        found = dict(super().items())
        names = {key: min([key, *(a for a, t in self.aliases.items() if t == key)], key=len) for key in found}
        return {names[key]: entry for key, entry in found.items()}.items()


@CHAPTER.mutant(
    "m-load-missing-under-a-short-name",
    "LOAD-004",
    MissingUnderAShortName,
    story="A missing tied weight is reported under the name that looks best, `lm_head`, and not under its key.",
    also=("LIST-004", "SNAP-002", "SNAP-003", "LOAD-006"),
)
def _(harness: Harness) -> None:
    shown(check(over(harness, TIED)[1], {"z": noise((3,))}).missing == ("tail",))


# ----------------------------------------------------------------------------------------------------------- LOAD-005


class UnsavedIsNeverWritten(MutableRegistry):
    def replace(self, values: Mapping[str, Any], /) -> Self:
        unsaved = {key for key in names_of(values) if key in self and not self[key].persistent}
        if unsaved:
            raise errors.UnsupportedError(f"{sorted(unsaved)} are not saved", keys=tuple(sorted(unsaved)))
        return super().replace(values)


class UnsavedIsSkipped(FrozenRegistry):
    def replace(self, values: Mapping[str, Any], /) -> Self:
        return super().replace(without(values, lambda key: key in self and not self[key].persistent))


class CachesAreExpected(Alters, FrozenRegistry):
    def alter(self, key: str, entry: Entry) -> Entry:
        return with_fields(entry, persistent=True)


def _unsaved_is_not_written(harness: Harness) -> None:
    registry = over(harness, MIXED)[1]
    value = noise((2,), seed=9)
    error = error_of(lambda: shown(bits(registry.replace({"cache": value}).read("cache")) != bits(value)))
    shown(error is None or isinstance(error, errors.UnsupportedError))


CHAPTER.mutant(
    "m-load-unsaved-refused",
    "LOAD-005",
    UnsavedIsNeverWritten,
    story="What is not in `state_dict` cannot be written: a table of rotary positions in float16 stays as it was built.",
    also=("WRITE-001", "WRITE-012"),
)(_unsaved_is_not_written)
CHAPTER.mutant(
    "m-load-unsaved-skipped",
    "LOAD-005",
    UnsavedIsSkipped,
    story="What is not in `state_dict` is passed over when values are set, without an error.",
    also=("WRITE-001",),
)(_unsaved_is_not_written)


@CHAPTER.mutant(
    "m-load-caches-expected",
    "LOAD-005",
    CachesAreExpected,
    story="All collections of the Linen variables are saved, `intermediates` too, and then asked for in every file.",
    also=("SNAP-001", "SNAP-002", "LOAD-004", "LOAD-007"),
)
def _(harness: Harness) -> None:
    shown(check(over(harness, MIXED)[1], saved()).missing == ("cache",))


# ----------------------------------------------------------------------------------------------------------- LOAD-006


class LoadsCanonicalNames(MutableRegistry):
    @property
    def aliases(self) -> Mapping[str, str]:
        return {}


@CHAPTER.mutant(
    "m-load-one-name-of-a-tie",
    "LOAD-006",
    LoadsCanonicalNames,
    story="torch reports the other names of a tied weight as missing although the value is there.",
    also=("ALIAS-002", "ALIAS-004"),
)
def _(harness: Harness) -> None:
    values = {"tail": noise((2, 3)), "z": noise((3,))}
    shown(not check(over(harness, TIED)[1], values).ok)


class AllNamesHaveToBeGiven(FrozenRegistry):
    def items(self) -> ItemsView[str, Entry]:
        found = dict(super().items())
        return {**found, **{alias: found[key] for alias, key in self.aliases.items()}}.items()


@CHAPTER.mutant(
    "m-load-all-names-of-a-tie",
    "LOAD-006",
    AllNamesHaveToBeGiven,
    story="safetensors drops all names of a tied weight but one, and a strict loader wants every one of them.",
    also=("LIST-004", "LOAD-004", "SNAP-002", "SNAP-003"),
)
def _(harness: Harness) -> None:
    values = {"tail": noise((2, 3)), "z": noise((3,))}
    shown(check(over(harness, TIED)[1], values).missing)


# ----------------------------------------------------------------------------------------------------------- LOAD-007


class LendsOtherwise(MutableRegistry):
    """Lends its values in another dtype than it reads them."""

    def view(self, key: str, /) -> np.ndarray:
        array = super().view(key)
        return array.astype(np.int32) if array.dtype == np.int64 else array

    def read(self, key: str, /) -> np.ndarray:
        return np.array(super().view(key), order="C", copy=True)


@CHAPTER.mutant(
    "m-load-registry-lends-otherwise",
    "LOAD-007",
    LendsOtherwise,
    story="A snapshot of the model loads and the model itself does not: one goes through `read`, the other through `view`.",
    also=("READ-006",),
)
def _(harness: Harness) -> None:
    source, target = over(harness, MIXED)[1], over(harness, MIXED)[1]
    shown(accepted(lambda: load(target, snapshot(source))) and not accepted(lambda: load(target, source)))


class SourceGivesEverything(FrozenRegistry):
    def items(self) -> ItemsView[str, Entry]:
        return {key: with_fields(entry, persistent=True) for key, entry in super().items()}.items()


@CHAPTER.mutant(
    "m-load-registry-gives-everything",
    "LOAD-007",
    SourceGivesEverything,
    story="A registry as a source gives what it lists, a file what is saved: caches are copied along in one case.",
    also=("LIST-004", "LOAD-004", "LOAD-005", "SNAP-002", "SNAP-003"),
)
def _(harness: Harness) -> None:
    source, target = over(harness, MIXED)[1], over(harness, MIXED)[1]
    shown(accepted(lambda: load(target, saved())) and not accepted(lambda: load(target, source)))
