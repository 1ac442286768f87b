"""What Robbins-Monro, Kiefer-Wolfowitz and SPSA share: moving, projecting, averaging, stopping."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np

from paragone.estimation._inference import Average
from paragone.estimation.steps import Check, of

__all__ = ["Ball", "Box", "DivergenceError", "Recursion", "projection_for"]

_FAR = 1e10


class DivergenceError(ArithmeticError):
    """An iterate left all bounds: the step was too large for where it was."""


class Box:
    """Projection to low <= w <= high, coordinate by coordinate."""

    def __init__(self, low: Any, high: Any):
        self.low, self.high = np.asarray(low, np.float64), np.asarray(high, np.float64)
        if not (self.low <= self.high).all():
            raise ValueError(f"box from {low} to {high} is empty: give low <= high")

    def __call__(self, w: np.ndarray) -> np.ndarray:
        return np.clip(w, self.low, self.high)


class Ball:
    """Projection to the ball around a centre."""

    def __init__(self, radius: float, centre: Any = 0.0):
        if not radius > 0:
            raise ValueError(f"radius={radius} is no ball: use a number above 0")
        self.radius, self.centre = float(radius), np.asarray(centre, np.float64)

    def __call__(self, w: np.ndarray) -> np.ndarray:
        away = w - self.centre
        length = float(np.linalg.norm(away))
        return w if length <= self.radius else self.centre + away * (self.radius / length)


def projection_for(projection: Any) -> Callable[[np.ndarray], np.ndarray] | None:
    """A projection from a function, a pair (low, high), a radius, or None.

    Raises:
        ValueError: It is none of these.
    """
    if projection is None or callable(projection):
        return cast("Callable[[np.ndarray], np.ndarray] | None", projection)
    if isinstance(projection, tuple | list):
        if len(projection) == 2:
            return Box(projection[0], projection[1])
    elif np.ndim(projection) == 0:
        return Ball(float(projection))
    raise ValueError(
        f"projection={projection!r} is none: give (low, high), a radius, or a function of w"
    )


class Recursion:
    """A path of iterates; subclasses say which direction is taken.

    Attributes:
        w: The iterate, of the shape of `start`.
        k: Steps taken.
        resets: How often the expanding bounds sent the iterate back to the start.
    """

    def __init__(
        self, start: Any, steps: Any, projection: Any, expanding: float | None, averaging: bool,
        burn_in: int,
    ) -> None:  # fmt: skip
        self.start = np.array(start, np.float64)
        if not np.isfinite(self.start).all():
            raise ValueError(f"start={start} is not finite: begin at numbers")
        if expanding is not None and not expanding > 0:
            raise ValueError(f"expanding={expanding} is no radius: use a number above 0")
        if burn_in != int(burn_in) or burn_in < 0:
            raise ValueError(f"burn_in={burn_in} is no number of steps: use 0 or more")
        self.steps, self.project = of(steps), projection_for(projection)
        self.expanding, self.averaging, self.burn_in = expanding, averaging, int(burn_in)
        self.w = self.start.copy()
        self.k, self.resets = 0, 0
        # The path that is averaged begins anew when the bounds send it back.
        self._began, self._scale = 0, np.inf
        self._average: Average | None = None

    def _move(self, direction: np.ndarray) -> np.ndarray:
        """W - a_k direction, brought back into its bounds."""
        self.k += 1
        w = self.w - float(self.steps(self.k)) * direction
        if self.project is not None:
            w = np.asarray(self.project(w), np.float64)
        if self.expanding is not None:
            away = np.max(np.abs(w - self.start))
            if not away <= self.expanding * (1 + self.resets):
                self.resets += 1
                w = self.start.copy()
                self._began, self._average = self.k, None
        size = np.max(np.abs(w))
        if self.k == 1:
            # The first step shows the scale of the problem.
            self._scale = _FAR * (1.0 + max(size, np.max(np.abs(self.start))))
        if not size < self._scale:
            raise DivergenceError(
                f"step {self.k} went from w = {self.w} to {w}: the recursion diverges; give "
                "projection=(low, high), or expanding=radius, or start steps smaller with a "
                "larger b"
            )
        self.w = w
        if self.averaging and self.k - self._began > self.burn_in:
            if self._average is None:
                self._average = Average(w.shape, w)
            self._average.add(w)
        return w

    @property
    def average(self) -> Any:
        """Average of the path after the burn-in (Polyak and Ruppert), since the last reset.

        Raises:
            ValueError: Averaging is off.
        """
        if not self.averaging:
            raise ValueError("averaging=False keeps no average: make it with averaging=True")
        return self.start * np.nan if self._average is None else self._average.value[()]

    @property
    def value(self) -> Any:
        """The estimate: the average with averaging, else the last iterate."""
        return self.average if self.averaging and self._average is not None else self.w.copy()[()]

    def interval(self, level: float = 0.95) -> np.ndarray:
        """Confidence interval (2, ...) of each coordinate of the root, from the path alone.

        By random scaling (see `_inference`): asymptotically exact for steps with an exponent
        within (1/2, 1), observations independent of each other, and a root inside the bounds.

        Raises:
            ValueError: Averaging is off, or the level is none.
        """
        if not self.averaging:
            raise ValueError("averaging=False has no interval: make it with averaging=True")
        if self._average is None:
            return np.full((2, *self.w.shape), np.nan)
        return self._average.interval(level)

    def _check(self, theorem: str, **more: Any) -> Check:
        from paragone.estimation.steps import check

        return check(self.steps, theorem=theorem, **more)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.k} steps, value {self.value})"
