"""Pictures as PNG files, one by one or in a grid; small ones are enlarged so that they are seen.

References:
    W3C (2003), "Portable Network Graphics (PNG) specification", section 4.

Shapes: H rows and W columns of pixels, C channels.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from paragone.multimodal.documents import picture
from paragone.training.run_folder import write_whole

__all__ = ["grid", "save_png"]

_SEEN = 64
_PAPER = 255


def grid(
    pictures: Sequence[np.ndarray], columns: int | None = None, seen: int = _SEEN
) -> np.ndarray:
    """Pictures side by side, each enlarged by a whole number so that its sides reach `seen`.

    Args:
        pictures: (H, W, C) each.
        columns: How many stand in a row (None: about as many as rows).
        seen: Pixels that the smaller side of the largest picture should have.

    Returns:
        (H, W, C) uint8, on white.

    Raises:
        ValueError: No picture.

    Example:
        >>> grid([np.zeros((8, 8, 1), np.uint8)] * 6, 3, seen=8).shape
        (19, 28, 1)
    """
    if not len(pictures):
        raise ValueError("no picture to show: at least one is expected")
    columns = columns or math.ceil(math.sqrt(len(pictures)))
    channels = max(one.shape[-1] for one in pictures)
    height, width = (max(one.shape[axis] for one in pictures) for axis in (0, 1))
    scale = max(1, seen // min(height, width))
    gap = max(1, scale // 2)
    rows = math.ceil(len(pictures) / columns)
    step = scale * height + gap, scale * width + gap
    page = np.full((rows * step[0] + gap, columns * step[1] + gap, channels), _PAPER, np.uint8)
    for number, one in enumerate(pictures):
        row, column = divmod(number, columns)
        large = picture(one, channels if one.shape[-1] < channels else None)
        large = large.repeat(scale, 0).repeat(scale, 1)
        top, left = row * step[0] + gap, column * step[1] + gap
        page[top : top + large.shape[0], left : left + large.shape[1]] = large
    return page


def save_png(pixels: np.ndarray, path: str | os.PathLike[str]) -> Path:
    """Writes a picture so that a reader finds the old one or the new one; returns its path."""
    pixels = picture(pixels)
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, "PNG")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, buffer.getvalue())
    return path
