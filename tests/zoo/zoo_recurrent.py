"""Recurrent and mixed pairs with foreign names: torch's fused gates against the cells of Flax; small networks of every day."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import torch
from flax import linen as nn
from flax import nnx
from torch import nn as tnn
from torch.nn import functional
from zoo_pairs import Linen, Nnx, Pair
from zoo_transformers import VOCAB, on_args, tokens

EMBED, HIDDEN, TAGS = 12, 16, 5


# -------------------------------------------------------------------- LSTM tagger


class BiLSTM(tnn.Module):
    """The tagger of many tutorials, two layers, both ways."""

    def __init__(self) -> None:
        super().__init__()
        self.word_embeddings = tnn.Embedding(VOCAB, EMBED)
        self.lstm = tnn.LSTM(EMBED, HIDDEN, num_layers=2, bidirectional=True, batch_first=True)
        self.hidden2tag = tnn.Linear(2 * HIDDEN, TAGS)

    def forward(self, sentence: Any) -> Any:
        out, _ = self.lstm(self.word_embeddings(sentence))
        return functional.log_softmax(self.hidden2tag(out), -1)


class LinenTagger(nn.Module):
    @nn.compact
    def __call__(self, index: Any) -> Any:
        x = nn.Embed(VOCAB, EMBED, name="embed")(index)
        for number in range(2):
            forward = nn.RNN(nn.OptimizedLSTMCell(HIDDEN, name=f"forward_cell_{number}"))
            backward = nn.RNN(nn.OptimizedLSTMCell(HIDDEN, name=f"backward_cell_{number}"))
            x = nn.Bidirectional(forward, backward, name=f"layer_{number}")(x)
        return nn.log_softmax(nn.Dense(TAGS, name="tags")(x))


# -------------------------------------------------------------------- character LSTM, one layer, one way


class CharRNN(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = tnn.Embedding(VOCAB, EMBED)
        self.rnn = tnn.LSTM(EMBED, HIDDEN, 1)
        self.decoder = tnn.Linear(HIDDEN, VOCAB)

    def forward(self, index: Any) -> Any:
        out, _ = self.rnn(self.encoder(index).transpose(0, 1))
        return self.decoder(out).transpose(0, 1)


class LinenCharRNN(nn.Module):
    @nn.compact
    def __call__(self, index: Any) -> Any:
        x = nn.Embed(VOCAB, EMBED)(index)
        x = nn.RNN(nn.LSTMCell(HIDDEN))(x)
        return nn.Dense(VOCAB)(x)


# -------------------------------------------------------------------- seq2seq with attention, the PyTorch tutorial


class EncoderRNN(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = tnn.Embedding(VOCAB, HIDDEN)
        self.gru = tnn.GRU(HIDDEN, HIDDEN, batch_first=True)

    def forward(self, index: Any) -> Any:
        return self.gru(self.embedding(index))


class BahdanauAttention(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.Wa = tnn.Linear(HIDDEN, HIDDEN)
        self.Ua = tnn.Linear(HIDDEN, HIDDEN)
        self.Va = tnn.Linear(HIDDEN, 1)

    def forward(self, query: Any, keys: Any) -> Any:
        scores = self.Va(torch.tanh(self.Wa(query) + self.Ua(keys))).transpose(1, 2)
        return functional.softmax(scores, -1) @ keys


class AttnDecoderRNN(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = tnn.Embedding(VOCAB + 3, HIDDEN)
        self.attention = BahdanauAttention()
        self.gru = tnn.GRU(2 * HIDDEN, HIDDEN, batch_first=True)
        self.out = tnn.Linear(HIDDEN, VOCAB + 3)

    def forward(self, index: Any, memory: Any, hidden: Any) -> Any:
        embedded, outputs = self.embedding(index), []
        for step in range(index.shape[1]):
            context = self.attention(hidden.transpose(0, 1), memory)
            out, hidden = self.gru(torch.cat([embedded[:, step : step + 1], context], 2), hidden)
            outputs.append(self.out(out))
        return torch.cat(outputs, 1)


class Seq2Seq(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = EncoderRNN()
        self.decoder = AttnDecoderRNN()

    def forward(self, source: Any, target: Any) -> Any:
        memory, hidden = self.encoder(source)
        return self.decoder(target, memory, hidden)


class AdditiveAttention(nn.Module):
    @nn.compact
    def __call__(self, query: Any, keys: Any) -> Any:
        q = nn.Dense(HIDDEN, name="query_projection")(query)
        k = nn.Dense(HIDDEN, name="key_projection")(keys)
        scores = nn.Dense(1, name="score")(jnp.tanh(q + k))
        return (nn.softmax(scores, 1) * keys).sum(1, keepdims=True)


class LinenSeq2Seq(nn.Module):
    @nn.compact
    def __call__(self, source: Any, target: Any) -> Any:
        x = nn.Embed(VOCAB, HIDDEN, name="source_embed")(source)
        hidden, memory = nn.RNN(nn.GRUCell(HIDDEN, name="encoder_cell"), return_carry=True)(x)
        embedded = nn.Embed(VOCAB + 3, HIDDEN, name="target_embed")(target)
        attend, cell = AdditiveAttention(name="attend"), nn.GRUCell(HIDDEN, name="decoder_cell")
        project, outputs = nn.Dense(VOCAB + 3, name="project"), []
        for step in range(target.shape[1]):
            context = attend(hidden[:, None], memory)[:, 0]
            hidden, out = cell(hidden, jnp.concatenate([embedded[:, step], context], -1))
            outputs.append(project(out))
        return jnp.stack(outputs, 1)


#: `Wa` and `Ua` have one shape, and neither name says which is the query's.
SEQ2SEQ_RULES = {"decoder/attention/Wa": "attend/query_projection", "decoder/attention/Ua": "attend/key_projection"}


# -------------------------------------------------------------------- CRNN: convolutions, then a GRU, NNX-free


class CRNN(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cnn = tnn.Sequential(
            tnn.Conv1d(6, 10, 5, padding=2), tnn.BatchNorm1d(10), tnn.ReLU(), tnn.MaxPool1d(2),
            tnn.Conv1d(10, 14, 3, padding=1), tnn.BatchNorm1d(14), tnn.ReLU(),
        )  # fmt: skip
        self.rnn = tnn.GRU(14, HIDDEN, batch_first=True, bidirectional=True)
        self.fc = tnn.Linear(2 * HIDDEN, TAGS)

    def forward(self, x: Any) -> Any:
        out, _ = self.rnn(self.cnn(x.transpose(1, 2)).transpose(1, 2))
        return self.fc(out)


class LinenCRNN(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.relu(nn.BatchNorm(use_running_average=True)(nn.Conv(10, (5,))(x)))
        x = nn.max_pool(x, (2,), (2,))
        x = nn.relu(nn.BatchNorm(use_running_average=True)(nn.Conv(14, (3,))(x)))
        x = nn.Bidirectional(nn.RNN(nn.GRUCell(HIDDEN)), nn.RNN(nn.GRUCell(HIDDEN)))(x)
        return nn.Dense(TAGS)(x)


# -------------------------------------------------------------------- autoencoder with group norms, NNX


class Autoencoder(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = tnn.Sequential(
            tnn.Linear(20, 32), tnn.LayerNorm(32), tnn.SiLU(), tnn.Linear(32, 16), tnn.LayerNorm(16), tnn.SiLU()
        )
        self.to_mean = tnn.Linear(16, 4)
        self.decoder = tnn.Sequential(
            tnn.Linear(4, 16), tnn.LayerNorm(16), tnn.SiLU(), tnn.Linear(16, 32), tnn.LayerNorm(32), tnn.SiLU()
        )
        self.to_out = tnn.Linear(32, 20)

    def forward(self, x: Any) -> Any:
        return self.to_out(self.decoder(self.to_mean(self.encoder(x))))


class NnxHalf(nnx.Module):
    def __init__(self, widths: tuple[int, ...], *, rngs: nnx.Rngs) -> None:
        pairs = list(zip(widths, widths[1:], strict=False))
        self.dense = nnx.List([nnx.Linear(one, two, rngs=rngs) for one, two in pairs])
        self.norms = nnx.List([nnx.LayerNorm(two, epsilon=1e-5, rngs=rngs) for _, two in pairs])

    def __call__(self, x: Any) -> Any:
        for dense, norm in zip(self.dense, self.norms, strict=True):
            x = nnx.silu(norm(dense(x)))
        return x


class NnxAutoencoder(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.down = NnxHalf((20, 32, 16), rngs=rngs)
        self.mu = nnx.Linear(16, 4, rngs=rngs)
        self.up = NnxHalf((4, 16, 32), rngs=rngs)
        self.reconstruction = nnx.Linear(32, 20, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.reconstruction(self.up(self.mu(self.down(x))))


def features(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


# -------------------------------------------------------------------- pairs


PAIRS = (
    Pair(
        "tagger-linen", BiLSTM, lambda: Linen(LinenTagger(), (tokens(),)), on_args,
        why="two layers both ways in one torch module against four cells",
    ),
    Pair(
        "charrnn-linen", CharRNN, lambda: Linen(LinenCharRNN(), (tokens(),)), on_args,
        why="fused gates against eight dense layers; automatic names",
    ),
    Pair(
        "seq2seq-linen", Seq2Seq, lambda: Linen(LinenSeq2Seq(), (tokens(), tokens(3))), on_args, rules=SEQ2SEQ_RULES,
        why="two recurrent layers, two embeddings; additive attention whose two halves have one shape",
    ),
    Pair(
        "crnn-linen", CRNN, lambda: Linen(LinenCRNN(), (features(2, 8, 6),)), on_args,
        why="numbers of a Sequential against automatic names, a recurrent layer both ways",
    ),
    Pair(
        "autoencoder-nnx", Autoencoder, lambda: Nnx(lambda: NnxAutoencoder(rngs=nnx.Rngs(0)), (features(2, 20),)), on_args,
        why="a Sequential of alternating layers against one list for each kind; equal norms on both halves",
    ),
)  # fmt: skip
