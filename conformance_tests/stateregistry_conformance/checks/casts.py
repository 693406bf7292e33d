"""Checks of chapter 11 on casts over every pair of dtypes, and on dtypes at their limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import stateregistry as sr
from stateregistry import errors
from stateregistry.entry import DTYPES, Entry, numpy_dtype
from stateregistry_conformance.check import check
from stateregistry_conformance.declaration import Declaration, Leaf
from stateregistry_conformance.samples import BUFFER, PARAMETER, core, others, square, typed, values

if TYPE_CHECKING:
    from stateregistry_conformance.subject import Subject
    from stateregistry_conformance.verdict import Verdict


@check("SR-DTYPE-001")
def other_dtypes_are_opaque(h: Subject, v: Verdict) -> None:
    specimen = h.specimen("opaque")
    registry = h.registry(specimen.model)
    for key, entry in registry.items():
        v.holds(entry.dtype in DTYPES, f"dtype of {key!r} is one of the specification's: {entry.dtype}")
    for key in specimen.keys:
        v.holds(key not in registry, f"{key!r}, which is no array of a known dtype, is no entry")
    v.passed()


@check("SR-DTYPE-002")
def numbers_at_the_limits_are_held(h: Subject, v: Verdict) -> None:
    for dtype in DTYPES:
        if h.can_build(typed(dtype)) is None:
            continue
        limits = _limits(dtype)
        declaration = Declaration((Leaf("x", BUFFER, np.ones(limits.shape, limits.dtype)),))
        registry = h.registry(h.build(declaration)).replace({"x": limits})
        native = h.peek(registry.unwrap(), "x")
        v.same(native, limits, f"native value of a {dtype} entry after its limits were written")
    v.passed()


def _limits(dtype: str) -> np.ndarray:
    """Extreme numbers of a dtype: the largest, the smallest, and those beyond the reach of narrower ones."""
    target = numpy_dtype(dtype)
    if dtype == "bool":
        return np.array([True, False])
    if "int" in dtype:
        limits = np.iinfo(target)
        return np.array([limits.min, limits.max, limits.max // 2 + 1, limits.max - 1], target)
    if "complex" in dtype:
        top = np.finfo(target).max
        return np.array([complex(top, -top), complex(0.1, 1e30), complex(-0.0, -0.0)], target)
    with np.errstate(over="ignore"):
        return np.array([7e4, 1e30, -1e38, 0.1, 1e-30, 448.0, 57344.0], np.float64).astype(target)


@check("SR-DTYPE-006")
def zero_parts_of_complex_numbers_are_kept(h: Subject, v: Verdict) -> None:
    for dtype in ("complex64", "complex128"):
        part = numpy_dtype("float32" if dtype == "complex64" else "float64")
        for zeros in ([0.0, 0.0], [-0.0, -0.0], [0.0, -0.0]):
            for axis in (0, 1):
                pairs = np.array([zeros, [1.5, -2.5]] if axis == 0 else [[1.5, -2.5], zeros], part).T
                value = np.ascontiguousarray(pairs).view(numpy_dtype(dtype)).reshape(-1)
                for kind in (PARAMETER, BUFFER):
                    model = h.can_build(Declaration((Leaf("x", kind, np.ones_like(value)),)))
                    if model is None:
                        continue
                    registry = h.registry(model).replace({"x": value})
                    v.same(h.peek(registry.unwrap(), "x"), value, f"native value of {dtype} with a part that is zero")
                    v.same(registry.read("x"), value, f"read of {dtype} with a part that is zero")
    v.passed()


@check("SR-DTYPE-011")
def a_cast_gives_every_key_or_none(h: Subject, v: Verdict) -> None:
    registry = h.registry(h.build(square()))
    fine, bad = values("x", (3, 3)).astype(np.float64), np.ones((3, 3), bool)
    for given, wrong in (({"p": fine, "b": bad}, ("b",)), ({"p": bad, "b": fine, "q": bad}, ("p", "q"))):
        for rule in ("lossless", "same_kind"):
            with v.refuses(errors.CastError, f"cast of {sorted(given)}, of which {wrong} cannot be") as refusal:
                sr.cast(given, registry, rule)
            v.equal(tuple(sorted(refusal.error.keys)), wrong, "the keys of the error")
    found = sr.cast({"p": fine, "c": fine}, registry, "lossless")
    v.equal(sorted(found), ["c", "p"], "keys of the result")
    declaration = core()
    registry = h.registry(h.build(declaration))
    done = sr.cast(others(declaration), registry, "lossless")
    v.same_state(done, others(declaration), "values that need no cast")
    v.passed()


def _accepts(given: np.ndarray, target: str, rule: Any) -> bool:
    try:
        sr.cast({"x": given}, {"x": Entry(BUFFER, given.shape, target)}, rule)
    except errors.CastError:
        return False
    return True


def _family(dtype: str) -> str:
    return next(word for word in ("bool", "int", "float", "complex") if word in dtype)


@check("SR-DTYPE-012")
def exact_refuses_every_pair(h: Subject, v: Verdict) -> None:
    for source in DTYPES:
        for target in DTYPES:
            given = np.ones(2, numpy_dtype(source))
            v.equal(_accepts(given, target, "exact"), source == target, f"whether 'exact' casts {source} to {target}")
    v.equal(sorted(sr.cast(others(square()), h.registry(h.build(square())), "exact")), ["b", "c", "p", "q"], "keys")
    v.passed()


@check("SR-DTYPE-013")
def lossless_is_decided_for_every_pair(h: Subject, v: Verdict) -> None:
    # One is a number of every dtype: what is refused is refused for its kind.
    order = ("int", "float", "complex")
    for source in DTYPES:
        for target in DTYPES:
            have, want = _family(source), _family(target)
            fits = source == target or ("bool" not in {have, want} and order.index(have) <= order.index(want))
            given = np.ones(2, numpy_dtype(source))
            v.equal(_accepts(given, target, "lossless"), fits, f"whether 'lossless' casts ones of {source} to {target}")
    registry = h.registry(h.build(square()))
    v.holds("p" in sr.cast({"p": np.ones((3, 3), np.int8)}, registry, "lossless"), "int8 one fits float32")
    v.passed()


@check("SR-DTYPE-014")
def same_kind_is_decided_for_every_pair(h: Subject, v: Verdict) -> None:
    for source in DTYPES:
        for target in DTYPES:
            given = np.ones(2, numpy_dtype(source))
            fits = _family(source) == _family(target)
            v.equal(
                _accepts(given, target, "same_kind"), fits, f"whether 'same_kind' casts ones of {source} to {target}"
            )
    registry = h.registry(h.build(square()))
    v.holds("p" in sr.cast({"p": np.ones((3, 3), np.float16)}, registry, "same_kind"), "float16 one fits float32")
    v.passed()
