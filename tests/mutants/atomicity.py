"""Mutants of chapter 9: writes that stop half way, report half of the truth, or read while they write."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
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


def _changed_by(values: Any) -> Any:
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
)(_changed_by(BAD_LAST))
CHAPTER.mutant(
    "m-atom-what-fits",
    "ATOM-001",
    WhatFitsThenRaises,
    story="torch's `load_state_dict` has written everything else by the time it raises.",
    also=("ATOM-003",),
)(_changed_by(BAD_LAST))
CHAPTER.mutant(
    "m-atom-unexpected-after-the-write",
    "ATOM-001",
    WritesKnownThenUnexpected,
    story="A merely unexpected key makes torch raise after everything has been written.",
)(_changed_by({**GOOD, "enc/bias": noise((3,))}))
CHAPTER.mutant(
    "m-atom-receiver-keeps-what-fits",
    "ATOM-001",
    FrozenKeepsWhatFits,
    story="A functional handle that collects the new tree in itself and raises with half of it collected.",
    also=("WRITE-003",),
)(_changed_by(BAD_LAST))
CHAPTER.mutant(
    "m-atom-dtypes-too-late",
    "ATOM-001",
    ChecksShapesFirst,
    story="Names and shapes are compared up front, dtypes only by the copy itself, in the order of the keys.",
)(_changed_by({**GOOD, "norm/mean": noise((3,), F16)}))


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


# ----------------------------------------------------------------------------------------------------------- ATOM-003


class Breaks(Mapping[str, Any]):
    """A lazy file that cannot be read to its end."""

    def __init__(self, values: Mapping[str, Any], *, at: str) -> None:
        self.values_, self.at = values, at

    def __getitem__(self, key: str) -> Any:
        if key == self.at:
            raise OSError("the file ends here")
        return self.values_[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_)

    def __len__(self) -> int:
        return len(self.values_)


_BROKEN = Breaks({**GOOD, "norm/mean": noise((3,), seed=9)}, at="norm/mean")


class Streams(MutableRegistry):
    def replace(self, values: Mapping[str, Any], /) -> Self:
        chunk: dict[str, Any] = {}
        for key in values:
            if len(chunk) == 2:
                super().replace(chunk)
                chunk = {}
            chunk[key] = values[key]
        return super().replace(chunk)


class LetsSourcesRaise(FrozenRegistry):
    def replace(self, values: Mapping[str, Any], /) -> Self:
        return super().replace({key: values[key] for key in values})


class SkipsWhatRaises(FrozenRegistry):
    def replace(self, values: Mapping[str, Any], /) -> Self:
        given = {}
        for key in values:
            try:
                given[key] = values[key]
            except Exception:  # noqa: BLE001  # that is the bug
                continue
        return super().replace(given)


class WritesWhatCouldBeRead(MutableRegistry):
    def replace(self, values: Mapping[str, Any], /) -> Self:
        try:
            return super().replace(values)
        except errors.SourceError as error:
            super().replace({key: values[key] for key in values if key not in error.keys})
            raise


CHAPTER.mutant(
    "m-atom-streams",
    "ATOM-003",
    Streams,
    story="A large checkpoint is read and written in chunks, as Keras' `load_weights` does, to save memory.",
    also=("ATOM-001", "ATOM-002", "ATOM-004", "ATOM-005", "ALIAS-005"),
)(_changed_by(_BROKEN))
CHAPTER.mutant(
    "m-atom-what-could-be-read",
    "ATOM-003",
    WritesWhatCouldBeRead,
    story="A restore that salvages what it can from a damaged file before it says so.",
    also=("ATOM-001",),
)(_changed_by(_BROKEN))


@CHAPTER.mutant(
    "m-atom-source-raises-through",
    "ATOM-003",
    LetsSourcesRaise,
    story="`dict(values)` first of all: what an h5py or a remote mapping raises reaches the caller as it is.",
    also=("ERR-004",),
)
def _(harness: Harness) -> None:
    _, registry = over(harness, PLAIN)
    shown(isinstance(error_of(lambda: registry.replace(_BROKEN)), OSError))


@CHAPTER.mutant(
    "m-atom-source-skipped",
    "ATOM-003",
    SkipsWhatRaises,
    story="`except Exception: continue` around the reading of one tensor, so that one bad block does not stop the rest.",
)
def _(harness: Harness) -> None:
    _, registry = over(harness, PLAIN)
    shown(accepted(lambda: registry.replace(_BROKEN)))


# ----------------------------------------------------------------------------------------------------------- ATOM-004


class CopiesInTurn(MutableRegistry):
    """Remembers values that are memory of the model and reads them when their turn comes."""

    def _convert(self, key: str, value: Any, /) -> np.ndarray:
        if isinstance(value, np.ndarray):
            self.__dict__.setdefault("given", {})[self.aliases.get(key, key)] = value
        return super()._convert(key, value)

    def _commit(self, staged: Mapping[str, Any], /) -> Self:
        given = self.__dict__.pop("given", {})
        mine = {key: given[key] for key, value in staged.items() if key in given and bits(given[key]) == bits(value)}
        for key, value in staged.items():
            super()._commit({key: mine.get(key, value)})
        return self


class CopiesBuffersInTurn(CopiesInTurn):
    def _convert(self, key: str, value: Any, /) -> np.ndarray:
        array = super()._convert(key, value)
        if isinstance(value, np.ndarray) and value.size < 4:
            self.__dict__.get("given", {}).pop(self.aliases.get(key, key), None)
        return array


def _swap_is_wrong(key: str, other: str, shape: tuple[int, ...]) -> Any:
    def proof(harness: Harness) -> None:
        pair = Declaration((Leaf(key, PARAMETER, noise(shape, seed=1)), Leaf(other, PARAMETER, noise(shape, seed=2))))
        model, registry = over(harness, pair)
        registry.replace({key: registry.view(other), other: registry.view(key)})
        shown(bits(harness.peek(model, key)) == bits(harness.peek(model, other)))

    return proof


CHAPTER.mutant(
    "m-atom-copies-in-turn",
    "ATOM-004",
    CopiesInTurn,
    story="torch's `copy_` reads the source when its turn comes, after an earlier copy may have overwritten it.",
)(_swap_is_wrong("a", "b", (3,)))
CHAPTER.mutant(
    "m-atom-large-copies-in-turn",
    "ATOM-004",
    CopiesBuffersInTurn,
    story="Only small values are staged; large ones are copied straight from where they lie.",
)(_swap_is_wrong("a", "b", (4, 4)))


# ----------------------------------------------------------------------------------------------------------- ATOM-005


class BacksUpTheMemoryItself(MutableRegistry):
    def _backup(self, key: str, /) -> Any:
        cell = self._known(key)
        return cell.array if cell.concrete else None


class BacksUpParametersOnly(MutableRegistry):
    def _backup(self, key: str, /) -> Any:
        cell = self._known(key)
        return cell.array if isinstance(cell, Buffer) and cell.concrete else super()._backup(key)


class BacksUpShallowly(MutableRegistry):
    def _backup(self, key: str, /) -> Any:
        cell = self._known(key)
        return super()._backup(key) if not cell.concrete or cell.array.ndim < 2 else cell.array.view()


def _failing(harness: Any) -> tuple[Any, Any, Exception | None]:
    model = harness.fault(harness.build(PLAIN), "norm/mean")
    registry = harness.registry(model)
    error = error_of(lambda: registry.replace({**GOOD, "norm/mean": noise((3,), seed=9)}))
    return model, registry, error


def _not_rolled_back(harness: Harness) -> None:
    model, _, _ = _failing(harness)
    shown(not kept(harness, model, PLAIN))


@CHAPTER.mutant(
    "m-atom-backup-is-the-memory",
    "ATOM-005",
    BacksUpTheMemoryItself,
    story="The backup is a reference and not a copy: rolling back writes the new values over themselves.",
    also=("ATOM-001",),
)
def _(harness: Harness) -> None:
    _not_rolled_back(harness)


@CHAPTER.mutant(
    "m-atom-backup-of-vectors-only",
    "ATOM-005",
    BacksUpShallowly,
    story="To save memory only small values are backed up; the kernels keep the new ones.",
    also=("ATOM-001",),
)
def _(harness: Harness) -> None:
    _not_rolled_back(harness)


@CHAPTER.mutant(
    "m-atom-backup-of-parameters-only",
    "ATOM-005",
    BacksUpParametersOnly,
    story="`named_parameters()` is what gets backed up; statistics that were written before the failure stay written.",
    also=("ATOM-001",),
)
def _(harness: Any) -> None:
    model = harness.fault(harness.build(PLAIN), "enc/w")
    registry = harness.registry(model)
    shown(not accepted(lambda: registry.replace({"norm/mean": noise((3,), seed=9), "enc/w": GOOD["enc/w"]})))
    shown(not kept(harness, model, PLAIN))


class FailsNatively(MutableRegistry):
    def _failed(self, error: BaseException, lost: tuple[str, ...]) -> Any:
        return error


class FailsWithoutCause(MutableRegistry):
    def replace(self, values: Mapping[str, Any], /) -> Self:
        try:
            return super().replace(values)
        except errors.CommitError as error:
            raise errors.CommitError(error.message, keys=error.keys) from None


class FailsAsMismatch(MutableRegistry):
    def replace(self, values: Mapping[str, Any], /) -> Self:
        try:
            return super().replace(values)
        except errors.CommitError as error:
            raise errors.UnsupportedError(error.message, keys=error.keys) from error.__cause__


class FailsSilently(MutableRegistry):
    def replace(self, values: Mapping[str, Any], /) -> Self:
        try:
            return super().replace(values)
        except errors.CommitError:
            return self


def _fails_otherwise(harness: Harness) -> None:
    _, _, error = _failing(harness)
    shown(not isinstance(error, errors.CommitError) or not isinstance(error.__cause__, ValueError))


for name, cls, why, more in (
    (
        "m-atom-failure-native",
        FailsNatively,
        "`RuntimeError: CUDA out of memory` reaches the caller as it is.",
        ("ERR-001", "ERR-004"),
    ),
    (
        "m-atom-failure-without-cause",
        FailsWithoutCause,
        "`raise ... from None` for a tidy traceback: whether it was memory or a hook, nobody can tell.",
        (),
    ),
    (
        "m-atom-failure-of-another-class",
        FailsAsMismatch,
        "Everything that goes wrong is called unsupported, so a caller does not try again with less.",
        (),
    ),
    (
        "m-atom-failure-silent",
        FailsSilently,
        "The rollback worked, so nothing bad has happened, and nothing is raised: nor has anything been written.",
        ("WRITE-001",),
    ),
):
    CHAPTER.mutant(name, "ATOM-005", cls, story=why, also=more)(_fails_otherwise)
