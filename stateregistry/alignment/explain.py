"""Explain: the smallest difference between two models that do not correspond, in place of a list of every key.

A list that one side repeats more often (`repeated`), one size that differs, or the few layers that one side has alone.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from stateregistry.alignment.colours import Colour
from stateregistry.alignment.model import Unit, View
from stateregistry.alignment.repeated import repeated

_NAMED: Final = 4
#: So many sizes of either side are tried for the one that differs.
_TRIED: Final = 8


def differences(source: View, target: View, left: tuple[Sequence[Unit], Sequence[Unit]]) -> list[str]:
    """What sets two models apart, most telling first; as few sentences as explain all that is left."""
    whole = at_once(source, target, left)
    if whole:
        return [whole]
    found = []
    for units, here, there in ((left[0], "source", "target"), (left[1], "target", "source")):
        if units:
            found.append(f"the {here} has {_names(units)}, and the {there} nothing that corresponds")
    return found


def at_once(source: View, target: View, left: tuple[Sequence[Unit], Sequence[Unit]]) -> str:
    """The one difference that accounts for all that is left; empty where there is none."""
    return repeated(source, target, left) or one_size(left) or _width(left) or _common_size(source, target, left)


def one_size(left: tuple[Sequence[Unit], Sequence[Unit]]) -> str:
    """The one size that all that is left on both sides differs in; empty where there is more to it."""
    if not left[0] or not left[1]:
        return ""
    sizes = [Counter(value for unit in side for value in _sizes(unit.colour)) for side in left]
    gone, new = list(sizes[0] - sizes[1])[:_TRIED], list(sizes[1] - sizes[0])[:_TRIED]
    forms = _forms(left[0], {}), _forms(left[1], {})
    for here, there in itertools.product(gone, new):
        if _forms(left[0], {here: there}) == forms[1] or forms[0] == _forms(left[1], {there: here}):
            one, two = _names(left[0]), _names(left[1])
            if len(left[0]) == 1:
                return f"{one} and {two} differ in one size: {here} in the source is {there} in the target"
            return f"one size differs: {here} in the source is {there} in the target, in {one} and in {two}"
    return ""


def _forms(units: Sequence[Unit], sizes: Mapping[int, int]) -> Counter[tuple[object, ...]]:
    """What units are but for what reads them (a matrix is one in any layer), with some sizes in the place of others."""
    return Counter(_form(unit.colour, sizes) for unit in units)


def _form(colour: Colour, sizes: Mapping[int, int]) -> tuple[object, ...]:
    kind, spatial = colour[0], colour[4] if colour[0] == "conv" else ()
    said = [value if isinstance(value, (bool, str, tuple)) else sizes.get(value, value) for value in colour[1:]]  # type: ignore[call-overload]  # the rest are sizes
    matrix = kind in ("linear", "embedding") or (kind == "array" and len(colour) == 3)
    if matrix or (kind == "conv" and isinstance(spatial, tuple) and set(spatial) == {1}):
        return ("matrix", *sorted(said[:2]), kind in ("linear", "conv") and bool(colour[3]))
    return (kind, *said)


def _names(units: Sequence[Unit]) -> str:
    names = ", ".join(f"`{unit.path or '(the model)'}` ({spelled(unit.colour)})" for unit in units[:_NAMED])
    return names + (f" and {len(units) - _NAMED} more" if len(units) > _NAMED else "")


def spelled(colour: Colour) -> str:
    """A colour for people."""
    kind, *values = colour
    sizes = [str(value) for value in values if isinstance(value, (int, tuple)) and not isinstance(value, bool)]
    if kind == "linear":
        return f"linear {sizes[0]} to {sizes[1]}"
    if kind == "embedding":
        return f"embedding of {sizes[1]} by {sizes[0]}"
    return f"{str(kind).replace('_', ' ')} {' '.join(sizes)}"


def _main(view: View) -> list[Unit]:
    return [unit for unit in view.units if not unit.spare]


def _width(left: tuple[Sequence[Unit], Sequence[Unit]]) -> str:
    """One size for another in every layer that is left."""
    one, two = (Counter(str(unit.colour[0]) for unit in side) for side in left)
    if not one or one != two:
        return ""
    sizes = [Counter(value for unit in side for value in _sizes(unit.colour)) for side in left]
    gone, new = sizes[0] - sizes[1], sizes[1] - sizes[0]
    changed = sorted(gone.keys() | new.keys())
    pairs = [(a, b) for a in gone for b in new if gone[a] == new[b]]
    if pairs and len(gone) <= _NAMED and len(new) <= _NAMED:
        shown = ", ".join(f"{a} in the source and {b} in the target" for a, b in pairs[:2])
        return f"the models have the same layers in other sizes: {shown}"
    return f"the models have the same layers in other sizes: {', '.join(map(str, changed[:8]))}" if changed else ""


def _common_size(source: View, target: View, left: tuple[Sequence[Unit], Sequence[Unit]]) -> str:
    """The size that most of what is left has, on a side whose other side has it nowhere, and the other way round."""
    found = []
    for units, view, other in ((left[0], source, target), (left[1], target, source)):
        sizes = Counter(value for unit in units for value in {*_sizes(unit.colour)} if value > 1)
        there = {value for unit in other.units for value in _sizes(unit.colour)}
        size, count = max(sizes.items(), key=lambda item: item[1], default=(0, 0))
        if 2 * len(units) <= len(_main(view)) or 2 * count <= len(units) or size in there:
            return ""
        found.append(size)
    return f"the models have layers of other sizes: most have {found[0]} in the source and {found[1]} in the target"


def _sizes(colour: Colour) -> list[int]:
    found: list[int] = []
    for value in colour[1:]:
        if isinstance(value, tuple):
            found += [one for one in value if isinstance(one, int)]
        elif isinstance(value, int) and not isinstance(value, bool):
            found.append(value)
    return found
