"""Pairs with several unknowns: Bayes' rule as an identity at any point, with SciPy's densities.

log p(x) = log p(theta) + log p(x | theta) - log p(theta | x) holds for every theta.
"""

import numpy as np
import pytest
from scipy import stats

from paragone.estimation import conjugate

RNG = np.random.default_rng(3)
X = RNG.normal(1.0, 2.0, (7, 2))
SCALE = np.array([[2.0, 0.4], [0.4, 1.5]])
COV = np.array([[1.5, -0.3], [-0.3, 0.8]])
DESIGN = np.column_stack([np.ones(7), RNG.normal(size=7)])
TARGET = DESIGN @ [1.0, -2.0] + RNG.normal(0, 0.5, 7)
NIG = {"mean": 0.3, "count": 1.5, "shape": 2.5, "scale": 1.2}


def nig(h, mean, variance):
    return stats.invgamma(h["shape"], scale=h["scale"]).logpdf(variance) + stats.norm(
        h["mean"], (variance / h["count"]) ** 0.5
    ).logpdf(mean)


def ng(h, mean, precision):
    return stats.gamma(h["shape"], scale=1 / h["rate"]).logpdf(precision) + stats.norm(
        h["mean"], (precision * h["count"]) ** -0.5
    ).logpdf(mean)


def niw(h, mean, cov):
    return stats.invwishart(h["df"], h["scale"]).logpdf(cov) + stats.multivariate_normal(
        h["mean"], cov / h["count"]
    ).logpdf(mean)


def nw(h, mean, precision):
    cov = np.linalg.inv(precision)
    return stats.wishart(h["df"], h["scale"]).logpdf(precision) + stats.multivariate_normal(
        h["mean"], cov / h["count"]
    ).logpdf(mean)


def regression(h, coef, variance):
    return stats.invgamma(h["shape"], scale=h["scale"]).logpdf(variance) + (
        stats.multivariate_normal(h["mean"], np.linalg.inv(h["precision"]) * variance).logpdf(coef)
    )


def mvn(x, mean, cov):
    return stats.multivariate_normal(mean, cov).logpdf(x).sum()


