"""Smoke: what a harness has to be before anything is said about its adapter. Whatever is wrong here is the harness's fault.

Side doors are held against the declaration and against one another, never against a registry: fresh models, exact bits,
writes that are seen, ties that are ties, cells with an identity. The two checks that need the registry (`LENIENT`) do not end
a run: an adapter can be at fault in their place, and the directed checks say so. Imports NumPy and the core.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import CodeType, FrameType, FunctionType, MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import numpy as np

import stateregistry as sr
from stateregistry import plugins
from stateregistry.entry import DTYPES
from stateregistry.errors import StateError
from stateregistry.registry import StateRegistry
from stateregistry_conformance.capabilities import CAPABILITIES
from stateregistry_conformance.check import Check
from stateregistry_conformance.declaration import Declaration
from stateregistry_conformance.harness import (
    SPECIMENS,
    Harness,
    Specimen,
    SupportsDescription,
    SupportsFault,
    SupportsFingerprint,
    SupportsRestructure,
    SupportsSpecimens,
    SupportsTrainable,
)
from stateregistry_conformance.samples import core, parameter, tied, typed, values
from stateregistry_conformance.verdict import HarnessError, NotApplicable

if TYPE_CHECKING:
    from stateregistry_conformance.subject import Subject
    from stateregistry_conformance.verdict import Verdict

_SMOKE: dict[str, Check] = {}

#: Every smoke check by name, in the order in which they run.
SMOKE: Final[Mapping[str, Check]] = MappingProxyType(_SMOKE)
#: Checks in which the adapter takes part: a run goes on after them.
LENIENT: Final = frozenset({"smoke.a_fault_makes_the_native_write_fail", "smoke.the_registry_is_over_the_model"})


def _smoke(body: Callable[[Subject, Verdict], None]) -> Callable[[Subject, Verdict], None]:
    name = f"smoke.{body.__name__}"
    _SMOKE[name] = Check(name, ("",), body, "smoke")
    return body


def _require(v: Verdict, condition: object, claim: str) -> None:
    if not condition:
        raise HarnessError(claim)
    v.holds(True, claim)


def members(harness: object) -> None:
    """Refuse what is no harness at all.

    Raises:
        HarnessError: with the members that are missing.
    """
    if not isinstance(harness, Harness):
        names = ("name", "adapter_version", "capabilities", "build", "registry", "peek", "poke", "cell")
        missing = [name for name in names if not hasattr(harness, name)]
        raise HarnessError(f"{type(harness).__name__!r} is not a harness: it has no {', '.join(missing)}")


def _agree(h: Subject, v: Verdict, model: Any, declaration: Declaration, when: str) -> None:
    for key in [*(leaf.key for leaf in declaration.leaves), *declaration.ties]:
        leaf = declaration.leaf(key)
        if not leaf.concrete:
            continue
        found, expected = h.peek(model, key), leaf.value
        same = (found.shape, found.dtype) == (expected.shape, expected.dtype) and found.tobytes() == expected.tobytes()
        _require(v, same, f"peek({key!r}) {when} is not what was declared")


# ------------------------------------------------------------------------------------------------------------ what it is


@_smoke
def it_says_who_it_is(h: Subject, v: Verdict) -> None:
    harness = h.harness
    for member in ("name", "adapter_version"):
        found: Any = getattr(harness, member)
        _require(v, isinstance(found, str) and found.strip() == found != "", f"{member} is a text, found {found!r}")
        _require(v, found.isprintable(), f"{member} is printable, found {found!r}")
        again = [getattr(harness, member) for _ in range(2)]
        _require(v, again == [found, found], f"{member} is the same whenever it is asked for: {found!r}, then {again}")
    claims: Any = harness.capabilities
    listed = isinstance(claims, (set, frozenset, tuple, list)) and all(isinstance(name, str) for name in claims)
    _require(v, listed, f"capabilities is a set of names, found a {type(claims).__name__}")
    unknown = sorted(set(claims) - CAPABILITIES.keys())
    told = f"unknown capabilities: {', '.join(unknown)}; known: {', '.join(CAPABILITIES)}"
    _require(v, not unknown, told)
    for _ in range(2):
        same = set(harness.capabilities) == set(claims) == h.capabilities
        _require(v, same, "capabilities change from one question to the next")
    v.passed()


# ----------------------------------------------------------------------------------------------------- models and values


@_smoke
def it_builds_fresh_models_of_what_is_declared(h: Subject, v: Verdict) -> None:
    declaration = core()
    first, second = h.can_build(declaration), h.can_build(declaration)
    built = first is not None and second is not None
    _require(v, built, "the harness cannot build the core declaration, which needs no capability")
    _agree(h, v, first, declaration, "after build")
    for leaf in declaration.leaves:
        first = h.poke(first, leaf.key, np.zeros_like(leaf.value))
    _agree(h, v, second, declaration, "of a second model, after writes to the first,")
    _agree(h, v, h.build(declaration), declaration, "of a third model, after writes to the first,")
    v.passed()


@_smoke
def peek_sees_what_poke_wrote(h: Subject, v: Verdict) -> None:
    declaration = core()
    model = h.build(declaration)
    for leaf in declaration.leaves:
        written = values(f"smoke {leaf.key}", leaf.value.shape, leaf.value.dtype.name)
        given = written.copy()
        model = h.poke(model, leaf.key, given)
        _require(
            v,
            h.peek(model, leaf.key).tobytes() == written.tobytes(),
            f"peek({leaf.key!r}) does not see what poke wrote",
        )
        given[...] = 7
        _require(
            v,
            h.peek(model, leaf.key).tobytes() == written.tobytes(),
            f"poke({leaf.key!r}) keeps the array it was given",
        )
        h.peek(model, leaf.key)[...] = 7
        kept = h.peek(model, leaf.key).tobytes() == written.tobytes()
        _require(
            v, kept, f"peek({leaf.key!r}) lends the memory of the model: a write to what peek gave changes the model"
        )
        seen = h.peek(model, leaf.key)
        model = h.poke(model, leaf.key, leaf.value)
        _require(v, seen.tobytes() == written.tobytes(), f"what peek({leaf.key!r}) gave changes with the model")
    _agree(h, v, model, declaration, "after every place was written and written back")
    v.passed()


@_smoke
def a_cell_is_one_object(h: Subject, v: Verdict) -> None:
    declaration = core()
    model = h.build(declaration)
    cells = h.cells(model, declaration)
    for key, cell in cells.items():
        _require(v, h.cell(model, key) is cell, f"cell({key!r}) is another object at each call")
    distinct = len({id(cell) for cell in cells.values()}) == len(cells)
    _require(v, distinct, "cell gives one object for different places")
    v.passed()


@_smoke
def a_claimed_dtype_is_built_bit_for_bit(h: Subject, v: Verdict) -> None:
    built: dict[str, bool] = {}
    for dtype in DTYPES:
        declaration = typed(dtype)
        if not declaration.needs() <= h.capabilities:
            continue
        model = h.can_build(declaration)
        if model is not None:
            _agree(h, v, model, declaration, f"of a buffer of {dtype}")
        for capability in declaration.needs():
            built[capability] = built.get(capability, False) or model is not None
    v.holds(True, "float16 and float32 need no capability")
    v.passed()


@_smoke
def claimed_ties_are_ties(h: Subject, v: Verdict) -> None:
    if "ties" not in h.capabilities:
        raise NotApplicable("the harness does not claim ties")
    declaration = tied()
    model = h.can_build(declaration)
    if model is None:
        raise NotApplicable("whether a claim is kept is a check of its own")
    _agree(h, v, model, declaration, "of a model with ties")
    names = [*(leaf.key for leaf in declaration.leaves), *declaration.ties]
    for name in names:
        written = values(f"smoke {name}", (3, 3))
        model = h.poke(model, name, written)
        for other in names:
            same = h.peek(model, other).tobytes() == written.tobytes()
            one = declaration.canonical(name) == declaration.canonical(other)
            claim = f"the harness claims ties: what poke writes at {name!r} is {'not ' if one else ''}seen at {other!r}"
            _require(v, same is one, claim)
    v.passed()


# ------------------------------------------------------------------------------------------------------- optional probes


@_smoke
def a_native_flag_is_kept(h: Subject, v: Verdict) -> None:
    if "native_trainable" not in h.capabilities or not isinstance(h.harness, SupportsTrainable):
        raise NotApplicable("the harness does not claim native_trainable, or has no probe for it")
    model = h.build(core())
    for flag in (False, True, False):
        model = h.poke_trainable(model, "scale", flag=flag)
        _require(v, h.peek_trainable(model, "scale") is flag, "peek_trainable does not see what poke_trainable set")
        _require(v, h.peek_trainable(model, "encoder/weight") is True, "poke_trainable sets more flags than one")
    v.passed()


@_smoke
def a_training_step_changes_what_is_trained(h: Subject, v: Verdict) -> None:
    if not h.trains:
        raise NotApplicable("the harness has no train_step")
    declaration = core()
    model = h.train_step(h.build(declaration))
    for leaf in declaration.leaves:
        changed = h.peek(model, leaf.key).tobytes() != leaf.value.tobytes()
        what = f"train_step {'leaves' if leaf.trainable else 'changes'} {leaf.key!r}, a {leaf.kind.value}"
        _require(v, changed is leaf.trainable, what)
    v.passed()


@_smoke
def what_is_added_is_there_and_what_is_dropped_is_gone(h: Subject, v: Verdict) -> None:
    if not isinstance(h.harness, SupportsRestructure):
        raise NotApplicable("the harness has no add and drop")
    declaration = core()
    model = h.build(declaration)
    leaf = parameter("encoder/late", (2, 3))
    changed = h.add(model, leaf)
    _require(v, changed is model, "add returns another model")
    _agree(h, v, model, Declaration((*declaration.leaves, leaf)), "after a place was added")
    changed = h.drop(model, leaf.key)
    _require(v, changed is model, "drop returns another model")
    try:
        h.peek(model, leaf.key)
    except HarnessError:
        _agree(h, v, model, declaration, "after a place was dropped")
    else:
        raise HarnessError(f"peek({leaf.key!r}) still gives a value after drop")
    v.passed()


@_smoke
def a_description_tells_places_apart(h: Subject, v: Verdict) -> None:
    if not isinstance(h.harness, SupportsDescription):
        raise NotApplicable("the harness has no describe")
    declaration = core()
    model = h.build(declaration)
    told = {leaf.key: _described(h, model, leaf.key) for leaf in declaration.leaves}
    for key, text in told.items():
        _require(v, bool(_described(h, model, key) == text), f"describe({key!r}) is another at each call")
    first, other = "encoder/bias", "encoder/norm/var"  # they differ in kind and dtype
    _require(v, told[first] != told[other], f"describe is the same for {first!r} and {other!r}: it says nothing")
    v.passed()


def _described(h: Subject, model: Any, key: str) -> object:
    found: Any = h.describe(model, key)
    return found[1]  # without the type of the cell, which the suite puts before it


@_smoke
def a_fingerprint_sees_a_native_write(h: Subject, v: Verdict) -> None:
    if not isinstance(h.harness, SupportsFingerprint):
        raise NotApplicable("the harness has no fingerprint")
    model = h.build(core())
    before = h.fingerprint(model)
    _require(v, bool(h.fingerprint(model) == before), "fingerprint is another at each call")
    model = h.poke(model, "scale", values("smoke fingerprint", (5,)))
    _require(v, h.fingerprint(model) != before, "fingerprint does not see a native write: it says nothing")
    v.passed()


@_smoke
def a_specimen_holds_what_it_declares(h: Subject, v: Verdict) -> None:
    if not isinstance(h.harness, SupportsSpecimens):
        raise NotApplicable("the harness has no specimens")
    for name in SPECIMENS:
        found, again = h.can_specimen(name), h.can_specimen(name)
        _require(v, type(found) is type(again), f"specimen({name!r}) can be built once and not twice")
        if isinstance(found, str) or isinstance(again, str):
            v.holds(True, "the framework has no such thing")
            continue
        _require(v, isinstance(found, Specimen), f"specimen({name!r}) is no Specimen")
        _require(v, found.model is not again.model, f"specimen({name!r}) gives one model twice")
        if found.declaration is not None:
            _agree(h, v, found.model, found.declaration, f"of the specimen {name!r}")
    v.passed()


# ---------------------------------------------------------------------------------------------- with the adapter's doing


@_smoke
def side_doors_do_not_go_through_the_adapter(h: Subject, v: Verdict) -> None:
    declaration = core()
    codes = _codes_of(h, h.build(declaration))
    model = h.build(declaration)  # one that no registry has had: what it did to that one is not the harness's fault
    key = "encoder/weight"
    doors: dict[str, Callable[[], object]] = {
        "build": lambda: h.build(declaration),
        "peek": lambda: h.peek(model, key),
        "cell": lambda: h.cell(model, key),
        "poke": lambda: h.poke(model, key, values("smoke doors", (4, 4))),
    }
    for name, call in doors.items():
        met = _called(call, codes)
        _require(v, met is None, f"{name} of the harness goes through the adapter: it calls {met}")
    v.passed()


def _codes_of(h: Subject, model: Any) -> dict[CodeType, str]:
    """The code of every method of the registry under test, and of the ways to get one."""
    ways: list[object] = [sr.of, plugins.of]
    found = {way.__code__: "stateregistry.of" for way in ways if isinstance(way, FunctionType)}
    classes: list[type] = [StateRegistry]
    try:
        classes += type(h.registry(model)).__mro__
    except Exception:  # noqa: BLE001  # an adapter that raises here is decided by the directed checks
        classes = [StateRegistry]
    for cls in classes:
        if not issubclass(cls, StateRegistry):
            continue  # the mixins of Python's own Mapping serve everybody
        for name, member in vars(cls).items():
            function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
            if isinstance(function, FunctionType):
                found[function.__code__] = f"{cls.__name__}.{name}"
    return found


def _called(call: Callable[[], object], codes: Mapping[CodeType, str]) -> str | None:
    met: list[str] = []

    def watch(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call" and frame.f_code in codes:
            met.append(codes[frame.f_code])

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        call()
    finally:
        sys.setprofile(before)
    return met[0] if met else None


@_smoke
def a_fault_makes_the_native_write_fail(h: Subject, v: Verdict) -> None:
    if "fault" not in h.capabilities or not isinstance(h.harness, SupportsFault):
        raise NotApplicable("the harness does not claim fault, or has no probe for it")
    declaration, key = core(), "encoder/bias"
    model = h.fault(h.build(declaration), key)
    before = h.cell(model, key)
    _agree(h, v, model, declaration, "of a model with a fault")
    try:
        h.registry(model).replace({key: values("smoke fault", (4,))})
    except Exception:  # noqa: BLE001  # which one it is, is the adapter's business
        v.passed()
        return
    # Nothing was raised. That is the adapter's doing if it swallowed the error, went round the cell or mended it.
    written = h.peek(model, key).tobytes() == values("smoke fault", (4,)).tobytes()
    if written and h.cell(model, key) is before:
        try:
            h.poke(h.fault(h.build(declaration), key), key, values("smoke fault", (4,)))
        except HarnessError:
            written = False
    told = f"fault({key!r}) does not fail: the very cell took the new value without an error"
    _require(v, not (written and h.cell(model, key) is before), told)
    v.passed()


def _registry(h: Subject, model: Any) -> Any:
    try:
        return h.registry(model)
    except Exception as error:
        raise NotApplicable(f"the registry raises {type(error).__name__}: the directed checks decide that") from error


@_smoke
def the_registry_is_of_the_adapter_that_is_named(h: Subject, v: Verdict) -> None:
    found = _registry(h, h.build(core()))
    kind = type(found).__name__
    _require(v, isinstance(found, StateRegistry), f"registry of the harness gave a {kind}, which is no StateRegistry")
    said = f"the harness calls itself {h.name!r} and its registry is of the adapter {found.adapter!r}"
    _require(v, found.adapter == h.name, said)
    v.passed()


@_smoke
def the_registry_is_over_the_model(h: Subject, v: Verdict) -> None:
    declaration = core()
    found, other = _registry(h, h.build(declaration)), _registry(h, h.build(declaration))
    _require(
        v, found is not other or _cached(h, declaration), "registry of the harness gave one registry for two models"
    )
    aside = _loses(h, declaration, h.registry) is True and _loses(h, declaration, sr.of) is False
    _require(v, not aside, "the registry is not over the model: what it writes arrives in another one")
    v.passed()


def _cached(h: Subject, declaration: Declaration) -> bool:
    """Whether the adapter itself gives one registry for two models, so that it is not the harness that does."""
    try:
        return sr.of(h.build(declaration)) is sr.of(h.build(declaration))
    except StateError:
        return False


def _loses(h: Subject, declaration: Declaration, open_: Callable[[Any], Any]) -> bool | None:
    """Whether a registry in place writes to another model than the one that it was made of; `None`: it cannot be said."""
    model, key = h.build(declaration), "scale"
    written = values("smoke written", (5,))
    try:
        registry = open_(model)
        if not registry.in_place or registry.adapter != h.name:
            return None
        native = registry.replace({key: written}).unwrap()
    except Exception:  # noqa: BLE001  # whatever a broken adapter does is decided by the directed checks
        return None
    if native is model or h.peek(model, key).tobytes() == written.tobytes():
        return False
    return h.peek(native, key).tobytes() == written.tobytes()
