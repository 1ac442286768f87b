"""Conjugate pairs: details of a call, values from the literature, properties, what is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from paragone.estimation import conjugate


def test_poisson_exposures_and_binomial_trials():
    prior = conjugate.prior("poisson", shape=2.0, rate=1.0)
    post = prior.update([3, 5], exposure=[2.0, 4.0])
    assert post.hyper == {"shape": 10.0, "rate": 7.0}
    rate = np.linspace(1e-6, 12, 40001)
    joint = (
        stats.gamma(2).pdf(rate) * stats.poisson(2 * rate).pmf(3) * stats.poisson(4 * rate).pmf(5)
    )
    assert post.log_evidence == pytest.approx(np.log(integrate.simpson(joint, x=rate)), abs=1e-8)
    law = post.predictive(exposure=3.0)
    mixed = integrate.simpson(post.marginal().pdf(rate) * stats.poisson(3 * rate).pmf(6), x=rate)
    assert law.pmf(6) == pytest.approx(mixed, rel=1e-8)
    beta = conjugate.prior("binomial", a=1, b=1).update([3, 4], trials=[5, 9])
    assert beta.hyper == {"a": 8.0, "b": 8.0}
    assert beta.predictive(trials=4).mean == pytest.approx(2.0)


def test_draws_without_replacement_by_enumeration():
    prior = conjugate.prior("hypergeometric", a=1.5, b=2.0, population=12)
    post = prior.update([2, 1], draws=[4, 3])
    k = np.arange(13)
    first = stats.hypergeom(12, k, 4).pmf(2)
    second = np.array([stats.hypergeom(8, v - 2, 3).pmf(1) if 2 <= v <= 10 else 0.0 for v in k])
    joint = stats.betabinom(12, 1.5, 2.0).pmf(k) * first * second
    assert post.log_evidence == pytest.approx(np.log(joint.sum()), abs=1e-10)
    np.testing.assert_allclose(post.marginal().pmf(k), joint / joint.sum(), atol=1e-12)
    assert post.mean == pytest.approx(joint @ k / joint.sum())
    assert post.mode == k[np.argmax(joint)]
    with pytest.raises(ValueError, match="too many"):
        post.update([2], draws=9)


def test_golden_placenta_previa():
    """Gelman et al. (2013), section 2.4: 437 girls among 980 births, uniform prior."""
    post = conjugate.prior("binomial", a=1, b=1).update(437, trials=980)
    assert round(post.mean, 3) == 0.446
    assert round(post.sd, 3) == 0.016
    low, high = post.interval(0.95, "equal_tailed")
    assert (round(low, 3), round(high, 3)) == (0.415, 0.477)


def test_golden_asthma_mortality():
    """Gelman et al. (2013), section 2.6: 3 deaths in 0.2 million, prior gamma(3, 5)."""
    post = conjugate.prior("poisson", shape=3, rate=5).update(3, exposure=2.0)
    assert post.hyper == {"shape": 6.0, "rate": 7.0}
    assert round(post.mean, 2) == 0.86
    assert round(1 - post.marginal().cdf(1.0), 2) == 0.30


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=2, max_size=30), st.integers(1, 29))
def test_streaming_equals_batch(counts, cut):
    cut = min(cut, len(counts) - 1)
    prior = conjugate.prior("poisson", shape=0.7, rate=0.2)
    whole, parts = prior.update(counts), prior.update(counts[:cut]).update(counts[cut:])
    assert parts.hyper == pytest.approx(whole.hyper)
    assert parts.log_evidence == pytest.approx(whole.log_evidence)


def test_an_offset_of_a_million_costs_no_digits():
    data = np.array([0.1, -0.3, 0.7, 0.2])
    near = conjugate.prior("normal_mean", mean=0.0, variance=2.0, known_variance=0.5).update(data)
    far = conjugate.prior("normal_mean", mean=1e6, variance=2.0, known_variance=0.5)
    far = far.update(data + 1e6)
    assert far.log_evidence == pytest.approx(near.log_evidence, abs=1e-8)
    assert far.mean - 1e6 == pytest.approx(near.mean, abs=1e-8)


def test_what_is_wrong_is_named():
    with pytest.raises(ValueError, match="use one of poisson"):
        conjugate.prior("poison", shape=1, rate=1)
    with pytest.raises(ValueError, match="needs rate"):
        conjugate.prior("poisson", shape=1)
    with pytest.raises(ValueError, match="has no mean"):
        conjugate.prior("poisson", shape=1, rate=1, mean=2)
    with pytest.raises(ValueError, match="rate=-1 must be above 0"):
        conjugate.prior("poisson", shape=1, rate=-1)
    prior = conjugate.prior("poisson", shape=1, rate=1)
    for bad in ([], [np.nan], [-1], [0.5], [[1, 2]]):
        with pytest.raises(ValueError, match="data"):
            prior.update(bad)
    with pytest.raises(ValueError, match="weights"):
        prior.update([1, 2], weights=[0, 0])
    with pytest.raises(ValueError, match="takes no 'censored'"):
        prior.update([1], censored=[True])
    with pytest.raises(ValueError, match="either data or statistics"):
        prior.update()
    with pytest.raises(ValueError, match="need exposure"):
        prior.update(statistics={"events": 3})
    assert np.isnan(prior.update(statistics={"events": 3, "exposure": 1.0}).log_evidence)
    with pytest.raises(ValueError, match="level=95"):
        prior.interval(95)
    with pytest.raises(ValueError, match="none of 'hpd'"):
        prior.interval(0.9, "wald")
    with pytest.raises(ValueError, match="no probability"):
        prior.quantile(1.5)


@pytest.mark.peers
def test_updates_agree_with_conjugate_models():
    peer = pytest.importorskip("conjugate.models", reason="conjugate-models is not installed")
    laws = pytest.importorskip("conjugate.distributions")
    x = np.array([3, 5, 4, 0])
    theirs = peer.poisson_gamma(n=4, x_total=x.sum(), prior=laws.Gamma(2, 1))
    ours = conjugate.prior("poisson", shape=2, rate=1).update(x)
    assert (ours.hyper["shape"], ours.hyper["rate"]) == (theirs.alpha, theirs.beta)
    theirs = peer.normal_normal_inverse_gamma(
        x_total=x.sum(), x2_total=(x**2).sum(), n=4,
        prior=laws.NormalInverseGamma(mu=1.0, nu=2.0, alpha=3.0, beta=4.0),
    )  # fmt: skip
    ours = conjugate.prior("normal", mean=1, count=2, shape=3, scale=4).update(x)
    assert ours.hyper["mean"] == pytest.approx(theirs.mu)
    assert ours.hyper["scale"] == pytest.approx(theirs.beta)
    theirs = peer.binomial_beta(n=20, x=12, prior=laws.Beta(1, 1))
    ours = conjugate.prior("binomial", a=1, b=1).update(12, trials=20)
    assert (ours.hyper["a"], ours.hyper["b"]) == (theirs.alpha, theirs.beta)
    theirs = peer.pareto_gamma(n=4, ln_x_total=np.log(x + 1).sum(), x_m=1.0, prior=laws.Gamma(2, 1))
    ours = conjugate.prior("pareto_shape", shape=2, rate=1, known_minimum=1.0).update(x + 1)
    assert (ours.hyper["shape"], ours.hyper["rate"]) == pytest.approx((theirs.alpha, theirs.beta))
