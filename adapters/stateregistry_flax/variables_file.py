"""A registry over a file that holds a tree of Flax variables: `params`, `batch_stats` and other collections, or bare names.

The collections of Linen variables say the kinds, as for live variables; without a `params` collection they are inferred
from names. A document of ours that contradicts the file is refused. An alias may have a copy in the tree, for readers
without aliases: it is listed once, and a copy of other bytes is a contradiction. Keys begin with their collections where
those of the document do. A store gives the tree and how a value is read. Imports neither JAX nor Flax.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Generic, TypeVar, final

from stateregistry import errors, keys
from stateregistry.entry import DTYPES, Entry, Kind
from stateregistry.stores.kinds import infer_kind, inferred
from stateregistry.stores.listed import ListedFile
from stateregistry.stores.listing import Listing
from stateregistry_flax.dialect import LINEN, PARAMS, TRANSIENT

if TYPE_CHECKING:
    from pathlib import Path

    from stateregistry.stores.base import Document


@dataclass(frozen=True, slots=True)
class Leaf:
    """An array of the tree; a store adds where its bytes are."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def held(self) -> bool:
        """Whether a registry holds the dtype."""
        return self.dtype in DTYPES


@final
@dataclass(frozen=True, slots=True)
class Other:
    """A leaf that is no array, in words; `value` where it is a small number or truth value."""

    what: str
    value: Any = None


A = TypeVar("A", bound=Leaf)


class VariablesFile(ListedFile, Generic[A]):
    """A file of variables.

    A checkpoint of a `TrainState` lists its variables; its step and the state of its optimizer are opaque.

    Args:
        path: the file or directory. tree: names to trees, leaves, others and `None`.
        document: ours. told_in: where it stands, for messages.
    """

    def __init__(self, path: Path, tree: Mapping[str, Any], document: Document | None, told_in: Path) -> None:
        self.path, self._told_in = path, told_in
        self._arrays: dict[str, A] = {}
        self._collections: dict[str, str] = {}
        self._without_entry: dict[str, str] = {}
        # With `params`, what is a mapping is a collection; the rest (a step, `None`) belongs to a TrainState.
        self._bare = not isinstance(tree.get(PARAMS), dict)
        self._places = list(self._found(tree))
        self._prefixed = not self._bare and document is not None and _prefixed(document, self._places)
        for collection, key, leaf in self._places:
            self._add(collection, _full(collection, key) if self._prefixed else key, leaf)
        keys.check_prefix_free({*self._arrays, *self._without_entry})
        if document is not None:
            self._drop_copies(document)
        made = {key: self._entry(key, array) for key, array in self._arrays.items()}
        entries = made if document is None else self._checked(document, made)
        aliases = document.aliases if document is not None else {}
        listing = Listing(tuple(entries), entries, self._without_entry, aliases, self._paths())
        super().__init__(path, listing, dialect=LINEN.name, document=document)

    @abstractmethod
    def _equal(self, one: A, two: A) -> bool:
        """Whether two arrays are the same, bit for bit. Opening asks it of what our document calls copies."""

    def _found(self, tree: Mapping[str, Any]) -> Iterator[tuple[str, str, A | Other]]:
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

    def _add(self, collection: str, key: str, leaf: A | Other) -> None:
        if key in self._arrays or key in self._without_entry:
            where = ", ".join(map(repr, (self._collections.get(key, "the top"), collection)))
            message = f"{self.path}: {key!r} stands for a place in each of {where}"
            hint = "read it with flax.serialization and pass the variables with prefix_collections=True"
            raise errors.DuplicateKeyError(message, keys=(key,), hint=hint)
        self._collections[key] = collection
        if isinstance(leaf, Leaf) and leaf.held:
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

    def _entry(self, key: str, array: A) -> Entry:
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
        message = f"{self._told_in} contradicts the file: {key!r}: expected {expected}, found {found}"
        hint = "restore both, or remove it to read the file as a foreign one"
        return errors.FileFormatError(message, keys=(key,), expected=expected, found=found, hint=hint)

    @property
    def collections_prefixed(self) -> bool:
        """Whether every key begins with its collection: our document says so of variables that were saved like that."""
        return self._prefixed

    def _paths(self) -> Mapping[str, str]:
        """The path of every entry in the tree, collection included, by key."""
        as_they_are = self._bare or self._prefixed
        return {key: key if as_they_are else _full(self._collections[key], key) for key in self._arrays}


@lru_cache(maxsize=4096)
def _entry(collection: str, shape: tuple[int, ...], dtype: str) -> Entry:
    """The entry of an array in a collection of variables; most of a checkpoint are equal to another one."""
    kind = Kind.PARAMETER if collection == PARAMS else Kind.BUFFER
    trainable = Entry(kind, shape, dtype).can_train
    return Entry(kind, shape, dtype, trainable=trainable, persistent=collection not in TRANSIENT, tag=collection)


def _full(collection: str, key: str) -> str:
    """The path in the tree, as a key."""
    return f"{keys.escape(collection)}/{key}"


def _prefixed(document: Document, places: list[tuple[str, str, A | Other]]) -> bool:
    """Whether the keys of a document begin with their collections. Never true of one that fits without them."""
    plain = {key for _, key, _ in places}
    if document.entries.keys() <= plain:
        return False
    return document.entries.keys() <= {_full(collection, key) for collection, key, _ in places}


def _what(leaf: Leaf | Other) -> str:
    if isinstance(leaf, Leaf):
        return f"dtype {leaf.dtype} is not one that a registry holds"
    return f"{leaf.what}, not an array"


def _leaves(key: str, node: Any) -> Iterator[tuple[str, Any]]:
    stack = [(key, node)]
    while stack:
        key, node = stack.pop()
        if isinstance(node, dict):
            stack.extend((f"{key}/{keys.escape(name)}", child) for name, child in reversed(node.items()))
        elif node is not None:
            yield key, node
