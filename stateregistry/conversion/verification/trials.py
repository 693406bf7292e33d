"""Trials: what no metadata tells apart, a forward pass does: every candidate is tried on a copy, and one that agrees is kept.

A candidate agrees if the outputs of the target with its state are those of the source. Of several that agree nothing is taken
unless the outputs depend on every layer in question: then these are interchangeable. The caller's target is not changed here.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np

from stateregistry import plugins
from stateregistry.conversion.execution import conditions
from stateregistry.conversion.execution.converted import Converted
from stateregistry.conversion.pairing import flatten
from stateregistry.conversion.planning.plan import Plan
from stateregistry.conversion.rules.patterns import covers
from stateregistry.conversion.rules.rules import Order, Rename, Rules
from stateregistry.conversion.verification import gaps
from stateregistry.conversion.verification.following import Followed, follow, noise, watched
from stateregistry.errors import AmbiguousAlignment, PlanError, StateError, UnsupportedError
from stateregistry.layers import axes

if TYPE_CHECKING:
    from stateregistry.conversion.planning.plan import PlanProblem
    from stateregistry.conversion.verification.gaps import Gap
    from stateregistry.layers.calls import Call
    from stateregistry.layers.vocabulary import Layer
    from stateregistry.registry import StateRegistry

#: So many plans are made, and so many of them tried, at most.
MOST: Final = 64
#: A candidate that is this many times too far off might be right after all: neither it nor another is taken.
_CLEAR: Final = 10.0
#: A share of their scale that outputs may differ by through rounding alone, in models of low precision.
_ROUGH: Final = 0.02
_SHOWN: Final = 12
#: Problems that the caller has to accept by name, whatever is paired.
_LEAVE: Final = ("choice", "lossy", "assumption")

#: The source's function of the inputs, the target's of a target and the inputs, and the inputs.
Forward = tuple[Callable[..., Any], Callable[..., Any], Any]


@final
@dataclass(frozen=True, slots=True)
class _Tried:
    """A candidate: the renames that it says, its plan, what came of it, and how images are flattened in it.

    `gap` is `None` where it could not be tried.
    """

    answers: tuple[Rename, ...]
    plan: Plan
    gap: Gap | None = None
    why: str = ""
    how: str = ""

    def agrees(self, tolerance: float) -> bool:
        """Whether it was tried and its outputs are those of the source."""
        return self.gap is not None and self.gap.share <= tolerance

    def __str__(self) -> str:
        said = ", ".join(f"{one.source} -> {one.target}" for one in self.answers) or "the plan as it is"
        said += f", {self.how}" if self.how else ""
        return f"{said}: {self.why or f'outputs differ by {self.gap}'}"


def decided(
    planned: Callable[[Rules], Plan],
    rules: Rules,
    here: StateRegistry,
    there: StateRegistry | None,
    forward: Forward,
    tolerance: float = gaps.TOLERANCE,
) -> Plan:
    """The plan that a forward pass bears out.

    Args:
        planned: makes the plan of some rules. rules: of the caller.
        here, there: the sides; `there` is `None` where the target is derived.
        forward: see `convert`.
        tolerance: the share of their scale that outputs may differ by.

    Raises:
        PlanError: the plan has problems that no pairing of candidates would settle, or outputs differ although nothing was
            open. AmbiguousAlignment: no candidate agrees, too many are left, or the outputs do not depend on what is asked.
        UnsupportedError: the target cannot be copied.
    """
    source, _, inputs = forward
    args = inputs if isinstance(inputs, tuple) else (inputs,)
    asked = planned(rules)
    every: list[_Tried] = []
    for way in _ORDERS if there is not None else _ORDERS[:1]:
        orders = way.orders(asked.problems)
        if every and len(orders) < len(flatten.plain(asked.problems)):
            break
        ordered = _in_order(planned, way.orders) if there is not None else planned
        first = ordered(rules) if orders and there is not None else asked
        bench, tried, followed = _tries(first, ordered, rules, here, there, forward, args, source, tolerance)
        every += [replace(one, how=way.how if orders else "") for one in tried]
        agreeing = [one for one in tried if one.agrees(tolerance)]
        if agreeing or not orders or there is None:
            break
    if not agreeing:
        why = "the outputs of none of them agree" if first.problems else "the outputs do not agree"
        _refuse(asked, every, f"{why}{_stands_out(every, tolerance)}")
    near = [one for one in every if one.gap is not None and tolerance < one.gap.share <= _CLEAR * tolerance]
    if near:
        _refuse(asked, every, f"some are not clearly right or wrong: see tolerance, which is {tolerance:g}")
    supposed = _supposed(agreeing[0].plan, rules)
    blind = bench.blind(agreeing, tolerance, followed.found.tried if followed is not None else ())
    blind += bench.unordered(agreeing[0].plan, supposed, tolerance)
    if blind:
        _refuse(asked, every, f"the outputs for these inputs do not depend on {', '.join(blind)}: give other inputs")
    return _told(agreeing, followed.found.tied if followed is not None else frozenset(), supposed, way.says)


def _tries(
    first: Plan,
    planned: Callable[[Rules], Plan],
    rules: Rules,
    here: StateRegistry,
    there: StateRegistry | None,
    forward: Forward,
    args: tuple[Any, ...],
    source: Callable[..., Any],
    tolerance: float,
) -> tuple[_Bench, list[_Tried], _Followed | None]:
    """What comes of the candidates of a plan, and what activations said of them."""
    followed = _followed(first, planned, rules, here, there, forward, tolerance)
    if followed is None:
        candidates = list(_candidates(first, planned, rules))
        bench = _Bench(here, there, forward[1], args, source(*args))
        return bench, [bench.tried(one) for one in candidates], None
    bench = _Bench(here, there, forward[1], args, followed.expected)
    tried = _borne_out(first, planned, rules, bench, followed)
    if not any(one.agrees(tolerance) for one in tried):
        again = _followed(first, planned, rules, here, there, forward, tolerance, alike=False)
        if again is not None and again.found.answers != followed.found.answers:
            followed, tried = again, _borne_out(first, planned, rules, bench, again)
    if not any(one.agrees(tolerance) for one in tried):
        # Activations may have said nothing, or something wrong: few candidates are all tried.
        with contextlib.suppress(AmbiguousAlignment):
            return bench, [bench.tried(one) for one in list(_candidates(first, planned, rules))], None
    return bench, tried, followed


@final
@dataclass(frozen=True, slots=True)
class _Way:
    """One order in which the numbers of all that may be a flattened image come.

    Attributes:
        orders: the rules of problems that say so. how: said of a candidate. says: of what agreed.
    """

    orders: Callable[[Iterable[PlanProblem]], list[tuple[PlanProblem, Order]]]
    how: str
    says: str


_ORDERS: Final = (
    _Way(flatten.plain, "flattened in one order", "its numbers come in one order on both sides"),
    _Way(flatten.moved, "flattened with the channels elsewhere", "it is a flattened image with its channels elsewhere"),
)


def _in_order(
    planned: Callable[[Rules], Plan], said: Callable[[Iterable[PlanProblem]], list[tuple[PlanProblem, Order]]]
) -> Callable[[Rules], Plan]:
    """Plans in which all that may be a flattened image is flattened in one way. Outputs decide whether it is."""

    def plan(rules: Rules) -> Plan:
        made = planned(rules)
        orders = tuple(order for _, order in said(made.problems))
        return planned(replace(rules, orders=(*rules.orders, *orders))) if orders else made

    return plan


def _supposed(plan: Plan, rules: Rules) -> tuple[Order, ...]:
    """The orders that a plan supposes and nobody said."""
    return tuple(order for order in plan.rules.orders if order not in rules.orders)


# -------------------------------------------------------------------- what activations say


@final
@dataclass(frozen=True, slots=True)
class _Followed:
    """What activations say, and the outputs of the source."""

    found: Followed
    expected: Any


def _followed(
    first: Plan,
    planned: Callable[[Rules], Plan],
    rules: Rules,
    here: StateRegistry,
    there: StateRegistry | None,
    forward: Forward,
    tolerance: float,
    *,
    alike: bool = True,
) -> _Followed | None:
    """What activations say of the questions of a plan; `None` where there are none, or where a model cannot be watched."""
    if there is None or not any(problem.answers for problem in first.problems):
        return None
    if any(problem.problem not in _LEAVE and not problem.answers for problem in first.problems):
        return None  # what is wrong beside the questions is told before anything is run
    source, function, inputs = forward
    args = inputs if isinstance(inputs, tuple) else (inputs,)
    seen = watched(here, lambda: source(*args))
    if seen is None:
        return None
    bench = _Bench(here, there, function, args, seen[1])
    found = follow(planned, rules, first, seen, bench.watched, tolerance, alike=alike)
    return _Followed(found, seen[1])


def _borne_out(
    first: Plan, planned: Callable[[Rules], Plan], rules: Rules, bench: _Bench, followed: _Followed
) -> list[_Tried]:
    """What comes of the answers that activations gave, with every answer to what they left open."""
    said = replace(rules, renames=(*rules.renames, *followed.found.answers))
    candidates = list(_candidates(followed.found.plan, planned, said, followed.found.answers))
    return [bench.tried(one) for one in candidates]


# -------------------------------------------------------------------- candidates


def _candidates(
    first: Plan, planned: Callable[[Rules], Plan], rules: Rules, known: tuple[Rename, ...] = ()
) -> Iterator[_Tried]:
    """Every plan that answers all questions, one way or another.

    Raises:
        PlanError: a plan has problems that are no questions. AmbiguousAlignment: there are more than `MOST`.
    """
    queue: list[tuple[tuple[Rename, ...], Plan]] = [(known, first)]
    made = 0
    while queue:
        answers, plan = queue.pop(0)
        questions = [problem for problem in plan.problems if problem.answers]
        others = [problem for problem in plan.problems if not problem.answers]
        hard = [problem for problem in others if problem.problem not in _LEAVE]
        if others and (not answers or not (hard or questions)):
            _require(plan, others)
        if hard:
            yield _Tried(answers, plan, why=f"cannot be: {hard[0]}")
            continue
        if not questions:
            yield _Tried(answers, plan)
            continue
        question = questions[0]
        name = question.candidates[0][0]
        for pair, says in zip(question.candidates, question.answers, strict=True):
            if pair[0] != name:
                continue
            made += 1
            if made > MOST:
                message = f"the forward pass would have to tell apart more than {MOST} candidates\n{question}"
                raise AmbiguousAlignment(
                    message, plan=first, keys=question.keys, hint="answer some with [[rename]] rules"
                )
            more = (*answers, Rename(*says))
            queue.append((more, planned(replace(rules, renames=(*rules.renames, *more[len(known) :])))))


def _require(plan: Plan, others: Sequence[PlanProblem]) -> None:
    """Raise what is wrong beside the questions that a forward pass answers, and say that it was not run."""
    try:
        plan.require()
    except PlanError as error:
        kinds = ", ".join(dict.fromkeys(problem.problem for problem in others))
        message = (
            f"{error.message}\n  forward= was not run: it tells apart what may be one another, and of the problems here "
            f"{len(others)} ({kinds}) are none of that"
        )
        hint = "settle these with rules, or allow them, and give forward= again"
        raise type(error)(message, plan=plan, keys=error.keys, hint=hint) from error


# -------------------------------------------------------------------- trying


@final
class _Bench:
    """Where candidates are tried."""

    def __init__(
        self,
        here: StateRegistry,
        there: StateRegistry | None,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        expected: Any,
    ) -> None:
        self.here, self.there, self.function, self.args, self.expected = here, there, function, args, expected

    def tried(self, one: _Tried) -> _Tried:
        """The candidate with the gap of its outputs."""
        if one.why:
            return one
        try:
            conditions.check(one.plan, self.here)
        except PlanError as error:
            if not one.answers:
                raise
            return replace(one, why=f"cannot be: {error.message.splitlines()[-1].strip()}")
        made = self._outputs(one.plan)
        if nothing := gaps.without_numbers(self.expected, made):
            hint = "give inputs for which both models compute numbers"
            raise StateError(f"a forward pass cannot decide: {nothing}", hint=hint)
        return replace(one, gap=gaps.outputs(self.expected, made))

    def watched(self, plan: Plan) -> tuple[Sequence[Call], Any] | None:
        """What the layers of the target are given with what is decided of a plan, and what it computes."""
        assert self.there is not None
        registry = self._copy().replace(_values(plan, self.here, self.there))
        return watched(registry, lambda: self._run(registry.unwrap()))

    def _outputs(self, plan: Plan, changed: Sequence[str] = ()) -> Any:
        """What the target computes with the state of a plan, or with other values for some keys."""
        if self.there is None:
            return self._run(plan.execute(self.here).target)
        values = _values(plan, self.here, self.there)
        return self._run(self._copy().replace(noise(values, changed)).unwrap())

    def _run(self, result: Any) -> Any:
        try:
            return self.function(result, *self.args)
        except TypeError as error:
            error.add_note(
                "forward=(fa, fb, inputs): fa takes the inputs, fb the target that is tried and then the inputs"
            )
            raise

    def _copy(self) -> StateRegistry:
        """A registry that may be changed and is not the caller's."""
        assert self.there is not None
        if not self.there.in_place:
            return self.there
        native = self.there.unwrap()
        try:
            twin = copy.deepcopy(native)
        except (TypeError, RuntimeError, NotImplementedError, ValueError) as error:
            message = f"the target, a {type(native).__name__}, cannot be copied to try candidates on: {error}"
            raise UnsupportedError(
                message, hint="say the pairing with [[rename]] rules, and leave forward= out"
            ) from error
        made = plugins.of(twin, adapter=self.there.adapter)
        if dict(made) != dict(self.there):
            message = f"a copy of the target, a {type(native).__name__}, does not have the state of the target"
            raise UnsupportedError(message, hint="say the pairing with [[rename]] rules, and leave forward= out")
        return made

    def unordered(self, plan: Plan, orders: Sequence[Order], tolerance: float) -> list[str]:
        """The axes whose order a plan supposes that outputs do not depend on: any order agrees for these inputs."""
        if self.there is None or not orders:
            return []
        first = self._outputs(plan)
        found = []
        for order in orders:
            values = _values(plan, self.here, self.there)
            for layer in _layers_of(plan, order):
                for piece in layer.pieces:
                    key = plan.target.canonical(layer.key(piece))
                    names = [[atom.name for atom in group.atoms] for group in axes.parse(piece.axes)]
                    place = next((at for at, each in enumerate(names) if order.axis in each), None)
                    if key in values and place is not None:
                        values[key] = np.flip(values[key], place)
            gap = gaps.outputs(first, self._run(self._copy().replace(values).unwrap()))
            if gap.share <= _CLEAR * tolerance:
                found.append(f"the order of the {order.axis!r} axis of {order.source}")
        return found

    def blind(self, agreeing: Sequence[_Tried], tolerance: float, tried: Sequence[str] = ()) -> list[str]:
        """Layers that candidates which agree fill from elsewhere, and those that were tried, which outputs do not depend on."""
        plans = [one.plan for one in agreeing]
        groups = dict(_in_question(plans, [Converted(plan, self.here, self.there) for plan in plans]))
        target = plans[0].target
        for layer in target.layers:
            if any(covers(path, layer.path) for path in tried):
                keys = [target.canonical(key) or key for key in layer.roles.values()]
                groups.setdefault(layer.path or "(the model)", [key for key in keys if target.entries[key].persistent])
        if not groups:
            return []
        if self.there is None:
            return sorted(groups)
        first = self._outputs(agreeing[0].plan)
        found = []
        for name, keys in groups.items():
            gap = gaps.outputs(first, self._outputs(agreeing[0].plan, keys))
            if gap.share <= _CLEAR * tolerance:
                found.append(name)
        return found


