import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import datasets
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from paragone.ensemble._cart import grow_cart, rank_columns, take_columns
from paragone.ensemble._predict import apply, pack, predict_raw
from paragone.ensemble._tree import LEAF

CLASSES = ("gini", "entropy")
NUMBERS = ("squared_error", "poisson", "absolute_error")


def impurity(criterion, y, w):
    """Weighted impurity of a set of rows by the textbook's formula."""
    if criterion in CLASSES:
        share = np.array([w[y == k].sum() for k in np.unique(y)]) / w.sum()
        if criterion == "gini":
            return w.sum() * (1 - np.sum(share**2))
        return -w.sum() * np.sum(share * np.log2(share))
    if criterion == "absolute_error":
        return min(np.sum(w * np.abs(y - value)) for value in y)
    mean = np.average(y, weights=w)
    if criterion == "squared_error":
        return np.sum(w * (y - mean) ** 2)
    positive = y > 0
    return np.sum(w[positive] * y[positive] * np.log(y[positive] / mean))


def sides_of(column, categorical):
    """All ways to split a column, as masks of the left side."""
    missing = np.isnan(column)
    values = np.unique(column[~missing])
    if categorical:
        for size in range(1, len(values)):
            for chosen in itertools.combinations(values, size):
                for known in [np.isin(column, chosen)]:
                    yield known
                    yield known | missing
    else:
        for value in values[:-1]:
            yield column <= value
            yield (column <= value) | missing
    if missing.any() and len(values):
        yield ~missing


def best_gain(criterion, X, y, w, min_samples_leaf=1, categorical=()):
    """Largest decrease of impurity over every split there is, or None."""
    best = None
    for j in range(X.shape[1]):
        for left in sides_of(X[:, j], j in categorical):
            if min(left.sum(), (~left).sum()) < min_samples_leaf:
                continue
            parts = [impurity(criterion, y[side], w[side]) for side in (left, ~left)]
            if criterion == "poisson" and min(y[left].sum(), y[~left].sum()) <= 0:
                continue
            gain = impurity(criterion, y, w) - sum(parts)
            best = gain if best is None else max(best, gain)
    return None if best is None else best / w.sum()


def assert_best_split(tree, criterion, X, y, w, **options):
    """Holds the root of `tree` against the best of all splits, and its rows against its gain."""
    best = best_gain(criterion, X, y, w, **options)
    scale = max(1.0, abs(impurity(criterion, y, w)) / w.sum())
    if tree.feature[0] == LEAF:
        assert best is None or len(np.unique(y)) == 1
        return
    assert best is not None
    assert tree.gain[0] == pytest.approx(best, abs=1e-9 * scale)
    leaf = apply(pack([tree]), X)[:, 0]
    assert set(leaf) <= {1, 2}
    split = sum(impurity(criterion, y[leaf == k], w[leaf == k]) for k in (1, 2))
    realised = (impurity(criterion, y, w) - split) / w.sum()
    assert realised == pytest.approx(best, abs=1e-9 * scale)
    assert [np.sum(leaf == k) for k in (1, 2)] == tree.count[1:].tolist()


def make(seed, n, criterion, missing, ties, p=3, classes=3):
    rng = np.random.default_rng(seed)
    X = rng.integers(0, 4, (n, p)).astype(np.float32) if ties else rng.random((n, p), np.float32)
    X[rng.random((n, p)) < missing] = np.nan
    y = rng.integers(0, classes, n).astype(float)
    if criterion in NUMBERS and not ties:
        y = rng.gamma(1.0, size=n)
    return X, y, rng


@pytest.mark.parametrize("criterion", CLASSES + NUMBERS)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(2, 23),
    missing=st.sampled_from([0.0, 0.3]),
    ties=st.booleans(),
    weighted=st.booleans(),
    least=st.integers(1, 4),
)
def test_the_root_is_the_best_of_all_splits(criterion, seed, n, missing, ties, weighted, least):
    X, y, rng = make(seed, n, criterion, missing, ties)
    w = rng.random(n) + 0.1 if weighted else np.ones(n)
    tree = grow_cart(X, y, w, criterion=criterion, max_depth=1, min_samples_leaf=least)
    if tree.feature[0] == LEAF and n < 2 * least:
        return
    assert_best_split(tree, criterion, X, y, w, min_samples_leaf=least)


