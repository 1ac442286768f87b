r"""Layer scale: a residual branch starts near nothing and finds its own weight for each channel.

$$ y = x + \gamma \odot f(x), \quad \gamma = 10^{-5} \text{ at first} . $$

Cost: one factor for each number. Its step in the lineage: MobileNetV4's hybrid networks, where
attention joins the convolutions, train with it.

References:
    Touvron et al. (2021), "Going deeper with image transformers", arXiv:2103.17239, eq. 4.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["LayerScale"]


class LayerScale(nn.Module):
    """Multiplies each channel of maps (B, C, H, W) by a learned factor.

    Args:
        channels: C.
        value: First value of the factors.
        device: Of the factors.
        dtype: Of the factors.
    """

    def __init__(
        self, channels: int, value: float = 1e-5, *, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((channels,), value, device=device, dtype=dtype))

    def forward(self, branch: Tensor) -> Tensor:
        return branch * self.gamma[:, None, None]
