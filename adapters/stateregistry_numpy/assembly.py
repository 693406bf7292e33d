"""Assembly: a reference model made from a registry that lists it, values included.

Layers of the registry become layer classes, everything else plain modules. Imports NumPy and the core.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stateregistry import keys
from stateregistry.entry import Entry, Kind
from stateregistry_numpy.cells import Abstract, Buffer, Cell, Parameter, Rng
from stateregistry_numpy.layers import CLASSES
from stateregistry_numpy.module import Module

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stateregistry.layers.vocabulary import Layer
    from stateregistry.registry import StateRegistry


def assemble(image: StateRegistry, /) -> Module:
    """The model that holds what a registry lists, in its native order: kinds, flags, values and ties.

    Raises:
        AbstractError, UnsupportedError: as reading a value of the registry.
    """
    layers = {layer.path: layer for layer in image.layers if layer.kind in CLASSES}
    shared = _shared(image, layers)
    top = layers.get("")
    root = Module() if top is None else CLASSES[top.kind].bare(top.config)
    cells = {key: _cell(image, key, image[key]) for key in image.native_order}
    alone = {alias: key for alias, key in image.aliases.items() if alias.rpartition("/")[0] not in shared}
    cells |= {alias: cells[key] for alias, key in alone.items()}
    for key, cell in cells.items():
        *parents, name = keys.split(key)
        module, path = root, ""
        for parent in parents:
            path = f"{path}/{keys.escape(parent)}" if path else keys.escape(parent)
            layer = layers.get(path)
            module = _child(module, parent, None if layer is None else CLASSES[layer.kind].bare(layer.config))
        if isinstance(cell, Parameter):
            module.register_parameter(name, cell)
        else:
            assert isinstance(cell, Buffer)
            module.register_buffer(name, cell)
    for path, original in shared.items():
        *parents, name = keys.split(path)
        module = root
        for parent in parents:
            module = _child(module, parent, None)
        found = root.find(original)
        assert isinstance(found, Module)
        module.add_module(name, found)
    return root


def _child(module: Module, name: str, new: Module | None) -> Module:
    child = module.members.get(name)
    if child is None:
        child = Module() if new is None else new
        module.add_module(name, child)
    assert isinstance(child, Module)  # keys are free of prefixes
    return child


def _shared(image: StateRegistry, layers: Mapping[str, Layer]) -> dict[str, str]:
    """The paths at which a whole layer stands once more, with the path of that layer."""
    below: dict[str, dict[str, str]] = {}
    for alias, key in image.aliases.items():
        path, _, name = alias.rpartition("/")
        if path:
            below.setdefault(path, {})[name] = key
    occupied = {key.rpartition("/")[0] for key in image}
    whole = {frozenset((p.name, layer.key(p)) for p in layer.pieces): path for path, layer in layers.items() if path}
    found = {path: whole.get(frozenset(names.items())) for path, names in below.items() if path not in occupied}
    return {path: original for path, original in found.items() if original is not None}


def _cell(image: StateRegistry, key: str, entry: Entry) -> Cell:
    value = image.view(key) if entry.concrete else Abstract(entry.shape, entry.dtype)
    if entry.kind is Kind.PARAMETER:
        return Parameter(value, entry.trainable)
    if entry.rng and entry.shape == (2,) and entry.dtype == "uint32":
        return Rng(value, entry.persistent)
    return Buffer(value, entry.persistent)
