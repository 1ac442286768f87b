"""Monte Carlo against closed forms, returns added up by hand, and z-tests of the linear system."""

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paragone.reinforcement import (
    MDP,
    GridWorld,
    MonteCarloBasic,
    MonteCarloEpsilonGreedy,
    MonteCarloExploringStarts,
    MonteCarloPrediction,
    _mc_kernels,
    evaluate_policy,
    make,
    make_vec,
    value_iteration,
)
from paragone.reinforcement._blackjack import blackjack
from paragone.reinforcement._tabular import as_policy

BOOK = [".....", "..##.", "..#..", ".#T#.", ".#..."]


def book(**options):
    return GridWorld(BOOK, **{"gamma": 0.9, "r_forbidden": -10, **options})


def walk(n=5):
    def outcomes(s, a):
        left = (0.5, max(s - 1, 0), 0.0, s == 0)
        return [left, (0.5, min(s + 1, n - 1), float(s == n - 1), s == n - 1)]

    return MDP.from_function(n, 1, outcomes, start=n // 2)


def soft_values(grid, epsilon):
    """q of the best epsilon-greedy policy of a deterministic grid, by iteration."""
    q = np.zeros((grid.n_states, grid.n_actions))
    for _ in range(2000):
        v = (1 - epsilon) * q.max(axis=1) + epsilon * q.mean(axis=1)
        q = grid.rewards + grid.gamma * v[grid.next_state]
    return q


def test_basic_is_policy_iteration_by_simulation():
    grid = book()
    truth = value_iteration(grid).values
    learner = MonteCarloBasic(grid, horizon=300, random_state=0).train(episodes=125 * 20)
    assert np.allclose(learner.values, truth, atol=1e-9)
    assert learner.iterations == 20
    assert learner.samples == 20 * 125 * 300
    assert np.allclose(evaluate_policy(grid, learner.policy).values, truth)


def test_episodes_shorter_than_the_way_see_nothing():
    # Zhao, figure 5.4: with episodes of T steps only states within T steps of the target learn.
    grid = GridWorld([".....", "..#..", "....T"], r_boundary=0, r_forbidden=0)
    away = np.array([[abs(r - 2) + abs(c - 4) for c in range(5)] for r in range(3)]).reshape(-1)
    for T in (1, 3, 5):
        learner = MonteCarloBasic(grid, horizon=T, random_state=0).train(episodes=75 * 12)
        assert ((learner.values > 0) == (np.maximum(away, 1) <= T)).all()
        assert learner.truncation_bias > 0


@pytest.mark.parametrize("visit", ["every", "first"])
def test_exploring_starts_find_the_best_policy(visit):
    grid = book()
    truth = value_iteration(grid).values
    learner = MonteCarloExploringStarts(
        grid, horizon=200, alpha=0.1, visit=visit, random_state=0
    ).train(steps=2_000_000)
    assert np.allclose(learner.values, truth, atol=1e-5)
    assert np.allclose(evaluate_policy(grid, learner.policy).values, truth, atol=1e-9)
    assert (learner.visits > 0).all()


def test_epsilon_greedy_approaches_the_best_exploring_policy():
    # The gap that averages of old policies and chance leave is measured by the value itself.
    grid = book(r_forbidden=-1)
    best = soft_values(grid, 0.2)
    learner = MonteCarloEpsilonGreedy(
        grid, epsilon=0.2, chains=8, horizon=60, alpha=0.002, truncation="bootstrap",
        random_state=1,
    ).train(steps=6_000_000)  # fmt: skip
    gap = best.max(axis=1) - np.take_along_axis(best, learner.policy[:, None], 1)[:, 0]
    often = learner.visits.sum(axis=1) > 20_000
    assert often.sum() >= 15
    assert gap[often].max() < 0.3
    assert np.abs(learner.q.max(axis=1) - best.max(axis=1))[often].max() < 0.4


def test_values_pass_a_z_test_against_the_linear_system():
    grid = book(slip=0.3, r_forbidden=-1, target="terminal")
    policy = np.random.default_rng(0).dirichlet(np.ones(5), 25)
    exact = evaluate_policy(grid, policy).values
    learner = MonteCarloPrediction(grid, policy, horizon=4000, random_state=0)
    learner.train(episodes=20_000)
    seen = learner.visits > 100
    z = (learner.values - exact)[seen] / learner.standard_errors[seen]
    assert seen.sum() >= 23
    assert np.abs(z).max() < 4
    assert z.std() > 0.3
    # A planted bug: values of another discount do not pass.
    other = evaluate_policy(GridWorld(BOOK, 0.91, slip=0.3, target="terminal"), policy).values
    assert np.abs((learner.values - other)[seen] / learner.standard_errors[seen]).max() > 6


@pytest.mark.parametrize("env", ["table", "plain", "many"])
def test_the_random_walk(env):
    # Sutton and Barto, example 6.2: 1/6 ... 5/6.
    process = walk()
    if env == "plain":
        process = gymnasium.wrappers.TransformReward(make(process), lambda r: r)
    elif env == "many":
        process = gymnasium.vector.SyncVectorEnv([lambda: make(walk())] * 3)
    for visit in ("first", "every"):
        learner = MonteCarloPrediction(process, "uniform", 1.0, visit=visit, random_state=0)
        learner.train(episodes=2500, every=5000)
        z = (learner.values - np.arange(1, 6) / 6) / learner.standard_errors
        # Returns of one episode depend on each other, so that every visit has a wider spread.
        assert np.abs(z).max() < (4 if visit == "first" else 8)
        assert learner.history["mean_return"][-1] == pytest.approx(0.5, abs=0.1)


def off_policy(weighting, seed=0, **options):
    """Sutton and Barto, example 5.5: left again and again; its value is 1."""
    one = MDP.from_function(
        1, 2, lambda s, a: [(0.9, 0, 0.0), (0.1, 0, 1.0, True)] if a == 0 else [(1.0, 0, 0.0, True)]
    )
    return MonteCarloPrediction(
        one, [0], 1.0, behaviour="uniform", weighting=weighting, random_state=seed, **options
    )


def test_ordinary_importance_sampling_has_no_variance_here():
    # Figure 5.4: after 1e5 episodes and more the ordinary estimate has not settled at 1.
    found = np.array([off_policy("ordinary", seed).train(episodes=100_000).values[0]
                      for seed in range(10)])  # fmt: skip
    assert np.abs(found - 1).max() > 0.1
    assert np.abs(found - 1).mean() > 0.05
    for seed in range(3):
        assert off_policy("weighted", seed).train(episodes=1000).values[0] == pytest.approx(1)


@pytest.mark.parametrize("weighting", ["ordinary", "weighted", "per_decision"])
def test_other_behaviour_same_value(weighting):
    grid = GridWorld(["S.", ".T"], target="terminal", r_step=-0.5, actions=4)
    policy = np.random.default_rng(1).dirichlet(3 * np.ones(4), 4)
    exact = evaluate_policy(grid, policy).values
    learner = MonteCarloPrediction(
        grid, policy, behaviour="uniform", weighting=weighting, horizon=200, random_state=2
    ).train(episodes=60_000)
    z = (learner.values - exact)[:3] / learner.standard_errors[:3]
    assert np.abs(z).max() < 4.5
    on_policy = MonteCarloPrediction(grid, policy, horizon=200, random_state=2)
    assert on_policy.train(episodes=60_000).standard_errors[0] < learner.standard_errors[0]


def test_blackjack_of_the_book():
    # Sutton and Barto, figure 5.1: stick on 20 and 21; against the exact values of the table.
    table = blackjack(sab=True)
    policy = np.array([0 if s // 22 >= 20 else 1 for s in range(704)])
    v = np.zeros(714)
    for _ in range(25):
        v = np.array([
            sum(p * (r + (0.0 if end else v[to])) for p, to, r, end in
                table.mdp.P[s][policy[s] if s < 704 else 0])
            for s in range(714)
        ])  # fmt: skip
    env = make("Blackjack-v1", sab=True)
    learner = MonteCarloPrediction(env, policy, 1.0, random_state=0).train(episodes=500_000)
    hidden = np.array([s >= 22 * 21 for s in range(704)])
    seen = (learner.visits > 200) & ~hidden
    z = (learner.values - v[:704])[seen] / np.maximum(learner.standard_errors[seen], 1e-9)
    assert seen.sum() > 250
    assert np.abs(z).max() < 4.5
    # The figure: 21 nearly wins, 19 and below nearly lose, an ace in the dealer's hand costs.
    value = learner.values.reshape(32, 11, 2)
    assert (value[21, 1:, 1] > 0.6).all()
    assert (value[12:20, 2:, 0] < -0.2).all()
    assert value[20, 1, 0] < value[20, 5, 0]


def returns(rewards, gamma):
    return [sum(gamma**k * r for k, r in enumerate(rewards[t:])) for t in range(len(rewards))]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["every", "first", "start"]), st.booleans())
def test_the_walk_back_adds_up_the_returns(seed, visit, cut):
    random = np.random.default_rng(seed)
    keys, gamma, count = 6, random.uniform(0.3, 1.0), random.integers(1, 5)
    lengths = random.integers(1, 20, count)
    steps = int(lengths.sum())
    trace = np.zeros((count, 20), np.int32)
    owner, reward = random.integers(0, keys, steps), random.normal(size=steps)
    final = np.where(random.random(count) < 0.5, random.integers(0, 3, count), -1)
    q = random.normal(size=keys)
    sums, counts, at, left_out = np.zeros(keys), np.zeros(keys), 0, 0.0
    for c, length in enumerate(lengths):
        trace[c, :length] = np.arange(at, at + length)
        inside = slice(at, at + length)
        behind = 0.0
        if final[c] >= 0:
            pair = q[2 * final[c] : 2 * final[c] + 2]
            behind = 0.8 * pair.max() + 0.2 * pair.mean()
        found = returns([*reward[inside], behind if not cut else 0.0], gamma)
        left_out += sum(gamma ** (length - t) for t in range(length)) * behind
        known = set()
        for t in range(1 if visit == "start" else length):
            key = owner[at + t]
            if visit == "every" or key not in known:
                known.add(key)
                sums[key] += found[t]
                counts[key] += 1
        at += length
    totals, stats = np.zeros((keys, 4)), np.zeros(4)
    code = {"every": 0, "first": 1, "start": 2}[visit]
    _mc_kernels.walk_back(
        code, trace, lengths, final, count, reward, owner, np.arange(3), q, 2, gamma, 0.2,
        not cut, 0.0, totals, np.empty(keys), np.zeros(keys, np.int64), stats,
    )  # fmt: skip
    assert np.allclose(totals[:, 0] + totals[:, 1], sums, atol=1e-9)
    assert np.array_equal(totals[:, 2] + totals[:, 3], counts)
    assert stats[0] == pytest.approx(reward.sum())
    assert stats[2] == pytest.approx(left_out if cut else 0.0, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["ordinary", "weighted", "per_decision"]),
       st.booleans())  # fmt: skip
