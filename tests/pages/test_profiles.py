"""Profiles: every finite value is counted once, and the sizes of slices are what NumPy says of the whole array."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stateregistry.pages import sparks
from stateregistry.tools import profiles
from stateregistry.tools.profiles import BINS, pair_counts, profile


@given(
    hnp.arrays(
        st.sampled_from([np.float16, np.float32, np.float64, np.int64, np.uint8, np.bool_, np.complex64]),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6),
    )
)
def test_every_finite_value_is_counted_once(array):
    found = profile(array)
    assert sum(found.counts) == found.statistics.finite
    assert len(found.counts) in {0, 1, BINS}
    assert [axis.length for axis in found.axes] == [size for size in array.shape if size > 1][:4] or not found.counts


def test_the_sizes_of_slices_are_those_of_the_whole():
    array = np.random.default_rng(0).standard_normal((7, 1, 130, 3)) * 1e3
    array[2] = 0
    found = profile(array)
    assert [axis.number for axis in found.axes] == [0, 2, 3]
    for axis in found.axes:
        others = tuple(other for other in range(4) if other != axis.number)
        sizes = np.sqrt(np.square(array).mean(axis=others))
        groups = np.array_split(sizes, min(96, len(sizes)))
        assert axis.low == pytest.approx([group.min() for group in groups])
        assert axis.mean == pytest.approx([group.mean() for group in groups])
        assert axis.high == pytest.approx([group.max() for group in groups])
        assert axis.zero == np.count_nonzero(sizes == 0)
    assert found.axes[0].zero == 1


@pytest.mark.parametrize("block", [1, 5, 64, 1000])
def test_blocks_change_nothing(monkeypatch, block):
    array = np.random.default_rng(1).standard_normal((6, 5, 4, 3)).astype(np.float32)
    whole = profile(array)
    monkeypatch.setattr(profiles, "BLOCK", block)
    split = profile(array)
    assert split.counts == whole.counts
    for one, two in zip(split.axes, whole.axes, strict=True):
        assert one.mean == pytest.approx(two.mean)


def test_no_block_is_larger_than_it_may_be(monkeypatch):
    monkeypatch.setattr(profiles, "BLOCK", 50)
    array = np.zeros((3, 40, 2, 20))
    parts = list(profiles._boxes(array))
    assert max(part.size for _, part in parts) <= 50
    assert sum(part.size for _, part in parts) == array.size


@pytest.mark.parametrize(
    "array",
    [
        np.array([1e308, -1e308, 0.0]), np.array([np.nan, np.inf, 1.0, 2.0]), np.array([5e-324, 0.0]),
        np.array([1.0, 2.0], ml_dtypes.bfloat16), np.array([1.5, 2.0], ml_dtypes.float8_e4m3fn),
    ],
)  # fmt: skip
def test_extremes_are_calm(array):
    found = profile(array)
    assert sum(found.counts) == found.statistics.finite
    assert np.isfinite([*found.axes[0].high]).all()
    assert "nan" not in sparks.histogram(found) + "".join(map(sparks.slices, found.axes))


def test_outliers_are_counted_at_the_ends():
    array = np.concatenate([np.random.default_rng(2).standard_normal(100_000), [1000.0, -1000.0]])
    found = profile(array)
    assert found.high < 100
    assert found.counts[0] >= 1
    assert found.counts[-1] >= 1
    assert max(found.counts) < 50_000


def test_two_histograms_have_one_range():
    first, second = np.arange(10.0), np.arange(10.0) + 100
    one, two = pair_counts(first, second)
    assert sum(one) == sum(two) == 10
    assert max(n for n, count in enumerate(one) if count) < min(n for n, count in enumerate(two) if count)
    assert pair_counts(np.array([np.nan]), second) == ((), ())
