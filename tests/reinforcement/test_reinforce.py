"""REINFORCE against the gradient of the expected return, enumerated over all episodes."""

import itertools

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete

from paragone.reinforcement import Reinforce
from paragone.reinforcement._actor_critic import Batch

CART = "paragone/CartPole-v1"
STEPS, GAMMA = 3, 0.8
REWARD = np.array([[1.0, -0.5], [0.3, 2.0]])
NEXT = np.array([[0, 1], [1, 0]])


class Two(gymnasium.Env):
    """Two states, two actions, three steps."""

    observation_space, action_space = Discrete(2), Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.s, self.t = 0, 0
        return 0, {}

    def step(self, action):
        reward, self.s, self.t = REWARD[self.s, action], int(NEXT[self.s, action]), self.t + 1
        return self.s, float(reward), self.t == STEPS, False, {}


def episode(actions):
    states, rewards, s = [], [], 0
    for a in actions:
        states.append(s), rewards.append(REWARD[s, a])
        s = NEXT[s, a]
    return np.array(states), np.array(rewards)


def expected_return(theta):
    """J(theta) by enumeration, for autograd; theta is a table of logits and a bias."""
    logits = theta[:4].view(2, 2) + theta[4:6]
    logs, total = logits.log_softmax(dim=1), 0.0
    for actions in itertools.product(range(2), repeat=STEPS):
        states, rewards = episode(actions)
        log = sum(logs[s, a] for s, a in zip(states, actions, strict=True))
        total = total + log.exp() * float(GAMMA ** np.arange(STEPS) @ rewards)
    return total


def expected_gradient(learner, theta, offset=0.0):
    """The mean of the learner's gradient over all episodes, weighted by their probability."""
    logits = theta[:4].reshape(2, 2) + theta[4:6]
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    total = 0.0
    for actions in itertools.product(range(2), repeat=STEPS):
        states, rewards = episode(actions)
        column = rewards[:, None]
        returns, gains = learner._weights(
            column, np.full_like(column, offset), np.zeros(1), np.ones_like(column, bool)
        )
        chosen, seen = np.array(actions), np.eye(2, dtype=np.float32)[states]
        logs = np.log(p[states, chosen]).astype(np.float32)
        # The gradient is a mean over steps, the policy gradient a sum over them.
        batch = Batch(seen, chosen, logs, gains[:, 0] * STEPS, returns[:, 0], np.zeros(3, "f"))
        total = total - p[states, chosen].prod() * learner.gradient(theta, batch)[0]
    return total


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize("reward_to_go", [True, False])
@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_expected_gradient_is_that_of_the_expected_return(backend, reward_to_go, offset):
    learner = Reinforce(
        Two(), gamma=GAMMA, hidden=(), baseline=False, reward_to_go=reward_to_go,
        state_discount=True, normalize=False, backend=backend,
    )  # fmt: skip
    theta = np.random.default_rng(0).normal(size=6).astype(np.float32)
    parameters = torch.from_numpy(theta).double().requires_grad_()
    expected_return(parameters).backward()
    found = expected_gradient(learner, theta, offset)
    np.testing.assert_allclose(found, parameters.grad, atol=2e-6)


def test_without_the_factor_it_is_another_gradient():
    """The planted bug: leaving gamma^t out is caught by the enumeration."""
    learner = Reinforce(Two(), gamma=GAMMA, hidden=(), baseline=False, normalize=False)
    theta = np.random.default_rng(0).normal(size=6).astype(np.float32)
    parameters = torch.from_numpy(theta).double().requires_grad_()
    expected_return(parameters).backward()
    assert np.abs(expected_gradient(learner, theta) - parameters.grad.numpy()).max() > 1e-2


def test_finds_the_best_of_all_episodes():
    best = max(
        (GAMMA ** np.arange(STEPS) @ episode(a)[1], episode(a)[1].sum())
        for a in itertools.product(range(2), repeat=STEPS)
    )
    learner = Reinforce(
        Two(), gamma=GAMMA, hidden=(), learning_rate=0.1, baseline=False, normalize=False,
        state_discount=True, random_state=0,
    ).train(3_000)  # fmt: skip
    assert learner.evaluate(3).tolist() == pytest.approx([best[1]] * 3)


def test_returns_stop_at_the_end_and_go_on_beyond_a_time_limit():
    learner = Reinforce(Two(), gamma=0.5, baseline=True)
    rewards = np.array([[1.0, 1.0], [1.0, 7.0], [1.0, 7.0]])
    kept = np.array([[True, True], [True, False], [True, False]])
    returns, gains = learner._weights(rewards, np.ones((3, 2)), np.array([8.0, 4.0]), kept)
    assert returns[:, 0].tolist() == [2.75, 3.5, 5.0]
    assert returns[0, 1] == 3.0
    assert gains[:, 0].tolist() == [1.75, 2.5, 4.0]


@pytest.mark.parametrize("baseline", [True, False])
@pytest.mark.parametrize("name", [CART, "paragone/Pendulum-v1"])
def test_gradient_is_autograds(name, baseline):
    options = {"num_envs": 4, "baseline": baseline, "hidden": (16,), "random_state": 0}
    ours, torchs = (Reinforce(name, backend=b, **options) for b in ("numba", "torch"))
    ours._begin()
    batch, _ = ours._collect()
    (one, told), (two, tolds) = (x.gradient(ours.theta, batch) for x in (ours, torchs))
    for a, b in zip(ours._parts(one), torchs._parts(two), strict=True):
        if len(b):
            np.testing.assert_allclose(a / np.abs(b).max(), b / np.abs(b).max(), atol=2e-5)
    np.testing.assert_allclose(told, tolds, rtol=1e-3, atol=1e-4)


def test_each_copy_gives_one_episode():
    learner = Reinforce(CART, num_envs=6, random_state=0)
    learner.train(1)
    assert learner.episodes == 6
    assert learner.samples == sum(length for _, length in learner._recent)
    theirs = Reinforce("CartPole-v1", num_envs=6, random_state=0).train(1)
    assert np.array_equal(theirs.theta, learner.theta)


def test_learns_to_balance():
    assert Reinforce(CART, random_state=0).train(100_000).evaluate(50).mean() > 400


def test_goes_on_from_disk_bit_by_bit(tmp_path):
    whole = Reinforce(CART, num_envs=4, random_state=0).train(300)
    whole.save(tmp_path / "half")
    rest = Reinforce.load(tmp_path / "half")
    assert np.array_equal(whole.train(300).theta, rest.train(300).theta)
    assert whole.history == rest.history


def test_what_cannot_be_is_said():
    with pytest.raises(ValueError, match=r"gamma=1\.1 is outside"):
        Reinforce(CART, gamma=1.1)
    with pytest.raises(ValueError, match="learning_rate=-1 is outside"):
        Reinforce(CART, learning_rate=-1)
