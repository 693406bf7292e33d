"""The neutral vocabulary: layer kinds, the roles of their pieces, and how a framework declares them.

A `Piece` says which native array holds which role and names its axes, in the pattern language of
`stateregistry.layers.axes`. A `Declaration` is the table row of one layer kind in one framework; a `Dialect` is all the
rows of one framework, as data: `Layer`s are made from it, names and layouts are derived from it, files without a
module are read with it. Knows no framework, no file and no conversion.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import final

from stateregistry.entry import Kind
from stateregistry.layers.axes import parts_of

#: Config values that state or function depend on: groups, heads, eps, ...
Config = Mapping[str, int | float | bool | str | tuple[int, ...] | None]

#: Roles of every layer kind, with the axes that the neutral array of the role has (spec chapter "Layers").
#: `*spatial` stands for one or more axes. The order of axes here means nothing: axes are matched by name.
ROLES: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "linear": {"kernel": "out in", "bias": "out"},
        "conv": {"kernel": "out in/groups *spatial", "bias": "out"},
        "embedding": {"embedding": "vocab features"},
        "batch_norm": {
            "scale": "features", "bias": "features", "mean": "features", "var": "features", "count": "",
        },
        "layer_norm": {"scale": "*features", "bias": "*features"},
    }
)  # fmt: skip

#: The roles without which a group of entries is not taken for a layer of the kind.
ESSENTIAL: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "linear": ("kernel",),
        "conv": ("kernel",),
        "embedding": ("embedding",),
        "batch_norm": ("mean", "var"),
        "layer_norm": ("scale",),
    }
)


@final
@dataclass(frozen=True, slots=True)
class Piece:
    """One native array of a layer.

    Attributes:
        role: the neutral role that it holds; where its axes name parts, what those roles have in common: an array
            `(query|key|value: out) in` of role `kernel` holds `query_kernel`, `key_kernel` and `value_kernel`.
        name: its key relative to the layer (`weight`; deeper where the framework nests).
        axes: its named axes in native order, as a pattern.
        kind: how the framework declares it.
        tag: the native label it gets where a model is derived (`"batch_stats"`).
        dtype: the dtype that the framework fixes, `None` where the piece carries its own.
    """

    role: str
    name: str
    axes: str
    kind: Kind = Kind.PARAMETER
    tag: str = ""
    dtype: str | None = None

    @property
    def parts(self) -> Mapping[str, str]:
        """Every role that it holds, with the part of the array that it is; `""` for the whole."""
        names = parts_of(self.axes)
        return {f"{part}_{self.role}": part for part in names} if names else {self.role: ""}


@final
@dataclass(frozen=True, slots=True)
class Declaration:
    """How one framework holds one layer kind: every piece that it may have."""

    kind: str
    pieces: tuple[Piece, ...]

    def piece(self, role: str) -> Piece | None:
        """The piece that holds a role, `None` where the framework has no place for it."""
        return next((piece for piece in self.pieces if role in piece.parts), None)


@final
@dataclass(frozen=True, slots=True)
class Layer:
    """A group of entries that together are one standard layer.

    Attributes:
        kind: a key of `ROLES`.
        path: key of the layer, the common prefix of its entries; `""` for a model that is itself one layer.
        pieces: what it is made of; only pieces that the layer has.
        type: the native type, for people: `"Conv2d"`.
        config: what state depends on and what only the function depends on (`eps`), by name.
        inferred: made from names and ranks, not from a module.
        candidates: for an inferred layer, every kind that its names and ranks allow.
    """

    kind: str
    path: str
    pieces: tuple[Piece, ...]
    type: str = ""
    config: Config = field(default_factory=dict)
    inferred: bool = False
    candidates: tuple[str, ...] = ()

    def key(self, piece: Piece, /) -> str:
        """The key of the entry that a piece is."""
        return f"{self.path}/{piece.name}" if self.path else piece.name

    @property
    def roles(self) -> Mapping[str, str]:
        """The key of each role; the roles of a fused array share one."""
        return {role: self.key(piece) for piece in self.pieces for role in piece.parts}


@final
@dataclass(frozen=True, slots=True)
class Dialect:
    """All declarations of one framework."""

    name: str
    declarations: tuple[Declaration, ...]
    #: Native label of a parameter / of a buffer that no declaration says more about.
    parameter_tag: str = ""
    buffer_tag: str = ""

    def declaration(self, kind: str) -> Declaration | None:
        """The row of a layer kind, `None` where the framework does not have it."""
        return next((row for row in self.declarations if row.kind == kind), None)
