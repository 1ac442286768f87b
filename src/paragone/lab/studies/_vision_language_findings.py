"""What only the study `vision_language` can say: who reads, who draws, small text, claims.

All models of a workload have about as many parameters and the same CPU seconds, a codebook's
training included. Reading and drawing have each their own winner: the answer names both, from the
study's own paired comparisons.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from paragone.lab import format as fmt
from paragone.lab.claims import seen
from paragone.lab.growth import by_workload
from paragone.lab.outcome import Summary
from paragone.lab.spec import Workload

__all__ = ["CLAIMS", "RAW", "STABLE", "answer", "findings", "value"]

RAW = ("flow", "mar", "expanded")
"""Contestants that take raw patches in and out."""
CODES = ("vq", "chameleon")
"""Contestants that read and draw codes."""
STABLE = {
    "stable_plain": "neither", "stable_qk": "QK-norm alone", "stable_z": "z-loss alone",
    "stable_both": "both",
}  # fmt: skip
"""Chameleons of the question of stability, in words."""
_WIDE = 1.96
_ONE = 0.2
"""Variety below which drawings of a caption are one picture."""

Told = tuple[str, bool | None]


def value(summary: Summary, name: str, place: str, measure: str) -> float | None:
    """A contestant's mean (or median) of a measure on a workload."""
    return by_workload(summary, name, measure).get(place)


def _values(summary: Summary, place: str, measure: str) -> dict[str, float]:
    found = {c.id: value(summary, c.id, place, measure) for c in summary.contestants}
    return {name: one for name, one in found.items() if one is not None}


def _times(summary: Summary, place: str, name: str) -> dict[str, float]:
    """CPU seconds of each contestant, the median over runs: all have one thread."""
    found: dict[str, list[float]] = {}
    for record in summary.records:
        values = record.get("values", {})
        if record["workload"] == place and f"{name}_cpu_s" in values:
            found.setdefault(record["contestant"], []).append(values[f"{name}_cpu_s"])
    known = [c.id for c in summary.contestants if c.id in found]
    return {one: float(np.median(found[one])) for one in known}


def _title(summary: Summary, name: str) -> str:
    return next((c.title for c in summary.contestants if c.id == name), name)


def _difference(summary: Summary, a: str, b: str, place: str, measure: str) -> tuple[str, bool]:
    """How `a` stands to `b` by the paired comparison, and whether there is an interval."""
    turned = {"better": "worse", "worse": "better"}
    for one in summary.differences:
        if (one.measure, one.workload) == (measure, place) and {one.a, one.b} == {a, b}:
            word = one.word if one.a == a else turned.get(one.word, one.word)
            return word, one.low is not None
    return _of_drawings(summary, a, b, place, measure)


def _of_drawings(summary: Summary, a: str, b: str, place: str, measure: str) -> tuple[str, bool]:
    """The same of a measure of drawings, by its standard errors over pictures and blocks.

    The lab itself compares what ranks alone.
    """
    runs: dict[str, dict[Any, tuple[float, float]]] = {a: {}, b: {}}
    for record in summary.records:
        values, name = record.get("values", {}), record["contestant"]
        if record["workload"] == place and name in runs and f"{measure}_error" in values:
            runs[name][record.get("block")] = values[measure], values[f"{measure}_error"]
    blocks = sorted(runs[a].keys() & runs[b].keys())
    if not blocks:
        return "inconclusive", False
    pairs = [(runs[a][k], runs[b][k]) for k in blocks]
    gaps = np.array([x[0] - y[0] for x, y in pairs])
    error = float(np.sqrt(sum(x[1] ** 2 + y[1] ** 2 for x, y in pairs))) / len(pairs)
    if len(gaps) > 1:
        error = max(error, float(gaps.std(ddof=1)) / len(gaps) ** 0.5)
    known = next(m for m in summary.measures if m.name == measure)
    gap = float(gaps.mean()) * (1 if known.better == "higher" else -1)
    low, high = gap - _WIDE * error, gap + _WIDE * error
    if low > 0 and gap > known.margin:
        return "better", True
    if high < 0 and gap < -known.margin:
        return "worse", True
    return "same" if max(-low, high) <= known.margin else "inconclusive", True


