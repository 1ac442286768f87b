"""Losses against finite differences, scikit-learn's private losses, and brute-force minima."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import expit
from sklearn._loss import loss as peer

from paragone.ensemble._custom_loss import torch_objective
from paragone.ensemble._friedman import newton_steps
from paragone.ensemble._loss_kernels import quantiles
from paragone.ensemble._losses import make_loss

SMOOTH = {
    "squared": {},
    "poisson": {},
    "gamma": {},
    "tweedie": {"power": 1.3},
    "logistic": {},
    "softmax": {"num_classes": 4},
    "exponential": {},
}
KINKED = {
    "absolute": {},
    "huber": {"delta": 0.7},
    "quantile": {"alpha": 0.2},
    "quantiles": {"alpha": (0.9, 0.1, 0.5)},
}
ALL = SMOOTH | KINKED


def build(key):
    return make_loss("quantile" if key == "quantiles" else key, **ALL[key])


def sample(key, n=57, seed=0):
    """Targets in the loss's domain, raw scores and weights."""
    rng = np.random.default_rng(seed)
    loss = build(key)
    if key in ("logistic", "exponential", "softmax"):
        y = rng.integers(0, ALL[key].get("num_classes", 2), n).astype(float)
    elif key in ("poisson", "gamma", "tweedie"):
        y = rng.gamma(2.0, 1.5, n) + 0.01
    else:
        y = rng.normal(size=n)
    raw = rng.normal(size=(loss.outputs, n))
    return loss, y, raw, rng.uniform(0.1, 2.0, n)


def derivatives(loss, y, raw, weight):
    gradient, hessian = np.full_like(raw, np.nan), np.full_like(raw, np.nan)
    loss.gradients(y, raw, weight, gradient, hessian)
    return gradient, hessian


def total(loss, y, raw, weight):
    return loss.losses(y, raw) * weight


def numeric(loss, y, raw, weight, k, step=1e-5):
    up, down = raw.copy(), raw.copy()
    up[k] += step
    down[k] -= step
    return (total(loss, y, up, weight) - total(loss, y, down, weight)) / (2 * step)


@pytest.mark.parametrize("key", ALL)
def test_gradient_is_the_derivative_of_the_value(key):
    loss, y, raw, weight = sample(key)
    gradient, _ = derivatives(loss, y, raw, weight)
    for k in range(loss.outputs):
        np.testing.assert_allclose(gradient[k], numeric(loss, y, raw, weight, k), atol=2e-8)


@pytest.mark.parametrize("key", SMOOTH)
def test_hessian_is_the_derivative_of_the_gradient(key):
    loss, y, raw, weight = sample(key)
    _, hessian = derivatives(loss, y, raw, weight)
    for k in range(loss.outputs):
        up, down = raw.copy(), raw.copy()
        up[k] += 1e-5
        down[k] -= 1e-5
        rise = derivatives(loss, y, up, weight)[0] - derivatives(loss, y, down, weight)[0]
        np.testing.assert_allclose(hessian[k], rise[k] / 2e-5, rtol=1e-7, atol=1e-8)


def test_finite_differences_catch_a_wrong_sign():
    loss, y, raw, weight = sample("poisson")
    gradient, _ = derivatives(loss, y, raw, weight)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(-gradient[0], numeric(loss, y, raw, weight, 0), atol=2e-8)


@pytest.mark.parametrize("key", KINKED)
def test_kinked_losses_have_the_weight_as_hessian_and_ask_for_a_refit(key):
    loss, y, raw, weight = sample(key)
    _, hessian = derivatives(loss, y, raw, weight)
    assert loss.constant_hessian
    assert loss.needs_refit
    np.testing.assert_array_equal(hessian, np.broadcast_to(weight, raw.shape))


PEERS = {
    "squared": lambda: peer.HalfSquaredError(),
    "absolute": lambda: peer.AbsoluteError(),
    "quantile": lambda: peer.PinballLoss(quantile=0.2),
    "huber": lambda: peer.HuberLoss(delta=0.7),
    "poisson": lambda: peer.HalfPoissonLoss(),
    "gamma": lambda: peer.HalfGammaLoss(),
    "tweedie": lambda: peer.HalfTweedieLoss(power=1.3),
    "logistic": lambda: peer.HalfBinomialLoss(),
    "softmax": lambda: peer.HalfMultinomialLoss(n_classes=4),
    "exponential": lambda: peer.ExponentialLoss(),
}


