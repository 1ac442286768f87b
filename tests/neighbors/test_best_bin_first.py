"""The forest: exact when it may look everywhere, good when it may not, the same on every run."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paragone.neighbors import KDForest, KDTree
from paragone.neighbors._forest import Forest
from paragone.neighbors.best_bin_first import search
from paragone.neighbors.brute import BruteForce


def recall(found, true):
    return np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, true, strict=True)])


def leaves(forest):
    """Rows of each leaf, tree by tree, read from the nodes."""
    ends = [*forest.roots[1:], len(forest.nodes)]
    for first, last in zip(forest.roots, ends, strict=True):
        nodes = forest.nodes[first:last]
        yield [forest.order[b:e] for j, _, b, e in nodes if j < 0]


@pytest.mark.parametrize("n", [0, 1, 2, 8, 9, 63, 64, 65, 1009])
@pytest.mark.parametrize("kind", ["normal", "grid", "equal", "exponential"])
def test_every_tree_holds_every_point_once(n, kind):
    rng = np.random.default_rng(n)
    points = {
        "normal": rng.normal(size=(n, 5)), "grid": rng.integers(0, 2, (n, 5)).astype(float),
        "equal": np.ones((n, 5)), "exponential": np.exp(20 * rng.normal(size=(n, 5))),
    }[kind]  # fmt: skip
    for tree in leaves(Forest(points, trees=3, leafsize=4)):
        assert sorted(np.concatenate(tree).tolist()) == list(range(n))
        assert max(map(len, tree)) <= 4


@pytest.mark.parametrize("p", [1.0, 2.0, 3.5, np.inf])
@pytest.mark.parametrize("kind", [np.uint8, np.float32, np.float64])
def test_exact_when_all_points_may_be_checked(kind, p):
    rng = np.random.default_rng(0)
    points, x = (rng.integers(0, 9, (size, 6)).astype(kind) for size in (501, 40))
    distance, index = Forest(points, trees=2).query(x, 9, 501, p)
    true = BruteForce(points).query(x, 9, p)
    np.testing.assert_array_equal(index, true[1])
    np.testing.assert_allclose(distance, true[0], rtol=1e-12)


@pytest.mark.parametrize("checks", [1, 7, 64, 10_000])
def test_distances_are_true_and_pads_are_those_of_scipy(checks):
    rng = np.random.default_rng(1)
    points, x = rng.normal(size=(30, 40)), rng.normal(size=(11, 40))
    distance, index = KDForest(points).query(x, k=33, checks=checks, method="forest")
    assert (index[:, 30:] == 30).all()
    assert np.isinf(distance[:, 30:]).all()
    gaps = np.linalg.norm(points[index[:, :30]] - x[:, None], axis=2)
    np.testing.assert_allclose(distance[:, :30], gaps, rtol=1e-12)
    assert (np.diff(distance[:, :30]) >= 0).all()
    assert all(len(set(row)) == 30 for row in index[:, :30].tolist())


def test_looks_at_no_more_points_than_allowed():
    """With k = checks the answer is all that was looked at: its number is the bound."""
    rng = np.random.default_rng(2)
    points = rng.normal(size=(1000, 30))
    index = Forest(points).query(points[:20], 100, 50)[1]
    assert ((index < 1000).sum(axis=1) == 100).all()  # at least k are looked at
    index = Forest(points, leafsize=64).query(points[:20], 3, 3)[1]
    assert (index < 1000).all()


def test_precision_on_descriptors(sift_like):
    """FLANN's own bar: four trees, 256 checks, precision at 3 of 0.75."""
    points, x = sift_like
    true = BruteForce(points).query(x, 3)[1]
    forest = Forest(points)
    found = {checks: recall(forest.query(x, 3, checks)[1], true) for checks in (64, 256, 1024)}
    assert found[256] >= 0.75
    assert found[64] < found[256] < found[1024]


