r"""Qwen2-VL's image processor: pictures near their own size, cut into blocks of patches.

A picture is resized, by cubic interpolation, to the nearest multiples of $k p$ whose product lies
between two bounds (`smart_resize`), so that k x k patches of p pixels become one token and none is
cut off. Colours are normalised by the mean and deviation of CLIP's training pictures,

$$ v = (x / 255 - \mu) / \sigma , $$

and a patch's numbers are ordered (C, 2, p, p): a still picture is a film of two equal frames.
Patches come block by block, the k x k of a token side by side.

Cost: O(h w), Pillow and NumPy alone; the 256 values of a channel are computed once.

References:
    Wang et al. (2024), Qwen2-VL, arXiv:2409.12191, section 2.1.
    Radford et al. (2021), CLIP, arXiv:2103.00020 (mean and deviation).

Shapes: n pictures, L patches in all, p pixels of a patch's side, C channels.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paragone.multimodal.agent.coordinates import smart_resize
from paragone.multimodal.documents import picture

__all__ = ["Qwen2VLImageProcessor"]

_FILE = "preprocessor_config.json"


@dataclasses.dataclass(frozen=True)
class Qwen2VLImageProcessor:
    """Pictures to packed patches and the grid of each; names are those of the published file.

    Prefer it to `KimiImageProcessor` for weights of the Qwen2-VL family alone: that one keeps
    pictures as they are and pads them, this one resizes nearly all of them a little.

    Args:
        patch_size: Pixels p of a patch's side.
        merge_size: Patches k along a side that become one token.
        temporal_patch_size: Frames of a patch.
        min_pixels: Fewest pixels of a picture.
        max_pixels: Most pixels of a picture.
        image_mean: What is taken off each channel, of colours from 0 to 1.
        image_std: What each channel is divided by.

    Raises:
        ValueError: A size below 1, bounds in the wrong order, or means and deviations that are not
            three.

    Example:
        >>> values, grids = Qwen2VLImageProcessor()([np.zeros((60, 100, 3), np.uint8)])
        >>> values.shape, grids.tolist()
        (torch.Size([32, 1176]), [[1, 4, 8]])
    """

    patch_size: int = 14
    merge_size: int = 2
    temporal_patch_size: int = 2
    min_pixels: int = 56 * 56
    max_pixels: int = 16384 * 28 * 28
    image_mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    image_std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)

    def __post_init__(self) -> None:
        for name in ("image_mean", "image_std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
            if len(getattr(self, name)) != 3:
                raise ValueError(f"{name}={getattr(self, name)}: three numbers are expected")
        for name in ("patch_size", "merge_size", "temporal_patch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: at least 1")
        if not 0 < self.min_pixels <= self.max_pixels:
            raise ValueError(
                f"min_pixels={self.min_pixels}, max_pixels={self.max_pixels}: above 0, and the "
                "first at most the second"
            )
        if min(self.image_std) <= 0:
            raise ValueError(f"image_std={self.image_std}: numbers above 0 are expected")

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of pixels as the model sees a picture of so many.

        Raises:
            ValueError: A picture without pixels, or more than 200 times as long as wide.

        Example:
            >>> Qwen2VLImageProcessor().resized(720, 1280)
            (728, 1288)
        """
        factor = self.patch_size * self.merge_size
        return smart_resize(height, width, factor, self.min_pixels, self.max_pixels)

    def grid(self, height: int, width: int) -> tuple[int, int, int]:
        """Frames, rows and columns of patches of a picture of so many pixels."""
        rows, columns = self.resized(height, width)
        return 1, rows // self.patch_size, columns // self.patch_size

    def tokens(self, height: int, width: int) -> int:
        """Tokens that a picture takes in a text, after merging."""
        _, rows, columns = self.grid(height, width)
        return rows * columns // self.merge_size**2

    def __call__(self, pictures: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """Cuts pictures into patches.

        Args:
            pictures: What `paragone.multimodal.picture` takes, of any sizes.

        Returns:
            (L, C 2 p^2) float32, and (n, 3) int64: frames, rows and columns of patches.

        Raises:
            ValueError: Something that is no picture, or one too long.
        """
        table, p, k = self._table(), self.patch_size, self.merge_size
        width = 3 * self.temporal_patch_size * p * p
        found, grids = [np.zeros((0, width), np.float32)], []
        for one in pictures:
            pixels = _resized(picture(one, 3), self.resized)
            rows, columns = pixels.shape[0] // p, pixels.shape[1] // p
            values = np.stack([table[c][pixels[..., c]] for c in range(3)])
            blocks = values.reshape(3, rows // k, k, p, columns // k, k, p)
            blocks = blocks.transpose(1, 4, 2, 5, 0, 3, 6)[:, :, :, :, :, None]
            frames = np.repeat(blocks, self.temporal_patch_size, 5)
            found.append(frames.reshape(rows * columns, width))
            grids.append((1, rows, columns))
        return (
            torch.from_numpy(np.concatenate(found)),
            torch.tensor(grids, dtype=torch.int64).reshape(-1, 3),
        )

    def _table(self) -> np.ndarray:
        """(3, 256) what each value of each channel becomes."""
        # Scaled in float64 and normalised in float32, as published values were.
        scaled = (np.arange(256, dtype=np.float64) * (1 / 255)).astype(np.float32)
        mean, std = (np.array(x, np.float32)[:, None] for x in (self.image_mean, self.image_std))
        return (scaled - mean) / std

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Qwen2VLImageProcessor:
        """From the keys of a published `preprocessor_config.json`; others are left out.

        Raises:
            ValueError: Values out of range.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        found = {key: value for key, value in values.items() if key in known and value is not None}
        size = values.get("size") or {}
        for name, other in (("min_pixels", "shortest_edge"), ("max_pixels", "longest_edge")):
            value = size.get(other, size.get(name))
            if name not in found and value is not None:
                found[name] = value
        return cls(**found)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> Qwen2VLImageProcessor:
        """Reads `preprocessor_config.json`.

        Raises:
            ValueError: No such file, or contents that do not fit.
        """
        path = Path(folder) / _FILE
        if not path.is_file():
            raise ValueError(f"{path}: no such file; the folder of a model has one")
        try:
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: {error}") from error

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Writes `preprocessor_config.json`; returns its path."""
        values = {
            "image_processor_type": "Qwen2VLImageProcessor", "resample": 3,
            "size": {"shortest_edge": self.min_pixels, "longest_edge": self.max_pixels},
        }  # fmt: skip
        path = Path(folder) / _FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(values | dataclasses.asdict(self), indent=2, sort_keys=True)
        path.write_text(text + "\n", encoding="utf-8")
        return path


def _resized(pixels: np.ndarray, rule: Any) -> np.ndarray:
    from PIL import Image

    rows, columns = rule(*pixels.shape[:2])
    if (rows, columns) == pixels.shape[:2]:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((columns, rows), Image.Resampling.BICUBIC))
