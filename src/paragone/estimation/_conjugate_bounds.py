r"""Pairs whose unknown is a bound of the support, or a direction.

Uniform on $(0, \theta)$ with a Pareto prior: $p(\theta) = k m^k \theta^{-k-1}$ for
$\theta \ge m$; the posterior has $k_n = k + n$, $m_n = \max(m, x)$, and

$$ p(x) = \frac{k m^k}{k_n m_n^{k_n}} . $$

A Pareto minimum with known shape $\alpha$ mirrors it: $p(\theta) = k \theta^{k-1} u^{-k}$ up to u.
A von Mises mean direction with known concentration adds vectors: $R_n e^{i\mu_n} = R e^{i\mu} +
\kappa \sum e^{i x}$.

References:
    DeGroot (1970), Optimal Statistical Decisions, section 9.7.
    Arnold and Press (1989), "Bayesian estimation and prediction for Pareto data".
    Mardia and El-Atoum (1976), "Bayesian inference for the von Mises-Fisher distribution".
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import special

from paragone.estimation import _laws
from paragone.estimation._conjugate_forms import Known, Pair, Values, from_law, sample
from paragone.estimation._laws import Law

__all__ = ["PAIRS"]

INF = math.inf


def _pareto(k: float, m: float) -> Law:
    mean = k * m / (k - 1) if k > 1 else INF
    var = m * m * k / ((k - 1) ** 2 * (k - 2)) if k > 2 else INF
    return Law(
        "Pareto", (m, INF), lambda x: math.log(k) + k * math.log(m) - (k + 1) * np.log(x),
        lambda x: -np.expm1(k * np.log(m / x)), lambda q: m * np.exp(-np.log1p(-q) / k),
        lambda rng, size: m * np.exp(rng.exponential(1 / k, size)), lambda: (mean, var), m,
    )  # fmt: skip


def _power(k: float, u: float) -> Law:
    mean = k * u / (k + 1)
    return Law(
        "power function", (0.0, u), lambda x: math.log(k) - k * math.log(u) + (k - 1) * np.log(x),
        lambda x: (x / u) ** k, lambda q: u * q ** (1 / k),
        lambda rng, size: u * np.exp(-rng.exponential(1 / k, size)),
        lambda: (mean, k * u * u / ((k + 2) * (k + 1) ** 2)),
        u if k > 1 else 0.0 if k < 1 else math.nan,
    )  # fmt: skip


def _kinked(k: float, alpha: float, u: float, tail: float) -> Law:
    """Density $x^{\\alpha - 1}$ up to u, $x^{-k-1}$ beyond, continuous in weight `tail` at u."""
    head = 1 - tail

    def log_density(x: np.ndarray) -> np.ndarray:
        low = math.log(head * alpha) - alpha * math.log(u) + (alpha - 1) * np.log(x)
        high = math.log(tail * k) + k * math.log(u) - (k + 1) * np.log(x)
        return np.where(x <= u, low, high)

    def cumulative(x: np.ndarray) -> np.ndarray:
        return np.where(x <= u, head * (x / u) ** alpha, 1 - tail * (u / np.maximum(x, u)) ** k)

    def inverse(q: np.ndarray) -> np.ndarray:
        low = u * (np.minimum(q, head) / head) ** (1 / alpha)
        return np.where(q <= head, low, u * (np.maximum(1 - q, 1e-300) / tail) ** (-1 / k))

    def moments() -> tuple[float, float]:
        def raw(s: int) -> float:
            if s >= k:
                return INF
            return u**s * (head * alpha / (alpha + s) + tail * k / (k - s))

        return raw(1), raw(2) - raw(1) ** 2 if k > 2 else INF

    return Law(
        "predictive", (0.0, INF), log_density, cumulative, inverse,
        lambda rng, size: inverse(rng.random(size)), moments, u if alpha > 1 else math.nan,
    )  # fmt: skip


def _uniform_count(data: Any, known: Known, weights: Any = None) -> Values:
    x, w = sample(data, weights, 0, INF)
    return {"n": float(w.sum()), "maximum": float(x[w > 0].max()), "log_base": 0.0}


def _uniform_absorb(h: Values, s: Values, k: Known) -> Values:
    return {"shape": h["shape"] + s["n"], "minimum": max(h["minimum"], s["maximum"])}


def _uniform_evidence(h: Values, s: Values, k: Known) -> float:
    after = _uniform_absorb(h, s, k)
    log = math.log(h["shape"] / after["shape"]) + h["shape"] * math.log(h["minimum"])
    return log - after["shape"] * math.log(after["minimum"])


_UNIFORM = Pair(
    "uniform", "uniform on (0, bound)", "Pareto", ("bound",),
    {"shape": "positive", "minimum": "positive"}, {}, ("n", "maximum"), _uniform_count,
    _uniform_absorb, _uniform_evidence,
    lambda h, k: from_law("bound", _pareto(h["shape"], h["minimum"])),
    lambda h, k: _kinked(h["shape"], 1.0, h["minimum"], 1 / (h["shape"] + 1)), (), {},
    lambda x, k, bound: np.where((x >= 0) & (x <= bound), -math.log(bound), -INF),
)  # fmt: skip


def _minimum_count(data: Any, known: Known, weights: Any = None) -> Values:
    x, w = sample(data, weights, 0, INF, open=True)
    a = known["known_shape"]
    base = float(w @ (math.log(a) - (a + 1) * np.log(x)))
    return {"n": float(w.sum()), "minimum": float(x[w > 0].min()), "log_base": base}


def _minimum_absorb(h: Values, s: Values, k: Known) -> Values:
    return {"shape": h["shape"] + s["n"] * k["known_shape"],
            "maximum": min(h["maximum"], s["minimum"])}  # fmt: skip


def _minimum_evidence(h: Values, s: Values, k: Known) -> float:
    after = _minimum_absorb(h, s, k)
    log = math.log(h["shape"] / after["shape"]) - h["shape"] * math.log(h["maximum"])
    return log + after["shape"] * math.log(after["maximum"])


_MINIMUM = Pair(
    "pareto_minimum", "Pareto, known shape", "power function", ("minimum",),
    {"shape": "positive", "maximum": "positive"}, {"known_shape": "positive"}, ("n", "minimum"),
    _minimum_count, _minimum_absorb, _minimum_evidence,
    lambda h, k: from_law("minimum", _power(h["shape"], h["maximum"])),
    lambda h, k: _kinked(
        k["known_shape"], h["shape"], h["maximum"], h["shape"] / (h["shape"] + k["known_shape"])
    ),
    (), {},
    lambda x, k, low: np.where(
        x >= low, math.log(k["known_shape"]) + k["known_shape"] * math.log(low)
        - (k["known_shape"] + 1) * np.log(x), -INF,
    ),
)  # fmt: skip


# Directions.


def _log_i0(x: Any) -> Any:
    return np.log(special.i0e(x)) + x


def _circular(log_density: Any, draw: Any, mean: float, sharpness: float) -> Law:
    """A law on [-pi, pi]; the panels of its integral are finer than its peak."""
    panels = int(min(100 + 20 * math.sqrt(sharpness), 20_000))
    cumulative = _laws.integrated(log_density, -math.pi, math.pi, panels)
    x = np.linspace(-math.pi, math.pi, 10 * panels + 1)
    weight = np.exp(log_density(x)) * (x[1] - x[0])
    weight[0] = weight[-1] = weight[0] / 2
    first = float(weight @ x)
    return Law(
        "circular", (-math.pi, math.pi), log_density, cumulative,
        _laws.searched(cumulative, -math.pi, math.pi), draw,
        lambda: (first, float(weight @ (x - first) ** 2)), mean,
    )  # fmt: skip


def _direction_law(h: Values, k: Known) -> Law:
    mu, r = h["mean"], h["concentration"]
    norm = -math.log(2 * math.pi) - _log_i0(r)
    return _circular(
        lambda x: norm + r * np.cos(x - mu), lambda rng, size: rng.vonmises(mu, r, size), mu, r
    )


def _direction_count(data: Any, known: Known, weights: Any = None) -> Values:
    x, w = sample(data, weights, -INF, INF)
    n = float(w.sum())
    base = -n * (math.log(2 * math.pi) + float(_log_i0(known["known_concentration"])))
    return {"n": n, "cosines": float(w @ np.cos(x)), "sines": float(w @ np.sin(x)),
            "log_base": base}  # fmt: skip


def _direction_absorb(h: Values, s: Values, k: Known) -> Values:
    kappa = k["known_concentration"]
    c = h["concentration"] * math.cos(h["mean"]) + kappa * s["cosines"]
    t = h["concentration"] * math.sin(h["mean"]) + kappa * s["sines"]
    return {"mean": math.atan2(t, c), "concentration": math.hypot(c, t)}


def _direction_predictive(h: Values, k: Known) -> Law:
    kappa, r, mu = k["known_concentration"], h["concentration"], h["mean"]
    norm = -math.log(2 * math.pi) - _log_i0(kappa) - _log_i0(r)

    def draw(rng: np.random.Generator, size: Any) -> np.ndarray:
        x = rng.vonmises(mu, r, size) + rng.vonmises(0.0, kappa, size)
        return np.mod(x + math.pi, 2 * math.pi) - math.pi

    return _circular(
        lambda x: norm + _log_i0(np.sqrt(kappa**2 + r**2 + 2 * kappa * r * np.cos(x - mu))),
        draw, mu, r,
    )  # fmt: skip


_DIRECTION = Pair(
    "von_mises", "von Mises, known concentration", "von Mises", ("mean",),
    {"mean": "real", "concentration": "nonnegative"}, {"known_concentration": "positive"},
    ("n", "cosines", "sines"), _direction_count, _direction_absorb,
    lambda h, s, k: float(
        _log_i0(_direction_absorb(h, s, k)["concentration"]) - _log_i0(h["concentration"])
    ),
    lambda h, k: from_law("mean", _direction_law(h, k)), _direction_predictive, (),
    {"mean": 0.0, "concentration": 0.0},
    lambda x, k, mean: k["known_concentration"] * np.cos(x - mean) - math.log(2 * math.pi)
    - _log_i0(k["known_concentration"]),
)  # fmt: skip

PAIRS = [_UNIFORM, _MINIMUM, _DIRECTION]
