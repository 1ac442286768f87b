r"""What the engine of `fit` asks of a family of distributions.

Parameters are a vector theta in the order of `parameters`. A family answers three questions,
each with exact first and second derivatives in theta, and the engine makes of them weights,
censoring, truncation, fixed parameters, profiles, information and MAP for every family alike:

    terms(data, theta)            sum of w log f(x), score (p,), Hessian (p, p): one compiled pass
    pointwise(x, theta)           log f(x) (n,), scores (n, p), Hessians (n, p, p)
    windows(lower, upper, theta)  log P(lower < X <= upper) (m,), scores (m, p), Hessians (m, p, p)

and `support`, `start`, `logcdf`, `logsf`, `ppf`, `mean`, `var`; `closed_form` where the maximum is
known. `LocationScale` and `Discrete` supply most of it from a few functions of the standard law.

Shapes: n observations, m windows, p parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from paragone.estimation.families._parameter import Parameter

__all__ = ["Data", "Family"]


@dataclass
class Data:
    """Exactly observed values, and what a family computes from them once.

    Args:
        x: Distinct or repeated values (n,), float64, contiguous.
        w: Weights (n,), positive.
        known: Values of the fixed parameters by name: what depends on these alone may be kept.
        kept: Whatever `prepare` keeps for `terms`.
    """

    x: np.ndarray
    w: np.ndarray
    known: dict[str, float] = field(default_factory=dict)
    kept: dict[str, Any] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """Sum of the weights."""
        if "total" not in self.kept:
            self.kept["total"] = float(self.w.sum())
        return self.kept["total"]


class Family:
    """A family of distributions with parameters theta.

    Attributes:
        name: By which `fit` and `families.get` know it.
        title: For people.
        parameters: Names and domains, in the order of theta.
        aliases: Other names; SciPy's name among them.
        scipy: Name in `scipy.stats`, or "".
        discrete: Whether x is whole.
        unbounded: The density may grow without limit as `loc` nears the least observation.
        edges: Parameters in which the likelihood has no stationary point, but grows until the
            support ends at an observation; see `edge_values`.
        kinks: Parameters in which the log-likelihood has a kink at its maximum.
        with_location: Name of the form of this family that has a location, if there is one.
        several: Whether the likelihood may have several maxima, so that `starts` are all tried.
    """

    name: str = ""
    title: str = ""
    parameters: tuple[Parameter, ...] = ()
    aliases: tuple[str, ...] = ()
    scipy: str = ""
    discrete: bool = False
    unbounded: bool = False
    edges: tuple[str, ...] = ()
    kinks: tuple[str, ...] = ()
    several: bool = False
    with_location: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters."""
        return tuple(parameter.name for parameter in self.parameters)

    def vector(self, theta: Any) -> np.ndarray:
        """Theta as an array, from an array or from values by name.

        Raises:
            ValueError: A name is missing or unknown, or a value is outside its domain.
        """
        if isinstance(theta, Mapping):
            strange, absent = set(theta) - set(self.names), set(self.names) - set(theta)
            if strange or absent:
                raise ValueError(
                    f"{self.name} has the parameters {', '.join(self.names)}: got {dict(theta)}"
                )
            theta = [theta[name] for name in self.names]
        values = np.asarray(theta, np.float64)
        if values.shape != (len(self.parameters),):
            raise ValueError(f"theta={theta} has not one value for each of {self.names}")
        for parameter, value in zip(self.parameters, values, strict=True):
            if not parameter.lower < value < parameter.upper:
                raise ValueError(
                    f"{parameter.name}={value} is outside ({parameter.lower}, {parameter.upper}), "
                    f"the domain of this parameter of {self.name}"
                )
        return values

    def support(self, theta: np.ndarray) -> tuple[float, float]:
        """Ends of the support."""
        raise NotImplementedError

    def limits(self, known: dict[str, float]) -> tuple[float, float, bool]:
        """(lower, upper, open): where data may lie whatever the parameters that are not known."""
        return -np.inf, np.inf, False

    def start(self, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        """A theta that is near enough, robust to outliers, whose support holds all of x."""
        raise NotImplementedError

    def starts(self, x: np.ndarray, w: np.ndarray) -> list[np.ndarray]:
        """All starting points; more than one where the likelihood has several maxima."""
        return [self.start(x, w)]

    def start_above(self, x: np.ndarray, w: np.ndarray, loc: float) -> np.ndarray:
        """A start of a family with a threshold, given that threshold."""
        raise NotImplementedError

    def closed_form(self, data: Data) -> np.ndarray | None:
        """The maximum of the likelihood given `data.known`, where there is a formula; or None."""
        return None

    def edge_values(self, x: np.ndarray, known: dict[str, float]) -> dict[str, float]:
        """The maximising values of those `edges` that are not known."""
        return {}

    def cusp(self, theta: np.ndarray) -> bool:
        """Whether the density has a point at `loc`, so that the best loc is an observation."""
        return False

    def bounds(self, lowest: float, highest: float) -> tuple[Parameter, ...]:
        """The domains within which the support can hold data from lowest to highest."""
        return self.parameters

    def prepare(self, data: Data) -> Data:
        """Computes once what `terms` would otherwise compute in each step."""
        return data

    def terms(self, data: Data, theta: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Weighted log-likelihood with score and Hessian; -inf outside the support."""
        value, score, hessian = self.pointwise(data.x, theta)
        if not np.all(np.isfinite(value)):
            p = len(theta)
            return -np.inf, np.zeros(p), np.zeros((p, p))
        return float(data.w @ value), data.w @ score, np.tensordot(data.w, hessian, 1)

    def pointwise(
        self, x: np.ndarray, theta: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Log f of each x with its derivatives."""
        raise NotImplementedError

    def windows(
        self, lower: np.ndarray, upper: np.ndarray, theta: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Log P(lower < X <= upper) of each window with its derivatives; ends may be infinite."""
        raise NotImplementedError

    def window_sums(
        self, lower: np.ndarray, upper: np.ndarray, w: np.ndarray, theta: np.ndarray
    ) -> tuple[float, np.ndarray, np.ndarray]:
        """Sum of w log P(lower < X <= upper) with score and Hessian."""
        value, score, hessian = self.windows(lower, upper, theta)
        return float(w @ value), w @ score, np.tensordot(w, hessian, 1)

    def logpdf(self, x: Any, theta: Any) -> np.ndarray:
        """Log density, or log probability of a discrete family; -inf outside the support."""
        x = np.asarray(x, np.float64)
        return self.pointwise(x.ravel(), self.vector(theta))[0].reshape(x.shape)

    def pdf(self, x: Any, theta: Any) -> np.ndarray:
        """Density, or probability of a discrete family."""
        return np.exp(self.logpdf(x, theta))

    def logcdf(self, x: Any, theta: Any) -> np.ndarray:
        """Log P(X <= x), accurate in the lower tail."""
        raise NotImplementedError

    def logsf(self, x: Any, theta: Any) -> np.ndarray:
        """Log P(X > x), accurate in the upper tail."""
        raise NotImplementedError

    def cdf(self, x: Any, theta: Any) -> np.ndarray:
        """P(X <= x)."""
        return np.exp(self.logcdf(x, theta))

    def sf(self, x: Any, theta: Any) -> np.ndarray:
        """P(X > x)."""
        return np.exp(self.logsf(x, theta))

    def ppf(self, p: Any, theta: Any) -> np.ndarray:
        """Quantile: the least x with cdf(x) >= p."""
        raise NotImplementedError

    def isf(self, p: Any, theta: Any) -> np.ndarray:
        """The quantile of 1 - p, accurate for small p."""
        return self.ppf(1.0 - np.asarray(p, np.float64), theta)

    def rvs(self, theta: Any, size: Any = None, random_state: Any = None) -> np.ndarray:
        """Random values by inversion.

        Args:
            theta: Parameters.
            size: Shape of the result.
            random_state: A seed or a `numpy.random.Generator`.
        """
        return self.ppf(np.random.default_rng(random_state).random(size), theta)

    def mean(self, theta: Any) -> float:
        """Mean; inf or NaN where there is none."""
        raise NotImplementedError

    def var(self, theta: Any) -> float:
        """Variance; inf or NaN where there is none."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<family {self.name}: {', '.join(self.names)}>"
