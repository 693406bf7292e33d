"""What the modules of lying harnesses share: `Liar`, and how one is registered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from stateregistry_conformance.harness import Harness

Hazard = Literal["", "exits", "crashes", "hangs", "skips", "patches"]


@dataclass(frozen=True, slots=True)
class Liar:
    """A dishonest harness.

    Attributes:
        id: its name, `l-...`.
        story: what it does, and who does that.
        blame: the side that a verdict has to name.
        hazard: what it does to the process that runs it; empty where it can be run beside others.
        harness: a new one.
        lie: returns when the lie shows and raises `NotShown` over an honest harness; `None` where a hazard forbids it.
    """

    id: str
    story: str
    blame: Literal["harness"]
    hazard: Hazard
    harness: Callable[[], Harness]
    lie: Callable[[Harness], None] | None


class Liars:
    """The liars of one module, in the order in which they are written down."""

    def __init__(self) -> None:
        self._liars: list[Liar] = []

    def liar(
        self, name: str, story: str, *, lie: Callable[[Any], None] | None = None, hazard: Hazard = ""
    ) -> Callable[[type], type]:
        """Register the class of a lying harness."""

        def add(cls: type) -> type:
            self._liars.append(Liar(name, story, "harness", hazard, cls, lie))
            return cls

        return add

    def __iter__(self) -> Iterator[Liar]:
        return iter(self._liars)
