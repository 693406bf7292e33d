"""Questions: what alignment could not decide, as problems that show the candidates and the shortest rule that would decide.

The same question in every block is asked once, with a rule that answers it for all of them. Reads units, makes text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from stateregistry.alignment.explain import spelled
from stateregistry.alignment.model import Question
from stateregistry.conversion.planning.plan import PlanProblem

_SHOWN: Final = 6
#: A reason that is no list of names groups questions.
_SHORT: Final = 60
_KEYS: Final = 40
_EACH: Final = 32
_NUMBER: Final = re.compile(r"\d+")


def asked(questions: Sequence[Question]) -> Iterable[PlanProblem]:
    """One problem for each question, those that differ in numbers alone as one."""
    groups: dict[tuple[tuple[str, ...], ...], list[Question]] = {}
    for question in questions:
        mark = tuple(
            tuple(_NUMBER.sub("#", unit.path) for unit in units) for units in (question.sources, question.targets)
        )
        groups.setdefault((*mark, (question.text if len(question.text) < _SHORT else "",)), []).append(question)
    for group in groups.values():
        yield _problem(group)


def _problem(group: Sequence[Question]) -> PlanProblem:
    first = group[0]
    one, two = ([unit.path or "(the model)" for unit in units] for units in (first.sources, first.targets))
    shape = spelled(first.sources[0].colour) if first.sources else ""
    kinds = {unit.colour for unit in (*first.sources, *first.targets)}
    what = f"{len(one)} and {len(two)} of `{shape}`" if len(kinds) == 1 else f"{len(one)} and {len(two)} layers"
    times = f", and {len(group) - 1} times more elsewhere" if len(group) > 1 else ""
    text = f"{what} may be one another{times}: {first.text}; {_shown(one)} may go to {_shown(two)}"
    found = _candidates(first)
    answers = tuple(_rule(group, *places) for places in found)
    pairs = tuple((one[source], two[target]) for source, target in found)
    says = (answers or (_rule(group, 0, 0),))[0] if one and two else None
    hint = "" if says is None else f'say one of them: [[rename]] source = "{says[0]}" target = "{says[1]}"'
    keys = tuple(path for question in group for path in _both(question))
    return PlanProblem("ambiguous", keys[:_KEYS], text, hint, candidates=pairs, answers=answers)


def _both(question: Question) -> list[str]:
    return [unit.path for units in (question.sources, question.targets) for unit in units]


def _shown(paths: Sequence[str]) -> str:
    more = f", ... ({len(paths)} in all)" if len(paths) > _SHOWN else ""
    return ", ".join(f"`{path}`" for path in paths[:_SHOWN]) + more


def _candidates(question: Question) -> tuple[tuple[int, int], ...]:
    """The places of every pair that may be, up to a number that a person or a forward pass can look at."""
    return tuple(
        (one, two)
        for one, source in enumerate(question.sources[:_EACH])
        for two, target in enumerate(question.targets[:_EACH])
        if source.colour == target.colour
    )


def _rule(group: Sequence[Question], one: int, two: int) -> tuple[str, str]:
    """The rename of two candidates, for all blocks where their numbers run alike."""
    source, target = group[0].sources[one].path, group[0].targets[two].path
    if len(group) > 1:
        here, there = _NUMBER.findall(source), _NUMBER.findall(target)
        if here and there:
            offset = int(there[0]) - int(here[0])
            if all(_runs(question, one, two, offset) for question in group):
                shift = "{i}" if not offset else f"{{i{offset:+d}}}"
                source, target = _NUMBER.sub("{i}", source, count=1), _NUMBER.sub(shift, target, count=1)
    return source, target


def _runs(question: Question, one: int, two: int, offset: int) -> bool:
    if one >= len(question.sources) or two >= len(question.targets):
        return False
    here, there = (_NUMBER.findall(unit.path) for unit in (question.sources[one], question.targets[two]))
    return bool(here and there) and int(there[0]) - int(here[0]) == offset
