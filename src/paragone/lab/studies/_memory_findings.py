"""What only the study `memory` can say: who is near the truth, and claims of the ZeRO paper."""

from __future__ import annotations

from collections.abc import Mapping

from paragone.lab import format as fmt
from paragone.lab.claims import seen
from paragone.lab.outcome import Summary

__all__ = ["CLAIMS", "findings"]

_BILLIONS = 7.5


def _errors(summary: Summary, name: str, kind: str) -> dict[str, float]:
    """Workload to a contestant's error, for the workloads of a kind."""
    places = {w.id for w in summary.workloads if w.facts.get("kind") == kind}
    found = {}
    for place, rows in summary.tables.items():
        for row in rows:
            cell = row.cells.get("error")
            if place in places and row.contestant == name and cell and cell.value is not None:
                found[place] = float(cell.value)
    return found


def _told(summary: Summary, kind: str, head: str) -> str:
    words = []
    for contestant in summary.contestants:
        found = _errors(summary, contestant.id, kind)
        if found:
            worst = max(found.values())
            words.append(f"{contestant.title} {worst:.2g}" if worst < 0.01 else
                         f"{contestant.title} {worst:.0%}")  # fmt: skip
    return f"{head}: {fmt.join(words)}." if words else ""


def findings(summary: Summary) -> list[str]:
    """Sentences that follow the verdict."""
    texts = (
        _told(summary, "measured", "Largest error on real steps of small models"),
        _told(summary, "published", "Largest error on published runs of 8 B and 70 B"),
    )
    return [text for text in texts if text]


def _sharded(summary: Summary, name: str) -> float | None:
    for record in summary.records:
        values: Mapping[str, float] = record.get("values", {})
        if name in values:
            return float(values[name])
    return None


def _share(summary: Summary) -> tuple[str, bool] | None:
    each = _sharded(summary, "bytes_each")
    if each is None:
        return None
    size = each * _BILLIONS
    return (f"one of 64 ranks kept {each:.4g} B a parameter under fully_shard: {size:.3g} GB for "
            f"{_BILLIONS} B parameters", abs(size - 1.88) < 0.02)  # fmt: skip


def _traffic(summary: Summary) -> tuple[str, bool] | None:
    sent = _sharded(summary, "sent_each")
    if sent is None:
        return None
    ratio = sent / 8.0
    return (f"collectives of {sent:.3g} B a parameter, against 8 B of an all-reduce: {ratio:.3g}x",
            abs(ratio - 1.5) < 0.02)  # fmt: skip


def _near(summary: Summary) -> tuple[str, bool] | None:
    found = _errors(summary, "memory", "published")
    if not found:
        return None
    good = sum(error <= 0.05 for error in found.values())
    words = ", ".join(f"{place} {error:.1%}" for place, error in found.items())
    return f"{good} of {len(found)} within 5 %: {words}", good == len(found)


def _states_only(summary: Summary) -> tuple[str, bool] | None:
    found = _errors(summary, "sixteen", "published")
    if not found:
        return None
    least = min(found.values())
    return f"16 B a parameter missed at least {least:.0%} of each run", least > 0.5


CLAIMS = (
    seen("7.5 B parameters take 1.88 GB on each of 64 ranks at stage 3 (120 GB without).",
         "Rajbhandari et al. (2020), ZeRO, figure 1", _share),
    seen("Stage 3 sends 1.5 times as much as plain data parallelism.",
         "Rajbhandari et al. (2020), ZeRO, section 7.2.2", _traffic),
    seen("Under ZeRO-3 activations and logits, not model states, fill the GPU.",
         "Rajbhandari et al. (2020), ZeRO, section 3.2", _states_only),
    seen("A plan from shapes alone is within 5 % of every published torchtitan run.",
         "our own goal for the planner", _near),
)  # fmt: skip
