"""What the exercises of a training stage have come to, as they end: counts by task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from paragone.multimodal.agent.contract import Task

__all__ = ["Tally", "common_success", "numbers"]


def numbers(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What a line of metrics holds: no texts, and nothing that JSON has no word for."""
    return {
        name: value for name, value in facts.items()
        if isinstance(value, dict) or (isinstance(value, int | float) and np.isfinite(value))
    }  # fmt: skip


class Tally:
    """Counts of a stage.

    Args:
        tasks: Kinds of exercises.
        done: Those that have ended already.
    """

    def __init__(self, tasks: Sequence[Task], done: Sequence[Mapping[str, Any]]) -> None:
        self.names = [task.name for task in tasks]
        self.tries: Counter[str] = Counter()
        self.gave: Counter[str] = Counter()
        self.succeeded: Counter[str] = Counter()
        self.erred: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.samples, self.error = 0, ""
        self.rewards: dict[tuple[str, int], float] = {}
        for told in done:
            self.add(told)

    @property
    def tried(self) -> int:
        """How many exercises have ended."""
        return self.tries.total()

    def add(self, told: Mapping[str, Any]) -> None:
        """Counts an exercise."""
        name = told["task"]
        self.tries[name] += 1
        self.samples += told["samples"]
        self.gave[name] += told["samples"] > 0
        self.succeeded[name] += told.get("reward") == 1
        self.rewards[name, told["seed"]] = float(told.get("reward") == 1)
        self.erred[name] += bool(told.get("mistake"))
        self.refused[told.get("refused") or "kept"] += "refused" in told
        self.error = told.get("error") or self.error

    def facts(self, what: str) -> dict[str, Any]:
        """For stages.json: shares by task, of "success" or of "mistakes"."""
        counts = self.succeeded if what == "success" else self.erred
        shares = {n: round(counts[n] / self.tries[n], 4) for n in self.names if self.tries[n]}
        broken = {"error": self.error} if self.error else {}
        return {"exercises": self.tried, "samples": self.samples, what: shares, **broken}

    def numbers(self) -> dict[str, float]:
        """For an event."""
        count = max(self.tried, 1)
        found = {"exercises": float(self.tried), "samples": float(self.samples)}
        if self.erred.total():
            found["mistakes"] = self.erred.total() / count
        else:
            found["success"] = self.succeeded.total() / count
        return found

    def __str__(self) -> str:
        return f"{self.tried} exercises, {self.samples} samples"


def common_success(tallies: Sequence[Tally]) -> list[float]:
    """Mean success over tasks of each, on those exercises that all of them did.

    Args:
        tallies: Of several agents.
    """
    common = set.intersection(*(set(one.rewards) for one in tallies))
    found = []
    for one in tallies:
        tasks: dict[str, list[float]] = {}
        for name, seed in sorted(common):
            tasks.setdefault(name, []).append(one.rewards[name, seed])
        found.append(float(np.mean([np.mean(own) for own in tasks.values()] or [0.0])))
    return found
