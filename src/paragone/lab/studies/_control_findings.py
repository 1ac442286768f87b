"""What only the study `control` can say: the price of not knowing the model, and claims."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from paragone.lab import format as fmt
from paragone.lab.claims import seen
from paragone.lab.outcome import Summary
from paragone.lab.spec import Workload
from paragone.lab.statistics.aggregate import interquartile_mean, stratified_interval

__all__ = ["CLAIMS", "PLANNERS", "cells", "findings", "regrets"]

PLANNERS = ("value_iteration", "policy_iteration", "truncated_policy_iteration", "textbook_vi")
OURS_LEARN = (
    "mc_epsilon", "mc_exploring", "mc_basic", "sarsa", "expected_sarsa", "q_learning", "q_uniform",
    "double_q",
)  # fmt: skip
CLIFF = "cliffwalking-v1"
GOOD, NEAR = 0.01, 0.05
_SEEDS = "regret by seed"


def _title(summary: Summary, name: str) -> str:
    return next((c.title for c in summary.contestants if c.id == name), name)


def cells(summary: Summary, workload: str, measure: str) -> dict[str, float]:
    """Contestant to its number on a workload."""
    found = {}
    for row in summary.tables.get(workload, ()):
        cell = row.cells.get(measure)
        if cell is not None and cell.value is not None and not row.contestant.endswith("~2"):
            found[row.contestant] = cell.value
    return found


def regrets(summary: Summary) -> dict[str, dict[str, list[float]]]:
    """Contestant to workload to the regrets of all seeds of all blocks."""
    found: dict[str, dict[str, list[float]]] = {}
    for record in summary.records:
        curve: Mapping[str, Any] = record.get("curves", {}).get(_SEEDS, {})
        if record.get("status") == "ok" and curve.get("y"):
            place = found.setdefault(record["contestant"], {})
            place.setdefault(record["workload"], []).extend(curve["y"])
    return found


def _price(summary: Summary, workload: Workload) -> str:
    """What the cheapest learner pays for the same policy on one input."""
    reached, times = cells(summary, workload.id, "reached"), cells(summary, workload.id, "solve_s")
    plans = {name: times[name] for name in PLANNERS if name in times}
    if not plans or len(times) == len(plans):
        return ""
    fastest = min(plans, key=lambda n: plans[n])
    told = f"{workload.title}: a plan takes no sample and {fmt.seconds(plans[fastest])}"
    learners = {name: n for name, n in reached.items() if name in OURS_LEARN}
    if not learners:
        tried = [n for n in cells(summary, workload.id, "regret") if n in OURS_LEARN]
        if not tried:
            return ""
        return f"{told}; no learner came within 1 % in {workload.facts['budget']:,} samples."
    best = min(learners, key=lambda n: learners[n])
    return f"{told}; {_title(summary, best)} comes within 1 % after {learners[best]:,.0f} samples."


def _aggregate(summary: Summary) -> str:
    """Interquartile means over inputs and seeds, with stratified bootstrap intervals."""
    found = regrets(summary)
    learners = {name: found[name] for name in OURS_LEARN if name in found}
    if not learners:
        return ""
    places = set.intersection(*(set(places) for places in learners.values()))
    words = []
    for name, scores in learners.items():
        common = [scores[place] for place in sorted(places)]
        if not common:
            continue
        count = min(len(values) for values in common)
        table = np.array([values[:count] for values in common]).T
        middle, low, high = stratified_interval(interquartile_mean, table, draws=1000)
        words.append((middle, f"{_title(summary, name)} {middle:.3f} [{low:.3f}, {high:.3f}]"))
    if not words:
        return ""
    inputs = f"{len(places)} input{'s' * (len(places) != 1)}"
    return (
        f"Regret of learners over {inputs}, interquartile mean with its stratified bootstrap "
        f"interval: {fmt.join([text for _, text in sorted(words)])}."
    )


def _speed(summary: Summary) -> str:
    """How much faster a sample is in a compiled loop."""
    pairs = (("q_learning", "gymnasium_q"), ("mc_epsilon", "gymnasium_mc_epsilon"),
             ("mc_epsilon", "envpool_mc_epsilon"))  # fmt: skip
    words = []
    for ours, theirs in pairs:
        ratios = []
        for workload in summary.workloads:
            times = cells(summary, workload.id, "step_s")
            if ours in times and theirs in times:
                ratios.append(times[theirs] / times[ours])
        if ratios:
            ratio = float(np.exp(np.mean(np.log(ratios))))
            words.append(f"{ratio:,.0f}x that of {_title(summary, theirs)}")
    return f"Speed of learning, samples a second: {fmt.join(words)}." if words else ""


def _wrong(summary: Summary) -> str:
    """Planners whose values are far from the truth although they stopped by themselves."""
    words = []
    for workload in summary.workloads:
        for name, error in cells(summary, workload.id, "error").items():
            if error > GOOD:
                words.append(f"{_title(summary, name)} on {workload.id} by {100 * error:.0f} %")
    return f"Values that are wrong by more than 1 %: {fmt.join(words)}." if words else ""


def findings(summary: Summary) -> list[str]:
    """Sentences that follow the verdict."""
    prices = [_price(summary, workload) for workload in summary.workloads]
    texts = [*prices, _aggregate(summary), _speed(summary), _wrong(summary)]
    return [text for text in texts if text]


# Claims of papers and books.


def _plans_are_optimal(summary: Summary) -> tuple[str, bool] | None:
    worst, places, samples = 0.0, 0, 0.0
    for workload in summary.workloads:
        told = cells(summary, workload.id, "regret")
        mine = [told[name] for name in PLANNERS if name in told]
        places += bool(mine)
        worst = max([worst, *mine])
        taken = cells(summary, workload.id, "samples")
        samples = max([samples, *(taken[name] for name in PLANNERS if name in taken)])
    if not places:
        return None
    text = f"largest regret of paragone's planners on {places} inputs {worst:.1g}, samples used"
    return f"{text} {samples:.0f}", worst <= 1e-6 and samples == 0


def _uniform_is_enough(summary: Summary) -> tuple[str, bool] | None:
    words, good = [], True
    for workload in summary.workloads:
        told = cells(summary, workload.id, "regret")
        if "q_uniform" in told:
            words.append(f"{told['q_uniform']:.3f} on {workload.id}")
            good = good and told["q_uniform"] <= NEAR
    if not words:
        return None
    text = f"regret of the greedy policy, behaviour uniform: {', '.join(words)}"
    return f"{text}; held to {NEAR:g} within the budget", good


def _cliff(summary: Summary) -> tuple[str, bool] | None:
    edge, online = cells(summary, CLIFF, "edge"), cells(summary, CLIFF, "online")
    if not {"sarsa", "q_learning"} <= edge.keys() & online.keys():
        return None
    text = (
        f"share of the path beside the cliff: Sarsa {edge['sarsa']:.2f}, Q-learning "
        f"{edge['q_learning']:.2f}; return while learning: {online['sarsa']:.1f} against "
        f"{online['q_learning']:.1f}"
    )
    safe = edge["sarsa"] < 0.5 < edge["q_learning"]
    return text, safe and online["sarsa"] > online["q_learning"]


def _short_episodes(summary: Summary) -> tuple[str, bool] | None:
    words, good = [], True
    for workload in summary.workloads:
        told = cells(summary, workload.id, "regret")
        # Where long episodes fail too, their length is not what is missing.
        if {"mc_short", "mc_exploring"} <= told.keys() and told["mc_exploring"] < 0.25:
            words.append(
                f"{told['mc_short']:.2f} with 3 steps and {told['mc_exploring']:.2f} with 200 on "
                f"{workload.id}"
            )
            good = good and told["mc_short"] > 2 * told["mc_exploring"]
    return (f"regret {'; '.join(words)}", good) if words else None


CLAIMS = (
    seen("With the model known, dynamic programming finds the optimal policy without trying "
         "anything out.", "Bellman (1957); Zhao (2025), theorem 3.3", _plans_are_optimal),
    seen("Q-learning finds the optimal policy whatever the behaviour, if every action is tried "
         "again and again.", "Watkins and Dayan (1992), theorem; Zhao (2025), figure 7.4",
         _uniform_is_enough),
    seen("On the cliff, exploring, Sarsa learns the safe way and Q-learning the shortest along "
         "the edge, where its returns while learning are lower.",
         "Sutton and Barto (2018), example 6.6", _cliff),
    seen("Monte Carlo with episodes shorter than the way to the target does not find it.",
         "Zhao (2025), figure 5.4", _short_episodes),
)  # fmt: skip
