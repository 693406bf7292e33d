"""Wholes: a question of many layers that is one of a few containers, asked as that: its answer is one rename and not dozens.

Only where both sides fall into as many containers of one content, whose layers are all in question. Reads units.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from stateregistry.alignment.model import Question, Unit
from stateregistry.alignment.spelling import tokens

if TYPE_CHECKING:
    from stateregistry.alignment.colours import Colour

#: What stands for the kind of a container, in the place of a colour.
CONTAINER: Final = "container"


def as_containers(question: Question) -> Question | None:
    """The question of the containers, `None` where it is one of layers."""
    found = [_containers(units) for units in (question.sources, question.targets)]
    one, two = found
    if not one or not two or len(one) != len(two) or _content(one[0][1]) != _content(two[0][1]):
        return None
    return Question([_unit(*each) for each in one], [_unit(*each) for each in two], question.text)


def _containers(units: Sequence[Unit]) -> list[tuple[str, list[Unit]]]:
    """The outermost containers of one content that all of these units fall into; empty where they do not."""
    paths = [unit.path.split("/") for unit in units]
    if len({unit.colour for unit in units}) < 2 or any(unit.note for unit in units):
        return []
    for depth in range(1, min(map(len, paths))):
        groups: dict[str, list[Unit]] = {}
        for path, unit in zip(paths, units, strict=True):
            groups.setdefault("/".join(path[:depth]), []).append(unit)
        if len(groups) > 1:
            alike = len({_content(group) for group in groups.values()}) == 1
            return list(groups.items()) if alike else []
    return []


def _content(units: Sequence[Unit]) -> frozenset[tuple[Colour, int]]:
    return frozenset(Counter(unit.colour for unit in units).items())


def _unit(path: str, units: Sequence[Unit]) -> Unit:
    calls = [unit.call for unit in units]
    call = min(one for one in calls if one is not None) if all(one is not None for one in calls) else None
    colour = (CONTAINER, len(units))
    return Unit(path, tokens(path), (colour,), {}, (), typed=False, place=min(unit.place for unit in units), call=call)
