r"""The door: every kind of table becomes one float32 matrix, and nothing else gets in.

A tree only ever asks `x <= t` or "is x in this set", so all that a table must give is an
order or an identity. Numbers are rounded once to float32, in fit and in predict alike, so that
a value between two float32 neighbours takes the same way both times. A category becomes its
position in the sorted list of the values seen in fit; a missing value and a category never
seen become NaN, which every tree sends to the side that it learned for missing values.

Infinities are refused (a split point next to one would be infinite too), and so are float64
values that float32 cannot hold. Sparse input is made dense: a zero that is not stored is a
real zero here, not a missing value.

Cost: one pass over the table, 4 bytes a cell.

n rows, p columns, c categories of a column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import narwhals as nw
import numpy as np
import scipy.sparse as sp
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, _check_y, validate_data

__all__ = [
    "Features", "read_features", "read_target", "read_target_classes", "read_weights",
]  # fmt: skip

_REQUIRES_Y = "requires y to be passed, but the target y is None"


@dataclass(slots=True)
class Features:
    """What passed the door.

    Attributes:
        values: float32 (n, p), C-contiguous; categories as codes 0..c-1, NaN where missing.
        categorical: bool (p,), which columns hold codes.
        categories: For each column None or the category values, position = code.
    """

    values: np.ndarray
    categorical: np.ndarray
    categories: list[np.ndarray | None]


def read_features(
    estimator: Any,
    X: Any,
    *,
    reset: bool,
    categorical_features: str | Sequence[Any] | np.ndarray | None = "from_dtype",
) -> Features:
    """Reads a NumPy array, list, SciPy sparse matrix or data frame (anything narwhals knows).

    With `reset=True` (in fit) it sets `n_features_in_`, `feature_names_in_` and
    `_categories_` on the estimator; with `reset=False` it holds the table against them.

    Args:
        estimator: Whose names and categories are set or used.
        X: The table, (n, p).
        reset: True in fit, False afterwards.
        categorical_features: "from_dtype" takes the text, categorical and enum columns of
            a data frame; None takes none; else a bool mask, column indices, or names.
            Only read when `reset` is True.
    """
    if nw.dependencies.is_into_dataframe(X):
        _check_names_differ(X)
        frame = nw.from_native(X, eager_only=True)
        columns = _frame_columns(estimator, X, frame, reset)
        marked = _marked(estimator, columns, categorical_features) if reset else None
        return _read_columns(estimator, columns, marked)
    if nw.dependencies.is_polars_lazyframe(X):
        raise ValueError("X is a lazy frame; call its collect() first")
    return _read_matrix(estimator, X, reset, categorical_features)


def read_target(y: Any) -> np.ndarray:
    """Returns a regression target as float64 (n,); refuses NaN, infinity and text."""
    if y is None:
        raise ValueError(_REQUIRES_Y)
    return np.ascontiguousarray(_check_y(_plain(y, "y"), y_numeric=True), np.float64)


def read_target_classes(y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns class codes int64 (n,) and the sorted class labels, of any type."""
    if y is None:
        raise ValueError(_REQUIRES_Y)
    y = _check_y(_plain(y, "y"))
    check_classification_targets(y)
    try:
        classes, codes = np.unique(y, return_inverse=True)
    except TypeError as error:
        raise ValueError("y mixes label types that have no order; make them all text") from error
    return codes.astype(np.int64, copy=False), classes


def read_weights(sample_weight: Any, n: int) -> np.ndarray:
    """Returns float64 weights (n,): ones for None, else checked: finite, >= 0, not all zero."""
    if sample_weight is not None and not np.isscalar(sample_weight):
        sample_weight = _plain(sample_weight, "sample_weight")
    weight = _check_sample_weight(
        sample_weight, np.empty((n, 1)), dtype=np.float64, ensure_non_negative=True
    )
    if n and not weight.any():
        raise ValueError("sample_weight is zero in every row; at least one must be positive")
    return weight


def _plain(values: Any, name: str) -> np.ndarray:
    """A list, or a series of any library, as an array; refuses missing entries."""
    if sp.issparse(values):
        raise ValueError(f"{name} is a sparse matrix; call its toarray().ravel() first")
    series = nw.from_native(values, pass_through=True, allow_series=True)
    plain = series.to_numpy() if isinstance(series, nw.Series) else np.asarray(values)
    if plain.dtype.kind == "O" and any(_is_missing(value) for value in plain.ravel()):
        raise ValueError(f"Input {name} contains NaN or None; drop these rows first")
    return plain


