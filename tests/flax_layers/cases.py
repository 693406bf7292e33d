"""One module of every declared type, in Linen and in NNX, with what its arrays are, said a second time in plain NumPy.

Sizes are equal wherever a type allows it, so that no shape can tell a wrong axis. `of_linen` and `of_nnx` take the arrays
of a module apart by hand: role, array, and the names of its axes in the order in which that array has them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax import nnx

import stateregistry as sr

S = 4  # every size that can be

Arrays = Mapping[str, np.ndarray]
Roles = dict[str, tuple[np.ndarray, str]]


def data(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


class Cell(nn.Module):
    """A cell run over a sequence, under the name that torch's layer has."""

    cell: Any

    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.RNN(self.cell(S, name="run"))(x)


class LiveCell(nnx.Module):
    def __init__(self, cell: Any) -> None:
        self.run = cell

    def __call__(self, x: Any) -> Any:
        return nnx.RNN(self.run, rngs=nnx.Rngs(0))(x)


@dataclass(frozen=True)
class Case:
    """A layer type in both frameworks.

    Attributes:
        name: what the test is called. kind: the layer kind.
        linen, nnx: make a module. inputs: what it is called with.
        of_linen, of_nnx: the roles of its arrays, by hand.
        outputs: what of its result is compared.
        call: how the formula is called where that is otherwise than the module.
    """

    name: str
    kind: str
    linen: Callable[[], Any]
    nnx: Callable[[nnx.Rngs], Any]
    inputs: tuple[Any, ...]
    of_linen: Callable[[Arrays], Roles]
    of_nnx: Callable[[Arrays], Roles]
    outputs: Callable[[Any], Any] = lambda result: result
    call: Callable[[tuple[Any, ...]], tuple[Any, ...]] = lambda inputs: inputs

    def linen_registry(self, seed: int = 0) -> sr.StateRegistry:
        return opened(self.linen(), *self.inputs, seed=seed)

    def nnx_registry(self, seed: int = 0) -> sr.StateRegistry:
        return live(self.nnx, seed)

    def run_linen(self, variables: Any) -> np.ndarray:
        return np.asarray(self.outputs(self.linen().apply(variables, *self.inputs)))

    def run_nnx(self, model: Any) -> np.ndarray:
        return np.asarray(self.outputs(model(*self.inputs)))


def opened(module: nn.Module, *inputs: Any, seed: int = 0) -> sr.StateRegistry:
    """A registry over variables of a module that no initialiser made, with the module traced for its layers."""
    shapes = jax.eval_shape(lambda: module.init({"params": jax.random.key(0)}, *inputs))
    reg = sr.of(shapes, module=module, args=inputs)
    return reg.replace(random(reg, seed))


