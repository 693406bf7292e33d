"""Checks of chapter 4, keys."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

from stateregistry import errors
from stateregistry import keys as sr_keys
from stateregistry_conformance.check import check
from stateregistry_conformance.declaration import Declaration
from stateregistry_conformance.samples import buffer, core, parameter, tied

if TYPE_CHECKING:
    from stateregistry_conformance.subject import Subject
    from stateregistry_conformance.verdict import Verdict

#: Segments that some separator, escape or normalisation would spoil.
_ODD = ("a/b", "a~b", "~", "~0", "~1", "~01", "a.b", " ", "a b", "/", "é", "층", "\U0001f600", "%2F", "-", "0x")


@check("SR-KEY-001")
def joining_and_splitting_are_inverse(h: Subject, v: Verdict) -> None:
    for one in _ODD:
        for path in ((one,), ("x", one), (one, "x"), (one, one)):
            v.equal(sr_keys.split(sr_keys.join(*path)), path, f"split(join(*{path!r}))")
    v.equal(sr_keys.join("a/b", "c~d"), "a~1b/c~0d", "join('a/b', 'c~d')")
    for declaration in (core(), tied() if "ties" in h.capabilities else core()):
        registry = h.registry(h.build(declaration))
        for key in [*registry, *registry.aliases]:
            v.holds(type(key) is str and key, f"a key is a non-empty str, found {key!r}")
            v.equal(sr_keys.join(*sr_keys.split(key)), key, "join(*split(key))")
    v.passed()


@check("SR-KEY-001")
def a_name_with_a_separator_is_escaped(h: Subject, v: Verdict) -> None:
    built = 0
    for one in _ODD:
        declaration = Declaration((parameter(sr_keys.join("x", one)), buffer(sr_keys.join("x", "plain"))))
        model = h.can_build(declaration)
        if model is not None:
            built += 1
            v.equal(sorted(h.registry(model)), list(declaration.entries()), f"keys of a model with the name {one!r}")
            value = declaration.leaves[0].value
            v.same(h.registry(model).read(declaration.leaves[0].key), value, f"value under the name {one!r}")
    if built:
        v.passed()
    else:
        v.not_applicable("SR-KEY-001", "the framework refuses every odd name")


@check("SR-KEY-002")
def an_empty_segment_is_refused(h: Subject, v: Verdict) -> None:
    for text in ("", "/", "a//b", "/a", "a/"):
        with v.refuses(errors.KeyPathError, f"split({text!r})"):
            sr_keys.split(text)
    for path in ((), ("",), ("a", ""), ("", "a")):
        with v.refuses(errors.KeyPathError, f"join(*{path!r})"):
            sr_keys.join(*path)
    specimen = h.can_specimen("empty_name")
    if not isinstance(specimen, str):
        with v.refuses(errors.KeyPathError, "a model with an empty name"):
            list(h.registry(specimen.model))
    v.passed()


@check("SR-KEY-003")
def steps_of_lists_are_decimals(h: Subject, v: Verdict) -> None:
    leaves = [parameter(f"layers/{number}/w", (2,)) for number in range(11)]
    declaration = Declaration((*leaves, buffer("layers/0/b", (2,))))
    registry = h.registry(h.build(declaration))
    v.equal(sorted(registry), list(declaration.entries()), "keys of a list of 11 layers")
    for leaf in leaves:
        v.same(registry.read(leaf.key), leaf.value, f"value of {leaf.key!r}")
    v.passed()


@check("SR-KEY-004")
def names_are_taken_unchanged(h: Subject, v: Verdict) -> None:
    composed, decomposed = unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é")
    for pair in (("Weight", "weight"), (composed, decomposed), ("ß", "ss"), ("K", "\u212a")):
        declaration = Declaration((parameter(f"a/{pair[0]}"), parameter(f"a/{pair[1]}")))
        model = h.can_build(declaration)
        if model is not None:
            registry = h.registry(model)
            v.equal(sorted(registry), sorted(declaration.entries()), f"keys of a model with the names {pair!r}")
            for leaf in declaration.leaves:
                v.same(registry.read(leaf.key), leaf.value, f"value of {leaf.key!r}")
    for prefix in ("module", "_orig_mod", "params", "model", "net"):
        declaration = Declaration((parameter(f"{prefix}/w"), buffer(f"{prefix}/inner/b")))
        model = h.can_build(declaration)
        if model is not None:
            v.equal(sorted(h.registry(model)), list(declaration.entries()), f"keys below the name {prefix!r}")
    specimen = h.can_specimen("wrapped")
    if not isinstance(specimen, str):
        assert specimen.declaration is not None
        v.equal(sorted(h.registry(specimen.model)), list(specimen.declaration.entries()), "keys of a wrapped model")
    v.passed()


@check("SR-KEY-005")
def all_kinds_share_one_namespace(h: Subject, v: Verdict) -> None:
    declaration = Declaration(
        (parameter("bn/scale", (4,)), parameter("bn/bias", (4,)), buffer("bn/mean", (4,)), buffer("bn/var", (4,)))
    )
    registry = h.registry(h.build(declaration))
    v.equal(sorted(registry), ["bn/bias", "bn/mean", "bn/scale", "bn/var"], "keys of a normalisation layer")
    v.passed()


@check("SR-KEY-006")
def two_places_with_one_key_are_refused(h: Subject, v: Verdict) -> None:
    specimen = h.specimen("duplicate_key")
    with v.refuses(errors.DuplicateKeyError, f"a model with two places at {specimen.keys}") as refusal:
        list(h.registry(specimen.model))
    for key in specimen.keys:
        v.holds(key in str(refusal.error), f"the message names {key!r}: {refusal.error}")
    v.passed()


@check("SR-KEY-007")
def a_key_that_is_a_prefix_of_another_is_refused(h: Subject, v: Verdict) -> None:
    specimen = h.specimen("prefix")
    with v.refuses(errors.DuplicateKeyError, f"a model with an array and a container at {specimen.keys}"):
        list(h.registry(specimen.model))
    v.passed()


@check("SR-KEY-007")
def the_keys_of_a_model_form_a_tree(h: Subject, v: Verdict) -> None:
    # `a` and `ab` are no prefixes of one another segment by segment, and must not be refused.
    near = Declaration((parameter("a"), parameter("ab"), buffer("a2/a"), buffer("a2/ab")))
    for declaration in (core(), near, tied() if "ties" in h.capabilities else near):
        registry = h.registry(h.build(declaration))
        everything = dict.fromkeys([*registry, *registry.aliases])
        v.equal(sorted(sr_keys.flatten(_nested(everything))), sorted(everything), "keys that were nested and flattened")
        if declaration is near:
            v.equal(sorted(registry), list(near.entries()), "keys that are near to being prefixes of one another")
    v.passed()


def _nested(flat: dict[str, None]) -> dict[str, object]:
    tree: dict[str, object] = {}
    for key in flat:
        *parents, last = key.split("/")
        node = tree
        for parent in parents:
            found = node.setdefault(parent, {})
            if not isinstance(found, dict):  # an array stands where a container is needed: the comparison shows it
                break
            node = found
        else:
            node.setdefault(last, None)
    return tree
