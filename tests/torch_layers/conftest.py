"""Makes the cases beside the tests importable (importlib mode puts no directory on the path), and random state the same."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(1234)
