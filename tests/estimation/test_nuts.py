"""NUTS against posteriors that are known, by z = difference / Monte Carlo standard error."""

import json
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest

from paragone.estimation import Model, Parameter, builtin, diagnostics
from paragone.estimation._adaptation import windows
from paragone.estimation._draws import SamplingWarning
from paragone.estimation._random import fill_normal, streams, uniform
from paragone.kernels.jit import njit

pytestmark = pytest.mark.filterwarnings("ignore::paragone.estimation.model.SamplingWarning")

SCHOOLS = np.array([28.0, 8, -3, 7, -1, 1, 18, 12]), np.array([15.0, 10, 16, 11, 9, 11, 10, 18])

POSTERIORDB = {
    # github.com/stan-dev/posteriordb (BSD-3-Clause), commit e354533,
    # posterior_database/reference_posteriors/summary_statistics/mean/mean/
    # eight_schools-eight_schools_noncentered.json: mean and its Monte Carlo standard error.
    "theta": (
        [6.15050229334425, 4.9395811407422, 3.90590609001582, 4.79601675138494,
         3.6144363246799, 4.0511475789675, 6.31716975886893, 4.88399694353288],
        [0.0557375282295219, 0.0462293788624847, 0.0542313705632124, 0.0474935816762281,
         0.0461450610244603, 0.0485195392528031, 0.0498766794075794, 0.0542511606560972],
    ),
    "mu": (4.41051833695493, 0.0330374705950917),
    "tau": (3.60205952364059, 0.0318615135640706),
}  # fmt: skip


def eight_schools():
    """Mean and sd of mu, tau and theta (8), and the evidence, by quadrature over (mu, tau)."""
    y, sigma = SCHOOLS
    mu = np.linspace(-30, 40, 701)[:, None]
    # tau = 5 tan(a) makes the half Cauchy prior flat in a.
    angle = (np.arange(2000) + 0.5) * (np.pi / 2 / 2000)
    tau = 5 * np.tan(angle)[None, :]
    spread = sigma[:, None, None] ** 2 + tau**2
    error = y[:, None, None] - mu
    logs = -0.5 * (error**2 / spread + np.log(2 * np.pi * spread)).sum(axis=0)
    logs = logs - 0.5 * (mu / 5) ** 2 - 0.5 * np.log(2 * np.pi * 25)
    weight = np.exp(logs - logs.max())
    evidence = logs.max() + np.log(weight.sum() * (mu[1, 0] - mu[0, 0]) / 2000)
    weight /= weight.sum()
    found = {}
    for name, values in (("mu", mu), ("tau", tau)):
        mean = (weight * values).sum()
        found[name] = mean, np.sqrt((weight * (values - mean) ** 2).sum())
    inside = 1 / (1 / sigma[:, None, None] ** 2 + 1 / tau**2)
    centre = inside * (y[:, None, None] / sigma[:, None, None] ** 2 + mu / tau**2)
    mean = (weight * centre).sum(axis=(1, 2))
    second = (weight * (inside + centre**2)).sum(axis=(1, 2))
    found["theta"] = mean, np.sqrt(second - mean**2)
    return found, evidence


def linear_regression(X, y, scale, sigma_scale):
    """Mean (p) and covariance (p, p) of coefficients, mean and sd of sigma, by quadrature."""
    n, p = X.shape
    logs, means, covariances = [], [], []
    grid = np.exp(np.linspace(-4, 4, 4000))
    for sigma in grid:
        precision = X.T @ X / sigma**2 + np.eye(p) / scale**2
        mean = np.linalg.solve(precision, X.T @ y) / sigma**2
        square = (y - X @ mean) @ y / sigma**2
        log = -0.5 * square - n * np.log(sigma) - 0.5 * np.linalg.slogdet(precision)[1]
        log += -np.log1p((sigma / sigma_scale) ** 2) + np.log(sigma)
        logs.append(log), means.append(mean), covariances.append(np.linalg.inv(precision))
    weight = np.exp(np.array(logs) - max(logs))
    weight /= weight.sum()
    means = np.array(means)
    mean = weight @ means
    spread = np.einsum("k,kij->ij", weight, np.array(covariances))
    spread += (weight[:, None] * (means - mean)).T @ (means - mean)
    sigma = weight @ grid
    return mean, spread, (sigma, np.sqrt(weight @ (grid - sigma) ** 2))


def z_scores(draws, mean, sd=None, se=0.0):
    """How many standard errors draws (chains, draws, ...) are from the truth, in mean and sd."""
    found = [(draws.mean(axis=(0, 1)) - mean) / np.hypot(diagnostics.mcse_mean(draws), se)]
    if sd is not None:
        found.append((draws.std(axis=(0, 1)) - sd) / diagnostics.mcse_sd(draws))
    return np.abs(np.concatenate([np.ravel(each) for each in found]))


