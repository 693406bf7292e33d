"""The dialect of the reference model: its native names, in the neutral order of axes.

The names are its own, so that a file without metadata is never taken for another framework's. Imports the core only.
"""

from __future__ import annotations

from typing import Final

from stateregistry.entry import Kind
from stateregistry.layers.vocabulary import Declaration, Dialect, Piece

DIALECT: Final = Dialect(
    "numpy",
    (
        Declaration("linear", (Piece("kernel", "matrix", "out in"), Piece("bias", "bias", "out"))),
        Declaration("conv", (Piece("kernel", "filters", "out in/groups *spatial"), Piece("bias", "bias", "out"))),
        Declaration("embedding", (Piece("embedding", "table", "vocab features"),)),
        Declaration(
            "batch_norm",
            (
                Piece("scale", "gain", "features"),
                Piece("bias", "bias", "features"),
                Piece("mean", "mean", "features", Kind.BUFFER),
                Piece("var", "variance", "features", Kind.BUFFER),
                Piece("count", "count", "", Kind.BUFFER, dtype="int64"),
            ),
        ),
        Declaration("layer_norm", (Piece("scale", "gain", "*features"), Piece("bias", "bias", "*features"))),
    ),
    parameter_tag="Parameter",
    buffer_tag="Buffer",
)
