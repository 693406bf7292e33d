"""The golden files are those of their generator, which knows neither core nor suite; spoilt ones are refused."""

from __future__ import annotations

import ast
import importlib.util
import json
from importlib import resources
from pathlib import Path

import pytest
from mutants import corpus

from stateregistry_conformance import golden
from stateregistry_conformance.checks.golden import GOLDEN
from stateregistry_conformance.runner import run
from stateregistry_conformance.verdict import Status
from stateregistry_numpy.harness import FrozenHarness, MutableHarness

WRITER = Path(__file__).resolve().parents[1] / "conformance" / "golden_files.py"


@pytest.fixture(scope="module")
def writer():
    """The script that writes the files."""
    spec = importlib.util.spec_from_file_location("golden_files", WRITER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_files_are_those_that_are_written(writer):
    made = writer.files()
    assert set(made) == {"0.1.json", "0.1.bin"}
    for name, raw in made.items():
        assert (writer.FOLDER / name).read_bytes() == raw, "run `python tests/conformance/golden_files.py`"


def test_what_writes_them_knows_nothing_of_what_they_judge():
    tree = ast.parse(WRITER.read_text(encoding="utf-8"))
    named = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    named |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert named == {"__future__", "hashlib", "json", "pathlib", "typing", "ml_dtypes", "numpy"}


@pytest.mark.parametrize("harness", [MutableHarness, FrozenHarness])
def test_both_references_are_as_the_files_say(harness):
    rows = run(harness(), GOLDEN)
    assert {row.status for row in rows} <= {Status.PASS, Status.NOT_APPLICABLE}
    assert {row.check for row in rows if row.status is Status.PASS} == {one.name for one in GOLDEN}


@pytest.mark.parametrize(
    ("name", "requirement"),
    [
        ("m-list-natural-order", "SR-LIST-001"),
        ("m-kind-by-rank", "SR-LIST-003"),
        ("m-alias-first-declared", "SR-ALIAS-003"),
        ("m-read-no-subnormals", "SR-READ-004"),
        ("m-write-zeros-skipped", "SR-WRITE-001"),
        ("m-dtype-float16-via-bfloat16", "SR-WRITE-001"),
        ("m-dtype-float32-quietened", "SR-LOAD-002"),
        ("m-snap-underscores-not-persistent", "SR-SNAP-002"),
    ],
)
def test_a_bug_is_found_by_the_files_alone(name, requirement):
    (mutant,) = (one for one in corpus.all_mutants() if one.id == name)
    failed = {row.requirement for row in run(mutant.harness(), GOLDEN) if row.status is Status.FAIL}
    assert requirement in failed


def spoilt(change):
    """The files with one thing changed, in a folder that stands in for the package's."""
    document = json.loads((golden_folder() / "0.1.json").read_text(encoding="utf-8"))
    raw = bytearray((golden_folder() / "0.1.bin").read_bytes())
    change(document, raw)
    return document, bytes(raw)


def golden_folder() -> Path:
    return Path(str(resources.files("stateregistry_conformance"))) / "golden"


SPOILT = {
    "a byte is another": lambda d, raw: raw.__setitem__(3, raw[3] ^ 1),
    "a byte is missing": lambda d, raw: raw.pop(),
    "another schema": lambda d, raw: d.update(schema="stateregistry.golden/2"),
    "another version": lambda d, raw: d.update(spec="0.2"),
    "a value outside of the file": lambda d, raw: d["cases"][0]["build"][0].update(value=[1 << 30, 4]),
    "a value of another length": lambda d, raw: d["cases"][0]["build"][0]["value"].__setitem__(1, 3),
}


@pytest.mark.parametrize("change", SPOILT)
def test_files_that_contradict_themselves_are_refused(change, tmp_path, monkeypatch):
    document, raw = spoilt(SPOILT[change])
    (tmp_path / "golden").mkdir()
    (tmp_path / "golden" / "0.1.json").write_text(json.dumps(document), encoding="utf-8")
    (tmp_path / "golden" / "0.1.bin").write_bytes(raw)
    monkeypatch.setattr(golden.resources, "files", lambda _: tmp_path)
    with pytest.raises(ValueError, match=r"golden files|bytes at"):
        golden.cases.__wrapped__()
