r"""Models with compiled densities: data in, `Model` out; their sampler is made once for all.

Each function takes data and the scales of weakly informative priors and returns a `Density`, which
`Model` takes; `Model("eight_schools")` and `Model("linear_regression", data={"X": X, "y": y})` call
them by name. Densities are normalised, so that evidences can be compared.

References:
    Gelman et al. (2013), Bayesian Data Analysis, third edition: 5.5, 14.2, 16.
    Magnusson et al. (2024), "posteriordb", arXiv:2407.04967: the models and priors that other
    samplers are tested on.

Shapes: n observations, p columns, J groups.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from paragone.estimation import _densities
from paragone.estimation._parameters import Parameter

__all__ = [
    "Density", "autoregression", "counts", "eight_schools", "funnel", "get", "hierarchical",
    "item_response", "linear_regression", "list", "logistic_regression", "mixture",
    "multivariate_normal", "normal", "poisson_regression", "robust_regression",
]  # fmt: skip

_MANY = Mapping[str, np.ndarray]
_LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True, eq=False)
class Density:
    """A compiled log density with its data.

    Attributes:
        name: What it is called in `list`.
        kernel: `f(x, slope, reals, integers)`.
        parameters: In the order of x.
        reals: Data as numbers.
        integers: Data as whole numbers.
        log_likelihood: Dict of draws to (chains, draws, n); None if there are no observations.
        derived: Dict of draws to more quantities of interest; None if there are none.
    """

    name: str
    kernel: Any
    parameters: tuple[Parameter, ...]
    reals: np.ndarray
    integers: np.ndarray
    log_likelihood: Callable[[Any], np.ndarray] | None = None
    derived: Callable[[Any], dict[str, np.ndarray]] | None = None


def list() -> tuple[str, ...]:
    """Names of all built-in models.

    Example:
        >>> "eight_schools" in list()
        True
    """
    return tuple(sorted(_MODELS))


def get(name: str, data: Mapping[str, Any] | None = None) -> Density:
    """Returns a built-in model by name.

    Raises:
        ValueError: There is no such model, or its data are refused.
    """
    if name not in _MODELS:
        raise ValueError(f"no built-in model is called {name!r}: use one of {', '.join(list())}")
    return _MODELS[name](**(data or {}))


def _packed(
    name: str, kernel: Any, parameters: Any, reals: Any, integers: Any, **more: Any
) -> Density:
    flat = np.concatenate([np.ravel(np.asarray(each, float)) for each in reals])
    return Density(name, kernel, tuple(parameters), flat, np.array(integers, np.int64), **more)


def _constant(normal: Any = (), cauchy: Any = (), observed: int = 0) -> float:
    """Normalising constants of normals and half Cauchys of these scales, and of n unit normals."""
    scales = np.ravel(normal)
    found = -np.log(scales).sum() - 0.5 * _LOG_2PI * (len(scales) + observed)
    return float(found + np.log(2 / (math.pi * np.ravel(cauchy))).sum())


def _precision(scale: Any) -> Any:
    return 1 / np.square(scale)


def _positive(**scales: Any) -> None:
    for name, value in scales.items():
        if not (np.all(np.isfinite(value)) and np.all(np.asarray(value) > 0)):
            raise ValueError(f"{name}={value} must be positive and finite")


def _vector(name: str, values: Any, least: int = 1) -> np.ndarray:
    found = np.asarray(values, float)
    if found.ndim != 1 or len(found) < least:
        raise ValueError(f"{name} has shape {found.shape}: give {least} values or more in a row")
    if not np.isfinite(found).all():
        place = int(np.flatnonzero(~np.isfinite(found))[0])
        raise ValueError(f"{name}[{place}] = {found[place]} is not finite: drop or impute it")
    return found


def _design(X: Any, y: Any, intercept: bool) -> tuple[np.ndarray, np.ndarray]:
    target, found = _vector("y", y), np.asarray(X, float)
    if found.ndim != 2 or len(found) != len(target):
        raise ValueError(f"X has shape {found.shape}: give ({len(target)}, p), a row for each y")
    if not np.isfinite(found).all():
        raise ValueError("X has a value that is not finite: drop or impute its row")
    if intercept:
        found = np.column_stack([np.ones(len(found)), found])
    return np.ascontiguousarray(found), target


def _coefficients(draws: _MANY, intercept: bool) -> np.ndarray:
    beta = draws["beta"]
    return np.concatenate([draws["alpha"][..., None], beta], axis=-1) if intercept else beta


def _names(p: int, intercept: bool) -> tuple[Parameter, ...]:
    beta = Parameter("beta", (p - intercept,))
    return (Parameter("alpha"), beta) if intercept else (beta,)


def _normal_logs(error: np.ndarray, scale: Any) -> np.ndarray:
    return -0.5 * (error / scale) ** 2 - np.log(scale) - 0.5 * _LOG_2PI


def eight_schools(
    y: Any = (28, 8, -3, 7, -1, 1, 18, 12),
    sigma: Any = (15, 10, 16, 11, 9, 11, 10, 18),
    *,
    centred: bool = False,
    mu_scale: float = 5.0,
    tau_scale: float = 5.0,
) -> Density:
    r"""Effects of eight schools, measured with known errors.

    $y_j \sim N(\theta_j, \sigma_j)$, $\theta_j \sim N(\mu, \tau)$; mu is normal and tau half
    Cauchy about 0. The non-centred form draws $\theta_j = \mu + \tau \tilde\theta_j$; the centred
    one is a funnel, on which NUTS diverges.
    """
    effects, errors = _vector("y", y), _vector("sigma", sigma)
    _positive(sigma=errors, mu_scale=mu_scale, tau_scale=tau_scale)
    count = len(effects)
    if len(errors) != count:
        raise ValueError(f"y has {count} values, sigma {len(errors)}: give one sigma for each y")

    def derived(draws: _MANY) -> dict[str, np.ndarray]:
        mu, tau = draws["mu"][..., None], draws["tau"][..., None]
        return {"theta": mu + tau * draws["theta_trans"]}

    def likelihood(draws: _MANY) -> np.ndarray:
        theta = draws["theta"] if "theta" in draws else derived(draws)["theta"]
        return _normal_logs(effects - theta, errors)

    free = Parameter("theta" if centred else "theta_trans", (count,))
    normal = [mu_scale, *errors] if centred else [mu_scale, *errors, *np.ones(count)]
    constant = _constant(normal, tau_scale, count if centred else 0)
    kernel = _densities.eight_schools_centred if centred else _densities.eight_schools
    return _packed(
        "eight_schools_centred" if centred else "eight_schools", kernel,
        (Parameter("mu"), Parameter("tau", lower=0.0), free),
        ([constant], _precision([mu_scale, tau_scale]), _precision(errors), effects), [count],
        log_likelihood=likelihood, derived=None if centred else derived,
    )  # fmt: skip


def _reduced(
    name: str, X: np.ndarray, y: np.ndarray, parameters: Any, scales: Any, sigma_scale: float,
    intercept: bool,
) -> Density:  # fmt: skip
    """A linear model by the triangle of its QR decomposition; prior scales (p,)."""
    n, p = X.shape
    triangle: Any = np.linalg.qr(np.column_stack([X, y]), mode="r")
    whole = np.zeros((p, p + 1))
    whole[: min(p, len(triangle))] = triangle[:p]
    rss = triangle[p, p] ** 2 if len(triangle) > p else 0.0
    constant = _constant(scales, sigma_scale, n)

    def likelihood(draws: _MANY) -> np.ndarray:
        error = y - _coefficients(draws, intercept) @ X.T
        return _normal_logs(error, draws["sigma"][..., None])

    return _packed(
        name, _densities.linear, (*parameters, Parameter("sigma", lower=0.0)),
        ([constant, _precision(sigma_scale), rss], _precision(scales), whole[:, p], whole[:, :p]),
        [n, p],
        log_likelihood=likelihood,
    )  # fmt: skip


def linear_regression(
    X: Any, y: Any, *, intercept: bool = True, scale: float = 10.0, sigma_scale: float = 2.5
) -> Density:
    r"""$y \sim N(\alpha + X\beta, \sigma)$; coefficients normal, sigma half Cauchy."""
    _positive(scale=scale, sigma_scale=sigma_scale)
    design, target = _design(X, y, intercept)
    p = design.shape[1]
    return _reduced(
        "linear_regression", design, target, _names(p, intercept), np.full(p, float(scale)),
        sigma_scale, intercept,
    )  # fmt: skip


def autoregression(
    y: Any, order: int = 1, *, scale: float = 10.0, sigma_scale: float = 2.5
) -> Density:
    r"""$y_t \sim N(\alpha + \sum_k \beta_k y_{t-k}, \sigma)$, given the first `order` values."""
    series = _vector("y", y, least=2)
    if order != int(order) or not 1 <= order < len(series):
        raise ValueError(f"order={order} of {len(series)} values: use 1 to {len(series) - 1}")
    _positive(scale=scale, sigma_scale=sigma_scale)
    n = len(series) - order
    lags = [series[order - k : order - k + n] for k in range(1, order + 1)]
    design = np.column_stack([np.ones(n), *lags])
    return _reduced(
        "autoregression", design, series[order:], _names(order + 1, True),
        np.full(order + 1, float(scale)), sigma_scale, True,
    )  # fmt: skip


def logistic_regression(X: Any, y: Any, *, intercept: bool = True, scale: float = 2.5) -> Density:
    r"""$P(y = 1) = \mathrm{sigmoid}(\alpha + X\beta)$; coefficients normal."""
    _positive(scale=scale)
    design, target = _design(X, y, intercept)
    if not np.isin(target, (0.0, 1.0)).all():
        raise ValueError("y of a logistic regression must be 0 and 1")
    signed = design * (2 * target - 1)[:, None]
    n, p = design.shape

    def likelihood(draws: _MANY) -> np.ndarray:
        return -np.logaddexp(0.0, -(_coefficients(draws, intercept) @ signed.T))

    return _packed(
        "logistic_regression", _densities.logistic, _names(p, intercept),
        ([_constant([scale] * p), _precision(scale)], signed.T), [n, p], log_likelihood=likelihood,
    )  # fmt: skip


def poisson_regression(X: Any, y: Any, *, intercept: bool = True, scale: float = 2.5) -> Density:
    r"""$y \sim \mathrm{Poisson}(e^{\alpha + X\beta})$; coefficients normal."""
    _positive(scale=scale)
    design, target = _design(X, y, intercept)
    if (target < 0).any() or (target != np.floor(target)).any():
        raise ValueError("y of a Poisson regression must be counts: 0, 1, 2, ...")
    constants = np.array([math.lgamma(value + 1) for value in target])
    n, p = design.shape

    def likelihood(draws: _MANY) -> np.ndarray:
        eta = _coefficients(draws, intercept) @ design.T
        return target * eta - np.exp(eta) - constants

    return _packed(
        "poisson_regression", _densities.poisson, _names(p, intercept),
        ([_constant([scale] * p) - constants.sum(), _precision(scale)], target, design.T), [n, p],
        log_likelihood=likelihood,
    )  # fmt: skip


def robust_regression(
    X: Any, y: Any, *, nu: float = 4.0, intercept: bool = True, scale: float = 10.0,
    sigma_scale: float = 2.5,
) -> Density:  # fmt: skip
    r"""Linear regression with Student errors of nu degrees of freedom, which forgive outliers."""
    _positive(nu=nu, scale=scale, sigma_scale=sigma_scale)
    design, target = _design(X, y, intercept)
    n, p = design.shape
    constant = math.lgamma((nu + 1) / 2) - math.lgamma(nu / 2) - 0.5 * math.log(nu * math.pi)
    whole = _constant([scale] * p, sigma_scale) + n * constant

    def likelihood(draws: _MANY) -> np.ndarray:
        sigma = draws["sigma"][..., None]
        error = (target - _coefficients(draws, intercept) @ design.T) / sigma
        return constant - np.log(sigma) - 0.5 * (nu + 1) * np.log1p(error**2 / nu)

    return _packed(
        "robust_regression", _densities.robust,
        (*_names(p, intercept), Parameter("sigma", lower=0.0)),
        ([whole, _precision(scale), _precision(sigma_scale), nu], target, design.T), [n, p],
        log_likelihood=likelihood,
    )  # fmt: skip


def normal(
    y: Any, *, location: float = 0.0, scale: float = 10.0, sigma_scale: float = 2.5
) -> Density:
    r"""$y \sim N(\mu, \sigma)$; mu normal about `location`, sigma half Cauchy."""
    values = _vector("y", y)
    _positive(scale=scale, sigma_scale=sigma_scale)
    squares = ((values - values.mean()) ** 2).sum()
    constant = _constant(scale, sigma_scale, len(values))

    def likelihood(draws: _MANY) -> np.ndarray:
        return _normal_logs(values - draws["mu"][..., None], draws["sigma"][..., None])

    return _packed(
        "normal", _densities.normal, (Parameter("mu"), Parameter("sigma", lower=0.0)),
        ([constant, location, *_precision([scale, sigma_scale]), values.mean(), squares],),
        [len(values)],
        log_likelihood=likelihood,
    )  # fmt: skip


def hierarchical(
    y: Any, group: Any, x: Any = None, *, mu_scale: float = 10.0, tau_scale: float = 2.5,
    beta_scale: float = 10.0, sigma_scale: float = 2.5,
) -> Density:  # fmt: skip
    r"""Groups with levels of their own, drawn from one distribution.

    $y_i \sim N(a_{g(i)} + \beta x_i, \sigma)$, $a_j = \mu + \tau z_j$, z standard normal: the
    model of the radon study. `a` is among the draws. Cost: O(J) a gradient, for any n.
    """
    values = _vector("y", y)
    slopes = np.zeros(len(values)) if x is None else _vector("x", x)
    which = np.asarray(group)
    if which.shape != values.shape or slopes.shape != values.shape:
        raise ValueError(f"y has {len(values)} values: give as many of group and of x")
    _positive(
        mu_scale=mu_scale, tau_scale=tau_scale, beta_scale=beta_scale, sigma_scale=sigma_scale
    )
    names, which = np.unique(which, return_inverse=True)
    size = np.bincount(which).astype(float)
    xbar, ybar = np.bincount(which, slopes) / size, np.bincount(which, values) / size
    dx, dy = slopes - xbar[which], values - ybar[which]

    def derived(draws: _MANY) -> dict[str, np.ndarray]:
        return {"a": draws["mu"][..., None] + draws["tau"][..., None] * draws["effect"]}

    def likelihood(draws: _MANY) -> np.ndarray:
        mean = derived(draws)["a"][..., which] + draws["beta"][..., None] * slopes
        return _normal_logs(values - mean, draws["sigma"][..., None])

    parameters = (
        Parameter("mu"), Parameter("tau", lower=0.0), Parameter("beta"),
        Parameter("sigma", lower=0.0), Parameter("effect", (len(names),)),
    )  # fmt: skip
    scales = [mu_scale, tau_scale, beta_scale, sigma_scale]
    constant = _constant(
        [mu_scale, beta_scale, *np.ones(len(names))], [tau_scale, sigma_scale], len(values)
    )
    return _packed(
        "hierarchical", _densities.hierarchical, parameters,
        ([constant], _precision(scales), [dx @ dx, dx @ dy, dy @ dy], size, xbar, ybar),
        [len(values), len(names)],
        log_likelihood=likelihood, derived=derived,
    )  # fmt: skip


def funnel(d: int = 9, *, scale: float = 3.0) -> Density:
    r"""Neal's funnel: $v \sim N(0, 3)$, $x_i \sim N(0, e^{v/2})$; hard on purpose."""
    if d != int(d) or d < 1:
        raise ValueError(f"d={d}: use a whole number of 1 and above")
    _positive(scale=scale)
    parameters = (Parameter("v"), Parameter("x", (int(d),)))
    reals = [_constant(scale, observed=int(d)), _precision(scale)]
    return _packed("funnel", _densities.funnel, parameters, (reals,), [d])


