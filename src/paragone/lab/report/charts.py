"""The report's charts of contestants: forest of differences, quality-time front, strip of runs.

Each function takes plain numbers and returns SVG text ("" when there is nothing to draw), and
each chart answers one question: *is the difference real* (forest), *what does quality cost*
(front), *how much do single runs scatter* (strip). A point far from the others does not squash
them: it is drawn at the edge with an arrow and its value is written beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from paragone.lab.report.svg import Board, Scale, place_labels, text_width

__all__ = ["WIDTH", "Line", "Point", "cut", "forest", "front", "plain", "spans", "strip"]

WIDTH = 880
"""Pixels; the page scales drawings to the room that it has."""
_ROW = 27


@dataclass(frozen=True, kw_only=True)
class Line:
    """One row of a forest plot or a strip; `values` are single blocks' (or runs') numbers."""

    name: str
    index: int
    href: str = ""
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    text: str = ""
    word: str = ""
    values: Sequence[float] = ()


@dataclass(frozen=True, kw_only=True)
class Point:
    """One contestant on the front: `x` is time, `y` quality, `weight` memory."""

    name: str
    index: int
    x: float
    y: float
    low: float | None = None
    high: float | None = None
    weight: float | None = None
    tip: str = ""
    href: str = ""


def plain(value: float) -> str:
    """A number of an axis that has no unit."""
    text = f"{value:,.4g}" if 1e-3 <= abs(value) < 1e5 or value == 0 else f"{value:.3g}"
    return text.replace("-", "−")


def _far_limit(distances: Sequence[float], detail: float = 0.0) -> float:
    """The distance beyond which a point would squash the others (infinite if none does).

    Args:
        distances: Of all points from the reference.
        detail: What must stay visible, such as a usual interval: at least 1/30 of the axis.
    """
    found = sorted(d for d in distances if math.isfinite(d) and d > 0)
    if len(found) < 4:
        return math.inf
    limit = 30 * detail if detail else 6 * found[(len(found) - 1) // 2]
    return limit if found[-1] > 1.5 * limit else math.inf


def forest(
    lines: Sequence[Line], *, title: str, label: str, sides: tuple[str, str] = ("", ""),
    zero: float = 0.0, band: tuple[float, float] | None = None,
    show: Callable[[float], str] = plain,
) -> str:  # fmt: skip
    """Paired differences with their 95 % intervals, single blocks as dots, the margin as band.

    Args:
        lines: One for each contestant, best first.
        title: Name of the picture for screen readers and tooltips.
        label: What the axis means.
        sides: Words for the left and the right end of the axis.
        zero: Where "no difference" lies: 1 turns the axis into a logarithmic one of ratios.
        band: Ends of the zone in which a difference does not matter.
        show: Writes a number of the axis.
    """
    lines = [_told(line) for line in lines]
    lines = [line for line in lines if line.estimate is not None]
    if not lines:
        return ""
    log = zero == 1
    far = _forest_limit(lines, band, log)
    far = min(far, 230.0) if log else far
    span = (math.exp(-far), math.exp(far)) if log else (-far, far)
    shown = [zero, *(band or ())]
    for line in lines:
        inside = [line.low, line.high, line.estimate, *line.values]
        shown += [v for v in inside if v is not None and span[0] <= v <= span[1]]
    left = 34 + min(250, max(text_width(line.name, 13) for line in lines))
    right = 34 + max(text_width(line.text, 12.5) for line in lines)
    top, bottom = 10, 10 + _ROW * len(lines)
    scale = Scale.around(shown, left, WIDTH - right, log=log, pad=0.04)
    board = Board(width=WIDTH, height=bottom + 46, title=title)
    if band:
        x = scale(band[0])
        board.add("rect", cls="band", x=x, y=top, width=scale(band[1]) - x, height=bottom - top)
    board.x_axis(scale, bottom, top, label, show)
    board.line(scale(zero), top, scale(zero), bottom, "zero")
    board.text(scale.start, bottom + 34, sides[0], "hint")
    board.text(scale.stop, bottom + 34, sides[1], "hint", "end")
    for i, line in enumerate(lines):
        _forest_row(board, line, scale, top + _ROW * (i + 0.5), log)
    return board.svg()


def _told(line: Line) -> Line:
    """The line with None for what is no number."""
    ends = {"estimate": line.estimate, "low": line.low, "high": line.high}
    return replace(line, **{k: None if v is None or math.isnan(v) else v for k, v in ends.items()})


def _forest_limit(lines: Sequence[Line], band: tuple[float, float] | None, log: bool) -> float:
    turn, floor = (math.log, 0.0) if log else (float, -math.inf)
    halves = sorted(
        abs(turn(line.high) - turn(line.low)) / 2
        for line in lines
        if line.low is not None and line.high is not None
        and floor < line.low <= line.high < math.inf
    )  # fmt: skip
    usual = halves[len(halves) // 2] if halves else 0.0
    margin = abs(turn(band[1]) - turn(band[0])) / 2 if band else 0.0
    found = [abs(turn(x.estimate)) for x in lines if x.estimate and x.estimate > floor]
    # A logarithmic axis squashes far less.
    return _far_limit(found, max(usual, margin) * (4 if log else 1))


def _forest_row(board: Board, line: Line, scale: Scale, y: float, log: bool) -> None:
    estimate = line.estimate if line.estimate is not None else 0.0
    board.mark(12, y, line.index, radius=5)
    board.text(24, y + 4.5, cut(line.name, 250, 13), "name", href=line.href)
    inside = [v for v in line.values if scale.low <= v <= scale.high]
    jitter = [((i * 7) % 5 - 2) * 1.7 for i in range(len(inside))]
    board.dots([(scale(v), y + j) for v, j in zip(inside, jitter, strict=True)], "faint")
    if line.low is not None and line.high is not None and not (log and line.low <= 0):
        a, b = scale(scale.clip(line.low)), scale(scale.clip(line.high))
        board.line(a, y, b, y, f"whisker {line.word}")
    x = scale(scale.clip(estimate))
    tip = f"{line.name}: {line.text} {line.word}".strip()
    if estimate > scale.high or estimate < scale.low:
        side = 1 if estimate > scale.high else -1
        arrow = f"M{x - 8 * side:.1f} {y - 5:.1f}L{x:.1f} {y:.1f}L{x - 8 * side:.1f} {y + 5:.1f}"
        board.add("path", cls="off", d=arrow)
    else:
        board.mark(x, y, line.index, radius=5, tip=tip, href=line.href)
    board.text(WIDTH - 8, y + 4.5, line.text, f"value {line.word}", "end", href=line.href)


def front(
    points: Sequence[Point], *, title: str, x_label: str, y_label: str, lower: bool,
    show_x: Callable[[float], str], show_y: Callable[[float], str] = plain,
    show_weight: Callable[[float], str] = plain,
) -> str:  # fmt: skip
    """Quality against time (logarithmic), area of a mark for memory, the front as a line.

    Args:
        points: One for each contestant that has both numbers.
        title: Name of the picture.
        x_label: What the time axis means.
        y_label: What the quality axis means.
        lower: Whether a lower quality number is better.
        show_x: Writes a time.
        show_y: Writes a quality.
        show_weight: Writes a memory.
    """
    points = [_placed(p) for p in points if 0 < p.x < math.inf and math.isfinite(p.y)]
    if len(points) < 2:
        return ""
    sign = 1 if lower else -1
    best = min(sign * p.y for p in points)
    far = _far_limit([sign * p.y - best for p in points])
    inside = [p for p in points if sign * p.y - best <= far]
    left, top, bottom = 70, 50, 440
    board = Board(width=WIDTH, height=bottom + 46, title=title)
    x = Scale.around([p.x for p in points], left, WIDTH - 20, log=True)
    ends = [v for p in inside for v in (p.y, p.low, p.high) if v is not None]
    ends = [v for v in ends if sign * v - best <= far]
    y = Scale.around(ends, bottom, top, pad=0.09)
    board.x_axis(x, bottom, top, x_label, show_x)
    board.y_axis(y, left, WIDTH - 20, y_label, show_y)
    if lower:
        board.text(left, bottom + 34, "↙ better", "hint")
    else:
        board.text(left + text_width(y_label) + 14, top - 22, "↖ better", "hint")
    heaviest = max((p.weight or 0 for p in points), default=0)
    radii = [4 + 11 * math.sqrt((p.weight or 0) / heaviest) if heaviest else 6 for p in points]
    leading = _pareto(points, sign)
    steps: list[tuple[float, float]] = []
    for p in leading:
        px, py = x(x.clip(p.x)), y(y.clip(p.y))
        steps += [(px, steps[-1][1])] if steps else []
        steps.append((px, py))
    if steps:
        steps = [(steps[0][0], y.stop if lower else y.start), *steps, (WIDTH - 20, steps[-1][1])]
    board.polyline(steps, "front")
    _front_marks(board, points, radii, leading, x, y, show_y, steps)
    if heaviest:
        _size_legend(board, heaviest, show_weight)
    return board.svg()


def _placed(point: Point) -> Point:
    """The point with None for ends and weights that cannot be drawn."""
    low, high, weight = point.low, point.high, point.weight
    ends = low is not None and high is not None and not math.isnan(low + high)
    heavy = weight is not None and 0 < weight < math.inf
    return replace(
        point, low=low if ends else None, high=high if ends else None,
        weight=weight if heavy else None,
    )  # fmt: skip


def _pareto(points: Sequence[Point], sign: int) -> list[Point]:
    found: list[Point] = []
    for p in sorted(points, key=lambda p: (p.x, sign * p.y)):
        if not found or sign * p.y < sign * found[-1].y:
            found.append(p)
    return found


def _front_marks(
    board: Board, points: Sequence[Point], radii: Sequence[float], leading: Sequence[Point],
    x: Scale, y: Scale, show_y: Callable[[float], str], steps: Sequence[tuple[float, float]],
) -> None:  # fmt: skip
    anchors, sizes, texts = [], [], []
    for p, r in zip(points, radii, strict=True):
        clipped = y.clip(p.y)
        anchors.append((x(x.clip(p.x)), y(clipped), r))
        # A point off the axis says its value, since its height does not.
        texts.append(p.name if clipped == p.y else f"{p.name} ({show_y(p.y)})")
        # Bold letters are wider.
        wide = text_width(texts[-1], 13.2 if p in leading else 12)
        sizes.append((wide + 2, 14.0))
    order = sorted(range(len(points)), key=lambda i: -radii[i])
    for p, (px, _, _) in zip(points, anchors, strict=True):
        if p.low is not None and p.high is not None:
            board.line(px, y(y.clip(p.low)), px, y(y.clip(p.high)), "error")
    for i in order:
        p, (px, py, r) = points[i], anchors[i]
        cls = "lead" if p in leading else "rest"
        board.mark(px, py, p.index, radius=r, tip=p.tip or p.name, href=p.href, cls=cls)
    frame = (x.start + 2, y.stop - 14, x.stop, y.start - 2)
    places = place_labels(anchors, sizes, frame, steps)
    for p, text, anchor, (left, top), (w, h) in zip(
        points, texts, anchors, places, sizes, strict=True
    ):
        near = (min(max(anchor[0], left), left + w), min(max(anchor[1], top), top + h))
        gap = math.hypot(near[0] - anchor[0], near[1] - anchor[1])
        if gap > anchor[2] + 9:
            share = anchor[2] / gap
            start = [a + (b - a) * share for a, b in zip(anchor[:2], near, strict=True)]
            board.line(start[0], start[1], near[0], near[1], "leader")
        board.text(left + 1, top + 11, text, "tag lead" if p in leading else "tag", href=p.href)


def _size_legend(board: Board, heaviest: float, show: Callable[[float], str]) -> None:
    x = WIDTH - 24.0
    for share in (1.0, 0.1):
        r = 4 + 11 * math.sqrt(share)
        text = show(heaviest * share)
        x -= text_width(text, 11.5)
        board.text(x, 22, text, "tick")
        x -= r + 6
        board.add("circle", cls="ghost", cx=x, cy=18, r=r)
        x -= r + 12
    board.text(x, 22, "peak memory", "tick", "end")


def strip(
    lines: Sequence[Line], *, title: str, label: str, show: Callable[[float], str] = plain
) -> str:
    """Every single run: one row for each contestant, hairlines join runs of the same block."""
    lines = [line for line in lines if any(math.isfinite(v) for v in line.values)]
    if not lines:
        return ""
    values = [v for line in lines for v in line.values if math.isfinite(v)]
    left = 34 + min(250, max(text_width(line.name, 13) for line in lines))
    top, bottom = 10, 10 + _ROW * len(lines)
    scale = Scale.around(values, left, WIDTH - 20, log=spans(values))
    board = Board(width=WIDTH, height=bottom + 46, title=title)
    board.x_axis(scale, bottom, top, label, show)
    for block in range(max(len(line.values) for line in lines)):
        path = []
        for i, line in enumerate(lines):
            if block < len(line.values) and math.isfinite(line.values[block]):
                path.append((scale(scale.clip(line.values[block])), top + _ROW * (i + 0.5)))
        board.polyline(path, "pair")
    for i, line in enumerate(lines):
        y = top + _ROW * (i + 0.5)
        board.mark(12, y, line.index, radius=5)
        board.text(24, y + 4.5, cut(line.name, 250, 13), "name", href=line.href)
        board.dots(
            [(scale(scale.clip(v)), y) for v in line.values if math.isfinite(v)],
            f"s{line.index % 7}",
        )
    return board.svg()


def spans(values: Sequence[float]) -> bool:
    """Whether an axis of these values should be logarithmic."""
    return min(values) > 0 and max(values) / min(values) > 25


def cut(text: str, width: float, font: float) -> str:
    """The text, shortened with an ellipsis until it fits."""
    if text_width(text, font) <= width:
        return text
    while text and text_width(text + "…", font) > width:
        text = text[:-1]
    return text + "…"
