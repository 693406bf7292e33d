"""Watching: the calls of modules of Flax, Linen and NNX alike, as the observation of a model.

A `Watch` is told of every call by the framework's own part, which knows what a module is called. A cell that something runs
over time is noted once for the whole sequence and, inside of that, once for each step. Imports JAX and Flax.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, final

import jax
import numpy as np

from stateregistry.layers.calls import Call, Observation
from stateregistry_flax import activations
from stateregistry_flax.activations import BOTH_WAYS, RUNNERS, Unreadable
from stateregistry_flax.homes import Homes

_Stages = tuple[tuple[str, ...], ...]


@final
@dataclass(slots=True)
class _Runner:
    """An `RNN` or `Bidirectional` that is being called, and the cells that it has run so far, in order."""

    module: Any
    cells: list[str] = field(default_factory=list)


@final
class Watch:
    """What is known while a model runs."""

    def __init__(self, homes: Homes, found: Observation) -> None:
        self._homes, self._found = homes, found
        self._runners: list[_Runner] = []

    def runner(self, module: Any, function: Any, call: Callable[[], Any], args: Any, kwargs: Mapping[str, Any]) -> Any:
        """Run what runs cells over time, and note what it gave as that of its cells."""
        place, depth = self._found.begin(), len(self._runners)
        seen, reason = _read(
            lambda: activations.run_inputs(module, activations.arguments(module, function, args, kwargs))
        )
        here = _Runner(module)
        self._runners.append(here)
        try:
            result = call()
        finally:
            self._runners.pop()
        cells = tuple(dict.fromkeys(here.cells))
        if self._runners:
            self._runners[-1].cells += cells
        if not cells or len(cells) != (2 if isinstance(module, BOTH_WAYS) else 1):
            return result
        given = activations.arguments(module, function, args, kwargs)
        output, late = _read(lambda: activations.run_output(module, given, result))
        if seen is None or output is None:
            self._refuse((cells,), reason or late)
        else:
            inputs, unseen = seen
            self._found.end(place, Call((cells,), inputs, output, depth, unseen=unseen))
        return result

    def layer(
        self,
        path: str,
        held: Callable[[str], Any],
        module: Any,
        function: Any,
        call: Callable[[], Any],
        args: Any,
        kwargs: Mapping[str, Any],
    ) -> Any:
        """Run a module that is a layer, and note what it was given and gave."""
        place = self._found.begin()
        given = activations.arguments(module, function, args, kwargs)
        inputs, reason = _read(lambda: activations.inputs_of(module, given))
        layers, doubt = self._which(path, held)
        mode, unseen = activations.mode_of(module, given), activations.unseen_of(module, given)
        result = call()
        if inputs is None or not layers:
            self._refuse((self._homes.layers(path),), reason or doubt)
            return result
        output, reason = _read(lambda: activations.output_of(module, result))
        if output is None:
            self._refuse((layers,), reason)
            return result
        if self._runners:
            self._runners[-1].cells += layers
        self._found.end(place, Call((layers,), inputs, output, len(self._runners), mode, unseen))
        return result

    def holds(self, path: str, held: Callable[[str], Any]) -> bool:
        """Whether the parameters are those of the layer at a path, or of one of those that are stacked there."""
        return bool(self._which(path, held)[0])

    def _which(self, path: str, held: Callable[[str], Any]) -> tuple[tuple[str, ...], str]:
        def value(key: str) -> np.ndarray | None:
            found = held(key)
            return None if found is None else activations.array(found)

        found, reason = _read(lambda: self._homes.at(path, value))
        return found or (), reason or "it was called with other parameters than those of the model that is verified"

    def _refuse(self, stages: _Stages, reason: str) -> None:
        for path in (path for stage in stages for path in stage):
            self._found.refuse(path, reason)


def is_runner(module: Any) -> bool:
    """Whether a module runs cells over time."""
    return isinstance(module, (*RUNNERS, *BOTH_WAYS))


def _read(look: Callable[[], Any]) -> tuple[Any, str]:
    """What there is to see, or `None` and why not."""
    try:
        return look(), ""
    except Unreadable as reason:
        return None, str(reason)


def uncompiled(compiled: bool) -> AbstractContextManager[Any]:
    """A context in which JAX compiles nothing, so that functions under `jax.jit` and `lax.scan` show what they compute."""
    return contextlib.nullcontext() if compiled else jax.disable_jit()
