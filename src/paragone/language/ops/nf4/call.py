"""The way from four bits to floats that serves here.

References:
    Dettmers et al. (2023), "QLoRA", arXiv:2305.14314, eq. 6.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

from paragone.kernels.choice import choose, register
from paragone.kernels.teams import share
from paragone.language.ops.nf4.reference import BLOCK, LEVELS, Packed, dequantize_reference

__all__ = ["dequantize"]


def _cpu_only(device: str) -> str | None:
    return None if device == "cpu" else f"serves the CPU, the weights are on {device}"


register("nf4", {"numba": _cpu_only, "torch": lambda device: None})


def dequantize(packed: Packed, count: int, backend: str = "auto") -> Tensor:
    """The first `count` weights in float32.

    Args:
        packed: What `reference.quantize` gives.
        count: How many there are.
        backend: "auto", or a name from `paragone.kernels.choice.backends("nf4")`.

    Raises:
        ValueError: A back end that cannot serve.
    """
    device = packed.codes.device.type
    if torch.compiler.is_compiling() or device == "meta":
        return dequantize_reference(packed, count)
    if choose("nf4", backend, device=device) == "torch":
        return dequantize_reference(packed, count)
    from paragone.language.ops.nf4._cpu_kernels import dequantize as kernel

    out = torch.empty(len(packed.scale) * BLOCK)
    share(
        kernel, len(packed.group), packed.codes.numpy(), packed.scale.numpy(),
        packed.group.numpy(), np.float32(packed.mean.item()), *_pairs(), out.numpy(),
        threads=torch.get_num_threads(),
    )  # fmt: skip
    return out[:count]


@functools.cache
def _pairs() -> tuple[np.ndarray, np.ndarray]:
    levels, byte = np.array(LEVELS, np.float32), np.arange(256)
    return levels[byte >> 4], levels[byte & 15]
