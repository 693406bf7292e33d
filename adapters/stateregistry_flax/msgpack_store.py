"""MsgpackStore: the files that `flax.serialization.to_bytes` writes, read lazily and without Flax, written streaming.

The collections of Linen variables say the kinds, as for live variables; without a `params` collection they are
inferred from names. Our own metadata has no room in the format and stands beside the file
(`stateregistry.stores.sidecar`); a document that contradicts the file is refused. An alias may have a copy in the tree,
for readers without aliases: it is listed once, and a copy of other bytes is a contradiction. Keys begin with their
collections where those of the document do. Imports neither JAX nor Flax.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np
import xxhash

from stateregistry import errors, keys
from stateregistry.entry import Entry, Kind, numpy_dtype
from stateregistry.stores import bits, sidecar
from stateregistry.stores.base import Document, FileRegistry
from stateregistry.stores.collector import collector_paused
from stateregistry.stores.kinds import infer_kind, inferred
from stateregistry.stores.limits import DEFAULT, Limits
from stateregistry.stores.mapped import MappedFile
from stateregistry.streaming.task import Stored
from stateregistry_flax.dialect import LINEN, PARAMS, TRANSIENT
from stateregistry_flax.msgpack_scan import Array, Other, Scanner, looks_like_it

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from stateregistry.registry import StateRegistry
    from stateregistry.stores.base import Progress
    from stateregistry.streaming.layout import Layout


#: Bytes that are compared at once.
_PIECE = 2**20


@final
class MsgpackFile(FileRegistry):
    """A Flax msgpack file.

    A checkpoint of a `TrainState` lists its variables; its step and the state of its optimizer are opaque.
    """

    adapter: ClassVar[str] = "flax-msgpack"

    def __init__(self, file: MappedFile, tree: Mapping[str, Any], document: Document | None) -> None:
        super().__init__(file.path, dialect=LINEN.name, document=document)
        self._file = file
        self._arrays: dict[str, Array] = {}
        self._collections: dict[str, str] = {}
        self._without_entry: dict[str, str] = {}
        # With `params`, what is a mapping is a collection; the rest (a step, `None`) belongs to a TrainState.
        self._bare = not isinstance(tree.get(PARAMS), dict)
        places = list(self._places(tree))
        #: Where values lie, those of copies and of what is no entry included.
        self._values = [part for _, _, leaf in places if isinstance(leaf, Array) for part in leaf.parts]
        self._prefixed = not self._bare and document is not None and _prefixed(document, places)
        for collection, key, leaf in places:
            self._add(collection, _full(collection, key) if self._prefixed else key, leaf)
        keys.check_prefix_free({*self._arrays, *self._without_entry})
        if document is not None:
            self._drop_copies(document)
        made = {key: self._entry(key, array) for key, array in self._arrays.items()}
        self._listed_entries = made if document is None else self._checked(document, made)

    def _places(self, tree: Mapping[str, Any]) -> Iterator[tuple[str, str, Array | Other]]:
        """Collection, key and leaf of everything in the file."""
        if not self._bare and "opt_state" in tree and isinstance(tree[PARAMS].get(PARAMS), dict):
            tree = {**tree, **tree[PARAMS]}  # a TrainState made with params=variables: collections one level down
        for name, node in tree.items():
            if self._bare:
                yield from (("", key, leaf) for key, leaf in _leaves(keys.escape(name), node))
            elif name == "opt_state" and node:
                self._without_entry[name] = "the state of an optimizer, not of the model"
            elif isinstance(node, dict):
                for inner, child in node.items():
                    yield from ((name, key, leaf) for key, leaf in _leaves(keys.escape(inner), child))
            elif node is not None:
                self._without_entry[keys.escape(name)] = f"{_what(node)} beside the collections"

    def _add(self, collection: str, key: str, leaf: Array | Other) -> None:
        if key in self._arrays or key in self._without_entry:
            where = ", ".join(map(repr, (self._collections.get(key, "the top"), collection)))
            message = f"{self.path}: {key!r} stands for a place in each of {where}"
            hint = "read it with flax.serialization and pass the variables with prefix_collections=True"
            raise errors.DuplicateKeyError(message, keys=(key,), hint=hint)
        self._collections[key] = collection
        if isinstance(leaf, Array) and leaf.held:
            self._arrays[key] = leaf
        else:
            self._without_entry[key] = _what(leaf)

    def _drop_copies(self, document: Document) -> None:
        """Leave out the arrays that the document lists as aliases.

        Raises:
            FileFormatError: one is not the same, byte for byte, as that of its canonical key in the same collection.
        """
        copies = {alias: key for alias, key in document.aliases.items() if alias in self._arrays and alias != key}
        for alias, key in copies.items():
            same = key in self._arrays and self._collections[alias] == self._collections[key]
            if not same or not self._equal(self._arrays[alias], self._arrays[key]):
                raise self._contradicted(alias, f"a copy of {key!r}, of which it is an alias", "another array")
        for alias in copies:
            del self._arrays[alias], self._collections[alias]

    def _equal(self, one: Array, two: Array) -> bool:
        """Whether two arrays are the same: read in pieces, which opening can afford for what is stored twice."""
        if (one.shape, one.dtype) != (two.shape, two.dtype):
            return False
        if [size for _, size in one.parts] != [size for _, size in two.parts]:
            return False  # who writes one array in other chunks than its copy has not copied it
        return all(
            self._file.read(first + done, min(_PIECE, size - done))
            == self._file.read(second + done, min(_PIECE, size - done))
            for (first, size), (second, _) in zip(one.parts, two.parts, strict=True)
            for done in range(0, size, _PIECE)
        )

    def _entry(self, key: str, array: Array) -> Entry:
        if self._bare:
            return inferred(infer_kind(key, self._arrays), array.shape, array.dtype)
        return _entry(self._collections[key], array.shape, array.dtype)

    def _checked(self, document: Document, made: Mapping[str, Entry]) -> dict[str, Entry]:
        """The entries as our document tells them, in its order.

        Raises:
            FileFormatError: it contradicts the file.
        """
        where = str(self.path)
        if set(document.entries) != set(made):
            key = min(set(document.entries) ^ set(made))
            raise self._contradicted(
                key, "an array of both", "one of the file" if key in made else "one of the document"
            )
        told = {}
        for key, entry in made.items():
            found = document.entry(key, entry.shape, entry.dtype, where) or entry
            if not (entry.inferred or found.rng or found.kind is entry.kind):
                raise self._contradicted(key, f"a {entry.kind.value}, as its collection says", f"a {found.kind.value}")
            told[key] = found
        for alias, key in document.aliases.items():
            if key not in made or alias in made or alias in self._without_entry or alias <= key:
                raise self._contradicted(alias, "a greater key of an array of the file", f"an alias of {key!r}")
        keys.check_prefix_free({*made, *document.aliases, *self._without_entry})
        if not document.order:
            return told
        ordered = sorted(told)
        if sorted(document.order) != list(range(len(ordered))):
            raise self._contradicted("*", f"an order of {len(ordered)} entries", "another one")
        return {ordered[place]: told[ordered[place]] for place in document.order}

    def _contradicted(self, key: str, expected: str, found: str) -> errors.FileFormatError:
        beside = sidecar.sidecar_path(self.path)
        message = f"{beside} contradicts the file: {key!r}: expected {expected}, found {found}"
        hint = "restore both, or remove it to read the file as a foreign one"
        return errors.FileFormatError(message, keys=(key,), expected=expected, found=found, hint=hint)

    def _entries(self) -> Mapping[str, Entry]:
        return self._listed_entries

    def _aliases(self) -> Mapping[str, str]:
        return self.document.aliases

    def _opaque(self) -> Mapping[str, str]:
        return self._without_entry

    @property
    def collections_prefixed(self) -> bool:
        """Whether every key begins with its collection: our document says so of variables that were saved like that."""
        return self._prefixed

    @property
    def stored_names(self) -> Mapping[str, str]:
        """The path of every entry in the tree of the file, collection included, by key."""
        as_they_are = self._bare or self._prefixed
        names = {key: key if as_they_are else _full(self._collections[key], key) for key in self._arrays}
        return MappingProxyType(names)

    def _read(self, key: str, /) -> np.ndarray:
        array = self._arrays[key]
        parts = [self._file.view(offset, size) for offset, size in array.parts]
        raw = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return bits.decode(raw, array.shape, array.dtype, "little", f"{self.path}: {key!r}")

    def _load(self, key: str, /) -> np.ndarray:
        array = self._arrays[key]
        value = np.empty(array.shape, numpy_dtype(array.dtype))
        raw, done = value.reshape(-1).view(np.uint8), 0
        for offset, size in array.parts:
            self._file.copy_into(raw[done : done + size], offset)
            done += size
        return bits.settle(value, "little", f"{self.path}: {key!r}")

    def place(self, key: str, /) -> Stored | None:
        """Where the value lies, in one or more chunks."""
        if sys.byteorder == "big":
            return None
        array, file = self._arrays[key], self._file
        where = f"{self.path}: {key!r}"
        return Stored(file.absolute, file.size, file.modified, tuple(array.parts), array.dtype, where)

    @property
    def files(self) -> tuple[Path, ...]:
        """The file, and its sidecar where it has one."""
        beside = sidecar.sidecar_path(self.path)
        return (self.path, beside) if beside.exists() else (self.path,)

    def _frame_problem(self) -> str | None:
        state, position = xxhash.xxh3_128(), 0
        for offset, size in (*sorted(self._values), (self._file.size, 0)):
            for start in range(position, offset, _PIECE):
                state.update(self._file.read(start, min(_PIECE, offset - start)))
            position = offset + size
        if state.hexdigest() != self.document.frame:
            return "what lies between its values is not what was written"
        return sidecar.problem(self.path)

    def close(self) -> None:
        """Release the file. Idempotent."""
        self._file.close()


@lru_cache(maxsize=4096)
def _entry(collection: str, shape: tuple[int, ...], dtype: str) -> Entry:
    """The entry of an array in a collection of variables; most of a checkpoint are equal to another one."""
    kind = Kind.PARAMETER if collection == PARAMS else Kind.BUFFER
    trainable = Entry(kind, shape, dtype).can_train
    return Entry(kind, shape, dtype, trainable=trainable, persistent=collection not in TRANSIENT, tag=collection)


def _full(collection: str, key: str) -> str:
    """The path in the tree, as a key."""
    return f"{keys.escape(collection)}/{key}"


def _prefixed(document: Document, places: list[tuple[str, str, Array | Other]]) -> bool:
    """Whether the keys of a document begin with their collections. Never true of one that fits without them."""
    plain = {key for _, key, _ in places}
    if document.entries.keys() <= plain:
        return False
    return document.entries.keys() <= {_full(collection, key) for collection, key, _ in places}


def _what(leaf: Array | Other) -> str:
    if isinstance(leaf, Array):
        return f"dtype {leaf.dtype} is not one that a registry holds"
    return f"{leaf.what}, not an array"


def _leaves(key: str, node: Any) -> Iterator[tuple[str, Array | Other]]:
    stack = [(key, node)]
    while stack:
        key, node = stack.pop()
        if isinstance(node, dict):
            stack.extend((f"{key}/{keys.escape(name)}", child) for name, child in reversed(node.items()))
        elif node is not None:
            yield key, node


@final
class MsgpackStore:
    """Opens and writes Flax msgpack files."""

    name = "flax-msgpack"
    suffixes = (".msgpack",)
    install = "pip install 'stateregistry[flax]'"
    dialect = LINEN.name
    #: The format has no room for our metadata: `sr.save` writes it beside the file.
    sidecar = True

    def sniff(self, path: Path, head: bytes, /) -> bool:
        """A msgpack map from names."""
        return bool(head) and looks_like_it(head, path.stat().st_size)

    def open(self, path: Path, /) -> FileRegistry:
        """A lazy registry over the file.

        Raises:
            FileMissingError, FileAccessError, FileFormatError; KeyPathError, DuplicateKeyError: names that give no keys.
        """
        return self.open_within(path, DEFAULT)

    def open_within(self, path: Path, limits: Limits, /) -> FileRegistry:
        """As `open`, with limits other than the defaults."""
        file = MappedFile(path)
        try:
            with collector_paused():
                tree = Scanner(file.read, file.size, str(path), limits).document()
                return MsgpackFile(file, tree, sidecar.read_document(path, limits))
        except BaseException:
            file.close()
            raise

    def write(self, path: Path, source: StateRegistry, /, *, extra: Mapping[str, Any], progress: Progress) -> None:
        """Write the values of `source` by collection. Kinds, flags, aliases, order and `extra` are for the sidecar.

        Raises:
            UnsupportedError: a name that the format reserves. MissingDependencyError: no msgpack.
            FileAccessError: writing failed.
        """
        from stateregistry.stores.streamed import fill  # lazy: the engine, for who writes

        fill(path, self.layout(path, source, extra=extra, shard_bytes=None, before=None), source, progress)

    def layout(
        self,
        path: Path,
        source: StateRegistry,
        /,
        *,
        extra: Mapping[str, Any],
        shard_bytes: int | None,
        before: Sequence[str] | None,
    ) -> Layout:
        """Where every value will lie; the format has no shards.

        Raises:
            UnsupportedError: a name that the format reserves, or shards. MissingDependencyError: no msgpack.
        """
        from stateregistry_flax.msgpack_write import layout

        if shard_bytes is not None:
            message = f"{path}: the format {self.name} has one file, however large"
            raise errors.UnsupportedError(message, hint="leave shard_bytes out, or write .safetensors")
        return layout(path, source)
