"""Native: how the two harnesses make arrays and look at them, without a line of the adapters.

A 64-bit value is a NumPy leaf while x64 is off, as in variables that `flax.serialization` has restored: JAX has no
such array then, and the frameworks take the NumPy one. Imports JAX; the suite only to say that something cannot be
built.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:
    from stateregistry_conformance.declaration import Leaf

#: What both frameworks can hold.
CAPABILITIES = frozenset(
    {
        "dtype.bfloat16", "dtype.float8", "dtype.complex", "dtype.int64", "dtype.float64", "dtype.integer",
        "dtype.bool", "nonpersistent", "abstract", "rng", "empty",
    }
)  # fmt: skip


def cannot_build(why: str) -> NoReturn:
    """Tell the suite that the framework has no such thing."""
    from stateregistry_conformance.declaration import CannotBuild  # lazy: the suite is no dependency of an adapter

    raise CannotBuild(why)


def array_of(leaf: Leaf) -> Any:
    """The native array that a leaf of a declaration asks for."""
    if leaf.can_train and not leaf.trainable:
        cannot_build(f"{leaf.key!r}: Flax has no flag that says whether a parameter is trainable")
    if leaf.kind.value == "parameter" and (leaf.rng or not leaf.persistent):
        cannot_build(f"{leaf.key!r}: a parameter of Flax is persistent and no generator")
    value = leaf.value
    if leaf.rng:
        if value.dtype != np.uint32 or value.shape[-1:] != (2,):
            cannot_build(f"{leaf.key!r}: the data of a threefry key is uint32[..., 2]")
        key = jax.random.wrap_key_data(jnp.array(value), impl="threefry2x32")
        return key if leaf.concrete else jax.ShapeDtypeStruct(key.shape, key.dtype)
    return made(value) if leaf.concrete else jax.ShapeDtypeStruct(value.shape, value.dtype)


def made(value: np.ndarray) -> Any:
    """An array of the framework's own with these bits."""
    if jax.dtypes.canonicalize_dtype(value.dtype) == value.dtype:
        return jnp.array(value, copy=True)
    return np.array(value, order="C", copy=True)


def bits(array: Any) -> np.ndarray:
    """The value of a native array, of a typed key its data, as a copy."""
    if isinstance(array, jax.Array) and jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    return np.array(array, order="C", copy=True)


def like(array: Any, value: np.ndarray) -> Any:
    """A native array of the type of another one, with other bits."""
    if isinstance(array, jax.Array) and jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jnp.array(value), impl=jax.random.key_impl(array))
    return made(value)


def stepped(array: Any) -> Any:
    """A parameter after a step of an optimizer that moves every number by its last bit; others are as they were."""
    held = isinstance(array, (jax.Array, np.ndarray))
    if not held or not jnp.issubdtype(array.dtype, jnp.inexact) or array.size == 0:
        return array
    value = bits(array)
    value.reshape(-1).view(np.uint8)[:: value.dtype.itemsize] ^= 1
    return like(array, value)


def sharded(value: np.ndarray) -> Any:
    """An array over as many devices as there are and as divide its first axis."""
    count = max(n for n in range(1, len(jax.devices()) + 1) if value.shape[0] % n == 0)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:count]), ("x",))
    return jax.device_put(np.array(value), jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x")))


def description(array: Any) -> tuple[object, ...]:
    """Everything about a native array but its numbers."""
    if not isinstance(array, jax.Array):
        return (type(array), getattr(array, "shape", None), str(getattr(array, "dtype", None)))
    return (type(array), array.shape, str(array.dtype), array.sharding, array.committed, jax.typeof(array).weak_type)
