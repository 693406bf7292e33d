"""Pairs that mix things, with foreign names: two towers, experts, adapters of low rank, the U-Net of a diffusion model.

Torch as openai, mistralai, microsoft and lucidrains write them, Flax as `nn.compact` and `nn.vmap` do. Widths are small.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import torch
from flax import linen as nn
from torch import nn as tnn
from torch.nn import functional
from zoo_audio import layer_norm
from zoo_convnets import channels_last, image
from zoo_pairs import FlaxSide, Linen, Pair
from zoo_recurrent import features
from zoo_transformers import VOCAB, gelu, on_args, tokens

DIM = 24


# -------------------------------------------------------------------- CLIP, openai


class QuickGELU(tnn.Module):
    def forward(self, x: Any) -> Any:
        return x * torch.sigmoid(1.702 * x)


class ResBlock(tnn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = tnn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_1 = tnn.LayerNorm(width)
        self.mlp = tnn.Sequential()
        self.mlp.add_module("c_fc", tnn.Linear(width, width * 4))
        self.mlp.add_module("gelu", QuickGELU())
        self.mlp.add_module("c_proj", tnn.Linear(width * 4, width))
        self.ln_2 = tnn.LayerNorm(width)

    def forward(self, x: Any) -> Any:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class ClipTransformer(tnn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.resblocks = tnn.Sequential(*[ResBlock(width, heads) for _ in range(2)])

    def forward(self, x: Any) -> Any:
        return self.resblocks(x)


class ClipVision(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = tnn.Conv2d(3, 24, 4, 4, bias=False)
        self.class_embedding = tnn.Parameter(torch.zeros(24))
        self.positional_embedding = tnn.Parameter(torch.zeros(5, 24))
        self.ln_pre = tnn.LayerNorm(24)
        self.transformer = ClipTransformer(24, 3)
        self.ln_post = tnn.LayerNorm(24)
        self.proj = tnn.Parameter(torch.zeros(24, 14))

    def forward(self, x: Any) -> Any:
        x = self.conv1(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(x.shape[0], 1, -1), x], 1) + self.positional_embedding
        return self.ln_post(self.transformer(self.ln_pre(x))[:, 0]) @ self.proj


class Clip(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.visual = ClipVision()
        self.transformer = ClipTransformer(16, 2)
        self.token_embedding = tnn.Embedding(VOCAB, 16)
        self.positional_embedding = tnn.Parameter(torch.zeros(7, 16))
        self.ln_final = tnn.LayerNorm(16)
        self.text_projection = tnn.Parameter(torch.zeros(16, 14))
        self.logit_scale = tnn.Parameter(torch.ones([]))

    def forward(self, picture: Any, text: Any) -> Any:
        one = self.visual(picture)
        two = self.transformer(self.token_embedding(text) + self.positional_embedding)
        two = self.ln_final(two)[:, -1] @ self.text_projection
        one, two = one / one.norm(dim=1, keepdim=True), two / two.norm(dim=1, keepdim=True)
        return self.logit_scale.exp() * one @ two.t()


class LinenTower(nn.Module):
    heads: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        width = x.shape[-1]
        for number in range(2):
            y = layer_norm(f"block_{number}_ln_attn")(x)
            x = x + nn.MultiHeadDotProductAttention(self.heads, name=f"block_{number}_attn")(y)
            y = nn.Dense(4 * width, name=f"block_{number}_mlp_in")(layer_norm(f"block_{number}_ln_mlp")(x))
            x = x + nn.Dense(width, name=f"block_{number}_mlp_out")(y * nn.sigmoid(1.702 * y))
        return x


class LinenImageTower(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        start = nn.initializers.normal(0.02)
        x = nn.Conv(24, (4, 4), (4, 4), use_bias=False, name="patch_embed")(x).reshape(x.shape[0], -1, 24)
        cls = jnp.broadcast_to(self.param("cls", start, (1, 1, 24)), (x.shape[0], 1, 24))
        x = jnp.concatenate([cls, x], 1) + self.param("pos", start, (1, 5, 24))
        x = LinenTower(3, name="trunk")(layer_norm("ln_in")(x))
        return nn.Dense(14, use_bias=False, name="project")(layer_norm("ln_out")(x[:, 0]))


class LinenTextTower(nn.Module):
    @nn.compact
    def __call__(self, index: Any) -> Any:
        x = nn.Embed(VOCAB, 16, name="embed")(index)
        x = x + self.param("pos", nn.initializers.normal(0.02), (1, 7, 16))
        x = layer_norm("ln_out")(LinenTower(2, name="trunk")(x))
        return nn.Dense(14, use_bias=False, name="project")(x[:, -1])


class LinenClip(nn.Module):
    @nn.compact
    def __call__(self, picture: Any, text: Any) -> Any:
        one, two = LinenImageTower(name="image_tower")(picture), LinenTextTower(name="text_tower")(text)
        one = one / jnp.linalg.norm(one, axis=1, keepdims=True)
        two = two / jnp.linalg.norm(two, axis=1, keepdims=True)
        return jnp.exp(self.param("temperature", nn.initializers.ones, (1,))) * one @ two.T


def on_both(model: torch.nn.Module, side: FlaxSide) -> Any:
    picture, text = side.args  # type: ignore[attr-defined]  # both kinds have them
    return model(torch.from_numpy(np.moveaxis(picture, -1, 1).copy()), torch.from_numpy(text).long())


# -------------------------------------------------------------------- experts, one after another against one array


class Expert(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w1 = tnn.Linear(DIM, 32)
        self.w2 = tnn.Linear(32, DIM)

    def forward(self, x: Any) -> Any:
        return self.w2(functional.silu(self.w1(x)))


class SparseMoe(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = tnn.Linear(DIM, 4, bias=False)
        self.experts = tnn.ModuleList([Expert() for _ in range(4)])

    def forward(self, x: Any) -> Any:
        weights = self.gate(x).softmax(-1)
        return torch.stack([expert(x) for expert in self.experts], -1).mul(weights[..., None, :]).sum(-1)


class MoeModel(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = tnn.Embedding(VOCAB, DIM)
        self.layers = tnn.ModuleList(
            tnn.ModuleDict({"block_sparse_moe": SparseMoe(), "norm": tnn.LayerNorm(DIM)}) for _ in range(2)
        )

    def forward(self, index: Any) -> Any:
        x = self.embed_tokens(index)
        for layer in self.layers:
            x = x + layer["block_sparse_moe"](layer["norm"](x))
        return x


class LinenExpert(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.Dense(DIM, name="wo")(nn.silu(nn.Dense(32, name="wi")(x)))


class LinenMoe(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        weights = nn.softmax(nn.Dense(4, use_bias=False, name="router")(x))
        experts = nn.vmap(
            LinenExpert,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=None,
            out_axes=-1,
            axis_size=4,
        )
        return (experts(name="expert")(x) * weights[..., None, :]).sum(-1)


class LinenMoeModel(nn.Module):
    @nn.compact
    def __call__(self, index: Any) -> Any:
        x = nn.Embed(VOCAB, DIM, name="token_embedder")(index)
        for number in range(2):
            x = x + LinenMoe(name=f"moe_{number}")(layer_norm(f"pre_moe_norm_{number}")(x))
        return x


# -------------------------------------------------------------------- adapters of low rank, microsoft/LoRA


class LoraLinear(tnn.Linear):
    """Its own weight, and a low rank beside it."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__(inner, outer)
        self.lora_a = tnn.Parameter(torch.zeros(4, inner))
        self.lora_b = tnn.Parameter(torch.zeros(outer, 4))

    def forward(self, x: Any) -> Any:
        return super().forward(x) + x @ self.lora_a.T @ self.lora_b.T


