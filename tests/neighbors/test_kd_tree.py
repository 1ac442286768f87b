"""The k-d tree against the sorted brute-force search, bit for bit."""

import mmap

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paragone.neighbors import KDTree, _query, _simd, reference
from paragone.neighbors._dynamic import Forest

METRICS = (2.0, 1.0, np.inf)


def check(tree, points, queries, k, p=2.0, weights=None, boxsize=None):
    """Holds k neighbours, rows and counts to the definition; indices and distances exactly."""
    powers = reference.powers(points, queries, p, weights, boxsize)
    expected, names = reference.neighbours(powers, k)
    every, expected = reference.root(powers, p), reference.root(expected, p)
    distances, indices = tree.query(queries, k=np.arange(1, k + 1), p=p)
    assert np.array_equal(indices, names)
    assert np.array_equal(distances, expected)
    assert distances.dtype == points.dtype
    radius = float(np.median(every)) / 2
    for r in (radius, float(every.flat[0]), 0.0):
        rows = reference.within(every, r)
        found, there = tree.query_radius(queries, r, return_distance=True, p=p)
        assert all(np.array_equal(a, b) for a, b in zip(found, rows, strict=True))
        for row, far, near in zip(rows, every, there, strict=True):
            assert np.array_equal(far[row], near)
        assert np.array_equal(tree.count(queries, r, p=p), [len(row) for row in rows])


def clustered(rng, n, d):
    centres = rng.random((10, d))
    return centres[rng.integers(0, 10, n)] + rng.normal(0, 0.02, (n, d))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("rule", ["median", "midpoint"])
@pytest.mark.parametrize(
    ("n", "d"), [(1, 1), (7, 2), (63, 1), (64, 3), (65, 4), (997, 5), (9000, 2), (300, 130)]
)
def test_answers_are_those_of_brute_force(n, d, rule, dtype):
    rng = np.random.default_rng(n)
    points, queries = clustered(rng, n, d).astype(dtype), rng.random((40, d)).astype(dtype)
    points[: n // 2] = np.round(points[: n // 2], 1)
    queries[:9] = points[rng.integers(0, n, 9)]
    tree = KDTree(points, 16, rule=rule)
    for p in METRICS:
        check(tree, points, queries, min(n, 12), p)


def test_top_of_a_large_tree_comes_from_a_sample():
    rng = np.random.default_rng(3)
    points = np.concatenate([clustered(rng, 20_000, 3), np.zeros((6000, 3)), rng.random((9000, 3))])
    rng.shuffle(points)
    queries = np.concatenate([points[:60], rng.random((60, 3))])
    check(KDTree(points), points, queries, 20)
    one, two = KDTree(points, workers=1), KDTree(points, workers=2)
    for name, array in vars(one._forest.parts[0].tree).items():
        assert np.array_equal(array, getattr(two._forest.parts[0].tree, name)), name


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("d", [1, 2, 3, 6])
def test_ties_on_a_grid_go_to_the_lowest_index(d, dtype):
    rng = np.random.default_rng(d)
    points = rng.integers(0, 4, (900, d)).astype(dtype)
    queries = rng.integers(-1, 9, (60, d)).astype(dtype) / 2
    for p in METRICS:
        check(KDTree(points, 8), points, queries, 50, p)


@pytest.mark.parametrize("offset", [1e6, -1e9])
def test_far_from_the_origin(offset):
    rng = np.random.default_rng(5)
    points, queries = offset + rng.random((3000, 3)), offset + rng.random((50, 3))
    check(KDTree(points), points, queries, 9)


def test_lines_and_constant_columns():
    rng = np.random.default_rng(6)
    line = np.linspace(0, 1, 4000)[:, None] * np.ones(4)
    line[:, 2] = 7.0
    rng.shuffle(line)
    for rule in ("median", "midpoint"):
        check(KDTree(line, rule=rule), line, line[::80] + 0.01, 9)
    exponential = 2.0 ** -np.arange(1000.0)[:, None]
    tree = KDTree(exponential, 1, rule="midpoint")
    check(tree, exponential, exponential[::50], 5)


def test_a_million_equal_points():
    points = np.ones((1_000_000, 3))
    points[123_456] = 1.5
    tree = KDTree(points)
    distances, indices = tree.query(points[:20_000], k=3)
    assert (indices == [0, 1, 2]).all()
    assert (distances == 0).all()
    assert tree.query([1.5, 1.5, 1.4], k=2)[1].tolist() == [123_456, 0]
    assert tree.count([1.0, 1.0, 1.0], 0.1) == 999_999


def test_any_exponent():
    rng = np.random.default_rng(7)
    points, queries = rng.random((2000, 3)), rng.random((40, 3))
    for p in (1.5, 3.0, 7.0):
        distances, indices = KDTree(points).query(queries, k=8, p=p)
        powers, names = reference.neighbours(reference.powers(points, queries, p), 8)
        np.testing.assert_allclose(distances, reference.root(powers, p), rtol=1e-14)
        assert np.array_equal(indices, names)


@pytest.mark.parametrize("p", METRICS)
def test_weights_and_periodic_box(p):
    rng = np.random.default_rng(8)
    points, queries = rng.random((3000, 3)), rng.random((50, 3))
    weights, boxsize = np.array([4.0, 0.25, 0.0]), np.array([1.0, np.inf, 1.0])
    check(KDTree(points, weights=weights), points, queries, 9, p, weights=weights)
    check(KDTree(points, boxsize=[1, 0, 1]), points, queries, 9, p, boxsize=boxsize)
    both = KDTree(points, boxsize=[1, 0, 1], weights=weights)
    check(both, points, queries, 9, p, weights, boxsize)
    moved = queries + np.array([3.0, 0.0, -2.0])
    assert np.array_equal(both.query(moved, 4)[1], both.query(queries, 4)[1])


@pytest.mark.parametrize("k", [1, 2, 39, 40, 41, 500, 2100])
def test_list_and_heap_of_neighbours(k):
    rng = np.random.default_rng(k)
    points = rng.integers(0, 9, (2000, 3)).astype(float)
    queries = rng.random((7, 3)) * 9
    distances, indices = KDTree(points).query(queries, k=[k])
    every = reference.powers(points, queries)
    if k > 2000:
        assert np.isinf(distances).all()
        assert (indices == 2000).all()
    else:
        assert np.array_equal(indices[:, 0], reference.neighbours(every, k)[1][:, -1])


def test_bounds_are_exact():
    rng = np.random.default_rng(9)
    for dtype in (np.float64, np.float32):
        points, queries = rng.random((500, 3)).astype(dtype), rng.random((30, 3)).astype(dtype)
        tree = KDTree(points)
        distances, indices = tree.query(queries, k=6)
        # The sixth distance as a radius finds six points, as an upper bound five.
        assert (tree.count(queries, distances[:, 5]) == 6).all()
        assert (tree.count(queries, np.nextafter(distances[:, 5], dtype(0))) == 5).all()
        bounded = tree.query(queries, k=6, distance_upper_bound=distances[:, 5])
        assert np.array_equal(bounded[1][:, :5], indices[:, :5])
        assert np.isinf(bounded[0][:, 5]).all()
        assert (bounded[1][:, 5] == 500).all()


def test_eps_keeps_its_promise():
    rng = np.random.default_rng(10)
    points, queries = rng.random((5000, 8)), rng.random((100, 8))
    tree = KDTree(points)
    true, near = tree.query(queries, 5)[0], tree.query(queries, 5, eps=0.5)[0]
    assert (near >= true).all()
    assert (near <= 1.5 * true).all()
    assert (near > true).any()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 300), st.integers(1, 5), st.integers(1, 20),
    st.sampled_from([2, 5, 1000]), st.sampled_from(METRICS),
)  # fmt: skip
def test_any_points(seed, n, d, leafsize, values, p):
    rng = np.random.default_rng(seed)
    points = rng.integers(0, values, (n, d)) * 0.1
    queries = np.concatenate([points[:5], rng.integers(-2, values + 2, (5, d)) * 0.1])
    tree = KDTree(points, leafsize, rule=("median", "midpoint")[seed % 2])
    check(tree, points, queries, min(n, 7), p)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 3))
