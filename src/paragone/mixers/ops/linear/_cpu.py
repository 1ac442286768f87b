"""The chunk kernels as operations of torch: packing of arguments, registration, gradients.

Shapes: B rows, H heads, T time, D key width, E value width.
"""

from __future__ import annotations

from collections.abc import Sequence
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


def _words(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor | None, beta: Tensor | None,
    lengths: Tensor | None, memory: Tensor, norm: Tensor, normalize: bool, feature_map: int,
    chunk: int,
) -> tuple[list[int], list[Tensor]]:  # fmt: skip
    """A call's `Shape` and the addresses of `Given`, and the tensors that must live until then."""
    inputs = [q, k, v, gate, beta]
    steps: list[int] = []
    for i, x in enumerate(inputs):
        if x is None or x.ndim == 3:
            steps += (0, 0, 0) if x is None else x.stride()
            continue
        *outer, last = x.stride()
        if last != 1 and x.shape[3] > 1:
            x = inputs[i] = x.contiguous()
            outer = x.stride()[:3]
        steps += outer
    alive = [*inputs, lengths, memory.contiguous(), norm.contiguous()]
    kind = 0 if gate is None else gate.ndim - 2
    sizes = (q.shape[1], q.shape[2], q.shape[3], v.shape[3])
    options = (kind, beta is not None, normalize, feature_map, chunk, lengths is not None)
    return [*sizes, *options, *steps, *_addresses(alive)], alive


def _addresses(tensors: Sequence[Tensor | None]) -> list[int]:
    return [0 if x is None else x.data_ptr() for x in tensors]


def _launch(kernel: Any, words: list[int], q: Tensor, v: Tensor, scale: float) -> None:
    share(
        kernel, q.shape[0] * q.shape[1], np.array(words, np.int64), np.float32(scale),
        threads=_threads(q, v),
    )  # fmt: skip


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
    words, alive = _words(
        q, k, v, gate, beta, lengths, memory, norm, normalize, feature_map, chunk
    )  # fmt: skip
    kernel = step if q.shape[2] == 1 and lengths is None else forward
    _launch(kernel, words + _addresses((o, after, z)), q, v, scale)
    del alive
    return o, after, z


@torch.library.custom_op("paragone::linear_attention", mutates_args=())
def linear_attention_cpu(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor | None, beta: Tensor | None,
    lengths: Tensor | None, memory: Tensor, norm: Tensor, normalize: bool, feature_map: int,
    chunk: int, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Outputs (B, H, T, E) and the state behind them, all of float32.

    `feature_map` is a place in `interface.FUSED`; `norm` is (B, H, D) if normalised, else empty.
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
    words, alive = _words(
        q, k, v, gate, beta, lengths, memory, norm, normalize, feature_map, chunk
    )  # fmt: skip
    new = torch.empty if lengths is None else torch.zeros
    results = [
        new(x.shape if x is not None else (0,), dtype=torch.float32) for x in (q, k, v, gate, beta)
    ] + [torch.empty(memory.shape), torch.empty(norm.shape)]
    alive += [x.contiguous() for x in (o, do, dmemory, dnorm)]
    _launch(backward, words + _addresses((*alive[-4:], *results)), q, v, scale)
    return tuple(results)


@_gradients.register_fake
def _(
    q, k, v, gate, beta, lengths, memory, norm, o, do, dmemory, dnorm, normalize, feature_map,
    chunk, scale,
):  # fmt: skip
    return tuple(
        q.new_empty(x.shape if x is not None else (0,)) for x in (q, k, v, gate, beta, memory, norm)
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:8], output[0])
    ctx.options = inputs[8:]


def _grad(ctx: Any, do: Tensor, dmemory: Tensor, dnorm: Tensor) -> tuple[Any, ...]:
    *inputs, o = ctx.saved_tensors
    found = _gradients(*inputs, o, do, dmemory, dnorm, *ctx.options)
    grads = [g if x is not None else None
             for g, x in zip(found, [*inputs[:5], *inputs[6:8]], strict=True)]  # fmt: skip
    return (*grads[:5], None, *grads[5:], None, None, None, None)


linear_attention_cpu.register_autograd(_grad, setup_context=_setup)
