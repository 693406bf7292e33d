"""Levels: what a report is worth. The only place that says so, and only after the report was derived again from its rows.

A report is refused where it contradicts itself (`report`), was made with other requirements or by another suite than the
installed one, or has not exactly the rows that the suite gives for its profile. A level needs the full profile. What this
cannot prove: that the rows are what the suite found. Whoever can edit the report can make a consistent one; who has to be
sure runs it again (`verify-report --rerun`). Imports the suite's own tables.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias, final

from stateregistry_conformance import known
from stateregistry_conformance.capabilities import CAPABILITIES
from stateregistry_conformance.check import PROFILES
from stateregistry_conformance.claims import ABSENT, CLAIMS, UNTRIED
from stateregistry_conformance.identity import requirements_digest, suite_digest
from stateregistry_conformance.runner import selected, unmet
from stateregistry_conformance.specification import VERSION, requirements
from stateregistry_conformance.verdict import Row, Status

if TYPE_CHECKING:
    from stateregistry_conformance.report import Report

#: A requirement, a check and its layer.
_Cell: TypeAlias = tuple[str, str, str]

NONE: Final = "none"
CORE: Final = "Core"
CAPABLE: Final = "Core + capabilities"
FULL: Final = "Full"


@final
@dataclass(frozen=True, slots=True)
class Level:
    """What a report shows.

    Attributes:
        name: `none`, `Core`, `Core + capabilities` or `Full`.
        spec: the version of the specification.
        capabilities: the capabilities that are kept, in the order of the specification.
        reasons: why there is no level, or why it is not the next one.
    """

    name: str
    spec: str
    capabilities: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.name == NONE:
            return "no level"
        if self.name == CAPABLE:
            return f"Core {self.spec} + {', '.join(self.capabilities)}"
        return f"{self.name} {self.spec}"


def problems(report: Report) -> tuple[str, ...]:
    """Why a report cannot have been made by the suite that is installed; none where it can."""
    header = report.header
    if header.spec != VERSION or header.requirements != requirements_digest():
        return (f"it was made with other requirements (specification {header.spec}, {header.requirements[:12]})",)
    if header.suite_digest != suite_digest():
        return (
            f"it was made by another suite ({header.suite}, {header.suite_digest[:12]}; here {suite_digest()[:12]})",
        )
    profile = PROFILES.get(header.profile.name)
    if profile != header.profile:
        return (f"there is no profile {header.profile.name!r} with these budgets",)
    if header.selected is not None:
        return ("it is about some checks only",)
    unknown = sorted(set(header.capabilities) - set(CAPABILITIES))
    if unknown:
        return (f"there is no capability {unknown[0]!r}",)
    return (*_rows(report), *_claims(report))


def _rows(report: Report) -> list[str]:
    """Whether the rows are those of the profile, each once."""
    found: Counter[_Cell] = Counter(
        (row.requirement, row.check, row.layer) for row in report.rows if not _of_the_list(row)
    )
    expected: Counter[_Cell] = Counter(
        (name, one.name, one.layer) for one in selected(report.header.profile) for name in one.ids
    )
    for row in report.rows:
        if row.check in CLAIMS and not row.requirement and row.status is Status.FAIL and row.blame == "adapter":
            capability = row.check.removeprefix("claims.")
            named = [key for key, requirement in requirements().items() if requirement.capability == capability]
            expected.update((name, row.check, row.layer) for name in named)
    missing, extra = sorted((expected - found).elements()), sorted((found - expected).elements())
    said = [f"there is no row for {name or 'the harness'} by {check}" for name, check, _ in missing[:3]]
    said += [f"the suite gives no row for {name or 'the harness'} by {check}" for name, check, _ in extra[:3]]
    listed = {f"{known.CHECK}: {one.requirement}" for one in report.known}
    said += [f"nothing in the list of known failures gives {row.check!r}" for row in report.rows
             if _of_the_list(row) and (row.check not in listed or row.status is not Status.STALE)]  # fmt: skip
    excused = {one.requirement for one in report.known}
    said += [f"{row.requirement} is an expected failure and is not listed" for row in report.rows
             if row.status is Status.EXPECTED_FAIL and row.requirement not in excused
             and not known.unreached(row) and not row.blockers & excused]  # fmt: skip
    return said


def _of_the_list(row: Row) -> bool:
    return row.check.startswith(f"{known.CHECK}: ")


def _claims(report: Report) -> list[str]:
    """Whether what does not apply is what is not claimed."""
    claimed = set(report.header.capabilities)
    said = []
    for row in report.rows:
        capability = requirements()[row.requirement].capability if row.requirement else None
        if row.check in CLAIMS and not row.requirement:
            capability = row.check.removeprefix("claims.")
            if capability in claimed and row.status is Status.NOT_APPLICABLE:
                said.append(f"{capability} is claimed, and {row.check} says that it is not")
            if capability not in claimed and row.status is Status.PASS:
                said.append(f"{capability} is not claimed, and {row.check} has passed")
        elif capability is not None and capability not in claimed and row.status is Status.PASS:
            said.append(f"{row.requirement} has passed, and {capability} is not claimed")
    return said


def level(report: Report) -> Level:
    """The level that follows from the rows of a report without `problems`."""
    reasons = list(problems(report))
    if report.header.profile.name != "full":
        reasons.append(f"the profile is {report.header.profile.name}: a level needs the full one")
    left_out = _left_out(report)
    for name, why in unmet(report.rows).items():
        capability = requirements()[name].capability if name else None
        if capability not in left_out or why != Status.EXPECTED_FAIL.value:
            reasons.append(f"{name or 'the harness'}: {why}")
    if reasons:
        return Level(NONE, report.header.spec, (), tuple(reasons))
    kept = tuple(name for name in CAPABILITIES if name in report.header.capabilities and name not in left_out)
    open_ = [f"{name}: {why}" for name, why in left_out.items()]
    open_ += [
        f"{row.check.removeprefix('claims.')}: {row.detail}"
        for row in report.rows
        if row.check in CLAIMS and row.status is Status.NOT_APPLICABLE and row.note not in {ABSENT, UNTRIED}
    ]
    name = FULL if not open_ else CAPABLE if kept else CORE
    return Level(name, report.header.spec, kept, tuple(open_))


def _left_out(report: Report) -> dict[str, str]:
    """Capabilities that are claimed and have a known failure: they are not part of a level, and do not forbid one."""
    found: dict[str, str] = {}
    for name, status in report.statuses.items():
        capability = requirements()[name].capability
        if capability is not None and status is Status.EXPECTED_FAIL:
            found[capability] = f"{name} is a known failure"
    return found
