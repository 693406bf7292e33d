"""Suggested rules: the shortest renames that pin down the pairing that a plan found, as TOML.

Equal ends of two paths are left away, since a rename holds for what lies below it; numbers that run alike become captures,
and blocks that are counted through become `{count}`. What is suggested is tried: the rules give every layer of the source
the path that the plan paired it with, or they are not suggested. Reads a plan, no values.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from stateregistry.conversion.rules.prepare import prepared
from stateregistry.conversion.rules.rules import COUNT, Rename, Rules
from stateregistry.errors import RuleError

if TYPE_CHECKING:
    from stateregistry.conversion.planning.plan import Plan
    from stateregistry.conversion.side import Side

_NUMBER = re.compile(r"\d+")
#: Names of captures, in the order of the numbers of a path.
_NAMES = "ijklmnop"


def suggest(plan: Plan) -> str:
    """The rules that would pin down the pairing of a plan, as the text of a TOML file; empty where nothing is open.

    Args:
        plan: one with or without problems: of one that was refused, what was paired is suggested, and what was not is
            not in it.
    """
    pairs = paired(plan)
    foreign = {source: target for source, target in pairs.items() if source != target}
    renames = _checked(_generalised(_shortened(foreign, pairs)), pairs, plan)
    tables = [f"[[rename]]\nsource = {_quoted(rule.source)}\ntarget = {_quoted(rule.target)}\n" for rule in renames]
    tables += [
        f"[[layer]]  # names and shapes alone say so: look at it\npath = {_quoted(path)}\nkind = {_quoted(kind)}\n"
        for path, kind in _settled(plan)
    ]
    return "\n".join(tables)


def _settled(plan: Plan) -> list[tuple[str, str]]:
    """Pattern and kind of the layers of the source that the plan assumes to be of a kind, one for paths of one form."""
    assumed = {feed.key for move in plan.moves if move.grade == "assumption" for feed in move.sources}
    forms: dict[tuple[str, str], list[str]] = {}
    others: set[str] = set()
    for layer in plan.source.layers:
        form = _NUMBER.sub("#", layer.path)
        if assumed.isdisjoint(layer.roles.values()):
            others.add(form)
        else:
            forms.setdefault((form, layer.kind), []).append(layer.path)
    kinds = Counter(form for form, _ in forms)
    found: list[tuple[str, str]] = []
    for (form, kind), paths in forms.items():
        running = [number for number, column in enumerate(_numbers(paths)) if len(set(column)) > 1]
        if form in others or kinds[form] > 1 or len(running) > len(_NAMES):
            found += [(path, kind) for path in paths]
        else:
            found.append(
                (_filled(paths[0], {at: f"{{{name}}}" for at, name in zip(running, _NAMES, strict=False)}), kind)
            )
    return found


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def paired(plan: Plan) -> dict[str, str]:
    """Path of every layer, and key of every lone entry, of the source that has exactly one partner, with its partner."""
    here, there = _owners(plan.source), _owners(plan.target)
    partners: dict[str, set[str]] = {}
    takers: dict[str, set[str]] = {}
    for move in plan.moves:
        if move.op in ("copy", "sum"):
            for feed in move.sources:
                source, target = here.get(feed.key, feed.key), there.get(move.target, move.target)
                partners.setdefault(source, set()).add(target)
                takers.setdefault(target, set()).add(source)
    return {
        source: target
        for source, targets in partners.items()
        if len(targets) == 1 and len(takers[target := next(iter(targets))]) == 1
    }


def _owners(side: Side) -> dict[str, str]:
    """Entry -> path of the one layer that it belongs to, by its own name where others are tied to it; else it has none."""
    found: dict[str, set[str]] = {}
    own: dict[str, set[str]] = {}
    for layer in side.layers:
        for key in layer.roles.values():
            canonical = side.canonical(key) or key
            found.setdefault(canonical, set()).add(layer.path)
            if canonical == key:
                own.setdefault(key, set()).add(layer.path)
    best = {key: paths if len(paths) == 1 else own.get(key, paths) for key, paths in found.items()}
    return {key: next(iter(paths)) for key, paths in best.items() if len(paths) == 1}


# -------------------------------------------------------------------- shortening


def _shortened(foreign: Mapping[str, str], pairs: Mapping[str, str]) -> dict[str, str]:
    """Prefixes instead of paths, where everything below the prefix agrees."""
    found: dict[str, str] = {}
    for source, target in foreign.items():
        left, right = source.split("/"), target.split("/")
        best = (source, target)
        while len(left) > 1 and len(right) > 1 and left[-1] == right[-1]:
            left, right = left[:-1], right[:-1]
            one, two = "/".join(left), "/".join(right)
            below = {path: there for path, there in pairs.items() if path.startswith(f"{one}/")}
            if any(there != two + path[len(one) :] for path, there in below.items()):
                break
            best = (one, two)
        found[best[0]] = best[1]
    return found


# -------------------------------------------------------------------- numbers


def _generalised(pairs: Mapping[str, str]) -> list[tuple[Rename, list[Rename]]]:
    """Renames with captures, each with the plain ones that it stands for."""
    groups: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for source, target in pairs.items():
        groups.setdefault((_NUMBER.sub("#", source), _NUMBER.sub("#", target)), []).append((source, target))
    found: list[tuple[Rename, list[Rename]]] = []
    for group in groups.values():
        plain = [Rename(source, target) for source, target in group]
        rule = general(group) if len(group) > 1 else None
        found += [(rule, plain)] if rule is not None else [(each, [each]) for each in plain]
    return found


def _numbers(paths: Iterable[str]) -> list[tuple[int, ...]]:
    """Position by position, the numbers in paths of one form."""
    return list(zip(*((int(text) for text in _NUMBER.findall(path)) for path in paths), strict=True))


def general(group: Sequence[tuple[str, str]]) -> Rename | None:
    """One rename for pairs of paths of one form, `None` where their numbers do not run alike."""
    left, right = _numbers(source for source, _ in group), _numbers(target for _, target in group)
    running = [number for number, column in enumerate(left) if len(set(column)) > 1]
    fields_left: dict[int, str] = {}
    fields_right: dict[int, str] = {}
    names = iter(_NAMES)
    for place, column in enumerate(right):
        if len(set(column)) == 1:
            continue
        same = [
            number
            for number in running
            if number not in fields_left and len({a - b for a, b in zip(left[number], column, strict=True)}) == 1
        ]
        if not same:
            return _counted(group, left, right)
        shift = column[0] - left[same[0]][0]
        name = next(names, "")
        if not name:
            return None
        fields_left[same[0]] = f"{{{name}}}" if shift >= 0 else f"{{{name}+{-shift}}}"
        fields_right[place] = f"{{{name}}}" if shift <= 0 else f"{{{name}+{shift}}}"
    if set(fields_left) != set(running):
        return _counted(group, left, right)
    return Rename(_filled(group[0][0], fields_left), _filled(group[0][1], fields_right))


def _counted(
    group: Sequence[tuple[str, str]], left: Sequence[tuple[int, ...]], right: Sequence[tuple[int, ...]]
) -> Rename | None:
    """A rename that counts, where one side has a single number that runs through what the other has in several."""
    for several, single, back in ((left, right, False), (right, left, True)):
        running = [number for number, column in enumerate(several) if len(set(column)) > 1]
        through = [number for number, column in enumerate(single) if len(set(column)) > 1]
        if len(through) != 1 or not 2 <= len(running) <= len(_NAMES):
            continue
        order = sorted(range(len(group)), key=lambda at: tuple(column[at] for column in several))
        counts = [single[through[0]][at] for at in order]
        if counts != list(range(counts[0], counts[0] + len(counts))):
            continue
        fields = {number: f"{{{name}}}" for number, name in zip(running, _NAMES, strict=False)}
        count = {through[0]: f"{{{COUNT}+{counts[0]}}}" if counts[0] else f"{{{COUNT}}}"}
        source, target = group[0]
        if back:
            return Rename(_filled(source, count), _filled(target, fields))
        return Rename(_filled(source, fields), _filled(target, count))
    return None


def _filled(path: str, fields: Mapping[int, str]) -> str:
    """A path with captures in the place of some of its numbers."""
    numbers = iter(range(path.count("") + 1))
    return _NUMBER.sub(lambda match: fields.get(next(numbers), match.group()), path)


# -------------------------------------------------------------------- trying them


def _checked(found: Sequence[tuple[Rename, list[Rename]]], pairs: Mapping[str, str], plan: Plan) -> list[Rename]:
    """The renames that give exactly what is wanted: a general one that does not is replaced by the plain ones."""
    chosen = [[rule] if rule in plain or _holds([rule], pairs, plan, whole=False) else plain for rule, plain in found]
    flat = [rule for rules in chosen for rule in rules]
    if _holds(flat, pairs, plan, whole=True):
        return flat
    exact = [Rename(source, target) for source, target in pairs.items() if source != target]
    return exact if _holds(exact, pairs, plan, whole=True) else []


def _holds(renames: Sequence[Rename], pairs: Mapping[str, str], plan: Plan, *, whole: bool) -> bool:
    """Whether renames say nothing wrong about any path that was paired, and, if `whole`, say all that has to be said."""
    try:
        rules = prepared(plan.source, plan.target, Rules(tuple(renames))).rules
        said = {path: rules.rename(path) for path in pairs}
        open_ = {path for problem in plan.problems for path, _ in problem.candidates} - pairs.keys()
        if any(rules.rename(path) is not None for path in open_):
            return False  # of what is still asked, no answer that was given elsewhere says anything
    except RuleError:
        return False
    return all(new == pairs[path] or (new is None and (not whole or path == pairs[path])) for path, new in said.items())