def _is_missing(value: Any) -> bool:
    if isinstance(value, float | np.floating):
        return bool(value != value)
    return value is None or type(value).__name__ in ("NAType", "NaTType")


# A column on its way in: a narwhals series, or a 1-d array of a NumPy matrix.


def _check_names_differ(X: Any) -> None:
    names = [str(name) for name in getattr(X, "columns", ()) if isinstance(name, str | int)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"X has more than one column named {', '.join(twice)}; rename them")


def _frame_columns(estimator: Any, X: Any, frame: nw.DataFrame, reset: bool) -> list[Any]:
    validate_data(estimator, X, reset=reset, skip_check_array=True)  # pyright: ignore[reportArgumentType]
    n, p = frame.shape
    if p == 0:
        raise ValueError(f"0 feature(s) (shape=({n}, 0)) while a minimum of 1 is required.")
    if n == 0:
        raise ValueError(f"Found array with 0 sample(s) (shape=(0, {p})), a minimum of 1 is needed")
    return list(frame.iter_columns())


def _read_matrix(estimator: Any, X: Any, reset: bool, categorical_features: Any) -> Features:
    if reset:
        if isinstance(categorical_features, str):
            _check_keyword(categorical_features)
            categorical_features = None
        some = categorical_features is not None and len(categorical_features) > 0
    else:
        some = any(values is not None for values in estimator._categories_)
    if some and _is_object_matrix(X):
        validate_data(estimator, X, reset=reset, skip_check_array=True)
        columns = list(X.T)
    else:
        # Categories are told apart in float64: float32 would merge ids above 2^24.
        with np.errstate(over="ignore"):
            checked: Any = validate_data(
                estimator, X, reset=reset, dtype=np.float64 if some else np.float32,
                order=None if sp.issparse(X) else "C", accept_sparse="csr",
                ensure_all_finite="allow-nan",
            )  # fmt: skip
        if sp.issparse(checked):
            checked = checked.toarray(order="C")
        if not some:
            p = checked.shape[1]
            if reset:
                estimator._categories_ = [None] * p
            return Features(checked, np.zeros(p, bool), [None] * p)
        columns = list(checked.T)
    marked = _marked(estimator, columns, categorical_features) if reset else None
    return _read_columns(estimator, columns, marked)


def _is_object_matrix(X: Any) -> bool:
    return isinstance(X, np.ndarray) and X.ndim == 2 and X.dtype.kind in "OUS"


def _check_keyword(categorical_features: str) -> None:
    if categorical_features != "from_dtype":
        raise ValueError(
            f"categorical_features={categorical_features!r} is not 'from_dtype'; "
            "for one column give a list: ['name']"
        )


def _marked(estimator: Any, columns: list[Any], categorical_features: Any) -> np.ndarray:
    """Which columns are categorical, as a mask."""
    p = len(columns)
    if categorical_features is None:
        return np.zeros(p, bool)
    if isinstance(categorical_features, str):
        _check_keyword(categorical_features)
        return np.array([_is_text(column) for column in columns])
    chosen = np.asarray(categorical_features)
    mask = np.zeros(p, bool)
    if chosen.size == 0:
        return mask
    if chosen.dtype == bool:
        if chosen.shape != (p,):
            raise ValueError(
                f"categorical_features is a mask of shape {chosen.shape}; X has {p} columns"
            )
        return chosen
    if chosen.dtype.kind in "iu":
        if chosen.min() < -p or chosen.max() >= p:
            raise ValueError(
                f"categorical_features={chosen.tolist()} goes beyond the {p} columns of X"
            )
        mask[chosen] = True
        return mask
    names = list(getattr(estimator, "feature_names_in_", []))
    for name in chosen.tolist():
        if name not in names:
            raise ValueError(
                f"categorical_features names {name!r}, which X has not; "
                + (f"its columns are {names[:20]}" if names else "its columns have no names")
            )
        mask[names.index(name)] = True
    return mask


def _read_columns(estimator: Any, columns: list[Any], marked: np.ndarray | None) -> Features:
    """Fills the matrix column by column; `marked` is None outside fit."""
    p = len(columns)
    if marked is None:
        categories = estimator._categories_
    else:
        categories = [
            _distinct(column) if is_category else None
            for column, is_category in zip(columns, marked, strict=True)
        ]
    values = np.empty((len(columns[0]), p), np.float32)
    with np.errstate(over="ignore"):
        for j, column in enumerate(columns):
            known = categories[j]
            name = _name(estimator, j)
            values[:, j] = _numbers(column, name) if known is None else _codes(column, known, name)
    infinite = np.isinf(values).any(axis=0)
    if infinite.any():
        raise ValueError(
            f"Input X contains infinity or a value too large for dtype('float32') in "
            f"{_name(estimator, int(infinite.argmax()))}; replace it by a finite value or NaN"
        )
    if marked is not None:
        estimator._categories_ = categories
    return Features(values, np.array([c is not None for c in categories]), categories)


