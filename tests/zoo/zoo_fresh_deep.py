"""Fresh pairs of deep stacks: standardised weights of a type that is declared, fused bottlenecks, a denoiser.

Torch as google-research, timm and w86763777 write them, Flax as `nn.compact` and NNX do. Widths are equal on purpose wherever
the architecture leaves a choice.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import torch
from flax import linen as nn
from flax import nnx
from torch import nn as tnn
from torch.nn import functional
from zoo_convnets import channels_last, image, on_image
from zoo_mixed import on_noise
from zoo_pairs import Linen, Nnx, Pair
from zoo_recurrent import features

import stateregistry as sr
import stateregistry_torch
from stateregistry.layers.vocabulary import Piece

# -------------------------------------------------------------------- BiT: GroupNorm and standardised weights


class StdConv2d(tnn.Conv2d):
    def forward(self, x: Any) -> Any:
        w = self.weight
        var, mean = torch.var_mean(w, dim=[1, 2, 3], keepdim=True, unbiased=False)
        return functional.conv2d(x, (w - mean) / torch.sqrt(var + 1e-10), self.bias, self.stride, self.padding)


def standardised(module: StdConv2d) -> sr.Layer:
    """What the author of a model says of a layer that computes in its own way."""
    return sr.Layer(
        "conv", "", (Piece("kernel", "weight", "out in/groups *spatial"),), config={"strides": module.stride}
    )


stateregistry_torch.register_layer(StdConv2d, standardised)


class PreActBottleneck(tnn.Module):
    def __init__(self, cin: int, cout: int, cmid: int, stride: int = 1) -> None:
        super().__init__()
        self.gn1 = tnn.GroupNorm(4, cin)
        self.conv1 = StdConv2d(cin, cmid, 1, bias=False)
        self.gn2 = tnn.GroupNorm(4, cmid)
        self.conv2 = StdConv2d(cmid, cmid, 3, stride, 1, bias=False)
        self.gn3 = tnn.GroupNorm(4, cmid)
        self.conv3 = StdConv2d(cmid, cout, 1, bias=False)
        if stride != 1 or cin != cout:
            self.downsample = StdConv2d(cin, cout, 1, stride, bias=False)

    def forward(self, x: Any) -> Any:
        y = functional.relu(self.gn1(x))
        shortcut = self.downsample(y) if hasattr(self, "downsample") else x
        y = self.conv1(y)
        y = self.conv2(functional.relu(self.gn2(y)))
        return self.conv3(functional.relu(self.gn3(y))) + shortcut


class ResNetV2(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.root = tnn.Sequential()
        self.root.add_module("conv", StdConv2d(3, 16, 3, 1, 1, bias=False))
        self.body = tnn.Sequential()
        width = 16
        for block, (out, stride) in enumerate(((32, 1), (64, 2)), 1):
            units = tnn.Sequential()
            for unit in range(1, 4):
                step = stride if unit == 1 else 1
                units.add_module(f"unit{unit:02d}", PreActBottleneck(width, out, 8 * block, step))
                width = out
            self.body.add_module(f"block{block}", units)
        self.head = tnn.Sequential()
        self.head.add_module("gn", tnn.GroupNorm(4, width))
        self.head.add_module("conv", tnn.Conv2d(width, 10, 1))

    def forward(self, x: Any) -> Any:
        x = functional.relu(self.head[0](self.body(self.root(x)))).mean((2, 3), keepdim=True)
        return self.head[1](x)[..., 0, 0]


class StdConv(nn.Conv):
    def param(self, name: str, *args: Any, **kwargs: Any) -> Any:
        value = super().param(name, *args, **kwargs)
        if name == "kernel":
            value = (value - value.mean((0, 1, 2))) / jnp.sqrt(value.var((0, 1, 2)) + 1e-10)
        return value


class LinenUnit(nn.Module):
    nout: int
    nmid: int
    strides: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        def norm(value: Any) -> Any:
            return nn.relu(nn.GroupNorm(4, epsilon=1e-5)(value))

        def conv(value: Any, width: int, size: int, strides: int = 1) -> Any:
            return StdConv(width, (size, size), strides, size // 2, use_bias=False)(value)

        y = norm(x)
        shortcut = x
        if self.strides != 1 or x.shape[-1] != self.nout:
            shortcut = StdConv(self.nout, (1, 1), self.strides, use_bias=False, name="proj")(y)
        y = conv(y, self.nmid, 1)
        y = conv(norm(y), self.nmid, 3, self.strides)
        return conv(norm(y), self.nout, 1) + shortcut


class LinenBit(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = StdConv(16, (3, 3), use_bias=False, name="conv_root")(x)
        for stage, (width, strides) in enumerate(((32, 1), (64, 2))):
            for number in range(3):
                step = strides if number == 0 else 1
                x = LinenUnit(width, 8 * (stage + 1), step, name=f"stage_{stage}_unit_{number}")(x)
        x = nn.relu(nn.GroupNorm(4, epsilon=1e-5, name="norm_final")(x)).mean((1, 2))
        return nn.Dense(10, name="classifier")(x)


# -------------------------------------------------------------------- EfficientNetV2, timm against NNX


class TimmSqueeze(tnn.Module):
    def __init__(self, width: int, reduced: int) -> None:
        super().__init__()
        self.conv_reduce = tnn.Conv2d(width, reduced, 1)
        self.conv_expand = tnn.Conv2d(reduced, width, 1)

    def forward(self, x: Any) -> Any:
        return x * self.conv_expand(functional.silu(self.conv_reduce(x.mean((2, 3), keepdim=True)))).sigmoid()


class EdgeResidual(tnn.Module):
    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv_exp = tnn.Conv2d(width, 2 * width, 3, stride, 1, bias=False)
        self.bn1 = tnn.BatchNorm2d(2 * width)
        self.conv_pwl = tnn.Conv2d(2 * width, width, 1, bias=False)
        self.bn2 = tnn.BatchNorm2d(width)

    def forward(self, x: Any) -> Any:
        y = self.bn2(self.conv_pwl(functional.silu(self.bn1(self.conv_exp(x)))))
        return x + y if self.stride == 1 else y


class TimmInverted(tnn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        wide = 2 * width
        self.conv_pw = tnn.Conv2d(width, wide, 1, bias=False)
        self.bn1 = tnn.BatchNorm2d(wide)
        self.conv_dw = tnn.Conv2d(wide, wide, 3, 1, 1, groups=wide, bias=False)
        self.bn2 = tnn.BatchNorm2d(wide)
        self.se = TimmSqueeze(wide, width // 2)
        self.conv_pwl = tnn.Conv2d(wide, width, 1, bias=False)
        self.bn3 = tnn.BatchNorm2d(width)

    def forward(self, x: Any) -> Any:
        y = functional.silu(self.bn1(self.conv_pw(x)))
        y = self.se(functional.silu(self.bn2(self.conv_dw(y))))
        return x + self.bn3(self.conv_pwl(y))


class TimmEfficientNetV2(tnn.Module):
    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.conv_stem = tnn.Conv2d(3, width, 3, 2, 1, bias=False)
        self.bn1 = tnn.BatchNorm2d(width)
        self.blocks = tnn.Sequential(
            tnn.Sequential(EdgeResidual(width, 1), EdgeResidual(width, 1)),
            tnn.Sequential(EdgeResidual(width, 2), TimmInverted(width), TimmInverted(width)),
        )
        self.conv_head = tnn.Conv2d(width, 40, 1, bias=False)
        self.bn2 = tnn.BatchNorm2d(40)
        self.classifier = tnn.Linear(40, 10)

    def forward(self, x: Any) -> Any:
        x = self.blocks(functional.silu(self.bn1(self.conv_stem(x))))
        return self.classifier(functional.silu(self.bn2(self.conv_head(x))).mean((2, 3)))


class NnxConvBn(nnx.Module):
    def __init__(
        self, inside: int, outside: int, size: int, stride: int = 1, groups: int = 1, *, rngs: nnx.Rngs
    ) -> None:
        pad = size // 2
        self.conv = nnx.Conv(
            inside, outside, (size, size), stride, padding=pad, feature_group_count=groups, use_bias=False, rngs=rngs
        )
        self.bn = nnx.BatchNorm(outside, use_running_average=True, epsilon=1e-5, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.bn(self.conv(x))


class NnxFused(nnx.Module):
    def __init__(self, width: int, stride: int, *, rngs: nnx.Rngs) -> None:
        self.stride = stride
        self.expand = NnxConvBn(width, 2 * width, 3, stride, rngs=rngs)
        self.project = NnxConvBn(2 * width, width, 1, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        y = self.project(nnx.silu(self.expand(x)))
        return x + y if self.stride == 1 else y


class NnxMbConv(nnx.Module):
    def __init__(self, width: int, *, rngs: nnx.Rngs) -> None:
        wide = 2 * width
        self.expand = NnxConvBn(width, wide, 1, rngs=rngs)
        self.depthwise = NnxConvBn(wide, wide, 3, groups=wide, rngs=rngs)
        self.squeeze = nnx.Linear(wide, width // 2, rngs=rngs)
        self.excite = nnx.Linear(width // 2, wide, rngs=rngs)
        self.project = NnxConvBn(wide, width, 1, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        y = nnx.silu(self.depthwise(nnx.silu(self.expand(x))))
        y = y * nnx.sigmoid(self.excite(nnx.silu(self.squeeze(y.mean((1, 2), keepdims=True)))))
        return x + self.project(y)


class NnxEfficientNetV2(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        width = 12
        self.stem = NnxConvBn(3, width, 3, 2, rngs=rngs)
        fused = [NnxFused(width, stride, rngs=rngs) for stride in (1, 1, 2)]
        self.layers = nnx.List([*fused, *(NnxMbConv(width, rngs=rngs) for _ in range(2))])
        self.top = NnxConvBn(width, 40, 1, rngs=rngs)
        self.dense = nnx.Linear(40, 10, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x = nnx.silu(self.stem(x))
        for layer in self.layers:
            x = layer(x)
        return self.dense(nnx.silu(self.top(x)).mean((1, 2)))


# -------------------------------------------------------------------- DDPM, w86763777/pytorch-ddpm against google's


class AttnBlock(tnn.Module):
    def __init__(self, ch: int) -> None:
        super().__init__()
        self.group_norm = tnn.GroupNorm(4, ch)
        self.proj_q = tnn.Conv2d(ch, ch, 1)
        self.proj_k = tnn.Conv2d(ch, ch, 1)
        self.proj_v = tnn.Conv2d(ch, ch, 1)
        self.proj = tnn.Conv2d(ch, ch, 1)

    def forward(self, x: Any) -> Any:
        b, c, h, w = x.shape
        y = self.group_norm(x)
        q, k, v = (layer(y).flatten(2) for layer in (self.proj_q, self.proj_k, self.proj_v))
        weights = (q.transpose(1, 2) @ k * c**-0.5).softmax(-1)
        return x + self.proj((v @ weights.transpose(1, 2)).view(b, c, h, w))


class TimeResBlock(tnn.Module):
    def __init__(self, in_ch: int, out_ch: int, tdim: int, attn: bool) -> None:
        super().__init__()
        self.block1 = tnn.Sequential(tnn.GroupNorm(4, in_ch), tnn.SiLU(), tnn.Conv2d(in_ch, out_ch, 3, 1, 1))
        self.temb_proj = tnn.Sequential(tnn.SiLU(), tnn.Linear(tdim, out_ch))
        self.block2 = tnn.Sequential(
            tnn.GroupNorm(4, out_ch), tnn.SiLU(), tnn.Dropout(0.1), tnn.Conv2d(out_ch, out_ch, 3, 1, 1)
        )
        self.shortcut = tnn.Conv2d(in_ch, out_ch, 1) if in_ch != out_ch else tnn.Identity()
        self.attn = AttnBlock(out_ch) if attn else tnn.Identity()

    def forward(self, x: Any, temb: Any) -> Any:
        h = self.block1(x) + self.temb_proj(temb)[:, :, None, None]
        return self.attn(self.block2(h) + self.shortcut(x))


class DdpmUNet(tnn.Module):
    def __init__(self, ch: int = 8, tdim: int = 20) -> None:
        super().__init__()
        self.time_embedding = tnn.ModuleDict(
            {"timembedding": tnn.Sequential(tnn.Linear(6, tdim), tnn.SiLU(), tnn.Linear(tdim, tdim))}
        )
        self.head = tnn.Conv2d(3, ch, 3, 1, 1)
        self.downblocks = tnn.ModuleList([TimeResBlock(ch, ch, tdim, False), tnn.Conv2d(ch, ch, 3, 2, 1)])
        self.downblocks.append(TimeResBlock(ch, 2 * ch, tdim, True))
        self.middleblocks = tnn.ModuleList(
            [TimeResBlock(2 * ch, 2 * ch, tdim, True), TimeResBlock(2 * ch, 2 * ch, tdim, False)]
        )
        self.upblocks = tnn.ModuleList([TimeResBlock(4 * ch, 2 * ch, tdim, True), tnn.Conv2d(2 * ch, 2 * ch, 3, 1, 1)])
        self.upblocks.append(TimeResBlock(3 * ch, ch, tdim, False))
        self.tail = tnn.Sequential(tnn.GroupNorm(4, ch), tnn.SiLU(), tnn.Conv2d(ch, 3, 3, 1, 1))

    def forward(self, x: Any, t: Any) -> Any:
        temb = self.time_embedding["timembedding"](t)
        h = self.downblocks[0](self.head(x), temb)
        one = h
        two = self.downblocks[2](self.downblocks[1](h), temb)
        h = self.middleblocks[1](self.middleblocks[0](two, temb), temb)
        h = self.upblocks[0](torch.cat([h, two], 1), temb)
        h = self.upblocks[1](functional.interpolate(h, scale_factor=2, mode="nearest"))
        return channels_last(self.tail(self.upblocks[2](torch.cat([h, one], 1), temb)))


def group_norm(name: str) -> nn.Module:
    return nn.GroupNorm(4, epsilon=1e-5, name=name)


class LinenTimeRes(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x: Any, temb: Any) -> Any:
        h = nn.Conv(self.width, (3, 3), name="conv1")(nn.silu(group_norm("norm1")(x)))
        h = h + nn.Dense(self.width, name="temb_proj")(nn.silu(temb))[:, None, None]
        h = nn.Conv(self.width, (3, 3), name="conv2")(nn.silu(group_norm("norm2")(h)))
        return h + (x if x.shape[-1] == self.width else nn.Dense(self.width, name="nin_shortcut")(x))


class LinenSpatial(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        b, h, w, c = x.shape
        y = group_norm("norm")(x).reshape(b, h * w, c)
        q, k, v = (nn.Dense(c, name=name)(y) for name in "qkv")
        y = nn.softmax(q @ k.swapaxes(1, 2) * c**-0.5) @ v
        return x + nn.Dense(c, name="proj_out")(y).reshape(b, h, w, c)


class LinenDdpm(nn.Module):
    @nn.compact
    def __call__(self, x: Any, t: Any) -> Any:
        temb = nn.Dense(20, name="temb_dense1")(nn.silu(nn.Dense(20, name="temb_dense0")(t)))
        one = LinenTimeRes(8, name="down_0_block_0")(nn.Conv(8, (3, 3), name="conv_in")(x), temb)
        h = nn.Conv(8, (3, 3), 2, 1, name="down_0_downsample")(one)
        two = LinenSpatial(name="down_1_attn_0")(LinenTimeRes(16, name="down_1_block_0")(h, temb))
        h = LinenSpatial(name="mid_attn_1")(LinenTimeRes(16, name="mid_block_1")(two, temb))
        h = LinenTimeRes(16, name="mid_block_2")(h, temb)
        h = LinenSpatial(name="up_1_attn_0")(LinenTimeRes(16, name="up_1_block_0")(jnp.concatenate([h, two], -1), temb))
        h = nn.Conv(16, (3, 3), name="up_1_upsample")(jnp.repeat(jnp.repeat(h, 2, 1), 2, 2))
        h = LinenTimeRes(8, name="up_0_block_0")(jnp.concatenate([h, one], -1), temb)
        return nn.Conv(3, (3, 3), name="conv_out")(nn.silu(group_norm("norm_out")(h)))


# -------------------------------------------------------------------- pairs

PAIRS = (
    Pair(
        "bit-linen", ResNetV2, lambda: Linen(LinenBit(), (image(8),)), on_image,
        why="subclasses of convolutions, group norms by number, a projection that is called first and declared last",
    ),
    Pair(
        "efficientnet-v2-nnx", TimmEfficientNetV2, lambda: Nnx(lambda: NnxEfficientNetV2(nnx.Rngs(0)), (image(12),)), on_image,
        allow={"live": ("assumption",)}, open=("files",),
        why="stages of two kinds of block in one list, squeeze-and-excite by convolutions against layers beside them",
    ),
    Pair(
        "ddpm-linen", DdpmUNet, lambda: Linen(LinenDdpm(), (image(8), features(2, 6))), on_noise,
        open=("variables", "files"),
        why="attention inside of a block against beside it, convolutions between blocks, a decoder that counts down",
    ),
)  # fmt: skip
