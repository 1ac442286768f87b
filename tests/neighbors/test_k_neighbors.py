"""k-neighbour models against scikit-learn's, ties by lowest row, every algorithm alike."""

import pickle
from copy import deepcopy

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp
from scipy.spatial.distance import cdist
from sklearn import neighbors as peers
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, train_test_split

from paragone.neighbors import KNeighborsClassifier, KNeighborsRegressor

EXACT = ("auto", "kd_tree", "brute")


def problem(rows=230, columns=5, outputs=1, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, columns))
    score = X[:, :outputs] + 0.3 * rng.normal(size=(rows, outputs))
    return X, (score[:, 0] if outputs == 1 else score), rng.normal(size=(70, columns))


def classes(y):
    return np.array(["a", "b", "c"])[np.digitize(y, [-0.5, 0.4])]


def squared_inverse(distances):
    return 1.0 / (0.1 + distances**2)


@pytest.mark.peers
@pytest.mark.parametrize("algorithm", EXACT)
@pytest.mark.parametrize("weights", ["uniform", "distance", squared_inverse])
@pytest.mark.parametrize(
    "metric",
    [
        {}, {"p": 1}, {"p": 3}, {"metric": "chebyshev"}, {"metric": "manhattan"},
        {"p": 2, "metric_params": {"w": [1.0, 0.0, 2.0, 0.5, 3.0]}},
        {"p": 1, "metric_params": {"w": [1.0, 0.0, 2.0, 0.5, 3.0]}},
    ],
    ids=str,
)  # fmt: skip
def test_agrees_with_scikit_learn(algorithm, weights, metric):
    X, y, new = problem()
    new[0] = X[7]  # a distance of zero
    settings = {"n_neighbors": 6, "weights": weights, **metric}
    # scikit-learn writes p into the dict that it is given, and warns when it finds it there.
    theirs = peers.KNeighborsRegressor(algorithm="brute", **deepcopy(settings)).fit(X, y)
    ours = KNeighborsRegressor(algorithm=algorithm, **settings).fit(X, y)
    np.testing.assert_allclose(ours.predict(new), theirs.predict(new), rtol=1e-9)
    for a, b in zip(ours.kneighbors(new), theirs.kneighbors(new), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    theirs = peers.KNeighborsClassifier(algorithm="brute", **deepcopy(settings)).fit(X, classes(y))
    ours = KNeighborsClassifier(algorithm=algorithm, **settings).fit(X, classes(y))
    np.testing.assert_allclose(ours.predict_proba(new), theirs.predict_proba(new), rtol=1e-9)
    np.testing.assert_array_equal(ours.predict(new), theirs.predict(new))


@pytest.mark.peers
def test_several_outputs():
    X, y, new = problem(outputs=3)
    theirs, ours = (m.fit(X, y) for m in (peers.KNeighborsRegressor(), KNeighborsRegressor()))
    np.testing.assert_allclose(ours.predict(new), theirs.predict(new))
    weighed = [m.set_params(weights="distance") for m in (theirs, ours)]
    np.testing.assert_allclose(weighed[1].predict(new), weighed[0].predict(new))
    labels = np.stack([classes(y[:, 0]), classes(y[:, 1])], axis=1)
    theirs, ours = (
        m.fit(X, labels) for m in (peers.KNeighborsClassifier(), KNeighborsClassifier())
    )
    np.testing.assert_array_equal(ours.predict(new), theirs.predict(new))
    for a, b in zip(ours.predict_proba(new), theirs.predict_proba(new), strict=True):
        np.testing.assert_allclose(a, b)
    assert len(ours.classes_) == 2
    assert ours.outputs_2d_


@pytest.mark.peers
@pytest.mark.parametrize("mode", ["connectivity", "distance"])
def test_graph_and_left_out_rows(mode):
    X, y, new = problem()
    theirs, ours = (m.fit(X, y) for m in (peers.KNeighborsRegressor(), KNeighborsRegressor()))
    for queries in (new, None):
        a, b = (m.kneighbors_graph(queries, 4, mode) for m in (ours, theirs))
        np.testing.assert_allclose(a.toarray(), b.toarray())
    np.testing.assert_allclose(ours.predict(None), theirs.predict(None))
    np.testing.assert_allclose(ours.score(None, y), theirs.score(None, y))


def test_left_out_rows_with_duplicates():
    """More equal rows than neighbours: a row may be crowded out of its own list."""
    X = np.repeat([[0.0], [5.0]], 6, axis=0)
    model = KNeighborsRegressor(n_neighbors=2).fit(X, np.arange(12.0))
    rows = model.kneighbors(return_distance=False)
    assert (rows != np.arange(12)[:, None]).all()
    assert rows[4].tolist() == [0, 1]
    assert rows[1].tolist() == [0, 2]


def test_cosine_is_an_angle():
    X, y, new = problem()
    model = KNeighborsRegressor(metric="cosine").fit(X, y)
    distance, rows = model.kneighbors(new * 7.0)
    far = cdist(new, X, "cosine")
    np.testing.assert_array_equal(rows, np.argsort(far, axis=1)[:, :5])
    np.testing.assert_allclose(distance, np.sort(far, axis=1)[:, :5], atol=1e-12)


@pytest.mark.parametrize("algorithm", EXACT)
def test_ties_go_to_the_lowest_row_and_the_first_class(algorithm):
    X = np.array([[1.0], [-1.0], [1.0], [-1.0], [3.0]])
    model = KNeighborsClassifier(n_neighbors=2, algorithm=algorithm)
    model.fit(X, ["late", "early", "late", "early", "far"])
    assert model.kneighbors([[0.0]])[1].tolist() == [[0, 1]]
    assert model.predict([[0.0]]).tolist() == ["early"]
    assert model.kneighbors([[0.0]], 3)[1].tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("kind", [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("estimator", [KNeighborsClassifier, KNeighborsRegressor])
def test_exact_algorithms_agree_to_the_last_bit(estimator, kind):
    X, y = load_digits(return_X_y=True)
    train, test, y_train, _ = train_test_split(X.astype(kind), y, random_state=0)
    found = []
    for algorithm in EXACT:
        for jobs in (1, 2):
            model = estimator(3, weights="distance", algorithm=algorithm, n_jobs=jobs)
            found.append(model.fit(train, y_train).predict(test))
            parts = [model.predict(test[i : i + 50]) for i in range(0, len(test), 50)]
            np.testing.assert_array_equal(found[-1], np.concatenate(parts))
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)


def test_forest_is_nearly_as_good_on_digits():
    X, y = load_digits(return_X_y=True)
    train, test, y_train, y_test = train_test_split(X, y, random_state=0)
    exact = KNeighborsClassifier(3).fit(train, y_train).score(test, y_test)
    model = KNeighborsClassifier(3, algorithm="kd_forest", checks=100).fit(train, y_train)
    assert exact > 0.97
    assert model.score(test, y_test) > exact - 0.02
    assert model.search_.startswith("forest")
    np.testing.assert_array_equal(
        model.predict(test), clone(model).set_params(n_jobs=2).fit(train, y_train).predict(test)
    )


@pytest.mark.parametrize("form", [sp.csr_matrix, sp.csc_array])
def test_sparse_tables_are_filled(form):
    X, y, new = problem()
    X, new = np.where(np.abs(X) < 0.7, 0, X), np.where(np.abs(new) < 0.7, 0, new)
    dense, sparse = (KNeighborsRegressor().fit(table, y) for table in (X, form(X)))
    np.testing.assert_array_equal(dense.predict(new), sparse.predict(form(new)))


def test_sparse_tables_too_large_to_fill_are_refused():
    huge = sp.csr_matrix((3, 2**26))
    with pytest.raises(ValueError, match="TruncatedSVD"):
        KNeighborsRegressor(n_neighbors=1).fit(huge, np.arange(3))


@pytest.mark.parametrize("algorithm", [*EXACT, "kd_forest"])
def test_every_layout_and_frame_of_the_same_numbers(algorithm):
    X, y, new = problem()
    model = KNeighborsRegressor(algorithm=algorithm, checks=60).fit(X, y)
    expected = model.predict(new)
    wide = np.repeat(new, 2, axis=1)
    for table in (np.asfortranarray(new), wide[:, ::2], new[::-1][::-1], new.tolist()):
        np.testing.assert_array_equal(model.predict(table), expected)
    for frame in (pd.DataFrame, pl.DataFrame):
        columns = [dict(zip("abcde", table.T, strict=True)) for table in (X, new)]
        model.fit(frame(columns[0]), y)
        np.testing.assert_array_equal(model.predict(frame(columns[1])), expected)
        assert model.feature_names_in_.tolist() == list("abcde")


def test_an_offset_of_a_million_and_sizes_at_the_edge():
    X, y, new = problem()
    X, new = np.round(X * 50), np.round(new * 50)
    for rows in (5, 63, 64, 65, 230):
        near = KNeighborsRegressor().fit(X[:rows], y[:rows]).predict(new)
        far = KNeighborsRegressor().fit(X[:rows] + 1e6, y[:rows]).predict(new + 1e6)
        np.testing.assert_array_equal(near, far)


def test_pickle_and_grid_search():
    X, y, new = problem()
    model = KNeighborsRegressor(algorithm="kd_tree").fit(X, y)
    before = model.predict(new)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict(new), before)
    search = GridSearchCV(KNeighborsClassifier(), {"n_neighbors": [1, 15]}, cv=3)
    assert search.fit(X, classes(y)).best_params_ == {"n_neighbors": 15}


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n_neighbors": 0}, "n_neighbors=0"), ({"n_neighbors": 2.5}, "n_neighbors=2.5"),
        ({"algorithm": "ball_tree"}, "algorithm='ball_tree'"), ({"checks": 0}, "checks=0"),
        ({"weights": "gauss"}, "weights='gauss'"), ({"metric": "haversine"}, "metric='haversine'"),
        ({"p": 0.5}, "p=0.5"), ({"metric_params": {"V": 1}}, "unknown keys"),
        ({"metric_params": {"w": [1.0]}}, "must hold 5"),
        ({"metric_params": {"w": [-1.0] * 5}}, "must hold 5"),
        ({"metric": "cosine", "metric_params": {"w": [1.0] * 5}}, None),
        ({"metric": "euclidean", "metric_params": {"w": [1.0] * 5}}, "needs metric="),
    ],
    ids=str,
)  # fmt: skip
def test_refusals(params, message):
    X, y, _ = problem()
    with pytest.raises(ValueError, match=message):
        KNeighborsRegressor(**params).fit(X, y)


def test_refusals_at_the_query():
    X, y, new = problem()
    model = KNeighborsClassifier(n_neighbors=300).fit(X, classes(y))
    with pytest.raises(ValueError, match="lower n_neighbors"):
        model.predict(new)
    with pytest.raises(ValueError, match="NaN"):
        model.predict(np.full((1, 5), np.nan))
    with pytest.raises(ValueError, match="mode='both'"):
        model.kneighbors_graph(new, 3, "both")
    model = KNeighborsClassifier(weights=np.zeros_like).fit(X, classes(y))
    with pytest.raises(ValueError, match="weight zero"):
        model.predict(new)
    model = KNeighborsClassifier(weights=lambda d: d[0]).fit(X, classes(y))
    with pytest.raises(ValueError, match="one weight for each"):
        model.predict(new)
