"""AdaBoost against scikit-learn's weights, brute-force trees, and its own stop rules."""

import pickle

import numba
import numpy as np
import pytest
import sklearn.ensemble as peer
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from sklearn.utils.estimator_checks import check_estimator

from paragone.ensemble import AdaBoostClassifier, AdaBoostRegressor, load_model
from paragone.ensemble._adaboost_members import weighted_medians
from paragone.ensemble._binning import bin_features
from paragone.ensemble._predict import apply, pack
from paragone.ensemble._shallow import ShallowGrower

SETS = {"cancer": load_breast_cancer, "wine": load_wine, "digits": load_digits}


def few_values(n=300, p=4, classes=3, seed=0):
    """Columns of at most 40 values: bins are then the values themselves."""
    rng = np.random.default_rng(seed)
    X = rng.integers(0, 40, (n, p)).astype(np.float32)
    noise = rng.integers(0, 25, n)
    y = np.minimum((X[:, 0] + 0.5 * X[:, 1] + noise) // (85 / classes), classes - 1)
    return X, y.astype(int)


def test_check_estimator_of_the_other_sampling():
    check_estimator(AdaBoostClassifier(n_estimators=5, sampling="resample"), on_skip=None)
    check_estimator(AdaBoostRegressor(n_estimators=5, sampling="weights"), on_skip=None)


@pytest.mark.peers
@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("rate", [1.0, 0.3])
def test_samme_equals_scikit_learn_with_the_same_learner(name, rate):
    X, y = SETS[name](return_X_y=True)
    weight = np.random.default_rng(0).uniform(0.5, 2.0, len(y))
    base = DecisionTreeClassifier(max_depth=1)
    ours = AdaBoostClassifier(base, n_estimators=25, learning_rate=rate, random_state=0)
    theirs = peer.AdaBoostClassifier(base, n_estimators=25, learning_rate=rate, random_state=0)
    ours.fit(X, y, weight)
    theirs.fit(X, y, weight)
    np.testing.assert_allclose(ours.estimator_weights_, theirs.estimator_weights_, atol=1e-9)
    np.testing.assert_allclose(ours.estimator_errors_, theirs.estimator_errors_, atol=1e-9)
    decision = theirs.decision_function(X)
    np.testing.assert_allclose(ours.decision_function(X), decision, atol=1e-9)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-9)
    for mine, other in zip(ours.staged_score(X, y), theirs.staged_score(X, y), strict=True):
        assert mine == pytest.approx(other)


@pytest.mark.peers
@pytest.mark.parametrize("loss", ["linear", "square", "exponential"])
def test_r2_with_resampling_equals_scikit_learn(loss):
    X, y = load_diabetes(return_X_y=True)
    base = DecisionTreeRegressor(max_depth=3)
    ours = AdaBoostRegressor(base, loss=loss, sampling="resample", random_state=3).fit(X, y)
    theirs = peer.AdaBoostRegressor(base, loss=loss, random_state=3).fit(X, y)
    size = ours.n_estimators_
    assert size == len(theirs.estimators_)
    np.testing.assert_allclose(ours.estimator_weights_, theirs.estimator_weights_[:size], atol=1e-9)
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), atol=1e-9)
    for mine, other in zip(ours.staged_predict(X), theirs.staged_predict(X), strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-9)


@pytest.mark.peers
@pytest.mark.parametrize("classes", [2, 3])
def test_default_stumps_equal_exact_stumps_where_bins_are_values(classes):
    X, y = few_values(classes=classes)
    ours = AdaBoostClassifier(n_estimators=30).fit(X, y)
    theirs = peer.AdaBoostClassifier(DecisionTreeClassifier(max_depth=1), n_estimators=30)
    theirs.fit(X, y)
    np.testing.assert_allclose(ours.estimator_weights_, theirs.estimator_weights_, atol=1e-9)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))
    share = theirs.feature_importances_
    np.testing.assert_allclose(ours.feature_importances_, share, atol=1e-9)


def best_gini(X, y, weight, classes):
    """The greatest gain of any split of any column, by trying all, missing on both sides."""

    def score(rows):
        mass = np.bincount(y[rows], weight[rows], minlength=classes)
        return (mass**2).sum() / mass.sum() if mass.sum() > 0 else 0.0

    best, parent = 0.0, score(np.ones(len(y), bool))
    for column in X.T:
        for cut in [*np.unique(column[~np.isnan(column)]), np.inf]:
            for missing_left in (False, True):
                left = (column <= cut) | (np.isnan(column) & missing_left)
                if weight[left].sum() > 0 and weight[~left].sum() > 0:
                    best = max(best, score(left) + score(~left) - parent)
    return best


