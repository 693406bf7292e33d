"""Settings: how Flax is told a value of the config, for the findings of a plan; the same in Linen and in NNX.

Each row turns a neutral value into what to write. Where Flax has no such setting, it says so and what comes nearest.
Imports the core, neither JAX nor Flax.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from stateregistry.layers.vocabulary import Layer

_TYPES: Final = {
    "linear": "Dense", "conv": "Conv", "conv_transpose": "ConvTranspose", "batch_norm": "BatchNorm",
    "layer_norm": "LayerNorm", "rms_norm": "RMSNorm", "group_norm": "GroupNorm", "instance_norm": "InstanceNorm",
}  # fmt: skip


def setting(layer: Layer, name: str, value: object, /) -> str:
    """What to do so that a layer has a value of the config; empty where Flax says nothing of it."""
    row = _ROWS.get(name)
    return "" if row is None else row(layer, value)


def _set(layer: Layer, *texts: str) -> str:
    return f"set {layer.type or _TYPES.get(layer.kind, layer.kind)}({', '.join(texts)})"


def _named(argument: str) -> Callable[[Layer, Any], str]:
    return lambda layer, value: _set(layer, f"{argument}={value!r}")


def _momentum(layer: Layer, value: Any) -> str:
    if value is None:
        return "Flax has no mean of all batches: it keeps a share of the old statistics, momentum="
    return _set(layer, f"momentum={round(1.0 - float(value), 12)!r}")


def _groups(layer: Layer, value: Any) -> str:
    return _set(layer, f"{'num_groups' if layer.kind == 'group_norm' else 'feature_group_count'}={value!r}")


def _pairs(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(one, tuple) for one in value)


def _padding(layer: Layer, value: Any) -> str:
    """Of a transposed convolution, Flax pads the dilated input by what is left of the reach of the kernel."""
    if isinstance(value, str):
        return _set(layer, f"padding={value!r}")
    if not _pairs(value):
        return ""
    if layer.kind == "conv_transpose":
        reach = _reach(layer, len(value))
        if reach is None:
            return ""
        value = tuple((span - low, span - high) for span, (low, high) in zip(reach, value, strict=True))
    return _set(layer, f"padding={value!r}")


def _reach(layer: Layer, rank: int) -> tuple[int, ...] | None:
    size, dilation = layer.config.get("kernel_size"), layer.config.get("dilation", 1)
    spread = (dilation,) * rank if isinstance(dilation, int) else dilation
    if not isinstance(size, tuple) or not isinstance(spread, tuple) or len(size) != len(spread):
        return None
    return tuple(each * (width - 1) for width, each in zip(size, spread, strict=True))


def _padding_mode(layer: Layer, value: Any) -> str:
    words = {"circular": "CIRCULAR", "reflect": "REFLECT"}
    modes = {"circular": "wrap", "reflect": "reflect", "replicate": "edge"}
    pad = f"jnp.pad(x, ..., mode={modes.get(value, 'constant')!r}) before it and {_set(layer, 'padding=' + repr('VALID'))}"
    if value == "zeros":
        return f"set padding of {layer.type or 'Conv'} to numbers: those are zeros"
    word = words.get(value)
    return f"set padding={word!r} where it is as wide, or {pad}" if word else f"Flax has no {value} padding: {pad}"


def _normalized(layer: Layer, value: Any) -> str:
    axes = tuple(range(-int(value), 0))
    return _set(layer, f"reduction_axes={axes!r}")


def _unbiased(_: Layer, __: Any) -> str:
    return (
        "nothing to set: Flax keeps the variance that it normalises with, torch n / (n - 1) times it, so training goes on"
        " with another running variance"
    )


def _function(argument: str) -> Callable[[Layer, Any], str]:
    return lambda layer, value: _set(layer, f"{argument}={value if '.' in str(value) else f'nn.{value}'}")


def _reverse(_: Layer, value: Any) -> str:
    return f"set reverse={value!r}{', keep_order=True' if value else ''} of the RNN that runs the cell"


def _keep_order(_: Layer, __: Any) -> str:
    return "set keep_order=True of the RNN that runs the cell: outputs stay at the place of their input"


def _dropout(layer: Layer, value: Any) -> str:
    if layer.kind == "attention":
        return _set(layer, f"dropout_rate={value!r}")
    return f"nothing to set at a cell: Dropout({value!r}) has to stand between the layers of the stack"


def _beyond(what: str) -> Callable[[Layer, Any], str]:
    return lambda _, __: what


def _mode(_: Layer, value: Any) -> str:
    return f"Embed of Flax does not reduce: take the {value} of its output over the indices" if value != "none" else ""


def _padding_idx(_: Layer, value: Any) -> str:
    return f"nothing to set: Embed of Flax trains every row, torch leaves row {value!r} as it is"


_ROWS: Final[Mapping[str, Callable[[Layer, Any], str]]] = MappingProxyType(
    {
        "eps": _named("epsilon"),
        "stride": _named("strides"),
        "dilation": _named("kernel_dilation"),
        "heads": _named("num_heads"),
        "head_dim": lambda layer, value: f"set qkv_features of {layer.type} to {value!r} times its heads",
        "momentum": _momentum,
        "groups": _groups,
        "padding": _padding,
        "padding_mode": _padding_mode,
        "normalized_axes": _normalized,
        "unbiased_var": _unbiased,
        "activation": _function("activation_fn"),
        "gate_activation": _function("gate_fn"),
        "residual": _named("residual"),
        "reverse": _reverse,
        "keep_order": _keep_order,
        "dropout": _dropout,
        "mode": _mode,
        "padding_idx": _padding_idx,
        "max_norm": _beyond("Embed of Flax shortens no row: shorten the table itself, if it was not looked up before"),
        "add_zero_attn": _beyond("the attention of Flax appends no step of zeros: the layer cannot compute it"),
        "causal": _beyond("pass mask=nn.make_causal_mask(x) in the call"),
        "weight_norm_eps": lambda _, value: f"set WeightNorm(epsilon={value!r})",
        "spectral_norm_eps": lambda _, value: f"set SpectralNorm(epsilon={value!r})",
        "power_iterations": lambda _, value: (
            f"set SpectralNorm(n_steps={value!r})"
            if value
            else "Flax iterates in evaluation too: it computes the same once u has converged"
        ),
    }
)

#: Activations by neutral name. Flax's `gelu` is the approximation by tanh unless told otherwise.
ACTIVATIONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "gelu": "functools.partial(jax.nn.gelu, approximate=False)", "gelu_tanh": "jax.nn.gelu",
        "relu": "jax.nn.relu", "relu6": "jax.nn.relu6", "silu": "jax.nn.silu", "tanh": "jax.numpy.tanh",
        "sigmoid": "jax.nn.sigmoid", "elu": "jax.nn.elu", "leaky_relu": "jax.nn.leaky_relu",
    }
)  # fmt: skip