def test_threads_and_chunks_change_nothing(seed, workers):
    rng = np.random.default_rng(seed)
    points, queries = rng.random((3000, 2)), rng.random((7000, 2))
    tree = KDTree(points)
    distances, indices = tree.query(queries, 3)
    more = tree.query(queries, 3, workers=workers)
    assert np.array_equal(more[0], distances)
    assert np.array_equal(more[1], indices)
    cut = rng.integers(1, 6999)
    assert np.array_equal(tree.query(queries[cut:], 3)[1], indices[cut:])
    rows = tree.query_radius(queries, 0.02, output="csr")
    again = tree.query_radius(queries, 0.02, output="csr", workers=workers)
    assert all(np.array_equal(a, b) for a, b in zip(rows, again, strict=True))


def sparse(size, dtype):
    """Zeros that take no memory before they are written, under MALLOC_PERTURB_ too."""
    return np.frombuffer(mmap.mmap(-1, size * np.dtype(dtype).itemsize), dtype)


def test_offsets_beyond_32_bits():
    # The blocks of a small tree, moved to the far end of a sparse array of 2^31 coordinates.
    rng = np.random.default_rng(11)
    points, queries = rng.random((5000, 4)).astype(np.float32), rng.random((20, 4))
    tree = KDTree(points)
    part = tree._forest.parts[0]
    small, d = part.tree, 4
    shift = 2**31 // (d * _simd.LANES) + 1000
    blocks = sparse(shift * d * _simd.LANES + len(small.blocks), np.float32)
    blocks[shift * d * _simd.LANES :] = small.blocks
    ids = sparse(shift * _simd.LANES + len(small.ids), np.int32)
    ids[shift * _simd.LANES :] = small.ids
    before = tree.query(queries, 5)
    object.__setattr__(small, "blocks", blocks)
    object.__setattr__(small, "ids", ids)
    object.__setattr__(small, "leaf_block", small.leaf_block + shift)
    after = tree.query(queries, 5)
    assert np.array_equal(before[1], after[1])
    assert np.array_equal(before[0], after[0])


def test_indices_may_take_64_bits():
    rng = np.random.default_rng(12)
    points = rng.random((500, 2))
    forest = Forest(2, np.dtype(np.float64), 16, False)
    forest.total = 2**31 + 5
    forest.parts.append(forest._build(points, np.arange(500) + 2**31 - 495, 1))
    tree = KDTree(points)
    plain = tree.query(points[:50], 4)[1]
    tree._forest = forest
    assert np.array_equal(tree.query(points[:50], 4)[1], plain + 2**31 - 495)


def test_oracle_catches_a_lost_subtree(monkeypatch):
    # A planted bug: the walk never leaves the query's own leaf.
    rng = np.random.default_rng(13)
    points, queries = rng.random((2000, 2)), rng.random((200, 2))
    tree = KDTree(points)
    _, names = reference.neighbours(reference.powers(points, queries), 5)
    assert np.array_equal(tree.query(queries, 5)[1], names)
    part = tree._forest.parts[0]
    object.__setattr__(part.tree, "arity", np.zeros_like(part.tree.arity))
    assert not np.array_equal(tree.query(queries, 5)[1], names)
    assert _query.HEAP_FROM > 5
