"""What only the study `agents` can say: one answer for each question, the rows beside, claims.

Every contestant differs from plain imitation in one respect, so each question has its own two or
three contestants. Who is best among them, and who is not told apart, comes from the study's own
paired comparisons, as the verdict does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from paragone.lab import format as fmt
from paragone.lab.claims import seen
from paragone.lab.growth import by_workload
from paragone.lab.outcome import Difference, Summary
from paragone.lab.spec import Workload

__all__ = ["CLAIMS", "QUESTIONS", "answer", "findings", "places", "value"]

QUESTIONS: dict[str, tuple[str, ...]] = {
    "encoder": ("imitation", "moonvit", "vq"),
    "history": ("imitation", "history_2", "history_5"),
    "learning": ("imitation", "reflection"),
    "thoughts": ("imitation", "silent"),
    "resolution": ("imitation", "coarse"),
}
"""Question to the contestants that differ in it alone."""
_CALLED = {
    "encoder": {"imitation": "raw patches", "moonvit": "MoonViT", "vq": "codes"},
    "history": {"imitation": "1 screenshot", "history_2": "2", "history_5": "5"},
    "learning": {"imitation": "imitation alone", "reflection": "with reflection and DPO"},
    "thoughts": {"imitation": "with thoughts", "silent": "without"},
    "resolution": {"imitation": "patches of 8 pixels", "coarse": "of 16"},
}
_ROWS = ("random_click", "first_widget")
_UNEVEN = 1.3
_TURNED = {"better": "worse", "worse": "better"}

Told = tuple[str, bool | None]


def value(summary: Summary, name: str, place: str, measure: str) -> float | None:
    """A contestant's mean (or median) of a measure on a workload."""
    return by_workload(summary, name, measure).get(place)


def _values(summary: Summary, place: str, measure: str) -> dict[str, float]:
    found = {c.id: value(summary, c.id, place, measure) for c in summary.contestants}
    return {name: one for name, one in found.items() if one is not None}


def places(summary: Summary) -> list[Workload]:
    """Where agents were trained, several steps last."""
    return [w for w in summary.workloads if w.facts.get("part") == "learn"]


def _title(summary: Summary, name: str) -> str:
    return next((c.title for c in summary.contestants if c.id == name), name)


def _difference(summary: Summary, a: str, b: str, place: str) -> Difference | None:
    """Success of `a` less that of `b`, as the study compared them."""
    for one in summary.differences:
        if (one.measure, one.workload) == ("accuracy", place) and {one.a, one.b} == {a, b}:
            if one.a == a:
                return one
            turned = [None if x is None else -x for x in (one.estimate, one.high, one.low)]
            word: Any = _TURNED.get(one.word, one.word)
            return Difference(
                a=a, b=b, measure=one.measure, workload=place, estimate=turned[0], low=turned[1],
                high=turned[2], p=one.p, word=word, method=one.method, n=one.n,
            )  # fmt: skip
    return None


def _share(x: float) -> str:
    return f"{100 * x:.0f} %"


def _best(summary: Summary, place: str, some: Sequence[str]) -> tuple[list[str], dict[str, float]]:
    """Those that finished, the best first and then who is not told apart from it; all values."""
    found = _values(summary, place, "accuracy")
    order = sorted((name for name in some if name in found), key=lambda name: -found[name])
    return order[:1] + [n for n in order[1:] if _tied(summary, n, order[0], place)], found


def _tied(summary: Summary, a: str, b: str, place: str) -> bool:
    """Whether an interval does not tell two apart; one number of each is no tie."""
    gap = _difference(summary, a, b, place)
    if gap is None:
        return False
    return gap.word == "same" or (gap.word == "inconclusive" and gap.low is not None)


