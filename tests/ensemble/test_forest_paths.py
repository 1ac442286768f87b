import pickle

import numpy as np
import pytest
import sklearn.ensemble as peers
from sklearn import datasets

from paragone.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    DecisionTreeClassifier,
    GradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingClassifier,
    _forest,
    _threads,
    load_model,
)
from paragone.ensemble._binning import bin_features
from paragone.ensemble._forest import tree_means
from paragone.ensemble._forest_predict import forest_words
from paragone.ensemble._forest_state import pack_trees, unpack_trees
from paragone.ensemble._predict import pack, predict_raw
from paragone.ensemble._shared_bins import find_binned, shared_table, using_rows

FIELDS = ("feature", "threshold", "left", "missing_left", "value", "gain", "cover", "count")


def grown(kind, n=600, p=5, seed=0, **options):
    rng = np.random.default_rng(seed)
    X = rng.random((n, p)).astype(np.float32)
    X[rng.random((n, p)) < 0.1] = np.nan
    z = np.nan_to_num(X[:, 0]) + 0.3 * rng.random(n)
    if kind == "numbers":
        return X, RandomForestRegressor(7, random_state=0, **options).fit(X, z)
    y = np.minimum((z * kind).astype(int), kind - 1)
    return X, RandomForestClassifier(7, random_state=0, **options).fit(X, y)


