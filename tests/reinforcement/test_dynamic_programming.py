"""Planners against enumeration, linear programming, closed forms and printed values."""

import itertools

import gymnasium
import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from paragone.reinforcement import (
    MDP,
    GridWorld,
    _sweeps,
    average_reward,
    evaluate_policy,
    finite_horizon,
    policy_iteration,
    truncated_policy_iteration,
    value_iteration,
)

BOOK = [".....", ".##..", "..#..", ".#T#.", ".#..."]


def random_mdp(states, actions, seed, gamma=0.9, ends=0.2, missing=0.2):
    """A process with ends, self-loops, ties and actions that are missing."""
    rng = np.random.default_rng(seed)

    def outcomes(s, a):
        if a and rng.random() < missing:
            return None
        many = int(rng.integers(1, 4))
        chance = rng.dirichlet(np.ones(many))
        return [(p, int(rng.integers(states)), float(rng.integers(-3, 4)), rng.random() < ends)
                for p in chance]  # fmt: skip

    return MDP.from_function(states, actions, outcomes, gamma)


def by_enumeration(mdp):
    """The best value of each state over all policies, each solved as a dense linear system."""
    S, gamma = mdp.n_states, mdp.gamma
    best = np.full(S, -np.inf)
    for choice in itertools.product(*[np.flatnonzero(mdp.available[s]) for s in range(S)]):
        P, r = np.zeros((S, S)), np.zeros(S)
        for s, a in enumerate(choice):
            for p, s2, reward, ended in mdp.P[s][a]:
                r[s] += p * reward
                P[s, s2] += 0.0 if ended else p
        best = np.maximum(best, np.linalg.solve(np.eye(S) - gamma * P, r))
    return best


def by_linear_programming(mdp):
    """min sum v with v >= r + gamma P v for every action: Puterman, section 6.9."""
    S, A = mdp.n_states, mdp.n_actions
    there = mdp.available.reshape(-1)
    own = np.repeat(np.eye(S), A, axis=0)
    upper = (mdp.gamma * mdp.continuation.toarray() - own)[there]
    limit = -mdp.expected_reward.reshape(-1)[there]
    return scipy.optimize.linprog(np.ones(S), upper, limit, bounds=(None, None)).x


WAYS = {
    "auto": value_iteration,
    "jacobi": lambda m, **k: value_iteration(m, method="jacobi", **k),
    "gauss_seidel": lambda m, **k: value_iteration(m, method="gauss_seidel", **k),
    "modified": lambda m, **k: value_iteration(m, method="modified", **k),
    "policy": policy_iteration,
    "truncated_1": lambda m, **k: truncated_policy_iteration(m, j=1, **k),
    "truncated_7": lambda m, **k: truncated_policy_iteration(m, j=7, **k),
}
ways = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


@ways
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), states=st.integers(1, 5), actions=st.integers(1, 3),
       gamma=st.sampled_from([0.0, 0.5, 0.9, 0.99]))  # fmt: skip
def test_every_way_finds_the_best_of_all_policies(way, seed, states, actions, gamma):
    mdp = random_mdp(states, actions, seed, gamma)
    truth = by_enumeration(mdp)
    plan = way(mdp)
    assert plan.converged
    assert np.abs(plan.values - truth).max() <= plan.bound + 1e-12
    np.testing.assert_allclose(plan.q.max(axis=1), plan.values, atol=max(2 * plan.residual, 1e-9))
    np.testing.assert_allclose(evaluate_policy(mdp, plan.policy).values, truth, atol=1e-6)
    assert (plan.action_gaps >= 0).all()


