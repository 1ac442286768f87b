import pickle

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import sklearn.ensemble as peers
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import datasets
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier as PeerTree

from paragone.ensemble import (
    BaggingClassifier,
    BaggingRegressor,
    DecisionTreeClassifier,
    DecisionTreeRegressor,
    load_model,
)
from paragone.ensemble._bootstrap import RowSampler, row_keys

KINDS = [BaggingClassifier, BaggingRegressor]


def load(kind, rows=None):
    name = "wine" if kind is BaggingClassifier else "diabetes"
    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    return X[:rows], y[:rows]


def says(bag, X):
    return bag.predict_proba(X) if hasattr(bag, "classes_") else bag.predict(X)


def member_says(bag, t, X):
    X = X[:, bag.estimators_features_[t]]
    member = bag.estimators_[t]
    return member.predict_proba(X) if hasattr(bag, "classes_") else member.predict(X)[:, None]


MEMBERS = {
    BaggingClassifier: [None, KNeighborsClassifier(), make_pipeline(PeerTree())],
    BaggingRegressor: [None, KNeighborsRegressor(), Ridge()],
}
CASES = [(kind, member) for kind, members in MEMBERS.items() for member in members]


@pytest.mark.parametrize(("kind", "member"), CASES, ids=str)
@pytest.mark.parametrize("options", [{}, {"max_features": 0.5, "bootstrap_features": True}])
def test_predictions_and_out_of_bag_are_means_of_the_members(kind, member, options):
    X, y = load(kind)
    bag = kind(member, 25, oob_score=True, random_state=0, **options).fit(X, y)
    shares = [member_says(bag, t, X) for t in range(25)]
    np.testing.assert_allclose(np.reshape(says(bag, X), shares[0].shape), np.mean(shares, axis=0))
    codes = np.searchsorted(bag.classes_, y) if hasattr(bag, "classes_") else y
    seen = X.astype(np.float32) if member is None else X
    sampler = RowSampler(row_keys(seen, codes), np.ones(len(y)), None, replace=True)
    total, times = np.zeros_like(shares[0]), np.zeros((len(y), 1))
    for t in range(25):
        drawn = sampler.counts(np.random.default_rng([bag._seed, t]))
        total += (drawn == 0)[:, None] * shares[t]
        times += (drawn == 0)[:, None]
    means = total / times
    if kind is BaggingClassifier:
        np.testing.assert_allclose(bag.oob_decision_function_, means)
        score = accuracy_score(y, bag.classes_[means.argmax(axis=1)])
    else:
        np.testing.assert_allclose(bag.oob_prediction_, means[:, 0])
        score = r2_score(y, means[:, 0])
    assert bag.oob_score_ == pytest.approx(score)
    assert np.abs(means - np.mean(shares, axis=0)).max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_our_trees_are_fitted_as_if_one_by_one(kind):
    X, y = load(kind)
    tree = DecisionTreeClassifier if kind is BaggingClassifier else DecisionTreeRegressor
    bag = kind(tree(min_samples_leaf=9), 6, max_features=0.6, random_state=0).fit(X, y)
    codes = np.searchsorted(bag.classes_, y) if hasattr(bag, "classes_") else y
    sampler = RowSampler(row_keys(X.astype(np.float32), codes), np.ones(len(y)), None, True)
    for t, member in enumerate(bag.estimators_):
        counts = sampler.counts(np.random.default_rng([bag._seed, t]))
        part = X[:, bag.estimators_features_[t]]
        assert part.shape[1] == int(0.6 * X.shape[1]) == member.n_features_in_
        alone = tree(min_samples_leaf=9).fit(part, codes, sample_weight=counts)
        assert member.get_n_leaves() == alone.get_n_leaves()
        np.testing.assert_allclose(member.tree_.gain[0], alone.tree_.gain[0])
        assert np.mean(member.predict(part) == alone.predict(part)) > 0.9


@pytest.mark.parametrize(("kind", "member"), CASES, ids=str)
def test_threads_do_not_change_the_bag(kind, member):
    X, y = load(kind)
    one = kind(member, 6, n_jobs=1, random_state=3).fit(X, y)
    two = kind(member, 6, n_jobs=2, random_state=3).fit(X, y)
    np.testing.assert_array_equal(says(one, X), says(two, X))


