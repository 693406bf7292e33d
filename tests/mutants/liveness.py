"""Mutants of chapter 6, part three: enumerations that disturb the model, or do not see it change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Self

import numpy as np

from mutants.support import (
    BUFFER,
    GENERATOR,
    PLAIN,
    TIED,
    Chapter,
    accepted,
    bits,
    error_of,
    noise,
    one,
    over,
    shown,
)
from stateregistry.checking import check
from stateregistry.entry import Entry
from stateregistry_conformance.declaration import Leaf
from stateregistry_conformance.harness import Harness
from stateregistry_numpy.cells import Rng
from stateregistry_numpy.module import Module
from stateregistry_numpy.registry import MutableRegistry

CHAPTER = Chapter()


# ----------------------------------------------------------------------------------------------------------- LIST-009


class DrawsWhenListing(MutableRegistry):
    def _entries(self) -> Mapping[str, Entry]:
        np.random.random()  # noqa: NPY002  # the global generator is the point
        return super()._entries()


@CHAPTER.mutant(
    "m-list-draws",
    "LIST-009",
    DrawsWhenListing,
    story="Shapes are found by running the initialisers, as an unbuilt Keras or Haiku model needs it, which draw numbers.",
)
def _(harness: Harness) -> None:
    model, registry = over(harness, PLAIN)
    before = harness.fingerprint(model)
    list(registry)
    shown(harness.fingerprint(model) != before)


class ViewLocksTheModel(MutableRegistry):
    def _read(self, key: str, /) -> np.ndarray:
        array = super()._read(key)
        array.flags.writeable = False
        return array

    def _commit(self, staged: Mapping[str, Any], /) -> Self:
        for key in staged:
            cell = self._known(key)
            if cell.concrete and cell.array.flags.owndata:
                cell.array.flags.writeable = True
        return super()._commit(staged)


@CHAPTER.mutant(
    "m-list-view-locks-the-model",
    "LIST-009",
    ViewLocksTheModel,
    story="`array.flags.writeable = False` on the array of the model instead of a view of it: training fails after a look.",
    also=("ATOM-005",),
)
def _(harness: Harness) -> None:
    model, registry = over(harness, PLAIN)
    registry.view("enc/w")
    shown(not accepted(lambda: harness.poke(model, "enc/w", noise((2, 3)))))


class ReadingDraws(MutableRegistry):
    def _read(self, key: str, /) -> np.ndarray:
        cell = self._known(key)
        array = np.array(cell.array, copy=True)
        if isinstance(cell, Rng):
            cell.array[1] += np.uint32(1)
        return array


@CHAPTER.mutant(
    "m-list-reading-draws",
    "LIST-009",
    ReadingDraws,
    story="`rngs.dropout()` in NNX returns the key and advances the count; an adapter reads generators that way.",
    also=("READ-006", "READ-007"),
)
def _(harness: Harness) -> None:
    _, registry = over(harness, one(GENERATOR, kind=BUFFER, rng=True))
    shown(bits(registry.read("x")) != bits(registry.read("x")))


class ChecksByTrying(MutableRegistry):
    def _convert(self, key: str, value: Any, /) -> np.ndarray:
        array = super()._convert(key, value)
        cell = self._cell(key)
        if cell is not None and cell.concrete and (cell.shape, cell.dtype) == (array.shape, array.dtype):
            cell.array[...] = array
        return array


@CHAPTER.mutant(
    "m-list-checks-by-trying",
    "LIST-009",
    ChecksByTrying,
    story="torch's `load_state_dict` says what is wrong only by loading; a check that calls it has loaded the rest.",
    also=("ATOM-001", "ATOM-003", "LOAD-002", "ATOM-004", "ATOM-005"),
)
def _(harness: Harness) -> None:
    model, registry = over(harness, PLAIN)
    before = bits(harness.peek(model, "enc/b"))
    check(registry, {"enc/b": noise((3,), seed=99)})
    shown(bits(harness.peek(model, "enc/b")) != before)


# ----------------------------------------------------------------------------------------------------------- LIST-010


class LiveIteration(MutableRegistry):
    writes = 0

    def __iter__(self) -> Iterator[str]:
        version = self.writes
        for key in sorted(self._listing()):
            if self.writes != version:
                raise RuntimeError("registry changed during iteration")
            yield key

    def _commit(self, staged: Mapping[str, Any], /) -> Self:
        self.writes += 1
        return super()._commit(staged)


@CHAPTER.mutant(
    "m-list-live-iteration",
    "LIST-010",
    LiveIteration,
    story="torch's generators walk live dicts and raise `dictionary changed size during iteration`.",
    also=("ERR-004",),
)
def _(harness: Harness) -> None:
    _, registry = over(harness, PLAIN)

    def rewrite() -> None:
        for key in registry:
            registry.replace({key: registry.read(key)})

    shown(isinstance(error_of(rewrite), RuntimeError))


class IterationByPosition(MutableRegistry):
    def __iter__(self) -> Iterator[str]:
        number = 0
        while number < len(names := sorted(self._listing())):
            yield names[number]
            number += 1


@CHAPTER.mutant(
    "m-list-iteration-by-position",
    "LIST-010",
    IterationByPosition,
    story="An iterator that keeps an index into a listing made anew each time skips the next key when one disappears.",
)
def _(harness: Harness) -> None:
    model, registry = over(harness, PLAIN)
    walk = iter(registry)
    next(walk)
    harness.drop(model, "enc/b")
    shown(list(walk) == ["norm/mean"])


# ----------------------------------------------------------------------------------------------------------- LIST-011


class CachesReads(MutableRegistry):
    def __init__(self, module: Module) -> None:
        self.cache: dict[str, np.ndarray] = {}
        super().__init__(module)

    def caches(self, key: str) -> bool:
        return True

    def _read(self, key: str, /) -> np.ndarray:
        if not self.caches(key):
            return super()._read(key)
        if key not in self.cache:
            self.cache[key] = np.array(super()._read(key), copy=True)
        return self.cache[key]

    def _commit(self, staged: Mapping[str, Any], /) -> Self:
        self.cache.clear()
        return super()._commit(staged)


class CachesBuffers(CachesReads):
    def caches(self, key: str) -> bool:
        return self[key].kind is BUFFER


class CachesViews(MutableRegistry):
    def view(self, key: str, /) -> np.ndarray:
        views: dict[str, np.ndarray] = self.__dict__.setdefault("views", {})
        if key not in views:
            views[key] = np.array(super().view(key), order="C", copy=True)
            views[key].flags.writeable = False
        return views[key]

    def read(self, key: str, /) -> np.ndarray:
        return np.array(super().view(key), order="C", copy=True)

    def _commit(self, staged: Mapping[str, Any], /) -> Self:
        self.__dict__.pop("views", None)
        return super()._commit(staged)


def _stale(key: str, look: str = "read") -> Any:
    def proof(harness: Harness) -> None:
        model, registry = over(harness, PLAIN)
        old = bits(getattr(registry, look)(key))
        harness.poke(model, key, noise(registry[key].shape, seed=99))
        shown(bits(getattr(registry, look)(key)) == old)

    return proof


CHAPTER.mutant(
    "m-list-values-cached",
    "LIST-011",
    CachesReads,
    story="Transfers from a GPU are slow, so values are kept until the registry itself writes; an optimizer writes too.",
    also=("READ-007",),
)(_stale("enc/w"))
CHAPTER.mutant(
    "m-list-buffers-cached",
    "LIST-011",
    CachesBuffers,
    story="'Only parameters are trained': the statistics of a BatchNorm layer change at every step all the same.",
)(_stale("norm/mean"))
CHAPTER.mutant(
    "m-list-views-cached",
    "LIST-011",
    CachesViews,
    story="`read` is fresh and `view` is a copy kept for speed.",
)(_stale("enc/w", "view"))


# ----------------------------------------------------------------------------------------------------------- LIST-012


class CachesEntries(MutableRegistry):
    def _entries(self) -> Mapping[str, Entry]:
        return self.__dict__.setdefault("listing", super()._entries())

    def _find(self, key: str, /) -> Entry | None:
        return self._entries().get(key)


class CachesAliases(MutableRegistry):
    def _aliases(self) -> Mapping[str, str]:
        return self.__dict__.setdefault("ties", super()._aliases())


class CachesOrder(MutableRegistry):
    @property
    def native_order(self) -> tuple[str, ...]:
        return self.__dict__.setdefault("order", super().native_order)


class CachesLookups(MutableRegistry):
    def _find(self, key: str, /) -> Entry | None:
        found: dict[str, Entry | None] = self.__dict__.setdefault("found", {})
        if found.get(key) is None:
            found[key] = super()._find(key)
        return found[key]


class CachesLength(MutableRegistry):
    def __len__(self) -> int:
        return self.__dict__.setdefault("length", super().__len__())


_EXTRA = Leaf("enc/extra", BUFFER, noise((4,)))


@CHAPTER.mutant(
    "m-list-structure-cached",
    "LIST-012",
    CachesEntries,
    story="The listing is made once when the registry is made; LoRA layers added afterwards are never saved.",
    also=("KIND-003", "KIND-006", "WRITE-014", "SNAP-003"),
)
def _(harness: Harness) -> None:
    model, registry = over(harness, PLAIN)
    len(registry)
    harness.add(model, _EXTRA)
    shown("enc/extra" not in set(registry))


@CHAPTER.mutant(
    "m-list-ties-cached",
    "LIST-012",
    CachesAliases,
    story="Ties are looked for once, because it takes a walk; `model.tie_weights()` of transformers comes later.",
    also=("LIST-004",),
)
def _(harness: Harness) -> None:
    model, registry = over(harness, TIED)
    dict(registry.aliases)
    harness.drop(model, "tail")
    shown("tail" in registry.aliases)


@CHAPTER.mutant(
    "m-list-order-cached",
    "LIST-012",
    CachesOrder,
    story="The native order is kept as an index of the optimizer and misses what is added to the model.",
    also=("LIST-007",),
)
def _(harness: Harness) -> None:
    model, registry = over(harness, PLAIN)
    len(registry.native_order)
    harness.add(model, _EXTRA)
    shown("enc/extra" not in registry.native_order)


@CHAPTER.mutant(
    "m-list-lookups-cached",
    "LIST-012",
    CachesLookups,
    story="A cache per key that nobody empties: what was deleted from the model is still `in` the registry.",
    also=("LIST-004", "KIND-006"),
)
def _(harness: Harness) -> None:
    model, registry = over(harness, PLAIN)
    was = "enc/b" in registry
    harness.drop(model, "enc/b")
    shown(was and "enc/b" in registry and "enc/b" not in set(registry))


@CHAPTER.mutant(
    "m-list-length-cached",
    "LIST-012",
    CachesLength,
    story="`len` is asked often and counted once.",
    also=("LIST-004",),
)
def _(harness: Harness) -> None:
    model, registry = over(harness, PLAIN)
    len(registry)
    harness.add(model, _EXTRA)
    shown(len(registry) != len(list(registry)))
