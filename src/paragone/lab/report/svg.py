"""A small drawing board: scales, ticks, marks and labels as plain SVG text.

The page must be whole without JavaScript and without the network, so charts are drawn here,
once, as SVG that takes its colours from the page's CSS variables (light, dark and print
follow by themselves). Marks carry a `<title>`, which browsers show as a tooltip and screen
readers read. Nothing here knows what a study is; `charts` does.

A scale maps data to pixels, $p = p_0 + (p_1 - p_0)\\,(f(x) - f(a)) / (f(b) - f(a))$ with
$f = \\log_{10}$ on a logarithmic axis; ticks stand at 1, 2 or 5 times a power of ten
(Heckbert, "Nice numbers for graph labels", Graphics Gems, 1990).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape

__all__ = ["SHAPES", "Board", "Scale", "element", "glyph", "place_labels", "text_width"]

SHAPES = ("circle", "square", "triangle", "diamond", "down", "cross", "pentagon", "bar")
"""Marker shapes; together with seven colours they tell 56 contestants apart."""

NUM_COLORS = 7
_HUGE = 1e100
_WIDE, _NARROW = set("mwMW@%—–→"), set("iljtfrI1.,:;'|()[]! ")


def text_width(text: str, font: float = 12.0) -> float:
    """Width in pixels that the text may take in a sans-serif font (an upper estimate)."""
    units = sum(0.95 if c in _WIDE else 0.37 if c in _NARROW else 0.63 for c in text)
    return units * font


@dataclass(frozen=True, kw_only=True)
class Scale:
    """One axis: data from `low` to `high` onto pixels from `start` to `stop`.

    Example:
        >>> Scale(low=1, high=100, start=0, stop=200, log=True)(10)
        100.0
    """

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (self._f(v) for v in (self.low, self.high, value))
        return self.start + (self.stop - self.start) * (value - low) / (high - low)

    def _f(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def clip(self, value: float) -> float:
        """The nearest value that lies on the axis."""
        return min(max(value, self.low), self.high)

    def ticks(self, most: int = 6) -> list[float]:
        """Round values on the axis, at most about `most` of them."""
        if self.log:
            return self._log_ticks(most)
        raw = (self.high - self.low) / max(most, 1)
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(i * step, 12) for i in range(first, last + 1)]

    def _log_ticks(self, most: int) -> list[float]:
        if self.high < 2.2 * self.low:
            return Scale(low=self.low, high=self.high, start=0, stop=1).ticks(most)[:most]
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        for steps in ((1, 1.2, 1.5, 2, 3, 5, 7), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
            found = [m * 10.0**e for e in range(first, last + 1) for m in steps]
            found = [t for t in found if self.low * 0.9999 <= t <= self.high * 1.0001]
            if len(found) <= most:
                break
        stride = math.ceil(len(found) / most) if found else 1
        return found[::stride]

    @staticmethod
    def around(
        values: Sequence[float], start: float, stop: float, *, log: bool = False, pad: float = 0.06
    ) -> Scale:
        """The scale that shows all the (finite, and for `log` positive) values with a margin."""
        # Beyond 1e100 nothing was measured; such a value stands at the edge (see `clip`).
        found = [v for v in values if abs(v) <= _HUGE and (v >= 1 / _HUGE or not log)]
        low, high = (min(found), max(found)) if found else (1.0, 2.0)
        if log:
            room = max(math.exp(pad * (math.log(high) - math.log(low))), 1.08)
            return Scale(low=low / room, high=high * room, start=start, stop=stop, log=True)
        room = (high - low) * pad or abs(high) * 0.05
        # Neighbouring floats are one place on paper.
        room = max(room, abs(high) * 1e-9) or 1.0
        return Scale(low=low - room, high=high + room, start=start, stop=stop)


@dataclass(kw_only=True)
class Board:
    """An SVG picture under construction.

    Example:
        >>> board = Board(width=100, height=20, title="One mark")
        >>> board.mark(50, 10, 0, tip="here")
        >>> board.svg().startswith("<svg")
        True
    """

    width: float
    height: float
    title: str
    note: str = ""
    parts: list[str] = field(default_factory=list)

    def add(self, tag: str, body: str = "", **attributes: object) -> None:
        """Appends one element; `cls` stands for class, `_` in names for `-`."""
        self.parts.append(element(tag, body, **attributes))

    def line(self, x1: float, y1: float, x2: float, y2: float, cls: str = "axis") -> None:
        """A straight line."""
        self.add("line", cls=cls, x1=x1, y1=y1, x2=x2, y2=y2)

    def text(
        self, x: float, y: float, text: str, cls: str = "", anchor: str = "", href: str = ""
    ) -> None:
        """A label, its baseline at `y`; `href` makes it a link."""
        body = element("text", escape(text), cls=cls, x=x, y=y, text_anchor=anchor)
        self.parts.append(element("a", body, href=href) if href else body)

    def polyline(self, points: Sequence[tuple[float, float]], cls: str) -> None:
        """A line through points."""
        if len(points) > 1:
            path = " ".join(f"{_n(x)},{_n(y)}" for x, y in points)
            self.add("polyline", cls=cls, points=path)

    def dots(self, points: Sequence[tuple[float, float]], cls: str) -> None:
        """Many small round dots as one path, 12 bytes each."""
        if points:
            path = "".join(f"M{_n(x)} {_n(y)}h0" for x, y in points)
            self.add("path", cls=f"dots {cls}", d=path)

    def mark(
        self, x: float, y: float, index: int, *, radius: float = 5, tip: str = "", href: str = "",
        cls: str = "",
    ) -> None:  # fmt: skip
        """Contestant number `index`'s marker, with its colour and its shape."""
        classes = f"mark c{index % NUM_COLORS} {cls}".strip()
        body = f"<title>{escape(tip)}</title>" if tip else ""
        drawn = _shape(SHAPES[index % len(SHAPES)], x, y, radius, classes, body)
        self.parts.append(element("a", drawn, href=href) if href else drawn)

    def x_axis(
        self, scale: Scale, y: float, top: float, label: str, show: Callable[[float], str],
        most: int = 7,
    ) -> None:  # fmt: skip
        """Horizontal axis at height `y` with grid lines up to `top`."""
        self.line(scale.start, y, scale.stop, y)
        last = -math.inf
        for tick in scale.ticks(most):
            x, text = scale(tick), show(tick)
            self.line(x, top, x, y, "grid")
            half = text_width(text, 11.5) / 2
            if x - half > last + 6:
                self.text(x, y + 16, text, "tick", "middle")
                last = x + half
        self.text((scale.start + scale.stop) / 2, y + 34, label, "label", "middle")

    def y_axis(
        self, scale: Scale, x: float, right: float, label: str, show: Callable[[float], str],
        most: int = 6,
    ) -> None:  # fmt: skip
        """Vertical axis at `x` with grid lines to `right`; its label stands on top."""
        for tick in scale.ticks(most):
            y = scale(tick)
            self.line(x, y, right, y, "grid")
            self.text(x - 8, y + 4, show(tick), "tick", "end")
        self.text(x, min(scale.start, scale.stop) - 22, label, "label", "start")

    def svg(self) -> str:
        """The finished picture: text that stands inside an HTML page or alone in a file."""
        # The name stands in aria-label: a <title> here would pop up over every blank spot.
        head = f"<desc>{escape(self.note)}</desc>" if self.note else ""
        box = f"0 0 {_n(self.width)} {_n(self.height)}"
        return element(
            "svg", head + "".join(self.parts), xmlns="http://www.w3.org/2000/svg", viewBox=box,
            width=self.width, height=self.height, role="img", aria_label=self.title,
        )  # fmt: skip


