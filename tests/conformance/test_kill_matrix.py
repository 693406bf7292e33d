"""The kill matrix in the documentation is current, and says what is asked of the suite: every bug on its requirement, alone.

What kills a mutant is tried for every row. What else fails is tried for some rows, chosen by their ids and not by anybody:
all of them together are made again by `make conform`.
"""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from statistics import median

import pytest
from mutants import corpus, functions

from stateregistry_conformance.runner import everything

PAGE = Path(__file__).resolve().parents[2] / "docs" / "conformance" / "kill-matrix.md"
AGAIN = "run `make conform`"
MUTANTS = (*corpus.all_mutants(), *functions.all_function_mutants())
#: One row of so many is made again as a whole.
ONE_OF = 24


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def listed(cell: str) -> list[str]:
    return [name.strip("`") for name in cell.split(", ") if name]


@pytest.fixture(scope="module")
def text() -> str:
    return PAGE.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def rows(text) -> dict[str, str]:
    """The lines of the table of mutants, by id."""
    lines = [line for line in text.splitlines() if re.match(r"\| `[mf]-", line)]
    return {cells(line)[0].strip("`"): line for line in lines}


@pytest.fixture(scope="module")
def checks(text) -> dict[str, tuple[int, int]]:
    """How many mutants of the corpus, and how many others, each check kills."""
    table = text.split("\n## Checks\n", 1)[1].split("\n## ", 1)[0]
    found = re.findall(r"^\| `(\w+\.\w+)` \| (\d+) \| (\d+) \|$", table, re.MULTILINE)
    return {name: (int(kills), int(more)) for name, kills, more in found}


def test_every_mutant_has_a_row(rows):
    assert list(rows) == [mutant.id for mutant in MUTANTS], AGAIN
    assert len(rows) >= 60


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.id)
def test_a_mutant_is_killed_on_the_requirement_that_it_violates_by_the_checks_of_its_row(mutant, rows, killers):
    found = list(killers(mutant))
    assert found, f"{mutant.id} survives on {mutant.violates}: {mutant.story}"
    _, violates, named, *_ = cells(rows[mutant.id])
    assert (violates, listed(named)) == (mutant.violates, found), AGAIN


SOME = [one for one in MUTANTS if zlib.crc32(one.id.encode()) % ONE_OF == 0]


@pytest.mark.parametrize("mutant", SOME, ids=lambda mutant: mutant.id)
def test_a_row_is_what_the_checks_say(mutant, rows, matrix):
    kill = matrix.kill(mutant)
    assert kill.broken == ()
    assert rows[mutant.id] == kill.row(), AGAIN


def test_one_bug_does_not_light_up_the_table(rows, matrix):
    beyond = {name: len(listed(cells(line)[4])) for name, line in rows.items()}
    assert median(beyond.values()) <= matrix.MEDIAN
    assert {name: number for name, number in beyond.items() if number > matrix.MOST} == {}


def test_every_directed_check_kills_a_mutant(checks):
    assert list(checks) == [one.name for one in everything().values() if one.layer == "directed"], AGAIN
    assert [name for name, kills in checks.items() if not any(kills)] == []


def test_the_kills_of_a_check_are_those_of_the_rows(rows, checks, matrix):
    assert {name: kills for name, (kills, _) in checks.items()} == matrix.counts(
        tuple(listed(cells(line)[2])) for line in rows.values()
    )


def test_the_facts_at_the_top_are_those_of_the_rows(rows, text, matrix):
    kills = [
        matrix.Kill(name, *(tuple(listed(cell)) if at else cell for at, cell in enumerate(cells(line)[1:5])), 0, ())
        for name, line in rows.items()
    ]
    for name, fact in matrix.summary(kills).items():
        assert f"| {name} | {fact} |" in text
