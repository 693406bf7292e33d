"""Checks of chapter 8 on what a write takes: by value, whatever its form, and nothing that is no array."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

import stateregistry as sr
from stateregistry import errors
from stateregistry_conformance.check import check
from stateregistry_conformance.declaration import Declaration
from stateregistry_conformance.samples import (
    buffer,
    core,
    large,
    others,
    parameter,
    scribble,
    shapes,
    square,
    values,
)

if TYPE_CHECKING:
    from stateregistry_conformance.subject import Subject
    from stateregistry_conformance.verdict import Verdict


class _Offering:
    """An object that is no array and offers `__array__`."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self._array, dtype=dtype)


class _Subclass(np.ndarray):
    """An array of a type of its own."""


@check("SR-WRITE-011")
def values_are_copied(h: Subject, v: Verdict) -> None:
    for declaration in (core(), large(), shapes()):
        for name in ("replace", "load"):
            registry = h.registry(h.build(declaration))
            given = others(declaration)
            registry = registry.replace(given) if name == "replace" else sr.load(registry, given)
            for array in given.values():
                scribble(array)
            found = h.peek_all(registry.unwrap(), declaration)
            v.same_state(
                found, others(declaration), f"native values after {name}, when the caller's arrays were spoilt"
            )
    v.passed()


@check("SR-WRITE-011")
def a_registry_that_was_loaded_from_shares_nothing(h: Subject, v: Verdict) -> None:
    for declaration in (core(), large()):
        source_model = h.build(declaration)
        target = sr.load(h.registry(h.build(declaration)), h.registry(source_model))
        for key, value in others(declaration).items():
            source_model = h.poke(source_model, key, value)
        found = h.peek_all(target.unwrap(), declaration)
        v.same_state(found, declaration.values(), "native values of the target after native writes to the source")
    v.passed()


@check("SR-WRITE-012")
def values_are_taken_whatever_their_form(h: Subject, v: Verdict) -> None:
    declaration = Declaration((parameter("p", (4, 4)), buffer("b", (4, 4)), parameter("s", ()), buffer("e", (0, 3))))
    base = values("base", (8, 8))
    read_only = values("read only", (4, 4))
    read_only.flags.writeable = False
    forms: dict[str, np.ndarray | Any] = {
        "Fortran order": np.asfortranarray(values("f", (4, 4))),
        "a transpose": values("t", (4, 4)).T,
        "every second": base[::2, ::2],
        "negative strides": base[3::-1, 7:3:-1],
        "zero strides": np.broadcast_to(values("z", (4,)), (4, 4)),
        "the foreign byte order": values("e", (4, 4)).astype(np.dtype(np.float32).newbyteorder("S")),
        "a foreign transpose": values("ft", (4, 4)).astype(np.dtype(np.float32).newbyteorder("S")).T,
        "read-only memory": read_only,
        "an object with __array__": _Offering(values("o", (4, 4))),
        "a subclass of ndarray": values("m", (4, 4)).view(_Subclass),
        "unaligned memory": _unaligned(values("u", (4, 4))),
    }
    for name, form in forms.items():
        expected = np.array(form, dtype=np.float32, order="C")
        for key in ("p", "b"):
            registry = h.registry(h.build(declaration)).replace({key: form})
            v.same(h.peek(registry.unwrap(), key), expected, f"native value of {key!r} after {name}")
    _slices_of_every_rank(h, v)
    registry = h.registry(h.build(declaration)).replace({"s": np.float32(2.5), "e": np.zeros((0, 3), np.float32)})
    v.same(h.peek(registry.unwrap(), "s"), np.array(2.5, np.float32), "native value after a scalar of NumPy")
    v.passed()


@check("SR-WRITE-012")
def any_dtype_is_taken_in_the_foreign_byte_order(h: Subject, v: Verdict) -> None:
    # The dtypes of ml_dtypes know one order only, and those of one byte have none.
    declaration = h.rich()
    plain = {key: value for key, value in others(declaration).items() if value.dtype.kind in "iufc"}
    foreign = {k: x.astype(x.dtype.newbyteorder("S")) for k, x in plain.items() if x.dtype.itemsize > 1}
    for name, step in (("as it is", 1), ("reversed", -1)):
        given = {key: value[::step] if value.ndim else value for key, value in foreign.items()}
        registry = h.registry(h.build(declaration)).replace(given)
        for key in foreign:
            expected = plain[key][::step] if plain[key].ndim else plain[key]
            v.same(h.peek(registry.unwrap(), key), expected, f"native value of {key!r} given swapped, {name}")
    v.passed()


