"""What only the study `neighbors` can say: crossover dimensions, who wins where, and claims.

A tree pays as long as it skips most of the points. Along the sweep of dimensions the fastest
brute force, whose time hardly depends on the dimension, overtakes it at the *crossover*, read
off between measured points (`lab.growth`).
"""

from __future__ import annotations

import math

from paragone.lab import format as fmt
from paragone.lab import growth
from paragone.lab.claims import Look, seen
from paragone.lab.outcome import Summary
from paragone.lab.spec import Workload

__all__ = ["AXES", "BRUTE", "CLAIMS", "TREES", "crossovers", "findings"]

BRUTE = ("brute", "sklearn_brute", "brute_force")
TREES = ("kd_tree", "scipy_kd_tree", "sklearn_kd_tree", "sklearn_ball_tree", "pykdtree")
FORESTS = ("kd_forest", "hnswlib")
AXES = {"dimension": "uniform", "dimension_if_clustered": "clustered"}

_AROUND_TEN = 16.0
_HIGH = 20
_NEAR_LOG = 0.3
_NEAR_LINEAR = 1.2
_FEW_TIMES = 3.0


def crossovers(summary: Summary, axis: str) -> dict[str, float | None]:
    """Tree to the dimension at which brute force overtakes it (None: not up to the last)."""
    floor = growth.fastest([growth.along(summary, axis, name, "query_s") for name in BRUTE])
    found = {}
    for tree in TREES:
        curve = growth.along(summary, axis, tree, "query_s")
        if len(curve) > 1 and floor:
            found[tree] = growth.crossover(curve, floor)
    return found


def _title(summary: Summary, name: str) -> str:
    return next((c.title for c in summary.contestants if c.id == name), name)


def _crossing(summary: Summary, axis: str) -> str:
    ends, found = growth.axis_range(summary, axis), crossovers(summary, axis)
    if ends is None or not found:
        return ""
    place = next(w for w in summary.workloads if axis in w.axis)
    words = []
    for tree, at in sorted(found.items(), key=lambda item: -(item[1] or math.inf)):
        name = _title(summary, tree)
        if at is None:
            words.append(f"not {name} up to {ends[1]:.0f}")
        else:
            words.append(f"{name} {'already' if at <= ends[0] else 'at'} {at:.0f}")
    return (
        f"Dimension from which brute force is faster ({AXES[axis]}, {place.facts['rows']:,} "
        f"points, k = {place.facts['k']}): {fmt.join(words)}."
    )


def _times(summary: Summary, workload: Workload, measure: str) -> dict[str, float]:
    found = {}
    for row in summary.tables.get(workload.id, ()):
        cell = row.cells.get(measure)
        if cell is not None and cell.value and not row.contestant.endswith("~2"):
            found[row.contestant] = cell.value
    return found


def _winners(summary: Summary) -> str:
    places: dict[str, list[str]] = {}
    for workload in summary.workloads:
        times = _times(summary, workload, "query_s")
        if times:
            places.setdefault(min(times, key=lambda n: times[n]), []).append(workload.id)
    if not places or len(summary.workloads) < 2:
        return ""
    order = sorted(places, key=lambda name: -len(places[name]))
    words = [
        f"{_title(summary, name)} on {len(places[name])}"
        + (f" ({', '.join(places[name])})" if len(places[name]) <= 3 and i else "")
        for i, name in enumerate(order)
    ]
    return f"Shortest query of the exact searches: {fmt.join(words)}."


def _shortcut(summary: Summary) -> str:
    """What an approximate search gains at recall 95 %, on the four inputs where it is most."""
    found = []
    for workload in summary.workloads:
        exact, near = _times(summary, workload, "query_s"), _times(summary, workload, "approx_s")
        recall = _times(summary, workload, "recall")
        good = {n: t for n, t in near.items() if n in FORESTS and recall.get(n, 0) >= 0.95}
        if exact and good:
            best = min(good, key=lambda n: good[n])
            gain = min(exact.values()) / good[best]
            if gain > 1:
                found.append((gain, best, workload.id))
    if not found:
        return ""
    found.sort(reverse=True)
    words = [f"{gain:.2g}x on {place} ({_title(summary, name)})" for gain, name, place in found[:4]]
    return (
        "Finding 95 % of the neighbours instead of all is faster than the fastest exact search "
        f"by {fmt.join(words)}."
    )


