"""Session: one harness through a profile, every check in a process that can be lost without losing the run.

First the smoke checks: where one of them is not met the harness is wrong, and nothing is said about its adapter. A check that
does not end in time, or ends its process, is an `error` that names what it was calling; the next one gets a new process,
until too many were lost. Same verdicts on every run of the same profile. Imports the core and the suite, no harness.
"""

from __future__ import annotations

import datetime as dt
import platform
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from typing import Any, Final, final

from stateregistry import __version__ as core_version
from stateregistry_conformance import known
from stateregistry_conformance.check import Check, Profile
from stateregistry_conformance.claims import CLAIMS
from stateregistry_conformance.identity import core_digest, requirements_digest, suite_digest
from stateregistry_conformance.isolation import Ended, Worker
from stateregistry_conformance.report import Header, Report, ReportError, row_from_json
from stateregistry_conformance.runner import as_rows, everything, reproduction, selected
from stateregistry_conformance.smoke import LENIENT, SMOKE
from stateregistry_conformance.specification import VERSION, requirements
from stateregistry_conformance.verdict import NOT_INSTALLED, HarnessError, Row, Status

#: Seconds that one check may take. Checks of the layers `lockstep` and `across` are many in one.
TIME_LIMIT: Final = 60.0
_MANY: Final = 5
#: Importing a framework may take longer than any check.
_IMPORT: Final = 120.0
#: After this many lost processes the rest is not run: each costs a time limit, or the import of a framework.
LOST: Final = 5

Watch = Callable[[str, int, int], None]


@final
@dataclass(frozen=True, slots=True)
class Who:
    """What a harness calls itself."""

    name: str
    version: str
    capabilities: tuple[str, ...]


@final
class Session:
    """One harness and the process that it lives in. A context manager: no process is left behind."""

    def __init__(self, named: str, *, profile: Profile, time_limit: float = TIME_LIMIT) -> None:
        self.named = named
        self.profile = profile
        self.time_limit = time_limit
        self.lost = 0
        self._worker = Worker()
        self._who: Who | None = None
        self._given_up = ""

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.__exit__()

    def open(self) -> Who:
        """Import the harness and ask who it is.

        Raises:
            HarnessError: it cannot be imported or found, or is no harness.
        """
        try:
            answer = self._worker.ask({"do": "open", "name": self.named}, max(self.time_limit, _IMPORT))
        except Ended as ended:
            printed = self.log().strip().splitlines()
            said = f"; it printed: {printed[-1].strip()}" if printed else ""
            raise HarnessError(f"it cannot be imported: {ended}{said}") from ended
        if "error" in answer:
            raise HarnessError(answer["error"])
        who = Who(answer["name"], answer["version"], tuple(answer["capabilities"]))
        if self._who is not None and who != self._who:
            raise HarnessError(f"the harness says that it is {who}, and said that it is {self._who}")
        self._who = who
        return who

    def run(self, one: Check) -> list[Row]:
        """The verdicts of one check, whatever becomes of the process."""
        begun = time.monotonic()
        rows = self._run(one)
        seconds = round(time.monotonic() - begun, 3)
        return [replace(row, seconds=seconds) for row in rows]

    def _run(self, one: Check) -> list[Row]:
        if self._given_up:
            return as_rows(one, Status.UNTESTED, f"not run: {self._given_up}", blame="harness")
        limit = self.time_limit * (_MANY if one.layer in {"lockstep", "across"} else 1)
        question = {
            "do": "check",
            "check": one.name,
            "named": self.named,
            "profile": asdict(self.profile),
            "limit": limit,
        }
        try:
            if not self._worker.running:
                self.open()
            answer = self._worker.ask(question, limit)
        except Ended as ended:
            return self._ended(one, ended)
        except HarnessError as error:
            self._given_up = str(error)
            return as_rows(one, Status.ERROR, str(error), blame="harness")
        if answer["broken"]:
            self._given_up = "the harness rewrote what it is checked with"
            self._worker.end()
        return _trusted(one, answer["rows"])

    def _ended(self, one: Check, ended: Ended) -> list[Row]:
        self.lost += 1
        if self.lost >= LOST:
            self._given_up = f"{self.lost} checks before it were lost with their process"
        at_fault = one.layer == "smoke" or ended.where not in {"", "registry"}
        blame = "harness" if at_fault else "adapter"
        return self._bound(
            as_rows(one, Status.ERROR, str(ended), blame=blame, repro=reproduction(one, self.named, self.profile))
        )

    def _bound(self, rows: Iterable[Row]) -> list[Row]:
        """The rows, not applicable where the requirement names a capability that is not claimed."""
        claimed = self._who.capabilities if self._who else ()
        name = self._who.name if self._who else self.named
        found = []
        for row in rows:
            capability = requirements()[row.requirement].capability if row.requirement else None
            if capability is None or capability in claimed:
                found.append(row)
            else:
                said = f"{name} does not claim {capability}"
                found.append(Row(row.requirement, row.check, Status.NOT_APPLICABLE, said, layer=row.layer))
        return found

    def give_up(self, why: str) -> None:
        """Run nothing more."""
        self._given_up = why

    def loaded(self) -> Mapping[str, str]:
        """The versions of the distributions that the process has loaded; none where it is gone."""
        if not self._worker.running:
            return {}
        try:
            found: dict[str, str] = self._worker.ask({"do": "loaded"}, _IMPORT)["loaded"]
        except Ended:
            return {}
        return found

    def log(self) -> str:
        """What the harness printed, and the traces of what was lost."""
        return self._worker.log.read_text("utf-8", "replace") if self._worker.log.exists() else ""


