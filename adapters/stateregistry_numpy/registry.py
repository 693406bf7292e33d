"""The registries of the reference adapter: `MutableRegistry` over a `Module`, `FrozenRegistry` over a `FrozenModel`.

The mutable one writes `cell.array[...] = value`: cells and arrays keep their identity. The frozen one builds a new tree and
shares untouched arrays read-only. Both refuse memory that overlaps without being the same place, and names that are no keys,
when they are made. Imports NumPy and the core.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Self, final

import numpy as np

from stateregistry import errors, keys
from stateregistry.entry import Entry, Kind, dtype_name
from stateregistry.registry import StateRegistry
from stateregistry_numpy.cells import Abstract, Buffer, Cell, Parameter, Rng, extent, overlap, same_place
from stateregistry_numpy.layers import layer_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from stateregistry.layers.vocabulary import Layer
    from stateregistry_numpy.module import Module
    from stateregistry_numpy.tree import FrozenModel, Path


@final
@dataclass(frozen=True, slots=True)
class _Group:
    """The names of one place, each with the cell that was there when the model was last walked."""

    canonical: str
    members: Mapping[str, Cell]
    arrays: tuple[object, ...]

    def holds(self, find: Callable[[str], Cell | None]) -> bool:
        """Whether every name still reaches the same cell with the same array."""
        if any(find(key) is not cell for key, cell in self.members.items()):
            return False
        return all(_array(c) is a for c, a in zip(self.members.values(), self.arrays, strict=True))

    def entry(self) -> Entry:
        """A parameter, persistent, trainable when one member is."""
        cells = tuple(dict.fromkeys(self.members.values()))
        first = next((cell for cell in cells if isinstance(cell, Parameter)), cells[0])
        entry = _entry(first)
        return Entry(
            entry.kind,
            entry.shape,
            entry.dtype,
            trainable=any(isinstance(cell, Parameter) and cell.trainable for cell in cells),
            persistent=any(not isinstance(cell, Buffer) or cell.persistent for cell in cells),
            concrete=entry.concrete,
            rng=any(isinstance(cell, Rng) for cell in cells) and entry.kind is Kind.BUFFER,
            tag=entry.tag,
        )


@final
@dataclass(frozen=True, slots=True)
class _Walk:
    """What one walk over a module found."""

    entries: Mapping[str, Entry]
    aliases: Mapping[str, str]
    opaque: Mapping[str, str]


#: Names of dtypes: NumPy works them out anew at every call, and a walk over a model asks for each cell.
_name_of = cache(dtype_name)


class MutableRegistry(StateRegistry):
    """The state of a live `Module`. Not final: deliberately broken variants, on which the suite is tested, derive from it.

    Raises:
        UnsupportedError: cells overlap in memory without being the same place, or a module contains itself.
    """

    adapter: ClassVar[str] = "numpy"
    in_place: ClassVar[bool] = True
    materialises: ClassVar[bool] = True

    def __init__(self, module: Module) -> None:
        self._module = module
        self._groups: Mapping[str, _Group] = {}  # by every name of every tied place, as of the last walk
        self._walk()

    def unwrap(self) -> Module:
        """The module."""
        return self._module

    # ---------------------------------------------------------------- enumeration

    def _walk(self) -> _Walk:
        cells = dict(self._module.cells())
        names: dict[int, list[str]] = {}  # by place, in order of declaration
        standing = _places(cells)
        for key, cell in cells.items():
            names.setdefault(standing.get(id(cell), id(cell)), []).append(key)
        entries: dict[str, Entry] = {}
        aliases: dict[str, str] = {}
        opaque: dict[str, str] = {}
        groups: dict[str, _Group] = {}
        for those in names.values():
            canonical = min(those)
            cell = cells[canonical]
            if _name_of(cell.dtype) is None:
                opaque |= dict.fromkeys(those, f"an array of dtype {cell.dtype}")
            elif len(those) == 1:
                entries[canonical] = _entry(cell)
            else:
                members = {key: cells[key] for key in those}
                group = _Group(canonical, members, tuple(_array(c) for c in members.values()))
                entries[canonical] = group.entry()
                aliases |= {key: canonical for key in those if key != canonical}
                groups |= dict.fromkeys(those, group)
        self._groups = groups
        return _Walk(entries, aliases, opaque)

    def _entries(self) -> Mapping[str, Entry]:
        return self._walk().entries

    def _aliases(self) -> Mapping[str, str]:
        return self._walk().aliases

    def _opaque(self) -> Mapping[str, str]:
        return self._walk().opaque

    def _cell(self, key: str) -> Cell | None:
        try:
            member = self._module.find(key)
        except errors.KeyPathError:
            return None
        return member if isinstance(member, Cell) else None

    def _find(self, key: str, /) -> Entry | None:
        # Its own path only, so that a loop over all keys is linear. Ties are those of the last walk, verified here; that
        # a change elsewhere has tied this place is learnt from the next enumeration.
        cell = self._cell(key)
        if cell is None or _name_of(cell.dtype) is None:
            return None
        group = self._groups.get(key)
        if group is None:
            return _entry(cell)
        if not group.holds(self._cell):
            return self._walk().entries.get(key)
        return group.entry() if key == group.canonical else None

    def _layers(self) -> tuple[Layer, ...]:
        found = (layer_of(module, path) for path, module in self._module.modules())
        return tuple(layer for layer in found if layer is not None)

    # ---------------------------------------------------------------- values

    def _known(self, key: str) -> Cell:
        cell = self._cell(key)
        assert cell is not None  # the base has looked it up
        return cell

    def _read(self, key: str, /) -> np.ndarray:
        return self._known(key).array

    def _stage(self, key: str, value: np.ndarray, /) -> np.ndarray:
        return value

    def _commit(self, staged: Mapping[str, Any], /) -> Self:
        for key, value in staged.items():
            cell = self._known(key)
            if value is None:
                cell.empty()  # the backup of a place that had no values
            elif cell.concrete:
                cell.array[...] = value
            else:
                cell.array = value
        return self

    def _backup(self, key: str, /) -> Any:
        cell = self._known(key)
        return np.array(cell.array, order="C", copy=True) if cell.concrete else None

    def _same(self, key: str, backup: Any) -> bool:
        cell = self._known(key)
        if backup is None or not cell.concrete:
            return backup is None and not cell.concrete
        return bool(np.array(cell.array, order="C", copy=True).tobytes() == backup.tobytes())

    def _commit_trainable(self, mask: Mapping[str, bool], /) -> Self:
        for key, flag in mask.items():
            group = self._groups.get(key)
            for cell in group.members.values() if group is not None else (self._known(key),):
                if isinstance(cell, Parameter) and (cell.can_train or not flag):
                    cell.trainable = flag
        return self


class FrozenRegistry(StateRegistry):
    """The state of a `FrozenModel`; writing gives a new one. Not final, as `MutableRegistry`.

    Raises:
        KeyPathError: a name that is empty or neither `str` nor `int`. DuplicateKeyError: two places with one key, or one key
            that is a prefix of another. UnsupportedError: a tie to or from a place that cannot be tied.
    """

    adapter: ClassVar[str] = "numpy-frozen"
    in_place: ClassVar[bool] = False
    materialises: ClassVar[bool] = True

    def __init__(self, model: FrozenModel) -> None:
        self._model = model
        self._places: dict[str, tuple[str, Path]] = {}  # canonical key -> where its array is
        self._known_aliases: dict[str, str] = {}
        self._known_opaque: dict[str, str] = {}
        self._known_entries = self._index()

    def unwrap(self) -> FrozenModel:
        """The immutable model."""
        return self._model

    def _index(self) -> dict[str, Entry]:
        leaves: dict[str, tuple[str, Path, Any]] = {}
        for collection, path, leaf in self._model.leaves():
            key = _key(path)
            if key in leaves:
                message = f"{key!r} is in {leaves[key][0]!r} ({leaves[key][1]}) and in {collection!r} ({path})"
                raise errors.DuplicateKeyError(message, keys=(key,), hint="rename one of the two")
            leaves[key] = collection, path, leaf
        groups = {key: [key] for key in leaves}
        everything = set(leaves)
        for alias, target in self._model.ties.items():
            name, owner = _key(alias), _key(target)
            if name in everything or owner not in leaves:
                message = f"the tie of {name!r} to {owner!r} is not one of a new name to an array"
                raise errors.UnsupportedError(message, keys=(name, owner))
            everything.add(name)
            groups[owner].append(name)
        keys.check_prefix_free(everything)
        entries = {}
        for owner, names in groups.items():
            collection, path, leaf = leaves[owner]
            entry = _frozen_entry(collection, leaf)
            if entry is None:
                self._known_opaque |= dict.fromkeys(names, f"a {_what(leaf)} in {collection!r}")
                continue
            canonical = min(names)
            entries[canonical] = entry
            self._places[canonical] = collection, path
            self._known_aliases |= {name: canonical for name in names if name != canonical}
        return entries

    def _entries(self) -> Mapping[str, Entry]:
        return self._known_entries

    def _aliases(self) -> Mapping[str, str]:
        return self._known_aliases

    def _opaque(self) -> Mapping[str, str]:
        return self._known_opaque

    def _layers(self) -> tuple[Layer, ...]:
        return self._model.layers

    def _read(self, key: str, /) -> np.ndarray:
        collection, path = self._places[key]
        node = getattr(self._model, collection)
        for step in path:
            node = node[step]
        assert isinstance(node, np.ndarray)  # the base reads concrete entries only
        return node

    def _stage(self, key: str, value: np.ndarray, /) -> np.ndarray:
        value.flags.writeable = False  # it belongs to us, and from now on to nobody
        return value

    def _commit(self, staged: Mapping[str, Any], /) -> Self:
        return type(self)(self._model.with_leaves({self._places[key]: value for key, value in staged.items()}))

    def _tree(self, flat: Mapping[str, Any], /) -> Any:
        return keys.nest(flat)


def _array(cell: Cell) -> np.ndarray | None:
    return cell.array if cell.concrete else None


def _entry(cell: Cell) -> Entry:
    name = _name_of(cell.dtype)
    assert name is not None  # others are opaque
    if isinstance(cell, Parameter):
        return Entry(
            Kind.PARAMETER, cell.shape, name, trainable=cell.trainable, concrete=cell.concrete, tag="Parameter"
        )
    assert isinstance(cell, Buffer)
    return Entry(
        Kind.BUFFER,
        cell.shape,
        name,
        persistent=cell.persistent,
        concrete=cell.concrete,
        rng=isinstance(cell, Rng),
        tag=type(cell).__name__,
    )


def _frozen_entry(collection: str, leaf: Any) -> Entry | None:
    if not isinstance(leaf, (np.ndarray, Abstract)):
        return None
    name = _name_of(leaf.dtype)
    if name is None or (collection == "rngs" and (leaf.shape != (2,) or name != "uint32")):
        return None
    kind = Kind.PARAMETER if collection == "parameters" else Kind.BUFFER
    trains = kind is Kind.PARAMETER and ("float" in name or "complex" in name)
    return Entry(
        kind,
        leaf.shape,
        name,
        trainable=trains,
        persistent=collection != "transient",
        concrete=isinstance(leaf, np.ndarray),
        rng=collection == "rngs",
        tag=collection,
    )


def _what(leaf: Any) -> str:
    if isinstance(leaf, (np.ndarray, Abstract)):
        return f"{leaf.dtype}{list(leaf.shape)} array"
    return type(leaf).__name__


def _key(path: Path) -> str:
    segments = []
    for step in path:
        if type(step) not in {str, int} or (isinstance(step, int) and step < 0):
            message = f"{step!r} in the path {path} is neither a name nor a number of a list"
            raise errors.KeyPathError(message, keys=(str(step),), hint="rename the member in the model")
        segments.append(str(step))
    return keys.join(*segments)


def _places(cells: Mapping[str, Cell]) -> Mapping[int, int]:
    """The id of the cell that stands for its place, for every cell that shares memory with another one.

    Raises:
        UnsupportedError: two cells overlap without being the same place.
    """
    names = {id(cell): key for key, cell in cells.items()}
    distinct = [c for c in dict.fromkeys(cells.values()) if c.concrete and c.array.size]
    arrays = {id(cell.array) for cell in distinct}
    if len(arrays) == len(distinct) and all(cell.array.flags.owndata for cell in distinct):
        return {}  # arrays that each own their memory cannot overlap
    spans = sorted(((*extent(cell.array), cell) for cell in distinct), key=lambda span: span[:2])
    standing: dict[int, int] = {}
    reaching: list[tuple[int, Cell]] = []  # those whose memory goes on behind the start of the present one
    for low, high, cell in spans:
        reaching = [(end, other) for end, other in reaching if end > low]
        same = next((other for _, other in reaching if same_place(cell.array, other.array)), None)
        if same is not None:
            standing[id(cell)] = id(same)
            continue
        clash = next((other for _, other in reaching if overlap(cell.array, other.array)), None)
        if clash is not None:
            pair = tuple(sorted((names[id(cell)], names[id(clash)])))
            message = f"{pair[0]!r} and {pair[1]!r} overlap in memory without being the same place"
            raise errors.UnsupportedError(message, keys=pair, hint="give each of them an array of its own")
        reaching.append((high, cell))
    return standing
