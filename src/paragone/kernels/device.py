r"""Small functions inside Triton kernels: random words and tanh; the GPU's side of `narrow`.

A word is a function of a 64-bit key and a 64-bit index and of nothing else, the same one on every
device as `kernels.narrow.random_word`:

$$ w(\kappa, i) = \mu\bigl(\mu(i_{lo} \oplus \kappa_{lo}) + (\kappa_{hi} \oplus
   \texttt{9e3779b9}_{16}\, i_{hi})\bigr) , $$

with $\mu$ a permutation of the 32-bit words. Integers wrap; the interpreter's as the GPU's.

References:
    Wellons (2018), "Prospecting for hash functions", for the constants.
"""

import triton
import triton.language as tl

__all__ = ["mixed", "random_word", "tanh"]


@triton.jit
def mixed(x):
    """(uint32): a permutation of the 32-bit words in which every bit depends on every bit."""
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D).to(tl.uint32)
    x = x ^ (x >> 15)
    x = (x * 0x846CA68B).to(tl.uint32)
    return x ^ (x >> 16)


@triton.jit
def random_word(key, index):
    """(int64 key, int64 index): 32 random bits."""
    key = tl.full([], key, tl.int64)
    low, high = key.to(tl.uint32), (key >> 32).to(tl.uint32)
    far = (index >> 32).to(tl.uint32)
    x = mixed(index.to(tl.uint32) ^ low)
    return mixed((x + (high ^ (far * 0x9E3779B9).to(tl.uint32))).to(tl.uint32))


@triton.jit
def tanh(x):
    """(float32): through exp2 of a number that is never positive, so that nothing overflows."""
    small = tl.exp2(-2.8853900817779268 * tl.abs(x))
    size = (1.0 - small) / (1.0 + small)
    # Near zero the difference cancels; there the series has the digits.
    x2 = x * x
    size = tl.where(tl.abs(x) < 0.1, tl.abs(x) * (1 - x2 * (1 / 3 - x2 * (2 / 15))), size)
    return tl.where(x < 0, -size, size)
