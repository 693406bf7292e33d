"""MLP-Mixer: a Sequential of residuals by lucidrains against google-research's Linen module.

Widths are small; the trees and the names are those of the originals.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from torch import nn as tnn
from zoo_convnets import CLASSES, image, on_image
from zoo_pairs import Linen, Pair
from zoo_transformers import DEPTH, DIM, gelu

# -------------------------------------------------------------------- MLP-Mixer: lucidrains, google-research


class PreNormResidual(tnn.Module):
    def __init__(self, dim: int, fn: Any) -> None:
        super().__init__()
        self.fn = fn
        self.norm = tnn.LayerNorm(dim)

    def forward(self, x: Any) -> Any:
        return self.fn(self.norm(x)) + x


class Patches(tnn.Module):
    """`Rearrange('b c (h p1) (w p2) -> b (h w) (p1 p2 c)')`."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Any) -> Any:
        b, c, h, w = x.shape
        p = self.size
        return x.view(b, c, h // p, p, w // p, p).permute(0, 2, 4, 3, 5, 1).reshape(b, (h // p) * (w // p), p * p * c)


class Mean(tnn.Module):
    def forward(self, x: Any) -> Any:
        return x.mean(1)


def _feed_forward(dim: int, hidden: int, dense: Any) -> tnn.Sequential:
    return tnn.Sequential(dense(dim, hidden), tnn.GELU(), tnn.Dropout(0.0), dense(hidden, dim), tnn.Dropout(0.0))


def mixer() -> tnn.Sequential:
    """lucidrains/mlp-mixer-pytorch: a linear layer of patches, convolutions of width 1 that mix tokens."""

    def pointwise(din: int, dout: int) -> tnn.Conv1d:
        return tnn.Conv1d(din, dout, 1)

    return tnn.Sequential(
        Patches(4),
        tnn.Linear(48, DIM),
        *[
            tnn.Sequential(
                PreNormResidual(DIM, _feed_forward(16, 40, pointwise)),
                PreNormResidual(DIM, _feed_forward(DIM, 32, tnn.Linear)),
            )
            for _ in range(DEPTH)
        ],
        tnn.LayerNorm(DIM),
        Mean(),
        tnn.Linear(DIM, CLASSES),
    )


class MixerMlp(nn.Module):
    mlp_dim: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.Dense(x.shape[-1])(gelu(nn.Dense(self.mlp_dim)(x)))


class MixerBlock(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        y = jnp.swapaxes(nn.LayerNorm(epsilon=1e-5)(x), 1, 2)
        x = x + jnp.swapaxes(MixerMlp(40, name="token_mixing")(y), 1, 2)
        return x + MixerMlp(32, name="channel_mixing")(nn.LayerNorm(epsilon=1e-5)(x))


class LinenMixer(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.Conv(DIM, (4, 4), strides=(4, 4), name="stem")(x)
        x = x.reshape(x.shape[0], -1, DIM)
        for _ in range(DEPTH):
            x = MixerBlock()(x)
        x = nn.LayerNorm(epsilon=1e-5, name="pre_head_layer_norm")(x)
        return nn.Dense(CLASSES, name="head")(x.mean(1))


# -------------------------------------------------------------------- pairs

PAIRS = (
    Pair(
        "mixer-linen", mixer, lambda: Linen(LinenMixer(), (image(16),)), on_image, allow={"always": ("assumption",)},
        why="a linear layer of patches, flattened in an order that nothing says, against a convolution",
    ),
)  # fmt: skip
