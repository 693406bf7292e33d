"""Broken adapters, part three: over trees that do not change, and what is remembered or spread."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from mutants.support import MutableSubject

from stateregistry import errors
from stateregistry.entry import Entry, Kind
from stateregistry_conformance.declaration import Declaration, Leaf
from stateregistry_conformance.harness import Specimen
from stateregistry_numpy.cells import Parameter
from stateregistry_numpy.module import Module
from stateregistry_numpy.registry import FrozenRegistry, MutableRegistry


class SharesCallersMemory(FrozenRegistry):
    """The caller's array becomes part of the tree (jnp.asarray on large arrays)."""

    violates = "SR-WRITE-011"

    def replace(self, values: Mapping[str, Any], /) -> Any:
        other = super().replace(values)
        if other is self or not isinstance(values, dict):
            return other
        for key, value in values.items():
            canonical = self._aliases().get(key, key)
            if (
                isinstance(value, np.ndarray)
                and value.flags.c_contiguous
                and value.flags.writeable
                and value.dtype.isnative
            ):
                collection, path = other._places[canonical]
                node = getattr(other._model, collection)
                for step in path[:-1]:
                    node = node[step]
                _tree(node)[path[-1]] = value
        return other


def _tree(node: Any) -> dict[Any, Any]:
    """The dict below a mapping proxy."""
    import gc

    return next(found for found in gc.get_referents(node) if isinstance(found, dict))


class ChangesTheReceiver(FrozenRegistry):
    """A functional write changes what the receiver wraps."""

    violates = "SR-WRITE-003"

    def _commit(self, staged: Mapping[str, Any], /) -> Any:
        other = super()._commit(staged)
        self._model = other._model
        return other


class LosesFlags(FrozenRegistry):
    """The flags that the handle carries are lost at the next write."""

    violates = "SR-KIND-005"

    def replace(self, values: Mapping[str, Any], /) -> Any:
        other = super().replace(values)
        if other is not self:
            other._flags = {}
        return other

    def _write(self, arrays: Mapping[str, np.ndarray], entries: Mapping[str, Entry]) -> Any:
        other = super()._write(arrays, entries)
        if other is not self:
            other._flags, other._listed = {}, None
        return other


class HidesDuplicates(FrozenRegistry):
    """Of two places with one key the last one is listed (flatten_dict)."""

    violates = "SR-KEY-006"

    def __init__(self, model: Any) -> None:
        seen = {}
        for collection, path, _ in model.leaves():
            seen[path] = collection
        for name in ("parameters", "buffers"):
            model = dataclasses.replace(model, **{name: _kept(getattr(model, name), seen, name)})
        super().__init__(model)


def _kept(tree: Any, seen: Mapping[Any, str], name: str, path: tuple[Any, ...] = ()) -> Any:
    if not isinstance(tree, Mapping):
        return tree
    found = {}
    for step, child in tree.items():
        here = (*path, step)
        if seen.get(here, name) == name:
            found[step] = _kept(child, seen, name, here)
    return found


class MergesPrefixes(FrozenRegistry):
    """A name may be at once an array and a container (Linen over two collections)."""

    violates = "SR-KEY-007"

    def _index(self) -> dict[str, Entry]:
        try:
            return super()._index()
        except errors.DuplicateKeyError as error:
            if error.keys and "prefix" not in str(error) and "container" not in str(error):
                raise
            return {}


class AcceptsEmptyNames(FrozenRegistry):
    """An empty name is mangled into something else (Haiku, MLX)."""

    violates = "SR-KEY-002"

    def _index(self) -> dict[str, Entry]:
        try:
            return super()._index()
        except errors.KeyPathError:
            return {}


class ForgetsTheSecondFreeze(MutableRegistry):
    """Flags are those of the first time that somebody asked after a change (a cached list of weights, Keras)."""

    violates = "SR-KIND-003"
    _flags: dict[str, bool] | None = None
    _frozen = 0

    def with_trainable(self, mask: Mapping[str, bool], /) -> Any:
        self._frozen += 1
        done = super().with_trainable(mask)
        if self._frozen == 1:
            self._flags = {key: entry.trainable for key, entry in super()._entries().items()}
        return done

    def _entries(self) -> Mapping[str, Entry]:
        known = self._flags or {}
        return {
            key: dataclasses.replace(entry, trainable=known.get(key, entry.trainable))
            for key, entry in super()._entries().items()
        }

    def _find(self, key: str, /) -> Entry | None:
        return self._entries().get(key)


