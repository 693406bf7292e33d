"""The harness of the Linen adapter: builds variables trees and looks into them natively.

Parameters go into `params`, buffers into `batch_stats`, what is not saved into `intermediates`, generators into
`rng`. Importing it imports no framework.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, final

from stateregistry import keys

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import numpy as np

    from stateregistry.registry import StateRegistry
    from stateregistry_conformance.declaration import Declaration, Leaf
    from stateregistry_conformance.harness import Specimen
    from stateregistry_conformance.trials.case import LayerCase


@final
class LinenHarness:
    """Models are `{"params": {...}, ...}` trees of plain dicts."""

    name = "flax-linen"

    @property
    def adapter_version(self) -> str:
        """The version of the distribution."""
        from stateregistry._version import __version__

        return __version__

    @property
    def capabilities(self) -> frozenset[str]:
        """Linen variables are values: there are no ties, and no native write that could fail."""
        from stateregistry_flax import native

        return native.CAPABILITIES | {"layers"}

    def build(self, declaration: Declaration, /) -> Any:
        """A fresh model that holds what is declared."""
        from stateregistry_flax import native

        if declaration.ties:
            native.cannot_build("a tree of values has no ties: in Linen sharing a submodule makes one entry")
        tree: dict[str, Any] = {"params": {}}
        for leaf in declaration.leaves:
            _set(tree, (_collection(leaf), *leaf.path), native.array_of(leaf))
        return tree

    def registry(self, model: Any, /) -> StateRegistry:
        """The registry under test."""
        from stateregistry_flax import linen

        if isinstance(model, Mapping):
            return linen.wrap(model)
        return linen.wrap(model.variables, module=model.module, args=model.args)

    def peek(self, model: Any, key: str, /) -> np.ndarray:
        """The value of a place, read natively."""
        from stateregistry_flax import native

        return native.bits(self.cell(model, key))

    def poke(self, model: Any, key: str, value: np.ndarray, /) -> Any:
        """Change the value of a place natively."""
        from stateregistry_flax import native

        if not isinstance(model, Mapping):
            return replace(model, variables=self.poke(model.variables, key, value))
        path = _path(model, key)
        return _replaced(model, path, native.like(_get(model, path), value))

    def cell(self, model: Any, key: str, /) -> object:
        """The native object that is the place."""
        tree = model if isinstance(model, Mapping) else model.variables
        return _get(tree, _path(tree, key))

    def train_step(self, model: Any, /) -> Any:
        """Move every parameter by its last bit."""
        import jax

        from stateregistry_flax import native

        return {**model, "params": jax.tree.map(native.stepped, model["params"])}

    def describe(self, model: Any, key: str, /) -> object:
        """Everything about a native cell but its value."""
        from stateregistry_flax import native

        return (_path(model, key), native.description(self.cell(model, key)))

    def fingerprint(self, model: Any, /) -> object:
        """The identity of every container and leaf, in order."""
        found: list[object] = []
        stack = [model]
        while stack:
            node = stack.pop()
            found.append(id(node))
            if isinstance(node, Mapping):
                found.append(tuple(node))
                stack.extend(node.values())
        return tuple(found)

    def specimen(self, name: str, /) -> Specimen:
        """A fresh odd model."""
        from stateregistry_flax import linen_specimens

        return linen_specimens.specimen(name)

    def layer_kinds(self) -> Collection[str]:
        """Every kind that Flax has."""
        from stateregistry_flax import linen_layer_harness

        return linen_layer_harness.KINDS

    def build_layer(self, case: LayerCase, /) -> Any:
        """A module with its variables."""
        from stateregistry_flax import linen_layer_harness

        return linen_layer_harness.build(case)

    def layer_forward(self, model: Any, inputs: Sequence[np.ndarray], /) -> np.ndarray:
        """`module.apply`."""
        from stateregistry_flax import linen_layer_harness

        return linen_layer_harness.forward(model, inputs)

    def odd_layer(self, name: str, /) -> Specimen:
        """One of the modules that look like a layer."""
        from stateregistry_flax import linen_layer_harness

        return linen_layer_harness.odd(name)


harness = LinenHarness()


def _collection(leaf: Leaf) -> str:
    if leaf.kind.value == "parameter":
        return "params"
    if leaf.rng:
        return "rng"
    return "batch_stats" if leaf.persistent else "intermediates"


def _set(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = value


def _get(tree: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        tree = tree[int(name)] if isinstance(tree, (tuple, list)) else tree[name]
    return tree


def _path(model: Any, key: str) -> tuple[str, ...]:
    """The path of a key with its collection: the one in which it is."""
    inner = keys.split(key)
    for collection in model:
        try:
            _get(model[collection], inner)
        except (KeyError, TypeError):
            continue
        return (collection, *inner)
    message = f"no array {key!r} in any collection"
    raise LookupError(message)


def _replaced(tree: Any, path: tuple[str, ...], value: Any) -> Any:
    if not path:
        return value
    return {**tree, path[0]: _replaced(tree[path[0]], path[1:], value)}
