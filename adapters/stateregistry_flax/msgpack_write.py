"""Write a registry as Flax msgpack, byte for byte what `flax.serialization.to_bytes` writes of the same nested dict.

One value is in memory at a time. Only the headers of records are packed by hand, as the `msgpack` package would
need a second copy of every array. An array of several names is written under each, as the readers of Flax know no
aliases. Names that the format reserves are refused before the first byte. Imports msgpack.
"""

from __future__ import annotations

import struct
from typing import IO, TYPE_CHECKING, Any, Protocol, runtime_checkable

from stateregistry import errors, keys
from stateregistry.entry import DTYPES
from stateregistry.stores import bits
from stateregistry.stores.memory import PersistentPart
from stateregistry_flax.dialect import LINEN, PARAMS, collection_of
from stateregistry_flax.msgpack_scan import CHUNKED, MAX_DEPTH, NDARRAY

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from stateregistry.registry import StateRegistry
    from stateregistry.stores.base import Progress

try:
    import msgpack  # type: ignore[import-untyped]  # it ships no types
except ModuleNotFoundError as error:
    message = "writing Flax msgpack files needs the package 'msgpack'"
    raise errors.MissingDependencyError(message, hint="pip install 'stateregistry[flax]'") from error

#: Flax cuts larger arrays: msgpack ends at 4 GiB.
MAX_CHUNK_BYTES = 2**30


@runtime_checkable
class Prefixed(Protocol):
    """A registry that knows whether its keys begin with their collections."""

    @property
    def collections_prefixed(self) -> bool:
        """Whether they do."""


def write(path: Path, source: StateRegistry, progress: Progress) -> None:
    """Write every entry of a registry into `{"params": {...}, "batch_stats": {...}, ...}`, and again for every alias.

    Raises:
        UnsupportedError: a name that the format reserves, or keys of which it is not known whether they begin with their
            collections. FileAccessError: writing failed.
    """
    aliases = source.aliases
    tree = _nested(source, aliases)
    try:
        with path.open("wb") as file:
            _tree(file, tree, source, aliases, progress)
    except OSError as error:
        if isinstance(error, errors.StateError):
            raise
        raise errors.FileAccessError(f"{path}: writing failed: {error.strerror or error}") from error


def _nested(source: StateRegistry, aliases: Mapping[str, str]) -> dict[str, Any]:
    """The tree of collections with keys for leaves. `params` is always there: without it, a tree is bare parameters."""
    flat: dict[str, str] = {}
    collections = {key: collection_of(entry.kind, entry.tag, source.dialect) for key, entry in source.items()}
    prefixed = _prefixed(source, collections)
    # Canonical keys first, so that their order is that of the file for readers that know no document of ours.
    for key in (*source.native_order, *aliases):
        segments = keys.split(key)
        if CHUNKED in segments or len(segments) >= MAX_DEPTH:
            why = f"Flax reserves the name {CHUNKED!r}, and {MAX_DEPTH} levels are the limit"
            hint = "rename the member, or save as .safetensors"
            raise errors.UnsupportedError(f"{key!r} cannot be stored as msgpack: {why}", keys=(key,), hint=hint)
        canonical = aliases.get(key, key)
        flat[key if prefixed else f"{keys.escape(collections[canonical])}/{key}"] = key
    return {PARAMS: {}, **keys.nest(flat)}


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


def _tree(
    file: IO[bytes],
    tree: Mapping[str, Any],
    source: StateRegistry,
    aliases: Mapping[str, str],
    progress: Progress,
) -> None:
    packer = msgpack.Packer()
    file.write(packer.pack_map_header(len(tree)))
    for name, node in tree.items():
        file.write(packer.pack(name))
        if isinstance(node, dict):
            _tree(file, node, source, aliases, progress)
            continue
        canonical = aliases.get(node, node)
        entry = source[canonical]
        raw = bits.encode(source.view(canonical))
        if len(raw) <= MAX_CHUNK_BYTES:
            _record(file, entry.shape, entry.dtype, raw)
        else:
            _chunks(file, entry.shape, entry.dtype, raw)
        if node == canonical:  # whoever counts the bytes of the entries counts each once
            progress(node, len(raw))


def _chunks(file: IO[bytes], shape: tuple[int, ...], dtype: str, raw: memoryview) -> None:
    packer, width = msgpack.Packer(), DTYPES[dtype]
    step = max(1, MAX_CHUNK_BYTES // width) * width
    starts = range(0, len(raw), step)
    file.write(packer.pack_map_header(3))
    file.write(packer.pack(CHUNKED) + packer.pack(True))  # the value that is packed
    file.write(packer.pack("shape") + packer.pack({str(axis): size for axis, size in enumerate(shape)}))
    file.write(packer.pack("chunks") + packer.pack_map_header(len(starts)))
    for index, start in enumerate(starts):
        part = raw[start : start + step]
        file.write(packer.pack(str(index)))
        _record(file, (len(part) // width,), dtype, part)


def _record(file: IO[bytes], shape: tuple[int, ...], dtype: str, raw: memoryview) -> None:
    """An extension of type 1 around `[shape, name of the dtype, bytes]`."""
    packer = msgpack.Packer()
    head = b"\x93" + packer.pack(shape) + packer.pack(dtype) + _header(len(raw), 0xC4)
    size = len(head) + len(raw)
    fixed = {1: 0xD4, 2: 0xD5, 4: 0xD6, 8: 0xD7, 16: 0xD8}.get(size)
    file.write((_header(size, 0xC7) if fixed is None else bytes([fixed])) + bytes([NDARRAY]) + head)
    file.write(raw)


def _header(size: int, first: int) -> bytes:
    """A type byte and the length in 1, 2 or 4 bytes, as msgpack spells binaries and extensions."""
    step, form = (0, ">BB") if size <= 0xFF else (1, ">BH") if size <= 0xFFFF else (2, ">BI")
    return struct.pack(form, first + step, size)
