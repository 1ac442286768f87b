"""The dense feed-forward of a block, which shared experts are, too.

References:
    Shazeer (2020), arXiv:2002.05202, eq. 6 (SwiGLU).

Shapes: M model width, F hidden units.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from paragone.language.ops.stream import gated

__all__ = ["FeedForward"]


class FeedForward(nn.Module):
    """SwiGLU with the published names: gate_proj (W1), up_proj (W3), down_proj (W2).

    Args:
        width: Model width M.
        inner: Hidden units F.
        bias: Whether the three have biases.
        device: Device of the parameters.
        dtype: Type of the parameters.
    """

    def __init__(
        self, width: int, inner: int, *, bias: bool = False, device: Any = None, dtype: Any = None
    ):
        super().__init__()
        where: dict[str, Any] = {"bias": bias, "device": device, "dtype": dtype}
        self.gate_proj = nn.Linear(width, inner, **where)
        self.up_proj = nn.Linear(width, inner, **where)
        self.down_proj = nn.Linear(inner, width, **where)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(gated(self.gate_proj(x), self.up_proj(x)))