def element(tag: str, body: str = "", **attributes: object) -> str:
    """One element as text, its attributes escaped; empty attributes are left out."""
    parts = [tag]
    for name, value in attributes.items():
        if value in ("", None):
            continue
        name = "class" if name == "cls" else name.replace("_", "-")
        text = _n(value) if isinstance(value, float | int) else escape(str(value))
        parts.append(f'{name}="{text}"')
    head = " ".join(parts)
    return f"<{head}>{body}</{tag}>" if body else f"<{head}/>"


def glyph(index: int) -> str:
    """Contestant number `index`'s marker as a picture of its own, to stand beside a name."""
    mark = _shape(SHAPES[index % len(SHAPES)], 8, 8, 5.2, f"mark c{index % NUM_COLORS}", "")
    return element("svg", mark, cls="glyph", viewBox="0 0 16 16", aria_hidden="true")


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _shape(shape: str, x: float, y: float, r: float, cls: str, body: str) -> str:
    if shape == "circle":
        return element("circle", body, cls=cls, cx=x, cy=y, r=r)
    # Equal visual weight: a square of side 2r looks larger than a circle of radius r.
    corners = {
        "square": [(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)],
        "triangle": [(0, -1.2), (1.1, 0.8), (-1.1, 0.8)],
        "down": [(0, 1.2), (1.1, -0.8), (-1.1, -0.8)],
        "diamond": [(0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)],
        "pentagon": [(0, -1.1), (1.05, -0.34), (0.65, 0.9), (-0.65, 0.9), (-1.05, -0.34)],
        "bar": [(-1.3, -0.55), (1.3, -0.55), (1.3, 0.55), (-1.3, 0.55)],
        "cross": [(-0.4, -1.1), (0.4, -1.1), (0.4, -0.4), (1.1, -0.4), (1.1, 0.4), (0.4, 0.4),
                  (0.4, 1.1), (-0.4, 1.1), (-0.4, 0.4), (-1.1, 0.4), (-1.1, -0.4), (-0.4, -0.4)],
    }[shape]  # fmt: skip
    path = "M" + "L".join(f"{_n(x + r * dx)} {_n(y + r * dy)}" for dx, dy in corners) + "Z"
    return element("path", body, cls=cls, d=path)


