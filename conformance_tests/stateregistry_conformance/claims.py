"""Claims: whether the capabilities that a harness declares are those that it has, asked both ways, one check for each.

Claimed and `CannotBuild`: a false claim. Not claimed and `CannotBuild`: the framework has no such thing, and a level can still
be `Full`. Not claimed and built: the adapter has to refuse it as the specification says (a `StateError`, or `opaque`); if it
serves it right, that is `undeclared-support`, which nobody has tested; if it does neither, it fails. Imports the core.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import numpy as np

from stateregistry import plugins
from stateregistry.entry import DTYPES
from stateregistry.errors import StateError
from stateregistry_conformance.capabilities import CAPABILITIES
from stateregistry_conformance.check import Check
from stateregistry_conformance.declaration import CannotBuild, Declaration, Leaf
from stateregistry_conformance.harness import SupportsFault, SupportsLayers
from stateregistry_conformance.samples import BUFFER, PARAMETER, abstract, core, tied, transient, typed, values
from stateregistry_conformance.trials.cases import BASES, PLAIN
from stateregistry_conformance.verdict import FalseClaim, HarnessError, NotApplicable, NotHeld, NotTestable

if TYPE_CHECKING:
    from stateregistry_conformance.subject import Subject
    from stateregistry_conformance.verdict import Verdict

#: Notes of the rows: what became of a capability that is not claimed.
ABSENT: Final = "absent"
REFUSED: Final = "refused"
UNDECLARED: Final = "undeclared-support"
UNPROBED: Final = "unprobed"
UNTRIED: Final = "untried"


def _samples(capability: str) -> list[Declaration]:
    """Models that need one capability and no other."""
    made: dict[str, Callable[[], Declaration]] = {
        "ties": tied,
        "nonpersistent": transient,
        "abstract": abstract,
        "rng": lambda: Declaration((Leaf("key", BUFFER, np.array([3, 4_000_000_001], np.uint32), rng=True),)),
        "empty": Declaration,
        "native_trainable": lambda: Declaration((Leaf("p", PARAMETER, values("p", (3, 3)), trainable=False),)),
    }
    if capability in made:
        return [made[capability]()]
    return [typed(dtype) for dtype in DTYPES if typed(dtype).needs() == {capability}]


def _claim(capability: str, h: Subject, v: Verdict) -> None:
    built, reason = _first_built(h, capability)
    if capability in h.capabilities:
        if built is None:
            raise FalseClaim(f"the harness claims {capability} and cannot build it: {reason}")
        v.holds(True, "it is built")
        v.passed()
        return
    if built is None:
        raise NotApplicable(f"not claimed, and the framework cannot hold it: {reason}", ABSENT)
    declaration, model = built
    said = _refused(h, model, declaration)
    if said is not None:
        raise NotApplicable(f"not claimed, and the adapter refuses it: {said}", REFUSED)
    wrong = _misread(h, model, declaration)
    if wrong is not None:
        raise NotHeld(
            f"{capability} is not claimed, the framework holds it, and the adapter neither refuses nor serves it: {wrong}"
        )
    raise NotTestable(
        f"{UNDECLARED}: the harness builds {capability} and the adapter serves it, but it is not claimed, so nobody has "
        "tested it: claim it, or raise CannotBuild with the reason if the framework has no such thing",
        UNDECLARED,
    )


def _first_built(h: Subject, capability: str) -> tuple[tuple[Declaration, object] | None, str]:
    """The first sample that the harness builds, else the reason of the last that it does not."""
    reason = "nothing was asked for"
    for declaration in _samples(capability):
        try:
            return (declaration, h.try_build(declaration)), ""
        except CannotBuild as error:
            reason = str(error)
    return None, reason


def _refused(h: Subject, model: object, declaration: Declaration) -> str | None:
    """How the adapter refuses the model as the specification says; `None` where it does not."""
    try:
        registry = h.registry(model)
        listed, opaque = dict(registry), dict(registry.opaque)
        list(registry.aliases)
    except StateError as error:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001  # not as the specification says; `_misread` tells it
        return None
    entries = declaration.entries()
    unlisted = [key for key in entries if key not in listed]
    named = [key for key in [*unlisted, *declaration.aliases()] if key in opaque]
    if named and set(unlisted) <= set(opaque) and all(listed[key] == entries[key] for key in listed if key in entries):
        return f"{', '.join(sorted(named))} opaque: {opaque[min(named)]}"
    return None


def _misread(h: Subject, model: object, declaration: Declaration) -> str | None:
    """What is wrong with the registry of a model, `None` where it lists and reads what was declared."""
    try:
        registry = h.registry(model)
        aliases = dict(registry.aliases)
        for listed in (dict(registry.items()), dict(registry)):  # as listed, and looked up one by one
            if listed != declaration.entries():
                return f"expected the entries {declaration.entries()}, found {listed}"
        if aliases != declaration.aliases():
            return f"expected the aliases {declaration.aliases()}, found {aliases}"
        for key, value in declaration.values().items():
            found = registry.read(key)
            if (found.dtype, found.shape, found.tobytes()) != (value.dtype, value.shape, value.tobytes()):
                return f"read({key!r}) gives other bits than were declared"
    except Exception as error:  # noqa: BLE001  # whatever it is, it is the answer
        return f"{type(error).__name__}: {error}"
    return None


def _claim_fault(h: Subject, v: Verdict) -> None:
    harness = h.harness
    if "fault" in h.capabilities:
        if not isinstance(harness, SupportsFault):
            raise FalseClaim("the harness claims fault and has no fault")
        try:
            h.fault(h.build(core()), "scale")
        except CannotBuild as error:
            raise FalseClaim(f"the harness claims fault and cannot make one: {error}") from error
        v.holds(True, "a model with a fault is made")
        v.passed()
        return
    if not isinstance(harness, SupportsFault):
        if _in_place(h):
            raise NotApplicable(
                "not claimed: the registry writes in place, and the harness has no fault to try it with", UNPROBED
            )
        raise NotApplicable("not claimed, and the registry never writes to a model", ABSENT)
    model = h.build(core())
    try:
        harness.fault(model, "scale")
    except CannotBuild as error:
        raise NotApplicable(f"not claimed, and the framework cannot hold it: {error}", ABSENT) from error
    except Exception as error:
        raise HarnessError(f"fault of the harness raised {type(error).__name__}: {error}") from error
    raise NotTestable(
        f"{UNDECLARED}: the harness has a fault that it does not claim: claim it, or leave it out", UNDECLARED
    )


def _in_place(h: Subject) -> bool:
    try:
        return bool(h.registry(h.build(core())).in_place)
    except Exception:  # noqa: BLE001  # an adapter that raises here is decided by the directed checks
        return True


def _claim_layers(h: Subject, v: Verdict) -> None:
    if isinstance(h.harness, SupportsLayers):
        built, reason = _first_layer(h.harness)
        if "layers" in h.capabilities:
            if not built:
                raise FalseClaim(f"the harness claims layers and cannot build one: {reason}")
            v.holds(True, "a layer is built")
            v.passed()
            return
        if not built:
            raise NotApplicable(f"not claimed, and the framework cannot hold it: {reason}", ABSENT)
        raise NotTestable(
            f"{UNDECLARED}: the harness builds layers and does not claim them: claim layers, or leave the probe out",
            UNDECLARED,
        )
    if "layers" in h.capabilities:
        raise FalseClaim("the harness claims layers and has no build_layer")
    if _declares_layers(h):
        raise NotApplicable(
            "not claimed, and the adapter declares layers: untested, as the harness has no build_layer",
            UNTRIED,
        )
    raise NotApplicable("not claimed, and the adapter declares no layers", ABSENT)


def _first_layer(probe: SupportsLayers) -> tuple[bool, str]:
    """Whether the harness builds one plain layer of those that it says the adapter declares, else why it does not."""
    try:
        kinds = frozenset(probe.layer_kinds())
    except Exception as error:
        raise HarnessError(f"layer_kinds of the harness raised {type(error).__name__}: {error}") from error
    reason = f"none of its layer kinds is one: {', '.join(sorted(kinds)) or 'there are none'}"
    for name in (name for kind, names in BASES.items() if kind in kinds for name in names):
        try:
            probe.build_layer(PLAIN[name])
        except CannotBuild as error:
            reason = str(error)
        except Exception as error:
            raise HarnessError(
                f"build_layer({name!r}) of the harness raised {type(error).__name__}: {error}"
            ) from error
        else:
            return True, ""
    return False, reason


def _declares_layers(h: Subject) -> bool:
    """Whether an adapter says what layers are: of a model, or in a table."""
    try:
        registry = h.registry(h.build(core()))
        known = plugins.adapters().get(registry.adapter)
        return bool(registry.layers) or getattr(known, "dialect", None) is not None
    except Exception:  # noqa: BLE001  # an adapter that raises here is decided by the directed checks
        return False


def _checks() -> dict[str, Check]:
    own = {"fault": _claim_fault, "layers": _claim_layers}
    found = {}
    for capability in CAPABILITIES:
        body = own.get(capability) or partial(_claim, capability)
        found[f"claims.{capability}"] = Check(f"claims.{capability}", ("",), body, "smoke")
    return found


#: Every claim check by name.
CLAIMS: Final[Mapping[str, Check]] = MappingProxyType(_checks())
