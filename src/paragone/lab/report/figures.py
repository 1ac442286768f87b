"""Which charts a summary can fill, and with which numbers.

Each function looks at what was measured and returns `Figure`s for the page; an empty list means
that the summary has nothing to say there, and the page leaves the section out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from paragone.lab import format as fmt
from paragone.lab.outcome import Cell, Difference, Row
from paragone.lab.report import charts, trends, view
from paragone.lab.spec import Measure, Workload

__all__ = ["Figure", "cliques", "curve_figures", "forests", "fronts", "rank_figure", "strips"]

MOST_DOTS = 4000
"""Dots of a chart; more would make the page heavy and tell nothing more."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A chart with its caption and one line on how to read it."""

    title: str
    svg: str
    note: str = ""


def _shower(measure: Measure) -> Callable[[float], str]:
    if measure.unit in {"s", "B"}:
        # Ticks stand at round numbers: "1 s", not "1.0 s".
        return lambda v: fmt.value(v, measure).replace(".0 ", " ")
    return charts.plain


def _value(record: Mapping[str, Any] | None, measure: str) -> float:
    value = (record or {}).get("values", {}).get(measure)
    return float(value) if isinstance(value, int | float) else math.nan


def forests(guide: view.Guide, workload: str, rows: Sequence[Row]) -> list[Figure]:
    """Paired differences to the best: quality first, then the time and memory that rank."""
    found = []
    best = _best(rows)
    wanted = [view.ranker(guide.summary, workload, rows)]
    wanted += [view.role_measure(guide.summary, role) for role in ("time", "memory")]
    for measure in [m for m in dict.fromkeys(wanted) if m is not None]:
        figure = _forest(guide, workload, rows, best, measure)
        if figure is not None:
            found.append(figure)
    return found


def _best(rows: Sequence[Row]) -> str:
    for row in rows:
        if row.versus_best is not None:
            return row.versus_best.b
    row = view.leading(rows)
    return row.contestant if row else ""


def _forest(
    guide: view.Guide, workload: str, rows: Sequence[Row], best: str, measure: Measure
) -> Figure | None:
    pairs = guide.pairs(measure.name)
    diffs = {r.contestant: pairs.get((r.contestant, best, workload)) for r in rows}
    for row in rows:
        own = row.versus_best
        if own is not None and own.measure == measure.name and own.b != row.contestant:
            diffs[row.contestant] = own
    found = [d for d in diffs.values() if d is not None and d.estimate is not None]
    if not found:
        return None
    ratio = found[0].ratio
    records = guide.runs
    titles, index = guide.titles, guide.index
    texts = dict(zip(diffs, view.compared(list(diffs.values())), strict=True))
    lines = []
    for row in rows:
        diff = diffs[row.contestant]
        if row.contestant == best or diff is None or diff.estimate is None:
            continue
        values = _paired(records, row.contestant, best, workload, measure.name, ratio)
        lines.append(charts.Line(
            name=row.title, index=index[row.contestant], estimate=diff.estimate, low=diff.low,
            high=diff.high, text=" ".join(texts[row.contestant]), word=diff.word, values=values,
            href=f"#{guide.anchor(row.contestant, workload)}",
        ))  # fmt: skip
    sides = {"lower": ("better", "worse"), "higher": ("worse", "better")}[measure.better]
    what = "ratio" if ratio else "difference"
    name = titles.get(best, best)
    svg = charts.forest(
        lines, title=f"{measure.title}: {what} to {name}", zero=1.0 if ratio else 0.0,
        label=f"{measure.title}, {what} to {name}", sides=(f"← {sides[0]}", f"{sides[1]} →"),
        band=_band(guide, workload, best, measure, ratio),
        show=_ratio_show(found) if ratio else charts.plain,
    )  # fmt: skip
    if not svg:
        return None
    method = next((d.method for d in found if d.method), "")
    note = (
        "Mark and whisker: estimate and 95 % interval. Shaded: a difference that does not matter."
    )
    if any(line.values for line in lines):
        note += " Dots: single blocks."
    return Figure(
        title=f"{measure.title}, paired {what}s to {name}", svg=svg,
        note=f"{note} Method: {method}." if method else note,
    )  # fmt: skip


