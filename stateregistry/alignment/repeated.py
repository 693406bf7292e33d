"""Repeated: what one side has more often than the other: a list that is longer, or a part that the other side has not at all.

Lists are told by the numbers in paths, and what they hold by colours, so that the other side may hold the same in lists of
other names or in none. Only what accounts for every difference in number is said. Reads views.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from stateregistry.alignment.colours import Colour
from stateregistry.alignment.lexicon import words
from stateregistry.alignment.listed import apart, called_as, counted_lists
from stateregistry.alignment.longer import only
from stateregistry.alignment.model import Unit, View
from stateregistry.alignment.spelling import tokens

_SIDES = ("source", "target")
_Loose = tuple[frozenset[int], frozenset[int]]


@final
@dataclass(frozen=True, slots=True)
class _List:
    """What is counted under one name.

    Attributes:
        count: how often it is there. held: what its repetitions hold, what most of them do first. units: all of that.
        alike: all of them hold the same, and they are in no other list.
    """

    name: str
    count: int
    held: tuple[Counter[Colour], ...]
    units: frozenset[int]
    alike: bool

    def __str__(self) -> str:
        return f"{self.count} {'repetition' if self.count == 1 else 'repetitions'} of `{self.name}`"


def repeated(source: View, target: View, left: tuple[Sequence[Unit], Sequence[Unit]], *, near: bool = False) -> str:
    """The list or the part that one side has more often, if that accounts for all that is left; empty where none does.

    `near`: colours say less than they do, so that only lists that hold something of what is left are any.
    """
    views = source, target
    if not left[0] and not left[1]:
        return ""
    lists = [_lists(view.main) for view in views]
    if near:
        lists = [[each for each in side if _holds_any(each, units)] for side, units in zip(lists, left, strict=True)]
    beyond, loose = Counter(apart(source, target)), only(left)
    return (
        _longer(lists, beyond, loose)
        or _more_of_the_same(views, lists, beyond, loose, richer=True)
        or _part(views, beyond, loose)
        or _more_of_the_same(views, lists, beyond, loose, richer=False)
        or _covering(lists, left)
        or _largest(views, lists)
    )


def _holds_any(some: _List, units: Sequence[Unit]) -> bool:
    return not units or any(id(unit) in some.units for unit in units)


def _lists(units: Sequence[Unit]) -> list[_List]:
    """The lists of a side, those that hold most first. What is counted may be a single layer."""
    found = []
    for name, items in counted_lists(units).items():
        held = Counter(frozenset(Counter(unit.colour for unit, _ in item).items()) for item in items.values())
        kinds = tuple(Counter(dict(each)) for each, _ in held.most_common())
        inside = frozenset(id(unit) for item in items.values() for unit, _ in item)
        whole = len(held) == 1 and all(sum(number is not None for _, number in path) == 1 for path in items)
        first = next(iter(items.values()))[0]
        found.append(_List(called_as(*first, name), len(items), kinds, inside, whole))
    return sorted(found, key=lambda each: -each.held[0].total())


def _longer(lists: Sequence[Sequence[_List]], beyond: Counter[Colour], loose: _Loose) -> str:
    """A list of both sides that holds the same and is not as long."""
    for one in lists[0]:
        for two in lists[1]:
            more = one.count - two.count
            alike = (
                more and any(held in two.held for held in one.held) and loose[more < 0] <= (one, two)[more < 0].units
            )
            if alike and any(beyond == _times(held, more) for held in (*one.held, *two.held)):
                name = "" if one.name == two.name else f" of `{two.name}`"
                return f"the source has {one}, the target has {two.count}{name}"
    return ""


def _more_of_the_same(
    views: tuple[View, View], lists: Sequence[Sequence[_List]], beyond: Counter[Colour], loose: _Loose, *, richer: bool
) -> str:
    """A list of the side that has more, or of the other, where the other has what it holds in no list."""
    for number, side in enumerate(lists):
        for each in side:
            for held in each.held:
                colour, size = next(iter(held.items()))
                more = (-beyond[colour] if number else beyond[colour]) // size
                if not more or each.count <= more or beyond != _times(held, -more if number else more):
                    continue
                if (more > 0) is not richer or not (richer or (each.alike and held.total() > 1)):
                    continue
                if richer and (not loose[number] <= each.units or _elsewhere(views[number], each, held)):
                    continue
                here, there = _SIDES[number], _SIDES[1 - number]
                rest = each.count - more
                return f"the {here} has {each}, the {there} has what {rest} of them {'holds' if rest == 1 else 'hold'}"
    return ""


def _elsewhere(view: View, some: _List, held: Counter[Colour]) -> bool:
    """Whether a container beside a list holds what its repetitions do, so that it could be what there is more."""
    found: dict[str, Counter[Colour]] = {}
    for unit in view.main:
        if id(unit) not in some.units:
            steps = unit.path.split("/")
            for end in range(1, len(steps) + 1):
                found.setdefault("/".join(steps[:end]), Counter())[unit.colour] += 1
    return any(each == held for each in found.values())


def _times(colours: Counter[Colour], factor: int) -> Counter[Colour]:
    return Counter({colour: count * factor for colour, count in colours.items()})


def _part(views: tuple[View, View], beyond: Counter[Colour], loose: _Loose) -> str:
    """A container that one side has and the other has not."""
    signs = {count > 0 for count in beyond.values()}
    if len(signs) != 1:
        return ""
    number = 0 if signs == {True} else 1
    wanted = Counter({colour: abs(count) for colour, count in beyond.items()})
    units, others = views[number].main, views[1 - number].main
    held: dict[str, list[Unit]] = {}
    for unit in units:
        steps = unit.path.split("/")
        for end in range(1, len(steps)):
            held.setdefault("/".join(steps[:end]), []).append(unit)
    found: dict[int, str] = {}
    for path, members in held.items():
        inside = loose[number] <= {id(unit) for unit in members}
        if inside and len(members) < len(units) and Counter(unit.colour for unit in members) == wanted:
            found.setdefault(id(members[0]), path)  # of one inside the other with nothing beside it, the outer one
    if len(found) > 1:  # what has a name there has its place there
        there = words(token for unit in others for token in tokens(unit.path.rpartition("/")[0]))
        named = {place: words(tokens(path)) for place, path in found.items()}
        found = {place: path for place, path in found.items() if named[place] and not named[place] & there} or found
    names = ", ".join(f"`{path}`" for path in found.values())
    here, other = _SIDES[number], _SIDES[1 - number]
    if len(found) == 1:
        return f"the {here} has {names}, and the {other} nothing that corresponds"
    return f"the {here} has one more of {names} than the {other}" if found else ""


def _covering(lists: Sequence[Sequence[_List]], left: tuple[Sequence[Unit], Sequence[Unit]]) -> str:
    """A list of either side that holds all that is left of it, and not as often as that of the other."""
    if not left[0] or not left[1]:
        return ""
    found = []
    for side, units in zip(lists, left, strict=True):
        loose = {id(unit) for unit in units}
        found.append(next((each for each in reversed(side) if each.alike and loose <= each.units), None))
    one, two = found
    if one is None or two is None or one.count == two.count or not one.held[0].keys() & two.held[0].keys():
        return ""
    return f"the source has {one}, the target has {two.count} of `{two.name}`"


def _largest(views: tuple[View, View], lists: Sequence[Sequence[_List]]) -> str:
    """The list that holds most of either side, if its repetitions are mostly of the same colours and not as many."""
    found = []
    for view, side in zip(views, lists, strict=True):
        alike = [each for each in side if each.count > 1 and each.alike]
        each = max(alike, key=lambda one: len(one.units), default=None)
        if each is None or 2 * len(each.units) <= len(view.main):
            return ""
        found.append(each)
    one, two = found
    both, either = one.held[0].keys() & two.held[0].keys(), one.held[0].keys() | two.held[0].keys()
    if one.count == two.count or 2 * len(both) < len(either):
        return ""
    return f"the source has {one}, the target has {two.count} of `{two.name}`"
