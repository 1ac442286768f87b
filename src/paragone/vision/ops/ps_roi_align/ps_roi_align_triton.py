"""Position-sensitive RoI align by Triton kernels: one lane for each number put out.

A lane walks through the samples of its bin; the way back adds to the four cells of each sample
(mean), or of the one that won (max), by atomics. Sums are float32.

References:
    Tillet, Kung and Cox (2019), "Triton: an intermediate language and compiler for tiled neural
    network computations".

Shapes: N regions, C channels put out, P x Q bins, H x W the map.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from paragone.kernels.launch import check, grid, start

__all__ = ["backward", "forward"]

_BLOCK = 128


@triton.jit
def _axis(at, size) -> Any:
    inside = (at >= -1.0) & (at <= size)
    at = tl.maximum(tl.where(inside, at, 0.0), 0.0)
    first = tl.minimum(at.to(tl.int32), size - 1)
    second = tl.minimum(first + 1, size - 1)
    part = tl.where(first >= size - 1, 0.0, at - first.to(tl.float32))
    there = inside.to(tl.float32)
    return first, second, (1.0 - part) * there, part * there


@triton.jit
def _edges(rois, n, scale, shift, mask, bins: tl.constexpr, first: tl.constexpr) -> Any:
    low = tl.load(rois + n * 5 + first, mask=mask, other=0.0).to(tl.float32) * scale - shift
    high = tl.load(rois + n * 5 + first + 2, mask=mask, other=0.0).to(tl.float32) * scale - shift
    return low, (high - low) / bins


@triton.jit
def _walk(
    x, rois, out, best, back, total, height, width, scale, shift,
    step_b, step_c, step_y, step_x, channels: tl.constexpr, rows: tl.constexpr,
    columns: tl.constexpr, ratio: tl.constexpr, largest: tl.constexpr, forth: tl.constexpr,
    block: tl.constexpr,
):  # fmt: skip
    lane = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    mask = lane < total
    j, i = lane % columns, (lane // columns) % rows
    n = lane // (channels * rows * columns)
    k = lane % (channels * rows * columns)
    image = tl.load(rois + n * 5, mask=mask, other=0.0).to(tl.int64)
    top, high = _edges(rois, n, scale, shift, mask, rows, 2)  # pyright: ignore
    left, wide = _edges(rois, n, scale, shift, mask, columns, 1)
    top, left = top + i.to(tl.float32) * high, left + j.to(tl.float32) * wide
    if ratio > 0:
        many_y = tl.full((block,), ratio, tl.int32)
        many_x = many_y
    else:
        many_y = tl.maximum(tl.ceil(high).to(tl.int32), 0)
        many_x = tl.maximum(tl.ceil(wide).to(tl.int32), 0)
    count = tl.where(mask, many_y * many_x, 0)
    place = image * step_b + k * step_c
    found = tl.zeros((block,), tl.float32)
    winner = tl.zeros((block,), tl.int32) - 1
    slope = tl.zeros((block,), tl.float32)
    if not forth:
        slope = tl.load(out + lane, mask=mask, other=0.0).to(tl.float32)
        if largest:
            winner = tl.load(best + lane, mask=mask, other=-1).to(tl.int32)
        else:
            slope = slope / tl.maximum(count, 1).to(tl.float32)
    some_y = tl.maximum(many_y, 1).to(tl.float32)
    some_x = tl.maximum(many_x, 1)
    for s in range(tl.max(count)):
        row, column = (s // some_x).to(tl.float32), (s % some_x).to(tl.float32)
        a, b, u, v = _axis(top + (row + 0.5) * high / some_y, height)  # pyright: ignore
        e, f, g, h = _axis(left + (column + 0.5) * wide / some_x.to(tl.float32), width)
        here = mask & (s < count)
        up, low = place + a.to(tl.int64) * step_y, place + b.to(tl.int64) * step_y
        one, two = e.to(tl.int64) * step_x, f.to(tl.int64) * step_x
        if forth:
            value = u * g * tl.load(x + up + one, mask=here, other=0.0).to(tl.float32)
            value += u * h * tl.load(x + up + two, mask=here, other=0.0).to(tl.float32)
            value += v * g * tl.load(x + low + one, mask=here, other=0.0).to(tl.float32)
            value += v * h * tl.load(x + low + two, mask=here, other=0.0).to(tl.float32)
            if largest:
                better = here & ((winner < 0) | (value > found))
                found = tl.where(better, value, found)
                winner = tl.where(better, s, winner)
            else:
                found += value
        else:
            if largest:
                here = here & (winner == s)
            tl.atomic_add(back + up + one, slope * u * g, mask=here)
            tl.atomic_add(back + up + two, slope * u * h, mask=here)
            tl.atomic_add(back + low + one, slope * v * g, mask=here)
            tl.atomic_add(back + low + two, slope * v * h, mask=here)
    if forth:
        if largest:
            tl.store(best + lane, winner, mask=mask)
        else:
            found = found / tl.maximum(count, 1).to(tl.float32)
        tl.store(out + lane, found.to(out.dtype.element_ty), mask=mask)


_kernel: Any = _walk


def _launch(
    x: Tensor, rois: Tensor, out: Tensor, best: Tensor, back: Tensor, scale: float, ratio: int,
    shift: float, forth: bool,
) -> None:  # fmt: skip
    total = out.numel()
    size = grid("ps_roi_align", -(-total // _BLOCK))
    start(
        _kernel, size, x, rois, out, best, back, total, *x.shape[2:], scale, shift,
        *back.stride(), channels=out.shape[1], rows=out.shape[2], columns=out.shape[3],
        ratio=ratio, largest=best.numel() > 0, forth=forth, block=_BLOCK,
    )  # fmt: skip


def forward(
    input: Tensor, rois: Tensor, out: Tensor, best: Tensor, scale: float, ratio: int, shift: float
) -> None:
    """Fills `out` (N, C, P, Q), and `best` with the sample that won unless it is empty.

    Args:
        input: (B, C P Q, H, W), any strides.
        rois: (N, 5) float32.
        out: Of the input's dtype.
        best: int32, as large as `out` for the maximum, empty for the mean.
        scale: From the units of the regions to cells.
        ratio: Samples a bin and axis; 0: adaptive.
        shift: Taken from scaled coordinates.
    """
    check("ps_roi_align", input=input)
    _launch(input, rois, out, best, input, scale, ratio, shift, forth=True)


def backward(
    grad: Tensor, rois: Tensor, best: Tensor, back: Tensor, scale: float, ratio: int, shift: float
) -> None:
    """Adds the gradient of `forward` to `back`, float32 of the input's shape.

    Args:
        grad: (N, C, P, Q), contiguous.
        rois: (N, 5) float32.
        best: As filled by `forward`.
        back: Zeros at first.
        scale: As there.
        ratio: As there.
        shift: As there.
    """
    check("ps_roi_align", grad=grad)
    _launch(back, rois, grad, best, back, scale, ratio, shift, forth=False)
