"""Transformer pairs with foreign names: torch as timm, nanoGPT, lucidrains, Meta and torch.nn write it, Linen and NNX.

Widths are small; the trees and the names are those of the originals.
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
from zoo_convnets import CLASSES, image, on_image
from zoo_pairs import FlaxSide, Linen, Nnx, Pair

DIM, HEADS, DEPTH, VOCAB, LENGTH = 24, 3, 3, 40, 7


def tokens(seed: int = 1, length: int = LENGTH) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCAB, (2, length)).astype(np.int32)


def vectors(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(2, LENGTH, DIM)).astype(np.float32)


def on_args(model: torch.nn.Module, side: FlaxSide) -> Any:
    """Run a torch model on what the Flax side takes; indices become int64."""
    args = [torch.from_numpy(np.asarray(arg)) for arg in side.args]  # type: ignore[attr-defined]
    return model(*[arg if arg.is_floating_point() else arg.long() for arg in args])


def gelu(x: Any) -> Any:
    return jax.nn.gelu(x, approximate=False)


# -------------------------------------------------------------------- ViT: timm, google-research/vision_transformer


class Attention(tnn.Module):
    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = tnn.Linear(dim, dim * 3)
        self.proj = tnn.Linear(dim, dim)

    def forward(self, x: Any) -> Any:
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        x = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(b, n, c))


class Mlp(tnn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = tnn.Linear(dim, hidden)
        self.act = tnn.GELU()
        self.fc2 = tnn.Linear(hidden, dim)

    def forward(self, x: Any) -> Any:
        return self.fc2(self.act(self.fc1(x)))


class Block(tnn.Module):
    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = tnn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads)
        self.norm2 = tnn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, dim * 4)

    def forward(self, x: Any) -> Any:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(tnn.Module):
    def __init__(self, patch: int, dim: int) -> None:
        super().__init__()
        self.proj = tnn.Conv2d(3, dim, patch, patch)

    def forward(self, x: Any) -> Any:
        return self.proj(x).flatten(2).transpose(1, 2)


class VisionTransformer(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cls_token = tnn.Parameter(torch.zeros(1, 1, DIM))
        self.pos_embed = tnn.Parameter(torch.zeros(1, 17, DIM))
        self.patch_embed = PatchEmbed(4, DIM)
        self.blocks = tnn.Sequential(*[Block(DIM, HEADS) for _ in range(DEPTH)])
        self.norm = tnn.LayerNorm(DIM, eps=1e-6)
        self.head = tnn.Linear(DIM, CLASSES)

    def forward(self, x: Any) -> Any:
        x = self.patch_embed(x)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1) + self.pos_embed
        return self.head(self.norm(self.blocks(x))[:, 0])


class AddPositionEmbs(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        return x + self.param("pos_embedding", nn.initializers.normal(0.02), (1, *x.shape[1:]))


class MlpBlock(nn.Module):
    hidden: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.Dense(x.shape[-1])(gelu(nn.Dense(self.hidden)(x)))


class Encoder1DBlock(nn.Module):
    @nn.compact
    def __call__(self, inputs: Any) -> Any:
        x = nn.LayerNorm()(inputs)
        x = nn.MultiHeadDotProductAttention(num_heads=HEADS)(x, x) + inputs
        return x + MlpBlock(DIM * 4)(nn.LayerNorm()(x))


class Encoder(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = AddPositionEmbs(name="posembed_input")(x)
        for layer in range(DEPTH):
            x = Encoder1DBlock(name=f"encoderblock_{layer}")(x)
        return nn.LayerNorm(name="encoder_norm")(x)


class LinenViT(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.Conv(DIM, (4, 4), 4, padding="VALID", name="embedding")(x)
        x = x.reshape(x.shape[0], -1, DIM)
        cls = self.param("cls", nn.initializers.zeros, (1, 1, DIM))
        x = jnp.concatenate([jnp.tile(cls, [x.shape[0], 1, 1]), x], axis=1)
        return nn.Dense(CLASSES, name="head")(Encoder(name="Transformer")(x)[:, 0])


# -------------------------------------------------------------------- GPT-2: fused c_attn, tied head


class Conv1D(tnn.Module):
    """The linear layer of OpenAI's GPT-2, whose weight is (in, out)."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.weight = tnn.Parameter(torch.empty(nx, nf))
        self.bias = tnn.Parameter(torch.zeros(nf))

    def forward(self, x: Any) -> Any:
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(*x.shape[:-1], -1)


class CausalSelfAttention(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c_attn = Conv1D(3 * DIM, DIM)
        self.c_proj = Conv1D(DIM, DIM)

    def forward(self, x: Any) -> Any:
        b, t, c = x.shape
        q, k, v = (y.view(b, t, HEADS, -1).transpose(1, 2) for y in self.c_attn(x).split(c, 2))
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).reshape(b, t, c))


