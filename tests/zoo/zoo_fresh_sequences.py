"""Fresh pairs over sequences: summed directions, banks of convolutions, a model both ways, long convolutions.

Torch as SeanNaren, NVIDIA, AllenAI and HazyResearch write them, Flax as `nn.compact` does. Widths are equal on purpose
wherever the architecture leaves a choice.
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
from zoo_convnets import image, on_image
from zoo_fresh_tables import digits
from zoo_pairs import Linen, Pair
from zoo_recurrent import features
from zoo_transformers import on_args

# -------------------------------------------------------------------- Deep Speech 2, SeanNaren/deepspeech.pytorch


class SequenceWise(tnn.Module):
    def __init__(self, module: tnn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Any) -> Any:
        return self.module(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)


class BatchRNN(tnn.Module):
    def __init__(self, input_size: int, hidden_size: int, batch_norm: bool = True) -> None:
        super().__init__()
        self.batch_norm = SequenceWise(tnn.BatchNorm1d(input_size)) if batch_norm else None
        self.rnn = tnn.GRU(input_size, hidden_size, bidirectional=True)

    def forward(self, x: Any) -> Any:
        x = x if self.batch_norm is None else self.batch_norm(x)
        x, _ = self.rnn(x)
        return x.view(x.shape[0], x.shape[1], 2, -1).sum(2)


class MaskConv(tnn.Module):
    def __init__(self, seq_module: tnn.Sequential) -> None:
        super().__init__()
        self.seq_module = seq_module

    def forward(self, x: Any) -> Any:
        for module in self.seq_module:
            x = module(x)
        return x


class DeepSpeech(tnn.Module):
    def __init__(self, hidden: int = 12) -> None:
        super().__init__()
        self.conv = MaskConv(
            tnn.Sequential(
                tnn.Conv2d(1, 6, (5, 3), (2, 1), (2, 1)), tnn.BatchNorm2d(6), tnn.Hardtanh(0, 20, inplace=True),
                tnn.Conv2d(6, 6, (5, 3), (2, 1), (2, 1)), tnn.BatchNorm2d(6), tnn.Hardtanh(0, 20, inplace=True),
            )
        )  # fmt: skip
        self.rnns = tnn.Sequential(BatchRNN(18, hidden, False), BatchRNN(hidden, hidden), BatchRNN(hidden, hidden))
        self.fc = tnn.Sequential(
            SequenceWise(tnn.Sequential(tnn.BatchNorm1d(hidden), tnn.Linear(hidden, 11, bias=False)))
        )

    def forward(self, x: Any) -> Any:
        x = self.conv(x)
        x = x.flatten(1, 2).permute(2, 0, 1)
        return self.fc(self.rnns(x)).transpose(0, 1)


class LinenGruLayer(nn.Module):
    features: int
    normalise: bool = True

    @nn.compact
    def __call__(self, x: Any) -> Any:
        if self.normalise:
            x = nn.BatchNorm(use_running_average=True, epsilon=1e-5)(x)
        fwd, bwd = nn.RNN(nn.GRUCell(self.features)), nn.RNN(nn.GRUCell(self.features), reverse=True, keep_order=True)
        return fwd(x) + bwd(x)


class LinenDeepSpeech(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        for number in range(2):
            x = nn.Conv(6, (5, 3), (2, 1), ((2, 2), (1, 1)), name=f"conv_{number}")(x)
            x = jnp.clip(nn.BatchNorm(use_running_average=True, epsilon=1e-5, name=f"conv_bn_{number}")(x), 0, 20)
        x = x.transpose(0, 2, 1, 3).reshape(x.shape[0], x.shape[2], -1)
        for number in range(3):
            x = LinenGruLayer(12, number > 0, name=f"gru_{number}")(x)
        return nn.Dense(11, use_bias=False, name="logits")(
            nn.BatchNorm(use_running_average=True, epsilon=1e-5, name="final_bn")(x)
        )


# -------------------------------------------------------------------- the encoder of Tacotron 2, NVIDIA


class ConvNorm(tnn.Module):
    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.conv = tnn.Conv1d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)

    def forward(self, x: Any) -> Any:
        return self.conv(x)


class LinearNorm(tnn.Module):
    def __init__(self, in_dim: int, out_dim: int, bias: bool = True) -> None:
        super().__init__()
        self.linear_layer = tnn.Linear(in_dim, out_dim, bias=bias)

    def forward(self, x: Any) -> Any:
        return self.linear_layer(x)


class Tacotron(tnn.Module):
    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.embedding = tnn.Embedding(23, width)
        self.encoder = tnn.Module()
        self.encoder.convolutions = tnn.ModuleList(
            [tnn.Sequential(ConvNorm(width, width, 5), tnn.BatchNorm1d(width)) for _ in range(3)]
        )
        self.encoder.lstm = tnn.LSTM(width, width // 2, 1, batch_first=True, bidirectional=True)
        self.attention_layer = tnn.Module()
        self.attention_layer.query_layer = LinearNorm(width, width, bias=False)
        self.attention_layer.memory_layer = LinearNorm(width, width, bias=False)
        self.attention_layer.v = LinearNorm(width, 1, bias=False)
        self.postnet = tnn.ModuleList(
            [tnn.Sequential(ConvNorm(width, width, 5), tnn.BatchNorm1d(width)) for _ in range(2)]
        )

    def forward(self, text: Any, query: Any) -> Any:
        x = self.embedding(text).transpose(1, 2)
        for conv in self.encoder.convolutions:
            x = functional.relu(conv(x))
        memory, _ = self.encoder.lstm(x.transpose(1, 2))
        att = self.attention_layer
        energy = att.v(torch.tanh(att.query_layer(query)[:, None] + att.memory_layer(memory)))
        x = (energy.softmax(1) * memory).transpose(1, 2)
        for conv in self.postnet:
            x = torch.tanh(conv(x))
        return x.transpose(1, 2)


class LinenConvBank(nn.Module):
    count: int
    act: Any

    @nn.compact
    def __call__(self, x: Any) -> Any:
        for _ in range(self.count):
            x = self.act(nn.BatchNorm(use_running_average=True, epsilon=1e-5)(nn.Conv(x.shape[-1], (5,))(x)))
        return x


class LinenTacotron(nn.Module):
    @nn.compact
    def __call__(self, text: Any, query: Any) -> Any:
        x = LinenConvBank(3, nn.relu, name="encoder_bank")(nn.Embed(23, 12, name="characters")(text))
        cells = nn.OptimizedLSTMCell(6, name="fwd"), nn.OptimizedLSTMCell(6, name="bwd")
        memory = nn.Bidirectional(nn.RNN(cells[0]), nn.RNN(cells[1]))(x)
        keys = nn.Dense(12, use_bias=False, name="memory_proj")(memory)
        keys = keys + nn.Dense(12, use_bias=False, name="query_proj")(query)[:, None]
        weights = nn.softmax(nn.Dense(1, use_bias=False, name="score")(nn.tanh(keys)), 1)
        return LinenConvBank(2, nn.tanh, name="postnet_bank")(weights * memory)


# -------------------------------------------------------------------- ELMo's language model, AllenAI


class Highway(tnn.Module):
    def __init__(self, dim: int, num_layers: int) -> None:
        super().__init__()
        self._layers = tnn.ModuleList([tnn.Linear(dim, dim * 2) for _ in range(num_layers)])

    def forward(self, x: Any) -> Any:
        for layer in self._layers:
            straight, gate = layer(x).chunk(2, dim=-1)
            gate = torch.sigmoid(gate)
            x = gate * x + (1 - gate) * functional.relu(straight)
        return x


class ElmoLm(tnn.Module):
    def __init__(self, dim: int = 12) -> None:
        super().__init__()
        self._char_embedding_weights = tnn.Parameter(torch.zeros(31, 6))
        self._convolutions = tnn.ModuleList([tnn.Conv1d(6, 6, width) for width in (1, 2, 3)])
        self._highways = Highway(18, 2)
        self._projection = tnn.Linear(18, dim)
        for direction in ("forward", "backward"):
            for number in range(2):
                self.add_module(f"{direction}_layer_{number}", tnn.LSTM(dim, dim, batch_first=True))
        self.gamma = tnn.Parameter(torch.ones(1))
        self.scalar_parameters = tnn.ParameterList([tnn.Parameter(torch.zeros(1)) for _ in range(3)])

    def forward(self, chars: Any) -> Any:
        b, t, c = chars.shape
        x = functional.embedding(chars.view(-1, c), self._char_embedding_weights).transpose(1, 2)
        x = torch.cat([functional.relu(conv(x).max(-1).values) for conv in self._convolutions], -1)
        x = self._projection(self._highways(x)).view(b, t, -1)
        fwd, bwd, outs = x, x.flip(1), [torch.cat([x, x], -1)]
        for number in range(2):
            fwd = getattr(self, f"forward_layer_{number}")(fwd)[0]
            bwd = getattr(self, f"backward_layer_{number}")(bwd)[0]
            outs.append(torch.cat([fwd, bwd.flip(1)], -1))
        weights = torch.cat(list(self.scalar_parameters)).softmax(0)
        return self.gamma * sum(w * out for w, out in zip(weights, outs, strict=True))


class LinenElmo(nn.Module):
    @nn.compact
    def __call__(self, chars: Any) -> Any:
        b, t, c = chars.shape
        x = nn.Embed(31, 6, name="chars")(chars.reshape(-1, c))
        x = jnp.concatenate(
            [nn.relu(nn.Conv(6, (w,), padding="VALID", name=f"char_conv_w{w}")(x).max(1)) for w in (1, 2, 3)], -1
        )
        for number in range(2):
            straight, gate = jnp.split(nn.Dense(36, name=f"highway_{number}")(x), 2, -1)
            x = nn.sigmoid(gate) * x + (1 - nn.sigmoid(gate)) * nn.relu(straight)
        x = nn.Dense(12, name="to_hidden")(x).reshape(b, t, -1)
        fwd, bwd, outs = x, x, [jnp.concatenate([x, x], -1)]
        for number in range(2):
            fwd = nn.RNN(nn.LSTMCell(12, name=f"fw_{number}"))(fwd)
            bwd = nn.RNN(nn.LSTMCell(12, name=f"bw_{number}"), reverse=True, keep_order=True)(bwd)
            outs.append(jnp.concatenate([fwd, bwd], -1))
        mix = [self.param(f"mix_{number}", nn.initializers.zeros, (1,)) for number in range(3)]
        weights = nn.softmax(jnp.concatenate(mix))
        return self.param("mix_scale", nn.initializers.ones, (1,)) * sum(
            w * out for w, out in zip(weights, outs, strict=True)
        )


# -------------------------------------------------------------------- Hyena: long convolutions, HazyResearch


class Sin(tnn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.freq = tnn.Parameter(torch.ones(1, dim))

    def forward(self, x: Any) -> Any:
        return torch.sin(self.freq * x)


class HyenaFilter(tnn.Module):
    def __init__(self, d_model: int, emb_dim: int, order: int) -> None:
        super().__init__()
        act = Sin(order)
        self.bias = tnn.Parameter(torch.zeros(d_model))
        self.implicit_filter = tnn.Sequential(
            tnn.Linear(emb_dim, order), act, tnn.Linear(order, order), act, tnn.Linear(order, d_model, bias=False)
        )

    def forward(self, x: Any, z: Any) -> Any:
        k = self.implicit_filter(z)
        n = x.shape[1]
        lag = torch.arange(n)[:, None] - torch.arange(n)[None, :]
        kernel = torch.where((lag >= 0)[..., None], k[lag.clamp(min=0)], torch.zeros(()))
        return torch.einsum("ijd,bjd->bid", kernel, x) + self.bias * x


class HyenaOperator(tnn.Module):
    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.in_proj = tnn.Linear(d_model, 3 * d_model)
        self.out_proj = tnn.Linear(d_model, d_model)
        self.short_filter = tnn.Conv1d(3 * d_model, 3 * d_model, 3, groups=3 * d_model, padding=2)
        self.filter_fn = HyenaFilter(d_model, 5, 16)

    def forward(self, u: Any, z: Any) -> Any:
        u = self.short_filter(self.in_proj(u).transpose(1, 2))[..., : u.shape[1]].transpose(1, 2)
        x0, x1, v = u.chunk(3, dim=-1)
        return self.out_proj(self.filter_fn(v * x1, z) * x0)


class HyenaLm(tnn.Module):
    def __init__(self, dim: int = 12) -> None:
        super().__init__()
        self.embed = tnn.Embedding(26, dim)
        self.mixers = tnn.ModuleList([HyenaOperator(dim) for _ in range(2)])
        self.norms = tnn.ModuleList([tnn.LayerNorm(dim) for _ in range(2)])

    def forward(self, index: Any, z: Any) -> Any:
        x = self.embed(index)
        for norm, mixer in zip(self.norms, self.mixers, strict=True):
            x = x + mixer(norm(x), z)
        return x


class LinenLongConv(nn.Module):
    @nn.compact
    def __call__(self, u: Any, z: Any) -> Any:
        d, n = u.shape[-1], u.shape[1]
        u = nn.Dense(3 * d, name="input_projection")(u)
        u = nn.Conv(3 * d, (3,), padding=((2, 0),), feature_group_count=3 * d, name="local_conv")(u)
        x0, x1, v = jnp.split(u, 3, -1)
        freq = self.param("frequency", nn.initializers.ones, (16,))
        k = jnp.sin(freq * nn.Dense(16, name="filter_0")(z))
        k = nn.Dense(d, use_bias=False, name="filter_2")(jnp.sin(freq * nn.Dense(16, name="filter_1")(k)))
        lag = np.arange(n)[:, None] - np.arange(n)[None, :]
        kernel = jnp.where((lag >= 0)[..., None], k[np.clip(lag, 0, None)], 0.0)
        v = v * x1
        v = jnp.einsum("ijd,bjd->bid", kernel, v) + self.param("skip", nn.initializers.zeros, (d,)) * v
        return nn.Dense(d, name="output_projection")(v * x0)


class LinenHyena(nn.Module):
    @nn.compact
    def __call__(self, index: Any, z: Any) -> Any:
        x = nn.Embed(26, 12)(index)
        for number in range(2):
            x = x + LinenLongConv(name=f"hyena_{number}")(layer_norm(f"pre_norm_{number}")(x), z)
        return x


# -------------------------------------------------------------------- pairs

#: The width of the first is an image, flattened here with its channels first; norms before and after have one size.
DEEPSPEECH_RULES = {
    "order": [
        {"source": path, "axis": "in", "source_axes": "c=6 h=3", "target_axes": "h c"}
        for path in ("rnns/0/rnn/l0", "rnns/0/rnn/l0_reverse")
    ],
}

PAIRS = (
    Pair(
        "deepspeech-linen", DeepSpeech, lambda: Linen(LinenDeepSpeech(), (image(10, 1)[:, :9],)), on_image,
        rules=DEEPSPEECH_RULES, open=("files",),
        why="recurrent layers both ways whose outputs are summed, a norm before the second and the third only",
    ),
    Pair(
        "tacotron-linen", Tacotron, lambda: Linen(LinenTacotron(), (digits(2, 6, below=23), features(2, 12))), on_args,
        why="wrappers of one layer, equal banks of convolutions, additive attention told by words",
    ),
    Pair(
        "elmo-linen", ElmoLm, lambda: Linen(LinenElmo(), (digits(2, 4, 5, below=31),)), on_args,
        allow={"always": ("assumption",)},
        why="directions in modules of their own, a bare table against an embedding, scalars in a list",
    ),
    Pair(
        "hyena-linen", HyenaLm, lambda: Linen(LinenHyena(), (digits(2, 6, below=26), features(6, 5))), on_args,
        why="an activation with a parameter that two places share, lists side by side, depthwise convolutions of a sequence",
    ),
)  # fmt: skip
