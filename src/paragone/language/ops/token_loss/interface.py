r"""The two operations with their gradients, chunk by chunk; rows without a label are left out.

`loss_sum` makes the gradients while it has the logits, and its backward pass only multiplies
them; `log_probs` keeps the logarithms of the sums and makes the logits again.

Shapes: N tokens, R of them with a label, M model width, V vocabulary, C rows of a chunk.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from paragone.kernels import choice

__all__ = ["log_probs", "loss_sum"]

_ELEMENTS = 1 << 25
"""Logits of a chunk on a GPU, at most."""
_ELEMENTS_CPU = 1 << 22


def loss_sum(hidden: Tensor, weight: Tensor, labels: Tensor, backend: str = "auto") -> Tensor:
    """Sum of the cross-entropies, a scalar; arguments as `token_loss` has checked them."""
    _chosen(hidden, backend)
    return _LossSum.apply(*_alike(hidden, weight), labels)  # pyright: ignore


def log_probs(hidden: Tensor, weight: Tensor, labels: Tensor, backend: str = "auto") -> Tensor:
    """(N,) log-probabilities; arguments as `token_log_probs` has checked them."""
    _chosen(hidden, backend)
    return _LogProbs.apply(*_alike(hidden, weight), labels)  # pyright: ignore


def _chosen(hidden: Tensor, backend: str) -> str:
    return choice.choose("token_loss", backend, device=hidden.device.type, dtype=hidden.dtype)


def _alike(hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the type of the product: that of autocast where it is on."""
    kind = torch.promote_types(hidden.dtype, weight.dtype)
    if torch.is_autocast_enabled(hidden.device.type):
        kind = torch.get_autocast_dtype(hidden.device.type)
    return hidden.to(kind), weight.to(kind)


def _chunks(rows: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    most = _ELEMENTS_CPU if weight.device.type == "cpu" else _ELEMENTS
    return rows.split(max(16, most // weight.shape[0]))


def _logits(h: Tensor, weight: Tensor) -> Tensor:
    return (h @ weight.T).to(torch.promote_types(h.dtype, torch.float32))


class _LossSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        rows = (labels >= 0).nonzero()[:, 0]
        total = torch.zeros((), dtype=wide, device=hidden.device)
        wants_h, wants_w = ctx.needs_input_grad[:2]
        grad_h = torch.zeros_like(hidden) if wants_h else None
        grad_w = torch.zeros_like(weight, dtype=wide) if wants_w else None
        with torch.autocast(hidden.device.type, enabled=False):
            for part in _chunks(rows, weight):
                h, y = hidden[part], labels[part, None]
                z = _logits(h, weight)
                lse = z.logsumexp(1, keepdim=True)
                total += (lse - z.gather(1, y)).sum()
                if not (wants_h or wants_w):
                    continue
                z.sub_(lse).exp_()
                z.scatter_add_(1, y, z.new_full((), -1.0).expand_as(y))
                narrow = z.to(hidden.dtype)
                if grad_h is not None:
                    grad_h[part] = narrow @ weight
                if grad_w is not None:
                    _add_product(grad_w, narrow, h)
        ctx.save_for_backward(grad_h, None if grad_w is None else grad_w.to(weight.dtype))
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        return *(None if g is None else g * grad.to(g.dtype) for g in ctx.saved_tensors), None


def _add_product(total: Tensor, z: Tensor, h: Tensor) -> None:
    if total.dtype == z.dtype:
        total.addmm_(z.T, h)
    else:
        total += z.T @ h


class _LogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        rows = (labels >= 0).nonzero()[:, 0]
        found = torch.zeros(len(labels), dtype=wide, device=hidden.device)
        sums = torch.zeros_like(found)
        with torch.autocast(hidden.device.type, enabled=False):
            for part in _chunks(rows, weight):
                z = _logits(hidden[part], weight)
                sums[part] = lse = z.logsumexp(1)
                found[part] = z.gather(1, labels[part, None])[:, 0] - lse
        ctx.save_for_backward(hidden, weight, labels, rows, sums)
        return found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        hidden, weight, labels, rows, sums = ctx.saved_tensors
        wants_h, wants_w = ctx.needs_input_grad[:2]
        grad_h = torch.zeros_like(hidden) if wants_h else None
        grad_w = torch.zeros_like(weight, dtype=grad.dtype) if wants_w else None
        with torch.autocast(hidden.device.type, enabled=False):
            for part in _chunks(rows, weight):
                h, g = hidden[part], grad[part, None]
                z = _logits(h, weight).sub_(sums[part, None]).exp_().mul_(-g)
                narrow = z.scatter_add_(1, labels[part, None], g).to(hidden.dtype)
                if grad_h is not None:
                    grad_h[part] = narrow @ weight
                if grad_w is not None:
                    _add_product(grad_w, narrow, h)
        return grad_h, None if grad_w is None else grad_w.to(weight.dtype), None


choice.register("token_loss", {"torch": lambda device, dtype: None})
