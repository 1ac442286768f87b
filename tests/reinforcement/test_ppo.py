"""PPO: advantages by brute force, gradients by autograd, ends and time limits told apart."""

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiBinary
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

from paragone.reinforcement import PPO
from paragone.reinforcement import _policy_kernels as kernels
from paragone.reinforcement.classic_control import ClassicControlVector

CART = "paragone/CartPole-v1"
SMALL = {"num_envs": 8, "horizon": 32, "minibatches": 4, "random_state": 0}


class Counting(gymnasium.Env):
    """Sees how many steps it has made; ends after `life`, or runs out of time after `limit`."""

    def __init__(self, life=10**9, limit=10**9, blind=False):
        self.observation_space, self.action_space = Box(0, 100, (1,), np.float32), Discrete(2)
        self.life, self.limit, self.blind, self.t = life, limit, blind, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        seen = np.array([0 if self.blind else self.t], np.float32)
        return seen, 1.0, self.t >= self.life, self.t >= self.limit, {}


def brute_force(rewards, values, following, terminated, ended, valid, gamma, lam):
    """Every advantage as a sum over the rest of its episode, O(T^2)."""
    T, n = rewards.shape
    values, following = values.astype(float), following.astype(float)
    out = np.zeros((T, n))
    for i in range(n):
        for t in range(T):
            if not valid[t, i]:
                continue
            weight = 1.0
            for later in range(t, T):
                if not valid[later, i]:
                    break
                bootstrap = gamma * following[later, i] * (not terminated[later, i])
                out[t, i] += weight * (rewards[later, i] + bootstrap - values[later, i])
                weight *= gamma * lam
                if ended[later, i]:
                    break
    return out


def mixture(rng, T, n):
    rewards = rng.normal(size=(T, n))
    values, following = rng.normal(size=(2, T, n)).astype(np.float32)
    terminated, truncated = rng.random((2, T, n)) < 0.15
    ended = terminated | truncated
    valid = np.ones((T, n), bool)
    valid[1:] = ~(ended[:-1] & (rng.random((T - 1, n)) < 0.5))
    terminated, ended = terminated & valid, ended & valid
    return rewards, values, following, terminated, ended, valid


@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_advantages_are_brute_forces(seed, T, n):
    rng = np.random.default_rng(seed)
    arrays = mixture(rng, T, n)
    gamma, lam = rng.random(2)
    out = np.empty((T, n))
    kernels.advantages(*arrays, gamma, lam, out)
    np.testing.assert_allclose(out, brute_force(*arrays, gamma, lam), atol=1e-12)


def test_the_two_ends_are_not_one():
    """The planted bug: termination or-ed with truncation is caught."""
    arrays = mixture(np.random.default_rng(0), 30, 3)
    rewards, values, following, terminated, ended, valid = arrays
    good, bad = np.empty((2, 30, 3))
    kernels.advantages(rewards, values, following, terminated, ended, valid, 0.9, 0.95, good)
    kernels.advantages(rewards, values, following, ended, ended, valid, 0.9, 0.95, bad)
    oracle = brute_force(*arrays, 0.9, 0.95)
    np.testing.assert_allclose(good, oracle, atol=1e-12)
    assert np.abs(bad - oracle).max() > 0.5


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize(("life", "limit"), [(7, 10**9), (10**9, 7)])
def test_batches_hold_what_happened_in_every_autoreset_mode(mode, life, limit):
    env = SyncVectorEnv([lambda: Counting(life, limit)] * 2, autoreset_mode=mode)
    learner = PPO(env, horizon=40, gamma=0.9, lam=1.0, minibatches=1, hidden=(), random_state=0)
    learner.theta[:] = 0.0
    learner.theta[-1] = 10.0  # the critic says 10 = 1 / (1 - gamma) everywhere
    learner._begin()
    batch = learner._collect()
    seen = batch.seen[:, 0]
    assert seen.max() == 6, "no decision is ever made in a final state"
    assert len(seen) == (2 * 35 if mode is AutoresetMode.NEXT_STEP else 80)
    if limit == 7:
        np.testing.assert_allclose(batch.returns, 10.0, rtol=1e-6)
    else:
        left = 7 - seen[: 2 * 35]
        np.testing.assert_allclose(
            batch.returns[: 2 * 35], (1 - 0.9**left) / 0.1, rtol=1e-5
        )  # fmt: skip


