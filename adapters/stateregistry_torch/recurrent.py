"""Recurrent layers: `nn.LSTM`, `nn.GRU`, `nn.RNN` as one layer for each layer and direction, and their cells.

A stack is several layers whose entries all hang under the module: `encoder/l0`, `encoder/l0_reverse`, `encoder/l1`, ...;
with one layer in one direction it is `encoder` itself. Imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from torch import nn

from stateregistry.layers.vocabulary import Config, Lack, Layer
from stateregistry_torch.dialect import recurrent_pieces

_MODES: Final = {"LSTM": "lstm", "GRU": "gru", "RNN_TANH": "rnn", "RNN_RELU": "rnn"}

#: Said by what was made with `bias=False`: frameworks whose cells always have biases hold zeros there.
_NO_BIAS: Final = Lack(
    ("*input_bias", "*recurrent_bias"), "this layer of torch was made with bias=False: it adds nothing", zero=True
)


def stack(module: Any) -> Iterator[Layer]:
    """The layers of an `nn.LSTM`, `nn.GRU` or `nn.RNN`, in the order in which they are declared.

    `dropout` is that of a layer's output: the last layer has none, whatever the module says.
    """
    kind, count = _MODES[module.mode], int(module.num_layers)
    directions = ("", "_reverse") if module.bidirectional else ("",)
    for number in range(count):
        for direction in directions:
            place = f"l{number}{direction}"
            config: dict[str, Any] = {"reverse": bool(direction)}
            config["dropout"] = float(module.dropout) if number < count - 1 else 0.0
            config |= _functions(kind, module.mode.removeprefix("RNN_").lower())
            alone = count * len(directions) == 1
            pieces, lacks = recurrent_pieces(kind, f"_{place}"), _lacks(module)
            yield Layer(kind, "" if alone else place, pieces, config=config, lacks=lacks)


def cell(module: Any) -> Layer:
    """The layer that a cell is: one step of a recurrent layer, with the names of no layer and no direction."""
    kind = "lstm" if isinstance(module, nn.LSTMCell) else "gru" if isinstance(module, nn.GRUCell) else "rnn"
    config = _functions(kind, str(module.nonlinearity) if kind == "rnn" else "")
    return Layer(kind, "", recurrent_pieces(kind), config=config, lacks=_lacks(module))


def _lacks(module: Any) -> tuple[Lack, ...]:
    return () if module.bias else (_NO_BIAS,)


def _functions(kind: str, nonlinearity: str) -> Config:
    """What a layer computes with: torch has a choice for the kind without gates alone, and never adds a residual."""
    if kind == "rnn":
        return {"activation": nonlinearity, "residual": False}
    return {"activation": "tanh", "gate_activation": "sigmoid"}
