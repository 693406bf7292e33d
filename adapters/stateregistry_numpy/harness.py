"""Harnesses of the reference adapter: how the conformance suite builds its models and looks into them without it.

`mutable` builds `Module`s, `frozen` builds `FrozenModel`s. Their side doors walk the native objects and never make a
registry. Imports NumPy, the core and the suite.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, final

import numpy as np

import stateregistry as sr
from stateregistry import keys
from stateregistry.entry import Kind
from stateregistry_conformance.capabilities import CAPABILITIES
from stateregistry_conformance.declaration import CannotBuild, Declaration, Leaf
from stateregistry_conformance.harness import Specimen
from stateregistry_numpy import layer_harness as standard
from stateregistry_numpy.cells import Abstract, Buffer, Cell, Parameter, Rng
from stateregistry_numpy.module import Module
from stateregistry_numpy.tree import COLLECTIONS, FrozenModel, Path

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from stateregistry.registry import StateRegistry
    from stateregistry_conformance.trials.case import LayerCase

_F32 = np.float32


def _copy(array: np.ndarray) -> np.ndarray:
    return np.array(array, order="C", copy=True)


def _two(first: str = "w", second: str = "b") -> Declaration:
    return Declaration(
        (
            Leaf(first, Kind.PARAMETER, np.arange(6, dtype=_F32).reshape(2, 3)),
            Leaf(second, Kind.BUFFER, np.arange(3, dtype=_F32)),
        )
    )


@final
class MutableHarness:
    """Builds `Module`s, one module per container, one cell per leaf."""

    name: str = "numpy"
    adapter_version: str = sr.__version__
    capabilities: frozenset[str] = frozenset(CAPABILITIES)

    def build(self, declaration: Declaration, /) -> Module:
        """A tree of plain modules."""
        root = Module()
        cells = {leaf.key: _cell(leaf) for leaf in declaration.leaves}
        for key, cell in cells.items():
            _put(root, keys.split(key), cell)
        for alias, target in declaration.ties.items():
            _put(root, keys.split(alias), cells[target])
        return root

    def registry(self, model: Module, /) -> StateRegistry:
        """The registry that `sr.of` gives."""
        return sr.of(model)

    def _reach(self, model: Module, key: str) -> Cell:
        member: Any = model
        for step in keys.split(key):
            member = member.members[step]
        assert isinstance(member, Cell)
        return member

    def peek(self, model: Module, key: str, /) -> np.ndarray:
        """A copy of the array of the cell."""
        return _copy(self._reach(model, key).array)

    def poke(self, model: Module, key: str, value: np.ndarray, /) -> Module:
        """Write into the array of the cell."""
        self._reach(model, key).array[...] = value
        return model

    def cell(self, model: Module, key: str, /) -> object:
        """The `Parameter` or `Buffer`."""
        return self._reach(model, key)

    def fault(self, model: Module, key: str, /) -> Module:
        """Make the array of the cell read-only: NumPy raises `ValueError` on every write."""
        self._reach(model, key).array.flags.writeable = False
        return model

    def train_step(self, model: Module, /) -> Module:
        """Subtract one from every trainable parameter, once per cell."""
        for cell in {id(cell): cell for _, cell in model.cells()}.values():
            if isinstance(cell, Parameter) and cell.trainable:
                cell.array[...] = (cell.array - 1).astype(cell.dtype)
        return model

    def peek_trainable(self, model: Module, key: str, /) -> bool:
        """The flag of the `Parameter`."""
        cell = self._reach(model, key)
        return isinstance(cell, Parameter) and cell.trainable

    def poke_trainable(self, model: Module, key: str, flag: bool, /) -> Module:  # the value of the flag
        """Set the flag of the `Parameter`."""
        cell = self._reach(model, key)
        assert isinstance(cell, Parameter)
        cell.trainable = flag
        return model

    def add(self, model: Module, leaf: Leaf, /) -> Module:
        """Register a further cell."""
        _put(model, leaf.path, _cell(leaf))
        return model

    def drop(self, model: Module, key: str, /) -> Module:
        """Delete a member."""
        *parents, name = keys.split(key)
        module: Any = model
        for step in parents:
            module = module.members[step]
        delattr(module, name)
        return model

    def describe(self, model: Module, key: str, /) -> object:
        """Type, identity of the array, flags of the cell."""
        cell = self._reach(model, key)
        flags = (cell.trainable if isinstance(cell, Parameter) else None, getattr(cell, "persistent", None))
        array = id(cell.array) if cell.concrete else None
        return type(cell).__name__, array, cell.shape, cell.dtype.name, flags

    def fingerprint(self, model: Module, /) -> object:
        """Every member and every byte, and the state of NumPy's global generator."""
        cells = tuple((key, id(cell), self.describe(model, key)) for key, cell in model.cells())
        bits = tuple(cell.array.tobytes() for _, cell in model.cells() if cell.concrete)
        return cells, bits, _global_generator()

    def specimen(self, name: str, /) -> Specimen:
        """One of the odd models that `Module` can be."""
        makers: dict[str, Callable[[], Specimen]] = {
            "unregistered": self._unregistered,
            "none": self._none,
            "opaque": self._opaque,
            "wrapped": self._wrapped,
            "one_memory": self._one_memory,
            "overlap": self._overlap,
            "mixed_tie": self._mixed_tie,
        }
        if name not in makers:
            raise CannotBuild(_NO_SPECIMEN[name])
        return makers[name]()

    def layer_kinds(self) -> Collection[str]:
        """The five kinds of the reference; it has no wrappers and no stacks."""
        return standard.KINDS

    def build_layer(self, case: LayerCase, /) -> Module:
        """A `Linear`, `Conv`, ... as the case says."""
        return standard.build(case)

    def layer_forward(self, model: Module, inputs: Sequence[np.ndarray], /) -> np.ndarray:
        """`model.forward`, with the channels where the reference has them."""
        return standard.forward(model, inputs)

    def odd_layer(self, name: str, /) -> Specimen:
        """One of the odd modules that look like a `Linear`."""
        return standard.odd(name)

    def _unregistered(self) -> Specimen:
        declaration = _two()
        model = self.build(declaration)
        model.cache = np.ones(3, _F32)
        return Specimen(model, ("cache",), declaration)

    def _none(self) -> Specimen:
        declaration = _two()
        model = self.build(declaration)
        model.register_buffer("gone", None)
        model.register_parameter("absent", None)
        return Specimen(model, ("absent", "gone"), declaration)

    def _opaque(self) -> Specimen:
        declaration = _two()
        model = self.build(declaration)
        model.register_buffer("names", np.array(["a", "b"]))
        model.register_parameter("wide", np.array([(1, 2.0)], dtype=[("n", "i4"), ("x", "f4")]))
        return Specimen(model, ("names", "wide"), declaration)

    def _wrapped(self) -> Specimen:
        outer = Module()
        outer.add_module("module", self.build(_two()))
        return Specimen(outer, ("module/b", "module/w"), _two("module/w", "module/b"))

    def _one_memory(self) -> Specimen:
        declaration = Declaration((_two().leaves[0],), {"head": "w"})
        model = self.build(Declaration((_two().leaves[0],)))
        twin = Parameter(np.zeros((2, 3), _F32))
        twin.array = model.w.array
        model.head = twin
        return Specimen(model, ("head", "w"), declaration)

    def _overlap(self) -> Specimen:
        model = self.build(Declaration((_two().leaves[0],)))
        part = Buffer(np.zeros(3, _F32))
        part.array = model.w.array[0]
        model.part = part
        return Specimen(model, ("part", "w"))

    def _mixed_tie(self) -> Specimen:
        leaf = _two().leaves[0]
        model = Module()
        shadow = Buffer(np.zeros((2, 3), _F32), persistent=False)
        model.shadow = shadow
        model.w = Parameter(leaf.value)
        shadow.array = model.w.array
        return Specimen(model, ("shadow", "w"), Declaration((leaf,), {"shadow": "w"}))


