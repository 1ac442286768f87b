"""Stacking: no leak, every kind of folds, and the same columns as cross_val_predict."""

import pickle

import numpy as np
import pytest
import sklearn.ensemble as peer
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge, RidgeClassifier
from sklearn.model_selection import (
    GroupKFold,
    KFold,
    LeaveOneGroupOut,
    RepeatedKFold,
    StratifiedKFold,
    TimeSeriesSplit,
    cross_val_predict,
)  # fmt: skip
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from sklearn.utils.estimator_checks import check_estimator

from paragone.ensemble import (
    DecisionTreeClassifier as OurTree,
)
from paragone.ensemble import (
    DecisionTreeRegressor as OurRegressor,
)
from paragone.ensemble import (
    GradientBoostingRegressor,
    StackingClassifier,
    StackingRegressor,
    load_model,
)  # fmt: skip
from paragone.ensemble.stacking import out_of_fold


def members():
    return [
        ("tree", DecisionTreeClassifier(max_depth=2, random_state=0)),
        ("bayes", GaussianNB()),
    ]


def regressors():
    return [
        ("tree", DecisionTreeRegressor(max_depth=3, random_state=0)),
        ("line", LinearRegression()),
    ]


def test_check_estimator_with_passthrough():
    stack = StackingRegressor(regressors()[:1], OurRegressor(max_depth=3), cv=2, passthrough=True)
    check_estimator(stack, on_skip=None)


@pytest.mark.peers
@pytest.mark.parametrize("load", [load_iris, load_breast_cancer])
@pytest.mark.parametrize("passthrough", [False, True])
def test_classifier_equals_scikit_learn(load, passthrough):
    X, y = load(return_X_y=True)
    final = DecisionTreeClassifier(max_depth=3, random_state=0)
    params = {"cv": StratifiedKFold(4), "passthrough": passthrough}
    ours = StackingClassifier(members(), final, **params).fit(X, y)
    theirs = peer.StackingClassifier(members(), final, **params).fit(X, y)
    np.testing.assert_allclose(ours.transform(X), theirs.transform(X), rtol=1e-12)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-12)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))
    width = ours.transform(X).shape[1]
    assert ours.get_feature_names_out().shape == (width,)


@pytest.mark.peers
def test_regressor_equals_scikit_learn():
    X, y = load_diabetes(return_X_y=True)
    weight = np.random.default_rng(0).uniform(0.5, 2, len(y))
    ours = StackingRegressor(regressors(), Ridge(), cv=KFold(3)).fit(X, y)
    theirs = peer.StackingRegressor(regressors(), Ridge(), cv=KFold(3)).fit(X, y)
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-10)
    ours.fit(X, y, weight)
    theirs.fit(X, y, sample_weight=weight)
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-10)


def test_a_member_that_memorises_gains_nothing_on_random_labels():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(1000, 3)), rng.integers(0, 2, 1000)
    knows_all = KNeighborsClassifier(1)
    folds = StratifiedKFold(5).split(X, y)
    meta, _ = out_of_fold([knows_all], ["predict_proba"], X, y, folds, num_classes=2)
    # Three standard errors of a coin over 1000 rows.
    assert np.mean((meta[:, 0] > 0.5) == y) < 0.5 + 3 * 0.5 / np.sqrt(1000)
    in_sample = knows_all.fit(X, y).predict_proba(X)[:, 1]
    assert np.mean((in_sample > 0.5) == y) == 1.0
    model = StackingClassifier([("all", knows_all)]).fit(X, y)
    assert abs(model.final_estimator_.coef_[0, 0]) < 0.5


def test_out_of_fold_columns_equal_cross_val_predict():
    X, y = load_iris(return_X_y=True)
    cv = StratifiedKFold(5, shuffle=True, random_state=0)
    tree = DecisionTreeClassifier(max_depth=2, random_state=0)
    meta, rows = out_of_fold([tree], ["predict_proba"], X, y, cv.split(X, y), num_classes=3)
    np.testing.assert_array_equal(rows, np.arange(150))
    want = cross_val_predict(tree, X, y, cv=cv, method="predict_proba")
    np.testing.assert_array_equal(meta, want)


