"""Check: a test that decides the requirements whose ids it carries; and profiles, which say how much of the suite runs.

A check is deterministic, black-box (the public surface and the harness, never a hook), and about one thing, so that one bug
of an adapter does not light up the whole table. Imports the standard library.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast, final, get_args

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from stateregistry_conformance.subject import Subject
    from stateregistry_conformance.verdict import Verdict

#: What a check belongs to, in the order in which they run: `smoke` is about the harness alone, `directed` checks are one for
#: every requirement, `golden` compares with committed files, `lockstep` runs a random machine beside an oracle, `across` moves
#: state between every two installed adapters.
Layer: TypeAlias = Literal["smoke", "directed", "golden", "lockstep", "across"]
LAYERS: Final[tuple[Layer, ...]] = get_args(Layer)


@final
@dataclass(frozen=True, slots=True)
class Profile:
    """How much is run. The same profile gives the same verdicts on every run.

    Attributes:
        name: `quick` or `full`.
        examples: how many examples a random machine runs.
        steps: how many steps an example has at most.
        seed: what its randomness begins with.
        layers: which checks run.
    """

    name: str
    examples: int
    steps: int
    seed: int
    layers: tuple[Layer, ...] = LAYERS


PROFILES: Final[Mapping[str, Profile]] = MappingProxyType(
    {
        "quick": Profile("quick", 20, 20, 0, ("smoke", "directed", "golden", "lockstep")),
        "full": Profile("full", 200, 40, 0),
    }
)

Body: TypeAlias = "Callable[[Subject, Verdict], None]"
#: The body of a check of the layers `lockstep` and `across`, which are told the profile.
ProfiledBody: TypeAlias = "Callable[[Subject, Verdict, Profile], None]"

#: The layers whose checks are told the profile.
PROFILED: Final = frozenset({"lockstep", "across"})


@final
@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    Attributes:
        name: `chapter.sentence`.
        ids: the requirements that it decides.
        body: what it does; a body of the layers `lockstep` and `across` takes a `Profile` as well.
        layer: what it belongs to.
    """

    name: str
    ids: tuple[str, ...]
    body: Body | ProfiledBody
    layer: Layer = "directed"

    def decide(self, subject: Subject, verdict: Verdict, profile: Profile) -> None:
        """Run the body. What it had to leave out because something more basic is broken makes a pass `untested`."""
        subject.begin(self.ids if self.layer == "directed" else ())
        try:
            if self.layer in PROFILED:
                cast("ProfiledBody", self.body)(subject, verdict, profile)
            else:
                cast("Body", self.body)(subject, verdict)
        finally:
            left = subject.end()
        for blocked in left[:1]:
            verdict.blocked(str(blocked), blocked.note)


def check(*ids: str, layer: Layer = "directed") -> Callable[[Any], Check]:
    """Make a check of a function whose name is a sentence about adapters that conform."""

    def make(body: Any) -> Check:
        chapter = body.__module__.rpartition(".")[2]
        return Check(f"{chapter}.{body.__name__}", ids, body, layer)

    return make
