"""The door for estimators made of other people's estimators: the table goes through as it is.

A pipeline inside a stack may want the data frame's column names, another member a sparse
matrix; so only shape and names are checked here, and every member checks the rest itself.
"""

from __future__ import annotations

from typing import Any

import narwhals as nw
import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.utils import _safe_indexing, get_tags
from sklearn.utils.validation import has_fit_parameter, validate_data

__all__ = ["ask", "fit_member", "inherit_tags", "read_table", "seeded_clone", "take_rows"]


def read_table(estimator: Any, X: Any, *, reset: bool) -> Any:
    """Returns X, a list turned into an array; sets or checks the number and names of columns."""
    if nw.dependencies.is_into_dataframe(X):
        validate_data(estimator, X, reset=reset, skip_check_array=True)
        return X
    return validate_data(
        estimator, X, reset=reset, dtype=None, accept_sparse="csr", ensure_all_finite=False
    )


def take_rows(X: Any, rows: np.ndarray) -> Any:
    """Returns these rows of an array, a sparse matrix or a data frame."""
    return _safe_indexing(X, rows)


def ask(model: Any, method: str, X: Any) -> Any:
    """Asks a linear model; one row twice, since BLAS rounds a single product otherwise."""
    if X.shape[0] == 1:
        return getattr(model, method)(take_rows(X, np.zeros(2, np.int64)))[:1]
    return getattr(model, method)(X)


def seeded_clone(member: BaseEstimator, random: np.random.RandomState) -> Any:
    """Returns an unfitted copy; every `random_state` in it is drawn from `random`."""
    copy: Any = clone(member)
    names = [key for key in sorted(copy.get_params()) if key.endswith("random_state")]
    return copy.set_params(**{key: random.randint(np.iinfo(np.int32).max) for key in names})


def fit_member(member: Any, X: Any, y: np.ndarray, weight: np.ndarray | None) -> Any:
    """Fits and returns `member`.

    Raises:
        ValueError: Weights were given and the member cannot take them.
    """
    if weight is None:
        return member.fit(X, y)
    if not has_fit_parameter(member, "sample_weight"):
        raise ValueError(
            f"{type(member).__name__} takes no sample_weight; use a member that does, or fit "
            "without weights (AdaBoost: sampling='resample')"
        )
    return member.fit(X, y, sample_weight=weight)


def inherit_tags(tags: Any, members: list[Any]) -> Any:
    """Lets NaN and sparse input through if every member takes them."""
    inputs = [get_tags(member).input_tags for member in members]
    tags.input_tags.allow_nan = all(tag.allow_nan for tag in inputs)
    tags.input_tags.sparse = all(tag.sparse for tag in inputs)
    return tags