def _word(summary: Summary, a: str, b: str, place: str, measure: str) -> str:
    return _difference(summary, a, b, place, measure)[0]


def _place(summary: Summary) -> Workload | None:
    """Where models read and draw."""
    return next((w for w in summary.workloads if w.id in ("digits", "data")), None)


def _best(summary: Summary, place: str, measure: str) -> tuple[list[str], dict[str, float]]:
    """The best of a measure and who is not told apart from it by an interval; all values."""
    known = {m.name: m for m in summary.measures}
    sign = 1 if known[measure].better == "lower" else -1
    found = _values(summary, place, measure)
    order = sorted(found, key=lambda name: sign * found[name])
    tied = [order[0]] if order else []
    for name in order[1:]:
        word, measured = _difference(summary, name, order[0], place, measure)
        tied += [name] * (word == "same" or (word == "inconclusive" and measured))
    return tied, found


def _named(summary: Summary, place: str, measure: str, show: Any) -> str:
    """The best of a measure in words, with those that are not told apart from it."""
    tied, found = _best(summary, place, measure)
    if not tied:
        return ""
    text = f"{_title(summary, tied[0])} ({show(found[tied[0]])})"
    if others := [_title(summary, name) for name in tied[1:]]:
        text += f", not told apart from {fmt.join(others[:3])}"
        text += f" and {len(others) - 3} more" if len(others) > 3 else ""
    return text


def _share(x: float) -> str:
    return f"{x:.1%}"


def answer(summary: Summary) -> str:
    """Who reads best and who draws best, at equal parameters and CPU time."""
    place = _place(summary)
    if place is None:
        return ""
    by = place.primary if place.primary in ("accuracy", "caption_loss") else "accuracy"
    show = _share if by == "accuracy" else lambda x: f"{x:.3f} nats a token"
    reads = _named(summary, place.id, by, show)
    if not reads:
        return ""
    text = f"Pictures are read best by {reads}"
    drawn = _values(summary, place.id, "drawn")
    best = next(iter(_best(summary, place.id, "apart")[0]), "")
    asked = _share(drawn.get(best, 0.0))
    near = _named(summary, place.id, "apart", lambda x: f"{x:.2f} from real, {asked} as asked")
    text += f"; drawn nearest to real ones by {near}" if near else ""
    seconds = float(place.facts.get("seconds") or 0)
    return f"{text}. All at about {_size(summary, place.id)} and {seconds:g} s of CPU time."


def _means(summary: Summary) -> str:
    """Whose drawings a judge takes for right although they are one and the same."""
    place = _place(summary)
    if place is None:
        return ""
    drawn, spread = (_values(summary, place.id, name) for name in ("drawn", "spread"))
    told = [
        f"{_title(summary, name)} ({_share(drawn[name])} as asked, variety {spread[name]:.2f} of "
        "real pictures')"
        for name in drawn if drawn[name] > 0.5 and spread.get(name, 1.0) < _ONE
    ]  # fmt: skip
    return f"One picture for each caption, over and over, is what {told[0]} draws." if told else ""


def _size(summary: Summary, place: str) -> str:
    found = _values(summary, place, "parameters").values()
    return f"{np.median(list(found)):,.0f} parameters" if found else "equal parameters"


def _small_text(summary: Summary) -> str:
    found = _values(summary, "words", "accuracy")
    if len(found) < 2:
        return ""
    facts = next(w.facts for w in summary.workloads if w.id == "words")
    order = sorted(found, key=lambda name: -found[name])
    words = ", ".join(f"{_title(summary, name)} {found[name]:.1%}" for name in order)
    kind = "words never seen in training" if facts.get("unseen") else "held-out pictures of words"
    return f"Small text, {kind}, read letter by letter: {words}."


