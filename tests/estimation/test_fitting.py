"""`fit` against closed forms, repeated rows, published fits of censored data, and SciPy."""

import tomllib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from paragone.estimation import Fit, _search, families, fit
from paragone.estimation._information import expected_hessian
from paragone.estimation._optimize import maximise
from paragone.estimation._thinning import binned
from paragone.estimation.families import Data

GOLDEN = tomllib.loads(
    (Path(__file__).resolve().parents[1] / "golden" / "censored_fits.toml").read_text()
)["fit"]
FAMILIES = [
    "normal", "half_normal", "lognormal", "lognormal_3p", "logistic", "laplace", "cauchy",
    "student_t", "gumbel_r", "gumbel_l", "weibull", "weibull_3p", "inverse_weibull", "rayleigh",
    "gamma", "gamma_3p", "exponential", "exponential_2p", "pareto", "skew_normal", "uniform",
]  # fmt: skip
REGULAR = [name for name in FAMILIES if not families.get(name).edges]


def sample(name, n, seed=0):
    """Values of a member of the family with unremarkable parameters."""
    values = {"loc": 1.5, "mu": 0.4, "lower": 1.0, "upper": 3.0, "df": 4.0, "scale": 2.0}
    family = families.get(name)
    theta = {each: values.get(each, 2.5) for each in family.names}
    return family.rvs(family.vector(theta), n, seed)