@pytest.mark.parametrize("key", PEERS)
def test_derivatives_and_value_equal_scikit_learn(key):
    loss, y, raw, weight = sample(key)
    gradient, hessian = derivatives(loss, y, raw, weight)
    other, scores = PEERS[key](), raw[0] if len(raw) == 1 else np.ascontiguousarray(raw.T)
    want_g, want_h = other.gradient_hessian(y, scores, sample_weight=weight)
    np.testing.assert_allclose(gradient, np.atleast_2d(want_g.T), rtol=1e-12, atol=1e-14)
    if key in SMOOTH:
        want_h = np.broadcast_to(np.atleast_2d(want_h.T), hessian.shape)
        np.testing.assert_allclose(hessian, want_h, rtol=1e-10, atol=1e-13)
    # Values may differ by a constant that depends on y alone.
    shifted = raw + 0.3
    moved = shifted[0] if len(raw) == 1 else np.ascontiguousarray(shifted.T)
    ours = loss.losses(y, shifted) - loss.losses(y, raw)
    theirs = other.loss(y, moved) - other.loss(y, scores)
    np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)


def test_softmax_hessian_scale():
    loss, y, raw, weight = sample("softmax")
    doubled = make_loss("softmax", num_classes=4, hessian_scale=2.0)
    np.testing.assert_allclose(
        derivatives(doubled, y, raw, weight)[1], 2 * derivatives(loss, y, raw, weight)[1]
    )


@pytest.mark.parametrize("key", sorted(set(ALL) - {"softmax", "quantiles"}))
def test_initial_constant_is_optimal(key):
    loss, y, _, weight = sample(key, n=41, seed=3)
    (ours,) = loss.initial(y, weight)

    def at(constant):
        return loss.value(y, np.full((1, len(y)), constant), weight)

    best = minimize_scalar(at, bounds=(-6, 6), method="bounded", options={"xatol": 1e-10})
    assert at(ours) <= best.fun + 1e-12


def test_initial_constant_of_softmax_and_several_quantiles():
    loss, y, _, weight = sample("softmax")
    share = np.bincount(y.astype(int), weight) / weight.sum()
    np.testing.assert_allclose(loss.transform(loss.initial(y, weight)[:, None])[0], share)
    loss, y, _, weight = sample("quantiles")
    single = [make_loss("quantile", alpha=a).initial(y, weight)[0] for a in (0.9, 0.1, 0.5)]
    np.testing.assert_array_equal(loss.initial(y, weight), single)


@pytest.mark.parametrize("key", ["absolute", "quantile", "poisson", "gamma", "tweedie"])
def test_leaf_step_is_optimal(key):
    loss, y, raw, weight = sample(key, n=90, seed=1)
    leaf = np.random.default_rng(5).integers(0, 4, 90).astype(np.int32)
    weight[leaf == 2] = 0.0
    steps = loss.leaf_values(y, raw, weight, leaf, 6, 0)
    assert steps.shape == (6,)
    assert steps[2] == steps[4] == steps[5] == 0
    for j in (0, 1, 3):
        rows = leaf == j

        def at(step, rows=rows):
            return loss.value(y[rows], raw[:, rows] + step, weight[rows])

        best = minimize_scalar(at, bounds=(-5, 5), method="bounded", options={"xatol": 1e-10})
        assert at(steps[j]) <= best.fun + 1e-12


@pytest.mark.parametrize("key", ["logistic", "softmax", "exponential"])
def test_leaf_step_is_friedmans_newton_step(key):
    loss, y, raw, weight = sample(key, n=90, seed=1)
    leaf = np.random.default_rng(5).integers(0, 3, 90).astype(np.int32)
    assert loss.leaf_values(y, raw, weight, leaf, 3, 0) is None
    gradient, hessian = derivatives(loss, y, raw, weight)
    rows = np.flatnonzero(np.arange(90) % 4)
    sign = 2 * y - 1
    for k in range(loss.outputs):
        steps = loss.newton_scale * newton_steps(gradient[k], hessian[k], rows, leaf, 4)
        assert steps[3] == 0
        for j in range(3):
            i = rows[leaf[rows] == j]
            w = weight[i]
            if key == "exponential":
                e = np.exp(-sign[i] * raw[0, i])
                want = np.sum(w * sign[i] * e) / np.sum(w * e)
            elif key == "logistic":
                p = 1 / (1 + np.exp(-raw[0, i]))
                want = np.sum(w * (y[i] - p)) / np.sum(w * p * (1 - p))
            else:
                p = np.exp(raw[k, i]) / np.exp(raw[:, i]).sum(0)
                want = 3 / 4 * np.sum(w * ((y[i] == k) - p)) / np.sum(w * p * (1 - p))
            np.testing.assert_allclose(steps[j], want, rtol=1e-10)