def _stability(summary: Summary) -> str:
    told = []
    for place in summary.workloads:
        if place.facts.get("part") != "stable":
            continue
        found = _values(summary, place.id, "stable_loss")
        wild = _values(summary, place.id, "diverged")
        score = _values(summary, place.id, "score")
        if found:
            each = ", ".join(
                f"{STABLE[name]} {loss:.2f}{' (diverged)' if wild.get(name, 0) >= 0.5 else ''}"
                f"{f', scores up to {score[name]:,.0f}' if name in score else ''}"
                for name, loss in found.items() if name in STABLE
            )  # fmt: skip
            told.append(f"at {place.facts['multiple']:g} times the rate {each}")
    return f"Last loss of Chameleon with QK-norm and z-loss: {'; '.join(told)}." if told else ""


def _packing(summary: Summary) -> str:
    times = _times(summary, "packing", "call")
    if "packed" not in times or len(times) < 2:
        return ""
    words = ", ".join(f"{_title(summary, name)} {times[name] / times['packed']:.2f}x"
                      for name in times if name != "packed")  # fmt: skip
    return f"CPU time of the encoder on pictures of mixed sizes by that of packing them: {words}."


def _speed(summary: Summary) -> str:
    place = _place(summary)
    found = _times(summary, place.id, "draw") if place else {}
    if len(found) < 2:
        return ""
    low, high = (pick(found, key=lambda name: found[name]) for pick in (min, max))
    return (f"A drawn picture takes, in CPU time, {_title(summary, low)} "
            f"{fmt.seconds(found[low])} and {_title(summary, high)} "
            f"{fmt.seconds(found[high])}.")  # fmt: skip


def _cautions(summary: Summary) -> str:
    place = _place(summary)
    if place is None:
        return ""
    judge = max(_values(summary, place.id, "judge").values(), default=0.0)
    classes = place.id == "digits" or place.facts.get("classes")
    told = f"The judge is right on {judge:.1%} of real pictures. " if classes and judge else ""
    told += "Kimi-VL only reads, so that all of its time goes into reading, half of the others'; "
    told += "one rate for all, of a size that none was tuned for"
    if place.id == "data" and not classes:
        told += ("; captions are no classes here: they are judged by their loss, and a drawing by "
                 "whether it is nearer to its own picture than to another")  # fmt: skip
    return told + "."


def findings(summary: Summary) -> list[str]:
    """Sentences that follow the answer."""
    parts = (_means, _small_text, _stability, _packing, _speed, _cautions)
    return [text for text in (part(summary) for part in parts) if text]


def _pairs(
    summary: Summary, place: str, measure: str, ours: Sequence[str], theirs: Sequence[str]
) -> Told | None:  # fmt: skip
    """Whether the best of some is clearly better than the best of others."""
    found = _values(summary, place, measure)
    known = {m.name: m for m in summary.measures}
    pick = min if measure in known and known[measure].better == "lower" else max
    sides = [[name for name in side if name in found] for side in (ours, theirs)]
    if not all(sides):
        return None
    a, b = (pick(side, key=lambda name: found[name]) for side in sides)
    word = _word(summary, a, b, place, measure)
    told = f"{_title(summary, a)} {found[a]:.3f}, {_title(summary, b)} {found[b]:.3f}: {word}"
    return told, None if word == "inconclusive" else word == "better"


def _where(summary: Summary) -> str:
    place = _place(summary)
    return place.id if place is not None else ""