def same(a: Fit, b: Fit, rtol=1e-6):
    assert a.loglik == pytest.approx(b.loglik, rel=1e-9, abs=1e-7)
    assert a.n == pytest.approx(b.n)
    for name, value in a.params.items():
        assert b.params[name] == pytest.approx(value, rel=rtol, abs=rtol)
    np.testing.assert_allclose(a.covariance, b.covariance, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("row", GOLDEN, ids=lambda row: row["name"])
def test_published_fits_of_censored_data(row):
    found = fit((row["lower"], row["upper"]), row["family"], fixed=row.get("fixed"))
    assert found.converged
    for name, value in row["params"].items():
        assert found.params[name] == pytest.approx(value, rel=row["rtol"])
    for name, value in row.get("errors", {}).items():
        assert found.standard_errors[name] == pytest.approx(value, rel=1e-3)


def test_a_wrong_censoring_misses_the_published_fit():
    row = next(row for row in GOLDEN if row["name"] == "weibull_fans_sas")
    as_exact = fit(row["lower"], row["family"])
    assert as_exact.params["scale"] != pytest.approx(row["params"]["scale"], rel=0.1)


def test_normal_by_hand():
    x = sample("normal", 57)
    found = fit(x, "normal")
    assert found.params == pytest.approx({"loc": x.mean(), "scale": x.std()}, rel=1e-14)
    errors = found.standard_errors
    assert errors["loc"] == pytest.approx(x.std() / np.sqrt(57), rel=1e-12)
    assert errors["scale"] == pytest.approx(x.std() / np.sqrt(2 * 57), rel=1e-12)
    loglik = stats.norm(x.mean(), x.std()).logpdf(x).sum()
    assert found.loglik == pytest.approx(loglik, rel=1e-13)
    assert found.aic == pytest.approx(4 - 2 * loglik)
    assert found.aicc == pytest.approx(4 - 2 * loglik + 12 / 54)
    assert found.bic == pytest.approx(2 * np.log(57) - 2 * loglik)
    # The profile of the mean is that of Student's t, known in closed form.
    half = x.std() * np.sqrt(np.expm1(stats.chi2.ppf(0.95, 1) / 57))
    low, high = found.interval(0.95, "profile")["loc"]
    assert (low, high) == pytest.approx((x.mean() - half, x.mean() + half), rel=1e-8)


def test_other_closed_forms():
    x = sample("pareto", 41)
    pareto = fit(x, "pareto")
    assert pareto.params["scale"] == x.min()
    assert pareto.params["shape"] == pytest.approx(1 / np.log(x / x.min()).mean())
    assert np.isnan(pareto.standard_errors["scale"])
    assert "end of the support" in str(pareto.reasons)
    assert pareto.standard_errors["shape"] == pytest.approx(pareto.params["shape"] / np.sqrt(41))
    assert pareto.aic == pytest.approx(4 - 2 * pareto.loglik)
    laplace = fit([1.0, 2.0, 4.0, 9.0], "laplace", information="expected")
    assert laplace.params == {"loc": 3.0, "scale": 2.5}
    assert laplace.standard_errors["loc"] == pytest.approx(2.5 / 2, rel=1e-6)
    assert "kink" in fit([1.0, 2.0, 4.0], "laplace").reasons["loc"]
    events, times = np.array([1.0, 0, 1, 1]), np.array([2.0, 5.0, 3.0, 1.0])
    exponential = fit(times, "exponential", censoring=events == 0)
    assert exponential.params["scale"] == pytest.approx(11 / 3)
    uniform = fit([2.0, 3.0, 7.0], "uniform")
    assert uniform.params == {"lower": 2.0, "upper": 7.0}
    assert uniform.loglik == pytest.approx(-3 * np.log(5.0))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_weight_is_a_repeated_row(name):
    x = sample(name, 40, 3)
    w = np.random.default_rng(4).integers(0, 4, 40)
    w[np.argmin(x)] = 1
    weighted = fit(x, name, weights=w)
    repeated = fit(np.repeat(x, w), name)
    assert weighted.n == w.sum()
    same(weighted, repeated)
    assert weighted.bic == pytest.approx(repeated.bic, rel=1e-9)


@pytest.mark.parametrize("name", FAMILIES)
def test_score_is_zero_and_order_does_not_matter(name):
    x = sample(name, 120, 5)
    found = fit(x, name)
    assert found.converged
    problem = found._problem
    theta = np.array([found.params[each] for each in problem.free])
    if found.rule != "maximum spacing" and name != "laplace":
        score = problem.loglik_score_hessian(theta)[1]
        error = np.array([found.standard_errors[each] for each in problem.free])
        assert np.all(np.abs(score * error) < 1e-3)
    same(found, fit(x[::-1], name))
    same(found, fit(np.concatenate((x, x[:0])).tolist(), name))


@pytest.mark.parametrize("name", FAMILIES)
def test_half_the_data_censored_stays_near(name):
    x = sample(name, 300, 6)
    cut = np.quantile(x, 0.7)
    found = fit(np.minimum(x, cut), name, censoring=np.where(x > cut, "right", "none"))
    whole = fit(x, name)
    assert found.converged
    for each in found.params:
        allowed = 6 * np.nan_to_num(found.standard_errors[each], nan=1.0) + 1e-9
        assert abs(found.params[each] - whole.params[each]) < allowed


@pytest.mark.parametrize("name", [name for name in REGULAR if name != "laplace"])
def test_truncation_undoes_the_cut(name):
    x = sample(name, 4000, 7)
    low, high = np.quantile(x, [0.04, 0.9])
    kept = x[(x >= low) & (x <= high)]
    found = fit(kept, name, truncation=(low, high))
    # The law of the truncated values, whatever the parameters: uniform after its own cdf.
    theta = np.array([found.params[each] for each in found.family.names])
    ends = found.family.cdf([low, high], theta)
    u = (found.family.cdf(kept, theta) - ends[0]) / (ends[1] - ends[0])
    assert stats.kstest(u, "uniform").pvalue > 0.01
    assert found.loglik > fit(kept, name).loglik


@pytest.mark.parametrize("name", REGULAR)
def test_fixed_parameters(name):
    x = sample(name, 200, 8)
    free = fit(x, name)
    for each in free.params:
        if not np.isfinite(free.standard_errors[each]):
            continue
        held = fit(x, name, fixed={each: free.params[each]})
        assert held.loglik == pytest.approx(free.loglik, abs=1e-5)
        assert held.standard_errors[each] == 0.0
        assert each not in held.interval()
        assert held.free == free.free - 1
    every = fit(x, name, fixed=free.params)
    assert every.loglik == pytest.approx(free.loglik, abs=1e-6)
    assert every.free == 0


def test_a_fixed_location_moves_the_data():
    x = sample("weibull", 80)
    same_shape = fit(x + 5.0, "weibull", fixed={"loc": 5.0})
    assert same_shape.params["shape"] == pytest.approx(fit(x, "weibull").params["shape"], rel=1e-8)
    assert same_shape.params["loc"] == 5.0
    assert same_shape.family.name == "weibull_3p"


@pytest.mark.parametrize("name", ["gamma", "student_t", "weibull_3p", "lognormal_3p"])
def test_profile_intervals_are_likelihood_ratios(name):
    x = sample(name, 150, 9)
    found = fit(x, name)
    for each, ends in found.interval(0.9, "profile").items():
        for end in ends:
            drop = 2 * (found.loglik - fit(x, name, fixed={each: end}).loglik)
            assert drop == pytest.approx(stats.chi2.ppf(0.9, 1), abs=1e-5)


def test_intervals_agree_when_data_are_many():
    found = fit(sample("gamma", 20_000), "gamma")
    wald, transformed = found.interval(0.95), found.interval(0.95, "transformed")
    profile = found.interval(0.95, "profile")
    for name, (low, high) in wald.items():
        width = high - low
        assert transformed[name] == pytest.approx((low, high), abs=0.02 * width)
        assert profile[name] == pytest.approx((low, high), abs=0.02 * width)


@pytest.mark.parametrize(
    "name", ["normal", "gamma", "weibull", "student_t", "gumbel_r", "logistic"]
)
def test_information_in_three_ways(name):
    x = sample(name, 30_000, 10)
    errors = [
        np.array([*fit(x, name, information=kind).standard_errors.values()])
        for kind in ("observed", "expected", "sandwich")
    ]
    np.testing.assert_allclose(errors[1], errors[0], rtol=0.04)
    np.testing.assert_allclose(errors[2], errors[0], rtol=0.06)


def test_expected_information_is_fishers():
    gamma = families.get("gamma")
    theta = np.array([2.5, 2.0])
    from scipy.special import polygamma

    exact = -np.array([[polygamma(1, 2.5), 0.5], [0.5, 2.5 / 4.0]])
    np.testing.assert_allclose(expected_hessian(gamma, theta), exact, rtol=1e-9)


@pytest.mark.parametrize("name", ["weibull_3p", "gamma_3p", "lognormal_3p"])
def test_the_unbounded_path_is_not_taken(name):
    family = families.get(name)
    x = family.rvs(family.vector([2.5, 10.0, 2.0]), 400, 11)
    found = fit(x, name)
    assert found.rule in ("maximum likelihood", "interior local maximum")
    assert abs(found.params["loc"] - 10.0) < 5 * found.standard_errors["loc"]
    # The singular path has a higher likelihood, which is why it must not be followed.
    shape = 0.4 if name != "lognormal_3p" else None
    if shape is not None:
        spike = {**found.params, "loc": float(np.nextafter(x.min(), -np.inf)), "shape": 1e-3}
        near = np.array([spike[each] for each in family.names])
        assert np.isfinite(family.logpdf(x, near)).all()


def test_without_an_interior_maximum_the_spacings_decide():
    family = families.get("weibull_3p")
    x = family.rvs(family.vector([0.6, 3.0, 2.0]), 300, 12)
    found = fit(x, "weibull_3p")
    assert found.rule == "maximum spacing"
    assert "maximum-spacing" in found.warnings[0]
    assert found.params["loc"] < x.min()
    assert found.params["loc"] == pytest.approx(3.0, abs=0.01)
    assert found.params["shape"] == pytest.approx(0.6, abs=0.12)
    assert np.isfinite(found.standard_errors["shape"])
    assert found.loglik == pytest.approx(family.logpdf(x, found.params).sum())
    with pytest.raises(ValueError, match="no profile interval"):
        found.interval(kind="profile")


def test_where_the_density_has_a_point_loc_is_the_best_observation():
    family = families.get("generalized_normal")
    x = family.rvs(family.vector([0.6, 1.0, 2.0]), 30, 2)
    found = fit(x, family)
    assert found.converged
    assert found.params["beta"] < 1.0
    brute = max(fit(x, family, fixed={"loc": value}).loglik for value in x)
    assert found.loglik == pytest.approx(brute, abs=1e-6)
    assert "point" in found.reasons["loc"]


def test_limits_are_said():
    normal = np.random.default_rng(13).normal(size=200)
    normal = np.sign(normal) * np.minimum(np.abs(normal), 2.0)
    found = fit(normal, "student_t")
    assert np.isnan(found.standard_errors["df"])
    assert "flat" in found.reasons["df"]
    assert any("df" in note for note in found.warnings)
    assert found.standard_errors["scale"] == pytest.approx(
        fit(normal, "normal").standard_errors["scale"], rel=1e-3
    )
    skewed = -np.random.default_rng(14).gumbel(size=100)
    for name in ("gamma_3p", "lognormal_3p"):
        found = fit(skewed - 5, name)
        assert "loc goes to -inf" in found.warnings[0]
        assert np.isnan(found.standard_errors["loc"])
        assert found.loglik == pytest.approx(fit(skewed - 5, "normal").loglik, abs=0.1)


def test_predictions():
    x = sample("normal", 500, 15)
    found = fit(x, "normal")
    mean = found.predict("mean")
    assert float(mean.standard_error) == pytest.approx(found.standard_errors["loc"], rel=1e-8)
    median = found.predict("quantile", 0.5)
    assert float(median.value) == pytest.approx(x.mean())
    upper = found.predict("quantile", [0.5, 0.975])
    z = stats.norm.ppf(0.975)
    expected = x.std() * np.sqrt((1 + z * z / 2) / 500)
    assert upper.standard_error[1] == pytest.approx(expected, rel=1e-7)
    below = found.predict("cdf", x.mean())
    assert float(below.value) == pytest.approx(0.5)
    assert 0.4 < below.lower < 0.5 < below.upper < 0.6
    assert found.rvs(3, 0).shape == (3,)
    assert float(found.predict("var").value) == pytest.approx(x.var())
    with pytest.raises(ValueError, match="needs at="):
        found.predict("cdf")
    with pytest.raises(ValueError, match="no probability"):
        found.predict("quantile", 1.5)
    with pytest.raises(ValueError, match="none of mean"):
        found.predict("mode")


def test_summary_tells_all():
    text = fit([1.0, 2.0, 4.0, 3.0], "weibull_3p", fixed={"loc": 0.0}).summary()
    for word in ("Weibull", "loglik", "aicc", "shape", "fixed", "std. error", "n = 4"):
        assert word in text
    assert "Fit(weibull" in repr(fit([1.0, 2.0, 4.0], "weibull"))


def test_scipys_censored_data_and_codes_say_the_same():
    times, censored = np.array([2.5, 2.9, 3.8, 9.1, 25.0]), np.array([0, 0, 0, 0, 1])
    peer = fit(stats.CensoredData.right_censored(times, censored), "gamma")
    same(peer, fit(times, "gamma", censoring=censored.astype(bool)))
    same(peer, fit(times, "gamma", censoring=["none"] * 4 + ["right"]))
    same(peer, fit((times, np.where(censored, np.inf, times)), "gamma"))
    mixed = fit([1.0, 2.0, 3.0, 4.0], "normal", censoring=[-1, 0, 2, 1], upper=[9, 9, 3.5, 9])
    same(mixed, fit(([-np.inf, 2.0, 3.0, 4.0], [1.0, 2.0, 3.5, np.inf]), "normal"))


BAD = [
    (([],), {}, "data is empty"),
    (([1.0, np.nan, 2.0],), {}, r"data\[1\]=nan"),
    (([1.0, np.inf],), {}, r"data\[1\]=inf"),
    (([[1.0, 2.0]],), {}, "has the shape"),
    ((["a", "b"],), {}, "not numbers"),
    (([1.0, -2.0],), {"family": "gamma"}, r"-2.0, outside \(0.0, inf\), the support of gamma"),
    (([1.0, 0.0],), {"family": "weibull"}, "or use weibull_3p"),
    (([1.0, 5.0],), {"family": "exponential_2p", "fixed": {"loc": 2.0}}, r"outside \[2.0, inf\]"),
    (([2.0, 2.0],), {}, "all observations are 2.0"),
    (([1.0, 2.0],), {"weights": [0.0, 0.0]}, "weights are all 0"),
    (([1.0, 2.0],), {"weights": [1.0, -1.0]}, "weights has -1.0"),
    (([1.0, 2.0],), {"weights": [1.0]}, "1 values for 2 rows"),
    (([1.0, 2.0],), {"fixed": {"shape": 1.0}}, "no parameter of normal"),
    (([1.0, 2.0],), {"fixed": {"scale": -1.0}}, "fixed scale=-1.0 is outside"),
    (([1.0, 2.0],), {"family": "norml"}, "did you mean normal"),
    (([1.0, 2.0],), {"method": "ml"}, "none of 'mle'"),
    (([1.0, 2.0],), {"prior": 1}, "has no prior"),
    (([1.0, 2.0],), {"draws": 1}, "draws is no argument"),
    (([1.0, 2.0],), {"information": "fisher"}, "none of observed"),
    (([1.0, 2.0],), {"censoring": ["up", "none"]}, "'up' is none of"),
    (([1.0, 2.0],), {"censoring": [5, 0]}, "codes beyond"),
    (([1.0, 2.0],), {"censoring": [1]}, "one for each"),
    (([1.0, 2.0],), {"censoring": [2, 0]}, "needs upper="),
    (([1.0, 2.0],), {"upper": [2.0, 3.0]}, "give censoring="),
    ((([2.0], [1.0]),), {}, "swap its ends"),
    ((([2.0], [1.0, 3.0]),), {}, "one of each a row"),
    ((([-np.inf], [np.inf]),), {}, "no row says anything"),
    ((([np.inf], [np.inf]),), {}, "a row is infinite"),
    ((([-3.0], [-1.0]),), {"family": "gamma"}, "no mass under gamma"),
    (([1.0, 2.0],), {"truncation": (1.5, None)}, "row 0, 1.0, lies outside truncation"),
    (([1.0, 2.0],), {"truncation": (3.0, 0.0)}, "is empty"),
    (([1.0, 2.0],), {"truncation": 3.0}, r"is not \(lower, upper\)"),
    (([1.0, 2.0],), {"start": {"loc": 0.0}}, "start has no scale"),
    (([1.0, 2.0],), {"family": "weibull_3p", "start": {"shape": 1, "loc": 3, "scale": 1}},
     "makes the data impossible"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "options", "message"), BAD, ids=[row[2] for row in BAD])
def test_bad_input_is_named(data, options, message):
    options = {"family": "normal", **options}
    with pytest.raises(ValueError, match=message):
        fit(*data, **options)


def test_expected_information_needs_complete_data():
    with pytest.raises(ValueError, match="needs complete data"):
        fit([1.0, 2.0, 3.0], "normal", censoring=[0, 0, 1], information="expected")
    with pytest.raises(ValueError, match="level=95"):
        fit([1.0, 2.0, 3.0], "normal").interval(95)
    with pytest.raises(ValueError, match="none of 'wald'"):
        fit([1.0, 2.0, 3.0], "normal").interval(kind="exact")


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(["normal", "logistic", "gumbel_r", "weibull", "gamma", "student_t", "cauchy"]),
    st.integers(15, 60), st.integers(0, 2**31), st.floats(-9, 9),
)  # fmt: skip
def test_units_do_not_matter(name, n, seed, decade):
    x = sample(name, n, seed)
    unit = 10.0**decade
    here, there = fit(x, name), fit(x * unit, name)
    assert there.loglik == pytest.approx(here.loglik - n * np.log(unit), rel=1e-8, abs=1e-5)
    assert there.params["scale"] == pytest.approx(here.params["scale"] * unit, rel=1e-3)