@pytest.mark.parametrize("criterion", ["gini", "entropy", "squared_error", "poisson"])
@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6), n=st.integers(4, 40), missing=st.sampled_from([0.0, 0.2]),
    weighted=st.booleans(),
)  # fmt: skip
def test_category_sets_are_the_best_of_all_subsets(criterion, seed, n, missing, weighted):
    rng = np.random.default_rng(seed)
    X = rng.integers(0, 6, (n, 2)).astype(np.float32)
    X[rng.random((n, 2)) < missing] = np.nan
    y = rng.integers(0, 2, n) if criterion in CLASSES else rng.gamma(1.0, size=n)
    w = rng.random(n) + 0.1 if weighted else np.ones(n)
    tree = grow_cart(
        X, y.astype(float), w, criterion=criterion, max_depth=1, categorical=np.ones(2, bool)
    )
    assert_best_split(tree, criterion, X, y, w, categorical=(0, 1))


def test_the_oracle_catches_a_planted_bug():
    X, y, rng = make(0, 20, "gini", 0.2, False)
    w = rng.random(20) + 0.1
    tree = grow_cart(X, y, w, criterion="gini", max_depth=1)
    assert_best_split(tree, "gini", X, y, w)
    with pytest.raises(AssertionError):
        assert_best_split(grow_cart(X, y, np.ones(20), criterion="gini", max_depth=1),
                          "gini", X, y, w)  # fmt: skip
    tree.missing_left[:] = ~tree.missing_left
    with pytest.raises(AssertionError):
        assert_best_split(tree, "gini", X, y, w)


def compare(ours, theirs, X, y, weight=None):
    """Walks both trees down to the first tie; counts equal nodes and ties."""
    peer, waiting, equal, ties = theirs.tree_, [(0, 0)], 0, 0
    mass = peer.weighted_n_node_samples
    while waiting:
        a, b = waiting.pop()
        assert ours.count[a] == peer.n_node_samples[b]
        assert ours.cover[a] == pytest.approx(mass[b])
        np.testing.assert_allclose(ours.value[a], peer.value[b][0], rtol=1e-9)
        assert ours.impurity[a] == pytest.approx(peer.impurity[b], rel=1e-9, abs=1e-9)
        left, right = peer.children_left[b], peer.children_right[b]
        assert (ours.feature[a] == LEAF) == (left < 0)
        if left < 0:
            continue
        children = mass[left] * peer.impurity[left] + mass[right] * peer.impurity[right]
        gain = (mass[b] * peer.impurity[b] - children) / mass[0]
        assert ours.gain[a] == pytest.approx(gain, rel=1e-9, abs=1e-9 * max(1, peer.impurity[0]))
        threshold = np.float32(min(peer.threshold[b], np.finfo(np.float32).max))
        if ours.feature[a] == peer.feature[b] and ours.threshold[a] == pytest.approx(
            threshold, rel=1e-6
        ):
            equal += 1
            waiting += [(ours.left[a], left), (ours.left[a] + 1, right)]
        else:
            ties += 1
    return equal, ties


LIMITS = [
    {"max_depth": 5, "min_samples_leaf": 4},
    {"max_leaf_nodes": 12},
    {"min_impurity_decrease": 0.01, "min_samples_split": 9},
    {"min_weight_fraction_leaf": 0.05},
]


