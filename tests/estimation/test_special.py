"""Special functions against SciPy and mpmath-free oracles, on wide grids."""

import math

import numpy as np
import pytest
from scipy import special, stats

from paragone.estimation import _incomplete as inc
from paragone.estimation import _special as sp

POSITIVE = np.concatenate([np.logspace(-8, 8, 60), np.arange(1, 40) / 4, [1.46163214496836]])


def apply(function, *grids):
    return np.array([function(*row) for row in zip(*map(np.ravel, grids), strict=True)])


def close(found, expected, rtol, atol=0.0):
    found, expected = np.asarray(found), np.asarray(expected)
    assert np.all(np.abs(found - expected) <= rtol * np.abs(expected) + atol), np.max(
        np.abs(found - expected) / (np.abs(expected) + 1e-300)
    )


@pytest.mark.parametrize("n", [0, 1])
def test_psi_functions(n):
    function = (sp.digamma, sp.trigamma)[n]
    x = POSITIVE
    expected = special.digamma(x) if n == 0 else special.polygamma(n, x)
    close(apply(function, x), expected, 2e-14)


def test_digamma_near_its_zero_is_the_product_form():
    """About the zero, psi(x) = psi'(x0) (x - x0) to first order."""
    zero, rest = 1.4616321449683622, 9.549995429965697e-17
    for step in (1e-3, 1e-8, 1e-14):
        x = zero + step
        t = (x - zero) - rest
        first = 0.9676722454476212 * t - 0.4427631689835921 * t * t + 0.258499760955651 * t**3
        close(sp.digamma(x), first, 1e-9 if step == 1e-3 else 1e-15)


def test_stirling_error():
    x = np.concatenate([np.linspace(0.1, 40, 200), [1e3, 1e6]])
    direct = special.gammaln(x) - ((x - 0.5) * np.log(x) - x + 0.5 * np.log(2 * np.pi))
    close(apply(sp.stirling_error, x), direct, 1e-13, 3e-14 * np.maximum(1, np.abs(x) ** 1.2))
    close(sp.stirling_error(1e6), 1 / 12e6, 1e-12)


def test_logarithms_do_not_cancel():
    x = np.array([1e-12, 1e-5, 0.01, 0.3, 0.49, 0.51, 2.0, -1e-9, -0.2, -0.49, -0.9])
    exact = np.array([math.fsum((-1) ** (k + 1) * v**k / k for k in range(2, 200)) for v in x[:5]])
    close(apply(sp.log1p_minus, x)[:5], exact, 3e-16 * 4)
    close(apply(sp.log1p_minus, x)[5:7], np.log1p(x[5:7]) - x[5:7], 1e-15)
    close(sp.log1p_minus(-0.9), math.log(0.1) + 0.9, 1e-15)
    for v in (-1e-20, -1e-3, -0.5, -0.7, -5.0, -800.0):
        expected = math.log(-math.expm1(v)) if v > -0.1 else math.log1p(-math.exp(v))
        close(sp.log1m_exp(v), expected, 2e-15)
    assert sp.log1m_exp(0.0) == -np.inf


def test_normal_tails():
    z = np.concatenate([np.linspace(-40, 40, 801), [-1e4, -1e8, 0.0]])
    # SciPy's upper tail is a subnormal number there.
    sure = z < 37
    close(apply(sp.normal_logcdf, z)[sure], special.log_ndtr(z)[sure], 3e-13)
    inside = z[np.abs(z) < 30]
    close(apply(sp.normal_cdf, inside), special.ndtr(inside), 3e-13)
    close(apply(sp.normal_logpdf, z), stats.norm.logpdf(z), 1e-15)


B3, A3, X3 = np.meshgrid(
    [0.1, 0.5, 1.0, 3.0, 60.0, 2000.0], [0.2, 1.0, 4.0, 70.0, 900.0], np.linspace(0.005, 0.995, 34)
)


def beta_logs(a, b, x, y):
    low, high = inc.beta_logs_jet(a, b, x, y)
    return low[0], high[0]


def test_incomplete_beta():
    found = apply(beta_logs, A3, B3, X3, 1 - X3)
    low = special.betainc(A3, B3, X3).ravel()
    high = special.betaincc(A3, B3, X3).ravel()
    near = (low > 1e-280) & (high > 1e-280)
    close(np.exp(found[near, 0]), low[near], 3e-12, 1e-15)
    close(np.exp(found[near, 1]), high[near], 3e-12, 1e-15)
    close(beta_logs(1.0, 4.0, 1e-3, 0.999)[1], 4 * math.log(0.999), 1e-13)
    assert beta_logs(1.0, 4.0, 0.0, 1.0) == (-np.inf, 0.0)
    assert beta_logs(1.0, 4.0, 1.0, 0.0) == (0.0, -np.inf)


@pytest.mark.parametrize("a", [0.4, 2.0, 30.0])
@pytest.mark.parametrize("b", [0.5, 3.0, 200.0])
@pytest.mark.parametrize("at", [0.5, 1.0, 1.6])
def test_beta_derivatives_against_differences(a, b, at):
    x = min(at * a / (a + b), 0.95)

    def value(da, db, row):
        return math.exp(beta_logs(a + da, b + db, x, 1 - x)[row])

    ha, hb = 1e-3 * a**0.5 * min(1, a**0.5), 1e-3 * b**0.5 * min(1, b**0.5)
    for row, jet in enumerate(inc.beta_logs_jet(a, b, x, 1 - x)):
        f = value(0, 0, row)
        close(math.exp(jet[0]), f, 1e-12)
        for move, h, first, second in ((1, ha, 1, 3), (0, hb, 2, 5)):
            step = [(move * k * h, (1 - move) * k * h) for k in (-2, -1, 1, 2)]
            v = [value(*s, row) for s in step]
            d1 = (v[0] - 8 * v[1] + 8 * v[2] - v[3]) / (12 * h)
            d2 = (-v[0] + 16 * v[1] - 30 * f + 16 * v[2] - v[3]) / (12 * h * h)
            close(jet[first] * f, d1, 1e-7, 1e-12 / h)
            close(jet[second] * f, d2, 3e-6, 1e-12 / h**2)
        mixed = (
            value(ha, hb, row) - value(ha, -hb, row) - value(-ha, hb, row) + value(-ha, -hb, row)
        ) / (4 * ha * hb)
        close(jet[4] * f, mixed, 1e-4, 1e-12 / (ha * hb) + 1e-5 * abs(f))
