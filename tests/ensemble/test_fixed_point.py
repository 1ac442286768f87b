"""Derivatives as whole numbers against exact arithmetic, and the sums that hang on them."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from paragone.ensemble import _fixed_point as fixed
from paragone.ensemble._histogram import accumulate, partition, unpack_gradient, unpack_hessian


def derivatives(seed, m, scale=1.0):
    rng = np.random.default_rng(seed)
    return scale * rng.standard_t(2, m), scale * rng.uniform(0, 1, m)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 2, 63, 64, 65, 1009]), st.integers(-280, 280))
@example(0, 1, -277)
@example(0, 1009, -280)
def test_node_sums_are_those_of_exact_arithmetic(seed, m, power):
    g, h = derivatives(seed, m, 10.0**power)
    grid = fixed.measure(g, h)
    left = np.array([1, 0, 0], np.int32)
    leaf = np.random.default_rng(seed).integers(1, 3, m).astype(np.int32)
    sums = fixed.node_sums(leaf, g, h, left, grid)
    for k, rows in ((0, leaf > 0), (1, leaf == 1), (2, leaf == 2)):
        exact = [float(sum(map(Fraction, x[rows].tolist()), Fraction(0))) for x in (g, h)]
        slack = 1e-12 * np.array([np.abs(g).max(), h.max()]) * max(1, rows.sum())
        assert (np.abs(sums[k] - exact) <= slack).all()
    assert grid.size_g == pytest.approx(np.abs(g).sum(), rel=1e-9)
    assert grid.size_h == pytest.approx(h.sum(), rel=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 2, 3, 16]), st.sampled_from([0, 2, 4, 16]))
def test_slices_change_no_bit(seed, threads, bits):
    g, h = derivatives(seed, 1009)
    leaf = np.random.default_rng(seed).integers(0, 5, 1009).astype(np.int32)
    left = np.zeros(5, np.int32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fixed, "SLICE", 10)
        one, many = fixed.measure(g, h), fixed.measure(g, h, threads)
        assert one == many
        a = fixed.quantise(g, h, one, bits, seed)
        b = fixed.quantise(g, h, one, bits, seed, threads)
        assert np.array_equal(a.words, b.words)
        assert a[1:] == b[1:]
        sums = (
            fixed.node_sums(leaf, g, h, left, one),
            fixed.node_sums(leaf, g, h, left, one, threads),
        )
        assert np.array_equal(*sums)


def test_the_comparison_notices_a_slice_left_out(monkeypatch):
    g, h = derivatives(0, 1009)
    whole = fixed.measure(g, h, 2)
    monkeypatch.setattr(fixed, "SLICE", 10)
    monkeypatch.setattr(fixed, "in_slices", lambda work, rows, threads: work(0, 0, rows // 2))
    assert fixed.measure(g, h, 2).size_h != whole.size_h


@pytest.mark.parametrize("m", [1, 65, 4_500_001])
def test_sums_of_words_never_leave_their_half(m):
    # One row holds nearly all of g; h is equal for all: the worst for either half.
    g, h = np.full(m, 1e-3), np.full(m, 0.25)
    g[0] = 1e9
    grid = fixed.measure(g, h)
    for bits in (0, 4):
        packed = fixed.quantise(g, h, grid, bits, 7)
        gradients, hessians = unpack_gradient(packed.words), unpack_hessian(packed.words)
        assert packed.total == packed.words.sum()
        assert unpack_gradient(packed.total) == gradients.sum()
        assert unpack_hessian(packed.total) == hessians.sum() < 2**32
        assert np.abs(gradients).sum() < 2**31
        assert (packed.least, packed.most) == (hessians.min(), hessians.max())


def test_random_rounding_keeps_the_expectation_and_its_bits():
    g, h = np.full(100_000, 0.3), np.full(100_000, 0.2)
    g[0], h[0] = 1.0, 0.25
    packed = fixed.quantise(g, h, fixed.measure(g, h), 3, 5)
    gradients = unpack_gradient(packed.words)
    assert gradients.min() >= 0
    assert gradients.max() <= 4
    assert gradients.mean() * packed.inverse_g == pytest.approx(0.3, rel=0.01)
    assert unpack_hessian(packed.words).mean() * packed.inverse_h == pytest.approx(0.2, rel=0.01)
    other = fixed.quantise(g, h, fixed.measure(g, h), 3, 6)
    assert not np.array_equal(packed.words, other.words)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_derivatives_must_be_finite(bad):
    g, h = derivatives(0, 65)
    g[13] = bad
    with pytest.raises(ValueError, match="not finite"):
        fixed.measure(g, h)
    g[13] = 0.0
    h[64] = abs(bad)
    with pytest.raises(ValueError, match="not finite"):
        fixed.measure(g, h)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10**6), st.sampled_from([1, 63, 64, 65, 1009]), st.sampled_from([1, 3, 8, 13])
)
def test_histograms_and_subtraction_are_exact(seed, m, p):
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 256, (m, p)).astype(np.uint8)
    g, h = derivatives(seed, m)
    words = fixed.quantise(g, h, fixed.measure(g, h)).words
    index, spare, spare_words = np.arange(m, dtype=np.int32), np.empty(m, np.int32), words.copy()
    features, part = np.arange(p, dtype=np.int32), np.empty((0, p * 256), np.int64)
    cells = np.ones((3, p * 256), np.int64)
    accumulate(rows, words, index, 0, m, features, cells[0], part)
    want = np.zeros((p, 256), np.int64)
    for f in range(p):
        np.add.at(want[f], rows[:, f], words)
    assert np.array_equal(cells[0], want.ravel())

    goes_left = rng.integers(0, 2, 256).astype(np.uint8)
    columns, before = np.ascontiguousarray(rows.T), words.copy()
    left = partition(columns[0], goes_left, index, words, spare, spare_words, 0, m, 1)
    side = goes_left[rows[:, 0]] == 1
    assert np.array_equal(index, np.concatenate((np.flatnonzero(side), np.flatnonzero(~side))))
    assert np.array_equal(words, before[index])
    assert left == side.sum()
    accumulate(rows, words, index, 0, left, features, cells[1], part)
    accumulate(rows, words, index, left, m, features, cells[2], part)
    assert np.array_equal(cells[0] - cells[1], cells[2])
    assert (unpack_hessian(cells[0] - cells[1]) <= unpack_hessian(cells[0])).all()
