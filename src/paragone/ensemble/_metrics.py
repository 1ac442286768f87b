r"""Weighted metrics of boosting by their usual names, lower or higher being better.

A metric takes `(y, prediction, weight)`: targets (class codes in classification), predictions as
the loss's `transform` gives them (means, or probabilities (n, classes)), and weights.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

__all__ = ["Metric", "find_metric"]

_TINY = 1e-15


def _rmse(y, mean, weight):
    return float(np.sqrt(np.average((y - mean) ** 2, weights=weight)))


def _mae(y, mean, weight):
    return float(np.average(np.abs(y - mean), weights=weight))


def _logloss(y, share, weight):
    own = share[np.arange(len(y)), y.astype(np.int64)]
    return float(np.average(-np.log(np.maximum(own, _TINY)), weights=weight))


def _error(y, share, weight):
    return float(np.average(share.argmax(1) != y, weights=weight))


def _auc(y, share, weight):
    if share.shape[1] == 2:
        return float(roc_auc_score(y, share[:, 1], sample_weight=weight))
    return float(roc_auc_score(y, share, sample_weight=weight, multi_class="ovr"))


_NAMED: dict[str, tuple[Callable[..., float], bool, bool]] = {
    "rmse": (_rmse, False, False), "mae": (_mae, False, False),
    "logloss": (_logloss, False, True), "mlogloss": (_logloss, False, True),
    "error": (_error, False, True), "merror": (_error, False, True), "auc": (_auc, True, True),
}  # fmt: skip
"""Name: function, whether greater is better, whether it needs class probabilities."""


class Metric:
    """A named metric; `sign` times it is to be minimised."""

    def __init__(self, name: str, function: Callable[..., float], greater: bool) -> None:
        self.name, self.function, self.sign = name, function, -1.0 if greater else 1.0

    def __call__(self, y: Any, prediction: Any, weight: np.ndarray) -> float:
        return self.function(y, prediction, weight)


def find_metric(metric: str | Callable, classify: bool) -> Metric:
    """Returns the metric of this name, or a callable `(y, prediction[, sample_weight])` as one.

    A callable is minimised unless its attribute `greater_is_better` is true. It sees class codes
    and, for two classes, the probability of the second.
    """
    if not callable(metric):
        if metric not in _NAMED or _NAMED[metric][2] != classify:
            fits = sorted(name for name, row in _NAMED.items() if row[2] == classify)
            raise ValueError(
                f"eval_metric={metric!r} is unknown here; use {', '.join(fits)}, or a callable"
            )
        function, greater, _ = _NAMED[metric]
        return Metric(metric, function, greater)
    takes_weight = "sample_weight" in _parameters(metric)

    def call(y: np.ndarray, prediction: np.ndarray, weight: np.ndarray) -> float:
        if classify and prediction.ndim == 2 and prediction.shape[1] == 2:
            prediction = prediction[:, 1]
        extra = {"sample_weight": weight} if takes_weight else {}
        return float(metric(y, prediction, **extra))

    name = getattr(metric, "__name__", type(metric).__name__)
    return Metric(name, call, bool(getattr(metric, "greater_is_better", False)))


def _parameters(function: Callable) -> set[str]:
    try:
        return set(inspect.signature(function).parameters)
    except ValueError:
        return set()