POSITIVE = np.exp(X[:, 0])
NG = {"mean": 0.3, "count": 1.5, "shape": 2.5, "rate": 1.2}
MATRIX = {"df": 4.5, "scale": SCALE}
FULL = {"mean": np.array([0.2, 0.4]), "count": 1.3, **MATRIX}
REGRESSION = {"mean": np.zeros(2), "precision": SCALE, "shape": 2.0, "scale": 1.0}
P = np.array([0.2, 0.5, 0.3])
CASES = {
    "normal": (NIG, {}, X[:, 0], {}, (0.7, 2.2), nig,
               lambda x, m, v: stats.norm(m, v**0.5).logpdf(x).sum()),
    "normal_gamma": (NG, {}, X[:, 0], {}, (0.7, 0.4), ng,
                     lambda x, m, p: stats.norm(m, p**-0.5).logpdf(x).sum()),
    "lognormal": (NIG, {}, POSITIVE, {}, (0.7, 2.2), nig,
                  lambda x, m, v: stats.lognorm(v**0.5, scale=np.exp(m)).logpdf(x).sum()),
    "lognormal_gamma": (NG, {}, POSITIVE, {}, (0.7, 0.4), ng,
                        lambda x, m, p: stats.lognorm(p**-0.5, scale=np.exp(m)).logpdf(x).sum()),
    "categorical": ({"alpha": [1.0, 2.0, 0.5]}, {}, np.array([0, 2, 1, 1]), {}, (P,),
                    lambda h, p: stats.dirichlet(h["alpha"]).logpdf(p),
                    lambda x, p: np.log(p[x.astype(int)]).sum()),
    "multinomial": ({"alpha": [1.0, 2.0, 0.5]}, {}, np.array([[1, 2, 0], [3, 0, 1]]), {}, (P,),
                    lambda h, p: stats.dirichlet(h["alpha"]).logpdf(p),
                    lambda x, p: sum(stats.multinomial(int(r.sum()), p).logpmf(r) for r in x)),
    "multivariate_normal_mean": (
        {"mean": np.array([0.2, 0.4]), "cov": SCALE}, {"known_cov": COV}, X, {},
        (np.array([0.5, 1.0]),),
        lambda h, m: stats.multivariate_normal(h["mean"], h["cov"]).logpdf(m),
        lambda x, m: mvn(x, m, COV)),
    "multivariate_normal_cov": (
        MATRIX, {"known_mean": np.array([1.0, 0.5])}, X, {}, (COV,),
        lambda h, c: stats.invwishart(h["df"], h["scale"]).logpdf(c),
        lambda x, c: mvn(x, [1.0, 0.5], c)),
    "multivariate_normal_precision": (
        MATRIX, {"known_mean": np.array([1.0, 0.5])}, X, {}, (COV,),
        lambda h, c: stats.wishart(h["df"], h["scale"]).logpdf(c),
        lambda x, c: mvn(x, [1.0, 0.5], np.linalg.inv(c))),
    "multivariate_normal": (FULL, {}, X, {}, (np.array([0.5, 1.0]), COV), niw, mvn),
    "multivariate_normal_wishart": (
        FULL, {}, X, {}, (np.array([0.5, 1.0]), COV), nw,
        lambda x, m, c: mvn(x, m, np.linalg.inv(c))),
    "linear_regression": (
        REGRESSION, {}, TARGET, {"design": DESIGN}, (np.array([0.8, -1.5]), 0.6), regression,
        lambda y, b, v: stats.norm(DESIGN @ b, v**0.5).logpdf(y).sum()),
    "linear_regression_known_variance": (
        {"mean": np.zeros(2), "cov": SCALE}, {"known_variance": 0.3}, TARGET,
        {"design": DESIGN}, (np.array([0.8, -1.5]),),
        lambda h, b: stats.multivariate_normal(h["mean"], h["cov"]).logpdf(b),
        lambda y, b: stats.norm(DESIGN @ b, 0.3**0.5).logpdf(y).sum()),
}  # fmt: skip


def test_all_pairs_with_several_unknowns_have_a_case():
    several = {n for n in conjugate.list()
               if len(conjugate.pair(n).parameters) > 1 or conjugate.pair(n).width}  # fmt: skip
    assert several == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_bayes_rule_holds(name):
    values, known, data, details, theta, prior_log, log_likelihood = CASES[name]
    prior = conjugate.prior(name, **values, **known)
    posterior = prior.update(data, **details)
    assert prior.logpdf(*theta) == pytest.approx(prior_log(values, *theta), abs=1e-9)
    right = prior_log(values, *theta) + log_likelihood(data, *theta) - posterior.logpdf(*theta)
    assert posterior.log_evidence == pytest.approx(right, abs=1e-8)


@pytest.mark.parametrize("name", CASES)
def test_streams_weights_and_predictions(name):
    values, known, data, details, _, _, _ = CASES[name]
    prior = conjugate.prior(name, **values, **known)

    def part(rows):
        return {key: value[rows] for key, value in details.items()}

    whole, first = prior.update(data, **details), prior.update(data[:1], **part(slice(0, 1)))
    both = first.update(data[1:], **part(slice(1, None)))
    for key, value in whole.hyper.items():
        np.testing.assert_allclose(both.hyper[key], value, rtol=1e-9, atol=1e-12)
    assert both.log_evidence == pytest.approx(whole.log_evidence, abs=1e-8)
    twice = prior.update(data[[0, 0, 1]], **part([0, 0, 1]))
    weighted = prior.update(data[:2], weights=[2, 1], **part(slice(0, 2)))
    assert weighted.log_evidence == pytest.approx(twice.log_evidence, abs=1e-9)
    more = {"trials": int(data[1].sum())} if name == "multinomial" else {}
    more |= {"design": DESIGN[1:2]} if details else {}
    new = data[1:2] if details else data[1]
    gained = first.update(data[1:2], **part(slice(1, 2))).log_evidence - first.log_evidence
    assert first.predictive(**more).logpdf(new) == pytest.approx(gained, abs=1e-9)


