"""The reader and the writer of Orbax directories: read lazily through TensorStore, written by Orbax itself.

Reading needs TensorStore alone, neither JAX nor Orbax: how arrays were sharded does not matter, each is put together when its
value is asked for. What an array declares is held against the files before it is read, and a block that is missing is an error.
Orbax finds no flipped bit in what it reads; a directory that we write has our document among its files, with a digest of every
value and of all files. What the tree says is told by `variables_file`. Imports TensorStore when a directory is opened.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

import numpy as np

from stateregistry import errors, keys
from stateregistry.stores.bits import check_bools
from stateregistry.stores.collector import collector_paused
from stateregistry.stores.folder import (
    DOCUMENT,
    FolderDocument,
    files_below,
    frame_problem,
    make_durable,
    read_document,
)
from stateregistry.stores.limits import DEFAULT, Limits
from stateregistry.stores.url import refuse_url
from stateregistry.streaming.origins import Asked
from stateregistry_flax.dialect import PARAMS
from stateregistry_flax.orbax_blocks import Blocks, Stamps, stamp_of
from stateregistry_flax.orbax_metadata import Item, Named, read_item
from stateregistry_flax.variables_file import Leaf, Other, VariablesFile

if TYPE_CHECKING:
    from stateregistry.parts import Box
    from stateregistry.registry import StateRegistry
    from stateregistry.stores.base import Document, Progress

INSTALL: Final = "pip install 'stateregistry[orbax]'"
#: Arrays whose metadata are asked for at once.
_AT_ONCE: Final = 256
#: A value of more bytes is read in blocks where none of these has more than that.
LARGE: Final = 1 << 24
BLOCK: Final = 1 << 24
#: Bytes that a checkpoint may declare whatever its files hold: what is compressed can be small.
_FREE: Final = 64 * 2**20


@final
@dataclass(frozen=True, slots=True)
class Place(Leaf):
    """An array of the checkpoint, opened and not read.

    Attributes:
        store: of TensorStore. folder: what the names of its files begin with; empty where all arrays share theirs.
        spec: how it was opened.
    """

    store: Any
    folder: str
    spec: Mapping[str, Any]

    @property
    def block(self) -> int:
        """Bytes in memory of the larger of the array and of one of its blocks."""
        chunk = self.store.chunk_layout.read_chunk.shape or ()
        return max(math.prod(self.shape), math.prod(chunk)) * int(self.store.dtype.numpy_dtype.itemsize)


def open_orbax(path: Path, /, *, part: str = "", limits: Limits = DEFAULT) -> OrbaxFile:
    """A lazy, read-only registry over a checkpoint directory.

    Raises:
        MissingDependencyError: no TensorStore. UnsupportedError: a URL. UnsafeFileError: it leads out of its directory.
        FileFormatError: damaged, not finished, contradicting itself or over a limit, or it holds several states.
        KeyPathError, DuplicateKeyError: names that give no keys.
    """
    refuse_url(path, "an Orbax directory")
    with collector_paused():
        item, whole = read_item(path, part, limits)
        known = {
            name: stamp_of(str(item.folder / name)) for name in files_below(item.folder, limits) if name != DOCUMENT
        }
        document = read_document(item.folder, limits) if whole else None
        tree = _opened(item, sum(size for size, _ in known.values()), limits)
        return OrbaxFile(path, item.folder, tree, document, known)


def _tensorstore() -> Any:
    try:
        import tensorstore
    except ModuleNotFoundError as error:
        message = "reading an Orbax checkpoint needs the package 'tensorstore'"
        raise errors.MissingDependencyError(message, hint=INSTALL) from error
    return tensorstore


def _opened(item: Item, held: int, limits: Limits) -> dict[str, Any]:
    """The tree with every array opened, so that its shape and dtype are known; that of an optimizer is left alone."""
    tensorstore = _tensorstore()
    context = tensorstore.Context({"cache_pool": {"total_bytes_limit": 1 << 24}})
    variables = isinstance(item.tree.get(PARAMS), dict)
    wanted: dict[str, Named] = {}
    tree: dict[str, Any] = {}
    for name, node in item.tree.items():
        if variables and name == "opt_state" and isinstance(node, dict):
            tree[name] = {"state": Other("the state of an optimizer")} if any(_leaves(node, "")) else {}
            continue
        tree[name] = node
        wanted |= {key: leaf for key, leaf in _leaves({name: node}, "") if isinstance(leaf, Named)}
    found: dict[str, Place] = {}
    rows = list(wanted.items())
    for start in range(0, len(rows), _AT_ONCE):
        waiting = [
            (key, tensorstore.open(_spec(item, leaf.name), read=True, open=True, context=context))
            for key, leaf in rows[start : start + _AT_ONCE]
        ]
        for key, future in waiting:
            try:
                opened = future.result()
            except (ValueError, OSError) as error:
                raise _unreadable(item.folder, key, error) from error
            inside = "" if item.ocdbt else f"{wanted[key].name}/"
            spec = _spec(item, wanted[key].name)
            place = Place(tuple(opened.shape), opened.dtype.name, opened, inside, spec)
            limits.check("rank", len(place.shape), f"{item.folder}: number of axes of {key[:80]!r}")
            allowed = _FREE + limits.inflation * held
            if place.block > allowed:
                message = f"{item.folder}: {key!r} declares {place.block:,} bytes, and all files have {held:,}"
                hint = "the checkpoint is damaged, or is to be trusted: sr.open(path, limits=Limits(inflation=...))"
                raise errors.FileFormatError(message, keys=(key,), expected=allowed, found=place.block, hint=hint)
            found[key] = place
    return _filled(tree, found, "")


def _leaves(node: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, inner in node.items():
        key = f"{prefix}{keys.escape(name)}"
        if isinstance(inner, dict):
            yield from _leaves(inner, f"{key}/")
        elif inner is not None:
            yield key, inner


def _filled(node: Mapping[str, Any], found: Mapping[str, Place], prefix: str) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, inner in node.items():
        key = f"{prefix}{keys.escape(name)}"
        made[name] = _filled(inner, found, f"{key}/") if isinstance(inner, dict) else found.get(key, inner)
    return made


def _spec(item: Item, name: str) -> dict[str, Any]:
    base = f"{item.folder.absolute()}/"
    store: dict[str, Any] = {"driver": "file", "path": f"{base}{name}/"}
    if item.ocdbt:
        store = {"driver": "ocdbt", "base": {"driver": "file", "path": base}, "path": f"{name}/"}
    # Without the last word, a block that is lost reads as zeros.
    return {"driver": "zarr3" if item.zarr3 else "zarr", "kvstore": store, "fill_missing_data_reads": item.sparse}


def _unreadable(folder: Path, key: str, error: Exception) -> errors.FileFormatError:
    message = f"{folder}: {key!r} cannot be read: {str(error)[:300]}"
    return errors.FileFormatError(message, keys=(key,), hint="the checkpoint is damaged or incomplete: get it again")


@final
class OrbaxFile(VariablesFile[Place]):
    """A registry over the variables in one Orbax directory."""

    adapter: ClassVar[str] = "orbax"

    def __init__(
        self,
        path: Path,
        folder: Path,
        tree: Mapping[str, Any],
        document: Document | None,
        known: Mapping[str, tuple[int, int]],
    ) -> None:
        self._folder, self._known, self._closed = folder, known, False
        self._stamps: dict[str, Stamps] = {}
        super().__init__(path, tree, document, folder / DOCUMENT)

    def _equal(self, one: Place, two: Place) -> bool:
        if (one.shape, one.dtype) != (two.shape, two.dtype):
            return False
        return self._value(one, "a copy").tobytes() == self._value(two, "a copy").tobytes()

    def _value(self, place: Place, key: str, window: tuple[slice, ...] | None = None) -> np.ndarray:
        if self._closed:
            message = f"{self.path}: the registry over this checkpoint is closed"
            raise errors.UnsupportedError(message, hint="read the values inside the with block")
        self._blocks(place, key).unchanged()
        try:
            store = place.store if window is None else place.store[window]
            array = np.asarray(store.read(order="C").result())
        except (ValueError, OSError) as error:
            raise _unreadable(self._folder, key, error) from error
        check_bools(array, place.dtype, f"{self.path}: {key!r}")
        return array

    def _blocks(self, place: Place, key: str) -> Blocks:
        """How TensorStore is asked for an array by somebody else."""
        if place.folder not in self._stamps:
            known = ((str(self._folder / name), *stamp) for name, stamp in self._known.items())
            self._stamps[place.folder] = tuple(
                row for name, row in zip(self._known, known, strict=True) if name.startswith(place.folder)
            )
        spec = json.dumps(place.spec, sort_keys=True)
        return Blocks(spec, place.dtype, f"{self._folder}: {key!r}", self._stamps[place.folder])

    def asked(self, key: str, /) -> Asked | None:
        """A value that is large, and whose blocks are not."""
        place = self._arrays[key]
        width = int(place.store.dtype.numpy_dtype.itemsize)
        chunk = place.store.chunk_layout.read_chunk.shape or place.shape
        block = math.prod(chunk) * width
        if math.prod(place.shape) * width <= LARGE or block > BLOCK or sys.byteorder == "big":
            return None
        if self._closed:
            return None  # who reads it is told
        where = f"{self.path}: {key!r}"
        return Asked(place.shape, place.dtype, self._blocks(place, key), block, str(self._folder.absolute()), where)

    def read_part(self, key: str, box: Box, /) -> np.ndarray:
        """As that of every file; blocks that the box does not touch are not read."""
        self._hold(key)
        window = tuple(slice(at, at + size) for at, size in zip(box.offsets, box.sizes, strict=True))
        return np.array(self._value(self._arrays[key], key, window), order="C", copy=True)

    def _read(self, key: str, /) -> np.ndarray:
        return self._value(self._arrays[key], key)

    def _load(self, key: str, /) -> np.ndarray:
        array = self._read(key)
        return array if array.flags.writeable and array.flags.c_contiguous else np.array(array, order="C", copy=True)

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file of the directory."""
        beside = self._folder / DOCUMENT
        return (*(self._folder / name for name in self._known), *((beside,) if beside.exists() else ()))

    def _frame_problem(self) -> str | None:
        names = [name for name in files_below(self._folder, DEFAULT) if name != DOCUMENT]
        return frame_problem(self._folder, names, self.document)

    def close(self) -> None:
        """Nothing is open between reads; values can be read no more. Idempotent."""
        self._closed = True


def save_orbax(path: Path, source: StateRegistry, /, *, extra: Mapping[str, Any], progress: Progress) -> None:
    """Write every entry of `source` as Orbax writes a tree of arrays, and our document beside it.

    Raises:
        UnsupportedError: an array without elements, or names that Orbax stores as one; before anything is written.
        MissingDependencyError: no Orbax. FileAccessError: writing failed.
    """
    from stateregistry_flax.orbax_write import write_orbax  # lazy: needs Orbax

    document = FolderDocument(source, extra)
    found = write_orbax(path, source)
    document.write(path, [name for name in files_below(path, DEFAULT) if name != DOCUMENT], found)
    make_durable(path)
    for key, entry in source.items():
        progress(key, entry.nbytes)
