"""Convolutional pairs with foreign names: torch as torchvision, timm and Pytorch-UNet write it, Flax as its examples do.

Widths are small, depths and shapes of trees are those of the originals.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import linen as nn
from torch import nn as tnn
from torch.nn import functional
from zoo_pairs import FlaxSide, Linen, Pair

WIDTH = 8
CLASSES = 10


def image(size: int, channels: int = 3, seed: int = 1) -> np.ndarray:
    """Two images, channels last."""
    return np.random.default_rng(seed).normal(size=(2, size, size, channels)).astype(np.float32)


def on_image(model: torch.nn.Module, side: FlaxSide) -> Any:
    """Run a torch model on the images of the Flax side, channels first."""
    first = side.args[0]  # type: ignore[attr-defined]  # both kinds have them
    return model(torch.from_numpy(np.moveaxis(first, -1, 1).copy()))


def channels_last(out: torch.Tensor) -> torch.Tensor:
    return out.movedim(1, -1)


# -------------------------------------------------------------------- U-Net, milesial/Pytorch-UNet


class DoubleConv(tnn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.double_conv = tnn.Sequential(
            tnn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False), tnn.BatchNorm2d(out_channels), tnn.ReLU(),
            tnn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False), tnn.BatchNorm2d(out_channels), tnn.ReLU(),
        )  # fmt: skip

    def forward(self, x: Any) -> Any:
        return self.double_conv(x)


class Down(tnn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.maxpool_conv = tnn.Sequential(tnn.MaxPool2d(2), DoubleConv(in_channels, out_channels))

    def forward(self, x: Any) -> Any:
        return self.maxpool_conv(x)


class Up(tnn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.up = tnn.ConvTranspose2d(in_channels, in_channels // 2, 2, 2)
        self.conv = DoubleConv(in_channels, out_channels)

    def forward(self, x1: Any, x2: Any) -> Any:
        return self.conv(torch.cat([x2, self.up(x1)], dim=1))


class OutConv(tnn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = tnn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Any) -> Any:
        return self.conv(x)


class UNet(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inc = DoubleConv(3, WIDTH)
        self.down1 = Down(WIDTH, WIDTH * 2)
        self.down2 = Down(WIDTH * 2, WIDTH * 4)
        self.down3 = Down(WIDTH * 4, WIDTH * 8)
        self.up1 = Up(WIDTH * 8, WIDTH * 4)
        self.up2 = Up(WIDTH * 4, WIDTH * 2)
        self.up3 = Up(WIDTH * 2, WIDTH)
        self.outc = OutConv(WIDTH, 2)

    def forward(self, x: Any) -> Any:
        x1 = self.inc(x)
        x2 = self.down1(x1)
        x3 = self.down2(x2)
        x = self.up1(self.down3(x3), x3)
        x = self.up3(self.up2(x, x2), x1)
        return self.outc(x)


class ConvBlock(nn.Module):
    features: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        for _ in range(2):
            x = nn.Conv(self.features, (3, 3), use_bias=False)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=True)(x))
        return x


class LinenUNet(nn.Module):
    features: int = WIDTH
    levels: int = 3

    @nn.compact
    def __call__(self, x: Any) -> Any:
        skips = []
        for level in range(self.levels):
            x = ConvBlock(self.features * 2**level, name=f"encoder_{level}")(x)
            skips.append(x)
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = ConvBlock(self.features * 2**self.levels, name="bottleneck")(x)
        for level in reversed(range(self.levels)):
            x = nn.ConvTranspose(self.features * 2**level, (2, 2), (2, 2), name=f"upsample_{level}")(x)
            x = ConvBlock(self.features * 2**level, name=f"decoder_{level}")(jnp.concatenate([skips[level], x], -1))
        return nn.Conv(2, (1, 1), name="logits")(x)


# -------------------------------------------------------------------- DCGAN generator, pytorch/examples


class Generator(tnn.Module):
    def __init__(self, ngf: int = WIDTH, nz: int = 12) -> None:
        super().__init__()
        self.main = tnn.Sequential(
            tnn.ConvTranspose2d(nz, ngf * 4, 4, 1, 0, bias=False), tnn.BatchNorm2d(ngf * 4), tnn.ReLU(True),
            tnn.ConvTranspose2d(ngf * 4, ngf * 2, 4, 2, 1, bias=False), tnn.BatchNorm2d(ngf * 2), tnn.ReLU(True),
            tnn.ConvTranspose2d(ngf * 2, ngf, 4, 2, 1, bias=False), tnn.BatchNorm2d(ngf), tnn.ReLU(True),
            tnn.ConvTranspose2d(ngf, 3, 4, 2, 1, bias=False), tnn.Tanh(),
        )  # fmt: skip

    def forward(self, x: Any) -> Any:
        return self.main(x)


class LinenGenerator(nn.Module):
    features: int = WIDTH

    @nn.compact
    def __call__(self, z: Any) -> Any:
        norm = partial(nn.BatchNorm, use_running_average=True)
        up = partial(nn.ConvTranspose, kernel_size=(4, 4), use_bias=False)
        x = nn.relu(norm()(up(self.features * 4, padding="VALID")(z)))
        x = nn.relu(norm()(up(self.features * 2, strides=(2, 2))(x)))
        x = nn.relu(norm()(up(self.features, strides=(2, 2))(x)))
        return jnp.tanh(up(3, strides=(2, 2))(x))


# -------------------------------------------------------------------- MobileNetV3, torchvision; efficientnet in Linen


def _conv_norm(
    din: int, dout: int, kernel: int = 1, stride: int = 1, groups: int = 1, act: Any = None
) -> tnn.Sequential:
    made = [
        tnn.Conv2d(din, dout, kernel, stride, kernel // 2, groups=groups, bias=False),
        tnn.BatchNorm2d(dout, eps=1e-3),
    ]
    return tnn.Sequential(*made, *([act()] if act else []))


class SqueezeExcitation(tnn.Module):
    def __init__(self, channels: int, squeeze: int) -> None:
        super().__init__()
        self.avgpool = tnn.AdaptiveAvgPool2d(1)
        self.fc1 = tnn.Conv2d(channels, squeeze, 1)
        self.fc2 = tnn.Conv2d(squeeze, channels, 1)

    def forward(self, x: Any) -> Any:
        return x * functional.hardsigmoid(self.fc2(functional.relu(self.fc1(self.avgpool(x)))))


class InvertedResidual(tnn.Module):
    def __init__(self, din: int, expanded: int, dout: int, kernel: int, stride: int, se: bool) -> None:
        super().__init__()
        layers: list[Any] = [_conv_norm(din, expanded, act=tnn.Hardswish)] if expanded != din else []
        layers.append(_conv_norm(expanded, expanded, kernel, stride, expanded, tnn.Hardswish))
        layers += [SqueezeExcitation(expanded, expanded // 4)] if se else []
        layers.append(_conv_norm(expanded, dout))
        self.block = tnn.Sequential(*layers)
        self.use_res_connect = stride == 1 and din == dout

    def forward(self, x: Any) -> Any:
        return x + self.block(x) if self.use_res_connect else self.block(x)


#: in, expanded, out, kernel, stride, squeeze-and-excite
MOBILE = (
    (8, 8, 8, 3, 2, True), (8, 32, 12, 3, 2, False), (12, 36, 12, 3, 1, False), (12, 48, 16, 5, 2, True),
    (16, 64, 16, 5, 1, True), (16, 64, 16, 5, 1, True), (16, 80, 24, 5, 1, True),
)  # fmt: skip


class MobileNet(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        blocks = [InvertedResidual(*row) for row in MOBILE]
        stem, last = _conv_norm(3, 8, 3, 2, act=tnn.Hardswish), _conv_norm(24, 96, act=tnn.Hardswish)
        self.features = tnn.Sequential(stem, *blocks, last)
        self.avgpool = tnn.AdaptiveAvgPool2d(1)
        self.classifier = tnn.Sequential(
            tnn.Linear(96, 112), tnn.Hardswish(), tnn.Dropout(0.2), tnn.Linear(112, CLASSES)
        )

    def forward(self, x: Any) -> Any:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class SqueezeExcite(nn.Module):
    squeeze: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        y = x.mean((1, 2))
        y = nn.relu(nn.Dense(self.squeeze, name="reduce")(y))
        return x * nn.hard_sigmoid(nn.Dense(x.shape[-1], name="expand")(y))[:, None, None]


class MBConv(nn.Module):
    expanded: int
    features: int
    kernel: int
    stride: int
    se: bool

    @nn.compact
    def __call__(self, x: Any) -> Any:
        norm = partial(nn.BatchNorm, use_running_average=True, epsilon=1e-3)
        pad, y = [(self.kernel // 2,) * 2] * 2, x
        if self.expanded != x.shape[-1]:
            y = nn.hard_swish(norm()(nn.Conv(self.expanded, (1, 1), use_bias=False)(y)))
        y = nn.Conv(
            self.expanded,
            (self.kernel,) * 2,
            self.stride,
            padding=pad,
            feature_group_count=self.expanded,
            use_bias=False,
        )(y)
        y = nn.hard_swish(norm()(y))
        if self.se:
            y = SqueezeExcite(self.expanded // 4)(y)
        y = norm()(nn.Conv(self.features, (1, 1), use_bias=False)(y))
        return x + y if y.shape == x.shape and self.stride == 1 else y


class LinenMobileNet(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        norm = partial(nn.BatchNorm, use_running_average=True, epsilon=1e-3)
        x = nn.Conv(8, (3, 3), 2, padding=[(1, 1), (1, 1)], use_bias=False, name="stem")(x)
        x = nn.hard_swish(norm(name="stem_bn")(x))
        for _, expanded, features, kernel, stride, se in MOBILE:
            x = MBConv(expanded, features, kernel, stride, se)(x)
        x = nn.hard_swish(norm(name="head_bn")(nn.Conv(96, (1, 1), use_bias=False, name="head_conv")(x)))
        x = nn.hard_swish(nn.Dense(112)(x.mean((1, 2))))
        return nn.Dense(CLASSES)(x)


# -------------------------------------------------------------------- ConvNeXt, facebookresearch; flat blocks in Linen


class ChannelsFirstNorm(tnn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = tnn.Parameter(torch.ones(features))
        self.bias = tnn.Parameter(torch.zeros(features))

    def forward(self, x: Any) -> Any:
        u = x.mean(1, keepdim=True)
        s = (x - u).pow(2).mean(1, keepdim=True)
        return self.weight[:, None, None] * (x - u) / torch.sqrt(s + 1e-6) + self.bias[:, None, None]


class ConvNeXtTorchBlock(tnn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = tnn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = tnn.LayerNorm(dim, eps=1e-6)
        self.pwconv1 = tnn.Linear(dim, 4 * dim)
        self.act = tnn.GELU()
        self.pwconv2 = tnn.Linear(4 * dim, dim)
        self.gamma = tnn.Parameter(1e-6 * torch.ones(dim))

    def forward(self, x: Any) -> Any:
        y = self.dwconv(x).permute(0, 2, 3, 1)
        y = self.gamma * self.pwconv2(self.act(self.pwconv1(self.norm(y))))
        return x + y.permute(0, 3, 1, 2)


CONVNEXT_DEPTHS, CONVNEXT_DIMS = (2, 2, 3, 2), (8, 12, 16, 24)


class ConvNeXt(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        dims = CONVNEXT_DIMS
        self.downsample_layers = tnn.ModuleList(
            [tnn.Sequential(tnn.Conv2d(3, dims[0], 4, 4), ChannelsFirstNorm(dims[0]))]
        )
        for one, two in zip(dims, dims[1:], strict=False):
            self.downsample_layers.append(tnn.Sequential(ChannelsFirstNorm(one), tnn.Conv2d(one, two, 2, 2)))
        self.stages = tnn.ModuleList(
            tnn.Sequential(*[ConvNeXtTorchBlock(dim) for _ in range(depth)])
            for dim, depth in zip(dims, CONVNEXT_DEPTHS, strict=True)
        )
        self.norm = tnn.LayerNorm(dims[-1], eps=1e-6)
        self.head = tnn.Linear(dims[-1], CLASSES)

    def forward(self, x: Any) -> Any:
        for down, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(down(x))
        return self.head(self.norm(x.mean((-2, -1))))


class ConvNeXtBlock(nn.Module):
    dim: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        y = nn.Conv(self.dim, (7, 7), feature_group_count=self.dim)(x)
        y = nn.LayerNorm(epsilon=1e-6)(y)
        y = nn.Dense(4 * self.dim)(y)
        y = nn.Dense(self.dim)(jax.nn.gelu(y, approximate=False))
        return x + y * self.param("layer_scale", nn.initializers.constant(1e-6), (self.dim,))


class LinenConvNeXt(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        dims = CONVNEXT_DIMS
        x = nn.LayerNorm(epsilon=1e-6, name="stem_norm")(nn.Conv(dims[0], (4, 4), 4, name="stem")(x))
        for stage, (dim, depth) in enumerate(zip(dims, CONVNEXT_DEPTHS, strict=True)):
            if stage:
                x = nn.LayerNorm(epsilon=1e-6, name=f"downsample_norm_{stage}")(x)
                x = nn.Conv(dim, (2, 2), 2, name=f"downsample_{stage}")(x)
            for _ in range(depth):
                x = ConvNeXtBlock(dim)(x)
        x = nn.LayerNorm(epsilon=1e-6, name="final_norm")(x.mean((1, 2)))
        return nn.Dense(CLASSES, name="classifier")(x)


# -------------------------------------------------------------------- a CNN with a linear layer after a flatten


class Net(tnn.Module):
    """pytorch/examples/mnist, narrower."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = tnn.Conv2d(1, 6, 3, 1)
        self.conv2 = tnn.Conv2d(6, 12, 3, 1)
        self.fc1 = tnn.Linear(12 * 4 * 4, 20)
        self.fc2 = tnn.Linear(20, CLASSES)

    def forward(self, x: Any) -> Any:
        x = functional.relu(self.conv2(functional.relu(self.conv1(x))))
        x = torch.flatten(functional.max_pool2d(x, 2), 1)
        return functional.log_softmax(self.fc2(functional.relu(self.fc1(x))), 1)


