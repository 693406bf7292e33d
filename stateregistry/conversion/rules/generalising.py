"""Generalising: few renames with captures in place of many that name one path each.

Paths of one form differ in numbers alone. Numbers that run alike become a capture, with a shift where they begin elsewhere; a
number that runs through several of the other side is counted, anew for every value of what both sides capture. Where one rule
does not say all of a group, it is divided by one of its numbers. Whether a rule says more than it should is for others to try.
Reads paths.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from stateregistry.conversion.rules.rules import COUNT, Rename

#: A number in a name. The zeros that it is filled up with belong to the name: `unit01` is `unit0` and 1, in both directions.
_NUMBER: Final = re.compile(r"(?:0|[1-9]\d*)(?!\d)")
#: Names of captures, in the order of the numbers of a path.
_NAMES: Final = "ijklmnop"
#: So many times a group of one form is divided at most, by one number after the other.
_DIVIDED: Final = 2

Pairs = Sequence[tuple[str, str]]


def generalised(pairs: Mapping[str, str]) -> list[tuple[Rename, list[Rename]]]:
    """Renames with captures, each with the plain ones that it stands for."""
    groups: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for source, target in pairs.items():
        groups.setdefault((form(source), form(target)), []).append((source, target))
    return [row for group in groups.values() for row in _few(group, _DIVIDED)]


def _few(group: Pairs, depth: int) -> list[tuple[Rename, list[Rename]]]:
    """The fewest renames for a group of one form."""
    plain = [Rename(*pair) for pair in group]
    if len(group) == 1:
        return [(plain[0], plain)]
    rule = general(group)
    if rule is not None:
        return [(rule, plain)]
    best = [(each, [each]) for each in plain]
    for column in (*columns(source for source, _ in group), *columns(target for _, target in group)):
        parts: dict[int, list[tuple[str, str]]] = {}
        for number, pair in zip(column, group, strict=True):
            parts.setdefault(number, []).append(pair)
        if not depth or not 1 < len(parts) < len(group):
            continue
        found = [row for part in parts.values() for row in _few(part, depth - 1)]
        if len(found) < len(best):
            best = found
    return best


def form(path: str) -> str:
    """A path with its numbers left out."""
    return _NUMBER.sub("#", path)


def columns(paths: Iterable[str]) -> list[tuple[int, ...]]:
    """Position by position, the numbers in paths of one form."""
    return list(zip(*((int(text) for text in _NUMBER.findall(path)) for path in paths), strict=True))


def pattern_of(paths: Sequence[str]) -> str | None:
    """The pattern of paths of one form, with a capture for each number that runs; `None` where there are too many."""
    running = [number for number, column in enumerate(columns(paths)) if len(set(column)) > 1]
    if len(running) > len(_NAMES):
        return None
    return _filled(paths[0], {at: f"{{{name}}}" for at, name in zip(running, _NAMES, strict=False)})


def general(group: Pairs) -> Rename | None:
    """One rename for pairs of paths of one form, `None` where their numbers do not run alike."""
    left, right = columns(source for source, _ in group), columns(target for _, target in group)
    running = [[number for number, column in enumerate(side) if len(set(column)) > 1] for side in (left, right)]
    fields: tuple[dict[int, str], dict[int, str]] = ({}, {})
    names = iter(_NAMES)
    called: dict[int, tuple[str, int]] = {}  # place on the left -> capture, and what is added to it there
    for place in running[1]:
        near = [at for at in running[0] if _apart(left[at], right[place]) is not None]
        same = next((at for at in near if at not in called), near[0] if near else None)
        if same is None:
            continue
        shift = right[place][0] - left[same][0]
        if same not in called:
            name = next(names, "")
            if not name:
                return None
            called[same] = name, max(-shift, 0)
        name, more = called[same]
        fields[0][same] = _field(name, more)
        fields[1][place] = _field(name, more + shift)
    for at in running[0]:  # what runs along with another of its side
        near = [other for other in called if at not in called and _apart(left[other], left[at]) is not None]
        if near:
            name, more = called[near[0]]
            fields[0][at] = _field(name, more + left[at][0] - left[near[0]][0])
    shared = [left[at] for at in called]
    rest = [[at for at in some if at not in done] for some, done in zip(running, fields, strict=True)]
    if rest[0] or rest[1]:
        several, single = (0, 1) if len(rest[1]) == 1 else (1, 0)
        sides = left, right
        if len(rest[single]) != 1 or len(rest[several]) < 2:
            return None
        first = _counts_through([sides[several][at] for at in rest[several]], sides[single][rest[single][0]], shared)
        over = [next(names, "") for _ in rest[several]]
        if first is None or not all(over):
            return None
        fields[several].update({at: f"{{{name}}}" for at, name in zip(rest[several], over, strict=True)})
        fields[single][rest[single][0]] = f"{{{COUNT}+{first}}}" if first else f"{{{COUNT}}}"
    source, target = group[0]
    return _in_order(_filled(source, fields[0]), _filled(target, fields[1]))


def _in_order(source: str, target: str) -> Rename:
    """A rename whose captures are called in the order in which they are read."""
    found = re.findall(r"\{([i-p])\b", f"{source} {target}")
    names = dict(zip(dict.fromkeys(found), _NAMES, strict=False))
    one, two = (re.sub(r"\{([i-p])\b", lambda match: f"{{{names[match[1]]}", text) for text in (source, target))
    return Rename(one, two)


def _field(name: str, shift: int) -> str:
    return f"{{{name}{shift:+d}}}" if shift else f"{{{name}}}"


def _apart(one: Sequence[int], two: Sequence[int]) -> int | None:
    """What one column is always more than another, `None` where that is not one number."""
    found = {b - a for a, b in zip(one, two, strict=True)}
    return found.pop() if len(found) == 1 else None


def _counts_through(
    several: Sequence[Sequence[int]], single: Sequence[int], shared: Sequence[Sequence[int]]
) -> int | None:
    """Where a column begins that counts through what others have in several numbers, anew for each of the shared ones."""
    groups: dict[tuple[int, ...], list[tuple[tuple[int, ...], int]]] = {}
    for place, number in enumerate(single):
        mark = tuple(column[place] for column in shared)
        groups.setdefault(mark, []).append((tuple(column[place] for column in several), number))
    first = {min(number for _, number in rows) for rows in groups.values()}
    if len(first) != 1:
        return None
    start = first.pop()
    for rows in groups.values():
        if [number for _, number in sorted(rows)] != list(range(start, start + len(rows))):
            return None
    return start


def _filled(path: str, fields: Mapping[int, str]) -> str:
    """A path with captures in the place of some of its numbers."""
    numbers = iter(range(len(path) + 1))
    return _NUMBER.sub(lambda match: fields.get(next(numbers), match.group()), path)


def strict(rule: Rename) -> Rename:
    """A rename whose captures are numbers: `{i+0}` captures nothing else."""
    return Rename(re.sub(r"\{([i-p])\}", r"{\1+0}", rule.source), rule.target)
