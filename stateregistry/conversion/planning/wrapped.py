"""Wrapped: whether what weight_norm or spectral_norm keeps lies on the same axes in two layers.

The axes of a magnitude, or of u, are a part of what the layer computes: torch keeps `in` of a transposed convolution where
Flax may keep `out`, of equal size. Reads shapes, no values. Imports the algebra of axes and the vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stateregistry.errors import AxesError
from stateregistry.layers import axes
from stateregistry.layers.vocabulary import ROLES, WRAPPERS, Layer, Piece

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stateregistry.conversion.side import Side

#: For each wrapper: the ending of the whole array, and of what lies on the axes that are kept.
_ENDINGS: Final = tuple((endings[0], endings[1]) for endings in WRAPPERS.values())


def crossed(one: Layer, here: Side, two: Layer, there: Side) -> str:
    """Why two layers of one kind keep different axes; empty where they keep the same, or have no wrapper in common."""
    for whole, part in _ENDINGS:
        for role in one.roles:
            base = role.removesuffix(part)
            if role in ROLES[one.kind] or base == role or role not in two.roles:
                continue
            left, right = _kept(one, here, base + whole, role), _kept(two, there, base + whole, role)
            if left is not None and right is not None and left != right:
                return (
                    f"{role} lies on {_named(left)} in the source and on {_named(right)} in the target: the norms are"
                    " those of other parts of the array, whatever their number"
                )
    return ""


def _named(names: frozenset[str]) -> str:
    return " ".join(sorted(names)) or "no axis"


def _kept(layer: Layer, side: Side, whole: str, part: str) -> frozenset[str] | None:
    """The axes of a part; those of a family that are all there count as the family. `None` where shapes do not say it."""
    try:
        every = _bound(layer, side, whole, {})
        mine = _bound(layer, side, part, every.sizes)
    except (AxesError, KeyError):
        return None  # the move of the array itself says what is wrong with it
    families: dict[str, set[str]] = {}
    for name in every.neutral:
        families.setdefault(name.partition(".")[0], set()).add(name)
    found: set[str] = set()
    for family, members in families.items():
        held = members & set(mine.neutral)
        found |= {family} if held == members else held
    return frozenset(found)


def _bound(layer: Layer, side: Side, role: str, sizes: Mapping[str, int]) -> axes.Bound:
    piece: Piece = next(piece for piece in layer.pieces if role in piece.parts)
    return axes.bind(piece.axes, side.entries[side.canonical(layer.key(piece)) or ""].shape, sizes)
