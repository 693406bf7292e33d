"""Text: a report, and what it is worth, for people at a terminal. Lines with a tone, which may become a colour.

The verdict first, then every requirement, then what is wrong with what to do about it: a reproduction is never wrapped or
cut, so that it can be copied. Imports the standard library and the suite.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, final

from stateregistry.report.spelling import printable
from stateregistry_conformance.known import unreached
from stateregistry_conformance.specification import requirements
from stateregistry_conformance.verdict import NOT_REACHED, Row, Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from stateregistry_conformance.levels import Level
    from stateregistry_conformance.report import Report

Tone = Literal["", "good", "bad", "warn", "dim"]

_TONES: Final[dict[Status, Tone]] = {
    Status.PASS: "good",
    Status.FAIL: "bad",
    Status.ERROR: "bad",
    Status.STALE: "bad",
    Status.UNTESTED: "bad",
    Status.EXPECTED_FAIL: "warn",
    Status.NOT_APPLICABLE: "dim",
}
_CODES: Final[dict[Tone, str]] = {"": "", "good": "\x1b[32m", "bad": "\x1b[31m", "warn": "\x1b[33m", "dim": "\x1b[2m"}


@final
@dataclass(frozen=True, slots=True)
class Line:
    """One line: a part that may be coloured, and the rest."""

    rest: str = ""
    tone: Tone = ""
    toned: str = ""
    before: str = ""


def shown(lines: Iterable[Line], *, color: bool) -> str:
    """The lines as text."""
    return "".join(f"{_line(line, color=color)}\n" for line in lines)


def _line(line: Line, *, color: bool) -> str:
    # Harnesses choose their own names and reasons: what a terminal would obey is spelled out instead.
    before, toned, rest = (printable(part) for part in (line.before, line.toned, line.rest))
    return f"{before}{_CODES[line.tone]}{toned}\x1b[0m{rest}" if color and line.tone else f"{before}{toned}{rest}"


def verdict(report: Report) -> list[Line]:
    """The whole answer to `conform`."""
    whole = report.header.selected is None
    statuses: Mapping[str, Status] = report.statuses
    if not whole:
        statuses = {
            key: status for key, status in statuses.items() if any(row.requirement == key for row in report.rows)
        }
    lines = [_head(report, statuses)]
    if not _stopped(report):
        lines += [Line("", _TONES[status], status.value, f"  {key:16} ") for key, status in statuses.items()]
    for row in _wrong(report):
        lines += _explained(row)
    lines += _unreached(report) + _blocked(report)
    unrun = [row for row in report.rows if row.status is Status.UNTESTED and row.detail.startswith("not run: ")]
    if unrun:
        checks = len({row.check for row in unrun})
        lines += [
            Line(),
            Line(f": {checks} checks, since {unrun[0].detail.removeprefix('not run: ')}", "bad", "not run"),
        ]
    return lines


def _stopped(report: Report) -> bool:
    """Whether nothing was found out about the adapter, since the harness is wrong."""
    decided = (Status.PASS, Status.FAIL, Status.EXPECTED_FAIL)
    return report.header.selected is None and not any(row.requirement and row.status in decided for row in report.rows)


def _head(report: Report, statuses: Mapping[str, Status]) -> Line:
    counts = Counter(statuses.values())
    told = ", ".join(f"{counts[status]} {status.value}" for status in Status if counts[status])
    name = f"{report.header.named}: "
    if _stopped(report):
        wrong = next((row for row in report.rows if row.status in {Status.ERROR, Status.FAIL}), None)
        said = f": {wrong.detail}" if wrong is not None else ""
        return Line(f", and nothing is said about its adapter{said}", "bad", "THE HARNESS IS WRONG", name)
    what = f"specification {report.header.spec}" if report.header.selected is None else "the checks chosen"
    if report.conformant:
        return Line(f" {what}: {told}" if told else f" {what}", "good", "conforms to", name)
    if report.excused:
        return Line(f" {what}, as its known failures say: {told}", "warn", "does not conform to", name)
    harness = f" (the harness is wrong: {report.blamed_on_harness[0].detail})" if report.blamed_on_harness else ""
    return Line(f" {what}: {told}{harness}" if told else f" {what}{harness}", "bad", "DOES NOT conform to", name)


def _wrong(report: Report) -> list[Row]:
    good = {Status.PASS, Status.NOT_APPLICABLE}
    return [
        row
        for row in report.rows
        if row.status not in good and not row.detail.startswith("not run: ") and not unreached(row) and not row.blockers
    ]


def _unreached(report: Report) -> list[Line]:
    """One line for each check that ended at one of its requirements, with those that it did not come to."""
    found: dict[str, list[str]] = {}
    for row in report.rows:
        if unreached(row) and not row.blockers:
            found.setdefault(row.check, []).append(row.requirement)
    lines = []
    for check, names in found.items():
        lines += [Line(), Line(f" by {check}, which ended before: {', '.join(names)}", "warn", "not reached")]
    return lines


def _blocked(report: Report) -> list[Line]:
    """One paragraph for each thing that is broken, with the requirements that could not be tried for it."""
    found: dict[str, list[str]] = {}
    for row in report.rows:
        if row.blockers:
            found.setdefault(row.detail.removeprefix(NOT_REACHED), []).append(row.requirement)
    lines = []
    for why, names in found.items():
        told = ", ".join(dict.fromkeys(names))
        lines += [Line(), Line(f", {why}", "warn", "not tried"), Line(f"  {told}")]
    return lines


def _explained(row: Row) -> list[Line]:
    about = row.requirement or "the harness"
    lines = [Line(), Line(f": {about} by {row.check}", _TONES[row.status], row.status.value)]
    lines += [Line(f"  {part}") for part in row.detail.splitlines()]
    if row.requirement in requirements():
        lines.append(Line(f"  {requirements()[row.requirement].text}"))
    return lines + [Line(f"  | {line}") for line in row.repro.splitlines()]


def standing(name: str, level: Level | None, problems: Sequence[str]) -> list[Line]:
    """The answer to `verify-report` on one file."""
    if level is None:
        return [Line("", "bad", "refused", f"{name}: "), *(Line(f"  {problem}") for problem in problems)]
    good = level.name != "none"
    capabilities = f" ({', '.join(level.capabilities)})" if level.name == "Full" and level.capabilities else ""
    head = Line(capabilities, "good" if good else "bad", str(level), f"{name}: ")
    return [head, *(Line(f"  {reason}") for reason in level.reasons)]
