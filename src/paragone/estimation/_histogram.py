"""Counts by relative size: the engine of `RunningQuantile(method="histogram")`."""

from __future__ import annotations

import math

import numpy as np

from paragone.estimation import _sketch as kernels

__all__ = ["Histogram"]

_OCTAVES = 8


class Histogram:
    """Buckets that split each octave into 2^digits equal parts.

    Args:
        relative_error: Largest relative deviation of a quantile, 1e-5 to 0.5.
    """

    mergeable = True

    def __init__(self, relative_error: float):
        self.relative_error = relative_error
        self.digits = max(math.ceil(-math.log2(relative_error)) - 1, 0)
        self.counts = np.zeros((2, 0), np.int64)
        self.low = 0
        self.special = np.zeros(3, np.int64)

    @property
    def same(self) -> tuple[object, ...]:
        return (self.digits,)

    def take(self, values: np.ndarray) -> None:
        bits = values.view(np.int64)
        start = 0
        while start < len(bits):
            rest = bits[start:]
            start += kernels.count_bits(rest, 52 - self.digits, self.counts, self.low, self.special)
            if start < len(bits):
                self._reach(*[int(bits[start] & kernels.MAGNITUDE) >> (52 - self.digits)] * 2)

    def _reach(self, first: int, last: int) -> None:
        """Makes room for the keys first to last, by whole groups of octaves."""
        unit = _OCTAVES << self.digits
        width = self.counts.shape[1]
        if width:
            first, last = min(first, self.low), max(last, self.low + width - 1)
        # Key 0 (zero) and that of infinity are counted apart.
        low = max(first // unit * unit, 1)
        end = min((last // unit + 1) * unit, 2047 << self.digits)
        counts = np.zeros((2, end - low), np.int64)
        if width:
            counts[:, self.low - low : self.low - low + width] = self.counts
        self.counts, self.low = counts, low

    def merge(self, other: Histogram) -> None:
        self.special += other.special
        width = other.counts.shape[1]
        if width:
            self._reach(other.low, other.low + width - 1)
            place = other.low - self.low
            self.counts[:, place : place + width] += other.counts

    def _edges(self) -> np.ndarray:
        """Lower ends of the buckets above zero, and the end of the last (w + 1,)."""
        keys = np.arange(self.counts.shape[1] + 1, dtype=np.int64) + self.low
        return np.minimum((keys << (52 - self.digits)).view(np.float64), np.finfo(float).max)

    def quantiles(self, ranks: np.ndarray) -> np.ndarray:
        """Values of the numbers with these ranks, counted from 1."""
        edges = self._edges()
        # The halves are added so that the largest floats do not overflow.
        middle = 0.5 * edges[:-1] + 0.5 * edges[1:]
        values = np.concatenate([[-np.inf], -middle[::-1], [0.0], middle, [np.inf]])
        counts = np.concatenate(
            [self.special[2:], self.counts[1, ::-1], self.special[:1], self.counts[0],
             self.special[1:2]]
        )  # fmt: skip
        return values[np.searchsorted(np.cumsum(counts), ranks, side="left")]

    def ranks(self, x: np.ndarray) -> np.ndarray:
        """Numbers up to each of x, evenly spread within a bucket."""
        edges = self._edges()
        below = np.concatenate([[0], np.cumsum(self.counts[0])]).astype(float)
        under = np.concatenate([[0], np.cumsum(self.counts[1])]).astype(float)
        zero, high, low = self.special
        found = np.full(x.shape, float(low + under[-1] + zero))
        found += np.where(x > 0, np.interp(x, edges, below), 0.0)
        found -= np.where(x < 0, np.interp(-x, edges, under) + zero, 0.0)
        return found + np.where(x == np.inf, high, 0.0)

    def pack(self) -> tuple[np.ndarray, np.ndarray]:
        places = np.flatnonzero(self.counts)
        head = [*self.special, self.low, self.counts.shape[1]]
        return np.concatenate([head, places, self.counts.flat[places]]), np.array(
            [self.relative_error]
        )

    @classmethod
    def unpack(cls, whole: np.ndarray, floats: np.ndarray) -> Histogram:
        engine = cls(float(floats[0]))
        engine.special[:] = whole[:3]
        engine.low = int(whole[3])
        engine.counts = np.zeros((2, int(whole[4])), np.int64)
        places, counts = np.split(whole[5:], 2)
        engine.counts.flat[places] = counts
        return engine
