r"""McNemar's exact test: do two classifiers err equally often on the same examples?

Only examples on which they disagree inform: of $n = n_{10} + n_{01}$ such, under equality
$n_{10} \sim \mathrm{Bin}(n, 1/2)$, so

$$ p = \min\big(1,\; 2\,P(\mathrm{Bin}(n, \tfrac12) \le \min(n_{10}, n_{01}))\big). $$

References:
    McNemar (1947), Psychometrika 12; Dietterich (1998), "Approximate statistical tests for
    comparing supervised classification learning algorithms", Neural Comput. 10, sec. 3.1.
"""

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["mcnemar", "mcnemar_counts"]


def mcnemar_counts(only_a: int, only_b: int) -> float:
    """Two-sided exact p-value from the two counts of disagreement.

    Example:
        >>> round(mcnemar_counts(1, 9), 4)
        0.0215
    """
    from scipy.special import bdtr

    total = only_a + only_b
    return min(1.0, 2.0 * float(bdtr(min(only_a, only_b), total, 0.5))) if total else 1.0


def mcnemar(right_a: ArrayLike, right_b: ArrayLike) -> float:
    """Two-sided exact p-value from who was right on each example (booleans)."""
    a, b = np.asarray(right_a, dtype=bool), np.asarray(right_b, dtype=bool)
    if a.shape != b.shape:
        raise ValueError(f"shapes {a.shape} and {b.shape} differ: give the same examples")
    return mcnemar_counts(int(np.sum(a & ~b)), int(np.sum(b & ~a)))
