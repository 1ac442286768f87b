r"""A parameter of a family: its name, its open domain, and its coordinate on the whole line.

Optimisers and samplers work in $u \in \mathbb{R}$ where no bound can be crossed:

    (-inf, inf)  x = u              (a, inf)  x = a + e^u
    (-inf, b)    x = b - e^u        (a, b)    x = a + (b - a) / (1 + e^-u)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

__all__ = ["Parameter", "positive", "real", "unit"]


@dataclass(frozen=True)
class Parameter:
    """One parameter.

    Args:
        name: As in `Fit.params` and `fixed=`.
        lower: End of the open domain, -inf for none.
        upper: The other end.
    """

    name: str
    lower: float = -math.inf
    upper: float = math.inf

    def within(self, lower: float = -math.inf, upper: float = math.inf) -> Parameter:
        """The same parameter on the intersection with (lower, upper)."""
        return replace(self, lower=max(self.lower, lower), upper=min(self.upper, upper))

    def to_real(self, x: float) -> float:
        """U of a value inside the domain."""
        if math.isinf(self.lower) and math.isinf(self.upper):
            return x
        if math.isinf(self.upper):
            return math.log(x - self.lower)
        if math.isinf(self.lower):
            return math.log(self.upper - x)
        return math.log((x - self.lower) / (self.upper - x))

    def from_real(self, u: float) -> tuple[float, float, float]:
        """(x, dx/du, d2x/du2) at u."""
        if math.isinf(self.lower) and math.isinf(self.upper):
            return u, 1.0, 0.0
        if math.isinf(self.upper):
            e = math.exp(min(u, 700.0))
            return self.lower + e, e, e
        if math.isinf(self.lower):
            e = math.exp(min(u, 700.0))
            return self.upper - e, -e, -e
        width = self.upper - self.lower
        p = 1.0 / (1.0 + math.exp(-u)) if u > -700.0 else 0.0
        slope = width * p * (1.0 - p)
        return self.lower + width * p, slope, slope * (1.0 - 2.0 * p)

    def log_jacobian(self, u: float) -> tuple[float, float, float]:
        """`log |dx/du|` with its first and second derivative in u."""
        if math.isinf(self.lower) and math.isinf(self.upper):
            return 0.0, 0.0, 0.0
        if math.isinf(self.lower) or math.isinf(self.upper):
            return u, 1.0, 0.0
        p = 1.0 / (1.0 + math.exp(-u)) if u > -700.0 else 0.0
        width = math.log(self.upper - self.lower)
        return (
            width - abs(u) - 2.0 * math.log1p(math.exp(-abs(u))),
            1.0 - 2.0 * p,
            -2.0 * p * (1 - p),
        )


def real(name: str) -> Parameter:
    """A parameter on the whole line."""
    return Parameter(name)


def positive(name: str) -> Parameter:
    """A parameter above 0."""
    return Parameter(name, 0.0)


def unit(name: str) -> Parameter:
    """A parameter between 0 and 1."""
    return Parameter(name, 0.0, 1.0)
