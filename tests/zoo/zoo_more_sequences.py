"""More pairs of sequences: speech to text and back, media to latents, language with one norm for each half of a block.

Torch as NVIDIA, lucidrains and MosaicML write it, Flax as `nn.compact` and NNX do.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import torch
from flax import linen as nn
from flax import nnx
from torch import nn as tnn
from torch.nn import functional as F
from zoo_fresh_tables import digits
from zoo_layers import BN, LN, C, D, heads, jatt, merge, tatt
from zoo_pairs import Linen, Nnx, Pair
from zoo_recurrent import features
from zoo_transformers import gelu, on_args

# -------------------------------------------------------------------- Tacotron 2, NVIDIA


class ConvNorm(tnn.Module):
    def __init__(self, i: Any, o: Any, k: Any = 5) -> None:
        super().__init__()
        self.conv = tnn.Conv1d(i, o, k, padding=k // 2)

    def forward(self, x: Any) -> Any:
        return self.conv(x)


class LinearNorm(tnn.Module):
    def __init__(self, i: Any, o: Any) -> None:
        super().__init__()
        self.linear_layer = tnn.Linear(i, o, bias=False)

    def forward(self, x: Any) -> Any:
        return self.linear_layer(x)


class Taco2(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = tnn.Embedding(15, 8)
        self.encoder = tnn.Module()
        self.encoder.convolutions = tnn.ModuleList(
            [tnn.Sequential(ConvNorm(8, 8), tnn.BatchNorm1d(8)) for _ in range(3)]
        )
        self.encoder.lstm = tnn.LSTM(8, 4, 1, batch_first=True, bidirectional=True)
        self.decoder = tnn.Module()
        self.decoder.prenet = tnn.Module()
        self.decoder.prenet.layers = tnn.ModuleList([LinearNorm(8, 8), LinearNorm(8, 8)])
        self.decoder.linear_projection, self.decoder.gate_layer = (tnn.Linear(8, 6), tnn.Linear(8, 1))
        self.postnet = tnn.Module()
        self.postnet.convolutions = tnn.ModuleList(
            [
                tnn.Sequential(ConvNorm(6, 8), tnn.BatchNorm1d(8)),
                tnn.Sequential(ConvNorm(8, 8), tnn.BatchNorm1d(8)),
                tnn.Sequential(ConvNorm(8, 8), tnn.BatchNorm1d(8)),
                tnn.Sequential(ConvNorm(8, 6), tnn.BatchNorm1d(6)),
            ]
        )

    def forward(self, i: Any) -> Any:
        x = self.embedding(i).transpose(1, 2)
        for c in self.encoder.convolutions:
            x = torch.relu(c(x))
        x, _ = self.encoder.lstm(x.transpose(1, 2))
        for layer in self.decoder.prenet.layers:
            x = torch.relu(layer(x))
        mel, gate = (self.decoder.linear_projection(x), self.decoder.gate_layer(x))
        y = mel.transpose(1, 2)
        for k, c in enumerate(self.postnet.convolutions):
            y = c(y) if k == 3 else torch.tanh(c(y))
        return (mel + y.transpose(1, 2), gate)


class JTaco2(nn.Module):
    @nn.compact
    def __call__(self, i: Any) -> Any:
        x = nn.Embed(15, 8, name="symbols")(i)
        for k in range(3):
            x = nn.relu(BN(f"text_bn{k}")(nn.Conv(8, (5,), name=f"text_conv{k}")(x)))
        f, b = (
            nn.RNN(nn.OptimizedLSTMCell(4, name="text_fw")),
            nn.RNN(nn.OptimizedLSTMCell(4, name="text_bw"), reverse=True, keep_order=True),
        )
        x = jnp.concatenate([f(x), b(x)], -1)
        for k in range(2):
            x = nn.relu(D(8, f"bottleneck{k}", False)(x))
        mel, gate = (D(6, "mel_out")(x), D(1, "stop_token")(x))
        y = mel
        for k in range(4):
            y = BN(f"refine_bn{k}")(nn.Conv(6 if k == 3 else 8, (5,), name=f"refine_conv{k}")(y))
            if k < 3:
                y = jnp.tanh(y)
        return (mel + y, gate)


# -------------------------------------------------------------------- Listen, attend and spell


class LAS(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.listener = tnn.Module()
        self.listener.pLSTM_layer0 = tnn.LSTM(16, 8, batch_first=True, bidirectional=True)
        self.listener.pLSTM_layer1 = tnn.LSTM(32, 8, batch_first=True, bidirectional=True)
        self.speller = tnn.Module()
        self.speller.phi, self.speller.psi = (tnn.Linear(16, 16), tnn.Linear(16, 16))
        self.speller.embed = tnn.Embedding(9, 16)
        self.speller.character_distribution = tnn.Linear(32, 9)

    def forward(self, x: Any, y: Any) -> Any:
        for layer in (self.listener.pLSTM_layer0, self.listener.pLSTM_layer1):
            x = (
                layer(x)[0]
                if layer is self.listener.pLSTM_layer0
                else layer(x.reshape(x.shape[0], x.shape[1] // 2, -1))[0]
            )
        s = self.speller
        q = s.embed(y)
        c = torch.softmax(s.phi(q) @ s.psi(x).transpose(1, 2), -1) @ x
        return s.character_distribution(torch.cat([q, c], -1))


class JLas(nn.Module):
    @nn.compact
    def __call__(self, x: Any, y: Any) -> Any:
        for i in range(2):
            if i:
                x = x.reshape(x.shape[0], x.shape[1] // 2, -1)
            f, b = (
                nn.RNN(nn.OptimizedLSTMCell(8, name=f"forward_{i}")),
                nn.RNN(nn.OptimizedLSTMCell(8, name=f"backward_{i}"), reverse=True, keep_order=True),
            )
            x = jnp.concatenate([f(x), b(x)], -1)
        q = nn.Embed(9, 16, name="chars")(y)
        c = nn.softmax(D(16, "query")(q) @ D(16, "key")(x).swapaxes(1, 2)) @ x
        return D(9, "classify")(jnp.concatenate([q, c], -1))


# -------------------------------------------------------------------- the resampler of Flamingo, lucidrains


class PerceiverAttention(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm_media, self.norm_latents = (tnn.LayerNorm(C), tnn.LayerNorm(C))
        self.to_q, self.to_kv, self.to_out = (
            tnn.Linear(C, C, bias=False),
            tnn.Linear(C, 2 * C, bias=False),
            tnn.Linear(C, C, bias=False),
        )

    def forward(self, x: Any, latents: Any) -> Any:
        x, latents = (self.norm_media(x), self.norm_latents(latents))
        k, v = self.to_kv(torch.cat((x, latents), 1)).chunk(2, -1)
        return self.to_out(merge(tatt(heads(self.to_q(latents)), heads(k), heads(v))))


def FeedForward() -> Any:
    return tnn.Sequential(
        tnn.LayerNorm(C), tnn.Linear(C, 2 * C, bias=False), tnn.GELU(), tnn.Linear(2 * C, C, bias=False)
    )


class PerceiverResampler(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.latents = tnn.Parameter(torch.zeros(3, C))
        self.media_pos_emb = tnn.Parameter(torch.zeros(5, C))
        self.layers = tnn.ModuleList([tnn.ModuleList([PerceiverAttention(), FeedForward()]) for _ in range(2)])
        self.norm = tnn.LayerNorm(C)

    def forward(self, x: Any) -> Any:
        x = x + self.media_pos_emb
        latents = self.latents.expand(x.shape[0], -1, -1)
        for a, f in self.layers:
            latents = latents + a(x, latents)
            latents = latents + f(latents)
        return self.norm(latents)


class JResampler(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = x + self.param("time_embedding", nn.initializers.normal(), (5, C))
        q = jnp.broadcast_to(self.param("learned_queries", nn.initializers.normal(), (3, C)), (x.shape[0], 3, C))
        for i in range(2):
            q = q + JCross(name=f"cross_{i}")(x, q)
            q = q + JFf(name=f"ffw_{i}")(q)
        return LN("out_norm")(q)


class JCross(nn.Module):
    @nn.compact
    def __call__(self, x: Any, q: Any) -> Any:
        q = LN("query_norm")(q)
        kv = jnp.concatenate((LN("input_norm")(x), q), 1)
        k, v = (D(C, "key", False)(kv), D(C, "value", False)(kv))
        return D(C, "project", False)(merge(jatt(heads(D(C, "query", False)(q)), heads(k), heads(v))))


class JFf(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        return D(C, b=False)(gelu(D(2 * C, b=False)(LN()(x))))


# -------------------------------------------------------------------- MPT, MosaicML


class MPTBlock(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm_1 = tnn.LayerNorm(C, bias=False)
        self.attn = tnn.Module()
        self.attn.Wqkv, self.attn.out_proj = (tnn.Linear(C, 3 * C, bias=False), tnn.Linear(C, C, bias=False))
        self.norm_2 = tnn.LayerNorm(C, bias=False)
        self.ffn = tnn.Module()
        self.ffn.up_proj, self.ffn.down_proj = (tnn.Linear(C, 4 * C, bias=False), tnn.Linear(4 * C, C, bias=False))

    def forward(self, x: Any) -> Any:
        q, k, v = self.attn.Wqkv(self.norm_1(x)).chunk(3, -1)
        x = x + self.attn.out_proj(merge(tatt(heads(q), heads(k), heads(v))))
        return x + self.ffn.down_proj(F.gelu(self.ffn.up_proj(self.norm_2(x))))


class MPT(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.transformer = tnn.ModuleDict(
            {
                "wte": tnn.Embedding(20, C),
                "blocks": tnn.ModuleList([MPTBlock() for _ in range(3)]),
                "norm_f": tnn.LayerNorm(C, bias=False),
            }
        )

    def forward(self, i: Any) -> Any:
        x = self.transformer["wte"](i)
        for b in self.transformer["blocks"]:
            x = b(x)
        return self.transformer["norm_f"](x) @ self.transformer["wte"].weight.T


class NnxMptAttn(nnx.Module):
    def __init__(self, rngs: Any) -> None:
        def lin():
            return nnx.Linear(C, C, use_bias=False, rngs=rngs)

        self.wq, self.wk, self.wv, self.wo = (lin(), lin(), lin(), lin())

    def __call__(self, x: Any) -> Any:
        return self.wo(merge(jatt(heads(self.wq(x)), heads(self.wk(x)), heads(self.wv(x)))))


class NnxMptBlock(nnx.Module):
    def __init__(self, rngs: Any) -> None:
        def ln():
            return nnx.LayerNorm(C, epsilon=1e-05, use_bias=False, rngs=rngs)

        self.pre_attn, self.attention, self.pre_mlp = (ln(), NnxMptAttn(rngs), ln())
        self.w1, self.w2 = (
            nnx.Linear(C, 4 * C, use_bias=False, rngs=rngs),
            nnx.Linear(4 * C, C, use_bias=False, rngs=rngs),
        )

    def __call__(self, x: Any) -> Any:
        x = x + self.attention(self.pre_attn(x))
        return x + self.w2(gelu(self.w1(self.pre_mlp(x))))


class NnxMpt(nnx.Module):
    def __init__(self, rngs: Any) -> None:
        self.embedder = nnx.Embed(20, C, rngs=rngs)
        self.stack = nnx.List([NnxMptBlock(rngs) for _ in range(3)])
        self.last = nnx.LayerNorm(C, epsilon=1e-05, use_bias=False, rngs=rngs)

    def __call__(self, i: Any) -> Any:
        x = self.embedder(i)
        for b in self.stack:
            x = b(x)
        return self.embedder.attend(self.last(x))


# -------------------------------------------------------------------- pairs

#: phi is the query in the paper, and psi the key: both are letters.
LAS_RULES = {"speller/phi": "query"}
#: Media are the inputs and latents the queries: no word says so.
FLAMINGO_RULES = {"layers/{i}/0/norm_media": "cross_{i}/input_norm"}

PAIRS = (
    Pair(
        "tacotron2-linen",
        Taco2,
        lambda: Linen(JTaco2(), (digits(2, 7, below=15),)),
        on_args,
        why="wrappers of one layer, banks of convolutions before and after, a recurrent layer both ways",
    ),
    Pair(
        "las-linen",
        LAS,
        lambda: Linen(JLas(), (features(2, 6, 16), digits(2, 4, below=9))),
        on_args,
        rules=LAS_RULES,
        why="pyramids of recurrent layers both ways; a query and a key that are called phi and psi",
    ),
    Pair(
        "flamingo-linen",
        PerceiverResampler,
        lambda: Linen(JResampler(), (features(2, 5, 16),)),
        on_args,
        rules=FLAMINGO_RULES,
        allow={"always": ("assumption",)},
        why="a fused kv of what is seen and what is asked, each behind a norm of its own",
    ),
    Pair(
        "mpt-nnx",
        MPT,
        lambda: Nnx(lambda: NnxMpt(nnx.Rngs(0)), (digits(2, 5, below=20),)),
        on_args,
        allow={"always": ("assumption",)},
        why="no biases at all, a fused Wqkv, norms by number against norms named after what follows",
    ),
)
