"""Mutants of chapter 12, part two: ties that are refused, decided by order, or broken."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np

from mutants.support import (
    F32,
    TIED,
    Chapter,
    Respelled,
    accepted,
    bits,
    looked,
    names_of,
    noise,
    over,
    shown,
    without,
)
from stateregistry import errors, keys
from stateregistry_conformance.harness import Harness
from stateregistry_numpy.cells import Cell
from stateregistry_numpy.registry import FrozenRegistry, MutableRegistry
from stateregistry_numpy.tree import COLLECTIONS, FrozenModel

CHAPTER = Chapter()


# ---------------------------------------------------------------------------------------------------------- ALIAS-004


class WritesCanonicalKeysOnly(MutableRegistry):
    def replace(self, values: Mapping[str, Any], /) -> Self:
        self.__dict__["_aliases"] = dict  # hides the hook for the length of the call
        try:
            return super().replace(values)
        finally:
            del self.__dict__["_aliases"]


class MasksCanonicalKeysOnly(FrozenRegistry):
    def with_trainable(self, mask: Mapping[str, bool], /) -> Self:
        wrong = tuple(key for key in mask if key in self.aliases)
        if wrong:
            raise errors.UnknownKeyError(f"{wrong} are no entries", keys=wrong)
        return super().with_trainable(mask)


class OneKeyPerGroup(MutableRegistry):
    def replace(self, values: Mapping[str, Any], /) -> Self:
        aliases, seen = self.aliases, set()
        for key in names_of(values):
            canonical = aliases.get(key, key)
            if canonical in seen:
                raise errors.UnsupportedError(f"{canonical!r} is given twice", keys=(canonical,))
            seen.add(canonical)
        return super().replace(values)


class OneFlagPerGroup(FrozenRegistry):
    def with_trainable(self, mask: Mapping[str, bool], /) -> Self:
        canonical = [self.aliases.get(key, key) for key in mask]
        if len(set(canonical)) != len(canonical):
            raise errors.UnsupportedError("one place is named twice", keys=tuple(mask))
        return super().with_trainable(mask)


def tied_value() -> np.ndarray:
    """A new value for the tied place; an array of the caller's, since some mutants keep what they are given."""
    return noise((2, 3), seed=9)


def _refuses(call: Callable[[Any], object]) -> Callable[[Harness], None]:
    def proof(harness: Harness) -> None:
        registry = over(harness, TIED)[1]
        shown(not accepted(lambda: call(registry)))

    return proof


CHAPTER.mutant(
    "m-alias-write-refused",
    "ALIAS-004",
    WritesCanonicalKeysOnly,
    story="A safetensors file holds one name of a tied weight, and not always the one that the model lists.",
    also=("WRITE-007",),
)(_refuses(lambda registry: registry.replace({"tail": tied_value()})))
CHAPTER.mutant(
    "m-alias-mask-refused",
    "ALIAS-004",
    MasksCanonicalKeysOnly,
    story="The mask follows `named_parameters`, which knows one of the names only.",
)(_refuses(lambda registry: registry.with_trainable({"tail": False})))
CHAPTER.mutant(
    "m-alias-all-names-refused",
    "ALIAS-004",
    OneKeyPerGroup,
    story="A torch checkpoint holds all names of a tied weight with the same bits; whoever forbids repetition refuses it.",
)(_refuses(lambda registry: registry.replace({"tail": tied_value(), "head/w": tied_value()})))
CHAPTER.mutant(
    "m-alias-all-flags-refused",
    "ALIAS-004",
    OneFlagPerGroup,
    story="A mask made by `dict.fromkeys(state_dict, False)` names a tied weight twice and is refused.",
)(_refuses(lambda registry: registry.with_trainable({"tail": False, "head/w": False})))


# ---------------------------------------------------------------------------------------------------------- ALIAS-005


class LastWins(MutableRegistry):
    def replace(self, values: Mapping[str, Any], /) -> Self:
        return super().replace(Respelled(values, lambda key: self.aliases.get(key, key)))


class CanonicalWins(FrozenRegistry):
    def replace(self, values: Mapping[str, Any], /) -> Self:
        given = set(names_of(values))
        return super().replace(without(values, lambda key: self.aliases.get(key, key) in given - {key}))