@pytest.mark.parametrize("kind", [2, 3, "numbers"])
@pytest.mark.parametrize("n", [1, 7, 8, 9, 63, 64, 65, 257, 600])
def test_the_mean_of_the_trees_is_that_of_the_plain_walk(kind, n):
    X, forest = grown(kind)
    want = predict_raw(pack(forest.trees_), X[:n]).T / 7
    found = forest._outputs(X[:n])
    np.testing.assert_allclose(found, want, atol=1e-15, rtol=1e-14)
    # Which rows are predicted together does not matter, bit for bit.
    np.testing.assert_array_equal(found[n // 2], forest._outputs(X[n // 2 : n // 2 + 1])[0])


def test_threads_do_not_change_predictions():
    X, forest = grown(3)
    many = np.tile(X, (40, 1))
    one = forest.set_params(n_jobs=1).predict_proba(many)
    np.testing.assert_array_equal(one, forest.set_params(n_jobs=2).predict_proba(many))


def test_trees_that_do_not_fit_the_words_take_the_plain_walk():
    X, forest = grown(3)
    assert forest_words(forest.trees_, 2**28) is None
    want = forest._outputs(X)
    _forest._WORDS[forest] = (forest.trees_, None)
    found = tree_means(forest, forest.trees_, lambda: forest.trees_, X)
    np.testing.assert_allclose(found, want, atol=1e-15)


@pytest.mark.parametrize("kind", [2, 5, "numbers"])
@pytest.mark.parametrize("method", ["hist", "exact"])
def test_a_stored_forest_is_small_and_comes_back_bit_for_bit(kind, method, tmp_path):
    X, forest = grown(kind, tree_method=method)
    packed = pack_trees(forest.trees_)
    assert packed is not None
    for one, two in zip(forest.trees_, unpack_trees(packed, 5), strict=True):
        for name in FIELDS:
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
            assert getattr(one, name).dtype == getattr(two, name).dtype
    forest.save_model(tmp_path / "forest.json")
    for back in (pickle.loads(pickle.dumps(forest)), load_model(tmp_path / "forest.json")):
        np.testing.assert_array_equal(back._outputs(X), forest._outputs(X))
        np.testing.assert_array_equal(back.feature_importances_, forest.feature_importances_)


@pytest.mark.peers
@pytest.mark.parametrize("kind", ["Classifier", "Regressor"])
def test_a_stored_forest_has_a_fifth_of_scikit_learns_bytes(kind):
    name = "digits" if kind == "Classifier" else "diabetes"
    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    ours = {"Classifier": RandomForestClassifier, "Regressor": RandomForestRegressor}[kind]
    mine = pickle.dumps(ours(10, random_state=0).fit(X, y))
    peer = getattr(peers, f"RandomForest{kind}")(10, random_state=0).fit(X, y)
    assert 5 * len(mine) < len(pickle.dumps(peer))


def test_what_does_not_follow_from_the_leaves_is_stored_whole():
    X, forest = grown(3, criterion="entropy")
    assert np.array_equal(pickle.loads(pickle.dumps(forest))._outputs(X), forest._outputs(X))
    X, forest = grown(2)
    forest.trees_[3].gain[0] += 1.0
    assert pack_trees(forest.trees_) is None
    back = pickle.loads(pickle.dumps(forest))
    assert back.trees_[3].gain[0] == forest.trees_[3].gain[0]


def test_a_damaged_forest_is_refused():
    _, forest = grown(2)
    packed = pack_trees(forest.trees_)
    assert packed is not None

    def broken(**changes):
        with pytest.raises(ValueError, match="forest"):
            unpack_trees({**packed, **changes}, 5)

    broken(leaf=packed["leaf"][:-1])
    broken(leaf=~packed["leaf"])
    broken(feature=packed["feature"] + np.uint8(5))
    broken(feature=packed["feature"].astype(np.int8) - np.int8(9))
    broken(threshold=packed["threshold"][1:])
    broken(sizes=np.array([0]))
    with pytest.raises(ValueError, match="damaged"):
        unpack_trees({"sizes": packed["sizes"]}, 5)


def test_small_tables_open_no_threads(monkeypatch):
    X, y = datasets.load_iris(return_X_y=True)

    def refuse(*_, **__):
        raise AssertionError("a pool or a parallel region for 150 rows")

    monkeypatch.setattr(_forest, "ThreadPoolExecutor", refuse)
    monkeypatch.setattr(_threads.numba, "set_num_threads", refuse)
    for model in (
        RandomForestClassifier(30, oob_score=True, n_jobs=2, random_state=0),
        BaggingClassifier(n_estimators=30, oob_score=True, n_jobs=2, random_state=0),
        AdaBoostClassifier(n_jobs=2),
        GradientBoostingClassifier(n_estimators=3, n_jobs=2),
        GradientBoostingClassifier(n_estimators=3, tree_method="exact", n_jobs=2),
        DecisionTreeClassifier(tree_method="hist"),
    ):
        assert model.fit(X, y).score(X, y) > 0.9


def test_kept_and_redrawn_left_out_rows_are_the_same():
    X, y = datasets.load_digits(return_X_y=True)
    warm = RandomForestClassifier(20, oob_score=True, warm_start=True, random_state=0).fit(X, y)
    warm.set_params(n_estimators=40).fit(X, y)
    once = RandomForestClassifier(40, oob_score=True, random_state=0).fit(X, y)
    np.testing.assert_array_equal(warm.oob_decision_function_, once.oob_decision_function_)
    assert not hasattr(once, "_left_out")


def test_regression_forests_try_all_columns_and_classes_their_root():
    X, forest = grown("numbers")
    assert forest.max_features_ == X.shape[1]
    assert grown(2)[1].max_features_ == 2
    assert forest.feature_importances_.sum() == pytest.approx(1)


def test_trees_on_bins_are_as_good():
    X, y = datasets.make_friedman1(3000, noise=1.0, random_state=0)
    scores = [
        RandomForestRegressor(30, tree_method=method, random_state=0).fit(X[:1500], y[:1500])
        .score(X[1500:], y[1500:])
        for method in ("hist", "exact")
    ]  # fmt: skip
    assert abs(scores[0] - scores[1]) < 0.015
    with pytest.raises(ValueError, match="tree_method='best'"):
        DecisionTreeClassifier(tree_method="best").fit(X, y > 14)
    with pytest.raises(ValueError, match="max_bins=900"):
        DecisionTreeClassifier(max_bins=900).fit(X, y > 14)


def levels(n=400, p=4, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.integers(0, 3, (n, p)).astype(float)
    return X, ((X[:, 0] > 1) ^ (X[:, 1] > 0) ^ (rng.random(n) < 0.1)).astype(int)


def test_folds_take_their_rows_of_one_binning():
    X, _ = levels()
    table = shared_table(X)
    assert table is not None
    train = np.arange(0, 400, 3)
    part = np.ascontiguousarray(X[train], np.float32)
    assert find_binned(part, 255, 1) is None
    with using_rows(table, train):
        found = find_binned(part, 255, 1)
        assert found is not None
        want = bin_features(part, np.zeros(4, bool))
        np.testing.assert_array_equal(found.rows, want.rows)
        np.testing.assert_array_equal(found.columns, want.columns)
        # Other rows than those on offer are binned by themselves.
        assert find_binned(part[1:], 255, 1) is None
        assert find_binned(part + 1, 255, 1) is None
    assert find_binned(part, 255, 1) is None
    assert shared_table(X.astype(str)) is None


def test_sharing_bins_changes_nothing_where_every_fold_sees_every_value():
    X, y = levels()
    models = [
        StackingClassifier(
            [("a", GradientBoostingClassifier(n_estimators=8, random_state=0))], share_bins=share
        ).fit(X, y)
        for share in (True, False)
    ]
    np.testing.assert_array_equal(models[0].predict_proba(X), models[1].predict_proba(X))
    member = models[0].estimators_[0]
    assert np.isfinite(member.train_score_).all()


def test_no_target_of_a_left_out_row_reaches_its_feature():
    # Labels are noise: out-of-fold features cannot know them, shared bins or not.
    rng = np.random.default_rng(0)
    X, y = rng.random((600, 3)), rng.integers(0, 2, 600)
    stack = StackingClassifier(
        [("a", GradientBoostingClassifier(n_estimators=40, max_depth=6, random_state=0))], cv=5
    ).fit(X, y)
    assert stack.estimators_[0].score(X, y) > 0.8
    assert abs(stack.final_estimator_.coef_[0, 0]) < 1.0
