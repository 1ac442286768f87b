r"""Loss of a language model by parameters and data, and how to split compute between them.

The loss of a model of N parameters that has seen D tokens falls towards E, what no model knows:

$$ L(N, D) = E + \frac{A}{N^\alpha} + \frac{B}{D^\beta} . $$

At a compute of $C = 6 N D$ operations it is least where both shares fall equally fast, at

$$ N^*(C) = G \left(\frac{C}{6}\right)^{a}, \quad D^*(C) = \frac1G \left(\frac{C}{6}\right)^{1-a},
   \quad a = \frac{\beta}{\alpha + \beta},
   \quad G = \left(\frac{\alpha A}{\beta B}\right)^{1 / (\alpha + \beta)} : $$

with $a$ above a half, more compute should go to parameters first, below to data. The five numbers
minimise the Huber loss of the logarithms, $\sum_i h_\delta(\log L(N_i, D_i) - \log L_i)$, from
several starts. The other way to $a$ needs no law: on each line of equal compute a parabola in
$\log N$ has its minimum somewhere, and $a$ is the slope of $\log N^*$ in $\log C$.

Intervals come from drawing whole groups of runs (those of one size and one compute are one
group) with replacement, and fitting anew.

References:
    Hoffmann et al. (2022), arXiv:2203.15556, eq. 4, eq. 10, sections 3.2-3.3 and D.2.
    Besiroglu et al. (2024), arXiv:2404.10102 (how wide the intervals of such a fit really are).
    Kaplan et al. (2020), arXiv:2001.08361, section 6 (compute-efficient training).

Shapes: R runs.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

__all__ = ["Law", "Runs", "bootstrap", "fit_law", "interval", "lines", "minimum", "slope"]

DELTA = 1e-3
_STARTS = tuple(itertools.product((0.3, 0.7), (0.3, 0.7), (0.3, 0.8)))
_HIGHEST = 2.5
_STEPS = 300


@dataclasses.dataclass(frozen=True)
class Runs:
    """What was trained: parameters N, tokens D, operations 6 N D as planned, and the loss reached.

    Attributes:
        n: (R,) parameters.
        d: (R,) tokens.
        c: (R,) compute of the line that a run belongs to.
        loss: (R,) loss at its end.
    """

    n: np.ndarray
    d: np.ndarray
    c: np.ndarray
    loss: np.ndarray

    def take(self, rows: np.ndarray) -> Runs:
        """The runs of these numbers, in any order and as often as named."""
        return Runs(self.n[rows], self.d[rows], self.c[rows], self.loss[rows])

    def groups(self) -> list[np.ndarray]:
        """Numbers of the runs of each size and compute."""
        found: dict[tuple[float, float], list[int]] = {}
        for i, key in enumerate(zip(self.n.tolist(), self.c.tolist(), strict=True)):
            found.setdefault(key, []).append(i)
        return [np.array(rows) for rows in found.values()]


@dataclasses.dataclass(frozen=True)
class Law:
    """The five numbers of L(N, D).

    Example:
        >>> law = Law(e=1.0, a=400.0, alpha=0.5, b=400.0, beta=0.5)
        >>> law.share, float(law.loss(1e4, 1e4))
        (0.5, 9.0)
    """

    e: float
    a: float
    alpha: float
    b: float
    beta: float

    @property
    def share(self) -> float:
        """Exponent a of the best N in C."""
        return self.beta / (self.alpha + self.beta)

    def loss(self, n: Any, d: Any) -> np.ndarray:
        """L of N parameters after D tokens."""
        n, d = np.asarray(n, float), np.asarray(d, float)
        return self.e + self.a * n**-self.alpha + self.b * d**-self.beta

    def best(self, compute: float) -> tuple[float, float]:
        """The N and D of the least loss at a compute."""
        both = self.alpha + self.beta
        ratio = (self.alpha * self.a / (self.beta * self.b)) ** (1 / both)
        product = compute / 6
        return ratio * product**self.share, product ** (1 - self.share) / ratio


def fit_law(runs: Runs, starts: Sequence[tuple[float, float, float]] = _STARTS) -> Law:
    """Fits the law; the best of several starts.

    Args:
        runs: At least five, of three sizes and three token counts or more.
        starts: (alpha, beta, E as a share of the least loss) to begin from.

    Raises:
        ValueError: Too few runs, or all of one size.
    """
    sizes, counts = len(set(runs.n.tolist())), len(set(runs.d.tolist()))
    if len(runs.loss) < 5 or sizes < 3 or counts < 3:
        raise ValueError(
            f"{len(runs.loss)} runs of {sizes} sizes, {counts} token counts: the law has five "
            "numbers; give five runs or more, of three sizes and three token counts"
        )
    from scipy import optimize

    least_squares: Any = optimize.least_squares

    goal, centre = np.log(runs.loss), (np.log(runs.n).mean(), np.log(runs.d).mean())
    # About their means the five numbers hardly depend on each other.
    log_n, log_d = np.log(runs.n) - centre[0], np.log(runs.d) - centre[1]

    def parts(theta: np.ndarray) -> np.ndarray:
        e, a, alpha, b, beta = theta
        return np.stack([np.full_like(goal, e), a - alpha * log_n, b - beta * log_d])

    def gap(theta: np.ndarray) -> np.ndarray:
        return np.logaddexp.reduce(parts(theta)) - goal

    def slopes(theta: np.ndarray) -> np.ndarray:
        three = parts(theta)
        share = np.exp(three - np.logaddexp.reduce(three))
        return np.stack(
            [share[0], share[1], -share[1] * log_n, share[2], -share[2] * log_d], axis=1
        )

    least = float(runs.loss.min())
    low = np.array([math.log(least) - 8, -20.0, 0.02, -20.0, 0.02])
    high = np.array([math.log(least), 20.0, _HIGHEST, 20.0, _HIGHEST])

    def fitted(first: np.ndarray, loss: str) -> Any:
        first = np.clip(first, low + 1e-6, high - 1e-6)
        return least_squares(gap, first, slopes, bounds=(low, high), loss=loss, f_scale=DELTA,
                             max_nfev=_STEPS)  # fmt: skip

    found = []
    for alpha, beta, share in starts:
        rest = math.log(max(float(runs.loss.mean()) - share * least, 1e-3) / 2)
        first = np.array([math.log(share * least), rest, alpha, rest, beta])
        found.append(fitted(first, "linear"))
    # Squares first, which lead from afar; then the loss that single bad runs do not sway.
    e, a, alpha, b, beta = fitted(min(found, key=lambda one: one.cost).x, "huber").x.tolist()
    return Law(
        math.exp(e), math.exp(a + alpha * centre[0]), alpha, math.exp(b + beta * centre[1]), beta
    )


def lines(runs: Runs) -> dict[float, tuple[np.ndarray, np.ndarray]]:
    """Compute to the sizes of that line, ascending, and their mean losses."""
    found = {}
    for compute in sorted(set(runs.c.tolist())):
        on = runs.c == compute
        sizes = np.unique(runs.n[on])
        found[compute] = sizes, np.array([runs.loss[on & (runs.n == n)].mean() for n in sizes])
    return found


def minimum(sizes: np.ndarray, losses: np.ndarray) -> float | None:
    """N at the bottom of a line of equal compute: of the parabola through the lowest points.

    Returns:
        None where the least loss is at an end of the line: its bottom was not seen.

    Example:
        >>> n = np.array([10.0, 100.0, 1000.0, 10000.0])
        >>> round(minimum(n, (np.log10(n) - 2.5) ** 2 + 1))
        316
    """
    at = int(losses.argmin())
    if len(sizes) < 3 or at in (0, len(sizes) - 1):
        return None
    rows = slice(max(at - 2, 0), at + 3)
    x = np.log(sizes[rows])
    a, b, _ = np.polyfit(x - x.mean(), losses[rows], 2)
    if a <= 0:
        return None
    bottom = x.mean() - b / (2 * a)
    return float(np.exp(np.clip(bottom, x[0], x[-1])))


def slope(runs: Runs) -> float | None:
    """Exponent a by the bottoms of the lines; None with fewer than two of them."""
    found = [(c, minimum(*line)) for c, line in lines(runs).items()]
    points = [(math.log(c), math.log(n)) for c, n in found if n is not None]
    if len(points) < 2:
        return None
    x, y = np.array(points).T
    return float(np.polyfit(x, y, 1)[0])


def bootstrap(
    runs: Runs, tell: Callable[[Runs], Any], draws: int = 200, seed: int = 0
) -> list[Any]:
    """What `tell` says of runs drawn anew, `draws` times; draws that it cannot judge are left out.

    Whole groups are drawn, and within each its runs: so a law that bends between sizes widens the
    interval as much as seeds do.
    """
    rng, groups, told = np.random.default_rng(seed), runs.groups(), []
    for _ in range(draws):
        chosen = [groups[i] for i in rng.integers(0, len(groups), len(groups))]
        rows = np.concatenate([rng.choice(group, len(group)) for group in chosen])
        try:
            value = tell(runs.take(rows))
        except ValueError:
            continue
        if value is not None:
            told.append(value)
    return told


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """The middle share of the values; None with fewer than 20."""
    if len(values) < 20:
        return None
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(np.asarray(values, float), [tail, 100 - tail])
    return float(low), float(high)
