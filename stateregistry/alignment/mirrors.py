"""Mirrors: numbers behind the words of a decoder, which run down to the output as often as up from the middle.

A U-Net calls `up4` first as often as `up1`. Such a number is an `assumption` where neither the calls of its own side nor a
pair that was decided without it shows which way it runs. Reads pairs, and doubts some of them; imports no search.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from stateregistry.alignment.model import Pair, Unit, View
from stateregistry.alignment.ranks import ranks, run_alike
from stateregistry.alignment.spelling import Token, split_words

#: What is counted down or up in published models, if a name says it of itself: a list (`ups/0`) is called in its order.
_MIRRORED: Final = frozenset(
    {"up", "ups", "upsample", "upsampling", "upscale", "upconv", "upblock", "uplayer", "upstage", "upproject"}
    | {"dec", "decoder", "decode", "deconv", "dconv"}
)
#: The decoder of a transformer counts its layers up, everywhere.
_LAYER: Final = frozenset({"layer", "layers"})
_DECODER: Final = frozenset({"dec", "decoder"})

#: A counted name: what it is in, and how it is called there.
_Name = tuple[object, ...]


def doubt(pairs: Sequence[Pair], source: View, target: View) -> None:
    """Make an assumption of what rests on a number that may run either way. Changes the pairs."""
    suspects = [pair for pair in pairs if pair.grade == "numbers" and any(map(_mirrored, _deciding(pair)))]
    if not suspects:
        return
    shown = _shown(pairs)
    for pair in suspects:
        for side, (unit, view) in enumerate(zip(_units(pair), (source, target), strict=True)):
            if view.called and unit.call is not None:
                continue  # numbers that run against known calls decide nothing in the first place
            own = _mirrored(_deciding(pair)[side])
            others = {name for name, _ in _names(_units(pair)[1 - side])}
            open_ = [name for name in own if not any(_both(side, name, other) in shown for other in others)]
            if open_:
                text = f"the numbers of `{open_[0][-1]}` run down as often as up, and nothing shows which"
                pair.doubt("assumption", text)
                break


def _units(pair: Pair) -> tuple[Unit, Unit]:
    return pair.source, pair.target


def _names(unit: Unit) -> Iterable[tuple[_Name, Token]]:
    for depth, token in enumerate(unit.tokens):
        if token.number is not None:
            yield (*(one.same for one in unit.tokens[:depth]), token.stem), token


def _deciding(pair: Pair) -> tuple[list[tuple[_Name, Token]], list[tuple[_Name, Token]]]:
    """The counted names whose numbers decided a pair, of either side."""
    one, two = (list(_names(unit)) for unit in _units(pair))
    if pair.stems:
        told = [{name for stem in pair.stems for name in stem[side]} for side in (0, 1)]
        return [each for each in one if _called(each[0]) in told[0]], [
            each for each in two if _called(each[0]) in told[1]
        ]
    if [token.number for _, token in one] == [token.number for _, token in two]:
        return [], []  # one path
    return one, two


def _called(name: _Name) -> str:
    """A name as pairs have those that were counted: see `counted_name`."""
    steps = [step[0] if isinstance(step, tuple) else step for step in name]
    return "/".join(str(step) or "#" for step in steps)


def _mirrored(names: Iterable[tuple[_Name, Token]]) -> list[_Name]:
    return [name for name, token in names if _is_mirrored(token)]


def _is_mirrored(token: Token) -> bool:
    words = frozenset(split_words(token.text))
    if token.apart or (words & _DECODER and words & _LAYER):
        return False
    return not words.isdisjoint(_MIRRORED)


def _both(side: int, own: _Name, other: _Name) -> tuple[_Name, _Name]:
    return (other, own) if side else (own, other)


def _shown(pairs: Sequence[Pair]) -> set[tuple[_Name, _Name]]:
    """Names of both sides of which something decided without numbers has one place from the first on, and not from the last."""
    held: tuple[dict[_Name, set[int]], dict[_Name, set[int]]] = ({}, {})
    either: set[_Name] = set()
    certain: dict[tuple[_Name, _Name], set[tuple[int, int]]] = {}
    for pair in pairs:
        names = [list(_names(unit)) for unit in _units(pair)]
        for side, numbered in enumerate(names):
            for name, token in numbered:
                held[side].setdefault(name, set()).add(token.number or 0)
                either |= {name} if _is_mirrored(token) else set()
        if pair.grade == "certain":
            for name, token in names[0]:
                for other, its in names[1]:
                    certain.setdefault((name, other), set()).add((token.number or 0, its.number or 0))
    places = tuple({name: ranks(numbers) for name, numbers in side.items()} for side in held)
    shown = {both for both, rows in certain.items() if run_alike(rows, places[0][both[0]], places[1][both[1]])}
    beside: list[dict[object, list[_Name]]] = [{}, {}]
    for side, counted_here in enumerate(held):
        for name in counted_here:
            beside[side].setdefault(_way(name, counted_here, either), []).append(name)
    return {
        (one, two)
        for first, second in shown
        for one in beside[0][_way(first, held[0], either)]
        for two in beside[1][_way(second, held[1], either)]
    }


def _way(name: _Name, held: Mapping[_Name, set[int]], either: set[_Name]) -> object:
    """What names have in common that one author counts one way: their container, their numbers, and that they are mirrored."""
    return name[:-1], frozenset(held[name]), name in either
