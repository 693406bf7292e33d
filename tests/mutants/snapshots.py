"""Mutants of chapter 13: what is meant to be saved is lost, and what is not meant to be is kept."""

from __future__ import annotations

from collections.abc import ItemsView, Mapping
from dataclasses import replace as with_fields
from typing import Any, Self

import numpy as np

from mutants.loading import MIXED, Loads, saved
from mutants.support import BUFFER, PLAIN, TIED, Alters, Chapter, accepted, bits, noise, one, over, shown
from stateregistry.entry import Entry
from stateregistry.transfer import load, snapshot
from stateregistry_conformance.declaration import Declaration, Leaf
from stateregistry_conformance.harness import Harness
from stateregistry_numpy.registry import FrozenRegistry, MutableRegistry

CHAPTER = Chapter()


# ----------------------------------------------------------------------------------------------------------- SNAP-001


class EverythingIsSaved(Alters, MutableRegistry):
    def alter(self, key: str, entry: Entry) -> Entry:
        return with_fields(entry, persistent=True)


class CountersAreNotSaved(Alters, MutableRegistry):
    def alter(self, key: str, entry: Entry) -> Entry:
        counts = entry.kind is BUFFER and "int" in entry.dtype and not entry.rng
        return with_fields(entry, persistent=False) if counts else entry


class UnderscoresAreNotSaved(Alters, FrozenRegistry):
    def alter(self, key: str, entry: Entry) -> Entry:
        hidden = key.rpartition("/")[2].startswith("_") and entry.kind is BUFFER
        return with_fields(entry, persistent=False) if hidden else entry


class GeneratorsAreNotSaved(Alters, FrozenRegistry):
    def alter(self, key: str, entry: Entry) -> Entry:
        return with_fields(entry, persistent=False) if entry.rng else entry


class FrozenBuffersAreNotSaved(MutableRegistry):
    def _commit_trainable(self, mask: Mapping[str, bool], /) -> Self:
        for key, flag in mask.items():
            cell = self._known(key)
            if not flag and hasattr(cell, "persistent"):
                cell.persistent = False
        return super()._commit_trainable(mask)


def _persistence(declaration: Declaration, key: str, wrong: bool) -> Any:  # the value that must not be
    return lambda harness: shown(over(harness, declaration)[1][key].persistent is wrong)


CHAPTER.mutant(
    "m-snap-everything-persistent",
    "SNAP-001",
    EverythingIsSaved,
    story="`named_buffers` does not say which of them are non-persistent; the set stands on each torch module.",
    also=("SNAP-002", "LOAD-004", "LOAD-005"),
)(_persistence(MIXED, "cache", True))
CHAPTER.mutant(
    "m-snap-counters-not-persistent",
    "SNAP-001",
    CountersAreNotSaved,
    story="Counters are bookkeeping: 'num_batches_tracked is not needed for inference'.",
    also=("SNAP-002", "SNAP-006", "LOAD-004"),
)(_persistence(MIXED, "bn/count", False))
CHAPTER.mutant(
    "m-snap-underscores-not-persistent",
    "SNAP-001",
    UnderscoresAreNotSaved,
    story="MLX hides attributes with a leading underscore.",
    also=("SNAP-002", "LOAD-004"),
)(_persistence(one(noise((3,)), key="bn/_mean", kind=BUFFER), "bn/_mean", False))
CHAPTER.mutant(
    "m-snap-generators-not-persistent",
    "SNAP-001",
    GeneratorsAreNotSaved,
    story="Flax' msgpack refuses PRNG keys, so they are declared not worth saving.",
    also=("SNAP-002", "LOAD-004"),
)(_persistence(one(np.array([3, 4], np.uint32), kind=BUFFER, rng=True), "x", False))


@CHAPTER.mutant(
    "m-snap-frozen-buffers-not-persistent",
    "SNAP-001",
    FrozenBuffersAreNotSaved,
    story="Freezing a whole layer by a mask over all keys marks its statistics as 'static', which are then not saved.",
    also=("WRITE-015",),
)
def _(harness: Harness) -> None:
    registry = over(harness, PLAIN)[1].with_trainable({"norm/mean": False})
    shown(not registry["norm/mean"].persistent)


# ----------------------------------------------------------------------------------------------------------- SNAP-002


class SavesAllNames(MutableRegistry):
    def items(self) -> ItemsView[str, Entry]:
        found = dict(super().items())
        return {**found, **{alias: found[key] for alias, key in self.aliases.items()}}.items()


