"""Mutants of chapter 15: errors that a program cannot work with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from mutants.support import F16, PLAIN, Chapter, accepted, error_of, noise, one, over, shown
from stateregistry import checking, errors
from stateregistry.entry import Entry
from stateregistry_conformance.harness import Harness
from stateregistry_numpy.cells import Cell
from stateregistry_numpy.registry import FrozenRegistry, MutableRegistry
from stateregistry_numpy.tree import FrozenModel

CHAPTER = Chapter()

_TWO_SHAPES = {"enc/w": noise((3, 3)), "enc/b": noise((4,))}
_TWO_CLASSES = {"enc/w": noise((3, 3)), "nope": noise((4,))}


class Rewords:
    """Raises other errors than the core: `reword` says which."""

    def reword(self, error: errors.StateError) -> Exception:
        return error

    def _other(self, error: errors.StateError) -> Exception:
        other = self.reword(error)
        other.__cause__ = error.__cause__
        return other

    def __getitem__(self, key: str) -> Entry:
        try:
            return super().__getitem__(key)
        except errors.StateError as error:
            raise self._other(error) from error.__cause__

    def view(self, key: str, /) -> np.ndarray:
        try:
            return super().view(key)
        except errors.StateError as error:
            raise self._other(error) from error.__cause__

    def replace(self, values: Mapping[str, Any], /) -> Self:
        try:
            return super().replace(values)
        except errors.StateError as error:
            raise self._other(error) from error.__cause__

    def with_trainable(self, mask: Mapping[str, bool], /) -> Self:
        try:
            return super().with_trainable(mask)
        except errors.StateError as error:
            raise self._other(error) from error.__cause__


def _again(error: errors.StateError, cls: type[Exception], **changes: Any) -> Exception:
    """An error of another class with the same attributes, less what is changed."""
    other = cls.__new__(cls, error.message)
    other.__dict__.update({**error.__dict__, **changes})
    return other


# ------------------------------------------------------------------------------------------------------------ ERR-001


class UnknownIsOnlyAStateError(Rewords, MutableRegistry):
    def reword(self, error: errors.StateError) -> Exception:
        return _again(error, errors.StateError) if type(error) is errors.UnknownKeyError else error


class AbstractIsOnlyAStateError(Rewords, FrozenRegistry):
    def reword(self, error: errors.StateError) -> Exception:
        return _again(error, errors.StateError) if type(error) is errors.AbstractError else error


class KindIsAValueError(Rewords, MutableRegistry):
    def reword(self, error: errors.StateError) -> Exception:
        return ValueError(str(error)) if type(error) is errors.KindError else error


class _DtypeMismatch(errors.MismatchError):
    """A mismatch of dtypes that is no TypeError."""


class DtypeIsNoTypeError(Rewords, FrozenRegistry):
    def reword(self, error: errors.StateError) -> Exception:
        return _again(error, _DtypeMismatch) if type(error) is errors.DtypeMismatchError else error


class _Unexpected(errors.MismatchError):
    """An unexpected key that is no KeyError."""


class UnexpectedIsNoKeyError(Rewords, MutableRegistry):
    def reword(self, error: errors.StateError) -> Exception:
        return _again(error, _Unexpected) if type(error) is errors.UnexpectedKeyError else error


@CHAPTER.mutant(
    "m-error-unknown-is-no-key-error",
    "ERR-001",
    UnknownIsOnlyAStateError,
    story="One class of errors for everything: `reg.get(key, default)` and `except KeyError` stop to work.",
    also=("LIST-004", "LIST-005"),
)
def _(harness: Harness) -> None:
    shown(type(error_of(lambda: over(harness, PLAIN)[1]["nope"])) is errors.StateError)


@CHAPTER.mutant(
    "m-error-abstract-is-no-runtime-error",
    "ERR-001",
    AbstractIsOnlyAStateError,
    story="The root of the hierarchy is raised where the text seemed to say enough.",
    also=("READ-011",),
)
def _(harness: Harness) -> None:
    registry = over(harness, one(noise((3,)), concrete=False))[1]
    shown(type(error_of(lambda: registry.view("x"))) is errors.StateError)


@CHAPTER.mutant(
    "m-error-kind-is-a-value-error",
    "ERR-001",
    KindIsAValueError,
    story="torch says RuntimeError, Keras ValueError; the adapter says what its framework says.",
    also=("KIND-004", "ERR-004"),
)
def _(harness: Harness) -> None:
    error = error_of(lambda: over(harness, PLAIN)[1].with_trainable({"norm/mean": True}))
    shown(type(error) is ValueError)


@CHAPTER.mutant(
    "m-error-dtype-is-no-type-error",
    "ERR-001",
    DtypeIsNoTypeError,
    story="An adapter's own class for dtypes: `except TypeError` around a load does not catch it, nor does DtypeError.",
    also=("ERR-002", "WRITE-006"),
)
def _(harness: Harness) -> None:
    error = error_of(lambda: over(harness, PLAIN)[1].replace({"enc/b": noise((3,), F16)}))
    shown(isinstance(error, errors.MismatchError) and error.report.dtype and not isinstance(error, TypeError))


@CHAPTER.mutant(
    "m-error-unexpected-is-no-key-error",
    "ERR-001",
    UnexpectedIsNoKeyError,
    story="An adapter's own class for unknown names: `except KeyError` around a load does not catch it.",
    also=("ERR-002", "WRITE-007"),
)
def _(harness: Harness) -> None:
    error = error_of(lambda: over(harness, PLAIN)[1].replace({"nope": noise((3,))}))
    shown(isinstance(error, errors.MismatchError) and error.report.unexpected and not isinstance(error, KeyError))


# ------------------------------------------------------------------------------------------------------------ ERR-002


class AlwaysMismatch(Rewords, MutableRegistry):
    def reword(self, error: errors.StateError) -> Exception:
        return _again(error, errors.MismatchError) if isinstance(error, errors.MismatchError) else error


class ClassOfTheFirst(Rewords, FrozenRegistry):
    def reword(self, error: errors.StateError) -> Exception:
        if type(error) is not errors.MismatchError:
            return error
        first = next(iter(error.report))
        return _again(error, type(checking.refuse(checking.Report((first,)), "cannot replace")))


class _Everything(errors.ShapeError, errors.DtypeMismatchError, errors.UnexpectedKeyError):
    """All classes at once."""


class AllClassesAtOnce(Rewords, MutableRegistry):
    def reword(self, error: errors.StateError) -> Exception:
        return _again(error, _Everything) if type(error) is errors.MismatchError else error


class ReportOfTheFirst(Rewords, FrozenRegistry):
    def reword(self, error: errors.StateError) -> Exception:
        if not isinstance(error, errors.MismatchError):
            return error
        return _again(error, type(error), report=checking.Report(tuple(error.report)[:1]))


class NoReport(Rewords, MutableRegistry):
    def reword(self, error: errors.StateError) -> Exception:
        if not isinstance(error, errors.MismatchError):
            return error
        other = _again(error, type(error))
        del other.report
        return other


@CHAPTER.mutant(
    "m-error-always-mismatch",
    "ERR-002",
    AlwaysMismatch,
    story="torch's one RuntimeError for every problem of a load has to be parsed as text.",
    also=("ERR-001", "WRITE-005", "WRITE-006", "WRITE-007", "ALIAS-005", "ATOM-003"),
)
def _(harness: Harness) -> None:
    error = error_of(lambda: over(harness, PLAIN)[1].replace(_TWO_SHAPES))
    shown(type(error) is errors.MismatchError)


@CHAPTER.mutant(
    "m-error-class-of-the-first",
    "ERR-002",
    ClassOfTheFirst,
    story="The class is that of the first problem: a handler for shapes swallows an unexpected key along with them.",
)
def _(harness: Harness) -> None:
    error = error_of(lambda: over(harness, PLAIN)[1].replace(_TWO_CLASSES))
    shown(isinstance(error, errors.UnexpectedKeyError | errors.ShapeError))


@CHAPTER.mutant(
    "m-error-all-classes-at-once",
    "ERR-002",
    AllClassesAtOnce,
    story="An exception that is everything, so that every handler catches it: none of them is right.",
)
def _(harness: Harness) -> None:
    error = error_of(lambda: over(harness, PLAIN)[1].replace(_TWO_CLASSES))
    shown(isinstance(error, errors.ShapeError))


@CHAPTER.mutant(
    "m-error-report-cut",
    "ERR-002",
    ReportOfTheFirst,
    story="The text lists everything, the report only what the exception was made for.",
    also=("ATOM-002",),
)
def _(harness: Harness) -> None:
    error = error_of(lambda: over(harness, PLAIN)[1].replace(_TWO_SHAPES))
    shown(isinstance(error, errors.ShapeError) and len(tuple(error.report)) == 1)


@CHAPTER.mutant(
    "m-error-without-report",
    "ERR-002",
    NoReport,
    story="Exceptions that are re-raised or pickled across processes lose their attributes.",
    also=("ATOM-002", "WRITE-013"),
)
def _(harness: Harness) -> None:
    error = error_of(lambda: over(harness, PLAIN)[1].replace(_TWO_SHAPES))
    shown(isinstance(error, errors.ShapeError) and not hasattr(error, "report"))


# ------------------------------------------------------------------------------------------------------------ ERR-003


class NoKeys(Rewords, MutableRegistry):
    def reword(self, error: errors.StateError) -> Exception:
        return _again(error, type(error), keys=())


class FirstKey(Rewords, FrozenRegistry):
    def reword(self, error: errors.StateError) -> Exception:
        return _again(error, type(error), keys=error.keys[:1])


class Positions(Rewords, MutableRegistry):
    def reword(self, error: errors.StateError) -> Exception:
        return _again(error, type(error), message=f"{len(error.keys)} arrays are wrong", hint=None)


class NoSizes(Rewords, FrozenRegistry):
    def reword(self, error: errors.StateError) -> Exception:
        if not isinstance(error, errors.ShapeError | errors.DtypeMismatchError):
            return error
        return _again(error, type(error), message=f"{', '.join(error.keys)}: does not fit", hint=None)


class OneSize(Rewords, MutableRegistry):
    def reword(self, error: errors.StateError) -> Exception:
        if not isinstance(error, errors.ShapeError):
            return error
        lines = "; ".join(f"{problem.key}: expected {problem.expected}" for problem in error.report)
        return _again(error, type(error), message=lines, hint=None)


@CHAPTER.mutant(
    "m-error-without-keys",
    "ERR-003",
    NoKeys,
    story="The names are in the text only, in a format that changes with the version.",
    also=("WRITE-013",),
)
def _(harness: Harness) -> None:
    shown(error_of(lambda: over(harness, PLAIN)[1].replace(_TWO_SHAPES)).keys == ())


@CHAPTER.mutant(
    "m-error-first-key",
    "ERR-003",
    FirstKey,
    story="An exception has room for one name.",
    also=("ATOM-002",),
)
def _(harness: Harness) -> None:
    shown(len(error_of(lambda: over(harness, PLAIN)[1].replace(_TWO_SHAPES)).keys) == 1)


@CHAPTER.mutant(
    "m-error-names-nothing",
    "ERR-003",
    Positions,
    story="Keras' `set_weights` says how many arrays are wrong and not which.",
)
def _(harness: Harness) -> None:
    text = str(error_of(lambda: over(harness, PLAIN)[1].replace(_TWO_SHAPES)))
    shown(not any(key in text for key in _TWO_SHAPES))


@CHAPTER.mutant(
    "m-error-without-shapes",
    "ERR-003",
    NoSizes,
    story="'does not fit': neither what was expected nor what was found.",
)
def _(harness: Harness) -> None:
    text = str(error_of(lambda: over(harness, PLAIN)[1].replace(_TWO_SHAPES)))
    shown("enc/w" in text and "(3, 3)" not in text and "(2, 3)" not in text)


@CHAPTER.mutant(
    "m-error-without-what-was-found",
    "ERR-003",
    OneSize,
    story="NNX reports one bare shape, and the reader guesses whose it is.",
)
def _(harness: Harness) -> None:
    text = str(error_of(lambda: over(harness, PLAIN)[1].replace(_TWO_SHAPES)))
    shown("(2, 3)" in text and "(3, 3)" not in text)


# ------------------------------------------------------------------------------------------------------------ ERR-004


class ValuesRaiseThrough(MutableRegistry):
    def replace(self, values: Mapping[str, Any], /) -> Self:
        return super().replace({key: np.asarray(values[key]) for key in values})


class FlagsAreAmbiguous(FrozenRegistry):
    def with_trainable(self, mask: Mapping[str, bool], /) -> Self:
        on = [key for key, flag in mask.items() if flag]
        return super().with_trainable(mask) if on or mask else self


class LeavesHaveShapes(FrozenRegistry):
    def __init__(self, model: FrozenModel) -> None:
        self.elements = sum(int(np.prod(leaf.shape)) for _, _, leaf in model.leaves())
        super().__init__(model)


class MalformedKeysRaise(MutableRegistry):
    def _cell(self, key: str) -> Cell | None:
        member = self._module
        for segment in key.split("/"):
            member = member.members[segment.replace("~1", "/").replace("~0", "~")]
        return member if isinstance(member, Cell) else None


class KeysAreText(FrozenRegistry):
    def __contains__(self, key: object) -> bool:
        return super().__contains__(key.strip("/"))  # type: ignore[attr-defined]  # that is the bug

    def __getitem__(self, key: str) -> Entry:
        return super().__getitem__(key.strip("/"))


class _Refusing:
    """An array of another library that cannot be copied from its device."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise MemoryError("cannot copy from device")


