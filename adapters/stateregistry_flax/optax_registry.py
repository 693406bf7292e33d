"""Registries over the state of an optax transformation, tied to the registry of its model.

Keys are the path in the tree of named tuples: `0/mu/Dense_0/kernel`. A bare state is functional, as optax is; the state in an
`nnx.Optimizer` is written in place. What an array is of which parameter is said by `optax_state`. Imports JAX.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np

from stateregistry.entry import Entry, Kind
from stateregistry.optimizers import OptimizerRegistry, Place
from stateregistry.registry import StateRegistry
from stateregistry_flax import arrays
from stateregistry_flax.optax_state import Part, exchanged, parts

#: How optax calls hyper-parameters, in the words that optimizers share.
_SETTINGS = {"learning_rate": "learning_rate", "b1": "b1", "b2": "b2", "eps": "eps", "weight_decay": "weight_decay",
             "momentum": "momentum", "decay": "momentum"}  # fmt: skip


class OptaxRegistry(OptimizerRegistry):
    """A bare optax state: `replace` gives a registry over a new one.

    Raises:
        UnsupportedError: the state is of parameters that the model has not.
    """

    adapter: ClassVar[str] = "optax"
    in_place: ClassVar[bool] = False
    materialises: ClassVar[bool] = True

    def __init__(self, state: Any, model: StateRegistry, /) -> None:
        self._state, self._model = state, model
        self._names = frozenset(key for names in (model, model.aliases) for key in names)
        self._parts = self._taken_apart()

    def _taken_apart(self) -> dict[str, Part]:
        return {part.key: part for part in parts(self._state, self._names)}

    def unwrap(self) -> Any:
        """The state."""
        return self._state

    @property
    def model(self) -> StateRegistry:
        """The registry of the model."""
        return self._model

    def _entries(self) -> Mapping[str, Entry]:
        found = {key: _entry(part) for key, part in self._parts.items()}
        return {key: entry for key, entry in found.items() if entry is not None}

    def _opaque(self) -> Mapping[str, str]:
        found = {key: arrays.describe(part.value) for key, part in self._parts.items()}
        return {key: held for key, held in found.items() if isinstance(held, str)}

    @property
    def places(self) -> Mapping[str, Place]:
        """What every entry is of which parameter; canonical keys of the model."""
        aliases = self._model.aliases
        return {
            key: Place(part.place.slot, tuple(aliases.get(name, name) for name in part.place.parameters))
            for key, part in self._parts.items()
            if part.place is not None
        }

    @property
    def settings(self) -> Mapping[str, object]:
        """What `optax.inject_hyperparams` keeps in the state; optax keeps all others in closures that cannot be read."""
        found: dict[str, object] = {}
        for key, part in self._parts.items():
            name = _SETTINGS.get(key.rpartition("/")[2])
            if name is not None and part.place is not None and part.place.slot == "setting":
                found[name] = arrays.read(part.value, key).item()
        return found

    def _read(self, key: str, /) -> np.ndarray:
        return arrays.read(self._parts[key].value, key)

    def _convert(self, key: str, value: Any, /) -> np.ndarray:
        part = self._parts.get(key)
        return arrays.convert(None if part is None else part.value, value, key)

    def _stage(self, key: str, value: np.ndarray, /) -> Any:
        return arrays.stage(self._parts[key].value, value, key)

    def _commit(self, staged: Mapping[str, Any], /) -> Self:
        values = {self._parts[key].steps: value for key, value in staged.items()}
        return type(self)(exchanged(self._state, values), self._model)


def _entry(part: Part) -> Entry | None:
    """The entry of an array, `None` of what is none."""
    held = arrays.describe(part.value)
    return None if isinstance(held, str) else arrays.entry(held, Kind.BUFFER, tag=part.place.slot if part.place else "")


class NnxOptimizerRegistry(OptaxRegistry):
    """The state in an `nnx.Optimizer`, and its own count of steps, written in place."""

    in_place: ClassVar[bool] = True

    def _taken_apart(self) -> dict[str, Part]:
        found = {part.key: part for part in parts(self._state.opt_state, self._names)}
        counted = {name for part in found.values() if part.place for name in part.place.parameters}
        step = self._state.step  # of the optimizer itself, beside what the transformation counts
        found["step"] = Part("step", step.get_raw_value(), step, Place("tally", tuple(sorted(counted))), ())
        return found

    def _entries(self) -> Mapping[str, Entry]:
        self._parts = self._taken_apart()  # an update has put other arrays into the variables
        return super()._entries()

    def _find(self, key: str, /) -> Entry | None:
        part = self._parts.get(key)
        if part is None or part.box is None:
            return self._entries().get(key)
        self._parts[key] = part = replace(part, value=part.box.get_raw_value())
        return _entry(part)

    def _commit(self, staged: Mapping[str, Any], /) -> Self:
        for key, value in staged.items():
            self._parts[key].box.set_raw_value(value)
        return self
