r"""Geometry of an image's way into the network: one window of it, resized, perhaps mirrored.

Crops, zooms, expansion, letterboxes and mirrors are all one map. A rectangle of the source, always
inside it, goes to a rectangle of the target; what the target has beyond is filled:

$$ x' = t_x + (x - s_x)\,\frac{t_w}{s_w}, \qquad x'' = W - x' \;\text{ mirrored.} $$

Pixels, masks and boxes go through the same numbers, so that they cannot part; the target's
rectangle is whole pixels, therefore not even by a fraction.

Shapes: n boxes, H and W height and width of the target.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from PIL import Image

__all__ = ["View", "cover", "letterbox", "stretch", "window"]


@dataclasses.dataclass(frozen=True)
class View:
    """What is seen of a source image, and where.

    Attributes:
        source: Left, top, right, bottom of the rectangle in the source.
        target: The same of its image: whole pixels.
        size: Height and width of the target.
        mirror: Whether left and right are exchanged at the end.
        turns: Quarter turns to the left after that.
    """

    source: tuple[float, float, float, float]
    target: tuple[int, int, int, int]
    size: tuple[int, int]
    mirror: bool = False
    turns: int = 0

    def image(self, pixels: np.ndarray, fill: tuple[int, int, int] = (124, 116, 104)) -> np.ndarray:
        """Returns the view of (h, w, 3) uint8, smoothed where it shrinks."""
        return self._seen(pixels, Image.Resampling.BILINEAR, np.array(fill, np.uint8))

    def mask(self, classes: np.ndarray, fill: int = 255) -> np.ndarray:
        """Returns the view of (h, w) uint8 without mixing values."""
        return self._seen(classes, Image.Resampling.NEAREST, np.array(fill, np.uint8))

    def _seen(self, array: np.ndarray, how: Image.Resampling, fill: np.ndarray) -> np.ndarray:
        left, top, right, bottom = self.target
        height, width = self.size
        if right > left and bottom > top:
            whole = Image.fromarray(np.ascontiguousarray(array))
            part = np.asarray(whole.resize((right - left, bottom - top), how, box=self.source))
        else:
            part = np.zeros((0, 0, *array.shape[2:]), np.uint8)
        if part.shape[:2] == self.size:
            seen = part
        else:
            seen = np.empty((height, width, *array.shape[2:]), np.uint8)
            seen[...] = fill
            seen[top : top + part.shape[0], left : left + part.shape[1]] = part
        if self.mirror:
            seen = seen[:, ::-1]
        return np.ascontiguousarray(np.rot90(seen, self.turns) if self.turns else seen)

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Returns where boxes (n, 4) of the source lie in the view, not clipped."""
        (scale_x, scale_y), (move_x, move_y) = self._map()
        scale, move = np.array([scale_x, scale_y] * 2), np.array([move_x, move_y] * 2)
        seen = np.asarray(boxes, np.float64) * scale + move
        height, width = self.size
        if self.mirror:
            seen = _mirrored(seen, width)
        for _ in range(self.turns):
            seen = np.stack([seen[:, 1], width - seen[:, 2], seen[:, 3], width - seen[:, 0]], 1)
            height, width = width, height
        return seen

    def back(self, boxes: np.ndarray) -> np.ndarray:
        """Returns where boxes (n, 4) of the view lie in the source; for views without turns."""
        assert not self.turns
        found = np.asarray(boxes, np.float64)
        if self.mirror:
            found = _mirrored(found, self.size[1])
        (scale_x, scale_y), (move_x, move_y) = self._map()
        return (found - np.array([move_x, move_y] * 2)) / np.array([scale_x, scale_y] * 2)

    def _map(self) -> tuple[tuple[float, float], tuple[float, float]]:
        s, t = self.source, self.target
        scale = (t[2] - t[0]) / (s[2] - s[0]), (t[3] - t[1]) / (s[3] - s[1])
        return scale, (t[0] - s[0] * scale[0], t[1] - s[1] * scale[1])


def _mirrored(boxes: np.ndarray, width: int) -> np.ndarray:
    return np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)


def window(
    shape: tuple[int, int], box: tuple[float, float, float, float], size: tuple[int, int],
    mirror: bool = False, turns: int = 0,
) -> View:  # fmt: skip
    """The view of a window that may reach beyond the source.

    Args:
        shape: Height and width of the source.
        box: Left, top, right, bottom of the window in the source's pixels.
        size: Height and width of the target.
        mirror: Whether left and right are exchanged.
        turns: Quarter turns to the left.
    """
    source, target = [], []
    for axis, (extent, out) in enumerate(((shape[1], size[1]), (shape[0], size[0]))):
        low, high = box[axis], box[axis + 2]
        inner = max(low, 0.0), min(high, float(extent))
        scale = out / (high - low)
        start = min(max(round((inner[0] - low) * scale), 0), out - 1)
        end = min(max(round((inner[1] - low) * scale), start + 1), out)
        source.append(inner)
        target.append((start, end))
    return View(
        (source[0][0], source[1][0], source[0][1], source[1][1]),
        (target[0][0], target[1][0], target[0][1], target[1][1]), size, mirror, turns,
    )  # fmt: skip


def stretch(shape: tuple[int, int], size: tuple[int, int]) -> View:
    """The whole source, whatever becomes of its proportions."""
    return window(shape, (0, 0, shape[1], shape[0]), size)


def letterbox(shape: tuple[int, int], size: tuple[int, int]) -> View:
    """The whole source in its proportions, centred, with bars."""
    scale = min(size[0] / shape[0], size[1] / shape[1])
    wide, high = size[1] / scale, size[0] / scale
    left, top = (shape[1] - wide) / 2, (shape[0] - high) / 2
    return window(shape, (left, top, left + wide, top + high), size)


def cover(shape: tuple[int, int], size: tuple[int, int], share: float = 1.0) -> View:
    """The largest window in the middle with the target's proportions, or a share of it."""
    scale = min(shape[0] / size[0], shape[1] / size[1]) * share
    wide, high = size[1] * scale, size[0] * scale
    left, top = (shape[1] - wide) / 2, (shape[0] - high) / 2
    return window(shape, (left, top, left + wide, top + high), size)