def _ratio_show(found: Sequence[Difference]) -> Callable[[float], str]:
    """Per cent while all stay within a factor of two, as in the texts beside them."""
    if all(d.estimate is not None and 0.5 <= d.estimate <= 2 for d in found):
        return lambda ratio: fmt.percent(ratio - 1, sign=ratio != 1).replace(".0 %", " %")
    return lambda ratio: f"{ratio:.3g}x"


def _paired(
    records: Mapping[tuple[str, str], Mapping[int, Mapping[str, Any]]], a: str, b: str,
    workload: str, measure: str, ratio: bool,
) -> list[float]:  # fmt: skip
    places = {w for c, w in records if c == a and workload in ("", w)}
    # Over several inputs single differences have no common unit; ratios do.
    if not ratio and len(places) > 1:
        return []
    found = []
    for place in sorted(places):
        ours, theirs = records[a, place], records.get((b, place), {})
        for block in sorted(set(ours) & set(theirs)):
            x, y = _value(ours[block], measure), _value(theirs[block], measure)
            value = x / y if ratio and y else x - y
            if math.isfinite(value) and (value > 0 or not ratio):
                found.append(value)
    return found if len(found) <= MOST_DOTS // 20 else []


def _band(
    guide: view.Guide, workload: str, best: str, measure: Measure, ratio: bool
) -> tuple[float, float] | None:
    if not measure.margin:
        return None
    if ratio:
        return (1 / (1 + measure.margin), 1 + measure.margin) if measure.relative else None
    if not measure.relative:
        return (-measure.margin, measure.margin)
    rows = guide.summary.tables.get(workload, ()) or (guide.summary.rows if not workload else ())
    cell = next((r.cells.get(measure.name) for r in rows if r.contestant == best), None)
    if cell is None or cell.value is None or not math.isfinite(cell.value):
        return None
    return (-measure.margin * abs(cell.value), measure.margin * abs(cell.value))


def fronts(guide: view.Guide, workload: str, rows: Sequence[Row]) -> list[Figure]:
    """Quality against the time that ranks; the area of a mark is peak memory."""
    quality = view.ranker(guide.summary, workload, rows)
    time = view.role_measure(guide.summary, "time")
    memory = view.role_measure(guide.summary, "memory")
    show = _percent_behind if quality and quality.name == view.RELATIVE else charts.plain
    if quality is None or time is None or quality.role != "quality":
        return []
    index = guide.index
    best = next((r.cells.get(quality.name) for r in rows if r.contestant == _best(rows)), None)
    points = []
    # Who has no tier ran on fewer blocks than the others: its point would not be comparable.
    for row in [r for r in rows if r.tier] or rows:
        q, t = row.cells.get(quality.name), row.cells.get(time.name)
        if q is None or t is None or q.value is None or t.value is None:
            continue
        m = row.cells.get(memory.name) if memory else None
        weight = m.value if m else None
        tip = f"{row.title}: {show(q.value)} {quality.title}, {fmt.cell(t, time)} {time.title}"
        if weight and memory:
            tip += f", {fmt.cell(m, memory)} {memory.title}"
        points.append(charts.Point(
            name=row.title, index=index[row.contestant], x=t.value, y=q.value,
            weight=weight, tip=tip, **_ends(row, quality, best),
            href=f"#{guide.anchor(row.contestant, workload)}",
        ))  # fmt: skip
    svg = charts.front(
        points, title=f"{quality.title} against {time.title}",
        x_label=f"{time.title} (logarithmic)", y_label=view.title(quality),
        lower=quality.better == "lower", show_x=_shower(time),
        show_y=show,
        show_weight=_shower(memory) if memory else charts.plain,
    )  # fmt: skip
    note = "The line joins those that nobody beats in both; names in bold are on it."
    if any(p.low is not None for p in points):
        note += " Upright lines: 95 % interval of the paired difference to the best."
    if any(p.weight for p in points):
        note += " A mark's area is its peak memory."
    return [Figure(title="What quality costs", svg=svg, note=note)] if svg else []


def _percent_behind(ratio: float) -> str:
    return fmt.percent(ratio - 1).replace(".0 %", " %")


