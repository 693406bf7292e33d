"""Explain: the smallest difference between two models that do not correspond, in place of a list of every key.

A container that one side repeats more often, a size that differs everywhere, or the few layers that one side has alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from stateregistry.alignment.colours import Colour
from stateregistry.alignment.containers import Palette, Signature, containers
from stateregistry.alignment.model import Unit, View

_NAMED: Final = 4


def differences(source: View, target: View, left: tuple[Sequence[Unit], Sequence[Unit]]) -> list[str]:
    """What sets two models apart, most telling first; as few sentences as explain all that is left."""
    whole = at_once(source, target, left)
    if whole:
        return [whole]
    found = []
    for units, here, there in ((left[0], "source", "target"), (left[1], "target", "source")):
        if units:
            names = ", ".join(f"`{unit.path or '(the model)'}` ({spelled(unit.colour)})" for unit in units[:_NAMED])
            more = f" and {len(units) - _NAMED} more" if len(units) > _NAMED else ""
            found.append(f"the {here} has {names}{more}, and the {there} nothing that corresponds")
    return found


def at_once(source: View, target: View, left: tuple[Sequence[Unit], Sequence[Unit]]) -> str:
    """The one difference that accounts for all that is left; empty where there is none."""
    return (
        _repetitions(source, target, left)
        or _width(left)
        or _common_size(source, target, left)
        or _blocks(source, target, left)
    )


def spelled(colour: Colour) -> str:
    """A colour for people."""
    kind, *values = colour
    sizes = [str(value) for value in values if isinstance(value, (int, tuple)) and not isinstance(value, bool)]
    if kind == "linear":
        return f"linear {sizes[0]} to {sizes[1]}"
    if kind == "embedding":
        return f"embedding of {sizes[1]} by {sizes[0]}"
    return f"{str(kind).replace('_', ' ')} {' '.join(sizes)}"


def _repetitions(source: View, target: View, left: tuple[Sequence[Unit], Sequence[Unit]]) -> str:
    """A container that the sides repeat unequally often, if it accounts for everything that is left."""
    palette = Palette()
    groups: list[dict[Signature, list[tuple[str, list[Unit]]]]] = []
    for view in (source, target):
        found: dict[Signature, list[tuple[str, list[Unit]]]] = {}
        units = [unit for unit in view.units if not unit.spare]
        for item in containers(units, 0):
            if item.path[-1].number is not None:
                name = "/".join(token.stem or "#" for token in item.path)
                found.setdefault(palette.signature(item.units), []).append((name, item.units))
        groups.append(found)
    loose = {id(unit) for side in left for unit in side}
    best: tuple[int, str] = (0, "")
    for signature in groups[0].keys() | groups[1].keys():
        one, two = groups[0].get(signature, []), groups[1].get(signature, [])
        if len(one) == len(two) or max(len(one), len(two)) < 2 or not one or not two:
            continue
        size = sum(count for _, count in signature)
        more = one if len(one) > len(two) else two
        covered = sum(id(unit) in loose for _, units in more for unit in units)
        apart = abs(len(one) - len(two)) * size
        if covered and apart == abs(len(_main(source)) - len(_main(target))) and size > best[0]:
            names = [name for name, _ in (one or two)]
            name = Counter(names).most_common(1)[0][0]
            text = f"the source has {len(one)} repetitions of `{name}`, the target has {len(two)}"
            best = (size, text)
    return best[1]


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


def _blocks(source: View, target: View, left: tuple[Sequence[Unit], Sequence[Unit]]) -> str:
    """The list that holds most of either side, if its blocks are of the same colours and not as many."""
    one, two = _main_list(source), _main_list(target)
    if one is None or two is None or one[1] == two[1] or not (left[0] or left[1]):
        return ""
    if 2 * len(one[2] & two[2]) < len(one[2] | two[2]):
        return ""
    return f"the source has {one[1]} repetitions of `{one[0]}`, the target has {two[1]} of `{two[0]}`"


def _main_list(view: View) -> tuple[str, int, set[Colour]] | None:
    """A counted container whose repetitions are alike and hold more than half of a side: its name, their number, colours."""
    palette = Palette()
    groups: dict[str, list[tuple[Signature, list[Unit]]]] = {}
    for item in containers(_main(view), 0):
        if item.path[-1].number is not None and len(item.numbers) == 1:
            name = "/".join(token.stem or "#" for token in item.path)
            groups.setdefault(name, []).append((palette.signature(item.units), item.units))
    found = [
        (sum(len(units) for _, units in members), name, len(members), {unit.colour for unit in members[0][1]})
        for name, members in groups.items()
        if len(members) > 1 and len({signature for signature, _ in members}) == 1
    ]
    size, name, count, colours = max(found, key=lambda row: row[0], default=(0, "", 0, set[Colour]()))
    return (name, count, colours) if 2 * size > len(_main(view)) else None


def _sizes(colour: Colour) -> list[int]:
    found: list[int] = []
    for value in colour[1:]:
        if isinstance(value, tuple):
            found += [one for one in value if isinstance(one, int)]
        elif isinstance(value, int) and not isinstance(value, bool):
            found.append(value)
    return found
