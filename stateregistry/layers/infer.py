"""Inference: the layers of a file, from the names and ranks of its entries alone. Everything made here says `inferred`.

A dialect's own table is read backwards: a group of entries under one path is a layer of a kind if the kind's pieces
account for all of them, the essential ones are there, and their shapes agree on every named axis. Where a group could be
several kinds, all of them are kept as `candidates`: the other side of a conversion settles it, or nobody does.
Reads no values and never decides by a shape what a name leaves open.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import TYPE_CHECKING

from stateregistry import plugins
from stateregistry.errors import AxesError
from stateregistry.layers import axes
from stateregistry.layers.vocabulary import ESSENTIAL, Layer

if TYPE_CHECKING:
    from stateregistry.entry import Entry
    from stateregistry.layers.vocabulary import Declaration, Dialect, Piece

    Fits = list[tuple[Declaration, tuple[Piece, ...]]]


def infer_layers(entries: Mapping[str, Entry], dialect: str = "") -> tuple[Layer, ...]:
    """The layers that a flat listing forms, in the order of its first entries.

    Args:
        entries: entries by key, in native order where that is known.
        dialect: name of the adapter whose spelling the keys have; `""` to let the names say.

    Returns:
        Layers with `inferred=True`; none where no dialect, or more than one that disagree, fits the names.
    """
    if dialect:
        known = plugins.adapters().get(dialect)
        return _read(entries, known.dialect) if known is not None and known.dialect is not None else ()
    return _read(entries, guess_dialect(entries))


def guess_dialect(entries: Mapping[str, Entry]) -> Dialect | None:
    """The dialect whose table accounts for most entries; `None` where none does or two that disagree do equally well."""
    scored: list[tuple[int, Dialect, tuple[Layer, ...]]] = []
    for adapter in plugins.adapters().values():
        if adapter.dialect is not None and all(adapter.dialect is not seen for _, seen, _ in scored):
            layers = _read(entries, adapter.dialect)
            scored.append((sum(len(layer.pieces) for layer in layers), adapter.dialect, layers))
    best = max((score for score, _, _ in scored), default=0)
    winners = [(dialect, layers) for score, dialect, layers in scored if score == best and score]
    layouts = {tuple(_layout(layer) for layer in layers) for _, layers in winners}
    return winners[0][0] if len(layouts) == 1 else None


def _layout(layer: Layer) -> tuple[object, ...]:
    return (layer.path, layer.candidates, tuple((piece.role, piece.name, piece.axes) for piece in layer.pieces))


def _read(entries: Mapping[str, Entry], dialect: Dialect | None) -> tuple[Layer, ...]:
    if dialect is None:
        return ()
    groups = _groups(entries, {piece.name for row in dialect.declarations for piece in row.pieces})
    layers = []
    known: dict[Hashable, Fits] = {}  # groups of the same names and entries fit alike, wherever they are

    def fitting(names: set[str], path: str) -> Fits:
        found = [(name, entries[f"{path}/{name}" if path else name]) for name in sorted(names)]
        alike = tuple((name, entry, entry.inferred) for name, entry in found)
        if alike not in known:
            known[alike] = _fits(dialect, names, entries, path)
        return known[alike]

    for path, names in groups.items():
        # A name further down may be that of another layer: what lies right here is a layer of its own then.
        fits = fitting(names, path) or fitting({name for name in names if "/" not in name}, path)
        if fits:
            row, pieces = fits[0]
            kinds = tuple(dict.fromkeys(row.kind for row, _ in fits))
            layers.append(Layer(row.kind, path, pieces, inferred=True, candidates=kinds))
    return tuple(layers)


def _fits(dialect: Dialect, names: set[str], entries: Mapping[str, Entry], path: str) -> Fits:
    """Every declaration that accounts for the names of a group, with its pieces."""
    if not names:
        return []
    matches = ((row, _match(row, names, entries, path)) for row in dialect.declarations)
    return [(row, pieces) for row, pieces in matches if pieces is not None]


def candidates(layer: Layer, dialect: Dialect, entries: Mapping[str, Entry]) -> dict[str, Layer]:
    """An inferred layer read as every kind that it could be."""
    found: dict[str, Layer] = {}
    names = {piece.name for piece in layer.pieces}
    for row in dialect.declarations:
        pieces = _match(row, names, entries, layer.path)
        if pieces is not None:
            found.setdefault(row.kind, Layer(row.kind, layer.path, pieces, inferred=True, candidates=layer.candidates))
    return found


def readings_of(names: set[str], dialect: Dialect, entries: Mapping[str, Entry], path: str) -> dict[str, Layer]:
    """Every kind of layer that a module with these arrays could be by their names and shapes alone.

    Args:
        names: of the arrays, below `path`; those that are no entries count for nothing.
    """
    prefix = f"{path}/" if path else ""
    there = {name for name in names if prefix + name in entries}
    found: dict[str, Layer] = {}
    for row, pieces in _fits(dialect, there, entries, path):
        found.setdefault(row.kind, Layer(row.kind, path, pieces, inferred=True))
    return found


def doubt(layer: Layer, entries: Mapping[str, Entry]) -> str:
    """Why an inferred layer may be something else, whatever its shapes; empty for no reason.

    Names that nothing but a layer of the kind has leave no doubt; common words do, and axes that no name tells apart.
    """
    if layer.kind == "rnn":
        names = ", ".join(sorted({piece.name for piece in layer.pieces}))
        return f"it was inferred from {names}, as two linear layers of a module could be called as well"
    shapes = [entries[key].shape for piece in layer.pieces if (key := layer.key(piece)) in entries]
    if layer.kind.endswith("_norm") and any(len(shape) > 1 for shape in shapes):
        return f"the {layer.kind} was inferred from names, and an array of more than one axis may be anything else"
    return ""


def _groups(entries: Iterable[str], names: set[str]) -> dict[str, set[str]]:
    """For every path, the names below it that some piece has."""
    depths = sorted({name.count("/") + 1 for name in names})
    groups: dict[str, set[str]] = {}
    for key in entries:
        segments = key.split("/")
        for depth in depths:
            if depth <= len(segments):
                name = "/".join(segments[-depth:])
                if name in names:
                    groups.setdefault("/".join(segments[:-depth]), set()).add(name)
    return groups


def _groups_fit(sizes: Mapping[str, int]) -> bool:
    """Whether a bias has one number for each output of every group, and the inputs fall into as many groups."""
    out, each = sizes.get("out"), sizes.get("out/groups")
    if out is None or not each:
        return True
    return out % each == 0 and sizes.get("in", out // each) % (out // each) == 0


def _match(row: Declaration, names: set[str], entries: Mapping[str, Entry], path: str) -> tuple[Piece, ...] | None:
    """The pieces of a declaration that a group has; `None` where it is not this kind."""
    pieces = tuple(piece for piece in row.pieces if piece.name in names)
    if {piece.name for piece in pieces} != names:
        return None
    roles = {role for piece in pieces for role in piece.parts}
    if not roles.issuperset(ESSENTIAL[row.kind]):
        return None
    sizes: dict[str, int] = {}
    for piece in pieces:
        entry = entries[f"{path}/{piece.name}" if path else piece.name]
        if not entry.inferred and entry.kind is not piece.kind:
            return None
        if piece.dtype is not None and piece.dtype != entry.dtype and "int" not in entry.dtype:
            return None
        if not axes.rank_fits(piece.axes, len(entry.shape)):
            return None
        try:
            sizes |= axes.bind(piece.axes, entry.shape, sizes).sizes
        except AxesError:
            return None  # the shapes of the group contradict one another: not a layer of this kind
    if not _groups_fit(sizes):
        return None
    if "projection_kernel" not in roles and sizes.get("state") != sizes.get("hidden"):
        return None  # a recurrent layer without a projection has its hidden units for a state
    return pieces
