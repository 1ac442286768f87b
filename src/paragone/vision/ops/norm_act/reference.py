r"""The definition of batch norm followed by an activation.

$$ \mu_c = \frac{1}{n} \sum_i x_{ic}, \qquad
   \sigma_c^2 = \frac{1}{n} \sum_i (x_{ic} - \mu_c)^2, \qquad
   y_{ic} = \phi\Big(\gamma_c \frac{x_{ic} - \mu_c}{\sqrt{\sigma_c^2 + \epsilon}}
            + \beta_c\Big) , $$

where i counts the n = B H W places of a channel. In evaluation the running statistics take the
place of $\mu$ and $\sigma^2$.

References:
    Ioffe and Szegedy (2015), arXiv:1502.03167, algorithm 1 (training) and 2 (evaluation).

Shapes: B batch, C channels, H and W height and width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["ACTIVATIONS", "activate", "norm_act_reference"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "relu": functional.relu,
    "relu6": functional.relu6,
    "silu": functional.silu,
    "hard_swish": functional.hardswish,
    "hard_sigmoid": functional.hardsigmoid,
    "sigmoid": torch.sigmoid,
    "gelu": functional.gelu,
}


def activate(x: Tensor, activation: str) -> Tensor:
    """Returns the activation of that name.

    Raises:
        ValueError: An unknown name.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation {activation!r} is none of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[activation](x)


def norm_act_reference(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor | None, var: Tensor | None, eps: float,
    activation: str,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Returns y (B, C, H, W), and the mean and the biased variance (C,) that it was made with.

    Without `mean` and `var` they are those of the batch.
    """
    if mean is None or var is None:
        mean = x.mean((0, 2, 3))
        var = (x - mean[:, None, None]).square().mean((0, 2, 3))
    scaled = (x - mean[:, None, None]) * (var + eps).rsqrt()[:, None, None]
    return activate(scaled * weight[:, None, None] + bias[:, None, None], activation), mean, var
