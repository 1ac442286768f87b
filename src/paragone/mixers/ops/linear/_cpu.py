"""The chunk kernels as operations of torch: packing of arguments, registration, gradients.

Shapes: B rows, H heads, T time, D key width, E value width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from paragone.kernels.teams import share
from paragone.mixers.ops.linear._cpu_backward import backward
from paragone.mixers.ops.linear._cpu_forward import forward
from paragone.mixers.ops.linear._cpu_step import step

__all__ = ["linear_attention_cpu", "run"]

_WORTH = 1 << 18
_NOTHING = np.zeros(1, np.float32)
_NO_LENGTHS = np.zeros(1, np.int64)


def _flat(x: Tensor | None) -> tuple[np.ndarray, tuple[int, int, int]]:
    """All that the strides reach as one dimension, and the strides of row, head and time."""
    if x is None or not x.numel():
        return _NOTHING, (0, 0, 0)
    if x.ndim == 4 and x.shape[3] > 1 and x.stride(3) != 1:
        x = x.contiguous()
    reach = 1 + sum((n - 1) * step for n, step in zip(x.shape, x.stride(), strict=True))
    return x.as_strided((reach,), (1,)).numpy(), x.stride()[:3]


def _dense(x: Tensor) -> np.ndarray:
    return x.contiguous().view(-1).numpy() if x.numel() else _NOTHING


def _packed(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor | None, beta: Tensor | None,
    lengths: Tensor | None, normalize: bool, feature_map: int, chunk: int,
) -> tuple[list[np.ndarray], np.ndarray]:  # fmt: skip
    """The arrays of a call, and its `Shape` as words."""
    arrays, steps = [], []
    for x in (q, k, v, gate, beta):
        array, step = _flat(x)
        arrays.append(array)
        steps += step
    arrays.append(_NO_LENGTHS if lengths is None else lengths.contiguous().numpy())
    kind = 0 if gate is None else gate.ndim - 2
    sizes = (q.shape[1], q.shape[2], q.shape[3], v.shape[3])
    options = (kind, beta is not None, normalize, feature_map, chunk, lengths is not None)
    return arrays, np.array([*sizes, *options, *steps], np.int64)


def _threads(q: Tensor, v: Tensor) -> int:
    return torch.get_num_threads() if q.numel() * v.shape[3] > _WORTH else 1


def run(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor | None, beta: Tensor | None,
    lengths: Tensor | None, memory: Tensor, norm: Tensor, normalize: bool, feature_map: int,
    chunk: int, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """`linear_attention_cpu` without torch's dispatcher, which takes longer than a token."""
    o = torch.empty(v.shape, dtype=torch.float32)
    after, z = torch.empty(memory.shape), torch.empty(norm.shape)
    arrays, words = _packed(q, k, v, gate, beta, lengths, normalize, feature_map, chunk)
    results = [x.view(-1).numpy() if x.numel() else _NOTHING for x in (o, after, z)]
    kernel = step if q.shape[2] == 1 and lengths is None else forward
    share(
        kernel, q.shape[0] * q.shape[1], *arrays, _dense(memory), _dense(norm), *results, words,
        np.float32(scale), threads=_threads(q, v),
    )  # fmt: skip
    return o, after, z


@torch.library.custom_op("paragone::linear_attention", mutates_args=())
def linear_attention_cpu(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor | None, beta: Tensor | None,
    lengths: Tensor | None, memory: Tensor, norm: Tensor, normalize: bool, feature_map: int,
    chunk: int, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Outputs (B, H, T, E) and the state behind them, all of float32.

    `feature_map` is a place in `interface.FUSED`. `norm` is (B, H, D) if normalised, else (B, H, 0).
    """
    return run(
        q, k, v, gate, beta, lengths, memory, norm, normalize, feature_map, chunk, scale
    )  # fmt: skip


@linear_attention_cpu.register_fake
def _(q, k, v, gate, beta, lengths, memory, norm, normalize, feature_map, chunk, scale):
    return q.new_empty(v.shape), torch.empty_like(memory), torch.empty_like(norm)


@torch.library.custom_op("paragone::linear_attention_backward", mutates_args=())
def _gradients(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor | None, beta: Tensor | None,
    lengths: Tensor | None, memory: Tensor, norm: Tensor, o: Tensor, do: Tensor, dmemory: Tensor,
    dnorm: Tensor, normalize: bool, feature_map: int, chunk: int, scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of q, k, v, gate, beta, memory and norm; empty for those that were not given."""
    arrays, words = _packed(q, k, v, gate, beta, lengths, normalize, feature_map, chunk)
    new = torch.empty if lengths is None else torch.zeros
    results = [
        new(x.shape if x is not None else (0,), dtype=torch.float32)
        for x in (q, k, v, gate, beta)
    ] + [torch.empty(memory.shape), torch.empty(norm.shape)]
    given = [_dense(x) for x in (memory, norm, o, do, dmemory, dnorm)]
    found = [x.view(-1).numpy() if x.numel() else _NOTHING for x in results]
    share(
        backward, q.shape[0] * q.shape[1], *arrays, *given, *found, words, np.float32(scale),
        threads=_threads(q, v),
    )  # fmt: skip
    return tuple(results)


@_gradients.register_fake
def _(
    q, k, v, gate, beta, lengths, memory, norm, o, do, dmemory, dnorm, normalize, feature_map,
    chunk, scale,
):  # fmt: skip
    return tuple(
        q.new_empty(x.shape if x is not None else (0,))
        for x in (q, k, v, gate, beta, memory, norm)
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:8], output[0])
    ctx.options = inputs[8:]


def _grad(ctx: Any, do: Tensor, dmemory: Tensor, dnorm: Tensor) -> tuple[Any, ...]:
    *inputs, o = ctx.saved_tensors
    found = _gradients(*inputs, o, do.contiguous(), dmemory, dnorm, *ctx.options)
    grads = [g if x is not None else None
             for g, x in zip(found, [*inputs[:5], *inputs[6:8]], strict=True)]  # fmt: skip
    return (*grads[:5], None, *grads[5:], None, None, None, None)


linear_attention_cpu.register_autograd(_grad, setup_context=_setup)
