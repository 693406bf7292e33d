"""What is called undecidable is, and what the pairing decides is not: the bound in docs/zoo.md holds what it says."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np
import pytest
from zoo_decidable import ALONE, AUTOMATIC, BACKWARDS, CONSISTENT, FLAT, SHUFFLED, undecidable
from zoo_header import Header
from zoo_perturb import (
    anonymous,
    anonymous_shuffled,
    automatic,
    automatic_backwards,
    rename_containers,
    rename_stems,
)

import stateregistry as sr
from stateregistry.layers.vocabulary import Layer, Piece


def header(dialect: str, rows: list[tuple[str, int, int]]) -> Header:
    """Linears of a path and their sizes."""
    first = dialect == "torch"
    entries, values, layers = {}, {}, []
    for number, (path, inner, outer) in enumerate(rows):
        leaf = "weight" if first else "kernel"
        shapes = {leaf: (outer, inner) if first else (inner, outer), "bias": (outer,)}
        for name, shape in shapes.items():
            entries[f"{path}/{name}"] = sr.Entry(sr.Kind.PARAMETER, shape, "float32", trainable=True)
            values[f"{path}/{name}"] = np.full(shape, number, np.float32)
        pieces = (Piece("kernel", leaf, "out in" if first else "in out"), Piece("bias", "bias", "out"))
        layers.append(Layer("linear", path, pieces))
    owners = {key: key.rpartition("/")[0] for key in entries}
    paths = tuple(path for path, _, _ in rows)
    places = {path: path for path in paths}
    return Header(
        dialect, entries, {}, tuple(layers), values, True, owners, sequence=paths, places=places, native={k: k for k in entries}
    )  # fmt: skip


def sides(rows: list[tuple[str, str, int, int]]) -> tuple[Header, Header, list[tuple[str, str]]]:
    torch = header("torch", [(one, a, b) for one, _, a, b in rows])
    flax = header("flax-linen", [(two, a, b) for _, two, a, b in rows])
    return torch, flax, [(one, two) for one, two, _, _ in rows]


ATTENTION = sides([
    ("h/0/q", "Block_0/query", 6, 6), ("h/0/k", "Block_0/key", 6, 6), ("h/0/up", "Block_0/wide", 6, 9),
    ("h/1/q", "Block_1/query", 6, 6), ("h/1/k", "Block_1/key", 6, 6), ("h/1/up", "Block_1/wide", 6, 9),
])  # fmt: skip
CHAIN = sides([("fc1", "Dense_0", 4, 6), ("fc2", "Dense_1", 6, 6), ("fc3", "Dense_2", 6, 6)])
SHAPES = sides([("a", "one", 4, 6), ("b", "two", 6, 7), ("c", "three", 7, 8)])


@pytest.mark.parametrize(("change", "what"), [(rename_stems, CONSISTENT), (rename_containers, ALONE)])
def test_two_layers_of_one_shape_whose_names_say_nothing_are_undecidable(change, what) -> None:
    torch, flax, pairs = ATTENTION
    renamed = change(torch, Random(1))
    assert "change places" in undecidable((what, ""), renamed, flax, pairs, typed=True)
    torch, flax, pairs = SHAPES
    assert not undecidable((what, ""), change(torch, Random(1)), flax, pairs, typed=True)


@pytest.mark.parametrize(("theirs", "open_"), [(((1, 1, 6), (1, 1, 6)), True), (((1, 1, 6), (1, 6)), False)])
def test_axes_of_one_tell_arrays_apart_only_where_the_other_side_has_them_too(
    theirs: tuple[tuple[int, ...], ...], open_: bool
) -> None:
    def arrays(dialect: str, names: tuple[str, str], shapes: tuple[tuple[int, ...], ...]) -> Header:
        made = header(dialect, [("tail", 4, 3)])
        entries = {
            name: sr.Entry(sr.Kind.PARAMETER, shape, "float32", trainable=True)
            for name, shape in zip(names, shapes, strict=True)
        }
        return replace(
            made,
            entries={**made.entries, **entries},
            values={**made.values, **{name: np.zeros(entry.shape, np.float32) for name, entry in entries.items()}},
            owners={**made.owners, **{name: name for name in names}},
            native={**made.native, **{name: name for name in names}},
        )

    torch = arrays("torch", ("cls", "mask"), ((1, 1, 6), (1, 6)))
    flax = arrays("flax-linen", ("first", "hidden"), theirs)
    pairs = [("tail", "tail"), ("cls", "first"), ("mask", "hidden")]
    why = undecidable((CONSISTENT, ""), rename_stems(torch, Random(1)), flax, pairs, typed=True)
    assert ("change places" in why) is open_


def test_numbers_that_stay_tell_layers_apart() -> None:
    torch, flax, pairs = CHAIN
    assert not undecidable((CONSISTENT, ""), rename_stems(torch, Random(1)), flax, pairs, typed=False)
    assert not undecidable((FLAT, FLAT), anonymous(torch, Random(1)), anonymous(flax, Random(1)), pairs, typed=False)
    mixed = anonymous_shuffled(torch, Random(1))
    assert undecidable((SHUFFLED, ""), mixed, flax, pairs, typed=False)


def test_numbers_against_words_tell_nothing() -> None:
    torch, flax, pairs = ATTENTION
    assert "named" in undecidable((FLAT, ""), anonymous(torch, Random(1)), flax, pairs, typed=True)
    assert "named" in undecidable(("", AUTOMATIC), torch, automatic(flax, Random(1)), pairs, typed=True)
    torch, flax, pairs = CHAIN
    assert not undecidable(("", AUTOMATIC), torch, automatic(flax, Random(1)), pairs, typed=True)
    turned = automatic_backwards(flax, Random(1))
    assert "another order" in undecidable(("", BACKWARDS), torch, turned, pairs, typed=False)
    assert not undecidable(("", BACKWARDS), torch, turned, pairs, typed=True)  # calls are known then
