"""Checks of chapter 7, reading."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from stateregistry import errors
from stateregistry_conformance.check import check
from stateregistry_conformance.declaration import Declaration, Leaf
from stateregistry_conformance.samples import (
    BUFFER,
    PARAMETER,
    abstract,
    core,
    large,
    others,
    scribble,
    shapes,
    tied,
    values,
)

if TYPE_CHECKING:
    from stateregistry_conformance.subject import Subject
    from stateregistry_conformance.verdict import Verdict


def special(dtype: str) -> np.ndarray:
    """Bit patterns that a detour over arithmetic spoils: NaN payloads, signed zeros, subnormals, infinities."""
    if dtype == "float16":
        words = [0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x0400, 0x7BFF, 0x7C00, 0xFC00, 0x7C01, 0xFC01, 0x7E00, 0x7FFF]
        return np.array(words, np.uint16).view(np.float16)
    words = [0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x007FFFFF, 0x00800000, 0x7F7FFFFF, 0x7F800000]
    words += [0xFF800000, 0x7F800001, 0xFF800001, 0x7FC00000, 0x7FC12345, 0xFFFFFFFF]
    return np.array(words, np.uint32).view(np.float32)


def specials() -> Declaration:
    """A parameter and a buffer of each core dtype with such bits."""
    return Declaration(
        (
            Leaf("p32", PARAMETER, special("float32")),
            Leaf("b32", BUFFER, special("float32")),
            Leaf("p16", PARAMETER, special("float16")),
            Leaf("b16", BUFFER, special("float16")),
        )
    )


@check("SR-READ-001")
def a_shape_is_the_exact_tuple(h: Subject, v: Verdict) -> None:
    declaration = shapes()
    registry = h.registry(h.build(declaration))
    for leaf in declaration.leaves:
        shape = registry[leaf.key].shape
        v.holds(type(shape) is tuple, f"the shape of {leaf.key!r} is a tuple, found {shape!r}")
        v.holds(all(type(size) is int for size in shape), f"the shape of {leaf.key!r} is of int, found {shape!r}")
        v.equal(shape, leaf.value.shape, f"shape of {leaf.key!r}")
    v.passed()


@check("SR-READ-002")
def read_gives_an_array_of_the_callers_own(h: Subject, v: Verdict) -> None:
    for declaration in (core(), shapes(), large()):
        registry = h.registry(h.build(declaration))
        for key, entry in declaration.entries().items():
            array = registry.read(key)
            v.holds(type(array) is np.ndarray, f"read of {key!r} is an ndarray, found {type(array).__name__}")
            v.equal((array.shape, array.dtype.name), (entry.shape, entry.dtype), f"shape and dtype of {key!r}")
            v.holds(array.flags.c_contiguous, f"read of {key!r} is C-contiguous")
            v.holds(array.dtype.isnative, f"read of {key!r} is native-endian, found {array.dtype.str}")
            v.holds(array.flags.writeable, f"read of {key!r} is writable")
            v.holds(array.flags.owndata, f"read of {key!r} owns its memory")
            v.same(array, declaration.values()[key], f"read of {key!r}")
    v.passed()


@check("SR-READ-003")
def editing_what_was_read_does_not_reach_the_model(h: Subject, v: Verdict) -> None:
    for declaration in (core(), large()):
        model = h.build(declaration)
        registry = h.registry(model)
        for key in declaration.entries():
            scribble(registry.read(key))
        v.same_state(h.peek_all(model, declaration), declaration.values(), "native values after every read was spoilt")
        for key, value in declaration.values().items():
            v.same(registry.read(key), value, f"read of {key!r} after an earlier one was spoilt")
    v.passed()


@check("SR-READ-003")
def a_later_write_does_not_reach_what_was_read(h: Subject, v: Verdict) -> None:
    for declaration in (core(), large()):
        model = h.build(declaration)
        registry = h.registry(model)
        taken = {key: registry.read(key) for key in declaration.entries()}
        for key, value in others(declaration).items():
            model = h.poke(model, key, value)
        v.same_state(taken, declaration.values(), "what was read, after native writes")
        registry = registry if registry.in_place else h.registry(model)
        registry.replace(others(declaration, "more"))
        v.same_state(taken, declaration.values(), "what was read, after replace")
    v.passed()


@check("SR-READ-004")
def read_gives_the_bits_of_the_model(h: Subject, v: Verdict) -> None:
    for declaration in (core(), specials()):
        model = h.build(declaration)
        registry = h.registry(model)
        for key, value in declaration.values().items():
            v.same(registry.read(key), value, f"read of {key!r}")
    model = h.build(declaration := specials())
    for key, value in declaration.values().items():
        model = h.poke(model, key, np.ascontiguousarray(value[::-1]))
        v.same(h.registry(model).read(key), value[::-1], f"read of {key!r} after a native write")
    v.passed()


@check("SR-READ-005")
def a_spread_value_is_read_whole(h: Subject, v: Verdict) -> None:
    specimen = h.specimen("sharded")
    assert specimen.declaration is not None
    registry = h.registry(specimen.model)
    v.lists(registry, specimen.declaration.entries(), "entries: shapes are global")
    for key in specimen.keys:
        try:
            found = registry.read(key)
        except errors.UnsupportedError:
            v.holds(True, "a value that is not addressable is refused")
        else:
            v.same(found, specimen.declaration.leaf(key).value, f"read of {key!r}")
    v.passed()


@check("SR-READ-006")
def a_view_has_the_same_bits_and_is_read_only(h: Subject, v: Verdict) -> None:
    for declaration in (core(), specials(), large()):
        model = h.build(declaration)
        registry = h.registry(model)
        for key, value in declaration.values().items():
            view = registry.view(key)
            v.same(view, value, f"view of {key!r}")
            with v.refuses(ValueError, f"assigning to the view of {key!r}"):
                view[...] = 0
        v.same_state(h.peek_all(model, declaration), declaration.values(), "native values after assignments to views")
    if "ties" in h.capabilities:
        declaration = tied()
        registry = h.registry(h.build(declaration))
        for alias in declaration.aliases():
            v.holds(not registry.view(alias).flags.writeable, f"the view of the alias {alias!r} is read-only")
    v.passed()


@check("SR-READ-009")
def an_alias_can_be_read(h: Subject, v: Verdict) -> None:
    declaration = tied()
    registry = h.registry(h.build(declaration))
    expected = declaration.values()
    for alias, canonical in declaration.aliases().items():
        v.same(registry.read(alias), expected[canonical], f"read of the alias {alias!r} of {canonical!r}")
        v.same(registry.view(alias), expected[canonical], f"view of the alias {alias!r} of {canonical!r}")
        scribble(registry.read(alias))
        v.same(
            registry.read(canonical), expected[canonical], f"read of {canonical!r} after that of {alias!r} was spoilt"
        )
    written = others(declaration)
    registry = registry.replace(written)
    for alias, canonical in declaration.aliases().items():
        v.same(registry.read(alias), written[canonical], f"read of the alias {alias!r} after replace")
        v.same(registry.view(alias), written[canonical], f"view of the alias {alias!r} after replace")
    v.passed()


@check("SR-READ-010")
def a_place_without_value_is_listed_as_abstract(h: Subject, v: Verdict) -> None:
    declaration = abstract()
    registry = h.registry(h.build(declaration))
    v.lists(registry, declaration.entries(), "entries of a model with abstract places")
    concrete = {key: entry.concrete for key, entry in h.registry(h.build(core())).items()}
    v.equal(concrete, dict.fromkeys(core().entries(), True), "concrete of a model with values")
    v.passed()


@check("SR-READ-010")
def a_place_without_shape_is_refused(h: Subject, v: Verdict) -> None:
    specimen = h.specimen("unknown_shape")
    with v.refuses(errors.AbstractError, "a model with a place that has no shape") as refusal:
        list(h.registry(specimen.model))
    for key in specimen.keys:
        v.holds(key in str(refusal.error), f"the message names {key!r}: {refusal.error}")
    v.passed()


@check("SR-READ-011")
def reading_what_has_no_value_is_refused(h: Subject, v: Verdict) -> None:
    declaration = abstract()
    registry = h.registry(h.build(declaration))
    for leaf in declaration.leaves:
        if leaf.concrete:
            v.same(registry.read(leaf.key), leaf.value, f"read of {leaf.key!r}")
            continue
        for name, look in (("read", registry.read), ("view", registry.view)):
            error = v.refusal(partial(look, leaf.key), errors.AbstractError, f"{name} of {leaf.key!r}")
            v.holds(leaf.key in str(error), f"the message names {leaf.key!r}: {error}")
    v.passed()


def fresh(declaration: Declaration) -> dict[str, np.ndarray]:
    """Other values of the same shapes and dtypes, special bits included."""
    found = {}
    for key, entry in declaration.entries().items():
        found[key] = values(f"fresh {key}", entry.shape, entry.dtype)
        if entry.dtype in {"float16", "float32"} and found[key].size >= 4:
            found[key].reshape(-1)[:4] = special(entry.dtype)[[1, 2, 9, 12]]
    return found
