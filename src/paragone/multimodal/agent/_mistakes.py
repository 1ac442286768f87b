r"""Where an agent errs: it leads, and at each state the page's own judge is asked what is right.

An action that differs from the judge's need not be wrong: two boxes may be ticked in either order.
So the judge leads from behind it to the end. Let $\ell(s)$ be the steps that the judge needs at
s; an action that leads from s to s' is a mistake when the judge fails from s' on, or

$$ \ell(s') \geq \ell(s) . $$

Cost: a mistake takes the agent's steps so far, the judge's from there to the end, and once the
judge's from the start, which tells $\ell(s)$.

References:
    Ross et al. (2011), arXiv:1011.0686, algorithm 3.1 (labels at the states of the learner).
    Qin et al. (2025), arXiv:2501.12326, section 4.5.
"""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from paragone.multimodal.agent import actions as grammar
from paragone.multimodal.agent.actions import Action, ActionError
from paragone.multimodal.agent.contract import (
    Context,
    Exercise,
    OperatorError,
    Policy,
    Sample,
    Screen,
    Task,
    Wanted,
)

__all__ = ["FAULTS", "Trail", "agrees", "find_mistakes", "judge_steps", "mistakes_in", "proposed"]

_NEAR = 8.0
"""Pixels that the end of a drag may be away from the wanted one."""
_ENDS = ("finished", "call_user")
FAULTS = (
    "The last step changed nothing.", "The last text was wrong.", "The last step was wrong.",
)  # fmt: skip
"""What reflections say."""


def agrees(action: Action, wanted: Wanted) -> bool:
    """Whether an action is what is wanted: its name, its texts, and a point inside the box.

    Args:
        action: Points in pixels of the screenshot.
        wanted: What is right.

    Example:
        >>> right = Wanted(Action("click", {"start_box": (5, 5)}), box=(0, 0, 9, 9))
        >>> agrees(Action("click", {"start_box": (9, 1)}), right)
        True
    """
    right = wanted.action
    if action.name != right.name or action.arguments.keys() != right.arguments.keys():
        return False
    return all(_same(name, action, wanted) for name in right.arguments)


def _same(name: str, action: Action, wanted: Wanted) -> bool:
    given, right = action.arguments[name], wanted.action.arguments[name]
    if name == "start_box" and wanted.box is not None:
        point, (left, top, right_, bottom) = action.point, wanted.box
        return point is not None and left <= point[0] <= right_ and top <= point[1] <= bottom
    if name.endswith("_box"):
        (x, y), (u, v) = _centre(given), _centre(right)
        return math.hypot(x - u, y - v) <= _NEAR
    if name == "key":
        return str(given).lower().split() == str(right).lower().split()
    return given == right


def _centre(box: Sequence[float]) -> tuple[float, float]:
    return (box[0] + box[-2]) / 2, (box[1] + box[-1]) / 2


def proposed(policy: Policy, context: Context) -> Action:
    """The first action that a policy proposes, with points in pixels of the screenshot.

    Args:
        policy: Whom to ask.
        context: What it sees.

    Raises:
        ActionError: Its text is no action.
    """
    action = grammar.parse(policy.propose(context), policy.dialect)[0]
    return action.moved(policy.coordinates(context.screens[-1]).to_screenshot)


class Trail:
    """One exercise as an agent sees it: screenshots, and what was done so far."""

    def __init__(self, exercise: Exercise, task: str, seed: int, screenshots: int) -> None:
        self.exercise, self.task, self.seed = exercise, task, seed
        self.screens: deque[Screen] = deque(maxlen=screenshots)
        self.history: list[Action] = []

    @property
    def over(self) -> bool:
        return self.exercise.reward() is not None

    def look(self) -> Context:
        self.screens.append(self.exercise.operator.screenshot())
        return Context(self.exercise.instruction, tuple(self.screens), tuple(self.history))

    def act(self, action: Action) -> None:
        self.exercise.operator.execute(action)
        self.history.append(action)

    def sample(self, context: Context, wanted: Wanted, *rejected: Action) -> Sample:
        return Sample(
            context, wanted, tuple(self.exercise.elements()), rejected, self.task, self.seed,
            len(self.history),
        )  # fmt: skip


