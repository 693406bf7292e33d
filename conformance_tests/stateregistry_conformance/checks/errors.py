"""Checks of chapter 15, errors. Never of their wording: of their classes, attributes, and that they name what is concerned."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

import stateregistry as sr
from stateregistry import errors
from stateregistry_conformance.check import check
from stateregistry_conformance.checks.atomicity import Breaking
from stateregistry_conformance.harness import SPECIMENS
from stateregistry_conformance.samples import abstract, core, others, square, tied, values
from stateregistry_conformance.verdict import NotHeld

if TYPE_CHECKING:
    from collections.abc import Callable

    from stateregistry_conformance.subject import Subject
    from stateregistry_conformance.verdict import Verdict

#: Error -> the builtin that it is as well, and whether it is a `MismatchError` with a report.
_TABLE: dict[str, tuple[tuple[type[Exception], ...], bool]] = {
    "StateError": ((Exception,), False),
    "KeyPathError": ((ValueError,), False),
    "UnknownKeyError": ((KeyError,), False),
    "DuplicateKeyError": ((ValueError,), False),
    "MismatchError": ((ValueError,), True),
    "UnexpectedKeyError": ((KeyError,), True),
    "ShapeError": ((ValueError,), True),
    "DtypeError": ((TypeError,), False),
    "ConflictError": ((ValueError,), True),
    "SourceError": ((ValueError,), True),
    "LoadError": ((ValueError,), False),
    "AbstractError": ((RuntimeError,), False),
    "UnsupportedError": ((TypeError,), False),
    "OpaqueError": ((TypeError,), False),
    "KindError": ((TypeError,), False),
    "CastError": ((ValueError, TypeError), False),
    "CommitError": ((RuntimeError,), False),
    "AxesError": ((ValueError,), False),
}


@check("SR-ERR-001")
def every_error_is_a_builtin_as_well(h: Subject, v: Verdict) -> None:
    for name, (builtins, mismatch) in _TABLE.items():
        cls = getattr(errors, name)
        v.holds(issubclass(cls, errors.StateError), f"{name} is a StateError")
        v.holds(all(issubclass(cls, one) for one in builtins), f"{name} is a {[one.__name__ for one in builtins]}")
        v.holds(not mismatch or issubclass(cls, errors.MismatchError), f"{name} is a MismatchError")
    registry = h.registry(h.build(square()))
    good = values("x", (3, 3))
    cases: list[tuple[str, type[Exception], Callable[[], object]]] = [
        ("looking up an unknown key", KeyError, lambda: registry["nothing"]),
        ("reading an unknown key", KeyError, lambda: registry.read("nothing")),
        ("replace of an unknown key", KeyError, lambda: registry.replace({"nothing": good})),
        ("replace by a wrong shape", ValueError, lambda: registry.replace({"p": good[:2]})),
        ("replace by a wrong dtype", TypeError, lambda: registry.replace({"p": good.astype(np.float16)})),
        ("replace by a text", ValueError, lambda: registry.replace({"p": "text"})),
        ("load of nothing", ValueError, lambda: sr.load(registry, {})),
        ("training a buffer", TypeError, lambda: registry.with_trainable({"b": True})),
        ("a cast that does not fit", ValueError, lambda: sr.cast({"p": good + 1j}, registry, "lossless")),
        ("the same cast", TypeError, lambda: sr.cast({"p": good + 1j}, registry, "lossless")),
    ]
    for name, builtin, action in cases:
        error = v.refusal(action, errors.StateError, name)
        v.holds(isinstance(error, builtin), f"{name} raises a {builtin.__name__}, found {type(error).__mro__}")
    if "abstract" in h.capabilities:
        ghost = h.registry(h.build(abstract()))
        error = v.refusal(lambda: ghost.read("ghost/p"), errors.StateError, "reading what has no value")
        v.holds(isinstance(error, RuntimeError), "reading what has no value raises a RuntimeError")
    v.passed()


@check("SR-ERR-002")
def problems_of_one_class_have_an_error_of_that_class(h: Subject, v: Verdict) -> None:
    declaration = core()
    registry = h.registry(h.build(declaration))
    one, four = values("x", (2,)), values("x", (4,))
    single: dict[str, tuple[type[Exception], str, dict[Any, Any]]] = {
        "unexpected": (
            errors.UnexpectedKeyError,
            "unexpected",
            {"nothing": one, "scale": values("x", (5,)), "else": one},
        ),
        "shape": (errors.ShapeError, "shape", {"one": four, "encoder/bias": one}),
        "dtype": (errors.DtypeError, "dtype", {"one": one.astype(np.float16), "scale": np.ones((5,), np.float64)}),
        "invalid": (errors.SourceError, "invalid", {"one": "text", "scale": None}),
        "half raising": (errors.SourceError, "invalid", Breaking(others(declaration), 3)),  # type: ignore[dict-item]  # a Mapping
    }
    for name, (cls, field, given) in single.items():
        error = v.refusal(partial(registry.replace, given), cls, f"replace with problems of the class {name}")
        v.holds(isinstance(error, errors.MismatchError), f"the error for {name} is a MismatchError")
        report = v.report(error)
        filled = [f for f in ("missing", "unexpected", "shape", "dtype", "conflict", "invalid") if getattr(report, f)]
        v.equal(filled, [field], f"the classes in the report for {name}")
    children = (
        errors.UnexpectedKeyError, errors.ShapeError, errors.DtypeError, errors.ConflictError, errors.SourceError,
    )  # fmt: skip
    several: list[dict[str, Any]] = [
        {"nothing": one, "one": four},
        {"one": four.astype(np.float16)},
        {"one": "text", "nothing": one},
        {"one": four, "scale": np.ones((5,), np.float64), "nothing": one, "encoder/bias": "text"},
    ]
    for given in several:
        error = v.refusal(partial(registry.replace, given), errors.MismatchError, "replace with several classes")
        v.holds(
            not isinstance(error, children), f"the error for several classes is none of one: {type(error).__name__}"
        )
        named = {key for problem in v.report(error) for key in (problem.key,)}
        v.equal(named, set(given), "the keys in the report for several classes")
    v.passed()


@check("SR-ERR-002")
def a_conflict_has_an_error_of_its_class(h: Subject, v: Verdict) -> None:
    if "ties" not in h.capabilities:
        v.not_applicable("SR-ERR-002", "the framework has no ties")
        return
    registry = h.registry(h.build(tied()))
    given = {"base/weight": values("x", (3, 3)), "head/weight": values("y", (3, 3))}
    error = v.refusal(lambda: registry.replace(given), errors.ConflictError, "replace with a conflict")
    v.holds(isinstance(error, errors.MismatchError), "the error is a MismatchError")
    given = {**given, "nothing": values("x", (3, 3))}
    error = v.refusal(
        lambda: registry.replace(given), errors.MismatchError, "replace with a conflict and an unknown key"
    )
    v.holds(not isinstance(error, (errors.ConflictError, errors.UnexpectedKeyError)), "the error is of neither class")
    v.passed()


@check("SR-ERR-003")
def a_message_names_what_is_concerned(h: Subject, v: Verdict) -> None:
    declaration = core()
    registry = h.registry(h.build(declaration))
    given: dict[str, Any] = {
        "nothing/at/all": values("x", (3,)),
        "encoder/weight": values("x", (7, 9)),
        "encoder/bias": values("x", (4,)).astype(np.complex128),
        "one": "text",
    }
    some = v.refusal(lambda: registry.replace(given), errors.MismatchError, "replace with four problems")
    whole = v.refusal(lambda: sr.load(registry, given), errors.LoadError, "load with four problems and missing keys")
    for error in (some, whole):
        for key in given:
            v.holds(key in str(error), f"the message names {key!r}: {error}")
            v.holds(key in error.keys, f"the keys of the error have {key!r}: {error.keys}")
        text = str(error)
        v.holds("7, 9" in text and "4, 4" in text, f"the message has both shapes: {error}")
        v.holds("complex128" in text and "float32" in text, f"the message has both dtypes: {error}")
    for key in ("scale", "decoder/weight"):
        v.holds(key in str(whole), f"the message of load names the missing key {key!r}: {whole}")
    cases: list[tuple[str, tuple[str, ...], Callable[[], object]]] = [
        ("looking up an unknown key", ("nothing",), lambda: registry["nothing"]),
        ("reading an unknown key", ("nothing",), lambda: registry.read("nothing")),
        ("training buffers", ("one", "encoder/norm/mean"),
         lambda: registry.with_trainable({"one": True, "encoder/norm/mean": True})),
        ("a mask with unknown keys", ("nothing", "else"), lambda: registry.with_trainable({"nothing": True, "else": False})),
        ("a cast that does not fit", ("one", "scale"),
         lambda: sr.cast({"one": np.ones(2, bool), "scale": np.ones((5,), bool)}, registry, "same_kind")),
    ]  # fmt: skip
    for name, concerned, action in cases:
        error = v.refusal(action, errors.StateError, name)
        for key in concerned:
            v.holds(key in str(error), f"the message of {name} names {key!r}: {error}")
    v.passed()


@check("SR-ERR-003")
def a_message_of_one_problem_says_expected_and_found(h: Subject, v: Verdict) -> None:
    declaration = core()
    registry = h.registry(h.build(declaration))
    good = others(declaration)
    cases: list[tuple[str, str, Any, tuple[str, ...]]] = [
        ("a wrong shape", "encoder/weight", values("x", (7, 9)), ("7, 9", "4, 4")),
        ("a wrong rank", "encoder/bias", values("x", (4, 11)), ("4, 11", "(4,)")),
        ("a wrong dtype", "encoder/weight", values("x", (4, 4)).astype(np.complex64), ("complex64", "float32")),
        ("a wrong width", "encoder/norm/var", values("x", (4,)), ("float32", "float16")),
    ]
    for name, key, value, words in cases:
        for error in (
            v.refusal(partial(registry.replace, {key: value}), errors.StateError, f"replace with {name}"),
            v.refusal(partial(sr.load, registry, {**good, key: value}), errors.StateError, f"load with {name}"),
        ):
            for word in (key, *words):
                v.holds(word in str(error), f"the message for {name} has {word!r}: {error}")
    v.passed()


class _Hostile:
    """A value whose conversion raises something of its own."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        raise _OwnError("not of this library")