class Merges(MutableRegistry):
    """Takes several values of a group as one when `same` says so."""

    def same(self, first: np.ndarray, second: np.ndarray) -> bool:
        return bits(first) == bits(second)

    def replace(self, values: Mapping[str, Any], /) -> Self:
        firsts: dict[str, np.ndarray] = {}
        again: set[str] = set()
        for key in names_of(values):
            canonical, value = self.aliases.get(key, key), looked(values, key)
            if value is not None:
                if canonical in firsts and self.same(firsts[canonical], value):
                    again.add(key)
                firsts.setdefault(canonical, value)
        return super().replace(without(values, again.__contains__))


class EqualByValue(Merges):
    def same(self, first: np.ndarray, second: np.ndarray) -> bool:
        return first.dtype == second.dtype and first.dtype.kind in "biufc" and np.array_equal(first, second)


class EqualIfClose(Merges):
    def same(self, first: np.ndarray, second: np.ndarray) -> bool:
        numbers = first.dtype == second.dtype and first.dtype.kind in "fc" and first.shape == second.shape
        return numbers and bool(np.allclose(first, second))


class ComparesNumbers(FrozenRegistry):
    def replace(self, values: Mapping[str, Any], /) -> Self:
        firsts: dict[str, np.ndarray] = {}
        for key in names_of(values):
            canonical, value = self.aliases.get(key, key), looked(values, key)
            first = value if value is None else firsts.setdefault(canonical, value)
            both = first is not value and first.shape == value.shape and first.dtype == value.dtype == F32
            if both and (first != value).any():
                raise errors.StateError(f"{canonical!r} is given two values", keys=(canonical,))
        return super().replace(values)


class LastFlagWins(MutableRegistry):
    def with_trainable(self, mask: Mapping[str, bool], /) -> Self:
        return super().with_trainable({self.aliases.get(key, key): flag for key, flag in mask.items()})


class AnyFlagWins(FrozenRegistry):
    def with_trainable(self, mask: Mapping[str, bool], /) -> Self:
        merged: dict[str, bool] = {}
        for key, flag in mask.items():
            canonical = self.aliases.get(key, key)
            merged[canonical] = merged.get(canonical, False) or flag
        return super().with_trainable(merged)


def _takes_both(first: np.ndarray, second: np.ndarray) -> Callable[[Harness], None]:
    def proof(harness: Harness) -> None:
        registry = over(harness, TIED)[1]
        shown(bits(first) != bits(second))
        shown(accepted(lambda: registry.replace({"tail": first, "head/w": second})))

    return proof


def zeros() -> np.ndarray:
    """Another one."""
    return np.zeros((2, 3), F32)


CHAPTER.mutant(
    "m-alias-last-value-wins",
    "ALIAS-005",
    LastWins,
    story="In torch and NNX the last of several values for one tied weight wins silently (pytorch#62264).",
)(_takes_both(tied_value(), zeros()))


@CHAPTER.mutant(
    "m-alias-canonical-value-wins",
    "ALIAS-005",
    CanonicalWins,
    story="What is given under the canonical key is right, other names are not looked at: a checkpoint untied by "
    "`assign=True` (pytorch#188346) loses one of its two weights.",
)
def _(harness: Harness) -> None:
    registry = over(harness, TIED)[1]
    shown(accepted(lambda: registry.replace({"tail": zeros(), "emb/table/w": tied_value()})))


CHAPTER.mutant(
    "m-alias-zeros-are-equal",
    "ALIAS-005",
    EqualByValue,
    story="`np.array_equal` calls -0.0 and 0.0 equal.",
)(_takes_both(-zeros(), zeros()))
CHAPTER.mutant(
    "m-alias-close-is-equal",
    "ALIAS-005",
    EqualIfClose,
    story="`torch.allclose` decides whether a checkpoint is tied: after some steps of training apart it still says yes.",
)(_takes_both(tied_value(), np.nextafter(tied_value(), F32(9))))


@CHAPTER.mutant(
    "m-alias-nan-conflicts",
    "ALIAS-005",
    ComparesNumbers,
    story="`(a != b).any()` calls a NaN different from itself: a diverged but tied checkpoint is refused.",
    also=("ALIAS-004",),
)
def _(harness: Harness) -> None:
    registry = over(harness, TIED)[1]
    nan = np.full((2, 3), np.nan, F32)
    shown(not accepted(lambda: registry.replace({"tail": nan, "head/w": nan.copy()})))


for name, cls, why in (
    ("m-alias-last-flag-wins", LastFlagWins, "Flags are set in a loop over all names: the last one stays."),
    (
        "m-alias-any-flag-wins",
        AnyFlagWins,
        "Flags of a group are joined with `or`, as the group itself is trainable when one is.",
    ),
):
    CHAPTER.mutant(name, "ALIAS-005", cls, story=why)(
        lambda harness: shown(accepted(lambda: over(harness, TIED)[1].with_trainable({"tail": True, "head/w": False})))
    )


