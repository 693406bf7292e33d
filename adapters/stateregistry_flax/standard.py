"""Standard layers that Linen and NNX have alike: linear, convolutions, normalisations, embedding, PReLU.

A builder makes a `Layer` of a module, with the pieces that the type may have and the config in the words of the spec. A
module that computes something else with the same arrays (a masked kernel) is no layer. Imports the core, neither JAX nor
Flax: modules of both frameworks name their fields alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from stateregistry.layers.declared import Row
from stateregistry.layers.vocabulary import Config, Layer
from stateregistry_flax.dialect import Spelling

Shapes = Mapping[str, tuple[int, ...]]


def _whole(value: Any) -> tuple[int, ...]:
    return (int(value),) if isinstance(value, int) else tuple(int(number) for number in value)


def _per_axis(value: Any, rank: int) -> tuple[int, ...]:
    if value is None:
        return (1,) * rank
    return tuple(int(size) for size in value) if isinstance(value, Sequence) else (int(value),) * rank


def _sides(padding: Any, rank: int) -> str | tuple[tuple[int, int], ...]:
    """A name, or low and high for each axis."""
    if isinstance(padding, str):
        return padding
    sides = (padding,) * rank if isinstance(padding, int) else tuple(padding)
    pairs = [(side, side) if isinstance(side, int) else (int(side[0]), int(side[1])) for side in sides]
    return tuple(pairs * rank if len(pairs) == 1 else pairs)


def _flat(pairs: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    return tuple(side for pair in pairs for side in pair)


def _padded(padding: Any, size: Sequence[int], dilation: Sequence[int]) -> Config:
    """`padding` and `padding_mode` of a convolution: what the modes of Flax do, in numbers where there are any."""
    sides = _sides(padding, len(size))
    reach = [spread * (width - 1) for width, spread in zip(size, dilation, strict=True)]
    modes = {"CIRCULAR": "circular", "REFLECT": "reflect"}
    if isinstance(sides, str) and sides in modes:
        # Flax takes one place less before the kernel than behind it where the two cannot be equal.
        return {"padding": _flat([(span // 2, (span + 1) // 2) for span in reach]), "padding_mode": modes[sides]}
    if sides == "CAUSAL":
        return {"padding": _flat([(span, 0) for span in reach]), "padding_mode": "zeros"}
    return {"padding": sides if isinstance(sides, str) else _flat(sides), "padding_mode": "zeros"}


def conv(spelling: Spelling) -> Callable[[Any], Layer | None]:
    """`Conv`."""
    pieces = spelling.weighted("*spatial in/groups out")

    def build(module: Any) -> Layer | None:
        if module.mask is not None:
            return None  # it computes with the product of kernel and mask
        size = _whole(module.kernel_size)
        dilation = _per_axis(module.kernel_dilation, len(size))
        config: dict[str, Any] = {
            "groups": int(module.feature_group_count),
            "kernel_size": size,
            "stride": _per_axis(module.strides, len(size)),
            "dilation": dilation,
            **_padded(module.padding, size, dilation),
        }
        if set(_per_axis(module.input_dilation, len(size))) != {1}:
            config["input_dilation"] = _per_axis(module.input_dilation, len(size))  # no other framework has it
        return Layer("conv", "", pieces, config=config)

    return build


def conv_transpose(spelling: Spelling) -> Callable[[Any], Layer | None]:
    """`ConvTranspose`: with `transpose_kernel=True`, the kernel of the convolution it is the transpose of; else flipped.

    Padding is of the output, as everywhere else: what Flax pads the dilated input with is what is left of the kernel's
    reach.
    """
    plain, flipped = spelling.weighted("*spatial out/groups in"), spelling.weighted("-*spatial in out/groups")

    def build(module: Any) -> Layer | None:
        if module.mask is not None:
            return None
        size = _whole(module.kernel_size)
        dilation = _per_axis(module.kernel_dilation, len(size))
        sides = _sides(module.padding, len(size))
        if not isinstance(sides, str):
            reach = [spread * (width - 1) for width, spread in zip(size, dilation, strict=True)]
            sides = tuple((span - low, span - high) for span, (low, high) in zip(reach, sides, strict=True))
        config: Config = {
            "groups": 1,
            "kernel_size": size,
            "stride": _per_axis(module.strides, len(size)),
            "dilation": dilation,
            "padding": sides if isinstance(sides, str) else _flat(sides),
            "transpose_kernel": bool(module.transpose_kernel),
        }
        return Layer("conv_transpose", "", plain if module.transpose_kernel else flipped, config=config)

    return build


def batch_norm(spelling: Spelling) -> Callable[[Any], Layer]:
    """`BatchNorm`. `momentum` is the weight of what is new; Flax says that of what is kept."""
    pieces = (*spelling.affine("features"), *spelling.statistics)

    def build(module: Any) -> Layer:
        momentum = round(1.0 - float(module.momentum), 12)
        config: dict[str, Any] = {"eps": float(module.epsilon), "momentum": momentum, "unbiased_var": False}
        if _whole(module.axis) != (-1,):
            config["axis"] = _whole(module.axis)
        return Layer("batch_norm", "", pieces, config=config)

    return build


def normalised(module: Any) -> dict[str, Any]:
    """`eps`, and how many of the last axes are normalised; where it is others, which they are."""
    reduced, features = _axes(module.reduction_axes), _axes(module.feature_axes)
    if _last(reduced) and _last(features):
        return {"eps": float(module.epsilon), "normalized_axes": len(reduced)}
    return {"eps": float(module.epsilon), "reduction_axes": reduced, "feature_axes": features}


def _axes(value: Any) -> tuple[int, ...]:
    return tuple(sorted(set(_whole(value))))


def _last(found: tuple[int, ...]) -> bool:
    return found == tuple(range(-len(found), 0))


def over_features(spelling: Spelling, kind: str, axes: str) -> Callable[[Any], Layer]:
    """`LayerNorm` and `RMSNorm`.

    Args:
        spelling: the labels. kind: `layer_norm` or `rms_norm`.
        axes: of the scale: one for each axis of the features in Linen, all of them in one in NNX.
    """
    pieces = spelling.affine(axes) if kind == "layer_norm" else spelling.affine(axes)[:1]
    return lambda module: Layer(kind, "", pieces, config=normalised(module))


def instance_norm(spelling: Spelling) -> Callable[[Any], Layer]:
    """`InstanceNorm`. It keeps no statistics."""
    pieces = spelling.affine("features")

    def build(module: Any) -> Layer:
        config: dict[str, Any] = {"eps": float(module.epsilon)}
        if _whole(module.feature_axes) != (-1,):
            config["feature_axes"] = _axes(module.feature_axes)
        return Layer("instance_norm", "", pieces, config=config)

    return build


def group_norm(spelling: Spelling, groups: Callable[[Any], int], along: int) -> Callable[[Any], Layer]:
    """`GroupNorm`.

    Args:
        spelling: the labels. groups: how many groups a module has.
        along: the axis along which statistics of other than all spatial axes are repeated for the members of a group:
            flax/linen/normalization.py has -1, flax/nnx/nn/normalization.py has 1, which is another function.
    """
    pieces = spelling.affine("features")

    def build(module: Any) -> Layer:
        config: dict[str, Any] = {"eps": float(module.epsilon), "groups": groups(module)}
        if module.reduction_axes is not None:
            config["reduction_axes"] = _whole(module.reduction_axes)
            config["repeated_along"] = along
        return Layer("group_norm", "", pieces, config=config)

    return build


def used(build: Callable[[Any], Layer | None]) -> Callable[[Any], Layer | None]:
    """The builder without pieces that a module is told not to use: what lies beside its arrays is none of it."""

    def of(module: Any) -> Layer | None:
        made = build(module)
        without = {name for name in ("bias", "scale") if not getattr(module, f"use_{name}", True)}
        if made is None or not without:
            return made
        return replace(made, pieces=tuple(piece for piece in made.pieces if piece.role.split("_")[-1] not in without))

    return of


def constant(layer: Layer) -> Callable[[Any], Layer]:
    """A builder for a type whose modules are all alike."""
    return lambda _: layer


def table(
    spelling: Spelling,
    home: Any,
    linear: type,
    features: str,
    groups: Callable[[Any], int],
    shapes: Mapping[str, Callable[[Any], Shapes]],
) -> dict[type, Row]:
    """The rows of the types that the two frameworks have alike.

    Args:
        spelling: the labels of the framework.
        home: the module that has the types. linear: the one that goes by another name.
        features: the axes of a layer_norm.
        groups: as `group_norm`.
        shapes: by name of the type, what its config says of its shapes.
    """
    row = spelling.parameter("embedding", "embedding", "vocab features")
    embedding = Layer("embedding", "", (row,), config={"mode": "none", "padding_idx": None})
    slope = Layer("prelu", "", (spelling.parameter("slope", "negative_slope", ""),))
    builders: dict[type, Callable[[Any], Layer | None]] = {
        linear: constant(Layer("linear", "", spelling.weighted("in out"))),
        home.Conv: conv(spelling),
        home.ConvTranspose: conv_transpose(spelling),
        home.BatchNorm: batch_norm(spelling),
        home.LayerNorm: over_features(spelling, "layer_norm", features),
        home.RMSNorm: over_features(spelling, "rms_norm", features),
        home.GroupNorm: group_norm(spelling, groups, -1 if home.__name__ == "flax.linen" else 1),
        home.InstanceNorm: instance_norm(spelling),
        home.Embed: constant(embedding),
        home.PReLU: constant(slope),
    }
    return {native: Row(used(build), shapes=shapes.get(native.__name__)) for native, build in builders.items()}
