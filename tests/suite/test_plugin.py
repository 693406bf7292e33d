"""The checks under plain pytest, for those who want their own: green for what conforms, red and never skipped for what lies."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture
def theirs(tmp_path):
    def run(harness: str | None, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "stateregistry_conformance.plugin",
        ]
        command += ["--pyargs", "stateregistry_conformance.suite", *arguments]
        command += [] if harness is None else ["--sr-harness", harness]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(tmp_path)])}
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=300)

    return run


def test_a_conformant_adapter_is_green(theirs):
    done = theirs("numpy")
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
    assert " failed" not in done.stdout


def test_a_liar_is_red(theirs):
    done = theirs("mutants.liars:l_disclaims_ties", "-k", "claims")
    assert done.returncode == 1
    assert "undeclared-support" in done.stdout


def test_a_harness_that_skips_is_not_skipped(theirs):
    done = theirs("mutants.liars:l_pytest_skips", "-k", "reading.")
    assert done.returncode == 1
    assert "passed" not in done.stdout.splitlines()[-1]
    assert "build of the harness raised Skipped" in done.stdout


def test_a_harness_that_ends_its_process_does_not_end_pytest(theirs):
    done = theirs("mutants.liars:l_exits_at_once", "-k", "reading.")
    assert done.returncode == 1
    assert "ended the process (exit code 0)" in done.stdout


@pytest.mark.parametrize("name", [None, "nobody", "mutants.liars:l_half_a_harness"])
def test_a_harness_that_cannot_be_used_ends_the_run(name, theirs):
    done = theirs(name)
    assert done.returncode == 2
    assert "passed" not in done.stdout
