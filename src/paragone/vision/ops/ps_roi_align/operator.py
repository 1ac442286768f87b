"""The kernels of position-sensitive RoI align as an operator of torch, with its gradient.

References:
    torch.library's manual, "Custom operators" (schema, fake, autograd, opcheck).

Shapes: B images, N regions, C channels put out, P x Q bins, H x W the map.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from paragone.kernels.teams import share

__all__ = ["ps_roi_align_op", "run"]


def _flat(x: Tensor) -> np.ndarray:
    """The memory of a tensor as one row, whatever its strides."""
    span = sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True)) + 1
    return torch.as_strided(x.detach(), (span,), (1,), x.storage_offset()).numpy()


class _Weights:
    """Rows of weights of each region's bins, on both axes."""

    def __init__(self, edges: np.ndarray, sizes: tuple[int, ...], bins: tuple[int, int],
                 ratio: int) -> None:  # fmt: skip
        from paragone.vision.ops.ps_roi_align._cpu_kernels import weigh

        found = []
        for axis, (size, count) in enumerate(zip(sizes, bins, strict=True)):
            ends = np.ascontiguousarray(edges[:, [1 - axis, 3 - axis]])
            first = np.empty((len(edges), count), np.int64)
            last, weights = np.empty_like(first), np.zeros((*first.shape, size), np.float32)
            weigh(ends, count, ratio, size, first, last, weights)
            found.append((first, last, weights))
        (ys, y_ends, down), (xs, x_ends, across) = found
        self.parts = (ys, xs, y_ends, x_ends, down, across)


def _edges(rois: Tensor, scale: float, shift: float) -> np.ndarray:
    return rois.numpy()[:, 1:] * np.float32(scale) - np.float32(shift)


def _forward_cpu(
    input: Tensor, rois: Tensor, out: Tensor, best: Tensor, scale: float, ratio: int, shift: float
) -> None:
    from paragone.vision.ops.ps_roi_align import _cpu_kernels as kernels

    edges, images = _edges(rois, scale, shift), rois.numpy()[:, 0].astype(np.int64)
    x, strides, (height, width) = _flat(input), np.array(input.stride()), input.shape[2:]
    threads = torch.get_num_threads()
    if best.numel():
        share(kernels.max_forward, len(rois), x, strides, images, edges, ratio, height, width,
              out.numpy(), best.numpy(), threads=threads)  # fmt: skip
    else:
        weights = _Weights(edges, (height, width), (out.shape[2], out.shape[3]), ratio)
        share(kernels.mean_forward, len(rois), x, strides, images, *weights.parts, out.numpy(),
              threads=threads)  # fmt: skip


def _backward_cpu(
    grad: Tensor, rois: Tensor, best: Tensor, back: Tensor, scale: float, ratio: int, shift: float
) -> None:
    from paragone.vision.ops.ps_roi_align import _cpu_kernels as kernels

    edges, images = _edges(rois, scale, shift), rois.numpy()[:, 0].astype(np.int64)
    order = np.argsort(images, kind="stable")
    starts = np.searchsorted(images[order], np.arange(len(back) + 1))
    strides, (height, width) = np.array(back.stride()), back.shape[2:]
    units, threads, g = len(back) * grad.shape[2], torch.get_num_threads(), grad.detach().numpy()
    if best.numel():
        share(kernels.max_backward, units, g, best.numpy(), order, starts, edges, ratio, height,
              width, strides, _flat(back), threads=threads)  # fmt: skip
    else:
        weights = _Weights(edges, (height, width), (grad.shape[2], grad.shape[3]), ratio)
        share(kernels.mean_backward, units, g, order, starts, *weights.parts, strides,
              _flat(back), threads=threads)  # fmt: skip


def run(
    input: Tensor, rois: Tensor, rows: int, columns: int, scale: float, ratio: int, largest: bool,
    shift: float, triton: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """What the operator computes, for callers that need no gradient; see `ps_roi_align_op`.

    Args:
        input: As there.
        rois: As there.
        rows: As there.
        columns: As there.
        scale: As there.
        ratio: As there.
        largest: As there.
        shift: As there.
        triton: As there.
    """
    out, best = _made(input, rois, rows, columns, largest)
    if out.numel():
        if triton:
            from paragone.vision.ops.ps_roi_align.ps_roi_align_triton import forward
        else:
            forward = _forward_cpu
        forward(input, rois.contiguous(), out, best, scale, ratio, shift)
    return out, best


@torch.library.custom_op("paragone::ps_roi_align", mutates_args=())
def ps_roi_align_op(
    input: Tensor, rois: Tensor, rows: int, columns: int, scale: float, ratio: int, largest: bool,
    shift: float, triton: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Returns (N, C, P, Q) and which sample won (int32, empty for the mean).

    Args:
        input: (B, C P Q, H, W).
        rois: (N, 5) float32, checked.
        rows: P.
        columns: Q.
        scale: From the units of the regions to cells.
        ratio: Samples a bin and axis; 0: adaptive.
        largest: Whether the largest sample is kept, in place of their mean.
        shift: Taken from scaled coordinates.
        triton: Whether Triton computes it.
    """
    return run(input, rois, rows, columns, scale, ratio, largest, shift, triton)


def _made(
    input: Tensor, rois: Tensor, rows: int, columns: int, largest: bool
) -> tuple[Tensor, Tensor]:
    shape = (rois.shape[0], input.shape[1] // (rows * columns), rows, columns)
    out = input.new_empty(shape)
    return out, input.new_empty(shape if largest else (0,), dtype=torch.int32)


@ps_roi_align_op.register_fake
def _(input, rois, rows, columns, scale, ratio, largest, shift, triton):
    return _made(input, rois, rows, columns, largest)


@torch.library.custom_op("paragone::ps_roi_align_backward", mutates_args=())
def _backward(
    grad: Tensor, input: Tensor, rois: Tensor, best: Tensor, scale: float, ratio: int,
    shift: float, triton: bool,
) -> Tensor:  # fmt: skip
    back = _like(input).zero_()
    if grad.numel() and back.numel():
        if triton:
            from paragone.vision.ops.ps_roi_align.ps_roi_align_triton import backward
        else:
            backward = _backward_cpu
        backward(grad.contiguous(), rois.contiguous(), best, back, scale, ratio, shift)
    return back.to(input.dtype)


def _like(input: Tensor) -> Tensor:
    """Dense memory in the order of the input's axes; float32, for sums."""
    last = input.is_contiguous(memory_format=torch.channels_last)
    order = torch.channels_last if last else torch.contiguous_format
    return torch.empty_like(input, dtype=torch.float32, memory_format=order)


@_backward.register_fake
def _(grad, input, rois, best, scale, ratio, shift, triton):
    return _like(input).to(input.dtype)


def _keep(ctx, inputs, output):
    input, rois, _, _, *options = inputs
    ctx.save_for_backward(input, rois, output[1])
    scale, ratio, _, shift, triton = options
    ctx.options = (scale, ratio, shift, triton)
    ctx.mark_non_differentiable(output[1])


def _turn(ctx, grad, _):
    back = _backward(grad, *ctx.saved_tensors, *ctx.options)
    return back, *[None] * 8


ps_roi_align_op.register_autograd(_turn, setup_context=_keep)
