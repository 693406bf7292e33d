"""Deriving a side: the native names and layouts that a framework would give to the state of the other side.

Used where only the name of a framework is known (`to="flax-linen"`). Every layer is spelled by the dialect's own table,
pieces that the table always has (a BatchNorm counter) are added, and entries of no layer keep their key and axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from stateregistry.conversion.pairing.readings import alike, readings
from stateregistry.conversion.planning.joint import axis_config, lack_of
from stateregistry.conversion.planning.plan import PlanProblem
from stateregistry.conversion.rules.rules import Rules
from stateregistry.conversion.side import Side
from stateregistry.entry import Entry, Kind
from stateregistry.errors import AxesError
from stateregistry.layers import axes
from stateregistry.layers.vocabulary import OWN_AXES, ROLES, Declaration, Dialect, Layer, Piece

if TYPE_CHECKING:
    from stateregistry.conversion.residual import Residual


def derive(
    source: Side, dialect: Dialect, rules: Rules, *, dtype: str | None, residual: Residual | None
) -> tuple[Side, list[PlanProblem]]:
    """The side that `dialect` would have for the state of `source`, and what it has no place for."""
    if source.dialect == dialect.name:
        return _renamed(source, rules, dtype), []
    made = _Derivation(source, dialect, rules, dtype, residual)
    return made.run(), made.problems


class _Derivation:
    def __init__(
        self, source: Side, dialect: Dialect, rules: Rules, dtype: str | None, residual: Residual | None
    ) -> None:
        self.source, self.dialect, self.rules = source, dialect, rules
        self.dtype, self.residual = dtype, residual
        self.problems: list[PlanProblem] = []
        self.entries: dict[str, Entry] = {}
        self.layers: list[Layer] = []
        self.renamed: dict[str, str] = {}  # source name -> target name of every entry inside a layer
        self.moved: dict[str, tuple[object, ...]] = {}  # target name -> what is done to its axes

    def run(self) -> Side:
        self.source = replace(self.source, layers=_outermost(self.source.layers))
        layers = self._first_of_each_key()
        done: set[str] = set()
        inside = {key for layer in self.source.layers for key in layer.roles.values()}
        for key, entry in self.source.entries.items():
            layer = layers.get(key)
            if layer is None:
                if key not in inside and entry.persistent and not entry.rng and not self.rules.drops_source(key):
                    self._alone(key, entry)
            elif layer.path not in done:
                done.add(layer.path)
                self._layer(layer)
        for layer in self.source.layers:  # layers whose entries are all aliases of others'
            if layer.path not in done:
                done.add(layer.path)
                self._layer(layer)
        return Side(self.dialect.name, self.entries, self._aliases(), tuple(self.layers), derived=True)

    def _first_of_each_key(self) -> dict[str, Layer]:
        owners: dict[str, Layer] = {}
        for layer in self.source.layers:
            for key in layer.roles.values():
                owners.setdefault(key, layer)
        return owners

    def _path(self, path: str) -> str:
        renamed = self.rules.rename(path)
        return path if renamed is None else renamed

    def _tag(self, kind: Kind) -> str:
        return self.dialect.parameter_tag if kind is Kind.PARAMETER else self.dialect.buffer_tag

    def _cast(self, entry: Entry) -> str:
        return self.dtype if self.dtype and "float" in entry.dtype else entry.dtype

    def _alone(self, key: str, entry: Entry) -> None:
        new = self._path(key)
        self.renamed[key] = new
        self.entries[new] = replace(entry, dtype=self._cast(entry), tag=self._tag(entry.kind), concrete=True)

    def _layer(self, layer: Layer) -> None:
        ways = readings(layer, self.source, self.rules)
        rows = {kind: row for kind in ways if (row := self.dialect.declaration(kind)) is not None}
        if (
            len(rows) > 1
            and alike([ways[kind] for kind in rows], self.source)
            and _name_alike(layer, tuple(rows.values()))
        ):
            rows = dict([next(iter(rows.items()))])
        if len(rows) != 1:
            self._no_row(layer, tuple(ways), tuple(rows))
            return
        kind, row = next(iter(rows.items()))
        layer, path = self._without_dropped(ways[kind]), self._path(layer.path)
        try:
            sizes = self._sizes(layer)
        except AxesError as error:
            self.problems.append(PlanProblem("axes", (layer.path,), error.message, error.hint or ""))
            return
        pieces = tuple(piece for piece in row.pieces if self._has(layer, piece, path))
        new = Layer(kind, path, pieces, config=layer.config, inferred=layer.inferred, candidates=(kind,))
        self.layers.append(new)
        for piece in pieces:
            self._piece(layer, new, piece, row, sizes)

    def _without_dropped(self, layer: Layer) -> Layer:
        kept = tuple(piece for piece in layer.pieces if not self.rules.drops_source(layer.key(piece)))
        return layer if len(kept) == len(layer.pieces) else replace(layer, pieces=kept)

    def _no_row(self, layer: Layer, ways: tuple[str, ...], rows: tuple[str, ...]) -> None:
        if rows:
            text = f"by its names it could be {' or '.join(rows)}, and no model says which"
            kind = likeliest(layer.path, rows)
            hint = f'add a rule [[layer]] path = "{layer.path}" kind = "{kind}", or give the model (like=)'
            self.problems.append(PlanProblem("ambiguous", (layer.path,), text, hint))
        else:
            text = f"{self.dialect.name} has no layer {' or '.join(ways)}"
            self.problems.append(PlanProblem("impossible", (layer.path,), text))

    def _sizes(self, layer: Layer) -> dict[str, dict[str, int]]:
        """The sizes of axes, by the name of each piece that says them, and under "" what all have in common."""
        common = axis_config(layer)
        found = {"": common}
        for piece in layer.pieces:
            key = self.source.canonical(layer.key(piece))
            if key is not None:
                found[piece.name] = dict(axes.bind(piece.axes, self.source.entries[key].shape, common).sizes)
                own = OWN_AXES.get(layer.kind, frozenset())
                common |= {name: size for name, size in found[piece.name].items() if name not in own}
        return found

    def _has(self, layer: Layer, piece: Piece, path: str) -> bool:
        """A piece of the table stands if the source gives its roles, a residual kept it, or the framework always has it."""
        key = f"{path}/{piece.name}" if path else piece.name
        if self.residual is not None and key in self.residual.records:
            return True
        counter = ROLES[layer.kind].get(piece.role) == "" and "mean" in layer.roles
        return counter or all(_holder(layer, role) is not None or _is_zero(layer, role) for role in piece.parts)

    def _piece(
        self, layer: Layer, new: Layer, piece: Piece, row: Declaration, sizes: dict[str, dict[str, int]]
    ) -> None:
        key = new.key(piece)
        held = [held for role in piece.parts if (held := _holder(layer, role)) is not None]
        old = layer.key(held[0]) if held else None
        entry = self.source.entries[self.source.canonical(old) or old] if old is not None else None
        own = {name: size for each in held for name, size in sizes.get(each.name, {}).items()}
        shape = axes.native_shape(piece.axes, {**sizes[""], **own})
        beside = layer.key(layer.pieces[0])  # what is filled is like what it is filled beside
        like = entry if entry is not None else self.source.entries.get(self.source.canonical(beside) or beside)
        dtype = piece.dtype or (self._cast(like) if like is not None else "float32")
        trainable = like.trainable if like is not None else False
        tag = piece.tag or self._tag(piece.kind)
        if old is not None and entry is not None:
            self.renamed[old] = key
            if len(piece.parts) == len(held[0].parts) == 1 and not held[0].part:
                self.moved[key] = axes.derive(held[0].axes, entry.shape, piece.axes, shape).signature
            else:
                self.moved[key] = (piece.axes, *(each.axes for each in held))
        self.entries[key] = Entry(
            piece.kind, shape, dtype, trainable=trainable and piece.kind is Kind.PARAMETER, tag=tag,
            inferred=layer.inferred,
        )  # fmt: skip
        if entry is not None and entry.kind is not piece.kind and not entry.inferred:
            text = f"a {entry.kind.value} in the source, a {piece.kind.value} in a {self.dialect.name} {row.kind}"
            self.problems.append(PlanProblem("kind", (old or "", key), text))

    def _aliases(self) -> dict[str, str]:
        """Ties of the source, under the new names; an alias is an entry of its own in `entries` until here."""
        aliases: dict[str, str] = {}
        if not self.dialect.ties:
            return aliases  # every name is a place of its own, and the plan says that the tie is lost
        groups: dict[str, list[str]] = {}
        for alias, canonical in self.source.aliases.items():
            groups.setdefault(canonical, []).append(alias)
        for canonical, names in groups.items():
            members = sorted({self.renamed.get(name, self._path(name)) for name in (canonical, *names)})
            least, *others = members
            owner = next((name for name in members if name in self.entries), None)
            if owner is None:
                continue
            if len({self.moved.get(name) for name in members if name in self.entries}) > 1:
                continue  # one place, two layouts: the target holds two arrays, and the plan says so
            entry = self.entries[owner]
            for name in members:
                self.entries.pop(name, None)
            self.entries[least] = entry
            aliases |= dict.fromkeys(others, least)
        return aliases


def _outermost(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """The layers without those that were inferred from arrays of an inferred layer around them."""
    deep = {
        layer.key(piece): layer for layer in layers if layer.inferred for piece in layer.pieces if "/" in piece.name
    }
    return tuple(
        layer
        for layer in layers
        if not layer.inferred or any(deep.get(key, layer) is layer for key in layer.roles.values())
    )


def likeliest(path: str, kinds: Sequence[str], /) -> str:
    """The kind that a hint names as an example: the one that the path spells (`prelu1`, `LayerNorm`), else the first.

    It is said and never done: a name is no proof of a kind.
    """
    words = "".join(letter for letter in path.lower() if letter.isalpha() or letter == "/").rsplit("/", 1)[-1]
    spelled = [kind for kind in kinds if kind.replace("_", "") in words]
    return max(spelled, key=len) if spelled else kinds[0]


def _name_alike(layer: Layer, rows: Sequence[Declaration]) -> bool:
    """Whether several rows of a dialect give the arrays of a layer the same names, and none has more of its own."""
    named = [{role: piece.name for role in layer.roles if (piece := row.piece(role)) is not None} for row in rows]
    return all(names == named[0] for names in named)


def _is_zero(layer: Layer, role: str) -> bool:
    """Whether a layer says that a role that it has no place for is zero."""
    lack = lack_of(layer, role)
    return lack is not None and lack.zero


def _holder(layer: Layer, role: str) -> Piece | None:
    """The piece that gives a role: it holds the role, one of its summands, or a sum with it."""
    wanted = set(role.split("+"))
    pieces = {held: piece for piece in layer.pieces for held in piece.parts}
    return pieces.get(role) or next((piece for held, piece in pieces.items() if wanted & set(held.split("+"))), None)


def _renamed(source: Side, rules: Rules, dtype: str | None) -> Side:
    """The side of a source that is in the wanted dialect already: its own entries, renamed and cast."""
    kept = {
        name: name if (new := rules.rename(name)) is None else new
        for name in source.names
        if not rules.drops_source(name)
    }
    groups: dict[str, list[str]] = {}  # the new names of every place that has one left
    for name, new in kept.items():
        groups.setdefault(source.aliases.get(name, name), []).append(new)
    entries = {
        min(groups[key]): replace(entry, dtype=dtype, concrete=True) if dtype and "float" in entry.dtype else entry
        for key, entry in source.entries.items()
        if entry.persistent and not entry.rng and key in groups
    }
    # A place is listed under the least of its names, which may be another than it was.
    aliases = {
        new: least for news in groups.values() if (least := min(news)) in entries for new in news if new != least
    }
    layers = source.layers if not rules.renames else ()
    return Side(source.dialect, entries, aliases, layers, derived=True)
