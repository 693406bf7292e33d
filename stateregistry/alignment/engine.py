"""Engine: two views in, pairs with evidence out. Anchors first, then names, then structure for what is left.

Where most names agree, what they leave over pairs only if its colour is rare or its words meet; where they do not, names
are evidence among other evidence. The result is checked before anybody sees it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from stateregistry.alignment import names, settle, soundness, transposed
from stateregistry.alignment.evidence import sisters
from stateregistry.alignment.lexicon import words_of
from stateregistry.alignment.model import Pair, Question, Result, Unit, View
from stateregistry.alignment.solve import Solver

if TYPE_CHECKING:
    from stateregistry.alignment.colours import Colour


def pair_up(
    source: View, target: View, anchor: Callable[[str], str | None] | None = None, *, by_structure: bool = True
) -> Result:
    """Pair the units of two sides.

    Args:
        source, target: the views; what they hold is brought to one granularity.
        anchor: what the rules call a source path in the target, `None` where they say nothing of it.
        by_structure: whether what names leave over is paired at all.

    Returns:
        Pairs with evidence and grade, questions, and what has no partner.
    """
    settle.settle(source, target, whole=not by_structure)
    result = Result()
    taken = _anchored(source, target, anchor, result) if anchor is not None else set[int]()
    sources = [unit for unit in source.units if id(unit) not in taken]
    targets = [unit for unit in target.units if id(unit) not in taken]
    found = names.by_name(sources, targets, trusted=not by_structure)
    if found is not None:
        _named(found, result, taken)
    elif not by_structure:
        result.left = (sources, targets)
        return result
    sources, targets = ([unit for unit in side if id(unit) not in taken] for side in (sources, targets))
    if by_structure and found is not None:
        _places(found, result, source, target, taken)
        sources, targets = ([unit for unit in side if id(unit) not in taken] for side in (sources, targets))
        _rest(sources, targets, result, source, target)
    elif by_structure:
        main, other = ([unit for unit in side if not unit.spare] for side in (sources, targets))
        Solver(source, target, result).solve(*_comparable(main, other, result))
        _spares(sources, targets, result)
    else:
        result.left = (sources, targets)
    if by_structure:
        sisters.answer(result, source, target, soundness.BY_RULE)
    soundness.check(result, source, target)
    transposed.agree(result.pairs, source, target)
    for pair in result.pairs:
        for unit in (pair.source, pair.target):
            if unit.note:
                pair.doubt(unit.grade, unit.note)
    return result


def _comparable(sources: Sequence[Unit], targets: Sequence[Unit], result: Result) -> tuple[list[Unit], list[Unit]]:
    """The units of colours that both sides have. What one side has alone goes nowhere, and is no part of what repeats."""
    both = {unit.colour for unit in sources} & {unit.colour for unit in targets}
    for side, units in enumerate((sources, targets)):
        result.left[side].extend(unit for unit in units if unit.colour not in both)
    one, two = ([unit for unit in units if unit.colour in both] for units in (sources, targets))
    return one, two


def _anchored(source: View, target: View, anchor: Callable[[str], str | None], result: Result) -> set[int]:
    there = {unit.path: unit for unit in reversed(target.units)}
    taken: set[int] = set()
    for unit in source.units:
        new = anchor(unit.path)
        other = there.get(new) if new is not None else None
        if other is not None and id(other) not in taken:
            result.pairs.append(Pair(unit, other, [soundness.BY_RULE]))
            taken |= {id(unit), id(other)}
    return taken


def _named(found: names.Found, result: Result, taken: set[int]) -> None:
    result.by_name = True
    crossed = _crossed(found.differing)
    result.questions += crossed
    open_units = {id(unit) for question in crossed for unit in question.sources}
    for pair in (*found.pairs, *found.differing):
        if id(pair.source) not in open_units:
            result.pairs.append(pair)
        taken |= {id(pair.source), id(pair.target)}


def _crossed(differing: Sequence[Pair]) -> list[Question]:
    """Layers of one container that have one another's sizes under equal names: the names do not mean the same on both sides."""
    groups: dict[str, list[Pair]] = {}
    for pair in differing:
        groups.setdefault(pair.source.path.rpartition("/")[0], []).append(pair)
    found = []
    for pairs in groups.values():
        sources, targets = [pair.source for pair in pairs], [pair.target for pair in pairs]
        if Counter(unit.colour for unit in sources) == Counter(unit.colour for unit in targets):
            text = "under equal names each has the sizes of another on the other side"
            found.append(Question(sources, targets, text, crossed=True))
    return found


