"""Newton boosting models to and from XGBoost's own model file."""

from __future__ import annotations

import json
from os import PathLike
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from paragone.ensemble._rounds import newton_loss
from paragone.ensemble._tree import Tree
from paragone.ensemble._xgboost_read import BoosterFile, read_booster
from paragone.ensemble._xgboost_write import write_booster

__all__ = ["XgboostModel"]

# Where ours has no equal, the loss with the same link: predictions are the file's.
_READ_REGRESSION = {
    "reg:squarederror": "squared", "reg:absoluteerror": "absolute", "reg:gamma": "gamma",
    "reg:quantileerror": "quantile", "reg:pseudohubererror": "huber", "reg:linear": "squared",
    "reg:squaredlogerror": "squared", "count:poisson": "poisson", "reg:tweedie": "tweedie",
}  # fmt: skip
_READ_CLASSES = {
    "binary:logistic": "logistic", "binary:logitraw": "logistic", "reg:logistic": "logistic",
    "multi:softprob": "softmax", "multi:softmax": "softmax",
}  # fmt: skip
_WRITE = {
    "squared": "reg:squarederror", "absolute": "reg:absoluteerror", "gamma": "reg:gamma",
    "quantile": "reg:quantileerror", "huber": "reg:pseudohubererror", "poisson": "count:poisson",
    "tweedie": "reg:tweedie", "logistic": "binary:logistic", "softmax": "multi:softprob",
    "exponential": "binary:logistic",
}  # fmt: skip


class XgboostModel:
    """Gives Newton boosting `load_xgboost` and `save_xgboost`."""

    _classify: bool

    @classmethod
    def load_xgboost(cls, path: str | PathLike[str]) -> Any:
        """Reads a model that XGBoost saved (JSON or UBJSON); predictions agree to 1e-6.

        Trees keep XGBoost's side for missing values. After early stopping only the rounds up to
        the best are kept, as `XGBClassifier.predict` uses them. Classes are 0 to K - 1, or those
        that `save_xgboost` left in the file. Pseudo-Huber and squared log error become Huber and
        squared: predictions are the file's, further rounds use our loss.

        Raises:
            ValueError: The file is damaged, or its objective is not of this estimator's kind.
        """
        file = read_booster(path)
        objectives = _READ_CLASSES if cls._classify else _READ_REGRESSION
        if file.objective not in objectives:
            other = _READ_REGRESSION if cls._classify else _READ_CLASSES
            remedy = (
                "use the other estimator" if file.objective in other else "it has no equal here"
            )
            raise ValueError(f"{path} has the objective {file.objective!r}; {remedy}")
        outputs = len(file.base)
        name = objectives[file.objective]
        if outputs > 1 and name not in ("softmax", "quantile"):
            raise ValueError(f"{path} predicts {outputs} targets at once; one is supported")
        make: Any = cls
        model = make(
            n_estimators=len(file.rounds), booster=file.booster, objective=name,
            **_loss_params(name, file.objective_params),
        )  # fmt: skip
        _fill(model, file)
        return model

    def save_xgboost(self, path: str | PathLike[str]) -> None:
        """Writes a JSON file that `xgboost.Booster(model_file=path)` reads.

        Predictions agree to 1e-6 (XGBoost stores and sums float32). Categories of ASCII text or
        whole numbers go with the file, so that XGBoost reads the same data frames. Class labels
        stay behind in an attribute: XGBoost gives probabilities in the order of `classes_`.
        Huber is written as pseudo-Huber, the exponential loss as logistic with twice the score.

        Raises:
            ValueError: The objective is a function, for which XGBoost has no name.
        """
        check_is_fitted(self, "base_score_")
        write_booster(_describe(self), path)


def _loss_params(name: str, params: dict[str, str]) -> dict[str, Any]:
    if name == "quantile":
        levels = np.atleast_1d(json.loads(params.get("quantile_alpha", "0.5"))).tolist()
        return {"quantile_alpha": levels if len(levels) > 1 else levels[0]}
    if name == "huber":
        return {"huber_slope": float(params.get("huber_slope", 1.0))}
    if name == "tweedie":
        return {"tweedie_variance_power": float(params.get("tweedie_variance_power", 1.5))}
    return {}


