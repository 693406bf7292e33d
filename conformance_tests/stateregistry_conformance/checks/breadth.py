"""Checks over everything that the framework can hold at once: what a rule of thumb of an adapter would leave out or mistake.

The other chapters are about one rule each, on plain models; here the same rules are held against every dtype, rank, kind and
flag that the harness claims.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

import stateregistry as sr
from stateregistry import errors
from stateregistry.entry import DTYPES, Kind, numpy_dtype
from stateregistry_conformance.check import check
from stateregistry_conformance.declaration import Declaration
from stateregistry_conformance.samples import others, parameter, shapes, square
from stateregistry_conformance.verdict import NotApplicable, Verdict

if TYPE_CHECKING:
    from stateregistry_conformance.subject import Subject


#: Names that a separator, an identifier, a file, a number, or an attribute of some class would make something else of.
_NAMES = (
    "a.b", "a b", "a-b", "a:b", "a_b_", "_a", "A.B.c", "w:0", "%", "w.", "0.w", " a", "a ", "\ta", "a\nb", "'a'", '"a"', "a\\b",
    "a\0b", "a" * 300, "00", "007", "+1", "-1", "1e3", "1_0", "\u0661", "__a__", "__a", "#", "*", "[0]", "$a", "None", "True",
    "keys", "items", "values", "get", "shape", "dtype", "copy", "training", "forward", "parameters", "modules", "state_dict",
    "class", "self", "name", "params", "batch_stats",
)  # fmt: skip


@check("SR-KEY-005")
def no_collection_is_in_a_key(h: Subject, v: Verdict) -> None:
    declaration = h.rich()
    expected = list(declaration.entries())
    strange = [key for key in h.registry(h.build(declaration)) if key not in expected]
    v.equal(strange, [], "keys of a rich model that were not declared")
    v.passed()


@check("SR-LIST-003")
def whatever_was_registered_is_listed(h: Subject, v: Verdict) -> None:
    declaration = h.rich()
    v.equal(sorted(h.registry(h.build(declaration))), list(declaration.entries()), "keys of a rich model")
    v.passed()


@check("SR-KEY-006")
def names_that_are_nearly_equal_are_two_places(h: Subject, v: Verdict) -> None:
    pairs = (
        ("W", "w"),
        ("a b", "a_b"),
        ("a-b", "a_b"),
        ("a.b", "a_b"),
        ("n1", "n01"),
        ("w", "w_"),
        ("é", "e"),
        ("w ", "w"),
    )
    for first, second in pairs:
        declaration = Declaration((parameter(f"x/{first}"), parameter(f"x/{second}")))
        model = h.can_build(declaration)
        if model is None:
            continue
        try:
            registry = h.registry(model)
            keys = sorted(registry)
        except errors.DuplicateKeyError:
            v.holds(True, "refused")
            continue
        v.equal(len(keys), 2, f"number of places of a model with the names {first!r} and {second!r}")
        found = {registry.read(key).tobytes() for key in keys}
        v.equal(found, {leaf.value.tobytes() for leaf in declaration.leaves}, f"values of {first!r} and {second!r}")
    v.passed()


@check("SR-KEY-004")
def a_name_with_punctuation_is_one_segment(h: Subject, v: Verdict) -> None:
    for name in _NAMES:
        declaration = Declaration((parameter(f"x/{name}"), parameter("plain")))
        model = h.can_build(declaration)
        if model is not None:
            v.equal(
                sorted(h.registry(model)), sorted(["plain", f"x/{name}"]), f"keys of a model with the name {name!r}"
            )
    v.equal(sorted(h.registry(h.build(square()))), ["b", "c", "p", "q"], "keys of a plain model")
    v.passed()


@check("SR-KIND-001")
def kinds_depend_on_nothing_but_the_declaration(h: Subject, v: Verdict) -> None:
    declaration = h.rich()
    registry = h.registry(h.build(declaration))
    expected = {key: entry.kind for key, entry in declaration.entries().items()}
    v.equal({key: entry.kind for key, entry in registry.items()}, expected, "kinds of a rich model")
    registry = registry.replace(others(declaration)).replace({"zero/weight": np.zeros((3, 3), np.float32)})
    v.equal({key: entry.kind for key, entry in registry.items()}, expected, "kinds after replace")
    v.passed()


@check("SR-KIND-003")
def flags_depend_on_kind_and_dtype_only(h: Subject, v: Verdict) -> None:
    declaration = h.rich()
    registry = h.registry(h.build(declaration))
    expected = {key: entry.trainable for key, entry in declaration.entries().items()}
    _frozen_and_thawed(v, registry, expected)
    if "native_trainable" in h.capabilities:
        model = h.poke_trainable(registry.unwrap(), "line", flag=False)
        registry = registry if registry.in_place else h.registry(model)
        expected["line"] = False
        found = {key: entry.trainable for key, entry in registry.items()}
        v.equal(found, expected, "flags after one was frozen natively")
    v.passed()


@check("SR-KIND-005")
def every_parameter_that_can_be_trained_is(h: Subject, v: Verdict) -> None:
    if "native_trainable" in h.capabilities:
        raise NotApplicable("the framework has a flag of its own")
    declaration = h.rich()
    registry = h.registry(h.build(declaration))
    _frozen_and_thawed(v, registry, {key: entry.trainable for key, entry in declaration.entries().items()})
    v.passed()


def _frozen_and_thawed(v: Verdict, registry: sr.StateRegistry, expected: dict[str, bool]) -> None:
    v.equal({key: entry.trainable for key, entry in registry.items()}, expected, "flags of a rich model")
    registry = registry.with_trainable({key: False for key, flag in expected.items() if flag})
    v.equal(
        {key for key, entry in registry.items() if entry.trainable}, set(), "what is trainable after all was frozen"
    )
    registry = registry.with_trainable({key: True for key, flag in expected.items() if flag})
    v.equal({key: entry.trainable for key, entry in registry.items()}, expected, "flags after all was thawed")


@check("SR-KIND-009")
def what_looks_like_a_generator_is_none(h: Subject, v: Verdict) -> None:
    declaration = h.rich()
    registry = h.registry(h.build(declaration))
    expected = {key for key, entry in declaration.entries().items() if entry.rng}
    v.equal({key for key, entry in registry.items() if entry.rng}, expected, "entries with rng=True")
    v.passed()


@check("SR-LIST-002")
def nothing_is_left_out(h: Subject, v: Verdict) -> None:
    for declaration in (h.rich(), shapes()):
        registry = h.registry(h.build(declaration))
        v.equal(len(registry), len(declaration.leaves), "number of entries")
        v.equal(sorted(registry), list(declaration.entries()), "keys")
        size = sum(leaf.value.size for leaf in declaration.leaves)
        v.equal(sum(registry[key].size for key in registry), size, "number of elements")
    v.passed()


@check("SR-LIST-004")
def all_listings_agree(h: Subject, v: Verdict) -> None:
    for declaration in (h.rich(), shapes()):
        registry = h.registry(h.build(declaration))
        expected = declaration.entries()
        v.equal(dict(zip(registry, registry.values(), strict=True)), expected, "keys and values side by side")
        v.equal(dict(registry.items()), expected, "items")
        v.equal({key: registry[key] for key in expected}, expected, "lookups")
        v.equal(len(registry), len(expected), "len")
        v.equal([key for key in expected if key not in registry], [], "declared keys that are not in the registry")
        steps = [key.split("/") for key in expected]
        for container in sorted({"/".join(path[:cut]) for path in steps for cut in range(1, len(path))}):
            v.holds(container not in registry, f"the container {container!r} is not in the registry")
            v.holds(registry.get(container) is None, f"the container {container!r} has no entry")
    v.passed()


@check("SR-LIST-009")
def looking_leaves_everything_alone(h: Subject, v: Verdict) -> None:
    declaration = h.rich()
    model = h.build(declaration)
    registry = h.registry(model)
    mark, bits = h.fingerprint(model), h.peek_all(model, declaration)
    first = {key: (registry.read(key).tobytes(), registry.view(key).tobytes()) for key in registry}
    second = {key: (registry.read(key).tobytes(), registry.view(key).tobytes()) for key in registry}
    v.holds(first == second, "reading twice gives the same bits")
    sr.snapshot(registry)
    sr.check(registry, others(declaration))
    v.equal(h.fingerprint(model), mark, "what the framework says of the model, after looking")
    v.same_state(h.peek_all(model, declaration), bits, "native values after looking")
    for key, value in others(declaration).items():
        model = h.poke(model, key, value)
    v.same_state(h.peek_all(model, declaration), others(declaration), "native values after native writes")
    v.passed()


@check("SR-READ-001")
def shapes_are_those_of_the_whole(h: Subject, v: Verdict) -> None:
    declaration = h.rich()
    registry = h.registry(h.build(declaration))
    v.equal({k: e.shape for k, e in registry.items()}, {k: e.shape for k, e in declaration.entries().items()}, "shapes")
    specimen = h.can_specimen("sharded")
    if not isinstance(specimen, str):
        assert specimen.declaration is not None
        spread = h.registry(specimen.model)
        for key in specimen.keys:
            v.equal(spread[key].shape, specimen.declaration.leaf(key).value.shape, f"shape of the spread value {key!r}")
    v.passed()


@check("SR-READ-002")
def every_value_can_be_read(h: Subject, v: Verdict) -> None:
    declaration = h.rich()
    registry = h.registry(h.build(declaration))
    for key, value in declaration.values().items():
        array = registry.read(key)
        v.same(array, value, f"read of {key!r}")
        flags = array.flags
        good = flags.c_contiguous and flags.writeable and flags.owndata and array.dtype.isnative
        v.holds(
            good, f"read of {key!r} is C-contiguous, native-endian, writable and its own: {array.dtype.str} {flags}"
        )
    v.passed()


@check("SR-READ-006")
def every_value_can_be_viewed(h: Subject, v: Verdict) -> None:
    declaration = h.rich()
    registry = h.registry(h.build(declaration))
    for key, value in declaration.values().items():
        view = registry.view(key)
        v.same(view, value, f"view of {key!r}")
        v.holds(not view.flags.writeable, f"view of {key!r} is read-only")
    v.passed()


@check("SR-READ-004")
def no_number_is_tidied_up(h: Subject, v: Verdict) -> None:
    # One kind of special number at a time: a repair that looks whether there are others would be missed otherwise.
    for dtype in ("float16", "float32", "float64", "bfloat16"):
        width = DTYPES[dtype] * 8
        words = np.dtype(f"u{DTYPES[dtype]}")
        ones = {"float16": 0x7C00, "bfloat16": 0x7F80, "float32": 0x7F800000, "float64": 0x7FF0000000000000}[dtype]
        cases = {
            "negative zero": [1 << (width - 1), 0],
            "subnormals": [1, (1 << (width - 1)) | 3],
            "infinities": [ones, ones | (1 << (width - 1))],
            "quiet NaNs": [ones | (1 << (ones.bit_length() - 1)) | (ones & -ones) >> 1, ones | (ones & -ones) >> 1 | 5],
            "signalling NaNs": [ones | 1, ones | 1 | (1 << (width - 1))],
        }
        for name, patterns in cases.items():
            bits = np.array(patterns, words).view(numpy_dtype(dtype))
            leaves = [dataclasses.replace(parameter(key), value=bits) for key in ("p",)]
            declaration = Declaration(
                (*leaves, dataclasses.replace(parameter("b"), kind=Kind.BUFFER, trainable=False, value=bits))
            )
            model = h.can_build(declaration)
            if model is None:
                continue
            registry = h.registry(model)
            for key in ("p", "b"):
                v.same(registry.read(key), bits, f"read of {name} of {dtype} at {key!r}")
    v.passed()


@check("SR-READ-010")
def what_has_a_value_is_concrete(h: Subject, v: Verdict) -> None:
    for declaration in (h.rich(), shapes()):
        registry = h.registry(h.build(declaration))
        v.equal([key for key, entry in registry.items() if not entry.concrete], [], "keys listed as abstract")
    v.passed()
