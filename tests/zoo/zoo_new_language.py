"""New pairs of language and speech: latent attention with routed experts, a speech model of many equal parts.

Torch as deepseek-ai and ming024 write it, Flax as NNX and `nn.compact` do. Widths are equal on purpose wherever the
architecture leaves a choice.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import torch
from flax import linen as nn
from flax import nnx
from torch import nn as tnn
from torch.nn import functional
from zoo_fresh_tables import digits
from zoo_pairs import Linen, Nnx, Pair
from zoo_transformers import on_args, tokens

# -------------------------------------------------------------------- DeepSeek: latent attention, routed and shared experts


class MLA(tnn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.q_a_proj = tnn.Linear(d, 8, bias=False)
        self.q_a_layernorm = tnn.RMSNorm(8, eps=1e-6)
        self.q_b_proj = tnn.Linear(8, 2 * 8, bias=False)
        self.kv_a_proj_with_mqa = tnn.Linear(d, 8, bias=False)
        self.kv_a_layernorm = tnn.RMSNorm(8, eps=1e-6)
        self.kv_b_proj = tnn.Linear(8, 2 * 16, bias=False)
        self.o_proj = tnn.Linear(16, d, bias=False)

    def forward(self, x: Any) -> Any:
        b, t, _ = x.shape
        q = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x))).view(b, t, 2, 8).transpose(1, 2)
        kv = self.kv_b_proj(self.kv_a_layernorm(self.kv_a_proj_with_mqa(x))).view(b, t, 2, 16).transpose(1, 2)
        k, v = kv.split(8, -1)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(y.transpose(1, 2).reshape(b, t, 16))


class DsMlp(tnn.Module):
    def __init__(self, d: int, h: int) -> None:
        super().__init__()
        self.gate_proj = tnn.Linear(d, h, bias=False)
        self.up_proj = tnn.Linear(d, h, bias=False)
        self.down_proj = tnn.Linear(h, d, bias=False)

    def forward(self, x: Any) -> Any:
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class DsMoe(tnn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.gate = tnn.Linear(d, 3, bias=False)
        self.experts = tnn.ModuleList([DsMlp(d, 10) for _ in range(3)])
        self.shared_experts = DsMlp(d, 10)

    def forward(self, x: Any) -> Any:
        w = self.gate(x).softmax(-1)
        return self.shared_experts(x) + sum(w[..., i : i + 1] * e(x) for i, e in enumerate(self.experts))


class DsLayer(tnn.Module):
    def __init__(self, d: int, moe: bool) -> None:
        super().__init__()
        self.self_attn = MLA(d)
        self.mlp = DsMoe(d) if moe else DsMlp(d, 20)
        self.input_layernorm = tnn.RMSNorm(d, eps=1e-6)
        self.post_attention_layernorm = tnn.RMSNorm(d, eps=1e-6)

    def forward(self, x: Any) -> Any:
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class DeepSeek(tnn.Module):
    def __init__(self, d: int = 12) -> None:
        super().__init__()
        layers = tnn.ModuleList([DsLayer(d, i > 0) for i in range(3)])
        self.model = tnn.ModuleDict(
            {"embed_tokens": tnn.Embedding(40, d), "layers": layers, "norm": tnn.RMSNorm(d, eps=1e-6)}
        )
        self.lm_head = tnn.Linear(d, 40, bias=False)

    def forward(self, ids: Any) -> Any:
        x = self.model["embed_tokens"](ids)
        for layer in self.model["layers"]:
            x = layer(x)
        return self.lm_head(self.model["norm"](x))


def proj(i: int, o: int, rngs: nnx.Rngs) -> nnx.Linear:
    return nnx.Linear(i, o, use_bias=False, rngs=rngs)


class NnxLatent(nnx.Module):
    def __init__(self, d: int, *, rngs: nnx.Rngs) -> None:
        self.wq_a = proj(d, 8, rngs)
        self.q_norm = nnx.RMSNorm(8, rngs=rngs)
        self.wq_b = proj(8, 16, rngs)
        self.wkv_a = proj(d, 8, rngs)
        self.kv_norm = nnx.RMSNorm(8, rngs=rngs)
        self.wkv_b = proj(8, 32, rngs)
        self.wo = proj(16, d, rngs)

    def __call__(self, x: Any) -> Any:
        b, t, _ = x.shape
        q = self.wq_b(self.q_norm(self.wq_a(x))).reshape(b, t, 2, 8)
        k, v = jnp.split(self.wkv_b(self.kv_norm(self.wkv_a(x))).reshape(b, t, 2, 16), 2, -1)
        y = nnx.dot_product_attention(q, k, v, mask=nnx.make_causal_mask(jnp.ones((b, t))))
        return self.wo(y.reshape(b, t, 16))


class NnxSwiglu(nnx.Module):
    def __init__(self, d: int, h: int, *, rngs: nnx.Rngs) -> None:
        self.gate = proj(d, h, rngs)
        self.up = proj(d, h, rngs)
        self.down = proj(h, d, rngs)

    def __call__(self, x: Any) -> Any:
        return self.down(nnx.silu(self.gate(x)) * self.up(x))


class NnxRouted(nnx.Module):
    def __init__(self, d: int, *, rngs: nnx.Rngs) -> None:
        self.router = proj(d, 3, rngs)
        self.shared = NnxSwiglu(d, 10, rngs=rngs)
        self.routed = nnx.List([NnxSwiglu(d, 10, rngs=rngs) for _ in range(3)])

    def __call__(self, x: Any) -> Any:
        w = jax.nn.softmax(self.router(x))
        return self.shared(x) + sum(w[..., i : i + 1] * e(x) for i, e in enumerate(self.routed))


class NnxDsBlock(nnx.Module):
    def __init__(self, d: int, moe: bool, *, rngs: nnx.Rngs) -> None:
        self.attn_norm = nnx.RMSNorm(d, rngs=rngs)
        self.attn = NnxLatent(d, rngs=rngs)
        self.ffn_norm = nnx.RMSNorm(d, rngs=rngs)
        self.ffn = NnxRouted(d, rngs=rngs) if moe else NnxSwiglu(d, 20, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x = x + self.attn(self.attn_norm(x))
        return x + self.ffn(self.ffn_norm(x))


class NnxDeepSeek(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.embed = nnx.Embed(40, 12, rngs=rngs)
        self.blocks = nnx.List([NnxDsBlock(12, i > 0, rngs=rngs) for i in range(3)])
        self.out_norm = nnx.RMSNorm(12, rngs=rngs)
        self.unembed = proj(12, 40, rngs)

    def __call__(self, ids: Any) -> Any:
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        return self.unembed(self.out_norm(x))


# -------------------------------------------------------------------- FastSpeech 2, ming024


class FsAttention(tnn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.w_qs = tnn.Linear(d, d)
        self.w_ks = tnn.Linear(d, d)
        self.w_vs = tnn.Linear(d, d)
        self.layer_norm = tnn.LayerNorm(d)
        self.fc = tnn.Linear(d, d)

    def forward(self, x: Any) -> Any:
        b, t, d = x.shape
        q, k, v = (f(x).view(b, t, 2, -1).transpose(1, 2) for f in (self.w_qs, self.w_ks, self.w_vs))
        y = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, d)
        return self.layer_norm(self.fc(y) + x)


class FsFeedForward(tnn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.w_1 = tnn.Conv1d(d, 2 * d, 3, padding=1)
        self.w_2 = tnn.Conv1d(2 * d, d, 1)
        self.layer_norm = tnn.LayerNorm(d)

    def forward(self, x: Any) -> Any:
        return self.layer_norm(self.w_2(torch.relu(self.w_1(x.transpose(1, 2)))).transpose(1, 2) + x)


class FFTBlock(tnn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.slf_attn = FsAttention(d)
        self.pos_ffn = FsFeedForward(d)

    def forward(self, x: Any) -> Any:
        return self.pos_ffn(self.slf_attn(x))


class VariancePredictor(tnn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()

        class Conv(tnn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv = tnn.Conv1d(d, d, 3, padding=1)

            def forward(self, x: Any) -> Any:
                return self.conv(x.transpose(1, 2)).transpose(1, 2)

        self.conv_layer = tnn.Sequential()
        self.conv_layer.add_module("conv1d_1", Conv())
        self.conv_layer.add_module("relu_1", tnn.ReLU())
        self.conv_layer.add_module("layer_norm_1", tnn.LayerNorm(d))
        self.conv_layer.add_module("conv1d_2", Conv())
        self.conv_layer.add_module("relu_2", tnn.ReLU())
        self.conv_layer.add_module("layer_norm_2", tnn.LayerNorm(d))
        self.linear_layer = tnn.Linear(d, 1)

    def forward(self, x: Any) -> Any:
        return self.linear_layer(self.conv_layer(x))


class VarianceAdaptor(tnn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.duration_predictor = VariancePredictor(d)
        self.pitch_predictor = VariancePredictor(d)
        self.energy_predictor = VariancePredictor(d)
        self.pitch_embedding = tnn.Embedding(9, d)
        self.energy_embedding = tnn.Embedding(9, d)

    def forward(self, x: Any, pitch: Any, energy: Any) -> Any:
        duration = self.duration_predictor(x)
        p = self.pitch_predictor(x)
        x = x + self.pitch_embedding(pitch)
        e = self.energy_predictor(x)
        return x + self.energy_embedding(energy), duration, p, e


class FastSpeech2(tnn.Module):
    def __init__(self, d: int = 8) -> None:
        super().__init__()
        self.encoder = tnn.ModuleDict(
            {"src_word_emb": tnn.Embedding(30, d), "layer_stack": tnn.ModuleList([FFTBlock(d) for _ in range(2)])}
        )
        self.variance_adaptor = VarianceAdaptor(d)
        self.decoder = tnn.ModuleDict({"layer_stack": tnn.ModuleList([FFTBlock(d) for _ in range(2)])})
        self.mel_linear = tnn.Linear(d, 6)

    def forward(self, text: Any, pitch: Any, energy: Any) -> Any:
        x = self.encoder["src_word_emb"](text)
        for layer in self.encoder["layer_stack"]:
            x = layer(x)
        x, *rest = self.variance_adaptor(x, pitch, energy)
        for layer in self.decoder["layer_stack"]:
            x = layer(x)
        return self.mel_linear(x), *rest


class LinenFft(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        d = x.shape[-1]
        y = nn.MultiHeadDotProductAttention(num_heads=2, name="self_attention")(x, x)
        x = nn.LayerNorm(epsilon=1e-5, name="self_attention_norm")(x + y)
        y = nn.relu(nn.Conv(2 * d, (3,), name="conv_in")(x))
        return nn.LayerNorm(epsilon=1e-5, name="conv_norm")(x + nn.Conv(d, (1,), name="conv_out")(y))


class LinenPredictor(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        for _ in range(2):
            x = nn.LayerNorm(epsilon=1e-5)(nn.relu(nn.Conv(x.shape[-1], (3,))(x)))
        return nn.Dense(1)(x)


class LinenFastSpeech(nn.Module):
    @nn.compact
    def __call__(self, text: Any, pitch: Any, energy: Any) -> Any:
        x = nn.Embed(30, 8, name="phonemes")(text)
        for i in range(2):
            x = LinenFft(name=f"encoder_{i}")(x)
        duration = LinenPredictor(name="duration")(x)
        p = LinenPredictor(name="pitch")(x)
        x = x + nn.Embed(9, 8, name="pitch_bins")(pitch)
        e = LinenPredictor(name="energy")(x)
        x = x + nn.Embed(9, 8, name="energy_bins")(energy)
        for i in range(2):
            x = LinenFft(name=f"decoder_{i}")(x)
        return nn.Dense(6, name="mel")(x), duration, p, e


# -------------------------------------------------------------------- pairs

PAIRS = (
    Pair(
        "deepseek-nnx", DeepSeek, lambda: Nnx(lambda: NnxDeepSeek(nnx.Rngs(0)), (tokens(),)), on_args,
        allow={"always": ("assumption",)},
        why="projections in two steps with a norm between, experts beside a shared one, norms named before and after",
    ),
    Pair(
        "fastspeech-linen", FastSpeech2,
        lambda: Linen(
            LinenFastSpeech(), (digits(2, 7, below=30), digits(2, 7, below=9), digits(2, 7, below=9)[::-1].copy())
        ), on_args,
        why="three predictors of one shape told by a word, an encoder and a decoder of one shape, wrapped convolutions",
    ),
)  # fmt: skip
