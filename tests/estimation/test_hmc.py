"""Many-chain HMC against closed forms, with compiled and with torch densities."""

import numpy as np
import pytest

from paragone.estimation import Model, Parameter, builtin, diagnostics
from paragone.estimation._hmc import _jitter


def z_scores(draws, mean, sd):
    """Standard errors from the truth, where chains are independent: by their means."""
    chains = draws.shape[0]
    each, squares = draws.mean(axis=1), ((draws - mean) ** 2).mean(axis=1)
    first = (each.mean(axis=0) - mean) / (each.std(axis=0, ddof=1) / chains**0.5)
    second = (squares.mean(axis=0) - sd**2) / (squares.std(axis=0, ddof=1) / chains**0.5)
    return np.abs(np.concatenate([np.ravel(first), np.ravel(second)]))


def test_normal_of_unequal_scales():
    scales = np.geomspace(0.1, 10, 5)
    model = Model(builtin.multivariate_normal(np.arange(5.0), np.diag(scales**2)))
    found = model.sample("hmc", chains=256, draws=20, random_state=1)
    assert z_scores(found["x"], np.arange(5.0), scales).max() < 4.5
    assert max(np.max(each) for each in found.rhat.values()) < 1.05
    assert found.stats["acceptance"].mean() > 0.6
    assert found.divergences == 0


def test_trajectories_grow_to_the_scale_of_correlated_posteriors():
    covariance = np.array([[1.0, 0.995], [0.995, 1.0]])
    model = Model(builtin.multivariate_normal(np.zeros(2), covariance))
    found = model.sample("hmc", chains=128, draws=30, random_state=2)
    assert z_scores(found["x"], np.zeros(2), np.ones(2)).max() < 4.5
    assert found.stats["leapfrogs"].mean() > 5


def gamma_kind():
    torch = pytest.importorskip("torch", reason="torch is not installed")

    def logp(v):
        rate, share = v["rate"], v["share"]
        return (2 * torch.log(rate) - rate).sum(-1) + torch.log(share) + 2 * torch.log1p(-share)

    return Model(
        logp, [Parameter("rate", (2,), lower=0.0), Parameter("share", lower=0.0, upper=1.0)],
        backend="torch",
    )  # fmt: skip


def test_torch_density_over_all_chains_at_once():
    found = gamma_kind().sample("hmc", chains=256, draws=20, tune=200, random_state=3)
    assert z_scores(found["rate"], 3.0, 3**0.5).max() < 4.5
    assert z_scores(found["share"], 0.4, 0.2).max() < 4.5


def test_torch_density_in_nuts_and_its_gradient():
    model = gamma_kind()
    u = np.array([0.3, -0.2, 0.5])
    value, gradient = model.target(u)
    values, gradients = model.target.rows(np.stack([u, u + 0.1]))
    assert value == values[0]
    assert np.array_equal(gradient, gradients[0])
    near = [(model.target(u + h)[0] - model.target(u - h)[0]) / 2e-5 for h in 1e-5 * np.eye(3)]
    assert np.allclose(gradient, near, atol=1e-7)
    found = model.sample(random_state=4, chains=2, draws=150, tune=150)
    error = found["rate"].mean(axis=(0, 1)) - 3.0
    assert (np.abs(error) < 4 * diagnostics.mcse_mean(found["rate"])).all()


def test_torch_densities_of_the_wrong_shape():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    model = Model(lambda v: torch.sum(v["x"] ** 2), [Parameter("x", (2,))], backend="torch")
    with pytest.raises(ValueError, match="sum over all axes but the first"):
        model.sample("hmc", chains=4, draws=2, tune=2)


def test_seed_and_statistics():
    model = Model("normal", data={"y": [1.0, 2.0, 4.0]})
    one, two = (model.sample("hmc", chains=32, draws=5, tune=50, random_state=5) for _ in "ab")
    assert np.array_equal(one.unconstrained, two.unconstrained)
    assert one.stats["logp"].shape == (32, 5)
    assert one.unconstrained.shape == (32, 5, 2)
    assert one.gradients[1] == one.stats["leapfrogs"].sum()


def test_a_start_without_density_is_refused():
    nowhere = Model(lambda x: (-np.inf, np.zeros(1)), [Parameter("x")])
    with pytest.raises(ValueError, match="not finite at every start"):
        nowhere.sample("hmc", chains=4, draws=2, tune=2)


def test_jitter_fills_the_unit_interval():
    found = np.sort([_jitter(t) for t in range(255)])
    assert np.allclose(found, np.arange(1, 256) / 256)
