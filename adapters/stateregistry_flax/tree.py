"""Tree: every leaf of a Linen variables tree under its native path, and a new tree with some leaves exchanged.

Containers keep their type and their order: dicts (whose order JAX's own flattening sorts away), `FrozenDict`, the
tuples of `sow`, `Partitioned` and other metadata boxes, any registered pytree. A box adds no step to a path.
`None` is absence. The old tree is never touched. Refuses names that cannot be segments. Imports JAX and Flax.
"""

from __future__ import annotations

import copy
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, final

import jax
from flax.core import FrozenDict
from flax.core.meta import AxisMetadata

from stateregistry import errors, keys
from stateregistry_flax.arrays import is_array

#: Mappings that are containers for JAX too; it sees any other subclass of `dict` as a leaf.
_DICTS = (dict, OrderedDict, defaultdict)


@final
@dataclass(frozen=True, slots=True)
class Leaf:
    """One leaf: its key, its value, and where it hangs: number of the container, slot in it."""

    key: str
    value: Any
    container: int
    slot: Any


@final
@dataclass(frozen=True, slots=True)
class _Container:
    """A container, and where it hangs itself. `parent` is -1 for the root."""

    value: Any
    parent: int
    slot: Any


@final
class Tree:
    """A variables tree, walked once: parents stand before their children in `_containers`.

    Attributes:
        root: the tree itself.
        leaves: every leaf in the order of the tree, keys included that occur more than once.
    """

    __slots__ = ("_containers", "leaves", "root")

    def __init__(self, root: Any) -> None:
        self.root = root
        self._containers: list[_Container] = []
        self.leaves = tuple(self._walk())

    def _walk(self) -> Iterator[Leaf]:
        stack: list[tuple[Any, int, Any, str]] = [(self.root, -1, None, "")]
        while stack:
            value, parent, slot, key = stack.pop()
            children = _children(value)
            if children is None:
                if value is not None:
                    yield Leaf(key, value, parent, slot)
                continue
            number = len(self._containers)
            self._containers.append(_Container(value, parent, slot))
            prefix = f"{key}/" if key else ""
            if isinstance(value, AxisMetadata) and len(children) == 1:
                ((slot, _, child),) = children
                stack.append((child, number, slot, key))
                continue
            stack.extend(
                (child, number, slot, prefix + _segment(step, key)) for slot, step, child in reversed(children)
            )

    def exchange(self, values: Iterable[tuple[Leaf, Any]]) -> Any:
        """A new tree with other values for some of its leaves; everything else is shared with this one."""
        changed: dict[int, dict[Any, Any]] = {}
        for leaf, value in values:
            changed.setdefault(leaf.container, {})[leaf.slot] = value
        for number in range(len(self._containers) - 1, -1, -1):
            if number in changed:
                container = self._containers[number]
                rebuilt = _with(container.value, changed.pop(number))
                changed.setdefault(container.parent, {})[container.slot] = rebuilt
        return changed[-1][None] if changed else self.root

    def map(self, function: Callable[[Leaf], Any]) -> Any:
        """A tree of the same structure with `function(leaf)` in the place of every leaf."""
        return self.exchange((leaf, function(leaf)) for leaf in self.leaves)


def _segment(step: Any, where: str) -> str:
    if isinstance(step, str) and step:
        return keys.escape(step)
    if isinstance(step, int) and not isinstance(step, bool):
        return str(step)
    message = f"{step!r} below {where or 'the root'!r} is no legal name: that is a non-empty str, or an index"
    raise errors.KeyPathError(message, keys=(where,), hint="rename the member in the model")


def _children(value: Any) -> list[tuple[Any, Any, Any]] | None:
    """Slot, step and value of everything directly inside a container; `None` for what is none."""
    kind = type(value)
    if kind in _DICTS:
        return [(name, name, child) for name, child in value.items()]
    if value is None or is_array(value):
        return None
    try:
        found, _ = jax.tree_util.tree_flatten_with_path(value, is_leaf=lambda node: node is not value)
    except Exception as error:  # a registered type is somebody's code, and JAX sorts names that cannot be sorted
        message = f"JAX cannot take a {kind.__name__} apart: {type(error).__name__}: {error}"
        raise errors.UnsupportedError(message, hint="make it a dict, list or tuple of arrays") from error
    if len(found) == 1 and not found[0][0]:
        return None
    children = [(slot, _step(path[0]), child) for slot, (path, child) in enumerate(found)]
    if kind is FrozenDict:
        by_name = {step: (step, step, child) for _, step, child in children}
        return [by_name[name] for name in value]  # in its own order; JAX gives the sorted one
    return children


def _step(entry: Any) -> Any:
    if isinstance(entry, jax.tree_util.SequenceKey):
        return entry.idx
    if isinstance(entry, jax.tree_util.GetAttrKey):
        return entry.name
    if isinstance(entry, (jax.tree_util.DictKey, jax.tree_util.FlattenedIndexKey)):
        return entry.key
    return str(entry)


def _with(container: Any, new: Mapping[Any, Any]) -> Any:
    """A container of the same type, order and metadata with other children in some slots."""
    if type(container) in _DICTS:
        fresh = copy.copy(container)
        fresh.update(new)
        return fresh
    if isinstance(container, FrozenDict):
        names: Mapping[Any, Any] = {step: child for step, _, child in _children(container) or ()}
        return FrozenDict({**names, **new})
    children, treedef = jax.tree_util.tree_flatten(container, is_leaf=lambda node: node is not container)
    return jax.tree_util.tree_unflatten(treedef, [new.get(slot, child) for slot, child in enumerate(children)])
