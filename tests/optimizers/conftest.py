"""Fixtures of the tests of optimizers, and the way to the module of runs beside them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def trained():
    """A run after seven updates."""
    from runs import batches, run  # after the path

    def make(framework: str, rule: str) -> Any:
        made = run(framework, rule)
        for batch in batches(7):
            made.step(*batch)
        return made

    return make
