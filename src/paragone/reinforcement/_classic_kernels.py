r"""The physics of the classic control tasks, one compiled step for many copies at once.

A transition is the same in every bit as Gymnasium's: the order of operations, the width of each
intermediate result and the library's `pow` (which rounds some squares otherwise than a product)
are those of its formulas. What Gymnasium computes in float32 is float32 here.

Each copy draws its starts from a stream of its own (`_pcg64`), so copy i started from seed s does
what `numpy.random.default_rng(s)` makes of it, in whatever batch it is run.

Tasks: 0 cart-pole, 1 acrobot, 2 mountain car, 3 pendulum, 4 mountain car with a continuous action.

Shapes: n copies; state (n, 4) float64; observation (n, d) float32; streams as in
`_pcg64`. `option` (2,): the task's parameter, and
the number 2, which as a literal would be compiled into a product.
"""

from __future__ import annotations

import math

import numpy as np

from paragone.kernels.jit import njit
from paragone.reinforcement._pcg64 import bits53

__all__ = ["UNIT", "advance", "advance_one", "place", "restart", "step_all"]

_options = {"nogil": True, "error_model": "numpy"}
_inlined = {**_options, "_nrt": False, "forceinline": True}

UNIT = 1.0 / 9007199254740992.0
"""Makes a number in [0, 1) of the 53 bits that a stream gives."""


@njit(**_inlined)
def _cart_pole(state, action, option):
    x, x_dot, theta, theta_dot = state[0], state[1], state[2], state[3]
    force = 10.0 if action == 1.0 else -10.0
    cosine, sine = math.cos(theta), math.sin(theta)
    pushed = (force + 0.05 * (theta_dot * theta_dot) * sine) / 1.1
    turning = (9.8 * sine - cosine * pushed) / (0.5 * (4.0 / 3.0 - 0.1 * (cosine * cosine) / 1.1))
    moving = pushed - 0.05 * turning * cosine / 1.1
    state[0], state[1] = x + 0.02 * x_dot, x_dot + 0.02 * moving
    state[2], state[3] = theta + 0.02 * theta_dot, theta_dot + 0.02 * turning
    tilt = 12 * 2 * math.pi / 360
    over = not (-2.4 <= state[0] <= 2.4 and -tilt <= state[2] <= tilt)
    if option[0] != 0.0:
        return (-1.0 if over else 0.0), over
    return 1.0, over


@njit(**_inlined)
def _acrobot_slope(one, two, fast_one, fast_two, torque, square):
    """Angular accelerations of the two links, by the equations of Sutton and Barto's book."""
    cosine, sine = math.cos(two), math.sin(two)
    d1 = 0.25 + (1.0 + 0.25 + 2.0 * 0.5 * cosine) + 1.0 + 1.0
    d2 = (0.25 + 0.5 * cosine) + 1.0
    phi2 = 0.5 * 9.8 * math.cos(one + two - math.pi / 2.0)
    phi1 = (
        -0.5 * math.pow(fast_two, square) * sine
        - 2 * 0.5 * fast_two * fast_one * sine
        + (0.5 + 1.0) * 9.8 * math.cos(one - math.pi / 2)
        + phi2
    )
    bend = (torque + d2 / d1 * phi1 - 0.5 * math.pow(fast_one, square) * sine - phi2) / (
        0.25 + 1.0 - math.pow(d2, square) / d1
    )
    return -(d2 * bend + phi1) / d1, bend


@njit(**_inlined)
def _wrapped(angle):
    while angle > math.pi:
        angle -= 2 * math.pi
    while angle < -math.pi:
        angle += 2 * math.pi
    return angle


@njit(**_inlined)
def _acrobot(state, action, option):
    torque, square, dt, half = action - 1.0, option[1], 0.2, 0.2 / 2.0
    a, b, c, d = state[0], state[1], state[2], state[3]
    c1, d1 = _acrobot_slope(a, b, c, d, torque, square)
    a2, b2 = c + half * c1, d + half * d1
    c2, d2 = _acrobot_slope(a + half * c, b + half * d, a2, b2, torque, square)
    a3, b3 = c + half * c2, d + half * d2
    c3, d3 = _acrobot_slope(a + half * a2, b + half * b2, a3, b3, torque, square)
    a4, b4 = c + dt * c3, d + dt * d3
    c4, d4 = _acrobot_slope(a + dt * a3, b + dt * b3, a4, b4, torque, square)
    sixth = dt / 6.0
    state[0] = _wrapped(a + sixth * (c + 2 * a2 + 2 * a3 + a4))
    state[1] = _wrapped(b + sixth * (d + 2 * b2 + 2 * b3 + b4))
    state[2] = min(max(c + sixth * (c1 + 2 * c2 + 2 * c3 + c4), -4 * math.pi), 4 * math.pi)
    state[3] = min(max(d + sixth * (d1 + 2 * d2 + 2 * d3 + d4), -9 * math.pi), 9 * math.pi)
    over = -math.cos(state[0]) - math.cos(state[1] + state[0]) > 1.0
    return (0.0 if over else -1.0), over


@njit(**_inlined)
def _mountain_car(state, action, option):
    velocity = state[1] + ((action - 1.0) * 0.001 + math.cos(3 * state[0]) * -0.0025)
    velocity = min(max(velocity, -0.07), 0.07)
    position = min(max(state[0] + velocity, -1.2), 0.6)
    if position == -1.2 and velocity < 0:
        velocity = 0.0
    state[0], state[1] = position, velocity
    return -1.0, position >= 0.5 and velocity >= option[0]