@pytest.mark.parametrize(("kind", "member"), CASES, ids=str)
@pytest.mark.parametrize("options", [{}, {"bootstrap": False, "max_samples": 0.7}], ids=str)
def test_weight_two_is_the_row_twice(kind, member, options):
    if isinstance(member, KNeighborsClassifier | KNeighborsRegressor):
        member = type(member)(n_neighbors=1)
    X, y = load(kind, 110)
    weight = np.random.default_rng(0).integers(0, 4, len(y))
    again = np.repeat(np.arange(len(y)), weight)
    one = kind(member, 7, random_state=0, **options).fit(X, y, sample_weight=weight)
    two = kind(member, 7, random_state=0, **options).fit(X[again], y[again])
    if isinstance(member, type(make_pipeline(PeerTree()))):
        assert np.mean(one.predict(X) == two.predict(X)) > 0.9
    else:
        np.testing.assert_allclose(says(one, X), says(two, X), rtol=1e-6)


@pytest.mark.peers
@pytest.mark.parametrize("name", ["iris", "wine", "breast_cancer", "diabetes", "friedman"])
def test_quality_is_within_one_deviation_of_scikit_learn(name):
    if name == "friedman":
        X, y = datasets.make_friedman1(400, noise=1.0, random_state=0)
    else:
        X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    kind = "Classifier" if len(np.unique(y)) < 20 else "Regressor"
    ours = BaggingClassifier if kind == "Classifier" else BaggingRegressor
    scores = []
    for seed in range(16):
        train, test = train_test_split(np.arange(len(y)), test_size=0.3, random_state=seed)
        pair = [
            model(n_estimators=20, random_state=seed).fit(X[train], y[train])
            for model in (ours, getattr(peers, f"Bagging{kind}"))
        ]
        scores.append([bag.score(X[test], y[test]) for bag in pair])
    mean, deviation = np.mean(scores, axis=0), np.std(scores, axis=0, ddof=1)
    assert mean[0] >= mean[1] - deviation[1]


def test_members_without_probabilities_vote():
    X, y = load(BaggingClassifier)
    member = make_pipeline(StandardScaler(), LinearSVC())
    bag = BaggingClassifier(member, 8, random_state=0).fit(X, y)
    shares = bag.predict_proba(X)
    assert set(np.round(shares.ravel() * 8, 9)) <= set(range(9))
    assert bag.score(X, y) > 0.95


def test_members_may_miss_a_class():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 2))
    y = np.array(["a"] * 29 + ["b"] * 29 + ["rare"] * 2)
    X[58:] += 9
    for member in (None, KNeighborsClassifier(1), make_pipeline(PeerTree())):
        bag = BaggingClassifier(member, 12, max_samples=10, random_state=0).fit(X, y)
        shares = bag.predict_proba(X)
        assert shares.shape == (60, 3)
        np.testing.assert_allclose(shares.sum(axis=1), 1)
        assert any(len(getattr(m, "classes_", [])) < 3 for m in bag.estimators_) or member is None


def test_frames_sparse_tables_and_text_reach_the_members():
    X, y = load(BaggingClassifier)
    X = StandardScaler().fit_transform(X)
    frame = pd.DataFrame(X, columns=[f"c{j}" for j in range(13)])
    bag = BaggingClassifier(LogisticRegression(), 4, max_features=5, random_state=0)
    plain = says(bag.fit(X, y), X)
    np.testing.assert_allclose(says(bag.fit(frame, y), frame), plain)
    assert all(len(member.feature_names_in_) == 5 for member in bag.estimators_)
    np.testing.assert_allclose(
        says(bag.fit(sp.csr_matrix(X), y), sp.csr_matrix(X)), plain, rtol=1e-4
    )
    town = pd.DataFrame({"town": ["Rome", "Bari"] * 40, "size": np.arange(80.0)})
    target = np.where(town["town"] == "Rome", "big", "small")
    assert BaggingClassifier(random_state=0).fit(town, target).score(town, target) == 1


