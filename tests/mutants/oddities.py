"""Models that the reference harnesses cannot build, and registries that serve them: shards, gradients, lazy shapes, boxes.

Some requirements speak of what plain NumPy has not. Here a `Parameter` lies in two shards, has a gradient, has no shape
before it is first used, or sits in a box with a device and names of axes; each harness has the correct registry as its
default, so that mutants of it differ in one respect only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from mutants.support import F32, MutableSubject, noise, one
from stateregistry import errors, keys
from stateregistry.registry import StateRegistry
from stateregistry_conformance.declaration import Declaration
from stateregistry_conformance.harness import Specimen
from stateregistry_numpy.cells import Abstract, Cell, Parameter
from stateregistry_numpy.module import Module
from stateregistry_numpy.registry import MutableRegistry

# ---------------------------------------------------------------------------------------------------------------- shards


class Sharded(Parameter):
    """A parameter whose rows lie on two devices; `array` gathers them."""

    def __init__(self, value: np.ndarray, trainable: bool = True) -> None:  # as Parameter
        super().__init__(value, trainable)
        self.shards = [np.array(value[:1]), np.array(value[1:])]

    @property
    def array(self) -> np.ndarray:
        return np.concatenate(self.shards, out=self._array)

    @array.setter
    def array(self, value: np.ndarray) -> None:
        self.shards[0][...], self.shards[1][...] = value[:1], value[1:]


class ShardedRegistry(MutableRegistry):
    """Reads all shards, writes all shards."""

    def _commit(self, staged: Mapping[str, Any], /) -> Self:
        spread = {key: value for key, value in staged.items() if isinstance(self._known(key), Sharded)}
        for key, value in spread.items():
            self._known(key).array = value
        return super()._commit({key: value for key, value in staged.items() if key not in spread})


class ShardedSubject(MutableSubject):
    """Has the specimen `sharded`."""

    def __init__(self, registry_type: type[StateRegistry] = ShardedRegistry) -> None:
        super().__init__(registry_type)

    def poke(self, model: Module, key: str, value: np.ndarray, /) -> Module:
        cell = self._reach(model, key)
        if not isinstance(cell, Sharded):
            return super().poke(model, key, value)
        cell.array = value
        return model

    def describe(self, model: Module, key: str, /) -> object:
        cell = self._reach(model, key)
        placed = [(id(shard), shard.shape) for shard in cell.shards] if isinstance(cell, Sharded) else None
        return super().describe(model, key), placed

    def specimen(self, name: str, /) -> Specimen:
        if name != "sharded":
            return super().specimen(name)
        declaration = one(noise((3, 4)), key="w")
        model = Module()
        model.register_parameter("w", Sharded(declaration.leaves[0].value))
        return Specimen(model, ("w",), declaration)


# ------------------------------------------------------------------------------------------------------------- gradients


class Differentiated(Parameter):
    """A parameter with a gradient and a tape on which an automatic differentiation records."""

    def __init__(self, value: np.ndarray, trainable: bool = True) -> None:  # as Parameter
        super().__init__(value, trainable)
        self.grad: np.ndarray | None = np.full(value.shape, 0.25, F32)
        self.tape: list[str] = []


class DifferentiatedSubject(MutableSubject):
    """Has the specimen `gradients`."""

    def describe(self, model: Module, key: str, /) -> object:
        cell = self._reach(model, key)
        if not isinstance(cell, Differentiated):
            return super().describe(model, key)
        grad = None if cell.grad is None else (id(cell.grad), cell.grad.tobytes())
        return super().describe(model, key), grad, tuple(cell.tape)

    def specimen(self, name: str, /) -> Specimen:
        if name != "gradients":
            return super().specimen(name)
        declaration = one(noise((2, 3)), key="w")
        model = Module()
        model.register_parameter("w", Differentiated(declaration.leaves[0].value))
        return Specimen(model, ("w",), declaration)


# ----------------------------------------------------------------------------------------------------------- lazy shapes


class Lazy(Parameter):
    """A parameter that gets its shape from the first input."""

    def __init__(self) -> None:
        super().__init__(np.zeros(0, F32))

    @property
    def shape(self) -> tuple[int, ...]:
        raise RuntimeError("the shape of a lazy parameter is not known before the first call")


def lazy_keys(module: Module) -> tuple[str, ...]:
    """The keys of the parameters without a shape."""
    return tuple(key for key, cell in module.cells() if isinstance(cell, Lazy))


class LazyRegistry(MutableRegistry):
    """Refuses parameters without a shape."""

    def _walk(self) -> Any:
        self.refuse(lazy_keys(self._module))
        return super()._walk()

    def refuse(self, lazy: tuple[str, ...]) -> None:
        if lazy:
            raise errors.AbstractError(f"{', '.join(lazy)}: no shape yet", keys=lazy)


class LazySubject(MutableSubject):
    """Has the specimen `unknown_shape`."""

    def __init__(self, registry_type: type[StateRegistry] = LazyRegistry) -> None:
        super().__init__(registry_type)

    def specimen(self, name: str, /) -> Specimen:
        if name != "unknown_shape":
            return super().specimen(name)
        model = Module()
        model.register_parameter("b", Parameter(noise((3,))))
        model.register_parameter("w", Lazy())
        return Specimen(model, ("w",))


# ----------------------------------------------------------------------------------------------------------------- boxes


class Boxed(Parameter):
    """A parameter with what Flax' `Partitioned` carries: a device and names of axes."""

    def __init__(self, cell: Parameter) -> None:
        super().__init__(cell.array if cell.concrete else Abstract(cell.shape, cell.dtype), cell.trainable)
        self.device = "accelerator:1"
        self.axes: tuple[str, ...] | None = tuple(f"axis{n}" for n in range(len(cell.shape)))


class BoxedSubject(MutableSubject):
    """Builds every parameter in a box, and describes the box."""

    def build(self, declaration: Declaration, /) -> Module:
        model = super().build(declaration)
        boxes: dict[int, Cell] = {}
        for key, cell in list(model.cells()):
            if isinstance(cell, Parameter) and not isinstance(cell, Boxed):
                boxes.setdefault(id(cell), Boxed(cell))
                self._stand_in(model, key, boxes[id(cell)])
        return model

    def _stand_in(self, model: Module, key: str, cell: Cell) -> None:
        *parents, name = keys.split(key)
        module: Any = model
        for step in parents:
            module = module.members[step]
        setattr(module, name, cell)

    def describe(self, model: Module, key: str, /) -> object:
        cell = self._reach(model, key)
        box = (cell.device, cell.axes) if isinstance(cell, Boxed) else None
        return super().describe(model, key), box
