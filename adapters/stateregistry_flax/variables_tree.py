"""The tree of variables that a registry is written as: `{"params": {...}, "batch_stats": {...}, ...}`, keys for leaves.

An array of several names stands under each, as the readers of Flax know no aliases. Names that Flax reserves are refused, and
keys of which nobody knows whether they begin with their collections. Imports neither JAX nor Flax.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from stateregistry import errors, keys
from stateregistry.stores.memory import PersistentPart
from stateregistry_flax.dialect import LINEN, NNX, PARAMS, collection_of
from stateregistry_flax.msgpack_scan import CHUNKED, MAX_DEPTH

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stateregistry.registry import StateRegistry


@runtime_checkable
class Prefixed(Protocol):
    """A registry that knows whether its keys begin with their collections."""

    @property
    def collections_prefixed(self) -> bool:
        """Whether they do."""


def nested(source: StateRegistry, /) -> dict[str, Any]:
    """The tree of collections with keys for leaves. `params` is always there: without it, a tree is bare parameters.

    The state of an NNX module, and of a file without collections, has none: it is the pure dict of `nnx.to_pure_dict`.

    Raises:
        UnsupportedError: a name that Flax reserves, or keys of which it is not known whether they begin with their
            collections; a pure dict that would be read as one with collections.
    """
    aliases = source.aliases
    flat: dict[str, str] = {}
    pure = _pure(source)
    collections = {key: collection_of(entry.kind, entry.tag, source.dialect) for key, entry in source.items()}
    prefixed = pure or _prefixed(source, collections)
    # Canonical keys first, so that their order is that of the file for readers that know no document of ours.
    for key in (*source.native_order, *aliases):
        segments = keys.split(key)
        if CHUNKED in segments or len(segments) >= MAX_DEPTH:
            why = f"Flax reserves the name {CHUNKED!r}, and {MAX_DEPTH} levels are the limit"
            hint = "rename the member, or save as .safetensors"
            raise errors.UnsupportedError(f"{key!r} cannot be stored as Flax variables: {why}", keys=(key,), hint=hint)
        canonical = aliases.get(key, key)
        flat[key if prefixed else f"{keys.escape(collections[canonical])}/{key}"] = key
    tree = keys.nest(flat)
    if pure and isinstance(tree.get(PARAMS), dict):
        message = f"a member called {PARAMS!r} would be read as the collection of that name"
        raise errors.UnsupportedError(message, keys=(PARAMS,), hint="rename the member, or save as .safetensors")
    return tree if pure else {PARAMS: {}, **tree}


def _pure(source: StateRegistry) -> bool:
    """Whether a registry has no collections: NNX has none, nor has a file of which every kind had to be inferred."""
    if source.dialect == NNX.name:
        return True
    return source.dialect == LINEN.name and len(source) > 0 and all(e.inferred and not e.tag for e in source.values())


def _prefixed(source: StateRegistry, collections: Mapping[str, str]) -> bool:
    """Whether the keys begin with their collections already (`sr.of(variables, prefix_collections=True)`).

    A module may be called `params` too, so that names alone do not decide: the registry says it.
    """
    whole = source.whole if isinstance(source, PersistentPart) else source
    if isinstance(whole, Prefixed):
        return whole.collections_prefixed
    if source.dialect != LINEN.name or not collections:
        return False
    if any(keys.split(key)[0] != collection for key, collection in collections.items()):
        return False
    key, collection = next(iter(collections.items()))
    message = f"the {collection!r} that {key!r} begins with can be its collection or a module of that name"
    hint = "save the variables themselves, sr.of(variables, prefix_collections=True), or as .safetensors"
    raise errors.UnsupportedError(message, keys=tuple(collections), hint=hint)