def multivariate_normal(mean: Any = None, covariance: Any = None) -> Density:
    """A normal with a given covariance; by default 100 scales from 0.01 to 100."""
    if covariance is None:
        covariance = np.diag(np.geomspace(1e-4, 1e4, 100 if mean is None else len(mean)))
    spread = np.asarray(covariance, float)
    if spread.ndim != 2 or spread.shape[0] != spread.shape[1] or not np.allclose(spread, spread.T):
        raise ValueError(f"covariance of shape {spread.shape} must be square and symmetric")
    centre = np.zeros(len(spread)) if mean is None else _vector("mean", mean)
    if len(centre) != len(spread):
        raise ValueError(f"mean has {len(centre)} values, covariance {len(spread)} rows")
    values, vectors = np.linalg.eigh(spread)
    if not values[0] > 0:
        raise ValueError(f"covariance has the eigenvalue {values[0]:g}: it must be positive")
    precision = (vectors / values) @ vectors.T
    return _packed(
        "multivariate_normal", _densities.multivariate_normal, (Parameter("x", (len(centre),)),),
        ([_constant(np.sqrt(values))], centre, precision), [len(centre)],
    )  # fmt: skip


def item_response(
    y: Any, *, discrimination_scale: float = 0.5, difficulty_scale: float = 2.0
) -> Density:
    r"""Right and wrong answers (persons, items): $P = \mathrm{sigmoid}(a_i (\theta_j - b_i))$.

    Abilities are standard normal, log discriminations and difficulties normal.
    """
    answers = np.asarray(y, float)
    if answers.ndim != 2 or answers.size == 0 or not np.isin(answers, (0.0, 1.0)).all():
        raise ValueError(f"y of shape {answers.shape} must be (persons, items) of 0 and 1")
    _positive(discrimination_scale=discrimination_scale, difficulty_scale=difficulty_scale)
    persons, items = answers.shape
    scales = [discrimination_scale, difficulty_scale]
    constant = _constant([*np.ones(persons), *np.repeat(scales, items)])

    def likelihood(draws: _MANY) -> np.ndarray:
        power = np.exp(draws["log_discrimination"])[..., None, :]
        eta = power * (draws["ability"][..., :, None] - draws["difficulty"][..., None, :])
        found = -np.logaddexp(0.0, -(2 * answers - 1) * eta)
        return found.reshape(*found.shape[:-2], -1)

    parameters = (
        Parameter("ability", (persons,)), Parameter("log_discrimination", (items,)),
        Parameter("difficulty", (items,)),
    )  # fmt: skip
    return _packed(
        "item_response", _densities.item_response, parameters,
        ([constant], _precision(scales), 2 * answers.T - 1), [persons, items],
        log_likelihood=likelihood,
    )  # fmt: skip


