"""What every file registry shares, for a store that has nothing but the hooks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stateregistry.entry import Entry, Kind
from stateregistry.stores.base import Document, FileRegistry
from stateregistry.stores.memory import ArraysRegistry, PersistentPart


class Bare(FileRegistry):
    """A stranger's: the hooks that are abstract and no other."""

    adapter: ClassVar[str] = "bare"

    def __init__(self, arrays):
        super().__init__(Path("nowhere"), dialect="bare-names")
        self._arrays = arrays
        self._mine = {
            key: Entry(Kind.PARAMETER, array.shape, array.dtype.name, inferred=True) for key, array in arrays.items()
        }
        self.closed = False

    def _entries(self) -> Mapping[str, Entry]:
        return self._mine

    def _read(self, key: str, /) -> np.ndarray:
        return self._arrays[key]

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def bare(bits):
    return Bare({"w": bits("float32", (2, 3)).T, "n/b": bits("int8", (2,))})


def test_a_store_of_hooks_alone_reads(bare):
    with bare as found:
        assert found.stored_names == {"w": "w", "n/b": "n/b"}
        assert found.dialect == "bare-names"
        assert found.read("w").flags.c_contiguous
        assert found.read("w").tobytes() == np.ascontiguousarray(bare._arrays["w"]).tobytes()
        assert found.unwrap() == Path("nowhere")
    assert bare.closed


def test_telling_it_kinds_leaves_the_registry_as_it_was(bare, specimen):
    entries = {"w": Entry(Kind.BUFFER, (3, 2), "float32", persistent=False, rng=True, tag="t")}
    told = bare.told_by(specimen(dict(bare._arrays), entries))
    assert told["w"] == entries["w"]
    assert (told["w"].tag, told["w"].inferred) == ("t", False)
    assert bare["w"].kind is Kind.PARAMETER
    assert bare["w"].inferred


def test_registries_for_writing_know_where_they_come_from(bare):
    part = PersistentPart(bare)
    assert part.unwrap() == Path("nowhere")
    assert part.source_path() == Path("nowhere")
    arrays = ArraysRegistry({"w": np.ones(2)})
    assert set(arrays.unwrap()) == {"w"}
    assert PersistentPart(arrays).source_path() is None


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
)


@given(st.dictionaries(TEXTS, JSON, max_size=3), st.dictionaries(TEXTS, TEXTS, max_size=3), TEXTS)
def test_a_document_comes_back(extra, names, dialect):
    document = Document({"w": {"kind": "buffer"}}, names, {"x": "w"}, dialect, extra, (0,))
    text = document.to_json()
    assert Document.from_json(text, "x") == document
    assert text == Document.from_json(text, "x").to_json()
    text.encode("ascii")


def test_fields_that_a_later_version_adds_are_passed_over():
    body = json.loads(Document().to_json()) | {"later": 1}
    assert Document.from_json(json.dumps(body), "x") == Document()


def test_a_document_without_an_entry_says_nothing_of_it():
    assert Document().entry("w", (2,), "int8", "x") is None


def test_the_document_of_a_registry_has_what_no_format_says(bits, specimen):
    entries = {"b": Entry(Kind.BUFFER, (2,), "int8", persistent=False, rng=True, tag="t", inferred=True)}
    source = specimen({"b": bits("int8", (2,)), "a": bits("int8", (2,))}, entries, aliases={"c": "a"}, dialect="d")
    document = Document.describe(source, names={"b": "x"}, extra={"e": 1}, ordered=False)
    assert document.entries == {
        "a": {"kind": "parameter"},
        "b": {"kind": "buffer", "persistent": False, "rng": True, "tag": "t", "inferred": True},
    }
    assert (document.order, document.aliases, document.dialect) == ((1, 0), {"c": "a"}, "d")
    assert (document.names, document.extra) == ({"b": "x"}, {"e": 1})
