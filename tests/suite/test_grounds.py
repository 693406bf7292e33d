"""Grounds: one bug is one failure; what stands on it is `untested`, says what blocks it, and is never a pass."""

from __future__ import annotations

import dataclasses
import datetime as dt

import pytest

from stateregistry_conformance import grounds, text
from stateregistry_conformance.checks import CHECKS
from stateregistry_conformance.known import CHECK, Expected, apply
from stateregistry_conformance.levels import NONE, level, problems
from stateregistry_conformance.runner import run
from stateregistry_conformance.samples import square
from stateregistry_conformance.specification import requirements
from stateregistry_conformance.subject import Subject
from stateregistry_conformance.verdict import BLOCKED_BY, HarnessError, Row, Status
from stateregistry_numpy.harness import FrozenHarness, MutableHarness
from stateregistry_numpy.registry import MutableRegistry

TODAY = dt.date(2026, 6, 15)

#: Every 8-bit integer is listed as a scalar: a wrong shape, on which much else would stand.
BROKEN = """
import dataclasses
from stateregistry_numpy.registry import MutableRegistry

class Registry(MutableRegistry):
    def _entries(self):
        found = super()._entries()
        return {k: dataclasses.replace(e, shape=()) if e.dtype == "int8" else e for k, e in found.items()}

    def _find(self, key):
        return self._entries().get(key)

class Harness(MutableHarness):
    def registry(self, model):
        return Registry(model)

harness = Harness()
"""


def expected(requirement: str) -> Expected:
    return Expected(requirement, "not yet", "https://example.org/1", "2999-01-01")


class Flat(MutableRegistry):
    """As `BROKEN`, here."""

    def _entries(self):
        return {
            key: dataclasses.replace(entry, shape=()) if entry.dtype == "int8" else entry
            for key, entry in super()._entries().items()
        }

    def _find(self, key):
        return self._entries().get(key)


class FlatHarness(MutableHarness):
    def registry(self, model):
        return Flat(model)


def test_every_id_of_the_tables_is_a_requirement():
    named = {name for owners in grounds._FIELDS.values() for name in owners}
    named |= {*grounds.MISSING, *grounds._EXTRA, *grounds._TIES, *grounds._CASTS, *grounds._DTYPES.values()}
    named |= set(grounds._RAISED.values())
    assert named <= set(requirements())
    for prefix, needs in grounds._NEEDS.items():
        assert any(name.startswith(prefix) for name in requirements()), prefix
        assert set(needs) <= set(grounds.GROUNDS)


@pytest.mark.parametrize("harness", [MutableHarness, FrozenHarness])
def test_nothing_is_blocked_where_nothing_is_broken(harness):
    subject, everything = Subject(harness()), frozenset(grounds.GROUNDS)
    ground = grounds.Grounds(subject)
    for declaration in (square(), subject.rich()):
        assert ground.faults(declaration, everything, ()) == ()


def test_a_check_of_what_is_broken_fails_and_one_that_stands_on_it_is_blocked():
    rows = run(FlatHarness(), [CHECKS["breadth.shapes_are_those_of_the_whole"], CHECKS["kinds.nothing_changes_a_kind"]])
    found = {row.requirement: row for row in rows}
    assert found["SR-READ-001"].status is Status.FAIL
    rows = run(FlatHarness())
    failed = {row.requirement for row in rows if row.status is Status.FAIL}
    blocked = [row for row in rows if row.blockers]
    assert blocked
    for row in blocked:
        assert (row.status, row.blame) == (Status.UNTESTED, "adapter")
        assert "blocked by SR-" in row.detail
        assert row.blockers & failed, f"{row.requirement} is blocked by what nothing says is broken: {row.detail}"
    assert "SR-SNAP-006" in {row.requirement for row in blocked}


def test_a_bug_of_one_dtype_leaves_the_rest_decided():
    """What is seen by the checks over everything that there is, of about a hundred."""
    rows = run(FlatHarness())
    failed = {row.requirement for row in rows if row.status is Status.FAIL}
    passed = {row.requirement for row in rows if row.status is Status.PASS}
    assert "SR-READ-001" in failed
    assert len(failed) <= 12, sorted(failed)
    assert len(passed) > 60


def _name(word):
    return lambda key, entry: word in key


#: What an adapter may have trouble with -> the requirement that is about it.
TROUBLES = {
    "booleans": (lambda key, entry: entry.dtype == "bool", "SR-DTYPE-010"),
    "small floats": (lambda key, entry: entry.dtype.startswith("float8"), "SR-DTYPE-005"),
    "long integers": (lambda key, entry: entry.dtype == "int64", "SR-DTYPE-007"),
    "generators": (lambda key, entry: entry.rng, "SR-KIND-009"),
    "scalars": (lambda key, entry: entry.shape == (), "SR-READ-001"),
    "empty arrays": (lambda key, entry: 0 in entry.shape, "SR-READ-001"),
    "what is not saved": (lambda key, entry: not entry.persistent, "SR-SNAP-001"),
    "what has no value": (lambda key, entry: not entry.concrete, "SR-READ-010"),
    "names with a dot": (_name("."), "SR-KEY-004"),
    "names with a slash": (_name("~1"), "SR-KEY-001"),
}


