"""Mutants of chapter 9, part one: writes that stop half way, or report half of the truth."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from mutants.support import (
    F16,
    F32,
    PARAMETER,
    PLAIN,
    Chapter,
    accepted,
    bits,
    entry_of,
    error_of,
    kept,
    noise,
    over,
    rebind,
    shown,
    without,
)
from stateregistry import checking, errors
from stateregistry_conformance.declaration import Declaration, Leaf
from stateregistry_conformance.harness import Harness
from stateregistry_numpy.cells import Buffer
from stateregistry_numpy.registry import FrozenRegistry, MutableRegistry

CHAPTER = Chapter()

GOOD = {"enc/b": noise((3,), seed=9), "enc/w": noise((2, 3), seed=9)}
#: Fits but for the last key.
BAD_LAST = {**GOOD, "norm/mean": noise((4,), seed=9)}


def changed_by(values: Any) -> Any:
    """The proof that a write which is refused has changed something."""

    def proof(harness: Harness) -> None:
        model, registry = over(harness, PLAIN)
        shown(not accepted(lambda: registry.replace(values)))
        now = {key: registry.read(key) for key in PLAIN.values()}
        shown(
            any(bits(now[key]) != bits(value) for key, value in PLAIN.values().items())
            or not kept(harness, model, PLAIN)
        )

    return proof


# ----------------------------------------------------------------------------------------------------------- ATOM-001


class OneKeyAfterTheOther(MutableRegistry):
    def replace(self, values: Mapping[str, Any], /) -> Self:
        for key in values:
            super().replace({key: values[key]})
        return self


class WhatFitsThenRaises(MutableRegistry):
    def replace(self, values: Mapping[str, Any], /) -> Self:
        try:
            return super().replace(values)
        except errors.MismatchError as error:
            super().replace(without(values, error.keys.__contains__))
            raise


class WritesKnownThenUnexpected(MutableRegistry):
    def replace(self, values: Mapping[str, Any], /) -> Self:
        try:
            return super().replace(values)
        except errors.UnexpectedKeyError as error:
            super().replace(without(values, error.keys.__contains__))
            raise


class FrozenKeepsWhatFits(FrozenRegistry):
    def replace(self, values: Mapping[str, Any], /) -> Self:
        try:
            return super().replace(values)
        except errors.MismatchError as error:
            other = super().replace(without(values, error.keys.__contains__))
            self._model = other._model
            raise


class RestoresCopies(MutableRegistry):
    def replace(self, values: Mapping[str, Any], /) -> Self:
        saved = {key: copy.copy(cell) for key, cell in self._module.cells()}
        try:
            return super().replace(values)
        except errors.StateError:
            for key, old in saved.items():
                cell = self._cell(key)
                if cell is not None and cell is not old and isinstance(cell, Buffer):
                    rebind(self._module, cell, old)
            raise


class ChecksShapesFirst(MutableRegistry):
    """Looks for unknown keys and shapes before it writes, and for dtypes while it does."""

    def replace(self, values: Mapping[str, Any], /) -> Self:
        try:
            return super().replace(values)
        except errors.DtypeError as error:
            super().replace(without(values, min(error.keys).__le__))
            raise


CHAPTER.mutant(
    "m-atom-one-key-after-the-other",
    "ATOM-001",
    OneKeyAfterTheOther,
    story="NNX's `update` and Keras' `set_weights` write in a loop and stop half way at the first key that does not fit.",
    also=("ATOM-002", "ATOM-003", "ATOM-004", "ERR-002", "ATOM-005", "ALIAS-005"),
)(changed_by(BAD_LAST))
CHAPTER.mutant(
    "m-atom-what-fits",
    "ATOM-001",
    WhatFitsThenRaises,
    story="torch's `load_state_dict` has written everything else by the time it raises.",
    also=("ATOM-003",),
)(changed_by(BAD_LAST))
CHAPTER.mutant(
    "m-atom-unexpected-after-the-write",
    "ATOM-001",
    WritesKnownThenUnexpected,
    story="A merely unexpected key makes torch raise after everything has been written.",
)(changed_by({**GOOD, "enc/bias": noise((3,))}))
CHAPTER.mutant(
    "m-atom-receiver-keeps-what-fits",
    "ATOM-001",
    FrozenKeepsWhatFits,
    story="A functional handle that collects the new tree in itself and raises with half of it collected.",
    also=("WRITE-003",),
)(changed_by(BAD_LAST))
CHAPTER.mutant(
    "m-atom-dtypes-too-late",
    "ATOM-001",
    ChecksShapesFirst,
    story="Names and shapes are compared up front, dtypes only by the copy itself, in the order of the keys.",
)(changed_by({**GOOD, "norm/mean": noise((3,), F16)}))


@CHAPTER.mutant(
    "m-atom-restored-as-copies",
    "ATOM-001",
    RestoresCopies,
    story="A failed write is undone from `deepcopy(module)`: the bits are back, and the cells are others.",
    also=("ATOM-005",),
)
def _(harness: Harness) -> None:
    model, registry = over(harness, PLAIN)
    cell = harness.cell(model, "norm/mean")
    shown(not accepted(lambda: registry.replace(BAD_LAST)))
    shown(harness.cell(model, "norm/mean") is not cell)


class FlagsOneAfterTheOther(MutableRegistry):
    def with_trainable(self, mask: Mapping[str, bool], /) -> Self:
        for key, flag in mask.items():
            super().with_trainable({key: flag})
        return self


@CHAPTER.mutant(
    "m-atom-flags-one-after-the-other",
    "ATOM-001",
    FlagsOneAfterTheOther,
    story="`for name, p in ...: p.requires_grad_(mask[name])` raises at the first wrong name with the flags before it set.",
    also=("ATOM-002", "KIND-004", "WRITE-016", "ALIAS-005"),
)
def _(harness: Harness) -> None:
    model, registry = over(harness, PLAIN)
    shown(not accepted(lambda: registry.with_trainable({"enc/w": False, "nope": False})))
    shown(not harness.peek_trainable(model, "enc/w"))


class FlagsKeptByTheReceiver(FrozenRegistry):
    def with_trainable(self, mask: Mapping[str, bool], /) -> Self:
        try:
            return super().with_trainable(mask)
        except errors.StateError:
            legal = {k: f for k, f in mask.items() if k in self and isinstance(f, bool) and self[k].can_train}
            self._flags, self._listed = {**self._flags, **legal}, None
            raise


@CHAPTER.mutant(
    "m-atom-flags-kept-by-the-receiver",
    "ATOM-001",
    FlagsKeptByTheReceiver,
    story="The mask is merged into the handle first and validated afterwards.",
    also=("KIND-004", "WRITE-003"),
)
def _(harness: Harness) -> None:
    _, registry = over(harness, PLAIN)
    shown(not accepted(lambda: registry.with_trainable({"enc/w": False, "nope": False})))
    shown(not registry["enc/w"].trainable)


class LoadsWhatFits(MutableRegistry):
    """Writes while it converts, so that a load which is refused later has written already."""

    def _convert(self, key: str, value: Any, /) -> np.ndarray:
        array = super()._convert(key, value)
        entry = entry_of(self, key)
        if entry is not None and entry.concrete and not entry.shape and not array.shape and array.dtype == F32:
            cell = self._known(self.aliases.get(key, key))
            if cell.dtype == F32:
                cell.array[...] = array
        return array


@CHAPTER.mutant(
    "m-atom-scalars-written-early",
    "ATOM-001",
    LoadsWhatFits,
    story="Scalars are plain attributes in the model and set at once; only arrays are collected and written together.",
    also=("LIST-009", "LOAD-002"),
)
def _(harness: Harness) -> None:
    model, registry = over(harness, Declaration((Leaf("s", PARAMETER, noise(())), Leaf("w", PARAMETER, noise((3,))))))
    shown(not accepted(lambda: registry.replace({"s": noise((), seed=9), "w": noise((4,))})))
    shown(bits(harness.peek(model, "s")) == bits(noise((), seed=9)))


# ----------------------------------------------------------------------------------------------------------- ATOM-002


def _refuse(problems: list[checking.Problem], error: errors.MismatchError) -> errors.MismatchError:
    return checking.refuse(checking.Report.of(problems), "cannot replace") if problems else error


class FirstProblemOnly(MutableRegistry):
    def replace(self, values: Mapping[str, Any], /) -> Self:
        try:
            return super().replace(values)
        except errors.MismatchError as error:
            raise _refuse(list(error.report)[:1], error) from None


class FirstGivenOnly(FrozenRegistry):
    def replace(self, values: Mapping[str, Any], /) -> Self:
        try:
            return super().replace(values)
        except errors.MismatchError as error:
            first = next((str(key) for key in values if str(key) in error.keys), None)
            raise _refuse([p for p in error.report if p.key == first], error) from None


class OneClassAtATime(MutableRegistry):
    def replace(self, values: Mapping[str, Any], /) -> Self:
        try:
            return super().replace(values)
        except errors.MismatchError as error:
            first = next(iter(error.report)).problem
            raise _refuse([p for p in error.report if p.problem == first], error) from None


class AtMostThree(FrozenRegistry):
    def replace(self, values: Mapping[str, Any], /) -> Self:
        try:
            return super().replace(values)
        except errors.MismatchError as error:
            raise _refuse(list(error.report)[:3], error) from None


_WRONG = {"nope": noise((3,)), "enc/w": noise((3, 3)), "enc/b": noise((3,), F16), "zz": noise((1,)), "yy": noise((1,))}


def _report_is_short(harness: Harness) -> None:
    _, registry = over(harness, PLAIN)
    error = error_of(lambda: registry.replace(_WRONG))
    shown(isinstance(error, errors.MismatchError) and len({p.key for p in error.report}) < len(_WRONG))


for name, cls, why, more in (
    (
        "m-atom-first-problem-only",
        FirstProblemOnly,
        "Keras and NNX stop at the first problem: with 400 keys, one error per attempt is a day of work.",
        ("ERR-002", "ERR-003"),
    ),
    (
        "m-atom-first-given-only",
        FirstGivenOnly,
        "One problem per attempt, and which one it is depends on the order of the mapping.",
        ("ERR-002", "ERR-003"),
    ),
    (
        "m-atom-one-class-at-a-time",
        OneClassAtATime,
        "Unexpected keys first; when these are solved, the shapes: torch checks in stages.",
        ("ERR-002", "ERR-003"),
    ),
    (
        "m-atom-three-problems-at-most",
        AtMostThree,
        "'... and more': the list is cut for the reader and for the program.",
        ("ERR-003",),
    ),
):
    CHAPTER.mutant(name, "ATOM-002", cls, story=why, also=more)(_report_is_short)
