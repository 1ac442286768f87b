"""Matching against its definition, at the edges, and on two views of a photograph."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from paragone.neighbors import match
from paragone.neighbors.matching import Matches

from .conftest import descriptors


def distances(a, b, metric):
    if metric == "hamming":
        bits = np.unpackbits(a, axis=1)[:, None] != np.unpackbits(b, axis=1)[None]
        return bits.sum(axis=2).astype(float)
    gap = np.abs(a[:, None].astype(float) - b[None].astype(float))
    return {
        "euclidean": lambda: np.sqrt((gap**2).sum(axis=2)),
        "manhattan": lambda: gap.sum(axis=2), "chebyshev": lambda: gap.max(axis=2),
    }[metric]()  # fmt: skip


def definition(a, b, ratio, cross_check, metric):
    """The three tests, one descriptor at a time."""
    far, pairs = distances(a, b, metric), []
    for i, row in enumerate(far):
        order = np.argsort(row, kind="stable")
        second = row[order[1]] if len(order) > 1 else np.inf
        if ratio is not None and not row[order[0]] < ratio * second:
            continue
        if cross_check and far[:, order[0]].argmin() != i:
            continue
        pairs.append((i, order[0]))
    return pairs


@pytest.mark.parametrize("cross_check", [True, False])
@pytest.mark.parametrize("ratio", [None, 0.7, 0.8, 1.0])
@pytest.mark.parametrize("metric", ["euclidean", "manhattan", "chebyshev", "hamming"])
@pytest.mark.parametrize("sizes", [(1, 1), (1, 2), (63, 65), (64, 1), (130, 61)], ids=str)
def test_is_its_definition(sizes, metric, ratio, cross_check):
    rng = np.random.default_rng(sum(sizes))
    a, b = (rng.integers(0, 256, (n, 11), dtype=np.uint8) for n in sizes)
    b[: min(sizes) // 2] = a[: min(sizes) // 2]
    b[: min(sizes) // 2, 0] ^= 3
    found = match(a, b, ratio, cross_check, metric=metric)
    assert [tuple(pair) for pair in found.pairs] == definition(a, b, ratio, cross_check, metric)
    rows, columns = found.pairs.T
    np.testing.assert_allclose(found.distances, distances(a, b, metric)[rows, columns], rtol=1e-12)


@given(st.integers(1, 25), st.integers(1, 25), st.sampled_from([None, 0.8]), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_ties_and_duplicates(n_a, n_b, ratio, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 3, (n_a, 2)) * 1.0, rng.integers(0, 3, (n_b, 2)) * 1.0
    found = match(a, b, ratio)
    assert [tuple(p) for p in found.pairs] == definition(a, b, ratio, True, "euclidean")
    for side in found.pairs.T:
        assert len(set(side.tolist())) == len(side), "one to one"


def test_equal_descriptors_hide_each_other():
    b = np.array([[0.0, 0.0], [0.0, 0.0], [9.0, 9.0]])
    assert match([[0.1, 0.0], [9.0, 9.1]], b).pairs.tolist() == [[1, 2]]
    assert match([[0.0, 0.0]], b).pairs.tolist() == []  # 0 < 0.8 * 0 is false
    assert match([[0.1, 0.0]], b, ratio=None).pairs.tolist() == [[0, 0]]


@pytest.mark.parametrize("empty", [[], None, np.empty((0, 4)), np.empty((0, 4), np.uint8)])
def test_nothing_to_match(empty):
    full = np.ones((3, 4))
    for a, b in ((empty, full), (full, empty), (empty, empty)):
        pairs, gaps = match(a, b)
        assert pairs.shape == (0, 2)
        assert pairs.dtype == np.int64
        assert gaps.shape == (0,)


def test_one_candidate_passes_the_ratio_test():
    assert match([[0.0], [5.0]], [[4.0]]).pairs.tolist() == [[1, 0]]


def test_largest_distance():
    assert match([[0.0], [5.0]], [[0.5], [5.1]], max_distance=0.2).pairs.tolist() == [[1, 1]]


def test_rows_of_bool_are_bits():
    rng = np.random.default_rng(0)
    bits = rng.random((40, 250)) < 0.5
    packed = np.packbits(bits, axis=1)
    a = match(bits, bits[::-1], metric="hamming")
    b = match(packed, packed[::-1], metric="hamming", workers=1)
    np.testing.assert_array_equal(a.pairs, b.pairs)
    assert a.pairs.tolist() == [[i, 39 - i] for i in range(40)]


def test_methods_agree_and_are_named(sift_like):
    points, x = sift_like
    exact = match(x, points, method="brute")
    assert exact.method == "brute"
    tree = match(x[:40], points[:1000], method="tree")
    np.testing.assert_array_equal(tree.pairs, match(x[:40], points[:1000]).pairs)
    assert tree.method == "tree"
    forest = match(x, points, method="forest", checks=400)
    assert forest.method == "forest"
    both = {tuple(p) for p in exact.pairs} & {tuple(p) for p in forest.pairs}
    assert len(both) > 0.8 * len(exact.pairs)
    again = pickle.loads(pickle.dumps(forest))
    assert isinstance(again, Matches)
    assert again.method == "forest"
    np.testing.assert_array_equal(again.pairs, forest.pairs)


def test_finds_a_known_motion(photographs):
    """Turn a photograph by 8 degrees: most pairs must lie where the rotation puts them."""
    gray = photographs[0]
    turned = ndimage.rotate(gray, 8.0, reshape=False, mode="reflect")
    a, at_a = descriptors(gray, 2500)
    b, at_b = descriptors(turned, 2500)
    centre = (np.array(gray.shape) - 1) / 2
    angle = np.deg2rad(8.0)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])

    def right(pairs):
        moved = (at_a[pairs[:, 0]] - centre) @ turn.T + centre
        return np.linalg.norm(moved - at_b[pairs[:, 1]], axis=1) < 4.0

    loose = right(match(a, b, ratio=None, cross_check=False).pairs)
    strict = right(match(a, b, ratio=0.8).pairs)
    assert strict.sum() > 100
    assert strict.mean() > max(0.8, loose.mean())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 0.0}, "ratio=0.0"), ({"ratio": 1.5}, "ratio=1.5"),
        ({"method": "flann"}, "method='flann'"), ({"metric": "cosine"}, "metric='cosine'"),
        ({"metric": "hamming"}, "takes bits"), ({"method": "forest"}, "approximate"),
        ({"metric": "hamming", "method": "tree"}, "brute force only"),
        ({"max_distance": -1.0}, "max_distance"), ({"checks": 0}, "checks=0"),
    ],
)  # fmt: skip
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        match(np.ones((3, 4)), np.ones((5, 4)), **options)


def test_refuses_other_widths_and_nan():
    with pytest.raises(ValueError, match="4 columns and descriptors_b 5"):
        match(np.ones((3, 4)), np.ones((3, 5)))
    with pytest.raises(ValueError, match="descriptors_b contains NaN"):
        match(np.ones((3, 4)), np.full((3, 4), np.nan))
