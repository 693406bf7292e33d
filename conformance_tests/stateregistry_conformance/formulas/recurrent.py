"""The formulas of the recurrent layers: one layer, one direction. More layers and directions are compositions of these.

Sequences are `(*batch, time, features)`, states `(*batch, state)`. The order of gates in a fused array is a matter of the
declaration: here every gate is a role. The convention for GRU is that of cuDNN: the reset gate multiplies *after* the
recurrent product. Pure float64, one step at a time. Imports NumPy.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from stateregistry_conformance.formulas.given import Given


def _sigmoid(x: np.ndarray) -> np.ndarray:
    """`1 / (1 + exp(-x))`, without overflow: the same number as `(1 + tanh(x / 2)) / 2`."""
    halved: np.ndarray = 0.5 * (1.0 + np.tanh(0.5 * x))
    return halved


def _tanh(x: np.ndarray) -> np.ndarray:
    result: np.ndarray = np.tanh(x)
    return result


def _relu(x: np.ndarray) -> np.ndarray:
    result: np.ndarray = np.maximum(x, 0.0)
    return result


#: Activations by the name that the config has for them.
ACTIVATIONS: Final[Mapping[str, Callable[[np.ndarray], np.ndarray]]] = MappingProxyType(
    {"sigmoid": _sigmoid, "tanh": _tanh, "relu": _relu}
)


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Gate:
    """Kernels `(hidden, in)` and `(hidden, state)` of one gate and the sum of its biases."""

    input_kernel: np.ndarray
    recurrent_kernel: np.ndarray
    bias: np.ndarray

    def __call__(self, x: np.ndarray, h: np.ndarray) -> np.ndarray:
        before: np.ndarray = x @ self.input_kernel.T + h @ self.recurrent_kernel.T + self.bias
        return before


def lstm(given: Given) -> tuple[np.ndarray, ...]:
    """`c' = f * c + i * g`, `h' = o * tanh(c')`; with a projection, `h' = projection_kernel (o * tanh(c'))`.

    `i = sigmoid(I_i x + b_i + R_i h + d_i)`, `f` and `o` likewise, and `g = tanh(I_g x + b_g + R_g h + d_g)`, where `I` is the
    input kernel of a gate, `R` its recurrent kernel, `b` and `d` their biases. Only the sum `b + d` matters.

    Args:
        given: for every gate of `i f g o` the roles `*_input_kernel` (`hidden in`), `*_recurrent_kernel` (`hidden state`) and,
            optional, `*_input_bias`, `*_recurrent_bias` (`hidden`), or their sum `*_input_bias+*_recurrent_bias`; optional
            `projection_kernel` (`state hidden`). Inputs: `(*batch, time, in)`; optional `h` `(*batch, state)` and `c`
            `(*batch, hidden)`, zero where they are not given.
            Only the function depends on `reverse` (the last step first; outputs stay at the place of their input),
            `activation` and `gate_activation`.

    Returns:
        The outputs `(*batch, time, state)`, the last `h` and the last `c`.

    Raises:
        AxesError: sizes or axes disagree.
        UnsupportedError: a role is missing, or a config value is none.
    """
    squash, gate = _activation(given, "activation", "tanh"), _activation(given, "gate_activation", "sigmoid")
    gates = {name: _gate(given, f"{name}_") for name in "ifgo"}
    features, hidden, state = _sizes(given, gates)
    projection = given.may("projection_kernel", "state", "hidden")
    if projection is None:
        given.same("the size of the state", state, hidden)
    else:
        given.same("the shape of projection_kernel", projection.shape, (state, hidden))
    x, (h, c) = _sequence(given, features, (state, hidden))
    outputs = np.zeros((*x.shape[:-1], state))
    for step in _steps(given, x.shape[-2]):
        now = x[..., step, :]
        i, f, o = (gate(gates[name](now, h)) for name in "ifo")
        c = f * c + i * squash(gates["g"](now, h))
        h = o * squash(c)
        if projection is not None:
            h = h @ projection.T
        outputs[..., step, :] = h
    return outputs, h, c


def gru(given: Given) -> tuple[np.ndarray, ...]:
    """`h' = (1 - z) * n + z * h`, with `n = tanh(I_n x + b_n + r * (R_n h + d_n))`.

    `r = sigmoid(I_r x + b_r + R_r h + d_r)` and `z` likewise, with kernels and biases named as in `lstm`. For `r` and `z` only
    the sum of the two biases matters; for `n` each matters by itself, because `r` multiplies `d_n`.

    Args:
        given: roles, inputs and config as `lstm`, with the gates `r z n`, without `c` and projection; the biases of `n` cannot
            be given as their sum.

    Returns:
        The outputs `(*batch, time, state)` and the last `h`.

    Raises:
        AxesError: sizes or axes disagree.
        UnsupportedError: a role is missing, a config value is none, or the biases of `n` are given as their sum.
    """
    squash, gate = _activation(given, "activation", "tanh"), _activation(given, "gate_activation", "sigmoid")
    gates = {name: _gate(given, f"{name}_") for name in "rz"}
    # No sum of biases: the reset gate stands between the two, so each is a gate's worth of its own.
    n = _Gate(*_kernels(given, "n_"), np.zeros(()))
    features, hidden, state = _sizes(given, gates | {"n": n})
    given.same("the size of the state", state, hidden)
    biases = [given.may(role, "hidden") for role in ("n_input_bias", "n_recurrent_bias")]
    for bias in biases:
        given.same("the shape of a bias of n", (hidden,) if bias is None else bias.shape, (hidden,))
    input_bias, recurrent_bias = (np.zeros(hidden) if bias is None else bias for bias in biases)
    x, (h,) = _sequence(given, features, (state,))
    outputs = np.zeros((*x.shape[:-1], state))
    for step in _steps(given, x.shape[-2]):
        now = x[..., step, :]
        reset, update = gate(gates["r"](now, h)), gate(gates["z"](now, h))
        new = squash(now @ n.input_kernel.T + input_bias + reset * (h @ n.recurrent_kernel.T + recurrent_bias))
        h = (1.0 - update) * new + update * h
        outputs[..., step, :] = h
    return outputs, h


def rnn(given: Given) -> tuple[np.ndarray, ...]:
    """`h' = activation(I x + b + R h + d)`; with `residual`, `h' = activation(I x + b + R h + d + h)`.

    Args:
        given: roles `input_kernel` (`hidden in`), `recurrent_kernel` (`hidden state`) and, optional, `input_bias`,
            `recurrent_bias` (`hidden`) or their sum; inputs as `gru`. Only the function depends on `activation` (`tanh`,
            `relu`), `residual` and `reverse`.

    Returns:
        The outputs `(*batch, time, state)` and the last `h`.

    Raises:
        AxesError: sizes or axes disagree.
        UnsupportedError: a role is missing, or a config value is none.
    """
    squash, residual = _activation(given, "activation", "tanh"), given.flag("residual", default=False)
    cell = _gate(given, "")
    features, hidden, state = _sizes(given, {"": cell})
    given.same("the size of the state", state, hidden)
    x, (h,) = _sequence(given, features, (state,))
    outputs = np.zeros((*x.shape[:-1], state))
    for step in _steps(given, x.shape[-2]):
        before = cell(x[..., step, :], h)
        h = squash(before + h if residual else before)
        outputs[..., step, :] = h
    return outputs, h


def _activation(given: Given, name: str, default: str) -> Callable[[np.ndarray], np.ndarray]:
    return ACTIVATIONS[given.word(name, default, ACTIVATIONS)]


def _kernels(given: Given, prefix: str) -> tuple[np.ndarray, np.ndarray]:
    return (
        given.need(f"{prefix}input_kernel", "hidden", "in"),
        given.need(f"{prefix}recurrent_kernel", "hidden", "state"),
    )


def _gate(given: Given, prefix: str) -> _Gate:
    input_kernel, recurrent_kernel = _kernels(given, prefix)
    bias = given.total((f"{prefix}input_bias", f"{prefix}recurrent_bias"), "hidden", input_kernel.shape[0])
    return _Gate(input_kernel, recurrent_kernel, bias)


def _sizes(given: Given, gates: Mapping[str, _Gate]) -> tuple[int, int, int]:
    """The sizes of `in`, `hidden` and `state`, which all gates have in common."""
    shapes = {name: (gate.input_kernel.shape, gate.recurrent_kernel.shape) for name, gate in gates.items()}
    (hidden, features), (_, state) = next(iter(shapes.values()))
    for name, shape in shapes.items():
        given.same(f"the shapes of the kernels of {name or 'the cell'}", shape, ((hidden, features), (hidden, state)))
    return features, hidden, state


def _sequence(given: Given, features: int, sizes: tuple[int, ...]) -> tuple[np.ndarray, list[np.ndarray]]:
    """The input sequence and the initial states, zero where they are not given."""
    x = given.input(0, least=2)
    given.same("the features of the input", x.shape[-1], features)
    states = []
    for number, size in enumerate(sizes, 1):
        shape = (*x.shape[:-2], size)
        state = given.input(number, least=1) if number < len(given.inputs) else np.zeros(shape)
        given.same(f"the shape of initial state {number}", state.shape, shape)
        states.append(state)
    return x, states


def _steps(given: Given, length: int) -> range:
    return range(length - 1, -1, -1) if given.flag("reverse", default=False) else range(length)
