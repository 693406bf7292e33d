"""One small network in every framework: a linear layer, a convolution, a BatchNorm, an embedding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import torch
from flax import nnx

import stateregistry as sr

SIDE = 3


class TorchNet(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.conv = torch.nn.Linear(SIDE, SIDE), torch.nn.Conv2d(SIDE, SIDE, SIDE)
        self.bn, self.emb = torch.nn.BatchNorm2d(SIDE), torch.nn.Embedding(SIDE, SIDE)


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=True, name="bn")(nn.Conv(SIDE, (SIDE, SIDE), name="conv")(x))
        return nn.Dense(SIDE, name="fc")(x) + nn.Embed(SIDE, SIDE, name="emb")(np.zeros((), "int32"))


class NnxNet(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.fc, self.conv = nnx.Linear(SIDE, SIDE, rngs=rngs), nnx.Conv(SIDE, SIDE, (SIDE, SIDE), rngs=rngs)
        self.bn, self.emb = nnx.BatchNorm(SIDE, rngs=rngs), nnx.Embed(SIDE, SIDE, rngs=rngs)


def _linen() -> Any:
    net = LinenNet()
    args = (np.zeros((1, SIDE, SIDE, SIDE), "float32"),)
    return sr.of(net.init(jax.random.key(0), *args), module=net, args=args)


def _numpy() -> Any:
    return sr.of(sr.convert(TorchNet(), to="numpy", allow=("choice",)).target)


MAKERS: dict[str, Callable[[], Any]] = {
    "torch": lambda: sr.of(TorchNet()),
    "flax-linen": _linen,
    "flax-nnx": lambda: sr.of(NnxNet()),
    "numpy": _numpy,
}


def filled(reg: sr.StateRegistry, seed: int) -> sr.StateRegistry:
    """The registry with random values everywhere; the same numbers for the same role in every framework is not meant."""
    random = np.random.default_rng(seed)
    values = {}
    for key, entry in reg.items():
        if "float" in entry.dtype:
            values[key] = random.uniform(0.5, 2, entry.shape).astype(entry.dtype)
        elif not entry.rng:
            values[key] = np.asarray(random.integers(1, 100, entry.shape), entry.dtype)
    return reg.replace(values)


def bits(reg: sr.StateRegistry) -> dict[str, bytes]:
    return {key: reg.read(key).tobytes() for key in reg}
