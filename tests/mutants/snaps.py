"""Mutants of `snapshot`: live memory, other names, or state that is left out without a word."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import numpy as np

from mutants.loading import MIXED
from mutants.support import (
    BUFFER,
    PLAIN,
    TIED,
    accepted,
    bits,
    error_of,
    noise,
    one,
    over,
    shown,
)
from mutants.swapping import Functions, Make
from stateregistry import errors
from stateregistry.registry import StateRegistry
from stateregistry.transfer import snapshot
from stateregistry_conformance.declaration import Declaration, Leaf
from stateregistry_conformance.harness import Harness

FUNCTIONS = Functions()
mutant = FUNCTIONS.mutant


def _snapshot(change: Callable[[dict[str, np.ndarray], StateRegistry], Any]) -> Make:
    """`snapshot` with something else made of its result."""

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        return lambda reg, where=None: change(original(reg, where), reg)

    return make


@mutant(
    "f-snapshot-native-order",
    "SNAP-002",
    snapshot,
    _snapshot(lambda found, reg: {key: found[key] for key in reg.native_order if key in found}),
    story="A `state_dict` is in order of declaration.",
    also=("SNAP-007",),
)
def _(harness: Harness) -> None:
    names = list(snapshot(over(harness, PLAIN)[1]))
    shown(names != sorted(names))


@mutant(
    "f-snapshot-borrows",
    "SNAP-002",
    snapshot,
    _snapshot(lambda found, reg: {key: reg.view(key) for key in found}),
    story="torch's `state_dict` is live memory: the 'best checkpoint so far' follows the training.",
    also=("READ-003",),
)
def _(harness: Harness) -> None:
    model, registry = over(harness, PLAIN)
    found = snapshot(registry)
    harness.poke(model, "enc/b", noise((3,), seed=9))
    shown(bits(found["enc/b"]) != bits(PLAIN.values()["enc/b"]))


@mutant(
    "f-snapshot-is-no-dict",
    "SNAP-002",
    snapshot,
    _snapshot(lambda found, _: MappingProxyType(found)),
    story="A mapping of its own kind, which json, pickle and `|` refuse: torch's is an OrderedDict with attributes.",
)
def _(harness: Harness) -> None:
    shown(type(snapshot(over(harness, PLAIN)[1])) is not dict)


@mutant(
    "f-snapshot-all-names",
    "SNAP-002",
    snapshot,
    _snapshot(
        lambda found, reg: dict(
            sorted({**found, **{a: found[k] for a, k in reg.aliases.items() if k in found}}.items())
        )
    ),
    story="torch's `state_dict` has every name of a tied weight.",
    also=("SNAP-003", "SNAP-007"),
)
def _(harness: Harness) -> None:
    shown(set(snapshot(over(harness, TIED)[1])) != set(TIED.entries()))


@mutant(
    "f-snapshot-unsaved-too",
    "SNAP-002",
    snapshot,
    lambda original: lambda reg, where=None: original(reg, where or (None if reg.opaque else lambda *_: True)),
    story="`intermediates` and caches of Linen are in the variables, and so in every file.",
    also=("LOAD-007", "SNAP-006"),
)
def _(harness: Harness) -> None:
    shown("cache" in snapshot(over(harness, MIXED)[1]))


@mutant(
    "f-snapshot-where-is-narrowed",
    "SNAP-003",
    snapshot,
    _snapshot(lambda found, reg: {key: array for key, array in found.items() if reg[key].persistent}),
    story="A filter runs over what is saved; asking for a cache by name gives nothing.",
)
def _(harness: Harness) -> None:
    shown(not snapshot(over(harness, MIXED)[1], lambda key, _: key == "cache"))


def _any_opaque(original: Callable[..., Any]) -> Callable[..., Any]:
    def changed(reg: Any, where: Any = None) -> Any:
        if reg.opaque:
            raise errors.OpaqueError("state would be left out", keys=tuple(reg.opaque))
        return original(reg, where)

    return changed


@mutant(
    "f-snapshot-opaque-always-refused",
    "SNAP-003",
    snapshot,
    _any_opaque,
    story="The refusal does not look at what was asked for: a model with extra state has no way out.",
)
def _(harness: Harness) -> None:
    registry = harness.registry(harness.specimen("opaque").model)
    shown(not accepted(lambda: snapshot(registry, lambda *_: True)))


_HALF_BUILT = Declaration(
    (
        Leaf("a", BUFFER, noise((2,))),
        Leaf("b", BUFFER, noise((2,)), concrete=False),
        Leaf("c", BUFFER, noise((2,)), concrete=False),
    )
)


def _without_abstract(original: Callable[..., Any]) -> Callable[..., Any]:
    def changed(reg: Any, where: Any = None) -> Any:
        try:
            return original(reg, where)
        except errors.AbstractError as error:
            absent = frozenset(error.keys)
        return original(reg, lambda key, entry: entry.persistent and key not in absent)

    return changed


def _first_abstract(original: Callable[..., Any]) -> Callable[..., Any]:
    def changed(reg: Any, where: Any = None) -> Any:
        try:
            return original(reg, where)
        except errors.AbstractError as error:
            raise errors.AbstractError(error.message, keys=error.keys[:1]) from None

    return changed


@mutant(
    "f-snapshot-abstract-left-out",
    "SNAP-004",
    snapshot,
    _without_abstract,
    story="torch's `state_dict` contains meta tensors without a word; a saver that notices leaves them out.",
)
def _(harness: Harness) -> None:
    shown(accepted(lambda: snapshot(over(harness, _HALF_BUILT)[1])))


@mutant(
    "f-snapshot-first-abstract",
    "SNAP-004",
    snapshot,
    _first_abstract,
    story="The error comes from reading, and reading stops at the first.",
    also=("ERR-003",),
)
def _(harness: Harness) -> None:
    error = error_of(lambda: snapshot(over(harness, _HALF_BUILT)[1]))
    shown(isinstance(error, errors.AbstractError) and error.keys == ("b",))


@mutant(
    "f-snapshot-opaque-left-out",
    "SNAP-005",
    snapshot,
    lambda original: lambda reg, where=None: original(reg, (lambda _, e: e.persistent) if where is None else where),
    story="A checkpoint without torch's `_extra_state` looks complete and is not.",
)
def _(harness: Harness) -> None:
    registry = harness.registry(harness.specimen("opaque").model)
    shown(accepted(lambda: snapshot(registry)))


@mutant(
    "f-snapshot-by-tag",
    "KIND-010",
    snapshot,
    _snapshot(lambda found, reg: {key: array for key, array in found.items() if reg[key].tag not in {"Rng", "rngs"}}),
    story="A tool that leaves out what is tagged as a generator knows the labels of one framework.",
    also=("SNAP-002", "SNAP-003", "SNAP-006", "SNAP-007"),
)
def _(harness: Harness) -> None:
    shown(not snapshot(over(harness, one(np.array([3, 4], np.uint32), kind=BUFFER, rng=True))[1]))


@mutant(
    "f-snapshot-says-who-wrote-it",
    "SNAP-007",
    snapshot,
    _snapshot(lambda found, reg: {**found, "~0adapter": np.frombuffer(reg.adapter.encode(), np.uint8).copy()}),
    story="The name of the framework among the values, as in torch's `_metadata` and Keras' `keras_version`.",
    also=("SNAP-002", "SNAP-003", "SNAP-006", "LOAD-007"),
)
def _(harness: Harness) -> None:
    shown(set(snapshot(over(harness, PLAIN)[1])) != set(PLAIN.entries()))
