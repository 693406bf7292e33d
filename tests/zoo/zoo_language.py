"""Language models with foreign names: Llama by Meta's names, Whisper by OpenAI's, against Linen modules of other shapes.

Widths are small; the trees and the names are those of the originals.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import torch
from flax import linen as nn
from torch import nn as tnn
from torch.nn import functional
from zoo_pairs import Linen, Pair
from zoo_transformers import DEPTH, DIM, HEADS, LENGTH, VOCAB, gelu, on_args, tokens

# -------------------------------------------------------------------- Llama: Meta's names, names of Hugging Face in Linen

KV_HEADS, HIDDEN = 1, 40


class RMSNorm(tnn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = tnn.Parameter(torch.ones(dim))

    def forward(self, x: Any) -> Any:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.weight


class LlamaAttention(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        head = DIM // HEADS
        self.wq = tnn.Linear(DIM, HEADS * head, bias=False)
        self.wk = tnn.Linear(DIM, KV_HEADS * head, bias=False)
        self.wv = tnn.Linear(DIM, KV_HEADS * head, bias=False)
        self.wo = tnn.Linear(HEADS * head, DIM, bias=False)

    def forward(self, x: Any) -> Any:
        b, t, _ = x.shape
        q, k, v = (w(x).view(b, t, -1, DIM // HEADS).transpose(1, 2) for w in (self.wq, self.wk, self.wv))
        k, v = (y.expand(-1, HEADS, -1, -1) for y in (k, v))
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.wo(y.transpose(1, 2).reshape(b, t, -1))


class FeedForward(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w1 = tnn.Linear(DIM, HIDDEN, bias=False)
        self.w2 = tnn.Linear(HIDDEN, DIM, bias=False)
        self.w3 = tnn.Linear(DIM, HIDDEN, bias=False)

    def forward(self, x: Any) -> Any:
        return self.w2(functional.silu(self.w1(x)) * self.w3(x))


class TransformerBlock(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = LlamaAttention()
        self.feed_forward = FeedForward()
        self.attention_norm = RMSNorm(DIM)
        self.ffn_norm = RMSNorm(DIM)

    def forward(self, x: Any) -> Any:
        x = x + self.attention(self.attention_norm(x))
        return x + self.feed_forward(self.ffn_norm(x))


class Llama(tnn.Module):
    """Without rotary positions: they hold no state."""

    def __init__(self) -> None:
        super().__init__()
        self.tok_embeddings = tnn.Embedding(VOCAB, DIM)
        self.layers = tnn.ModuleList([TransformerBlock() for _ in range(DEPTH)])
        self.norm = RMSNorm(DIM)
        self.output = tnn.Linear(DIM, VOCAB, bias=False)

    def forward(self, index: Any) -> Any:
        x = self.tok_embeddings(index)
        for layer in self.layers:
            x = layer(x)
        return self.output(self.norm(x))


class LinenLlamaAttention(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        b, t, _ = x.shape
        head = DIM // HEADS
        widths = {"q": HEADS * head, "k": KV_HEADS * head, "v": KV_HEADS * head}
        q, k, v = (
            nn.Dense(width, use_bias=False, name=f"{name}_proj")(x).reshape(b, t, -1, head)
            for name, width in widths.items()
        )
        k, v = (jnp.repeat(y, HEADS // KV_HEADS, 2) for y in (k, v))
        y = nn.dot_product_attention(q, k, v, mask=nn.make_causal_mask(jnp.ones((b, t))))
        return nn.Dense(DIM, use_bias=False, name="o_proj")(y.reshape(b, t, -1))


class LinenLlamaMlp(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        gate = nn.Dense(HIDDEN, use_bias=False, name="gate_proj")(x)
        up = nn.Dense(HIDDEN, use_bias=False, name="up_proj")(x)
        return nn.Dense(DIM, use_bias=False, name="down_proj")(nn.silu(gate) * up)


class LinenLlama(nn.Module):
    @nn.compact
    def __call__(self, index: Any) -> Any:
        x = nn.Embed(VOCAB, DIM, name="embed_tokens")(index)
        for number in range(DEPTH):
            y = nn.RMSNorm(epsilon=1e-5, name=f"layers_{number}_input_layernorm")(x)
            x = x + LinenLlamaAttention(name=f"layers_{number}_self_attn")(y)
            y = nn.RMSNorm(epsilon=1e-5, name=f"layers_{number}_post_attention_layernorm")(x)
            x = x + LinenLlamaMlp(name=f"layers_{number}_mlp")(y)
        x = nn.RMSNorm(epsilon=1e-5, name="norm")(x)
        return nn.Dense(VOCAB, use_bias=False, name="lm_head")(x)


#: Nothing but the code tells which of two bias-free layers of one shape gates, nor which norm comes first.
LLAMA_RULES = {
    "layers/{i}/feed_forward/w1": "layers_{i}_mlp/gate_proj",
    "layers/{i}/feed_forward/w3": "layers_{i}_mlp/up_proj",
    "layers/{i}/attention_norm": "layers_{i}_input_layernorm",
    "layers/{i}/ffn_norm": "layers_{i}_post_attention_layernorm",
}


# -------------------------------------------------------------------- encoder and decoder, openai/whisper


class ResidualAttentionBlock(tnn.Module):
    """openai/whisper's block: query, key without bias, value, out."""

    def __init__(self, cross: bool) -> None:
        super().__init__()
        self.attn = WhisperAttention()
        self.attn_ln = tnn.LayerNorm(DIM)
        self.cross_attn = WhisperAttention() if cross else None
        self.cross_attn_ln = tnn.LayerNorm(DIM) if cross else None
        self.mlp = tnn.Sequential(tnn.Linear(DIM, DIM * 4), tnn.GELU(), tnn.Linear(DIM * 4, DIM))
        self.mlp_ln = tnn.LayerNorm(DIM)

    def forward(self, x: Any, xa: Any = None) -> Any:
        x = x + self.attn(self.attn_ln(x), None, causal=xa is not None)
        if self.cross_attn is not None:
            x = x + self.cross_attn(self.cross_attn_ln(x), xa)
        return x + self.mlp(self.mlp_ln(x))