def test_weighted_returns_are_those_of_the_definition(seed, weighting, first):
    random = np.random.default_rng(seed)
    length, S, A, gamma = int(random.integers(1, 15)), 3, 2, 0.8
    keys, reward = random.integers(0, S * A, length), random.normal(size=length)
    ratios = random.uniform(0, 2, S * A)
    top, bottom, known = np.zeros(S), np.zeros(S), set()
    for t in range(length):
        rho = np.cumprod(ratios[keys[t:]])
        discounts = gamma ** np.arange(length - t)
        x, w = (discounts * reward[t:]).sum(), rho[-1]
        if weighting == "per_decision":
            x, w = (discounts * rho * reward[t:]).sum(), 1.0
        elif weighting == "ordinary":
            x, w = w * x, 1.0
        state = keys[t] // A
        if not (first and state in known):
            known.add(state)
            top[state] += w * x
            bottom[state] += w
    sums, held = np.zeros((S, 6)), np.empty((2, S))
    _mc_kernels.weigh(
        first, {"ordinary": 0, "weighted": 1, "per_decision": 2}[weighting],
        np.arange(length, dtype=np.int32)[None], np.array([length]), 1, reward, keys, A, gamma,
        ratios, sums, held, np.zeros(S, np.int64), np.zeros(2),
    )  # fmt: skip
    assert np.allclose(sums[:, 2], top, atol=1e-12)
    assert np.allclose(sums[:, 1], bottom, atol=1e-12)


