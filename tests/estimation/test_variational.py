"""Variational fits against normals, whose best fits are known, and by their own Pareto shape."""

import numpy as np
import pytest

from paragone.estimation import Model, Parameter, builtin
from paragone.estimation._variational import _fixed_draws

MEAN = np.array([3.0, -40.0, 0.1])
COVARIANCE = np.array([[4.0, 1.0, 0.3], [1.0, 2.0, -0.4], [0.3, -0.4, 0.5]])


def test_full_rank_finds_a_normal_exactly():
    found = Model(builtin.multivariate_normal(MEAN, COVARIANCE)).variational(random_state=0)
    assert np.allclose(found.mean, MEAN, atol=1e-5)
    assert np.allclose(found.factor @ found.factor.T, COVARIANCE, atol=1e-4)
    assert found.elbo == pytest.approx(0, abs=1e-6)


def test_mean_field_takes_the_conditional_spread():
    model = Model(builtin.multivariate_normal(MEAN, COVARIANCE))
    found = model.variational(full_rank=False, random_state=0)
    expected = 1 / np.sqrt(np.diag(np.linalg.inv(COVARIANCE)))
    assert np.allclose(np.diag(found.factor), expected, rtol=1e-4)
    assert np.allclose(found.mean, MEAN, atol=1e-4)
    # The bound falls short by the divergence, which is known for normals.
    loss = 0.5 * np.log(np.prod(1 / expected**2) * np.linalg.det(COVARIANCE))
    assert found.elbo == pytest.approx(-loss, abs=4 * found.elbo_se + 0.01)


def test_a_planted_sign_is_caught():
    # The oracle above must fail for a gradient whose spread term has the wrong sign.
    model = Model(builtin.multivariate_normal(MEAN, COVARIANCE))
    rows = model.target.rows
    model.target.rows = lambda at, jacobian=1.0: (rows(at, jacobian)[0], -rows(at, jacobian)[1])
    try:
        found = model.variational(random_state=0)
    except ValueError:
        return
    assert not np.allclose(found.factor @ found.factor.T, COVARIANCE, atol=1e-4)


def test_shape_tells_good_from_bad():
    y = np.random.default_rng(1).normal(2, 1, 100)
    good = Model("normal", data={"y": y}).variational(random_state=0)
    assert good.ess > 0.98 * 4000
    assert "the weights correct it" in str(good.summary())
    narrow = builtin.multivariate_normal(covariance=0.01 * np.eye(6) + 0.99)
    bad = Model(narrow).variational(full_rank=False, random_state=0)
    assert bad.k > 0.7
    assert bad.ess < 1000
    assert "not to be trusted" in str(bad.summary())


def test_bounded_parameters_and_correction():
    model = Model(lambda x: (2 * np.log(x[0]) - x[0], np.array([2 / x[0] - 1])),
                  [Parameter("rate", lower=0.0)])  # fmt: skip
    found = model.variational(random_state=0)
    assert (found.draws["rate"] > 0).all()
    mean, sd = found.moments(corrected=True)
    assert mean[0] == pytest.approx(3.0, abs=0.15)
    assert sd[0] == pytest.approx(3**0.5, abs=0.2)
    assert found.evidence_is == pytest.approx(np.log(2), abs=0.03)
    assert found.sample(7, random_state=1)["rate"].shape == (7,)
    assert "Pareto k" in str(found.summary())


def test_same_seed_same_fit_and_bad_sizes():
    model = Model("normal", data={"y": [1.0, 2.0, 4.0]})
    one, two = (model.variational(random_state=3) for _ in "ab")
    assert np.array_equal(one.factor, two.factor)
    with pytest.raises(ValueError, match="fixed_draws=1"):
        model.variational(fixed_draws=1)


def test_fixed_draws_have_exact_moments():
    z = _fixed_draws(np.random.default_rng(4), 64, 5)
    assert np.abs(z.mean(axis=0)).max() < 1e-15
    assert np.allclose(z.T @ z / 64, np.eye(5), atol=1e-12)
