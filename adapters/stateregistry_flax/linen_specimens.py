"""Specimens: Linen variables that break a law of keys, or are odd, for the conformance suite.

Every call makes a fresh one. What Linen cannot make is `CannotBuild`, with the reason. Imports JAX and the suite.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from stateregistry.entry import Kind
from stateregistry_conformance.declaration import Declaration, Leaf
from stateregistry_conformance.harness import Specimen
from stateregistry_flax import native


def _leaf(key: str, shape: tuple[int, ...] = (2, 3)) -> Leaf:
    return Leaf(key, Kind.PARAMETER, np.random.default_rng(len(key)).normal(size=shape).astype(np.float32))


def specimen(name: str) -> Specimen:
    """A fresh specimen.

    Raises:
        CannotBuild: Linen has no such thing.
    """
    leaf = _leaf("dense/kernel")
    array = native.made(leaf.value)
    one = Declaration((leaf,))
    match name:
        case "empty_name":
            return Specimen({"params": {"": {"kernel": array}}})
        case "duplicate_key":
            return Specimen({"params": {"a": {"b": array}}, "batch_stats": {"a": {"b": array + 1}}}, ("a/b",))
        case "prefix":
            return Specimen({"params": {"a": array}, "batch_stats": {"a": {"b": array + 1}}}, ("a",))
        case "none":
            return Specimen({"params": {"dense": {"kernel": array, "bias": None}}}, ("dense/bias",), one)
        case "opaque":
            tree = {"params": {"dense": {"kernel": array}}, "state": {"step": 7, "codes": jnp.ones(3, jnp.int4)}}
            return Specimen(tree, ("codes", "step"), one)
        case "sharded":
            wide = _leaf("dense/kernel", (8, 3))
            tree = {"params": {"dense": {"kernel": native.sharded(wide.value)}}}
            return Specimen(tree, ("dense/kernel",), Declaration((wide,)))
        case "wrapped":
            inner = Leaf("model/dense/kernel", Kind.PARAMETER, leaf.value)
            return Specimen({"params": {"model": {"dense": {"kernel": array}}}}, (), Declaration((inner,)))
        case "shared_array":
            other = Leaf("other/kernel", Kind.PARAMETER, leaf.value)
            tree = {"params": {"dense": {"kernel": array}, "other": {"kernel": array}}}
            return Specimen(tree, ("dense/kernel", "other/kernel"), Declaration((leaf, other)))
    return native.cannot_build(_WHY.get(name, f"no specimen {name!r} is known here"))


_WHY = {
    "unregistered": "variables are nothing but registered state",
    "unknown_shape": "an abstract Linen array has a shape",
    "one_memory": "leaves are values: a write never reaches the memory of another",
    "overlap": "leaves are values: a write never reaches the memory of another",
    "mixed_tie": "a leaf is in one collection",
    "gradients": "gradients are values of their own, not in the variables",
}
