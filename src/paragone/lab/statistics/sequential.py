r"""Alpha spending: look at the data after every block without being fooled by it.

Whoever tests at 5 % after each block and stops at the first success is wrong far more often
than in 5 % of studies. Lan and DeMets fix beforehand how much of $\alpha$ may be spent by the
time a share $t$ of the most blocks is done:

* power family (Kim and DeMets): $\alpha t^{1.5}$, the default: early stops for large effects,
* O'Brien-Fleming type: $4 - 4\Phi(z_{1-\alpha/4} / \sqrt t)$, almost nothing early,
* Pocock type: $\alpha \log(1 + (e - 1) t)$, about evenly.

The nominal level of look $k$ follows from the joint law of the looks, a Brownian motion
$S(t)$ seen at $t_1 < t_2 < \dots$ that has not left $(-b_j, b_j)$ before:

$$ P\big(|S(t_k)| \ge b_k,\ |S(t_j)| < b_j\ \forall j<k\big) = \alpha^*(t_k) - \alpha^*(t_{k-1}),
   \qquad \text{level}_k = 2 \Phi(-b_k / \sqrt{t_k}) , $$

by one numerical integration for each look. Intervals at these levels (repeated confidence
intervals) hold together at all looks. A study that ends early for reasons outside the data (the
budget) may spend what is left of $\alpha$ at its last look.

Cost: O(looks x grid^2), about 2 ms for a look; cached.

References:
    Lan and DeMets (1983), Biometrika 70; Kim and DeMets (1987), Biometrika 74;
    Armitage, McPherson and Rowe (1969), JRSS A 132 (the recursion);
    Jennison and Turnbull (1989), JRSS B 51 (repeated confidence intervals).
"""

import math
from functools import lru_cache
from typing import Literal

import numpy as np

__all__ = ["Spending", "look_level", "nominal_levels", "spent"]

Spending = Literal["power", "obrien-fleming", "pocock"]
_GRID = 301


def spent(share: float, alpha: float = 0.05, kind: Spending = "power") -> float:
    """Alpha that may be spent when `share` of the information is in.

    Example:
        >>> round(spent(0.5, 0.05, "pocock"), 4)
        0.031
    """
    from scipy.special import ndtr, ndtri

    t = min(max(share, 0.0), 1.0)
    if t == 0:
        return 0.0
    if kind == "power":
        return alpha * t**1.5
    if kind == "pocock":
        return alpha * math.log1p((math.e - 1) * t)
    return 4 * float(ndtr(-ndtri(1 - alpha / 4) / math.sqrt(t)))


def _bound(origin: np.ndarray, weight: np.ndarray, spread: float, target: float) -> float:
    """The b beyond which a step of this spread from `origin` lands with chance `target`."""
    from scipy.special import ndtr

    low, high = 0.0, 40.0
    for _ in range(60):
        middle = (low + high) / 2
        out = ndtr((origin - middle) / spread) + ndtr((-middle - origin) / spread)
        low, high = (middle, high) if float((weight * out).sum()) > target else (low, middle)
    return high


def nominal_levels(shares: tuple[float, ...], budget: tuple[float, ...]) -> tuple[float, ...]:
    """Two-sided nominal levels of the looks.

    Args:
        shares: Information shares of the looks, increasing, in (0, 1].
        budget: Alpha spent up to and with each look, not decreasing.
    """
    from scipy.special import ndtr

    levels: list[float] = []
    grid = mass = np.empty(0)
    before = 0.0
    for k, (t, total) in enumerate(zip(shares, budget, strict=True)):
        step = max(total - (budget[k - 1] if k else 0.0), 1e-300)
        if k == 0:
            spread, origin, weight = math.sqrt(t), np.zeros(1), np.ones(1)
        else:
            spread, origin, weight = math.sqrt(t - before), grid, mass
        bound = _bound(origin, weight, spread, step)
        levels.append(2 * float(ndtr(-bound / math.sqrt(t))))
        grid = np.linspace(-bound, bound, _GRID)
        reach = (grid[:, None] - origin[None, :]) / spread
        density = np.exp(-reach * reach / 2) @ weight / (spread * math.sqrt(2 * math.pi))
        width = np.full(_GRID, grid[1] - grid[0])
        width[[0, -1]] /= 2
        mass, before = density * width, t
    return tuple(levels)


@lru_cache(maxsize=1024)
def look_level(
    done: int,
    least: int,
    most: int,
    *,
    final: bool = False,
    alpha: float = 0.05,
    kind: Spending = "power",
) -> float:
    """Nominal level at which to judge after `done` blocks, when looks come after each block.

    Args:
        done: Blocks finished.
        least: Blocks before the first look.
        most: Blocks at which the study ends at the latest.
        final: Whether this is the last look for reasons outside the data; it then spends all.
        alpha: Error rate over all looks together.
        kind: Spending function.

    Example:
        >>> look_level(10, 10, 10, final=True)
        0.05
    """
    done, most = max(done, 1), max(most, done, 1)
    first = min(max(least, 1), done)
    looks = range(first, done + 1)
    shares = tuple(n / most for n in looks)
    budget = [spent(t, alpha, kind) for t in shares]
    if final or done == most:
        budget[-1] = alpha
    return nominal_levels(shares, tuple(budget))[-1] if len(shares) > 1 else budget[-1]
