"""Names: the pairs that names alone give, where both models call most of their layers alike.

Walks the two trees of names at once. A prefix that one side has and the other does not is left out; numbers of siblings
pair by value, or by rank where both have as many. Below a share of agreement nothing is taken: the names are foreign.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, final

from stateregistry.alignment.model import Pair, Unit
from stateregistry.alignment.spelling import Tokens

#: The share of the smaller side that must pair with one colour.
SHARE: Final = 0.8
#: The share that must pair by path where some of the layers on both sides have one path and different sizes.
PATHS: Final = 0.8
_PREFIX: Final = 0.3
_DEPTH: Final = 3


@final
@dataclass(slots=True)
class _Node:
    units: list[Unit] = field(default_factory=list)
    children: dict[str, dict[int | None, _Node]] = field(default_factory=dict)
    size: int = 0


@final
@dataclass(slots=True)
class Found:
    """What names give.

    Attributes:
        pairs: of one path. places: pairs of containers whose numbers do not correspond: their units are for structure.
        differing: pairs of one path and two colours.
    """

    pairs: list[Pair] = field(default_factory=list)
    differing: list[Pair] = field(default_factory=list)
    places: list[tuple[list[Unit], list[Unit]]] = field(default_factory=list)


def by_name(sources: Sequence[Unit], targets: Sequence[Unit], *, trusted: bool = False) -> Found | None:
    """Every pair of one neutral path; `None` where the names are foreign. `trusted`: they never are."""
    if not sources or not targets:
        return None
    best: tuple[int, Found] | None = None
    for left, right in _cuts(sources, targets):
        found = Found()
        _walk(_tree(sources, left), _tree(targets, right), found, ranked=False)
        score = sum(not pair.source.spare for pair in found.pairs)
        if best is None or score > best[0]:
            best = (score, found)
        if best[0] == min(len(sources), len(targets)):
            break
    assert best is not None
    score, found = best
    least = min(sum(not unit.spare for unit in units) for units in (sources, targets))
    paths = score + len(found.differing)
    if trusted or score >= SHARE * least or (paths >= PATHS * least and 2 * score >= paths):
        return found
    if paths == len(sources) == len(targets):
        return found  # every name is on both sides: what differs then is to be told of layers of one name
    return None


def _cuts(sources: Sequence[Unit], targets: Sequence[Unit]) -> Iterable[tuple[Tokens, Tokens]]:
    yield (), ()
    for prefix in _heavy(sources):
        yield prefix, ()
    for prefix in _heavy(targets):
        yield (), prefix
    for one in _heavy(sources)[:2]:
        for two in _heavy(targets)[:2]:
            yield one, two


def _heavy(units: Sequence[Unit]) -> list[Tokens]:
    """Prefixes that hold much of a model: a wrapper, or the base model of one with a head."""
    found: list[Tokens] = []
    frontier: list[Tokens] = [()]
    for depth in range(_DEPTH):
        below: dict[Tokens, int] = {}
        for unit in units:
            if len(unit.tokens) > depth + 1 and unit.tokens[:depth] in frontier:
                prefix = unit.tokens[: depth + 1]
                below[prefix] = below.get(prefix, 0) + 1
        frontier = [prefix for prefix, count in below.items() if count >= _PREFIX * len(units)]
        found += [prefix for prefix in frontier if prefix[-1].number is None]
    return found


def _tree(units: Sequence[Unit], cut: Tokens) -> _Node:
    root = _Node()
    same = tuple(token.same for token in cut)
    for unit in units:
        path = unit.tokens
        if cut and tuple(token.same for token in path[: len(cut)]) == same:
            path = path[len(cut) :]
        node = root
        node.size += 1
        for token in path:
            node = node.children.setdefault(token.stem, {}).setdefault(token.number, _Node())
            node.size += 1
        node.units.append(unit)
    return root


def _walk(one: _Node, two: _Node, found: Found, *, ranked: bool) -> None:
    stack = [(one, two, ranked)]
    while stack:
        left, right, rank = stack.pop()
        if len(left.units) == 1 and len(right.units) == 1:
            _pair(left.units[0], right.units[0], found, ranked=rank)
        for stem, numbers in left.children.items():
            others = right.children.get(stem)
            if others is None:
                continue
            if set(numbers) <= set(others) or set(others) <= set(numbers):
                stack += [(numbers[number], others[number], rank) for number in numbers if number in others]
                continue
            by_rank = list(zip(_sorted(numbers), _sorted(others), strict=False))
            if len(numbers) == len(others) and all(_alike(a, b) for a, b in by_rank):
                stack += [(a, b, True) for a, b in by_rank]
            else:
                found.places.append(
                    ([u for n in numbers.values() for u in _units(n)], [u for n in others.values() for u in _units(n)])
                )


def _sorted(numbers: dict[int | None, _Node]) -> list[_Node]:
    return [node for _, node in sorted(numbers.items(), key=lambda item: -1 if item[0] is None else item[0])]


def _alike(one: _Node, two: _Node) -> bool:
    return sorted(map(repr, (u.colour for u in _units(one)))) == sorted(map(repr, (u.colour for u in _units(two))))


def _units(node: _Node) -> list[Unit]:
    found, stack = [], [node]
    while stack:
        one = stack.pop()
        found += one.units
        stack += [child for numbers in one.children.values() for child in numbers.values()]
    return found


def _pair(one: Unit, two: Unit, found: Found, *, ranked: bool) -> None:
    pair = Pair(one, two, ["same path" if not ranked else "same names, numbers by rank"])
    if ranked:
        pair.grade = "numbers"
    (found.pairs if one.colour == two.colour else found.differing).append(pair)
