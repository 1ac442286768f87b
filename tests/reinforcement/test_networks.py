"""Compiled networks, Adam and policies against torch, and draws against their distributions."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from paragone.reinforcement import _policy_kernels as kernels
from paragone.reinforcement._actor_critic import Batch
from paragone.reinforcement._learner import stream_of
from paragone.reinforcement._network import Adam, Network, choose_backend
from paragone.reinforcement._policies import policy_for

CLOSE = {"rtol": 2e-5, "atol": 2e-6}


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("sizes", [(4, 64, 64, 2), (3, 33, 1), (5, 7), (6, 17, 9, 5, 3)])
@pytest.mark.parametrize("rows", [1, 3, 64, 67])
def test_forward_and_gradient_are_autograds(sizes, rows, activation):
    rng = np.random.default_rng(rows)
    net = Network(sizes, activation, "numba")
    theta = (net.start(rng, 0.5) + rng.normal(0, 0.1, net.size)).astype(np.float32)
    x = rng.normal(size=(rows, sizes[0])).astype(np.float32) * 3
    slope = rng.normal(size=(rows, sizes[-1])).astype(np.float32)
    grad, kept = np.zeros_like(theta), slope.copy()
    outputs = net.outputs(theta, x).copy()
    net.add_gradient(theta, x, slope, grad)
    assert np.array_equal(slope, kept)
    parameters = torch.from_numpy(theta).double().requires_grad_()
    expected = net.torch(parameters, torch.from_numpy(x).double())
    (expected * torch.from_numpy(slope)).sum().backward()
    np.testing.assert_allclose(outputs, expected.detach(), **CLOSE)
    scale = float(parameters.grad.abs().max())
    np.testing.assert_allclose(grad / scale, parameters.grad / scale, atol=5e-6)


def test_a_gradient_adds_to_what_is_there():
    net, x = Network((2, 3, 1), "tanh", "numba"), np.ones((4, 2), np.float32)
    theta, slope = net.start(np.random.default_rng(0), 1.0), np.ones((4, 1), np.float32)
    once, twice = np.zeros_like(theta), np.zeros_like(theta)
    for grad, times in ((once, 1), (twice, 2)):
        for _ in range(times):
            net.outputs(theta, x)
            net.add_gradient(theta, x, slope, grad)
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-6)


@pytest.mark.parametrize("activation", ["tanh", "relu", "elu", "silu"])
def test_torch_is_the_back_end_of_any_activation(activation):
    net = Network((3, 8, 2), activation, "torch")
    theta, x = net.start(np.random.default_rng(0), 1.0), np.eye(3, dtype=np.float32)
    layers = torch.nn.Sequential(
        torch.nn.Linear(3, 8),
        {"tanh": torch.nn.Tanh, "relu": torch.nn.ReLU, "elu": torch.nn.ELU, "silu": torch.nn.SiLU}[
            activation
        ](),
        torch.nn.Linear(8, 2),
    )
    with torch.no_grad():
        layers[0].weight.copy_(torch.from_numpy(theta[:24].reshape(3, 8).T.copy()))
        layers[0].bias.copy_(torch.from_numpy(theta[24:32]))
        layers[2].weight.copy_(torch.from_numpy(theta[32:48].reshape(8, 2).T.copy()))
        layers[2].bias.copy_(torch.from_numpy(theta[48:]))
        expected = layers(torch.from_numpy(x))
    np.testing.assert_allclose(net.outputs(theta, x), expected, **CLOSE)


def test_starts_are_orthogonal():
    net = Network((5, 40, 40, 3), "tanh", "numba")
    theta = net.start(np.random.default_rng(0), 0.01)
    square = theta[240:1840].reshape(40, 40) / np.sqrt(2)
    np.testing.assert_allclose(square @ square.T, np.eye(40), atol=1e-6)
    last = theta[1880:2000].reshape(40, 3) / 0.01
    np.testing.assert_allclose(last.T @ last, np.eye(3), atol=1e-6)


@pytest.mark.parametrize("most", [np.inf, 0.5])
def test_adam_is_the_papers(most):
    """Algorithm 1 in float64 (`torch.optim.Adam` agrees to 5e-7, but takes 5 s to import)."""
    rng = np.random.default_rng(0)
    theta = rng.normal(size=57).astype(np.float32)
    expected, m, v, ours = theta.astype(float), 0.0, 0.0, Adam(57, 1e-5, most)
    for t in range(1, 101):
        g = rng.normal(size=57).astype(np.float32)
        assert ours.step(theta, g, 1e-2) == pytest.approx(np.linalg.norm(g))
        g = g * min(1.0, most / (np.linalg.norm(g) + 1e-6))
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        expected -= 1e-2 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-5)
    np.testing.assert_allclose(theta, expected, atol=1e-5)


def batch_for(space, rng, rows):
    policy = policy_for(space)
    outputs = rng.normal(size=(rows, policy.outputs)).astype(np.float32)
    extra = rng.normal(0, 0.3, policy.extra).astype(np.float32)
    streams = np.array([stream_of(s) for s in range(rows)])
    actions, logs = policy.draw(outputs, extra, streams)
    column = lambda: rng.normal(size=rows).astype(np.float32)  # noqa: E731
    batch = Batch(outputs, actions, logs + 0.3 * column(), column(), column(), column())
    return policy, outputs, extra, logs, batch


@pytest.mark.parametrize("space", [Discrete(2), Discrete(7), Box(-1, 1, (1,)), Box(-1, 1, (3,))])
@pytest.mark.parametrize("clip", [0.2, np.inf])
def test_slopes_of_the_surrogate_are_autograds(space, clip):
    policy, outputs, extra, logs, batch = batch_for(space, np.random.default_rng(1), 65)
    told, grad = np.zeros(4), np.zeros_like(extra)
    slope = policy.slopes(outputs, extra, grad, batch, clip, 0.03, told)
    z, s = (torch.from_numpy(v).double().requires_grad_() for v in (outputs, extra))
    log, entropy = policy.torch(z, s, torch.from_numpy(batch.actions))
    np.testing.assert_allclose(log.detach(), logs, rtol=1e-4, atol=1e-5)
    gains = torch.from_numpy(batch.gains)
    ratio = (log - torch.from_numpy(batch.logs)).exp()
    loss = -torch.minimum(ratio * gains, ratio.clamp(1 - clip, 1 + clip) * gains).mean()
    (loss - 0.03 * entropy.mean()).backward()
    np.testing.assert_allclose(slope, z.grad, atol=1e-7)
    if policy.extra:
        np.testing.assert_allclose(grad, s.grad, atol=2e-6)
    assert told[0] / 65 == pytest.approx(float(loss.detach()), abs=1e-6)
    assert told[1] / 65 == pytest.approx(float(entropy.mean().detach()), abs=1e-6)


@pytest.mark.parametrize("clip", [np.inf, 0.3])
def test_slopes_of_the_values_are_autograds(clip):
    rng = np.random.default_rng(2)
    values, old, returns = (rng.normal(size=66).astype(np.float32) for _ in range(3))
    slope = np.empty((66, 1), np.float32)
    loss = kernels.value_slope(values[:, None], old, returns, clip, 0.7, slope)
    v, o, r = (torch.from_numpy(x).double() for x in (values, old, returns))
    v.requires_grad_()
    held = o + (v - o).clamp(-clip, clip)
    expected = 0.5 * torch.maximum((v - r) ** 2, (held - r) ** 2).mean()
    (0.7 * expected).backward()
    assert loss == pytest.approx(float(expected.detach()), rel=1e-6)
    np.testing.assert_allclose(slope[:, 0], v.grad, atol=1e-7)


def test_draws_follow_the_logits():
    logits = np.log(np.array([[0.1, 0.6, 0.3]], np.float32))
    stream, counts = stream_of(0)[None], np.zeros(3)
    actions, logs = np.empty(1, np.int64), np.empty(1, np.float32)
    for _ in range(20_000):
        kernels.choose(logits, stream, actions, logs)
        counts[actions[0]] += 1
        assert logs[0] == pytest.approx(logits[0, actions[0]], abs=1e-6)
    expected = 20_000 * np.array([0.1, 0.6, 0.3])
    assert ((counts - expected) ** 2 / expected).sum() < 13.8  # chi-square, 2 degrees, 0.1 %


def test_an_impossible_action_is_never_drawn():
    logits = np.array([[-np.inf, 0.0, -np.inf]], np.float32)
    actions, logs = np.empty(1, np.int64), np.empty(1, np.float32)
    for seed in range(200):
        kernels.choose(logits, stream_of(seed)[None], actions, logs)
        assert actions[0] == 1
        assert logs[0] == 0


def test_real_draws_are_normal():
    n = 20_000
    means, scales = np.full((n, 1), 2.0, np.float32), np.log(np.array([0.5], np.float32))
    streams = np.array([stream_of(s) for s in range(n)])
    actions, logs = np.empty((n, 1), np.float32), np.empty(n, np.float32)
    kernels.choose_real(means, scales, streams, actions, logs)
    unit = (actions[:, 0] - 2.0) / 0.5
    assert abs(unit.mean()) < 4 / np.sqrt(n)
    assert abs(unit.var() - 1) < 4 * np.sqrt(2 / n)
    expected = torch.distributions.Normal(2.0, 0.5).log_prob(torch.from_numpy(actions[:, 0]))
    np.testing.assert_allclose(logs, expected, atol=2e-6)


def test_epsilon_greedy_shares():
    q = np.array([[0.0, 2.0, 2.0, 1.0]], np.float32)
    stream, actions, counts = stream_of(1)[None], np.empty(1, np.int64), np.zeros(4)
    for _ in range(20_000):
        kernels.choose_best(q, 0.4, stream, actions)
        counts[actions[0]] += 1
    expected = 20_000 * np.array([0.1, 0.7, 0.1, 0.1])
    assert ((counts - expected) ** 2 / expected).sum() < 16.3  # 3 degrees, 0.1 %


def test_what_cannot_be_is_said():
    with pytest.raises(ValueError, match="activation='gelu' is none of tanh"):
        choose_backend("auto", "gelu")
    with pytest.raises(ValueError, match="backend='jax' is none of"):
        choose_backend("jax", "tanh")
    with pytest.raises(ValueError, match="use tanh or relu, or 'torch'"):
        choose_backend("numba", "silu")
    assert choose_backend("auto", "silu") == "torch"
    assert choose_backend("auto", "relu") == "numba"
