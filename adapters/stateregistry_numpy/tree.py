"""FrozenModel: the reference model as an immutable tree, the second branch of the specification.

Four collections, each a nested mapping from names to arrays: parameters, buffers, transient buffers, generators. Arrays are
read-only and shared between versions of a model; ties are stated, since sharing an immutable array is no tie. Steps of a
path are `str` or, for lists, `int`. Imports NumPy and the core.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeAlias, final

import numpy as np

from stateregistry import errors, keys
from stateregistry.entry import Kind
from stateregistry_numpy.cells import Abstract

if TYPE_CHECKING:
    from stateregistry.layers.vocabulary import Layer
    from stateregistry_numpy.module import Module

#: A native path: steps inside one collection.
Path: TypeAlias = tuple[str | int, ...]

#: The collections in order of declaration.
COLLECTIONS: Final = ("parameters", "buffers", "transient", "rngs")


@final
@dataclass(frozen=True, slots=True, eq=False)
class FrozenModel:
    """An immutable model.

    Attributes:
        parameters, buffers, transient, rngs: nested mappings (or sequences, whose steps are `int`) of arrays and
            `Abstract`s. `transient` is not saved; `rngs` holds `uint32[2]` states of generators. Arrays are copied unless
            they are read-only and own their memory. `None` is absence.
        ties: further path -> the path that holds the array, in the same collection.
        layers: the standard layers that it was frozen from.
    """

    parameters: Mapping[str | int, Any] = field(default_factory=dict)
    buffers: Mapping[str | int, Any] = field(default_factory=dict)
    transient: Mapping[str | int, Any] = field(default_factory=dict)
    rngs: Mapping[str | int, Any] = field(default_factory=dict)
    ties: Mapping[Path, Path] = field(default_factory=dict)
    layers: tuple[Layer, ...] = ()

    def __post_init__(self) -> None:
        for name in COLLECTIONS:
            object.__setattr__(self, name, _immutable(getattr(self, name)))
        object.__setattr__(self, "ties", MappingProxyType({tuple(a): tuple(b) for a, b in self.ties.items()}))

    def leaves(self) -> Iterator[tuple[str, Path, Any]]:
        """Every leaf as collection, path and array (or `Abstract`, or what else somebody put there), as declared."""
        for collection in COLLECTIONS:
            for path, leaf in _leaves(getattr(self, collection)):
                yield collection, path, leaf

    def with_leaves(self, changes: Mapping[tuple[str, Path], Any]) -> FrozenModel:
        """Another model with other arrays at existing places; what is not named is shared."""
        parts: dict[str, dict[Path, Any]] = {name: {} for name in COLLECTIONS}
        for (collection, path), leaf in changes.items():
            parts[collection][path] = leaf
        trees = {name: _changed(getattr(self, name), part) for name, part in parts.items()}
        return FrozenModel(**trees, ties=self.ties, layers=self.layers)

    def thaw(self) -> Module:
        """A mutable model with copies of all arrays; layers keep their classes, ties stay ties."""
        from stateregistry_numpy.assembly import assemble  # the modules know each other; this direction is lazy
        from stateregistry_numpy.registry import FrozenRegistry

        return assemble(FrozenRegistry(self))

    def __repr__(self) -> str:
        parts = [f"{name}: {sum(1 for _ in _leaves(getattr(self, name)))}" for name in COLLECTIONS]
        return f"FrozenModel({', '.join(parts)}, ties: {len(self.ties)})"


def freeze(module: Module) -> FrozenModel:
    """An immutable copy of a module's state.

    A tie stays a tie. What one namespace over collections cannot say (one place declared as parameter and as buffer) is
    taken by the rule of alias groups: a parameter if one member is.
    """
    from stateregistry_numpy.registry import MutableRegistry  # uses this module

    registry = MutableRegistry(module)
    if registry.opaque:
        names = ", ".join(map(repr, registry.opaque))
        raise errors.OpaqueError(f"{names}: only arrays can be frozen", keys=tuple(registry.opaque))
    trees: dict[str, dict[str | int, Any]] = {name: {} for name in COLLECTIONS}
    for key in registry.native_order:
        entry = registry[key]
        leaf = _read_only(registry.read(key)) if entry.concrete else Abstract(entry.shape, entry.dtype)
        if entry.rng:
            collection = "rngs"
        elif entry.kind is Kind.PARAMETER:
            collection = "parameters"
        else:
            collection = "buffers" if entry.persistent else "transient"
        node = trees[collection]
        *parents, last = keys.split(key)
        for name in parents:
            node = node.setdefault(name, {})
        node[last] = leaf
    ties: dict[Path, Path] = {keys.split(alias): keys.split(key) for alias, key in registry.aliases.items()}
    return FrozenModel(**trees, ties=ties, layers=registry.layers)


def _immutable(node: Any) -> Any:
    if isinstance(node, Mapping):
        return MappingProxyType({name: _immutable(child) for name, child in node.items()})
    if isinstance(node, Sequence) and not isinstance(node, (str, bytes)):
        return tuple(_immutable(child) for child in node)
    return _read_only(node) if isinstance(node, np.ndarray) else node


def _read_only(array: np.ndarray) -> np.ndarray:
    if not array.flags.owndata or array.flags.writeable or not array.dtype.isnative:
        dtype = array.dtype if array.dtype.isnative else array.dtype.newbyteorder("=")
        array = np.array(array, dtype=dtype, order="C", copy=True)
        array.flags.writeable = False
    return array


def _leaves(tree: Any) -> Iterator[tuple[Path, Any]]:
    stack: list[tuple[Path, Any]] = [((), tree)]
    while stack:
        path, node = stack.pop()
        children = _children(node)
        if children is None:
            if node is not None:
                yield path, node
        else:
            stack.extend(((*path, step), child) for step, child in reversed(children))


def _children(node: Any) -> list[tuple[str | int, Any]] | None:
    if isinstance(node, Mapping):
        return list(node.items())
    if isinstance(node, tuple):
        return list(enumerate(node))
    return None


def _changed(node: Any, changes: Mapping[Path, Any]) -> Any:
    if not changes:
        return node
    if () in changes:
        return changes[()]
    below: dict[str | int, dict[Path, Any]] = {}
    for path, leaf in changes.items():
        below.setdefault(path[0], {})[path[1:]] = leaf
    children = {step: _changed(child, below.get(step, {})) for step, child in _children(node) or ()}
    return tuple(children.values()) if isinstance(node, tuple) else MappingProxyType(children)
