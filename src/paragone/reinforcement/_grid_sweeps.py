r"""Value iteration on a deterministic grid: exact after a few sweeps in four directions.

On a grid an optimal path is a walk that ends in a cycle of one cell (staying, bumping) or of two
(there and back): if from no cell of a longer cycle the way there and back is better, then values
two steps apart along it are equal, and the cycle of two is as good. Both have closed forms,

$$ v = \frac{r}{1 - \gamma}, \qquad v(x) = \frac{r_{xy} + \gamma\, r_{yx}}{1 - \gamma^2} , $$

so that with them as the start all that is left is to carry values along paths. With $u(y) = e(y)
+ \gamma v(y)$, the worth of entering y, a cell takes $v(x) = \max(c(x), u(\text{neighbours}))$.
One pass goes through the rows, downwards or upwards, and through each row to the right and to
the left, in place: a path is carried on over all its turns in these directions. A row whose
neighbours did not change is passed over.

Values rise from below to those of paths, so that the loop ends by itself; changes below two
rounding errors end it too, or the rounding of two cells would lift each other ulp by ulp.
"""

from __future__ import annotations

import numpy as np

from paragone.kernels.jit import njit

__all__ = ["BORDER", "grid_actions", "grid_values"]

BORDER = 3
LOW = -1e300
"""Worth of what cannot be done; finite, so that gamma = 0 times it is 0."""

_FAST = {"contract", "nsz", "reassoc"}


@njit(cache=True, nogil=True, error_model="numpy")
def _staying_rewards(kinds, enter, bump, stay, block, own):
    """Fills the best reward of an action that leaves the agent where it is; LOW for none."""
    rows, wide = kinds.shape
    for r in range(1, rows - 1):
        for c in range(1, wide - 1):
            kind = kinds[r, c]
            best = enter[kind] if stay else LOW
            for turn in range(4):
                other = kinds[r + (turn == 2) - (turn == 0), c + (turn == 1) - (turn == 3)]
                if other == BORDER:
                    best = max(best, bump[kind])
                elif block and other == 1:
                    best = max(best, enter[1])
            own[r, c] = best


@njit(cache=True, nogil=True, error_model="numpy")
def _closed_cycles(kinds, enter, fixed, gamma, own, constant, u):
    """Fills the value of the best cycle of one or two cells, and u = e + gamma v."""
    rows, wide = kinds.shape
    one, two = 1.0 / (1.0 - gamma), 1.0 / (1.0 - gamma * gamma)
    for r in range(rows):
        for c in range(wide):
            u[r, c], constant[r, c] = LOW, LOW
    for r in range(1, rows - 1):
        for c in range(1, wide - 1):
            kind = kinds[r, c]
            here = enter[kind]
            best = own[r, c] * one if own[r, c] > LOW else LOW
            for turn in range(4):
                other = kinds[r + (turn == 2) - (turn == 0), c + (turn == 1) - (turn == 3)]
                if not fixed[other] and not fixed[kind]:
                    best = max(best, (enter[other] + gamma * here) * two)
            constant[r, c] = best
            if not fixed[kind]:
                u[r, c] = here + gamma * best
            elif kind == 2:
                u[r, c] = here


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def _pass_row(above, row, below, entered, constant, gamma, best, free):
    """Takes one row to what its neighbours and itself allow; True if it rose noticeably."""
    wide = len(row)
    for c in range(wide):
        best[c] = entered[c] + gamma * max(constant[c], max(above[c], below[c]))
    last = row[0]
    for c in range(1, wide - 1):
        value = max(best[c], entered[c] + gamma * last)
        last = value if free[c] else row[c]
        best[c] = last
    last = row[wide - 1]
    for c in range(wide - 2, 0, -1):
        value = max(best[c], entered[c] + gamma * last)
        last = value if free[c] else row[c]
        best[c] = last
    rise = 0
    for c in range(1, wide - 1):
        rise += best[c] > row[c] + 4.5e-16 * abs(row[c])
        row[c] = best[c]
    return rise > 0