class _OwnError(Exception):
    """Stands for an error of a framework."""


def _looked_at(v: Verdict, h: Subject, model: Any, name: str) -> None:
    try:
        registry = h.registry(model)
        for key in [*registry, *registry.aliases, *registry.opaque]:
            try:
                registry.read(key)
            except errors.StateError:
                continue
        dict(registry.items()), tuple(registry.native_order)
    except errors.StateError:
        v.holds(True, "refused")
    except Exception as error:
        raise NotHeld(f"looking at the specimen {name!r} raises {type(error).__name__}: {error}") from error


@check("SR-ERR-004")
def no_foreign_exception_reaches_the_caller(h: Subject, v: Verdict) -> None:
    declaration = square()
    registry = h.registry(h.build(declaration))
    good = values("x", (3, 3))
    hostile: list[tuple[str, Callable[[], object]]] = [
        ("replace by a value that raises", lambda: registry.replace({"p": _Hostile()})),
        ("replace by a ragged list", lambda: registry.replace({"p": [[1.0], [2.0, 3.0]]})),
        ("replace by too many axes", lambda: registry.replace({"p": np.zeros((1,) * 30, np.float32)})),
        ("replace by an empty array", lambda: registry.replace({"p": np.zeros((0,), np.float32)})),
        ("replace by an integer", lambda: registry.replace({"p": 10**400})),
        ("replace by a mapping that raises", lambda: registry.replace(Breaking({"p": good, "q": good}, 1))),
        ("load of a value that raises", lambda: sr.load(registry, {**others(declaration), "p": _Hostile()})),
        ("load of a mapping that raises", lambda: sr.load(registry, Breaking(others(declaration), 2))),
        ("a mask of texts", lambda: registry.with_trainable({"p": "yes"})),  # type: ignore[dict-item]  # what is tried
        ("a mask of arrays", lambda: registry.with_trainable({"p": np.zeros(2)})),  # type: ignore[dict-item]  # what is tried
        ("a cast of a value that raises", lambda: sr.cast({"p": _Hostile()}, registry, "lossless")),
        ("reading an unknown key", lambda: registry.read("\ud800")),
        ("looking up a number", lambda: registry[3]),  # type: ignore[index]  # what is tried
        ("reading a number", lambda: registry.read(3)),  # type: ignore[arg-type]  # what is tried
    ]
    for name, action in hostile:
        with v.refuses(errors.StateError, name):
            action()
    native = h.peek_all(registry.unwrap(), declaration)
    v.same_state(native, declaration.values(), "native values after everything that was refused")
    for name in SPECIMENS:
        specimen = h.can_specimen(name)
        if not isinstance(specimen, str):
            _looked_at(v, h, specimen.model, name)
    if "fault" in h.capabilities:
        broken = h.registry(h.fault(h.build(declaration), "q"))
        error = v.refusal(lambda: broken.replace(others(declaration)), errors.StateError, "a native write that fails")
        v.holds(error.__cause__ is not None, "the native exception is the cause")
    v.passed()
