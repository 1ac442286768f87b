"""Closed log masses of windows against quadrature of the score, SciPy's tails, and series."""

import numpy as np
import pytest
from scipy import stats

from paragone.estimation import families, fit
from paragone.estimation._likelihood import Problem
from paragone.estimation._observations import read

CLOSED = [name for name in families.list() if getattr(families.get(name), "closed", ())]
VALUES = {
    "loc": 1.5, "mu": 0.4, "scale": 2.0, "xi": 0.2, "c": 2.5, "d": 1.3, "shape": 2.5, "sigma": 0.7,
}  # fmt: skip
PEERS = {
    "normal": stats.norm(1.5, 2), "half_normal": stats.halfnorm(scale=2),
    "lognormal": stats.lognorm(0.7, scale=np.exp(0.4)), "logistic": stats.logistic(1.5, 2),
    "laplace": stats.laplace(1.5, 2), "cauchy": stats.cauchy(1.5, 2),
    "gumbel_r": stats.gumbel_r(1.5, 2), "gumbel_l": stats.gumbel_l(1.5, 2),
    "weibull": stats.weibull_min(2.5, scale=2), "rayleigh": stats.rayleigh(scale=2),
    "exponential": stats.expon(scale=2), "pareto": stats.pareto(2.5, scale=2),
    "generalized_pareto": stats.genpareto(0.2, scale=2),
    "log_logistic": stats.fisk(2.5, scale=2), "burr12": stats.burr12(2.5, 1.3, scale=2),
}  # fmt: skip


def law(name):
    family = families.get(name)
    return family, np.array([VALUES[each] for each in family.names])


def windows(family, theta):
    """One-sided windows on both sides and in both tails, intervals, and all of the line."""
    q, s = family.ppf([0.02, 0.4, 0.55, 0.9], theta), family.isf([1e-6, 1e-12, 1e-30], theta)
    low = family.ppf([1e-6, 1e-9], theta)
    lower = [-np.inf, q[0], q[1], q[2], q[3], q[0], s[0], s[2], s[0], s[1], -np.inf, -np.inf]
    upper = [q[0], q[1], q[2], q[3], np.inf, q[3], np.inf, np.inf, s[1], s[2], low[0], low[1]]
    return np.array([*lower, -np.inf]), np.array([*upper, np.inf])


def close(found, expected, rtol):
    """Relative to the largest entry of each row."""
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * max(np.abs(b).max(), 1e-3))


@pytest.mark.parametrize("name", CLOSED)
def test_closed_windows_are_those_of_quadrature(name):
    family, theta = law(name)
    ends = windows(family, theta)
    with np.errstate(all="ignore"):
        expected = family._integrated(*ends, theta)
    found = family.windows(*ends, theta)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-9, atol=1e-12)
    close(found[1], expected[1], 1e-9)
    close(found[2], expected[2], 1e-9)


def test_a_wrong_curvature_is_caught():
    family, theta = law("weibull")
    ends = windows(family, theta)
    wrong = family.windows(*ends, theta)[2] * (1.0 + 1e-7)
    with pytest.raises(AssertionError):
        close(wrong, family._integrated(*ends, theta)[2], 1e-9)


@pytest.mark.parametrize("name", CLOSED)
def test_the_sum_is_that_of_the_windows(name):
    family, theta = law(name)
    ends = windows(family, theta)
    w = np.arange(1.0, len(ends[0]) + 1.0)
    value, score, hessian = family.window_sums(*ends, w, theta)
    each = family.windows(*ends, theta)
    np.testing.assert_allclose(value, w @ each[0], rtol=1e-13)
    np.testing.assert_allclose(score, w @ each[1], rtol=1e-11)
    close([hessian], [np.tensordot(w, each[2], 1)], 1e-11)
    np.testing.assert_array_equal(hessian, hessian.T)


@pytest.mark.parametrize("name", PEERS)
def test_tails_are_scipys(name):
    family, theta = law(name)
    peer = PEERS[name]
    x = peer.ppf([1e-6, 0.01, 0.3, 0.6, 0.99])
    top = np.full(5, np.inf)
    np.testing.assert_allclose(family.windows(x, top, theta)[0], peer.logsf(x), rtol=1e-9)
    np.testing.assert_allclose(family.windows(-top, x, theta)[0], peer.logcdf(x), rtol=1e-9)