@ways
@pytest.mark.parametrize("seed", [0, 1])
def test_every_way_agrees_with_linear_programming(way, seed):
    mdp = random_mdp(40, 4, seed, 0.95)
    np.testing.assert_allclose(way(mdp).values, by_linear_programming(mdp), atol=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("way", ["jacobi", "truncated_7", "modified"])
def test_the_bound_holds_however_early_one_stops(way, gamma):
    for seed in range(4):
        mdp = random_mdp(30, 3, seed, gamma, ends=0.0 if seed % 2 else 0.1)
        truth = policy_iteration(mdp).values
        for tol in (10.0, 0.1, 1e-3):
            plan = WAYS[way](mdp, tol=tol)
            error = np.abs(plan.values - truth).max()
            assert error <= plan.bound + 1e-10
            assert plan.bound <= tol
            assert error <= plan.residual / (1 - gamma) + 1e-10


def grid(seed, shape=(7, 9), **more):
    rng = np.random.default_rng(seed)
    letters = rng.choice([".", "#"], size=shape, p=[0.7, 0.3])
    letters[rng.integers(shape[0]), rng.integers(shape[1])] = "T"
    return GridWorld(["".join(row) for row in letters], **more)


OPTIONS = list(itertools.product(
    ["enter", "block"], ["continuing", "absorbing", "terminal"],
    ["boundary", "forbidden", "sum"], [4, 5],
))  # fmt: skip


@pytest.mark.parametrize(("forbidden", "target", "bump", "actions"), OPTIONS)
def test_sweeps_on_the_grid_equal_the_general_way(forbidden, target, bump, actions):
    rng = np.random.default_rng(1)
    for seed, gamma in enumerate((0.0, 0.6, 0.9, 0.99)):
        rewards = np.round(rng.normal(size=4) * 3, 1)
        given = grid(
            seed, (int(rng.integers(1, 8)), int(rng.integers(1, 9))), gamma=gamma,
            r_boundary=rewards[0], r_forbidden=rewards[1], r_target=rewards[2],
            r_step=rewards[3], actions=actions, forbidden=forbidden, target=target,
            bump_in_forbidden=bump,
        )  # fmt: skip
        fast = value_iteration(given)
        assert fast.method == "grid"
        exact = policy_iteration(given)
        np.testing.assert_allclose(fast.values, exact.values, atol=1e-9)
        np.testing.assert_allclose(fast.q, exact.q, atol=1e-9)
        assert np.abs(fast.values - exact.values).max() <= fast.bound + exact.bound


def test_a_grid_whose_target_cannot_be_reached_ends_too():
    given = GridWorld(
        ["..#.", "..#T", "..#."], 0.999, r_step=-1, r_boundary=-3, actions=4, forbidden="block",
        r_forbidden=-3,
    )  # fmt: skip
    fast = value_iteration(given)
    np.testing.assert_allclose(fast.values, policy_iteration(given).values, atol=1e-8)
    assert fast.iterations < 50


def test_a_long_corridor_is_carried_through_in_one_pass():
    for row in ("T" + "." * 999, "." * 999 + "T"):
        plan = value_iteration(GridWorld([row], 0.999))
        assert plan.iterations <= 3
        expected = 1000 * 0.999 ** np.maximum(np.arange(1000) - 1, 0)
        order = 1 if row[0] == "T" else -1
        np.testing.assert_allclose(plan.values[::order][1:], expected[1:], rtol=1e-11)


def test_printed_values_of_zhao():
    # Zhao, figure 3.4 (a): the optimal values at gamma 0.9, r_boundary = r_forbidden = -1.
    told = [[5.8, 5.6, 6.2, 6.5, 5.8], [6.5, 7.2, 8.0, 7.2, 6.5], [7.2, 8.0, 10.0, 8.0, 7.2],
            [8.0, 10.0, 10.0, 10.0, 8.0], [7.2, 9.0, 10.0, 9.0, 8.1]]  # fmt: skip
    plan = value_iteration(GridWorld(BOOK, 0.9))
    np.testing.assert_allclose(plan.values.reshape(5, 5), told, atol=0.0501)
    # Figure 3.4 (c), gamma 0: the agent sees one step far.
    near = value_iteration(GridWorld(BOOK, 0.0)).values.reshape(5, 5)
    assert near[0].tolist() == [0] * 5
    assert near[3].tolist() == [0, 1, 1, 1, 0]


def test_printed_values_of_sutton_and_barto():
    # Example 3.5 and 3.8: the 5 x 5 grid with two jumps, under the random and the best policy.
    def moves(s, a):
        r, c = divmod(s, 5)
        if s in (1, 3):
            return [(1.0, 21 if s == 1 else 13, 10.0 if s == 1 else 5.0)]
        nr, nc = r + (0, 0, 1, -1)[a], c + (1, -1, 0, 0)[a]
        inside = 0 <= nr < 5 and 0 <= nc < 5
        return [(1.0, 5 * nr + nc if inside else s, 0.0 if inside else -1.0)]

    mdp = MDP.from_function(25, 4, moves, 0.9)
    random = evaluate_policy(mdp, np.full((25, 4), 0.25)).values.round(1)
    assert random.tolist()[:10] == [3.3, 8.8, 4.4, 5.3, 1.5, 1.5, 3.0, 2.3, 1.9, 0.5]
    assert random.tolist()[20:] == [-1.9, -1.3, -1.2, -1.4, -2.0]
    best = value_iteration(mdp).values.round(1)
    assert best.tolist()[:10] == [22.0, 24.4, 22.0, 19.4, 17.5, 19.8, 22.0, 19.8, 17.8, 16.0]
    # Example 4.1: the 4 x 4 grid, undiscounted.
    small = GridWorld(
        ["T...", "....", "....", "...T"], r_boundary=-1, r_step=-1, r_target=-1, actions=4,
        target="terminal",
    )  # fmt: skip
    values = evaluate_policy(small, np.full((16, 4), 0.25), gamma=1.0)
    np.testing.assert_allclose(
        values.values.reshape(4, 4),
        [[0, -14, -20, -22], [-14, -18, -20, -20], [-20, -20, -18, -14], [-22, -20, -14, 0]],
        atol=1e-9,
    )
    swept = evaluate_policy(small, np.full((16, 4), 0.25), gamma=1.0, method="iterative")
    assert np.abs(swept.values - values.values).max() <= swept.bound <= 1e-8


def forest(states=3, r1=4.0, r2=2.0, p=0.1):
    """The forest of pymdptoolbox's documentation: wait or cut."""
    P = np.zeros((2, states, states))
    P[0, :, 0] = p
    P[0, np.arange(states), np.minimum(np.arange(states) + 1, states - 1)] = 1 - p
    P[1, :, 0] = 1
    R = np.zeros((states, 2))
    R[-1] = r1, r2
    R[1:-1, 1] = 1
    return P, R


def test_the_forest_is_not_left_too_early():
    # pymdptoolbox's value iteration stops at 5.93 with this input; the truth is 74.65.
    P, R = forest()
    exact = by_linear_programming(MDP.from_arrays(P, R, 0.96))
    np.testing.assert_allclose(exact, [74.6496, 78.1056, 82.1056], atol=1e-6)
    for way in WAYS.values():
        plan = way((P, R), gamma=0.96)
        np.testing.assert_allclose(plan.values, exact, atol=1e-6)
        assert plan.policy.tolist() == [0, 0, 0]


def test_exact_taxi_and_the_ice():
    taxi = gymnasium.make("Taxi-v4")
    mdp = MDP.from_gymnasium(taxi)
    best = finite_horizon(mdp, 200)
    # Gymnasium's source speaks of 8.46; the mean over its own starts is 7.93.
    assert mdp.start @ best.values[0] == pytest.approx(7.93, abs=1e-9)
    lake = MDP.from_gymnasium(gymnasium.make("FrozenLake-v1"), 0.99)
    # Known to be 0.5420 at gamma 0.99 from the start.
    np.testing.assert_allclose(value_iteration(lake).values[0], 0.5420259, atol=1e-7)
    cliff = value_iteration(gymnasium.make("CliffWalking-v1"), gamma=0.9)
    assert cliff.values[36] == pytest.approx(-(1 - 0.9**13) / 0.1)


def test_terminated_transitions_give_nothing_behind_them():
    # The planted bug: the flag ignored, so that self-loops of the end go on earning.
    rows = {0: {0: [(1.0, 1, 1.0, True)]}, 1: {0: [(1.0, 1, 1.0, True)]}}
    assert value_iteration(rows, gamma=0.9).values.tolist() == [1, 1]
    ignored = {s: {0: [(p, t, r, False) for p, t, r, _ in row[0]]} for s, row in rows.items()}
    assert value_iteration(ignored, gamma=0.9).values[0] == pytest.approx(10)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), states=st.integers(1, 8), gamma=st.sampled_from([0, 0.5, 0.99]))
