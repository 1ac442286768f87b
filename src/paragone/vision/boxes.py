r"""Boxes: overlap, suppression, anchors, and the numbers that a network predicts for them.

A network does not predict corners but how an anchor must move, in units of its own size, so that
one weight serves small and large objects:

$$ t = \Big(\tfrac{x - x_a}{w_a}, \tfrac{y - y_a}{h_a}, \ln\tfrac{w}{w_a}, \ln\tfrac{h}{h_a}\Big)
   \oslash \sigma . $$

Of many boxes around one object, suppression keeps the best of each class: hard, or soft, which
lowers scores in place of taking boxes away. No class is shifted to a place of its own to do so:
at coordinates beyond 10^4 that costs float32 the pixels.

Cost: O(N k) for N boxes of which k are kept; soft, O(N^2). Both are done on the CPU; boxes that are
on a GPU go there and their rows back.

References:
    Girshick et al. (2014), "R-CNN", arXiv:1311.2524, appendix C (deltas).
    Ren et al. (2015), "Faster R-CNN", arXiv:1506.01497, eq. 2 and section 3.1.1 (anchors).
    Bodla et al. (2017), "Soft-NMS", arXiv:1704.04503, section 3.

Shapes: N and M boxes; a box is left, top, right, bottom in pixels, width = right - left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from paragone.vision.ops.nms.reference import METHODS, overlap

__all__ = [
    "CLAMP", "anchors", "box_iou", "clip", "decode_boxes", "encode_boxes", "nms", "soft_nms",
]  # fmt: skip

CLAMP = math.log(1000 / 16)
"""Most that the logarithm of a size may change by: e^t would overflow in early training."""


def box_iou(first: Tensor, second: Tensor) -> Tensor:
    """Returns the overlap of each pair of boxes, intersection over union.

    Args:
        first: (N, 4).
        second: (M, 4).

    Returns:
        (N, M) of the boxes' dtype (integers: float32); 0 where both boxes have no area.

    Raises:
        ValueError: Not boxes.

    Example:
        >>> box_iou(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 0, 3, 2], [5, 5, 6, 6]]))
        tensor([[0.3333, 0.0000]])
    """
    floats = []
    for name, boxes in (("first", first), ("second", second)):
        _check_boxes("box_iou", name, boxes)
        floats.append(boxes if boxes.is_floating_point() else boxes.float())
    return overlap(*floats)


def nms(
    boxes: Tensor, scores: Tensor, threshold: float, classes: Tensor | None = None, *,
    limit: int | None = None,
) -> Tensor:  # fmt: skip
    """Returns the rows of boxes that no better box of their class overlaps, the best first.

    Equal to torchvision's `nms`, and to its `batched_nms` except where that shifts classes apart
    in float32; prefer it to both on a CPU, and where coordinates are large.

    Args:
        boxes: (N, 4), float32 or float64.
        scores: (N,). Equal scores keep their order; a NaN is refused.
        threshold: Largest overlap of two that are kept.
        classes: (N,) integers; without it all boxes are of one class.
        limit: Most rows to return; the search ends there.

    Returns:
        (k,) int64.

    Raises:
        ValueError: Shapes or dtypes that do not fit, or a NaN.

    Example:
        >>> boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 5], [9, 9, 12, 12]])
        >>> nms(boxes, torch.tensor([0.6, 0.9, 0.7]), 0.5)
        tensor([1, 2])
    """
    from paragone.vision.ops.nms._cpu_kernels import hard

    columns, kinds, order = _sorted("nms", boxes, scores, classes)
    rows = np.empty(len(order), np.int64)
    most = len(order) if limit is None else min(limit, len(order))
    kept = hard(columns, kinds, float(threshold), most, rows) if most > 0 else 0
    return torch.from_numpy(order[rows[:kept]]).to(boxes.device)


def soft_nms(
    boxes: Tensor, scores: Tensor, classes: Tensor | None = None, *,
    method: Literal["linear", "gaussian"] = "linear", threshold: float = 0.5, sigma: float = 0.5,
    least: float = 1e-3,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Lowers the scores of boxes that a better one overlaps, in place of taking them away.

    Prefer it to `nms` where objects of one class stand close together; it finds more of them, and
    more false ones with low scores. State which one a figure was measured with.

    Args:
        boxes: (N, 4), float32 or float64.
        scores: (N,), none negative.
        classes: (N,) integers; without it all boxes are of one class.
        method: "linear" (times 1 - IoU above `threshold`) or "gaussian" (times e^(-IoU^2 / sigma)).
        threshold: Overlap from which "linear" lowers.
        sigma: Width of "gaussian".
        least: Boxes whose score falls below it are dropped.

    Returns:
        Rows (k,) int64 and their scores (k,), the best first.

    Raises:
        ValueError: Shapes or dtypes that do not fit, an unknown method, or a NaN.

    Example:
        >>> boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 5], [9, 9, 12, 12]])
        >>> soft_nms(boxes, torch.tensor([0.6, 0.9, 0.7]))
        (tensor([1, 2, 0]), tensor([0.9000, 0.7000, 0.1200]))
    """
    from paragone.vision.ops.nms._cpu_kernels import soft

    if method not in METHODS:
        raise ValueError(f"soft_nms: method={method!r} is none of {', '.join(METHODS)}")
    columns, kinds, order = _sorted("soft_nms", boxes, scores, classes)
    left = scores.detach().cpu().double().numpy()[order]
    rows, values = np.empty(len(order), np.int64), np.empty(len(order))
    kept = soft(columns, kinds, left, method == "gaussian", float(threshold), float(sigma),
                float(least), rows, values)  # fmt: skip
    found = torch.from_numpy(values[:kept]).to(scores.device, scores.dtype)
    return torch.from_numpy(order[rows[:kept]]).to(boxes.device), found


