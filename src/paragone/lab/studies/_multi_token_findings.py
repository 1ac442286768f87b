"""What only the study `multi_token_training` can say: whether it helps, what it costs, claims.

Every sentence on the loss rests on the study's own paired comparison over seeds with plain
training of next tokens, in one of two budgets: equal tokens, or equal CPU time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from paragone.lab import format as fmt
from paragone.lab.claims import seen
from paragone.lab.outcome import Difference, Summary

__all__ = ["CLAIMS", "PLAIN", "answer", "findings", "gaps", "values"]

PLAIN = "next"
_BUDGETS = {"tokens": "equal tokens", "time": "equal CPU time"}
_ALIKE = 0.05


def values(summary: Summary, name: str, place: str, key: str) -> list[float]:
    """A value of each finished run of a contestant on a workload."""
    return [
        float(r["values"][key]) for r in summary.records
        if r.get("status") == "ok" and r["contestant"] == name and r["workload"] == place
        and key in r["values"]
    ]  # fmt: skip


def _mean(summary: Summary, name: str, place: str, key: str) -> float | None:
    found = values(summary, name, place, key)
    return float(np.mean(found)) if found else None


def _against(summary: Summary, name: str, place: str) -> Difference | None:
    """How the loss of a contestant stands to that of plain training."""
    turned: Mapping[str, Any] = {"better": "worse", "worse": "better"}
    for one in summary.differences:
        if one.workload != place or one.measure != "loss" or one.estimate is None:
            continue
        if (one.a, one.b) == (name, PLAIN):
            return one
        if (one.a, one.b) == (PLAIN, name):
            low, high = (None if end is None else -end for end in (one.high, one.low))
            return Difference(
                a=name, b=PLAIN, measure="loss", workload=place, estimate=-one.estimate, low=low,
                high=high, word=turned.get(one.word, one.word), method=one.method, n=one.n,
            )  # fmt: skip
    return None


def gaps(summary: Summary, place: str) -> dict[str, Difference]:
    """Contestant to its difference from plain training on a workload, the best first."""
    found = {c.id: _against(summary, c.id, place) for c in summary.contestants if c.id != PLAIN}
    known = {name: one for name, one in found.items() if one is not None}
    return dict(sorted(known.items(), key=lambda item: item[1].estimate or 0.0))


def _title(summary: Summary, name: str) -> str:
    return next((c.title for c in summary.contestants if c.id == name), name)


def _places(summary: Summary, budget: str) -> list[Any]:
    return [w for w in summary.workloads if w.facts.get("budget") == budget]


def _listed(summary: Summary, names: list[str]) -> str:
    titles = [_title(summary, name) for name in names]
    return titles[0] if len(titles) == 1 else f"{', '.join(titles[:-1])} and {titles[-1]}"


def _judged(summary: Summary, place: Any) -> str:
    """Who helps and who harms on a workload, in half a sentence; "" without pairs."""
    found = gaps(summary, place.id)
    if not found:
        return ""
    plain = _mean(summary, PLAIN, place.id, "loss")
    helps = [name for name, one in found.items() if one.word == "better"]
    harms = [name for name, one in found.items() if one.word == "worse"]
    best = next(iter(found))
    share = f" ({(found[best].estimate or 0.0) / plain:+.1%})" if plain else ""
    told = (f"{_title(summary, best)} {fmt.difference(found[best])}{share} against {plain:.3f} "
            "nats of the next symbol alone") if plain else ""  # fmt: skip
    if helps:
        head = f"yes, {_listed(summary, helps)} helped"
    elif len(harms) == len(found):
        head = "no, all of it harmed"
    elif harms:
        head = f"none helped, {_listed(summary, harms)} harmed"
    elif all(one.word == "same" for one in found.values()):
        head = "no, nothing changed"
    else:
        head = "undecided"
    return f"{head} (best: {told})"


def answer(summary: Summary) -> str:
    """Whether it helps: the sentence that answers the question."""
    parts = []
    for budget, words in _BUDGETS.items():
        told = [(w, text) for w in _places(summary, budget) if (text := _judged(summary, w))]
        if told:
            each = "; ".join(f"{w.facts.get('size', '')} model: {text}" for w, text in told)
            parts.append(f"At {words}, {each}.")
    if not parts:
        return ""
    return "Does training on further tokens help the main head? " + " ".join(parts)


def _costs(summary: Summary) -> str:
    for place in _places(summary, "tokens"):
        told = [
            f"{_title(summary, c.id)} {ratio:.2f}" for c in summary.contestants
            if c.id != PLAIN and (ratio := _mean(summary, c.id, place.id, "a_step"))
        ]  # fmt: skip
        if told:
            layers = place.facts.get("layers", "?")
            return (f"CPU time of a step by that of plain training, {place.facts.get('size')} "
                    f"model of {layers} layer{'s' * (layers != 1)}: {', '.join(told)}. A module "
                    "weighs as much as a layer, so that deeper models pay less.")  # fmt: skip
    return ""


def _drafts(summary: Summary) -> str:
    for place in reversed(_places(summary, "tokens")):
        told = [
            f"{_title(summary, c.id)} {rate:.2f}" for c in summary.contestants
            if c.id != PLAIN and (rate := _mean(summary, c.id, place.id, "tokens_ahead"))
        ]  # fmt: skip
        if told:
            return ("What the further heads are good for in any case, tokens a step by the share "
                    f"of guesses accepted at each depth ({place.facts.get('size')} model): "
                    f"{', '.join(told)}.")  # fmt: skip
    return ""


def _cautions(summary: Summary) -> str:
    seeds = [one.n for w in summary.workloads for one in gaps(summary, w.id).values()]
    if not seeds:
        return ""
    epochs = max((max(values(summary, PLAIN, w.id, "epochs"), default=0.0)
                  for w in summary.workloads), default=0.0)  # fmt: skip
    count = f"{min(seeds)} to {max(seeds)}" if min(seeds) < max(seeds) else str(max(seeds))
    again = f" The text was read up to {epochs:.1f} times." * (epochs > 1)
    return (
        f"{count} seeds; the rate follows the size alone and was tuned for "
        "plain training; both papers speak of models a thousand times as large and of tasks "
        f"rather than of the loss.{again}"
    )


def findings(summary: Summary) -> list[str]:
    """Sentences that follow the verdict."""
    return [text for text in (_costs(summary), _drafts(summary), _cautions(summary)) if text]


def _improves(names: tuple[str, ...]) -> Callable[[Summary], tuple[str, bool | None] | None]:
    """On every size, at equal tokens, one of these has the lower loss."""

    def look(summary: Summary) -> tuple[str, bool | None] | None:
        told, words = [], []
        for place in _places(summary, "tokens"):
            found = {n: one for n, one in gaps(summary, place.id).items() if n in names}
            for name, one in list(found.items())[:1]:
                told.append(f"{place.facts.get('size')}: {_title(summary, name)} "
                            f"{fmt.difference(one)} nats")  # fmt: skip
                words.append(one.word)
        if not words:
            return None
        if "better" in words:
            return "; ".join(told), "worse" not in words
        return "; ".join(told), None if "inconclusive" in words else False

    return look


def _grows(summary: Summary) -> tuple[str, bool | None] | None:
    """Whether the gap moves towards gain from the small to the large model."""
    places = _places(summary, "tokens")
    if len(places) < 2:
        return None
    told, moves = [], []
    both = [gaps(summary, w.id) for w in (places[0], places[-1])]
    for name in both[0]:
        if not name.startswith("parallel") or name not in both[1]:
            continue
        small, large = both[0][name], both[1][name]
        if None in (small.low, small.high, large.low, large.high):
            continue
        told.append(f"{_title(summary, name)} {small.estimate:+.3f} to {large.estimate:+.3f}")
        assert small.low is not None
        assert small.high is not None
        assert large.low is not None
        assert large.high is not None
        apart = large.high < small.low or small.high < large.low
        moves.append(None if not apart else (large.estimate or 0) < (small.estimate or 0))
    if not told:
        return None
    decided = [move for move in moves if move is not None]
    return "; ".join(told) + " nats", all(decided) if decided else None


def _harms_small(summary: Summary) -> tuple[str, bool | None] | None:
    places = _places(summary, "tokens")
    found = {n: one for n, one in gaps(summary, places[0].id).items() if n.startswith("parallel")
             } if places else {}  # fmt: skip
    if not found:
        return None
    told = "; ".join(f"{_title(summary, n)} {fmt.difference(one)}" for n, one in found.items())
    words = {one.word for one in found.values()}
    return told + " nats", True if words == {"worse"} else (
        False if words & {"better", "same"} else None)  # fmt: skip


def _free(summary: Summary) -> tuple[str, bool] | None:
    ratios = {
        (place.facts.get("size"), c.id): ratio
        for place in _places(summary, "tokens") for c in summary.contestants
        if c.id.startswith("parallel") and (ratio := _mean(summary, c.id, place.id, "a_step"))
    }  # fmt: skip
    if not ratios:
        return None
    told = ", ".join(f"{_title(summary, name)} {ratio:.2f} ({size})"
                     for (size, name), ratio in ratios.items())  # fmt: skip
    return f"CPU time of a step by a plain one: {told}", max(ratios.values()) < 1 + _ALIKE


def _accepted(summary: Summary) -> tuple[str, bool] | None:
    found = [(p.facts.get("size"), rate) for p in _places(summary, "tokens")
             if (rate := _mean(summary, "sequential1", p.id, "accepted"))]  # fmt: skip
    if not found:
        return None
    told = ", ".join(f"{rate:.2f} ({size} model)" for size, rate in found)
    return f"accepted: {told}", max(rate for _, rate in found) >= 0.85


def _three(summary: Summary) -> tuple[str, bool] | None:
    found = [(p.facts.get("size"), rate - 1) for p in _places(summary, "tokens")
             if (rate := _mean(summary, "parallel4", p.id, "tokens_ahead"))]  # fmt: skip
    if not found:
        return None
    told = ", ".join(f"{more:.2f} of 3 ({size} model)" for size, more in found)
    return told, max(more for _, more in found) >= 2.5


CLAIMS = (
    seen("A further module in training makes the main model better at equal tokens (there: on "
         "tasks; here: its loss).",
         "DeepSeek-AI (2024), arXiv:2412.19437, table 4", _improves(("sequential1",))),
    seen("The second token that a module of depth one guesses is accepted in 85 % of cases or "
         "more.",
         "DeepSeek-AI (2024), arXiv:2412.19437, section 5.4.3", _accepted),
    seen("Further heads make a model better (there: large ones, on tasks of code; here: the loss "
         "of next symbols).",
         "Gloeckle et al. (2024), arXiv:2404.19737, section 3.1",
         _improves(("parallel2", "parallel4"))),
    seen("Small models are harmed by further heads.",
         "Gloeckle et al. (2024), arXiv:2404.19737, figure 3", _harms_small),
    seen("The gain of further heads grows with the model's size.",
         "Gloeckle et al. (2024), arXiv:2404.19737, section 3.1", _grows),
    seen("Further heads cost no training time (there they replace layers; here they come on top).",
         "Gloeckle et al. (2024), arXiv:2404.19737, abstract", _free),
    seen("Of three tokens that four heads guess, 2.5 are accepted on code.",
         "Gloeckle et al. (2024), arXiv:2404.19737, section 3.2", _three),
)  # fmt: skip