def _answered(summary: Summary, place: Workload, question: str) -> str:
    """The best in one respect, with who is not told apart from it."""
    called = _CALLED[question]
    tied, found = _best(summary, place.id, QUESTIONS[question])
    if len([name for name in QUESTIONS[question] if name in found]) < 2:
        return ""
    text = f"{question}: {called[tied[0]]} ({_share(found[tied[0]])}"
    others = [f"{called[name]} {_share(found[name])}" for name in tied[1:]]
    if others:
        return f"{text}, not told apart from {fmt.join(others)})"
    rest = [f"{called[name]} {_share(found[name])}" for name in QUESTIONS[question]
            if name in found and name not in tied]  # fmt: skip
    return f"{text} against {fmt.join(rest)})"


def answer(summary: Summary) -> str:
    """The best in each respect, at the same demonstrations and CPU time."""
    told = []
    for place in places(summary):
        parts = [text for text in (_answered(summary, place, q) for q in QUESTIONS) if text]
        if parts:
            several = len(places(summary)) > 1
            told.append((f"On {place.id}, by " if several else "By ") + "; ".join(parts))
    if not told:
        return ""
    seconds = float(places(summary)[0].facts.get("seconds") or 0)
    return f"{'. '.join(told)}. All from the same demonstrations, {seconds:g} s of CPU time each."


def _beside(summary: Summary) -> str:
    """What chance, a rule and a look into the page achieve on the same exercises."""
    told = []
    for place in places(summary):
        found = _values(summary, place.id, "accuracy")
        bound = value(summary, "oracle", f"{place.id}-possible", "accuracy")
        rows = [f"{_title(summary, name)} {_share(found[name])}" for name in _ROWS if name in found]
        rows += [] if bound is None else [f"the DOM oracle {_share(bound)}"]
        agents = {n: x for n, x in found.items() if n not in _ROWS}
        if rows and agents:
            best = max(agents, key=lambda name: agents[name])
            told.append(f"{place.id}: {fmt.join(rows)}; the best agent {_share(agents[best])}")
    return f"On the same exercises, {'; '.join(told)}." if told else ""


def _flattered(summary: Summary) -> str:
    """By how much single steps offline say more than episodes."""
    told = []
    for place in places(summary):
        offline, closed = (_values(summary, place.id, name) for name in ("in_box", "accuracy"))
        both = [name for name in offline if name in closed and name not in _ROWS]
        if both:
            gap = float(np.mean([offline[name] - closed[name] for name in both]))
            order = sorted(both, key=lambda name: -closed[name])
            turned = max(both, key=lambda name: offline[name]) != order[0]
            told.append(
                f"{place.id} by {100 * gap:+.0f} points on average"
                + (" (and names another best agent)" if turned else "")
            )
    if not told:
        return ""
    return (
        "Single steps judged offline differ from success in a browser: "
        f"{'; '.join(told)}. Only the closed loop counts."
    )


def _unseen(summary: Summary) -> str:
    told = []
    for place in places(summary):
        found, closed = (_values(summary, place.id, name) for name in ("unseen", "accuracy"))
        share = max(_values(summary, place.id, "instructions_unseen").values(), default=0.0)
        agents = [name for name in found if name not in _ROWS and name in closed]
        if agents:
            best = max(agents, key=lambda name: closed[name])
            told.append(f"{place.id} {_share(found[best])} by {_title(summary, best)} "
                        f"({_share(share)} of the exercises)")  # fmt: skip
    if not told:
        return ""
    return f"With instructions that training never had: {'; '.join(told)}."


def _slow(summary: Summary) -> str:
    """A step's time, and whether it keeps 150 ms."""
    told = []
    for place in places(summary):
        steps, own = (_values(summary, place.id, name) for name in ("step_s", "policy_s"))
        agents = [name for name in steps if name not in _ROWS]
        if agents:
            least, most = (pick(agents, key=lambda n: steps[n]) for pick in (min, max))
            told.append(f"{place.id} {1e3 * steps[least]:.0f} to {1e3 * steps[most]:.0f} ms, "
                        f"{1e3 * own.get(least, 0.0):.0f} to {1e3 * own.get(most, 0.0):.0f} of "
                        "them the decision")  # fmt: skip
    return f"A step, browser included: {'; '.join(told)}." if told else ""


