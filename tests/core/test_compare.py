"""Diff: by bits, one value at a time, with a verdict that never says equal of what was not compared."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest

import stateregistry as sr
from stateregistry.tools import compare
from stateregistry.tools.compare import MetadataDifference
from stateregistry_numpy import Abstract, Buffer, Module, Parameter

if TYPE_CHECKING:
    from pathlib import Path


def _model(**arrays: Any) -> Module:
    model = Module()
    for name, value in arrays.items():
        model.register_parameter(name, value)
    return model


def test_equal_states_are_equal_whatever_holds_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    model = _model(w=rng.standard_normal((3, 3)).astype(np.float32), n=np.array([np.nan], np.float32))
    model.register_buffer("b", rng.standard_normal(5))
    sr.save(model, tmp_path / "state.safetensors")
    for other in (
        model,
        model.freeze(),
        sr.of(model),
        tmp_path / "state.safetensors",
        str(tmp_path / "state.safetensors"),
    ):
        found = sr.diff(model, other)
        assert found.equal, str(found)
        assert (found.identical, found.elements) == (3, 15)
        assert str(found).startswith("equal: 3 entries of 15 elements identical")


def test_every_difference_is_named() -> None:
    a = _model(same=np.ones(3, np.float32), shape=np.ones((2, 3), np.float32), dtype=np.ones(3, np.float32),
               value=np.ones(3, np.float32), only=np.ones(3, np.float32))  # fmt: skip
    b = _model(same=np.ones(3, np.float32), shape=np.ones((3, 2), np.float32), dtype=np.ones(3, np.float64),
               value=np.array([1, 2, 1], np.float32), extra=np.ones(3, np.float32))  # fmt: skip
    found = sr.diff(a, b)
    assert not found.equal
    assert (found.only_a, found.only_b) == (("only",), ("extra",))
    assert [m.key for m in found.metadata] == ["dtype", "shape"]
    assert [(v.key, v.max_abs, v.elements, v.size) for v in found.values] == [("value", 1.0, 1, 3)]
    assert found.identical == 1
    text = str(found)
    assert text.startswith("different: 1 only in a, 1 only in b, 2 with other metadata, 1 with other values")
    for word in ("only", "extra", "float32 / float64", "[2, 3] / [3, 2]", "1 of 3 elements"):
        assert word in text


def test_kinds_and_flags_are_metadata() -> None:
    a, b = Module(), Module()
    a.w, b.w = Parameter(np.ones(3, np.float32)), Buffer(np.ones(3, np.float32))
    a.q, b.q = Parameter(np.ones(3, np.float32)), Parameter(np.ones(3, np.float32), trainable=False)
    found = sr.diff(a, b)
    assert [str(m) for m in found.metadata] == [
        "q: trainable True / False",
        "w: kind parameter / buffer, trainable True / False",
    ]
    assert found.identical == 2


def test_what_was_inferred_is_no_difference() -> None:
    from stateregistry.entry import Entry, Kind

    inferred = Entry(Kind.BUFFER, (3,), "float32", inferred=True)
    stated = Entry(Kind.PARAMETER, (3,), "float32", trainable=True)
    assert compare._alike(inferred, stated)
    assert not compare._alike(Entry(Kind.BUFFER, (3,), "float32"), stated)
    assert not compare._alike(Entry(Kind.BUFFER, (4,), "float32", inferred=True), stated)


@pytest.mark.parametrize(
    ("first", "second", "largest"),
    [
        (np.array([0.0]), np.array([-0.0]), 0.0),
        (np.array([np.nan]), np.array([np.nan]).view(np.uint64).__add__(1).view(np.float64), 0.0),
        (np.array([np.nan]), np.array([1.0]), np.inf),
        (np.array([np.inf]), np.array([-np.inf]), np.inf),
        (np.array([1e300]), np.array([-1e300]), 2e300),
        (np.array([2**63], np.uint64), np.array([0], np.uint64), float(2**63)),
        (np.array([-(2**63)], np.int64), np.array([2**63 - 1], np.int64), float(2**64 - 1)),
        (np.array([-128], np.int8), np.array([127], np.int8), 255.0),
        (np.array([True]), np.array([False]), 1.0),
        (np.array([1 + 1j]), np.array([1 - 2j]), 3.0),
        (np.array([1.5], ml_dtypes.bfloat16), np.array([1.0], ml_dtypes.bfloat16), 0.5),
        (np.array([2.0], ml_dtypes.float8_e8m0fnu), np.array([8.0], ml_dtypes.float8_e8m0fnu), 6.0),
    ],
)
def test_the_largest_difference_is_exact(first: np.ndarray, second: np.ndarray, largest: float) -> None:
    same = np.ones(4, first.dtype)
    a, b = _model(x=np.concatenate([same, first])), _model(x=np.concatenate([same, second]))
    (found,) = sr.diff(a, b).values
    assert (found.max_abs, found.elements, found.size) == (largest, 1, 5)


def test_equal_nans_are_equal_bit_for_bit() -> None:
    words = np.array([0x7FC00001, 0xFFC12345], np.uint32).view(np.float32)
    assert sr.diff(_model(x=words), _model(x=words.copy())).equal


def test_a_large_value_is_compared_in_blocks_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    first = rng.standard_normal((37, 11))
    second = first.copy()
    second[3, 4] += 5
    second[36, 10] -= 7
    whole = sr.diff(_model(x=first), _model(x=second))
    monkeypatch.setattr(compare, "_BLOCK", 10)
    assert sr.diff(_model(x=first), _model(x=second)) == whole
    assert whole.values[0].elements == 2
    assert whole.values[0].max_abs == pytest.approx(7)


def test_a_transposed_array_is_compared_by_value() -> None:
    a, b = _model(x=np.zeros((3, 3))), _model(x=np.arange(9.0).reshape(3, 3))
    a.x.array = np.ascontiguousarray(np.arange(9.0).reshape(3, 3).T).T
    assert sr.diff(a, b).equal
    a.x.array = np.arange(9.0).reshape(3, 3).T
    assert sr.diff(a, b).values[0].elements == 6


def test_what_has_no_value_is_not_compared_and_not_equal() -> None:
    a, b = _model(w=Abstract((3,), "float32")), _model(w=Abstract((3,), "float32"))
    found = sr.diff(a, b)
    assert not found.equal
    assert found.not_compared == (("w", "abstract in a"),)
    assert str(found).startswith("undecided")
    assert [m.key for m in sr.diff(a, _model(w=np.ones(3, np.float32))).metadata] == ["w"]


def test_opaque_state_is_not_compared_and_not_equal() -> None:
    a = _model(w=np.ones(3, np.float32))
    a.register_buffer("names", np.array(["x"]))
    found = sr.diff(a, _model(w=np.ones(3, np.float32)))
    assert not found.equal
    assert found.not_compared[0][0] == "names"


def test_other_ties_are_a_difference() -> None:
    a, b = _model(w=np.ones(3, np.float32)), _model(w=np.ones(3, np.float32))
    a.z = a.w
    found = sr.diff(a, b)
    assert found.ties == (("z", "w", None),)
    assert not found.equal
    b.register_parameter("z", np.ones(3, np.float32))
    found = sr.diff(a, b)
    assert (found.ties, found.only_b) == ((), ("z",))


def test_what_is_not_saved_does_not_count_where_the_other_side_lacks_it() -> None:
    a, b = _model(w=np.ones(3, np.float32)), _model(w=np.ones(3, np.float32))
    a.register_buffer("cache", np.ones(3), persistent=False)
    found = sr.diff(a, b)
    assert found.equal
    assert found.left_out == ("cache",)
    b.register_buffer("cache", np.zeros(3), persistent=False)
    assert [v.key for v in sr.diff(a, b).values] == ["cache"]


def test_json_says_the_same() -> None:
    a, b = _model(w=np.ones(3), n=np.array([np.nan])), _model(w=np.zeros(3), n=np.array([1.0]), x=np.ones(2))
    document = json.loads(json.dumps(sr.diff(a, b).to_json(), allow_nan=False))
    assert document["schema"] == "stateregistry.diff/1"
    assert document["equal"] is False
    assert document["only_b"] == ["x"]
    assert {v["key"]: v["max_abs"] for v in document["values"]} == {"w": 1.0, "n": "inf"}


def test_a_long_diff_is_cut_and_says_how_much_is_left() -> None:
    a = _model(**{f"p{n:03}": np.ones(1) for n in range(50)})
    text = str(sr.diff(a, _model(q=np.ones(1))))
    assert "... and 30 more" in text
    assert "p019" in text
    assert "p020" not in text


def test_a_metadata_difference_names_only_what_differs() -> None:
    from stateregistry.entry import Entry, Kind

    one = Entry(Kind.BUFFER, (), "float32")
    assert str(MetadataDifference("x", one, Entry(Kind.BUFFER, (1,), "float32"))) == "x: shape [] / [1]"
