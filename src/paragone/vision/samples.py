r"""Images that ship with scikit-learn, as data sets for each task: nothing is downloaded.

`digit_images` are 1,797 handwritten digits of 8 x 8 pixels, enlarged. `digit_scenes` puts such
digits, coloured, on pieces of two photographs, and knows the box and the pixels of each:

$$ I = (1 - a)\,S + a\,c, \qquad M = \{ a \ge 1/2 \}, \quad \text{box} = \text{bounds of } M $$

with a scene $S$, a colour $c$ and the digit's ink $a \in [0, 1]$. Digits in a scene do not
touch. No digit and no pixel of a photograph is in two splits.

References:
    Alpaydin and Kaynak (1998), "Cascading classifiers" (the digits, UCI's test part).
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image as Pillow

from paragone._core.random import RandomState, as_generator
from paragone.vision._data_sets import ImageData, ImageSet, split_rows

__all__ = ["digit_images", "digit_scenes"]

_EDGE = 0.35
"""Ink from which a pixel of an enlarged digit begins to show."""


@lru_cache(maxsize=1)
def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    loaded = load_digits()
    return np.asarray(loaded.images, np.float32) / 16, np.asarray(loaded.target, np.int64)


@lru_cache(maxsize=1)
def _photographs() -> list[np.ndarray]:
    from sklearn.datasets import load_sample_images

    return [np.asarray(image) for image in load_sample_images().images]


def _shares(validation: float, test: float) -> list[float]:
    if validation < 0 or test < 0 or validation + test >= 1:
        raise ValueError(
            f"validation={validation}, test={test}: shares of at least 0 that leave some to train"
        )
    return [1 - validation - test, validation, test]


def _enlarged(digit: np.ndarray, size: int) -> np.ndarray:
    image = Pillow.fromarray(digit).resize((size, size), Pillow.Resampling.BICUBIC)
    return np.clip(np.asarray(image), 0, 1)


def digit_images(
    size: int = 32,
    random_state: RandomState = 0,
    *,
    validation: float = 0.2,
    test: float = 0.0,
) -> ImageData:
    """Returns the digits for classification, every class with its share in every split.

    Args:
        size: Height and width in pixels that the 8 x 8 originals are enlarged to.
        random_state: Draws the splits.
        validation: Share of images to validate on.
        test: Share of images to test on.

    Example:
        >>> data = digit_images(16)
        >>> len(data.train), len(data.validation), data.train[0].image.shape
        (1438, 359, (16, 16, 3))
    """
    digits, targets = _digits()
    parts = split_rows(targets, _shares(validation, test), as_generator(random_state))
    splits = []
    for rows in parts:
        grey = [np.rint(_enlarged(digits[row], size) * 255).astype(np.uint8) for row in rows]
        images = [np.repeat(image[:, :, None], 3, axis=2) for image in grey]
        splits.append(ImageSet(images, [f"digit-{row}" for row in rows], labels=targets[rows]))
    return ImageData(
        "classify", tuple("0123456789"), splits[0], splits[1], splits[2] if test else None,
        name="digits", mirrored=False,
    )  # fmt: skip


def digit_scenes(
    n: int = 400,
    size: int = 128,
    random_state: RandomState = 0,
    *,
    classes: Sequence[int] = tuple(range(10)),
    validation: float = 0.2,
    test: float = 0.0,
    digits: tuple[int, int] = (1, 6),
    scale: tuple[float, float] = (0.15, 0.4),
) -> ImageData:
    """Returns scenes with digits, their boxes and their masks, for detection.

    `digit_scenes(…).for_task("segment")` gives the same scenes for segmentation: there class 0 is
    the background, and class i + 1 the i-th digit of `classes`.

    Args:
        n: Scenes, of all splits together.
        size: Height and width of a scene in pixels.
        random_state: Draws splits and scenes.
        classes: The digits that occur, in the order of their labels.
        validation: Share of scenes to validate on; the same share of the digits and photographs.
        test: Share of scenes to test on.
        digits: Least and most digits of a scene; fewer where no room is left.
        scale: Least and most side of a digit's square, as a share of `size`.

    Raises:
        ValueError: A number is out of range.

    Example:
        >>> data = digit_scenes(10, 64, classes=(3, 7))
        >>> len(data.train), data.classes, data.train[0].mask.shape
        (8, ('3', '7'), (64, 64))
    """
    if n < 1 or size < 16:
        raise ValueError(f"n={n}, size={size}: at least 1 scene of at least 16 pixels")
    if not set(classes) <= set(range(10)) or not classes or len(set(classes)) < len(classes):
        raise ValueError(f"classes={tuple(classes)}: give different digits from 0 to 9")
    if not 0 <= digits[0] <= digits[1] or not 0 < scale[0] <= scale[1] <= 1:
        raise ValueError(f"digits={digits}, scale={scale}: least and most; sides from 0 to 1")
    rng = as_generator(random_state)
    shares = _shares(validation, test)
    counts = [0, round(n * shares[1]), round(n * shares[2])]
    counts[0] = n - sum(counts)
    rows = split_rows(_digits()[1], shares, rng)
    edges = np.concatenate([[0.0], np.cumsum(shares)])
    bands = [_bands(edges[i], edges[i + 1]) if counts[i] else [] for i in range(3)]
    splits = []
    for i, count in enumerate(counts):
        scenes = [
            _scene(size, rows[i], tuple(classes), bands[i], digits, scale, draw)
            for draw in rng.spawn(count)
        ]
        splits.append(ImageSet(
            [scene[0] for scene in scenes],
            [f"scene-{i}-{k}" for k in range(count)],
            masks=[scene[1] for scene in scenes],
            boxes=[scene[2] for scene in scenes],
            box_labels=[scene[3] for scene in scenes],
        ))  # fmt: skip
    return ImageData(
        "detect", tuple(str(c) for c in classes), splits[0], splits[1],
        splits[2] if test else None, name="scenes", mirrored=False,
    )  # fmt: skip


def _bands(start: float, end: float) -> list[np.ndarray]:
    """The columns of each photograph that one split may show."""
    found = []
    for photograph in _photographs():
        width = photograph.shape[1]
        left, right = round(start * width), round(end * width)
        if right - left < 8:
            raise ValueError(
                f"a share of {end - start:.3f} leaves {right - left} columns of the photographs: "
                "take larger shares"
            )
        found.append(photograph[:, left:right])
    return found


def _background(size: int, bands: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    band = bands[rng.integers(len(bands))]
    side = int(min(band.shape[:2]) * rng.uniform(0.4, 1.0))
    top = rng.integers(band.shape[0] - side + 1)
    left = rng.integers(band.shape[1] - side + 1)
    piece = Pillow.fromarray(np.ascontiguousarray(band[top : top + side, left : left + side]))
    image = np.asarray(piece.resize((size, size), Pillow.Resampling.BICUBIC), np.float32)
    return image[:, ::-1].copy() if rng.random() < 0.5 else image.copy()


def _colour(under: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A colour that stands out from what is below it."""
    for _ in range(20):
        colour = 255 * np.array(
            colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.3, 1), rng.uniform(0.1, 1))
        )
        if abs(colour - under).max() > 90:
            return colour
    return np.where(under < 128, 255.0, 0.0)