_NO_SPECIMEN = {
    "empty_name": "a Module refuses the empty name when it is registered",
    "duplicate_key": "a Module has one namespace, and escaped names are distinct",
    "prefix": "a name of a Module is either a cell or a module",
    "unknown_shape": "a cell always has a shape",
    "sharded": "an array of NumPy lies in one piece",
    "shared_array": "an array in two cells of a Module is mutable, so it is a tie",
    "gradients": "NumPy has no automatic differentiation",
}


@final
class FrozenHarness:
    """Builds `FrozenModel`s: one nested mapping per collection; segments of digits are steps of type `int`."""

    name: str = "numpy-frozen"
    adapter_version: str = sr.__version__
    capabilities: frozenset[str] = frozenset(CAPABILITIES) - {"fault", "native_trainable", "layers"}

    def build(self, declaration: Declaration, /) -> FrozenModel:
        """Trees of arrays of the model's own: a write into the memory of one reaches no other model, nor the declaration."""
        trees: dict[str, Any] = {name: {} for name in COLLECTIONS}
        for leaf in declaration.leaves:
            if leaf.can_train and not leaf.trainable:
                message = f"{leaf.key}: a frozen model has no flag that says whether a parameter is trainable"
                raise CannotBuild(message)
            node = trees[_collection(leaf)]
            *parents, last = _steps(leaf.key)
            for step in parents:
                node = node.setdefault(step, {})
            node[last] = _copy(leaf.value) if leaf.concrete else Abstract(leaf.value.shape, leaf.value.dtype)
        ties = {_steps(alias): _steps(target) for alias, target in declaration.ties.items()}
        return FrozenModel(**trees, ties=ties)

    def registry(self, model: FrozenModel, /) -> StateRegistry:
        """The registry that `sr.of` gives."""
        return sr.of(model)

    def _reach(self, model: FrozenModel, key: str) -> tuple[str, Path, Any]:
        path = model.ties.get(_steps(key), _steps(key))
        return next(leaf for leaf in model.leaves() if leaf[1] == path)

    def peek(self, model: FrozenModel, key: str, /) -> np.ndarray:
        """A copy of the leaf."""
        return _copy(self._reach(model, key)[2])

    def poke(self, model: FrozenModel, key: str, value: np.ndarray, /) -> FrozenModel:
        """Another model with another leaf."""
        collection, path, _ = self._reach(model, key)
        return model.with_leaves({(collection, path): _copy(value)})

    def cell(self, model: FrozenModel, key: str, /) -> object:
        """The leaf itself."""
        return self._reach(model, key)[2]

    def train_step(self, model: FrozenModel, /) -> FrozenModel:
        """Another model with one subtracted from every floating parameter."""
        changes = {
            (collection, path): (leaf - 1).astype(leaf.dtype)
            for collection, path, leaf in model.leaves()
            if collection == "parameters" and leaf.dtype.kind not in "biu"
        }
        return model.with_leaves(changes)

    def describe(self, model: FrozenModel, key: str, /) -> object:
        """Collection, path and type of the leaf, and that it is read-only."""
        collection, path, leaf = self._reach(model, key)
        writeable = leaf.flags.writeable if isinstance(leaf, np.ndarray) else None
        return collection, path, type(leaf).__name__, writeable

    def fingerprint(self, model: FrozenModel, /) -> object:
        """Every leaf and every byte, and the state of NumPy's global generator."""
        leaves = tuple((collection, path, id(leaf)) for collection, path, leaf in model.leaves())
        bits = tuple(leaf.tobytes() for _, _, leaf in model.leaves() if isinstance(leaf, np.ndarray))
        return leaves, bits, _global_generator()

    def specimen(self, name: str, /) -> Specimen:
        """One of the odd models that `FrozenModel` can be."""
        w, b = (leaf.value for leaf in _two().leaves)
        if name == "empty_name":
            return Specimen(FrozenModel(parameters={"a": {"": w}, "b": b}))
        if name == "duplicate_key":
            return Specimen(FrozenModel(parameters={"n": {"w": w}}, buffers={"n": {"w": b}}), ("n/w",))
        if name == "prefix":
            return Specimen(FrozenModel(parameters={"n": w}, buffers={"n": {"b": b}}), ("n",))
        if name == "none":
            model = FrozenModel(parameters={"w": w, "absent": None}, buffers={"b": b, "gone": None})
            return Specimen(model, ("absent", "gone"), _two())
        if name == "opaque":
            model = FrozenModel(parameters={"w": w, "config": "relu"}, buffers={"b": b, "names": np.array(["a", "b"])})
            return Specimen(model, ("config", "names"), _two())
        if name == "wrapped":
            model = FrozenModel(parameters={"module": {"w": w}}, buffers={"module": {"b": b}})
            return Specimen(model, ("module/b", "module/w"), _two("module/w", "module/b"))
        if name == "shared_array":
            array = _copy(w)
            array.flags.writeable = False
            leaves = (Leaf("one", Kind.PARAMETER, array), Leaf("two", Kind.PARAMETER, array))
            return Specimen(FrozenModel(parameters={"one": array, "two": array}), ("one", "two"), Declaration(leaves))
        raise CannotBuild(_NO_FROZEN_SPECIMEN[name])


