"""Homes: which layers a module that is being called stands for, told by its path and by the values that it computes with.

A function may run other models beside the one that is watched, NNX passes copies of modules around, and a stacked layer
sees one of many: so the parameters that a call sees are held against those of the registry, bit for bit (after the cast that
the caller's function may have made). What does not hold them is another model, and is not noted. Imports the core.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, final

import numpy as np

from stateregistry.entry import Kind
from stateregistry.layers import axes
from stateregistry.layers.vocabulary import WRAPPERS

if TYPE_CHECKING:
    from stateregistry.layers.vocabulary import Layer, Piece
    from stateregistry.registry import StateRegistry

_ENDINGS = tuple(ending for endings in WRAPPERS.values() for ending in endings if ending)
#: Config that only a layer inside of a wrapper has; its entries hang under what the two have in common.
_WRAPPED = frozenset({"weight_norm_eps", "spectral_norm_eps"})


def module_path(layer: Layer) -> str:
    """The path of the module that a layer is."""
    if layer.config.get("stacked"):
        count = layer.pieces[0].part.count(".") + 1
        return "/".join(layer.path.split("/")[:-count])
    if layer.base is not None and not _WRAPPED & layer.config.keys():
        return layer.base  # one module that is several layers
    return layer.path


def index_of(piece: Piece) -> tuple[int | slice, ...]:
    """Where in a stacked array the array of one layer is; `()` for all of it."""
    if not piece.part:
        return ()
    numbers = iter(piece.part.split("."))
    counting = (bool(group.parts and not group.atoms) for group in axes.parse(piece.axes))
    return tuple(int(next(numbers)) if counts else slice(None) for counts in counting)


@final
class Homes:
    """The modules of a registry that are layers."""

    def __init__(self, registry: StateRegistry) -> None:
        self._registry = registry
        self._values: dict[str, np.ndarray] = {}
        self._layers: dict[str, list[Layer]] = {}
        for layer in registry.layers:
            self._layers.setdefault(module_path(layer), []).append(layer)

    @property
    def paths(self) -> tuple[str, ...]:
        """Paths of modules that are layers."""
        return tuple(self._layers)

    def layers(self, path: str) -> tuple[str, ...]:
        """The layers that the module at a path stands for, all of them; empty where it is none."""
        return tuple(layer.path for layer in self._layers.get(path, ()))

    def at(self, path: str, held: Callable[[str], np.ndarray | None]) -> tuple[str, ...]:
        """The layers that a call of the module at a path runs.

        Args:
            path: of the module.
            held: the array that the module computes with, by key relative to the registry; `None` where it has none.

        Returns:
            Their paths; empty where the values are not those of the registry, or of several stacked layers alike.
        """
        layers = self._layers.get(path, [])
        if any(layer.config.get("stacked") for layer in layers):
            fits = [layer.path for layer in layers if self._fits(layer, held, stacked=True)]
            whole = len(layers) if self._whole(layers[0], held) else 0
            return tuple(fits) if len(fits) == 1 and not whole else ()
        return tuple(layer.path for layer in layers) if all(self._fits(layer, held) for layer in layers) else ()

    def _whole(self, layer: Layer, held: Callable[[str], np.ndarray | None]) -> bool:
        """Whether a module sees the arrays of all of its stacked layers at once."""
        seen = held(layer.key(layer.pieces[0]))
        return seen is not None and seen.shape == self._value(layer.key(layer.pieces[0])).shape

    def _fits(self, layer: Layer, held: Callable[[str], np.ndarray | None], *, stacked: bool = False) -> bool:
        for piece in _plain(layer):
            key = layer.key(piece)
            seen = held(key)
            stored = self._value(key)
            if seen is None or not _equal(stored[index_of(piece)] if stacked else stored, seen):
                return False
        return True

    def _value(self, key: str) -> np.ndarray:
        if key not in self._values:
            self._values[key] = self._registry.view(key)
        return self._values[key]


def _plain(layer: Layer) -> Iterator[Piece]:
    """The parameters that a layer computes with as they are stored: not what a wrapper makes of them."""
    roles = {role for piece in layer.pieces for role in piece.parts}
    for piece in layer.pieces:
        made = any(role.endswith(_ENDINGS) or any(role + end in roles for end in _ENDINGS) for role in piece.parts)
        if piece.kind is Kind.PARAMETER and not made:
            yield piece


def _equal(stored: np.ndarray, seen: np.ndarray) -> bool:
    if stored.shape != seen.shape:
        return False
    with np.errstate(all="ignore"):
        return stored.astype(seen.dtype).tobytes() == seen.tobytes()
