"""Checks of chapter 6, enumeration."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

import stateregistry as sr
from stateregistry import errors
from stateregistry_conformance.check import check
from stateregistry_conformance.declaration import Declaration
from stateregistry_conformance.samples import buffer, core, others, parameter, shapes, square, tied, values
from stateregistry_conformance.verdict import NotApplicable, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from stateregistry_conformance.subject import Subject


@check("SR-LIST-001")
def iteration_is_sorted(h: Subject, v: Verdict) -> None:
    numbered = [parameter(f"n{n}/w", (2,)) for n in (10, 9, 2, 1)]
    upside_down = Declaration(
        (parameter("z"), buffer("zz/b"), *numbered, buffer("a/b"), parameter("a/a"), parameter("Z"), buffer("b"))
    )
    for declaration in (upside_down, core()):
        registry = h.registry(h.build(declaration))
        expected = sorted(declaration.entries())
        v.equal(list(registry), expected, "iter")
        v.equal(list(registry.keys()), expected, "keys()")
        v.equal([key for key, _ in registry.items() if key in expected], expected, "keys of items()")
        v.equal([entry for entry in registry.values() if entry in declaration.entries().values()],
                [declaration.entries()[key] for key in expected], "values()")  # fmt: skip
        registry = registry.replace(others(declaration))
        v.equal(list(registry), expected, "iter after replace")
    v.passed()


@check("SR-LIST-001")
def keys_are_compared_as_str_not_by_segments(h: Subject, v: Verdict) -> None:
    # '-' and '!' come before '/': sorting by segments gives another order.
    declaration = Declaration((parameter("a/b"), parameter("a-b/c"), buffer("a!/c")))
    model = h.can_build(declaration)
    if model is None:
        raise NotApplicable("the framework refuses names with punctuation")
    v.equal(list(h.registry(model)), ["a!/c", "a-b/c", "a/b"], "iter")
    # Code points are compared, not the halves of UTF-16, in which what is above the first plane comes before U+E000.
    model = h.can_build(Declaration((parameter("x/\U0001f600"), parameter("x/\uffee"), parameter("x/\ue000"))))
    if model is not None:
        v.equal(list(h.registry(model)), ["x/\ue000", "x/\uffee", "x/\U0001f600"], "iter of names beyond ASCII")
    v.passed()


@check("SR-LIST-002")
def every_place_is_listed_once(h: Subject, v: Verdict) -> None:
    declarations = [core(), square()]
    if "ties" in h.capabilities:
        declarations.append(tied())
    for declaration in declarations:
        registry = h.registry(h.build(declaration))
        keys = list(registry)
        v.equal(len(keys), len(set(keys)), "number of distinct keys")
        v.equal(sorted(keys), list(declaration.entries()), "keys")
        distinct = sum(math.prod(leaf.value.shape) for leaf in declaration.leaves)
        v.equal(sum(registry[key].size for key in keys), distinct, "number of elements listed")
    v.passed()


@check("SR-LIST-003")
def the_entries_are_what_was_registered(h: Subject, v: Verdict) -> None:
    for declaration in (core(), shapes()):
        registry = h.registry(h.build(declaration))
        v.equal(sorted(registry), list(declaration.entries()), "keys")
        registry = registry.replace(others(declaration))
        v.equal(sorted(registry), list(declaration.entries()), "keys after replace")
    v.passed()


@check("SR-LIST-003")
def what_was_not_registered_is_not_listed(h: Subject, v: Verdict) -> None:
    specimen = h.specimen("unregistered")
    assert specimen.declaration is not None
    registry = h.registry(specimen.model)
    v.equal(sorted(registry), list(specimen.declaration.entries()), "keys beside an array that is not registered")
    for key in specimen.keys:
        known = key in registry or key in registry.aliases or key in registry.opaque
        v.holds(not known, f"{key!r} is not state, and neither entry, alias nor opaque")
    v.passed()


@check("SR-LIST-004")
def a_registry_is_a_mapping(h: Subject, v: Verdict) -> None:
    for declaration in (core(), tied() if "ties" in h.capabilities else square()):
        registry = h.registry(h.build(declaration))
        expected = declaration.entries()
        v.equal(set(registry), set(expected), "iter")
        v.equal(len(registry), len(expected), "len")
        v.equal(dict(registry.items()), expected, "items()")
        v.equal(set(registry.keys()), set(expected), "keys()")
        v.equal(sorted(map(str, registry.values())), sorted(map(str, expected.values())), "values()")
        for key, entry in expected.items():
            v.holds(key in registry, f"{key!r} in registry")
            v.equal(registry[key], entry, f"registry[{key!r}]")
            v.equal(registry.get(key), entry, f"registry.get({key!r})")
        for alias in declaration.aliases():
            v.holds(registry.get(alias) is None, f"registry.get({alias!r}) of an alias is None")
            v.holds(alias not in registry, f"the alias {alias!r} is not in the registry")
            v.holds(alias not in list(registry), f"the alias {alias!r} is not iterated")
            with v.refuses(errors.UnknownKeyError, f"registry[{alias!r}] of an alias"):
                registry[alias]
    v.passed()


@check("SR-LIST-005")
def a_key_that_names_no_array_is_absent(h: Subject, v: Verdict) -> None:
    declaration = core()
    registry = h.registry(h.build(declaration))
    absent = (
        "nothing",
        "encoder",
        "encoder/weight/x",
        "encoder/norm",
        "Scale",
        "scale/",
        "/scale",
        "",
        "encoder.weight",
    )
    for key in absent:
        v.holds(key not in registry, f"{key!r} is not in the registry")
        v.holds(registry.get(key) is None, f"registry.get({key!r}) is None")
        for name, look in (("[]", registry.__getitem__), ("read", registry.read), ("view", registry.view)):
            error = v.refusal(partial(look, key), errors.UnknownKeyError, f"{name} of {key!r}")
            v.holds(isinstance(error, KeyError), f"{name} of {key!r} raises a KeyError too")
    foreign: tuple[Any, ...] = (None, 3, ("encoder", "weight"), b"scale")
    for other in foreign:
        v.holds(other not in registry, f"{other!r} is not in the registry")
    v.passed()


@check("SR-LIST-005")
def a_name_registered_without_array_is_absent(h: Subject, v: Verdict) -> None:
    specimen = h.specimen("none")
    assert specimen.declaration is not None
    registry = h.registry(specimen.model)
    v.finds(registry, specimen.declaration.entries(), "entries beside names that hold None")
    for key in specimen.keys:
        v.holds(key not in registry, f"{key!r} is not in the registry")
        v.holds(key not in registry.opaque, f"{key!r} is not opaque: it holds nothing")
        for name, look in (("[]", registry.__getitem__), ("read", registry.read), ("view", registry.view)):
            with v.refuses(errors.UnknownKeyError, f"{name} of {key!r}, which holds None"):
                look(key)
        with v.refuses(errors.UnexpectedKeyError, f"replace of {key!r}, which holds None"):
            registry.replace({key: np.zeros(3, np.float32)})
    v.passed()


@check("SR-LIST-006")
def nothing_is_opaque_where_everything_is_an_array(h: Subject, v: Verdict) -> None:
    for declaration in (core(), tied() if "ties" in h.capabilities else square()):
        v.equal(dict(h.registry(h.build(declaration)).opaque), {}, "opaque")
    v.passed()


@check("SR-LIST-006")
def state_that_is_no_array_is_named(h: Subject, v: Verdict) -> None:
    specimen = h.specimen("opaque")
    assert specimen.declaration is not None
    registry = h.registry(specimen.model)
    v.equal(sorted(registry.opaque), sorted(specimen.keys), "opaque keys")
    v.finds(registry, specimen.declaration.entries(), "entries beside opaque state")
    for key in specimen.keys:
        reason = registry.opaque.get(key)
        v.holds(isinstance(reason, str) and reason, f"the reason of {key!r} is a text, found {reason!r}")
        v.holds(key not in registry and key not in registry.aliases, f"{key!r} is neither an entry nor an alias")
        with v.refuses(errors.OpaqueError, f"read of {key!r}"):
            registry.read(key)
    v.passed()


@check("SR-LIST-007")
def native_order_has_every_key_once(h: Subject, v: Verdict) -> None:
    for declaration in (core(), square(), tied() if "ties" in h.capabilities else square()):
        first, second = h.registry(h.build(declaration)), h.registry(h.build(declaration))
        v.equal(sorted(first.native_order), list(declaration.entries()), "native_order, sorted")
        v.equal(tuple(first.native_order), tuple(second.native_order), "native_order of two models built alike")
        first = first.replace(others(declaration))
        v.equal(tuple(first.native_order), tuple(second.native_order), "native_order after replace")
        for key, value in others(declaration, "one").items():
            first = first.replace({key: value})
            v.equal(tuple(first.native_order), tuple(second.native_order), f"native_order after replace of {key!r}")
        trains = next(key for key, entry in declaration.entries().items() if entry.trainable)
        first = sr.load(first.with_trainable({trains: False}), others(declaration, "more"))
        v.equal(tuple(first.native_order), tuple(second.native_order), f"native_order after {trains!r} was frozen")
    v.passed()


@check("SR-LIST-009")
def looking_has_no_effect(h: Subject, v: Verdict) -> None:
    for declaration in (core(), tied() if "ties" in h.capabilities else square()):
        model = h.build(declaration)
        mark, cells = h.fingerprint(model), h.cells(model, declaration)
        bits = h.peek_all(model, declaration)
        registry = h.registry(model)
        _look(registry, declaration)
        v.equal(h.fingerprint(model), mark, "what the framework says of the model, after looking")
        v.same_state(h.peek_all(model, declaration), bits, "native values after looking")
        after = h.cells(model, declaration)
        v.holds(all(after[key] is cell for key, cell in cells.items()), "the native cells are the same objects")
        v.holds(registry.unwrap() is model, "the registry is over the same object")
        first, second = _look(registry, declaration), _look(registry, declaration)
        v.holds(first == second, "looking twice gives equal results")
    v.passed()


def _look(registry: sr.StateRegistry, declaration: Declaration) -> object:
    seen: list[object] = [list(registry), len(registry), dict(registry), dict(registry.aliases), dict(registry.opaque)]
    seen += [tuple(registry.native_order), [registry.get(key) for key in registry], "nothing" in registry]
    for key in [*declaration.entries(), *declaration.aliases()]:
        seen += [registry.read(key).tobytes(), registry.view(key).tobytes()]
    seen.append({key: array.tobytes() for key, array in sr.snapshot(registry).items()})
    seen += [sr.check(registry, others(declaration)), sr.check(registry, {"nothing": np.zeros(3)}), sr.count(registry)]
    return seen


@check("SR-LIST-010")
def an_iteration_runs_over_the_keys_of_its_start(h: Subject, v: Verdict) -> None:
    declaration = core()
    given = others(declaration)
    for name in ("iter", "keys", "items"):
        registry = h.registry(h.build(declaration))
        views: dict[str, Iterable[Any]] = {"iter": registry, "keys": registry.keys(), "items": registry.items()}
        seen: list[str] = []
        for item in views[name]:
            key: str = item[0] if isinstance(item, tuple) else item
            seen.append(key)
            v.holds(key in given, f"{key!r} was declared")
            registry = registry.replace({key: given[key]})
        v.equal(seen, list(declaration.entries()), f"keys seen by {name} while every one of them was replaced")
        v.same_state(h.peek_all(registry.unwrap(), declaration), given, f"native values after replacing during {name}")
    v.passed()


@check("SR-LIST-010")
def an_iteration_survives_a_change_of_structure(h: Subject, v: Verdict) -> None:
    declaration = square()
    model = h.build(declaration)
    registry = h.registry(model)
    if not registry.in_place:
        raise NotApplicable("the registry is not in place: its model never changes")
    running = iter(registry)
    seen = [next(running)]
    h.add(model, parameter("a0"))
    h.add(model, parameter("zz"))
    seen += list(running)
    v.equal(seen, ["b", "c", "p", "q"], "keys of an iteration that began before two places were added")
    v.passed()


@check("SR-LIST-011")
def a_native_write_is_seen(h: Subject, v: Verdict) -> None:
    declaration = core()
    model = h.build(declaration)
    registry = h.registry(model)
    if not registry.in_place:
        raise NotApplicable("the registry is not in place: its model never changes")
    state = declaration.values()
    for key in state:
        registry.read(key), registry.view(key)  # whatever a registry might remember, it has seen
    sr.snapshot(registry)
    for key, value in others(declaration).items():
        h.poke(model, key, value)
        state[key] = value
        v.same(registry.read(key), value, f"read of {key!r} after a native write")
        v.same(registry.view(key), value, f"view of {key!r} after a native write")
        v.same_state(sr.snapshot(registry), state, f"snapshot after a native write of {key!r}")
    v.passed()


@check("SR-LIST-011")
def a_training_step_is_seen(h: Subject, v: Verdict) -> None:
    if not h.trains:
        raise NotApplicable("the harness has no train_step; native writes are checked one by one")
    declaration = square()
    model = h.build(declaration)
    registry = h.registry(model)
    if not registry.in_place:
        raise NotApplicable("the registry is not in place: its model never changes")
    before = sr.snapshot(registry)
    h.train_step(model)
    native = h.peek_all(model, declaration)
    v.holds(native["p"].tobytes() != before["p"].tobytes(), "the step changed 'p'")
    v.same_state(sr.snapshot(registry), native, "snapshot after a training step")
    v.passed()


@check("SR-LIST-012")
def a_native_change_of_structure_is_seen(h: Subject, v: Verdict) -> None:
    declaration = core()
    model = h.build(declaration)
    registry = h.registry(model)
    if not registry.in_place:
        raise NotApplicable("the registry is not in place: its model never changes")
    expected = declaration.entries()
    v.lists(registry, expected, "entries of the fresh model")
    for leaf in (parameter("encoder/late", (2, 2)), buffer("late", (3,)), buffer("encoder/norm/late", ())):
        h.add(model, leaf)
        expected[leaf.key] = leaf.entry
        _shows(v, registry, expected, f"after {leaf.key!r} was added")
        v.same(registry.read(leaf.key), leaf.value, f"read of {leaf.key!r} after it was added")
        written = values("written", leaf.value.shape)
        registry = registry.replace({leaf.key: written})
        v.same(h.peek(model, leaf.key), written, f"native value of {leaf.key!r} after it was added and replaced")
    for key in ("late", "encoder/weight", "encoder/norm/late"):
        h.drop(model, key)
        del expected[key]
        _shows(v, registry, expected, f"after {key!r} was dropped")
        v.holds(key not in registry, f"{key!r} is not in the registry after it was dropped")
        with v.refuses(errors.UnknownKeyError, f"read of {key!r} after it was dropped"):
            registry.read(key)
    v.passed()


@check("SR-LIST-012")
def a_native_change_of_kind_and_shape_is_seen(h: Subject, v: Verdict) -> None:
    model = h.build(square())
    registry = h.registry(model)
    if not registry.in_place:
        raise NotApplicable("the registry is not in place: its model never changes")
    dict(registry), registry["b"]  # whatever a registry might remember, it has seen
    new = parameter("b", (2, 5))
    h.drop(model, "b")
    h.add(model, new)
    v.equal(registry["b"], new.entry, "registry['b'] after a parameter took the place of the buffer")
    expected = {**square().entries(), "b": new.entry}
    _shows(v, registry, expected, "after a parameter took the place of the buffer")
    v.same(registry.read("b"), new.value, "read of 'b'")
    v.passed()


@check("SR-LIST-012")
def a_tie_that_is_cut_natively_is_seen(h: Subject, v: Verdict) -> None:
    if "ties" not in h.capabilities:
        raise NotApplicable("the framework has no ties")
    declaration = tied()
    model = h.build(declaration)
    registry = h.registry(model)
    if not registry.in_place:
        raise NotApplicable("the registry is not in place: its model never changes")
    v.equal(dict(registry.aliases), declaration.aliases(), "aliases of the fresh model")
    h.drop(model, "tip/weight")
    aliases = {"head/weight": "base/weight", "tail/weight": "body/weight"}
    v.equal(dict(registry.aliases), aliases, "aliases after the alias 'tip/weight' was dropped")
    v.lists(registry, declaration.entries(), "entries after the alias 'tip/weight' was dropped")
    h.drop(model, "body/weight")
    v.equal(dict(registry.aliases), {"head/weight": "base/weight"}, "aliases after the key 'body/weight' was dropped")
    expected = declaration.entries()
    expected["tail/weight"] = expected.pop("body/weight")
    v.lists(registry, expected, "entries after the key 'body/weight' was dropped, whose alias 'tail/weight' is left")
    v.same(registry.read("tail/weight"), declaration.leaf("tail/weight").value, "read of 'tail/weight'")
    v.passed()


def _shows(v: Verdict, registry: sr.StateRegistry, expected: Mapping[str, object], when: str) -> None:
    names = sorted(expected)
    v.equal(list(registry), names, f"iter {when}")
    v.equal(len(registry), len(names), f"len {when}")
    v.equal(list(registry.keys()), names, f"keys {when}")
    v.equal(dict(registry.items()), expected, f"items {when}")
    v.equal(dict(registry.aliases), {}, f"aliases {when}")
    v.equal(sorted(registry.native_order), names, f"native_order {when}")


@check("SR-LIST-014")
def an_empty_model_is_legal(h: Subject, v: Verdict) -> None:
    declaration = Declaration(())
    registry = h.registry(h.build(declaration))
    v.equal((len(registry), list(registry), dict(registry.items())), (0, [], {}), "the listing of an empty model")
    v.equal((registry.aliases, registry.opaque, registry.native_order), ({}, {}, ()), "its structure")
    v.equal(tuple(registry.layers), (), "its layers")
    v.equal(sr.snapshot(registry), {}, "its snapshot")
    v.equal(sr.count(registry), 0, "its count")
    v.holds(sr.check(registry, {}).ok, "check of nothing is clean")
    for registry_again in (registry.replace({}), sr.load(registry, {}), registry.with_trainable({})):
        v.holds(isinstance(registry_again, sr.StateRegistry), "a write of nothing returns a registry")
        v.equal(len(registry_again), 0, "the length after a write of nothing")
    with v.refuses(errors.UnexpectedKeyError, "replace of a key of an empty model"):
        registry.replace({"w": np.zeros(3, np.float32)})
    with v.refuses(errors.UnknownKeyError, "read of a key of an empty model"):
        registry.read("w")
    v.holds(sr.diff(registry, h.registry(h.build(declaration))).equal, "two empty models do not differ")
    v.passed()
