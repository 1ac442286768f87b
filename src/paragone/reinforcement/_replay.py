r"""A replay buffer of fixed size, in which n-step returns are made when they are asked for.

Steps of all copies lie side by side in a ring (capacity, n). A draw names a step; its return

$$ R = \sum_{j=0}^{m-1} \gamma^j r_{t+j}, \qquad m = \min(\text{steps}, \text{steps to the end}), $$

is summed along the ring, and bootstraps from the state that truly followed the last of them, with
the factor $\gamma^m$ unless the task itself ended there.

Shapes: n copies, d features, B rows drawn.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from paragone.reinforcement._interaction import Transition

__all__ = ["Draw", "Replay"]


class Draw(NamedTuple):
    """Rows drawn: features, actions, returns, the state to bootstrap from and by what factor."""

    seen: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    following: np.ndarray
    discounts: np.ndarray


class Replay:
    """The last `size` transitions of n copies.

    Args:
        size: Transitions kept, rounded down to whole steps of all copies.
        n: Copies.
        d: Features.
        steps: Rewards that a return sums, at most.
        gamma: Discount.
    """

    def __init__(self, size: int, n: int, d: int, steps: int, gamma: float) -> None:
        self.capacity, self.n, self.steps, self.gamma = max(size // n, steps + 1), n, steps, gamma
        shape = (self.capacity, n)
        self.seen, self.following = (np.zeros((*shape, d), np.float32) for _ in range(2))
        self.actions, self.rewards = np.zeros(shape, np.int64), np.zeros(shape, np.float32)
        self.terminated, self.ended, self.valid = (np.zeros(shape, np.bool_) for _ in range(3))
        self.written = 0

    def __len__(self) -> int:
        return min(self.written, self.capacity) * self.n

    def add(self, seen: np.ndarray, actions: np.ndarray, step: Transition) -> None:
        """Keeps one step of all copies, in place of the oldest."""
        t = self.written % self.capacity
        self.seen[t], self.actions[t], self.rewards[t] = seen, actions, step.rewards
        self.following[t], self.terminated[t] = step.following, step.terminated
        self.ended[t], self.valid[t] = step.terminated | step.truncated, step.valid
        self.written += 1

    def draw(self, rng: np.random.Generator, rows: int) -> Draw:
        """Draws transitions uniformly with replacement, those that were none left out."""
        first = max(0, self.written - self.capacity)
        last = max(first + 1, self.written - self.steps + 1)
        flat = rng.integers(first * self.n, last * self.n, rows)
        t, i = flat // self.n, flat % self.n
        real = self.valid[t % self.capacity, i]
        return self.returns(t[real], i[real])

    def returns(self, t: np.ndarray, i: np.ndarray) -> Draw:
        """Rows for steps t (B,), counted from the very first, of copies i (B,)."""
        start = t % self.capacity
        total = self.rewards[start, i].copy()
        discounts = np.full(len(t), self.gamma, np.float32)
        place, going = start, ~self.ended[start, i]
        for ahead in range(1, self.steps):
            going = going & (t + ahead < self.written)
            after = (t + ahead) % self.capacity
            total += np.where(going, discounts * self.rewards[after, i], np.float32(0))
            place = np.where(going, after, place)
            discounts = np.where(going, discounts * np.float32(self.gamma), discounts)
            going = going & ~self.ended[after, i]
        discounts = np.where(self.terminated[place, i], np.float32(0), discounts)
        return Draw(self.seen[start, i], self.actions[start, i], total,
                    self.following[place, i], discounts)  # fmt: skip

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays themselves, by name."""
        names = ("seen", "following", "actions", "rewards", "terminated", "ended", "valid")
        return {name: getattr(self, name) for name in names}
