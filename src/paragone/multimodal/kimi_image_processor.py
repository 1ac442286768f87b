r"""Kimi-VL's image processor: pictures at their own size, cut into patches.

A picture of h x w pixels has $\lfloor h/p \rfloor \lfloor w/p \rfloor$ patches, at least 1 along
a side. Only if they are more than N, or a side has more than S, both sides shrink by one factor,

$$ s = \min\!\Big(1, \sqrt{\tfrac{N}{\lfloor h/p \rfloor \lfloor w/p \rfloor}},
   \tfrac{S p}{h}, \tfrac{S p}{w}\Big), \qquad h' = \lfloor s h \rfloor, \quad
   w' = \lfloor s w \rfloor , $$

and then black pixels are added on the right and at the bottom up to multiples of $k p$, with k
patches merged along a side. No pixel is cut off. Colours go from 0..255 to [-1, 1].

Cost: O(h w), Pillow and NumPy alone.

References:
    Kimi Team (2025), Kimi-VL technical report, arXiv:2504.07491, section 2.1.
    Dehghani et al. (2023), Patch n' Pack (NaViT), arXiv:2307.06304, section 2.

Shapes: n pictures, L patches in all, p pixels of a patch's side, C channels.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paragone.multimodal.documents import picture

__all__ = ["KimiImageProcessor"]

_FILE = "preprocessor_config.json"


@dataclasses.dataclass(frozen=True)
class KimiImageProcessor:
    """Pictures to packed patches and the grid of each; names are those of the published file.

    Prefer it to a processor of one input size where small print or long strips must stay legible.

    Args:
        patch_size: Pixels p of a patch's side.
        merge_kernel_size: Rows and columns of patches that become one token.
        in_token_limit: Most patches N of a picture, before padding.
        patch_limit_on_one_side: Most patches S along a side (Kimi-VL's own refuses longer ones,
            K2.5's shrinks them, and so does this one).
        image_mean: What is taken off each channel, of colours from 0 to 1.
        image_std: What each channel is divided by.
        num_channels: 3, or 1 for grey pictures.

    Raises:
        ValueError: A size below 1, or means and deviations that do not fit.

    Example:
        >>> patches, grids = KimiImageProcessor()([np.zeros((30, 50, 3), np.uint8)])
        >>> patches.shape, grids.tolist()
        (torch.Size([16, 3, 14, 14]), [[4, 4]])
    """

    patch_size: int = 14
    merge_kernel_size: tuple[int, int] = (2, 2)
    in_token_limit: int = 4096
    patch_limit_on_one_side: int = 512
    image_mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    image_std: tuple[float, ...] = (0.5, 0.5, 0.5)
    num_channels: int = 3

    def __post_init__(self) -> None:
        for name in ("merge_kernel_size", "image_mean", "image_std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if len(self.merge_kernel_size) != 2 or min(self.merge_kernel_size) < 1:
            raise ValueError(
                f"merge_kernel_size={self.merge_kernel_size}: rows and columns of at least 1"
            )
        for name in ("patch_size", "in_token_limit", "patch_limit_on_one_side"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: at least 1")
        if self.num_channels not in (1, 3):
            raise ValueError(f"num_channels={self.num_channels}: 1 (grey) or 3 (colour)")
        for name in ("image_mean", "image_std"):
            if len(getattr(self, name)) < self.num_channels:
                raise ValueError(
                    f"{name}={getattr(self, name)} for {self.num_channels} channels; one number "
                    "each is expected"
                )
        if min(self.image_std) <= 0:
            raise ValueError(f"image_std={self.image_std}: numbers above 0 are expected")

    def sizes(self, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Rows and columns of pixels after shrinking, and after padding.

        Example:
            >>> KimiImageProcessor().sizes(14 * 128, 14 * 64)
            ((1267, 633), (1288, 644))
        """
        p, most = self.patch_size, self.patch_limit_on_one_side * self.patch_size
        count = max(1, height // p) * max(1, width // p)
        scale = min(1.0, most / height, most / width)
        if count > self.in_token_limit:
            scale = min(scale, math.sqrt(self.in_token_limit / count))
        small = (max(1, int(height * scale)), max(1, int(width * scale)))
        steps = (self.merge_kernel_size[0] * p, self.merge_kernel_size[1] * p)
        padded = (-(-small[0] // steps[0]) * steps[0], -(-small[1] // steps[1]) * steps[1])
        return small, padded

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches of a picture of so many pixels."""
        _, (high, wide) = self.sizes(height, width)
        return high // self.patch_size, wide // self.patch_size

    def tokens(self, height: int, width: int) -> int:
        """Tokens that a picture takes in a text, after merging."""
        rows, columns = self.grid(height, width)
        return rows * columns // math.prod(self.merge_kernel_size)

    def __call__(self, pictures: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """Cuts pictures into patches.

        Args:
            pictures: What `paragone.multimodal.picture` takes, of any sizes.

        Returns:
            (L, C, p, p) float32, of each picture row by row, and (n, 2) int64, the rows and
            columns of patches.

        Raises:
            ValueError: Something that is no picture.
        """
        p, channels = self.patch_size, self.num_channels
        mean, std = (np.array(x[:channels], np.float32) for x in (self.image_mean, self.image_std))
        found, grids = [np.zeros((0, channels, p, p), np.float32)], []
        for one in pictures:
            pixels = self._fitted(picture(one, channels))
            rows, columns = pixels.shape[0] // p, pixels.shape[1] // p
            values = (pixels.astype(np.float32) / np.float32(255) - mean) / std
            cut = values.reshape(rows, p, columns, p, channels).transpose(0, 2, 4, 1, 3)
            found.append(cut.reshape(-1, channels, p, p))
            grids.append((rows, columns))
        return (
            torch.from_numpy(np.concatenate(found)),
            torch.tensor(grids, dtype=torch.int64).reshape(-1, 2),
        )

    def _fitted(self, pixels: np.ndarray) -> np.ndarray:
        """Shrunk and padded."""
        (height, width), (high, wide) = self.sizes(*pixels.shape[:2])
        if (height, width) != pixels.shape[:2]:
            pixels = _shrunk(pixels, height, width)
        return np.pad(pixels, ((0, high - height), (0, wide - width), (0, 0)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> KimiImageProcessor:
        """From the keys of a published `preprocessor_config.json`; others are left out.

        Raises:
            ValueError: A file that asks for cropping instead of padding, or values out of range.
        """
        if not values.get("pad_input", True):
            raise ValueError(
                "pad_input=False crops pictures to whole patches; pictures are padded here, as "
                "Kimi-VL's own file has it"
            )
        known = {field.name for field in dataclasses.fields(cls)}
        return cls(**{key: value for key, value in values.items() if key in known})

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> KimiImageProcessor:
        """Reads `preprocessor_config.json`.

        Raises:
            ValueError: No such file, or contents that do not fit.
        """
        path = Path(folder) / _FILE
        if not path.is_file():
            raise ValueError(f"{path}: no such file; the folder of a model has one")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return cls.from_dict(values)
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: {error}") from error

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Writes `preprocessor_config.json`; returns its path."""
        values = {"image_processor_type": "KimiVLImageProcessor", "pad_input": True}
        path = Path(folder) / _FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(values | dataclasses.asdict(self), indent=2, sort_keys=True)
        path.write_text(text + "\n", encoding="utf-8")
        return path


def _shrunk(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    from PIL import Image

    grey = pixels.shape[-1] == 1
    image = Image.fromarray(pixels[..., 0] if grey else pixels)
    small = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    return small[..., None] if grey else small
