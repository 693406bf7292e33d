"""ResNets with foreign names: as torchvision writes them, as the examples of Flax do, and in NNX.

Widths are small, depths and shapes of trees are those of the originals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
import torch
from flax import linen as nn
from flax import nnx
from torch import nn as tnn
from zoo_convnets import CLASSES, WIDTH, image, on_image
from zoo_pairs import Linen, Nnx, Pair

# -------------------------------------------------------------------- ResNet, torchvision


class BasicBlock(tnn.Module):
    expansion = 1

    def __init__(self, inplanes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = tnn.Conv2d(inplanes, planes, 3, stride, 1, bias=False)
        self.bn1 = tnn.BatchNorm2d(planes)
        self.relu = tnn.ReLU(inplace=True)
        self.conv2 = tnn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = tnn.BatchNorm2d(planes)
        self.downsample = None
        if stride != 1 or inplanes != planes:
            self.downsample = tnn.Sequential(
                tnn.Conv2d(inplanes, planes, 1, stride, bias=False), tnn.BatchNorm2d(planes)
            )

    def forward(self, x: Any) -> Any:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(out)) + identity)


class Bottleneck(tnn.Module):
    expansion = 4

    def __init__(self, inplanes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = tnn.Conv2d(inplanes, planes, 1, bias=False)
        self.bn1 = tnn.BatchNorm2d(planes)
        self.conv2 = tnn.Conv2d(planes, planes, 3, stride, 1, bias=False)
        self.bn2 = tnn.BatchNorm2d(planes)
        self.conv3 = tnn.Conv2d(planes, planes * 4, 1, bias=False)
        self.bn3 = tnn.BatchNorm2d(planes * 4)
        self.relu = tnn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or inplanes != planes * 4:
            self.downsample = tnn.Sequential(
                tnn.Conv2d(inplanes, planes * 4, 1, stride, bias=False), tnn.BatchNorm2d(planes * 4)
            )

    def forward(self, x: Any) -> Any:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        return self.relu(self.bn3(self.conv3(out)) + identity)


class ResNet(tnn.Module):
    def __init__(self, block: Any, layers: Sequence[int]) -> None:
        super().__init__()
        self.inplanes = WIDTH
        self.conv1 = tnn.Conv2d(3, WIDTH, 7, 2, 3, bias=False)
        self.bn1 = tnn.BatchNorm2d(WIDTH)
        self.relu = tnn.ReLU(inplace=True)
        self.maxpool = tnn.MaxPool2d(3, 2, 1)
        self.layer1 = self._make_layer(block, WIDTH, layers[0], 1)
        self.layer2 = self._make_layer(block, WIDTH * 2, layers[1], 2)
        self.layer3 = self._make_layer(block, WIDTH * 4, layers[2], 2)
        self.layer4 = self._make_layer(block, WIDTH * 8, layers[3], 2)
        self.avgpool = tnn.AdaptiveAvgPool2d((1, 1))
        self.fc = tnn.Linear(WIDTH * 8 * block.expansion, CLASSES)

    def _make_layer(self, block: Any, planes: int, blocks: int, stride: int) -> tnn.Sequential:
        made = []
        for number in range(blocks):
            made.append(block(self.inplanes, planes, stride if number == 0 else 1))
            self.inplanes = planes * block.expansion
        return tnn.Sequential(*made)

    def forward(self, x: Any) -> Any:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


# -------------------------------------------------------------------- ResNet, flax/examples/imagenet


class ResNetBlock(nn.Module):
    filters: int
    conv: Any
    norm: Any
    act: Callable[..., Any]
    strides: tuple[int, int] = (1, 1)

    @nn.compact
    def __call__(self, x: Any) -> Any:
        residual = x
        y = self.conv(self.filters, (3, 3), self.strides, padding=((1, 1), (1, 1)))(x)
        y = self.norm()(y)
        y = self.act(y)
        y = self.conv(self.filters, (3, 3))(y)
        y = self.norm(scale_init=nn.initializers.zeros_init())(y)
        if residual.shape != y.shape:
            residual = self.conv(self.filters, (1, 1), self.strides, name="conv_proj")(residual)
            residual = self.norm(name="norm_proj")(residual)
        return self.act(residual + y)


class BottleneckResNetBlock(nn.Module):
    filters: int
    conv: Any
    norm: Any
    act: Callable[..., Any]
    strides: tuple[int, int] = (1, 1)

    @nn.compact
    def __call__(self, x: Any) -> Any:
        residual = x
        y = self.conv(self.filters, (1, 1))(x)
        y = self.norm()(y)
        y = self.act(y)
        y = self.conv(self.filters, (3, 3), self.strides, padding=((1, 1), (1, 1)))(y)
        y = self.norm()(y)
        y = self.act(y)
        y = self.conv(self.filters * 4, (1, 1))(y)
        y = self.norm(scale_init=nn.initializers.zeros_init())(y)
        if residual.shape != y.shape:
            residual = self.conv(self.filters * 4, (1, 1), self.strides, name="conv_proj")(residual)
            residual = self.norm(name="norm_proj")(residual)
        return self.act(residual + y)


class LinenResNet(nn.Module):
    stage_sizes: Sequence[int]
    block_cls: Any
    num_classes: int = CLASSES
    num_filters: int = WIDTH

    @nn.compact
    def __call__(self, x: Any, train: bool = False) -> Any:
        conv = partial(nn.Conv, use_bias=False)
        norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.9, epsilon=1e-5)
        x = conv(self.num_filters, (7, 7), (2, 2), padding=[(3, 3), (3, 3)], name="conv_init")(x)
        x = norm(name="bn_init")(x)
        x = nn.relu(x)
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for i, block_size in enumerate(self.stage_sizes):
            for j in range(block_size):
                strides = (2, 2) if i > 0 and j == 0 else (1, 1)
                x = self.block_cls(self.num_filters * 2**i, strides=strides, conv=conv, norm=norm, act=nn.relu)(x)
        x = jnp.mean(x, axis=(1, 2))
        return nn.Dense(self.num_classes)(x)


# -------------------------------------------------------------------- ResNet, NNX with a flat list of blocks


class NnxBlock(nnx.Module):
    def __init__(self, din: int, dout: int, stride: int, *, rngs: nnx.Rngs) -> None:
        conv = partial(nnx.Conv, use_bias=False, rngs=rngs)
        self.first = conv(din, dout, (3, 3), stride, padding=((1, 1), (1, 1)))
        self.first_norm = nnx.BatchNorm(dout, use_running_average=True, rngs=rngs)
        self.second = conv(dout, dout, (3, 3))
        self.second_norm = nnx.BatchNorm(dout, use_running_average=True, rngs=rngs)
        if stride != 1 or din != dout:
            self.skip = conv(din, dout, (1, 1), stride)
            self.skip_norm = nnx.BatchNorm(dout, use_running_average=True, rngs=rngs)
        self.projects = stride != 1 or din != dout

    def __call__(self, x: Any) -> Any:
        y = nnx.relu(self.first_norm(self.first(x)))
        y = self.second_norm(self.second(y))
        return nnx.relu(y + (self.skip_norm(self.skip(x)) if self.projects else x))


class NnxResNet(nnx.Module):
    def __init__(self, stages: Sequence[int], *, rngs: nnx.Rngs) -> None:
        self.stem = nnx.Conv(3, WIDTH, (7, 7), 2, padding=((3, 3), (3, 3)), use_bias=False, rngs=rngs)
        self.stem_norm = nnx.BatchNorm(WIDTH, use_running_average=True, rngs=rngs)
        blocks, din = [], WIDTH
        for stage, count in enumerate(stages):
            for number in range(count):
                dout = WIDTH * 2**stage
                blocks.append(NnxBlock(din, dout, 2 if stage and not number else 1, rngs=rngs))
                din = dout
        self.blocks = nnx.List(blocks)
        self.head = nnx.Linear(din, CLASSES, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x = nnx.relu(self.stem_norm(self.stem(x)))
        x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((1, 2)))


# -------------------------------------------------------------------- pairs


def _resnet(name: str, torch_block: Any, linen_block: Any, sizes: Sequence[int]) -> Pair:
    return Pair(
        name,
        lambda: ResNet(torch_block, sizes),
        lambda: Linen(LinenResNet(sizes, linen_block), (image(32),)),
        on_image,
        why="torchvision against flax/examples/imagenet: nested stages against one numbered list",
    )


PAIRS = (
    _resnet("resnet18-linen", BasicBlock, ResNetBlock, (2, 2, 2, 2)),
    _resnet("resnet50-linen", Bottleneck, BottleneckResNetBlock, (3, 4, 6, 3)),
    Pair(
        "resnet18-nnx", lambda: ResNet(BasicBlock, (2, 2, 2, 2)),
        lambda: Nnx(lambda: NnxResNet((2, 2, 2, 2), rngs=nnx.Rngs(0)), (image(32),)), on_image,
        why="torchvision against an NNX module with a flat list of blocks",
    ),
)  # fmt: skip
