"""New pairs of attention: talking heads, biases and batch norms inside, gating in space, slots, a pooling query.

Torch as timm, facebookresearch and lucidrains write it, Flax as big_vision and `nn.compact` do. Widths are equal on purpose
wherever the architecture leaves a choice.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import torch
from flax import linen as nn
from torch import nn as tnn
from torch.nn import functional
from zoo_convnets import image, on_image
from zoo_pairs import Linen, Pair
from zoo_recurrent import features
from zoo_transformers import gelu, on_args, tokens

# -------------------------------------------------------------------- CaiT, facebookresearch/deit


class TalkingHeadAttn(tnn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.qkv = tnn.Linear(dim, dim * 3)
        self.proj = tnn.Linear(dim, dim)
        self.proj_l = tnn.Linear(heads, heads)
        self.proj_w = tnn.Linear(heads, heads)

    def forward(self, x: Any) -> Any:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        attn = self.proj_l((q * self.scale @ k.transpose(-2, -1)).permute(0, 2, 3, 1)).permute(0, 3, 1, 2).softmax(-1)
        attn = self.proj_w(attn.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.proj((attn @ v).transpose(1, 2).reshape(b, n, c))


class LayerScaleBlock(tnn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = tnn.LayerNorm(dim)
        self.attn = TalkingHeadAttn(dim, heads)
        self.norm2 = tnn.LayerNorm(dim)
        self.mlp = tnn.ModuleDict({"fc1": tnn.Linear(dim, 2 * dim), "fc2": tnn.Linear(2 * dim, dim)})
        self.gamma_1 = tnn.Parameter(torch.ones(dim))
        self.gamma_2 = tnn.Parameter(torch.ones(dim))

    def forward(self, x: Any) -> Any:
        x = x + self.gamma_1 * self.attn(self.norm1(x))
        return x + self.gamma_2 * self.mlp["fc2"](functional.gelu(self.mlp["fc1"](self.norm2(x))))


class ClassAttn(tnn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = tnn.Linear(dim, dim)
        self.k = tnn.Linear(dim, dim)
        self.v = tnn.Linear(dim, dim)
        self.proj = tnn.Linear(dim, dim)

    def forward(self, x: Any) -> Any:
        b, _n, c = x.shape
        q, k, v = (
            f(y).reshape(b, -1, self.heads, c // self.heads).transpose(1, 2)
            for f, y in ((self.q, x[:, :1]), (self.k, x), (self.v, x))
        )
        return self.proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, 1, c))


class LayerScaleBlockClassAttn(tnn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = tnn.LayerNorm(dim)
        self.attn = ClassAttn(dim, heads)
        self.norm2 = tnn.LayerNorm(dim)
        self.mlp = tnn.ModuleDict({"fc1": tnn.Linear(dim, 2 * dim), "fc2": tnn.Linear(2 * dim, dim)})
        self.gamma_1 = tnn.Parameter(torch.ones(dim))
        self.gamma_2 = tnn.Parameter(torch.ones(dim))

    def forward(self, x: Any, cls: Any) -> Any:
        u = torch.cat((cls, x), 1)
        cls = cls + self.gamma_1 * self.attn(self.norm1(u))
        return cls + self.gamma_2 * self.mlp["fc2"](functional.gelu(self.mlp["fc1"](self.norm2(cls))))


class Cait(tnn.Module):
    def __init__(self, dim: int = 16) -> None:
        super().__init__()
        self.patch_embed = tnn.ModuleDict({"proj": tnn.Conv2d(3, dim, 4, 4)})
        self.cls_token = tnn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = tnn.Parameter(torch.zeros(1, 16, dim))
        self.blocks = tnn.Sequential(*[LayerScaleBlock(dim, 4) for _ in range(2)])
        self.blocks_token_only = tnn.ModuleList([LayerScaleBlockClassAttn(dim, 4) for _ in range(2)])
        self.norm = tnn.LayerNorm(dim)
        self.head = tnn.Linear(dim, 10)

    def forward(self, x: Any) -> Any:
        x = self.patch_embed["proj"](x).flatten(2).transpose(1, 2) + self.pos_embed
        x = self.blocks(x)
        cls = self.cls_token.expand(x.shape[0], -1, -1)
        for blk in self.blocks_token_only:
            cls = blk(x, cls)
        return self.head(self.norm(torch.cat((cls, x), 1))[:, 0])


class CaitFF(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        d = x.shape[-1]
        return nn.Dense(d, name="output")(gelu(nn.Dense(2 * d, name="hidden")(x)))


class TalkingAttention(nn.Module):
    heads: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        _b, _n, c = x.shape
        q, k, v = (nn.DenseGeneral((self.heads, c // self.heads), name=s)(x) for s in ("to_q", "to_k", "to_v"))
        w = jnp.einsum("bqhd,bkhd->bqkh", q, k) * (c // self.heads) ** -0.5
        w = jax.nn.softmax(nn.Dense(self.heads, name="pre_softmax")(w), axis=2)
        w = nn.Dense(self.heads, name="post_softmax")(w)
        out = jnp.einsum("bqkh,bkhd->bqhd", w, v)
        return nn.DenseGeneral(c, axis=(-2, -1), name="to_out")(out)


class LinenSABlock(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        d = x.shape[-1]
        y = TalkingAttention(4, name="attn")(nn.LayerNorm(epsilon=1e-5, name="attn_ln")(x))
        x = x + y * self.param("attn_scale", nn.initializers.ones, (d,))
        y = CaitFF(name="ff")(nn.LayerNorm(epsilon=1e-5, name="ff_ln")(x))
        return x + y * self.param("ff_scale", nn.initializers.ones, (d,))


class LinenCABlock(nn.Module):
    @nn.compact
    def __call__(self, x: Any, cls: Any) -> Any:
        d = x.shape[-1]
        u = nn.LayerNorm(epsilon=1e-5, name="attn_ln")(jnp.concatenate([cls, x], 1))
        y = nn.MultiHeadDotProductAttention(num_heads=4, name="attn")(u[:, :1], u)
        cls = cls + y * self.param("attn_scale", nn.initializers.ones, (d,))
        y = CaitFF(name="ff")(nn.LayerNorm(epsilon=1e-5, name="ff_ln")(cls))
        return cls + y * self.param("ff_scale", nn.initializers.ones, (d,))


class LinenCait(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.Conv(16, (4, 4), 4, "VALID", name="patches")(x).reshape(x.shape[0], -1, 16)
        x = x + self.param("positions", nn.initializers.zeros, (1, 16, 16))
        for i in range(2):
            x = LinenSABlock(name=f"self_attn_{i}")(x)
        cls = jnp.tile(self.param("class_query", nn.initializers.zeros, (1, 1, 16)), (x.shape[0], 1, 1))
        for i in range(2):
            cls = LinenCABlock(name=f"class_attn_{i}")(x, cls)
        return nn.Dense(10, name="logits")(nn.LayerNorm(epsilon=1e-5, name="ln_f")(cls)[:, 0])


# -------------------------------------------------------------------- LeViT, facebookresearch


class Linear_BN(tnn.Sequential):  # as its authors call it
    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.add_module("c", tnn.Linear(a, b, bias=False))
        self.add_module("bn", tnn.BatchNorm1d(b))

    def forward(self, x: Any) -> Any:
        x = self.c(x)
        return self.bn(x.flatten(0, 1)).reshape_as(x)


class LevitAttention(tnn.Module):
    def __init__(self, dim: int, key_dim: int, heads: int, tokens_: int) -> None:
        super().__init__()
        self.heads, self.kd, self.d = heads, key_dim, 2 * key_dim
        self.qkv = Linear_BN(dim, heads * (2 * key_dim + self.d))
        self.proj = tnn.Sequential(tnn.Hardswish(), Linear_BN(heads * self.d, dim))
        self.attention_biases = tnn.Parameter(torch.zeros(heads, tokens_))

    def forward(self, x: Any) -> Any:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, self.heads, -1).split([self.kd, self.kd, self.d], dim=3)
        q, k, v = (t.permute(0, 2, 1, 3) for t in (q, k, v))
        idx = (torch.arange(n)[:, None] - torch.arange(n)[None]).abs()
        attn = (q @ k.transpose(-2, -1) * self.kd**-0.5 + self.attention_biases[:, idx]).softmax(-1)
        return self.proj((attn @ v).transpose(1, 2).reshape(b, n, -1))


class Residual(tnn.Module):
    def __init__(self, m: tnn.Module) -> None:
        super().__init__()
        self.m = m

    def forward(self, x: Any) -> Any:
        return x + self.m(x)


class LeViT(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        blocks: list[tnn.Module] = []
        for _ in range(2):
            blocks += [
                Residual(LevitAttention(16, 4, 2, 7)),
                Residual(tnn.Sequential(Linear_BN(16, 32), tnn.Hardswish(), Linear_BN(32, 16))),
            ]
        self.embed = Linear_BN(24, 16)
        self.blocks = tnn.Sequential(*blocks)
        self.head = tnn.Sequential()
        self.head.add_module("bn", tnn.BatchNorm1d(16))
        self.head.add_module("l", tnn.Linear(16, 10))

    def forward(self, x: Any) -> Any:
        return self.head(self.blocks(self.embed(x)).mean(1))


class DenseNorm(nn.Module):
    features: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.Dense(self.features, use_bias=False, name="dense")(x)
        return nn.BatchNorm(use_running_average=True, epsilon=1e-5, name="norm")(x)


class LinenLevitAttention(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        b, n, c = x.shape
        qkv = DenseNorm(32, name="qkv")(x).reshape(b, n, 2, 16)
        q, k, v = jnp.split(qkv, [4, 8], -1)
        bias = self.param("bias_table", nn.initializers.zeros, (2, n))
        idx = jnp.abs(jnp.arange(n)[:, None] - jnp.arange(n)[None])
        attn = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) * 0.5 + bias[:, idx])
        out = jnp.einsum("bhqk,bkhd->bqhd", attn, v).reshape(b, n, -1)
        return DenseNorm(c, name="out")(nn.hard_swish(out))


class LinenLevit(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = DenseNorm(16, name="stem")(x)
        for i in range(2):
            x = x + LinenLevitAttention(name=f"attn_{i}")(x)
            y = nn.hard_swish(DenseNorm(32, name=f"mlp_{i}_up")(x))
            x = x + DenseNorm(16, name=f"mlp_{i}_down")(y)
        x = nn.BatchNorm(use_running_average=True, epsilon=1e-5, name="head_norm")(x.mean(1))
        return nn.Dense(10, name="head_dense")(x)


# -------------------------------------------------------------------- gMLP


class SpatialGatingUnit(tnn.Module):
    def __init__(self, d_ffn: int, seq_len: int) -> None:
        super().__init__()
        self.norm = tnn.LayerNorm(d_ffn)
        self.spatial_proj = tnn.Conv1d(seq_len, seq_len, kernel_size=1)

    def forward(self, x: Any) -> Any:
        u, v = x.chunk(2, dim=-1)
        return u * self.spatial_proj(self.norm(v))


class gMLPBlock(tnn.Module):
    def __init__(self, d: int, ffn: int, n: int) -> None:
        super().__init__()
        self.norm = tnn.LayerNorm(d)
        self.channel_proj1 = tnn.Linear(d, ffn * 2)
        self.channel_proj2 = tnn.Linear(ffn, d)
        self.sgu = SpatialGatingUnit(ffn, n)

    def forward(self, x: Any) -> Any:
        return self.channel_proj2(self.sgu(functional.gelu(self.channel_proj1(self.norm(x))))) + x


class GMlp(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = tnn.Embedding(40, 12)
        self.model = tnn.Sequential(*[gMLPBlock(12, 12, 7) for _ in range(3)])
        self.out = tnn.Linear(12, 40)

    def forward(self, x: Any) -> Any:
        return self.out(self.model(self.embed(x)))


class LinenSgu(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        u, v = jnp.split(x, 2, -1)
        v = nn.LayerNorm(epsilon=1e-5)(v).swapaxes(-1, -2)
        return u * nn.Dense(v.shape[-1])(v).swapaxes(-1, -2)


class LinenGmlpBlock(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        y = gelu(nn.Dense(24)(nn.LayerNorm(epsilon=1e-5)(x)))
        return x + nn.Dense(12)(LinenSgu(name="SpatialGate")(y))


class LinenGmlp(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.Embed(40, 12)(x)
        for _ in range(3):
            x = LinenGmlpBlock()(x)
        return nn.Dense(40)(x)


# -------------------------------------------------------------------- pairs

#: One comes before the softmax and one behind it: `l` is of logits, `w` of weights.
CAIT_RULES = {"blocks/{i}/attn/proj_l": "self_attn_{i}/attn/pre_softmax"}

PAIRS = (
    Pair(
        "cait-linen", Cait, lambda: Linen(LinenCait(), (image(16),)), on_image,
        rules=CAIT_RULES, allow={"always": ("assumption",)},
        why="square layers over heads, scales of no layer, a second kind of block with a query of its own",
    ),
    Pair(
        "levit-linen", LeViT, lambda: Linen(LinenLevit(), (features(2, 7, 24),)), on_args,
        allow={"live": ("assumption",)},
        why="one list of two kinds of block against flat names, a norm inside of each layer, a fused qkv on both sides",
    ),
    Pair(
        "gmlp-linen", GMlp, lambda: Linen(LinenGmlp(), (tokens(),)), on_args,
        why="a convolution of one place over tokens against a dense layer, two norms of one width, automatic names",
    ),
)  # fmt: skip
