"""More pairs of agents and graphs: twin critics, a shared trunk, neighbours beside oneself.

Torch as pranz24, cleanrl, PyG and lucidrains write it, Flax as `nn.compact` and `setup` do.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import torch
from flax import linen as nn
from torch import nn as tnn
from zoo_convnets import image, on_image
from zoo_layers import BN, D
from zoo_pairs import Linen, Pair
from zoo_recurrent import features
from zoo_transformers import on_args

# -------------------------------------------------------------------- the critics of SAC, pranz24


class QNetwork(tnn.Module):
    def __init__(self, s: Any = 6, a: Any = 2, h: Any = 16) -> None:
        super().__init__()
        self.linear1, self.linear2, self.linear3 = (tnn.Linear(s + a, h), tnn.Linear(h, h), tnn.Linear(h, 1))
        self.linear4, self.linear5, self.linear6 = (tnn.Linear(s + a, h), tnn.Linear(h, h), tnn.Linear(h, 1))

    def forward(self, s: Any, a: Any) -> Any:
        x, r = (torch.cat([s, a], 1), torch.relu)
        return (
            self.linear3(r(self.linear2(r(self.linear1(x))))),
            2 * self.linear6(r(self.linear5(r(self.linear4(x))))),
        )


class JCritic(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.relu(D(16)(x))
        x = nn.relu(D(16)(x))
        return D(1)(x)


class JDouble(nn.Module):
    @nn.compact
    def __call__(self, s: Any, a: Any) -> Any:
        x = jnp.concatenate([s, a], 1)
        return (JCritic(name="critic_0")(x), 2 * JCritic(name="critic_1")(x))


# -------------------------------------------------------------------- PPO on Atari, cleanrl


class PpoAgent(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = tnn.Sequential(
            tnn.Conv2d(4, 8, 3, 2),
            tnn.ReLU(),
            tnn.Conv2d(8, 8, 3),
            tnn.ReLU(),
            tnn.AdaptiveAvgPool2d(1),
            tnn.Flatten(),
            tnn.Linear(8, 8),
            tnn.ReLU(),
            tnn.Linear(8, 8),
            tnn.ReLU(),
        )
        self.actor, self.critic = (tnn.Linear(8, 6), tnn.Linear(8, 1))

    def forward(self, x: Any) -> Any:
        h = self.network(x)
        return (self.actor(h), self.critic(h))


class JTorso(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.relu(nn.Conv(8, (3, 3), 2, "VALID")(x))
        x = nn.relu(nn.Conv(8, (3, 3), 1, "VALID")(x)).mean((1, 2))
        x = nn.relu(D(8)(x))
        return nn.relu(D(8)(x))


class JPpo(nn.Module):
    def setup(self) -> None:
        self.torso, self.policy_head, self.value_head = (JTorso(), D(6), D(1))

    def __call__(self, x: Any) -> Any:
        h = self.torso(x)
        return (self.policy_head(h), self.value_head(h))


# -------------------------------------------------------------------- GraphSAGE, PyG


def adj() -> Any:
    return (np.random.default_rng(3).random((6, 6)) > 0.5).astype(np.float32)


class SAGEConv(tnn.Module):
    def __init__(self, i: Any, o: Any) -> None:
        super().__init__()
        self.lin_l, self.lin_r = (tnn.Linear(i, o), tnn.Linear(i, o, bias=False))

    def forward(self, x: Any, a: Any) -> Any:
        return self.lin_l(a @ x / a.sum(-1, keepdim=True).clamp(min=1)) + self.lin_r(x)


class SAGE(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convs = tnn.ModuleList([SAGEConv(8, 8) for _ in range(3)])
        self.bns = tnn.ModuleList([tnn.BatchNorm1d(8) for _ in range(2)])

    def forward(self, x: Any, a: Any) -> Any:
        for c, b in zip(self.convs, self.bns, strict=False):
            x = torch.relu(b(c(x, a)))
        return self.convs[-1](x, a)


class JSage(nn.Module):
    @nn.compact
    def __call__(self, x: Any, a: Any) -> Any:
        for i in range(3):
            m = a @ x / jnp.maximum(a.sum(-1, keepdims=True), 1)
            x = D(8, f"self_{i}", False)(x) + D(8, f"neighbours_{i}")(m)
            if i < 2:
                x = nn.relu(BN(f"norm_{i}")(x))
        return x


# -------------------------------------------------------------------- pairs


PAIRS = (
    Pair(
        "sac-critic-linen",
        QNetwork,
        lambda: Linen(JDouble(), (features(3, 6), features(3, 2))),
        on_args,
        why="two networks in six numbered layers against two modules",
    ),
    Pair(
        "ppo-atari-linen",
        PpoAgent,
        lambda: Linen(JPpo(), (image(9, 4),)),
        on_image,
        why="a trunk in one Sequential, two square layers in a row, heads told by their sizes",
    ),
    Pair(
        "graphsage-linen",
        SAGE,
        lambda: Linen(JSage(), (features(6, 8), adj())),
        on_args,
        why="square layers with and without a bias; lists side by side against flat names",
    ),
)
