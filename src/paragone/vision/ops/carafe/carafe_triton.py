r"""Reassembly of CARAFE by Triton kernels, forward and backward, without atomic additions.

Maps are read as NHWC whatever their memory format, kernels packed, (B, H, W, G, s s, k k). A
program takes a tile of output pixels and channels forward, of input pixels and channels for the
gradient of the maps, and of output pixels for that of the kernels,

$$ \bar x_{c,q} = \sum_{t} \sum_{p:\, \lfloor p/s \rfloor = q - t} \mathcal{W}_{t,p}\,
   \bar y_{c,p}, \qquad
   \bar{\mathcal{W}}_{t,p} = \sum_c \bar y_{c,p}\, x_{c,\, \lfloor p/s \rfloor + t} . $$

Cost: $s^2 k^2 C$ multiplications an input pixel, three times; sums are float32.

References:
    Wang et al. (2019), "CARAFE", arXiv:1905.02188, eq. 5.

Shapes: B batch, C channels, H and W input size, s scale, k side of a kernel, G groups.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from paragone.kernels.launch import INTERPRETER, Tile, check, grid, power_of_two, start, tile

__all__ = ["carafe"]

_TILES = {
    INTERPRETER: [Tile(64, 16)],
    75: [Tile(64, 32)],
    80: [Tile(64, 64)],
    90: [Tile(128, 64, 8)],
}


@triton.jit
def _forward(
    x, kernels, y, height, width, channels, wide, groups, scale, SIDE: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    b = (tl.program_id(1) // groups).to(tl.int64)
    g = tl.program_id(1) - b * groups
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    area, block = height * width, scale * scale
    down, across = i // (width * scale), i % (width * scale)
    row, column, pixel = down // scale, across // scale, down % scale * scale + across % scale
    here, there = i < area * block, (c < wide)[None, :]
    own = (((b * area + row * width + column) * groups + g) * block + pixel) * SIDE * SIDE
    found = tl.zeros([ROWS, COLUMNS], tl.float32)
    for t in range(SIDE * SIDE):
        r, q = row + t // SIDE - SIDE // 2, column + (t - t // SIDE * SIDE) - SIDE // 2
        inside = here & (r >= 0) & (r < height) & (q >= 0) & (q < width)
        weight = tl.load(kernels + own + t, mask=inside, other=0.0).to(tl.float32)
        near = (b * area + r * width + q)[:, None] * channels + (g * wide + c)[None, :]
        value = tl.load(x + near, mask=inside[:, None] & there, other=0.0).to(tl.float32)
        found += weight[:, None] * value
    place = (b * area * block + i)[:, None] * channels + (g * wide + c)[None, :]
    tl.store(y + place, found.to(y.dtype.element_ty), mask=here[:, None] & there)


@triton.jit
def _to_maps(
    kernels, dy, dx, height, width, channels, wide, groups, scale, SIDE: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    b = (tl.program_id(1) // groups).to(tl.int64)
    g = tl.program_id(1) - b * groups
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    area, block = height * width, scale * scale
    row, column = i // width, i % width
    here, there = i < area, (c < wide)[None, :]
    found = tl.zeros([ROWS, COLUMNS], tl.float32)
    for t in range(SIDE * SIDE):
        r, q = row - t // SIDE + SIDE // 2, column - (t - t // SIDE * SIDE) + SIDE // 2
        inside = here & (r >= 0) & (r < height) & (q >= 0) & (q < width)
        own = ((b * area + r * width + q) * groups + g) * block * SIDE * SIDE + t
        for pixel in range(block):
            weight = tl.load(kernels + own + pixel * SIDE * SIDE, mask=inside, other=0.0)
            out_row, out_column = r * scale + pixel // scale, q * scale + pixel % scale
            place = b * area * block + out_row * width * scale + out_column
            near = place[:, None] * channels + (g * wide + c)[None, :]
            value = tl.load(dy + near, mask=inside[:, None] & there, other=0.0)
            found += weight.to(tl.float32)[:, None] * value.to(tl.float32)
    place = (b * area + i)[:, None] * channels + (g * wide + c)[None, :]
    tl.store(dx + place, found.to(dx.dtype.element_ty), mask=here[:, None] & there)


@triton.jit
def _to_kernels(
    x, dy, dkernels, height, width, channels, wide, groups, scale, SIDE: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    b = (tl.program_id(1) // groups).to(tl.int64)
    g = tl.program_id(1) - b * groups
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    area, block, t = height * width, scale * scale, tl.program_id(2)
    down, across = i // (width * scale), i % (width * scale)
    row, column, pixel = down // scale, across // scale, down % scale * scale + across % scale
    here = i < area * block
    r, q = row + t // SIDE - SIDE // 2, column + (t - t // SIDE * SIDE) - SIDE // 2
    inside = here & (r >= 0) & (r < height) & (q >= 0) & (q < width)
    found = tl.zeros([ROWS, COLUMNS], tl.float32)
    for first in range(0, wide, COLUMNS):
        c = first + tl.arange(0, COLUMNS)
        mask = inside[:, None] & (c < wide)[None, :]
        near = (b * area + r * width + q)[:, None] * channels + (g * wide + c)[None, :]
        place = (b * area * block + i)[:, None] * channels + (g * wide + c)[None, :]
        value = tl.load(x + near, mask=mask, other=0.0).to(tl.float32)
        found += value * tl.load(dy + place, mask=mask, other=0.0).to(tl.float32)
    own = (((b * area + row * width + column) * groups + g) * block + pixel) * SIDE * SIDE + t
    tl.store(dkernels + own, tl.sum(found, 1).to(dkernels.dtype.element_ty), mask=here)


def _nhwc(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).contiguous()


def _launch(kernel: Any, x: Tensor, packed: Tensor, first: int, last: int, *given: Tensor) -> None:
    """Starts programs over `first` pixels, images and groups, and channels or `last` taps."""
    batch, height, width, groups, block, taps = packed.shape
    wide, best = x.shape[1] // groups, tile(_TILES, x.device)
    columns = min(best.columns, power_of_two(wide, 1))
    third = last or -(-wide // columns)
    start(
        kernel, grid("carafe", -(-first // best.rows), batch * groups, third), *given, height,
        width, x.shape[1], wide, groups, math.isqrt(block), SIDE=math.isqrt(taps), ROWS=best.rows,
        COLUMNS=columns, num_warps=best.warps, num_stages=best.stages,
    )  # fmt: skip


@torch.library.custom_op("paragone::carafe_triton", mutates_args=())
def carafe(x: Tensor, packed: Tensor) -> Tensor:
    """As `reference.carafe` with packed kernels; the result is NHWC in memory."""
    check("carafe", x=x, packed=packed)
    y, height, width = _output(x, packed), *packed.shape[1:3]
    if y.numel():
        pixels = height * width * packed.shape[4]
        _launch(
            _forward, x, packed, pixels, 0, _nhwc(x), packed.contiguous(), y.permute(0, 2, 3, 1)
        )
    return y


def _output(x: Tensor, packed: Tensor) -> Tensor:
    batch, height, width, _, block, _ = packed.shape
    scale = math.isqrt(block)
    y = x.new_empty(batch, height * scale, width * scale, x.shape[1])
    return y.permute(0, 3, 1, 2)


@carafe.register_fake
def _(x, packed):
    return _output(x, packed)


@torch.library.custom_op("paragone::carafe_triton_backward", mutates_args=())
def _backward(x: Tensor, packed: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
    dx, dpacked = _like(x), packed.new_empty(packed.shape)
    if dy.numel():
        area, inner = packed.shape[1] * packed.shape[2], packed.contiguous()
        near, given = _nhwc(x), _nhwc(dy)
        _launch(_to_maps, x, packed, area, 0, inner, given, dx.permute(0, 2, 3, 1))
        block, taps = packed.shape[4:]
        _launch(_to_kernels, x, packed, area * block, taps, near, given, dpacked)
    else:
        dx.zero_()
    return dx, dpacked


def _like(x: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    return x.new_empty(batch, height, width, channels).permute(0, 3, 1, 2)


@_backward.register_fake
def _(x, packed, dy):
    return _like(x), packed.new_empty(packed.shape)


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _gradients(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
    x, packed = ctx.saved_tensors
    return _backward(x, packed, dy)


carafe.register_autograd(_gradients, setup_context=_keep)