def _layers_of(plan: Plan, order: Order) -> list[Layer]:
    """The layers of the target that have what a rule of order says of one of the source."""
    keys = {
        plan.source.canonical(key) or key
        for layer in plan.source.layers
        if layer.path == order.source
        for key in layer.roles.values()
    }
    filled = {move.target for move in plan.moves for feed in move.sources if feed.key in keys}
    return [
        layer
        for layer in plan.target.layers
        if any((plan.target.canonical(key) or key) in filled for key in layer.roles.values())
    ]


def _values(plan: Plan, here: StateRegistry, there: StateRegistry) -> dict[str, np.ndarray]:
    result = Converted(plan, here, there)
    return {
        move.target: result.read(move.target)
        for move in plan.moves
        if move.target and (move.op != "keep" or (move.residual and move.residual not in result.stale))
    }


def _in_question(plans: Sequence[Plan], results: Sequence[Converted]) -> Mapping[str, list[str]]:
    """The targets that plans fill with other values, by the layer that has them."""
    owners = {
        plan.target.canonical(key) or key: layer.path or "(the model)"
        for plan in plans[:1]
        for layer in plan.target.layers
        for key in layer.roles.values()
    }
    sources: dict[str, set[object]] = {}
    for plan in plans:
        for move in plan.moves:
            if move.target:
                sources.setdefault(move.target, set()).add(move.sources)
    found: dict[str, list[str]] = {}
    for key, several in sources.items():
        if len(several) > 1 and len({result.read(key).tobytes() for result in results}) > 1:
            found.setdefault(owners.get(key, key), []).append(key)
    return found


