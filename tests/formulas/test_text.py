"""The chapter "Layers" of the specification names the kinds and the config that the formulas have, and no others."""

from __future__ import annotations

import re
from pathlib import Path

from stateregistry_conformance.formulas import FORMULAS, wrappers

SPEC = Path(__file__).resolve().parents[2] / "docs" / "spec"
HEADER = "| kind | state depends on | only the function depends on | only training |"


def chapter() -> str:
    """The one page that has the table of config."""
    (page,) = [text for path in SPEC.glob("*.md") if HEADER in (text := path.read_text(encoding="utf-8"))]
    return page


def rows(text: str) -> dict[str, list[set[str]]]:
    """The names in each column of the table, by kind or wrapper."""
    lines = text[text.index(HEADER) :].split("\n\n", maxsplit=1)[0].splitlines()[2:]
    cells = [line.strip("|").split("|") for line in lines]
    return {first.strip().strip("`"): [set(re.findall(r"`(\w+)`", cell)) for cell in rest] for first, *rest in cells}


def test_the_table_has_the_config_of_every_kind_and_wrapper() -> None:
    expected = {kind: [set(row.state), set(row.function), set(row.training)] for kind, row in FORMULAS.items()}
    found = rows(chapter())
    by_wrapper = {name: found.pop(f"under `{name}") for name in ("weight_norm", "spectral_norm")}
    assert found.pop("in a stack") == [{"stacked"}, set(), set()]
    assert found == expected
    assert set().union(*(row[0] for row in by_wrapper.values())) == wrappers.STATE
    assert set().union(*(row[1] for row in by_wrapper.values())) == wrappers.FUNCTION


def test_every_kind_has_a_section() -> None:
    headings = {kind for line in re.findall(r"^### (.+)$", chapter(), re.MULTILINE) for kind in line.split(", ")}
    assert set(FORMULAS) <= headings