@pytest.fixture(scope="module")
def schools():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplingWarning)
        return Model("eight_schools").sample(random_state=2, target=0.95, draws=3000)


def test_eight_schools_by_quadrature(schools):
    truth, _ = eight_schools()
    for name, (mean, sd) in truth.items():
        # The variance of tau has so heavy a tail that its own error is not to be estimated.
        assert z_scores(schools[name], mean, None if name == "tau" else sd).max() < 4, name
    assert max(np.max(each) for each in schools.rhat.values()) < 1.01


def test_eight_schools_of_posteriordb(schools):
    for name, (mean, se) in POSTERIORDB.items():
        assert z_scores(schools[name], np.array(mean), se=np.array(se)).max() < 4, name


@pytest.mark.parametrize("metric", ["diagonal", "dense"])
def test_correlated_normal(metric):
    rng = np.random.default_rng(1)
    root = rng.normal(size=(6, 6)) * np.geomspace(0.1, 30, 6)
    covariance, mean = root.T @ root, np.arange(6.0) * 10
    model = Model(builtin.multivariate_normal(mean, covariance))
    found = model.sample(random_state=1, metric=metric, draws=2000)
    assert z_scores(found["x"], mean, np.sqrt(np.diag(covariance))).max() < 4.5
    assert found.divergences == 0
    if metric == "dense":
        assert found.stats["leapfrogs"].mean() < 12


def test_linear_regression_by_quadrature():
    rng = np.random.default_rng(2)
    X = rng.normal(size=(30, 2))
    y = X @ [1.0, -2.0] + 0.5 + rng.normal(size=30)
    found = Model(builtin.linear_regression(X, y)).sample(random_state=3, draws=2000)
    mean, spread, sigma = linear_regression(np.column_stack([np.ones(30), X]), y, 10.0, 2.5)
    sd = np.sqrt(np.diag(spread))
    assert z_scores(found["alpha"], mean[0], sd[0]).max() < 4
    assert z_scores(found["beta"], mean[1:], sd[1:]).max() < 4
    assert z_scores(found["sigma"], *sigma).max() < 4


def test_simplex_is_the_dirichlet_posterior():
    y, prior = np.array([3, 0, 9, 4]), 0.5
    found = Model("counts", data={"y": y, "concentration": prior}).sample(
        random_state=4, target=0.9, draws=2000
    )
    a = y + prior
    mean = a / a.sum()
    assert z_scores(found["p"], mean, np.sqrt(mean * (1 - mean) / (a.sum() + 1))).max() < 4
    assert np.allclose(found["p"].sum(axis=-1), 1)


def beta_and_gamma(x):
    """Beta(2, 3) in (-1, 1) stretched, Gamma(3, 1), and its mirror image -Gamma(3, 1)."""
    share = (x[0] + 1) / 2
    value = np.log(share) + 2 * np.log1p(-share) + 2 * np.log(-x[1] * x[2]) - x[1] + x[2]
    return value, np.array([0.5 / share - 1 / (1 - share), 2 / x[1] - 1, 2 / x[2] + 1])


BOUNDED = (
    Parameter("a", lower=-1.0, upper=1.0), Parameter("b", lower=0.0), Parameter("c", upper=0.0),
)  # fmt: skip


def bounded_scores(logp):
    found = Model(logp, BOUNDED).sample(random_state=5, draws=1500)
    return np.concatenate([
        z_scores(found["a"], 2 * 0.4 - 1, 2 * 0.2), z_scores(found["b"], 3.0, 3**0.5),
        z_scores(found["c"], -3.0, 3**0.5),
    ])  # fmt: skip


def test_bounds_keep_their_jacobians():
    assert bounded_scores(beta_and_gamma).max() < 4


def test_the_scores_catch_a_wrong_jacobian():
    def planted(x):
        # As if the sampler had forgotten log |dx/du| = log x of the lower bound.
        value, slope = beta_and_gamma(x)
        return value - np.log(x[1]), slope - np.array([0.0, 1 / x[1], 0.0])

    assert bounded_scores(planted).max() > 8


def test_ordered_values_are_order_statistics():
    model = Model(lambda x: (-0.5 * x @ x, -x), [Parameter("x", (3,), ordered=True)])
    found = model.sample(random_state=6, draws=1500)
    first = -1.5 / np.sqrt(np.pi)
    assert z_scores(found["x"], np.array([first, 0.0, -first])).max() < 4
    assert (np.diff(found["x"], axis=-1) > 0).all()


@njit(nogil=True, error_model="numpy")
def scaled(x, slope, reals, integers):
    total = 0.0
    for i in range(integers[0]):
        slope[i] = -x[i] / reals[i] ** 2
        total += 0.5 * x[i] * slope[i]
    return total


