"""Resemblyzer, a voice encoder, in three frameworks: three LSTM layers and a linear one, 1.4 million trained parameters.

`python examples/resemblyzer.py` converts the published PyTorch checkpoint into Flax Linen and Flax NNX, compares the
embeddings of two synthetic voices, and brings every byte back. The package `Resemblyzer` is installed without its
dependencies: only the checkpoint in it is used, the networks are here.

torch adds two biases in every gate of an LSTM and Flax has one, so the way there sums them, which has to be allowed as a
`choice`; the residual keeps the two, and the way back restores them.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

import stateregistry as sr

MELS, WIDTH, LAYERS = 40, 256, 3
FRAMES = 160
SAMPLE_RATE = 16000
TOLERANCE = 1e-5


def weights() -> dict[str, torch.Tensor]:
    """The published `state_dict`; the file also holds the optimizer's state, and is older than the zip format of torch."""
    try:
        package = importlib.metadata.distribution("Resemblyzer")
    except importlib.metadata.PackageNotFoundError as error:
        message = "the example needs the weights in the package Resemblyzer: pip install --no-deps Resemblyzer"
        raise SystemExit(message) from error
    file = Path(str(package.locate_file("resemblyzer/pretrained.pt")))
    state: dict[str, torch.Tensor] = torch.load(file, map_location="cpu", weights_only=True)["model_state"]
    return state


# -------------------------------------------------------------------- the network, three times


class TorchEncoder(torch.nn.Module):
    """As `resemblyzer.VoiceEncoder` defines it. The two similarity parameters belong to its training loss."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = torch.nn.LSTM(MELS, WIDTH, LAYERS, batch_first=True)
        self.linear = torch.nn.Linear(WIDTH, WIDTH)
        self.similarity_weight = torch.nn.Parameter(torch.tensor([10.0]))
        self.similarity_bias = torch.nn.Parameter(torch.tensor([-5.0]))

    def forward(self, mels: torch.Tensor) -> torch.Tensor:
        """Embeddings of length one, (batch, width), of spectrograms (batch, frames, mels)."""
        _, (hidden, _) = self.lstm(mels)
        raw = torch.relu(self.linear(hidden[-1]))
        embeddings: torch.Tensor = raw / torch.norm(raw, dim=1, keepdim=True)
        return embeddings


class _LinenStack(nn.Module):
    """LSTM layers one after another, called `l0`, `l1`, ... as the layers of a torch LSTM are."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        for number in range(LAYERS):
            x = nn.RNN(nn.OptimizedLSTMCell(WIDTH, name=f"l{number}"))(x)
        return x


class LinenEncoder(nn.Module):
    """The same network in Flax Linen."""

    @nn.compact
    def __call__(self, mels: Any) -> Any:
        """As `TorchEncoder`."""
        for name, start in (("similarity_weight", 10.0), ("similarity_bias", -5.0)):
            self.param(name, nn.initializers.constant(start), (1,))
        last = _LinenStack(name="lstm")(mels)[:, -1]
        raw = nn.relu(nn.Dense(WIDTH, name="linear")(last))
        return raw / jnp.linalg.norm(raw, axis=1, keepdims=True)


