"""Images: axes that hold a flattened image, which frameworks with their channels in different places number in other orders.

A linear or recurrent layer that reads a flattened image, and a linear whose outputs are made one, fit in any order, and in one
alone do they compute the same. No shape says so: a width that nothing else explains is asked about. Reads colours and orders.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

from stateregistry.alignment.colours import NORMS, Colour, widths

if TYPE_CHECKING:
    from stateregistry.alignment.model import Pair, Unit, View

_CONVS: Final = ("conv", "conv_transpose")
_RECURRENT: Final = ("lstm", "gru", "rnn")
#: Channels of images that are data: where no order is known, nothing is made into these.
_DATA: Final = 4


@final
@dataclass(frozen=True, slots=True)
class Image:
    """A pair of which one axis may be an image.

    Attributes:
        axis: `in`, `out` or `features`. channels: the only number of them that it may have, 0 where there are several.
        spatial: how many axes the image has beside its channels.
    """

    pair: Pair
    axis: str
    channels: int
    spatial: int


def images(pairs: Sequence[Pair], source: View, target: View) -> list[Image]:
    """Every axis of a pair that looks like an image which the two sides hold with its channels in different places."""
    if not source.channels or not target.channels or source.channels == target.channels:
        return []
    seen = _Seen(source, target)
    if not seen.outputs:
        return []
    read = [pair for pair in pairs if _inputs(pair.source.colour) and seen.is_read_flat(pair)]
    flat = {_inputs(pair.source.colour) for pair in read}
    made = [pair for pair in pairs if pair.source.colour[0] == "linear" and seen.is_made_an_image(pair, flat)]
    whole = {width for pair in made for width in widths(pair.source.colour)}
    norms = [
        pair
        for pair in pairs
        if pair.source.colour[0] in NORMS and {*widths(pair.source.colour)} & whole - seen.outputs - seen.inputs
    ]
    rows = [(pair, "in", _inputs(pair.source.colour)) for pair in read]
    rows += [(pair, "out", widths(pair.source.colour)[0]) for pair in made]
    rows += [(pair, "features", widths(pair.source.colour)[0]) for pair in norms]
    return [Image(pair, axis, *seen.shape(width, axis)) for pair, axis, width in rows]


def _inputs(colour: Colour) -> int:
    """What a linear or a recurrent layer reads; 0 for any other."""
    size = colour[1] if colour[0] == "linear" or colour[0] in _RECURRENT else 0
    return size if isinstance(size, int) and size > 0 else 0


@final
class _Seen:
    """What both sides have: they are one model, and what one of them shows of it the other may not."""

    def __init__(self, source: View, target: View) -> None:
        self._views = source, target
        colours = [unit.colour for view in self._views for unit in view.units]
        options = [colour for view in self._views for unit in view.units for colour in unit.options]
        #: Channels that convolutions make, and that they read; those of every reading beside what stands.
        self.outputs = {_made(colour) for colour in colours if colour[0] in _CONVS}
        self.inputs = {size for view in self._views for unit in view.units for size in _read(unit)}
        self._every = self.outputs | {_made(colour) for colour in options if colour[0] in _CONVS} - {0}
        self._ranks = [(size, len(c[4])) for c in (*colours, *options) for size in _sizes(c) if isinstance(c[4], tuple)]
        self._solid = {
            width for colour in colours if colour[0] not in ("linear", *_CONVS) for width in widths(colour)
        } | self.outputs
        self._hidden = {
            width for colour in colours if colour[0] in ("linear", "layer_norm") for width in widths(colour)
        }
        self._linears = [[unit for unit in view.units if unit.colour[0] == "linear"] for view in self._views]
        self._from = {width for units in self._linears for unit in units for width in widths(unit.colour)}
        self._together = {size for view in self._views for size in _in_parallel(view)}
        others = {width for c in colours if c[0] not in (*_CONVS, *NORMS) for width in widths(c)}
        held = {size for view in self._views for size in _in_arrays(view)}
        self._starts = self.inputs - others - held - {_made(c) for c in colours if c[0] in _CONVS and c[1] != _made(c)}

    def shape(self, width: int, axis: str) -> tuple[int, int]:
        """The only number of channels that a width may have, and how many other axes its image has."""
        able = self._every if axis == "in" else self.inputs
        fits = {size for size in able if 1 < size < width and width % size == 0}
        return (*fits,)[0] if len(fits) == 1 else 0, max(
            (rank for size, rank in self._ranks if size in fits), default=2
        )

    def is_read_flat(self, pair: Pair) -> bool:
        """Whether a layer reads what may be an image, and nothing else explains its width."""
        width = _inputs(pair.source.colour)
        if width in self._solid or width in self._together:
            return False
        if not any(self._may_hold(width, c) and self._is_made_before(pair, c) for c in self._every):
            return False
        if width not in self._from:
            return width not in self.inputs  # several that are put together are read by convolutions too
        return not self._goes(pair, width, before=True)

    def is_made_an_image(self, pair: Pair, flat: set[int]) -> bool:
        """Whether what a linear gives may be made an image: convolutions read a part of it, and nothing all of it."""
        width = widths(pair.source.colour)[0]
        if width in self.outputs or width in self.inputs:
            return False
        if any(_inputs(unit.colour) == width for view in self._views for unit in view.units) and self._goes(
            pair, width, before=False
        ):
            return False
        if width in flat:
            return True
        return any(1 < size < width and width % size == 0 and self._is_read_after(pair, size) for size in self._starts)

    def _may_hold(self, width: int, channels: int) -> bool:
        """Whether so many inputs may be an image of so many channels. Two or three times a hidden size are put together."""
        if channels <= 1 or width <= channels or width % channels:
            return False
        return width > 3 * channels or channels not in self._hidden

    def _is_made_before(self, pair: Pair, channels: int) -> bool:
        """Whether a convolution makes so many channels before a layer is called, if calls are known."""
        for view, unit in zip(self._views, (pair.source, pair.target), strict=True):
            convs = [
                u for u in view.units if any(c[0] in _CONVS and _made(c) == channels for c in (u.colour, *u.options))
            ]
            if unit.call is not None and convs and all(u.call is not None for u in convs):
                return any(u.call < unit.call for u in convs)  # type: ignore[operator]  # none is None
        return True

    def _goes(self, pair: Pair, width: int, *, before: bool) -> bool:
        """Whether another layer gives the width before it is read, or reads it after it is given, as orders show.

        An encoder reads the width that the decoder after it gives: without an order of calls they are told by what lies
        between, which nothing else in the model has.
        """
        declared: list[bool] = []
        mirrored = False
        for view, unit, linears in zip(self._views, (pair.source, pair.target), self._linears, strict=True):
            others = linears if before else view.units
            others = [
                u for u in others if u is not unit and width == (widths(u.colour)[0] if before else _inputs(u.colour))
            ]
            if not others:
                continue
            mirrored |= all(self._mirror(*((u, unit) if before else (unit, u))) for u in others)
            if unit.call is not None and all(u.call is not None for u in others):
                return any((u.call < unit.call) is before for u in others)  # type: ignore[operator]  # none is None
            if view.ordered:
                declared.append(any((u.place < unit.place) is before for u in others))
        return not mirrored and (any(declared) or not declared) and width in self._from

    def _mirror(self, gives: Unit, reads: Unit) -> bool:
        """Whether one makes the width of what the other made of it, once or twice (a mean and a variance)."""
        inner, outer = _inputs(gives.colour), widths(reads.colour)
        return inner not in self._solid and any(size in (inner, 2 * inner) for size in outer)

    def _is_read_after(self, pair: Pair, channels: int) -> bool:
        """Whether a convolution reads so many channels after a linear has given something, as far as any order is known."""
        known: list[bool] = []
        for view, unit in zip(self._views, (pair.source, pair.target), strict=True):
            convs = [each for each in view.units if channels in _read(each)]
            if unit.call is not None and convs and all(each.call is not None for each in convs):
                return any(each.call > unit.call for each in convs)  # type: ignore[operator]  # none is None
            if view.ordered:
                known.append(any(each.place > unit.place for each in convs))
        return any(known) if known else channels > _DATA


def _sizes(colour: Colour) -> tuple[int, ...]:
    return tuple(size for size in colour[1:3] if isinstance(size, int)) if colour[0] in _CONVS else ()


def _made(colour: Colour) -> int:
    """The channels that a convolution makes, as far as its colour says."""
    return colour[2] if isinstance(colour[2], int) else 0


def _read(unit: Unit) -> tuple[int, ...]:
    """The channels that a convolution reads: of one in groups, all of them where its type says how many."""
    colour = unit.colour
    if colour[0] not in _CONVS or not isinstance(colour[1], int):
        return ()
    groups = unit.layer.config.get("groups") if unit.layer is not None and colour[0] == "conv" else None
    return (colour[1] * groups,) if isinstance(groups, int) and groups > 0 else (colour[1],)


def _in_arrays(view: View) -> Iterable[int]:
    """Sizes of arrays that are no kernels of convolutions: an image to begin with, or a kernel that is computed with."""
    kernels = {key for unit in view.units if unit.colour[0] in _CONVS for key in unit.keys}
    for key, entry in view.entries.items():
        if key not in kernels and len(entry.shape) > 2:
            yield from entry.shape


def _in_parallel(view: View) -> Iterable[int]:
    """What the convolutions of a list make together, where they read the same with kernels of different sizes."""
    lists: dict[object, list[Unit]] = {}
    for unit in view.units:
        if unit.colour[0] == "conv" and unit.tokens and unit.tokens[-1].number is not None:
            place = (*(token.same for token in unit.tokens[:-1]), unit.tokens[-1].stem)
            lists.setdefault(place, []).append(unit)
    for units in lists.values():
        kernels = {unit.colour[4] for unit in units}
        if len(units) > 1 and len({unit.colour[1] for unit in units}) == 1 and len(kernels) == len(units):
            yield sum(_made(unit.colour) for unit in units)