def findings(summary: Summary) -> list[str]:
    """Sentences that follow the verdict."""
    texts = [_crossing(summary, axis) for axis in AXES]
    return [text for text in (*texts, _winners(summary), _shortcut(summary)) if text]


# Claims of papers.


def _grows(measure: str, most: float, verb: str) -> Look:
    def look(summary: Summary) -> tuple[str, bool] | None:
        curve = growth.along(summary, "points", "kd_tree", measure)
        power = growth.exponent(curve)
        if power is None or curve[-1][0] < 30 * curve[0][0]:
            return None
        (n1, t1), (n2, t2) = curve[0], curve[-1]
        return (
            f"{n1:,.0f} to {n2:,.0f} points (d = 3): {verb} {t2 / t1:.3g}x as long, as "
            f"n^{power:.2f}; held to an exponent below {most:g}",
            power < most,
        )

    return look


def _trees_lose(summary: Summary) -> tuple[str, bool] | None:
    found, ends = crossovers(summary, "dimension"), growth.axis_range(summary, "dimension")
    if not found or ends is None or ends[1] < _AROUND_TEN:
        return None
    words = [f"{t} {'not' if at is None else f'at {at:.0f}'}" for t, at in found.items()]
    good = all(at is not None and at <= _AROUND_TEN for at in found.values())
    return (
        f"overtaken by brute force, uniform points up to d = {ends[1]:.0f}: {', '.join(words)}",
        good,
    )


def _contrasts(summary: Summary, axis: str) -> growth.Curve:
    values: dict[str, list[float]] = {}
    for record in summary.records:
        if "contrast" in record["values"]:
            values.setdefault(record["workload"], []).append(record["values"]["contrast"])
    return sorted(
        (float(w.axis[axis]), max(values[w.id]))
        for w in summary.workloads
        if axis in w.axis and w.id in values
    )


def _contrast_fades(summary: Summary) -> tuple[str, bool] | None:
    plain = _contrasts(summary, "dimension")
    if len(plain) < 2 or plain[-1][0] < _HIGH:
        return None
    told = ", ".join(f"{c:.3g} at d = {d:.0f}" for d, c in (plain[0], plain[-1]))
    text = f"farthest / nearest distance of uniform points: {told}"
    clusters = _contrasts(summary, "dimension_if_clustered")
    if clusters:
        text += f"; clustered: {clusters[-1][1]:.3g} at d = {clusters[-1][0]:.0f}"
    return text, plain[-1][1] < _FEW_TIMES < plain[0][1]


def _forest_pays(summary: Summary) -> tuple[str, bool] | None:
    gains = []
    for workload in summary.workloads:
        recall = _times(summary, workload, "recall").get("kd_forest", 0.0)
        near = _times(summary, workload, "approx_s").get("kd_forest")
        exact = _times(summary, workload, "query_s").get("kd_tree")
        if near and exact:
            gains.append((exact / near if recall >= 0.95 else 0.0, workload.id))
    if not gains:
        return None
    words = ", ".join(f"{gain:.2g}x on {place}" if gain else f"no recall of 95 % on {place}"
                      for gain, place in gains)  # fmt: skip
    return f"kd-forest at recall 95 % against the exact kd-tree: {words}", all(
        gain > 1 for gain, _ in gains
    )


CLAIMS = (
    seen("The expected time of a query grows as the logarithm of the number of points.",
         "Friedman, Bentley and Finkel (1977), section 5",
         _grows("query_s", _NEAR_LOG, "a query takes")),
    seen("Building the tree takes time proportional to n log n.",
         "Friedman, Bentley and Finkel (1977), section 4",
         _grows("build_s", _NEAR_LINEAR, "the build takes")),
    seen("Searching best bin first finds most nearest neighbours in far less time than the "
         "exact search, in 8 dimensions and more.",
         "Beis and Lowe (1997), abstract and section 3", _forest_pays),
    seen("On uniform points a scan of all is faster than any partitioning tree once the "
         "dimension exceeds around ten.",
         "Weber, Schek and Blott (1998), abstract", _trees_lose),
    seen("With independent columns the nearest and the farthest point become equally far as "
         "the dimension grows; with clusters they need not.",
         "Beyer, Goldstein, Ramakrishnan and Shaft (1999), theorem 1 and section 5",
         _contrast_fades),
)  # fmt: skip
