"""Wrappers: a tensor that weight_norm or spectral_norm computes from others, as pieces of the layer it belongs to.

Both ways of torch are read: parametrizations, and the older hooks. What is computed in any other way (orthogonal, pruning,
a user's parametrization, several at once) is not understood, and the caller is told so. Looks at no values. Imports torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, final

from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from stateregistry.entry import Kind
from stateregistry.keys import escape
from stateregistry.layers import axes
from stateregistry.layers.vocabulary import WRAPPERS, Lack, Piece
from stateregistry_torch.dialect import BUFFER_TAG

_DIRECTION, _MAGNITUDE = WRAPPERS["weight_norm"]
_ORIGINAL, _U, _V, _SIGMA = WRAPPERS["spectral_norm"]
_WORD: Final = re.compile(r"\([^)]*\)|\S+")

#: The type of a parametrization, or of a hook, with the name of the wrapper.
_PARAMETRIZATIONS: Final = {
    parametrizations._WeightNorm: "weight_norm",  # noqa: SLF001  # to be recognised
    parametrizations._SpectralNorm: "spectral_norm",  # noqa: SLF001
}
_HOOKS: Final = {WeightNorm: "weight_norm", SpectralNorm: "spectral_norm"}


@final
@dataclass(frozen=True, slots=True)
class Wrapped:
    """What stands in the place of one piece. Names are relative to the module that the tensor is a tensor of."""

    pieces: tuple[Piece, ...]
    config: Mapping[str, str | bool]
    lacks: tuple[Lack, ...] = field(default=())


def wrapped(owner: nn.Module, name: str, piece: Piece) -> Wrapped | None:
    """What a tensor of a module is computed from; `None` where it is not by one of the two wrappers alone.

    Args:
        owner: the module, which does not have the tensor itself.
        name: what the module calls it.
        piece: what the tensor would be, unwrapped.
    """
    found = _by_parametrization(owner, name) or _by_hook(owner, name)
    if found is None or piece.kind is not Kind.PARAMETER:
        return None
    wrapper, dim, names, rank = found
    words = _words(piece.axes, rank)
    if words is None:
        return None
    return (_weight_norm if wrapper == "weight_norm" else _spectral_norm)(piece, words, dim, names)


def _by_parametrization(owner: nn.Module, name: str) -> tuple[str, int, tuple[str, ...], int] | None:
    """The wrapper, its dimension, the names of its tensors, and the rank of the wrapped one."""
    lists = owner._modules.get("parametrizations")  # noqa: SLF001  # the registry of torch itself
    inner = lists._modules.get(name) if lists is not None else None  # noqa: SLF001
    if not isinstance(inner, ParametrizationList) or len(inner) != 1:
        return None
    by: Any = inner[0]
    wrapper = _PARAMETRIZATIONS.get(type(by))
    base = f"parametrizations/{escape(name)}"
    endings = ("original1", "original0") if wrapper == "weight_norm" else ("original", "0/_u", "0/_v")
    tensor = inner._parameters.get(endings[0])  # noqa: SLF001
    if wrapper is None or tensor is None:
        return None
    return wrapper, int(by.dim), tuple(f"{base}/{ending}" for ending in endings), tensor.ndim


def _by_hook(owner: nn.Module, name: str) -> tuple[str, int, tuple[str, ...], int] | None:
    hooks: list[Any] = [hook for hook in owner._forward_pre_hooks.values() if type(hook) in _HOOKS]  # noqa: SLF001
    hook = next((hook for hook in hooks if hook.name == name), None)
    if hook is None:
        return None
    wrapper = _HOOKS[type(hook)]
    endings = ("_v", "_g") if wrapper == "weight_norm" else ("_orig", "_u", "_v")
    tensor = owner._parameters.get(name + endings[0])  # noqa: SLF001
    if tensor is None:
        return None
    return wrapper, int(hook.dim), tuple(escape(name + ending) for ending in endings), tensor.ndim


def _words(pattern: str, rank: int) -> list[str] | None:
    """One word of a pattern for each native axis; `None` where there are not as many axes."""
    words = _WORD.findall(pattern)
    families = [word for word in words if word.startswith("*")]
    if len(families) > 1:
        return None
    for family in families:
        at = words.index(family)
        words[at : at + 1] = [f"{family[1:]}.{number}" for number in range(rank - len(words) + 1)]
    return words if len(words) == rank else None


def _weight_norm(piece: Piece, words: list[str], dim: int, names: tuple[str, ...]) -> Wrapped | None:
    """`dim`: the one axis that has a magnitude for each of its places; -1, torch's word for `None`: one for the whole."""
    kept = None if dim == -1 else dim % len(words)
    for axis, word in enumerate(words):
        if "|" in word and axis != kept:
            return None  # one magnitude for several roles: a norm that none of them has by itself
    magnitude = "" if kept is None else " ".join(word if axis == kept else "1" for axis, word in enumerate(words))
    pieces = (
        replace(piece, role=piece.role + _DIRECTION, name=names[0]),
        replace(piece, role=piece.role + _MAGNITUDE, name=names[1], axes=magnitude),
    )
    return Wrapped(pieces, {"weight_norm_dim": " ".join(_atoms(magnitude))})


def _spectral_norm(piece: Piece, words: list[str], dim: int, names: tuple[str, ...]) -> Wrapped | None:
    """`dim`: the axis of the rows. Torch flattens the others, in native order, into one axis of columns."""
    if len(words) < 2 or any("|" in word for word in words):
        return None  # a vector has no rows; of a fused array it is one norm for several roles
    kept = dim % len(words)
    rest = [atom for axis, word in enumerate(words) if axis != kept for atom in _atoms(word)]
    across = f"({' '.join(rest)})" if len(rest) > 1 else " ".join(rest) or "1"
    pieces = (
        replace(piece, role=piece.role + _ORIGINAL, name=names[0]),
        Piece(piece.role + _U, names[1], words[kept], Kind.BUFFER, BUFFER_TAG),
        Piece(piece.role + _V, names[2], across, Kind.BUFFER, BUFFER_TAG),
    )
    reason = "torch computes sigma from u and v: the residual keeps it"
    return Wrapped(pieces, {"spectral_norm": True}, (Lack((piece.role + _SIGMA,), reason, kept=True),))


def _atoms(pattern: str) -> list[str]:
    return [atom.name for group in axes.parse(pattern) for atom in group.atoms]