def test_a_kernel_of_ones_own():
    scales = np.array([0.01, 1.0, 100.0])
    model = Model(scaled, [Parameter("x", (3,))], data=(scales, [3]))
    found = model.sample(random_state=7)
    assert z_scores(found["x"], 0.0, scales).max() < 4


def test_seeds_and_threads():
    model = Model("eight_schools")
    one = model.sample(random_state=8, draws=50, tune=50, workers=1)
    two = model.sample(random_state=8, draws=50, tune=50, workers=3)
    assert np.array_equal(one.unconstrained, two.unconstrained)
    more = model.sample(random_state=8, draws=50, tune=50, chains=6)
    assert np.array_equal(one.unconstrained, more.unconstrained[:4])
    other = model.sample(random_state=9, draws=50, tune=50)
    assert not np.array_equal(one.unconstrained, other.unconstrained)
    assert not np.array_equal(one.unconstrained[0], one.unconstrained[1])


def test_random_numbers():
    state = streams(1, 1)[0]
    values = np.array([uniform(state) for _ in range(4000)])
    assert values.min() >= 0 > values.max() - 1
    assert abs(values.mean() - 0.5) < 0.02
    normals = np.empty(100_001)
    fill_normal(state, normals)
    for power, moment, spread in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        error = (normals**power).mean() - moment
        assert abs(error) < 4 * np.sqrt(spread / len(normals)), power


def test_divergences_and_depth_are_told():
    with pytest.warns(SamplingWarning, match="diverged"):
        found = Model("eight_schools_centred").sample(random_state=1)
    assert found.divergences > 0
    assert any("diverged" in problem for problem in found.problems)
    model = Model(builtin.multivariate_normal(covariance=np.diag([1e-4, 1e4])))
    shallow = model.sample(random_state=1, tune=0, draws=200, max_depth=3)
    assert shallow.saturated > 0
    assert any("max_depth=3" in problem for problem in shallow.problems)
    assert shallow.stats["leapfrogs"].max() <= 7


def test_energy_tells_of_the_funnel():
    found = Model("funnel").sample(random_state=1)
    # The neck is out of reach: where v < -6 there should be 2.3 % of the draws.
    assert found.divergences > 0 or found.bfmi.min() < 0.3 or found.problems


@pytest.mark.parametrize("tune", [0, 1, 19, 20, 100, 149, 150, 500, 1000, 5000])
def test_windows_cover_the_middle(tune):
    plan = windows(tune)
    assert (np.diff(plan) > 0).all() or tune < 20
    assert plan[-1] <= tune
    found = Model("normal", data={"y": [1.0, 2.0, 4.0]}).sample(
        random_state=1, tune=tune, draws=20, chains=2
    )
    assert np.isfinite(found.flat).all()


def test_starts_and_densities_that_fail():
    model = Model("eight_schools")
    start = {"mu": 3.0, "tau": 2.0, "theta_trans": np.zeros(8)}
    assert model.sample(init=start, draws=5, tune=5, random_state=1).flat.shape == (4, 5, 18)
    nowhere = Model(lambda x: (-np.inf, np.zeros(1)), [Parameter("x")])
    with pytest.raises(ValueError, match="not finite at 100 random points"):
        nowhere.sample(draws=5, tune=5)
    with pytest.raises(ValueError, match="not finite at the start given"):
        nowhere.sample(draws=5, tune=5, init={"x": 1.0})

    def broken(x):
        raise KeyError("on purpose")

    with pytest.raises(KeyError, match="on purpose"):
        Model(broken, [Parameter("x")]).sample(draws=5, tune=5)
    with pytest.raises(ValueError, match=r"gradient has shape \(1,\)"):
        Model(lambda x: (0.0, np.zeros(1)), [Parameter("x", (2,))]).sample(draws=5, tune=5)


def test_a_half_line_that_is_cut_off_by_infinity():
    # -inf outside the support is a wall, not an error.
    def logp(x):
        return (-0.5 * x @ x if x[0] > 0 else -np.inf), -x

    found = Model(logp, [Parameter("x")]).sample(random_state=3, init=[1.0], draws=1000)
    assert (found["x"] > 0).all()


CODE = """
import json
from paragone.kernels.jit import TALLY
from paragone.estimation import Model
found = Model("eight_schools").sample(random_state=1, draws=20, tune=20)
str(found.summary())
print(json.dumps([TALLY, float(found["mu"].sum())]))
"""


def test_a_second_process_compiles_nothing():
    told = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", CODE], capture_output=True, text=True,
            env=dict(os.environ), check=True,
        )  # fmt: skip
        told.append(json.loads(done.stdout))
    assert told[1][0]["compiled"] == 0
    assert told[1][1] == told[0][1]
