"""Voting against scikit-learn, by hand, and the ambiguity decomposition."""

import pickle

import numpy as np
import pytest
import sklearn.ensemble as peer
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_diabetes, load_iris
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from sklearn.utils.estimator_checks import check_estimator

from paragone.ensemble import DecisionTreeClassifier as OurTree
from paragone.ensemble import VotingClassifier, VotingRegressor, load_model


def members():
    return [
        ("tree", DecisionTreeClassifier(max_depth=1, random_state=0)),
        ("bayes", GaussianNB()),
        ("near", KNeighborsClassifier(3)),
    ]


def regressors():
    return [
        ("tree", DecisionTreeRegressor(max_depth=3, random_state=0)),
        ("line", LinearRegression()),
    ]


def test_check_estimator_of_hard_votes():
    two = [("stump", OurTree(max_depth=1)), ("tree", OurTree(max_depth=3))]
    check_estimator(VotingClassifier(two, voting="hard"), on_skip=None)


@pytest.mark.peers
@pytest.mark.parametrize("voting", ["soft", "hard"])
@pytest.mark.parametrize("weights", [None, [1.0, 2.5, 0.5]])
def test_classifier_equals_scikit_learn(voting, weights):
    X, y = load_iris(return_X_y=True)
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    ours = VotingClassifier(members(), voting=voting, weights=weights).fit(X, names)
    theirs = peer.VotingClassifier(members(), voting=voting, weights=weights).fit(X, names)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))
    if voting == "soft":
        np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=1e-12)
        np.testing.assert_allclose(ours.transform(X), theirs.transform(X), rtol=1e-12)
    else:
        assert not hasattr(ours, "predict_proba")
        assert set(ours.transform(X).ravel()) == set(names)
    assert ours.get_feature_names_out().shape == (ours.transform(X).shape[1],)


@pytest.mark.peers
def test_regressor_equals_scikit_learn():
    X, y = load_diabetes(return_X_y=True)
    weight = np.random.default_rng(0).uniform(0.5, 2, len(y))
    ours = VotingRegressor(regressors(), weights=[1, 3]).fit(X, y, weight)
    theirs = peer.VotingRegressor(regressors(), weights=[1, 3]).fit(X, y, sample_weight=weight)
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-12)


def test_error_of_the_mean_is_mean_error_less_ambiguity():
    X, y = load_diabetes(return_X_y=True)
    model = VotingRegressor(regressors(), weights=[1, 2]).fit(X, y)
    said, mean, share = model.transform(X), model.predict(X), np.array([1, 2]) / 3
    ambiguity = ((said - mean[:, None]) ** 2) @ share
    error = ((said - y[:, None]) ** 2) @ share
    np.testing.assert_allclose((mean - y) ** 2, error - ambiguity, rtol=1e-8, atol=1e-6)


class Fixed(GaussianNB):
    """Says the same label of every row."""

    def __init__(self, label=0):
        super().__init__()
        self.label = label

    def predict(self, X):
        return np.full(len(X), self.label)


@given(st.lists(st.tuples(st.integers(0, 2), st.floats(0.1, 5)), min_size=1, max_size=6))
@settings(deadline=None, max_examples=25)
def test_hard_votes_are_counted_with_weights(votes):
    X, y = load_iris(return_X_y=True)
    named = [(f"m{i}", Fixed(label)) for i, (label, _) in enumerate(votes)]
    model = VotingClassifier(named, voting="hard", weights=[w for _, w in votes]).fit(X, y)
    count = np.zeros(3)
    for label, weight in votes:
        count[label] += weight / sum(w for _, w in votes)
    assert model.predict(X[:1])[0] == count.argmax()


def test_drop_keeps_the_weights_of_the_others():
    X, y = load_iris(return_X_y=True)
    model = VotingClassifier(members(), weights=[5, 1, 3]).set_params(tree="drop").fit(X, y)
    np.testing.assert_allclose(model.weights_, [0.25, 0.75])
    assert list(model.named_estimators_) == ["bayes", "near"]


@pytest.mark.parametrize("kind", [VotingClassifier, VotingRegressor])
def test_default_members_pickle_json_and_threads(kind, tmp_path):
    X, y = load_iris(return_X_y=True)
    X[::9, 2] = np.nan
    model = kind(random_state=0).fit(X, y)
    assert model.score(X, y) > 0.95
    want = model.predict(X)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict(X), want)
    model.save_model(tmp_path / "votes.json")
    np.testing.assert_array_equal(load_model(tmp_path / "votes.json").predict(X), want)
    np.testing.assert_array_equal(kind(random_state=0, n_jobs=2).fit(X, y).predict(X), want)


@pytest.mark.parametrize(
    ("params", "word"),
    [
        ({"voting": "loud"}, "voting"),
        ({"weights": [1, 2]}, "one each"),
        ({"weights": [1, -1, 1]}, "weights"),
        ({"estimators": [("a", Ridge())]}, "no classifier"),
    ],
)
def test_bad_parameters_are_named(params, word):
    X, y = load_iris(return_X_y=True)
    with pytest.raises(ValueError, match=word):
        VotingClassifier(**{"estimators": members(), **params}).fit(X, y)
