r"""Sweeps over the rows of any finite MDP, in place, in an order in which values travel.

Each row is first made *compact*: what ends the episode is dropped, the discount is multiplied in,
and a transition to the state itself is solved for,

$$ q(s, a) = \frac{r(s, a) + \gamma \sum_{s' \ne s} p(s' \mid s, a)\, v(s')}
                  {1 - \gamma\, p(s \mid s, a)} , $$

which leaves the fixed point where it is and takes out the slowest part of the way to it. States
are renumbered by breadth-first search against the arrows from where rewards are highest and
episodes end, so that one sweep in place carries a value over many states.

Cost: 12 bytes a compact entry; one read of them a sweep.

References:
    Puterman and Shin (1978), "Modified policy iteration algorithms for discounted Markov decision
    problems".
    Puterman (2005), "Markov decision processes", sections 6.3.3 (Gauss-Seidel) and 6.5.
"""

from __future__ import annotations

import numpy as np

from paragone.kernels.jit import njit

__all__ = [
    "backward_order",
    "bellman",
    "compact_rows",
    "greedy_actions",
    "greedy_sweep",
    "policy_rows",
    "policy_sweeps",
    "row_sums",
]


@njit(cache=True, nogil=True, error_model="numpy")
def backward_order(offsets, successor, probability, reward, terminated, n_actions):
    """Position of each state (S,): breadth first against the arrows from the best states.

    The best states are those with a row that ends, or whose mean reward is the highest.
    """
    S = (len(offsets) - 1) // n_actions
    best, ends = np.full(S, -np.inf), np.zeros(S, np.bool_)
    first = np.zeros(S + 1, np.int64)
    for s in range(S):
        for k in range(s * n_actions, (s + 1) * n_actions):
            mean = 0.0
            for e in range(offsets[k], offsets[k + 1]):
                mean += probability[e] * reward[e]
                ends[s] |= terminated[e] and successor[e] != s
                if successor[e] != s:
                    first[successor[e] + 1] += 1
            if offsets[k + 1] > offsets[k]:
                best[s] = max(best[s], mean)
    for s in range(S):
        first[s + 1] += first[s]
    source = np.empty(first[S], np.int32)
    place = first[:S].copy()
    for s in range(S):
        for e in range(offsets[s * n_actions], offsets[(s + 1) * n_actions]):
            if successor[e] != s:
                source[place[successor[e]]] = s
                place[successor[e]] += 1
    position, queue = np.full(S, -1, np.int32), np.empty(S, np.int32)
    top, filled, head, seed = best.max(), 0, 0, 0
    for s in range(S):
        if ends[s] or best[s] >= top:
            position[s], queue[filled] = filled, s
            filled += 1
    while filled < S:
        while head < filled:
            for e in range(first[queue[head]], first[queue[head] + 1]):
                if position[source[e]] < 0:
                    position[source[e]], queue[filled] = filled, source[e]
                    filled += 1
            head += 1
        while filled < S and position[seed] >= 0:
            seed += 1
        if filled < S:
            position[seed], queue[filled] = filled, seed
            filled += 1
    return position


