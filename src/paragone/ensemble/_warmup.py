"""Small calls that lead through every compiled kernel of the family, for `paragone warmup`.

A kernel is compiled for the way it is called, and its parallel form apart from its serial one;
so each method is called on a small table, on one with categories and missing values, on one
large enough for threads, on a single row, and with each option that has a kernel of its own.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from paragone import ensemble
from paragone.ensemble._threads import PARALLEL_WORK

__all__ = ["CALLS"]

_WIDTH = 8


def _table(n: int, *, mixed: bool = False) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    X = random.normal(size=(n, _WIDTH))
    y = X[:, 0] + 0.5 * X[:, 1] * X[:, 2] + 0.3 * random.normal(size=n)
    if mixed:
        X[:, -1] = random.integers(0, 12, n)
        X[::7, 0] = np.nan
    return X, y


def _use(model: Any, X: np.ndarray, y: np.ndarray, weight: np.ndarray | None = None) -> Any:
    """Fits, and predicts for many rows and for one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(X, y) if weight is None else model.fit(X, y, sample_weight=weight)
        for rows in (X, X[:1], X[:3]):
            model.predict(rows)
            if hasattr(model, "predict_proba"):
                model.predict_proba(rows)
    return model


def _forms(
    name: str,
    options: list[dict[str, Any]],
    numbers_only: Sequence[dict[str, Any]] = (),
    **common: Any,
) -> None:
    """Uses both kinds of a method, on all tables, with each set of options."""
    weight = np.linspace(0.5, 1.5, 200)
    (X, y), (mixed, target) = _table(200), _table(200, mixed=True)
    for kind in ("Classifier", "Regressor"):
        make = getattr(ensemble, name + kind)
        known = make().get_params()
        for given in options:
            chosen = {k: v for k, v in {**common, **given}.items() if k in known}
            for classes in (2, 3) if kind == "Classifier" else (0,):
                _use(make(**chosen), X, _classes(y, classes), weight)
            if "categorical_features" in known and given not in numbers_only:
                own = {**chosen, "categorical_features": [_WIDTH - 1]}
                _use(make(**own), mixed, _classes(target, classes))


def _classes(y: np.ndarray, count: int) -> np.ndarray:
    if count == 0:
        return y
    return np.searchsorted(np.quantile(y, np.arange(1, count) / count), y)


