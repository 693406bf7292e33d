"""Recurrent cells: each is one layer, of one direction. What runs them (`RNN`, `Bidirectional`) is none.

The dense layers inside a cell are pieces of it. Flax has one bias where torch has two: the role is their sum. NNX holds
all gates of its optimised LSTM and of its GRU in one array. Imports the core, neither JAX nor Flax.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from stateregistry.layers.axes import native_shape
from stateregistry.layers.vocabulary import Config, Lack, Layer, Piece
from stateregistry_flax.dialect import NO_SECOND_BIAS, Spelling
from stateregistry_flax.standard import Shapes

#: Activations by what they are called in the spec.
Names = Mapping[Callable[..., Any], str]


def _named(function: Any, names: Names) -> str:
    known = names.get(function)
    return known if known is not None else f"{function.__module__}.{getattr(function, '__qualname__', function)}"


def gated(kind: str, pieces: tuple[Piece, ...], names: Names, *lacks: Lack) -> Callable[[Any], Layer]:
    """A cell with gates: `lstm` or `gru`."""

    def build(module: Any) -> Layer:
        config: Config = {
            "activation": _named(module.activation_fn, names),
            "gate_activation": _named(module.gate_fn, names),
            "dropout": 0.0,
        }
        return Layer(kind, "", pieces, config=config, lacks=lacks)

    return build


def simple(pieces: tuple[Piece, ...], names: Names) -> Callable[[Any], Layer]:
    """The cell without gates."""

    def build(module: Any) -> Layer:
        config: Config = {
            "activation": _named(module.activation_fn, names),
            "residual": bool(module.residual),
            "dropout": 0.0,
        }
        return Layer("rnn", "", pieces, config=config)

    return build


def fused_gru(spelling: Spelling, names: Names) -> Callable[[Any], Layer]:
    """`nnx.GRUCell`, which has no second bias for gate n."""
    return gated("gru", spelling.fused_gru, names, NO_SECOND_BIAS)


def directed(layer: Layer, *, reverse: bool, keep_order: bool) -> Layer:
    """A recurrent layer with the direction in which an `RNN` runs it; any other layer as it is.

    `keep_order` is said where outputs do not stay at the place of their input, which is not the formula of the kind.
    """
    if layer.kind not in ("lstm", "gru", "rnn"):
        return layer
    order = {"keep_order": False} if reverse and not keep_order else {}
    return replace(layer, config={**layer.config, "reverse": reverse, **order})


def shapes(pieces: tuple[Piece, ...]) -> Callable[[Any], Shapes]:
    """What the config of a cell of NNX says of its shapes."""

    def of(module: Any) -> Shapes:
        sizes = {"in": int(module.in_features), "hidden": int(module.hidden_features)}
        sizes["state"] = sizes["hidden"]
        return {piece.name: native_shape(piece.axes, sizes) for piece in pieces}

    return of
