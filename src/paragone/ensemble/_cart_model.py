"""What the estimators made of CARTs share: their options, their door, and class predictions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, is_classifier
from sklearn.utils import compute_class_weight
from sklearn.utils.validation import _check_monotonic_cst, check_is_fitted

from paragone._core.random import RandomState
from paragone.ensemble._cart import CLASS_CRITERIA
from paragone.ensemble._input import (
    Features,
    read_features,
    read_target,
    read_target_classes,
    read_weights,
)
from paragone.ensemble._serialize import JsonModel

__all__ = ["REGRESSION_CRITERIA", "CartModel", "ClassVotes", "Problem", "class_weights"]

REGRESSION_CRITERIA = ("squared_error", "friedman_mse", "absolute_error", "poisson")


@dataclass(slots=True)
class Problem:
    """Training data that passed the door; `target` holds class codes or numbers."""

    features: Features
    target: np.ndarray
    weight: np.ndarray
    num_classes: int


class CartModel(JsonModel, BaseEstimator):
    """Base of decision trees and forests: reads data, resolves and checks the options."""

    criterion: str
    splitter: str
    max_depth: int | None
    min_samples_split: int | float
    min_samples_leaf: int | float
    min_weight_fraction_leaf: float
    max_features: int | float | str | None
    max_leaf_nodes: int | None
    min_impurity_decrease: float
    ccp_alpha: float
    monotonic_cst: Any
    categorical_features: Any
    random_state: RandomState
    tree_method: str
    max_bins: int
    n_features_in_: int

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = tags.input_tags.sparse = True
        return tags

    def _read(self, X: Any, *, reset: bool = False) -> Features:
        if not reset:
            check_is_fitted(self)
        return read_features(self, X, reset=reset, categorical_features=self.categorical_features)

    def _problem(self, X: Any, y: Any, sample_weight: Any) -> Problem:
        """Reads the training data; a classifier learns its classes here."""
        features = self._read(X, reset=True)
        num_classes = 0
        if is_classifier(self):
            codes, self.classes_ = read_target_classes(y)
            num_classes = self.n_classes_ = len(self.classes_)
            target = codes.astype(np.float64)
        else:
            target = read_target(y)
        n = len(features.values)
        if len(target) != n:
            raise ValueError(f"X has {n} rows and y has {len(target)}; they must agree")
        weight = read_weights(sample_weight, n)
        if self.criterion == "poisson" and (target.min() < 0 or not target @ weight > 0):
            raise ValueError(
                f"criterion='poisson' needs y >= 0 with a positive sum; its least value is "
                f"{target.min()}"
            )
        return Problem(features, target, weight, num_classes)

    def _growth(self, problem: Problem) -> dict[str, Any]:
        """Returns the options as keyword arguments of `grow_cart`."""
        allowed = CLASS_CRITERIA if problem.num_classes else REGRESSION_CRITERIA
        if self.criterion not in allowed:
            raise ValueError(f"criterion={self.criterion!r} is none of {', '.join(allowed)}")
        if self.splitter not in ("best", "random"):
            raise ValueError(f"splitter={self.splitter!r} is neither 'best' nor 'random'")
        if self.tree_method not in ("exact", "hist"):
            raise ValueError(f"tree_method={self.tree_method!r} is neither 'exact' nor 'hist'")
        if not 2 <= self.max_bins <= 255:
            raise ValueError(f"max_bins={self.max_bins} must lie between 2 and 255")
        for name, least in (("max_depth", 1), ("max_leaf_nodes", 2)):
            value = getattr(self, name)
            if value is not None and (value != int(value) or value < least):
                raise ValueError(f"{name}={value!r} must be a whole number >= {least}, or None")
        for name, most in (
            ("min_impurity_decrease", np.inf),
            ("ccp_alpha", np.inf),
            ("min_weight_fraction_leaf", 0.5),
        ):
            if not 0.0 <= getattr(self, name) <= most:
                raise ValueError(f"{name}={getattr(self, name)!r} must lie in [0, {most}]")
        n = len(problem.target)
        return {
            "criterion": self.criterion,
            "num_classes": problem.num_classes,
            "max_depth": self.max_depth,
            "min_samples_split": self._rows("min_samples_split", 2, n),
            "min_samples_leaf": self._rows("min_samples_leaf", 1, n),
            "min_weight_fraction_leaf": self.min_weight_fraction_leaf,
            "max_features": self._num_features(),
            "max_leaf_nodes": self.max_leaf_nodes,
            "min_impurity_decrease": self.min_impurity_decrease,
            "monotone": self._monotone(problem),
            "splitter": self.splitter,
        }

    def _rows(self, name: str, least: int, n: int) -> int:
        value = getattr(self, name)
        if isinstance(value, float | np.floating) and 0.0 < value <= 1.0:
            return max(least, int(np.ceil(value * n)))
        if isinstance(value, int | np.integer) and value >= least:
            return int(value)
        raise ValueError(
            f"{name}={value!r} must be a whole number >= {least}, or a float share in (0, 1]"
        )

    def _num_features(self) -> int:
        p, value = self.n_features_in_, self.max_features
        if value is None:
            return p
        if value in ("sqrt", "log2"):
            return max(1, int(np.sqrt(p) if value == "sqrt" else np.log2(p)))
        if isinstance(value, float | np.floating) and 0.0 < value <= 1.0:
            return max(1, int(value * p))
        if isinstance(value, int | np.integer) and value >= 1:
            return min(int(value), p)
        raise ValueError(
            f"max_features={value!r} must be a whole number >= 1, a float share in (0, 1], "
            "'sqrt', 'log2' or None"
        )

    def _monotone(self, problem: Problem) -> np.ndarray | None:
        if self.monotonic_cst is None:
            return None
        signs = _check_monotonic_cst(self, self.monotonic_cst)
        if np.any(signs) and problem.num_classes > 2:
            raise ValueError(
                f"monotonic_cst holds for two classes, y has {problem.num_classes}; drop it"
            )
        if np.any(signs[problem.features.categorical]):
            raise ValueError("monotonic_cst: a categorical column has no order; use 0 there")
        return signs


class ClassVotes:
    """Labels and log-probabilities of a classifier that has `predict_proba`."""

    classes_: np.ndarray

    def predict_proba(self, X: Any) -> np.ndarray:
        raise NotImplementedError

    def predict(self, X: Any) -> np.ndarray:
        """Returns the likeliest label of each row, (n,); the first one of equals."""
        share = self.predict_proba(X)
        return self.classes_[share.argmax(axis=1)]

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Returns the logarithm of `predict_proba`; minus infinity where that is 0."""
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))


def class_weights(
    class_weight: Any, classes: np.ndarray, target: np.ndarray, weight: np.ndarray
) -> np.ndarray:
    """Returns the factor of each row, (n,): W / (K W_k) for "balanced", or by label."""
    if class_weight is None:
        return np.ones(len(target))
    codes = target.astype(np.int64)
    if isinstance(class_weight, str):
        if class_weight not in ("balanced", "balanced_subsample"):
            raise ValueError(
                f"class_weight={class_weight!r} is neither 'balanced', a dict nor None"
            )
        mass = np.bincount(codes, weight, minlength=len(classes))
        factor = np.divide(
            mass.sum(), np.count_nonzero(mass) * mass, out=np.zeros(len(mass)), where=mass > 0
        )
    else:
        factor = compute_class_weight(class_weight, classes=classes, y=classes[codes])
    return factor[codes]
