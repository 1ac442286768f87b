"""Images with masks, and photographs, for tasks that answer every pixel.

Embedded: scenes of digits on photographs (`paragone.vision.samples`) and the two photographs of
scikit-learn. A user's images with masks are cut into crops of one size, by image, so that no image
is in two parts.

Shapes: N crops, S side in pixels, s scale.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from paragone._core.errors import UsageError
from paragone._core.lazy import resolve
from paragone.lab.probe import digest_arrays
from paragone.lab.tasks.splits import FOLDS

__all__ = [
    "Crops", "Photos", "give_back", "kept", "kept_photos", "lay_down", "maps", "photos", "scenes",
]  # fmt: skip

Part = tuple[np.ndarray, np.ndarray]
TILES = 4
LUMA = np.array([65.481, 128.553, 24.966], np.float32) / 255


@dataclasses.dataclass(frozen=True, kw_only=True)
class Crops:
    """Crops with masks, in folds; made anew for each fold where they are scenes.

    Attributes:
        classes: Number of classes, the background among them.
        background: Whether class 0 is what is left, and no class to find.
        pixels: (N, S, S, 3) uint8; None: scenes.
        masks: (N, S, S) uint8; 255 is not counted.
        source: (N,) number of the image that each crop is of.
        count: Scenes.
        size: Side of a scene.
    """

    classes: int = 2
    background: bool = True
    pixels: np.ndarray | None = None
    masks: np.ndarray | None = None
    source: np.ndarray | None = None
    count: int = 0
    size: int = 0

    def parts(self, number: int) -> tuple[Part, Part]:
        """Returns pixels and masks to train on, and to test on."""
        if self.pixels is None or self.masks is None or self.source is None:
            data = resolve("paragone.vision.samples:digit_scenes")(
                self.count, self.size, number, validation=0.0, test=0.25
            )
            train, test = (
                (np.stack(part.images), (np.stack(part.masks) > 0).astype(np.uint8))
                for part in (data.train, data.test)
            )
            return train, test
        held = self.source % FOLDS == number % FOLDS
        return ((self.pixels[~held], self.masks[~held]), (self.pixels[held], self.masks[held]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Photos:
    """Photographs in luma, of which a band of columns is for tests.

    Attributes:
        images: Arrays (H, W) float32 from 0 to 1.
        side: Side of a test crop.
    """

    images: Sequence[np.ndarray]
    side: int = 120

    def parts(self, number: int) -> tuple[list[np.ndarray], np.ndarray]:
        """Returns pieces to train on, and crops (N, S, S) to test on."""
        pieces, crops, side = [], [], self.side
        for image in self.images:
            width = image.shape[1]
            left = int(number % FOLDS) * (width - side) // (FOLDS - 1)
            pieces += [p for p in (image[:, :left], image[:, left + side :]) if p.shape[1] >= side]
            rows = range(0, image.shape[0] - side + 1, side)
            crops += [image[top : top + side, left : left + side] for top in rows]
        return pieces, np.stack(crops)

    @staticmethod
    def shrunk(images: Tensor, scale: int) -> Tensor:
        """Images (B, 1, H, W) shrunk by bicubic antialiasing, rounded to 8 bits."""
        size = [n // scale for n in images.shape[2:]]
        small = functional.interpolate(images, size, mode="bicubic", antialias=True)
        return (small.clamp(0, 1) * 255).round() / 255

    def batches(
        self, pieces: Sequence[np.ndarray], rows: int, patch: int, scale: int, seed: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Small and large patches without end, at places that the seed gives."""
        rng, side = np.random.default_rng([seed, 1]), patch * scale
        while True:
            large = np.empty((rows, 1, side, side), np.float32)
            for row in range(rows):
                piece = pieces[int(rng.integers(len(pieces)))]
                top, left = (rng.integers(n - side + 1) for n in piece.shape)
                crop = piece[top : top + side, left : left + side]
                large[row, 0] = crop[:, ::-1] if rng.random() < 0.5 else crop
            truth = torch.from_numpy(large)
            yield self.shrunk(truth, scale), truth