class SavesUnsorted(FrozenRegistry):
    def items(self) -> ItemsView[str, Entry]:
        return {key: self[key] for key in self.native_order}.items()


@CHAPTER.mutant(
    "m-snap-all-names",
    "SNAP-002",
    SavesAllNames,
    story="torch's `state_dict` has every name of a tied weight.",
    also=("LIST-004", "SNAP-003", "SNAP-007", "LOAD-006", "LOAD-007"),
)
def _(harness: Harness) -> None:
    shown(set(snapshot(over(harness, TIED)[1])) != set(TIED.entries()))


@CHAPTER.mutant(
    "m-snap-unsorted",
    "SNAP-002",
    SavesUnsorted,
    story="The order of a checkpoint is that of the declaration, so two frameworks write the same state differently.",
    also=("LIST-004", "LIST-001", "SNAP-007"),
)
def _(harness: Harness) -> None:
    names = list(snapshot(over(harness, PLAIN)[1]))
    shown(names != sorted(names))


# ----------------------------------------------------------------------------------------------------------- SNAP-003


class ItemsAreStale(MutableRegistry):
    def items(self) -> ItemsView[str, Entry]:
        seen: dict[str, Entry] = self.__dict__.setdefault("seen", {})
        return {key: seen.setdefault(key, entry) for key, entry in super().items()}.items()


class ItemsHideUnsaved(FrozenRegistry):
    def items(self) -> ItemsView[str, Entry]:
        return {key: entry for key, entry in super().items() if entry.persistent}.items()


@CHAPTER.mutant(
    "m-snap-where-sees-old-flags",
    "SNAP-003",
    ItemsAreStale,
    story="Filters of Flax run over a structure that was made once: what was frozen since is still 'trainable' there.",
    also=("LIST-004", "KIND-003", "KIND-006", "LIST-012", "WRITE-015"),
)
def _(harness: Harness) -> None:
    registry = over(harness, PLAIN)[1]
    len(registry.items())
    registry = registry.with_trainable({"enc/w": False})
    shown("enc/w" in snapshot(registry, lambda _, entry: entry.trainable))


@CHAPTER.mutant(
    "m-snap-where-never-sees-unsaved",
    "SNAP-003",
    ItemsHideUnsaved,
    story="The filter is applied to `state_dict()`: what the caller asks for by name is not there, because it is not saved.",
    also=("LIST-004",),
)
def _(harness: Harness) -> None:
    shown(not snapshot(over(harness, MIXED)[1], lambda key, _: key == "cache"))


# ----------------------------------------------------------------------------------------------------------- SNAP-004

_HALF_BUILT = Declaration((Leaf("a", BUFFER, noise((2,))), Leaf("b", BUFFER, noise((2,)), concrete=False)))


class ItemsHideAbstract(MutableRegistry):
    def items(self) -> ItemsView[str, Entry]:
        return {key: entry for key, entry in super().items() if entry.concrete}.items()


class AbstractIsNotSaved(Alters, FrozenRegistry):
    def alter(self, key: str, entry: Entry) -> Entry:
        return entry if entry.concrete else with_fields(entry, persistent=False)


def _saves_half(harness: Harness) -> None:
    shown(accepted(lambda: snapshot(over(harness, _HALF_BUILT)[1])))


CHAPTER.mutant(
    "m-snap-abstract-left-out",
    "SNAP-004",
    ItemsHideAbstract,
    story="Meta tensors are skipped when a torch model is saved: the file looks complete until it is loaded.",
    also=("LIST-004",),
)(_saves_half)
CHAPTER.mutant(
    "m-snap-abstract-not-persistent",
    "SNAP-004",
    AbstractIsNotSaved,
    story="'There is nothing to save', so the place is said not to be saved.",
    also=("SNAP-001",),
)(_saves_half)


# ----------------------------------------------------------------------------------------------------------- SNAP-005


class NamesOpaqueOnce(MutableRegistry):
    def _opaque(self) -> Mapping[str, str]:
        found = super()._opaque()
        if found and self.__dict__.setdefault("named", False):
            return {}
        self.named = bool(found)
        return found


class NamesOneOpaque(FrozenRegistry):
    def _opaque(self) -> Mapping[str, str]:
        return dict(list(super()._opaque().items())[:1])