def _tamed(summary: Summary) -> Told | None:
    """At a rate where the plain model diverges, the one with both does not."""
    told, held = [], []
    for place in summary.workloads:
        wild = _values(summary, place.id, "diverged")
        if place.facts.get("part") != "stable" or not {"stable_plain", "stable_both"} <= set(wild):
            continue
        loss = _values(summary, place.id, "stable_loss")
        told.append(f"{place.facts['multiple']:g}x: plain {loss['stable_plain']:.2f}, both "
                    f"{loss['stable_both']:.2f}")  # fmt: skip
        if wild["stable_plain"] >= 0.5:
            held.append(wild["stable_both"] < 0.5)
        elif _word(summary, "stable_both", "stable_plain", place.id, "stable_loss") == "worse":
            told[-1] += " (both is worse)"
    if not told:
        return None
    words = "last loss at multiples of the rate: " + "; ".join(told)
    return words, all(held) if held else None


def _bounded(summary: Summary) -> Told | None:
    """At the highest rate scores of attention stay ten times smaller with the norm."""
    places = [w for w in summary.workloads if w.facts.get("part") == "stable"]
    for place in reversed(places):
        score = _values(summary, place.id, "score")
        if {"stable_plain", "stable_both"} <= set(score):
            plain, both = score["stable_plain"], score["stable_both"]
            told = f"largest score at {place.facts['multiple']:g} times the rate: {plain:,.0f} "
            return told + f"without, {both:,.0f} with both", plain >= 10 * both
    return None


def _packs(summary: Summary) -> Told | None:
    times = _times(summary, "packing", "call")
    if not {"packed", "padded"} <= times.keys():
        return None
    ratio = times["padded"] / times["packed"]
    return f"padding takes {ratio:.2f}x the time of packing", ratio > 1.05


def _merged(summary: Summary) -> Told | None:
    """No late fusion better than early fusion at equal parameters."""
    place = _where(summary)
    found = _pairs(summary, place, "accuracy", ("kimi",), (*RAW, "chameleon"))
    return None if found is None else (found[0], None if found[1] is None else not found[1])


CLAIMS = (
    seen("Raw patches read small text that a codebook loses.",
         "Su (2024), kexue.fm/archives/9984; Chameleon Team (2024), arXiv:2405.09818, section 2.1",
         lambda s: _pairs(s, "words", "accuracy", (*RAW, "mse"), CODES)),
    seen("The squared error is no loss for the next patch: a head that models its distribution "
         "draws pictures that are nearer to real ones.",
         "Su (2024), kexue.fm/archives/10197; Li et al. (2024), arXiv:2406.11838, section 3",
         lambda s: _pairs(s, _where(s), "apart", RAW, ("mse",))),
    seen("A diffusion head draws better than codes of the same model.",
         "Li et al. (2024), arXiv:2406.11838, table 1",
         lambda s: _pairs(s, _where(s), "apart", ("mar",), ("vq",))),
    seen("At equal compute continuous pictures are drawn better than codes (Transfusion against "
         "Chameleon).",
         "Zhou et al. (2024), arXiv:2408.11039, section 4.2",
         lambda s: _pairs(s, _where(s), "apart", ("flow",), ("chameleon",))),
    seen("The same, in the captions that are read.",
         "Zhou et al. (2024), arXiv:2408.11039, section 4.2",
         lambda s: _pairs(s, _where(s), "accuracy", ("flow",), ("chameleon",))),
    seen("An encoder of its own (late fusion) has no advantage over early fusion.",
         "Shukor et al. (2025), arXiv:2504.07951, abstract", _merged),
    seen("Where training diverges without them, QK-norm and z-loss keep it stable.",
         "Chameleon Team (2024), arXiv:2405.09818, section 2.3", _tamed),
    seen("QK-norm bounds the scores of attention, which grow without it.",
         "Dehghani et al. (2023), ViT-22B, arXiv:2302.05442, section 2.2", _bounded),
    seen("Packing pictures of mixed sizes takes less time than padding them.",
         "Dehghani et al. (2023), NaViT, arXiv:2307.06304, section 2", _packs),
)  # fmt: skip
