r"""Pictures as Chameleon sees them: whole squares of one size.

What is transparent is laid on white, the shorter side is brought to S pixels by a windowed sinc
that looks at all pixels it covers, and the middle square is cut out,

$$ (H, W) \mapsto (\lfloor s H \rfloor, \lfloor s W \rfloor), \quad s = S / \min(H, W), \qquad
   x = p / 127.5 - 1 . $$

Hugging Face's processor multiplies by 0.0078 in place of 1 / 127.5, so that white is 0.989.

References:
    Chameleon Team (2024), arXiv:2405.09818, section 2.1; facebookresearch/chameleon,
    `image_tokenizer.py` (the steps and their order).

Shapes: n pictures, H and W pixels, S side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from paragone.multimodal.documents import picture

__all__ = ["ChameleonImageProcessor"]


class ChameleonImageProcessor:
    """Resizes and crops pictures to squares.

    Args:
        size: Side S.
        channels: 1 (grey) or 3 (colour).

    Raises:
        ValueError: A size below 1, or another number of channels.

    Example:
        >>> ChameleonImageProcessor(8)([np.zeros((20, 30), np.uint8)]).shape
        torch.Size([1, 3, 8, 8])
    """

    def __init__(self, size: int = 512, channels: int = 3) -> None:
        if size < 1:
            raise ValueError(f"size={size}: at least 1 pixel is expected")
        if channels not in (1, 3):
            raise ValueError(f"channels={channels}: 1 (grey) or 3 (colour) is expected")
        self.size, self.channels = size, channels

    def squared(self, source: Any) -> np.ndarray:
        """One picture as a square.

        Args:
            source: What `documents.picture` takes, of any size.

        Returns:
            (S, S, C) uint8.
        """
        pixels = picture(source, self.channels)
        if pixels.shape[:2] == (self.size, self.size):
            return pixels
        image = Image.fromarray(pixels[..., 0] if self.channels == 1 else pixels)
        scale = self.size / min(image.size)
        # A long picture of few pixels: the other side must not round below the square.
        wide, high = (max(self.size, int(side * scale)) for side in image.size)
        image = image.resize((wide, high), Image.Resampling.LANCZOS)
        left, top = (wide - self.size) // 2, (high - self.size) // 2
        image = image.crop((left, top, left + self.size, top + self.size))
        return picture(np.asarray(image), self.channels)

    def __call__(self, pictures: Sequence[Any] | np.ndarray) -> Tensor:
        """Pictures of any sizes as `ImageTokenizer.encode` takes them.

        Returns:
            (n, C, S, S) float32 from -1 to 1.

        Raises:
            ValueError: No picture, or one that is none.
        """
        made = [self.squared(one) for one in pictures]
        if not made:
            raise ValueError("there is no picture; at least one is expected")
        return torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2).float() / 127.5 - 1
