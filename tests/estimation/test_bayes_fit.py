"""MAP and full Bayes of families: against grids, closed forms, and each other."""

import math

import numpy as np
import pytest
from scipy import integrate, stats

from paragone.estimation import conjugate, families, fit
from paragone.estimation._priors import NAMES, read_prior

RNG = np.random.default_rng(11)
X = RNG.normal(3.0, 2.0, 25)
WAITS = RNG.exponential(2.0, 30)
PRIOR = {"loc": ("normal", 0, 10), "scale": ("half_normal", 5)}


def grid_posterior():
    """(evidence, means, sds) of loc and scale, by Simpson's rule in two dimensions."""
    loc, scale = np.linspace(0, 6, 301), np.exp(np.linspace(-0.5, 2.2, 301))
    log = stats.norm(0, 10).logpdf(loc)[:, None] + stats.halfnorm(scale=5).logpdf(scale)
    log = log + stats.norm(loc[:, None, None], scale[:, None]).logpdf(X).sum(axis=-1)
    density = np.exp(log)

    def total(values):
        return integrate.simpson(integrate.simpson(values, x=scale, axis=1), x=loc)

    evidence = total(density)
    share = density / evidence
    means = [total(share * loc[:, None]), total(share * scale)]
    squares = [total(share * loc[:, None] ** 2), total(share * scale**2)]
    sds = [math.sqrt(s - m * m) for s, m in zip(squares, means, strict=True)]
    return math.log(evidence), means, sds


@pytest.fixture(scope="module")
def drawn():
    return fit(X, "normal", method="bayes", prior=PRIOR)


@pytest.fixture(scope="module")
def grid():
    return grid_posterior()


def test_nuts_agrees_with_the_grid(drawn, grid):
    evidence, means, sds = grid
    assert drawn.engine == "nuts"
    assert drawn.log_evidence == pytest.approx(evidence, abs=0.1)
    for name, mean, sd in zip(("loc", "scale"), means, sds, strict=True):
        error = sd / math.sqrt(drawn.diagnostics["ess_bulk"][name])
        assert abs(drawn.params[name] - mean) < 4 * error
        assert drawn.standard_errors[name] == pytest.approx(sd, rel=0.1)
        assert drawn.diagnostics["rhat"][name] < 1.02
    assert drawn.diagnostics["divergences"] == 0


@pytest.mark.parametrize("engine", ["laplace", "variational"])
def test_normals_in_the_unconstrained_space_are_near(engine, grid):
    evidence, means, sds = grid
    found = fit(X, "normal", method="bayes", prior=PRIOR, engine=engine)
    assert found.log_evidence == pytest.approx(evidence, abs=0.1)
    for name, mean, sd in zip(("loc", "scale"), means, sds, strict=True):
        assert abs(found.params[name] - mean) < 0.35 * sd
    assert found.diagnostics["pareto_k"] < 0.9


def test_a_wrong_prior_is_seen_by_the_grid(grid):
    other = fit(X, "normal", method="bayes", prior={**PRIOR, "loc": ("normal", 0, 1)},
                engine="laplace")  # fmt: skip
    assert abs(other.log_evidence - grid[0]) > 1


def test_the_call_of_the_acceptance():
    prior = conjugate.prior("normal", mean=0, count=0.01, shape=1, scale=1)
    found = fit(X, "normal", method="bayes", prior=prior)
    assert found.engine == "conjugate"
    low, high = found.interval(0.95)["loc"]
    assert low < X.mean() < high
    # With so weak a prior the interval of loc is nearly that of Student.
    assert high - low == pytest.approx(2 * stats.t(26).ppf(0.975) * X.std() / 5, rel=0.1)
    assert set(found.params) == {"loc", "scale"}
    predicted = found.predict("quantile", at=[0.5])
    assert abs(predicted.value[0] - found.params["loc"]) < 0.05
    assert found.conjugate.update(X[:3]).n == 28
    marginal = prior.update(X).marginal("variance")
    assert found.marginal("scale").cdf(2.0) == pytest.approx(marginal.cdf(4.0))
    assert found.quantile(0.5)["scale"] == pytest.approx(marginal.median**0.5)
    rows = np.cov(found.draws["loc"][0], found.draws["scale"][0])
    np.testing.assert_allclose(found.covariance, rows)


