"""What the layers around linear attention share: heads, their norm, a short convolution."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["HeadNorm", "ShortConvolution", "checked_heads", "merged", "split_heads"]


def checked_heads(width: int, heads: int) -> int:
    """Returns the width of a head.

    Raises:
        ValueError: The width is no multiple of the heads.
    """
    if heads < 1 or width % heads:
        raise ValueError(f"width={width} is no multiple of heads={heads}; choose one that is")
    return width // heads


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, T, H D) to (B, H, T, D)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merged(o: Tensor) -> Tensor:
    """(B, H, T, E) to (B, T, H E)."""
    return o.transpose(1, 2).flatten(2)


class HeadNorm(nn.Module):
    """Root-mean-square norm of each head's output (B, H, T, E), one weight for all heads."""

    def __init__(self, values: int, *, device: Any = None, dtype: Any = None):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(values, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Sets the weight to one."""
        if not self.weight.is_meta:
            nn.init.ones_(self.weight)

    def forward(self, o: Tensor) -> Tensor:
        return functional.rms_norm(o, self.weight.shape, self.weight, 1e-5)


class ShortConvolution(nn.Module):
    """Causal convolution of each channel over the last `taps` tokens, then SiLU.

    Args:
        channels: Channels C.
        taps: Tokens that it sees, its own included.
        device: Device of the weight.
        dtype: Type of the weight.
    """

    def __init__(self, channels: int, taps: int, *, device: Any = None, dtype: Any = None):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(taps, channels, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the weight as a convolution of torch does."""
        if not self.weight.is_meta:
            bound = len(self.weight) ** -0.5
            nn.init.uniform_(self.weight, -bound, bound)

    def forward(
        self, x: Tensor, tail: Tensor | None, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """(B, T, C), and the (B, taps - 1, C) before it; returns the like, after `lengths`."""
        before, time = len(self.weight) - 1, x.shape[1]
        if tail is None:
            tail = x.new_zeros(x.shape[0], before, x.shape[2])
        whole = torch.cat([tail.to(x.dtype), x], 1)
        y = whole[:, :time] * self.weight[0]
        for j in range(1, before + 1):
            y = y + whole[:, j : j + time] * self.weight[j]
        if lengths is None:
            return functional.silu(y), whole[:, time:]
        places = lengths[:, None] + torch.arange(before, device=x.device)
        return functional.silu(y), whole.gather(1, places[..., None].expand(-1, -1, x.shape[2]))
