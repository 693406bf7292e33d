"""Mutants of `load`: lenient, partial, or doing more than writing values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mutants.loading import MIXED
from mutants.support import (
    F64,
    PLAIN,
    accepted,
    error_of,
    kept,
    noise,
    over,
    shown,
)
from mutants.swapping import Functions, Make
from stateregistry import checking, errors, transfer
from stateregistry.entry import numpy_dtype
from stateregistry.registry import StateRegistry
from stateregistry.transfer import load
from stateregistry_conformance.harness import Harness

FUNCTIONS = Functions()
mutant = FUNCTIONS.mutant


def _load(change: Callable[[Callable[..., Any], Any, Any, Any], Any]) -> Make:
    """`load` with another behaviour: `change(load, target, source, allow)`."""

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def changed(target: Any, source: Any, allow: Any = ()) -> Any:
            return change(original, target, source, allow)

        return changed

    return make


def _fitting(original: Callable[..., Any], target: Any, source: Any, allow: Any) -> Any:
    try:
        return original(target, source, allow)
    except errors.LoadError as error:
        if isinstance(source, dict):
            target.replace({key: value for key, value in source.items() if key not in error.keys})
        raise


@mutant(
    "f-load-writes-what-fits",
    "LOAD-002",
    load,
    _load(_fitting),
    story="torch's `load_state_dict` has written everything else by the time it raises.",
    also=("ATOM-001",),
)
def _(harness: Harness) -> None:
    model, registry = over(harness, PLAIN)
    values = {**PLAIN.values(), "enc/w": noise((2, 3), seed=9), "norm/mean": noise((4,))}
    shown(not accepted(lambda: load(registry, values)) and not kept(harness, model, PLAIN))


@mutant(
    "f-load-unexpected-ignored",
    "LOAD-002",
    load,
    _load(lambda original, target, source, allow: original(target, source, allow={*allow, "unexpected"})),
    story="Linen and Keras ignore what they do not know.",
    also=("LOAD-003", "LOAD-005"),
)
def _(harness: Harness) -> None:
    shown(accepted(lambda: load(over(harness, PLAIN)[1], {**PLAIN.values(), "nope": noise((1,))})))


@mutant(
    "f-load-missing-ignored",
    "LOAD-002",
    load,
    _load(lambda original, target, source, allow: original(target, source, allow={*allow, "missing"})),
    story="NNX ignores what is missing.",
    also=("LOAD-003", "LOAD-004"),
)
def _(harness: Harness) -> None:
    shown(accepted(lambda: load(over(harness, PLAIN)[1], {"enc/b": noise((3,))})))


def _raises_a_mismatch(original: Callable[..., Any], target: Any, source: Any, allow: Any) -> Any:
    try:
        return original(target, source, allow)
    except errors.LoadError as error:
        raise checking.refuse(error.report, "cannot load") from None


@mutant(
    "f-load-raises-another-error",
    "LOAD-002",
    load,
    _load(_raises_a_mismatch),
    story="`load` is `replace` with a check before it, and raises what `replace` raises.",
    also=("ERR-001",),
)
def _(harness: Harness) -> None:
    error = error_of(lambda: load(over(harness, PLAIN)[1], {}))
    shown(isinstance(error, errors.MismatchError) and not isinstance(error, errors.LoadError))


@mutant(
    "f-load-allow-is-one-switch",
    "LOAD-003",
    load,
    _load(lambda original, target, source, allow: original(target, source, transfer.ALLOWABLE if allow else ())),
    story="torch's `strict=False` tolerates both classes at once.",
)
def _(harness: Harness) -> None:
    values = {**PLAIN.values(), "nope": noise((1,))}
    shown(accepted(lambda: load(over(harness, PLAIN)[1], values, allow={"missing"})))


def _skips_shapes(original: Callable[..., Any], target: Any, source: Any, allow: Any) -> Any:
    try:
        return original(target, source, allow)
    except errors.LoadError as error:
        if not allow or not isinstance(source, dict) or {p.problem for p in error.report} != {"shape"}:
            raise
        return original(target, {k: v for k, v in source.items() if k not in error.report.shape}, {*allow, "missing"})


@mutant(
    "f-load-shapes-tolerated",
    "LOAD-003",
    load,
    _load(_skips_shapes),
    story="`ignore_mismatched_sizes` comes with being lenient: a head of another size is left as it was initialised.",
    also=("WRITE-005",),
)
def _(harness: Harness) -> None:
    values = {**PLAIN.values(), "enc/b": noise((4,))}
    shown(accepted(lambda: load(over(harness, PLAIN)[1], values, allow={"unexpected"})))


@mutant(
    "f-load-any-name-allowed",
    "LOAD-003",
    transfer._allowed,
    lambda allowed: lambda allow: frozenset(allow) & transfer.ALLOWABLE,
    story="Options that nobody knows are ignored, as `**kwargs` are: 'mising' is as strict as nothing.",
)
def _(harness: Harness) -> None:
    shown(accepted(lambda: load(over(harness, PLAIN)[1], PLAIN.values(), allow={"dtype"})))


def _zeroes_missing(original: Callable[..., Any], target: Any, source: Any, allow: Any) -> Any:
    after = original(target, source, allow)
    if not isinstance(source, dict):
        return after
    given = {after.aliases.get(key, key) for key in source}
    absent = {key: entry for key, entry in after.items() if entry.persistent and key not in given}
    return after.replace({key: np.zeros(entry.shape, numpy_dtype(entry.dtype)) for key, entry in absent.items()})


@mutant(
    "f-load-missing-zeroed",
    "LOAD-003",
    load,
    _load(_zeroes_missing),
    story="maxtext's restore filled missing NNX weights with zeros.",
)
def _(harness: Harness) -> None:
    after = load(over(harness, PLAIN)[1], {"enc/b": noise((3,))}, allow={"missing"})
    shown(not after.read("enc/w").any())


def _casts(original: Callable[..., Any], target: Any, source: Any, allow: Any) -> Any:
    if not isinstance(source, dict):
        return original(target, source, allow)
    fitting = {}
    for key, value in source.items():
        entry = target.get(target.aliases.get(key, key))
        numbers = entry is not None and isinstance(value, np.ndarray) and value.dtype.kind == "f"
        with np.errstate(all="ignore"):
            fitting[key] = value.astype(numpy_dtype(entry.dtype)) if numbers and "float" in entry.dtype else value
    return original(target, fitting, allow)


@mutant(
    "f-load-casts",
    "WRITE-006",
    load,
    _load(_casts),
    story="In torch, Keras and Orbax a cast is a side effect of loading.",
    also=("DTYPE-011", "LOAD-002"),
)
def _(harness: Harness) -> None:
    shown(accepted(lambda: load(over(harness, PLAIN)[1], {**PLAIN.values(), "enc/b": noise((3,), F64)})))


def _gives_everything(original: Callable[..., Any], target: Any, source: Any, allow: Any) -> Any:
    if isinstance(source, StateRegistry):
        source = {key: source.read(key) for key in source}
    return original(target, source, allow)


@mutant(
    "f-load-registries-give-everything",
    "LOAD-007",
    load,
    _load(_gives_everything),
    story="A registry is read like a mapping: what is not saved is given too, and is unexpected.",
)
def _(harness: Harness) -> None:
    source, target = over(harness, MIXED)[1], over(harness, MIXED)[1]
    shown(not accepted(lambda: load(target, source)))


def _takes_flags(original: Callable[..., Any], target: Any, source: Any, allow: Any) -> Any:
    after = original(target, source, allow)
    if not isinstance(source, StateRegistry):
        return after
    return after.with_trainable(
        {key: e.trainable for key, e in source.items() if key in after and after[key].can_train}
    )


@mutant(
    "f-load-takes-flags",
    "WRITE-008",
    load,
    _load(_takes_flags),
    story="Loading from a frozen teacher freezes the student: torch's `assign=True` takes requires_grad along.",
    also=("LOAD-007", "SNAP-006"),
)
def _(harness: Harness) -> None:
    source, target = over(harness, PLAIN)[1].with_trainable({"enc/w": False}), over(harness, PLAIN)[1]
    shown(not load(target, source)["enc/w"].trainable)


def _loads_by_position(original: Callable[..., Any], target: Any, source: Any, allow: Any) -> Any:
    try:
        return original(target, source, allow)
    except errors.LoadError:
        order = target.native_order
        if not isinstance(source, dict) or len(source) != len(order) or set(source) & set(order):
            raise
        return original(target, dict(zip(order, source.values(), strict=True)), allow)


@mutant(
    "f-load-by-position",
    "LOAD-002",
    load,
    _load(_loads_by_position),
    story="Keras' `set_weights` and Equinox' deserialisation go by position; names that do not fit do not matter.",
    also=("WRITE-007", "LOAD-001", "LOAD-004"),
)
def _(harness: Harness) -> None:
    registry = over(harness, PLAIN)[1]
    values = [PLAIN.values()[key] for key in registry.native_order]
    shown(accepted(lambda: load(registry, dict(zip("abc", values, strict=True)))))
