"""How the conformance suite builds boxes and looks into them. Nothing here goes through the adapter."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from toybox import CODES, Box, Slot, Stat, Weight

import stateregistry as sr
from stateregistry_conformance import CannotBuild, Declaration, Leaf, Specimen


def slot_of(leaf: Leaf) -> Slot:
    dtype = leaf.entry.dtype
    if dtype not in CODES:
        raise CannotBuild(f"toybox has no {dtype}")
    if not leaf.concrete or (leaf.can_train and not leaf.trainable):
        raise CannotBuild("a slot always has bytes, and every weight is trained")
    if leaf.kind is sr.Kind.BUFFER:
        return Stat(leaf.value.shape, dtype, leaf.value.tobytes(), kept=leaf.persistent)
    if not leaf.persistent:
        raise CannotBuild("a weight is always saved")
    return Weight(leaf.value.shape, dtype, leaf.value.tobytes())


def put(box: Box, path: Sequence[str], value: Slot | None) -> None:
    for step in path[:-1]:
        if step not in vars(box):
            setattr(box, step, Box())
        box = vars(box)[step]
    setattr(box, path[-1], value)


def inside(box: Box, path: Sequence[str]) -> Box:
    for step in path:
        box = vars(box)[step]
    return box


class ToyboxHarness:
    """Builds boxes."""

    name = "toybox"
    adapter_version = "1.0"
    capabilities = frozenset(
        {"dtype.bool", "dtype.integer", "dtype.int64", "dtype.float64", "ties", "nonpersistent", "empty", "fault"}
    )

    def build(self, declaration: Declaration, /) -> Box:
        box = Box()
        made = {leaf.key: slot_of(leaf) for leaf in declaration.leaves}
        made |= {alias: made[key] for alias, key in declaration.ties.items()}
        for key, slot in made.items():
            put(box, sr.keys.split(key), slot)
        return box

    def registry(self, model: Box, /) -> sr.StateRegistry:
        return sr.of(model)

    def peek(self, model: Box, key: str, /) -> np.ndarray:
        slot = self.cell(model, key)
        return np.frombuffer(bytearray(slot.data), slot.dtype).reshape(slot.shape)

    def poke(self, model: Box, key: str, value: np.ndarray, /) -> Box:
        self.cell(model, key).data[:] = value.tobytes()
        return model

    def cell(self, model: Box, key: str, /) -> Slot:
        *path, name = sr.keys.split(key)
        slot: Slot = vars(inside(model, path))[name]
        return slot

    def fault(self, model: Box, key: str, /) -> Box:
        self.cell(model, key).locked = True
        return model

    def add(self, model: Box, leaf: Leaf, /) -> Box:
        put(model, leaf.path, slot_of(leaf))
        return model

    def drop(self, model: Box, key: str, /) -> Box:
        *path, name = sr.keys.split(key)
        delattr(inside(model, path), name)
        return model

    def specimen(self, name: str, /) -> Specimen:
        plain = Declaration((Leaf("w", sr.Kind.PARAMETER, np.arange(6, dtype=np.float32).reshape(2, 3)),))
        box = self.build(plain)
        if name == "empty_name":
            put(box, ("inner", ""), Weight((2,)))
            return Specimen(box)
        if name == "unregistered":
            vars(box)["cache"] = [1.0, 2.0]
            return Specimen(box, ("cache",), plain)
        if name == "none":
            put(box, ("gone",), None)
            return Specimen(box, ("gone",), plain)
        raise CannotBuild("a box is a tree of names with slots at its ends, and every slot owns its bytes")


harness = ToyboxHarness()
