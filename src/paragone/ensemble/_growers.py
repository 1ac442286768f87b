"""The three ways to find splits behind one call: histogram, approximate, exact.

`hist` bins once. `approx` bins anew for every tree with the second derivatives as weights, so that
candidates are dense where the loss is curved (where the model is unsure). `exact` tries every cut.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from paragone.ensemble._binning import Binned, bin_features, bin_with_edges
from paragone.ensemble._exact_boost import SortedColumns, grow_exact, sort_columns
from paragone.ensemble._grow import GrowParams, Room, grow_histogram
from paragone.ensemble._input import Features
from paragone.ensemble._share import ALONE, Share
from paragone.ensemble._sketch import Summary, summarise
from paragone.ensemble._table_bins import BinnedTable, bin_shared
from paragone.ensemble._tree import Tree

__all__ = ["Grower", "make_grower"]

BLOCK = 1 << 16
"""Rows of a block of the quantile sketch."""


class Grower(Protocol):
    """Grows one tree on a fixed table."""

    def grow(
        self,
        gradient: np.ndarray,
        hessian: np.ndarray,
        rows: np.ndarray | None,
        params: GrowParams,
        seed: int,
    ) -> tuple[Tree, np.ndarray]:
        """Returns the tree and the node in which every row ends."""
        ...


class HistogramGrower:
    def __init__(self, binned: Binned, share: Share = ALONE) -> None:
        self.binned, self.share, self.room = binned, share, Room()

    def grow(self, gradient, hessian, rows, params, seed):
        return grow_histogram(
            self.binned, gradient, hessian, rows, params, seed, self.share, self.room
        )


class ApproximateGrower:
    def __init__(self, features: Features, max_bin: int, threads: int) -> None:
        self.features, self.max_bin, self.threads = features, max_bin, threads

    def grow(self, gradient, hessian, rows, params, seed):
        weight = hessian
        if rows is not None:
            weight = np.zeros(len(hessian))
            weight[rows] = hessian[rows]
        values, categorical = self.features.values, self.features.categorical
        edges = [
            np.zeros(0, np.float32) if categorical[j] else self._edges(values[:, j], weight)
            for j in range(values.shape[1])
        ]
        binned = bin_with_edges(values, categorical, edges, None, self.threads)
        return grow_histogram(binned, gradient, hessian, rows, params, seed)

    def _edges(self, column: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Candidates by a sketch of blocks: ranks within 2 / (8 max_bin) of the exact ones."""
        known = np.flatnonzero(~np.isnan(column))
        size = 8 * self.max_bin
        levels: list[Summary | None] = []
        for begin in range(0, len(known), BLOCK):
            block = known[begin : begin + BLOCK]
            carry = summarise(column[block], weight[block]).prune(size * (1 + len(levels)))
            for i, held in enumerate(levels):
                if held is None:
                    levels[i], carry = carry, None
                    break
                carry, levels[i] = held.merge(carry), None
            if carry is not None:
                levels.append(carry)
        whole = summarise(column[:0], weight[:0])
        for held in levels:
            if held is not None:
                whole = whole.merge(held)
        if len(whole.values) <= self.max_bin:
            low, high = whole.values[:-1], whole.values[1:]
        else:
            wanted = whole.total * np.arange(1, self.max_bin) / self.max_bin
            cuts = np.unique(np.minimum(whole.ranks(wanted), len(whole.values) - 2))
            low, high = whole.values[cuts], whole.values[cuts + 1]
        middle = (low * np.float32(0.5) + high * np.float32(0.5)).astype(np.float32)
        return np.where((middle < low) | (middle >= high), low, middle).astype(np.float32)


class ExactGrower:
    def __init__(self, table: SortedColumns) -> None:
        self.table = table

    def grow(self, gradient, hessian, rows, params, seed):
        return grow_exact(self.table, gradient, hessian, rows, params, seed)


def make_grower(
    method: str,
    features: Features,
    weight: np.ndarray,
    max_bin: int,
    params: GrowParams,
    share: Share = ALONE,
) -> Grower:
    """Returns the grower for `tree_method`; a table on disk is binned already.

    Raises:
        ValueError: The method is unknown, or cannot do what is asked of it.
    """
    if isinstance(features.values, BinnedTable):
        return HistogramGrower(features.values.binned, share)
    if share.size > 1:
        return HistogramGrower(bin_shared(features, max_bin, weight, share, params.threads), share)
    if method in ("hist", "auto"):
        equal = bool((weight == weight[0]).all())
        binned = bin_features(
            features.values,
            features.categorical,
            max_bin,
            None if equal else weight,
            params.threads,
        )
        return HistogramGrower(binned)
    if method == "approx":
        return ApproximateGrower(features, max_bin, params.threads)
    if method != "exact":
        raise ValueError(f"tree_method={method!r} is unknown; use 'hist', 'approx' or 'exact'")
    if features.categorical.any():
        raise ValueError("tree_method='exact' has no categorical splits; use 'hist' or 'approx'")
    if params.policy != "depth" or params.max_leaves > 0:
        raise ValueError(
            "tree_method='exact' grows level by level: use grow_policy='depthwise' and "
            "max_leaves=0, or tree_method='hist'"
        )
    return ExactGrower(sort_columns(features.values))