def test_value_of_a_task_that_only_runs_out_of_time():
    """A constant reward r without an end is worth r / (1 - gamma), whatever the time limit."""
    for options, worth in (({"limit": 5}, 10.0), ({"life": 1}, 1.0)):
        env = SyncVectorEnv([lambda options=options: Counting(**options, blind=True)] * 8)
        learner = PPO(
            env, horizon=32, gamma=0.9, learning_rate=0.02, hidden=(), minibatches=4,
            random_state=0,
        ).train(25_000)  # fmt: skip
        assert learner.values(np.zeros((1, 1)))[0] == pytest.approx(worth, rel=0.02)


@pytest.mark.parametrize("name", [CART, "paragone/Pendulum-v1"])
@pytest.mark.parametrize("clip_value", [None, 0.1])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_gradient_of_the_whole_loss_is_autograds(name, clip_value, activation):
    options = {**SMALL, "clip_value": clip_value, "activation": activation, "hidden": (24, 16)}
    ours, torchs = (PPO(name, backend=b, **options) for b in ("numba", "torch"))
    ours.train(600)
    batch = ours._collect()
    rng = np.random.default_rng(0)
    theta = (ours.theta + rng.normal(0, 0.02, len(ours.theta))).astype(np.float32)
    (one, told), (two, tolds) = ours.gradient(theta, batch), torchs.gradient(theta, batch)
    parts = zip(ours._parts(one), torchs._parts(two), strict=True)
    for a, b in parts:
        if len(b):
            np.testing.assert_allclose(a / np.abs(b).max(), b / np.abs(b).max(), atol=2e-5)
    np.testing.assert_allclose(told, tolds, rtol=1e-4, atol=1e-6)


def test_back_ends_take_the_same_path():
    ours, torchs = (PPO(CART, backend=b, **SMALL).train(512) for b in ("numba", "torch"))
    np.testing.assert_allclose(ours.theta, torchs.theta, atol=2e-4)
    assert ours.samples == torchs.samples == 512
    assert ours.history["mean_return"] == torchs.history["mean_return"]


def test_ours_and_gymnasiums_environments_teach_the_same():
    ours, theirs = (PPO(name, **SMALL).train(1500) for name in (CART, "CartPole-v1"))
    assert np.array_equal(ours.theta, theirs.theta)
    assert ours.history == theirs.history


def test_learns_to_balance():
    learner = PPO(CART, random_state=0).train(120_000)
    assert learner.evaluate(50).mean() >= 450
    assert learner.history["samples"][-1] == learner.samples >= 120_000
    assert learner.act(learner._live.seen[0]) in (0, 1)


def test_learns_real_actions():
    learner = PPO(
        "paragone/Pendulum-v1", num_envs=32, horizon=64, gamma=0.9, entropy=0.0, epochs=10,
        minibatches=8, learning_rate=2e-3, random_state=0,
    )  # fmt: skip
    before = learner.evaluate(20).mean()
    learner.train(80_000)
    assert before < -900
    assert learner.evaluate(20).mean() > -600
    action = learner.act(np.array([1.0, 0.0, 0.0]))
    assert action.shape == (1,)
    means, deviations = learner.policy(np.eye(3))
    assert means.shape == deviations.shape == (3, 1)


@pytest.mark.parametrize("name", ["FrozenLake-v1", "Blackjack-v1"])
def test_discrete_observations(name):
    learner = PPO(name, num_envs=4, horizon=32, minibatches=2, random_state=0).train(200)
    assert learner._live.width == gymnasium.spaces.flatdim(gymnasium.make(name).observation_space)
    assert np.isfinite(learner.theta).all()
    assert len(learner.evaluate(5)) == 5


def test_same_seed_same_course():
    one, two = (PPO(CART, **SMALL).train(700) for _ in range(2))
    assert np.array_equal(one.theta, two.theta)
    assert one.history == two.history
    other = PPO(CART, **{**SMALL, "random_state": 1}).train(700)
    assert not np.array_equal(one.theta, other.theta)


