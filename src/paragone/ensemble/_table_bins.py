r"""Bins of a table that lies on disk, or whose rows lie in several processes.

The edges are those of the whole table, bit for bit: process j mod R sees column j of all rows in
their order and does what one process would do with it (`_binning.numeric_edges`). That moves each
value once, 4 bytes, and holds R columns at a time; a sketch would move less and give other edges.

A table of bins stands in for the floats that it was made of: with $e_b$ the upper edge of bin b,
every split $x \le e_c$ goes the same way for $x$ and for $e_b$. So trees of one fit are evaluated
on representatives, block by block.

Shapes: n rows, p columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from paragone.ensemble._binning import (
    LAST_THRESHOLD,
    MISSING_BIN,
    Binned,
    bin_with_edges,
    numeric_edges,
)
from paragone.ensemble._input import Features
from paragone.ensemble._predict import PackedTrees, apply, predict_raw
from paragone.ensemble._share import Share

__all__ = [
    "BinnedTable", "Cut", "apply_table", "assign_bins", "bin_shared", "cut_column", "cut_shared",
    "score_table",
]  # fmt: skip

BLOCK = 1 << 16
"""Rows of a table on disk that are in memory as floats at a time."""

Cut = tuple[np.ndarray, np.ndarray | None, int]
"""Edges of a numeric column, or codes and number of categories of a categorical one."""


class BinnedTable:
    """What takes the place of `Features.values` where only bins are kept."""

    def __init__(self, binned: Binned) -> None:
        self.binned = binned
        self.shape: tuple[int, int] = binned.rows.shape
        # One float for each bin of each column: NaN for a bin that cannot be.
        self._values = np.full((self.shape[1], MISSING_BIN + 1), np.nan, np.float32)
        for j, edges in enumerate(binned.edges):
            own = binned.codes[j]
            inner = np.append(edges, LAST_THRESHOLD) if own is None else own.astype(np.float32)
            self._values[j, : len(inner)] = inner

    def __len__(self) -> int:
        return self.shape[0]

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yields first rows and float32 blocks that trees on these bins take for the data."""
        columns = np.arange(self.shape[1])
        for begin in range(0, len(self), BLOCK):
            yield begin, self._values[columns, self.binned.rows[begin : begin + BLOCK]]


def _blocks(values: Any) -> Iterator[tuple[int, np.ndarray]]:
    if isinstance(values, BinnedTable):
        yield from values.blocks()
    elif isinstance(values, np.memmap):
        for begin in range(0, len(values), BLOCK):
            yield begin, np.array(values[begin : begin + BLOCK])
    else:
        yield 0, values


def score_table(packed: PackedTrees, values: Any, out: np.ndarray, threads: int) -> np.ndarray:
    """Adds the trees' values for each row of an array, a file or bins to `out` (K, n)."""
    for begin, block in _blocks(values):
        if len(block) == len(values):
            return predict_raw(packed, block, out=out, threads=threads)
        part = out[:, begin : begin + len(block)].copy()
        out[:, begin : begin + len(block)] = predict_raw(packed, block, out=part, threads=threads)
    return out


def apply_table(packed: PackedTrees, values: Any, threads: int) -> np.ndarray:
    """Returns int32 (n, T), the node in which each row of an array, a file or bins ends."""
    found = [apply(packed, block, threads=threads) for _, block in _blocks(values)]
    return found[0] if len(found) == 1 else np.concatenate(found)


def cut_column(
    values: np.ndarray, categorical: bool, max_bins: int, weight: np.ndarray | None
) -> Cut:
    """Returns the edges or the codes of one whole column, float32 (n,); see `_binning`."""
    if not categorical:
        return numeric_edges(values, max_bins, weight), None, 0
    flags = np.ones(1, bool)
    own = bin_with_edges(values[:, None], flags, [np.zeros(0, np.float32)], weight)
    return own.edges[0], own.codes[0], int(own.num_categories[0])


def cut_shared(
    columns: list[np.ndarray], categorical: list[bool], max_bins: int, weight: np.ndarray | None,
    share: Share,
) -> list[Cut]:  # fmt: skip
    """Returns `cut_column` of each column of all processes; `weight` is that of all rows."""

    def compute(i: int, whole: np.ndarray) -> Cut:
        return cut_column(whole, categorical[i], max_bins, weight)

    return share.by_owner(columns, compute)


def assign_bins(values: np.ndarray, categorical: np.ndarray, cuts: list[Cut], threads: int) -> Any:
    """Returns a `Binned` of the values, float32 (n, p), by cuts that were made elsewhere."""
    edges = [cut[0] for cut in cuts]
    binned = bin_with_edges(values, np.zeros(len(cuts), bool), edges, None, threads)
    binned.categorical = np.asarray(categorical, bool)
    for j in np.flatnonzero(categorical):
        _, own, size = cuts[j]
        assert own is not None
        lookup = np.full(max(size, 1), MISSING_BIN, np.uint8)
        lookup[own] = np.arange(len(own))
        known = ~np.isnan(values[:, j])
        bins = np.full(len(values), MISSING_BIN, np.uint8)
        bins[known] = lookup[values[known, j].astype(np.int64)]
        binned.rows[:, j] = binned.columns[j] = bins
        binned.codes[j], binned.num_categories[j] = own, size
        binned.num_bins[j] = max(len(own), 1)
    return binned


def equal_weights(weight: np.ndarray, share: Share) -> bool:
    """Whether all rows of all processes weigh the same."""
    ends = np.array([weight.max(initial=-np.inf), -weight.min(initial=np.inf)])
    _, _, ends = share.span(0, ends)
    return bool(ends[0] == -ends[1])


def bin_shared(
    features: Features, max_bins: int, weight: np.ndarray, share: Share, threads: int
) -> Binned:
    """Bins the rows of this process by the edges of all rows."""
    everyone = None if equal_weights(weight, share) else share.everything(weight)
    columns = [np.ascontiguousarray(column) for column in features.values.T]
    cuts = cut_shared(columns, features.categorical.tolist(), max_bins, everyone, share)
    return assign_bins(features.values, features.categorical, cuts, threads)
