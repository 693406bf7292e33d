"""Colours: what a layer is and how large, said in neutral words, so that it is the same value in every framework.

Two layers of one colour can hold one another's state as far as metadata tell; two of different colours cannot. Names have
no part in it. Imports the layers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from stateregistry.errors import AxesError
from stateregistry.layers import axes
from stateregistry.layers.vocabulary import WRAPPERS, Layer

if TYPE_CHECKING:
    from stateregistry.entry import Entry

#: A kind, then sizes and which pieces there are.
Colour = tuple[object, ...]

NORMS: Final = frozenset({"layer_norm", "rms_norm", "group_norm", "instance_norm", "batch_norm", "prelu"})
#: What says that a role is under a wrapper; what else the wrapper stores beside it differs between frameworks.
_ENDINGS: Final = tuple(endings[0] for endings in WRAPPERS.values())
RECURRENT: Final = frozenset({"lstm", "gru", "rnn"})


def colour_of(layer: Layer, entries: Mapping[str, Entry], aliases: Mapping[str, str]) -> Colour:
    """The colour of a layer, from the neutral sizes of its pieces."""
    known = tuple((name, int(layer.config[name] or 0)) for name in ("heads", "head_dim") if layer.config.get(name))  # type: ignore[arg-type]  # these two are numbers
    by_role: dict[str, Mapping[str, int]] = {}
    for piece in layer.pieces:
        key = layer.key(piece)
        entry = entries.get(key) or entries.get(aliases.get(key, ""))
        if entry is None:
            continue
        sizes = _sizes(piece.axes, entry.shape, known)
        for role in piece.parts:
            by_role[role] = sizes
    return _colour(layer.kind, by_role)


@lru_cache(maxsize=65536)
def _sizes(pattern: str, shape: tuple[int, ...], known: tuple[tuple[str, int], ...]) -> Mapping[str, int]:
    try:
        return axes.bind(pattern, shape, dict(known)).sizes
    except AxesError:
        return {f"?{number}": size for number, size in enumerate(shape)}  # fits no layer of another side either


def _all(by_role: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for sizes in by_role.values():
        found.update(sizes)
    return found


def _product(sizes: Mapping[str, int], name: str) -> int:
    """The size of an axis, whole or in members; a misfit is no number of any other layer."""
    members = [size for axis, size in sizes.items() if axis == name or axis.startswith(f"{name}.")]
    return math.prod(members) if members else -1


def _colour(kind: str, by_role: Mapping[str, Mapping[str, int]]) -> Colour:
    roles = frozenset(one for role in by_role for one in role.split("+"))
    sizes = _all(by_role)
    odd = tuple(sorted(axis for axis in sizes if axis.startswith("?")))
    wrapped = tuple(sorted(role for role in roles if role.endswith(_ENDINGS))) + odd
    bias = any(role.endswith("bias") for role in roles)
    if kind in ("linear", "embedding"):
        names = ("in", "out") if kind == "linear" else ("features", "vocab")
        return (kind, *(_product(sizes, name) for name in names), bias, *wrapped)
    if kind in ("conv", "conv_transpose"):
        spatial = tuple(sizes[axis] for axis in sorted(sizes) if axis.startswith("spatial"))
        names = ("in/groups", "out") if kind == "conv" else ("in", "out/groups")
        # Of a transposed convolution only the bias says how many groups there are.
        groups = sizes.get("out", 0) // sizes.get("out/groups", 1) if kind == "conv_transpose" else 1
        counted = (f"groups={groups}",) if groups > 1 else ()
        return (kind, *(_product(sizes, name) for name in names), bias, spatial, *wrapped, *counted)
    if kind in NORMS:
        return (
            kind,
            _product(sizes, "features"),
            *sorted(roles & {"scale", "bias", "mean", "var", "slope", "slopes"}),
            *odd,
        )
    if kind == "attention":
        inner = [sizes.get("heads", -1) * sizes.get("head_dim", 1)]
        own = [_product(by_role.get(f"{name}_kernel", {}), "in") for name in ("query", "key", "value")]
        # Not whether a step is appended (`extra_key`): that the other side has no place for it is told of the pair.
        return (kind, *own, *inner, _product(sizes, "out"), bias, *odd)
    if kind in RECURRENT:
        # Not whether there are biases: a side without them says that they are zero, and that is asked of the pair.
        state = sizes.get("state", sizes.get("hidden", -1))
        return (kind, sizes.get("in", -1), sizes.get("hidden", -1), state, *odd)
    return (kind, *sorted(sizes.items()), bias)


def array_colour(shape: tuple[int, ...]) -> Colour:
    """The colour of an array of no layer: its shape without axes of one element."""
    return ("array", *(size for size in shape if size != 1))


def is_vector(colour: Colour) -> bool:
    """Whether all that has this colour are vectors, which no words but equal ones tell apart."""
    return colour[0] in NORMS or (colour[0] == "array" and len(colour) <= 2)


def widths(colour: Colour) -> tuple[int, ...]:
    """The numbers of features that a layer of a colour gives to what follows it."""
    kind = colour[0]
    numbers = [value for value in colour[1:] if isinstance(value, int) and not isinstance(value, bool)]
    if kind == "linear":
        return (numbers[1],)
    if kind == "embedding":
        return (numbers[0],)
    if kind in NORMS:
        return tuple(numbers[:1])
    if kind in RECURRENT:
        return (numbers[1], 2 * numbers[1], numbers[2], 2 * numbers[2])
    return (numbers[-1],) if kind == "attention" else ()
