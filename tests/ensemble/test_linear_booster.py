import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.linear_model import ElasticNet, Ridge
from sklearn.preprocessing import scale

from paragone.ensemble import NewtonBoostingClassifier, NewtonBoostingRegressor

X, Y = load_diabetes(return_X_y=True)
X = scale(X)


@pytest.mark.peers
@pytest.mark.parametrize(("reg_lambda", "reg_alpha"), [(0.0, 0.0), (0.1, 0.01), (0.0, 5.0)])
def test_coordinates_are_xgboosts(reg_lambda, reg_alpha):
    xgboost = pytest.importorskip("xgboost")
    cancer, labels = load_breast_cancer(return_X_y=True)
    usual = {"booster": "gblinear", "n_estimators": 20, "learning_rate": 0.5}
    usual |= {"reg_lambda": reg_lambda, "reg_alpha": reg_alpha}
    peer = {"updater": "coord_descent", "feature_selector": "cyclic"}
    for ours, theirs, table, y, base in (
        (NewtonBoostingRegressor, xgboost.XGBRegressor, X, Y, 100.0),
        (NewtonBoostingClassifier, xgboost.XGBClassifier, scale(cancer), labels, 0.5),
        (NewtonBoostingClassifier, xgboost.XGBClassifier, *load_wine(return_X_y=True), 0.5),
    ):
        table = scale(table)
        a = ours(base_score=base, **usual).fit(table, y)
        b = theirs(base_score=base, **usual, **peer).fit(table, y)
        # XGBoost's coef_ is stored column by column and shown as if row by row.
        want = np.ravel(b.coef_).reshape(table.shape[1], -1).T
        limit = 1e-4 * max(1.0, np.abs(want).max())
        assert np.abs(a.coef_ - want).max() < limit
        assert np.abs(a.intercept_ - b.intercept_).max() < limit


def test_it_converges_to_ridge_and_elastic_net():
    n = len(Y)
    usual = {"booster": "gblinear", "n_estimators": 3000, "learning_rate": 1.0}
    found = NewtonBoostingRegressor(reg_lambda=0.5, **usual).fit(X, Y)
    want = Ridge(alpha=0.5 * n).fit(X, Y)
    assert found.coef_[0] == pytest.approx(want.coef_, abs=1e-4)
    assert found.predict(X) == pytest.approx(want.predict(X), abs=1e-3)
    alpha, ratio = 3.0, 0.7
    params = {"reg_alpha": alpha * ratio, "reg_lambda": alpha * (1 - ratio)}
    found = NewtonBoostingRegressor(**params, **usual).fit(X, Y)
    want = ElasticNet(alpha=alpha, l1_ratio=ratio, tol=1e-10, max_iter=10_000).fit(X, Y)
    assert found.coef_[0] == pytest.approx(want.coef_, abs=1e-4)


def test_strong_l1_leaves_only_the_intercept():
    model = NewtonBoostingRegressor(booster="gblinear", reg_alpha=1e4, n_estimators=5).fit(X, Y)
    assert not model.coef_.any()
    assert not model.feature_importances_.any()
    assert model.predict(X) == pytest.approx(np.full(len(Y), Y.mean()))


def test_missing_counts_as_zero_and_shap_sums():
    table = X.copy()
    table[::5, 2] = np.nan
    model = NewtonBoostingRegressor(booster="gblinear", feature_selector="shuffle", random_state=0)
    model.fit(table, Y)
    assert np.array_equal(model.predict(table), model.predict(np.nan_to_num(table)))
    assert model.shap_values(table).sum(axis=1) == pytest.approx(model.predict(table))


def test_what_needs_trees_is_refused():
    model = NewtonBoostingRegressor(booster="gblinear", n_estimators=2).fit(X, Y)
    for call in (
        lambda: next(model.staged_predict(X)),
        lambda: model.predict(X, iteration_range=(0, 1)),
        lambda: model.shap_interactions(X),
    ):
        with pytest.raises(ValueError, match="linear model"):
            call()
    with pytest.raises(ValueError, match="one-hot"):
        NewtonBoostingRegressor(booster="gblinear", categorical_features=[0]).fit(X, Y)
    with pytest.raises(ValueError, match="feature_selector"):
        NewtonBoostingRegressor(booster="gblinear", feature_selector="best").fit(X, Y)
