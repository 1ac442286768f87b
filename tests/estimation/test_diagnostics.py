"""Diagnostics against closed forms, ArviZ's values, and exact leave-one-out."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paragone.estimation import diagnostics as d

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "arviz_diagnostics.json"


def series(seed, chains, draws, phi, heavy=False):
    """An autoregression whose draws a few lines of integer arithmetic give everywhere."""
    state = seed
    values = np.empty(chains * draws)
    for i in range(len(values)):
        state = (6364136223846793005 * state + 1442695040888963407) % 2**64
        values[i] = (state >> 11) / 2**53 - 0.5
    noise = values.reshape(chains, draws)
    noise = np.tan(3 * noise) if heavy else noise
    for t in range(1, draws):
        noise[:, t] += phi * noise[:, t - 1]
    return noise


CASES = {
    "plain": (1, 4, 250, 0.0, False), "sticky": (2, 4, 250, 0.9, False),
    "antithetic": (3, 2, 101, -0.6, False), "heavy": (4, 3, 64, 0.5, True),
    "short": (5, 4, 7, 0.3, False),
}  # fmt: skip
MEASURES = {
    "rhat": d.rhat, "ess_bulk": d.ess_bulk, "ess_tail": d.ess_tail, "ess_mean": d.ess_mean,
    "ess_sd": d.ess_sd, "mcse_mean": d.mcse_mean, "mcse_sd": d.mcse_sd,
    "mcse_quantile": lambda x: d.mcse_quantile(x, 0.3), "bfmi": lambda x: d.bfmi(x)[0],
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_equal_to_recorded_values_of_arviz(case):
    expected = json.loads(GOLDEN.read_text(encoding="utf-8"))["values"][case]
    draws = series(*CASES[case])
    for name, measure in MEASURES.items():
        assert float(measure(draws)) == pytest.approx(expected[name], rel=1e-10), name


@pytest.mark.peers
def test_equal_to_arviz_on_random_draws():
    arviz = pytest.importorskip("arviz", reason="ArviZ is not installed")
    rng = np.random.default_rng(0)
    for chains, draws in ((2, 12), (4, 57), (3, 500)):
        x = rng.standard_t(3, (chains, draws)).cumsum(axis=1) * 0.1 + rng.normal(
            size=(chains, draws)
        )
        assert d.rhat(x) == pytest.approx(float(arviz.rhat(x)), rel=1e-10)
        for method in ("bulk", "tail", "mean", "sd"):
            found = getattr(d, f"ess_{method}")(x)
            assert found == pytest.approx(float(arviz.ess(x, method=method)), rel=1e-10)
    weights = rng.normal(size=(5, 2000)) * 2
    ours, theirs = d.psis(weights, 0.8), arviz.psislw(weights, reff=0.8)
    assert np.allclose(ours[0], theirs[0], atol=1e-10)
    assert np.allclose(ours[1], theirs[1], atol=1e-10)


def test_effective_size_of_an_autoregression():
    rng = np.random.default_rng(1)
    for phi in (-0.5, 0.0, 0.7):
        x = rng.normal(size=(8, 4000))
        for t in range(1, 4000):
            x[:, t] += phi * x[:, t - 1]
        true = x.size * (1 - phi) / (1 + phi)
        assert d.ess_mean(x) == pytest.approx(true, rel=0.15)
        assert d.mcse_mean(x) == pytest.approx(x.std() / np.sqrt(true), rel=0.08)


def test_rhat_sees_shift_and_spread_but_not_agreement():
    x = np.random.default_rng(2).normal(size=(4, 1000))
    assert d.rhat(x) < 1.01
    assert d.rhat(x + np.array([0, 0, 0, 1.0])[:, None]) > 1.1
    assert d.rhat(x * np.array([1, 1, 1, 5.0])[:, None]) > 1.1
    # The classic ratio of means does not see unequal spread: the folded one must.
    assert d._ratio(d._cut(x * np.array([1, 1, 1, 5.0])[:, None])[0])[0] < 1.01


def test_nested_rhat_of_short_chains():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(256, 5))
    assert d.nested_rhat(x, 16) < 1.02
    assert d.nested_rhat(x + np.repeat(rng.normal(size=16), 16)[:, None], 16) > 1.2
    with pytest.raises(ValueError, match="groups=3 of 256"):
        d.nested_rhat(x, 3)


def test_shapes_constants_and_values_that_are_not_finite():
    x = np.random.default_rng(4).normal(size=(4, 50, 2, 3))
    x[0, 0, 0, 0], x[..., 1, 1] = np.nan, 7.0
    for name in ("rhat", "ess_bulk", "ess_tail", "ess_mean"):
        found = getattr(d, name)(x)
        assert found.shape == (2, 3)
        assert np.isnan(found[0, 0])
    assert d.ess_mean(x)[1, 1] == 200
    with pytest.raises(ValueError, match="4 draws or more"):
        d.rhat(np.zeros((4, 3)))
    with pytest.raises(ValueError, match="probability=1"):
        d.ess_quantile(np.zeros((4, 10)), 1.0)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 5), st.integers(4, 60))
def test_ranks_do_not_change_with_units_and_order_of_chains(seed, chains, draws):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(chains, draws))
    assert d.ess_bulk(np.exp(x)) == pytest.approx(d.ess_bulk(x), rel=1e-12)
    shuffled = x[rng.permutation(chains)]
    for measure in (d.rhat, d.ess_bulk, d.ess_tail):
        assert measure(shuffled) == pytest.approx(measure(x), rel=1e-9)
    both = d.ess_bulk(np.stack([x, x**3], axis=-1))
    assert both[0] == pytest.approx(both[1], rel=1e-12)


def test_pareto_shape_of_known_ratios():
    # exp(z / k) of an exponential is Pareto with shape k.
    rng = np.random.default_rng(5)
    for k in (0.2, 0.5, 0.9):
        found = d.psis(k * rng.exponential(size=(20, 20_000)))[1]
        assert np.mean(found) == pytest.approx(k, abs=0.06)


def test_smoothing_keeps_order_and_sums_to_one():
    given_ = np.random.default_rng(6).normal(size=3000) * 3
    weights, _ = d.psis(given_)
    assert np.exp(weights).sum() == pytest.approx(1, rel=1e-12)
    assert (np.diff(weights[np.argsort(given_)]) >= 0).all()
    equal, k = d.psis(np.zeros(100))
    assert np.allclose(np.exp(equal), 0.01)
    assert k == np.inf
    with pytest.raises(ValueError, match="NaN or inf"):
        d.psis([0.0, np.nan])


def exact_loo(y, prior_sd):
    """log p(y_i | others) of N(theta, 1) data with theta ~ N(0, prior_sd), in closed form."""
    found = []
    for i in range(len(y)):
        rest = np.delete(y, i)
        precision = len(rest) + prior_sd**-2
        variance = 1 + 1 / precision
        error = y[i] - rest.sum() / precision
        found.append(-0.5 * error**2 / variance - 0.5 * np.log(2 * np.pi * variance))
    return np.array(found)


def test_loo_is_exact_leave_one_out_of_a_conjugate_model():
    rng = np.random.default_rng(7)
    y = rng.normal(size=40) + 1
    precision = len(y) + 0.01
    theta = rng.normal(y.sum() / precision, precision**-0.5, (4, 5000))
    logs = -0.5 * (y - theta[..., None]) ** 2 - 0.5 * np.log(2 * np.pi)
    found = d.loo(logs)
    assert found.bad == 0
    assert np.allclose(found.pointwise, exact_loo(y, 10.0), atol=0.01)
    assert d.waic(logs).elpd == pytest.approx(found.elpd, abs=0.05)
    assert found.p == pytest.approx(y.var(), abs=0.1)
    # A planted bug: weights that favour the observation instead of leaving it out.
    wrong = d.psis(logs.reshape(-1, 40).T)[0].T + logs.reshape(-1, 40)
    assert not np.allclose(np.log(np.exp(wrong).sum(axis=0)), exact_loo(y, 10.0), atol=0.01)


def test_models_in_order_with_the_error_of_their_difference():
    rng = np.random.default_rng(8)
    y = rng.normal(size=100) + 1
    good = -0.5 * (y - rng.normal(y.mean(), 0.1, (4, 500))[..., None]) ** 2
    bad = -0.5 * (y - rng.normal(0, 0.1, (4, 500))[..., None]) ** 2
    rows = d.compare({"zero": d.loo(bad), "mean": d.loo(good)})
    assert [row["model"] for row in rows] == ["mean", "zero"]
    assert rows[0]["difference"] == 0
    assert rows[1]["difference"] > 4 * rows[1]["difference_se"]
    with pytest.raises(ValueError, match="two models"):
        d.compare({"a": d.loo(bad)})
    with pytest.raises(ValueError, match="finite"):
        d.loo(np.full((4, 10, 3), np.nan))