def troubled(trouble, how):
    class Troubled(MutableRegistry):
        def _entries(self):
            found = super()._entries()
            bad = {key for key, entry in found.items() if trouble(key, entry)}
            if bad and how == "raised":
                raise TypeError(f"cannot handle {sorted(bad)}")
            return {key: entry for key, entry in found.items() if key not in bad}

        def _find(self, key):
            return self._entries().get(key)

    class Harness(MutableHarness):
        def registry(self, model):
            return Troubled(model)

    return Harness()


@pytest.mark.parametrize("how", ["raised", "not listed"])
@pytest.mark.parametrize("trouble", TROUBLES)
def test_what_is_particular_to_a_place_is_decided_and_not_blocked(trouble, how):
    """Else a bug would be named by whatever it breaks, and never by what it is."""
    broken, requirement = TROUBLES[trouble]
    rows = run(
        troubled(broken, how), [one for one in CHECKS.values() if requirement in one.ids and one.layer == "directed"]
    )
    assert Status.FAIL in {row.status for row in rows if row.requirement == requirement}, [row.detail for row in rows]


def test_a_registry_that_cannot_open_ties_fails_on_ties():
    class Untied(MutableRegistry):
        def __init__(self, model):
            super().__init__(model)
            if self._walk().aliases:
                raise TypeError("what is this")

    class Harness(MutableHarness):
        def registry(self, model):
            return Untied(model)

    failed = {row.requirement for row in run(Harness()) if row.status is Status.FAIL}
    assert {"SR-ALIAS-001", "SR-LIST-002"} <= failed


# ------------------------------------------------------------------------------------------------- side doors after use


class Locking(MutableRegistry):
    """Locks what it has seen."""

    def __init__(self, model):
        super().__init__(model)
        for _, cell in model.cells():
            cell.array.flags.writeable = False


class LockingHarness(MutableHarness):
    def registry(self, model):
        return Locking(model)


class Once(MutableHarness):
    """Its own `poke` works once on a model."""

    def __init__(self):
        self._poked = []

    def poke(self, model, key, value):
        if any(one is model for one in self._poked):
            raise RuntimeError("a model is written once")
        self._poked.append(model)
        return super().poke(model, key, value)


def test_an_adapter_that_spoils_the_model_is_blamed_and_not_its_harness():
    rows = run(
        LockingHarness(),
        [CHECKS["breadth.looking_leaves_everything_alone"], CHECKS["enumeration.a_native_write_is_seen"]],
    )
    found = {row.requirement: row for row in rows}
    assert (found["SR-LIST-009"].status, found["SR-LIST-009"].blame) == (Status.FAIL, "adapter")
    assert "fails after the registry was used, and does not before" in found["SR-LIST-009"].detail
    assert found["SR-LIST-011"].status is Status.UNTESTED
    assert found["SR-LIST-011"].blockers == {"SR-LIST-009", "SR-WRITE-009"}


def test_a_harness_whose_own_door_fails_is_blamed_and_not_its_adapter():
    subject = Subject(Once())
    model = subject.build(square())
    model = subject.poke(model, "p", square().leaf("p").value)
    with pytest.raises(HarnessError, match="a model is written once"):
        subject.poke(model, "p", square().leaf("p").value)


def test_a_fault_that_fails_after_use_is_no_ones_blame():
    subject = Subject(MutableHarness())
    model = subject.fault(subject.build(square()), "p")
    subject.registry(model)
    with pytest.raises(HarnessError):
        subject.poke(model, "p", square().leaf("p").value)


# ----------------------------------------------------------------------------------------------------- known failures


def blocked(requirement: str, *blockers: str) -> Row:
    note = f"{BLOCKED_BY}{' '.join(blockers)}"
    return Row(requirement, "c", Status.UNTESTED, f"blocked by {blockers[0]}: why", note=note)


def test_what_a_known_failure_blocks_is_excused_with_it():
    failed = Row("SR-READ-001", "c", Status.FAIL, "why")
    rows = [failed, blocked("SR-LOAD-002", "SR-READ-005", "SR-READ-001"), blocked("SR-LOAD-003", "SR-READ-005")]
    found = apply(rows, [expected("SR-READ-001")], TODAY)
    assert [row.status for row in found] == [Status.EXPECTED_FAIL, Status.EXPECTED_FAIL, Status.UNTESTED]


def test_an_entry_is_not_kept_alive_by_what_it_blocks():
    *_, stale = apply([blocked("SR-LOAD-002", "SR-READ-001")], [expected("SR-READ-001")], TODAY)
    assert (stale.status, stale.check) == (Status.STALE, f"{CHECK}: SR-READ-001")


def test_a_whole_run_with_its_list_is_excused_and_has_no_level(harness_file, brief):
    named = harness_file(BROKEN)
    first = brief(named)
    red = sorted({row.requirement for row in first.rows if row.status is Status.FAIL})
    assert any(row.blockers for row in first.rows)
    again = brief(named, expected=[expected(name) for name in red])
    assert again.excused, {row.status for row in again.rows}
    assert not again.conformant
    assert level(again).name == NONE
    assert not [said for said in problems(again) if "not listed" in said]


def test_what_was_not_tried_is_told_in_one_paragraph(harness_file, brief):
    told = [f"{line.toned}{line.rest}" for line in text.verdict(brief(harness_file(BROKEN)))]
    (said,) = {line for line in told if line.startswith("not tried, blocked by SR-READ-001: shape of 'typed/")}
    assert told.count(said) == 1
