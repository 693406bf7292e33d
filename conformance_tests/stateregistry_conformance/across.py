"""Across adapters: the state of one installed harness moves to another one and back, as snapshots and as registries.

Two models of one declaration, one in each framework, must list the same entries and hold the same bits after a load, in both
directions. A partner that cannot be imported, or that cannot move its own state into itself, proves nothing about the adapter
under test and is named in the verdict. Imports NumPy and the core; other harnesses when a check runs.
"""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING, Final

import stateregistry as sr
from stateregistry import errors
from stateregistry_conformance.samples import core, large, others, shapes, square, tied, transient, typed
from stateregistry_conformance.subject import Subject
from stateregistry_conformance.verdict import HarnessError, NotHeld, Stop, Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from stateregistry_conformance.declaration import Declaration

_GROUP: Final = "stateregistry.harnesses"


def partners(subject: Subject) -> tuple[dict[str, Subject], dict[str, str]]:
    """Every installed harness but that of the subject, by name of its entry point, and why others are left out."""
    found: dict[str, Subject] = {}
    lost: dict[str, str] = {}
    for point in sorted(importlib.metadata.entry_points(group=_GROUP), key=lambda point: point.name):
        try:
            harness = point.load()
            if harness is subject.harness or harness.name == subject.name:
                continue
            other = Subject(harness)
            other.can_build(core())  # many import their framework only now
        except Exception as error:  # noqa: BLE001  # its framework is not installed, or it is broken: neither is our subject's fault
            lost[point.name] = f"cannot be used: {type(error).__name__}: {error}"
            continue
        found[point.name] = other
    return found, lost


def declarations() -> dict[str, Declaration]:
    """What is moved; a pair leaves out what one of the two cannot build."""
    from stateregistry.entry import DTYPES

    plain = {
        "core": core(),
        "square": square(),
        "shapes": shapes(),
        "large": large(),
        "tied": tied(),
        "transient": transient(),
    }
    return plain | {dtype: typed(dtype) for dtype in DTYPES}


def moves(v: Verdict, here: Subject, there: Subject, declaration: Declaration) -> bool:
    """Hold one declaration against a pair, both ways; false where one of the two cannot build it.

    Raises:
        NotHeld: the first thing that differs.
    """
    ours, theirs = here.can_build(declaration), there.can_build(declaration)
    if ours is None or theirs is None:
        return False
    names = f"{here.name} and {there.name}"
    ours_listed, theirs_listed = here.registry(ours), there.registry(theirs)
    v.equal(dict(ours_listed), dict(theirs_listed), f"entries of {names}")
    v.equal(list(ours_listed), list(theirs_listed), f"keys of {names}, in order")
    v.equal(dict(ours_listed.aliases), dict(theirs_listed.aliases), f"aliases of {names}")
    for source, target in ((here, there), (there, here)):
        _one_way(v, source, target, declaration)
    _there_and_back(v, here, there, declaration)
    return True


def _one_way(v: Verdict, source: Subject, target: Subject, declaration: Declaration) -> None:
    state = others(declaration, f"across {source.name}")
    model = source.build(declaration)
    for key, value in state.items():
        model = source.poke(model, key, value)
    expected = _expected(declaration, state)
    registry = source.registry(model)
    for name, given in (("snapshot", sr.snapshot(registry)), ("registry", registry)):
        loaded = sr.load(target.registry(target.build(declaration)), given)
        for key, value in expected.items():
            found = target.peek(loaded.unwrap(), key)
            v.same(found, value, f"native value of {key!r} in {target.name} after load of a {name} of {source.name}")
    v.same_state(
        source.peek_all(model, declaration), _spread(declaration, state), f"native values of {source.name} afterwards"
    )


def _there_and_back(v: Verdict, here: Subject, there: Subject, declaration: Declaration) -> None:
    state = others(declaration, "back")
    saved = {key: value for key, value in state.items() if declaration.entries()[key].persistent}
    abroad = sr.load(there.registry(there.build(declaration)), saved)
    home = sr.load(here.registry(here.build(declaration)), sr.snapshot(abroad))
    v.same_state(sr.snapshot(home), saved, f"a snapshot that went to {there.name} and back")


def _expected(declaration: Declaration, state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    entries, old = declaration.entries(), declaration.values()
    return {key: state[key] if entries[key].persistent else old[key] for key in old}


def _spread(declaration: Declaration, state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    names = [*(leaf.key for leaf in declaration.leaves), *declaration.ties]
    return {name: state[declaration.canonical(name)] for name in names}


def sound(subject: Subject, declaration: Declaration) -> str:
    """Why a partner proves nothing with a declaration; empty where it moves its own state into itself."""
    try:
        quiet = Verdict(())
        model = subject.build(declaration)
        quiet.equal(dict(subject.registry(model)), declaration.entries(), "entries")
        _one_way(quiet, subject, subject, declaration)
    except (NotHeld, HarnessError, errors.StateError) as error:
        return f"{type(error).__name__}: {error}"
    except Stop as stop:
        return str(stop)
    return ""
