"""Finite processes: the same from every form they are given in; what is wrong is refused."""

import gymnasium
import numpy as np
import pytest
import scipy.sparse as sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from paragone.reinforcement import MDP


def dense(states, actions, seed, holes=0.5):
    """P (A, S, S) with zeros in it, R (S, A)."""
    rng = np.random.default_rng(seed)
    P = rng.random((actions, states, states)) * (rng.random((actions, states, states)) > holes)
    P[..., 0] += 0.1
    return P / P.sum(axis=2, keepdims=True), rng.normal(size=(states, actions))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 7), st.integers(1, 4), st.integers(0, 99))
def test_all_forms_say_the_same(states, actions, seed):
    P, R = dense(states, actions, seed)
    first = MDP.from_arrays(P, R, 0.9)
    assert first.n_states == states
    assert first.n_actions == actions
    by_state = R[None].transpose(2, 1, 0) * np.ones((actions, states, states))
    others = [
        MDP.from_arrays([sparse.csr_matrix(p) for p in P], R, 0.9),
        MDP.from_arrays(P, by_state, 0.9),
        MDP.from_arrays([sparse.csr_matrix(p) for p in P],
                        [sparse.csr_matrix(r) for r in by_state], 0.9),
        MDP.from_arrays(P.transpose(1, 0, 2), R, 0.9, axes="sas"),
        MDP.from_pairs(R.reshape(-1), P.transpose(1, 0, 2).reshape(-1, states),
                       np.repeat(np.arange(states), actions), np.tile(np.arange(actions), states)),
        MDP.from_gymnasium(first.P, 0.9),
        MDP.from_function(states, actions, lambda s, a: first.P[s][a], 0.9),
    ]  # fmt: skip
    for other in others:
        assert other.P == first.P
        np.testing.assert_allclose(other.expected_reward, R, atol=1e-12)
    matrices, rewards = first.to_arrays()
    np.testing.assert_allclose(np.stack([m.toarray() for m in matrices]), P)
    np.testing.assert_allclose(rewards, R)
    np.testing.assert_allclose(
        first.continuation.toarray(), P.transpose(1, 0, 2).reshape(-1, states)
    )


@pytest.mark.parametrize("name", ["FrozenLake-v1", "CliffWalking-v1", "Taxi-v4"])
def test_gymnasium_keeps_its_order_and_its_repeated_outcomes(name):
    env = gymnasium.make(name)
    mdp = MDP.from_gymnasium(env)
    theirs = env.unwrapped.P
    for s in range(mdp.n_states):
        for a in range(mdp.n_actions):
            assert mdp.P[s][a] == [tuple(entry) for entry in theirs[s][a]]
    np.testing.assert_allclose(mdp.start, env.unwrapped.initial_state_distrib)
    assert mdp.deterministic == (name != "FrozenLake-v1")
    if mdp.deterministic:
        assert mdp.next_state.shape == mdp.rewards.shape == mdp.ends.shape
        assert mdp.next_state[0, 0] == theirs[0][0][0][1]


def test_terminated_transitions_go_to_one_more_state_in_matrices():
    mdp = MDP.from_gymnasium(gymnasium.make("FrozenLake-v1"))
    matrices, rewards = mdp.to_arrays()
    assert rewards.shape == (17, 4)
    for m in matrices:
        np.testing.assert_allclose(np.asarray(m.sum(axis=1)).ravel(), 1)
    assert matrices[0].toarray()[16, 16] == 1
    assert mdp.continuation[14 * 4 + 2].sum() < 0.7


