"""New pairs of images: numbers of a Sequential against stages, parallel branches, rates, cross stage blocks.

Torch as torchvision, DingXiaoH and ultralytics write it, Flax as `nn.compact` and NNX do. Widths are equal on purpose wherever
the architecture leaves a choice.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import torch
from flax import linen as nn
from flax import nnx
from torch import nn as tnn
from zoo_convnets import channels_last, image, on_image
from zoo_pairs import Linen, Nnx, Pair

# -------------------------------------------------------------------- VGG with batch norm, torchvision


class VGG(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers: list[tnn.Module] = []
        width = 3
        for v in (8, 8, "M", 16, 16, "M", 16, 16, 16):
            if v == "M":
                layers += [tnn.MaxPool2d(2, 2)]
            else:
                layers += [tnn.Conv2d(width, v, 3, padding=1), tnn.BatchNorm2d(v), tnn.ReLU(True)]
                width = v
        self.features = tnn.Sequential(*layers)
        self.avgpool = tnn.AdaptiveAvgPool2d((1, 1))
        self.classifier = tnn.Sequential(
            tnn.Linear(16, 32),
            tnn.ReLU(True),
            tnn.Dropout(),
            tnn.Linear(32, 32),
            tnn.ReLU(True),
            tnn.Dropout(),
            tnn.Linear(32, 10),
        )

    def forward(self, x: Any) -> Any:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class VggStage(nn.Module):
    features: int
    depth: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        for i in range(self.depth):
            x = nn.Conv(self.features, (3, 3), name=f"conv{i + 1}")(x)
            x = nn.relu(nn.BatchNorm(use_running_average=True, epsilon=1e-5, name=f"norm{i + 1}")(x))
        return x


class LinenVgg(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        for i, (f, d) in enumerate(((8, 2), (16, 2), (16, 3))):
            x = VggStage(f, d, name=f"stage{i + 1}")(x)
            if i < 2:
                x = nn.max_pool(x, (2, 2), (2, 2))
        x = x.mean((1, 2))
        x = nn.relu(nn.Dense(32, name="fc6")(x))
        x = nn.relu(nn.Dense(32, name="fc7")(x))
        return nn.Dense(10, name="fc8")(x)


# -------------------------------------------------------------------- DeepLab v3, torchvision


class ASPPConv(tnn.Sequential):
    def __init__(self, i: int, o: int, dilation: int) -> None:
        super().__init__(
            tnn.Conv2d(i, o, 3, padding=dilation, dilation=dilation, bias=False), tnn.BatchNorm2d(o), tnn.ReLU()
        )


class ASPPPooling(tnn.Sequential):
    def __init__(self, i: int, o: int) -> None:
        super().__init__(tnn.AdaptiveAvgPool2d(1), tnn.Conv2d(i, o, 1, bias=False), tnn.BatchNorm2d(o), tnn.ReLU())

    def forward(self, x: Any) -> Any:
        size = x.shape[-2:]
        for mod in self:
            x = mod(x)
        return x.expand(-1, -1, *size)


class ASPP(tnn.Module):
    def __init__(self, i: int, rates: tuple[int, ...], o: int) -> None:
        super().__init__()
        first = tnn.Sequential(tnn.Conv2d(i, o, 1, bias=False), tnn.BatchNorm2d(o), tnn.ReLU())
        self.convs = tnn.ModuleList([first, *[ASPPConv(i, o, r) for r in rates], ASPPPooling(i, o)])
        self.project = tnn.Sequential(
            tnn.Conv2d(5 * o, o, 1, bias=False), tnn.BatchNorm2d(o), tnn.ReLU(), tnn.Dropout(0.5)
        )

    def forward(self, x: Any) -> Any:
        return self.project(torch.cat([conv(x) for conv in self.convs], 1))


class DeepLabHead(tnn.Sequential):
    def __init__(self, i: int, classes: int) -> None:
        super().__init__(
            ASPP(i, (1, 2, 3), 8),
            tnn.Conv2d(8, 8, 3, padding=1, bias=False),
            tnn.BatchNorm2d(8),
            tnn.ReLU(),
            tnn.Conv2d(8, classes, 1),
        )


class DeepLab(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = tnn.Sequential(tnn.Conv2d(3, 12, 3, 2, 1, bias=False), tnn.BatchNorm2d(12), tnn.ReLU())
        self.classifier = DeepLabHead(12, 5)

    def forward(self, x: Any) -> Any:
        return channels_last(self.classifier(self.backbone(x)))


class NnxCbr(nnx.Module):
    def __init__(self, i: int, o: int, k: int, s: int = 1, dilation: int = 1, *, rngs: nnx.Rngs) -> None:
        pad = (k // 2) * dilation
        self.conv = nnx.Conv(
            i, o, (k, k), s, padding=((pad, pad), (pad, pad)), kernel_dilation=dilation, use_bias=False, rngs=rngs
        )
        self.bn = nnx.BatchNorm(o, use_running_average=True, epsilon=1e-5, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return nnx.relu(self.bn(self.conv(x)))


class NnxAtrous(nnx.Module):
    def __init__(self, i: int, o: int, *, rngs: nnx.Rngs) -> None:
        self.pointwise = NnxCbr(i, o, 1, rngs=rngs)
        self.atrous_small = NnxCbr(i, o, 3, dilation=1, rngs=rngs)
        self.atrous_medium = NnxCbr(i, o, 3, dilation=2, rngs=rngs)
        self.atrous_large = NnxCbr(i, o, 3, dilation=3, rngs=rngs)
        self.image_pool = NnxCbr(i, o, 1, rngs=rngs)
        self.fuse = NnxCbr(5 * o, o, 1, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        pooled = jnp.broadcast_to(self.image_pool(x.mean((1, 2), keepdims=True)), (*x.shape[:3], 8))
        outs = [self.pointwise(x), self.atrous_small(x), self.atrous_medium(x), self.atrous_large(x), pooled]
        return self.fuse(jnp.concatenate(outs, -1))


class NnxDeepLab(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.stem = NnxCbr(3, 12, 3, 2, rngs=rngs)
        self.aspp = NnxAtrous(12, 8, rngs=rngs)
        self.refine = NnxCbr(8, 8, 3, rngs=rngs)
        self.predict = nnx.Conv(8, 5, (1, 1), rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.predict(self.refine(self.aspp(self.stem(x))))


# -------------------------------------------------------------------- RepVGG, DingXiaoH


def conv_bn(i: int, o: int, k: int, s: int, p: int) -> tnn.Sequential:
    result = tnn.Sequential()
    result.add_module("conv", tnn.Conv2d(i, o, k, s, p, bias=False))
    result.add_module("bn", tnn.BatchNorm2d(o))
    return result


class RepVGGBlock(tnn.Module):
    def __init__(self, i: int, o: int, s: int) -> None:
        super().__init__()
        self.nonlinearity = tnn.ReLU()
        self.rbr_identity = tnn.BatchNorm2d(i) if i == o and s == 1 else None
        self.rbr_dense = conv_bn(i, o, 3, s, 1)
        self.rbr_1x1 = conv_bn(i, o, 1, s, 0)

    def forward(self, x: Any) -> Any:
        same = 0 if self.rbr_identity is None else self.rbr_identity(x)
        return self.nonlinearity(self.rbr_dense(x) + self.rbr_1x1(x) + same)


class RepVGG(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stage0 = RepVGGBlock(3, 8, 2)
        self.stage1 = tnn.Sequential(RepVGGBlock(8, 8, 2), RepVGGBlock(8, 8, 1))
        self.stage2 = tnn.Sequential(RepVGGBlock(8, 16, 2), RepVGGBlock(16, 16, 1), RepVGGBlock(16, 16, 1))
        self.gap = tnn.AdaptiveAvgPool2d(1)
        self.linear = tnn.Linear(16, 10)

    def forward(self, x: Any) -> Any:
        return self.linear(self.gap(self.stage2(self.stage1(self.stage0(x)))).flatten(1))


class NnxRep(nnx.Module):
    def __init__(self, i: int, o: int, s: int, *, rngs: nnx.Rngs) -> None:
        def norm() -> nnx.BatchNorm:
            return nnx.BatchNorm(o, use_running_average=True, epsilon=1e-5, rngs=rngs)

        self.conv3 = nnx.Conv(i, o, (3, 3), s, padding=((1, 1), (1, 1)), use_bias=False, rngs=rngs)
        self.conv3_norm = norm()
        self.conv1 = nnx.Conv(i, o, (1, 1), s, padding="VALID", use_bias=False, rngs=rngs)
        self.conv1_norm = norm()
        self.skip_norm = norm() if i == o and s == 1 else None

    def __call__(self, x: Any) -> Any:
        y = self.conv3_norm(self.conv3(x)) + self.conv1_norm(self.conv1(x))
        return nnx.relu(y if self.skip_norm is None else y + self.skip_norm(x))


class NnxRepVgg(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        plan = ((3, 8, 2), (8, 8, 2), (8, 8, 1), (8, 16, 2), (16, 16, 1), (16, 16, 1))
        self.blocks = nnx.List([NnxRep(*p, rngs=rngs) for p in plan])
        self.fc = nnx.Linear(16, 10, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        for block in self.blocks:
            x = block(x)
        return self.fc(x.mean((1, 2)))


# -------------------------------------------------------------------- cross stage partial blocks, ultralytics/yolov5


class YConv(tnn.Module):
    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1) -> None:
        super().__init__()
        self.conv = tnn.Conv2d(c1, c2, k, s, k // 2, bias=False)
        self.bn = tnn.BatchNorm2d(c2)
        self.act = tnn.SiLU()

    def forward(self, x: Any) -> Any:
        return self.act(self.bn(self.conv(x)))


class YBottleneck(tnn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.cv1 = YConv(c, c, 1)
        self.cv2 = YConv(c, c, 3)

    def forward(self, x: Any) -> Any:
        return x + self.cv2(self.cv1(x))


class C3(tnn.Module):
    def __init__(self, c1: int, c2: int, n: int) -> None:
        super().__init__()
        c = c2 // 2
        self.cv1 = YConv(c1, c)
        self.cv2 = YConv(c1, c)
        self.cv3 = YConv(2 * c, c2)
        self.m = tnn.Sequential(*[YBottleneck(c) for _ in range(n)])

    def forward(self, x: Any) -> Any:
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class Yolo(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = tnn.Sequential(
            YConv(3, 8, 3, 2), C3(8, 8, 1), YConv(8, 16, 3, 2), C3(16, 16, 2), tnn.Conv2d(16, 9, 1)
        )

    def forward(self, x: Any) -> Any:
        return channels_last(self.model(x))


class ConvNormAct(nn.Module):
    features: int
    size: int = 1
    stride: int = 1

    @nn.compact
    def __call__(self, x: Any) -> Any:
        p = self.size // 2
        x = nn.Conv(self.features, (self.size, self.size), self.stride, ((p, p), (p, p)), use_bias=False)(x)
        return nn.silu(nn.BatchNorm(use_running_average=True, epsilon=1e-5)(x))


class CspLayer(nn.Module):
    out: int
    depth: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        half = self.out // 2
        side = ConvNormAct(half, name="short_conv")(x)
        y = ConvNormAct(half, name="main_conv")(x)
        for i in range(self.depth):
            z = ConvNormAct(half, name=f"res{i}_reduce")(y)
            y = y + ConvNormAct(half, 3, name=f"res{i}_conv")(z)
        return ConvNormAct(self.out, name="final_conv")(jnp.concatenate((y, side), -1))


class LinenCsp(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = CspLayer(8, 1, name="csp1")(ConvNormAct(8, 3, 2, name="down1")(x))
        x = CspLayer(16, 2, name="csp2")(ConvNormAct(16, 3, 2, name="down2")(x))
        return nn.Conv(9, (1, 1), name="detect")(x)


# -------------------------------------------------------------------- pairs

#: Two branches are a convolution of one place each; which of them sees the mean of the image is said by no name.
DEEPLAB_RULES = {"classifier/0/convs/0/0": "aspp/pointwise/conv"}
#: Two convolutions of one size, called in another order than they are declared in: cv1 is the one that blocks come after.
YOLO_RULES = {"model/1/cv1/conv": "csp1/main_conv/Conv_0", "model/3/cv1/conv": "csp2/main_conv/Conv_0"}

PAIRS = (
    Pair(
        "vgg-linen", VGG, lambda: Linen(LinenVgg(), (image(16),)), on_image,
        why="one Sequential with gaps in its numbers against stages; a classifier with numbers of its own",
    ),
    Pair(
        "deeplab-nnx", DeepLab, lambda: Nnx(lambda: NnxDeepLab(nnx.Rngs(0)), (image(16),)), on_image,
        rules=DEEPLAB_RULES, open=("files",),
        why="convolutions of one size that differ in their dilation, which no file holds",
    ),
    Pair(
        "repvgg-nnx", RepVGG, lambda: Nnx(lambda: NnxRepVgg(nnx.Rngs(0)), (image(16),)), on_image,
        allow={"always": ("assumption",)},
        why="three norms of one size on parallel branches, told by the convolution that they are called after",
    ),
    Pair(
        "yolo-linen", Yolo, lambda: Linen(LinenCsp(), (image(16),)), on_image,
        rules=YOLO_RULES, why="two convolutions of one size, one on a detour; blocks in a list against flat names",
    ),
)  # fmt: skip