def test_censoring_weights_and_truncation_enter():
    censored = WAITS > 3
    values, weights = np.minimum(WAITS, 3.0), np.tile([1.0, 2.0, 0.0], 10)
    closed = fit(values, "exponential", method="bayes", censoring=censored, weights=weights,
                 prior={"scale": ("inverse_gamma", 2.0, 3.0)})  # fmt: skip
    assert closed.engine == "conjugate"
    events = weights @ ~censored
    assert closed.conjugate.hyper["shape"] == pytest.approx(2 + events)
    assert closed.conjugate.hyper["scale"] == pytest.approx(3 + weights @ values)

    inside = WAITS[(WAITS > 0.5) & (WAITS < 6)]
    cut = fit(inside, "exponential", method="bayes", truncation=(0.5, 6.0), engine="nuts",
              prior={"scale": ("lognormal", 0.5, 1.0)}, draws=300)  # fmt: skip
    scale = np.exp(np.linspace(-3, 5, 4001))
    law = stats.expon(scale=scale[:, None])
    log = law.logpdf(inside).sum(axis=1) - len(inside) * np.log(law.cdf(6) - law.cdf(0.5))[:, 0]
    density = np.exp(log + stats.lognorm(1.0, scale=np.exp(0.5)).logpdf(scale))
    evidence = integrate.simpson(density, x=scale)
    mean = integrate.simpson(density * scale, x=scale) / evidence
    assert cut.log_evidence == pytest.approx(math.log(evidence), abs=0.1)
    sd = cut.sd["scale"] / math.sqrt(cut.diagnostics["ess_bulk"]["scale"])
    assert abs(cut.params["scale"] - mean) < 4 * sd


def test_a_dict_of_priors_finds_its_closed_form():
    counts = np.ceil(WAITS)
    for family, prior, fixed in (
        ("poisson", {"mu": ("gamma", 2, 0.5)}, {}),
        ("geometric", {"p": ("uniform", 0, 1)}, {}),
        ("binomial", {"p": ("beta", 2, 3)}, {"trials": 20.0}),
        ("negative_binomial", {"p": ("beta", 2, 3)}, {"n": 1.5}),
        ("laplace", {"scale": ("inverse_gamma", 2, 3)}, {"loc": 1.0}),
        ("pareto", {"shape": ("gamma", 2, 1)}, {"scale": 0.5}),
    ):
        exact = fit(counts, family, method="bayes", prior=prior, fixed=fixed)
        near = fit(counts, family, method="bayes", prior=prior, fixed=fixed, engine="laplace")
        assert (exact.engine, near.engine) == ("conjugate", "laplace")
        assert near.log_evidence == pytest.approx(exact.log_evidence, abs=0.1)
        for name, value in exact.mean.items():
            assert near.mean[name] == pytest.approx(value, abs=0.15 * exact.sd[name])


def test_map_says_in_which_space_it_is_the_mode():
    n, total = len(WAITS), WAITS.sum()
    prior = {"scale": ("inverse_gamma", 2.0, 3.0)}
    plain = fit(WAITS, "exponential", method="map", prior=prior)
    logs = fit(WAITS, "exponential", method="map", prior=prior, space="unconstrained")
    assert plain.params["scale"] == pytest.approx((3 + total) / (2 + n + 1), rel=1e-7)
    assert logs.params["scale"] == pytest.approx((3 + total) / (2 + n), rel=1e-7)
    assert (plain.space, logs.space) == ("constrained", "unconstrained")
    # Curvature of the inverse gamma at its mode, in the scale and in its log.
    mode = (3 + total) / (3 + n)
    assert plain.standard_errors["scale"] == pytest.approx(mode / (3 + n) ** 0.5, rel=1e-6)
    mode = (3 + total) / (2 + n)
    assert logs.standard_errors["scale"] == pytest.approx(mode / (2 + n) ** 0.5, rel=1e-6)
    likelihood = stats.expon(scale=plain.params["scale"]).logpdf(WAITS).sum()
    assert plain.loglik == pytest.approx(likelihood)
    assert plain.log_posterior == pytest.approx(
        likelihood + stats.invgamma(2, scale=3).logpdf(plain.params["scale"])
    )


def test_a_flat_prior_makes_map_the_mle_in_the_constrained_space_alone():
    mle = fit(X, "normal")
    flat = {"loc": "flat", "scale": "flat"}
    same = fit(X, "normal", method="map", prior=flat)
    other = fit(X, "normal", method="map", prior=flat, space="unconstrained")
    for name in ("loc", "scale"):
        assert same.params[name] == pytest.approx(mle.params[name], rel=1e-6)
        assert same.standard_errors[name] == pytest.approx(mle.standard_errors[name], rel=1e-5)
    # n log s + S / 2 s^2 - log s is least at s^2 = S / (n - 1).
    assert other.params["scale"] == pytest.approx(X.std(ddof=1), rel=1e-6)
    assert math.isnan(other.log_evidence)


