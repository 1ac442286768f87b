"""The k-d tree against SciPy's and scikit-learn's, call by call."""

import numpy as np
import pytest
from scipy.spatial import cKDTree
from sklearn.neighbors import KDTree as SklearnTree

from paragone.neighbors import KDTree

pytestmark = pytest.mark.peers

RNG = np.random.default_rng(1)
DATA = {
    "uniform": RNG.random((4000, 3)),
    "clustered": RNG.random((20, 5))[RNG.integers(0, 20, 3000)] + RNG.normal(0, 0.01, (3000, 5)),
    "line": np.linspace(0, 1, 2000)[:, None] * np.ones(3) + RNG.normal(0, 1e-9, (2000, 3)),
    "high": RNG.random((1500, 20)),
}


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("p", [1, 2, np.inf, 2.5])
def test_query_as_scipy(name, p):
    points = DATA[name]
    queries = RNG.random((100, points.shape[1]))
    ours, theirs = KDTree(points), cKDTree(points)
    for options in ({"k": 1}, {"k": 7}, {"k": [2, 4]}, {"k": 9, "distance_upper_bound": 0.2}):
        distances, indices = ours.query(queries, p=p, **options)
        far, names = theirs.query(queries, p=p, **options)
        assert distances.shape == far.shape
        np.testing.assert_allclose(distances, far, rtol=1e-12)
        assert np.array_equal(indices, names)


def test_positional_call_as_scipy():
    points = DATA["uniform"]
    one = KDTree(points, 16).query(points[:9], 3, 0, 1, 0.1, -1)
    two = cKDTree(points, 16).query(points[:9], 3, 0, 1, 0.1, -1)
    assert np.array_equal(one[1], two[1])
    np.testing.assert_allclose(one[0], two[0], rtol=1e-12)


@pytest.mark.parametrize("p", [1, 2, np.inf])
def test_ball_and_pairs_as_scipy(p):
    points, others = DATA["uniform"][:1500], DATA["uniform"][1500:2500]
    ours, theirs = KDTree(points), cKDTree(points)
    two, their_two = KDTree(others), cKDTree(others)
    r = 0.07
    assert ours.query_ball_point(others[0], r, p) == sorted(
        theirs.query_ball_point(others[0], r, p)
    )
    assert ours.query_ball_point(others, r, p).tolist() == (
        theirs.query_ball_point(others, r, p, return_sorted=True).tolist()
    )
    lengths = theirs.query_ball_point(others, r, p, return_length=True)
    assert np.array_equal(ours.query_ball_point(others, r, p, return_length=True), lengths)
    assert ours.query_pairs(r, p) == theirs.query_pairs(r, p)
    pairs = theirs.query_pairs(r, p, output_type="ndarray")
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    assert np.array_equal(ours.query_pairs(r, p, output_type="ndarray"), pairs[order])
    listed = [sorted(row) for row in theirs.query_ball_tree(their_two, r, p)]
    assert ours.query_ball_tree(two, r, p) == listed
    radii = [0.01, 0.05, 0.2]
    for cumulative in (True, False):
        counted = ours.count_neighbors(two, radii, p, cumulative=cumulative)
        expected = theirs.count_neighbors(their_two, radii, p, cumulative=cumulative)
        assert np.array_equal(counted, expected)
    assert ours.count_neighbors(two, 0.1, p) == theirs.count_neighbors(their_two, 0.1, p)
    matrix = theirs.sparse_distance_matrix(their_two, r, p, output_type="coo_matrix").toarray()
    for kind in ("coo_matrix", "dok_matrix"):
        found = ours.sparse_distance_matrix(two, r, p, output_type=kind)
        np.testing.assert_allclose(found.toarray(), matrix, rtol=1e-12)
    table = ours.sparse_distance_matrix(two, r, p, output_type="dict")
    expected = theirs.sparse_distance_matrix(their_two, r, p, output_type="dict")
    assert table.keys() == expected.keys()
    assert len(ours.sparse_distance_matrix(two, r, p, output_type="ndarray")) == len(table)


def test_periodic_box_as_scipy():
    points, queries = RNG.random((2000, 3)), RNG.random((200, 3)) * 4 - 2
    ours, theirs = KDTree(points, boxsize=1.0), cKDTree(points, boxsize=1.0)
    distances, indices = ours.query(queries, 6)
    far, names = theirs.query(queries, 6)
    np.testing.assert_allclose(distances, far, rtol=1e-9)
    assert np.array_equal(indices, names)
    assert ours.query_ball_point(queries, 0.1).tolist() == (
        theirs.query_ball_point(queries, 0.1, return_sorted=True).tolist()
    )


def test_calls_as_scikit_learn():
    points = DATA["clustered"]
    ours, theirs = KDTree(points, leaf_size=20), SklearnTree(points, leaf_size=20)
    options = {"k": 4, "return_distance": True, "sort_results": True, "dualtree": False}
    distances, indices = ours.query(points[:50], **options)
    far, names = theirs.query(points[:50], **options)
    np.testing.assert_allclose(distances, far, atol=1e-12)
    assert np.array_equal(indices, names)
    found, near = ours.query_radius(points[:50], 0.02, return_distance=True, sort_results=True)
    rows, there = theirs.query_radius(points[:50], 0.02, return_distance=True, sort_results=True)
    for a, b, c, e in zip(found, rows, near, there, strict=True):
        assert np.array_equal(a, b)
        np.testing.assert_allclose(c, e, atol=1e-12)
    counted = ours.query_radius(points[:50], 0.02, count_only=True)
    assert np.array_equal(counted, theirs.query_radius(points[:50], 0.02, count_only=True))


def test_real_point_cloud(data_folder):
    cloud = np.load(data_folder / "tabular" / "milk_carton_point_cloud.npz")["xyz"]
    with pytest.raises(ValueError, match="NaN"):
        KDTree(cloud)
    cloud = cloud[np.isfinite(cloud).all(axis=1)]
    queries = cloud[::40]
    far, names = cKDTree(cloud).query(queries, k=5)
    single = KDTree(cloud).query(queries, k=5)[0]
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, far, rtol=1e-4, atol=1e-7)
    distances, indices = KDTree(cloud.astype(np.float64)).query(queries, k=5)
    np.testing.assert_allclose(distances, far, rtol=1e-12)
    # A scan has equal distances: another index is as near, but never a nearer one is missed.
    wide = cloud.astype(np.float64)
    reached = np.linalg.norm(wide[indices] - wide[::40][:, None], axis=-1)
    np.testing.assert_allclose(reached, far, rtol=1e-12)
    assert (indices == names)[np.diff(far, prepend=-1) > 0].mean() > 0.9
