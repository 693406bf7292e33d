"""Model: the neutral view of one side: its units, each a layer or an array that stands alone, with what tells it.

A unit has a colour, a path in tokens, a place in the native order and, where the framework tells it, one in the order of
calls. A unit whose layer was only inferred may have several colours. Imports the layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, final

from stateregistry.alignment.colours import Colour
from stateregistry.alignment.lexicon import words
from stateregistry.alignment.spelling import Tokens

if TYPE_CHECKING:
    from stateregistry.entry import Entry
    from stateregistry.layers.vocabulary import Layer

#: How sure a pairing is. See docs/alignment.md.
Grade = Literal["certain", "numbers", "assumption", "question"]
GRADES: tuple[Grade, ...] = ("certain", "numbers", "assumption", "question")


def worse(one: Grade, two: Grade) -> Grade:
    """The less certain of two grades."""
    return max(one, two, key=GRADES.index)


@final
@dataclass(eq=False, slots=True)
class Unit:
    """A layer, or an array of no layer.

    Attributes:
        path: as the registry spells it. tokens: what it is compared by.
        options: every colour that it can have, likeliest first. colour: the one that stands, after both sides were seen.
        readings: the layer of each option; an array has none.
        keys: the canonical keys of its arrays.
        typed: its kind comes from a module, not from names.
        place: in the native order. call: in the order of calls, `None` where that is not known.
        spare: all its arrays belong to a unit before it (tied weights): it need not be paired.
        ruled: a rule gave it the name that it is compared by, which is no author's choice and does not lie.
        note: what the unit rests on beside its pairing, empty for nothing. grade: how sure that is.
    """

    path: str
    tokens: Tokens
    options: tuple[Colour, ...]
    readings: Mapping[Colour, Layer]
    keys: tuple[str, ...]
    typed: bool
    place: int
    call: int | None = None
    spare: bool = False
    colour: Colour = ()
    ruled: bool = False
    note: str = ""
    grade: Grade = "certain"
    _words: frozenset[str] | None = None

    def __post_init__(self) -> None:
        self.colour = self.colour or self.options[0]

    @property
    def layer(self) -> Layer | None:
        """The layer that the colour says, `None` for an array."""
        return self.readings.get(self.colour)

    @property
    def words(self) -> frozenset[str]:
        """What its names mean."""
        if self._words is None:
            self._words = words(self.tokens)
        return self._words


def is_automatic(unit: Unit) -> bool:
    """Whether a name was given by Linen, which counts what is made first and not what is called first."""
    return bool(unit.tokens) and unit.tokens[-1].automatic


@final
@dataclass(slots=True)
class View:
    """One side.

    Attributes:
        units: in native order.
        entries, aliases: as the registry has them.
        ordered: the native order says something: it is not the alphabet's.
        scattered: the native order is one that nobody wrote: it tears the arrays of modules apart.
        called: units that are typed have their place in the order of calls.
        channels: `"first"` or `"last"`, where images have their channels; empty if that is not known.
    """

    units: list[Unit]
    entries: Mapping[str, Entry]
    aliases: Mapping[str, str]
    ordered: bool = False
    called: bool = False
    channels: str = ""
    scattered: bool = False

    @property
    def main(self) -> list[Unit]:
        """The units that have to be paired: without the second names of tied arrays."""
        return [unit for unit in self.units if not unit.spare]


@final
@dataclass(slots=True)
class Pair:
    """Two units that are one, with the evidence.

    Attributes:
        stems: where numbers decided: the names that were counted, of the source and of the target; the last is of the
            units themselves if `leaf`.
    """

    source: Unit
    target: Unit
    evidence: list[str]
    grade: Grade = "certain"
    stems: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = ()
    leaf: bool = False

    def doubt(self, grade: Grade, why: str) -> None:
        """Make it less certain, with the reason."""
        self.grade = worse(self.grade, grade)
        self.evidence.append(why)


@final
@dataclass(slots=True)
class Question:
    """Units of one colour of which nothing says which is which.

    Attributes:
        sources, targets: the candidates. text: why it is open.
        crossed: they stand under equal names, each with the sizes of another.
    """

    sources: list[Unit]
    targets: list[Unit]
    text: str
    crossed: bool = False


@final
@dataclass(slots=True)
class Result:
    """What was found."""

    pairs: list[Pair] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    #: Units without a partner, on either side.
    left: tuple[list[Unit], list[Unit]] = field(default_factory=lambda: ([], []))
    #: Units of either side that were left out because they are called copies, each with the one that it copies.
    copies: tuple[list[tuple[Unit, Unit]], list[tuple[Unit, Unit]]] = field(default_factory=lambda: ([], []))
    #: Whether most names agree, so that what is left over is missing rather than unknown.
    by_name: bool = False
