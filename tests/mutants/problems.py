"""Mutants of chapters 9, 11, 12 and 15, last part: problems, and names of one place, that are taken for fewer than they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from mutants.support import (
    BUFFER,
    F16,
    F32,
    PARAMETER,
    PLAIN,
    TIED,
    Chapter,
    accepted,
    bits,
    error_of,
    looked,
    names_of,
    noise,
    one,
    over,
    shown,
    without,
)
from stateregistry import checking, errors
from stateregistry_conformance.declaration import Declaration, Leaf
from stateregistry_conformance.harness import Harness
from stateregistry_numpy.registry import MutableRegistry

CHAPTER = Chapter()


# ------------------------------------------------------------------------------------------------- ATOM, ERR: problems


class WritesTheRestOfAMixture(MutableRegistry):
    def replace(self, values: Mapping[str, Any], /) -> Self:
        try:
            return super().replace(values)
        except errors.MismatchError as error:
            if type(error) is errors.MismatchError:
                bad = set(error.keys)
                good = {key: value for key in names_of(values) if (value := looked(values, key)) is not None}
                super().replace({key: value for key, value in good.items() if isinstance(key, str) and key not in bad})
            raise


@CHAPTER.mutant(
    "m-atom-mixture-half-written", "ATOM-001", WritesTheRestOfAMixture,
    story="torch's `load_state_dict` has copied what fits when it reports missing names and wrong shapes together.",
)  # fmt: skip
def _(harness: Harness) -> None:
    model, registry = over(harness, PLAIN)
    given = {"nothing": noise((2,)), "norm/mean": noise((9,)), "enc/b": noise((3,), seed=9)}
    error_of(lambda: registry.replace(given))
    shown(bits(harness.peek(model, "enc/b")) == bits(given["enc/b"]))


class _Retold(MutableRegistry):
    """Raises another error than the core: `retold` says which."""

    def retold(self, error: errors.MismatchError) -> errors.StateError:
        return error

    def replace(self, values: Mapping[str, Any], /) -> Self:
        try:
            return super().replace(values)
        except errors.MismatchError as error:
            raise self.retold(error) from error.__cause__


class ReportsTen(_Retold):
    def retold(self, error: errors.MismatchError) -> errors.StateError:
        report = checking.Report(error.report.problems[:10])
        return checking.refuse(report, "cannot replace") if len(error.report.problems) > 10 else error


def _twelve(registry: Any) -> Any:
    return error_of(lambda: registry.replace({f"nothing{number}": noise((2,)) for number in range(12)}))


@CHAPTER.mutant(
    "m-atom-ten-problems", "ATOM-002", ReportsTen,
    story="A report is cut to ten lines for the screen, and so is the list of keys that a program would read.",
    also=("ERR-003", "WRITE-006"),
)  # fmt: skip
def _(harness: Harness) -> None:
    _, registry = over(harness, PLAIN)
    shown(len(_twelve(registry).report.unexpected) == 10)


class CarriesFiveKeys(_Retold):
    def retold(self, error: errors.MismatchError) -> errors.StateError:
        error.keys = error.keys[:5]
        return error


@CHAPTER.mutant(
    "m-err-five-keys", "ERR-003", CarriesFiveKeys,
    story="An error carries the keys that its message shows, and the message shows five.",
)  # fmt: skip
def _(harness: Harness) -> None:
    _, registry = over(harness, PLAIN)
    shown(len(_twelve(registry).keys) == 5)


class NamesTheFirstBuffer(MutableRegistry):
    def with_trainable(self, mask: Mapping[str, bool], /) -> Self:
        try:
            return super().with_trainable(mask)
        except errors.KindError as error:
            raise errors.KindError(f"{error.keys[0]!r} cannot be trainable", keys=error.keys[:1]) from None


@CHAPTER.mutant(
    "m-atom-first-buffer", "ATOM-002", NamesTheFirstBuffer,
    story="A loop over a mask raises at the first buffer, so that a freeze list is mended one name at a time.",
    also=("ERR-003",),
)  # fmt: skip
def _(harness: Harness) -> None:
    _, registry = over(harness, Declaration(tuple(Leaf(k, BUFFER, noise((3,))) for k in ("a", "b"))))
    error = error_of(lambda: registry.with_trainable({"a": True, "b": True}))
    shown(isinstance(error, errors.KindError) and error.keys == ("a",))


class NamesNoKey(MutableRegistry):
    def view(self, key: str, /) -> np.ndarray:
        try:
            return super().view(key)
        except errors.AbstractError as error:
            raise errors.AbstractError(error.message) from None


@CHAPTER.mutant(
    "m-err-abstract-without-keys", "ERR-003", NamesNoKey,
    story="The error of the framework names the tensor in its text alone, and is passed on as it is.",
)  # fmt: skip
def _(harness: Harness) -> None:
    _, registry = over(harness, one(noise((3,)), concrete=False))
    error = error_of(lambda: registry.read("x"))
    shown(isinstance(error, errors.AbstractError) and not error.keys)


class NamesTheFirstClass(_Retold):
    #: The two classes that are told as one, and its error.
    classes: tuple[str, str] = ("shape", "invalid")
    told: type[errors.MismatchError] = errors.ShapeError

    def retold(self, error: errors.MismatchError) -> errors.StateError:
        if {problem.problem for problem in error.report} != set(self.classes):
            return error
        return self.told(error.message, report=error.report, keys=error.keys)


class NamesTheUnknownKey(NamesTheFirstClass):
    classes, told = ("unexpected", "dtype"), errors.UnexpectedKeyError


@CHAPTER.mutant(
    "m-err-shape-before-invalid", "ERR-002", NamesTheFirstClass,
    story="The error is chosen by the first problem that an `elif` meets.",
)  # fmt: skip
def _(harness: Harness) -> None:
    _, registry = over(harness, PLAIN)
    given = {"enc/b": noise((9,)), "enc/w": "text"}
    shown(isinstance(error_of(lambda: registry.replace(given)), errors.ShapeError))


@CHAPTER.mutant(
    "m-err-unknown-before-dtype", "ERR-002", NamesTheUnknownKey,
    story="Names are compared first, and the class of the error is settled there.",
)  # fmt: skip
def _(harness: Harness) -> None:
    _, registry = over(harness, PLAIN)
    given = {"nothing": noise((9,)), "enc/b": noise((3,), F16)}
    shown(isinstance(error_of(lambda: registry.replace(given)), errors.UnexpectedKeyError))


class RollsBackWideNumbers(MutableRegistry):
    def _roll_back(self, undo: dict[str, Any]) -> tuple[str, ...]:
        return super()._roll_back({key: value for key, value in undo.items() if self[key].dtype != "float16"})


@CHAPTER.mutant(
    "m-atom-halves-not-restored", "ATOM-005", RollsBackWideNumbers,
    story="The copies to go back to are kept in a list of float32 arrays, as master weights are.",
)  # fmt: skip
def _(harness: Harness) -> None:
    declaration = Declaration((Leaf("a", PARAMETER, noise((3,), F16)), Leaf("b", PARAMETER, noise((3,)))))
    model = harness.fault(harness.build(declaration), "b")  # type: ignore[attr-defined]  # of the reference
    error_of(lambda: harness.registry(model).replace({"a": noise((3,), F16, seed=9), "b": noise((3,), seed=9)}))
    shown(bits(harness.peek(model, "a")) != bits(noise((3,), F16)))


# ------------------------------------------------------------------------------------------------------ DTYPE, ALIAS


class CountsInFloats(MutableRegistry):
    def _stage(self, key: str, value: np.ndarray, /) -> np.ndarray:
        if value.ndim or value.dtype != np.int64:
            return value
        return np.asarray(int(max(min(float(value), 2.0**63 - 1024), -(2.0**63))), np.int64)


@CHAPTER.mutant(
    "m-dtype-counter-via-float", "DTYPE-007", CountsInFloats,
    story="`tensor.fill_(float(step))`: a counter of rank 0 goes through a Python float, arrays do not.",
    also=("WRITE-001", "LOAD-002", "SNAP-006"),
)  # fmt: skip
def _(harness: Harness) -> None:
    model, registry = over(harness, one(np.asarray(0, np.int64), kind=BUFFER))
    registry.replace({"x": np.asarray(2**53 + 1, np.int64)})
    shown(harness.peek(model, "x") == 2**53)


class ComparesTheEnds(MutableRegistry):
    def replace(self, values: Mapping[str, Any], /) -> Self:
        groups: dict[str, list[Any]] = {}
        for key in names_of(values):
            groups.setdefault(self.aliases.get(key, key) if isinstance(key, str) else repr(key), []).append(key)
        middle = {key for group in groups.values() for key in group[1:-1]}
        return super().replace(without(values, lambda key: key in middle))


@CHAPTER.mutant(
    "m-alias-ends-compared", "ALIAS-005", ComparesTheEnds,
    story="Of several names of a weight the first and the last are compared, because two was all that was thought of.",
)  # fmt: skip
def _(harness: Harness) -> None:
    _, registry = over(harness, TIED)
    same, other = noise((2, 3), seed=21), noise((2, 3), seed=22)
    shown(accepted(lambda: registry.replace({"emb/table/w": same, "head/w": other, "tail": same})))


class FindsNaNsInConflict(MutableRegistry):
    def replace(self, values: Mapping[str, Any], /) -> Self:
        first: dict[str, Any] = {}
        for key in names_of(values):
            value = looked(values, key)
            kept = first.setdefault(self.aliases.get(key, key), value) if value is not None else None
            if kept is not value and not np.array_equal(kept, value) and kept.tobytes() == value.tobytes():
                raise checking.refuse(checking.Report.of([checking.Problem("conflict", key)]), "cannot replace")
        return super().replace(values)


@CHAPTER.mutant(
    "m-alias-nans-in-conflict", "ALIAS-005", FindsNaNsInConflict,
    story="Names of one weight are held together with `==`, and a NaN is not equal to itself.",
    also=("ALIAS-004",),
)  # fmt: skip
def _(harness: Harness) -> None:
    _, registry = over(harness, TIED)
    nan = np.full((2, 3), np.nan, F32)
    shown(not accepted(lambda: registry.replace({"head/w": nan, "tail": nan.copy()})))
