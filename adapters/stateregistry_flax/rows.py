"""Rows: what the tables of layer types of Linen and NNX have in common.

A `Row` says for one native type which layer kind it is and how its config is read. A module of a subclass that
overrides `__call__` is not taken for its parent, and pieces whose kind, rank or sizes contradict the declaration
(stacked by a transform, replaced by hand) make no layer: their entries stand alone. Imports neither JAX nor Flax.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from stateregistry import errors
from stateregistry.entry import Entry
from stateregistry.layers import axes
from stateregistry.layers.vocabulary import ESSENTIAL, Config, Dialect, Layer


@final
@dataclass(frozen=True, slots=True)
class Row:
    """The layer kind of a native type, and how a module of it tells its config.

    Attributes:
        kind: the layer kind.
        config: the config of a module.
        family: how many axes the starred axis of the declaration (`*spatial`) stands for in a module.
    """

    kind: str
    config: Callable[[Any], Config]
    family: Callable[[Any], int] = lambda _: 0


@final
@dataclass(frozen=True, slots=True)
class Sight:
    """A module that is a standard layer: its native type, kind, config and number of starred axes."""

    native: str
    kind: str
    config: Config
    family: int


def sight(module: object, rows: Mapping[type[Any], Row]) -> Sight | None:
    """What kind of layer a module is; `None` where it is no standard layer."""
    native = type(module)
    parent = next((parent for parent in native.__mro__ if parent in rows), None)
    if parent is None or native.__call__ is not parent.__call__:
        return None
    row = rows[parent]
    return Sight(native.__name__, row.kind, row.config(module), row.family(module))


def layer(dialect: Dialect, seen: Sight, path: str, entries: Mapping[str, Entry]) -> Layer | None:
    """The layer at a path, of the pieces that are there; `None` where they do not fit the declaration."""
    declaration = dialect.declaration(seen.kind)
    prefix = f"{path}/" if path else ""
    pieces = tuple(piece for piece in (declaration.pieces if declaration else ()) if f"{prefix}{piece.name}" in entries)
    if not set(ESSENTIAL[seen.kind]) <= {piece.role for piece in pieces}:
        return None
    sizes: dict[str, int] = {}
    for piece in pieces:
        entry = entries[f"{prefix}{piece.name}"]
        if entry.kind is not piece.kind or len(entry.shape) != _rank(piece.axes, seen.family):
            return None
        try:
            sizes |= axes.bind(piece.axes, entry.shape, sizes).sizes
        except errors.AxesError:
            return None
    return Layer(seen.kind, path, pieces, type=seen.native, config=seen.config)


def _rank(pattern: str, family: int) -> int:
    """The rank of a piece. A starred axis alone takes any: a stacked kernel would pass for one more dimension."""
    words = pattern.split()
    return sum(family if word.startswith("*") else 1 for word in words)


def _per_axis(value: Any, rank: int) -> tuple[int, ...]:
    if value is None:
        return (1,) * rank
    if isinstance(value, Sequence):
        return tuple(int(size) for size in value)
    return (int(value),) * rank


def _kernel_size(module: Any) -> tuple[int, ...]:
    size = module.kernel_size
    return (int(size),) if isinstance(size, int) else tuple(int(axis) for axis in size)


def conv_config(module: Any) -> Config:
    """The config of a convolution; Linen and NNX name its fields alike. `padding`: a name, or low and high per axis."""
    kernel = _kernel_size(module)
    rank = len(kernel)
    padding = module.padding
    if isinstance(padding, int):
        padding = (padding,) * rank
    if not isinstance(padding, str):
        pairs = [(side, side) if isinstance(side, int) else tuple(side) for side in padding]
        padding = tuple(int(side) for pair in (pairs * rank if len(pairs) == 1 < rank else pairs) for side in pair)
    return {
        "groups": int(module.feature_group_count),
        "kernel_size": kernel,
        "strides": _per_axis(module.strides, rank),
        "dilation": _per_axis(module.kernel_dilation, rank),
        "padding": padding,
    }


def _feature_rank(module: Any) -> int:
    features = module.feature_axes
    return 1 if isinstance(features, int) else len(features)


def table(linear: Any, conv: Any, batch_norm: Any, layer_norm: Any, embed: Any) -> Mapping[type[Any], Row]:
    """The rows of the layer types that Linen and NNX have alike."""
    return {
        linear: Row("linear", lambda _: {}),
        conv: Row("conv", conv_config, lambda m: len(_kernel_size(m))),
        batch_norm: Row("batch_norm", lambda m: {"eps": float(m.epsilon), "momentum": float(m.momentum)}),
        layer_norm: Row("layer_norm", lambda m: {"eps": float(m.epsilon)}, _feature_rank),
        embed: Row("embedding", lambda _: {}),
    }
