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

_MANY = 256
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
    if _taken(backend, x, weight, bias, *others):
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


def _taken(backend: str, x: Tensor, *others: Tensor) -> bool:
    from paragone.multimodal.ops.dense import _cpu as kernels

    rows = x.shape[0] if x.ndim == 2 else 0
    plain = usable(x, *others) and rows >= kernels.ROWS and 0 not in x.shape
    plain = plain and not torch.is_autocast_enabled("cpu")
    if backend == "auto":
        return plain and rows >= _MANY
    facts: dict[str, Any] = {"device": x.device.type, "dtype": x.dtype}
    return choose("dense", backend, **facts, plain=plain) == "numba"


def _threads(work: int) -> int:
    return torch.get_num_threads() if work >= _WORTH else 1


def _flat(x: Tensor) -> np.ndarray:
    return floats(x.detach().view(-1))


def _times(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    end: int = 0,
    other: Tensor | None = None,
    second: Tensor | None = None,
    turned: bool = True,
) -> Tensor:
    """Returns x W^T, or x W where not `turned`, with an end of the kernel; all are contiguous."""
    from paragone.multimodal.ops.dense import _cpu as kernels

    (rows, depth), columns = x.shape, weight.shape[0 if turned else 1]
    panels, team = _panels(weight, turned), _threads(rows * columns)
    out = x.new_empty(rows, columns)
    share(
        kernels.product, -(-rows // kernels.BLOCK), _flat(x), panels,
        np.zeros(columns, np.float32) if bias is None else _flat(bias),
        _NONE if other is None else _flat(other), _NONE if second is None else _flat(second),
        _flat(out), rows, depth, columns, end, threads=team,
    )  # fmt: skip
    return out


def _panels(weight: Tensor, turned: bool) -> np.ndarray:
    """What the kernels read: W^T, or W where not `turned`, in panels."""
    from paragone.multimodal.ops.dense import _cpu as kernels

    rows, columns = weight.shape
    given = (rows, columns, columns, 1) if turned else (columns, rows, 1, columns)
    count = -(-given[0] // kernels.COLUMNS)
    panels = np.empty(count * kernels.COLUMNS * given[1], np.float32)
    share(kernels.pack, count, _flat(weight), *given, panels, threads=_threads(weight.numel()))
    return panels


def _feed(x: Tensor, *given: Tensor) -> Tensor:
    """The whole feed-forward, of which no hidden unit is kept."""
    from paragone.multimodal.ops.dense import _cpu as kernels

    weight0, bias0, weight1, bias1, shortcut = given
    (rows, width), out = x.shape, torch.empty_like(x)
    share(
        kernels.feed, -(-rows // kernels.FEED), _flat(x), _panels(weight0, True), _flat(bias0),
        _panels(weight1, True), _flat(bias1), _flat(shortcut), _flat(out), rows, width,
        len(weight0), threads=_threads(x.numel()),
    )  # fmt: skip
    return out


def _slopes(ctx: Any, x: Tensor, weight: Tensor, dy: Tensor, at: int) -> list[Tensor | None]:
    """Gradients of x, of the weight and of the bias, those that are wanted from input `at` on."""
    wanted = ctx.needs_input_grad
    return [
        _times(dy, weight, turned=False) if wanted[0] else None,
        dy.t() @ x if wanted[at] else None,
        dy.sum(0) if wanted[at + 1] else None,
    ]


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, shortcut: Tensor | None
    ) -> Tensor:
        from paragone.multimodal.ops.dense import _cpu as kernels

        x, weight, bias = x.contiguous(), weight.contiguous(), bias.contiguous()
        ctx.save_for_backward(x, weight)
        if shortcut is None:
            return _times(x, weight, bias)
        return _times(x, weight, bias, kernels.ADD, shortcut.contiguous())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        dx, dweight, dbias = _slopes(ctx, x, weight, dy.contiguous(), 1)
        return dx, dweight, dbias, dy if ctx.needs_input_grad[3] else None


class _Feed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        from paragone.multimodal.ops.dense import _cpu as kernels

        x, weight0, bias0, weight1, bias1, shortcut = (one.contiguous() for one in given[:6])
        if not given[6]:
            return _feed(x, weight0, bias0, weight1, bias1, shortcut)
        hidden = x.new_empty(len(x), len(weight0))
        inner = _times(x, weight0, bias0, kernels.KEEP, hidden)
        ctx.save_for_backward(x, weight0, weight1, hidden)
        return _times(inner, weight1, bias1, kernels.ADD, shortcut)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        from paragone.multimodal.ops.dense import _cpu as kernels

        x, weight0, weight1, hidden = ctx.saved_tensors
        dy, wanted = dy.contiguous(), ctx.needs_input_grad
        inner = torch.empty_like(hidden)
        dhidden = _times(dy, weight1, None, kernels.SLOPE, hidden, inner, turned=False)
        dweight1 = dy.t() @ inner if wanted[3] else None
        dbias1 = dy.sum(0) if wanted[4] else None
        own = _slopes(ctx, x, weight0, dhidden, 1)
        return *own, dweight1, dbias1, dy if wanted[5] else None, None


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
        return *_slopes(ctx, x, weight, dqkv, 1), None, None, None


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
