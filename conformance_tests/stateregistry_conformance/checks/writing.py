"""Checks of chapter 8, writing. The result of a write is looked at through the side door."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

import stateregistry as sr
from stateregistry import errors
from stateregistry.entry import numpy_dtype
from stateregistry_conformance.check import check
from stateregistry_conformance.checks.reading import fresh
from stateregistry_conformance.declaration import Declaration
from stateregistry_conformance.samples import (
    abstract,
    buffer,
    core,
    large,
    others,
    parameter,
    shapes,
    spread,
    square,
    tied,
    transient,
    values,
)
from stateregistry_conformance.verdict import NotApplicable, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from stateregistry_conformance.subject import Subject


@check("SR-WRITE-001")
def replace_writes_what_is_given_and_nothing_else(h: Subject, v: Verdict) -> None:
    for declaration in (core(), square(), shapes()):
        given = fresh(declaration)
        for key in declaration.entries():
            registry = h.registry(h.build(declaration)).replace({key: given[key]})
            expected = {**declaration.values(), key: given[key]}
            v.same_state(
                h.peek_all(registry.unwrap(), declaration), expected, f"native values after replace of {key!r}"
            )
        registry = h.registry(h.build(declaration)).replace(given)
        v.same_state(h.peek_all(registry.unwrap(), declaration), given, "native values after replace of everything")
        registry = registry.replace({})
        v.holds(isinstance(registry, sr.StateRegistry), "replace of nothing returns a registry")
        v.same_state(h.peek_all(registry.unwrap(), declaration), given, "native values after replace of nothing")
        registry = registry.replace(declaration.values())
        v.same_state(
            h.peek_all(registry.unwrap(), declaration), declaration.values(), "native values after the way back"
        )
    v.passed()


@check("SR-WRITE-001")
def the_returned_registry_reads_what_was_written(h: Subject, v: Verdict) -> None:
    for declaration in (core(), large()):
        registry = h.registry(h.build(declaration))
        dict(registry), sr.snapshot(registry)  # whatever a registry might remember, it has seen
        given = fresh(declaration)
        registry = registry.replace(given)
        for key, value in given.items():
            v.same(registry.read(key), value, f"read of {key!r} after replace")
            v.same(registry.view(key), value, f"view of {key!r} after replace")
    v.passed()


@check("SR-WRITE-002")
def a_write_in_place_keeps_every_object(h: Subject, v: Verdict) -> None:
    for declaration in (core(), tied() if "ties" in h.capabilities else square()):
        model = h.build(declaration)
        registry = h.registry(model)
        if not registry.in_place:
            raise NotApplicable("the registry is not in place")
        cells = h.cells(model, declaration)
        trains = [key for key, entry in declaration.entries().items() if entry.trainable]
        writes: dict[str, Callable[[], object]] = {
            "replace": partial(registry.replace, others(declaration)),
            "replace of nothing": partial(registry.replace, {}),
            "load": partial(sr.load, registry, others(declaration, "more")),
            "with_trainable": partial(registry.with_trainable, dict.fromkeys(trains, False)),
            "with_trainable of nothing": partial(registry.with_trainable, {}),
            "with_trainable again": partial(registry.with_trainable, dict.fromkeys(trains, True)),
        }
        for name, write in writes.items():
            v.holds(write() is registry, f"{name} returns the receiver")
            after = h.cells(model, declaration)
            lost = [key for key, cell in cells.items() if after[key] is not cell]
            v.equal(lost, [], f"keys whose native object is another one after {name}")
    v.passed()


@check("SR-WRITE-003")
def a_functional_write_leaves_the_receiver(h: Subject, v: Verdict) -> None:
    for declaration in (core(), tied() if "ties" in h.capabilities else square(), large(), shapes()):
        model = h.build(declaration)
        registry = h.registry(model)
        if registry.in_place:
            raise NotApplicable("the registry is in place")
        old, entries = h.peek_all(model, declaration), dict(registry)
        given = others(declaration)
        trains = [key for key, entry in declaration.entries().items() if entry.trainable]
        new = registry.replace(given)
        frozen = registry.with_trainable(dict.fromkeys(trains, False))
        both = new.with_trainable(dict.fromkeys(trains, False)).replace(others(declaration, "more"))
        v.holds(new is not registry and frozen is not registry, "a write returns another registry")
        v.same_state(h.peek_all(model, declaration), old, "native values of the old model")
        v.same_state(h.peek_all(registry.unwrap(), declaration), old, "native values of what the receiver wraps")
        v.lists(registry, entries, "entries of the receiver")
        v.same_state(
            h.peek_all(new.unwrap(), declaration), spread(declaration, given), "native values of the new model"
        )
        v.lists(new, entries, "entries of the new registry")
        expected = {k: dataclasses.replace(e, trainable=False) for k, e in entries.items()}
        v.lists(frozen, expected, "entries of the frozen registry")
        v.lists(both, expected, "entries after with_trainable and replace")
    v.passed()


@check("SR-WRITE-004")
def unwrap_gives_the_native_object(h: Subject, v: Verdict) -> None:
    declaration = core()
    model = h.build(declaration)
    registry = h.registry(model)
    if registry.in_place:
        v.holds(registry.unwrap() is model, "unwrap gives the very object")
        registry = registry.replace(others(declaration)).with_trainable({"scale": False})
        v.holds(registry.unwrap() is model, "unwrap gives the very object after writes")
    else:
        v.holds(type(registry.unwrap()) is type(model), f"unwrap gives a {type(model).__name__}")
        v.same_state(h.peek_all(registry.unwrap(), declaration), declaration.values(), "native values of what it gives")
        registry = registry.replace(others(declaration))
        v.holds(type(registry.unwrap()) is type(model), f"unwrap gives a {type(model).__name__} after replace")
        again = h.registry(registry.unwrap())
        v.lists(again, dict(registry), "entries of a registry over what it gives")
    v.same_state(h.peek_all(registry.unwrap(), declaration), others(declaration), "native values after replace")
    v.passed()


@check("SR-WRITE-005")
def a_shape_that_differs_is_refused(h: Subject, v: Verdict) -> None:
    declaration = Declaration(
        (
            parameter("m", (3, 4)),
            parameter("s", ()),
            buffer("one", (1,)),
            buffer("z", (0, 3)),
            parameter("e", (0,)),
            parameter("v", (4,)),
        )
    )
    wrong: dict[str, list[tuple[int, ...]]] = {
        "m": [(4, 3), (12,), (1, 4), (3, 1), (3, 4, 1), (1, 3, 4), (), (4,), (0, 4)],
        "s": [(1,), (1, 1), (0,)],
        "one": [(), (1, 1), (2,), (0,)],
        "z": [(0,), (3, 0), (0, 4), (1, 3), (), (1,), (1, 1), (3,)],
        "e": [(), (1,), (2,), (0, 0), (1, 0), (0, 1)],
        "v": [(1,), (), (1, 4), (4, 1), (3,)],
    }
    for key, sizes in wrong.items():
        for shape in sizes:
            model = h.build(declaration)
            registry = h.registry(model)
            text = f"replace of {key!r} {declaration.entries()[key].shape} by {shape}"
            for time in ("", ", tried again", ", tried a third time"):
                v.refusal(partial(registry.replace, {key: values(key, shape)}), errors.ShapeError, text + time)
            v.same_state(h.peek_all(model, declaration), declaration.values(), f"native values after {text}")
    v.passed()


@check("SR-WRITE-006")
def a_dtype_that_differs_is_refused(h: Subject, v: Verdict) -> None:
    declaration = Declaration((parameter("p"), buffer("b"), parameter("h", (3, 3), "float16")))
    ones = np.ones((3, 3))
    for dtype in ("float64", "float16", "float32", "int32", "int64", "bool", "uint8", "complex64", "bfloat16"):
        for key in ("p", "b", "h"):
            have = declaration.entries()[key].dtype
            if dtype == have:
                continue
            model = h.build(declaration)
            registry = h.registry(model)
            given = ones.astype(numpy_dtype(dtype))
            text = f"replace of {key!r} ({have}) by {dtype}"
            v.refusal(partial(registry.replace, {key: given}), errors.DtypeError, text)
            v.same_state(h.peek_all(model, declaration), declaration.values(), f"native values after {text}")
            with v.refuses(errors.LoadError, f"load instead of {text}"):
                sr.load(registry, {**declaration.values(), key: given})
            v.same_state(h.peek_all(model, declaration), declaration.values(), f"native values after load of {dtype}")
    v.passed()


@check("SR-WRITE-007")
def an_unknown_key_is_refused(h: Subject, v: Verdict) -> None:
    declaration = core()
    unknown = (
        "nothing",
        "mean",
        "cube",
        "module/scale",
        "_orig_mod/encoder/weight",
        "params/scale",
        "encoder/weight2",
        "encoder",
        "encoder/norm",
        "encoder.weight",
        "Scale",
        "scale/x",
        "encoder/",
        "",
        "/",
        "scale/",
        "/scale",
        "./scale",
        "encoder//weight",
        "encoder/../scale",
        " scale",
        "scale ",
        "scale\n",
        "scale:0",
        "*",
        "encoder/*",
        "0",
    )
    for key in unknown:
        for extra in ({}, {"scale": values("s", (5,))}):
            model = h.build(declaration)
            registry = h.registry(model)
            given = {**extra, key: values(key, (3, 3))}
            text = f"replace of the unknown key {key!r}"
            v.refusal(partial(registry.replace, given), errors.UnexpectedKeyError, text)
            v.lists(registry, declaration.entries(), f"entries after {text}")
            v.same_state(h.peek_all(model, declaration), declaration.values(), f"native values after {text}")
    v.passed()


@check("SR-WRITE-008")
def a_write_changes_no_entry(h: Subject, v: Verdict) -> None:
    declarations = [core(), square()]
    declarations += [tied()] if "ties" in h.capabilities else []
    declarations += [transient()] if "nonpersistent" in h.capabilities else []
    for declaration in declarations:
        registry = h.registry(h.build(declaration))
        frozen = next(key for key, entry in declaration.entries().items() if entry.trainable)
        registry = registry.with_trainable({frozen: False})
        entries = declaration.entries()
        entries[frozen] = dataclasses.replace(entries[frozen], trainable=False)
        persistent = [key for key, entry in entries.items() if entry.persistent]
        for key, value in others(declaration).items():
            registry = registry.replace({key: value})
            v.lists(registry, entries, f"entries after replace of {key!r}")
        v.equal(dict(registry.aliases), declaration.aliases(), "aliases after replace")
        given = others(declaration, "more")
        registry = sr.load(registry, {key: given[key] for key in persistent})
        v.lists(registry, entries, "entries after load")
        v.equal(dict(registry.aliases), declaration.aliases(), "aliases after load")
        again = h.registry(registry.unwrap())
        plain = {k: dataclasses.replace(e, trainable=False) for k, e in entries.items()}
        found = {k: dataclasses.replace(e, trainable=False) for k, e in again.items()}
        v.equal(found, plain, "entries, flags apart, of a new registry over what was written")
    v.passed()


@check("SR-WRITE-009")
def a_write_keeps_what_a_cell_is(h: Subject, v: Verdict) -> None:
    for declaration in (core(), large(), shapes()):
        model = h.build(declaration)
        before = {key: h.describe(model, key) for key in declaration.entries()}
        registry = h.registry(model).replace(others(declaration))
        for key, described in before.items():
            v.equal(h.describe(registry.unwrap(), key), described, f"the cell of {key!r} after replace")
        registry = sr.load(registry, others(declaration, "more"))
        for key, described in before.items():
            v.equal(h.describe(registry.unwrap(), key), described, f"the cell of {key!r} after load")
        v.same_state(h.peek_all(registry.unwrap(), declaration), others(declaration, "more"), "native values")
    v.passed()


@check("SR-WRITE-009")
def a_write_keeps_a_spread_value_spread(h: Subject, v: Verdict) -> None:
    specimen = h.specimen("sharded")
    assert specimen.declaration is not None
    before = {key: h.describe(specimen.model, key) for key in specimen.keys}
    registry = h.registry(specimen.model).replace(others(specimen.declaration))
    for key, described in before.items():
        v.equal(h.describe(registry.unwrap(), key), described, f"the cell of {key!r} after replace")
        v.same(registry.read(key), others(specimen.declaration)[key], f"read of {key!r} after replace")
    v.passed()


@check("SR-WRITE-010")
def a_trainable_parameter_is_written_like_any_other(h: Subject, v: Verdict) -> None:
    declaration = square()
    model = h.build(declaration)
    before = {key: h.describe(model, key) for key in declaration.entries()}
    registry = h.registry(model)
    registry = registry.replace({"p": values("new p", (3, 3)), "q": values("new q", (3, 3))})
    v.same(
        h.peek(registry.unwrap(), "p"), values("new p", (3, 3)), "native value of a trainable parameter after replace"
    )
    for key, described in before.items():
        v.equal(h.describe(registry.unwrap(), key), described, f"the cell of {key!r} after replace")
    if h.trains:
        native = h.peek(registry.unwrap(), "p")
        stepped = h.train_step(registry.unwrap())
        v.holds(
            h.peek(stepped, "p").tobytes() != native.tobytes(), "a training step after replace changes the parameter"
        )
    v.passed()


@check("SR-WRITE-010")
def a_write_keeps_existing_gradients(h: Subject, v: Verdict) -> None:
    specimen = h.specimen("gradients")
    assert specimen.declaration is not None
    before = {key: h.describe(specimen.model, key) for key in specimen.keys}
    registry = h.registry(specimen.model).replace(others(specimen.declaration))
    for key, described in before.items():
        v.equal(
            h.describe(registry.unwrap(), key), described, f"the cell of {key!r}, its gradient included, after replace"
        )
    v.same_state(h.peek_all(registry.unwrap(), specimen.declaration), others(specimen.declaration), "native values")
    v.passed()


@check("SR-WRITE-014")
def writing_what_has_no_value_is_never_lost(h: Subject, v: Verdict) -> None:
    declaration = abstract()
    given = {"ghost/p": values("new", (3, 3)), "p": values("new p", (3, 3))}
    registry = h.registry(h.build(declaration))
    entries = dict(registry)
    try:
        registry = registry.replace(given)
    except errors.AbstractError as error:
        v.holds("ghost/p" in str(error), f"the message names 'ghost/p': {error}")
        v.lists(registry, entries, "entries after the refusal")
        v.same(h.peek(registry.unwrap(), "p"), declaration.leaf("p").value, "native value of 'p' after the refusal")
    else:
        v.holds(registry["ghost/p"].concrete, "the entry is concrete after a write that was accepted")
        v.same(registry.read("ghost/p"), given["ghost/p"], "read of 'ghost/p'")
        v.same(h.peek(registry.unwrap(), "ghost/p"), given["ghost/p"], "native value of 'ghost/p'")
        v.same(h.peek(registry.unwrap(), "p"), given["p"], "native value of 'p'")
        expected = {**entries, "ghost/p": dataclasses.replace(entries["ghost/p"], concrete=True)}
        v.lists(registry, expected, "entries after a write that was accepted")
    v.passed()


@check("SR-WRITE-015")
def with_trainable_sets_what_is_given_and_nothing_else(h: Subject, v: Verdict) -> None:
    declaration = core()
    keys = [key for key, entry in declaration.entries().items() if entry.trainable]
    registry = h.registry(h.build(declaration))
    expected = declaration.entries()
    masks: list[dict[str, Any]] = [{keys[0]: False}, {}, {keys[1]: False, keys[2]: False}, {keys[1]: True}]
    for mask in [*masks, dict.fromkeys(keys, True), {}, {keys[0]: np.bool_(False)}]:  # NumPy's own bool
        expected |= {key: dataclasses.replace(expected[key], trainable=bool(flag)) for key, flag in mask.items()}
        for times in ("once", "twice"):
            registry = registry.with_trainable(mask)
            v.lists(registry, expected, f"entries after with_trainable({mask}) {times}")
            native = h.peek_all(registry.unwrap(), declaration)
            v.same_state(native, declaration.values(), f"native values after with_trainable({mask}) {times}")
    v.passed()


@check("SR-WRITE-016")
def a_mask_that_does_not_fit_is_refused(h: Subject, v: Verdict) -> None:
    declaration = Declaration((*square().leaves, parameter("inner/w")))
    wrong: tuple[dict[Any, Any], ...] = (
        {"nothing": False},
        {"inner": False},
        {"inner": True},
        {"inner/": False},
        {"w": False},
        {"P": False},
        {"p": False, "nothing": True},
        {"nothing": True, "p": False},
        {"p": 0},
        {"p": "no"},
        {"p": None},
        {"q": False, "p": 1.0},
        {"p": np.array([True, False])},
        {3: False},
        {"p": "False"},
        {"p": "true"},
        {"p": b"\x00"},
        {"p": []},
        {"p": np.int8(1)},
        {"p": np.float32(0)},
        {"p ": False},
        {"*": False},
        {"inner/*": False},
        {"inner.w": False},
        {"": False},
        {("inner", "w"): False},
    )
    for mask in wrong:
        registry = h.registry(h.build(declaration))
        with v.refuses(errors.StateError, f"with_trainable({mask})"):
            registry.with_trainable(mask)
        v.lists(registry, declaration.entries(), f"entries after with_trainable({mask}) was refused")
    v.passed()
