"""The rivals of the study `ensembles`, ours first: strings only, nothing is imported here.

All keep the defaults of their makers, except for silence. `space` is what `--tune N` draws
from; every maker's own documentation names these as the parameters to tune first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paragone.lab.spec import Contestant

__all__ = ["contestants"]

_OWN = "own categorical splits; missing values by a learned direction"
_ONE_HOT = "one-hot columns for categories"
_IMPUTED = "one-hot columns for categories; medians and an indicator for missing values"

_RATE = {"low": 0.02, "high": 0.3, "log": True}
_ROUNDS = {"low": 50, "high": 400, "log": True, "integer": True}
_LEAF = {"low": 1, "high": 20, "log": True, "integer": True}
_SHARE = {"low": 0.5, "high": 1.0}
_PENALTY = {"low": 0.01, "high": 10.0, "log": True}
_FEATURES = ["sqrt", 0.3, 0.5, 0.7, 1.0]
_TREE = {"max_depth": [None, 3, 5, 8, 12], "min_samples_leaf": _LEAF}
_FOREST = {"max_features": _FEATURES, "min_samples_leaf": _LEAF}
_ADAPTIVE = {"learning_rate": _RATE, "n_estimators": _ROUNDS}
_FRIEDMAN = {
    "learning_rate": _RATE, "n_estimators": _ROUNDS, "max_depth": [2, 3, 4, 5, 6],
    "subsample": _SHARE,
}  # fmt: skip


def _ours(
    id: str, stem: str, method: str, space: Mapping[str, Any] | None = None, note: str = _OWN
) -> Contestant:
    return Contestant(
        id=id, title=f"paragone {id.replace('_', ' ')}", make=f"paragone.ensemble:{stem}{{kind}}",
        method=method, space=space or {}, note=note,
    )  # fmt: skip


def _sklearn(
    id: str, target: str, space: Mapping[str, Any] | None = None, note: str = _ONE_HOT
) -> Contestant:
    return Contestant(
        id=f"sklearn_{id}", title=f"sklearn {id.replace('_', ' ')}", make=target, origin="rival",
        distribution="scikit-learn", install="pip install scikit-learn", space=space or {},
        note=note,
    )  # fmt: skip


def contestants() -> list[Contestant]:
    """Returns paragone's eight methods, the rivals, and the baseline."""
    forest, committee = "sklearn.ensemble:{}{{kind}}", "paragone.lab.contestants.committees:"
    return [
        _ours("decision_tree", "DecisionTree", "random_forest", _TREE),
        _ours("bagging", "Bagging", "bagging", None, _ONE_HOT),
        _ours("random_forest", "RandomForest", "random_forest", _FOREST),
        _ours("adaboost", "AdaBoost", "adaboost", _ADAPTIVE),
        _ours("gbdt", "GradientBoosting", "gbdt", _FRIEDMAN),
        _ours("newton_boosting", "NewtonBoosting", "xgboost", {
            "learning_rate": _RATE, "n_estimators": _ROUNDS, "max_depth": [3, 4, 6, 8],
            "subsample": _SHARE, "reg_lambda": _PENALTY,
        }),
        _ours("stacking", "Stacking", "stacking", None, _ONE_HOT),
        _ours("voting", "Voting", "stacking", None, _ONE_HOT),
        _sklearn("decision_tree", "sklearn.tree:DecisionTree{kind}", _TREE),
        _sklearn("bagging", forest.format("Bagging")),
        _sklearn("random_forest", forest.format("RandomForest"), _FOREST),
        _sklearn("extra_trees", forest.format("ExtraTrees"), _FOREST),
        _sklearn("adaboost", forest.format("AdaBoost"), _ADAPTIVE, _IMPUTED),
        _sklearn("gbdt", forest.format("GradientBoosting"), _FRIEDMAN, _IMPUTED),
        _sklearn("hist_gbdt", forest.format("HistGradientBoosting"), {
            "learning_rate": _RATE, "max_iter": _ROUNDS, "max_leaf_nodes": [7, 15, 31, 63],
            "l2_regularization": _PENALTY,
        }, "own categorical splits by mask; own missing values"),
        _sklearn("stacking", committee + "Stacking{kind}", None, _IMPUTED),
        _sklearn("voting", committee + "Voting{kind}", None, _IMPUTED),
        Contestant(
            id="lightgbm", title="lightgbm {version}", make="lightgbm:LGBM{kind}", origin="rival",
            params={"verbose": -1}, distribution="lightgbm", install="pip install lightgbm",
            note="own categorical splits by `categorical_feature`",
            space={
                "learning_rate": _RATE, "n_estimators": _ROUNDS, "num_leaves": [7, 15, 31, 63],
                "reg_lambda": _PENALTY, "colsample_bytree": _SHARE,
            },
        ),
        Contestant(
            id="xgboost", title="xgboost {version}", make="xgboost:XGB{kind}", origin="rival",
            params={"verbosity": 0}, distribution="xgboost-cpu", install="pip install xgboost-cpu",
            note="own categorical splits by `feature_types`",
            space={
                "learning_rate": _RATE, "n_estimators": _ROUNDS, "max_depth": [3, 4, 6, 8],
                "subsample": _SHARE, "reg_lambda": _PENALTY,
            },
        ),
        Contestant(
            id="catboost", title="catboost {version}", make="catboost:CatBoost{kind}",
            params={"verbose": 0, "allow_writing_files": False}, origin="rival",
            distribution="catboost", install="pip install catboost",
            note="own categories by `cat_features`",
            space={
                "learning_rate": _RATE, "iterations": _ROUNDS, "depth": [4, 6, 8],
                "l2_leaf_reg": {"low": 1.0, "high": 10.0, "log": True},
            },
        ),
        Contestant(
            id="baseline", title="baseline (prior or mean)", make=committee + "Baseline{kind}",
            origin="baseline", distribution="scikit-learn", install="pip install scikit-learn",
            note="the floor: class shares or the mean of the training rows",
        ),
    ]  # fmt: skip
