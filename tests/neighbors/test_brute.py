"""Brute force by product is the definition: index for index, on all that makes it cancel."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from paragone.neighbors import brute as module
from paragone.neighbors.brute import BruteForce


def definition(points, x, k, p=2.0):
    """Distances by SciPy's double loop, ties (before the root) by lowest index, padded."""
    n = len(points)
    metric = {2.0: ("sqeuclidean", {}), np.inf: ("chebyshev", {})}.get(p, ("minkowski", {"p": p}))
    far = cdist(x.astype(float), points.astype(float), metric[0], **metric[1])
    order = np.argsort(far, axis=1, kind="stable")[:, :k]
    distance = np.full((len(x), k), np.inf)
    index = np.full((len(x), k), n)
    distance[:, : min(k, n)] = np.take_along_axis(far, order, 1)
    index[:, : min(k, n)] = order
    return np.sqrt(distance) if p == 2.0 else distance, index


def assert_defined(points, x, k, p=2.0, workers=1):
    distance, index = BruteForce(points).query(x, k, p, workers)
    true, order = definition(points, x, k, p)
    np.testing.assert_array_equal(index, order)
    np.testing.assert_allclose(distance, true, rtol=1e-14)


@pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 127, 2048, 2049])
@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, np.inf])
def test_sizes(n, p):
    rng = np.random.default_rng(n)
    assert_defined(rng.normal(size=(n, 5)), rng.normal(size=(67, 5)), 7, p)


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.uint8])
@pytest.mark.parametrize("d", [1, 2, 127, 300])
def test_kinds_and_widths(kind, d):
    rng = np.random.default_rng(d)
    points, x = (rng.uniform(0, 255, (size, d)).astype(kind) for size in (701, 65))
    assert_defined(points, x, 10)


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e30])
@pytest.mark.parametrize("offset", [0.0, 1.0, 1e6, -1e9])
def test_cancellation_does_not_reorder(offset, scale):
    """|x|^2 + |y|^2 - 2 x.y in float32 has no true digit here; the bound must still hold."""
    rng = np.random.default_rng(1)
    points, x = rng.normal(size=(3001, 3)), rng.normal(size=(64, 3))
    assert_defined((points + offset) * scale, (x + offset) * scale, 9)


def test_grids_are_all_ties():
    rng = np.random.default_rng(2)
    assert_defined(rng.integers(0, 5, (2500, 3)), rng.integers(0, 5, (70, 3)), 40)


def test_clusters_an_outlier_and_far_queries():
    rng = np.random.default_rng(3)
    points = np.concatenate([c + 1e-7 * rng.normal(size=(400, 4)) for c in (0.0, 1.0, 1e3)])
    points[7] = 1e8
    x = np.concatenate([points[::97] + 1e-8, [[1e8] * 4, [-1e15] * 4, [1e18, 0, 0, 0]]])
    assert_defined(points, x, 12)


def test_equal_points():
    assert_defined(np.full((5000, 2), 7.1), np.full((3, 2), 7.1), 11)


@given(st.integers(1, 90), st.integers(1, 9), st.integers(1, 30), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_any_shape(n, d, k, seed):
    rng = np.random.default_rng(seed)
    assert_defined(rng.integers(-3, 4, (n, d)) / 7, rng.integers(-3, 4, (9, d)) / 7, k)


@pytest.mark.parametrize("p", [1.0, 2.0])
def test_threads_and_batches_do_not_matter(p):
    rng = np.random.default_rng(4)
    engine, x = BruteForce(rng.random((4100, 20))), rng.random((301, 20))
    one = engine.query(x, 5, p, 1)
    for other in (engine.query(x, 5, p, 2), engine.query(x, 5, p, -1)):
        np.testing.assert_array_equal(one, other)
    parts = [engine.query(x[i : i + 17], 5, p, 1) for i in range(0, len(x), 17)]
    np.testing.assert_array_equal(one, np.concatenate(parts, axis=1))


def test_a_bound_too_tight_is_caught(monkeypatch):
    """The planted bug: no allowance for rounding. The oracle sees neighbours go missing."""
    rng = np.random.default_rng(5)
    points = 1e-6 * rng.normal(size=(3000, 8)) + rng.choice([-1.0, 1.0], (3000, 1))
    x = points[:50] + 1e-8
    true = definition(points, x, 5)[1]
    np.testing.assert_array_equal(BruteForce(points).query(x, 5)[1], true)
    monkeypatch.setattr(module, "_UNIT", 0.0)
    assert (BruteForce(points).query(x, 5)[1] != true).any()
