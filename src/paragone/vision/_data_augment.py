r"""Augmentation: another view of an image each time, the same for the same (seed, epoch, index).

A sample's random numbers come from its own generator, not from a stream that all share: neither
the number of workers nor an interruption changes what an epoch shows. All geometry is drawn as
one window of the source (see `_data_views`), so that an image is resampled once. Colours change by
one affine map, brightness, contrast, saturation and hue multiplied together:

$$ c' = B \, C \, S \, R \, c + (1 - \kappa)\, \beta\, \bar g, $$

where $\kappa$ is the contrast, $\beta$ the brightness, $\bar g$ the image's mean grey.

References:
    Szegedy et al. (2015), arXiv:1409.4842, section 6 (crops by area and aspect ratio).
    Liu et al. (2016), "SSD", arXiv:1512.02325, section 2.2 and 3.6 (crops by least overlap;
    expansion up to 4 times; photometric distortion).
    Zhong et al. (2020), "Random erasing data augmentation", arXiv:1708.04896, algorithm 1.

Shapes: n boxes, H and W height and width.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import numpy as np
from PIL import Image

from paragone.vision._data_sets import Sample
from paragone.vision._data_views import View, cover, letterbox, stretch, window

__all__ = [
    "Augmentation", "classify_view", "colour_matrix", "crop_by_overlap", "detect_view", "erased",
    "expanded", "generator", "recoloured", "resized_crop", "segment_view", "still_view",
]  # fmt: skip

_GREY = np.array([0.299, 0.587, 0.114])
_OVERLAPS = (None, 0.1, 0.3, 0.5, 0.7, 0.9, 0.0)
"""Least overlaps of a crop with an object; None: no crop at all."""
Box = tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How much training images vary.

    Attributes:
        mirror: "none", "horizontal", "both": also upside down, or "all": also quarter turns.
        scale: Classification: least and most share of the area that a crop takes.
            Segmentation: least and most zoom.
        ratio: Least and most width by height of a crop.
        colour: Strength of brightness, contrast and saturation; 0 leaves colours alone.
        hue: Largest turn of the hue, as a share of the circle.
        erase: Chance that a rectangle is overwritten (classification).
        expand: Most times that an image's sides are enlarged by bars (detection).
        overlap: Chance of a crop by least overlap (detection).
        mixup: Parameter of the beta distribution that two images are mixed by; 0: never.
    """

    mirror: Literal["none", "horizontal", "both", "all"] = "horizontal"
    scale: tuple[float, float] = (0.5, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    colour: float = 0.3
    hue: float = 0.02
    erase: float = 0.0
    expand: float = 1.0
    overlap: float = 0.0
    mixup: float = 0.0

    def __post_init__(self) -> None:
        if self.mirror not in ("none", "horizontal", "both", "all"):
            raise ValueError(
                f"mirror={self.mirror!r} is none of 'none', 'horizontal', 'both', 'all'"
            )
        if not 0 < self.scale[0] <= self.scale[1] or not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"scale={self.scale}, ratio={self.ratio}: least and most, above 0")
        for name in ("colour", "hue", "erase", "overlap", "mixup"):
            if getattr(self, name) < 0 or (name in ("colour", "erase") and getattr(self, name) > 1):
                raise ValueError(f"{name}={getattr(self, name)}: give a share from 0 to 1")
        if self.expand < 1:
            raise ValueError(f"expand={self.expand}: sides grow at least 1 time")


def generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The random numbers of one sample in one epoch, and of nothing else."""
    return np.random.default_rng([seed, epoch, index])


def resized_crop(
    shape: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float],
    rng: np.random.Generator,
) -> Box:  # fmt: skip
    """Draws a window by its share of the area and its width by height."""
    height, width = shape
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        wide, high = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if wide <= width and high <= height:
            left, top = rng.uniform(0, width - wide), rng.uniform(0, height - high)
            return left, top, left + wide, top + high
    return 0.0, 0.0, float(width), float(height)


def expanded(shape: tuple[int, int], most: float, rng: np.random.Generator) -> Box:
    """Draws a canvas up to `most` times as wide and high, with the image somewhere in it."""
    height, width = shape
    times = rng.uniform(1, most)
    left = -rng.uniform(0, width * (times - 1))
    top = -rng.uniform(0, height * (times - 1))
    return left, top, left + width * times, top + height * times


def crop_by_overlap(canvas: Box, boxes: np.ndarray, rng: np.random.Generator) -> Box:
    """Draws a part of a canvas that overlaps with some object at least as much as is drawn.

    The overlap is intersection over union of the crop and the object. A crop has 0.3 to 1 of the
    canvas's width and height, an aspect of 1/2 to 2, and the middle of an object in it. After 50
    vain draws the canvas itself is returned.
    """
    least = _OVERLAPS[rng.integers(len(_OVERLAPS))]
    if least is None or not len(boxes):
        return canvas
    width, height = canvas[2] - canvas[0], canvas[3] - canvas[1]
    for _ in range(50):
        wide, high = width * rng.uniform(0.3, 1), height * rng.uniform(0.3, 1)
        if not 0.5 <= wide / high <= 2:
            continue
        left = canvas[0] + rng.uniform(0, width - wide)
        top = canvas[1] + rng.uniform(0, height - high)
        crop = (left, top, left + wide, top + high)
        sides = np.minimum(boxes[:, 2:], crop[2:]) - np.maximum(boxes[:, :2], crop[:2])
        common = sides.clip(0).prod(1)
        union = wide * high + (boxes[:, 2:] - boxes[:, :2]).prod(1) - common
        if (common >= least * union).any() and _middle_inside(boxes, crop).any():
            return crop
    return canvas


def _middle_inside(boxes: np.ndarray, crop: Box) -> np.ndarray:
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    return np.all((middle > crop[:2]) & (middle < crop[2:]), axis=1)


def colour_matrix(
    brightness: float, contrast: float, saturation: float, hue: float, grey: float
) -> np.ndarray:
    """The affine map (3, 4) of hue, then saturation, contrast and brightness.

    Args:
        brightness: Factor on all channels, at last.
        contrast: Factor on the distance from the mean grey.
        saturation: Factor on the distance from each pixel's own grey.
        hue: Turn around the grey axis, as a share of the circle.
        grey: The image's mean grey.
    """
    angle = 2 * math.pi * hue
    axis = 1 / math.sqrt(3)
    cross = axis * np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0.0]])
    turn = (
        math.cos(angle) * np.eye(3)
        + math.sin(angle) * cross
        + (1 - math.cos(angle)) / 3 * np.ones((3, 3))
    )
    saturate = saturation * np.eye(3) + (1 - saturation) * np.outer(np.ones(3), _GREY)
    linear = brightness * contrast * saturate @ turn
    shift = brightness * (1 - contrast) * grey
    return np.concatenate([linear, np.full((3, 1), shift)], axis=1)


def recoloured(
    image: np.ndarray, strength: float, hue: float, rng: np.random.Generator
) -> np.ndarray:
    """Draws other colours for (H, W, 3) uint8."""
    brightness, contrast, saturation = rng.uniform(1 - strength, 1 + strength, 3)
    turn = rng.uniform(-hue, hue)
    grey = float(image.reshape(-1, 3)[::7].mean(0) @ _GREY)
    matrix = colour_matrix(brightness, contrast, saturation, turn, grey)
    changed = Image.fromarray(image).convert("RGB", tuple(matrix.ravel().tolist()))
    return np.asarray(changed)


def erased(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Overwrites a rectangle of 2 to 33 % of the area with noise."""
    height, width = image.shape[:2]
    left, top, right, bottom = resized_crop((height, width), (0.02, 0.33), (0.3, 3.3), rng)
    rows, columns = slice(int(top), int(bottom) + 1), slice(int(left), int(right) + 1)
    image = image.copy()
    image[rows, columns] = rng.integers(0, 256, image[rows, columns].shape, np.uint8)
    return image


