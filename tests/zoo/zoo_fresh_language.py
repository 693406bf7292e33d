"""Fresh pairs over words: a tagger with transitions, vectors of one size, a shared table of relative biases.

Torch as kmkurn, BlinkDL and lucidrains write them, Flax as `nn.compact` and NNX do. Widths are equal on purpose
wherever the architecture leaves a choice.
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
from zoo_fresh_tables import digits
from zoo_pairs import Linen, Nnx, Pair
from zoo_transformers import gelu, on_args

# -------------------------------------------------------------------- BERT with a CRF, kmkurn/pytorch-crf


class CRF(tnn.Module):
    def __init__(self, num_tags: int) -> None:
        super().__init__()
        self.start_transitions = tnn.Parameter(torch.zeros(num_tags))
        self.end_transitions = tnn.Parameter(torch.zeros(num_tags))
        self.transitions = tnn.Parameter(torch.zeros(num_tags, num_tags))

    def forward(self, emissions: Any) -> Any:
        score = self.start_transitions + emissions[:, 0]
        for i in range(1, emissions.shape[1]):
            score = torch.logsumexp(score[:, :, None] + self.transitions + emissions[:, i, None], 1)
        return torch.logsumexp(score + self.end_transitions, 1)


class BertCrf(tnn.Module):
    def __init__(self, dim: int = 12, tags: int = 6) -> None:
        super().__init__()
        self.bert = tnn.Module()
        self.bert.embeddings = tnn.ModuleDict({"word": tnn.Embedding(27, dim), "position": tnn.Embedding(6, dim)})
        self.bert.embeddings["norm"] = tnn.LayerNorm(dim)
        layer = tnn.TransformerEncoderLayer(dim, 2, 24, activation="gelu", batch_first=True)
        self.bert.encoder = tnn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.classifier = tnn.Linear(dim, tags)
        self.crf = CRF(tags)

    def forward(self, index: Any) -> Any:
        table = self.bert.embeddings
        x = table["norm"](table["word"](index) + table["position"].weight)
        return self.crf(self.classifier(self.bert.encoder(x)))


class LinenCrf(nn.Module):
    tags: int

    @nn.compact
    def __call__(self, emissions: Any) -> Any:
        start = nn.initializers.zeros
        pair = self.param("transition_matrix", start, (self.tags, self.tags))
        first, last = self.param("start_scores", start, (self.tags,)), self.param("end_scores", start, (self.tags,))
        score = first + emissions[:, 0]
        for i in range(1, emissions.shape[1]):
            score = jax.nn.logsumexp(score[:, :, None] + pair + emissions[:, i, None], 1)
        return jax.nn.logsumexp(score + last, 1)


class LinenBertCrf(nn.Module):
    @nn.compact
    def __call__(self, index: Any) -> Any:
        x = nn.Embed(27, 12, name="token_table")(index)
        x = layer_norm("embed_ln")(x + self.param("position_table", nn.initializers.normal(0.02), (6, 12)))
        for number in range(2):
            y = nn.MultiHeadDotProductAttention(2, name=f"self_attention_{number}")(x, x)
            x = layer_norm(f"attention_ln_{number}")(x + y)
            y = nn.Dense(12, name=f"mlp_out_{number}")(gelu(nn.Dense(24, name=f"mlp_in_{number}")(x)))
            x = layer_norm(f"mlp_ln_{number}")(x + y)
        return LinenCrf(6, name="crf_decoder")(nn.Dense(6, name="emissions")(x))


# -------------------------------------------------------------------- RWKV-4, BlinkDL: vectors of one size


class TimeMix(tnn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.time_decay = tnn.Parameter(torch.zeros(dim))
        self.time_first = tnn.Parameter(torch.zeros(dim))
        self.time_mix_k = tnn.Parameter(torch.zeros(1, 1, dim))
        self.time_mix_v = tnn.Parameter(torch.zeros(1, 1, dim))
        self.time_mix_r = tnn.Parameter(torch.zeros(1, 1, dim))
        self.key = tnn.Linear(dim, dim, bias=False)
        self.value = tnn.Linear(dim, dim, bias=False)
        self.receptance = tnn.Linear(dim, dim, bias=False)
        self.output = tnn.Linear(dim, dim, bias=False)

    def forward(self, x: Any) -> Any:
        before = functional.pad(x, (0, 0, 1, -1))
        k = self.key(x * self.time_mix_k + before * (1 - self.time_mix_k))
        v = self.value(x * self.time_mix_v + before * (1 - self.time_mix_v))
        r = self.receptance(x * self.time_mix_r + before * (1 - self.time_mix_r))
        away = torch.arange(x.shape[1])[:, None] - torch.arange(x.shape[1])[None, :]
        weight = -self.time_decay.exp() * (away - 1).clamp(min=0)[..., None]
        weight = torch.where(away[..., None] == 0, self.time_first, weight).masked_fill(away[..., None] < 0, -1e9)
        full = (weight[None] + k[:, None]).softmax(2)
        return self.output(torch.sigmoid(r) * (full * v[:, None]).sum(2))


class ChannelMix(tnn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.time_mix_k = tnn.Parameter(torch.zeros(1, 1, dim))
        self.time_mix_r = tnn.Parameter(torch.zeros(1, 1, dim))
        self.key = tnn.Linear(dim, 2 * dim, bias=False)
        self.receptance = tnn.Linear(dim, dim, bias=False)
        self.value = tnn.Linear(2 * dim, dim, bias=False)

    def forward(self, x: Any) -> Any:
        before = functional.pad(x, (0, 0, 1, -1))
        k = self.key(x * self.time_mix_k + before * (1 - self.time_mix_k))
        r = self.receptance(x * self.time_mix_r + before * (1 - self.time_mix_r))
        return torch.sigmoid(r) * self.value(functional.relu(k).square())


class RwkvBlock(tnn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.ln1 = tnn.LayerNorm(dim)
        self.ln2 = tnn.LayerNorm(dim)
        self.att = TimeMix(dim)
        self.ffn = ChannelMix(dim)

    def forward(self, x: Any) -> Any:
        x = x + self.att(self.ln1(x))
        return x + self.ffn(self.ln2(x))


class RWKV(tnn.Module):
    def __init__(self, dim: int = 12) -> None:
        super().__init__()
        self.emb = tnn.Embedding(29, dim)
        self.blocks = tnn.Sequential(*[RwkvBlock(dim) for _ in range(3)])
        self.ln_out = tnn.LayerNorm(dim)
        self.head = tnn.Linear(dim, 29, bias=False)

    def forward(self, index: Any) -> Any:
        return self.head(self.ln_out(self.blocks(self.emb(index))))


def shifted(x: Any) -> Any:
    return jnp.pad(x, ((0, 0), (1, 0), (0, 0)))[:, :-1]


class LinenTimeMix(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        dim, before = x.shape[-1], shifted(x)

        def mixed(name: str) -> Any:
            mix = self.param(f"mix_{name}", nn.initializers.ones, (dim,))
            return nn.Dense(dim, use_bias=False, name=name)(x * mix + before * (1 - mix))

        r, k, v = mixed("receptance"), mixed("key"), mixed("value")
        first = self.param("bonus_first", nn.initializers.zeros, (dim,))
        decay = self.param("decay", nn.initializers.zeros, (dim,))
        away = jnp.arange(x.shape[1])[:, None] - jnp.arange(x.shape[1])[None, :]
        weight = -jnp.exp(decay) * jnp.clip(away - 1, 0)[..., None]
        weight = jnp.where(away[..., None] == 0, first, weight)
        weight = jnp.where(away[..., None] < 0, -1e9, weight)
        y = (nn.softmax(weight[None] + k[:, None], 2) * v[:, None]).sum(2)
        return nn.Dense(dim, use_bias=False, name="output")(nn.sigmoid(r) * y)


class LinenChannelMix(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        dim, before = x.shape[-1], shifted(x)

        def mixed(name: str, width: int) -> Any:
            mix = self.param(f"mix_{name}", nn.initializers.ones, (dim,))
            return nn.Dense(width, use_bias=False, name=name)(x * mix + before * (1 - mix))

        r, k = mixed("receptance", dim), mixed("key", 2 * dim)
        return nn.sigmoid(r) * nn.Dense(dim, use_bias=False, name="value")(nn.relu(k) ** 2)


class LinenRwkv(nn.Module):
    @nn.compact
    def __call__(self, index: Any) -> Any:
        x = nn.Embed(29, 12, name="tokens")(index)
        for number in range(3):
            x = x + LinenTimeMix(name=f"time_mixing_{number}")(
                nn.LayerNorm(epsilon=1e-5, name=f"time_norm_{number}")(x)
            )
            y = nn.LayerNorm(epsilon=1e-5, name=f"channel_norm_{number}")(x)
            x = x + LinenChannelMix(name=f"channel_mixing_{number}")(y)
        return nn.Dense(29, use_bias=False, name="unembed")(nn.LayerNorm(epsilon=1e-5, name="final_norm")(x))


# -------------------------------------------------------------------- relative biases, lucidrains/x-transformers


class RelativePositionBias(tnn.Module):
    def __init__(self, buckets: int, heads: int) -> None:
        super().__init__()
        self.relative_attention_bias = tnn.Embedding(buckets, heads)

    def forward(self, n: int) -> Any:
        away = torch.arange(n)[:, None] - torch.arange(n)[None, :]
        return self.relative_attention_bias(away.clamp(-2, 1) + 2).permute(2, 0, 1)


class XAttention(tnn.Module):
    def __init__(self, dim: int, heads: int, rel_pos: RelativePositionBias) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = tnn.Linear(dim, dim, bias=False)
        self.to_k = tnn.Linear(dim, dim, bias=False)
        self.to_v = tnn.Linear(dim, dim, bias=False)
        self.to_out = tnn.Linear(dim, dim, bias=False)
        self.rel_pos = rel_pos

    def forward(self, x: Any) -> Any:
        b, n, d = x.shape
        q, k, v = (f(x).view(b, n, self.heads, -1).transpose(1, 2) for f in (self.to_q, self.to_k, self.to_v))
        y = (q @ k.transpose(-1, -2) + self.rel_pos(n)).softmax(-1) @ v
        return self.to_out(y.transpose(1, 2).reshape(b, n, d))


class XFeedForward(tnn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.ff = tnn.Sequential(tnn.Sequential(tnn.Linear(dim, 2 * dim, bias=False), tnn.ReLU()), tnn.Dropout(0.0))
        self.ff.append(tnn.Linear(2 * dim, dim, bias=False))

    def forward(self, x: Any) -> Any:
        return self.ff(x)


class XEncoder(tnn.Module):
    def __init__(self, dim: int = 12, heads: int = 4) -> None:
        super().__init__()
        self.token_emb = tnn.Embedding(25, dim)
        shared = RelativePositionBias(4, heads)
        self.layers = tnn.ModuleList([])
        for _ in range(2):
            for part in (XAttention(dim, heads, shared), XFeedForward(dim)):
                self.layers.append(tnn.ModuleList([tnn.RMSNorm(dim, eps=1e-6), part]))
        self.final_norm = tnn.RMSNorm(dim, eps=1e-6)

    def forward(self, index: Any) -> Any:
        x = self.token_emb(index)
        for norm, part in self.layers:
            x = x + part(norm(x))
        return self.final_norm(x) @ self.token_emb.weight.t()


class NnxBiasedAttention(nnx.Module):
    def __init__(self, dim: int, *, rngs: nnx.Rngs) -> None:
        self.norm = nnx.RMSNorm(dim, epsilon=1e-6, rngs=rngs)
        self.q, self.k, self.v, self.o = (nnx.Linear(dim, dim, use_bias=False, rngs=rngs) for _ in range(4))

    def __call__(self, x: Any, bias: Any) -> Any:
        b, n, d = x.shape
        y = self.norm(x)
        q, k, v = (f(y).reshape(b, n, 4, -1).swapaxes(1, 2) for f in (self.q, self.k, self.v))
        y = nnx.softmax(q @ k.swapaxes(-1, -2) + bias) @ v
        return x + self.o(y.swapaxes(1, 2).reshape(b, n, d))


class NnxT5Mlp(nnx.Module):
    def __init__(self, dim: int, *, rngs: nnx.Rngs) -> None:
        self.norm = nnx.RMSNorm(dim, epsilon=1e-6, rngs=rngs)
        self.wi = nnx.Linear(dim, 2 * dim, use_bias=False, rngs=rngs)
        self.wo = nnx.Linear(2 * dim, dim, use_bias=False, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return x + self.wo(nnx.relu(self.wi(self.norm(x))))


class NnxT5(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.shared = nnx.Embed(25, 12, rngs=rngs)
        self.relpos = nnx.Embed(4, 4, rngs=rngs)
        self.attention = nnx.List([NnxBiasedAttention(12, rngs=rngs) for _ in range(2)])
        self.mlp = nnx.List([NnxT5Mlp(12, rngs=rngs) for _ in range(2)])
        self.encoder_norm = nnx.RMSNorm(12, epsilon=1e-6, rngs=rngs)

    def __call__(self, index: Any) -> Any:
        n = index.shape[1]
        away = np.arange(n)[:, None] - np.arange(n)[None, :]
        bias = self.relpos(np.clip(away, -2, 1) + 2).transpose(2, 0, 1)
        x = self.shared(index)
        for attention, mlp in zip(self.attention, self.mlp, strict=True):
            x = mlp(attention(x, bias))
        return self.shared.attend(self.encoder_norm(x))


# -------------------------------------------------------------------- pairs


PAIRS = (
    Pair(
        "bert-crf-linen", BertCrf, lambda: Linen(LinenBertCrf(), (digits(2, 6, below=27),)), on_args,
        allow={"always": ("assumption",)},
        why="a square matrix of transitions of no layer, two vectors of one size, fused attention of torch.nn",
    ),
    Pair(
        "rwkv-linen", RWKV, lambda: Linen(LinenRwkv(), (digits(2, 6, below=29),)), on_args,
        allow={"always": ("assumption",)}, open=("variables", "files"),
        why="eight vectors of one size in a block, blocks against flat names, words inside of words",
    ),
    Pair(
        "x-transformer-nnx", XEncoder, lambda: Nnx(lambda: NnxT5(nnx.Rngs(0)), (digits(2, 6, below=25),)), on_args,
        allow={"always": ("assumption",)}, open=("files",),
        why="alternating layers in one list against two lists; a shared square table of biases; a tied head",
    ),
)  # fmt: skip