def _scene(
    size: int, rows: np.ndarray, classes: tuple[int, ...], bands: list[np.ndarray],
    digits: tuple[int, int], scale: tuple[float, float], rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    pictures, targets = _digits()
    image = _background(size, bands, rng)
    mask = np.zeros((size, size), np.uint8)
    boxes: list[tuple[int, int, int, int]] = []
    labels: list[int] = []
    taken = np.zeros((size, size), bool)
    for _ in range(rng.integers(digits[0], digits[1] + 1)):
        label = int(rng.integers(len(classes)))
        row = rng.choice(rows[targets[rows] == classes[label]])
        side = max(8, round(size * rng.uniform(*scale)))
        ink = np.clip((_enlarged(pictures[row], side) - _EDGE) / (1 - 2 * _EDGE), 0, 1)
        drawn = np.flatnonzero((ink >= 0.5).any(1)), np.flatnonzero((ink >= 0.5).any(0))
        for _ in range(20):
            top, left = rng.integers(size - side + 1, size=2)
            window = (slice(top, top + side), slice(left, left + side))
            if not taken[window].any():
                break
        else:
            continue
        taken[window] = True
        colour = _colour(image[window].mean(axis=(0, 1)), rng)
        image[window] += ink[:, :, None] * (colour - image[window])
        mask[window][ink >= 0.5] = label + 1
        boxes.append((
            left + drawn[1][0], top + drawn[0][0], left + drawn[1][-1] + 1, top + drawn[0][-1] + 1
        ))  # fmt: skip
        labels.append(label)
    return (
        np.rint(image).clip(0, 255).astype(np.uint8), mask,
        np.array(boxes, np.float64).reshape(-1, 4), np.array(labels, np.int64),
    )  # fmt: skip
