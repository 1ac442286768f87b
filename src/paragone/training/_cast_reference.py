"""The casts in plain PyTorch: their definition, and the way for tensors on other devices.

The words `spec` and the random words are those of `_cast_kernels`, so that the results are equal
bit for bit on any device. 32-bit words stand in 64-bit integers here, which have no overflow.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["random_words", "rounded", "to_odd"]

_WORD = 0xFFFFFFFF
_INFINITY = 0x7F800000


def rounded(x: Tensor, spec: np.ndarray, chance: tuple[int, int] | None = None) -> Tensor:
    """Returns the values of the format nearest to float32 `x`, or neighbours at random.

    Args:
        x: Values, float32.
        spec: The format, as `Format.spec` writes it.
        chance: (seed, step) of stochastic rounding.
    """
    drop, largest, over, normal, _, zero = (int(word) for word in spec)
    unit = float(spec[4:5].view(np.float32)[0]) * 2.0**-23
    bits = x.contiguous().view(torch.int32).long() & _WORD
    size, low = bits & 0x7FFFFFFF, (1 << drop) - 1
    if chance is None:
        found = (size + (low >> 1) + ((size >> drop) & 1)) & ~low
        few = torch.round(x.double().abs() / (unit or 1.0))
    else:
        words = random_words(*chance, x.numel(), x.device).view(x.shape)
        found = (size + (words & low)) & ~low
        few = torch.floor(x.double().abs() / (unit or 1.0) + words.double() * 2.0**-32)
    small = (few * unit).float().view(torch.int32).long()
    found = torch.where(size < normal, small, found)
    found = torch.where(found > largest, over, found)
    found = torch.where(size > _INFINITY, 0x7FC00000, found)
    unsigned = (found == 0) | (found > _INFINITY)
    found = found | torch.where(unsigned, bits & zero & 0x80000000, bits & 0x80000000)
    return torch.where(found > 0x7FFFFFFF, found - (1 << 32), found).int().view(torch.float32)


def to_odd(x: Tensor) -> Tensor:
    """Returns float32 of float64 rounded to odd: a later cast then rounds as if at once.

    Boldo and Melquiond (2008), "Emulation of FMA and correctly rounded sums: proved algorithms
    using rounding to odd", theorem 1.
    """
    near = x.float()
    bits = near.contiguous().view(torch.int32)
    bits = bits - (near.double().abs() > x.abs()).int()
    return (bits | (near.double() != x).int()).view(torch.float32).view(x.shape)


def random_words(seed: int, step: int, count: int, device: torch.device | str) -> Tensor:
    """Returns `narrow.random_bits(seed, step, i)` for i below `count`, as int64."""
    mask = (1 << 64) - 1
    key = (seed + 0x9E3779B97F4A7C15 * (step + 1)) & mask
    key = ((key ^ (key >> 30)) * 0xBF58476D1CE4E5B9) & mask
    key = ((key ^ (key >> 27)) * 0x94D049BB133111EB) & mask
    key ^= key >> 31
    index = torch.arange(count, device=device)
    far = ((index >> 32) * 0x9E3779B9) & _WORD
    first = _mixed((index & _WORD) ^ (key & _WORD))
    return _mixed((first + (far ^ (key >> 32))) & _WORD)


def _mixed(x: Tensor) -> Tensor:
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & _WORD
    x = x ^ (x >> 15)
    x = (x * 0x846CA68B) & _WORD
    return x ^ (x >> 16)
