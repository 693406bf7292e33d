"""Checks of chapter 9, atomicity: for every class of fault, with the bad key first, in the middle and last."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, final

import numpy as np

import stateregistry as sr
from stateregistry import errors
from stateregistry_conformance.check import check
from stateregistry_conformance.declaration import Declaration
from stateregistry_conformance.samples import abstract, buffer, core, others, parameter, spread, square, tied, values
from stateregistry_conformance.verdict import NotApplicable, Verdict

if TYPE_CHECKING:
    from stateregistry_conformance.subject import Subject


@final
class _Unreadable:
    """A value that raises when it is taken as an array."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        raise OSError("the disk is gone")


@final
class Breaking(Mapping[str, Any]):
    """A mapping that raises at its n-th value."""

    def __init__(self, values: Mapping[str, Any], at: int) -> None:
        self._values = dict(values)
        self._at = at

    def __getitem__(self, key: str) -> Any:
        if list(self._values).index(key) >= self._at:
            raise OSError("the disk is gone")
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


#: Faults by name: the good value of a key -> a pair to put in its place.
_FAULTS: dict[str, Callable[[str, np.ndarray], tuple[str, Any]]] = {
    "an unknown key": lambda key, value: (key + "_", value),
    "a wrong shape": lambda key, value: (key, np.zeros((*value.shape, 2), value.dtype)),
    "a wrong dtype": lambda key, value: (key, value.astype(np.complex128)),
    "what is no array": lambda key, value: (key, "weights"),
    "a value that raises": lambda key, value: (key, _Unreadable()),
}


def _spoilt(good: Mapping[str, np.ndarray], at: int, fault: str) -> dict[str, Any]:
    """A set of values with a fault at one position of its order."""
    pairs: list[tuple[str, Any]] = list(good.items())
    pairs[at] = _FAULTS[fault](*pairs[at])
    return dict(pairs)