def _large(model: Any) -> None:
    """Uses a model on as many rows as threads are worth."""
    X, y = _table(PARALLEL_WORK // _WIDTH + 1)
    _use(model, X, _classes(y, 2) if hasattr(model, "predict_proba") else y)


def _trees() -> None:
    _forms("DecisionTree", [{}, {"max_leaf_nodes": 8}, {"splitter": "random"}, {"max_features": 3}])
    X, y = _table(200)
    rising = [1] + [0] * (_WIDTH - 1)
    _use(ensemble.DecisionTreeClassifier(monotonic_cst=rising), X, _classes(y, 2))
    _use(ensemble.DecisionTreeRegressor(monotonic_cst=rising), X, y)
    for criterion in ("absolute_error", "friedman_mse"):
        _use(ensemble.DecisionTreeRegressor(criterion=criterion), X, y)
    _use(ensemble.DecisionTreeRegressor(criterion="poisson"), X, np.exp(y))
    _use(ensemble.DecisionTreeClassifier(criterion="entropy"), X, _classes(y, 3))
    _use(ensemble.DecisionTreeRegressor(ccp_alpha=0.01), X, y).shap_values(X[:3])
    _large(ensemble.DecisionTreeClassifier(max_depth=3))


def _forests() -> None:
    few: dict[str, Any] = {"n_estimators": 3, "n_jobs": 1}
    _forms("RandomForest", [{}, {"tree_method": "hist"}, {"oob_score": True}], **few)
    _large(ensemble.RandomForestClassifier(8, max_depth=3, n_jobs=-1))
    X, y = _table(200)
    model = ensemble.RandomForestRegressor(3, keep_leaves=True).fit(X, y)
    model.predict_quantiles(X[:3])
    model.shap_values(X[:3])
    for classes in (0, 2):
        make = ensemble.RandomForestClassifier if classes else ensemble.RandomForestRegressor
        pickle.loads(pickle.dumps(make(3).fit(X, _classes(y, classes))))


def _bags() -> None:
    _forms("Bagging", [{}, {"max_features": 0.5}, {"oob_score": True}], n_estimators=3, n_jobs=1)


def _ada() -> None:
    _forms("AdaBoost", [{}], n_estimators=3)
    trees = {
        "Classifier": ensemble.DecisionTreeClassifier(max_depth=3),
        "Regressor": ensemble.DecisionTreeRegressor(max_depth=3),
    }
    X, y = _table(200)
    for kind, tree in trees.items():
        make = getattr(ensemble, f"AdaBoost{kind}")
        _use(make(tree, n_estimators=3), X, _classes(y, 2) if kind == "Classifier" else y)


def _friedman() -> None:
    forms = [
        {}, {"tree_method": "exact"}, {"subsample": 0.7}, {"max_leaf_nodes": 5, "max_depth": None},
        {"tree_method": "exact", "subsample": 0.7, "max_features": 3},
        {"n_iter_no_change": 2}, {"max_features": 3},
    ]  # fmt: skip
    _forms("GradientBoosting", forms, n_estimators=3)
    X, y = _table(200)
    for loss in ("absolute_error", "huber", "quantile"):
        _use(ensemble.GradientBoostingRegressor(loss=loss, n_estimators=3), X, y)
    for classes in (2, 3):
        model = _use(ensemble.GradientBoostingClassifier(n_estimators=3), X, _classes(y, classes))
        model.shap_values(X[:3])
    _large(ensemble.GradientBoostingRegressor(n_estimators=8, n_jobs=-1))


def _newton() -> None:
    exact, linear = {"tree_method": "exact"}, {"booster": "gblinear"}
    forms = [
        {}, exact, {"tree_method": "approx"}, {"booster": "dart"}, linear,
        {"grow_policy": "lossguide", "max_leaves": 6, "max_depth": 0},
        {"grow_policy": "symmetric"}, {"subsample": 0.7, "colsample_bynode": 0.5},
        {"sampling_method": "goss"}, {"gradient_bits": 8},
        {"min_samples_leaf": 5, "gamma": 0.1, "reg_alpha": 0.1},
    ]  # fmt: skip
    _forms("NewtonBoosting", forms, [exact, linear], n_estimators=3, rate_drop=0.5)
    X, y = _table(200)
    held = {"n_estimators": 3, "early_stopping_rounds": 2}
    _use(ensemble.NewtonBoostingClassifier(**held), X, _classes(y, 2))
    plain = [0] * (_WIDTH - 1)
    _use(ensemble.NewtonBoostingRegressor(n_estimators=3, monotone_constraints=[1, *plain]), X, y)
    sets = [[0, 1, 2], list(range(3, _WIDTH))]
    _use(ensemble.NewtonBoostingRegressor(n_estimators=3, interaction_constraints=sets), X, y)
    for objective in ("absolute", "quantile"):
        _use(ensemble.NewtonBoostingRegressor(n_estimators=3, objective=objective), X, y)
    model = _use(ensemble.NewtonBoostingClassifier(n_estimators=3), X, _classes(y, 2))
    # Only the fourth tree that is dropped at once comes into the kernel for four.
    dart: dict[str, Any] = {"booster": "dart", "rate_drop": 1.0, "n_estimators": 6}
    _use(ensemble.NewtonBoostingRegressor(**dart), X, y)
    model.shap_values(X[:3])
    model.shap_interactions(X[:3])
    model.apply(X)
    for policy in ("depthwise", "symmetric"):
        _large(ensemble.NewtonBoostingClassifier(n_estimators=8, n_jobs=-1, grow_policy=policy))


def _stacks() -> None:
    X, y = _table(200)
    for kind, target in (("Classifier", _classes(y, 2)), ("Regressor", y)):
        tree = getattr(ensemble, f"DecisionTree{kind}")(max_depth=3)
        boosted = getattr(ensemble, f"NewtonBoosting{kind}")(n_estimators=3)
        members = [("tree", tree), ("boosted", boosted)]
        for name in ("Stacking", "Voting"):
            _use(getattr(ensemble, name + kind)(members), X, target)


CALLS: dict[str, tuple[Callable[[], None], ...]] = {
    "bagging": (_bags,),
    "random_forest": (_trees, _forests),
    "adaboost": (_ada,),
    "gbdt": (_friedman,),
    "xgboost": (_newton,),
    "stacking": (_stacks,),
}
"""Method of the catalogue to the calls that compile it."""