@CHAPTER.mutant(
    "m-error-value-raises-through",
    "ERR-004",
    ValuesRaiseThrough,
    story="`np.asarray` on a torch CUDA tensor raises TypeError, on a JAX PRNG key something else, and the caller gets it.",
    also=("ATOM-003", "WRITE-013", "ATOM-002"),
)
def _(harness: Harness) -> None:
    error = error_of(lambda: over(harness, PLAIN)[1].replace({"enc/b": _Refusing()}))
    shown(isinstance(error, MemoryError))


@CHAPTER.mutant(
    "m-error-flag-raises-through",
    "ERR-004",
    FlagsAreAmbiguous,
    story="`if flag` on an array: 'the truth value of an array with more than one element is ambiguous'.",
    also=("WRITE-016",),
)
def _(harness: Harness) -> None:
    error = error_of(lambda: over(harness, PLAIN)[1].with_trainable({"enc/b": np.array([True, False])}))
    shown(error is not None and not isinstance(error, errors.StateError))


@CHAPTER.mutant(
    "m-error-leaf-raises-through",
    "ERR-004",
    LeavesHaveShapes,
    story="`leaf.shape` over all leaves of an Equinox tree, of which one is a function: AttributeError.",
    also=("LIST-006",),
)
def _(harness: Harness) -> None:
    model = harness.specimen("opaque").model
    shown(isinstance(error_of(lambda: harness.registry(model)), AttributeError))


@CHAPTER.mutant(
    "m-error-lookup-raises-through",
    "ERR-004",
    MalformedKeysRaise,
    story="`functools.reduce(getattr, key.split('/'), module)` raises whatever the framework raises for a missing name.",
    also=("LIST-004", "LIST-005", "ERR-001", "WRITE-007"),
)
def _(harness: Harness) -> None:
    error = error_of(lambda: over(harness, PLAIN)[1]["enc/weight"])
    shown(error is not None and not isinstance(error, errors.StateError))


@CHAPTER.mutant(
    "m-error-key-type-raises-through",
    "ERR-004",
    KeysAreText,
    story="`key.strip` on what is no text: `0 in reg` raises AttributeError instead of being false.",
    also=("LIST-004", "LIST-005"),
)
def _(harness: Harness) -> None:
    registry = over(harness, PLAIN)[1]
    shown(not accepted(lambda: 0 in registry))
