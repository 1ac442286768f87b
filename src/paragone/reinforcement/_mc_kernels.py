r"""Whole episodes: generated many at once, walked backwards for their returns, averaged.

The trace of an episode is the list of its entries e; the entry says the reward and the key of the
value that the return belongs to, so that the walk back is

$$ g \leftarrow r_e + \gamma g, \qquad \Sigma_{k(e)} \leftarrow \Sigma_{k(e)} + g , $$

with one division a key when the episodes are done. Episodes that came through Gymnasium's
interface are the same with one entry a step. Two sums a key, used in turn, keep a state that the
agent stays in from waiting for its own last addition.

Shapes: K episodes at once, T steps at most, S states, A actions, F entries; `trace` (K, T);
`totals` (keys, 4) holds two sums and two counts.
"""

from __future__ import annotations

import numpy as np

from paragone.kernels.jit import njit
from paragone.reinforcement._chance import B32, acted, best_action, draw64
from paragone.reinforcement._table_kernels import outcome

__all__ = [
    "EVERY", "FIRST", "ORDINARY", "PER_DECISION", "START", "WEIGHTED", "control", "follow",
    "generate", "improve", "walk_back", "weigh",
]  # fmt: skip

EVERY, FIRST, START = range(3)
ORDINARY, WEIGHTED, PER_DECISION = range(3)
ELEVEN = np.uint64(11)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def generate(
    places, limits, after, A, pick, keep, stride, first, trace, lengths, final, rows, order, noise
):  # fmt: skip
    """Plays one episode for each of `first` (K,): its first row s A + a, or -1 for a fresh start.

    `final` gets the state behind an episode that was cut off, -1 behind one that terminated.
    The episodes take turns step by step, so that one's memory waits are another's work.
    """
    T = trace.shape[1]
    active = len(first)
    start = len(places) - 1
    for c in range(active):
        order[c], lengths[c], rows[c] = c, 0, first[c]
        if first[c] < 0:
            number = np.int64(draw64(noise, c) >> ELEVEN)
            base = (after[outcome(places, limits, start, number)] >> 1) * A
            rows[c] = acted(pick, keep, stride, base, A, draw64(noise, c))
    while active > 0:
        k = 0
        while k < active:
            c = order[k]
            row = rows[c]
            place = places[np.uint64(row)]
            e = np.uint64(place >> 6)
            if place & 63:
                e = outcome(places, limits, row, np.int64(draw64(noise, c) >> ELEVEN))
            t = lengths[c]
            trace[c, t] = e
            lengths[c] = t + 1
            went = after[e]
            if (went & 1) != 0 or t + 1 == T:
                final[c] = -1 if went & 1 else went >> 1
                active -= 1
                order[k] = order[active]
                order[active] = c
            else:
                rows[c] = acted(pick, keep, stride, (went >> 1) * A, A, draw64(noise, c))
                k += 1


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def follow(pick, keep, stride, A, states, noise, actions):
    """Chooses an action in each state (n,) under a policy."""
    for i in range(len(states)):
        base = states[i] * A
        actions[i] = acted(pick, keep, stride, base, A, draw64(noise, 0)) - base


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def walk_back(
    visit, trace, lengths, final, count, reward, keys, seen, q, A, gamma, epsilon, bootstrap,
    alpha, totals, held, marks, stats,
):  # fmt: skip
    """Adds the returns of `count` episodes to `totals`, or moves q by alpha towards them.

    `stats` (4,) counts rewards, episodes, what truncation left out of the returns, and visits.
    """
    for c in range(count):
        g = 0.0
        length = lengths[c]
        if final[c] >= 0:
            base = seen[final[c]] * A
            best = total = q[base]
            for k in range(base + 1, base + A):
                best = max(best, q[k])
                total += q[k]
            behind = (1.0 - epsilon) * best + epsilon * total / A
            if bootstrap:
                g = behind
            else:
                share = np.float64(length)
                if gamma < 1.0:
                    share = gamma * (1.0 - gamma**length) / (1.0 - gamma)
                stats[2] += share * behind
        gained = 0.0
        if visit == EVERY:
            for t in range(length - 1, -1, -1):
                e = np.uint64(trace[c, t])
                g = reward[e] + gamma * g
                gained += reward[e]
                key, turn = np.uint64(keys[e]), t & 1
                totals[key, turn] += g
                totals[key, 2 + turn] += 1.0
                if alpha > 0.0:
                    q[key] += alpha * (g - q[key])
        else:
            for t in range(length - 1, -1, -1):
                e = np.uint64(trace[c, t])
                g = reward[e] + gamma * g
                gained += reward[e]
                held[np.uint64(keys[e])] = g
            stamp = np.int64(stats[1]) + 1
            for t in range(1 if visit == START else length):
                key = np.uint64(keys[np.uint64(trace[c, t])])
                if marks[key] != stamp:
                    marks[key] = stamp
                    totals[key, 0] += held[key]
                    totals[key, 2] += 1.0
                    if alpha > 0.0:
                        q[key] += alpha * (held[key] - q[key])
        stats[0] += gained
        stats[1] += 1.0
        stats[3] += length


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
def _averaged(q, totals, key):
    count = totals[key, 2] + totals[key, 3]
    if count > 0.0:
        q[key] = (totals[key, 0] + totals[key, 1]) / count


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def improve(q, totals, alpha, seen, A, pick, noise, trace, lengths, count, keys):
    """Takes the averages and makes their best actions the aliases of the policy.

    All states are gone through, or only those of the trace where it is shorter.
    """
    steps = 0
    for c in range(count):
        steps += lengths[c]
    if count == 0 or steps >= len(seen) or len(seen) * A != len(q):
        if alpha == 0.0:
            for key in range(len(q)):
                _averaged(q, totals, key)
        for s in range(len(seen)):
            best = best_action(q, seen[s] * A, A, draw64(noise, 0))
            for row in range(s * A, s * A + A):
                pick[2 * row + 1] = s * A + best
        return
    for c in range(count):
        for t in range(lengths[c]):
            key = keys[trace[c, t]]
            if alpha == 0.0:
                _averaged(q, totals, key)
    for c in range(count):
        for t in range(lengths[c]):
            base = keys[trace[c, t]] // A * A
            best = best_action(q, base, A, draw64(noise, 0))
            for row in range(base, base + A):
                pick[2 * row + 1] = base + best


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def control(
    steps, episodes, exploring, places, limits, after, reward, keys, seen, q, totals, A, gamma,
    epsilon, slope, floor, visit, alpha, bootstrap, pick, keep, first, trace, lengths, final,
    rows, order, held, marks, stats, noise,
):  # fmt: skip
    """Plays, averages and improves in turn until so many steps or episodes are done.

    Returns:
        (steps, episodes).
    """
    done = finished = 0
    total = len(places) - 1
    while done < steps and finished < episodes:
        count = min(len(first), episodes - finished)
        keep[0] = np.int64(round(epsilon * 4294967296.0))
        for c in range(count):
            first[c] = -1
            if exploring:
                first[c] = (np.int64(draw64(noise, 0) >> B32) * total) >> 32
        generate(
            places, limits, after, A, pick, keep, np.int64(0), first[:count], trace, lengths,
            final, rows, order, noise,
        )  # fmt: skip
        walk_back(
            visit, trace, lengths, final, count, reward, keys, seen, q, A, gamma, epsilon,
            bootstrap, alpha, totals, held, marks, stats,
        )  # fmt: skip
        improve(q, totals, alpha, seen, A, pick, noise, trace, lengths, count, keys)
        played = 0
        for c in range(count):
            played += lengths[c]
        done += played
        finished += count
        epsilon = max(epsilon - slope * played, floor)
    return done, finished


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def weigh(
    first, weighting, trace, lengths, count, reward, keys, A, gamma, ratios, sums, held, marks,
    stats,
):  # fmt: skip
    """Adds the weighted returns of `count` episodes to the sums (S, 6) of their states.

    A row holds the number of returns x and the sums of w, w x, w^2, w^2 x and w^2 x^2.
    """
    for c in range(count):
        g = decided = 0.0
        w = 1.0
        length = lengths[c]
        stamp = np.int64(stats[1]) + 1
        for t in range(length - 1, -1, -1):
            e = trace[c, t]
            key = keys[e]
            ratio = ratios[key]
            stats[0] += reward[e]
            g = reward[e] + gamma * g
            w *= ratio
            decided = ratio * (reward[e] + gamma * decided)
            weight = w if weighting == WEIGHTED else 1.0
            value = decided if weighting == PER_DECISION else g if weighting == WEIGHTED else w * g
            if first:
                held[0, key // A], held[1, key // A] = weight, value
            else:
                _add(sums, key // A, weight, value)
        for t in range(length if first else 0):
            state = keys[trace[c, t]] // A
            if marks[state] != stamp:
                marks[state] = stamp
                _add(sums, state, held[0, state], held[1, state])
        stats[1] += 1.0


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
def _add(sums, state, weight, value):
    sums[state, 0] += 1.0
    sums[state, 1] += weight
    sums[state, 2] += weight * value
    sums[state, 3] += weight * weight
    sums[state, 4] += weight * weight * value
    sums[state, 5] += weight * weight * value * value