def _ends(row: Row, measure: Measure, best: Cell | None) -> dict[str, float]:
    """The interval of the paired difference, seen from the best: the one that decides."""
    diff = row.versus_best
    if diff is None or best is None or best.value is None or diff.measure != measure.name:
        return {}
    if diff.low is None or diff.high is None:
        return {}
    if diff.ratio:
        return {"low": best.value * diff.low, "high": best.value * diff.high}
    return {"low": best.value + diff.low, "high": best.value + diff.high}


def curve_figures(guide: view.Guide) -> list[Figure]:
    """Recorded curves of each workload, then sweeps of measures over the workloads' axis."""
    return [*_recorded(guide), *_sweeps(guide)]


def _recorded(guide: view.Guide) -> list[Figure]:
    groups: dict[tuple[str, str], dict[str, list[list[tuple[float, float]]]]] = {}
    for contestant, workload, name, xs, ys in guide.summary.curves:
        # A curve that ran away holds no number where it left the scale.
        points = [(float(x), float(y)) for x, y in zip(xs, ys, strict=False) if None not in (x, y)]
        if points:
            groups.setdefault((workload, name), {}).setdefault(contestant, []).append(points)
    titles, index = guide.titles, guide.index
    places = {w.id: w.title for w in guide.summary.workloads}
    found = []
    for (workload, name), by_contestant in groups.items():
        series = [
            trends.Series(
                name=titles.get(c, c), index=index.get(c, i), points=_middle(runs),
                runs=runs if 1 < len(runs) <= 20 else (),
                href=f"#{guide.anchor(c, workload)}",
            )
            for i, (c, runs) in enumerate(by_contestant.items())
            if not c.endswith("~2")
        ]  # fmt: skip
        y_name, _, x_name = name.replace(" by ", " over ").partition(" over ")
        words = (y_name.replace("_", " "), x_name.replace("_", " ") or "step")
        svg = trends.curves(
            series, title=f"{words[0]} on {workload}", x_label=words[1], y_label=words[0]
        )
        if svg:
            many = " Bold: the median over blocks; thin: single blocks." if any(
                s.runs for s in series) else ""  # fmt: skip
            found.append(Figure(
                title=f"{words[0]}: {places.get(workload, workload)}", svg=svg,
                note=f"As recorded during the runs.{many}",
            ))  # fmt: skip
    return found


