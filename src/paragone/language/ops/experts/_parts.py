"""What stands between the matrix products of experts: in torch for every device, or our kernels.

Shapes: R rows, N tokens, K experts of each, E experts, F hidden units, M model width.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from paragone.kernels.choice import register
from paragone.kernels.teams import share as team_share

__all__ = ["collect", "gated", "gated_backward", "sort_rows"]

_WORTH = 200_000


def _cpu(device: str, dtype: torch.dtype) -> str | None:
    if device != "cpu":
        return f"runs on the CPU, and the tensors are on {device}"
    return None if dtype == torch.float32 else f"works in float32, and the tensors are {dtype}"


register("experts", {"numba": _cpu, "torch": lambda device, dtype: None})


def sort_rows(chosen: Tensor, experts: int, fused: bool) -> tuple[Tensor, Tensor, list[int]]:
    """Rows by expert: which row stands where, where a row stands, and where each expert ends.

    Args:
        chosen: (N, K).
        experts: E; numbers from E on come last and belong to nobody.
        fused: Whether our kernels serve.
    """
    flat = chosen.flatten()
    if fused:
        from paragone.language.ops.experts import _cpu as kernels

        order, place = torch.empty_like(flat), torch.empty_like(flat)
        ends = np.empty(experts, np.int64)
        kernels.sort_rows(flat.numpy(), order.numpy(), place.numpy(), ends)
        return order, place, ends.tolist()
    order = torch.argsort(flat, stable=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    counts = torch.bincount(flat, minlength=experts)[:experts]
    return order, place, counts.cumsum(0).tolist()


def gated(hidden: Tensor, share: Tensor, rows: int, fused: bool) -> Tensor:
    """Hidden (R, 2 F) and share (R,) to the inner units (R, F) of the first `rows`."""
    if not fused:
        gate, up = hidden.chunk(2, -1)
        return functional.silu(gate).mul_(up).mul_(share[:, None])
    from paragone.language.ops.stream import _cpu as kernels

    width, flat = hidden.shape[1] // 2, hidden.view(-1).numpy()
    inner = hidden.new_empty(len(hidden), width)
    team_share(
        kernels.gated, -(-rows // kernels.BLOCK), flat, flat[width:], 2 * width, share.numpy(), 1,
        inner.view(-1).numpy(), rows, width, threads=_team(rows * width),
    )  # fmt: skip
    return inner


def gated_backward(
    hidden: Tensor, share: Tensor, dinner: Tensor, rows: int, fused: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of hidden (R, 2 F) and share (R,), and the inner units; `dinner` may be reused."""
    dhidden = torch.empty_like(hidden)
    if fused:
        from paragone.language.ops.stream import _cpu as kernels

        width, dshare = dinner.shape[1], torch.zeros_like(share)
        flat, slopes = hidden.view(-1).numpy(), dhidden.view(-1).numpy()
        inner = dinner.view(-1).numpy()
        team_share(
            kernels.gated_backward, -(-rows // kernels.BLOCK), flat, flat[width:], 2 * width,
            share.numpy(), 1, inner, inner, slopes, slopes[width:], dshare.numpy(), rows, width,
            threads=_team(rows * width),
        )  # fmt: skip
        return dhidden, dshare, dinner
    gate, up = hidden.chunk(2, -1)
    turned = torch.sigmoid(gate)
    silu = turned * gate
    inner = silu * up
    dshare = torch.einsum("rf,rf->r", dinner, inner)
    dinner = dinner * share[:, None]
    dgate, dup = dhidden.chunk(2, -1)
    torch.mul(dinner, silu, out=dup)
    torch.mul(dinner * up, turned + silu * (1 - turned), out=dgate)
    dshare[rows:] = 0
    return dhidden, dshare, inner * share[:, None]


def collect(rows: Tensor, place: Tensor, chosen: Tensor, fused: bool) -> Tensor:
    """Sum over each token's K rows, in the order of k: (R, M) to (N, M)."""
    if not fused:
        # The type is named, since autocast on a GPU would make it float32.
        return rows[place].unflatten(0, chosen.shape).sum(1, dtype=rows.dtype)
    from paragone.language.ops.experts import _cpu as kernels

    (tokens, most), width = chosen.shape, rows.shape[1]
    y = rows.new_empty(tokens, width)
    team_share(
        kernels.collect, -(-tokens // kernels.BLOCK), rows.view(-1).numpy(), place.numpy(),
        y.view(-1).numpy(),
        tokens, most, width, threads=_team(rows.numel()),
    )  # fmt: skip
    return y


def _team(work: int) -> int:
    return torch.get_num_threads() if work >= _WORTH else 1
