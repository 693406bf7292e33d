"""What the tests of the command line share: a way to run it, and small files to run it on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stateregistry as sr
import stateregistry_numpy
from stateregistry.cli import main

FACTORIES = '''
"""Models for the command line, in a module that only the current directory makes importable."""
import numpy as np
import stateregistry_numpy as sn

def build():
    return make(sn)

def make(sn, seed=0):
    rng = np.random.default_rng(seed)
    model = sn.Module()
    for n in range(1, 4):
        block = sn.Module()
        block.register_parameter("weight", rng.standard_normal((4 * n, 3)).astype(np.float32))
        block.register_parameter("bias", rng.standard_normal(4 * n).astype(np.float32))
        block.register_buffer("steps", np.array(n, np.int64))
        setattr(model, f"block{n}", block)
    return model

def not_a_model():
    return object()

def fails():
    raise ValueError("no weights here")

def leaves():
    raise SystemExit(7)

def dropped():
    """Interrupted while something is being finalised, of which Python tells nobody."""
    import time

    class Closing:
        def __del__(self):
            raise KeyboardInterrupt

    Closing()
    time.sleep(20)
    return build()

def wants(size):
    return size

constant = 3
'''


TORCH = '''
"""A torch model with every kind of state that its checkpoints have."""
import torch

def build():
    torch.manual_seed(3)
    model = torch.nn.Sequential()
    model.add_module("conv", torch.nn.Conv2d(3, 5, (2, 4)))
    model.add_module("norm", torch.nn.BatchNorm2d(5))
    model.add_module("head", torch.nn.Linear(5, 7))
    with torch.no_grad():
        model.norm.running_mean.copy_(torch.randn(5))
        model.norm.running_var.copy_(torch.rand(5) + 1)
        model.norm.num_batches_tracked.fill_(12345)
    return model
'''


@dataclass(frozen=True, slots=True)
class Result:
    """What a run gave."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one document on stdout."""
        return json.loads(self.out)


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch):
    """No colour from the environment of the person who runs the tests."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory with the module `factories`."""
    (tmp_path / "factories.py").write_text(FACTORIES, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    monkeypatch.delitem(sys.modules, "factories", raising=False)
    yield tmp_path
    sys.modules.pop("factories", None)


@pytest.fixture
def torch_models(room: Path) -> None:
    """The module `torch_models` in the current directory."""
    (room / "torch_models.py").write_text(TORCH, encoding="utf-8")
    yield
    sys.modules.pop("torch_models", None)


@pytest.fixture
def run(room: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Run a command line in this process."""

    def call(*arguments: object) -> Result:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in err or "--debug" in arguments
        return Result(code, out, err)

    return call


@pytest.fixture
def process(room: Path) -> Callable[..., Result]:
    """Run a command line in a process of its own, without a terminal."""

    def call(*arguments: object, **environment: str) -> Result:
        command = [sys.executable, "-m", "stateregistry", *map(str, arguments)]
        env = os.environ | environment
        done = subprocess.run(command, cwd=room, env=env, capture_output=True, check=False, timeout=120)
        return Result(done.returncode, done.stdout.decode(), done.stderr.decode())

    return call


@pytest.fixture
def model() -> Any:
    """The reference model that `factories:build` builds."""
    space: dict[str, Any] = {}
    exec(FACTORIES, space)
    return space["make"](stateregistry_numpy)


@pytest.fixture
def file(room: Path, model: Any) -> Path:
    """That model as a file of ours."""
    sr.save(model, room / "model.safetensors")
    return Path("model.safetensors")


@pytest.fixture
def changed(room: Path, model: Any) -> Path:
    """The same with other bits in one parameter and one buffer."""
    reg = sr.of(model)
    reg.replace({"block2/bias": -reg.read("block2/bias"), "block3/steps": np.array(33)})
    sr.save(model, room / "changed.safetensors")
    return Path("changed.safetensors")
