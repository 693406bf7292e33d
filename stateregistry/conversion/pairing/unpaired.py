"""Unpaired: what is said of units without a partner: the smallest difference, or the question that is open.

What a problem speaks of here is explained: the planner does not tell it once more, entry by entry. Reads views and rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, final

from stateregistry.alignment import explain
from stateregistry.conversion.pairing.questions import asked
from stateregistry.conversion.pairing.undeclared import Undeclared
from stateregistry.conversion.planning.plan import PlanProblem

if TYPE_CHECKING:
    from stateregistry.alignment.model import Question, Result, Unit, View
    from stateregistry.conversion.pairing.pairs import Alignment
    from stateregistry.conversion.pairing.undeclared import Advice
    from stateregistry.conversion.rules.rules import Rules
    from stateregistry.conversion.side import Side

_Left = tuple["Sequence[Unit]", "Sequence[Unit]"]
#: So many entries without a partner are told one by one, and so many paths are named at most.
_FEW: Final = 8
_NAMED: Final = 20
#: A layer of more entries is told as one.
_EACH: Final = 2


@final
class Unpaired:
    """What has no partner.

    Args:
        source, target: the sides. rules: of the caller. found: where problems go.

    Attributes:
        done: names of either side that are paired, or that a problem speaks of.
    """

    def __init__(self, source: Side, target: Side, rules: Rules, found: Alignment) -> None:
        self.sides, self.rules, self.found = (source, target), rules, found
        self.undeclared = Undeclared(source, target, rules)
        self.done: tuple[set[str], set[str]] = (set(), set())

    def explain(self, sources: Sequence[Unit], targets: Sequence[Unit]) -> None:
        """Take note that a problem speaks of these."""
        for number, units in enumerate((sources, targets)):
            self.found.explained[number].update(key for unit in units for key in unit.keys)
            self.done[number].update(key for unit in units for key in unit.keys)

    def report(self, result: Result, views: tuple[View, View]) -> None:
        """Turn open questions and what is left over into problems: what sets the models apart before what is open."""
        start = len(self.found.problems)
        self._told(result, views)
        self.found.problems[start:] = sorted(self.found.problems[start:], key=lambda problem: bool(problem.candidates))

    def _told(self, result: Result, views: tuple[View, View]) -> None:
        self._copies(result)
        for question in result.questions:
            _without_bare(question, result)
        left = self._left(result)
        uneven = [question for question in result.questions if len(question.sources) != len(question.targets)]
        whole = explain.at_once(*views, _with(left, uneven), result.pairs) if uneven else ""
        closed = uneven if whole else [] if result.by_name else self._of_types(left, uneven)
        left = _with(left, closed)
        questions = [question for question in result.questions if question not in closed]
        self._open_questions(questions, views)
        if not whole and not result.by_name:
            if left[0] and left[1] and (size := explain.one_size(left)):
                self._differing(left, size)
                return
            told = explain.at_once(*views, left, result.pairs) if left[0] and left[1] else ""
            cause = self.undeclared.cause(left) if left[0] and left[1] and not told else None
            if cause is not None:
                self._of_no_type(left, cause)
                return
            alone = not told and not result.pairs and not questions and not self.sides[1].derived
            if alone and not self.undeclared.speaks_of(left) and (strange := explain.strangers(*views)):
                self._differing(left, strange)
                return
            entangled = self._entangled(left, views)
            if told and not any(entangled) and not self.undeclared.speaks_of(left):
                self._differing(left, told)
                return
            whole = told
            lone = not told and not any(entangled) and not self.undeclared.speaks_of(left)
            if lone and (questions or _many_entries(left)):
                nothing = "nothing of that kind and size"
                self._differing((left[0], []), explain.alone(left[0], 0, nothing))
                self._differing(([], left[1]), explain.alone(left[1], 1, nothing))
                return
            left = (
                left if any(entangled) else entangled
            )  # what goes nowhere for certain is told with what may go somewhere
        if not (left[0] or left[1]):
            return
        texts = [whole] if whole else explain.differences(*views, left, result.pairs)
        many = len(left[0]) + len(left[1]) > _FEW
        if not result.by_name and (result.pairs or whole):
            hint = "name what corresponds with a [[rename]], leave out with [[drop]], or hold with [[keep]]"
            for text in texts:
                keys = tuple(unit.path for units in left for unit in units)[:_NAMED]
                self.found.problems.append(PlanProblem("structure", keys, text, hint))
            self.explain(*left)
        elif many and texts:
            self._differing(left, "; ".join(texts))

    def _of_types(self, left: _Left, uneven: Sequence[Question]) -> list[Question]:
        """The questions of what modules hold of a type that nobody declared, where that is why nothing corresponds."""
        if self.undeclared.cause(left) is None:
            return []
        return [
            question
            for question in uneven
            if all(self.undeclared.speaks_of(([unit], [])) for unit in question.sources)
            or all(self.undeclared.speaks_of(([], [unit])) for unit in question.targets)
        ]

    def _copies(self, result: Result) -> None:
        """Say of what is called a copy that it has no place, and of which it is one."""
        for number, name in ((0, "unexpected"), (1, "missing")):
            for copy, first in result.copies[number]:
                text = (
                    f"by its name a copy of {first.path!r}, and the {('target', 'source')[number]} has one for the two"
                )
                hint = f"allow {name!r} and 'assumption', or name the one that you want with a [[rename]]"
                self.found.problems.append(PlanProblem(name, (copy.path,), text, hint))
                self.explain(*(([copy], []), ([], [copy]))[number])

    def _of_no_type(self, left: tuple[Sequence[Unit], Sequence[Unit]], cause: Advice) -> None:
        """Say once of what nobody declared that it is why nothing corresponds."""
        if len(left[0]) + len(left[1]) <= _FEW:
            self._differing(left, cause.text, f"{cause.hint}; or ")
            return
        keys = tuple(unit.path for units in left for unit in units)[:_NAMED]
        self.found.problems.append(PlanProblem("structure", keys, cause.text, cause.hint))
        self.explain(*left)

    def _differing(self, left: tuple[Sequence[Unit], Sequence[Unit]], text: str, hint: str = "") -> None:
        """Say what is left over once for either side, as what the caller may allow."""
        for number, name in ((0, "unexpected"), (1, "missing")):
            if left[number]:
                keys = tuple(unit.path for unit in left[number])
                shown = keys if len(keys) <= _FEW else (keys[0], "...", keys[-1])
                self.found.problems.append(
                    PlanProblem(name, shown, text, f"{hint}name them with rules, or allow {name!r}")
                )
        self.explain(*left)

    def _entangled(
        self, left: tuple[list[Unit], list[Unit]], views: tuple[View, View]
    ) -> tuple[list[Unit], list[Unit]]:
        """Those without a partner that might have had one: what the other side has nothing like of is missing, no more."""
        colours = [
            {colour for unit in one.units for colour in unit.options} | {unit.colour for unit in one.units}
            for one in views
        ]
        one, two = ([unit for unit in units if unit.colour in colours[1 - number]] for number, units in enumerate(left))
        many = max(len(units) for units in left) > _FEW
        return left if many else (one, two)

    def _left(self, result: Result) -> tuple[list[Unit], list[Unit]]:
        """Units without a partner, of which something is left to move."""
        one, two = (
            [
                unit
                for unit in units
                if not unit.spare and not all(key in done for key in unit.keys) and not self.is_held(number, unit)
            ]
            for number, (units, done) in enumerate(zip(result.left, self._canonical_done(), strict=True))
        )
        return one, two

    def _canonical_done(self) -> tuple[set[str], set[str]]:
        first, second = (
            {side.canonical(name) or name for name in done} for side, done in zip(self.sides, self.done, strict=True)
        )
        return first, second

    def is_held(self, number: int, unit: Unit) -> bool:
        """Whether rules say of all arrays of a unit that they go nowhere, or come from nowhere."""
        held = self.rules.holds_target if number else self.rules.drops_source
        return all(held(key) for key in unit.keys)

    def _open_questions(self, questions: Sequence[Question], views: tuple[View, View]) -> None:
        asking = [
            question
            for question in questions
            if not all(self.rules.drops_source(key) for unit in question.sources for key in unit.keys)
        ]
        asking.sort(key=lambda question: len(question.sources) == len(question.targets))  # what differs comes first
        self.found.problems += asked(asking, views)
        for question in asking:
            self.explain(question.sources, question.targets)
        self._hanging()

    def _hanging(self) -> None:
        """What would go into an array of which a question leaves a part open, or come from one, waits for its answer too."""
        explained = self.found.explained
        more = True
        while more:
            more = False
            for pair in self.found.layers:
                keys = [
                    {side.canonical(key) or key for key in layer.roles.values()}
                    for side, layer in zip(self.sides, (pair.source, pair.target), strict=True)
                ]
                for number in (0, 1):
                    if keys[1 - number] & explained[1 - number] and not keys[number] <= explained[number]:
                        explained[number].update(keys[number])
                        more = True


def _many_entries(left: _Left) -> bool:
    """Whether what is left holds more than can be told one by one."""
    counts = [len(unit.keys) for units in left for unit in units]
    return sum(counts) > _FEW or max(counts, default=0) > _EACH


def _with(left: _Left, questions: Sequence[Question]) -> tuple[list[Unit], list[Unit]]:
    """What is left over together with what some questions are of."""
    one = [*left[0], *(unit for question in questions for unit in question.sources)]
    two = [*left[1], *(unit for question in questions for unit in question.targets)]
    return one, two


def _without_bare(question: Question, result: Result) -> None:
    """Arrays of no layer that are as large as the layers of a question are none of it, if without them both have as many."""
    both = question.sources, question.targets
    kinds = {str(unit.colour[0]) for units in both for unit in units}
    layers = [[unit for unit in units if unit.layer is not None] for units in both]
    if kinds == {"array"} or len(both[0]) == len(both[1]) or len(layers[0]) != len(layers[1]) or not layers[0]:
        return
    for side, units in enumerate(both):
        result.left[side].extend(unit for unit in units if unit.layer is None)
        units[:] = layers[side]
    question.text = "arrays that are as large are none of them, and nothing else tells them apart"
