"""Temporal differences against closed forms, value iteration and an update written out."""

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paragone.reinforcement import (
    MDP,
    DoubleQLearning,
    ExpectedSarsa,
    GridWorld,
    QLearning,
    Sarsa,
    TemporalDifference,
    _td_kernels,
    evaluate_policy,
    make,
    make_vec,
    value_iteration,
)
from paragone.reinforcement._tabular import as_policy
from paragone.reinforcement._world import Numbered, fused_table

BOOK = [".....", "..##.", "..#..", ".#T#.", ".#..."]
CONTROLS = [Sarsa, ExpectedSarsa, QLearning, DoubleQLearning]


def book(**options):
    return GridWorld(BOOK, **{"gamma": 0.9, "r_forbidden": -10, **options})


def walk(n=5):
    """Sutton and Barto's example 6.2: a random walk that pays 1 at its right end."""

    def outcomes(s, a):
        left = (0.5, max(s - 1, 0), 0.0, s == 0)
        return [left, (0.5, min(s + 1, n - 1), float(s == n - 1), s == n - 1)]

    return MDP.from_function(n, 1, outcomes, start=n // 2)


def rmse(a, b):
    return float(np.sqrt(np.mean((a - b) ** 2)))


@pytest.mark.parametrize(("initial", "bound"), [(0, 0.02), (10, 1e-12), (100, 0.1)])
def test_the_books_figure_7_4(initial, bound):
    # Zhao, figure 7.4: 1e5 steps of uniform behaviour, alpha 0.1, off-policy.
    grid = book()
    truth = value_iteration(grid).values
    for seed in range(20):
        learner = QLearning(grid, behaviour="uniform", initial=initial, random_state=seed)
        assert rmse(learner.train(steps=100_000).values, truth) < bound
    assert learner.samples == 100_000
    assert np.allclose(evaluate_policy(grid, learner.policy).values, truth)


@pytest.mark.parametrize("n", [1, 3])
def test_a_random_walk_has_known_values(n):
    # With averages in place of constant steps the estimates converge to 1/6 ... 5/6.
    learner = TemporalDifference(
        walk(), "uniform", 1.0, n=n, alpha=0.5, omega=0.7, initial=0.5, random_state=0
    )
    learner.train(episodes=40_000)
    assert np.abs(learner.values - np.arange(1, 6) / 6).max() < 0.02


def test_two_states_in_closed_form():
    # 0 -> 1 pays 1, 1 -> 0 pays -2: v0 = (1 - 2 gamma) / (1 - gamma^2).
    chain = MDP.from_function(2, 1, lambda s, a: [(1.0, 1 - s, 1.0 - 3.0 * s)], start=0, gamma=0.8)
    v0 = (1 - 2 * 0.8) / (1 - 0.8**2)
    for n in (1, 2, 5):
        learner = TemporalDifference(chain, "uniform", n=n, alpha=0.2).train(steps=5000)
        assert np.allclose(learner.values, [v0, -2 + 0.8 * v0], atol=1e-12)
    for cls in CONTROLS:
        learner = cls(chain, alpha=0.2, random_state=0).train(steps=5000)
        assert np.allclose(learner.values, [v0, -2 + 0.8 * v0], atol=1e-12)


def test_values_of_a_policy_match_the_linear_system():
    # The mean over 60 seeds must lie within 4.5 of its standard errors, but for the bias that is
    # left of the first value and falls with the steps.
    grid = book(slip=0.3, r_forbidden=-1)
    policy = np.random.default_rng(0).dirichlet(np.ones(5), 25)
    exact = evaluate_policy(grid, policy).values
    found = np.array([
        TemporalDifference(grid, policy, alpha=0.5, omega=0.6, random_state=seed)
        .train(steps=400_000).values
        for seed in range(60)
    ])  # fmt: skip
    error = found.std(axis=0, ddof=1) / np.sqrt(60)
    assert (np.abs(found.mean(axis=0) - exact) < 4.5 * error + 0.02).all()


@pytest.mark.parametrize("cls", [QLearning, DoubleQLearning])
def test_control_meets_value_iteration(cls):
    grid = book(r_forbidden=-1)
    learner = cls(grid, alpha=0.2, behaviour="uniform", random_state=3).train(steps=400_000)
    assert rmse(learner.values, value_iteration(grid).values) < 1e-9


def test_expected_sarsa_meets_the_best_exploring_policy():
    # Its fixed point: q = r + gamma ((1 - e) max q + e mean q), here found by iteration.
    grid = book(r_forbidden=-1)
    q = np.zeros((25, 5))
    for _ in range(500):
        v = 0.7 * q.max(axis=1) + 0.3 * q.mean(axis=1)
        q = grid.rewards + 0.9 * v[grid.next_state]
    learner = ExpectedSarsa(grid, alpha=0.2, epsilon=0.3, horizon=50, random_state=3)
    assert rmse(learner.train(steps=1_000_000).q, q) < 1e-3


def test_sarsa_walks_safely_and_q_learning_along_the_edge():
    # Sutton and Barto, example 6.6: Q-learning takes 13 steps, Sarsa keeps away from the cliff.
    paths = {}
    for cls in (Sarsa, QLearning):
        learner = cls(make("CliffWalking-v1"), 1.0, alpha=0.1, epsilon=0.1, random_state=1)
        learner.train(episodes=20_000, every=200_000)
        env = make("CliffWalking-v1")
        state, path = env.reset()[0], []
        for _ in range(60):
            path.append(state)
            state, _, ended, _, _ = env.step(learner.act(state))
            if ended:
                break
        paths[cls] = path
        assert ended
        if cls is Sarsa:
            sarsa = learner.history["mean_return"][-1]
        else:
            assert sarsa > learner.history["mean_return"][-1] + 10
    assert len(paths[QLearning]) == 13
    assert len(paths[Sarsa]) > 13
    assert all(s // 12 < 2 for s in paths[Sarsa][4:-4])


def test_double_q_learning_is_less_drawn_by_noise():
    # Sutton and Barto, example 6.7: left leads to many actions of mean -0.1 and deviation 1.
    def outcomes(s, a):
        if s == 0:
            return [(1.0, 1, 0.0)] if a == 0 else [(1.0, 0, 0.0, True)]
        return [(0.5, 1, -1.1, True), (0.5, 1, 0.9, True)]

    maze = MDP.from_function(2, 10, outcomes, start=0)
    left = {
        cls: np.mean([
            cls(maze, 1.0, alpha=0.1, random_state=seed).train(episodes=100).q[0, 0]
            for seed in range(200)
        ])
        for cls in (QLearning, DoubleQLearning)
    }  # fmt: skip
    assert left[QLearning] > 0.03
    assert left[DoubleQLearning] < left[QLearning] / 2


def test_truncation_bootstraps_and_termination_does_not():
    # One state that pays 1 for ever: 1 / (1 - gamma), however often it is cut off.
    endless = MDP.from_function(1, 1, lambda s, a: [(1.0, 0, 1.0)], gamma=0.9)
    ending = MDP.from_function(1, 1, lambda s, a: [(1.0, 0, 1.0, True)], gamma=0.9)
    for cls in CONTROLS:
        assert cls(endless, horizon=3).train(steps=3000).q[0, 0] == pytest.approx(10)
        assert cls(ending, horizon=3).train(steps=3000).q[0, 0] == pytest.approx(1)
    for n in (2, 5):
        learner = Sarsa(endless, n=n, horizon=3, alpha=0.2).train(steps=3000)
        assert learner.q[0, 0] == pytest.approx(10)
        assert learner.episodes == 1000


class Corridor(gymnasium.Env):
    """0 -> 1 -> 2 and on; truncated after the third step, its last observation is state 3."""

    observation_space = gymnasium.spaces.Discrete(4)
    action_space = gymnasium.spaces.Discrete(1)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = 0
        return 0, {}

    def step(self, action):
        self.at += 1
        return self.at, 1.0, False, self.at == 3, {}


@pytest.mark.parametrize("mode", ["alone", "NextStep", "SameStep", "Disabled"])
def test_the_plain_path_sees_the_last_observation(mode):
    # State 3 is never acted in: its value stays 7, and the state before gets 1 + 0.5 * 7.
    env = Corridor()
    if mode != "alone":
        mode = gymnasium.vector.AutoresetMode(mode)
        env = gymnasium.vector.SyncVectorEnv([Corridor] * 3, autoreset_mode=mode)
    for cls in CONTROLS:
        initial = np.array([[0.0], [0.0], [0.0], [7.0]])
        learner = cls(env, 0.5, alpha=0.5, initial=initial, random_state=0).train(steps=900)
        assert np.allclose(learner.q[:, 0], [2.625, 3.25, 4.5, 7.0])
        # With a step that resets, one transition in four would be false: none of them counts.
        assert learner.samples == 3 * learner.episodes
    learner = TemporalDifference(env, "uniform", 0.5, alpha=0.5, n=2, initial=initial)
    learner.train(steps=900)
    assert np.allclose(learner.values, [2.625, 3.25, 4.5, 7.0])


@pytest.mark.parametrize("cls", CONTROLS)
def test_the_plain_path_learns_what_the_compiled_one_does(cls):
    # Gymnasium's lake, not slippery: nothing is random but exploration, and values are exact.
    plain = gymnasium.make("FrozenLake-v1", is_slippery=False)
    ours = make("FrozenLake-v1", is_slippery=False)
    found = []
    for env in (plain, ours, gymnasium.make("paragone/FrozenLake-v1", is_slippery=False)):
        learner = cls(env, 0.9, alpha=0.3, epsilon=(1.0, 0.0, 8000), random_state=2)
        found.append(learner.train(steps=12_000))
    assert found[0]._table is None
    assert found[1]._table is not None
    assert found[2].horizon == 100
    for learner in found:
        assert learner.values[0] == pytest.approx(0.9**5, abs=1e-3)


def test_spaces_of_many_digits():
    discrete = gymnasium.spaces.Discrete
    space = gymnasium.spaces.Tuple((discrete(32), discrete(11, start=-1), discrete(2)))
    numbered = Numbered(space, "observation")
    assert numbered.size == 704
    assert numbered.one((3, 4, 1)) == (3 * 11 + 5) * 2 + 1
    many = numbered.number((np.array([3, 0]), np.array([4, -1]), np.array([1, 0])))
    assert many.tolist() == [77, 0]
    grid = Numbered(gymnasium.spaces.MultiDiscrete([3, 4]), "action")
    assert grid.member(np.array([7]))[0].tolist() == [1, 3]
    assert grid.number(np.array([[1, 3], [2, 0]])).tolist() == [7, 8]
    with pytest.raises(ValueError, match="learn with DQN or PPO"):
        Numbered(gymnasium.spaces.Box(0, 1, (2,)), "observation")


def test_blackjack_from_gymnasium_and_from_the_table():
    # Sticking on 20 is better than hitting by more than half a game, whatever the dealer shows.
    table = QLearning(make_vec("Blackjack-v1", 8), 1.0, alpha=1.0, omega=0.8, epsilon=0.5)
    table.train(steps=400_000)
    assert all(table.policy[22 * 20 + 2 * card] == 0 for card in range(1, 11))
    plain = QLearning(gymnasium.make("Blackjack-v1"), 1.0, epsilon=0.5, random_state=0)
    plain.train(episodes=3000)
    assert plain.q.shape == table.q.shape == (704, 2)
    assert plain.act((20, 10, 0)) == table.act((20, 10, 0)) == 0


def reference(kind, m, stream, A, S, gamma, alpha, epsilon):
    """The update of the module's docstring over a list of transitions, in plain Python."""
    q, v, pending = np.zeros((S, A)), np.zeros(S), []

    def behind(s, a):
        if kind == _td_kernels.VALUE:
            return v[s]
        if kind == _td_kernels.SARSA:
            return q[s, a]
        if kind == _td_kernels.GREEDY:
            return q[s].max()
        return (1 - epsilon) * q[s].max() + epsilon * q[s].mean()

    def settle(rows, b):
        g = b
        for _, _, r in reversed(rows):
            g = r + gamma * g
        s, a, _ = rows[0]
        if kind == _td_kernels.VALUE:
            v[s] += alpha * (g - v[s])
        else:
            q[s, a] += alpha * (g - q[s, a])

    for s, a, r, to, next_action, terminated, truncated in stream:
        pending.append((s, a, r))
        b = 0.0 if terminated else behind(to, next_action)
        if terminated or truncated:
            while pending:
                settle(pending, b)
                pending.pop(0)
        elif len(pending) == m:
            settle(pending, b)
            pending.pop(0)
    return v if kind == _td_kernels.VALUE else q.reshape(-1)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0, 1, 2, 3]), st.integers(1, 5))
