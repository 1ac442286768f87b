import pickle

import numpy as np
import pytest
import sklearn.ensemble as peers
from sklearn import datasets
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import train_test_split

from paragone.ensemble import RandomForestClassifier, RandomForestRegressor, load_model
from paragone.ensemble._bootstrap import RowSampler, row_keys
from paragone.ensemble._predict import pack, predict_raw

KINDS = [RandomForestClassifier, RandomForestRegressor]


def load(kind, rows=None):
    name = "wine" if kind is RandomForestClassifier else "diabetes"
    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    return X[:rows], y[:rows]


def says(forest, X):
    return forest.predict_proba(X) if hasattr(forest, "classes_") else forest.predict(X)


def same(one, two, X):
    np.testing.assert_array_equal(says(one, X), says(two, X))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("max_samples", [None, 0.5, 40])
def test_out_of_bag_uses_only_trees_that_left_the_row_out(kind, max_samples):
    X, y = load(kind)
    forest = kind(30, max_samples=max_samples, oob_score=True, random_state=0).fit(X, y)
    codes = np.searchsorted(forest.classes_, y) if hasattr(forest, "classes_") else y
    sampler = RowSampler(
        row_keys(X.astype(np.float32), codes), np.ones(len(y)), max_samples, replace=True
    )
    total, times = 0.0, np.zeros((len(y), 1))
    for t, tree in enumerate(forest.trees_):
        drawn = sampler.counts(np.random.default_rng([forest._seed, t]))
        assert drawn.sum() == tree.cover[0]
        assert np.count_nonzero(drawn) == tree.count[0]
        out = (drawn == 0)[:, None]
        total = total + out * predict_raw(pack([tree]), X.astype(np.float32)).T
        times += out
    means = total / times
    if kind is RandomForestClassifier:
        np.testing.assert_allclose(forest.oob_decision_function_, means)
        score = accuracy_score(y, forest.classes_[means.argmax(axis=1)])
    else:
        np.testing.assert_allclose(forest.oob_prediction_, means[:, 0])
        score = r2_score(y, means[:, 0])
    assert forest.oob_score_ == pytest.approx(score)
    # The check is worth something only if rows in the sample say otherwise.
    assert np.abs(means - np.reshape(says(forest, X), means.shape)).max() > 0.05


def test_the_out_of_bag_score_is_honest_where_the_training_score_is_not():
    rng = np.random.default_rng(0)
    X, y = rng.random((300, 5)), rng.integers(0, 2, 300)
    forest = RandomForestClassifier(60, oob_score=True, random_state=0).fit(X, y)
    assert forest.score(X, y) > 0.95
    assert 0.38 < forest.oob_score_ < 0.62
    own = RandomForestClassifier(60, oob_score=lambda a, b: np.mean(a != b), random_state=0)
    assert own.fit(X, y).oob_score_ == pytest.approx(1 - forest.oob_score_)


def test_rows_in_every_sample_are_told():
    X, y = load(RandomForestClassifier)
    with pytest.warns(UserWarning, match="raise n_estimators"):
        forest = RandomForestClassifier(2, oob_score=True, random_state=0).fit(X, y)
    never = np.isnan(forest.oob_decision_function_[:, 0])
    assert 0 < never.sum() < len(y)
    assert np.isfinite(forest.oob_score_)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["exact", "hist"])
def test_threads_do_not_change_the_forest(kind, method):
    X, y = load(kind)
    options = {"tree_method": method, "oob_score": True, "random_state": 3}
    one = kind(12, n_jobs=1, **options)
    two = kind(12, n_jobs=2, **options)
    with pytest.warns(UserWarning, match="out-of-bag"):
        same(one.fit(X, y), two.fit(X, y), X)
    assert one.oob_score_ == two.oob_score_
    for a, b in zip(one.trees_, two.trees_, strict=True):
        np.testing.assert_array_equal(a.threshold, b.threshold)


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_the_rows_does_not_matter(kind):
    X, y = load(kind)
    order = np.random.default_rng(0).permutation(len(y))
    one = kind(10, random_state=0).fit(X, y)
    two = kind(10, random_state=0).fit(X[order], y[order])
    np.testing.assert_allclose(says(one, X), says(two, X), rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"bootstrap": False}, {"max_samples": 0.6}], ids=str)
