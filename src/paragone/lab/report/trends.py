"""The report's charts of lines: curves and sweeps with their crossovers, and mean ranks.

Curves answer *how does it grow* and *when does the lead change hands*; the rank diagram (Demsar,
JMLR 7, 2006, figure 1) answers *who belongs together* over many data sets. Like all charts here
they take plain numbers and return SVG text, "" when there is nothing to draw.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from paragone.lab.report.charts import WIDTH, cut, plain, spans
from paragone.lab.report.svg import Board, Scale, text_width

__all__ = ["Series", "crossings", "curves", "ranks"]


@dataclass(frozen=True, kw_only=True)
class Series:
    """One contestant's curve, with the single runs' curves behind it."""

    name: str
    index: int
    points: Sequence[tuple[float, float]]
    bars: Sequence[tuple[float, float, float]] = ()
    runs: Sequence[Sequence[tuple[float, float]]] = ()
    href: str = ""


def crossings(series: Sequence[Series], lower: bool = True) -> list[tuple[float, str, str]]:
    """Where the lead changes hands along a sweep, as (x, from, to).

    The leader's and the follower's curves are straight lines in log-log coordinates between
    measured points, so the crossing of $\\log y = a + b \\log x$ is in closed form.
    """
    sign = 1 if lower else -1
    tables = {s.name: dict(s.points) for s in series}
    axis = sorted({x for table in tables.values() for x in table})
    found = []
    for x1, x2 in itertools.pairwise(axis):
        both = [n for n, t in tables.items() if min(t.get(x1, 0), t.get(x2, 0)) > 0]
        if len(both) < 2:
            continue
        first = min(both, key=lambda n: sign * tables[n][x1])
        second = min(both, key=lambda n: sign * tables[n][x2])
        if first != second:
            gap1 = math.log(tables[first][x1] / tables[second][x1])
            gap2 = math.log(tables[first][x2] / tables[second][x2])
            share = gap1 / (gap1 - gap2) if gap1 != gap2 else 0.5
            found.append((x1 * (x2 / x1) ** share, first, second))
    return found


def curves(
    series: Sequence[Series], *, title: str, x_label: str, y_label: str,
    show_x: Callable[[float], str] = plain, show_y: Callable[[float], str] = plain,
    marks: Sequence[tuple[float, str]] = (),
) -> str:  # fmt: skip
    """Curves with names at their ends; axes are logarithmic where the data span it.

    Args:
        series: One for each contestant.
        title: Name of the picture.
        x_label: What the horizontal axis means.
        y_label: What the vertical axis means.
        show_x: Writes a horizontal value.
        show_y: Writes a vertical value.
        marks: Vertical lines, such as crossovers, as (x, words).
    """
    series = [s for s in series if s.points]
    xs = [p[0] for s in series for p in s.points]
    ys = [p[1] for s in series for p in s.points if math.isfinite(p[1])]
    if not xs or not ys or len(set(xs)) < 2:
        return ""
    log_x, log_y = spans(xs), spans(ys)
    left, top, bottom = 76, 40, 420
    right = WIDTH - 30 - min(220, max(text_width(s.name, 12) for s in series))
    board = Board(width=WIDTH, height=bottom + 46, title=title)
    x = Scale.around(xs, left, right, log=log_x, pad=0.03)
    y = Scale.around(ys, bottom, top, log=log_y)
    board.x_axis(x, bottom, top, x_label, show_x)
    board.y_axis(y, left, right, y_label, show_y)
    for at, words in marks:
        board.line(x(at), top, x(at), bottom, "cross")
        board.text(x(at), top - 4, words, "hint", "middle")

    def place(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        good = [(a, b) for a, b in points if math.isfinite(b) and (b > 0 or not log_y)]
        return [(x(a), y(y.clip(b))) for a, b in good if a > 0 or not log_x]

    drawn = [(s, place(s.points)) for s in series]
    for s, path in drawn:
        for run in s.runs:
            board.polyline(place(run), f"thin s{s.index % 7}")
        for at, low, high in s.bars:
            if not log_y or low > 0:
                board.line(x(at), y(y.clip(low)), x(at), y(y.clip(high)), "error")
        board.polyline(path, f"curve s{s.index % 7} {'dash' if s.index >= 7 else ''}".strip())
        every = max(1, len(path) // 12)
        # Each starts at another point, so that curves on top of each other can be told apart.
        for px, py in path[s.index % every :: every]:
            board.mark(px, py, s.index, radius=4, tip=s.name, href=s.href)
    _end_labels(board, [(s, path[-1]) for s, path in drawn if path], right)
    return board.svg()


def _end_labels(board: Board, ends: Sequence[tuple[Series, tuple[float, float]]], x: float) -> None:
    ends = sorted(ends, key=lambda e: e[1][1])
    heights = [py for _, (_, py) in ends]
    gap = 15.0
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + gap)
    # Pushed past the bottom: move the stack up again, keeping the order.
    limit = board.height - 46
    for i in range(len(heights) - 1, -1, -1):
        heights[i] = min(heights[i], limit - gap * (len(heights) - 1 - i))
    for (s, (px, py)), height in zip(ends, heights, strict=True):
        board.line(px + 5, py, x + 14, height, "leader")
        board.text(x + 17, height + 4, cut(s.name, 220, 12), "tag", href=s.href)


def ranks(
    names: Sequence[tuple[str, int, float]], cliques: Sequence[tuple[float, float]], *, title: str
) -> str:
    """Mean ranks on a line; a bar joins contestants that the data cannot tell apart.

    Args:
        names: (name, index, mean rank), best first.
        cliques: Ends of each bar as mean ranks.
        title: Name of the picture.
    """
    if len(names) < 2:
        return ""
    worst = max(math.ceil(names[-1][2]), 2)
    half = (len(names) + 1) // 2
    top = 54
    start = top + 16 + 9 * len(cliques)
    left = 20 + min(310, max(text_width(n, 13) for n, _, _ in names[:half]) + 50)
    right = 20 + min(310, max(text_width(n, 13) for n, _, _ in names[half:]) + 50)
    board = Board(width=WIDTH, height=start + 24 * half + 14, title=title)
    scale = Scale(low=1, high=worst, start=left + 20, stop=WIDTH - right - 20)
    board.line(scale.start, top, scale.stop, top)
    for rank in range(1, worst + 1):
        board.line(scale(rank), top - 6, scale(rank), top)
        board.text(scale(rank), top - 12, str(rank), "tick", "middle")
    board.text((scale.start + scale.stop) / 2, 16, "mean rank (1 is best)", "label", "middle")
    for i, (name, index, rank) in enumerate(names):
        on_left = i < half
        y = start + 24 * (i if on_left else len(names) - 1 - i) + 14
        side, anchor = (left, "end") if on_left else (WIDTH - right, "start")
        px = scale(rank)
        board.polyline([(px, top), (px, y), (side, y)], "leader")
        words = (
            f"{cut(name, 260, 13)} · {rank:.1f}"
            if on_left
            else f"{rank:.1f} · {cut(name, 260, 13)}"
        )
        board.text(side + (-18 if on_left else 18), y + 4.5, words, "name", anchor)
        board.mark(side + (-7 if on_left else 7), y, index, radius=5)
    for i, (a, b) in enumerate(cliques):
        y = top + 12 + 9 * i
        board.line(scale(a) - 4, y, scale(b) + 4, y, "clique")
    return board.svg()
