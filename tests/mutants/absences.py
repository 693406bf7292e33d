"""Mutants of chapter 6, part two: what is absent, opaque, or empty, and another order than the native one."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from mutants.support import (
    BUFFER,
    F32,
    PARAMETER,
    PLAIN,
    TIED,
    Chapter,
    accepted,
    error_of,
    over,
    shown,
)
from stateregistry import errors
from stateregistry.entry import Entry
from stateregistry_conformance.declaration import Declaration
from stateregistry_conformance.harness import Harness
from stateregistry_numpy.module import Module
from stateregistry_numpy.registry import FrozenRegistry, MutableRegistry
from stateregistry_numpy.tree import FrozenModel

CHAPTER = Chapter()


# ----------------------------------------------------------------------------------------------------------- LIST-005


class ListsNone(MutableRegistry):
    def _none(self) -> dict[str, Entry]:
        return {
            f"{path}/{name}" if path else name: Entry(BUFFER, (0,), "float32")
            for path, module in self._module.modules()
            for name, member in module.members.items()
            if member is None
        }

    def _entries(self) -> Mapping[str, Entry]:
        return {**super()._entries(), **self._none()}

    def _find(self, key: str, /) -> Entry | None:
        return self._entries().get(key)

    def _read(self, key: str, /) -> np.ndarray:
        return np.zeros(0, F32) if key in self._none() else super()._read(key)


class NoneIsOpaque(MutableRegistry):
    def _opaque(self) -> Mapping[str, str]:
        none = {
            f"{path}/{name}" if path else name: "None"
            for path, module in self._module.modules()
            for name, member in module.members.items()
            if member is None
        }
        return {**super()._opaque(), **none}


@CHAPTER.mutant(
    "m-list-none-listed",
    "LIST-005",
    ListsNone,
    story="NNX lists `Param(None)` with the value None; an adapter makes an empty array of it.",
    also=("LIST-003",),
)
def _(harness: Harness) -> None:
    specimen = harness.specimen("none")
    shown(specimen.keys[0] in harness.registry(specimen.model))


@CHAPTER.mutant(
    "m-list-none-opaque",
    "LIST-005",
    NoneIsOpaque,
    story="`register_buffer('b', None)` is registered and no array, so it is called opaque, and every snapshot is refused.",
    also=("LIST-006", "SNAP-005"),
)
def _(harness: Harness) -> None:
    specimen = harness.specimen("none")
    registry = harness.registry(specimen.model)
    shown(isinstance(error_of(lambda: registry.read(specimen.keys[0])), errors.OpaqueError))


class PlainKeyError(FrozenRegistry):
    def __getitem__(self, key: str) -> Entry:
        return self._listing()[key]


@CHAPTER.mutant(
    "m-list-plain-key-error",
    "LIST-005",
    PlainKeyError,
    story="`[]` of a dict underneath: a bare KeyError, which `except StateError` does not catch.",
    also=("ERR-001", "ERR-003"),
)
def _(harness: Harness) -> None:
    error = error_of(lambda: over(harness, PLAIN)[1]["nope"])
    shown(isinstance(error, KeyError) and not isinstance(error, errors.UnknownKeyError))


class ReadsNothing(MutableRegistry):
    def read(self, key: str, /) -> Any:
        return super().read(key) if key in self or key in self.aliases or key in self.opaque else None


@CHAPTER.mutant(
    "m-list-unknown-reads-none",
    "LIST-005",
    ReadsNothing,
    story="`state_dict.get(name)`: a misspelt name reads as None and fails ten lines later.",
    also=("ERR-001",),
)
def _(harness: Harness) -> None:
    registry = over(harness, PLAIN)[1]
    shown(accepted(lambda: registry.read("enc/weight")))


class ViewsTheContainer(FrozenRegistry):
    def view(self, key: str, /) -> np.ndarray:
        if key not in self and key not in self.aliases and any(k.startswith(f"{key}/") for k in self):
            return np.empty(0, F32)
        return super().view(key)


@CHAPTER.mutant(
    "m-list-container-reads-empty",
    "LIST-005",
    ViewsTheContainer,
    story="Looking up a container in a Linen tree succeeds and gives a dict, which an adapter turns into an empty array.",
)
def _(harness: Harness) -> None:
    registry = over(harness, PLAIN)[1]
    shown(accepted(lambda: registry.view("enc")))


# ----------------------------------------------------------------------------------------------------------- LIST-006


class DropsOpaque(MutableRegistry):
    def _opaque(self) -> Mapping[str, str]:
        return {}


class DropsStaticLeaves(FrozenRegistry):
    def _opaque(self) -> Mapping[str, str]:
        return {key: why for key, why in super()._opaque().items() if "array" in why}


def _hides_opaque(harness: Harness) -> None:
    specimen = harness.specimen("opaque")
    shown(set(specimen.keys) - set(harness.registry(specimen.model).opaque))


CHAPTER.mutant(
    "m-list-opaque-dropped",
    "LIST-006",
    DropsOpaque,
    story="torch's `_extra_state` or a quantized tensor is skipped because it is no array: a silent loss.",
    also=("SNAP-005", "WRITE-013"),
)(_hides_opaque)
CHAPTER.mutant(
    "m-list-static-leaves-dropped",
    "LIST-006",
    DropsStaticLeaves,
    story="`eqx.filter(tree, eqx.is_array)` before anything else: strings and callables in an Equinox tree are not even named.",
    also=("SNAP-005", "WRITE-013"),
)(_hides_opaque)


class ReadsOpaque(MutableRegistry):
    def read(self, key: str, /) -> np.ndarray:
        if key in self.opaque:
            return np.array(self._known(key).array, copy=True)
        return super().read(key)


@CHAPTER.mutant(
    "m-list-opaque-read",
    "LIST-006",
    ReadsOpaque,
    story="Opaque state is named and yet handed out, as an array of a dtype that no other registry knows.",
)
def _(harness: Harness) -> None:
    specimen = harness.specimen("opaque")
    registry = harness.registry(specimen.model)
    shown(accepted(lambda: registry.read(specimen.keys[0])))


class OpaqueIsUnknown(FrozenRegistry):
    def read(self, key: str, /) -> np.ndarray:
        if key not in self and key not in self.aliases:
            raise self._unknown(key)
        return super().read(key)


@CHAPTER.mutant(
    "m-list-opaque-unknown",
    "LIST-006",
    OpaqueIsUnknown,
    story="The reader knows arrays only, so reading what `opaque` has just named says that there is no such key.",
)
def _(harness: Harness) -> None:
    specimen = harness.specimen("opaque")
    registry = harness.registry(specimen.model)
    shown(isinstance(error_of(lambda: registry.read(specimen.keys[0])), errors.UnknownKeyError))


class ModesAreOpaque(MutableRegistry):
    def _opaque(self) -> Mapping[str, str]:
        return {**super()._opaque(), "training": "a mode"}


@CHAPTER.mutant(
    "m-list-modes-opaque",
    "LIST-006",
    ModesAreOpaque,
    story="torch's `training` flag is called state: nothing of any model can then be saved without being told twice.",
    also=("SNAP-005",),
)
def _(harness: Harness) -> None:
    shown(over(harness, PLAIN)[1].opaque)


class AliasesAreOpaque(FrozenRegistry):
    def _opaque(self) -> Mapping[str, str]:
        return {**super()._opaque(), **dict.fromkeys(self._aliases(), "a shared array")}


@CHAPTER.mutant(
    "m-list-aliases-opaque",
    "LIST-006",
    AliasesAreOpaque,
    story="A placeholder as Equinox' SharedNode stands where the second name is, and is no array: called opaque as well.",
    also=("SNAP-005",),
)
def _(harness: Harness) -> None:
    registry = over(harness, TIED)[1]
    shown(set(registry.opaque) & set(registry.aliases))


# ----------------------------------------------------------------------------------------------------------- LIST-007


class OrderOfParameters(FrozenRegistry):
    @property
    def native_order(self) -> tuple[str, ...]:
        return tuple(key for key in super().native_order if self[key].kind is PARAMETER)


@CHAPTER.mutant(
    "m-list-order-of-parameters-only",
    "LIST-007",
    OrderOfParameters,
    story="The order is that of the optimizer, so buffers have no place in it.",
)
def _(harness: Harness) -> None:
    registry = over(harness, PLAIN)[1]
    shown(set(registry.native_order) != set(registry))


class OrderWithAliases(MutableRegistry):
    @property
    def native_order(self) -> tuple[str, ...]:
        return tuple(key for key, _ in self._module.cells() if key in self or key in self.aliases)


@CHAPTER.mutant(
    "m-list-order-with-aliases",
    "LIST-007",
    OrderWithAliases,
    story="The native order is that of torch's `state_dict`, which has every name of a tied weight.",
)
def _(harness: Harness) -> None:
    registry = over(harness, TIED)[1]
    shown(set(registry.native_order) - set(registry))


class OrderOfASet(MutableRegistry):
    made = itertools.count()

    def __init__(self, module: Module) -> None:
        super().__init__(module)
        self.number = next(self.made)

    @property
    def native_order(self) -> tuple[str, ...]:
        order = super().native_order
        start = self.number % max(len(order), 1)
        return order[start:] + order[:start]


@CHAPTER.mutant(
    "m-list-order-of-a-set",
    "LIST-007",
    OrderOfASet,
    story="Places are collected in a set of objects: its order hangs on addresses and differs for two equal models.",
)
def _(harness: Harness) -> None:
    orders = {over(harness, PLAIN)[1].native_order for _ in range(2)}
    shown(len(orders) == 2)


class OrderRepeatsTies(FrozenRegistry):
    @property
    def native_order(self) -> tuple[str, ...]:
        return (*super().native_order, *(self.aliases[alias] for alias in self.aliases))


@CHAPTER.mutant(
    "m-list-order-repeats-ties",
    "LIST-007",
    OrderRepeatsTies,
    story="Every declaration gives a line, a second name of a tied weight the key of the first once more.",
)
def _(harness: Harness) -> None:
    order = over(harness, TIED)[1].native_order
    shown(len(order) != len(set(order)))


# ----------------------------------------------------------------------------------------------------------- LIST-014


class RefusesEmptyModels(MutableRegistry):
    def __init__(self, module: Module) -> None:
        super().__init__(module)
        if not len(self):
            raise errors.UnsupportedError("the model has no state")


class AsksTheFirstEntry(FrozenRegistry):
    def __init__(self, model: FrozenModel) -> None:
        super().__init__(model)
        self.device = "cpu"

    def _convert(self, key: str, value: Any, /) -> np.ndarray:
        next(iter(self))
        return super()._convert(key, value)

    def replace(self, values: Mapping[str, Any], /) -> Self:
        next(iter(self))
        return super().replace(values)


@CHAPTER.mutant(
    "m-list-empty-model-refused",
    "LIST-014",
    RefusesEmptyModels,
    story="'No parameters: did you forget to build the model?', as Keras and optimizers of torch say; a ReLU is a model too.",
)
def _(harness: Harness) -> None:
    shown(not accepted(lambda: over(harness, Declaration())))


@CHAPTER.mutant(
    "m-list-empty-model-first-entry",
    "LIST-014",
    AsksTheFirstEntry,
    story="`next(model.parameters()).device` is how torch code finds the device, and raises StopIteration without parameters.",
    also=("ERR-004",),
)
def _(harness: Harness) -> None:
    registry = over(harness, Declaration())[1]
    shown(isinstance(error_of(lambda: registry.replace({})), StopIteration))
