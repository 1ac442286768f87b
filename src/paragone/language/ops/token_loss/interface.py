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
    h, w = _alike(hidden, weight)
    name = choice.choose("token_loss", backend, device=h.device.type, dtype=h.dtype)
    return _LossSum.apply(h, w, labels, name == "numba")  # pyright: ignore


def log_probs(hidden: Tensor, weight: Tensor, labels: Tensor, backend: str = "auto") -> Tensor:
    """(N,) log-probabilities; arguments as `token_log_probs` has checked them."""
    h, w = _alike(hidden, weight)
    name = choice.choose("token_loss", backend, device=h.device.type, dtype=h.dtype)
    return _LogProbs.apply(h, w, labels, name == "numba")  # pyright: ignore


def _alike(hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the type of the product: that of autocast where it is on."""
    kind = torch.promote_types(hidden.dtype, weight.dtype)
    if torch.is_autocast_enabled(hidden.device.type):
        kind = torch.get_autocast_dtype(hidden.device.type)
    return hidden.to(kind), weight.to(kind)


class _Plain:
    """A head in torch's operations; the face of `cpu.Head`."""

    def __init__(self, weight: Tensor, wants_hidden: bool, wants_weight: bool) -> None:
        self.weight, self.wants_hidden = weight, wants_hidden
        self.wide = torch.promote_types(weight.dtype, torch.float32)
        self.grown = torch.zeros_like(weight, dtype=self.wide) if wants_weight else None

    def chunk(self, rows: int) -> int:
        most = _ELEMENTS_CPU if self.weight.device.type == "cpu" else _ELEMENTS
        return max(16, most // max(self.weight.shape[0], 1))

    def scores(self, h: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        self.h, self.z = h, (h @ self.weight.T).to(self.wide)
        self.lse = self.z.logsumexp(1)
        return self.z.gather(1, labels[:, None])[:, 0], self.lse

    def gradients(self, scale: Tensor) -> Tensor | None:
        p = self.z.sub_(self.lse[:, None]).exp_().mul_(scale[:, None]).to(self.h.dtype)
        if self.grown is not None and self.grown.dtype == p.dtype:
            self.grown.addmm_(p.T, self.h)
        elif self.grown is not None:
            self.grown += p.T @ self.h
        return p @ self.weight if self.wants_hidden else None

    def weight_gradient(self) -> Tensor:
        assert self.grown is not None
        return self.grown


def _head(weight: Tensor, wants_hidden: bool, wants_weight: bool, quick: bool) -> Any:
    if not quick:
        return _Plain(weight, wants_hidden, wants_weight)
    from paragone.language.ops.token_loss.cpu import Head

    return Head(weight.contiguous(), wants_hidden, wants_weight)


class _Sums:
    """Gradients of R rows with factors s: $s_n (p_n - e_{y_n})$ times W, and its transpose H."""

    def __init__(self, head: Any, hidden: Tensor, weight: Tensor, wants: tuple[bool, bool]):
        self.head, self.weight = head, weight
        self.wants_hidden, self.wants_weight = wants
        wide = torch.promote_types(hidden.dtype, torch.float32)
        self.hidden = torch.zeros_like(hidden) if self.wants_hidden else None
        self.label_rows: list[tuple[Tensor, Tensor]] = []
        self.wide = wide

    def add(self, part: Tensor, h: Tensor, labels: Tensor, scale: Tensor) -> None:
        """One chunk, whose logits the head has."""
        rows: Any = self.head.gradients(scale)
        if self.hidden is not None:
            own = self.weight[labels] * scale[:, None].to(self.weight.dtype)
            self.hidden[part] = (rows - own).to(self.hidden.dtype)
        if self.wants_weight:
            self.label_rows.append((labels, (-scale[:, None] * h).to(self.wide)))

    def done(self) -> tuple[Tensor | None, Tensor | None]:
        """Gradients of hidden and weight."""
        if not self.wants_weight:
            return self.hidden, None
        grown = self.head.weight_gradient()
        for labels, rows in self.label_rows:
            grown.index_add_(0, labels, rows.to(grown.dtype))
        return self.hidden, grown.to(self.weight.dtype)


class _LossSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, quick: bool) -> Tensor:
        wants = (ctx.needs_input_grad[0], ctx.needs_input_grad[1])
        rows = (labels >= 0).nonzero()[:, 0]
        total = torch.zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32),
                            device=hidden.device)  # fmt: skip
        with torch.autocast(hidden.device.type, enabled=False):
            head = _head(weight, *wants, quick)
            sums = _Sums(head, hidden, weight, wants)
            for part in rows.split(head.chunk(len(rows))) if len(rows) else ():
                h, y = hidden[part], labels[part]
                found, lse = (torch.as_tensor(x) for x in head.scores(h, y))
                total += (lse - found).sum()
                if any(wants):
                    sums.add(part, h, y, torch.ones_like(lse))
            ctx.save_for_backward(*sums.done())
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        found = (None if g is None else g * grad.to(g.dtype) for g in ctx.saved_tensors)
        return *found, None, None


class _LogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, quick: bool) -> Tensor:
        rows = (labels >= 0).nonzero()[:, 0]
        kind = torch.promote_types(hidden.dtype, torch.float32)
        result = torch.zeros(len(labels), dtype=kind, device=hidden.device)
        with torch.autocast(hidden.device.type, enabled=False):
            head = _head(weight, False, False, quick)
            for part in rows.split(head.chunk(len(rows))) if len(rows) else ():
                found, lse = (torch.as_tensor(x) for x in head.scores(hidden[part], labels[part]))
                result[part] = found - lse
        ctx.save_for_backward(hidden, weight, labels, rows)
        ctx.quick = quick
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        hidden, weight, labels, rows = ctx.saved_tensors
        wants = (ctx.needs_input_grad[0], ctx.needs_input_grad[1])
        with torch.autocast(hidden.device.type, enabled=False):
            head = _head(weight, *wants, ctx.quick)
            sums = _Sums(head, hidden, weight, wants)
            for part in rows.split(head.chunk(len(rows))) if len(rows) else ():
                h, y = hidden[part], labels[part]
                head.scores(h, y)
                sums.add(part, h, y, -grad[part])
            return *sums.done(), None, None


def _on_cpu(device: str, dtype: torch.dtype) -> str | None:
    if device != "cpu":
        return f"hidden is on {device}, not on the CPU"
    return None if dtype == torch.float32 else f"hidden is {dtype}, not float32"


choice.register("token_loss", {"numba": _on_cpu, "torch": lambda device, dtype: None})
