"""Dialect: native names and axes of the layer kinds in Flax Linen and Flax NNX, as data.

Both frameworks name and lay out their arrays alike and differ in the label of a buffer, so one table makes both. A
further layer kind is a further row. Imports neither JAX nor Flax.
"""

from __future__ import annotations

from stateregistry.entry import Kind
from stateregistry.layers.vocabulary import Declaration, Dialect, Piece


def _dialect(name: str, parameter_tag: str, buffer_tag: str) -> Dialect:
    def parameter(role: str, axes: str) -> Piece:
        return Piece(role, role, axes, Kind.PARAMETER, parameter_tag)

    def statistic(role: str, axes: str) -> Piece:
        return Piece(role, role, axes, Kind.BUFFER, buffer_tag)

    rows = (
        Declaration("linear", (parameter("kernel", "in out"), parameter("bias", "out"))),
        Declaration("conv", (parameter("kernel", "*spatial in/groups out"), parameter("bias", "out"))),
        Declaration(
            "batch_norm",
            (
                parameter("scale", "features"),
                parameter("bias", "features"),
                statistic("mean", "features"),
                statistic("var", "features"),
            ),
        ),
        Declaration("layer_norm", (parameter("scale", "*features"), parameter("bias", "*features"))),
        Declaration("embedding", (parameter("embedding", "vocab features"),)),
    )
    return Dialect(name, rows, parameter_tag=parameter_tag, buffer_tag=buffer_tag)


LINEN = _dialect("flax-linen", "params", "batch_stats")
NNX = _dialect("flax-nnx", "Param", "BatchStat")

#: The collection of Linen's parameters, and those that are not meant to be saved.
PARAMS = "params"
TRANSIENT = ("intermediates", "perturbations")


def collection_of(kind: Kind, tag: str, dialect: str) -> str:
    """The Linen collection that an entry of any dialect belongs into."""
    if kind is Kind.PARAMETER:
        return PARAMS
    return tag if tag and dialect == LINEN.name else LINEN.buffer_tag
