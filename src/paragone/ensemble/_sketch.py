r"""Weighted quantile sketch: quantiles of a stream, with an error that is known.

A summary holds, for some of the values seen, bounds on their rank: $r^-(x)$, the weight certainly
below x, $r^+(x)$, the weight certainly not above it, and the weight $\omega(x)$ at x. With total
weight W it answers every rank query within $\epsilon W$ when

$$ r^+(x_{i+1}) - r^-(x_i) - \omega(x_i) - \omega(x_{i+1}) \le \epsilon W \ \text{for all } i . $$

Merging two summaries adds ranks and keeps the larger $\epsilon$; pruning to b + 1 entries adds
$1/b$. A summary of all values has $\epsilon = 0$. So a tree of merges of height m over pruned
summaries has an error of at most $(m + 1)/b$, which `error` carries along: the promise that
boosting by approximate candidates rests on, with the second derivatives as weights.

Cost: a sort per block; memory O(b) per column and level.

References:
    Chen & Guestrin (2016), "XGBoost", appendix A (merge, prune, and theorems A.2, A.3).
    Greenwald & Khanna (2001), "Space-efficient online computation of quantile summaries".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Summary", "summarise"]


@dataclass(slots=True)
class Summary:
    """Values with rank bounds; `error` is the proven epsilon.

    Example:
        >>> summarise(np.arange(1000.0), np.ones(1000)).prune(10).query(0.5)
        499.0
    """

    values: np.ndarray
    low: np.ndarray
    high: np.ndarray
    weight: np.ndarray
    error: float = 0.0

    @property
    def total(self) -> float:
        return float(self.high[-1]) if len(self.high) else 0.0

    def merge(self, other: Summary) -> Summary:
        """Returns the summary of both inputs together."""
        if not len(self.values):
            return other
        if not len(other.values):
            return self
        values = np.union1d(self.values, other.values)
        mine, yours = self._at(values), other._at(values)
        low, high, weight = (a + b for a, b in zip(mine, yours, strict=True))
        return Summary(values, low, high, weight, max(self.error, other.error))

    def _at(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rank bounds and weight of any values, kept here or not."""
        place = np.searchsorted(self.values, values)
        inside = np.minimum(place, len(self.values) - 1)
        same = self.values[inside] == values
        before = np.maximum(place - 1, 0)
        low_gap = np.where(place > 0, self.low[before] + self.weight[before], 0.0)
        high_gap = np.where(
            place < len(self.values), self.high[inside] - self.weight[inside], self.total
        )
        return (
            np.where(same, self.low[inside], low_gap),
            np.where(same, self.high[inside], high_gap),
            np.where(same, self.weight[inside], 0.0),
        )

    def ranks(self, wanted: np.ndarray) -> np.ndarray:
        """Returns the entry nearest to each wanted rank (weight below the answer's middle)."""
        middle = 0.5 * (self.low + self.high)
        right = np.clip(np.searchsorted(middle, wanted), 1, max(len(middle) - 1, 1))
        right = np.minimum(right, len(middle) - 1)
        left = np.maximum(right - 1, 0)
        nearer = wanted - middle[left] <= middle[right] - wanted
        return np.where(nearer, left, right)

    def query(self, share: float) -> float:
        """Returns a value whose rank is within `error` x total (plus its own weight) of share."""
        return float(self.values[self.ranks(np.array([share * self.total]))[0]])

    def prune(self, size: int) -> Summary:
        """Returns at most size + 1 entries, ends included; the error grows by 1 / size."""
        if len(self.values) <= size + 1:
            return self
        wanted = np.linspace(0.0, self.total, size + 1)
        keep = self.ranks(wanted)
        keep[0], keep[-1] = 0, len(self.values) - 1
        keep = np.unique(keep)
        return Summary(
            self.values[keep], self.low[keep], self.high[keep], self.weight[keep],
            self.error + 1.0 / size,
        )  # fmt: skip


def summarise(values: np.ndarray, weight: np.ndarray) -> Summary:
    """Returns the exact summary of a block; rows of weight 0 are left out.

    Args:
        values: (n,), without NaN, in any order.
        weight: (n,), >= 0.
    """
    held = weight > 0
    values, weight = values[held], weight[held]
    order = np.argsort(values, kind="stable")
    values, weight = values[order], weight[order]
    if len(values) == 0:
        empty = np.zeros(0)
        return Summary(values, empty, empty, empty)
    starts = np.flatnonzero(np.concatenate(([True], values[1:] != values[:-1])))
    mass = np.add.reduceat(weight, starts)
    high = np.cumsum(mass)
    return Summary(values[starts], high - mass, high, mass)
