"""CARAFE and interpolation behind one call for the study `carafe_speed`: `(op, way, *numbers)`.

Operations: "carafe" (reassembly with given kernels), "bilinear" and "bicubic" (twice the size),
"resize" (bicubic, antialiased, to a third: torch's kernel and constant for both). The way is
"forward", or "both" with the gradients of all inputs. `truth` computes them in float64.

Shapes: B images, C channels, S side in pixels, s scale, k side of a kernel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from paragone._core.lazy import resolve
from paragone.lab.dense_images import give_back

__all__ = ["Ours", "Torch", "inputs", "truth"]


def inputs(
    op: str, way: str, channels: int, size: int, scale: int = 2, side: int = 5, groups: int = 1,
    last: bool = True, rows: int = 1,
) -> tuple[Any, ...]:  # fmt: skip
    """The operation, the way, maps, and for CARAFE kernels that add up to one."""
    rng = np.random.default_rng([channels, size, scale])
    form = torch.channels_last if last else torch.contiguous_format

    def normal(*shape: int) -> Tensor:
        found = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
        return found.contiguous(memory_format=form)

    x = normal(rows, channels, size, size)
    if op != "carafe":
        return op, way, x
    logits = normal(rows, groups, side**2, (size * scale) ** 2)
    kernels = logits.softmax(2).view(rows, groups * side**2, size * scale, size * scale)
    return op, way, x, kernels.contiguous(memory_format=form)


def _resized(op: str, x: Tensor) -> Tensor:
    if op == "resize":
        size = [n // 3 for n in x.shape[2:]]
        return functional.interpolate(x, size, mode="bicubic", antialias=True)
    return functional.interpolate(x, scale_factor=2, mode=op)


class _Calls:
    def __init__(self) -> None:
        # What is loaded once (kernels, torch's code for them and for the truth) is no memory of a
        # call.
        small = inputs("carafe", "both", 32, 8)
        self(*small)
        _Plain()(*small[:2], *(x.double() for x in small[2:]))
        give_back()

    def compute(self, op: str, *numbers: Tensor) -> Tensor:
        """The operation itself."""
        raise NotImplementedError

    def __call__(self, op: str, way: str, *numbers: Tensor) -> Any:
        if way == "forward":
            with torch.no_grad():
                return self.compute(op, *numbers)
        leaves = [x.detach().requires_grad_() for x in numbers]
        y = self.compute(op, *leaves)
        return (y.detach(), *torch.autograd.grad(y, leaves, y.detach()))


class Ours(_Calls):
    """Paragone's compiled reassembly, and its `Interpolate`."""

    def compute(self, op: str, *numbers: Tensor) -> Tensor:
        if op == "carafe":
            scale = numbers[1].shape[2] // numbers[0].shape[2]
            return resolve("paragone.vision.ops.carafe.call:carafe")(*numbers, scale)
        made = resolve("paragone.vision._upsampling_resize:Interpolate")
        if op == "resize":
            return made("bicubic", antialias=True)(
                numbers[0], (numbers[0].shape[2] // 3, numbers[0].shape[3] // 3)
            )
        return made(op, 2)(numbers[0])


def _unfolded(x: Tensor, kernels: Tensor) -> Tensor:
    (batch, channels, height, width), taps = x.shape, kernels.shape[1]
    side, scale = round(taps**0.5), kernels.shape[2] // max(height, 1)
    near = functional.unfold(x, side, padding=side // 2).view(batch, channels * taps, height, width)
    near = functional.interpolate(near, scale_factor=scale, mode="nearest")
    near = near.view(batch, channels, taps, *kernels.shape[2:])
    return (near * kernels[:, None]).sum(2)


class Torch(_Calls):
    """torch's interpolation; CARAFE as usual in plain torch, by copies of all neighbourhoods."""

    def compute(self, op: str, *numbers: Tensor) -> Tensor:
        return _unfolded(*numbers) if op == "carafe" else _resized(op, numbers[0])


class _Plain(Torch):
    def __init__(self) -> None:
        """Loads nothing."""


def truth(op: str, way: str, *numbers: Tensor) -> Any:
    """The result in float64."""
    found = _Plain()(op, way, *(x.double() for x in numbers))
    give_back()
    return found
