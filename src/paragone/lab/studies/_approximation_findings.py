"""What only the study `approximation` can say: what each choice lost, and claims of papers.

Everything is read off `lost` (standard errors of the best answer) at n rows and at n / 10. A
method that stays at the best possible rate keeps its loss; one that stops in a ball loses
$\\sqrt{10}$ times as much after ten times the rows, since the standard error shrinks and its
distance does not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from paragone.lab import format as fmt
from paragone.lab.claims import seen
from paragone.lab.growth import by_workload
from paragone.lab.outcome import Summary

__all__ = ["CLAIMS", "findings"]

SKETCHES = ("histogram", "kll", "p2", "datasketches_kll", "river", "running_mean")
CHOICES = ("sgd_average", "sgd_last", "sgd_harmonic", "sgd_constant", "sgd_constant_average",
           "sgd_batch", "sgd_full")  # fmt: skip
_SMALL = 0.5
_GROWS = 1.5


def _title(summary: Summary, name: str) -> str:
    return next((c.title for c in summary.contestants if c.id == name), name)


def _typical(values: Sequence[float]) -> float:
    return math.sqrt(sum(v * v for v in values) / len(values))


def _kept(lost: float) -> str:
    return f"{lost:.2g} (as if {1 / (1 + lost * lost):.0%} of the rows had been read)"


def _steps(summary: Summary) -> str:
    """What each way of descending lost, over the inputs that all of them met."""
    found = {name: by_workload(summary, name, "lost") for name in CHOICES}
    found = {name: cells for name, cells in found.items() if cells}
    if len(found) < 2:
        return ""
    shared = set.intersection(*(set(cells) for cells in found.values()))
    if not shared:
        return ""
    loss = {name: _typical([cells[w] for w in shared]) for name, cells in found.items()}
    order = sorted(loss, key=lambda name: loss[name])
    words = [f"{_title(summary, name)} {_kept(loss[name])}" for name in order]
    return f"Lost by descending, in standard errors of the best answer: {fmt.join(words)}."


def _sketches(summary: Summary) -> str:
    """Whether the running sketch is as good as the sorted array, and at what price."""
    places = [w for w in summary.workloads if w.facts.get("problem") == "quantile"]
    words = []
    for name in SKETCHES:
        lost = [
            v for w, v in by_workload(summary, name, "lost").items() if w in {p.id for p in places}
        ]
        time = [v for w, v in by_workload(summary, name, "number_s").items()
                if w in {p.id for p in places}]  # fmt: skip
        if lost and time:
            words.append(f"{_title(summary, name)} lost {_kept(_typical(lost))} at "
                         f"{fmt.seconds(_typical(time))} a row")  # fmt: skip
    rows = max((int(p.facts.get("rows", 0)) for p in places), default=0)
    if not words:
        return ""
    return f"Against the sorted array of {rows:,} rows: {fmt.join(words)}."


def _behind(summary: Summary) -> str:
    """Who falls behind as rows come."""
    found = []
    for name in (*CHOICES, *SKETCHES):
        late, early = by_workload(summary, name, "lost"), by_workload(summary, name, "lost_early")
        places = [w for w in late if w in early and late[w] > _SMALL
                  and late[w] > _GROWS * early[w]]  # fmt: skip
        if places:
            found.append(f"{_title(summary, name)} (on {', '.join(places)})")
    if not found:
        return ""
    return f"Ten times the rows left further behind the best answer: {fmt.join(found)}."


def findings(summary: Summary) -> list[str]:
    """Sentences that follow the verdict."""
    texts = (_steps(summary), _sketches(summary), _behind(summary))
    return [text for text in texts if text]


def _averaging(summary: Summary) -> tuple[str, bool] | None:
    average, last = (by_workload(summary, name, "lost") for name in ("sgd_average", "sgd_last"))
    shared = sorted(set(average) & set(last))
    if not shared:
        return None
    words = ", ".join(f"{w}: {average[w]:.2g} against {last[w]:.2g}" for w in shared)
    return f"lost with and without averaging: {words}", all(
        average[w] < min(1.0, last[w] / 2) for w in shared
    )


def _ball(summary: Summary) -> tuple[str, bool] | None:
    late, early = (by_workload(summary, "sgd_constant", m) for m in ("lost", "lost_early"))
    shared = sorted(w for w in set(late) & set(early) if early[w] > 0)
    if not shared:
        return None
    growth = {w: late[w] / early[w] for w in shared}
    words = ", ".join(f"{w}: {value:.2g}x" for w, value in growth.items())
    typical = math.exp(sum(math.log(value) for value in growth.values()) / len(growth))
    return f"its loss after ten times the rows (3.2x if it stands still): {words}", typical > 2.0


def _far(summary: Summary) -> tuple[str, bool] | None:
    shares = {}
    for name in ("root_plain", "root_box", "root_expanding"):
        found = list(by_workload(summary, name, "diverged").values())
        if not found:
            return None
        shares[name] = max(found)
    words = ", ".join(f"{_title(summary, name)} {share:.0%}" for name, share in shares.items())
    return f"diverged: {words}", shares["root_plain"] == 1.0 and not (
        shares["root_box"] or shares["root_expanding"]
    )


def _ranks(summary: Summary) -> tuple[str, bool] | None:
    found = [
        float(record["values"]["within"])
        for record in summary.records
        if record.get("contestant") == "kll" and "within" in record.get("values", {})
    ]
    if not found:
        return None
    share = sum(found) / len(found)
    return f"within 1.33 %: {share:.1%} of the streams of {len(found)} runs", share >= 0.99


def _small_factor(summary: Summary) -> tuple[str, bool] | None:
    harmonic, average = (
        {w: v for w, v in by_workload(summary, name, "lost").items() if w == "quantile"}
        for name in ("sgd_harmonic", "sgd_average")
    )
    if not harmonic or not average:
        return None
    return (
        f"lost on the quantile: {harmonic['quantile']:.2g} by 1 / k, {average['quantile']:.2g} by "
        "averaging a slower step", harmonic["quantile"] > 2 * average["quantile"],
    )  # fmt: skip


CLAIMS = (
    seen("Averaging the path of slow steps reaches the best possible rate without tuning.",
         "Polyak and Juditsky (1992), theorem 2", _averaging),
    seen("A constant step stays in a ball about the root: more data do not help.",
         "Robbins and Monro (1951), condition (27); the sum of a_k^2 must be finite", _ball),
    seen("a / k loses the rate where a is below 1 / (2 g'(w*)).",
         "Sacks (1958), Asymptotic distribution of stochastic approximation procedures",
         _small_factor),
    seen("On w^3 - 5 from far away the recursion diverges unless it is projected.",
         "Chen and Zhu (1986), randomly varying truncations", _far),
    seen("KLL with k = 200 keeps a rank within 1.33 % in 99 of 100 streams.",
         "Karnin, Lang and Liberty (2016), theorem 1; DataSketches' table for k = 200", _ranks),
)  # fmt: skip
