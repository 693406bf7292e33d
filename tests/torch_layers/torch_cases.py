"""One module of every declared kind, square so that no shape hides a wrong axis, with its roles cut out by hand.

A case says how to make the module and, from its native arrays by name, which part of which array is which role: written with
slices and reshapes from what torch documents, without the adapter and without axis patterns.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import stateregistry as sr
from stateregistry.layers import axes
from stateregistry_conformance.formulas import FORMULAS, Named, wrappers

#: Axis names and the array, per role.
Cut = dict[str, tuple[str, np.ndarray]]


@dataclass(frozen=True)
class Case:
    """How to make a module, its layer kind, and its roles by hand, by path of the layer below the module."""

    make: Callable[[], nn.Module]
    kind: str
    cut: Callable[[Mapping[str, np.ndarray]], Cut | dict[str, Cut]]

    def layers(self, state: Mapping[str, np.ndarray]) -> dict[str, Cut]:
        """The roles of every layer that the module is."""
        made: Any = self.cut(state)
        return made if all(isinstance(value, dict) for value in made.values()) else {"": made}


def randomised(module: nn.Module) -> nn.Module:
    """The module in float64 and in evaluation, all state random and nowhere symmetric; variances are positive."""
    module = module.double().eval()
    rng = np.random.default_rng(7)
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            values = rng.standard_normal(tuple(tensor.shape))
            if not tensor.is_floating_point():
                tensor.fill_(41)
            else:
                tensor.copy_(torch.from_numpy(np.abs(values) + 0.5 if name.endswith("var") else values))
    return module


def native(module: nn.Module) -> dict[str, np.ndarray]:
    """The arrays of a module as torch names them, under every name."""
    tensors = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    return {name: tensor.detach().numpy() for name, tensor in tensors}


def exported(reg: sr.StateRegistry, layer: sr.Layer) -> dict[str, Named]:
    """The neutral arrays of a layer by role, taken apart by its patterns."""
    roles: dict[str, Named] = {}
    sizes = {name: value for name, value in layer.config.items() if name in ("heads", "head_dim")}
    for piece in layer.pieces:
        shape = reg[reg.aliases.get(layer.key(piece), layer.key(piece))].shape
        bound = axes.bind(piece.axes, shape, sizes)
        if piece.role == "kernel_original":
            sizes |= bound.sizes  # the flattened vector of spectral_norm does not say them
        parts = bound.expand(reg.read(layer.key(piece)))
        roles |= {role: Named(parts[part], bound.neutral) for role, part in piece.parts.items()}
    return roles


def known(layer: sr.Layer) -> dict[str, Any]:
    """The config of a layer; what no formula of its kind knows is an error of the declaration."""
    formula = FORMULAS[layer.kind]
    names = formula.state | formula.function | formula.training | wrappers.STATE | wrappers.FUNCTION
    assert set(layer.config) <= names
    return dict(layer.config)


# ------------------------------------------------------------------------------------------------------------ cuts by hand


def _linear(s):
    return {"kernel": ("out in", s["weight"]), **_bias(s)}


def _bias(s):
    return {"bias": ("out", s["bias"])} if "bias" in s else {}


SPATIAL = {1: "spatial.0", 2: "spatial.0 spatial.1", 3: "spatial.0 spatial.1 spatial.2"}


def _conv(s):
    return {"kernel": (f"out in/groups {SPATIAL[s['weight'].ndim - 2]}", s["weight"]), **_bias(s)}


def _conv_transpose(s):
    return {"kernel": (f"in out/groups {SPATIAL[s['weight'].ndim - 2]}", s["weight"]), **_bias(s)}


def _norm(s):
    names = {
        "weight": "scale",
        "bias": "bias",
        "running_mean": "mean",
        "running_var": "var",
        "num_batches_tracked": "count",
    }
    return {names[name]: ("features" if array.ndim else "", array) for name, array in s.items()}


def _features(s):
    names = {"weight": "scale", "bias": "bias"}
    return {names[n]: (" ".join(f"features.{i}" for i in range(a.ndim)), a) for n, a in s.items()}


def _attention(heads):
    def cut(s):
        def split(array):  # the first axis is heads and head_dim, head_dim fastest
            return array.reshape(heads, array.shape[0] // heads, *array.shape[1:])

        found = {"out_kernel": ("out heads head_dim", _last(s["out_proj.weight"], heads))}
        if "out_proj.bias" in s:
            found["out_bias"] = ("out", s["out_proj.bias"])
        for number, name in enumerate(("query", "key", "value")):
            if "in_proj_weight" in s:
                size = len(s["in_proj_weight"]) // 3
                kernel = s["in_proj_weight"][number * size : (number + 1) * size]
            else:
                kernel = s[f"{name[0]}_proj_weight"]
            size = len(kernel)
            found[f"{name}_kernel"] = ("heads head_dim in", split(kernel))
            if "in_proj_bias" in s:
                third = s["in_proj_bias"][number * size : (number + 1) * size]
                found[f"{name}_bias"] = ("heads head_dim", split(third))
        for name, role in (("bias_k", "extra_key"), ("bias_v", "extra_value")):
            if name in s:
                found[role] = ("heads head_dim", split(s[name][0, 0]))
        return found

    return cut


def _last(array, heads):
    return array.reshape(*array.shape[:-1], heads, array.shape[-1] // heads)


GATES = {"lstm": "ifgo", "gru": "rzn", "rnn": ""}


def _cell(kind, ending=""):
    def cut(s):
        found = {}
        names = {
            f"weight_ih{ending}": ("input_kernel", "hidden in"),
            f"weight_hh{ending}": ("recurrent_kernel", "hidden state"),
            f"bias_ih{ending}": ("input_bias", "hidden"),
            f"bias_hh{ending}": ("recurrent_bias", "hidden"),
        }
        for name, (role, order) in names.items():
            if name not in s:
                continue
            if kind == "rnn":
                found[role] = (order, s[name])
                continue
            size = len(s[name]) // len(GATES[kind])
            for number, gate in enumerate(GATES[kind]):
                found[f"{gate}_{role}"] = (order, s[name][number * size : (number + 1) * size])
        if f"weight_hr{ending}" in s:
            found["projection_kernel"] = ("state hidden", s[f"weight_hr{ending}"])
        return found

    return cut


def _stack(kind, layers, directions):
    places = [f"l{number}{way}" for number in range(layers) for way in ("", "_reverse")[:directions]]
    return lambda s: {place: _cell(kind, f"_{place}")(s) for place in places}


def _weight_norm(order, kept, v="parametrizations.weight.original1", g="parametrizations.weight.original0"):
    def cut(s):
        return {
            "kernel_direction": (order, s[v]),
            "kernel_magnitude": (kept, s[g].reshape(-1) if kept else s[g]),
            **_bias(s),
        }

    return cut


def _spectral_norm(
    order,
    kept,
    names=("parametrizations.weight.original", "parametrizations.weight.0._u", "parametrizations.weight.0._v"),
):
    def cut(s):
        w, u, v = (s[name] for name in names)
        rest = [axis for axis in order.split() if axis != kept]
        sizes = [size for axis, size in zip(order.split(), w.shape, strict=True) if axis != kept]
        return {
            "kernel_original": (order, w),
            "kernel_u": (kept, u),
            "kernel_v": (" ".join(rest), v.reshape(sizes)),
            **_bias(s),
        }

    return cut


def old(wrap: Callable[..., nn.Module], module: nn.Module, **options: Any) -> nn.Module:
    """A module under one of the older hooks, which warn that they are old."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return wrap(module, **options)


