"""Longer: which list of one side is the one that has more, or fewer, layers than the list of the other that it corresponds to.

Two lists are held against one another only if what one holds beyond the other is all that sets the models apart; of several
such readings the one that decided pairs, then words, speak for is said, and where nothing does, all of them are. Reads views.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, final

from stateregistry.alignment.colours import Colour
from stateregistry.alignment.lexicon import words
from stateregistry.alignment.listed import Member, apart, called_as, counted_lists, written
from stateregistry.alignment.model import Pair, Unit, View
from stateregistry.alignment.spelling import Token, tokens

#: So many lists of a side, readings, and lists that differ at once are looked at.
_LISTS: Final = 48
_READINGS: Final = 64
_AT_ONCE: Final = 3
#: So many different repetitions of one list are told apart.
_CONTENTS: Final = 8
_STEPS: Final = 2000
#: So many lists side by side are named; of more, what they hold is.
_NAMED: Final = 2


@final
@dataclass(frozen=True, slots=True)
class _List:
    """What is counted: under one name, under several side by side, or those under one name that hold the same.

    Attributes:
        names: as they are written. parent: what is around it. count: how often it is there. held: all that it holds.
        like: its names are of the first of those that hold the same. parts: the lists that it is put together from.
        contents: what one of them holds, each once.
    """

    names: tuple[str, ...]
    parent: str
    count: int
    held: Counter[Colour]
    units: frozenset[int]
    like: bool = False
    parts: tuple[_List, ...] = ()
    contents: tuple[Counter[Colour], ...] = ()

    def holds_in(self, number: int, colours: Counter[Colour]) -> bool:
        """Whether so many of its repetitions hold just these."""
        return any(not rest for rest in _taken(self.parts or (self,), number, colours, itertools.count()))

    @property
    def many(self) -> bool:
        """Whether its names are too many to be told."""
        return len(self.names) > _NAMED

    def said(self, noun: bool) -> str:
        """It in a sentence, with the noun where it is told first."""
        named = " and ".join(f"`{name}`" for name in self.names[:_NAMED])
        named += f" and {len(self.names) - _NAMED} more" if self.many else ""
        if self.like:
            what = "layer" if self.held.total() == self.count else "block"
            return f"{self.count} {what if self.count == 1 else what + 's'} like {named}"
        what = "repetition" if self.count == 1 else "repetitions"
        return f"{self.count} {what} of {named}" if noun else f"{self.count} of {named}"


def _taken(
    parts: Sequence[_List], number: int, colours: Counter[Colour], steps: Iterator[int]
) -> Iterator[Counter[Colour]]:
    """What is left of some colours without those of so many repetitions of each list."""
    if not parts:
        yield colours
        return
    for rest in _without(parts[0].contents[:_CONTENTS], number, colours, steps):
        yield from _taken(parts[1:], number, rest, steps)


def _without(
    contents: Sequence[Counter[Colour]], number: int, colours: Counter[Colour], steps: Iterator[int]
) -> Iterator[Counter[Colour]]:
    if next(steps) > _STEPS:
        return  # what takes longer to see than this is not said
    if not number:
        yield colours
    elif contents:
        first = contents[0]
        most = min(number, *(colours[colour] // count for colour, count in first.items()))
        for times in range(most, -1, -1):
            rest = Counter({colour: count - times * first[colour] for colour, count in colours.items()})
            yield from _without(contents[1:], number - times, +rest, steps)


@final
@dataclass(frozen=True, slots=True)
class _Reading:
    """A list of the source and one of the target, with what the first holds beyond the second and what speaks for the two."""

    one: _List
    two: _List
    beyond: dict[Colour, int]
    evidence: tuple[int, int, int]
    size: tuple[int, bool, int, int]

    def __str__(self) -> str:
        if self.two.many and not self.one.many and not self.one.like:
            hold = "holds" if self.two.count == 1 else "hold"
            return f"the source has {self.one.said(True)}, the target has what {self.two.count} of them {hold}"
        if self.one.many and not self.two.many and not self.two.like:
            hold = "holds" if self.one.count == 1 else "hold"
            return f"the target has {self.two.said(True)}, the source has what {self.one.count} of them {hold}"
        return f"the source has {self.one.said(True)}, the target has {self.two.said(self.one.like)}"


def longer(source: View, target: View, left: tuple[Sequence[Unit], Sequence[Unit]], pairs: Sequence[Pair] = ()) -> str:
    """The lists that are not as long, if they account for all that sets the models apart; empty where none do."""
    loose = only(left)
    more = apart(source, target)
    if not more:
        return ""
    known = [pair for pair in pairs if pair.grade == "certain"]
    readings = sorted(
        _readings(_lists(source.main, more), _lists(target.main, more), more, known, loose),
        key=lambda each: (*each.evidence, *each.size),
        reverse=True,
    )
    whole = [each for each in readings if each.beyond == more]
    if whole:
        return _among(whole)
    found = next(_together(readings[:_READINGS], more, ()), ())
    if not found:
        return ""
    here = " and ".join(each.one.said(number == 0) for number, each in enumerate(found))
    there = " and ".join(each.two.said(number == 0 and found[0].one.like) for number, each in enumerate(found))
    return f"the source has {here}, the target has {there}"


def only(left: tuple[Sequence[Unit], Sequence[Unit]]) -> tuple[frozenset[int], frozenset[int]]:
    """What is left on one side alone is what that side has more: the other side's layers all have their partners."""
    one, two = (frozenset(map(id, units)) for units in left)
    return (one, two) if not one or not two else (frozenset(), frozenset())