@pytest.mark.peers
@pytest.mark.parametrize("limits", LIMITS, ids=str)
@pytest.mark.parametrize("criterion", CLASSES)
@pytest.mark.parametrize("name", ["wine", "breast_cancer", "digits"])
def test_classification_trees_equal_scikit_learn(name, criterion, limits):
    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    X = X.astype(np.float32)
    weight = np.random.default_rng(1).integers(1, 4, len(y)).astype(float)
    ours = grow_cart(X, y, weight, criterion=criterion, **limits)
    theirs = DecisionTreeClassifier(criterion=criterion, random_state=0, **limits)
    equal, ties = compare(ours, theirs.fit(X, y, weight), X, y, weight)
    # Nearly pure nodes have equal splits, and scikit-learn takes them at random.
    assert equal >= 3
    assert ties <= max(2, equal // 2)


@pytest.mark.peers
@pytest.mark.parametrize("limits", LIMITS, ids=str)
@pytest.mark.parametrize(
    ("criterion", "missing"),
    # Scikit-learn's absolute error takes no missing values.
    [*((c, 0.0) for c in NUMBERS), ("squared_error", 0.2), ("poisson", 0.2)],
)
def test_regression_trees_equal_scikit_learn(criterion, limits, missing):
    X, y = datasets.load_diabetes(return_X_y=True)
    X, rng = X.astype(np.float32), np.random.default_rng(0)
    X[rng.random(X.shape) < missing] = np.nan
    ours = grow_cart(X, y, np.ones(len(y)), criterion=criterion, **limits)
    theirs = DecisionTreeRegressor(criterion=criterion, random_state=0, **limits).fit(X, y)
    equal, ties = compare(ours, theirs, X, y)
    assert equal >= 8
    assert ties <= max(3, equal // 4)


def test_long_columns_take_the_radix_sort_and_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(3001, 4)).astype(np.float32)
    y = X[:, 0] * X[:, 1] + rng.normal(size=3001)
    ours = grow_cart(X, y, np.ones(3001), max_leaf_nodes=200)
    theirs = DecisionTreeRegressor(max_leaf_nodes=200, random_state=0).fit(X, y)
    equal, ties = compare(ours, theirs, X, y)
    assert equal >= 185
    assert ties <= 12


@pytest.mark.parametrize("criterion", ["gini", "squared_error", "absolute_error"])
def test_weight_two_is_the_row_twice(criterion):
    X, y, rng = make(3, 60, criterion, 0.1, False, p=4)
    w = rng.integers(0, 4, 60)
    once = grow_cart(X, y, w.astype(float), criterion=criterion, num_classes=3)
    again = np.repeat(np.arange(60), w)
    twice = grow_cart(X[again], y[again], np.ones(len(again)), criterion=criterion, num_classes=3)
    np.testing.assert_array_equal(once.feature, twice.feature)
    np.testing.assert_array_equal(once.threshold, twice.threshold)
    np.testing.assert_allclose(once.value, twice.value, rtol=1e-12)
    np.testing.assert_allclose(once.cover, twice.cover)


def test_ties_go_to_the_lowest_column_whatever_the_rounding():
    rng = np.random.default_rng(0)
    column = rng.random(200).astype(np.float32)
    y = rng.random(200)
    X = np.column_stack([-column, column, column * 2])
    tree = grow_cart(X, y, rng.random(200) + 0.1)
    assert set(tree.feature) == {LEAF, 0}


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), power=st.integers(-60, 60), offset=st.sampled_from([0, 1e6]))
def test_scale_of_columns_and_offset_of_targets_do_not_matter(seed, power, offset):
    X, y, _ = make(seed, 40, "squared_error", 0.1, False)
    w = np.ones(40)
    plain = grow_cart(X, y, w, max_depth=4)
    moved = grow_cart(X * np.float32(2.0**power), y + offset, w, max_depth=4)
    np.testing.assert_array_equal(plain.feature, moved.feature)
    cuts = plain.threshold < np.finfo(np.float32).max
    np.testing.assert_array_equal(cuts, moved.threshold < np.finfo(np.float32).max)
    scaled = plain.threshold[cuts] * np.float32(2.0**power)
    np.testing.assert_array_equal(scaled, moved.threshold[cuts])
    np.testing.assert_allclose(plain.value + offset, moved.value, rtol=1e-9)


def test_a_threshold_is_below_the_right_value_even_between_neighbours():
    low = np.float32(1.0)
    X = np.array([[low], [np.nextafter(low, np.float32(2))]], np.float32)
    for order in ([0, 1], [1, 0]):
        tree = grow_cart(X[order], np.array([0.0, 1.0])[order], np.ones(2))
        assert tree.threshold[0] == low
        assert predict_raw(pack([tree]), X)[0].tolist() == [0.0, 1.0]
    huge = np.array([[-3e38], [3e38]], np.float32)
    assert grow_cart(huge, np.array([0.0, 1.0]), np.ones(2)).threshold[0] == 0


def test_constant_columns_do_not_count_as_tried():
    rng = np.random.default_rng(0)
    X = np.zeros((50, 130), np.float32)
    X[:, 77] = rng.random(50)
    y = rng.random(50)
    tree = grow_cart(X, y, np.ones(50), max_features=1, seed=3)
    assert tree.num_leaves == 50
    all_missing = np.full((50, 2), np.nan, np.float32)
    assert grow_cart(all_missing, y, np.ones(50)).num_nodes == 1


@pytest.mark.parametrize("n", [1, 2, 3, 63, 64, 65, 127])
def test_any_number_of_rows_is_fitted_to_the_end(n):
    rng = np.random.default_rng(n)
    X, y = rng.random((n, 2), np.float32), rng.random(n)
    tree = grow_cart(X, y, np.ones(n))
    assert tree.num_leaves == n
    np.testing.assert_allclose(predict_raw(pack([tree]), X)[0], y, rtol=1e-12)
    assert grow_cart(X, np.zeros(n), np.ones(n)).num_nodes == 1


