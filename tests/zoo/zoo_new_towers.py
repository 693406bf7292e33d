"""New pairs with tokens of no layer: an attention that pools, slots, a latent state, a network by another library's names.

Torch as timm, lucidrains and Kaixhin write it, Flax as big_vision, google-research and dm-haiku name it.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import torch
from flax import linen as nn
from torch import nn as tnn
from torch.nn import functional
from zoo_convnets import image, on_image
from zoo_pairs import Linen, Pair
from zoo_recurrent import features
from zoo_transformers import gelu, on_args

# -------------------------------------------------------------------- blocks of timm, and DeiT with a distillation token


class TAttention(tnn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = tnn.Linear(dim, dim * 3)
        self.proj = tnn.Linear(dim, dim)

    def forward(self, x: Any) -> Any:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c))


class TBlock(tnn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = tnn.LayerNorm(dim, eps=1e-6)
        self.attn = TAttention(dim, heads)
        self.norm2 = tnn.LayerNorm(dim, eps=1e-6)
        self.mlp = tnn.ModuleDict({"fc1": tnn.Linear(dim, 2 * dim), "fc2": tnn.Linear(2 * dim, dim)})

    def forward(self, x: Any) -> Any:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp["fc2"](functional.gelu(self.mlp["fc1"](self.norm2(x))))


class DistilledVisionTransformer(tnn.Module):
    def __init__(self, dim: int = 16) -> None:
        super().__init__()
        self.cls_token = tnn.Parameter(torch.zeros(1, 1, dim))
        self.dist_token = tnn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = tnn.Parameter(torch.zeros(1, 18, dim))
        self.patch_embed = tnn.ModuleDict({"proj": tnn.Conv2d(3, dim, 4, 4)})
        self.blocks = tnn.Sequential(*[TBlock(dim, 2) for _ in range(2)])
        self.norm = tnn.LayerNorm(dim, eps=1e-6)
        self.head = tnn.Linear(dim, 10)
        self.head_dist = tnn.Linear(dim, 10)

    def forward(self, x: Any) -> Any:
        x = self.patch_embed["proj"](x).flatten(2).transpose(1, 2)
        tok = [t.expand(x.shape[0], -1, -1) for t in (self.cls_token, self.dist_token)]
        x = self.norm(self.blocks(torch.cat([*tok, x], 1) + self.pos_embed))
        return self.head(x[:, 0]), self.head_dist(x[:, 1])


class BvMlp(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        d = x.shape[-1]
        return nn.Dense(d)(gelu(nn.Dense(2 * d)(x)))


class BvEncoderBlock(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        y = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(num_heads=2)(y, y)
        return x + BvMlp(name="MlpBlock_0")(nn.LayerNorm()(x))


class BvTransformer(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        for i in range(2):
            x = BvEncoderBlock(name=f"encoderblock_{i}")(x)
        return nn.LayerNorm(name="encoder_norm")(x)


class LinenDeit(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.Conv(16, (4, 4), 4, "VALID", name="embedding")(x)
        x = x.reshape(x.shape[0], -1, 16)
        cls = self.param("cls", nn.initializers.zeros, (1, 1, 16))
        dist = self.param("distill", nn.initializers.zeros, (1, 1, 16))
        pos = self.param("pos_embedding", nn.initializers.zeros, (1, 18, 16))
        x = jnp.concatenate([jnp.tile(t, [x.shape[0], 1, 1]) for t in (cls, dist)] + [x], 1) + pos
        x = BvTransformer(name="Transformer")(x)
        return nn.Dense(10, name="cls_head")(x[:, 0]), nn.Dense(10, name="distill_head")(x[:, 1])


# -------------------------------------------------------------------- SigLIP, timm and big_vision


class AttentionPoolLatent(tnn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.latent = tnn.Parameter(torch.zeros(1, 1, dim))
        self.q = tnn.Linear(dim, dim)
        self.kv = tnn.Linear(dim, dim * 2)
        self.proj = tnn.Linear(dim, dim)
        self.norm = tnn.LayerNorm(dim, eps=1e-6)
        self.mlp = tnn.ModuleDict({"fc1": tnn.Linear(dim, 2 * dim), "fc2": tnn.Linear(2 * dim, dim)})

    def forward(self, x: Any) -> Any:
        b, n, c = x.shape
        q = self.q(self.latent.expand(b, -1, -1)).reshape(b, 1, 2, c // 2).transpose(1, 2)
        k, v = self.kv(x).reshape(b, n, 2, 2, c // 2).permute(2, 0, 3, 1, 4).unbind(0)
        x = self.proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, 1, c))
        x = x + self.mlp["fc2"](functional.gelu(self.mlp["fc1"](self.norm(x)), approximate="tanh"))
        return x[:, 0]


class Siglip(tnn.Module):
    def __init__(self, dim: int = 16) -> None:
        super().__init__()
        self.pos_embed = tnn.Parameter(torch.zeros(1, 16, dim))
        self.patch_embed = tnn.ModuleDict({"proj": tnn.Conv2d(3, dim, 4, 4)})
        self.blocks = tnn.Sequential(*[TBlock(dim, 2) for _ in range(2)])
        self.norm = tnn.LayerNorm(dim, eps=1e-6)
        self.attn_pool = AttentionPoolLatent(dim)

    def forward(self, x: Any) -> Any:
        x = self.patch_embed["proj"](x).flatten(2).transpose(1, 2) + self.pos_embed
        return self.attn_pool(self.norm(self.blocks(x)))


class MAPHead(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        n, _, d = x.shape
        probe = jnp.tile(self.param("probe", nn.initializers.zeros, (1, 1, d)), [n, 1, 1])
        x = nn.MultiHeadDotProductAttention(num_heads=2)(probe, x)
        y = nn.LayerNorm()(x)
        return (x + TanhMlp(name="MlpBlock_0")(y))[:, 0]


class TanhMlp(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        d = x.shape[-1]
        return nn.Dense(d)(nn.gelu(nn.Dense(2 * d)(x)))


class BvEncoder(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        for i in range(2):
            x = BvEncoderBlock(name=f"encoderblock_{i}")(x)
        return nn.LayerNorm(name="encoder_norm")(x)


class LinenSiglip(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.Conv(16, (4, 4), 4, "VALID", name="embedding")(x).reshape(x.shape[0], -1, 16)
        x = x + self.param("pos_embedding", nn.initializers.zeros, (1, 16, 16))
        return MAPHead(name="MAPHead_0")(BvEncoder(name="Transformer")(x))


# -------------------------------------------------------------------- slot attention, lucidrains and google-research


class SlotAttention(tnn.Module):
    def __init__(self, dim: int = 8) -> None:
        super().__init__()
        self.slots_mu = tnn.Parameter(torch.zeros(1, 1, dim))
        self.slots_sigma = tnn.Parameter(torch.zeros(1, 1, dim))
        self.to_q = tnn.Linear(dim, dim)
        self.to_k = tnn.Linear(dim, dim)
        self.to_v = tnn.Linear(dim, dim)
        self.gru = tnn.GRUCell(dim, dim)
        self.fc1 = tnn.Linear(dim, dim)
        self.fc2 = tnn.Linear(dim, dim)
        self.norm_input = tnn.LayerNorm(dim)
        self.norm_slots = tnn.LayerNorm(dim)
        self.norm_pre_ff = tnn.LayerNorm(dim)

    def forward(self, x: Any, noise: Any) -> Any:
        b, _n, d = x.shape
        slots = self.slots_mu + self.slots_sigma * noise
        x = self.norm_input(x)
        k, v = self.to_k(x), self.to_v(x)
        for _ in range(2):
            prev = slots
            q = self.to_q(self.norm_slots(slots))
            a = (torch.einsum("bid,bjd->bij", q, k) * d**-0.5).softmax(1) + 1e-8
            updates = torch.einsum("bjd,bij->bid", v, a / a.sum(-1, keepdim=True))
            slots = self.gru(updates.reshape(-1, d), prev.reshape(-1, d)).reshape(b, -1, d)
            slots = slots + self.fc2(torch.relu(self.fc1(self.norm_pre_ff(slots))))
        return slots


class LinenSlotAttention(nn.Module):
    def setup(self) -> None:
        d = 8
        self.mu = self.param("slots_mu", nn.initializers.zeros, (1, 1, d))
        self.log_sigma = self.param("slots_log_sigma", nn.initializers.zeros, (1, 1, d))
        self.layernorm_q = nn.LayerNorm(epsilon=1e-5)
        self.layernorm_input = nn.LayerNorm(epsilon=1e-5)
        self.layernorm_mlp = nn.LayerNorm(epsilon=1e-5)
        self.dense_q, self.dense_k, self.dense_v = nn.Dense(d), nn.Dense(d), nn.Dense(d)
        self.gru = nn.GRUCell(d)
        self.mlp_0, self.mlp_1 = nn.Dense(d), nn.Dense(d)

    def __call__(self, x: Any, noise: Any) -> Any:
        d = x.shape[-1]
        slots = self.mu + self.log_sigma * noise
        x = self.layernorm_input(x)
        k, v = self.dense_k(x), self.dense_v(x)
        for _ in range(2):
            q = self.dense_q(self.layernorm_q(slots))
            a = jax.nn.softmax(jnp.einsum("bid,bjd->bij", q, k) * d**-0.5, 1) + 1e-8
            updates = jnp.einsum("bjd,bij->bid", v, a / a.sum(-1, keepdims=True))
            slots, _ = self.gru(slots, updates)
            slots = slots + self.mlp_1(nn.relu(self.mlp_0(self.layernorm_mlp(slots))))
        return slots


# -------------------------------------------------------------------- a recurrent state space, Kaixhin/PlaNet


class RSSM(tnn.Module):
    def __init__(self, s: int = 4, d: int = 8) -> None:
        super().__init__()
        self.fc_embed_state_action = tnn.Linear(s + 2, d)
        self.rnn = tnn.GRUCell(d, d)
        self.fc_embed_belief_prior = tnn.Linear(d, d)
        self.fc_state_prior = tnn.Linear(d, 2 * s)
        self.fc_embed_belief_posterior = tnn.Linear(d + 6, d)
        self.fc_state_posterior = tnn.Linear(d, 2 * s)

    def forward(self, actions: Any, embeds: Any) -> Any:
        state, belief = torch.zeros(actions.shape[0], 4), torch.zeros(actions.shape[0], 8)
        out = []
        for t in range(actions.shape[1]):
            h = functional.elu(self.fc_embed_state_action(torch.cat([state, actions[:, t]], 1)))
            belief = self.rnn(h, belief)
            prior = self.fc_state_prior(functional.elu(self.fc_embed_belief_prior(belief)))
            post = self.fc_state_posterior(
                functional.elu(self.fc_embed_belief_posterior(torch.cat([belief, embeds[:, t]], 1)))
            )
            state = post.chunk(2, 1)[0]
            out += [prior, post]
        return torch.stack(out, 1)


class LinenRssm(nn.Module):
    def setup(self) -> None:
        self.img_in = nn.Dense(8)
        self.cell = nn.GRUCell(8)
        self.img_out, self.img_stats = nn.Dense(8), nn.Dense(8)
        self.obs_out, self.obs_stats = nn.Dense(8), nn.Dense(8)

    def __call__(self, actions: Any, embeds: Any) -> Any:
        state, belief = jnp.zeros((actions.shape[0], 4)), jnp.zeros((actions.shape[0], 8))
        out = []
        for t in range(actions.shape[1]):
            h = nn.elu(self.img_in(jnp.concatenate([state, actions[:, t]], 1)))
            belief, _ = self.cell(belief, h)
            prior = self.img_stats(nn.elu(self.img_out(belief)))
            post = self.obs_stats(nn.elu(self.obs_out(jnp.concatenate([belief, embeds[:, t]], 1))))
            state = jnp.split(post, 2, 1)[0]
            out += [prior, post]
        return jnp.stack(out, 1)


# -------------------------------------------------------------------- names that dm-haiku gives


class PolicyNet(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = tnn.Sequential(
            tnn.Conv2d(3, 8, 3, padding=1), tnn.ReLU(), tnn.Conv2d(8, 8, 3, padding=1), tnn.ReLU()
        )
        self.trunk = tnn.Sequential(
            tnn.Linear(8, 16), tnn.ReLU(), tnn.Linear(16, 16), tnn.ReLU(), tnn.Linear(16, 16), tnn.ReLU()
        )
        self.policy_head = tnn.Linear(16, 4)
        self.value_head = tnn.Linear(16, 1)

    def forward(self, x: Any) -> Any:
        x = self.trunk(self.conv(x).mean((2, 3)))
        return self.policy_head(x), self.value_head(x)


class HaikuNames(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        for i in range(2):
            x = nn.relu(nn.Conv(8, (3, 3), name="conv2_d" if i == 0 else f"conv2_d_{i}")(x))
        x = x.mean((1, 2))
        for i in range(3):
            x = nn.relu(nn.Dense(16, name="linear" if i == 0 else f"linear_{i}")(x))
        return nn.Dense(4, name="linear_3")(x), nn.Dense(1, name="linear_4")(x)


# -------------------------------------------------------------------- pairs

SLOTS_RULES = {"norm_slots": "layernorm_q"}
RSSM_RULES = {"fc_embed_belief_prior": "img_out"}

PAIRS = (
    Pair(
        "deit-linen", DistilledVisionTransformer, lambda: Linen(LinenDeit(), (image(16),)), on_image,
        allow={"always": ("assumption",)},
        why="two tokens and two heads of one size, told by a word",
    ),
    Pair(
        "siglip-linen", Siglip, lambda: Linen(LinenSiglip(), (image(16),)), on_image,
        allow={"always": ("assumption",)},
        why="an attention with a query of its own, and a fused kv, behind blocks with a fused qkv",
    ),
    Pair(
        "slots-linen", SlotAttention, lambda: Linen(LinenSlotAttention(), (features(2, 6, 8), features(2, 3, 8))), on_args,
        rules=SLOTS_RULES, why="layers that are called many times, a recurrent cell between square layers, three norms",
    ),
    Pair(
        "rssm-linen", RSSM, lambda: Linen(LinenRssm(), (features(2, 3, 2), features(2, 3, 6))), on_args,
        rules=RSSM_RULES, why="prior and posterior against words for what they see: one answer is enough",
    ),
    Pair(
        "haiku-names-linen", PolicyNet, lambda: Linen(HaikuNames(), (image(5),)), on_image,
        why="automatic names whose first has no number",
    ),
)  # fmt: skip
