r"""Squared-ReLU attention: the weights are positive, sparse and need no normaliser of their own.

$$ o_i = \sum_j \mathrm{relu}(q_i^\top k_j)^2\, v_j $$

Back ends: "numba" (CPU, float32; tiles, causal blocks skipped, memory linear in length) and
"torch" (the definition, any device and dtype).

References:
    Hua et al. (2022), arXiv:2202.10447, section 2.2; So et al. (2021), arXiv:2109.08668
    (squared ReLU).

Shapes: B rows, T queries, S keys, D key width, E value width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from paragone.kernels import choice
from paragone.mixers.ops.gau.reference import relu2_attention as relu2_reference

__all__ = ["relu2_attention"]


def relu2_attention(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, backend: str = "auto"
) -> Tensor:
    """Returns (B, T, E): squares of the positive part of q k, times v; not divided by anything.

    Args:
        q: (B, T, D).
        k: (B, S, D).
        v: (B, S, E).
        causal: Whether query i sees keys j <= i only.
        backend: "auto" or a name from `paragone.kernels.choice.backends("relu2_attention")`.

    Raises:
        ValueError: Shapes that do not fit, or a back end that cannot serve.
    """
    shapes = tuple(q.shape), tuple(k.shape), tuple(v.shape)
    fits = q.ndim == k.ndim == v.ndim == 3 and k.shape[:2] == v.shape[:2]
    if not fits or q.shape[0] != k.shape[0] or q.shape[2] != k.shape[2]:
        raise ValueError(f"q, k, v have shapes {shapes}; (B, T, D), (B, S, D), (B, S, E) expected")
    facts = {"device": q.device.type, "dtype": q.dtype}
    if choice.choose("relu2_attention", backend, **facts) == "numba":
        return _relu2(q, k, v, causal)
    return relu2_reference(q, k, v, causal=causal)


def _numba(device: str, dtype: torch.dtype) -> str | None:
    if device != "cpu":
        return f"the tensors are on {device}, not cpu"
    return None if dtype == torch.float32 else f"the tensors are {dtype}, not torch.float32"


choice.register("relu2_attention", {"numba": _numba, "torch": lambda device, dtype: None})


@torch.library.custom_op("paragone::relu2_attention", mutates_args=())
def _relu2(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    from paragone.mixers.ops.gau._cpu import forward

    return forward(q, k, v, causal)


@torch.library.custom_op("paragone::relu2_attention_backward", mutates_args=())
def _relu2_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    from paragone.mixers.ops.gau._cpu import backward

    return backward(grad, q, k, v, causal)


@_relu2.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    return q.new_empty(*q.shape[:2], v.shape[2])


@_relu2_backward.register_fake
def _(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, causal: bool) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.causal = inputs[3]


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
    return *_relu2_backward(grad, *ctx.saved_tensors, ctx.causal), None


_relu2.register_autograd(_gradients, setup_context=_keep)
