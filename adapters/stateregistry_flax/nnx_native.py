"""NNX models for the harness: made, looked into and changed natively, without a line of the adapter.

Imports JAX and Flax.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
from flax import nnx

from stateregistry import keys
from stateregistry_flax import native

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stateregistry_conformance.declaration import Declaration, Leaf


class Bag(nnx.Module):
    """A module with whatever attributes it is given."""


def build(declaration: Declaration) -> Bag:
    """A fresh module that holds what is declared, in its order."""
    variables = {leaf.key: variable_of(leaf) for leaf in declaration.leaves}
    flat = {**variables, **{alias: variables[target] for alias, target in declaration.ties.items()}}
    bag = Bag()
    _fill(bag, keys.nest(flat))
    return bag


def _fill(bag: Bag, tree: Mapping[str, Any]) -> None:
    for name, node in tree.items():
        _attach(bag, name, _node(node) if isinstance(node, dict) else node)


def _node(tree: Mapping[str, Any]) -> nnx.Module:
    if list(tree) == [str(index) for index in range(len(tree))]:
        return nnx.List([_node(node) if isinstance(node, dict) else node for node in tree.values()])
    bag = Bag()
    _fill(bag, tree)
    return bag


def _attach(bag: Bag, name: str, value: Any) -> None:
    if name.startswith(("__", "_pytree__", "_graph_node")):
        native.cannot_build(f"{name!r} is a name that Python or NNX keeps for itself")
    setattr(bag, name, value)


def variable_of(leaf: Leaf) -> Any:
    """The variable that a leaf of a declaration asks for."""
    kind: Any = nnx.Param
    if leaf.kind.value != "parameter":
        kind = nnx.RngKey if leaf.rng else nnx.BatchStat if leaf.persistent else nnx.Intermediate
    return kind(native.array_of(leaf), tag="harness") if leaf.rng else kind(native.array_of(leaf))


def _step(node: Any, name: str) -> Any:
    if isinstance(node, dict):
        return node[_path_of(node, name)]
    return node[int(name)] if isinstance(node, nnx.List) else getattr(node, name)


def _path_of(node: Mapping[Any, Any], name: str) -> Any:
    """The key of a dict, where it may be a path below a wrapped module: `("inner", "kernel", "u")`."""
    return next(key for key in node if (key if isinstance(key, str) else "/".join(map(str, key))) == name)


def _parent(model: Any, key: str) -> tuple[Any, str]:
    *path, last = keys.split(key)
    for name in path:
        model = _step(model, name)
    return model, last


def variable(model: Any, key: str) -> Any:
    """The variable under a key."""
    return _step(*_parent(model, key))


def value(model: Any, key: str) -> Any:
    """The array under a key: of a variable, or a bare one."""
    held = variable(model, key)
    return held.get_raw_value() if isinstance(held, nnx.Variable) else held


def assign(model: Any, key: str, array: Any) -> None:
    """Put another array under a key."""
    parent, name = _parent(model, key)
    held = _step(parent, name)
    if isinstance(held, nnx.Variable):
        held.set_raw_value(array)
    else:  # a wrapper of Flax holds bare arrays in a dict
        parent[_path_of(parent, name)] = array


def make_foreign(variable: Any) -> None:
    """Give a variable to a trace that is over, as one that has leaked out of `jax.jit` is."""
    foreign: list[Any] = []

    def leak() -> None:
        foreign.append(nnx.Param(None))

    jax.eval_shape(leak)
    object.__setattr__(variable, "_trace_state", foreign[0]._trace_state)  # noqa: SLF001  # NNX has no public way to leak one


def train_step(model: Any) -> None:
    """Step every parameter."""
    for _, node in nnx.iter_graph(model):
        if isinstance(node, nnx.Param):
            node.set_raw_value(native.stepped(node.get_raw_value()))


def add(model: Any, leaf: Leaf) -> None:
    """Add a variable to a live module."""
    parent, name = _parent(model, leaf.key)
    if not isinstance(parent, nnx.List):
        _attach(parent, name, variable_of(leaf))
    elif name == str(len(parent)):
        parent.append(variable_of(leaf))
    else:
        native.cannot_build(f"an nnx.List of {len(parent)} has no place for index {name}")


def drop(model: Any, key: str) -> None:
    """Remove a variable from a live module."""
    parent, name = _parent(model, key)
    if not isinstance(parent, nnx.List):
        delattr(parent, name)
    elif int(name) == len(parent) - 1:
        del parent[int(name)]
    else:
        native.cannot_build("removing from the middle of an nnx.List moves the others")


def fingerprint(model: Any) -> object:
    """The identity of every node, variable and array, and the flags of the modules."""
    found: list[object] = []
    for path, node in nnx.iter_graph(model):
        raw = node.get_raw_value() if isinstance(node, nnx.Variable) else None
        found.append((path, id(node), id(raw)) if isinstance(node, (nnx.Variable, nnx.Module)) else (path, type(node)))
    return tuple(found)
