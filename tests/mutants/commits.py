"""Mutants of chapter 9, part two: writes that read while they write, and failures that are not undone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Self

import numpy as np

from mutants.atomicity import GOOD, changed_by
from mutants.support import (
    PARAMETER,
    PLAIN,
    Chapter,
    accepted,
    bits,
    error_of,
    kept,
    noise,
    over,
    shown,
)
from stateregistry import errors
from stateregistry_conformance.declaration import Declaration, Leaf
from stateregistry_conformance.harness import Harness
from stateregistry_numpy.cells import Buffer
from stateregistry_numpy.registry import FrozenRegistry, MutableRegistry

CHAPTER = Chapter()


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
)(changed_by(_BROKEN))
CHAPTER.mutant(
    "m-atom-what-could-be-read",
    "ATOM-003",
    WritesWhatCouldBeRead,
    story="A restore that salvages what it can from a damaged file before it says so.",
    also=("ATOM-001",),
)(changed_by(_BROKEN))


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
