r"""Non-maximum suppression by its definition, one box after the other.

The best box left is kept; every other one of its class that overlaps it is taken away (hard), or
loses score by how much it overlaps (soft):

$$ s_i \leftarrow s_i\,[o_i \le t], \quad s_i \leftarrow s_i\,(1 - o_i)^{[o_i > t]}, \quad
   s_i \leftarrow s_i\, e^{-o_i^2 / \sigma}, \qquad o_i = \mathrm{IoU}(b_m, b_i) . $$

References:
    Bodla et al. (2017), "Soft-NMS", arXiv:1704.04503, figure 2 and section 3.

Shapes: N boxes.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["METHODS", "nms_reference", "overlap", "soft_nms_reference"]

METHODS = ("linear", "gaussian")


def overlap(first: Tensor, second: Tensor) -> Tensor:
    """Returns the intersections over unions (N, M) of boxes (N, 4) and (M, 4); 0 for 0 / 0.

    Args:
        first: (N, 4): left, top, right, bottom.
        second: (M, 4).
    """
    low = torch.maximum(first[:, None, :2], second[None, :, :2])
    high = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    common = (high - low).clamp(min=0).prod(-1)
    areas = [(b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) for b in (first, second)]
    union = areas[0][:, None] + areas[1][None] - common
    return torch.where(union > 0, common / union, 0)


def nms_reference(boxes: Tensor, order: Tensor, classes: Tensor, threshold: float) -> list[int]:
    """Returns the rows that are kept, in the given order.

    Args:
        boxes: (N, 4).
        order: (N,) rows, the best score first.
        classes: (N,) what must agree for one box to suppress another.
        threshold: Largest overlap of two that are kept.
    """
    kept: list[int] = []
    for i in order.tolist():
        rivals = [k for k in kept if classes[k] == classes[i]]
        if not rivals or overlap(boxes[i : i + 1], boxes[rivals]).max() <= threshold:
            kept.append(i)
    return kept


def soft_nms_reference(
    boxes: Tensor, scores: Tensor, classes: Tensor, method: str, threshold: float, sigma: float,
    least: float,
) -> tuple[list[int], list[float]]:  # fmt: skip
    """Returns rows and lowered scores, the best first.

    Args:
        boxes: (N, 4).
        scores: (N,).
        classes: (N,).
        method: "linear" or "gaussian".
        threshold: Overlap from which the linear one lowers.
        sigma: Width of the gaussian one.
        least: Boxes whose score falls below are dropped.
    """
    left, rows, values = scores.clone(), [], []
    alive = torch.ones(len(scores), dtype=torch.bool)
    while alive.any():
        best = int(torch.where(alive, left, -torch.inf).argmax())
        if left[best] < least:
            break
        rows.append(best)
        values.append(float(left[best]))
        alive[best] = False
        shared = overlap(boxes[best : best + 1], boxes)[0]
        if method == "linear":
            factor = torch.where(shared > threshold, 1 - shared, 1)
        else:
            factor = torch.exp(-(shared**2) / sigma)
        left = torch.where(classes == classes[best], left * factor, left)
    return rows, values
