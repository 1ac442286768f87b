"""What only the study `decoding` can say: which drafter to use here, why, and when it pays.

A drafter is recommended where the study's own paired comparison with plain decoding calls it
faster; where none is, the answer is plain decoding, with the reason in numbers: what a pass over
several tokens costs on this machine, against how many of them are agreed to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from paragone.lab import format as fmt
from paragone.lab._choice import pairwise
from paragone.lab.claims import Look, seen
from paragone.lab.outcome import Difference, Summary

__all__ = ["CLAIMS", "answer", "curve", "findings", "means"]

_PLAIN = "plain"
_CONTROLLED = 0.97
_STORIES = "stories260K"


def _title(summary: Summary, name: str) -> str:
    return next((c.title for c in summary.contestants if c.id == name), name)


def _drafters(summary: Summary) -> list[str]:
    """Whoever drafts for the model's own engine: ours and guests."""
    return [c.id for c in summary.contestants if c.origin in ("paragone", "guest")
            and c.id != _PLAIN]  # fmt: skip


def means(summary: Summary, name: str, place: str) -> dict[str, float]:
    """Means over the blocks of a contestant's values on a workload."""
    rows: dict[str, list[float]] = {}
    for record in summary.records:
        if record.get("status") == "ok" and (record["contestant"], record["workload"]) == (
            name, place
        ):  # fmt: skip
            for key, value in record.get("values", {}).items():
                rows.setdefault(key, []).append(float(value))
    return {key: float(np.mean(values)) for key, values in rows.items()}


def curve(summary: Summary, name: str, place: str, kind: str) -> list[tuple[float, float]]:
    """A curve of a contestant, averaged over its runs where they have the same points."""
    found: dict[float, list[float]] = {}
    for who, where, what, xs, ys in summary.curves:
        if (who, where, what) == (name, place, kind):
            for x, y in zip(xs, ys, strict=True):
                if x is not None and y is not None:
                    found.setdefault(float(x), []).append(float(y))
    return [(x, float(np.mean(ys))) for x, ys in sorted(found.items())]


def _against_plain(summary: Summary, name: str, place: str) -> Difference | None:
    """The difference in speed, as a multiple of plain decoding's, of which plain has 1."""
    try:
        found = pairwise(summary, name, _PLAIN, "gain", place)
    except ValueError:
        return None
    return found if found.estimate is not None else None


def _times(found: Difference) -> float:
    return 1 + float(found.estimate or 0.0)


def _speed(found: Difference) -> str:
    """A difference in speed as a multiple of plain decoding's."""
    text = fmt.ratio(_times(found))
    if found.low is not None and found.high is not None:
        text += f" [{fmt.ratio(1 + found.low)[:-1]}, {fmt.ratio(1 + found.high)[:-1]}]"
    return text


def _places(summary: Summary) -> list[Any]:
    return [w for w in summary.workloads if means(summary, _PLAIN, w.id)]


def _compared(summary: Summary, place: str) -> list[tuple[float, str, Difference]]:
    """Drafters by what they lose against plain decoding, the quickest first."""
    found = []
    for name in _drafters(summary):
        one = _against_plain(summary, name, place)
        if one is not None:
            found.append((-_times(one), name, one))
    return sorted(found, key=lambda item: item[:2])


def _lossless(summary: Summary, name: str, place: str) -> bool:
    return means(summary, name, place).get("same", 0.0) >= 1.0


def _stood(summary: Summary, place: Any) -> str:
    """What to use in one way of decoding."""
    found = _compared(summary, place.id)
    if not found:
        return ""
    kept = [one for one in found if _lossless(summary, one[1], place.id)]
    faster = [one for one in kept if one[2].word == "better"]
    way = place.title.partition(": ")[2] or place.title
    if faster:
        _, name, one = faster[0]
        values = means(summary, name, place.id)
        text = (
            f"{way}: use {_title(summary, name)}, {_speed(one)} the speed of plain decoding with "
            f"the same tokens ({values['steps']:.2f} tokens a step)"
        )
        return text + _repaid(summary, name, place.id)
    _, name, one = (kept or found)[0]
    head = "no drafter is shown to be faster" if one.word == "inconclusive" else \
        "no drafter is faster"  # fmt: skip
    text = f"{way}: use plain decoding, {head} (the best, {_title(summary, name)}, {_speed(one)})"
    return text + _why(summary, place.id)