@check("SR-ATOM-001")
def a_refused_write_changes_nothing(h: Subject, v: Verdict) -> None:
    declaration = core()
    good = others(declaration)
    for fault in _FAULTS:
        for at in (0, len(good) // 2, len(good) - 1):
            given = _spoilt(good, at, fault)
            for name, write in (("replace", _replace), ("load", _load)):
                _unchanged(h, v, declaration, partial(write, given), f"{name} with {fault} at place {at}")
    for at in range(len(good)):
        for name, write in (("replace", _replace), ("load", _load)):
            broken = Breaking(good, at)
            _unchanged(h, v, declaration, partial(write, broken), f"{name} that breaks off at place {at}")
    v.passed()


@check("SR-ATOM-001")
def a_refused_change_of_flags_changes_nothing(h: Subject, v: Verdict) -> None:
    declaration = core()
    good = {key: False for key, entry in declaration.entries().items() if entry.trainable}
    for bad in ({"nothing": False}, {"one": True}, {"scale": "no"}, {"encoder/norm/mean": True}):
        rest = {key: flag for key, flag in good.items() if key not in bad}
        for mask in ({**bad, **rest}, {**rest, **bad}):
            _unchanged(h, v, declaration, partial(_freeze, mask), f"with_trainable({mask})")
    v.passed()


@check("SR-ATOM-001")
def a_conflict_changes_nothing(h: Subject, v: Verdict) -> None:
    if "ties" not in h.capabilities:
        raise NotApplicable("the framework has no ties")
    declaration = tied()
    good = others(declaration)
    alias, canonical = next(iter(declaration.aliases().items()))
    bad = {alias: values("another", good[canonical].shape)}
    for given in ({**bad, **good}, {**good, **bad}):
        for name, write in (("replace", _replace), ("load", _load)):
            _unchanged(h, v, declaration, partial(write, given), f"{name} with a conflict")
    v.passed()


def _replace(given: Mapping[str, Any], registry: sr.StateRegistry) -> object:
    return registry.replace(given)


def _load(given: Mapping[str, Any], registry: sr.StateRegistry) -> object:
    return sr.load(registry, given)


def _freeze(mask: Mapping[str, Any], registry: sr.StateRegistry) -> object:
    return registry.with_trainable(mask)


def _unchanged(
    h: Subject, v: Verdict, declaration: Declaration, write: Callable[[sr.StateRegistry], object], what: str
) -> None:
    model = h.build(declaration)
    registry = h.registry(model)
    cells, entries = h.cells(model, declaration), dict(registry)
    with v.refuses(errors.StateError, what):
        write(registry)
    expected = spread(declaration, declaration.values())
    v.same_state(h.peek_all(model, declaration), expected, f"native values after {what}")
    v.same_state(h.peek_all(registry.unwrap(), declaration), expected, f"native values of the registry after {what}")
    v.lists(registry, entries, f"entries after {what}")
    after = h.cells(model, declaration)
    v.equal([key for key, cell in cells.items() if after[key] is not cell], [], f"keys with another cell after {what}")


@check("SR-ATOM-002")
def all_problems_are_reported_at_once(h: Subject, v: Verdict) -> None:
    declaration = core()
    pairs: list[tuple[str, Any]] = [
        ("nothing", values("x", (3,))),
        ("encoder/weight", values("x", (2, 4))),
        ("encoder/bias", values("x", (4,)).astype(np.complex64)),
        ("scale", values("x", (5,))),
        ("decoder/weight", values("x", (4, 5)).astype(np.complex64)),
        ("one", "text"),
        ("else", values("y", ())),
    ]
    reports = []
    for order in (pairs, pairs[::-1], pairs[3:] + pairs[:3]):
        registry = h.registry(h.build(declaration))
        error = v.refusal(partial(registry.replace, dict(order)), errors.MismatchError, "replace with six problems")
        report = v.report(error)
        reports.append(report)
        v.equal(report.unexpected, ("else", "nothing"), "report.unexpected")
        v.equal(report.shape, ("decoder/weight", "encoder/weight"), "report.shape")
        v.equal(report.dtype, ("decoder/weight", "encoder/bias"), "report.dtype")
        v.equal(report.invalid, ("one",), "report.invalid")
        v.equal((report.missing, report.conflict), ((), ()), "report.missing and report.conflict")
    v.holds(all(report == reports[0] for report in reports), "the report is independent of the order of the values")
    mask: dict[str, Any] = {"nothing": False, "scale": "no", "else": True}
    for given in (mask, dict(reversed(mask.items()))):
        registry = h.registry(h.build(declaration))
        error = v.refusal(partial(registry.with_trainable, given), errors.StateError, "a mask with three problems")
        for key in mask:
            v.holds(key in str(error), f"the message names {key!r}: {error}")
    v.passed()


@check("SR-ATOM-003")
def a_mapping_that_raises_changes_nothing(h: Subject, v: Verdict) -> None:
    declaration = square()
    good = others(declaration)
    for at in range(len(good)):
        model = h.build(declaration)
        registry = h.registry(model)
        broken = Breaking(good, at)
        text = f"replace by a mapping that raises at value {at}"
        error = v.refusal(partial(registry.replace, broken), errors.SourceError, text)
        v.equal(v.report(error).invalid, tuple(sorted(list(good)[at:])), f"report.invalid after {text}")
        v.same_state(h.peek_all(model, declaration), declaration.values(), f"native values after {text}")
        with v.refuses(errors.LoadError, "load of the same"):
            sr.load(registry, broken)
        v.same_state(h.peek_all(model, declaration), declaration.values(), "native values after load of the same")
        v.holds(not sr.check(registry, broken).ok, "check of the same is not clean")
    v.passed()


@check("SR-ATOM-003")
def a_mapping_is_read_before_the_first_write(h: Subject, v: Verdict) -> None:
    declaration = square()
    model = h.build(declaration)
    registry = h.registry(model)
    seen: list[bool] = []

    @final
    class Watching(Mapping[str, np.ndarray]):
        """Looks, at every value that it gives, whether the model has changed."""

        def __getitem__(self, key: str) -> np.ndarray:
            native = h.peek_all(model, declaration)
            seen.append(all(native[k].tobytes() == x.tobytes() for k, x in declaration.values().items()))
            return others(declaration)[key]

        def __iter__(self) -> Iterator[str]:
            return iter(others(declaration))

        def __len__(self) -> int:
            return len(others(declaration))

    registry = registry.replace(Watching())
    v.holds(seen and all(seen), "the model had its old values whenever a value was read from the mapping")
    v.same_state(h.peek_all(registry.unwrap(), declaration), others(declaration), "native values afterwards")
    v.passed()


@check("SR-ATOM-004")
def values_that_share_memory_with_the_model_are_taken_as_they_were(h: Subject, v: Verdict) -> None:
    for shape in ((3, 3), (512, 512)):
        declaration = Declaration((parameter("p", shape), parameter("q", shape), buffer("b", shape)))
        old = declaration.values()
        registry = h.registry(h.build(declaration))
        registry = registry.replace({"p": registry.view("q"), "q": registry.view("p")})
        expected = {"p": old["q"], "q": old["p"], "b": old["b"]}
        v.same_state(h.peek_all(registry.unwrap(), declaration), expected, f"native values of shape {shape} exchanged")
        registry = registry.replace({"p": registry.view("b"), "q": registry.view("p"), "b": registry.view("q")})
        expected = {"p": expected["b"], "q": expected["p"], "b": expected["q"]}
        v.same_state(h.peek_all(registry.unwrap(), declaration), expected, f"native values of shape {shape} rotated")
        registry = registry.replace({"p": registry.view("p").T})
        v.same(h.peek(registry.unwrap(), "p"), expected["p"].T, f"native value of shape {shape} by its own transpose")
    v.passed()


@check("SR-ATOM-005")
def a_native_failure_is_rolled_back(h: Subject, v: Verdict) -> None:
    declaration = square()
    good = others(declaration)
    for key in declaration.entries():
        for name, write in (("replace", _replace), ("load", _load)):
            model = h.fault(h.build(declaration), key)
            registry = h.registry(model)
            cells, entries = h.cells(model, declaration), dict(registry)
            text = f"{name} when the native write of {key!r} fails"
            error = v.refusal(partial(write, good, registry), errors.CommitError, text)
            cause = error.__cause__
            v.holds(cause is not None, f"the error has a cause after {text}")
            v.holds(not isinstance(cause, errors.StateError), f"the cause is the native exception, found {cause!r}")
            v.same_state(h.peek_all(model, declaration), declaration.values(), f"native values after {text}")
            v.lists(registry, entries, f"entries after {text}")
            after = h.cells(model, declaration)
            v.equal(
                [k for k, cell in cells.items() if after[k] is not cell], [], f"keys with another cell after {text}"
            )
    v.passed()


@check("SR-ATOM-005")
def a_native_failure_among_ties_is_rolled_back(h: Subject, v: Verdict) -> None:
    if "ties" not in h.capabilities:
        raise NotApplicable("the framework has no ties")
    declaration = tied()
    for key in declaration.entries():
        model = h.fault(h.build(declaration), key)
        registry = h.registry(model)
        with v.refuses(errors.CommitError, f"replace when the native write of {key!r} fails"):
            registry.replace(others(declaration))
        expected = spread(declaration, declaration.values())
        v.same_state(h.peek_all(model, declaration), expected, f"native values after the failure at {key!r}")
    v.passed()


@check("SR-ATOM-005")
def what_had_no_value_has_none_after_a_failure(h: Subject, v: Verdict) -> None:
    if "abstract" not in h.capabilities:
        raise NotApplicable("every place of the framework has a value")
    declaration, key = abstract(), "p"
    probe = h.registry(h.build(declaration))
    ghosts = [name for name, entry in declaration.entries().items() if not entry.concrete]
    given = {name: value for name, value in others(declaration).items() if name in {*ghosts, key}}
    try:
        probe.replace({name: given[name] for name in ghosts})
    except errors.AbstractError as error:
        raise NotApplicable("a place without a value is never given one") from error
    model = h.fault(h.build(declaration), key)
    registry = h.registry(model)
    entries = dict(registry)
    # The place that fails comes last, then first: what was written before it has to go again.
    for order in ([*ghosts, key], [key, *ghosts]):
        text = f"replace of {', '.join(order)} when the native write of {key!r} fails"
        with v.refuses(errors.CommitError, text):
            registry.replace({name: given[name] for name in order})
        v.lists(registry, entries, f"entries after {text}")
        v.same(h.peek(model, key), declaration.leaf(key).value, f"native value of {key!r} after {text}")
    v.passed()