def test_huber_leaf_and_delta_follow_friedman():
    loss = make_loss("huber", alpha=0.8)
    rng = np.random.default_rng(0)
    y, raw, weight = rng.normal(size=50), rng.normal(size=(1, 50)), np.ones(50)
    derivatives(loss, y, raw, weight)
    u = y - raw[0]
    assert loss.delta == np.sort(np.abs(u))[39]
    leaf = np.zeros(50, np.int32)
    median = np.sort(u)[24]
    want = median + np.mean(np.sign(u - median) * np.minimum(loss.delta, np.abs(u - median)))
    np.testing.assert_allclose(loss.leaf_values(y, raw, weight, leaf, 1, 0), [want])


def test_squared_error_keeps_the_trees_own_leaves():
    loss, y, raw, weight = sample("squared")
    assert loss.leaf_values(y, raw, weight, np.zeros(len(y), np.int32), 1, 0) is None


@pytest.mark.parametrize("key", ALL)
def test_extreme_scores_stay_finite(key):
    loss, y, raw, weight = sample(key, n=8)
    for score in (1e3, -1e3):
        extreme = np.full_like(raw, score)
        extreme[:, ::2] *= -1
        with np.errstate(over="raise", invalid="raise", divide="raise"):
            gradient, hessian = derivatives(loss, y, extreme, weight)
            steps = loss.leaf_values(y, extreme, weight, np.zeros(8, np.int32), 1, 0)
            outcome = [gradient, hessian, loss.transform(extreme), loss.value(y, extreme, weight)]
        assert all(np.all(np.isfinite(part)) for part in outcome)
        assert steps is None or np.all(np.isfinite(steps))
        assert np.all(hessian > 0)


@pytest.mark.parametrize("key", ["poisson", "gamma", "logistic", "softmax", "exponential"])
def test_inverse_undoes_transform(key):
    loss, _, raw, _ = sample(key)
    raw = raw - raw.mean(axis=0) if key == "softmax" else raw
    np.testing.assert_allclose(loss.inverse(loss.transform(raw)), raw, rtol=1e-9, atol=1e-12)


def test_quantiles_of_a_row_do_not_cross_and_keep_their_place():
    loss = make_loss("quantile", alpha=(0.9, 0.1, 0.5))
    raw = np.random.default_rng(0).normal(size=(3, 100))
    top, low, middle = loss.transform(raw).T
    assert np.all((low <= middle) & (middle <= top))
    y = np.random.default_rng(1).normal(size=100)
    sorted_raw = np.ascontiguousarray(loss.transform(raw).T)
    assert loss.losses(y, sorted_raw).sum() <= loss.losses(y, raw).sum() + 1e-12


@given(
    st.lists(st.tuples(st.integers(-5, 5), st.integers(0, 4)), min_size=1, max_size=30),
    st.sampled_from([0.1, 0.25, 0.5, 0.9]),
)
@settings(deadline=None, max_examples=150)
def test_weighted_quantile_is_the_least_minimiser(pairs, alpha):
    values, weight = np.array(pairs, float).T.copy()
    (found,) = quantiles(values, weight, alpha)
    if not weight.sum():
        assert found == 0
        return
    loss = make_loss("quantile", alpha=alpha)
    candidates = np.unique(values[weight > 0])
    costs = [loss.value(values, np.full((1, len(values)), c), weight) for c in candidates]
    assert found == candidates[np.flatnonzero(costs <= np.min(costs) + 1e-9)[0]]


@given(st.integers(1, 40), st.integers(0, 10_000))
@settings(deadline=None, max_examples=40)
def test_quantiles_by_leaf_equal_each_leaf_alone(n, seed):
    rng = np.random.default_rng(seed)
    values, weight = rng.integers(0, 5, n).astype(float), rng.integers(0, 3, n).astype(float)
    leaf = rng.integers(0, 5, n).astype(np.int32)
    together = quantiles(values, weight, 0.3, leaf, 5)
    alone = [quantiles(values[leaf == j], weight[leaf == j], 0.3)[0] for j in range(5)]
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize(
    ("name", "params", "word"),
    [
        ("hinge", {}, "unknown loss"),
        ("quantile", {"alpha": 1.0}, "alpha"),
        ("quantile", {"alpha": (0.5, 1.5)}, "alpha"),
        ("huber", {"delta": 0.0}, "delta"),
        ("huber", {"alpha": 2.0}, "alpha"),
        ("tweedie", {"power": 2.5}, "power"),
        ("softmax", {}, "num_classes"),
        ("exponential", {"num_classes": 3}, "2 classes"),
    ],
)
def test_bad_parameters_are_named(name, params, word):
    with pytest.raises(ValueError, match=word):
        make_loss(name, **params)


