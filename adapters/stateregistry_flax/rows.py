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
from functools import lru_cache
from typing import Any, Final, final

from stateregistry.entry import Entry
from stateregistry.errors import AdapterError, AxesError
from stateregistry.layers import axes
from stateregistry.layers.config import contradiction
from stateregistry.layers.vocabulary import OWN_AXES, ROLES, WRAPPERS, Config, Lack, Layer, Piece, a_kind
from stateregistry_flax.declared import Row, row_of
from stateregistry_flax.dialect import lacks_of
from stateregistry_flax.patterns import stacked

_ENDINGS: Final = tuple(ending for endings in WRAPPERS.values() for ending in endings if ending)


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
    row = row_of(native, table)
    if row is None:
        return None
    layers = tuple(_checked(made, path, native) for made in _built(module, path, row))
    return (row, Sight(native, layers, path=path, strict=row.strict)) if layers else None


def _name(native: type) -> str:
    return f"{native.__module__}.{native.__qualname__}"


def _built(module: Any, path: str, row: Row) -> tuple[Layer, ...]:
    """What the builder of a row makes of a module."""
    native = type(module)
    try:
        made = row.build(module)
        several = () if made is None else (made,) if isinstance(made, Layer) else tuple(made)
    except Exception as error:
        where = path or "(the model)"
        message = f"the declaration of {_name(native)} fails on {where}: {type(error).__name__}: {error}"
        raise AdapterError(message, keys=(path,), hint="see register_layer") from error
    names = [one.path if isinstance(one, Layer) else None for one in several]
    if None in names or len(set(names)) != len(names):
        message = f"the declaration of {_name(native)} gives {several!r}, expected Layers with different paths"
        raise AdapterError(message, keys=(path,), hint="see register_layer")
    return several


def _checked(made: Layer, path: str, native: type) -> Layer:
    """The layer, with what no layer of its kind in Flax has.

    Raises:
        AxesError: its pieces are not what the vocabulary has for its kind.
    """
    wrong = _wrong(made.kind, made.pieces)
    if wrong:
        message = f"{path or '(the model)'} ({_name(native)}): the declaration of the type is wrong: {wrong}"
        hint = "mend the declaration that register_layer was given: see it, and the spec, chapter Layers"
        raise AxesError(message, keys=(path,), hint=hint)
    return made


@lru_cache(maxsize=1024)
def _wrong(kind: str, pieces: tuple[Piece, ...]) -> str:
    """What is wrong with the pieces of a layer of a kind; empty for nothing."""
    roles = ROLES.get(kind)
    if roles is None:
        return f"no layer kind {kind!r}; there are {', '.join(ROLES)}"
    for piece in pieces:
        try:
            held, mine = tuple(piece.parts), _atoms(piece.axes)
        except (AxesError, ValueError) as error:
            return f"{piece.name}: {error}"
        for role in (one for name in held for one in name.split("+")):
            if role.endswith(_ENDINGS) and role not in roles:
                continue  # which axes a wrapper keeps is its own business
            if role not in roles:
                return f"{piece.name}: {a_kind(kind)} has no role {role!r}; it has {', '.join(roles)}"
            if mine != _atoms(roles[role]):
                of = f"of {a_kind(kind)} has the axes {roles[role]!r}"
                return f"{piece.name}: the role {role!r} {of}, declared {piece.axes!r}"
    return ""


def _atoms(pattern: str) -> list[str]:
    """The names of axes, those of one family once."""
    return sorted({atom.name.partition(".")[0] for group in axes.parse(pattern) for atom in group.atoms})


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
        where = f"{path or '(the model)'} ({_name(seen.native)})"
        hint = "one of the two was changed after the module was made: make it anew with the config that its arrays have"
        message = f"{where}: the config contradicts the state: {contrary}"
        raise AxesError(message, keys=tuple(whole.key(piece) for piece in pieces), hint=hint)
    wrong = _misfit(whole, seen.held)
    if wrong and seen.strict:
        where = f"{path or '(the model)'} ({_name(seen.native)})"
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
