"""`map`: the figures of one detector or two, as text, as data, and as a folder with a page.

The figures themselves are `paragone.vision.average_precision`'s and `compare_detectors`'.
"""

from __future__ import annotations

import csv
import html
import json
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from paragone._core.errors import UsageError
from paragone.vision.average_precision import AveragePrecisionResult, average_precision
from paragone.vision.paired_precision import DetectorComparison, compare_detectors

__all__ = ["PrecisionReport", "assess", "curves"]

_MOST_CURVES = 6


@dataclass(frozen=True)
class PrecisionReport:
    """What `paragone map` found; `str()` is the text."""

    result: AveragePrecisionResult
    comparison: DetectorComparison | None
    classes: bool
    told: Sequence[str]
    out: str = ""

    def __str__(self) -> str:
        lines = [self.result.summary()]
        if self.classes and not self.result.rules.voc:
            known = self.result.per_class
            wide = max((len(name) for name in known), default=0)
            lines += [""] + [
                f"  {n:<{wide}}  {v:.4f}" if v == v else f"  {n:<{wide}}  no objects"
                for n, v in known.items()
            ]
        if self.comparison is not None:
            lines += ["", self.comparison.summary()]
        lines += [f"note: {text}" for text in self.told]
        if self.out:
            lines += ["", f"report: {self.out}"]
        return "\n".join(lines)

    def json(self) -> str:
        """The figures as JSON; a class without objects is null."""
        r = self.result
        found: dict[str, Any] = {
            "protocol": r.protocol, "ap": float(r.ap), "stats": r.stats.tolist(),
            "iou_thresholds": r.rules.thresholds.tolist(), "max_dets": r.rules.limits.tolist(),
            "per_class": {n: v if v == v else None for n, v in r.per_class.items()},
            "images": r.problem.images, "objects": len(r.problem.true_label),
            "detections": len(r.problem.label), "skipped": r.skipped, "notes": r.notes,
        }  # fmt: skip
        if self.comparison is not None:
            c = self.comparison
            found["comparison"] = {
                "ap": [float(c.a.ap), float(c.b.ap)], "p_value": c.p_value,
                "difference": vars(c.difference), "resamples": len(c.ap_a),
                "per_class": {n: vars(i) for n, i in c.per_class.items()},
            }  # fmt: skip
        return json.dumps(found, indent=1)


def assess(
    gt: Any, detections: Any, *, compare: Any, classes: bool, out: Any, resamples: int,
    **options: Any,
) -> PrecisionReport:  # fmt: skip
    """Evaluates, compares and writes.

    Raises:
        UsageError: An argument, a file or a record is wrong.
    """
    protocol = options.pop("protocol")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", UserWarning)
        try:
            comparison = None
            if compare is not None:
                names = [_name(detections, "first"), _name(compare, "second")]
                names = names if names[0] != names[1] else ["first", "second"]
                comparison = compare_detectors(
                    gt, detections, compare, protocol, resamples=resamples, names=names, **options
                )
                result = comparison.a
            else:
                result = average_precision(gt, detections, protocol, **options)
        except (ValueError, FileNotFoundError) as error:
            raise UsageError(str(error)) from None
    texts = [str(one.message) for one in told if issubclass(one.category, UserWarning)]
    if out is not None:
        _write(Path(out), result, comparison)
    return PrecisionReport(result, comparison, classes, texts, str(out or ""))


def _name(given: Any, default: str) -> str:
    return Path(given).stem if isinstance(given, str | os.PathLike) else default


def _table(path: Path, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *rows])


