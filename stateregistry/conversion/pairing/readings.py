"""Readings: every layer that a group of arrays can be, as far as names, shapes and rules leave it open.

A layer of a known type has one. Of several that give the same roles to the same vectors it is all one which is right. Reads
shapes and rules; decides nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from stateregistry import plugins
from stateregistry.conversion.rules.patterns import covers, matches
from stateregistry.errors import RuleError
from stateregistry.layers import axes
from stateregistry.layers.infer import candidates
from stateregistry.layers.vocabulary import a_kind

if TYPE_CHECKING:
    from stateregistry.alignment.model import Unit
    from stateregistry.conversion.rules.rules import Rules
    from stateregistry.conversion.side import Side
    from stateregistry.layers.vocabulary import Dialect, Layer, Piece

#: A family of one axis, as patterns of stacked arrays write it out.
_FIRST: Final = re.compile(r"\b(features)\.0\b")
_SECOND: Final = re.compile(r"\bfeatures\.1\b")
#: So many readings are kept, by names and shapes.
_MOST: Final = 4096
_READ: dict[tuple[object, ...], tuple[Dialect, dict[str, Layer]]] = {}


def readings(layer: Layer, side: Side, rules: Rules) -> dict[str, Layer]:
    """Every way to read a layer, by kind: one, unless it was inferred and its names leave more open.

    Raises:
        RuleError: a [[layer]] rule names this layer and a kind that its arrays are not.
    """
    if not layer.inferred or any(
        piece.part for piece in layer.pieces
    ):  # a part is of what a rule takes apart: it has an axis
        return {layer.kind: layer}
    dialect = dialect_of(side)
    found = (_candidates(layer, dialect, side) if dialect is not None else {}) or {layer.kind: layer}
    wanted = {rule.kind for rule in rules.layers if covers(rule.path, layer.path)}
    left = {kind: one for kind, one in found.items() if kind in wanted}
    own = next((rule for rule in rules.layers if matches(rule.path, layer.path)), None)
    if own is not None and not left:
        where = layer.path or "(the model)"
        message = f"the rule [[layer]] {own.path!r} calls {where} {a_kind(own.kind)}, and its arrays are none"
        raise RuleError(
            message, keys=(layer.path,), hint=f"by names and shapes it is {' or '.join(map(a_kind, found))}"
        )
    return left or found


def _candidates(layer: Layer, dialect: Dialect, side: Side) -> dict[str, Layer]:
    """The readings of an inferred layer. Layers with the same names and shapes have the same: a model has few of them."""
    found = [(piece.name, side.entries.get(layer.key(piece))) for piece in layer.pieces]
    if layer.base is not None or any(entry is None for _, entry in found):
        return candidates(layer, dialect, side.entries)
    mark = (dialect.name, *(
        (name, entry.shape, entry.dtype, entry.kind, entry.inferred) for name, entry in found if entry is not None
    ))  # fmt: skip
    known = _READ.get(mark)
    if known is None or known[0] is not dialect:
        if len(_READ) > _MOST:
            _READ.clear()
        known = _READ[mark] = (dialect, candidates(layer, dialect, side.entries))
    return {kind: replace(one, path=layer.path, candidates=layer.candidates) for kind, one in known[1].items()}


def ways_of(unit: Unit) -> dict[str, Layer]:
    """The layers that a unit can be, by kind; the one that its colour says alone, if the unit was seen as another."""
    if unit.colour in unit.readings and unit.colour not in unit.options:
        layer = unit.readings[unit.colour]
        if all(layer is not other for other in [unit.readings.get(option) for option in unit.options]):
            return {layer.kind: layer}
    found: dict[str, Layer] = {}
    chosen = unit.layer
    if chosen is not None:
        found[chosen.kind] = chosen
    for option in unit.options:
        way = unit.readings.get(option)
        if way is not None:
            found.setdefault(way.kind, way)
    return found


def alike(ways: Sequence[Layer], side: Side) -> bool:
    """Whether it is all one which of several readings is right: they give the same roles to the same vectors.

    A vector has one layout whatever the layer is: a norm of any kind has its scale and bias, also where several are stacked.
    """
    layouts = [
        {piece.role: (_pattern(way.key(piece), piece, side), piece.part) for piece in way.pieces} for way in ways
    ]
    entries = [side.entries.get(side.canonical(key) or "") for key in ways[0].roles.values()]
    vectors = all(entry is not None and len(entry.shape) <= 1 for entry in entries)
    one_layout = vectors or all(layout == layouts[0] for layout in layouts)
    return one_layout and all(dict(way.roles) == dict(ways[0].roles) for way in ways)


def _pattern(key: str, piece: Piece, side: Side) -> str:
    """The pattern of a piece; axes of any number (`*features`) are one where the array has one for them."""
    entry = side.entries.get(side.canonical(key) or "")
    whole = entry is not None and len(entry.shape) == len(axes.parse(piece.axes))
    plain = piece.axes if _SECOND.search(piece.axes) else _FIRST.sub(r"\1", piece.axes)
    return plain.replace("*", "") if whole else piece.axes


def is_decided(layer: Layer, side: Side) -> bool:
    """The bias names the kernel's `out` axis: it has that size and no other axis of the kernel has it."""
    entries = {role: side.entries.get(side.canonical(key) or "") for role, key in layer.roles.items()}
    kernel, bias = entries.get("kernel"), entries.get("bias")
    if kernel is None or bias is None or len(bias.shape) != 1:
        return False
    return kernel.shape.count(bias.shape[0]) == 1


def dialect_of(side: Side) -> Dialect | None:
    """What a side is spelled in, `None` where nobody knows."""
    adapter = plugins.adapters().get(side.dialect) if side.dialect else None
    return adapter.dialect if adapter is not None else None


def out_first(dialect: Dialect | None) -> bool | None:
    """Whether a dialect holds matrices with their outputs first; `None` where it has no habit."""
    row = dialect.declaration("linear") if dialect is not None else None
    piece = row.piece("kernel") if row is not None else None
    return piece.axes.split()[0] == "out" if piece is not None else None
