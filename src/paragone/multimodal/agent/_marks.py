r"""Marks on screenshots: where an action went, as shapes that Pillow and SVG draw alike.

A click is a ring with a cross, a double click has a second ring, a right click a bar beside it, a
long press is filled; a drag is an arrow, and scrolling two tips in its direction. All sizes follow
from one unit, which is in proportion to the screen's shorter side and bounded:

$$ u = \min(\max(0.035 \min(H, W), 4.5), 24) . $$

Every shape is drawn twice, first wider and white, so that it is seen on any ground.

Shapes: H rows and W columns of pixels.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable

from PIL import Image, ImageDraw

from paragone.multimodal.agent.actions import Action
from paragone.multimodal.agent.contract import Point

__all__ = ["Ring", "Stroke", "drawn", "in_words", "marks", "printable", "svg", "unit"]

COLOUR = (226, 0, 90)
HALO = (255, 255, 255)
_FINE = 4
_WIDTH, _AROUND = 0.28, 0.3
_WAYS = {"up": (0, -1), "down": (0, 1), "left": (-1, 0), "right": (1, 0)}


@dataclasses.dataclass(frozen=True)
class Ring:
    """A circle around a place; `filled` lets the ground shine through."""

    centre: Point
    radius: float
    filled: bool = False


@dataclasses.dataclass(frozen=True)
class Stroke:
    """Straight lines from point to point."""

    points: tuple[Point, ...]


Shape = Ring | Stroke


def unit(rows: int, columns: int) -> float:
    """The unit of the marks on a screen of so many pixels."""
    return min(max(0.035 * min(rows, columns), 4.5), 24.0)


def marks(action: Action, rows: int, columns: int, scale: float = 1.0) -> list[Shape]:
    """What shows where an action went.

    Args:
        action: With points in pixels of the screenshot.
        rows: Of the picture that is drawn on.
        columns: Of the same.
        scale: Its pixels to one pixel of the screenshot.

    Returns:
        Shapes in pixels of the picture; none for an action without a place.
    """
    u = unit(rows, columns)
    shapes: list[Shape] = []
    box = action.arguments.get("start_box")
    if box is not None and len(box) == 4 and (box[0], box[1]) != (box[2], box[3]):
        left, top, right, bottom = (value * scale for value in box)
        corners = (left, top), (right, top), (right, bottom), (left, bottom), (left, top)
        shapes.append(Stroke(corners))
    start = _scaled(action.point, scale)
    if action.name == "scroll":
        middle = start or (columns / 2, rows / 2)
        return shapes + _tips(middle, _WAYS.get(str(action.arguments.get("direction")), (0, 1)), u)
    if start is None:
        return shapes
    end = _end(action, scale)
    if end is not None:
        return [*shapes, Ring(start, 0.55 * u), *_arrow(start, end, u)]
    x, y = start
    small = 0.42 * u
    shapes += [
        Ring(start, u, action.name == "long_press"),
        Stroke(((x - small, y), (x + small, y))), Stroke(((x, y - small), (x, y + small))),
    ]  # fmt: skip
    if action.name == "left_double":
        shapes.append(Ring(start, 1.6 * u))
    if action.name == "right_single":
        shapes.append(Stroke(((x + 1.55 * u, y - u), (x + 1.55 * u, y + u))))
    return shapes


def _scaled(point: Point | None, scale: float) -> Point | None:
    return None if point is None else (point[0] * scale, point[1] * scale)


def _end(action: Action, scale: float) -> Point | None:
    box = action.arguments.get("end_box")
    if box is None:
        return None
    return (box[0] + box[-2]) / 2 * scale, (box[1] + box[-1]) / 2 * scale


def _arrow(start: Point, end: Point, u: float) -> list[Shape]:
    length = math.dist(start, end)
    if length < 1e-6:
        return []
    along = (end[0] - start[0]) / length, (end[1] - start[1]) / length
    size = min(1.1 * u, length / 2)
    return [Stroke((start, end)), _tip(end, along, size)]


def _tips(middle: Point, way: tuple[int, int], u: float) -> list[Shape]:
    ends = [(middle[0] + way[0] * far * u, middle[1] + way[1] * far * u) for far in (0.1, 1.1)]
    return [_tip(end, way, 0.8 * u) for end in ends]


def _tip(end: Point, along: Point, size: float) -> Stroke:
    (x, y), (dx, dy) = end, along
    wings = [
        (x - size * (dx + side * 0.75 * dy), y - size * (dy - side * 0.75 * dx))
        for side in (1, -1)
    ]  # fmt: skip
    return Stroke((wings[0], end, wings[1]))


def svg(shapes: Iterable[Shape], u: float) -> str:
    """Shapes as SVG, halo first; colours come from the classes "halo" and "mark"."""
    shapes = list(shapes)
    parts = []
    for name, width in (("halo", _WIDTH + _AROUND), ("mark", _WIDTH)):
        drawn = "".join(_svg_one(shape) for shape in shapes)
        parts.append(f'<g class="{name}" stroke-width="{width * u:.2f}">{drawn}</g>')
    return "".join(parts) if shapes else ""


def _svg_one(shape: Shape) -> str:
    if isinstance(shape, Ring):
        x, y = shape.centre
        filled = ' class="filled"' if shape.filled else ""
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{shape.radius:.1f}"{filled}/>'
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in shape.points)
    return f'<polyline points="{points}"/>'


def drawn(image: Image.Image, shapes: Iterable[Shape], u: float) -> Image.Image:
    """A picture with shapes on it.

    Args:
        image: RGB; stays as it is.
        shapes: In its pixels.
        u: The unit that they were made with.

    Returns:
        A new picture of the same size.
    """
    shapes = list(shapes)
    if not shapes:
        return image
    page = image.copy()
    for colour, width in ((HALO, _WIDTH + _AROUND), (COLOUR, _WIDTH)):
        mask = Image.new("L", (image.width * _FINE, image.height * _FINE))
        pen = ImageDraw.Draw(mask)
        for shape in shapes:
            _draw_one(pen, shape, width * u * _FINE)
        page.paste(colour, (0, 0), mask.resize(image.size, Image.Resampling.BOX))
    filled = [one for one in shapes if isinstance(one, Ring) and one.filled]
    if filled:
        mask = Image.new("L", image.size)
        for ring in filled:
            (x, y), r = ring.centre, ring.radius
            ImageDraw.Draw(mask).ellipse((x - r, y - r, x + r, y + r), fill=90)
        page.paste(COLOUR, (0, 0), mask)
    return page


def _draw_one(pen: ImageDraw.ImageDraw, shape: Shape, width: float) -> None:
    if isinstance(shape, Ring):
        x, y = (value * _FINE for value in shape.centre)
        r = shape.radius * _FINE + width / 2
        pen.ellipse((x - r, y - r, x + r, y + r), outline=255, width=round(width))
        return
    points = [(x * _FINE, y * _FINE) for x, y in shape.points]
    pen.line(points, fill=255, width=round(width), joint="curve")
    r = width / 2
    for x, y in points:
        pen.ellipse((x - r, y - r, x + r, y + r), fill=255)


def printable(text: str) -> str:
    r"""A text in which what cannot be seen is spelled out: control and direction marks, too.

    Example:
        >>> print(printable("two\nlines \x1b[31m"))
        two\nlines \x1b[31m
    """
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def in_words(action: Action) -> str:
    """An action in a few words, such as `click (12, 40)`; what a page made it say is quoted.

    Example:
        >>> in_words(Action("drag", {"start_box": (1.0, 2.0), "end_box": (30.5, 4.0)}))
        'drag (1, 2) to (30.5, 4)'
    """
    words = [printable(action.name)]
    for name, value in action.arguments.items():
        if name.endswith("_box"):
            numbers = ", ".join(f"{round(number, 1):g}" for number in value)
            words.append(f"{'to ' * (name == 'end_box')}({numbers})")
        elif name == "time":
            words.append(f"{value:g} s" if isinstance(value, int | float) else printable(value))
        elif name in ("key", "direction"):
            words.append(printable(str(value)))
        else:
            words.append(_quoted(str(value)))
    return " ".join(words)


def _quoted(text: str) -> str:
    return printable(json.dumps(text, ensure_ascii=False))
