"""Pairs of images with an encoder and a decoder of attention, with foreign names: DETR and a masked autoencoder.

Torch as facebookresearch writes them, Flax as ports with `nn.compact` do. Widths are small.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import torch
from flax import linen as nn
from torch import nn as tnn
from torch.nn import functional
from zoo_attention import SwinMlp, SwinPatches
from zoo_convnets import CLASSES, image, on_image
from zoo_pairs import Linen, Pair
from zoo_transformers import gelu

DIM, HEADS = 24, 3

# -------------------------------------------------------------------- DETR, facebookresearch

QUERIES = 5


class BoxHead(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        sizes = (DIM, DIM, DIM, 4)
        self.layers = tnn.ModuleList(tnn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False))

    def forward(self, x: Any) -> Any:
        for layer in self.layers[:-1]:
            x = functional.relu(layer(x))
        return self.layers[-1](x)


class Detr(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.transformer = tnn.Transformer(
            DIM, 2, num_encoder_layers=2, num_decoder_layers=2, dim_feedforward=40, dropout=0.0, batch_first=True
        )
        self.class_embed = tnn.Linear(DIM, CLASSES + 1)
        self.bbox_embed = BoxHead()
        self.query_embed = tnn.Embedding(QUERIES, DIM)
        self.input_proj = tnn.Conv2d(3, DIM, 1)
        self.row_embed = tnn.Parameter(torch.zeros(4, DIM // 2))
        self.col_embed = tnn.Parameter(torch.zeros(4, DIM // 2))

    def forward(self, x: Any) -> Any:
        x = self.input_proj(x).movedim(1, -1)
        b, h, w, c = x.shape
        rows, columns = self.row_embed[:, None].expand(h, w, -1), self.col_embed[None].expand(h, w, -1)
        x = (x + torch.cat([columns, rows], -1)).reshape(b, h * w, c)
        y = self.transformer(x, self.query_embed.weight[None].expand(b, -1, -1))
        return self.class_embed(y), torch.sigmoid(self.bbox_embed(y))


class LinenDetrEncoder(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.LayerNorm(epsilon=1e-5, name="norm1")(x + nn.MultiHeadDotProductAttention(2, name="self_attention")(x))
        y = nn.Dense(DIM, name="linear2")(nn.relu(nn.Dense(40, name="linear1")(x)))
        return nn.LayerNorm(epsilon=1e-5, name="norm2")(x + y)


class LinenDetrDecoder(nn.Module):
    @nn.compact
    def __call__(self, x: Any, memory: Any) -> Any:
        x = x + nn.MultiHeadDotProductAttention(2, name="self_attention")(x)
        x = nn.LayerNorm(epsilon=1e-5, name="norm1")(x)
        x = x + nn.MultiHeadDotProductAttention(2, name="cross_attention")(x, memory)
        x = nn.LayerNorm(epsilon=1e-5, name="norm2")(x)
        y = nn.Dense(DIM, name="linear2")(nn.relu(nn.Dense(40, name="linear1")(x)))
        return nn.LayerNorm(epsilon=1e-5, name="norm3")(x + y)


class LinenDetr(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.Conv(DIM, (1, 1), name="project")(x)
        b, h, w, c = x.shape
        rows = self.param("position_rows", nn.initializers.normal(1.0), (h, c // 2))
        columns = self.param("position_columns", nn.initializers.normal(1.0), (w, c // 2))
        table = jnp.concatenate(
            [jnp.broadcast_to(columns[None], (h, w, c // 2)), jnp.broadcast_to(rows[:, None], (h, w, c // 2))], -1
        )
        x = (x + table).reshape(b, h * w, c)
        for number in range(2):
            x = LinenDetrEncoder(name=f"encoder_{number}")(x)
        x = nn.LayerNorm(epsilon=1e-5, name="encoder_norm")(x)
        y = self.param("object_queries", nn.initializers.normal(1.0), (QUERIES, c))
        y = jnp.broadcast_to(y[None], (b, QUERIES, c))
        for number in range(2):
            y = LinenDetrDecoder(name=f"decoder_{number}")(y, x)
        y = nn.LayerNorm(epsilon=1e-5, name="decoder_norm")(y)
        box = y
        for number in range(2):
            box = nn.relu(nn.Dense(c, name=f"box_{number}")(box))
        return nn.Dense(CLASSES + 1, name="classes")(y), nn.sigmoid(nn.Dense(4, name="box_2")(box))


# -------------------------------------------------------------------- masked autoencoder, facebookresearch/mae


class MaeBlock(tnn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm1 = tnn.LayerNorm(dim)
        self.attn = MaeAttention(dim)
        self.norm2 = tnn.LayerNorm(dim)
        self.mlp = SwinMlp(dim)

    def forward(self, x: Any) -> Any:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class MaeAttention(tnn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.qkv = tnn.Linear(dim, 3 * dim, bias=False)
        self.proj = tnn.Linear(dim, dim)

    def forward(self, x: Any) -> Any:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
        return self.proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c))


class Mae(tnn.Module):
    """Half of the patches are seen, the others are put in by a token."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = SwinPatches()
        self.cls_token = tnn.Parameter(torch.zeros(1, 1, DIM))
        self.pos_embed = tnn.Parameter(torch.zeros(1, 17, DIM), requires_grad=True)
        self.blocks = tnn.ModuleList([MaeBlock(DIM) for _ in range(3)])
        self.norm = tnn.LayerNorm(DIM)
        self.decoder_embed = tnn.Linear(DIM, 16)
        self.mask_token = tnn.Parameter(torch.zeros(1, 1, 16))
        self.decoder_pos_embed = tnn.Parameter(torch.zeros(1, 17, 16), requires_grad=True)
        self.decoder_blocks = tnn.ModuleList([MaeBlock(16) for _ in range(2)])
        self.decoder_norm = tnn.LayerNorm(16)
        self.decoder_pred = tnn.Linear(16, 12)

    def forward(self, x: Any) -> Any:
        x = self.patch_embed(x)
        b, n = x.shape[0], 16
        x = (x.reshape(b, n, DIM) + self.pos_embed[:, 1:])[:, ::2]
        x = torch.cat([(self.cls_token + self.pos_embed[:, :1]).expand(b, -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        y = self.decoder_embed(self.norm(x))
        hidden = self.mask_token.expand(b, n // 2, -1)
        both = torch.stack([y[:, 1:], hidden], 2).reshape(b, n, 16)
        y = torch.cat([y[:, :1], both], 1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            y = block(y)
        return self.decoder_pred(self.decoder_norm(y))[:, 1:]


class LinenMaeBlock(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        b, n, c = x.shape
        y = nn.LayerNorm(epsilon=1e-5)(x)
        q, k, v = nn.Dense(3 * c, use_bias=False, name="qkv")(y).reshape(b, n, 3, 2, c // 2).transpose(2, 0, 3, 1, 4)
        y = nn.softmax(q @ k.swapaxes(-1, -2) / (c // 2) ** 0.5) @ v
        x = x + nn.Dense(c, name="proj")(y.transpose(0, 2, 1, 3).reshape(b, n, c))
        y = nn.LayerNorm(epsilon=1e-5)(x)
        return x + nn.Dense(c)(gelu(nn.Dense(4 * c)(y)))


class LinenMae(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        start = nn.initializers.normal(0.02)
        x = nn.LayerNorm(epsilon=1e-5, name="embedding_norm")(nn.Conv(DIM, (2, 2), (2, 2), name="embedding")(x))
        b, n = x.shape[0], 16
        position = self.param("posemb_encoder", start, (1, 17, DIM))
        cls = self.param("cls", start, (1, 1, DIM))
        x = (x.reshape(b, n, DIM) + position[:, 1:])[:, ::2]
        x = jnp.concatenate([jnp.broadcast_to(cls + position[:, :1], (b, 1, DIM)), x], 1)
        for number in range(3):
            x = LinenMaeBlock(name=f"encoder_block_{number}")(x)
        y = nn.Dense(16, name="bottleneck")(nn.LayerNorm(epsilon=1e-5, name="encoder_norm")(x))
        mask = self.param("mask_embedding", start, (1, 1, 16))
        both = jnp.stack([y[:, 1:], jnp.broadcast_to(mask, (b, n // 2, 16))], 2).reshape(b, n, 16)
        y = jnp.concatenate([y[:, :1], both], 1) + self.param("posemb_decoder", start, (1, 17, 16))
        for number in range(2):
            y = LinenMaeBlock(name=f"decoder_block_{number}")(y)
        return nn.Dense(12, name="reconstruct")(nn.LayerNorm(epsilon=1e-5, name="decoder_norm")(y))[:, 1:]


# -------------------------------------------------------------------- pairs

PAIRS = (
    Pair(
        "detr-linen", Detr, lambda: Linen(LinenDetr(), (image(4),)), on_image,
        why="torch.nn.Transformer, two attentions to a block, an embedding against a bare table",
    ),
    Pair(
        "mae-linen", Mae, lambda: Linen(LinenMae(), (image(8),)), on_image,
        allow={"always": ("assumption",)},
        why="encoder and decoder of two widths, tokens and tables of no layer",
    ),
)  # fmt: skip
