"""Observing Linen: the calls of the layers of a model while its owner applies it, by `flax.linen.intercept_methods`.

Variables do not know their module, but every module that runs says its path. JAX compiles nothing meanwhile. Imports JAX
and Flax.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import flax.linen as nn
from flax import traverse_util
from flax.core import unfreeze

from stateregistry import keys
from stateregistry.layers.calls import Observation
from stateregistry_flax.homes import Homes
from stateregistry_flax.watching import Watch, is_runner, uncompiled

if TYPE_CHECKING:
    from stateregistry.registry import StateRegistry


@contextlib.contextmanager
def observed(registry: StateRegistry, *, compiled: bool) -> Iterator[Observation]:
    """Watch the layers of the variables of a registry. See `SupportsObservation`."""
    found = Observation()
    homes = Homes(registry)
    watch = Watch(homes, found)

    def note(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        if context.method_name != "__call__" or module.scope is None:
            return call(*args, **kwargs)
        function = type(module).__call__
        if is_runner(module):
            return watch.runner(module, function, lambda: call(*args, **kwargs), args, kwargs)
        path = keys.join(*module.path) if module.path else ""
        if not homes.layers(path):
            return call(*args, **kwargs)
        held = _held(module, path)
        return watch.layer(path, held.get, module, function, lambda: call(*args, **kwargs), args, kwargs)

    with uncompiled(compiled), nn.intercept_methods(note):
        yield found


def _held(module: nn.Module, path: str) -> dict[str, Any]:
    """The arrays that a bound module sees, by key of the model; collections merged."""
    flat = traverse_util.flatten_dict(nn.meta.unbox(unfreeze(dict(module.variables))))
    prefix = f"{path}/" if path else ""
    return {f"{prefix}{keys.join(*names[1:])}": leaf for names, leaf in flat.items() if names[1:] and all(names)}