def _write(
    folder: Path, result: AveragePrecisionResult, comparison: DetectorComparison | None
) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_tables(folder, result)
        (folder / "report.html").write_text(_page(result, comparison), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--out: {folder}: {error.strerror}; name a folder to write to") from None


def _first_overlap(result: AveragePrecisionResult) -> float:
    t = result.rules.thresholds
    return float(t[np.argmin(np.abs(t - 0.5))])


def _write_tables(folder: Path, result: AveragePrecisionResult) -> None:
    iou, known = _first_overlap(result), result.per_class
    true = np.bincount(result.problem.true_label, minlength=len(known))
    found = np.bincount(result.problem.label, minlength=len(known))
    _table(folder / "per_class.csv", ("class", "ap", "objects", "detections"),
           ((n, f"{v:.6f}" if v == v else "", t, f)
            for (n, v), t, f in zip(known.items(), true, found, strict=True)))  # fmt: skip

    def points() -> Iterable[Sequence[Any]]:
        for name, value in known.items():
            if value == value:
                c = result.curve(name, iou)
                for row in zip(c.score, c.recall, c.precision, c.envelope, strict=True):
                    yield (name, *(f"{x:.6g}" for x in row))

    _table(folder / "curves.csv", ("class", "score", "recall", "precision", "envelope"), points())
    names = [*result.classes, "background"]
    matrix = result.confusion(iou)
    _table(folder / "confusion.csv", ("true \\ found", *names),
           ([n, *row] for n, row in zip(names, matrix.tolist(), strict=True)))  # fmt: skip
    _table(folder / "errors.csv", ("error", "count", "cost_in_ap"),
           ((k, e.count, f"{e.cost:.6f}") for k, e in result.errors(iou).items()))  # fmt: skip


def curves(result: AveragePrecisionResult, iou: float | None = None) -> str:
    """Precision over recall as SVG: the classes with most objects."""
    from paragone.lab.report.charts import plain
    from paragone.lab.report.svg import Board, Scale, text_width

    at = _first_overlap(result) if iou is None else iou
    counts = np.bincount(result.problem.true_label, minlength=len(result.classes))
    chosen = [k for k in np.argsort(-counts, kind="stable")[:_MOST_CURVES] if counts[k]]
    names = [result.classes[k] for k in chosen]
    board = Board(width=880, height=380, title=f"Precision over recall at overlap {at:.2f}")
    right = 850 - max((text_width(n, 12) for n in names), default=0.0) - 30
    across = Scale(low=0.0, high=1.0, start=60.0, stop=right)
    up = Scale(low=0.0, high=1.0, start=320.0, stop=40.0)
    board.x_axis(across, 320, 40, "recall", plain)
    board.y_axis(up, 60, right, "precision (largest from here on)", plain)
    for number, name in enumerate(names):
        c = result.curve(name, at)
        step = max(1, len(c.recall) // 400)
        points = [(across(float(r)), up(float(e)))
                  for r, e in zip(c.recall[::step], c.envelope[::step], strict=True)]  # fmt: skip
        board.polyline(points, f"s{number}")
        board.mark(right + 16, 52 + 22 * number, number)
        board.text(right + 28, 56 + 22 * number, name, "tag")
    return board.svg()


def _page(result: AveragePrecisionResult, comparison: DetectorComparison | None) -> str:
    """One page: figures, curves, errors, confusions."""
    from paragone.lab.report.html import standalone

    iou = _first_overlap(result)

    def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
        cells = "".join(f"<th>{html.escape(str(h))}</th>" for h in head)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(str(c))}</td>" for c in row) + "</tr>"
            for row in rows
        )
        return f"<table><tr>{cells}</tr>{body}</table>"

    style = (
        "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
        "table{border-collapse:collapse;margin:1rem 0}td,th{padding:.15rem .6rem;text-align:right;"
        "border-bottom:1px solid #ccc}td:first-child,th:first-child{text-align:left}"
        "pre{overflow:auto}"
    )
    parts = [
        "<h1>Average precision</h1>", f"<pre>{html.escape(result.summary())}</pre>",
        *([f"<h2>Comparison</h2><pre>{html.escape(comparison.summary())}</pre>"]
          if comparison is not None else []),
        f"<h2>Curves at overlap {iou:.2f}</h2>", standalone(curves(result)),
        "<h2>Errors, and what AP gains without them</h2>",
        table(("error", "count", "AP"),
              ((k, f"{e.count:,}", f"{e.cost:+.4f}") for k, e in result.errors(iou).items())),
        "<h2>Classes</h2>",
        table(("class", "AP"), ((n, f"{v:.4f}" if v == v else "no objects")
                                for n, v in result.per_class.items())),
    ]  # fmt: skip
    names, matrix = [*result.classes, "background"], result.confusion(iou)
    pairs = [(matrix[i, j], names[i], names[j]) for i in range(len(names))
             for j in range(len(names)) if i != j and matrix[i, j]]  # fmt: skip
    pairs.sort(key=lambda pair: -pair[0])
    parts += [
        "<h2>Confusions</h2>", "<p>Scores of 0.25 and above; all of them in confusion.csv.</p>",
        table(("true", "found", "count"), ((t, f, f"{n:,}") for n, t, f in pairs[:30])),
    ]  # fmt: skip
    head = f"<meta charset='utf-8'><title>Average precision</title><style>{style}</style>"
    return f"<!doctype html><html lang='en'><head>{head}</head><body>{''.join(parts)}</body></html>"
