"""Moves between adapters as checks: the adapter under test and every other installed one, both ways, for every declaration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stateregistry_conformance.across import declarations, moves, partners, sound
from stateregistry_conformance.check import Profile, check
from stateregistry_conformance.verdict import NotApplicable, Verdict

if TYPE_CHECKING:
    from stateregistry_conformance.subject import Subject


@check("SR-SNAP-007", "SR-LOAD-007", layer="across")
def state_moves_to_every_installed_adapter_and_back(h: Subject, v: Verdict, profile: Profile) -> None:
    others, lost = partners(h)
    tried = 0
    for name, other in others.items():
        for told, declaration in declarations().items():
            if h.can_build(declaration) is None or other.can_build(declaration) is None:
                continue
            why = sound(other, declaration)
            if why:
                lost[f"{name} with {told!r}"] = why
                continue
            tried += moves(v, h, other, declaration)
    if not tried:
        reasons = "; ".join(f"{name}: {why}" for name, why in lost.items()) or "no other harness is installed"
        raise NotApplicable(f"there is no other adapter to move state to: {reasons}")
    v.passed()
