r"""How tokens of many rows are drawn: guidance, mask, temperature, top-p, in this order.

Three readings of a row are mixed, the whole prompt f, its pictures alone i, and nothing u,

$$ z = u + a\,(i - u) + b\,(f - i), \qquad
   p \propto e^{z / \tau}\,[\text{allowed}]\,[\text{fewest that hold a share } P] , $$

so that a is the strength of the pictures and b that of the text; a = b = 1 is f alone. A token is
the inverse of the distribution at a number that seed, row and step alone give.

References:
    Brooks et al. (2022), InstructPix2Pix, arXiv:2211.09800, eq. 3 (two guidances).
    Gafni et al. (2022), Make-A-Scene, arXiv:2203.13131, section 3.5 (guidance of tokens).
    Holtzman et al. (2019), arXiv:1904.09751, section 3.1 (top-p).
    Salmon et al. (2011), "Parallel random numbers: as easy as 1, 2, 3" (draws by counting).

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["draw_tokens", "guided", "penalised", "uniforms"]

_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def guided(
    full: Tensor, image: Tensor, none: Tensor, text_scale: float, image_scale: float
) -> Tensor:
    """Mixes three readings' logits.

    Args:
        full: (B, V) logits after the whole prompt.
        image: (B, V) after its pictures alone.
        none: (B, V) after nothing.
        text_scale: b.
        image_scale: a.

    Returns:
        (B, V).
    """
    return none + image_scale * (image - none) + text_scale * (full - image)


def penalised(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Divides logits of tokens that were there, if positive, and multiplies them if not.

    Args:
        logits: (B, V).
        seen: (B, V) bool.
        penalty: Above 0; 1 for none.
    """
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def draw_tokens(
    logits: Tensor, allowed: Tensor, temperature: float, top_p: float, draws: Tensor
) -> Tensor:
    """Draws a token of each row, one that is allowed, whatever the logits are.

    Args:
        logits: (B, V); NaN counts as minus infinity. Where nothing that is allowed has a finite
            logit, all of it is equally likely.
        allowed: (B, V) bool, at least one True a row.
        temperature: What logits are divided by; 0 takes the most likely, of equals the first.
        top_p: Share of the probability to choose from; 1 for all.
        draws: (B,) float64 in [0, 1).

    Returns:
        (B,) int64.
    """
    most = torch.finfo(logits.dtype).max
    usable = allowed & ~logits.isnan()
    z = logits.clamp(max=most).masked_fill(~usable, -torch.inf)
    lost = (z == -torch.inf).all(1, keepdim=True)
    z = torch.where(lost, torch.zeros_like(z).masked_fill(~allowed, -torch.inf), z)
    if temperature == 0:
        return z.argmax(1)
    p = ((z - z.amax(1, keepdim=True)).double() / temperature).softmax(1)
    order = None
    if top_p < 1:
        p, order = p.sort(dim=1, descending=True, stable=True)
        p = p.masked_fill(p.cumsum(1) - p >= max(top_p, 1e-12), 0.0)
    edges = p.cumsum(1)
    at = torch.searchsorted(edges, (draws[:, None] * edges[:, -1:]), right=True)
    places = torch.arange(p.shape[1], device=p.device)
    last = torch.where(p > 0, places, 0).amax(1, keepdim=True)
    at = torch.minimum(at, last)
    return (at if order is None else order.gather(1, at))[:, 0]


def uniforms(seed: int, rows: np.ndarray, step: np.ndarray | int) -> np.ndarray:
    """Draws in [0, 1) of rows at a step, from seed, row and step alone.

    Args:
        seed: Any integer; its lower 64 bits count.
        rows: (B,) numbers of the rows.
        step: Number of the token, one for all or (B,).

    Returns:
        (B,) float64.

    Example:
        >>> bool((uniforms(1, np.arange(3), 0)[1:] == uniforms(1, np.arange(1, 3), 0)).all())
        True
    """
    with np.errstate(over="ignore"):
        key = _mixed(np.uint64(seed & (1 << 64) - 1) + _GAMMA)
        key = _mixed(key + _GAMMA * (rows.astype(np.uint64) + np.uint64(1)))
        word = _mixed(key + _GAMMA * (np.asarray(step).astype(np.uint64) + np.uint64(1)))
    return (word >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mixed(x: Any) -> Any:
    """The finaliser of SplitMix64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