class WhisperAttention(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query = tnn.Linear(DIM, DIM)
        self.key = tnn.Linear(DIM, DIM, bias=False)
        self.value = tnn.Linear(DIM, DIM)
        self.out = tnn.Linear(DIM, DIM)

    def forward(self, x: Any, xa: Any, causal: bool = False) -> Any:
        source = x if xa is None else xa
        made = self.query(x), self.key(source), self.value(source)
        q, k, v = (y.view(*y.shape[:2], HEADS, -1).transpose(1, 2) for y in made)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return self.out(y.transpose(1, 2).flatten(2))


class AudioEncoder(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = tnn.Conv1d(10, DIM, 3, padding=1)
        self.conv2 = tnn.Conv1d(DIM, DIM, 3, stride=2, padding=1)
        self.blocks = tnn.ModuleList([ResidualAttentionBlock(False) for _ in range(2)])
        self.ln_post = tnn.LayerNorm(DIM)

    def forward(self, x: Any) -> Any:
        x = functional.gelu(self.conv2(functional.gelu(self.conv1(x)))).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return self.ln_post(x)


class TextDecoder(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token_embedding = tnn.Embedding(VOCAB, DIM)
        self.positional_embedding = tnn.Parameter(torch.empty(LENGTH, DIM))
        self.blocks = tnn.ModuleList([ResidualAttentionBlock(True) for _ in range(2)])
        self.ln = tnn.LayerNorm(DIM)

    def forward(self, x: Any, xa: Any) -> Any:
        x = self.token_embedding(x) + self.positional_embedding
        for block in self.blocks:
            x = block(x, xa)
        return self.ln(x) @ self.token_embedding.weight.T


class Whisper(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = AudioEncoder()
        self.decoder = TextDecoder()

    def forward(self, mel: Any, index: Any) -> Any:
        return self.decoder(index, self.encoder(mel.transpose(1, 2)))


class LinenWhisperAttention(nn.Module):
    @nn.compact
    def __call__(self, x: Any, xa: Any, mask: Any = None) -> Any:
        head = (HEADS, DIM // HEADS)
        q = nn.DenseGeneral(head, name="q")(x)
        k = nn.DenseGeneral(head, use_bias=False, name="k")(xa)
        v = nn.DenseGeneral(head, name="v")(xa)
        return nn.DenseGeneral(DIM, axis=(-2, -1), name="o")(nn.dot_product_attention(q, k, v, mask=mask))


class LinenWhisperLayer(nn.Module):
    cross: bool

    @nn.compact
    def __call__(self, x: Any, xa: Any = None) -> Any:
        mask = nn.make_causal_mask(jnp.ones(x.shape[:2])) if self.cross else None
        y = nn.LayerNorm(epsilon=1e-5, name="pre_self_attention_norm")(x)
        x = x + LinenWhisperAttention(name="self_attention")(y, y, mask)
        if self.cross:
            y = nn.LayerNorm(epsilon=1e-5, name="pre_cross_attention_norm")(x)
            x = x + LinenWhisperAttention(name="cross_attention")(y, xa)
        y = nn.LayerNorm(epsilon=1e-5, name="pre_mlp_norm")(x)
        return x + nn.Dense(DIM, name="wo")(gelu(nn.Dense(4 * DIM, name="wi")(y)))


class LinenWhisper(nn.Module):
    @nn.compact
    def __call__(self, mel: Any, index: Any) -> Any:
        x = gelu(nn.Conv(DIM, (3,), padding=1, name="frontend_0")(mel))
        x = gelu(nn.Conv(DIM, (3,), strides=2, padding=1, name="frontend_1")(x))
        for number in range(2):
            x = LinenWhisperLayer(False, name=f"encoder_layer_{number}")(x)
        memory = nn.LayerNorm(epsilon=1e-5, name="encoder_norm")(x)
        embed = nn.Embed(VOCAB, DIM, name="decoder_token_embed")
        x = embed(index) + self.param("decoder_positions", nn.initializers.normal(), (LENGTH, DIM))
        for number in range(2):
            x = LinenWhisperLayer(True, name=f"decoder_layer_{number}")(x, memory)
        return embed.attend(nn.LayerNorm(epsilon=1e-5, name="decoder_norm")(x))


def mel() -> np.ndarray:
    return np.random.default_rng(2).normal(size=(2, 12, 10)).astype(np.float32)


# -------------------------------------------------------------------- pairs

PAIRS = (
    Pair(
        "llama-linen", Llama, lambda: Linen(LinenLlama(), (tokens(),)), on_args, rules=LLAMA_RULES,
        allow={"live": ("assumption",)},
        why="w1 and w3 against gate and up: nothing in headers decides",
    ),
    Pair(
        "whisper-linen", Whisper, lambda: Linen(LinenWhisper(), (mel(), tokens())), on_args,
        why="encoder and decoder, two attentions in one block, keys without bias, heads of their own",
    ),
)  # fmt: skip
