r"""Experts by groups: tokens are sorted by expert, so that each expert is three matrix products.

With the rows that chose expert e behind one another, $X_e$, and the weight $w$ folded into the
hidden units, no row of another expert is touched and nothing of the size E F M is made but the
gradient itself:

$$ A_e = w \odot \mathrm{silu}(X_e G_e^\top) \odot X_e U_e^\top, \qquad Y_e = A_e D_e^\top,
   \qquad y_n = \sum_k Y_{nk} , $$

$$ \bar A_e = \bar Y_e D_e, \quad \bar D_e = \bar Y_e^\top A_e, \quad
   \bar w = \tfrac1w \textstyle\sum_f \bar A \odot A, \quad \bar G_e = \bar{g}^\top X_e . $$

An expert without a token has a gradient of zero, not none. Sums over a token's K experts are
taken in the order of k, so that results do not depend on the order of rows.

Cost: 6 N K F M multiplications forward, twice that backward; N K (M + 2 F) numbers kept.

References:
    Gale et al. (2022), MegaBlocks, arXiv:2211.15841, section 3 (rows sorted by expert).

Shapes: N tokens, K experts of each, R = N K rows, E experts, F hidden units, M model width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["routed_experts"]


def routed_experts(
    x: Tensor, chosen: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor
) -> Tensor:
    """As `reference.routed_experts`, with the work of the chosen experts alone.

    Args:
        x: (N, M).
        chosen: (N, K) numbers of experts; one that is E has no effect.
        weights: (N, K), of the type of x.
        gate_up: (E, 2 F, M), G above U.
        down: (E, M, F).

    Returns:
        (N, M).
    """
    return _forward(x, chosen, weights, gate_up, down)[0]


@torch.library.custom_op("paragone::routed_experts", mutates_args=())
def _forward(
    x: Tensor, chosen: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor
) -> tuple[Tensor, Tensor]:
    order, place, ends = _sorted(chosen, len(down))
    rows = x[order // chosen.shape[1]]
    hidden = rows.new_empty(len(rows), gate_up.shape[1])
    out = torch.empty_like(rows)
    for expert, some in _groups(ends):
        torch.mm(rows[some], gate_up[expert].t(), out=hidden[some])
    gate, up = hidden.chunk(2, -1)
    inner = functional.silu(gate).mul_(up).mul_(weights.flatten()[order, None])
    for expert, some in _groups(ends):
        torch.mm(inner[some], down[expert].t(), out=out[some])
    out[ends[-1] :] = 0
    return _gathered(out, place, chosen), hidden


@_forward.register_fake
def _forward_fake(x, chosen, weights, gate_up, down):
    return torch.empty_like(x), x.new_empty(chosen.numel(), gate_up.shape[1])


@torch.library.custom_op("paragone::routed_experts_backward", mutates_args=())
def _backward(
    x: Tensor, chosen: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor, hidden: Tensor,
    dy: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    order, place, ends = _sorted(chosen, len(down))
    token = order // chosen.shape[1]
    rows, drows = x[token], dy[token]
    share = weights.flatten()[order, None]
    dinner = hidden.new_empty(len(rows), down.shape[2])
    for expert, some in _groups(ends):
        torch.mm(drows[some], down[expert], out=dinner[some])
    gate, up = hidden.chunk(2, -1)
    turned = torch.sigmoid(gate)
    silu = turned * gate
    inner = silu * up
    dshare = torch.einsum("rf,rf->r", dinner, inner)
    dinner *= share
    dhidden = torch.empty_like(hidden)
    dgate, dup = dhidden.chunk(2, -1)
    torch.mul(dinner, silu, out=dup)
    silu.neg_().add_(gate).add_(1).mul_(turned)
    torch.mul(dinner, silu, out=dgate)
    dgate.mul_(up)
    inner *= share
    d_gate_up, d_down = torch.zeros_like(gate_up), torch.zeros_like(down)
    for expert, some in _groups(ends):
        torch.mm(drows[some].t(), inner[some], out=d_down[expert])
        torch.mm(dhidden[some].t(), rows[some], out=d_gate_up[expert])
        torch.mm(dhidden[some], gate_up[expert], out=drows[some])
    drows[ends[-1] :] = 0
    dshare[ends[-1] :] = 0
    return (
        _gathered(drows, place, chosen), dshare[place].view_as(weights), d_gate_up, d_down,
    )  # fmt: skip


@_backward.register_fake
def _backward_fake(x, chosen, weights, gate_up, down, hidden, dy):
    return tuple(torch.empty_like(v) for v in (x, weights, gate_up, down))


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*inputs, output[1])


def _gradients(ctx: Any, dy: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    dx, dweights, d_gate_up, d_down = _backward(*ctx.saved_tensors, dy.contiguous())
    return dx, None, dweights, d_gate_up, d_down


_forward.register_autograd(_gradients, setup_context=_keep)


def _sorted(chosen: Tensor, experts: int) -> tuple[Tensor, Tensor, list[int]]:
    """Rows by expert: which row stands where, where a row stands, and where each expert ends."""
    flat = chosen.flatten()
    order = torch.argsort(flat, stable=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    counts = torch.bincount(flat, minlength=experts)[:experts]
    return order, place, counts.cumsum(0).tolist()


def _groups(ends: list[int]) -> list[tuple[int, slice]]:
    """Experts that have rows, and their rows."""
    starts = [0, *ends[:-1]]
    return [(e, slice(a, b)) for e, (a, b) in enumerate(zip(starts, ends, strict=True)) if a < b]


def _gathered(rows: Tensor, place: Tensor, chosen: Tensor) -> Tensor:
    """Sum over each token's K rows, in the order of k."""
    return rows[place].unflatten(0, chosen.shape).sum(1)
