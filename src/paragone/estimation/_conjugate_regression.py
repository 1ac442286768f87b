r"""Linear regression with a conjugate prior on coefficients, and on the noise if it is unknown.

With $G = X^\top X$, least squares $\hat\beta$ and residual sum R, prior $\beta \mid \sigma^2
\sim N(m, \sigma^2 L^{-1})$ and $\sigma^2$ inverse gamma (a, b):

$$ L_n = L + G, \quad m_n = m + L_n^{-1} G (\hat\beta - m), \quad
   b_n = b + \tfrac12 R + \tfrac12 (\hat\beta - m)^\top L L_n^{-1} G (\hat\beta - m) . $$

No difference of large sums is taken, so an offset of the target does no harm.

References:
    Gelman et al. (2013), Bayesian Data Analysis, section 14.8.
    Bishop (2006), Pattern Recognition and Machine Learning, eq. 3.50-3.51, 3.57-3.59.

Shapes: n rows, p coefficients.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import special

from paragone.estimation import _laws, _vector_laws
from paragone.estimation._conjugate_forms import Joint, Known, Pair, Values, weigh

__all__ = ["PAIRS"]


def _count(
    data: Any, known: Known, weights: Any = None, *, width: int, design: Any = None
) -> Values:
    y = np.atleast_1d(np.asarray(data, np.float64))
    if design is None:
        raise ValueError("a regression needs its columns: give design=X with a row for each value")
    x = _columns(design, width)
    if y.shape != (len(x),) or not np.isfinite(y).all():
        raise ValueError(f"data of shape {y.shape}: {len(x)} finite targets are expected")
    w = weigh(weights, len(y))
    root = np.sqrt(w)
    coef = np.linalg.lstsq(x * root[:, None], y * root, rcond=None)[0]
    return {"n": float(w.sum()), "gram": (x * w[:, None]).T @ x, "coef": coef,
            "rss": float(w @ (y - x @ coef) ** 2), "log_base": 0.0}  # fmt: skip


def _columns(design: Any, width: int) -> np.ndarray:
    x = np.atleast_2d(np.asarray(design, np.float64))
    if x.ndim != 2 or x.shape[1] != width or not x.size or not np.isfinite(x).all():
        raise ValueError(f"design of shape {x.shape}: rows of {width} finite numbers are expected")
    return x


def _log_det(matrix: np.ndarray) -> float:
    return 2 * float(np.log(np.diagonal(np.linalg.cholesky(matrix))).sum())


def _step(mean: np.ndarray, precision: np.ndarray, gram: np.ndarray, coef: Any) -> tuple[Any, ...]:
    """(new precision, new mean, squared gap between prior and data)."""
    after = precision + gram
    gap = np.asarray(coef) - mean
    pull = np.linalg.solve(after, gram @ gap)
    return after, mean + pull, float(gap @ precision @ pull)


def _absorb(h: Values, s: Values, k: Known) -> Values:
    after, mean, gap = _step(h["mean"], h["precision"], np.asarray(s["gram"]), s["coef"])
    return {"mean": mean, "precision": after, "shape": h["shape"] + s["n"] / 2,
            "scale": h["scale"] + 0.5 * (s["rss"] + gap)}  # fmt: skip


def _evidence(h: Values, s: Values, k: Known) -> float:
    after = _absorb(h, s, k)
    value = special.gammaln(after["shape"]) - special.gammaln(h["shape"])
    value += h["shape"] * math.log(h["scale"]) - after["shape"] * math.log(after["scale"])
    value += 0.5 * (_log_det(h["precision"]) - _log_det(after["precision"]))
    return float(value - 0.5 * s["n"] * math.log(2 * math.pi))


def _joint(h: Values, k: Known) -> Joint:
    a, b, m = h["shape"], h["scale"], h["mean"]
    cov = np.linalg.inv(h["precision"])
    coef, noise = _vector_laws.mvt(2 * a, m, cov * b / a), _laws.gamma_power(a, b, -1.0)

    def log_density(beta: Any, variance: float) -> float:
        if variance <= 0:
            return -math.inf
        return float(_vector_laws.mvn(m, cov * variance).logpdf(beta) + noise.logpdf(variance))

    def draw(rng: np.random.Generator, size: Any) -> tuple[Any, ...]:
        variance = noise.draw(rng, size)
        z = _vector_laws.mvn(np.zeros(len(m)), cov).draw(rng, size)
        return m + z * np.sqrt(variance)[..., None], variance

    return Joint(
        log_density, draw, {"coef": coef.marginals, "variance": noise},
        {"coef": coef.mean, "variance": noise.mean}, {"coef": coef.var, "variance": noise.var},
        {"coef": m, "variance": b / (a + 1 + len(m) / 2)},
    )  # fmt: skip


def _predictive(h: Values, k: Known, design: Any) -> _vector_laws.VectorLaw:
    x = _columns(design, len(h["mean"]))
    spread = np.eye(len(x)) + x @ np.linalg.solve(h["precision"], x.T)
    return _vector_laws.mvt(2 * h["shape"], x @ h["mean"], spread * h["scale"] / h["shape"])


def _known_absorb(h: Values, s: Values, k: Known) -> Values:
    gram = np.asarray(s["gram"]) / k["known_variance"]
    after, mean, _ = _step(h["mean"], np.linalg.inv(h["cov"]), gram, s["coef"])
    cov = np.linalg.inv(after)
    return {"mean": mean, "cov": (cov + cov.T) / 2}


def _known_evidence(h: Values, s: Values, k: Known) -> float:
    v = k["known_variance"]
    before = np.linalg.inv(h["cov"])
    after, _, gap = _step(h["mean"], before, np.asarray(s["gram"]) / v, s["coef"])
    log = -0.5 * s["n"] * math.log(2 * math.pi * v) - 0.5 * s["rss"] / v
    return float(log + 0.5 * (_log_det(before) - _log_det(after)) - 0.5 * gap)


def _known_joint(h: Values, k: Known) -> Joint:
    law = _vector_laws.mvn(h["mean"], h["cov"])
    return Joint(
        law.logpdf, lambda rng, size: (law.draw(rng, size),), {"coef": law.marginals},
        {"coef": law.mean}, {"coef": law.var}, {"coef": law.mean},
    )  # fmt: skip


def _known_predictive(h: Values, k: Known, design: Any) -> _vector_laws.VectorLaw:
    x = _columns(design, len(h["mean"]))
    return _vector_laws.mvn(
        x @ h["mean"], x @ h["cov"] @ x.T + k["known_variance"] * np.eye(len(x))
    )


PAIRS = [
    Pair(
        "linear_regression", "linear regression", "normal-inverse gamma", ("coef", "variance"),
        {"mean": "vector", "precision": "matrix", "shape": "positive", "scale": "positive"}, {},
        ("n", "gram", "coef", "rss"), _count, _absorb, _evidence, _joint, _predictive,
        ("design",), {}, width="mean",
    ),
    Pair(
        "linear_regression_known_variance", "linear regression, known variance",
        "multivariate normal", ("coef",), {"mean": "vector", "cov": "matrix"},
        {"known_variance": "positive"}, ("n", "gram", "coef", "rss"), _count, _known_absorb,
        _known_evidence, _known_joint, _known_predictive, ("design",), {}, width="mean",
    ),
]  # fmt: skip
