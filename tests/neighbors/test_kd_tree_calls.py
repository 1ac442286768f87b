"""Calls, shapes, refusals, and a life of points that come and go."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paragone.neighbors import KDTree, reference

RNG = np.random.default_rng(0)
POINTS = RNG.random((500, 3))
TREE = KDTree(POINTS)


def test_shapes_are_scipys():
    assert np.ndim(TREE.query(POINTS[0])[0]) == 0
    assert TREE.query(POINTS[0], k=[1])[0].shape == (1,)
    assert TREE.query(POINTS[:6].reshape(2, 3, 3), k=4)[1].shape == (2, 3, 4)
    assert TREE.query(POINTS[:6], k=[2, 5])[1].shape == (6, 2)
    assert np.array_equal(TREE.query(POINTS, k=[3])[1][:, 0], TREE.query(POINTS, k=3)[1][:, 2])
    assert TREE.query(np.empty((0, 3)), k=2)[0].shape == (0, 2)
    assert len(TREE.query_radius(np.empty((0, 3)), 0.1)) == 0
    assert TREE.count(np.empty((0, 3)), 0.1).shape == (0,)
    assert TREE.query_radius(POINTS[0], 0.1).dtype == np.int64
    assert TREE.query_radius(POINTS[:6].reshape(2, 3, 3), 0.1).shape == (2, 3)
    assert TREE.query(POINTS[:4], return_distance=False).tolist() == [0, 1, 2, 3]


def test_few_points():
    empty = KDTree(np.empty((0, 2)))
    assert len(empty) == empty.n == 0
    distances, indices = empty.query([[1.0, 2.0]], k=3)
    assert np.isinf(distances).all()
    assert (indices == 0).all()
    assert empty.count([1.0, 2.0], 9) == 0
    assert empty.query_radius([1.0, 2.0], 9).size == 0
    assert empty.query_pairs(1.0) == set()
    distances, indices = KDTree([[0.0], [1.0]]).query([[0.2]], k=4)
    assert indices.tolist() == [[0, 1, 2, 2]]
    assert np.isinf(distances[0, 2:]).all()


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.float16, np.float32, bool])
def test_types(dtype):
    points = (RNG.random((200, 2)) * 100).astype(dtype)
    tree = KDTree(points)
    kept = np.float32 if dtype in (np.float16, np.float32) else np.float64
    assert tree.dtype == kept
    every = reference.powers(points.astype(kept), points[:9].astype(kept))
    assert np.array_equal(tree.query(points[:9], 4)[1], reference.neighbours(every, 4)[1])


def test_any_memory_layout():
    wide = RNG.random((1000, 6))
    view = wide[::2, ::-2]
    expected = KDTree(view.copy()).query(view[:9].copy(), 3)[1]
    frozen = np.asfortranarray(view)
    frozen.flags.writeable = False
    assert np.array_equal(KDTree(view).query(view[:9], 3)[1], expected)
    assert np.array_equal(KDTree(frozen).query(frozen[:9], 3)[1], expected)


def test_points_are_copied():
    points = POINTS.copy()
    tree = KDTree(points)
    points[:] = 0
    assert np.array_equal(tree.data, POINTS)
    assert np.array_equal(tree.mins, POINTS.min(axis=0))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(bad):
    points = POINTS.copy()
    points[77, 1] = bad
    with pytest.raises(ValueError, match="point 77 holds NaN or infinity"):
        KDTree(points)
    for call in (TREE.query, lambda x: TREE.query_radius(x, 1), lambda x: TREE.count(x, 1)):
        with pytest.raises(ValueError, match="query 77 holds NaN"):
            call(points)
    with pytest.raises(ValueError, match="point 77"):
        KDTree(POINTS).insert(points)
    huge = np.full((9, 3), 1e308)
    assert KDTree(huge).count(huge[0], 0.0) == 9


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: KDTree(POINTS[0]), "shape"),
        (lambda: KDTree(np.empty((3, 0))), "at least one column"),
        (lambda: KDTree([["a"]]), "not real numbers"),
        (lambda: KDTree(POINTS, 0), "leafsize=0"),
        (lambda: KDTree(POINTS, 8, leaf_size=8), "the same"),
        (lambda: KDTree(POINTS, rule="best"), "rule='best'"),
        (lambda: KDTree(POINTS, boxsize=0.5), "outside the box"),
        (lambda: KDTree(POINTS, boxsize=-1), "negative"),
        (lambda: KDTree(POINTS, weights=[1, -1, 1]), "weights"),
        (lambda: TREE.query(POINTS[:, :2]), "give"),
        (lambda: TREE.query(POINTS, k=0), "k=0"),
        (lambda: TREE.query(POINTS, k=1.5), "k=1.5"),
        (lambda: TREE.query(POINTS, p=0.5), "p=0.5"),
        (lambda: TREE.query(POINTS, eps=-1), "eps=-1"),
        (lambda: TREE.query(POINTS, workers=0), "workers=0"),
        (lambda: TREE.query(POINTS, distance_upper_bound=-1), "distance_upper_bound"),
        (lambda: TREE.query_radius(POINTS, np.nan), "radius is NaN"),
        (lambda: TREE.query_radius(POINTS, 1, sort_results=True), "return_distance=True"),
        (lambda: TREE.query_radius(POINTS, 1, output="list"), "output='list'"),
        (lambda: TREE.query_pairs(1, output_type="list"), "output_type"),
        (lambda: TREE.sparse_distance_matrix(TREE, 1, output_type="csc"), "output_type"),
        (lambda: KDTree(POINTS).remove([1, 1]), "twice"),
        (lambda: KDTree(POINTS).remove([500]), "name no point"),
        (lambda: KDTree(POINTS).remove([0.5]), "whole numbers"),
    ],
)
def test_errors_name_value_and_remedy(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_rows_by_distance_and_csr():
    indices, distances = TREE.query_radius(POINTS[:20], 0.3, True, sort_results=True)
    for row, far in zip(indices, distances, strict=True):
        assert (np.diff(far) >= 0).all()
        assert far[0] == 0
        assert len(row) == len(far)
    start, flat = TREE.query_radius(POINTS[:20], 0.3, output="csr")
    assert np.array_equal(np.diff(start), TREE.count(POINTS[:20], 0.3))
    assert np.array_equal(np.sort(indices[3]), flat[start[3] : start[4]])
    assert np.array_equal(TREE.query_radius(POINTS[:20], 0.3, count_only=True), np.diff(start))
    radii = np.linspace(-1, 5, 20)
    each = TREE.query_radius(POINTS[:20], radii)
    assert [len(row) for row in each] == TREE.count(POINTS[:20], radii).tolist()
    assert len(each[0]) == 0
    assert len(each[-1]) == 500
    assert TREE.count(POINTS[0], np.inf) == 500


def test_saved_mapped_and_pickled(tmp_path):
    tree = KDTree(POINTS.astype(np.float32), 8, weights=[1, 2, 3], rule="midpoint")
    tree.insert(POINTS[:100])
    tree.remove(np.arange(50))
    expected = tree.query(POINTS, 5)
    tree.save(tmp_path / "tree")
    for copy in (
        KDTree.load(tmp_path / "tree"),
        KDTree.load(tmp_path / "tree", mmap=False),
        pickle.loads(pickle.dumps(tree)),
    ):
        for a, b in zip(copy.query(POINTS, 5), expected, strict=True):
            assert np.array_equal(a, b)
        assert (copy.leafsize, copy.rule, len(copy), copy.n) == (8, "midpoint", 550, 600)
        copy.remove([60])
        copy.insert(POINTS[:3])
        assert copy.query(POINTS, 5)[1].max() >= 600
    again = KDTree.load(tmp_path / "tree")
    assert np.array_equal(again.query(POINTS, 5)[1], expected[1]), "the file did not change"
    KDTree(np.empty((0, 2))).save(tmp_path / "empty")
    assert len(KDTree.load(tmp_path / "empty")) == 0
    whole = (tmp_path / "tree").read_bytes()
    (tmp_path / "short").write_bytes(whole[:-9])
    with pytest.raises(ValueError, match="cut short"):
        KDTree.load(tmp_path / "short")
    (tmp_path / "other").write_bytes(b"something else")
    with pytest.raises(ValueError, match="no k-d tree"):
        KDTree.load(tmp_path / "other")


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_points_come_and_go(seed):
    rng = np.random.default_rng(seed)
    grid = lambda m: rng.integers(0, 6, (m, 2)).astype(float)  # noqa: E731
    every = grid(int(rng.integers(0, 80)))
    tree = KDTree(every, 4)
    there = np.ones(len(every), bool)
    for _ in range(12):
        if rng.random() < 0.5:
            new = grid(int(rng.integers(0, 40)))
            given_out = tree.insert(new)
            assert np.array_equal(given_out, len(every) + np.arange(len(new)))
            every, there = np.concatenate([every, new]), np.append(there, np.ones(len(new), bool))
        else:
            alive = np.flatnonzero(there)
            gone = rng.choice(alive, int(rng.integers(0, len(alive) // 2 + 1)), replace=False)
            tree.remove(gone)
            there[gone] = False
        queries = grid(9)
        powers = reference.powers(every, queries)
        powers[:, ~there] = np.nan
        assert len(tree) == there.sum()
        k = min(6, int(there.sum()))
        if k:
            expected, names = reference.neighbours(powers, k)
            near, found = tree.query(queries, k=np.arange(1, k + 1))
            assert np.array_equal(found, names)
            assert np.array_equal(near, np.sqrt(expected))
        rows = reference.within(np.sqrt(powers), 2.0)
        found = tree.query_radius(queries, 2.0)
        assert all(np.array_equal(a, b) for a, b in zip(found, rows, strict=True))
        assert np.array_equal(tree.count(queries, 2.0), [len(row) for row in rows])
        assert np.array_equal(tree.data[there], every[there])
    sizes = [part.alive for part in tree._forest.parts]
    assert len(sizes) <= 12
