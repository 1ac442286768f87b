"""What only the study `alignment` can say: one stage or three, what it cost, and claims of papers.

The question is asked of two contestants, DPO and a reward model with PPO, which are given the same
pairs. Their difference in reward within the leash is taken from the study's own paired comparison,
so that it is decided where that one is, and left open where it is not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from paragone.lab import format as fmt
from paragone.lab.claims import seen
from paragone.lab.outcome import Difference, Summary

__all__ = ["CLAIMS", "answer", "findings", "means"]

_ONE, _THREE = "dpo", "rm_ppo"
_LOSSES = ("dpo", "ipo", "kto", "cdpo", "hinge")
_LITTLE = 0.15
"""A lead that is a smaller share of the gain over the base is called small: nothing is tuned."""
_BEFOREHAND = (
    "Nothing is tuned in this study. Beforehand, on another seed of the same prompts, the reward "
    "model was tried in five settings, DPO, SFT, PPO and GRPO at two rates, the other losses not "
    "at all: small differences may come of that."
)


def _title(summary: Summary, name: str) -> str:
    return next((c.title for c in summary.contestants if c.id == name), name)


def _records(summary: Summary, name: str, place: str) -> list[Mapping[str, Any]]:
    return [r for r in summary.records if r.get("status") == "ok" and r["contestant"] == name
            and r["workload"] == place]  # fmt: skip


def means(summary: Summary, name: str, place: str) -> dict[str, float]:
    """Means over the seeds of a contestant's values on a workload."""
    rows: dict[str, list[float]] = {}
    for record in _records(summary, name, place):
        for key, value in record.get("values", {}).items():
            rows.setdefault(key, []).append(float(value))
    return {key: float(np.mean(values)) for key, values in rows.items()}


def _difference(summary: Summary, a: str, b: str, place: str, measure: str) -> Difference | None:
    """How a stands to b, with the word turned where the pair was stored the other way round."""
    turned = {"better": "worse", "worse": "better"}
    for one in summary.differences:
        if one.workload != place or one.measure != measure or one.estimate is None:
            continue
        if (one.a, one.b) == (a, b):
            return one
        if (one.a, one.b) == (b, a):
            low, high = (None if end is None else -end for end in (one.high, one.low))
            word: Any = turned.get(one.word, one.word)
            return Difference(
                a=a, b=b, measure=measure, workload=place, estimate=-one.estimate, low=low,
                high=high, word=word, method=one.method, n=one.n,
            )  # fmt: skip
    return None


def _rewarded(summary: Summary) -> list[Any]:
    return [w for w in summary.workloads if w.facts.get("kind") != "pairs"]


def _stood(summary: Summary, place: Any) -> str:
    """DPO against the three stages on one reward, in half a sentence; "" if either is missing."""
    found = _difference(summary, _ONE, _THREE, place.id, "reward_at")
    one, three = (means(summary, name, place.id) for name in (_ONE, _THREE))
    if found is None or not one or not three:
        return ""
    words = {"better": "DPO is ahead", "worse": "reward model + PPO is ahead",
             "same": "they are alike"}  # fmt: skip
    head = words.get(found.word, "undecided")
    times = three["train_cpu_s"] / one["train_cpu_s"]
    base = means(summary, "base", place.id).get("reward_at")
    start = "" if base is None else f", base {base:.2f}"
    gain = 0.0 if base is None else max(one["reward_at"], three["reward_at"]) - base
    if found.word in ("better", "worse") and abs(found.estimate or 0.0) < _LITTLE * gain:
        share = abs(found.estimate or 0.0) / gain
        head += f" by {share:.0%} of what training gained, which other settings may turn"
    return (
        f"{head} (reward within {place.facts['limit']:g} nats of the base: DPO "
        f"{one['reward_at']:.2f}, reward model + PPO {three['reward_at']:.2f}{start}; difference "
        f"{fmt.difference(found)}; the three stages take {times:.1f} times the CPU)"
    )


def answer(summary: Summary) -> str:
    """DPO or three stages: the sentence that answers the question."""
    told = [(w.title, text) for w in _rewarded(summary) if (text := _stood(summary, w))]
    if told:
        return "DPO or a reward model and PPO, from the same pairs: " + "; ".join(
            f"on {title} {text}" for title, text in told
        ) + "."  # fmt: skip
    return _pairs_answer(summary)


def _pairs_answer(summary: Summary) -> str:
    for place in summary.workloads:
        if place.facts.get("kind") != "pairs":
            continue
        found = {c.id: means(summary, c.id, place.id).get("accuracy") for c in summary.contestants}
        known = {name: value for name, value in found.items() if value is not None}
        if not known:
            continue
        words = [f"{_title(summary, name)} {value:.0%}" for name, value
                 in sorted(known.items(), key=lambda item: -item[1])]  # fmt: skip
        record = next(r for name in known for r in _records(summary, name, place.id))
        held = int(record["values"].get("held_pairs", 0))
        error = 1.96 * 0.5 / math.sqrt(max(held, 1))
        spread = max(known.values()) - min(known.values())
        tail = (
            f"with {held} of them, differences below about {math.sqrt(2) * error:.0%} say nothing"
        )
        chance = " None is clearly above chance." * (max(known.values()) < 0.5 + error)
        alike = " They cannot be told apart by it." * (spread < math.sqrt(2) * error)
        return f"Held-out pairs ranked right: {', '.join(words)}; {tail}.{chance}{alike}"
    return ""


