"""Convolutional pairs with foreign names: DenseNet, GoogLeNet, EfficientNet, and a generator whose kernels are modulated.

Torch as torchvision, timm and rosinality write them, Flax as `nn.compact` and NNX do. Widths are small.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import torch
from flax import linen as nn
from flax import nnx
from torch import nn as tnn
from torch.nn import functional
from zoo_convnets import CLASSES, channels_last, image, on_image
from zoo_pairs import Linen, Nnx, Pair
from zoo_recurrent import features
from zoo_transformers import on_args

GROWTH = 6


def norm(**options: Any) -> nn.Module:
    return nn.BatchNorm(use_running_average=True, **options)


# -------------------------------------------------------------------- DenseNet, torchvision


class DenseLayer(tnn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = tnn.BatchNorm2d(width)
        self.conv1 = tnn.Conv2d(width, 2 * GROWTH, 1, bias=False)
        self.norm2 = tnn.BatchNorm2d(2 * GROWTH)
        self.conv2 = tnn.Conv2d(2 * GROWTH, GROWTH, 3, padding=1, bias=False)

    def forward(self, x: Any) -> Any:
        y = self.conv1(functional.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(functional.relu(self.norm2(y)))], 1)


class Transition(tnn.Sequential):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.add_module("norm", tnn.BatchNorm2d(width))
        self.add_module("relu", tnn.ReLU())
        self.add_module("conv", tnn.Conv2d(width, width // 2, 1, bias=False))
        self.add_module("pool", tnn.AvgPool2d(2))


class DenseNet(tnn.Module):
    def __init__(self, sizes: tuple[int, ...] = (2, 3)) -> None:
        super().__init__()
        self.features = tnn.Sequential()
        self.features.add_module("conv0", tnn.Conv2d(3, 12, 3, padding=1, bias=False))
        self.features.add_module("norm0", tnn.BatchNorm2d(12))
        self.features.add_module("relu0", tnn.ReLU())
        width = 12
        for number, size in enumerate(sizes, start=1):
            block = tnn.Sequential()
            for layer in range(size):
                block.add_module(f"denselayer{layer + 1}", DenseLayer(width))
                width += GROWTH
            self.features.add_module(f"denseblock{number}", block)
            if number < len(sizes):
                self.features.add_module(f"transition{number}", Transition(width))
                width //= 2
        self.features.add_module("norm5", tnn.BatchNorm2d(width))
        self.classifier = tnn.Linear(width, CLASSES)

    def forward(self, x: Any) -> Any:
        return self.classifier(functional.relu(self.features(x)).mean((2, 3)))


class LinenDenseLayer(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        y = nn.Conv(2 * GROWTH, (1, 1), use_bias=False)(nn.relu(norm()(x)))
        y = nn.Conv(GROWTH, (3, 3), use_bias=False)(nn.relu(norm()(y)))
        return jnp.concatenate([x, y], -1)


class LinenTransition(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.Conv(x.shape[-1] // 2, (1, 1), use_bias=False)(nn.relu(norm()(x)))
        return nn.avg_pool(x, (2, 2), (2, 2))


class LinenDenseNet(nn.Module):
    sizes: tuple[int, ...] = (2, 3)

    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.relu(norm()(nn.Conv(12, (3, 3), use_bias=False)(x)))
        for number, size in enumerate(self.sizes):
            for _ in range(size):
                x = LinenDenseLayer()(x)
            if number < len(self.sizes) - 1:
                x = LinenTransition()(x)
        return nn.Dense(CLASSES)(nn.relu(norm()(x)).mean((1, 2)))


# -------------------------------------------------------------------- GoogLeNet, torchvision


class BasicConv2d(tnn.Module):
    def __init__(self, inner: int, outer: int, size: int) -> None:
        super().__init__()
        self.conv = tnn.Conv2d(inner, outer, size, padding=size // 2, bias=False)
        self.bn = tnn.BatchNorm2d(outer, eps=0.001)

    def forward(self, x: Any) -> Any:
        return functional.relu(self.bn(self.conv(x)))


class Inception(tnn.Module):
    def __init__(self, inner: int, widths: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        one, red3, three, red5, five, pool = widths
        self.branch1 = BasicConv2d(inner, one, 1)
        self.branch2 = tnn.Sequential(BasicConv2d(inner, red3, 1), BasicConv2d(red3, three, 3))
        self.branch3 = tnn.Sequential(BasicConv2d(inner, red5, 1), BasicConv2d(red5, five, 3))
        self.branch4 = tnn.Sequential(tnn.MaxPool2d(3, 1, 1), BasicConv2d(inner, pool, 1))

    def forward(self, x: Any) -> Any:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


#: As in the paper two branches have equal sizes in places; which is which their order of calls says.
INCEPTIONS = ((8, 6, 10, 4, 8, 6), (10, 8, 12, 4, 8, 8))


class GoogLeNet(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = BasicConv2d(3, 8, 5)
        self.conv2 = BasicConv2d(8, 16, 3)
        self.inception3a = Inception(16, INCEPTIONS[0])
        self.inception3b = Inception(32, INCEPTIONS[1])
        self.fc = tnn.Linear(38, CLASSES)

    def forward(self, x: Any) -> Any:
        x = functional.max_pool2d(self.conv2(self.conv1(x)), 2)
        return self.fc(self.inception3b(self.inception3a(x)).mean((2, 3)))


class ConvBn(nn.Module):
    features: int
    size: int = 1

    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.Conv(self.features, (self.size, self.size), use_bias=False)(x)
        return nn.relu(norm(epsilon=0.001)(x))


class InceptionModule(nn.Module):
    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Any) -> Any:
        one, red3, three, red5, five, pool = self.widths
        pooled = nn.max_pool(x, (3, 3), (1, 1), padding=((1, 1), (1, 1)))
        parts = [
            ConvBn(one)(x), ConvBn(three, 3)(ConvBn(red3)(x)), ConvBn(five, 3)(ConvBn(red5)(x)), ConvBn(pool)(pooled),
        ]  # fmt: skip
        return jnp.concatenate(parts, -1)


class LinenGoogLeNet(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.max_pool(ConvBn(16, 3, name="stem_2")(ConvBn(8, 5, name="stem_1")(x)), (2, 2), (2, 2))
        for widths in INCEPTIONS:
            x = InceptionModule(widths)(x)
        return nn.Dense(CLASSES, name="logits")(x.mean((1, 2)))


# -------------------------------------------------------------------- EfficientNet, timm


class SqueezeExcite(tnn.Module):
    def __init__(self, width: int, reduced: int) -> None:
        super().__init__()
        self.conv_reduce = tnn.Conv2d(width, reduced, 1)
        self.conv_expand = tnn.Conv2d(reduced, width, 1)

    def forward(self, x: Any) -> Any:
        scale = self.conv_expand(functional.silu(self.conv_reduce(x.mean((2, 3), keepdim=True))))
        return x * torch.sigmoid(scale)


class MbBlock(tnn.Module):
    def __init__(self, inner: int, outer: int, stride: int, ratio: int = 4) -> None:
        super().__init__()
        wide = inner * ratio
        self.conv_pw = tnn.Conv2d(inner, wide, 1, bias=False)
        self.bn1 = tnn.BatchNorm2d(wide)
        self.conv_dw = tnn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False)
        self.bn2 = tnn.BatchNorm2d(wide)
        self.se = SqueezeExcite(wide, inner // 4)
        self.conv_pwl = tnn.Conv2d(wide, outer, 1, bias=False)
        self.bn3 = tnn.BatchNorm2d(outer)
        self.skip = stride == 1 and inner == outer

    def forward(self, x: Any) -> Any:
        y = functional.silu(self.bn1(self.conv_pw(x)))
        y = self.se(functional.silu(self.bn2(self.conv_dw(y))))
        y = self.bn3(self.conv_pwl(y))
        return x + y if self.skip else y


STAGES = ((8, 8, 1, 2), (8, 16, 2, 2), (16, 24, 2, 3))


class EfficientNet(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv_stem = tnn.Conv2d(3, 8, 3, 1, 1, bias=False)
        self.bn1 = tnn.BatchNorm2d(8)
        stages = []
        for inner, outer, stride, depth in STAGES:
            first = [MbBlock(inner, outer, stride)]
            stages.append(tnn.Sequential(*first, *[MbBlock(outer, outer, 1) for _ in range(depth - 1)]))
        self.blocks = tnn.Sequential(*stages)
        self.conv_head = tnn.Conv2d(24, 40, 1, bias=False)
        self.bn2 = tnn.BatchNorm2d(40)
        self.classifier = tnn.Linear(40, CLASSES)

    def forward(self, x: Any) -> Any:
        x = self.blocks(functional.silu(self.bn1(self.conv_stem(x))))
        return self.classifier(functional.silu(self.bn2(self.conv_head(x))).mean((2, 3)))


class LinenSe(nn.Module):
    reduced: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        y = nn.silu(nn.Dense(self.reduced, name="reduce")(x.mean((1, 2), keepdims=True)))
        return x * nn.sigmoid(nn.Dense(x.shape[-1], name="expand")(y))


class LinenMb(nn.Module):
    features: int
    stride: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        inner = x.shape[-1]
        wide = 4 * inner
        y = nn.silu(norm(name="expand_bn")(nn.Conv(wide, (1, 1), use_bias=False, name="expand_conv")(x)))
        stride = (self.stride, self.stride)
        y = nn.Conv(
            wide, (3, 3), stride, ((1, 1), (1, 1)), feature_group_count=wide, use_bias=False, name="depthwise_conv"
        )(y)
        y = LinenSe(inner // 4, name="squeeze_excite")(nn.silu(norm(name="depthwise_bn")(y)))
        y = norm(name="project_bn")(nn.Conv(self.features, (1, 1), use_bias=False, name="project_conv")(y))
        return x + y if self.stride == 1 and inner == self.features else y


class LinenEfficientNet(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.silu(norm(name="stem_bn")(nn.Conv(8, (3, 3), use_bias=False, name="stem_conv")(x)))
        number = 0
        for _, outer, stride, depth in STAGES:
            for layer in range(depth):
                x = LinenMb(outer, stride if layer == 0 else 1, name=f"block_{number}")(x)
                number += 1
        x = nn.silu(norm(name="top_bn")(nn.Conv(40, (1, 1), use_bias=False, name="top_conv")(x)))
        return nn.Dense(CLASSES, name="predictions")(x.mean((1, 2)))


# -------------------------------------------------------------------- generator with modulated convolutions, rosinality


class ModulatedConv(tnn.Module):
    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.weight = tnn.Parameter(torch.zeros(1, outer, inner, 3, 3))
        self.modulation = tnn.Linear(10, inner)

    def forward(self, x: Any, style: Any) -> Any:
        b, c, h, w = x.shape
        weight = self.weight * self.modulation(style).reshape(b, 1, c, 1, 1)
        weight = weight * torch.rsqrt(weight.square().sum((2, 3, 4), keepdim=True) + 1e-8)
        weight = weight.reshape(-1, c, 3, 3)
        return functional.conv2d(x.reshape(1, b * c, h, w), weight, padding=1, groups=b).reshape(b, -1, h, w)


class StyledConv(tnn.Module):
    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.conv = ModulatedConv(inner, outer)
        self.bias = tnn.Parameter(torch.zeros(1, outer, 1, 1))

    def forward(self, x: Any, style: Any) -> Any:
        return functional.leaky_relu(self.conv(x, style) + self.bias, 0.2)


class StyleGenerator(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.style = tnn.Sequential(tnn.Linear(7, 10), tnn.LeakyReLU(0.2), tnn.Linear(10, 10), tnn.LeakyReLU(0.2))
        self.input = tnn.Parameter(torch.zeros(1, 12, 4, 4))
        self.convs = tnn.ModuleList([StyledConv(12, 8), StyledConv(8, 6)])
        self.to_rgb = tnn.Conv2d(6, 3, 1)

    def forward(self, z: Any) -> Any:
        style = self.style(z)
        x = self.input.expand(z.shape[0], -1, -1, -1)
        for conv in self.convs:
            x = conv(x, style)
        return channels_last(self.to_rgb(x))


class NnxStyled(nnx.Module):
    def __init__(self, inner: int, outer: int, *, rngs: nnx.Rngs) -> None:
        self.kernel = nnx.Param(jnp.zeros((3, 3, inner, outer)))
        self.shift = nnx.Param(jnp.zeros((outer,)))
        self.affine = nnx.Linear(10, inner, rngs=rngs)

    def __call__(self, x: Any, style: Any) -> Any:
        def one(image: Any, scale: Any) -> Any:
            kernel = self.kernel[...] * scale[:, None]
            kernel = kernel * jax.lax.rsqrt(jnp.square(kernel).sum((0, 1, 2)) + 1e-8)
            return jax.lax.conv_general_dilated(
                image[None], kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )[0]

        return jax.nn.leaky_relu(jax.vmap(one)(x, self.affine(style)) + self.shift[...], 0.2)


class NnxGenerator(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.mapping = nnx.List([nnx.Linear(7, 10, rngs=rngs), nnx.Linear(10, 10, rngs=rngs)])
        self.constant = nnx.Param(jnp.zeros((4, 4, 12)))
        self.synthesis = nnx.List([NnxStyled(12, 8, rngs=rngs), NnxStyled(8, 6, rngs=rngs)])
        self.rgb = nnx.Conv(6, 3, (1, 1), rngs=rngs)

    def __call__(self, z: Any) -> Any:
        for layer in self.mapping:
            z = jax.nn.leaky_relu(layer(z), 0.2)
        x = jnp.broadcast_to(self.constant[...][None], (z.shape[0], 4, 4, 12))
        for layer in self.synthesis:
            x = layer(x, z)
        return self.rgb(x)


# -------------------------------------------------------------------- pairs

STYLE_RULES = {
    "rename": [
        {"source": "input", "target": "constant"},
        {"source": "convs/{i}/conv/weight", "target": "synthesis/{i}/kernel"},
    ],
    "layout": [
        {"source": "input", "source_axes": "1 c h w", "target_axes": "h w c"},
        {"source": "convs/{i}/conv/weight", "source_axes": "1 out in h w", "target_axes": "h w in out"},
    ],
}

PAIRS = (
    Pair(
        "densenet-linen", DenseNet, lambda: Linen(LinenDenseNet(), (image(8),)), on_image,
        why="layers of growing width, blocks within blocks against one list",
    ),
    Pair(
        "googlenet-linen", GoogLeNet, lambda: Linen(LinenGoogLeNet(), (image(8),)), on_image,
        why="parallel branches, some of one size, against one list; calls inside of calls", open=("variables",),
    ),
    Pair(
        "efficientnet-linen", EfficientNet, lambda: Linen(LinenEfficientNet(), (image(8),)), on_image,
        open=("variables", "files"),
        why="three norms to a block, squeeze-and-excite by 1x1 convolutions, stages in one list",
    ),
    Pair(
        "stylegan-nnx", StyleGenerator, lambda: Nnx(lambda: NnxGenerator(rngs=nnx.Rngs(0)), (features(2, 7),)), on_args,
        rules=STYLE_RULES, why="kernels that are modulated and belong to no layer",
    ),
)  # fmt: skip