def test_newton_leaves_saddles_and_says_when_it_cannot():
    def well(u):
        x, y = u
        value = -((x * x - 1) ** 2) - y * y
        return value, np.array([-4 * x * (x * x - 1), -2 * y]), np.diag([4 - 12 * x * x, -2.0])

    end = maximise(well, np.array([1e-3, 2.0]))
    assert end.converged
    assert np.allclose(end.u, [1.0, 0.0], atol=1e-8)
    assert end.steps < 20
    nowhere = maximise(lambda u: (-np.inf, u, np.eye(1)), np.zeros(1))
    assert not nowhere.converged
    assert "impossible" in nowhere.message
    line = maximise(lambda u: (float(u[0]), np.ones(1), np.zeros((1, 1))), np.zeros(1), most=30)
    assert not line.converged
    assert "30 steps" in line.message


@pytest.mark.peers
@pytest.mark.parametrize("name", FAMILIES)
def test_never_a_lower_likelihood_than_scipy(name):
    family = families.get(name)
    peer = getattr(stats, family.scipy)
    for seed in range(4):
        x = sample(name, 40 * 3**seed, seed)
        found = fit(x, name)
        location = {} if "loc" in family.names or name == "uniform" else {"floc": 0}
        theta = peer.fit(x, **location)
        if found.rule == "maximum spacing":
            continue
        assert found.loglik >= peer.logpdf(x, *theta).sum() - 1e-6


