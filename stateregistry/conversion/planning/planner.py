"""The planner: from two sides and what the user allows to a plan that accounts for every entry of both.

Aligns, derives a move for every pair, gives every entry that was left a move or a problem, and then asks of every move
that is not exact, and of every pairing that is not certain, whether the caller accepted it by name. Reads no values.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING

from stateregistry.conversion.pairing import doubts
from stateregistry.conversion.pairing.align import align
from stateregistry.conversion.pairing.pairs import EntryPair, LayerPair
from stateregistry.conversion.pairing.undeclared import Undeclared
from stateregistry.conversion.planning import casts, findings, misfits, training
from stateregistry.conversion.planning.joint import Joint, Want, axis_config
from stateregistry.conversion.planning.plan import ALLOW, Condition, Feed, Finding, Move, Plan, PlanProblem
from stateregistry.conversion.planning.spectral import placed
from stateregistry.conversion.rules.patterns import covers
from stateregistry.conversion.rules.prepare import prepared, reordered, unused_orders
from stateregistry.conversion.rules.rules import Rules
from stateregistry.entry import Entry
from stateregistry.errors import AxesError, PlanError
from stateregistry.layers import axes
from stateregistry.layers.vocabulary import Piece, a_kind

if TYPE_CHECKING:
    from stateregistry.conversion.residual import Residual
    from stateregistry.conversion.side import Side


def make(
    source: Side,
    target: Side,
    *,
    rules: Rules | None = None,
    allow: Collection[str] = (),
    dtype: str | None = None,
    residual: Residual | None = None,
    problems: Collection[PlanProblem] = (),
) -> Plan:
    """The plan from one side to another.

    Raises:
        PlanError: a name in `allow` is not one of `ALLOW`, or it is no collection of names.
    """
    if isinstance(allow, str) or not isinstance(allow, Collection):
        hint = f"write allow=({allow!r},)" if isinstance(allow, str) else "write allow=() for none"
        raise PlanError(f"allow= takes a collection of names, not {allow!r}", plan=None, hint=hint)
    unknown = sorted(set(allow) - set(ALLOW))
    if unknown:
        names = ", ".join(f"{name!r} ({what})" for name, what in ALLOW.items())
        raise PlanError(f"allow= has no name {unknown[0]!r}", plan=None, hint=f"it takes {names}")
    if source.training is not None or target.training is not None:
        return training.continued(source, target, rules or Rules(), allow, dtype, make)
    ready = prepared(source, target, rules or Rules())
    planner = _Planner(ready.source, ready.target or target, ready.rules, dtype, residual)
    planner.problems += dict.fromkeys((*problems, *ready.problems))
    refused = {key for problem in problems for key in problem.keys}
    for layer in source.layers:
        if layer.path in refused:  # a derived side has no such layer, and its problem says why
            planner.explained.update(source.canonical(key) or key for key in layer.roles.values())
    planner.run()
    return Plan(
        source=source,
        target=target,
        moves=tuple(planner.moves),
        problems=tuple(planner.unaccepted(frozenset(allow))),
        conditions=tuple(dict.fromkeys(planner.conditions)),
        findings=tuple(planner.findings),
        rules=rules or Rules(),
        allow=tuple(sorted(set(allow))),
        dtype=dtype,
        residual=residual,
    )


class _Planner:
    """The state of one planning: what was decided so far."""

    def __init__(self, source: Side, target: Side, rules: Rules, dtype: str | None, residual: Residual | None) -> None:
        self.source, self.target, self.rules = source, target, rules
        self.dtype, self.residual = dtype, residual
        self.moves: list[Move] = []
        self.problems: list[PlanProblem] = []
        self.conditions: list[Condition] = []
        self.findings: list[Finding] = []
        self.used: set[str] = set()  # canonical source keys that a move carries
        self.given: dict[str, Move] = {}  # canonical target key -> the copy that gives it
        self.wanted: dict[str, Want] = {}  # what paired layers want, by target key
        self.sizes: dict[str, dict[str, int]] = {}
        self.misfits: list[misfits.Misfit] = []
        self.displaced: set[str] = set()  # canonical source keys whose place a rule keeps or fills
        self.explained: set[str] = set()  # canonical source keys, and
        self.accounted: set[str] = set()  # canonical target keys that a problem speaks of already
        self.gone: set[str] = set()  # canonical source keys that have a drop
        self.undeclared = Undeclared(source, target, rules)
        self.hollow: dict[str, None] = {}  # source keys that hold no values, in the order in which moves read them
        self.left_over: set[Move] = set()  # moves that stand for a missing or unexpected problem
        self.recast: set[str] = set()  # canonical target keys that one side declares as another kind, and says why

    def run(self) -> None:
        alignment = align(self.source, self.target, self.rules)
        self.problems += alignment.problems
        self.explained |= {self.source.canonical(name) or name for name in alignment.explained[0]}
        self.accounted |= {self.target.canonical(name) or name for name in alignment.explained[1]}
        for pair in alignment.layers:
            if alone := self.undeclared.as_bare(pair):
                alignment.entries += alone
            else:
                self._layer(pair)
        self._feed_wanted()
        if self.source.dialect and self.source.dialect == self.target.dialect:
            self._compare_layers_by_path()
            alignment.entries = doubts.laid_out(alignment.entries, self.source, self.target)
        for entry_pair in alignment.entries:
            self._entry(entry_pair)
        self.findings += findings.activations(
            self.source.activations, self.target.activations, self.rules.rename, self.target.dialect
        )
        self.problems += misfits.told(self.misfits)
        self._mark_splits()
        self._rest_of_target()
        self._rest_of_source()
        self.problems = misfits.gathered(self.problems)
        self._say_abstract()
        paths = (*(layer.path for layer in self.source.layers), *alignment.paths)
        dead = self.rules.unused((*self.source.names, *self.source.opaque, *paths), self.target.names)
        seen = (
            (pair.source, pair.target) for pair in alignment.layers
        )  # some are made only where both sides are known
        here, there = zip(*seen, strict=True) if alignment.layers else ((), ())
        orders = unused_orders(self.rules, (*self.source.layers, *here), (*self.target.layers, *there))
        for text in (*dead, *orders):
            self.problems.append(PlanProblem("rule", (), f"{text} matches nothing", "mend or delete the rule"))
        order = {key: number for number, key in enumerate(self.target.entries)}
        self.moves.sort(key=lambda move: order.get(move.target, len(order)))
        places = {layer.path: number for number, layer in enumerate(self.target.layers)}
        self.findings.sort(key=lambda finding: places.get(finding.path, len(places)))

    def _say_abstract(self) -> None:
        """A source without values is planned like any other, and said once."""
        keys = tuple(self.hollow)
        if keys:
            shown = keys if len(keys) == 1 else (keys[0], "...", keys[-1])
            many = f"{len(keys)} entries of the source hold" if len(keys) > 1 else "an entry of the source holds"
            text = f"{many} no values: this plan can be read, and not executed"
            self.problems.append(PlanProblem("abstract", shown, text, "plan with a concrete source to execute"))

    # ---------------------------------------------------------------- pairs

    def _layer(self, pair: LayerPair) -> None:
        pair = reordered(pair, self.rules, self.problems.append)
        sizes = {name: value for layer in (pair.source, pair.target) for name, value in axis_config(layer).items()}
        pair = self._untyped(doubts.doubted(pair, self.source, self.target, self.rules))
        if self._refused(pair):
            return
        joint = Joint(pair, self.source, self.target, self.rules)
        limit = joint.limit()
        reason = limit.reason if limit is not None else joint.crossed(self.source, self.target)
        if reason:
            self._impossible(pair, reason)
            return
        for condition, record in joint.conditions():
            self._condition(condition, record)
        for want in joint.wants():
            if want.recast:
                self.recast.add(self.target.canonical(want.key) or want.key)
            want.add_to(self.wanted.setdefault(want.key, want))
            self.sizes.setdefault(want.key, {}).update(sizes)
        self.displaced.update(key for name in joint.displaced if (key := self.source.canonical(name)) is not None)
        for role, piece in joint.left_over():
            self._no_place(role, piece, joint)
        self.findings += findings.compare(pair.source, pair.target, self.target.dialect)

    def _untyped(self, pair: LayerPair) -> LayerPair:
        """The pair, as an assumption where a live module computes in a way that nobody declared: shapes do not say what."""
        layers = pair.source, pair.target
        if pair.grade != "certain" or any(covers(rule.path, one.path) for rule in self.rules.layers for one in layers):
            return pair
        layer = self.undeclared.open_layer(pair)
        if layer is None:
            return pair
        where = layer.path or "(the model)"
        text = f"{where}: names and shapes are those of {a_kind(layer.kind)}, and no type says that it is one"
        return replace(pair, grade="assumption", reason=text, whole=True)

    def _refused(self, pair: LayerPair) -> bool:
        """Whether the config of a pair contradicts its arrays; a problem then."""
        text = doubts.contradiction(pair, self.source, self.target)
        if text:
            where = (pair.source.path or "(the model)", pair.target.path or "(the model)")
            hint = "make both with the config that the state was trained with"
            self.problems.append(PlanProblem("axes", where, text, hint))
            self.explained |= {self.source.canonical(key) or key for key in pair.source.roles.values()}
            self.accounted |= {self.target.canonical(key) or key for key in pair.target.roles.values()}
        return bool(text)

    def _impossible(self, pair: LayerPair, reason: str) -> None:
        """A layer that the target's framework cannot have: nothing of it is carried, and the problem says why."""
        for key in dict.fromkeys(pair.target.roles.values()):
            other = self.target.canonical(key)
            if other is not None:
                self.given.setdefault(other, Move("keep", target=other))
        for key in dict.fromkeys(pair.source.roles.values()):
            mine = self.source.canonical(key)
            if mine is not None and mine not in self.used:
                self.used.add(mine)
                self.moves.append(Move("drop", "", (Feed(mine),), "impossible", reason))

    def _condition(self, condition: Condition, key: str) -> None:
        """Take a condition of a layer; a record for the target key, while it is fresh, makes it needless."""
        feeds = tuple(replace(feed, key=self.source.canonical(feed.key) or feed.key) for feed in condition.feeds)
        name = self.target.canonical(key)
        settled = name is not None and self._recorded(name, self.target.entries[name])
        unless = (name,) if name is not None and settled else ()
        if all(feed.key in self.source.entries for feed in feeds):
            self.conditions.append(replace(condition, keys=tuple(f.key for f in feeds), feeds=feeds, unless=unless))

    def _feed_wanted(self) -> None:
        """Turn what the layers want, array by array, into moves: stacked layers share one array."""
        for key, want in self.wanted.items():
            if want.absent:
                continue  # nothing gives all of it: it is among the rest of the target
            move = want.move()
            if want.whole or len(axes.parse(want.axes)) > 1:  # a vector has one layout, whatever the layer is
                move = replace(move, grade=want.grade, reason="; ".join(filter(None, (want.doubt, move.reason))))
            self._copy(move, self.sizes[key])

    def _entry(self, pair: EntryPair) -> None:
        key = self.source.canonical(pair.source)
        if self.rules.drops_source(pair.source):
            return
        if self.rules.holds_target(pair.target):
            self.displaced.update((key,) if key is not None else ())
            return
        if pair.grade == "assumption" and self.undeclared.are_bare(pair.source, pair.target):
            pair = replace(pair, grade="certain", reason="", evidence="a parameter of its own on both sides")
        feeds = tuple(Feed(pair.source, pair.source_axes, part, part) for part in _parts(pair))
        crossing = doubts.crossing(pair, self.source, self.target)
        if crossing:
            self.recast.add(self.target.canonical(pair.target) or pair.target)
        move = Move(
            "copy",
            pair.target,
            feeds,
            cls="choice" if crossing else "exact",
            evidence=pair.evidence,
            grade=pair.grade,
            reason=pair.reason or crossing,
            axes=pair.target_axes,
        )
        self._copy(move, {})

    def _copy(self, wanted: Move, sizes: dict[str, int]) -> None:
        """Take a copy into the plan, under canonical keys, if it fits; say what does not."""
        other = self.target.canonical(wanted.target)
        feeds = [
            replace(feed, key=key) for feed in wanted.sources if (key := self.source.canonical(feed.key)) is not None
        ]
        if other is None or len(feeds) != len(wanted.sources):
            return
        want, have = self.target.entries[other], [self.source.entries[feed.key] for feed in feeds]
        if not all(_converts(entry) for entry in (want, *have)):
            return  # left out, and accounted for with the rest of each side
        self.used.update(feed.key for feed in feeds)
        anchors = tuple(self.target.canonical(name) or name for name in wanted.anchors)
        move = self._kept(replace(wanted, target=other, sources=tuple(feeds), anchors=anchors), want)
        first = self.given.get(other)
        if move.op == "fill":
            if first is None:
                self.given[other] = move
                self.moves.append(move)
            return
        if not self._fits(move, have, want, sizes):
            self.given.setdefault(other, Move("keep", target=other))  # accounted for by the problem
        elif first is None and move.op == "compute":  # of the dtype that its place has
            self.given[other] = move
            self.moves.append(move)
        elif first is None:
            self._take(move, have, want)
        elif first.op in ("copy", "sum") and first.sources != move.sources:
            self._merge(first, move)

    def _take(self, move: Move, have: list[Entry], want: Entry) -> None:
        for feed, entry in zip(move.sources, have, strict=True):
            cast = casts.plan_cast(feed.key, move.target, entry.dtype, want.dtype, self.dtype)
            if cast.problem is not None:
                self.problems.append(cast.problem)
                self.given[move.target] = Move("keep", target=move.target)
                return
            self.conditions += cast.conditions
            move = casts.applied(move, cast)
        self.given[move.target] = move
        self.moves.append(move)

    def _merge(self, first: Move, move: Move) -> None:
        """Two source places for one target place: possible where both hold the same bits and move alike."""
        if not move.axes and [feed.key for feed in first.sources] == [feed.key for feed in move.sources]:
            return  # an alias of what is moved already; the layer says how
        if not (_is_plain(first) and _is_plain(move)):
            text = "both go to one place, in different ways"
            self.problems.append(PlanProblem("conflict", (*first.keys[:-1], *move.keys), text))
            return
        keys = (first.sources[0].key, move.sources[0].key)
        if _signature(first, self.source, self.target) == _signature(move, self.source, self.target):
            if keys[0] != keys[1]:
                self.conditions.append(Condition("equal", keys))
            return
        patterns = tuple((each.sources[0].axes, each.axes) for each in (first, move))
        self.conditions.append(Condition("equal", keys, patterns=patterns, target=move.target))

    def _fits(self, move: Move, have: list[Entry], want: Entry, sizes: dict[str, int]) -> bool:
        before = len(self.problems), len(self.misfits)
        if move.laid_out:
            try:
                if move.op == "compute":
                    placed(move.formula, move.sources, [entry.shape for entry in have], move.axes, want.shape)
                else:
                    axes.assemble(
                        [axes.Feed(f.axes, e.shape, f.part, f.into) for f, e in zip(move.sources, have, strict=True)],
                        move.axes, want.shape, sizes, move.zeros,
                    )  # fmt: skip
            except AxesError as error:
                shapes = " and ".join(str(entry.shape) for entry in have)
                text = f"shape {shapes} cannot become {want.shape}: {error.message}"
                self._misfit(move, have, want, PlanProblem("shape", move.keys, text))
        elif have[0].shape != want.shape:
            text = f"shape {have[0].shape} in the source, {want.shape} in the target"
            hint = "if the axes are in another order, say so with a [[layout]] rule"
            self._misfit(move, have, want, self.undeclared.explained(PlanProblem("shape", move.keys, text, hint)))
        for feed, entry in zip(move.sources, have, strict=True):
            keys = (feed.key, move.target)
            declared = move.op != "compute" and move.target not in self.recast
            if entry.kind is not want.kind and declared and not entry.inferred and not want.inferred:
                text = f"a {entry.kind.value} in the source, a {want.kind.value} in the target"
                self.problems.append(PlanProblem("kind", keys, text))
            if not entry.concrete:
                self.hollow[feed.key] = None
        return (len(self.problems), len(self.misfits)) == before

    def _misfit(self, move: Move, have: list[Entry], want: Entry, problem: PlanProblem) -> None:
        self.misfits.append(misfits.misfit(move, [entry.shape for entry in have], want.shape, problem))

    def _compare_layers_by_path(self) -> None:
        """Within one dialect entries pair by key, and layers are only asked for their config."""
        there = {layer.path: layer for layer in self.target.layers}
        for layer in self.source.layers:
            new = self.rules.rename(layer.path)
            other = there.get(layer.path if new is None else new)
            if other is not None:
                self.findings += findings.compare(layer, other, self.target.dialect)
        self.findings += findings.untold(self.source, self.target, self.rules.rename)

    # ---------------------------------------------------------------- what one side does not have

    def _no_place(self, role: str, piece: Piece, joint: Joint) -> None:
        """A role of the source that the target's layer has no place for: what that means, its declaration says."""
        key = self.source.canonical(joint.pair.source.key(piece))
        lack = joint.target_lack(role)
        if key is None or lack is None or not _converts(self.source.entries[key]):
            return  # unexpected, with the rest of the source
        partly = key in self.used
        self.used.add(key)
        if key in self.gone:
            return  # an alias of what is dropped already
        self.gone.add(key)
        if lack.kept:
            anchors = tuple(dict.fromkeys(self.target.canonical(name) or name for name in joint.anchors(role)))
            self.moves.append(Move("drop", "", (Feed(key),), "choice", lack.reason, residual=key, anchors=anchors))
        elif lack.zero:
            self.conditions.append(
                Condition("zero", (key,), axes=piece.axes, part=piece.parts[role], reason=lack.reason)
            )
            if not partly and len(piece.parts) == 1:
                self.moves.append(Move("drop", "", (Feed(key),), reason="zero, or the conversion is refused"))
        else:
            self.moves.append(Move("drop", "", (Feed(key),), "impossible", lack.reason))

    def _kept(self, move: Move, want: Entry) -> Move:
        """The move, exact where a residual kept what it would have to choose."""
        if (move.cls != "choice" and not move.anchors) or not self._recorded(move.target, want):
            return move
        reason = f"kept by the residual; once that is stale: {move.reason or 'a copy'}"
        return replace(move, cls="exact", residual=move.target, reason=reason)

    def _recorded(self, key: str, want: Entry) -> bool:
        """Whether the residual has a value for a target entry that fits it."""
        record = self.residual.records.get(key) if self.residual is not None else None
        return record is not None and (record.value.shape, record.value.dtype.name) == (want.shape, want.dtype)

    def _rest_of_target(self) -> None:
        for key, entry in self.target.entries.items():
            if key in self.given:
                continue
            fill = next((rule for rule in self.rules.fills if covers(rule.target, key)), None)
            if fill is not None:
                self.moves.append(Move("fill", key, value=fill.value, reason="a fill rule"))
                wrong = casts.cannot_hold(fill.value, entry.dtype)
                if wrong:
                    self.problems.append(PlanProblem("rule", (key,), f"the fill rule's {fill.value!r} {wrong}"))
            elif any(covers(text, key) for text in self.rules.keeps):
                self.moves.append(Move("keep", key, reason="a keep rule"))
            elif not entry.persistent:
                self.moves.append(Move("keep", key, reason="not persistent"))
            elif entry.rng:
                self.moves.append(Move("keep", key, reason="random number state is not converted"))
            elif key in self.accounted:
                self.moves.append(Move("keep", key, reason="its layer has a problem"))
            elif self._recorded(key, entry):
                reason = "kept by the residual; the target's own value once that is stale"
                self.moves.append(Move("keep", key, residual=key, reason=reason))
            else:
                self._left(Move("keep", key, cls="lossy", reason="nothing in the source is its value"))
                hint = "name its source with a rule, or allow 'missing' to keep what it holds"
                problem = PlanProblem("missing", (key,), f"no source for the {entry}", hint)
                self.problems.append(self.undeclared.explained(problem))

    def _rest_of_source(self) -> None:
        for key, entry in self.source.entries.items():
            if key in self.used:
                continue
            if self.rules.drops_source(key):
                self.moves.append(Move("drop", sources=(Feed(key),), reason="a drop rule"))
            elif key in self.displaced:
                reason = "its place is kept or filled by a rule"
                self.moves.append(Move("drop", sources=(Feed(key),), reason=reason))
            elif not entry.persistent:
                self.moves.append(Move("drop", sources=(Feed(key),), reason="not persistent"))
            elif entry.rng:
                self.moves.append(Move("drop", sources=(Feed(key),), reason="random number state is not converted"))
            elif key in self.explained:
                self.moves.append(Move("drop", sources=(Feed(key),), reason="its layer has a problem"))
            else:
                self._left(Move("drop", sources=(Feed(key),), cls="lossy", reason="the target has no place for it"))
                hint = "name its place with a rule, or allow 'unexpected' to leave it out"
                told = "; ".join(filter(None, (f"no place for the {entry}", doubts.computed_from(key, self.source))))
                problem = PlanProblem("unexpected", (key,), told, hint)
                self.problems.append(self.undeclared.explained(problem))
        for key, reason in self.source.opaque.items():
            if not self.rules.drops_source(key):
                hint = "leave it out with a [[drop]] rule or allow 'unexpected'"
                self.problems.append(
                    PlanProblem("opaque", (key,), f"registered state that is no array ({reason})", hint)
                )

    def _left(self, move: Move) -> None:
        self.moves.append(move)
        self.left_over.add(move)

    # ---------------------------------------------------------------- acceptance

    def unaccepted(self, allow: frozenset[str]) -> list[PlanProblem]:
        """Every problem that is left, with one for each move and pairing that the caller has not accepted."""
        left = [p for p in self.problems if ("unexpected" if p.problem == "opaque" else p.problem) not in allow]
        for move in self.moves:
            keys = move.keys
            asked = move.cls == "lossy" and move.cast  # dtype= asked for it
            if move.cls != "exact" and move.cls not in allow and not asked and not self._listed(move):
                hint = f"accept it with allow=({move.cls!r},)" if move.cls != "impossible" else ""
                left.append(PlanProblem(move.cls, keys, move.reason, hint))
            if move.grade == "assumption" and "assumption" not in allow:
                hint = "give the model (like=), a [[layer]] or [[layout]] rule, or accept it with allow=('assumption',)"
                problem = PlanProblem("assumption", keys, move.reason, hint)
                left.append(self.undeclared.explained(problem))
        return left

    def _listed(self, move: Move) -> bool:
        """Whether a missing or unexpected entry is among the problems already, or was allowed as such."""
        return move in self.left_over

    def _mark_splits(self) -> None:
        """One place of the source that becomes several of the target: the tie is lost, which must be wanted."""
        targets: dict[tuple[str, str], list[int]] = {}
        for number, move in enumerate(self.moves):
            for feed in move.sources if move.target and move.op != "compute" else ():
                targets.setdefault((feed.key, feed.part), []).append(number)
        for (key, _), numbers in targets.items():
            for number in numbers if len(numbers) > 1 else ():
                move = self.moves[number]
                if move.cls == "exact":
                    reason = f"the place {key!r} becomes {len(numbers)} that are not tied"
                    joined = "; ".join(filter(None, (move.reason, reason)))
                    self.moves[number] = replace(move, cls="choice", reason=joined)


def _parts(pair: EntryPair) -> tuple[str, ...]:
    """The parts that both sides divide an array into, each fed to itself; the whole where they do not divide alike."""
    left, right = (axes.parts_of(pattern) if pattern else () for pattern in (pair.source_axes, pair.target_axes))
    if len(left) == len(right) == 1 and sorted(left[0]) == sorted(right[0]):
        return left[0]
    return ("",)


def _is_plain(move: Move) -> bool:
    """One whole array becomes another."""
    return len(move.sources) == 1 and not move.zeros and not move.sources[0].part and not move.sources[0].into


def _signature(move: Move, source: Side, target: Side) -> object:
    """What a move does to the axes; the same for every plain copy."""
    assembly = move.assembly(source, target)
    transform = assembly.transform if assembly is not None else None
    return transform.signature if transform is not None and not transform.is_identity else None


def _converts(entry: Entry) -> bool:
    """Random number state and what is not saved mean nothing on the other side (SR-CONV-008)."""
    return entry.persistent and not entry.rng
