"""Posterior: answers from draws agree with the law that the draws come from."""

import numpy as np
import pytest
from scipy import stats

from paragone.estimation import Posterior, families, fit
from paragone.estimation._laws import from_draws

RNG = np.random.default_rng(5)
LOC, SCALE = RNG.normal(2.0, 0.3, (4, 500)), RNG.gamma(50, 1 / 50, (4, 500))


@pytest.fixture(scope="module")
def posterior():
    return Posterior(families.get("normal"), {}, {"loc": LOC, "scale": SCALE}, engine="nuts",
                     log_evidence=-3.0, n=12)  # fmt: skip


def test_moments_quantiles_and_intervals_of_draws(posterior):
    assert posterior.params == pytest.approx({"loc": LOC.mean(), "scale": SCALE.mean()})
    assert posterior.sd["loc"] == pytest.approx(LOC.std(ddof=1))
    assert posterior.quantile(0.25)["loc"] == pytest.approx(np.quantile(LOC, 0.25))
    low, high = posterior.interval(0.9, "equal_tailed")["scale"]
    assert (low, high) == pytest.approx(tuple(np.quantile(SCALE, [0.05, 0.95])))
    short = posterior.interval(0.9)["scale"]
    assert short[1] - short[0] <= high - low
    held = ((short[0] <= SCALE) & (short[1] >= SCALE)).mean()
    assert held >= 0.9
    assert abs(posterior.mode["loc"] - 2.0) < 0.15
    assert posterior.median["loc"] == pytest.approx(np.median(LOC))
    np.testing.assert_allclose(posterior.covariance, np.cov(LOC.ravel(), SCALE.ravel()))
    assert "log evidence -3" in posterior.summary()
    assert "nuts" in repr(posterior)


def test_the_predictive_is_the_mixture(posterior):
    law = posterior.predictive
    x = np.linspace(-1, 5, 7)
    at = np.unique(np.linspace(0, 1999, 250).astype(int))
    members = stats.norm(LOC.ravel()[at][:, None], SCALE.ravel()[at][:, None])
    np.testing.assert_allclose(law.pdf(x), members.pdf(x).mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(law.cdf(x), members.cdf(x).mean(axis=0), rtol=1e-9)
    q = np.array([1e-6, 0.01, 0.3, 0.5, 0.9, 0.999])
    np.testing.assert_allclose(law.cdf(law.quantile(q)), q, rtol=1e-6)
    assert law.mean == pytest.approx(LOC.ravel()[at].mean(), abs=1e-9)
    drawn = law.rvs(2000, 3)
    assert stats.kstest(drawn, law.cdf).pvalue > 1e-3
    low, high = law.interval(0.8)
    assert law.cdf(high) - law.cdf(low) == pytest.approx(0.8, abs=1e-6)


def test_predictions_are_posteriors_of_a_quantity(posterior):
    found = posterior.predict("mean")
    assert found.value == pytest.approx(LOC.mean(), abs=0.05)
    assert found.standard_error == pytest.approx(LOC.std(), rel=0.2)
    tail = posterior.predict("sf", at=[2.0, 4.0])
    assert tail.value.shape == (2,)
    assert (tail.lower <= tail.value).all()
    assert (tail.value <= tail.upper).all()
    for bad in ({"what": "median"}, {"what": "cdf"}, {"what": "mean", "at": 2.0}):
        with pytest.raises(ValueError, match="what="):
            posterior.predict(**bad)
    with pytest.raises(ValueError, match="level=2"):
        posterior.predict(level=2)
    with pytest.raises(ValueError, match="no free parameter"):
        posterior.marginal("shape")


def test_fixed_parameters_stay():
    found = fit([1.2, 3.1, 2.2], "normal", method="bayes", fixed={"scale": 1.0},
                prior={"loc": ("normal", 0, 5)})  # fmt: skip
    assert found.params["scale"] == 1.0
    assert set(found.interval()) == {"loc"}
    assert "fixed" in found.summary()
    exact = found.predictive
    assert exact.var == pytest.approx(1.0 + found.sd["loc"] ** 2)


def test_a_law_of_draws_has_a_density():
    law = from_draws(RNG.normal(size=4000))
    x = np.array([-1.0, 0.0, 1.5])
    np.testing.assert_allclose(law.pdf(x), stats.norm.pdf(x), atol=0.04)
    counts = from_draws(np.array([0.0, 1, 1, 2]), discrete=True)
    assert counts.pmf(1) == pytest.approx(0.5)
    assert counts.quantile(0.6) == 1
