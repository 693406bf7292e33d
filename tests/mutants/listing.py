"""Mutants of chapter 6, part one: enumerations that lose, invent, repeat or misplace."""

from __future__ import annotations

import itertools
from collections.abc import ItemsView, Mapping, ValuesView
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
    Orders,
    accepted,
    error_of,
    noise,
    one,
    over,
    shown,
)
from stateregistry import errors, keys
from stateregistry.entry import Entry, dtype_name
from stateregistry_conformance.declaration import Declaration, Leaf
from stateregistry_conformance.harness import Harness
from stateregistry_numpy.module import Module
from stateregistry_numpy.registry import FrozenRegistry, MutableRegistry
from stateregistry_numpy.tree import FrozenModel

CHAPTER = Chapter()


def _named(*names: str) -> Declaration:
    return Declaration(tuple(Leaf(name, PARAMETER, noise((2,), seed=n)) for n, name in enumerate(names)))


# ----------------------------------------------------------------------------------------------------------- LIST-001


class InDeclaredOrder(Orders, MutableRegistry):
    pass


class InNaturalOrder(Orders, FrozenRegistry):
    def order(self, entries: Mapping[str, Entry]) -> list[str]:
        return sorted(entries, key=keys.natural)


class InOrderOfSegments(Orders, FrozenRegistry):
    def order(self, entries: Mapping[str, Entry]) -> list[str]:
        return sorted(entries, key=keys.split)


class InOrderWithoutCase(Orders, MutableRegistry):
    def order(self, entries: Mapping[str, Entry]) -> list[str]:
        return sorted(entries, key=lambda key: (key.casefold(), key))


class ParametersFirst(Orders, MutableRegistry):
    def order(self, entries: Mapping[str, Entry]) -> list[str]:
        return sorted(entries, key=lambda key: (entries[key].kind is BUFFER, key))


def _unsorted(declaration: Declaration) -> Any:
    def proof(harness: Harness) -> None:
        found = list(over(harness, declaration)[1])
        shown(found != sorted(found) and set(found) == set(declaration.entries()))

    return proof


for name, cls, names, why in (
    ("m-list-declared-order", InDeclaredOrder, ("b", "a"), "torch iterates in the order of registration."),
    (
        "m-list-natural-order",
        InNaturalOrder,
        ("layers/2/w", "layers/10/w"),
        "A natural sort puts 2 before 10, which people like and which is not the order of `str`.",
    ),
    (
        "m-list-order-of-segments",
        InOrderOfSegments,
        ("a/b", "a-b"),
        "jax.tree.map sorts every level on its own: ('a', 'b') stands before ('a-b',), but 'a-b' < 'a/b' as text.",
    ),
    (
        "m-list-order-without-case",
        InOrderWithoutCase,
        ("a", "B"),
        "A sort for people, or by a database with a collation, puts 'a' before 'B'.",
    ),
):
    CHAPTER.mutant(name, "LIST-001", cls, story=why, also=("SNAP-002",))(_unsorted(_named(*names)))
CHAPTER.mutant(
    "m-list-parameters-first",
    "LIST-001",
    ParametersFirst,
    story="Keras lists trainable weights first, then the others, whatever their names.",
    also=("SNAP-002",),
)(_unsorted(Declaration((Leaf("a", BUFFER, noise((2,))), Leaf("b", PARAMETER, noise((2,)))))))


# ----------------------------------------------------------------------------------------------------------- LIST-002


class ListsTiesTwice(MutableRegistry):
    def _entries(self) -> Mapping[str, Entry]:
        walk = self._walk()
        return {**walk.entries, **{alias: walk.entries[key] for alias, key in walk.aliases.items()}}

    def _find(self, key: str, /) -> Entry | None:
        return self._entries().get(key)


@CHAPTER.mutant(
    "m-list-ties-twice",
    "LIST-002",
    ListsTiesTwice,
    story="torch's `state_dict` and MLX list a tied weight under every name, so that sizes are counted twice.",
    also=("LIST-004", "LIST-007", "ALIAS-002", "SNAP-002", "LOAD-006", "ALIAS-001", "ALIAS-009"),
)
def _(harness: Harness) -> None:
    shown({"tail", "head/w"} <= set(over(harness, TIED)[1]))


class DropsEmptyArrays(Alters, MutableRegistry):
    def alter(self, key: str, entry: Entry) -> Entry | None:
        return entry if entry.size else None


@CHAPTER.mutant(
    "m-list-empty-arrays-dropped",
    "LIST-002",
    DropsEmptyArrays,
    story="`if not array.size: continue`: a file format without room for a size of zero, or a reader that skips empty blocks.",
)
def _(harness: Harness) -> None:
    shown(len(over(harness, one(np.zeros((0, 3), F32)))[1]) == 0)


class StopsAtADepth(Alters, FrozenRegistry):
    def alter(self, key: str, entry: Entry) -> Entry | None:
        return entry if key.count("/") < 8 else None


@CHAPTER.mutant(
    "m-list-depth-limit",
    "LIST-002",
    StopsAtADepth,
    story="A recursion with a depth limit, as viewers of checkpoints have it, leaves out what is nested deeper.",
)
def _(harness: Harness) -> None:
    shown(len(over(harness, one(noise((2,)), key="/".join("abcdefghij")))[1]) == 0)


