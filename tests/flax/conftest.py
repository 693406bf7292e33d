"""Flax runs on CPU here. Values are arbitrary bit patterns: NaN payloads, both zeros, subnormals, extremes."""

from __future__ import annotations

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np
import pytest

from stateregistry.entry import DTYPES, numpy_dtype


@pytest.fixture
def bits():
    """A function (dtype name, shape, seed) -> array of random bytes of that dtype, valid for `bool`."""

    def make(dtype="float32", shape=(3, 4), seed=0):
        rng = np.random.default_rng(seed)
        size = int(np.prod(shape, dtype=np.int64)) * DTYPES[dtype]
        raw = rng.integers(0, 2 if dtype == "bool" else 256, size, dtype=np.uint8)
        return raw.view(numpy_dtype(dtype)).reshape(shape)

    return make


@pytest.fixture
def same():
    """A function that holds two arrays equal in shape, dtype and bytes."""

    def check(found, expected):
        found, expected = np.asarray(found), np.asarray(expected)
        assert (found.shape, found.dtype.name) == (expected.shape, expected.dtype.name)
        assert found.tobytes() == expected.tobytes()

    return check
