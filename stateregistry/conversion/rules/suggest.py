"""Suggested rules: the few that pin down the pairing that a plan found, as TOML.

Equal ends of two paths are left away, since a rename holds for what lies below it; numbers that run alike become captures, and
blocks that are counted through become `{count}`. What is suggested is tried: it is planned once more, and what is refused or
gives another move is not suggested. What the caller's rules say beside their renames stays. Reads a plan, no values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from stateregistry.conversion.rules.generalising import form, general, generalised, pattern_of, strict
from stateregistry.conversion.rules.patterns import covers
from stateregistry.conversion.rules.prepare import prepared
from stateregistry.conversion.rules.rules import Join, Layout, Rename, Rules, Settle, Split
from stateregistry.conversion.rules.taken import taken_apart
from stateregistry.conversion.rules.writing import toml
from stateregistry.errors import RuleError

if TYPE_CHECKING:
    from stateregistry.conversion.planning.plan import Move, Plan
    from stateregistry.conversion.side import Side

#: So often rules that are refused are left out and the rest is tried again.
_AGAIN: Final = 8


def suggest(plan: Plan) -> str:
    """The rules that would pin down the pairing of a plan, as the text of a TOML file; empty where nothing is open.

    Args:
        plan: one with or without problems: of one that was refused, what was paired is suggested, and what was not is
            not in it.
    """
    pairs = paired(plan)
    foreign = {source: target for source, target in pairs.items() if source != target}
    rows = _checked(generalised(_shortened(foreign, pairs)), pairs, plan)
    plain = [(rule, [rule]) for rule in (Rename(*pair) for pair in foreign.items())]
    bare = replace(plan.rules, renames=(), where="")
    beside = replace(bare, layers=(*plan.rules.layers, *_settled(plan)))
    splits, joins = _parts(plan, beside)
    whole = replace(beside, layouts=(*beside.layouts, *_laid_out(plan)), splits=splits, joins=joins)
    for some, rest in ((rows, whole), (rows, beside), (rows, bare), (plain, whole), (plain, beside), (plain, bare)):
        found = _tried(some, rest, plan)
        if found is not None:
            return toml(found, doubtful=("layer", "layout", "split", "join"))
    return toml(plan.rules)  # what the caller said gave the plan


def _settled(plan: Plan) -> list[Settle]:
    """The layers of the source that the plan assumes to be of a kind, one rule for paths of one form."""
    read = {
        side.canonical(key) or key
        for side in (plan.source, plan.target)
        for layer in side.layers
        if layer.inferred
        for key in layer.roles.values()
    }
    assumed = {
        feed.key
        for move in plan.moves
        if move.grade == "assumption"
        for feed in move.sources
        if feed.key in read or move.target in read
    }
    forms: dict[tuple[str, str], list[str]] = {}
    others: set[str] = set()
    for layer in plan.source.layers:
        if assumed.isdisjoint(layer.roles.values()):
            others.add(form(layer.path))
        else:
            forms.setdefault((form(layer.path), layer.kind), []).append(layer.path)
    kinds = Counter(name for name, _ in forms)
    found: list[Settle] = []
    for (name, kind), paths in forms.items():
        pattern = pattern_of(paths) if name not in others and kinds[name] == 1 else None
        found += [Settle(pattern, kind)] if pattern is not None else [Settle(path, kind) for path in paths]
    return found


def _laid_out(plan: Plan) -> list[Layout]:
    """The arrays of no layer whose axes the plan assumes to be in one order on both sides."""
    inside = [
        {side.canonical(key) or key for layer in side.layers for key in layer.roles.values()}
        for side in (plan.source, plan.target)
    ]
    forms: dict[tuple[str, str, str], list[str]] = {}
    for move in plan.moves:
        if move.op != "copy" or move.grade != "assumption" or len(move.sources) != 1:
            continue
        feed = move.sources[0]
        if feed.key in inside[0] or move.target in inside[1] or feed.part:
            continue
        own = " ".join(f"a{number}" for number in range(len(plan.source.entries[feed.key].shape)))
        mark = form(feed.key), feed.axes or own, move.axes or own
        forms.setdefault(mark, []).append(feed.key)
    found = []
    for (_, left, right), keys in forms.items():
        pattern = pattern_of(keys)
        met = sum(covers(pattern, key) for key in plan.source.names) if pattern is not None else 0
        names = [pattern] if pattern is not None and met == len(keys) else keys
        found += [Layout(name, left, right) for name in names]
    return found


def _parts(plan: Plan, said: Rules) -> tuple[tuple[Split, ...], tuple[Join, ...]]:
    """Layers that are taken apart, by rules or without: the rules that say so."""
    splits = [Split(path, axis, axes, targets) for path, axis, axes, targets in _alike(taken_apart(plan, 0))]
    joins = [Join(sources, axis, axes, path) for path, axis, axes, sources in _alike(taken_apart(plan, 1))]
    return said.splits or tuple(splits), said.joins or tuple(joins)


def _alike(
    found: Iterable[tuple[str, str, str, tuple[str, ...]]],
) -> list[tuple[str, str, str, tuple[str, ...]]]:
    """Layers that were taken apart alike, those of one form under one pattern."""
    groups: dict[object, list[tuple[str, str, str, tuple[str, ...]]]] = {}
    for row in found:
        groups.setdefault((form(row[0]), row[1], row[2], tuple(map(form, row[3]))), []).append(row)
    made = []
    for rows in groups.values():
        _, axis, axes, others = rows[0]
        rules = [general([(row[0], row[3][place]) for row in rows]) for place in range(len(others))] if rows[1:] else []
        names = {rule.source if rule is not None and not rule.counts else None for rule in rules}
        if len(names) == 1 and (name := names.pop()) is not None:
            made.append((name, axis, axes, tuple(rule.target for rule in rules if rule is not None)))
        else:
            made += rows
    return made


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
    best = {key: own.get(key, paths) for key, paths in found.items()}
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


# -------------------------------------------------------------------- trying them

Rows = Sequence[tuple[Rename, list[Rename]]]


def _checked(found: Rows, pairs: Mapping[str, str], plan: Plan) -> list[tuple[Rename, list[Rename]]]:
    """The renames that say nothing wrong of what was paired: a general one that does is replaced by the plain ones."""
    chosen: list[tuple[Rename, list[Rename]]] = []
    for rule, plain in found:
        ways = [] if rule in plain else [rule, *([strict(rule)] if strict(rule) != rule else [])]
        way = next((one for one in ways if _holds([one], pairs, plan)), None)
        chosen += [(way, plain)] if way is not None else [(each, [each]) for each in plain]
    return chosen


def _holds(renames: Sequence[Rename], pairs: Mapping[str, str], plan: Plan) -> bool:
    """Whether renames say nothing wrong about any path that was paired."""
    try:
        rules = prepared(plan.source, plan.target, Rules(tuple(renames))).rules
        open_ = {path for problem in plan.problems for path, _ in problem.candidates} - pairs.keys()
        if any(rules.rename(path) is not None for path in open_):
            return False  # of what is still asked, no answer that was given elsewhere says anything
        return all(rules.rename(path) in (None, target) for path, target in pairs.items())
    except RuleError:
        return False


def _tried(rows: Rows, beside: Rules, plan: Plan) -> Rules | None:
    """These rules, without those that are refused or change a move; `None` where that leads nowhere."""
    from stateregistry.conversion.planning.planner import make  # lazy: the planner reads rules

    wanted, told = _carried(plan), {(problem.problem, problem.keys) for problem in plan.problems}
    left = list(rows)
    for _ in range(_AGAIN):
        rules = replace(beside, renames=tuple(rule for rule, _ in left))
        try:
            again = make(
                plan.source, plan.target, rules=rules, allow=plan.allow, dtype=plan.dtype, residual=plan.residual
            )
        except RuleError as error:
            wrong: Collection[str] = error.keys
        else:
            moved = _carried(again)
            fits = wanted == moved if plan.ok else wanted <= moved
            if fits and len(again.problems) <= len(plan.problems):
                return rules
            differing = [move for move in (*plan.moves, *again.moves) if _mark(move) in wanted ^ moved]
            wrong = {key for move in differing for key in move.keys}
            wrong |= {key for one in again.problems if (one.problem, one.keys) not in told for key in one.keys}
        fewer = [row for rule, plain in left for row in _without(rule, plain, wrong)]
        if len(fewer) == len(left) and [rule for rule, _ in fewer] == [rule for rule, _ in left]:
            return None
        left = fewer
    return None


def _without(rule: Rename, plain: list[Rename], wrong: Collection[str]) -> list[tuple[Rename, list[Rename]]]:
    """A rename, or of one that speaks of something wrong the plain ones that do not."""
    if not _speaks(rule, wrong):
        return [(rule, plain)]
    return [(each, [each]) for each in plain if rule != each and not _speaks(each, wrong)]


def _speaks(rule: Rename, keys: Collection[str]) -> bool:
    return any(covers(rule.source, key) or covers(rule.target, key) for key in keys)


def _carried(plan: Plan) -> set[object]:
    return {_mark(move) for move in plan.moves if move.op in ("copy", "sum", "compute")}


def _mark(move: Move) -> object:
    """What a move does, whatever it rests on; one pattern on both sides says no more than none."""
    fed = tuple((feed.key, feed.axes, feed.part, feed.into) for feed in move.sources)
    plain = len(fed) == 1 and fed[0][1:] == (move.axes, "", "")
    return move.op, move.target, fed[0][0] if plain else fed, "" if plain else move.axes, move.cast, move.zeros
