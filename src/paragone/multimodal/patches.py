r"""Raw patches: a picture as the rows of a matrix, with nothing lost.

A codebook is a bottleneck that can be counted: 64 x 64 pixels in colour at 3 bits a byte hold
36,864 bits, so that 256 tokens would need a vocabulary of 2^144. Patches have none: a picture is
cut into squares of p x p, and each is one token of p p C numbers, which one linear map brings to
the width of the model,

$$ x_{(r, c)} = \mathrm{vec}\, X_{rp : rp + p,\; cp : cp + p} \in [-1, 1]^{p p C}, \qquad
   h_{(r, c)} = W x_{(r, c)} + b . $$

The numbers of a patch are in the order rows, columns, channels, patches in raster order. Cutting
and joining are each other's inverse, bit for bit; what is no multiple of p is filled at the right
and the bottom with the pixels of its edge, and never cropped.

References:
    Bavishi et al. (2023), "Fuyu-8B: a multimodal architecture for AI agents" (raw patches by one
    linear map; order of the numbers).
    Su (2024), kexue.fm/archives/9984 (the count of bits).

Shapes: H x W pixels, C channels, p side of a patch, h = H / p and w = W / p, P = p p C numbers.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

__all__ = ["from_numbers", "padded", "patchify", "to_numbers", "unpatchify"]

Pixels = TypeVar("Pixels", Tensor, np.ndarray)


def patchify(pixels: Pixels, size: int) -> Pixels:
    """Cuts pictures into patches.

    Args:
        pixels: (..., H, W, C), H and W multiples of `size`; a tensor or an array of any type.
        size: Side p of a patch.

    Returns:
        (..., h w, p p C), a view's copy of the same type.

    Raises:
        ValueError: A shape that does not fit; `padded` makes one that does.

    Example:
        >>> patchify(np.arange(16).reshape(4, 4, 1), 2)[0].tolist()
        [0, 1, 4, 5]
    """
    _checked_size(size)
    if pixels.ndim < 3 or pixels.shape[-3] % size or pixels.shape[-2] % size:
        raise ValueError(
            f"pixels has shape {tuple(pixels.shape)}; (..., H, W, C) with H and W multiples of "
            f"size={size} is expected (`padded` fills up)"
        )
    *lead, rows, columns, channels = pixels.shape
    cut = pixels.reshape(*lead, rows // size, size, columns // size, size, channels)
    cut = _swapped(cut, -4, -3)
    return cut.reshape(*lead, rows // size * (columns // size), size * size * channels)


def unpatchify(patches: Pixels, rows: int, columns: int, size: int) -> Pixels:
    """Joins patches again.

    Args:
        patches: (..., h w, p p C).
        rows: Rows h of patches.
        columns: Columns w of patches.
        size: Side p of a patch.

    Returns:
        (..., H, W, C).

    Raises:
        ValueError: Numbers that do not fit.
    """
    _checked_size(size)
    shape = tuple(patches.shape)
    if patches.ndim < 2 or shape[-2] != rows * columns or shape[-1] % (size * size):
        raise ValueError(
            f"patches has shape {shape}; (..., {rows * columns}, a multiple of {size * size}) is "
            f"expected for {rows} x {columns} patches of {size} x {size}"
        )
    lead, channels = shape[:-2], shape[-1] // (size * size)
    joined = _swapped(patches.reshape(*lead, rows, columns, size, size, channels), -4, -3)
    return joined.reshape(*lead, rows * size, columns * size, channels)


def padded(picture: np.ndarray, size: int) -> np.ndarray:
    """Fills a picture up to multiples of `size`, at the right and the bottom, with its edge.

    Args:
        picture: (H, W, C).
        size: Side of a patch.
    """
    rows, columns = (-picture.shape[0] % size), (-picture.shape[1] % size)
    if not rows and not columns:
        return picture
    return np.pad(picture, ((0, rows), (0, columns), (0, 0)), mode="edge")


def to_numbers(picture: np.ndarray, size: int) -> Tensor:
    """(h w, P) float32 numbers from -1 (black) to 1 of a picture's patches, filled up if need be.

    Args:
        picture: (H, W, C) uint8.
        size: Side of a patch.
    """
    cut = patchify(padded(picture, size), size)
    return torch.from_numpy(cut.astype(np.float32) / np.float32(127.5) - np.float32(1))


def from_numbers(patches: Tensor, rows: int, columns: int, size: int) -> np.ndarray:
    """The picture (rows, columns, C) uint8 of patches; what was filled up is cut off.

    Args:
        patches: (h w, P), clipped to [-1, 1].
        rows: Rows H of pixels.
        columns: Columns W of pixels.
        size: Side of a patch.
    """
    pixels = unpatchify(patches.detach().cpu().float(), -(-rows // size), -(-columns // size), size)
    whole = ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return np.ascontiguousarray(whole[:rows, :columns].numpy())


def _swapped(x: Pixels, a: int, b: int) -> Pixels:
    return x.transpose(a, b) if isinstance(x, Tensor) else np.swapaxes(x, a, b)


def _checked_size(size: int) -> None:
    if size < 1:
        raise ValueError(f"size={size}: a patch has a side of at least 1 pixel")