def _repaid(summary: Summary, name: str, place: str) -> str:
    """After how many tokens training has been paid for."""
    own, plain = means(summary, name, place), means(summary, _PLAIN, place)
    saved = plain["token_cpu_s"] - own["token_cpu_s"]
    if not own.get("train_cpu_s"):
        return "; nothing is trained"
    if saved <= 0:
        return ""
    tokens = fmt.count(float(f"{own['train_cpu_s'] / saved:.2g}"))
    return f"; its training of {fmt.seconds(own['train_cpu_s'])} is repaid after {tokens} tokens"


def _why(summary: Summary, place: str) -> str:
    """The guess that gave most, and what its pass costs here."""
    costs = curve(summary, _PLAIN, place, "cost of a pass")
    given = [(means(summary, name, place).get("full_steps", 0.0), name)
             for name in _drafters(summary)]  # fmt: skip
    if len(costs) < 2 or not given or max(given)[0] <= 0:
        return ""
    steps, name = max(given)
    values = means(summary, name, place)
    nodes = 1 + values["full_nodes"]
    cost = float(np.interp(nodes, [x for x, _ in costs], [y for _, y in costs]))
    return (f": {_title(summary, name)} makes {steps:.2f} tokens a step, and a pass over "
            f"{nodes:.0f} tokens takes {cost:.1f} times one; with the drafting itself that is "
            f"{values['full_gain']:.2f}x")  # fmt: skip


def answer(summary: Summary) -> str:
    """Which drafter, if any: the sentence that answers the question."""
    told = [text for place in _places(summary) if (text := _stood(summary, place))]
    if not told:
        return ""
    model = str(_places(summary)[0].facts.get("model", "the model"))
    return f"On this machine with {model}, {'; '.join(told)}."


def _passes(summary: Summary, place: Any) -> str:
    costs = curve(summary, _PLAIN, place.id, "cost of a pass")
    told = ", ".join(f"{x:.0f} tokens {y:.2f}" for x, y in costs[1:])
    return f"What a pass costs, as a multiple of one token ({place.title}): {told}." if told else ""


def _guesses(summary: Summary, place: Any) -> str:
    told = []
    for name in _drafters(summary):
        values = means(summary, name, place.id)
        if "full_steps" not in values:
            continue
        shares = curve(summary, name, place.id, "accepted by depth")
        depth = " / ".join(f"{y:.2f}" for _, y in shares[:4])
        told.append((values["full_steps"], (
            f"{_title(summary, name)} {values['full_steps']:.2f} (agreed to by depth {depth}; "
            f"{values['full_gain']:.2f}x plain)"
        )))  # fmt: skip
    words = "; ".join(text for _, text in sorted(told, reverse=True))
    return f"Tokens a step with a fixed plan ({place.title}): {words}." if words else ""


def _equal(summary: Summary) -> str:
    """Whether every run gave the tokens of plain decoding."""
    odd: dict[str, float] = {}
    for record in summary.records:
        values: Mapping[str, float] = record.get("values", {})
        share = min(values.get("same", 1.0), values.get("full_same", 1.0))
        if share < 1:
            title = _title(summary, record["contestant"])
            odd[title] = min(share, odd.get(title, 1.0))
    if not summary.records:
        return ""
    if not odd:
        return "Every run of every contestant gave the very tokens of plain decoding."
    told = ", ".join(f"{title} ({fmt.percent(share)} of the prompts)" for title, share in
                     odd.items())  # fmt: skip
    return (f"Not the tokens of plain decoding: {told}; other libraries round differently, and "
            "where two tokens are about as likely the text goes another way.")  # fmt: skip


def _rivals(summary: Summary, place: Any) -> str:
    told = []
    for one in summary.contestants:
        values = means(summary, one.id, place.id)
        if one.origin == "rival" and "per_second" in values:
            told.append((values["per_second"], f"{one.title} {values['per_second']:,.0f}"))
    plain = means(summary, _PLAIN, place.id)
    words = ", ".join(text for _, text in sorted(told, reverse=True))
    return (f"Tokens a second of other libraries ({place.title}): {words}; plain decoding here "
            f"{plain['per_second']:,.0f}.") if words else ""  # fmt: skip


