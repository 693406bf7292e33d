"""Questions: what alignment could not decide, as problems that show the candidates and the shortest rule that would decide.

The same question in every block is asked once, with a rule that answers it for all of them and for nothing else. Where
something speaks for a candidate, the rule says it as a guess; where nothing does, it names all of them and has to be
completed: pasted unread it is refused. Reads units and rules, makes text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final, final

from stateregistry.alignment.explain import spelled
from stateregistry.alignment.model import Question
from stateregistry.conversion.pairing.preference import Guess, guessed, in_order, nearest
from stateregistry.conversion.pairing.wholes import CONTAINER, as_containers
from stateregistry.conversion.planning.plan import PlanProblem
from stateregistry.conversion.rules.generalising import general
from stateregistry.conversion.rules.patterns import covers, open_text, prefixes

if TYPE_CHECKING:
    from stateregistry.alignment.model import View

_SHOWN: Final = 6
#: A reason that is no list of names groups questions.
_SHORT: Final = 60
_KEYS: Final = 40
_EACH: Final = 32
_NUMBER: Final = re.compile(r"\d+")


def asked(questions: Sequence[Question], views: tuple[View, View]) -> Iterable[PlanProblem]:
    """One problem for each question, those that differ in numbers alone as one."""
    groups: dict[tuple[tuple[str, ...], ...], list[Question]] = {}
    for each in (as_containers(one) or one for one in questions):
        question = replace(each, sources=in_order(each.sources, views[0]), targets=in_order(each.targets, views[1]))
        mark = tuple(
            tuple(_NUMBER.sub("#", unit.path) for unit in units) for units in (question.sources, question.targets)
        )
        groups.setdefault((*mark, (question.text if len(question.text) < _SHORT else "",)), []).append(question)
    everything = _Paths(views)
    for group in groups.values():
        yield _Asked(group, everything).problem()


@final
class _Paths:
    """The paths of everything, to see what a pattern speaks of."""

    def __init__(self, views: tuple[View, View]) -> None:
        self._all = tuple([unit.path for unit in view.units] for view in views)
        self._found: dict[tuple[int, str], frozenset[str]] = {}

    def spoken_of(self, side: int, pattern: str) -> frozenset[str]:
        """The paths of a side that a pattern matches."""
        known = self._found.get((side, pattern))
        if known is None:
            known = frozenset(path for path in self._all[side] if covers(pattern, path))
            self._found[side, pattern] = known
        return known

    def below(self, side: int, containers: frozenset[str]) -> frozenset[str]:
        """The paths of a side that lie in some containers."""
        return frozenset(path for path in self._all[side] if any(each in containers for each in prefixes(path)))


@final
class _Asked:
    """One question, wherever it is asked.

    Args:
        group: the question of every block, with the candidates of each in the same order.
    """

    def __init__(self, group: Sequence[Question], everything: _Paths) -> None:
        self.group, self.first, self.everything = group, group[0], everything
        self.guess = guessed(self.first.sources, self.first.targets)
        self.whole = bool(self.first.sources) and self.first.sources[0].colour[0] == CONTAINER
        self._rules: dict[tuple[int, int], tuple[str, str]] = {}

    def problem(self) -> PlanProblem:
        """The problem, with every candidate and the rule that says it."""
        first = self.first
        found = self._candidates()
        answers = tuple(self._rule(*places) for places in found)
        pairs = tuple((first.sources[one].path, first.targets[two].path) for one, two in found)
        keys = tuple(path for question in self.group for path in _both(question))
        return PlanProblem(
            "ambiguous", keys[:_KEYS], self._text(), self._hint(found), candidates=pairs, answers=answers
        )

    def _text(self) -> str:
        first = self.first
        one, two = ([unit.path or "(the model)" for unit in units] for units in (first.sources, first.targets))
        shape = spelled(first.sources[0].colour) if first.sources else ""
        kinds = {unit.colour for unit in (*first.sources, *first.targets)}
        again = len(self.group) - 1
        times = "" if not again else f", and {'once' if again == 1 else f'{again} times'} more elsewhere"
        if first.crossed:
            names = [f"`{unit.path}` ({spelled(unit.colour)})" for unit in first.sources[:_SHOWN]]
            more = f" and {len(first.sources) - _SHOWN} more" if len(first.sources) > _SHOWN else ""
            return f"{', '.join(names)}{more} change places between the sides{times}: {first.text}"
        if len(one) == len(two) == 1:
            alike = f" ({shape})" if len(kinds) == 1 else ""
            return f"`{one[0]}` and `{two[0]}`{alike} would be one{times}, but {first.text}"
        what = f"{len(one)} and {len(two)} of `{shape}`" if len(kinds) == 1 else f"{len(one)} and {len(two)} layers"
        if self.whole:
            what = f"{len(one)} and {len(two)} containers of {first.sources[0].colour[1]} layers"
        return f"{what} may be one another{times}: {first.text}; {_shown(one)} may go to {_shown(two)}"

    def _hint(self, found: Sequence[tuple[int, int]]) -> str:
        """The rule to paste: complete where something speaks for a candidate, to be completed where nothing does."""
        if not found:
            return ""
        if self.first.crossed and len(found) == len(self.first.sources):  # one place for each, which is another's name
            said = (
                f'[[rename]] source = "{one}" target = "{two}"' for one, two in (self._rule(*each) for each in found)
            )
            return f"if they are, say so of all of them: {', '.join(said)}"
        if self.guess is not None:
            source, target = self._rule(self.guess.source, self.guess.target)
            return f'a guess, by {self.guess.why}: look at it before you say [[rename]] source = "{source}" target = "{target}"'
        place = found[0][0]
        options = [self._rule(one, two) for one, two in found if one == place]
        if len({source for source, _ in options}) > 1:  # not all of them can be said of every block at once
            first = self.first
            options = [(first.sources[one].path, first.targets[two].path) for one, two in found if one == place]
        names = [target for _, target in options]
        more = ("...",) if len(names) > _SHOWN else ()
        text = open_text((*names[:_SHOWN], *more))
        return f'say which: [[rename]] source = "{options[0][0]}" target = "{text}"'

    def _candidates(self) -> tuple[tuple[int, int], ...]:
        """The places of every pair that may be, likelier ones first, as many as a person or a forward pass can look at."""
        return tuple(_likelier(self.first, self.guess))

    def _rule(self, one: int, two: int) -> tuple[str, str]:
        """The rename of two candidates, for all blocks where one rule says it of these and of nothing else."""
        known = self._rules.get((one, two))
        if known is None:
            known = self._rules[one, two] = self._general(one, two) or (
                self.first.sources[one].path,
                self.first.targets[two].path,
            )
        return known

    def _general(self, one: int, two: int) -> tuple[str, str] | None:
        pairs = [(question.sources[one].path, question.targets[two].path) for question in self.group]
        rule = general(pairs) if len(pairs) > 1 else None
        if rule is None or rule.counts:
            return None
        wanted = [frozenset(paths) for paths in zip(*pairs, strict=True)]
        if self.whole:
            wanted = [self.everything.below(side, paths) for side, paths in enumerate(wanted)]
        said = [self.everything.spoken_of(side, text) for side, text in enumerate((rule.source, rule.target))]
        return (rule.source, rule.target) if wanted == said else None


def _likelier(question: Question, guess: Guess | None) -> Iterator[tuple[int, int]]:
    sources, targets = question.sources[:_EACH], question.targets[:_EACH]
    order = list(range(len(sources)))
    if guess is not None:
        order.remove(guess.source)
        order.insert(0, guess.source)
    for one in order:
        near = nearest(sources[one], targets, sources)
        if guess is not None and one == guess.source:
            near.remove(guess.target)
            near.insert(0, guess.target)
        yield from ((one, two) for two in near if sources[one].colour == targets[two].colour)


def _both(question: Question) -> list[str]:
    return [unit.path for units in (question.sources, question.targets) for unit in units]


def _shown(paths: Sequence[str]) -> str:
    more = f", ... ({len(paths)} in all)" if len(paths) > _SHOWN else ""
    return ", ".join(f"`{path}`" for path in paths[:_SHOWN]) + more
