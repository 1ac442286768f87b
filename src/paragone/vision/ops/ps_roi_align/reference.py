r"""Position-sensitive RoI align in plain torch: the definition, for any dtype.

Bilinear interpolation is a product of two one-dimensional ones, so that a sample is a product of
two sparse vectors with the map; all samples of all bins are one contraction:

$$ v_{ncijpq} = \sum_{y,x} A^y_{nipy} A^x_{njqx}\, F_{b_n,\,(c P + i) Q + j,\,y,\,x} . $$

References:
    Dai et al. (2016), "R-FCN", arXiv:1605.06409, eq. 1 (channels by position).
    He et al. (2017), "Mask R-CNN", arXiv:1703.06870, section 3 (bilinear samples).

Shapes: N regions, B images, C channels put out, P x Q bins, H x W the map, S samples a bin.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["ps_roi_align_reference"]


def _axis(
    low: Tensor, high: Tensor, bins: int, size: int, ratio: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns weights (N, bins, S, size), which samples there are (N, S), and how many (N,)."""
    width = (high - low) / bins
    count = torch.full_like(low, ratio) if ratio > 0 else width.ceil().clamp(min=0)
    most = int(count.max().item()) if len(count) else 0
    s = torch.arange(most, device=low.device, dtype=low.dtype)
    start = torch.arange(bins, device=low.device, dtype=low.dtype) * width[:, None] + low[:, None]
    at = start[..., None] + ((s + 0.5) * width[:, None] / count[:, None])[:, None]
    there = s < count[:, None]
    inside = (at >= -1) & (at <= size) & there[:, None]
    at = torch.where(inside, at, 0).clamp(min=0)
    first = at.floor().clamp(max=size - 1)
    part = torch.where(first >= size - 1, 0, at - first) * inside
    cells = torch.arange(size, device=low.device)
    weights = (cells == first[..., None]) * (inside * 1.0 - part)[..., None]
    weights = weights + (cells == first[..., None] + 1) * part[..., None]
    return weights.to(low.dtype), there, count


def ps_roi_align_reference(
    input: Tensor, rois: Tensor, size: tuple[int, int], scale: float, ratio: int, pool: str,
    shift: float,
) -> Tensor:  # fmt: skip
    """Returns (N, C, P, Q) of checked input; see `position_sensitive.ps_roi_align`.

    Args:
        input: (B, C P Q, H, W).
        rois: (N, 5) image, left, top, right, bottom.
        size: P and Q.
        scale: From the units of the regions to cells of the map.
        ratio: Samples a bin and axis; 0: as many as a bin has cells.
        pool: "mean" or "max" of the samples.
        shift: Taken from the scaled coordinates.
    """
    (rows, columns), (height, width) = size, input.shape[2:]
    maps = input.unflatten(1, (-1, rows, columns))
    # An empty sum keeps the gradient's way open where there is no region.
    out = input.new_zeros(len(rois), *maps.shape[1:4]) + input[:0].sum()
    boxes = rois[:, 1:].to(input.dtype) * scale - shift
    for image in rois[:, 0].unique():
        mine = (rois[:, 0] == image).nonzero()[:, 0]
        left, top, right, bottom = boxes[mine].unbind(1)
        down, there_y, count_y = _axis(top, bottom, rows, height, ratio)
        across, there_x, count_x = _axis(left, right, columns, width, ratio)
        values = torch.einsum("niph,njqw,cijhw->ncijpq", down, across, maps[int(image)])
        if 0 in values.shape[-2:]:
            continue
        there = (there_y[:, :, None] & there_x[:, None])[:, None, None, None]
        if pool == "mean":
            total = values.masked_fill(~there, 0).sum((-1, -2))
            found = total / (count_y * count_x).clamp(min=1)[:, None, None, None]
        else:
            best = values.masked_fill(~there, -torch.inf).flatten(-2).max(-1).values
            found = best.masked_fill(~there.flatten(-2).any(-1), 0)
        out = out.index_put((mine,), found)
    return out