def give_back() -> None:
    """Returns freed memory to the system, so that what a call takes is seen as growth."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def scenes(count: int, size: int) -> Crops:
    """Scenes with digits, the mask saying where ink is."""
    return Crops(count=count, size=size)


def photos(side: int = 120) -> Photos:
    """The two photographs that ship with scikit-learn."""
    from sklearn.datasets import load_sample_images

    return Photos(images=[_luma(np.asarray(im)) for im in load_sample_images().images], side=side)


def _luma(image: np.ndarray) -> np.ndarray:
    return (image.astype(np.float32) / 255 @ LUMA + np.float32(16 / 255)).astype(np.float32)


def maps(channels: int, size: int) -> tuple[Tensor]:
    """Numbers by chance (1, C, S, S)."""
    rng = np.random.default_rng([channels, size])
    return (torch.from_numpy(rng.standard_normal((1, channels, size, size), dtype=np.float32)),)


def lay_down(path: str, folder: Path, size: int) -> dict[str, Any]:
    """Cuts a user's images with masks into crops and keeps them in `folder`.

    Each image is shrunk so that its shorter side holds at most `TILES` crops.

    Args:
        path: What `paragone.vision.read_images` takes for "segment": images/ and masks/.
        folder: Where `crops.npz` is written.
        size: Side of a crop.

    Returns:
        Number of images, crops and classes, what was skipped, a digest.

    Raises:
        UsageError: Nothing that can be learnt from.
    """
    try:
        data = resolve("paragone.vision.data:read_images")(path, "segment", validation=0.0)
    except (ValueError, OSError) as error:
        raise UsageError(f"--data: {error}") from error
    samples = [s for part in (data.train, data.validation, data.test) for s in part or ()]
    if len(samples) < FOLDS:
        raise UsageError(f"--data {path}: {len(samples)} images; at least {FOLDS} are needed")
    pixels, masks, source = [], [], []
    for number, sample in enumerate(samples):
        for image, mask in _cut(sample.image, sample.mask, size):
            pixels.append(image)
            masks.append(mask)
            source.append(number)
    if not pixels:
        raise UsageError(f"--data {path}: all images are smaller than {size} pixels")
    folder.mkdir(parents=True, exist_ok=True)
    stacked = np.stack(pixels), np.stack(masks), np.array(source)
    np.savez(folder / "crops.npz", classes=len(data.classes), pixels=stacked[0],
             masks=stacked[1], source=stacked[2])  # fmt: skip
    return {
        "images": len(samples), "crops": len(pixels), "classes": len(data.classes),
        "skipped": dict(data.skipped), "digest": digest_arrays(*stacked),
    }  # fmt: skip


def _cut(image: np.ndarray, mask: np.ndarray, size: int) -> Iterator[Part]:
    from PIL import Image

    short = min(image.shape[:2])
    if short > TILES * size:
        shape = tuple(round(n * TILES * size / short) for n in image.shape[1::-1])
        image = np.asarray(Image.fromarray(image).resize(shape, Image.Resampling.BICUBIC))
        mask = np.asarray(Image.fromarray(mask).resize(shape, Image.Resampling.NEAREST))
    for top in range(0, image.shape[0] - size + 1, size):
        for left in range(0, image.shape[1] - size + 1, size):
            window = (slice(top, top + size), slice(left, left + size))
            yield image[window], mask[window]


def kept(folder: str) -> Crops:
    """Crops that `lay_down` has kept."""
    with np.load(f"{folder}/crops.npz") as file:
        return Crops(classes=int(file["classes"]), background=False, pixels=file["pixels"],
                     masks=file["masks"], source=file["source"])  # fmt: skip


def kept_photos(folder: str, side: int = 120) -> Photos:
    """The same crops as photographs: those of one image side by side."""
    with np.load(f"{folder}/crops.npz") as file:
        pixels, source = file["pixels"], file["source"]
    images = []
    for number in np.unique(source)[:8]:
        own = pixels[source == number]
        count = max(3 * side // own.shape[1], 1)
        rows = [
            np.concatenate(own[i : i + count], 1) for i in range(0, len(own) - count + 1, count)
        ]
        images += [_luma(row) for row in rows]
    return Photos(images=images, side=min(side, images[0].shape[0] // 6 * 6))
