"""Five markers a quantile: the engine of `RunningQuantile(method="p2")`."""

from __future__ import annotations

import numpy as np

from paragone.estimation import _sketch as kernels

__all__ = ["Markers"]

_FIVE = 5


class Markers:
    """Markers at the ends, the quantile, and half-way between.

    Args:
        quantiles: Probabilities, each between 0 and 1.
    """

    mergeable = False

    def __init__(self, quantiles: tuple[float, ...]):
        self.probabilities = np.array(quantiles)
        self.first = np.zeros(0)
        self.heights = np.zeros((len(quantiles), _FIVE))
        self.places = np.zeros((len(quantiles), _FIVE))

    def take(self, values: np.ndarray) -> None:
        if len(self.first) < _FIVE:
            count = _FIVE - len(self.first)
            self.first = np.sort(np.concatenate([self.first, values[:count]]))
            values = values[count:]
            if len(self.first) == _FIVE:
                self.heights[:] = self.first
                self.places[:] = np.arange(1.0, 6.0)
        if len(values):
            for p, heights, places in zip(
                self.probabilities, self.heights, self.places, strict=True
            ):
                kernels.p2_update(values, p, heights, places)

    def quantile(self, q: np.ndarray, count: int) -> np.ndarray:
        if count <= _FIVE:
            rank = np.maximum(np.ceil(q * count).astype(int), 1)
            return self.first[rank - 1]
        found = np.zeros(q.shape)
        for place, p in np.ndenumerate(q):
            at = np.flatnonzero(self.probabilities == p)
            if not len(at):
                raise ValueError(
                    f"q={p} is none of the quantiles {tuple(self.probabilities.tolist())} that "
                    "were followed: P-square knows no other; name it at the start or take "
                    'method="kll"'
                )
            found[place] = self.heights[at[0], 2]
        return found

    def pack(self) -> tuple[np.ndarray, np.ndarray]:
        whole = np.array([len(self.probabilities), len(self.first)], np.int64)
        return whole, np.concatenate(
            [self.probabilities, self.first, self.heights.ravel(), self.places.ravel()]
        )

    @classmethod
    def unpack(cls, whole: np.ndarray, floats: np.ndarray) -> Markers:
        m, first = (int(number) for number in whole)
        engine = cls(tuple(floats[:m]))
        engine.first = floats[m : m + first]
        rest = floats[m + first :].reshape(2, m, _FIVE)
        engine.heights, engine.places = rest[0].copy(), rest[1].copy()
        return engine
