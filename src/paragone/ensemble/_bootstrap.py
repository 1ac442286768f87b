"""Row samples that depend on the rows, not on their order.

A bootstrap sample is drawn as counts: how often each row was hit. Trees take the counts as
weights, so no row is copied. Two properties are bought by drawing along a fixed order of the
rows (sorted by a hash of their content) in proportion to `sample_weight`:

- shuffling the training rows does not change the sample;
- a row of weight 2 is drawn exactly as two equal rows are, so whole-number weights are
  frequencies, and zero weight is absence.

Weights that are not whole numbers keep their proportions only; as many units are drawn as there
are rows. A hash is multilinear over the bits of the values, modulo 2^64, so a zero that a sparse
matrix does not store counts as a zero that is stored.
"""

from __future__ import annotations

from typing import Any

import narwhals as nw
import numpy as np
import scipy.sparse as sp

from paragone.kernels.jit import njit

__all__ = ["RowSampler", "count_hits", "row_keys"]


def row_keys(X: Any, y: np.ndarray) -> np.ndarray:
    """Returns uint64 (n,): equal for equal rows (with equal targets), else almost surely not."""
    random = np.random.default_rng(0)
    width = np.shape(X)[1]
    odd = random.integers(0, 2**63, width + 1, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    keys = _bits(np.asarray(y, np.float64)) * odd[-1]
    if sp.issparse(X):
        matrix = sp.csr_matrix(X)
        products = _bits(matrix.data) * odd[matrix.indices]
        sums = np.concatenate((np.zeros(1, np.uint64), np.cumsum(products, dtype=np.uint64)))
        keys += sums[matrix.indptr[1:]] - sums[matrix.indptr[:-1]]
    elif nw.dependencies.is_into_dataframe(X):
        for j, column in enumerate(nw.from_native(X, eager_only=True).iter_columns()):
            keys += _bits(_as_numbers(column.to_numpy())) * odd[j]
    else:
        matrix = np.asarray(X)
        for j in range(width):
            keys += _bits(_as_numbers(matrix[:, j])) * odd[j]
    # High bits depend on all bits of a value; the low ones alone do not.
    return keys ^ (keys >> np.uint64(32))


def _as_numbers(column: np.ndarray) -> np.ndarray:
    if column.dtype.kind in "biuf":
        return column
    return np.unique(column.astype(str), return_inverse=True)[1]


def _bits(values: np.ndarray) -> np.ndarray:
    """The bits of float64 values as whole numbers, the same for 0.0 and -0.0."""
    return (np.asarray(values, np.float64) + 0.0).view(np.uint64)


class RowSampler:
    """Draws counts of rows, with or without replacement.

    Args:
        keys: `row_keys` of the training rows.
        weight: float64 (n,), >= 0.
        max_samples: Units drawn: None for all, a number, or a share of all.
        replace: Whether a unit may be drawn twice.
    """

    def __init__(
        self, keys: np.ndarray, weight: np.ndarray, max_samples: int | float | None, replace: bool
    ) -> None:
        self.order = np.argsort(keys, kind="stable")
        self.weight = weight
        self.replace = replace
        self.whole = bool(np.all(weight == np.floor(weight)))
        self.mass = np.cumsum(weight[self.order])
        units = int(weight.sum()) if self.whole else int(np.count_nonzero(weight))
        if max_samples is None:
            self.size = units
        elif isinstance(max_samples, float | np.floating):
            if not 0.0 < max_samples <= 1.0:
                raise ValueError(f"max_samples={max_samples} is a share; it must lie in (0, 1]")
            self.size = max(1, round(max_samples * units))
        elif max_samples >= 1 and (replace or max_samples <= units):
            self.size = int(max_samples)
        else:
            raise ValueError(
                f"max_samples={max_samples} must lie between 1 and the {units} rows there are"
            )
        self.everything = not replace and self.size == units
        # The row of each unit, in place of a search, unless weights are far more than rows.
        self.unit_row: np.ndarray | None = None
        if self.whole and self.mass[-1] <= 8 * len(weight):
            self.unit_row = np.repeat(self.order, weight[self.order].astype(np.int64))

    def counts(self, random: np.random.Generator) -> np.ndarray:
        """Returns float64 (n,): how often each row was drawn.

        Without replacement, a row whose weight is no frequency brings its weight instead.
        """
        if self.everything:
            return self.weight
        if self.replace:
            hit = random.random(self.size) * self.mass[-1]
        elif self.whole:
            hit = random.permutation(int(self.mass[-1]))[: self.size].astype(np.float64)
        else:
            rows = self.order[self.weight[self.order] > 0]
            chosen = rows[random.permutation(len(rows))[: self.size]]
            counts = np.zeros(len(self.weight))
            counts[chosen] = self.weight[chosen]
            return counts
        if self.unit_row is not None:
            # A product that rounds up to the total lands behind the last unit.
            unit = np.minimum(hit.astype(np.int64), len(self.unit_row) - 1)
            found = np.bincount(self.unit_row[unit], minlength=len(self.weight))
            return found.astype(np.float64)
        position = np.searchsorted(self.mass, hit, side="right")
        # A product that rounds up to the total lands behind the last row.
        position = np.minimum(position, np.flatnonzero(self.weight[self.order])[-1])
        counts = np.zeros(len(self.weight))
        counts[self.order] = np.bincount(position, minlength=len(self.weight))
        return counts


@njit(nogil=True, error_model="numpy")
def count_hits(mass, uniform, order, counts):
    """Adds to `counts` how often each row is hit by `uniform` numbers in [0, 1).

    Inverts the cumulative weights by a guide table (Devroye 1986, III.2.4): a number u begins
    its search where k / n <= u begins, so the whole is O(n) and needs no sorting.

    Args:
        mass: float64 (n,), running sums of the weights of the rows in `order`.
        uniform: float64 (m,).
        order: int64 (n,).
        counts: float64 (n,), added to.
    """
    n = len(mass)
    total = mass[n - 1]
    guide = np.empty(n, np.int64)
    place = 0
    for k in range(n):
        while place < n - 1 and mass[place] <= total * (k / n):
            place += 1
        guide[k] = place
    for i in range(len(uniform)):
        hit = uniform[i] * total
        place = guide[min(n - 1, np.int64(uniform[i] * n))]
        # Rounding may have put the number into the next box.
        while place > 0 and mass[place - 1] > hit:
            place -= 1
        while place < n - 1 and mass[place] <= hit:
            place += 1
        counts[order[place]] += 1.0