def judge_steps(task: Task, browser: Any, seed: int) -> int | None:
    """Steps that the judge itself needs for an exercise; None where it does not succeed.

    Args:
        task: The kind of exercise.
        browser: A `Browser`.
        seed: Which one.

    Raises:
        OperatorError: A page that does not answer.
    """
    exercise = task.start(browser, seed)
    try:
        for step in range(task.max_steps + 1):
            reward = exercise.reward()
            if reward is not None:
                return step if reward == 1 else None
            wanted = exercise.wanted()
            if wanted is None:
                return None
            exercise.operator.screenshot()
            exercise.operator.execute(wanted.action)
        return None
    finally:
        exercise.close()


def mistakes_in(
    policy: Policy, task: Task, browser: Any, seed: int, *, following: bool = True
) -> list[Sample]:
    """Samples of the first mistake in one exercise; none where the agent makes none.

    Args:
        policy: Who leads.
        task: The kind of exercise.
        browser: A `Browser`.
        seed: Which one.
        following: Whether the judge's steps behind the mended one are samples, too.

    Returns:
        The sample with what is rejected; where the error could be mended, the reflective one; and
        those that follow it.

    Raises:
        OperatorError: A page that does not answer.
    """
    exercise = task.start(browser, seed)
    try:
        trail = Trail(exercise, task.name, seed, policy.screenshots)
        for _ in range(task.max_steps):
            wanted = None if trail.over else exercise.wanted()
            if wanted is None:
                return []
            context = trail.look()
            try:
                action = proposed(policy, context)
            except ActionError:
                return []
            if not agrees(action, wanted):
                break
            if action.name in _ENDS:
                return []
            trail.act(action)
        else:
            return []
        corrected = trail.sample(context, wanted, action)
        if action.name in _ENDS or action.name not in exercise.operator.actions:
            return [corrected]
        try:
            trail.act(action)
        except ActionError:
            return [corrected]
        mended, reward = _mended(trail, wanted, context.screens[-1], task.max_steps)
    finally:
        exercise.close()
    if reward == 1:
        whole = judge_steps(task, browser, seed) if mended else None
        if not mended or (whole is not None and len(mended) < whole - corrected.step):
            return []
        return [corrected, *(mended if following else mended[:1])]
    return [corrected]


def _mended(
    trail: Trail, missed: Wanted, before: Screen, most: int
) -> tuple[list[Sample], float | None]:
    """The judge's way from the state behind an error, and the reward at its end."""
    found: list[Sample] = []
    while not trail.over and len(found) < most:
        wanted = trail.exercise.wanted()
        if wanted is None:
            break
        context = trail.look()
        if not found:
            changed = not np.array_equal(context.screens[-1].pixels, before.pixels)
            wanted = _reflective(wanted, _fault(trail.history[-1], missed, changed))
        found.append(trail.sample(context, wanted))
        trail.act(wanted.action)
    return found, trail.exercise.reward()


def _fault(action: Action, missed: Wanted, changed: bool) -> str:
    """What was wrong, as far as it can be seen from the history and the screen."""
    if not changed:
        return FAULTS[0]
    return FAULTS[1 if action.name == missed.action.name == "type" else 2]


def _reflective(wanted: Wanted, fault: str) -> Wanted:
    return dataclasses.replace(wanted, action=dataclasses.replace(wanted.action, reflection=fault))


def find_mistakes(
    model: Policy,
    tasks: Iterable[Task],
    browser: Any,
    seeds: Iterable[int],
    *,
    following: bool = True,
    stop: Callable[[], bool] | None = None,
    tell: Callable[[str, int, Sequence[Sample]], None] | None = None,
) -> list[Sample]:
    """Leads an agent through exercises and returns what there is to learn from its mistakes.

    Each exercise gives at most one mistake: the judge leads from there to the end, and so tells
    whether it was one. A page that breaks costs its own exercise, and the browser is restarted.

    Args:
        model: The agent.
        tasks: Kinds of exercises; each seed is tried with all of them before the next.
        browser: A `Browser`.
        seeds: Those of training; scores use others.
        following: Whether the judge's steps behind the mended one are samples, too.
        stop: Asked before each exercise; true ends the search.
        tell: Called with each exercise's task, seed and samples.

    Returns:
        Samples with `rejected` (error correction); samples behind an error, the first of which
        has a reflection that names it.

    Raises:
        OperatorError: The browser does not come back.
    """
    found: list[Sample] = []
    every = list(tasks)
    for seed in seeds:
        for task in every:
            if stop is not None and stop():
                return found
            try:
                samples = mistakes_in(model, task, browser, seed, following=following)
            except OperatorError:
                browser.restart()
                samples = []
            found += samples
            if tell is not None:
                tell(task.name, seed, samples)
    return found
