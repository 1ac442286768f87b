r"""A few rows that stand for many: where a search may begin without a pass over all of them.

Rows are gathered in bins whose width is a 64th of their distance from a centre, so that a heavy
tail and a sharp lower end are both seen; each bin is its mean with its weight. To first order
the likelihood is that of all rows, as the deviations from the mean of a bin sum to zero, and the
maximum lies far within a standard error of theirs. Whole numbers are sampled instead.

Cost: 3 ns a row; at most 10,240 bins, some hundred to two thousand of them used.

Shapes: n rows.
"""

from __future__ import annotations

import numpy as np

from paragone.estimation._elementary import bits_of_float
from paragone.kernels.jit import njit

__all__ = ["binned", "sampled"]

_SIDE = 5120
"""Bins on a side: 64 to each of 80 octaves, which a heavy lower end needs."""
_CUT = 46
"""Bits of a number that do not matter to its bin."""


@njit(cache=True, nogil=True, error_model="numpy")
def _gather(x, w, centre, reach, weights, sums):
    """Weights and weighted distances from the centre of each bin, (2, bins): above and below."""
    top, last = bits_of_float(reach) >> _CUT, weights.shape[1] - 1
    for i in range(len(x)):
        d = x[i] - centre
        k = min(max(top - (bits_of_float(abs(d)) >> _CUT), 0), last)
        side = 1 if d < 0.0 else 0
        weights[side, k] += w[i]
        sums[side, k] += w[i] * d


def binned(
    x: np.ndarray, w: np.ndarray, ends: tuple[float, float], centre: float
) -> tuple[np.ndarray, np.ndarray]:
    """Means and weights of the bins of x (n,) about a centre.

    Args:
        x: Values.
        w: Their weights (n,).
        ends: The least and the greatest value, which no mean leaves.
        centre: Where bins are narrowest.
    """
    weights, sums = np.zeros((2, _SIDE)), np.zeros((2, _SIDE))
    _gather(x, w, centre, max(ends[1] - centre, centre - ends[0]), weights, sums)
    used = weights > 0.0
    weights = weights[used]
    return np.clip(centre + sums[used] / weights, *ends), weights


def sampled(values: np.ndarray, most: int) -> np.ndarray:
    """About `most` of the values (n,), eight neighbours at a time as they lie in memory."""
    step = 8 * (len(values) // most)
    return values[: len(values) // step * step].reshape(-1, step)[:, :8].ravel()
