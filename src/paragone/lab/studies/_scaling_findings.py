r"""What only the study `scaling` can say: where the next compute should go, and claims of papers.

Two ways lead to the exponent a of $N^* \propto C^a$ (`lab.scaling_law`): the fitted law, and the
bottoms of the lines. It is called "parameters" or "data" only where the law's interval leaves a
half out and the bottoms, where at least two were seen, fall on the same side; else "undecided".
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from paragone.lab import format as fmt
from paragone.lab import scaling_law as laws
from paragone.lab.claims import seen
from paragone.lab.outcome import Summary

__all__ = ["CLAIMS", "Found", "answer", "findings", "found", "runs_of"]

_DRAWS = 120
_WIDE = 0.4
"""Width of an interval of a beyond which no claim on it is called true or false."""


class Found(NamedTuple):
    """What the runs say.

    Attributes:
        runs: The runs.
        law: The fitted law (None: too few runs).
        share: 95 % interval of its exponent a.
        ratio: 95 % interval of its best symbols a parameter, at the largest compute.
        bottoms: Exponent a by the bottoms of the lines.
        bottoms_span: Its 95 % interval.
    """

    runs: laws.Runs
    law: laws.Law | None = None
    share: tuple[float, float] | None = None
    ratio: tuple[float, float] | None = None
    bottoms: float | None = None
    bottoms_span: tuple[float, float] | None = None


def _records(summary: Summary) -> list[Mapping[str, Any]]:
    known = {c.id for c in summary.contestants}
    return [r for r in summary.records if r.get("status") == "ok" and r["contestant"] in known]


def runs_of(summary: Summary) -> laws.Runs:
    """The finished runs as arrays."""
    planned = {w.id: float(w.facts.get("compute", 0)) for w in summary.workloads}
    rows = [
        (r["values"]["parameters"], r["values"]["tokens"], planned[r["workload"]],
         r["values"]["loss"])
        for r in _records(summary)
        if {"parameters", "tokens", "loss"} <= r["values"].keys() and planned.get(r["workload"])
    ]  # fmt: skip
    columns = np.array(sorted(rows), float).reshape(-1, 4)
    return laws.Runs(*columns.T)


def found(summary: Summary) -> Found:
    """Fits what the runs allow; the same runs are fitted once."""
    runs = runs_of(summary)
    return _fitted(tuple(map(tuple, np.stack([runs.n, runs.d, runs.c, runs.loss], 1).tolist())))


@functools.lru_cache(maxsize=8)
def _fitted(rows: tuple[tuple[float, ...], ...]) -> Found:
    runs = laws.Runs(*np.array(rows, float).reshape(-1, 4).T)
    try:
        law = laws.fit_law(runs)
    except ValueError:
        return Found(runs)
    near = ((law.alpha, law.beta, min(law.e / float(runs.loss.min()), 0.95)),)
    drawn = laws.bootstrap(runs, lambda some: laws.fit_law(some, near), _DRAWS)
    most = float(runs.c.max())
    best = [one.best(most) for one in drawn]
    return Found(
        runs, law, laws.interval([one.share for one in drawn]),
        laws.interval([d / n for n, d in best]), laws.slope(runs),
        laws.interval(laws.bootstrap(runs, laws.slope, _DRAWS)),
    )  # fmt: skip


def _span(ends: tuple[float, float] | None) -> str:
    return "[?]" if ends is None else f"[{ends[0]:.2f}, {ends[1]:.2f}]"


def _word(what: Found) -> str:
    if what.share is None or what.share[0] <= 0.5 <= what.share[1]:
        return "undecided"
    word = "parameters" if what.share[0] > 0.5 else "data"
    if what.bottoms is not None and (what.bottoms > 0.5) != (word == "parameters"):
        return "undecided"
    return word


def answer(summary: Summary) -> str:
    """Parameters or data: the sentence that answers the question."""
    what = found(summary)
    if what.law is None or what.share is None:
        return f"Undecided: {len(what.runs.loss)} runs are too few to tell parameters from data."
    a, word = what.law.share, _word(what)
    more = f"ten times the compute is best spent on {10**a:.2g}x the parameters and " \
           f"{10 ** (1 - a):.2g}x the data"  # fmt: skip
    how = f"the best size grows as compute^{a:.2f} {_span(what.share)} by the fitted law"
    if what.bottoms is not None:
        how += f", ^{what.bottoms:.2f} {_span(what.bottoms_span)} by the bottoms of the lines"
    if word == "undecided":
        return (
            f"Undecided whether parameters or data help more here: {how}, and 0.5 would be alike."
        )
    return f"For the same compute {word} help more here: {more} ({how}; 0.5 would be alike)."


def _bottom(what: Found) -> str:
    """Where the largest line has its bottom, and what a step aside costs."""
    assert what.law is not None
    most = float(what.runs.c.max())
    sizes, losses = laws.lines(what.runs)[most]
    at = int(losses.argmin())
    n, d = what.law.best(most)
    aside = [float(what.law.loss(n * by, d / by)) / float(what.law.loss(n, d)) - 1
             for by in (4.0, 0.25)]  # fmt: skip
    side = " (the end of the line: a better one may lie beyond)" * (at in (0, len(sizes) - 1))
    tokens = most / 6 / sizes[at]
    return (
        f"At {most:.3g} operations {_few(sizes[at])} parameters on {_few(tokens)} symbols had the "
        f"least loss, {losses[at]:.3f}{side}; the law puts the best at {_few(n)} on {_few(d)}, "
        f"{_few(d / n)} symbols a parameter"
        + (f" [{_few(what.ratio[0])}, {_few(what.ratio[1])}]" if what.ratio else "")
        + f". Four times the parameters on a quarter of the data would cost {aside[0]:+.1%} of the "
        f"loss, the other way round {aside[1]:+.1%}."
    )


def _few(value: float) -> str:
    """Three digits, and zeros."""
    return f"{float(f'{value:.3g}'):,.0f}" if value < 1e9 else "over a thousand million"


def _foretold(runs: laws.Runs) -> tuple[float, float] | None:
    """Mean error with which a law of the smaller lines foretells the largest; and how far it is."""
    computes = sorted(set(runs.c.tolist()))
    if len(computes) < 3:
        return None
    last = runs.c == computes[-1]
    try:
        law = laws.fit_law(runs.take(np.flatnonzero(~last)))
    except ValueError:
        return None
    there = runs.take(np.flatnonzero(last))
    gaps = np.log(law.loss(there.n, there.d) / there.loss)
    return float(np.abs(gaps).mean()), computes[-1] / computes[-2]


def _fit(what: Found) -> str:
    assert what.law is not None
    law, runs = what.law, what.runs
    gaps = np.abs(np.log(law.loss(runs.n, runs.d) / runs.loss))
    text = (
        f"The law of {len(runs.loss)} runs: loss = {law.e:.2f} + {law.a:.3g} / N^{law.alpha:.2f} + "
        f"{law.b:.3g} / D^{law.beta:.2f}; it misses them by {gaps.mean():.1%} on average, "
        f"{gaps.max():.1%} at most"
    )
    told = _foretold(runs)
    if told is not None:
        text += (f", and fitted without the largest line it foretells that one, {told[1]:.2g} "
                 f"times the compute, within {told[0]:.1%}")  # fmt: skip
    return text + "."


def _medians(summary: Summary, place: str, key: str) -> dict[str, float]:
    rows: dict[str, list[float]] = {}
    for record in _records(summary):
        if record["workload"] == place and key in record["values"]:
            rows.setdefault(record["contestant"], []).append(float(record["values"][key]))
    return {name: float(np.median(values)) for name, values in rows.items()}


def _title(summary: Summary, name: str) -> str:
    return next((c.title for c in summary.contestants if c.id == name), name)


def _seconds(summary: Summary) -> str:
    """What equal operations took, and who is best by seconds."""
    places = sorted((w for w in summary.workloads if w.facts.get("compute")),
                    key=lambda w: w.facts["compute"])  # fmt: skip
    curves: dict[str, list[tuple[float, float]]] = {}
    for place in places:
        times = _medians(summary, place.id, "train_cpu_s")
        for name, loss in _medians(summary, place.id, "loss").items():
            if times.get(name):
                curves.setdefault(name, []).append((times[name], loss))
    times = _medians(summary, places[-1].id, "train_cpu_s") if places else {}
    if len(times) < 2:
        return ""
    slow, fast = max(times, key=times.__getitem__), min(times, key=times.__getitem__)
    text = ("Equal operations are not equal time: on the largest line "
            f"{_title(summary, slow)} took {fmt.seconds(times[slow])} of CPU, "
            f"{_title(summary, fast)} {fmt.seconds(times[fast])}")  # fmt: skip
    limit = min(times.values())
    at = {name: _at(sorted(curve), limit) for name, curve in curves.items()}
    known = {name: loss for name, loss in at.items() if loss is not None}
    if len(known) > 1:
        best = min(known, key=known.__getitem__)
        text += (f"; in {fmt.seconds(limit)} of CPU each, {_title(summary, best)} would be best "
                 f"(loss {known[best]:.2f}, between its lines)")  # fmt: skip
    return text + "."


def _at(curve: list[tuple[float, float]], x: float) -> float | None:
    """A value between two measured ones, a straight line of logarithms; None beyond them."""
    for (x1, y1), (x2, y2) in itertools.pairwise(curve):
        if x1 <= x <= x2 and x2 > x1:
            return y1 * (y2 / y1) ** (math.log(x / x1) / math.log(x2 / x1))
    return next((y for at, y in curve if at == x), None)


def _cautions(summary: Summary) -> list[str]:
    told, records = [], _records(summary)
    epochs = max((float(r["values"].get("epochs", 0.0)) for r in records), default=0.0)
    if epochs > 1:
        told.append(f"The text was read up to {epochs:.1f} times: the law is of text read once, "
                    "and data seem to help less than fresh ones would.")  # fmt: skip
    edges = [float(r["values"].get("edge", 0.0)) for r in records]
    tuned = any(len(w.facts.get("factors", ())) > 1 for w in summary.workloads)
    if not tuned and records:
        told.append("Rates follow a rule of the size and were not tuned: a size whose rate fits "
                    "worse looks worse than it is.")  # fmt: skip
    elif sum(edges) > len(edges) / 3:
        told.append(f"The best rate was the least or largest tried in {sum(edges):.0f} of "
                    f"{len(edges)} runs: more rates might help.")  # fmt: skip
    return told


def findings(summary: Summary) -> list[str]:
    """Sentences that follow the verdict."""
    what = found(summary)
    told = [_bottom(what), _fit(what)] if what.law is not None else []
    return [text for text in (*told, _seconds(summary), *_cautions(summary)) if text]


def _alike(summary: Summary) -> tuple[str, bool | None] | None:
    what = found(summary)
    if what.law is None or what.share is None:
        return None
    low, high = what.share
    wide = high - low > _WIDE
    return f"a = {what.law.share:.2f} {_span(what.share)}", None if wide else low <= 0.5 <= high


def _parameters_first(summary: Summary) -> tuple[str, bool | None] | None:
    what = found(summary)
    if what.law is None or what.share is None:
        return None
    low, high = what.share
    told = f"a = {what.law.share:.2f} {_span(what.share)}"
    return told, True if low > 0.5 and high >= 0.73 else False if high < 0.73 else None


def _twenty(summary: Summary) -> tuple[str, bool | None] | None:
    what = found(summary)
    if what.law is None or what.ratio is None:
        return None
    n, d = what.law.best(float(what.runs.c.max()))
    low, high = what.ratio
    told = f"{_few(d / n)} symbols a parameter [{_few(low)}, {_few(high)}]"
    return told, True if low >= 10 and high <= 40 else False if high < 10 or low > 40 else None


def _six(summary: Summary) -> tuple[str, bool] | None:
    shares = [r["values"]["counted"] / r["values"]["compute"] for r in _records(summary)
              if r["values"].get("compute") and "counted" in r["values"]]  # fmt: skip
    if not shares:
        return None
    return (f"counted operations are {min(shares):.2f} to {max(shares):.2f} of 6 N D",
            max(shares) <= 1.1 and min(shares) >= 0.9)  # fmt: skip


def _foreseen(summary: Summary) -> tuple[str, bool] | None:
    told = _foretold(runs_of(summary))
    if told is None:
        return None
    return (f"a law of the smaller lines missed the losses of the largest, {told[1]:.2g} times the "
            f"compute, by {told[0]:.1%}", told[0] <= 0.02)  # fmt: skip


CLAIMS = (
    seen("Parameters and data should grow alike: a = 0.5.",
         "Hoffmann et al. (2022), arXiv:2203.15556, table 2", _alike),
    seen("Most of the compute should go to parameters: a = 0.73.",
         "Kaplan et al. (2020), arXiv:2001.08361, section 6.1", _parameters_first),
    seen("About twenty tokens a parameter are best.",
         "Hoffmann et al. (2022), arXiv:2203.15556, table 3", _twenty),
    seen("6 N D counts the operations of a training, within a tenth.",
         "Kaplan et al. (2020), arXiv:2001.08361, section 2.1", _six),
    seen("Losses at a larger compute follow from those at smaller ones, within 2 %.",
         "Hoffmann et al. (2022), arXiv:2203.15556, section 3.4", _foreseen),
)  # fmt: skip
