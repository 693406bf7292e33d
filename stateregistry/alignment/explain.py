"""Explain: the smallest difference between two models that do not correspond, in place of a list of every key.

A list that one side repeats more often (`repeated`), one size that differs, biases or wrappers that one side has alone, or the
few layers that one side has alone. Only a sentence that accounts for all that is left is said. Reads views, imports the layers.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from stateregistry.alignment.colours import NORMS, RECURRENT, Colour, widths
from stateregistry.alignment.longer import longer, only
from stateregistry.alignment.model import Pair, Unit, View
from stateregistry.alignment.odd import odd
from stateregistry.alignment.repeated import repeated
from stateregistry.layers.vocabulary import WRAPPERS

_NAMED: Final = 4
#: Pieces of one size that are put together.
_TIMES: Final = (1, 2, 3, 4)
#: A layer of a recurrent module that has several, in one of its directions.
_LAYER: Final = re.compile(r"(?P<module>.+)/l(?P<layer>[0-9]+)(_reverse)?")
_BIASED: Final = frozenset({"linear", "conv", "conv_transpose", "attention"})
#: Of fewer layers no habit is read.
_FEW_MATRICES: Final = 3
#: So many sizes of either side are tried for the one that differs.
_TRIED: Final = 8


def differences(
    source: View, target: View, left: tuple[Sequence[Unit], Sequence[Unit]], pairs: Sequence[Pair] = ()
) -> list[str]:
    """What sets two models apart, most telling first; as few sentences as explain all that is left."""
    whole = at_once(source, target, left, pairs)
    if whole:
        return [whole]
    return [alone(units, side) for side, units in enumerate(left) if units]


def alone(units: Sequence[Unit], side: int, nothing: str = "nothing that corresponds") -> str:
    """What one side has and the other nothing like."""
    here, there = ("source", "target") if side == 0 else ("target", "source")
    return f"the {here} has {_names(units)}, and the {there} {nothing}"


def at_once(source: View, target: View, left: tuple[Sequence[Unit], Sequence[Unit]], pairs: Sequence[Pair] = ()) -> str:
    """The one difference that accounts for all that is left; empty where there is none. `pairs`: what is decided."""
    return (
        longer(source, target, left, pairs)
        or ("" if any(only(left)) else odd(source, target, spelled))
        or _recurrent(left)
        or repeated(source, target, left)
        or one_size(left)
        or _norms(left)
        or _biases(left)
        or _all_biases(left)
        or _wrapped(left)
        or _width(left)
        or _common_size(source, target, left)
        or repeated(*_as(_matrix, source, target, left))
        or repeated(*_as(_sort, source, target, left), near=True)
    )


def strangers(source: View, target: View) -> str:
    """What both sides have, where no layer of one is like any of the other, or one has none; empty where some are alike."""
    units = source.main, target.main
    for side, here, there in ((0, "source", "target"), (1, "target", "source")):
        if units[1 - side] and not units[side]:
            return f"the {here} has no layers and no arrays, the {there} has {_kinds(units[1 - side])}"
    colours = [{colour for unit in some for colour in (unit.colour, *unit.options)} for some in units]
    if not units[0] or colours[0] & colours[1]:
        return ""
    one, two = (_kinds(some) for some in units)
    return f"no layer of one side is like any of the other: the source has {one}; the target has {two}"


def _kinds(units: Sequence[Unit]) -> str:
    """How many of which kind there are."""
    counts = Counter(str(unit.colour[0]).replace("_", " ") for unit in units).most_common()
    more = f" and {sum(count for _, count in counts[_NAMED:])} others" if len(counts) > _NAMED else ""
    return ", ".join(f"{count} {kind}" for kind, count in counts[:_NAMED]) + more


def _as(
    form: Callable[[Colour], Colour], source: View, target: View, left: tuple[Sequence[Unit], Sequence[Unit]]
) -> tuple[View, View, tuple[list[Unit], list[Unit]]]:
    """Both sides with less in their colours: lists that differ in what is left out are lists of one sort."""
    made: dict[int, Unit] = {}
    views = []
    for view in (source, target):
        units = [replace(unit, colour=form(unit.colour)) for unit in view.units]
        made.update({id(unit): new for unit, new in zip(view.units, units, strict=True)})
        views.append(replace(view, units=units))
    one, two = ([made[id(unit)] for unit in units if id(unit) in made] for units in left)
    return views[0], views[1], (one, two)


def _matrix(colour: Colour) -> Colour:
    """A matrix as what it is in any layer: a bare array is the kernel of a linear."""
    return _form(colour, {})


def _sort(colour: Colour) -> Colour:
    """A layer without its widths: in a dense block every layer reads more than the one before it."""
    return (colour[0], *(value for value in colour[1:] if isinstance(value, (bool, str, tuple))))


def _biases(everything: tuple[Sequence[Unit], Sequence[Unit]]) -> str:
    """The layers that one side has with a bias and the other without, if that is all that is left."""
    left = _surplus(everything)
    with_bias = [[_has_bias(unit.colour) for unit in units] for units in left]
    if not left[0] or not left[1] or {*with_bias[0]} == {*with_bias[1]} or any(len({*some}) > 1 for some in with_bias):
        return ""
    plain = [Counter(_without_bias(unit.colour) for unit in units) for units in left]
    if plain[0] != plain[1]:
        return ""
    one = 0 if with_bias[0][0] else 1
    here, there = ("source", "target")[one], ("target", "source")[one]
    others = 1 - one
    among = [
        [unit for unit in everything[side] if unit.colour in {each.colour for each in left[side]}] for side in (0, 1)
    ]
    open_ = [len(among[side]) > len(left[side]) for side in (0, 1)]
    if open_[one] and not open_[others]:
        return f"{_names(left[others])} has no bias in the {there}, where the {here} has one in each of {_names(among[one])}"
    if open_[others] and not open_[one]:
        return f"{_names(left[one])} has a bias in the {here}, where the {there} has none in {_names(among[others])}"
    units, lacking = _of(left[one], everything[one]), _of(left[others], everything[others])
    return f"the {here} has a bias in {units}, and the {there} none in {lacking}"


def _all_biases(left: tuple[Sequence[Unit], Sequence[Unit]]) -> str:
    """Whether every matrix that is left has a bias on one side and none on the other, however they are put together."""
    found = [[_has_bias(unit.colour) for unit in units if unit.colour[0] in _BIASED] for units in left]
    if any(len(some) < _FEW_MATRICES or len({*some}) > 1 for some in found) or found[0][0] == found[1][0]:
        return ""
    one = 0 if found[0][0] else 1
    here, there = ("source", "target")[one], ("target", "source")[one]
    ones, others = len(found[one]), len(found[1 - one])
    return f"the {here} has a bias in each of the {ones} layers that are left, and the {there} in none of its {others}"


def _surplus(left: tuple[Sequence[Unit], Sequence[Unit]]) -> tuple[list[Unit], list[Unit]]:
    """As many units of each colour as a side has more of it than the other."""
    counts = [Counter(unit.colour for unit in units) for units in left]
    found: tuple[list[Unit], list[Unit]] = ([], [])
    for side, units in enumerate(left):
        more = counts[side] - counts[1 - side]
        for unit in units:
            if more[unit.colour] > 0:
                more[unit.colour] -= 1
                found[side].append(unit)
    return found


def _of(some: Sequence[Unit], everything: Sequence[Unit]) -> str:
    """Units by name, and where as many others are of their colour, how many of which."""
    colours = {unit.colour for unit in some}
    among = [unit for unit in everything if unit.colour in colours]
    if len(among) == len(some):
        return _names(some)
    return f"{'one' if len(some) == 1 else len(some)} of {_names(among)}"


def _recurrent(left: tuple[Sequence[Unit], Sequence[Unit]]) -> str:
    """One module of more layers or one of fewer directions than the other side has, if that is all that is left."""
    if not left[0] or not left[1] or any(unit.colour[0] not in RECURRENT for units in left for unit in units):
        return ""
    if len({unit.colour for units in left for unit in units}) == 1:
        return _stacked(left)
    one, two = (Counter(unit.colour[:2] for unit in units) for units in left)  # kinds, and what they read
    hidden = [{widths(unit.colour)[0] for unit in units} for units in left]
    doubled = [{c: 2 * n for c, n in few.items()} == dict(many) for few, many in ((one, two), (two, one))]
    if True not in doubled or any(len(some) != 1 for some in hidden):
        return ""
    side = doubled.index(True)
    (whole,), (half,) = hidden[side], hidden[1 - side]
    if whole not in (half, 2 * half):
        return ""
    here, there = ("source", "target")[side], ("target", "source")[side]
    kind = next(iter(one))[0]
    return (
        f"the {here} has one {kind} of {whole} where the {there} has two of {half}, as one direction against two: "
        f"{_names(left[side])} against {_names(left[1 - side])}"
    )


def _stacked(left: tuple[Sequence[Unit], Sequence[Unit]]) -> str:
    """The recurrent module that has more layers, each in as many directions, than the other side has of them."""
    for side, here, there in ((0, "source", "target"), (1, "target", "source")):
        found = [_LAYER.fullmatch(unit.path) for unit in left[side]]
        layers = Counter((match["module"], match["layer"]) for match in found if match)
        each, rest = set(layers.values()), len(left[1 - side])
        if len({module for module, _ in layers}) != 1 or len(each) != 1 or layers.total() != len(found):
            continue
        (directions,) = each
        if rest < len(found) and rest and rest % directions == 0:
            module = next(iter(layers))[0]
            count = rest // directions
            hold = "holds" if count == 1 else "hold"
            return f"the {here} has {len(layers)} layers in `{module}`, the {there} has what {count} of them {hold}"
    return ""


def _wrapped(left: tuple[Sequence[Unit], Sequence[Unit]]) -> str:
    """The layers that one side holds under a wrapper, which stores a kernel in pieces, and the other without."""
    kinds = [{name for unit in units for name in _wrappers(unit.colour)} for units in left]
    if not left[0] or not left[1] or kinds[0] == kinds[1] or (kinds[0] and kinds[1]):
        return ""
    plain = [Counter(_without_wrapper(unit.colour) for unit in units) for units in left]
    if plain[0] != plain[1]:
        return ""
    here, there = ("source", "target") if kinds[0] else ("target", "source")
    units, others = left if kinds[0] else left[::-1]
    names = " and ".join(sorted(kinds[0] or kinds[1]))
    return (
        f"the {here} has {names} in {_names(units)}, and the {there} the same layers without: {_names(others)}: make plain "
        "kernels of a copy first, or wrap the others alike"
    )


def _norms(left: tuple[Sequence[Unit], Sequence[Unit]]) -> str:
    """The norms that are of one kind on one side and of another on the other, if that is all that is left."""
    kinds = [{str(unit.colour[0]) for unit in units} for units in left]
    if any(len(some) != 1 or not some <= NORMS for some in kinds) or kinds[0] == kinds[1]:
        return ""
    if Counter(unit.colour[1] for unit in left[0]) != Counter(unit.colour[1] for unit in left[1]):
        return ""
    one, two = (_norm_called(units) for units in left)
    if one == two:
        return ""
    count = f"{len(left[0])} norms are" if len(left[0]) > 1 else "one norm is"
    return f"{count} {one} in the source and {two} in the target: {_names(left[0])}, and {_names(left[1])}"


def _norm_called(units: Sequence[Unit]) -> str:
    """What norms are; names alone tell those with statistics from all others and no more."""
    kind = str(units[0].colour[0])
    known = kind == "batch_norm" or all(unit.typed for unit in units)
    return f"of the kind {kind.replace('_', ' ')}" if known else "without statistics"


def _wrappers(colour: Colour) -> set[str]:
    """The wrappers that a colour says its kernels to be under."""
    return {
        name for name, endings in WRAPPERS.items() for value in colour[1:]
        if isinstance(value, str) and value.endswith(endings[0])
    }  # fmt: skip


def _without_wrapper(colour: Colour) -> Colour:
    endings = tuple(each[0] for each in WRAPPERS.values())
    return tuple(value for value in colour if not (isinstance(value, str) and value.endswith(endings)))


def _has_bias(colour: Colour) -> bool:
    return "bias" in colour or any(value is True for value in colour)


def _without_bias(colour: Colour) -> Colour:
    kind = "layer_norm" if colour[0] == "rms_norm" else colour[0]
    return (kind, *(value for value in colour[1:] if value != "bias" and not isinstance(value, bool)))


def one_size(everything: tuple[Sequence[Unit], Sequence[Unit]]) -> str:
    """The one size that all that is left on both sides differs in; empty where there is more to it."""
    left = _surplus(everything)
    if not left[0] or not left[1]:
        return ""
    sizes = [Counter(value for unit in side for value in _sizes(unit.colour)) for side in left]
    gone, new = list(sizes[0] - sizes[1])[:_TRIED], list(sizes[1] - sizes[0])[:_TRIED]
    forms = _forms(left[0], {}), _forms(left[1], {})
    times = _TIMES if len(left[0]) <= _NAMED else (1,)  # of more layers, that is another width
    for here, there in itertools.product(gone, new):
        both = {number * here: number * there for number in times}  # what is put together has a multiple of it
        if _forms(left[0], both) == forms[1] or forms[0] == _forms(left[1], {two: one for one, two in both.items()}):
            one, two = (_of(some, whole) for some, whole in zip(left, everything, strict=True))
            if len(left[0]) == 1:
                return f"{one} and {two} differ in one size: {here} in the source is {there} in the target"
            return f"one size differs: {here} in the source is {there} in the target, in {one} and in {two}"
    return ""


def _forms(units: Sequence[Unit], sizes: Mapping[int, int]) -> Counter[tuple[object, ...]]:
    """What units are but for what reads them (a matrix is one in any layer), with some sizes in the place of others."""
    return Counter(_form(unit.colour, sizes) for unit in units)


def _in_place(value: object, sizes: Mapping[int, int]) -> object:
    """A size as another; those of a kernel each."""
    if isinstance(value, tuple):
        return tuple(_in_place(one, sizes) for one in value)
    return sizes.get(value, value) if isinstance(value, int) and not isinstance(value, bool) else value


def _form(colour: Colour, sizes: Mapping[int, int]) -> tuple[object, ...]:
    kind, spatial = colour[0], colour[4] if colour[0] == "conv" else ()
    said = [_in_place(value, sizes) for value in colour[1:]]
    matrix = kind in ("linear", "embedding") or (kind == "array" and len(colour) == 3)
    if matrix or (kind == "conv" and isinstance(spatial, tuple) and set(spatial) == {1}):
        return ("matrix", *sorted(said[:2], key=str), kind in ("linear", "conv") and bool(colour[3]))
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
    one, two = ({unit.colour[0] for unit in units} for units in left)
    if 2 * len(one & two) < len(one | two):
        return ""  # the layers are of other kinds
    found = []
    for units, view, other in ((left[0], source, target), (left[1], target, source)):
        sizes = Counter(value for unit in units for value in {*_sizes(unit.colour)} if value > 1)
        there = {value for unit in other.units for value in _sizes(unit.colour)}
        size, count = max(sizes.items(), key=lambda item: item[1], default=(0, 0))
        if 2 * len(units) <= len(view.main) or 2 * count <= len(units) or size in there:
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