def counts(y: Any, concentration: Any = 1.0) -> Density:
    r"""Counts of K kinds with a Dirichlet prior on their probabilities; the posterior is known."""
    found = _vector("y", y, least=2)
    if (found < 0).any() or (found != np.floor(found)).any():
        raise ValueError("y must be counts: 0, 1, 2, ...")
    prior = np.broadcast_to(np.asarray(concentration, float), found.shape)
    _positive(concentration=prior)
    gammas = [math.lgamma(prior.sum()), math.lgamma(found.sum() + 1)]
    less = [math.lgamma(value) for value in (*prior, *(found + 1))]
    return _packed(
        "counts", _densities.counts, (Parameter("p", (len(found),), simplex=True),),
        ([sum(gammas) - sum(less)], found + prior - 1), [0],
    )  # fmt: skip


def mixture(y: Any, *, scale: float = 2.0, sigma_scale: float = 2.0) -> Density:
    """Two normals in the order of their means; share Beta(5, 5), sigmas half normal."""
    values = _vector("y", y)
    _positive(scale=scale, sigma_scale=sigma_scale)

    def likelihood(draws: _MANY) -> np.ndarray:
        share, mu, sigma = (draws[name][..., None, :] for name in ("share", "mu", "sigma"))
        parts = _normal_logs(values[:, None] - mu, sigma)
        return np.logaddexp(np.log(share[..., 0]) + parts[..., 0],
                            np.log1p(-share[..., 0]) + parts[..., 1])  # fmt: skip

    # Half normals twice, and one order of two.
    constant = math.lgamma(10.0) - 2 * math.lgamma(5.0) + 3 * math.log(2)
    constant += _constant([scale, scale, sigma_scale, sigma_scale], observed=len(values))
    parameters = (
        Parameter("share", (1,), lower=0.0, upper=1.0), Parameter("mu", (2,), ordered=True),
        Parameter("sigma", (2,), lower=0.0),
    )  # fmt: skip
    return _packed(
        "mixture", _densities.mixture, parameters,
        ([constant], _precision([scale, sigma_scale]), values), [len(values)],
        log_likelihood=likelihood,
    )  # fmt: skip


_MODELS: dict[str, Callable[..., Density]] = {
    "autoregression": autoregression, "counts": counts, "eight_schools": eight_schools,
    "eight_schools_centred": lambda **data: eight_schools(**{"centred": True, **data}),
    "funnel": funnel, "hierarchical": hierarchical, "item_response": item_response,
    "linear_regression": linear_regression, "logistic_regression": logistic_regression,
    "mixture": mixture, "multivariate_normal": multivariate_normal, "normal": normal,
    "poisson_regression": poisson_regression, "robust_regression": robust_regression,
}  # fmt: skip
