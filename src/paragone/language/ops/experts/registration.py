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

from paragone.kernels.choice import choose
from paragone.language.ops.experts._parts import collect, gated, gated_backward, sort_rows

__all__ = ["routed_experts"]


def routed_experts(
    x: Tensor,
    chosen: Tensor,
    weights: Tensor,
    gate_up: Tensor,
    down: Tensor,
    *,
    backend: str = "auto",
) -> Tensor:
    """As `reference.routed_experts`, with the work of the chosen experts alone.

    Args:
        x: (N, M).
        chosen: (N, K) numbers of experts; one that is E has no effect.
        weights: (N, K), of the type of x.
        gate_up: (E, 2 F, M), G above U.
        down: (E, M, F).
        backend: "auto", "numba" or "torch": what does the work between the matrix products.

    Returns:
        (N, M).

    Raises:
        ValueError: Shapes that do not fit, or a back end that cannot serve.
    """
    experts, inner, width = gate_up.shape[0], gate_up.shape[1] // 2, x.shape[-1]
    shapes = tuple(tuple(v.shape) for v in (x, chosen, weights, gate_up, down))
    if (
        x.ndim != 2
        or chosen.shape != weights.shape
        or chosen.shape[:1] != x.shape[:1]
        or shapes[3:] != ((experts, 2 * inner, width), (experts, width, inner))
    ):
        raise ValueError(
            f"routed_experts: shapes {shapes}; (N, M), (N, K), (N, K), (E, 2 F, M) and (E, M, F) "
            "are expected"
        )
    fused = choose("experts", backend, device=x.device.type, dtype=x.dtype) == "numba"
    return _forward(x.contiguous(), chosen, weights, gate_up, down, fused)[0]


@torch.library.custom_op("paragone::routed_experts", mutates_args=())
def _forward(
    x: Tensor, chosen: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor, fused: bool
) -> tuple[Tensor, Tensor]:
    order, place, ends = sort_rows(chosen, len(down), fused)
    rows = x.index_select(0, order // chosen.shape[1])
    hidden = rows.new_empty(len(rows), gate_up.shape[1])
    for expert, some in _groups(ends):
        torch.mm(rows[some], gate_up[expert].t(), out=hidden[some])
    share = weights.flatten().index_select(0, order)
    inner = gated(hidden, share, ends[-1], fused)
    for expert, some in _groups(ends):
        torch.mm(inner[some], down[expert].t(), out=rows[some])
    rows[ends[-1] :] = 0
    return collect(rows, place, chosen, fused), hidden


@_forward.register_fake
def _forward_fake(x, chosen, weights, gate_up, down, fused):
    return torch.empty_like(x), x.new_empty(chosen.numel(), gate_up.shape[1])


@torch.library.custom_op("paragone::routed_experts_backward", mutates_args=())
def _backward(
    x: Tensor, chosen: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor, hidden: Tensor,
    dy: Tensor, fused: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    order, place, ends = sort_rows(chosen, len(down), fused)
    token = order // chosen.shape[1]
    rows, drows = x.index_select(0, token), dy.index_select(0, token)
    dinner = hidden.new_empty(len(rows), down.shape[2])
    for expert, some in _groups(ends):
        torch.mm(drows[some], down[expert], out=dinner[some])
    share = weights.flatten().index_select(0, order)
    dhidden, dshare, inner = gated_backward(hidden, share, dinner, ends[-1], fused)
    d_gate_up, d_down = torch.empty_like(gate_up), torch.empty_like(down)
    for expert, some in _groups(ends, empty=True):
        if some.start == some.stop:
            d_down[expert], d_gate_up[expert] = 0, 0
            continue
        torch.mm(drows[some].t(), inner[some], out=d_down[expert])
        torch.mm(dhidden[some].t(), rows[some], out=d_gate_up[expert])
        torch.mm(dhidden[some], gate_up[expert], out=rows[some])
    rows[ends[-1] :] = 0
    dweights = dshare.index_select(0, place).view_as(weights)
    return collect(rows, place, chosen, fused), dweights, d_gate_up, d_down


@_backward.register_fake
def _backward_fake(x, chosen, weights, gate_up, down, hidden, dy, fused):
    return tuple(torch.empty_like(v) for v in (x, weights, gate_up, down))


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    *tensors, ctx.fused = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, output[1])


def _gradients(ctx: Any, dy: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
    if dy is None:
        return (None,) * 6
    found = _backward(*ctx.saved_tensors, dy.contiguous(), ctx.fused)
    return found[0], None, *found[1:], None


_forward.register_autograd(_gradients, setup_context=_keep)


def _groups(ends: list[int], empty: bool = False) -> list[tuple[int, slice]]:
    """Experts that have rows (or all), and their rows."""
    starts = [0, *ends[:-1]]
    return [
        (expert, slice(a, b))
        for expert, (a, b) in enumerate(zip(starts, ends, strict=True))
        if a < b or empty
    ]