def _middle(runs: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    """The pointwise median where runs share their steps, else the run with the median end."""
    runs = [run for run in runs if run]
    if not runs:
        return []
    steps = [x for x, _ in runs[0]]
    if all([x for x, _ in run] == steps for run in runs):
        return [(x, _median([run[i][1] for run in runs])) for i, x in enumerate(steps)]
    return list(sorted(runs, key=lambda run: run[-1][1])[len(runs) // 2])


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def _sweeps(guide: view.Guide) -> list[Figure]:
    axes = {key for w in guide.summary.workloads for key in w.axis}
    found = []
    for axis in sorted(axes):
        points = [w for w in guide.summary.workloads if axis in w.axis]
        if len({w.axis[axis] for w in points}) < 2:
            continue
        others = {tuple(sorted((k, v) for k, v in w.axis.items() if k != axis)) for w in points}
        for fixed in sorted(others):
            group = [w for w in points if {*fixed} <= {*w.axis.items()}]
            if len({w.axis[axis] for w in group}) < 2:
                continue
            for measure in _swept(guide.summary.measures):
                figure = _sweep(guide, axis, sorted(group, key=lambda w: w.axis[axis]), measure)
                found += [replace(figure, title=_at(figure.title, fixed))] if figure else []
    return found


def _swept(measures: Sequence[Measure]) -> list[Measure]:
    """The measures of the short table; a sweep of all would fill the page with charts."""
    times = [m for m in measures if m.role == "time"][:2]
    return [m for m in measures if m.primary or m.shown or m.role == "quality" or m in times]


def _at(title: str, fixed: Sequence[tuple[str, float]]) -> str:
    return f"{title} ({', '.join(f'{k} {v:g}' for k, v in fixed)})" if fixed else title


def _sweep(
    guide: view.Guide, axis: str, group: Sequence[Workload], measure: Measure
) -> Figure | None:
    index = guide.index
    series = []
    for contestant, name in guide.titles.items():
        points, bars = [], []
        for w in group:
            row = next(
                (r for r in guide.summary.tables.get(w.id, ()) if r.contestant == contestant), None
            )
            cell = row.cells.get(measure.name) if row else None
            if cell is not None and cell.value is not None:
                points.append((w.axis[axis], cell.value))
                if cell.low is not None and cell.high is not None:
                    bars.append((w.axis[axis], cell.low, cell.high))
        if points:
            series.append(trends.Series(
                name=name, index=index[contestant], points=points, bars=bars,
                href=f"#{guide.anchor(contestant)}",
            ))  # fmt: skip
    turns = trends.crossings(series, measure.better == "lower")
    svg = trends.curves(
        series, title=f"{measure.title} over {axis}", x_label=axis.replace("_", " "),
        y_label=view.title(measure), show_y=_shower(measure), show_x=fmt.count,
        marks=[(x, f"{after} leads from {fmt.count(_two_digits(x))}") for x, _, after in turns],
    )  # fmt: skip
    if not svg:
        return None
    return Figure(
        title=f"{measure.title} over {axis.replace('_', ' ')}", svg=svg,
        note="Whiskers: 95 % interval. Dotted: where the lead changes hands." if turns else "",
    )  # fmt: skip


def _two_digits(value: float) -> float:
    return float(f"{value:.2g}")


def rank_figure(guide: view.Guide, least: int = 6) -> Figure | None:
    """Mean ranks over the workloads with cliques, from `least` workloads on."""
    cells = [(row.contestant, row.cells.get(view.RANK)) for row in guide.summary.rows]
    order = [(c, cell.value) for c, cell in cells if cell is not None and cell.value is not None]
    order.sort(key=lambda pair: pair[1])
    if len(guide.summary.workloads) < least or len(order) < 2:
        return None
    titles, index = guide.titles, guide.index
    bars = [(order[i][1], order[j][1]) for i, j in cliques(guide, [c for c, _ in order])]
    svg = trends.ranks(
        [(titles[c], index[c], rank) for c, rank in order], bars, title="Mean ranks with cliques"
    )
    count = len(guide.summary.workloads)
    note = f"Over {count} workloads. A bar joins those that cannot be told apart."
    return Figure(title="Mean ranks", svg=svg, note=note)


def cliques(guide: view.Guide, order: Sequence[str]) -> list[tuple[int, int]]:
    """Maximal runs (first, last) of neighbours in `order` with no clear difference inside."""
    measure = view.ranker(guide.summary, "", guide.summary.rows)
    table = guide.pairs(measure.name) if measure else {}

    def apart(a: str, b: str) -> bool:
        diff: Difference | None = table.get((a, b, ""))
        return diff is not None and diff.word in {"better", "worse"}

    found: list[tuple[int, int]] = []
    for i in range(len(order)):
        j = i
        while j + 1 < len(order) and not any(
            apart(order[k], order[j + 1]) for k in range(i, j + 1)
        ):
            j += 1
        if j > i and (not found or j > found[-1][1]):
            found.append((i, j))
    return found


def strips(guide: view.Guide, workload: str, rows: Sequence[Row]) -> list[Figure]:
    """Every run of a workload: the quality that ranks there."""
    measure = view.primary(guide.summary, workload)
    records = guide.runs
    if measure is None:
        return []
    index = guide.index
    blocks = sorted({b for (_, w), runs in records.items() if w == workload for b in runs})
    lines = []
    for row in rows:
        runs = records.get((row.contestant, workload), {})
        values = [_value(runs.get(block), measure.name) for block in blocks]
        lines.append(charts.Line(
            name=row.title, index=index[row.contestant], values=values,
            href=f"#{guide.anchor(row.contestant, workload)}",
        ))  # fmt: skip
    if len(blocks) < 2 or len(blocks) * len(lines) > MOST_DOTS:
        return []
    svg = charts.strip(
        lines, title=f"{measure.title}, every run on {workload}", label=view.title(measure),
        show=_shower(measure),
    )  # fmt: skip
    note = "Each dot is one run; a hairline joins the runs of one block, which share data and seed."
    return [Figure(title=f"{measure.title}, every run", svg=svg, note=note)] if svg else []
