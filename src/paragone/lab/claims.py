"""Claims of papers, checked against a summary: who wins how often, and how many times faster."""

from __future__ import annotations

import math
from collections.abc import Callable

from paragone.lab import growth
from paragone.lab.outcome import ClaimResult, Summary
from paragone.lab.spec import Claim

__all__ = ["Look", "faster", "grows", "not_worse", "seen", "usually_better"]

Look = Callable[[Summary], tuple[str, bool | None] | None]
"""What was measured and whether the claim holds by it (None: it does not tell); None where
nothing was measured."""


def _words(summary: Summary, a: str, b: str) -> list[str]:
    """How `a` stands to `b` on each workload's primary quality measure."""
    primary = {w.id: w.primary for w in summary.workloads}
    turned = {"better": "worse", "worse": "better"}
    found = []
    for difference in summary.differences:
        if primary.get(difference.workload) != difference.measure:
            continue
        if (difference.a, difference.b) == (a, b):
            found.append(str(difference.word))
        elif (difference.a, difference.b) == (b, a):
            found.append(turned.get(difference.word, difference.word))
    return found


def _counted(words: list[str]) -> str:
    counts = ((word, words.count(word)) for word in ("better", "same", "inconclusive", "worse"))
    return ", ".join(f"{word} on {count}" for word, count in counts if count)


def seen(text: str, source: str, look: Look) -> Claim:
    """A claim that is checked by reading the summary."""

    def check(summary: Summary) -> ClaimResult:
        found = look(summary)
        measured, holds = found if found is not None else ("not measured here", None)
        verdict = "not tested" if holds is None else "holds" if holds else "does not hold"
        return ClaimResult(text=text, source=source, measured=measured, verdict=verdict)

    return Claim(text=text, source=source, check=check)


def usually_better(text: str, source: str, a: str, b: str) -> Claim:
    """`a` has better quality than `b`: on more data sets clearly better than clearly worse."""

    def check(summary: Summary) -> ClaimResult:
        words = _words(summary, a, b)
        better, worse = words.count("better"), words.count("worse")
        verdict = "not tested" if not better + worse else "holds" if better > worse else None
        measured = f"{a} against {b}: {_counted(words)} of {len(words)} data sets"
        return ClaimResult(
            text=text, source=source, measured=measured if words else "not measured here",
            verdict=verdict or "does not hold",
        )  # fmt: skip

    return Claim(text=text, source=source, check=check)


def not_worse(text: str, source: str, a: str, others: tuple[str, ...]) -> Claim:
    """On no data set is `a` clearly worse than any of the others."""

    def check(summary: Summary) -> ClaimResult:
        words = {b: _words(summary, a, b) for b in others}
        seen = {b: found for b, found in words.items() if found}
        worse = sum(found.count("worse") for found in seen.values())
        decided = sum(w != "inconclusive" for found in seen.values() for w in found)
        verdict = "not tested" if not decided else "holds" if not worse else "does not hold"
        measured = "; ".join(f"against {b}: {_counted(found)}" for b, found in seen.items())
        return ClaimResult(
            text=text, source=source, measured=measured or "not measured here", verdict=verdict
        )

    return Claim(text=text, source=source, check=check)


def faster(text: str, source: str, a: str, b: str, times: float, measure: str = "fit_s") -> Claim:
    """`a` takes at most 1 / `times` of `b`'s time, as a geometric mean over data sets."""

    def check(summary: Summary) -> ClaimResult:
        logs = []
        for rows in summary.tables.values():
            cells = {row.contestant: row.cells.get(measure) for row in rows}
            mine, theirs = cells.get(a), cells.get(b)
            if mine and theirs and mine.value and theirs.value:
                logs.append(math.log(theirs.value / mine.value))
        if not logs:
            return ClaimResult(
                text=text, source=source, measured="not measured here", verdict="not tested"
            )
        mean = math.exp(sum(logs) / len(logs))
        span = f"{math.exp(min(logs)):.2g} to {math.exp(max(logs)):.2g}"
        return ClaimResult(
            text=text, source=source,
            measured=f"{b} took {mean:.2g}x as long as {a} ({span}; {len(logs)} data sets)",
            verdict="holds" if mean >= times * (1 - 1e-9) else "does not hold",
        )  # fmt: skip

    return Claim(text=text, source=source, check=check)


def grows(
    text: str, source: str, names: tuple[str, ...], axis: str, measure: str, most: float
) -> Claim:
    """Along an axis the measure of each of these grows with an exponent of at most `most`."""

    def check(summary: Summary) -> ClaimResult:
        found: dict[str, float] = {}
        for name in names:
            curve = growth.along(summary, axis, name, measure)
            power = growth.exponent(curve)
            if power is not None and curve[-1][0] >= 100 * curve[0][0]:
                found[name] = power
        measured = ", ".join(f"{name} {axis}^{power:.2f}" for name, power in found.items())
        verdict = "holds" if max(found.values(), default=0.0) <= most else "does not hold"
        return ClaimResult(
            text=text, source=source,
            measured=f"{measured}; held to {most:g}" if found else "not measured here",
            verdict=verdict if found else "not tested",
        )  # fmt: skip

    return Claim(text=text, source=source, check=check)
