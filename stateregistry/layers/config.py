"""Config: the values of a layer that its roles do not say, by kind, and what hangs on each of them.

`CONFIG` is the table of the spec (chapter Layers, Config) as data: the layout of native state, the function, or training
alone. `contradiction` holds config against the shapes of native arrays. Decides nothing about two layers: that is the
business of findings. Knows no framework; reads no values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypeGuard

from stateregistry.errors import AxesError
from stateregistry.layers import axes
from stateregistry.layers.vocabulary import WRAPPERS

if TYPE_CHECKING:
    from stateregistry.layers.vocabulary import Layer, Piece

#: What hangs on a value: the layout of native state, what is computed in evaluation, or what is learnt in training.
Matter: TypeAlias = Literal["state", "evaluation", "training"]


def _names(state: str = "", function: str = "", training: str = "") -> Mapping[str, Matter]:
    found: dict[str, Matter] = {}
    found |= dict.fromkeys(state.split(), "state")
    found |= dict.fromkeys(function.split(), "evaluation")
    found |= dict.fromkeys(training.split(), "training")
    return MappingProxyType(found)


_RUNNING: Final = _names("", "eps", "momentum unbiased_var")
_GATES: Final = _names("", "activation gate_activation reverse", "dropout")
_NORM: Final = _names("", "eps normalized_axes")

#: The config of every layer kind, by name, with what hangs on it.
CONFIG: Final[Mapping[str, Mapping[str, Matter]]] = MappingProxyType(
    {
        "linear": _names(),
        "conv": _names("groups kernel_size", "stride dilation padding padding_mode"),
        "conv_transpose": _names("groups kernel_size transpose_kernel", "stride dilation padding output_padding"),
        "embedding": _names("", "mode max_norm norm_type", "padding_idx"),
        "batch_norm": _RUNNING,
        "instance_norm": _RUNNING,
        "layer_norm": _NORM,
        "rms_norm": _NORM,
        "group_norm": _names("", "eps groups"),
        "attention": _names("heads head_dim", "causal add_zero_attn", "dropout"),
        "lstm": _GATES,
        "gru": _GATES,
        "rnn": _names("", "activation residual reverse", "dropout"),
        "prelu": _names(),
        "bilinear": _names(),
    }
)

#: The config that a wrapper adds to that of the layer.
WRAPPER_CONFIG: Final[Mapping[str, Mapping[str, Matter]]] = MappingProxyType(
    {
        "weight_norm": _names("weight_norm_dim", "weight_norm_eps"),
        "spectral_norm": _names("spectral_norm", "spectral_norm_eps power_iterations"),
    }
)

#: What a layer that does not say a value has, as far as the spec says so.
UNSAID: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "output_padding": 0, "mode": "none", "max_norm": None, "norm_type": 2.0, "padding_idx": None,
        "gate_activation": "sigmoid", "weight_norm_eps": 0.0, "spectral_norm_eps": 0.0, "power_iterations": 0,
    }
)  # fmt: skip

#: What an adapter notes for itself, and nothing hangs on.
NOTES: Final = frozenset({"stacked"})

#: Config that is the size of an axis of that name.
SIZES: Final = ("heads", "head_dim")


def known(layer: Layer, /) -> Mapping[str, Matter]:
    """The config that a layer of this kind, under its wrappers, may have by the spec."""
    roles = layer.roles
    found = dict(CONFIG.get(layer.kind, {}))
    for wrapper, (whole, *_) in WRAPPERS.items():
        if any(role.endswith(whole) for role in roles):
            found |= WRAPPER_CONFIG[wrapper]
    return found


def function_of(layer: Layer, /) -> str:
    """What a layer computes that holds no state, in one word: a norm without scale and bias has an eps all the same."""
    names = [name for name, matter in CONFIG.get(layer.kind, {}).items() if matter == "evaluation"]
    if not layer.kind.endswith("_norm") or not all(layer.config.get(name) for name in names):
        return ""  # what a layer does not say of itself cannot be compared
    return f"{layer.kind}({', '.join(f'{name}={layer.config[name]!r}' for name in names)})"


# -------------------------------------------------------------------- against shapes


def contradiction(layer: Layer, shapes: Mapping[str, tuple[int, ...]], /) -> str:
    """In what the config of a layer contradicts the shapes of its native arrays (SR-LAYER-009); empty for nothing.

    Args:
        layer: with the pieces that it has.
        shapes: of native arrays, by the name of the piece; pieces without one are not looked at.

    Returns:
        The config, the array and its shape, in one clause.
    """
    for piece in layer.pieces:
        shape = shapes.get(piece.name)
        if shape is None or not axes.rank_fits(piece.axes, len(shape)):
            continue
        found = _of_piece(layer, piece, shape)
        if found:
            return found
    return ""


def _of_piece(layer: Layer, piece: Piece, shape: tuple[int, ...]) -> str:
    config, named = layer.config, _axes_of(piece)
    given: dict[str, int] = {name: value for name in SIZES if name in named and _is_whole(value := config.get(name))}
    try:
        sizes = axes.bind(piece.axes, shape, given).sizes
    except AxesError as error:
        said = ", ".join(f"{name}={value}" for name, value in given.items())
        # Without a size from the config, what does not fit is no matter of it.
        return f"{said}: {piece.name} has the shape {shape}, {error.message}" if given else ""
    for text in (
        _groups(layer.kind, config, piece, sizes),
        _spatial(config, piece, sizes),
        _features(config, piece, sizes),
        _vocabulary(config, sizes),
    ):
        if text:
            return f"{text}: {piece.name} has the shape {shape}"
    return ""


def _axes_of(piece: Piece) -> set[str]:
    return {atom.name for group in axes.parse(piece.axes) for atom in group.atoms}


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


#: The axis that the groups of a kind divide.
_DIVIDED: Final = {"conv": "out", "conv_transpose": "in", "group_norm": "features"}


def _groups(kind: str, config: Mapping[str, Any], piece: Piece, sizes: Mapping[str, int]) -> str:
    groups, axis = config.get("groups"), _DIVIDED.get(kind, "")
    if not _is_whole(groups) or axis not in sizes or piece.parts.keys().isdisjoint(_WHOLE):
        return ""
    return "" if groups > 0 and sizes[axis] % groups == 0 else f"groups={groups} does not divide {sizes[axis]} ({axis})"


#: Roles that have their axes whole, whatever a wrapper does.
_WHOLE: Final = frozenset({"kernel", "kernel_direction", "kernel_original", "scale", "bias"})


def _spatial(config: Mapping[str, Any], piece: Piece, sizes: Mapping[str, int]) -> str:
    if piece.parts.keys().isdisjoint(_WHOLE):
        return ""
    spatial = [sizes[name] for name in sorted(sizes, key=_number) if name.startswith("spatial.")]
    if not spatial:
        return ""
    size = config.get("kernel_size")
    if isinstance(size, tuple) and size != tuple(spatial):
        return f"kernel_size={size}, and the kernel has {tuple(spatial)}"
    wanted = {"stride": (1,), "dilation": (1,), "output_padding": (1,), "padding": (1, 2)}
    for name, times in wanted.items():
        value = config.get(name)
        if isinstance(value, tuple) and len(_flat(value)) not in {len(spatial) * each for each in times}:
            return f"{name}={value}, and the kernel has {len(spatial)} spatial axes"
    return ""


def _number(name: str) -> int:
    tail = name.rpartition(".")[2]
    return int(tail) if tail.isdigit() else -1


def _flat(value: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(one for each in value for one in (each if isinstance(each, tuple) else (each,)))


def _features(config: Mapping[str, Any], piece: Piece, sizes: Mapping[str, int]) -> str:
    number = config.get("normalized_axes")
    held = [name for name in sizes if name == "features" or name.startswith("features.")]
    if not _is_whole(number) or len(held) <= number:
        return ""
    return f"normalized_axes={number}, and {' and '.join(piece.parts)} has {len(held)} axes of features"


def _vocabulary(config: Mapping[str, Any], sizes: Mapping[str, int]) -> str:
    row = config.get("padding_idx")
    if not _is_whole(row) or "vocab" not in sizes or 0 <= row < sizes["vocab"]:
        return ""
    return f"padding_idx={row} is none of {sizes['vocab']} rows"
