r"""Pairs with several unknowns: proportions, mean with variance, covariance matrices, regression.

The normal with unknown mean and variance, prior $\mu \mid \sigma^2 \sim N(m, \sigma^2 / k)$,
$\sigma^2 \sim$ inverse gamma (a, b), is updated by n, $\bar x$ and $S = \sum (x - \bar x)^2$:

$$ k_n = k + n, \quad m_n = \frac{k m + n \bar x}{k_n}, \quad a_n = a + \tfrac n2, \quad
   b_n = b + \tfrac12 S + \frac{k n (\bar x - m)^2}{2 k_n} , $$

$$ \log p(x) = \log\frac{\Gamma(a_n)\, b^a \sqrt{k}}{\Gamma(a)\, b_n^{a_n} \sqrt{k_n}}
   - \tfrac n2 \log 2\pi . $$

A covariance matrix has the inverse Wishart in place of the inverse gamma, a regression the normal
equations in place of n and the mean. Sums of squares are taken about the mean, never raw.

References:
    Gelman et al. (2013), Bayesian Data Analysis, sections 3.3-3.6, 14.2, 14.8.
    Murphy (2007), "Conjugate Bayesian analysis of the Gaussian distribution", sections 3, 6, 8, 9.

Shapes: n rows, p columns or coefficients.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import special

from paragone.estimation import _laws, _vector_laws
from paragone.estimation._conjugate_forms import Joint, Known, Pair, Values, sample, weigh
from paragone.estimation._conjugate_scalar import beta_binomial
from paragone.estimation._laws import Law

__all__ = ["PAIRS"]

INF = math.inf


# Proportions.


def _dirichlet(h: Values, k: Known) -> Joint:
    alpha = h["alpha"]
    total, norm = alpha.sum(), special.gammaln(h["alpha"]).sum() - special.gammaln(alpha.sum())
    share = alpha / total

    def log_density(p: Any) -> Any:
        p = np.asarray(p, np.float64)
        good = (p >= 0).all(-1) & (np.abs(p.sum(-1) - 1) < 1e-9)
        value = special.xlogy(alpha - 1, np.where(good[..., None], p, share)).sum(-1) - norm
        return np.where(good, value, -INF)[()]

    laws = np.empty(len(alpha), object)
    laws[:] = [_laws.beta(float(a), float(total - a)) for a in alpha]
    peak = (alpha - 1) / (total - len(alpha)) if alpha.min() > 1 else np.full(len(alpha), np.nan)
    return Joint(
        log_density, lambda rng, size: (rng.dirichlet(alpha, size),), {"p": laws}, {"p": share},
        {"p": share * (1 - share) / (total + 1)}, {"p": peak},
    )  # fmt: skip


def _proportions(name: str, likelihood: str, count: Any, predictive: Any, more: Any) -> Pair:
    def evidence(h: Values, s: Values, k: Known) -> float:
        alpha, seen = h["alpha"], np.asarray(s["counts"])
        value = special.gammaln(alpha + seen) - special.gammaln(alpha)
        total = alpha.sum()
        return float(value.sum() + special.gammaln(total) - special.gammaln(total + seen.sum()))

    return Pair(
        name, likelihood, "Dirichlet", ("p",), {"alpha": "positive_vector"}, {}, ("counts",),
        count, lambda h, s, k: {"alpha": h["alpha"] + np.asarray(s["counts"])}, evidence,
        _dirichlet, predictive, (), {}, more, "alpha",
    )  # fmt: skip


def _category_count(data: Any, known: Known, weights: Any = None, *, width: int) -> Values:
    x, w = sample(data, weights, 0, width - 1, whole=True)
    return {"counts": np.bincount(x.astype(np.int64), w, width), "n": float(w.sum()),
            "log_base": 0.0}  # fmt: skip


def _multinomial_count(data: Any, known: Known, weights: Any = None, *, width: int) -> Values:
    x = np.atleast_2d(np.asarray(data, np.float64))
    if x.ndim != 2 or x.shape[1] != width or not x.size:
        raise ValueError(f"data of shape {np.shape(data)}: rows of {width} counts are expected")
    if not (np.isfinite(x).all() and x.min() >= 0 and (x == np.floor(x)).all()):
        raise ValueError("counts must be whole numbers from 0")
    w = weigh(weights, len(x))
    base = special.gammaln(x.sum(1) + 1) - special.gammaln(x + 1).sum(1)
    return {"counts": w @ x, "n": float(w.sum()), "log_base": float(w @ base)}


def _next_category(h: Values, k: Known) -> Law:
    share = h["alpha"] / h["alpha"].sum()
    labels = np.arange(len(share))
    mean = float(share @ labels)
    return _laws.counts(
        "categorical", (0, len(share) - 1), lambda x: np.log(share[np.asarray(x, np.int64)]),
        lambda rng, size: rng.choice(labels, size, p=share).astype(np.float64),
        lambda: (mean, float(share @ (labels - mean) ** 2)),
    )  # fmt: skip


def _next_counts(h: Values, k: Known, trials: int = 1) -> _vector_laws.VectorLaw:
    return _vector_laws.dirichlet_multinomial(
        h["alpha"], int(trials), lambda a, b: beta_binomial(a, b, float(trials))
    )


_PROPORTIONS = [
    _proportions("categorical", "categorical, labels from 0", _category_count, _next_category,
                 lambda x, k, p: np.log(np.asarray(p)[np.asarray(x, np.int64)])),
    _proportions("multinomial", "multinomial, rows of counts", _multinomial_count, _next_counts,
                 lambda x, k, p: special.gammaln(np.sum(x) + 1) - special.gammaln(
                     np.asarray(x) + 1).sum() + special.xlogy(x, p).sum()),
]  # fmt: skip


# Mean and variance, or mean and precision.


def _spread_pair(name: str, likelihood: str, sign: float, log: bool = False) -> Pair:
    unknown = "variance" if sign < 0 else "precision"
    rate = "scale" if sign < 0 else "rate"

    def count(data: Any, known: Known, weights: Any = None) -> Values:
        x, w = sample(data, weights, 0 if log else -INF, INF, open=log)
        y, n = np.log(x) if log else x, float(w.sum())
        mean = float(w @ y) / n
        return {"n": n, "mean": mean, "squares": float(w @ (y - mean) ** 2),
                "log_base": -float(w @ y) if log else 0.0}  # fmt: skip

    def absorb(h: Values, s: Values, k: Known) -> Values:
        n, gap = s["n"], s["mean"] - h["mean"]
        total = h["count"] + n
        return {
            "mean": h["mean"] + gap * n / total, "count": total, "shape": h["shape"] + n / 2,
            rate: h[rate] + 0.5 * s["squares"] + 0.5 * h["count"] * n / total * gap**2,
        }  # fmt: skip

    def evidence(h: Values, s: Values, k: Known) -> float:
        after, n = absorb(h, s, k), s["n"]
        value = special.gammaln(after["shape"]) - special.gammaln(h["shape"])
        value += 0.5 * math.log(h["count"] / after["count"]) - 0.5 * n * math.log(2 * math.pi)
        return float(
            value + h["shape"] * math.log(h[rate]) - after["shape"] * math.log(after[rate])
        )

    def joint(h: Values, k: Known) -> Joint:
        m, c, a, b = h["mean"], h["count"], h["shape"], h[rate]
        spread, place = _laws.gamma_power(a, b, sign), _laws.student_t(2 * a, m, (b / a / c) ** 0.5)

        def log_density(mean: Any, value: Any) -> Any:
            value = np.asarray(value, np.float64)
            variance = np.where(value > 0, value, 1.0) ** -sign
            log = -0.5 * np.log(2 * math.pi * variance / c)
            log = log - 0.5 * c * (np.asarray(mean) - m) ** 2 / variance
            return (log + spread.logpdf(value))[()]

        def draw(rng: np.random.Generator, size: Any) -> tuple[Any, ...]:
            value = spread.draw(rng, size)
            return rng.normal(m, np.sqrt(value**-sign / c), size), value

        peak = b / (a + 1.5) if sign < 0 else max(a - 0.5, 0.0) / b
        return Joint(
            log_density, draw, {"mean": place, unknown: spread},
            {"mean": place.mean, unknown: spread.mean}, {"mean": place.var, unknown: spread.var},
            {"mean": m, unknown: peak},
        )  # fmt: skip

    def predictive(h: Values, k: Known) -> Law:
        a, c = h["shape"], h["count"]
        law = _laws.student_t(2 * a, h["mean"], math.sqrt(h[rate] / a * (1 + 1 / c)))
        if not log:
            return law
        return _laws.changed(law, "log t", (0.0, INF), np.log, np.exp, lambda x: -np.log(x),
                             lambda: (INF, INF))  # fmt: skip

    def log_likelihood(x: Any, k: Known, mean: float, value: float) -> Any:
        y = np.log(x) if log else x
        found = _laws.normal(mean, value**-sign).log_density(y)
        return found - y if log else found

    return Pair(
        name, likelihood, f"normal-{'inverse ' if sign < 0 else ''}gamma", ("mean", unknown),
        {"mean": "real", "count": "positive", "shape": "positive", rate: "positive"}, {},
        ("n", "mean", "squares"), count, absorb, evidence, joint, predictive, (), {},
        log_likelihood,
    )  # fmt: skip


_SPREADS = [
    _spread_pair("normal", "normal", -1.0), _spread_pair("normal_gamma", "normal", 1.0),
    _spread_pair("lognormal", "lognormal", -1.0, log=True),
    _spread_pair("lognormal_gamma", "lognormal", 1.0, log=True),
]  # fmt: skip


# Vectors of observations.


def _rows(data: Any, weights: Any, width: int) -> tuple[np.ndarray, np.ndarray]:
    x = np.atleast_2d(np.asarray(data, np.float64))
    if x.ndim != 2 or x.shape[1] != width or not x.size:
        raise ValueError(f"data of shape {np.shape(data)}: rows of {width} numbers are expected")
    if not np.isfinite(x).all():
        raise ValueError("data hold NaN or infinite numbers: remove those rows")
    return x, weigh(weights, len(x))


def _row_count(data: Any, known: Known, weights: Any = None, *, width: int) -> Values:
    x, w = _rows(data, weights, width)
    mean = w @ x / w.sum()
    gap = x - mean
    return {"n": float(w.sum()), "mean": mean, "scatter": (w[:, None] * gap).T @ gap,
            "log_base": 0.0}  # fmt: skip


def _log_det(matrix: np.ndarray) -> float:
    return 2 * float(np.log(np.diagonal(np.linalg.cholesky(matrix))).sum())


def _vector_mean() -> Pair:
    def absorb(h: Values, s: Values, k: Known) -> Values:
        before, precision = np.linalg.inv(h["cov"]), np.linalg.inv(k["known_cov"])
        cov = np.linalg.inv(before + s["n"] * precision)
        gap = s["n"] * precision @ (np.asarray(s["mean"]) - h["mean"])
        return {"mean": h["mean"] + cov @ gap, "cov": (cov + cov.T) / 2}

    def evidence(h: Values, s: Values, k: Known) -> float:
        noise, n, p = k["known_cov"], s["n"], len(h["mean"])
        spread = np.linalg.solve(noise, np.asarray(s["scatter"])).trace()
        log = -0.5 * (n - 1) * (p * math.log(2 * math.pi) + _log_det(noise)) - 0.5 * spread
        center = _vector_laws.mvn(h["mean"], h["cov"] + noise / n)
        return float(log - 0.5 * p * math.log(n) + center.logpdf(s["mean"]))

    def joint(h: Values, k: Known) -> Joint:
        law = _vector_laws.mvn(h["mean"], h["cov"])
        return Joint(
            law.logpdf, lambda rng, size: (law.draw(rng, size),), {"mean": law.marginals},
            {"mean": law.mean}, {"mean": law.var}, {"mean": law.mean},
        )  # fmt: skip

    return Pair(
        "multivariate_normal_mean", "multivariate normal, known covariance",
        "multivariate normal", ("mean",), {"mean": "vector", "cov": "matrix"},
        {"known_cov": "matrix"}, ("n", "mean", "scatter"), _row_count, absorb, evidence, joint,
        lambda h, k: _vector_laws.mvn(h["mean"], h["cov"] + k["known_cov"]), (), {},
        lambda x, k, mean: _vector_laws.mvn(np.asarray(mean), k["known_cov"]).logpdf(x),
        "mean",
    )  # fmt: skip


def _matrix_moments(df: float, psi: np.ndarray, inverse: bool) -> tuple[Any, Any, Any, Any]:
    """Laws (p, p) or None, mean, variance and mode of a (inverse) Wishart of scale psi."""
    p = len(psi)
    own = np.diagonal(psi)
    laws, cross = np.full((p, p), None, object), np.outer(own, own)
    nan = np.full((p, p), np.nan)
    free = df - p + 1
    for i in range(p):
        laws[i, i] = (
            _laws.gamma_power(free / 2, own[i] / 2, -1.0) if inverse
            else _laws.gamma_power(df / 2, 0.5 / own[i])
        )  # fmt: skip
    if not inverse:
        mode = (df - p - 1) * psi if df > p + 1 else nan
        return laws, df * psi, df * (psi**2 + cross), mode
    mean = psi / (df - p - 1) if df > p + 1 else nan
    var = nan
    if df > p + 3:
        var = ((df - p + 1) * psi**2 + (df - p - 1) * cross) / (
            (df - p) * (df - p - 1) ** 2 * (df - p - 3)
        )
    return laws, mean, var, psi / (df + p + 1)


def _matrix_log(df: float, psi: np.ndarray, inverse: bool) -> Callable[[Any], float]:
    """Log density of one (inverse) Wishart matrix of scale psi."""
    p = len(psi)
    norm = _vector_laws.wishart_log_norm(df, -_log_det(psi) if inverse else _log_det(psi), p)

    def log_density(matrix: Any) -> float:
        matrix = np.asarray(matrix, np.float64)
        if np.linalg.eigvalsh(matrix)[0] <= 0:
            return -INF
        if inverse:
            trace = np.linalg.solve(matrix, psi).trace()
            return -0.5 * (df + p + 1) * _log_det(matrix) - 0.5 * float(trace) - norm
        trace = np.linalg.solve(psi, matrix).trace()
        return 0.5 * (df - p - 1) * _log_det(matrix) - 0.5 * float(trace) - norm

    return log_density


def _mean_and_matrix(h: Values, inverse: bool) -> tuple[Any, Any]:
    """(log density, sampler) of a mean that is normal given the (inverse) Wishart matrix."""
    log_matrix = _matrix_log(h["df"], h["scale"], inverse)
    draws = _vector_laws.inverse_wishart_draws if inverse else _vector_laws.wishart_draws

    def log_density(center: Any, matrix: Any) -> float:
        log = log_matrix(matrix)
        if log == -INF:
            return log
        cov = np.asarray(matrix) if inverse else np.linalg.inv(matrix)
        return log + float(_vector_laws.mvn(h["mean"], cov / h["count"]).logpdf(center))

    def draw(rng: np.random.Generator, size: Any) -> tuple[Any, ...]:
        matrix = draws(rng, h["df"], h["scale"], size)
        cov = matrix if inverse else np.linalg.inv(matrix)
        z = rng.standard_normal((*matrix.shape[:-1], 1))
        step = np.linalg.cholesky(cov / h["count"]) @ z
        return h["mean"] + step[..., 0], matrix

    return log_density, draw


def _matrix_pair(name: str, *, inverse: bool, mean_known: bool) -> Pair:
    """Covariance (inverse Wishart) or precision (Wishart), the mean known or normal given it."""
    unknown = "cov" if inverse else "precision"

    def psi_of(h: Values) -> np.ndarray:
        return h["scale"] if inverse else np.linalg.inv(h["scale"])

    def pack(psi: np.ndarray) -> np.ndarray:
        matrix = psi if inverse else np.linalg.inv(psi)
        return (matrix + matrix.T) / 2

    def absorb(h: Values, s: Values, k: Known) -> Values:
        n, place = s["n"], k["known_mean"] if mean_known else h["mean"]
        gap = np.asarray(s["mean"]) - place
        psi = psi_of(h) + np.asarray(s["scatter"])
        if mean_known:
            return {"df": h["df"] + n, "scale": pack(psi + n * np.outer(gap, gap))}
        total = h["count"] + n
        psi = psi + h["count"] * n / total * np.outer(gap, gap)
        return {"mean": h["mean"] + gap * n / total, "count": total, "df": h["df"] + n,
                "scale": pack(psi)}  # fmt: skip

    def evidence(h: Values, s: Values, k: Known) -> float:
        after, p, n = absorb(h, s, k), len(h["scale"]), s["n"]
        log = _vector_laws.wishart_log_norm(after["df"], -_log_det(psi_of(after)), p)
        log -= _vector_laws.wishart_log_norm(h["df"], -_log_det(psi_of(h)), p)
        if not mean_known:
            log += 0.5 * p * math.log(h["count"] / after["count"])
        return log - 0.5 * n * p * math.log(2 * math.pi)

    def joint(h: Values, k: Known) -> Joint:
        df, scale, p = h["df"], h["scale"], len(h["scale"])
        laws, mean, var, mode = _matrix_moments(df, scale, inverse)
        log_matrix = _matrix_log(df, scale, inverse)
        draws = _vector_laws.inverse_wishart_draws if inverse else _vector_laws.wishart_draws
        if mean_known:
            return Joint(
                log_matrix, lambda rng, size: (draws(rng, df, scale, size),), {unknown: laws},
                {unknown: mean}, {unknown: var}, {unknown: mode},
            )  # fmt: skip
        place = _vector_laws.mvt(df - p + 1, h["mean"], psi_of(h) / (h["count"] * (df - p + 1)))
        peak = scale / (df + p + 2) if inverse else (df - p) * scale if df > p else mode
        return Joint(
            *_mean_and_matrix(h, inverse), {"mean": place.marginals, unknown: laws},
            {"mean": place.mean, unknown: mean}, {"mean": place.var, unknown: var},
            {"mean": h["mean"], unknown: peak},
        )  # fmt: skip

    def predictive(h: Values, k: Known) -> _vector_laws.VectorLaw:
        free, psi = h["df"] - len(h["scale"]) + 1, psi_of(h)
        if mean_known:
            return _vector_laws.mvt(free, k["known_mean"], psi / free)
        return _vector_laws.mvt(free, h["mean"], psi * (1 + 1 / h["count"]) / free)

    def log_likelihood(x: Any, k: Known, *unknowns: Any) -> Any:
        matrix = unknowns[-1] if inverse else np.linalg.inv(unknowns[-1])
        place = k["known_mean"] if mean_known else unknowns[0]
        return _vector_laws.mvn(np.asarray(place), np.asarray(matrix)).logpdf(x)

    wishart = ("inverse " if inverse else "") + "Wishart"
    hyper = {"df": "positive", "scale": "matrix"}
    if mean_known:
        return Pair(
            name, "multivariate normal, known mean", wishart, (unknown,), hyper,
            {"known_mean": "vector"}, ("n", "mean", "scatter"), _row_count, absorb, evidence,
            joint, predictive, (), {}, log_likelihood, "scale",
        )  # fmt: skip
    return Pair(
        name, "multivariate normal", f"normal-{wishart}", ("mean", unknown),
        {"mean": "vector", "count": "positive", **hyper}, {}, ("n", "mean", "scatter"),
        _row_count, absorb, evidence, joint, predictive, (), {}, log_likelihood, "scale",
    )  # fmt: skip


_MATRICES = [
    _vector_mean(),
    _matrix_pair("multivariate_normal_cov", inverse=True, mean_known=True),
    _matrix_pair("multivariate_normal_precision", inverse=False, mean_known=True),
    _matrix_pair("multivariate_normal", inverse=True, mean_known=False),
    _matrix_pair("multivariate_normal_wishart", inverse=False, mean_known=False),
]

PAIRS = [*_PROPORTIONS, *_SPREADS, *_MATRICES]
