r"""State space duality, twice: as a loop over time, and as products of chunks.

Each head keeps a matrix $S_t$ of N x P numbers that fades as a whole, by one number a token:

$$ S_t = e^{\Delta_t a} S_{t-1} + \Delta_t B_t x_t^\top, \qquad y_t = S_t^\top C_t + d\, x_t . $$

Written out within a chunk of Q tokens, with $c_i = a \sum_{j \le i} \Delta_j$ counted from the
chunk's start and S the state before it, the same is

$$ Y = \big((C B^\top) \odot e^{c_i - c_j}\, [i \ge j]\, \Delta_j\big) X + e^{c_i} C S, \qquad
   S' = e^{c_Q} S + \sum_j e^{c_Q - c_j} \Delta_j B_j x_j^\top . $$

The exponents are differences with $i \ge j$, never positive for $a < 0$: nothing overflows
however strong the decay. Cost: O(T H P (Q + N)) time, and the loop is T / Q long.

References:
    Dao and Gu (2024), "Transformers are SSMs", arXiv:2405.21060, definition 2.1 with scalar A,
    section 6 (block decomposition), listing 1.

Shapes: B rows, T time, H heads, P head size, G groups of heads with common B and C, N states.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["ssd_chunked", "ssd_loop"]


def _by_head(B: Tensor, heads: int, work: torch.dtype) -> Tensor:
    return B.to(work).repeat_interleave(heads // B.shape[2], dim=2)


def ssd_loop(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """The definition. x (B, T, H, P), dt (B, T, H), A (H,), B and C (B, T, G, N)."""
    work = state.dtype
    B, C = _by_head(B, x.shape[2], work), _by_head(C, x.shape[2], work)
    S, found = state, []
    taken = (dt[..., None] * x.to(work)).unbind(1)
    for decay, v, b, c in zip(
        torch.exp(dt * A).unbind(1), taken, B.unbind(1), C.unbind(1), strict=True
    ):
        S = decay[..., None, None] * S + b[..., None] * v[:, :, None]
        found.append((S * c[..., None]).sum(-2))
    y = torch.stack(found, 1) if found else x.to(work)
    return y, S


def ssd_chunked(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """The same by products of matrices, `chunk` tokens at a time."""
    work, S, found = state.dtype, state, []
    for start in range(0, x.shape[1], chunk):
        part = slice(start, start + chunk)
        v, step = x[:, part].to(work).transpose(1, 2), dt[:, part].transpose(1, 2)
        b = _by_head(B[:, part], x.shape[2], work).transpose(1, 2)
        c = _by_head(C[:, part], x.shape[2], work).transpose(1, 2)
        total = torch.cumsum(step * A[:, None], dim=-1)
        later = torch.ones(total.shape[-1:] * 2, dtype=torch.bool, device=x.device).tril()
        span = (total[..., :, None] - total[..., None, :]).masked_fill(~later, -torch.inf)
        weight = (c @ b.transpose(-1, -2)) * torch.exp(span) * step[..., None, :]
        y = weight @ v + torch.exp(total)[..., None] * (c @ S)
        left = torch.exp(total[..., -1:] - total) * step
        S = torch.exp(total[..., -1])[..., None, None] * S
        S = S + (b * left[..., None]).transpose(-1, -2) @ v
        found.append(y.transpose(1, 2))
    return torch.cat(found, 1) if found else x.to(work), S
