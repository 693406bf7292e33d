"""Pairs: what alignment hands to the planner: layers and entries that belong together, and what keeps the rest from it.

Values alone. Imports the vocabulary of layers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from stateregistry.conversion.planning.plan import Grade, PlanProblem
    from stateregistry.layers.vocabulary import Layer


@final
@dataclass(frozen=True, slots=True)
class LayerPair:
    """Two layers that are one.

    Attributes:
        grade, reason: how sure it is, and why not more. whole: that is of the pairing, not of the layout of kernels alone.
    """

    source: Layer
    target: Layer
    evidence: str
    grade: Grade = "certain"
    reason: str = ""
    whole: bool = False


@final
@dataclass(frozen=True, slots=True)
class EntryPair:
    """Two keys (or aliases) that are one place, with the axes where a rule gives them."""

    source: str
    target: str
    evidence: str
    grade: Grade = "certain"
    reason: str = ""
    source_axes: str = ""
    target_axes: str = ""


@final
@dataclass(slots=True)
class Alignment:
    """The pairs found, and what keeps the rest from being paired. `paths` are all that rules of the source may speak of."""

    layers: list[LayerPair] = field(default_factory=list)
    entries: list[EntryPair] = field(default_factory=list)
    problems: list[PlanProblem] = field(default_factory=list)
    paths: tuple[str, ...] = ()
    #: Names of the source and of the target that a problem speaks of already.
    explained: tuple[set[str], set[str]] = field(default_factory=lambda: (set(), set()))
