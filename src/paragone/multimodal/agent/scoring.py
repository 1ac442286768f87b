r"""Scores: how often an agent succeeds in a real browser, by the pages' own reward.

An agent is led through `episodes` exercises of each task, with seeds from `first_seed` on, which
training never uses. An episode succeeds if the page itself gives its full reward; whatever else
happens, such as an agent that says it has finished, a page that crashes, a limit of steps, is a
failure that is listed. With $s_{te}$ the success of episode e of task t,

$$ \bar s_t = \frac{1}{n} \sum_e s_{te}, \qquad S = \frac{1}{T} \sum_t \bar s_t , $$

$\bar s_t$ with Wilson's interval and S with a bootstrap within tasks. Two agents meet on the same
seeds, so their difference is paired. Only this closed loop counts: whether single clicks on stored
screenshots fall into the right box says more good of an agent than it deserves, because one wrong
step spoils an episode and leads to pages that no demonstration has shown.

References:
    Shi et al. (2017), World of Bits, PMLR 70 (rewards by the page's own program).
    Humphreys et al. (2022), arXiv:2202.08137, section 3 (success averaged over tasks).

Shapes: T tasks of n episodes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paragone.multimodal.agent._scoring_attempts import Attempt, PolicyFactory, digest_of
from paragone.multimodal.agent._scoring_log import Key, Log
from paragone.multimodal.agent._scoring_pool import Order, carried_out
from paragone.multimodal.agent._scoring_statistics import exact_mcnemar, mean_of_tasks, wilson
from paragone.multimodal.agent.contract import Task

__all__ = ["FIRST_TEST_SEED", "Attempt", "Gap", "Scores", "TaskScore", "score"]

FIRST_TEST_SEED = 1_000_000
"""Seeds from here on are for scores alone."""


@dataclasses.dataclass(frozen=True)
class TaskScore:
    """A task's row.

    Attributes:
        task: Name.
        episodes: How many were tried.
        success: Share that got the full reward.
        low: Lower end of its 95 % interval.
        high: Upper end.
        reward: Mean reward.
        steps: Mean steps of an episode.
        policy_ms: Mean milliseconds of the policy in a step.
        browser_ms: Mean milliseconds of the browser in a step.
        outcomes: How many ended in which way.
    """

    task: str
    episodes: int
    success: float
    low: float
    high: float
    reward: float
    steps: float
    policy_ms: float
    browser_ms: float
    outcomes: dict[str, int]

    @property
    def step_ms(self) -> float:
        """Milliseconds of a step, browser included."""
        return self.policy_ms + self.browser_ms


@dataclasses.dataclass(frozen=True)
class Gap:
    """How one agent stands to another on the same exercises.

    Attributes:
        estimate: Success of the first less that of the second, mean over tasks.
        low: Lower end of its 95 % paired bootstrap interval.
        high: Upper end.
        p: Two-sided p of McNemar's exact test over all episodes.
        n: Episodes that both tried.
    """

    estimate: float
    low: float
    high: float
    p: float
    n: int

    def __str__(self) -> str:
        told = f"{100 * self.estimate:+.1f} [{100 * self.low:+.1f}, {100 * self.high:+.1f}] points"
        return f"{told}, p {self.p:.2g}, {self.n} episodes"


@dataclasses.dataclass(frozen=True)
class Scores:
    """All attempts of an agent, and what they come to.

    Attributes:
        agent: Digest or name.
        attempts: In the order of tasks and seeds.
    """

    agent: str
    attempts: tuple[Attempt, ...]

    def _by_task(self) -> dict[str, list[Attempt]]:
        found: dict[str, list[Attempt]] = {}
        for one in self.attempts:
            found.setdefault(one.task, []).append(one)
        return found

    @property
    def tasks(self) -> list[TaskScore]:
        """A row for each task."""
        return [_row(name, some) for name, some in self._by_task().items()]

    @property
    def success(self) -> float:
        """Mean over tasks of the share of successes."""
        return self.interval[0]

    @property
    def interval(self) -> tuple[float, float, float]:
        """Mean over tasks, and its 95 % bootstrap interval."""
        return mean_of_tasks(
            [np.array([a.success for a in some], float) for some in self._by_task().values()]
        )

    @property
    def steps(self) -> float:
        """Mean steps of an episode."""
        return float(np.mean([one.steps for one in self.attempts]))

    @property
    def policy_ms(self) -> float:
        """Milliseconds of the policy in a step."""
        return _a_step(self.attempts, "policy_s")

    @property
    def browser_ms(self) -> float:
        """Milliseconds of the browser in a step."""
        return _a_step(self.attempts, "browser_s")

    @property
    def step_ms(self) -> float:
        """Milliseconds of a step, browser included."""
        return self.policy_ms + self.browser_ms

    @property
    def outcomes(self) -> dict[str, int]:
        """How many ended in which way."""
        return _counted(self.attempts)

    @property
    def failures(self) -> list[Attempt]:
        """All that did not succeed."""
        return [one for one in self.attempts if not one.success]

    def on_unseen(self) -> tuple[int, int, float, float] | None:
        """Successes on instructions that training never had.

        Returns:
            Successes, episodes, and the ends of the share's interval; None where it is not known
            what training had.
        """
        known = [one for one in self.attempts if one.seen is not None]
        if not known:
            return None
        unseen = [one for one in known if not one.seen]
        hits = sum(one.success for one in unseen)
        return (hits, len(unseen), *wilson(hits, len(unseen)))

    def difference(self, other: Scores) -> Gap:
        """This agent less another on the exercises that both tried.

        Args:
            other: The other's scores.

        Raises:
            ValueError: They have no exercise in common.
        """
        theirs = {(one.task, one.seed): one for one in other.attempts}
        pairs: dict[str, list[tuple[bool, bool]]] = {}
        for one in self.attempts:
            if (one.task, one.seed) in theirs:
                both = (one.success, theirs[one.task, one.seed].success)
                pairs.setdefault(one.task, []).append(both)
        if not pairs:
            raise ValueError(
                f"{self.agent} and {other.agent} have no exercise in common: "
                "score both on the same tasks and seeds"
            )
        gaps = [np.array([int(a) - int(b) for a, b in some]) for some in pairs.values()]
        mean, low, high = mean_of_tasks(gaps, least=-1.0)
        flat = np.concatenate(gaps)
        p = exact_mcnemar(int((flat > 0).sum()), int((flat < 0).sum()))
        return Gap(mean, low, high, p, len(flat))

    def as_dict(self) -> dict[str, Any]:
        """All numbers, for JSON."""
        mean, low, high = self.interval
        unseen = self.on_unseen()
        keys = ("hits", "episodes", "low", "high")
        return {
            "agent": self.agent, "success": mean, "low": low, "high": high, "steps": self.steps,
            "policy_ms": self.policy_ms, "browser_ms": self.browser_ms, "step_ms": self.step_ms,
            "outcomes": self.outcomes,
            "unseen_instructions": None if unseen is None else dict(zip(keys, unseen, strict=True)),
            "tasks": [dataclasses.asdict(row) | {"step_ms": row.step_ms} for row in self.tasks],
            "failures": [dataclasses.asdict(one) for one in self.failures],
        }  # fmt: skip

    def save(self, path: str | Path) -> None:
        """Writes all numbers and all failures.

        Args:
            path: A JSON file.
        """
        Path(path).write_text(json.dumps(self.as_dict(), indent=1), encoding="utf-8")


def _counted(some: Sequence[Attempt]) -> dict[str, int]:
    found: dict[str, int] = {}
    for one in some:
        found[one.outcome] = found.get(one.outcome, 0) + 1
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def _a_step(some: Sequence[Attempt], part: str) -> float:
    steps = sum(one.steps for one in some)
    return 1e3 * sum(getattr(one, part) for one in some) / steps if steps else 0.0


def _row(name: str, some: Sequence[Attempt]) -> TaskScore:
    hits = sum(one.success for one in some)
    low, high = wilson(hits, len(some))
    return TaskScore(
        name, len(some), hits / len(some), low, high, float(np.mean([a.reward for a in some])),
        float(np.mean([a.steps for a in some])), _a_step(some, "policy_s"),
        _a_step(some, "browser_s"), _counted(some),
    )  # fmt: skip


def score(
    policy_factory: str | Path | PolicyFactory,
    tasks: Sequence[Task],
    *,
    episodes: int = 20,
    first_seed: int = FIRST_TEST_SEED,
    workers: int = 1,
    max_steps: int | None = None,
    max_seconds: float | None = None,
    out: str | Path | None = None,
    agent: str | None = None,
    seen: Collection[str] | None = None,
    kept: int = 2,
    browser: str | Callable[[], Any] | None = None,
    threads: int | None = None,
    patience: float = 120.0,
    progress: Callable[[Attempt, int, int], None] | None = None,
) -> Scores:
    """Leads an agent through episodes of tasks and counts its successes.

    Args:
        policy_factory: Makes the policy of an exercise; or a trained agent's folder, a baseline's
            name ("random-click", "first-widget", "oracle"), or an importable `module:name`, which
            several workers need.
        tasks: What is tried.
        episodes: Episodes of each task.
        first_seed: Seed of the first one.
        workers: Processes, each with a browser and the agent; 1: this process alone.
        max_steps: Most steps of an episode; None: the task's.
        max_seconds: Most seconds of an episode; None: no limit.
        out: Folder of `episodes.jsonl`, from which the same call goes on, and of kept episodes.
        agent: Name in the log; None: a digest of the folder or the factory's name.
        seen: All instructions that training had; those that it had not are reported apart.
        kept: First successes and first failures of each task that are kept as episodes under `out`.
        browser: Makes a browser; None: `Browser`. Several workers need `module:name`.
        threads: Threads of each worker; None: as torch is set.
        patience: Seconds after which a worker that does not answer is ended and its episode lost.
        progress: Called after each episode with it, how many are done, and how many there are.

    Returns:
        The scores.

    Raises:
        ValueError: No tasks, numbers below 1, two tasks of one name, or several workers with what
            another process cannot import.
        MissingPackageError: No Playwright or no Chromium.
    """
    if not tasks or episodes < 1 or workers < 1 or kept < 0 or not patience > 0:
        raise ValueError(
            f"{len(tasks)} tasks, episodes={episodes}, workers={workers}, kept={kept}, "
            f"patience={patience}: expected at least 1 task, 1 episode and 1 worker, kept from 0 "
            "on, and patience above 0"
        )
    if (max_steps is not None and max_steps < 1) or not (max_seconds is None or max_seconds > 0):
        raise ValueError(
            f"max_steps={max_steps}, max_seconds={max_seconds}: expected at least 1, and more than "
            "0, or None"
        )
    if len({task.name for task in tasks}) < len(tasks):
        raise ValueError("two tasks have the same name: give each once")
    if workers > 1 and not isinstance(policy_factory, str | Path):
        raise ValueError(
            f"workers={workers} with {policy_factory!r}: other processes import the agent, so give "
            "its folder or module:name"
        )
    name = agent or digest_of(policy_factory)
    log = Log(out)
    keys: list[Key] = [
        (name, task.name, first_seed + k, max_steps or task.max_steps)
        for task in tasks for k in range(episodes)
    ]  # fmt: skip
    found = log.of(keys)
    by_name = {task.name: task for task in tasks}
    orders = [Order(by_name[key[1]], key[2], key) for key in keys if key not in found]
    room = _Kept(out, kept, list(found.values()))
    done = len(found)
    running = carried_out(
        orders, policy_factory, room.where, name=name, workers=workers, max_steps=max_steps,
        max_seconds=max_seconds, browser=browser, threads=threads, patience=patience,
    )  # fmt: skip
    with contextlib.closing(running):
        for order, one in running:
            told = _said(one, seen)
            log.add(told, order.key[3])
            room.add(told)
            found[order.key] = told
            done += 1
            if progress is not None:
                progress(told, done, len(keys))
    return Scores(name, tuple(_said(found[key], seen) for key in keys))


def _said(one: Attempt, seen: Collection[str] | None) -> Attempt:
    """What was logged before is told by what is now known of training."""
    return one if seen is None else dataclasses.replace(one, seen=one.instruction in seen)


class _Kept:
    """Which episodes are kept: the first few successes and failures of each task."""

    def __init__(self, out: str | Path | None, most: int, before: Sequence[Attempt]):
        self.folder = None if out is None else Path(out) / "episodes"
        self.most, self.counts = most, {}
        for one in before:
            self.add(one)

    def add(self, one: Attempt) -> None:
        if one.kept:
            key = one.task, one.success
            self.counts[key] = self.counts.get(key, 0) + 1

    def where(self, agent: str, task: str, seed: int, success: bool) -> Path | None:
        """Folder of an episode; None: it is not kept."""
        if self.folder is None or self.counts.get((task, success), 0) >= self.most:
            return None
        plain = "".join(c if c.isalnum() or c in "-_." else "-" for c in f"{agent}/{task}")
        return self.folder / plain / f"{seed}-{'done' if success else 'failed'}"