def test_more_trees_find_more(sift_like):
    points, x = sift_like
    true = BruteForce(points).query(x, 10)[1]
    few, many = (
        np.mean([recall(Forest(points, trees, 8, s).query(x, 10, 128)[1], true) for s in range(3)])
        for trees in (1, 6)
    )
    assert many > few


def test_seed_threads_batches_and_layout(sift_like):
    points, x = sift_like[0][:3000], sift_like[1][:90]
    one = Forest(points, workers=1).query(x, 4, 60, workers=1)
    for other in (
        Forest(points, workers=2).query(x, 4, 60, workers=2),
        Forest(np.repeat(points, 2, axis=1)[:, ::2]).query(x, 4, 60),
    ):
        np.testing.assert_array_equal(one, other)
    parts = [Forest(points).query(x[i : i + 7], 4, 60) for i in range(0, 90, 7)]
    np.testing.assert_array_equal(one, np.concatenate(parts, axis=1))
    other = Forest(points, random_state=1).query(x, 4, 60)[1]
    assert (one[1] != other).any()


def test_bytes_and_floats_find_the_same(sift_like):
    points, x = sift_like[0][:2000], sift_like[1][:50]
    a = Forest(points).query(x, 3, 100)
    b = Forest(points.astype(np.float32)).query(x.astype(np.float32), 3, 100)
    assert recall(a[1], b[1]) > 0.9  # axes differ by rounding, so a few visits do
    np.testing.assert_array_equal(a[0][a[1] == b[1]], b[0][a[1] == b[1]])


