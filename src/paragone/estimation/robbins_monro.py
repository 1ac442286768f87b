r"""Robbins-Monro: the root of a function that can only be observed with noise.

Wanted is $w^*$ with $g(w^*) = 0$, where only $\tilde g(w, \eta)$ with mean $g(w)$ can be seen.
Move against each observation, by steps that shrink neither too fast nor too slowly, and average:

$$ w_{k+1} = \Pi\bigl( w_k - a_k\, \tilde g(w_k, \eta_k) \bigr), \qquad
   \bar w_n = \frac{1}{n} \sum_{k=1}^{n} w_{k+1} . $$

With $g(w) = E[w - x]$ and $a_k = 1/k$ the iterate is the sample mean; with
$g(w) = P(x \le w) - q$ it is a quantile in O(1) memory. The average has the best possible
covariance $A^{-1} S A^{-\top} / n$ ($A = g'(w^*)$, S that of the noise) for every exponent of
the steps within (1/2, 1), without knowing A.

Where g grows faster than linearly, as $w^3 - 5$ does, a first step from far away overshoots and
each further one more so. A projection $\Pi$ to a known region prevents that; without one,
`expanding` bounds send the iterate back to the start and grow, as often as need be.

Cost: O(d) a step. `replicate` runs thousands of independent scalar recursions at once, about 10
ns a step of one.

References:
    Robbins and Monro (1951), "A stochastic approximation method".
    Polyak and Juditsky (1992), "Acceleration of stochastic approximation by averaging".
    Chen and Zhu (1986), "Stochastic approximation procedures with randomly varying truncations".
    Lee, Liao, Seo and Shin (2022), "Fast and robust online inference with stochastic gradient
    descent via random scaling", AAAI.

Shapes: d unknowns, R replications, n steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from paragone._core.random import RandomState, as_generator
from paragone.estimation import _descent as kernels
from paragone.estimation._inference import normal_quantile, scaling_quantile
from paragone.estimation._recursion import Ball, Box, DivergenceError, Recursion
from paragone.estimation.steps import Check, Power, of

__all__ = ["STEPS", "Ball", "Box", "DivergenceError", "Replications", "RobbinsMonro", "replicate"]


STEPS = Power(1.0, 0.0, 0.6)
"""Steps that leave the rate to averaging, and the intervals right with some thousand rows."""


class RobbinsMonro(Recursion):
    r"""A root from noisy observations, one at a time.

    Prefer it to a root finder (`scipy.optimize`) when each evaluation is noisy, and to `sgd`
    when observations are no rows of a table. g must increase through its root (for vectors: its
    Jacobian has eigenvalues with positive real parts); turn its sign otherwise.

    Args:
        g: $\tilde g(w, \eta)$, returns an array of the shape of w; or None, if `step` is given
            $\tilde g$ itself.
        start: $w_1$, a number or any shape.
        steps: $a_k$: a policy of `steps`, a number, or a function of k.
        projection: (low, high), a radius, or a function that brings w back.
        expanding: First radius of bounds around the start that grow whenever they are hit.
        averaging: Keep the average of the path, and what its interval needs.
        burn_in: Steps that the average leaves out.
        jacobian: $\partial \tilde g / \partial w$ (d, d) as a function of (w, eta), for the
            plug-in interval.

    Example:
        >>> rm = RobbinsMonro(lambda w, x: w - x, start=0.0, steps=Power(1.0, c=1.0))
        >>> float(rm.run([2.0, 4.0, 6.0]).w)
        4.0
    """

    def __init__(
        self,
        g: Callable[..., Any] | None = None,
        start: Any = 0.0,
        *,
        steps: Any = STEPS,
        projection: Any = None,
        expanding: float | None = None,
        averaging: bool = True,
        burn_in: int = 0,
        jacobian: Callable[..., Any] | None = None,
    ) -> None:
        super().__init__(start, steps, projection, expanding, averaging, burn_in)
        self.g, self.jacobian = g, jacobian
        size = self.start.size
        self._slope, self._noise, self._seen = np.zeros((size, size)), np.zeros((size, size)), 0

    def step(self, observation: Any) -> np.ndarray:
        """One observation, one step; returns the new iterate.

        Args:
            observation: eta of `g(w, eta)`; without g, the noisy value itself.

        Raises:
            ValueError: The observation is not finite, or has another shape than w.
            DivergenceError: The iterate leaves all bounds.
        """
        seen = observation if self.g is None else self.g(self.w, observation)
        return self._take(seen, observation)

    def _take(self, seen: Any, observation: Any) -> np.ndarray:
        value = np.asarray(seen, np.float64)
        if value.shape != self.w.shape:
            raise ValueError(
                f"an observation of shape {value.shape} for w of shape {self.w.shape}: "
                "g must return the shape of w"
            )
        if not np.isfinite(value).all():
            raise ValueError(f"g is {value} at w = {self.w}: observations must be finite")
        if self.jacobian is not None and self.k >= self.burn_in:
            flat = value.reshape(-1)
            slope = np.asarray(self.jacobian(self.w, observation), np.float64)
            self._seen += 1
            self._slope += (slope.reshape(self._slope.shape) - self._slope) / self._seen
            self._noise += (np.outer(flat, flat) - self._noise) / self._seen
        return self._move(value)

    def run(self, observations: Any, n: int | None = None) -> RobbinsMonro:
        """Many steps: over a stream, or by asking an oracle.

        Args:
            observations: An iterable of observations; or a function of w that returns a noisy
                value of g there.
            n: Most steps; needed with an oracle.

        Raises:
            ValueError: An oracle without n.
        """
        if not isinstance(observations, Iterable):
            if n is None:
                raise ValueError("an oracle never ends: say how many steps, n=...")
            for _ in range(n):
                self._take(observations(self.w), None)
            return self
        for count, observation in enumerate(observations):
            if n is not None and count >= n:
                break
            self.step(observation)
        return self

    def check(self, slope: float | None = None) -> Check:
        """Whether the steps satisfy the Robbins-Monro conditions, see `steps.check`."""
        return self._check("robbins_monro", slope=slope)

    def interval(self, level: float = 0.95, *, kind: str = "scaling") -> np.ndarray:
        """Confidence interval (2, ...) of each coordinate of the root.

        Args:
            level: Its confidence.
            kind: "scaling" (random scaling, from the path alone), or "plugin"
                ($A^{-1} S A^{-T} / n$ from `jacobian` and the observations): shorter, and
                right sooner.

        Raises:
            ValueError: "plugin" without a jacobian, or averaging is off.
        """
        if kind == "scaling":
            return super().interval(level)
        if kind != "plugin":
            raise ValueError(f"kind={kind!r} is none of 'scaling', 'plugin'")
        if self.jacobian is None or not self.averaging:
            raise ValueError("the plug-in interval needs jacobian=... and averaging=True")
        inverse = np.linalg.inv(self._slope)
        covariance = inverse @ self._noise @ inverse.T / max(self._seen, 1)
        half = normal_quantile(level) * np.sqrt(np.diag(covariance)).reshape(self.w.shape)
        return np.stack([self.average - half, self.average + half])


@dataclass(frozen=True)
class Replications:
    """Independent recursions, run side by side.

    Attributes:
        last: Last iterates (R,); NaN where a recursion diverged.
        average: Averages of the paths (R,).
        spread: $V_n / n$ of random scaling (R,).
        path: Iterates (p, R) after the steps `at` (p,).
        at: Numbers of steps.
    """

    last: np.ndarray
    average: np.ndarray
    spread: np.ndarray
    path: np.ndarray
    at: np.ndarray

    @property
    def diverged(self) -> int:
        """How many left all bounds."""
        return int((~np.isfinite(self.last)).sum())

    def interval(self, level: float = 0.95) -> np.ndarray:
        """Intervals (2, R) by random scaling."""
        half = scaling_quantile(level) * np.sqrt(self.spread)
        return np.stack([self.average - half, self.average + half])


_PROBLEMS = {"mean": kernels.MEAN, "quantile": kernels.QUANTILE}
_BLOCK = 1 << 18


def replicate(
    g: Any,
    start: float,
    n: int,
    replications: int,
    *,
    steps: Any = STEPS,
    draw: Callable[..., np.ndarray] | None = None,
    q: float = 0.5,
    projection: tuple[float, float] | None = None,
    burn_in: int = 0,
    record: int = 0,
    random_state: RandomState = 0,
) -> Replications:
    r"""Runs many independent scalar recursions at once, to study what steps do.

    Args:
        g: "mean" ($w - \eta$) or "quantile" ($1[\eta \le w] - q$), compiled; or a function of
            arrays (w, eta), each (R,), of NumPy or compiled by Numba.
        start: $w_1$ of all.
        n: Steps.
        replications: R.
        steps: As for `RobbinsMonro`.
        draw: Function (generator, shape) that returns eta; standard normal if None.
        q: Of "quantile".
        projection: (low, high).
        burn_in: Steps that the averages leave out.
        record: Most points of the path that are kept, evenly over log k (0: none).
        random_state: Seed or generator.

    Raises:
        ValueError: A problem that is not known, or numbers out of range.

    Example:
        >>> found = replicate("mean", 0.0, 1000, 200)
        >>> bool(abs(found.average).max() < 0.2)
        True
    """
    if isinstance(g, str) and g not in _PROBLEMS:
        raise ValueError(f"g={g!r} is none of 'mean', 'quantile', and no function")
    if n < 1 or replications < 1:
        raise ValueError(f"n={n}, replications={replications}: use 1 or more of both")
    if not 0 < q < 1:
        raise ValueError(f"q={q} is no probability: use a number within 0 and 1")
    low, high = (float(end) for end in projection or (-np.inf, np.inf))
    start = float(start)
    generator, policy = as_generator(random_state), of(steps)
    w = np.full(replications, start)
    sums = np.zeros((3, replications))
    third = np.zeros(1)
    kept = np.unique(np.geomspace(1, n, record).astype(int)) if record else np.zeros(0, int)
    path, block = [], max(1, _BLOCK // replications)
    k = 0
    with np.errstate(over="ignore", invalid="ignore"):
        while k < n:
            count = min(block, n - k)
            if len(path) < len(kept):
                count = min(count, int(kept[len(path)]) - k)
            sizes = np.asarray(policy(np.arange(k + 1, k + count + 1)), np.float64)
            shape = (count, replications)
            noise = generator.standard_normal(shape) if draw is None else draw(generator, shape)
            noise = np.ascontiguousarray(noise, np.float64)
            if isinstance(g, str):
                kernels.replicate(
                    _PROBLEMS[g], q, w, noise, sizes, k, burn_in, low, high, start, sums, third
                )
            else:
                for a, eta in zip(sizes, noise, strict=True):
                    values = np.asarray(g(w, eta), np.float64)
                    kernels.move(w, values, a, k, burn_in, low, high, start, sums, third)
                    k += 1
                k -= count
            k += count
            if len(path) < len(kept) and k == kept[len(path)]:
                path.append(w.copy())
        offset, first, second = sums
        m = max(n - burn_in, 1)
        spread = (second - 2 * offset * first + offset**2 * third[0]) / float(m) ** 3
    w[~np.isfinite(w)] = np.nan
    return Replications(
        w, start + offset, np.maximum(spread, 0.0),
        np.array(path).reshape(-1, replications), kept[: len(path)],
    )  # fmt: skip
