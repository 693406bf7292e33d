"""What a layer case of the conformance suite asks for, in the words in which Linen and NNX take it.

Both frameworks name the options of a convolution or a normalisation alike. What Flax does not have is refused, never left out.
Nothing here goes through the adapter. Imports JAX and the suite.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import jax
import jax.numpy as jnp

from stateregistry_flax.native import cannot_build

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    from stateregistry_conformance.trials.case import LayerCase

#: The layer kinds that both have, and what else the adapters tell.
KINDS: Final = (
    "linear", "conv", "conv_transpose", "embedding", "batch_norm", "instance_norm", "layer_norm", "rms_norm", "group_norm",
    "attention", "lstm", "gru", "rnn", "prelu", "weight_norm", "spectral_norm", "stacked",
)  # fmt: skip

FUNCTIONS: Final = {"tanh": jnp.tanh, "relu": jax.nn.relu, "sigmoid": jax.nn.sigmoid}


def finished(asked: Mapping[str, Any], what: str) -> None:
    """Refuse what is left of what was asked for."""
    if asked:
        cannot_build(f"{what} of Flax has no {', '.join(sorted(asked))}")


def _each(value: Any, rank: int) -> tuple[int, ...]:
    return (value,) * rank if isinstance(value, int) else tuple(value)


def _pairs(padding: Any, rank: int) -> tuple[tuple[int, int], ...]:
    return tuple((one, one) if isinstance(one, int) else tuple(one) for one in _each(padding, rank))


def conv(case: LayerCase, asked: dict[str, Any]) -> dict[str, Any]:
    """Options of `Conv`."""
    rank = len(case.spatial)
    dilation = _each(asked.pop("dilation", 1), rank)
    made: dict[str, Any] = {
        "strides": _each(asked.pop("stride", 1), rank),
        "kernel_dilation": dilation,
        "feature_group_count": asked.pop("groups", 1),
        "use_bias": case.has("bias"),
    }
    padding, mode = asked.pop("padding", None), asked.pop("padding_mode", "zeros")
    if mode != "zeros":
        reach = [spread * (size - 1) for spread, size in zip(dilation, case.spatial, strict=True)]
        own = tuple((span // 2, (span + 1) // 2) for span in reach)
        if mode not in ("circular", "reflect") or _pairs(padding, rank) != own:
            cannot_build(f"Conv of Flax pads {own} in the modes circular and reflect, and in no other mode")
        made["padding"] = mode.upper()
    elif padding is not None:
        made["padding"] = padding if isinstance(padding, str) else _pairs(padding, rank)
    return made


def conv_transpose(case: LayerCase, asked: dict[str, Any]) -> dict[str, Any]:
    """Options of `ConvTranspose`, which pads the dilated input: what is left of the kernel's reach."""
    rank = len(case.spatial)
    if asked.pop("groups", 1) != 1:
        cannot_build("ConvTranspose of Flax has no groups")
    dilation = _each(asked.pop("dilation", 1), rank)
    made: dict[str, Any] = {
        "strides": _each(asked.pop("stride", 1), rank),
        "kernel_dilation": dilation,
        "use_bias": case.has("bias"),
        "transpose_kernel": asked.pop("transpose_kernel", False),
    }
    more, padding = _each(asked.pop("output_padding", 0), rank), asked.pop("padding", None)
    if padding is None or isinstance(padding, str):
        return made if padding is None else {**made, "padding": padding}
    sides = zip(_pairs(padding, rank), more, dilation, case.spatial, strict=True)
    made["padding"] = tuple(
        (spread * (size - 1) - low, spread * (size - 1) - high + extra) for (low, high), extra, spread, size in sides
    )
    return made


def norm(case: LayerCase, asked: dict[str, Any]) -> dict[str, Any]:
    """Options of the normalising layers."""
    made: dict[str, Any] = {"epsilon": asked.pop("eps")} if "eps" in asked else {}
    if "momentum" in asked and case.kind == "batch_norm":
        made["momentum"] = 1.0 - asked.pop("momentum")
    made |= {"use_scale": "scale" in case.roles}
    if case.kind != "rms_norm":
        made["use_bias"] = "bias" in case.roles
    if case.kind == "batch_norm":
        made["use_running_average"] = True
    if ("mean" in case.roles) != (case.kind == "batch_norm"):
        cannot_build("BatchNorm of Flax has statistics in evaluation, and InstanceNorm has none")
    features, over = case.family("features"), asked.pop("normalized_axes", None)
    if len(features) > 1 or over is not None:
        made["reduction_axes"] = tuple(range(-(over or len(features)), 0))
        made["feature_axes"] = tuple(range(-len(features), 0))
    if case.kind == "group_norm":
        made["num_groups"] = asked.pop("groups")
    return made


def attention(case: LayerCase, asked: dict[str, Any]) -> dict[str, Any]:
    """Options of the multi-head attentions."""
    if "extra_key" in case.roles:
        cannot_build("attention of Flax appends no step of its own")
    heads, width = asked.pop("heads"), asked.pop("head_dim")
    return {
        "num_heads": heads, "qkv_features": heads * width, "out_features": case.sizes["out"],
        "use_bias": case.has("bias"), "dropout_rate": asked.pop("dropout", 0.0), "deterministic": True,
    }  # fmt: skip


def cell(case: LayerCase, asked: dict[str, Any]) -> dict[str, Any]:
    """Options of the recurrent cells."""
    if not case.has("bias") or "projection_kernel" in case.roles:
        cannot_build("a cell of Flax has its biases, and no projection")
    made: dict[str, Any] = {}
    for name, option in (("activation", "activation_fn"), ("gate_activation", "gate_fn")):
        if name in asked:
            made[option] = FUNCTIONS[asked.pop(name)]
    if "residual" in asked:
        made["residual"] = asked.pop("residual")
    return made


def kept(case: LayerCase, names: str, *, laid_out: bool = False) -> tuple[int, ...] | None:
    """The native axes that a weight_norm keeps, by their neutral names; `None` for none.

    Args:
        laid_out: the kernel is that of a `ConvTranspose` with `transpose_kernel=True`.
    """
    spatial = [f"spatial.{number}" for number in range(len(case.spatial))]
    native = {
        "conv": [*spatial, "in/groups", "out"],
        "conv_transpose": [*spatial, *(("out/groups", "in") if laid_out else ("in", "out/groups"))],
    }.get(case.kind, ["in", "out"])
    return tuple(native.index(name) for name in names.split()) or None


def native_inputs(inputs: Sequence[np.ndarray]) -> list[jax.Array]:
    """Inputs as the modules take them."""
    return [jnp.asarray(x, jnp.int32 if x.dtype.kind in "iu" else jnp.float32) for x in inputs]
