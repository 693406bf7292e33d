"""The harness of the Linen adapter: builds variables trees and looks into them natively.

Parameters go into `params`, buffers into `batch_stats`, what is not saved into `intermediates`, generators into
`rng`. Importing it imports no framework.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, final

from stateregistry import keys

if TYPE_CHECKING:
    import numpy as np

    from stateregistry.registry import StateRegistry
    from stateregistry_conformance.declaration import Declaration, Leaf
    from stateregistry_conformance.harness import Specimen


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

        return native.CAPABILITIES

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

        return linen.wrap(model)

    def peek(self, model: Any, key: str, /) -> np.ndarray:
        """The value of a place, read natively."""
        from stateregistry_flax import native

        return native.bits(self.cell(model, key))

    def poke(self, model: Any, key: str, value: np.ndarray, /) -> Any:
        """Change the value of a place natively."""
        from stateregistry_flax import native

        path = _path(model, key)
        return _replaced(model, path, native.like(_get(model, path), value))

    def cell(self, model: Any, key: str, /) -> object:
        """The native object that is the place."""
        return _get(model, _path(model, key))

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
