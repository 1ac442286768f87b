"""Importances against sums written out, scikit-learn's own, and the definition of a shuffle."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp
from sklearn.inspection import permutation_importance as peer
from sklearn.linear_model import LinearRegression
from sklearn.metrics import mean_squared_error
from sklearn.tree import DecisionTreeRegressor

from paragone.ensemble._importance import permutation_importance, tree_importances
from paragone.ensemble._tree import LEAF, Tree


def tree(columns, gains, covers):
    """A chain of splits, one a level."""
    inner = len(columns)
    size = 2 * inner + 1
    feature = np.full(size, LEAF, np.int32)
    gain, cover = np.zeros(size), np.ones(size)
    feature[0 : 2 * inner : 2], gain[0 : 2 * inner : 2] = columns, gains
    cover[0 : 2 * inner : 2] = covers
    left = np.where(feature == LEAF, 0, np.arange(size) + 1).astype(np.int32)
    ints = np.zeros(size, np.int32)
    return Tree(
        feature, np.zeros(size, np.float32), left, ints.astype(bool), np.zeros((size, 1)), gain,
        cover, ints, ints - 1, ints,
    )  # fmt: skip


FOREST = [tree([0, 2, 0], [6.0, 2.0, 2.0], [9, 5, 3]), [tree([2], [30.0], [8])], tree([], [], [])]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("gain", [8, 0, 32, 0]),
        ("mean_gain", [4, 0, 16, 0]),
        ("cover", [12, 0, 13, 0]),
        ("mean_cover", [6, 0, 6.5, 0]),
        ("splits", [2, 0, 2, 0]),
    ],
)
def test_sums_written_out(kind, expected):
    got = tree_importances(FOREST, 4, kind=kind, normalize=False)
    np.testing.assert_allclose(got, expected)
    shares = tree_importances(FOREST, 4, kind=kind)
    np.testing.assert_allclose(shares, np.array(expected) / np.sum(expected))


def test_each_tree_counts_the_same():
    got = tree_importances(FOREST, 3, each=True)
    np.testing.assert_allclose(got, [0.4, 0.0, 0.6])
    assert not tree_importances(FOREST[2:], 3).any()
    with pytest.raises(ValueError, match="kind='gini' is none of gain"):
        tree_importances(FOREST, 3, kind="gini")


@pytest.mark.peers
def test_gain_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 5)).astype(np.float32)
    y = X[:, 0] * X[:, 1] + X[:, 2]
    model = DecisionTreeRegressor(max_depth=5, random_state=0).fit(X, y).tree_
    weight = model.weighted_n_node_samples
    a, b = model.children_left, model.children_right
    lost = weight * model.impurity - weight[a] * model.impurity[a] - weight[b] * model.impurity[b]
    inner = a >= 0
    ours = tree(model.feature[inner], lost[inner], weight[inner])
    np.testing.assert_allclose(tree_importances([ours], 5), model.compute_feature_importances())


class Last:
    """A scorer that remembers which tables it was shown."""

    def __init__(self):
        self.seen = []

    def __call__(self, estimator, X, y, sample_weight=None):
        self.seen.append(np.asarray(X))
        return -mean_squared_error(y, estimator.predict(X), sample_weight=sample_weight)


@pytest.fixture(scope="module")
def linear():
    rng = np.random.default_rng(1)
    X = rng.normal(size=(400, 3))
    y = X @ [1.0, 2.0, 0.0]
    return LinearRegression().fit(X, y), X, y


def test_only_the_named_column_is_shuffled(linear):
    model, X, y = linear
    scorer = Last()
    permutation_importance(model, X, y, scoring=scorer, num_repeats=2, random_state=0)
    assert len(scorer.seen) == 1 + 3 * 2
    for number, table in enumerate(scorer.seen[1:]):
        j = number // 2
        np.testing.assert_array_equal(np.delete(table, j, 1), np.delete(X, j, 1))
        assert not np.array_equal(table[:, j], X[:, j])
        np.testing.assert_array_equal(np.sort(table[:, j]), np.sort(X[:, j]))


def test_expected_drop_of_a_linear_model(linear):
    """Shuffling x_j costs 2 w_j^2 var(x_j) of squared error on average (n / (n - 1) aside)."""
    model, X, y = linear
    scoring = "neg_mean_squared_error"
    got = permutation_importance(model, X, y, scoring=scoring, num_repeats=60, random_state=0)
    expected = 2 * np.array([1.0, 4.0, 0.0]) * X.var(axis=0)
    error = got.importances_std / np.sqrt(60) * 4 + 1e-12
    assert np.all(np.abs(got.importances_mean - expected) < error)


@pytest.mark.peers
def test_agrees_with_scikit_learn(linear):
    model, X, y = linear
    ours = permutation_importance(model, X, y, num_repeats=40, random_state=0)
    theirs = peer(model, X, y, n_repeats=40, random_state=0)
    error = 4 * np.hypot(ours.importances_std, theirs.importances_std) / np.sqrt(40) + 1e-12
    assert np.all(np.abs(ours.importances_mean - theirs.importances_mean) < error)
    assert ours.importances.shape == theirs.importances.shape


class Column(LinearRegression):
    """Predicts from tables of any library."""

    def predict(self, X):
        return super().predict(X.to_numpy() if hasattr(X, "to_numpy") else X)


def test_every_kind_of_table_gives_the_same(linear):
    _, X, y = linear
    model = Column().fit(X, y)
    weight = np.random.default_rng(2).uniform(size=len(y))
    tables = [
        pd.DataFrame(X, columns=list("abc"), index=np.arange(len(X)) + 7),
        pl.DataFrame(X, schema=list("abc")),
        sp.csr_array(X),
        X.tolist(),
    ]
    kwargs = {"num_repeats": 2, "random_state": 3, "sample_weight": weight}
    expected = permutation_importance(model, X, y, **kwargs).importances
    assert expected[1].min() > expected[0].max() > 0
    np.testing.assert_allclose(expected[2], 0, atol=1e-14)
    for table in tables:
        got = permutation_importance(model, table, y, **kwargs).importances
        np.testing.assert_allclose(got, expected, atol=1e-12)
    with pytest.raises(ValueError, match="num_repeats=0"):
        permutation_importance(model, X, y, num_repeats=0)
