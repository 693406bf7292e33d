"""Small pairs with foreign names: what tutorials and examples of both frameworks are made of.

Torch in the style of pytorch/examples, its tutorials and well-known repositories; Flax in that of flax/examples.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import torch
from flax import linen as nn
from flax import nnx
from torch import nn as tnn
from torch.nn import functional
from zoo_pairs import FlaxSide, Linen, Nnx, Pair
from zoo_recurrent import features
from zoo_transformers import VOCAB, on_args, tokens

CLASSES = 6


def channels_first(model: torch.nn.Module, side: FlaxSide) -> Any:
    """Run a torch model on the sequences or images of the Flax side, channels first."""
    first = side.args[0]  # type: ignore[attr-defined]  # both kinds have them
    return model(torch.from_numpy(np.moveaxis(first, -1, 1).copy()))


# -------------------------------------------------------------------- multilayer perceptron


def mlp() -> tnn.Sequential:
    return tnn.Sequential(
        tnn.Flatten(), tnn.Linear(20, 32), tnn.ReLU(), tnn.Linear(32, 24), tnn.ReLU(), tnn.Linear(24, CLASSES)
    )


class LinenMlp(nn.Module):
    features: tuple[int, ...] = (32, 24, CLASSES)

    def setup(self) -> None:
        self.layers = [nn.Dense(width) for width in self.features]

    def __call__(self, x: Any) -> Any:
        for layer in self.layers[:-1]:
            x = nn.relu(layer(x))
        return self.layers[-1](x)


# -------------------------------------------------------------------- variational autoencoder, both frameworks' example


class TorchVae(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = tnn.Linear(20, 16)
        self.fc21 = tnn.Linear(16, 4)
        self.fc22 = tnn.Linear(16, 4)
        self.fc3 = tnn.Linear(4, 12)
        self.fc4 = tnn.Linear(12, 20)

    def forward(self, x: Any) -> Any:
        h = functional.relu(self.fc1(x))
        mean, logvar = self.fc21(h), self.fc22(h)
        return torch.sigmoid(self.fc4(functional.relu(self.fc3(mean)))), mean, logvar


class VaeEncoder(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.relu(nn.Dense(16, name="fc1")(x))
        return nn.Dense(4, name="fc2_mean")(x), nn.Dense(4, name="fc2_logvar")(x)


class VaeDecoder(nn.Module):
    @nn.compact
    def __call__(self, z: Any) -> Any:
        return nn.Dense(20, name="fc2")(nn.relu(nn.Dense(12, name="fc1")(z)))


class LinenVae(nn.Module):
    def setup(self) -> None:
        self.encoder = VaeEncoder()
        self.decoder = VaeDecoder()

    def __call__(self, x: Any) -> Any:
        mean, logvar = self.encoder(x)
        return nn.sigmoid(self.decoder(mean)), mean, logvar


#: That the first of two layers of one shape is the mean is known to the code alone.
VAE_RULES = {"fc21": "encoder/fc2_mean", "fc22": "encoder/fc2_logvar"}


# -------------------------------------------------------------------- text classifier of convolutions, Kim


class TextCnn(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = tnn.Embedding(VOCAB, 12)
        self.convs = tnn.ModuleList([tnn.Conv1d(12, 8, size) for size in (2, 3, 4)])
        self.fc = tnn.Linear(24, CLASSES)

    def forward(self, index: Any) -> Any:
        x = self.embedding(index).transpose(1, 2)
        return self.fc(torch.cat([functional.relu(conv(x)).amax(2) for conv in self.convs], 1))


class LinenTextCnn(nn.Module):
    @nn.compact
    def __call__(self, index: Any) -> Any:
        x = nn.Embed(VOCAB, 12)(index)
        pooled = [nn.relu(nn.Conv(8, (size,), padding="VALID")(x)).max(1) for size in (2, 3, 4)]
        return nn.Dense(CLASSES)(jnp.concatenate(pooled, -1))


# -------------------------------------------------------------------- neural collaborative filtering


class Ncf(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed_user_GMF = tnn.Embedding(30, 8)
        self.embed_item_GMF = tnn.Embedding(VOCAB, 8)
        self.embed_user_MLP = tnn.Embedding(30, 16)
        self.embed_item_MLP = tnn.Embedding(VOCAB, 16)
        self.MLP_layers = tnn.Sequential(tnn.Linear(32, 16), tnn.ReLU(), tnn.Linear(16, 8), tnn.ReLU())
        self.predict_layer = tnn.Linear(16, 1)

    def forward(self, item: Any) -> Any:
        user = item % 30
        product = self.embed_user_GMF(user) * self.embed_item_GMF(item)
        deep = self.MLP_layers(torch.cat([self.embed_user_MLP(user), self.embed_item_MLP(item)], -1))
        return self.predict_layer(torch.cat([product, deep], -1))


class NnxNcf(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.factors = nnx.Dict(users=nnx.Embed(30, 8, rngs=rngs), items=nnx.Embed(VOCAB, 8, rngs=rngs))
        self.tower = nnx.Dict(users=nnx.Embed(30, 16, rngs=rngs), items=nnx.Embed(VOCAB, 16, rngs=rngs))
        self.hidden = nnx.List([nnx.Linear(32, 16, rngs=rngs), nnx.Linear(16, 8, rngs=rngs)])
        self.score = nnx.Linear(16, 1, rngs=rngs)

    def __call__(self, item: Any) -> Any:
        user = item % 30
        product = self.factors["users"](user) * self.factors["items"](item)
        deep = jnp.concatenate([self.tower["users"](user), self.tower["items"](item)], -1)
        for layer in self.hidden:
            deep = nnx.relu(layer(deep))
        return self.score(jnp.concatenate([product, deep], -1))


# -------------------------------------------------------------------- PointNet


class PointNet(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = tnn.Conv1d(3, 8, 1)
        self.conv2 = tnn.Conv1d(8, 12, 1)
        self.conv3 = tnn.Conv1d(12, 20, 1)
        self.bn1 = tnn.BatchNorm1d(8)
        self.bn2 = tnn.BatchNorm1d(12)
        self.bn3 = tnn.BatchNorm1d(20)
        self.fc1 = tnn.Linear(20, 16)
        self.bn4 = tnn.BatchNorm1d(16)
        self.fc2 = tnn.Linear(16, CLASSES)

    def forward(self, x: Any) -> Any:
        x = functional.relu(self.bn1(self.conv1(x)))
        x = functional.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x)).amax(2)
        return self.fc2(functional.relu(self.bn4(self.fc1(x))))


class LinenPointNet(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        for width in (8, 12):
            x = nn.relu(nn.BatchNorm(use_running_average=True)(nn.Dense(width)(x)))
        x = nn.BatchNorm(use_running_average=True)(nn.Dense(20)(x)).max(1)
        x = nn.relu(nn.BatchNorm(use_running_average=True)(nn.Dense(16)(x)))
        return nn.Dense(CLASSES)(x)


# -------------------------------------------------------------------- temporal convolutions, locuslab/TCN


class TemporalBlock(tnn.Module):
    def __init__(self, din: int, dout: int, dilation: int) -> None:
        super().__init__()
        self.padding = 2 * dilation
        self.conv1 = tnn.Conv1d(din, dout, 3, dilation=dilation)
        self.conv2 = tnn.Conv1d(dout, dout, 3, dilation=dilation)
        self.downsample = tnn.Conv1d(din, dout, 1) if din != dout else None

    def forward(self, x: Any) -> Any:
        y = functional.relu(self.conv1(functional.pad(x, (self.padding, 0))))
        y = functional.relu(self.conv2(functional.pad(y, (self.padding, 0))))
        return functional.relu(y + (x if self.downsample is None else self.downsample(x)))


class Tcn(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = tnn.Sequential(TemporalBlock(5, 8, 1), TemporalBlock(8, 12, 2), TemporalBlock(12, 16, 4))
        self.linear = tnn.Linear(16, CLASSES)

    def forward(self, x: Any) -> Any:
        return self.linear(self.network(x)[:, :, -1])


class CausalBlock(nn.Module):
    features: int
    dilation: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        y = x
        for _ in range(2):
            y = nn.relu(nn.Conv(self.features, (3,), padding="CAUSAL", kernel_dilation=self.dilation)(y))
        return nn.relu(y + nn.Conv(self.features, (1,), name="residual")(x))


class LinenTcn(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        for number, width in enumerate((8, 12, 16)):
            x = CausalBlock(width, 2**number)(x)
        return nn.Dense(CLASSES)(x[:, -1])


# -------------------------------------------------------------------- M5, the tutorial of torchaudio


class M5(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = tnn.Conv1d(1, 8, 8, stride=4)
        self.bn1 = tnn.BatchNorm1d(8)
        self.conv2 = tnn.Conv1d(8, 8, 3)
        self.bn2 = tnn.BatchNorm1d(8)
        self.conv3 = tnn.Conv1d(8, 16, 3)
        self.bn3 = tnn.BatchNorm1d(16)
        self.fc1 = tnn.Linear(16, CLASSES)

    def forward(self, x: Any) -> Any:
        for conv, norm in ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)):
            x = functional.max_pool1d(functional.relu(norm(conv(x))), 2)
        return functional.log_softmax(self.fc1(x.mean(2)), 1)


class LinenM5(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        for width, size, stride in ((8, 8, 4), (8, 3, 1), (16, 3, 1)):
            x = nn.Conv(width, (size,), stride, padding="VALID")(x)
            x = nn.relu(nn.BatchNorm(use_running_average=True)(x))
            x = nn.max_pool(x, (2,), (2,))
        return nn.log_softmax(nn.Dense(CLASSES)(x.mean(1)))


# -------------------------------------------------------------------- super-resolution, a chain of convolutions


class Srcnn(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch_extraction = tnn.Conv2d(3, 16, 9, padding=4)
        self.non_linear_mapping = tnn.Conv2d(16, 8, 1)
        self.reconstruction = tnn.Conv2d(8, 3, 5, padding=2)

    def forward(self, x: Any) -> Any:
        x = functional.relu(self.non_linear_mapping(functional.relu(self.patch_extraction(x))))
        return self.reconstruction(x).movedim(1, -1)


class NnxSrcnn(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.layers = nnx.List(
            [nnx.Conv(3, 16, (9, 9), rngs=rngs), nnx.Conv(16, 8, (1, 1), rngs=rngs), nnx.Conv(8, 3, (5, 5), rngs=rngs)]
        )

    def __call__(self, x: Any) -> Any:
        first, second, last = self.layers
        return last(nnx.relu(second(nnx.relu(first(x)))))


# -------------------------------------------------------------------- pairs

PAIRS = (
    Pair("mlp-linen", mlp, lambda: Linen(LinenMlp(), (features(2, 20),)), on_args, why="numbers of a Sequential, with gaps"),
    Pair(
        "vae-linen", TorchVae, lambda: Linen(LinenVae(), (features(2, 20),)), on_args, rules=VAE_RULES,
        why="a mean and a variance of one shape, told apart by no name",
    ),
    Pair(
        "textcnn-linen", TextCnn, lambda: Linen(LinenTextCnn(), (tokens(),)), on_args,
        why="parallel convolutions of other sizes, and a linear whose width is a multiple of their channels",
    ),
    Pair(
        "ncf-nnx", Ncf, lambda: Nnx(lambda: NnxNcf(rngs=nnx.Rngs(0)), (tokens(),)), on_args,
        why="four embeddings, no two of one shape",
    ),
    Pair(
        "pointnet-linen", PointNet, lambda: Linen(LinenPointNet(), (features(2, 9, 3),)), channels_first,
        why="convolutions of width 1 against dense layers, norms declared apart from them",
    ),
    Pair("tcn-linen", Tcn, lambda: Linen(LinenTcn(), (features(2, 14, 5),)), channels_first, why="blocks of growing width"),
    Pair(
        "m5-linen", M5, lambda: Linen(LinenM5(), (features(2, 128, 1),)), channels_first,
        why="two norms of one width in a row",
    ),
    Pair(
        "srcnn-nnx", Srcnn, lambda: Nnx(lambda: NnxSrcnn(rngs=nnx.Rngs(0)), (features(2, 8, 8, 3),)), channels_first,
        why="names that say what a layer is for, against a list",
    ),
)  # fmt: skip
