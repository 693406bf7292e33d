"""Checks of chapter 11, dtypes and casts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import stateregistry as sr
from stateregistry import errors
from stateregistry.entry import DTYPES, Entry, numpy_dtype
from stateregistry_conformance.check import check
from stateregistry_conformance.declaration import Declaration, Leaf
from stateregistry_conformance.samples import (
    BUFFER,
    PARAMETER,
    buffer,
    core,
    others,
    parameter,
    square,
    tied,
    typed,
    values,
)
from stateregistry_conformance.verdict import NotApplicable, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stateregistry_conformance.subject import Subject

_FLOAT8 = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu")


def _all_codes(dtype: str) -> np.ndarray:
    """Every bit pattern of a dtype of one or two bytes."""
    words = np.dtype(f"u{DTYPES[dtype]}")
    return np.arange(1 << (8 * words.itemsize), dtype=words).view(numpy_dtype(dtype))


def _many_codes(dtype: str) -> np.ndarray:
    """Bit patterns of a wide floating dtype: every exponent and sign, with significands that are all alike at an end."""
    exponent, fraction = (8, 23) if dtype == "float32" else (11, 52)
    words = np.uint32 if dtype == "float32" else np.uint64
    ones = (1 << fraction) - 1
    corners = [
        0,
        1,
        2,
        1 << (fraction - 1),
        (1 << (fraction - 1)) | 1,
        ones - 1,
        ones,
        0x2AAAAA & ones,
        0x155555 & ones,
    ]
    patterns = [(sign << (exponent + fraction)) | (e << fraction) | c
                for sign in (0, 1) for e in range(1 << exponent) for c in corners]  # fmt: skip
    return np.array(patterns, words).view(numpy_dtype(dtype))


def _comes_back(h: Subject, v: Verdict, codes: np.ndarray, kinds: Iterable[Any] = (PARAMETER, BUFFER)) -> None:
    """Write bits into zeros, look natively and through the registry, and build a model with them."""
    dtype = codes.dtype.name
    for kind in kinds:
        zeros = Leaf("x", kind, np.ones(codes.shape, codes.dtype))
        model = h.can_build(Declaration((zeros,)))
        if model is None:
            continue  # a framework may have a dtype for buffers only
        registry = h.registry(model)
        v.equal(registry.get("x", None) and registry["x"].dtype, dtype, f"dtype of a {kind.value} of {dtype}")
        registry = registry.replace({"x": codes})
        v.same(h.peek(registry.unwrap(), "x"), codes, f"native value of a {kind.value} of {dtype} after replace")
        v.same(registry.read("x"), codes, f"read of a {kind.value} of {dtype} after replace")
        built = h.registry(h.build(Declaration((Leaf("x", kind, codes),))))
        v.same(built.read("x"), codes, f"read of a {kind.value} of {dtype} that was built")
        v.same(sr.snapshot(built).get("x"), codes, f"snapshot of a {kind.value} of {dtype}")
        one = Declaration((Leaf("x", kind, codes.reshape(-1)[0]),))
        for place in sorted(
            {1, 2, codes.size // 3, codes.size // 2, codes.size - 2, codes.size - 1} & {*range(codes.size)}
        ):
            scalar = np.array(codes.reshape(-1)[place], codes.dtype)
            registry = h.registry(h.build(one)).replace({"x": scalar})
            v.same(h.peek(registry.unwrap(), "x"), scalar, f"native value of a scalar {kind.value} of {dtype}")
            v.same(registry.read("x"), scalar, f"read of a scalar {kind.value} of {dtype}")


def _held(h: Subject, dtypes: Iterable[str]) -> list[str]:
    """Those of the dtypes that the framework has."""
    return [dtype for dtype in dtypes if h.can_build(typed(dtype)) is not None]


@check("SR-DTYPE-001")
def a_dtype_has_its_name(h: Subject, v: Verdict) -> None:
    for dtype in DTYPES:
        declaration = typed(dtype)
        model = h.can_build(declaration)
        if model is None:
            continue
        registry = h.registry(model)
        found = registry["x"].dtype
        v.holds(type(found) is str, f"the dtype of {dtype} is a str, found {found!r}")
        v.equal(found, dtype, f"dtype of a buffer of {dtype}")
        v.equal(dict(registry.opaque), {}, f"opaque beside a buffer of {dtype}")
    v.equal({k: e.dtype for k, e in h.registry(h.build(core())).items()},
            {k: e.dtype for k, e in core().entries().items()}, "dtypes of the core declaration")  # fmt: skip
    v.passed()


@check("SR-DTYPE-002")
def nothing_is_narrowed(h: Subject, v: Verdict) -> None:
    declaration = Declaration((parameter("p", (3,)), buffer("b", (3,))))
    wide = np.array([1e300, 2.0**-1074, 0.1], np.float64)
    count = np.array([2**40 + 7, -1, 2**62 + 1], np.int64)
    for key, given in (("p", wide), ("b", wide), ("p", count), ("b", count)):
        model = h.build(declaration)
        registry = h.registry(model)
        with v.refuses(errors.StateError, f"replace of a float32 entry by {given.dtype}"):
            registry.replace({key: given})
        v.same_state(h.peek_all(model, declaration), declaration.values(), f"native values after {given.dtype}")
    for dtype in DTYPES:
        one = typed(dtype)
        model = h.can_build(one)
        if model is None:
            continue
        given = others(one)["x"]
        registry = h.registry(model).replace({"x": given})
        native = h.peek(registry.unwrap(), "x")
        v.equal(native.dtype.name, dtype, f"native dtype of a {dtype} entry after replace")
        v.same(native, given, f"native value of a {dtype} entry after replace")
    v.passed()


@check("SR-DTYPE-003")
def float16_and_float32_come_back(h: Subject, v: Verdict) -> None:
    for codes in (_all_codes("float16"), _many_codes("float32")):
        h.build(Declaration((Leaf("x", PARAMETER, codes), Leaf("y", BUFFER, codes))))
        _comes_back(h, v, codes)
    v.passed()


@check("SR-DTYPE-004")
def bfloat16_comes_back(h: Subject, v: Verdict) -> None:
    h.build(typed("bfloat16"))
    _comes_back(h, v, _all_codes("bfloat16"))
    v.passed()


@check("SR-DTYPE-005")
def every_float8_code_comes_back(h: Subject, v: Verdict) -> None:
    held = _held(h, _FLOAT8)
    v.holds(held, "a framework that claims dtype.float8 has at least one of the five")
    for dtype in held:
        _comes_back(h, v, _all_codes(dtype))
    v.passed()


@check("SR-DTYPE-006")
def complex_comes_back(h: Subject, v: Verdict) -> None:
    held = _held(h, ("complex64", "complex128"))
    v.holds(held, "a framework that claims dtype.complex has at least one of the two")
    for dtype in held:
        part = "float32" if dtype == "complex64" else "float64"
        codes = _many_codes(part)
        _comes_back(h, v, codes[: codes.size // 2 * 2].view(numpy_dtype(dtype)))
        special = np.array([np.nan, -0.0, np.inf, -np.inf, 0.0, 1.0], numpy_dtype(part))
        pairs = np.array([[x, y] for x in special for y in special]).reshape(-1)
        _comes_back(h, v, pairs.view(numpy_dtype(dtype)))
    v.passed()


def _integers(dtype: str) -> np.ndarray:
    limits = np.iinfo(dtype)
    numbers = {limits.min, limits.min + 1, limits.max - 1, limits.max, 0, 1, 2, 5}
    for power in range(8 * DTYPES[dtype]):
        numbers |= {2**power - 1, 2**power, 2**power + 1, -(2**power), -(2**power) - 1}
    return np.array(sorted(n for n in numbers if limits.min <= n <= limits.max), dtype)


@check("SR-DTYPE-007")
def integers_of_64_bits_come_back(h: Subject, v: Verdict) -> None:
    held = _held(h, ("int64", "uint64"))
    v.holds(held, "a framework that claims dtype.int64 has at least one of the two")
    for dtype in held:
        codes = _integers(dtype)
        v.holds(2**53 + 1 in codes.tolist(), "2**53 + 1 is among the values")
        _comes_back(h, v, codes)
        scalar = h.registry(h.build(Declaration((Leaf("n", BUFFER, np.array(2**53 + 1, dtype)),))))
        v.same(scalar.read("n"), np.array(2**53 + 1, dtype), f"read of a counter of {dtype}")
    v.passed()


@check("SR-DTYPE-008")
def float64_comes_back(h: Subject, v: Verdict) -> None:
    h.build(typed("float64"))
    _comes_back(h, v, _many_codes("float64"))
    v.passed()


@check("SR-DTYPE-009")
def integers_of_8_to_32_bits_come_back(h: Subject, v: Verdict) -> None:
    held = _held(h, ("int8", "uint8", "int16", "uint16", "int32", "uint32"))
    v.holds(held, "a framework that claims dtype.integer has at least one of the six")
    for dtype in held:
        _comes_back(h, v, _all_codes(dtype) if DTYPES[dtype] <= 2 else _integers(dtype))
    v.passed()


@check("SR-DTYPE-010")
def bool_stays_bool(h: Subject, v: Verdict) -> None:
    codes = np.array([True, False, False, True, True])
    h.build(typed("bool"))
    _comes_back(h, v, codes)
    registry = h.registry(h.build(typed("bool")))
    for dtype in ("uint8", "int8", "int64", "float32"):
        with v.refuses(errors.DtypeError, f"replace of a bool entry by {dtype}"):
            registry.replace({"x": np.ones((4, 4), dtype)})
    v.passed()


def _one(
    v: Verdict, given: np.ndarray, target: str, rule: Any, *, fits: bool, expected: np.ndarray | None = None
) -> None:
    """One cast, onto entries made by hand: what a framework can hold does not matter here."""
    entries = {"x": Entry(BUFFER, given.shape, target)}
    before = given.tobytes()
    text = f"cast of {given.dtype} {given.tolist()!r} to {target} under {rule!r}"
    if fits:
        found = sr.cast({"x": given}, entries, rule)["x"]
        wanted = given.astype(numpy_dtype(target)) if expected is None else expected
        v.same(found, wanted, text)
        v.holds(not np.shares_memory(found, given), f"the result of a {text} shares no memory with the value")
    else:
        error = v.refusal(lambda: sr.cast({"x": given}, entries, rule), errors.CastError, text)
        v.holds("x" in error.keys and "x" in str(error), f"the error of a {text} names the key: {error}")
    v.equal(given.tobytes(), before, f"the bits of the value after a {text}")


@check("SR-DTYPE-011")
def cast_is_pure_and_gives_the_dtypes_of_the_registry(h: Subject, v: Verdict) -> None:
    declaration = core()
    model = h.build(declaration)
    registry = h.registry(model)
    # Numbers that no narrower dtype has, so that a change of what was given shows.
    given = {key: value.astype(np.float64) * (1 + 2.0**-40) for key, value in others(declaration).items()}
    kept = {key: value.copy() for key, value in given.items()}
    rounded = {key: value.astype(others(declaration)[key].dtype) for key, value in given.items()}
    found = sr.cast(given, registry, "same_kind")
    v.equal(
        {key: x.dtype.name for key, x in found.items()},
        {k: e.dtype for k, e in declaration.entries().items()},
        "dtypes",
    )
    v.same_state(found, rounded, "values that were cast")
    v.same_state(given, kept, "the values that were given, after cast")
    v.same_state(h.peek_all(model, declaration), declaration.values(), "native values after cast")
    registry = registry.replace(found)
    v.same_state(h.peek_all(registry.unwrap(), declaration), rounded, "native values after replace of the result")
    same = sr.cast(others(declaration), registry, "exact")
    v.same_state(same, others(declaration), "values that had the dtypes already")
    error = v.refusal(lambda: sr.cast(given, registry, "exact"), errors.CastError, "cast of float64 under 'exact'")
    v.equal(sorted(error.keys), sorted(declaration.entries()), "the keys of the error")
    v.passed()


@check("SR-DTYPE-011")
def cast_understands_aliases(h: Subject, v: Verdict) -> None:
    if "ties" not in h.capabilities:
        raise NotApplicable("the framework has no ties")
    declaration = tied()
    registry = h.registry(h.build(declaration))
    for alias in declaration.aliases():
        found = sr.cast({alias: values("x", (3, 3)).astype(np.float64)}, registry, "lossless")
        v.same(found[alias], values("x", (3, 3)), f"cast of a value for the alias {alias!r}")
    v.passed()


@check("SR-DTYPE-012")
def exact_refuses_every_other_dtype(h: Subject, v: Verdict) -> None:
    registry = h.registry(h.build(square()))
    for dtype in DTYPES:
        given = np.ones((3, 3), numpy_dtype(dtype))
        _one(v, given, "float32", "exact", fits=dtype == "float32")
        if dtype != "float32":
            with v.refuses(errors.CastError, f"cast of {dtype} to the registry's float32 under 'exact'"):
                sr.cast({"p": given}, registry, "exact")
    foreign = values("x", (3, 3)).astype(np.dtype(np.float32).newbyteorder("S"))
    v.same(sr.cast({"p": foreign}, registry, "exact")["p"], values("x", (3, 3)), "cast of the foreign byte order")
    v.passed()


@check("SR-DTYPE-013")
def lossless_is_decided_by_value(h: Subject, v: Verdict) -> None:
    registry = h.registry(h.build(square()))
    fine = values("x", (3, 3)).astype(np.float64)
    v.same(sr.cast({"p": fine}, registry, "lossless")["p"], values("x", (3, 3)), "cast of float64 that fits float32")
    with v.refuses(errors.CastError, "cast of float64 that does not fit float32"):
        sr.cast({"p": fine + 1e-12}, registry, "lossless")
    good: list[tuple[list[Any], str, str]] = [
        ([5, -7], "int64", "int32"), ([0, 255], "int64", "uint8"), ([2**31 - 1, -(2**31)], "int64", "int32"),
        ([1, 2], "uint8", "int64"), ([5, 0], "int64", "float32"), ([2**24, -(2**24)], "int32", "float32"),
        ([0.5, -0.0], "float64", "float16"), ([1.0, 65504.0], "float32", "float16"), ([np.inf, -np.inf], "float64", "float32"),
        ([1.5, -2.0], "float16", "float64"), ([1.5, -0.0], "float32", "complex64"), ([3, -4], "int32", "complex64"),
        ([1 + 2j, -3.5j], "complex128", "complex64"), ([1.0, 0.5], "float32", "bfloat16"), ([1.0, 2.0], "bfloat16", "float32"),
    ]  # fmt: skip
    for numbers, source, target in good:
        _one(v, np.array(numbers, numpy_dtype(source)), target, "lossless", fits=True)
    bad: list[tuple[list[Any], str, str]] = [
        ([1, 2**40], "int64", "int32"), ([-1, 1], "int64", "uint8"), ([-1, 1], "int8", "uint64"),
        ([2**63, 1], "uint64", "int64"), ([2**53 + 1, 0], "int64", "float64"), ([2**24 + 1, 0], "int64", "float32"),
        ([2**63 - 1, 0], "int64", "float64"), ([2**64 - 1, 0], "uint64", "float64"), ([0.1, 1.0], "float64", "float32"),
        ([1e300, 1.0], "float64", "float32"), ([1e-300, 1.0], "float64", "float32"), ([0.1 + 1j, 0], "complex128", "complex64"),
        ([1.001, 1.0], "float32", "bfloat16"), ([70000.0, 1.0], "float32", "float16"), ([2**17, 1], "int32", "float16"),
    ]  # fmt: skip
    for numbers, source, target in bad:
        _one(v, np.array(numbers, numpy_dtype(source)), target, "lossless", fits=False)
    _one(v, np.array([0x7FF8000000000001, 0], np.uint64).view(np.float64), "float32", "lossless", fits=False)
    _one(v, np.zeros((0, 3), np.int64), "int8", "lossless", fits=True)
    _one(v, np.array(5, np.int64), "int32", "lossless", fits=True)
    v.passed()


@check("SR-DTYPE-014")
def same_kind_may_round_and_never_overflows(h: Subject, v: Verdict) -> None:
    registry = h.registry(h.build(square()))
    rounded = values("x", (3, 3)).astype(np.float64) + 1e-12
    v.same(
        sr.cast({"p": rounded}, registry, "same_kind")["p"], rounded.astype(np.float32), "cast of float64 to float32"
    )
    with v.refuses(errors.CastError, "cast of 1e300 to float32"):
        sr.cast({"p": rounded * 1e300}, registry, "same_kind")
    good: list[tuple[list[Any], str, str]] = [
        ([0.1, -1e-300], "float64", "float32"), ([3.1, np.inf], "float64", "float16"), ([1, -2], "int64", "int8"),
        ([1 + 0.1j, 2], "complex128", "complex64"), ([255, 0], "int64", "uint8"), ([1.5, 2.0], "float16", "float64"),
        ([1.0001, -3.3], "float32", "bfloat16"),
    ]  # fmt: skip
    for numbers, source, target in good:
        _one(v, np.array(numbers, numpy_dtype(source)), target, "same_kind", fits=True)
    bad: list[tuple[list[Any], str, str]] = [
        ([1, 300], "int64", "int8"), ([-1, 1], "int64", "uint64"), ([2**63, 0], "uint64", "int64"),
        ([1e39, 1], "float64", "float32"), ([1, 1e6], "float32", "float16"), ([1e6, 1], "float32", "float8_e4m3fn"),
        ([1e39 + 1j, 1], "complex128", "complex64"), ([1 + 1e39j, 1], "complex128", "complex64"),
    ]  # fmt: skip
    for numbers, source, target in bad:
        _one(v, np.array(numbers, numpy_dtype(source)), target, "same_kind", fits=False)
    nan = sr.cast({"x": np.array([np.nan, 1.0])}, {"x": Entry(BUFFER, (2,), "float16")}, "same_kind")["x"]
    v.holds(bool(np.isnan(nan[0])), f"a NaN stays a NaN, found {nan}")
    v.passed()


@check("SR-DTYPE-015")
def no_rule_drops_a_part(h: Subject, v: Verdict) -> None:
    registry = h.registry(h.build(square()))
    never = [
        ("complex64", "float32"), ("complex128", "float64"), ("complex64", "int32"), ("float32", "int32"), ("float64", "int64"),
        ("float16", "uint8"), ("bfloat16", "int16"), ("bool", "uint8"), ("bool", "float32"), ("bool", "complex64"),
        ("int64", "bool"), ("uint8", "bool"), ("float32", "bool"), ("complex64", "bool"),
    ]  # fmt: skip
    for rule in ("exact", "lossless", "same_kind"):
        for source, target in never:
            _one(v, np.ones(2, numpy_dtype(source)), target, rule, fits=False)
        for dtype in ("complex64", "bool"):
            with v.refuses(errors.CastError, f"cast of {dtype} to the registry's float32 under {rule!r}"):
                sr.cast({"p": np.ones((3, 3), dtype)}, registry, rule)
    v.passed()