class DropsCounters(Alters, FrozenRegistry):
    def alter(self, key: str, entry: Entry) -> Entry | None:
        return None if entry.kind is BUFFER and entry.shape == () and "int" in entry.dtype else entry


@CHAPTER.mutant(
    "m-list-counters-dropped",
    "LIST-003",
    DropsCounters,
    story="torch to Flax scripts drop `num_batches_tracked`, the one integer scalar of a BatchNorm layer.",
    also=("LIST-002", "LOAD-004"),
)
def _(harness: Harness) -> None:
    shown(len(over(harness, one(np.array(41, np.int64), kind=BUFFER))[1]) == 0)


# ----------------------------------------------------------------------------------------------------------- LIST-003


class ListsAttributes(MutableRegistry):
    """Takes plain arrays on the modules for buffers."""

    def _plain(self) -> dict[str, np.ndarray]:
        return {
            f"{path}/{name}" if path else name: value
            for path, module in self._module.modules()
            for name, value in vars(module).items()
            if isinstance(value, np.ndarray)
        }

    def _entries(self) -> Mapping[str, Entry]:
        plain = {k: Entry(BUFFER, a.shape, dtype_name(a.dtype) or "bool") for k, a in self._plain().items()}
        return {**super()._entries(), **plain}

    def _find(self, key: str, /) -> Entry | None:
        return self._entries().get(key)

    def _read(self, key: str, /) -> np.ndarray:
        plain = self._plain()
        return plain[key] if key in plain else super()._read(key)


@CHAPTER.mutant(
    "m-list-plain-attributes",
    "LIST-003",
    ListsAttributes,
    story="MLX and Equinox take every array attribute for state; in torch a plain tensor attribute is a cache.",
)
def _(harness: Harness) -> None:
    specimen = harness.specimen("unregistered")
    shown(specimen.keys[0] in harness.registry(specimen.model))


# ----------------------------------------------------------------------------------------------------------- LIST-004


class LenCountsAliases(MutableRegistry):
    def __len__(self) -> int:
        return super().__len__() + len(self.aliases)


@CHAPTER.mutant(
    "m-list-len-counts-aliases",
    "LIST-004",
    LenCountsAliases,
    story="torch de-duplicates in `named_parameters` and not in `state_dict`: two listings of one model differ in length.",
)
def _(harness: Harness) -> None:
    registry = over(harness, TIED)[1]
    shown(len(registry) != len(list(registry)))


class ContainsAliases(FrozenRegistry):
    def __contains__(self, key: object) -> bool:
        return super().__contains__(key) or key in self.aliases


@CHAPTER.mutant(
    "m-list-contains-aliases",
    "LIST-004",
    ContainsAliases,
    story="An `in` that resolves ties, as users of torch expect: it is true for keys that iteration never yields.",
    also=("READ-009",),
)
def _(harness: Harness) -> None:
    shown("tail" in over(harness, TIED)[1])


class LooksUpAliases(MutableRegistry):
    def __getitem__(self, key: str) -> Entry:
        return super().__getitem__(self.aliases.get(key, key) if isinstance(key, str) else key)


@CHAPTER.mutant(
    "m-list-looks-up-aliases",
    "LIST-004",
    LooksUpAliases,
    story="`[]` resolves ties and `in` does not: `reg[k]` works for a key that is not in the mapping.",
)
def _(harness: Harness) -> None:
    registry = over(harness, TIED)[1]
    shown(accepted(lambda: registry["tail"]) and "tail" not in set(registry))


class ContainsContainers(MutableRegistry):
    def __contains__(self, key: object) -> bool:
        return super().__contains__(key) or (isinstance(key, str) and any(k.startswith(f"{key}/") for k in self))


@CHAPTER.mutant(
    "m-list-contains-containers",
    "LIST-004",
    ContainsContainers,
    story="h5py and Zarr groups answer `in` for groups as well as for arrays.",
)
def _(harness: Harness) -> None:
    shown("enc" in over(harness, PLAIN)[1])


class ValuesInNativeOrder(MutableRegistry):
    def values(self) -> ValuesView[Entry]:
        return dict(self._entries()).values()


@CHAPTER.mutant(
    "m-list-values-in-another-order",
    "LIST-004",
    ValuesInNativeOrder,
    story="Keys are sorted for show and the values come as declared: `zip(reg, reg.values())` pairs the wrong ones.",
)
def _(harness: Harness) -> None:
    registry = over(harness, PLAIN)[1]
    shown([registry[key] for key in registry] != list(registry.values()))


class ItemsOfParameters(FrozenRegistry):
    def items(self) -> ItemsView[str, Entry]:
        return {key: entry for key, entry in super().items() if entry.persistent}.items()


@CHAPTER.mutant(
    "m-list-items-persistent-only",
    "LIST-004",
    ItemsOfParameters,
    story="`items` was written for saving: torch's `state_dict` has no non-persistent buffers, `named_buffers` has.",
    also=("SNAP-003",),
)
def _(harness: Harness) -> None:
    registry = over(harness, one(noise((2,)), kind=BUFFER, persistent=False))[1]
    shown(len(registry.items()) == 0 and len(registry) == 1)


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
