"""Random numbers inside kernels: one stream for each chain, whatever thread runs it.

xoshiro256++, whose state is four words filled by NumPy's `SeedSequence`; normals by the polar
method.

References:
    Blackman and Vigna (2021), "Scrambled linear pseudorandom number generators", section 4.
    Marsaglia and Bray (1964), "A convenient method for generating normal variables".
"""

from __future__ import annotations

import math

import numpy as np

from paragone.kernels.jit import njit

__all__ = ["fill_normal", "streams", "uniform"]


def streams(seed: int, count: int) -> np.ndarray:
    """Returns the states (count, 4) of independent streams; the first ones do not depend on count.

    Example:
        >>> bool((streams(1, 2)[0] == streams(1, 5)[0]).all())
        True
    """
    each = np.random.SeedSequence(seed).spawn(count)
    return np.array([one.generate_state(4, np.uint64) for one in each]).reshape(count, 4)


@njit(nogil=True, error_model="numpy", _nrt=False)
def uniform(state):
    """The next number in [0, 1)."""
    total = state[0] + state[3]
    word = ((total << np.uint64(23)) | (total >> np.uint64(41))) + state[0]
    shifted = state[1] << np.uint64(17)
    state[2] ^= state[0]
    state[3] ^= state[1]
    state[1] ^= state[2]
    state[0] ^= state[3]
    state[2] ^= shifted
    state[3] = (state[3] << np.uint64(45)) | (state[3] >> np.uint64(19))
    return np.float64(np.int64(word >> np.uint64(11))) * 2.0**-53


@njit(nogil=True, error_model="numpy", _nrt=False)
def fill_normal(state, found):
    """Fills a vector with standard normals."""
    for i in range(0, found.size, 2):
        square = 2.0
        a = b = 0.0
        while square >= 1.0 or square == 0.0:
            a, b = 2.0 * uniform(state) - 1.0, 2.0 * uniform(state) - 1.0
            square = a * a + b * b
        factor = math.sqrt(-2.0 * math.log(square) / square)
        found[i] = a * factor
        if i + 1 < found.size:
            found[i + 1] = b * factor
