import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from paragone.ensemble._bootstrap import count_hits
from paragone.ensemble._cart import grow_cart, rank_columns
from paragone.ensemble._cart_rows import LOCAL
from paragone.ensemble._cart_vectors import add_class, gains, gini_gains, sums_below
from paragone.ensemble._predict import pack, predict_raw
from paragone.ensemble._tree import LEAF

NONE = np.zeros(0)


@njit
def score_moments(codes, pairs, start, m, least, weight, moment, out):
    sums_below(codes, m, pairs, start, codes, m, weight, moment)
    total, whole = 0.0, 0.0
    for j in range(m):
        total += pairs[2 * (start + j)]
        whole += pairs[2 * (start + j) + 1]
    return gains(weight, moment, out, m, total, whole, least, out)


@njit
def score_classes(codes, pairs, ends, m, totals, weight, left, right, out):
    first = 0
    for k in range(len(ends)):
        add_class(codes, pairs, 0, first, ends[k], codes, m, totals[k], weight, left, right)
        first = ends[k]
    total = totals.sum()
    own = (totals * totals).sum() / total
    return gini_gains(weight, left, right, m, total, own, 1e-9, out)


def padded(codes):
    full = np.full((len(codes) + 15) // 16 * 16 + 16, 255, np.uint8)
    full[: len(codes)] = codes
    return full


@pytest.mark.parametrize("m", [1, 2, 15, 16, 17, 31, 48, 63, 64, 65])
def test_vector_sums_are_those_of_the_definition(m):
    rng = np.random.default_rng(m)
    codes, w, y = rng.integers(0, 20, m), rng.random(m) + 0.1, rng.normal(size=m)
    pairs = np.column_stack((w, w * y)).ravel()
    weight, moment, out = np.zeros(96), np.zeros(96), np.zeros(96)
    top = score_moments(padded(codes), np.append(np.ones(6), pairs), 3, m, 0.3, weight, moment, out)
    best = -1.0
    for i in range(m):
        left = codes <= codes[i]
        assert weight[i] == pytest.approx(w[left].sum())
        assert moment[i] == pytest.approx((w * y)[left].sum())
        gain = -1.0
        if min(w[left].sum(), w[~left].sum()) >= 0.3:
            sides = [(w * y)[side].sum() ** 2 / w[side].sum() for side in (left, ~left)]
            gain = w.sum() * (sum(sides) - (w * y).sum() ** 2 / w.sum())
        assert out[i] == pytest.approx(gain, rel=1e-9, abs=1e-9)
        best = max(best, gain)
    assert top == pytest.approx(best, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("m", [2, 16, 17, 65])
def test_class_sums_give_the_fall_of_the_gini_impurity(m):
    rng = np.random.default_rng(m)
    y = np.sort(rng.integers(0, 3, m))
    codes, w = rng.integers(0, 9, m), rng.integers(1, 4, m).astype(float)
    totals = np.bincount(y, w, minlength=3)
    ends = np.cumsum(np.bincount(y, minlength=3))
    weight, left, right, out = (np.zeros(96) for _ in range(4))
    pairs = np.column_stack((w, w)).ravel()
    score_classes(padded(codes), pairs, ends, m, totals, weight, left, right, out)

    def gini(rows):
        share = np.bincount(y[rows], w[rows], minlength=3) / w[rows].sum()
        return w[rows].sum() * (1 - np.sum(share**2))

    for i in range(m):
        low = codes <= codes[i]
        if low.all():
            assert out[i] == -1.0
            continue
        fall = gini(np.arange(m)) - gini(low) - gini(~low)
        assert out[i] == pytest.approx(fall, abs=1e-9)


def make(kind, n, p=4, seed=0, levels=None, missing=0.0):
    rng = np.random.default_rng(seed)
    X = rng.random((n, p), np.float32)
    if levels:
        X = np.floor(X * levels).astype(np.float32)
    z = np.nan_to_num(X[:, 0] / max(1, levels or 1) + 0.4 * rng.normal(size=n))
    X[rng.random((n, p)) < missing] = np.nan
    if kind == "squared_error":
        return X, z, rng
    classes = {"two": 2, "four": 4}[kind]
    return X, np.clip(np.floor(z * classes), 0, classes - 1), rng


def both(X, y, w, kind, **options):
    criterion = "squared_error" if kind == "squared_error" else "gini"
    classes = None if kind == "squared_error" else {"two": 2, "four": 4}[kind]
    columns = rank_columns(X)
    return [
        grow_cart(columns, y, w, criterion=criterion, num_classes=classes, fast=fast, **options)
        for fast in (True, False)
    ]


def assert_same(one, two, X):
    assert one.num_nodes == two.num_nodes
    np.testing.assert_allclose(
        predict_raw(pack([one]), X), predict_raw(pack([two]), X), rtol=1e-9, atol=1e-12
    )
    for name in ("count", "cover", "gain", "impurity", "threshold"):
        a, b = np.sort(getattr(one, name)), np.sort(getattr(two, name))
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)


OPTIONS = [
    {}, {"min_samples_leaf": 3}, {"max_depth": 9, "min_samples_split": 5},
    {"min_weight_fraction_leaf": 0.02}, {"min_impurity_decrease": 1e-3},
]  # fmt: skip


@pytest.mark.parametrize("kind", ["two", "four", "squared_error"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("n", [63, 1009])
def test_fast_trees_equal_the_reference(kind, options, n):
    X, y, rng = make(kind, n, levels=None if n > 100 else 7)
    w = rng.integers(0, 3, n).astype(float)
    assert_same(*both(X, y, w, kind, **options), X)


@pytest.mark.parametrize("kind", ["two", "four", "squared_error"])
@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    n=st.sampled_from([1, 2, 3, 16, 17, 48, 49, LOCAL, LOCAL + 1, 400]),
    levels=st.sampled_from([None, 3, 40]),
    missing=st.sampled_from([0.0, 0.2]),
    least=st.integers(1, 3),
)
def test_fast_trees_lower_the_impurity_as_the_reference_does(kind, seed, n, levels, missing, least):
    X, y, rng = make(kind, n, seed=seed, levels=levels, missing=missing)
    w = rng.random(n) + 0.05
    one, two = both(X, y, w, kind, min_samples_leaf=least, max_depth=9)
    # Ties may be cut elsewhere, so below the root only the whole is compared.
    assert one.gain[0] == pytest.approx(two.gain[0], rel=1e-9, abs=1e-12)
    assert (one.feature[0] == LEAF) == (two.feature[0] == LEAF)
    leaves = [tree.feature == LEAF for tree in (one, two)]
    for tree, leaf in zip((one, two), leaves, strict=True):
        assert tree.count[leaf].sum() == n
        assert tree.cover[leaf].sum() == pytest.approx(w.sum())
        if len(tree.count) > 1:
            assert tree.count.min() >= least
    lost = [
        np.sum((t.cover * t.impurity)[leaf]) for t, leaf in zip((one, two), leaves, strict=True)
    ]
    assert lost[0] == pytest.approx(lost[1], rel=0.35, abs=0.1 * w.sum() * two.impurity[0] + 1e-9)


def test_the_comparison_catches_a_planted_bug():
    X, y, rng = make("two", 300, missing=0.2)
    w = rng.integers(1, 3, 300).astype(float)
    one, two = both(X, y, w, "two")
    assert_same(one, two, X)
    one.missing_left[:] = ~one.missing_left
    with pytest.raises(AssertionError):
        assert_same(one, two, X)
    with pytest.raises(AssertionError):
        assert_same(both(X, y, w, "two")[0], both(X, y, np.ones(300), "two")[1], X)


@pytest.mark.parametrize("kind", ["two", "four", "squared_error"])
@pytest.mark.parametrize("missing", [0.0, 0.1])
def test_bins_are_the_values_where_these_are_few(kind, missing):
    X, y, rng = make(kind, 1500, levels=200, missing=missing)
    w = rng.integers(0, 3, 1500).astype(float)
    criterion = "squared_error" if kind == "squared_error" else "gini"
    options = {"criterion": criterion, "shuffle": True, "max_features": 2, "seed": 5}
    raw = grow_cart(rank_columns(X), y, w, **options)
    binned = grow_cart(rank_columns(X, None, 255, weight=w), y, w, **options)
    for name in ("feature", "threshold", "left", "missing_left", "value", "gain", "count"):
        np.testing.assert_array_equal(getattr(raw, name), getattr(binned, name))
    coarse = grow_cart(rank_columns(X, None, 20), y, w, **options)
    assert len(np.unique(coarse.threshold)) < len(np.unique(raw.threshold))


def test_predictions_from_values_agree_with_those_from_bins():
    # A full tree on bins tells apart what the bins tell apart: equal rows get their mean.
    X, y, _ = make("squared_error", 3000, p=2)
    columns = rank_columns(X, None, 30)
    tree = grow_cart(columns, y, np.ones(3000))
    said = predict_raw(pack([tree]), X)[0]
    cells = columns.codes[0] * 1000 + columns.codes[1]
    means = np.bincount(cells, y) / np.maximum(np.bincount(cells), 1)
    np.testing.assert_allclose(said, means[cells], rtol=1e-9)


def test_an_offset_does_not_change_the_tree():
    X, y, _ = make("squared_error", 700)
    y = np.round(64 * y) / 64
    one = grow_cart(X, y, np.ones(700))
    two = grow_cart(X, y + 1e6, np.ones(700))
    np.testing.assert_array_equal(one.feature, two.feature)
    np.testing.assert_array_equal(one.threshold, two.threshold)
    np.testing.assert_allclose(one.value + 1e6, two.value, rtol=1e-14)


def test_constant_columns_are_not_counted_as_tried():
    rng = np.random.default_rng(0)
    X = np.zeros((300, 90), np.float32)
    X[:, 77] = rng.random(300)
    y = (X[:, 77] + 0.3 * rng.random(300) > 0.6).astype(float)
    for seed in range(5):
        tree = grow_cart(X, y, np.ones(300), criterion="gini", max_features=1, seed=seed)
        assert set(tree.feature) == {LEAF, 77}
        assert np.all(tree.impurity[tree.feature == LEAF] == 0)


def test_each_node_draws_its_columns_anew():
    X, y, _ = make("four", 2000, p=12)
    tree = grow_cart(X, y, np.ones(2000), criterion="gini", max_features=1, seed=3)
    used = np.bincount(tree.feature[tree.feature != LEAF], minlength=12)
    assert used.min() > 0.5 * used.mean()
    other = grow_cart(X, y, np.ones(2000), criterion="gini", max_features=1, seed=4)
    assert not np.array_equal(tree.feature[:50], other.feature[:50])


def test_unordered_memory_and_ties():
    X, y, _ = make("two", 400, levels=5)
    one = grow_cart(np.asfortranarray(X), y, np.ones(400), criterion="gini")
    two = grow_cart(np.repeat(X, 2, axis=1)[:, ::2], y, np.ones(400), criterion="gini")
    twice = grow_cart(np.column_stack((X, X)), y, np.ones(400), criterion="gini")
    np.testing.assert_array_equal(one.feature, two.feature)
    # The copy of a column never wins against the column itself.
    np.testing.assert_array_equal(one.feature, twice.feature)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), n=st.sampled_from([1, 2, 63, 64, 65, 997]))