# -------------------------------------------------------------------- the answer


def _told(agreeing: Sequence[_Tried], tied: frozenset[str], orders: Sequence[Order], says: str) -> Plan:
    """The plan of the first that agrees, with what it rests on."""
    one = agreeing[0]
    if orders:
        plain = f"; {says}, as the outputs agree: they differ by {one.gap}"
        paths = [order.source for order in orders]
        moves = tuple(
            replace(move, evidence=f"{move.evidence}{plain}")
            if any(covers(path, feed.key) for path in paths for feed in move.sources)
            else move
            for move in one.plan.moves
        )
        one = replace(one, plan=replace(one.plan, moves=moves))
    if not one.answers:
        return one.plan
    evidence = f"the outputs agree: they differ by {one.gap}"
    if len(agreeing) > 1:
        evidence = f"interchangeable, as the outputs of {len(agreeing)} candidates agree: they differ by {one.gap}"
    alike = f"interchangeable, as what comes after agrees in any order; the outputs differ by {one.gap}"
    moves = tuple(
        replace(
            move, evidence=alike if any(covers(path, feed.key) for path in tied for feed in move.sources) else evidence
        )
        if any(covers(answer.source, feed.key) for answer in one.answers for feed in move.sources)
        and move.evidence.startswith("a rename rule")
        else move
        for move in one.plan.moves
    )
    return replace(one.plan, moves=moves)


