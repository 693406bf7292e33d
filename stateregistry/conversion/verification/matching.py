"""Matching: which calls of two models are the same step, from the plan that pairs their layers.

Layers are paired by the moves between their entries. Calls of one layer are matched in their order, those of a shared layer
also by what they are given; a stack that one side runs in one call is matched with the calls that run it on the other. What
is called differently is left out and said. Compares inputs only; knows no framework.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

from stateregistry.conversion.verification.gaps import Gap, between, gap

if TYPE_CHECKING:
    from stateregistry.conversion.planning.plan import Plan
    from stateregistry.conversion.side import Side
    from stateregistry.layers.calls import Activation, Call, Observation
    from stateregistry.layers.vocabulary import Layer

#: Inputs that are zero where they are not given.
_ZERO = ("state", "cell")
_Place = tuple[str, str, str]  # kind, canonical key and part of one role


@final
@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """The calls of both sides that are one step: mostly one each.

    Attributes:
        layers: the paired layers that they run.
        here, there: the calls in `a` and in `b`.
        order: the place of the first of `here` among all calls of `a`.
        number, count: which of the steps of these layers it is, from 1, and how many there are.
    """

    layers: tuple[tuple[Layer, Layer], ...]
    here: tuple[Call, ...]
    there: tuple[Call, ...]
    order: int
    number: int = 1
    count: int = 1

    def inputs(self, tolerance: float) -> Gap | None:
        """The worst gap of the inputs; `None` where one of them could not be read."""
        return inputs_gap(self.here[0], self.there[0], tolerance)

    def output(self, tolerance: float) -> Gap | None:
        """The gap of the output; `None` where it could not be read."""
        one, two = self.here[-1].output, self.there[-1].output
        return None if one is None or two is None else between(one, two, tolerance)


@final
@dataclass(slots=True)
class Matched:
    """The steps, in the order in which `a` runs them, and what is not among them: layer of `a` or `b`, and why."""

    steps: list[Step] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def inputs_gap(here: Call, there: Call, tolerance: float) -> Gap | None:
    """The worst gap of the inputs of two calls; `None` where one of them could not be read, or is on one side only."""
    worst = Gap(0.0, 0.0)
    for name in dict.fromkeys((*here.inputs, *there.inputs)):
        one, two = here.inputs.get(name), there.inputs.get(name)
        if name in _ZERO and (name in here.inputs) != (name in there.inputs):
            given = one if one is not None else two
            if given is None:
                return None
            found = _against_zero(given)
        elif one is None or two is None:
            return None
        else:
            found = between(one, two, tolerance)
        worst = max(worst, found, key=lambda each: (each.share, each.scale))
    return worst


def _against_zero(given: Activation) -> Gap:
    return gap(given.array, given.array * 0, "an initial state that one side has and the other starts without")


# -------------------------------------------------------------------- layers


def paired(plan: Plan) -> tuple[tuple[Layer, Layer], ...]:
    """The layers of both sides between which the plan moves entries, each in one pair at most.

    Where entries of one layer go to several, or stacked layers share their arrays, the same path decides; else none is named.
    """
    homes = [_homes(side) for side in (plan.source, plan.target)]
    votes: Counter[tuple[int, int]] = Counter()
    for move in plan.moves:
        for feed in move.sources if move.target else ():
            for one, part in homes[0].get(feed.key, ()):
                for two, into in homes[1].get(move.target, ()):
                    alike = _alike(plan.source.layers[one], plan.target.layers[two])
                    if alike and _meets(feed.part, part) and _meets(feed.into, into):
                        votes[one, two] += 1
    most: Counter[int] = Counter()
    for (one, _), number in votes.items():
        most[one] = max(most[one], number)
    best: dict[int, list[int]] = {}
    for (one, two), number in votes.items():
        if number == most[one]:
            best.setdefault(one, []).append(two)
    chosen = {one: _one_of(plan, one, several) for one, several in best.items()}
    claims: dict[int, list[int]] = {}
    for one, mate in chosen.items():
        if mate is not None:
            claims.setdefault(mate, []).append(one)
    found = []
    for two, several in claims.items():
        path = plan.target.layers[two].path
        named = [one for one in several if _renamed(plan, plan.source.layers[one].path) == path] or several[:1]
        found.append((named[0], two))
    return tuple((plan.source.layers[one], plan.target.layers[two]) for one, two in sorted(found))


def _homes(side: Side) -> dict[str, list[tuple[int, str]]]:
    """The layers that have an entry, by canonical key, each with the part of the array that is its own."""
    found: dict[str, list[tuple[int, str]]] = {}
    for number, layer in enumerate(side.layers):
        for piece in layer.pieces:
            key = side.canonical(layer.key(piece))
            for part in piece.parts.values() if key is not None else ():
                found.setdefault(str(key), []).append((number, part))
    return found


def _alike(one: Layer, two: Layer) -> bool:
    """Whether two layers are of one kind; of one that was inferred, the plan may have settled another."""
    return one.kind == two.kind or one.inferred or two.inferred


def _meets(moved: str, own: str) -> bool:
    """Whether a part that is moved is one that a layer has; the whole has every part."""
    return not moved or not own or moved == own


def _one_of(plan: Plan, one: int, several: Sequence[int]) -> int | None:
    if len(several) == 1:
        return several[0]
    path = _renamed(plan, plan.source.layers[one].path)
    return next((two for two in several if plan.target.layers[two].path == path), None)


def _renamed(plan: Plan, path: str) -> str:
    new = plan.rules.rename(path)
    return path if new is None else new


def _place(layer: Layer, side: Side) -> frozenset[_Place]:
    """What a layer is made of: the same for every path of a shared module."""
    return frozenset(
        (layer.kind, side.canonical(layer.key(piece)) or "", part)
        for piece in layer.pieces
        for part in piece.parts.values()
    )


@final
class _Groups:
    """Which pair, or which pairs that cannot be told apart, a path belongs to."""

    def __init__(self, plan: Plan, pairs: Sequence[tuple[Layer, Layer]]) -> None:
        self.pairs = pairs
        self._parent = list(range(len(pairs)))
        self._of: tuple[dict[str, int], dict[str, int]] = ({}, {})
        for which, side in enumerate((plan.source, plan.target)):
            places: dict[frozenset[_Place], int] = {}
            for number, pair in enumerate(pairs):
                first = places.setdefault(_place(pair[which], side), number)
                self._join(first, number)
            for layer in side.layers:
                number = places.get(_place(layer, side), -1)
                if number >= 0:
                    self._of[which][layer.path] = number

    def _join(self, one: int, two: int) -> None:
        self._parent[self._root(two)] = self._root(one)

    def _root(self, number: int) -> int:
        while self._parent[number] != number:
            number = self._parent[number]
        return number

    def of(self, which: int, path: str) -> int | None:
        """The group of a layer of `a` (0) or `b` (1)."""
        number = self._of[which].get(path)
        return None if number is None else self._root(number)

    def members(self, group: int) -> tuple[tuple[Layer, Layer], ...]:
        """The pairs of a group."""
        return tuple(pair for number, pair in enumerate(self.pairs) if self._root(number) == group)


# -------------------------------------------------------------------- calls

_Stages = tuple[frozenset[int], ...]


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Placed:
    """A call, its place among all calls of its side, and the groups that it runs."""

    call: Call
    order: int
    stages: _Stages


def match(plan: Plan, here: Observation, there: Observation, tolerance: float) -> Matched:
    """The steps of two runs."""
    pairs = paired(plan)
    groups = _Groups(plan, pairs)
    found = Matched()
    sides = (_placed(here, groups, 0, found), _placed(there, groups, 1, found))
    for cluster in _clusters(sides):
        steps = _aligned([[one for one in side if _inside(one, cluster)] for side in sides], tolerance)
        layers = tuple(pair for group in sorted(cluster) for pair in groups.members(group))
        if steps is None:
            counts = [sum(_inside(one, cluster) for one in side) for side in sides]
            reason = (
                f"called {_times(counts[0])} in a and {_times(counts[1])} in b, so that no call is known to be the same"
            )
            found.left_out.update(dict.fromkeys((pair[0].path for pair in layers), reason))
            continue
        for number, (ours, theirs) in enumerate(steps, start=1):
            ran = {group for one in ours for stage in one.stages for group in stage}
            mine = tuple(pair for group in sorted(ran) for pair in groups.members(group))
            calls = tuple(one.call for one in ours), tuple(one.call for one in theirs)
            found.steps.append(Step(_named(mine, *calls), *calls, ours[0].order, number, len(steps)))
    found.steps.sort(key=lambda step: step.order)
    return found


def _times(count: int) -> str:
    return {0: "not at all", 1: "once"}.get(count, f"{count} times")


def _named(
    layers: tuple[tuple[Layer, Layer], ...], here: Iterable[Call], there: Iterable[Call]
) -> tuple[tuple[Layer, Layer], ...]:
    """Of pairs that cannot be told apart by their entries, those whose own paths were called."""
    paths = [{path for call in calls for stage in call.layers for path in stage} for calls in (here, there)]
    own = tuple(pair for pair in layers if pair[0].path in paths[0] and pair[1].path in paths[1])
    return own or layers


def _placed(seen: Observation, groups: _Groups, which: int, found: Matched) -> list[_Placed]:
    placed = []
    for order, call in enumerate(seen.calls):
        stages = tuple(tuple(groups.of(which, path) for path in stage) for stage in call.layers)
        lost = [path for stage in call.layers for path in stage if groups.of(which, path) is None]
        if lost:
            found.left_out.update(dict.fromkeys(lost, f"a layer of {'ab'[which]} that the plan pairs with none"))
            continue
        known = tuple(frozenset(group for group in stage if group is not None) for stage in stages)
        placed.append(_Placed(call, order, known))
    return placed


def _inside(one: _Placed, cluster: frozenset[int]) -> bool:
    return any(group in cluster for stage in one.stages for group in stage)


def _clusters(sides: tuple[list[_Placed], list[_Placed]]) -> Iterator[frozenset[int]]:
    """Groups that some call runs together, each with all the others that it is run with."""
    clusters: list[frozenset[int]] = []
    for one in (*sides[0], *sides[1]):
        mine = frozenset(group for stage in one.stages for group in stage)
        touched = [cluster for cluster in clusters if cluster & mine]
        clusters = [cluster for cluster in clusters if not cluster & mine]
        clusters.append(mine.union(*touched))
    yield from clusters


_Pair = tuple[tuple[_Placed, ...], tuple[_Placed, ...]]


def _aligned(sides: Sequence[Sequence[_Placed]], tolerance: float) -> list[_Pair] | None:
    """The calls of a cluster, step by step: those for a whole sequence if both sides have them, else those for each of it."""
    depths = [sorted({one.call.depth for one in side}) for side in sides]
    ways = sorted(((one, two) for one in depths[0] for two in depths[1]), key=lambda way: (sum(way), way))
    for one, two in ways:
        ours = [each for each in sides[0] if each.call.depth == one]
        theirs = [each for each in sides[1] if each.call.depth == two]
        steps = _merged(ours, theirs)
        if steps is not None:
            return _by_inputs(steps, tolerance)
    return None


def _merged(ours: Sequence[_Placed], theirs: Sequence[_Placed]) -> list[_Pair] | None:
    """The calls in order, as many of one side together as run what one call of the other does; `None` if that fails."""
    steps: list[_Pair] = []
    left, right = list(ours), list(theirs)
    while left and right:
        one, two = [left.pop(0)], [right.pop(0)]
        while (mine := _stages(one)) != (its := _stages(two)):
            shorter, rest = (one, left) if len(mine) < len(its) else (two, right)
            if len(mine) == len(its) or not rest:
                return None
            shorter.append(rest.pop(0))
        steps.append((tuple(one), tuple(two)))
    return steps if not left and not right else None


def _stages(calls: Sequence[_Placed]) -> _Stages:
    return tuple(stage for one in calls for stage in one.stages)


def _by_inputs(steps: list[_Pair], tolerance: float) -> list[_Pair]:
    """Calls of `b` in another order than those of `a` where what they are given says so: parallel branches."""
    if len(steps) < 2 or len({_stages(ours) for ours, _ in steps}) > 1:
        return steps
    rest = [theirs for _, theirs in steps]
    found: list[_Pair] = []
    for ours, own in steps:
        fits = [theirs for theirs in rest if _agrees(ours, theirs, tolerance)]
        if not fits:
            found.append((ours, ()))
            continue
        taken = own if own in fits else fits[0]
        rest.remove(taken)
        found.append((ours, taken))
    return [(ours, theirs or rest.pop(0)) for ours, theirs in found]


def _agrees(ours: tuple[_Placed, ...], theirs: tuple[_Placed, ...], tolerance: float) -> bool:
    found = inputs_gap(ours[0].call, theirs[0].call, tolerance)
    return found is not None and found.share <= tolerance


__all__ = ["Matched", "Step", "inputs_gap", "match", "paired"]
