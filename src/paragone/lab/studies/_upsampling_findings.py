"""What only the study `upsampling` can say: quality at equal time, what is printed, claims.

Equal time is the time of the quickest to finish all of its steps; each learning curve over
seconds is read there. What is printed is the relative energy of the period on constant input,
as `lab.tasks.dense` defines it; less than 1e-10 is rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from paragone.lab import format as fmt
from paragone.lab.claims import seen
from paragone.lab.growth import by_workload
from paragone.lab.outcome import Summary

__all__ = ["CLAIMS", "NOTHING", "at_equal_time", "findings"]

NOTHING = 1e-10
"""Energy below which nothing is printed: the rounding of float32."""


def _title(summary: Summary, name: str) -> str:
    return next((c.title for c in summary.contestants if c.id == name), name)


def _places(summary: Summary, part: str) -> list[Any]:
    return [w for w in summary.workloads if w.facts.get("part") == part]


def _number(summary: Summary, name: str, place: str, measure: str) -> float | None:
    return by_workload(summary, name, measure).get(place)


def _all(summary: Summary, place: str, measure: str) -> dict[str, float]:
    found = {c.id: _number(summary, c.id, place, measure) for c in summary.contestants}
    return {name: value for name, value in found.items() if value is not None}


def at_equal_time(summary: Summary, place: str, measure: str) -> tuple[float, dict[str, float]]:
    """The time of the quickest, and the mean of each contestant's curve there."""
    curves: dict[str, list[tuple[list[float], list[float]]]] = {}
    known = {c.id for c in summary.contestants}
    for record in summary.records:
        curve = record.get("curves", {}).get(f"{measure} over seconds")
        mine = record.get("workload") == place and record.get("status") == "ok"
        if mine and curve and record.get("contestant") in known:
            curves.setdefault(record["contestant"], []).append((curve["x"], curve["y"]))
    if len(curves) < 2:
        return 0.0, {}
    end = min(float(np.median([x[-1] for x, _ in runs])) for runs in curves.values())
    found = {}
    for name, runs in curves.items():
        values = [float(np.interp(end, x, y)) for x, y in runs if all(v is not None for v in y)]
        if values:
            found[name] = float(np.mean(values))
    return end, found


def findings(summary: Summary) -> list[str]:
    """Quality at equal time, what is printed, and what the layer alone costs."""
    told = []
    for part, measure, unit in (("segment", "iou", ""), ("super", "psnr", " dB")):
        for place in _places(summary, part):
            told += _equal(summary, place, measure, unit)
    told += _prints(summary)
    return told + _layers(summary)


def _equal(summary: Summary, place: Any, measure: str, unit: str) -> list[str]:
    end, found = at_equal_time(summary, place.id, measure)
    if not found:
        return []
    best = sorted(found.items(), key=lambda one: -one[1])
    digits = 1 if unit else 3
    words = [f"{_title(summary, name)} {value:.{digits}f}{unit}" for name, value in best]
    return [f"{place.title}, at equal time ({fmt.seconds(end)}): {', '.join(words)}."]


def _prints(summary: Summary) -> list[str]:
    told = []
    for place in _places(summary, "segment")[:1]:
        start, end = (_all(summary, place.id, f"printed_{when}") for when in ("start", "end"))
        clean = [_title(summary, n) for n, v in start.items() if v < NOTHING]
        dirty = [f"{_title(summary, n)} {v:.1e}" for n, v in start.items() if v >= NOTHING]
        after = [f"{_title(summary, n)} {v:.1e}" for n, v in end.items() if v >= NOTHING]
        if clean:
            told.append(f"Start without a checkerboard in the interior: {fmt.join(clean)}.")
        if dirty:
            told.append(f"Start with one: {fmt.join(dirty)}.")
        if after:
            told.append(f"Print one after training: {fmt.join(after)}.")
    return told


def _layers(summary: Summary) -> list[str]:
    told = []
    for place in _places(summary, "cost"):
        times = _all(summary, place.id, "step_s")
        if base := times.get("bilinear"):
            words = [f"{_title(summary, n)} {v / base:.2g}x" for n, v in sorted(
                times.items(), key=lambda one: one[1]) if n != "bilinear"]  # fmt: skip
            told.append(f"{place.title}, times of bilinear ({fmt.seconds(base)}): "
                        f"{', '.join(words)}.")  # fmt: skip
    return told


