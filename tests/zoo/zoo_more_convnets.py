"""More convolutional pairs: grids of nodes, gates on skips, mixers without a stage.

Torch as 4uiiurz1, LeeJunHyun, torchvision, magicleap and tmp-iclr write it, Flax as `nn.compact` does. Widths are
equal on purpose wherever the architecture leaves a choice.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import torch
from flax import linen as nn
from torch import nn as tnn
from zoo_convnets import channels_last, image, on_image
from zoo_layers import BN, D, same
from zoo_pairs import Linen, Pair
from zoo_transformers import gelu

# -------------------------------------------------------------------- U-Net++, 4uiiurz1


def up2(x: Any) -> Any:
    return x.repeat(2, 1).repeat(2, 2)


class VGGBlock(tnn.Module):
    def __init__(self, i: Any, m: Any, o: Any) -> None:
        super().__init__()
        self.relu = tnn.ReLU()
        self.conv1, self.bn1 = (tnn.Conv2d(i, m, 3, padding=1), tnn.BatchNorm2d(m))
        self.conv2, self.bn2 = (tnn.Conv2d(m, o, 3, padding=1), tnn.BatchNorm2d(o))

    def forward(self, x: Any) -> Any:
        return self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))))


class NestedUNet(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pool = tnn.MaxPool2d(2, 2)
        self.up = tnn.Upsample(scale_factor=2, mode="nearest")
        self.conv0_0, self.conv1_0, self.conv2_0 = (VGGBlock(3, 4, 4), VGGBlock(4, 8, 8), VGGBlock(8, 8, 8))
        self.conv0_1, self.conv1_1 = (VGGBlock(12, 4, 4), VGGBlock(16, 8, 8))
        self.conv0_2 = VGGBlock(4 * 2 + 8, 4, 4)
        self.final1, self.final2 = (tnn.Conv2d(4, 1, 1), tnn.Conv2d(4, 1, 1))

    def forward(self, x: Any) -> Any:
        x00 = self.conv0_0(x)
        x10 = self.conv1_0(self.pool(x00))
        x01 = self.conv0_1(torch.cat([x00, self.up(x10)], 1))
        x20 = self.conv2_0(self.pool(x10))
        x11 = self.conv1_1(torch.cat([x10, self.up(x20)], 1))
        x02 = self.conv0_2(torch.cat([x00, x01, self.up(x11)], 1))
        return (channels_last(self.final1(x01)), channels_last(self.final2(x02)))


class Node(nn.Module):
    f: int

    @nn.compact
    def __call__(self, *xs: Any) -> Any:
        x = jnp.concatenate(xs, -1)
        for _ in range(2):
            x = nn.relu(BN()(nn.Conv(self.f, (3, 3))(x)))
        return x


class UnetPP(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        def pool(v):
            return nn.max_pool(v, (2, 2), (2, 2))

        w = (4, 8, 8)
        col = []
        for i in range(3):
            x = Node(w[i], name=f"X_{i}_0")(pool(x) if i else x)
            col.append(x)
        nodes = {(i, 0): v for i, v in enumerate(col)}
        for j in (1, 2):
            for i in range(3 - j):
                nodes[i, j] = Node(w[i], name=f"X_{i}_{j}")(*[nodes[i, k] for k in range(j)], up2(nodes[i + 1, j - 1]))
        return [nn.Conv(1, (1, 1), name=f"side_output_{j}")(nodes[0, j]) for j in (1, 2)]


# -------------------------------------------------------------------- attention U-Net, LeeJunHyun


class conv_block(tnn.Module):
    def __init__(self, i: Any, o: Any) -> None:
        super().__init__()
        self.conv = tnn.Sequential(
            tnn.Conv2d(i, o, 3, 1, 1),
            tnn.BatchNorm2d(o),
            tnn.ReLU(),
            tnn.Conv2d(o, o, 3, 1, 1),
            tnn.BatchNorm2d(o),
            tnn.ReLU(),
        )

    def forward(self, x: Any) -> Any:
        return self.conv(x)


class up_conv(tnn.Module):
    def __init__(self, i: Any, o: Any) -> None:
        super().__init__()
        self.up = tnn.Sequential(
            tnn.Upsample(scale_factor=2), tnn.Conv2d(i, o, 3, 1, 1), tnn.BatchNorm2d(o), tnn.ReLU()
        )

    def forward(self, x: Any) -> Any:
        return self.up(x)


class Attention_block(tnn.Module):
    def __init__(self, F_g: Any, F_l: Any, F_int: Any) -> None:
        super().__init__()
        self.W_g = tnn.Sequential(tnn.Conv2d(F_g, F_int, 1), tnn.BatchNorm2d(F_int))
        self.W_x = tnn.Sequential(tnn.Conv2d(F_l, F_int, 1), tnn.BatchNorm2d(F_int))
        self.psi = tnn.Sequential(tnn.Conv2d(F_int, 1, 1), tnn.BatchNorm2d(1), tnn.Sigmoid())

    def forward(self, g: Any, x: Any) -> Any:
        return x * self.psi(torch.relu(self.W_g(g) + self.W_x(x)))


class AttU_Net(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.Maxpool = tnn.MaxPool2d(2, 2)
        self.Conv1, self.Conv2, self.Conv3 = (conv_block(3, 4), conv_block(4, 8), conv_block(8, 16))
        self.Up3 = up_conv(16, 8)
        self.Att3 = Attention_block(8, 8, 4)
        self.Up_conv3 = conv_block(16, 8)
        self.Up2 = up_conv(8, 4)
        self.Att2 = Attention_block(4, 4, 2)
        self.Up_conv2 = conv_block(8, 4)
        self.Conv_1x1 = tnn.Conv2d(4, 2, 1)

    def forward(self, x: Any) -> Any:
        x1 = self.Conv1(x)
        x2 = self.Conv2(self.Maxpool(x1))
        x3 = self.Conv3(self.Maxpool(x2))
        d3 = self.Up3(x3)
        d3 = self.Up_conv3(torch.cat((self.Att3(d3, x2), d3), 1))
        d2 = self.Up2(d3)
        d2 = self.Up_conv2(torch.cat((self.Att2(d2, x1), d2), 1))
        return channels_last(self.Conv_1x1(d2))


class CNA(nn.Module):
    f: int
    k: int = 3
    act: Any = nn.relu

    @nn.compact
    def __call__(self, x: Any) -> Any:
        return self.act(BN()(nn.Conv(self.f, (self.k, self.k))(x)))


class Twice(nn.Module):
    f: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        return CNA(self.f)(CNA(self.f)(x))


class Gate(nn.Module):
    f: int

    @nn.compact
    def __call__(self, skip: Any, gating: Any) -> Any:
        a = CNA(self.f, 1, lambda v: v, name="theta")(skip) + CNA(self.f, 1, lambda v: v, name="phi")(gating)
        return skip * CNA(1, 1, nn.sigmoid, name="psi")(nn.relu(a))


class AttUnet(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        skips = []
        for i, f in enumerate((4, 8, 16)):
            if i:
                x = nn.max_pool(x, (2, 2), (2, 2))
            x = Twice(f, name=f"encoder_{i}")(x)
            skips.append(x)
        for i, f in ((1, 8), (0, 4)):
            x = CNA(f, name=f"upsample_{i}")(up2(x))
            s = Gate(f // 2, name=f"gate_{i}")(skips[i], x)
            x = Twice(f, name=f"decoder_{i}")(jnp.concatenate((s, x), -1))
        return nn.Conv(2, (1, 1), name="logits")(x)


# -------------------------------------------------------------------- MNASNet, torchvision


class InvRes(tnn.Module):
    def __init__(self, i: Any, o: Any, k: Any, s: Any, e: Any) -> None:
        super().__init__()
        m = i * e
        self.apply_residual = i == o and s == 1
        self.layers = tnn.Sequential(
            tnn.Conv2d(i, m, 1, bias=False),
            tnn.BatchNorm2d(m),
            tnn.ReLU(),
            tnn.Conv2d(m, m, k, s, k // 2, groups=m, bias=False),
            tnn.BatchNorm2d(m),
            tnn.ReLU(),
            tnn.Conv2d(m, o, 1, bias=False),
            tnn.BatchNorm2d(o),
        )

    def forward(self, x: Any) -> Any:
        return self.layers(x) + x if self.apply_residual else self.layers(x)


class MNASNet(tnn.Module):
    def __init__(self) -> None:
        super().__init__()

        def st(i, o, k, s, e, n):
            return tnn.Sequential(InvRes(i, o, k, s, e), *[InvRes(o, o, k, 1, e) for _ in range(n - 1)])

        self.layers = tnn.Sequential(
            tnn.Conv2d(3, 8, 3, 2, 1, bias=False),
            tnn.BatchNorm2d(8),
            tnn.ReLU(),
            tnn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False),
            tnn.BatchNorm2d(8),
            tnn.ReLU(),
            tnn.Conv2d(8, 4, 1, bias=False),
            tnn.BatchNorm2d(4),
            st(4, 8, 3, 2, 2, 3),
            st(8, 8, 5, 1, 2, 3),
            st(8, 12, 5, 1, 2, 2),
            tnn.Conv2d(12, 24, 1, bias=False),
            tnn.BatchNorm2d(24),
            tnn.ReLU(),
        )
        self.classifier = tnn.Sequential(tnn.Dropout(0.2), tnn.Linear(24, 10))

    def forward(self, x: Any) -> Any:
        return self.classifier(self.layers(x).mean([2, 3]))


class MB(nn.Module):
    out: int
    k: int
    s: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        m = x.shape[-1] * 2
        y = nn.relu(BN()(nn.Conv(m, (1, 1), use_bias=False)(x)))
        y = nn.relu(BN()(nn.Conv(m, (self.k, self.k), self.s, same(self.k), feature_group_count=m, use_bias=False)(y)))
        y = BN()(nn.Conv(self.out, (1, 1), use_bias=False)(y))
        return y + x if y.shape == x.shape else y


class LinenMnas(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.relu(BN()(nn.Conv(8, (3, 3), 2, same(), use_bias=False)(x)))
        x = nn.relu(BN()(nn.Conv(8, (3, 3), feature_group_count=8, use_bias=False)(x)))
        x = BN()(nn.Conv(4, (1, 1), use_bias=False)(x))
        for o, k, s, n in ((8, 3, 2, 3), (8, 5, 1, 3), (12, 5, 1, 2)):
            for i in range(n):
                x = MB(o, k, s if i == 0 else 1)(x)
        x = nn.relu(BN()(nn.Conv(24, (1, 1), use_bias=False)(x)))
        return nn.Dense(10)(x.mean((1, 2)))


# -------------------------------------------------------------------- SuperPoint, magicleap


class SuperPointNet(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.relu, self.pool = (tnn.ReLU(), tnn.MaxPool2d(2, 2))
        c1, c2, c3, c4, c5, d1 = (8, 8, 12, 12, 16, 16)

        def C(i, o, k=3):
            return tnn.Conv2d(i, o, k, 1, k // 2)

        self.conv1a, self.conv1b = (C(1, c1), C(c1, c1))
        self.conv2a, self.conv2b = (C(c1, c2), C(c2, c2))
        self.conv3a, self.conv3b = (C(c2, c3), C(c3, c3))
        self.conv4a, self.conv4b = (C(c3, c4), C(c4, c4))
        self.convPa, self.convPb = (C(c4, c5), C(c5, 5, 1))
        self.convDa, self.convDb = (C(c4, c5), C(c5, d1, 1))

    def forward(self, x: Any) -> Any:
        r = torch.relu
        x = self.pool(r(self.conv1b(r(self.conv1a(x)))))
        x = self.pool(r(self.conv2b(r(self.conv2a(x)))))
        x = self.pool(r(self.conv3b(r(self.conv3a(x)))))
        x = r(self.conv4b(r(self.conv4a(x))))
        return (channels_last(self.convPb(r(self.convPa(x)))), channels_last(self.convDb(r(self.convDa(x)))))


class SpBlock(nn.Module):
    f: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.relu(nn.Conv(self.f, (3, 3))(nn.relu(nn.Conv(self.f, (3, 3))(x))))


class SpHead(nn.Module):
    hidden: int
    out: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.Conv(self.out, (1, 1))(nn.relu(nn.Conv(self.hidden, (3, 3))(x)))


class LinenSuperPoint(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        for i, f in enumerate((8, 8, 12, 12)):
            x = SpBlock(f, name=f"vgg_block_{i}")(x)
            if i < 3:
                x = nn.max_pool(x, (2, 2), (2, 2))
        return (SpHead(16, 5, name="detector")(x), SpHead(16, 16, name="descriptor")(x))


# -------------------------------------------------------------------- ConvMixer, tmp-iclr


class Resid(tnn.Module):
    def __init__(self, fn: Any) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Any) -> Any:
        return self.fn(x) + x


def ConvMixer() -> Any:
    return tnn.Sequential(
        tnn.Conv2d(3, 8, 2, 2),
        tnn.GELU(),
        tnn.BatchNorm2d(8),
        *[
            tnn.Sequential(
                Resid(tnn.Sequential(tnn.Conv2d(8, 8, 5, groups=8, padding="same"), tnn.GELU(), tnn.BatchNorm2d(8))),
                tnn.Conv2d(8, 8, 1),
                tnn.GELU(),
                tnn.BatchNorm2d(8),
            )
            for _ in range(3)
        ],
        tnn.AdaptiveAvgPool2d((1, 1)),
        tnn.Flatten(),
        tnn.Linear(8, 5),
    )


class JConvMixer(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        def bn(n):
            return nn.BatchNorm(use_running_average=True, epsilon=1e-05, name=n)

        x = bn("stem_bn")(gelu(nn.Conv(8, (2, 2), 2, name="stem")(x)))
        for i in range(3):
            x = x + bn(f"depthwise_bn{i}")(gelu(nn.Conv(8, (5, 5), feature_group_count=8, name=f"depthwise{i}")(x)))
            x = bn(f"pointwise_bn{i}")(gelu(nn.Conv(8, (1, 1), name=f"pointwise{i}")(x)))
        return D(5, "head")(x.mean((1, 2)))


# -------------------------------------------------------------------- pairs

#: Which of the two reads the skip and which the gating signal is said by no name.
GATE_RULES = {
    "Att{i+2}/W_g/0": "gate_{i}/phi/Conv_0",
    "Att{i+2}/W_g/1": "gate_{i}/phi/BatchNorm_0",
}
#: The second convolution of a block is made first there, and is `Conv_0`; P is the detector and D the descriptor.
SUPERPOINT_RULES = {
    "conv1b": "vgg_block_0/Conv_0",
    "conv2a": "vgg_block_1/Conv_1",
    "conv2b": "vgg_block_1/Conv_0",
    "conv3b": "vgg_block_2/Conv_0",
    "conv4a": "vgg_block_3/Conv_1",
    "conv4b": "vgg_block_3/Conv_0",
    "convPa": "detector/Conv_1",
}

PAIRS = (
    Pair(
        "unetpp-linen",
        NestedUNet,
        lambda: Linen(UnetPP(), (image(8),)),
        on_image,
        why="a triangle of nodes, each with two numbers in its name; two heads",
    ),
    Pair(
        "attention-unet-linen",
        AttU_Net,
        lambda: Linen(AttUnet(), (image(8),)),
        on_image,
        rules=GATE_RULES,
        why="two projections of one size in a gate, which no name tells apart; the decoder counts down",
    ),
    Pair(
        "mnasnet-linen",
        MNASNet,
        lambda: Linen(LinenMnas(), (image(16),)),
        on_image,
        why="stages inside of one Sequential of layers against automatic names",
    ),
    Pair(
        "superpoint-linen",
        SuperPointNet,
        lambda: Linen(LinenSuperPoint(), (image(8, 1),)),
        on_image,
        rules=SUPERPOINT_RULES,
        why="stage and place in one name (conv1a), against blocks whose last layer is made first",
    ),
    Pair(
        "convmixer-linen",
        ConvMixer,
        lambda: Linen(JConvMixer(), (image(8),)),
        on_image,
        why="nothing but numbers of a Sequential, norms of one width called after what they follow",
    ),
)
