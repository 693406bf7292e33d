"""Broken declarations of layers are killed by the chapter on layers, each on the requirement it violates and on no other."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parents[1]
if str(TESTS) not in sys.path:
    sys.path.append(str(TESTS))  # for `mutants`

from mutants.layer_support import LayerMutant, altered  # noqa: E402  # the corpus is no installed package
from mutants.layers import MUTANTS  # noqa: E402  # the corpus is no installed package

from stateregistry_conformance.checks import CHECKS  # noqa: E402
from stateregistry_conformance.runner import run  # noqa: E402
from stateregistry_conformance.specification import excluded, requirements  # noqa: E402
from stateregistry_conformance.verdict import Row, Status  # noqa: E402

CHAPTER = [one for one in CHECKS.values() if all(name.startswith("SR-LAYER") for name in one.ids)]


#: What cannot be kept together with a mutant: the layer beside a bare parameter has no kind that anybody knows either.
ALSO = {"m-layers-a-kind-of-its-own": {"SR-LAYER-022"}}


def red(rows: tuple[Row, ...]) -> dict[str, str]:
    return {row.requirement: row.detail for row in rows if row.status is Status.FAIL}


@cache
def of(mutant: LayerMutant) -> tuple[Row, ...]:
    return run(mutant.harness(), CHAPTER, named=mutant.id)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.id)
def test_a_broken_declaration_fails_on_the_requirement_it_violates_and_on_no_other(mutant: LayerMutant) -> None:
    rows = of(mutant)
    assert [row.detail for row in rows if row.status is Status.ERROR] == []
    assert set(red(rows)) == {mutant.violates} | ALSO.get(mutant.id, set()), f"{mutant.story}: {red(rows)}"


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.id)
def test_a_failure_says_which_case_and_how_to_see_it_again(mutant: LayerMutant) -> None:
    (row,) = [row for row in of(mutant) if row.status is Status.FAIL and row.requirement == mutant.violates]
    assert f"--check {row.check}" in row.repro
    assert mutant.id in row.repro
    assert len(row.detail) > 20


@pytest.mark.parametrize("base", ["numpy", "torch", "flax-linen", "flax-nnx"])
def test_the_same_harness_with_the_adapters_own_layers_is_green(base: str) -> None:
    """Restricting the kinds is not what makes a mutant red."""
    kinds = sorted({kind for mutant in MUTANTS if mutant.base == base for kind in mutant.kinds})
    rows = run(altered(base, kinds, None), CHAPTER)
    assert red(rows) == {}
    assert Status.ERROR not in {row.status for row in rows}


def test_every_requirement_of_the_chapter_that_binds_adapters_kills_a_mutant() -> None:
    chapter = [one for one in requirements().values() if one.chapter == "layers" and one.binding]
    decided = {one.id for one in chapter if excluded(one) is None}
    assert {mutant.violates for mutant in MUTANTS} == decided
    assert {name for one in CHAPTER for name in one.ids} == decided


def test_there_are_mutants_of_every_adapter_that_declares_layers() -> None:
    assert len(MUTANTS) >= 40
    assert {mutant.base for mutant in MUTANTS} == {"numpy", "torch", "flax-linen", "flax-nnx"}
    assert len({mutant.id for mutant in MUTANTS}) == len(MUTANTS)


TOLD: dict[str, str] = {
    "m-layers-a-transpose-forgotten": "would be right with weight: 'out in'",
    "m-layers-a-flip-forgotten": "would be right with kernel: '-spatial.0 in out/groups'",
    "m-layers-gates-of-a-gru-swapped": "would be right if what is declared as",
    "m-layers-heads-and-head-dim-swapped": "heads head_dim",
    "m-layers-axes-by-size": "with sizes that differ, the same layer is right",
}


@pytest.mark.parametrize("name", TOLD)
def test_a_wrong_layout_is_told_with_the_one_that_the_numbers_bear_out(name: str) -> None:
    (mutant,) = [mutant for mutant in MUTANTS if mutant.id == name]
    assert TOLD[name] in red(of(mutant))[mutant.violates]


def test_what_is_printed_runs_the_failure_again(tmp_path: Path) -> None:
    (tmp_path / "theirs.py").write_text(
        f"import sys\nsys.path.insert(0, {str(TESTS)!r})\n"
        "from mutants.layers import MUTANTS\n"
        "harness = next(m for m in MUTANTS if m.id == 'm-layers-a-table-by-columns').harness()\n",
        encoding="utf-8",
    )
    sys.path.insert(0, str(tmp_path))
    try:
        import theirs  # type: ignore[import-not-found]

        harness: Any = theirs.harness
    finally:
        sys.path.remove(str(tmp_path))
    (row,) = [row for row in run(harness, CHAPTER, named="theirs:harness") if row.status is Status.FAIL]
    done = subprocess.run([sys.executable, "-c", row.repro], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == f"{row.requirement} fail {row.detail}\n"
