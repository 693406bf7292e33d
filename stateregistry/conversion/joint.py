"""Joint: how the pieces of one paired layer are fed from those of the other, role by role.

A role is given by the piece that holds it, by the sum of two roles, or, where only the sum is there, by a choice: the
last summand takes it and the others are zero. Arrays that several layers share (stacked) are wanted by each of them, and
what they want is put together. Knows roles and pieces; reads no entry but to find a key.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, final

from stateregistry import plugins
from stateregistry.conversion.plan import Feed, Grade, Move
from stateregistry.layers.axes import parts_of
from stateregistry.layers.vocabulary import ROLES, Declaration, Lack, Layer, Limit, Piece

if TYPE_CHECKING:
    from stateregistry.conversion.align import LayerPair
    from stateregistry.conversion.rules import Rules
    from stateregistry.conversion.side import Side

_COUNTER = "starts at 0: the source has no such counter"


@final
@dataclass(slots=True)
class Want:
    """What one target array is to be made of.

    Attributes:
        key, axes: the array. feeds: where its parts come from. zeros: parts that are zero. absent: parts that nothing gives.
        summed: some part is a sum. chosen: why the result could have been another, empty for none.
        evidence, grade, doubt: of the pairing.
    """

    key: str
    axes: str
    feeds: list[Feed] = field(default_factory=list)
    zeros: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    summed: bool = False
    chosen: str = ""
    evidence: str = ""
    grade: Grade = "certain"
    doubt: str = ""

    def add_to(self, other: Want) -> None:
        """Put what another layer wants of the same array with what is wanted already."""
        if other is self:
            return
        given = {feed.into for feed in other.feeds}
        other.feeds += [feed for feed in self.feeds if feed.into not in given]
        other.zeros += [part for part in self.zeros if part not in other.zeros]
        other.absent = [part for part in other.absent if part in self.absent]
        other.summed |= self.summed
        other.chosen = other.chosen or self.chosen
        if self.grade != "certain":
            other.grade, other.doubt = self.grade, self.doubt

    def move(self) -> Move:
        """The move that gives it."""
        if not self.feeds:
            return Move("fill", self.key, cls="choice" if self.chosen else "exact", reason=self.chosen or "zero")
        reason = self.chosen
        if self.summed:
            reason = "a sum: the residual keeps the summands"
        return Move(
            "sum" if self.summed else "copy", self.key, tuple(self.feeds), "choice" if reason else "exact", reason,
            evidence=self.evidence, axes=self.axes, zeros=tuple(self.zeros),
        )  # fmt: skip


@final
class Joint:
    """Two paired layers."""

    def __init__(self, pair: LayerPair, source: Side, target: Side, rules: Rules) -> None:
        self.pair = pair
        #: Source keys whose place a rule keeps or fills.
        self.displaced: set[str] = set()
        self._rules = rules
        self._source_dialect, self._target_dialect = source.dialect, target.dialect
        self._holders = {
            role: piece
            for piece in pair.source.pieces
            if not rules.drops_source(pair.source.key(piece))
            for role in piece.parts
        }
        self._used: set[str] = set()

    def wants(self) -> Iterator[Want]:
        """Every array of the target's layer, with what gives its parts."""
        for piece in self.pair.target.pieces:
            if self._rules.holds_target(self.pair.target.key(piece)):
                self._displace(piece)
                continue
            want = Want(
                self.pair.target.key(piece), piece.axes, evidence=f"{self.pair.evidence}, role {piece.role}",
                grade=self.pair.grade, doubt=self.pair.reason,
            )  # fmt: skip
            mine = set(piece.parts.values())
            want.absent = [part for part in _all_parts(piece) if part not in mine]
            for role, into in piece.parts.items():
                self._give(want, role, into)
            yield want

    def _displace(self, piece: Piece) -> None:
        """A rule keeps or fills the target's array: what the source has for it goes nowhere."""
        for role in piece.parts:
            for held in (role, *role.split("+")):
                if held in self._holders:
                    self._used.add(held)
                    self.displaced.add(self.pair.source.key(self._holders[held]))

    def _give(self, want: Want, role: str, into: str) -> None:
        if role in self._holders:
            want.feeds.append(self._feed(role, into))
        elif summands := [one for one in role.split("+") if one in self._holders]:
            want.feeds += [self._feed(one, into) for one in summands]
            want.summed |= len(summands) > 1
        elif (whole := self._sum_with(role)) is not None:
            want.chosen = "only the sum is there: the last summand takes it, the others are zero"
            if whole.split("+")[-1] == role:
                want.feeds.append(self._feed(whole, into))
            else:
                want.zeros.append(into)
                self._used.add(whole)
        elif self._is_zero(role):
            want.zeros.append(into)
            want.chosen = want.chosen or (_COUNTER if is_counter(self.pair.target.kind, role) else "")
        else:
            want.absent.append(into)

    def _is_zero(self, role: str) -> bool:
        """Whether a role that the source has no place for is zero: a counter, or what its framework leaves out."""
        lack = self._lack(self._source_dialect, self.pair.source, role)
        return lack is not None and (lack.zero or is_counter(self.pair.target.kind, role))

    def _sum_with(self, role: str) -> str | None:
        return next((held for held in self._holders if "+" in held and role in held.split("+")), None)

    def _feed(self, role: str, into: str) -> Feed:
        piece = self._holders[role]
        self._used.add(role)
        return Feed(self.pair.source.key(piece), piece.axes, piece.parts[role], into)

    def left_over(self) -> Iterator[tuple[str, Piece]]:
        """Roles of the source's layer that nothing of the target took. Ask after `wants`."""
        for role, piece in self._holders.items():
            if role not in self._used:
                yield role, piece

    def anchors(self) -> list[str]:
        """The target arrays that a value without a place belongs to: the statistics, or else all of the layer's."""
        roles = self.pair.target.roles
        return [roles[role] for role in ("mean", "var") if role in roles] or list(dict.fromkeys(roles.values()))

    def limit(self) -> Limit | None:
        """The first value of the source's config that no layer of the target's framework can have; `None` for none."""
        row = _row(self._target_dialect, self.pair.target.kind)
        config = self.pair.source.config
        limits = () if row is None else row.limits
        return next((limit for limit in limits if config.get(limit.name, limit.value) != limit.value), None)

    def target_lack(self, role: str) -> Lack | None:
        """What the target's framework says of a role that it has no place for."""
        return self._lack(self._target_dialect, self.pair.target, role)

    def _lack(self, dialect: str, layer: Layer, role: str) -> Lack | None:
        stated = lack_of(layer, role)
        if stated is not None:
            return stated
        row = _row(dialect, layer.kind)
        if row is not None and (stated := row.lack(role)) is not None:
            return stated
        if is_counter(layer.kind, role):
            reason = f"a {dialect or 'target'} {layer.kind} has no place for it: the residual keeps it"
            return Lack((role,), reason, kept=True)
        return None


def _row(dialect: str, kind: str) -> Declaration | None:
    """What a framework declares of a kind."""
    adapter = plugins.adapters().get(dialect) if dialect else None
    return adapter.dialect.declaration(kind) if adapter is not None and adapter.dialect is not None else None


def is_counter(kind: str, role: str) -> bool:
    """Whether a role counts something that no function depends on."""
    return ROLES[kind].get(role) == ""


def lack_of(layer: Layer, role: str) -> Lack | None:
    """What a layer itself says of a role that it has no place for."""
    return next((lack for lack in layer.lacks if any(fnmatchcase(role, name) for name in lack.roles)), None)


def _all_parts(piece: Piece) -> tuple[str, ...]:
    """Every part of the native array: more than the layer's own where layers are stacked in it."""
    return tuple(".".join(names) for names in itertools.product(*parts_of(piece.axes)))


def axis_config(layer: Layer) -> dict[str, int]:
    """Config that names an axis: the sizes that shapes alone may not give."""
    return {name: value for name, value in layer.config.items() if isinstance(value, int) and name in _AXES}


_AXES = frozenset({"heads", "head_dim"})
