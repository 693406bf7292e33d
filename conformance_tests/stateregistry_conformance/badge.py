"""Badge: what shields.io shows for a verified report (its "endpoint" JSON). Imports the levels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stateregistry.errors import StateError
from stateregistry_conformance.levels import CAPABLE, CORE, FULL, Level, level, problems

if TYPE_CHECKING:
    from stateregistry_conformance.report import Report

_COLORS = {FULL: "brightgreen", CAPABLE: "green", CORE: "yellowgreen"}


class BadgeError(StateError, ValueError):
    """There is no badge for a report that the installed suite cannot have made."""


def badge(report: Report) -> dict[str, Any]:
    """The badge of a report, derived from its rows.

    Raises:
        BadgeError: the report was made with other requirements, by another suite, or has other rows.
    """
    wrong = problems(report)
    if wrong:
        raise BadgeError("; ".join(wrong))
    found = level(report)
    return {
        "schemaVersion": 1,
        "label": f"stateregistry {report.header.spec}",
        "message": _message(found),
        "color": _COLORS.get(found.name, "red"),
    }


def _message(found: Level) -> str:
    if found.name == FULL:
        return "Full"
    if found.name == CORE:
        return "Core"
    if found.name == CAPABLE:
        return f"Core + {', '.join(found.capabilities)}"
    return "not conformant"
