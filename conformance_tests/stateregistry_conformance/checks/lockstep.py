"""The lockstep machine as a check: random programs beside the oracle. What only a sequence of calls shows is found here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stateregistry_conformance.check import Profile, check
from stateregistry_conformance.lockstep import IDS, search
from stateregistry_conformance.verdict import Status, Verdict

if TYPE_CHECKING:
    from stateregistry_conformance.subject import Subject

_IN_PLACE = ("SR-WRITE-002", "SR-LIST-011", "SR-LIST-012")
_FUNCTIONAL = ("SR-WRITE-003",)
#: The program that follows a claim is worth more than its end.
_CLAIM = 500


@check(*IDS, layer="lockstep")
def random_programs_agree_with_the_oracle(h: Subject, v: Verdict, profile: Profile) -> None:
    in_place = h.registry(h.build(h.rich())).in_place
    for name in _FUNCTIONAL if in_place else _IN_PLACE:
        v.not_applicable(name, f"the registry is {'' if in_place else 'not '}in place")
    finding = search(lambda: h.harness, profile)
    if finding is not None:
        text = f"{finding.claim[:_CLAIM]}\n{finding.text(h.named)}"
        v.statuses[finding.requirement] = (Status.FAIL, text)
        v.close()
        return
    v.holds(True, f"{profile.examples} programs of {profile.steps} calls agree")
    v.passed()