@pytest.mark.parametrize("z", [20.0, 40.0, 1e3, 1e6])
def test_the_normal_tail_where_it_is_no_number(z):
    family = families.get("normal")
    value, score, hessian = family.windows([z], [np.inf], np.array([0.0, 1.0]))
    np.testing.assert_allclose(value, stats.norm.logsf(z), rtol=1e-12)
    u = 1.0 / (z * z)
    # Mills' ratio and its slope by their series.
    rate = z * (1.0 + u - 2.0 * u**2 + 10.0 * u**3 - 74.0 * u**4)
    bend = -(1.0 - u * (1.0 - 6.0 * u * (1.0 - 25 / 3 * u)))
    np.testing.assert_allclose(score[0, 0], rate, rtol=1e-8)
    np.testing.assert_allclose(hessian[0, 0, 0], bend, rtol=1e-6)
    mirrored = family.windows([-np.inf], [-z], np.array([0.0, 1.0]))
    np.testing.assert_allclose(mirrored[0], value, rtol=1e-14)
    np.testing.assert_allclose(mirrored[1][0], score[0] * [-1.0, 1.0], rtol=1e-14)


def test_tails_whose_logarithm_is_large():
    family = families.get("weibull")
    value, score, hessian = family.windows([300.0], [np.inf], np.array([3.0, 1.0]))
    t, ell = 300.0**3, np.log(300.0)
    np.testing.assert_allclose(value, -t, rtol=1e-13)
    np.testing.assert_allclose(score[0], [-t * ell, 3.0 * t], rtol=1e-13)
    np.testing.assert_allclose(hessian[0, 0, 0], -t * ell * ell, rtol=1e-13)
    family = families.get("gumbel_r")
    value, score, hessian = family.windows([900.0], [np.inf], np.array([0.0, 1.0]))
    np.testing.assert_allclose(value, -900.0, rtol=1e-15)
    np.testing.assert_allclose(score[0], [1.0, 900.0], rtol=1e-13)
    np.testing.assert_allclose(hessian[0, 0, 0], 0.0, atol=1e-13)


@pytest.mark.parametrize("name", [name for name in CLOSED if name != "laplace"])
def test_a_narrow_window_is_the_density_in_its_middle(name):
    family, theta = law(name)
    x = family.ppf([0.1, 0.5, 0.9], theta)
    half = 2.0**-22
    found = family.windows(x - half, x + half, theta)
    value, score, hessian = family.pointwise(x, theta)
    np.testing.assert_allclose(found[0], value + np.log(2 * half), rtol=1e-9)
    close(found[1], score, 1e-7)
    close(found[2], hessian, 1e-7)
    sums = family.window_sums(x - half, x + half, np.ones(3), theta)
    np.testing.assert_allclose(sums[1], found[1].sum(axis=0), rtol=1e-12)


def test_windows_beyond_the_support_have_no_mass():
    family = families.get("generalized_pareto")
    theta = np.array([-0.5, 1.0])
    value, score, hessian = family.windows([-2.0, 3.0, -1.0, 1.0], [-1.0, 4.0, 5.0, 1.0], theta)
    np.testing.assert_array_equal(value, [-np.inf, -np.inf, 0.0, -np.inf])
    assert not score.any()
    assert not hessian.any()


def test_truncation_is_a_window_that_counts_negatively():
    x = families.get("weibull").rvs([1.5, 2.0], 30, 1)
    x = x[(x > 0.3) & (x < 4.0)]
    codes = np.where(x > 2.5, "right", "none")
    seen = read(np.minimum(x, 2.5), censoring=codes, truncation=(0.3, 4.0))
    family, theta = families.get("weibull"), np.array([1.3, 2.2])
    value = Problem(family, seen).loglik(theta)
    peer = stats.weibull_min(1.3, scale=2.2)
    mass = peer.cdf(4.0) - peer.cdf(0.3)
    late = (x > 2.5).sum()
    expected = peer.logpdf(x[x <= 2.5]).sum() - len(x) * np.log(mass)
    expected += late * np.log(peer.cdf(4.0) - peer.cdf(2.5))
    np.testing.assert_allclose(value, expected, rtol=1e-12)


def test_a_noncentral_t_beyond_all_digits_is_no_candidate():
    family = families.get("noncentral_t")
    theta = np.array([1e30, 0.5, 0.0, 1.0])
    value, score, hessian = family.windows([1.0], [np.inf], theta)
    assert np.isneginf(value[0])
    assert not score.any()
    assert not hessian.any()
    problem = Problem(family, read([0.5, 1.0, 2.0], censoring=[0, 0, 1]))
    assert problem.loglik(theta) == -np.inf


def test_repeated_limits_cost_one_window():
    x = np.minimum(families.get("gamma").rvs([2.0, 1.0], 200, 3), 2.0)
    seen = read(x, censoring=x == 2.0)
    assert len(seen.lower) == 1
    assert seen.window_w[0] == (x == 2.0).sum()
    assert fit(x, "gamma", censoring=x == 2.0).converged
