"""The states that the tests of this room run over, and the path by which their module is found."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import tool_states  # importlib mode puts no directory on the path

import stateregistry as sr


@pytest.fixture(params=sorted(tool_states.MAKERS))
def make(request) -> Callable[[int], sr.StateRegistry]:
    """A registry of one framework, with random values of a seed."""
    return lambda seed: tool_states.filled(tool_states.MAKERS[request.param](), seed)
