"""Cast: by value, never by the pair of dtypes alone; held against exact arithmetic of Python."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import stateregistry as sr
from stateregistry import errors
from stateregistry.casting import RULES
from stateregistry.entry import DTYPES, Entry, Kind, numpy_dtype

INTEGERS = [d for d in DTYPES if "int" in d]
FLOATING = [d for d in DTYPES if "float" in d]
COMPLEX = ["complex64", "complex128"]


def _entries(array: np.ndarray, dtype: str) -> dict[str, Entry]:
    return {"x": Entry(Kind.BUFFER, array.shape, dtype)}


def _cast(array: np.ndarray, dtype: str, rule: Any) -> np.ndarray | None:
    try:
        return sr.cast({"x": array}, _entries(array, dtype), rule)["x"]
    except errors.CastError:
        return None


def _exact(value: Any) -> Any:
    """A number as something that compares exactly; `None` for what is not finite."""
    if isinstance(value, (int, np.integer)):
        return Fraction(int(value))
    wide = float(value)
    return Fraction(wide) if np.isfinite(wide) else None


@given(st.data(), st.sampled_from(INTEGERS), st.sampled_from(INTEGERS))
def test_integers_are_cast_exactly_when_they_fit(data: Any, source: str, target: str) -> None:
    array = data.draw(hnp.arrays(source, st.integers(0, 4)))
    limits = np.iinfo(target)
    fits = all(int(limits.min) <= int(n) <= int(limits.max) for n in array)
    for rule in ("lossless", "same_kind"):
        found = _cast(array, target, rule)
        assert (found is not None) == fits or source == target
        if found is not None:
            assert found.dtype.name == target
            assert [int(n) for n in found] == [int(n) for n in array]


@given(st.data(), st.sampled_from(INTEGERS), st.sampled_from(FLOATING))
def test_integers_become_floating_exactly_when_no_digit_is_lost(data: Any, source: str, target: str) -> None:
    array = data.draw(hnp.arrays(source, st.integers(0, 3)))
    with np.errstate(all="ignore"):
        plain = array.astype(numpy_dtype(target))
    fits = all(_exact(x) == _exact(n) for x, n in zip(plain, array, strict=True))
    found = _cast(array, target, "lossless")
    assert (found is not None) == fits
    assert found is None or found.tobytes() == plain.tobytes()
    assert _cast(array, target, "same_kind") is None or source == target


@given(st.data(), st.sampled_from(["float16", "float32", "float64"]), st.sampled_from(FLOATING))
def test_floating_is_lossless_exactly_when_the_value_and_the_bits_come_back(
    data: Any, source: str, target: str
) -> None:
    array = data.draw(hnp.arrays(source, st.integers(0, 4)))
    with np.errstate(all="ignore"):
        plain = array.astype(numpy_dtype(target))
        back = plain.astype(source)
    found = _cast(array, target, "lossless")
    if source == target:
        assert found is not None
        assert found.tobytes() == array.tobytes()
        return
    assert (found is not None) == (back.tobytes() == array.tobytes())
    if found is not None:
        assert found.tobytes() == plain.tobytes()
        assert [_exact(x) for x in found] == [_exact(x) for x in array]


@given(st.data(), st.sampled_from(["float16", "float32", "float64"]), st.sampled_from(FLOATING))
def test_rounding_keeps_finite_numbers_finite_and_their_sign(data: Any, source: str, target: str) -> None:
    array = data.draw(hnp.arrays(source, st.integers(0, 4)))
    found = _cast(array, target, "same_kind")
    if found is not None:
        wide = found.astype(np.float64)
        assert (np.isfinite(wide) == np.isfinite(array)).all()
        assert (np.isnan(wide) == np.isnan(array)).all()
        assert not (np.sign(wide) * np.sign(array.astype(np.float64)) < 0).any()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("source", DTYPES)
def test_every_value_may_keep_its_dtype(rule: Any, source: str) -> None:
    words = np.dtype(f"u{min(DTYPES[source], 8)}")
    array = np.arange(16, dtype=words).view(np.uint8)[: DTYPES[source] * 2]
    array = (array % 2 if source == "bool" else array).view(numpy_dtype(source))
    found = _cast(array, source, rule)
    assert found is not None
    assert found.tobytes() == array.tobytes()
    assert not np.shares_memory(found, array)


@pytest.mark.parametrize("rule", RULES)
def test_what_drops_a_part_is_never_cast(rule: Any) -> None:
    for source in DTYPES:
        for target in DTYPES:
            drops = (
                (source in COMPLEX and target not in COMPLEX)
                or (source in FLOATING and target in INTEGERS)
                or ((source == "bool") != (target == "bool"))
            )
            if drops:
                assert _cast(np.ones(2, numpy_dtype(source)), target, rule) is None, f"{source} to {target}"


def test_lossless_is_decided_by_the_value() -> None:
    assert _cast(np.array([5, 7], np.int64), "int32", "lossless") is not None
    assert _cast(np.array([5, 2**40], np.int64), "int32", "lossless") is None
    assert _cast(np.array([2**63], np.uint64), "int64", "lossless") is None
    assert _cast(np.array([-1], np.int8), "uint8", "lossless") is None
    assert _cast(np.array([1e300]), "float32", "lossless") is None
    every_half = np.arange(2**16, dtype=np.uint16).view(np.float16)
    finite = every_half[np.isfinite(every_half)]
    wide = _cast(finite, "float32", "lossless")
    assert wide is not None
    assert wide.astype(np.float16).tobytes() == finite.tobytes()


def test_a_nan_whose_payload_would_be_lost_is_not_lossless() -> None:
    payload = np.array([0x7FF8000000000001], np.uint64).view(np.float64)
    assert _cast(payload, "float32", "lossless") is None
    rounded = _cast(payload, "float32", "same_kind")
    assert rounded is not None
    assert np.isnan(rounded[0])
    assert _cast(np.array([np.nan]), "float32", "lossless") is not None


def test_an_infinity_stays_one_or_is_refused() -> None:
    assert _cast(np.array([np.inf]), "float16", "same_kind") is not None
    assert _cast(np.array([np.inf], np.float32), "float8_e4m3fn", "same_kind") is None
    assert _cast(np.array([np.inf], np.float32), "float8_e5m2", "same_kind") is not None


def test_zero_and_negative_numbers_do_not_become_powers_of_two() -> None:
    assert _cast(np.array([-1.0], np.float32), "float8_e8m0fnu", "same_kind") is None
    assert _cast(np.array([-1.0], np.float32), "float8_e8m0fnu", "lossless") is None
    assert _cast(np.array([4.0], np.float32), "float8_e8m0fnu", "lossless") is not None


def test_complex_parts_are_cast_each() -> None:
    found = _cast(np.array([1 + 0.1j, np.inf - 2j]), "complex64", "same_kind")
    assert found is not None
    assert found[0] == np.complex64(1 + 0.1j)
    assert (found[1].real, found[1].imag) == (np.inf, -2)
    assert _cast(np.array([1 + 0.1j]), "complex64", "lossless") is None
    real = _cast(np.array([-0.0, 2.5], np.float32), "complex64", "lossless")
    assert real is not None
    assert real.real.tobytes() == np.array([-0.0, 2.5], np.float32).tobytes()
    assert real.imag.tobytes() == np.zeros(2, np.float32).tobytes()


def test_the_error_names_every_key_and_the_first_value() -> None:
    entries = {key: Entry(Kind.BUFFER, (2,), "int8") for key in ("a", "b", "c")}
    values = {"c": np.array([1, 300]), "a": np.array([1.5, 2]), "b": np.array([1, 2])}
    with pytest.raises(errors.CastError) as caught:
        sr.cast(values, entries, "same_kind")
    assert caught.value.keys == ("a", "c")
    assert "300 at [1]" in str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, TypeError)


def test_a_key_that_the_registry_does_not_have_is_refused() -> None:
    with pytest.raises(errors.CastError, match="no such key"):
        sr.cast({"y": np.ones(2)}, {"x": Entry(Kind.BUFFER, (2,), "float64")}, "lossless")


def test_a_rule_that_does_not_exist_is_refused() -> None:
    with pytest.raises(errors.CastError, match="safe"):
        sr.cast({}, {}, "safe")  # type: ignore[arg-type]


def test_shapes_are_not_the_business_of_cast() -> None:
    found = sr.cast({"x": np.ones((3, 3))}, {"x": Entry(Kind.BUFFER, (2,), "float32")}, "lossless")
    assert found["x"].shape == (3, 3)


def test_the_foreign_byte_order_is_no_other_dtype() -> None:
    array = np.array([1.5, -2.0], np.dtype(np.float32).newbyteorder("S"))
    found = _cast(array, "float32", "exact")
    assert found is not None
    assert found.dtype.isnative
    assert found.tolist() == [1.5, -2.0]


@pytest.mark.parametrize("source", [d for d in FLOATING if DTYPES[d] == 1])
@pytest.mark.parametrize("target", FLOATING)
def test_every_pair_of_floating_dtypes_is_decided(source: str, target: str) -> None:
    codes = np.arange(256, dtype=np.uint8).view(numpy_dtype(source))
    for code in codes:
        found = _cast(np.array([code]), target, "lossless")
        wide = float(code)
        if found is not None:
            assert _exact(found[0]) == _exact(code) or np.isnan(wide)
            assert np.isnan(float(found[0])) == np.isnan(wide)


@pytest.mark.parametrize(
    ("target", "bits"), [("bfloat16", 8), ("float8_e4m3fn", 4), ("float8_e5m2", 3), ("float16", 11)]
)
def test_rounding_is_to_the_nearest_and_done_once(target: str, bits: int) -> None:
    """A detour over float32 first rounds 1 + half a place + a little to 1 + half a place, and then to 1."""
    half = 2.0**-bits
    values = np.array([1 + half + 2.0**-40, 1 + half, 1 + half - 2.0**-40, -(1 + half + 2.0**-40), 1 + 3 * half])
    found = _cast(values, target, "same_kind")
    assert found is not None
    step = 2 * half
    assert found.astype(np.float64).tolist() == [1 + step, 1, 1, -(1 + step), 1 + 2 * step]


@given(st.floats(min_value=-3e38, max_value=3e38, allow_subnormal=False))
def test_bfloat16_is_the_nearest_of_its_neighbours(number: float) -> None:
    found = _cast(np.array([number]), "bfloat16", "same_kind")
    if found is None:
        return
    word = int(found.view(np.uint16)[0])
    near = [word + step for step in (-1, 0, 1) if 0 <= word + step <= 0xFFFF]
    options = np.array(near, np.uint16).view(numpy_dtype("bfloat16")).astype(np.float64)
    distances = [abs(Fraction(number) - Fraction(float(x))) for x in options if np.isfinite(x)]
    assert abs(Fraction(number) - Fraction(float(found[0]))) == min(distances)