def _trusted(one: Check, answered: Any) -> list[Row]:
    """The rows of an answer, if they are rows of that check and nothing else."""
    try:
        rows = [row_from_json(row) for row in answered]
    except (ReportError, TypeError) as error:
        return as_rows(one, Status.ERROR, f"the process gave an answer that is none: {error}", blame="harness")
    extra = rows[len(one.ids) :]
    expected = [row.requirement for row in rows[: len(one.ids)]] == list(one.ids)
    if not expected or any(row.check != one.name for row in rows) or (extra and one.name not in CLAIMS):
        return as_rows(one, Status.ERROR, "the process answered another question", blame="harness")
    return rows


def conform(
    named: str,
    *,
    profile: Profile,
    checks: Sequence[str] | None = None,
    expected: Sequence[known.Expected] = (),
    time_limit: float = TIME_LIMIT,
    watch: Watch | None = None,
    log: Callable[[str], None] | None = None,
) -> Report:
    """Run a profile, or some checks of it, on a harness.

    Args:
        named: an installed harness, or `module:object`.
        checks: names of checks to run instead of all; such a report gives no level.
        expected: known failures.
        time_limit: seconds that one check may take; checks of the random machine get five times as many.
        watch: is told the check, how many are done, and how many there are.
        log: is given what the harness printed.

    Raises:
        HarnessError: there is nothing to run: the harness cannot be found or imported, is no harness, or needs a package
            that is not installed.
        KeyError: no check of that name.
    """
    chosen = selected(profile) if checks is None else tuple(everything()[name] for name in checks)
    with Session(named, profile=profile, time_limit=time_limit) as session:
        who = session.open()
        rows: list[Row] = []
        for number, one in enumerate(chosen):
            if watch is not None:
                watch(one.name, number, len(chosen))
            found = session.run(one)
            rows += found
            if one.name in SMOKE and any(_fatal(session, row) for row in found):
                if found[0].note == NOT_INSTALLED:
                    raise HarnessError(f"it needs a package that is not installed: {found[0].detail}")
                session.give_up(f"the harness is wrong ({one.name})")
        header = _header(session, who, checks)
        if log is not None:
            log(session.log())
    today = dt.datetime.now(tz=dt.UTC).date()
    return Report(header, known.apply(rows, expected, today), tuple(expected))


def _fatal(session: Session, row: Row) -> bool:
    if row.status in {Status.PASS, Status.NOT_APPLICABLE}:
        return False
    return row.check not in LENIENT or session.lost > 0


def _header(session: Session, who: Who, checks: Sequence[str] | None) -> Header:
    return Header(
        spec=VERSION,
        requirements=requirements_digest(),
        suite=_version("stateregistry"),
        suite_digest=suite_digest(),
        core=core_version,
        core_digest=core_digest(),
        named=session.named,
        adapter=who.name,
        adapter_version=who.version,
        capabilities=who.capabilities,
        python=f"{platform.python_implementation()} {platform.python_version()}",
        platform=f"{sys.platform} {platform.machine()}",
        distributions=session.loaded(),
        profile=session.profile,
        time_limit=session.time_limit,
        selected=None if checks is None else tuple(checks),
    )


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return core_version
