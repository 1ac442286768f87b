"""Nonlinear least squares against NIST's certified values, closed forms, SciPy and torch."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from paragone.estimation import nonlinear_least_squares
from paragone.estimation._jacobian import curve

GOLDEN = Path(__file__).parents[1] / "golden" / "nist_nonlinear.json"
PROBLEMS = json.loads(GOLDEN.read_text())["problems"]
PI = np.longdouble("3.14159265358979323846264338327950288")


def rational(k):
    def model(b, x):
        top = sum(b[i] * x**i for i in range(k + 1))
        return top / (1 + sum(b[k + i] * x**i for i in range(1, k + 1)))

    return model


def gauss(b, x):
    bells = sum(b[i] * np.exp(-(((x - b[i + 1]) / b[i + 2]) ** 2)) for i in (2, 5))
    return b[0] * np.exp(-b[1] * x) + bells


def enso(b, x):
    turn = 2 * PI * x
    waves = sum(
        b[i] * np.cos(turn / period) + b[i + 1] * np.sin(turn / period)
        for i, period in ((1, 12), (4, b[3]), (7, b[6]))
    )
    return b[0] + waves


def lanczos(b, x):
    return sum(b[i] * np.exp(-b[i + 1] * x) for i in (0, 2, 4))


def chwirut(b, x):
    return np.exp(-b[0] * x) / (b[1] + b[2] * x)


def saturation(b, x):
    return b[0] * (1 - np.exp(-b[1] * x))


MODELS = {
    "Bennett5": lambda b, x: b[0] * (b[1] + x) ** (-1 / b[2]),
    "BoxBOD": saturation, "Misra1a": saturation, "Chwirut1": chwirut, "Chwirut2": chwirut,
    "DanWood": lambda b, x: b[0] * x ** b[1],
    "ENSO": enso,
    "Eckerle4": lambda b, x: b[0] / b[1] * np.exp(-((x - b[2]) ** 2) / (2 * b[1] ** 2)),
    "Gauss1": gauss, "Gauss2": gauss, "Gauss3": gauss,
    "Hahn1": rational(3), "Thurber": rational(3), "Kirby2": rational(2),
    "Lanczos1": lanczos, "Lanczos2": lanczos, "Lanczos3": lanczos,
    "MGH09": lambda b, x: b[0] * (x**2 + x * b[1]) / (x**2 + x * b[2] + b[3]),
    "MGH10": lambda b, x: b[0] * np.exp(b[1] / (x + b[2])),
    "MGH17": lambda b, x: b[0] + b[1] * np.exp(-x * b[3]) + b[2] * np.exp(-x * b[4]),
    "Misra1b": lambda b, x: b[0] * (1 - (1 + b[1] * x / 2) ** -2),
    "Misra1c": lambda b, x: b[0] * (1 - (1 + 2 * b[1] * x) ** -0.5),
    "Misra1d": lambda b, x: b[0] * b[1] * x / (1 + b[1] * x),
    "Nelson": lambda b, x: b[0] - b[1] * x[0] * np.exp(-b[2] * x[1]),
    "Rat42": lambda b, x: b[0] / (1 + np.exp(b[1] - b[2] * x)),
    "Rat43": lambda b, x: b[0] / (1 + np.exp(b[1] - b[2] * x)) ** (1 / b[3]),
    "Roszman1": lambda b, x: b[0] - b[1] * x - np.arctan(b[2] / (x - b[3])) / PI,
}  # fmt: skip


def problem(name, dtype=np.longdouble):
    """Returns (x, y); parsed from decimals in the given precision."""
    found = PROBLEMS[name]
    y = np.array(found["y"].split(), dtype=dtype)
    columns = [np.array(column.split(), dtype=dtype) for column in found["x"]]
    return columns[0] if len(columns) == 1 else np.array(columns), (
        np.log(y) if name == "Nelson" else y
    )


def digits(found, certified):
    """Logarithm of the relative error: the number of right digits (NIST's LRE), at most 11."""
    certified = np.asarray(certified)
    error = np.abs(np.asarray(found, dtype=float) - certified) / np.abs(certified)
    return np.min(-np.log10(np.maximum(error, 1e-11)))


def test_all_27_problems_are_here():
    assert set(MODELS) == set(PROBLEMS)
    assert len(PROBLEMS) == 27


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_certified_values(name, start):
    x, y = problem(name)
    found = nonlinear_least_squares(MODELS[name], PROBLEMS[name]["starts"][start], x, y)
    assert found.converged, found.message
    assert found.jacobian == "complex step"
    assert digits(found.params, PROBLEMS[name]["params"]) >= 8
    assert digits(found.standard_errors, PROBLEMS[name]["standard_errors"]) >= 6
    assert digits(found.rss, PROBLEMS[name]["rss"]) >= 6


def test_doubles_are_enough_except_where_data_are_exact():
    for name in set(MODELS) - {"Lanczos1"}:
        x, y = problem(name, np.float64)
        found = nonlinear_least_squares(MODELS[name], PROBLEMS[name]["starts"][1], x, y)
        assert digits(found.params, PROBLEMS[name]["params"]) >= 6, name
        assert digits(found.standard_errors, PROBLEMS[name]["standard_errors"]) >= 6, name


def test_a_misprinted_model_does_not_pass():
    """The planted bug: one wrong sign, and the certified values must notice."""
    x, y = problem("Misra1b")
    wrong = nonlinear_least_squares(
        lambda b, x: b[0] * (1 - (1 + b[1] * x / 2) ** -2.01),
        PROBLEMS["Misra1b"]["starts"][1],
        x,
        y,
    )
    assert digits(wrong.params, PROBLEMS["Misra1b"]["params"]) < 4


def test_a_line_equals_the_closed_form():
    rng = np.random.default_rng(0)
    x = 1e6 + rng.normal(size=61)
    y = 3 + 2 * x + rng.normal(size=61)
    found = nonlinear_least_squares(lambda p, x: p[0] + p[1] * (x - 1e6), [0, 0], x, y)
    design = np.column_stack([np.ones(61), x - 1e6])
    beta, rss = np.linalg.lstsq(design, y)[:2]
    assert found.params == pytest.approx(beta, rel=1e-9)
    assert found.rss == pytest.approx(float(rss[0]), rel=1e-9)
    covariance = float(rss[0]) / 59 * np.linalg.inv(design.T @ design)
    assert found.covariance == pytest.approx(covariance, rel=1e-8)
    # In a linear model the profile interval is the Wald interval.
    assert found.interval(kind="profile") == pytest.approx(found.interval(), rel=1e-6)


def test_published_profile_interval_is_where_the_sum_of_squares_says():
    x, y = problem("Rat42", np.float64)
    found = nonlinear_least_squares(MODELS["Rat42"], [75, 2.5, 0.07], x, y)
    from scipy import stats

    grown = found.rss + found.sigma**2 * stats.t.ppf(0.975, 6) ** 2
    for i, limits in enumerate(found.interval(kind="profile")):
        for limit in limits:
            start = found.params.copy()
            start[i] = limit
            inner = nonlinear_least_squares(MODELS["Rat42"], start, x, y, fixed=[i])
            assert inner.rss == pytest.approx(grown, rel=1e-8)


@pytest.mark.peers
def test_equals_curve_fit_with_weights():
    rng = np.random.default_rng(1)
    x, sigma = rng.uniform(0, 4, 37), rng.uniform(0.01, 0.1, 37)
    y = 2 * np.exp(-0.7 * x) + sigma * rng.normal(size=37)
    for absolute in (False, True):
        theirs, covariance = optimize.curve_fit(
            lambda x, a, b: a * np.exp(-b * x),
            x,
            y,
            [1, 1],
            sigma,
            absolute,
            xtol=1e-14,
            ftol=1e-14,
        )
        ours = nonlinear_least_squares(
            lambda p, x: p[0] * np.exp(-p[1] * x), [1, 1], x, y, sigma=sigma,
            absolute_sigma=absolute,
        )  # fmt: skip
        assert ours.params == pytest.approx(theirs, rel=1e-6)
        assert ours.covariance == pytest.approx(covariance, rel=1e-4)


def test_torch_and_numpy_agree():
    import torch

    x, y = problem("MGH17", np.float64)
    start = PROBLEMS["MGH17"]["starts"][1]

    def model(p, x):
        return p[0] + p[1] * torch.exp(-x * p[3]) + p[2] * torch.exp(-x * p[4])

    for inputs in (x, torch.as_tensor(x)):
        found = nonlinear_least_squares(model, start, inputs, y)
        assert found.jacobian == "torch"
        assert digits(found.params, PROBLEMS["MGH17"]["params"]) >= 7
        assert digits(found.standard_errors, PROBLEMS["MGH17"]["standard_errors"]) >= 7
    assert found.predict([0.0, 1.0]).shape == (2,)


def test_named_and_fixed_parameters():
    x = np.arange(8.0)
    y = 3 * 0.5**x + np.array([1, -1] * 4) * 1e-3
    found = nonlinear_least_squares(
        lambda p, x: p["top"] * p["rate"] ** x, {"top": 3.0, "rate": 0.4}, x, y, fixed=["top"]
    )
    assert found.params["top"] == 3.0
    assert found.standard_errors["top"] == 0.0
    assert found.params["rate"] == pytest.approx(0.5, abs=1e-3)
    assert "fixed" in found.summary()
    assert found.interval()[0].tolist() == [3.0, 3.0]


def test_prediction_bands_cover():
    rng = np.random.default_rng(2)
    x, truth = np.linspace(0, 5, 40), np.array([2.0, 0.8])

    def model(p, x):
        return p[0] * np.exp(-p[1] * x)

    hits = new_hits = 0
    for _ in range(200):
        found = nonlinear_least_squares(
            model, truth, x, model(truth, x) + 0.1 * rng.normal(size=40)
        )
        _, low, high = found.predict([1.5], level=0.9)
        hits += low[0] <= model(truth, 1.5) <= high[0]
        _, low, high = found.predict([1.5], level=0.9, band="new")
        new_hits += low[0] <= model(truth, 1.5) + 0.1 * rng.normal() <= high[0]
    assert 160 <= hits <= 197
    assert 160 <= new_hits <= 197


def test_models_that_are_not_analytic_fall_back_and_say_so():
    x = np.linspace(-2, 3, 41)
    y = 1.5 * np.abs(x - 0.3) + 0.1
    found = nonlinear_least_squares(
        lambda p, x: p[0] * np.abs(x - p[1]) + p[2], [1.0, 0.37, 0.0], x, y
    )
    assert found.jacobian == "differences"
    assert found.params == pytest.approx([1.5, 0.3, 0.1], abs=1e-8)
    scalar = nonlinear_least_squares(
        lambda p, x: np.array([p[0] * math.exp(-p[1] * v) for v in x]), [1, 1], x, np.exp(-0.5 * x)
    )
    assert scalar.jacobian == "differences"
    assert scalar.params == pytest.approx([1, 0.5], abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0.2, 3), min_size=2, max_size=2), st.floats(-3, 3))
