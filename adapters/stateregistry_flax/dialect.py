"""Dialect: native names and axes of the layer kinds in Flax Linen and Flax NNX, as data.

`Spelling` holds the pieces that modules are read with and the labels that tell the two frameworks apart; a `Dialect` is
the rows that files without a module are read with, as far as names decide, and that models are derived from. Modules
that are at hand say more: see `standard`, `contraction`, `attention` and `recurrent`. Imports neither JAX nor Flax.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

from stateregistry.entry import Kind
from stateregistry.layers.vocabulary import Declaration, Dialect, Lack, Limit, Piece
from stateregistry_flax.settings import ACTIVATIONS, setting

#: Said by every layer that is not wrapped: without it, what a wrapper holds could be left out unnoticed.
_NOT_WRAPPED: Final = Lack(
    ("*_direction", "*_magnitude", "*_original", "*_u", "*_v", "*_sigma"),
    "Flax holds no such array here: the layer is not in a WeightNorm or SpectralNorm that would",
)
_NO_STATISTICS: Final = Lack(
    ("mean", "var"),
    "InstanceNorm of Flax has no running statistics: it always normalises with those of the input, which is another function",
)
_NO_EXTRA: Final = Lack(
    ("extra_key", "extra_value"),
    "attention in Flax has no bias_k and bias_v, the step that is appended to every sequence",
)
_NO_PROJECTION: Final = Lack(
    ("projection_kernel",), "the LSTM cells of Flax have no projection (proj_size): their state has the size of a gate"
)
_NO_GROUPS: Final = Limit("groups", 1, "ConvTranspose of Flax has no feature_group_count: it cannot be grouped")
_ONE_SLOPE: Final = Lack(("slopes",), "PReLU of Flax has one slope for all features and refuses a vector")
#: `nnx.WeightNorm` alone: https://github.com/google/flax/issues/5577
NOT_TRAINED: Final = (
    "nnx.WeightNorm holds its magnitudes as bare arrays and not as Param (flax issue 5577): they compute the same, but there"
    " no optimizer trains them"
)
#: `nnx.GRUCell` alone: https://github.com/google/flax/issues/5594
NO_SECOND_BIAS: Final = Lack(
    ("n_recurrent_bias",),
    "nnx.GRUCell has no bias of the recurrent product (flax issue 5594), and in gate n the reset gate stands between the two",
    zero=True,
)


@final
@dataclass(frozen=True, slots=True)
class Spelling:
    """The labels of one of the two frameworks, and the pieces of the layers that both spell alike."""

    name: str
    parameter_tag: str
    buffer_tag: str

    def parameter(self, role: str, name: str, axes: str) -> Piece:
        """A piece that is trained."""
        return Piece(role, name, axes, Kind.PARAMETER, self.parameter_tag)

    def statistic(self, role: str, name: str, axes: str) -> Piece:
        """A piece that is not."""
        return Piece(role, name, axes, Kind.BUFFER, self.buffer_tag)

    def weighted(self, kernel: str, bias: str = "out") -> tuple[Piece, ...]:
        """A kernel and its bias."""
        return self.parameter("kernel", "kernel", kernel), self.parameter("bias", "bias", bias)

    def affine(self, axes: str) -> tuple[Piece, ...]:
        """The scale and bias of a normalisation."""
        return self.parameter("scale", "scale", axes), self.parameter("bias", "bias", axes)

    @property
    def statistics(self) -> tuple[Piece, ...]:
        """The running statistics of a batch_norm."""
        return self.statistic("mean", "mean", "features"), self.statistic("var", "var", "features")

    @property
    def attention(self) -> tuple[Piece, ...]:
        """The four projections."""
        heads = [
            piece
            for name in ("query", "key", "value")
            for piece in (
                self.parameter(f"{name}_kernel", f"{name}/kernel", "in heads head_dim"),
                self.parameter(f"{name}_bias", f"{name}/bias", "heads head_dim"),
            )
        ]
        out = self.parameter("out_kernel", "out/kernel", "heads head_dim out")
        return (*heads, out, self.parameter("out_bias", "out/bias", "out"))

    def gated(self, gates: str, names: str = "{}") -> tuple[Piece, ...]:
        """The kernels of a cell with an array for every gate and operand: `ii`, `if`, ..., `hi`, `hf`, ...

        Args:
            gates: one letter for each gate.
            names: how the names of the arrays of the input are spelled, where `if` cannot be one.
        """
        return tuple(
            piece
            for gate in gates
            for piece in (
                self.parameter(f"{gate}_input_kernel", f"{_spelled(f'i{gate}', names)}/kernel", "in hidden"),
                self.parameter(f"{gate}_recurrent_kernel", f"h{gate}/kernel", "state hidden"),
            )
        )

    def lstm(self, names: str = "{}") -> tuple[Piece, ...]:
        """The cells with an array for every gate. The bias is the sum of the two that torch has."""
        biases = (self.parameter(both(f"{gate}_"), f"h{gate}/bias", "hidden") for gate in "ifgo")
        return (*self.gated("ifgo", names), *biases)

    @property
    def gru(self) -> tuple[Piece, ...]:
        """The cell of Linen, which keeps the two biases of gate n apart."""
        return (
            *self.gated("rzn"),
            self.parameter(both("r_"), "ir/bias", "hidden"),
            self.parameter(both("z_"), "iz/bias", "hidden"),
            self.parameter("n_input_bias", "in/bias", "hidden"),
            self.parameter("n_recurrent_bias", "hn/bias", "hidden"),
        )

    def simple(self, of_input: str, of_state: str) -> tuple[Piece, ...]:
        """The cell without gates, by the names of its two parts. Only the one of the input has a bias: the sum of both."""
        return (
            self.parameter("input_kernel", f"{of_input}/kernel", "in hidden"),
            self.parameter("recurrent_kernel", f"{of_state}/kernel", "state hidden"),
            self.parameter(both(""), f"{of_input}/bias", "hidden"),
        )

    def fused(self, gates: str) -> tuple[Piece, ...]:
        """The two kernels of a cell that holds all gates in one array; NNX alone."""
        parts = f"({'|'.join(gates)}: hidden)"
        return (
            self.parameter("input_kernel", "dense_i/kernel", f"in {parts}"),
            self.parameter("recurrent_kernel", "dense_h/kernel", f"state {parts}"),
        )

    @property
    def fused_lstm(self) -> tuple[Piece, ...]:
        """`nnx.OptimizedLSTMCell`."""
        return (*self.fused("ifgo"), self.parameter(both(""), "dense_h/bias", "(i|f|g|o: hidden)"))

    @property
    def fused_gru(self) -> tuple[Piece, ...]:
        """`nnx.GRUCell`."""
        roles = f"{both('r_')}|{both('z_')}|n_input_bias"
        return (*self.fused("rzn"), self.parameter(roles, "dense_i/bias", "(r|z|n: hidden)"))


def both(prefix: str) -> str:
    """The role of a bias that is the sum of that of the input and that of the state."""
    return f"{prefix}input_bias+{prefix}recurrent_bias"


def _spelled(name: str, names: str) -> str:
    return names.format(name) if name == "if" else name


def lacks_of(kind: str) -> tuple[Lack, ...]:
    """What no layer of a kind has a place for, in either framework."""
    own = {
        "instance_norm": _NO_STATISTICS,
        "attention": _NO_EXTRA,
        "lstm": _NO_PROJECTION,
        "prelu": _ONE_SLOPE,
    }.get(kind)
    return (_NOT_WRAPPED,) if own is None else (own, _NOT_WRAPPED)


SPELLED_LINEN: Final = Spelling("flax-linen", "params", "batch_stats")
SPELLED_NNX: Final = Spelling("flax-nnx", "Param", "BatchStat")


def _dialect(spelling: Spelling, features: str, recurrent: tuple[tuple[str, tuple[Piece, ...]], ...]) -> Dialect:
    """The rows: a kind may have several; names are read by all of them, and given by the first.

    Args:
        spelling: the labels.
        features: the axes of a layer_norm.
        recurrent: the recurrent kinds, which the two frameworks name differently.
    """
    rows: tuple[tuple[str, tuple[Piece, ...]], ...] = (
        ("linear", spelling.weighted("in out")),
        ("conv", spelling.weighted("*spatial in/groups out")),
        ("conv_transpose", spelling.weighted("-*spatial in out/groups")),  # as made without transpose_kernel=True
        ("batch_norm", (*spelling.affine("features"), *spelling.statistics)),
        ("layer_norm", spelling.affine(features)),
        ("embedding", (spelling.parameter("embedding", "embedding", "vocab features"),)),
        ("rms_norm", spelling.affine(features)[:1]),
        ("group_norm", spelling.affine("features")),
        ("instance_norm", spelling.affine("features")),
        ("prelu", (spelling.parameter("slope", "negative_slope", ""),)),
        ("attention", spelling.attention),
        *recurrent,
    )
    limits = {"conv_transpose": (_NO_GROUPS,)}
    declarations = tuple(
        Declaration(
            kind,
            pieces,
            (NO_SECOND_BIAS, *lacks_of(kind)) if pieces == spelling.fused_gru else lacks_of(kind),
            limits.get(kind, ()),
        )
        for kind, pieces in rows
    )
    ties = spelling is not SPELLED_LINEN  # Linen's variables are a tree: sharing is calling one module twice
    return Dialect(
        spelling.name, declarations, spelling.parameter_tag, spelling.buffer_tag, ties=ties, settings=setting,
        activations=ACTIVATIONS, register="stateregistry_flax.register_layer", bare="stateregistry_flax.bare",
        channels="last", called=spelling is SPELLED_LINEN,
    )  # fmt: skip


LINEN: Final = _dialect(
    SPELLED_LINEN,
    "*features",
    (
        ("lstm", SPELLED_LINEN.lstm()),
        ("gru", SPELLED_LINEN.gru),
        ("rnn", SPELLED_LINEN.simple("i", "h")),
    ),
)
NNX: Final = _dialect(
    SPELLED_NNX,
    "(*features)",  # a norm over several axes holds them as one
    (
        ("lstm", SPELLED_NNX.fused_lstm),
        ("lstm", SPELLED_NNX.lstm("{}_")),
        ("gru", SPELLED_NNX.fused_gru),
        ("rnn", SPELLED_NNX.simple("dense_i", "dense_h")),
    ),
)

#: The collection of Linen's parameters, and those that are not meant to be saved.
PARAMS: Final = "params"
TRANSIENT: Final = ("intermediates", "perturbations")


def collection_of(kind: Kind, tag: str, dialect: str) -> str:
    """The Linen collection that an entry of any dialect belongs into."""
    if kind is Kind.PARAMETER:
        return PARAMS
    return tag if tag and dialect == LINEN.name else LINEN.buffer_tag