def _multiple(summary: Summary) -> tuple[str, bool] | None:
    """Even kernels: interior, corner, and after training."""
    words, holds = [], True
    for place in _places(summary, "segment"):
        inner, edge, after = (
            _number(summary, "transposed", place.id, f"printed_{when}")
            for when in ("start", "edge", "end")
        )
        plain = _number(summary, "torch_transposed", place.id, "printed_start")
        if inner is None or edge is None or after is None:
            continue
        words.append(f"kernel 4, stride 2, bilinear: interior {inner:.0e}, corner {edge:.0e}, "
                     f"after training {after:.0e}")  # fmt: skip
        if plain is not None:
            words.append(f"torch's start, kernel 2, stride 2: {plain:.0e}")
        holds &= max(inner, edge, after, plain or 0.0) < NOTHING
    if not words:
        return None
    return "; ".join(words) + (" (only in the interior, only at the start)" * (not holds)), holds


def _icnr(summary: Summary) -> tuple[str, bool] | None:
    pairs = []
    for place in [*_places(summary, "segment"), *_places(summary, "super")]:
        ours, plain = (
            _number(summary, name, place.id, "printed_start")
            for name in ("pixel_shuffle", "torch_shuffle")
        )
        if ours is not None and plain is not None:
            pairs.append((place.title, ours, plain))
    if not pairs:
        return None
    words = "; ".join(f"{t}: {a:.0e} against {b:.0e} without it" for t, a, b in pairs)
    return words, all(a < NOTHING < b for _, a, b in pairs)


def _ratio(summary: Summary, measure: str, times: float) -> tuple[str, bool] | None:
    found: Mapping[str, float] = {}
    for place in _places(summary, "cost"):
        ours, unfold = (
            _number(summary, name, place.id, measure) for name in ("carafe", "carafe_unfold")
        )
        if ours and unfold:
            found = {**found, place.title: unfold / ours}
    if not found:
        return None
    words = ", ".join(f"{title} {ratio:.1f}x" for title, ratio in found.items())
    return f"the whole layer, kernels predicted: {words}", min(found.values()) >= times


def _beats(
    summary: Summary, part: str, measure: str, a: str, b: str, margin: float, digits: int
) -> tuple[str, bool] | None:
    words, holds = [], True
    for place in _places(summary, part):
        mine, theirs = (_number(summary, name, place.id, measure) for name in (a, b))
        if mine is None or theirs is None:
            continue
        words.append(f"{place.title}: {mine:.{digits}f} against {theirs:.{digits}f}")
        holds &= mine > theirs + margin
    return ("; ".join(words), holds) if words else None


def _light(summary: Summary) -> tuple[str, bool] | None:
    places = _places(summary, "segment")
    found = [
        (_number(summary, "dysample", p.id, m), _number(summary, "carafe", p.id, m))
        for p in places
        for m in ("iou", "step_s", "step_extra")
    ]
    if not found or any(a is None or b is None for a, b in found):
        return None
    (iou, other), (time, slow), (space, more) = found[:3]
    assert iou is not None and other is not None and time and slow and space and more  # noqa: PT018
    words = (f"IoU {iou:.3f} against {other:.3f}, {time / slow:.2f}x the time, "
             f"{space / more:.2f}x the memory")  # fmt: skip
    return words, iou >= other - 0.01 and time < slow and space < more


CLAIMS = (
    seen("A kernel that is a multiple of the stride removes the checkerboard.",
         "Odena et al. (2016), distill.pub/2016/deconv-checkerboard", _multiple),
    seen("ICNR starts without a checkerboard.",
         "Aitken et al. (2017), arXiv:1707.02937, section 3", _icnr),
    seen("CARAFE is 30 times as fast as by unfold, forward and backward.",
         "a goal of this implementation; the reassembly alone stands in carafe_speed",
         lambda summary: _ratio(summary, "step_s", 30)),
    seen("CARAFE needs a tenth of the memory of the unfold formulation.",
         "the same", lambda summary: _ratio(summary, "step_extra", 10)),
    seen("CARAFE finds better segments than bilinear interpolation.",
         "Wang et al. (2019), arXiv:1905.02188, table 4",
         lambda summary: _beats(summary, "segment", "iou", "carafe", "bilinear", 0.01, 3)),
    seen("DySample is as good as CARAFE, in less time and memory.",
         "Liu et al. (2023), arXiv:2308.15085, tables 1 and 2", _light),
    seen("A pixel shuffle enlarges photographs better than interpolation behind the network.",
         "Shi et al. (2016), arXiv:1609.05158, section 3.3",
         lambda summary: _beats(summary, "super", "psnr", "pixel_shuffle", "bilinear", 0.05, 2)),
)  # fmt: skip