@CHAPTER.mutant(
    "m-snap-opaque-named-once",
    "SNAP-005",
    NamesOpaqueOnce,
    story="A warning that is given once per process: the second save of the same model goes through without its extra state.",
    also=("LIST-006", "LIST-009", "WRITE-013"),
)
def _(harness: Harness) -> None:
    registry = harness.registry(harness.specimen("opaque").model)
    shown([accepted(lambda: snapshot(registry)) for _ in range(3)] != [False] * 3)


@CHAPTER.mutant(
    "m-snap-one-opaque-named",
    "SNAP-005",
    NamesOneOpaque,
    story="The first obstacle is reported; when it is removed, the next one.",
    also=("LIST-006", "WRITE-013"),
)
def _(harness: Harness) -> None:
    specimen = harness.specimen("opaque")
    shown(len(harness.registry(specimen.model).opaque) < len(specimen.keys))


# ----------------------------------------------------------------------------------------------------------- SNAP-006


class LoadingEmptiesCaches(Loads, MutableRegistry):
    def chosen(self, arrays: Mapping[str, np.ndarray], entries: Mapping[str, Entry]) -> Mapping[str, np.ndarray]:
        caches = {key for key, entry in entries.items() if not entry.persistent and entry.concrete}
        return {**arrays, **{key: np.zeros_like(self._read(key)) for key in sorted(caches)}}


class LoadingFreezes(MutableRegistry):
    def _write(self, arrays: Mapping[str, np.ndarray], entries: Mapping[str, Entry]) -> Self:
        super()._write(arrays, entries)
        whole = len(arrays) > 1 and all(key in arrays for key, entry in entries.items() if entry.persistent)
        if whole:
            self._commit_trainable({key: False for key in arrays if entries[key].can_train})
        return self


class LoadingThaws(FrozenRegistry):
    def _write(self, arrays: Mapping[str, np.ndarray], entries: Mapping[str, Entry]) -> Self:
        other = super()._write(arrays, entries)
        if arrays and all(key in arrays for key, entry in entries.items() if entry.persistent):
            other._flags, other._listed = {}, None
        return other


@CHAPTER.mutant(
    "m-snap-load-empties-caches",
    "SNAP-006",
    LoadingEmptiesCaches,
    story="A restore builds the module anew, and its caches and position tables with it.",
    also=("LOAD-002", "LOAD-003", "LOAD-005"),
)
def _(harness: Harness) -> None:
    registry = over(harness, MIXED)[1]
    shown(bits(load(registry, saved()).read("cache")) != bits(MIXED.values()["cache"]))


@CHAPTER.mutant(
    "m-snap-load-freezes",
    "SNAP-006",
    LoadingFreezes,
    story="What is loaded is pretrained, and what is pretrained is frozen, as in Keras' applications.",
    also=("WRITE-001", "WRITE-008", "LOAD-002"),
)
def _(harness: Harness) -> None:
    registry = over(harness, PLAIN)[1]
    shown(not load(registry, snapshot(registry))["enc/w"].trainable)


@CHAPTER.mutant(
    "m-snap-load-thaws",
    "SNAP-006",
    LoadingThaws,
    story="torch's `assign=True` takes requires_grad from the values: loading a whole checkpoint thaws the model.",
    also=("KIND-005", "WRITE-001", "WRITE-008"),
)
def _(harness: Harness) -> None:
    registry = over(harness, PLAIN)[1].with_trainable({"enc/w": False})
    shown(load(registry, snapshot(registry))["enc/w"].trainable)


# ----------------------------------------------------------------------------------------------------------- SNAP-007


class SavesItsName(FrozenRegistry):
    """Adds what only its own reader understands."""

    def items(self) -> ItemsView[str, Entry]:
        found = dict(super().items())
        if not found:
            return found.items()
        return {**found, "~0adapter": Entry(BUFFER, (), "uint8")}.items()

    def read(self, key: str, /) -> np.ndarray:
        return np.array(7, np.uint8) if key == "~0adapter" else super().read(key)


@CHAPTER.mutant(
    "m-snap-says-who-wrote-it",
    "SNAP-007",
    SavesItsName,
    story="A version number among the values, as torch's `_metadata`: another framework finds a key that it does not know.",
    also=("LIST-004", "SNAP-002", "SNAP-003", "LOAD-004", "LOAD-007"),
)
def _(harness: Harness) -> None:
    shown(set(snapshot(over(harness, PLAIN)[1])) != set(PLAIN.entries()))
