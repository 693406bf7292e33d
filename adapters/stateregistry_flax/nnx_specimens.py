"""Specimens: NNX modules that break a law of keys, or are odd, for the conformance suite.

Every call makes a fresh one. What NNX cannot make is `CannotBuild`, with the reason. Imports JAX and the suite.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from flax import nnx

from stateregistry.entry import Kind
from stateregistry_conformance.declaration import Declaration, Leaf
from stateregistry_conformance.harness import Specimen
from stateregistry_flax import native
from stateregistry_flax.nnx_native import Bag, build


class _WithConstant(Bag):
    """Computes with an array that is no attribute of the instance."""

    table: ClassVar[np.ndarray] = np.arange(4, dtype=np.float32)

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel

    @property
    def doubled(self) -> Any:
        """Derived state."""
        return self.kernel.get_value() * 2


def _leaf(key: str, shape: tuple[int, ...] = (2, 3)) -> Leaf:
    return Leaf(key, Kind.PARAMETER, np.random.default_rng(len(key)).normal(size=shape).astype(np.float32))


def specimen(name: str) -> Specimen:
    """A fresh specimen.

    Raises:
        CannotBuild: NNX has no such thing.
    """
    leaf = _leaf("dense/kernel")
    one = Declaration((leaf,))
    model: Any = build(one)
    match name:
        case "empty_name":
            setattr(model, "", nnx.Param(native.made(leaf.value)))
            return Specimen(model)
        case "unregistered":
            plain = _leaf("kernel")
            model = _WithConstant(nnx.Param(native.made(plain.value)))
            return Specimen(model, ("table", "doubled"), Declaration((plain,)))
        case "none":
            model.dense.bias = nnx.Param(None)
            return Specimen(model, ("dense/bias",), one)
        case "opaque":
            model.cache = nnx.Variable({"a": native.made(leaf.value)})
            model.dense.rate = nnx.data(0.5)
            return Specimen(model, ("cache", "dense/rate"), one)
        case "sharded":
            wide = _leaf("dense/kernel", (8, 3))
            model.dense.kernel.set_raw_value(native.sharded(wide.value))
            return Specimen(model, ("dense/kernel",), Declaration((wide,)))
        case "wrapped":
            outer: Any = Bag()
            outer.model = model
            return Specimen(outer, (), Declaration((Leaf("model/dense/kernel", Kind.PARAMETER, leaf.value),)))
        case "shared_array":
            model.other = nnx.Param(model.dense.kernel.get_raw_value())
            other = Leaf("other", Kind.PARAMETER, leaf.value)
            return Specimen(model, ("dense/kernel", "other"), Declaration((leaf, other)))
    return native.cannot_build(_WHY.get(name, f"no specimen {name!r} is known here"))


_WHY = {
    "duplicate_key": "NNX sorts the names of a container and fails where an index and a name are spelled alike",
    "prefix": "an attribute is one object, array or container",
    "unknown_shape": "an abstract NNX array has a shape",
    "one_memory": "JAX arrays are immutable: two variables over one array part at the first write",
    "overlap": "JAX arrays are immutable: a write never reaches the memory of another",
    "mixed_tie": "a variable has one type",
    "gradients": "gradients are values of their own, not in the module",
}
