r"""Holm's step-down: many p-values, one error rate.

Sorted $p_{(1)} \le \dots \le p_{(k)}$ become

$$ \tilde p_{(i)} = \max_{j \le i} \min\big(1, (k - j + 1)\, p_{(j)}\big) , $$

and those at most $\alpha$ are rejected: the chance of even one false rejection is at most
$\alpha$ under any dependence, and never fewer are rejected than by Bonferroni.

References:
    Holm (1979), "A simple sequentially rejective multiple test procedure", Scand. J. Stat. 6.
"""

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["holm"]


def holm(p_values: ArrayLike) -> np.ndarray:
    """Adjusted p-values, in the order given.

    Example:
        >>> holm([0.01, 0.04, 0.03]).tolist()
        [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    scaled = np.minimum(1.0, p[order] * (p.size - np.arange(p.size)))
    out = np.empty(p.size)
    out[order] = np.maximum.accumulate(scaled)
    return out