@njit(cache=True, nogil=True, error_model="numpy")
def compact_rows(
    offsets, successor, probability, reward, terminated, n_actions, gamma, position, plain
):
    """The rows (offsets, successor, weight, gain) in the order of `position`, made compact.

    With `plain` transitions to the state itself are left in, as textbooks have it. A row that
    does not exist has gain -inf.
    """
    rows = len(offsets) - 1
    starts = np.empty(rows + 1, np.uint64)
    to, weight = np.empty(len(successor), np.uint32), np.empty(len(successor))
    gain = np.empty(rows)
    state_at = np.empty(rows // n_actions, np.int32)
    for s in range(len(position)):
        state_at[position[s]] = s
    filled = 0
    for i in range(rows // n_actions):
        s = state_at[i]
        for a in range(n_actions):
            k, row = s * n_actions + a, i * n_actions + a
            starts[row] = filled
            own, total = 0.0, 0.0
            for e in range(offsets[k], offsets[k + 1]):
                total += probability[e] * reward[e]
                if not terminated[e]:
                    if successor[e] == s and not plain:
                        own += gamma * probability[e]
                    elif probability[e] > 0:
                        to[filled] = position[successor[e]]
                        weight[filled] = gamma * probability[e]
                        filled += 1
            scale = 1.0 / (1.0 - own)
            for e in range(np.int64(starts[row]), filled):
                weight[e] *= scale
            gain[row] = total * scale if offsets[k + 1] > offsets[k] else -np.inf
    starts[rows] = filled
    return starts, to[:filled], weight[:filled], gain


@njit(cache=True, nogil=True, error_model="numpy")
def greedy_sweep(starts, to, weight, gain, n_actions, v, new, choice):
    """new(s) = max_a q(s, a) from v; returns the (lowest, highest) new - v.

    Unsigned indices spare the test for negative ones: half of the time of a sweep.
    """
    low, high = np.inf, -np.inf
    e, k = np.uint64(0), np.uint64(0)
    for i in range(np.uint64(len(v))):
        best, act = -np.inf, 0
        for a in range(n_actions):
            k += np.uint64(1)
            end, q = starts[k], gain[k - np.uint64(1)]
            while e < end:
                q += weight[e] * v[to[e]]
                e += np.uint64(1)
            if q > best:
                best, act = q, a
        change = best - v[i]
        low, high = min(low, change), max(high, change)
        new[i], choice[i] = best, act
    return low, high


@njit(cache=True, nogil=True, error_model="numpy")
def policy_rows(starts, to, weight, gain, n_actions, choice):
    """The rows of the chosen actions alone: (offsets, successor, weight, gain)."""
    S = len(choice)
    own = np.zeros(S + 1, np.uint64)
    for i in range(S):
        k = i * n_actions + choice[i]
        own[i + 1] = own[i] + starts[k + 1] - starts[k]
    own_to, own_weight, own_gain = np.empty(own[S], np.uint32), np.empty(own[S]), np.empty(S)
    f = np.uint64(0)
    for i in range(S):
        k = i * n_actions + choice[i]
        own_gain[i] = gain[k]
        e = starts[k]
        while e < starts[k + 1]:
            own_to[f], own_weight[f] = to[e], weight[e]
            e += np.uint64(1)
            f += np.uint64(1)
    return own, own_to, own_weight, own_gain


@njit(cache=True, nogil=True, error_model="numpy")
def policy_sweeps(starts, to, weight, gain, v, other, sweeps, enough, alike):
    """Applies r + W v of a policy until changes are at most `enough`, or differ by `alike`.

    From `v` into `other` and back (Jacobi), or in place if both are the same array
    (Gauss-Seidel). Returns the sweeps made; the result is in `v` if their number is even, else
    in `other`.
    """
    old, new, made = v, other, 0
    low, high = -np.inf, np.inf
    while made < sweeps and max(-low, high) > enough and high - low > alike:
        low, high, e = np.inf, -np.inf, np.uint64(0)
        for i in range(np.uint64(len(old))):
            end, value = starts[i + np.uint64(1)], gain[i]
            while e < end:
                value += weight[e] * old[to[e]]
                e += np.uint64(1)
            change = value - old[i]
            low, high = min(low, change), max(high, change)
            new[i] = value
        old, new = new, old
        made += 1
    return made


@njit(cache=True, nogil=True, error_model="numpy")
def row_sums(starts, weight, gain):
    """(least, greatest) sum of the weights of a row that exists."""
    least, greatest = 1.0, 0.0
    for k in range(len(gain)):
        if gain[k] > -np.inf:
            total = 0.0
            for e in range(np.int64(starts[k]), np.int64(starts[k + 1])):
                total += weight[e]
            least, greatest = min(least, total), max(greatest, total)
    return least, greatest


@njit(cache=True, nogil=True, error_model="numpy")
def bellman(offsets, successor, probability, reward, terminated, n_actions, gamma, v, out):
    """Fills q (S, A) from v by the equation as it stands; returns (lowest, highest) T v - v."""
    low, high = np.inf, -np.inf
    for s in range(len(v)):
        best = -np.inf
        for a in range(n_actions):
            k = s * n_actions + a
            q = 0.0 if offsets[k + 1] > offsets[k] else -np.inf
            for e in range(offsets[k], offsets[k + 1]):
                later = 0.0 if terminated[e] else gamma * v[successor[e]]
                q += probability[e] * (reward[e] + later)
            out[s, a] = q
            best = max(best, q)
        change = best - v[s]
        low, high = min(low, change), max(high, change)
    return low, high


@njit(cache=True, nogil=True, error_model="numpy")
def greedy_actions(q, tie, draws, policy, gaps):
    """Fills a best action of each state, and how far the second best lies behind.

    Actions within `tie` of the best are equally good: the first is taken, or with `draws` (S,)
    in [0, 1) one of them.
    """
    for s in range(len(q)):
        best, second, count = -np.inf, -np.inf, 0
        for a in range(q.shape[1]):
            if q[s, a] > best:
                best, second = q[s, a], best
            elif q[s, a] > second:
                second = q[s, a]
        for a in range(q.shape[1]):
            count += q[s, a] >= best - tie
        skip = np.int64(draws[s] * count) if len(draws) else 0
        for a in range(q.shape[1]):
            if q[s, a] >= best - tie:
                if skip == 0:
                    policy[s] = a
                    break
                skip -= 1
        gaps[s] = best - second
