r"""What only the study `mixers` can say: who overtakes whom and where, equal time, and claims.

A crossover is read off the two curves over length: between two measured lengths each is a
straight line of logarithms. Of two mixers the one that is below at the longest length is ahead
from the crossover on; where it was below all along there is none. Equal compute is equal
training time: each learning curve over seconds is read at the time of the quickest to finish
all of its steps.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from paragone.lab import format as fmt
from paragone.lab import growth
from paragone.lab.claims import seen
from paragone.lab.growth import by_workload
from paragone.lab.outcome import Summary

__all__ = ["CLAIMS", "crossovers", "findings"]

_AXIS = "length"
_SAME = 0.05
_TIMES = {"forward_s": "Forward", "train_s": "Forward and backward", "step_s": "Decoding"}


def _title(summary: Summary, name: str) -> str:
    return next((c.title for c in summary.contestants if c.id == name), name)


def crossovers(summary: Summary, measure: str = "forward_s") -> dict[tuple[str, str], float | None]:
    """(slow, fast) to the length from which on the second is ahead, for each pair that met.

    None: it was ahead at every length, so that there is no crossover.
    """
    names = [c.id for c in summary.contestants]
    curves = {name: growth.along(summary, _AXIS, name, measure) for name in names}
    curves = {name: curve for name, curve in curves.items() if len(curve) > 1}
    found: dict[tuple[str, str], float | None] = {}
    for a, b in itertools.combinations(curves, 2):
        shared = sorted(dict(curves[a]).keys() & dict(curves[b]).keys())
        if not shared:
            continue
        for slow, fast in ((a, b), (b, a)):
            at = growth.crossover(curves[slow], curves[fast])
            if at is not None:
                found[slow, fast] = None if at == shared[0] else at
    return found


def _count(length: float) -> str:
    return f"{float(f'{length:.2g}'):,.0f}"


def _pairs(summary: Summary, measure: str) -> list[str]:
    """One sentence for each mixer: whom it overtakes, and where; whom it leads all along."""
    found = crossovers(summary, measure)
    ends = growth.axis_range(summary, _AXIS)
    if not found or ends is None:
        return []
    low, high = (f"{end:,.0f}" for end in ends)
    told = []
    for fast in dict.fromkeys(fast for _, fast in found):
        mine = {slow: at for (slow, one), at in found.items() if one == fast}
        turns = sorted((at, slow) for slow, at in mine.items() if at is not None)
        always = [_title(summary, slow) for slow, at in mine.items() if at is None]
        words = []
        if turns:
            list_ = [f"{_title(summary, slow)} from {_count(at)}" for at, slow in turns]
            words.append(f"overtakes {fmt.join(list_)}")
        if always:
            words.append(f"has no crossover with {fmt.join(always)} (ahead from {low} to {high})")
        if words:
            told.append(f"{_TIMES[measure]}: {_title(summary, fast)} {'; '.join(words)}.")
    return told


def _against(summary: Summary, name: str = "mha") -> list[str]:
    """For training and decoding, one sentence each: who passes attention, and where."""
    told, ends = [], growth.axis_range(summary, _AXIS)
    for measure in ("train_s", "step_s"):
        found = crossovers(summary, measure)
        if not found or ends is None:
            continue
        passing = {fast: at for (slow, fast), at in found.items() if slow == name}
        turns = sorted((at, fast) for fast, at in passing.items() if at is not None)
        always = [_title(summary, fast) for fast, at in passing.items() if at is None]
        behind = [_title(summary, slow) for slow, fast in found if fast == name]
        words = [f"{_title(summary, fast)} from {_count(at)}" for at, fast in turns]
        words += [f"{fmt.join(always)} at every length"] if always else []
        words += [f"not overtaken by {fmt.join(behind)} up to {ends[1]:,.0f}"] if behind else []
        if words:
            verb = "is" if behind and len(words) == 1 else "is overtaken by"
            told.append(f"{_TIMES[measure]}: {_title(summary, name)} {verb} {'; '.join(words)}.")
    return told


def _at_time(curve: Mapping[str, Sequence[Any]], seconds: float) -> float | None:
    """The last value that a learning curve had reached by then."""
    found = [y for x, y in zip(curve["x"], curve["y"], strict=True)
             if x is not None and y is not None and x <= seconds]  # fmt: skip
    return float(found[-1]) if found else None


def _equal_time(summary: Summary) -> list[str]:
    """What each had learnt when the quickest had done all of its steps."""
    told = []
    known = {c.id for c in summary.contestants}
    for workload in summary.workloads:
        if workload.facts.get("part") != "learn":
            continue
        measure = workload.primary
        curves: dict[str, Mapping[str, Sequence[Any]]] = {}
        for record in summary.records:
            curve = record.get("curves", {}).get(f"{measure} over seconds")
            ok = record.get("status") == "ok" and record["contestant"] in known
            if ok and curve and record["workload"] == workload.id and len(curve["x"]):
                curves.setdefault(record["contestant"], curve)
        if len(curves) < 2:
            continue
        limit = min(curve["x"][-1] for curve in curves.values())
        values = {name: _at_time(curve, limit) for name, curve in curves.items()}
        sign = -1 if measure == "accuracy" else 1
        order = sorted((sign * v, name) for name, v in values.items() if v is not None)
        words = [f"{_title(summary, name)} {_amount(sign * v, measure)}" for v, name in order]
        late = [_title(summary, name) for name, v in values.items() if v is None]
        words += [f"{fmt.join(late)} not a tenth of its steps"] if late else []
        told.append(f"{workload.title} at equal training time ({fmt.seconds(limit)}): "
                    f"{', '.join(words)}.")  # fmt: skip
    return told


def _amount(value: float, measure: str) -> str:
    return f"{value:.0%}" if measure == "accuracy" else f"{value:.2f} bits"


def _leaks(summary: Summary) -> list[str]:
    """Who sees the future without saying so."""
    told = []
    for contestant in summary.contestants:
        if "whole sequence" in contestant.note:
            continue
        worst = max(by_workload(summary, contestant.id, "leak").values(), default=0.0)
        if worst > 1e-3:
            told.append(
                f"{contestant.title} is called causal and sees the future: its earlier outputs "
                f"change by {worst:.2g} of their size when later inputs do."
            )
    return told


def findings(summary: Summary) -> list[str]:
    """Sentences that follow the verdict."""
    return [*_pairs(summary, "forward_s"), *_against(summary), *_equal_time(summary),
            *_leaks(summary)]  # fmt: skip


def _tail(summary: Summary, name: str, measure: str) -> float | None:
    """Growth over the longer half of the lengths, where calls no longer cost more than work."""
    curve = growth.along(summary, _AXIS, name, measure)
    return growth.exponent(curve[len(curve) // 2 - 1 :]) if len(curve) > 2 else None


def _linear_time(summary: Summary) -> tuple[str, bool] | None:
    power, other = (_tail(summary, name, "forward_s") for name in ("linear", "mha"))
    if power is None:
        return None
    words = f"time grows as length^{power:.2f} over the longer lengths"
    words += f"; attention as length^{other:.2f}" if other is not None else ""
    return words, power <= 1.2


def _linear_memory(summary: Summary) -> tuple[str, bool] | None:
    power = _tail(summary, "mha", "train_extra")
    if power is None:
        return None
    return f"extra memory of training grows as length^{power:.2f}", power <= 1.25


def _learnt(summary: Summary, name: str, place: str, measure: str = "accuracy") -> float | None:
    return by_workload(summary, name, measure).get(place)


def _selective(summary: Summary) -> tuple[str, bool] | None:
    mamba = _learnt(summary, "mamba", "copying")
    fixed = {name: _learnt(summary, name, "copying") for name in ("s4", "s4d")}
    known = {name: value for name, value in fixed.items() if value is not None}
    if mamba is None or not known:
        return None
    words = ", ".join(f"{_title(summary, name)} {value:.0%}" for name, value in known.items())
    holds = mamba >= 0.95 and max(known.values()) < 0.9
    return f"Mamba said {mamba:.0%} right, {words}", holds


def _delta(summary: Summary) -> tuple[str, bool] | None:
    names = ("deltanet", "linear")
    accuracy = [_learnt(summary, name, "recall") for name in names]
    state = [_learnt(summary, name, "recall", "state_bytes") for name in names]
    if None in accuracy or None in state:
        return None
    (delta, linear), (a, b) = accuracy, state
    assert delta is not None
    assert linear is not None
    words = f"{delta:.0%} against {linear:.0%} with {a:,.0f} and {b:,.0f} B of state"
    return words, delta > linear + 0.02


def _recalls(summary: Summary) -> tuple[str, bool] | None:
    value = _learnt(summary, "mha", "recall")
    return None if value is None else (f"attention recalled {value:.1%}", value >= 0.99)


def _gated(summary: Summary) -> tuple[str, bool] | None:
    shares = {}
    for measure in ("forward_s", "train_s"):
        ours, block = (
            {w: v for w, v in by_workload(summary, name, measure).items() if "parameters" in w}
            for name in ("gau", "mha")
        )
        for place in ours.keys() & block.keys():
            shares[f"{place} {_TIMES[measure].lower()}"] = ours[place] / block[place]
    if not shares:
        return None
    words = ", ".join(f"{name} {share:.2f}x" for name, share in sorted(shares.items()))
    typical = math.exp(sum(math.log(v) for v in shares.values()) / len(shares))
    return f"two gated units in place of attention + feed-forward: {words}", typical <= 0.8


def _decode(summary: Summary) -> tuple[str, bool] | None:
    spans = {}
    for name in ("linear", "mamba", "deltanet"):
        curve = growth.along(summary, _AXIS, name, "state_bytes")
        if len(curve) > 1:
            spans[name] = curve[-1][1] / curve[0][1]
    if not spans:
        return None
    cache = growth.along(summary, _AXIS, "mha", "state_bytes")
    words = ", ".join(f"{_title(summary, name)} {span:.2g}x" for name, span in spans.items())
    words += f"; attention {cache[-1][1] / cache[0][1]:.3g}x" if len(cache) > 1 else ""
    return f"state from the shortest to the longest: {words}", max(spans.values()) < 1.01


def _values(summary: Summary, name: str) -> Mapping[str, float]:
    """All that a contestant's runs recorded; of each value the last."""
    found: dict[str, float] = {}
    for record in summary.records:
        if record.get("contestant") == name and record.get("status") == "ok":
            found |= record.get("values", {})
    return found


