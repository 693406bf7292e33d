"""Checks of chapter 13, snapshots. The sentences on files bind stores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

import stateregistry as sr
from stateregistry import errors
from stateregistry.entry import Kind
from stateregistry_conformance.check import check
from stateregistry_conformance.checks.reading import specials
from stateregistry_conformance.samples import (
    abstract,
    core,
    large,
    others,
    scribble,
    shapes,
    square,
    tied,
    transient,
)

if TYPE_CHECKING:
    from stateregistry_conformance.subject import Subject
    from stateregistry_conformance.verdict import Verdict


@check("SR-SNAP-001")
def persistent_is_what_was_declared(h: Subject, v: Verdict) -> None:
    declarations = [core(), square()] + ([transient()] if "nonpersistent" in h.capabilities else [])
    for declaration in declarations:
        expected = {key: entry.persistent for key, entry in declaration.entries().items()}
        registry = h.registry(h.build(declaration))
        v.equal({key: entry.persistent for key, entry in registry.items()}, expected, "persistent")
        registry = registry.replace(others(declaration))
        v.equal({key: entry.persistent for key, entry in registry.items()}, expected, "persistent after replace")
        saved = {key: value for key, value in others(declaration).items() if expected[key]}
        registry = sr.load(registry, saved).with_trainable({"p": False} if "p" in expected else {})
        v.equal(
            {key: entry.persistent for key, entry in registry.items()}, expected, "persistent after load and freezing"
        )
        again = h.registry(registry.unwrap())
        v.equal({key: entry.persistent for key, entry in again.items()}, expected, "persistent in a new registry")
    v.passed()


@check("SR-SNAP-002")
def a_snapshot_is_a_dict_of_owned_arrays(h: Subject, v: Verdict) -> None:
    declarations = [core(), shapes(), specials(), large()]
    declarations += [tied()] if "ties" in h.capabilities else []
    declarations += [transient()] if "nonpersistent" in h.capabilities else []
    for declaration in declarations:
        model = h.build(declaration)
        registry = h.registry(model)
        found = sr.snapshot(registry)
        expected = {k: x for k, x in declaration.values().items() if declaration.entries()[k].persistent}
        v.holds(type(found) is dict, f"a snapshot is a dict, found {type(found).__name__}")
        v.equal(list(found), list(expected), "keys of the snapshot, in order")
        v.same_state(found, expected, "snapshot")
        for key, array in found.items():
            flags = array.flags
            v.holds(flags.c_contiguous and flags.writeable and flags.owndata, f"{key!r} is as read gives it: {flags}")
            scribble(array)
        for key, value in expected.items():
            v.same(h.peek(model, key), value, f"native value of {key!r} after the snapshot was spoilt")
        kept = sr.snapshot(registry)
        for key, value in others(declaration).items():
            model = h.poke(model, key, value)
        v.same_state(kept, expected, "an earlier snapshot after native writes")
    v.passed()


@check("SR-SNAP-003")
def where_selects_what_a_snapshot_has(h: Subject, v: Verdict) -> None:
    declaration = core()
    registry = h.registry(h.build(declaration))
    entries, state = declaration.entries(), declaration.values()
    asked: list[str] = []

    def halves(key: str, entry: sr.Entry) -> bool:
        asked.append(key)
        v.equal(entry, entries.get(key), f"the entry that where was given for {key!r}")
        return entry.dtype == "float16"

    v.same_state(
        sr.snapshot(registry, halves), {k: state[k] for k in state if entries[k].dtype == "float16"}, "by dtype"
    )
    v.equal(sorted(asked), list(entries), "keys that where was asked about")
    for name, where in (
        ("everything", lambda _key, _entry: True),
        ("nothing", lambda _key, _entry: False),
        ("parameters", lambda _key, entry: entry.kind is Kind.PARAMETER),
        ("one key", lambda key, _entry: key == "scale"),
    ):
        expected = {key: value for key, value in state.items() if where(key, entries[key])}
        found = sr.snapshot(registry, where)
        v.equal(list(found), list(expected), f"keys of a snapshot of {name}")
        v.same_state(found, expected, f"snapshot of {name}")
    if "nonpersistent" in h.capabilities:
        shadow = transient()
        found = sr.snapshot(h.registry(h.build(shadow)), lambda key, _entry: key == "cache")
        v.same_state(found, {"cache": shadow.leaf("cache").value}, "snapshot of what is not persistent, when asked for")
    v.passed()


@check("SR-SNAP-004")
def a_snapshot_of_what_has_no_value_is_refused(h: Subject, v: Verdict) -> None:
    declaration = abstract()
    registry = h.registry(h.build(declaration))
    error = v.refusal(lambda: sr.snapshot(registry), errors.AbstractError, "snapshot of a model with abstract places")
    for key in ("ghost/b", "ghost/p"):
        v.holds(key in str(error), f"the message names {key!r}: {error}")
        v.holds(key in error.keys, f"the keys of the error name {key!r}: {error.keys}")
    found = sr.snapshot(registry, lambda _key, entry: entry.concrete)
    v.same_state(found, declaration.values(), "snapshot of what has values")
    v.passed()


@check("SR-SNAP-005")
def a_snapshot_that_would_leave_something_out_is_refused(h: Subject, v: Verdict) -> None:
    specimen = h.specimen("opaque")
    assert specimen.declaration is not None
    registry = h.registry(specimen.model)
    error = v.refusal(lambda: sr.snapshot(registry), errors.OpaqueError, "snapshot of a model with opaque state")
    for key in specimen.keys:
        v.holds(key in str(error), f"the message names {key!r}: {error}")
    found = sr.snapshot(registry, lambda _key, entry: entry.persistent)
    v.same_state(found, specimen.declaration.values(), "snapshot of the entries, when that is asked for")
    v.passed()


@check("SR-SNAP-005")
def a_snapshot_of_arrays_only_is_not_refused(h: Subject, v: Verdict) -> None:
    declaration = core()
    v.same_state(sr.snapshot(h.registry(h.build(declaration))), declaration.values(), "snapshot")
    v.passed()


@check("SR-SNAP-006")
def a_snapshot_loads_into_a_model_built_alike(h: Subject, v: Verdict) -> None:
    declarations = [core(), shapes(), specials(), large()]
    declarations += [tied()] if "ties" in h.capabilities else []
    declarations += [transient()] if "nonpersistent" in h.capabilities else []
    for declaration in declarations:
        saved = sr.snapshot(h.registry(h.build(declaration)))
        model = h.build(declaration)
        for key, value in others(declaration).items():
            model = h.poke(model, key, value)
        registry = h.registry(model)
        frozen = next(key for key, entry in declaration.entries().items() if entry.trainable)
        registry = registry.with_trainable({frozen: False})
        before = dict(registry)
        registry = sr.load(registry, saved)
        v.lists(registry, before, "entries after load of a snapshot")
        for key, entry in declaration.entries().items():
            expected = declaration.values()[key] if entry.persistent else others(declaration)[key]
            v.same(h.peek(registry.unwrap(), key), expected, f"native value of {key!r} after load of a snapshot")
    v.passed()


@check("SR-SNAP-007")
def a_snapshot_says_nothing_of_the_framework(h: Subject, v: Verdict) -> None:
    # What the declaration says is what every adapter has to give: so the snapshots of any two are equal.
    for declaration in (core(), square(), specials()):
        found = sr.snapshot(h.registry(h.build(declaration)))
        v.equal(list(found), list(declaration.values()), "keys of the snapshot")
        v.same_state(found, declaration.values(), "snapshot")
        v.holds(all(type(array) is np.ndarray for array in found.values()), "the arrays are plain arrays of NumPy")
        v.holds(all(type(key) is str for key in found), "the keys are plain texts")
    v.passed()