def findings(summary: Summary) -> list[str]:
    """Sentences that follow the verdict."""
    told = []
    for place in _places(summary):
        told += [_passes(summary, place), _guesses(summary, place), _rivals(summary, place)]
    return [text for text in [*told, _equal(summary), _trained(summary)] if text]


def _trained(summary: Summary) -> str:
    budgets = {w.facts.get("budget") for w in _places(summary)} - {None}
    if not budgets:
        return ""
    return (
        f"Heads and the draft model were trained for at most about {max(budgets):g} s of the CPU "
        "each, by defaults and with nothing tuned: longer training guesses better."
    )


def _never_slower(summary: Summary) -> tuple[str, bool | None] | None:
    found = [(one, name, place.id) for place in _places(summary) for _, name, one
             in _compared(summary, place.id)]  # fmt: skip
    if not found:
        return None
    one, name, place = min(found, key=lambda item: _times(item[0]))
    text = f"the slowest, {_title(summary, name)} ({place}): {_speed(one)}"
    least = _times(one)
    best = least if one.high is None else 1 + one.high
    return text, True if least >= _CONTROLLED else False if best < _CONTROLLED else None


def _flat(summary: Summary) -> tuple[str, bool] | None:
    told, shares = [], []
    for place in _places(summary):
        found = dict(curve(summary, _PLAIN, place.id, "cost of a pass"))
        if 8 in found and place.facts.get("way") != "together":
            told.append(f"T(8) / T(1) = {found[8]:.2f} ({place.id})")
            shares.append(found[8])
    return ("; ".join(told), max(shares) <= 1.25) if shares else None


def _faster(name: str, least: float) -> Look:
    """Whether a drafter decodes so many times as fast as plain decoding, plan fixed or not."""

    def look(summary: Summary) -> tuple[str, bool | None] | None:
        for place in _places(summary):
            one = _against_plain(summary, name, place.id)
            if one is not None and place.facts.get("way") == "greedy":
                values = means(summary, name, place.id)
                best = _times(one) if one.high is None else 1 + one.high
                text = f"{_speed(one)}; with the fixed plan {values.get('full_gain', 0):.2f}x"
                return text, _times(one) >= least or (None if best >= least else False)
        return None

    return look


def _steps(name: str, least: float, only: str = "") -> Look:
    """Whether a drafter makes so many tokens a step, its plan fixed."""

    def look(summary: Summary) -> tuple[str, bool] | None:
        for place in _places(summary):
            values = means(summary, name, place.id)
            if place.facts.get("way") != "greedy" or "full_steps" not in values:
                continue
            if only and place.facts.get("model") != only:
                return None
            text = f"{values['full_steps']:.2f} tokens a step on {place.facts.get('model')}"
            return text, values["full_steps"] >= least
        return None

    return look


def _second_token(summary: Summary) -> tuple[str, bool] | None:
    for place in _places(summary):
        share = means(summary, "mtp", place.id).get("accepted")
        if share is not None and place.facts.get("way") == "greedy":
            return f"{share:.0%} of first guesses", share >= 0.85
    return None


_GOAL = "the goal of this implementation"

CLAIMS = (
    seen("Heads on a frozen model decode 2.2 times as fast or faster, without loss.",
         "Cai et al. (2024), arXiv:2401.10774, abstract", _faster("medusa", 2.2)),
    seen("Heads for the next four tokens decode up to 3 times as fast.",
         "Gloeckle et al. (2024), arXiv:2404.19737, abstract", _faster("mtp_parallel", 2.5)),
    seen("A sequential module's second token is right in 85 % of the cases or more.",
         "DeepSeek-AI (2024), arXiv:2412.19437, section 5.4.3", _second_token),
    seen("A draft model decodes 2 times as fast or faster, without loss.",
         "Leviathan et al. (2023), arXiv:2211.17192, abstract", _faster("draft_model", 2.0)),
    seen("A pass over 8 tokens takes at most 1.25 times one.", _GOAL, _flat),
    seen("Where nothing pays the controller stays at 0.97 of plain decoding or above.", _GOAL,
         _never_slower),
    seen("On the real 260K model Medusa makes 2.13 tokens a step at 16 nodes.", _GOAL,
         _steps("medusa", 2.13, _STORIES)),
    seen("On the real 260K model one sequential module makes 2.9 tokens a step.", _GOAL,
         _steps("mtp", 2.9, _STORIES)),
)  # fmt: skip
