"""New pairs of records: purchases, episodes, atoms, characters, rays.

Torch as pmixer, kzl, torch_geometric and others write it, Flax as `nn.compact` and NNX do. Widths are equal on purpose wherever
the architecture leaves a choice.
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
from zoo_recurrent import features
from zoo_transformers import gelu, on_args, tokens

# -------------------------------------------------------------------- SASRec, pmixer


class PointWiseFeedForward(tnn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.conv1 = tnn.Conv1d(d, d, kernel_size=1)
        self.dropout1 = tnn.Dropout(0.1)
        self.relu = tnn.ReLU()
        self.conv2 = tnn.Conv1d(d, d, kernel_size=1)

    def forward(self, x: Any) -> Any:
        return self.conv2(self.relu(self.dropout1(self.conv1(x.transpose(-1, -2))))).transpose(-1, -2) + x


class SASRec(tnn.Module):
    def __init__(self, d: int = 12) -> None:
        super().__init__()
        self.item_emb = tnn.Embedding(40, d)
        self.pos_emb = tnn.Embedding(7, d)
        self.attention_layernorms = tnn.ModuleList()
        self.attention_layers = tnn.ModuleList()
        self.forward_layernorms = tnn.ModuleList()
        self.forward_layers = tnn.ModuleList()
        self.last_layernorm = tnn.LayerNorm(d, eps=1e-8)
        for _ in range(2):
            self.attention_layernorms.append(tnn.LayerNorm(d, eps=1e-8))
            self.attention_layers.append(tnn.MultiheadAttention(d, 2, 0.0, batch_first=True))
            self.forward_layernorms.append(tnn.LayerNorm(d, eps=1e-8))
            self.forward_layers.append(PointWiseFeedForward(d))

    def forward(self, ids: Any) -> Any:
        x = self.item_emb(ids) + self.pos_emb(torch.arange(ids.shape[1]))
        mask = ~torch.tril(torch.ones((ids.shape[1],) * 2, dtype=torch.bool))
        for i in range(2):
            q = self.attention_layernorms[i](x)
            y, _ = self.attention_layers[i](q, x, x, attn_mask=mask, need_weights=False)
            x = self.forward_layers[i](self.forward_layernorms[i](q + y))
        return self.last_layernorm(x) @ self.item_emb.weight.T


class LinenSasBlock(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        d = x.shape[-1]
        q = nn.LayerNorm(epsilon=1e-8, name="query_norm")(x)
        y = nn.MultiHeadDotProductAttention(num_heads=2, name="mha")(q, x, mask=nn.make_causal_mask(x[..., 0]))
        x = nn.LayerNorm(epsilon=1e-8, name="ffn_norm")(q + y)
        y = nn.relu(nn.Dense(d, name="ffn_0")(x))
        return x + nn.Dense(d, name="ffn_1")(y)


class LinenSasRec(nn.Module):
    @nn.compact
    def __call__(self, ids: Any) -> Any:
        table = nn.Embed(40, 12, name="items")
        x = table(ids) + nn.Embed(7, 12, name="positions")(jnp.arange(ids.shape[1]))
        for i in range(2):
            x = LinenSasBlock(name=f"block_{i}")(x)
        return table.attend(nn.LayerNorm(epsilon=1e-8, name="final_norm")(x))


# -------------------------------------------------------------------- decision transformer, kzl


class DecisionTransformer(tnn.Module):
    def __init__(self, d: int = 12) -> None:
        super().__init__()
        layer = tnn.TransformerEncoderLayer(d, 2, 2 * d, batch_first=True, activation="gelu", norm_first=True)
        self.transformer = tnn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.embed_timestep = tnn.Embedding(20, d)
        self.embed_return = tnn.Linear(1, d)
        self.embed_state = tnn.Linear(5, d)
        self.embed_action = tnn.Linear(3, d)
        self.embed_ln = tnn.LayerNorm(d)
        self.predict_state = tnn.Linear(d, 5)
        self.predict_action = tnn.Sequential(tnn.Linear(d, 3), tnn.Tanh())
        self.predict_return = tnn.Linear(d, 1)

    def forward(self, s: Any, a: Any, r: Any, t: Any) -> Any:
        time = self.embed_timestep(t)
        x = [f(y) + time for f, y in ((self.embed_return, r), (self.embed_state, s), (self.embed_action, a))]
        x = self.transformer(self.embed_ln(torch.stack(x, 2).flatten(1, 2)))
        x = x.reshape(*t.shape, 3, -1)
        return self.predict_return(x[:, :, 2]), self.predict_state(x[:, :, 2]), self.predict_action(x[:, :, 1])


class NnxPreLn(nnx.Module):
    def __init__(self, d: int, *, rngs: nnx.Rngs) -> None:
        self.ln_1 = nnx.LayerNorm(d, epsilon=1e-5, rngs=rngs)
        self.attn = nnx.MultiHeadAttention(2, d, decode=False, rngs=rngs)
        self.ln_2 = nnx.LayerNorm(d, epsilon=1e-5, rngs=rngs)
        self.fc = nnx.Linear(d, 2 * d, rngs=rngs)
        self.proj = nnx.Linear(2 * d, d, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x = x + self.attn(self.ln_1(x))
        return x + self.proj(gelu(self.fc(self.ln_2(x))))


class NnxDecision(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        d = 12
        self.return_encoder = nnx.Linear(1, d, rngs=rngs)
        self.obs_encoder = nnx.Linear(5, d, rngs=rngs)
        self.act_encoder = nnx.Linear(3, d, rngs=rngs)
        self.time_table = nnx.Embed(20, d, rngs=rngs)
        self.input_norm = nnx.LayerNorm(d, epsilon=1e-5, rngs=rngs)
        self.h = nnx.List([NnxPreLn(d, rngs=rngs) for _ in range(2)])
        self.act_head = nnx.Linear(d, 3, rngs=rngs)
        self.obs_head = nnx.Linear(d, 5, rngs=rngs)
        self.return_head = nnx.Linear(d, 1, rngs=rngs)

    def __call__(self, s: Any, a: Any, r: Any, t: Any) -> Any:
        time = self.time_table(t)
        x = jnp.stack([self.return_encoder(r) + time, self.obs_encoder(s) + time, self.act_encoder(a) + time], 2)
        x = self.input_norm(x.reshape(x.shape[0], -1, 12))
        for block in self.h:
            x = block(x)
        x = x.reshape(*t.shape, 3, 12)
        return self.return_head(x[:, :, 2]), self.obs_head(x[:, :, 2]), jnp.tanh(self.act_head(x[:, :, 1]))


# -------------------------------------------------------------------- SchNet, torch_geometric and schnetpack


class CFConv(tnn.Module):
    def __init__(self, d: int, f: int, mlp: tnn.Sequential) -> None:
        super().__init__()
        self.lin1 = tnn.Linear(d, f, bias=False)
        self.lin2 = tnn.Linear(f, d)
        self.nn = mlp

    def forward(self, x: Any, rbf: Any) -> Any:
        return self.lin2(torch.einsum("bijf,bjf->bif", self.nn(rbf), self.lin1(x)))


def ssp(x: Any) -> Any:
    return functional.softplus(x) - 0.6931471805599453


class ShiftedSoftplus(tnn.Module):
    def forward(self, x: Any) -> Any:
        return ssp(x)


class InteractionBlock(tnn.Module):
    def __init__(self, d: int, g: int, f: int) -> None:
        super().__init__()
        self.mlp = tnn.Sequential(tnn.Linear(g, f), ShiftedSoftplus(), tnn.Linear(f, f))
        self.conv = CFConv(d, f, self.mlp)
        self.act = ShiftedSoftplus()
        self.lin = tnn.Linear(d, d)

    def forward(self, x: Any, rbf: Any) -> Any:
        return self.lin(self.act(self.conv(x, rbf)))


class SchNet(tnn.Module):
    def __init__(self, d: int = 8) -> None:
        super().__init__()
        self.embedding = tnn.Embedding(10, d)
        self.interactions = tnn.ModuleList([InteractionBlock(d, 6, d) for _ in range(3)])
        self.lin1 = tnn.Linear(d, d // 2)
        self.act = ShiftedSoftplus()
        self.lin2 = tnn.Linear(d // 2, 1)

    def forward(self, z: Any, rbf: Any) -> Any:
        h = self.embedding(z)
        for interaction in self.interactions:
            h = h + interaction(h, rbf)
        return self.lin2(self.act(self.lin1(h))).sum(1)


def jssp(x: Any) -> Any:
    return jax.nn.softplus(x) - 0.6931471805599453


class LinenInteraction(nn.Module):
    @nn.compact
    def __call__(self, x: Any, rbf: Any) -> Any:
        d = x.shape[-1]
        w = nn.Dense(d, name="filter_1")(jssp(nn.Dense(d, name="filter_0")(rbf)))
        y = nn.Dense(d, use_bias=False, name="in2f")(x)
        y = nn.Dense(d, name="f2out")(jnp.einsum("bijf,bjf->bif", w, y))
        return nn.Dense(d, name="dense")(jssp(y))


class LinenSchNet(nn.Module):
    @nn.compact
    def __call__(self, z: Any, rbf: Any) -> Any:
        x = nn.Embed(10, 8, name="atoms")(z)
        for i in range(3):
            x = x + LinenInteraction(name=f"interaction_{i}")(x, rbf)
        return nn.Dense(1, name="atomwise_out")(jssp(nn.Dense(4, name="atomwise_hidden")(x))).sum(1)


# -------------------------------------------------------------------- highway layers over characters


class CharCnnHighway(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.char_emb = tnn.Embedding(30, 6)
        self.convs = tnn.ModuleList([tnn.Conv1d(6, 4, k) for k in (2, 3, 4)])
        self.nonlinear = tnn.ModuleList([tnn.Linear(12, 12) for _ in range(2)])
        self.linear = tnn.ModuleList([tnn.Linear(12, 12) for _ in range(2)])
        self.gate = tnn.ModuleList([tnn.Linear(12, 12) for _ in range(2)])
        self.out = tnn.Linear(12, 5)

    def forward(self, x: Any) -> Any:
        x = self.char_emb(x).transpose(1, 2)
        x = torch.cat([torch.relu(conv(x)).max(-1)[0] for conv in self.convs], 1)
        for h, p, g in zip(self.nonlinear, self.linear, self.gate, strict=True):
            t = torch.sigmoid(g(x))
            x = t * torch.relu(h(x)) + (1 - t) * p(x)
        return self.out(x)


class LinenHighway(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        d = x.shape[-1]
        t = nn.sigmoid(nn.Dense(d, name="transform_gate")(x))
        return t * nn.relu(nn.Dense(d, name="nonlinear_path")(x)) + (1 - t) * nn.Dense(d, name="linear_path")(x)


class LinenCharCnn(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.Embed(30, 6, name="characters")(x)
        x = jnp.concatenate(
            [nn.relu(nn.Conv(4, (k,), padding="VALID", name=f"width_{k}")(x)).max(1) for k in (2, 3, 4)], -1
        )
        for i in range(2):
            x = LinenHighway(name=f"highway_{i}")(x)
        return nn.Dense(5, name="classes")(x)


# -------------------------------------------------------------------- NeRF, yenchenlin and google-research/jaxnerf


class NeRF(tnn.Module):
    def __init__(self, w: int = 12) -> None:
        super().__init__()
        self.pts_linears = tnn.ModuleList(
            [tnn.Linear(6, w)] + [tnn.Linear(w + 6, w) if i == 2 else tnn.Linear(w, w) for i in range(4)]
        )
        self.views_linears = tnn.ModuleList([tnn.Linear(w + 3, w // 2)])
        self.feature_linear = tnn.Linear(w, w)
        self.alpha_linear = tnn.Linear(w, 1)
        self.rgb_linear = tnn.Linear(w // 2, 3)

    def forward(self, pts: Any, views: Any) -> Any:
        h = pts
        for i, layer in enumerate(self.pts_linears):
            h = torch.relu(layer(h))
            if i == 2:
                h = torch.cat([pts, h], -1)
        alpha = self.alpha_linear(h)
        h = torch.relu(self.views_linears[0](torch.cat([self.feature_linear(h), views], -1)))
        return torch.cat([self.rgb_linear(h), alpha], -1)


class JaxNerf(nn.Module):
    @nn.compact
    def __call__(self, pts: Any, views: Any) -> Any:
        x = pts
        for i in range(5):
            x = nn.relu(nn.Dense(12)(x))
            if i == 2:
                x = jnp.concatenate([pts, x], -1)
        sigma = nn.Dense(1)(x)
        x = jnp.concatenate([nn.Dense(12)(x), views], -1)
        x = nn.relu(nn.Dense(6)(x))
        return jnp.concatenate([nn.Dense(3)(x), sigma], -1)


# -------------------------------------------------------------------- pairs

PAIRS = (
    Pair(
        "sasrec-linen", SASRec, lambda: Linen(LinenSasRec(), (tokens(),)), on_args,
        why="four lists side by side against blocks; norms called after what they stand before; a tied table",
    ),
    Pair(
        "decision-nnx", DecisionTransformer,
        lambda: Nnx(
            lambda: NnxDecision(nnx.Rngs(0)),
            (features(2, 4, 5), features(2, 4, 3), features(2, 4, 1), digits(2, 4, below=20)),
        ), on_args,
        why="torch.nn.TransformerEncoder, three embeddings and three heads told by their sizes",
    ),
    Pair(
        "schnet-linen", SchNet, lambda: Linen(LinenSchNet(), (digits(2, 5, below=10), features(2, 5, 5, 6))), on_args,
        why="a module registered in two places, square layers with and without a bias",
    ),
    Pair(
        "highway-linen", CharCnnHighway, lambda: Linen(LinenCharCnn(), (digits(3, 9, below=30),)), on_args,
        why="three lists of layers of one size side by side against blocks, told by words",
    ),
    Pair(
        "nerf-linen", NeRF, lambda: Linen(JaxNerf(), (features(5, 6), features(5, 3))), on_args,
        allow={"always": ("assumption",)},
        why="one list and layers with words against automatic names of one count",
    ),
)  # fmt: skip
