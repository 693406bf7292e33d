"""The three networks of MTCNN, a face detector, in PyTorch, Flax Linen and Flax NNX, with their published weights.

`python examples/facenet.py` converts each of P-, R- and O-net and compares what they say of an image. The package
`facenet-pytorch` is installed without its dependencies: only the checkpoints in it are used, the networks are here.

These networks have a PReLU with a slope for each channel. Flax's own PReLU has one slope and refuses a vector, so a
conversion into it is refused by name. A PReLU of one's own, registered with one line, has the place.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

import stateregistry as sr
import stateregistry_flax
from stateregistry.layers.vocabulary import Piece

TOLERANCE = 1e-5


@dataclass(frozen=True)
class Stage:
    """A convolution with its PReLU, and the pooling after it: window and stride, 0 for none."""

    features: int
    kernel: int
    pool: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Net:
    """One of the three networks.

    Attributes:
        size: of the images it looks at. stages: its convolutions.
        dense: features of the linear layer after the flatten, 0 for none.
        heads: outputs, by name; the first is a probability over its features.
    """

    size: int
    stages: tuple[Stage, ...]
    dense: int
    heads: tuple[tuple[str, int], ...]

    @property
    def last(self) -> int:
        """The number of the last hidden layer."""
        return len(self.stages) + bool(self.dense)


NETS = {
    "pnet": Net(24, (Stage(10, 3, (2, 2)), Stage(16, 3), Stage(32, 3)), 0, (("conv4_1", 2), ("conv4_2", 4))),
    "rnet": Net(
        24, (Stage(28, 3, (3, 2)), Stage(48, 3, (3, 2)), Stage(64, 2)), 128, (("dense5_1", 2), ("dense5_2", 4))
    ),
    "onet": Net(
        48, (Stage(32, 3, (3, 2)), Stage(64, 3, (3, 2)), Stage(64, 3, (2, 2)), Stage(128, 2)), 256,
        (("dense6_1", 2), ("dense6_2", 4), ("dense6_3", 10)),
    ),
}  # fmt: skip


def weights(name: str) -> dict[str, torch.Tensor]:
    """The published `state_dict` of `pnet`, `rnet` or `onet`, from a file older than the zip format of torch."""
    try:
        package = importlib.metadata.distribution("facenet-pytorch")
    except importlib.metadata.PackageNotFoundError as error:
        message = "the example needs the weights in facenet-pytorch: pip install --no-deps facenet-pytorch"
        raise SystemExit(message) from error
    file = Path(str(package.locate_file(f"facenet_pytorch/data/{name}.pt")))
    state: dict[str, torch.Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    return state


# -------------------------------------------------------------------- PyTorch


class TorchNet(torch.nn.Module):
    """As `facenet_pytorch` defines it."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net, channels = net, 3
        for number, stage in enumerate(net.stages, 1):
            self.add_module(f"conv{number}", torch.nn.Conv2d(channels, stage.features, stage.kernel))
            self.add_module(f"prelu{number}", torch.nn.PReLU(stage.features))
            channels = stage.features
        if net.dense:
            side = _side(net)
            self.add_module(f"dense{net.last}", torch.nn.Linear(channels * side * side, net.dense))
            self.add_module(f"prelu{net.last}", torch.nn.PReLU(net.dense))
        for name, features in net.heads:
            made = torch.nn.Linear(net.dense, features) if net.dense else torch.nn.Conv2d(channels, features, 1)
            self.add_module(name, made)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The heads for images with channels first."""
        for number, stage in enumerate(self.net.stages, 1):
            x = self.get_submodule(f"prelu{number}")(self.get_submodule(f"conv{number}")(x))
            if stage.pool[0]:
                x = torch.nn.functional.max_pool2d(x, *stage.pool, ceil_mode=True)
        if self.net.dense:
            x = x.permute(0, 3, 2, 1).flatten(1)  # width, height, channels
            x = self.get_submodule(f"prelu{self.net.last}")(self.get_submodule(f"dense{self.net.last}")(x))
        first, *others = (self.get_submodule(name)(x) for name, _ in self.net.heads)
        return [torch.softmax(first, 1), *others]


def _side(net: Net) -> int:
    """How many places an axis has after all stages."""
    side = net.size
    for stage in net.stages:
        side -= stage.kernel - 1
        if stage.pool[0]:
            window, stride = stage.pool
            side = -(-(side - window) // stride) + 1
    return side


# -------------------------------------------------------------------- Flax


def flow(net: Net, layer: Callable[[str, Any], Any], x: Any) -> list[Any]:
    """What both Flax networks compute, channels last; `layer` applies the layer of a name."""
    for number, stage in enumerate(net.stages, 1):
        x = layer(f"prelu{number}", layer(f"conv{number}", x))
        if stage.pool[0]:
            x = pooled(x, *stage.pool)
    if net.dense:
        x = x.transpose(0, 2, 1, 3).reshape(x.shape[0], -1)  # width, height, channels, as the kernel wants them
        x = layer(f"prelu{net.last}", layer(f"dense{net.last}", x))
    first, *others = (layer(name, x) for name, _ in net.heads)
    return [jax.nn.softmax(first, -1), *others]


def pooled(x: Any, window: int, stride: int) -> Any:
    """Max pooling whose last window may reach over the edge: torch's `ceil_mode`."""
    over = [-(x.shape[axis] - window) % stride for axis in (1, 2)]
    return nn.max_pool(x, (window, window), (stride, stride), tuple((0, places) for places in over))


