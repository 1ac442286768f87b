r"""Kiefer-Wolfowitz and SPSA: the minimum of a function seen with noise, without its gradient.

Kiefer-Wolfowitz takes central differences along each axis, $2d$ observations a step,

$$ w_{k+1} = w_k - a_k\, \frac{y(w_k + c_k e_i) - y(w_k - c_k e_i)}{2 c_k}, \quad i = 1 \dots d ; $$

SPSA moves all coordinates at once by random signs $\Delta_k$, two observations a step however
many coordinates there are, $\hat g_i = (y(w_k + c_k \Delta_k) - y(w_k - c_k \Delta_k)) /
(2 c_k \Delta_{k,i})$. The widths $c_k$ must vanish or the differences keep a bias, and not too
fast or the noise, which they divide by, takes over: $c_k = c/k^{1/6}$ with $a_k = a/k$ is the
best compromise and gives the rate $n^{-1/3}$, slower than the $n^{-1/2}$ of a seen gradient.

Cost: $2d$ (Kiefer-Wolfowitz) or 2 (SPSA) observations a step.

References:
    Kiefer and Wolfowitz (1952), "Stochastic estimation of the maximum of a regression function".
    Blum (1954), "Multidimensional stochastic approximation methods", section 5.
    Spall (1992), "Multivariate stochastic approximation using a simultaneous perturbation
    gradient approximation", eq. 2.2; (1998) for the exponents .602 and .101.

Shapes: d unknowns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from paragone._core.random import RandomState, as_generator
from paragone.estimation._recursion import Recursion
from paragone.estimation.steps import Check, Power, of

__all__ = ["SPALL_STEPS", "SPALL_WIDTHS", "SPSA", "STEPS", "WIDTHS", "KieferWolfowitz"]


STEPS, WIDTHS = Power(0.5, 0.0, 1.0), Power(1.0, 0.0, 1.0 / 6.0)
"""Steps and widths of the best rate, for a curvature near 2."""

SPALL_STEPS, SPALL_WIDTHS = Power(0.1, 10.0, 0.602), Power(0.5, 0.0, 0.101)
"""Steps and widths that do well with few observations (Spall 1998)."""


class KieferWolfowitz(Recursion):
    r"""A minimum from noisy values, by central differences along the axes.

    Prefer it to SPSA for one or two unknowns, to `RobbinsMonro` only if no gradient can be
    observed, and to Nelder-Mead whenever values are noisy. For a maximum, turn the sign.

    Args:
        start: $w_1$, a number or (d,).
        steps: $a_k$.
        widths: $c_k$.
        projection: (low, high), a radius, or a function that brings w back.
        expanding: First radius of bounds around the start that grow whenever they are hit.
        averaging: Keep the average of the path.
        burn_in: Steps that the average leaves out.

    Example:
        >>> found = KieferWolfowitz(0.0, steps=Power(0.5, c=1.0)).run(lambda w: (w - 3) ** 2, 50)
        >>> round(float(found.w), 6)
        3.0
    """

    def __init__(
        self,
        start: Any,
        *,
        steps: Any = STEPS,
        widths: Any = WIDTHS,
        projection: Any = None,
        expanding: float | None = None,
        averaging: bool = False,
        burn_in: int = 0,
    ) -> None:
        super().__init__(start, steps, projection, expanding, averaging, burn_in)
        self.widths = of(widths)
        self.evaluations = 0

    def _width(self) -> float:
        return float(self.widths(self.k + 1))

    def ask(self) -> np.ndarray:
        """The points (2d, ...) at which the next step wants values: +, - for each axis."""
        shift = self._width() * np.eye(self.w.size).reshape(-1, *self.w.shape)
        return np.stack([self.w + shift, self.w - shift], axis=1).reshape(-1, *self.w.shape)

    def step(self, values: Any) -> np.ndarray:
        """Takes the values (2d,) at the points of `ask`, moves, and returns the new iterate.

        Raises:
            ValueError: Not as many values, or one is not finite.
        """
        pairs = self._checked(values, 2 * self.w.size).reshape(-1, 2)
        slope = (pairs[:, 0] - pairs[:, 1]) / (2 * self._width())
        return self._move(slope.reshape(self.w.shape))

    def _checked(self, values: Any, count: int) -> np.ndarray:
        values = np.asarray(values, np.float64).reshape(-1)
        if len(values) != count:
            raise ValueError(f"{len(values)} values for {count} points: give one for each of ask()")
        if not np.isfinite(values).all():
            raise ValueError(f"a value is {values[~np.isfinite(values)][0]}: values must be finite")
        self.evaluations += count
        return values

    def run(self, oracle: Callable[[Any], float], n: int) -> Any:
        """Takes n steps, asking `oracle(w)` for noisy values; returns itself."""
        for _ in range(n):
            self.step([float(oracle(point)) for point in self.ask()])
        return self

    def check(self) -> Check:
        """Whether steps and widths satisfy the conditions, see `steps.check`."""
        return self._check("kiefer_wolfowitz", widths=self.widths)


class SPSA(KieferWolfowitz):
    r"""A minimum from noisy values, two a step, whatever the number of unknowns.

    Prefer it to `KieferWolfowitz` from a few unknowns on. Steps are Spall's by default.

    Args:
        start: $w_1$, a number or (d,).
        steps: $a_k$.
        widths: $c_k$.
        projection: (low, high), a radius, or a function that brings w back.
        expanding: First radius of bounds around the start that grow whenever they are hit.
        averaging: Keep the average of the path.
        burn_in: Steps that the average leaves out.
        random_state: Of the signs.

    Example:
        >>> found = SPSA([0.0, 0.0], steps=Power(0.2)).run(lambda w: ((w - 3) ** 2).sum(), 200)
        >>> bool(abs(found.w - 3).max() < 1e-2)
        True
    """

    def __init__(
        self,
        start: Any,
        *,
        steps: Any = SPALL_STEPS,
        widths: Any = SPALL_WIDTHS,
        projection: Any = None,
        expanding: float | None = None,
        averaging: bool = False,
        burn_in: int = 0,
        random_state: RandomState = 0,
    ) -> None:
        super().__init__(
            start, steps=steps, widths=widths, projection=projection, expanding=expanding,
            averaging=averaging, burn_in=burn_in,
        )  # fmt: skip
        self._generator = as_generator(random_state)
        self._draw()

    def _draw(self) -> None:
        self._signs = self._generator.integers(0, 2, self.w.shape) * 2.0 - 1.0

    def ask(self) -> np.ndarray:
        """The two points (2, ...) at which the next step wants values."""
        shift = self._width() * self._signs
        return np.stack([self.w + shift, self.w - shift])

    def step(self, values: Any) -> np.ndarray:
        """Takes the two values at the points of `ask`, moves, and returns the new iterate.

        Raises:
            ValueError: Not two values, or one is not finite.
        """
        plus, minus = self._checked(values, 2)
        slope = (plus - minus) / (2 * self._width() * self._signs)
        self._draw()
        return self._move(np.asarray(slope))
