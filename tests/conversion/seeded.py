"""One network in three frameworks with a knob for every mistake that a conversion can make: square, so that no shape tells.

A convolution with stride, a norm whose input is small (so that its eps counts), a GELU between two square linear layers, a
GRU over the flattened image. `Side` is a framework with its model: build, convert into, run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import torch
from flax import nnx

import stateregistry as sr

SIDE = 4


@dataclass(frozen=True, slots=True)
class Knobs:
    """What no state carries."""

    eps: float = 1e-5
    padded: bool = True
    tanh: bool = False


def image() -> np.ndarray:
    """Channels last, small, with an even number of pixels: there `SAME` and a padding of one differ."""
    return (np.random.default_rng(1).normal(size=(2, 6, 6, SIDE)) * 1e-2).astype(np.float32)


class TorchNet(torch.nn.Module):
    def __init__(self, knobs: Knobs) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(SIDE, SIDE, 3, stride=2, padding=int(knobs.padded))
        self.ln = torch.nn.LayerNorm(SIDE, eps=knobs.eps)
        self.fc1 = torch.nn.Linear(SIDE, SIDE)
        self.gelu = torch.nn.GELU(approximate="tanh" if knobs.tanh else "none")
        self.fc2 = torch.nn.Linear(SIDE, SIDE)
        self.gru = torch.nn.GRU(SIDE, SIDE, batch_first=True)

    def forward(self, x):
        x = self.conv(x).permute(0, 2, 3, 1).flatten(1, 2)
        x = self.fc2(self.gelu(self.fc1(self.ln(x))))
        return self.gru(x)[0].mean(1)


class LinenNet(nn.Module):
    knobs: Knobs

    @nn.compact
    def __call__(self, x):
        padding = 1 if self.knobs.padded else "SAME"
        x = nn.Conv(SIDE, (3, 3), strides=2, padding=padding, name="conv")(x)
        x = nn.LayerNorm(epsilon=self.knobs.eps, name="ln")(x.reshape(len(x), -1, SIDE))
        x = nn.gelu(nn.Dense(SIDE, name="fc1")(x), approximate=self.knobs.tanh)
        x = nn.Dense(SIDE, name="fc2")(x)
        return nn.RNN(nn.GRUCell(SIDE, name="gru"))(x).mean(1)


class NnxNet(nnx.Module):
    def __init__(self, knobs: Knobs) -> None:
        rngs = nnx.Rngs(0)
        padding = 1 if knobs.padded else "SAME"
        self.conv = nnx.Conv(SIDE, SIDE, (3, 3), strides=2, padding=padding, rngs=rngs)
        self.ln = nnx.LayerNorm(SIDE, epsilon=knobs.eps, rngs=rngs)
        self.fc1 = nnx.Linear(SIDE, SIDE, rngs=rngs)
        self.fc2 = nnx.Linear(SIDE, SIDE, rngs=rngs)
        self.gru = nnx.GRUCell(SIDE, SIDE, rngs=rngs)
        self.tanh = knobs.tanh

    def __call__(self, x):
        x = self.ln(self.conv(x).reshape(len(x), -1, SIDE))
        x = self.fc2(nnx.gelu(self.fc1(x), approximate=self.tanh))
        return nnx.RNN(self.gru)(x).mean(1)


@dataclass(frozen=True, slots=True)
class Side:
    """A framework: how a model is made of knobs, what its registry is, how it is run, and how a value of it is changed."""

    name: str
    model: Any
    registry: Callable[[Any], sr.StateRegistry]
    run: Callable[[Any, np.ndarray], np.ndarray]
    make: Callable[[Knobs], Any] = field(repr=False)

    def built(self, knobs: Knobs) -> Side:
        return replace(self, model=self.make(knobs))

    @property
    def reg(self) -> sr.StateRegistry:
        return self.registry(self.model)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return self.run(self.model, x)

    def filled(self, source: Side) -> Side:
        """The side with the state of another, converted."""
        target = sr.convert(source.reg, self.reg, allow=("choice",)).target
        return self.holding(target)

    def holding(self, target: Any) -> Side:
        """The side with native state: Linen's model is a module and variables."""
        return replace(self, model=(self.model[0], target) if self.name == "linen" else target)

    def changed(self, values: dict[str, np.ndarray]) -> Side:
        """The side with other values under some keys, past any plan."""
        return self.holding(self.reg.replace(values).unwrap())


def _run_torch(net: TorchNet, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return net(torch.from_numpy(np.moveaxis(x, -1, 1).copy())).numpy()


def _torch(knobs: Knobs) -> TorchNet:
    torch.manual_seed(0)
    net = TorchNet(knobs).eval()
    with torch.no_grad():
        for tensor in net.parameters():
            tensor.uniform_(-1, 1)
        net.conv.bias.mul_(1e-2)  # or the norm would see it alone
        net.ln.weight.uniform_(1, 2)
        net.gru.bias_hh_l0[2 * SIDE :] = 0  # nnx.GRUCell has no such bias: with one, it would be refused
    return net


def _linen(knobs: Knobs) -> tuple[LinenNet, Any]:
    return LinenNet(knobs), LinenNet(knobs).init(jax.random.key(0), image())


SIDES = {
    "torch": Side("torch", None, sr.of, _run_torch, _torch),
    "linen": Side(
        "linen",
        None,
        lambda model: sr.of(model[1], module=model[0], args=(image(),)),
        lambda model, x: np.asarray(jax.jit(model[0].apply)(model[1], x)),
        _linen,
    ),
    "nnx": Side("nnx", None, sr.of, lambda net, x: np.asarray(nnx.jit(lambda m, y: m(y))(net, x)), NnxNet),
}
PAIRS = [("torch", "linen"), ("torch", "nnx"), ("linen", "nnx"), ("linen", "torch"), ("nnx", "torch"), ("nnx", "linen")]


def source(name: str) -> Side:
    """The model of a framework without any mistake, with the state that the torch model has."""
    made = SIDES[name].built(Knobs())
    return made if name == "torch" else made.filled(SIDES["torch"].built(Knobs()))
