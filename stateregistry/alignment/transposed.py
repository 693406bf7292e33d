"""Transposed: which way round the kernel of a transposed convolution lies that no module declares and no size shows.

Flax keeps it as `in out`, or under `transpose_kernel` as the convolution that it transposes has it; where inputs and outputs
are as many, a tree says neither. Those of the same tree that sizes decide say it for all; where there are none, or they differ,
the pair is an assumption.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from stateregistry.alignment.model import Pair, Unit, View
from stateregistry.layers.vocabulary import Piece

_KIND: Final = "conv_transpose"
#: As Flax keeps the kernel, and as it does under `transpose_kernel`.
WAYS: Final = ("-*spatial in out/groups", "*spatial out/groups in")


def agree(pairs: Iterable[Pair], source: View, target: View) -> None:
    """Let square kernels lie as those do that sizes decide, and doubt those that nothing decides. Changes the pairs."""
    found = list(pairs)
    for side, view in enumerate((source, target)):
        units = [((pair.source, pair.target)[side], pair) for pair in found]
        decided = {piece.axes for unit, _ in units if (piece := _kernel(unit)) and not _square(unit, piece, view)}
        for unit, pair in units:
            piece = _kernel(unit)
            if piece is None or not _square(unit, piece, view) or decided == {piece.axes}:
                continue
            if len(decided) == 1:
                _turn(unit, piece, next(iter(decided)))
            else:
                text = "a square kernel of a transposed convolution, of which no shape says which way round it lies"
                pair.doubt("assumption", text)


def _kernel(unit: Unit) -> Piece | None:
    """The kernel of an inferred transposed convolution that could lie in either way."""
    layer = unit.layer
    if layer is None or unit.typed or layer.kind != _KIND:
        return None
    piece = next((piece for piece in layer.pieces if piece.role == "kernel"), None)
    return piece if piece is not None and piece.axes in WAYS else None


def _square(unit: Unit, piece: Piece, view: View) -> bool:
    layer = unit.layer
    key = layer.key(piece) if layer is not None else ""
    entry = view.entries.get(key) or view.entries.get(view.aliases.get(key, ""))
    return entry is not None and entry.shape[-1] == entry.shape[-2]


def _turn(unit: Unit, piece: Piece, axes: str) -> None:
    layer = unit.layer
    if layer is not None:
        pieces = tuple(replace(each, axes=axes) if each is piece else each for each in layer.pieces)
        unit.readings = {**unit.readings, unit.colour: replace(layer, pieces=pieces)}