class VectorPReLU(nn.Module):
    """A slope for each channel."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """`x`, times its slope where it is negative."""
        slopes = self.param("slopes", nn.initializers.constant(0.25), (x.shape[-1],))
        return jnp.where(x >= 0, x, slopes * x)


class LinenNet(nn.Module):
    """The same network in Flax Linen; `prelu` is the type of its activations."""

    net: Net
    prelu: type[nn.Module] = VectorPReLU

    @nn.compact
    def __call__(self, x: Any) -> list[Any]:
        """The heads for images with channels last."""
        stages = {f"conv{number}": stage for number, stage in enumerate(self.net.stages, 1)}
        heads = dict(self.net.heads)

        def layer(name: str, x: Any) -> Any:
            if name.startswith("prelu"):
                return self.prelu(name=name)(x)
            if name in stages:
                size = (stages[name].kernel,) * 2
                return nn.Conv(stages[name].features, size, padding="VALID", name=name)(x)
            if name in heads and not self.net.dense:
                return nn.Conv(heads[name], (1, 1), name=name)(x)
            return nn.Dense(heads.get(name, self.net.dense), name=name)(x)

        return flow(self.net, layer, x)


class NnxVectorPReLU(nnx.Module):
    """A slope for each channel."""

    def __init__(self, features: int) -> None:
        self.slopes = nnx.Param(jnp.full(features, 0.25))

    def __call__(self, x: Any) -> Any:
        """`x`, times its slope where it is negative."""
        return jnp.where(x >= 0, x, self.slopes[...] * x)


class NnxNet(nnx.Module):
    """The same network in Flax NNX."""

    def __init__(self, net: Net, rngs: nnx.Rngs) -> None:
        self.net, channels = nnx.static(net), 3
        for number, stage in enumerate(net.stages, 1):
            conv = nnx.Conv(channels, stage.features, (stage.kernel,) * 2, padding="VALID", rngs=rngs)
            setattr(self, f"conv{number}", conv)
            setattr(self, f"prelu{number}", NnxVectorPReLU(stage.features))
            channels = stage.features
        if net.dense:
            setattr(self, f"dense{net.last}", nnx.Linear(channels * _side(net) ** 2, net.dense, rngs=rngs))
            setattr(self, f"prelu{net.last}", NnxVectorPReLU(net.dense))
        for name, features in net.heads:
            made = (
                nnx.Linear(net.dense, features, rngs=rngs)
                if net.dense
                else nnx.Conv(channels, features, (1, 1), rngs=rngs)
            )
            setattr(self, name, made)

    def __call__(self, x: Any) -> list[Any]:
        """The heads for images with channels last."""
        return flow(self.net, lambda name, x: getattr(self, name)(x), x)


def rules(net: Net) -> dict[str, Any]:
    """What no plan can see: the flatten before the linear layer goes over the same axes in the same order on both sides."""
    side = _side(net)
    order = {"source": f"dense{net.last}", "axis": "in", "source_axes": f"w={side} h={side} c", "target_axes": "w h c"}
    return {"order": [order]} if net.dense else {}


def register() -> None:
    """Say what the two activations are: a PReLU whose slopes lie on the features."""
    slopes = sr.Layer("prelu", "", (Piece("slopes", "slopes", "features"),))
    for native in (VectorPReLU, NnxVectorPReLU):
        stateregistry_flax.register_layer(native, lambda _: slopes)


# -------------------------------------------------------------------- there and back


def image(size: int) -> np.ndarray:
    """Two images with edges and noise, (2, size, size, 3) from -1 to 1 as MTCNN wants them."""
    draw = np.random.default_rng(0)
    across = np.linspace(-1, 1, size)
    round_ = (across[:, None] ** 2 + across[None, :] ** 2 < 0.5)[..., None]
    return np.stack(
        [np.where(round_, tone, -tone) + draw.normal(0, 0.1, (size, size, 3)) for tone in (0.4, 0.8)]
    ).astype(np.float32)


def linen_registry(net: Net, x: np.ndarray, prelu: type[nn.Module] = VectorPReLU) -> sr.StateRegistry:
    """The variables that a Linen network wants, without values."""
    module = LinenNet(net, prelu)
    return sr.of(jax.eval_shape(module.init, jax.random.key(0), x), module=module, args=(x,))


def torch_outputs(model: TorchNet, x: np.ndarray) -> list[np.ndarray]:
    """The heads of the torch network, channels last."""
    with torch.no_grad():
        return [np.moveaxis(head.numpy(), 1, -1) for head in model(torch.from_numpy(np.moveaxis(x, -1, 1).copy()))]


def apart(found: Sequence[Any], expected: Sequence[np.ndarray]) -> float:
    """The largest difference of any head, as a part of the scale of that head."""
    pairs = zip(found, expected, strict=True)
    return max(float(np.abs(np.asarray(one) - two).max() / np.abs(two).max()) for one, two in pairs)


def main() -> None:
    """Show the refusal, register, convert, compare, come back."""
    register()
    for name, net in NETS.items():
        state, x = weights(name), image(net.size)
        model = TorchNet(net).eval()
        model.load_state_dict(state)  # strict: every name and every shape
        expected = torch_outputs(model, x)

        refused = sr.plan(model, linen_registry(net, x, nn.PReLU), allow=("missing",))
        reasons = sorted({problem.text for problem in refused.problems if problem.problem == "impossible"})
        print(f"{name} into Flax's own PReLU: refused: {'; '.join(reasons)}")
        if refused.ok or not reasons:
            raise SystemExit("a vector of slopes has no place there")

        linen = sr.convert(model, linen_registry(net, x), rules=rules(net))
        live = sr.convert(model, NnxNet(net, nnx.Rngs(0)), rules=rules(net))
        outputs = {"Linen": LinenNet(net).apply(linen.target, x), "NNX": live.target(x)}
        there = {"Linen": sr.of(linen.target, module=LinenNet(net), args=(x,)), "NNX": live.target}
        for framework, found in outputs.items():
            back = sr.convert(there[framework], TorchNet(net), rules=rules(net)).target.state_dict()
            same = [key for key in state if back[key].numpy().tobytes() == state[key].numpy().tobytes()]
            gap = apart(found, expected)
            print(
                f"{name} into {framework}: outputs differ by {gap:.1e} of their scale,"
                f" {len(same)} of {len(state)} entries come back with the same bytes"
            )
            if not gap <= TOLERANCE or len(same) != len(state):
                raise SystemExit(f"{name} into {framework} is not the same network")


if __name__ == "__main__":
    main()