def _rank(summary: Summary) -> tuple[str, bool] | None:
    found = {name: _values(summary, name) for name in ("mha", "linear", "performer")}
    found = {name: values for name, values in found.items() if "rank" in values}
    if len(found) < 2 or "mha" not in found:
        return None
    words = ", ".join(
        f"{_title(summary, name)} {values['rank']:.0f}" for name, values in found.items()
    )
    low = all(v["rank"] <= v["rank_bound"] for name, v in found.items() if name != "mha")
    full = found["mha"]["rank"] == found["mha"]["rank_bound"]
    return f"rank of a random head's matrix, 512 tokens of 64 numbers: {words}", full and low


def _performer(summary: Summary) -> tuple[str, bool] | None:
    values = _values(summary, "performer")
    words, last = [], {}
    for size, scale in (("small", "0.3"), ("unit", "1")):
        prefix = f"softmax_{size}_"
        errors = {int(key.removeprefix(prefix)): v for key, v in values.items()
                  if key.startswith(prefix) and not key.endswith("mean")}  # fmt: skip
        if not errors:
            return None
        told = ", ".join(f"{errors[m]:.2g} with {m}" for m in sorted(errors))
        words.append(f"numbers of size {scale}: {told} features (a plain mean "
                     f"{values[prefix + 'mean']:.2g})")  # fmt: skip
        last[size] = errors[max(errors)]
    return f"error of the weights, {'; '.join(words)}", max(last.values()) < 0.1


