"""A harness cannot end, forge, hold up or outlive a run: what it does to its process stays there, and the rest goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from stateregistry_conformance.check import PROFILES
from stateregistry_conformance.checks import CHECKS
from stateregistry_conformance.isolation import Ended, Worker
from stateregistry_conformance.seal import Seal
from stateregistry_conformance.session import LOST, Session, conform
from stateregistry_conformance.verdict import HarnessError, Status

GOOD = {Status.PASS, Status.NOT_APPLICABLE}

ONE_BAD = """
class Harness(MutableHarness):
    def registry(self, model):
        if "ghost" in model.members:  # the models of the checks on arrays without values
            {act}
        return super().registry(model)

harness = Harness()
"""


@pytest.mark.parametrize(
    ("act", "said"),
    [
        ("os.abort()", "registry of the harness ended the process (signal SIGABRT)"),
        ("os._exit(3)", "registry of the harness ended the process (exit code 3)"),
        ("os.kill(os.getpid(), 9)", "registry of the harness ended the process (signal SIGKILL)"),
        ("time.sleep(1000)", "registry of the harness did not return within 2 s"),
    ],
)
def test_what_one_check_loses_is_an_error_and_the_rest_goes_on(act, said, harness_file):
    named = harness_file(ONE_BAD.format(act=act))
    checks = ["reading.reading_what_has_no_value_is_refused", "reading.a_shape_is_the_exact_tuple", "claims.abstract"]
    report = conform(named, profile=PROFILES["quick"], checks=checks, time_limit=2)
    found = {row.check: row for row in report.rows}
    lost = found["reading.reading_what_has_no_value_is_refused"]
    assert (lost.status, lost.detail, lost.blame) == (Status.ERROR, said, "adapter")
    assert "--check reading.reading_what_has_no_value_is_refused" in lost.repro
    assert found["reading.a_shape_is_the_exact_tuple"].status is Status.PASS
    assert found["claims.abstract"].status is Status.PASS


def test_after_too_many_losses_the_rest_is_not_run(harness_file, brief):
    body = """
    class Harness(MutableHarness):
        def build(self, declaration):
            if len(declaration.leaves) == 4 and not declaration.ties:
                os._exit(0)
            return super().build(declaration)

    harness = Harness()
    """
    report = brief(harness_file(textwrap.dedent(body)))
    lost = {row.check for row in report.rows if "ended the process" in row.detail}
    assert len(lost) == LOST
    last = report.rows[-1]
    assert (last.status, last.detail) == (
        Status.UNTESTED,
        f"not run: {LOST} checks before it were lost with their process",
    )
    assert not report.conformant


def test_what_a_harness_prints_is_noise(harness_file):
    body = """
    print("at import", flush=True)
    os.write(1, b"straight to the descriptor\\n")

    class Harness(MutableHarness):
        def build(self, declaration):
            print('{"rows": [], "broken": false}', flush=True)
            sys.__stdout__.write("0123456789abcdef {}\\n")
            sys.__stdout__.flush()
            return super().build(declaration)

    harness = Harness()
    """
    printed = []
    checks = ["reading.a_shape_is_the_exact_tuple"]
    named = harness_file(textwrap.dedent(body))
    report = conform(named, profile=PROFILES["quick"], checks=checks, log=printed.append)
    assert [row.status for row in report.rows] == [Status.PASS]
    assert "straight to the descriptor" in printed[0]
    assert '{"rows": []' in printed[0]


def test_a_harness_reads_nothing_from_the_keyboard(harness_file):
    body = """
    class Harness(MutableHarness):
        def build(self, declaration):
            assert sys.stdin.read() == ""
            return super().build(declaration)

    harness = Harness()
    """
    report = conform(
        harness_file(textwrap.dedent(body)), profile=PROFILES["quick"], checks=["reading.a_shape_is_the_exact_tuple"]
    )
    assert report.conformant


def test_a_harness_that_is_another_one_after_a_loss_is_not_believed(harness_file, tmp_path):
    body = f"""
    import pathlib
    mark = pathlib.Path({str(tmp_path / "mark")!r})

    class Harness(MutableHarness):
        adapter_version = "2" if mark.exists() else "1"

        def registry(self, model):
            mark.write_text("seen")
            os._exit(0)

    harness = Harness()
    """

    checks = ["reading.a_shape_is_the_exact_tuple", *[name for name in CHECKS if name.startswith("kinds.")][:2]]
    report = conform(harness_file(textwrap.dedent(body)), profile=PROFILES["quick"], checks=checks)
    assert "the harness says that it is" in report.rows[-2].detail
    assert report.rows[-1].status is not Status.PASS


def test_a_harness_whose_framework_is_not_installed_is_not_called_wrong(harness_file, brief):
    """Harnesses import their framework when they are first used."""
    body = """
    class Harness(MutableHarness):
        def build(self, declaration):
            import a_framework_that_nobody_has

    harness = Harness()
    """
    with pytest.raises(HarnessError, match=r"needs a package that is not installed: .*a_framework_that_nobody_has"):
        brief(harness_file(textwrap.dedent(body)))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise ImportError('no framework')", "cannot be imported: ImportError: no framework"),
        ("import unittest\nraise unittest.SkipTest('not here')", "cannot be imported: SkipTest: not here"),
        ("sys.exit(0)", "cannot be imported: SystemExit: 0"),
        ("os._exit(0)", "importing the harness ended the process (exit code 0)"),
        (
            "print('last words', file=sys.stderr, flush=True)\nos.abort()",
            "importing the harness ended the process (signal SIGABRT)",
        ),
        ("harness = 3", "'int' is not a harness: it has no name"),
        ("", "has no attribute 'harness'"),
        (
            "class H(MutableHarness):\n    @property\n    def name(self):\n        raise OSError('offline')\nharness = H()",
            "OSError",
        ),
    ],
)
def test_a_harness_that_cannot_be_used_is_told_why(body, said, harness_file):
    with Session(harness_file(body), profile=PROFILES["quick"]) as session, pytest.raises(HarnessError) as told:
        session.open()
    assert said in str(told.value)


def test_a_harness_that_waits_for_ever_when_it_is_imported_is_ended(harness_file, monkeypatch):
    monkeypatch.setattr("stateregistry_conformance.session._IMPORT", 3)
    with Session(harness_file("time.sleep(1000)"), profile=PROFILES["quick"], time_limit=1) as session:
        begun = time.monotonic()
        with pytest.raises(HarnessError, match="importing the harness did not return within 3 s"):
            session.open()
        assert time.monotonic() - begun < 20


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def gone(pid: int, seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not alive(pid):
            return True
        time.sleep(0.1)
    return False


CHILDREN = """
import subprocess