def _among(readings: Sequence[_Reading]) -> str:
    """The first reading, and beside it those that as much speaks for."""
    best = readings[0]
    alike = [each for each in readings if each.evidence == best.evidence and each.one.like == best.one.like]
    ones, twos = [best.one], [best.two]
    for each in alike:
        if each.two.count == best.two.count and all(each.two.units.isdisjoint(two.units) for two in twos):
            twos.append(each.two)
        if each.one.count == best.one.count and all(each.one.units.isdisjoint(one.units) for one in ones):
            ones.append(each.one)
    if len(ones) == len(twos) == 1:
        return str(best)
    here, there = (" or ".join([each[0].said(True), *(one.said(False) for one in each[1:])]) for each in (ones, twos))
    return f"the source has {here}, the target has {there}"


def _together(
    readings: Sequence[_Reading], excess: dict[Colour, int], taken: tuple[_Reading, ...]
) -> Iterator[tuple[_Reading, ...]]:
    """Readings of other lists each that account for everything between them."""
    for place, each in enumerate(readings):
        if any(each.one.units & other.one.units or each.two.units & other.two.units for other in taken):
            continue
        rest = {colour: count - each.beyond.get(colour, 0) for colour, count in excess.items()}
        rest = {colour: count for colour, count in rest.items() if count}
        if not rest:
            yield (*taken, each)
        elif len(taken) + 1 < _AT_ONCE and all(count * excess[colour] > 0 for colour, count in rest.items()):
            yield from _together(readings[place + 1 :], rest, (*taken, each))


def _readings(
    here: Sequence[_List],
    there: Sequence[_List],
    excess: dict[Colour, int],
    pairs: Sequence[Pair],
    loose: tuple[frozenset[int], frozenset[int]],
) -> Iterator[_Reading]:
    seen = set()
    for first in here:
        for second in there:
            if first.count == second.count:
                continue
            one, two = _alike(first, second)
            if one is None or two is None or (mark := (one.count, one.units, two.count, two.units)) in seen:
                continue
            seen.add(mark)
            beyond = {c: one.held[c] - two.held[c] for c in one.held | two.held if one.held[c] != two.held[c]}
            more = one.count - two.count
            if not beyond or any(
                count * more < 0 or count * excess.get(c, 0) <= 0 or abs(count) > abs(excess[c])
                for c, count in beyond.items()
            ):
                continue
            if not (one if more > 0 else two).holds_in(abs(more), Counter({c: abs(n) for c, n in beyond.items()})):
                continue
            if not loose[more < 0] <= (one if more > 0 else two).units:
                continue
            inside = [(id(pair.source) in one.units, id(pair.target) in two.units) for pair in pairs]
            shared = words(_steps(one)) & words(_steps(two))
            evidence = (-sum(a != b for a, b in inside), sum(a and b for a, b in inside), len(shared))
            size = -len(one.names) - len(two.names), one.held.total()
            yield _Reading(one, two, beyond, evidence, (-abs(more), not (one.like or two.like), *size))


def _steps(some: _List) -> list[Token]:
    return [token for name in some.names for token in tokens(name)]


def _alike(one: _List, two: _List) -> tuple[_List | None, _List | None]:
    """Both with those of their parts alone that hold something of the other."""
    while True:
        left, right = _within(one, two.held), None
        if left is None:
            return None, None
        right = _within(two, left.held)
        if right is None or (left.units == one.units and right.units == two.units):
            return left, right
        one, two = left, right


def _within(some: _List, colours: Counter[Colour]) -> _List | None:
    if not some.parts:
        return some if some.held.keys() & colours.keys() else None
    parts = [part for part in some.parts if part.held.keys() <= colours.keys()]
    return _joined(parts) if parts else None


def _joined(parts: Sequence[_List]) -> _List:
    if len(parts) == 1:
        return parts[0]
    held = sum((part.held for part in parts), Counter())
    units = frozenset().union(*(part.units for part in parts))
    names = tuple(name for part in parts for name in part.names)
    return _List(names, parts[0].parent, parts[0].count, held, units, parts=tuple(parts))


def _lists(units: Sequence[Unit], excess: dict[Colour, int]) -> list[_List]:
    """The lists of a side that hold any of what sets the models apart, and those that are counted alike as one."""
    singles, like, families = [], [], dict[tuple[str, int], list[_List]]()
    for name, members in counted_lists(units).items():
        parent = name.rpartition("/")[0]
        whole = _list(members.values(), name, parent)
        for family in {(parent, whole.count), ("", whole.count)}:
            families.setdefault(family, []).append(whole)
        if whole.held.keys() & excess.keys():
            singles.append(whole)
        by_content: dict[frozenset[tuple[Colour, int]], list[Member]] = {}
        for member in members.values():
            by_content.setdefault(frozenset(Counter(u.colour for u, _ in member).items()), []).append(member)
        if len(by_content) > 1:
            some = [_list(each, name, parent, like=True) for each in by_content.values()]
            like += [each for each in some if each.count > 1 and each.held.keys() & excess.keys()]
    joined = [_joined(each) for each in families.values() if len(each) > 1 and each[0].count > 1]
    joined = [each for each in joined if each.held.keys() & excess.keys()]
    return [*singles[:_LISTS], *joined[:_LISTS], *like[:_LISTS]]


def _list(members: Iterable[Member], name: str, parent: str, *, like: bool = False) -> _List:
    some = list(members)
    inside = [unit for member in some for unit, _ in member]
    first, end = some[0][0]
    called = written(first, end) if like else called_as(first, end, name)
    contents = {frozenset(held.items()): held for held in (Counter(u.colour for u, _ in member) for member in some)}
    return _List(
        (called,), parent, len(some), Counter(u.colour for u in inside), frozenset(map(id, inside)), like,
        contents=tuple(contents.values()),
    )  # fmt: skip
