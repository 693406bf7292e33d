"""What the tests of the suite share: ways to run it, and reports made without running anything.

`made` builds the report of an imaginary run of the full profile: what a forger could write who has the suite at hand.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from stateregistry_conformance.capabilities import CAPABILITIES
from stateregistry_conformance.check import PROFILES, Profile
from stateregistry_conformance.claims import ABSENT, CLAIMS
from stateregistry_conformance.identity import core_digest, requirements_digest, suite_digest
from stateregistry_conformance.report import Header, Report
from stateregistry_conformance.runner import selected
from stateregistry_conformance.session import conform
from stateregistry_conformance.specification import VERSION, requirements
from stateregistry_conformance.verdict import Row, Status

TESTS = Path(__file__).resolve().parents[1]
if str(TESTS) not in sys.path:
    sys.path.append(str(TESTS))  # for `mutants`, here and in the processes of the suite

#: What somebody's own repository may say to pytest. None of it is the suite's business.
HOSTILE = {
    "pyproject.toml": '[tool.pytest.ini_options]\naddopts = ["--no-such-option", "-p", "no_such_plugin"]\n',
    "pytest.ini": "[pytest]\naddopts = --no-such-option\npython_functions = nothing_is_a_test\n",
    "conftest.py": "raise RuntimeError('this conftest is not for you')\n",
}

#: Enough to see blame fall, without the random machine.
BRIEF = Profile("quick", 1, 1, 0, ("smoke", "directed"))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command line did."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


@pytest.fixture(scope="session")
def hostile(tmp_path_factory) -> Path:
    """A directory with a configuration under which no pytest can run."""
    folder = tmp_path_factory.mktemp("hostile")
    for name, text in HOSTILE.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def command(hostile) -> Callable[..., Outcome]:
    """Runs `python -m stateregistry_conformance`, by default in the hostile directory."""

    def run(*arguments: str, cwd: Path = hostile, module: str = "stateregistry_conformance", **env: str) -> Outcome:
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(TESTS), **env},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def brief() -> Callable[..., Report]:
    """Runs the smoke checks, the claims and the directed checks on a harness."""

    def run(named: str, *, time_limit: float = 20, **options: Any) -> Report:
        return conform(named, profile=BRIEF, time_limit=time_limit, **options)

    return run


@pytest.fixture
def harness_file(tmp_path, monkeypatch) -> Callable[[str], str]:
    """Writes a module with a harness, and says how to name it."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(body: str, name: str = "their_harness") -> str:
        text = "import os, sys, time\nfrom stateregistry_numpy.harness import MutableHarness\n\n"
        (tmp_path / f"{name}.py").write_text(text + body, encoding="utf-8")
        return f"{name}:harness"

    return write


# --------------------------------------------------------------------------------------------------------------- reports


def header(**changed: Any) -> Header:
    plain = Header(
        spec=VERSION,
        requirements=requirements_digest(),
        suite="0.1.0",
        suite_digest=suite_digest(),
        core="0.1.0",
        core_digest=core_digest(),
        named="made.up:harness",
        adapter="made-up",
        adapter_version="7",
        capabilities=tuple(sorted(CAPABILITIES)),
        python="CPython 3.11.0",
        platform="linux x86_64",
        distributions={"numpy": "2.4.6"},
        profile=PROFILES["full"],
        time_limit=60.0,
        selected=None,
    )
    return replace(plain, **changed)


@pytest.fixture(scope="session")
def made() -> Callable[..., Report]:
    """Makes a report in which everything has passed, but what is said otherwise by requirement or by check."""

    def make(
        statuses: Mapping[str, Status] | None = None,
        *,
        checks: Mapping[str, Status] | None = None,
        notes: Mapping[str, str] | None = None,
        known: Sequence[Any] = (),
        **changed: Any,
    ) -> Report:
        found = header(**changed)
        rows = []
        for one in selected(found.profile):
            for name in one.ids:
                status = _usual(name, one.name, found.capabilities)
                status = (statuses or {}).get(name, status) if name else status
                status = (checks or {}).get(one.name, status)
                absent = one.name in CLAIMS and status is Status.NOT_APPLICABLE
                note = (notes or {}).get(one.name, ABSENT if absent else "")
                repro = f"# python -m stateregistry_conformance made.up:harness --check {one.name}\n"
                bad = status in {Status.FAIL, Status.ERROR}
                detail = "" if status is Status.PASS else f"made {status.value}"
                blame = "adapter" if bad and name else "harness" if bad else ""
                rows.append(Row(name, one.name, status, detail, repro if bad else "", one.layer, blame, note, 0.25))
        return Report(found, tuple(rows), tuple(known))

    return make


def _usual(name: str, check: str, capabilities: Sequence[str]) -> Status:
    if check in CLAIMS:
        claimed = check.removeprefix("claims.") in capabilities
        return Status.PASS if claimed else Status.NOT_APPLICABLE
    capability = requirements()[name].capability if name else None
    if capability is not None and capability not in capabilities:
        return Status.NOT_APPLICABLE
    return Status.NOT_APPLICABLE if name == "SR-WRITE-003" else Status.PASS
