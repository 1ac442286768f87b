"""What only the study `estimators` can say: from what n on the methods agree, and claims.

Two methods agree at n if their excess log losses differ by less than `MARGIN` nats; they agree
*from* n on if that holds at every larger n too.
"""

from __future__ import annotations

import math

from paragone.lab import format as fmt
from paragone.lab import growth
from paragone.lab.claims import seen
from paragone.lab.outcome import Summary

__all__ = ["AXES", "CLAIMS", "MARGIN", "agree_from", "findings"]

AXES = {"n": "right", "n_weak": "weak", "n_wrong": "wrong"}
MARGIN = 0.005
_BAYES = ("bayes_nuts", "bayes_conjugate", "bayes_laplace")
_MUCH = 1_000
_FEW = 10
_FORMS = ("mle", "map", "bayes_conjugate", "bayes_nuts")


def _curve(summary: Summary, axis: str, name: str, measure: str) -> dict[float, float]:
    """Value at each n; unlike `growth.along` zero and below are kept."""
    found = {}
    for workload in summary.workloads:
        for row in summary.tables.get(workload.id, ()) if axis in workload.axis else ():
            cell = row.cells.get(measure)
            if row.contestant == name and cell is not None and cell.value is not None:
                found[float(workload.axis[axis])] = cell.value
    return dict(sorted(found.items()))


def agree_from(first: dict[float, float], second: dict[float, float]) -> float | None:
    """Least n from which on two curves differ by less than the margin; None if not at the end."""
    found = None
    for n in sorted(first.keys() & second.keys(), reverse=True):
        if abs(first[n] - second[n]) >= MARGIN:
            break
        found = n
    return found


def _title(summary: Summary, name: str) -> str:
    return next((c.title for c in summary.contestants if c.id == name), name)


def _agreement(summary: Summary, axis: str) -> str:
    base = _curve(summary, axis, "mle", "excess")
    ends = growth.axis_range(summary, axis)
    words = []
    for name in _FORMS[1:]:
        curve = _curve(summary, axis, name, "excess")
        if len(base.keys() & curve.keys()) < 2 or ends is None:
            continue
        at = agree_from(base, curve)
        words.append(f"{_title(summary, name)} {f'from n = {at:,.0f} on' if at else 'not yet'}")
    if not words or ends is None:
        return ""
    return (
        f"{AXES[axis].capitalize()} prior, n = {ends[0]:,.0f} to {ends[1]:,.0f}: the difference to "
        f"MLE is below {MARGIN:g} nats for {fmt.join(words)}."
    )


def _covers(summary: Summary) -> str:
    told = []
    for name in ("mle", "mle_profile", "map", "bayes_conjugate", "bayes_nuts"):
        curve = _curve(summary, "n", name, "coverage")
        if curve:
            n = min(curve)
            told.append(f"{_title(summary, name)} {100 * curve[n]:.0f} %")
    if len(told) < 2:
        return ""
    n = min(_curve(summary, "n", "mle", "coverage") or {0.0: 0.0})
    return f"Of 95 % intervals at n = {n:.0f} hold the truth: {fmt.join(told)}."


def findings(summary: Summary) -> list[str]:
    """Sentences that follow the verdict."""
    texts = [_agreement(summary, axis) for axis in AXES]
    return [text for text in (*texts, _covers(summary)) if text]


# Claims of papers.


def _last(summary: Summary, name: str, measure: str) -> tuple[float, float] | None:
    curve = _curve(summary, "n", name, measure)
    return (max(curve), curve[max(curve)]) if curve and max(curve) >= _MUCH else None


def _one_in_the_end(summary: Summary) -> tuple[str, bool] | None:
    base, wide = _last(summary, "mle", "excess"), _last(summary, "mle", "width")
    told, good = [], True
    for name in _BAYES:
        loss, width = _last(summary, name, "excess"), _last(summary, name, "width")
        if not (base and wide and loss and width) or loss[0] != base[0]:
            continue
        gap, ratio = loss[1] - base[1], width[1] / wide[1]
        told.append(f"{name}: {gap:+.4f} nats, intervals {ratio:.3f} as wide")
        good = good and abs(gap) < MARGIN and abs(math.log(ratio)) < 0.1
    if not told or base is None:
        return None
    return f"against MLE at n = {base[0]:,.0f}: {'; '.join(told)}", good


def _washes_out(summary: Summary) -> tuple[str, bool] | None:
    told, good = [], True
    base = _curve(summary, "n_wrong", "mle", "excess")
    for name in ("map", "bayes_conjugate", "bayes_nuts"):
        curve = _curve(summary, "n_wrong", name, "excess")
        shared = sorted(base.keys() & curve.keys())
        if len(shared) < 2 or shared[-1] < _MUCH or shared[0] > _FEW:
            continue
        few, many = (curve[n] - base[n] for n in (shared[0], shared[-1]))
        told.append(f"{name} {few:+.3f} at n = {shared[0]:.0f}, {many:+.4f} at {shared[-1]:,.0f}")
        good = good and few > MARGIN and abs(many) < MARGIN
    return (f"nats against MLE: {'; '.join(told)}", good) if told else None


def _undercovers(summary: Summary) -> tuple[str, bool] | None:
    wald = _curve(summary, "n", "mle", "coverage")
    counted = _counted(summary, "mle")
    if not wald or min(wald) > _FEW or not counted:
        return None
    n = min(wald)
    error = math.sqrt(0.95 * 0.05 / counted)
    return (
        f"{100 * wald[n]:.1f} % of {counted:.0f} intervals at n = {n:.0f} hold the truth "
        f"(95 % would give {100 * 0.95:.0f} +- {100 * error:.1f})",
        wald[n] < 0.95 - 2 * error,
    )


def _counted(summary: Summary, name: str) -> float:
    """Intervals behind the coverage at the least n."""
    places = [w for w in summary.workloads if "n" in w.axis]
    if not places:
        return 0.0
    first = min(places, key=lambda w: w.axis["n"]).id
    return sum(
        float(record["values"].get("intervals", 0.0))
        for record in summary.records
        if record["workload"] == first and record["contestant"] == name
    )


def _predictive_wins(summary: Summary) -> tuple[str, bool] | None:
    told, good = [], True
    for axis in ("n_weak", "n"):
        plug, whole = (_curve(summary, axis, m, "excess") for m in ("mle", "bayes_conjugate"))
        shared = plug.keys() & whole.keys()
        if shared and min(shared) <= _FEW:
            n = min(shared)
            told.append(
                f"{AXES[axis]} prior, n = {n:.0f}: {whole[n]:.3f} nats of excess against "
                f"{plug[n]:.3f} of the plug-in law"
            )
            good = good and whole[n] < plug[n]
    return ("; ".join(told), good) if told else None


CLAIMS = (
    seen("With much data the posterior is a normal about the MLE with the MLE's variance: "
         "predictions and intervals become the same.",
         "van der Vaart (1998), Asymptotic Statistics, theorem 10.1 (Bernstein-von Mises)",
         _one_in_the_end),
    seen("A wrong prior does harm with few data, and the data overwhelm it in the end.",
         "Gelman et al. (2013), Bayesian Data Analysis, section 4.2", _washes_out),
    seen("An interval of estimate and standard error with the normal's quantiles is too short "
         "in small samples.",
         "Student (1908), The probable error of a mean", _undercovers),
    seen("The posterior predictive density is nearer to the truth than the law with the "
         "estimate plugged in.",
         "Aitchison (1975), Goodness of prediction fit", _predictive_wins),
)  # fmt: skip
