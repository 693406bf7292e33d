"""Arrays whose axes have names, so that no formula depends on the order in which somebody stored them.

`Named(array, ("in", "out")).to("out", "in")` is the matrix as a formula wants it, in float64, whatever the order was. Axes
are matched by name alone: a name too many or too few is refused, equal sizes never stand in for it. Refuses complex
arrays, which float64 cannot hold. Imports NumPy and the errors of the core.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from stateregistry.errors import AxesError, UnsupportedError


@final
@dataclass(frozen=True, slots=True, eq=False)
class Named:
    """A neutral array of one role: any shape, any real dtype.

    Attributes:
        array: the values.
        axes: the name of every axis, in the order of the array: `axes.Bound.neutral` for what `axes.Bound.expand` gives.
            The members of a family are `name.0`, `name.1`, ...

    Raises:
        AxesError: there is not one name for every axis, or a name is used twice.
        UnsupportedError: the array is complex.
    """

    array: np.ndarray
    axes: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.axes) != self.array.ndim or len(set(self.axes)) != len(self.axes):
            message = f"an array of shape {self.array.shape} cannot have the axes {' '.join(self.axes)!r}"
            raise AxesError(message, expected=self.array.ndim, found=self.axes)
        if np.issubdtype(self.array.dtype, np.complexfloating):
            raise UnsupportedError(f"the formulas are real, found an array of {self.array.dtype}")

    def family(self, name: str) -> tuple[str, ...]:
        """The axes that `*name` stands for, in order: `name.0`, `name.1`, ..., or `name` itself; empty for none."""
        if name in self.axes:
            return (name,)
        members = [axis for axis in self.axes if axis.rpartition(".")[0] == name and axis.rpartition(".")[2].isdigit()]
        return tuple(sorted(members, key=lambda axis: int(axis.rpartition(".")[2])))

    def to(self, *axes: str) -> np.ndarray:
        """The values in float64 with the axes in this order; `*name` stands for a whole family.

        Raises:
            AxesError: the names are not exactly those of the array.
        """
        order = [member for axis in axes for member in (self.family(axis[1:]) if axis.startswith("*") else (axis,))]
        if sorted(order) != sorted(self.axes):
            message = f"an array with the axes {' '.join(self.axes)!r} where {' '.join(axes)!r} is wanted"
            raise AxesError(message, expected=axes, found=self.axes)
        return self.array.astype(np.float64).transpose([self.axes.index(axis) for axis in order])
