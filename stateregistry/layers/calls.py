"""Calls: what the layers of a live model were given and gave while somebody ran it, as an adapter saw it.

An `Activation` is an array with named axes, so that two frameworks that lay out the same activation differently can be
compared without a permutation for the pair. `tabled` brings one into rows of features. What could not be seen is said, never
made up. Imports NumPy only.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import final

import numpy as np

#: Names of the axes of an activation, in neutral order; families but for the time: `batch.0`, `batch.1`, ...
ORDER = ("batch", "time", "spatial", "features")
#: More orders of batch axes than this are not tried.
_MOST_AXES = 4


@final
@dataclass(frozen=True, slots=True, eq=False)
class Activation:
    """One array that a layer was given or gave.

    Attributes:
        array: the values, owned by nobody else.
        axes: the name of every axis, in the order of the array; empty where nothing says it.
    """

    array: np.ndarray
    axes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.axes and (len(self.axes) != self.array.ndim or len(set(self.axes)) != len(self.axes)):
            message = f"an array of shape {self.array.shape} cannot have the axes {' '.join(self.axes)!r}"
            raise ValueError(message)
        unknown = {_family(name) for name in self.axes} - set(ORDER)
        if unknown:
            raise ValueError(f"an activation has no axis {min(unknown)!r}; it has {', '.join(ORDER)}")

    @property
    def known(self) -> bool:
        """Whether the axes have names. A single number needs none."""
        return bool(self.axes) or self.array.ndim == 0


def _family(name: str) -> str:
    return name.partition(".")[0]


def _number(name: str) -> int:
    return int(name.partition(".")[2] or 0)


def tabled(activation: Activation, /) -> Iterator[np.ndarray]:
    """The activation as rows of features: first with batch axes in their order, then in every other order they may have.

    Which of several batch axes comes first is a habit of the model (time before batch, or behind it), not of a layer.

    Yields:
        Arrays `(rows, features)` over the same values; a layer without features, as an embedding's input, has one.
    """
    names = activation.axes
    places = {family: [n for n in names if _family(n) == family] for family in ORDER}
    for found in places.values():
        found.sort(key=_number)
    rest = [*places["time"], *places["spatial"]]
    width = math.prod(activation.array.shape[names.index(name)] for name in places["features"])
    batch = places["batch"]
    orders = itertools.permutations(batch) if len(batch) <= _MOST_AXES else iter((tuple(batch),))
    for order in orders:
        whole = [names.index(name) for name in (*order, *rest, *places["features"])]
        rows = activation.array.size // width if width else 0
        yield activation.array.transpose(whole).reshape(rows, width)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One call of one module that is a layer, or that runs several.

    Attributes:
        layers: the paths of the layers that it runs, as the registry spells them: those of one stage side by side (two
            directions of a recurrent layer), stages one after the other. Mostly one stage of one layer.
        inputs: what it was given, by the role that it plays: `input`; `query`, `key`, `value` of an attention; `state` and
            `cell` of a recurrent layer, which are zero where they are not listed.
        output: what it gave: the main array, of a recurrent layer the outputs and of a cell the new state. `None`: there is
            no such array, or it could not be read.
        depth: 0, or how many recorded calls of the same layer it is inside of: a cell inside of what runs it over time.
        mode: what it does otherwise in training, for people: `"statistics of the batch"`.
        unseen: what the function depends on and is not among the inputs, for people: `"a mask"`.
    """

    layers: tuple[tuple[str, ...], ...]
    inputs: Mapping[str, Activation | None]
    output: Activation | None
    depth: int = 0
    mode: str = ""
    unseen: tuple[str, ...] = ()


@final
class Observation:
    """What was seen of a model while it was watched. The adapter fills it: `begin` and `end` around every call."""

    def __init__(self) -> None:
        self._slots: list[Call | None] = []
        self._unread: dict[str, str] = {}

    @property
    def calls(self) -> tuple[Call, ...]:
        """Every call of a layer that could be read, in the order in which calls began."""
        return tuple(call for call in self._slots if call is not None)

    @property
    def unread(self) -> Mapping[str, str]:
        """Layers that were called and of which no call could be read, with the reason."""
        seen = {path for call in self.calls for stage in call.layers for path in stage}
        return {path: reason for path, reason in self._unread.items() if path not in seen}

    def begin(self) -> int:
        """Keep the place of a call that begins now. Pass the number to `end`."""
        self._slots.append(None)
        return len(self._slots) - 1

    def end(self, place: int, call: Call, /) -> None:
        """Say what the call was that began there. Without it, nothing is noted."""
        self._slots[place] = call

    def refuse(self, path: str, reason: str, /) -> None:
        """Say that a call of a layer could not be read."""
        self._unread.setdefault(path, reason)
