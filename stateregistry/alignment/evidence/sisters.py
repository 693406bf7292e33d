"""Sisters: containers of one name whose insides are paired already say what is open inside of another.

Where `FireModule_1` shows by its sizes that `squeeze` is `Conv_0` and `expand1x1` is `Conv_1`, they are so in `FireModule_0`,
where all sizes are equal. Only where every sister that says something says the same; of one sister, or of other names inside,
it is an assumption. Reads pairs and questions, and answers questions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, final

from stateregistry.alignment.model import GRADES, Grade, Pair, Question, Result, Unit, View, worse
from stateregistry.alignment.spelling import Tokens, stems, tokens

#: Above so many kinds of containers with questions nothing is looked at.
_MOST: Final = 16
#: So many sisters have to agree before more than an assumption rests on them.
_LEAST: Final = 2

#: What a path is called below a container.
_Inside = tuple[tuple[str, int | None], ...]
#: Names of two containers without numbers.
_Kind = tuple[tuple[str, ...], tuple[str, ...]]


@final
@dataclass(slots=True)
class _Family:
    """What is decided in containers of one name on either side.

    Attributes:
        pairs: by both containers. votes: for a name inside the names that it is, with the containers of the source.
    """

    pairs: dict[tuple[_Inside, _Inside], list[Pair]] = field(default_factory=dict)
    votes: dict[_Inside, dict[_Inside, list[_Inside]]] = field(default_factory=dict)


def answer(result: Result, source: View, target: View, by_rule: str) -> None:
    """Answer the questions inside of one container that its sisters answer. Changes the result.

    Args:
        result: of the search. source, target: the sides.
        by_rule: the evidence of what a rule pairs, whose tokens are those of the target.
    """
    asked = [(question, found) for question in result.questions if (found := _containers(question)) is not None]
    kinds = {(stems(one), stems(two)) for _, (one, two) in asked}
    if not kinds or len(kinds) > _MOST:
        return
    families = {kind: _Family() for kind in kinds}
    for pair in result.pairs:
        if pair.grade not in ("certain", "numbers"):
            continue
        path = tokens(pair.source.path) if pair.evidence[:1] == [by_rule] else pair.source.tokens
        _count(pair, path, families)
    names = [_held(view.units, {kind[side] for kind in kinds}) for side, view in enumerate((source, target))]
    for question, (one, two) in asked:
        family = families[stems(one), stems(two)]
        made = _told(question, one, two, family, (names[0], names[1]))
        result.pairs += made
        done = {id(unit) for pair in made for unit in (pair.source, pair.target)}
        question.sources[:] = [unit for unit in question.sources if id(unit) not in done]
        question.targets[:] = [unit for unit in question.targets if id(unit) not in done]
    result.questions[:] = [question for question in result.questions if question.sources or question.targets]


def _containers(question: Question) -> tuple[Tokens, Tokens] | None:
    """The innermost counted container that all candidates of either side have in common."""
    found = []
    for units in (question.sources, question.targets):
        shared = units[0].tokens[:-1]
        for unit in units[1:]:
            length = next((n for n, (a, b) in enumerate(zip(shared, unit.tokens, strict=False)) if a != b), len(shared))
            shared = shared[: min(length, len(unit.tokens) - 1)]
        while shared and shared[-1].number is None:
            shared = shared[:-1]
        if not shared:
            return None
        found.append(shared)
    return found[0], found[1]


def _same(path: Tokens) -> _Inside:
    return tuple(token.same for token in path)


def _count(pair: Pair, path: Tokens, families: Mapping[_Kind, _Family]) -> None:
    other = pair.target.tokens
    named = stems(path), stems(other)
    for (one, two), family in families.items():
        if named[0][: len(one)] != one or named[1][: len(two)] != two:
            continue
        homes = _same(path[: len(one)]), _same(other[: len(two)])
        inside, its = _same(path[len(one) :]), _same(other[len(two) :])
        if inside and its:
            family.pairs.setdefault(homes, []).append(pair)
            family.votes.setdefault(inside, {}).setdefault(its, []).append(homes[0])


def _held(units: Sequence[Unit], kinds: set[tuple[str, ...]]) -> dict[_Inside, set[_Inside]]:
    """The names inside of every container of some names."""
    found: dict[_Inside, set[_Inside]] = {}
    depths = {len(kind) for kind in kinds}
    for unit in units:
        named = stems(unit.tokens)
        for depth in depths:
            if named[:depth] in kinds:
                found.setdefault(_same(unit.tokens[:depth]), set()).add(_same(unit.tokens[depth:]))
    return found


def _told(
    question: Question,
    one: Tokens,
    two: Tokens,
    family: _Family,
    names: tuple[Mapping[_Inside, set[_Inside]], Mapping[_Inside, set[_Inside]]],
) -> list[Pair]:
    """The pairs of a question that all sisters say."""
    homes = _same(one), _same(two)
    there = {_same(unit.tokens[len(two) :]): unit for unit in question.targets}
    mates = dict(family.pairs)
    own = mates.pop(homes, [])
    if any(side in pair for pair in mates for side in homes):
        return []  # what the container holds is in several of the other side
    found: dict[int, tuple[Unit, Unit, set[_Inside]]] = {}
    for unit in question.sources:
        said = family.votes.get(_same(unit.tokens[len(one) :]), {})
        other = there.get(next(iter(said))) if len(said) == 1 else None
        if other is None or other.colour != unit.colour:
            continue
        if id(other) in found:
            return []
        found[id(other)] = unit, other, set(next(iter(said.values())))
    grade, counted = _sure(own)
    made = []
    for unit, other, sisters in found.values():
        alike = {
            sister
            for sister in sisters
            for pair in mates
            if pair[0] == sister and names[0].get(sister) == names[0].get(homes[0])
            and names[1].get(pair[1]) == names[1].get(homes[1])
        }  # fmt: skip
        sure = grade if len(alike) >= _LEAST and len(alike) == len(sisters) else worse(grade, "assumption")
        text = f"as in {len(sisters)} other{'s' if len(sisters) > 1 else ''} of its name"
        made.append(Pair(unit, other, [text], worse("numbers", sure), counted))
    return made


def _sure(own: Sequence[Pair]) -> tuple[Grade, tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]]:
    """How sure it is that two containers are one, by what is paired in them, with the names whose numbers that rests on."""
    if not own:
        return "assumption", ()
    worst = max(own, key=lambda pair: GRADES.index(pair.grade))
    return worst.grade, worst.stems[:-1] if worst.leaf else worst.stems
