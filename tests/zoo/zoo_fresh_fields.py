"""Fresh pairs of functions: a radiance field counted through, a differential equation whose layer is called many times.

Torch as yenchenlin and rtqichen write them, Flax as `nn.compact` and `setup` do. Widths are equal on purpose wherever the
architecture leaves a choice.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import torch
from flax import linen as nn
from torch import nn as tnn
from torch.nn import functional
from zoo_convnets import image, on_image
from zoo_pairs import Linen, Pair

# -------------------------------------------------------------------- a neural ODE, rtqichen/torchdiffeq


class ConcatConv2d(tnn.Module):
    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self._layer = tnn.Conv2d(dim_in + 1, dim_out, 3, 1, 1)

    def forward(self, t: Any, x: Any) -> Any:
        return self._layer(torch.cat([torch.ones_like(x[:, :1]) * t, x], 1))


class ODEfunc(tnn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm1 = tnn.GroupNorm(4, dim)
        self.conv1 = ConcatConv2d(dim, dim)
        self.norm2 = tnn.GroupNorm(4, dim)
        self.conv2 = ConcatConv2d(dim, dim)
        self.norm3 = tnn.GroupNorm(4, dim)

    def forward(self, t: float, x: Any) -> Any:
        x = self.conv1(t, functional.relu(self.norm1(x)))
        return self.norm3(self.conv2(t, functional.relu(self.norm2(x))))


class ODEBlock(tnn.Module):
    def __init__(self, odefunc: tnn.Module) -> None:
        super().__init__()
        self.odefunc = odefunc

    def forward(self, x: Any) -> Any:
        for step in range(3):
            x = x + 0.1 * self.odefunc(step / 3, x)
        return x


def ode_net() -> tnn.Module:
    """The script of torchdiffeq makes a Sequential of three lists."""
    down = [tnn.Conv2d(1, 12, 3, 1), tnn.GroupNorm(4, 12), tnn.ReLU(inplace=True), tnn.Conv2d(12, 12, 4, 2, 1)]
    last = [
        tnn.GroupNorm(4, 12),
        tnn.ReLU(inplace=True),
        tnn.AdaptiveAvgPool2d((1, 1)),
        tnn.Flatten(),
        tnn.Linear(12, 10),
    ]
    return tnn.Sequential(*down, ODEBlock(ODEfunc(12)), *last)


class LinenOdeFunc(nn.Module):
    def setup(self) -> None:
        self.gn_in = nn.GroupNorm(4, epsilon=1e-5)
        self.gn_mid = nn.GroupNorm(4, epsilon=1e-5)
        self.gn_out = nn.GroupNorm(4, epsilon=1e-5)
        self.conv_in = nn.Conv(12, (3, 3))
        self.conv_mid = nn.Conv(12, (3, 3))

    def __call__(self, x: Any, t: float) -> Any:
        time = jnp.full((*x.shape[:-1], 1), t)
        y = self.conv_in(jnp.concatenate([time, nn.relu(self.gn_in(x))], -1))
        return self.gn_out(self.conv_mid(jnp.concatenate([time, nn.relu(self.gn_mid(y))], -1)))


class LinenOdeNet(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.Conv(12, (3, 3), padding="VALID", name="stem")(x)
        x = nn.Conv(12, (4, 4), 2, 1, name="stem_down")(nn.relu(nn.GroupNorm(4, epsilon=1e-5, name="stem_gn")(x)))
        dynamics = LinenOdeFunc(name="dynamics")
        for step in range(3):
            x = x + 0.1 * dynamics(x, step / 3)
        x = nn.relu(nn.GroupNorm(4, epsilon=1e-5, name="readout_gn")(x))
        return nn.Dense(10, name="readout")(x.mean((1, 2)))


# -------------------------------------------------------------------- pairs

PAIRS = (
    Pair(
        "ode-linen", ode_net, lambda: Linen(LinenOdeNet(), (image(10, 1),)), on_image,
        open=("variables", "files"),
        why="a layer that is called many times; three norms of one width in a block and two outside",
    ),
)  # fmt: skip
