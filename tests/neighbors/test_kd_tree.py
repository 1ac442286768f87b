"""The k-d tree against the sorted brute-force search, bit for bit."""

import numpy as np
import pytest

from paragone.neighbors import KDTree, reference

METRICS = (2.0, 1.0, np.inf)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("rule", ["median", "midpoint"])
@pytest.mark.parametrize(("n", "d"), [(1000, 3), (20_000, 2), (300, 130)])
def test_neighbours_are_those_of_brute_force(n, d, rule, dtype):
    rng = np.random.default_rng(n)
    points, queries = rng.random((n, d)).astype(dtype), rng.random((50, d)).astype(dtype)
    points[: n // 2] = np.round(points[: n // 2], 1)
    tree = KDTree(points, 16, rule=rule)
    for p in METRICS:
        every = reference.distances(points, queries, p)
        distances, indices = tree.query(queries, k=10, p=p)
        expected, names = reference.neighbours(every, 10)
        assert np.array_equal(indices, names)
        assert np.array_equal(distances, expected)
        radius = float(np.median(every)) / 2
        rows = reference.within(every, radius)
        found = tree.query_radius(queries, radius, p=p)
        assert all(np.array_equal(a, b) for a, b in zip(found, rows, strict=True))
        assert np.array_equal(tree.count(queries, radius, p=p), [len(row) for row in rows])
