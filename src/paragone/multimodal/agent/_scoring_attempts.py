r"""One episode that is scored: a policy led through an exercise, judged by the page, timed.

A page that crashes, hangs or does not start costs its own episode: it counts as failed, its words
are kept, and the browser is started anew. The time of a step is split by who spent it,

$$ t_{browser} = t_{run} - t_{policy} - t_{judge} , $$

with the policy's calls and the judge's looks at the reward each under a clock of its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from paragone._core.lazy import resolve
from paragone.multimodal.agent.baselines import BASELINES
from paragone.multimodal.agent.contract import (
    Context,
    Exercise,
    OperatorError,
    Policy,
    Screen,
    Task,
)

__all__ = ["Attempt", "PolicyFactory", "attempt", "digest_of", "factory_of", "troubles"]

PolicyFactory = Callable[[Exercise], Policy]
"""What makes the policy of an exercise."""

_DONE, _TOLD = 1.0 - 1e-6, 300
_WEIGHTS = (".safetensors",)
_CONFIGS = ("config.json", "tokenizer.json", "tokenizer_config.json", "preprocessor_config.json")


@dataclasses.dataclass(frozen=True)
class Attempt:
    """How one episode went.

    Attributes:
        agent: Whose; a digest or a name.
        task: Name of the task.
        seed: Seed of the exercise.
        instruction: What was asked.
        reward: The page's own, 0 where it gave none.
        success: Whether the reward is the full one.
        outcome: How it ended: done, finished, call_user, steps, time, loop or error.
        steps: Actions taken.
        policy_s: Seconds of the policy.
        browser_s: Seconds of screenshots and actions.
        judge_s: Seconds of the judge's looks.
        seen: Whether training had this instruction; None: not known.
        error: What went wrong with the page or with the agent's texts, in a line.
        kept: Folder of the episode, where it was kept.
    """

    agent: str
    task: str
    seed: int
    instruction: str = ""
    reward: float = 0.0
    success: bool = False
    outcome: str = "error"
    steps: int = 0
    policy_s: float = 0.0
    browser_s: float = 0.0
    judge_s: float = 0.0
    seen: bool | None = None
    error: str = ""
    kept: str = ""


class _Timed:
    """A policy under a clock; while it thinks, an operator that can be is sealed.

    Policies of the judge's side (`looks_inside`) are not: they ask the page.
    """

    def __init__(self, policy: Any, operator: Any):
        self._policy, self.seconds = policy, 0.0
        self.dialect, self.screenshots = policy.dialect, policy.screenshots
        sealed = None if getattr(policy, "looks_inside", False) else getattr(
            operator, "sealed", None
        )  # fmt: skip
        self._sealed = sealed or contextlib.nullcontext

    def coordinates(self, screen: Screen) -> Any:
        return self._policy.coordinates(screen)

    def propose(self, context: Context) -> str:
        begun = time.perf_counter()
        with self._sealed():
            text = self._policy.propose(context)
        self.seconds += time.perf_counter() - begun
        return text


class _Judge:
    """The page's reward, remembered once it is there, and a clock."""

    def __init__(self, exercise: Any):
        self._exercise, self.reward, self.seconds = exercise, None, 0.0

    def done(self) -> bool:
        if self.reward is None:
            begun = time.perf_counter()
            self.reward = self._exercise.reward()
            self.seconds += time.perf_counter() - begun
        return self.reward is not None


def troubles() -> tuple[type[BaseException], ...]:
    """What a page can make go wrong; Playwright's own errors where it is loaded."""
    found: list[type[BaseException]] = [OperatorError, ValueError, OSError]
    if "playwright.sync_api" in sys.modules:
        found.append(sys.modules["playwright.sync_api"].Error)
    return tuple(found)


def _line(error: BaseException) -> str:
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words}"[:_TOLD]


def _alive(operator: Any) -> bool:
    try:
        operator.screenshot()
    except troubles():
        return False
    return True


