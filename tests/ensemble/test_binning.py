import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from paragone.ensemble._binning import (
    MISSING_BIN,
    RADIX_ROWS,
    bin_features,
    numeric_edges,
    sort_floats,
)

FLOATS = hnp.arrays(
    np.float32,
    st.integers(1, 80),
    elements=st.floats(-(2.0**100), 2.0**100, width=32)
    | st.sampled_from([float("nan"), 0.0, -0.0, 1.0, float(np.float32(1e-45))]),
)


@settings(max_examples=150, deadline=None)
@given(FLOATS, st.integers(2, 255))
def test_bins_and_thresholds_agree_on_every_row(values, max_bins):
    binned = bin_features(values[:, None], np.array([False]), max_bins)
    known = ~np.isnan(values)
    assert (binned.columns[0][~known] == MISSING_BIN).all()
    assert binned.num_bins[0] <= max_bins
    for b in range(binned.num_bins[0]):
        left = values[known] <= binned.threshold(0, b)
        assert np.array_equal(left, binned.columns[0][known] <= b)


@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 254, 255, 256, 257, 1009])
def test_distinct_values_get_their_own_bins_while_they_fit(n):
    values = np.random.default_rng(n).permutation(n).astype(np.float32) + np.float32(1e6)
    edges = numeric_edges(values, 255)
    assert len(edges) == min(n, 255) - 1
    assert (np.diff(edges) > 0).all()


def test_equal_mass_and_a_frequent_value_does_not_eat_the_bins():
    rng = np.random.default_rng(0)
    values = rng.normal(size=100_000).astype(np.float32)
    binned = bin_features(values[:, None], np.array([False]), 64)
    mass = np.bincount(binned.columns[0], minlength=64)
    assert len(mass) == 64
    assert mass.max() < 1.02 * 100_000 / 64
    values[:90_000] = 0.0
    edges = numeric_edges(values, 64)
    assert len(edges) >= 60


def test_float32_neighbours_are_parted():
    low = np.float32(1.0)
    high = np.nextafter(low, np.float32(2))
    edges = numeric_edges(np.array([low, high, low], np.float32), 255)
    assert edges.tolist() == [low]


def test_extremes_do_not_overflow():
    top = np.finfo(np.float32).max
    edges = numeric_edges(np.array([-top, top], np.float32), 255)
    assert edges.tolist() == [0.0]


def test_weights_move_edges_as_repeated_rows_do():
    rng = np.random.default_rng(1)
    values = rng.normal(size=500).astype(np.float32)
    weight = rng.integers(0, 4, 500)
    repeated = np.repeat(values, weight)
    for max_bins in (7, 32, 255):
        weighted = numeric_edges(values, max_bins, weight.astype(float))
        assert np.array_equal(weighted, numeric_edges(repeated, max_bins))


def test_columns_without_values_and_constant_columns():
    values = np.full((5, 2), np.nan, np.float32)
    values[:, 1] = 3
    binned = bin_features(values, np.zeros(2, bool))
    assert binned.num_bins.tolist() == [1, 1]
    assert (binned.rows[:, 0] == MISSING_BIN).all()
    assert (binned.rows[:, 1] == 0).all()


def test_categories_keep_codes_and_rare_ones_share_the_missing_bin():
    rng = np.random.default_rng(2)
    codes = np.concatenate([np.repeat(np.arange(254), 3), np.arange(254, 300)]).astype(np.float32)
    codes = rng.permutation(codes)
    binned = bin_features(codes[:, None], np.array([True]))
    assert binned.num_categories[0] == 300
    assert binned.num_bins[0] == 254
    assert ((binned.columns[0] == MISSING_BIN) == (codes >= 254)).all()
    kept = codes < 254
    assert np.array_equal(binned.codes[0][binned.columns[0][kept]], codes[kept])


@pytest.mark.parametrize("max_bins", [1, 256])
def test_max_bins_out_of_range_is_named(max_bins):
    with pytest.raises(ValueError, match=f"max_bins={max_bins}"):
        bin_features(np.zeros((3, 1), np.float32), np.array([False]), max_bins)


def test_threads_do_not_change_bins():
    values = np.random.default_rng(3).normal(size=(9001, 33)).astype(np.float32)
    values[::7, 3] = np.nan
    one = bin_features(values, np.zeros(33, bool), 100)
    two = bin_features(values, np.zeros(33, bool), 100, threads=2)
    assert np.array_equal(one.rows, two.rows)
    assert np.array_equal(one.columns, one.rows.T)
    assert np.array_equal(two.columns, one.columns)


@pytest.mark.parametrize("n", [1, 65, RADIX_ROWS - 1, RADIX_ROWS, 10_007])
@pytest.mark.parametrize("digits", [0, 3, 8])
def test_floats_are_sorted(n, digits):
    rng = np.random.default_rng(n)
    scale = rng.choice([1e-44, 1e-30, 1.0, 1e6, 1e37], n)
    values = (np.round(rng.normal(size=n), digits) * scale).astype(np.float32)
    values[rng.random(n) < 0.1] = -0.0
    values[:1], values[1:2] = np.inf, -np.inf
    assert np.array_equal(sort_floats(values), np.sort(values))


def plain_edges(values, max_bins, weight):
    """The module's equation, over an array of distinct values."""
    distinct, place = np.unique(values, return_inverse=True)
    mass = np.bincount(place, weight)
    if len(distinct) > max_bins:
        for _ in range(3):
            mass = np.minimum(mass, mass.sum() / max_bins)
        centre = np.cumsum(mass) - 0.5 * mass
        bins = np.minimum(np.floor(centre * (max_bins / mass.sum())), max_bins - 1)
        low = np.flatnonzero(np.diff(bins))
    else:
        low = np.arange(len(distinct) - 1)
    return distinct[low], distinct[low + 1]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from([1, 2, 64, 65, 1009, RADIX_ROWS + 3]),
    st.sampled_from([2, 16, 255]),
    st.sampled_from([0, 1, 6]),
    st.booleans(),
)
def test_edges_are_those_of_the_equation(seed, n, max_bins, digits, weighted):
    rng = np.random.default_rng(seed)
    values = np.round(rng.normal(size=n), digits).astype(np.float32) + np.float32(0)
    values[rng.random(n) < 0.3] = 0.5
    weight = rng.integers(1, 4, n).astype(float)
    edges = numeric_edges(values, max_bins, weight if weighted else None)
    low, high = plain_edges(values, max_bins, weight if weighted else None)
    assert len(edges) == len(low)
    assert (low <= edges).all()
    assert (edges < high).all()