def _places(found: names.Found, result: Result, source: View, target: View, taken: set[int]) -> None:
    """Containers of one name whose numbers do not correspond: structure inside of them."""
    for one, two in found.places:
        left, right = ([u for u in side if id(u) not in taken and not u.spare] for side in (one, two))
        if not left or not right:
            continue
        inner = Result()
        Solver(source, target, inner).solve(left, right)
        if inner.questions or inner.left[0] or inner.left[1]:
            continue  # they do not hold the same: what is missing is told by name
        for pair in inner.pairs:
            pair.evidence.insert(0, "containers of one name")
        result.pairs += inner.pairs
        taken |= {id(unit) for pair in inner.pairs for unit in (pair.source, pair.target)}


def _rest(sources: Sequence[Unit], targets: Sequence[Unit], result: Result, source: View, target: View) -> None:
    """What names left over, where most of them agree: the only ones of a colour, if it is rare or their words meet."""
    common = [Counter(unit.colour for unit in view.units) for view in (source, target)]
    groups: dict[Colour, tuple[list[Unit], list[Unit]]] = {}
    for side, units in enumerate((sources, targets)):
        for unit in units:
            groups.setdefault(unit.colour, ([], []))[side].append(unit)
    for colour, (one, two) in groups.items():
        if len(one) == len(two) == 1:
            rare = common[0][colour] == common[1][colour] == 1
            words = one[0].words & two[0].words if rare else _own(one[0]) & _own(two[0])
            if words:
                pair = Pair(one[0], two[0], [f"left over on both sides, words in common: {' '.join(sorted(words))}"])
                if not rare:
                    pair.doubt("assumption", "left over on both sides, and others are like them")
                result.pairs.append(pair)
                continue
        result.left[0].extend(one)
        result.left[1].extend(two)


def _own(unit: Unit) -> frozenset[str]:
    """What the last step of its path means."""
    return words_of(unit.tokens[-1].text) if unit.tokens else frozenset()


def _spares(sources: Sequence[Unit], targets: Sequence[Unit], result: Result) -> None:
    """Tied weights: a second name is paired only where the other side has a place for it that nothing else fills."""
    spares = [[unit for unit in side if unit.spare] for side in (sources, targets)]
    for side in (0, 1):
        for unit in list(result.left[1 - side]):
            fits = [spare for spare in spares[side] if spare.colour == unit.colour]
            if len(fits) == 1 and sum(one.colour == unit.colour for one in result.left[1 - side]) == 1:
                one, two = (fits[0], unit) if side == 0 else (unit, fits[0])
                result.pairs.append(Pair(one, two, ["the other name of a tied array"]))
                result.left[1 - side].remove(unit)
                spares[side].remove(fits[0])
    for question in list(result.questions):
        _answer(question, spares, result)
    if spares[0] and spares[1]:
        for colour in dict.fromkeys(unit.colour for unit in spares[0]):
            some, others = ([unit for unit in side if unit.colour == colour] for side in spares)
            if len(some) == len(others) == 1:
                result.pairs.append(Pair(some[0], others[0], ["the other name of a tied array, on both sides"]))


def _answer(question: Question, spares: list[list[Unit]], result: Result) -> None:
    """One array here for two there, of which one could be a spare name: left as a question, with the spare among it."""
    both = question.sources, question.targets
    for side, units in enumerate(both):
        if len(units) >= len(both[1 - side]):
            continue  # what is there is enough, and a second name of any of it says nothing new
        units += [unit for unit in spares[side] if unit.colour == question.sources[0].colour and unit not in units]
