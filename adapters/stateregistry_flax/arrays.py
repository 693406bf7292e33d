"""Arrays: what a JAX, NumPy or abstract leaf holds, how it is read, and how a new value takes its place.

A staged value has the native type, dtype, device, sharding and weak type of the leaf that it replaces: a NumPy
leaf stays NumPy (so 64-bit state survives with x64 off), a typed PRNG key stays a key of its implementation.
Refuses, with a `StateError`, whatever JAX would narrow or cannot see completely. Both adapters are built on it.
Imports JAX.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np

from stateregistry import errors
from stateregistry.entry import Entry, Kind, dtype_name

#: Dtypes that JAX narrows silently while x64 is off.
_WIDE = frozenset({"int64", "uint64", "float64", "complex128"})


@final
@dataclass(frozen=True, slots=True)
class Held:
    """What a leaf holds: for a typed PRNG key (`rng`) shape and dtype of its raw key data."""

    shape: tuple[int, ...]
    dtype: str
    concrete: bool
    rng: bool


@cache
def _name(dtype: Any) -> str | None:
    return dtype_name(dtype) if isinstance(dtype, np.dtype) else None


@cache
def _is_key(dtype: Any) -> bool:
    return bool(jnp.issubdtype(dtype, jax.dtypes.prng_key))


@lru_cache(maxsize=1024)
def _key_data(shape: tuple[int, ...], dtype: Any) -> tuple[tuple[int, ...], str]:
    data = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(shape, dtype))
    return tuple(data.shape), str(data.dtype)


@cache
def _implementation(dtype: Any) -> Any:
    """The implementation of a key dtype; JAX tells it of keys, abstract ones included, but not of the dtype."""
    found: list[Any] = []

    def note(key: jax.Array) -> int:
        found.append(jax.random.key_impl(key))
        return 0

    jax.eval_shape(note, jax.ShapeDtypeStruct((), dtype))
    return found[0]


def is_array(leaf: object) -> bool:
    """Whether a leaf is an array, concrete or abstract, of whatever dtype."""
    return isinstance(leaf, (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct))


def describe(leaf: Any) -> Held | str:
    """What a leaf holds, or the reason why it cannot be an entry."""
    if isinstance(leaf, jax.Array):
        # A tracer and a donated buffer have a shape and no value.
        concrete = not isinstance(leaf, jax.core.Tracer) and not leaf.is_deleted()
    elif isinstance(leaf, (np.ndarray, np.generic)) and not isinstance(leaf, np.ma.MaskedArray):
        concrete = True
    elif isinstance(leaf, jax.ShapeDtypeStruct):
        concrete = False
    else:
        return f"a {type(leaf).__module__}.{type(leaf).__qualname__}, not an array"
    dtype = leaf.dtype
    name = _name(dtype)
    if name is not None:
        return Held(leaf.shape, name, concrete, False)
    if not isinstance(dtype, np.dtype) and _is_key(dtype):
        shape, name = _key_data(leaf.shape, dtype)
        return Held(shape, name, concrete, True)
    return f"dtype {dtype} is not one that a registry holds"


@lru_cache(maxsize=8192)
def _entry(
    kind: Kind, shape: tuple[int, ...], dtype: str, persistent: bool, concrete: bool, rng: bool, tag: str
) -> Entry:
    trainable = kind is Kind.PARAMETER and Entry(kind, shape, dtype).can_train
    return Entry(kind, shape, dtype, trainable=trainable, persistent=persistent, concrete=concrete, rng=rng, tag=tag)


def entry(held: Held, kind: Kind, *, tag: str, persistent: bool = True, rng: bool = False) -> Entry:
    """The entry of a leaf. Neither Linen nor NNX has a flag: a parameter that can be trained is trainable."""
    if rng or held.rng:
        kind, rng = Kind.BUFFER, True  # generator state is no parameter, wherever it is kept
    return _entry(kind, held.shape, held.dtype, persistent, held.concrete, rng, tag)


def read(leaf: Any, key: str) -> np.ndarray:
    """The full value of a leaf, borrowed where JAX lends it.

    Raises:
        AbstractError: it has no value. UnsupportedError: this process does not see all of it.
    """
    if isinstance(leaf, (np.ndarray, np.generic)):
        return np.asarray(leaf)
    held = describe(leaf)
    if not isinstance(held, Held) or not held.concrete:
        message = f"{key!r} has no value to read: {held if isinstance(held, str) else type(leaf).__name__}"
        raise errors.AbstractError(message, keys=(key,))
    if not leaf.is_fully_addressable:
        message = f"{key!r} is spread over devices of other processes; this process cannot see all of it"
        hint = "gather it first: jax.experimental.multihost_utils.process_allgather"
        raise errors.UnsupportedError(message, keys=(key,), hint=hint)
    try:
        return np.asarray(jax.random.key_data(leaf) if held.rng else leaf)
    except RuntimeError as error:
        message = f"{key!r} cannot be read: {error}"
        raise errors.UnsupportedError(message, keys=(key,)) from error


def convert(leaf: Any, value: Any, key: str) -> np.ndarray:
    """A value that a caller gives for a leaf, as an array. A typed key must be of the implementation of the leaf."""
    if not isinstance(value, jax.Array):
        return np.asarray(value)
    if _is_key(value.dtype) and getattr(leaf, "dtype", value.dtype) != value.dtype:
        expected = getattr(leaf, "dtype", None)
        message = f"{key!r} holds {expected}, the value is a PRNG key {value.dtype}"
        raise errors.UnsupportedError(message, keys=(key,), expected=expected, found=value.dtype)
    return read(value, key)


def stage(leaf: Any, value: np.ndarray, key: str) -> Any:
    """A native value with the bits of `value` that can take the place of `leaf`. `value` may be kept.

    Raises:
        UnsupportedError: JAX cannot hold the value as it is, or not where the leaf is.
    """
    try:
        staged = _place(leaf, value, key)
    except (RuntimeError, ValueError, TypeError) as error:
        if isinstance(error, errors.StateError):
            raise
        message = f"{key!r}: JAX refused the value: {type(error).__name__}: {error}"
        raise errors.UnsupportedError(message, keys=(key,)) from error
    held = describe(staged)
    if not isinstance(held, Held) or held.dtype != dtype_name(value.dtype) or held.shape != value.shape:
        found = held if isinstance(held, str) else f"{held.dtype}{list(held.shape)}"
        message = f"{key!r}: JAX made {found} of {value.dtype}{list(value.shape)}"
        raise errors.UnsupportedError(message, keys=(key,), expected=str(value.dtype), found=found)
    return staged


def _place(leaf: Any, value: np.ndarray, key: str) -> Any:
    if isinstance(leaf, np.ndarray):
        return value.astype(leaf.dtype, copy=False)  # the same numbers in the byte order of the leaf
    if isinstance(leaf, np.generic):
        return value.astype(leaf.dtype)[()]
    abstract = isinstance(leaf, jax.ShapeDtypeStruct)
    wide = narrowed(value.dtype)
    if abstract and wide:
        message = f"{key!r} is {value.dtype}, which JAX narrows while x64 is off"
        raise errors.UnsupportedError(message, keys=(key,), hint="jax.config.update('jax_enable_x64', True)")
    # An array that is 64-bit already stays so: it was made with x64 on, and only here the switch is off.
    with jax.enable_x64(True) if wide else contextlib.nullcontext():
        native: Any = value
        if _is_key(leaf.dtype):
            native = jax.random.wrap_key_data(jnp.asarray(value), impl=_implementation(leaf.dtype))
        if abstract:
            return jnp.asarray(native) if leaf.sharding is None else _put(native, leaf.sharding)
        if isinstance(leaf, jax.core.Tracer):
            return jnp.asarray(native)
        if jax.typeof(leaf).weak_type and leaf.is_fully_addressable:
            weak = _weakly(leaf, value)
            native = native if weak is None else weak
        devices = leaf.sharding.device_set
        if leaf.committed or len(devices) > 1:
            return _put(native, leaf.sharding)
        with jax.default_device(next(iter(devices))):
            return jax.device_put(native)


def narrowed(dtype: np.dtype[Any]) -> bool:
    """Whether JAX would silently make a smaller dtype of it now."""
    return dtype.name in _WIDE and not jax.config.read("jax_enable_x64")


def put(value: np.ndarray) -> jax.Array:
    """A JAX array, not committed to a device, with the bits of an array that nobody else holds."""
    array: jax.Array = jax.device_put(value)
    return array


def _put(native: Any, sharding: Any) -> Any:
    if sharding.is_fully_addressable or not isinstance(native, np.ndarray):
        return jax.device_put(native, sharding)
    return jax.make_array_from_callback(native.shape, sharding, lambda index: native[index])


def _weakly(leaf: Any, value: np.ndarray) -> Any:
    """A weakly typed array of these bits: a strong type would promote what the model computes.

    JAX has no function that gives an array a weak type; an update of one that has it keeps it.
    """
    start = jnp.full(leaf.shape, leaf.dtype.type(0).item()) if leaf.is_deleted() else leaf
    weak = start.at[...].set(value)
    exact = weak.dtype == value.dtype and np.asarray(weak).tobytes() == value.tobytes()
    return weak if exact and jax.typeof(weak).weak_type else None