_OLD_SPECTRAL = ("weight_orig", "weight_u", "weight_v")

CASES: dict[str, Case] = {
    "linear": Case(lambda: nn.Linear(4, 4), "linear", _linear),
    "linear without bias": Case(lambda: nn.Linear(4, 4, bias=False), "linear", _linear),
    "bilinear": Case(
        lambda: nn.Bilinear(4, 4, 4), "bilinear", lambda s: {"kernel": ("out in1 in2", s["weight"]), **_bias(s)}
    ),
    "embedding": Case(
        lambda: nn.Embedding(4, 4, padding_idx=2), "embedding", lambda s: {"embedding": ("vocab features", s["weight"])}
    ),
    "embedding bag": Case(
        lambda: nn.EmbeddingBag(4, 4, mode="max"), "embedding", lambda s: {"embedding": ("vocab features", s["weight"])}
    ),
    "one slope": Case(nn.PReLU, "prelu", lambda s: {"slope": ("", s["weight"][0])}),
    "a slope for each": Case(lambda: nn.PReLU(4), "prelu", lambda s: {"slopes": ("features", s["weight"])}),
}  # fmt: skip
for _rank, _cls, _inverse in (
    (1, nn.Conv1d, nn.ConvTranspose1d),
    (2, nn.Conv2d, nn.ConvTranspose2d),
    (3, nn.Conv3d, nn.ConvTranspose3d),
):
    for _groups in (1, 2):
        CASES[f"conv {_rank}d, {_groups} groups"] = Case(
            lambda cls=_cls, groups=_groups: cls(4, 4, 4, stride=2, padding=1, groups=groups), "conv", _conv
        )
        CASES[f"conv transpose {_rank}d, {_groups} groups"] = Case(
            lambda cls=_inverse, groups=_groups: cls(4, 4, 4, stride=2, padding=1, output_padding=1, groups=groups),
            "conv_transpose",
            _conv_transpose,
        )
