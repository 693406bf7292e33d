"""Settings: how `torch.nn` is told a value of the config, for the findings of a plan.

Each row turns a neutral value into what to write. Where torch has no such setting, it says so and what comes nearest.
Imports the core, no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from stateregistry.layers.vocabulary import Layer

_ROOT: Final = {"conv": "Conv2d", "conv_transpose": "ConvTranspose2d", "batch_norm": "BatchNorm2d", "lstm": "LSTM"}


def setting(layer: Layer, name: str, value: object, /) -> str:
    """What to do so that a layer has a value of the config; empty where torch says nothing of it."""
    row = _ROWS.get(name)
    return "" if row is None else row(layer, value)


def _set(layer: Layer, *texts: str) -> str:
    return f"set {layer.type or _ROOT.get(layer.kind, layer.kind)}({', '.join(texts)})"


def _named(argument: str) -> Callable[[Layer, Any], str]:
    return lambda layer, value: _set(layer, f"{argument}={value!r}")


def _groups(layer: Layer, value: Any) -> str:
    return _set(layer, f"{'num_groups' if layer.kind == 'group_norm' else 'groups'}={value!r}")


def _padding(layer: Layer, value: Any) -> str:
    """Torch pads both sides of an axis alike, knows no `SAME` with a stride, and adds to the high side of a transpose."""
    if layer.kind == "conv_transpose":
        return _transposed(layer, value)
    if value == "SAME":
        return (
            "torch has no SAME padding with a stride: pad the input with torch.nn.functional.pad, by what the size of"
            f" the input asks for (low the smaller half), and {_set(layer, 'padding=0')}"
        )
    if not _pairs(value):
        return ""
    if all(low == high for low, high in value):
        return _set(layer, f"padding={tuple(low for low, _ in value)!r}")
    sides = tuple(side for low, high in reversed(value) for side in (low, high))
    return (
        "torch pads both sides alike: pad the input with torch.nn.functional.pad(x,"
        f" {sides!r}) and {_set(layer, 'padding=0')}"
    )


def _transposed(layer: Layer, value: Any) -> str:
    if not _pairs(value):
        return ""
    low, more = tuple(first for first, _ in value), tuple(first - last for first, last in value)
    if min(low) >= 0 and min(more) >= 0:
        return _set(layer, f"padding={low!r}", f"output_padding={more!r}")
    return f"torch takes as much away of both sides: {_set(layer, 'padding=0')} and take {value!r} of its output away"


def _pairs(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(one, tuple) for one in value)


def _normalized(layer: Layer, value: Any) -> str:
    return f"set {layer.type or 'LayerNorm'}(normalized_shape=...) to the sizes of the last {value!r} axes"


def _unbiased(_: Layer, __: Any) -> str:
    return (
        "nothing to set: torch keeps n / (n - 1) times the variance that it normalises with, so training goes on with"
        " another running variance"
    )


def _activation(layer: Layer, value: Any) -> str:
    if layer.kind == "rnn" and value in ("tanh", "relu"):
        return _set(layer, f"nonlinearity={value!r}")
    has = "tanh and relu" if layer.kind == "rnn" else "tanh alone"
    return f"torch has {has} here: the layer cannot compute {value}"


def _gate(_: Layer, value: Any) -> str:
    return f"the gates of torch are sigmoid alone: the layer cannot compute {value}"


def _reverse(_: Layer, value: Any) -> str:
    if value:
        return "read the sequence from its end: torch.flip its input and its output along time, or bidirectional=True"
    return "read the sequence from its beginning: the direction without the suffix _reverse"


def _residual(_: Layer, value: Any) -> str:
    return "the RNN of torch adds no residual: the layer cannot compute it" if value else ""


def _dropout(layer: Layer, value: Any) -> str:
    if layer.type.endswith("Cell") or layer.kind in ("lstm", "gru", "rnn"):
        return (
            f"set the dropout between the layers of the stack to {value!r}, or put Dropout({value!r}) behind this one"
        )
    return _set(layer, f"dropout={value!r}")


def _mode(_: Layer, value: Any) -> str:
    return "use torch.nn.Embedding" if value == "none" else f"use torch.nn.EmbeddingBag(mode={value!r})"


def _beyond(what: str) -> Callable[[Layer, Any], str]:
    return lambda _, __: what


_ROWS: Final[Mapping[str, Callable[[Layer, Any], str]]] = MappingProxyType(
    {
        **{name: _named(name) for name in ("eps", "stride", "dilation", "padding_mode", "momentum")},
        **{name: _named(name) for name in ("padding_idx", "max_norm", "norm_type", "add_zero_attn")},
        "heads": _named("num_heads"),
        "head_dim": lambda layer, value: f"set embed_dim of {layer.type} to {value!r} times its heads",
        "groups": _groups,
        "padding": _padding,
        "normalized_axes": _normalized,
        "unbiased_var": _unbiased,
        "activation": _activation,
        "gate_activation": _gate,
        "reverse": _reverse,
        "residual": _residual,
        "dropout": _dropout,
        "mode": _mode,
        "causal": _beyond("pass attn_mask= with is_causal=True in the call"),
        "weight_norm_eps": _beyond(
            "torch adds no eps to the norm of a weight_norm: it matters where a norm is near zero"
        ),
        "spectral_norm_eps": lambda _, value: f"pass eps={value!r} to spectral_norm",
        "power_iterations": _beyond(
            "torch iterates in training only: run the model in train() until u and v have converged, then eval()"
        ),
        "input_dilation": _beyond("torch has no dilated input but in a transposed convolution"),
        "normalize_qk": _beyond("the attention of torch has no norms of queries and keys"),
        "attention_fn": _beyond("the attention of torch has no function of one's own"),
    }
)

#: Activations by neutral name.
ACTIVATIONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "gelu": "torch.nn.GELU()", "gelu_tanh": "torch.nn.GELU(approximate='tanh')", "relu": "torch.nn.ReLU()",
        "relu6": "torch.nn.ReLU6()", "silu": "torch.nn.SiLU()", "tanh": "torch.nn.Tanh()",
        "sigmoid": "torch.nn.Sigmoid()", "elu": "torch.nn.ELU()", "leaky_relu": "torch.nn.LeakyReLU()",

    }
)  # fmt: skip