def _name(estimator: Any, j: int) -> str:
    names = getattr(estimator, "feature_names_in_", None)
    return f"column {j}" if names is None or j >= len(names) else f"column {names[j]!r}"


def _is_text(column: Any) -> bool:
    """Whether the column holds identities, not numbers."""
    if isinstance(column, np.ndarray):
        return column.dtype.kind in "US" or (
            column.dtype.kind == "O" and any(isinstance(v, str) for v in column)
        )
    if isinstance(column.dtype, nw.String | nw.Categorical | nw.Enum):
        return True
    if isinstance(column.dtype, nw.Object):
        return any(isinstance(v, str) for v in column.drop_nulls().to_numpy())
    return False


def _is_number(column: Any) -> bool:
    if isinstance(column, np.ndarray):
        return column.dtype.kind in "biuf"
    return column.dtype.is_numeric() or isinstance(column.dtype, nw.Boolean)


def _present(column: Any) -> list[Any]:
    """The distinct values of a column, without the missing ones."""
    if not isinstance(column, np.ndarray):
        return [v for v in column.drop_nulls().unique().to_list() if not _is_missing(v)]
    if column.dtype.kind == "O":
        return list({v for v in column if not _is_missing(v)})
    return [v for v in np.unique(column).tolist() if not _is_missing(v)]


def _distinct(column: Any) -> np.ndarray:
    """The sorted categories: float64 if all are numbers, else objects."""
    found = _present(column)
    if found and all(isinstance(v, int | float | np.number) for v in found):
        return np.unique(np.array(found, np.float64))
    order = sorted(found, key=lambda v: (type(v).__name__, v))
    values = np.empty(len(order), object)
    values[:] = order
    return values


def _codes(column: Any, categories: np.ndarray, name: str) -> np.ndarray:
    """The position of each value in `categories`, NaN where it is missing or unseen."""
    numeric = categories.dtype.kind == "f"
    if _is_number(column):
        if not numeric and len(categories):
            raise ValueError(f"{name} holds numbers now, but text when the estimator was fitted")
        if not len(categories):
            return np.full(len(column), np.nan)
        numbers = np.asarray(_numbers(column, name), np.float64)
        # An imported model keeps its own order of categories, so they may be unsorted.
        order = np.argsort(categories)
        at = np.searchsorted(categories, numbers, sorter=order)
        at = order[np.minimum(at, len(categories) - 1)]
        return np.where(categories[at] == numbers, at, np.nan)
    if numeric and _is_text(column) and any(isinstance(v, str) for v in _present(column)):
        raise ValueError(f"{name} holds text now, but numbers when the estimator was fitted")
    raw = column if isinstance(column, np.ndarray) else column.to_numpy()
    position = {value: float(code) for code, value in enumerate(categories.tolist())}
    nan = float("nan")
    return np.fromiter((position.get(value, nan) for value in raw.tolist()), np.float32, len(raw))


def _numbers(column: Any, name: str) -> np.ndarray:
    """A numeric column in its own precision, NaN where it is missing."""
    if isinstance(column, np.ndarray):
        if _is_number(column):
            return column
        raw, missing = column, np.array([_is_missing(v) for v in column], bool)
    elif _is_number(column):
        if column.is_null().any():
            column = column.cast(nw.Float64)
        return np.asarray(column.to_numpy(), None if not column.is_null().any() else np.float64)
    elif isinstance(column.dtype, nw.Object | nw.Unknown):
        raw, missing = column.to_numpy(), column.is_null().to_numpy()
    elif _is_text(column):
        raise ValueError(
            f"{name} holds text ({column.dtype}), which was not declared categorical; pass "
            "categorical_features='from_dtype' or name it there, in fit"
        )
    else:
        raise ValueError(
            f"{name} has dtype {column.dtype}; give numbers, booleans, text or categories "
            "(for a date: its year, day of week, or seconds since a fixed day)"
        )
    numbers = np.full(len(raw), np.nan)
    try:
        numbers[~missing] = np.asarray(raw[~missing], np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} holds values that are not numbers: {error}") from error
    return numbers