@given(st.integers(2, 25), st.integers(1, 3), st.integers(2, 3), st.integers(0, 10**6))
@settings(deadline=None, max_examples=60)
def test_stump_is_the_best_of_all_splits(n, p, classes, seed):
    rng = np.random.default_rng(seed)
    X = rng.integers(0, 5, (n, p)).astype(np.float32)
    X[rng.random((n, p)) < 0.2] = np.nan
    y, weight = rng.integers(0, classes, n), rng.uniform(0.1, 2, n)
    binned = bin_features(X, np.zeros(p, bool))
    tree, node = ShallowGrower(binned, y, classes, 1).grow(weight)
    np.testing.assert_allclose(tree.gain[0], best_gini(X, y, weight, classes), atol=1e-9)
    np.testing.assert_array_equal(node, apply(pack([tree]), X)[:, 0])
    share = np.bincount(y[node == node[0]], weight[node == node[0]], minlength=classes)
    np.testing.assert_allclose(tree.value[node[0]], share / share.sum())


def test_brute_force_catches_a_tree_that_ignores_weights():
    X, y = few_values(60)
    weight = np.random.default_rng(1).uniform(0.01, 5, 60)
    tree, _ = ShallowGrower(bin_features(X, np.zeros(4, bool)), y, 3, 1).grow(np.ones(60))
    assert abs(tree.gain[0] - best_gini(X, y, weight, 3)) > 1e-3


@pytest.mark.peers
@pytest.mark.parametrize("depth", [1, 3, 5])
def test_shallow_regression_tree_equals_scikit_learn_at_any_offset(depth):
    rng = np.random.default_rng(0)
    X = rng.integers(0, 50, (400, 3)).astype(np.float32)
    y = X[:, 0] * np.sin(X[:, 1]) + rng.normal(size=400) + 1e6
    weight = rng.uniform(0.5, 2.0, 400)
    tree, node = ShallowGrower(bin_features(X, np.zeros(3, bool)), y, None, depth).grow(weight)
    theirs = DecisionTreeRegressor(max_depth=depth, random_state=0).fit(X, y - 1e6, weight)
    np.testing.assert_allclose(tree.value[node, 0] - 1e6, theirs.predict(X), atol=1e-7)
    assert tree.num_leaves == theirs.get_n_leaves()
    leaves = tree.feature < 0
    assert tree.count[leaves].sum() == tree.count[0] == 400
    np.testing.assert_allclose(tree.cover[leaves].sum(), weight.sum())


def test_stops_at_no_error_and_keeps_that_learner():
    X = np.arange(10.0)[:, None]
    model = AdaBoostClassifier().fit(X, X[:, 0] > 4)
    assert model.n_estimators_ == 1
    np.testing.assert_array_equal(model.estimator_weights_, [1.0])
    np.testing.assert_array_equal(model.estimator_errors_, [0.0])


def test_a_learner_no_better_than_a_coin_goes_unless_it_is_the_only_one():
    X, y = np.zeros((10, 1)), np.arange(10) % 2
    model = AdaBoostClassifier(DummyClassifier()).fit(X, y)
    assert model.n_estimators_ == 1
    assert np.isfinite(model.predict_proba(X)).all()
    X, y = few_values(80, classes=2)
    model = AdaBoostClassifier(DecisionTreeClassifier(max_depth=1), learning_rate=50.0).fit(X, y)
    assert model.n_estimators_ < 50
    assert np.all(model.estimator_errors_ < 0.5)


def test_r2_stops_at_half_and_at_a_perfect_fit():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 2)), rng.normal(size=60)
    model = AdaBoostRegressor(LinearRegression(), n_estimators=200, random_state=0).fit(X, y)
    assert 1 <= model.n_estimators_ < 200
    assert np.all(model.estimator_errors_ < 0.5)
    X = np.arange(64.0)[:, None]
    y = X[:, 0] // 8 / 3 + 1e5
    exact = AdaBoostRegressor(max_depth=3, sampling="weights").fit(X, y)
    assert exact.n_estimators_ == 1
    np.testing.assert_allclose(exact.predict(X), y, rtol=1e-12)
    deep = AdaBoostRegressor(max_depth=20, sampling="weights").fit(X, X[:, 0])
    assert deep.score(X, X[:, 0]) == 1


def test_a_thousand_rounds_keep_finite_weights():
    X, y = few_values(100, classes=2)
    model = AdaBoostClassifier(n_estimators=1000, max_depth=2).fit(X, y)
    assert np.isfinite(model.estimator_weights_).all()
    assert np.isfinite(model.decision_function(X)).all()
    # The vote fits the rows better than any one learner.
    assert model.score(X, y) >= 1 - model.estimator_errors_[0]


def test_early_stopping_keeps_the_best_round_of_the_same_rounds():
    X, y = few_values(400, classes=2, seed=4)
    model = AdaBoostClassifier(n_estimators=200, n_iter_no_change=8, random_state=0).fit(X, y)
    scores = model.validation_score_
    assert len(scores) < 200
    assert model.n_estimators_ == 1 + scores.argmin() == len(model.trees_)
    regressor = AdaBoostRegressor(n_estimators=60, n_iter_no_change=5, random_state=0)
    regressor.fit(X, X[:, 0] + y)
    assert regressor.n_estimators_ == 1 + regressor.validation_score_.argmin()