class NnxEncoder(nnx.Module):
    """The same network in Flax NNX."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        sizes = [MELS, *[WIDTH] * (LAYERS - 1)]
        self.lstm = nnx.Dict({f"l{n}": nnx.OptimizedLSTMCell(size, WIDTH, rngs=rngs) for n, size in enumerate(sizes)})
        self.linear = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.similarity_weight, self.similarity_bias = nnx.Param(jnp.array([10.0])), nnx.Param(jnp.array([-5.0]))

    def __call__(self, mels: Any) -> Any:
        """As `TorchEncoder`."""
        x = mels
        for number in range(LAYERS):
            x = nnx.RNN(self.lstm[f"l{number}"], rngs=nnx.Rngs(0))(x)
        raw = nnx.relu(self.linear(x[:, -1]))
        return raw / jnp.linalg.norm(raw, axis=1, keepdims=True)


# -------------------------------------------------------------------- what it hears


def voice(pitch: float, seconds: float = 1.625) -> np.ndarray:
    """A synthetic voice: harmonics of a wavering pitch through three resonances, float32 samples."""
    at = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    phase = 2 * np.pi * pitch * (at + 0.002 * np.sin(2 * np.pi * 5 * at))
    sound: np.ndarray = np.zeros_like(at)
    for number in range(1, int(4000 / pitch)):
        loudness = sum(np.exp(-(((number * pitch - peak) / 150) ** 2)) for peak in (600, 1200, 2500))
        sound += (0.05 + loudness) * np.sin(number * phase) / number
    normal: np.ndarray = (sound / np.abs(sound).max()).astype(np.float32)
    return normal


def spectrogram(sound: np.ndarray) -> np.ndarray:
    """Power in 40 mel bands, every 10 ms over 25 ms: (frames, mels), float32."""
    size, step, bins = 400, 160, 201
    pieces = np.lib.stride_tricks.sliding_window_view(sound, size)[::step][:FRAMES]
    power = np.abs(np.fft.rfft(pieces * np.hanning(size))) ** 2
    highest = 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, highest, MELS + 2) / 2595) - 1)
    hertz = np.linspace(0, SAMPLE_RATE / 2, bins)
    rise = (hertz - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - hertz) / (edges[2:] - edges[1:-1])[:, None]
    bands = np.maximum(0, np.minimum(rise, fall)) * (2 / (edges[2:] - edges[:-2]))[:, None]
    mels: np.ndarray = (power @ bands.T).astype(np.float32)
    return mels


# -------------------------------------------------------------------- there and back


def linen_registry(mels: np.ndarray) -> sr.StateRegistry:
    """The variables that the Linen module wants, without values."""
    module = LinenEncoder()
    return sr.of(jax.eval_shape(module.init, jax.random.key(0), mels), module=module, args=(mels,))


def compare(name: str, found: np.ndarray, expected: np.ndarray) -> None:
    """Print how far two arrays are apart.

    Raises:
        SystemExit: by more than 1e-5 of their scale.
    """
    apart = float(np.abs(found - expected).max() / np.abs(expected).max())
    print(f"{name}: embeddings differ by {apart:.1e} of their scale")
    if not apart <= TOLERANCE:
        raise SystemExit(f"{name}: more than {TOLERANCE}")


def main() -> None:
    """Convert, compare, come back."""
    mels = np.stack([spectrogram(voice(pitch)) for pitch in (110.0, 220.0)])
    model, state = TorchEncoder().eval(), weights()
    model.load_state_dict(state)  # strict: every name and every shape
    with torch.no_grad():
        expected = model(torch.from_numpy(mels)).numpy()

    linen = sr.convert(model, linen_registry(mels), allow=("choice",))
    compare("Linen", np.asarray(LinenEncoder().apply(linen.target, mels)), expected)
    live = sr.convert(model, NnxEncoder(nnx.Rngs(0)), allow=("choice",))
    compare("NNX", np.asarray(live.target(mels)), expected)

    there = {"Linen": (sr.of(linen.target, module=LinenEncoder(), args=(mels,)), linen), "NNX": (live.target, live)}
    for name, (source, done) in there.items():
        back = sr.convert(source, TorchEncoder(), residual=done.residual).target.state_dict()
        wrong = [key for key in state if back[key].numpy().tobytes() != state[key].numpy().tobytes()]
        print(f"{name} and back: {len(state) - len(wrong)} of {len(state)} entries have the same bytes")
        if wrong or back.keys() != state.keys():
            raise SystemExit(f"{name}: changed on the way: {wrong[:5]}")


if __name__ == "__main__":
    main()
