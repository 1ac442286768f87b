"""Transforms, built-in densities, modes, evidences, and what `Model` refuses."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import gammaln

from paragone.estimation import Model, Parameter, builtin
from paragone.estimation._parameters import Layout
from paragone.estimation._transforms import constrain, pull_back, unconstrain

rng = np.random.default_rng(0)
X = rng.normal(size=(40, 3))
DATA = {
    "autoregression": {"y": rng.normal(size=40).cumsum(), "order": 2},
    "counts": {"y": [3, 4, 0, 9], "concentration": 0.7},
    "hierarchical": {"y": rng.normal(size=40), "group": rng.integers(0, 6, 40), "x": X[:, 0]},
    "item_response": {"y": rng.integers(0, 2, (20, 5))},
    "linear_regression": {"X": X, "y": rng.normal(size=40)},
    "logistic_regression": {"X": X, "y": rng.integers(0, 2, 40), "intercept": False},
    "mixture": {"y": rng.normal(size=30)},
    "multivariate_normal": {"mean": np.arange(3.0), "covariance": np.cov(X.T)},
    "normal": {"y": rng.normal(size=30) + 5, "location": 4.0},
    "poisson_regression": {"X": X, "y": rng.integers(0, 5, 40)},
    "robust_regression": {"X": X, "y": rng.normal(size=40)},
}


def slope_by_differences(f, u):
    steps = 1e-3 * np.eye(len(u))
    return np.array([(8 * (f(u + h) - f(u - h)) - (f(u + 2 * h) - f(u - 2 * h))) / 0.012
                     for h in steps])  # fmt: skip


SUPPORTS = [
    [Parameter("a")], [Parameter("a", lower=2.0)], [Parameter("a", upper=-1.0)],
    [Parameter("a", lower=-1.0, upper=3.0)], [Parameter("a", (4,), ordered=True)],
    [Parameter("a", (4,), simplex=True)], [Parameter("a", (2, 3), simplex=True)],
    [Parameter("a", (2,)), Parameter("b", (2, 2), ordered=True), Parameter("c", lower=0.0)],
]  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(SUPPORTS), st.integers(0, 2**32 - 1))
def test_maps_their_inverses_and_jacobians(parameters, seed):
    layout = Layout(parameters)
    u = np.random.default_rng(seed).normal(size=layout.m) * 2
    x = np.empty(layout.n)
    log = constrain(u, x, layout.blocks, layout.limits)
    assert np.allclose(unconstrain(x, layout.blocks, layout.limits, layout.m), u, atol=1e-6)
    layout.join(layout.split(x))
    # The Jacobian over free coordinates: the last of a simplex is not free.
    free = np.concatenate([
        np.arange(int(j), int(j + size - (kind == 5))) for kind, _, j, size in layout.blocks
    ])  # fmt: skip

    def free_values(at):
        found = np.empty(layout.n)
        constrain(at, found, layout.blocks, layout.limits)
        return found[free]

    jacobian = slope_by_differences(free_values, u)
    assert np.linalg.slogdet(jacobian)[1] == pytest.approx(log, abs=1e-5)
    weight = np.random.default_rng(seed).normal(size=layout.n)
    gradient = np.empty(layout.m)
    pull_back(u, x, weight, gradient, layout.blocks, layout.limits, 1.0)

    def both(at):
        found = np.empty(layout.n)
        return constrain(at, found, layout.blocks, layout.limits) + weight @ found

    assert np.allclose(gradient, slope_by_differences(both, u), atol=1e-5)


def test_far_out_the_maps_stay_exact():
    layout = Layout([Parameter("a", lower=0.0, upper=1.0)])
    x = np.empty(1)
    assert constrain(np.array([-700.0]), x, layout.blocks, layout.limits) == pytest.approx(-700)
    assert 0 < x[0] < 1e-300


@pytest.mark.parametrize("name", builtin.list())
def test_gradients_of_built_in_densities(name):
    model = Model(name, data=DATA.get(name))
    for seed in range(3):
        u = np.random.default_rng(seed).normal(size=model.layout.m) * 0.7
        for jacobian in (0.0, 1.0):
            _, gradient = model.target(u, jacobian)
            near = slope_by_differences(lambda at, j=jacobian: model.target(at, j)[0], u)
            assert np.allclose(gradient, near, rtol=1e-5, atol=1e-6 * np.abs(gradient).max())


def normals(x, scale):
    return stats.norm.logpdf(x, 0, scale).sum()


def prior(name, v):
    """Log prior of each built-in model by SciPy."""
    cauchy = stats.halfcauchy.logpdf
    if name.startswith("eight_schools"):
        free = normals(v["theta_trans"], 1) if "theta_trans" in v else stats.norm.logpdf(
            v["theta"], v["mu"], v["tau"]).sum()  # fmt: skip
        return normals(v["mu"], 5) + cauchy(v["tau"], scale=5) + free
    if name == "normal":
        return stats.norm.logpdf(v["mu"], 4, 10) + cauchy(v["sigma"], scale=2.5)
    if name == "hierarchical":
        return (normals(v["mu"], 10) + normals(v["beta"], 10) + normals(v["effect"], 1)
                + cauchy(v["tau"], scale=2.5) + cauchy(v["sigma"], scale=2.5))  # fmt: skip
    if name == "item_response":
        return (normals(v["ability"], 1) + normals(v["log_discrimination"], 0.5)
                + normals(v["difficulty"], 2))  # fmt: skip
    if name == "mixture":
        return (stats.beta.logpdf(v["share"], 5, 5).sum() + normals(v["mu"], 2) + np.log(2)
                + stats.halfnorm.logpdf(v["sigma"], 0, 2).sum())  # fmt: skip
    wide = 2.5 if name in ("logistic_regression", "poisson_regression") else 10
    total = normals(v["beta"], wide) + (normals(v["alpha"], wide) if "alpha" in v else 0)
    return total + (cauchy(v["sigma"], scale=2.5) if "sigma" in v else 0)


@pytest.mark.parametrize(
    "name", sorted(set(builtin.list()) - {"counts", "funnel", "multivariate_normal"})
)
def test_densities_are_prior_and_likelihood(name):
    model = Model(name, data=DATA.get(name))
    u = np.random.default_rng(1).normal(size=model.layout.m) * 0.5
    values = model.layout.split(model.target.constrained(u[None]))
    likelihood = model.log_likelihood({k: v[None] for k, v in values.items()})
    expected = prior(name, {k: v[0] for k, v in values.items()}) + likelihood.sum()
    assert model.target(u, 0.0)[0] == pytest.approx(expected, rel=1e-10)


def test_regressions_far_from_zero():
    # A year as the predictor and an offset of 1e6: the triangle keeps the digits.
    year = np.arange(1900.0, 2000.0)
    y = 1e6 + 0.3 * (year - 1950) + np.random.default_rng(2).normal(size=100)
    density = builtin.linear_regression(year[:, None], y, scale=1e7)
    model = Model(density)
    at = {"alpha": 1e6 - 585.0, "beta": [0.3], "sigma": 1.0}
    x = model.layout.join(at)
    u = unconstrain(x, model.layout.blocks, model.layout.limits, model.layout.m)
    direct = stats.norm.logpdf(y, at["alpha"] + 0.3 * year, 1.0).sum()
    direct += normals(np.array([at["alpha"], 0.3]), 1e7) + stats.halfcauchy.logpdf(1, scale=2.5)
    assert model.target(u, 0.0)[0] == pytest.approx(direct, rel=1e-7)


def test_other_predefined_densities():
    model = Model("multivariate_normal", data=DATA["multivariate_normal"])
    u = np.array([0.3, 2.0, 1.0])
    truth = stats.multivariate_normal(DATA["multivariate_normal"]["mean"], np.cov(X.T))
    assert model.target(u)[0] == pytest.approx(truth.logpdf(u))
    funnel = Model("funnel", data={"d": 2})
    u = np.array([-1.0, 0.5, 0.7])
    truth = normals(u[0], 3) + normals(u[1:], np.exp(-0.5))
    assert funnel.target(u)[0] == pytest.approx(truth)
    assert Model("multivariate_normal").layout.n == 100


def test_mode_says_its_space():
    # Gamma(3, 1): the mode is 2, that of its logarithm 3.
    model = Model(lambda x: (2 * np.log(x[0]) - x[0], np.array([2 / x[0] - 1])),
                  [Parameter("rate", lower=0.0)])  # fmt: skip
    inner, outer = model.map(), model.map(space="constrained")
    assert float(inner["rate"]) == pytest.approx(3.0, rel=1e-9)
    assert float(outer["rate"]) == pytest.approx(2.0, rel=1e-9)
    assert "unconstrained space" in str(inner.summary())
    assert "mode in the constrained space" in str(outer.summary())
    with pytest.raises(ValueError, match="space='u'"):
        model.map(space="u")


def test_a_density_without_a_peak_is_refused():
    with pytest.raises(ValueError, match="no peak in the unconstrained space"):
        Model("eight_schools_centred").map(random_state=0)
    flat = Model(lambda x: (-0.5 * x[0] ** 2, np.array([-x[0], 0.0])), [Parameter("x", (2,))])
    with pytest.raises(ValueError, match="no peak"):
        flat.laplace()


def test_laplace_is_exact_for_a_normal():
    mean, covariance = np.array([5.0, -1e3]), np.array([[2.0, 1.5], [1.5, 9.0]])
    found = Model(builtin.multivariate_normal(mean, covariance)).laplace(random_state=0)
    assert np.allclose(found.mean, mean, rtol=1e-9)
    assert np.allclose(found.factor @ found.factor.T, covariance, rtol=1e-8)
    assert found.evidence == pytest.approx(0, abs=1e-8)
    assert found.evidence_is == pytest.approx(0, abs=1e-8)
    assert found.elbo == pytest.approx(0, abs=1e-8)


def test_evidence_of_counts_in_closed_form():
    y, prior_ = np.array([30, 4, 9, 9]), 1.5
    a = y + prior_
    exact = (gammaln(4 * prior_) - 4 * gammaln(prior_) + gammaln(a).sum() - gammaln(a.sum())
             + gammaln(y.sum() + 1) - gammaln(y + 1).sum())  # fmt: skip
    found = Model("counts", data={"y": y, "concentration": prior_}).laplace(random_state=0)
    assert found.evidence_is == pytest.approx(exact, abs=0.02)
    assert found.evidence == pytest.approx(exact, abs=0.2)
    assert found.k < 0.7


def test_all_engines_in_one_table():
    y = np.random.default_rng(3).normal(2.0, 1.0, 60)
    model = Model("normal", data={"y": y})
    table = model.compare(
        ("map", "laplace", "variational", "nuts", "hmc"), random_state=1,
        nuts={"draws": 300, "tune": 300}, hmc={"chains": 64, "draws": 20, "tune": 150},
    )  # fmt: skip
    rows = table.moments().rows
    for method in ("map", "laplace", "variational", "nuts", "hmc"):
        assert rows["mu"][method] == pytest.approx(y.mean(), abs=0.05)
    for method in ("laplace", "variational", "nuts", "hmc"):
        assert rows["mu"][f"sd {method}"] == pytest.approx(y.std() / 60**0.5, rel=0.2)
    assert table.costs()["laplace"]["evidence"] == pytest.approx(
        table.costs()["variational"]["elbo"], abs=0.1
    )
    assert "unconstrained space" in str(table)
    refused = Model("eight_schools_centred").compare(("map",), random_state=0)
    assert "no peak" in str(refused)


def test_summary_loo_and_derived_quantities():
    found = Model("normal", data={"y": [1.0, 2.0, 4.0, 3.0]}).sample(
        random_state=1, draws=400, tune=400, target=0.95
    )
    table = found.summary()
    assert table["mu"]["mean"] == pytest.approx(float(found["mu"].mean()))
    assert "ess_bulk" in table.columns
    assert "nuts: 4 chains x 400 draws" in str(table)
    assert found.loo().pointwise.shape == (4,)
    assert found.waic().elpd == pytest.approx(found.loo().elpd, abs=1.0)
    bare = Model(lambda x: (-0.5 * x @ x, -x), [Parameter("x")])
    with pytest.raises(ValueError, match="no pointwise likelihood"):
        bare.sample(draws=10, tune=10, random_state=1).loo()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Model("eight_school"), "no built-in model is called 'eight_school'"),
        (lambda: Model(3.0, [Parameter("x")]), "logp=3.0 is no density"),
        (lambda: Model(lambda x: x), "parameters are missing"),
        (lambda: Model(lambda x: x, [Parameter("x")], backend="jax"), "backend='jax'"),
        (lambda: Model(lambda x: x, [Parameter("x")], data=1), "a Python function holds its own"),
        (lambda: Model("normal", [Parameter("x")], data={"y": [1]}), "brings its own"),
        (lambda: Model(lambda x: x, ["a", "a"]), "each name once"),
        (lambda: Parameter("2x"), "no identifier"),
        (lambda: Parameter("x", lower=1, upper=1), "leave no room"),
        (lambda: Parameter("x", lower=float("nan")), "no bound"),
        (lambda: Parameter("x", (0,)), "sizes of 1 and above"),
        (lambda: Parameter("x", simplex=True), "needs 2 values"),
        (lambda: Parameter("x", (3,), simplex=True, lower=0), "use one of"),
        (lambda: Model("normal", data={"y": []}), "give 1 values or more"),
        (lambda: Model("normal", data={"y": [1, np.nan]}), r"y\[1\] = nan is not finite"),
        (lambda: Model("normal", data={"y": [1], "scale": 0}), "must be positive"),
        (lambda: builtin.logistic_regression(X, np.full(40, 2)), "must be 0 and 1"),
        (lambda: builtin.poisson_regression(X, np.full(40, 0.5)), "must be counts"),
        (lambda: builtin.linear_regression(X[:3], np.zeros(40)), "a row for each y"),
        (lambda: builtin.linear_regression(X * np.inf, np.zeros(40)), "not finite"),
        (lambda: builtin.autoregression([1, 2], 2), "order=2 of 2 values"),
        (lambda: builtin.eight_schools([1, 2], [1]), "one sigma for each y"),
        (lambda: builtin.eight_schools([1], [0]), "must be positive"),
        (lambda: builtin.hierarchical([1, 2], [1]), "as many of group"),
        (lambda: builtin.item_response([[2]]), "of 0 and 1"),
        (lambda: builtin.counts([1, -1]), "must be counts"),
        (lambda: builtin.funnel(0), "d=0"),
        (lambda: builtin.multivariate_normal([0, 0], [[1, 2], [2, 1]]), "must be positive"),
        (lambda: builtin.multivariate_normal([0], [[1, 0], [0, 1]]), "mean has 1 values"),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "gibbs"}, "method='gibbs'"), ({"chains": 0}, "chains=0"),
        ({"draws": 0}, "draws=0"), ({"tune": -1}, "tune=-1"), ({"target": 1.0}, "target=1.0"),
        ({"max_depth": 0}, "max_depth=0"), ({"metric": "low"}, "metric='low'"),
        ({"init": [1.0, 2.0, 3.0]}, r"init has shape \(3,\)"),
        ({"init": {"mu": 1.0}}, "no value for 'sigma'"),
        ({"init": {"mu": 1.0, "sigma": -1.0}}, "outside"),
        ({"init": {"mu": [1.0], "sigma": 1.0}}, "has shape"),
        ({"init": [np.nan, 0.0]}, "not finite"),
        ({"method": "hmc", "metric": "dense"}, "metric='dense'"),
    ],
)  # fmt: skip
def test_what_sampling_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        Model("normal", data={"y": [1.0, 2.0]}).sample(**options)


def test_a_density_without_its_gradient_is_told_so():
    with pytest.raises(TypeError, match=r"returned a float64: return \(value, gradient\)"):
        Model(lambda x: -x @ x, {"a": (), "b": ()}).sample("nuts", draws=5)
