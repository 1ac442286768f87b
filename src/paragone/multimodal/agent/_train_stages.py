r"""The stages of an agent's training: who has how much of the time, and what is done already.

One budget T is split by shares $s_i$. A stage ends with the sum of the shares so far, on the run's
own clock, which stands still between two calls:

$$ t_i = T \sum_{j \le i} s_j \Big/ \sum_j s_j , $$

so what a stage leaves, or takes too much, is the next one's. `stages.json` holds the clock, what
was asked for, and what each stage came to; it is written every few seconds, whole.

References:
    none; this is book-keeping.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from paragone.training.run_folder import write_whole

__all__ = ["SHARES", "STAGES", "AgentTraining", "Ledger", "shares_of"]

SHARES: dict[str, float] = {
    "collect": 0.20, "imitate": 0.53, "mistakes": 0.06, "bootstrap": 0.03, "again": 0.08,
    "prefer": 0.05, "check": 0.05,
}  # fmt: skip
"""Stage to its share of the time."""

STAGES = tuple(SHARES)
_REFLECTION = ("mistakes", "bootstrap", "again", "prefer")
_IN_PLACE = {"mistakes": 0.6, "again": 0.4}
"""What takes the time of collecting where demonstrations are given: only the agent's own exercises
bring anything new then."""
_BEAT = 5.0


@dataclasses.dataclass(frozen=True)
class AgentTraining:
    """One event of an agent's training.

    Attributes:
        kind: "note" (a line of its own), "step", "stage" (one begins), "end".
        stage: Which one.
        number: Its number, from 1.
        count: How many there are.
        text: What a note says; how a stage goes, in words.
        metrics: Numbers: "loss", "success", "samples" and so on.
        seconds: Seconds of the run so far, over all its parts.
        left: Seconds that are left of the budget.
        done: Share of the budget that is used.
    """

    kind: Literal["note", "step", "stage", "end"]
    stage: str = ""
    number: int = 0
    count: int = 0
    text: str = ""
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    left: float = 0.0
    done: float = 0.0


def shares_of(
    given: Mapping[str, float] | None, *, collects: bool, reflects: bool
) -> dict[str, float]:
    """Stages of a run, in order, and their shares; those that are left out go to imitation.

    Where demonstrations are given and the agent reflects, what collecting would have taken goes to
    finding mistakes and learning from them.

    Args:
        given: Other shares than the usual ones, by stage.
        collects: Whether demonstrations are collected.
        reflects: Whether the agent learns from its mistakes.

    Raises:
        ValueError: An unknown stage, a share below 0, or none for imitation.

    Example:
        >>> list(shares_of(None, collects=False, reflects=False))
        ['imitate', 'check']
    """
    unknown = [name for name in given or () if name not in SHARES]
    if unknown:
        raise ValueError(f"shares: {unknown[0]!r} is none of {', '.join(STAGES)}")
    shares = {**SHARES, **(given or {})}
    wrong = [f"{name}={share}" for name, share in shares.items() if not 0 <= share < float("inf")]
    if wrong:
        raise ValueError(f"shares: {wrong[0]}: at least 0 is expected")
    if not reflects:
        shares["imitate"] += sum(shares.pop(name) for name in _REFLECTION)
    if not collects:
        left = shares.pop("collect")
        for name, part in (_IN_PLACE if reflects else {"imitate": 1.0}).items():
            # A stage that was set to 0 stays out.
            shares[name if shares[name] else "imitate"] += part * left
    if not shares["imitate"]:
        raise ValueError("shares: imitate=0: an agent learns nothing; give it more than 0")
    return {name: share for name, share in shares.items() if share}


class Ledger:
    """What was asked for, how much time is used, and what is done: stages.json.

    Args:
        folder: The run's.
        asked: What makes this run this run, as JSON.
        shares: Stages in order, with their shares.
        seconds: The budget.
        listener: Called with each event.

    Attributes:
        stages: Name to what is known of it; "finished" where it is done.
        stage: Name of the present one.

    Raises:
        ValueError: The folder holds another run.
    """

    def __init__(
        self, folder: Path, asked: Mapping[str, Any], shares: Mapping[str, float], seconds: float,
        listener: Callable[[AgentTraining], None] | None = None,
    ) -> None:  # fmt: skip
        self.path = folder / "stages.json"
        self.asked: dict[str, Any] = json.loads(json.dumps(dict(asked)))
        self.shares, self.budget, self.listener = dict(shares), seconds, listener
        self.stages: dict[str, dict[str, Any]] = {}
        self._before, self._begun, self._written = 0.0, time.monotonic(), 0.0
        self.stage = ""
        if self.path.exists():
            self._read(folder)

    def _read(self, folder: Path) -> None:
        try:
            told = json.loads(self.path.read_text(encoding="utf-8"))
            asked, self.stages, self._before = told["asked"], told["stages"], told["seconds"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self.path}: expected the stages of a run, found something else ({error!r}); "
                "delete the folder, or start anew with fresh"
            ) from error
        changed = [
            f"{name} (there {asked.get(name)!r}, now {value!r})"
            for name, value in self.asked.items() if asked.get(name) != value
        ]  # fmt: skip
        if changed:
            raise ValueError(
                f"{folder} holds another run: {'; '.join(changed[:3])}; give another folder, or "
                "start anew with fresh"
            )

    @property
    def seconds(self) -> float:
        """Seconds of the run, those before an interruption included."""
        return self._before + time.monotonic() - self._begun

    @property
    def left(self) -> float:
        """Seconds until the present stage should end."""
        return self._end(self.stage) - self.seconds

    def _end(self, stage: str) -> float:
        names = list(self.shares)
        so_far = names[: names.index(stage) + 1] if stage in names else names
        whole = sum(self.shares.values())
        return self.budget * sum(self.shares[name] for name in so_far) / whole

    def finished(self, stage: str) -> bool:
        """Whether a stage is done, or not part of this run."""
        return stage not in self.shares or bool(self.stages.get(stage, {}).get("finished"))

    def begin(self, stage: str) -> float:
        """Begins a stage, or goes on with it, and returns its seconds; the same on each call."""
        self.stage = stage
        entry = self.stages.setdefault(stage, {})
        entry.setdefault("budget", round(max(self.left, 1.0), 3))
        self.write()
        self.tell("stage")
        return entry["budget"]

    def granted(self) -> float:
        """Seconds that the learning of this stage gets, now that all is ready for it.

        They are the same on each call, as a loop's schedule depends on them.
        """
        entry = self.stages[self.stage]
        entry.setdefault("granted", round(max(self.left, 1.0), 3))
        self.write()
        return entry["granted"]

    def end(self, stage: str, **facts: Any) -> None:
        """Notes that a stage is done, and what it came to."""
        self.stages[stage].update(facts, finished=True, until=round(self.seconds, 3))
        self.write()

    def write(self) -> None:
        """Writes stages.json."""
        self._written = time.monotonic()
        told = {"asked": self.asked, "seconds": round(self.seconds, 3), "stages": self.stages}
        write_whole(self.path, json.dumps(told, indent=1, ensure_ascii=False).encode())

    def beat(self) -> None:
        """Writes it if that was more than a few seconds ago."""
        if time.monotonic() - self._written > _BEAT:
            self.write()

    def tell(
        self, kind: Literal["note", "step", "stage", "end"], text: str = "",
        metrics: Mapping[str, float] | None = None,
    ) -> None:  # fmt: skip
        """Hands an event on."""
        self.beat()
        if self.listener is None:
            return
        names: Sequence[str] = list(self.shares)
        number = names.index(self.stage) + 1 if self.stage in names else 0
        spent = self.seconds
        self.listener(AgentTraining(
            kind, self.stage, number, len(names), text, dict(metrics or {}), spent,
            max(self.budget - spent, 0.0), min(spent / self.budget, 1.0),
        ))  # fmt: skip