def test_complex_step_equals_the_derivative_by_hand(theta, at):
    found = curve(
        lambda p, x: p[0] * np.sin(p[1] * x), np.array([at]), lambda t: t, np.array(theta)
    )
    hand = [np.sin(theta[1] * at), theta[0] * at * np.cos(theta[1] * at)]
    assert found.jacobian(np.array(theta))[0] == pytest.approx(hand, rel=1e-14, abs=1e-300)


def test_what_data_do_not_determine_is_nan_with_a_reason():
    x = np.arange(9.0)
    found = nonlinear_least_squares(lambda p, x: (p[0] + p[1]) * x, [1.0, 1.0], x, 3 * x)
    assert not found.converged
    assert "singular" in found.message
    assert np.isnan(found.standard_errors).all()


def test_as_many_parameters_as_observations():
    found = nonlinear_least_squares(lambda p, x: p[0] * x + p[1], [1, 1], [0.0, 1.0], [1.0, 3.0])
    assert found.params == pytest.approx([2, 1])
    assert found.dof == 0
    assert np.isnan(found.standard_errors).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"y": []}, "at least one"),
        ({"y": [1.0, np.nan, 2.0]}, "not finite"),
        ({"start": []}, "at least one number"),
        ({"start": [np.inf, 1]}, "finite"),
        ({"y": [1.0], "x": [1.0]}, "cannot determine 2"),
        ({"fixed": [0, 1]}, "no parameter free"),
        ({"fixed": ["slope"]}, "none of p0, p1"),
        ({"sigma": [1.0, 2.0]}, "one for each"),
        ({"sigma": 0.0}, "positive"),
        ({"model": lambda p, x: x[:2]}, "returned 2 values"),
        ({"model": lambda p, x: np.log(p[0] * 0 * x)}, "choose a start"),
    ],
)
def test_bad_input(change, words):
    given = {"model": lambda p, x: p[0] * x + p[1], "start": [1, 1], "x": [0.0, 1, 2],
             "y": [1.0, 2, 4], **change}  # fmt: skip
    if isinstance(given["x"], list):
        given["x"] = np.array(given["x"])
    with pytest.raises(ValueError, match=words):
        nonlinear_least_squares(given.pop("model"), given.pop("start"), given.pop("x"),
                                given.pop("y"), **given)  # fmt: skip


def test_levels_and_kinds_are_checked():
    found = nonlinear_least_squares(lambda p, x: p[0] * x, [1.0], np.arange(4.0), [0, 1, 2, 4])
    with pytest.raises(ValueError, match="level=1"):
        found.interval(1)
    with pytest.raises(ValueError, match="wald"):
        found.interval(kind="exact")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="band"):
        found.predict([1.0], 0.9, band="old")  # pyright: ignore[reportArgumentType]
