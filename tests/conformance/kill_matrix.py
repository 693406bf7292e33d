"""The kill matrix: every mutant of the corpus against the directed checks, as a page: `python tests/conformance/kill_matrix.py`.

One row per mutant: the requirement that it violates, the checks that find that, and what else fails. The page is a function of
the corpus and of the checks alone, so that a test can say row by row whether it is current.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "conformance" / "kill-matrix.md"
if str(ROOT / "tests") not in sys.path:
    sys.path.insert(0, str(ROOT / "tests"))

from mutants import corpus, functions  # noqa: E402  # the corpus is no installed package

from stateregistry_conformance.check import Check  # noqa: E402
from stateregistry_conformance.runner import everything, run  # noqa: E402
from stateregistry_conformance.verdict import Status  # noqa: E402

#: What one bug may turn red beside what it violates and what nobody could keep together with it.
MEDIAN, MOST = 3, 12


@dataclass(frozen=True)
class Kill:
    """What became of one mutant.

    Attributes:
        killers: the checks that fail on the requirement that it violates.
        expected: failing requirements that the corpus says go with it.
        beyond: all other failing requirements.
        blocked: requirements that no check came to.
        broken: checks in which the suite itself failed.
    """

    id: str
    violates: str
    killers: tuple[str, ...]
    expected: tuple[str, ...]
    beyond: tuple[str, ...]
    blocked: int
    broken: tuple[str, ...]

    def row(self) -> str:
        """Its line of the page."""
        cells = (
            f"`{self.id}`",
            self.violates,
            _listed(self.killers, "`"),
            _listed(self.expected),
            _listed(self.beyond),
        )
        return f"| {' | '.join(cells)} | {self.blocked or ''} |"


def _listed(names: Iterable[str], quote: str = "") -> str:
    return ", ".join(f"{quote}{name}{quote}" for name in names)


@cache
def directed() -> tuple[Check, ...]:
    """The checks of the matrix: those about the harness, and those that are one for every requirement."""
    return tuple(one for one in everything().values() if one.layer in {"smoke", "directed"})


@cache
def mutants() -> tuple[Any, ...]:
    """The corpus: broken adapters, then broken functions."""
    return (*corpus.all_mutants(), *functions.all_function_mutants())


def kill(mutant: Any) -> Kill:
    """Run the directed checks on one mutant, in this process."""
    with mutant.installed() if hasattr(mutant, "installed") else nullcontext():
        rows = run(mutant.harness(), directed(), named=mutant.id)
    failed = {row.requirement for row in rows if row.status is Status.FAIL and row.requirement}
    met = {row.requirement for row in rows if row.status in {Status.PASS, Status.NOT_APPLICABLE}}
    untested = {row.requirement for row in rows if row.status is Status.UNTESTED}
    return Kill(
        mutant.id,
        mutant.violates,
        tuple(dict.fromkeys(r.check for r in rows if r.status is Status.FAIL and r.requirement == mutant.violates)),
        tuple(sorted(failed & set(mutant.also))),
        tuple(sorted(failed - set(mutant.also) - {mutant.violates})),
        len(untested - failed - {""} - (met - untested)),
        tuple(dict.fromkeys(row.check for row in rows if row.status is Status.ERROR)),
    )


_HEAD = """\
# Kill matrix

The conformance suite is a program too, and what tests it is a corpus of broken adapters (`tests/mutants`), written by someone
who had not seen the checks: each is the reference with one bug, the requirement that the bug violates, and a proof that it shows.
A mutant is *killed* when a directed check fails **on that requirement**: that something somewhere is red would say little to its
author. This page is generated, and a test holds it current row by row:

    python tests/conformance/kill_matrix.py

| | |
| --- | --- |
"""

_TABLE = """\

## Mutants

*Expected*: requirements that cannot be kept together with this bug, as its author says, and that fail as well. *Beyond*: others that
fail. *Blocked*: how many requirements could not be tried because something more basic is broken.

| mutant | violates | killed by | expected | beyond | blocked |
| --- | --- | --- | --- | --- | --- |
"""


def render(kills: Sequence[Kill]) -> str:
    """The page."""
    beyond = [len(one.beyond) for one in kills]
    found: dict[str, int] = {check.name: 0 for check in directed()}
    for one in kills:
        for name in one.killers:
            found[name] += 1
    survivors = [one.id for one in kills if not one.killers]
    facts = {
        "mutants": f"{len(kills)}: {sum(k.id.startswith('m-') for k in kills)} of adapters, "
        f"{sum(k.id.startswith('f-') for k in kills)} of functions over registries",
        "killed on the requirement that they violate": f"{len(kills) - len(survivors)}",
        "survivors": _listed(survivors, "`") or "none",
        "directed checks": f"{len(found)}",
        "other requirements that one bug turns red": f"median {median(beyond):g}, at most {max(beyond)}",
    }
    lines = [_HEAD + "".join(f"| {name} | {text} |\n" for name, text in facts.items()) + _TABLE.rstrip("\n")]
    lines += [one.row() for one in kills]
    lines += ["", "## Checks", "", "How many mutants each check kills.", "", "| check | kills |", "| --- | --- |"]
    lines += [f"| `{name}` | {number} |" for name, number in found.items()]
    return "\n".join(lines) + "\n"


def _at(number: int) -> Kill:
    return kill(mutants()[number])


def main() -> int:
    """Write the page; 1 where a mutant survives."""
    with ProcessPoolExecutor(int(sys.argv[1]) if len(sys.argv) > 1 else None) as pool:
        kills = list(pool.map(_at, range(len(mutants())), chunksize=4))
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(render(kills), encoding="utf-8")
    print(PAGE.relative_to(ROOT))
    for one in kills:
        if not one.killers or one.broken or len(one.beyond) > MOST:
            print(one.id, one.violates, "survives" if not one.killers else f"beyond: {len(one.beyond)}", *one.broken)
    return 1 if any(not one.killers for one in kills) else 0


if __name__ == "__main__":
    sys.exit(main())