@njit(cache=True, nogil=True, error_model="numpy")
def grid_values(kinds, enter, bump, fixed, stay, block, gamma, values, max_passes):
    """Solves the grid into `values` (R, C); returns (passes, max |T v - v|).

    Args:
        kinds: Cells with a border of BORDER around them (R + 2, C + 2).
        enter: Reward of entering each kind, or of staying in it.
        bump: Reward of an attempt to leave the grid from each kind.
        fixed: Whether u of a kind does not depend on v: targets that end, walls, the border.
        stay: Whether there is a fifth action.
        block: Whether forbidden cells are walls.
        gamma: Discount.
        values: The result.
        max_passes: Where to stop.
    """
    rows, wide = kinds.shape
    u, own, constant = np.empty((rows, wide)), np.empty((rows, wide)), np.empty((rows, wide))
    entered, free = np.empty((rows, wide)), np.empty((rows, wide), np.bool_)
    _staying_rewards(kinds, enter, bump, stay, block, own)
    _closed_cycles(kinds, enter, fixed, gamma, own, constant, u)
    for r in range(rows):
        for c in range(wide):
            entered[r, c], free[r, c] = enter[kinds[r, c]], not fixed[kinds[r, c]]
    best = np.empty(wide)
    due = np.ones(rows, np.bool_)
    passes, rising = 0, True
    while rising and passes < max_passes:
        rising = False
        for step in range(1, rows - 1):
            r = step if passes % 2 == 0 else rows - 1 - step
            if due[r]:
                due[r] = _pass_row(
                    u[r - 1], u[r], u[r + 1], entered[r], constant[r], gamma, best, free[r]
                )
                if due[r]:
                    rising = due[r - 1] = due[r + 1] = True
        passes += 1
    return passes, _settle(kinds, enter, fixed, gamma, own, constant, u, values)


@njit(cache=True, nogil=True, error_model="numpy")
def _neighbours_best(u, r, c):
    return max(max(u[r - 1, c], u[r + 1, c]), max(u[r, c - 1], u[r, c + 1]))


@njit(cache=True, nogil=True, error_model="numpy")
def _settle(kinds, enter, fixed, gamma, own, constant, u, values):
    """Reads v from u, applies Bellman's operator once more to v itself; returns max |T v - v|."""
    rows, wide = kinds.shape
    for r in range(1, rows - 1):
        for c in range(1, wide - 1):
            ends = kinds[r, c] == 2 and fixed[2]
            best = max(constant[r, c], _neighbours_best(u, r, c))
            values[r - 1, c - 1] = 0.0 if ends else best
    for r in range(1, rows - 1):
        for c in range(1, wide - 1):
            if not fixed[kinds[r, c]]:
                u[r, c] = enter[kinds[r, c]] + gamma * values[r - 1, c - 1]
    residual = 0.0
    for r in range(1, rows - 1):
        for c in range(1, wide - 1):
            if not (kinds[r, c] == 2 and fixed[2]):
                before = values[r - 1, c - 1]
                best = max(own[r, c] + gamma * before, _neighbours_best(u, r, c))
                residual = max(residual, abs(best - before))
    return residual


@njit(cache=True, nogil=True, error_model="numpy")
def grid_actions(kinds, enter, bump, fixed, block, gamma, values, q):
    """Fills q (S, A) from the values (R, C), for the actions up, right, down, left, stay."""
    rows, wide = kinds.shape
    for r in range(1, rows - 1):
        for c in range(1, wide - 1):
            kind, state = kinds[r, c], (r - 1) * (wide - 2) + c - 1
            here = gamma * values[r - 1, c - 1]
            for a in range(q.shape[1]):
                nr, nc = r + (a == 2) - (a == 0), c + (a == 1) - (a == 3)
                other = kinds[nr, nc]
                if kind == 2 and fixed[2]:
                    q[state, a] = 0.0
                elif other == BORDER:
                    q[state, a] = bump[kind] + here
                elif block and other == 1 and a < 4:
                    q[state, a] = enter[1] + here
                elif other == 2 and fixed[2]:
                    q[state, a] = enter[2]
                else:
                    q[state, a] = enter[other] + gamma * values[nr - 1, nc - 1]