def test_time_series_leaves_the_first_block_out_and_never_looks_ahead():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(70, 2)), rng.normal(size=70)
    cv = TimeSeriesSplit(6)
    meta, rows = out_of_fold([Ridge()], ["predict"], X, y, cv.split(X))
    np.testing.assert_array_equal(rows, np.arange(10, 70))
    past = Ridge().fit(X[:10], y[:10]).predict(X[10:20])
    np.testing.assert_allclose(meta[:10, 0], past)
    model = StackingRegressor(regressors(), Ridge(), cv=cv, passthrough=True).fit(X, y)
    assert model.final_estimator_.n_features_in_ == 4


def test_repeated_folds_are_averaged():
    X, y = load_diabetes(return_X_y=True)
    cv = RepeatedKFold(n_splits=3, n_repeats=4, random_state=0)
    meta, rows = out_of_fold([Ridge()], ["predict"], X, y, cv.split(X))
    total = np.zeros(len(y))
    for train, test in cv.split(X):
        total[test] += Ridge().fit(X[train], y[train]).predict(X[test])
    np.testing.assert_allclose(meta[:, 0], total / 4, rtol=1e-12)
    assert len(rows) == len(y)
    assert StackingRegressor(regressors(), cv=cv).fit(X, y).score(X, y) > 0.4


def test_groups_stay_together():
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(40), 5)
    X = group[:, None] + rng.normal(scale=1e-3, size=(200, 1))
    y = rng.normal(size=40)[group]
    # Within a group the target is known exactly; across groups there is nothing to learn.
    near = ("near", KNeighborsRegressor(1))
    for cv in (GroupKFold(5), LeaveOneGroupOut()):
        model = StackingRegressor([near], Ridge(), cv=cv).fit(X, y, groups=group)
        assert abs(model.final_estimator_.coef_[0]) < 0.5
    leaking = StackingRegressor([near], Ridge(), cv=KFold(5, shuffle=True, random_state=0))
    assert leaking.fit(X, y).final_estimator_.coef_[0] > 0.9


def test_prefit_members_are_used_as_they_are():
    X, y = load_iris(return_X_y=True)
    names = np.array(["a", "b", "c"])[y]
    tree = DecisionTreeClassifier(max_depth=2, random_state=0).fit(X, names)
    model = StackingClassifier([("tree", tree)], cv="prefit").fit(X, names)
    assert model.estimators_[0] is tree
    np.testing.assert_array_equal(model.transform(X), tree.predict_proba(X))
    assert model.score(X, names) > 0.9
    labels = StackingClassifier([("tree", tree)], cv="prefit", stack_method="predict")
    assert labels.fit(X, names).score(X, names) > 0.9
    with pytest.raises(ValueError, match="prefit"):
        StackingClassifier([("tree", tree)], cv="prefit").fit(X, y)


def test_two_classes_give_one_column_and_labels_become_indicators():
    X, y = load_breast_cancer(return_X_y=True)
    stack = StackingClassifier([*members(), ("ridge", RidgeClassifier())], cv=3).fit(X, y)
    assert stack.transform(X).shape == (len(y), 3)
    assert stack.stack_method_ == ["predict_proba", "predict_proba", "decision_function"]
    X, y = load_iris(return_X_y=True)
    stack = StackingClassifier(members(), cv=3, stack_method="predict").fit(X, y)
    columns = stack.transform(X)
    np.testing.assert_array_equal(np.unique(columns), [0, 1])
    np.testing.assert_array_equal(columns[:, :3].sum(1), np.ones(150))


def test_a_class_missing_in_a_fold_has_its_column():
    X, y = load_iris(return_X_y=True)
    # Folds in order: each leaves one class out of training.
    meta, _ = out_of_fold([GaussianNB()], ["predict_proba"], X, y, KFold(3).split(X), num_classes=3)
    np.testing.assert_array_equal(meta[np.arange(150), y], np.zeros(150))
    np.testing.assert_allclose(meta.sum(1), np.ones(150))


def test_layers_drop_and_parameters_of_members():
    X, y = load_iris(return_X_y=True)
    inner = StackingClassifier(members(), cv=3)
    outer = StackingClassifier([("inner", inner), ("off", "drop"), ("tree", OurTree())], cv=3)
    assert outer.fit(X, y).score(X, y) > 0.95
    assert list(outer.named_estimators_) == ["inner", "tree"]
    outer.set_params(inner__tree__max_depth=1, tree="drop").fit(X, y)
    assert outer.get_params()["inner__tree__max_depth"] == 1
    assert len(outer.estimators_) == 1
    deep = StackingClassifier(members(), StackingClassifier(members(), cv=3), cv=3)
    assert deep.fit(X, y).score(X, y) > 0.9


