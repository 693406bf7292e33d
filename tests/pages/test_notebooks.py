"""In a notebook a registry, a plan, a diff and a verification are small tables: no scripts, less than 50 KB, names escaped."""

from __future__ import annotations

from html.parser import HTMLParser

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from page_files import HOSTILE, foreign

import stateregistry as sr

CELLS = """
import numpy as np, torch
import stateregistry as sr
model = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3), torch.nn.BatchNorm2d(5))
reg = sr.of(model)
reg
---
plan = sr.plan(reg, to="flax-linen", allow=("choice", "assumption", "missing", "unexpected"))
plan
---
other = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3), torch.nn.BatchNorm2d(5))
sr.diff(model, other)
---
sr.verify(model, other)
"""


@pytest.fixture(scope="module")
def outputs():
    """What the cells of an executed notebook show."""
    book = nbformat.v4.new_notebook()
    book.cells = [nbformat.v4.new_code_cell(cell.strip()) for cell in CELLS.split("---\n")]
    NotebookClient(book, timeout=300, kernel_name="python3").execute()
    nbformat.validate(book)
    return [next(out.data for out in cell.outputs if out.output_type == "execute_result") for cell in book.cells]


def test_every_cell_shows_a_table_and_text(outputs):
    assert len(outputs) == 4
    for data, words in zip(outputs, ("35 elements", "plan ok", "different", "different"), strict=True):
        assert set(data) == {"text/plain", "text/html"}
        assert '<section class="sr-view"' in data["text/html"]
        assert "<table>" in data["text/html"]
        assert words in data["text/html"] or words.split()[0] in data["text/html"]


def test_no_output_has_scripts_or_is_large(outputs):
    for data in outputs:
        checked(data["text/html"])


class Tags(HTMLParser):
    """What a fragment consists of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def checked(text: str) -> str:
    assert len(text.encode()) < 50_000
    found = Tags(text)
    assert found.open == []
    allowed = {"style", "section", "div", "b", "table", "thead", "tbody", "tr", "th", "td", "ul", "li", "details", "summary",
               "meter", "p"}  # fmt: skip
    assert {tag for tag, _ in found.found} <= allowed
    names = {name for _, attributes in found.found for name in attributes}
    assert names <= {"class", "aria-label", "scope", "open", "min", "max", "value"}
    return text


def test_hostile_names_are_text(tmp_path):
    rng = np.random.default_rng(0)
    foreign(tmp_path / "a.safetensors", {name: rng.standard_normal((2, 3)) for name in HOSTILE})
    foreign(tmp_path / "b.safetensors", {name: rng.standard_normal((2, 3)) for name in HOSTILE})
    with sr.open(tmp_path / "a.safetensors") as a, sr.open(tmp_path / "b.safetensors") as b:
        for value in (a, sr.diff(a, b), sr.plan(a, to="numpy"), sr.verify(a, b, rules=None)):
            text = checked(value._repr_html_())
            assert [c for c in text if not c.isprintable() and c != "\n"] == []


def test_ten_thousand_entries_are_still_small(tmp_path):
    foreign(tmp_path / "m.safetensors", {f"a{n * 7919 % 10007}_{'x' * 200}.w{n}": np.ones(1) for n in range(10_000)})
    with sr.open(tmp_path / "m.safetensors") as file:
        checked(file._repr_html_())
        foreign(tmp_path / "n.safetensors", {f"b{n}_{'y' * 200}": np.ones(1) for n in range(500)})
        with sr.open(tmp_path / "n.safetensors") as other:
            checked(sr.diff(file, other)._repr_html_())


def test_a_bundle_gives_what_is_asked_for():
    import stateregistry_numpy

    model = stateregistry_numpy.Module()
    model.register_parameter("w", np.ones(3))
    reg = sr.of(model)
    assert set(reg._repr_mimebundle_()) == {"text/plain", "text/html"}
    assert set(reg._repr_mimebundle_(include=["text/plain"])) == {"text/plain"}
    assert set(reg._repr_mimebundle_(exclude=["text/html"])) == {"text/plain"}
    assert reg._repr_mimebundle_()["text/plain"] == repr(reg)
