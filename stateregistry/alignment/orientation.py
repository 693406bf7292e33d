"""Orientation: whether a matrix that no module declares has its outputs first or last.

A bias of another size than the inputs decides. A square one is as its neighbours of the same name are: those in the nearest
container in which all that are decided agree. What is called otherwise may lie otherwise, and decides nothing. Where none is
decided, the habit of the framework stands. Reads names and shapes only.
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
_MATRICES: Final = frozenset({"weight", "kernel", "w", "W"})
_BIASES: Final = ("bias", "b")


@final
class Orientation:
    """What the decided matrices of one side say of those that are not."""

    def __init__(self, entries: Mapping[str, Entry], layers: Sequence[Layer], *, out_first: bool | None) -> None:
        #: The habit of the framework.
        self.default = _OUT_LAST if out_first is False else _OUT_FIRST
        self._entries = entries
        typed = {layer.key(piece) for layer in layers if not layer.inferred for piece in layer.pieces}
        #: What was decided, by container and the name of the matrix, and by container alone under no name.
        self._votes: dict[tuple[str, str], set[str]] = {}
        for key, entry in entries.items():
            parent, _, leaf = key.rpartition("/")
            if key in typed or leaf not in _MATRICES or len(entry.shape) != 2:
                continue
            near = (entries.get(f"{parent}/{name}" if parent else name) for name in _BIASES)
            bias = next((one for one in near if one is not None), None)
            if bias is None or len(bias.shape) != 1 or entry.shape[0] == entry.shape[1]:
                continue
            if bias.shape[0] in entry.shape:
                self.vote(parent, _OUT_FIRST if entry.shape[0] == bias.shape[0] else _OUT_LAST, leaf)

    def vote(self, path: str, pattern: str, name: str) -> None:
        """Note that the matrix of a name at a path is known to lie in one way."""
        for prefix in _prefixes(path):
            for own in (name.rpartition("/")[2], ""):
                self._votes.setdefault((prefix, own), set()).add(pattern)

    def of(self, path: str, name: str) -> tuple[str, bool]:
        """The pattern of a square matrix of a name at a path, and whether a neighbour of that name decided it."""
        for own in (name.rpartition("/")[2], ""):
            for prefix in reversed(_prefixes(path)):
                votes = self._votes.get((prefix, own))
                if votes:
                    return (next(iter(votes)), bool(own)) if len(votes) == 1 else (self.default, False)
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
            pattern = self.of(layer.path, kernel.name)[0] if bias is not None else kernel.axes
        elif bias is not None and layer.key(bias) in self._entries:
            size = self._entries[layer.key(bias)].shape
            pattern = _OUT_FIRST if size == shape[:1] else _OUT_LAST if size == shape[1:] else pattern
        pieces = tuple(replace(piece, axes=pattern) if piece is kernel else piece for piece in layer.pieces)
        return replace(layer, pieces=pieces)


def _prefixes(path: str) -> list[str]:
    """Every container of a path, outermost first; the whole model is the first."""
    steps = path.split("/") if path else []
    return ["/".join(steps[:depth]) for depth in range(len(steps) + 1)]
