"""Wrappers: a kernel that `WeightNorm` or `SpectralNorm` computes from other arrays, as pieces of the layer it belongs to.

The wrapper holds what it adds beside the wrapped module, under names that spell the path below it. What the vocabulary
cannot say (a norm without a magnitude, of several roles at once, of a sum) makes no layer. Imports the core, neither JAX
nor Flax.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

from stateregistry.entry import Kind
from stateregistry.layers import axes
from stateregistry.layers.vocabulary import WRAPPERS, Config, Lack, Piece
from stateregistry_flax.patterns import words
from stateregistry_flax.rows import Held, Sight

_DIRECTION, _MAGNITUDE = WRAPPERS["weight_norm"]
_ORIGINAL, _U, _V, _SIGMA = WRAPPERS["spectral_norm"]


@final
@dataclass(frozen=True, slots=True)
class Wrapper:
    """A wrapper around a module.

    Attributes:
        path: its key.
        inner: the key of the module that it wraps.
        name: where it has an array: from the key of an array below `inner`, in unescaped segments, and `scale`, `u` or
            `sigma`, to the key relative to the wrapper.
        wraps: whether it computes the array of such a key.
        held: its arrays, by key relative to it.
        feature_axes: of a weight_norm: the native axes that have a magnitude for each of their places, of an array of so
            many axes. `None`: it is a spectral_norm.
        use_scale: of a weight_norm: whether there are magnitudes.
        label: kind and tag of an array that it holds, by its key relative to the wrapper.
        config: what the function depends on.
        buffered: of a weight_norm: why a magnitude that is a buffer is none by what it is for; empty for nothing.
    """

    path: str
    inner: str
    name: Callable[[str, str], str]
    wraps: Callable[[str, int], bool]
    held: Mapping[str, Held]
    feature_axes: Callable[[int], tuple[int, ...]] | None
    use_scale: bool
    label: Callable[[str], tuple[Kind, str]]
    config: Config
    buffered: str = ""


def wrapped(seen: Sight, wrapper: Wrapper) -> Sight | None:
    """What a module is inside a wrapper; `None` where the vocabulary has no word for it."""
    base = _common(seen.path, wrapper.path)
    mine, its = _below(seen.path, base), _below(wrapper.path, base)
    rest = _below(seen.path, wrapper.inner)
    held = {f"{mine}{name}": array for name, array in seen.held.items()}
    held |= {f"{its}{name}": array for name, array in wrapper.held.items()}
    layers = []
    for made in seen.layers:
        pieces: list[Piece] = []
        lacks: list[Lack] = []
        config: dict[str, str | bool] = {}
        for piece in made.pieces:
            array = seen.held.get(piece.name)
            if array is None or not wrapper.wraps(rest + piece.name, len(array.shape)):
                pieces.append(replace(piece, name=mine + piece.name))
                continue
            found = _pieces(piece, len(array.shape), wrapper)
            if found is None:
                return None
            own, others, more, lack = found
            added = [_labelled(other, wrapper, its, wrapper.name(rest + piece.name, end)) for other, end in others]
            if any(other.name not in held for other in added):
                return None
            pieces += [replace(own, name=mine + piece.name), *added]
            config |= more
            lacks += lack
        layers.append(
            replace(
                made,
                pieces=tuple(pieces),
                config={**made.config, **config, **wrapper.config},
                lacks=(*made.lacks, *lacks),
            )
        )
    return replace(seen, layers=tuple(layers), held=held, base=base)


def _labelled(piece: Piece, wrapper: Wrapper, its: str, name: str) -> Piece:
    """What the wrapper holds, with its name, and as the framework declares it."""
    kind, tag = wrapper.label(name)
    reason = wrapper.buffered if kind is Kind.BUFFER else ""
    return replace(piece, name=its + name, kind=kind, tag=tag, kind_reason=reason)


_Found = tuple[Piece, list[tuple[Piece, str]], dict[str, str | bool], list[Lack]]


def _pieces(piece: Piece, rank: int, wrapper: Wrapper) -> _Found | None:
    """What stands in the place of one piece: itself under another role, and what the wrapper holds, with its ending."""
    native = words(piece.axes, rank)
    if native is None or "+" in piece.role or "|" in piece.axes or any(word.startswith("(") for word in native):
        return None
    if wrapper.feature_axes is not None:
        if not wrapper.use_scale:
            return None
        kept = " ".join(native[axis] for axis in wrapper.feature_axes(rank))
        magnitude = Piece(piece.role + _MAGNITUDE, "", kept)
        config: dict[str, str | bool] = {"weight_norm_dim": " ".join(_atoms(kept))}
        return replace(piece, role=piece.role + _DIRECTION), [(magnitude, "scale")], config, []
    left, sigma = Piece(piece.role + _U, "", f"1 {native[-1]}"), Piece(piece.role + _SIGMA, "", "")
    reason = (
        "Flax has no place for it and computes it from u, with one more step of the iteration: the same function once"
        " the iteration has converged"
    )
    lack = Lack((piece.role + _V,), reason, kept=True)
    return replace(piece, role=piece.role + _ORIGINAL), [(left, "u"), (sigma, "sigma")], {"spectral_norm": True}, [lack]


def feature_axes(value: int | Sequence[int] | None, rank: int) -> tuple[int, ...]:
    """The native axes that `feature_axes` of a weight_norm keeps, ascending."""
    if value is None:
        return ()
    return tuple(sorted({axis % rank for axis in ((value,) if isinstance(value, int) else value)}))


def _atoms(pattern: str) -> list[str]:
    return [atom.name for group in axes.parse(pattern) for atom in group.atoms]


def _common(one: str, two: str) -> str:
    """The last module that two keys have in common."""
    shared = []
    for left, right in zip(one.split("/"), two.split("/"), strict=False):
        if left != right:
            break
        shared.append(left)
    return "/".join(shared)


def _below(path: str, base: str) -> str:
    """What comes after `base` in a key, with a slash behind it; empty for `base` itself."""
    rest = path[len(base) :].lstrip("/")
    return f"{rest}/" if rest else ""
