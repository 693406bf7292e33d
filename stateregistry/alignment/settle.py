"""Settle: bring the units of two sides to one granularity and one colour where only both together say which.

A unit that could be several kinds takes the one that the other side has. Where one side has an attention and the other
four linears, one fused linear and the other three, a convolution of one place and the other a linear, the units are seen
as what is smaller. Nothing is split that the counts of the other side do not ask for. Imports the layers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from stateregistry.alignment import parts
from stateregistry.alignment.colours import NORMS, Colour, array_colour, colour_of, widths
from stateregistry.alignment.lexicon import words_of
from stateregistry.alignment.model import Unit, View
from stateregistry.alignment.spelling import split_words, tokens
from stateregistry.layers.vocabulary import Layer, Piece

#: What the parts of a fused linear are, by a word of its name.
_FUSED: Final[tuple[tuple[tuple[str, ...], frozenset[str]], ...]] = (
    (("query", "key", "value"), frozenset({"qkv", "wqkv", "in", "attn", "attention", "inproj", "cattn"})),
    (("key", "value"), frozenset({"kv", "wkv"})),
    (("gate", "up"), frozenset({"gateup", "w13"})),
)


def settle(source: View, target: View, *, whole: bool = False) -> None:
    """Give every unit the colour that stands. Changes the views. `whole`: the units are those of one another already."""
    if whole:
        _open(source, target)
        return
    _attention(source, target)
    _open(source, target)
    for view, other in ((source, target), (target, source)):
        _lone_scales(view, other)
        _fused_pointwise(view, other)
    _pointwise(source, target)
    _patches(source, target)
    for view, other in ((source, target), (target, source)):
        _fused(view, other)
        _bare_kernels(view, other)


def _counts(view: View) -> Counter[Colour]:
    return Counter(unit.colour for unit in view.units if not unit.spare)


# -------------------------------------------------------------------- attention


def _attention(source: View, target: View) -> None:
    one, two = (Counter(c for c in _counts(view).elements() if c[0] == "attention") for view in (source, target))
    differing = {colour for colour in (*one, *two) if one[colour] != two[colour]}
    if not differing:
        return
    for view in (source, target):
        units: list[Unit] = []
        for unit in view.units:
            made = parts.heads(unit.layer) if unit.colour in differing and unit.layer is not None else ()
            units += [_part(unit, name, layer, view) for name, layer in made] or [unit]
        view.units = units


def _part(unit: Unit, name: str, layer: Layer, view: View) -> Unit:
    """A unit for a part of another."""
    colour = colour_of(layer, view.entries, view.aliases)
    keys = tuple(
        dict.fromkeys(
            key if key in view.entries else view.aliases.get(key, key)
            for piece in layer.pieces
            for key in [layer.key(piece)]
        )
    )
    return Unit(
        layer.path, (*unit.tokens, *tokens(name)), (colour,), {colour: layer}, keys, unit.typed, unit.place, unit.call,
        unit.spare, note=unit.note, grade=unit.grade,
    )  # fmt: skip


# -------------------------------------------------------------------- units that could be several kinds


def _open(source: View, target: View) -> None:
    """A unit takes the one of its colours that the other side has; colours that it cannot tell apart become one."""
    for view, other in ((source, target), (target, source)):
        _named_tables(view, other)
    joined = _Joined()
    for view, other in ((source, target), (target, source)):
        there = {colour for unit in other.units for colour in unit.options}
        for unit in view.units:
            if len(unit.options) > 1:
                fits = [colour for colour in unit.options if colour in there]
                for colour in fits[1:]:
                    joined.join(fits[0], colour)
                unit.colour = fits[0] if fits else unit.options[0]
    for view in (source, target):
        for unit in view.units:
            layer = unit.layer
            chosen = joined.of(unit.colour)
            if chosen != unit.colour:
                unit.readings = {**unit.readings, chosen: layer} if layer is not None else dict(unit.readings)
                if layer is None:
                    unit.readings.pop(chosen, None)
                unit.colour = chosen


def _named_tables(view: View, other: View) -> None:
    """Matrices of a file that may be a table or a kernel: names say which are tables, if as many do as the other side has."""
    theirs = Counter(unit.options for unit in other.units if not unit.spare)
    groups: dict[tuple[Colour, Colour], list[Unit]] = {}
    for unit in view.units:
        table, kernel = (next((c for c in unit.options if c[0] == kind), None) for kind in ("embedding", "linear"))
        if table is not None and kernel is not None and not unit.typed:
            groups.setdefault((table, kernel), []).append(unit)
    for (table, kernel), units in groups.items():
        main = [unit for unit in units if not unit.spare]
        named = [unit for unit in main if unit.tokens and "embedding" in words_of(unit.tokens[-1].text)]
        wanted = theirs[(table,)], theirs[(kernel,)]
        clear = not any(len(options) > 1 and {table, kernel} & {*options} for options in theirs)
        if clear and all(wanted) and (len(named), len(main) - len(named)) == wanted:
            for unit in main:
                unit.colour = table if unit in named else kernel
                unit.options = (unit.colour,)


def _lone_scales(view: View, other: View) -> None:
    """A lone vector called `scale` is an array of no layer where the other side has no norm without bias, and the arrays."""
    found: dict[int, list[Unit]] = {}
    for unit in view.units:
        if _is_lone_scale(unit) and not unit.typed and not unit.spare:
            for size in widths(unit.colour):  # none of a norm over several axes
                found.setdefault(size, []).append(unit)
    mine, theirs = _counts(view), _counts(other)
    for size, units in found.items():
        wanted = array_colour((size,))
        norms = any(_is_lone_scale(unit) and unit.colour[1] == size for unit in other.units)
        if norms or theirs[wanted] - mine[wanted] != len(units):
            continue
        for unit in units:
            (key,) = unit.keys
            leaf = key.rpartition("/")[2]
            unit.path, unit.tokens = key, (*unit.tokens, *tokens(leaf))
            unit.options, unit.readings, unit.colour = (wanted,), {}, wanted


def _is_lone_scale(unit: Unit) -> bool:
    """Whether a unit is a norm, in every reading, of nothing but its scale."""
    return len(unit.keys) == 1 and all(each[0] in NORMS and each[2:] == ("scale",) for each in unit.options)


class _Joined:
    """Colours that count as one."""

    def __init__(self) -> None:
        self._to: dict[Colour, Colour] = {}

    def of(self, colour: Colour) -> Colour:
        while colour in self._to:
            colour = self._to[colour]
        return colour

    def join(self, one: Colour, two: Colour) -> None:
        one, two = self.of(one), self.of(two)
        if one != two:
            self._to[two] = one


# -------------------------------------------------------------------- convolutions that are linears


def _pointwise(source: View, target: View) -> None:
    for colour in _unequal(source, target, "conv"):
        if not isinstance(colour[4], tuple) or set(colour[4]) != {1}:
            continue
        linear = ("linear", *colour[1:4], *colour[5:])
        one, two = _counts(source), _counts(target)
        if (one[colour] - two[colour]) * (one[linear] - two[linear]) < 0:
            for view in (source, target):
                _recolour(view, colour, linear, _as_linear)


def _fused_pointwise(view: View, other: View) -> None:
    """A fused convolution of one place is a fused linear where the other side has the parts as linears."""
    theirs = _counts(other)
    for unit in view.units:
        colour = unit.colour
        if colour[0] != "conv" or not isinstance(colour[4], tuple) or set(colour[4]) != {1} or theirs[colour]:
            continue
        for names, hints in _FUSED:
            count = len(names)
            part = ("linear", colour[1], int(colour[2]) // count, colour[3], *colour[5:])  # type: ignore[call-overload]
            if int(colour[2]) % count or theirs[part] < count:  # type: ignore[call-overload]
                continue
            if not _hinted(unit, hints) and not _named_there(colour, part, names, view, other):
                continue
            made = _as_linear(unit, view)
            if made is not None:
                linear = ("linear", *colour[1:4], *colour[5:])
                unit.colour, unit.readings = linear, {**unit.readings, linear: made}
                break


def _as_linear(unit: Unit, view: View) -> Layer | None:
    layer = unit.layer
    if layer is None or layer.kind != "conv" or not isinstance(unit.colour[4], tuple) or set(unit.colour[4]) != {1}:
        return None
    ranks = {piece.name: _rank(view, layer.key(piece)) for piece in layer.pieces}
    return parts.pointwise(layer, ranks)


def _rank(view: View, key: str) -> int:
    entry = view.entries.get(key) or view.entries[view.aliases[key]]
    return len(entry.shape)


def _unequal(source: View, target: View, kind: str) -> list[Colour]:
    one, two = _counts(source), _counts(target)
    return [colour for colour in dict.fromkeys((*one, *two)) if colour[0] == kind and one[colour] != two[colour]]


def _recolour(view: View, old: Colour, new: Colour, made: Callable[[Unit, View], Layer | None]) -> None:
    for unit in view.units:
        if unit.colour == old:
            layer = made(unit, view)
            if layer is not None:
                unit.colour, unit.readings = new, {**unit.readings, new: layer}


def _patches(source: View, target: View) -> None:
    """A convolution whose kernel is as large as its step, and a linear over the flattened patch."""
    for view, other in ((source, target), (target, source)):
        for colour in _unequal(source, target, "conv"):
            spatial = colour[4]
            if not isinstance(spatial, tuple) or set(spatial) == {1}:
                continue
            size = int(colour[1])  # type: ignore[call-overload]  # the colour of a conv
            for step in spatial:
                size *= step
            linear = ("linear", size, *colour[2:4], *colour[5:])
            mine, theirs = _counts(view), _counts(other)
            if mine[colour] != 1 or theirs[colour] or theirs[linear] != 1 or mine[linear]:
                continue
            for unit in other.units:
                layer = unit.layer
                if unit.colour == linear and layer is not None and layer.kind == "linear":
                    made = parts.patches(layer, len(spatial))
                    if made is not None:
                        unit.colour, unit.readings = colour, {**unit.readings, colour: made}
                        if colour[1] != 1:
                            unit.grade = "assumption"
                            unit.note = (
                                "a linear over patches, taken as flattened with the channels last, which no shape says"
                            )


# -------------------------------------------------------------------- fused linears


def _fused(view: View, other: View) -> None:
    """Take fused linears apart where the other side has the parts, and nothing here is like them."""
    for names, hints in _FUSED:
        count = len(names)
        for colour in [colour for colour in _unequal(view, other, "linear") if int(colour[2]) % count == 0]:  # type: ignore[call-overload]
            part = ("linear", colour[1], int(colour[2]) // count, *colour[3:])  # type: ignore[call-overload]
            mine, theirs = _counts(view), _counts(other)
            extra = mine[colour] - theirs[colour]
            alike = [unit for unit in view.units if unit.colour == colour and not unit.spare]
            named = [unit for unit in alike if _hinted(unit, hints) or _spelled(unit, names)]
            if not named and _named_there(colour, part, names, view, other):
                named = alike
            if extra <= 0 or len(named) != extra or theirs[part] - mine[part] < count * extra:
                continue
            made = {id(unit): _split(unit, _spelled(unit, names) or names, view) for unit in named}
            if all(made.values()):
                view.units = [piece for unit in view.units for piece in (made.get(id(unit)) or [unit])]


def _bare_kernels(view: View, other: View) -> None:
    """An array of no layer that is the kernel of a linear on the other side, where its sizes say which axis is which.

    Only where there are as many as the other side has linears without an array, and none that could lie the other way.
    """
    for colour in _unequal(other, view, "linear"):
        inner, outer, bias = colour[1:4]
        sizes = ("array", inner, outer), ("array", outer, inner)
        mine, theirs = _counts(view), _counts(other)
        wanted = theirs[colour] - mine[colour]
        turned = ("linear", outer, inner, *colour[3:])
        found = [unit for unit in view.units if unit.colour in sizes and not unit.spare]
        clear = not bias and len(colour) == 4 and inner != outer and theirs[turned] <= mine[turned]
        if not clear or wanted <= 0 or len(found) != wanted or any(theirs[size] for size in sizes):
            continue
        for unit in found:
            path, _, leaf = unit.keys[0].rpartition("/")
            entry = view.entries[unit.keys[0]]
            axes = "in out" if entry.shape == (inner, outer) else "out in"
            if len(entry.shape) == 2:
                layer = Layer("linear", path, (Piece("kernel", leaf, axes, entry.kind),), inferred=True)
                unit.colour, unit.readings = colour, {**unit.readings, colour: layer}


def _spelled(unit: Unit, names: tuple[str, ...]) -> tuple[str, ...]:
    """The parts in the order in which the name of a fused unit spells them: `kqv`, `to_vk`, `up_gate`; none if it does not."""
    words = split_words(unit.tokens[-1].text) if unit.tokens else ()
    initials = {name[0]: name for name in names}
    for word in words:
        if len(initials) == len(names) and sorted(word) == sorted(initials) and names != ("gate", "up"):
            return tuple(initials[letter] for letter in word)
    said = tuple(word for word in words if word in names)
    return said if sorted(said) == sorted(names) else ()


def _hinted(unit: Unit, hints: frozenset[str]) -> bool:
    words = [word for token in unit.tokens[-2:] for word in (*split_words(token.text), token.stem)]
    return not hints.isdisjoint(words)


def _named_there(colour: Colour, part: Colour, names: tuple[str, ...], view: View, other: View) -> bool:
    """Whether the other side names the parts of what nobody here calls fused: exactly one of each for all of the colour."""
    mine, theirs = _counts(view), _counts(other)
    count = mine[colour]
    if theirs[colour] or theirs[part] - mine[part] != len(names) * count:
        return False
    found = [words_of(unit.tokens[-1].text) for unit in other.units if unit.colour == part and unit.tokens]
    return all(sum(name in words for words in found) == count for name in names)


def _split(unit: Unit, names: tuple[str, ...], view: View) -> list[Unit]:
    layer = unit.layer
    if layer is None:
        return []
    stacked = {piece.name: bool(piece.part) for piece in layer.pieces}
    if any(stacked.values()) and not all(stacked.values()):
        return []
    shapes = {
        piece.name: (view.entries.get(layer.key(piece)) or view.entries[view.aliases[layer.key(piece)]]).shape
        for piece in layer.pieces
    }
    found = [_part(unit, name, one, view) for name, one in parts.fused(layer, names, shapes)]
    for each in found:
        each.grade = "assumption"
        each.note = f"{unit.path}: taken apart into {', '.join(names)}, in this order, which no shape says"
    return found


def as_kind(layer: Layer, kind: str) -> Layer:
    """A layer of vectors under the name of another kind: a norm of any kind has its scale and its bias."""
    return replace(layer, kind=kind)