def test_laplace_is_exact_where_the_posterior_is_normal():
    prior = {"loc": ("normal", 1.0, 4.0)}
    mode = fit(X, "normal", method="map", prior=prior, fixed={"scale": 2.0}, space="unconstrained")
    exact = fit(X, "normal", method="bayes", prior=prior, fixed={"scale": 2.0})
    assert exact.engine == "conjugate"
    assert mode.log_evidence == pytest.approx(exact.log_evidence, abs=1e-8)
    assert mode.params["loc"] == pytest.approx(exact.params["loc"])
    assert mode.standard_errors["loc"] == pytest.approx(exact.standard_errors["loc"])
    assert exact.params["scale"] == 2.0
    assert exact.standard_errors["scale"] == 0.0


CLOSED = [
    ("normal_mean", {"mean": 0, "variance": 4, "known_variance": 4.0}, "normal", {"scale": 2.0}),
    ("normal_variance", {"shape": 2, "scale": 3, "known_mean": 3.0}, "normal", {"loc": 3.0}),
    ("normal_variance_chi2", {"df": 4, "scale": 3, "known_mean": 3.0}, "normal", {"loc": 3.0}),
    ("normal_precision", {"shape": 2, "rate": 3, "known_mean": 3.0}, "normal", {"loc": 3.0}),
    ("normal_gamma", {"mean": 0, "count": 1, "shape": 2, "rate": 3}, "normal", {}),
    ("half_normal", {"shape": 2, "rate": 3}, "half_normal", {}),
    ("lognormal", {"mean": 0, "count": 1, "shape": 2, "scale": 3}, "lognormal", {}),
    ("lognormal_mean", {"mean": 0, "variance": 4, "known_variance": 4.0}, "lognormal",
     {"sigma": 2.0}),
    ("lognormal_precision", {"shape": 2, "rate": 3, "known_mean": 0.5}, "lognormal", {"mu": 0.5}),
    ("exponential", {"shape": 2, "rate": 3}, "exponential", {}),
    ("gamma_rate", {"shape": 2, "rate": 3, "known_shape": 1.5}, "gamma", {"shape": 1.5}),
    ("gamma_scale", {"shape": 2, "scale": 3, "known_shape": 1.5}, "gamma", {"shape": 1.5}),
    ("weibull_rate", {"shape": 2, "rate": 3, "known_shape": 1.5}, "weibull", {"shape": 1.5}),
    ("weibull_scale", {"shape": 2, "scale": 3, "known_shape": 1.5}, "weibull", {"shape": 1.5}),
    ("rayleigh_precision", {"shape": 2, "rate": 3}, "rayleigh", {}),
    ("rayleigh_variance", {"shape": 2, "scale": 3}, "rayleigh", {}),
    ("laplace_rate", {"shape": 2, "rate": 3, "known_loc": 1.0}, "laplace", {"loc": 1.0}),
    ("pareto_shape", {"shape": 2, "rate": 3, "known_minimum": 0.01}, "pareto", {"scale": 0.01}),
    ("poisson", {"shape": 2, "rate": 3}, "poisson", {}),
    ("geometric", {"a": 2, "b": 3}, "geometric", {}),
    ("binomial", {"a": 2, "b": 3, "trials": 20}, "binomial", {"trials": 20.0}),
    ("negative_binomial", {"a": 2, "b": 3, "known_size": 1.5}, "negative_binomial", {"n": 1.5}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "values", "family", "fixed"), CLOSED, ids=[c[0] for c in CLOSED])
def test_closed_forms_are_in_the_familys_own_parameters(name, values, family, fixed):
    data = np.ceil(WAITS) if families.get(family).discrete else np.maximum(WAITS, 0.02)
    found = fit(data, family, method="bayes", prior=conjugate.prior(name, **values), fixed=fixed)
    law = families.get(family)
    new = np.array([1.0, 2.0, 4.0]) if law.discrete else np.array([0.5, 1.7, 4.0])
    rows = [
        law.pdf(new, {**fixed, **{k: float(v[0, i]) for k, v in found.draws.items()}})
        for i in range(1500)
    ]
    assert found.engine == "conjugate"
    error = np.std(rows, axis=0) / 1500**0.5
    assert (np.abs(np.mean(rows, axis=0) - found.predictive.pdf(new)) < 5 * error).all()
    for key, each in found.draws.items():
        assert stats.kstest(each[0], found.marginal(key).cdf).pvalue > 1e-4