@pytest.mark.parametrize("criterion", ["gini", "squared_error", "poisson", "absolute_error"])
@pytest.mark.parametrize("leaves", [None, 20])
def test_monotone_constraints_are_never_violated(criterion, leaves):
    rng = np.random.default_rng(5)
    X = rng.random((600, 3), np.float32)
    X[rng.random((600, 3)) < 0.05] = np.nan
    signal = np.nan_to_num(X[:, 0] - X[:, 1]) + rng.normal(size=600)
    y = (signal > 0).astype(float) if criterion == "gini" else np.exp(signal)
    signs = np.array([1, -1, 0], np.int8)
    tree = grow_cart(X, y, np.ones(600), criterion=criterion, monotone=signs, max_leaf_nodes=leaves)
    assert tree.num_leaves > 10
    free = grow_cart(X, y, np.ones(600), criterion=criterion, max_leaf_nodes=leaves)
    broken = 0
    for grown in (tree, free):
        packed = pack([grown])
        for column, sign in ((0, 1), (1, -1)):
            low = rng.random((20_000, 3), np.float32)
            high = low.copy()
            high[:, column] += rng.random(20_000, np.float32)
            rise = sign * (predict_raw(packed, high)[-1] - predict_raw(packed, low)[-1])
            if grown is tree:
                assert rise.min() >= 0
            broken += int(np.sum(rise < 0))
    assert broken > 0, "the same data must break the constraint where it is not set"


@pytest.mark.parametrize("criterion", ["gini", "squared_error"])
def test_few_bins_agree_with_raw_values_on_every_training_row(criterion):
    X, y, _ = make(0, 500, criterion, 0.1, False)
    columns = rank_columns(X, max_bins=16)
    tree = grow_cart(columns, y, np.ones(500), criterion=criterion)
    leaf = apply(pack([tree]), X)[:, 0]
    inner = tree.feature != LEAF
    counted = np.bincount(leaf, minlength=tree.num_nodes)
    np.testing.assert_array_equal(counted[~inner], tree.count[~inner])
    few = np.round(X * 8) / 8
    exact = grow_cart(few, y, np.ones(500), criterion=criterion)
    binned = grow_cart(rank_columns(few, max_bins=255), y, np.ones(500), criterion=criterion)
    np.testing.assert_array_equal(exact.feature, binned.feature)
    np.testing.assert_allclose(exact.value, binned.value)


def test_random_cuts_lie_inside_and_depend_on_the_seed_alone():
    X, y, _ = make(0, 300, "squared_error", 0.1, False)
    options = {"splitter": "random", "categorical": np.array([False, False, True])}
    X[:, 2] = np.where(np.isnan(X[:, 2]), np.nan, np.floor(X[:, 2] * 5))
    one, two, three = (grow_cart(X, y, np.ones(300), seed=s, **options) for s in (1, 1, 2))
    np.testing.assert_array_equal(one.threshold, two.threshold)
    assert not np.array_equal(one.threshold, three.threshold)
    np.testing.assert_allclose(predict_raw(pack([one]), X)[0], y, rtol=1e-9)
    numeric = (one.feature >= 0) & (one.category_start < 0)
    inside = one.threshold[numeric & (one.threshold < 1e30)]
    assert inside.min() >= 0
    assert inside.max() < 1
    exact = set(grow_cart(X, y, np.ones(300)).threshold.tolist())
    assert len(set(inside.tolist()) - exact) > 50


def test_columns_may_be_taken_in_any_order():
    X, y, _ = make(0, 80, "squared_error", 0.1, False, p=5)
    chosen = np.array([3, 1, 1])
    taken = take_columns(rank_columns(X), chosen)
    one = grow_cart(taken, y, np.ones(80))
    two = grow_cart(X[:, chosen], y, np.ones(80))
    np.testing.assert_array_equal(one.feature, two.feature)
    np.testing.assert_array_equal(one.threshold, two.threshold)


def test_many_classes_and_many_categories():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 200, 3000)
    y = codes % 7
    X = codes[:, None].astype(np.float32)
    tree = grow_cart(X, y, np.ones(3000), criterion="gini", categorical=np.ones(1, bool))
    np.testing.assert_array_equal(predict_raw(pack([tree]), X).argmax(axis=0), y)
    assert tree.num_leaves == 7
    assert (tree.category_size[tree.category_start >= 0] == 7).all()


def test_strangers_go_with_the_missing():
    X = np.array([[0], [0], [0], [1], [1], [2]], np.float32)
    X[5] = np.nan
    y = np.array([0, 0, 0, 5, 5, 5.0])
    tree = grow_cart(X, y, np.ones(6), categorical=np.ones(1, bool))
    asked = np.array([[0], [1], [7], [40], [np.nan]], np.float32)
    assert predict_raw(pack([tree]), asked)[0].tolist() == [0, 5, 5, 5, 5]
