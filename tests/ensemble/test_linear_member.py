"""The linear member of stacks and votes against scikit-learn's pipelines, and what trees take."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from paragone.ensemble import StackingClassifier, VotingClassifier, VotingRegressor, load_model
from paragone.ensemble._linear_member import LinearClassifier, LinearRegressor


def peer(last):
    return make_pipeline(SimpleImputer(), StandardScaler(), last)


@pytest.mark.parametrize("load", [load_iris, load_breast_cancer])
def test_classifier_equals_scikit_learn_with_gaps(load):
    X, y = load(return_X_y=True)
    X[np.random.default_rng(0).random(X.shape) < 0.1] = np.nan
    # Ours divides by the spread of what is there; a mean in the gaps would narrow it.
    X = X.astype(np.float32).astype(np.float64)
    known = np.nanstd(X, axis=0)
    filled = np.where(np.isnan(X), np.nanmean(X, axis=0), X)
    standard = (filled - filled.mean(axis=0)) / known
    want = LogisticRegression(max_iter=1000).fit(standard, y)
    found = LinearClassifier().fit(X, y)
    np.testing.assert_allclose(found.predict_proba(X), want.predict_proba(standard), atol=1e-4)
    np.testing.assert_array_equal(found.predict(X), want.predict(standard))


def test_both_equal_scikit_learn_with_weights_and_wild_scales():
    X, y = load_diabetes(return_X_y=True)
    X = (X * 10.0 ** np.arange(10) + 1000).astype(np.float32).astype(np.float64)
    weight = np.random.default_rng(0).integers(0, 3, len(X)).astype(float)
    rows = np.repeat(np.arange(len(X)), weight.astype(int))
    want = peer(Ridge()).fit(X[rows], y[rows]).predict(X)
    np.testing.assert_allclose(LinearRegressor().fit(X, y, weight).predict(X), want, rtol=1e-6)
    high = y > 140
    want = peer(LogisticRegression(max_iter=1000)).fit(X[rows], high[rows]).predict_proba(X)
    found = LinearClassifier().fit(X, high, weight).predict_proba(X)
    np.testing.assert_allclose(found, want, atol=1e-3)


def test_categories_are_columns_of_their_own():
    rng = np.random.default_rng(0)
    kind = rng.choice(list("abc"), 300)
    x = rng.normal(size=300)
    y = x + np.array([{"a": 3.0, "b": -2.0, "c": 0.5}[one] for one in kind])
    frame = pd.DataFrame({"x": x.astype(np.float32), "kind": pd.Categorical(kind)})
    table = np.c_[x.astype(np.float32), OneHotEncoder().fit_transform(kind[:, None]).toarray()]
    model = LinearRegressor().fit(frame, y)
    np.testing.assert_allclose(model.predict(frame), peer(Ridge()).fit(table, y).predict(table))
    # One that is new or missing counts as their mean.
    odd = frame.iloc[:2].assign(kind=pd.Categorical([None, "z"]))
    assert np.isfinite(model.predict(odd)).all()
    assert model.score(frame, y) > 0.99


def test_a_category_of_many_values_has_no_columns():
    names = pd.Categorical([f"customer {i}" for i in range(300)])
    x = np.random.default_rng(0).normal(size=300).astype(np.float32)
    both = LinearRegressor().fit(pd.DataFrame({"name": names, "x": x}), 2 * x)
    assert both.center_.shape == (1,)
    np.testing.assert_allclose(
        both.predict(pd.DataFrame({"name": names, "x": x})), 2 * x, atol=0.05
    )
    alone = LinearRegressor().fit(pd.DataFrame({"name": names}), 2 * x)
    np.testing.assert_allclose(alone.predict(pd.DataFrame({"name": names[:3]})), 2 * x.mean(), 1e-5)


def test_flat_missing_and_sparse_columns_and_one_row():
    X, y = load_iris(return_X_y=True)
    wide = np.c_[X, np.full(len(X), 7.0), np.full(len(X), np.nan)]
    model, plain = LinearClassifier().fit(wide, y), LinearClassifier().fit(X, y)
    np.testing.assert_allclose(model.predict_proba(wide), plain.predict_proba(X), atol=1e-6)
    np.testing.assert_array_equal(plain.predict_proba(sp.csr_array(X)), plain.predict_proba(X))
    np.testing.assert_array_equal(plain.predict_proba(X[:1]), plain.predict_proba(X[:2])[:1])
    with pytest.raises(ValueError, match="one class"):
        LinearClassifier().fit(X, np.zeros(len(X)))


def test_default_members_take_frames_with_categories(tmp_path):
    X, y = load_iris(return_X_y=True)
    frame = pd.DataFrame(X[:, :2], columns=list("ab"))
    frame["wide"] = pd.Categorical(np.where(X[:, 3] > 1, "yes", "no"))
    frame.loc[::7, "a"] = np.nan
    for kind in (StackingClassifier, VotingClassifier, VotingRegressor):
        model = kind(random_state=0).fit(frame, y)
        assert list(model.named_estimators_) == ["forest", "boosting", "linear"]
        assert model.score(frame, y) > 0.8
        model.save_model(tmp_path / "model.json")
        again = load_model(tmp_path / "model.json")
        np.testing.assert_array_equal(again.predict(frame), model.predict(frame))


def test_a_member_that_is_no_tree_helps_where_the_truth_is_a_line():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 12))
    y = X @ rng.normal(size=12) + 0.3 * rng.normal(size=400)
    model = VotingRegressor(random_state=0).fit(X[:200], y[:200])
    alone = {name: one.score(X[200:], y[200:]) for name, one in model.named_estimators_.items()}
    assert max(alone, key=alone.__getitem__) == "linear"
    assert model.score(X[200:], y[200:]) > max(alone["forest"], alone["boosting"])