def test_updates_are_those_written_out(seed, kind, m):
    random = np.random.default_rng(seed)
    S, A, T = 4, 3, 60
    stream = [
        (*random.integers((S, A)).tolist(), float(random.normal()),
         *random.integers((S, A)).tolist(), bool(random.random() < 0.1),
         bool(random.random() < 0.1))
        for _ in range(T)
    ]  # fmt: skip
    tables = np.zeros(S if kind == _td_kernels.VALUE else S * A)
    tally, pending = np.zeros(len(tables), np.int64), np.zeros(1, np.int64)
    keys, rewards = np.zeros((1, m), np.int64), np.zeros((1, m))
    noise = np.array([seed], np.uint64)
    for s, a, r, to, b, terminated, truncated in stream:
        _td_kernels.absorb(
            kind, m, tables, tally, keys, rewards, pending, A, np.array([s]), np.array([a]),
            np.array([r]), np.array([to]), np.array([b]), np.array([terminated]),
            np.array([truncated]), np.ones(1, np.bool_), 0.7, 0.3, 0.0, 0.2, noise,
        )  # fmt: skip
    assert np.allclose(tables, reference(kind, m, stream, A, S, 0.7, 0.3, 0.2), atol=1e-12)


def test_averages_are_averages():
    # omega = 1, alpha = 1: the value of a one-step task is the mean of its rewards.
    coin = MDP.from_function(1, 1, lambda s, a: [(0.3, 0, 1.0, True), (0.7, 0, 0.0, True)])
    learner = TemporalDifference(coin, "uniform", alpha=1.0, omega=1.0, random_state=0)
    learner.train(episodes=5000, every=5000)
    assert learner.values[0] == pytest.approx(learner.history["mean_return"][0], abs=1e-12)
    assert learner.visits.tolist() == [5000]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 7))
