"""DQN: targets of the table, gradients by autograd, a memory that knows where episodes end."""

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

from paragone.reinforcement import DQN, PPO
from paragone.reinforcement._interaction import Transition
from paragone.reinforcement._replay import Draw, Replay

CART = "paragone/CartPole-v1"


class Corridor(gymnasium.Env):
    """Five cells; right at the last ends with 1; time may run out. States are whole numbers."""

    observation_space, action_space = Discrete(5), Discrete(2)

    def __init__(self, limit=10**9, ends=True):
        self.limit, self.ends = limit, ends

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.s, self.t = int(self.np_random.integers(5)), 0
        return self.s, {}

    def step(self, action):
        self.t += 1
        won = self.s == 4 and action == 1
        self.s = min(max(self.s + (1 if action else -1), 0), 4)
        return self.s, float(won), won and self.ends, self.t >= self.limit, {}


def optimum(gamma, ends):
    q = np.zeros((5, 2))
    for _ in range(2000):
        v = q.max(axis=1)
        for s in range(5):
            q[s, 0] = gamma * v[max(s - 1, 0)]
            q[s, 1] = gamma * v[s + 1] if s < 4 else 1.0 + (0.0 if ends else gamma * v[4])
    return q


def rows_of(rng, n, k):
    states = np.eye(k, dtype=np.float32)
    return Draw(
        states[rng.integers(0, k, n)], rng.integers(0, 2, n), rng.normal(size=n).astype("f"),
        states[rng.integers(0, k, n)], (0.9 * (rng.random(n) < 0.7)).astype("f"),
    )  # fmt: skip


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_on_one_hot_features_it_is_the_table(double, backend):
    rng = np.random.default_rng(0)
    learner = DQN(Corridor(), hidden=(), double=double, backend=backend, random_state=0)
    learner.theta[:10], learner.target[:10] = rng.normal(size=(2, 10))
    table, old = (x[:10].reshape(5, 2) for x in (learner.theta, learner.target))
    rows = rows_of(rng, 33, 5)
    s, s2 = rows.seen.argmax(axis=1), rows.following.argmax(axis=1)
    best = (table if double else old)[s2].argmax(axis=1)
    expected = rows.rewards + rows.discounts * old[s2, best]
    np.testing.assert_allclose(learner.targets(learner.theta, rows), expected, rtol=1e-6)
    gradient, _, _ = learner.gradient(learner.theta, rows)
    step = np.zeros((5, 2))  # Watkins's q += alpha (target - q), summed over the rows
    np.add.at(step, (s, rows.actions), expected - table[s, rows.actions])
    np.testing.assert_allclose(-33 * gradient[:10].reshape(5, 2), step, atol=1e-5)


@pytest.mark.parametrize(("limit", "ends"), [(10**9, True), (3, False)])
def test_values_are_the_optimum_with_and_without_time_limits(limit, ends):
    """The planted bug, taking time running out for an end, would give about 1, not 5."""
    env = SyncVectorEnv([lambda: Corridor(limit, ends)] * 8)
    learner = DQN(
        env, gamma=0.8, hidden=(), n_step=1, learning_rate=0.05, epsilon=(1.0, 1.0),
        target_every=20, batch_size=64, learning_starts=100, random_state=0,
    ).train(8_000)  # fmt: skip
    np.testing.assert_allclose(learner.values(np.arange(5)), optimum(0.8, ends), atol=0.03)


