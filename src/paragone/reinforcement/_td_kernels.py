r"""Temporal differences: the update, and the loop that feeds it from a table.

All methods share one update; they differ in what stands for the value of the next state,

$$ w(k_t) \leftarrow w(k_t) + \alpha\, n(k_t)^{-\omega} \Bigl[ \sum_{i<m} \gamma^i r_{t+i+1}
   + \gamma^m b(s_{t+m}) - w(k_t) \Bigr] , $$

with b = 0 behind a transition that terminated, and the value of the last observation behind one
that was cut off. Kinds of b: VALUE w(s), SARSA q(s, a), EXPECTED the mean under the
epsilon-greedy policy, GREEDY the maximum, DOUBLE one table's value of the other's best action.

Shapes: n environments, m steps of the return, S states, A actions; `tables` (S,) for VALUE,
(S A,), or (3 S A,) for DOUBLE, of which the first third is the mean of the other two.
"""

from __future__ import annotations

import numpy as np

from paragone.kernels.jit import njit
from paragone.reinforcement._chance import B32, LOWER, acted, best_action, draw64
from paragone.reinforcement._table_kernels import outcome

__all__ = ["DOUBLE", "EXPECTED", "GREEDY", "SARSA", "VALUE", "absorb", "act", "learn"]

VALUE, SARSA, EXPECTED, GREEDY, DOUBLE = range(5)
ELEVEN, ONE = np.uint64(11), np.uint64(1)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
def _chosen(tables, base, A, few, given, pick, keep, bits):
    """Returns an action: of the given policy, or greedy but for `few` of 2^32 numbers."""
    if given:
        action = acted(pick, keep, 1, base, A, bits) - base
    else:
        action = (np.int64(bits >> B32) * A) >> 32
        if np.int64(bits & LOWER) >= few:
            action = best_action(tables, base, A, bits)
    return action


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
def _next_value(kind, tables, state, A, action, epsilon, which, bits):
    base = state * A
    if kind == VALUE:
        value = tables[state]
    elif kind == SARSA:
        value = tables[base + action]
    elif kind == DOUBLE:
        size = len(tables) // 3
        best = best_action(tables, base + (1 + which) * size, A, bits)
        value = tables[(2 - which) * size + base + best]
    else:
        value = total = tables[base]
        for k in range(base + 1, base + A):
            other = tables[k]
            value = other if other > value else value
            total += other
        if kind == EXPECTED:
            value = (1.0 - epsilon) * value + epsilon * total / A
    return value


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
def _settle(kind, tables, tally, key, target, alpha, omega, which):
    tally[key] += 1
    rate = alpha
    if omega > 0.0:
        rate *= np.float64(tally[key]) ** -omega
    if kind == DOUBLE:
        size = len(tables) // 3
        tables[(1 + which) * size + key] += rate * (target - tables[(1 + which) * size + key])
        tables[key] = 0.5 * (tables[size + key] + tables[2 * size + key])
    else:
        tables[key] += rate * (target - tables[key])


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
def _taken(
    kind, m, tables, tally, keys, rewards, pending, i, key, reward, state, action, A,
    terminated, ended, gamma, alpha, omega, epsilon, bits,
):  # fmt: skip
    """Takes in one transition of environment i and settles what is due."""
    which = np.int64(bits & ONE)
    behind = 0.0
    at = pending[i]
    if not terminated and (ended or at + 1 >= m):
        behind = _next_value(kind, tables, state, A, action, epsilon, which, bits)
    if m == 1:
        _settle(kind, tables, tally, key, reward + gamma * behind, alpha, omega, which)
    else:
        keys[i, at], rewards[i, at] = key, reward
        count = at + 1
        due = count if ended else (1 if count == m else 0)
        for first in range(due):
            target = behind
            for j in range(count - 1, first - 1, -1):
                target = rewards[i, j] + gamma * target
            _settle(kind, tables, tally, keys[i, first], target, alpha, omega, which)
        for j in range(due, count):
            keys[i, j - due], rewards[i, j - due] = keys[i, j], rewards[i, j]
        pending[i] = count - due


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def act(tables, states, A, epsilon, given, pick, keep, noise, actions):
    """Chooses an action in each state (n,)."""
    few = np.int64(round(epsilon * 4294967296.0))
    for i in range(len(states)):
        actions[i] = _chosen(
            tables, states[i] * A, A, few, given, pick, keep, draw64(noise, 0)
        )  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def absorb(
    kind, m, tables, tally, keys, rewards, pending, A, states, actions, gained, next_states,
    next_actions, terminated, truncated, real, gamma, alpha, omega, epsilon, noise,
):  # fmt: skip
    """Takes in one transition of each environment (n,) but for those that are not real."""
    for i in range(len(states)):
        if real[i]:
            key = states[i] if kind == VALUE else states[i] * A + actions[i]
            _taken(
                kind, m, tables, tally, keys, rewards, pending, i, key, gained[i],
                next_states[i], next_actions[i], A, terminated[i], terminated[i] or truncated[i],
                gamma, alpha, omega, epsilon, draw64(noise, 0),
            )  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def learn(
    kind, m, steps, episodes, tables, tally, keys, rewards, pending, places, limits, after,
    reward, seen, A, horizon, given, pick, keep, gamma, alpha, omega, epsilon, slope, floor,
    where, gains, noise,
):  # fmt: skip
    """Steps through a table and learns, until so many steps or episodes are done.

    `where` (3,) keeps the state, the steps of the episode and the next action between calls,
    `gains` (2,) the rewards of this episode and of all finished ones. Epsilon falls by `slope` a
    step down to `floor`. `after` is twice the next state plus whether it terminates.

    Returns:
        (steps, episodes).
    """
    start = len(places) - 1
    state, elapsed, action = where[0], where[1], where[2]
    done = finished = 0
    few = np.int64(round(epsilon * 4294967296.0))
    while done < steps and finished < episodes:
        if state < 0:
            number = np.int64(draw64(noise, 0) >> ELEVEN)
            state, elapsed, action = after[outcome(places, limits, start, number)] >> 1, 0, -1
        if slope > 0.0:
            epsilon = max(epsilon - slope, floor)
            few = np.int64(round(epsilon * 4294967296.0))
        if action < 0:
            bits = draw64(noise, 0)
            action = _chosen(tables, seen[state] * A, A, few, given, pick, keep, bits)
        row = state * A + action
        place = places[np.uint64(row)]
        e = np.uint64(place >> 6)
        if place & 63:
            e = outcome(places, limits, row, np.int64(draw64(noise, 0) >> ELEVEN))
        went, sight = after[e] >> 1, seen[state]
        terminated = (after[e] & 1) != 0
        elapsed += 1
        ended = terminated or elapsed >= horizon
        following = -1
        bits = draw64(noise, 0)
        if kind == SARSA and not terminated:
            following = _chosen(tables, seen[went] * A, A, few, given, pick, keep, bits)
        key = sight if kind == VALUE else sight * A + action
        _taken(
            kind, m, tables, tally, keys, rewards, pending, 0, key, reward[e], seen[went],
            following, A, terminated, ended, gamma, alpha, omega, epsilon, bits,
        )  # fmt: skip
        gains[0] += reward[e]
        done += 1
        state, action = went, following
        if ended:
            finished += 1
            gains[1] += gains[0]
            gains[0] = 0.0
            state = -1
    where[0], where[1], where[2] = state, elapsed, action
    return done, finished
