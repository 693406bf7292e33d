"""Declared layer types: which modules are layers, beside those of Flax: by type, or by name without importing it.

`register_layer` is the public door; the types of well-known packages that stand in the table below came through it too.
A subclass counts as its base as long as it leaves the methods alone that compute. Looks types up, builds nothing. Imports
neither JAX nor Flax, so a name can be registered before anything is loaded.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, final

from stateregistry.errors import AdapterError
from stateregistry.layers.vocabulary import Config, Holder, Layer, Piece

#: What a module is: a layer, several, or `None` for none. See `register_layer`.
Builder = Callable[[Any], Layer | Iterable[Layer] | None]


@final
@dataclass(frozen=True, slots=True)
class Row:
    """What a type is.

    Attributes:
        build: from a module to its layers.
        methods: what a subclass must leave alone to count as the type.
        shapes: what shapes its arrays have by its own config, by name; tells a stacked module from a plain one in NNX,
            where nothing else does. `None`: the declared axes say how many there are.
        strict: an array that contradicts the declaration is an error; else the module is no layer then.
    """

    build: Builder
    methods: tuple[str, ...] = ("__call__",)
    shapes: Callable[[Any], Mapping[str, tuple[int, ...]]] | None = None
    strict: bool = False


def bare(_: Any) -> None:
    """A declaration: its parameters are parameters of their own, as a class token or a layer scale is."""


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
    if isinstance(target, str):
        if not all(part.isidentifier() or part == "<locals>" for part in target.split(".")) or "." not in target:
            message = f"register_layer: {target!r} is no qualified name of a class"
            raise AdapterError(message, hint="write it as package.module.Class, where the class is defined")
    elif not (isinstance(target, type) and issubclass(target, _modules())):
        message = f"register_layer: {target!r} is neither a type of Linen or NNX modules nor the name of one"
        raise AdapterError(message, hint="pass the class itself, or its qualified name as a string")
    else:
        _refuse_unknown(target, methods)
    if not callable(build):
        message = f"register_layer: the declaration of {_name(target)} is {build!r}, not a function of a module"
        raise AdapterError(message, hint="pass a function that returns a Layer, or stateregistry_flax.bare")
    for other in [known for known in _ROWS if _name(known) == _name(target)]:
        if isinstance(other, str) or isinstance(target, str) or other is target:
            del _ROWS[other]
    _ROWS[target] = Row(build, methods, strict=True)


def _modules() -> tuple[type, ...]:
    """The base classes of modules, of what is loaded."""
    homes = (sys.modules.get(name) for name in ("flax.linen", "flax.nnx"))
    return tuple(home.Module for home in homes if home is not None)


def _name(target: type | str) -> str:
    return target if isinstance(target, str) else f"{target.__module__}.{target.__qualname__}"


def _refuse_unknown(cls: type, methods: tuple[str, ...]) -> None:
    unknown = [name for name in methods if not hasattr(cls, name)]
    if unknown:
        message = f"register_layer: {_name(cls)} has no method {', '.join(unknown)}"
        raise AdapterError(message, hint="methods= names what a subclass must leave alone to count as this type")


def registered(cls: type, /) -> Row | None:
    """What was registered for exactly this type, `None` for nothing."""
    row = _ROWS.get(cls)
    if row is not None:
        return row
    row = _ROWS.get(_name(cls))
    if row is not None:
        _refuse_unknown(cls, row.methods)
    return row


def row_of(cls: type, table: Mapping[type, Row]) -> Row | None:
    """The row that a type counts as: its own, or that of a base whose methods it leaves alone; `None` for none."""
    for base in cls.__mro__:
        row = registered(base) or table.get(base)
        if row is not None:
            return row if all(_method(cls, name) is _method(base, name) for name in row.methods) else None
    return None


def _method(cls: type, name: str) -> object:
    """A method as the class has it.

    A lookup gives another object each time where it belongs to the metaclass, as `__call__` does of a module without one.
    """
    return inspect.getattr_static(cls, name, None)


#: Said of what a wrapper holds where the layer inside of it is none as it stands.
PART_OF_ANOTHER: Final = "what it holds is a part of the layer that it wraps, in a way that no other framework has"


def holder(cls: type, path: str, table: Mapping[type, Row], no_layers: Mapping[type, str]) -> Holder:
    """A module of a type, as what holds entries.

    Args:
        cls, path: the type, and where the module is. table: the rows of the framework.
        no_layers: types that are never a layer, with the reason.
    """
    row = row_of(cls, table)
    is_bare = row is not None and row.build is bare
    reason = no_layers.get(cls, "") if row is None else ""
    return Holder(_name(cls), path, is_bare, (row is not None and not is_bare) or bool(reason), reason)