def test_alias_tables_hold_the_policy(seed, A):
    random = np.random.default_rng(seed)
    shares = random.dirichlet(np.ones(A) * 0.5, 3)
    _, pick, keep = as_policy(shares, 3, A)
    found = np.zeros(3 * A)
    for row in range(3 * A):
        found[pick[2 * row]] += keep[row] / 2**32 / A
        found[pick[2 * row + 1]] += (2**32 - keep[row]) / 2**32 / A
    assert np.allclose(found.reshape(3, A), shares, atol=1e-8)


def test_the_greedy_action_gets_one_minus_epsilon_and_its_share():
    # epsilon 0.4 over 5 actions: the best gets 0.68, the others 0.08 each; ties share.
    values = np.array([[0.0, 3.0, 1.0, 2.0, 0.0], [1.0, 5.0, 5.0, 5.0, 2.0]]).reshape(-1)
    noise, actions = np.array([5], np.uint64), np.empty(2, np.int64)
    empty = np.zeros(2, np.int32), np.zeros(1, np.int64)
    counts = np.zeros((2, 5))
    for _ in range(40_000):
        _td_kernels.act(values, np.arange(2), 5, 0.4, False, *empty, noise, actions)
        counts[np.arange(2), actions] += 1
    wanted = np.array([[0.08, 0.68, 0.08, 0.08, 0.08], [0.08, 0.28, 0.28, 0.28, 0.08]])
    error = np.sqrt(wanted * (1 - wanted) / 40_000)
    assert (np.abs(counts / 40_000 - wanted) < 4.5 * error).all()


