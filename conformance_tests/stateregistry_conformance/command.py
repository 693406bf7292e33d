"""Command: what `conform`, `verify-report`, `badge` and `combine` do, for every command line that offers them.

An answer goes to the terminal that is given, text or one JSON document; what is wrong with the question is a `StateError`.
Exit codes: 0 yes, 1 no. Files that are written replace older ones of their kind only, and in one step.
Imports the core and the suite, no framework, no harness and no library for command lines.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

from stateregistry import errors
from stateregistry.cli.terminal import Terminal, dump, interactive
from stateregistry.stores import atomic
from stateregistry_conformance import known, page, text
from stateregistry_conformance.badge import badge as badge_of
from stateregistry_conformance.check import PROFILES, Profile
from stateregistry_conformance.levels import NONE, Level, level, problems
from stateregistry_conformance.report import SCHEMA, Report, ReportError, parse
from stateregistry_conformance.runner import everything
from stateregistry_conformance.session import TIME_LIMIT, conform
from stateregistry_conformance.verdict import HarnessError

if TYPE_CHECKING:
    from stateregistry_conformance.session import Watch

_PATIENCE: Final = 0.5


@final
@dataclass(frozen=True, slots=True)
class Request:
    """One run.

    Attributes:
        name: an installed harness, or `module:object`.
        profile: `quick` or `full`.
        report, html: where to write.
        known: the list of known failures.
        checks: names of checks to run instead of all.
        time_limit: seconds for one check.
    """

    name: str
    profile: str = "quick"
    report: Path | None = None
    html: Path | None = None
    known: Path | None = None
    checks: tuple[str, ...] = ()
    time_limit: float = TIME_LIMIT


def conform_as_asked(
    terminal: Terminal,
    *,
    name: str,
    profile: str,
    report: Path | None,
    html: Path | None,
    known: Path | None,
    checks: Sequence[str],
    time_limit: float,
) -> int:
    """What `stateregistry conform` calls, which finds it by entry point."""
    return run(Request(name, profile, report, html, known, tuple(checks), time_limit), terminal)


def run(request: Request, terminal: Terminal) -> int:
    """`conform`: run a harness through the suite.

    Raises:
        StateError: the harness cannot be found or imported, a check or profile does not exist, a file cannot be used.
    """
    profile = _profile(request)
    expected = known.read(request.known) if request.known is not None else ()
    for path in (request.report, request.html):
        _replaceable(path)
    if ":" in request.name and "" not in sys.path:
        sys.path.insert(0, "")  # as `python -m` does: the current directory first
    log: list[str] = []
    try:
        with _Progress() as watch:
            found = conform(
                request.name,
                profile=profile,
                checks=request.checks or None,
                expected=expected,
                time_limit=request.time_limit,
                watch=watch,
                log=log.append,
            )
    except HarnessError as error:
        named = str(error).startswith(("no harness", "the harness"))
        said = str(error) if named else f"{request.name}: {error}"
        raise errors.AdapterError(said) from error
    if terminal.debug and any(log):
        terminal.say("".join(log).rstrip())
    if request.report is not None:
        _write(request.report, dump(found.to_json()))
    if request.html is not None:
        _write(request.html, page.render(page.columns([(request.name, found, level(found))])))
    if terminal.json:
        terminal.answer((), found.to_json())
    else:
        terminal.write(text.shown(text.verdict(found), color=terminal.colored(terminal.out)))
    if request.report is not None and found.header.selected is None and profile.name == "full":
        terminal.say(f"the level: python -m stateregistry_conformance verify-report {request.report}")
    return 0 if found.conformant or found.excused else 1


def _profile(request: Request) -> Profile:
    """The profile that is asked for, if the rest of the request makes sense."""
    profile = PROFILES.get(request.profile)
    if profile is None:
        raise _use(f"there is no profile {request.profile!r}", f"use {' or '.join(PROFILES)}")
    unknown = [name for name in request.checks if name not in everything()]
    if unknown:
        raise _use(f"no such check: {', '.join(unknown)}", f"a check is named like {next(iter(everything()))}")
    if request.time_limit <= 0:
        raise _use("the time limit is not more than 0 seconds", "give seconds")
    if not request.checks and "lockstep" in profile.layers and find_spec("hypothesis") is None:
        hint = "pip install 'stateregistry[conformance]'"
        raise errors.MissingDependencyError("the random machine of the suite needs the package 'hypothesis'", hint=hint)
    return profile


def verify(paths: Sequence[Path], terminal: Terminal, *, rerun: bool = False) -> int:
    """`verify-report`: what each report is worth, derived again from its rows.

    Args:
        rerun: run each harness again as its report says, and hold the verdicts against one another.

    Raises:
        StateError: a file cannot be read.
    """
    found = [(path, *_verified(path, rerun=rerun)) for path in paths]
    if terminal.json:
        terminal.command = "verify-report"
        rows = [
            {
                "file": str(path),
                "adapter": report.header.adapter if report else None,
                "refused": list(refused),
                "level": standing.name if standing else None,
                "capabilities": list(standing.capabilities) if standing else [],
                "reasons": list(standing.reasons) if standing else [],
            }
            for path, report, standing, refused in found
        ]
        terminal.answer((), {"reports": rows})
    else:
        lines = [line for path, _, standing, refused in found for line in text.standing(str(path), standing, refused)]
        terminal.write(text.shown(lines, color=terminal.colored(terminal.out)))
    return 0 if all(standing is not None and standing.name != NONE for _, _, standing, _ in found) else 1


def _verified(path: Path, *, rerun: bool) -> tuple[Report | None, Level | None, tuple[str, ...]]:
    try:
        report = parse(_content(path))
    except ReportError as error:
        return None, None, (error.message,)
    wrong = problems(report)
    if not wrong and rerun:
        wrong = _differences(report)
    return report, None if wrong else level(report), wrong


def _differences(report: Report) -> tuple[str, ...]:
    """How the verdicts of a new run differ from those of a report."""
    header = report.header
    try:
        again = conform(header.named, profile=header.profile, expected=report.known, time_limit=header.time_limit)
    except HarnessError as error:
        return (f"it cannot be run again: {error}",)
    if again.header.capabilities != header.capabilities or again.header.adapter != header.adapter:
        return (
            f"run again, {header.named} is {again.header.adapter} with {', '.join(again.header.capabilities) or 'nothing'}",
        )
    was = {(row.requirement, row.check): row.status for row in report.rows}
    now = {(row.requirement, row.check): row.status for row in again.rows}
    return tuple(
        f"{name or 'the harness'} by {check}: the report says {_said(was, name, check)}, and run again it is "
        f"{_said(now, name, check)}"
        for name, check in sorted(was.keys() | now.keys())
        if was.get((name, check)) is not now.get((name, check))
    )


def _said(rows: dict[tuple[str, str], Any], name: str, check: str) -> str:
    status = rows.get((name, check))
    return "nothing" if status is None else str(status.value)


def badge(path: Path, out: Path | None, terminal: Terminal) -> int:
    """`badge`: the JSON that shields.io shows, of a report that passes `verify-report`; 1 where there is no level.

    Raises:
        StateError: the report is refused, or a file cannot be used.
    """
    _replaceable(out)
    report = _read(path)
    made = badge_of(report)
    if out is None:
        terminal.write(dump(made))
    else:
        _write(out, dump(made))
    return 0 if level(report).name != NONE else 1


def combine(paths: Sequence[Path], html: Path, terminal: Terminal) -> int:
    """`combine`: several reports on one page.

    Raises:
        StateError: a report is refused, requirements differ, or a file cannot be used.
    """
    _replaceable(html)
    reports = [(path.stem, report, level(report)) for path, report in ((path, _read(path)) for path in paths)]
    made = page.columns(reports)
    _write(html, page.render(made))
    terminal.command = "combine"
    rows = [{"adapter": column.name, "level": column.level.name} for column in made]
    if terminal.json:
        terminal.answer((), {"html": str(html), "reports": rows})
    else:
        terminal.write(f"{html}: {', '.join(f'{column.name} ({column.level})' for column in made)}\n")
    return 0


# ----------------------------------------------------------------------------------------------------------------- files


def _use(message: str, hint: str) -> errors.StateError:
    return errors.StateError(message, hint=hint)


def _read(path: Path) -> Report:
    try:
        return parse(_content(path))
    except ReportError as error:
        raise ReportError(f"{path}: {error.message}") from error


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise errors.FileMissingError(f"{path}: there is no such file") from error
    except OSError as error:
        raise errors.FileAccessError(f"{path}: cannot be read: {error.strerror}") from error


def _replaceable(path: Path | None) -> None:
    """Refuse, before anything is run, to write over what is not a report, a page or a badge."""
    if path is None:
        return
    real = atomic.destination(path, overwrite=True)
    if not real.exists() or not real.stat().st_size:
        return
    content = real.read_bytes()
    ours = (f'"schema": "{SCHEMA}"'.encode(), page.GENERATOR.encode(), b'"schemaVersion": 1')
    if not any(mark in content for mark in ours):
        message = f"{path}: exists, and is neither a report nor a page nor a badge of this suite"
        raise errors.TargetExistsError(message, hint="choose another path")


def _write(path: Path, content: str) -> None:
    with atomic.replacing(path, overwrite=True) as temporary:
        temporary.write_text(content, encoding="utf-8")


@final
class _Progress:
    """On a terminal, one line on stderr that says how far it is."""

    def __init__(self) -> None:
        self._wanted = interactive(sys.stderr)
        self._begun = time.monotonic()
        self._drawn = False

    def __enter__(self) -> Watch:
        return self._show

    def _show(self, name: str, done: int, total: int) -> None:
        if self._wanted and time.monotonic() - self._begun > _PATIENCE:
            self._drawn = True
            sys.stderr.write(f"\r\x1b[2K{done:4}/{total}  {name[:90]}")
            sys.stderr.flush()

    def __exit__(self, *_: object) -> None:
        if self._drawn:
            sys.stderr.write("\r\x1b[2K")
            sys.stderr.flush()


__all__ = ["Request", "badge", "combine", "conform_as_asked", "run", "verify"]
