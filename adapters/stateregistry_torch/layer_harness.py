"""Layers of torch for the conformance suite: modules as torch makes and runs them, in float64, without a line of the adapter.

What a case asks for and torch does not have is refused, never left out. Data comes channels last; torch has channels behind the
batch. Imports torch and the suite.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrizations

from stateregistry_conformance.declaration import CannotBuild
from stateregistry_conformance.harness import Specimen
from stateregistry_conformance.trials.case import LayerCase

_CONVS: Final = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED: Final = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
#: What has channels as its second axis.
_CHANNELS: Final = (*_CONVS, *_TRANSPOSED, nn.BatchNorm2d, nn.InstanceNorm2d, nn.GroupNorm)


def build(case: LayerCase, /) -> nn.Module:
    """The module of a case.

    Raises:
        CannotBuild: torch has no such layer, or not with such config.
    """
    if case.stacked:
        raise CannotBuild("torch has no layers that share an array")
    asked = dict(case.config)
    wrapper = {name: asked.pop(name) for name in ("weight_norm_dim", "spectral_norm") if name in asked}
    module = _MAKERS[case.kind](case, asked)
    if asked:
        raise CannotBuild(f"{type(module).__name__} of torch has no {', '.join(sorted(asked))}")
    if "weight_norm_dim" in wrapper:
        module = parametrizations.weight_norm(module, dim=_dimension(case, str(wrapper["weight_norm_dim"])))
    if "spectral_norm" in wrapper:
        module = parametrizations.spectral_norm(module)
    return module.double().eval()


def _dimension(case: LayerCase, axis: str) -> Any:
    spatial = [f"spatial.{number}" for number in range(len(case.spatial))]
    axes = {"conv": ["out", "in/groups", *spatial], "conv_transpose": ["in", "out/groups", *spatial]}
    return axes.get(case.kind, ["out", "in"]).index(axis) if axis else None


def _linear(case: LayerCase, _: dict[str, Any]) -> nn.Module:
    if "out" not in case.sizes:
        raise CannotBuild("nn.Linear has one axis out")
    return nn.Linear(case.sizes["in"], case.sizes["out"], bias=case.has("bias"))


def _bilinear(case: LayerCase, _: dict[str, Any]) -> nn.Module:
    return nn.Bilinear(case.sizes["in1"], case.sizes["in2"], case.sizes["out"], bias=case.has("bias"))


def _conv(case: LayerCase, asked: dict[str, Any]) -> nn.Module:
    given = {name: asked.pop(name) for name in ("stride", "dilation", "groups", "padding_mode") if name in asked}
    padding = asked.pop("padding", 0)
    if isinstance(padding, str):
        if padding == "SAME" and given.get("stride", 1) != 1:
            raise CannotBuild("padding='same' of torch is for a stride of one")
        padding = padding.lower()
    cls = _CONVS[len(case.spatial) - 1]
    size: Any = case.spatial
    made: nn.Module = cls(
        case.sizes["in"], case.sizes["out"], size, padding=_sides(padding), bias=case.has("bias"), **given
    )
    return made


def _conv_transpose(case: LayerCase, asked: dict[str, Any]) -> nn.Module:
    names = ("stride", "dilation", "groups", "output_padding")
    given = {name: asked.pop(name) for name in names if name in asked}
    padding = asked.pop("padding", 0)
    if isinstance(padding, str):
        raise CannotBuild("ConvTranspose of torch has padding in numbers alone")
    cls = _TRANSPOSED[len(case.spatial) - 1]
    size: Any = case.spatial
    made: nn.Module = cls(
        case.sizes["in"], case.sizes["out"], size, padding=_sides(padding), bias=case.has("bias"), **given
    )
    return made


def _sides(padding: Any) -> Any:
    if isinstance(padding, tuple) and any(isinstance(side, tuple) for side in padding):
        raise CannotBuild("torch pads both sides of an axis alike")
    return padding


def _embedding(case: LayerCase, asked: dict[str, Any]) -> nn.Module:
    names = ("max_norm", "norm_type", "padding_idx")
    given = {name: asked.pop(name) for name in names if name in asked}
    if "mode" in asked:
        return nn.EmbeddingBag(case.sizes["vocab"], case.sizes["features"], mode=asked.pop("mode"), **given)
    return nn.Embedding(case.sizes["vocab"], case.sizes["features"], **given)


def _running(cls: type[nn.Module]) -> Callable[[LayerCase, dict[str, Any]], nn.Module]:
    def make(case: LayerCase, asked: dict[str, Any]) -> nn.Module:
        given = {name: asked.pop(name) for name in ("eps", "momentum") if name in asked}
        kept = "mean" in case.roles
        return cls(case.sizes["features"], affine="scale" in case.roles, track_running_stats=kept, **given)

    return make


def _over_features(cls: type[nn.Module]) -> Callable[[LayerCase, dict[str, Any]], nn.Module]:
    def make(case: LayerCase, asked: dict[str, Any]) -> nn.Module:
        features = case.family("features")
        given = {"eps": asked.pop("eps")} if "eps" in asked else {}
        if cls is nn.LayerNorm:
            given["bias"] = "bias" in case.roles
        return cls(features, **given)

    return make


def _group_norm(case: LayerCase, asked: dict[str, Any]) -> nn.Module:
    given = {"eps": asked.pop("eps")} if "eps" in asked else {}
    return nn.GroupNorm(asked.pop("groups"), case.sizes["features"], **given)


def _attention(case: LayerCase, asked: dict[str, Any]) -> nn.Module:
    heads = asked.pop("heads")
    width = heads * asked.pop("head_dim")
    if {case.sizes["in"], case.sizes["out"]} != {width}:
        raise CannotBuild("nn.MultiheadAttention has as many features in and out as its heads have together")
    given = {name: asked.pop(name) for name in ("add_zero_attn", "dropout") if name in asked}
    return nn.MultiheadAttention(
        width, heads, kdim=case.sizes["key_in"], vdim=case.sizes["value_in"], bias=case.has("bias"),
        add_bias_kv="extra_key" in case.roles, batch_first=True, **given,
    )  # fmt: skip


def _recurrent(case: LayerCase, asked: dict[str, Any]) -> nn.Module:
    cls: type[nn.Module] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[case.kind]
    given: dict[str, Any] = {}
    if case.kind == "rnn" and "activation" in asked:
        given["nonlinearity"] = asked.pop("activation")
    if "projection_kernel" in case.roles:
        given["proj_size"] = case.sizes["state"]
    return cls(
        case.sizes["in"], case.sizes["hidden"], case.depth, bias=case.has("bias"), batch_first=True,
        bidirectional=case.directions == 2, **given,
    )  # fmt: skip


def _prelu(case: LayerCase, _: dict[str, Any]) -> nn.Module:
    return nn.PReLU() if "slope" in case.roles else nn.PReLU(case.sizes["features"])


_MAKERS: Final[Mapping[str, Callable[[LayerCase, dict[str, Any]], nn.Module]]] = {
    "linear": _linear, "bilinear": _bilinear, "conv": _conv, "conv_transpose": _conv_transpose, "embedding": _embedding,
    "batch_norm": _running(nn.BatchNorm2d), "instance_norm": _running(nn.InstanceNorm2d),
    "layer_norm": _over_features(nn.LayerNorm), "rms_norm": _over_features(nn.RMSNorm), "group_norm": _group_norm,
    "attention": _attention, "lstm": _recurrent, "gru": _recurrent, "rnn": _recurrent, "prelu": _prelu,
}  # fmt: skip

#: The layer kinds of torch, and its wrappers.
KINDS: Final = (*_MAKERS, "weight_norm", "spectral_norm")


def forward(model: nn.Module, inputs: Sequence[np.ndarray], /) -> np.ndarray:
    """What a module computes, channels last."""
    moved = isinstance(model, _CHANNELS)
    tensors = [torch.from_numpy(np.moveaxis(x, -1, 1).copy() if moved else x.copy()) for x in inputs]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Using padding='same'")  # that it is slow for an even kernel
        if isinstance(model, nn.MultiheadAttention):
            y = model(*tensors, need_weights=False)[0]
        else:
            y = model(*tensors)
            y = y[0] if isinstance(model, nn.RNNBase) else y
    found: np.ndarray = y.movedim(1, -1).contiguous().numpy() if moved else y.numpy()
    return np.array(found)


class Doubled(nn.Linear):
    """Computes twice what its base does."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002  # as torch calls it
        """Twice the product."""
        return 2 * super().forward(input)


class Lookalike(nn.Module):
    """Has what a linear layer has, and is none."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(16.0).reshape(4, 4))
        self.bias = nn.Parameter(torch.ones(4))


class Beside(nn.Module):
    """A linear layer, and a table of its shape."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.weight = nn.Parameter(torch.arange(16.0).reshape(4, 4))


def odd(name: str, /) -> Specimen:
    """One of the modules that look like a layer."""
    if name == "undeclared":
        return Specimen(Lookalike(), ("bias", "weight"))
    if name == "overridden":
        return Specimen(Doubled(4, 4), ("bias", "weight"))
    if name == "bare":
        return Specimen(Beside(), ("weight",))
    if name == "contradiction":
        module = nn.MultiheadAttention(4, 2)
        module.num_heads = 3
        return Specimen(module, ("in_proj_bias", "in_proj_weight", "out_proj/bias", "out_proj/weight"))
    normed = parametrizations.weight_norm(nn.LSTM(4, 4), "weight_ih_l0", dim=1)
    base = "parametrizations/weight_ih_l0"
    return Specimen(normed, (f"{base}/original0", f"{base}/original1"))
