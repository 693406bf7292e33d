"""Following: what the layers of the source were given tells which layers of the target they are, one place after the other.

Both models run watched, the target with what is decided so far. A layer of the source goes to a layer of the target that is
given the same; of several that are given the same (query, key and value) the order is taken under which most of what comes
after agrees. Each place is decided on its own, so that work grows with the layers and not with their combinations. The answers
are proposals: outputs decide. Knows no framework: adapters watch.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np

from stateregistry import plugins
from stateregistry.alignment.colours import Colour, colour_of
from stateregistry.conversion.rules.rules import Rename, Rules
from stateregistry.conversion.verification import gaps
from stateregistry.conversion.verification.matching import inputs_gap, paired
from stateregistry.errors import AmbiguousAlignment

if TYPE_CHECKING:
    from stateregistry.conversion.planning.plan import Plan
    from stateregistry.conversion.side import Side
    from stateregistry.layers.calls import Call
    from stateregistry.registry import StateRegistry

#: Orders of layers that are given the same that are tried: those of four.
_ORDERS: Final = 24
#: Pairs of candidates of which each is tried on its own.
_PAIRS: Final = 36
#: Runs of the target, beside these for each layer of the source.
RUNS: Final = 64
_EACH: Final = 8
#: Where an order that is not taken comes this many times as near as it may, neither is.
_CLEAR: Final = 10.0

#: So often the answers of one block are tried for all others and are wrong, before that is left.
_MISSES: Final = 2
_NUMBER: Final = re.compile(r"\d+")

#: The first call of every layer, and the outputs.
_Seen = tuple[Mapping[str, "Call"], Any]

#: Runs the target with some values and says what its layers were given, and the outputs.
Run = Callable[["Plan"], tuple[Sequence["Call"], Any] | None]


@final
@dataclass(frozen=True, slots=True)
class Followed:
    """What was found.

    Attributes:
        answers: the renames that say it. plan: that they make.
        tried: target paths of layers that are given the same: the outputs have to depend on them, or nothing told their order.
        tied: source paths of those of which more than one order is as good.
        runs: of the target.
    """

    answers: tuple[Rename, ...]
    plan: Plan
    tried: tuple[str, ...] = ()
    tied: frozenset[str] = frozenset()
    runs: int = 0


def watched(registry: StateRegistry, function: Callable[[], Any]) -> tuple[Sequence[Call], Any] | None:
    """The calls of the layers of a model while a function runs it, and what that gave; `None` where nothing can be seen.

    A function that fails is run once more by whoever asks, unwatched: it may fail only because somebody looks.
    """
    adapter = plugins.adapters().get(registry.adapter)
    if not isinstance(adapter, plugins.SupportsObservation) or not adapter.recognises(registry.unwrap()):
        return None
    for compiled in (False, True):
        try:
            with adapter.observe(registry, compiled=compiled) as seen:
                result = function()
        except Exception:  # noqa: BLE001, S112  # not hidden: unwatched, it is raised where candidates are tried
            continue
        return (seen.calls, result) if seen.calls else None
    return None


def follow(
    planned: Callable[[Rules], Plan],
    rules: Rules,
    first: Plan,
    seen: tuple[Sequence[Call], Any],
    run: Run,
    tolerance: float,
    *,
    alike: bool = True,
) -> Followed:
    """Answer as many questions of a plan as activations can.

    Args:
        planned: makes the plan of some rules. rules: of the caller. first: the plan of these.
        seen: what the layers of the source were given, and its outputs. run: runs the target with the values of a plan.
        tolerance: the share of their scale that activations may differ by.
        alike: the answers of one block are tried for all others at once.

    Raises:
        AmbiguousAlignment: two orders cannot be told apart clearly, or too many runs would be needed.
    """
    return _Follower(planned, rules, seen, run, tolerance, alike=alike).run(first)


@final
class _Follower:
    def __init__(
        self,
        planned: Callable[[Rules], Plan],
        rules: Rules,
        seen: tuple[Sequence[Call], Any],
        run: Run,
        tolerance: float,
        *,
        alike: bool,
    ) -> None:
        self._planned, self._rules, self._run, self._tolerance = planned, rules, run, tolerance
        self._here = _first_calls(seen[0])
        self._expected = seen[1]
        self._most = RUNS + _EACH * len(self._here)
        self._runs = 0
        self._misses = 0 if alike else _MISSES
        self._calls: Mapping[str, Call] = {}
        self._tried: list[str] = []
        self._tied: set[str] = set()

    def run(self, plan: Plan) -> Followed:
        """From a plan with questions to one with fewer."""
        answers: tuple[Rename, ...] = ()
        seen = None
        while any(problem.answers for problem in plan.problems):
            seen = seen or self._watch(plan)
            found, after = self._place(plan, answers, seen) if seen is not None else ((), None)
            if not found and seen is not None:
                found, after = self._onward(plan, answers)
            if not found:
                break
            alike = self._elsewhere(plan, answers, found)
            answers, seen = alike if alike is not None else ((*answers, *found), after)
            plan = self._answered(answers)
        return Followed(answers, plan, tuple(self._tried), frozenset(self._tied), self._runs)

    def _answered(self, answers: tuple[Rename, ...]) -> Plan:
        return self._planned(replace(self._rules, renames=(*self._rules.renames, *answers)))

    def _watch(self, plan: Plan) -> _Seen | None:
        self._runs += 1
        if self._runs > self._most:
            message = f"more than {self._most} runs of the target would be needed to tell its layers apart"
            raise AmbiguousAlignment(message, plan=plan, keys=(), hint="answer some with [[rename]] rules")
        seen = self._run(plan)
        return None if seen is None else (_first_calls(seen[0]), seen[1])

    def _elsewhere(
        self, plan: Plan, answers: tuple[Rename, ...], found: tuple[Rename, ...]
    ) -> tuple[tuple[Rename, ...], _Seen] | None:
        """The same answers for every block at once, if what the layers are given bears all of them out."""
        if self._misses >= _MISSES:
            return None
        mine, its = _open(plan, self._here, self._calls)
        more = [
            one
            for answer in found
            for one in _analogous(answer, mine, its)
            if one.source not in {other.source for other in found}
        ]
        if not more or len({one.target for one in more} | {one.target for one in found}) < len(more) + len(found):
            return None
        made = (*answers, *found, *more)
        seen = self._watch(self._answered(made))
        if seen is None or not all(
            one.target in seen[0] and self._same(self._here[one.source], seen[0][one.target]) for one in more
        ):
            self._misses += 1
            return None
        self._tried += [one.target for one in more]
        return made, seen

    def _place(self, plan: Plan, answers: tuple[Rename, ...], seen: _Seen) -> tuple[tuple[Rename, ...], _Seen | None]:
        """The answers of the next place, in the order of calls of the source, and what was seen with them if it was run."""
        calls = self._calls = seen[0]
        mine, its = _open(plan, self._here, calls)
        said = {one.source for one in answers}  # a part of a stacked array stays open until all of them are answered
        mine = {path: colour for path, colour in mine.items() if path not in said}
        found: list[Rename] = []
        taken: set[str] = set()
        for group, mates in self._groups(mine, its, calls):
            if taken & {*group, *mates}:
                continue
            if len(group) == len(mates) == 1:  # what is given the same, and nothing else is
                answer = Rename(group[0], mates[0])
                more = [answer, *_of_stack(answer, plan, mine, its)]
                found += more
                taken |= {path for one in more for path in (one.source, one.target)}
                continue
            if found:
                break  # decide the surest first: a run with them shows more
            if len(group) == len(mates) and math.factorial(len(mates)) <= _ORDERS:
                return self._order(group, mates, answers, lambda one: _of_stack(one, plan, mine, its))
        return tuple(found), None

    def _onward(self, plan: Plan, answers: tuple[Rename, ...]) -> tuple[tuple[Rename, ...], _Seen | None]:
        """The one answer after which more calls agree than after any other: of arrays that nobody calls, the first used.

        Nothing is taken where two answers are as good, or where one comes near.
        """
        before = self._score(plan)[0]
        for problem in plan.problems:
            if not problem.answers or len(problem.candidates) != len(problem.answers) or len(problem.answers) > _PAIRS:
                continue
            rows = []
            for says in problem.answers:
                made = (*answers, Rename(*says))
                score, near, seen = self._score(self._answered(made))
                rows.append((score, near, made[-1:], seen))
            best = max(rows, key=lambda row: row[0])
            others = [near for score, near, more, _ in rows if more is not best[2]]
            if best[0] > before and all(near < best[0] for near in others):
                self._tried.append(best[2][0].target)
                return best[2], best[3]
        return (), None

    def _groups(
        self, mine: Mapping[str, Colour], its: Mapping[str, Colour], calls: Mapping[str, Call]
    ) -> Iterator[tuple[list[str], list[str]]]:
        """Open layers of the source that are given the same, with those of the target that are given that too."""
        left = list(mine)
        while left:
            path = left[0]
            fits = [two for two in its if its[two] == mine[path] and self._same(self._here[path], calls[two])]
            group = [one for one in left if mine[one] == mine[path] and self._same(self._here[path], self._here[one])]
            left = [one for one in left if one not in group]
            if fits:
                yield group, fits

    def _same(self, one: Call, two: Call, factor: float = 1.0) -> bool:
        found = inputs_gap(one, two, self._tolerance)
        return found is not None and found.share <= factor * self._tolerance

    def _order(
        self,
        group: Sequence[str],
        mates: Sequence[str],
        answers: tuple[Rename, ...],
        others: Callable[[Rename], Sequence[Rename]],
    ) -> tuple[tuple[Rename, ...], _Seen | None]:
        """The order of some layers under which most of what comes after agrees; the first of those that are as good.

        `others`: what an answer says of other blocks by itself.
        """
        rows = []
        for order in itertools.permutations(mates):
            more = tuple(Rename(one, two) for one, two in zip(group, order, strict=True))
            more += tuple(one for answer in more for one in others(answer))
            plan = self._answered((*answers, *more))
            hard = [problem for problem in plan.problems if not problem.answers and problem.problem != "assumption"]
            if any(problem.problem in ("shape", "kind", "rule", "structure") for problem in hard):
                continue
            score, near, seen = self._score(plan)
            rows.append((score, near, more, seen))
        if not rows:
            return (), None
        best = max(row[0] for row in rows)
        if any(score < best <= near for score, near, _, _ in rows):
            message = (
                f"the layers {', '.join(group)} cannot be told apart clearly by what comes after them: see tolerance, which "
                f"is {self._tolerance:g}"
            )
            raise AmbiguousAlignment(message, plan=self._answered(answers), keys=tuple(group), hint="give other inputs")
        self._tried += mates
        good = [(more, seen) for score, _, more, seen in rows if score == best]
        if len(good) > 1:
            self._tied.update(group)
        return good[0]

    def _score(self, plan: Plan) -> tuple[int, int, _Seen | None]:
        """How many calls agree, how many would if it were not looked at closely, and what was seen."""
        seen = self._watch(plan)
        if seen is None:
            return 0, 0, None
        calls, result = seen
        mine, its = _open(plan, self._here, calls)
        known = {one.path: two.path for one, two in paired(plan)}
        counts = [0, 0]
        outputs = gaps.outputs(self._expected, result).share
        for place, factor in ((0, 1.0), (1, _CLEAR)):
            for path, call in self._here.items():
                if path in mine:
                    fits = any(its[two] == mine[path] and self._same(call, calls[two], factor) for two in its)
                else:
                    mate = calls.get(known.get(path, ""))
                    fits = mate is not None and self._same(call, mate, factor)
                counts[place] += fits
            counts[place] += outputs <= factor * self._tolerance
        return counts[0], counts[1], seen


def _analogous(answer: Rename, mine: Mapping[str, Colour], its: Mapping[str, Colour]) -> list[Rename]:
    """An answer for every open layer that is called as the one that it speaks of but for numbers, in the order of these."""

    def alike(path: str, colours: Mapping[str, Colour]) -> list[str]:
        shape, colour = _NUMBER.sub("#", path), colours.get(path)
        found = [other for other in colours if _NUMBER.sub("#", other) == shape and colours[other] == colour]
        return sorted(found, key=_numbers)

    one, two = alike(answer.source, mine), alike(answer.target, its)
    if len(one) != len(two) or answer.source not in one or one.index(answer.source) != two.index(answer.target):
        return []
    return [Rename(a, b) for a, b in zip(one, two, strict=True) if a != answer.source]


def _of_stack(answer: Rename, plan: Plan, mine: Mapping[str, Colour], its: Mapping[str, Colour]) -> list[Rename]:
    """An answer for all blocks of the array that it speaks of: a part of one is no state to run with."""
    stacked = False
    members = []
    for side, path, calls in ((plan.source, answer.source, mine), (plan.target, answer.target, its)):
        stacks = {layer.path: layer.base for layer in side.layers if layer.config.get("stacked")}
        shape, base = _NUMBER.sub("#", path), stacks.get(path)
        stacked |= base is not None
        found = (one for one in calls if (stacks.get(one) == base if base else _NUMBER.sub("#", one) == shape))
        members.append(sorted(found, key=_numbers))
    one, two = members
    if not stacked or len(one) != len(two) or one.index(answer.source) != two.index(answer.target):
        return []
    return [Rename(a, b) for a, b in zip(one, two, strict=True) if a != answer.source]


def _numbers(path: str) -> list[int]:
    return [int(number) for number in _NUMBER.findall(path)]


def _first_calls(calls: Sequence[Call]) -> dict[str, Call]:
    """The first call of every layer that runs on its own, in the order of calls."""
    found: dict[str, Call] = {}
    for call in calls:
        if len(call.layers) == 1 and len(call.layers[0]) == 1:
            found.setdefault(call.layers[0][0], call)
    return found


def _open(
    plan: Plan, here: Mapping[str, Call], there: Mapping[str, Call]
) -> tuple[dict[str, Colour], dict[str, Colour]]:
    """The layers of both sides that were called and that the plan pairs with none, with their colours."""
    filled = {move.target for move in plan.moves if move.target and move.sources}
    used = {feed.key for move in plan.moves if move.target for feed in move.sources}
    return _among(plan.source, used, here), _among(plan.target, filled, there)


def _among(side: Side, done: set[str], calls: Mapping[str, Call]) -> dict[str, Colour]:
    layers = {layer.path: layer for layer in side.layers}
    found = {}
    for path in calls:
        layer = layers.get(path)
        if layer is None:
            continue
        keys = {side.canonical(layer.key(piece)) or "" for piece in layer.pieces}
        if not keys & done:
            found[path] = colour_of(layer, side.entries, side.aliases)
    return found


def noise(values: Mapping[str, np.ndarray], keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Other values of the same size for some keys: each takes the place of another, and half of them change their sign."""
    random = np.random.default_rng(0)
    found = dict(values)
    for key in keys:
        value = values[key]
        mixed = random.permutation(value.reshape(-1)).reshape(value.shape)
        if value.dtype.kind not in "bu":
            mixed = mixed * random.choice([-1, 1], value.shape).astype(value.dtype)
        found[key] = mixed
    return found
