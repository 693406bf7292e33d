"""Layers of an NNX model: which module at which path has which type. Modules are there, so nothing is run or traced.

A layer type is a row of `ROWS`. A module with several paths is one layer, at the least of them. Imports Flax.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from flax import nnx

from stateregistry_flax.dialect import NNX
from stateregistry_flax.rows import layer, sight, table

if TYPE_CHECKING:
    from stateregistry.entry import Entry
    from stateregistry.layers.vocabulary import Layer
    from stateregistry_flax.graph import Walk

ROWS = table(nnx.Linear, nnx.Conv, nnx.BatchNorm, nnx.LayerNorm, nnx.Embed)


def layers_of(walk: Walk, entries: Mapping[str, Entry]) -> tuple[Layer, ...]:
    """The layers of a module in order of declaration. `entries` has the keys of aliases too."""
    found = []
    for module, paths in walk.modules.values():
        seen = sight(module, ROWS)
        made = None if seen is None else layer(NNX, seen, min(paths), entries)
        found += [] if made is None else [made]
    return tuple(found)
