"""Standard layers of the reference model: linear, convolution, embedding, batch and layer normalisation.

They compute in plain NumPy, slowly and readably; what they are made of is said by the dialect. Training is the business of
nobody here: batch normalisation uses its statistics as they are. Imports NumPy and the core.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias

import numpy as np

from stateregistry import errors
from stateregistry.entry import dtype_name
from stateregistry.layers.config import contradiction
from stateregistry.layers.vocabulary import ESSENTIAL, Config, Layer
from stateregistry_numpy.cells import Buffer, Cell, Parameter
from stateregistry_numpy.dialect import DIALECT
from stateregistry_numpy.module import Module

if TYPE_CHECKING:
    from collections.abc import Mapping

#: What new layers draw their first values from: a generator, or a seed for one.
Source: TypeAlias = "np.random.Generator | int"


class StandardLayer(Module):
    """A module that is one standard layer of the vocabulary.

    Attributes:
        kind: the layer kind.
        config: what the function depends on beside the state.
    """

    kind: ClassVar[str]
    #: Names of the config values of the kind, with what they are where nobody says.
    defaults: ClassVar[Mapping[str, Any]] = {}

    config: dict[str, Any]

    @classmethod
    def bare(cls, config: Config) -> Self:
        """A layer without members, which the caller registers under the names of the dialect."""
        layer = cls.__new__(cls)
        Module.__init__(layer)
        layer.config = {name: config.get(name, default) for name, default in cls.defaults.items()}
        return layer

    def of_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> Config:
        """What the shapes of the members, by name, say of the config."""
        del shapes
        return {}

    def _value(self, name: str) -> np.ndarray | None:
        cell = self.members.get(name)
        return cell.array if isinstance(cell, Cell) else None

    def _needed(self, name: str) -> np.ndarray:
        value = self._value(name)
        if value is None:
            message = f"{self!r} has no {name!r} to compute with"
            raise errors.UnsupportedError(message, keys=(name,))
        return value


class Linear(StandardLayer):
    """`x @ matrix.T + bias`; the matrix is `(outputs, inputs)`."""

    kind = "linear"

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True, rng: Source = 0) -> None:
        super().__init__()
        self.config = {}
        self.matrix = Parameter(_spread(rng, (outputs, inputs), inputs))
        self.register_parameter("bias", np.zeros(outputs, np.float32) if bias else None)

    def forward(self, *inputs: Any) -> np.ndarray:
        """Map the last axis."""
        (x,) = inputs
        result: np.ndarray = x @ self._needed("matrix").T
        bias = self._value("bias")
        return result if bias is None else result + bias


class Conv(StandardLayer):
    """Cross-correlation of `(batch, channels, *spatial)` with filters `(outputs, inputs / groups, *spatial)`.

    Args:
        size: of the window, one number per spatial axis.
        stride, padding: the same for all spatial axes; padding is with zeros.
    """

    kind = "conv"
    defaults: ClassVar[Mapping[str, Any]] = {
        "groups": 1, "stride": 1, "padding": 0, "dilation": 1, "padding_mode": "zeros"
    }  # fmt: skip

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: tuple[int, ...],
        *,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        bias: bool = True,
        rng: Source = 0,
    ) -> None:
        super().__init__()
        if inputs % groups or outputs % groups:
            message = f"{inputs} inputs and {outputs} outputs do not divide into {groups} groups"
            raise errors.UnsupportedError(message)
        self.config = {**self.defaults, "groups": groups, "stride": stride, "padding": padding}
        shape = (outputs, inputs // groups, *size)
        self.filters = Parameter(_spread(rng, shape, math.prod(shape[1:])))
        self.register_parameter("bias", np.zeros(outputs, np.float32) if bias else None)

    def of_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> Config:
        """The size of the window."""
        return {"kernel_size": shapes["filters"][2:]}

    def forward(self, *inputs: Any) -> np.ndarray:
        """Slide the filters over all spatial axes."""
        (x,) = inputs
        filters, bias = self._needed("filters"), self._value("bias")
        axes = tuple(range(2, filters.ndim))
        stride, padding, groups = (_number(self.config[name]) for name in ("stride", "padding", "groups"))
        if _number(self.config["dilation"]) != 1 or self.config["padding_mode"] != "zeros":
            message = (
                f"the reference convolution has no dilation and pads with zeros, not dilation {self.config['dilation']!r}"
                f" and {self.config['padding_mode']!r}"
            )
            raise errors.UnsupportedError(message)
        x = np.pad(x, [(0, 0), (0, 0), *((padding, padding) for _ in axes)])
        windows = np.lib.stride_tricks.sliding_window_view(x, filters.shape[2:], axis=axes)
        windows = windows[(slice(None), slice(None), *(slice(None, None, stride) for _ in axes))]
        step, out = filters.shape[1], filters.shape[0] // groups
        inner = (1, *range(windows.ndim - len(axes), windows.ndim))
        parts = [
            np.tensordot(
                windows[:, group * step : (group + 1) * step],
                filters[group * out : (group + 1) * out],
                (inner, tuple(range(1, filters.ndim))),
            )
            for group in range(groups)
        ]
        result: np.ndarray = np.moveaxis(np.concatenate(parts, axis=-1), -1, 1)
        return result if bias is None else result + bias.reshape(-1, *(1 for _ in axes))


class Embedding(StandardLayer):
    """Rows of a table `(vocabulary, features)` by number."""

    kind = "embedding"
    defaults: ClassVar[Mapping[str, Any]] = {"mode": "none"}

    def __init__(self, vocabulary: int, features: int, *, rng: Source = 0) -> None:
        super().__init__()
        self.config = dict(self.defaults)
        self.table = Parameter(_spread(rng, (vocabulary, features), features))

    def forward(self, *inputs: Any) -> np.ndarray:
        """Look integers up."""
        (x,) = inputs
        if self.config["mode"] != "none":
            message = f"the reference embedding does not reduce, not by {self.config['mode']!r} either"
            raise errors.UnsupportedError(message)
        rows: np.ndarray = self._needed("table")[x]
        return rows


class BatchNorm(StandardLayer):
    """Normalise axis 1 by the statistics that the layer holds: `gain * (x - mean) / sqrt(variance + eps) + bias`."""

    kind = "batch_norm"
    defaults: ClassVar[Mapping[str, Any]] = {"eps": 1e-5}

    def __init__(self, features: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.config = {"eps": eps}
        self.gain = Parameter(np.ones(features, np.float32))
        self.bias = Parameter(np.zeros(features, np.float32))
        self.mean = Buffer(np.zeros(features, np.float32))
        self.variance = Buffer(np.ones(features, np.float32))
        self.count = Buffer(np.zeros((), np.int64))

    def forward(self, *inputs: Any) -> np.ndarray:
        """Normalise with the running statistics."""
        (x,) = inputs
        shape = (1, -1, *(1 for _ in range(x.ndim - 2)))
        mean, variance = (self._needed(name).reshape(shape) for name in ("mean", "variance"))
        result: np.ndarray = (x - mean) / np.sqrt(variance + np.float32(self.config["eps"]))
        gain, bias = self._value("gain"), self._value("bias")
        result = result if gain is None else result * gain.reshape(shape)
        return result if bias is None else result + bias.reshape(shape)


class LayerNorm(StandardLayer):
    """Normalise the last axes by their own mean and variance: `gain * (x - mean) / sqrt(variance + eps) + bias`."""

    kind = "layer_norm"
    defaults: ClassVar[Mapping[str, Any]] = {"eps": 1e-5}

    def __init__(self, *features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.config = {"eps": eps}
        self.gain = Parameter(np.ones(features, np.float32))
        self.bias = Parameter(np.zeros(features, np.float32))

    def of_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> Config:
        """All axes of the features are normalised."""
        return {"normalized_axes": len(shapes["gain"])}

    def forward(self, *inputs: Any) -> np.ndarray:
        """Normalise every position on its own."""
        (x,) = inputs
        gain, bias = self._needed("gain"), self._value("bias")
        axes = tuple(range(x.ndim - gain.ndim, x.ndim))
        centred = x - x.mean(axes, keepdims=True)
        variance = (centred * centred).mean(axes, keepdims=True)
        result: np.ndarray = centred / np.sqrt(variance + np.float32(self.config["eps"])) * gain
        return result if bias is None else result + bias


class ReLU(Module):
    """`max(x, 0)`: a model without state."""

    def forward(self, *inputs: Any) -> np.ndarray:
        """Cut off what is negative."""
        (x,) = inputs
        result: np.ndarray = np.maximum(x, x.dtype.type(0))
        return result


CLASSES: Mapping[str, type[StandardLayer]] = {cls.kind: cls for cls in (Linear, Conv, Embedding, BatchNorm, LayerNorm)}


def layer_of(module: Module, path: str) -> Layer | None:
    """The standard layer that a module is, with the pieces that it has; `None` for any other module.

    A subclass counts as its base as long as it leaves `forward` alone.
    """
    if not isinstance(module, StandardLayer) or type(module).forward is not CLASSES[module.kind].forward:
        return None
    row = DIALECT.declaration(module.kind)
    assert row is not None  # every class has its row
    members = module.members
    cells = {name: cell for name, cell in members.items() if isinstance(cell, Cell)}
    pieces = tuple(p for p in row.pieces if p.name in cells and dtype_name(cells[p.name].dtype) is not None)
    if not set(ESSENTIAL[module.kind]) <= {piece.role for piece in pieces}:
        return None
    shapes = {piece.name: cells[piece.name].shape for piece in pieces}
    layer = Layer(
        module.kind, path, pieces, type=type(module).__name__, config={**module.config, **module.of_shapes(shapes)}
    )
    wrong = contradiction(layer, shapes)
    if wrong:
        message = f"{path or '(the model)'} ({type(module).__name__}): the config contradicts the state: {wrong}"
        hint = "one of the two was changed after the layer was made: make it anew with the config that its arrays have"
        raise errors.AxesError(message, keys=tuple(layer.key(piece) for piece in pieces), hint=hint)
    return layer


def _spread(source: Source, shape: tuple[int, ...], inputs: int) -> np.ndarray:
    bound = 1 / math.sqrt(max(inputs, 1))
    return np.random.default_rng(source).uniform(-bound, bound, shape).astype(np.float32)


def _number(value: Any) -> int:
    """A config value that is one number for all axes, also where another framework says it once per axis."""
    if isinstance(value, tuple) and len(set(value)) == 1:
        value = value[0]
    if not isinstance(value, int):
        message = f"the reference convolution has one number for all axes, not {value!r}"
        raise errors.UnsupportedError(message)
    return value