def _mirrors(how: str, rng: np.random.Generator) -> tuple[bool, int]:
    mirror, turns = rng.random() < 0.5, int(rng.integers(4))
    # Half a turn is both mirrors at once.
    turns = turns if how == "all" else turns // 2 * 2 if how == "both" else 0
    return how != "none" and mirror, turns


def classify_view(
    sample: Sample, size: int, augmentation: Augmentation, rng: np.random.Generator
) -> np.ndarray:
    """A training image of a classifier: crop, mirror, colours, perhaps a rectangle erased."""
    shape = sample.image.shape[:2]
    box = resized_crop(shape, augmentation.scale, augmentation.ratio, rng)
    mirror, turns = _mirrors(augmentation.mirror, rng)
    image = window(shape, box, (size, size), mirror, turns).image(sample.image)
    image = _coloured(image, augmentation, rng)
    return erased(image, rng) if rng.random() < augmentation.erase else image


def segment_view(
    sample: Sample, size: int, augmentation: Augmentation, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A training image of a segmenter and its mask: a piece at some zoom, mirror, colours."""
    height, width = sample.image.shape[:2]
    assert sample.mask is not None
    side = size / math.exp(rng.uniform(*np.log(augmentation.scale)))
    left, top = (
        rng.uniform(min(0.0, extent - side), max(0.0, extent - side)) for extent in (width, height)
    )
    mirror, turns = _mirrors(augmentation.mirror, rng)
    view = window(
        (height, width), (left, top, left + side, top + side), (size, size), mirror, turns
    )
    image = _coloured(view.image(sample.image), augmentation, rng)
    return image, view.mask(sample.mask)


def detect_view(
    sample: Sample, size: int, augmentation: Augmentation, rng: np.random.Generator,
    fit: Literal["stretch", "letterbox"] = "stretch",
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """A training image of a detector, its boxes and their labels.

    Objects whose middle is outside of the view are left out, as are those that are crowds or
    difficult, or that become narrower than a pixel.
    """
    shape = sample.image.shape[:2]
    boxes, labels = sample.boxes[~sample.ignored], sample.labels[~sample.ignored]
    canvas: Box = (0.0, 0.0, float(shape[1]), float(shape[0]))
    if augmentation.expand > 1 and rng.random() < 0.5:
        canvas = expanded(shape, augmentation.expand, rng)
    if rng.random() < augmentation.overlap:
        canvas = crop_by_overlap(canvas, boxes, rng)
    if fit == "letterbox":
        canvas = _squared(canvas)
    kept = _middle_inside(boxes, canvas)
    mirror, turns = _mirrors(augmentation.mirror, rng)
    view = window(shape, canvas, (size, size), mirror, turns)
    seen = view.boxes(boxes[kept]).clip(0, size)
    wide = ((seen[:, 2:] - seen[:, :2]) >= 1).all(1)
    image = _coloured(view.image(sample.image), augmentation, rng)
    return image, seen[wide], labels[kept][wide]


def _squared(canvas: Box) -> Box:
    side = max(canvas[2] - canvas[0], canvas[3] - canvas[1])
    x, y = (canvas[0] + canvas[2]) / 2, (canvas[1] + canvas[3]) / 2
    return x - side / 2, y - side / 2, x + side / 2, y + side / 2


def _coloured(
    image: np.ndarray, augmentation: Augmentation, rng: np.random.Generator
) -> np.ndarray:
    if not augmentation.colour and not augmentation.hue:
        return image
    return recoloured(image, augmentation.colour, augmentation.hue, rng)


def still_view(
    shape: tuple[int, int], size: tuple[int, int], fit: Literal["stretch", "letterbox", "cover"]
) -> View:
    """The view that validation and use have of an image: nothing random."""
    views = {"stretch": stretch, "letterbox": letterbox, "cover": cover}
    if fit not in views:
        raise ValueError(f"fit={fit!r} is none of {', '.join(views)}")
    return views[fit](shape, size)