def attempt(
    task: Task, browser: Any, seed: int, factory: PolicyFactory, *, agent: str = "",
    max_steps: int | None = None, max_seconds: float | None = None,
) -> tuple[Attempt, Any]:  # fmt: skip
    """Leads a policy through one exercise.

    Args:
        task: What is tried.
        browser: A `Browser`; it is restarted when the page is in trouble.
        seed: Of the exercise.
        factory: Makes the policy of the exercise.
        agent: Name in the result.
        max_steps: Most steps; None: the task's.
        max_seconds: Most seconds; None: no limit.

    Returns:
        How it went, and the `Episode` (None where the page did not start).
    """
    run = resolve("paragone.multimodal.agent.loop:run")
    found, episode, exercise = Attempt(agent, task.name, seed), None, None
    bad = False
    try:
        exercise = task.start(browser, seed)
        found = dataclasses.replace(found, instruction=exercise.instruction)
        policy, judge = _Timed(factory(exercise), exercise.operator), _Judge(exercise)
        begun = time.perf_counter()
        episode = run(policy, exercise.operator, exercise.instruction, done=judge.done,
                      max_steps=max_steps or task.max_steps, max_seconds=max_seconds)  # fmt: skip
        whole = time.perf_counter() - begun
        rest = max(whole - policy.seconds - judge.seconds, 0.0)
        bad = episode.outcome == "error" and not _alive(exercise.operator)
        found = dataclasses.replace(
            found, outcome=episode.outcome, steps=len(episode.steps), policy_s=policy.seconds,
            browser_s=rest, judge_s=judge.seconds,
        )  # fmt: skip
        if episode.outcome in ("error", "loop"):
            found = dataclasses.replace(found, error=episode.error[:_TOLD])
        if not bad:
            judge.done()
        reward = float(judge.reward or 0.0)
        found = dataclasses.replace(found, reward=reward, success=reward >= _DONE)
        episode = dataclasses.replace(episode, success=found.success)
    except troubles() as error:
        bad, found = True, dataclasses.replace(found, outcome="error", error=_line(error))
    finally:
        _end(exercise)
    if bad:
        browser.restart()
    return found, episode


def _end(exercise: Any) -> None:
    if exercise is None:
        return
    try:
        exercise.close()
    except troubles():
        # The page is gone already; what it did is told by its attempt.
        return


def factory_of(agent: str | Path | PolicyFactory) -> PolicyFactory:
    """What makes policies: a trained agent's folder, `module:attribute`, or a baseline's name.

    Args:
        agent: Folder, importable name of a factory, one of `BASELINES`, or a factory itself.

    Raises:
        ValueError: None of these.
    """
    if not isinstance(agent, str | Path):
        return agent
    text = str(agent)
    if text in BASELINES:
        return BASELINES[text]
    folder = Path(agent)
    if folder.is_dir():
        opened = resolve("paragone.multimodal.ui_tars:UITars").from_pretrained(folder)
        return lambda exercise: opened.eval()
    module, _, name = text.partition(":")
    if module and name and all(part.isidentifier() for part in module.split(".")):
        return resolve(text)
    raise ValueError(
        f"{text!r} is no agent: expected a folder that training wrote, one of "
        f"{', '.join(BASELINES)}, or a factory as module:name"
    )


def digest_of(agent: str | Path | PolicyFactory) -> str:
    """A name that tells one agent from another: of a folder, a hash of its weights and settings.

    Args:
        agent: As for `factory_of`.

    Raises:
        ValueError: A function without a name of its own.
    """
    if not isinstance(agent, str | Path):
        name = f"{getattr(agent, '__module__', '')}:{getattr(agent, '__qualname__', '')}"
        if "<" in name or name.endswith(":"):
            raise ValueError(
                f"{name} does not tell which agent it makes: give score(…, agent='a name')"
            )
        return name
    if str(agent) in BASELINES or not Path(agent).is_dir():
        return str(agent)
    total = hashlib.blake2b(digest_size=8)
    for path in sorted(Path(agent).iterdir()):
        if path.suffix in _WEIGHTS or path.name in _CONFIGS:
            total.update(path.name.encode() + b"\0")
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    total.update(block)
    return total.hexdigest()
