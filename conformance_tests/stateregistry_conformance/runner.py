"""Runs checks against a harness and returns rows of verdicts, in this process. `session` runs them in one of their own.

Whether a requirement binds the adapter is decided here, from the capabilities, not by the checks. An exception that nobody
expected is a failure of the adapter, unless it began in the suite or in the harness. Same rows on every run.
Imports NumPy, the core and the standard library.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import re
import shlex
import traceback
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from stateregistry_conformance.check import LAYERS, PROFILED, PROFILES, Check, Profile
from stateregistry_conformance.checks import CHECKS
from stateregistry_conformance.claims import CLAIMS
from stateregistry_conformance.smoke import SMOKE, members
from stateregistry_conformance.specification import conditional, exactly_one, excluded, requirements
from stateregistry_conformance.subject import Subject, smoke
from stateregistry_conformance.verdict import BLOCKED_BY, HarnessError, Row, Status, Stop, Verdict, combined

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from stateregistry_conformance.harness import Harness

#: The entry-point group in which harnesses are found.
GROUP: Final = "stateregistry.harnesses"

_HERE: Final = Path(__file__).resolve().parent
#: Addresses in a `repr` differ from run to run, and say nothing.
_ADDRESS: Final = re.compile(r"\b0x[0-9a-fA-F]{6,16}\b")
_LONGEST: Final = 8000


# ------------------------------------------------------------------------------------------------------------- harnesses


def locate(name: str) -> Any:
    """What an entry point or a `module:object` names, imported and not looked at.

    Raises:
        HarnessError: no such entry point, or it cannot be imported.
    """
    if ":" in name:
        module, _, attribute = name.partition(":")
        return _import(name, module, attribute)
    points = {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}
    if name not in points:
        near = difflib.get_close_matches(name, points, 1)
        meant = f", did you mean {near[0]!r}?" if near else ";"
        known = ", ".join(sorted(points)) or "none"
        raise HarnessError(f"no harness {name!r} is installed{meant} installed: {known}; or name one as module:object")
    return _import(name, points[name].module, points[name].attr)


def find_harness(name: str) -> Harness:
    """The harness of an entry point, or of a `module:object`, after the smoke checks.

    Raises:
        HarnessError: no such entry point, or it cannot be imported, or it is no harness, or a wrong one.
    """
    found = locate(name)
    members(found)
    smoke(found)
    harness: Harness = found
    return harness


def installed() -> tuple[str, ...]:
    """The names of all installed harnesses, sorted."""
    return tuple(sorted({point.name for point in importlib.metadata.entry_points(group=GROUP)}))


def _import(name: str, module: str, attribute: str) -> Any:
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a module may skip itself, or exit
        raise HarnessError(f"the harness {name!r} cannot be imported: {type(error).__name__}: {error}") from error
    return found


# ---------------------------------------------------------------------------------------------------------------- checks


@cache
def everything() -> Mapping[str, Check]:
    """Every check of every layer by name, in the order in which a session runs them."""
    named = {**SMOKE, **CLAIMS, **CHECKS}
    ordered = sorted(named.values(), key=lambda one: LAYERS.index(one.layer))
    return MappingProxyType({one.name: one for one in ordered})


def selected(profile: Profile) -> tuple[Check, ...]:
    """The checks of a profile, in the order in which a session runs them."""
    return tuple(one for one in everything().values() if one.layer in profile.layers)


def run(
    harness: Harness,
    checks: Iterable[Check] | None = None,
    *,
    named: str | None = None,
    profile: Profile = PROFILES["quick"],
) -> tuple[Row, ...]:
    """Every verdict of the checks (by default the directed ones) on a harness.

    Args:
        named: how the harness is named on the command line, for the text that runs a failure again.
    """
    subject = Subject(harness)
    rows: list[Row] = []
    chosen = [one for one in CHECKS.values() if one.layer == "directed"] if checks is None else checks
    for one in chosen:
        rows += run_check(subject, one, named=named or str(harness.name), profile=profile)
    return tuple(rows)


def run_check(subject: Subject, one: Check, *, named: str, profile: Profile = PROFILES["quick"]) -> list[Row]:
    """The verdicts of one check."""
    known = requirements()
    subject.named = named
    verdict = Verdict(one.ids)
    for name in one.ids:
        capability = known[name].capability if name else None
        if capability is not None and capability not in subject.capabilities:
            verdict.not_applicable(name, f"{subject.name} does not claim {capability}")
    blame = note = ""
    if len(verdict.statuses) < len(one.ids):
        blame, note = _decide(subject, one, verdict, profile)
    rows = []
    for name in one.ids:
        status, detail = verdict.statuses[name]
        failed = status in {Status.FAIL, Status.ERROR}
        blamed = blame if failed or status is Status.UNTESTED else ""
        repro = reproduction(one, named, profile) if failed else ""
        noted = "" if note.startswith(BLOCKED_BY) and status is not Status.UNTESTED else note
        rows.append(Row(name, one.name, status, _plain(detail), repro, one.layer, blamed, noted))
    return rows + _of_a_wrong_claim(one, rows)


def _decide(subject: Subject, one: Check, verdict: Verdict, profile: Profile) -> tuple[str, str]:
    """Run a check; returns who is to blame for what is not a pass, and the note of its verdict."""
    try:
        one.decide(subject, verdict, profile)
    except Stop as stop:
        verdict.stop(stop.status, str(stop))
        return stop.blame, getattr(stop, "note", "")
    except BaseException as error:
        # A skip of a test runner derives from BaseException alone, and must not leave here as one.
        if isinstance(error, KeyboardInterrupt) and not subject.alone:
            raise
        frames = traceback.extract_tb(error.__traceback__)
        where = frames[-1] if frames else None
        ours = where is not None and Path(where.filename).resolve().is_relative_to(_HERE)
        place = f" at {Path(where.filename).name}:{where.lineno}" if where is not None else ""
        text = f"{type(error).__name__}{place}: {error}"
        verdict.stop(Status.ERROR if ours else Status.FAIL, text if ours else f"unexpected {text}")
        return "suite" if ours else "adapter", ""
    verdict.close()
    failed = any(status is Status.FAIL for status, _ in verdict.statuses.values())
    return "adapter" if failed or verdict.note else "suite", verdict.note


def _of_a_wrong_claim(one: Check, rows: list[Row]) -> list[Row]:
    """An adapter that mishandles what it does not claim fails the requirements that name the capability, too."""
    if one.name not in CLAIMS or not any(row.status is Status.FAIL and row.blame == "adapter" for row in rows):
        return []
    (row,) = rows
    capability = one.name.removeprefix("claims.")
    named = [requirement.id for requirement in requirements().values() if requirement.capability == capability]
    return [Row(name, row.check, row.status, row.detail, row.repro, row.layer, row.blame) for name in named]


def _plain(detail: str) -> str:
    text = _ADDRESS.sub("0x...", detail)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + " ..."


def reproduction(one: Check, named: str, profile: Profile) -> str:
    """A text to paste that runs a check again: a command, and the same in Python, in this process."""
    plain = profile.name == "quick" or one.layer not in PROFILED
    flag = "" if plain else f" --profile {profile.name}"
    given = "" if plain else f", profile=PROFILES[{profile.name!r}]"
    imports = ["from stateregistry_conformance.check import PROFILES"] if given else []
    if one.layer == "smoke":  # which `find_harness` would run by itself
        imports += ["from stateregistry_conformance.runner import everything, locate, run"]
        call = f"run(locate({named!r}), [everything()[{one.name!r}]]{given})"
    else:
        imports += ["from stateregistry_conformance.checks import CHECKS"]
        imports += ["from stateregistry_conformance.runner import find_harness, run"]
        call = f"run(find_harness({named!r}), [CHECKS[{one.name!r}]]{given})"
    lines = [
        f"# {', '.join(one.ids[:3]) if any(one.ids) else 'the harness'}{', ...' if len(one.ids) > 3 else ''}",
        f"# python -m stateregistry_conformance {shlex.quote(named)} --check {one.name}{flag}",
        *imports,
        f"for row in {call}:",
        "    print(row.requirement, row.status.value, row.detail)",
    ]
    return "\n".join(lines) + "\n"


# --------------------------------------------------------------------------------------------------------------- summary


def summary(rows: Iterable[Row]) -> Mapping[str, Status]:
    """One status for every requirement that some check must decide, in the order of the specification."""
    statuses: dict[str, list[Status]] = {}
    for row in rows:
        statuses.setdefault(row.requirement, []).append(row.status)
    decided = {}
    for name, requirement in requirements().items():
        if name in statuses or (requirement.binding and excluded(requirement) is None):
            decided[name] = combined(statuses.get(name, []))
    return decided


def unmet(rows: Iterable[Row]) -> Mapping[str, str]:
    """Every binding requirement that the rows do not show to be met, with the reason; the empty id is the harness."""
    listed = list(rows)
    found: dict[str, str] = {}
    for row in listed:
        if not row.requirement and row.status not in {Status.PASS, Status.NOT_APPLICABLE}:
            found.setdefault("", f"{row.check}: {row.status.value}")
    decided = summary(listed)
    for name, status in decided.items():
        requirement = requirements()[name]
        if requirement.binding and status is not Status.PASS:
            bound = requirement.capability is None and name not in conditional()
            if status is not Status.NOT_APPLICABLE:
                found[name] = status.value
            elif bound:
                found[name] = "not-applicable, and it binds every adapter"
    for group in exactly_one():
        if all(decided.get(name) is Status.NOT_APPLICABLE for name in group):
            found.update(dict.fromkeys(group, f"one of {' and '.join(group)} binds every adapter"))
    return found


def conforms(rows: Iterable[Row]) -> bool:
    """Whether every binding requirement was met or does not bind this adapter, and the harness is not wrong."""
    return not unmet(rows)


def as_rows(one: Check, status: Status, detail: str, *, blame: str = "", repro: str = "") -> list[Row]:
    """The same verdict on everything that a check decides: it was not run, or it did not end."""
    return [Row(name, one.name, status, detail, repro, one.layer, blame) for name in one.ids]


__all__ = [
    "GROUP", "HarnessError", "as_rows", "conforms", "everything", "find_harness", "installed", "locate", "reproduction",
    "run", "run_check", "selected", "summary", "unmet",
]  # fmt: skip
