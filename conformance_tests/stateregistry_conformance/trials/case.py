"""LayerCase: one layer that a harness is asked to build, in the words of the specification (chapter 16) and of no framework.

What a case does not say is as the framework does it. Inputs are drawn here, the same on every machine: channels last, in
float64, integers for an embedding. Imports NumPy.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias, final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

#: A value of the config of a layer.
ConfigValue: TypeAlias = "int | float | bool | str | tuple[Any, ...] | None"

RECURRENT = frozenset({"lstm", "gru", "rnn"})
_OVER_SPACE = {"conv", "conv_transpose"}
_OF_CHANNELS = {"batch_norm", "instance_norm", "group_norm"}


@final
@dataclass(frozen=True, slots=True)
class LayerCase:
    """One layer, or several alike in one module.

    Attributes:
        name: what it is called in verdicts.
        kind: the layer kind.
        sizes: of the neutral axes: `in`, `out`, `spatial.0`, `features`, ... For a grouped convolution, `in` and `out` are all
            channels. `key_in` and `value_in` are the features of key and value of an attention.
        roles: every role that the layer has, and none besides; a framework may lack `count`, and hold a sum of two.
        config: by the names and with the meanings of the specification. `weight_norm_dim` and `spectral_norm` ask for a
            wrapper around the kernel.
        depth: how many layers follow one another in the module.
        directions: 2: a recurrent layer in each direction, whose outputs side by side are the input of the next.
        stacked: the layers of the depth are held in one array with an axis that counts them, and are scanned.
        small: data and state are small, so that `eps` decides the result.
        apart: the same with sizes that all differ.
    """

    name: str
    kind: str
    sizes: Mapping[str, int]
    roles: frozenset[str]
    config: Mapping[str, ConfigValue] = field(default_factory=dict)
    depth: int = 1
    directions: int = 1
    stacked: bool = False
    small: bool = False
    apart: LayerCase | None = None

    def has(self, role: str, /) -> bool:
        """Whether the layer has a role, or one whose name ends in it: `bias` for `i_input_bias`."""
        return any(name == role or name.endswith(f"_{role}") for name in self.roles)

    def family(self, name: str, /) -> tuple[int, ...]:
        """The sizes of the axes `name.0`, `name.1`, ..., or of `name` alone."""
        if name in self.sizes:
            return (self.sizes[name],)
        members = sorted(axis for axis in self.sizes if axis.startswith(f"{name}."))
        return tuple(self.sizes[axis] for axis in members)

    @property
    def spatial(self) -> tuple[int, ...]:
        """The sizes of the kernel of a convolution."""
        return self.family("spatial")

    @property
    def inputs(self) -> tuple[np.ndarray, ...]:
        """What the layer is called with, anew each time: for an attention query, key and value; for others one array."""
        rng = np.random.default_rng(zlib.crc32(f"inputs of {self.name}".encode()))
        if self.kind == "embedding":
            return (rng.integers(0, self.sizes["vocab"], (2, 3)),)
        scale = 1e-3 if self.small else 1.0
        return tuple(scale * rng.standard_normal(shape) for shape in self._shapes())

    def _shapes(self) -> tuple[tuple[int, ...], ...]:
        size = self.sizes
        if self.kind == "bilinear":
            return (3, size["in1"]), (3, size["in2"])
        if self.kind == "attention":
            return (2, 3, size["in"]), (2, 7, size["key_in"]), (2, 7, size["value_in"])
        if self.kind in RECURRENT:
            return ((2, 5, size["in"]),)
        if self.kind in _OVER_SPACE:
            return ((2, *(9, 8, 7)[: len(self.spatial)], size["in"]),)
        if self.kind in _OF_CHANNELS:
            return ((2, 3, 4, size["features"]),)
        if self.kind == "prelu":
            return ((5, size["features"]),)
        return ((3, 4, *(self.family("features") or self.family("in"))),)

    def __str__(self) -> str:
        return self.name
