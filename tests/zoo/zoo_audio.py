"""Pairs of audio with foreign names: WaveNet and Conformer.

Torch as r9y9 and lucidrains write them, Flax as `nn.compact` does. Widths are small.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import torch
from flax import linen as nn
from torch import nn as tnn
from torch.nn import functional
from zoo_pairs import Linen, Pair
from zoo_recurrent import features
from zoo_transformers import on_args

DIM, HEADS, CLASSES = 24, 3, 6


def layer_norm(name: str | None = None) -> nn.Module:
    return nn.LayerNorm(epsilon=1e-5, name=name)


# -------------------------------------------------------------------- WaveNet, r9y9/wavenet_vocoder


class ResidualConv1dGLU(tnn.Module):
    def __init__(self, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.conv_filter = tnn.Conv1d(10, 14, 2, dilation=dilation)
        self.conv_gate = tnn.Conv1d(10, 14, 2, dilation=dilation)
        self.conv1x1_out = tnn.Conv1d(14, 10, 1)
        self.conv1x1_skip = tnn.Conv1d(14, 12, 1)

    def forward(self, x: Any) -> Any:
        y = functional.pad(x, (self.dilation, 0))
        y = torch.tanh(self.conv_filter(y)) * torch.sigmoid(self.conv_gate(y))
        return x + self.conv1x1_out(y), self.conv1x1_skip(y)


class WaveNet(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first_conv = tnn.Conv1d(3, 10, 1)
        self.conv_layers = tnn.ModuleList([ResidualConv1dGLU(2**n) for _ in range(2) for n in range(3)])
        self.last_conv_layers = tnn.ModuleList([tnn.ReLU(), tnn.Conv1d(12, 12, 1), tnn.ReLU(), tnn.Conv1d(12, 9, 1)])

    def forward(self, x: Any) -> Any:
        x, skips = self.first_conv(x), 0
        for layer in self.conv_layers:
            x, skip = layer(x)
            skips = skips + skip
        for layer in self.last_conv_layers:
            skips = layer(skips)
        return skips.movedim(1, -1)


class LinenWaveLayer(nn.Module):
    dilation: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        def conv(name: str) -> Any:
            return nn.Conv(14, (2,), kernel_dilation=self.dilation, padding="CAUSAL", name=name)(x)

        y = jnp.tanh(conv("filter")) * nn.sigmoid(conv("gate"))
        return x + nn.Dense(10, name="residual")(y), nn.Dense(12, name="skip")(y)


class LinenWaveNet(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        x, skips = nn.Dense(10, name="embed")(x), 0
        for number in range(6):
            x, skip = LinenWaveLayer(2 ** (number % 3), name=f"dilated_{number}")(x)
            skips = skips + skip
        return nn.Dense(9, name="post_1")(nn.relu(nn.Dense(12, name="post_0")(nn.relu(skips))))


# -------------------------------------------------------------------- Conformer, lucidrains/conformer


class Scaled(tnn.Module):
    def __init__(self, scale: float, fn: tnn.Module) -> None:
        super().__init__()
        self.fn, self.scale = fn, scale

    def forward(self, x: Any) -> Any:
        return self.fn(x) * self.scale


class PreNorm(tnn.Module):
    def __init__(self, fn: tnn.Module) -> None:
        super().__init__()
        self.fn = fn
        self.norm = tnn.LayerNorm(DIM)

    def forward(self, x: Any) -> Any:
        return self.fn(self.norm(x))


class ConformerAttention(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.to_q = tnn.Linear(DIM, DIM, bias=False)
        self.to_kv = tnn.Linear(DIM, 2 * DIM, bias=False)
        self.to_out = tnn.Linear(DIM, DIM)

    def forward(self, x: Any) -> Any:
        b, n, _ = x.shape
        parts = (self.to_q(x), *self.to_kv(x).chunk(2, -1))
        q, k, v = (part.reshape(b, n, HEADS, -1).transpose(1, 2) for part in parts)
        return self.to_out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, DIM))


class ConformerFeedForward(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = tnn.Sequential(
            tnn.Linear(DIM, 40), tnn.SiLU(), tnn.Dropout(0.0), tnn.Linear(40, DIM), tnn.Dropout(0.0)
        )

    def forward(self, x: Any) -> Any:
        return self.net(x)


class ConvModule(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = tnn.Sequential(
            tnn.LayerNorm(DIM), tnn.Identity(), tnn.Conv1d(DIM, 4 * DIM, 1), tnn.GLU(dim=1),
            tnn.Conv1d(2 * DIM, 2 * DIM, 5, padding=2, groups=2 * DIM), tnn.BatchNorm1d(2 * DIM), tnn.SiLU(),
            tnn.Conv1d(2 * DIM, DIM, 1),
        )  # fmt: skip

    def forward(self, x: Any) -> Any:
        x = self.net[0](x).transpose(1, 2)
        return self.net[2:](x).transpose(1, 2)


class ConformerBlock(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ff1 = Scaled(0.5, PreNorm(ConformerFeedForward()))
        self.attn = PreNorm(ConformerAttention())
        self.conv = ConvModule()
        self.ff2 = Scaled(0.5, PreNorm(ConformerFeedForward()))
        self.post_norm = tnn.LayerNorm(DIM)

    def forward(self, x: Any) -> Any:
        x = x + self.ff1(x)
        x = x + self.attn(x)
        x = x + self.conv(x)
        return self.post_norm(x + self.ff2(x))


class Conformer(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = tnn.ModuleList([ConformerBlock() for _ in range(2)])

    def forward(self, x: Any) -> Any:
        for layer in self.layers:
            x = layer(x)
        return x


class LinenFeedForward(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.Dense(DIM, name="linear_2")(nn.silu(nn.Dense(40, name="linear_1")(layer_norm("layer_norm")(x))))


class LinenConvModule(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.glu(nn.Conv(4 * DIM, (1,), name="pointwise_1")(layer_norm("layer_norm")(x)))
        x = nn.Conv(2 * DIM, (5,), feature_group_count=2 * DIM, name="depthwise")(x)
        return nn.Conv(DIM, (1,), name="pointwise_2")(nn.silu(nn.BatchNorm(use_running_average=True, name="bn")(x)))


class LinenConformerAttention(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        b, n, _ = x.shape
        x = layer_norm("layer_norm")(x)
        q, k, v = (
            nn.Dense(DIM, use_bias=False, name=f"{name}_proj")(x).reshape(b, n, HEADS, -1).transpose(0, 2, 1, 3)
            for name in ("query", "key", "value")
        )
        x = nn.softmax(q @ k.swapaxes(-1, -2) / (DIM // HEADS) ** 0.5) @ v
        return nn.Dense(DIM, name="out_proj")(x.transpose(0, 2, 1, 3).reshape(b, n, DIM))


class LinenConformerBlock(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = x + 0.5 * LinenFeedForward(name="ffn_1")(x)
        x = x + LinenConformerAttention(name="mha")(x)
        x = x + LinenConvModule(name="conv_module")(x)
        return layer_norm("final_norm")(x + 0.5 * LinenFeedForward(name="ffn_2")(x))


class LinenConformer(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        for number in range(2):
            x = LinenConformerBlock(name=f"conformer_{number}")(x)
        return x


# -------------------------------------------------------------------- pairs

PAIRS = (
    Pair(
        "wavenet-linen", WaveNet, lambda: Linen(LinenWaveNet(), (features(2, 20, 3),)),
        lambda model, side: model(torch.from_numpy(np.moveaxis(side.args[0], -1, 1).copy())),
        why="gated dilated convolutions; convolutions of one place against dense layers, residual and skip",
    ),
    Pair(
        "conformer-linen", Conformer, lambda: Linen(LinenConformer(), (features(2, 9, DIM),)), on_args,
        allow={"always": ("assumption",)}, why="two feed-forwards of one size in a block, a fused kv, three kinds of norm",
    ),
)  # fmt: skip
