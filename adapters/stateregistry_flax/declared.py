"""Declared layer types: which modules are layers, beside those of Flax: by type, or by name without importing it.

`register_layer` is the public door; the types of well-known packages that stand in the table below came through it too.
A subclass counts as its base as long as it leaves the methods alone that compute. Looks types up, builds nothing. Imports
neither JAX nor Flax, so a name can be registered before anything is loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final

from stateregistry.layers.declared import Builder, DeclaredTypes, Row, bare
from stateregistry.layers.vocabulary import Config, Layer, Piece

__all__ = ["DECLARED", "PART_OF_ANOTHER", "bare", "register_layer"]


def _conv1d(_: Any) -> Layer:
    """A linear layer that stores its kernel the other way round, as torch does; GPT-2 is made of it."""
    return Layer("linear", "", (Piece("kernel", "kernel", "out in"), Piece("bias", "bias", "out")))


def _rms_norm(eps: Callable[[Any], float]) -> Builder:
    """A normalisation that computes `weight * x / sqrt(mean(x * x) + eps)`."""

    def build(module: Any) -> Layer:
        config = {"eps": float(eps(module)), "normalized_axes": 1}
        return Layer("rms_norm", "", (Piece("scale", "weight", "*features"),), config=config)

    return build


def _weight_normed_conv(module: Any) -> Layer:
    """A convolution whose kernel has a magnitude for each place, stored as torch does; wav2vec2 begins with it."""
    conv = module.conv
    (size,) = conv.kernel_size
    pieces = (
        Piece("kernel_direction", "weight_v", "out in/groups spatial.0"),
        Piece("kernel_magnitude", "weight_g", "1 1 spatial.0"),
        Piece("bias", "bias", "out"),
    )
    config: Config = {
        "groups": int(conv.feature_group_count), "kernel_size": (int(size),), "stride": (1,), "dilation": (1,),
        "padding": (int(size) // 2,) * 2, "weight_norm_dim": "spatial.0",
    }  # fmt: skip
    return Layer("conv", "", pieces, config=config)


#: Looked up by position; the rows are as they are.
_TABLE: Final = Layer("embedding", "", (Piece("embedding", "embedding", "vocab features"),))

_MODELS: Final = "transformers.models"
_ROWS: Final[dict[type | str, Row]] = {
    f"{_MODELS}.gpt2.modeling_flax_gpt2.FlaxConv1D": Row(_conv1d),
    f"{_MODELS}.llama.modeling_flax_llama.FlaxLlamaRMSNorm": Row(_rms_norm(lambda module: module.config.rms_norm_eps)),
    f"{_MODELS}.mistral.modeling_flax_mistral.FlaxMistralRMSNorm": Row(_rms_norm(lambda m: m.config.rms_norm_eps)),
    f"{_MODELS}.t5.modeling_flax_t5.FlaxT5LayerNorm": Row(_rms_norm(lambda module: module.eps)),
    f"{_MODELS}.longt5.modeling_flax_longt5.FlaxLongT5LayerNorm": Row(_rms_norm(lambda module: module.eps)),
    f"{_MODELS}.wav2vec2.modeling_flax_wav2vec2.FlaxConvWithWeightNorm": Row(_weight_normed_conv),
    f"{_MODELS}.dinov2.modeling_flax_dinov2.FlaxDinov2LayerScale": Row(bare),
    f"{_MODELS}.opt.modeling_flax_opt.FlaxOPTLearnedPositionalEmbedding": Row(lambda _: _TABLE),
}


def register_layer(target: type | str, build: Builder, /, *, methods: tuple[str, ...] = ("__call__",)) -> None:
    """Say what a type of Linen or NNX module is, for every registry over such a module from now on.

    A declaration names, for every array, its role and its axes (spec chapter "Layers"); how it converts follows:

        def scaled(module):
            kernel, bias = Piece("kernel", "w", "out in"), Piece("bias", "b", "out")
            return sr.Layer("linear", "", (kernel, bias), config={"gain": module.gain})

        stateregistry_flax.register_layer("my_models.ScaledDense", scaled)

    Args:
        target: the type, or its name as `module.Class` where it is defined; the class need not be importable.
        build: called with a module of the type. It returns a `Layer` whose `path` is `""` (or, for one module that is
            several layers, different names), and whose pieces are named relative to the module (`"q_proj/kernel"` for
            one of an inner module, which is no layer of its own then). A piece that the module does not have is left
            out. `None` instead of a layer: its parameters are parameters of their own.
        methods: what a subclass must leave alone to count as this type.

    A Linen module that `nn.scan` or `nn.vmap` stacks is a layer for each index by itself, as the trace says which axis
    counts. In an NNX module nothing says it: there a declaration names every axis (`spatial.0 spatial.1`, not
    `*spatial`), and an array with more axes is an error.

    The last word on a type is valid, also on a type of Flax.

    Raises:
        AdapterError: no type of module, a name without a module, no function, or a method that the type does not have.
    """
    DECLARED.register(target, build, methods)


def _modules() -> tuple[type, ...]:
    homes = (sys.modules.get(name) for name in ("flax.linen", "flax.nnx"))
    return tuple(home.Module for home in homes if home is not None)


#: Every type that is a layer beside those of Flax.
DECLARED: Final = DeclaredTypes(
    _ROWS,
    methods=("__call__",),
    modules=_modules,
    noun="Linen or NNX modules",
    bare="stateregistry_flax.bare",
)

#: Said of what a wrapper holds where the layer inside of it is none as it stands.
PART_OF_ANOTHER: Final = "what it holds is a part of the layer that it wraps, in a way that no other framework has"
