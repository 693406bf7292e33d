"""Known failures: the list excuses what is on it, never counts toward a level, and cannot grow old unnoticed."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import pytest

from stateregistry_conformance.known import CHECK, Expected, KnownError, apply, read
from stateregistry_conformance.levels import NONE, level, problems
from stateregistry_conformance.report import parse
from stateregistry_conformance.verdict import NOT_REACHED, Row, Status

TODAY = dt.date(2026, 6, 15)
ENTRY = Expected("SR-LIST-001", "listed as declared", "https://example.org/7", "2026-06-15")

TOML = """
[[expected_failure]]
requirement = "{requirement}"
reason = "listed in the order of declaration"
issue = "https://example.org/issues/7"
expires = "{expires}"
"""

BROKEN = """
from stateregistry_numpy.registry import MutableRegistry

class Registry(MutableRegistry):
    def __iter__(self):
        return iter(self.native_order)

class Harness(MutableHarness):
    def registry(self, model):
        return Registry(model)

harness = Harness()
"""


def row(requirement: str, status: Status, check: str = "c") -> Row:
    return Row(requirement, check, status, "why")


def test_a_listed_failure_is_expected():
    found = apply([row("SR-LIST-001", Status.FAIL), row("SR-LIST-002", Status.FAIL)], [ENTRY], TODAY)
    assert [one.status for one in found] == [Status.EXPECTED_FAIL, Status.FAIL]
    assert "listed as declared, https://example.org/7" in found[0].detail


@pytest.mark.parametrize("status", [Status.ERROR, Status.UNTESTED])
def test_only_a_failure_is_excused(status):
    found = apply([row("SR-LIST-001", status), row("SR-LIST-001", Status.FAIL)], [ENTRY], TODAY)
    assert [one.status for one in found] == [status, Status.EXPECTED_FAIL]


@pytest.mark.parametrize("status", [Status.PASS, Status.NOT_APPLICABLE, Status.UNTESTED, Status.ERROR])
def test_an_entry_without_a_failure_is_stale(status):
    *_, stale = apply([row("SR-LIST-001", status)], [ENTRY], TODAY)
    assert (stale.requirement, stale.status, stale.check) == ("SR-LIST-001", Status.STALE, f"{CHECK}: SR-LIST-001")
    assert status.value in stale.detail


def test_an_entry_that_has_expired_excuses_nothing():
    entry = Expected("SR-LIST-001", "listed as declared", "https://example.org/7", "2026-06-14")
    failed, stale = apply([row("SR-LIST-001", Status.FAIL)], [entry], TODAY)
    assert (failed.status, stale.status) == (Status.FAIL, Status.STALE)
    assert "expired on 2026-06-14" in stale.detail


def test_what_a_known_failure_kept_a_check_from_is_excused_with_it_and_nothing_else():
    rows = [
        row("SR-LIST-001", Status.FAIL, "lockstep"),
        replace(row("SR-LIST-002", Status.UNTESTED, "lockstep"), detail=f"{NOT_REACHED}why"),
        replace(row("SR-LIST-003", Status.UNTESTED, "other"), detail=f"{NOT_REACHED}why"),
        row("SR-LIST-004", Status.UNTESTED, "lockstep"),
    ]
    statuses = [one.status for one in apply(rows, [ENTRY], TODAY)]
    assert statuses == [Status.EXPECTED_FAIL, Status.EXPECTED_FAIL, Status.UNTESTED, Status.UNTESTED]


def test_an_entry_is_not_kept_alive_by_what_was_not_reached():
    rows = [
        row("SR-LIST-002", Status.FAIL, "lockstep"),
        replace(row("SR-LIST-001", Status.UNTESTED, "lockstep"), detail=f"{NOT_REACHED}why"),
    ]
    *_, stale = apply(rows, [ENTRY, replace(ENTRY, requirement="SR-LIST-002")], TODAY)
    assert (stale.requirement, stale.status) == ("SR-LIST-001", Status.STALE)


@pytest.mark.parametrize("requirement", ["SR-LIST-999", "SR-CONV-001", "nonsense"])
def test_what_the_suite_does_not_decide_cannot_be_listed(requirement):
    (stale,) = apply([], [Expected(requirement, "r", "https://example.org", "2999-01-01")], TODAY)
    assert stale.status is Status.STALE


def test_no_list_changes_nothing():
    rows = (row("SR-LIST-001", Status.FAIL), row("SR-LIST-002", Status.PASS))
    assert apply(rows, [], TODAY) == rows


def test_a_date_may_be_one_of_toml(tmp_path):
    path = tmp_path / "conformance.toml"
    path.write_text(TOML.format(requirement="SR-LIST-001", expires="X").replace('"X"', "2027-01-01"), encoding="utf-8")
    (entry,) = read(path)
    assert entry.expires == "2027-01-01"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[expected_failure]", "no TOML"),
        ("[expected_failure]\nrequirement = 'SR-KEY-001'\n", "two brackets"),
        ("[[expected_failures]]\n", "expected_failures"),
        ("[[expected_failure]]\nrequirement = 'SR-KEY-001'\n", "expected the members"),
        (TOML.format(requirement="SR-KEY-001", expires="soon"), "a date like"),
        (TOML.format(requirement="", expires="2027-01-01"), "not empty"),
        (TOML.format(requirement="SR-KEY-001", expires="2027-01-01").replace("https://", ""), "a link"),
        (TOML.format(requirement="SR-KEY-001", expires="2027-01-01") * 2, "twice"),
        (TOML.format(requirement="SR-KEY-001", expires="2027-01-01") + 'level = "Full"\n', "expected the members"),
    ],
)
def test_a_list_that_is_wrong_is_refused(text, said, tmp_path):
    path = tmp_path / "conformance.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(KnownError) as refused:
        read(path)
    assert said in str(refused.value)
    assert str(path) in str(refused.value)


def test_a_list_that_is_missing_is_refused(tmp_path):
    with pytest.raises(KnownError, match="No such file"):
        read(tmp_path / "none.toml")


class TestOnTheCommandLine:
    """The four rows of the table in the guide."""

    @pytest.fixture
    def broken(self, harness_file, tmp_path):
        harness_file(BROKEN)
        return tmp_path

    def known(self, folder, *requirements: str, expires: str = "2999-01-01"):
        path = folder / "conformance.toml"
        path.write_text(
            "".join(TOML.format(requirement=one, expires=expires) for one in requirements), encoding="utf-8"
        )
        return str(path)

    def test_listed_and_failing_is_exit_0_and_no_level(self, broken, command):
        first = command("their_harness:harness", "--report", "first.json", cwd=broken)
        assert first.code == 1
        report = parse((broken / "first.json").read_bytes())
        red = sorted({row.requirement for row in report.rows if row.status is Status.FAIL})
        assert "SR-LIST-001" in red
        listed = self.known(broken, *red)
        done = command("their_harness:harness", "--known", listed, "--report", "out.json", cwd=broken)
        report = parse((broken / "out.json").read_bytes())
        assert {row.status for row in report.rows if row.requirement in red} >= {Status.EXPECTED_FAIL}
        assert not report.conformant
        assert level(report).name == NONE
        assert done.code == 0, done.out
        assert "as its known failures say" in done.out.splitlines()[0]
        assert not problems(report)

    def test_listed_and_passing_is_exit_1(self, hostile, command, tmp_path):
        done = command("numpy", "--known", self.known(tmp_path, "SR-KEY-001"))
        assert done.code == 1
        assert "stale: SR-KEY-001 by known failures: SR-KEY-001" in done.out
        assert "it is pass: take it off the list" in done.out

    def test_listed_and_unknown_is_exit_1(self, command, tmp_path):
        done = command("numpy", "--known", self.known(tmp_path, "SR-KEY-999"))
        assert done.code == 1
        assert "SR-KEY-999 is no requirement of this version" in done.out

    def test_expired_is_exit_1(self, broken, command):
        done = command(
            "their_harness:harness", "--known", self.known(broken, "SR-LIST-001", expires="2020-01-01"), cwd=broken
        )
        assert done.code == 1
        assert "the entry expired on 2020-01-01" in done.out

    def test_a_list_that_cannot_be_read_is_wrong_use(self, command, tmp_path):
        path = tmp_path / "conformance.toml"
        path.write_text("[[expected_failure]", encoding="utf-8")
        assert command("numpy", "--known", str(path)).code == 2
