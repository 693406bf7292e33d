"""Makes the models beside the tests importable (importlib mode puts no directory on the path), and forgets declared types."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from stateregistry_flax import declared as flax_declared
from stateregistry_torch import declared as torch_declared

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test registers, no other knows."""
    for module in (torch_declared, flax_declared):
        monkeypatch.setattr(module.DECLARED, "rows", dict(module.DECLARED.rows))