CASES |= {
    "conv same": Case(lambda: nn.Conv2d(4, 4, 4, padding="same", dilation=2, padding_mode="circular"), "conv", _conv),
    "conv valid, no bias": Case(lambda: nn.Conv1d(4, 4, 4, padding="valid", bias=False), "conv", _conv),
    "batch norm": Case(lambda: nn.BatchNorm2d(4), "batch_norm", _norm),
    "batch norm, not affine": Case(lambda: nn.BatchNorm1d(4, affine=False, momentum=None), "batch_norm", _norm),
    "batch norm without statistics": Case(lambda: nn.BatchNorm3d(4, track_running_stats=False), "batch_norm", _norm),
    "sync batch norm": Case(lambda: nn.SyncBatchNorm(4), "batch_norm", _norm),
    "instance norm 1d": Case(lambda: nn.InstanceNorm1d(4, affine=True), "instance_norm", _norm),
    "instance norm 2d, statistics": Case(
        lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True), "instance_norm", _norm
    ),
    "instance norm 3d, statistics alone": Case(
        lambda: nn.InstanceNorm3d(4, track_running_stats=True), "instance_norm", _norm
    ),
    "layer norm": Case(lambda: nn.LayerNorm(4, eps=1e-3), "layer_norm", _features),
    "layer norm, two axes": Case(lambda: nn.LayerNorm((4, 4)), "layer_norm", _features),
    "layer norm without bias": Case(lambda: nn.LayerNorm(4, bias=False), "layer_norm", _features),
    "rms norm": Case(lambda: nn.RMSNorm(4), "rms_norm", _features),
    "rms norm, two axes": Case(lambda: nn.RMSNorm([4, 4], eps=1e-3), "rms_norm", _features),
    "group norm": Case(lambda: nn.GroupNorm(2, 4), "group_norm", _norm),
    "attention": Case(lambda: nn.MultiheadAttention(4, 2, batch_first=True), "attention", _attention(2)),
    "attention without bias": Case(
        lambda: nn.MultiheadAttention(4, 2, bias=False, batch_first=True), "attention", _attention(2)
    ),
    "attention, kdim and vdim": Case(
        lambda: nn.MultiheadAttention(4, 2, kdim=4, vdim=3, batch_first=True), "attention", _attention(2)
    ),
    "attention, extra key and zero": Case(
        lambda: nn.MultiheadAttention(4, 2, add_bias_kv=True, add_zero_attn=True, batch_first=True),
        "attention",
        _attention(2),
    ),
    "lstm": Case(lambda: nn.LSTM(4, 4, batch_first=True), "lstm", _cell("lstm", "_l0")),
    "lstm without bias, projected": Case(
        lambda: nn.LSTM(4, 4, proj_size=2, bias=False, batch_first=True), "lstm", _cell("lstm", "_l0")
    ),
    "lstm, 3 layers": Case(lambda: nn.LSTM(4, 4, 3, batch_first=True), "lstm", _stack("lstm", 3, 1)),
    "lstm, 2 layers both ways, projected": Case(
        lambda: nn.LSTM(4, 4, 2, bidirectional=True, proj_size=2, batch_first=True), "lstm", _stack("lstm", 2, 2)
    ),
    "gru": Case(lambda: nn.GRU(4, 4, batch_first=True), "gru", _cell("gru", "_l0")),
    "gru, both ways": Case(lambda: nn.GRU(4, 4, bidirectional=True, batch_first=True), "gru", _stack("gru", 1, 2)),
    "gru, 2 layers both ways": Case(
        lambda: nn.GRU(4, 4, 2, bidirectional=True, dropout=0.5, batch_first=True), "gru", _stack("gru", 2, 2)
    ),
    "rnn": Case(lambda: nn.RNN(4, 4, batch_first=True), "rnn", _cell("rnn", "_l0")),
    "rnn, relu, 2 layers": Case(lambda: nn.RNN(4, 4, 2, "relu", batch_first=True), "rnn", _stack("rnn", 2, 1)),
    "lstm cell": Case(lambda: nn.LSTMCell(4, 4), "lstm", _cell("lstm")),
    "gru cell": Case(lambda: nn.GRUCell(4, 4), "gru", _cell("gru")),
    "rnn cell, relu": Case(lambda: nn.RNNCell(4, 4, nonlinearity="relu"), "rnn", _cell("rnn")),
    "weight norm": Case(lambda: parametrizations.weight_norm(nn.Linear(4, 4)), "linear", _weight_norm("out in", "out")),
    "weight norm, dim 1": Case(
        lambda: parametrizations.weight_norm(nn.Linear(4, 4), dim=1), "linear", _weight_norm("out in", "in")
    ),
    "weight norm of the whole": Case(
        lambda: parametrizations.weight_norm(nn.Conv1d(4, 4, 4), dim=None),
        "conv",
        _weight_norm("out in/groups spatial.0", ""),
    ),
    "weight norm, dim -2": Case(
        lambda: parametrizations.weight_norm(nn.Conv1d(4, 4, 4), dim=-2),
        "conv",
        _weight_norm("out in/groups spatial.0", "in/groups"),
    ),
    "weight norm over space": Case(
        lambda: parametrizations.weight_norm(nn.Conv2d(4, 4, 4), dim=3),
        "conv",
        _weight_norm("out in/groups spatial.0 spatial.1", "spatial.1"),
    ),
    "weight norm, transposed": Case(
        lambda: parametrizations.weight_norm(nn.ConvTranspose2d(4, 4, 4, groups=2)),
        "conv_transpose",
        _weight_norm("in out/groups spatial.0 spatial.1", "in"),
    ),
    "old weight norm": Case(
        lambda: old(nn.utils.weight_norm, nn.Conv2d(4, 4, 4), dim=1),
        "conv",
        _weight_norm("out in/groups spatial.0 spatial.1", "in/groups", "weight_v", "weight_g"),
    ),
    "old weight norm of the whole": Case(
        lambda: old(nn.utils.weight_norm, nn.Linear(4, 4), dim=None),
        "linear",
        _weight_norm("out in", "", "weight_v", "weight_g"),
    ),
    "spectral norm": Case(
        lambda: parametrizations.spectral_norm(nn.Linear(4, 4)), "linear", _spectral_norm("out in", "out")
    ),
    "spectral norm, dim 1": Case(
        lambda: parametrizations.spectral_norm(nn.Linear(4, 4), dim=1), "linear", _spectral_norm("out in", "in")
    ),
    "spectral norm of a conv": Case(
        lambda: parametrizations.spectral_norm(nn.Conv2d(4, 4, 4)),
        "conv",
        _spectral_norm("out in/groups spatial.0 spatial.1", "out"),
    ),
    "spectral norm, transposed": Case(
        lambda: parametrizations.spectral_norm(nn.ConvTranspose1d(4, 4, 4)),
        "conv_transpose",
        _spectral_norm("in out/groups spatial.0", "out/groups"),
    ),
    "old spectral norm": Case(
        lambda: old(nn.utils.spectral_norm, nn.ConvTranspose2d(4, 4, 4)),
        "conv_transpose",
        _spectral_norm("in out/groups spatial.0 spatial.1", "out/groups", _OLD_SPECTRAL),
    ),
    "old spectral norm of a linear": Case(
        lambda: old(nn.utils.spectral_norm, nn.Linear(4, 4)), "linear", _spectral_norm("out in", "out", _OLD_SPECTRAL)
    ),
}


#: Every case, by its name.
EVERY = [pytest.param(case, id=name) for name, case in CASES.items()]
