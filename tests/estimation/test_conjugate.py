"""Conjugate pairs with one unknown, against numerical integration of prior times likelihood."""

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit, logit, logsumexp

from paragone.estimation import conjugate

POSITIVE = np.array([0.3, 1.1, 0.7, 2.4, 0.9])
REAL = np.array([-1.2, 0.4, 2.0, 1.1, 0.3])
UNIT = np.array([0.31, 0.72, 0.55, 0.9, 0.12])
GAMMA = {"shape": 3.5, "rate": 1.5}
INVERSE = {"shape": 3.5, "scale": 1.5}


def _gamma(h):
    return stats.gamma(h["shape"], scale=1 / h["rate"])


def _inverse(h):
    return stats.invgamma(h["shape"], scale=h["scale"])


def case(name, data, law, prior=_gamma, values=None, known=None, space="log", **more):
    values = (GAMMA if prior is _gamma else INVERSE) if values is None else values
    return {"name": name, "data": data, "law": law, "prior": prior, "values": values,
            "known": known or {}, "space": space, "more": more}  # fmt: skip


def _beta(h):
    return stats.beta(h["a"], h["b"])


def _normal(h):
    return stats.norm(h["mean"], h["variance"] ** 0.5)


class Logit:
    """Logit-normal, which SciPy has not."""

    def __init__(self, mean, sd):
        self.law = stats.norm(mean, sd)

    def logpdf(self, x):
        return self.law.logpdf(np.log(x / (1 - x))) - np.log(x * (1 - x))

    def cdf(self, x):
        return self.law.cdf(np.log(x / (1 - x)))


class Kumaraswamy:
    def __init__(self, a, b):
        self.a, self.b = a, b

    def logpdf(self, x):
        return np.log(self.a * self.b * x ** (self.a - 1) * (1 - x**self.a) ** (self.b - 1))

    def cdf(self, x):
        return 1 - (1 - x**self.a) ** self.b


class Directions:
    """SciPy's von Mises starts its distribution function at loc - pi."""

    def __init__(self, kappa, loc):
        self.law, self.loc = stats.vonmises(kappa, loc=loc), loc

    def logpdf(self, x):
        return self.law.logpdf(x)

    def cdf(self, x):
        return self.law.cdf(x) - self.law.cdf(-np.pi)


BETA = {"a": 2.5, "b": 1.5}
PLACE = {"mean": 0.5, "variance": 2.0}
COUNTS = np.array([3.0, 0, 5, 2])