def test_or_ing_the_two_ends_is_caught():
    learner = DQN(SyncVectorEnv([lambda: Corridor(3, False)] * 4), n_step=1, random_state=0)
    learner.train(300)
    memory = learner._replay
    cut = memory.ended[: memory.written] & memory.valid[: memory.written]
    assert cut.any()
    assert not memory.terminated.any()
    t, i = np.nonzero(cut)
    assert (memory.returns(t, i).discounts == np.float32(learner.gamma)).all()
    memory.terminated |= memory.ended
    assert (memory.returns(t, i).discounts == 0).all()


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_returns_of_several_steps_are_brute_forces(seed, steps, n):
    rng = np.random.default_rng(seed)
    memory, log = Replay(12 * n, n, 1, steps, 0.9), []
    for t in range(int(rng.integers(steps, 30))):
        terminated, truncated = rng.random((2, n)) < 0.2
        step = Transition(
            np.full((n, 1), t + 0.5, "f"), rng.normal(size=n), terminated, truncated,
            np.ones(n, bool),
        )  # fmt: skip
        seen = np.full((n, 1), t, np.float32)
        memory.add(seen, np.zeros(n, np.int64), step)
        log.append(step)
    rows = memory.draw(rng, 50)
    assert rows.seen.min() >= max(0, len(log) - memory.capacity)
    first = max(0, len(log) - memory.capacity)
    for i in range(n):
        for t in range(first, len(log)):
            one = memory.returns(np.array([t]), np.array([i]))
            total, weight, last = 0.0, 1.0, t
            for ahead in range(steps):
                if t + ahead >= len(log):
                    break
                last = t + ahead
                total += weight * log[last].rewards[i]
                weight *= 0.9
                if log[last].terminated[i] or log[last].truncated[i]:
                    break
            assert one.rewards[0] == pytest.approx(total, abs=1e-5)
            assert one.following[0, 0] == last + 0.5
            assert one.discounts[0] == pytest.approx(0.0 if log[last].terminated[i] else weight)


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_no_false_transition_is_drawn(mode):
    env = SyncVectorEnv([lambda: Corridor(4, True)] * 3, autoreset_mode=mode)
    learner = DQN(env, n_step=2, random_state=0, learning_starts=10**6).train(500)
    rows = learner._replay.draw(np.random.default_rng(0), 400)
    s, s2 = rows.seen.argmax(axis=1), rows.following.argmax(axis=1)
    assert (np.abs(s - s2) <= 2).all(), "two steps lead no further than two cells"
    assert learner.samples == learner._replay.valid.sum()


@pytest.mark.parametrize("huber", [False, True])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_gradient_is_autograds(huber, activation):
    options = {"huber": huber, "activation": activation, "random_state": 0}
    ours, torchs = (DQN(CART, backend=b, **options) for b in ("numba", "torch"))
    ours.train(1500)
    torchs.target[:] = ours.target
    rows = ours._replay.draw(np.random.default_rng(0), 131)
    (one, *told), (two, *tolds) = (x.gradient(ours.theta, rows) for x in (ours, torchs))
    np.testing.assert_allclose(one / np.abs(two).max(), two / np.abs(two).max(), atol=1e-5)
    np.testing.assert_allclose(told, tolds, rtol=1e-4)


def test_learns_to_balance():
    learner = DQN(CART, n_step=5, epsilon_steps=10_000, random_state=0).train(16_000)
    assert learner.evaluate(50).mean() > 200
    assert learner.history["epsilon"][-1] == pytest.approx(0.05)


def test_same_seed_same_course_here_and_in_gymnasium():
    runs = [DQN(name, random_state=0).train(1_300) for name in (CART, CART, "CartPole-v1")]
    assert np.array_equal(runs[0].theta, runs[1].theta)
    assert np.array_equal(runs[0].theta, runs[2].theta)


def test_goes_on_from_disk_bit_by_bit(tmp_path):
    whole = DQN(CART, random_state=0, buffer_size=900).train(1_500)
    whole.save(tmp_path / "half")
    rest = DQN.load(tmp_path / "half")
    assert np.array_equal(whole.train(600).theta, rest.train(600).theta)
    assert repr(whole.history) == repr(rest.history)
    with pytest.raises(ValueError, match=r"holds a DQN: use DQN\.load"):
        PPO.load(tmp_path / "half")


@pytest.mark.parametrize("name", ["FrozenLake-v1", "Blackjack-v1"])
def test_goes_on_from_disk_in_our_finite_worlds(name, tmp_path):
    whole = DQN(f"paragone/{name}", hidden=(8,), random_state=0).train(1_300)
    assert whole._live.get_state() is not None
    whole.save(tmp_path / "half")
    rest = DQN.load(tmp_path / "half")
    assert np.array_equal(whole.train(300).theta, rest.train(300).theta)
    assert repr(whole.history) == repr(rest.history)
    assert np.array_equal(whole.evaluate(20), rest.evaluate(20))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": -0.1}, "gamma=-0.1 is outside"),
        ({"epsilon": (1.5, 0.1)}, "epsilon=1.5 is outside"),
        ({"batch_size": 0}, "batch_size=0 is outside"),
        ({"buffer_size": 10}, "buffer_size=10 is outside"),
        ({"n_step": 0}, "n_step=0 is outside"),
        ({"train_every": 0}, "train_every=0 is outside"),
    ],
)
def test_what_cannot_be_is_said(options, message):
    with pytest.raises(ValueError, match=message):
        DQN(CART, **options)


def test_real_actions_are_refused():
    env = Corridor()
    env.action_space = Box(-1, 1, (1,))
    with pytest.raises(ValueError, match="cannot be counted: use PPO"):
        DQN(env)
