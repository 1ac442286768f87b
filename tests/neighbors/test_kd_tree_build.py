"""What the build of a k-d tree promises to its search, on keys that are hard to halve."""

import numpy as np
import pytest

from paragone.kernels.jit import njit
from paragone.neighbors import KDTree, _grow, reference
from paragone.neighbors._reduce import count_below

HARD = {
    "uniform": lambda rng, m: rng.random(m),
    "two values": lambda rng, m: rng.integers(0, 2, m).astype(float),
    "few values": lambda rng, m: rng.integers(-3, 3, m) / 7,
    "mostly one": lambda rng, m: np.where(rng.random(m) < 0.9, 0.25, rng.random(m)),
    "all scales": lambda rng, m: 10.0 ** -rng.uniform(0, 37, m),
    "whole range": lambda rng, m: rng.choice([-1, 1], m) * 3e38 * rng.random(m),
    "far": lambda rng, m: 1e6 + rng.random(m) * 1e-3,
    "zeros of both signs": lambda rng, m: rng.choice([0.0, -0.0, 1e-45], m),
}


@njit(nogil=True, error_model="numpy")
def below(keys, m, threshold):
    return count_below(keys, m, threshold)


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_cut_has_the_rank_wanted(name, dtype):
    rng = np.random.default_rng(0)
    for m in (9, 33, 64, 65, 1000, 2003):
        values = HARD[name](rng, m).astype(dtype)
        keys = np.append(values, np.full(8, np.inf, dtype))
        assert below(keys, m, values[0]) == (values < values[0]).sum()
        least, most = np.sort(values)[[0, -1]]
        inner = np.sort(values[: m // 4])  # a sample's bounds, which need not hold the middle
        for low, high in ((least, most), (inner[0], inner[-1])):
            if not low < high:
                continue
            for rank in (1, m // 2, m - 1):
                threshold, ties = _grow._cut(keys, np.uint64(m), np.uint64(rank), low, high)
                assert (values < threshold).sum() + ties == rank
                assert ties <= (values == threshold).sum()
                perm, spare = np.arange(m, dtype=np.int32), np.empty(m, np.int32)
                left = _grow._partition(
                    keys, perm, spare, np.uint64(0), np.uint64(m), dtype(threshold), ties
                )
                assert left == rank
                assert values[perm[:left]].max() <= threshold <= values[perm[left:]].min() or (
                    ties == 0 and values[perm[:left]].max() < threshold
                )
                assert (np.diff(perm[:left]) > 0).all()
                assert (np.diff(perm[left:]) > 0).all()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("leafsize", [1, 5, 8, 17, 32])
@pytest.mark.parametrize("n", [1, 63, 64, 65, 2003, 30_011])
def test_leaves_hold_every_point_once_and_bound_it(n, leafsize, dtype):
    rng = np.random.default_rng(n)
    points = np.round(rng.random((n, 3)), 2).astype(dtype)
    tree = KDTree(points, leafsize, workers=2)._forest.parts[0].tree
    ids = tree.ids.reshape(-1, 8)
    assert np.array_equal(np.sort(ids[ids >= 0]), np.arange(n))
    blocks = tree.blocks.reshape(-1, 3, 8).transpose(0, 2, 1)
    assert np.array_equal(blocks[ids >= 0], points[ids[ids >= 0]])
    assert np.isinf(blocks[ids < 0]).all()
    sizes = np.diff(tree.leaf_start)
    assert sizes.min() >= 1
    assert sizes.max() <= leafsize
    assert np.array_equal(np.diff(tree.leaf_block), -(-sizes // 8))
    # Whole blocks but for one leaf a part.
    if leafsize >= 8:
        assert (sizes % 8 > 0).sum() <= max(1, n // 1000)
    for leaf in range(0, len(sizes), 7):
        held = ids[tree.leaf_block[leaf] : tree.leaf_block[leaf + 1]].ravel()
        held = held[held >= 0]
        assert (np.diff(held) > 0).all()
    assert np.array_equal(tree.low, points.min(0))
    assert np.array_equal(tree.high, points.max(0))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("scale", [1e-25, 1e-12, 1.0, 1e12])
@pytest.mark.parametrize("k", [1, 2, 4, 5, 10, 50])
def test_bounds_from_the_query_before_lose_no_neighbour(k, scale, dtype):
    """Neighbouring queries, among them equal ones, at scales where squares underflow."""
    rng = np.random.default_rng(k)
    walk = np.cumsum(rng.normal(size=(1500, 2)), axis=0) * scale
    points = np.repeat(walk, 2, axis=0)[:2900].astype(dtype)
    powers = reference.powers(points, points[:400], 2.0)
    expected, names = reference.neighbours(powers, k)
    distances, indices = KDTree(points).query(points[:400], k=np.arange(1, k + 1))
    assert np.array_equal(indices, names)
    assert np.array_equal(distances, reference.root(expected, 2.0))
