r"""Distributions of vectors and matrices as results of conjugate updates.

Multivariate t with m degrees of freedom, location and shape matrix $\Sigma$, normal as its limit;
Dirichlet-multinomial counts; Wishart and inverse Wishart draws by Bartlett's triangle,
$W = L A A^\top L^\top$ with chi variables on the diagonal of A.

References:
    Bartlett (1933), "On the theory of statistical regression".
    Press (1982), Applied Multivariate Analysis, chapters 5-6.

Shapes: p columns, ... any leading shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special
from scipy.linalg import solve_triangular

from paragone._core.random import RandomState, as_generator
from paragone.estimation import _laws

__all__ = [
    "VectorLaw", "dirichlet_multinomial", "inverse_wishart_draws", "mvn", "mvt",
    "wishart_draws", "wishart_log_norm",
]  # fmt: skip


@dataclass(frozen=True)
class VectorLaw:
    """A distribution of vectors (p,).

    Attributes:
        name: What it is.
        log_density: Log density of (..., p).
        draw: `(generator, size)` to draws `(*size, p)`.
        mean: (p,).
        cov: (p, p); NaN or inf where it does not exist.
        marginals: Law of each element, an object array (p,).
    """

    name: str
    log_density: Callable[[np.ndarray], np.ndarray]
    draw: Callable[[np.random.Generator, Any], np.ndarray]
    mean: np.ndarray
    cov: np.ndarray
    marginals: np.ndarray

    def __repr__(self) -> str:
        return f"VectorLaw({self.name}, mean={self.mean})"

    @property
    def var(self) -> np.ndarray:
        """Variance of each element (p,)."""
        return np.diagonal(self.cov)

    @property
    def sd(self) -> np.ndarray:
        """Standard deviation of each element (p,)."""
        return np.sqrt(self.var)

    def logpdf(self, x: Any) -> Any:
        """Log density, or log probability of counts, of (..., p)."""
        x = np.asarray(x, np.float64)
        if x.shape[-1:] != self.mean.shape:
            raise ValueError(f"x of shape {x.shape}: its last axis must be {len(self.mean)} long")
        return self.log_density(x)[()]

    logpmf = logpdf

    def quantile(self, q: float) -> np.ndarray:
        """Quantile of each element on its own (p,)."""
        return np.array([law.quantile(q) for law in self.marginals])

    def interval(self, level: float = 0.95, kind: str = "hpd") -> np.ndarray:
        """Interval of each element on its own (p, 2); see `Law.interval`."""
        return np.array([law.interval(level, kind) for law in self.marginals])

    def rvs(self, size: Any = None, random_state: RandomState = None) -> np.ndarray:
        """Draws `(*size, p)`."""
        return self.draw(as_generator(random_state), size)


def _shape(size: Any) -> tuple[int, ...]:
    return () if size is None else (size,) if np.ndim(size) == 0 else tuple(size)


def _whitened(x: np.ndarray, loc: np.ndarray, lower: np.ndarray) -> np.ndarray:
    gap = (x - loc).reshape(-1, len(loc)).T
    return (solve_triangular(lower, gap, lower=True) ** 2).sum(0).reshape(x.shape[:-1])


def mvn(loc: np.ndarray, cov: np.ndarray) -> VectorLaw:
    """Multivariate normal of mean (p,) and covariance (p, p)."""
    lower, p = np.linalg.cholesky(cov), len(loc)
    norm = -np.log(np.diagonal(lower)).sum() - 0.5 * p * math.log(2 * math.pi)
    return VectorLaw(
        "multivariate normal", lambda x: norm - 0.5 * _whitened(x, loc, lower),
        lambda rng, size: loc + rng.standard_normal((*_shape(size), p)) @ lower.T, loc, cov,
        _array([_laws.normal(float(m), float(v)) for m, v in zip(loc, np.diagonal(cov),
                                                                  strict=True)]),
    )  # fmt: skip


def mvt(df: float, loc: np.ndarray, shape: np.ndarray) -> VectorLaw:
    """Multivariate t of degrees of freedom, location (p,) and shape matrix (p, p)."""
    lower, p = np.linalg.cholesky(shape), len(loc)
    norm = special.gammaln((df + p) / 2) - special.gammaln(df / 2)
    norm -= 0.5 * p * math.log(df * math.pi) + np.log(np.diagonal(lower)).sum()

    def draw(rng: np.random.Generator, size: Any) -> np.ndarray:
        z = rng.standard_normal((*_shape(size), p)) @ lower.T
        return loc + z * np.sqrt(df / rng.chisquare(df, (*_shape(size), 1)))

    spread = df / (df - 2) if df > 2 else math.nan
    return VectorLaw(
        "multivariate t",
        lambda x: norm - 0.5 * (df + p) * np.log1p(_whitened(x, loc, lower) / df), draw,
        loc if df > 1 else np.full(p, np.nan), shape * spread,
        _array([_laws.student_t(df, float(m), math.sqrt(v))
                for m, v in zip(loc, np.diagonal(shape), strict=True)]),
    )  # fmt: skip


def dirichlet_multinomial(
    alpha: np.ndarray, trials: int, marginal: Callable[..., Any]
) -> VectorLaw:
    """Counts of `trials` draws whose probabilities are Dirichlet; `marginal(a, b)` of a count."""
    total = alpha.sum()
    share = alpha / total

    def log_probability(x: np.ndarray) -> np.ndarray:
        good = (x >= 0).all(-1) & (x == np.floor(x)).all(-1) & (x.sum(-1) == trials)
        y = np.where(good[..., None], x, 0.0)
        log = special.gammaln(trials + 1) - special.gammaln(y + 1).sum(-1)
        log += (special.gammaln(alpha + y) - special.gammaln(alpha)).sum(-1)
        log += special.gammaln(total) - special.gammaln(total + trials)
        return np.where(good, log, -np.inf)

    def draw(rng: np.random.Generator, size: Any) -> np.ndarray:
        return rng.multinomial(trials, rng.dirichlet(alpha, size)).astype(np.float64)

    cov = trials * (np.diag(share) - np.outer(share, share)) * (trials + total) / (1 + total)
    return VectorLaw(
        "Dirichlet-multinomial", log_probability, draw, trials * share, cov,
        _array([marginal(float(a), float(total - a)) for a in alpha]),
    )  # fmt: skip


def _array(laws: list[Any]) -> np.ndarray:
    found = np.empty(len(laws), object)
    found[:] = laws
    return found


def wishart_log_norm(df: float, log_det: float, p: int) -> float:
    r"""$\log\int$ of a Wishart's kernel, given $\log|V|$ of its scale matrix."""
    gammas = special.gammaln(0.5 * (df - np.arange(p))).sum() + 0.25 * p * (p - 1) * math.log(
        math.pi
    )
    return 0.5 * df * (p * math.log(2) + log_det) + float(gammas)


def wishart_draws(rng: np.random.Generator, df: float, scale: np.ndarray, size: Any) -> np.ndarray:
    """Wishart matrices (*size, p, p)."""
    return _square(_triangles(rng, df, scale, size))


def inverse_wishart_draws(
    rng: np.random.Generator, df: float, scale: np.ndarray, size: Any
) -> np.ndarray:
    """Inverse Wishart matrices (*size, p, p)."""
    return np.linalg.inv(wishart_draws(rng, df, np.linalg.inv(scale), size))


def _triangles(rng: np.random.Generator, df: float, scale: np.ndarray, size: Any) -> np.ndarray:
    p, shape = len(scale), _shape(size)
    a = np.tril(rng.standard_normal((*shape, p, p)), -1)
    a[..., range(p), range(p)] = np.sqrt(rng.chisquare(df - np.arange(p), (*shape, p)))
    return np.linalg.cholesky(scale) @ a


def _square(lower: np.ndarray) -> np.ndarray:
    return lower @ np.swapaxes(lower, -1, -2)
