"""Makes any scikit-learn-like estimator ready for a table: seed, threads, categories, missing.

All contestants get the same float32 matrix, with category codes and NaN. What a library can
use itself it is told; for the rest a pipeline of scikit-learn's own transformers stands in
front, inside the timed fit:

- an estimator with a parameter `categorical_features` gets the mask; LightGBM, XGBoost and
  CatBoost get it in their own words; any other gets one-hot columns;
- an estimator whose tags do not say `allow_nan` gets medians and an indicator column.

So a stranger's estimator meets a mixed table without a line of code of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["Prepared", "cheapen", "draw_parameters", "prepare"]

ONE_HOT_LIMIT = 64
"""At most so many one-hot columns for a column; rarer categories share the last one."""

WARM_ROUNDS = 3


class Prepared:
    """An estimator with what its `fit` and `predict` need for this table."""

    def __init__(self, estimator: Any, fit_arguments: Mapping[str, Any], integer_columns: Any):
        self.estimator = estimator
        self._arguments = dict(fit_arguments)
        self.integer_columns = integer_columns

    def _shape(self, features: np.ndarray) -> Any:
        if self.integer_columns is None:
            return features
        mixed = features.astype(object)
        for j in self.integer_columns:
            mixed[:, j] = np.nan_to_num(features[:, j], nan=-1).astype(np.int64)
        return mixed

    def fit(self, features: np.ndarray, target: np.ndarray) -> None:
        self.estimator.fit(self._shape(features), target, **self._arguments)

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Probabilities where the estimator gives them, else its plain predictions."""
        chances = getattr(self.estimator, "predict_proba", None)
        return (chances or self.estimator.predict)(self._shape(features))

    @property
    def gives_probabilities(self) -> bool:
        return hasattr(self.estimator, "predict_proba")


def prepare(
    estimator: Any, *, categorical: np.ndarray, missing: bool, seed: int, threads: int
) -> Prepared:
    """Returns the estimator, ready for tables with these columns.

    Args:
        estimator: Unfitted.
        categorical: Mask (p,).
        missing: Whether the table has missing values (in any row).
        seed: Given to every parameter that ends in `random_state` or `random_seed`.
        threads: Given to `n_jobs`, `nthread` or `thread_count`, innermost.
    """
    known = _parameters(estimator, deep=True)
    seeds = {k: seed for k in known if k.split("__")[-1] in ("random_state", "random_seed")}
    workers = _workers(known, threads)
    if seeds or workers:
        estimator.set_params(**seeds, **workers)
    arguments: dict[str, Any] = {}
    integer_columns = None
    columns = np.flatnonzero(categorical)
    family = type(estimator).__module__.split(".")[0]
    if len(columns):
        if "categorical_features" in _parameters(estimator):
            estimator.set_params(categorical_features=np.asarray(categorical, bool))
        elif family == "lightgbm":
            arguments["categorical_feature"] = columns.tolist()
        elif family == "xgboost":
            kinds = ["c" if flag else "q" for flag in categorical]
            estimator.set_params(enable_categorical=True, feature_types=kinds)
        elif family == "catboost":
            estimator.set_params(cat_features=columns.tolist())
            integer_columns = columns
        else:
            return Prepared(_with_columns(estimator, categorical, missing), {}, None)
    if missing and not _takes_missing(estimator):
        estimator = _with_columns(estimator, np.zeros_like(categorical), missing)
    return Prepared(estimator, arguments, integer_columns)


def _workers(known: Mapping[str, Any], threads: int) -> dict[str, int]:
    """Gives the threads to the innermost level that takes them.

    A stack whose members run in threads of their own runs them one after the other: threads
    within threads would be more than the run may use, and up to three times as slow.
    """
    names = ("n_jobs", "nthread", "thread_count")
    taking = [key for key in known if key.split("__")[-1] in names]

    def holds_others(key: str) -> bool:
        level = key[: len(key) - len(key.split("__")[-1])]
        return any(other.startswith(level) and "__" in other[len(level) :] for other in taking)

    return {key: 1 if holds_others(key) else threads for key in taking}


def _parameters(estimator: Any, deep: bool = False) -> Mapping[str, Any]:
    read = getattr(estimator, "get_params", None)
    return read(deep=deep) if read else {}


def _takes_missing(estimator: Any) -> bool:
    from sklearn.utils import get_tags

    if not hasattr(estimator, "__sklearn_tags__"):
        return False
    return get_tags(estimator).input_tags.allow_nan


def _with_columns(estimator: Any, categorical: np.ndarray, missing: bool) -> Any:
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    numeric: Any = "passthrough"
    if missing and not _takes_missing(estimator):
        numeric = SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True)
    steps: list[Any] = [("numbers", numeric, np.flatnonzero(~categorical))]
    if categorical.any():
        one_hot = OneHotEncoder(
            handle_unknown="infrequent_if_exist", max_categories=ONE_HOT_LIMIT,
            sparse_output=False, dtype=np.float32,  # pyright: ignore[reportArgumentType]
        )  # fmt: skip
        steps.append(("categories", one_hot, np.flatnonzero(categorical)))
    if hasattr(estimator, "__sklearn_tags__"):
        return make_pipeline(ColumnTransformer(steps), estimator)
    return _Chain(ColumnTransformer(steps), estimator)


class _Chain:
    """Columns and an estimator that is not of scikit-learn's kin, which its pipelines refuse."""

    def __init__(self, columns: Any, estimator: Any):
        self._columns, self._estimator = columns, estimator

    def fit(self, features: np.ndarray, target: np.ndarray) -> None:
        self._estimator.fit(self._columns.fit_transform(features), target)

    def predict(self, features: np.ndarray) -> np.ndarray:
        return self._estimator.predict(self._columns.transform(features))

    def __getattr__(self, name: str) -> Any:
        if name == "predict_proba":
            chances = self._estimator.predict_proba
            return lambda features: chances(self._columns.transform(features))
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._estimator, name)


def cheapen(estimator: Any) -> None:
    """Cuts the number of trees or rounds, for a first call that only loads and compiles."""
    ends = ("n_estimators", "max_iter", "iterations")
    cut = {
        key: min(value, WARM_ROUNDS)
        for key, value in _parameters(estimator, deep=True).items()
        if key.split("__")[-1] in ends and isinstance(value, int) and not isinstance(value, bool)
    }
    if cut:
        estimator.set_params(**cut)


def draw_parameters(space: Mapping[str, Any], generator: np.random.Generator) -> dict[str, Any]:
    """Draws one point of a search space.

    Args:
        space: Parameter to a list of values, or to `{"low": a, "high": b}` with the options
            `"log": true` and `"integer": true`.
        generator: Source of randomness.

    Example:
        >>> draw_parameters({"depth": [3], "rate": {"low": 1.0, "high": 1.0}},
        ...                 np.random.default_rng(0))
        {'depth': 3, 'rate': 1.0}
    """
    drawn: dict[str, Any] = {}
    for name, choice in space.items():
        if not isinstance(choice, Mapping):
            drawn[name] = choice[int(generator.integers(len(choice)))]
            continue
        low, high = float(choice["low"]), float(choice["high"])
        if choice.get("log"):
            value = float(np.exp(generator.uniform(np.log(low), np.log(high))))
        else:
            value = float(generator.uniform(low, high))
        drawn[name] = round(value) if choice.get("integer") else value
    return drawn