@pytest.mark.parametrize(("name", "bad"), [("poisson", -1.0), ("gamma", 0.0), ("tweedie", -0.1)])
def test_targets_outside_the_domain_are_refused(name, bad):
    with pytest.raises(ValueError, match="targets"):
        make_loss(name).check(np.array([1.0, bad]))


def cubic_by_hand(y, raw):
    return (raw - y) * np.abs(raw - y), 2 * np.abs(raw - y) + 1e-9


def cosh_in_torch(y, raw):
    return (raw - y).cosh() - 1


def softmax_in_torch(y, raw):
    import torch

    return torch.nn.functional.cross_entropy(raw, y.long(), reduction="sum")


def test_custom_callable_gets_weights_multiplied_in():
    loss = make_loss(cubic_by_hand)
    y, raw, weight = np.array([1.0, 2.0]), np.array([[0.0, 4.0]]), np.array([1.0, 3.0])
    gradient, hessian = derivatives(loss, y, raw, weight)
    np.testing.assert_allclose(gradient, [[-1.0, 12.0]])
    np.testing.assert_allclose(hessian, [[2.0, 12.0]])
    assert np.isnan(loss.value(y, raw, weight))


def test_custom_callable_of_the_wrong_shape_is_named():
    with pytest.raises(ValueError, match="returned shape"):
        derivatives(make_loss(lambda y, raw: (1.0, 1.0)), np.ones(3), np.ones((1, 3)), np.ones(3))


def test_torch_autograd_gives_exact_derivatives_and_the_best_constant():
    loss = make_loss(pickle.loads(pickle.dumps(torch_objective(cosh_in_torch))))
    rng = np.random.default_rng(0)
    y, raw, weight = rng.normal(size=30), rng.normal(size=(1, 30)), rng.uniform(0.5, 2, 30)
    gradient, hessian = derivatives(loss, y, raw, weight)
    np.testing.assert_allclose(gradient[0], weight * np.sinh(raw[0] - y), rtol=1e-12)
    np.testing.assert_allclose(hessian[0], weight * np.cosh(raw[0] - y), rtol=1e-12)
    np.testing.assert_allclose(loss.losses(y, raw), np.cosh(raw[0] - y) - 1)
    (constant,) = loss.initial(y, weight)
    assert abs(np.sum(weight * np.sinh(constant - y))) < 1e-8


def test_torch_autograd_of_several_outputs_is_softmax():
    ours, y, raw, weight = sample("softmax")
    loss = make_loss(torch_objective(softmax_in_torch), num_classes=4)
    for mine, theirs in zip(
        derivatives(loss, y, raw, weight), derivatives(ours, y, raw, weight), strict=True
    ):
        np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-7)
    np.testing.assert_allclose(loss.transform(raw), ours.transform(raw), rtol=1e-12)


def test_torch_loss_without_curvature_becomes_gradient_descent():
    gradient, hessian = torch_objective(lambda y, raw: (raw - y).abs())(np.zeros(3), np.ones(3))
    np.testing.assert_array_equal(gradient, np.ones(3))
    np.testing.assert_array_equal(hessian, np.ones(3))


def test_logistic_derivatives_are_exact_to_the_last_places():
    raw = np.concatenate((np.linspace(-700, 700, 10_007), np.linspace(-2, 2, 1009), [0.0, -0.0]))
    y = (np.arange(len(raw)) % 2).astype(float)
    gradient, hessian = np.empty((2, 1, len(raw)))
    make_loss("logistic").gradients(y, raw[None], np.ones(len(raw)), gradient, hessian)
    p = expit(raw)
    assert np.abs(gradient[0] - (p - y)).max() < 4e-16
    small = raw < -40
    assert gradient[0][small & (y == 0)] == pytest.approx(p[small & (y == 0)], rel=4e-15)
    assert np.abs(hessian[0] - p * (1 - p)).max() < 4e-16
