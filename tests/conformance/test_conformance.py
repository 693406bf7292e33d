"""Every first-party adapter conforms, and the suite decides every requirement that it has to."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from stateregistry_conformance.checks import CHECKS
from stateregistry_conformance.runner import conforms, find_harness, installed, run, summary
from stateregistry_conformance.specification import excluded, requirements
from stateregistry_conformance.table import render
from stateregistry_conformance.verdict import Row, Status

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "docs" / "spec" / "conformance.md"
FIRST_PARTY = ("numpy", "numpy-frozen", "torch", "flax-linen", "flax-nnx")


@cache
def report(name: str) -> tuple[Row, ...]:
    """The verdicts on one adapter; a harness that cannot be imported fails what asks for it."""
    return run(find_harness(name), named=name)


@pytest.fixture(scope="session")
def reports() -> dict[str, tuple[Row, ...]]:
    return {name: report(name) for name in FIRST_PARTY}


def test_every_first_party_harness_is_installed(first_party: tuple[str, ...]) -> None:
    assert first_party == FIRST_PARTY
    assert set(FIRST_PARTY) <= set(installed())


@pytest.mark.parametrize("name", FIRST_PARTY)
def test_the_adapter_conforms(name: str) -> None:
    wrong = [row for row in report(name) if row.status not in {Status.PASS, Status.NOT_APPLICABLE}]
    told = "\n\n".join(f"{row.requirement} {row.status.value}: {row.detail}\n{row.repro}" for row in wrong)
    assert not wrong, f"{name}: {told}"
    assert conforms(report(name))


def test_every_binding_requirement_is_emitted_on_the_reference() -> None:
    emitted = {row.requirement for name in ("numpy", "numpy-frozen") for row in report(name)}
    for requirement in requirements().values():
        if requirement.binding and excluded(requirement) is None:
            assert requirement.id in emitted, f"no check decides {requirement.id}: {requirement.text}"


def test_every_binding_requirement_is_met_by_some_adapter(reports: dict[str, tuple[Row, ...]]) -> None:
    """A requirement that no adapter ever reaches would be decided by nobody."""
    passed = {key for rows in reports.values() for key, status in summary(rows).items() if status is Status.PASS}
    for requirement in requirements().values():
        if requirement.binding and excluded(requirement) is None:
            assert requirement.id in passed, f"{requirement.id} does not bind any first-party adapter"


def test_what_is_excluded_has_no_check_and_says_who_decides_it() -> None:
    carried = {name for check in CHECKS.values() for name in check.ids}
    for requirement in requirements().values():
        reason = excluded(requirement)
        assert reason is None or (requirement.id not in carried and len(reason) > 20)


def test_checks_carry_ids_that_the_specification_has() -> None:
    for check in CHECKS.values():
        assert check.ids
        assert set(check.ids) <= requirements().keys()


def test_a_run_gives_the_same_verdicts_every_time() -> None:
    for name in ("numpy", "numpy-frozen"):
        assert run(find_harness(name), named=name) == report(name)


def test_the_committed_table_is_current(reports: dict[str, tuple[Row, ...]]) -> None:
    ordered = {name: reports[name] for name in sorted(reports)}
    assert TABLE.read_text(encoding="utf-8") == render(ordered), "generate it: make docs"


def test_a_table_with_another_verdict_is_another_text() -> None:
    one, *others = report("numpy")
    changed = (Row(one.requirement, one.check, Status.FAIL, "made to fail"), *others)
    assert "**FAIL**" in render({"numpy": changed})
    assert "**FAIL**" not in render({"numpy": report("numpy")})


def test_the_suite_imports_no_framework_and_no_adapter() -> None:
    code = (
        "import sys, stateregistry_conformance.runner, stateregistry_conformance.table, stateregistry_conformance.__main__\n"
        "print(sorted(n for n in sys.modules if n.split('.')[0] in "
        "{'torch', 'jax', 'flax', 'pytest', 'hypothesis', 'stateregistry_numpy', 'stateregistry_torch', 'stateregistry_flax'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.strip() == "[]"


def test_no_check_knows_an_adapter_by_name() -> None:
    folder = ROOT / "conformance_tests" / "stateregistry_conformance" / "checks"
    for path in folder.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        for name in (r"h\.name", "stateregistry_(numpy|torch|flax)", "import (torch|jax|flax)"):
            assert not re.search(rf"\b{name}\b", text), f"{path.name} knows {name}"


class TestCommandLine:
    def _run(self, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "stateregistry_conformance", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)

    def test_a_conformant_adapter_exits_0_from_any_directory(self, tmp_path: Path) -> None:
        done = self._run("numpy", cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.startswith("numpy: conforms to specification 0.1")

    def test_an_adapter_that_does_not_conform_exits_1_and_says_how_to_see_it_again(self, tmp_path: Path) -> None:
        (tmp_path / "broken.py").write_text(
            "from stateregistry_numpy.harness import MutableHarness\n"
            "from stateregistry_numpy.registry import MutableRegistry\n"
            "class Broken(MutableRegistry):\n"
            "    def __iter__(self):\n"
            "        return iter(self.native_order)\n"
            "class Harness:\n"
            "    def __getattr__(self, name):\n"
            "        return getattr(MutableHarness(), name)\n"
            "    def registry(self, model):\n"
            "        return Broken(model)\n"
            "harness = Harness()\n",
            encoding="utf-8",
        )
        done = self._run("broken:harness", cwd=tmp_path)
        assert done.returncode == 1
        assert "DOES NOT conform" in done.stdout
        assert "fail: SR-LIST-001 by enumeration.iteration_is_sorted" in done.stdout
        again = self._run("broken:harness", "--check", "enumeration.iteration_is_sorted", cwd=tmp_path)
        assert again.returncode == 1
        repro = "\n".join(line.removeprefix("  | ") for line in again.stdout.splitlines() if line.startswith("  | "))
        pasted = subprocess.run([sys.executable, "-c", repro], capture_output=True, text=True, check=True, cwd=tmp_path)
        assert pasted.stdout.startswith("SR-LIST-001 fail iter: expected")

    @pytest.mark.parametrize(
        "name", ["nobody", "no_such_module:harness", "json:dumps", "stateregistry_numpy.harness:nothing"]
    )
    def test_a_wrong_harness_exits_2_without_traceback(self, name: str, tmp_path: Path) -> None:
        done = self._run(name, cwd=tmp_path)
        assert done.returncode == 2
        assert name in done.stderr
        assert "Traceback" not in done.stderr

    def test_an_unknown_check_exits_2(self, tmp_path: Path) -> None:
        assert self._run("numpy", "--check", "nothing.at_all", cwd=tmp_path).returncode == 2

    def test_pytest_runs_the_same_checks(self, tmp_path: Path) -> None:
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "stateregistry_conformance.plugin",
            "-p",
            "no:cacheprovider",
        ]
        command += ["--pyargs", "stateregistry_conformance.suite", "--sr-harness", "numpy"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stdout
        assert " passed" in done.stdout