def test_weight_two_is_the_row_twice(kind, options):
    X, y = load(kind, 120)
    weight = np.random.default_rng(0).integers(0, 4, len(y))
    again = np.repeat(np.arange(len(y)), weight)
    one = kind(8, random_state=0, **options).fit(X, y, sample_weight=weight)
    two = kind(8, random_state=0, **options).fit(X[again], y[again])
    np.testing.assert_allclose(says(one, X), says(two, X), rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_the_unit_of_weights_does_not_matter(kind):
    X, y = load(kind)
    weight = np.random.default_rng(0).random(len(y))
    one = kind(8, random_state=0).fit(X, y, sample_weight=weight)
    two = kind(8, random_state=0).fit(X, y, sample_weight=weight * 0.125)
    same(one, two, X)


def quality(ours, theirs, X, y, seeds=6):
    found = []
    for seed in range(seeds):
        train, test = train_test_split(np.arange(len(y)), test_size=0.3, random_state=seed)
        found.append(
            [model(60, random_state=seed).fit(X[train], y[train]).score(X[test], y[test])
             for model in (ours, theirs)]
        )  # fmt: skip
    return np.array(found)


@pytest.mark.peers
@pytest.mark.parametrize(
    "name", ["iris", "wine", "breast_cancer", "digits", "diabetes", "friedman"]
)
def test_quality_is_within_one_deviation_of_scikit_learn(name):
    if name == "friedman":
        X, y = datasets.make_friedman1(400, noise=1.0, random_state=0)
    else:
        X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    kind = "Classifier" if len(np.unique(y)) < 20 else "Regressor"
    ours = RandomForestClassifier if kind == "Classifier" else RandomForestRegressor
    scores = quality(ours, getattr(peers, f"RandomForest{kind}"), X, y)
    mean, deviation = scores.mean(axis=0), scores.std(axis=0, ddof=1)
    assert mean[0] >= mean[1] - deviation[1]
    assert scores.min() > 0.2


def test_a_forest_is_better_than_its_trees_and_random_cuts_work():
    X, y = datasets.load_digits(return_X_y=True)
    X, y, X_test, y_test = X[::2], y[::2], X[1::2], y[1::2]
    one = RandomForestClassifier(1, random_state=0).fit(X, y).score(X_test, y_test)
    many = RandomForestClassifier(40, random_state=0).fit(X, y).score(X_test, y_test)
    extra = RandomForestClassifier(40, splitter="random", bootstrap=False, random_state=0)
    assert many > one + 0.1
    assert extra.fit(X, y).score(X_test, y_test) > 0.95


@pytest.mark.parametrize("kind", KINDS)
def test_warm_start_grows_the_forest_that_one_fit_grows(kind):
    X, y = load(kind)
    warm = kind(4, warm_start=True, random_state=0).fit(X, y)
    first = warm.trees_[0]
    warm.set_params(n_estimators=9).fit(X, y)
    assert warm.trees_[0] is first
    same(warm, kind(9, random_state=0).fit(X, y), X)
    with pytest.raises(ValueError, match="less than the 9 trees"):
        warm.set_params(n_estimators=5).fit(X, y)


def test_warm_start_refuses_other_classes():
    X, y = load(RandomForestClassifier)
    forest = RandomForestClassifier(2, warm_start=True).fit(X, y)
    with pytest.raises(ValueError, match="begin anew"):
        forest.set_params(n_estimators=3).fit(X[y > 0], y[y > 0])


@pytest.mark.parametrize("kind", KINDS)
def test_proximity_counts_shared_leaves(kind):
    X, y = load(kind)
    forest = kind(15, min_samples_leaf=5, random_state=0).fit(X, y)
    leaves = forest.apply(X)
    want = np.mean(leaves[:, None, :] == leaves[None, :, :], axis=2)
    found = forest.proximity(X)
    np.testing.assert_allclose(found, want)
    np.testing.assert_allclose(np.diag(found), 1)
    other = forest.proximity(X[:7], X, sparse=True)
    np.testing.assert_allclose(other.toarray(), want[:7])


def test_quantiles_are_those_of_the_leaf_weights():
    X, y = load(RandomForestRegressor)
    weight = np.random.default_rng(0).integers(0, 3, len(y)).astype(float)
    forest = RandomForestRegressor(20, min_samples_leaf=8, keep_leaves=True, random_state=0)
    forest.fit(X, y, sample_weight=weight)
    levels = [0.0, 0.1, 0.5, 0.9, 1.0]
    found = forest.predict_quantiles(X[:25], levels)
    leaves, asked, order = forest.apply(X), forest.apply(X[:25]), np.argsort(y)
    for i in range(25):
        mass = np.zeros(len(y))
        for t in range(20):
            inside = (leaves[:, t] == asked[i, t]) * weight
            mass += inside / inside.sum() / 20
        mass = mass[order]
        for j, level in enumerate(levels):
            reached = (np.cumsum(mass) >= level - 1e-9) & (np.cumsum(mass) > 0)
            assert found[i, j] == y[order][reached][0]
    covered = np.mean(
        (y >= forest.predict_quantiles(X)[:, 0]) & (y <= forest.predict_quantiles(X)[:, 2])
    )
    assert covered > 0.85
    with pytest.raises(ValueError, match="keep_leaves=True"):
        RandomForestRegressor(2).fit(X, y).predict_quantiles(X)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        forest.predict_quantiles(X, [1.5])


@pytest.mark.parametrize("kind", KINDS)
def test_importances_are_means_of_the_trees_shares(kind):
    X, y = load(kind)
    X = np.column_stack([X, np.ones(len(y))])
    forest = kind(20, random_state=0).fit(X, y)
    found = forest.feature_importances_
    assert found.sum() == pytest.approx(1)
    assert found[-1] == 0
    assert found.min() >= 0
    values = forest.shap_values(X[:5])
    np.testing.assert_allclose(values.sum(axis=-1), says(forest, X[:5]), atol=1e-9)


@pytest.mark.peers
@pytest.mark.parametrize("kind", KINDS)
def test_importances_agree_with_scikit_learn(kind):
    X, y = load(kind)
    ours = kind(200, random_state=0).fit(X, y).feature_importances_
    peer = getattr(peers, kind.__name__)(200, random_state=0).fit(X, y).feature_importances_
    np.testing.assert_allclose(ours, peer, atol=0.05)
    assert np.corrcoef(ours, peer)[0, 1] > 0.95


def test_balanced_subsample_evens_out_the_classes_of_each_sample():
    X, y = load(RandomForestClassifier)
    rare = (y == 2).astype(int)
    forest = RandomForestClassifier(6, class_weight="balanced_subsample", random_state=0)
    for tree in forest.fit(X, rare).trees_:
        np.testing.assert_allclose(tree.value[0], 0.5)
    whole = RandomForestClassifier(6, class_weight="balanced", random_state=0).fit(X, rare)
    roots = np.array([tree.value[0, 1] for tree in whole.trees_])
    assert roots.std() > 0
    assert roots.mean() == pytest.approx(0.5, abs=0.1)


def test_monotone_forests_never_fall():
    rng = np.random.default_rng(0)
    X = rng.random((300, 3))
    y = X[:, 0] + rng.normal(size=300)
    forest = RandomForestRegressor(20, monotonic_cst=[1, 0, 0], random_state=0).fit(X, y)
    low = rng.random((3000, 3))
    high = low.copy()
    high[:, 0] += rng.random(3000)
    assert np.min(forest.predict(high) - forest.predict(low)) >= -1e-12
    free = RandomForestRegressor(20, random_state=0).fit(X, y)
    assert np.min(free.predict(high) - free.predict(low)) < -0.1


@pytest.mark.parametrize("kind", KINDS)
def test_missing_values_columns_and_tiny_tables(kind):
    X, y = load(kind)
    holes = np.where(np.random.default_rng(0).random(X.shape) < 0.3, np.nan, X)
    assert kind(40, random_state=0).fit(holes, y).score(holes, y) > 0.8
    one = kind(5, random_state=0).fit(X[:1], y[:1])
    np.testing.assert_array_equal(one.predict(X), np.full(len(X), y[0]))
    assert kind(5, random_state=0).fit(X[[0, -1]], y[[0, -1]]).predict(X).shape == (len(X),)


@pytest.mark.parametrize("kind", KINDS)
def test_a_forest_comes_back_from_pickle_and_json(kind, tmp_path):
    X, y = load(kind)
    forest = kind(5, keep_leaves=True, random_state=0).fit(X, y)
    forest.save_model(tmp_path / "forest.json")
    for back in (pickle.loads(pickle.dumps(forest)), load_model(tmp_path / "forest.json")):
        same(back, forest, X)
        assert back.get_params() == forest.get_params()
        if kind is RandomForestRegressor:
            quantiles = back.predict_quantiles(X[:3])
            np.testing.assert_array_equal(quantiles, forest.predict_quantiles(X[:3]))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n_estimators": 0}, "n_estimators=0"),
        ({"tree_method": "fast"}, "tree_method='fast'"),
        ({"tree_method": "hist", "max_bins": 300}, "max_bins=300"),
        ({"max_samples": 1.5}, r"max_samples=1.5"),
        ({"max_samples": 0}, "max_samples=0"),
        ({"max_samples": 5, "bootstrap": False}, "bootstrap=True"),
        ({"oob_score": True, "bootstrap": False}, "rows left out"),
    ],
)
def test_a_wrong_option_is_named(options, words):
    X, y = load(RandomForestClassifier)
    with pytest.raises(ValueError, match=words):
        RandomForestClassifier(**options).fit(X, y)
