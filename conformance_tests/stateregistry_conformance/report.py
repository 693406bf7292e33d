"""Report: what a run found, as a value and as JSON (`report.schema.json`): a header, rows, and a footer that ends it.

`from_json` takes nothing on trust: an unknown or missing member, a status outside the vocabulary, counts or a digest that
are not those of the rows, a footer that is missing: `ReportError`, and there is no result. The digest finds accidents and
careless edits; it is no signature (`docs/guides/conformance.md`). Imports the standard library and the suite's tables.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar, final, get_args

from stateregistry.errors import FileFormatError
from stateregistry_conformance.check import Layer, Profile
from stateregistry_conformance.claims import UNDECLARED
from stateregistry_conformance.identity import digest
from stateregistry_conformance.known import Expected
from stateregistry_conformance.runner import conforms, summary, unmet
from stateregistry_conformance.verdict import Row, Status

SCHEMA: Final = "stateregistry.conformance/1"

T = TypeVar("T")

_SHA256: Final = re.compile(r"[0-9a-f]{64}")


class ReportError(FileFormatError):
    """What was given is no report, or one that contradicts itself; the message says where."""


@final
@dataclass(frozen=True, slots=True)
class Header:
    """Who was checked by what, and where.

    Attributes:
        spec: version of the specification; `requirements` the digest of its list of requirements.
        suite: version of the suite; `suite_digest` that of its sources. `core`, `core_digest`: the core that it used.
        named: how the harness was named; `adapter` and `adapter_version`: what it calls itself.
        capabilities: what it claims, sorted.
        python, platform, distributions: where it ran, with the version of every distribution that was loaded.
        profile: how much was run. `time_limit`: seconds that one check may take.
        selected: the checks that were asked for; `None` for all of the profile.
    """

    spec: str
    requirements: str
    suite: str
    suite_digest: str
    core: str
    core_digest: str
    named: str
    adapter: str
    adapter_version: str
    capabilities: tuple[str, ...]
    python: str
    platform: str
    distributions: Mapping[str, str]
    profile: Profile
    time_limit: float
    selected: tuple[str, ...] | None


@final
@dataclass(frozen=True, slots=True)
class Report:
    """A finished run.

    Attributes:
        known: the author's list of known failures, as it was applied.
    """

    header: Header
    rows: tuple[Row, ...]
    known: tuple[Expected, ...] = ()

    @property
    def statuses(self) -> Mapping[str, Status]:
        """One status for every requirement."""
        return summary(self.rows)

    @property
    def conformant(self) -> bool:
        """Whether every requirement that binds the adapter was met, by everything that was run."""
        if self.header.selected is not None:
            return all(row.status in {Status.PASS, Status.NOT_APPLICABLE} for row in self.rows)
        return conforms(self.rows)

    @property
    def excused(self) -> bool:
        """Whether nothing is wrong but what the list of known failures says."""
        changed = [
            Row(row.requirement, row.check, Status.NOT_APPLICABLE if row.status is Status.EXPECTED_FAIL else row.status)
            for row in self.rows
        ]
        excused = {row.requirement for row in self.rows if row.status is Status.EXPECTED_FAIL}
        bad = {row.requirement for row in changed if row.status not in {Status.PASS, Status.NOT_APPLICABLE}}
        return bool(excused) and not bad and not set(unmet(self.rows)) - excused

    @property
    def blamed_on_harness(self) -> tuple[Row, ...]:
        """The rows that say that the harness is wrong, or hides what its framework can do."""
        bad = {Status.FAIL, Status.ERROR}
        return tuple(
            row for row in self.rows if row.blame == "harness" and (row.status in bad or row.note == UNDECLARED)
        )

    @property
    def counts(self) -> Mapping[str, int]:
        """How many rows have each status."""
        found = Counter(row.status for row in self.rows)
        return {status.value: found[status] for status in Status}

    def to_json(self) -> dict[str, Any]:
        """The document, footer included."""
        body = self._body()
        footer = {"complete": True, "rows": len(self.rows), "counts": dict(self.counts), "digest": _digest(body)}
        return {"schema": SCHEMA, **body, "footer": footer}

    def verdicts(self) -> list[tuple[str, str, str, str]]:
        """What is the same on every run of the same profile: no times, no versions."""
        return [(row.requirement, row.check, row.status.value, row.detail) for row in self.rows]

    def _body(self) -> dict[str, Any]:
        return {
            "header": _header_to_json(self.header),
            "known": [expected.to_json() for expected in self.known],
            "rows": [row_to_json(row) for row in self.rows],
            "requirements": {name: status.value for name, status in self.statuses.items()},
            "conformant": self.conformant,
        }


def _digest(body: Mapping[str, Any]) -> str:
    timeless = [{key: value for key, value in row.items() if key != "seconds"} for row in body["rows"]]
    return digest({**body, "rows": timeless})


def row_to_json(row: Row) -> dict[str, Any]:
    """A row as JSON types; `null` for a verdict on the harness itself."""
    return {
        "requirement": row.requirement or None,
        "check": row.check,
        "layer": row.layer,
        "status": row.status.value,
        "detail": row.detail,
        "repro": row.repro,
        "blame": row.blame,
        "note": row.note,
        "seconds": row.seconds,
    }


def _header_to_json(header: Header) -> dict[str, Any]:
    profile = header.profile
    return {
        "spec": {"version": header.spec, "requirements": header.requirements},
        "suite": {"version": header.suite, "digest": header.suite_digest},
        "core": {"version": header.core, "digest": header.core_digest},
        "harness": {
            "named": header.named,
            "adapter": header.adapter,
            "adapter_version": header.adapter_version,
            "capabilities": list(header.capabilities),
        },
        "environment": {
            "python": header.python,
            "platform": header.platform,
            "distributions": dict(header.distributions),
        },
        "profile": {
            "name": profile.name,
            "examples": profile.examples,
            "steps": profile.steps,
            "seed": profile.seed,
            "layers": list(profile.layers),
            "time_limit": header.time_limit,
            "selected": None if header.selected is None else list(header.selected),
        },
    }


# --------------------------------------------------------------------------------------------------------------- reading


def parse(text: str | bytes) -> Report:
    """The report of a JSON text.

    Raises:
        ReportError: it is no JSON, or no report.
    """
    try:
        document = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        if isinstance(error, ReportError):
            raise
        raise ReportError(f"no JSON: {error}") from error
    return from_json(document)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ReportError("a member is given twice")
    return found


def _no_constant(name: str) -> Any:
    raise ReportError(f"{name} is no number")


def from_json(document: Any) -> Report:
    """The report of a document.

    Raises:
        ReportError: with the place at which it is not a report, or contradicts itself.
    """
    top = _Object("the report", document)
    schema = top.take("schema", _text)
    if schema != SCHEMA:
        raise ReportError(f"the schema is {schema!r}, not {SCHEMA!r}")
    body = {
        key: top.take(key, lambda _, value: value) for key in ("header", "known", "rows", "requirements", "conformant")
    }
    if "footer" not in top.members:
        raise ReportError("there is no footer: the run did not end, so there is no result")
    footer = top.take("footer", _Object)
    top.done()
    rows = tuple(_row(f"row {number}", row) for number, row in enumerate(_list("rows", body["rows"])))
    known = tuple(_expected(f"known {number}", one) for number, one in enumerate(_list("known", body["known"])))
    report = Report(_header(_Object("header", body["header"])), rows, known)
    _end(report, body, footer)
    return report


def _end(report: Report, body: Mapping[str, Any], footer: _Object) -> None:
    """Refuse a document whose derived parts are not those of its rows."""
    complete, number = footer.take("complete", _flag), footer.take("rows", _integer)
    counts, said = footer.take("counts", _mapping(_integer)), footer.take("digest", _sha256)
    footer.done()
    if not complete:
        raise ReportError("the footer says that the run is not complete: there is no result")
    if number != len(report.rows):
        raise ReportError(f"the footer counts {number} rows, and there are {len(report.rows)}")
    if counts != report.counts:
        raise ReportError(f"the footer counts {counts}, and the rows are {dict(report.counts)}")
    fresh = report._body()  # noqa: SLF001  # of this module's own class
    for key in ("requirements", "conformant"):
        if body[key] != fresh[key]:
            raise ReportError(f"{key!r} is not what follows from the rows")
    if said != _digest(body) or said != _digest(fresh):
        raise ReportError("the digest in the footer is not that of the report: it was changed after it was written")


def _header(header: _Object) -> Header:
    spec, suite, core = (header.take(name, _Object) for name in ("spec", "suite", "core"))
    harness, environment, profile = (header.take(name, _Object) for name in ("harness", "environment", "profile"))
    header.done()
    layers = profile.take("layers", _texts)
    unknown = sorted(set(layers) - set(get_args(Layer)))
    if unknown:
        raise ReportError(f"profile: no such layers: {', '.join(unknown)}")
    found = Header(
        spec=spec.take("version", _text),
        requirements=spec.take("requirements", _sha256),
        suite=suite.take("version", _text),
        suite_digest=suite.take("digest", _sha256),
        core=core.take("version", _text),
        core_digest=core.take("digest", _sha256),
        named=harness.take("named", _text),
        adapter=harness.take("adapter", _text),
        adapter_version=harness.take("adapter_version", _text),
        capabilities=harness.take("capabilities", _texts),
        python=environment.take("python", _text),
        platform=environment.take("platform", _text),
        distributions=environment.take("distributions", _mapping(_text)),
        profile=Profile(
            profile.take("name", _text),
            profile.take("examples", _integer),
            profile.take("steps", _integer),
            profile.take("seed", _integer),
            tuple(layer for layer in get_args(Layer) if layer in layers),
        ),
        time_limit=profile.take("time_limit", _number),
        selected=profile.take("selected", lambda where, value: None if value is None else _texts(where, value)),
    )
    for part in (spec, suite, core, harness, environment, profile):
        part.done()
    return found


def _row(where: str, value: Any) -> Row:
    row = _Object(where, value)
    requirement = row.take("requirement", lambda place, given: "" if given is None else _text(place, given))
    found = Row(
        requirement,
        row.take("check", _text),
        row.take("status", _status),
        row.take("detail", _text),
        row.take("repro", _text),
        row.take("layer", _choice(*get_args(Layer))),
        row.take("blame", _choice("", "adapter", "harness", "suite")),
        row.take("note", _text),
        row.take("seconds", _number),
    )
    row.done()
    if value["requirement"] == "":
        raise ReportError(f"{where}: the requirement is empty; a verdict on the harness has null")
    return found


def row_from_json(value: Any) -> Row:
    """A row of JSON types.

    Raises:
        ReportError: it is none.
    """
    return _row("row", value)


def _expected(where: str, value: Any) -> Expected:
    one = _Object(where, value)
    found = Expected(*(one.take(name, _text) for name in ("requirement", "reason", "issue", "expires")))
    one.done()
    return found


@final
class _Object:
    """An object of which every member must be taken."""

    def __init__(self, where: str, value: Any) -> None:
        if not isinstance(value, dict):
            raise ReportError(f"{where} is no object")
        self._where = where
        self.members = dict(value)

    def take(self, name: str, read: Callable[[str, Any], T]) -> T:
        """A member, read."""
        if name not in self.members:
            raise ReportError(f"{self._where} has no {name!r}")
        return read(f"{self._where}: {name}", self.members.pop(name))

    def done(self) -> None:
        """Refuse what was not taken."""
        if self.members:
            raise ReportError(f"{self._where} has a member {min(self.members)!r} that a report has not")


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ReportError(f"{where} is no text")
    return value


def _sha256(where: str, value: Any) -> str:
    text = _text(where, value)
    if _SHA256.fullmatch(text) is None:
        raise ReportError(f"{where} is no SHA-256")
    return text


def _integer(where: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ReportError(f"{where} is no count")
    return value


def _number(where: str, value: Any) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or value < 0:
        raise ReportError(f"{where} is no number of seconds")
    return value


def _flag(where: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ReportError(f"{where} is neither true nor false")
    return value


def _list(where: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ReportError(f"{where} is no list")
    return value


def _texts(where: str, value: Any) -> tuple[str, ...]:
    return tuple(_text(where, one) for one in _list(where, value))


def _mapping(read: Callable[[str, Any], T]) -> Callable[[str, Any], dict[str, T]]:
    def take(where: str, value: Any) -> dict[str, T]:
        if not isinstance(value, dict):
            raise ReportError(f"{where} is no object")
        return {name: read(f"{where}: {name}", one) for name, one in value.items()}

    return take


def _choice(*names: str) -> Callable[[str, Any], str]:
    def take(where: str, value: Any) -> str:
        if value not in names:
            raise ReportError(f"{where} is {value!r}, not one of {', '.join(map(repr, names))}")
        return str(value)

    return take


def _status(where: str, value: Any) -> Status:
    try:
        return Status(value)
    except ValueError:
        raise ReportError(f"{where} is {value!r}, not one of {', '.join(status.value for status in Status)}") from None


__all__ = ["SCHEMA", "Header", "Report", "ReportError", "from_json", "parse", "row_from_json", "row_to_json"]