class EveryParameterIsTrained(MutableRegistry):
    """An integer parameter is to be trainable as all parameters are, which no entry can be."""

    violates = "SR-KIND-003"

    def _entries(self) -> Mapping[str, Entry]:
        found = super()._entries()
        whole = {key: entry for key, entry in found.items() if entry.kind is Kind.PARAMETER and not entry.can_train}
        return {**found, **{key: dataclasses.replace(entry, trainable=True) for key, entry in whole.items()}}

    def _find(self, key: str, /) -> Entry | None:
        return self._entries().get(key)


class StartsThawed(MutableRegistry):
    """What was frozen before the model was wrapped is not looked at (Equinox: the mask is the caller's)."""

    violates = "SR-KIND-006"

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self._before = {key for key, cell in module.cells() if isinstance(cell, Parameter) and not cell.trainable}

    def _entries(self) -> Mapping[str, Entry]:
        found = super()._entries()
        thawed = {key for key in self._before & set(found) if found[key].can_train}
        return {**found, **{key: dataclasses.replace(found[key], trainable=True) for key in thawed}}

    def _find(self, key: str, /) -> Entry | None:
        return self._entries().get(key)


class ReadsWhatItHasRead(MutableRegistry):
    """A registry remembers what it has read, and writes past that."""

    violates = "SR-WRITE-001"

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self._seen: dict[str, np.ndarray] = {}

    def _read(self, key: str, /) -> np.ndarray:
        return self._seen.setdefault(key, super()._read(key).copy())


class Placed(Parameter):
    """A parameter that lies on a mesh of devices, as far as NumPy can tell."""

    mesh = ("data", "model")


class GathersWhatWasSpread(MutableRegistry):
    """A write puts a plain array where a spread one was (device_put without a sharding)."""

    violates = "SR-WRITE-009"

    @classmethod
    def subject(cls) -> Any:
        return SpreadSubject(cls)

    def _commit(self, staged: Mapping[str, Any], /) -> Any:
        done = super()._commit(staged)
        for key in staged:
            cell = self._known(key)
            if isinstance(cell, Placed):
                cell.mesh = ()
        return done


class SpreadSubject(MutableSubject):
    """The reference over a framework that spreads arrays."""

    def specimen(self, name: str, /) -> Any:
        if name != "sharded":
            return super().specimen(name)
        leaf = Leaf("w", Kind.PARAMETER, np.arange(12, dtype=np.float32).reshape(3, 4))
        model = Module()
        model.register_parameter("w", Placed(leaf.value.copy(), True))
        return Specimen(model, ("w",), Declaration((leaf,)))

    def describe(self, model: Any, key: str, /) -> object:
        return super().describe(model, key), getattr(self.cell(model, key), "mesh", None)


class WritesFreeze(MutableRegistry):
    """What was loaded is not trained any more (`requires_grad` of the array that was assigned)."""

    violates = "SR-WRITE-010"

    def _commit(self, staged: Mapping[str, Any], /) -> Any:
        done = super()._commit(staged)
        for key in staged:
            cell = self._known(key)
            if isinstance(cell, Parameter):
                cell.trainable = False
        return done


class NamesDtypesItsOwnWay(MutableRegistry):
    """One name for all small floats."""

    violates = "SR-DTYPE-001"

    def _entries(self) -> Mapping[str, Entry]:
        return {key: _named_alike(entry) for key, entry in super()._entries().items()}

    def _find(self, key: str, /) -> Entry | None:
        return self._entries().get(key)


def _named_alike(entry: Entry) -> Entry:
    return dataclasses.replace(entry, dtype="float8_e5m2") if entry.dtype == "float8_e5m2fnuz" else entry


class TiedIsFrozen(MutableRegistry):
    """What is reached by two names is taken for shared with somebody, and not trained."""

    violates = "SR-ALIAS-009"

    def _entries(self) -> Mapping[str, Entry]:
        walk = self._walk()
        tied = set(walk.aliases.values())
        return {
            key: dataclasses.replace(entry, trainable=entry.trainable and key not in tied)
            for key, entry in walk.entries.items()
        }

    def _find(self, key: str, /) -> Entry | None:
        return self._entries().get(key)
