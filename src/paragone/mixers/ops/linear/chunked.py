r"""The same by chunks: matrix products inside a chunk, one state from chunk to chunk.

With $b_t$ the sum of the gates from the chunk's first token to token t, both included, and
$P(x)_{ts} = \sum_d x_{td} k_{sd} e^{b_{td} - b_{sd}}$ for $s \le t$,

$$ O = (Q \odot e^{b})\, S_0 + P(Q)\, U, \qquad
   S_C = e^{b_C} \odot S_0 + (K \odot e^{b_C - b})^\top U , $$

where $U = V$, or by the delta rule the solution of a triangular system,

$$ \bigl(I + \mathrm{diag}(\beta)\, P^{<}(K)\bigr)\, U =
   \mathrm{diag}(\beta) \bigl(V - (K \odot e^{b})\, S_0\bigr) . $$

No exponent is positive as long as the gates are not: a scalar gate is subtracted before the
exponential, and a gate by channel is taken relative to the first token of a block of 16, with
the block's own products formed one by one. One chunk over everything is the parallel form.

References:
    Yang et al. (2024), arXiv:2312.06635, section 4 (chunks and secondary chunks);
    arXiv:2406.06484, section 3 (the delta rule as a triangular system).

Shapes: B rows, H heads, T time, C chunk, D key width, E value width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from paragone.mixers.ops.linear.reference import LinearState, divided, widened_gate

__all__ = ["at_once", "chunked"]

_BLOCK = 16


def _products(x: Tensor, k: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """P(x) below and on the diagonal: x, k (B, H, C, D), b (B, H, C, 1 or D) of float64."""
    size = x.shape[2]
    if b.shape[-1] == 1:
        below = torch.ones(size, size, dtype=torch.bool, device=x.device).tril()
        gaps = (b - b.transpose(-1, -2)).masked_fill(~below, 0)
        return (x @ k.transpose(-1, -2) * gaps.exp().to(dtype)).masked_fill(~below, 0)
    rows = []
    for i in range(0, size, _BLOCK):
        x_i, k_i, b_i = (y[:, :, i : i + _BLOCK] for y in (x, k, b))
        here = x_i.shape[2]
        below = torch.ones(here, here, dtype=torch.bool, device=x.device).tril()[..., None]
        gaps = (b_i[:, :, :, None] - b_i[:, :, None]).masked_fill(~below, 0).exp().to(dtype)
        own = (x_i[:, :, :, None] * k_i[:, :, None] * gaps * below).sum(-1)
        first = b_i[:, :, :1]
        earlier = k[:, :, :i] * (first - b[:, :, :i]).exp().to(dtype)
        before = (x_i * (b_i - first).exp().to(dtype)) @ earlier.transpose(-1, -2)
        rows.append(torch.nn.functional.pad(torch.cat([before, own], -1), (0, size - i - here)))
    return torch.cat(rows, 2)


def chunked(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor | None, beta: Tensor | None,
    state: LinearState, scale: float, chunk: int,
) -> tuple[Tensor, LinearState]:  # fmt: skip
    """Does what `reference.recurrent` does, `chunk` tokens at a time."""
    memory, norm = state
    outputs = []
    for at in range(0, q.shape[2], chunk):
        q_c, k_c, v_c = (x[:, :, at : at + chunk] for x in (q, k, v))
        b = widened_gate(None if gate is None else gate[:, :, at : at + chunk], q_c)
        # Differences of long sums are exact to the last bit of float32 this way.
        b = b.to(torch.float64).cumsum(2)
        since, left = b.exp().to(q.dtype), (b[:, :, -1:] - b).exp().to(q.dtype)
        u = v_c
        if beta is not None:
            beta_c = beta[:, :, at : at + chunk, None]
            system = (beta_c * _products(k_c, k_c, b, q.dtype)).tril(-1)
            u = torch.linalg.solve_triangular(
                system, beta_c * (v_c - (k_c * since) @ memory), upper=False, unitriangular=True
            )
        weights = _products(q_c, k_c, b, q.dtype)
        o = weights @ u + (q_c * since) @ memory
        memory = since[:, :, -1, :, None] * memory + (k_c * left).transpose(-1, -2) @ u
        if norm.shape[-1]:
            total = weights.sum(-1) + (q_c * since * norm[:, :, None]).sum(-1)
            o = divided(o, total)
            norm = since[:, :, -1] * norm + (k_c * left).sum(2)
        else:
            o = scale * o
        outputs.append(o)
    o = torch.cat(outputs, 2) if outputs else v.new_zeros(v.shape)
    return o, LinearState(memory, norm)


def at_once(q: Tensor, k: Tensor, v: Tensor, scale: float, normalize: bool) -> Tensor:
    """Every query over every key, not causal: two products through the D x E memory."""
    o = q @ (k.transpose(-1, -2) @ v)
    if normalize:
        return divided(o, (q @ k.sum(2)[..., None])[..., 0])
    return scale * o
