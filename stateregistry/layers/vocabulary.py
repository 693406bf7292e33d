"""The neutral vocabulary: layer kinds, the roles of their pieces, and how a framework declares them.

A `Piece` says which native array holds which role and names its axes, in the pattern language of
`stateregistry.layers.axes`. A `Declaration` is the table row of one layer kind in one framework; a `Dialect` is all the
rows of one framework, as data: `Layer`s are made from it, names and layouts are derived from it, files without a
module are read with it. Knows no framework, no file and no conversion.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import final

from stateregistry.entry import Kind
from stateregistry.layers.axes import parts_of

#: Config values that state or function depend on: groups, heads, eps, ...
Config = Mapping[str, int | float | bool | str | tuple[int, ...] | None]


#: Kinds that are read out with a vowel first: "an LSTM".
_AN = frozenset({"embedding", "instance_norm", "attention", "lstm", "rms_norm", "rnn"})


def a_kind(kind: str, /) -> str:
    """A kind with its article, for messages."""
    return f"an {kind}" if kind in _AN else f"a {kind}"


def _gates(names: str) -> dict[str, str]:
    """The roles of a recurrent layer: per gate a kernel and a bias for the input and for the state."""
    roles: dict[str, str] = {}
    for gate in names:
        roles[f"{gate}_input_kernel"], roles[f"{gate}_recurrent_kernel"] = "hidden in", "hidden state"
        roles[f"{gate}_input_bias"], roles[f"{gate}_recurrent_bias"] = "hidden", "hidden"
    return roles


_HEADS = {f"{name}_kernel": "heads head_dim in" for name in ("query", "key", "value")}
_HEAD_BIASES = {f"{name}_bias": "heads head_dim" for name in ("query", "key", "value")}
_STATISTICS = {"scale": "features", "bias": "features", "mean": "features", "var": "features", "count": ""}

#: Roles of every layer kind, with the axes that the neutral array of the role has (spec chapter "Layers").
#: `*spatial` stands for one or more axes. The order of axes here means nothing: axes are matched by name.
ROLES: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "linear": {"kernel": "out in", "bias": "out"},
        "conv": {"kernel": "out in/groups *spatial", "bias": "out"},
        "conv_transpose": {"kernel": "in out/groups *spatial", "bias": "out"},
        "embedding": {"embedding": "vocab features"},
        "batch_norm": _STATISTICS,
        "layer_norm": {"scale": "*features", "bias": "*features"},
        "rms_norm": {"scale": "*features"},
        "group_norm": {"scale": "features", "bias": "features"},
        "instance_norm": _STATISTICS,
        "attention": {
            **_HEADS, **_HEAD_BIASES, "out_kernel": "out heads head_dim", "out_bias": "out",
            "extra_key": "heads head_dim", "extra_value": "heads head_dim",
        },
        "lstm": {**_gates("ifgo"), "projection_kernel": "state hidden"},
        "gru": _gates("rzn"),
        "rnn": {
            "input_kernel": "hidden in", "recurrent_kernel": "hidden state", "input_bias": "hidden",
            "recurrent_bias": "hidden",
        },
        # One slope for all features, or one for each: a layer has either. `1`, because no axes at all mark a counter.
        "prelu": {"slope": "1", "slopes": "features"},
        "bilinear": {"kernel": "out in1 in2", "bias": "out"},
    }
)  # fmt: skip

#: The roles without which a group of entries is not taken for a layer of the kind.
ESSENTIAL: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "linear": ("kernel",),
        "conv": ("kernel",),
        "conv_transpose": ("kernel",),
        "embedding": ("embedding",),
        "batch_norm": ("mean", "var"),
        "layer_norm": ("scale",),
        "rms_norm": ("scale",),
        "group_norm": ("scale",),
        "instance_norm": ("scale",),
        "attention": (*_HEADS, "out_kernel"),
        "lstm": tuple(f"{gate}_{kernel}" for gate in "ifgo" for kernel in ("input_kernel", "recurrent_kernel")),
        "gru": tuple(f"{gate}_{kernel}" for gate in "rzn" for kernel in ("input_kernel", "recurrent_kernel")),
        "rnn": ("input_kernel", "recurrent_kernel"),
        "prelu": (),  # one of two
        "bilinear": ("kernel",),
    }
)

#: Axes whose size each role of a kind has for itself: a key may have other features than a query.
OWN_AXES: Mapping[str, frozenset[str]] = MappingProxyType({"attention": frozenset({"in"})})

#: What a wrapper puts in the place of a role: the endings of the roles that it is computed from.
WRAPPERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "weight_norm": ("_direction", "_magnitude"),
        "spectral_norm": ("_original", "_u", "_v", "_sigma"),
    }
)


@final
@dataclass(frozen=True, slots=True)
class Piece:
    """One native array of a layer, or the part of one that the layer has.

    Attributes:
        role: the neutral role that it holds. Where its axes name parts, what those roles have in common: an array
            `(query|key|value: out) in` of role `kernel` holds `query_kernel`, `key_kernel` and `value_kernel`; roles that
            have nothing in common are listed, `a|b|c`, one for each part. `a+b` is the sum of two roles.
        name: its key relative to the layer (`weight`; deeper where the framework nests).
        axes: its named axes in native order, as a pattern.
        kind: how the framework declares it.
        tag: the native label it gets where a model is derived (`"batch_stats"`).
        dtype: the dtype that the framework fixes, `None` where the piece carries its own.
        part: which part of the first divided axis is this layer's, of the first two `0.1`; empty unless layers are stacked
            in one array.
        kind_reason: where the framework declares it as another kind than the role is of, why. Such a piece pairs with one of
            either kind, which is a choice.
    """

    role: str
    name: str
    axes: str
    kind: Kind = Kind.PARAMETER
    tag: str = ""
    dtype: str | None = None
    part: str = ""
    kind_reason: str = ""

    @property
    def parts(self) -> Mapping[str, str]:
        """Every role that it holds, with the part of the native array that it is; `""` for the whole."""
        divided = parts_of(self.axes)
        stack = tuple(self.part.split(".")) if self.part else ()
        inner = divided[len(stack) :]
        if not inner:
            return {self.role: ".".join(stack)}
        (names,) = inner
        roles = self.role.split("|") if "|" in self.role else [_prefixed(name, self.role) for name in names]
        return {role: ".".join((*stack, name)) for role, name in zip(roles, names, strict=True)}


def _prefixed(part: str, role: str) -> str:
    return "+".join(f"{part}_{one}" for one in role.split("+"))


@final
@dataclass(frozen=True, slots=True)
class Lack:
    """A role that a framework has no place for, and what that means for a layer that has it.

    Attributes:
        roles: the roles, as `fnmatch` patterns.
        reason: why, one sentence.
        zero: nothing is lost if the values are all zero, which is a condition; else the conversion is impossible.
        kept: the residual keeps it: the function does not depend on it.
    """

    roles: tuple[str, ...]
    reason: str
    zero: bool = False
    kept: bool = False


@final
@dataclass(frozen=True, slots=True)
class Limit:
    """A value of the config that every layer of a kind has in a framework: one with another is impossible there.

    Attributes:
        name: of the config value. value: the only one. reason: why, one sentence.
    """

    name: str
    value: int
    reason: str


@final
@dataclass(frozen=True, slots=True)
class Declaration:
    """How one framework holds one layer kind: every piece that it may have, what it has no place for, and its limits."""

    kind: str
    pieces: tuple[Piece, ...]
    lacks: tuple[Lack, ...] = ()
    limits: tuple[Limit, ...] = ()

    def piece(self, role: str) -> Piece | None:
        """The piece that holds a role, `None` where the framework has no place for it."""
        return next((piece for piece in self.pieces if role in piece.parts), None)

    def lack(self, role: str) -> Lack | None:
        """What is said of a role that has no place, `None` where nothing is."""
        return next((lack for lack in self.lacks if any(fnmatchcase(role, name) for name in lack.roles)), None)


@final
@dataclass(frozen=True, slots=True)
class Layer:
    """A group of entries that together are one standard layer.

    Attributes:
        kind: a key of `ROLES`.
        path: what it is called: the key of the layer, by which layers pair; `""` for a model that is itself one layer.
        pieces: what it is made of; only pieces that the layer has.
        type: the native type, for people: `"Conv2d"`.
        config: what state depends on and what only the function depends on (`eps`), by name.
        inferred: made from names and ranks, not from a module.
        candidates: for an inferred layer, every kind that its names and ranks allow.
        base: where its entries hang, if not under `path` (one module that is several layers: `lstm` for `lstm/l1`).
        lacks: roles that a layer of this configuration has no place for, beside those of its declaration.
        reads: the number of the array that it was seen to read first; layers of one number read one. `None`: not seen.
    """

    kind: str
    path: str
    pieces: tuple[Piece, ...]
    type: str = ""
    config: Config = field(default_factory=dict)
    inferred: bool = False
    candidates: tuple[str, ...] = ()
    base: str | None = None
    lacks: tuple[Lack, ...] = ()
    reads: int | None = field(default=None, compare=False)

    def key(self, piece: Piece, /) -> str:
        """The key of the entry that a piece is."""
        base = self.path if self.base is None else self.base
        return f"{base}/{piece.name}" if base else piece.name

    @property
    def roles(self) -> Mapping[str, str]:
        """The key of each role; the roles of a fused array share one, and so does a sum `a+b`."""
        return {role: self.key(piece) for piece in self.pieces for role in piece.parts}


@final
@dataclass(frozen=True, slots=True)
class Holder:
    """The module that holds an entry.

    Attributes:
        type: its type, `package.module.Class`. path: its key.
        bare: declared to be no layer: its parameters are parameters of their own.
        declared: of a type that is a layer by its declaration. Where it holds entries of no layer, it is none as it stands.
        reason: why no module of this type is a layer, where its adapter says so; empty for nothing.
    """

    type: str
    path: str
    bare: bool = False
    declared: bool = False
    reason: str = ""


@final
@dataclass(frozen=True, slots=True)
class Dialect:
    """All declarations of one framework."""

    name: str
    declarations: tuple[Declaration, ...]
    #: Native label of a parameter / of a buffer that no declaration says more about.
    parameter_tag: str = ""
    buffer_tag: str = ""
    #: Whether two paths can be one place. Linen's variables are a tree: sharing is calling one module twice.
    ties: bool = True
    #: Where images have their channels: `"first"` or `"last"`, as every layer of the framework takes them; empty: unknown.
    channels: str = ""
    #: Whether layers whose types are known come in the order in which they are called, not declared.
    called: bool = False
    #: What to do so that a layer has a value of the config, in the words of the framework: called with the layer, the
    #: name, and the value as findings show it; one clause, empty where nothing is known.
    settings: Callable[[Layer, str, object], str] | None = None
    #: How the framework spells the activations that it has, by neutral name.
    activations: Mapping[str, str] = field(default_factory=dict)
    #: The function that declares a layer type, and what it takes for a type whose parameters are their own.
    register: str = ""
    bare: str = ""

    def declaration(self, kind: str) -> Declaration | None:
        """The row of a layer kind, `None` where the framework does not have it."""
        return next((row for row in self.declarations if row.kind == kind), None)