_NO_FROZEN_SPECIMEN = {
    "unregistered": "a FrozenModel is nothing but its collections",
    "unknown_shape": "a leaf always has a shape",
    "sharded": "an array of NumPy lies in one piece",
    "one_memory": "ties of a FrozenModel are stated, not found by memory",
    "overlap": "arrays of a FrozenModel own their memory and never change",
    "mixed_tie": "a tie of a FrozenModel is between names of one place",
    "gradients": "NumPy has no automatic differentiation",
}


def _cell(leaf: Leaf) -> Cell:
    value = leaf.value if leaf.concrete else Abstract(leaf.value.shape, leaf.value.dtype)
    if leaf.kind is Kind.PARAMETER:
        if not leaf.persistent:
            raise CannotBuild(f"{leaf.key}: a parameter is always saved")
        return Parameter(value, leaf.trainable)
    return Rng(value, leaf.persistent) if leaf.rng else Buffer(value, leaf.persistent)


def _put(module: Module, path: tuple[str, ...], cell: Cell) -> None:
    *parents, name = path
    for step in parents:
        child = module.members.get(step)
        if child is None:
            child = Module()
            module.add_module(step, child)
        assert isinstance(child, Module)
        module = child
    if isinstance(cell, Parameter):
        module.register_parameter(name, cell)
    else:
        assert isinstance(cell, Buffer)
        module.register_buffer(name, cell)


def _collection(leaf: Leaf) -> str:
    if leaf.kind is Kind.PARAMETER:
        if not leaf.persistent:
            raise CannotBuild(f"{leaf.key}: a parameter is always saved")
        return "parameters"
    if leaf.rng:
        if not leaf.persistent:
            raise CannotBuild(f"{leaf.key}: a generator is always saved")
        return "rngs"
    return "buffers" if leaf.persistent else "transient"


def _steps(key: str) -> Path:
    return tuple(int(s) if s.isdecimal() and str(int(s)) == s else s for s in keys.split(key))


def _global_generator() -> object:
    state: Any = np.random.get_state(legacy=False)  # noqa: NPY002  # the legacy generator is the global one
    return state["state"]["pos"], state["state"]["key"].tobytes()


mutable: Final = MutableHarness()
frozen: Final = FrozenHarness()
