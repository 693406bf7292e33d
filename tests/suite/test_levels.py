"""Levels: derived from the rows of a full run of this suite and from nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stateregistry_conformance.badge import BadgeError, badge
from stateregistry_conformance.capabilities import CAPABILITIES
from stateregistry_conformance.check import PROFILES, Profile
from stateregistry_conformance.claims import REFUSED, UNPROBED
from stateregistry_conformance.known import CHECK, Expected
from stateregistry_conformance.levels import CAPABLE, CORE, FULL, NONE, level, problems
from stateregistry_conformance.report import Report
from stateregistry_conformance.specification import conditional, excluded, requirements
from stateregistry_conformance.verdict import Row, Status

ENTRY = Expected("SR-DTYPE-005", "float8 is rounded", "https://example.org/1", "2999-01-01")


def test_everything_passed_is_full(made):
    found = level(made())
    assert (found.name, str(found), found.reasons) == (FULL, "Full 0.1", ())
    assert found.capabilities == tuple(CAPABILITIES)


def test_what_the_framework_cannot_hold_is_not_missed(made):
    found = level(made(capabilities=("empty", "ties")))
    assert (found.name, found.capabilities) == (FULL, ("ties", "empty"))


@pytest.mark.parametrize("note", [REFUSED, UNPROBED])
def test_what_the_adapter_refuses_is_less_than_full(note, made):
    found = level(made(capabilities=("ties",), notes={"claims.rng": note}))
    assert (found.name, str(found)) == (CAPABLE, "Core 0.1 + ties")
    assert found.reasons[0].startswith("rng: ")


def test_nothing_kept_and_something_refused_is_core(made):
    found = level(made(capabilities=(), notes={"claims.rng": REFUSED}))
    assert (found.name, str(found)) == (CORE, "Core 0.1")


BINDING = [one for one in requirements().values() if one.binding and excluded(one) is None]


@pytest.mark.parametrize("status", [status for status in Status if status not in {Status.PASS, Status.NOT_APPLICABLE}])
@pytest.mark.parametrize("requirement", ["SR-KEY-001", "SR-ERR-004", "SR-ALIAS-001"])
def test_any_requirement_that_binds_and_is_not_a_pass_is_no_level(requirement, status, made):
    known = (
        [Expected(requirement, "r", "https://example.org/1", "2999-01-01")] if status is Status.EXPECTED_FAIL else []
    )
    found = level(made({requirement: status}, known=known))
    if status is Status.EXPECTED_FAIL and requirements()[requirement].capability is not None:
        assert found.name == CAPABLE
        return
    assert found.name == NONE
    assert any(reason.startswith(requirement) for reason in found.reasons)


def test_every_core_requirement_is_needed(made):
    for one in BINDING:
        if one.capability is None and one.id != "SR-WRITE-003":
            assert level(made({one.id: Status.UNTESTED})).name == NONE, one.id


def test_a_core_requirement_applies_unless_the_specification_leaves_it_open(made):
    for one in BINDING:
        if one.capability is None and one.id not in {"SR-WRITE-002", "SR-WRITE-003"}:
            found = level(made({one.id: Status.NOT_APPLICABLE}))
            assert (found.name == FULL) is (one.id in conditional()), one.id


def test_a_registry_writes_in_place_or_it_does_not(made):
    assert level(made({"SR-WRITE-002": Status.NOT_APPLICABLE, "SR-WRITE-003": Status.PASS})).name == FULL
    found = level(made({"SR-WRITE-002": Status.NOT_APPLICABLE, "SR-WRITE-003": Status.NOT_APPLICABLE}))
    assert found.name == NONE


def test_a_wrong_harness_is_no_level(made):
    for check in ("smoke.it_says_who_it_is", "smoke.the_registry_is_over_the_model"):
        for status in (Status.ERROR, Status.FAIL, Status.UNTESTED):
            found = level(made(checks={check: status}))
            assert (found.name, found.reasons) == (NONE, (f"the harness: {check}: {status.value}",))


@pytest.mark.parametrize("status", [Status.FAIL, Status.UNTESTED, Status.ERROR])
def test_a_claim_that_is_not_kept_is_no_level(status, made):
    assert level(made(checks={"claims.ties": status})).name == NONE


def test_a_known_failure_is_never_counted(made):
    core = Expected("SR-KEY-001", "reason", "https://example.org/1", "2999-01-01")
    assert level(made({"SR-KEY-001": Status.EXPECTED_FAIL}, known=[core])).name == NONE
    found = level(made({"SR-DTYPE-005": Status.EXPECTED_FAIL}, known=[ENTRY]))
    assert found.name == CAPABLE
    assert "dtype.float8" not in found.capabilities
    both = made({"SR-ALIAS-001": Status.EXPECTED_FAIL, "SR-ALIAS-003": Status.FAIL},
                known=[replace(ENTRY, requirement="SR-ALIAS-001")])  # fmt: skip
    assert level(both).name == NONE


def test_the_quick_profile_gives_no_level(made):
    found = level(made(profile=PROFILES["quick"]))
    assert (found.name, found.reasons) == (NONE, ("the profile is quick: a level needs the full one",))


class TestProblems:
    """What the installed suite cannot have written."""

    @pytest.mark.parametrize(
        ("changed", "said"),
        [
            ({"requirements": "0" * 64}, "other requirements"),
            ({"spec": "0.2"}, "other requirements"),
            ({"suite_digest": "0" * 64}, "another suite"),
            ({"selected": ("keys.one",)}, "some checks only"),
            ({"capabilities": ("dtype.int4",)}, "dtype.int4"),
        ],
    )
    def test_another_header(self, changed, said, made):
        report = made(**changed)
        assert said in problems(report)[0]
        assert level(report).name == NONE
        with pytest.raises(BadgeError, match=said):
            badge(report)

    def test_smaller_budgets(self, made):
        report = made(profile=Profile("full", 1, 1, 0))
        assert "no profile 'full' with these budgets" in problems(report)[0]

    def test_fewer_layers(self, made):
        report = made(profile=replace(PROFILES["full"], layers=("smoke",)))
        assert level(report).name == NONE

    def test_rows_that_are_missing(self, made):
        whole = made()
        for gone in (whole.rows[0], whole.rows[40], whole.rows[-1]):
            report = Report(whole.header, tuple(row for row in whole.rows if row is not gone))
            (said,) = problems(report)
            assert said == f"there is no row for {gone.requirement or 'the harness'} by {gone.check}"
            assert level(report).name == NONE

    def test_rows_that_no_check_gives(self, made):
        whole = made()
        for more in (
            Row("SR-KEY-001", "keys.all_is_well", Status.PASS),
            whole.rows[50],
            Row("SR-KEY-001", f"{CHECK}: SR-KEY-001", Status.STALE),
        ):
            report = Report(whole.header, (*whole.rows, more))
            assert len(problems(report)) == 1
            assert more.check in problems(report)[0]

    def test_an_excuse_that_is_not_listed(self, made):
        assert "not listed" in problems(made({"SR-DTYPE-005": Status.EXPECTED_FAIL}))[0]
        assert problems(made({"SR-DTYPE-005": Status.EXPECTED_FAIL}, known=[ENTRY])) == ()

    def test_a_claim_and_a_row_that_disagree(self, made):
        whole = made(capabilities=())
        lie = replace(whole, header=replace(whole.header, capabilities=("ties",)))
        assert "ties is claimed" in problems(lie)[0]
        lie = replace(made(), header=replace(made().header, capabilities=()))
        assert "is not claimed" in problems(lie)[0]

    def test_the_failure_of_an_unclaimed_capability_brings_its_rows(self, made):
        capable = tuple(name for name in CAPABILITIES if name != "dtype.complex")
        whole = made(capabilities=capable)
        rows = [
            replace(row, status=Status.FAIL, blame="adapter", note="") if row.check == "claims.dtype.complex" else row
            for row in whole.rows
        ]
        assert "no row for SR-DTYPE-006" in problems(Report(whole.header, tuple(rows)))[0]
        rows.append(Row("SR-DTYPE-006", "claims.dtype.complex", Status.FAIL, layer="smoke", blame="adapter"))
        assert problems(Report(whole.header, tuple(rows))) == ()


def test_what_this_cannot_prove(made):
    """A consistent report that nobody ran is taken for one: the guide says so, and what to do about it."""
    assert problems(made()) == ()
    assert level(made()).name == FULL


class TestBadge:
    @pytest.mark.parametrize(
        ("report", "message", "color"),
        [
            ({}, "Full", "brightgreen"),
            ({"capabilities": ("ties",), "notes": {"claims.rng": REFUSED}}, "Core + ties", "green"),
            ({"capabilities": (), "notes": {"claims.rng": REFUSED}}, "Core", "yellowgreen"),
            ({"statuses": {"SR-KEY-001": Status.FAIL}}, "not conformant", "red"),
            ({"profile": PROFILES["quick"]}, "not conformant", "red"),
        ],
    )
    def test_what_it_says(self, report, message, color, made):
        assert badge(made(**report)) == {
            "schemaVersion": 1,
            "label": "stateregistry 0.1",
            "message": message,
            "color": color,
        }
