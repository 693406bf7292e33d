"""More pairs of generators of images: from one image to another, by blocks inside of blocks, by a bottleneck.

Torch as junyanz, CompVis and Cadene write it, Flax as `nn.compact`, `setup` and diffusers do.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import torch
from flax import linen as nn
from torch import nn as tnn
from torch.nn import functional as F
from zoo_convnets import channels_last, image, on_image
from zoo_layers import BN, D, same
from zoo_pairs import Linen, Pair

# -------------------------------------------------------------------- CycleGAN, junyanz


class ResnetBlockC(tnn.Module):
    def __init__(self, d: Any) -> None:
        super().__init__()
        self.conv_block = tnn.Sequential(
            tnn.ReflectionPad2d(1),
            tnn.Conv2d(d, d, 3),
            tnn.BatchNorm2d(d),
            tnn.ReLU(True),
            tnn.Dropout(0.5),
            tnn.ReflectionPad2d(1),
            tnn.Conv2d(d, d, 3),
            tnn.BatchNorm2d(d),
        )

    def forward(self, x: Any) -> Any:
        return x + self.conv_block(x)


class ResnetGenerator(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        m = [tnn.ReflectionPad2d(3), tnn.Conv2d(3, 4, 7), tnn.BatchNorm2d(4), tnn.ReLU(True)]
        for i in range(2):
            m += [tnn.Conv2d(4 * 2**i, 8 * 2**i, 3, 2, 1), tnn.BatchNorm2d(8 * 2**i), tnn.ReLU(True)]
        m += [ResnetBlockC(16) for _ in range(3)]
        for i in range(2):
            c = 16 // 2**i
            m += [tnn.ConvTranspose2d(c, c // 2, 3, 2, 1, 1), tnn.BatchNorm2d(c // 2), tnn.ReLU(True)]
        m += [tnn.ReflectionPad2d(3), tnn.Conv2d(4, 3, 7), tnn.Tanh()]
        self.model = tnn.Sequential(*m)

    def forward(self, x: Any) -> Any:
        return channels_last(self.model(x))


def reflect(x: Any, p: Any) -> Any:
    return jnp.pad(x, ((0, 0), (p, p), (p, p), (0, 0)), mode="reflect")


class CycRes(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        c = x.shape[-1]
        y = nn.relu(BN("norm_a")(nn.Conv(c, (3, 3), padding="VALID", name="conv_a")(reflect(x, 1))))
        return x + BN("norm_b")(nn.Conv(c, (3, 3), padding="VALID", name="conv_b")(reflect(y, 1)))


class CycGen(nn.Module):
    def setup(self) -> None:
        self.c7s1 = nn.Conv(4, (7, 7), padding="VALID")
        self.c7s1_norm = BN()
        self.down = [nn.Conv(f, (3, 3), 2, ((1, 1), (1, 1))) for f in (8, 16)]
        self.down_norms = [BN() for _ in range(2)]
        self.trunk = [CycRes() for _ in range(3)]
        self.up = [nn.ConvTranspose(f, (3, 3), (2, 2), padding=((1, 2), (1, 2)), transpose_kernel=True) for f in (8, 4)]
        self.up_norms = [BN() for _ in range(2)]
        self.rgb = nn.Conv(3, (7, 7), padding="VALID")

    def __call__(self, x: Any) -> Any:
        x = nn.relu(self.c7s1_norm(self.c7s1(reflect(x, 3))))
        for c, n in zip(self.down, self.down_norms, strict=False):
            x = nn.relu(n(c(x)))
        for t in self.trunk:
            x = t(x)
        for c, n in zip(self.up, self.up_norms, strict=False):
            x = nn.relu(n(c(x)))
        return jnp.tanh(self.rgb(reflect(x, 3)))


# -------------------------------------------------------------------- pix2pix, junyanz


class UnetSkip(tnn.Module):
    def __init__(
        self, outer: Any, inner: Any, inp: Any = None, sub: Any = None, outermost: Any = False, innermost: Any = False
    ) -> None:
        super().__init__()
        self.outermost = outermost
        inp = inp or outer
        down = tnn.Conv2d(inp, inner, 4, 2, 1, bias=False)
        lrelu, relu = (tnn.LeakyReLU(0.2), tnn.ReLU())
        dn, un = (tnn.BatchNorm2d(inner), tnn.BatchNorm2d(outer))
        if outermost:
            model = [down, sub, relu, tnn.ConvTranspose2d(2 * inner, outer, 4, 2, 1), tnn.Tanh()]
        elif innermost:
            model = [lrelu, down, relu, tnn.ConvTranspose2d(inner, outer, 4, 2, 1, bias=False), un]
        else:
            model = [lrelu, down, dn, sub, relu, tnn.ConvTranspose2d(2 * inner, outer, 4, 2, 1, bias=False), un]
        self.model = tnn.Sequential(*model)

    def forward(self, x: Any) -> Any:
        return self.model(x) if self.outermost else torch.cat([x, self.model(x)], 1)


class UnetGenerator(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        b = UnetSkip(8, 8, innermost=True)
        b = UnetSkip(8, 8, sub=b)
        b = UnetSkip(8, 8, sub=b)
        b = UnetSkip(4, 8, sub=b)
        self.model = UnetSkip(3, 4, inp=3, sub=b, outermost=True)

    def forward(self, x: Any) -> Any:
        return channels_last(self.model(x))


class P2P(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        def down(f, i):
            return nn.Conv(f, (4, 4), 2, ((1, 1), (1, 1)), use_bias=False, name=f"down{i}")

        skips = []
        for i, f in enumerate((4, 8, 8, 8, 8)):
            if i:
                x = nn.leaky_relu(x, 0.2)
            x = down(f, i)(x)
            if 0 < i < 4:
                x = BN(f"down{i}_bn")(x)
            skips.append(x)
        skips.pop()
        for i, f in enumerate((8, 8, 8, 4)):
            x = nn.ConvTranspose(
                f, (4, 4), (2, 2), padding=((2, 2), (2, 2)), use_bias=False, transpose_kernel=True, name=f"up{i}"
            )(nn.relu(x))
            x = BN(f"up{i}_bn")(x)
            x = jnp.concatenate((skips.pop(), x), -1)
        return jnp.tanh(
            nn.ConvTranspose(3, (4, 4), (2, 2), padding=((2, 2), (2, 2)), transpose_kernel=True, name="out")(nn.relu(x))
        )


# -------------------------------------------------------------------- the encoder of AutoencoderKL, CompVis against diffusers


class ResnetBlockKL(tnn.Module):
    def __init__(self, i: Any, o: Any) -> None:
        super().__init__()
        self.norm1, self.conv1, self.norm2, self.conv2 = (
            tnn.GroupNorm(4, i),
            tnn.Conv2d(i, o, 3, 1, 1),
            tnn.GroupNorm(4, o),
            tnn.Conv2d(o, o, 3, 1, 1),
        )
        if i != o:
            self.nin_shortcut = tnn.Conv2d(i, o, 1)

    def forward(self, x: Any) -> Any:
        h = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class AttnKL(tnn.Module):
    def __init__(self, c: Any) -> None:
        super().__init__()
        self.norm, self.q, self.k, self.v, self.proj_out = (
            tnn.GroupNorm(4, c),
            *(tnn.Conv2d(c, c, 1) for _ in range(4)),
        )

    def forward(self, x: Any) -> Any:
        h = self.norm(x)
        b, c, hh, w = x.shape
        q, k, v = (f(h).flatten(2).transpose(1, 2) for f in (self.q, self.k, self.v))
        o = torch.softmax(q @ k.transpose(1, 2) * c ** (-0.5), -1) @ v
        return x + self.proj_out(o.transpose(1, 2).reshape(b, c, hh, w))


class EncoderKL(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv_in = tnn.Conv2d(3, 8, 3, 1, 1)
        self.down = tnn.ModuleList()
        for level, (i, o) in enumerate(((8, 8), (8, 16))):
            d = tnn.Module()
            d.block, d.attn = (tnn.ModuleList([ResnetBlockKL(i, o), ResnetBlockKL(o, o)]), tnn.ModuleList())
            if level == 0:
                d.downsample = tnn.Module()
                d.downsample.conv = tnn.Conv2d(o, o, 3, 2, 0)
            self.down.append(d)
        self.mid = tnn.Module()
        self.mid.block_1, self.mid.attn_1, self.mid.block_2 = (ResnetBlockKL(16, 16), AttnKL(16), ResnetBlockKL(16, 16))
        self.norm_out, self.conv_out = (tnn.GroupNorm(4, 16), tnn.Conv2d(16, 8, 3, 1, 1))
        self.quant_conv = tnn.Conv2d(8, 8, 1)

    def forward(self, x: Any) -> Any:
        h = self.conv_in(x)
        for d in self.down:
            for b in d.block:
                h = b(h)
            if hasattr(d, "downsample"):
                h = d.downsample.conv(F.pad(h, (0, 1, 0, 1)))
        h = self.mid.block_2(self.mid.attn_1(self.mid.block_1(h)))
        return channels_last(self.quant_conv(self.conv_out(F.silu(self.norm_out(h)))))


class FRes(nn.Module):
    f: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        def gn(n):
            return nn.GroupNorm(4, epsilon=1e-05, name=n, use_fast_variance=False)

        h = nn.Conv(self.f, (3, 3), name="conv1")(nn.silu(gn("norm1")(x)))
        h = nn.Conv(self.f, (3, 3), name="conv2")(nn.silu(gn("norm2")(h)))
        return h + (x if x.shape[-1] == self.f else nn.Conv(self.f, (1, 1), name="conv_shortcut")(x))


class FAttn(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        b, h, w, c = x.shape
        y = nn.GroupNorm(4, epsilon=1e-05, name="group_norm", use_fast_variance=False)(x).reshape(b, h * w, c)
        q, k, v = (D(c, "query")(y), D(c, "key")(y), D(c, "value")(y))
        return x + D(c, "proj_attn")(nn.softmax(q @ k.swapaxes(1, 2) * c ** (-0.5)) @ v).reshape(x.shape)


class FEncoderKL(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        h = nn.Conv(8, (3, 3), name="conv_in")(x)
        for level, o in enumerate((8, 16)):
            for j in range(2):
                h = FRes(o, name=f"down_blocks_{level}_resnets_{j}")(h)
            if level == 0:
                h = nn.Conv(o, (3, 3), 2, ((0, 1), (0, 1)), name=f"down_blocks_{level}_downsamplers_0_conv")(h)
        h = FRes(16, name="mid_block_resnets_0")(h)
        h = FAttn(name="mid_block_attentions_0")(h)
        h = FRes(16, name="mid_block_resnets_1")(h)
        h = nn.silu(nn.GroupNorm(4, epsilon=1e-05, name="conv_norm_out", use_fast_variance=False)(h))
        return nn.Conv(8, (1, 1), name="quant_conv")(nn.Conv(8, (3, 3), name="conv_out")(h))


# -------------------------------------------------------------------- Xception, Cadene


class SeparableConv2d(tnn.Module):
    def __init__(self, i: Any, o: Any) -> None:
        super().__init__()
        self.conv1 = tnn.Conv2d(i, i, 3, 1, 1, groups=i, bias=False)
        self.pointwise = tnn.Conv2d(i, o, 1, bias=False)

    def forward(self, x: Any) -> Any:
        return self.pointwise(self.conv1(x))


class XBlock(tnn.Module):
    def __init__(self, i: Any, o: Any, reps: Any, strides: Any, start_relu: Any = True) -> None:
        super().__init__()
        if o != i or strides != 1:
            self.skip, self.skipbn = (tnn.Conv2d(i, o, 1, stride=strides, bias=False), tnn.BatchNorm2d(o))
        else:
            self.skip = None
        rep = []
        f = i
        for _ in range(reps):
            rep += [tnn.ReLU(), SeparableConv2d(f, o), tnn.BatchNorm2d(o)]
            f = o
        if not start_relu:
            rep = rep[1:]
        if strides != 1:
            rep.append(tnn.MaxPool2d(2, 2))
        self.rep = tnn.Sequential(*rep)

    def forward(self, x: Any) -> Any:
        return self.rep(x) + (x if self.skip is None else self.skipbn(self.skip(x)))


class Xception(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = (tnn.Conv2d(3, 8, 3, 2, 1, bias=False), tnn.BatchNorm2d(8))
        self.conv2, self.bn2 = (tnn.Conv2d(8, 8, 3, 1, 1, bias=False), tnn.BatchNorm2d(8))
        self.block1 = XBlock(8, 12, 2, 2, False)
        self.block2 = XBlock(12, 12, 3, 1)
        self.block3 = XBlock(12, 12, 3, 1)
        self.block4 = XBlock(12, 16, 2, 2)
        self.conv3, self.bn3 = (SeparableConv2d(16, 24), tnn.BatchNorm2d(24))
        self.fc = tnn.Linear(24, 10)

    def forward(self, x: Any) -> Any:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        for b in (self.block1, self.block2, self.block3, self.block4):
            x = b(x)
        return self.fc(torch.relu(self.bn3(self.conv3(x))).mean((2, 3)))


class Sep(nn.Module):
    f: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        c = x.shape[-1]
        x = nn.Conv(c, (3, 3), feature_group_count=c, use_bias=False, name="depthwise")(x)
        return BN("bn")(nn.Conv(self.f, (1, 1), use_bias=False, name="pointwise")(x))


class XUnit(nn.Module):
    f: int
    reps: int
    down: bool
    first: bool = False

    @nn.compact
    def __call__(self, x: Any) -> Any:
        y = x
        for i in range(self.reps):
            if i or not self.first:
                y = nn.relu(y)
            y = Sep(self.f, name=f"sep{i + 1}")(y)
        if self.down:
            y = nn.max_pool(y, (2, 2), (2, 2))
            x = BN("residual_bn")(nn.Conv(self.f, (1, 1), 2, "VALID", use_bias=False, name="residual")(x))
        return x + y


class LinenXception(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        for i, s in enumerate((2, 1)):
            x = nn.relu(BN(f"entry_bn{i}")(nn.Conv(8, (3, 3), s, same(), use_bias=False, name=f"entry_conv{i}")(x)))
        x = XUnit(12, 2, True, True, name="entry_0")(x)
        for i in range(2):
            x = XUnit(12, 3, False, name=f"middle_{i}")(x)
        x = XUnit(16, 2, True, name="exit")(x)
        x = nn.relu(Sep(24, name="exit_sep")(x))
        return nn.Dense(10, name="predictions")(x.mean((1, 2)))


# -------------------------------------------------------------------- pairs


PAIRS = (
    Pair(
        "cyclegan-linen",
        ResnetGenerator,
        lambda: Linen(CycGen(), (image(8),)),
        on_image,
        open=("variables", "files"),
        why="one Sequential of everything against lists for each kind; transposed convolutions on the way up",
    ),
    Pair(
        "pix2pix-linen",
        UnetGenerator,
        lambda: Linen(P2P(), (image(32),)),
        on_image,
        open=("variables", "files"),
        why="a U-Net whose levels are inside of one another, six deep, against flat numbers",
    ),
    Pair(
        "autoencoderkl-linen",
        EncoderKL,
        lambda: Linen(FEncoderKL(), (image(8),)),
        on_image,
        allow={"live": ("assumption",)},
        why="blocks in a list in a list against flat names; attention by convolutions of one place against dense layers",
    ),
    Pair(
        "xception-linen",
        Xception,
        lambda: Linen(LinenXception(), (image(16),)),
        on_image,
        allow={"always": ("assumption",)},
        why="separable convolutions in a Sequential that begins at another number in each block; a norm on the detour",
    ),
)
