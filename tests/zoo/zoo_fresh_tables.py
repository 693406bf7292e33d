"""Fresh pairs of tables, graphs, policies and towers: many embeddings, shared tables, bare arrays against layers.

Torch as facebookresearch, jrzaurin, Diego999 and others write them, Flax as `nn.compact`, `setup` and NNX do. Widths are equal
on purpose wherever the architecture leaves a choice.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch
from flax import linen as nn
from flax import nnx
from torch import nn as tnn
from torch.nn import functional
from zoo_pairs import Linen, Nnx, Pair
from zoo_recurrent import features
from zoo_transformers import on_args


def digits(*shape: int, below: int) -> np.ndarray:
    """Whole numbers, the same at every call."""
    return np.random.default_rng(1).integers(0, below, shape).astype(np.int32)


# -------------------------------------------------------------------- DLRM, facebookresearch/dlrm

SIZES = (11, 13, 17)


class DLRM(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb_l = tnn.ModuleList([tnn.EmbeddingBag(size, 8, mode="sum") for size in SIZES])
        self.bot_l = self.create_mlp((9, 16, 8))
        self.top_l = self.create_mlp((14, 16, 16, 1))

    @staticmethod
    def create_mlp(sizes: tuple[int, ...]) -> tnn.Sequential:
        layers: list[tnn.Module] = []
        for one, two in pairwise(sizes):
            layers += [tnn.Linear(one, two), tnn.ReLU()]
        return tnn.Sequential(*layers)

    def forward(self, dense: Any, index: Any) -> Any:
        x = self.bot_l(dense)
        rows = [x, *(table(index[:, i : i + 1]) for i, table in enumerate(self.emb_l))]
        t = torch.stack(rows, 1)
        z = torch.bmm(t, t.transpose(1, 2))
        li, lj = torch.tril_indices(4, 4, -1)
        return self.top_l(torch.cat([x, z[:, li, lj]], 1))


class NnxMlp(nnx.Module):
    def __init__(self, *sizes: int, rngs: nnx.Rngs) -> None:
        self.layers = nnx.List([nnx.Linear(one, two, rngs=rngs) for one, two in pairwise(sizes)])

    def __call__(self, x: Any) -> Any:
        for layer in self.layers:
            x = nnx.relu(layer(x))
        return x


class NnxDlrm(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.over_arch = NnxMlp(14, 16, 16, 1, rngs=rngs)
        self.dense_arch = NnxMlp(9, 16, 8, rngs=rngs)
        self.sparse_arch = nnx.Dict({f"cat_{n}": nnx.Embed(size, 8, rngs=rngs) for n, size in enumerate(SIZES)})

    def __call__(self, dense: Any, index: Any) -> Any:
        x = self.dense_arch(dense)
        rows = [x, *(self.sparse_arch[f"cat_{n}"](index[:, n]) for n in range(len(SIZES)))]
        t = jnp.stack(rows, 1)
        one, two = np.tril_indices(4, -1)
        return self.over_arch(jnp.concatenate([x, (t @ t.swapaxes(1, 2))[:, one, two]], 1))


# -------------------------------------------------------------------- wide and deep, jrzaurin and others


class WideDeep(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide = tnn.Linear(20, 1)
        tables = {f"emb_layer_{name}": tnn.Embedding(size, 6) for name, size in zip("abc", SIZES, strict=True)}
        self.deep_embed = tnn.ModuleDict(tables)
        self.deep = tnn.Sequential()
        for number in range(3):
            self.deep.add_module(
                f"dense_layer_{number}", tnn.Sequential(tnn.Linear(18, 18), tnn.BatchNorm1d(18), tnn.ReLU())
            )
        self.head = tnn.Linear(18, 1)

    def forward(self, crossed: Any, index: Any) -> Any:
        x = torch.cat([layer(index[:, n]) for n, layer in enumerate(self.deep_embed.values())], 1)
        return self.wide(crossed) + self.head(self.deep(x))


class LinenDeep(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        for _ in range(3):
            x = nn.relu(nn.BatchNorm(use_running_average=True, epsilon=1e-5)(nn.Dense(18)(x)))
        return nn.Dense(1)(x)


class LinenWideDeep(nn.Module):
    @nn.compact
    def __call__(self, crossed: Any, index: Any) -> Any:
        x = jnp.concatenate([nn.Embed(size, 6)(index[:, n]) for n, size in enumerate(SIZES)], 1)
        return LinenDeep()(x) + nn.Dense(1, name="linear_model")(crossed)


# -------------------------------------------------------------------- actor and critic: two networks of one shape


class ActorCritic(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.actor = tnn.Sequential(tnn.Linear(5, 16), tnn.Tanh(), tnn.Linear(16, 16), tnn.Tanh(), tnn.Linear(16, 1))
        self.critic = tnn.Sequential(tnn.Linear(5, 16), tnn.Tanh(), tnn.Linear(16, 16), tnn.Tanh(), tnn.Linear(16, 1))
        self.log_std = tnn.Parameter(torch.zeros(1))

    def forward(self, x: Any) -> Any:
        return self.actor(x), self.critic(x), self.log_std.exp()


class LinenActorCritic(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        outs = []
        for name in ("pi", "vf"):
            y = x
            for number in range(2):
                y = nn.tanh(nn.Dense(16, name=f"{name}_fc{number + 1}")(y))
            outs.append(nn.Dense(1, name=f"{name}_out")(y))
        return outs[0], outs[1], jnp.exp(self.param("pi_logstd", nn.initializers.zeros, (1,)))


# -------------------------------------------------------------------- two towers that share a table


class TwoTower(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.item_embeddings = tnn.Embedding(21, 12)
        self.user_tower = tnn.ModuleList([tnn.Linear(12, 24), tnn.Linear(24, 12)])
        self.item_tower = tnn.ModuleList([tnn.Linear(12, 24), tnn.Linear(24, 12)])
        self.history = self.item_embeddings

    def forward(self, seen: Any, item: Any) -> Any:
        user = self.user_tower[1](functional.relu(self.user_tower[0](self.history(seen).mean(1))))
        row = self.item_tower[1](functional.relu(self.item_tower[0](self.item_embeddings(item))))
        return (user * row).sum(-1)


class LinenTower(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.Dense(12)(nn.relu(nn.Dense(24)(x)))


class LinenTwoTower(nn.Module):
    def setup(self) -> None:
        self.candidates = LinenTower(name="item_net")
        self.queries = LinenTower(name="user_net")
        self.table = nn.Embed(21, 12)

    def __call__(self, seen: Any, item: Any) -> Any:
        return (self.queries(self.table(seen).mean(1)) * self.candidates(self.table(item))).sum(-1)


# -------------------------------------------------------------------- an autoencoder whose decoder is its encoder, turned


class TiedAutoencoder(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode_w = tnn.ParameterList([tnn.Parameter(torch.randn(12, 12)) for _ in range(2)])
        self.encode_b = tnn.ParameterList([tnn.Parameter(torch.zeros(12)) for _ in range(2)])
        self.decode_b = tnn.ParameterList([tnn.Parameter(torch.zeros(12)) for _ in range(2)])

    def forward(self, x: Any) -> Any:
        for w, b in zip(self.encode_w, self.encode_b, strict=True):
            x = torch.selu(functional.linear(x, w, b))
        for w, b in zip(reversed(list(self.encode_w)), self.decode_b, strict=True):
            x = torch.selu(functional.linear(x, w.t(), b))
        return x


class NnxTied(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.encoder = nnx.List([nnx.Linear(12, 12, rngs=rngs) for _ in range(2)])
        self.decoder_bias = nnx.List([nnx.Param(jnp.zeros(12)) for _ in range(2)])

    def __call__(self, x: Any) -> Any:
        for layer in self.encoder:
            x = nnx.selu(layer(x))
        for layer, bias in zip(list(self.encoder)[::-1], self.decoder_bias, strict=True):
            x = nnx.selu(x @ layer.kernel[...].T + bias[...])
        return x


# -------------------------------------------------------------------- graph attention, Diego999/pyGAT


class GraphAttentionLayer(tnn.Module):
    def __init__(self, in_features: int, out_features: int, *, concat: bool = True) -> None:
        super().__init__()
        self.concat = concat
        self.W = tnn.Parameter(torch.empty(in_features, out_features).normal_())
        self.a = tnn.Parameter(torch.empty(2 * out_features, 1).normal_())

    def forward(self, h: Any, adj: Any) -> Any:
        wh = h @ self.W
        half = wh.shape[1]
        e = functional.leaky_relu(wh @ self.a[:half] + (wh @ self.a[half:]).T, 0.2)
        y = torch.where(adj > 0, e, torch.full_like(e, -9e15)).softmax(1) @ wh
        return functional.elu(y) if self.concat else y


class GAT(tnn.Module):
    def __init__(self, nfeat: int = 12, nhid: int = 6, nclass: int = 5, nheads: int = 2) -> None:
        super().__init__()
        self.attentions = [GraphAttentionLayer(nfeat, nhid) for _ in range(nheads)]
        for i, attention in enumerate(self.attentions):
            self.add_module(f"attention_{i}", attention)
        self.out_att = GraphAttentionLayer(nhid * nheads, nclass, concat=False)

    def forward(self, x: Any, adj: Any) -> Any:
        x = torch.cat([att(x, adj) for att in self.attentions], 1)
        return functional.log_softmax(functional.elu(self.out_att(x, adj)), 1)


class LinenGraphHead(nn.Module):
    features: int

    @nn.compact
    def __call__(self, x: Any, edges: Any) -> Any:
        wh = nn.Dense(self.features, use_bias=False, name="transform")(x)
        score = self.param("attn_kernel", nn.initializers.lecun_normal(), (2 * self.features, 1))
        e = nn.leaky_relu(wh @ score[: self.features] + (wh @ score[self.features :]).T, 0.2)
        return nn.softmax(jnp.where(edges > 0, e, -9e15), 1) @ wh


class LinenGat(nn.Module):
    @nn.compact
    def __call__(self, x: Any, edges: Any) -> Any:
        x = jnp.concatenate([nn.elu(LinenGraphHead(6, name=f"head_{n}")(x, edges)) for n in range(2)], 1)
        return nn.log_softmax(nn.elu(LinenGraphHead(5, name="readout")(x, edges)), 1)


def edges() -> np.ndarray:
    return (np.random.default_rng(3).uniform(size=(7, 7)) < 0.5).astype(np.float32) + np.eye(7, dtype=np.float32)


# -------------------------------------------------------------------- pairs

#: A list of arrays is no layer: each is named, and of a square one the axes too.
TIED_RULES = {
    "rename": [
        {"source": "encode_w/{i}", "target": "encoder/{i}/kernel"},
        {"source": "encode_b/{i}", "target": "encoder/{i}/bias"},
        {"source": "decode_b/{i}", "target": "decoder_bias/{i}"},
    ],
    "layout": [{"source": "encode_w/{i}", "source_axes": "out in", "target_axes": "in out"}],
}

PAIRS = (
    Pair(
        "dlrm-nnx", DLRM, lambda: Nnx(lambda: NnxDlrm(nnx.Rngs(0)), (features(3, 9), digits(3, 3, below=11))), on_args,
        why="bags of embeddings, two MLPs with numbers that a Sequential gave, declared backwards",
    ),
    Pair(
        "widedeep-linen", WideDeep, lambda: Linen(LinenWideDeep(), (features(3, 20), digits(3, 3, below=11))), on_args,
        why="names in a dictionary, three blocks of one shape without a container on the other side",
    ),
    Pair(
        "actor-critic-linen", ActorCritic, lambda: Linen(LinenActorCritic(), (features(3, 5),)), on_args,
        rules={"actor/0": "pi_fc1"},
        why="two networks of one shape, told apart by no name: one answer is enough",
    ),
    Pair(
        "twotower-linen", TwoTower, lambda: Linen(LinenTwoTower(), (digits(2, 4, below=21), digits(2, below=21))), on_args,
        why="two towers of one shape, told by a word; a table that is shared",
    ),
    Pair(
        "tied-nnx", TiedAutoencoder, lambda: Nnx(lambda: NnxTied(nnx.Rngs(0)), (features(3, 12),)), on_args,
        rules=TIED_RULES, why="lists of bare square arrays, two of them used twice, against layers",
    ),
    Pair(
        "gat-linen", GAT, lambda: Linen(LinenGat(), (features(7, 12), edges())), on_args,
        allow={"always": ("assumption",)},
        why="bare arrays against layers, heads in modules that have names of their own",
    ),
)  # fmt: skip
