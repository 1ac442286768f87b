r"""What only the study `optimizers` can say: gains in steps, flips of the ranking, and claims.

A gain in steps is read off the three final runs of a quarter, a half and all of the steps, each
to the end of a schedule of its own. Between them the logarithm of the loss is a straight line
in the logarithm of the steps; if a contestant's line meets AdamW's loss of all T steps at n
steps, its gain is $T / n$, at most 4; where it ends above, the line of AdamW is asked when it
was as good, and the gain is $n / T$.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from paragone.lab import format as fmt
from paragone.lab.claims import not_worse, seen
from paragone.lab.outcome import Summary

__all__ = ["CLAIMS", "findings", "gain"]

_REFERENCE = "adamw"
_BUDGETS = ("loss_quarter", "loss_half", "loss")


def _title(summary: Summary, name: str) -> str:
    return next((c.title for c in summary.contestants if c.id == name), name)


def _runs(summary: Summary) -> dict[tuple[str, int], dict[str, Mapping[str, Any]]]:
    """(workload, block) to the finished record of each contestant."""
    known = {c.id for c in summary.contestants}
    found: dict[tuple[str, int], dict[str, Mapping[str, Any]]] = {}
    for record in summary.records:
        if record.get("status") == "ok" and record["contestant"] in known:
            block = found.setdefault((record["workload"], record["block"]), {})
            block[record["contestant"]] = record
    return found


def _meets(losses: Sequence[float], goal: float) -> float | None:
    """Share of the steps at which the line through quarter, half and all falls to `goal`."""
    shares = (0.25, 0.5, 1.0)
    if losses[0] <= goal:
        return shares[0]
    for (s1, a), (s2, b) in itertools.pairwise(zip(shares, losses, strict=True)):
        if b <= goal < a:
            at = math.log(a / goal) / math.log(a / b)
            return s1 * (s2 / s1) ** at
    return None


def gain(mine: Sequence[float], reference: Sequence[float]) -> float:
    """How many times fewer steps than the reference one needs; 0.25 to 4.

    Args:
        mine: Losses after a quarter, half and all of the steps.
        reference: The same of whom it is compared with.

    Example:
        >>> gain((1.0, 0.5, 0.25), (2.0, 1.0, 0.5))
        2.0
    """
    if min(*mine, *reference) <= 0:
        return math.nan
    share = _meets(mine, reference[-1])
    if share is not None:
        return 1.0 / share
    return _meets(reference, mine[-1]) or 1.0


def _typical(values: Sequence[float]) -> float:
    return math.exp(sum(math.log(v) for v in values) / len(values))


def _gains(summary: Summary, name: str) -> dict[str, list[float]]:
    """Workload to the gains of its blocks."""
    found: dict[str, list[float]] = {}
    for (place, _), block in sorted(_runs(summary).items()):
        if name in block and _REFERENCE in block:
            mine, theirs = (
                [float(block[who]["values"].get(b, math.nan)) for b in _BUDGETS]
                for who in (name, _REFERENCE)
            )
            one = gain(mine, theirs) if all(map(math.isfinite, (*mine, *theirs))) else math.nan
            if math.isfinite(one):
                found.setdefault(place, []).append(one)
    return found


def _steps(summary: Summary) -> str:
    """Who needs fewer steps than AdamW."""
    words = []
    for contestant in summary.contestants:
        gains = [v for values in _gains(summary, contestant.id).values() for v in values]
        if gains and contestant.id != _REFERENCE and contestant.origin == "paragone":
            words.append((_typical(gains), contestant.title))
    if not words:
        return ""
    told = fmt.join([f"{title} {value:.2g}x" for value, title in sorted(words, reverse=True)])
    return f"Gain in steps over AdamW, each at the end of its schedule: {told}."


def _widths(summary: Summary) -> str:
    """How much a rate that is half a decade off costs."""
    found: dict[str, list[float]] = {}
    for name, _, curve, xs, ys in summary.curves:
        known = [(x, y) for x, y in zip(xs, ys, strict=True) if y is not None and y > 0]
        if curve != "valid over rate" or len(known) < 3:
            continue
        best, low = min(known, key=lambda p: p[1])
        near = [y for x, y in known if 0.4 < abs(math.log10(x / best)) < 0.6]
        if near:
            found.setdefault(name, []).append(max(near) / low)
    ours = [c.id for c in summary.contestants if c.id in found and c.origin == "paragone"]
    if len(ours) < 2:
        return ""
    order = sorted(ours, key=lambda name: _typical(found[name]))
    words = [f"{_title(summary, name)} {_typical(found[name]) - 1:.0%}" for name in order]
    return f"A rate three times too large or small costs so much loss: {fmt.join(words)}."


def _edges(summary: Summary) -> str:
    at = {}
    for block in _runs(summary).values():
        for name, record in block.items():
            at.setdefault(name, []).append(record["values"].get("edge", 0.0))
    names = [_title(summary, name) for name, edges in at.items() if sum(edges) > len(edges) / 2]
    if not names:
        return ""
    return (
        f"More trials might help {fmt.join(names)}: the best rate was the least or largest tried."
    )


def findings(summary: Summary) -> list[str]:
    """Sentences that follow the verdict."""
    return [text for text in (_steps(summary), _widths(summary), _edges(summary)) if text]


def _muon(summary: Summary) -> tuple[str, bool] | None:
    found = _gains(summary, "muon")
    if not found:
        return None
    means = {place: _typical(values) for place, values in found.items()}
    words = ", ".join(f"{place} {value:.2g}x" for place, value in means.items())
    return f"gain in steps over AdamW: {words}", max(means.values()) <= 1.4


def _order(block: Mapping[str, Mapping[str, Any]], share: float) -> list[str]:
    """Contestants by their loss at a share of the schedule, best first."""
    values = {}
    for name, record in block.items():
        curve = record.get("curves", {}).get("loss over steps")
        if curve and len(curve["y"]) and None not in curve["y"]:
            values[name] = curve["y"][max(0, math.ceil(share * len(curve["y"])) - 1)]
    return sorted(values, key=lambda name: values[name])


def _flips(summary: Summary) -> tuple[str, bool] | None:
    pairs = flipped = leaders = blocks = 0
    for block in _runs(summary).values():
        middle, end = _order(block, 0.5), _order(block, 1.0)
        if len(end) < 2:
            continue
        blocks += 1
        leaders += middle[0] != end[0]
        for a, b in itertools.combinations(end, 2):
            pairs += 1
            flipped += middle.index(a) > middle.index(b)
    if not pairs:
        return None
    return (
        f"between half of the schedule and its end {flipped} of {pairs} pairs changed places, "
        f"and the leader in {leaders} of {blocks} blocks"
    ), flipped > 0.1 * pairs


def _slopes(summary: Summary, name: str) -> list[float]:
    """How much more of their size the weights of the largest gradients kept than the others."""
    return [
        ys[-1] / (sum(ys[:-1]) / len(ys[:-1]))
        for who, _, curve, _, ys in summary.curves
        if who == name and curve == "kept by gradient" and None not in ys and sum(ys[:-1]) > 0
    ]


def _decay(summary: Summary) -> tuple[str, bool] | None:
    l2, decoupled = (_slopes(summary, name) for name in ("adam", "adamw"))
    if not l2 or not decoupled:
        return None
    a, b = _typical(l2), _typical(decoupled)
    return (
        "share of their size kept under decay by the eighth of weights with the largest "
        f"gradients, over that of the rest: Adam + L2 {a:.2f}, AdamW {b:.2f}"
    ), a > b


def _free(summary: Summary) -> tuple[str, bool] | None:
    found = _gains(summary, "schedule_free")
    if not found:
        return None
    means = {place: _typical(values) for place, values in found.items()}
    words = ", ".join(f"{place} {value:.2g}x" for place, value in means.items())
    return f"gain in steps over AdamW with its schedule: {words}", min(means.values()) >= 0.9


def _bytes(summary: Summary) -> tuple[str, bool] | None:
    found: dict[str, list[float]] = {}
    for block in _runs(summary).values():
        if {"adafactor", _REFERENCE} <= set(block):
            for name in ("adafactor", _REFERENCE):
                found.setdefault(name, []).append(float(block[name]["values"]["state_per"]))
    if not found:
        return None
    mine, theirs = _typical(found["adafactor"]), _typical(found[_REFERENCE])
    return f"{mine:.2g} against {theirs:.2g} bytes a parameter", mine < 0.25 * theirs


CLAIMS = (
    seen("L2 in Adam's gradient shrinks weights with large gradients less than decoupled decay "
         "does.", "Loshchilov and Hutter (2019), arXiv:1711.05101, section 2", _decay),
    seen("Rankings change before the end of the schedule: judge there and not earlier.",
         "Wen et al. (2025), arXiv:2509.02046", _flips),
    seen("Muon needs at most 1.4 times fewer steps than AdamW with a tuned rate.",
         "Wen et al. (2025), arXiv:2509.02046, for 0.1 B parameters", _muon),
    not_worse("Moments in 8 bits cost no quality.",
              "Dettmers et al. (2022), arXiv:2110.02861", "adamw_8bit", ("adamw",)),
    seen("Without a schedule Schedule-Free is as good as AdamW with one.",
         "Defazio et al. (2024), arXiv:2405.15682", _free),
    seen("A factored second moment takes a small share of Adam's memory.",
         "Shazeer and Stern (2018), arXiv:1804.04235", _bytes),
)  # fmt: skip
