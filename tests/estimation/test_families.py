"""Families: values against SciPy, derivatives against differences, windows against quadrature."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special, stats

from paragone.estimation import _elementary, families
from paragone.estimation._information import law_points
from paragone.estimation._likelihood import Problem
from paragone.estimation._observations import read
from paragone.estimation.families import Data, Parameter, positive, real, unit
from paragone.estimation.families._windows import log_mass

LAWS = {
    "normal": ([1.0, 2.0], lambda t: stats.norm(*t)),
    "half_normal": ([2.0], lambda t: stats.halfnorm(0, *t)),
    "lognormal": ([0.7, 1.0], lambda t: stats.lognorm(t[0], 0, np.exp(t[1]))),
    "lognormal_3p": ([0.7, 3.0, 1.0], lambda t: stats.lognorm(t[0], t[1], np.exp(t[2]))),
    "logistic": ([1.0, 2.0], lambda t: stats.logistic(*t)),
    "laplace": ([1.0, 2.0], lambda t: stats.laplace(*t)),
    "cauchy": ([1.0, 2.0], lambda t: stats.cauchy(*t)),
    "student_t": ([3.5, 1.0, 2.0], lambda t: stats.t(*t)),
    "gumbel_r": ([1.0, 2.0], lambda t: stats.gumbel_r(*t)),
    "gumbel_l": ([1.0, 2.0], lambda t: stats.gumbel_l(*t)),
    "weibull": ([1.5, 2.0], lambda t: stats.weibull_min(t[0], 0, t[1])),
    "weibull_3p": ([1.5, 3.0, 2.0], lambda t: stats.weibull_min(*t)),
    "inverse_weibull": ([2.5, 2.0], lambda t: stats.invweibull(t[0], 0, t[1])),
    "rayleigh": ([2.0], lambda t: stats.rayleigh(0, *t)),
    "gamma": ([0.6, 2.0], lambda t: stats.gamma(t[0], 0, t[1])),
    "gamma_3p": ([3.5, 3.0, 2.0], lambda t: stats.gamma(*t)),
    "exponential": ([2.0], lambda t: stats.expon(0, *t)),
    "exponential_2p": ([1.0, 2.0], lambda t: stats.expon(*t)),
    "pareto": ([2.5, 2.0], lambda t: stats.pareto(t[0], 0, t[1])),
    "skew_normal": ([3.0, 1.0, 2.0], lambda t: stats.skewnorm(*t)),
    "uniform": ([1.0, 2.0], lambda t: stats.uniform(t[0], t[1] - t[0])),
}
"""theta, and theta -> frozen law of SciPy."""

SMOOTH = [name for name in LAWS if name != "uniform"]

P = np.array([1e-4, 0.03, 0.3, 0.5, 0.8, 0.99, 0.9999])


def law(name):
    theta, peer = LAWS[name]
    family = families.get(name)
    return family, family.vector(theta), peer(theta)


def differences(function, theta, h=2e-5):
    """Central differences of fourth order of a function of theta, the last axis in theta."""
    columns = []
    for i in range(len(theta)):
        step = np.zeros(len(theta))
        step[i] = h * max(1.0, abs(theta[i]))
        one = function(theta + step) - function(theta - step)
        two = function(theta + 2 * step) - function(theta - 2 * step)
        columns.append((8 * one - two) / (12 * step[i]))
    return np.stack(columns, axis=-1)


def close(a, b, tolerance):
    scale = np.maximum(np.abs(b), np.abs(b).max() * 1e-3 + 1e-300)
    assert np.max(np.abs(a - b) / scale) < tolerance


@pytest.mark.parametrize("name", LAWS)
def test_values_are_scipys(name):
    family, theta, peer = law(name)
    x = family.ppf(P, theta)
    # Where SciPy's own quantile or tail has fewer digits, the inverse of the other tail judges.
    tolerance = 1e-9 if name in ("skew_normal", "cauchy") else 1e-11
    np.testing.assert_allclose(family.logpdf(x, theta), peer.logpdf(x), rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(family.logcdf(x, theta), peer.logcdf(x), rtol=tolerance, atol=1e-12)
    np.testing.assert_allclose(family.logsf(x, theta), peer.logsf(x), rtol=tolerance, atol=1e-12)
    np.testing.assert_allclose(family.cdf(x, theta), P, rtol=1e-10)
    np.testing.assert_allclose(family.sf(family.isf(P, theta), theta), P, rtol=1e-10)
    mean, var = family.mean(theta), family.var(theta)
    np.testing.assert_allclose([mean, var], [peer.mean(), peer.var()], rtol=1e-12)
    outside = np.array(family.support(theta))
    outside = outside[np.isfinite(outside)] + [-1.0, 1.0][: np.isfinite(outside).sum()]
    assert np.all(np.isneginf(family.logpdf(outside, theta)))


@pytest.mark.parametrize("name", LAWS)
def test_derivatives_are_those_of_the_density(name):
    family, theta, _ = law(name)
    x = family.ppf([0.05, 0.3, 0.55, 0.9], theta)
    value, score, hessian = family.pointwise(x, theta)
    close(score, differences(lambda t: family.pointwise(x, t)[0], theta), 1e-8)
    close(hessian, differences(lambda t: family.pointwise(x, t)[1], theta), 1e-8)
    np.testing.assert_array_equal(hessian, np.swapaxes(hessian, 1, 2))
    assert value.shape == (4,)
    assert score.shape == (4, len(theta))


def test_a_wrong_derivative_is_caught():
    family, theta, _ = law("gamma")
    x = family.ppf([0.05, 0.3, 0.55, 0.9], theta)
    wrong = family.pointwise(x, theta)[1].copy()
    wrong[:, 0] += 1e-6 * x
    with pytest.raises(AssertionError):
        close(wrong, differences(lambda t: family.pointwise(x, t)[0], theta), 1e-8)


@pytest.mark.parametrize("name", SMOOTH)
def test_one_pass_is_the_sum_over_points(name):
    family, theta, _ = law(name)
    random = np.random.default_rng(0)
    for n in (1, 2, 63, 64, 65, 997):
        x, w = family.rvs(theta, n, random), random.integers(1, 4, n).astype(float)
        value, score, hessian = family.terms(family.prepare(Data(x, w)), theta)
        one, first, second = family.pointwise(x, theta)
        np.testing.assert_allclose(value, w @ one, rtol=1e-12, atol=1e-12 * n)
        np.testing.assert_allclose(score, w @ first, rtol=1e-10, atol=1e-11 * n)
        np.testing.assert_allclose(hessian, np.tensordot(w, second, 1), rtol=1e-10, atol=1e-10 * n)


@pytest.mark.parametrize("name", ["normal", "logistic", "weibull_3p", "gamma_3p", "student_t"])
def test_an_offset_of_a_million_costs_its_rounding_only(name):
    family, theta, _ = law(name)
    at = family.names.index("loc")
    far = theta.copy()
    far[at] += 2.0**20
    x = np.round(family.rvs(theta, 101, 1) * 2.0**20) / 2.0**20
    x = x[x > family.support(theta)[0] + 1e-3]
    here = family.terms(family.prepare(Data(x, np.ones(len(x)))), theta)
    there = family.terms(family.prepare(Data(x + 2.0**20, np.ones(len(x)))), far)
    for a, b in zip(here, there, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-7)


@pytest.mark.parametrize("name", LAWS)
def test_windows_hold_what_the_density_integrates_to(name):
    family, theta, peer = law(name)
    q = family.ppf([0.02, 0.4, 0.43, 0.9], theta)
    lower = np.array([-np.inf, q[0], q[1], q[2], q[3], q[0]])
    upper = np.array([q[0], q[1], q[2], q[3], np.inf, q[3]])
    mass, score, hessian = family.windows(lower, upper, theta)
    for a, b, found in zip(lower, upper, mass, strict=True):
        low, high = max(a, family.support(theta)[0]), min(b, family.support(theta)[1])
        with np.errstate(over="ignore"):
            expected = integrate.quad(peer.pdf, low, high, epsabs=0, epsrel=1e-10, limit=200)[0]
        np.testing.assert_allclose(np.exp(found), expected, rtol=1e-8)
    close(score, differences(lambda t: family.windows(lower, upper, t)[0], theta), 2e-8)
    close(hessian, differences(lambda t: family.windows(lower, upper, t)[1], theta), 1e-7)


@pytest.mark.parametrize("name", [name for name in SMOOTH if name != "half_normal"])
def test_windows_in_the_far_tail_keep_their_digits(name):
    family, theta, _ = law(name)
    far = family.isf([1e-20, 1e-60], theta)
    if not np.all(np.isfinite(far)) or np.diff(far) <= 0:
        pytest.skip("the tail is too short for numbers")
    mass, score, hessian = family.windows(far[:1], far[1:], theta)
    np.testing.assert_allclose(mass, np.log(1e-20 - 1e-60), rtol=1e-8)
    assert np.all(np.isfinite(score))
    assert np.all(np.isfinite(hessian))
    close(score, differences(lambda t: family.windows(far[:1], far[1:], t)[0], theta), 1e-6)


def test_log_mass_never_subtracts_in_the_tail():
    a, b = np.array([30.0, -31.0, 30.0, 0.1]), np.array([31.0, -30.0, 30.0 + 1e-9, 0.1 + 1e-9])
    found = log_mass(
        a, b, special.log_ndtr, lambda z: special.log_ndtr(-z),
        lambda z: -0.5 * z * z - 0.5 * np.log(2 * np.pi),
    )  # fmt: skip
    np.testing.assert_allclose(found[0], found[1], rtol=1e-12)
    np.testing.assert_allclose(found[0], special.log_ndtr(-30.0), rtol=1e-10)
    np.testing.assert_allclose(found[2], -450.0 - 0.5 * np.log(2 * np.pi) + np.log(1e-9), rtol=1e-7)
    np.testing.assert_allclose(found[3], np.log(1e-9) - 0.005 - 0.5 * np.log(2 * np.pi), rtol=1e-7)


@pytest.mark.parametrize("name", [name for name in SMOOTH if name not in ("cauchy", "student_t")])
def test_points_of_a_law_have_its_moments(name):
    family, theta, _ = law(name)
    x, w = law_points(family, theta)
    np.testing.assert_allclose(w.sum(), 1.0, rtol=1e-9)
    np.testing.assert_allclose(w @ x, family.mean(theta), rtol=1e-6)
    score, hessian = family.pointwise(x, theta)[1:]
    if family.edges:
        return
    # Bartlett's identities: the mean score is 0, the mean Hessian minus the mean square.
    np.testing.assert_allclose(w @ score, 0.0, atol=1e-6)
    if name in ("laplace", "weibull_3p"):
        return
    square = (score * w[:, None]).T @ score
    np.testing.assert_allclose(np.tensordot(w, hessian, 1), -square, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", LAWS)
def test_random_values_follow_the_law(name):
    family, theta, _ = law(name)
    x = np.sort(family.rvs(theta, 4001, 7))
    gap = np.abs(family.cdf(x, theta) - (np.arange(4001) + 0.5) / 4001).max()
    assert gap < 1.95 / np.sqrt(4001)
    np.testing.assert_array_equal(family.rvs(theta, 5, 3), family.rvs(theta, 5, 3))


def test_problem_in_free_coordinates():
    family, theta, _ = law("weibull_3p")
    problem = Problem(family, read(family.rvs(theta, 40, 2)), {"scale": 2.0})
    assert problem.free == ("shape", "loc")
    u = problem.to_unconstrained(theta[:2])
    np.testing.assert_allclose(problem.from_unconstrained(u)[0], theta[:2])
    value, score, hessian = problem.unconstrained(u)
    np.testing.assert_allclose(value, problem.loglik(theta[:2]), rtol=1e-13)
    close(score, differences(lambda v: np.array(problem.unconstrained(v)[0]), u), 1e-7)
    close(hessian, differences(lambda v: problem.unconstrained(v)[1], u), 1e-7)


@pytest.mark.parametrize(
    "parameter",
    [real("a"), positive("b"), unit("c"), Parameter("d", upper=3.0), Parameter("e", 1, 4)],
)
@given(u=st.floats(-8, 8))
def test_coordinates_without_bounds(parameter, u):
    x, first, second = parameter.from_real(u)
    assert parameter.lower < x < parameter.upper
    np.testing.assert_allclose(parameter.to_real(x), u, rtol=1e-6, atol=1e-9)
    h = 1e-4
    ahead, behind = parameter.from_real(u + h), parameter.from_real(u - h)
    np.testing.assert_allclose(first, (ahead[0] - behind[0]) / (2 * h), rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(second, (ahead[1] - behind[1]) / (2 * h), rtol=1e-5, atol=1e-9)
    log, slope, bend = parameter.log_jacobian(u)
    np.testing.assert_allclose(log, np.log(abs(first)), rtol=1e-9, atol=1e-9)
    more, less = parameter.log_jacobian(u + h), parameter.log_jacobian(u - h)
    np.testing.assert_allclose(slope, (more[0] - less[0]) / (2 * h), atol=1e-6)
    np.testing.assert_allclose(bend, (more[1] - less[1]) / (2 * h), atol=1e-6)


@settings(max_examples=25)
@given(st.sampled_from(SMOOTH), st.floats(1e-6, 1 - 1e-6))
def test_quantile_and_distribution_are_inverse(name, p):
    family, theta, _ = law(name)
    assert float(family.cdf(family.ppf(p, theta), theta)) == pytest.approx(p, rel=1e-8)


def test_elementary_functions():
    x = np.concatenate((np.linspace(-700, 700, 1001), np.linspace(-1, 1, 101)))
    for value in x:
        assert _elementary.exp(value) == pytest.approx(np.exp(value), rel=1e-15)
        y = np.exp(value)
        assert _elementary.log(y) == pytest.approx(np.log(y), rel=1e-15, abs=1e-300)
        z = np.exp(-abs(value))
        assert _elementary.log1p(z) == pytest.approx(np.log1p(z), rel=1e-15, abs=1e-300)
        assert _elementary.erfcx(abs(value)) == pytest.approx(special.erfcx(abs(value)), rel=4e-15)


def test_families_by_name():
    assert families.get("norm") is families.get("Gaussian") is families.get("normal")
    assert families.get("weibull_min").name == "weibull"
    assert families.get(families.get("t")).name == "student_t"
    assert set(LAWS) <= set(families.list()) == {*families.continuous(), *families.discrete()}
    with pytest.raises(ValueError, match="did you mean weibull"):
        families.get("weibul")
    with pytest.raises(ValueError, match="no name"):
        families.get(3)
    with pytest.raises(ValueError, match=r"scale=-1.0 is outside \(0.0, inf\)"):
        families.get("normal").vector([0.0, -1.0])
    with pytest.raises(ValueError, match="has the parameters loc, scale"):
        families.get("normal").cdf(0.0, {"loc": 1.0})
    with pytest.raises(ValueError, match="one value for each"):
        families.get("normal").cdf(0.0, [1.0])
