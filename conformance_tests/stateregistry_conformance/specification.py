"""The requirements of a version of the specification, and which of them bind somebody else than an adapter.

Imports nothing but the standard library.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final, final

#: The version that this suite decides.
VERSION: Final = "0.1"


@final
@dataclass(frozen=True, slots=True)
class Requirement:
    """One normative sentence.

    Attributes:
        id, level, text, since, chapter: as in the specification.
        capability: what an adapter must claim for it to be bound; `None`: every adapter is.
    """

    id: str
    level: str
    text: str
    since: str
    capability: str | None
    chapter: str

    @property
    def binding(self) -> bool:
        """Whether it is a MUST or MUST NOT."""
        return self.level.startswith("MUST")


@cache
def requirements() -> dict[str, Requirement]:
    """Every requirement by id, in the order of the specification."""
    rows = _read("requirements", f"{VERSION}.json")["requirements"]
    return {row["id"]: Requirement(**row) for row in rows}


def excluded(requirement: Requirement) -> str | None:
    """Why no check decides a requirement; `None` where one must."""
    data = _read("excluded.json")
    reason = data["requirements"].get(requirement.id) or data["chapters"].get(requirement.chapter)
    return None if reason is None else str(reason)


def conditional() -> dict[str, str]:
    """The requirements without a capability that need not bind an adapter all the same, each with when it does not."""
    found: dict[str, str] = _read("conditional.json")["requirements"]
    return found


def exactly_one() -> list[list[str]]:
    """Groups of conditional requirements of which one binds every adapter."""
    found: list[list[str]] = _read("conditional.json")["exactly_one"]
    return found


@cache
def _read(*path: str) -> dict[str, Any]:
    text = resources.files("stateregistry_conformance").joinpath(*path).read_text("utf-8")
    found: dict[str, Any] = json.loads(text)
    return found