def test_generated_episodes_follow_the_table():
    # Every entry follows the one before, ends where it ends, and occurs as often as it should.
    table = make("FrozenLake-v1").table
    places, limits, after, _, _ = table.flat
    _, pick, keep = as_policy("uniform", 16, 4)
    K, T = 2000, 50
    trace, lengths, final = np.empty((K, T), np.int32), np.empty(K, np.int64), np.empty(K, np.int64)
    _mc_kernels.generate(
        places, limits, after, 4, pick, keep, 1, np.full(K, -1), trace, lengths, final,
        np.empty(K, np.int64), np.empty(K, np.int64), np.arange(K, dtype=np.uint64) * 7919,
    )  # fmt: skip
    state_of = table.keys // 4
    for c in range(0, K, 50):
        path = trace[c, : lengths[c]]
        assert state_of[path[0]] == 0
        assert (state_of[path[1:]] == after[path[:-1]] >> 1).all()
        assert not (after[path[:-1]] & 1).any()
        ended = after[path[-1]] & 1
        assert (final[c] == -1) == bool(ended)
        assert ended or lengths[c] == T
    starts = np.bincount(table.keys[trace[:, 0]], minlength=4)[:4]
    assert np.abs(starts / K - 0.25).max() < 4.5 * np.sqrt(0.1875 / K)
    slips = np.bincount(trace[table.keys[trace[:, 0]] == 2, 0] & 3, minlength=3)[:3]
    assert np.abs(slips / slips.sum() - 1 / 3).max() < 4.5 * np.sqrt(2 / 9 / slips.sum())