CASES = [
    case("bernoulli", [1, 0, 1, 1], lambda p: stats.bernoulli(p), _beta, BETA, space="logit"),
    case("binomial", COUNTS, lambda p: stats.binom(7, p), _beta, BETA, {"trials": 7}, "logit"),
    case("geometric", COUNTS + 1, lambda p: stats.geom(p), _beta, BETA, space="logit"),
    case("negative_binomial", COUNTS, lambda p: stats.nbinom(2.5, p), _beta, BETA,
         {"known_size": 2.5}, "logit"),
    case("poisson", COUNTS, lambda r: stats.poisson(r)),
    case("exponential", POSITIVE, lambda r: stats.expon(scale=1 / r)),
    case("exponential_scale", POSITIVE, lambda s: stats.expon(scale=s), _inverse),
    case("gamma_rate", POSITIVE, lambda r: stats.gamma(1.7, scale=1 / r),
         known={"known_shape": 1.7}),
    case("gamma_scale", POSITIVE, lambda s: stats.gamma(1.7, scale=s), _inverse,
         known={"known_shape": 1.7}),
    case("weibull_rate", POSITIVE, lambda r: stats.weibull_min(1.8, scale=r ** (-1 / 1.8)),
         known={"known_shape": 1.8}),
    case("weibull_scale", POSITIVE, lambda s: stats.weibull_min(1.8, scale=s ** (1 / 1.8)),
         _inverse, known={"known_shape": 1.8}),
    case("normal_precision", REAL, lambda r: stats.norm(0.2, r**-0.5), known={"known_mean": 0.2}),
    case("normal_variance", REAL, lambda v: stats.norm(0.2, v**0.5), _inverse,
         known={"known_mean": 0.2}),
    case("normal_variance_chi2", REAL, lambda v: stats.norm(0.2, v**0.5),
         lambda h: stats.invgamma(h["df"] / 2, scale=h["df"] * h["scale"] / 2),
         {"df": 5.0, "scale": 0.8}, {"known_mean": 0.2}),
    case("lognormal_precision", POSITIVE, lambda r: stats.lognorm(r**-0.5, scale=np.exp(0.2)),
         known={"known_mean": 0.2}),
    case("lognormal_variance", POSITIVE, lambda v: stats.lognorm(v**0.5, scale=np.exp(0.2)),
         _inverse, known={"known_mean": 0.2}),
    case("rayleigh_precision", POSITIVE, lambda r: stats.rayleigh(scale=r**-0.5)),
    case("rayleigh_variance", POSITIVE, lambda v: stats.rayleigh(scale=v**0.5), _inverse),
    case("maxwell_precision", POSITIVE, lambda r: stats.maxwell(scale=r**-0.5)),
    case("maxwell_variance", POSITIVE, lambda v: stats.maxwell(scale=v**0.5), _inverse),
    case("laplace_rate", REAL, lambda r: stats.laplace(0.2, 1 / r), known={"known_loc": 0.2}),
    case("laplace_scale", REAL, lambda s: stats.laplace(0.2, s), _inverse,
         known={"known_loc": 0.2}),
    case("half_normal", POSITIVE, lambda r: stats.halfnorm(scale=r**-0.5)),
    case("inverse_gamma_scale", POSITIVE, lambda s: stats.invgamma(1.7, scale=s),
         known={"known_shape": 1.7}),
    case("generalized_gamma", POSITIVE,
         lambda r: stats.gengamma(2 / 1.4, 1.4, scale=r ** (-1 / 1.4)),
         known={"known_shape": 2.0, "known_power": 1.4}),
    case("levy", POSITIVE, lambda s: stats.levy(-0.4, s), known={"known_loc": -0.4}),
    case("nakagami", POSITIVE, lambda r: stats.nakagami(1.3, scale=r**-0.5),
         known={"known_shape": 1.3}),
    case("power_function", UNIT, lambda a: stats.powerlaw(a)),
    case("pareto_shape", POSITIVE + 1, lambda a: stats.pareto(a, scale=0.9),
         known={"known_minimum": 0.9}),
    case("lomax", POSITIVE, lambda a: stats.lomax(a, scale=1.4), known={"known_scale": 1.4}),
    case("burr", POSITIVE, lambda a: stats.burr12(1.6, a), known={"known_shape": 1.6}),
    case("gumbel", REAL, lambda r: stats.gumbel_r(0.8 * np.log(r), 0.8),
         known={"known_scale": 0.8}),
    case("frechet", POSITIVE, lambda r: stats.invweibull(2.6, scale=r ** (1 / 2.6)),
         known={"known_shape": 2.6}),
    case("gompertz", POSITIVE, lambda r: stats.gompertz(r / 0.6, scale=1 / 0.6),
         known={"known_ageing": 0.6}),
    case("kumaraswamy", UNIT, lambda b: Kumaraswamy(1.7, b), known={"known_shape": 1.7}),
    case("exponentiated_exponential", POSITIVE, lambda a: stats.exponweib(a, 1, scale=1 / 1.2),
         known={"known_rate": 1.2}),
    case("inverse_gaussian", POSITIVE, lambda r: stats.invgauss(1.2 / r, scale=r),
         known={"known_mean": 1.2}),
    case("normal_mean", REAL, lambda m: stats.norm(m, 0.7), _normal, PLACE,
         {"known_variance": 0.49}, "real"),
    case("lognormal_mean", POSITIVE, lambda m: stats.lognorm(0.7, scale=np.exp(m)), _normal,
         PLACE, {"known_variance": 0.49}, "real"),
    case("logitnormal_mean", UNIT, lambda m: Logit(m, 0.7), _normal, PLACE,
         {"known_variance": 0.49}, "real"),
    case("uniform", POSITIVE, lambda b: stats.uniform(0, b),
         lambda h: stats.pareto(h["shape"], scale=h["minimum"]), {"shape": 2.5, "minimum": 1.0}),
    case("pareto_minimum", POSITIVE, lambda m: stats.pareto(2.6, scale=m),
         lambda h: stats.powerlaw(h["shape"], scale=h["maximum"]), {"shape": 2.0, "maximum": 2.0},
         {"known_shape": 2.6}),
    case("von_mises", REAL, lambda m: Directions(1.5, m),
         lambda h: stats.vonmises(h["concentration"], loc=h["mean"]),
         {"mean": 0.4, "concentration": 0.8}, {"known_concentration": 1.5}, "circle"),
]  # fmt: skip

