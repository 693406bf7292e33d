"""Checks of the corners, of what is listed, read and refused: cases that an adapter may well treat apart from all others.

A rule that holds for plain models may be broken for the third name of a tie, an array of many axes, a report of fifty problems
or two kinds of problems at once, and no check of the rule alone would notice. Nothing here is peculiar to one framework.
"""

from __future__ import annotations

from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

import stateregistry as sr
from stateregistry import errors
from stateregistry_conformance.check import check
from stateregistry_conformance.checks.reading import special
from stateregistry_conformance.declaration import Declaration, Leaf
from stateregistry_conformance.samples import PARAMETER, abstract, buffer, core, others, parameter, spread, tied, values
from stateregistry_conformance.verdict import NotApplicable

if TYPE_CHECKING:
    from collections.abc import Callable

    from stateregistry_conformance.subject import Subject
    from stateregistry_conformance.verdict import Verdict

#: Of each class of problems one, for a model of `core`; none of them concerns the other keys.
PROBLEMS: dict[str, dict[str, Any]] = {
    "unexpected": {"nothing": values("x", (2,))},
    "shape": {"encoder/bias": values("x", (9,))},
    "dtype": {"scale": np.ones(5, np.complex64)},
    "invalid": {"one": "text"},
}


@check("SR-LIST-002")
def neither_depth_nor_rank_nor_a_number_hides_a_place(h: Subject, v: Verdict) -> None:
    deep = "/".join(f"m{number}" for number in range(30))
    declarations = {
        "30 containers deep": (parameter(f"{deep}/w"), buffer(f"{deep}/b"), parameter("w")),
        "of 5 and 6 axes": (parameter("p", (2, 1, 2, 1, 3)), buffer("b", (1, 2, 1, 2, 1, 2))),
        "in a list of arrays": tuple(parameter(f"list/{number}") for number in range(11)),
        "in a list of lists": (parameter("list/0/0"), parameter("list/0/1"), buffer("list/1/0"), buffer("list/1/1")),
        "at the root by number": (parameter("0"), buffer("1"), parameter("10")),
        "among 300": tuple(parameter(f"block{number}/w", (1,)) for number in range(300)),
    }
    for name, leaves in declarations.items():
        declaration = Declaration(leaves)
        model = h.can_build(declaration)
        if model is None:
            continue
        registry = h.registry(model)
        v.lists(registry, declaration.entries(), f"entries {name}")
        v.same_state({key: registry.read(key) for key in registry}, declaration.values(), f"values {name}")
    declaration = core()
    registry = h.registry(h.build(declaration))
    registry = registry.with_trainable({key: False for key, entry in declaration.entries().items() if entry.trainable})
    v.equal(sorted(registry), list(declaration.entries()), "keys after everything was frozen")
    v.passed()


@check("SR-LIST-011")
def a_native_write_is_seen_under_every_name(h: Subject, v: Verdict) -> None:
    if "ties" not in h.capabilities:
        raise NotApplicable("the framework has no ties")
    declaration = tied()
    model = h.build(declaration)
    registry = h.registry(model)
    if not registry.in_place:
        raise NotApplicable("the registry is not in place: its model never changes")
    state = declaration.values()
    for name in spread(declaration, state):
        registry.read(name), registry.view(name)  # whatever a registry might remember, it has seen
    for key, value in others(declaration).items():
        h.poke(model, key, value)
        state[key] = value
        for name, expected in spread(declaration, state).items():
            v.same(registry.read(name), expected, f"read of {name!r} after a native write of {key!r}")
            v.same(registry.view(name), expected, f"view of {name!r} after a native write of {key!r}")
    v.passed()


@check("SR-ALIAS-005")
def one_of_three_that_differs_is_a_conflict(h: Subject, v: Verdict) -> None:
    declaration = tied()
    group = sorted({"body/weight", "tail/weight", "tip/weight"})
    same, other = values("same", (3, 3)), values("other", (3, 3))
    for odd in group:
        for order in (group, group[::-1]):
            given = {key: other if key == odd else same.copy() for key in order}
            registry = h.registry(h.build(declaration))
            text = f"replace of a group of three when {odd!r} differs"
            error = v.refusal(partial(registry.replace, given), errors.ConflictError, text)
            v.equal(v.report(error).conflict, tuple(group), f"report.conflict after {text}")
            mask = {key: key != odd for key in order}
            with v.refuses(errors.ConflictError, f"with_trainable({mask})"):
                registry.with_trainable(mask)
            native = h.peek_all(registry.unwrap(), declaration)
            v.same_state(native, spread(declaration, declaration.values()), f"native values after {text}")
    v.passed()


@check("SR-ALIAS-005")
def equal_bits_are_no_conflict_whatever_they_say(h: Subject, v: Verdict) -> None:
    declaration = Declaration((Leaf("z", PARAMETER, np.ones(14, np.float32)), buffer("b")), {"a": "z"})
    given = special("float32")  # NaNs among them, which are not equal to themselves
    registry = h.registry(h.build(declaration))
    v.equal(sr.check(registry, {"a": given, "z": given.copy()}, partial=True).conflict, (), "conflict of check")
    try:
        registry = registry.replace({"a": given, "z": given.copy()})
    except errors.MismatchError as error:
        v.equal(v.report(error).conflict, (), "report.conflict of equal bits")
    v.same(h.peek(registry.unwrap(), "z"), given, "native value after equal bits under both names")
    v.passed()