def test_default_members_take_gaps_and_passthrough(tmp_path):
    X, y = load_iris(return_X_y=True)
    X[::7, 1] = np.nan
    model = StackingClassifier(cv=2, passthrough=True, random_state=0).fit(X, y)
    assert model.score(X, y) > 0.95
    assert model.get_feature_names_out()[-1] == "x3"
    model.save_model(tmp_path / "stack.json")
    again = load_model(tmp_path / "stack.json")
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    X, y = load_diabetes(return_X_y=True)
    model = StackingRegressor(cv=2, passthrough=True, random_state=0).fit(X, y)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict(X), model.predict(X))


def test_frames_and_sparse_reach_the_members():
    import pandas as pd
    import scipy.sparse as sp

    X, y = load_iris(return_X_y=True)
    frame = pd.DataFrame(X, columns=list("abcd")).assign(e=pd.Categorical(y == 1))
    tree = [("tree", OurTree(max_depth=3))]
    model = StackingClassifier(tree, cv=3).fit(frame, y)
    np.testing.assert_array_equal(model.estimators_[0].feature_names_in_, list("abcde"))
    sparse = StackingClassifier(tree, LogisticRegression(max_iter=500), cv=3, passthrough=True)
    dense = StackingClassifier(tree, LogisticRegression(max_iter=500), cv=3, passthrough=True)
    sparse.fit(sp.csr_array(X), y)
    np.testing.assert_allclose(
        sparse.predict_proba(sp.csr_array(X)), dense.fit(X, y).predict_proba(X), atol=1e-2
    )


@given(st.integers(2, 6), st.integers(0, 10**6))
@settings(deadline=None, max_examples=20)
def test_rows_in_several_or_no_folds(folds, seed):
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=(30, 2)), rng.normal(size=30)
    splits = []
    for _ in range(folds):
        test = rng.choice(30, 6, replace=False)
        splits.append((np.setdiff1d(np.arange(30), test), test))
    meta, rows = out_of_fold([Ridge()], ["predict"], X, y, splits)
    np.testing.assert_array_equal(rows, np.unique(np.concatenate([test for _, test in splits])))
    for place, row in enumerate(rows):
        said = [
            Ridge().fit(X[train], y[train]).predict(X[[row]])[0]
            for train, test in splits
            if row in test
        ]
        np.testing.assert_allclose(meta[place, 0], np.mean(said), rtol=1e-10)


def test_number_of_threads_changes_nothing():
    X, y = load_diabetes(return_X_y=True)
    boost = [("a", GradientBoostingRegressor(n_estimators=5, random_state=0)), ("b", Ridge())]
    one = StackingRegressor(boost, cv=3, n_jobs=1).fit(X, y)
    two = StackingRegressor(boost, cv=3, n_jobs=2).fit(X, y)
    np.testing.assert_array_equal(one.predict(X), two.predict(X))


class Weightless(ClassifierMixin, BaseEstimator):
    """A classifier that cannot be weighted."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict(self, X):
        return np.zeros(len(X), int)


@pytest.mark.parametrize(
    ("estimators", "params", "word"),
    [
        ([("a", GaussianNB()), ("a", GaussianNB())], {}, "names must differ"),
        ([("cv", GaussianNB())], {}, "names must differ"),
        ([("a__b", GaussianNB())], {}, "names must differ"),
        ([("a", "drop")], {}, "no member"),
        ([("a", Ridge())], {}, "no classifier"),
        (members(), {"stack_method": "transform"}, "stack_method"),
        ([("a", RidgeClassifier())], {"stack_method": "predict_proba"}, "predict_proba"),
    ],
)
def test_bad_members_are_named(estimators, params, word):
    X, y = load_iris(return_X_y=True)
    with pytest.raises(ValueError, match=word):
        StackingClassifier(estimators, **params).fit(X, y)


def test_weights_for_a_member_that_takes_none_and_rows_that_do_not_match():
    X, y = load_iris(return_X_y=True)
    stack = StackingClassifier([("a", Weightless())], cv=3)
    with pytest.raises(ValueError, match="sample_weight"):
        stack.fit(X, y, np.ones(150))
    with pytest.raises(ValueError, match="rows"):
        stack.fit(X, y[:-1])
