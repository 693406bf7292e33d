"""Assemble: the native tree that holds what a registry of any origin lists, for a conversion without a target model.

Linen gets its nested variables by collection, NNX an `nnx.State` with variables of the right types. Values are JAX
arrays; what JAX would narrow (64 bits with x64 off) stays a NumPy array, which both frameworks accept as a leaf,
so that no bit is lost; an abstract entry is a `jax.ShapeDtypeStruct`. Refuses opaque state. Imports JAX; NNX only
where asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax

from stateregistry import errors, keys
from stateregistry.entry import Entry, Kind, numpy_dtype
from stateregistry_flax import arrays
from stateregistry_flax.dialect import PARAMS, collection_of

if TYPE_CHECKING:
    from stateregistry.registry import StateRegistry


def variables_of(image: StateRegistry) -> dict[str, Any]:
    """Linen variables `{"params": {...}, "batch_stats": {...}}`, in native order.

    The collection of a buffer is its tag where the keys are Linen's, else `batch_stats`.

    Raises:
        OpaqueError: the image holds state that is no array.
    """
    flat: dict[str, Any] = {}
    for key in _transferable(image):
        entry = image[key]
        collection = collection_of(entry.kind, entry.tag, image.dialect)
        flat[f"{keys.escape(collection)}/{key}"] = _leaf(image, key, entry)
    return {PARAMS: {}, **keys.nest(flat)}


def state_of(image: StateRegistry) -> Any:
    """An `nnx.State`, as `nnx.update(model, state)` and `nnx.merge(graphdef, state)` take it.

    The type of a variable is that of its tag where the keys are NNX's and NNX has such a type, else `Param` or
    `BatchStat`. Segments of digits are indices (`nnx.List`) where all segments beside them are.

    Raises:
        OpaqueError: the image holds state that is no array. UnsupportedError: raw PRNG key data of no known generator.
    """
    from flax import nnx

    flat: dict[str, Any] = {}
    for key in _transferable(image):
        entry = image[key]
        leaf = _leaf(image, key, entry)
        if image.dialect == "flax-nnx" and entry.tag == "array":
            flat[key] = leaf
            continue
        kind = getattr(nnx, entry.tag, None) if image.dialect == "flax-nnx" and entry.tag else None
        if not (isinstance(kind, type) and issubclass(kind, nnx.Variable)):
            kind = nnx.Param if entry.kind is Kind.PARAMETER else nnx.BatchStat
        flat[key] = kind(_typed_key(leaf, key) if issubclass(kind, nnx.RngKey) else leaf)
    flat |= {alias: flat[key] for alias, key in image.aliases.items() if key in flat}  # one variable, several paths
    return nnx.State(_indices(keys.nest(flat)))


def _transferable(image: StateRegistry) -> tuple[str, ...]:
    if image.opaque:
        names = tuple(image.opaque)
        message = f"{len(names)} places hold no array and cannot be taken along: {', '.join(map(repr, names[:5]))}"
        raise errors.OpaqueError(message, keys=names)
    return image.native_order


def _leaf(image: StateRegistry, key: str, entry: Entry) -> Any:
    if not entry.concrete:
        return jax.ShapeDtypeStruct(entry.shape, numpy_dtype(entry.dtype))
    value = image.read(key)
    return value if arrays.narrowed(value.dtype) else arrays.put(value)


def _typed_key(data: Any, key: str) -> Any:
    """Raw key data as a key of the default generator, whose data it must look like."""
    model = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
    if data.dtype != model.dtype or tuple(data.shape[-len(model.shape) :]) != tuple(model.shape):
        message = (
            f"{key!r}: {data.dtype}{list(data.shape)} is no key data of the default PRNG, {model.dtype}{model.shape}"
        )
        hint = "leave the generators out, or set jax_default_prng_impl"
        raise errors.UnsupportedError(message, keys=(key,), hint=hint)
    if isinstance(data, jax.ShapeDtypeStruct):
        return jax.eval_shape(jax.random.wrap_key_data, data)
    return jax.random.wrap_key_data(data)


def _indices(tree: Mapping[str, Any]) -> dict[Any, Any]:
    def canonical(name: str) -> bool:
        return name.isdecimal() and name.isascii() and str(int(name)) == name

    name: Callable[[str], Any] = int if tree and all(map(canonical, tree)) else str
    return {name(key): _indices(value) if isinstance(value, dict) else value for key, value in tree.items()}