@given(st.integers(1, 80), st.integers(1, 40), st.integers(1, 5), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_any_shape(n, d, trees, seed):
    rng = np.random.default_rng(seed)
    points, x = rng.integers(-2, 3, (n, d)) + 0.5, rng.integers(-2, 3, (5, d)) * 1.0
    found = Forest(points, trees, 1, seed).query(x, 3, n)
    np.testing.assert_array_equal(found[1], BruteForce(points).query(x, 3)[1])


def test_an_offset_of_a_million():
    rng = np.random.default_rng(3)
    points, x = rng.normal(size=(2000, 20)), rng.normal(size=(50, 20))
    near = Forest(points).query(x, 3, 100)[1]
    far = Forest(points + 2.0**20).query(x + 2.0**20, 3, 100)[1]
    assert recall(near, far) > 0.95


def test_order_of_visits_matters(sift_like, monkeypatch):
    """The planted bug: bins in the order of the tree, not of their distance. Recall drops."""
    points, x = sift_like[0], sift_like[1][:100]
    true = BruteForce(points).query(x, 3)[1]
    forest = Forest(points)
    good = recall(forest.query(x, 3, 200)[1], true)
    forest.axes = np.ascontiguousarray(forest.axes[::-1])  # queries land in the wrong bins
    assert recall(forest.query(x, 3, 200)[1], true) < good / 2


class TestWithTree:
    def test_query_with_checks(self):
        rng = np.random.default_rng(4)
        points, x = rng.normal(size=(4000, 24)), rng.normal(size=(60, 24))
        tree = KDTree(points)
        true = tree.query(x, k=5)
        np.testing.assert_array_equal(tree.query(x, k=5, checks=4000)[1], true[1])
        some = tree.query(x, k=5, checks=400)
        assert 0.3 < recall(some[1], true[1]) < 1.0
        np.testing.assert_array_equal(some, tree.query(x, k=5, checks=400, workers=2))

    def test_points_added_and_removed(self):
        rng = np.random.default_rng(5)
        points, x = rng.normal(size=(300, 4)), rng.normal(size=(20, 4))
        tree = KDTree(points)
        tree.query(x, checks=300)
        tree.remove(tree.query(x, k=1)[1][:1])
        tree.insert(x[:3])
        tree.remove([17, 4])
        for k in (2, 310):
            exact, found = tree.query(x, k=k), tree.query(x, k=k, checks=400)
            np.testing.assert_array_equal(found[1], exact[1])
            np.testing.assert_allclose(found[0], exact[0], rtol=1e-12)

    @pytest.mark.parametrize("p", [1.0, 2.0, 3.0, np.inf])
    def test_weights(self, p):
        rng = np.random.default_rng(6)
        points, x = rng.normal(size=(300, 4)), rng.normal(size=(20, 4))
        tree = KDTree(points, weights=[0.0, 1.0, 2.0, 9.0])
        exact, found = (tree.query(x, k=3, p=p, checks=c) for c in (None, 300))
        np.testing.assert_array_equal(found[1], exact[1])
        np.testing.assert_allclose(found[0], exact[0], rtol=1e-12)

    def test_periodic_box_is_refused(self):
        tree = KDTree(np.random.default_rng(7).random((50, 2)), boxsize=1.0)
        with pytest.raises(ValueError, match="periodic"):
            tree.query([[0.5, 0.5]], checks=10)

    def test_kept_with_the_tree(self):
        tree = KDTree(np.random.default_rng(8).random((500, 9)))
        first = search(tree, tree.data[:5], 2, 40)
        kept = tree._best_bin_first
        search(tree, tree.data[:5], 2, 40)
        assert tree._best_bin_first is kept
        again = pickle.loads(pickle.dumps(tree)).query(tree.data[:5], k=2, checks=40)
        np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: KDForest([[np.nan]]), "NaN"),
        (lambda: KDForest([[np.inf]]), "infinity"),
        (lambda: KDForest([1.0, 2.0]), "shape"),
        (lambda: KDForest([["a"]]), "numbers"),
        (lambda: KDForest(np.empty((3, 0))), "no columns"),
        (lambda: KDForest([[1.0]], trees=0), "trees=0"),
        (lambda: KDForest([[1.0]], leafsize=1.5), "leafsize=1.5"),
        (lambda: KDForest([[1.0]]).query([[1.0, 2.0]]), "x has shape"),
        (lambda: KDForest([[1.0]]).query([[np.nan]]), "x contains NaN"),
        (lambda: KDForest([[1.0]]).query([[1.0]], k=0), "k=0"),
        (lambda: KDForest([[1.0]]).query([[1.0]], checks=0), "checks=0"),
        (lambda: KDForest([[1.0]]).query([[1.0]], p=0.5), "p=0.5"),
        (lambda: KDForest([[1.0]]).query([[1.0]], method="best"), "method='best'"),
        (lambda: KDForest([[1.0]]).query([[1.0]], None, None), "k=None"),
        (lambda: KDForest([[1.0]]).query([[1.0]], checks=None, method="forest"), "approximate"),
        (lambda: KDForest([[1.0]]).query([[1.0]], workers=0), "workers=0"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_inputs_of_every_kind():
    points = np.arange(12).reshape(6, 2)
    for kind in (np.int8, np.int64, np.float16, np.float32, bool):
        forest = KDForest(points.astype(kind))
        assert forest.query(points[3].astype(kind))[1].shape == (1,)
    wide = np.repeat(points * 1.0, 2, axis=1)[:, ::2]
    np.testing.assert_array_equal(
        KDForest(wide).query(wide, 2)[1], KDForest(points).query(wide, 2)[1]
    )
    assert KDForest(points).query(np.empty((0, 2)), k=4)[1].shape == (0, 4)
    again = pickle.loads(pickle.dumps(KDForest(points)))
    np.testing.assert_array_equal(again.query(wide, 2)[1], KDForest(points).query(wide, 2)[1])


@pytest.mark.peers
def test_same_precision_as_hnswlib_at_enough_checks(sift_like):
    hnswlib = pytest.importorskip("hnswlib")
    points, x = sift_like
    index = hnswlib.Index("l2", 128)
    index.init_index(len(points), random_seed=1)
    index.add_items(points.astype(np.float32), num_threads=1)
    index.set_ef(200)
    theirs, gaps = index.knn_query(x.astype(np.float32), 1, num_threads=1)
    distance, ours = KDForest(points).query(x, 1, checks=None)
    same = ours == theirs
    assert same.mean() > 0.97
    np.testing.assert_allclose(distance[same] ** 2, gaps[same], rtol=1e-5)
