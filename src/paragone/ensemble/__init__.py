"""Ensembles of trees: bagging, forests, boosting and stacking as scikit-learn estimators.

Start with `NewtonBoostingClassifier` (boosting with second derivatives) or
`RandomForestClassifier` (no tuning); `paragone compare ensembles` says which suits the data.
"""

from paragone._core.lazy import lazy_exports

_MODULES = {
    "decision_tree": "DecisionTree", "bagging": "Bagging", "random_forest": "RandomForest",
    "adaboost": "AdaBoost", "gradient_boosting": "GradientBoosting",
    "newton_boosting": "NewtonBoosting", "stacking": "Stacking", "voting": "Voting",
}  # fmt: skip

_TARGETS = {
    f"{stem}{kind}": f"paragone.ensemble.{module}:{stem}{kind}"
    for module, stem in _MODULES.items()
    for kind in ("Classifier", "Regressor")
} | {
    "load_model": "paragone.ensemble._serialize:load_model",
    "permutation_importance": "paragone.ensemble._importance:permutation_importance",
    "torch_objective": "paragone.ensemble._custom_loss:torch_objective",
}

__getattr__, __dir__ = lazy_exports(__name__, _TARGETS)

__all__ = [*_TARGETS]  # pyright: ignore[reportUnsupportedDunderAll]