def _variants(summary: Summary, place: Any) -> str:
    """Whether the choice of the loss matters."""
    found = {name: means(summary, name, place.id) for name in _LOSSES}
    found = {name: values for name, values in found.items() if "reward_at" in values}
    if len(found) < 2:
        return ""
    order = sorted(found, key=lambda name: -found[name]["reward_at"])
    told = ", ".join(f"{_title(summary, n)} {found[n]['reward_at']:.2f}" for n in order)
    decided = [
        (a, b) for i, a in enumerate(order) for b in order[i + 1 :]
        if (one := _difference(summary, a, b, place.id, "reward_at")) and one.word == "better"
    ]  # fmt: skip
    tail = "no two are told apart" if not decided else "told apart: " + ", ".join(
        f"{_title(summary, a)} above {_title(summary, b)}" for a, b in decided
    )  # fmt: skip
    return f"Losses on the same pairs ({place.title}), reward within the leash: {told}; {tail}."


def _ends(summary: Summary, place: Any) -> str:
    """Where each ended: rewards that were bought with distance."""
    words = []
    for contestant in summary.contestants:
        values = means(summary, contestant.id, place.id)
        if contestant.origin != "baseline" and {"reward", "kl", "labels"} <= values.keys():
            words.append(
                (
                    values["reward"],
                    f"{contestant.title} {values['reward']:.2f} at "
                    f"{values['kl']:.0f} nats, {values['labels']:,.0f} rewards asked",
                )
            )
    words.sort(reverse=True)
    told = "; ".join(text for _, text in words)
    return f"At the end of training ({place.title}): {told}." if words else ""


def _short(summary: Summary, place: Any) -> list[str]:
    """Who never came near the leash: its figure is what it reached, not what it could."""
    limit = float(place.facts.get("limit", 0))
    names = [c.title for c in summary.contestants if c.origin != "baseline"
             and 0 <= means(summary, c.id, place.id).get("kl", math.inf) < limit / 2]  # fmt: skip
    if not names:
        return []
    return [f"{fmt.join(names)} ended at less than half of the leash of {limit:g} nats: more "
            "steps or a larger rate might have gained more."]  # fmt: skip


def findings(summary: Summary) -> list[str]:
    """Sentences that follow the verdict."""
    told = []
    for place in _rewarded(summary):
        told += [_variants(summary, place), _ends(summary, place), *_short(summary, place)]
    if _rewarded(summary) and summary.records:
        told.append(_BEFOREHAND)
    return [text for text in told if text]


def _at_least(summary: Summary) -> tuple[str, bool | None] | None:
    told, words = [], []
    for place in _rewarded(summary):
        found = _difference(summary, _ONE, _THREE, place.id, "reward_at")
        if found is not None:
            told.append(f"{place.id}: {fmt.difference(found)} in reward within the leash")
            words.append(found.word)
    if not words:
        return None
    holds = False if "worse" in words else True if set(words) <= {"better", "same"} else None
    return "; ".join(told), holds


def _drops(summary: Summary) -> tuple[str, bool | None] | None:
    gains = [means(summary, _ONE, w.id)["chosen_gain"] for w in summary.workloads
             if "chosen_gain" in means(summary, _ONE, w.id)]  # fmt: skip
    if not gains:
        return None
    told = ", ".join(f"{gain:+.1f}" for gain in gains)
    return (f"held-out chosen answers changed by {told} nats each",
            True if max(gains) < 0 else False if min(gains) > 0 else None)  # fmt: skip


def _beats_sft(summary: Summary) -> tuple[str, bool | None] | None:
    told, words = [], []
    for place in summary.workloads:
        found = _difference(summary, _ONE, "sft", place.id, place.primary or "reward_at")
        if found is not None:
            told.append(f"{place.id}: {fmt.difference(found)}")
            words.append(found.word)
    if not words:
        return None
    holds = True if set(words) == {"better"} else False if set(words) & {"worse", "same"} else None
    return "; ".join(told), holds


def _simpler(summary: Summary) -> tuple[str, bool] | None:
    shares = []
    for place in _rewarded(summary):
        one, three = (means(summary, name, place.id) for name in (_ONE, _THREE))
        if one and three:
            shares.append(three["train_cpu_s"] / one["train_cpu_s"])
    if not shares:
        return None
    return f"{', '.join(f'{share:.1f}' for share in shares)} times the CPU time", min(shares) > 1


CLAIMS = (
    seen("From the same preferences DPO is at least as good as a reward model and PPO at equal "
         "divergence.", "Rafailov et al. (2023), arXiv:2305.18290, figure 2", _at_least),
    seen("Pairs teach more than their better halves alone: DPO is ahead of SFT on them.",
         "Rafailov et al. (2023), arXiv:2305.18290, section 6", _beats_sft),
    seen("The three stages cost more than the one.",
         "Rafailov et al. (2023), arXiv:2305.18290, section 1", _simpler),
    seen("DPO makes chosen answers less likely, too.",
         "Pal et al. (2024), arXiv:2402.13228, section 3", _drops),
)  # fmt: skip
