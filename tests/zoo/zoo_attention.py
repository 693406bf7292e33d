"""Pairs of attention over images with foreign names: Swin and SegFormer.

Torch as microsoft and NVlabs write them, Flax as ports with `nn.compact` do. Widths are small.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import torch
from flax import linen as nn
from torch import nn as tnn
from torch.nn import functional
from zoo_convnets import CLASSES, channels_last, image, on_image
from zoo_pairs import Linen, Pair
from zoo_transformers import gelu

DIM, HEADS = 24, 3

# -------------------------------------------------------------------- Swin, microsoft/Swin-Transformer

WINDOW = 4


def relative_index() -> np.ndarray:
    """For every pair of places of a window, the row of the table of biases."""
    grid = np.stack(np.meshgrid(np.arange(WINDOW), np.arange(WINDOW), indexing="ij")).reshape(2, -1)
    apart = (grid[:, :, None] - grid[:, None, :]) + WINDOW - 1
    return apart[0] * (2 * WINDOW - 1) + apart[1]


class WindowAttention(tnn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.relative_position_bias_table = tnn.Parameter(torch.zeros((2 * WINDOW - 1) ** 2, HEADS))
        self.register_buffer("relative_position_index", torch.from_numpy(relative_index()))
        self.qkv = tnn.Linear(dim, dim * 3)
        self.proj = tnn.Linear(dim, dim)

    def forward(self, x: Any) -> Any:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, HEADS, c // HEADS).permute(2, 0, 3, 1, 4)
        bias = self.relative_position_bias_table[self.relative_position_index.reshape(-1)]
        scores = q @ k.transpose(-2, -1) / (c // HEADS) ** 0.5 + bias.reshape(n, n, HEADS).permute(2, 0, 1)
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, n, c))


class SwinMlp(tnn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = tnn.Linear(dim, 4 * dim)
        self.fc2 = tnn.Linear(4 * dim, dim)

    def forward(self, x: Any) -> Any:
        return self.fc2(functional.gelu(self.fc1(x)))


def windows(x: Any, count: int, back: tuple[int, ...] = ()) -> Any:
    """Images as windows, or windows as images again; of either framework's arrays."""
    if back:
        b, c = back
        x = x.reshape(b, count, count, WINDOW, WINDOW, c)
        return (x.permute(0, 1, 3, 2, 4, 5) if hasattr(x, "permute") else x.transpose(0, 1, 3, 2, 4, 5)).reshape(
            b, count * WINDOW, count * WINDOW, c
        )
    b, _, _, c = x.shape
    x = x.reshape(b, count, WINDOW, count, WINDOW, c)
    x = x.permute(0, 1, 3, 2, 4, 5) if hasattr(x, "permute") else x.transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(-1, WINDOW * WINDOW, c)


