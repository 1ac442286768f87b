r"""Corrected resampled t interval: folds and repeated splits share data, so correct for it.

The training sets of different splits overlap, hence differences $d_1 \dots d_n$ over splits
are correlated and their plain standard error is too small. Nadeau and Bengio replace $1/n$:

$$ \bar d \pm t_{n-1, 1-\alpha/2} \sqrt{\Big(\frac1n + \frac{n_{test}}{n_{train}}\Big) s_d^2},
   \qquad s_d^2 = \frac{1}{n-1} \sum_i (d_i - \bar d)^2 . $$

With `test_share = 0` this is the plain paired t interval, right for independent repeats.
However many splits are added, the interval does not shrink below the data's own share.

References:
    Nadeau and Bengio (2003), "Inference for the generalization error", Mach. Learn. 52,
    sec. 3 (the corrected resampled t-test); Bouckaert and Frank (2004), PAKDD.
"""

import math

import numpy as np
from numpy.typing import ArrayLike

from paragone.lab.statistics.effect import Effect

__all__ = ["corrected_interval"]


def corrected_interval(
    differences: ArrayLike, test_share: float = 0.0, *, level: float = 0.05
) -> Effect:
    """Mean of paired differences over splits with its corrected interval.

    Args:
        differences: One difference a - b for each split.
        test_share: n_test / n_train; 0 for independent repeats.
        level: One minus the coverage.

    Example:
        >>> corrected_interval([0.1, 0.2, 0.3], test_share=0.25).n
        3
    """
    from scipy.special import stdtr, stdtrit

    d = np.asarray(differences, dtype=float)
    if d.size == 0:
        raise ValueError("no differences: at least one split must be finished by both")
    name = "corrected resampled t" if test_share > 0 else "paired t"
    mean = float(d.mean())
    if d.size == 1:
        return Effect(mean, None, None, None, 1, name)
    error = math.sqrt((1 / d.size + test_share) * float(d.var(ddof=1)))
    # Rounding alone may leave a spread of 1e-17 between equal differences.
    if error <= 1e-12 * max(abs(mean), 1e-300):
        return Effect(mean, mean, mean, 1.0 if mean == 0 else 0.0, d.size, name)
    half = float(stdtrit(d.size - 1, 1 - level / 2)) * error
    p = 2 * float(stdtr(d.size - 1, -abs(mean) / error))
    return Effect(mean, mean - half, mean + half, p, d.size, name)