@njit(**_inlined)
def _pendulum(state, action, option):
    angle, speed, square = state[0], state[1], option[1]
    torque = np.float32(min(max(action, -2.0), 2.0))
    away = ((angle + math.pi) % (2 * math.pi)) - math.pi
    effort = np.float64(np.float32(0.001) * np.float32(math.pow(torque, np.float32(square))))
    cost = math.pow(away, square) + 0.1 * math.pow(speed, square) + effort
    pull = np.float64(np.float32(3.0) * torque)
    speed = speed + (3 * option[0] / 2.0 * math.sin(angle) + pull) * 0.05
    speed = min(max(speed, -8.0), 8.0)
    state[0], state[1] = angle + speed * 0.05, speed
    return -cost, False


@njit(**_inlined)
def _mountain_car_continuous(state, action, option, first):
    """The state is float32 after the first step, and so is most of the arithmetic then."""
    inside = -1.0 <= action <= 1.0
    force = min(max(action, -1.0), 1.0)
    angle = 3 * state[0] if first else np.float64(np.float32(3) * np.float32(state[0]))
    slope = 0.0025 * math.cos(angle)
    push = force * 0.0015 - slope
    if inside:
        power = np.float32(force) * np.float32(0.0015)
        push = np.float64(np.float32(power - np.float32(slope)))
    if first:
        velocity = min(max(state[1] + push, -0.07), 0.07)
        position = min(max(state[0] + velocity, -1.2), 0.6)
        reached = position >= 0.45
        stopped = position == -1.2
    else:
        fast, low, high = np.float32(0.07), np.float32(-1.2), np.float32(0.6)
        moved = np.float32(np.float32(state[1]) + np.float32(push))
        moved = min(max(moved, -fast), fast)
        place = np.float32(np.float32(state[0]) + moved)
        place = min(max(place, low), high)
        velocity, position = np.float64(moved), np.float64(place)
        reached = place >= np.float32(0.45)
        stopped = place == low
    if stopped and velocity < 0:
        velocity = 0.0
    over = reached and velocity >= option[0]
    state[0], state[1] = np.float64(np.float32(position)), np.float64(np.float32(velocity))
    return (100.0 if over else 0.0) - math.pow(action, option[1]) * 0.1, over


@njit(**_inlined)
def advance(task, option, state, action, first):
    """Moves one state (4,) on by one action; returns its reward and whether the task has ended."""
    if task == 0:
        return _cart_pole(state, action, option)
    if task == 1:
        return _acrobot(state, action, option)
    if task == 2:
        return _mountain_car(state, action, option)
    if task == 3:
        return _pendulum(state, action, option)
    return _mountain_car_continuous(state, action, option, first)


@njit(**_inlined)
def _observe(task, state, seen):
    if task == 1:
        seen[0], seen[1] = math.cos(state[0]), math.sin(state[0])
        seen[2], seen[3] = math.cos(state[1]), math.sin(state[1])
        seen[4], seen[5] = state[2], state[3]
    elif task == 3:
        seen[0], seen[1], seen[2] = math.cos(state[0]), math.sin(state[0]), state[1]
    else:
        for j in range(len(seen)):
            seen[j] = state[j]


@njit(**_options)
def advance_one(task, option, state, action, first, seen):
    """`advance`, and what is seen of the new state (d,)."""
    reward, over = advance(task, option, state, action, first)
    _observe(task, state, seen)
    return reward, over


@njit(**_options)
def place(task, bounds, draws, state, seen):
    """Sets a state (4,) to the start that the draws from [0, 1) give, and observes it.

    `bounds` (2, 2): lowest and highest value of each coordinate that is drawn; tasks that draw
    four coordinates alike use the first row for all.
    """
    low, high = bounds[0, 0], bounds[0, 1]
    if task <= 1:
        for j in range(4):
            state[j] = low + (high - low) * draws[j]
            if task == 1:
                state[j] = np.float64(np.float32(state[j]))
    else:
        state[0] = low + (high - low) * draws[0]
        state[1] = 0.0
        if task == 3:
            state[1] = bounds[1, 0] + (bounds[1, 1] - bounds[1, 0]) * draws[1]
    _observe(task, state, seen)


@njit(**_options)
def restart(task, bounds, which, streams, state, seen, steps):
    """Starts the copies anew that `which` (n,) names, each from its own stream."""
    draws = np.zeros(4)
    count = 4 if task <= 1 else (2 if task == 3 else 1)
    for i in range(len(steps)):
        if which[i]:
            for j in range(count):
                draws[j] = bits53(streams, i) * UNIT
            place(task, bounds, draws, state[i], seen[i])
            steps[i] = 0


@njit(**_options)
def step_all(task, option, actions, limit, skip, state, seen, steps, rewards, over, cut):
    """Moves all copies on by one action each (n,), except those that `skip` names.

    Truncation (`cut`) is the limit of steps and nothing else; termination (`over`) is the task's.
    """
    for i in range(len(actions)):
        if skip[i]:
            rewards[i], over[i], cut[i] = 0.0, False, False
            continue
        rewards[i], over[i] = advance(task, option, state[i], actions[i], steps[i] == 0)
        steps[i] += 1
        cut[i] = steps[i] >= limit
        _observe(task, state[i], seen[i])