class LoraMlp(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up_proj = LoraLinear(20, 32)
        self.down_proj = LoraLinear(32, 20)

    def forward(self, x: Any) -> Any:
        return self.down_proj(functional.gelu(self.up_proj(x)))


class LinenLora(nn.Module):
    features: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        down = nn.Dense(4, use_bias=False, name="lora_a")(x)
        return nn.Dense(self.features, name="base")(x) + nn.Dense(self.features, use_bias=False, name="lora_b")(down)


class LinenLoraMlp(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        return LinenLora(20, name="wo")(gelu(LinenLora(32, name="wi")(x)))


#: `loralib.Linear` is a class of its own; what its three arrays are its author says.
LORA_RULES = {
    "rename": [
        {"source": "up_proj/lora_{m}", "target": "wi/lora_{m}/kernel"},
        {"source": "down_proj/lora_{m}", "target": "wo/lora_{m}/kernel"},
    ],
    "layout": [
        {"source": "up_proj/lora_{m}", "source_axes": "out in", "target_axes": "in out"},
        {"source": "down_proj/lora_{m}", "source_axes": "out in", "target_axes": "in out"},
    ],
}


# -------------------------------------------------------------------- U-Net of a diffusion model, lucidrains


class TimeBlock(tnn.Module):
    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.mlp = tnn.Sequential(tnn.SiLU(), tnn.Linear(28, outer))
        self.block1 = tnn.Sequential(tnn.Conv2d(inner, outer, 3, padding=1), tnn.GroupNorm(2, outer), tnn.SiLU())
        self.block2 = tnn.Sequential(tnn.Conv2d(outer, outer, 3, padding=1), tnn.GroupNorm(2, outer), tnn.SiLU())
        self.res_conv = tnn.Conv2d(inner, outer, 1) if inner != outer else tnn.Identity()

    def forward(self, x: Any, time: Any) -> Any:
        y = self.block1(x) + self.mlp(time)[:, :, None, None]
        return self.block2(y) + self.res_conv(x)


class ImageAttention(tnn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = tnn.GroupNorm(1, dim)
        self.to_qkv = tnn.Conv2d(dim, 3 * dim, 1, bias=False)
        self.to_out = tnn.Conv2d(dim, dim, 1)

    def forward(self, x: Any) -> Any:
        b, c, h, w = x.shape
        q, k, v = self.to_qkv(self.norm(x)).reshape(b, 3, c, h * w).transpose(-1, -2).unbind(1)
        y = functional.scaled_dot_product_attention(q, k, v).transpose(-1, -2).reshape(b, c, h, w)
        return x + self.to_out(y)


class Denoiser(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.init_conv = tnn.Conv2d(3, 8, 3, padding=1)
        self.time_mlp = tnn.Sequential(tnn.Linear(7, 28), tnn.GELU(), tnn.Linear(28, 28))
        self.downs = tnn.ModuleList([
            tnn.ModuleList([TimeBlock(8, 8), TimeBlock(8, 8), tnn.Conv2d(8, 16, 4, 2, 1)]),
            tnn.ModuleList([TimeBlock(16, 16), TimeBlock(16, 16), tnn.Conv2d(16, 24, 3, padding=1)]),
        ])  # fmt: skip
        self.mid_block1 = TimeBlock(24, 24)
        self.mid_attn = ImageAttention(24)
        self.mid_block2 = TimeBlock(24, 24)
        self.ups = tnn.ModuleList([
            tnn.ModuleList([TimeBlock(40, 24), tnn.ConvTranspose2d(24, 16, 2, 2)]),
            tnn.ModuleList([TimeBlock(24, 16), tnn.Conv2d(16, 8, 3, padding=1)]),
        ])  # fmt: skip
        self.final_conv = tnn.Conv2d(8, 3, 1)

    def forward(self, x: Any, time: Any) -> Any:
        x = self.init_conv(x)
        time = self.time_mlp(time)
        kept = []
        for one, two, down in self.downs:
            x = two(one(x, time), time)
            kept.append(x)
            x = down(x)
        x = self.mid_block2(self.mid_attn(self.mid_block1(x, time)), time)
        for block, up in self.ups:
            x = up(block(torch.cat([x, kept.pop()], 1), time))
        return channels_last(self.final_conv(x))


class LinenTimeBlock(nn.Module):
    features: int

    @nn.compact
    def __call__(self, x: Any, time: Any) -> Any:
        y = nn.silu(nn.GroupNorm(2, epsilon=1e-5, name="norm1")(nn.Conv(self.features, (3, 3), name="conv1")(x)))
        y = y + nn.Dense(self.features, name="time_proj")(nn.silu(time))[:, None, None]
        y = nn.silu(nn.GroupNorm(2, epsilon=1e-5, name="norm2")(nn.Conv(self.features, (3, 3), name="conv2")(y)))
        return y + (x if x.shape[-1] == self.features else nn.Conv(self.features, (1, 1), name="shortcut")(x))


class LinenImageAttention(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        b, h, w, c = x.shape
        y = nn.GroupNorm(1, epsilon=1e-5, name="norm")(x).reshape(b, h * w, c)
        q, k, v = (nn.Dense(c, use_bias=False, name=name)(y) for name in ("query", "key", "value"))
        y = nn.softmax(q @ k.swapaxes(-1, -2) / c**0.5) @ v
        return x + nn.Dense(c, name="proj_out")(y).reshape(b, h, w, c)


class LinenDenoiser(nn.Module):
    @nn.compact
    def __call__(self, x: Any, time: Any) -> Any:
        time = nn.Dense(28, name="time_embed_1")(gelu(nn.Dense(28, name="time_embed_0")(time)))
        x = nn.Conv(8, (3, 3), name="conv_in")(x)
        kept = []
        for stage, width in enumerate((8, 16)):
            for number in range(2):
                x = LinenTimeBlock(width, name=f"down_{stage}_res_{number}")(x, time)
            kept.append(x)
            if stage == 0:
                x = nn.Conv(16, (4, 4), (2, 2), ((1, 1), (1, 1)), name="down_0_sample")(x)
            else:
                x = nn.Conv(24, (3, 3), name="down_1_sample")(x)
        x = LinenTimeBlock(24, name="middle_res_0")(x, time)
        x = LinenTimeBlock(24, name="middle_res_1")(LinenImageAttention(name="middle_attention")(x), time)
        x = LinenTimeBlock(24, name="up_0_res")(jnp.concatenate([x, kept.pop()], -1), time)
        x = nn.ConvTranspose(16, (2, 2), (2, 2), transpose_kernel=True, name="up_0_sample")(x)
        x = LinenTimeBlock(16, name="up_1_res")(jnp.concatenate([x, kept.pop()], -1), time)
        return nn.Conv(3, (1, 1), name="conv_out")(nn.Conv(8, (3, 3), name="up_1_sample")(x))


def on_noise(model: torch.nn.Module, side: FlaxSide) -> Any:
    picture, time = side.args  # type: ignore[attr-defined]  # both kinds have them
    return model(torch.from_numpy(np.moveaxis(picture, -1, 1).copy()), torch.from_numpy(time))


# -------------------------------------------------------------------- pairs

PAIRS = (
    Pair(
        "clip-openai-linen", Clip, lambda: Linen(LinenClip(), (image(8), tokens())), on_both,
        allow={"always": ("assumption",)}, rules={"visual/ln_pre": "image_tower/ln_in"},
        why="two towers; projections that are bare arrays in torch and layers in Flax",
    ),
    Pair(
        "moe-linen", MoeModel, lambda: Linen(LinenMoeModel(), (tokens(),)), on_args,
        why="experts in a list against experts in one array (nn.vmap)",
    ),
    Pair(
        "lora-linen", LoraMlp, lambda: Linen(LinenLoraMlp(), (features(3, 20),)), on_args, rules=LORA_RULES,
        allow={"always": ("assumption",)},
        why="arrays of low rank beside a linear layer, against layers",
    ),
    Pair(
        "diffusion-linen", Denoiser, lambda: Linen(LinenDenoiser(), (image(8), features(2, 7))), on_noise,
        allow={"always": ("assumption",)}, why="time embeddings, lists of lists, attention by fused 1x1 convolutions",
    ),
)  # fmt: skip
