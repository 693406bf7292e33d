"""Fresh pairs of convolutional networks: grouped convolutions, parallel branches, shuffled channels, fused bottlenecks.

Torch as Cadene, torchvision and timm write them, Flax as `nn.compact` and NNX do. Widths are equal on purpose wherever the
architecture leaves a choice.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import torch
from flax import nnx
from torch import nn as tnn
from torch.nn import functional
from zoo_convnets import image, on_image
from zoo_pairs import Nnx, Pair

# -------------------------------------------------------------------- Inception-v3, torchvision


class BasicConv2d(tnn.Module):
    def __init__(self, in_channels: int, out_channels: int, **kwargs: Any) -> None:
        super().__init__()
        self.conv = tnn.Conv2d(in_channels, out_channels, bias=False, **kwargs)
        self.bn = tnn.BatchNorm2d(out_channels, eps=0.001)

    def forward(self, x: Any) -> Any:
        return functional.relu(self.bn(self.conv(x)))


class InceptionA(tnn.Module):
    def __init__(self, in_channels: int, pool_features: int) -> None:
        super().__init__()
        self.branch1x1 = BasicConv2d(in_channels, 16, kernel_size=1)
        self.branch5x5_1 = BasicConv2d(in_channels, 12, kernel_size=1)
        self.branch5x5_2 = BasicConv2d(12, 16, kernel_size=5, padding=2)
        self.branch3x3dbl_1 = BasicConv2d(in_channels, 16, kernel_size=1)
        self.branch3x3dbl_2 = BasicConv2d(16, 24, kernel_size=3, padding=1)
        self.branch3x3dbl_3 = BasicConv2d(24, 24, kernel_size=3, padding=1)
        self.branch_pool = BasicConv2d(in_channels, pool_features, kernel_size=1)

    def forward(self, x: Any) -> Any:
        five = self.branch5x5_2(self.branch5x5_1(x))
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        pool = self.branch_pool(functional.avg_pool2d(x, 3, 1, 1))
        return torch.cat([self.branch1x1(x), five, three, pool], 1)


class InceptionC(tnn.Module):
    def __init__(self, in_channels: int, channels_7x7: int) -> None:
        super().__init__()
        c7 = channels_7x7
        self.branch1x1 = BasicConv2d(in_channels, 16, kernel_size=1)
        self.branch7x7_1 = BasicConv2d(in_channels, c7, kernel_size=1)
        self.branch7x7_2 = BasicConv2d(c7, c7, kernel_size=(1, 7), padding=(0, 3))
        self.branch7x7_3 = BasicConv2d(c7, 16, kernel_size=(7, 1), padding=(3, 0))
        self.branch7x7dbl_1 = BasicConv2d(in_channels, c7, kernel_size=1)
        self.branch7x7dbl_2 = BasicConv2d(c7, c7, kernel_size=(7, 1), padding=(3, 0))
        self.branch7x7dbl_3 = BasicConv2d(c7, 16, kernel_size=(1, 7), padding=(0, 3))
        self.branch_pool = BasicConv2d(in_channels, 16, kernel_size=1)

    def forward(self, x: Any) -> Any:
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        pool = self.branch_pool(functional.avg_pool2d(x, 3, 1, 1))
        return torch.cat([self.branch1x1(x), seven, double, pool], 1)


class Inception3(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = BasicConv2d(3, 8, kernel_size=3, stride=2)
        self.Conv2d_2b_3x3 = BasicConv2d(8, 16, kernel_size=3, padding=1)
        self.Mixed_5b = InceptionA(16, 8)
        self.Mixed_5c = InceptionA(64, 8)
        self.Mixed_6b = InceptionC(64, 12)
        self.fc = tnn.Linear(64, 10)

    def forward(self, x: Any) -> Any:
        x = self.Conv2d_2b_3x3(self.Conv2d_1a_3x3(x))
        return self.fc(self.Mixed_6b(self.Mixed_5c(self.Mixed_5b(x))).mean((2, 3)))


class NnxUnit(nnx.Module):
    def __init__(
        self, inside: int, outside: int, size: tuple[int, int], strides: int = 1, pad: str = "SAME", *, rngs: nnx.Rngs
    ):
        self.norm = nnx.BatchNorm(outside, use_running_average=True, epsilon=1e-3, rngs=rngs)
        self.kernel = nnx.Conv(inside, outside, size, strides, padding=pad, use_bias=False, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return nnx.relu(self.norm(self.kernel(x)))


class NnxMixed(nnx.Module):
    """Branches as lists of (width, size), from left to right, the last one pooled."""

    def __init__(self, inside: int, branches: Any, *, rngs: nnx.Rngs) -> None:
        made = []
        for branch in branches:
            width, units = inside, []
            for outside, size in branch:
                units.append(NnxUnit(width, outside, size, rngs=rngs))
                width = outside
            made.append(nnx.Sequential(*units))
        self.branches = nnx.List(made)

    def __call__(self, x: Any) -> Any:
        pooled = nnx.avg_pool(x, (3, 3), (1, 1), "SAME")
        last = len(self.branches) - 1
        return jnp.concatenate([run(pooled if n == last else x) for n, run in enumerate(self.branches)], -1)


class NnxInception(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        one, tall, wide = (1, 1), (7, 1), (1, 7)
        self.head = nnx.Linear(64, 10, rngs=rngs)
        self.stem = nnx.Sequential(NnxUnit(3, 8, (3, 3), 2, "VALID", rngs=rngs), NnxUnit(8, 16, (3, 3), rngs=rngs))
        small = [[(16, one)], [(12, one), (16, (5, 5))], [(16, one), (24, (3, 3)), (24, (3, 3))], [(8, one)]]
        large = [[(16, one)], [(12, one), (12, wide), (16, tall)], [(12, one), (12, tall), (16, wide)], [(16, one)]]
        self.mixed = nnx.List(
            [NnxMixed(16, small, rngs=rngs), NnxMixed(64, small, rngs=rngs), NnxMixed(64, large, rngs=rngs)]
        )

    def __call__(self, x: Any) -> Any:
        x = self.stem(x)
        for block in self.mixed:
            x = block(x)
        return self.head(x.mean((1, 2)))


# -------------------------------------------------------------------- pairs

#: Two branches are one convolution of one size; which of them is pooled is said by no shape.
INCEPTION_RULES = {
    "Mixed_6b/branch1x1/conv": "mixed/2/branches/0/layers/0/kernel",
    "Mixed_6b/branch1x1/bn": "mixed/2/branches/0/layers/0/norm",
}

PAIRS = (
    Pair(
        "inception-nnx", Inception3, lambda: Nnx(lambda: NnxInception(nnx.Rngs(0)), (image(12),)), on_image,
        rules=INCEPTION_RULES,
        why="parallel branches by name against lists in a list, two of one size in a block",
    ),
)  # fmt: skip
