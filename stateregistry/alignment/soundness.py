"""Soundness: what a finished pairing must not contradict. These checks, not the search, are what keeps it right.

Numbers that decided are held against everything that was decided without them: one inversion takes back all pairs that
rest on that name's numbers. Containers that are counted must not be torn apart. (Flattened images: `images`.)
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, final

from stateregistry.alignment import making, mirrors
from stateregistry.alignment.containers import counted_name
from stateregistry.alignment.model import Pair, Question, Result, Unit, View, is_automatic
from stateregistry.alignment.spelling import Tokens, steps_of, tokens

if TYPE_CHECKING:
    from stateregistry.alignment.colours import Colour

#: Evidence of an anchor.
BY_RULE: Final = "a rename rule"
#: Evidence of elimination.
LEFT: Final = "the one that is left"
#: Evidence of equal names.
_BY_NAME: Final = frozenset({"same path", "same names, numbers by rank", "the same name"})


def check(result: Result, source: View, target: View) -> None:
    """Take back pairs that something contradicts, and grade those that nothing confirms. Changes the result."""
    _named(result, source, target)
    _numbers(result, source, target)
    making.doubt(result.pairs, source, target)
    mirrors.doubt(result.pairs, source, target)
    _torn(result, source, target)


# -------------------------------------------------------------------- numbers


def _named(result: Result, source: View, target: View) -> None:
    """Doubt equal names whose numbers run against the calls of one side, of layers that could change places.

    Where the other side has them in the same order, by its calls or as they are declared, its author counted likewise.
    """
    pairs = [pair for pair in result.pairs if pair.grade in ("certain", "numbers") and _BY_NAME & {*pair.evidence}]
    views = source, target
    against = [_against(pairs, number, view) for number, view in enumerate(views)]
    for pair in pairs:
        units = pair.source, pair.target
        for mine, its in ((0, 1), (1, 0)):
            if not views[mine].called:
                continue
            for key, _, number in counted(units[mine].tokens):
                mate = _same_number(units[its], number)
                if (key, units[mine].colour) not in against[mine] or mate is None:
                    continue
                if (mate, units[its].colour) not in against[its]:
                    pair.doubt(
                        "assumption", "the same number on both sides, which runs against the order of calls on one"
                    )


def _same_number(unit: Unit, number: int) -> tuple[object, ...] | None:
    """The counted name of a unit that has a number; of several the outermost."""
    return next((key for key, _, own in counted(unit.tokens) if own == number), None)


def _against(pairs: Sequence[Pair], side: int, view: View) -> set[tuple[tuple[object, ...], Colour]]:
    """Counted names and colours of which several numbers are called, or else declared, in another order."""
    seen: dict[tuple[tuple[object, ...], Colour], dict[int, int]] = {}
    for pair in pairs:
        unit = (pair.source, pair.target)[side]
        place = unit.call if view.called else unit.place if view.ordered else None
        if place is None:
            continue
        for key, _, number in counted(unit.tokens):
            places = seen.setdefault((key, unit.colour), {})
            places[number] = min(places.get(number, place), place)
    return {
        mark
        for mark, places in seen.items()
        if any(a > b for a, b in _steps([place for _, place in sorted(places.items())]))
    }


@final
class _Order:
    """For every name that is counted on one side, in what order the other side has what was decided without numbers."""

    def __init__(self, pairs: Iterable[Pair], own: int, other: View) -> None:
        self._seen: dict[tuple[object, ...], dict[int, tuple[int, int]]] = {}
        self._names: dict[tuple[object, ...], str] = {}
        for pair in pairs:
            mine, theirs = (pair.source, pair.target) if own == 0 else (pair.target, pair.source)
            if other.called and theirs.call is None:
                continue
            place = theirs.call if theirs.call is not None else theirs.place
            for key, name, number in counted(mine.tokens):
                key = (mine.call is None, *key)  # noqa: PLW2901
                self._names[key] = name
                numbers = self._seen.setdefault(key, {})
                # Where calls are known, numbers decided only as far as they run with the calls: these are what must agree.
                own = number if mine.call is None else mine.call
                known = numbers.get(number, (own, place))
                numbers[number] = min(own, known[0]), min(place, known[1])

    def inverted(self) -> set[str]:
        """The names whose numbers run against the order of the other side, somewhere."""
        return {
            self._names[key]
            for key, numbers in self._seen.items()
            if any(a > b for a, b in _steps([place for _, place in sorted(numbers.values())]))
        }


def _steps(places: Sequence[int]) -> Iterable[tuple[int, int]]:
    return itertools.pairwise(places)


def counted(path: Tokens) -> Iterable[tuple[tuple[object, ...], str, int]]:
    """Every name of a path that has a number: with the container that it is in, as it is called everywhere, its number."""
    for depth, token in enumerate(path):
        if token.number is not None:
            key = (*(one.same for one in path[:depth]), token.stem)
            yield key, counted_name(path[: depth + 1]), token.number


def _numbers(result: Result, source: View, target: View) -> None:
    free = [pair for pair in result.pairs if pair.grade == "certain"]
    inverted = [set[str](), set[str]()]
    for own, other in ((0, target), (1, source)):
        if other.ordered or other.called:
            inverted[own] = _Order(free, own, other).inverted()
    along, against = _both_counted(free)
    runs = _Runs(free, _counted_in(result.pairs))
    kept: list[Pair] = []
    doubted: set[Colour] = set()
    for pair in result.pairs:
        wrong = [name for stem in pair.stems for side in (0, 1) for name in stem[side] if name in inverted[side]]
        names = _own_names(pair)
        if wrong and pair.leaf and set(wrong) <= set(names) and (known := runs.counts_on(pair)):
            if known != "between":
                doubted.add(pair.source.colour)
                pair.doubt("assumption", f"the numbers of `{wrong[0]}` run against others that it counts")
        elif wrong or (pair.leaf and names in against):
            name = wrong[0] if wrong else names[1]
            text = f"the numbers of `{name}` run against what was decided without them"
            result.questions.append(Question([pair.source], [pair.target], text))
            continue
        if pair.grade == "numbers" and any(
            _is_nobodys(*side) for side in ((source, pair.source), (target, pair.target))
        ):
            pair.doubt("assumption", "numbers of names in an order that tears modules apart: nothing confirms them")
        elif pair.leaf and pair.grade == "numbers" and names not in along:
            _doubt(pair, source, target)
        kept.append(pair)
    for pair in kept:
        if pair.source.colour in doubted and LEFT in pair.evidence:
            pair.doubt("assumption", "left by others that are one")
    result.pairs[:] = kept


#: A counted name in its container; where it begins to count, and in what steps.
_Steps = dict[object, tuple[int, int]]


def _counted_in(pairs: Iterable[Pair]) -> tuple[_Steps, _Steps]:
    """Where the names of units begin to count, and in what steps, on either side."""
    numbers: tuple[dict[object, set[int]], dict[object, set[int]]] = ({}, {})
    for pair in pairs:
        for side, unit in enumerate((pair.source, pair.target)):
            last = _last(unit.tokens)
            if last is not None:
                numbers[side].setdefault(last[0], set()).add(last[1])
    one, two = ({name: (min(found), steps_of(found)) for name, found in side.items()} for side in numbers)
    return one, two


@final
class _Runs:
    """Lists of which two members at least are paired without numbers, and all of these at one distance, in their steps."""

    def __init__(self, pairs: Iterable[Pair], steps: tuple[_Steps, _Steps]) -> None:
        self._steps = steps
        found: dict[tuple[object, object], list[tuple[int, int]]] = {}
        for pair in pairs:
            turns = self._turns(pair)
            if turns is not None:
                found.setdefault(turns[0], []).append(turns[1])
        self._rows = {
            both: row for both, row in found.items() if len(set(row)) > 1 and len({b - a for a, b in row}) == 1
        }

    def _turns(self, pair: Pair) -> tuple[tuple[object, object], tuple[int, int]] | None:
        """The counted names of both sides, and which of their steps the units are."""
        one, two = _last(pair.source.tokens), _last(pair.target.tokens)
        if one is None or two is None:
            return None
        (first, step), (its, other) = self._steps[0][one[0]], self._steps[1][two[0]]
        return (one[0], two[0]), ((one[1] - first) // step, (two[1] - its) // other)

    def counts_on(self, pair: Pair) -> str:
        """Whether a pair is at the distance of the others of its two lists, `between` them or `beyond`; empty if it is not.

        What else one of the two names counts, and in what order, is then nothing to them.
        """
        turns = self._turns(pair)
        row = self._rows.get(turns[0], []) if turns is not None else []
        if turns is None or not row or turns[1][1] - turns[1][0] != row[0][1] - row[0][0]:
            return ""
        return "between" if min(row)[0] < turns[1][0] < max(row)[0] else "beyond"


def _is_nobodys(view: View, unit: Unit) -> bool:
    """Whether no order stands behind the numbers of a unit: neither one of calls nor one in which it was written."""
    return view.scattered and unit.call is None


def _own_names(pair: Pair) -> tuple[str, str]:
    return counted_name(pair.source.tokens), counted_name(pair.target.tokens)


def _both_counted(pairs: Iterable[Pair]) -> tuple[set[tuple[str, str]], set[tuple[str, str]]]:
    """Names of units that both sides count: those whose numbers run alike in what was decided without them, and others."""
    groups: dict[tuple[object, ...], list[tuple[int, int]]] = {}
    names: dict[tuple[object, ...], tuple[str, str]] = {}
    for pair in pairs:
        one, two = _last(pair.source.tokens), _last(pair.target.tokens)
        if one is not None and two is not None:
            key = (one[0], two[0])
            groups.setdefault(key, []).append((one[1], two[1]))
            names[key] = _own_names(pair)
    along: set[tuple[str, str]] = set()
    against: set[tuple[str, str]] = set()
    for both, found in groups.items():
        seconds = [number for _, number in sorted(found)]
        if any(a >= b for a, b in _steps(seconds)):
            against.add(names[both])
        elif len(found) > 1:
            along.add(names[both])
    return along - against, against


def _last(path: Tokens) -> tuple[tuple[object, ...], int] | None:
    """The counted name of a unit in its container, and its number."""
    number = path[-1].number if path else None
    return None if number is None else ((*(one.same for one in path[:-1]), path[-1].stem), number)


def _doubt(pair: Pair, source: View, target: View) -> None:
    """Numbers of single layers that no other pair confirms: an order of making, which need not be that of the calls."""
    known = False
    for view, unit in ((source, pair.source), (target, pair.target)):
        called = unit.call is not None
        known |= called or (unit.typed and view.ordered)
        if is_automatic(unit) and not called:
            pair.doubt(
                "assumption", "the numbers of single layers that were counted as they were made, not as they are called"
            )
            return
    if not known:
        pair.doubt("assumption", "the numbers of single layers, which no order that is known confirms")


# -------------------------------------------------------------------- containers


def _torn(result: Result, source: View, target: View) -> None:
    """A counted container whose layers go to several, of which one also takes layers of others."""
    # What a rule says is called as the target calls it: its path says nothing of the containers of the source.
    free = [pair for pair in result.pairs if pair.evidence[:1] != [BY_RULE]]
    one, two = _members(free, 0, source), _members(free, 1, target)
    around: tuple[dict[int, list[tuple[object, ...]]], ...] = ({}, {})
    for side, held in enumerate((one, two)):
        for place, several in held.items():
            for pair in several:
                around[side].setdefault(id(pair), []).append(place)
    bad: set[int] = set()
    for own, members, others in ((0, one, two), (1, two, one)):
        for pairs in members.values():
            if len(pairs) < 2 or all(pair.grade == "certain" for pair in pairs):
                continue
            inside = {id(pair) for pair in pairs}
            for key in sorted({key for pair in pairs for key in around[1 - own].get(id(pair), ())}, key=repr):
                theirs = {id(pair) for pair in others.get(key, ())}
                if inside & theirs and inside - theirs and theirs - inside:
                    bad |= {id(pair) for pair in pairs if pair.grade != "certain"}
    for pair in [pair for pair in result.pairs if id(pair) in bad]:
        text = "a counted container would be torn apart"
        result.questions.append(Question([pair.source], [pair.target], text))
    result.pairs[:] = [pair for pair in result.pairs if id(pair) not in bad]


def _containers(unit: Unit) -> Iterable[tuple[object, ...]]:
    """The counted containers around a unit: not the unit's own name."""
    for depth, token in enumerate(unit.tokens[:-1]):
        if token.number is not None:
            yield tuple(one.same for one in unit.tokens[: depth + 1])


def _members(pairs: Sequence[Pair], side: int, view: View) -> dict[tuple[object, ...], list[Pair]]:
    """What every counted container holds; a unit of its very name (`up_0` beside `up_0_mix`) is in it.

    What several containers share stands in one of them by chance: it is in none.
    """
    second: dict[str, list[str]] = {}
    for alias, key in view.aliases.items():
        second.setdefault(key, []).append(alias)
    found: dict[tuple[object, ...], list[Pair]] = {}
    alone: list[Pair] = []
    for pair in pairs:
        unit = (pair.source, pair.target)[side]
        homes = list(_containers(unit))
        if not homes or not _is_shared(unit, second):
            alone.append(pair)
            for home in homes:
                found.setdefault(home, []).append(pair)
    for pair in alone:
        own = tuple(one.same for one in (pair.source, pair.target)[side].tokens)
        if own in found:
            found[own].append(pair)
    return found


def _is_shared(unit: Unit, second: Mapping[str, Sequence[str]]) -> bool:
    """Whether an array of a unit has another name, in another container."""
    return any(
        tokens(alias.rpartition("/")[0])[:-1] != tokens(key.rpartition("/")[0])[:-1]
        for key in unit.keys
        for alias in second.get(key, ())
    )
