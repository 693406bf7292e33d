"""Rows: what a module that was seen is, and where its layers lie among the entries of a registry.

`sight` asks the row of a module's type what it is; `placed` holds that against the entries: every piece that the module
has must be there, of the declared kind, of the shape that the module sees, or stacked: then there is a layer for each
index. An entry belongs to the outermost layer that declares it. What does not fit makes no layer: its entries stand
alone; a registered declaration that does not fit is an error. Imports neither JAX nor Flax.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import final

from stateregistry.entry import Entry
from stateregistry.errors import AxesError
from stateregistry.layers import axes
from stateregistry.layers.config import contradiction
from stateregistry.layers.declared import Row, layers_by, qualified
from stateregistry.layers.vocabulary import OWN_AXES, Config, Lack, Layer, Piece
from stateregistry_flax.declared import DECLARED
from stateregistry_flax.dialect import lacks_of
from stateregistry_flax.patterns import stacked


@final
@dataclass(frozen=True, slots=True)
class Held:
    """One array as its module sees it.

    Attributes:
        shape: its shape, without axes that count modules.
        stack: those axes, outermost transform first: where each is in the stored array, and how long it is. `None`: there
            are some, and nothing says where.
    """

    shape: tuple[int, ...]
    stack: tuple[tuple[int, int], ...] | None = ()


@final
@dataclass(frozen=True, slots=True)
class Sight:
    """A module that is one or more layers.

    Attributes:
        native: its type, for messages and people.
        layers: what it is declared to be; paths and names relative to it.
        held: its arrays, by name relative to `base`.
        path: its key.
        base: where names hang, if not under `path`.
        strict: an array that contradicts the declaration is an error.
    """

    native: type
    layers: tuple[Layer, ...]
    held: Mapping[str, Held] = field(default_factory=dict)
    path: str = ""
    base: str | None = None
    strict: bool = False


def sight(module: object, table: Mapping[type, Row], path: str) -> tuple[Row, Sight] | None:
    """What layers a module is; `None` where it is none.

    Raises:
        AdapterError: a registered declaration fails, or returns what is no layer. AxesError: its pieces are not what the
            vocabulary has for its kind.
    """
    native = type(module)
    row = DECLARED.row_of(native, table)
    if row is None:
        return None
    layers = layers_by(row, module, path, native)
    return (row, Sight(native, layers, path=path, strict=row.strict)) if layers else None


# -------------------------------------------------------------------- among the entries


def placed(sights: Iterable[Sight], entries: Mapping[str, Entry]) -> tuple[Layer, ...]:
    """The layers that were seen and that the entries bear out, in order.

    Raises:
        AxesError: an array has other axes than a registered declaration says.
    """
    layers: list[Layer] = []
    taken: set[str] = set()  # keys below a module that is a layer with them
    for seen in sights:
        for made in seen.layers:
            found = tuple(_placed(made, seen, entries))
            if any(layer.key(piece) in taken for layer in found for piece in layer.pieces):
                continue
            layers += found
            taken.update(layer.key(piece) for layer in found for piece in layer.pieces if "/" in piece.name)
    return tuple(layers)


def _placed(made: Layer, seen: Sight, entries: Mapping[str, Entry]) -> Iterator[Layer]:
    pieces = tuple(piece for piece in made.pieces if piece.name in seen.held)
    path = "/".join(part for part in (seen.path, made.path) if part)
    base = seen.base if seen.base is not None else seen.path if made.path else None
    lacks: tuple[Lack, ...] = (*made.lacks, *(lack for lack in lacks_of(made.kind) if lack not in made.lacks))
    whole = replace(
        made, path=path, base=base, pieces=pieces, type=made.type or seen.native.__name__, lacks=lacks, inferred=False
    )
    if not pieces or not all(_is_there(whole, piece, seen.held[piece.name], entries) for piece in pieces):
        return
    contrary = contradiction(whole, {name: held.shape for name, held in seen.held.items()})
    if contrary:
        where = f"{path or '(the model)'} ({qualified(seen.native)})"
        hint = "one of the two was changed after the module was made: make it anew with the config that its arrays have"
        message = f"{where}: the config contradicts the state: {contrary}"
        raise AxesError(message, keys=tuple(whole.key(piece) for piece in pieces), hint=hint)
    wrong = _misfit(whole, seen.held)
    if wrong and seen.strict:
        where = f"{path or '(the model)'} ({qualified(seen.native)})"
        hint = "mend the declaration that register_layer was given for the type"
        raise AxesError(f"{where}: {wrong}", keys=tuple(whole.key(piece) for piece in pieces), hint=hint)
    if wrong:
        return
    stacks = {piece.name: seen.held[piece.name].stack for piece in pieces}
    yield from (whole,) if not any(stacks.values()) else _each(whole, seen.held)


def _is_there(layer: Layer, piece: Piece, held: Held, entries: Mapping[str, Entry]) -> bool:
    """Whether an entry is the array of a piece: of its kind, and of the shape that the module sees plus the stack."""
    entry = entries.get(layer.key(piece))
    if entry is None or held.stack is None:
        return False
    shape = list(held.shape)
    for place, length in sorted(held.stack):
        shape.insert(place, length)
    return entry.kind is piece.kind and entry.shape == tuple(shape)


def _misfit(layer: Layer, held: Mapping[str, Held]) -> str:
    """In what the arrays of a layer contradict its axes; empty for nothing."""
    sizes = _sizes(layer.config)
    own = OWN_AXES.get(layer.kind, frozenset())
    for piece in layer.pieces:
        try:
            found = axes.bind(piece.axes, held[piece.name].shape, sizes).sizes
        except AxesError as error:
            return f"{piece.name}: {error.message}"
        sizes |= {name: size for name, size in found.items() if name not in own}
    return ""


def _sizes(config: Config) -> dict[str, int]:
    return {name: value for name, value in config.items() if name in ("heads", "head_dim") and isinstance(value, int)}


def _each(layer: Layer, held: Mapping[str, Held]) -> Iterator[Layer]:
    """The layers of which one array each holds all: one for each index. None where not every piece is stacked alike."""
    stacks = [held[piece.name].stack or () for piece in layer.pieces]
    lengths = {tuple(length for _, length in stack) for stack in stacks}
    patterns = [
        stacked(piece.axes, len(held[piece.name].shape), sorted(stack))
        for piece, stack in zip(layer.pieces, stacks, strict=True)
    ]
    if len(lengths) != 1 or None in patterns:
        return
    base = layer.path if layer.base is None else layer.base
    for index in itertools.product(*(range(length) for length in lengths.pop())):
        pieces = tuple(
            replace(piece, axes=str(pattern), part=".".join(str(index[number]) for number in _native(stack)))
            for piece, pattern, stack in zip(layer.pieces, patterns, stacks, strict=True)
        )
        path = "/".join(part for part in (layer.path, *map(str, index)) if part)
        yield replace(layer, path=path, base=base, pieces=pieces, config={**layer.config, "stacked": True})


def _native(stack: tuple[tuple[int, int], ...]) -> list[int]:
    """The axes of a stack in the order in which the array has them."""
    return sorted(range(len(stack)), key=lambda number: stack[number][0])