def test_closed_and_swept_evaluation_agree(seed, states, gamma):
    mdp = random_mdp(states, 3, seed, gamma, missing=0.0)
    chance = np.random.default_rng(seed).dirichlet(np.ones(3), size=states)
    closed = evaluate_policy(mdp, chance, method="closed")
    swept = evaluate_policy(mdp, chance, method="iterative")
    assert closed.converged
    assert np.abs(closed.values - swept.values).max() <= closed.bound + swept.bound
    np.testing.assert_allclose((chance * closed.q).sum(axis=1), closed.values, atol=1e-9)
    one = chance.argmax(axis=1)
    np.testing.assert_allclose(
        evaluate_policy(mdp, one).values, evaluate_policy(mdp, np.eye(3)[one]).values, atol=1e-10
    )


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), states=st.integers(2, 30))
def test_renaming_states_renames_the_values(seed, states):
    mdp = random_mdp(states, 3, seed)
    new = np.random.default_rng(seed).permutation(states)
    old = np.argsort(new)
    other = MDP.from_function(
        states, 3,
        lambda s, a: [(p, new[t], r, e) for p, t, r, e in mdp.P[old[s]].get(a, ())] or None,
    )  # fmt: skip
    np.testing.assert_allclose(
        value_iteration(other).values[new], value_iteration(mdp).values, atol=2e-8
    )


