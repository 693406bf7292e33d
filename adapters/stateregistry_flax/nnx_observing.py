"""Observing NNX: the calls of the layers of a module while its owner runs it.

NNX has no interceptor (`nnx.capture` wraps one function, and sows into the model), so `__call__` of the classes of the layers
is wrapped for the duration, once however many watch, and only calls of the thread that watches are noted. NNX passes copies
of modules through its transforms: a copy of the whole model is known by its structure, one of a single layer by its
parameters. JAX compiles nothing meanwhile. Imports JAX and Flax.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, final

from flax import nnx

from stateregistry import keys
from stateregistry.layers.calls import Observation
from stateregistry_flax import graph
from stateregistry_flax.homes import Homes
from stateregistry_flax.watching import Watch, is_runner, uncompiled

if TYPE_CHECKING:
    from stateregistry.registry import StateRegistry


@contextlib.contextmanager
def observed(registry: StateRegistry, *, compiled: bool) -> Iterator[Observation]:
    """Watch the layers of the module of a registry. See `SupportsObservation`."""
    found = Observation()
    observer = _Observer(registry, found)
    with contextlib.ExitStack() as stack:
        for cls in observer.classes:
            _join(cls, observer)
            stack.callback(_leave, cls, observer)
        stack.enter_context(uncompiled(compiled))
        yield found


@final
class _Observer:
    """One observation: what is known of the model."""

    def __init__(self, registry: StateRegistry, found: Observation) -> None:
        self._root = registry.unwrap()
        self._thread = threading.get_ident()
        self._homes = Homes(registry)
        self._watch = Watch(self._homes, found)
        self._paths: dict[int, str] = {}
        self._kept: list[Any] = []  # copies that were seen: the identity of one that is gone could come back
        self._places = self._learn(self._root)
        modules = {path: module for module, path in self._modules(self._root)}
        self._of_class: dict[type, list[str]] = {}
        for path in self._homes.paths:
            if path in modules:
                self._of_class.setdefault(type(modules[path]), []).append(path)
        # What runs cells may also be made when the model is called.
        own = (type(module) for module in modules.values() if is_runner(module))
        runners: tuple[type, ...] = (nnx.RNN, nnx.Bidirectional, *own)
        called = dict.fromkeys((*self._of_class, *runners, type(self._root)))
        # Asked of the class itself, one without `__call__` would give that of its metaclass, which makes instances.
        self.classes = tuple(cls for cls in called if any("__call__" in base.__dict__ for base in cls.__mro__))

    @staticmethod
    def _modules(root: Any) -> list[tuple[Any, str]]:
        return [(module, min(paths)) for module, paths in graph.walk(root).modules.values()]

    def _learn(self, root: Any) -> frozenset[str]:
        """Take note of every module of the model, or of a copy of it. Returns their paths."""
        found = self._modules(root)
        self._kept.append(root)
        self._paths |= {id(module): path for module, path in found}
        return frozenset(path for _, path in found)

    def _is_copy(self, module: Any) -> bool:
        return frozenset(path for _, path in self._modules(module)) == self._places

    @property
    def is_here(self) -> bool:
        """Whether it is this thread that watches: what others run meanwhile is their business."""
        return threading.get_ident() == self._thread

    def note(self, module: Any, function: Any, args: Any, kwargs: Any) -> Any:
        """Run one call, and note what it is."""

        def call() -> Any:
            return function(module, *args, **kwargs)

        if id(module) not in self._paths and type(module) is type(self._root) and self._is_copy(module):
            self._learn(module)
        if is_runner(module):
            return self._watch.runner(module, function, call, args, kwargs)
        path = self._path(module)
        if path is None or not self._homes.layers(path):
            return call()
        return self._watch.layer(path, _Held(module, path), module, function, call, args, kwargs)

    def _path(self, module: Any) -> str | None:
        """What a module is called, `None` where nothing says it, or its parameters are those of several."""
        known = self._paths.get(id(module))
        if known is not None:
            return known
        candidates = self._of_class.get(type(module), [])
        fits = [path for path in candidates if self._watch.holds(path, _Held(module, path))]
        return fits[0] if len(fits) == 1 else None


@final
class _Held:
    """The arrays of a module, by key of the model."""

    def __init__(self, module: Any, path: str) -> None:
        self._module, self._prefix = module, f"{path}/" if path else ""

    def __call__(self, key: str) -> Any:
        if not key.startswith(self._prefix):
            return None
        node = self._module
        for step in keys.split(key.removeprefix(self._prefix)):
            node = graph.child(node, int(step) if isinstance(node, (list, tuple)) else step)
            if node is None:
                return None
        node = node.get_raw_value() if isinstance(node, nnx.Variable) else node
        return node[...] if graph.is_ref(node) else node


# -------------------------------------------------------------------- classes

_LOCK: Final = threading.Lock()
_WATCHED: Final[dict[type, list[_Observer]]] = {}
_OWN: Final[dict[type, Any]] = {}  # what stood in the class itself; absent where it inherits


def _join(cls: type, observer: _Observer) -> None:
    """Have a class tell an observer of its calls."""
    with _LOCK:
        if cls not in _WATCHED:
            _WATCHED[cls] = []
            own = cls.__dict__.get("__call__")
            if own is not None:
                _OWN[cls] = own
            cls.__call__ = _telling(cls, cls.__call__)  # type: ignore[method-assign]  # restored by `_leave`
        _WATCHED[cls] = [*_WATCHED[cls], observer]


def _leave(cls: type, observer: _Observer) -> None:
    """Undo `_join`; the last one leaves the class as it was."""
    with _LOCK:
        _WATCHED[cls] = [one for one in _WATCHED[cls] if one is not observer]
        if _WATCHED[cls]:
            return
        del _WATCHED[cls]
        if cls in _OWN:
            cls.__call__ = _OWN.pop(cls)  # type: ignore[method-assign]
        else:
            del cls.__call__


def _telling(cls: type, function: Any) -> Any:
    """`__call__` of a class, that tells of the calls of its own instances; those of a subclass are the subclass's."""

    @functools.wraps(function)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        observers = [one for one in _WATCHED.get(cls, ()) if one.is_here] if type(self) is cls else []
        if not observers:
            return function(self, *args, **kwargs)
        return observers[-1].note(self, function, args, kwargs)

    return call
