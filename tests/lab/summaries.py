"""Builds `Summary` objects for the tests of reports: all shapes, no statistics needed.

python tests/lab/summaries.py FILE.html [workloads] [contestants] [blocks]
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from paragone.lab.outcome import Cell, ClaimResult, Difference, NoiseFloor, Row, Summary
from paragone.lab.spec import Contestant, Measure, Workload

RMSE = Measure(name="rmse", title="RMSE", better="lower", role="quality", margin=0.01,
               primary=True, note="Root of the mean squared error.")  # fmt: skip
FIT = Measure(name="fit_s", title="fit", better="lower", role="time", margin=0.05, unit="s",
              primary=True)  # fmt: skip
PREDICT = Measure(name="predict_s", title="predict", better="lower", role="time", margin=0.05,
                  unit="s")  # fmt: skip
CPU = Measure(name="fit_cpu_s", title="fit CPU", better="lower", role="time", margin=0.05, unit="s")
PEAK = Measure(name="fit_peak", title="peak RAM", better="lower", role="memory", margin=0.05,
               unit="B", primary=True)  # fmt: skip
MEASURES = (RMSE, FIT, PREDICT, CPU, PEAK)

CAST = (
    ("paragone xgboost", 0.0, 2.1, 212), ("lightgbm 4.7", 0.001, 2.0, 240),
    ("xgboost 3.2", 0.002, 2.4, 255), ("paragone gbdt", 0.003, 3.1, 205),
    ("scikit-learn HistGradientBoosting 1.9", 0.004, 2.9, 230),
    ("paragone stacking", 0.01, 41, 820),
    ("paragone random_forest", 0.065, 11.8, 510),
    ("scikit-learn RandomForest 1.9", 0.067, 12.6, 560),
    ("scikit-learn ExtraTrees 1.9", 0.08, 7.5, 610), ("paragone bagging", 0.1, 13.0, 480),
    ("scikit-learn Bagging 1.9", 0.102, 15.1, 490), ("paragone adaboost", 0.21, 6.2, 190),
    ("scikit-learn AdaBoost 1.9", 0.215, 5.9, 195),
    ("scikit-learn GradientBoosting 1.9", 0.006, 9, 185),
    ("paragone voting", 0.02, 30, 700), ("catboost 1.2", 0.0015, 6.6, 410),
    ("paragone dart", 0.012, 9.7, 215), ("paragone linear booster", 0.4, 0.6, 160),
    ("mine.py:MyModel", 0.3, 0.9, 140), ("paragone decision_tree", 2.6, 0.21, 150),
)  # fmt: skip


def summary(workloads: int = 1, contestants: int = 8, blocks: int = 5, **changes: Any) -> Summary:
    """A summary with `contestants` rows of which the last one failed everywhere."""
    rng = np.random.default_rng(0)
    cast = CAST[:contestants]
    places = [
        Workload(id=f"set{w}", title=f"data set {w}", load="x:y", digest="ab" * 32,
                 facts={"kind": "Regressor", "rows": 24310, "columns": 18}, splits=5,
                 test_share=0.25)
        for w in range(workloads)
    ]  # fmt: skip
    rivals = [
        Contestant(id=f"m{i}", title=name, make="x:y",
                   origin="paragone" if name.startswith("paragone") else "rival")
        for i, (name, *_) in enumerate(cast)
    ]  # fmt: skip
    records: list[dict[str, Any]] = []
    for place in places:
        for block in range(blocks):
            hard = float(np.exp(rng.normal(0, 0.05)))
            for i, (_, loss, fit, peak) in enumerate(cast):
                own, slow = rng.normal(0, 0.004), float(np.exp(rng.normal(0, 0.1)))
                failed = i == contestants - 1
                records.append({
                    "id": f"r{len(records) + 1:04d}", "contestant": f"m{i}", "workload": place.id,
                    "block": block, "split": block % 5, "seed": block,
                    "status": "timeout" if failed else "ok",
                    "message": "killed after 66 s (limit 60 s)" if failed else "",
                    "log": f"logs/r{len(records) + 1:04d}.log" if failed else "",
                    "values": {} if failed else {
                        "rmse": 41 * hard * (1 + loss + own), "fit_s": fit * slow,
                        "predict_s": fit * slow / 300, "fit_cpu_s": fit, "fit_peak": peak * 1e6,
                    },
                })  # fmt: skip
    tables, differences = {}, []
    for place in places:
        tables[place.id] = _rows(records, rivals, place.id, differences)
    overall = _rows(records, rivals, "", differences) if workloads > 1 else tables[places[0].id]
    made = Summary(
        study="ensembles", question="Which tree ensemble should I use on this table?",
        verdict=(
            "Use paragone xgboost: RMSE 41.2, tied with lightgbm 4.7 and 3 more.",
            "Within that tie lightgbm 4.7 is fastest: 2.0 s to fit, 5 % less than the next.",
            "3 comparisons are inconclusive; --repeats 40 would settle 2 of them.",
        ),
        measures=MEASURES, workloads=places, contestants=rivals, rows=overall, tables=tables,
        differences=differences,
        noise=NoiseFloor(contestant="m0", ratio=1.01, low=0.97, high=1.04,
                         text="Machine noise ±4 % (duplicate ok)"),
        claims=(
            ClaimResult(text="Second-order boosting reaches the same loss in fewer trees.",
                        source="Chen & Guestrin (2016), §2.2", measured="61 trees against 100",
                        verdict="holds"),
            ClaimResult(text="Forests do not overfit as trees are added.", source="Breiman (2001)",
                        measured="loss rose by 0.3 %", verdict="does not hold"),
        ),
        environment={"cpu": "Some CPU @ 2.0 GHz", "cores": 2, "python": "3.11.9",
                     "versions": {"numpy": "2.4.0", "scikit-learn": "1.9.1"}},
        command="paragone compare ensembles --data mine.csv --target price --seed 0",
        protocol={"seed": 0, "threads": 1, "tuning": "defaults", "budget_s": 600.0,
                  "blocks": blocks},
        records=records,
    )  # fmt: skip
    return replace(made, **changes)


def _rows(
    records: list[dict[str, Any]], rivals: list[Contestant], place: str, out: list[Difference]
) -> list[Row]:
    """Means, plain intervals and tiers by a crude rule: reports do not care which."""
    values: dict[str, dict[str, list[float]]] = {}
    runs: dict[str, list[str]] = {}
    for r in records:
        if place in ("", r["workload"]) and r["status"] == "ok":
            runs.setdefault(r["contestant"], []).append(r["id"])
            for key, value in r["values"].items():
                values.setdefault(r["contestant"], {}).setdefault(key, []).append(value)
    order = sorted(values, key=lambda c: statistics.fmean(values[c]["rmse"]))
    compared = {}
    for measure in ("rmse", "fit_s", "fit_peak"):
        for a in order:
            for b in order:
                if a != b:
                    compared[a, b, measure] = _difference(values, a, b, measure, place)
    out += compared.values()
    rows, tier, head = [], "A", order[0] if order else ""
    several = not place and len({r["workload"] for r in records}) > 1
    for c in order:
        diff = compared.get((c, head, "rmse"))
        if diff is not None and diff.word == "worse":
            tier, head = chr(ord(tier) + 1), c
        cells = {k: _cell(v, runs[c]) for k, v in values[c].items()}
        if several:
            cells["mean_rank"] = Cell(value=1.0 + order.index(c), runs=runs[c])
        rows.append(Row(
            contestant=c, title=next(x.title for x in rivals if x.id == c),
            origin=next(x.origin for x in rivals if x.id == c), tier=tier, cells=cells,
            versus_best=compared.get((c, order[0], "rmse")), done=len(runs[c]),
            planned=len(runs[c]),
        ))  # fmt: skip
    for rival in rivals:
        if rival.id not in values:
            bad = [r for r in records if r["contestant"] == rival.id]
            rows.append(Row(
                contestant=rival.id, title=rival.title, origin=rival.origin, planned=len(bad),
                status="timeout", message="killed after 66 s (limit 60 s)",
                log=bad[0]["log"] if bad else "",
            ))  # fmt: skip
    return rows


def _cell(values: list[float], runs: list[str]) -> Cell:
    mean = statistics.fmean(values)
    half = 2 * statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
    low, high = (None, None) if half is None else (mean - half, mean + half)
    return Cell(value=mean, low=low, high=high, runs=runs)


def _difference(values: Any, a: str, b: str, measure: str, place: str) -> Difference:
    x, y = np.array(values[a][measure]), np.array(values[b][measure])
    ratio = measure != "rmse"
    paired = np.log(x / y) if ratio else x - y
    half = 2 * paired.std(ddof=1) / len(paired) ** 0.5 if len(paired) > 1 else np.inf
    ends = [paired.mean(), paired.mean() - half, paired.mean() + half]
    margin = np.log(1.05) if ratio else 0.01 * y.mean()
    word = "inconclusive"
    if ends[1] > 0 and ends[0] > margin:
        word = "worse"
    elif ends[2] < 0 and ends[0] < -margin:
        word = "better"
    elif ends[1] > -margin and ends[2] < margin:
        word = "same"
    shown = [float(np.exp(e) if ratio else e) for e in ends]
    low, high = shown[1:] if np.isfinite(half) else (None, None)
    return Difference(
        a=a, b=b, measure=measure, workload=place, estimate=shown[0], low=low, high=high,
        ratio=ratio, word=word, method="Nadeau-Bengio", n=len(paired),  # type: ignore[arg-type]
    )  # fmt: skip


if __name__ == "__main__":
    from paragone.lab.report.html import write_html

    numbers = [int(text) for text in sys.argv[2:]]
    print(write_html(summary(*numbers), Path("/tmp"), sys.argv[1]))