def test_scaling_rewards_scales_values():
    given = grid(3, gamma=0.95, r_target=1)
    large = grid(3, gamma=0.95, r_boundary=-1e6, r_forbidden=-1e6, r_target=1e6)
    np.testing.assert_allclose(
        value_iteration(large).values, 1e6 * value_iteration(given).values, rtol=1e-12
    )


def test_finite_horizon_by_enumeration():
    mdp = random_mdp(3, 2, 7, missing=0.0)
    plan = finite_horizon(mdp, 4, gamma=0.8, final_values=[1.0, 2.0, 3.0])

    def best(s, t):
        if t == 4:
            return [1.0, 2.0, 3.0][s]
        return max(
            sum(p * (r + (0 if e else 0.8 * best(s2, t + 1))) for p, s2, r, e in mdp.P[s][a])
            for a in range(2)
        )

    np.testing.assert_allclose(plan.values[0], [best(s, 0) for s in range(3)])
    assert plan.policy.shape == (4, 3)
    picked = np.take_along_axis(plan.q, plan.policy[..., None], axis=2)[..., 0]
    np.testing.assert_allclose(picked, plan.values[:-1])


def gain_of(P, r):
    """Reward a step of a chain with one recurrent class, from its stationary distribution."""
    size = len(P)
    system = np.vstack([P.T - np.eye(size), np.ones(size)])
    share = np.linalg.lstsq(system, np.r_[np.zeros(size), 1], rcond=None)[0]
    return share @ r


def test_average_reward_by_enumeration_of_policies():
    for seed in range(5):
        rng = np.random.default_rng(seed)
        P = rng.dirichlet(np.ones(4), size=(2, 4))
        R = rng.normal(size=(4, 2))
        best = max(
            gain_of(P[list(choice), range(4)], R[range(4), list(choice)])
            for choice in itertools.product(range(2), repeat=4)
        )
        plan = average_reward((P, R))
        assert plan.gain == pytest.approx(best, abs=1e-8)
        chosen = plan.policy
        assert gain_of(P[chosen, range(4)], R[range(4), chosen]) == pytest.approx(best, abs=1e-7)


def test_average_reward_of_episodes_and_of_a_cycle():
    cycle = MDP.from_function(2, 1, lambda s, a: [(1.0, 1 - s, float(s))])
    assert average_reward(cycle).gain == pytest.approx(0.5)
    # Two steps to the end, 6 there, and again from the start.
    ends = MDP.from_function(2, 1, lambda s, a: [(1.0, 1, 6.0 * s, s == 1)], start=0)
    assert average_reward(ends).gain == pytest.approx(3)


def test_ties_go_to_the_first_or_by_seed():
    mdp = MDP.from_function(200, 4, lambda s, a: [(1.0, s, float(a in (1, 3)))])
    plan = value_iteration(mdp)
    assert set(plan.policy) == {1}
    assert plan.action_gaps.max() == 0
    drawn = value_iteration(mdp, random_state=0).policy
    assert set(drawn) == {1, 3}
    assert 60 < (drawn == 1).sum() < 140
    assert (value_iteration(mdp, random_state=0).policy == drawn).all()


def test_whatever_holds_a_model_is_taken():
    env = gymnasium.make("FrozenLake-v1")
    mdp = MDP.from_gymnasium(env, 0.9)
    expected = value_iteration(mdp).values
    P, R = mdp.to_arrays()
    forms = [env, env.unwrapped, env.unwrapped.P, (P, R)]
    for form in forms:
        found = value_iteration(form, gamma=0.9).values[:16]
        np.testing.assert_allclose(found, expected, atol=1e-7)
    wrapped = gymnasium.wrappers.TimeLimit(GridWorld(BOOK), 10)
    np.testing.assert_allclose(
        value_iteration(wrapped).values, value_iteration(GridWorld(BOOK)).values
    )


def test_a_start_near_the_end_saves_sweeps():
    mdp = random_mdp(50, 3, 1, 0.99)
    cold = value_iteration(mdp, method="jacobi")
    warm = value_iteration(mdp, method="jacobi", initial=cold.values)
    assert warm.iterations < cold.iterations / 2


def test_it_says_so_when_it_stops_before():
    mdp = random_mdp(30, 3, 2, 0.99, ends=0)
    for way in (WAYS["jacobi"], WAYS["modified"]):
        with pytest.warns(RuntimeWarning, match="raise max_iterations"):
            plan = way(mdp, max_iterations=1)
        assert not plan.converged
        assert np.abs(plan.values - policy_iteration(mdp).values).max() <= plan.bound


