"""Transformers whose norms, modulations and arrays of no layer are named in words of their own.

Over patches of images and of series, over columns of tables, over proteins.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import torch
from flax import linen as nn
from torch import nn as tnn
from torch.nn import functional as F
from zoo_convnets import image
from zoo_fresh_tables import digits
from zoo_layers import LN, C, D, H, heads, merge, tatt
from zoo_pairs import Linen, Pair
from zoo_recurrent import features
from zoo_transformers import gelu, on_args

# -------------------------------------------------------------------- DiT, facebookresearch


def tmod(x: Any, shift: Any, scale: Any) -> Any:
    return x * (1 + scale[:, None]) + shift[:, None]


class TimestepEmbedder(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mlp = tnn.Sequential(tnn.Linear(8, C), tnn.SiLU(), tnn.Linear(C, C))

    def forward(self, t: Any) -> Any:
        f = t[:, None] * torch.exp(-torch.arange(4) / 4.0)
        return self.mlp(torch.cat([f.cos(), f.sin()], -1))


class LabelEmbedder(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding_table = tnn.Embedding(11, C)

    def forward(self, y: Any) -> Any:
        return self.embedding_table(y)


class TimmAttention(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = (tnn.Linear(C, 3 * C), tnn.Linear(C, C))

    def forward(self, x: Any) -> Any:
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.proj(merge(tatt(heads(q), heads(k), heads(v))))


class TimmMlp(tnn.Module):
    def __init__(self, i: Any = C, h: Any = 2 * C) -> None:
        super().__init__()
        self.fc1, self.fc2 = (tnn.Linear(i, h), tnn.Linear(h, i))

    def forward(self, x: Any) -> Any:
        return self.fc2(F.gelu(self.fc1(x)))


class DiTBlock(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = (
            tnn.LayerNorm(C, elementwise_affine=False),
            tnn.LayerNorm(C, elementwise_affine=False),
        )
        self.attn, self.mlp = (TimmAttention(), TimmMlp())
        self.adaLN_modulation = tnn.Sequential(tnn.SiLU(), tnn.Linear(C, 6 * C))

    def forward(self, x: Any, c: Any) -> Any:
        a, b, g, d, e, h = self.adaLN_modulation(c).chunk(6, 1)
        x = x + g[:, None] * self.attn(tmod(self.norm1(x), a, b))
        return x + h[:, None] * self.mlp(tmod(self.norm2(x), d, e))


class FinalLayer(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm_final = tnn.LayerNorm(C, elementwise_affine=False)
        self.linear = tnn.Linear(C, 2 * 2 * 4)
        self.adaLN_modulation = tnn.Sequential(tnn.SiLU(), tnn.Linear(C, 2 * C))

    def forward(self, x: Any, c: Any) -> Any:
        s, g = self.adaLN_modulation(c).chunk(2, 1)
        return self.linear(tmod(self.norm_final(x), s, g))


class DiT(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.x_embedder = tnn.Module()
        self.x_embedder.proj = tnn.Conv2d(4, C, 2, 2)
        self.t_embedder, self.y_embedder = (TimestepEmbedder(), LabelEmbedder())
        self.pos_embed = tnn.Parameter(torch.zeros(1, 16, C))
        self.blocks = tnn.ModuleList([DiTBlock() for _ in range(2)])
        self.final_layer = FinalLayer()

    def forward(self, x: Any, t: Any, y: Any) -> Any:
        x = self.x_embedder.proj(x.permute(0, 3, 1, 2)).flatten(2).transpose(1, 2) + self.pos_embed
        c = self.t_embedder(t) + self.y_embedder(y)
        for b in self.blocks:
            x = b(x, c)
        return self.final_layer(x, c)


class JDiT(nn.Module):
    @nn.compact
    def __call__(self, x: Any, t: Any, y: Any) -> Any:
        def plain(v):
            return nn.LayerNorm(epsilon=1e-05, use_bias=False, use_scale=False)(v)

        def mod(v, s, g):
            return plain(v) * (1 + g[:, None]) + s[:, None]

        x = nn.Conv(C, (2, 2), 2, "VALID", name="patchify")(x).reshape(2, 16, C) + self.param(
            "positions", nn.initializers.normal(), (1, 16, C)
        )
        f = t[:, None] * jnp.exp(-jnp.arange(4) / 4.0)
        c = D(C, "time_out")(nn.silu(D(C, "time_in")(jnp.concatenate([jnp.cos(f), jnp.sin(f)], -1)))) + nn.Embed(
            11, C, name="classes"
        )(y)
        for i in range(2):
            x = JDiTBlock(name=f"block_{i}")(x, c)
        s, g = jnp.split(D(2 * C, "final_modulation")(nn.silu(c)), 2, 1)
        return D(16, "unpatchify")(mod(x, s, g))


class JDiTBlock(nn.Module):
    @nn.compact
    def __call__(self, x: Any, c: Any) -> Any:
        def ln(v):
            return nn.LayerNorm(epsilon=1e-05, use_bias=False, use_scale=False)(v)

        a, b, g, d, e, h = jnp.split(D(6 * C, "modulation")(nn.silu(c)), 6, 1)
        y = ln(x) * (1 + b[:, None]) + a[:, None]
        y = nn.MultiHeadDotProductAttention(H, name="attention")(y)
        x = x + g[:, None] * y
        y = ln(x) * (1 + e[:, None]) + d[:, None]
        return x + h[:, None] * D(C, "down")(gelu(D(2 * C, "up")(y)))


# -------------------------------------------------------------------- FT-Transformer, Yandex


class FTAttention(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.W_q, self.W_k, self.W_v, self.W_out = (tnn.Linear(C, C) for _ in range(4))

    def forward(self, x: Any) -> Any:
        return self.W_out(merge(tatt(heads(self.W_q(x)), heads(self.W_k(x)), heads(self.W_v(x)))))


class Tokenizer(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = (tnn.Parameter(torch.zeros(5, C)), tnn.Parameter(torch.zeros(4, C)))

    def forward(self, x: Any) -> Any:
        x = torch.cat([torch.ones(len(x), 1), x], 1)
        return self.weight[None] * x[..., None] + torch.cat([torch.zeros(1, C), self.bias])


class FTTransformer(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokenizer = Tokenizer()
        self.layers = tnn.ModuleList([])
        for i in range(2):
            layer = tnn.ModuleDict(
                {
                    "attention": FTAttention(),
                    "linear0": tnn.Linear(C, 4 * C),
                    "linear1": tnn.Linear(2 * C, C),
                    "norm1": tnn.LayerNorm(C),
                }
            )
            if i:
                layer["norm0"] = tnn.LayerNorm(C)
            self.layers.append(layer)
        self.last_normalization = tnn.LayerNorm(C)
        self.head = tnn.Linear(C, 2)

    def forward(self, x: Any) -> Any:
        x = self.tokenizer(x)
        for layer in self.layers:
            x = x + layer["attention"](layer["norm0"](x) if "norm0" in layer else x)
            a, b = layer["linear0"](layer["norm1"](x)).chunk(2, -1)
            x = x + layer["linear1"](a * torch.relu(b))
        return self.head(torch.relu(self.last_normalization(x[:, 0])))


class JFT(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        w, b = (
            self.param("feature_weights", nn.initializers.normal(), (5, C)),
            self.param("feature_biases", nn.initializers.normal(), (4, C)),
        )
        x = jnp.concatenate([jnp.ones((len(x), 1)), x], 1)
        x = w * x[..., None] + jnp.concatenate([jnp.zeros((1, C)), b])
        for i in range(2):
            y = LN(f"prenorm_attention_{i}")(x) if i else x
            x = x + nn.MultiHeadDotProductAttention(H, name=f"attention_{i}")(y)
            y = LN(f"prenorm_reglu_{i}")(x)
            a, g = jnp.split(D(4 * C, f"reglu_in_{i}")(y), 2, -1)
            x = x + D(C, f"reglu_out_{i}")(a * nn.relu(g))
        return D(2, "classifier")(nn.relu(LN("cls_norm")(x[:, 0])))


# -------------------------------------------------------------------- ESM-2, facebookresearch


class EsmLayer(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self_attn = tnn.Module()
        for n in ("k_proj", "v_proj", "q_proj", "out_proj"):
            setattr(self.self_attn, n, tnn.Linear(C, C))
        self.self_attn_layer_norm, self.fc1, self.fc2, self.final_layer_norm = (
            tnn.LayerNorm(C),
            tnn.Linear(C, 2 * C),
            tnn.Linear(2 * C, C),
            tnn.LayerNorm(C),
        )

    def forward(self, x: Any) -> Any:
        a, y = (self.self_attn, self.self_attn_layer_norm(x))
        x = x + a.out_proj(merge(tatt(heads(a.q_proj(y)), heads(a.k_proj(y)), heads(a.v_proj(y)))))
        return x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x))))


class RobertaLMHead(tnn.Module):
    def __init__(self, weight: Any) -> None:
        super().__init__()
        self.dense, self.layer_norm, self.weight, self.bias = (
            tnn.Linear(C, C),
            tnn.LayerNorm(C),
            weight,
            tnn.Parameter(torch.zeros(20)),
        )

    def forward(self, x: Any) -> Any:
        return F.linear(self.layer_norm(F.gelu(self.dense(x))), self.weight, self.bias)


class ESM2(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = tnn.Embedding(20, C)
        self.layers = tnn.ModuleList([EsmLayer() for _ in range(3)])
        self.emb_layer_norm_after = tnn.LayerNorm(C)
        self.contact_head = tnn.Module()
        self.contact_head.regression = tnn.Linear(3 * H, 1)
        self.lm_head = RobertaLMHead(self.embed_tokens.weight)

    def forward(self, i: Any) -> Any:
        x = self.embed_tokens(i)
        for layer in self.layers:
            x = layer(x)
        return (self.lm_head(self.emb_layer_norm_after(x)), self.contact_head.regression(x[..., : 3 * H]))


class NtBlock(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = x + nn.MultiHeadDotProductAttention(H, name="attention")(LN("attention_norm")(x))
        return x + D(C, "project")(gelu(D(2 * C, "expand")(LN("ffn_norm")(x))))


class LinenEsm(nn.Module):
    @nn.compact
    def __call__(self, i: Any) -> Any:
        emb = nn.Embed(20, C, name="residues")
        x = emb(i)
        for n in range(3):
            x = NtBlock(name=f"block_{n}")(x)
        contact = D(1, "contacts")(x[..., : 3 * H])
        y = LN("roberta_norm")(gelu(D(C, "roberta_dense")(LN("last_norm")(x))))
        return (emb.attend(y) + self.param("roberta_bias", nn.initializers.zeros, (20,)), contact)


# -------------------------------------------------------------------- PatchTST, yuqinie98


class PTEncLayer(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self_attn = tnn.Module()
        self.self_attn.W_Q, self.self_attn.W_K, self.self_attn.W_V = (
            tnn.Linear(C, C),
            tnn.Linear(C, C),
            tnn.Linear(C, C),
        )
        self.self_attn.to_out = tnn.Sequential(tnn.Linear(C, C), tnn.Dropout(0.1))
        self.norm_attn = tnn.Sequential(tnn.Identity(), tnn.BatchNorm1d(C), tnn.Identity())
        self.ff = tnn.Sequential(tnn.Linear(C, 2 * C), tnn.GELU(), tnn.Dropout(0.1), tnn.Linear(2 * C, C))
        self.norm_ffn = tnn.Sequential(tnn.Identity(), tnn.BatchNorm1d(C), tnn.Identity())

    def forward(self, x: Any) -> Any:
        a = self.self_attn
        x = x + a.to_out(merge(tatt(heads(a.W_Q(x)), heads(a.W_K(x)), heads(a.W_V(x)))))
        x = self.norm_attn[1](x.transpose(1, 2)).transpose(1, 2)
        return self.norm_ffn[1]((x + self.ff(x)).transpose(1, 2)).transpose(1, 2)


class PatchTST(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.revin_layer = tnn.Module()
        self.revin_layer.affine_weight, self.revin_layer.affine_bias = (
            tnn.Parameter(torch.ones(3)),
            tnn.Parameter(torch.zeros(3)),
        )
        self.backbone = tnn.Module()
        self.backbone.W_P, self.backbone.W_pos = (tnn.Linear(4, C), tnn.Parameter(torch.zeros(5, C)))
        self.backbone.encoder = tnn.Module()
        self.backbone.encoder.layers = tnn.ModuleList([PTEncLayer() for _ in range(2)])
        self.head = tnn.Module()
        self.head.linear = tnn.Linear(5 * C, 6)

    def forward(self, x: Any) -> Any:
        x = x * self.revin_layer.affine_weight + self.revin_layer.affine_bias
        b, _layer, c = x.shape
        z = x.transpose(1, 2).reshape(b * c, 5, 4)
        z = self.backbone.W_P(z) + self.backbone.W_pos
        for m in self.backbone.encoder.layers:
            z = m(z)
        return self.head.linear(z.flatten(1))


class JPatch(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = x * self.param("channel_scale", nn.initializers.ones, (3,)) + self.param(
            "channel_shift", nn.initializers.zeros, (3,)
        )
        b, _layer, c = x.shape
        z = D(C, "patch_projection")(x.swapaxes(1, 2).reshape(b * c, 5, 4)) + self.param(
            "position_table", nn.initializers.normal(), (5, C)
        )
        for i in range(2):
            z = JPLayer(name=f"TransformerLayer_{i}")(z)
        return D(6, "forecast")(z.reshape(b * c, -1))


class JPLayer(nn.Module):
    @nn.compact
    def __call__(self, z: Any) -> Any:
        def bn(n):
            return nn.BatchNorm(use_running_average=True, epsilon=1e-05, name=n)

        z = bn("after_attention")(z + nn.MultiHeadDotProductAttention(H, name="mha")(z))
        return bn("after_mlp")(z + D(C, "dense_out")(gelu(D(2 * C, "dense_in")(z))))


# -------------------------------------------------------------------- pairs

PAIRS = (
    Pair(
        "dit-linen",
        DiT,
        lambda: Linen(JDiT(), (image(8, 4), np.array([0.3, 0.7], np.float32), digits(2, below=11))),
        on_args,
        allow={"always": ("assumption",)},
        open=("files",),
        why="modulations by a condition, norms without state, layers told by what is beside them; files show an image",
    ),
    Pair(
        "fttransformer-linen",
        FTTransformer,
        lambda: Linen(JFT(), (features(3, 4),)),
        on_args,
        allow={"always": ("assumption",)},
        why="a first block with a norm less; arrays of no layer",
    ),
    Pair(
        "esm2-linen",
        ESM2,
        lambda: Linen(LinenEsm(), (digits(2, 5, below=20),)),
        on_args,
        allow={"always": ("assumption",)},
        why="the norms of fairseq; a head that shares its table and has a bias of its own",
    ),
    Pair(
        "patchtst-linen",
        PatchTST,
        lambda: Linen(JPatch(), (features(2, 20, 3),)),
        on_args,
        allow={"always": ("assumption",)},
        why="batch norms in a transformer, inside of Sequentials; a scale and a shift of no layer",
    ),
)
