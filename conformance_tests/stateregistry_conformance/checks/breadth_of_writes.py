"""Checks over everything that the framework can hold at once, of what is written, loaded and saved."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

import stateregistry as sr
from stateregistry import errors
from stateregistry.entry import DTYPES, Entry, Kind, numpy_dtype
from stateregistry_conformance.check import check
from stateregistry_conformance.retagged import Retagged
from stateregistry_conformance.samples import PARAMETER, nearly, others, square, values

if TYPE_CHECKING:
    from stateregistry_conformance.subject import Subject
    from stateregistry_conformance.verdict import Verdict


@check("SR-WRITE-001")
def any_value_is_written(h: Subject, v: Verdict) -> None:
    declaration = h.rich()
    old = declaration.values()
    states = {
        "other values": others(declaration),
        "zeros": {key: np.zeros_like(value) for key, value in old.items()},
        "ones": {key: np.ones_like(value) for key, value in old.items()},
        "nearly the same values": {key: nearly(value) for key, value in old.items()},
        "the same values": old,
    }
    for name, given in states.items():
        registry = h.registry(h.build(declaration)).replace(given)
        v.same_state(h.peek_all(registry.unwrap(), declaration), given, f"native values after replace by {name}")
    registry = h.registry(h.build(declaration))
    frozen = registry.with_trainable({key: False for key, entry in registry.items() if entry.trainable})
    frozen = frozen.replace(others(declaration))
    v.same_state(h.peek_all(frozen.unwrap(), declaration), others(declaration), "native values after replace of frozen")
    v.passed()


@check("SR-WRITE-001")
def writes_add_up(h: Subject, v: Verdict) -> None:
    declaration = square()
    registry = h.registry(h.build(declaration))
    expected = declaration.values()
    for turn, key in enumerate(("p", "b", "p", "c", "q")):
        expected[key] = values(f"turn {turn}", (3, 3))
        registry = registry.replace({key: expected[key]})
        native = h.peek_all(registry.unwrap(), declaration)
        v.same_state(native, expected, f"native values after write number {turn + 1}, of {key!r}")
    v.passed()


@check("SR-WRITE-001")
def a_spread_value_is_written_whole(h: Subject, v: Verdict) -> None:
    specimen = h.specimen("sharded")
    assert specimen.declaration is not None
    given = others(specimen.declaration)
    registry = h.registry(specimen.model).replace(given)
    v.same_state(h.peek_all(registry.unwrap(), specimen.declaration), given, "native values after replace")
    v.passed()


@check("SR-WRITE-006")
def no_pair_of_dtypes_is_cast(h: Subject, v: Verdict) -> None:
    declaration = h.rich()
    model = h.build(declaration)
    registry = h.registry(model)
    entries = declaration.entries()
    for dtype in DTYPES:
        given = {k: np.ones(e.shape, numpy_dtype(dtype)) for k, e in entries.items() if e.dtype != dtype}
        error = v.refusal(partial(registry.replace, given), errors.DtypeError, f"replace of all others by {dtype}")
        v.equal(v.report(error).dtype, tuple(given), f"what is refused of replacing all other dtypes by {dtype}")
    for number in (2.5, 2, True, 2 + 1j, [1.0, 2.0, 3.0, 4.0]):
        key = "line" if isinstance(number, list) else "temperature"
        if key in entries:
            with v.refuses(errors.DtypeError, f"replace of {key!r} ({entries[key].dtype}) by {number!r}"):
                registry.replace({key: number})
    v.same_state(
        h.peek_all(model, declaration), declaration.values(), "native values after everything that was refused"
    )
    v.passed()


@check("SR-WRITE-008")
def no_write_changes_any_entry(h: Subject, v: Verdict) -> None:
    declaration = h.rich()
    entries = declaration.entries()
    registry = h.registry(h.build(declaration)).replace(others(declaration))
    v.lists(registry, entries, "entries of a rich model after replace")
    source = h.registry(h.build(declaration))
    source = source.with_trainable({key: False for key, entry in entries.items() if entry.trainable})
    registry = sr.load(registry, source)
    v.lists(registry, entries, "entries after load from a model that is frozen")
    v.passed()


@check("SR-ATOM-001")
def one_bad_value_among_many_changes_nothing(h: Subject, v: Verdict) -> None:
    declaration = h.rich()
    model = h.build(declaration)
    registry = h.registry(model)
    good = others(declaration)
    for bad in (
        {"nothing": np.zeros(3)},
        {"cube": np.zeros(3, np.float32)},
        {"line": "text"},
        {"table": np.zeros((4, 4))},
    ):
        rest = {key: value for key, value in good.items() if key not in bad}
        for given in ({**bad, **rest}, {**rest, **bad}):
            with v.refuses(errors.StateError, f"replace with a bad value of {next(iter(bad))!r}"):
                registry.replace(given)
            native = h.peek_all(model, declaration)
            v.same_state(native, declaration.values(), f"native values after a bad value of {next(iter(bad))!r}")
            v.lists(registry, declaration.entries(), "entries after a bad value")
    v.passed()


@check("SR-LOAD-002")
def any_state_is_loaded(h: Subject, v: Verdict) -> None:
    declaration = h.rich()
    entries, old = declaration.entries(), declaration.values()
    saved = [key for key, entry in entries.items() if entry.persistent]
    for name, change in (("other", None), ("nearly the same", nearly), ("zero", np.zeros_like)):
        state = others(declaration) if change is None else {key: change(value) for key, value in old.items()}
        for frozen in (False, True):
            registry = h.registry(h.build(declaration))
            if frozen:
                registry = registry.with_trainable({key: False for key, entry in entries.items() if entry.trainable})
            registry = sr.load(registry, {key: state[key] for key in saved})
            expected = {**old, **{key: state[key] for key in saved}}
            what = f"native values after load of {name} values into a {'frozen ' if frozen else ''}model"
            v.same_state(h.peek_all(registry.unwrap(), declaration), expected, what)
    v.passed()


@check("SR-SNAP-006")
def any_snapshot_comes_back(h: Subject, v: Verdict) -> None:
    declaration = h.rich()
    saved = sr.snapshot(h.registry(h.build(declaration)))
    for change in (others(declaration), {key: nearly(value) for key, value in declaration.values().items()}):
        registry = h.registry(h.build(declaration)).replace(change)
        registry = sr.load(registry, saved)
        v.lists(registry, declaration.entries(), "entries after a snapshot was loaded")
        entries = declaration.entries()
        expected = {k: (x if entries[k].persistent else change[k]) for k, x in declaration.values().items()}
        v.same_state(h.peek_all(registry.unwrap(), declaration), expected, "native values after a snapshot was loaded")
    v.passed()


@check("SR-LOAD-002")
def names_decide_what_is_loaded(h: Subject, v: Verdict) -> None:
    declaration = square()
    good = others(declaration)
    for name, renamed in (
        ("every key renamed", {f"{key}{key}": value for key, value in good.items()}),
        ("every key by number", {str(n): value for n, value in enumerate(good.values())}),
        ("one key renamed", {("pp" if key == "p" else key): value for key, value in good.items()}),
    ):
        model = h.build(declaration)
        registry = h.registry(model)
        with v.refuses(errors.LoadError, f"load with {name}"):
            sr.load(registry, renamed)
        v.same_state(h.peek_all(model, declaration), declaration.values(), f"native values after load with {name}")
    v.passed()


@check("SR-LOAD-004")
def every_persistent_entry_is_asked_for(h: Subject, v: Verdict) -> None:
    declaration = h.rich()
    registry = h.registry(h.build(declaration))
    expected = tuple(key for key, entry in declaration.entries().items() if entry.persistent)
    v.equal(sr.check(registry, {}).missing, expected, "what is missing where nothing is given")
    v.passed()


@check("SR-SNAP-001")
def no_rule_of_thumb_says_what_is_saved(h: Subject, v: Verdict) -> None:
    declaration = h.rich()
    registry = h.registry(h.build(declaration))
    expected = {key: entry.persistent for key, entry in declaration.entries().items()}
    v.equal({key: entry.persistent for key, entry in registry.items()}, expected, "persistent of a rich model")
    registry = registry.with_trainable(dict.fromkeys(expected, False))
    v.equal({key: entry.persistent for key, entry in registry.items()}, expected, "persistent after all was frozen")
    registry = registry.replace(others(declaration))
    v.equal({key: entry.persistent for key, entry in registry.items()}, expected, "persistent after replace")
    v.passed()


@check("SR-LOAD-007")
def a_registry_is_a_source_like_its_snapshot(h: Subject, v: Verdict) -> None:
    declaration = h.rich()
    source = h.registry(h.build(declaration)).replace(others(declaration))
    entries = declaration.entries()
    expected = {k: (x if entries[k].persistent else declaration.values()[k]) for k, x in others(declaration).items()}
    for name, given in (("registry", source), ("snapshot", sr.snapshot(source))):
        loaded = sr.load(h.registry(h.build(declaration)), given)
        v.same_state(h.peek_all(loaded.unwrap(), declaration), expected, f"native values after load from a {name}")
    v.passed()


@check("SR-SNAP-007")
def a_snapshot_of_anything_is_what_was_declared(h: Subject, v: Verdict) -> None:
    declaration = h.rich()
    found = sr.snapshot(h.registry(h.build(declaration)).replace(others(declaration)))
    saved = {key: value for key, value in others(declaration).items() if declaration.entries()[key].persistent}
    v.same_state(found, saved, "snapshot of a rich model")
    v.passed()


def _is_kind(kind: Kind, _key: str, entry: Entry) -> bool:
    return entry.kind is kind


def _is_key(name: str, key: str, _entry: Entry) -> bool:
    return key == name


@check("SR-SNAP-003")
def where_sees_the_entries_as_they_are_now(h: Subject, v: Verdict) -> None:
    declaration = h.rich()
    registry = h.registry(h.build(declaration))
    sr.snapshot(registry, lambda _key, entry: entry.trainable)  # whatever a registry might remember, it has seen
    registry = registry.with_trainable({"line": False})
    expected = [k for k, e in declaration.entries().items() if e.trainable and k != "line"]
    found = sr.snapshot(registry, lambda _key, entry: entry.trainable)
    v.equal(list(found), expected, "keys of a snapshot of what is trainable")
    everything = sr.snapshot(registry, lambda _key, _entry: True)
    v.same_state(everything, declaration.values(), "a snapshot of everything")
    for kind in Kind:
        chosen = {k: x for k, x in declaration.values().items() if declaration.entries()[k].kind is kind}
        v.same_state(sr.snapshot(registry, partial(_is_kind, kind)), chosen, f"snapshot of every {kind.value}")
    v.passed()


@check("SR-SNAP-003")
def where_is_a_way_to_leave_opaque_state_out(h: Subject, v: Verdict) -> None:
    specimen = h.specimen("opaque")
    assert specimen.declaration is not None
    registry = h.registry(specimen.model)
    for key, value in specimen.declaration.values().items():
        v.same_state(sr.snapshot(registry, partial(_is_key, key)), {key: value}, f"snapshot of {key!r} alone")
    v.passed()


@check("SR-ALIAS-006")
def one_memory_stays_one(h: Subject, v: Verdict) -> None:
    specimen = h.specimen("one_memory")
    assert specimen.declaration is not None
    first, second = specimen.keys
    shape = specimen.declaration.leaf(first).value.shape
    registry = h.registry(specimen.model)
    for turn, key in enumerate((first, second)):
        written = values(f"turn {turn}", shape)
        registry = registry.replace({key: written})
        for name in specimen.keys:
            v.same(h.peek(registry.unwrap(), name), written, f"native value of {name!r} after replace of {key!r}")
        v.equal(dict(registry.aliases), specimen.declaration.aliases(), f"aliases after replace of {key!r}")
        poked = values(f"poked {turn}", shape)
        model = h.poke(registry.unwrap(), first, poked)
        v.same(h.peek(model, second), poked, f"native value of {second!r} after a native write to {first!r}")
    v.passed()


@check("SR-KIND-010")
def no_function_looks_at_the_tag_of_a_rich_model(h: Subject, v: Verdict) -> None:
    declaration = h.rich()
    plain = h.registry(h.build(declaration))
    told = Retagged(plain)
    v.same_state(sr.snapshot(told), sr.snapshot(plain), "snapshot")
    v.equal(sr.count(told), sr.count(plain), "count")
    v.equal(sr.mask(told, None), dict.fromkeys((k for k, e in plain.items() if e.kind is PARAMETER), True), "mask")
    v.holds(sr.diff(told, plain).equal, "diff says equal")
    loaded = sr.load(h.registry(h.build(declaration)), told)
    v.same_state(sr.snapshot(loaded), sr.snapshot(plain), "what was loaded")
    v.passed()