def test_a_guided_draw_is_the_searched_one(seed, n):
    rng = np.random.default_rng(seed)
    mass, uniform = np.cumsum(rng.exponential(size=n) ** 6), rng.random(3 * n)
    uniform[:2] = [0.0, 1.0 - 2.0**-53]
    order, counts = rng.permutation(n), np.zeros(n)
    count_hits(mass, uniform, order, counts)
    place = np.minimum(np.searchsorted(mass, uniform * mass[-1], side="right"), n - 1)
    want = np.zeros(n)
    want[order] = np.bincount(place, minlength=n)
    np.testing.assert_array_equal(counts, want)


@pytest.mark.parametrize("classes", [2, None])
@pytest.mark.parametrize("holes", [0.0, 0.1])
def test_subtracted_histograms_grow_the_tree_of_filled_ones(classes, holes):
    rng = np.random.default_rng(5)
    X = rng.normal(size=(3001, 6)).astype(np.float32)
    X[:, 1], X[:, 2] = X[:, 1].round(), X[:, 0]
    X[rng.random(X.shape) < holes] = np.nan
    y = np.nan_to_num(X[:, 0]) + np.nan_to_num(X[:, 3]) ** 2 + rng.normal(size=3001)
    y = (y > 1).astype(float) if classes else y
    columns = rank_columns(X, None, 255)
    weight = rng.integers(0, 4, 3001).astype(float)
    options = {"criterion": "gini" if classes else "squared_error", "num_classes": classes}
    shared = grow_cart(columns, y, weight, seed=3, **options)
    # Halves are no whole numbers, so that no histogram is a difference; nothing else changes.
    filled = grow_cart(columns, y, weight / 2, seed=3, **options)
    for name in ("feature", "threshold", "left", "missing_left", "count"):
        np.testing.assert_array_equal(getattr(shared, name), getattr(filled, name))
    np.testing.assert_array_equal(shared.cover, 2 * filled.cover)


@pytest.mark.parametrize("classes", [None, 2, 5])
def test_scratch_space_used_before_leaves_no_trace(classes):
    rng = np.random.default_rng(6)
    X = rng.integers(0, 30, (700, 4)).astype(np.float32)
    y = rng.integers(0, classes or 100, 700).astype(float)
    options = {"num_classes": classes, "criterion": "gini" if classes else "squared_error"}
    used = rank_columns(X)
    for other in (2, 3, None):
        target = rng.integers(0, other or 9, 700).astype(float)
        kind = "gini" if other else "squared_error"
        grow_cart(used, target, np.ones(700), criterion=kind, num_classes=other, max_features=2)
    one = grow_cart(used, y, np.ones(700), max_features=2, seed=1, **options)
    two = grow_cart(rank_columns(X), y, np.ones(700), max_features=2, seed=1, **options)
    for name in ("feature", "threshold", "left", "value", "cover", "gain", "impurity"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
