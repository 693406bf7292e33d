"""Entry: metadata as a value that says what it cannot be, and dtypes by name."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest

from stateregistry import errors
from stateregistry.entry import DTYPES, Entry, Kind, dtype_name, numpy_dtype


def test_tag_and_inferred_do_not_count_and_everything_else_does() -> None:
    entry = Entry(Kind.PARAMETER, (2, 3), "float32", trainable=True, tag="weight")
    assert entry == dataclasses.replace(entry, tag="kernel", inferred=True)
    assert hash(entry) == hash(dataclasses.replace(entry, tag="kernel", inferred=True))
    for change in (
        {"kind": Kind.BUFFER, "trainable": False},
        {"shape": (3, 2)},
        {"dtype": "float16"},
        {"trainable": False},
        {"persistent": False},
        {"concrete": False},
        {"rng": True},
    ):
        assert dataclasses.replace(entry, **change) != entry  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [(Kind.BUFFER, "float32"), (Kind.PARAMETER, "int64"), (Kind.PARAMETER, "bool"), (Kind.BUFFER, "bool")],
)
def test_what_cannot_be_trained_cannot_be_trainable(kind: Kind, dtype: str) -> None:
    with pytest.raises(errors.KindError):
        Entry(kind, (), dtype, trainable=True)
    assert not Entry(kind, (), dtype).can_train


@pytest.mark.parametrize("dtype", [d for d in DTYPES if "float" in d or "complex" in d])
def test_parameters_of_floating_and_complex_dtypes_can_be_trained(dtype: str) -> None:
    assert Entry(Kind.PARAMETER, (), dtype, trainable=True).can_train


@pytest.mark.parametrize("dtype", ["float128", "F32", "torch.float32", "object", "", "int4", "complex32"])
def test_an_unknown_dtype_is_refused(dtype: str) -> None:
    with pytest.raises(errors.DtypeError):
        Entry(Kind.BUFFER, (), dtype)
    with pytest.raises(errors.DtypeError):
        numpy_dtype(dtype)


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        Entry(Kind.BUFFER, (2, -1), "float32")


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_has_its_size_and_its_name_back(dtype: str) -> None:
    found = numpy_dtype(dtype)
    assert found.itemsize == DTYPES[dtype]
    assert dtype_name(found) == dtype
    assert dtype_name(found.newbyteorder("S")) == dtype


def test_sizes_are_those_of_the_shape() -> None:
    assert (Entry(Kind.BUFFER, (), "float64").size, Entry(Kind.BUFFER, (), "float64").nbytes) == (1, 8)
    assert (Entry(Kind.BUFFER, (3, 0), "float64").size, Entry(Kind.BUFFER, (3, 0), "float64").nbytes) == (0, 0)
    assert Entry(Kind.BUFFER, (2**40, 2**40), "float64").nbytes == 2**83


def test_a_dtype_that_no_registry_holds_has_no_name() -> None:
    assert dtype_name(np.dtype(object)) is None
    assert dtype_name(np.dtype("U3")) is None
    assert dtype_name(np.dtype("datetime64[s]")) is None


def test_an_entry_survives_pickling() -> None:
    entry = Entry(Kind.PARAMETER, (2,), "bfloat16", trainable=True, tag="x")
    assert pickle.loads(pickle.dumps(entry)) == entry