@pytest.mark.peers
@pytest.mark.parametrize(
    ("name", "fitter"),
    [
        ("weibull", "WeibullFitter"),
        ("lognormal", "LogNormalFitter"),
        ("exponential", "ExponentialFitter"),
    ],
)
def test_lifelines_on_censored_times(name, fitter):
    lifelines = pytest.importorskip("lifelines", reason="lifelines is not installed")
    x = sample(name, 150, 16)
    limit = np.random.default_rng(17).exponential(2 * np.median(x), 150)
    seen = x <= limit
    peer = getattr(lifelines, fitter)().fit(np.minimum(x, limit), seen)
    found = fit(np.minimum(x, limit), name, censoring=~seen)
    assert found.loglik == pytest.approx(peer.log_likelihood_, abs=1e-4)


def test_bins_stand_for_all_rows():
    random = np.random.default_rng(5)
    x = np.concatenate((random.standard_cauchy(5000), [0.0, 0.0, 1e-300, -1e200]))
    w = random.integers(1, 4, len(x)).astype(float)
    for centre in (x.min(), 0.0, 0.3):
        nodes, weights = binned(x, w, (x.min(), x.max()), centre)
        assert weights.sum() == w.sum()
        assert x.min() <= nodes.min()
        assert nodes.max() <= x.max()
        assert len(nodes) < len(x)
    x, w = x[:5000], w[:5000]
    nodes, weights = binned(x, w, (x.min(), x.max()), 0.3)
    assert abs(weights @ nodes - w @ x) < 1e-12 * (w @ np.abs(x))
    assert weights @ np.abs(nodes - 0.3) ** 0.5 == pytest.approx(w @ np.abs(x - 0.3) ** 0.5, 1e-5)


