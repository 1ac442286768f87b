"""Norm and gate: our kernels for plain float32 tensors on the CPU, torch for all others.

Under `torch.compile` the plain forms are taken, which the compiler fuses itself.

Shapes: N rows, M length of a row, F hidden units.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from paragone.kernels.choice import choose, register
from paragone.kernels.teams import share as team_share
from paragone.language.ops.memory import floats
from paragone.language.ops.stream import reference
from paragone.mixers.ops.rotary import usable

__all__ = ["gated", "rms_norm", "team"]

_WORTH = 200_000
_ONE = np.ones(1, np.float32)
_NONE = np.zeros(1, np.float32)


def _cpu(device: str, dtype: torch.dtype, plain: bool = True) -> str | None:
    if device != "cpu":
        return f"runs on the CPU, and the tensors are on {device}"
    if dtype != torch.float32:
        return f"works in float32, and the tensors are {dtype}"
    return None if plain else "takes plain tensors outside of torch.compile and torch.func"


register("stream", {"numba": _cpu, "torch": lambda device, dtype, plain=True: None})


def rms_norm(x: Tensor, weight: Tensor, eps: float, *, backend: str = "auto") -> Tensor:
    """As `reference.rms_norm`.

    Args:
        x: (…, M).
        weight: (M,).
        eps: What is added to the mean square.
        backend: "auto", "numba" or "torch".

    Raises:
        ValueError: A back end that cannot serve.
    """
    if _taken(backend, x, weight) and x.shape[-1:] == weight.shape:
        return _Norm.apply(x, weight, eps)  # pyright: ignore[reportReturnType]
    return reference.rms_norm(x, weight, eps)


def gated(gate: Tensor, up: Tensor, *, backend: str = "auto") -> Tensor:
    """As `reference.gated`.

    Args:
        gate: (…, F).
        up: (…, F).
        backend: "auto", "numba" or "torch".

    Raises:
        ValueError: A back end that cannot serve.
    """
    if _taken(backend, gate, up) and gate.shape == up.shape and gate.ndim:
        return _Gate.apply(gate, up)  # pyright: ignore[reportReturnType]
    return reference.gated(gate, up)


def team(work: int) -> int:
    """Threads for a kernel of so many numbers."""
    return torch.get_num_threads() if work >= _WORTH else 1


def _taken(backend: str, *tensors: Tensor) -> bool:
    plain = usable(*tensors)
    if backend == "auto":
        return plain
    first = tensors[0]
    facts: dict[str, Any] = {"device": first.device.type, "dtype": first.dtype}
    return choose("stream", backend, **facts, plain=plain) == "numba"


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        from paragone.language.ops.stream import _cpu as kernels

        x, weight = x.contiguous(), weight.contiguous()
        width = x.shape[-1]
        rows = x.numel() // max(width, 1)
        y, kept = torch.empty_like(x), x.new_empty(rows)
        team_share(
            kernels.norm, -(-rows // kernels.BLOCK), _flat(x), _flat(weight), np.float32(eps),
            _flat(y), kept.numpy(), rows, width, threads=team(x.numel()),
        )  # fmt: skip
        ctx.save_for_backward(x, weight, kept)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None]:
        from paragone.language.ops.stream import _cpu as kernels

        x, weight, kept = ctx.saved_tensors
        dy, (rows, width) = dy.contiguous(), (len(kept), x.shape[-1])
        units = -(-rows // kernels.BLOCK)
        dx, parts = torch.empty_like(x), x.new_empty(units, width)
        team_share(
            kernels.norm_backward, units, _flat(x), _flat(weight), kept.numpy(), _flat(dy),
            _flat(dx), _flat(parts), rows, width, threads=team(x.numel()),
        )  # fmt: skip
        return dx, parts.sum(0), None


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        from paragone.language.ops.stream import _cpu as kernels

        gate, up = gate.contiguous(), up.contiguous()
        y, width = torch.empty_like(gate), gate.shape[-1]
        rows = gate.numel() // max(width, 1)
        team_share(
            kernels.gated, -(-rows // kernels.BLOCK), _flat(gate), _flat(up), width, _ONE, 0,
            _flat(y), rows, width, threads=team(gate.numel()),
        )  # fmt: skip
        ctx.save_for_backward(gate, up)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        from paragone.language.ops.stream import _cpu as kernels

        gate, up = ctx.saved_tensors
        dy, width = dy.contiguous(), gate.shape[-1]
        rows = gate.numel() // max(width, 1)
        dgate, dup = torch.empty_like(gate), torch.empty_like(up)
        team_share(
            kernels.gated_backward, -(-rows // kernels.BLOCK), _flat(gate), _flat(up), width, _ONE,
            0, _flat(dy), _NONE, _flat(dgate), _flat(dup), _NONE, rows, width,
            threads=team(gate.numel()),
        )  # fmt: skip
        return dgate, dup


def _flat(x: Tensor) -> np.ndarray:
    return floats(x.detach().view(-1))
