"""Known failures: the author's list of requirements that the adapter does not meet yet (`conformance.toml`).

    [[expected_failure]]
    requirement = "SR-ALIAS-005"
    reason = "the last of two values wins"
    issue = "https://example.org/issues/7"
    expires = "2027-01-01"

A listed failure becomes `expected-fail`: still a failure for every level. A requirement that is met, does not bind, or whose
entry has expired is `stale`, so that the list can only shrink. What the list cannot excuse: `error` and `untested`.
Imports the standard library and the requirements.
"""

from __future__ import annotations

import datetime as dt
import tomllib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, final

from stateregistry.errors import FileFormatError
from stateregistry_conformance.specification import excluded, requirements
from stateregistry_conformance.verdict import NOT_REACHED, Row, Status, combined

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_MEMBERS = ("requirement", "reason", "issue", "expires")
#: The name of the check of a row that is about the list itself.
CHECK = "known failures"


class KnownError(FileFormatError):
    """The list cannot be read, or is not one; the message says where."""


@final
@dataclass(frozen=True, slots=True)
class Expected:
    """One entry.

    Attributes:
        requirement: the id.
        reason: why it is not met.
        issue: where that is followed up.
        expires: the last day on which the entry counts, as `YYYY-MM-DD`.
    """

    requirement: str
    reason: str
    issue: str
    expires: str

    def to_json(self) -> dict[str, str]:
        """As JSON types."""
        return {"requirement": self.requirement, "reason": self.reason, "issue": self.issue, "expires": self.expires}


def read(path: Path) -> tuple[Expected, ...]:
    """The entries of a file.

    Raises:
        KnownError: it is missing or no TOML, an entry lacks a member or has another one, or a requirement is listed twice.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise KnownError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise KnownError(f"{path}: no TOML: {error}") from error
    other = sorted(set(document) - {"expected_failure"})
    if other:
        raise KnownError(f"{path}: there is no {other[0]!r} in such a file, only [[expected_failure]]")
    listed = document.get("expected_failure", [])
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise KnownError(f"{path}: write [[expected_failure]], with two brackets")
    entries = tuple(_entry(path, number, one) for number, one in enumerate(listed, 1))
    names = [entry.requirement for entry in entries]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise KnownError(f"{path}: {', '.join(twice)} listed twice")
    return entries


def _entry(path: Path, number: int, given: dict[str, Any]) -> Expected:
    where = f"{path}: entry {number}"
    if set(given) != set(_MEMBERS):
        raise KnownError(f"{where}: expected the members {', '.join(_MEMBERS)}, found {', '.join(given) or 'none'}")
    expires = given["expires"]
    if isinstance(expires, dt.date) and not isinstance(expires, dt.datetime):
        expires = expires.isoformat()
    texts = [given["requirement"], given["reason"], given["issue"], expires]
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise KnownError(f"{where}: every member is a text that is not empty")
    try:
        dt.date.fromisoformat(expires)
    except ValueError as error:
        raise KnownError(f"{where}: expires is a date like 2027-01-01, found {expires!r}") from error
    if not given["issue"].startswith(("https://", "http://")):
        raise KnownError(f"{where}: issue is a link, found {given['issue']!r}")
    return Expected(*texts)


def apply(rows: Iterable[Row], known: Iterable[Expected], today: dt.date) -> tuple[Row, ...]:
    """The rows with listed failures as expected ones, and a `stale` row for every entry that is not in order."""
    listed = {one.requirement: one for one in known}
    live = {name for name, one in listed.items() if _trouble(one, today) is None}
    changed = []
    for row in rows:
        if row.requirement in live and row.status is Status.FAIL:
            one = listed[row.requirement]
            detail = f"{row.detail} (known: {one.reason}, {one.issue})"
            changed.append(replace(row, status=Status.EXPECTED_FAIL, detail=detail))
        else:
            changed.append(row)
    failed = {row.requirement for row in changed if row.status is Status.EXPECTED_FAIL}
    ended = {row.check for row in changed if row.status is Status.EXPECTED_FAIL}
    changed = [
        replace(row, status=Status.EXPECTED_FAIL)
        if (row.check in ended and unreached(row)) or (row.status is Status.UNTESTED and row.blockers & failed)
        else row
        for row in changed
    ]
    stale = []
    for name, one in listed.items():
        decided = combined([row.status for row in changed if row.requirement == name])
        trouble = _trouble(one, today)
        if trouble is None and name not in failed:
            trouble = f"listed as a known failure, and it is {decided.value}: take it off the list"
        if trouble is not None:
            requirement = name if name in requirements() else ""
            stale.append(Row(requirement, f"{CHECK}: {name}", Status.STALE, trouble, layer="directed", blame="harness"))
    return (*changed, *stale)


def unreached(row: Row) -> bool:
    """Whether the check of a row ended at another requirement: a known failure there is the reason here, too."""
    return row.status in {Status.UNTESTED, Status.EXPECTED_FAIL} and row.detail.startswith(NOT_REACHED)


def _trouble(one: Expected, today: dt.date) -> str | None:
    requirement = requirements().get(one.requirement)
    if requirement is None:
        return f"{one.requirement} is no requirement of this version: take it off the list"
    if excluded(requirement) is not None:
        return f"{one.requirement} is not decided by this suite: take it off the list"
    if dt.date.fromisoformat(one.expires) < today:
        return f"the entry expired on {one.expires}: {one.reason}, {one.issue}"
    return None