def test_an_action_that_is_not_there():
    forms = [
        MDP.from_gymnasium({0: {0: [(1.0, 1, 1.0, False)]}, 1: {0: [(1, 0, 0)], 2: [(1, 1, 2)]}}),
        MDP.from_function(2, 3, lambda s, a: {(0, 0): [(1, 1, 1)], (1, 0): [(1, 0, 0)],
                                              (1, 2): [(1, 1, 2)]}.get((s, a))),
        MDP.from_pairs([1.0, 0.0, 2.0], [[0, 1], [1, 0], [0, 1]], [0, 1, 1], [0, 0, 2]),
    ]  # fmt: skip
    for mdp in forms:
        assert mdp.available.tolist() == [[True, False, False], [True, False, True]]
        assert mdp.P[1] == {0: [(1.0, 0, 0.0, False)], 2: [(1.0, 1, 2.0, False)]}
        assert not mdp.deterministic
        with pytest.raises(ValueError, match="action 1 does not exist in state 0"):
            mdp.to_arrays()
    quantecon = MDP.from_arrays(np.ones((2, 1, 1)), [[1.0, -np.inf]])
    assert quantecon.available.tolist() == [[True, False]]


WRONG = [
    (lambda: MDP.from_arrays(np.full((1, 2, 2), 0.4), [[0], [0]]), "sum to 0.8, not 1"),
    (lambda: MDP.from_arrays([[[2.0, -1.0], [0, 1]]], [[0], [0]]), "probability 2.0 of state 0"),
    (lambda: MDP.from_arrays(np.ones((1, 1, 1)), [[np.nan]]), "reward nan of state 0, action 0"),
    (lambda: MDP.from_arrays(np.ones((1, 1, 1)), [[1, 2]]), r"R has shape \(1, 2\)"),
    (lambda: MDP.from_arrays(np.ones((1, 1)), [[1]]), "P has shape"),
    (lambda: MDP.from_arrays(np.ones((1, 1, 1)), [[1]], axes="x"), "axes='x'"),
    (lambda: MDP.from_function(1, 1, lambda s, a: [(1, 1, 0)]), "successor 1 of state 0"),
    (lambda: MDP.from_function(2, 1, lambda s, a: [(1, 0, 0)] if s else None),
     "state 0 has no action"),
    (lambda: MDP.from_function(1, 1, lambda s, a: [(1, 0, 0)], gamma=1.0), "gamma=1.0"),
    (lambda: MDP.from_function(1, 1, lambda s, a: [(1, 0, 0)], gamma=-0.1), "gamma=-0.1"),
    (lambda: MDP.from_function(1, 1, lambda s, a: [(1, 0, 0)], gamma=float("nan")), "gamma=nan"),
    (lambda: MDP.from_function(1, 1, lambda s, a: [(1, 0, 0)], start=3), "start=3 is no state"),
    (lambda: MDP.from_function(1, 1, lambda s, a: [(1, 0, 0)], start=[0.5]), "start sums to 0.5"),
    (lambda: MDP.from_function(1, 1, lambda s, a: [(1, 0, 0)], labels="ab"), "2 labels for 1"),
    (lambda: MDP.from_gymnasium(gymnasium.make("CartPole-v1")), "has no table P"),
    (lambda: MDP([0, 1, 1], [0], [1.0], [0.0], [False], n_actions=2, gamma=2), "gamma=2"),
    (lambda: MDP([0, 2], [0], [1.0], [0.0], [False], n_actions=1), "offsets must rise"),
    (lambda: MDP([0, 1, 2], [0], [1.0], [0.0], [False], n_actions=3), "do not fit 3 actions"),
    (lambda: MDP.from_pairs([0, 0], [[1.0], [1.0]], [0, 0], [0, 0]), "repeated"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "words"), WRONG, ids=range(len(WRONG)))
def test_what_is_wrong_is_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_probabilities_may_be_off_by_rounding_alone():
    third = [(1 / 3, s, 0.0) for s in range(3)]
    MDP.from_function(3, 1, lambda s, a: third)
    with pytest.raises(ValueError, match="not 1"):
        MDP.from_function(3, 1, lambda s, a: [(0.3333, s2, 0.0) for s2 in range(3)])
