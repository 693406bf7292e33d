"""Undeclared: what to say of an entry whose module is of a type that nobody declared to be a layer, or is none as it stands.

Names the path and the type of the module, the kinds that it could be, and the line of code that would settle it. Decides
nothing: an array of such a module stays what it is for the plan. Reads names, ranks and types, no values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, final

from stateregistry import plugins
from stateregistry.alignment.spelling import split_words
from stateregistry.alignment.view import NAMES
from stateregistry.conversion.pairing.pairs import EntryPair
from stateregistry.conversion.rules.patterns import open_text
from stateregistry.layers import axes
from stateregistry.layers.infer import readings_of
from stateregistry.layers.vocabulary import ESSENTIAL, ROLES, a_kind

if TYPE_CHECKING:
    from stateregistry.alignment.model import Unit
    from stateregistry.conversion.pairing.pairs import LayerPair
    from stateregistry.conversion.planning.plan import PlanProblem
    from stateregistry.conversion.rules.rules import Rules
    from stateregistry.conversion.side import Side
    from stateregistry.entry import Entry
    from stateregistry.layers.vocabulary import Dialect, Holder, Layer


#: Of more types than these on one side, none is the one cause.
_TYPES: Final = 2
_RECURRENT: Final = frozenset({"rnn", "gru", "lstm"})
#: One of these is in the name of some array of a recurrent layer: what reads the state that it keeps.
_STATE: Final = frozenset({"ih", "hh", "hidden", "recurrent", "state", "rec", "gate", "gates", "cell", "h"})


#: What roles are among names, and what names say beside those that layers are told by.
_SAYS: Final = {"scale": "W", "kernel": "W", "embedding": "W", "bias": "B", "mean": "M", "var": "V"}
_ROLES: Final = {**NAMES, "alpha": "W", "shift": "B", "table": "W", "matrix": "W"}


@final
@dataclass(frozen=True, slots=True)
class Advice:
    """What is wrong with an entry, and what would settle it."""

    text: str
    hint: str


@final
class Undeclared:
    """Both sides, as far as their modules are of types that nobody declared."""

    def __init__(self, source: Side, target: Side, rules: Rules) -> None:
        self._sides = (source, target)
        there = {layer.path: layer for layer in target.layers}
        here: dict[str, Layer] = {}
        for layer in source.layers:
            new = rules.rename(layer.path)
            here[layer.path if new is None else new] = layer
        self._others = (there, here)
        self._rename = rules.rename

    def of_source(self, key: str, /) -> Advice | None:
        """What there is to say of a source entry; `None` where its module is declared or nothing knows its type."""
        return self._advice(0, key)

    def of_target(self, key: str, /) -> Advice | None:
        """As `of_source`, of a target entry."""
        return self._advice(1, key)

    def are_bare(self, source: str, target: str, /) -> bool:
        """Whether the modules of both entries are declared to be no layers; a side that is derived is what it is made of."""
        left, right = (side.holders.get(key) for side, key in zip(self._sides, (source, target), strict=True))
        there = self._sides[1].derived or (right is not None and right.bare)
        return left is not None and left.bare and there

    def as_bare(self, pair: LayerPair, /) -> list[EntryPair]:
        """The arrays of two layers one by one, where the types of their modules are declared to be none; else no array."""
        left, right = pair.source.roles, pair.target.roles
        if not (pair.source.inferred and pair.target.inferred) or left.keys() != right.keys():
            return []
        evidence = f"{pair.evidence}; parameters of their own on both sides"
        found = [EntryPair(left[role], right[role], evidence) for role in left]
        return found if all(self.are_bare(one.source, one.target) for one in found) else []

    def explained(self, problem: PlanProblem, /) -> PlanProblem:
        """The problem of an entry of no layer, with what there is to say of the type of its module."""
        here, there = problem.keys[0], problem.keys[-1]
        if problem.problem == "missing":
            advice = self.of_target(there)
        elif problem.problem == "unexpected":
            advice = self.of_source(here)
        else:
            advice = self.of_source(here) or self.of_target(there)
        if advice is None:
            return problem
        hint = "; or ".join(filter(None, (advice.hint, problem.hint)))
        return replace(problem, text=f"{problem.text}; {advice.text}", hint=hint)

    def speaks_of(self, left: tuple[Sequence[Unit], Sequence[Unit]], /) -> bool:
        """Whether there is something to say of the type of a module that holds any of these: each of its arrays says it."""
        return any(
            self._holder(number, unit.keys[0]) is not None for number, units in enumerate(left) for unit in units
        )

    def cause(self, left: tuple[Sequence[Unit], Sequence[Unit]], /) -> Advice | None:
        """What to say of types that nobody declared, if most of what is left on a side is of such; `None` for nothing."""
        said, hints = [], []
        for number, units in enumerate(left):
            types: dict[str, dict[str, Unit]] = {}
            some = 0
            for unit in units:
                known = self._holder(number, unit.keys[0])
                if known is not None and known[0].path and not known[0].declared:
                    types.setdefault(known[0].type, {}).setdefault(known[0].path, unit)
                    some += 1
            if 2 * some <= len(units) or len(types) > _TYPES:
                continue
            for modules in types.values():
                advice = self._advice(number, next(iter(modules.values())).keys[0])
                if advice is not None:
                    more = f" (and {len(modules) - 1} more of this type)" if len(modules) > 1 else ""
                    said.append(f"in the {('source', 'target')[number]} {advice.text}{more}")
                    hints.append(advice.hint)
        return Advice("; ".join(said), "; ".join(filter(None, hints))) if said else None

    def open_layer(self, pair: LayerPair, /) -> Layer | None:
        """The layer of a pair that is one by names and shapes alone, while its live module is of another type or of none."""
        for number, layer in enumerate((pair.source, pair.target)):
            if layer.inferred and any(self._holder(number, layer.key(piece)) is not None for piece in layer.pieces):
                return layer
        return None

    def _holder(self, number: int, key: str) -> tuple[Holder, Dialect] | None:
        """The module of an entry that there is something to say of, with the dialect of its side."""
        side = self._sides[number]
        holder = side.holders.get(key)
        adapter = plugins.adapters().get(side.dialect)
        if holder is None or holder.bare or adapter is None or adapter.dialect is None:
            return None
        return holder, adapter.dialect

    def _advice(self, number: int, key: str) -> Advice | None:
        known = self._holder(number, key)
        if known is None:
            return None
        side, (holder, dialect) = self._sides[number], known
        if holder.declared:
            return _no_layer_here(holder)
        names = self._names(side, holder)
        path = holder.path
        if number == 0:
            new = self._rename(path)
            path = path if new is None else new
        other = self._others[number].get(path)
        by_name = readings_of(names, dialect, side.entries, holder.path)
        ranks = {name: len(entry.shape) for name in sorted(names) if (entry := _entry(side, holder, name)) is not None}
        by_rank = () if by_name or other is not None else _kinds_by_rank(ranks)
        kinds = (
            [f"{a_kind(other.kind)} (as the {other.type or other.kind} on the other side)"] if other is not None else []
        )
        kinds += [a_kind(kind) for kind in (*by_name, *by_rank) if other is None or kind != other.kind]
        bare = (
            f"no layer at all, if its parameters are their own ({dialect.bare})" if dialect.bare else "no layer at all"
        )
        where = holder.path or "(the model)"
        text = f"{where} is a {holder.type}, a type that nobody declared; it could be {', '.join([*kinds, bare])}"
        kind = other.kind if other is not None else next(iter((*by_name, *by_rank)), "")
        return Advice(text, self._line(holder, kind, by_name.get(kind), ranks, dialect))

    @staticmethod
    def _names(side: Side, holder: Holder) -> set[str]:
        """The names of everything that a module holds."""
        prefix = f"{holder.path}/" if holder.path else ""
        return {key.removeprefix(prefix) for key, each in side.holders.items() if each == holder}

    @staticmethod
    def _line(holder: Holder, kind: str, reading: Layer | None, ranks: Mapping[str, int], dialect: Dialect) -> str:
        if not dialect.register:
            return "say its axes with a [[layout]] rule"
        if not kind:
            return f'declare it: {dialect.register}("{holder.type}", {dialect.bare})' if dialect.bare else ""
        if reading is not None:
            found = [(piece.role, piece.name, piece.axes) for piece in reading.pieces]
        else:
            found = _by_rank(kind, ranks)
        quoted = {name: name if name.startswith("<") else f'"{name}"' for _, name, _ in found}
        pieces = "".join(f'Piece("{role}", {quoted[name]}, "{pattern}"), ' for role, name, pattern in found)
        return (
            f'declare it, with the axes in the order in which it holds them: {dialect.register}("{holder.type}", '
            f'lambda module: sr.Layer("{kind}", "", ({pieces.rstrip()})))'
        )


def _no_layer_here(holder: Holder) -> Advice:
    """Of a module whose type is declared: to declare it once more would change every other module of that type."""
    text = (
        f"{holder.path or '(the model)'} is a {holder.type}, a declared type, and yet no layer as it stands: what it computes "
        "with is made from its arrays in a way that is not known, or nothing says which axis counts stacked modules"
    )
    name = holder.type.rpartition(".")[2]
    if holder.reason:
        return Advice(f"{holder.path or '(the model)'} is a {holder.type}: {holder.reason}", "")
    return Advice(text, f"make it a plain {name} first, with the arrays that it computes with")


def _entry(side: Side, holder: Holder, name: str) -> Entry | None:
    return side.entries.get(f"{holder.path}/{name}" if holder.path else name)


def _kinds_by_rank(ranks: Mapping[str, int]) -> tuple[str, ...]:
    """The kinds whose roles account for arrays of these ranks, one each; a norm of more than one axis is none of them."""
    found = []
    words = {word for name in ranks for word in split_words(name)}
    for kind, essential in ESSENTIAL.items():
        if kind in _RECURRENT and not words & _STATE:
            continue  # what has a matrix and two vectors, or two matrices, is most often no recurrent layer
        rows = _by_rank(kind, ranks)
        roles = {role for role, _, _ in rows}
        flat = not kind.endswith("_norm") or max(ranks.values(), default=0) <= 1
        if flat and essential and roles.issuperset(essential) and len(rows) == len(ranks):
            found.append(kind)
    return tuple(found)


def _by_rank(kind: str, ranks: Mapping[str, int]) -> list[tuple[str, str, str]]:
    """Roles of a kind for arrays of which only the rank is known, as far as each role has one array of its rank.

    Of several that any of the names could be, the name says the role; where it says none, all of them stand in its place, and
    no line with that runs.
    """
    left = dict(ROLES[kind])
    found = []
    for rank in sorted(set(ranks.values()), reverse=True):
        names = [name for name in sorted(ranks) if ranks[name] == rank]
        fits = [role for role, pattern in left.items() if axes.rank_fits(pattern, rank)][: len(names)]
        said = {name: role for name in names for role in fits if _SAYS.get(role) == _said(name)}
        known = {role: name for name, role in said.items()} if len(set(said.values())) == len(said) else {}
        rest = [name for name in names if name not in known.values()]
        for role in fits:
            name = known.get(role) or (rest[0] if len(fits) == len(names) == 1 else open_text(rest))
            found.append((role, name, left.pop(role)))
    return found


def _said(name: str) -> str | None:
    """What a name says that an array is, as `NAMES` has it: by its last word that says anything."""
    words = [name.lower(), *reversed(split_words(name))]
    return next((_ROLES[word] for word in words if word in _ROLES), None)
