"""Random state: everything random takes one, nothing is seeded globally."""

from typing import TypeAlias

import numpy as np

__all__ = ["RandomState", "as_generator", "spawn_seeds"]

RandomState: TypeAlias = int | np.random.Generator | np.random.RandomState | None


def as_generator(random_state: RandomState = None) -> np.random.Generator:
    """Returns a `numpy.random.Generator` from a seed, a generator, a legacy state or None.

    A generator is returned itself (its state moves on); a legacy `RandomState` gives a
    generator seeded from its next draw, as scikit-learn's tests expect.

    Example:
        >>> bool(as_generator(0).random() == as_generator(0).random())
        True
    """
    if isinstance(random_state, np.random.Generator):
        return random_state
    if isinstance(random_state, np.random.RandomState):
        return np.random.default_rng(int(random_state.randint(2**31 - 1)))
    if random_state is None or isinstance(random_state, int | np.integer):
        return np.random.default_rng(random_state)
    raise ValueError(
        f"random_state={random_state!r} must be an int, a numpy Generator or RandomState, or None"
    )


def spawn_seeds(generator: np.random.Generator, count: int) -> np.ndarray:
    """Draws `count` independent seeds (int64), one for each tree, worker or repeat."""
    return generator.integers(0, 2**63 - 1, size=count, dtype=np.int64)
