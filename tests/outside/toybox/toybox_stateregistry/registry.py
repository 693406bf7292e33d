"""The registry over a box. It remembers nothing: every answer is looked up in the box."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from toybox import Affine, Box, Slot, Stat, Weight, boxes, slots

from stateregistry import Entry, Kind, Layer, StateRegistry, keys
from toybox_stateregistry.dialect import AFFINE


def entry_of(slot: Slot) -> Entry:
    weight = isinstance(slot, Weight)
    return Entry(
        kind=Kind.PARAMETER if weight else Kind.BUFFER,
        shape=slot.shape,
        dtype=slot.dtype,
        trainable=weight and slot.dtype.startswith("float"),
        persistent=slot.kept if isinstance(slot, Stat) else True,
        tag=type(slot).__name__,
    )


class ToyboxRegistry(StateRegistry):
    """The state of a `toybox.Box`, written in place."""

    adapter = "toybox"
    in_place = True

    def __init__(self, box: Box) -> None:
        self._box = box

    def unwrap(self) -> Box:
        return self._box

    def _names(self) -> dict[Slot, list[str]]:
        """Every slot once, with all its keys, in the order of the box."""
        names: dict[Slot, list[str]] = {}
        for path, slot in slots(self._box):
            names.setdefault(slot, []).append(keys.join(*path))
        return names

    def _slot(self, key: str) -> Slot:
        *path, name = keys.split(key)
        box = self._box
        for step in path:
            box = vars(box)[step]
        slot: Slot = vars(box)[name]
        return slot

    def _entries(self) -> Mapping[str, Entry]:
        return {min(names): entry_of(slot) for slot, names in self._names().items()}

    def _aliases(self) -> Mapping[str, str]:
        groups = self._names().values()
        return {name: min(names) for names in groups for name in names if name != min(names)}

    def _read(self, key: str, /) -> np.ndarray:
        slot = self._slot(key)
        return np.ndarray(slot.shape, slot.dtype, buffer=slot.data)

    def _stage(self, key: str, value: np.ndarray, /) -> bytes:
        return value.tobytes()

    def _commit(self, staged: Mapping[str, Any], /) -> Self:
        for key, data in staged.items():
            self._slot(key).data[:] = data
        return self

    def _layers(self) -> tuple[Layer, ...]:
        found = [(path, box) for path, box in boxes(self._box) if isinstance(box, Affine)]
        return tuple(layer_of(box, keys.join(*path) if path else "") for path, box in found)


def layer_of(box: Affine, key: str) -> Layer:
    pieces = tuple(piece for piece in AFFINE.pieces if isinstance(vars(box).get(piece.name), Slot))
    return Layer("linear", key, pieces, type="Affine")
