"""Making: numbers that Linen gave layers as they were made, where nothing says that another author counts alike.

Layers that read one input may be called in any order; norms may be declared together, and counted by what they belong to. Pairs
that rest on such numbers are assumptions, although the order of calls is known. Reads pairs and views, changes grades alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from stateregistry.alignment.colours import NORMS, Colour
from stateregistry.alignment.model import Pair, Unit, View, is_automatic

_PARALLEL: Final = "layers of one size that read one input and may be called in any order, which only numbers say"
_APART: Final = "norms counted as they are called on one side, and declared apart from what they belong to on the other"


def doubt(pairs: Sequence[Pair], source: View, target: View) -> None:
    """Make assumptions of pairs by numbers of single layers, where one of the two was counted as it was made."""
    views = source, target
    calls = {(unit.colour, unit.call) for view in views for unit in view.units if unit.call is not None}
    inputs = [Counter(map(_input, view.units)) for view in views]
    told = [_among_others(pairs, side, views[1 - side]) for side in (0, 1)]
    for pair in pairs:
        if not pair.leaf or pair.grade != "numbers":
            continue
        for side, unit in enumerate((pair.source, pair.target)):
            if not is_automatic(unit):
                continue
            mark, near = _input(unit), told[side]
            if _reads_with_others(unit, calls) or (mark is not None and inputs[side][mark] > 1):
                pair.doubt("assumption", _PARALLEL)
            elif near is not None and unit.colour[0] in NORMS and id(pair) not in near:
                pair.doubt("assumption", _APART)


def _input(unit: Unit) -> tuple[object, ...] | None:
    """The counted name of a layer, its colour and what it was seen to read: those that share all could change places."""
    layer, last = unit.layer, unit.tokens[-1] if unit.tokens else None
    if layer is None or layer.reads is None or last is None or layer.config.get("stacked"):
        return None  # blocks in one array come one after another
    return tuple(token.same for token in unit.tokens[:-1]), last.stem, unit.colour, layer.reads


def _reads_with_others(unit: Unit, calls: set[tuple[Colour, int]]) -> bool:
    """Whether a kernel is called right before or after one of its size that cannot read what it gives: both read one input."""
    colour = unit.colour
    if colour[0] not in ("linear", "conv") or colour[1] == colour[2] or unit.call is None:
        return False
    return (colour, unit.call - 1) in calls or (colour, unit.call + 1) in calls


def _among_others(pairs: Sequence[Pair], side: int, other: View) -> frozenset[int] | None:
    """The pairs right before or after which one side calls, and the other declares, the same layer, which is no norm.

    `None` where the order of declaration of the other side is not known, or is that of its calls.
    """
    if other.called or not other.ordered:
        return None
    rows = [
        (unit.call, mate.place, pair)
        for pair in pairs
        for unit, mate in [(pair.source, pair.target) if side == 0 else (pair.target, pair.source)]
        if unit.call is not None and not unit.spare and not mate.spare
    ]
    called = [pair for _, _, pair in sorted(rows, key=lambda row: row[0])]
    declared = {id(pair): n for n, (_, _, pair) in enumerate(sorted(rows, key=lambda row: row[1]))}
    found = set()
    for n, pair in enumerate(called):
        near = [(called[n + step], step) for step in (-1, 1) if 0 <= n + step < len(called)]
        if any(
            declared[id(each)] == declared[id(pair)] + step and each.source.colour[0] not in NORMS
            for each, step in near
        ):
            found.add(id(pair))
    return frozenset(found)