@pytest.mark.parametrize(("kind", "member"), CASES, ids=str)
def test_warm_start_makes_the_bag_that_one_fit_makes(kind, member):
    X, y = load(kind)
    warm = kind(member, 3, warm_start=True, random_state=0).fit(X, y)
    first = warm.estimators_[0]
    warm.set_params(n_estimators=7).fit(X, y)
    assert warm.estimators_[0] is first
    assert len(warm.estimators_features_) == 7
    once = kind(member, 7, random_state=0).fit(X, y)
    np.testing.assert_array_equal(says(warm, X), says(once, X))
    with pytest.raises(ValueError, match="less than the 7 members"):
        warm.set_params(n_estimators=2).fit(X, y)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bag_comes_back_from_pickle_and_json(kind, tmp_path):
    X, y = load(kind)
    bag = kind(None, 4, max_features=0.7, random_state=0).fit(X, y)
    bag.save_model(tmp_path / "bag.json")
    for back in (pickle.loads(pickle.dumps(bag)), load_model(tmp_path / "bag.json")):
        np.testing.assert_array_equal(says(back, X), says(bag, X))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n_estimators": 0}, "n_estimators=0"),
        ({"max_features": 14}, "from 1 to 13"),
        ({"max_features": 0.0}, r"max_features=0.0"),
        ({"max_samples": 179, "bootstrap": False}, "between 1 and the 178 rows"),
        ({"oob_score": True, "bootstrap": False}, "rows left out"),
    ],
)
def test_a_wrong_option_is_named(options, words):
    X, y = load(BaggingClassifier)
    with pytest.raises(ValueError, match=words):
        BaggingClassifier(**options).fit(X, y)


def test_weights_that_are_no_frequencies_need_a_learner_that_takes_them():
    X, y = load(BaggingClassifier)
    weight = np.linspace(0.1, 1, len(y))
    bag = BaggingClassifier(KNeighborsClassifier(), 2, random_state=0)
    assert bag.fit(X, y, sample_weight=weight).score(X, y) > 0.5
    with pytest.raises(ValueError, match="takes no sample_weight"):
        bag.set_params(bootstrap=False).fit(X, y, sample_weight=weight)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6), n=st.integers(1, 40), replace=st.booleans(), whole=st.booleans(),
    share=st.sampled_from([None, 0.4, 1.0, 1]),
)  # fmt: skip
def test_samples_have_their_size_and_never_hold_a_row_of_weight_zero(
    seed, n, replace, whole, share
):
    rng = np.random.default_rng(seed)
    weight = rng.integers(0, 4, n).astype(float) if whole else rng.random(n)
    weight[rng.integers(n)] = 1.0
    sampler = RowSampler(rng.integers(0, 2**63, n, dtype=np.uint64), weight, share, replace)
    counts = sampler.counts(np.random.default_rng(seed))
    assert np.all(counts[weight == 0] == 0)
    if replace or whole:
        assert counts.sum() == sampler.size
        assert np.all(counts == np.floor(counts))
    if not replace:
        assert np.all(counts <= weight)
        assert np.count_nonzero(counts) <= max(sampler.size, np.count_nonzero(weight))


def test_samples_follow_the_weights():
    weight = np.array([0.0, 1.0, 2.0, 5.0])
    sampler = RowSampler(np.arange(4, dtype=np.uint64), weight, None, replace=True)
    rng = np.random.default_rng(0)
    mean = np.mean([sampler.counts(rng) for _ in range(4000)], axis=0)
    np.testing.assert_allclose(mean, weight, atol=5 * np.sqrt(5 / 4000))


def test_equal_rows_have_equal_keys_in_every_form():
    rng = np.random.default_rng(0)
    X = np.where(rng.random((50, 7)) < 0.6, 0.0, rng.normal(size=(50, 7)))
    X[3] = X[9]
    y = np.zeros(50)
    keys = row_keys(X, y)
    assert len(np.unique(keys)) == 49
    np.testing.assert_array_equal(keys, row_keys(sp.csr_matrix(X), y))
    np.testing.assert_array_equal(keys, row_keys(pd.DataFrame(X), y))
    y[3] = 1
    assert len(np.unique(row_keys(X, y))) == 50