@check("SR-ERR-002")
def any_two_classes_of_problems_have_an_error_of_neither(h: Subject, v: Verdict) -> None:
    problems, declaration = dict(PROBLEMS), core()
    if "ties" in h.capabilities:
        problems["conflict"] = {"tie/a": values("x", (3, 3)), "tie/z": values("y", (3, 3))}
        declaration = Declaration((*declaration.leaves, parameter("tie/a")), {"tie/z": "tie/a"})
    registry = h.registry(h.build(declaration))
    children = (
        errors.UnexpectedKeyError, errors.ShapeError, errors.DtypeError, errors.ConflictError, errors.SourceError,
    )  # fmt: skip
    for number in range(2, len(problems) + 1):
        for classes in combinations(problems, number):
            given = {key: value for name in classes for key, value in problems[name].items()}
            text = f"replace with problems of the classes {', '.join(classes)}"
            error = v.refusal(partial(registry.replace, given), errors.MismatchError, text)
            v.holds(
                not isinstance(error, children), f"{text}: the error is of none of them, found {type(error).__name__}"
            )
            report = v.report(error)
            v.equal(sorted(name for name in problems if getattr(report, name)), sorted(classes), f"{text}: the report")
    v.passed()


@check("SR-ERR-003")
def an_error_carries_every_key_that_it_concerns(h: Subject, v: Verdict) -> None:
    declaration = core()
    registry = h.registry(h.build(declaration))
    buffers = [key for key, entry in declaration.entries().items() if entry.kind is not PARAMETER]
    wrong = {key: np.zeros((*entry.shape, 7), np.float32) for key, entry in declaration.entries().items()}
    many = {f"nothing/{number}": values("x", (2,)) for number in range(40)}
    cases: list[tuple[str, list[str], Callable[[], object]]] = [
        ("looking up an unknown key", ["nothing"], lambda: registry["nothing"]),
        ("reading an unknown key", ["nothing"], lambda: registry.read("nothing")),
        ("viewing an unknown key", ["nothing"], lambda: registry.view("nothing")),
        ("replace with wrong shapes everywhere", list(wrong), lambda: registry.replace(wrong)),
        ("replace with 40 unknown keys", list(many), lambda: registry.replace(many)),
        ("load of nothing but 40 unknown keys", [*many, *wrong], lambda: sr.load(registry, many)),
        ("training every buffer", buffers, lambda: registry.with_trainable(dict.fromkeys(buffers, True))),
        ("a mask with 40 unknown keys", list(many), lambda: registry.with_trainable(dict.fromkeys(many, False))),
        ("a mask of texts", ["one", "scale"], lambda: registry.with_trainable({"one": "no", "scale": "no"})),  # type: ignore[dict-item]  # what is tried
        ("casts that do not fit", ["one", "scale"],
         lambda: sr.cast({"one": np.ones(2, bool), "scale": np.ones(5, bool)}, registry, "same_kind")),
    ]  # fmt: skip
    if "abstract" in h.capabilities:
        ghost = h.registry(h.build(abstract()))
        cases += [(f"{name} of what has no value", ["ghost/p"], partial(look, "ghost/p"))
                  for name, look in (("read", ghost.read), ("view", ghost.view))]  # fmt: skip
    for name, concerned, action in cases:
        error = v.refusal(action, errors.StateError, name)
        v.equal(sorted(set(concerned) - set(error.keys)), [], f"keys that the error of {name} does not carry")
    v.passed()


@check("SR-ATOM-002")
def a_report_has_no_end(h: Subject, v: Verdict) -> None:
    declaration = h.rich()
    entries = declaration.entries()
    registry = h.registry(h.build(declaration))
    many = {f"nothing/{number}": values("x", (2,)) for number in range(100)}
    wrong = {key: np.zeros((*value.shape, 7), value.dtype) for key, value in declaration.values().items()}
    error = v.refusal(lambda: registry.replace({**many, **wrong}), errors.MismatchError, "replace with nothing right")
    v.equal(v.report(error).unexpected, tuple(sorted(many)), "report.unexpected of 100 unknown keys")
    v.equal(v.report(error).shape, tuple(entries), "report.shape of a wrong shape for every entry")
    texts: dict[str, Any] = dict.fromkeys(entries, "text")
    error = v.refusal(lambda: registry.replace(texts), errors.MismatchError, "replace with no array at all")
    v.equal(v.report(error).invalid, tuple(entries), "report.invalid of a text for every entry")
    fixed = [key for key, entry in entries.items() if not entry.trainable]
    mask = dict.fromkeys(fixed, True)
    error = v.refusal(lambda: registry.with_trainable(mask), errors.KindError, "training all that cannot be trained")
    v.equal(sorted(set(fixed) - set(error.keys)), [], "keys that cannot be trained and that the error does not carry")
    v.passed()