def test_training_in_parts_is_training_at_once():
    for cls in (*CONTROLS,):
        once = cls(book(), random_state=4, horizon=50).train(steps=5000)
        parts = cls(book(), random_state=4, horizon=50)
        for steps in (1, 999, 4000):
            parts.train(steps=steps)
        assert np.array_equal(once.q, parts.q)
        curve = cls(book(), random_state=4, horizon=50).train(steps=5000, every=500)
        assert np.array_equal(once.q, curve.q)
        assert curve.history["samples"] == list(range(500, 5001, 500))
        assert curve.episodes == once.episodes == 100
    same, other = Sarsa(book(), random_state=4, horizon=50), Sarsa(book(), random_state=5)
    assert not np.array_equal(same.train(steps=5000).q, other.train(steps=5000).q)


def test_saved_learners_go_on(tmp_path):
    truth = value_iteration(book()).values
    for learner in (Sarsa(book(), n=3, random_state=1), DoubleQLearning(book(), random_state=1)):
        learner.train(steps=3000, every=1000, truth=truth)
        learner.save(tmp_path / "q.npz")
        twin = type(learner)(book(), random_state=9, **({"n": 3} if type(learner) is Sarsa else {}))
        twin.load(tmp_path / "q.npz")
        np.testing.assert_equal(twin.history, learner.history)
        assert len(twin.history["rmse"]) == 3
        assert np.array_equal(twin.train(steps=500).q, learner.train(steps=500).q)
    with pytest.raises(ValueError, match="is not in that file"):
        QLearning(GridWorld(["..", ".T"])).load(tmp_path / "q.npz")


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: QLearning(book(), 1.5), "gamma=1.5"),
        (lambda: QLearning(book(), 1.0), "no episode ends"),
        (lambda: QLearning(book(), alpha=0), "alpha=0"),
        (lambda: QLearning(book(), omega=2), "omega=2"),
        (lambda: QLearning(book(), epsilon=1.2), "epsilon=1.2"),
        (lambda: QLearning(book(), epsilon=(0.1, 0.5, 10)), "falls from first"),
        (lambda: QLearning(book(), horizon=0), "horizon=0"),
        (lambda: QLearning(book(), initial=np.nan), "NaN"),
        (lambda: QLearning(book(), initial=np.zeros(3)), "initial of shape"),
        (lambda: QLearning(book(), behaviour="random"), "policy='random'"),
        (lambda: QLearning(book(), behaviour=np.full((25, 5), 0.3)), "sum to 1"),
        (lambda: QLearning(book(), behaviour=np.full(25, 7)), "outside 0 to 4"),
        (lambda: QLearning(book(), behaviour=np.zeros(24, int)), "one action for 25"),
        (lambda: Sarsa(book(), n=0), "n=0"),
        (lambda: Sarsa(book()).train(), "give one of them"),
        (lambda: Sarsa(book()).train(steps=-1), "-1 is no number"),
        (lambda: Sarsa(book()).train(steps=10, every=0), "every=0"),
        (lambda: Sarsa(book()).train(steps=10, every=5, truth=np.zeros(3)), "truth of shape"),
        (lambda: QLearning(gymnasium.make("CartPole-v1")), "learn with DQN or PPO"),
        (lambda: QLearning(gymnasium.make_vec("Taxi-v4", 2), horizon=5), "leave the horizon out"),
    ],
)  # fmt: skip
def test_bad_input_is_named(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_what_is_not_learned_is_not_there():
    learner = TemporalDifference(walk(), "uniform", 1.0)
    with pytest.raises(AttributeError, match="see `values`"):
        _ = learner.q
    with pytest.raises(AttributeError, match="act by that policy"):
        learner.act(0)
    assert learner.policy.shape == (5, 1)
    assert "5 states" in repr(learner)


def test_each_kernel_has_one_signature():
    for kernel in (_td_kernels.learn, _td_kernels.absorb, _td_kernels.act):
        assert len(kernel.signatures) <= 1


def test_time_limits_of_wrappers_are_seen():
    table, limit = fused_table(gymnasium.make("paragone/FrozenLake-v1", max_episode_steps=7))
    assert (table.sights, limit) == (16, 7)
    assert fused_table(gymnasium.make("FrozenLake-v1")) is None
    changed = gymnasium.wrappers.TransformReward(make("FrozenLake-v1"), lambda r: -r)
    assert fused_table(changed) is None
    grid = gymnasium.make("paragone/GridWorld-v0", layout=["..", ".T"], gamma=0.5)
    assert QLearning(grid).gamma == 0.5
    assert fused_table(make_vec("Taxi-v4", 2))[1] == 200


def test_oracle_catches_a_lost_discount():
    # A planted bug: nothing is discounted.
    learner = TemporalDifference(walk(), "uniform", 0.9, omega=0.7, alpha=0.5, random_state=0)
    exact = evaluate_policy(walk(), np.zeros(5, int)).values
    assert np.abs(learner.train(episodes=20_000).values - exact).max() < 0.02
    learner.gamma = 1.0
    assert np.abs(learner.train(episodes=20_000).values - exact).max() > 0.05


def test_an_id_is_an_environment_and_anything_else_is_refused():
    assert QLearning("paragone/Taxi-v4").n_states == 500
    with pytest.raises(ValueError, match="tables need a finite one"):
        QLearning("CartPole-v1")
    with pytest.raises(ValueError, match=r"env=3 is no MDP"):
        QLearning(3)
