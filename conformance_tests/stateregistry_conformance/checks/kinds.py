"""Checks of chapter 5, kinds and flags."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

import stateregistry as sr
from stateregistry import errors
from stateregistry.entry import Entry, Kind
from stateregistry_conformance.check import check
from stateregistry_conformance.declaration import Declaration, Leaf
from stateregistry_conformance.retagged import Retagged
from stateregistry_conformance.samples import BUFFER, PARAMETER, buffer, core, others, parameter, square, values
from stateregistry_conformance.verdict import NotApplicable, Verdict

if TYPE_CHECKING:
    from stateregistry_conformance.subject import Subject


def _kinds(registry: sr.StateRegistry) -> dict[str, Kind]:
    return {key: registry[key].kind for key in registry}


def _flags(registry: sr.StateRegistry) -> dict[str, bool]:
    return {key: registry[key].trainable for key in registry}


def _whole_parameter(h: Subject) -> Leaf | None:
    """A parameter of an integer dtype, where the framework has such."""
    for dtype in ("int32", "int64", "bool"):
        leaf = Leaf("whole", PARAMETER, values("whole", (3,), dtype))
        if h.can_build(Declaration((leaf, parameter("p"), buffer("b")))) is not None:
            return leaf
    return None


@check("SR-KIND-001")
def a_kind_is_what_was_declared(h: Subject, v: Verdict) -> None:
    misleading = Declaration(
        (
            parameter("bn/running_mean", (4,)),
            parameter("bn/batch_stats/mean", (4,)),
            buffer("bn/weight", (4,)),
            buffer("params/kernel", (4,)),
        )
    )
    for declaration in (core(), square(), misleading):
        registry = h.registry(h.build(declaration))
        for key, entry in declaration.entries().items():
            v.holds(
                registry[key].kind is entry.kind, f"kind of {key!r}: expected {entry.kind}, found {registry[key].kind}"
            )
    v.passed()


@check("SR-KIND-002")
def nothing_changes_a_kind(h: Subject, v: Verdict) -> None:
    declaration = core()
    registry = h.registry(h.build(declaration))
    before = {key: entry.kind for key, entry in declaration.entries().items()}
    registry = registry.with_trainable(
        dict.fromkeys((k for k, e in declaration.entries().items() if e.trainable), False)
    )
    v.equal(_kinds(registry), before, "kinds after everything was frozen")
    registry = registry.replace(others(declaration))
    v.equal(_kinds(registry), before, "kinds after replace")
    registry = sr.load(registry, others(declaration, "more"))
    v.equal(_kinds(registry), before, "kinds after load")
    registry = registry.with_trainable(
        dict.fromkeys((k for k, e in declaration.entries().items() if e.trainable), True)
    )
    v.equal(_kinds(registry), before, "kinds after everything was made trainable again")
    v.passed()


@check("SR-KIND-003")
def trainable_is_the_flag_as_it_is_now(h: Subject, v: Verdict) -> None:
    declaration = core()
    registry = h.registry(h.build(declaration))
    expected = {key: entry.kind is PARAMETER for key, entry in declaration.entries().items()}
    v.equal(_flags(registry), expected, "flags of a fresh model")
    for key, flag in expected.items():
        if flag:
            registry = registry.with_trainable({key: False})
            expected[key] = False
            v.equal(_flags(registry), expected, f"flags after {key!r} was frozen")
    v.equal({type(flag) for flag in _flags(registry).values()}, {bool}, "types of the flags")
    v.passed()


@check("SR-KIND-003")
def integers_are_never_trainable(h: Subject, v: Verdict) -> None:
    leaf = _whole_parameter(h)
    if leaf is None:
        raise NotApplicable("the framework has no parameters of integers or booleans")
    registry = h.registry(h.build(Declaration((leaf, parameter("p"), buffer("b")))))
    v.equal(
        _flags(registry), {"whole": False, "p": True, "b": False}, f"flags beside a parameter of {leaf.value.dtype}"
    )
    v.passed()


@check("SR-KIND-004")
def making_a_buffer_trainable_is_refused(h: Subject, v: Verdict) -> None:
    declaration = square()
    registry = h.registry(h.build(declaration))
    registry = registry.with_trainable({"p": False})
    before = dict(registry)
    for mask in ({"b": True}, {"p": True, "b": True}, {"b": True, "q": False}, {"p": True, "c": True, "q": False}):
        error = v.refusal(partial(registry.with_trainable, mask), errors.KindError, f"with_trainable({mask})")
        v.holds(("b" if "b" in mask else "c") in str(error), f"the message names the key: {error}")
        v.lists(registry, before, f"entries after with_trainable({mask}) was refused")
    registry = registry.with_trainable({"b": False, "q": True})
    v.lists(registry, before, "entries after flags were set to what they are")
    v.passed()


@check("SR-KIND-004")
def making_integers_trainable_is_refused(h: Subject, v: Verdict) -> None:
    leaf = _whole_parameter(h)
    if leaf is None:
        raise NotApplicable("the framework has no parameters of integers or booleans")
    registry = h.registry(h.build(Declaration((leaf, parameter("p"), buffer("b")))))
    for mask in ({"whole": True}, {"p": False, "whole": True}):
        with v.refuses(errors.KindError, f"with_trainable({mask}) on {leaf.value.dtype}"):
            registry.with_trainable(mask)
        v.equal(_flags(registry), {"whole": False, "p": True, "b": False}, "flags after the refusal")
    registry = registry.with_trainable({"whole": False})
    v.equal(_flags(registry), {"whole": False, "p": True, "b": False}, "flags after false was set where it is false")
    v.passed()


@check("SR-KIND-005")
def a_registry_carries_the_flag_where_the_framework_has_none(h: Subject, v: Verdict) -> None:
    if "native_trainable" in h.capabilities:
        raise NotApplicable("the framework has a flag of its own")
    declaration = square()
    registry = h.registry(h.build(declaration))
    expected = {"p": True, "b": False, "q": True, "c": False}
    v.equal(_flags(registry), expected, "flags of a fresh model")
    registry = registry.with_trainable({"q": False})
    expected["q"] = False
    for turn in ("once", "twice", "three times"):
        registry = registry.replace({"q": values(f"q {turn}", (3, 3)), "b": values(f"b {turn}", (3, 3))})
        v.equal(_flags(registry), expected, f"flags after replace {turn}")
    registry = registry.replace(others(declaration))
    v.equal(_flags(registry), expected, "flags after replace of everything")
    registry = sr.load(registry, others(declaration, "more"))
    v.equal(_flags(registry), expected, "flags after load")
    registry = registry.with_trainable({"p": False}).with_trainable({"q": True})
    v.equal(_flags(registry), {"p": False, "b": False, "q": True, "c": False}, "flags after two more changes")
    v.passed()


@check("SR-KIND-006")
def the_flag_is_the_frameworks_own(h: Subject, v: Verdict) -> None:
    declaration = square()
    model = h.build(declaration)
    registry = h.registry(model)
    registry = registry.with_trainable({"q": False})
    model = registry.unwrap()
    v.equal((h.peek_trainable(model, "p"), h.peek_trainable(model, "q")), (True, False), "native flags of p and q")
    model = h.poke_trainable(model, "q", flag=True)
    model = h.poke_trainable(model, "p", flag=False)
    registry = registry if registry.in_place else h.registry(model)
    v.equal(_flags(registry), {"p": False, "b": False, "q": True, "c": False}, "flags after a native change")
    registry = registry.with_trainable({"p": True, "q": False})
    model = registry.unwrap()
    v.equal(
        (h.peek_trainable(model, "p"), h.peek_trainable(model, "q")), (True, False), "native flags after the way back"
    )
    v.passed()


@check("SR-KIND-006")
def a_model_that_was_frozen_natively_is_listed_frozen(h: Subject, v: Verdict) -> None:
    leaves = (parameter("p"), dataclasses.replace(parameter("q"), trainable=False), buffer("b"))
    registry = h.registry(h.build(Declaration(leaves)))
    v.equal(_flags(registry), {"p": True, "q": False, "b": False}, "flags of a model that was built with q frozen")
    v.passed()


@check("SR-KIND-007")
def an_entry_is_a_value_without_array(h: Subject, v: Verdict) -> None:
    registry = h.registry(h.build(core()))
    for key, entry in registry.items():
        v.holds(isinstance(entry, Entry), f"the entry of {key!r} is an Entry, found {type(entry).__name__}")
        v.holds(type(entry).__hash__ is not None, f"the entry of {key!r} can be hashed")
        v.equal(hash(entry), hash(dataclasses.replace(entry)), f"hash of the entry of {key!r} and of its copy")
        fields = [getattr(entry, field.name) for field in dataclasses.fields(entry)]
        v.holds(
            not any(isinstance(field, np.ndarray) for field in fields), f"no array in the entry of {key!r}: {fields}"
        )
        with v.refuses(AttributeError, f"assigning to the entry of {key!r}"):
            entry.kind = Kind.BUFFER  # type: ignore[misc]  # what is tried
        _only_tag_and_inferred_do_not_count(v, key, entry)
    v.passed()


def _only_tag_and_inferred_do_not_count(v: Verdict, key: str, entry: Entry) -> None:
    retold = dataclasses.replace(entry, tag=entry.tag + "x", inferred=not entry.inferred)
    v.equal(retold, entry, f"{key!r}: the entry with another tag and inferred")
    other = Kind.BUFFER if entry.kind is Kind.PARAMETER else Kind.PARAMETER
    changes = (
        dataclasses.replace(entry, kind=other, trainable=False),
        dataclasses.replace(entry, shape=(*entry.shape, 1)),
        dataclasses.replace(entry, dtype="float64", trainable=False),
        dataclasses.replace(entry, persistent=not entry.persistent),
        dataclasses.replace(entry, concrete=not entry.concrete),
        dataclasses.replace(entry, rng=not entry.rng),
    )
    for changed in changes:
        v.holds(changed != entry, f"{key!r}: {changed!r} differs from {entry!r}")
    if entry.trainable:
        v.holds(dataclasses.replace(entry, trainable=False) != entry, f"{key!r}: trainable counts in {entry!r}")


@check("SR-KIND-008")
def the_kinds_of_a_live_model_are_not_inferred(h: Subject, v: Verdict) -> None:
    registry = h.registry(h.build(core()))
    for key, entry in registry.items():
        v.holds(entry.inferred is False, f"inferred of {key!r}: expected False, found {entry.inferred!r}")
    frozen = registry.with_trainable({"scale": False})
    loaded = sr.load(frozen, others(core(), "more"))
    for name, found in (("with_trainable", frozen), ("load", loaded), ("replace", loaded.replace(others(core())))):
        for key, entry in found.items():
            v.holds(
                entry.inferred is False, f"inferred of {key!r} after {name}: expected False, found {entry.inferred!r}"
            )
    v.passed()


@check("SR-KIND-009")
def the_state_of_a_generator_is_listed_and_written_as_key_data(h: Subject, v: Verdict) -> None:
    key_data = np.array([3, 4_000_000_001], np.uint32)
    declaration = Declaration((Leaf("noise", BUFFER, key_data, rng=True), parameter("p"), buffer("b")))
    registry = h.registry(h.build(declaration))
    v.equal({key: registry[key].rng for key in registry}, {"noise": True, "p": False, "b": False}, "rng flags")
    v.holds(registry["noise"].kind is Kind.BUFFER, f"kind of a generator: {registry['noise'].kind}")
    v.same(registry.read("noise"), key_data, "key data")
    native = h.describe(registry.unwrap(), "noise")
    changed = np.array([7, 11], np.uint32)
    registry = registry.replace({"noise": changed})
    v.same(h.peek(registry.unwrap(), "noise"), changed, "native key data after replace")
    v.same(registry.read("noise"), changed, "key data after replace")
    v.equal(h.describe(registry.unwrap(), "noise"), native, "the native generator apart from its state")
    v.equal(registry["noise"], declaration.entries()["noise"], "the entry after replace")
    v.passed()


def _is_kind(kind: Kind, _key: str, entry: Entry) -> bool:
    return entry.kind is kind


@check("SR-KIND-010")
def no_function_looks_at_a_tag(h: Subject, v: Verdict) -> None:
    declaration = core()
    plain = h.registry(h.build(declaration))
    told = Retagged(plain)
    v.equal(dict(told), dict(plain), "entries with other tags")
    v.same_state(sr.snapshot(told), sr.snapshot(plain), "snapshot")
    for kind in Kind:
        where = partial(_is_kind, kind)
        v.equal(sr.count(told, where), sr.count(plain, where), f"count of every {kind.value}")
        v.same_state(sr.snapshot(told, where), sr.snapshot(plain, where), f"snapshot of every {kind.value}")
    given = others(declaration)
    v.equal(sr.check(told, given), sr.check(plain, given), "check")
    v.equal(sr.diff(told, plain).equal, True, "diff(...).equal")
    v.same_state(sr.cast(given, told, "lossless"), sr.cast(given, plain, "lossless"), "cast")
    loaded = sr.load(h.registry(h.build(declaration)), told)
    v.same_state(sr.snapshot(loaded), sr.snapshot(plain), "what was loaded from a registry with other tags")
    v.passed()
