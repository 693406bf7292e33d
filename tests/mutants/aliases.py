"""Mutants of chapter 12, part one: ties that are not seen, seen where there are none, or listed wrongly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from mutants.support import (
    F32,
    PARAMETER,
    TIED,
    Chapter,
    accepted,
    bits,
    error_of,
    noise,
    over,
    shown,
)
from stateregistry import errors
from stateregistry.entry import Entry, Kind, dtype_name
from stateregistry_conformance.declaration import Declaration, Leaf
from stateregistry_conformance.harness import Harness
from stateregistry_numpy.cells import Buffer, Cell, Parameter, same_place
from stateregistry_numpy.registry import FrozenRegistry, MutableRegistry, _array, _entry, _Group, _places, _Walk

CHAPTER = Chapter()


class Groups(MutableRegistry):
    """Walks like the reference, with its own idea of what one place is, and which of its names is the canonical one."""

    def standing(self, cells: Mapping[str, Cell]) -> Mapping[int, int]:
        """The id of the cell that stands for its place, for cells that are not the only one of theirs."""
        return _places(cells)

    def places(self, cells: Mapping[str, Cell]) -> Mapping[str, object]:
        standing = self.standing(cells)
        return {key: standing.get(id(cell), id(cell)) for key, cell in cells.items()}

    def least(self, names: list[str]) -> str:
        return min(names)

    def entry_of_group(self, group: Any) -> Entry:
        return group.entry()

    def _walk(self) -> Any:
        cells = dict(self._module.cells())
        names: dict[object, list[str]] = {}
        for key, place in self.places(cells).items():
            names.setdefault(place, []).append(key)
        entries: dict[str, Entry] = {}
        aliases: dict[str, str] = {}
        opaque: dict[str, str] = {}
        self._groups = {}
        for those in names.values():
            canonical = self.least(those)
            if dtype_name(cells[canonical].dtype) is None:
                opaque |= dict.fromkeys(those, f"an array of dtype {cells[canonical].dtype}")
            elif len(those) == 1:
                entries[canonical] = _entry(cells[canonical])
            else:
                members = {key: cells[key] for key in those}
                group = _Group(canonical, members, tuple(_array(cell) for cell in members.values()))
                entries[canonical] = self.entry_of_group(group)
                aliases |= {key: canonical for key in those if key != canonical}
                self._groups |= dict.fromkeys(those, group)
        return _Walk(entries, aliases, opaque)

    def _find(self, key: str, /) -> Entry | None:
        return self._walk().entries.get(key)


# ---------------------------------------------------------------------------------------------------------- ALIAS-001


class TiesByObject(Groups):
    def standing(self, cells: Mapping[str, Cell]) -> Mapping[int, int]:
        return {}


class NoTies(Groups):
    def places(self, cells: Mapping[str, Cell]) -> Mapping[str, object]:
        super().places(cells)  # overlaps are refused all the same
        return {key: key for key in cells}


class TiesInOneContainer(Groups):
    def places(self, cells: Mapping[str, Cell]) -> Mapping[str, object]:
        return {key: (key.rpartition("/")[0], place) for key, place in super().places(cells).items()}


@CHAPTER.mutant(
    "m-alias-by-object",
    "ALIAS-001",
    TiesByObject,
    story="Ties are found with `is`: two torch Parameters over one storage are written twice, the last value wins.",
    also=("ALIAS-008", "ALIAS-009"),
)
def _(harness: Harness) -> None:
    specimen = harness.specimen("one_memory")
    shown(set(specimen.keys) <= set(harness.registry(specimen.model)))


@CHAPTER.mutant(
    "m-alias-not-seen",
    "ALIAS-001",
    NoTies,
    story="MLX does not de-duplicate: a tied weight is three weights, and stays so in every file.",
    also=("LIST-002", "ALIAS-002", "ALIAS-003", "ALIAS-005", "LOAD-006", "ALIAS-009", "SNAP-002"),
)
def _(harness: Harness) -> None:
    registry = over(harness, TIED)[1]
    shown(not registry.aliases and {"tail", "head/w"} <= set(registry))


@CHAPTER.mutant(
    "m-alias-in-one-container",
    "ALIAS-001",
    TiesInOneContainer,
    story="A walk that remembers what it has seen per layer finds no tie between an embedding and a head.",
    also=("LIST-002", "ALIAS-002", "LOAD-006", "ALIAS-005", "ALIAS-009", "SNAP-002"),
)
def _(harness: Harness) -> None:
    registry = over(harness, TIED)[1]
    shown(not registry.aliases and {"tail", "head/w"} <= set(registry))


# ---------------------------------------------------------------------------------------------------------- ALIAS-002


class HidesAliases(FrozenRegistry):
    def _aliases(self) -> Mapping[str, str]:
        return {}


class CanonicalIsAnAlias(MutableRegistry):
    def _aliases(self) -> Mapping[str, str]:
        found = super()._aliases()
        return {**found, **{key: key for key in found.values()}}


class OneAliasPerGroup(FrozenRegistry):
    def _aliases(self) -> Mapping[str, str]:
        found = super()._aliases()
        return {min(a for a, t in found.items() if t == target): target for target in set(found.values())}


class Turned(MutableRegistry):
    @property
    def aliases(self) -> Mapping[str, str]:
        return MappingProxyType({key: alias for alias, key in super().aliases.items()})


class Chained(FrozenRegistry):
    @property
    def aliases(self) -> Mapping[str, str]:
        chained: dict[str, str] = {}
        latest: dict[str, str] = {}
        for alias, key in super().aliases.items():
            chained[alias] = latest.get(key, key)
            latest[key] = alias
        return MappingProxyType(chained)


def _aliases_are_wrong(harness: Harness) -> None:
    shown(dict(over(harness, TIED)[1].aliases) != TIED.aliases())


for name, cls, why, more in (
    (
        "m-alias-hidden",
        HidesAliases,
        "NNX lists the first path of a shared variable and no second one.",
        ("READ-009", "ALIAS-004", "LOAD-006", "WRITE-007"),
    ),
    (
        "m-alias-of-itself",
        CanonicalIsAnAlias,
        "A group is a dict of all its names to the first one, the first one included.",
        (),
    ),
    (
        "m-alias-one-per-group",
        OneAliasPerGroup,
        "safetensors' `save_model` was written for pairs; the third name of a weight is lost.",
        ("READ-009", "ALIAS-004", "LOAD-006", "WRITE-007"),
    ),
    (
        "m-alias-turned",
        Turned,
        "`{'kept': 'dropped'}` or `{'dropped': 'kept'}`: formats disagree, and so does who reads them.",
        ("LOAD-006", "ALIAS-004"),
    ),
    (
        "m-alias-chained",
        Chained,
        "Each new name points at the one before it, which is itself an alias.",
        ("LOAD-006", "ALIAS-004"),
    ),
):
    CHAPTER.mutant(name, "ALIAS-002", cls, story=why, also=more)(_aliases_are_wrong)


# ---------------------------------------------------------------------------------------------------------- ALIAS-003


class FirstDeclared(Groups):
    def least(self, names: list[str]) -> str:
        return names[0]


class Shortest(FrozenRegistry):
    def best(self, names: list[str]) -> str:
        return min(names, key=lambda name: (name.count("/"), len(name), name))

    def _index(self) -> dict[str, Entry]:
        entries = super()._index()
        groups: dict[str, list[str]] = {}
        for alias, key in self._known_aliases.items():
            groups.setdefault(key, [key]).append(alias)
        renamed = {key: self.best(names) for key, names in groups.items()}
        self._places = {renamed.get(key, key): place for key, place in self._places.items()}
        self._known_aliases = {n: renamed[key] for key, names in groups.items() for n in names if n != renamed[key]}
        return {renamed.get(key, key): entry for key, entry in entries.items()}


class Last(Shortest):
    def best(self, names: list[str]) -> str:
        return max(names)


for name, cls, why in (
    ("m-alias-first-declared", FirstDeclared, "torch's `named_parameters` keeps the name that was registered first."),
    ("m-alias-shortest", Shortest, "The shortest path looks best: transformers keeps `lm_head.weight` in that way."),
    ("m-alias-greatest", Last, "Overwriting in a dict keyed by identity keeps the last name instead of the least."),
):
    CHAPTER.mutant(name, "ALIAS-003", cls, story=why, also=("LIST-002", "ALIAS-002", "SNAP-002"))(
        lambda harness: shown("emb/table/w" not in set(over(harness, TIED)[1]))
    )


# ---------------------------------------------------------------------------------------------------------- ALIAS-007


class TiesByValue(Groups):
    def places(self, cells: Mapping[str, Cell]) -> Mapping[str, object]:
        found = super().places(cells)
        return {k: bits(c.array) if c.concrete and c.array.size > 1 else found[k] for k, c in cells.items()}


class TiesEmptyArrays(Groups):
    def places(self, cells: Mapping[str, Cell]) -> Mapping[str, object]:
        found = super().places(cells)
        empty = {k: (c.shape, c.dtype.name) for k, c in cells.items() if c.concrete and not c.array.size}
        return {key: empty.get(key, place) for key, place in found.items()}


class TiesSharedArrays(FrozenRegistry):
    def _index(self) -> dict[str, Entry]:
        entries = super()._index()
        firsts: dict[int, str] = {}
        for key in sorted(entries):
            if entries[key].concrete:
                first = firsts.setdefault(id(self._read(key)), key)
                if first != key:
                    self._known_aliases[key] = first
        return {key: entry for key, entry in entries.items() if key not in self._known_aliases}


def _two(value: np.ndarray) -> Declaration:
    return Declaration(tuple(Leaf(name, PARAMETER, value) for name in ("one", "two")))


def _sees_a_tie(value: np.ndarray) -> Callable[[Harness], None]:
    return lambda harness: shown(over(harness, _two(value))[1].aliases)


CHAPTER.mutant(
    "m-alias-equal-values",
    "ALIAS-007",
    TiesByValue,
    story="De-duplication by content, as storage formats do it: two layers with the same initial values are one.",
    also=("LIST-002", "ALIAS-001"),
)(_sees_a_tie(noise((2, 3))))
CHAPTER.mutant(
    "m-alias-empty-arrays",
    "ALIAS-007",
    TiesEmptyArrays,
    story="All empty torch tensors have `data_ptr()` 0, so they are 'the same memory'.",
    also=("LIST-002", "ALIAS-001"),
)(_sees_a_tie(np.zeros((0, 3), F32)))


@CHAPTER.mutant(
    "m-alias-shared-array",
    "ALIAS-007",
    TiesSharedArrays,
    story="`id(array)` decides: two NNX variables may hold one immutable JAX array and part at the next write.",
    also=("LIST-002", "ALIAS-001"),
)
def _(harness: Harness) -> None:
    specimen = harness.specimen("shared_array")
    shown(harness.registry(specimen.model).aliases)


# ---------------------------------------------------------------------------------------------------------- ALIAS-008


class ListsOverlaps(Groups):
    def standing(self, cells: Mapping[str, Cell]) -> Mapping[int, int]:
        standing: dict[int, int] = {}
        seen: list[Cell] = []
        for cell in dict.fromkeys(cells.values()):
            same = next((o for o in seen if cell.concrete and o.concrete and same_place(cell.array, o.array)), None)
            if same is None:
                seen.append(cell)
            else:
                standing[id(cell)] = id(same)
        return standing


class TiesByAddress(Groups):
    def standing(self, cells: Mapping[str, Cell]) -> Mapping[int, int]:
        firsts: dict[int, int] = {}
        standing: dict[int, int] = {}
        for cell in dict.fromkeys(cells.values()):
            if cell.concrete and cell.array.size:
                first = firsts.setdefault(cell.array.__array_interface__["data"][0], id(cell))
                standing |= {} if first == id(cell) else {id(cell): first}
        return standing


class RefusesOverlapOtherwise(MutableRegistry):
    def __init__(self, module: Any) -> None:
        try:
            super().__init__(module)
        except errors.UnsupportedError as error:
            raise errors.ConflictError(error.message, report=None, keys=error.keys) from None  # type: ignore[arg-type]


@CHAPTER.mutant(
    "m-alias-overlap-listed",
    "ALIAS-008",
    ListsOverlaps,
    story="torch lets a buffer be a slice of a parameter: both are listed, and the order of two writes decides.",
)
def _(harness: Harness) -> None:
    specimen = harness.specimen("overlap")
    shown(accepted(lambda: harness.registry(specimen.model)))
    shown(set(specimen.keys) <= set(harness.registry(specimen.model)))


@CHAPTER.mutant(
    "m-alias-by-address",
    "ALIAS-008",
    TiesByAddress,
    story="`data_ptr()` alone says whether two tensors are one: the first row of a matrix is then the matrix.",
)
def _(harness: Harness) -> None:
    specimen = harness.specimen("overlap")
    shown(accepted(lambda: harness.registry(specimen.model)))
    shown(harness.registry(specimen.model).aliases)


@CHAPTER.mutant(
    "m-alias-overlap-another-error",
    "ALIAS-008",
    RefusesOverlapOtherwise,
    story="Overlap is refused as a conflict of values, although no values were given.",
    also=("ERR-002",),
)
def _(harness: Harness) -> None:
    error = error_of(lambda: harness.registry(harness.specimen("overlap").model))
    shown(isinstance(error, errors.ConflictError) and not isinstance(error, errors.UnsupportedError))


# ---------------------------------------------------------------------------------------------------------- ALIAS-009


class CanonicalDecides(Groups):
    def entry_of_group(self, group: Any) -> Entry:
        return _entry(group.members[group.canonical])


class AllHaveToBeSaved(Groups):
    def entry_of_group(self, group: Any) -> Entry:
        entry = group.entry()
        saved = all(not isinstance(cell, Buffer) or cell.persistent for cell in group.members.values())
        return Entry(entry.kind, entry.shape, entry.dtype, trainable=entry.trainable, persistent=saved)


class AllHaveToTrain(Groups):
    def entry_of_group(self, group: Any) -> Entry:
        entry = group.entry()
        trains = all(isinstance(cell, Parameter) and cell.trainable for cell in group.members.values())
        return Entry(entry.kind, entry.shape, entry.dtype, trainable=trains, persistent=entry.persistent, rng=entry.rng)


class AllHaveToBeParameters(Groups):
    def entry_of_group(self, group: Any) -> Entry:
        entry = group.entry()
        if all(isinstance(cell, Parameter) for cell in group.members.values()):
            return entry
        return Entry(Kind.BUFFER, entry.shape, entry.dtype, persistent=entry.persistent, rng=entry.rng)


def _mixed_entry_differs(harness: Harness) -> None:
    specimen = harness.specimen("mixed_tie")
    shown(dict(harness.registry(specimen.model)) != specimen.declaration.entries())


for name, cls, why, more in (
    (
        "m-alias-canonical-decides",
        CanonicalDecides,
        "Metadata are taken from the member that gives the key: a weight becomes a buffer by the spelling of its names.",
        ("KIND-001", "SNAP-001"),
    ),
    (
        "m-alias-group-not-saved",
        AllHaveToBeSaved,
        "One name is a non-persistent buffer, so nothing of the group gets into the file: the weight is lost.",
        ("SNAP-001",),
    ),
    (
        "m-alias-group-not-trained",
        AllHaveToTrain,
        "`requires_grad` is and-ed over the names: a view of the weight as a buffer freezes it.",
        ("KIND-003",),
    ),
    (
        "m-alias-group-is-a-buffer",
        AllHaveToBeParameters,
        "The weaker member is reported, to be on the safe side: the optimizer never sees the weight.",
        ("KIND-001", "KIND-003"),
    ),
):
    CHAPTER.mutant(name, "ALIAS-009", cls, story=why, also=more)(_mixed_entry_differs)
