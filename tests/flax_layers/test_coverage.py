"""The page on layers says what the declarations say, and every test that it counts on is there."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import correspondences
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def generator():
    """The script behind the page."""
    spec = importlib.util.spec_from_file_location("docs_layers", ROOT / "docs" / "layers.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def collected() -> set[str]:
    """The id of every test of the files that the table names."""
    files = sorted(
        {cell.partition("::")[0] for row in correspondences.ROWS for cells in row.cells.values() for cell in cells}
    )
    files = [file for file in files if file.startswith(correspondences.TEST)]
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return {line for line in done.stdout.splitlines() if "::" in line}


def test_the_page_is_what_the_declarations_say(generator) -> None:
    assert generator.PAGE.read_text(encoding="utf-8") == generator.page(), "run `make docs`"


def test_every_row_has_a_cell_for_each_of_the_six_ways() -> None:
    for row in correspondences.ROWS:
        assert set(row.cells) == set(correspondences.WAYS), row.name
        assert set(row.classes) <= set(correspondences.WAYS), row.name
        for way, cells in row.cells.items():
            tests = [cell for cell in cells if cell.startswith(correspondences.TEST)]
            assert tests == list(cells) or (not tests and len(cells) == 1), (row.name, way)
            assert bool(tests) == (row.of(way) != "–"), (row.name, way)
    names = [row.name for row in correspondences.ROWS]
    assert len(set(names)) == len(names)


def test_every_test_that_a_row_names_is_collected(collected) -> None:
    named = {cell for row in correspondences.ROWS for cells in row.cells.values() for cell in cells}
    assert {cell for cell in named if cell.startswith(correspondences.TEST)} - collected == set()
    assert len(collected) > 500


def test_every_kind_of_the_vocabulary_stands_in_the_tables(generator) -> None:
    text = generator.page()
    for kind in generator.ROLES:
        assert f"| `{kind}` |" in text


@pytest.mark.parametrize(
    ("kind", "way", "says"),
    [
        ("linear", ("torch", "flax-linen"), "exact"),
        ("gru", ("torch", "flax-nnx"), "if zero: `n_recurrent_bias`"),
        ("gru", ("torch", "flax-linen"), "choice: `input_bias`, `recurrent_bias`"),
        ("prelu", ("torch", "flax-nnx"), "impossible: `slopes`"),
        ("instance_norm", ("torch", "flax-linen"), "impossible: `mean`, `var`"),
        ("conv_transpose", ("torch", "flax-linen"), "impossible: `groups other than 1`"),
        ("batch_norm", ("flax-nnx", "torch"), "choice: `count`"),
        ("lstm", ("torch", "flax-nnx"), "impossible: `projection_kernel`"),
        ("bilinear", ("torch", "flax-nnx"), "–"),
        ("lstm", ("flax-linen", "flax-nnx"), "exact"),
    ],
)
def test_a_class_follows_from_the_declarations(generator, kind: str, way: tuple[str, str], says: str) -> None:
    found = generator.relation(kind, *way)
    assert found == says or f"; {says}" in found


def test_a_declaration_that_changes_changes_the_page(generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that no change could make stale would hold nothing."""
    import dataclasses

    linen = generator.DIALECTS["flax-linen"]
    fewer = [row for row in linen.declarations if row.kind != "group_norm"]
    monkeypatch.setitem(generator.DIALECTS, "flax-linen", dataclasses.replace(linen, declarations=tuple(fewer)))
    monkeypatch.setitem(generator.BUILT, "flax-linen", {})
    assert generator.relation("group_norm", "torch", "flax-linen") == "–"
    assert generator.page() != generator.PAGE.read_text(encoding="utf-8")
