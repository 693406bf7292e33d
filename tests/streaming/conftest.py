"""A checkpoint to convert, what is there before, and ways to let a run die or fail at any of its system calls."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import stateregistry as sr
from stateregistry.streaming import disk

sys.path.insert(0, str(Path(__file__).parent))
from striking import KILLED, KILLS, Strike  # found by the line above


@pytest.fixture
def values() -> Callable[[int], dict[str, np.ndarray]]:
    """Some values of several widths, by seed."""
    return _values


def _values(seed: int) -> dict[str, np.ndarray]:
    """Some values of several widths."""
    rng = np.random.default_rng(seed)
    made = {f"block{n}/weight": rng.standard_normal((6, 5)).astype(np.float32) for n in range(4)}
    return {**made, "steps": rng.integers(0, 99, 3), "flags": rng.integers(0, 2, 7).astype(bool)}


@pytest.fixture
def source(tmp_path) -> Path:
    """A file to convert, in a directory of its own."""
    (tmp_path / "in").mkdir()
    return sr.save(_values(1), tmp_path / "in" / "source.safetensors")


@pytest.fixture
def room(tmp_path) -> Path:
    """An empty directory for the output."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.fixture
def content() -> Callable[[Path], dict[str, bytes]]:
    """The values of a checkpoint, all of them held against their digests; and that no other file lies about."""

    def read(path: Path) -> dict[str, bytes]:
        with sr.open(path, verify=True) as found:
            assert found.damaged() == {}
            return {key: found.read(key).tobytes() for key in found}

    return read


@pytest.fixture
def killed_at(tmp_path) -> Callable[..., None]:
    """Convert in a process that dies when it has made some share of its system calls."""

    def run(share: float, source: Path, room: Path, *, kind: str = "single", shard_bytes: int | None = None) -> None:
        spare = tmp_path / "counted"
        spare.mkdir(exist_ok=True)
        with Strike(spare, 0, KILLS[0]) as counted:
            sr.plan(source, source).execute(
                source, out=spare / "model.safetensors", shard_bytes=shard_bytes, workers=1, resume=True, overwrite=True
            )
        number = str(int(share * len(counted.made)))
        program = [sys.executable, Path(__file__).with_name("kill_everywhere.py"), "once", source, room]
        done = subprocess.run([*program, number, kind, str(shard_bytes or 0)], check=False, timeout=120)
        assert done.returncode == KILLED

    return run


@pytest.fixture
def failing_at(monkeypatch) -> Callable[[int, OSError, set[str]], list[str]]:
    """Let the n-th system call of the kinds given fail; returns the names of those that were made."""

    def arm(number: int, error: OSError, kinds: set[str]) -> list[str]:
        made: list[str] = []

        def before(call: str) -> None:
            if call in kinds:
                made.append(call)
                if len(made) == number:
                    raise error

        monkeypatch.setattr(disk, "before", before)
        return made

    return arm
