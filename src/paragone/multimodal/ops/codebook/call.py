"""Nearest code: checks, and the choice of who computes it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from paragone.kernels.choice import choose, register
from paragone.kernels.teams import share
from paragone.multimodal.ops.codebook import _torch, reference

__all__ = ["nearest_code"]

_WORTH = 1 << 20
"""Multiplications that are worth a second thread."""


def _numba(device: str, dtype: torch.dtype) -> str | None:
    if device != "cpu":
        return f"runs on the CPU, and the tensors are on {device}"
    return None if dtype != torch.float64 else "works in float32, and the tensors are float64"


register("nearest_code", {"numba": _numba, "torch": lambda device, dtype: None})


def nearest_code(z: Tensor, codes: Tensor, *, backend: str = "auto") -> Tensor:
    """Number of the nearest code, ties to the lowest.

    Distances are told apart as float64 has them, by every back end and in every batch: a vector's
    code depends on the vector and the codes alone. A code with NaN or inf is never the nearest; a
    vector with one gets code 0.

    Args:
        z: (n, D), of any type of floats; narrower ones are widened to float32.
        codes: (K, D).
        backend: "auto", or a name from `paragone.kernels.choice.backends("nearest_code")`.

    Returns:
        (n,) int64.

    Raises:
        ValueError: Shapes, types or devices that do not fit, or a back end that cannot serve.

    Example:
        >>> nearest_code(torch.tensor([[1.0], [5.0]]), torch.tensor([[0.0], [2.0], [9.0]]))
        tensor([0, 1])
    """
    if z.ndim != 2 or codes.ndim != 2 or z.shape[1] != codes.shape[1] or 0 in codes.shape:
        raise ValueError(
            f"nearest_code: vectors {tuple(z.shape)} and codes {tuple(codes.shape)} need two axes "
            "each and equally many numbers a row: (n, D) and (K, D), K and D from 1 on"
        )
    if z.device != codes.device:
        raise ValueError(f"nearest_code: vectors are on {z.device}, codes on {codes.device}; both "
                         "must be on one device")  # fmt: skip
    if not (z.is_floating_point() and codes.is_floating_point()):
        raise ValueError(f"nearest_code: vectors are {z.dtype}, codes {codes.dtype}; floats are "
                         "expected")  # fmt: skip
    kind = torch.promote_types(torch.promote_types(z.dtype, codes.dtype), torch.float32)
    z, codes = z.detach().to(kind), codes.detach().to(kind)
    taken = choose("nearest_code", backend, device=z.device.type, dtype=kind)
    if not len(z):
        return torch.empty(0, dtype=torch.int64, device=z.device)
    if taken == "numba":
        return torch.from_numpy(_by_numba(z.contiguous().numpy(), codes.contiguous().numpy()))
    if kind == torch.float64:
        return reference.nearest_code(z, codes)
    return _torch.nearest_code(z, codes)


def _by_numba(z: np.ndarray, codes: np.ndarray) -> Any:
    from paragone.multimodal.ops.codebook import _cpu

    count, width = z.shape
    panels, halves, longest = _packed(codes, _cpu.PANEL)
    out = np.empty(count, np.int64)
    work = count * codes.size
    share(
        _cpu.nearest, -(-count // _cpu.BLOCK), z.reshape(-1), codes.reshape(-1), panels, halves,
        longest, count, width, out, threads=torch.get_num_threads() if work >= _WORTH else 1,
    )  # fmt: skip
    return out


def _packed(codes: np.ndarray, panel: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Codes column by column in panels, half their squared lengths, and the greatest length."""
    many, width = codes.shape
    squares = np.square(codes, dtype=np.float64).sum(-1)
    usable = np.isfinite(squares) & (squares < np.finfo(np.float32).max)
    padded = np.zeros((-(-many // panel) * panel, width), np.float32)
    padded[:many] = codes if usable.all() else np.where(usable[:, None], codes, 0)
    halves = np.full(len(padded), np.inf, np.float32)
    halves[:many][usable] = squares[usable] / 2
    panels = np.ascontiguousarray(padded.reshape(-1, panel, width).transpose(0, 2, 1))
    longest = float(np.sqrt(squares[usable].max(initial=0.0)))
    return panels.reshape(-1), halves, longest
