"""Pytest plugin: the checks as tests of one harness, for people who want their own pytest.

    pytest -p stateregistry_conformance.plugin --pyargs stateregistry_conformance.suite --sr-harness NAME

The harness runs in a process of its own, as on the command line: what hangs or crashes is a failed test, and a skip in it is
one, too. The unit of conformance is the verdict per requirement, not the green test: no level comes from here.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from stateregistry_conformance.check import PROFILES, Check, Profile
from stateregistry_conformance.runner import selected
from stateregistry_conformance.session import TIME_LIMIT, Session
from stateregistry_conformance.verdict import HarnessError


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--sr-harness`, `--sr-profile` and `--sr-time-limit`."""
    group = parser.getgroup("stateregistry")
    group.addoption("--sr-harness", metavar="NAME", help="the harness to check: an entry point, or module:object")
    group.addoption("--sr-profile", choices=tuple(PROFILES), default="quick", help="how much to run (quick)")
    group.addoption("--sr-time-limit", metavar="SECONDS", type=float, default=TIME_LIMIT, help="for one check (60)")


def _profile(config: pytest.Config) -> Profile:
    return PROFILES[config.getoption("--sr-profile")]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for every check of the profile."""
    if "sr_check" in metafunc.fixturenames:
        checks = selected(_profile(metafunc.config))
        metafunc.parametrize("sr_check", checks, ids=[one.name for one in checks])


@pytest.fixture(scope="session")
def sr_session(request: pytest.FixtureRequest) -> Iterator[Session]:
    """The harness in its process; one that cannot be used ends the run."""
    name = request.config.getoption("--sr-harness")
    if not name:
        pytest.exit("say which harness to check: --sr-harness NAME or --sr-harness module:object", returncode=2)
    limit = float(request.config.getoption("--sr-time-limit"))
    with Session(str(name), profile=_profile(request.config), time_limit=limit) as session:
        try:
            session.open()
        except HarnessError as error:
            pytest.exit(f"the harness is wrong: {error}", returncode=2)
        yield session


__all__ = ["Check", "pytest_addoption", "pytest_generate_tests", "sr_session"]
