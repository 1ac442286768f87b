"""Layers of a network that only answers; each runs one compiled kernel.

Shapes: B batch, C channels, H and W height and width.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from paragone.kernels.simd import WIDTH
from paragone.kernels.teams import share
from paragone.kernels.tiles import TILE_COLUMNS
from paragone.vision.ops.answer._cpu_kernels import (
    activate_map,
    interleave,
    pointwise,
    squeeze_excite,
)
from paragone.vision.ops.norm_act._cpu import FORMS

__all__ = ["Activate", "Interleave", "Pointwise", "SqueezeExcite", "panels"]

_LAST, _WORTH = torch.channels_last, 1 << 16


def _form(activation: str) -> tuple[int, int, np.float32, np.float32]:
    family, times, low, high = FORMS[activation]
    return family, times, np.float32(low), np.float32(high)


def _threads(work: int) -> int:
    return torch.get_num_threads() if work > _WORTH else 1


def _rows(x: Tensor) -> tuple[Tensor, int]:
    """A map (B, H, W, C), copied only if its places do not follow one another, and their step."""
    images, height, width, size = x.shape
    step = x.stride(2)
    regular = x.stride(1) == step * width and (
        images == 1 or x.stride(0) == step * width * height
    )  # fmt: skip
    if not regular or (size > 1 and x.stride(3) != 1) or step < size:
        return x.contiguous(), size
    return x, step


def panels(weight: Tensor) -> Tensor:
    """Weights (outputs, inputs) as the kernel reads them: panels of outputs, input by input."""
    parts = []
    for part in weight.split(TILE_COLUMNS):
        more = -len(part) % WIDTH
        parts.append(functional.pad(part, (0, 0, 0, more)).t().reshape(-1))
    return torch.cat(parts).contiguous()


class Pointwise(nn.Module):
    """A convolution of one pixel, with a shortcut and an activation.

    Args:
        weight: (outputs, inputs).
        bias: (outputs,), or None.
        activation: A key of `FORMS`.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, activation: str) -> None:
        super().__init__()
        self.outer, self.inner = weight.shape
        self.weight = panels(weight.detach())
        self.bias = torch.zeros(self.outer) if bias is None else bias.detach().contiguous()
        self.form = _form(activation)

    def forward(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        images, _, height, width = x.shape
        x, step = _rows(x.permute(0, 2, 3, 1))
        y = torch.empty((images, self.outer, height, width), memory_format=_LAST)
        rows, more = images * height * width, 0
        if shortcut is not None:
            shortcut = shortcut.contiguous(memory_format=_LAST)
            more = shortcut.data_ptr()
        given = (x.data_ptr(), self.weight.data_ptr(), self.bias.data_ptr(), more, y.data_ptr())
        # Rows of a unit stay in the second cache while all panels pass over them.
        block = min(max((1 << 16) // self.inner // 6 * 6, 6), 240)
        share(
            pointwise, (rows + block - 1) // block, np.array(given, np.int64), rows, step,
            self.inner, self.outer, block, *self.form, threads=_threads(rows * self.inner),
        )  # fmt: skip
        return y


class Activate(nn.Module):
    """An activation in place, of a map that nobody else reads.

    Args:
        activation: A key of `FORMS`.
    """

    def __init__(self, activation: str) -> None:
        super().__init__()
        self.form = _form(activation)

    def forward(self, x: Tensor) -> Tensor:
        size, block = x.numel(), 1 << 14
        words = np.array([x.data_ptr()], np.int64)
        share(
            activate_map, (size + block - 1) // block, words, size, block, *self.form,
            threads=_threads(size),
        )  # fmt: skip
        return x


class Interleave(nn.Module):
    """Channels of two maps in turn, for maps (B, H, W, C) as they lie in memory."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        a, a_row = _rows(a)
        b, b_row = _rows(b)
        y = torch.empty((*a.shape[:3], 2 * a.shape[3]))
        rows, block = a.shape[:3].numel(), 64
        words = np.array([a.data_ptr(), b.data_ptr(), y.data_ptr()], np.int64)
        share(
            interleave, (rows + block - 1) // block, words, rows, a.shape[3], block, a_row, b_row,
            threads=_threads(y.numel()),
        )  # fmt: skip
        return y


class SqueezeExcite(nn.Module):
    """Squeeze and excitation in place, of a map that nobody else reads.

    Args:
        first: Weight (small, C) and bias of the product that squeezes.
        second: Weight (C, small) and bias of the one that excites.
        activations: Of both, keys of `FORMS`.
    """

    def __init__(
        self, first: tuple[Tensor, Tensor | None], second: tuple[Tensor, Tensor | None],
        activations: tuple[str, str],
    ) -> None:  # fmt: skip
        super().__init__()
        self.small, self.size = first[0].shape
        self.tensors = []
        for weight, bias in (first, second):
            offset = torch.zeros(len(weight)) if bias is None else bias.detach().contiguous()
            self.tensors += [weight.detach().t().contiguous(), offset]
        a, b = (_form(name) for name in activations)
        self.forms = np.array([a[0], a[1], b[0], b[1]], np.int64)
        self.low, self.high = np.array([a[2], b[2]]), np.array([a[3], b[3]])

    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=_LAST)
        images, _, height, width = x.shape
        words = np.array([t.data_ptr() for t in (x, *self.tensors)], np.int64)
        share(
            squeeze_excite, images, words, height * width, self.size, self.small, self.forms,
            self.low, self.high, threads=_threads(x.numel()),
        )  # fmt: skip
        return x
