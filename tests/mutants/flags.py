"""Mutants of chapter 5, part two: the flag `trainable`, which is not what it is now or what was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace as with_fields
from typing import Self

import numpy as np

from mutants.support import (
    BF16,
    BUFFER,
    PARAMETER,
    PLAIN,
    Alters,
    Chapter,
    accepted,
    error_of,
    noise,
    one,
    over,
    rebind,
    shown,
)
from stateregistry import errors
from stateregistry.entry import Entry, numpy_dtype
from stateregistry.registry import StateRegistry
from stateregistry_conformance.harness import Harness
from stateregistry_numpy.cells import Buffer, Parameter
from stateregistry_numpy.module import Module
from stateregistry_numpy.registry import FrozenRegistry, MutableRegistry

CHAPTER = Chapter()


# ----------------------------------------------------------------------------------------------------------- KIND-003


class NumpysInexact(Alters, MutableRegistry):
    def alter(self, key: str, entry: Entry) -> Entry:
        inexact = np.issubdtype(numpy_dtype(entry.dtype), np.inexact)
        return entry if inexact else with_fields(entry, trainable=False)


@CHAPTER.mutant(
    "m-kind-bfloat16-never-trainable",
    "KIND-003",
    NumpysInexact,
    story="`np.issubdtype(bfloat16, np.floating)` is false: ml_dtypes has to be asked through jax.dtypes or by name.",
)
def _(harness: Harness) -> None:
    model, registry = over(harness, one(noise((3,), BF16)))
    shown(harness.peek_trainable(model, "x") and not registry["x"].trainable)


class FlagOfTheDeclaration(Alters, MutableRegistry):
    def __init__(self, module: Module) -> None:
        self.asked: dict[str, bool] = {}
        super().__init__(module)

    def alter(self, key: str, entry: Entry) -> Entry:
        return with_fields(entry, trainable=self.asked.get(key, entry.can_train))

    def _commit_trainable(self, mask: Mapping[str, bool], /) -> Self:
        self.asked |= mask
        return super()._commit_trainable(mask)


@CHAPTER.mutant(
    "m-kind-declared-trainable",
    "KIND-003",
    FlagOfTheDeclaration,
    story="The flag is taken from how the weight was declared, as Keras' `_trainable_variables`, not from what it is now.",
    also=("KIND-006",),
)
def _(harness: Harness) -> None:
    _, registry = over(harness, one(noise((3,)), trainable=False))
    shown(registry["x"].trainable)


# ----------------------------------------------------------------------------------------------------------- KIND-004


class IgnoresTrainableBuffers(MutableRegistry):
    def with_trainable(self, mask: Mapping[str, bool], /) -> Self:
        return super().with_trainable({k: f for k, f in mask.items() if not (f is True and self._is_buffer(k))})

    def _is_buffer(self, key: str) -> bool:
        return key in self and self[key].kind is BUFFER


@CHAPTER.mutant(
    "m-kind-trainable-buffer-ignored",
    "KIND-004",
    IgnoresTrainableBuffers,
    story="Masks over a whole tree (optax.masked, Keras' `layer.trainable = True`) pass over what cannot be trained.",
)
def _(harness: Harness) -> None:
    _, registry = over(harness, PLAIN)
    shown(accepted(lambda: registry.with_trainable({"norm/mean": True})))


class IgnoresTrainableIntegers(FrozenRegistry):
    def with_trainable(self, mask: Mapping[str, bool], /) -> Self:
        return super().with_trainable({k: f for k, f in mask.items() if not (f is True and self._is_integer(k))})

    def _is_integer(self, key: str) -> bool:
        return key in self and self[key].kind is PARAMETER and not self[key].can_train


@CHAPTER.mutant(
    "m-kind-trainable-integer-ignored",
    "KIND-004",
    IgnoresTrainableIntegers,
    story="NNX and Keras take an integer parameter as trainable and fail, if at all, in `grad`.",
)
def _(harness: Harness) -> None:
    _, registry = over(harness, one(np.arange(3, dtype=np.int32)))
    shown(accepted(lambda: registry.with_trainable({"x": True})))


class BuffersBecomeParameters(MutableRegistry):
    def with_trainable(self, mask: Mapping[str, bool], /) -> Self:
        for key, flag in mask.items():
            cell = self._cell(key)
            if flag is True and isinstance(cell, Buffer) and cell.dtype.kind == "f":
                rebind(self._module, cell, Parameter(cell.array))
        return super().with_trainable(mask)


@CHAPTER.mutant(
    "m-kind-buffer-unfrozen",
    "KIND-004",
    BuffersBecomeParameters,
    story="In MLX `parent.unfreeze()` makes BatchNorm's running statistics trainable.",
    also=("KIND-002", "WRITE-002"),
)
def _(harness: Harness) -> None:
    _, registry = over(harness, PLAIN)
    shown(accepted(lambda: registry.with_trainable({"norm/mean": True})))
    shown(registry["norm/mean"].trainable)


class SetsWhatItCan(MutableRegistry):
    def with_trainable(self, mask: Mapping[str, bool], /) -> Self:
        try:
            return super().with_trainable(mask)
        except errors.KindError as error:
            super().with_trainable({key: flag for key, flag in mask.items() if key not in error.keys})
            raise


@CHAPTER.mutant(
    "m-kind-refused-half-done",
    "KIND-004",
    SetsWhatItCan,
    story="torch's `requires_grad_` in a loop raises at the first integer parameter, with the flags before it set.",
    also=("ATOM-001",),
)
def _(harness: Harness) -> None:
    model, registry = over(harness, PLAIN)
    error = error_of(lambda: registry.with_trainable({"enc/w": False, "norm/mean": True}))
    shown(isinstance(error, errors.KindError) and not harness.peek_trainable(model, "enc/w"))


class RefusesFalse(FrozenRegistry):
    def with_trainable(self, mask: Mapping[str, bool], /) -> Self:
        wrong = tuple(key for key in mask if key in self and self[key].kind is BUFFER)
        if wrong:
            raise errors.KindError(f"{wrong} have no flag", keys=wrong)
        return super().with_trainable(mask)


@CHAPTER.mutant(
    "m-kind-false-refused",
    "KIND-004",
    RefusesFalse,
    story="A buffer has no flag, so every mask that names one is refused: freezing a whole model by a full mask fails.",
    also=("WRITE-015",),
)
def _(harness: Harness) -> None:
    _, registry = over(harness, PLAIN)
    shown(not accepted(lambda: registry.with_trainable(dict.fromkeys(registry, False))))


# ----------------------------------------------------------------------------------------------------------- KIND-005


class ComplexIsNotTrained(Alters, FrozenRegistry):
    def alter(self, key: str, entry: Entry) -> Entry:
        return with_fields(entry, trainable=False) if "complex" in entry.dtype else entry


@CHAPTER.mutant(
    "m-kind-complex-not-trained",
    "KIND-005",
    ComplexIsNotTrained,
    story="jax.grad refuses complex parameters unless told otherwise; an adapter without flags leaves them out.",
    also=("KIND-003",),
)
def _(harness: Harness) -> None:
    _, registry = over(harness, one(noise((3,), np.complex64)))
    shown(not registry["x"].trainable)


class ForgetsFlagsOnWriting(FrozenRegistry):
    def _write(self, arrays: Mapping[str, np.ndarray], entries: Mapping[str, Entry]) -> Self:
        other = super()._write(arrays, entries)
        if other is not self:
            other._flags, other._listed = {}, None
        return other


@CHAPTER.mutant(
    "m-kind-flags-lost-on-writing",
    "KIND-005",
    ForgetsFlagsOnWriting,
    story="The mask stands beside the Linen tree; the registry over the new tree is made without it.",
    also=("WRITE-001", "WRITE-008", "SNAP-006"),
)
def _(harness: Harness) -> None:
    _, registry = over(harness, PLAIN)
    frozen = registry.with_trainable({"enc/w": False})
    shown(frozen.replace({"enc/b": noise((3,))})["enc/w"].trainable)


class ForgetsFlagsOfWhatIsWritten(FrozenRegistry):
    def _write(self, arrays: Mapping[str, np.ndarray], entries: Mapping[str, Entry]) -> Self:
        other = super()._write(arrays, entries)
        if other is not self:
            other._flags, other._listed = {k: f for k, f in self._flags.items() if k not in arrays}, None
        return other


@CHAPTER.mutant(
    "m-kind-written-entries-thaw",
    "KIND-005",
    ForgetsFlagsOfWhatIsWritten,
    story="A new leaf is a fresh parameter, and a fresh parameter is trainable: what was frozen thaws when it is loaded.",
    also=("WRITE-008", "SNAP-006"),
)
def _(harness: Harness) -> None:
    _, registry = over(harness, PLAIN)
    shown(registry.with_trainable({"enc/w": False}).replace({"enc/w": noise((2, 3))})["enc/w"].trainable)


# ----------------------------------------------------------------------------------------------------------- KIND-006


class FlagBesideTheFlag(MutableRegistry):
    _commit_trainable = StateRegistry._commit_trainable


@CHAPTER.mutant(
    "m-kind-second-flag",
    "KIND-006",
    FlagBesideTheFlag,
    story="The adapter keeps flags of its own, as for frameworks without one; torch's autograd goes on obeying requires_grad.",
)
def _(harness: Harness) -> None:
    model, registry = over(harness, PLAIN)
    registry.with_trainable({"enc/w": False})
    shown(harness.peek_trainable(model, "enc/w"))


class RemembersFlags(Alters, MutableRegistry):
    def __init__(self, module: Module) -> None:
        self.seen: dict[str, bool] = {}
        super().__init__(module)

    def alter(self, key: str, entry: Entry) -> Entry:
        return with_fields(entry, trainable=entry.can_train and self.seen.setdefault(key, entry.trainable))

    def _commit_trainable(self, mask: Mapping[str, bool], /) -> Self:
        self.seen |= mask
        return super()._commit_trainable(mask)


@CHAPTER.mutant(
    "m-kind-flag-remembered",
    "KIND-006",
    RemembersFlags,
    story="Entries are made once; `requires_grad_(False)` in a fine-tuning script is not seen.",
    also=("KIND-003",),
)
def _(harness: Harness) -> None:
    model, registry = over(harness, PLAIN)
    was = registry["enc/w"].trainable
    harness.poke_trainable(model, "enc/w", False)
    shown(was and registry["enc/w"].trainable)


class OneWayFlag(MutableRegistry):
    def _commit_trainable(self, mask: Mapping[str, bool], /) -> Self:
        for key, flag in mask.items():
            cell = self._known(key)
            if isinstance(cell, Parameter) and not flag:
                cell.trainable = False
        self._flags = {**self._flags, **{key: True for key, flag in mask.items() if flag}}
        return self

    def _with_flag(self, key: str, entry: Entry) -> Entry:
        return with_fields(entry, trainable=True) if self._flags.get(key) and entry.can_train else entry


@CHAPTER.mutant(
    "m-kind-thaw-not-native",
    "KIND-006",
    OneWayFlag,
    story="Freezing calls requires_grad_(False); unfreezing only changes the list of what the optimizer gets.",
)
def _(harness: Harness) -> None:
    model, registry = over(harness, PLAIN)
    registry.with_trainable({"enc/w": False}).with_trainable({"enc/w": True})
    shown(registry["enc/w"].trainable and not harness.peek_trainable(model, "enc/w"))