Box = tuple[float, float, float, float]


def place_labels(
    anchors: Sequence[tuple[float, float, float]], sizes: Sequence[tuple[float, float]],
    frame: Box, lines: Sequence[tuple[float, float]] = (),
) -> list[tuple[float, float]]:  # fmt: skip
    """Finds a place for each label so that labels cover neither marks nor each other.

    Each label may stand at 16 angles and six distances around its mark; the cheapest place
    counts overlap area first and distance second. Labels are set from the most crowded to
    the freest and then revisited until nothing improves: O(rounds * n^2 * places).

    Args:
        anchors: Marks as (x, y, radius).
        sizes: Labels as (width, height), one for each mark.
        frame: (left, top, right, bottom) that labels must stay in.
        lines: Corners of an axis-parallel line that labels should not cover.

    Returns:
        The left upper corner of each label.
    """
    marks = [(x - r - 1, y - r - 1, x + r + 1, y + r + 1) for x, y, r in anchors]
    marks += [
        (min(a, c) - 1, min(b, d) - 1, max(a, c) + 1, max(b, d) + 1)
        for (a, b), (c, d) in itertools.pairwise(lines)
    ]
    options = [_candidates(*anchors[i], *sizes[i], frame) for i in range(len(anchors))]
    fixed = [
        [cost + 6 * sum(_overlap(box, m) for m in marks) for box, cost in places]
        for places in options
    ]

    def crowd(i: int) -> float:
        x, y, _ = anchors[i]
        return sum(1 / (1 + math.hypot(x - a, y - b)) for a, b, _ in anchors)

    chosen: dict[int, int] = {}
    order = sorted(range(len(anchors)), key=crowd, reverse=True)
    for _ in range(6):
        before = dict(chosen)
        for i in order:
            others = [options[j][k][0] for j, k in chosen.items() if j != i]
            costs = [
                fixed[i][k] + 8 * sum(_overlap(box, other) for other in others)
                for k, (box, _) in enumerate(options[i])
            ]
            chosen[i] = costs.index(min(costs))
        if chosen == before:
            break
    return [options[i][chosen[i]][0][:2] for i in range(len(anchors))]


def _candidates(
    x: float, y: float, r: float, w: float, h: float, frame: Box
) -> list[tuple[Box, float]]:
    found = []
    for distance in (4, 12, 24, 40, 60, 85):
        for step in range(16):
            angle = 2 * math.pi * step / 16
            # Right of the mark reads best; the label's near edge touches the circle.
            cx = x + (r + distance) * math.cos(angle) + w / 2 * math.cos(angle)
            cy = y - (r + distance) * math.sin(angle) - h / 2 * math.sin(angle)
            left = min(max(cx - w / 2, frame[0]), frame[2] - w)
            top = min(max(cy - h / 2, frame[1]), frame[3] - h)
            cost = distance * 1.5 + 2 * (1 - math.cos(angle))
            found.append(((left, top, left + w, top + h), cost))
    return found


def _overlap(a: Box, b: Box) -> float:
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    return wide * high if wide > 0 and high > 0 else 0.0
