"""Charts of the families' pages: plain SVG in colours that are legible on white and on black."""

from collections.abc import Mapping, Sequence

from paragone.lab.report.charts import plain
from paragone.lab.report.svg import Board, Scale, text_width

COLORS = ("#3b82f6", "#e8710a", "#10a37f", "#d6457a", "#8b6fe0", "#a08a00", "#7d8590")
STYLE = (
    "text{font:12px sans-serif;fill:#7d8590}.label{font-weight:bold}"
    ".axis{stroke:#7d8590}.grid{stroke:#7d8590;stroke-opacity:.2}"
    "polyline{fill:none;stroke-width:2}"
    + "".join(f".s{i}{{stroke:{c}}}.f{i}{{fill:{c}}}" for i, c in enumerate(COLORS))
)
Curve = tuple[Sequence[float], Sequence[float]]


def board(title: str, height: float = 300, width: float = 640) -> Board:
    """An empty picture with the style."""
    found = Board(width=width, height=height, title=title)
    found.parts.append(f"<style>{STYLE}</style>")
    return found


def legend(picture: Board, names: Sequence[str], y: float = 18) -> None:
    """Names in a row, each behind a piece of its line."""
    x = 64.0
    for number, name in enumerate(names):
        picture.add("line", cls=f"s{number}", x1=x, y1=y - 4, x2=x + 18, y2=y - 4, stroke_width=3)
        picture.text(x + 24, y, name)
        x += 40 + text_width(name)


def lines(
    title: str, curves: Mapping[str, Curve], x: str, y: str, *,
    log: str = "", dots: Mapping[str, Curve] | None = None,
) -> str:  # fmt: skip
    """Curves over an axis, and clouds of points; `log` names the logarithmic axes ("x", "xy")."""
    dots = dots or {}
    every = [*dots.values(), *curves.values()]
    picture = board(title)
    across = Scale.around(
        [float(v) for xs, _ in every for v in xs], 64, 620, log="x" in log, pad=0.02
    )
    up = Scale.around([float(v) for _, ys in every for v in ys], 250, 62, log="y" in log)
    picture.x_axis(across, 250, 62, x, plain)
    picture.y_axis(up, 64, 620, y, plain)
    for number, (xs, ys) in enumerate(dots.values(), len(curves)):
        for a, b in zip(xs, ys, strict=True):
            picture.add(
                "circle", cls=f"f{number}", cx=f"{across(a):.1f}", cy=f"{up(b):.1f}", r=2.2,
                fill_opacity=0.6,
            )  # fmt: skip
    for number, (xs, ys) in enumerate(curves.values()):
        points = [(across(float(a)), up(float(b))) for a, b in zip(xs, ys, strict=True)]
        picture.polyline(points, f"s{number}")
    legend(picture, [*curves, *dots])
    return picture.svg()


def bars(title: str, rows: Mapping[str, float], unit: str, *, log: bool = False) -> str:
    """One horizontal bar for each row, its value behind it."""
    picture = board(title, height=46 + 26 * len(rows))
    left = 24 + max(text_width(name) for name in rows)
    largest, smallest = max(rows.values()), min(rows.values())
    low = smallest / 2 if log else 0.0
    across = Scale(low=low, high=largest, start=left, stop=560, log=log)
    for number, (name, value) in enumerate(rows.items()):
        y = 12 + 26 * number
        picture.text(left - 10, y + 14, name, "", "end")
        width = f"{max(across(value) - left, 1):.1f}"
        picture.add("rect", cls=f"f{number % 6}", x=left, y=y, width=width, height=18)
        picture.text(across(value) + 6, y + 14, plain(float(f"{value:.3g}")))
    label = unit + (" (logarithmic)" if log else "")
    picture.text(left, 34 + 26 * len(rows), label, "label")
    return picture.svg()
