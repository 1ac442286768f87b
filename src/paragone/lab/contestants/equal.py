"""Ensembles at equal parameters, for questions of speed: the same work for ours and the rivals.

Defaults differ (XGBoost grows trees of depth 6, LightGBM of 31 leaves), so that a time at defaults
compares different models. Here all boostings grow the same number of trees leaf by leaf to the
same number of leaves, at the same learning rate; those that can have 255 bins, an L2 penalty of 1
and a least sum of second derivatives of 1 in a leaf. Forests have the same number of fully grown
trees and try the same share of features at a node. What a library cannot do is in its `note`.

A fact of the workload, `scale`, keeps those that would take minutes away from large tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paragone.lab.spec import Contestant

__all__ = ["LEAVES", "ROUNDS", "boosting", "boosting_like", "forest_like", "forests"]

ROUNDS, LEAVES = 100, 31
_RATE, _PENALTY, _CHILD = 0.1, 1.0, 1.0
_SMALL: Mapping[str, Any] = {"scale": ["small"]}


def _ours(id: str, stem: str, method: str, needs: Mapping[str, Any], **params: Any) -> Contestant:
    return Contestant(
        id=id, title=f"paragone {id.replace('_', ' ')}", make=f"paragone.ensemble:{stem}{{kind}}",
        method=method, params=params, needs=needs,
    )  # fmt: skip


def _sklearn(
    id: str, target: str, needs: Mapping[str, Any], note: str = "", **params: Any
) -> Contestant:
    return Contestant(
        id=f"sklearn_{id}", title=f"sklearn {id.replace('_', ' ')}", make=target, origin="rival",
        distribution="scikit-learn", install="pip install scikit-learn", params=params,
        needs=needs, note=note,
    )  # fmt: skip


def boosting(leaves: int = LEAVES) -> list[Contestant]:
    """Returns gradient boostings whose trees all have the same number of leaves.

    Args:
        leaves: Leaves of each tree.
    """
    friedman = {
        "n_estimators": ROUNDS, "learning_rate": _RATE, "max_depth": None,
        "max_leaf_nodes": leaves,
    }  # fmt: skip
    return [
        _ours("newton_boosting", "NewtonBoosting", "xgboost", {}, n_estimators=ROUNDS,
              learning_rate=_RATE, max_depth=0, max_leaves=leaves, grow_policy="lossguide",
              max_bin=255, reg_lambda=_PENALTY, min_child_weight=_CHILD),
        _ours("gbdt", "GradientBoosting", "gbdt", {}, **friedman),
        Contestant(
            id="lightgbm", title="lightgbm {version}", make="lightgbm:LGBM{kind}", origin="rival",
            distribution="lightgbm", install="pip install lightgbm",
            params={
                "n_estimators": ROUNDS, "learning_rate": _RATE, "num_leaves": leaves,
                "max_depth": -1, "max_bin": 255, "reg_lambda": _PENALTY,
                "min_child_weight": _CHILD, "min_child_samples": 1, "verbose": -1,
            },
        ),
        Contestant(
            id="xgboost", title="xgboost {version}", make="xgboost:XGB{kind}", origin="rival",
            distribution="xgboost-cpu", install="pip install xgboost-cpu",
            params={
                "n_estimators": ROUNDS, "learning_rate": _RATE, "max_leaves": leaves,
                "max_depth": 0, "grow_policy": "lossguide", "tree_method": "hist",
                "max_bin": 255, "reg_lambda": _PENALTY, "min_child_weight": _CHILD,
                "verbosity": 0,
            },
        ),
        _sklearn("hist_gbdt", "sklearn.ensemble:HistGradientBoosting{kind}", {},
                 "bounds rows in a leaf, not second derivatives",
                 max_iter=ROUNDS, learning_rate=_RATE, max_leaf_nodes=leaves, max_bins=255,
                 l2_regularization=_PENALTY, min_samples_leaf=1, early_stopping=False),
        _sklearn("gbdt", "sklearn.ensemble:GradientBoosting{kind}", _SMALL,
                 "conventional: sorts raw values at each node", **friedman),
    ]  # fmt: skip


def boosting_like() -> list[Contestant]:
    """Returns the pairs that only `bench` measures: other kinds of boosting."""
    return [
        _ours("adaboost", "AdaBoost", "adaboost", {}, n_estimators=ROUNDS),
        _sklearn("adaboost", "sklearn.ensemble:AdaBoost{kind}", {}, n_estimators=ROUNDS),
    ]


def forests() -> list[Contestant]:
    """Returns forests of the same number of fully grown trees."""
    same = {"n_estimators": ROUNDS, "max_features": "sqrt"}
    return [
        _ours("random_forest", "RandomForest", "random_forest", {}, **same),
        _sklearn("random_forest", "sklearn.ensemble:RandomForest{kind}", {}, **same),
        Contestant(
            id="intelex_random_forest", title="intelex random forest",
            make="sklearnex.ensemble:RandomForest{kind}", origin="rival", params=same,
            distribution="scikit-learn-intelex", install="pip install scikit-learn-intelex",
            note="splits on bins, not on raw values",
        ),
    ]  # fmt: skip


def forest_like() -> list[Contestant]:
    """Returns the pairs that only `bench` measures: single trees and bagging."""
    return [
        _ours("decision_tree", "DecisionTree", "random_forest", {}),
        _sklearn("decision_tree", "sklearn.tree:DecisionTree{kind}", {}),
        _ours("bagging", "Bagging", "bagging", {}, n_estimators=50),
        _sklearn("bagging", "sklearn.ensemble:Bagging{kind}", {}, n_estimators=50),
    ]