CLAIMS = (
    seen("The time of linear attention is linear in the length.",
         "Katharopoulos et al. (2020), arXiv:2006.16236, section 3.2", _linear_time),
    seen("Exact attention trains in memory linear in the length.",
         "Dao et al. (2022), FlashAttention, arXiv:2205.14135, theorem 1", _linear_memory),
    seen("Mamba solves selective copying, time-invariant S4 does not.",
         "Gu and Dao (2023), Mamba, arXiv:2312.00752, table 1", _selective),
    seen("DeltaNet recalls better than linear attention with a state of the same size.",
         "Yang et al. (2024), arXiv:2406.06484, figure 2; Schlag et al. (2021)", _delta),
    seen("Attention of two layers recalls associations exactly.",
         "Arora et al. (2023), Zoology, arXiv:2312.04927, section 3.2", _recalls),
    seen("Gated units take at most 0.8 of the time of attention and feed-forward of as many "
         "parameters.", "Hua et al. (2022), arXiv:2202.10447, figure 4", _gated),
    seen("Linear and state-space mixers decode with a state of fixed size.",
         "Katharopoulos et al. (2020), section 3.4; Gu and Dao (2023), section 3.4", _decode),
    seen("FAVOR+ approximates softmax attention, with any queries and keys.",
         "Choromanski et al. (2021), arXiv:2009.14794, theorem 4", _performer),
    seen("A feature map of d numbers has an attention matrix of rank d at most; softmax's is full.",
         "Su (2021), kexue.fm/archives/8338; Bhojanapalli et al. (2020), arXiv:2002.07028",
         _rank),
)  # fmt: skip
