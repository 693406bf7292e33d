"""Taken apart: the layers that a plan saw as several, of which no rule says so: a fused projection that became three.

Only where every array of the layer was divided along one axis, and each part went to, or came from, a layer of its own. Reads a
plan, no values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from stateregistry.conversion.rules.prepare import refined

if TYPE_CHECKING:
    from stateregistry.conversion.planning.plan import Plan
    from stateregistry.layers.vocabulary import Layer

#: Parts of one axis, by their names.
_PARTS: Final = re.compile(r"\((\w+(?:\|\w+)+): ([\w.]+)\)")


def taken_apart(plan: Plan, side: int) -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
    """The layers of the source (0) or target (1) that went apart: path, axis, parts of it, and the layer of each part."""
    here, there = (plan.source, plan.target) if side == 0 else (plan.target, plan.source)
    homes = {there.canonical(key) or key: layer.path for layer in there.layers for key in layer.roles.values()}
    fed: dict[str, list[tuple[str, str, str]]] = {}  # key here -> pattern, part, key there
    for move in plan.moves:
        for feed in move.sources if move.target else ():
            rows = (feed.key, feed.axes, feed.part, move.target), (move.target, move.axes, feed.into, feed.key)
            key, pattern, part, other = rows[side]
            fed.setdefault(key, []).append((pattern, part, other))
    for layer in here.layers:
        made = _parts_of(
            layer, {piece.name: fed.get(here.canonical(layer.key(piece)) or "", []) for piece in layer.pieces}
        )
        if made is not None:
            axis, parts, keys = made
            paths = tuple(homes.get(key, "") for key in keys)
            if all(paths) and len(set(paths)) == len(paths):
                yield layer.path, axis, f"{'|'.join(parts)}: {axis}", paths


def _parts_of(
    layer: Layer, fed: dict[str, list[tuple[str, str, str]]]
) -> tuple[str, tuple[str, ...], tuple[str, ...]] | None:
    """The axis, its parts, and an entry that each of them goes to; `None` where the layer went whole, or otherwise."""
    found: set[tuple[str, tuple[str, ...]]] = set()
    homes: dict[str, str] = {}
    for piece in layer.pieces:
        rows = fed[piece.name]
        patterns = {pattern for pattern, _, _ in rows}
        match = _PARTS.search(next(iter(patterns))) if len(patterns) == 1 else None
        if match is None:
            return None
        names, axis = match.groups()
        if refined(piece.axes, axis, f"{names}: {axis}") != next(iter(patterns)):
            return None  # its own table divides it
        if {part for _, part, _ in rows} != set(names.split("|")):
            return None
        found.add((axis, tuple(names.split("|"))))
        for _, part, other in rows:
            homes.setdefault(part, other)
    if len(found) != 1:
        return None
    axis, parts = found.pop()
    return axis, parts, tuple(homes[part] for part in parts)
