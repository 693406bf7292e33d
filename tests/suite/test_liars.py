"""Every lying harness through the suite as a stranger would run it: never conformant, never a level, blamed by name."""

from __future__ import annotations

import json

import pytest
from mutants import liars

from stateregistry_conformance.levels import NONE, level
from stateregistry_conformance.report import parse
from stateregistry_conformance.verdict import HarnessError, Status

LIARS = [liar.id.replace("-", "_") for liar in liars.all_liars()]
#: What is refused before a check can run.
REFUSED = {"l_half_a_harness": "it has no peek, poke, cell"}
#: What the text says of those that do something to their process.
SAID = {
    "l_skips": "build of the harness raised SkipTest",
    "l_pytest_skips": "build of the harness raised Skipped",
    "l_pytest_xfails": "build of the harness raised XFailed",
    "l_skips_late": "peek of the harness raised SkipTest",
    "l_interrupts": "build of the harness raised KeyboardInterrupt",
    "l_exits": "build of the harness raised SystemExit",
    "l_exits_at_once": "build of the harness ended the process (exit code 0)",
    "l_exits_in_the_middle": "build of the harness ended the process (exit code 0)",
    "l_crashes": "registry of the harness ended the process (signal SIGABRT)",
    "l_hangs": "registry of the harness did not return within 3 s",
    "l_hangs_busily": "peek of the harness did not return within 3 s",
    "l_hangs_and_ignores": "build of the harness did not return within 3 s",
    "l_prints_a_report": "build of the harness ended the process (exit code 0)",
    "l_catches_assertions": "the harness rewrote builtins.AssertionError",
    "l_rewrites_the_core": "the harness rewrote stateregistry.registry.StateRegistry.replace",
}


@pytest.mark.parametrize("name", [name for name in LIARS if name not in REFUSED])
def test_a_liar_never_conforms_and_is_blamed(name, brief):
    report = brief(f"mutants.liars:{name}", time_limit=3 if "hangs" in name else 20)
    assert not report.conformant
    assert not report.excused
    assert level(report).name == NONE
    blamed = [row for row in report.blamed_on_harness if not row.requirement]
    assert blamed, [(row.check, row.status, row.detail) for row in report.rows if row.status is not Status.PASS][:5]
    assert SAID.get(name, "") in blamed[0].detail
    # What the process did to itself leaves no requirement passed, and none failed for the adapter.
    if name in SAID:
        assert {row.status for row in report.rows if row.requirement} <= {Status.UNTESTED}


def test_every_hazard_has_its_sentence():
    hazards = {liar.id.replace("-", "_") for liar in liars.all_liars() if liar.hazard}
    assert hazards == set(SAID)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_harness_is_refused(name, brief):
    with pytest.raises(HarnessError, match=REFUSED[name]):
        brief(f"mutants.liars:{name}")


def test_a_harness_that_cannot_be_imported_is_wrong_use(command):
    done = command("mutants.liars:l_cannot_be_imported")
    assert (done.code, done.out) == (2, "")
    assert "cannot be imported: ImportError: this harness needs a framework" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    "name", ["l_prints_a_report", "l_exits_at_once", "l_disclaims_everything", "l_under_a_false_name"]
)
def test_on_the_command_line_a_liar_is_exit_1_and_its_report_is_worth_nothing(name, command, tmp_path):
    out = tmp_path / "out.json"
    done = command(f"mutants.liars:{name}", "--report", str(out), "--time-limit", "20")
    assert done.code == 1, done.out + done.err
    first = done.out.splitlines()[0]
    assert "THE HARNESS IS WRONG" in first or "the harness is wrong" in first
    assert level(parse(out.read_bytes())).name == NONE
    assert command("verify-report", str(out)).code == 1
    badge = command("badge", str(out))
    assert badge.code != 0
    assert "Full" not in badge.out
    assert "Core" not in badge.out


def test_a_hand_made_report_is_no_report(command, tmp_path):
    """What `l-prints-a-report` prints, saved to a file."""
    made = {
        "header": {"adapter": "numpy", "spec": "0.1"},
        "rows": [{"requirement": "SR-KEY-001", "status": "pass"}],
        "footer": {"complete": True, "level": "Full"},
    }
    path = tmp_path / "made.json"
    path.write_text(json.dumps(made), encoding="utf-8")
    done = command("verify-report", str(path))
    assert done.code == 1
    assert "refused" in done.out
    assert command("badge", str(path)).code == 2
