"""Misfits: what is said of entries that are one and have other shapes: the axes that differ, and of many the one reason.

A model of another width differs in every entry by the same two numbers: that is one sentence. Where numbers do not say what
differs, or where they are the same in another order, every entry keeps its own. So with many entries of one name that one side
has alone. Reads patterns and shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

from stateregistry.conversion.planning.plan import PlanProblem
from stateregistry.errors import AxesError
from stateregistry.layers import axes

if TYPE_CHECKING:
    from stateregistry.conversion.planning.plan import Move

#: More entries than this of other sizes are told together; where one size differs, more than those of a layer.
_FEW: Final = 8
#: A kernel and its bias.
_LAYER: Final = 2
_NAMED: Final = 4

Shape = tuple[int, ...]


@final
@dataclass(frozen=True, slots=True)
class Misfit:
    """A move whose shapes do not agree: its problem, and the sizes of the source and target that differ, in order."""

    problem: PlanProblem
    sizes: tuple[tuple[int, int], ...] = ()


def misfit(move: Move, have: Sequence[Shape], want: Shape, problem: PlanProblem) -> Misfit:
    """A problem of shapes with the axes that differ, where both sides say what their axes are."""
    found = _differing(move, have, want)
    if not found or sorted(have[0]) == sorted(want):
        return Misfit(problem)
    names = ", ".join(f"{name} is {one} in the source and {two} in the target" for name, one, two in found)
    shapes = " and ".join(map(str, have))
    text = f"shape {shapes} cannot become {want}: {names}" if move.laid_out else problem.text
    told = PlanProblem(problem.problem, problem.keys, text, problem.hint)
    return Misfit(told, tuple((one, two) for _, one, two in found))


def _differing(move: Move, have: Sequence[Shape], want: Shape) -> tuple[tuple[str, int, int], ...]:
    """Axes of other sizes, by their names or places; none where only one side says what its axes are."""
    if not move.laid_out:
        if len(have) != 1 or len(have[0]) != len(want):
            return ()
        rows = enumerate(zip(have[0], want, strict=True))
        return tuple((f"axis {place}", one, two) for place, (one, two) in rows if one != two)
    if move.op == "compute":
        return ()
    try:
        there = axes.bind(move.axes, want, {}).sizes
        here = [axes.bind(feed.axes, shape, {}).sizes for feed, shape in zip(move.sources, have, strict=True)]
    except AxesError:
        return ()
    found = {
        (name, sizes[name], there[name]): None
        for sizes in here
        for name in sizes
        if name in there and sizes[name] != there[name]
    }
    return tuple((name.partition(".")[0] if name.endswith(".0") else name, one, two) for name, one, two in found)


def told(misfits: Sequence[Misfit]) -> list[PlanProblem]:
    """The problems of entries of other shapes, few enough to be read."""
    together = [one for one in misfits if one.sizes]
    pairs = list(dict.fromkeys(pair for one in together for pair in one.sizes))
    if len(together) <= (_FEW if len(pairs) > 1 else _LAYER):
        return [one.problem for one in misfits]
    shown = ", ".join(f"{one} in the source is {two} in the target" for one, two in pairs[:_NAMED])
    more = f", and {len(pairs) - _NAMED} more" if len(pairs) > _NAMED else ""
    places = ", ".join(f"`{one.problem.keys[-1]}`" for one in together[:_NAMED])
    text = f"the same names have other sizes: {shown}{more}; in {len(together)} entries: {places}, ..."
    hint = "make both models with one configuration, or leave out what differs with [[drop]] and [[keep]]"
    keys = tuple(dict.fromkeys(key for one in together for key in one.problem.keys))
    return [PlanProblem("shape", keys, text, hint), *(one.problem for one in misfits if not one.sizes)]


def gathered(problems: Sequence[PlanProblem]) -> list[PlanProblem]:
    """Problems of single entries that are missing or unexpected, those of many of one name as one: all biases, say."""
    groups: dict[tuple[str, str], list[PlanProblem]] = {}
    for one in problems:
        if one.problem in ("missing", "unexpected") and len(one.keys) == 1:
            groups.setdefault(_of_one_name(one), []).append(one)
    found: list[PlanProblem] = []
    for one in problems:
        group = groups.get(_of_one_name(one), []) if len(one.keys) == 1 else []
        if len(group) <= _FEW or one not in group:
            found.append(one)
        elif one is group[0]:
            name = one.keys[0].rpartition("/")[2]
            what = "source" if one.problem == "missing" else "place"
            keys = tuple(dict.fromkeys(key for each in group for key in each.keys))
            text = f"no {what} for {len(group)} entries called {name!r}, `{keys[0]}` to `{keys[-1]}`"
            hint = f"name their {what} with a rule, or allow {one.problem!r}"
            found.append(PlanProblem(one.problem, keys, text, hint))
    return found


def _of_one_name(problem: PlanProblem) -> tuple[str, str]:
    return problem.problem, problem.keys[0].rpartition("/")[2]