@pytest.mark.parametrize(
    ("name", "theta"),
    [
        ("weibull", [1.6, 2.0]),
        ("inverse_weibull", [0.7, 3.0]),
        ("weibull_3p", [1.6, 1.0, 2.0]),
        ("lognormal_3p", [4.0, 0.7, 0.1]),
        ("generalized_normal", [1.6, 1.0, 2.0]),
        ("student_t", [3.0, -1.0, 2.0]),
    ],
)
def test_many_rows_end_where_few_would(name, theta, monkeypatch):
    family = families.get(name)
    x = family.rvs(np.array(theta), 5_200, 3)
    quick = fit(x, name)
    monkeypatch.setattr(_search, "_MANY", 10**9)
    slow = fit(x, name)
    assert quick.converged
    assert quick.rule == slow.rule
    assert quick.loglik == pytest.approx(slow.loglik, abs=1e-6)
    for key, error in slow.standard_errors.items():
        assert abs(quick.params[key] - slow.params[key]) < 1e-3 * error
        assert quick.standard_errors[key] == pytest.approx(error, rel=2e-3)


@pytest.mark.parametrize("name", ["weibull", "inverse_weibull"])
def test_three_sums_are_the_likelihood_of_weibull(name):
    family, theta = families.get(name), np.array([1.3, 2.2])
    x, w = family.rvs(theta, 200, 1), np.random.default_rng(2).integers(1, 5, 200).astype(float)
    value, score, hessian = family.terms(family.prepare(Data(x, w)), theta * 1.1)
    rows = family.pointwise(x, theta * 1.1)
    assert value == pytest.approx(w @ rows[0], rel=1e-12)
    np.testing.assert_allclose(score, w @ rows[1], rtol=1e-11, atol=1e-10)
    np.testing.assert_allclose(hessian, np.tensordot(w, rows[2], 1), rtol=1e-11)