@pytest.mark.parametrize("name", [name for name in NAMES if name != "flat"])
def test_priors_are_normalised_and_their_slopes_right(name):
    numbers = {"normal": (0.5, 2), "student_t": (3, 0.5, 2), "cauchy": (0.5, 2),
               "half_normal": (2,), "half_t": (3, 2), "half_cauchy": (2,), "lognormal": (0.3, 0.8),
               "gamma": (2, 1), "inverse_gamma": (2, 1), "exponential": (0.5,), "beta": (2, 3),
               "uniform": (0.1, 0.9)}[name]  # fmt: skip
    high = 1.0 if name in ("beta", "uniform") else math.inf
    prior = read_prior({"s": (name, *numbers)}, ("s",), [(0.0, high)])
    value = integrate.quad(lambda x: math.exp(prior.slopes(np.array([x]))[0]), 0, high,
                           limit=200)[0]  # fmt: skip
    assert value == pytest.approx(1, abs=1e-6)
    x, h = 0.6, 1e-5
    (up, g1, _), (down, g0, _) = (prior.slopes(np.array([x + s])) for s in (h, -h))
    _, slope, curve = prior.slopes(np.array([x]))
    assert slope[0] == pytest.approx((up - down) / (2 * h), abs=1e-6)
    assert curve[0, 0] == pytest.approx((g1[0] - g0[0]) / (2 * h), abs=1e-5)


def test_a_function_as_prior_is_the_same_prior():
    def log_density(values):
        loc, scale = values["loc"], values["scale"]
        value = stats.norm(0, 10).logpdf(loc) + stats.halfnorm(scale=5).logpdf(scale)
        return value, {"loc": -loc / 100, "scale": -scale / 25}

    named = fit(X, "normal", method="map", prior=PRIOR)
    given = fit(X, "normal", method="map", prior=log_density)
    assert given.params == pytest.approx(named.params, rel=1e-6)
    assert given.log_posterior == pytest.approx(named.log_posterior)
    assert given.standard_errors == pytest.approx(named.standard_errors, rel=1e-4)


def test_what_is_wrong_is_named():
    def bayes(**more):
        return fit(X, "normal", method=more.pop("method", "bayes"), **more)

    for method in ("map", "bayes"):
        with pytest.raises(ValueError, match="needs a prior"):
            bayes(method=method)
    with pytest.raises(ValueError, match="none for scale"):
        bayes(prior={"loc": ("normal", 0, 1)})
    with pytest.raises(ValueError, match="shape, which is not free"):
        bayes(prior={**PRIOR, "shape": ("normal", 0, 1)})
    with pytest.raises(ValueError, match="a name of normal"):
        bayes(prior={**PRIOR, "loc": ("norml", 0, 1)})
    with pytest.raises(ValueError, match="takes 2 finite numbers"):
        bayes(prior={**PRIOR, "loc": ("normal", 0)})
    with pytest.raises(ValueError, match="no mass"):
        bayes(prior={**PRIOR, "scale": ("uniform", -2, -1)})
    with pytest.raises(ValueError, match="only prior with a name"):
        bayes(prior="vague")
    with pytest.raises(ValueError, match="engine='mcmc'"):
        bayes(prior=PRIOR, engine="mcmc")
    with pytest.raises(ValueError, match="no conjugate pair"):
        bayes(prior=PRIOR, engine="conjugate")
    with pytest.raises(ValueError, match="its pairs are normal"):
        bayes(prior=conjugate.prior("poisson", shape=1, rate=1))
    with pytest.raises(ValueError, match="truncated"):
        bayes(prior=conjugate.prior("normal", mean=0, count=1, shape=1, scale=1),
              truncation=(-90, 90))  # fmt: skip
    with pytest.raises(ValueError, match="give the same"):
        bayes(prior=conjugate.prior("normal_mean", mean=0, variance=1, known_variance=1),
              fixed={"scale": 2.0})  # fmt: skip
    with pytest.raises(ValueError, match="one density a parameter"):
        bayes(method="map", prior=conjugate.prior("normal", mean=0, count=1, shape=1, scale=1))
    with pytest.raises(ValueError, match="space='log'"):
        bayes(method="map", prior=PRIOR, space="log")
    with pytest.raises(ValueError, match="all parameters are fixed"):
        bayes(prior={}, fixed={"loc": 0.0, "scale": 1.0})
    with pytest.raises(ValueError, match="method='bayes'"):
        fit(WAITS, "uniform", method="map", prior={"lower": "flat", "upper": "flat"})
    with pytest.raises(ValueError, match="'wald' and 'transformed'"):
        bayes(method="map", prior=PRIOR).interval(kind="profile")