def test_the_plain_path_learns_what_the_compiled_one_does():
    plain = gymnasium.make("FrozenLake-v1", is_slippery=False)
    many = gymnasium.make_vec("CliffWalking-v1", 2, vectorization_mode="sync", max_episode_steps=40)
    found = []
    for env in (plain, make("FrozenLake-v1", is_slippery=False)):
        learner = MonteCarloEpsilonGreedy(env, 0.9, epsilon=(1.0, 0.0, 8000), random_state=0)
        found.append(learner.train(steps=12_000))
    assert found[0]._table is None
    for learner in found:
        assert 0.3 < learner.values[0] <= 0.9**5 + 1e-12
        assert learner.episodes > 500
    learner = MonteCarloEpsilonGreedy(many, 1.0, visit="first", random_state=0).train(episodes=50)
    assert learner.episodes >= 50
    assert learner.act(36) in range(4)
    for cls in (MonteCarloBasic, MonteCarloExploringStarts):
        with pytest.raises(ValueError, match="starts episodes in every state"):
            cls(plain)


def test_equal_values_are_broken_at_random():
    # All values equal: the policy must not always be "up".
    grid = GridWorld(["....", "...T"], r_boundary=0, r_target=0, r_forbidden=0)
    learner = MonteCarloEpsilonGreedy(grid, epsilon=0.0, horizon=5, random_state=3)
    learner.train(episodes=400)
    shares = learner.visits.sum(axis=0) / learner.samples
    assert (shares > 0.1).all()
    assert (learner.q == 0).all()


@pytest.mark.parametrize("alpha", [None, 0.3])
def test_only_the_states_of_an_episode_are_improved(alpha):
    # More states than steps: what was not met keeps its policy, what was met is greedy.
    rows = ["." * 40] * 29 + ["." * 39 + "T"]
    learner = MonteCarloEpsilonGreedy(
        GridWorld(rows), epsilon=0.3, horizon=50, chains=2, alpha=alpha, random_state=0
    )
    before = learner._pick.copy()
    learner.train(episodes=2)
    met = learner.visits.sum(axis=1) > 0
    assert 0 < met.sum() < 100
    pick = learner._pick.reshape(1200, 5, 2)[:, :, 1]
    assert np.array_equal(pick[~met], before.reshape(1200, 5, 2)[~met][:, :, 1])
    chosen = pick[:, 0] - 5 * np.arange(1200)
    q = learner.q
    assert (q[np.arange(1200), chosen] == q.max(axis=1))[met].all()
    totals = learner._totals[:, :2].sum(axis=1) / np.maximum(learner.visits.reshape(-1), 1)
    if alpha is None:
        assert np.allclose(q.reshape(-1), totals)


def test_bootstrapping_mends_what_truncation_cuts():
    endless = MDP.from_function(1, 1, lambda s, a: [(1.0, 0, 1.0)], gamma=0.9)
    cut = MonteCarloEpsilonGreedy(endless, horizon=5).train(episodes=300)
    mean = np.mean([(1 - 0.9**k) / 0.1 for k in range(1, 6)])
    assert cut.q[0, 0] == pytest.approx(mean)
    # What was left out, by the value known: mean of gamma^k times it.
    share = np.mean([0.9**k for k in range(1, 6)])
    assert cut.truncation_bias == pytest.approx(share * mean, rel=0.02)
    mended = MonteCarloEpsilonGreedy(endless, horizon=5, truncation="bootstrap", alpha=0.05)
    assert mended.train(episodes=300).q[0, 0] == pytest.approx(10, abs=1e-3)
    assert mended.truncation_bias == 0