def _uneven(summary: Summary) -> str:
    """A warning where agents did not get the same CPU time: steps are counted out beforehand."""
    told = []
    for place in places(summary):
        spent = {n: x for n, x in _values(summary, place.id, "train_cpu_s").items()
                 if n not in _ROWS and x > 0}  # fmt: skip
        if spent and max(spent.values()) > _UNEVEN * min(spent.values()):
            least, most = (pick(spent, key=lambda n: spent[n]) for pick in (min, max))
            told.append(f"{place.id} from {spent[least]:.0f} s ({_title(summary, least)}) to "
                        f"{spent[most]:.0f} s ({_title(summary, most)})")  # fmt: skip
    if not told:
        return ""
    text = "Training did not take the same CPU time, since the machine's load changed: "
    return f"{text}{'; '.join(told)}."


def findings(summary: Summary) -> list[str]:
    """Sentences that follow the answer."""
    parts = (_beside, _flattered, _unseen, _slow, _uneven)
    return [text for text in (part(summary) for part in parts) if text]


def _pair(summary: Summary, ours: str, theirs: str, last: bool = True) -> Told | None:
    """Whether one is better than another: where several steps are needed, or everywhere."""
    found = places(summary)
    told, words = [], []
    for place in found[-1:] if last else found:
        known = _values(summary, place.id, "accuracy")
        gap = _difference(summary, ours, theirs, place.id)
        if not {ours, theirs} <= known.keys():
            continue
        word = "inconclusive" if gap is None else str(gap.word)
        points = 100 * (known[ours] - known[theirs])
        text = f"{place.id}: {_share(known[theirs])} -> {_share(known[ours])}, {points:+.1f}"
        if gap is not None and gap.low is not None and gap.high is not None:
            text += f" [{100 * gap.low:+.1f}, {100 * gap.high:+.1f}]"
        told.append(f"{text} points ({word})")
        words.append(word)
    if not told:
        return None
    sure = [word for word in words if word != "inconclusive"]
    return "; ".join(told), None if not sure else all(word == "better" for word in sure)


def _offline(summary: Summary) -> Told | None:
    """Whether offline accuracy is above success for all agents."""
    gaps = []
    for place in places(summary):
        offline, closed = (_values(summary, place.id, name) for name in ("in_box", "accuracy"))
        gaps += [offline[n] - closed[n] for n in offline if n in closed and n not in _ROWS]
    if not gaps:
        return None
    told = f"{100 * min(gaps):+.0f} to {100 * max(gaps):+.0f} points, {len(gaps)} agents"
    return told, float(np.mean(gaps)) > 0.02


CLAIMS = (
    seen("Reflection tuning with DPO raises success over supervised training alone (there 18.8 to "
         "22.7 % of OSWorld).",
         "Qin et al. (2025), UI-TARS, arXiv:2501.12326, section 5 (OSWorld, 15 steps)",
         lambda s: _pair(s, "reflection", "imitation")),
    seen("A history of five screenshots serves tasks of several steps better than the present one "
         "alone.",
         "Qin et al. (2025), UI-TARS, arXiv:2501.12326, section 4.4",
         lambda s: _pair(s, "history_5", "imitation")),
    seen("Thoughts before actions raise success.",
         "Qin et al. (2025), UI-TARS, arXiv:2501.12326, section 4.4",
         lambda s: _pair(s, "imitation", "silent")),
    seen("Small targets need a fine resolution.",
         "Li et al. (2025), ScreenSpot-Pro, arXiv:2504.07981, abstract",
         lambda s: _pair(s, "imitation", "coarse", last=False)),
    seen("Codes of a codebook lose what pixels show of a page.",
         "Su (2024), kexue.fm/archives/9984",
         lambda s: _pair(s, "imitation", "vq", last=False)),
    seen("Accuracy of single steps, measured offline, is above success in the closed loop.",
         "Ross et al. (2011), arXiv:1011.0686, section 2 (errors compound over steps)", _offline),
)  # fmt: skip
