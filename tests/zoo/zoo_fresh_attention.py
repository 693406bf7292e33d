"""Fresh pairs that attend to images and words: a neck, registers, relative positions.

Torch as facebookresearch and kimiyoung write them, Flax as `setup`, `nn.compact` and NNX do. Widths are equal on
purpose wherever the architecture leaves a choice.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import linen as nn
from flax import nnx
from torch import nn as tnn
from torch.nn import functional
from zoo_audio import layer_norm
from zoo_convnets import channels_last, image, on_image
from zoo_fresh_tables import digits
from zoo_pairs import Linen, Nnx, Pair
from zoo_recurrent import features
from zoo_transformers import on_args

# -------------------------------------------------------------------- the neck of SAM, facebookresearch/segment-anything


class LayerNorm2d(tnn.Module):
    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.weight = tnn.Parameter(torch.ones(num_channels))
        self.bias = tnn.Parameter(torch.zeros(num_channels))

    def forward(self, x: Any) -> Any:
        mean = x.mean(1, keepdim=True)
        spread = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(spread + 1e-6)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class SamAttention(tnn.Module):
    def __init__(self, dim: int, heads: int, size: int) -> None:
        super().__init__()
        self.heads, self.size = heads, size
        self.qkv = tnn.Linear(dim, dim * 3)
        self.proj = tnn.Linear(dim, dim)
        self.rel_pos_h = tnn.Parameter(torch.zeros(2 * size - 1, dim // heads))
        self.rel_pos_w = tnn.Parameter(torch.zeros(2 * size - 1, dim // heads))

    def forward(self, x: Any) -> Any:
        b, h, w, c = x.shape
        q, k, v = self.qkv(x).reshape(b, h * w, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        away = torch.arange(h)[:, None] - torch.arange(h)[None, :] + h - 1
        grid = q.reshape(b, self.heads, h, w, -1)
        tall = torch.einsum("bnhwc,hkc->bnhwk", grid, self.rel_pos_h[away])
        wide = torch.einsum("bnhwc,wkc->bnhwk", grid, self.rel_pos_w[away])
        logits = logits.view(b, self.heads, h, w, h, w) + tall[..., None] + wide[..., None, :]
        y = logits.view(b, self.heads, h * w, h * w).softmax(-1) @ v
        return self.proj(y.transpose(1, 2).reshape(b, h, w, c))


class SamMlp(tnn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.lin1 = tnn.Linear(dim, 2 * dim)
        self.lin2 = tnn.Linear(2 * dim, dim)

    def forward(self, x: Any) -> Any:
        return self.lin2(functional.gelu(self.lin1(x)))


class SamBlock(tnn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm1 = tnn.LayerNorm(dim, eps=1e-6)
        self.attn = SamAttention(dim, 2, 4)
        self.norm2 = tnn.LayerNorm(dim, eps=1e-6)
        self.mlp = SamMlp(dim)

    def forward(self, x: Any) -> Any:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ImageEncoderViT(tnn.Module):
    def __init__(self, dim: int = 16) -> None:
        super().__init__()
        self.patch_embed = tnn.Module()
        self.patch_embed.proj = tnn.Conv2d(3, dim, 4, 4)
        self.pos_embed = tnn.Parameter(torch.zeros(1, 4, 4, dim))
        self.blocks = tnn.ModuleList([SamBlock(dim) for _ in range(3)])
        self.neck = tnn.Sequential(
            tnn.Conv2d(dim, dim, 1, bias=False), LayerNorm2d(dim),
            tnn.Conv2d(dim, dim, 3, padding=1, bias=False), LayerNorm2d(dim),
        )  # fmt: skip

    def forward(self, x: Any) -> Any:
        x = self.patch_embed.proj(x).permute(0, 2, 3, 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return channels_last(self.neck(x.permute(0, 3, 1, 2)))


class LinenSamAttention(nn.Module):
    heads: int
    size: int

    def setup(self) -> None:
        start = nn.initializers.normal(0.02)
        self.out = nn.Dense(16)
        self.to_qkv = nn.Dense(48)
        self.bias_rows = self.param("height_table", start, (2 * self.size - 1, 8))
        self.bias_columns = self.param("width_table", start, (2 * self.size - 1, 8))

    def __call__(self, x: Any) -> Any:
        b, h, w, c = x.shape
        q, k, v = jnp.moveaxis(self.to_qkv(x).reshape(b, h, w, 3, self.heads, -1), 3, 0)
        logits = jnp.einsum("bhwnc,bijnc->bnhwij", q * q.shape[-1] ** -0.5, k)
        away = jnp.arange(h)[:, None] - jnp.arange(h)[None, :] + h - 1
        logits += jnp.einsum("bhwnc,hic->bnhwi", q, self.bias_rows[away])[..., None]
        logits += jnp.einsum("bhwnc,wjc->bnhwj", q, self.bias_columns[away])[..., None, :]
        weights = nn.softmax(logits.reshape(b, self.heads, h, w, -1)).reshape(logits.shape)
        return self.out(jnp.einsum("bnhwij,bijnc->bhwnc", weights, v).reshape(b, h, w, c))


class LinenSamLayer(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = x + LinenSamAttention(2, 4)(nn.LayerNorm()(x))
        y = nn.Dense(2 * x.shape[-1])(nn.LayerNorm()(x))
        return x + nn.Dense(x.shape[-1])(jax.nn.gelu(y, approximate=False))


class LinenSam(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.Conv(16, (4, 4), (4, 4), name="embedding")(x)
        x = x + self.param("pos_embedding", nn.initializers.normal(0.02), (1, 4, 4, 16))
        for number in range(3):
            x = LinenSamLayer(name=f"encoderblock_{number}")(x)
        x = nn.LayerNorm(name="neck_ln1")(nn.Dense(16, use_bias=False, name="neck_reduce")(x))
        return nn.LayerNorm(name="neck_ln2")(nn.Conv(16, (3, 3), use_bias=False, name="neck_conv")(x))


# -------------------------------------------------------------------- ViT with registers and LayerScale, DINOv2


class LayerScale(tnn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = tnn.Parameter(torch.ones(dim))

    def forward(self, x: Any) -> Any:
        return x * self.gamma


class DinoBlock(tnn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = tnn.LayerNorm(dim)
        self.attn = tnn.ModuleDict({"qkv": tnn.Linear(dim, 3 * dim), "proj": tnn.Linear(dim, dim)})
        self.ls1 = LayerScale(dim)
        self.norm2 = tnn.LayerNorm(dim)
        self.mlp = tnn.ModuleDict({"w12": tnn.Linear(dim, 2 * dim), "w3": tnn.Linear(dim, dim)})
        self.ls2 = LayerScale(dim)

    def forward(self, x: Any) -> Any:
        b, n, c = x.shape
        q, k, v = self.attn["qkv"](self.norm1(x)).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        y = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c)
        x = x + self.ls1(self.attn["proj"](y))
        one, two = self.mlp["w12"](self.norm2(x)).chunk(2, dim=-1)
        return x + self.ls2(self.mlp["w3"](functional.silu(one) * two))


class DinoVisionTransformer(tnn.Module):
    def __init__(self, dim: int = 12) -> None:
        super().__init__()
        self.cls_token = tnn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = tnn.Parameter(torch.zeros(1, 5, dim))
        self.register_tokens = tnn.Parameter(torch.zeros(1, 4, dim))
        self.mask_token = tnn.Parameter(torch.zeros(1, dim))
        self.patch_embed = tnn.ModuleDict({"proj": tnn.Conv2d(3, dim, 4, 4)})
        self.blocks = tnn.ModuleList([DinoBlock(dim, 2) for _ in range(3)])
        self.norm = tnn.LayerNorm(dim)

    def forward(self, x: Any) -> Any:
        x = self.patch_embed["proj"](x).flatten(2).transpose(1, 2)
        x = torch.cat([x[:, :3], self.mask_token.expand(x.shape[0], 1, -1)], 1)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1) + self.pos_embed
        x = torch.cat([x[:, :1], self.register_tokens.expand(x.shape[0], -1, -1), x[:, 1:]], 1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class NnxScaled(nnx.Module):
    def __init__(self, dim: int) -> None:
        self.scale = nnx.Param(jnp.ones(dim))

    def __call__(self, x: Any) -> Any:
        return x * self.scale[...]


class NnxGated(nnx.Module):
    def __init__(self, dim: int, *, rngs: nnx.Rngs) -> None:
        self.gate_and_up = nnx.Linear(dim, 2 * dim, rngs=rngs)
        self.down = nnx.Linear(dim, dim, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        one, two = jnp.split(self.gate_and_up(x), 2, -1)
        return self.down(nnx.silu(one) * two)


class NnxDinoLayer(nnx.Module):
    def __init__(self, dim: int, *, rngs: nnx.Rngs) -> None:
        self.attention = nnx.MultiHeadAttention(2, dim, decode=False, rngs=rngs)
        self.attention_norm = nnx.LayerNorm(dim, epsilon=1e-5, rngs=rngs)
        self.attention_scale = NnxScaled(dim)
        self.ffn = NnxGated(dim, rngs=rngs)
        self.ffn_norm = nnx.LayerNorm(dim, epsilon=1e-5, rngs=rngs)
        self.ffn_scale = NnxScaled(dim)

    def __call__(self, x: Any) -> Any:
        x = x + self.attention_scale(self.attention(self.attention_norm(x)))
        return x + self.ffn_scale(self.ffn(self.ffn_norm(x)))


class NnxDino(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        dim = 12
        self.class_token = nnx.Param(jnp.zeros((1, 1, dim)))
        self.masked = nnx.Param(jnp.zeros((1, 1, dim)))
        self.registers = nnx.Param(jnp.zeros((1, 4, dim)))
        self.positions = nnx.Param(jnp.zeros((1, 5, dim)))
        self.patches = nnx.Conv(3, dim, (4, 4), (4, 4), rngs=rngs)
        self.trunk = nnx.List([NnxDinoLayer(dim, rngs=rngs) for _ in range(3)])
        self.out_norm = nnx.LayerNorm(dim, epsilon=1e-5, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        b = x.shape[0]
        x = self.patches(x).reshape(b, 4, -1)
        x = jnp.concatenate([x[:, :3], jnp.broadcast_to(self.masked[...], (b, 1, 12))], 1)
        x = jnp.concatenate([jnp.broadcast_to(self.class_token[...], (b, 1, 12)), x], 1) + self.positions[...]
        x = jnp.concatenate([x[:, :1], jnp.broadcast_to(self.registers[...], (b, 4, 12)), x[:, 1:]], 1)
        for layer in self.trunk:
            x = layer(x)
        return self.out_norm(x)


# -------------------------------------------------------------------- Transformer-XL, kimiyoung/transformer-xl


class RelPartialLearnableMultiHeadAttn(tnn.Module):
    def __init__(self, n_head: int, d_model: int, d_head: int) -> None:
        super().__init__()
        self.n_head, self.d_head = n_head, d_head
        self.qkv_net = tnn.Linear(d_model, 3 * n_head * d_head, bias=False)
        self.o_net = tnn.Linear(n_head * d_head, d_model, bias=False)
        self.layer_norm = tnn.LayerNorm(d_model)
        self.r_net = tnn.Linear(d_model, n_head * d_head, bias=False)

    def forward(self, w: Any, r: Any, r_w_bias: Any, r_r_bias: Any) -> Any:
        q, k, v = self.qkv_net(w).view(*w.shape[:2], 3, self.n_head, self.d_head).unbind(2)
        rel = self.r_net(r).view(-1, self.n_head, self.d_head)
        content = torch.einsum("bind,bjnd->bnij", q + r_w_bias, k)
        place = torch.einsum("bind,ijnd->bnij", q + r_r_bias, rel[away(w.shape[1])])
        y = torch.einsum("bnij,bjnd->bind", ((content + place) / self.d_head**0.5).softmax(-1), v)
        return self.layer_norm(w + self.o_net(y.flatten(2)))


def away(n: int) -> Any:
    return torch.arange(n)[:, None] - torch.arange(n)[None, :] + n - 1


class PositionwiseFF(tnn.Module):
    def __init__(self, d_model: int, d_inner: int) -> None:
        super().__init__()
        self.CoreNet = tnn.Sequential(
            tnn.Linear(d_model, d_inner), tnn.ReLU(inplace=True), tnn.Dropout(0.0),
            tnn.Linear(d_inner, d_model), tnn.Dropout(0.0),
        )  # fmt: skip
        self.layer_norm = tnn.LayerNorm(d_model)

    def forward(self, x: Any) -> Any:
        return self.layer_norm(x + self.CoreNet(x))


class MemTransformerLM(tnn.Module):
    def __init__(self, dim: int = 12) -> None:
        super().__init__()
        self.word_emb = tnn.Embedding(25, dim)
        self.layers = tnn.ModuleList()
        for _ in range(2):
            layer = tnn.Module()
            layer.dec_attn = RelPartialLearnableMultiHeadAttn(2, dim, 6)
            layer.pos_ff = PositionwiseFF(dim, 24)
            self.layers.append(layer)
        self.r_w_bias = tnn.Parameter(torch.zeros(2, 6))
        self.r_r_bias = tnn.Parameter(torch.zeros(2, 6))
        self.out_layer = tnn.Linear(dim, 25)

    def forward(self, index: Any, sines: Any) -> Any:
        x = self.word_emb(index)
        for layer in self.layers:
            x = layer.pos_ff(layer.dec_attn(x, sines, self.r_w_bias, self.r_r_bias))
        return self.out_layer(x)


class LinenRelative(nn.Module):
    @nn.compact
    def __call__(self, x: Any, r: Any, u: Any, v: Any) -> Any:
        dense = {"features": (2, 6), "use_bias": False}
        q, k, value = (nn.DenseGeneral(**dense, name=name)(x) for name in ("query", "key", "value"))
        rel = nn.DenseGeneral(**dense, name="relative_key")(r)
        n = x.shape[1]
        index = np.arange(n)[:, None] - np.arange(n)[None, :] + n - 1
        logits = jnp.einsum("bind,bjnd->bnij", q + u, k) + jnp.einsum("bind,ijnd->bnij", q + v, rel[index])
        y = jnp.einsum("bnij,bjnd->bind", nn.softmax(logits / 6**0.5), value)
        return nn.DenseGeneral(12, axis=(-2, -1), use_bias=False, name="out")(y)


class LinenXl(nn.Module):
    @nn.compact
    def __call__(self, index: Any, sines: Any) -> Any:
        x = nn.Embed(25, 12, name="embed")(index)
        u = self.param("r_w_bias", nn.initializers.zeros, (2, 6))
        v = self.param("r_r_bias", nn.initializers.zeros, (2, 6))
        for number in range(2):
            x = layer_norm(f"layer_{number}_attention_norm")(
                x + LinenRelative(name=f"layer_{number}_attention")(x, sines, u, v)
            )
            y = nn.Dense(12, name=f"layer_{number}_ff2")(nn.relu(nn.Dense(24, name=f"layer_{number}_ff1")(x)))
            x = layer_norm(f"layer_{number}_ff_norm")(x + y)
        return nn.Dense(25, name="softmax")(x)


# -------------------------------------------------------------------- pairs

PAIRS = (
    Pair(
        "sam-linen", ImageEncoderViT, lambda: Linen(LinenSam(), (image(16),)), on_image,
        allow={"always": ("assumption",)},
        why="two tables of one shape for height and width, a norm of the author's class, a convolution of one place",
    ),
    Pair(
        "dino-registers-nnx", DinoVisionTransformer, lambda: Nnx(lambda: NnxDino(nnx.Rngs(0)), (image(8),)), on_image,
        allow={"always": ("assumption",)},
        why="scales of layers, registers, tokens and tables of no layer; a fused gate",
    ),
    Pair(
        "transformer-xl-linen", MemTransformerLM,
        lambda: Linen(LinenXl(), (digits(2, 6, below=25), features(11, 12))), on_args,
        allow={"always": ("assumption",)}, open=("variables", "files"),
        why="a fused qkv beside a projection of the same size for positions; biases by head that layers share",
    ),
)  # fmt: skip
