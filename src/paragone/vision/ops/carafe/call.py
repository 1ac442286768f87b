"""Reassembly of CARAFE: checks of what is given, and the choice of who computes it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from paragone.kernels.choice import choose, register
from paragone.kernels.launch import serves
from paragone.vision.ops.carafe import reference

__all__ = ["carafe", "pack", "reassemble", "unpack"]


def _numba(device: str, dtype: torch.dtype, named: str) -> str | None:
    if device != "cpu":
        return f"runs on the CPU, and the tensors are on {device}"
    return None if dtype == torch.float32 else f"works in float32, and the tensors are {dtype}"


register(
    "carafe",
    {
        "triton": lambda device, dtype, named: serves(device, dtype, named),
        "numba": _numba,
        "torch": lambda device, dtype, named: None,
    },
)


def carafe(
    x: Tensor, kernels: Tensor, scale: int = 2, *, groups: int = 1, backend: str = "auto"
) -> Tensor:
    """Mixes the neighbourhood of every pixel by a kernel of its own.

    Args:
        x: Maps (B, C, H, W), in either memory format; channels-last are not copied.
        kernels: (B, G k k, s H, s W), k odd; taps row by row.
        scale: s.
        groups: G, divides C.
        backend: "auto", or a name from `paragone.kernels.choice.backends("carafe")`.

    Returns:
        (B, C, s H, s W); by compiled code channels-last in memory, whatever x is.

    Raises:
        ValueError: Shapes that do not fit, or a back end that cannot serve.

    Example:
        >>> import torch
        >>> carafe(torch.ones(1, 1, 2, 2), torch.ones(1, 9, 4, 4), 2)[0, 0, 0]
        tensor([4., 4., 4., 4.])
    """
    _check(x, kernels, scale, groups)
    taken = choose("carafe", backend, device=x.device.type, dtype=x.dtype, named=backend)
    if taken == "torch":
        return reference.carafe(x, kernels, scale, groups)
    return _compiled(taken, x, pack(kernels, scale, groups))


def reassemble(x: Tensor, packed: Tensor, *, backend: str = "auto") -> Tensor:
    """The same with kernels in the order in which compiled code reads them.

    Args:
        x: Maps (B, C, H, W).
        packed: (B, H, W, G, s s, k k), from `pack`.
        backend: As in `carafe`.
    """
    taken = choose("carafe", backend, device=x.device.type, dtype=x.dtype, named=backend)
    if taken == "torch":
        scale = math.isqrt(packed.shape[4])
        return reference.carafe(x, unpack(packed), scale, packed.shape[3])
    return _compiled(taken, x, packed)


def _compiled(taken: str, x: Tensor, packed: Tensor) -> Tensor:
    if taken == "triton":
        from paragone.vision.ops.carafe.carafe_triton import carafe as by_triton

        return by_triton(x, packed)
    from paragone.vision.ops.carafe.registration import carafe as by_numba

    return by_numba(x, packed)


def pack(kernels: Tensor, scale: int, groups: int) -> Tensor:
    """Returns kernels (B, G k k, s H, s W) as (B, H, W, G, s s, k k)."""
    batch, taps, height, width = kernels.shape
    parts = (batch, height // scale, scale, width // scale, scale, groups, taps // groups)
    # Taps stay last all the way: their gradient then comes back in runs of k k numbers.
    return kernels.permute(0, 2, 3, 1).reshape(parts).permute(0, 1, 3, 5, 2, 4, 6).flatten(4, 5)


def unpack(packed: Tensor) -> Tensor:
    """Undoes `pack`."""
    batch, height, width, groups, block, taps = packed.shape
    scale = math.isqrt(block)
    parts = packed.view(batch, height, width, groups, scale, scale, taps)
    parts = parts.permute(0, 3, 6, 1, 4, 2, 5)
    return parts.reshape(batch, groups * taps, height * scale, width * scale)


def _check(x: Tensor, kernels: Tensor, scale: int, groups: int) -> None:
    if x.dim() != 4 or kernels.dim() != 4:
        raise ValueError(f"carafe: maps {tuple(x.shape)} and kernels {tuple(kernels.shape)} need "
                         "four axes each: (B, C, H, W) and (B, G k k, s H, s W)")  # fmt: skip
    if scale != int(scale) or scale < 1:
        raise ValueError(f"carafe: scale is {scale}; a whole number from 1 on is needed")
    if groups < 1 or x.shape[1] % groups or kernels.shape[1] % groups:
        raise ValueError(f"carafe: groups={groups} must divide {x.shape[1]} channels of the maps "
                         f"and {kernels.shape[1]} of the kernels")  # fmt: skip
    taps = kernels.shape[1] // groups
    side = math.isqrt(taps)
    if side * side != taps or side % 2 != 1:
        raise ValueError(f"carafe: {taps} taps a kernel are no odd square: 1, 9, 25, 49 are")
    wanted = (x.shape[0], kernels.shape[1], x.shape[2] * scale, x.shape[3] * scale)
    if tuple(kernels.shape) != wanted:
        raise ValueError(f"carafe: kernels have shape {tuple(kernels.shape)}; {wanted} is needed "
                         f"for maps {tuple(x.shape)} and scale={scale}")  # fmt: skip
    if x.dtype != kernels.dtype or x.device != kernels.device:
        raise ValueError(f"carafe: maps are {x.dtype} on {x.device}, kernels {kernels.dtype} on "
                         f"{kernels.device}; both must agree")  # fmt: skip