def test_resampling_serves_learners_without_weights():
    X, y = few_values(120, classes=2)
    base = KNeighborsClassifier(3)
    with pytest.raises(ValueError, match="resample"):
        AdaBoostClassifier(base).fit(X, y)
    model = AdaBoostClassifier(base, sampling="resample", n_estimators=5, random_state=0)
    again = AdaBoostClassifier(base, sampling="resample", n_estimators=5, random_state=0)
    assert model.fit(X, y).score(X, y) > 0.8
    np.testing.assert_array_equal(model.predict_proba(X), again.fit(X, y).predict_proba(X))


def test_any_estimator_frames_and_text_labels():
    import pandas as pd

    X, y = few_values(150)
    frame = pd.DataFrame(X, columns=list("abcd"))
    labels = np.array(["x", "yy", "zzz"])[y]
    model = AdaBoostClassifier(LogisticRegression(max_iter=500), n_estimators=3)
    model.fit(frame, labels)
    assert set(model.predict(frame)) <= set(labels)
    np.testing.assert_array_equal(model.feature_names_in_, list("abcd"))
    with pytest.raises(AttributeError, match="feature_importances_"):
        _ = model.feature_importances_
    scaled = AdaBoostClassifier(
        make_pipeline(StandardScaler(), LogisticRegression()), sampling="resample", n_estimators=2
    )
    assert scaled.fit(frame, labels).n_estimators_ <= 2


def test_categories_and_missing_values():
    import pandas as pd

    rng = np.random.default_rng(0)
    color = rng.choice(["red", "green", "blue", "grey"], 300)
    size = rng.normal(size=300)
    size[rng.random(300) < 0.3] = np.nan
    y = np.isin(color, ["red", "blue"]) ^ (np.nan_to_num(size) > 1)
    frame = pd.DataFrame({"color": pd.Categorical(color), "size": size})
    assert AdaBoostClassifier(max_depth=2).fit(frame, y).score(frame, y) > 0.9
    y = np.where(np.isnan(size), 3.0, 0.0)
    assert (
        AdaBoostRegressor(random_state=0).fit(frame[["size"]], y).score(frame[["size"]], y) > 0.99
    )


def test_a_bootstrap_ignores_the_order_of_rows_and_takes_weights_as_frequencies():
    X, y = few_values(120)
    y = y + X[:, 2] / 40
    weight = np.random.default_rng(2).integers(0, 4, 120)
    model = AdaBoostRegressor(random_state=0, n_estimators=20).fit(X, y, weight)
    order = np.random.default_rng(3).permutation(np.repeat(np.arange(120), weight))
    again = AdaBoostRegressor(random_state=0, n_estimators=20).fit(X[order], y[order])
    np.testing.assert_allclose(model.estimator_weights_, again.estimator_weights_, rtol=1e-9)
    other = AdaBoostRegressor(random_state=1, n_estimators=20).fit(X, y, weight)
    assert abs(other.estimator_weights_[0] - model.estimator_weights_[0]) > 1e-6


@pytest.mark.parametrize("kind", [AdaBoostClassifier, AdaBoostRegressor])
def test_pickle_json_and_threads_give_the_same_predictions(kind, tmp_path):
    X, y = few_values(500)
    model = kind(n_estimators=12, random_state=0).fit(X, y)
    want = model.predict(X)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict(X), want)
    model.save_model(tmp_path / "model.json")
    np.testing.assert_array_equal(load_model(tmp_path / "model.json").predict(X), want)
    most = numba.config.NUMBA_NUM_THREADS
    for threads in {1, most}:
        np.testing.assert_array_equal(
            kind(n_estimators=12, random_state=0, n_jobs=threads).fit(X, y).predict(X), want
        )


@given(st.integers(1, 6), st.integers(0, 10**6))
@settings(deadline=None, max_examples=40)
def test_weighted_median_equals_repetition(columns, seed):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 9, (5, columns)).astype(float)
    weight = rng.integers(1, 5, columns)
    repeated = np.sort(np.repeat(values, weight, axis=1), axis=1)
    want = repeated[:, (weight.sum() - 1) // 2]
    np.testing.assert_array_equal(weighted_medians(values, weight.astype(float)), want)


@pytest.mark.parametrize(
    ("params", "word"),
    [
        ({"n_estimators": 0}, "n_estimators"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"sampling": "bags"}, "sampling"),
        ({"max_depth": 0}, "max_depth"),
        ({"n_iter_no_change": 3, "validation_fraction": 1.0}, "validation_fraction"),
    ],
)
def test_bad_parameters_are_named(params, word):
    X, y = few_values(30)
    with pytest.raises(ValueError, match=word):
        AdaBoostClassifier(**params).fit(X, y)
    with pytest.raises(ValueError, match="loss"):
        AdaBoostRegressor(loss="cubic").fit(X, y)
