r"""One binning for all fits of a cross-validation.

A stack fits each member on every fold and on all rows, and each histogram fit would sort all
columns for its bins again. The bins' edges are quantiles of the columns; taken once from all
training rows, a fold only picks its rows of the byte matrix. No target is looked at: all that
a fold learns of its left-out rows is where their columns are dense. Who wants not even that
switches it off (`share_bins=False`).

The fit that is to profit is reached through the member's own `fit`, so the table and the rows
are left in a thread-local place; the grower takes them only if its rows are these rows.

Shapes: n rows, p columns.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from paragone.ensemble._binning import Binned, bin_features

__all__ = ["SharedTable", "find_binned", "in_fold", "shared_table", "using_rows"]

_PLACE = threading.local()


class SharedTable:
    """A table of numbers whose bins are made at the first demand.

    Args:
        values: float32 (n, p), C-contiguous.
    """

    def __init__(self, values: np.ndarray) -> None:
        self.values = values
        self._lock = threading.Lock()
        self._made: dict[int, Binned] = {}

    def binned(self, max_bins: int, threads: int) -> Binned:
        """Returns the bins of all rows."""
        with self._lock:
            if max_bins not in self._made:
                none = np.zeros(self.values.shape[1], bool)
                self._made[max_bins] = bin_features(self.values, none, max_bins, None, threads)
            return self._made[max_bins]


def shared_table(X: Any) -> SharedTable | None:
    """Returns the table to share, None for anything but an array of numbers."""
    if not isinstance(X, np.ndarray) or X.ndim != 2 or X.dtype.kind not in "biuf":
        return None
    with np.errstate(over="ignore"):
        return SharedTable(np.ascontiguousarray(X, np.float32))


@contextlib.contextmanager
def using_rows(table: SharedTable | None, rows: np.ndarray | None) -> Iterator[None]:
    """Offers the bins of these rows (None: all) to fits in this thread."""
    before = getattr(_PLACE, "offer", None)
    _PLACE.offer = None if table is None else (table, rows)
    try:
        yield
    finally:
        _PLACE.offer = before


def in_fold() -> bool:
    """Whether this thread fits a model for one fold, of which only predictions are wanted."""
    offer = getattr(_PLACE, "offer", None)
    return offer is not None and offer[1] is not None


def find_binned(values: np.ndarray, max_bins: int, threads: int) -> Binned | None:
    """Returns the shared bins of these rows, if just these are on offer."""
    offer = getattr(_PLACE, "offer", None)
    if offer is None:
        return None
    table, rows = offer
    offered = table.values if rows is None else table.values[rows]
    if offered.shape != values.shape or not np.array_equal(offered, values, equal_nan=True):
        return None
    binned = table.binned(max_bins, threads)
    if rows is None:
        return binned
    return replace(
        binned,
        rows=np.ascontiguousarray(binned.rows[rows]),
        columns=np.ascontiguousarray(binned.columns[:, rows]),
    )
