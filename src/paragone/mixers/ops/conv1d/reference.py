r"""Causal depthwise convolution, as it is defined: each channel looks at its own last K inputs.

$$ a_{t,d} = b_d + \sum_{k < K} w_{d,k}\, x_{t-K+1+k,\,d}, \qquad y = \mathrm{silu}(a)
   \text{ or } a , $$

where the K - 1 inputs before the first come from the state, or are 0. Cost: K multiplications a
channel and token.

References:
    Gu and Dao (2023), "Mamba", arXiv:2312.00752, figure 3 (the convolution before the scan).

Shapes: B rows, T time, D channels, K taps.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["causal_conv1d", "last_inputs"]


def last_inputs(x: Tensor, state: Tensor | None, lengths: Tensor | None, count: int) -> Tensor:
    """Returns the (B, count, D) inputs before each row's end, oldest first, 0 before the start."""
    rows, time, width = x.shape
    if lengths is None and time >= count:
        return x[:, time - count :]
    before = x.new_zeros(rows, count, width) if state is None else state.to(x.dtype)
    whole = torch.cat([before, x], dim=1)
    if lengths is None:
        return whole[:, time:]
    at = lengths[:, None] + torch.arange(count, device=x.device)
    return whole.gather(1, at[..., None].expand(-1, -1, width))


def causal_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None, silu: bool
) -> Tensor:
    """Convolves x (B, T, D) with weight (D, K) after state (B, K - 1, D)."""
    taps = weight.shape[-1]
    before = x.new_zeros(x.shape[0], taps - 1, x.shape[2]) if state is None else state.to(x.dtype)
    whole = torch.cat([before, x], dim=1)
    y = torch.zeros_like(x) if bias is None else bias.to(x.dtype).expand_as(x)
    for k in range(taps):
        y = y + weight[:, k].to(x.dtype) * whole[:, k : k + x.shape[1]]
    return functional.silu(y) if silu else y
