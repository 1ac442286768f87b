r"""Which columns matter: by what the splits gained, or by what is lost when a column is shuffled.

Split importances are free, but they are read off the training rows, so they favour columns
with many distinct values (Strobl et al. 2007). Permutation importance asks the question itself,
on rows of your choice: with score $s$ and column $j$ shuffled in repeat $r$,

$$ I_j = s - \frac{1}{R} \sum_{r=1}^{R} s_{r,j} . $$

Of two columns that tell the same, each looks unimportant: the other stands in.

Cost: one pass over the nodes; R times p predictions.

References:
    Breiman (2001), "Random forests", Machine Learning 45, section 10 (permutation).
    Breiman, Friedman, Olshen, Stone (1984), "Classification and regression trees", 5.3.4 (gain).
    Strobl, Boulesteix, Zeileis, Hothorn (2007), BMC Bioinformatics 8:25 (bias of the gain).

p columns, R repeats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import narwhals as nw
import numpy as np
import scipy.sparse as sp
from sklearn.metrics import check_scoring
from sklearn.utils import Bunch

from paragone._core.random import RandomState, as_generator
from paragone.ensemble._tree import LEAF, Tree

__all__ = ["permutation_importance", "tree_importances"]

Kind = Literal["gain", "mean_gain", "cover", "mean_cover", "splits"]


def tree_importances(
    trees: Iterable[Any],
    num_columns: int,
    *,
    kind: Kind = "gain",
    each: bool = False,
    normalize: bool = True,
) -> np.ndarray:
    """Returns importances (p,) of the columns, read off the splits of the trees.

    Args:
        trees: Trees, or nested lists of them.
        num_columns: Number p of columns.
        kind: "gain" and "cover" sum over all splits of a column, "mean_gain" and "mean_cover"
            divide by their number, which "splits" is.
        each: Normalise every tree before averaging, as forests do, so that each tree counts
            the same; otherwise boosting's early trees, which gain most, count most.
        normalize: Scale the result to sum to 1 (all zeros if there is no split).
    """
    if kind not in ("gain", "mean_gain", "cover", "mean_cover", "splits"):
        raise ValueError(f"kind={kind!r} is none of gain, mean_gain, cover, mean_cover, splits")
    total, splits = np.zeros(num_columns), np.zeros(num_columns)
    for tree in _flat(trees):
        inner = tree.feature != LEAF
        columns = tree.feature[inner]
        times = np.bincount(columns, minlength=num_columns).astype(np.float64)
        if kind == "splits":
            amount = times
        else:
            source = tree.gain if kind.endswith("gain") else tree.cover
            amount = np.bincount(columns, source[inner], minlength=num_columns)
        total += _to_one(amount) if each else amount
        splits += times
    if kind.startswith("mean"):
        np.divide(total, splits, out=total, where=splits > 0)
    return _to_one(total) if normalize else total


def _to_one(amount: np.ndarray) -> np.ndarray:
    whole = amount.sum()
    return amount / whole if whole > 0 else amount


def _flat(trees: Iterable[Any]) -> Iterator[Tree]:
    for item in trees:
        if isinstance(item, Tree):
            yield item
        else:
            yield from _flat(item)


def permutation_importance(
    estimator: Any,
    X: Any,
    y: Any,
    *,
    scoring: str | Callable[..., float] | None = None,
    num_repeats: int = 5,
    sample_weight: Sequence[float] | np.ndarray | None = None,
    random_state: RandomState = None,
) -> Bunch:
    """Measures how much the score falls when one column is shuffled; best on held-out rows.

    Prefer it to `feature_importances_` when columns differ in their number of values, and to
    SHAP values when the question is what the *score* owes to a column. It differs from
    scikit-learn's function in taking polars, Arrow and sparse tables too.

    Args:
        estimator: Fitted, of any library with scikit-learn's interface.
        X: The rows to score on, in any form the estimator reads.
        y: Their targets.
        scoring: Name or callable of scikit-learn; None is the estimator's own `score`.
        num_repeats: Shuffles of each column.
        sample_weight: Weights of the rows, for the score.
        random_state: Seed or generator.

    Returns:
        A Bunch of `importances` (p, R), `importances_mean` (p,) and `importances_std` (p,).
    """
    if num_repeats < 1:
        raise ValueError(f"num_repeats={num_repeats} must be at least 1")
    scorer: Any = check_scoring(estimator, scoring=scoring)
    extra = {} if sample_weight is None else {"sample_weight": np.asarray(sample_weight)}
    rng = as_generator(random_state)
    whole = scorer(estimator, X, y, **extra)
    shuffled = _shuffler(X)
    n, p = X.shape if hasattr(X, "shape") else np.shape(X)
    drops = np.empty((p, num_repeats))
    for j in range(p):
        for r in range(num_repeats):
            table = shuffled(j, rng.permutation(n))
            drops[j, r] = whole - scorer(estimator, table, y, **extra)
    return Bunch(
        importances=drops, importances_mean=drops.mean(axis=1), importances_std=drops.std(axis=1)
    )


def _shuffler(X: Any) -> Callable[[int, np.ndarray], Any]:
    """Returns a function that gives the table with column j in another order of rows."""
    if nw.dependencies.is_into_dataframe(X):
        frame = nw.from_native(X, eager_only=True)

        def in_frame(j: int, order: np.ndarray) -> Any:
            return frame.with_columns(frame.get_column(frame.columns[j])[order]).to_native()

        return in_frame
    if sp.issparse(X):
        by_column: Any = sp.csc_array(X)

        def in_sparse(j: int, order: np.ndarray) -> Any:
            columns = [by_column[:, [k]] for k in range(by_column.shape[1])]
            columns[j] = columns[j].tocsr()[order].tocsc()
            return sp.hstack(columns, format="csr")

        return in_sparse
    matrix = np.asarray(X)

    def in_matrix(j: int, order: np.ndarray) -> Any:
        table = matrix.copy()
        table[:, j] = matrix[order, j]
        return table

    return in_matrix
