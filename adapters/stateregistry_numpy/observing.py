"""Observing: the calls of the layers of a reference model while its owner runs it.

A function stands before `forward` of every layer, on the instance, for the duration. A frozen model computes nothing, so there
is nothing to watch. Imports NumPy and the core.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from stateregistry import keys
from stateregistry.layers.calls import Activation, Call, Observation
from stateregistry_numpy.layers import StandardLayer
from stateregistry_numpy.module import Module

if TYPE_CHECKING:
    from stateregistry.layers.vocabulary import Layer
    from stateregistry.registry import StateRegistry


@contextlib.contextmanager
def observed(registry: StateRegistry) -> Iterator[Observation]:
    """Watch the layers of the module of a registry. See `SupportsObservation`."""
    found = Observation()
    with contextlib.ExitStack() as stack:
        done: set[int] = set()
        for layer in registry.layers:
            module = _module(registry.unwrap(), layer)
            if id(module) in done:  # shared: it is watched under its first path
                continue
            done.add(id(module))
            # Not `setattr`, which registers, and on the instance, so that no other model notices.
            object.__setattr__(module, "forward", _telling(module.forward, module, layer, found))
            stack.callback(object.__delattr__, module, "forward")
        yield found


def _module(root: Module, layer: Layer) -> StandardLayer:
    module: Any = root
    for name in keys.split(layer.path) if layer.path else ():
        module = module.members[name]
    assert isinstance(module, StandardLayer)  # only these are layers
    return module


def _telling(
    forward: Callable[..., np.ndarray], module: StandardLayer, layer: Layer, found: Observation
) -> Callable[..., np.ndarray]:
    def call(*inputs: Any) -> np.ndarray:
        place = found.begin()
        given = {"input": _activation(module, inputs[0], into=True)} if inputs else {}
        result = forward(*inputs)
        found.end(place, Call(((layer.path,),), given, _activation(module, result, into=False)))
        return result

    return call


def _activation(module: StandardLayer, value: Any, *, into: bool) -> Activation:
    array = np.array(value)
    return Activation(array, _axes(module, array.ndim, into=into))


def _axes(module: StandardLayer, ndim: int, *, into: bool) -> tuple[str, ...]:
    """The names of the axes: channels stand behind the batch, features of everything else are last."""
    if module.kind in ("conv", "batch_norm"):
        names = ("batch.0", "features.0", *(f"spatial.{number}" for number in range(ndim - 2)))
        return names if ndim >= 2 else ()
    features = 1
    if module.kind == "embedding" and into:
        features = 0
    elif module.kind == "layer_norm":
        features = getattr(module.members.get("gain"), "array", np.empty(1)).ndim
    lead = tuple(f"batch.{number}" for number in range(ndim - features))
    return (*lead, *(f"features.{number}" for number in range(features))) if ndim >= features else ()