def named(posterior, values):
    return values if isinstance(values, dict) else {posterior.parameters[0]: values}


@pytest.mark.parametrize("name", CASES)
def test_draws_moments_and_marginals_agree(name):
    values, known, data, details, theta, _, _ = CASES[name]
    posterior = conjugate.prior(name, **values, **known).update(data, **details)
    drawn = posterior.rvs(4000, 1)
    drawn = named(posterior, drawn)
    means = (
        posterior.mean if isinstance(posterior.mean, dict) else {next(iter(drawn)): posterior.mean}
    )
    deviations = (
        posterior.sd if isinstance(posterior.sd, dict) else {next(iter(drawn)): posterior.sd}
    )
    for key, values_ in drawn.items():
        error = np.abs(values_.mean(axis=0) - means[key]) / (deviations[key] / 4000**0.5)
        assert np.max(error) < 5
        for at in np.ndindex(values_.shape[1:]):
            law = posterior.marginal(key, at or None)
            assert stats.kstest(values_[(slice(None), *at)], law.cdf).pvalue > 1e-4
    modes = (
        posterior.mode if isinstance(posterior.mode, dict) else {next(iter(drawn)): posterior.mode}
    )
    top = posterior.logpdf(*modes.values())
    assert np.isfinite(top)
    assert top >= posterior.logpdf(*theta)
    for key in modes:
        shifted = {k: v * (1.0 + 1e-3 * (k == key)) for k, v in modes.items()}
        if key != "p":
            assert posterior.logpdf(*shifted.values()) <= top
    assert np.shape(posterior.interval()[next(iter(drawn))] if len(drawn) > 1 else
                    posterior.interval())[-1] == 2  # fmt: skip
    assert name.split("_")[0] in repr(posterior)
    assert "log evidence" in posterior.summary()


def test_vector_predictives_sample_what_they_say():
    law = conjugate.prior("multivariate_normal", **FULL).update(X).predictive()
    drawn = law.rvs(6000, 2)
    np.testing.assert_allclose(np.cov(drawn.T), law.cov, rtol=0.15, atol=0.3)
    assert law.interval(0.9).shape == (2, 2)
    assert (law.sd > 0).all()
    counts = conjugate.prior("multinomial", alpha=[1.0, 2.0, 0.5]).predictive(trials=4)
    grid = [(i, j, 4 - i - j) for i in range(5) for j in range(5 - i)]
    assert np.exp(counts.logpmf(grid)).sum() == pytest.approx(1.0)
    np.testing.assert_allclose(counts.rvs(4000, 1).mean(axis=0), counts.mean, atol=0.1)


def test_regression_takes_a_large_offset_and_names_what_is_missing():
    prior = conjugate.prior("linear_regression", **REGRESSION)
    far = conjugate.prior("linear_regression", **{**REGRESSION, "mean": np.array([1e6, 0.0])})
    near, away = (prior.update(TARGET, design=DESIGN), far.update(TARGET + 1e6, design=DESIGN))
    assert away.log_evidence == pytest.approx(near.log_evidence, abs=1e-4)
    with pytest.raises(ValueError, match="design"):
        prior.update(TARGET)
    with pytest.raises(ValueError, match="positive definite"):
        conjugate.prior("linear_regression", **{**REGRESSION, "precision": -SCALE})
    with pytest.raises(ValueError, match="df=0"):
        conjugate.prior("multivariate_normal", **{**FULL, "df": 0.5})
    with pytest.raises(ValueError, match="different sizes"):
        conjugate.prior("multivariate_normal", **{**FULL, "mean": np.zeros(3)})
    with pytest.raises(ValueError, match="give the index"):
        prior.marginal("coef")