@pytest.mark.parametrize("name", [CART, "paragone/Pendulum-v1"])
def test_goes_on_from_disk_bit_by_bit(name, tmp_path):
    whole, half = (PPO(name, anneal_steps=4000, **SMALL) for _ in range(2))
    whole.train(1024).train(1024)
    half.train(1024).save(tmp_path / "half")
    half.evaluate(3)
    rest = PPO.load(tmp_path / "half").train(1024)
    assert np.array_equal(whole.theta, rest.theta)
    assert repr(whole.history) == repr(rest.history)
    assert np.array_equal(whole.evaluate(5), rest.evaluate(5))
    assert np.array_equal(whole.theta, half.train(1024).theta), "judging touches nothing"


def test_an_interrupt_loses_nothing():
    learner = PPO(CART, **SMALL)

    def stop(line):
        if line["samples"] >= 512:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learner.train(10_000, progress=stop)
    assert learner.samples == 512
    learner.train(512)
    assert np.array_equal(learner.theta, PPO(CART, **SMALL).train(1024).theta)


def test_an_environment_handed_in():
    env = gymnasium.make("CartPole-v1")
    learner = PPO(env, horizon=64, minibatches=2, random_state=0).train(100)
    assert len(learner.evaluate(2)) == 2
    learner.train(64)
    assert learner.samples == 192
    vector = ClassicControlVector(3)
    learner = PPO(vector, horizon=50, minibatches=2, random_state=0).train(100)
    assert learner.num_envs == 3
    assert 0 < learner.samples <= 150
    assert len(learner.evaluate(7)) == 7


def test_saving_an_environment_handed_in(tmp_path):
    learner = PPO(gymnasium.make("CartPole-v1"), horizon=64, minibatches=2, random_state=0)
    learner.train(64).save(tmp_path / "kept")
    with pytest.raises(ValueError, match="give env="):
        PPO.load(tmp_path / "kept")
    again = PPO.load(tmp_path / "kept", gymnasium.make("CartPole-v1"))
    assert np.array_equal(again.theta, learner.theta)
    again.train(64)


def test_divergence_ends_the_epochs():
    free, held = (
        PPO(CART, target_kl=k, epochs=10, learning_rate=0.05, **SMALL).train(256)
        for k in (None, 1e-4)
    )
    assert free._adam.steps == 40
    assert held._adam.steps == 4


def test_advantage_actor_critic_is_a_setting():
    learner = PPO(CART, epochs=1, clip=np.inf, **{**SMALL, "minibatches": 1}).train(256)
    assert learner._adam.steps == 1
    assert learner.history["clipped"] == [0.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": 1.2}, r"gamma=1.2 is outside \[0.0, 1.0\]: use a discount"),
        ({"gamma": np.nan}, "gamma=nan is outside"),
        ({"lam": -0.1}, "lam=-0.1 is outside"),
        ({"learning_rate": 0.0}, "learning_rate=0.0 is outside"),
        ({"horizon": 0}, "horizon=0 is outside"),
        ({"num_envs": 0}, "num_envs=0 is outside"),
        ({"minibatches": 10**6}, "minibatches=1000000 is outside"),
        ({"activation": "gelu"}, "activation='gelu' is none of"),
        ({"backend": "numba", "activation": "elu"}, "use tanh or relu"),
    ],
)
def test_what_cannot_be_is_said(options, message):
    with pytest.raises(ValueError, match=message):
        PPO(CART, **options)


def test_environments_that_do_not_fit():
    with pytest.raises(ValueError, match=r"no id, no gymnasium\.Env"):
        PPO(3)
    env = Counting()
    env.action_space = MultiBinary(3)
    with pytest.raises(ValueError, match="use Discrete or Box"):
        PPO(env)
    with pytest.raises(ValueError, match=r"steps=-1 is outside"):
        PPO(CART, **SMALL).train(-1)
    with pytest.raises(ValueError, match=r"episodes=0 is outside"):
        PPO(CART, **SMALL).evaluate(0)
