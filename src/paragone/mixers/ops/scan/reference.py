r"""Selective scan, as it is defined: a loop over time.

With $\Delta_t = \mathrm{softplus}(\delta_t + b)$ for each channel and a diagonal $A < 0$,

$$ h_t = e^{\Delta_t A} \odot h_{t-1} + \Delta_t x_t B_t^\top, \qquad
   y_t = (h_t C_t + D \odot x_t) \odot \mathrm{silu}(z_t) , $$

where $h_t$ is a (D, N) matrix: every channel has N states of its own, and all channels share
$B_t$ and $C_t$. Cost: O(B T D N) time; autograd keeps O(B T D N) numbers, which is why kernels
compute states again on the way back.

References:
    Gu and Dao (2023), "Mamba", arXiv:2312.00752, equations 2, 4 and algorithm 2 (B is discretised
    by Euler's rule, A exactly).

Shapes: B rows, T time, D channels, N states of a channel.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["selective_scan"]


def selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    state: Tensor | None,
    lengths: Tensor | None,
    softplus: bool,
) -> tuple[Tensor, Tensor]:
    """Returns y (B, T, D) and the state (B, D, N) after each row's last token."""
    rows, time, width = x.shape
    work = torch.promote_types(x.dtype, torch.float32)
    kind = x.dtype
    x, dt, B, C = x.to(work), dt.to(work), B.to(work), C.to(work)
    if lengths is not None:
        beyond = (torch.arange(time, device=x.device) >= lengths[:, None])[..., None]
        x, dt, B, C = (v.masked_fill(beyond, 0) for v in (x, dt, B, C))
        z = None if z is None else z.masked_fill(beyond, 0)
    dt = dt if dt_bias is None else dt + dt_bias.to(work)
    dt = functional.softplus(dt) if softplus else dt
    if lengths is not None:
        dt = dt.masked_fill(beyond, 0)  # a step of no length leaves the state as it is
    h = x.new_zeros(rows, width, A.shape[1]) if state is None else state.to(work)
    A, found = A.to(work), []
    # unbind, as the gradient of v[:, t] would be a tensor of v's size for every t
    for step, taken, b, c in zip(*(v.unbind(1) for v in (dt, dt * x, B, C)), strict=True):
        h = torch.exp(step[..., None] * A) * h + taken[..., None] * b[:, None]
        found.append((h * c[:, None]).sum(-1))
    y = torch.stack(found, 1) if found else torch.zeros_like(x)
    y = y if D is None else y + D.to(work) * x
    y = y if z is None else y * functional.silu(z.to(work))
    if lengths is not None:
        y = y.masked_fill(beyond, 0)
    return y.to(kind), h
