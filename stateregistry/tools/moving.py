"""The exponential moving average of a state that is being trained, in one place for every framework.

Kept in host memory in `float32` at least, corrected for its beginning. Integers are never averaged: counters are those of the
last state. Runs outside of compiled functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, final

import numpy as np

from stateregistry import errors, plugins
from stateregistry.casting import rounded
from stateregistry.entry import Kind, numpy_dtype
from stateregistry.tools.averaging import mixes
from stateregistry.tools.derived import Derived, blocks, comparable, readable

if TYPE_CHECKING:
    from stateregistry.registry import StateRegistry

#: The decay, or what gives it for every step from 1 on.
Decay = float | Callable[[int], float]


def ema(
    reg: StateRegistry | Any,
    decay: Decay,
    *,
    buffers: Literal["copy", "average"] = "copy",
    bias_correction: bool = True,
) -> Ema:
    """An exponential moving average of the state of a model; arguments and use as `Ema` says."""
    return Ema(reg, decay, buffers=buffers, bias_correction=bias_correction)


@final
class Ema:
    """An exponential moving average: `m = d * m + (1 - d) * x` at every `update`, for floating and complex entries.

        average = sr.tools.ema(model, 0.999)
        for batch in data:
            train_step(model, batch)
            average.update(model)
        sr.save(average.registry, "ema.safetensors")

    Laws: the average of a constant state is that state, up to rounding; with `d = 0` it is the last state.

    Args:
        reg: a registry or a live object: its entries are those of the average. Its values are not counted in.
        decay: in `[0, 1)`, or a function of the step (1, 2, ...) that gives it: a warm-up.
        buffers: `copy`: those of the last state; `average`: floating ones are averaged too.
        bias_correction: divide by the weight that the states so far have together, as Adam does; without it the average
            starts at the first state.

    Raises:
        UnsupportedError: a decay outside `[0, 1)`, an unknown `buffers`.
    """

    def __init__(
        self,
        reg: StateRegistry | Any,
        decay: Decay,
        *,
        buffers: Literal["copy", "average"] = "copy",
        bias_correction: bool = True,
    ) -> None:
        if buffers not in ("copy", "average"):
            raise errors.UnsupportedError(f"buffers={buffers!r}", expected=("copy", "average"), found=buffers)
        self._decay = decay if callable(decay) else _constant(_checked(decay))
        self._correct = bias_correction
        self._like = Derived.like(plugins.of(reg), lambda key: np.empty(0))
        self._mixed = tuple(
            key
            for key, entry in self._like.items()
            if mixes(entry) and (entry.kind is Kind.PARAMETER or buffers == "average")
        )
        self._means: dict[str, np.ndarray] = {}
        self._last: dict[str, np.ndarray] = {}
        self._weight = 0.0
        self.steps = 0

    def update(self, reg: StateRegistry | Any) -> None:
        """Count a state in.

        Args:
            reg: a registry or a live object, with the entries of the average.

        Raises:
            MismatchError: it does not have the entries of the average. AbstractError: it has no values. Nothing was counted.
        """
        registry = plugins.of(reg)
        comparable([self._like, registry], "cannot be averaged")
        readable(registry, "average")
        decay = _checked(self._decay(self.steps + 1))
        if not self._correct and not self.steps:
            decay = 0.0  # it starts at the first state
        mixed = set(self._mixed)
        for key in self._like:
            if key in mixed:
                self._means[key] = self._moved(self._means.get(key), registry.view(key), decay)
            else:
                self._last[key] = registry.read(key)
        self._weight = decay * self._weight + (1 - decay)
        self.steps += 1

    @staticmethod
    def _moved(mean: np.ndarray | None, value: np.ndarray, decay: float) -> np.ndarray:
        if mean is None:
            mean = np.zeros(value.shape, _kept(value.dtype))
        flat = mean.reshape(-1)
        for place, (part,) in blocks(value):
            with np.errstate(all="ignore"):
                # In double precision: 1 - d is small, and what it adds would be lost in float32.
                wide = np.result_type(flat.dtype, np.float64)
                flat[place] = decay * flat[place].astype(wide) + (1 - decay) * part.astype(wide)
        return mean

    @property
    def registry(self) -> Derived:
        """The average now, as a lazy read-only registry in the dtypes of the model.

        Raises:
            UnsupportedError: nothing was counted in yet.
        """
        if not self.steps:
            raise errors.UnsupportedError("the average of no state", hint="call update first")
        means, last, weight = dict(self._means), dict(self._last), self._weight if self._correct else 1.0

        def compute(key: str) -> np.ndarray:
            if key in last:
                return last[key]
            mean = means[key]
            dtype = numpy_dtype(self._like[key].dtype)
            made = np.empty(mean.size, dtype)
            for place, (part,) in blocks(mean):
                made[place] = rounded(part.astype(np.result_type(part.dtype, np.float64)) / weight, dtype)
            return made.reshape(mean.shape)

        # What is shown does not move with the next update.
        means = {key: mean.copy() for key, mean in means.items()}
        return Derived.like(self._like, compute)

    def state(self) -> dict[str, Any]:
        """All that it takes to go on later, as plain data and arrays: give it to `restore`."""
        means = {key: mean.copy() for key, mean in self._means.items()}
        return {"steps": self.steps, "weight": self._weight, "means": means, "last": dict(self._last)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave.

        Raises:
            UnsupportedError: it is that of another architecture.
        """
        keys = set(state["means"]) | set(state["last"])
        if state["steps"] and (keys != set(self._like) or set(state["means"]) != set(self._mixed)):
            different = tuple(sorted(keys ^ set(self._like))) or tuple(sorted(set(state["means"]) ^ set(self._mixed)))
            hint = "an average of the same architecture, with the same buffers="
            raise errors.UnsupportedError("the state of another average", keys=different, hint=hint)
        self._means = {key: np.array(mean) for key, mean in state["means"].items()}
        self._last = {key: np.array(value) for key, value in state["last"].items()}
        self._weight, self.steps = float(state["weight"]), int(state["steps"])


def weights_of(decay: float, number: int) -> list[float]:
    """What each of `number` states, the last the newest, weighs in a bias-corrected moving average.

    Raises:
        UnsupportedError: a decay outside `[0, 1)`.
    """
    share = _checked(decay)
    return [(1 - share) * share**age for age in reversed(range(number))]


def _constant(decay: float) -> Callable[[int], float]:
    return lambda step: decay


def _checked(decay: float) -> float:
    if not 0 <= decay < 1:
        raise errors.UnsupportedError(f"a decay of {decay!r}", hint="between 0 and 1: 0.999 follows slowly")
    return float(decay)


def _kept(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype that a mean is kept in: `float32` at least."""
    if dtype.kind == "c" or dtype == np.float64:
        return dtype.newbyteorder("=")
    return np.dtype(np.float32)
