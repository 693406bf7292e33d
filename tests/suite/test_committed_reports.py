"""The reports in the documentation are those of the suite of this checkout; when one is not, `make conform` makes it again."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from stateregistry_conformance.levels import FULL, level, problems

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "conformance"
AGAIN = "run `make conform`"


@pytest.fixture(scope="module")
def script():
    """The script behind `make conform`."""
    spec = importlib.util.spec_from_file_location("docs_conform", ROOT / "docs" / "conform.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def reports(script):
    return script.read()


def test_every_adapter_of_ours_has_a_report(script, reports):
    assert list(reports) == ["flax-linen", "flax-nnx", "numpy", "numpy-frozen", "torch"]
    for name, report in reports.items():
        assert report.header.named == report.header.adapter == name


def test_every_report_is_of_this_suite(reports):
    assert {name: problems(report) for name, report in reports.items() if problems(report)} == {}, AGAIN


def test_every_adapter_of_ours_is_full(reports):
    assert {name: level(report).name for name, report in reports.items()} == dict.fromkeys(reports, FULL), AGAIN


def test_every_run_took_less_than_five_minutes(reports):
    for name, report in reports.items():
        taken = {row.check: row.seconds for row in report.rows}
        assert 0 < sum(taken.values()) < 300, name


def test_the_pages_are_those_of_the_reports(script, reports):
    made = script.pages(reports)
    reported = {path.name for path in FOLDER.iterdir() if path.suffix in {".json", ".html"}}
    assert reported == {*made, *(f"{name}.json" for name in reports)} - {"README.md"}
    for name, text in made.items():
        assert (FOLDER / name).read_text(encoding="utf-8") == text, f"{name}: {AGAIN}"


def test_no_report_names_a_place_of_the_machine_that_made_it(reports):
    for name in reports:
        text = (FOLDER / f"{name}.json").read_text(encoding="utf-8")
        assert str(ROOT) not in text
        assert str(Path.home()) not in text
