"""The same small network in three frameworks: square everywhere, so that no shape can hide a wrong axis."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import numpy as np
import torch
from flax import nnx

SIDE = 4  # every channel, feature and vocabulary size


class TorchNet(torch.nn.Module):
    def __init__(self, rank: int = 2, *, groups: int = 1) -> None:
        super().__init__()
        conv = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)[rank - 1]
        norm = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d)[rank - 1]
        self.conv = conv(SIDE, SIDE, SIDE, groups=groups)
        self.bn = norm(SIDE)
        self.ln = torch.nn.LayerNorm(SIDE)
        self.fc = torch.nn.Linear(SIDE, SIDE)
        self.emb = torch.nn.Embedding(SIDE, SIDE)

    def forward(self, image, index):
        x = self.bn(self.conv(image))
        x = x.mean(tuple(range(2, x.ndim)))
        return self.fc(self.ln(x)) + self.emb(index)


class LinenNet(nn.Module):
    rank: int = 2
    groups: int = 1

    @nn.compact
    def __call__(self, image, index):
        x = nn.Conv(SIDE, (SIDE,) * self.rank, padding="VALID", feature_group_count=self.groups, name="conv")(image)
        x = nn.BatchNorm(use_running_average=True, name="bn")(x)
        x = x.mean(tuple(range(1, x.ndim - 1)))
        x = nn.LayerNorm(epsilon=1e-5, name="ln")(x)
        return nn.Dense(SIDE, name="fc")(x) + nn.Embed(SIDE, SIDE, name="emb")(index)


class NnxNet(nnx.Module):
    def __init__(self, rank: int = 2, *, groups: int = 1, rngs: nnx.Rngs | None = None) -> None:
        rngs = rngs or nnx.Rngs(0)
        self.conv = nnx.Conv(SIDE, SIDE, (SIDE,) * rank, padding="VALID", feature_group_count=groups, rngs=rngs)
        self.bn = nnx.BatchNorm(SIDE, use_running_average=True, rngs=rngs)
        self.ln = nnx.LayerNorm(SIDE, epsilon=1e-5, rngs=rngs)
        self.fc = nnx.Linear(SIDE, SIDE, rngs=rngs)
        self.emb = nnx.Embed(SIDE, SIDE, rngs=rngs)

    def __call__(self, image, index):
        x = self.bn(self.conv(image))
        x = x.mean(tuple(range(1, x.ndim - 1)))
        return self.fc(self.ln(x)) + self.emb(index)


def torch_net(rank: int = 2, groups: int = 1, seed: int = 0) -> TorchNet:
    """In evaluation mode, with statistics, scales and a counter that no initialiser gives."""
    torch.manual_seed(seed)
    net = TorchNet(rank, groups=groups).eval()
    with torch.no_grad():
        for tensor in (*net.parameters(), *net.buffers()):
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 2.0)
        net.bn.num_batches_tracked.fill_(2**40 + 7)
    return net


def inputs(rank: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """An image, channels last, and indices."""
    random = np.random.default_rng(1)
    return random.normal(size=(2, *(7,) * rank, SIDE)).astype(np.float32), np.array([1, 3])


def linen_variables(rank: int = 2, groups: int = 1) -> Any:
    return LinenNet(rank, groups).init(jax.random.key(0), *inputs(rank))


def run_torch(net: TorchNet, rank: int = 2) -> np.ndarray:
    image, index = inputs(rank)
    with torch.no_grad():
        return net(torch.from_numpy(np.moveaxis(image, -1, 1).copy()), torch.from_numpy(index)).numpy()


def run_linen(variables: Any, rank: int = 2, groups: int = 1) -> np.ndarray:
    return np.asarray(LinenNet(rank, groups).apply(variables, *inputs(rank)))


def run_nnx(net: NnxNet, rank: int = 2) -> np.ndarray:
    return np.asarray(net(*inputs(rank)))


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    """Within 1e-5 of the scale: what float32 arithmetic in another order may differ by."""
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