class Harness(MutableHarness):
    def build(self, declaration):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
        open({path!r}, "a").write(f"{{os.getpid()}} {{child.pid}}\\n")
        time.sleep(1000)

harness = Harness()
"""


def test_no_process_is_left_behind_by_a_time_limit(harness_file, tmp_path):
    path = tmp_path / "pids"
    named = harness_file(CHILDREN.format(path=str(path)))
    conform(named, profile=PROFILES["quick"], checks=["reading.a_shape_is_the_exact_tuple"], time_limit=2)
    pids = [int(pid) for pid in path.read_text().split()]
    assert len(pids) == 2
    assert all(gone(pid) for pid in pids)


def _started(named: str, where: Path, path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "stateregistry_conformance", named]
    running = subprocess.Popen(
        command, cwd=where, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    end = time.monotonic() + 60
    while not path.exists() or not path.read_text().endswith("\n"):
        assert time.monotonic() < end
        assert running.poll() is None, running.communicate()
        time.sleep(0.1)
    return running


def test_an_interrupt_ends_the_run_with_130_and_leaves_nothing(harness_file, tmp_path):
    path = tmp_path / "pids"
    running = _started(harness_file(CHILDREN.format(path=str(path))), tmp_path, path)
    os.killpg(running.pid, signal.SIGINT)
    out, err = running.communicate(timeout=30)
    assert (running.returncode, out) == (130, "")
    assert "interrupted" in err
    assert "Traceback" not in err
    assert all(gone(int(pid)) for pid in path.read_text().split())


def test_a_worker_whose_parent_is_gone_ends(harness_file, tmp_path):
    path = tmp_path / "pids"
    running = _started(harness_file(CHILDREN.format(path=str(path))), tmp_path, path)
    running.kill()
    running.communicate(timeout=30)
    assert all(gone(int(pid)) for pid in path.read_text().split())


def test_a_worker_answers_again_after_it_was_ended():
    with Worker() as worker:
        assert worker.ask({"do": "open", "name": "numpy"}, 60)["name"] == "numpy"
        with pytest.raises(Ended, match="did not return"):
            worker.ask({"do": "open", "name": "numpy"}, 0.0)
        assert not worker.running
        assert worker.ask({"do": "open", "name": "numpy"}, 60)["name"] == "numpy"


class TestSeal:
    def test_nothing_is_broken_by_a_run(self):
        from stateregistry_conformance.runner import find_harness, run

        seal = Seal()
        run(find_harness("numpy"))
        assert seal.broken() is None

    @pytest.mark.parametrize(
        ("place", "name"),
        [
            ("stateregistry.registry.StateRegistry", "replace"),
            ("stateregistry.checking", "check"),
            ("stateregistry_conformance.verdict.Verdict", "same"),
            ("stateregistry_conformance.runner", "run_check"),
            ("builtins", "AssertionError"),
            ("numpy", "array_equal"),
        ],
    )
    def test_what_is_replaced_is_named(self, place, name, monkeypatch):
        seal = Seal()
        with monkeypatch.context() as patch:
            patch.setattr(f"{place}.{name}", lambda *_, **__: None)
            broken = seal.broken()
        assert broken == f"{place}.{name}"
        assert seal.broken() is None

    def test_code_that_is_replaced_in_place_is_named(self):
        from stateregistry import checking

        seal, code = Seal(), checking.check.__code__
        try:
            checking.check.__code__ = (lambda registry, values, /, *, partial=False: None).__code__
            assert seal.broken() in {"stateregistry.check", "stateregistry.checking.check"}  # one function, two names
        finally:
            checking.check.__code__ = code
