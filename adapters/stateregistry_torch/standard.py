"""The layers of `torch.nn`: which types are which layer kind, with the pieces and the config that a module of them has.

A type is added with one row; what names alone say of it is a row of the dialect. Config has the names of the spec: what
state depends on and what only the function depends on, never what the pieces say themselves. Imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import nn

from stateregistry.layers.declared import Builder, Row
from stateregistry.layers.vocabulary import Config, Lack, Layer
from stateregistry_torch.attention import attention
from stateregistry_torch.dialect import DIALECT, SLOPE, SLOPES, STATISTICS
from stateregistry_torch.recurrent import cell, stack


def _layer(kind: str, config: Callable[[Any], Config] = lambda _: {}) -> Builder:
    """A builder of layers with the pieces that the dialect has for a kind."""
    declaration = DIALECT.declaration(kind)
    assert declaration is not None
    pieces = declaration.pieces
    return lambda module: Layer(kind, "", pieces, config=config(module))


def _tuple(value: Any) -> tuple[int, ...]:
    return tuple(int(number) for number in value)


def _conv(module: Any) -> Config:
    padding = module.padding
    return {
        "groups": int(module.groups),
        "kernel_size": _tuple(module.kernel_size),
        "stride": _tuple(module.stride),
        "padding": padding.upper() if isinstance(padding, str) else _tuple(padding),
        "dilation": _tuple(module.dilation),
        "padding_mode": str(module.padding_mode),
    }


def _conv_transpose(module: Any) -> Config:
    return {
        "groups": int(module.groups),
        "kernel_size": _tuple(module.kernel_size),
        "stride": _tuple(module.stride),
        "padding": _tuple(module.padding),
        "output_padding": _tuple(module.output_padding),
        "dilation": _tuple(module.dilation),
    }


def _eps(module: Any) -> Config:
    return {"eps": float(module.eps)}


def _running(module: Any) -> Config:
    """`momentum` as torch means it: the weight of what is new; `None` for the mean of all batches."""
    momentum = module.momentum
    return {
        "eps": float(module.eps),
        "momentum": None if momentum is None else float(momentum),
        "unbiased_var": True,  # of the variance that is kept, not of the one that a batch is normalised with
    }


def _layer_norm(module: Any) -> Config:
    return {"eps": float(module.eps), "normalized_axes": len(module.normalized_shape)}


def _rms_norm(module: Any) -> Config:
    """Without `eps`, torch takes that of a dtype: of the input, or in some versions of what it is summed in."""
    eps, weight = module.eps, module._parameters.get("weight")  # noqa: SLF001  # to read `weight` could compute it
    if eps is None and weight is not None and weight.dtype in (torch.float32, torch.float64):
        eps = torch.finfo(weight.dtype).eps
    return {"eps": None if eps is None else float(eps), "normalized_axes": len(module.normalized_shape)}


def _group_norm(module: Any) -> Config:
    return {"groups": int(module.num_groups), "eps": float(module.eps)}


def _instance_norm(module: Any) -> Layer:
    declaration = DIALECT.declaration("instance_norm")
    assert declaration is not None
    return Layer("instance_norm", "", (*declaration.pieces, *STATISTICS), config=_running(module))


def _embedding(module: Any) -> Config:
    config: dict[str, Any] = {"mode": "none", "padding_idx": module.padding_idx}
    if module.max_norm is not None:  # a lookup then shortens the rows that it takes, for good
        config |= {"max_norm": float(module.max_norm), "norm_type": float(module.norm_type)}
    return config


def _embedding_bag(module: Any) -> Config:
    return {**_embedding(module), "mode": str(module.mode)}


def _prelu(module: Any) -> Layer:
    piece, other = (SLOPE, SLOPES) if module.num_parameters == 1 else (SLOPES, SLOPE)
    number = "one slope for all features" if piece is SLOPE else "one slope for each feature"
    lack = Lack((other.role,), f"this PReLU has {number} (num_parameters={module.num_parameters})")
    return Layer("prelu", "", (piece,), lacks=(lack,))


_CONV: Final = Row(_layer("conv", _conv), ("forward", "_conv_forward"))
_CONV_TRANSPOSE: Final = Row(_layer("conv_transpose", _conv_transpose), ("forward", "_output_padding"))
_BATCH_NORM: Final = Row(_layer("batch_norm", _running))
_INSTANCE_NORM: Final = Row(_instance_norm, ("forward", "_apply_instance_norm", "_handle_no_batch_input"))
_LINEAR: Final = Row(_layer("linear"))
_CELL: Final = Row(cell)

#: Every type of `torch.nn` that is a standard layer.
TYPES: Final[Mapping[type, Row]] = MappingProxyType(
    {
        nn.Linear: _LINEAR,
        nn.modules.linear.NonDynamicallyQuantizableLinear: _LINEAR,
        nn.Bilinear: Row(_layer("bilinear")),
        nn.Conv1d: _CONV,
        nn.Conv2d: _CONV,
        nn.Conv3d: _CONV,
        nn.ConvTranspose1d: _CONV_TRANSPOSE,
        nn.ConvTranspose2d: _CONV_TRANSPOSE,
        nn.ConvTranspose3d: _CONV_TRANSPOSE,
        nn.BatchNorm1d: _BATCH_NORM,
        nn.BatchNorm2d: _BATCH_NORM,
        nn.BatchNorm3d: _BATCH_NORM,
        nn.SyncBatchNorm: _BATCH_NORM,
        nn.InstanceNorm1d: _INSTANCE_NORM,
        nn.InstanceNorm2d: _INSTANCE_NORM,
        nn.InstanceNorm3d: _INSTANCE_NORM,
        nn.LayerNorm: Row(_layer("layer_norm", _layer_norm)),
        nn.RMSNorm: Row(_layer("rms_norm", _rms_norm)),
        nn.GroupNorm: Row(_layer("group_norm", _group_norm)),
        nn.Embedding: Row(_layer("embedding", _embedding)),
        nn.EmbeddingBag: Row(_layer("embedding", _embedding_bag)),
        nn.PReLU: Row(_prelu),
        nn.MultiheadAttention: Row(attention),
        nn.LSTM: Row(stack),
        nn.GRU: Row(stack),
        nn.RNN: Row(stack),
        nn.LSTMCell: _CELL,
        nn.GRUCell: _CELL,
        nn.RNNCell: _CELL,
    }
)