# ---------------------------------------------------------------------------------------------------------- ALIAS-006


def stand_in(module: Any, key: str, cell: Cell) -> None:
    """Put another cell under one name only."""
    *parents, name = keys.split(key)
    for step in parents:
        module = module.members[step]
    setattr(module, name, cell)


class WritingUnties(MutableRegistry):
    def _commit(self, staged: Mapping[str, Any], /) -> Self:
        tied = {
            key: cell for key, cell in self._module.cells() if key in staged and key in set(self._aliases().values())
        }
        for key, cell in tied.items():
            if cell.concrete:
                new = copy.copy(cell)
                new.array = np.array(cell.array, copy=True)
                stand_in(self._module, key, new)
        self._walk()
        return super()._commit(staged)


class FlagsUntie(MutableRegistry):
    def _commit_trainable(self, mask: Mapping[str, bool], /) -> Self:
        for key in mask:
            if key in set(self._aliases().values()):
                cell = self._known(key)
                new = copy.copy(cell)
                new.array = np.array(cell.array, copy=True)
                stand_in(self._module, key, new)
        self._walk()
        return super()._commit_trainable(mask)


class WritingMovesMemory(MutableRegistry):
    def _commit(self, staged: Mapping[str, Any], /) -> Self:
        for key, value in staged.items():
            group = self._groups.get(key)
            if group is not None and len(set(map(id, group.members.values()))) > 1 and value is not None:
                self._known(key).array = np.array(value, copy=True)
        return super()._commit(staged)


def _dicts(node: Any) -> Any:
    """A tree that can be edited; the steps of lists stay numbers."""
    if isinstance(node, tuple):
        return {number: _dicts(child) for number, child in enumerate(node)}
    return {name: _dicts(child) for name, child in node.items()} if isinstance(node, Mapping) else node


class TreeUnties(FrozenRegistry):
    def _commit(self, staged: Mapping[str, Any], /) -> Self:
        model = super()._commit(staged).unwrap()
        trees = {name: _dicts(getattr(model, name)) for name in COLLECTIONS}
        leaves = {path: (collection, leaf) for collection, path, leaf in model.leaves()}
        for alias, target in model.ties.items():
            collection, leaf = leaves[target]
            node = trees[collection]
            for step in alias[:-1]:
                node = node.setdefault(step, {})
            node[alias[-1]] = leaf
        return type(self)(FrozenModel(**trees, layers=model.layers))


def _not_tied_natively(harness: Harness) -> None:
    model, registry = over(harness, TIED)
    model = registry.replace({"emb/table/w": tied_value()}).unwrap()
    model = harness.poke(model, "emb/table/w", zeros())
    shown(accepted(lambda: harness.peek(model, "tail")) and bits(harness.peek(model, "tail")) != bits(zeros()))


CHAPTER.mutant(
    "m-alias-untied-by-write",
    "ALIAS-006",
    WritingUnties,
    story="torch's `assign=True` breaks ties (pytorch#188346), and so does MLX's `update` of one name.",
    also=("WRITE-002", "WRITE-008", "WRITE-001"),
)(_not_tied_natively)
CHAPTER.mutant(
    "m-alias-untied-by-write-tree",
    "ALIAS-006",
    TreeUnties,
    story="A tree is rebuilt by `jax.tree.map`, which knows no sharing: an Equinox tie is two leaves from then on.",
    also=("WRITE-008", "LIST-002"),
)(_not_tied_natively)


@CHAPTER.mutant(
    "m-alias-untied-by-flags",
    "ALIAS-006",
    FlagsUntie,
    story="Freezing the embedding makes a detached copy of it: the head goes on training another weight.",
    also=("WRITE-002", "WRITE-015"),
)
def _(harness: Harness) -> None:
    model, registry = over(harness, TIED)
    registry.with_trainable({"emb/table/w": False})
    shown(harness.cell(model, "emb/table/w") is not harness.cell(model, "tail"))


@CHAPTER.mutant(
    "m-alias-memory-parted",
    "ALIAS-006",
    WritingMovesMemory,
    story="`p.data = value` gives one of two torch Parameters another storage than the other.",
    also=("WRITE-009",),
)
def _(harness: Harness) -> None:
    specimen = harness.specimen("one_memory")
    first, second = specimen.keys
    registry = harness.registry(specimen.model)
    registry.replace({first: tied_value()})
    shown(bits(harness.peek(specimen.model, first)) != bits(harness.peek(specimen.model, second)))
