"""Population: what a scope holds on either side, so that evidence about a few of its units can look at all the others.

Made once for a scope, and once for each of its blocks. `Around` is all that evidence about a class is held against: the
population, what is decided, and both sides. Nothing here decides anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, final

from stateregistry.alignment.colours import Colour
from stateregistry.alignment.containers import Item, Tied
from stateregistry.alignment.model import View

#: For every name that is counted in a scope, the numbers and colours that it counts.
Counts = Mapping[tuple[str, ...], Sequence[tuple[tuple[int, ...], Colour]]]

Sides = tuple[Sequence[Item], Sequence[Item]]


@final
@dataclass(frozen=True, slots=True)
class Population:
    """What a scope holds, on either side.

    Attributes:
        items: its units, but for those of containers that are solved on their own.
        counts: by every name that is counted. calls: the colours of all units whose calls are known, in their order.
    """

    items: Sides = ((), ())
    counts: tuple[Counts, Counts] = field(init=False)
    calls: tuple[Sequence[Colour], Sequence[Colour]] = field(init=False)

    def __post_init__(self) -> None:
        one, two = (_counted(items) for items in self.items)
        object.__setattr__(self, "counts", (one, two))
        first, second = (_called(items) for items in self.items)
        object.__setattr__(self, "calls", (first, second))


def _counted(items: Sequence[Item]) -> Counts:
    found: dict[tuple[str, ...], list[tuple[tuple[int, ...], Colour]]] = {}
    for item in items:
        if item.numbers:
            found.setdefault(item.stems, []).append((item.numbers, item.units[0].colour))
    return found


def _called(items: Sequence[Item]) -> Sequence[Colour]:
    rows = [(item.call, item.units[0].colour) for item in items if item.call is not None]
    return [colour for _, colour in sorted(rows, key=lambda row: row[0])]


#: Of a scope of which nothing is known.
NOBODY: Final = Population()


@final
@dataclass(frozen=True, slots=True)
class Around:
    """What every piece of evidence about a class is held against.

    Attributes:
        anchors: what is decided in the same scope. source, target: the sides.
        population: what else the scope holds.
        last: nothing else is decided any more, so that weak evidence contradicts none.
    """

    anchors: Sequence[Tied]
    source: View
    target: View
    population: Population = NOBODY
    last: bool = False

    def ways(
        self, xs: Sequence[Item], ys: Sequence[Item]
    ) -> tuple[tuple[Sequence[Item], Sequence[Item], View, View], tuple[Sequence[Item], Sequence[Item], View, View]]:
        """Some items and those that they go to, each with their side; the source first, then the other way round."""
        return (xs, ys, self.source, self.target), (ys, xs, self.target, self.source)
