"""Mutants of chapter 6, part one: enumerations that lose, invent, repeat or misplace."""

from __future__ import annotations

from collections.abc import ItemsView, Mapping, ValuesView
from typing import Any

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
    noise,
    one,
    over,
    shown,
)
from stateregistry import keys
from stateregistry.entry import Entry, dtype_name
from stateregistry_conformance.declaration import Declaration, Leaf
from stateregistry_conformance.harness import Harness
from stateregistry_numpy.registry import FrozenRegistry, MutableRegistry

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