IDS = [case["name"] for case in CASES]
SPACES = {
    "log": (np.log, np.exp, lambda t: t),
    "logit": (logit, expit, lambda t: -np.logaddexp(0, t) - np.logaddexp(0, -t)),
    "real": (lambda x: x, lambda t: t, lambda t: 0 * t),
    "circle": (lambda x: x, lambda t: t, lambda t: 0 * t),
}


def made(case):
    prior = conjugate.prior(case["name"], **case["values"], **case["known"])
    return prior, prior.update(case["data"])


def log_density(law, x):
    return law.logpmf(x) if hasattr(law, "dist") and hasattr(law.dist, "pmf") else law.logpdf(x)


class Integral:
    """Prior times likelihood on a fine grid, made of SciPy's densities alone."""

    def __init__(self, case, posterior):
        into, back, slope = SPACES[case["space"]]
        law = posterior.marginal()
        low, high = law.quantile([0.0, 1.0] if case["space"] == "circle" else [1e-13, 1 - 1e-13])
        low = law.support[0] if case["name"] == "uniform" else low
        high = law.support[1] if case["name"] == "pareto_minimum" else high
        t = np.linspace(into(low), into(high), 2001)
        self.theta = np.clip(back(t), low, high)
        self.laws = case["law"](self.theta[:, None])
        data = np.asarray(case["data"], float)
        log = log_density(self.laws, data).sum(axis=1)
        self.log = log + case["prior"](case["values"]).logpdf(self.theta)
        simpson = np.full(len(t), 2.0)
        simpson[1::2], simpson[0], simpson[-1] = 4.0, 1.0, 1.0
        self.log_weight = self.log + slope(t) + np.log(simpson * (t[1] - t[0]) / 3)
        self.evidence = logsumexp(self.log_weight)
        self.share = np.exp(self.log_weight - self.evidence)


@pytest.fixture(scope="module", params=CASES, ids=IDS)
def solved(request):
    case = request.param
    prior, posterior = made(case)
    return case, prior, posterior, Integral(case, posterior)


def test_all_pairs_with_one_unknown_have_a_case():
    single = {n for n in conjugate.list() if len(conjugate.pair(n).parameters) == 1}
    vectors = {n for n in single if conjugate.pair(n).width} | {"hypergeometric"}
    assert single - vectors == set(IDS)
    assert len(conjugate.list()) >= 35


def test_evidence_and_posterior_are_the_integral(solved):
    _, prior, posterior, integral = solved
    assert posterior.log_evidence == pytest.approx(integral.evidence, abs=1e-8)
    inner = slice(100, -100, 50)
    np.testing.assert_allclose(
        posterior.logpdf(integral.theta[inner]),
        (integral.log - integral.evidence)[inner],
        atol=1e-8,
    )
    law = posterior.marginal()
    mean = integral.share @ integral.theta
    assert law.mean == pytest.approx(mean, rel=1e-7)
    assert law.var == pytest.approx(integral.share @ (integral.theta - mean) ** 2, rel=1e-6)
    if np.isfinite(law.mode):
        around = law.mode + np.array([-1e-3, 1e-3]) * law.sd
        assert (law.logpdf(around) <= law.logpdf(law.mode)).all()
    assert prior.log_evidence == 0


def test_predictive_is_the_mixture(solved):
    case, _, posterior, integral = solved
    law = posterior.predictive()
    data = np.asarray(case["data"], float)
    new = data if law.discrete else np.concatenate([data * 0.9, data[:2] * 1.01])
    if case["name"] in ("pareto_shape", "pareto_minimum", "uniform"):
        new = data
    density = integral.share @ np.exp(log_density(integral.laws, new))
    exact = 1e-4 if case["name"] in ("uniform", "pareto_minimum") else 1e-7
    np.testing.assert_allclose(law.pdf(new), density, rtol=exact)
    np.testing.assert_allclose(law.cdf(new), integral.share @ integral.laws.cdf(new), rtol=exact)


def test_moments_of_the_predictive(solved):
    case, _, posterior, integral = solved
    law = posterior.predictive()
    drawn = law.rvs(4_000, random_state=1)
    if not law.discrete:
        assert stats.kstest(drawn, law.cdf).pvalue > 1e-4
    else:
        for x in np.unique(drawn)[:4]:
            p = law.pmf(x)
            assert abs((drawn == x).mean() - p) < 5 * np.sqrt(p * (1 - p) / len(drawn))
    if np.isfinite(law.mean) and case["name"] not in ("uniform", "pareto_minimum", "von_mises"):
        p = np.linspace(0, 1, 4001)[1:-1]
        if np.isfinite(law.var):
            rough = law.quantile(p).mean()
            assert abs(rough - law.mean) < 0.05 * law.sd
        # SciPy integrates the moments of these two numerically, for each parameter.
        slow = case["name"] in ("gompertz", "exponentiated_exponential")
        if not slow and hasattr(integral.laws, "mean") and law.mean > 0 and np.isfinite(law.var):
            means, variances = integral.laws.mean()[:, 0], integral.laws.var()[:, 0]
            mean = integral.share @ means
            if np.isfinite(variances).all():
                assert law.mean == pytest.approx(mean, rel=1e-6)
                total = integral.share @ (variances + (means - mean) ** 2)
                assert law.var == pytest.approx(total, rel=1e-5)


