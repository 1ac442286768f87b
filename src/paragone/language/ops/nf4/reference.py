r"""NF4 in plain torch: the definition.

A block of 64 weights is divided by its largest size and each is rounded to the nearest of 16
levels, quantiles of the normal distribution; the scales are themselves kept in 8 bits, by groups of
256 around their mean:

$$ w_{bi} \approx s_b\, T[c_{bi}], \quad c_{bi} = \arg\min_j |w_{bi} / s_b - T_j|, \qquad
   s_b \approx \mu + \frac{q_b}{127} g_{b / 256}, \quad q_b \in \{-127, \dots, 127\} . $$

The paper keeps scales as 8-bit floats; integers err an eighth as much here, as scales less their
mean are nothing like log-uniform.

References:
    Dettmers et al. (2023), "QLoRA", arXiv:2305.14314, section 3, appendix E (levels), eq. 5-6.

Shapes: n weights, b = ceil(n / 64) blocks, g = ceil(b / 256) groups.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["BLOCK", "GROUP", "LEVELS", "Packed", "dequantize_reference", "quantize", "scales"]

BLOCK, GROUP = 64, 256

LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
)  # fmt: skip
"""T: quantiles of the normal distribution between -1 and 1, zero among them."""


class Packed(NamedTuple):
    """Weights of four bits.

    Attributes:
        codes: (32 b,) uint8, the first of two weights in the upper half.
        scale: (b,) int8.
        group: (g,) float32.
        mean: () float32.
    """

    codes: Tensor
    scale: Tensor
    group: Tensor
    mean: Tensor


def quantize(weight: Tensor) -> Packed:
    """Rounds weights of any shape, read in the order of memory, to four bits.

    Args:
        weight: Finite floats.

    Raises:
        ValueError: One is not finite.
    """
    flat = weight.detach().reshape(-1).float()
    if not bool(torch.isfinite(flat).all()):
        raise ValueError("a weight is not finite; only finite ones can be kept in four bits")
    blocks = _padded(flat, BLOCK)
    sizes = blocks.abs().amax(1)
    mean = sizes.mean() if len(sizes) else sizes.new_zeros(())
    groups = _padded(sizes - mean, GROUP)
    group = groups.abs().amax(1)
    scale = (groups / group.clamp(min=1e-38)[:, None] * 127).round().to(torch.int8)
    scale = scale.reshape(-1)[: len(sizes)]
    levels = torch.tensor(LEVELS, device=flat.device)
    kept = scales(Packed(flat, scale, group, mean)).clamp(min=1e-38)
    codes = torch.bucketize((blocks / kept[:, None]), (levels[1:] + levels[:-1]) / 2)
    pairs = codes.to(torch.uint8).view(-1, 2)
    return Packed(pairs[:, 0] * 16 + pairs[:, 1], scale, group, mean)


def scales(packed: Packed) -> Tensor:
    """The (b,) scale of each block.

    Args:
        packed: What `quantize` gives.
    """
    spread = packed.group.repeat_interleave(GROUP)[: len(packed.scale)]
    return packed.mean + packed.scale.float() * (spread / 127)


def dequantize_reference(packed: Packed, count: int) -> Tensor:
    """The first `count` weights in float32.

    Args:
        packed: What `quantize` gives.
        count: How many there are.
    """
    codes = packed.codes.to(torch.int32)
    levels = torch.tensor(LEVELS, device=codes.device)
    pairs = levels[torch.stack([codes >> 4, codes & 15], dim=1)]
    return (pairs.view(-1, BLOCK) * scales(packed)[:, None]).view(-1)[:count]


def _padded(flat: Tensor, size: int) -> Tensor:
    rest = -len(flat) % size
    return torch.nn.functional.pad(flat, (0, rest)).view(-1, size)
