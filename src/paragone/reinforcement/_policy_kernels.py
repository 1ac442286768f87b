r"""What policy gradients do with a network's outputs, compiled: draw, weigh, differentiate.

Two families of policies. Whole-numbered actions: outputs z are logits, $\pi(a) = e^{z_a} / \sum_j
e^{z_j}$. Real actions: outputs are means $\mu$ of independent normals whose deviations
$e^{s}$ are parameters of their own. With ratio $\rho = \pi(a) / \pi_{old}(a)$ and advantage A, the
clipped surrogate and its slope in $\log \pi$ are

$$ L = -\min(\rho A, \; \mathrm{clip}(\rho, 1 - \epsilon, 1 + \epsilon) A), \qquad
   \frac{\partial L}{\partial \log \pi} = -\rho A \;[\rho A \le \mathrm{clip}(\rho) A] . $$

References:
    Schulman et al. (2017), "Proximal policy optimization algorithms", arXiv:1707.06347, eq. 7.
    Schulman et al. (2016), "High-dimensional continuous control using generalized advantage
    estimation", arXiv:1506.02438, eq. 16.

Shapes: B rows, k actions or numbers of an action, T steps, n copies; `streams` as in
`_pcg64`; `told` (4,) gathers loss, entropy, divergence and the share that was clipped.
"""

from __future__ import annotations

import math

import numpy as np

from paragone.kernels.jit import njit
from paragone.reinforcement._classic_kernels import UNIT
from paragone.reinforcement._pcg64 import bits53

__all__ = [
    "advantages", "choose", "choose_best", "choose_real", "surrogate", "surrogate_real",
    "value_slope",
]  # fmt: skip

_options = {"nogil": True, "error_model": "numpy"}
_inlined = {**_options, "_nrt": False, "forceinline": True}
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


@njit(**_inlined)
def _best(row):
    """Column of the largest number, the first among equals."""
    best = 0
    for j in range(1, len(row)):
        if row[j] > row[best]:
            best = j
    return best


@njit(**_options)
def choose(logits, streams, actions, logs):
    """Draws an action for each row by inversion, from the row's own stream, and its log."""
    for b in range(len(logits)):
        top, total = np.float64(logits[b, _best(logits[b])]), 0.0
        for j in range(logits.shape[1]):
            total += math.exp(logits[b, j] - top)
        left, chosen = bits53(streams, b) * UNIT * total, 0
        for j in range(logits.shape[1]):
            weight = math.exp(logits[b, j] - top)
            if weight > 0.0:
                chosen = j
            left -= weight
            if left < 0.0:
                break
        actions[b] = chosen
        logs[b] = logits[b, chosen] - top - math.log(total)


@njit(**_options)
def choose_best(q, epsilon, streams, actions):
    """Takes the action of the highest value (the lowest number among equals), or any."""
    for b in range(len(q)):
        u, k = bits53(streams, b) * UNIT, q.shape[1]
        actions[b] = min(int(u / epsilon * k), k - 1) if u < epsilon else _best(q[b])


@njit(**_options)
def choose_real(means, scales, streams, actions, logs):
    """Draws an action (k,) for each row by Box and Muller, and its log; `scales` are logs too."""
    for b in range(len(means)):
        log = 0.0
        for j in range(means.shape[1]):
            radius = math.sqrt(-2.0 * math.log(1.0 - bits53(streams, b) * UNIT))
            unit = radius * math.cos(2.0 * math.pi * bits53(streams, b) * UNIT)
            actions[b, j] = means[b, j] + math.exp(scales[j]) * unit
            unit = (actions[b, j] - means[b, j]) / math.exp(scales[j])
            log -= 0.5 * unit * unit + scales[j] + _HALF_LOG_2PI
        logs[b] = log


@njit(**_inlined)
def _weigh(log, old, advantage, clip, told):
    """Slope of the clipped surrogate in the log of the policy; its parts are added to `told`."""
    ratio = math.exp(log - old)
    plain = ratio * advantage
    cut = min(max(ratio, 1.0 - clip), 1.0 + clip) * advantage
    told[0] -= min(plain, cut)
    told[2] += ratio - 1.0 - (log - old)
    told[3] += abs(ratio - 1.0) > clip
    return -plain if plain <= cut else 0.0


@njit(**_options)
def surrogate(logits, actions, old, gains, clip, bonus, slope, told):
    """Fills `slope` (B, k): gradient of the mean surrogate less `bonus` times the entropy."""
    rows, k = logits.shape
    for b in range(rows):
        top, total = np.float64(logits[b, _best(logits[b])]), 0.0
        for j in range(k):
            total += math.exp(logits[b, j] - top)
        norm, entropy = top + math.log(total), 0.0
        for j in range(k):
            log = logits[b, j] - norm
            entropy -= math.exp(log) * log
        a = actions[b]
        pull = _weigh(logits[b, a] - norm, old[b], gains[b], clip, told)
        for j in range(k):
            log = logits[b, j] - norm
            p = math.exp(log)
            rise = pull * ((1.0 if j == a else 0.0) - p)
            slope[b, j] = (rise + bonus * p * (log + entropy)) / rows
        told[1] += entropy


@njit(**_options)
def surrogate_real(means, scales, actions, old, gains, clip, bonus, slope, scale_slope, told):
    """The same for real actions; adds to `scale_slope` (k,) the gradient in `scales`."""
    rows, k = means.shape
    for b in range(rows):
        log, entropy = 0.0, 0.0
        for j in range(k):
            unit = (actions[b, j] - means[b, j]) / math.exp(scales[j])
            log -= 0.5 * unit * unit + scales[j] + _HALF_LOG_2PI
            entropy += scales[j] + _HALF_LOG_2PI + 0.5
        pull = _weigh(log, old[b], gains[b], clip, told)
        for j in range(k):
            unit = (actions[b, j] - means[b, j]) / math.exp(scales[j])
            slope[b, j] = pull * unit / math.exp(scales[j]) / rows
            scale_slope[j] += (pull * (unit * unit - 1.0) - bonus) / rows
        told[1] += entropy


@njit(**_options)
def value_slope(values, old, returns, clip, weight, slope):
    """Fills `slope` (B, 1) with the gradient of `weight` times half the mean squared error.

    With a finite `clip` the error is the larger one of the value and of the value moved by at
    most `clip` from the old one. Returns the mean squared error over two.
    """
    rows, total = len(values), 0.0
    for b in range(rows):
        moved = np.float64(values[b, 0]) - np.float64(old[b])
        error = np.float64(values[b, 0]) - np.float64(returns[b])
        slope[b, 0] = weight * error / rows
        if abs(moved) > clip:
            held = error - moved + math.copysign(clip, moved)
            if held * held > error * error:
                error, slope[b, 0] = held, 0.0
        total += error * error
    return 0.5 * total / rows


@njit(**_options)
def advantages(rewards, values, following, terminated, ended, valid, gamma, lam, out):
    """Generalised advantages (T, n): sums of discounted errors that stop where an episode does.

    `following` is the value of the state that truly followed: of the final one where time ran
    out. It counts unless the task itself ended; the sum stops at either end.
    """
    for i in range(rewards.shape[1]):
        carried = 0.0
        for t in range(len(rewards) - 1, -1, -1):
            if not valid[t, i]:
                carried = 0.0
                out[t, i] = 0.0
                continue
            bootstrap = 0.0 if terminated[t, i] else gamma * following[t, i]
            error = rewards[t, i] + bootstrap - values[t, i]
            carried = error + (0.0 if ended[t, i] else gamma * lam * carried)
            out[t, i] = carried
