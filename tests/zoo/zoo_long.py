"""Pairs of long sequences with foreign names: Perceiver and a selective state space.

Torch as lucidrains and state-spaces write them, Flax as `nn.compact` and NNX do. Widths are small.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import torch
from flax import linen as nn
from flax import nnx
from torch import nn as tnn
from torch.nn import functional
from zoo_audio import layer_norm
from zoo_pairs import Linen, Nnx, Pair
from zoo_recurrent import features
from zoo_transformers import VOCAB, gelu, on_args, tokens

DIM, HEADS, CLASSES = 24, 3, 6


# -------------------------------------------------------------------- Perceiver, lucidrains/perceiver-pytorch


class CrossAttention(tnn.Module):
    def __init__(self, dim: int, context: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = tnn.Linear(dim, 16, bias=False)
        self.to_kv = tnn.Linear(context, 32, bias=False)
        self.to_out = tnn.Linear(16, dim)

    def forward(self, x: Any, context: Any = None) -> Any:
        context = x if context is None else context
        q, (k, v) = self.to_q(x), self.to_kv(context).chunk(2, -1)
        q, k, v = (one.reshape(*one.shape[:2], self.heads, -1).transpose(1, 2) for one in (q, k, v))
        out = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return self.to_out(out.reshape(*out.shape[:2], 16))


class PerceiverNorm(tnn.Module):
    def __init__(self, dim: int, fn: tnn.Module, context: int = 0) -> None:
        super().__init__()
        self.fn = fn
        self.norm = tnn.LayerNorm(dim)
        self.norm_context = tnn.LayerNorm(context) if context else None

    def forward(self, x: Any, context: Any = None) -> Any:
        x = self.norm(x)
        return self.fn(x) if self.norm_context is None else self.fn(x, self.norm_context(context))


class GegluFeedForward(tnn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.net = tnn.Sequential(tnn.Linear(dim, dim * 4), tnn.Identity(), tnn.Linear(dim * 2, dim))

    def forward(self, x: Any) -> Any:
        x, gate = self.net[0](x).chunk(2, -1)
        return self.net[2](x * functional.gelu(gate))


class Perceiver(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.latents = tnn.Parameter(torch.zeros(5, 20))
        self.layers = tnn.ModuleList()
        for _ in range(2):
            self.layers.append(tnn.ModuleList([
                PerceiverNorm(20, CrossAttention(20, 9, 1), 9), PerceiverNorm(20, GegluFeedForward(20)),
                tnn.ModuleList([tnn.ModuleList([
                    PerceiverNorm(20, CrossAttention(20, 20, 2)), PerceiverNorm(20, GegluFeedForward(20)),
                ]) for _ in range(2)]),
            ]))  # fmt: skip
        self.to_logits = tnn.Sequential(tnn.Identity(), tnn.LayerNorm(20), tnn.Linear(20, CLASSES))

    def forward(self, data: Any) -> Any:
        x = self.latents.expand(data.shape[0], -1, -1)
        for cross, feed, blocks in self.layers:
            x = x + cross(x, data)
            x = x + feed(x)
            for attention, inner in blocks:
                x = x + attention(x)
                x = x + inner(x)
        return self.to_logits(x.mean(1))


class LinenHeads(nn.Module):
    heads: int

    @nn.compact
    def __call__(self, x: Any, context: Any) -> Any:
        q = nn.Dense(16, use_bias=False, name="query")(x)
        k = nn.Dense(16, use_bias=False, name="key")(context)
        v = nn.Dense(16, use_bias=False, name="value")(context)
        q, k, v = (one.reshape(*one.shape[:2], self.heads, -1).transpose(0, 2, 1, 3) for one in (q, k, v))
        out = nn.softmax(q @ k.swapaxes(-1, -2) / q.shape[-1] ** 0.5) @ v
        out = out.transpose(0, 2, 1, 3)
        return nn.Dense(x.shape[-1], name="output")(out.reshape(*out.shape[:2], 16))


class LinenGeglu(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        y, gate = jnp.split(nn.Dense(4 * x.shape[-1], name="in")(layer_norm("norm")(x)), 2, -1)
        return nn.Dense(x.shape[-1], name="out")(y * gelu(gate))


class LinenPerceiver(nn.Module):
    @nn.compact
    def __call__(self, data: Any) -> Any:
        x = self.param("latent_array", nn.initializers.normal(1.0), (5, 20))
        x = jnp.broadcast_to(x, (data.shape[0], 5, 20))
        for stage in range(2):
            context = layer_norm(f"stage{stage}_data_norm")(data)
            x = x + LinenHeads(1, name=f"stage{stage}_cross")(layer_norm(f"stage{stage}_latent_norm")(x), context)
            x = x + LinenGeglu(name=f"stage{stage}_mlp")(x)
            for number in range(2):
                y = layer_norm(f"stage{stage}_self{number}_norm")(x)
                x = x + LinenHeads(2, name=f"stage{stage}_self{number}")(y, y)
                x = x + LinenGeglu(name=f"stage{stage}_self{number}_mlp")(x)
        return nn.Dense(CLASSES, name="decode")(layer_norm("decode_norm")(x.mean(1)))


# -------------------------------------------------------------------- selective state space, state-spaces/mamba


class Mixer(tnn.Module):
    def __init__(self, dim: int = 12, inner: int = 20, state: int = 3, rank: int = 2) -> None:
        super().__init__()
        self.inner, self.state, self.rank = inner, state, rank
        self.in_proj = tnn.Linear(dim, 2 * inner, bias=False)
        self.conv1d = tnn.Conv1d(inner, inner, 4, padding=3, groups=inner)
        self.x_proj = tnn.Linear(inner, rank + 2 * state, bias=False)
        self.dt_proj = tnn.Linear(rank, inner)
        self.A_log = tnn.Parameter(torch.zeros(inner, state))
        self.D = tnn.Parameter(torch.zeros(inner))
        self.out_proj = tnn.Linear(inner, dim, bias=False)

    def forward(self, x: Any) -> Any:
        length = x.shape[1]
        x, gate = self.in_proj(x).chunk(2, -1)
        x = functional.silu(self.conv1d(x.transpose(1, 2))[..., :length].transpose(1, 2))
        step, b, c = self.x_proj(x).split([self.rank, self.state, self.state], -1)
        step = functional.softplus(self.dt_proj(step))
        decay, hidden, found = -torch.exp(self.A_log), 0, []
        for n in range(length):
            hidden = torch.exp(step[:, n, :, None] * decay) * hidden + (step * x)[:, n, :, None] * b[:, n, None]
            found.append((hidden * c[:, n, None]).sum(-1))
        y = torch.stack(found, 1) + self.D * x
        return self.out_proj(y * functional.silu(gate))


class MambaNorm(tnn.Module):
    def __init__(self, dim: int = 12) -> None:
        super().__init__()
        self.weight = tnn.Parameter(torch.ones(dim))

    def forward(self, x: Any) -> Any:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * self.weight


class MambaBlock(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mixer = Mixer()
        self.norm = MambaNorm()

    def forward(self, x: Any) -> Any:
        return x + self.mixer(self.norm(x))


class Mamba(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = tnn.ModuleDict(
            {
                "embedding": tnn.Embedding(VOCAB, 12),
                "layers": tnn.ModuleList([MambaBlock() for _ in range(2)]),
                "norm_f": MambaNorm(),
            }
        )
        self.lm_head = tnn.Linear(12, VOCAB, bias=False)
        self.lm_head.weight = self.backbone["embedding"].weight

    def forward(self, index: Any) -> Any:
        x = self.backbone["embedding"](index)
        for layer in self.backbone["layers"]:
            x = layer(x)
        return self.lm_head(self.backbone["norm_f"](x))


class NnxMixer(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.expand = nnx.Linear(12, 40, use_bias=False, rngs=rngs)
        self.short_conv = nnx.Conv(20, 20, (4,), padding="CAUSAL", feature_group_count=20, rngs=rngs)
        self.select = nnx.Linear(20, 8, use_bias=False, rngs=rngs)
        self.delta = nnx.Linear(2, 20, rngs=rngs)
        self.a_log = nnx.Param(jnp.zeros((20, 3)))
        self.skip = nnx.Param(jnp.zeros((20,)))
        self.contract = nnx.Linear(20, 12, use_bias=False, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x, gate = jnp.split(self.expand(x), 2, -1)
        x = nnx.silu(self.short_conv(x))
        step, b, c = jnp.split(self.select(x), (2, 5), -1)
        step = nnx.softplus(self.delta(step))
        decay, hidden, found = -jnp.exp(self.a_log[...]), 0, []
        for n in range(x.shape[1]):
            hidden = jnp.exp(step[:, n, :, None] * decay) * hidden + (step * x)[:, n, :, None] * b[:, n, None]
            found.append((hidden * c[:, n, None]).sum(-1))
        return self.contract((jnp.stack(found, 1) + self.skip[...] * x) * nnx.silu(gate))


class NnxMamba(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.tokens = nnx.Embed(VOCAB, 12, rngs=rngs)
        self.mixers = nnx.List([NnxMixer(rngs=rngs) for _ in range(2)])
        self.norms = nnx.List([nnx.RMSNorm(12, epsilon=1e-5, rngs=rngs) for _ in range(2)])
        self.out_norm = nnx.RMSNorm(12, epsilon=1e-5, rngs=rngs)

    def __call__(self, index: Any) -> Any:
        x = self.tokens(index)
        for mixer, norm in zip(self.mixers, self.norms, strict=True):
            x = x + mixer(norm(x))
        return self.tokens.attend(self.out_norm(x))


# -------------------------------------------------------------------- pairs

PAIRS = (
    Pair(
        "perceiver-linen", Perceiver, lambda: Linen(LinenPerceiver(), (features(2, 11, 9),)), on_args,
        allow={"always": ("assumption",)}, why="cross and self attention, fused kv, lists in lists against flat names",
    ),
    Pair(
        "mamba-nnx", Mamba, lambda: Nnx(lambda: NnxMamba(rngs=nnx.Rngs(0)), (tokens(),)), on_args,
        allow={"live": ("assumption",)},
        why="arrays of no layer, a norm of the author's class, a tied head, lists side by side",
    ),
)  # fmt: skip
