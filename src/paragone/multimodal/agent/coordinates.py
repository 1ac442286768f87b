r"""Coordinates: one object from a model's points to pixels of the screenshot and to CSS pixels.

A model writes points in a space of its own: pixels of the screenshot, pixels of the image as it
was resized for the model, fractions of it, or thousandths. An operator needs CSS pixels of what is
seen (the viewport), and a recorder those of the whole document. All are straight scalings of one
another, so one object holds the factors, and nobody else multiplies:

$$ x_{shot} = x_{model} \, \frac{W}{W_{model}}, \qquad
   x_{css} = \frac{x_{shot}}{\rho}, \qquad x_{page} = x_{css} + s_x , $$

with $\rho$ pixels of the screenshot to one CSS pixel and $s$ how far the page is scrolled.
Points are places, not indices: the origin is the corner of the top left pixel, the centre of that
pixel is (0.5, 0.5), and x = 0 and y = 0 are legal. A screenshot W pixels wide covers
$0 \le x < W$: its right and bottom edges belong to it when a point is carried there (models name
them), and are drawn in by half a pixel, to the centre of the last one. What lies farther out is
left outside; `inside` tells.

`smart_resize` is the published rule of Qwen2-VL: both sides become multiples of a factor, the
number of pixels comes between two bounds, and the shape is kept as well as that allows.

Cost: a few multiplications a point.

References:
    Wang et al. (2024), Qwen2-VL, arXiv:2409.12191, section 2.1 (any resolution, patches of 14
    merged 2 x 2: the factor 28).
    Qin et al. (2025), UI-TARS, arXiv:2501.12326, section 4.1 (relative points).

Shapes: H rows and W columns of the screenshot, h rows and w columns of the resized image.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from paragone.multimodal.agent.contract import Point, Screen

__all__ = ["Coordinates", "Space", "smart_resize"]

Space = Literal["pixels", "resized", "relative-1", "relative-1000"]
"""Pixels of the screenshot, pixels of the resized image, fractions, thousandths."""

MOST_LONG = 200


def smart_resize(
    height: int,
    width: int,
    factor: int = 28,
    min_pixels: int = 100 * 28 * 28,
    max_pixels: int = 16384 * 28 * 28,
) -> tuple[int, int]:
    r"""The size at which a model of the Qwen2-VL family sees an image.

    Each side is rounded to a multiple of the factor; where the product is then out of bounds, both
    sides are scaled by $\sqrt{\text{bound} / HW}$ and rounded to the safe side.

    Args:
        height: Rows H of the image.
        width: Columns W.
        factor: Both results are multiples of it, and at least it.
        min_pixels: Fewest pixels of the result.
        max_pixels: Most pixels of the result.

    Returns:
        h and w.

    Raises:
        ValueError: Sides or bounds below 1, bounds in the wrong order, or an image more than 200
            times as long as it is wide.

    Example:
        >>> smart_resize(1080, 1920)
        (1092, 1932)
    """
    if height < 1 or width < 1 or factor < 1:
        raise ValueError(
            f"an image of {height} x {width} pixels with factor {factor} cannot be resized: "
            "all three must be at least 1"
        )
    if not 0 < min_pixels <= max_pixels:
        raise ValueError(
            f"min_pixels={min_pixels} and max_pixels={max_pixels}: "
            "expected 0 < min_pixels <= max_pixels"
        )
    ratio = max(height, width) / min(height, width)
    if ratio > MOST_LONG:
        raise ValueError(
            f"an image of {height} x {width} pixels is {ratio:.1f} times as long as wide; "
            f"at most {MOST_LONG} are allowed: cut or pad it"
        )
    rows = max(factor, round(height / factor) * factor)
    columns = max(factor, round(width / factor) * factor)
    if rows * columns > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        rows = max(factor, math.floor(height / shrink / factor) * factor)
        columns = max(factor, math.floor(width / shrink / factor) * factor)
    elif rows * columns < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        rows = math.ceil(height * grow / factor) * factor
        columns = math.ceil(width * grow / factor) * factor
    return rows, columns


@dataclasses.dataclass(frozen=True)
class Coordinates:
    """Carries points of a model's space to the screenshot, the viewport and the page, and back.

    Prefer it to a factor passed around: it is the one place that knows the device-pixel ratio, the
    scrolling and the resizing, and every operator, recorder and scorer of this package asks it.

    Args:
        screenshot: Rows H and columns W of the screenshot.
        model: The space of the model's points: "pixels" of the screenshot, pixels of the "resized"
            image, "relative-1" (fractions) or "relative-1000" (thousandths).
        resized: Rows h and columns w of the resized image; needed by "resized" alone.
        device_pixel_ratio: Pixels of the screenshot to one CSS pixel.
        scroll: How far the page is scrolled, in CSS pixels (x, y).

    Raises:
        ValueError: An unknown space, sizes below 1, "resized" without a size, a ratio that is not
            positive and finite, or scrolling that is not finite.

    Example:
        >>> Coordinates((720, 1280), "relative-1000").to_screenshot(500, 500)
        (640.0, 360.0)
    """

    screenshot: tuple[int, int]
    model: Space = "pixels"
    resized: tuple[int, int] | None = None
    device_pixel_ratio: float = 1.0
    scroll: Point = (0.0, 0.0)

    def __post_init__(self) -> None:
        if self.model not in get_args(Space):
            raise ValueError(f"model={self.model!r}: expected one of {', '.join(get_args(Space))}")
        if self.model == "resized" and self.resized is None:
            raise ValueError(
                "model='resized' needs resized=(h, w), the size at which the model sees the image; "
                "`smart_resize` computes it"
            )
        for name in ("screenshot", "resized"):
            size = getattr(self, name)
            if size is not None and (len(size) != 2 or min(size) < 1):
                raise ValueError(f"{name}={size}: expected (rows, columns), both at least 1")
        if not 0 < self.device_pixel_ratio < math.inf:
            raise ValueError(
                f"device_pixel_ratio={self.device_pixel_ratio}: expected a positive number"
            )
        if not all(map(math.isfinite, self.scroll)):
            raise ValueError(f"scroll={self.scroll}: expected two finite numbers, x and y")

    @classmethod
    def of(
        cls, screen: Screen, model: Space = "pixels", resized: tuple[int, int] | None = None
    ) -> Coordinates:
        """Those of a screenshot.

        Args:
            screen: With its device-pixel ratio and scrolling.
            model: The space of the model's points.
            resized: Rows and columns of the resized image.

        Returns:
            From the model's space to this screenshot and its page.
        """
        return cls(screen.size, model, resized, screen.device_pixel_ratio, screen.scroll)

    @property
    def extent(self) -> Point:
        """The model's coordinates of the right and the bottom edge of the screenshot."""
        if self.model == "relative-1":
            return 1.0, 1.0
        if self.model == "relative-1000":
            return 1000.0, 1000.0
        rows, columns = self.screenshot if self.model == "pixels" else (self.resized or (0, 0))
        return float(columns), float(rows)

    def inside(self, x: float, y: float) -> bool:
        """Whether a point of the model's space lies on the screenshot, its edges included."""
        right, bottom = self.extent
        return 0 <= x <= right and 0 <= y <= bottom

    def to_screenshot(self, x: float, y: float) -> Point:
        """From the model's space to pixels of the screenshot.

        A point exactly on the right or the bottom edge goes to the centre of the last pixel.

        Args:
            x: To the right.
            y: Down.

        Returns:
            x and y in pixels of the screenshot.

        Raises:
            ValueError: A coordinate that is not finite.
        """
        _check(x, y)
        (right, bottom), (rows, columns) = self.extent, self.screenshot
        return _scaled(x, right, columns), _scaled(y, bottom, rows)

    def from_screenshot(self, x: float, y: float) -> Point:
        """From pixels of the screenshot to the model's space.

        Args:
            x: To the right.
            y: Down.

        Returns:
            x and y of the model.

        Raises:
            ValueError: A coordinate that is not finite.
        """
        _check(x, y)
        (right, bottom), (rows, columns) = self.extent, self.screenshot
        return x * (right / columns), y * (bottom / rows)

    def to_css(self, x: float, y: float) -> Point:
        """From the model's space to CSS pixels of the viewport (what a mouse event takes)."""
        x, y = self.to_screenshot(x, y)
        return x / self.device_pixel_ratio, y / self.device_pixel_ratio

    def from_css(self, x: float, y: float) -> Point:
        """From CSS pixels of the viewport to the model's space."""
        return self.from_screenshot(x * self.device_pixel_ratio, y * self.device_pixel_ratio)

    def to_page(self, x: float, y: float) -> Point:
        """From the model's space to CSS pixels of the whole document."""
        x, y = self.to_css(x, y)
        return x + self.scroll[0], y + self.scroll[1]

    def from_page(self, x: float, y: float) -> Point:
        """From CSS pixels of the whole document to the model's space."""
        return self.from_css(x - self.scroll[0], y - self.scroll[1])


def _check(x: float, y: float) -> None:
    if not (math.isfinite(x) and math.isfinite(y)):
        raise ValueError(f"the point ({x}, {y}) has a coordinate that is not finite")


def _scaled(value: float, end: float, pixels: int) -> float:
    carried = float(value * (pixels / end))
    # Just within the edge a product may round up to it.
    return pixels - 0.5 if value == end or (value < end and carried >= pixels) else carried
