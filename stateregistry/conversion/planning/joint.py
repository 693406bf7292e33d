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
from stateregistry.alignment.model import worse
from stateregistry.conversion.planning import spectral
from stateregistry.conversion.planning.plan import Condition, Feed, Grade, Move
from stateregistry.conversion.planning.wrapped import crossed
from stateregistry.layers.axes import parts_of
from stateregistry.layers.vocabulary import ROLES, Declaration, Lack, Layer, Limit, Piece

if TYPE_CHECKING:
    from stateregistry.conversion.pairing.pairs import LayerPair
    from stateregistry.conversion.rules.rules import Rules
    from stateregistry.conversion.side import Side

_COUNTER = "starts at 0: the source has no such counter"


@final
@dataclass(slots=True)
class Want:
    """What one target array is to be made of.

    Attributes:
        key, axes: the array. feeds: where its parts come from. zeros: parts that are zero. absent: parts that nothing gives.
        summed: some part is a sum. chosen: why the result could have been another, empty for none.
        evidence, grade, doubt: of the pairing. whole: the grade is not of the layout alone, and is one of vectors too.
        formula, iteration, anchors: as of a move.
        recast: why one side declares it as another kind, empty where both declare it alike.
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
    whole: bool = False
    formula: spectral.Formula = ""
    iteration: spectral.Iteration = field(default_factory=spectral.Iteration)
    anchors: tuple[str, ...] = ()
    recast: str = ""

    def add_to(self, other: Want) -> None:
        """Put what another layer wants of the same array with what is wanted already."""
        if other is self:
            return
        if (self.formula, self.iteration) != (other.formula, other.iteration):
            other.absent += sorted({feed.into for feed in self.feeds} - set(other.absent))
            return  # one array whose parts are made in different ways
        given = {feed.into for feed in other.feeds}
        other.feeds += [feed for feed in self.feeds if feed.into not in given]
        other.zeros += [part for part in self.zeros if part not in other.zeros]
        other.absent = [part for part in other.absent if part in self.absent]
        other.summed |= self.summed
        other.chosen = other.chosen or self.chosen
        if worse(self.grade, other.grade) != other.grade:
            other.grade, other.doubt = self.grade, self.doubt
            other.whole |= self.whole

    def move(self) -> Move:
        """The move that gives it."""
        if not self.feeds:
            return Move("fill", self.key, cls="choice" if self.chosen else "exact", reason=self.chosen or "zero")
        reason = self.chosen
        if self.summed:
            reason = "a sum: the residual keeps the summands"
        reason = "; ".join(filter(None, (reason, self.recast)))
        return Move(
            "compute" if self.formula else "sum" if self.summed else "copy",
            self.key, tuple(self.feeds), "choice" if reason else "exact", reason, evidence=self.evidence, axes=self.axes,
            zeros=tuple(self.zeros), anchors=self.anchors, formula=self.formula, iteration=self.iteration,
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
        #: Roles that both sides have under spectral_norm.
        self._divided = tuple(
            role.removesuffix(spectral.ORIGINAL)
            for role in pair.target.roles
            if role.endswith(spectral.ORIGINAL) and self._has(role, role.removesuffix(spectral.ORIGINAL) + spectral.U)
        )

    def _has(self, *roles: str) -> bool:
        return all(role in self._holders for role in roles)

    def wants(self) -> Iterator[Want]:
        """Every array of the target's layer, with what gives its parts."""
        for piece in self.pair.target.pieces:
            if self._rules.holds_target(self.pair.target.key(piece)):
                self._displace(piece)
                continue
            want = Want(
                self.pair.target.key(piece), piece.axes, evidence=f"{self.pair.evidence}, role {piece.role}",
                grade=self.pair.grade, doubt=self.pair.reason, whole=self.pair.whole,
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
        if self._computed(want, role, into):
            return
        if role in self._holders:
            want.feeds.append(self._feed(role, into))
            want.anchors = want.anchors or self._kept_beside(role)
            want.recast = want.recast or self._recast(role)
        elif summands := [one for one in role.split("+") if one in self._holders]:
            want.feeds += [self._feed(one, into) for one in summands]
            want.summed |= len(summands) > 1
        elif (whole := self._sum_with(role)) is not None:
            want.chosen = "only the sum is there: the last summand takes it, the others are zero"
            if whole.split("+")[-1] == role:
                want.feeds.append(self._feed(whole, into))
                # Adding up again is not always the identity: -0.0 and 0.0 give 0.0.
                roles = self.pair.target.roles
                places = (roles[one] for one in whole.split("+") if one in roles)
                want.anchors = tuple(dict.fromkeys((*want.anchors, *places)))
            else:
                want.zeros.append(into)
                self._used.add(whole)
        elif self._is_zero(role):
            want.zeros.append(into)
            want.chosen = want.chosen or (_COUNTER if is_counter(self.pair.target.kind, role) else "")
        else:
            want.absent.append(into)

    def _recast(self, role: str) -> str:
        """Why a role is of another kind on one side, by the declaration of that side; empty for nothing."""
        mine = self._holders[role]
        its = next(piece for piece in self.pair.target.pieces if role in piece.parts)
        return "" if mine.kind is its.kind else its.kind_reason or mine.kind_reason

    # ---------------------------------------------------------------- spectral_norm

    def _iterations(self, role: str) -> tuple[spectral.Iteration, spectral.Iteration]:
        return spectral.Iteration.of(self.pair.source, role), spectral.Iteration.of(self.pair.target, role)

    def _around(self, role: str, into: str = "") -> tuple[Feed, ...]:
        """The original, u and, where it is stored, v of a role in the source, for a part of what is made of them."""
        endings = (spectral.ORIGINAL, spectral.U, spectral.V)
        held = [(role + end, self._holders[role + end]) for end in endings if role + end in self._holders]
        return tuple(Feed(self.pair.source.key(piece), piece.axes, piece.parts[name], into) for name, piece in held)

    def _computed(self, want: Want, role: str, into: str) -> bool:
        """Whether a role is computed from others, and if so what is wanted.

        Sigma is, where the source stores none; and u and v are as the source has them after its iteration, where it stores
        no v: then both divide by the same, whatever u has come to.
        """
        for base in self._divided:
            mine, its = self._iterations(base)
            whole = its.stored and not mine.stored
            formulas: dict[str, spectral.Formula] = {base + spectral.U: "u", base + spectral.V: "v"} if whole else {}
            if base + spectral.SIGMA not in self._holders:
                formulas[base + spectral.SIGMA] = "sigma"
            if role in formulas:
                want.formula, want.iteration, want.feeds = formulas[role], mine, list(self._around(base, into))
                want.chosen = f"computed: the source divides by {mine.divides}"
                if want.formula == "u":
                    self._used.add(role)
                    want.anchors = self._anchors_of(base)
                return True
        return False

    def _kept_beside(self, role: str) -> tuple[str, ...]:
        """What a u belongs to that is copied to a side without v: on the way back it is computed."""
        base = role.removesuffix(spectral.U)
        if base == role or base not in self._divided:
            return ()
        mine, its = self._iterations(base)
        return self._anchors_of(base) if mine.stored and not its.stored else ()

    def _anchors_of(self, base: str) -> tuple[str, ...]:
        names = [base + end for end in (spectral.ORIGINAL, spectral.U, spectral.V)]
        return tuple(self.pair.target.roles[name] for name in names if name in self.pair.target.roles)

    def conditions(self) -> Iterator[tuple[Condition, str]]:
        """What has to hold for both layers to compute the same, each with the target key whose record settles it."""
        for base in self._divided:
            mine, its = self._iterations(base)
            if its.stored and not mine.stored:
                its = spectral.Iteration(mine.steps + its.steps, its.eps)  # it goes on from where the source stops
            if (mine.steps, mine.stored) == (its.steps, its.stored):
                continue
            feeds = self._around(base)
            reason = "until then they are two functions; let the source iterate, in training, until u stays as it is"
            keys = tuple(feed.key for feed in feeds)
            yield (
                Condition("converged", keys, reason=reason, feeds=feeds, iterations=(mine, its)),
                self.pair.target.roles[base + spectral.U],
            )

    def crossed(self, source: Side, target: Side) -> str:
        """Why what a wrapper holds cannot be moved: it lies on other axes; empty for nothing."""
        return crossed(self.pair.source, source, self.pair.target, target)

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

    def anchors(self, role: str = "") -> list[str]:
        """The target arrays that a value without a place belongs to: the statistics, or else all of the layer's.

        Args:
            role: of the value; under spectral_norm it belongs to the wrapped array and its vectors alone.
        """
        base = next((base for base in self._divided if role in (base + spectral.V, base + spectral.SIGMA)), None)
        if base is not None:
            return list(self._anchors_of(base))
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
