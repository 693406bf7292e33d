"""Shared by the tests of the suite: the first-party harnesses, a harness with another registry, and the kill matrix."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from stateregistry_conformance.runner import run
from stateregistry_conformance.verdict import Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from stateregistry_conformance.harness import Harness

TESTS = Path(__file__).resolve().parents[1]
for folder in (TESTS, TESTS / "conformance"):
    if str(folder) not in sys.path:
        sys.path.append(str(folder))  # for `mutants` and `kill_matrix`, which are in no installed package

#: Every first-party harness. One that cannot be imported fails the tests: nothing is skipped.
FIRST_PARTY = ("numpy", "numpy-frozen", "torch", "flax-linen", "flax-nnx")


class Disguised:
    """A harness that gives another registry than the adapter's own; everything else is the original's."""

    def __init__(self, inner: Any, registry: Callable[[Any], Any]) -> None:
        self._inner = inner
        self.registry = registry

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@pytest.fixture(scope="session")
def first_party() -> tuple[str, ...]:
    return FIRST_PARTY


@pytest.fixture(scope="session")
def disguised() -> type[Disguised]:
    return Disguised


@pytest.fixture(scope="session")
def reds() -> Callable[[Harness], dict[str, str]]:
    """The requirements that a harness fails under all checks, with the first detail of each."""

    def found(harness: Harness) -> dict[str, str]:
        rows = run(harness)
        assert not [row for row in rows if row.status is Status.ERROR], "the suite itself broke"
        red: dict[str, str] = {}
        for row in rows:
            if row.status is Status.FAIL:
                red.setdefault(row.requirement, f"{row.check}: {row.detail}")
        return red

    return found


@pytest.fixture(scope="session")
def matrix() -> ModuleType:
    """The script behind the kill matrix."""
    import kill_matrix

    return kill_matrix


@pytest.fixture(scope="session")
def killers(matrix: ModuleType) -> Callable[[Any], tuple[str, ...]]:
    """The directed checks that fail on the requirement that a mutant violates."""
    return matrix.killers


def pytest_report_header() -> str:
    return f"conformance is tested for: {', '.join(FIRST_PARTY)}"
