"""Reading: the native arrays of a layer taken apart into roles by its declared patterns, and put together again.

What one pattern alone cannot size (a flattened vector over several axes) the other arrays of the layer tell. Sizes are kept
for each array, so that they can be compared. Refuses what the algebra refuses. Imports NumPy and the core.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

from stateregistry.errors import AxesError
from stateregistry.layers import axes
from stateregistry.layers.vocabulary import OWN_AXES
from stateregistry_conformance.formulas import Named

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from stateregistry.layers.vocabulary import Layer, Piece
    from stateregistry_conformance.trials.case import LayerCase

#: Axes that query, key and value of an attention have each for themselves (SR-LAYER-004).
_PER_OPERAND = frozenset({"in", "heads"})
#: Config that says the sizes of axes.
_SIZES = ("heads", "head_dim")


@final
@dataclass(frozen=True, slots=True)
class Reading:
    """A layer whose patterns fit its arrays.

    Attributes:
        layer: as it is declared.
        bounds: the fitted pattern of each piece.
    """

    layer: Layer
    bounds: tuple[tuple[Piece, axes.Bound], ...]

    def roles(self, arrays: Mapping[str, np.ndarray]) -> dict[str, Named]:
        """Every role, from the native arrays by key."""
        found: dict[str, Named] = {}
        for piece, bound in self.bounds:
            parts = bound.expand(arrays[self.layer.key(piece)])
            found |= {role: Named(parts[part], bound.neutral) for role, part in piece.parts.items()}
        return found

    def conflict(self) -> str:
        """Which axis has two sizes; empty for none."""
        seen: dict[str, tuple[str, int]] = {}
        for piece, bound in self.bounds:
            for name, size in bound.sizes.items():
                operand = (
                    piece.role.partition("_")[0] if self.layer.kind == "attention" and name in _PER_OPERAND else ""
                )
                other, known = seen.setdefault(f"{operand} {name}", (piece.name, size))
                if known != size:
                    return f"{name} has size {known} in {other} and {size} in {piece.name}"
        return ""


def read(layer: Layer, shapes: Mapping[str, tuple[int, ...]], case: LayerCase) -> Reading:
    """Fit every pattern of a layer to the shape of its array, by key.

    Raises:
        AxesError: a pattern does not parse or does not fit, or nothing says a size.
    """
    known = {name: value for name in _SIZES if isinstance(value := layer.config.get(name), int)}
    known |= {name: size for name, size in case.sizes.items() if name.startswith("features.")}
    own, learned = OWN_AXES.get(layer.kind, frozenset()), dict(known)
    found: dict[str, axes.Bound] = {}
    for sizes in (known, learned):  # what a pattern cannot know by itself, the second round has learned from the others
        for piece in layer.pieces:
            if piece.name in found:
                continue
            try:
                bound = axes.bind(piece.axes, shapes[layer.key(piece)], sizes)
            except AxesError:
                if sizes is learned:
                    raise
                continue
            found[piece.name] = bound
            learned |= {name: size for name, size in bound.sizes.items() if name not in own}
    return Reading(layer, tuple((piece, found[piece.name]) for piece in layer.pieces))


def written(readings: Iterable[Reading], roles: Iterable[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The native arrays by key that hold the roles of several layers: the inverse of `Reading.roles`."""
    parts: dict[str, dict[str, np.ndarray]] = {}
    bounds: dict[str, axes.Bound] = {}
    for reading, given in zip(readings, roles, strict=True):
        for piece, bound in reading.bounds:
            key = reading.layer.key(piece)
            bounds[key] = bound
            parts.setdefault(key, {}).update({part: given[role] for role, part in piece.parts.items()})
    return {key: bound.collapse(parts[key]) for key, bound in bounds.items()}


def drawn(reading: Reading, rng: np.random.Generator, *, positive: bool) -> dict[str, np.ndarray]:
    """Random values of every role, axes in the order of `expand`."""
    found: dict[str, np.ndarray] = {}
    for piece, bound in reading.bounds:
        shape = [bound.sizes[name] for name in bound.neutral]
        for role in piece.parts:
            values = rng.standard_normal(shape)
            found[role] = np.abs(values) + 0.5 if positive else values
    return found