def _sorted(
    name: str, boxes: Tensor, scores: Tensor, classes: Tensor | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns (5, N), classes and rows, in the order of falling scores."""
    _check_boxes(name, "boxes", boxes)
    if scores.shape != boxes.shape[:1] or (classes is not None and classes.shape != scores.shape):
        shape = None if classes is None else tuple(classes.shape)
        raise ValueError(f"{name}: boxes {tuple(boxes.shape)}, scores {tuple(scores.shape)}, "
                         f"classes {shape}; give one score and class for each box")  # fmt: skip
    if boxes.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{name}: boxes are {boxes.dtype}; give float32 or float64")
    if bool(scores.isnan().any()) or bool(boxes.isnan().any()):
        raise ValueError(f"{name}: a score or a box is NaN; drop such rows first")
    order = torch.sort(scores.detach(), descending=True, stable=True).indices
    four = boxes.detach()[order].T.cpu()
    area = (four[2] - four[0]) * (four[3] - four[1])
    columns = torch.cat([four, area[None]]).contiguous().numpy()
    kinds = torch.zeros(len(order), dtype=torch.int64) if classes is None else classes[order]
    return columns, kinds.cpu().to(torch.int64).numpy(), order.cpu().numpy()


def _check_boxes(name: str, argument: str, boxes: Tensor) -> None:
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(
            f"{name}: {argument} has shape {tuple(boxes.shape)}; give (N, 4): left, top, right, "
            "bottom"
        )


def encode_boxes(
    boxes: Tensor, anchors: Tensor, std: Sequence[float] = (1.0, 1.0, 1.0, 1.0)
) -> Tensor:
    """Returns how anchors must move to become boxes: (N, 4) deltas, the inverse of `decode_boxes`.

    Args:
        boxes: (N, 4), each with an area.
        anchors: (N, 4), each with an area.
        std: What the deltas are divided by; (.1, .1, .2, .2) in the second stage.

    Example:
        >>> box = torch.tensor([[10.0, 10, 30, 20]])
        >>> encode_boxes(box, box)
        tensor([[0., 0., 0., 0.]])
    """
    size, own = boxes[:, 2:] - boxes[:, :2], anchors[:, 2:] - anchors[:, :2]
    shift = (boxes[:, :2] + size / 2 - anchors[:, :2] - own / 2) / own
    return torch.cat([shift, (size / own).log()], 1) / boxes.new_tensor(std)


def decode_boxes(
    deltas: Tensor, anchors: Tensor, std: Sequence[float] = (1.0, 1.0, 1.0, 1.0)
) -> Tensor:
    """Returns the boxes (N, 4) that deltas make of anchors; sizes grow at most 62.5 times.

    Args:
        deltas: (N, 4).
        anchors: (N, 4).
        std: As for `encode_boxes`.

    Example:
        >>> anchor = torch.tensor([[0.0, 0, 10, 10]])
        >>> decode_boxes(torch.tensor([[1.0, 0, 0, 0]]), anchor, (0.1, 0.1, 0.2, 0.2))
        tensor([[ 1.,  0., 11., 10.]])
    """
    deltas = deltas * deltas.new_tensor(std)
    own = anchors[:, 2:] - anchors[:, :2]
    centre = anchors[:, :2] + own / 2 + deltas[:, :2] * own
    half = deltas[:, 2:].clamp(max=CLAMP).exp() * own / 2
    return torch.cat([centre - half, centre + half], 1)


def anchors(
    size: tuple[int, int],
    stride: int,
    scales: Sequence[float],
    ratios: Sequence[float],
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Returns the anchors of a map: boxes of every scale and ratio around the centre of each cell.

    Args:
        size: Height and width of the map in cells.
        stride: Pixels of a cell.
        scales: Square roots of the areas, in pixels.
        ratios: Heights over widths.
        device: Where to.
        dtype: Of the boxes.

    Returns:
        (height * width * scales * ratios, 4), the ratios changing fastest, the rows slowest.

    Example:
        >>> anchors((1, 1), 16, (16,), (1.0,))
        tensor([[ 0.,  0., 16., 16.]])
    """
    root = torch.tensor(ratios, dtype=torch.float64).sqrt()
    scale = torch.tensor(scales, dtype=torch.float64)[:, None]
    half = torch.stack([scale / root, scale * root], -1).reshape(-1, 2) / 2
    rows, columns = (stride * (torch.arange(n, dtype=torch.float64) + 0.5) for n in size)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    centre = torch.stack([x, y], -1)[:, :, None]
    found = torch.cat([centre - half, centre + half], -1).reshape(-1, 4)
    return found.to(device, dtype)


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Returns boxes (N, 4) with the parts outside an image cut off.

    Args:
        boxes: (N, 4).
        size: Height and width of the image in pixels.
    """
    height, width = size
    return boxes.clamp(min=0).minimum(boxes.new_tensor((width, height, width, height)))
