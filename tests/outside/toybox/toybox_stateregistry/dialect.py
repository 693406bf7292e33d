"""Which array of toybox is what: names and axes of its standard layers."""

from __future__ import annotations

from stateregistry.layers.vocabulary import Declaration, Dialect, Piece

AFFINE = Declaration("linear", (Piece("kernel", "grid", "in out"), Piece("bias", "shift", "out")))
DIALECT = Dialect("toybox", (AFFINE,), parameter_tag="Weight", buffer_tag="Stat")
