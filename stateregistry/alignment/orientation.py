"""Orientation: whether a matrix that no module declares has its outputs first or last.

A bias of another size than the inputs decides. A square one is as its neighbours are: those in the nearest container in
which all that are decided agree. Where none is decided, the habit of the framework stands. Reads shapes only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final, final

from stateregistry.layers.vocabulary import Layer

if TYPE_CHECKING:
    from stateregistry.entry import Entry

_OUT_FIRST: Final = "out in"
_OUT_LAST: Final = "in out"
_MATRICES: Final = frozenset({"weight", "kernel", "w"})


@final
class Orientation:
    """What the decided matrices of one side say of those that are not."""

    def __init__(self, entries: Mapping[str, Entry], layers: Sequence[Layer], *, out_first: bool | None) -> None:
        #: The habit of the framework.
        self.default = _OUT_LAST if out_first is False else _OUT_FIRST
        self._entries = entries
        typed = {layer.key(piece) for layer in layers if not layer.inferred for piece in layer.pieces}
        self._votes: dict[str, set[str]] = {}
        for key, entry in entries.items():
            parent, _, leaf = key.rpartition("/")
            if key in typed or leaf not in _MATRICES or len(entry.shape) != 2:
                continue
            bias = entries.get(f"{parent}/bias" if parent else "bias")
            if bias is None or len(bias.shape) != 1 or entry.shape[0] == entry.shape[1]:
                continue
            if bias.shape[0] in entry.shape:
                self.vote(parent, _OUT_FIRST if entry.shape[0] == bias.shape[0] else _OUT_LAST)

    def vote(self, path: str, pattern: str) -> None:
        """Note that the matrix at a path is known to lie in one way."""
        for prefix in _prefixes(path):
            self._votes.setdefault(prefix, set()).add(pattern)

    def of(self, path: str) -> tuple[str, bool]:
        """The pattern of a square matrix at a path, and whether a neighbour decided it."""
        for prefix in reversed(_prefixes(path)):
            votes = self._votes.get(prefix)
            if votes:
                return (next(iter(votes)), True) if len(votes) == 1 else (self.default, False)
        return self.default, False

    def turned(self, layer: Layer) -> Layer:
        """An inferred linear, with its kernel the way it lies."""
        kernel = next((piece for piece in layer.pieces if piece.role == "kernel"), None)
        if not layer.inferred or layer.kind != "linear" or kernel is None or kernel.axes not in (_OUT_FIRST, _OUT_LAST):
            return layer
        shape = self._entries[layer.key(kernel)].shape if layer.key(kernel) in self._entries else ()
        bias = next((piece for piece in layer.pieces if piece.role == "bias"), None)
        if len(shape) != 2:
            return layer
        pattern = kernel.axes
        if shape[0] == shape[1]:
            pattern = self.of(layer.path)[0] if bias is not None else kernel.axes
        elif bias is not None and layer.key(bias) in self._entries:
            size = self._entries[layer.key(bias)].shape
            pattern = _OUT_FIRST if size == shape[:1] else _OUT_LAST if size == shape[1:] else pattern
        pieces = tuple(replace(piece, axes=pattern) if piece is kernel else piece for piece in layer.pieces)
        return replace(layer, pieces=pieces)


def _prefixes(path: str) -> list[str]:
    """Every container of a path, outermost first; the whole model is the first."""
    steps = path.split("/") if path else []
    return ["/".join(steps[:depth]) for depth in range(len(steps) + 1)]