WRONG = [
    (lambda g: value_iteration(g, gamma=1.0), "gamma=1.0 is no discount: use 0 <= gamma < 1"),
    (lambda g: value_iteration(g, gamma=-1), "gamma=-1"),
    (lambda g: value_iteration(g.P), "gamma is missing"),
    (lambda g: value_iteration(g, method="fast"), "method='fast'"),
    (lambda g: value_iteration(grid(0, slip=0.1), method="grid"), "without slip"),
    (lambda g: value_iteration(g, tol=0), "tol=0"),
    (lambda g: value_iteration(g, method="jacobi", initial=[1]), "initial has shape"),
    (lambda g: truncated_policy_iteration(g, j=0), "j=0"),
    (lambda g: finite_horizon(g, 0), "horizon=0"),
    (lambda g: finite_horizon(g, 1, final_values=[np.nan] * 25), "final_values"),
    (lambda g: evaluate_policy(g, np.full(25, 5)), "action 5 does not exist in state 0"),
    (lambda g: evaluate_policy(g, np.full(25, -1)), "action -1 does not exist"),
    (lambda g: evaluate_policy(g, np.full((25, 5), 0.1)), "policy of state 0"),
    (lambda g: evaluate_policy(g, np.full((25, 5), np.nan)), "policy of state 0"),
    (lambda g: evaluate_policy(g, np.zeros(25)), "policy has shape"),
    (lambda g: evaluate_policy(g, np.full(25, 4), gamma=1.0), "never ends"),
    (lambda g: evaluate_policy(g, np.full(25, 4), method="x"), "method='x'"),
    (lambda g: policy_iteration(g, initial=np.full((25, 5), 0.2)), "initial has probabilities"),
    (lambda g: value_iteration(gymnasium.make("CartPole-v1"), gamma=0.9), "has no table P"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "words"), WRONG, ids=range(len(WRONG)))
def test_what_is_wrong_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call(GridWorld(BOOK))


def test_missing_actions_are_no_part_of_a_policy():
    rows = {0: {0: [(1.0, 0, 0.0)], 2: [(1.0, 0, 1.0)]}, 1: {1: [(1.0, 0, 0.0)]}}
    plan = value_iteration(rows, gamma=0.5)
    assert plan.policy.tolist() == [2, 1]
    assert plan.q[0, 1] == -np.inf
    assert plan.action_gaps[1] == np.inf
    with pytest.raises(ValueError, match="action 1 does not exist in state 0: use 0, 2"):
        evaluate_policy(rows, [1, 1], gamma=0.5)
    with pytest.raises(ValueError, match="action 2 does not exist in state 1: use 1"):
        evaluate_policy(rows, [[0.5, 0, 0.5], [0, 0.5, 0.5]], gamma=0.5)


def test_an_oracle_catches_a_sweep_that_bootstraps_from_the_end(monkeypatch):
    plain = _sweeps.bellman

    def wrong(offsets, successor, probability, reward, terminated, *rest):
        return plain(offsets, successor, probability, reward, np.zeros_like(terminated), *rest)

    mdp = random_mdp(4, 2, 11, ends=0.6)
    truth = by_enumeration(mdp)
    np.testing.assert_allclose(finite_horizon(mdp, 400, gamma=0.9).values[0], truth, atol=1e-9)
    monkeypatch.setattr("paragone.reinforcement._plan.bellman", wrong)
    assert np.abs(finite_horizon(mdp, 400, gamma=0.9).values[0] - truth).max() > 1e-3
    assert value_iteration(mdp).residual > 1e-3


@pytest.mark.peers
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_against_quantecon_and_pymdptoolbox(seed):
    quantecon = pytest.importorskip("quantecon", reason="pip install quantecon")
    mdp = random_mdp(25, 3, seed, 0.9, ends=0.0, missing=0.0)
    P, R = mdp.to_arrays()
    stacked = np.stack([m.toarray() for m in P], axis=1)
    theirs = quantecon.markov.DiscreteDP(R, stacked, 0.9).solve(method="policy_iteration")
    ours = value_iteration(mdp)
    np.testing.assert_allclose(ours.values, theirs.v, atol=1e-7)
    toolbox = pytest.importorskip("mdptoolbox.mdp", reason="pip install pymdptoolbox")
    other = toolbox.PolicyIteration(np.stack([m.toarray() for m in P]), R, 0.9)
    other.run()
    np.testing.assert_allclose(ours.values, other.V, atol=1e-6)