def live(make: Callable[[nnx.Rngs], Any], seed: int = 0) -> sr.StateRegistry:
    """A registry over an NNX module with values that no initialiser made."""
    reg = sr.of(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
    return reg.replace(random(reg, seed))


def random(reg: sr.StateRegistry, seed: int) -> dict[str, np.ndarray]:
    """Values that no symmetry hides behind, the variances above zero."""
    generator = np.random.default_rng(seed)
    values = {}
    for key, entry in reg.items():
        if entry.rng:
            continue
        value = generator.normal(size=entry.shape)
        values[key] = (np.abs(value) + 0.5 if key.endswith("var") else value).astype(entry.dtype)
    return values


def as_they_are(axes: Mapping[str, tuple[str, str]]) -> Callable[[Arrays], Roles]:
    """Roles that are each one array as it is: key -> (role, axes)."""
    return lambda arrays: {role: (arrays[key], names) for key, (role, names) in axes.items()}


LINEAR = as_they_are({"kernel": ("kernel", "in out"), "bias": ("bias", "out")})
AFFINE = as_they_are({"scale": ("scale", "features"), "bias": ("bias", "features")})
AFFINE_0 = as_they_are({"scale": ("scale", "features.0"), "bias": ("bias", "features.0")})
STATISTICS = as_they_are({key: (key, "features") for key in ("scale", "bias", "mean", "var")})


def conv_axes(rank: int) -> Callable[[Arrays], Roles]:
    spatial = " ".join(f"spatial.{n}" for n in range(rank))
    return as_they_are({"kernel": ("kernel", f"{spatial} in/groups out"), "bias": ("bias", "out")})


def transposed(rank: int, *, flip: bool) -> Callable[[Arrays], Roles]:
    spatial = " ".join(f"spatial.{n}" for n in range(rank))

    def roles(arrays: Arrays) -> Roles:
        kernel = arrays["kernel"]
        if flip:
            kernel = np.flip(kernel, tuple(range(rank)))
        names = f"{spatial} in out/groups" if flip else f"{spatial} out/groups in"
        return {"kernel": (kernel, names), "bias": (arrays["bias"], "out")}

    return roles


def attention(arrays: Arrays) -> Roles:
    roles: Roles = {}
    for name in ("query", "key", "value"):
        roles[f"{name}_kernel"] = (arrays[f"{name}/kernel"], "in heads head_dim")
        roles[f"{name}_bias"] = (arrays[f"{name}/bias"], "heads head_dim")
    return {
        **roles,
        "out_kernel": (arrays["out/kernel"], "heads head_dim out"),
        "out_bias": (arrays["out/bias"], "out"),
    }


def lstm(input_gate: Callable[[str], str]) -> Callable[[Arrays], Roles]:
    def roles(arrays: Arrays) -> Roles:
        found: Roles = {}
        for gate in "ifgo":
            found[f"{gate}_input_kernel"] = (arrays[f"{input_gate(gate)}/kernel"], "in hidden")
            found[f"{gate}_recurrent_kernel"] = (arrays[f"h{gate}/kernel"], "state hidden")
            found[f"{gate}_input_bias+{gate}_recurrent_bias"] = (arrays[f"h{gate}/bias"], "hidden")
        return found

    return roles


def fused_lstm(arrays: Arrays) -> Roles:
    found: Roles = {}
    for number, gate in enumerate("ifgo"):
        part = slice(number * S, (number + 1) * S)
        found[f"{gate}_input_kernel"] = (arrays["dense_i/kernel"][:, part], "in hidden")
        found[f"{gate}_recurrent_kernel"] = (arrays["dense_h/kernel"][:, part], "state hidden")
        found[f"{gate}_input_bias+{gate}_recurrent_bias"] = (arrays["dense_h/bias"][part], "hidden")
    return found


def gru(arrays: Arrays) -> Roles:
    found: Roles = {}
    for gate in "rzn":
        found[f"{gate}_input_kernel"] = (arrays[f"i{gate}/kernel"], "in hidden")
        found[f"{gate}_recurrent_kernel"] = (arrays[f"h{gate}/kernel"], "state hidden")
    for gate in "rz":
        found[f"{gate}_input_bias+{gate}_recurrent_bias"] = (arrays[f"i{gate}/bias"], "hidden")
    return {**found, "n_input_bias": (arrays["in/bias"], "hidden"), "n_recurrent_bias": (arrays["hn/bias"], "hidden")}


def fused_gru(arrays: Arrays) -> Roles:
    found: Roles = {}
    for number, gate in enumerate("rzn"):
        part = slice(number * S, (number + 1) * S)
        found[f"{gate}_input_kernel"] = (arrays["dense_i/kernel"][:, part], "in hidden")
        found[f"{gate}_recurrent_kernel"] = (arrays["dense_h/kernel"][:, part], "state hidden")
        role = "n_input_bias" if gate == "n" else f"{gate}_input_bias+{gate}_recurrent_bias"
        found[role] = (arrays["dense_i/bias"][part], "hidden")
    return found


def simple(of_input: str, of_state: str) -> Callable[[Arrays], Roles]:
    return as_they_are(
        {
            f"{of_input}/kernel": ("input_kernel", "in hidden"),
            f"{of_state}/kernel": ("recurrent_kernel", "state hidden"),
            f"{of_input}/bias": ("input_bias+recurrent_bias", "hidden"),
        }
    )


def _conv(rank: int, **options: Any) -> Case:
    size, image = (S,) * rank, data(2, *(6,) * rank, S)
    name = f"conv{rank}d" + "".join(f" {key}={value}" for key, value in options.items())
    return Case(
        name, "conv",
        lambda: nn.Conv(S, size, **options), lambda rngs: nnx.Conv(S, S, size, **options, rngs=rngs),
        (image,), conv_axes(rank), conv_axes(rank),
    )  # fmt: skip


def _conv_transpose(rank: int, transpose: bool, **options: Any) -> Case:
    size, image = (S,) * rank, data(2, *(5,) * rank, S)
    options["transpose_kernel"] = transpose
    name = f"conv_transpose{rank}d" + "".join(f" {key}={value}" for key, value in options.items())
    return Case(
        name, "conv_transpose",
        lambda: nn.ConvTranspose(S, size, **options),
        lambda rngs: nnx.ConvTranspose(S, S, size, **options, rngs=rngs),
        (image,), transposed(rank, flip=not transpose), transposed(rank, flip=not transpose),
    )  # fmt: skip


def _norm(name: str, kind: str, linen: Any, live: Any, roles: Callable[[Arrays], Roles], **options: Any) -> Case:
    return Case(
        name, kind, lambda: linen(**options), lambda rngs: live(S, **options, rngs=rngs), (data(2, S, S, S),), roles, roles
    )  # fmt: skip


def _cell(name: str, kind: str, linen: Any, live: Any, of_linen: Any, of_nnx: Any) -> Case:
    state: Any = data(2, S, seed=5)
    carry = (data(2, S, seed=6), state) if kind == "lstm" else state  # c, h

    def call(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """The formula wants a sequence, and h before c."""
        (c, h), x = (inputs[0], inputs[1]) if kind == "lstm" else ((None, inputs[0]), inputs[1])
        return (x[:, None], h, *((c,) if kind == "lstm" else ()))

    return Case(
        name, kind, linen, live, (carry, data(2, S)), of_linen, of_nnx,
        outputs=lambda result: result[1], call=call,
    )  # fmt: skip


def _attention(name: str, queries: int, keys: int) -> Case:
    inputs = (data(2, 5, queries), data(2, 3, keys, seed=1))
    return Case(
        name, "attention",
        lambda: nn.MultiHeadDotProductAttention(2, qkv_features=S, out_features=S),
        lambda rngs: nnx.MultiHeadAttention(2, queries, S, S, in_kv_features=keys, decode=False, rngs=rngs),
        inputs, attention, attention,
    )  # fmt: skip


CASES = [
    Case("linear", "linear", lambda: nn.Dense(S), lambda rngs: nnx.Linear(S, S, rngs=rngs), (data(2, S),), LINEAR, LINEAR),
    Case(
        "several features out", "linear", lambda: nn.DenseGeneral((2, 2)), lambda rngs: nnx.LinearGeneral(4, (2, 2), rngs=rngs),
        (data(3, 4),),
        *[as_they_are({"kernel": ("kernel", "in out.0 out.1"), "bias": ("bias", "out.0 out.1")})] * 2,
    ),
    Case(
        "several features in and out", "linear",
        lambda: nn.DenseGeneral((3, 3), axis=(-1, -2)),
        lambda rngs: nnx.LinearGeneral((3, 3), (3, 3), axis=(-1, -2), rngs=rngs), (data(2, 3, 3),),
        *[as_they_are({"kernel": ("kernel", "in.0 in.1 out.0 out.1"), "bias": ("bias", "out.0 out.1")})] * 2,
    ),
    Case(
        "einsum", "linear",
        lambda: nn.Einsum((3, 3, 3), "...nt,tba->...nab"),
        lambda rngs: nnx.Einsum("...nt,tba->...nab", (3, 3, 3), (3, 3), rngs=rngs), (data(2, 3, 3),),
        *[as_they_are({"kernel": ("kernel", "in out.1 out.0"), "bias": ("bias", "out.0 out.1")})] * 2,
    ),
    _conv(1), _conv(2), _conv(3),
    _conv(2, padding="VALID", strides=2), _conv(2, padding=((1, 2), (0, 1)), kernel_dilation=(1, 2)),
    _conv(2, padding="CIRCULAR"), _conv(1, padding="REFLECT"), _conv(1, padding="CAUSAL", kernel_dilation=2),
    _conv(1, padding="CIRCULAR", kernel_dilation=2), _conv(2, feature_group_count=4),
    _conv(2, feature_group_count=2, strides=2),
    *[_conv_transpose(rank, transpose) for rank in (1, 2, 3) for transpose in (False, True)],
    *[
        _conv_transpose(2, transpose, **options)
        for transpose in (False, True)
        for options in (
            {"strides": (2, 2)}, {"strides": (2, 1), "padding": "VALID"}, {"strides": (2, 2), "padding": ((1, 2), (2, 3))},
            {"strides": (3, 2), "padding": ((4, 6), (6, 7)), "kernel_dilation": (2, 2)},
        )
    ],
    _norm("batch_norm", "batch_norm", nn.BatchNorm, nnx.BatchNorm, STATISTICS, use_running_average=True),
    _norm("layer_norm", "layer_norm", nn.LayerNorm, nnx.LayerNorm, AFFINE_0),
    _norm("layer_norm eps", "layer_norm", nn.LayerNorm, nnx.LayerNorm, AFFINE_0, epsilon=0.3),
    _norm("layer_norm over all", "layer_norm", nn.LayerNorm, nnx.LayerNorm, AFFINE_0, reduction_axes=(-1, -2, -3)),
    _norm("rms_norm", "rms_norm", nn.RMSNorm, nnx.RMSNorm, as_they_are({"scale": ("scale", "features.0")})),
    _norm("group_norm", "group_norm", nn.GroupNorm, nnx.GroupNorm, AFFINE, num_groups=2),
    _norm("group_norm by size", "group_norm", nn.GroupNorm, nnx.GroupNorm, AFFINE, num_groups=None, group_size=1),
    _norm("instance_norm", "instance_norm", nn.InstanceNorm, nnx.InstanceNorm, AFFINE),
    Case(
        "embedding", "embedding", lambda: nn.Embed(S, S), lambda rngs: nnx.Embed(S, S, rngs=rngs),
        (np.array([[3, 1], [0, 2]]),),
        *[as_they_are({"embedding": ("embedding", "vocab features")})] * 2,
    ),
    Case(
        "prelu", "prelu", nn.PReLU, lambda rngs: nnx.PReLU(), (data(2, S),),
        *[as_they_are({"negative_slope": ("slope", "")})] * 2,
    ),
    _attention("attention", S, S), _attention("cross attention", S, 6),
    _cell(
        "lstm", "lstm", lambda: nn.LSTMCell(S), lambda rngs: nnx.LSTMCell(S, S, rngs=rngs),
        lstm(lambda gate: f"i{gate}"), lstm(lambda gate: "if_" if gate == "f" else f"i{gate}"),
    ),
    _cell(
        "optimized lstm", "lstm", lambda: nn.OptimizedLSTMCell(S), lambda rngs: nnx.OptimizedLSTMCell(S, S, rngs=rngs),
        lstm(lambda gate: f"i{gate}"), fused_lstm,
    ),
    _cell("gru", "gru", lambda: nn.GRUCell(S), lambda rngs: nnx.GRUCell(S, S, rngs=rngs), gru, fused_gru),
    _cell(
        "rnn", "rnn", lambda: nn.SimpleCell(S), lambda rngs: nnx.SimpleCell(S, S, rngs=rngs),
        simple("i", "h"), simple("dense_i", "dense_h"),
    ),
    _cell(
        "rnn with residual", "rnn", lambda: nn.SimpleCell(S, residual=True, activation_fn=nn.relu),
        lambda rngs: nnx.SimpleCell(S, S, residual=True, activation_fn=nnx.relu, rngs=rngs),
        simple("i", "h"), simple("dense_i", "dense_h"),
    ),
]  # fmt: skip


def neutral(array: np.ndarray, axes: str) -> tuple[tuple[str, ...], np.ndarray]:
    """An array with its axes in the order of their names."""
    names = axes.split()
    order = sorted(names)
    return tuple(order), array.transpose([names.index(name) for name in order])


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    """Within 1e-5 of the scale: what float32 arithmetic in another order may differ by."""
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
