"""The pairs with one unknown number, as data: what each likelihood puts into its form.

`_conjugate_forms` holds the three forms. Knowns begin with `known_`, except numbers of trials.
The rate of each gamma pair is the factor in the exponent; where a scale is usual it is named: the
precision of a Rayleigh law is $1/\\sigma^2$, the rate of a Weibull law $\\text{scale}^{-k}$.

References:
    Fink (1997), "A compendium of conjugate priors".
    Johnson, Kotz and Balakrishnan (1994), Continuous Univariate Distributions, vol. 1-2, for the
    densities and moments.
    Mardia and El-Atoum (1976), "Bayesian inference for the von Mises-Fisher distribution".
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import integrate, special

from paragone.estimation import _laws
from paragone.estimation._conjugate_forms import (
    Known,
    Pair,
    Values,
    beta_pair,
    from_law,
    gamma_pair,
    mean_pair,
    renamed,
    sample,
)  # fmt: skip
from paragone.estimation._laws import Law

__all__ = ["PAIRS", "beta_binomial"]

INF = math.inf
Real = tuple[float, float]


def _infinite(a: float, b: float, c: float, known: Known) -> Real:
    return INF, INF


def _raw(a: float, b: float, c: float, s: float) -> float:
    """Mean of T^s with T / b beta prime of (c, a)."""
    if a - s <= 0 or c + s <= 0:
        return INF
    return b**s * math.exp(special.betaln(c + s, a - s) - special.betaln(c, a))


def _power_moments(power: Any, factor: Any = lambda known: 1.0, offset: Any = lambda known: 0.0):
    """Moments of X = offset + (T / factor)^power."""

    def moments(a: float, b: float, c: float, known: Known) -> Real:
        p, scale = power(known), b / factor(known)
        mean, square = _raw(a, scale, c, p), _raw(a, scale, c, 2 * p)
        return mean + offset(known), square - mean**2 if math.isfinite(square) else INF

    return moments


def _two_sided(power: float, factor: float, center: str):
    """Moments of a law that is symmetric about its centre, |X - centre| = (T / factor)^power."""

    def moments(a: float, b: float, c: float, known: Known) -> Real:
        if math.isinf(_raw(a, b / factor, c, power)):
            return math.nan, math.nan
        return known[center], _raw(a, b / factor, c, 2 * power)

    return moments


def _gumbel_moments(a: float, b: float, c: float, known: Known) -> Real:
    scale = known["known_scale"]
    mean = -scale * (math.log(b) + special.digamma(c) - special.digamma(a))
    return mean, scale**2 * (special.polygamma(1, c) + special.polygamma(1, a))


def _half(known: Known) -> float:
    return 0.5


def _log_base_normal(x: Any, known: Known) -> Any:
    return np.full(np.shape(x), -0.5 * math.log(2 * math.pi))


_NORMAL = {
    "log_base": _log_base_normal, "power": _half, "side": "symmetric",
    "statistic": lambda x, k: 0.5 * (x - k["known_mean"]) ** 2,
    "back": lambda t, k: k["known_mean"] + np.sqrt(2 * t), "support": (-INF, INF),
    "center": lambda k: k["known_mean"], "known": {"known_mean": "real"},
    "moments": _two_sided(0.5, 0.5, "known_mean"),
}  # fmt: skip
_EXPONENTIAL = {
    "log_base": lambda x, k: np.zeros(np.shape(x)), "statistic": lambda x, k: x, "power": None,
    "back": lambda t, k: t, "moments": _power_moments(lambda k: 1.0), "censoring": True,
    "open": False,
}  # fmt: skip
_WEIBULL = {
    "log_base": lambda x, k: math.log(k["known_shape"]) + (k["known_shape"] - 1) * np.log(x),
    "statistic": lambda x, k: x ** k["known_shape"], "power": None,
    "back": lambda t, k: t ** (1 / k["known_shape"]), "known": {"known_shape": "positive"},
    "moments": _power_moments(lambda k: 1 / k["known_shape"]), "censoring": True,
}  # fmt: skip
_RAYLEIGH = {
    "log_base": lambda x, k: np.log(x), "statistic": lambda x, k: 0.5 * x * x, "power": None,
    "back": lambda t, k: np.sqrt(2 * t), "moments": _power_moments(_half, _half),
    "censoring": True,
}  # fmt: skip
_MAXWELL = {
    "log_base": lambda x, k: 0.5 * math.log(2 / math.pi) + 2 * np.log(x), "power": lambda k: 1.5,
    "statistic": lambda x, k: 0.5 * x * x, "back": lambda t, k: np.sqrt(2 * t),
    "moments": _power_moments(_half, _half),
}  # fmt: skip
_LAPLACE = {
    "log_base": lambda x, k: np.full(np.shape(x), -math.log(2)), "power": None,
    "statistic": lambda x, k: np.abs(x - k["known_loc"]), "side": "symmetric",
    "back": lambda t, k: k["known_loc"] + t, "support": (-INF, INF),
    "center": lambda k: k["known_loc"], "known": {"known_loc": "real"},
    "moments": _two_sided(1.0, 1.0, "known_loc"),
}  # fmt: skip
_LOGNORMAL = {
    "log_base": lambda x, k: _log_base_normal(x, k) - np.log(x), "power": _half,
    "statistic": lambda x, k: 0.5 * (np.log(x) - k["known_mean"]) ** 2, "side": "log_symmetric",
    "back": lambda t, k: np.exp(k["known_mean"] + np.sqrt(2 * t)),
    "center": lambda k: math.exp(k["known_mean"]), "known": {"known_mean": "real"},
    "moments": _infinite,
}  # fmt: skip
_GAMMA = {
    "log_base": lambda x, k: (k["known_shape"] - 1) * np.log(x) - special.gammaln(k["known_shape"]),
    "statistic": lambda x, k: x, "power": lambda k: k["known_shape"], "back": lambda t, k: t,
    "known": {"known_shape": "positive"}, "moments": _power_moments(lambda k: 1.0),
}  # fmt: skip

_GAMMA_FORM = [
    gamma_pair("exponential", "exponential", "rate", **_EXPONENTIAL),
    gamma_pair("exponential_scale", "exponential", "scale", inverse=True, **_EXPONENTIAL),
    gamma_pair("gamma_rate", "gamma, known shape", "rate", **_GAMMA),
    gamma_pair("gamma_scale", "gamma, known shape", "scale", inverse=True, **_GAMMA),
    gamma_pair("weibull_rate", "Weibull, known shape", "rate", **_WEIBULL),
    gamma_pair("weibull_scale", "Weibull, known shape k; unknown scale^k", "scale_power",
               inverse=True, **_WEIBULL),
    gamma_pair("normal_precision", "normal, known mean", "precision", **_NORMAL),
    gamma_pair("normal_variance", "normal, known mean", "variance", inverse=True, **_NORMAL),
    gamma_pair("lognormal_precision", "lognormal, known log mean", "precision", **_LOGNORMAL),
    gamma_pair("lognormal_variance", "lognormal, known log mean", "variance", inverse=True,
               **_LOGNORMAL),
    gamma_pair("rayleigh_precision", "Rayleigh", "precision", **_RAYLEIGH),
    gamma_pair("rayleigh_variance", "Rayleigh", "variance", inverse=True, **_RAYLEIGH),
    gamma_pair("maxwell_precision", "Maxwell", "precision", **_MAXWELL),
    gamma_pair("maxwell_variance", "Maxwell", "variance", inverse=True, **_MAXWELL),
    gamma_pair("laplace_rate", "Laplace, known location", "rate", **_LAPLACE),
    gamma_pair("laplace_scale", "Laplace, known location", "scale", inverse=True, **_LAPLACE),
    gamma_pair(
        "half_normal", "half-normal", "precision", power=_half, open=False,
        log_base=lambda x, k: _log_base_normal(x, k) + math.log(2),
        statistic=lambda x, k: 0.5 * x * x, back=lambda t, k: np.sqrt(2 * t),
        moments=_power_moments(_half, _half),
    ),
    gamma_pair(
        "inverse_gamma_scale", "inverse gamma, known shape", "scale",
        power=lambda k: k["known_shape"], known={"known_shape": "positive"}, side="decreasing",
        log_base=lambda x, k: -(k["known_shape"] + 1) * np.log(x)
        - special.gammaln(k["known_shape"]),
        statistic=lambda x, k: 1 / x, back=lambda t, k: 1 / t,
        moments=_power_moments(lambda k: -1.0),
    ),
    gamma_pair(
        "generalized_gamma", "generalised gamma, known shapes", "rate",
        power=lambda k: k["known_shape"] / k["known_power"],
        known={"known_shape": "positive", "known_power": "positive"},
        log_base=lambda x, k: math.log(k["known_power"]) + (k["known_shape"] - 1) * np.log(x)
        - special.gammaln(k["known_shape"] / k["known_power"]),
        statistic=lambda x, k: x ** k["known_power"],
        back=lambda t, k: t ** (1 / k["known_power"]),
        moments=_power_moments(lambda k: 1 / k["known_power"]),
    ),
    gamma_pair(
        "levy", "Levy, known location", "scale", power=_half, known={"known_loc": "real"},
        defaults={"known_loc": 0.0}, side="decreasing",
        log_base=lambda x, k: _log_base_normal(x, k) - 1.5 * np.log(x - k["known_loc"]),
        statistic=lambda x, k: 0.5 / (x - k["known_loc"]),
        back=lambda t, k: k["known_loc"] + 0.5 / t, support=lambda k: (k["known_loc"], INF),
        moments=_infinite,
    ),
    gamma_pair(
        "nakagami", "Nakagami, known shape", "inverse_spread", power=lambda k: k["known_shape"],
        known={"known_shape": "positive"},
        log_base=lambda x, k: math.log(2) + special.xlogy(k["known_shape"], k["known_shape"])
        - special.gammaln(k["known_shape"]) + (2 * k["known_shape"] - 1) * np.log(x),
        statistic=lambda x, k: k["known_shape"] * x * x,
        back=lambda t, k: np.sqrt(t / k["known_shape"]),
        moments=_power_moments(_half, lambda k: k["known_shape"]),
    ),
    gamma_pair(
        "power_function", "power function on (0, 1)", "exponent", power=None, support=(0, 1),
        log_base=lambda x, k: -np.log(x), statistic=lambda x, k: -np.log(x),
        back=lambda t, k: np.exp(-t), side="decreasing",
    ),
    gamma_pair(
        "pareto_shape", "Pareto, known minimum", "shape", power=None, open=False,
        known={"known_minimum": "positive"}, censoring=True, moments=_infinite,
        log_base=lambda x, k: -np.log(x), support=lambda k: (k["known_minimum"], INF),
        statistic=lambda x, k: np.log(x / k["known_minimum"]),
        back=lambda t, k: k["known_minimum"] * np.exp(t),
    ),
    gamma_pair(
        "lomax", "Lomax, known scale", "shape", power=None, known={"known_scale": "positive"},
        log_base=lambda x, k: -np.log(k["known_scale"] + x), open=False, censoring=True,
        statistic=lambda x, k: np.log1p(x / k["known_scale"]),
        back=lambda t, k: k["known_scale"] * np.expm1(t), moments=_infinite,
    ),
    gamma_pair(
        "burr", "Burr XII, known first shape", "shape", power=None, censoring=True,
        known={"known_shape": "positive"}, moments=_infinite,
        log_base=lambda x, k: math.log(k["known_shape"]) + (k["known_shape"] - 1) * np.log(x)
        - np.log1p(x ** k["known_shape"]),
        statistic=lambda x, k: np.log1p(x ** k["known_shape"]),
        back=lambda t, k: np.expm1(t) ** (1 / k["known_shape"]),
    ),
    gamma_pair(
        "gumbel", "Gumbel, known scale s; unknown exp(location / s)", "location_factor",
        power=None, known={"known_scale": "positive"}, support=(-INF, INF), side="decreasing",
        log_base=lambda x, k: -x / k["known_scale"] - math.log(k["known_scale"]),
        statistic=lambda x, k: np.exp(-x / k["known_scale"]),
        back=lambda t, k: -k["known_scale"] * np.log(t), moments=_gumbel_moments,
    ),
    gamma_pair(
        "frechet", "Frechet, known shape k; unknown scale^k", "scale_power", power=None,
        known={"known_shape": "positive"}, side="decreasing",
        log_base=lambda x, k: math.log(k["known_shape"]) - (k["known_shape"] + 1) * np.log(x),
        statistic=lambda x, k: x ** -k["known_shape"],
        back=lambda t, k: t ** (-1 / k["known_shape"]),
        moments=_power_moments(lambda k: -1 / k["known_shape"]),
    ),
    gamma_pair(
        "gompertz", "Gompertz, known ageing", "hazard", power=None, open=False, censoring=True,
        known={"known_ageing": "positive"}, log_base=lambda x, k: k["known_ageing"] * x,
        statistic=lambda x, k: np.expm1(k["known_ageing"] * x) / k["known_ageing"],
        back=lambda t, k: np.log1p(k["known_ageing"] * t) / k["known_ageing"],
    ),
    gamma_pair(
        "kumaraswamy", "Kumaraswamy, known first shape", "shape", power=None, support=(0, 1),
        known={"known_shape": "positive"}, censoring=True,
        log_base=lambda x, k: math.log(k["known_shape"]) + (k["known_shape"] - 1) * np.log(x)
        - np.log1p(-(x ** k["known_shape"])),
        statistic=lambda x, k: -np.log1p(-(x ** k["known_shape"])),
        back=lambda t, k: (-np.expm1(-t)) ** (1 / k["known_shape"]),
    ),
    gamma_pair(
        "exponentiated_exponential", "exponentiated exponential, known rate", "shape",
        power=None, known={"known_rate": "positive"}, side="decreasing",
        log_base=lambda x, k: math.log(k["known_rate"]) - k["known_rate"] * x
        - np.log(-np.expm1(-k["known_rate"] * x)),
        statistic=lambda x, k: -np.log(-np.expm1(-k["known_rate"] * x)),
        back=lambda t, k: -np.log(-np.expm1(-t)) / k["known_rate"],
    ),
]  # fmt: skip


# Inverse Gaussian: its statistic is the same at x and at mean^2 / x.


def _gaussian_predictive(hyper: Values, known: Known) -> Law:
    a, b, mean = hyper["shape"], hyper["rate"], known["known_mean"]
    plain = _INVERSE_GAUSSIAN.predictive(hyper, known)

    low, high = np.log(mean) - 60.0, np.log(mean) + 60.0
    log_cumulative = _laws.integrated(lambda t: plain.log_density(np.exp(t)) + t, low, high)

    def cumulative(x: np.ndarray) -> np.ndarray:
        return log_cumulative(np.log(x))

    def draw(rng: np.random.Generator, size: Any) -> np.ndarray:
        return rng.wald(mean, rng.gamma(a, 1 / b, size))

    log_inverse = _laws.searched(log_cumulative, low, high)
    moments = (mean, mean**3 * b / (a - 1) if a > 1 else INF)
    return replace(
        plain, cumulative=cumulative, inverse=lambda q: np.exp(log_inverse(q)), draw=draw,
        moments=lambda: moments,
    )  # fmt: skip


_INVERSE_GAUSSIAN = gamma_pair(
    "inverse_gaussian", "inverse Gaussian, known mean", "shape", power=_half,
    known={"known_mean": "positive"}, back=lambda t, k: t,
    log_base=lambda x, k: _log_base_normal(x, k) - 1.5 * np.log(x),
    statistic=lambda x, k: (x / k["known_mean"] - 1) ** 2 / (2 * x),
)  # fmt: skip


# Poisson counts over exposures.


def _poisson_count(data: Any, known: Known, weights: Any = None, exposure: Any = 1.0) -> Values:
    x, w = sample(data, weights, 0, INF, whole=True)
    time = np.broadcast_to(np.asarray(exposure, np.float64), x.shape)
    if not (np.isfinite(time).all() and time.min() > 0):
        raise ValueError(f"exposure={exposure} must be above 0 for each count")
    base = special.xlogy(x, time) - special.gammaln(x + 1)
    return {"events": float(w @ x), "exposure": float(w @ time), "n": float(w.sum()),
            "log_base": float(w @ base)}  # fmt: skip


def _negative_binomial(a: float, p: float) -> Law:
    def draw(rng: np.random.Generator, size: Any) -> np.ndarray:
        return rng.poisson(rng.gamma(a, (1 - p) / p, size)).astype(np.float64)

    return _laws.counts(
        "negative binomial", (0, INF),
        lambda x: special.gammaln(a + x) - special.gammaln(a) - special.gammaln(x + 1)
        + a * math.log(p) + special.xlog1py(x, -p),
        draw, lambda: (a * (1 - p) / p, a * (1 - p) / p**2),
        lambda x: special.betainc(a, x + 1, p), float(max(0, math.floor((a - 1) * (1 - p) / p))),
    )  # fmt: skip


_POISSON = Pair(
    "poisson", "Poisson, with exposures", "gamma", ("rate",),
    {"shape": "positive", "rate": "positive"}, {}, ("events", "exposure"), _poisson_count,
    lambda h, s, k: {"shape": h["shape"] + s["events"], "rate": h["rate"] + s["exposure"]},
    lambda h, s, k: float(
        special.gammaln(h["shape"] + s["events"]) - special.gammaln(h["shape"])
        - s["events"] * math.log(h["rate"])
        - (h["shape"] + s["events"]) * math.log1p(s["exposure"] / h["rate"])
    ),
    lambda h, k: from_law("rate", _laws.gamma_power(h["shape"], h["rate"])),
    lambda h, k, exposure=1.0: _negative_binomial(h["shape"], h["rate"] / (h["rate"] + exposure)),
    ("exposure",), {},
    lambda x, k, rate: special.xlogy(x, rate) - rate - special.gammaln(x + 1),
)  # fmt: skip


# Successes and failures.


def beta_binomial(a: float, b: float, trials: float) -> Law:
    total, mean = a + b, trials * a / (a + b)

    def log_probability(x: np.ndarray) -> np.ndarray:
        choose = -math.log1p(trials) - special.betaln(x + 1, trials - x + 1)
        return choose + special.betaln(a + x, b + trials - x) - special.betaln(a, b)

    def draw(rng: np.random.Generator, size: Any) -> np.ndarray:
        return rng.binomial(int(trials), rng.beta(a, b, size)).astype(np.float64)

    return _laws.counts(
        "beta-binomial", (0, trials), log_probability, draw,
        lambda: (mean, mean * b * (total + trials) / (total * (total + 1))),
    )  # fmt: skip


def _beta_negative_binomial(a: float, b: float, size: float, first: int) -> Law:
    """Failures before `size` successes, plus `first`."""

    def log_probability(x: np.ndarray) -> np.ndarray:
        f = x - first
        ways = special.gammaln(size + f) - special.gammaln(size) - special.gammaln(f + 1)
        return ways + special.betaln(a + size, b + f) - special.betaln(a, b)

    def draw(rng: np.random.Generator, size_: Any) -> np.ndarray:
        p = rng.beta(a, b, size_)
        return first + rng.poisson(rng.gamma(size, (1 - p) / p)).astype(np.float64)

    def moments() -> Real:
        mean = size * b / (a - 1) if a > 1 else INF
        var = size * b * (a + size - 1) * (a + b - 1) / ((a - 2) * (a - 1) ** 2) if a > 2 else INF
        return first + mean, var

    def closed(x: np.ndarray) -> np.ndarray:
        return -np.expm1(special.betaln(a, b + x - first + 1) - special.betaln(a, b))

    return _laws.counts(
        "beta-negative binomial",
        (first, INF),
        log_probability,
        draw,
        moments,
        closed if size == 1 else None,
    )


def _trials(known: Known, more: Values) -> Values:
    trials = more.get("trials", known.get("trials"))
    array = np.asarray(trials, np.float64)
    if not (np.isfinite(array).all() and array.min() >= 1 and (array == np.floor(array)).all()):
        raise ValueError(f"trials={trials} must be whole numbers from 1")
    return {**known, "trials": array[()]}


def _plain(known: Known, more: Values) -> Known:
    return known


def _choose(n: Any, x: Any) -> Any:
    return -np.log1p(n) - special.betaln(x + 1, n - x + 1)


_BETA_FORM = [
    beta_pair(
        "bernoulli", "Bernoulli", counts=lambda x, k: (x, 1 - x), support=lambda k: (0, 1),
        log_base=lambda x, k: 0.0, trials=_plain, next_law=lambda a, b, k: beta_binomial(a, b, 1),
    ),
    beta_pair(
        "binomial", "binomial, known trials", counts=lambda x, k: (x, k["trials"] - x),
        support=lambda k: (0, k["trials"]), log_base=lambda x, k: _choose(k["trials"], x),
        trials=_trials, next_law=lambda a, b, k: beta_binomial(a, b, float(k["trials"])),
        known={"trials": "count"}, defaults={"trials": 1}, details=("trials",),
    ),
    beta_pair(
        "geometric", "geometric: trials up to the first success",
        counts=lambda x, k: (1.0, x - 1), support=lambda k: (1, INF), log_base=lambda x, k: 0.0,
        trials=_plain, next_law=lambda a, b, k: _beta_negative_binomial(a, b, 1.0, 1),
    ),
    beta_pair(
        "negative_binomial", "negative binomial: failures before known_size successes",
        counts=lambda x, k: (k["known_size"], x), support=lambda k: (0, INF), trials=_plain,
        log_base=lambda x, k: special.gammaln(x + k["known_size"]) - special.gammaln(x + 1)
        - special.gammaln(k["known_size"]),
        next_law=lambda a, b, k: _beta_negative_binomial(a, b, k["known_size"], 0),
        known={"known_size": "positive"},
    ),
]  # fmt: skip


# Draws without replacement: the rest of the population is beta-binomial.


def _draws_count(data: Any, known: Known, weights: Any = None, draws: Any = 1) -> Values:
    if weights is not None:
        raise ValueError("weights make no sense for draws without replacement: leave them out")
    x, _ = sample(data, None, 0, INF, whole=True)
    taken = _trials({}, {"trials": draws})["trials"]
    taken = np.broadcast_to(taken, x.shape)
    if (x > taken).any():
        raise ValueError("more successes than draws")
    return {"successes": float(x.sum()), "draws": float(taken.sum()), "n": float(len(x)),
            "log_base": float(np.sum(_choose(taken, x)))}  # fmt: skip


def _draws_absorb(h: Values, s: Values, k: Known) -> Values:
    hits, draws = h["successes"] + s["successes"], h["draws"] + s["draws"]
    if draws > k["population"]:
        raise ValueError(f"{draws:g} draws from a population of {k['population']:g}: too many")
    return {"a": h["a"], "b": h["b"], "successes": hits, "draws": draws}


def _draws_state(h: Values) -> Real:
    return h["a"] + h["successes"], h["b"] + h["draws"] - h["successes"]


def _draws_evidence(h: Values, s: Values, k: Known) -> float:
    a, b = _draws_state(h)
    return float(
        special.betaln(a + s["successes"], b + s["draws"] - s["successes"]) - special.betaln(a, b)
    )


def _draws_joint(h: Values, k: Known):
    rest, seen = beta_binomial(*_draws_state(h), k["population"] - h["draws"]), h["successes"]
    law = _laws.counts(
        "shifted beta-binomial", (seen, k["population"] - h["draws"] + seen),
        lambda x: rest.log_density(x - seen), lambda rng, size: seen + rest.draw(rng, size),
        lambda: (seen + rest.mean, rest.var),
    )  # fmt: skip
    x = np.arange(law.support[0], law.support[1] + 1)
    return from_law("successes", replace(law, peak=float(x[np.argmax(law.logpmf(x))])))


_HYPERGEOMETRIC = Pair(
    "hypergeometric", "draws without replacement from a known population", "beta-binomial",
    ("successes",),
    {"a": "positive", "b": "positive", "successes": "nonnegative", "draws": "nonnegative"},
    {"population": "count"}, ("successes", "draws"), _draws_count, _draws_absorb,
    _draws_evidence, _draws_joint,
    lambda h, k, draws=1: beta_binomial(*_draws_state(h), float(draws)), ("draws",),
    {"successes": 0.0, "draws": 0.0},
)  # fmt: skip


# Known spread, unknown place.


def _logistic_moments(mean: float, variance: float) -> Real:
    law = _laws.normal(mean, variance)

    def raw(s: int) -> float:
        def inner(z: float) -> float:
            x = mean + math.sqrt(variance) * z
            return special.expit(x) ** s * math.exp(float(law.log_density(np.asarray(x))))

        return math.sqrt(variance) * integrate.quad(inner, -12, 12, limit=200)[0]

    return raw(1), raw(2) - raw(1) ** 2


def _identity(x: Any) -> Any:
    return x


_NORMAL_FORM = [
    mean_pair(
        "normal_mean", "normal, known variance", into=_identity, back=_identity,
        log_slope=lambda x: np.zeros(np.shape(x)), support=(-INF, INF),
        moments=lambda mean, variance: (mean, variance),
    ),
    mean_pair(
        "lognormal_mean", "lognormal, known log variance", into=np.log, back=np.exp,
        log_slope=lambda x: -np.log(x), support=(0, INF),
        moments=lambda m, v: (math.exp(m + v / 2), math.expm1(v) * math.exp(2 * m + v)),
    ),
    mean_pair(
        "logitnormal_mean", "logit-normal, known logit variance", into=special.logit,
        back=special.expit, log_slope=lambda x: -np.log(x) - np.log1p(-x), support=(0, 1),
        moments=_logistic_moments,
    ),
]  # fmt: skip

_CHI_SQUARE = renamed(
    next(pair for pair in _GAMMA_FORM if pair.name == "normal_variance"),
    "normal_variance_chi2",
    "scaled inverse chi-squared",
    {"df": "positive", "scale": "positive"},
    lambda h: {"shape": h["df"] / 2, "scale": h["df"] * h["scale"] / 2},
    lambda h: {"df": 2 * h["shape"], "scale": h["scale"] / h["shape"]},
)

PAIRS = [
    _CHI_SQUARE, *_BETA_FORM, _POISSON, _HYPERGEOMETRIC, *_GAMMA_FORM,
    replace(_INVERSE_GAUSSIAN, predictive=_gaussian_predictive), *_NORMAL_FORM,
]  # fmt: skip
