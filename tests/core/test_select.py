"""Selecting, counting, masks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import stateregistry as sr
from stateregistry import errors
from stateregistry_numpy import BatchNorm, Linear, Module, Sequential

if TYPE_CHECKING:
    from stateregistry.entry import Entry


def _model() -> Sequential:
    return Sequential(Linear(3, 4), BatchNorm(4), Linear(4, 3))


def test_count_is_the_number_of_elements() -> None:
    model = _model()
    assert sr.count(model) == 12 + 4 + 4 + 4 + 4 + 4 + 1 + 12 + 3
    assert sr.count(model, sr.Kind.PARAMETER) == 12 + 4 + 4 + 4 + 12 + 3
    assert sr.count(sr.of(model), sr.Kind.BUFFER) == 9
    assert sr.count(model, "1/*") == 17
    assert sr.count(model, lambda key, entry: entry.dtype == "int64") == 1


def test_a_tied_place_counts_once() -> None:
    model = Module()
    model.a = Linear(3, 3)
    model.b = Module()
    model.b.matrix = model.a.matrix
    assert sr.count(model) == 12


def test_a_pattern_matches_whole_keys_and_case() -> None:
    model = _model()
    assert sr.count(model, "0/matrix") == 12
    assert sr.count(model, "matrix") == 0
    assert sr.count(model, "*/matrix") == 24
    assert sr.count(model, "*/Matrix") == 0
    assert sr.count(model, "[02]/bias") == 7


def test_a_mask_is_over_the_parameters() -> None:
    model = _model()
    mask = sr.mask(model, "0/*")
    assert mask == {
        "0/matrix": True, "0/bias": True, "1/gain": False, "1/bias": False, "2/matrix": False, "2/bias": False,
    }  # fmt: skip
    assert all(type(flag) is bool for flag in mask.values())
    registry = sr.of(model).with_trainable(mask)
    assert [key for key, entry in registry.items() if entry.trainable] == ["0/bias", "0/matrix"]


def test_a_mask_has_the_tree_of_the_framework() -> None:
    mask = sr.mask(_model().freeze(), lambda key, entry: len(entry.shape) == 2)
    assert mask["0"] == {"matrix": True, "bias": False}
    assert mask["1"] == {"gain": False, "bias": False}


def test_a_mask_of_everything() -> None:
    assert set(sr.mask(_model(), None).values()) == {True}


@pytest.mark.parametrize("where", [3, ["a"], {"a": True}, np.zeros(3)])
def test_what_selects_nothing_is_refused(where: object) -> None:
    with pytest.raises(errors.UnsupportedError, match="predicate"):
        sr.count(_model(), where)  # type: ignore[arg-type]


def test_a_predicate_gets_key_and_entry() -> None:
    seen: dict[str, Entry] = {}

    def where(key: str, entry: Entry) -> bool:
        seen[key] = entry
        return False

    registry = sr.of(_model())
    assert sr.count(registry, where) == 0
    assert seen == dict(registry)
