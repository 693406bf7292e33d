"""Golden checks: what is built, listed, read and written must be what the committed files say, bit for bit.

The files are data and know nothing of this suite: an error that samples, declarations and the core have in common shows here.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import stateregistry as sr
from stateregistry_conformance.check import Check
from stateregistry_conformance.golden import Case, cases
from stateregistry_conformance.verdict import NotHeld, Status, Stop, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stateregistry_conformance.subject import Subject

_IDS = ("SR-LIST-001", "SR-LIST-003", "SR-READ-004", "SR-WRITE-001", "SR-LOAD-002", "SR-SNAP-002")


@contextmanager
def _deciding(v: Verdict, requirement: str) -> Iterator[None]:
    """What does not hold inside is a failure of this requirement, and the check goes on with the next one."""
    try:
        yield
    except NotHeld as error:
        v.statuses.setdefault(requirement, (Status.FAIL, str(error)))
    except Stop:
        raise  # the harness, not the adapter
    except Exception as error:  # noqa: BLE001  # whatever a registry raises is a verdict on this requirement
        v.statuses.setdefault(requirement, (Status.FAIL, f"unexpected {type(error).__name__}: {error}"))


def _agrees(case: Case, h: Subject, v: Verdict) -> None:
    model = h.can_build(case.declaration)
    if model is None:
        for name in (*_IDS, "SR-ALIAS-003"):
            v.not_applicable(name, f"the framework has no {case.about}")
        return
    registry = h.registry(model)
    with _deciding(v, "SR-LIST-001"):
        v.equal(list(registry), list(case.listing), "keys, in order")
    with _deciding(v, "SR-LIST-003"):
        v.equal(dict(registry.items()), dict(case.listing), "entries")
        v.equal(dict(registry.opaque), {}, "opaque")
    with _deciding(v, "SR-ALIAS-003"):
        v.equal(dict(registry.aliases), dict(case.aliases), "aliases")
    with _deciding(v, "SR-READ-004"):
        for key, value in case.built.items():
            v.same(registry.read(key), value, f"read of {key!r}")
    with _deciding(v, "SR-SNAP-002"):
        saved = sr.snapshot(registry, lambda _key, entry: entry.persistent and entry.concrete)
        v.equal(list(saved), list(case.snapshot), "keys of a snapshot, in order")
        for key in case.snapshot:
            v.same(saved[key], case.built[key], f"snapshot of {key!r}")
    with _deciding(v, "SR-WRITE-001"):
        written = registry.replace(case.written)
        for key, value in case.written.items():
            v.same(h.peek(written.unwrap(), key), value, f"native value of {key!r} after replace")
            v.same(written.read(key), value, f"read of {key!r} after replace")
    with _deciding(v, "SR-LOAD-002"):
        allow = () if len(case.built) == len(case.listing) else ("missing",)
        given = {key: value for key, value in case.written.items() if case.listing[key].persistent}
        loaded = sr.load(h.registry(h.build(case.declaration)), given, allow)
        for key, value in case.built.items():
            v.same(h.peek(loaded.unwrap(), key), given.get(key, value), f"native value of {key!r} after load")
    v.passed()


def _check(case: Case) -> Check:
    ids = (*_IDS, "SR-ALIAS-003") if case.declaration.ties else _IDS
    return Check(f"golden.{case.name}", ids, partial(_agrees, case), "golden")


#: One check for every case of the files.
GOLDEN: tuple[Check, ...] = tuple(_check(case) for case in cases())
