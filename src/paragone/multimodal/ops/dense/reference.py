r"""What lies between the norms and the attention of a block, in plain torch: the definitions.

$$ \mathrm{linear}(x) = x W^\top + b + s, \qquad
   \mathrm{feed}(x) = \mathrm{gelu}(x W_0^\top + b_0)\, W_1^\top + b_1 + s, $$

$$ \mathrm{gelu}(h) = h\, \sigma\big(2 c\, (h + a h^3)\big), \quad
   c = \sqrt{2 / \pi}, \; a = 0.044715 , $$

the tanh form, as $\tfrac12 (1 + \tanh z) = \sigma(2 z)$.

References:
    Hendrycks and Gimpel (2016), Gaussian error linear units, arXiv:1606.08415, section 2.

Shapes: L rows, M width, F hidden units, H heads of width D.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["feed", "linear", "projected"]


def linear(x: Tensor, weight: Tensor, bias: Tensor, shortcut: Tensor | None = None) -> Tensor:
    """A linear map, and what is added to it.

    Args:
        x: (L, M).
        weight: (F, M).
        bias: (F,).
        shortcut: (L, F), or None.
    """
    y = functional.linear(x, weight, bias)
    return y if shortcut is None else shortcut + y


def feed(
    x: Tensor, weight0: Tensor, bias0: Tensor, weight1: Tensor, bias1: Tensor, shortcut: Tensor
) -> Tensor:
    """A feed-forward with a shortcut.

    Args:
        x: (L, M).
        weight0: (F, M).
        bias0: (F,).
        weight1: (M, F).
        bias1: (M,).
        shortcut: (L, M).
    """
    hidden = functional.gelu(functional.linear(x, weight0, bias0), approximate="tanh")
    return shortcut + functional.linear(hidden, weight1, bias1)


def projected(
    x: Tensor, weight: Tensor, bias: Tensor, cos: Tensor, sin: Tensor, heads: int
) -> Tensor:
    """Queries, keys and values, of which the first two are turned in pairs (2j, 2j + 1).

    Args:
        x: (L, M).
        weight: (3 M, M).
        bias: (3 M,).
        cos: (L, D / 2), float32 at least.
        sin: (L, D / 2).
        heads: H.

    Returns:
        (L, 3, H, D).
    """
    qkv = functional.linear(x, weight, bias).unflatten(-1, (3, heads, -1))
    a, b = qkv[:, :2].to(cos.dtype).unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[:, None, None], sin[:, None, None]
    turned = torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2)
    return torch.cat([turned.to(qkv.dtype), qkv[:, 2:]], 1)