def test_quantiles_intervals_and_draws(solved):
    case, _, posterior, _ = solved
    for law in (posterior.marginal(), posterior.predictive()):
        q = np.array([0.001, 0.1, 0.5, 0.9, 0.999])
        x = law.quantile(q)
        if law.discrete:
            assert (law.cdf(x) >= q - 1e-12).all()
            assert (np.where(x > law.support[0], law.cdf(x - 1), 0) < q).all()
        else:
            np.testing.assert_allclose(law.cdf(x), q, rtol=1e-7)
        tails, short = law.interval(0.9, "equal_tailed"), law.interval(0.9)
        assert short[1] - short[0] <= tails[1] - tails[0] + 1e-9
        held = law.cdf(short[1]) - law.cdf(short[0] - law.discrete)
        if law.discrete:
            assert held >= 0.9 - 1e-12
        else:
            assert held == pytest.approx(0.9, abs=1e-7)
            inner = (short[0] > law.quantile(1e-9)) & (short[1] < law.quantile(1 - 1e-9))
            kinked = case["name"] in ("uniform", "pareto_minimum", "laplace_rate", "laplace_scale")
            if inner and not kinked:
                assert law.logpdf(short[0]) == pytest.approx(law.logpdf(short[1]), abs=1e-5)
    drawn = posterior.rvs(4_000, random_state=2)
    assert stats.kstest(drawn, posterior.marginal().cdf).pvalue > 1e-4


def test_batches_order_and_weights_give_the_same(solved):
    case, prior, posterior, _ = solved
    data = np.asarray(case["data"], float)
    parts = prior.update(data[:1]).update(data[1:3]).update(data[3:])
    back = prior.update(data[::-1])
    for other in (parts, back):
        for key, value in posterior.hyper.items():
            assert other.hyper[key] == pytest.approx(value, rel=1e-12)
        assert other.log_evidence == pytest.approx(posterior.log_evidence, rel=1e-10)
    assert parts.n == len(data)
    weights = np.array([2.0, 0, 1, 1, 3])[: len(data)]
    repeated = prior.update(np.repeat(data, weights.astype(int)))
    weighted = prior.update(data, weights=weights)
    assert weighted.log_evidence == pytest.approx(repeated.log_evidence, rel=1e-11)
    assert weighted.hyper == pytest.approx(repeated.hyper, rel=1e-12)
    told = prior.update(statistics=prior.statistics(data))
    assert told.hyper == pytest.approx(posterior.hyper)
    next_log = prior.update(data[:1]).predictive().logpdf(data[1])
    chain = prior.update(data[:1]).log_evidence + next_log
    assert chain == pytest.approx(prior.update(data[:2]).log_evidence, abs=1e-9)


@pytest.mark.parametrize("name", ["exponential", "weibull_rate", "rayleigh_variance", "lomax",
                                  "pareto_shape", "burr", "gompertz", "kumaraswamy"])  # fmt: skip
def test_censored_observations_count_by_their_survival(name):
    case = next(c for c in CASES if c["name"] == name)
    prior = conjugate.prior(name, **case["values"], **case["known"])
    data = np.asarray(case["data"], float)
    censored = np.array([False, True, False, True, False])
    posterior = prior.update(data, censored=censored)
    integral = Integral({**case, "data": data[~censored]}, posterior)
    weights = np.exp(integral.log_weight)
    survival = np.prod(1 - integral.laws.cdf(data[censored]), axis=1)
    assert posterior.log_evidence == pytest.approx(np.log(weights @ survival), abs=1e-7)


def test_a_planted_bug_is_caught_by_the_oracle():
    case = next(c for c in CASES if c["name"] == "exponential")
    _, posterior = made(case)
    integral = Integral(case, posterior)
    wrong = conjugate.prior("exponential", **case["values"]).update(
        statistics={"count": 4, "total": float(np.sum(case["data"])), "log_base": 0.0}
    )
    assert abs(wrong.log_evidence - integral.evidence) > 1e-3