def _fill(model: Any, file: BoosterFile) -> None:
    """Gives a new estimator the state that `fit` would have left."""
    outputs = len(file.base)
    model.n_features_in_ = file.num_columns
    if file.names:
        model.feature_names_in_ = np.array(file.names, object)
    model._categories_ = list(file.categories)
    if model._classify:
        count = max(2, outputs)
        known = json.loads(file.attributes.get("paragone_classes", "null"))
        model.classes_ = np.arange(count) if known is None else np.array(known)
        if model.classes_.shape != (count,):
            raise ValueError(f"the file names {len(model.classes_)} classes for {count}")
    rounds, weights = file.rounds, np.ones((len(file.rounds), outputs))
    if file.weights is not None:
        weights = file.weights
    if file.best_iteration is not None:
        kept = (file.best_iteration + 1) * file.trees_per_round
        rounds, weights = rounds[:kept], weights[:kept]
        model.best_iteration_ = file.best_iteration
        if "best_score" in file.attributes:
            model.best_score_ = float(file.attributes["best_score"])
    if np.any(weights != weights[:, :1]):
        # XGBoost drops single trees, here whole rounds have one weight.
        for group, row in zip(rounds, weights, strict=True):
            for tree, weight in zip(group, row, strict=True):
                tree.value *= weight
        weights = np.ones_like(weights)
    model.trees_ = rounds
    model.tree_weights_ = weights[:, 0].copy()
    model.n_estimators_ = len(rounds)
    model.base_score_ = file.base
    model.evals_result_ = {}
    if file.coef is not None:
        model.coef_, model.intercept_ = file.coef, file.intercept
    model._loss = newton_loss(model, len(model.classes_) if model._classify else None)
    if model._loss.outputs != outputs:
        raise ValueError(f"objective {file.objective!r} does not have {outputs} outputs")
    model._repack()


def _describe(model: Any) -> BoosterFile:
    """The fitted estimator in the terms of the file."""
    name = model._loss.name
    if callable(model.objective) or name not in _WRITE:
        raise ValueError(
            f"objective {model.objective!r} has no name in XGBoost; save_model keeps all of "
            "paragone's own objectives"
        )
    # 1 / (1 + exp(-2 F)) is the probability of the exponential loss.
    scale = 2.0 if name == "exponential" else 1.0
    linear = hasattr(model, "coef_")
    outputs = len(model.base_score_)
    weights = np.repeat(model.tree_weights_[:, None], outputs, axis=1)
    attributes = {}
    labels = model.classes_.tolist() if model._classify else []
    if labels and all(isinstance(label, str | int | float) for label in labels):
        attributes["paragone_classes"] = json.dumps(labels)
    file = BoosterFile(
        booster="gblinear" if linear else "dart" if np.any(weights != 1.0) else "gbtree",
        objective=_WRITE[name], objective_params=_written_params(model, name),
        num_columns=model.n_features_in_, base=model.base_score_ * scale,
        names=list(getattr(model, "feature_names_in_", [])) or None,
        categories=model._categories_, attributes=attributes,
        best_iteration=getattr(model, "best_iteration_", None),
    )  # fmt: skip
    if linear:
        file.coef, file.intercept = model.coef_ * scale, model.intercept_ * scale
    else:
        file.rounds = [[_scaled(tree, scale) for tree in group] for group in model.trees_]
        file.weights = weights
    return file


def _written_params(model: Any, name: str) -> dict[str, str]:
    if name == "quantile":
        levels = np.atleast_1d(model.quantile_alpha).tolist()
        return {"quantile_alpha": json.dumps(levels)}
    if name == "huber":
        return {"huber_slope": repr(float(model.huber_slope))}
    if name == "tweedie":
        return {"tweedie_variance_power": repr(float(model.tweedie_variance_power))}
    return {}


def _scaled(tree: Tree, scale: float) -> Tree:
    if scale == 1.0:
        return tree
    parts = {name: getattr(tree, name) for name in Tree.__dataclass_fields__}
    return Tree(**{**parts, "value": tree.value * scale})
