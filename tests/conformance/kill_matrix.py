"""The kill matrix: every broken adapter of the corpora against the directed checks, as a page. Written by `make conform`.

One row per mutant: the requirement that it violates, the checks that find that, and what else fails. The page is a function of
the corpora and of the checks alone, so that a test can say row by row whether it is current. The estimate at its end comes
from `operators`: bugs that a program made and nobody chose.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "conformance" / "kill-matrix.md"
HERE = Path(__file__).resolve().parent
sys.path += [str(folder) for folder in (ROOT / "tests", HERE) if str(folder) not in sys.path]

import operators  # noqa: E402  # beside this file, which is no package
import test_mutants  # noqa: E402
import test_mutants_of_functions  # noqa: E402
from mutants import corpus, functions, layers  # noqa: E402  # the corpus is no installed package

from stateregistry_conformance.check import Check  # noqa: E402
from stateregistry_conformance.runner import everything, run  # noqa: E402
from stateregistry_conformance.verdict import Status  # noqa: E402

#: What one bug may turn red beside what it violates and what nobody could keep together with it.
MEDIAN, MOST = 1, 10


@dataclass(frozen=True)
class Kill:
    """What became of one mutant.

    Attributes:
        killers: the checks that fail on the requirement that it violates.
        expected: failing requirements that the corpus says go with it.
        beyond: all other failing requirements.
        blocked: requirements that no check came to.
        broken: checks in which the suite itself failed, or that are blocked by what nothing says is broken.
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
    with _installed(mutant):
        rows = run(mutant.harness(), directed(), named=mutant.id)
    failed = {row.requirement for row in rows if row.status is Status.FAIL and row.requirement}
    met = {row.requirement for row in rows if row.status in {Status.PASS, Status.NOT_APPLICABLE}}
    untested = {row.requirement for row in rows if row.status is Status.UNTESTED}
    broken = [row.check for row in rows if row.status is Status.ERROR or (row.blockers and not row.blockers & failed)]
    return Kill(
        mutant.id,
        mutant.violates,
        _killers(rows, mutant.violates),
        tuple(sorted(failed & set(mutant.also))),
        tuple(sorted(failed - set(mutant.also) - {mutant.violates})),
        len(untested - failed - {""} - (met - untested)),
        tuple(dict.fromkeys(broken)),
    )


def killers(mutant: Any) -> tuple[str, ...]:
    """The checks that fail on the requirement that a mutant violates; nothing else is run."""
    with _installed(mutant):
        chosen = [one for one in directed() if mutant.violates in one.ids]
        return _killers(run(mutant.harness(), chosen, named=mutant.id), mutant.violates)


@contextmanager
def _installed(mutant: Any) -> Iterator[None]:
    """With warnings as they are in a run: a test that makes errors of them would find other bugs."""
    with mutant.installed() if hasattr(mutant, "installed") else nullcontext(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _killers(rows: Iterable[Any], requirement: str) -> tuple[str, ...]:
    found = (row.check for row in rows if row.status is Status.FAIL and row.requirement == requirement)
    return tuple(dict.fromkeys(found))


@cache
def further() -> tuple[Any, ...]:
    """Mutants that were written with the checks at hand: what a check finds that the corpus does not ask for; and of layers."""
    return (*test_mutants.all_mutants(), *test_mutants_of_functions.all_mutants(), *layers.MUTANTS)


_HEAD = """\
# Kill matrix

The conformance suite is a program too, and what tests it is a corpus of broken adapters (`tests/mutants`), written by someone
who had not seen the checks: each is the reference with one bug, the requirement that the bug violates, and a proof that it shows.
A mutant is *killed* when a directed check fails **on that requirement**: that something somewhere is red would say little to its
author. This page is generated by `make conform`, and tests hold it current row by row.

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

_CHECKS = """\

## Checks

How many mutants of the corpus each check kills, and how many of the others: those that were written with the checks at hand
(`tests/conformance/broken*.py`, `test_mutants_of_functions.py`), and broken declarations of layers (`tests/mutants/layers.py`). Smoke checks and claims are
about harnesses: lying ones are their mutants (`tests/mutants/lying.py`, `tests/suite/test_smoke.py`).

| check | corpus | others |
| --- | ---: | ---: |
"""


def summary(kills: Sequence[Kill]) -> Mapping[str, str]:
    """The facts at the top of the page."""
    beyond = [len(one.beyond) for one in kills]
    survivors = [one.id for one in kills if not one.killers]
    return {
        "mutants": f"{len(kills)}: {sum(k.id.startswith('m-') for k in kills)} of adapters, "
        f"{sum(k.id.startswith('f-') for k in kills)} of functions over registries",
        "killed on the requirement that they violate": f"{len(kills) - len(survivors)}",
        "survivors": _listed(survivors, "`") or "none",
        "directed checks": f"{sum(one.layer == 'directed' for one in directed())}",
        "other requirements that one bug turns red": f"median {median(beyond):g}, at most {max(beyond)}",
    }


def counts(found: Iterable[tuple[str, ...]]) -> dict[str, int]:
    """How often each directed check is among the killers."""
    number = {one.name: 0 for one in directed() if one.layer == "directed"}
    for names in found:
        for name in set(names) & set(number):
            number[name] += 1
    return number


def render(kills: Sequence[Kill], others: Sequence[tuple[str, ...]], unseen: str) -> str:
    """The page."""
    lines = [_HEAD + "".join(f"| {name} | {text} |\n" for name, text in summary(kills).items()) + _TABLE.rstrip("\n")]
    lines += [one.row() for one in kills]
    lines += [_CHECKS.rstrip("\n")]
    more = counts(others)
    lines += [
        f"| `{name}` | {number} | {more[name]} |" for name, number in counts(one.killers for one in kills).items()
    ]
    return "\n".join(lines) + "\n" + (f"\n{unseen}" if unseen else "")


def _at(number: int) -> Kill:
    return kill(mutants()[number])


def _further_at(number: int) -> tuple[str, ...]:
    return killers(further()[number])


def written() -> str:
    """The estimate of the page as it stands: it is made again only when it is asked for."""
    text = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    return operators.TITLE + text.split(operators.TITLE, 1)[1] if operators.TITLE in text else ""


def main(arguments: Sequence[str]) -> int:
    """Write the page; 1 where a mutant survives, a check kills nothing or a bug lights up too much."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, help="how many processes at once (one for each core)")
    parser.add_argument(
        "--unseen", action="store_true", help="make the estimate at the end again, too: some minutes more"
    )
    options = parser.parse_args(arguments)
    with ProcessPoolExecutor(options.jobs) as pool:
        kills = list(pool.map(_at, range(len(mutants())), chunksize=4))
        others = list(pool.map(_further_at, range(len(further())), chunksize=4))
        trials = list(pool.map(operators.tried, operators.changes(), chunksize=8)) if options.unseen else []
    unseen = operators.section(trials) if trials else written()
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(render(kills, others, unseen), encoding="utf-8")
    print(PAGE.relative_to(ROOT), *(f"{name}: {text}" for name, text in summary(kills).items()), sep="\n  ")
    wrong = [f"{one.id}: survives on {one.violates}" for one in kills if not one.killers]
    wrong += [f"{one.id}: beyond {len(one.beyond)}: {_listed(one.beyond)}" for one in kills if len(one.beyond) > MOST]
    wrong += [f"{one.id}: {_listed(one.broken)}" for one in kills if one.broken]
    idle = counts([*(one.killers for one in kills), *others])
    wrong += [f"{name} kills nothing" for name, number in idle.items() if not number]
    for line in (*wrong, *operators.unnoticed(trials)):
        print(line)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
