"""Checks of chapter 12, aliases."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

import stateregistry as sr
from stateregistry import errors
from stateregistry_conformance.check import check
from stateregistry_conformance.checks.reading import special
from stateregistry_conformance.declaration import Declaration, Leaf
from stateregistry_conformance.samples import (
    BUFFER,
    PARAMETER,
    buffer,
    core,
    others,
    parameter,
    spread,
    square,
    tied,
    values,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from stateregistry_conformance.subject import Subject
    from stateregistry_conformance.verdict import Verdict


@check("SR-ALIAS-001")
def keys_of_one_place_are_aliases(h: Subject, v: Verdict) -> None:
    declaration = tied()
    model = h.build(declaration)
    groups: dict[str, list[str]] = {}
    for key in [*declaration.entries(), *declaration.aliases()]:
        groups.setdefault(declaration.canonical(key), []).append(key)
    registry = h.registry(model)
    v.equal(dict(registry.aliases), declaration.aliases(), "aliases")
    for canonical, names in groups.items():
        for name in names:
            written = values(f"written to {name}", (3, 3))
            model = h.poke(model, name, written)
            seen = h.registry(model)
            for other in names:
                v.same(seen.read(other), written, f"read of {other!r} after a native write to {name!r}")
            for other in set(groups) - {canonical}:
                v.holds(seen.read(other).tobytes() != written.tobytes(), f"{other!r} is another place than {name!r}")
    v.passed()


@check("SR-ALIAS-001")
def several_objects_over_one_memory_are_aliases(h: Subject, v: Verdict) -> None:
    specimen = h.specimen("one_memory")
    assert specimen.declaration is not None
    registry = h.registry(specimen.model)
    v.equal(dict(registry.aliases), specimen.declaration.aliases(), "aliases of two objects over one memory")
    v.lists(registry, specimen.declaration.entries(), "entries of two objects over one memory")
    v.passed()


@check("SR-ALIAS-002")
def aliases_is_a_table_beside_the_entries(h: Subject, v: Verdict) -> None:
    for declaration in (core(), square()):
        v.equal(dict(h.registry(h.build(declaration)).aliases), {}, "aliases of a model without ties")
    if "ties" in h.capabilities:
        declaration = tied()
        registry = h.registry(h.build(declaration))
        v.equal(dict(registry.aliases), declaration.aliases(), "aliases")
        for alias, canonical in registry.aliases.items():
            v.holds(alias not in registry, f"the alias {alias!r} is no entry")
            v.holds(canonical in registry, f"the canonical key {canonical!r} is an entry")
    v.passed()


@check("SR-ALIAS-003")
def the_canonical_key_is_the_least(h: Subject, v: Verdict) -> None:
    for first, second in (("a/w", "z/w"), ("z/w", "a/w"), ("Z/w", "a/w"), ("n10/w", "n9/w"), ("n9/w", "n10/w")):
        declaration = Declaration((parameter("m"), parameter(first)), {second: first})
        registry = h.registry(h.build(declaration))
        least, other = sorted((first, second))
        v.equal(sorted(registry), sorted(["m", least]), f"keys of {first!r} tied to {second!r}")
        v.equal(dict(registry.aliases), {other: least}, f"aliases of {first!r} tied to {second!r}")
    declaration = tied()
    v.equal(dict(h.registry(h.build(declaration)).aliases), declaration.aliases(), "aliases of groups of two and three")
    v.passed()


@check("SR-ALIAS-004")
def any_key_of_a_group_is_accepted(h: Subject, v: Verdict) -> None:
    declaration = tied()
    given = others(declaration)
    everything = spread(declaration, given)
    for alias, canonical in declaration.aliases().items():
        registry = h.registry(h.build(declaration)).replace({alias: given[canonical]})
        v.same(
            h.peek(registry.unwrap(), canonical), given[canonical], f"native value of {canonical!r} given as {alias!r}"
        )
        both = {alias: given[canonical], canonical: given[canonical].copy()}
        registry = h.registry(h.build(declaration)).replace(both)
        v.same(h.peek(registry.unwrap(), alias), given[canonical], f"native value of {alias!r} given under both names")
        registry = h.registry(h.build(declaration)).with_trainable({alias: False} if canonical != "body/stat" else {})
        if canonical != "body/stat":
            v.equal(registry[canonical].trainable, False, f"trainable of {canonical!r} after the flag of {alias!r}")
            registry = registry.with_trainable({alias: True, canonical: True})
            v.equal(registry[canonical].trainable, True, f"trainable of {canonical!r} after both flags")
    registry = h.registry(h.build(declaration))
    v.holds(sr.check(registry, everything).ok, "check of values under all names is clean")
    registry = sr.load(registry, everything)
    v.same_state(h.peek_all(registry.unwrap(), declaration), everything, "native values after load of all names")
    v.passed()


@check("SR-ALIAS-004")
def equal_nans_of_a_group_are_the_same(h: Subject, v: Verdict) -> None:
    declaration = Declaration((Leaf("z", PARAMETER, np.ones(14, np.float32)), buffer("b")), {"a": "z"})
    given = special("float32")
    registry = h.registry(h.build(declaration)).replace({"a": given, "z": given.copy()})
    v.same(h.peek(registry.unwrap(), "z"), given, "native value after NaNs under both names")
    v.passed()


@check("SR-ALIAS-005")
def different_bits_are_a_conflict(h: Subject, v: Verdict) -> None:
    declaration = tied()
    other = values("another", (3, 3))
    nan, negative = np.full((3, 3), np.nan, np.float32), np.zeros((3, 3), np.float32)
    quiet = nan.view(np.uint32) + 1
    pairs = [(values("one", (3, 3)), other), (nan, quiet.view(np.float32)), (negative, -negative), (other, nan)]
    for alias, canonical in declaration.aliases().items():
        for first, second in pairs:
            for given in ({alias: first, canonical: second}, {canonical: first, alias: second}):
                model = h.build(declaration)
                registry = h.registry(model)
                text = f"replace of {alias!r} and {canonical!r} by different bits"
                error = v.refusal(partial(registry.replace, given), errors.ConflictError, text)
                v.equal(v.report(error).conflict, tuple(sorted((alias, canonical))), f"report.conflict after {text}")
                expected = spread(declaration, declaration.values())
                v.same_state(h.peek_all(model, declaration), expected, f"native values after {text}")
                v.equal(sr.check(registry, given).conflict, v.report(error).conflict, "conflict of check")
                with v.refuses(errors.LoadError, f"load instead of {text}"):
                    sr.load(registry, {**others(declaration), **given})
    v.passed()


@check("SR-ALIAS-005")
def different_flags_are_a_conflict(h: Subject, v: Verdict) -> None:
    declaration = tied()
    registry = h.registry(h.build(declaration))
    for mask in ({"base/weight": True, "head/weight": False}, {"head/weight": True, "base/weight": False}):
        with v.refuses(errors.ConflictError, f"with_trainable({mask})"):
            registry.with_trainable(mask)
        v.lists(registry, declaration.entries(), f"entries after with_trainable({mask}) was refused")
    v.passed()


@check("SR-ALIAS-006")
def ties_survive_every_write(h: Subject, v: Verdict) -> None:
    declaration = tied()
    writes: dict[str, Callable[[sr.StateRegistry], sr.StateRegistry]] = {
        "replace under the canonical keys": lambda r: r.replace(others(declaration)),
        "replace under an alias": lambda r: r.replace({"head/weight": values("x", (3, 3))}),
        "replace under all names": lambda r: r.replace(spread(declaration, others(declaration))),
        "load": lambda r: sr.load(r, others(declaration)),
        "with_trainable": lambda r: r.with_trainable({"head/weight": False, "tip/weight": False}),
    }
    for name, write in writes.items():
        registry = write(h.registry(h.build(declaration)))
        v.equal(dict(registry.aliases), declaration.aliases(), f"aliases after {name}")
        model = registry.unwrap()
        v.equal(dict(h.registry(model).aliases), declaration.aliases(), f"aliases of a new registry after {name}")
        for alias, canonical in declaration.aliases().items():
            for one, two in ((alias, canonical), (canonical, alias)):
                written = values(f"written to {one}", (3, 3))
                model = h.poke(model, one, written)
                v.same(
                    h.peek(model, two), written, f"native value of {two!r} after {name} and a native write to {one!r}"
                )
    v.passed()


@check("SR-ALIAS-007")
def equal_values_are_no_tie(h: Subject, v: Verdict) -> None:
    same = values("same", (3, 3))
    declaration = Declaration(
        (
            Leaf("one", PARAMETER, same), Leaf("two", PARAMETER, same), Leaf("three", BUFFER, same),
            parameter("none/p", (0,)), parameter("none/q", (0,)), buffer("none/b", (0, 3)), buffer("none/c", (0, 3)),
            Leaf("zero", BUFFER, np.zeros((), np.float32)), Leaf("nil", BUFFER, np.zeros((), np.float32)),
        )
    )  # fmt: skip
    registry = h.registry(h.build(declaration))
    v.equal(dict(registry.aliases), {}, "aliases of a model with equal and empty arrays")
    v.finds(registry, declaration.entries(), "entries of a model with equal and empty arrays")
    registry = registry.replace({"one": values("other", (3, 3))})
    v.same(h.peek(registry.unwrap(), "two"), same, "native value of an equal place after the other was replaced")
    # One array given for two places must not tie them either.
    registry = registry.replace({"one": same, "two": same, "three": same})
    v.equal(dict(h.registry(registry.unwrap()).aliases), {}, "aliases after one array was given for three places")
    model = h.poke(registry.unwrap(), "one", values("poked", (3, 3)))
    v.same(h.peek(model, "two"), same, "native value of another place that was given the same array")
    v.passed()


@check("SR-ALIAS-007")
def a_shared_immutable_array_is_no_tie(h: Subject, v: Verdict) -> None:
    specimen = h.specimen("shared_array")
    assert specimen.declaration is not None
    registry = h.registry(specimen.model)
    v.equal(dict(registry.aliases), {}, "aliases of places that hold one immutable array")
    v.finds(registry, specimen.declaration.entries(), "entries of places that hold one immutable array")
    first, second = specimen.keys
    written = values("written", specimen.declaration.leaf(first).value.shape)
    registry = registry.replace({first: written})
    v.same(
        registry.read(second),
        specimen.declaration.leaf(second).value,
        f"read of {second!r} after {first!r} was replaced",
    )
    v.passed()


@check("SR-ALIAS-008")
def overlapping_places_are_refused_or_opaque(h: Subject, v: Verdict) -> None:
    specimen = h.specimen("overlap")
    try:
        registry = h.registry(specimen.model)
        opaque = dict(registry.opaque)
        listed = set(registry) | set(registry.aliases)
    except errors.UnsupportedError as error:
        for key in specimen.keys:
            v.holds(key in str(error), f"the message names {key!r}: {error}")
    else:
        v.holds(set(specimen.keys) & set(opaque), f"one of {specimen.keys} is opaque, found {sorted(opaque)}")
        v.holds(not set(specimen.keys) <= listed, f"not all of {specimen.keys} are entries or aliases")
    v.passed()


@check("SR-ALIAS-009")
def a_group_is_what_its_strongest_member_is(h: Subject, v: Verdict) -> None:
    specimen = h.specimen("mixed_tie")
    assert specimen.declaration is not None
    registry = h.registry(specimen.model)
    v.finds(registry, specimen.declaration.entries(), "entries of a parameter tied to a transient buffer")
    v.equal(dict(registry.aliases), specimen.declaration.aliases(), "aliases of a parameter tied to a transient buffer")
    v.passed()


@check("SR-ALIAS-009")
def a_group_of_parameters_is_one_parameter(h: Subject, v: Verdict) -> None:
    declaration = tied()
    registry = h.registry(h.build(declaration))
    v.finds(registry, declaration.entries(), "entries of a model with ties")
    registry = registry.with_trainable({"tip/weight": False})
    v.equal(registry["body/weight"].trainable, False, "trainable of a group that was frozen under an alias")
    v.passed()