class CNN(nn.Module):
    """flax/examples/mnist: flattens height, width, channels."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.relu(nn.Conv(6, (3, 3), padding="VALID")(x))
        x = nn.relu(nn.Conv(12, (3, 3), padding="VALID")(x))
        x = nn.max_pool(x, (2, 2), (2, 2))
        x = x.reshape((x.shape[0], -1))
        return nn.log_softmax(nn.Dense(CLASSES)(nn.relu(nn.Dense(20)(x))))


#: Torch flattens channels, height, width; the Flax example height, width, channels.
MNIST_RULES = {"order": [{"source": "fc1", "axis": "in", "source_axes": "c=12 h=4 w=4", "target_axes": "h=4 w=4 c=12"}]}


# -------------------------------------------------------------------- pairs


PAIRS = (
    Pair(
        "unet-linen", UNet, lambda: Linen(LinenUNet(), (image(16),)),
        lambda model, side: channels_last(on_image(model, side)),
        why="transposed convolutions, a decoder that counts backwards, batch norms of equal width",
    ),
    Pair(
        "dcgan-linen", Generator, lambda: Linen(LinenGenerator(), (image(1, 12),)),
        lambda model, side: channels_last(on_image(model, side)),
        why="transposed convolutions without bias, numbers of a Sequential",
    ),
    Pair(
        "mobilenet-linen", MobileNet, lambda: Linen(LinenMobileNet(), (image(32),)), on_image,
        why="depthwise convolutions; squeeze-and-excite by 1x1 convolutions against dense layers",
    ),
    Pair(
        "convnext-linen", ConvNeXt, lambda: Linen(LinenConvNeXt(), (image(32),)), on_image,
        allow={"live": ("assumption",)},
        why="stages and downsampling in lists of their own against flat blocks; a norm that no type tells",
    ),
    Pair(
        "mnist-linen", Net, lambda: Linen(CNN(), (image(12, 1),)), on_image, rules=MNIST_RULES,
        why="a linear layer after a flatten: its rows are in another order",
    ),
)  # fmt: skip