def test_parts_seeds_and_saving(tmp_path):
    options = {"horizon": 50, "chains": 4, "epsilon": (0.5, 0.1, 5000)}
    once = MonteCarloEpsilonGreedy(book(), random_state=4, **options).train(episodes=400)
    parts = MonteCarloEpsilonGreedy(book(), random_state=4, **options)
    for episodes in (4, 196, 200):
        parts.train(episodes=episodes)
    assert np.allclose(once.q, parts.q, atol=1e-12)
    other = MonteCarloEpsilonGreedy(book(), random_state=5, **options).train(episodes=400)
    assert not np.array_equal(once.q, other.q)
    assert (once.samples, once.episodes) == (400 * 50, 400)
    once.save(tmp_path / "mc.npz")
    twin = MonteCarloEpsilonGreedy(book(), random_state=0, **options).load(tmp_path / "mc.npz")
    assert np.array_equal(twin.train(episodes=40).q, once.train(episodes=40).q)
    curve = MonteCarloEpsilonGreedy(book(), random_state=4, **options)
    curve.train(steps=2000, every=500, truth=np.zeros(25))
    assert list(curve.history) == ["samples", "episodes", "mean_return", "rmse"]
    walkers = MonteCarloPrediction(walk(), "uniform", 1.0, random_state=1).train(episodes=64)
    walkers.save(tmp_path / "walk.npz")
    twin = MonteCarloPrediction(walk(), "uniform", 1.0, random_state=9).load(tmp_path / "walk.npz")
    assert np.array_equal(twin.train(episodes=64).values, walkers.train(episodes=64).values)


def test_fickle_passengers_are_learned_as_seen():
    # Twice as many states as the agent sees: values are those of what it sees.
    env = make("Taxi-v4", fickle_passenger=True)
    learner = MonteCarloEpsilonGreedy(env, 0.99, epsilon=0.3, chains=16, random_state=0)
    assert learner.train(episodes=3000).q.shape == (500, 6)
    assert learner.visits.sum() == learner.samples
    assert MonteCarloPrediction(env, "uniform").train(episodes=20).values.shape == (500,)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: MonteCarloEpsilonGreedy(book(), visit="last"), "visit='last'"),
        (lambda: MonteCarloEpsilonGreedy(book(), chains=0), "chains=0"),
        (lambda: MonteCarloEpsilonGreedy(book(), truncation="drop"), "truncation='drop'"),
        (lambda: MonteCarloEpsilonGreedy(book(), alpha=2.0), "alpha=2.0"),
        (lambda: MonteCarloEpsilonGreedy(book(), epsilon=-0.1), "epsilon=-0.1"),
        (lambda: MonteCarloExploringStarts(book(), -0.5), "gamma=-0.5"),
        (lambda: MonteCarloBasic(book(), episodes_per_pair=0), "episodes_per_pair=0"),
        (lambda: MonteCarloPrediction(book(), "uniform", weighting="none"), "weighting='none'"),
        (lambda: MonteCarloPrediction(book(), "uniform", visit="last"), "visit='last'"),
        (lambda: MonteCarloPrediction(book(), "uniform", behaviour=np.zeros(25, int)),
         "never takes action 1 in state 0"),
    ],
)  # fmt: skip
def test_bad_input_is_named(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_what_is_not_learned_is_not_there():
    learner = MonteCarloPrediction(walk(), "uniform", 1.0)
    assert np.isnan(learner.values).all()
    with pytest.raises(AttributeError, match="see `values`"):
        _ = learner.q
    with pytest.raises(AttributeError, match="act by that policy"):
        learner.act(0)
    assert learner.policy.shape == (5, 1)


def test_each_kernel_has_one_signature():
    MonteCarloEpsilonGreedy(make_vec("FrozenLake-v1", 2), random_state=0).train(episodes=2)
    for name in ("generate", "walk_back", "improve", "control", "follow", "weigh"):
        assert len(getattr(_mc_kernels, name).signatures) <= 1, name
