"""What only the study `detectors` can say: why the protocols differ, and claims of papers.

The task judges the same detections in five ways (`tasks.detection`), so that a step from one to
the next changes one thing: how the curve is read, how boxes are matched, how tight they must be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from paragone.lab import format as fmt
from paragone.lab.growth import by_workload
from paragone.lab.outcome import ClaimResult, Summary
from paragone.lab.spec import Claim

__all__ = ["CLAIMS", "STEPS", "findings", "steps"]

STEPS = (
    ("voc2007", "voc2012", "read at all recalls in place of 11"),
    ("voc2007", "coco11", "matched as COCO does in place of VOC"),
    ("coco11", "ap50", "read at 101 recalls in place of 11"),
    ("ap50", "ap", "ten overlaps up to 0.95 in place of 0.5 alone"),
)
"""From one protocol to another, and the one thing that changes."""

TITLES = {
    "voc2007": "VOC 2007", "voc2012": "VOC 2012", "coco11": "COCO's matching at 11 recalls",
    "ap50": "COCO's AP50", "ap": "COCO's AP",
}  # fmt: skip
_SAME = 0.005
_KNOWN = 0.02
"""AP below which a detector has learnt too little for a claim to be looked at."""

Told = tuple[str, bool | None]


def _title(summary: Summary, name: str) -> str:
    return next((c.title for c in summary.contestants if c.id == name), name)


def _values(summary: Summary, name: str, place: str | None = None) -> Mapping[str, float]:
    """Means over the finished runs of a contestant, on one workload or on all."""
    rows: dict[str, list[float]] = {}
    for record in summary.records:
        mine = record.get("contestant") == name and record.get("status") == "ok"
        if mine and place in (None, record.get("workload")):
            for key, value in record.get("values", {}).items():
                rows.setdefault(key, []).append(float(value))
    return {key: sum(found) / len(found) for key, found in rows.items()}


def steps(values: Mapping[str, float]) -> list[tuple[str, float]]:
    """What each change from one protocol to another does to the figure of the same detections.

    Example:
        >>> steps({"voc2007": 0.5, "voc2012": 0.25, "ap50": 0.5, "ap": 0.25})
        [('read at all recalls in place of 11', -0.25), ('ten overlaps up to 0.95 in place of 0.5 alone', -0.25)]
    """  # noqa: E501
    return [
        (why, values[after] - values[before])
        for before, after, why in STEPS
        if before in values and after in values
    ]


def _protocols(summary: Summary, place: str) -> list[str]:
    """The three figures of the best detector, and what each step between them is worth."""
    found = {c.id: _values(summary, c.id, place) for c in summary.contestants}
    found = {name: values for name, values in found.items() if "ap" in values}
    if not found:
        return []
    best = max(found, key=lambda name: found[name]["ap"])
    values = found[best]
    shown = [f"{TITLES[key]} {values[key]:.3f}" for key in ("voc2007", "voc2012", "ap50", "ap")
             if key in values]  # fmt: skip
    told = [f"The same detections of {_title(summary, best)}: {', '.join(shown)}."]
    words = [f"{change:+.3f} {why}" for why, change in steps(values)]
    if words:
        told.append(f"Why the protocols differ, one change at a time: {'; '.join(words)}.")
    orders = {
        key: sorted((n for n in found if key in found[n]), key=lambda n: -found[n][key])
        for key in ("voc2007", "ap")
    }
    if len(found) > 1 and orders["voc2007"] != orders["ap"]:
        told.append(
            f"VOC 2007 ranks {fmt.join([_title(summary, n) for n in orders['voc2007']])}; COCO "
            f"ranks {fmt.join([_title(summary, n) for n in orders['ap']])}."
        )
    return told


def _equal_seconds(summary: Summary, place: str) -> list[str]:
    """What each saw and found in the same time."""
    words = []
    for contestant in summary.contestants:
        values = _values(summary, contestant.id, place)
        if {"seen", "ap50", "latency_s"} <= values.keys():
            words.append((values["ap50"], f"{contestant.title} AP50 {values['ap50']:.3f} from "
                          f"{values['seen']:,.0f} images, {fmt.seconds(values['latency_s'])} an "
                          "image"))  # fmt: skip
    words.sort(reverse=True)
    return [f"In the same training time: {'; '.join(text for _, text in words)}."] * (
        len(words) > 1
    )


def findings(summary: Summary) -> list[str]:
    """Sentences that follow the verdict."""
    told = []
    for place in summary.workloads:
        told += [*_equal_seconds(summary, place.id), *_protocols(summary, place.id)]
    return told


def _judged(text: str, source: str, look: Callable[[Summary], Told | None]) -> Claim:
    def check(summary: Summary) -> ClaimResult:
        measured, holds = look(summary) or ("not measured here", None)
        verdict = "not tested" if holds is None else "holds" if holds else "does not hold"
        return ClaimResult(text=text, source=source, measured=measured, verdict=verdict)

    return Claim(text=text, source=source, check=check)


def _words(summary: Summary, a: str, b: str) -> list[str]:
    """How `a` stands to `b` in AP on each workload."""
    turned = {"better": "worse", "worse": "better"}
    found = []
    for one in summary.differences:
        if one.measure != "ap" or not one.workload:
            continue
        if (one.a, one.b) == (a, b):
            found.append(str(one.word))
        elif (one.a, one.b) == (b, a):
            found.append(turned.get(one.word, one.word))
    return found


def _parts_help(summary: Summary) -> Told | None:
    whole, plain = (by_workload(summary, n, "ap") for n in ("thundernet", "thundernet_plain"))
    places = sorted(whole.keys() & plain.keys())
    if not places:
        return None
    told = ", ".join(f"AP {whole[p]:.3f} with them, {plain[p]:.3f} without" for p in places)
    if max(max(whole[p], plain[p]) for p in places) < _KNOWN:
        return f"{told}: both have learnt too little", None
    words = _words(summary, "thundernet", "thundernet_plain")
    if "worse" in words:
        return told, False
    return told, True if "better" in words else None


def _soft(summary: Summary) -> Told | None:
    rows = {}
    for contestant in summary.contestants:
        values = _values(summary, contestant.id)
        if {"ap_soft", "ap_hard"} <= values.keys() and values["ap_soft"] >= _KNOWN:
            rows[contestant.title] = (values["ap_soft"], values["ap_hard"])
    if not rows:
        return None
    told = ", ".join(f"{title} {soft:.3f} against {hard:.3f}" for title, (soft, hard)
                     in rows.items())  # fmt: skip
    return f"the same boxes, AP: {told}", all(s >= h - _SAME for s, h in rows.values())


def _small(summary: Summary) -> Told | None:
    found = {}
    for name in ("thundernet", "nanodet"):
        values = _values(summary, name)
        if "ap_small" in values:
            found[name] = values["ap_small"]
    if len(found) < 2:
        return None
    two, one = found["thundernet"], found["nanodet"]
    told = f"AP of objects below 32 x 32 pixels: {two:.3f} in two stages, {one:.3f} in one"
    if max(two, one) < _KNOWN:
        return f"{told}: both have learnt too little", None
    return told, None if abs(two - one) < _SAME else two > one


def _lenient(summary: Summary) -> Told | None:
    """Whether every detector's figure falls from VOC 2007 to COCO's AP."""
    rows: Sequence[tuple[str, float, float]] = [
        (c.title, values["voc2007"], values["ap"]) for c in summary.contestants
        if {"voc2007", "ap"} <= (values := _values(summary, c.id)).keys() and values["ap"] > 0
    ]  # fmt: skip
    if not rows:
        return None
    told = ", ".join(f"{title} {voc / coco:.2g}x" for title, voc, coco in rows)
    return f"VOC 2007 over COCO: {told}", all(voc > coco for _, voc, coco in rows)


CLAIMS = (
    _judged("Context enhancement and spatial attention help.",
            "Qin et al. (2019), ThunderNet, arXiv:1903.11752, table 6", _parts_help),
    _judged("Soft-NMS is at least as good as NMS.",
            "Bodla et al. (2017), arXiv:1704.04503, table 1", _soft),
    _judged("Two stages find small objects better than one.",
            "Huang et al. (2017), arXiv:1611.10012, section 4.1.4", _small),
    _judged("COCO's AP asks for more than VOC's of the same detections.",
            "Lin et al. (2014), arXiv:1405.0312; Everingham et al. (2010)", _lenient),
)  # fmt: skip