class GptMlp(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c_fc = Conv1D(4 * DIM, DIM)
        self.c_proj = Conv1D(DIM, 4 * DIM)

    def forward(self, x: Any) -> Any:
        return self.c_proj(functional.gelu(self.c_fc(x), approximate="tanh"))


class GptBlock(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ln_1 = tnn.LayerNorm(DIM)
        self.attn = CausalSelfAttention()
        self.ln_2 = tnn.LayerNorm(DIM)
        self.mlp = GptMlp()

    def forward(self, x: Any) -> Any:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.transformer = tnn.ModuleDict(
            {
                "wte": tnn.Embedding(VOCAB, DIM),
                "wpe": tnn.Embedding(16, DIM),
                "h": tnn.ModuleList([GptBlock() for _ in range(DEPTH)]),
                "ln_f": tnn.LayerNorm(DIM),
            }
        )
        self.lm_head = tnn.Linear(DIM, VOCAB, bias=False)
        self.lm_head.weight = self.transformer["wte"].weight

    def forward(self, index: Any) -> Any:
        x = self.transformer["wte"](index) + self.transformer["wpe"](torch.arange(index.shape[1]))
        for block in self.transformer["h"]:
            x = block(x)
        return self.lm_head(self.transformer["ln_f"](x))


class SelfAttention(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        b, t, c = x.shape
        q, k, v = (nn.Dense(c, name=f"{name}_proj")(x).reshape(b, t, HEADS, -1) for name in ("q", "k", "v"))
        y = nn.dot_product_attention(q, k, v, mask=nn.make_causal_mask(jnp.ones((b, t))))
        return nn.Dense(c, name="out_proj")(y.reshape(b, t, c))


class DecoderLayer(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = x + SelfAttention(name="attention")(nn.LayerNorm(epsilon=1e-5, name="attention_norm")(x))
        y = nn.LayerNorm(epsilon=1e-5, name="mlp_norm")(x)
        y = jax.nn.gelu(nn.Dense(4 * DIM, name="up")(y), approximate=True)
        return x + nn.Dense(DIM, name="down")(y)


class LinenGpt(nn.Module):
    @nn.compact
    def __call__(self, index: Any) -> Any:
        embed = nn.Embed(VOCAB, DIM, name="token_embed")
        x = embed(index) + nn.Embed(16, DIM, name="position_embed")(jnp.arange(index.shape[1]))
        for number in range(DEPTH):
            x = DecoderLayer(name=f"layer_{number}")(x)
        return embed.attend(nn.LayerNorm(epsilon=1e-5, name="final_norm")(x))


# -------------------------------------------------------------------- torch.nn's encoder, scanned in Linen


class TextEncoder(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = tnn.Embedding(VOCAB, DIM)
        layer = tnn.TransformerEncoderLayer(DIM, HEADS, 3 * DIM, activation="gelu", batch_first=True, norm_first=True)
        self.encoder = tnn.TransformerEncoder(layer, DEPTH, tnn.LayerNorm(DIM), enable_nested_tensor=False)
        self.classifier = tnn.Linear(DIM, CLASSES)

    def forward(self, index: Any) -> Any:
        return self.classifier(self.encoder(self.embedding(index)).mean(1))


class ScannedLayer(nn.Module):
    @nn.compact
    def __call__(self, x: Any, _: Any) -> Any:
        y = nn.LayerNorm(epsilon=1e-5, name="ln_attention")(x)
        x = x + nn.MultiHeadDotProductAttention(num_heads=HEADS, name="attention")(y, y)
        y = nn.LayerNorm(epsilon=1e-5, name="ln_mlp")(x)
        y = gelu(nn.Dense(3 * DIM, name="wi")(y))
        return x + nn.Dense(DIM, name="wo")(y), None


class ScannedEncoder(nn.Module):
    @nn.compact
    def __call__(self, index: Any) -> Any:
        x = nn.Embed(VOCAB, DIM, name="embed")(index)
        layers = nn.scan(ScannedLayer, variable_axes={"params": 0}, split_rngs={"params": True}, length=DEPTH)
        x, _ = layers(name="layers")(x, None)
        x = nn.LayerNorm(epsilon=1e-5, name="ln_final")(x)
        return nn.Dense(CLASSES, name="logits")(x.mean(1))


# -------------------------------------------------------------------- the same encoder, NNX


class NnxLayer(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.attn = nnx.MultiHeadAttention(HEADS, DIM, decode=False, rngs=rngs)
        self.attn_norm = nnx.LayerNorm(DIM, epsilon=1e-5, rngs=rngs)
        self.ffn_norm = nnx.LayerNorm(DIM, epsilon=1e-5, rngs=rngs)
        self.ffn_in = nnx.Linear(DIM, 3 * DIM, rngs=rngs)
        self.ffn_out = nnx.Linear(3 * DIM, DIM, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x = x + self.attn(self.attn_norm(x))
        return x + self.ffn_out(gelu(self.ffn_in(self.ffn_norm(x))))


class NnxEncoder(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.tok = nnx.Embed(VOCAB, DIM, rngs=rngs)
        self.blocks = nnx.List([NnxLayer(rngs=rngs) for _ in range(DEPTH)])
        self.out_norm = nnx.LayerNorm(DIM, epsilon=1e-5, rngs=rngs)
        self.out = nnx.Linear(DIM, CLASSES, rngs=rngs)

    def __call__(self, index: Any) -> Any:
        x = self.tok(index)
        for block in self.blocks:
            x = block(x)
        return self.out(self.out_norm(x).mean(1))


# -------------------------------------------------------------------- pairs

PAIRS = (
    Pair(
        "vit-timm-linen", VisionTransformer, lambda: Linen(LinenViT(), (image(16),)), on_image,
        allow={"always": ("assumption",)},
        why="one fused qkv, in an order that no shape says, against query, key and value with heads of their own",
    ),
    Pair(
        "gpt2-linen", GPT, lambda: Linen(LinenGpt(), (tokens(),)), on_args,
        allow={"always": ("assumption",)},
        why="(in, out) weights of a class of its own, a fused c_attn against three layers, a tied head",
    ),
    Pair(
        "encoder-scanned", TextEncoder, lambda: Linen(ScannedEncoder(), (tokens(),)), on_args,
        why="three layers of torch.nn against one stacked by nn.scan",
    ),
    Pair(
        "encoder-nnx", TextEncoder, lambda: Nnx(lambda: NnxEncoder(rngs=nnx.Rngs(0)), (tokens(),)), on_args,
        allow={"always": ("assumption",)},
        why="torch.nn.TransformerEncoder against NNX",
    ),
)  # fmt: skip