def _stands_out(tried: Sequence[_Tried], tolerance: float) -> str:
    """What to say of a candidate that is not near enough, and much nearer than every other."""
    gaps_ = sorted((one.gap for one in tried if one.gap is not None), key=lambda gap: gap.share)
    if len(gaps_) < 2 or gaps_[0].share > _ROUGH or gaps_[0].share * _CLEAR > gaps_[1].share:
        return ""
    return (
        f", and the first is nearer than any other by far: if {gaps_[0]} is what rounding makes in these models, say so with "
        f"tolerance=, which is {tolerance:g}"
    )


def _refuse(plan: Plan, tried: Sequence[_Tried], why: str) -> None:
    """Raise, with everything that was tried."""
    order = sorted(tried, key=lambda one: one.gap.share if one.gap is not None else float("inf"))
    more = [f"  ... and {len(order) - _SHOWN} more"] if len(order) > _SHOWN else []
    lines = "\n".join([f"  {one}" for one in order[:_SHOWN]] + more)
    keys = tuple(dict.fromkeys(key for problem in plan.problems for key in problem.keys))
    if plan.problems:
        message = f"{len(tried)} candidates were tried, and {why}; nothing was written\n{lines}"
        images = [problem.hint for problem, _ in flatten.plain(plan.problems)]
        hint = "; ".join(
            ["say the pairing with [[rename]] rules", *images] if len(images) < len(plan.problems) else images
        )
        raise AmbiguousAlignment(message, plan=plan, keys=keys, hint=hint)
    message = f"{why}; nothing was written\n{lines}"
    hint = (
        "sr.verify(..., plan=plan, forward=...) after a conversion without forward= names the first layer that departs"
    )
    raise PlanError(message, plan=plan, keys=keys, hint=hint)
