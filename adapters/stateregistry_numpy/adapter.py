"""The adapters `numpy` and `numpy-frozen`: light objects that import NumPy only when they are used.

An object can be ours only if the module of its class is loaded: recognising asks `sys.modules` first.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar, final

from stateregistry import errors
from stateregistry_numpy.dialect import DIALECT

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from stateregistry.layers.calls import Observation
    from stateregistry.layers.vocabulary import Dialect
    from stateregistry.registry import StateRegistry
    from stateregistry_numpy.module import Module
    from stateregistry_numpy.tree import FrozenModel

T = TypeVar("T")


def _instance(obj: object, module: str, name: str) -> bool:
    loaded = sys.modules.get(f"stateregistry_numpy.{module}")
    return loaded is not None and isinstance(obj, getattr(loaded, name))


def _no_options(name: str, options: Mapping[str, Any]) -> None:
    if options:
        message = f"the adapter {name!r} has no options; given: {', '.join(sorted(options))}"
        raise errors.AdapterError(message, keys=tuple(sorted(options)))


def _abstractly(thunk: Callable[[], T]) -> T:
    if "stateregistry_numpy.cells" not in sys.modules and "numpy" not in sys.modules:
        return thunk()
    from stateregistry_numpy.cells import abstract_cells

    with abstract_cells():
        return thunk()


@final
class MutableAdapter:
    """Registries over `stateregistry_numpy.Module`, written in place."""

    name: str = "numpy"
    install: str = ""
    framework: str = ""
    dialect: Dialect | None = DIALECT

    def recognises(self, obj: object, /) -> bool:
        """Whether it is a `Module`."""
        return _instance(obj, "module", "Module")

    def wrap(self, obj: Any, /, **options: Any) -> StateRegistry:
        """The registry over a `Module`.

        Raises:
            AdapterError: another object, or any option. UnsupportedError: cells that overlap in memory.
        """
        _no_options(self.name, options)
        if not self.recognises(obj):
            message = f"the adapter 'numpy' is for stateregistry_numpy.Module, not {type(obj).__qualname__}"
            raise errors.AdapterError(message, hint=self.explain(obj) or None)
        from stateregistry_numpy.registry import MutableRegistry

        return MutableRegistry(obj)

    def explain(self, obj: object, /) -> str:
        """What to pass instead of an array, a mapping of arrays, or the class of a model."""
        numpy = sys.modules.get("numpy")
        if numpy is None:
            return ""
        if isinstance(obj, numpy.ndarray):
            return "one array has no name: register it in a stateregistry_numpy.Module"
        if isinstance(obj, Mapping) and obj and all(isinstance(value, numpy.ndarray) for value in obj.values()):
            return "a mapping of arrays is a source, not a model: sr.load(model, mapping) takes it"
        if isinstance(obj, type) and obj.__module__.startswith("stateregistry_numpy"):
            return f"pass an instance: {obj.__name__}(...)"
        return ""

    def abstractly(self, thunk: Callable[[], T], /) -> T:
        """Call `thunk` so that every cell made in it forgets its values at once."""
        return _abstractly(thunk)

    def template(self, product: object, /) -> StateRegistry | None:
        """The registry over a `Module`."""
        return self.wrap(product) if self.recognises(product) else None

    def observe(self, registry: StateRegistry, /, *, compiled: bool) -> AbstractContextManager[Observation]:
        """Watch the layers of a `Module` by standing before their `forward`; nothing here is ever compiled."""
        from stateregistry_numpy.observing import observed

        return observed(registry)

    def assemble(self, image: StateRegistry, /) -> Module:
        """A `Module` that holds what `image` lists."""
        from stateregistry_numpy.assembly import assemble

        return assemble(image)


@final
class FrozenAdapter:
    """Registries over `stateregistry_numpy.FrozenModel`; a write gives a new model."""

    name: str = "numpy-frozen"
    install: str = ""
    framework: str = ""
    dialect: Dialect | None = DIALECT

    def recognises(self, obj: object, /) -> bool:
        """Whether it is a `FrozenModel`."""
        return _instance(obj, "tree", "FrozenModel")

    def wrap(self, obj: Any, /, **options: Any) -> StateRegistry:
        """The registry over a `FrozenModel`.

        Raises:
            AdapterError: another object, or any option.
            KeyPathError, DuplicateKeyError, UnsupportedError: names or ties that the specification refuses.
        """
        _no_options(self.name, options)
        if not self.recognises(obj):
            message = f"the adapter 'numpy-frozen' is for stateregistry_numpy.FrozenModel, not {type(obj).__qualname__}"
            hint = "freeze it: model.freeze()" if mutable.recognises(obj) else None
            raise errors.AdapterError(message, hint=hint)
        from stateregistry_numpy.registry import FrozenRegistry

        return FrozenRegistry(obj)

    def explain(self, obj: object, /) -> str:
        """Nothing: what is near is near to the mutable model."""
        return ""

    def abstractly(self, thunk: Callable[[], T], /) -> T:
        """Call `thunk` so that every cell made in it forgets its values at once."""
        return _abstractly(thunk)

    def template(self, product: object, /) -> StateRegistry | None:
        """The registry over a `FrozenModel`."""
        return self.wrap(product) if self.recognises(product) else None

    def assemble(self, image: StateRegistry, /) -> FrozenModel:
        """A `FrozenModel` that holds what `image` lists."""
        from stateregistry_numpy.assembly import assemble

        return assemble(image).freeze()


mutable: Final = MutableAdapter()
frozen: Final = FrozenAdapter()
