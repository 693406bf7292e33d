"""A new pair of images that are made: one flat list of everything against automatic names, with matrices of the author's class.

Torch as yang-song/score_sde_pytorch writes it, Flax as yang-song/score_sde does. Widths are equal on purpose wherever the
architecture leaves a choice.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import torch
from flax import linen as nn
from torch import nn as tnn
from torch.nn import functional
from zoo_convnets import channels_last, image
from zoo_pairs import Linen, Pair
from zoo_recurrent import features
from zoo_transformers import on_args

# -------------------------------------------------------------------- DDPM, yang-song/score_sde


class NIN(tnn.Module):
    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.W = tnn.Parameter(torch.zeros(i, o))
        self.b = tnn.Parameter(torch.zeros(o))

    def forward(self, x: Any) -> Any:
        return (x.permute(0, 2, 3, 1) @ self.W + self.b).permute(0, 3, 1, 2)


class SdeAttnBlock(tnn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.GroupNorm_0 = tnn.GroupNorm(2, c, eps=1e-6)
        self.NIN_0, self.NIN_1, self.NIN_2, self.NIN_3 = (NIN(c, c) for _ in range(4))

    def forward(self, x: Any) -> Any:
        b, c, h, w = x.shape
        y = self.GroupNorm_0(x)
        q, k, v = self.NIN_0(y), self.NIN_1(y), self.NIN_2(y)
        a = torch.einsum("bchw,bcij->bhwij", q, k) * c**-0.5
        a = a.reshape(b, h, w, h * w).softmax(-1).reshape(b, h, w, h, w)
        return x + self.NIN_3(torch.einsum("bhwij,bcij->bchw", a, v))


class ResnetBlockDDPM(tnn.Module):
    def __init__(self, i: int, o: int, temb: int) -> None:
        super().__init__()
        self.GroupNorm_0 = tnn.GroupNorm(2, i, eps=1e-6)
        self.Conv_0 = tnn.Conv2d(i, o, 3, padding=1)
        self.Dense_0 = tnn.Linear(temb, o)
        self.GroupNorm_1 = tnn.GroupNorm(2, o, eps=1e-6)
        self.Conv_1 = tnn.Conv2d(o, o, 3, padding=1)
        if i != o:
            self.NIN_0 = NIN(i, o)
        self.same = i == o

    def forward(self, x: Any, temb: Any) -> Any:
        h = self.Conv_0(functional.silu(self.GroupNorm_0(x)))
        h = h + self.Dense_0(functional.silu(temb))[:, :, None, None]
        h = self.Conv_1(functional.silu(self.GroupNorm_1(h)))
        return (x if self.same else self.NIN_0(x)) + h


class Downsample(tnn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.Conv_0 = tnn.Conv2d(c, c, 3, 2, 1)

    def forward(self, x: Any) -> Any:
        return self.Conv_0(x)


class DDPM(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        m = [tnn.Linear(8, 16), tnn.Linear(16, 16), tnn.Conv2d(3, 8, 3, padding=1)]
        m += [ResnetBlockDDPM(8, 8, 16), Downsample(8), ResnetBlockDDPM(8, 16, 16), SdeAttnBlock(16)]
        m += [ResnetBlockDDPM(16, 16, 16), SdeAttnBlock(16), ResnetBlockDDPM(16, 16, 16)]
        m += [tnn.GroupNorm(2, 16, eps=1e-6), tnn.Conv2d(16, 3, 3, padding=1)]
        self.all_modules = tnn.ModuleList(m)

    def forward(self, x: Any, t: Any) -> Any:
        x = x.movedim(-1, 1)
        it = iter(self.all_modules)
        temb = next(it)(t)
        temb = next(it)(functional.silu(temb))
        h = next(it)(x)
        for module in it:
            if isinstance(module, ResnetBlockDDPM):
                h = module(h, temb)
            elif isinstance(module, tnn.GroupNorm):
                h = functional.silu(module(h))
            else:
                h = module(h)
        return channels_last(h)


class JaxNIN(nn.Module):
    units: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        w = self.param("W", nn.initializers.normal(), (x.shape[-1], self.units))
        return x @ w + self.param("b", nn.initializers.zeros, (self.units,))


class JaxAttn(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        b, h, w, c = x.shape
        y = nn.GroupNorm(2)(x)
        q, k, v = JaxNIN(c)(y), JaxNIN(c)(y), JaxNIN(c)(y)
        a = jnp.einsum("bhwc,bijc->bhwij", q, k) * c**-0.5
        a = jax.nn.softmax(a.reshape(b, h, w, h * w)).reshape(b, h, w, h, w)
        return x + JaxNIN(c)(jnp.einsum("bhwij,bijc->bhwc", a, v))


class JaxResnet(nn.Module):
    out: int

    @nn.compact
    def __call__(self, x: Any, temb: Any) -> Any:
        h = nn.Conv(self.out, (3, 3))(nn.silu(nn.GroupNorm(2)(x)))
        h = h + nn.Dense(self.out)(nn.silu(temb))[:, None, None]
        h = nn.Conv(self.out, (3, 3))(nn.silu(nn.GroupNorm(2)(h)))
        return (x if x.shape[-1] == self.out else JaxNIN(self.out)(x)) + h


class JaxDown(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.Conv(x.shape[-1], (3, 3), 2, ((1, 1), (1, 1)))(x)


class JaxDdpm(nn.Module):
    @nn.compact
    def __call__(self, x: Any, t: Any) -> Any:
        temb = nn.Dense(16)(nn.silu(nn.Dense(16)(t)))
        h = nn.Conv(8, (3, 3))(x)
        h = JaxResnet(8, name="ResnetBlockDDPM_0")(h, temb)
        h = JaxDown(name="Downsample_0")(h)
        h = JaxResnet(16, name="ResnetBlockDDPM_1")(h, temb)
        h = JaxAttn(name="AttnBlock_0")(h)
        h = JaxResnet(16, name="ResnetBlockDDPM_2")(h, temb)
        h = JaxAttn(name="AttnBlock_1")(h)
        h = JaxResnet(16, name="ResnetBlockDDPM_3")(h, temb)
        return nn.Conv(3, (3, 3))(nn.silu(nn.GroupNorm(2)(h)))


# -------------------------------------------------------------------- pairs

PAIRS = (
    Pair(
        "score-sde-linen", DDPM, lambda: Linen(JaxDdpm(), (image(4), features(2, 8))), on_args,
        allow={"always": ("assumption",)},
        why="all modules in one list; square matrices of a class whose layout another one of it shows",
    ),
)  # fmt: skip
