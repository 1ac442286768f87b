"""Linear maps with their ends: our kernels for many float32 rows on the CPU, torch for all others.

Under `torch.compile` the plain forms are taken, which the compiler fuses itself.

Shapes: L rows, M width, F hidden units, N columns, K depth, H heads of width D.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from paragone.kernels.choice import choose, register
from paragone.kernels.teams import share
from paragone.language.ops.memory import floats
from paragone.mixers.ops.rotary import usable
from paragone.multimodal.ops.dense import reference

__all__ = ["feed", "linear", "projected"]

_MANY = 512
_DEEP = 256
_PART = 1536
_WORTH = 2**20
_NONE = np.zeros(1, np.float32)


def _cpu(device: str, dtype: torch.dtype, plain: bool = True) -> str | None:
    if device != "cpu":
        return f"runs on the CPU, and the tensors are on {device}"
    if dtype != torch.float32:
        return f"works in float32, and the tensors are {dtype}"
    return None if plain else "takes plain matrices of 8 rows or more, nothing that is traced"


register("dense", {"numba": _cpu, "torch": lambda device, dtype, plain=True: None})


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    shortcut: Tensor | None = None,
    *,
    backend: str = "auto",
) -> Tensor:
    """As `reference.linear`.

    Args:
        x: (L, K).
        weight: (N, K).
        bias: (N,).
        shortcut: (L, N), or None.
        backend: "auto", "numba" or "torch".

    Raises:
        ValueError: A back end that cannot serve.
    """
    others = () if shortcut is None else (shortcut,)
    if _taken(backend, x, weight, bias, *others, least=_DEEP):
        return _Linear.apply(x, weight, bias, shortcut)  # pyright: ignore[reportReturnType]
    return reference.linear(x, weight, bias, shortcut)


def feed(
    x: Tensor,
    weight0: Tensor,
    bias0: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    shortcut: Tensor,
    *,
    backend: str = "auto",
) -> Tensor:
    """As `reference.feed`.

    Args:
        x: (L, M).
        weight0: (F, M).
        bias0: (F,).
        weight1: (M, F).
        bias1: (M,).
        shortcut: (L, M).
        backend: "auto", "numba" or "torch".

    Raises:
        ValueError: A back end that cannot serve.
    """
    given = (x, weight0, bias0, weight1, bias1, shortcut)
    if _taken(backend, *given):
        kept = torch.is_grad_enabled() and any(one.requires_grad for one in given)
        return _Feed.apply(*given, kept)  # pyright: ignore[reportReturnType]
    return reference.feed(*given)


def projected(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    cos: Tensor,
    sin: Tensor,
    heads: int,
    *,
    backend: str = "auto",
) -> Tensor:
    """As `reference.projected`.

    Args:
        x: (L, M).
        weight: (3 M, M).
        bias: (3 M,).
        cos: (L, D / 2).
        sin: (L, D / 2).
        heads: H.
        backend: "auto", "numba" or "torch".

    Returns:
        (L, 3, H, D).

    Raises:
        ValueError: A back end that cannot serve.
    """
    if _taken(backend, x, weight, bias, cos, sin):
        return _Projected.apply(x, weight, bias, cos, sin, heads)  # pyright: ignore
    return reference.projected(x, weight, bias, cos, sin, heads)


def _taken(backend: str, x: Tensor, *others: Tensor, least: int = 0) -> bool:
    from paragone.multimodal.ops.dense import _cpu as kernels

    rows = x.shape[0] if x.ndim == 2 else 0
    plain = usable(x, *others) and rows >= kernels.ROWS and 0 not in x.shape
    plain = plain and not torch.is_autocast_enabled("cpu")
    if backend == "auto":
        return plain and rows >= _MANY and x.shape[1] >= least
    facts: dict[str, Any] = {"device": x.device.type, "dtype": x.dtype}
    return choose("dense", backend, **facts, plain=plain) == "numba"


def _threads(work: int) -> int:
    return torch.get_num_threads() if work >= _WORTH else 1


def _flat(x: Tensor) -> np.ndarray:
    return floats(x.detach().view(-1))


def _panels(weight: Tensor, turned: bool = True) -> np.ndarray:
    """What the kernels read: W^T, or W where not `turned`, in panels."""
    from paragone.multimodal.ops.dense import _cpu as kernels

    rows, columns = weight.shape
    given = (rows, columns, columns, 1) if turned else (columns, rows, 1, columns)
    count = -(-given[0] // kernels.COLUMNS)
    panels = np.empty(count * kernels.COLUMNS * given[1], np.float32)
    share(kernels.pack, count, _flat(weight), *given, panels, threads=_threads(weight.numel()))
    return panels


def _into(
    out: Tensor,
    x: Tensor,
    panels: np.ndarray,
    bias: Tensor | None = None,
    end: int = 0,
    other: Tensor | None = None,
    second: Tensor | None = None,
) -> Tensor:
    """The product of x and a weight in panels, with an end of the kernel; all are contiguous."""
    from paragone.multimodal.ops.dense import _cpu as kernels

    (rows, depth), columns = x.shape, out.shape[1]
    share(
        kernels.product, -(-rows // kernels.BLOCK), _flat(x), panels,
        np.zeros(columns, np.float32) if bias is None else _flat(bias),
        _NONE if other is None else _flat(other), _NONE if second is None else _flat(second),
        _flat(out), rows, depth, columns, end, threads=_threads(rows * columns),
    )  # fmt: skip
    return out


def _times(x: Tensor, weight: Tensor, bias: Tensor, shortcut: Tensor | None = None) -> Tensor:
    from paragone.multimodal.ops.dense import _cpu as kernels

    end = 0 if shortcut is None else kernels.ADD
    return _into(x.new_empty(len(x), len(weight)), x, _panels(weight), bias, end, shortcut)


def _slopes(
    wanted: tuple[bool, ...], x: Tensor, weight: Tensor, dy: Tensor
) -> tuple[Tensor | None, ...]:
    """Gradients of x, of the weight and of the bias, those that are wanted."""
    return (
        _into(torch.empty_like(x), dy, _panels(weight, turned=False)) if wanted[0] else None,
        dy.t() @ x if wanted[1] else None,
        dy.sum(0) if wanted[2] else None,
    )


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, shortcut: Tensor | None
    ) -> Tensor:
        x, weight, bias = x.contiguous(), weight.contiguous(), bias.contiguous()
        ctx.save_for_backward(x, weight)
        return _times(x, weight, bias, None if shortcut is None else shortcut.contiguous())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        own = _slopes(ctx.needs_input_grad[:3], x, weight, dy.contiguous())
        return *own, dy if ctx.needs_input_grad[3] else None


class _Feed(torch.autograd.Function):
    """Hidden units are kept before GELU alone, and derived for `_PART` rows at a time."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        from paragone.multimodal.ops.dense import _cpu as kernels

        x, weight0, bias0, weight1, bias1, shortcut = (one.contiguous() for one in given[:6])
        (rows, width), inner, out = x.shape, len(weight0), torch.empty_like(x)
        hidden = x.new_empty(rows, inner) if given[6] else None
        if hidden is not None:
            ctx.save_for_backward(x, weight0, weight1, hidden)
        share(
            kernels.feed, -(-rows // kernels.FEED), _flat(x), _panels(weight0), _flat(bias0),
            _panels(weight1), _flat(bias1), _flat(shortcut),
            _NONE if hidden is None else _flat(hidden),
            kernels.GELU if hidden is None else kernels.KEEP, _flat(out), rows, width, inner,
            threads=_threads(x.numel()),
        )  # fmt: skip
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        from paragone.multimodal.ops.dense import _cpu as kernels

        x, weight0, weight1, hidden = ctx.saved_tensors
        dy, wanted, (rows, inner) = dy.contiguous(), ctx.needs_input_grad, hidden.shape
        back0, back1 = (_panels(one, turned=False) for one in (weight0, weight1))
        dx = torch.empty_like(x) if wanted[0] else None
        dweight0 = torch.zeros_like(weight0) if wanted[1] else None
        dbias0 = weight0.new_zeros(inner) if wanted[2] else None
        dweight1 = torch.zeros_like(weight1) if wanted[3] else None
        most = -(-rows // -(-rows // _PART))
        memory = x.new_empty(2, most, inner)
        for start in range(0, rows, most):
            some = slice(start, min(start + most, rows))
            dhidden, units = memory[:, : some.stop - start]
            _into(dhidden, dy[some], back1, None, kernels.SLOPE, hidden[some], units)
            if dx is not None:
                _into(dx[some], dhidden, back0)
            if dweight0 is not None:
                dweight0.addmm_(dhidden.t(), x[some])
            if dbias0 is not None:
                dbias0.add_(dhidden.sum(0))
            if dweight1 is not None:
                dweight1.addmm_(dy[some].t(), units)
        dbias1 = dy.sum(0) if wanted[4] else None
        return dx, dweight0, dbias0, dweight1, dbias1, dy if wanted[5] else None, None


class _Projected(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, cos: Tensor, sin: Tensor, heads: int
    ) -> Tensor:
        x, weight, bias = x.contiguous(), weight.contiguous(), bias.contiguous()
        cos, sin = cos.contiguous(), sin.contiguous()
        ctx.save_for_backward(x, weight, cos, sin)
        qkv = _times(x, weight, bias)
        return _turned(qkv, qkv, cos, sin, 1.0, heads).view(len(x), 3, heads, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, cos, sin = ctx.saved_tensors
        dy, heads = dy.contiguous(), dy.shape[2]
        dqkv = _turned(dy, torch.empty_like(dy), cos, sin, -1.0, heads).flatten(1)
        return *_slopes(ctx.needs_input_grad[:3], x, weight, dqkv), None, None, None


def _turned(x: Tensor, y: Tensor, cos: Tensor, sin: Tensor, sign: float, heads: int) -> Tensor:
    """Turns queries and keys of x into y, which may be x itself."""
    from paragone.multimodal.ops.dense import _cpu as kernels

    rows, width = len(x), x[0].numel() // (3 * heads)
    share(
        kernels.turn, -(-rows // kernels.ROWS), _flat(x), _flat(cos), _flat(sin), np.float32(sign),
        _flat(y), rows, 2 * heads, width, 0 if y is x else heads * width,
        threads=_threads(x.numel()),
    )  # fmt: skip
    return y