def _slices_of_every_rank(h: Subject, v: Verdict) -> None:
    declaration = Declaration(
        (parameter("line", (4,)), buffer("cube", (2, 3, 4)), parameter("narrow", (4,), "float16"))
    )
    line, cube = values("long", (9,)), values("large", (5, 7, 9))
    forms = {
        "every second of a vector": ("line", line[::2][:4]),
        "the end of a vector": ("line", line[5:]),
        "a vector reversed": ("line", line[3::-1]),
        "one number repeated": ("line", np.broadcast_to(line[2], (4,))),
        "every third of a vector of float16": ("narrow", values("narrow", (12,), "float16")[::3]),
        "a corner of a cube": ("cube", cube[1:3, 2:5, 3:7]),
        "a coarse cube": ("cube", cube[::4, ::3, ::2][:, :, :4]),
        "a cube with its axes exchanged": ("cube", values("exchanged", (4, 2, 3)).transpose(1, 2, 0)),
        "a cube in Fortran order": ("cube", np.asfortranarray(values("fortran", (2, 3, 4)))),
    }
    for name, (key, form) in forms.items():
        expected = np.array(form, order="C", copy=True)
        registry = h.registry(h.build(declaration)).replace({key: form})
        v.same(h.peek(registry.unwrap(), key), expected, f"native value of {key!r} after {name}")


def _unaligned(array: np.ndarray) -> np.ndarray:
    raw = np.zeros(array.nbytes + 1, np.uint8)
    raw[1:] = np.frombuffer(array.tobytes(), np.uint8)
    return raw[1:].view(array.dtype).reshape(array.shape)


@check("SR-WRITE-013")
def what_is_no_array_is_invalid(h: Subject, v: Verdict) -> None:
    declaration = square()
    good = values("good", (3, 3))
    wrong: dict[str, Any] = {
        "a text": "weights",
        "an array of texts": np.array([["a"] * 3] * 3),
        "an array of objects": np.array([[None] * 3] * 3, object),
        "a ragged list": [[1.0, 2.0], [3.0]],
        "None": None,
        "a number as text": "2.5",
        "a number as bytes": b"2.5",
        "numbers as text": [["1", "2", "3"]] * 3,
        "dates": np.zeros((3, 3), "datetime64[s]"),
        "records": np.zeros((3, 3), [("a", "f4")]),
        "a dict": {"a": 1.0},
        "a set": {1.0, 2.0},
        "a generator": (float(number) for number in range(9)),
        "spans of time": np.zeros((3, 3), "timedelta64[s]"),
        "the bytes of an array": good.tobytes(),
        "raw memory": np.zeros((3, 3), "V4"),
    }
    if np.dtype(np.longdouble).name not in {"float64", "float32"}:
        wrong["numbers that are wider than any dtype"] = good.astype(np.longdouble)
    for name, value in wrong.items():
        for given in ({"p": value}, {"q": good, "p": value}, {"p": value, "q": good}):
            model = h.build(declaration)
            registry = h.registry(model)
            error = v.refusal(partial(registry.replace, given), errors.MismatchError, f"replace by {name}")
            v.equal(v.report(error).invalid, ("p",), f"report.invalid after {name}")
            v.same_state(h.peek_all(model, declaration), declaration.values(), f"native values after {name}")
    for key in (3, None, ("p",), b"p"):
        model = h.build(declaration)
        registry = h.registry(model)
        keyed: dict[Any, Any] = {"q": good, key: good}
        error = v.refusal(partial(registry.replace, keyed), errors.MismatchError, f"replace of the key {key!r}")
        v.equal(len(v.report(error).invalid), 1, f"number of keys in report.invalid after the key {key!r}")
        v.same_state(h.peek_all(model, declaration), declaration.values(), f"native values after the key {key!r}")
    v.passed()


@check("SR-WRITE-013")
def writing_opaque_state_is_invalid(h: Subject, v: Verdict) -> None:
    specimen = h.specimen("opaque")
    assert specimen.declaration is not None
    registry = h.registry(specimen.model)
    for key in specimen.keys:
        given = {**others(specimen.declaration), key: values(key, (3, 3))}
        error = v.refusal(partial(registry.replace, given), errors.MismatchError, f"replace of the opaque key {key!r}")
        v.equal(v.report(error).invalid, (key,), f"report.invalid after the opaque key {key!r}")
    native = h.peek_all(specimen.model, specimen.declaration)
    v.same_state(native, specimen.declaration.values(), "native values after opaque keys")
    v.passed()
