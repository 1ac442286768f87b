r"""Random features whose products estimate the softmax kernel, and attention with them.

All positive maps are kept as logarithms $a_{if} = \log \phi_f(q_i)$, $b_{jf} = \log \phi_f(k_j)$
until a reference has been subtracted that cancels in the quotient: no constant is added.

    softmax            $\omega^\top x - |x|^2 / 2$
    softmax-hyperbolic the same with $\omega$ and $-\omega$ in pairs
    softmax-optimal    $A|\omega|^2 + \sqrt{1-4A}\, \omega^\top x - |x|^2/2 + (D/4)\log(1-4A)$,
                       in pairs; $A$ gives the least variance at $E|q+k|^2 = s$
    exp                $x$ itself: exp as an activation, features = head width

References:
    Choromanski et al. (2021), arXiv:2009.14794, lemma 1 and theorem 2; Likhosherstov et al.
    (2022), arXiv:2205.15317, section 3.4 and theorem 3.

Shapes: ... rows and heads, T time, D head width, F features, R drawn directions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from paragone.mixers.ops.features.attend import attend_all, attend_past
from paragone.mixers.ops.features.exponentials import NEVER, exp_features
from paragone.mixers.ops.features.reference import feature_attention, softmax_weights

__all__ = [
    "KERNELS", "NEVER", "attend_all", "attend_past", "directions_for", "draw", "exp_features",
    "feature_attention", "log_features", "reach_of", "relu_features", "softmax_weights",
]  # fmt: skip

KERNELS = ("softmax", "softmax-hyperbolic", "softmax-optimal", "relu", "exp")
"""Names of the maps."""

RELU_FLOOR = 1e-3


def directions_for(kernel: str, features: int) -> int:
    """Returns how many directions are drawn for so many features."""
    if kernel == "exp":
        return 0
    return features // 2 if kernel in ("softmax-hyperbolic", "softmax-optimal") else features


def draw(count: int, width: int, generator: torch.Generator, *, orthogonal: bool = True) -> Tensor:
    """Draws standard normal directions, orthogonal inside blocks of `width`.

    Each row has the distribution N(0, I): a direction that is uniform on the sphere, with a norm
    that is chi-distributed with `width` degrees of freedom and independent of the others.

    Args:
        count: Rows R.
        width: Columns D.
        generator: Source of randomness, on the CPU.
        orthogonal: False for independent rows.

    Returns:
        (R, D) float32 on the CPU.

    Example:
        >>> w = draw(8, 4, torch.Generator().manual_seed(0))
        >>> bool((w[:4] @ w[:4].T).fill_diagonal_(0).abs().max() < 1e-5)
        True
    """
    normal = torch.randn(count, width, generator=generator, dtype=torch.float64)
    if not orthogonal or not count:
        return normal.float()
    blocks = -(-count // width)
    square = torch.randn(blocks, width, width, generator=generator, dtype=torch.float64)
    basis, triangle = torch.linalg.qr(square)
    # The sign of R's diagonal is the algorithm's: taken out, the basis is uniform.
    basis = basis * torch.diagonal(triangle, dim1=-2, dim2=-1).sign()[:, None, :]
    rows = basis.mT.reshape(-1, width)[:count]
    return (rows * normal.norm(dim=-1, keepdim=True)).float()


def reach_of(
    x: Tensor, directions: Tensor, kernel: str = "softmax", spread: Tensor | None = None
) -> Tensor:
    """Returns (..., T, F): logarithms of the features, up to a number for each token.

    Args:
        x: (..., T, D), already scaled by D^(-1/4).
        directions: (R, D) from `draw`.
        kernel: One of the positive maps of `KERNELS`.
        spread: () mean of |q + k|^2, for "softmax-optimal".
    """
    if kernel == "exp":
        return x
    directions = directions.to(x.dtype)
    if kernel != "softmax-optimal":
        reach = x @ directions.mT
        return reach if kernel == "softmax" else torch.cat([reach, -reach], dim=-1)
    if spread is None:
        raise ValueError("softmax-optimal needs spread, the mean of |q + k|^2")
    tilt = optimal_tilt(spread.to(x.dtype), x.shape[-1])
    reach = x @ (directions * (1 - 4 * tilt).sqrt()).mT
    level = tilt * directions.square().sum(-1)
    return torch.cat([level + reach, level - reach], dim=-1)


def log_features(
    x: Tensor, directions: Tensor, kernel: str = "softmax", spread: Tensor | None = None
) -> Tensor:
    """Returns (..., T, F) logarithms of the features, up to -log(F) / 2; as `reach_of`."""
    reach = reach_of(x, directions, kernel, spread)
    if kernel == "exp":
        return reach
    half = x.square().sum(-1, keepdim=True) / 2
    if kernel == "softmax-optimal" and spread is not None:
        width = x.shape[-1]
        half = half - width / 4 * torch.log1p(-4 * optimal_tilt(spread.to(x.dtype), width))
    return reach - half


def optimal_tilt(spread: Tensor, width: int) -> Tensor:
    """Returns A <= 0, the root of 2 s r^2 + (2 s + D) r - D = 0 with A = (1 - 1/r) / 8."""
    spread = spread.clamp(min=1e-6)
    middle = 2 * spread + width
    # The difference of two near numbers, multiplied out.
    root = 2 * width / (middle + (middle.square() + 8 * width * spread).sqrt())
    return (1 - 1 / root) / 8


def relu_features(x: Tensor, directions: Tensor) -> Tensor:
    """Returns (..., T, F): relu of the projections plus a floor, which is part of the kernel."""
    reach = x @ directions.mT.to(x.dtype)
    return reach.relu() / math.sqrt(max(len(directions), 1)) + RELU_FLOOR
