"""Builds the stranger's distribution as pip would, and runs the suite on it from a directory that is none of ours.

`conform` is the one place that knows how the suite is called and how its text is read.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

#: What somebody's own repository may say to pytest. None of it is the suite's business.
HOSTILE = {
    "pyproject.toml": '[tool.pytest.ini_options]\naddopts = ["--no-such-option", "-p", "no_such_plugin"]\n',
    "pytest.ini": "[pytest]\naddopts = --no-such-option\npython_functions = nothing_is_a_test\n",
    "conftest.py": "raise RuntimeError('this conftest is not for you')\n",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the suite said."""

    code: int
    text: str

    def named(self, status: str) -> set[str]:
        """The requirements that have a status."""
        return set(re.findall(rf"^\s*(SR-[A-Z]+-\d{{3}})\s+{status}\s*$", self.text, re.MULTILINE))

    @property
    def explained(self) -> set[str]:
        """The requirements whose failure is told with what was expected and found."""
        return set(re.findall(r"^fail: (SR-[A-Z]+-\d{3}) by ", self.text, re.MULTILINE))


@pytest.fixture(scope="session")
def toybox() -> Path:
    """The sources of the stranger's distribution."""
    return Path(__file__).resolve().parent / "toybox"


@pytest.fixture(scope="session")
def site(toybox, tmp_path_factory) -> Path:
    """A directory into which the stranger's wheel was installed; nothing was downloaded, the checkout was not touched."""
    room = tmp_path_factory.mktemp("toybox")
    shutil.copytree(toybox, room / "source", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]
    alone = ["--no-index", "--no-deps"]
    wheels = ["wheel", *alone, "--no-build-isolation", "--wheel-dir", str(room / "dist"), str(room / "source")]
    subprocess.run([*pip, *wheels], cwd=room, check=True, timeout=300)
    (wheel,) = (room / "dist").glob("*.whl")
    # Not compiled: an edit within the same second that keeps the size of a file would go unseen.
    target = ["install", *alone, "--no-compile", "--target", str(room / "site"), str(wheel)]
    subprocess.run([*pip, *target], cwd=room, check=True, timeout=300)
    return room / "site"


@pytest.fixture(scope="session")
def elsewhere(tmp_path_factory) -> Path:
    """A directory with a pytest configuration under which no pytest can run."""
    folder = tmp_path_factory.mktemp("elsewhere")
    for name, text in HOSTILE.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def python(elsewhere) -> Callable[..., Outcome]:
    """Runs Python with a directory of installed packages on its path; what it prints, errors included."""

    def run(site: Path, *arguments: str, cwd: Path = elsewhere) -> Outcome:
        env = {**os.environ, "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, *arguments]
        done = subprocess.run(
            command,
            cwd=cwd,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=300,
        )
        return Outcome(done.returncode, done.stdout)

    return run


@pytest.fixture(scope="session")
def conform(python) -> Callable[..., Outcome]:
    """Runs the suite on an installed harness."""

    def run(site: Path, name: str = "toybox", *options: str) -> Outcome:
        return python(site, "-m", "stateregistry_conformance", name, *options)

    return run
