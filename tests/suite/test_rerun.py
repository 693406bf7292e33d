"""Running again: the verdicts are those of the committed report, whatever the directory, the seed of hashes and the day."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from stateregistry_conformance import command as suite_command
from stateregistry_conformance.check import PROFILES
from stateregistry_conformance.report import Report, parse
from stateregistry_conformance.session import conform
from stateregistry_conformance.verdict import Status

REPORTS = Path(__file__).resolve().parents[2] / "docs" / "conformance"
HARNESSES = ("numpy", "numpy-frozen", "torch", "flax-linen", "flax-nnx")


def committed(name: str) -> Report:
    return parse((REPORTS / f"{name}.json").read_bytes())


@pytest.mark.parametrize("name", HARNESSES)
def test_the_quick_profile_gives_the_verdicts_of_the_full_report_that_was_made_before(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONHASHSEED", "77")
    again = conform(name, profile=PROFILES["quick"])
    assert again.conformant, [
        (row.check, row.detail) for row in again.rows if row.status.value not in {"pass", "not-applicable"}
    ]
    before = {(row.requirement, row.check): row.status for row in committed(name).rows}
    now = {(row.requirement, row.check): row.status for row in again.rows}
    assert now == {cell: before.get(cell) for cell in now}, "run `make conform`"
    assert os.listdir(tmp_path) == []


def test_two_runs_of_one_profile_give_the_same_rows_under_the_same_header():
    first, again = (conform("numpy", profile=PROFILES["quick"]) for _ in range(2))
    assert again.verdicts() == first.verdicts()
    assert again.header == first.header


def turned(report: Report, requirement: str) -> Report:
    """Consistent, and not what the suite found."""
    rows = [
        replace(row, status=Status.PASS, detail="") if row.requirement == requirement else row for row in report.rows
    ]
    return Report(report.header, tuple(rows), report.known)


def test_a_full_report_in_which_one_verdict_was_turned_is_found_by_that_verdict_alone(command, tmp_path):
    path = tmp_path / "frozen.json"
    changed = turned(committed("numpy-frozen"), "SR-READ-005")
    path.write_text(json.dumps(changed.to_json()), encoding="utf-8")
    assert command("verify-report", str(path)).code == 0
    done = command("verify-report", str(path), "--rerun")
    assert done.code == 1
    head, *said = done.out.splitlines()
    assert head.endswith("frozen.json: refused")
    assert said
    assert all(line.startswith("  SR-READ-005 by ") for line in said), "every other verdict came out again"
    assert all(line.endswith(": the report says pass, and run again it is not-applicable") for line in said)


@pytest.fixture
def verified(monkeypatch, tmp_path, capsys):
    """`verify-report --rerun` on a report, where running gives another one."""

    def run(report: Report, again: Report) -> tuple[int, str]:
        path = tmp_path / "report.json"
        path.write_text(json.dumps(report.to_json()), encoding="utf-8")
        monkeypatch.setattr(suite_command, "conform", lambda *_, **__: again)
        from stateregistry_conformance.__main__ import main

        code = main(["verify-report", str(path), "--rerun"])
        return code, capsys.readouterr().out

    return run


def test_a_report_that_comes_out_again_holds(made, verified):
    code, out = verified(made(), made())
    assert code == 0
    assert "Full 0.1" in out


def test_a_report_of_another_adapter_does_not_hold(made, verified):
    code, out = verified(made(), made(adapter="other"))
    assert code == 1
    assert "run again, made.up:harness is other with " in out


def test_a_row_that_is_missing_from_the_new_run_does_not_hold(made, verified):
    again = made()
    code, out = verified(made(), Report(again.header, again.rows[:-1]))
    assert code == 1
    assert f"{again.rows[-1].requirement} by {again.rows[-1].check}: the report says pass" in out
