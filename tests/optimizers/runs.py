"""One network in three frameworks, with layers of equal width, and what trains it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from flax import linen, nnx
from torch import nn

import stateregistry as sr


class Torch(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.mid = nn.Linear(width, width)
        self.head = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.body(torch.relu(self.stem(x)))))
        return self.head(torch.relu(self.mid(x.mean((2, 3)))))


class Linen(linen.Module):
    width: int = 8

    @linen.compact
    def __call__(self, x: Any, train: bool = False) -> Any:
        x = linen.relu(linen.Conv(self.width, (3, 3), name="stem")(x))
        x = linen.Conv(self.width, (3, 3), use_bias=False, name="body")(x)
        x = linen.relu(linen.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x)).mean((1, 2))
        return linen.Dense(self.width, name="head")(linen.relu(linen.Dense(self.width, name="mid")(x)))


class Nnx(nnx.Module):
    def __init__(self, width: int = 8) -> None:
        rngs = nnx.Rngs(0)
        self.stem = nnx.Conv(3, width, (3, 3), rngs=rngs)
        self.body = nnx.Conv(width, width, (3, 3), use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)
        self.mid = nnx.Linear(width, width, rngs=rngs)
        self.head = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x = nnx.relu(self.norm(self.body(nnx.relu(self.stem(x)))))
        return self.head(nnx.relu(self.mid(x.mean((1, 2)))))


TORCH = {
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=1e-2, betas=(0.8, 0.95)),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.1),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=1e-2, momentum=0.9),
    "nesterov": lambda parameters: torch.optim.SGD(parameters, lr=1e-2, momentum=0.9, nesterov=True),
}
OPTAX = {
    "adam": lambda: optax.adam(1e-2, b1=0.8, b2=0.95),
    "adamw": lambda: optax.adamw(1e-2, weight_decay=0.1),
    "sgd": lambda: optax.sgd(1e-2, momentum=0.9),
    "nesterov": lambda: optax.sgd(1e-2, momentum=0.9, nesterov=True),
}


def batches(count: int, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Inputs with channels first, and targets."""
    rng = np.random.default_rng(seed)
    return [
        (rng.standard_normal((4, 3, 6, 6)).astype("f"), rng.standard_normal((4, 8)).astype("f")) for _ in range(count)
    ]


@dataclass
class TorchRun:
    """A torch model in training."""

    net: nn.Module
    optimizer: torch.optim.Optimizer

    def step(self, x: np.ndarray, y: np.ndarray) -> float:
        self.net.train()
        self.optimizer.zero_grad()
        loss = ((self.net(torch.from_numpy(x)) - torch.from_numpy(y)) ** 2).mean()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    @property
    def model(self) -> sr.StateRegistry:
        return sr.of(self.net)

    @property
    def state(self) -> sr.StateRegistry:
        return sr.of(self.optimizer, model=self.net)


@jax.jit
def linen_gradients(variables: Any, x: Any, y: Any) -> Any:
    """Loss, new statistics and gradients; compiled once."""

    def loss(params: Any) -> Any:
        out, new = Linen().apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
        return ((out - y) ** 2).mean(), new

    return jax.value_and_grad(loss, has_aux=True)(variables["params"])


@nnx.jit
def nnx_gradients(net: Nnx, x: Any, y: Any) -> Any:
    """Loss and gradients; compiled once."""
    return nnx.value_and_grad(lambda net: ((net(x) - y) ** 2).mean())(net)


@dataclass
class LinenRun:
    """A Linen model in training with a bare optax state."""

    tx: Any
    variables: Any = None
    opt_state: Any = None

    def __post_init__(self) -> None:
        self.module, self.x = Linen(), jnp.zeros((1, 6, 6, 3))
        if self.variables is None:
            self.variables = self.module.init(jax.random.key(1), self.x)
        if self.opt_state is None:
            self.opt_state = self.tx.init(self.variables["params"])

    def step(self, x: np.ndarray, y: np.ndarray) -> float:
        (value, new), grads = linen_gradients(self.variables, x.transpose(0, 2, 3, 1), y)
        updates, self.opt_state = self.tx.update(grads, self.opt_state, self.variables["params"])
        self.variables = {"params": optax.apply_updates(self.variables["params"], updates), **new}
        return float(value)

    @property
    def model(self) -> sr.StateRegistry:
        return sr.of(self.variables, module=self.module, args=(self.x,))

    @property
    def state(self) -> sr.StateRegistry:
        return sr.of(self.opt_state, model=self.model)


@dataclass
class NnxRun:
    """An NNX model in training with an `nnx.Optimizer`."""

    tx: Any

    def __post_init__(self) -> None:
        self.net = Nnx()
        self.optimizer = nnx.Optimizer(self.net, self.tx, wrt=nnx.Param)

    def step(self, x: np.ndarray, y: np.ndarray) -> float:
        self.net.train()
        value, grads = nnx_gradients(self.net, x.transpose(0, 2, 3, 1), y)
        self.optimizer.update(self.net, grads)
        return float(value)

    @property
    def model(self) -> sr.StateRegistry:
        return sr.of(self.net)

    @property
    def state(self) -> sr.StateRegistry:
        return sr.of(self.optimizer, model=self.net)


def run(framework: str, rule: str) -> Any:
    """A fresh model and optimizer."""
    if framework == "torch":
        torch.manual_seed(3)
        net = Torch()
        return TorchRun(net, TORCH[rule](net.parameters()))
    return LinenRun(OPTAX[rule]()) if framework == "flax-linen" else NnxRun(OPTAX[rule]())


def carry(source: Any, target: Any) -> Any:
    """Model and optimizer of one run into another, and what the second conversion was."""
    model = sr.convert(source.model, target.model, allow=("choice",)).target
    if isinstance(target, LinenRun):
        target.variables = model
    done = sr.convert(source.state, target.state)
    if isinstance(target, LinenRun):
        target.opt_state = done.target
    return done