class SwinBlock(tnn.Module):
    def __init__(self, dim: int, shift: int) -> None:
        super().__init__()
        self.shift = shift
        self.norm1 = tnn.LayerNorm(dim)
        self.attn = WindowAttention(dim)
        self.norm2 = tnn.LayerNorm(dim)
        self.mlp = SwinMlp(dim)

    def forward(self, x: Any) -> Any:
        b, h, _, c = x.shape
        y = torch.roll(self.norm1(x), (-self.shift, -self.shift), (1, 2))
        y = windows(self.attn(windows(y, h // WINDOW)), h // WINDOW, (b, c))
        x = x + torch.roll(y, (self.shift, self.shift), (1, 2))
        return x + self.mlp(self.norm2(x))


class PatchMerging(tnn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reduction = tnn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = tnn.LayerNorm(4 * dim)

    def forward(self, x: Any) -> Any:
        parts = [x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]]
        return self.reduction(self.norm(torch.cat(parts, -1)))


class SwinStage(tnn.Module):
    def __init__(self, dim: int, merge: bool) -> None:
        super().__init__()
        self.blocks = tnn.ModuleList([SwinBlock(dim, 0), SwinBlock(dim, 2)])
        if merge:
            self.downsample = PatchMerging(dim)

    def forward(self, x: Any) -> Any:
        for block in self.blocks:
            x = block(x)
        return self.downsample(x) if hasattr(self, "downsample") else x


class SwinPatches(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = tnn.Conv2d(3, DIM, 2, 2)
        self.norm = tnn.LayerNorm(DIM)

    def forward(self, x: Any) -> Any:
        return self.norm(self.proj(x).movedim(1, -1))


class Swin(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = SwinPatches()
        self.layers = tnn.ModuleList([SwinStage(DIM, True), SwinStage(2 * DIM, False)])
        self.norm = tnn.LayerNorm(2 * DIM)
        self.head = tnn.Linear(2 * DIM, CLASSES)

    def forward(self, x: Any) -> Any:
        x = self.patch_embed(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x).mean((1, 2)))


class LinenWindows(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        b, n, c = x.shape
        table = self.param("rel_pos_bias", nn.initializers.normal(0.02), ((2 * WINDOW - 1) ** 2, HEADS))
        q, k, v = (
            nn.Dense(c, name=f"to_{name}")(x).reshape(b, n, HEADS, c // HEADS).transpose(0, 2, 1, 3) for name in "qkv"
        )
        bias = table[relative_index().reshape(-1)].reshape(n, n, HEADS).transpose(2, 0, 1)
        scores = nn.softmax(q @ k.swapaxes(-1, -2) / (c // HEADS) ** 0.5 + bias)
        return nn.Dense(c, name="to_out")((scores @ v).transpose(0, 2, 1, 3).reshape(b, n, c))


class LinenSwinBlock(nn.Module):
    shift: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        b, h, _, c = x.shape
        y = jnp.roll(nn.LayerNorm(epsilon=1e-5, name="ln_attn")(x), (-self.shift, -self.shift), (1, 2))
        y = windows(LinenWindows(name="window_attn")(windows(y, h // WINDOW)), h // WINDOW, (b, c))
        x = x + jnp.roll(y, (self.shift, self.shift), (1, 2))
        y = nn.Dense(4 * c, name="mlp_in")(nn.LayerNorm(epsilon=1e-5, name="ln_mlp")(x))
        return x + nn.Dense(c, name="mlp_out")(gelu(y))


class LinenSwin(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.LayerNorm(epsilon=1e-5, name="stem_ln")(nn.Conv(DIM, (2, 2), (2, 2), name="stem")(x))
        for number, shift in enumerate((0, 2, 0, 2)):
            if number == 2:
                parts = [x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]]
                x = nn.LayerNorm(epsilon=1e-5, name="merge_ln")(jnp.concatenate(parts, -1))
                x = nn.Dense(2 * DIM, use_bias=False, name="merge")(x)
            x = LinenSwinBlock(shift, name=f"block{number}")(x)
        return nn.Dense(CLASSES, name="fc")(nn.LayerNorm(epsilon=1e-5, name="ln_f")(x).mean((1, 2)))


# -------------------------------------------------------------------- SegFormer, NVlabs


class DWConv(tnn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = tnn.Conv2d(dim, dim, 3, 1, 1, groups=dim)

    def forward(self, x: Any, size: int) -> Any:
        b, _, c = x.shape
        return self.dwconv(x.transpose(1, 2).reshape(b, c, size, size)).flatten(2).transpose(1, 2)


class MixMlp(tnn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = tnn.Linear(dim, 4 * dim)
        self.dwconv = DWConv(4 * dim)
        self.fc2 = tnn.Linear(4 * dim, dim)

    def forward(self, x: Any, size: int) -> Any:
        return self.fc2(functional.gelu(self.dwconv(self.fc1(x), size)))


class EfficientAttention(tnn.Module):
    def __init__(self, dim: int, ratio: int) -> None:
        super().__init__()
        self.q = tnn.Linear(dim, dim)
        self.kv = tnn.Linear(dim, dim * 2)
        self.proj = tnn.Linear(dim, dim)
        self.ratio = ratio
        if ratio > 1:
            self.sr = tnn.Conv2d(dim, dim, ratio, ratio)
            self.norm = tnn.LayerNorm(dim)

    def forward(self, x: Any, size: int) -> Any:
        b, _, c = x.shape
        q, y = self.q(x), x
        if self.ratio > 1:
            y = self.sr(x.transpose(1, 2).reshape(b, c, size, size)).flatten(2).transpose(1, 2)
            y = self.norm(y)
        k, v = self.kv(y).reshape(b, -1, 2, c).permute(2, 0, 1, 3)
        scores = (q @ k.transpose(-1, -2) / c**0.5).softmax(-1)
        return self.proj(scores @ v)


class MixBlock(tnn.Module):
    def __init__(self, dim: int, ratio: int) -> None:
        super().__init__()
        self.norm1 = tnn.LayerNorm(dim, eps=1e-6)
        self.attn = EfficientAttention(dim, ratio)
        self.norm2 = tnn.LayerNorm(dim, eps=1e-6)
        self.mlp = MixMlp(dim)

    def forward(self, x: Any, size: int) -> Any:
        x = x + self.attn(self.norm1(x), size)
        return x + self.mlp(self.norm2(x), size)


class OverlapPatchEmbed(tnn.Module):
    def __init__(self, inner: int, dim: int) -> None:
        super().__init__()
        self.proj = tnn.Conv2d(inner, dim, 3, 2, 1)
        self.norm = tnn.LayerNorm(dim)

    def forward(self, x: Any) -> Any:
        x = self.proj(x)
        return self.norm(x.flatten(2).transpose(1, 2)), x.shape[-1]


class SegFormer(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        for number, (inner, dim, ratio) in enumerate(((3, 12, 2), (12, 20, 1)), start=1):
            setattr(self, f"patch_embed{number}", OverlapPatchEmbed(inner, dim))
            setattr(self, f"block{number}", tnn.ModuleList([MixBlock(dim, ratio) for _ in range(2)]))
            setattr(self, f"norm{number}", tnn.LayerNorm(dim, eps=1e-6))
        self.linear_c1 = tnn.Linear(12, 16)
        self.linear_c2 = tnn.Linear(20, 16)
        self.linear_fuse = tnn.Conv2d(32, 16, 1)
        self.linear_pred = tnn.Conv2d(16, CLASSES, 1)

    def forward(self, x: Any) -> Any:
        found = []
        for number in (1, 2):
            x, size = getattr(self, f"patch_embed{number}")(x)
            for block in getattr(self, f"block{number}"):
                x = block(x, size)
            x = getattr(self, f"norm{number}")(x)
            y = getattr(self, f"linear_c{number}")(x)
            found.append(y.transpose(1, 2).reshape(x.shape[0], -1, size, size))
            x = x.transpose(1, 2).reshape(x.shape[0], -1, size, size)
        coarse = functional.interpolate(found[1], scale_factor=2, mode="nearest")
        return channels_last(self.linear_pred(functional.relu(self.linear_fuse(torch.cat([found[0], coarse], 1)))))


class LinenMixBlock(nn.Module):
    ratio: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        b, h, w, c = x.shape
        y = nn.LayerNorm(name="norm_attn")(x)
        q = nn.Dense(c, name="query")(y).reshape(b, -1, c)
        if self.ratio > 1:
            y = nn.Conv(c, (self.ratio, self.ratio), (self.ratio, self.ratio), name="reduce")(y)
            y = nn.LayerNorm(epsilon=1e-5, name="reduce_norm")(y)
        k, v = (nn.Dense(c, name=name)(y).reshape(b, -1, c) for name in ("key", "value"))
        y = nn.softmax(q @ k.swapaxes(-1, -2) / c**0.5) @ v
        x = x + nn.Dense(c, name="out")(y).reshape(b, h, w, c)
        y = nn.Dense(4 * c, name="ffn_in")(nn.LayerNorm(name="norm_ffn")(x))
        y = gelu(nn.Conv(4 * c, (3, 3), feature_group_count=4 * c, name="ffn_depthwise")(y))
        return x + nn.Dense(c, name="ffn_out")(y)


class LinenSegFormer(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        found = []
        for stage, (dim, ratio) in enumerate(((12, 2), (20, 1))):
            x = nn.Conv(dim, (3, 3), (2, 2), ((1, 1), (1, 1)), name=f"stage{stage}_embed")(x)
            x = nn.LayerNorm(epsilon=1e-5, name=f"stage{stage}_embed_norm")(x)
            for number in range(2):
                x = LinenMixBlock(ratio, name=f"stage{stage}_block{number}")(x)
            x = nn.LayerNorm(name=f"stage{stage}_norm")(x)
            found.append(nn.Dense(16, name=f"head_{stage}")(x))
        coarse = jnp.repeat(jnp.repeat(found[1], 2, 1), 2, 2)
        y = nn.relu(nn.Dense(16, name="fuse")(jnp.concatenate([found[0], coarse], -1)))
        return nn.Dense(CLASSES, name="classifier")(y)


# -------------------------------------------------------------------- pairs

PAIRS = (
    Pair(
        "swin-linen", Swin, lambda: Linen(LinenSwin(), (image(16),)), on_image,
        allow={"always": ("assumption", "unexpected", "missing")},
        why="a fused qkv against three layers, tables of relative positions, a buffer of indices on one side",
    ),
    Pair(
        "segformer-linen", SegFormer, lambda: Linen(LinenSegFormer(), (image(16),)), on_image,
        allow={"always": ("assumption",)}, rules={"block1/{i}/attn/norm": "stage0_block{i}/reduce_norm"},
        why="a fused kv, a norm inside of the attention, depthwise convolutions inside of the mlp",
    ),
)  # fmt: skip
