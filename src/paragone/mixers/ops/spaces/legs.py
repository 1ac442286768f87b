r"""Steps of HiPPO-LegS in O(N): products and solves with its matrix are running sums.

With $r_n = \sqrt{2n+1}$, row n of A c is $-(n+1) c_n - r_n \sum_{m<n} r_m c_m$. So the rule

$$ (I - \tfrac{\alpha}{k} A)\, c_k
   = (I + \tfrac{1-\alpha}{k} A)\, c_{k-1} + \tfrac1k B f_k $$

is one sweep over n that carries two sums, of the old coefficients and of the new.

References:
    Gu et al. (2020), HiPPO, arXiv:2008.07669, section 3.3 and appendix E.2 (fast LegS).
"""

from __future__ import annotations

import numpy as np

from paragone.kernels.jit import njit

__all__ = ["legs_steps"]


@njit(nogil=True, error_model="numpy", fastmath={"contract"})
def _sweep(c, values, first, alpha, root, slope, shift):
    """Columns: signal d is advanced through all samples; slope and shift are scratch."""
    order = c.shape[1]
    for d in range(c.shape[0]):
        for at in range(values.shape[0]):
            k = first + at
            old, ahead = (1.0 - alpha) / k, alpha / k
            force = values[at, d] / k
            before = 0.0
            for n in range(order):
                known = c[d, n] - old * ((n + 1) * c[d, n] + root[n] * before) + force * root[n]
                before += root[n] * c[d, n]
                scale = 1.0 / (1.0 + ahead * (n + 1))
                shift[n] = known * scale
                slope[n] = ahead * root[n] * scale
            after = 0.0
            for n in range(order):
                c[d, n] = shift[n] - slope[n] * after
                after += root[n] * c[d, n]


def legs_steps(c: np.ndarray, values: np.ndarray, first: int, alpha: float) -> None:
    """Advances coefficients in place.

    Args:
        c: (D, N) float64, contiguous.
        values: (L, D) float64 samples.
        first: Number of the first sample; the first of all is 1.
        alpha: 0 Euler, 1/2 bilinear, 1 backward Euler.
    """
    order = c.shape[1]
    root = np.sqrt(2.0 * np.arange(order) + 1.0)
    _sweep(c, values, first, float(alpha), root, np.empty(order), np.empty(order))
