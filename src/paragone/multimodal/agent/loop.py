r"""The loop: screenshot, thought, action, and again, until it is done, stuck or out of time.

At step n the policy is given the instruction, all its earlier actions and the last N screenshots,
and nothing else:

$$ (t_n, a_n) \sim P(\cdot \mid \text{instruction}, (t_i, a_i)_{i<n}, o_{n-N+1}, \ldots, o_n) . $$

Its text goes to the parser of its dialect and nowhere else; the points that come out are carried to
pixels of the screenshot, and the operator carries the actions out. What goes wrong is told in
`Context.note`, and the policy may try again: a text that is no action and an action that the
operator lacks cost a step each, three in a row the episode. So do 10 screenshots in a row that
fail, and a browser or desktop that is gone; the error is kept, and the next episode is not touched.

A policy is stuck when it goes in a circle. Step i is the pair of screen and action
$e_i = (o_i, a_i)$, equal when no pixel differs and points lie within a few pixels. A circle of
period p (1, 2 or 3 steps) has been gone round k times after step n when

$$ e_i = e_{i-p} \;\; \text{for} \;\; n - (k - 1) p < i \le n, \qquad o_{n+1} = o_{n+1-p} . $$

With p = 1 that is an action that changes nothing, done k times. The second time round asks for
reflection, the third ends the episode.

Cost: besides the policy and the operator, 0.1 ms a step and a comparison of screenshots (0.5 ms at
1280 x 720); a few more while actions repeat.

References:
    Qin et al. (2025), UI-TARS, arXiv:2501.12326, eq. 3 (the formula) and section 4.4 (N = 5).

Shapes: H rows and W columns of pixels.
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable, Sequence

import numpy as np

from paragone.multimodal.agent import actions as grammar
from paragone.multimodal.agent._episode_files import load_episode, save_episode
from paragone.multimodal.agent.actions import Action, ActionError
from paragone.multimodal.agent.contract import Context, Operator, OperatorError, Policy, Screen

__all__ = ["Episode", "Step", "run"]

ENDS = ("finished", "call_user")
"""Actions that the loop carries out itself: they end the episode."""

_BLIND = 10
_WRONG = 3
_NEAR = 4.0
_LONGEST = 3
_ROUNDS = 3
_TOLD = 400
_WAIT = 5.0


@dataclasses.dataclass(frozen=True)
class Step:
    """One turn of the loop.

    Attributes:
        screen: What the policy saw last.
        text: What it answered, as it came.
        actions: Those of the text that were carried out; points in pixels of the screenshot.
        changed: Whether the next screenshot differs in any pixel; None where none was taken.
        seconds: From the question to the policy to the next screenshot.
        error: What was wrong with the text, an action or the operator ("" for nothing).
    """

    screen: Screen
    text: str
    actions: tuple[Action, ...] = ()
    changed: bool | None = None
    seconds: float = 0.0
    error: str = ""


@dataclasses.dataclass(frozen=True)
class Episode:
    """What an agent did.

    Attributes:
        instruction: What was to be done.
        steps: In order.
        outcome: "finished" or "call_user" (said by the policy), "done" (said by the judge),
            "steps" or "time" (a limit), "loop", "error", or "interrupted" (saved episodes only).
        seconds: Of the whole.
        last: The screenshot after the last step, if one was taken.
        error: Why the outcome is "error", or which circle "loop" was.
        success: What the judge says of it in the end (None: nobody judged).
    """

    instruction: str
    steps: tuple[Step, ...]
    outcome: str
    seconds: float
    last: Screen | None = None
    error: str = ""
    success: bool | None = None

    @property
    def good(self) -> bool:
        """Whether it succeeded, as far as is known."""
        return self.outcome in ("finished", "done") if self.success is None else self.success

    @property
    def verdict(self) -> str:
        """How it ended, in words: "succeeded" and "failed" where there was a judge."""
        if self.success is None:
            return self.outcome
        return "succeeded" if self.success else f"failed ({self.outcome})"

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes episode.json and PNG files of the screens, each different one once.

        A process that is killed leaves the folder's old episode or the new one, whole.

        Args:
            folder: Made if it is not there.

        Raises:
            ValueError: `folder` is a file.
        """
        save_episode(self, folder)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Episode:
        """Reads what `save` wrote, every pixel and every number as it was.

        Args:
            folder: With episode.json in it.

        Raises:
            ValueError: No episode there, or one that is damaged.
        """
        return load_episode(cls, Step, folder)


def run(
    policy: Policy,
    operator: Operator,
    instruction: str,
    *,
    max_steps: int = 100,
    max_seconds: float | None = None,
    done: Callable[[], bool] | None = None,
    on_step: Callable[[Step], None] | None = None,
    folder: str | os.PathLike[str] | None = None,
) -> Episode:
    """Leads a policy through one episode.

    Args:
        policy: What decides; it is given `Context` objects alone.
        operator: Eyes and hands; it stays open.
        instruction: What is to be done.
        max_steps: Most answers of the policy, those that could not be carried out included.
        max_seconds: No step begins later (None: no limit).
        done: The judge, asked after each step; true ends the episode.
        on_step: Told of each step once it is over.
        folder: Where the episode is saved, also when Ctrl-C or an error of the policy interrupts
            it: it then holds the steps so far with the outcome "interrupted", and the interrupt
            goes on. None: nowhere.

    Returns:
        All steps, and how it ended.

    Raises:
        ValueError: `max_steps` below 1, `max_seconds` that is not positive, or a policy that wants
            no screenshot.

    Example:
        >>> run(policy, BrowserOperator("https://example.org"), "Open the link.").outcome
        ... # doctest: +SKIP
        'finished'
    """
    if max_steps < 1:
        raise ValueError(f"max_steps={max_steps}: at least 1 is expected")
    if max_seconds is not None and not max_seconds > 0:
        raise ValueError(f"max_seconds={max_seconds}: a positive number is expected, or None")
    if policy.screenshots < 1:
        raise ValueError(
            f"the policy wants screenshots={policy.screenshots}: at least 1 is expected"
        )
    lead = _Lead(policy, operator, instruction, max_steps, max_seconds, done, on_step)
    outcome = "interrupted"
    try:
        lead.go()
        outcome = lead.outcome
    finally:
        episode = lead.episode(outcome)
        if folder is not None:
            episode.save(folder)
    return episode


class _Lead:
    """One episode under way."""

    def __init__(
        self, policy: Policy, operator: Operator, instruction: str, max_steps: int,
        max_seconds: float | None, done: Callable[[], bool] | None,
        on_step: Callable[[Step], None] | None,
    ) -> None:  # fmt: skip
        self.policy, self.operator, self.instruction = policy, operator, instruction
        self.max_steps, self.done, self.on_step = max_steps, done, on_step
        self.max_seconds = math.inf if max_seconds is None else max_seconds
        self.begun = time.monotonic()
        self.steps: list[Step] = []
        self.under_way: Step | None = None
        self.history: list[tuple[Action, Screen]] = []
        self.last: Screen | None = None
        self.outcome = self.note = self.error = ""
        self.wrong = 0

    def episode(self, outcome: str) -> Episode:
        """What has been done so far."""
        steps = [*self.steps, *([self.under_way] if self.under_way is not None else [])]
        spent = time.monotonic() - self.begun
        error = self.error if outcome in ("error", "loop") else ""
        return Episode(self.instruction, tuple(steps), outcome, spent, self.last, error)

    def go(self) -> None:
        """Takes steps until something ends them."""
        self._look()
        while not self.outcome and self.last is not None:
            if len(self.steps) >= self.max_steps:
                self.outcome = "steps"
            elif self._late():
                self.outcome = "time"
            else:
                self._step(self.last)

    def _late(self) -> bool:
        return time.monotonic() - self.begun >= self.max_seconds

    def _in_time(self, action: Action) -> Action:
        """The same action; a wait at most as long as the episode may still take."""
        left = self.max_seconds - (time.monotonic() - self.begun)
        if action.name != "wait" or action.arguments.get("time", _WAIT) <= left:
            return action
        return dataclasses.replace(action, arguments={"time": max(0.0, left)})

    def _look(self) -> None:
        """Takes the next screenshot, or ends the episode."""
        self.last = None
        for _ in range(_BLIND):
            try:
                # A screen of its own, whatever the operator keeps: it says which step it is of.
                self.last = dataclasses.replace(self.operator.screenshot())
                return
            except OperatorError as gone:
                self.error = str(gone)
            if self._late():
                self.outcome = "time"
                return
        self.outcome = "error"

    def _step(self, screen: Screen) -> None:
        begun = time.monotonic()
        text = self.policy.propose(self._context(screen))
        self.last = None
        self.under_way = step = Step(screen, text)
        error = ending = ""
        try:
            for action in self._read(text, screen):
                if action.name in ENDS:
                    ending = action.name
                else:
                    self.operator.execute(self._in_time(action))
                    self.history.append((action, screen))
                self.under_way = step = dataclasses.replace(step, actions=(*step.actions, action))
                if ending:
                    break
        except ActionError as wrong:
            error = str(wrong)
        except OperatorError as gone:
            error, ending = str(gone), "error"
            self.error = error
        self.outcome = ending
        changed = None
        if not ending:
            self._look()
            changed = None if self.last is None else not _same_screens(screen, self.last)
        spent = time.monotonic() - begun
        step = dataclasses.replace(step, changed=changed, seconds=spent, error=error)
        self.steps.append(step)
        self.under_way = None
        if not ending:
            self._judge(step)
        if self.on_step is not None:
            self.on_step(step)

    def _context(self, screen: Screen) -> Context:
        earlier = self.history[len(self.history) - min(len(self.history), self._earlier) :]
        screens = (*(seen for _, seen in earlier), screen)
        done = tuple(action for action, _ in self.history)
        return Context(self.instruction, screens, done, self.note)

    @property
    def _earlier(self) -> int:
        return self.policy.screenshots - 1

    def _read(self, text: str, screen: Screen) -> list[Action]:
        """The actions of a text with points on the screenshot, all known to the operator."""
        found: Sequence[Action] = grammar.parse(text, self.policy.dialect)
        if not found:
            raise ActionError("the text holds no action")
        carry = self.policy.coordinates(screen).to_screenshot
        actions = []
        for action in found:
            if action.name not in ENDS and action.name not in self.operator.actions:
                known = ", ".join(sorted({*self.operator.actions, *ENDS}))
                raise ActionError(f"{action.name} cannot be done here; there are {known}")
            try:
                action = action.moved(carry)
            except ValueError as wrong:
                raise ActionError(f"{action.name}: {wrong}") from wrong
            _check_on_screen(action, screen)
            actions.append(action)
        return actions

    def _judge(self, step: Step) -> None:
        """Decides after a step whether the episode is over, and what the policy is told."""
        try:
            if self.done is not None and self.done():
                self.outcome = "done"
                return
        except OperatorError as gone:
            self.outcome, self.error = "error", str(gone)
            return
        self.note = ""
        self.wrong = self.wrong + 1 if step.error else 0
        if self.outcome:
            return
        if step.error:
            self.note = f"That could not be carried out: {step.error[:_TOLD]}"
            if self.wrong >= _WRONG:
                self.outcome, self.error = "error", step.error
        elif self.last is not None:
            self._go_round(self.last)

    def _go_round(self, present: Screen) -> None:
        period, rounds = _circle([one for one in self.steps if one.actions], present)
        if rounds < 2:
            return
        what = "The last action changed nothing"
        if period > 1:
            what = f"The last {period} actions lead back to where they began"
        if rounds >= _ROUNDS:
            self.outcome, self.error = "loop", f"{what}, {rounds} times in a row."
        else:
            self.note = f"{what}, twice in a row. Reflect on what is wrong, and act differently."


def _check_on_screen(action: Action, screen: Screen) -> None:
    rows, columns = screen.size
    for name, box in action.arguments.items():
        if not name.endswith("_box"):
            continue
        pairs = zip(box[::2], box[1::2], strict=True)
        if not all(0 <= x <= columns and 0 <= y <= rows for x, y in pairs):
            raise ActionError(
                f"{action.name}: {name} {box} lies outside the screenshot of "
                f"{columns} x {rows} pixels"
            )


def _circle(steps: Sequence[Step], present: Screen) -> tuple[int, int]:
    """The shortest period of the last steps, and how often they went round (below 2: not)."""
    for period in range(1, _LONGEST + 1):
        equal, most = 0, (_ROUNDS - 1) * period
        for late, early in zip(reversed(steps), reversed(steps[:-period]), strict=False):
            if equal == most or not _same_steps(late, early):
                break
            equal += 1
        if equal >= period and _same_screens(steps[-period].screen, present):
            return period, 1 + equal // period
    return 0, 0


def _same_steps(one: Step, other: Step) -> bool:
    return (
        len(one.actions) == len(other.actions)
        and all(map(_same_actions, one.actions, other.actions))
        and _same_screens(one.screen, other.screen)
    )


def _same_actions(one: Action, other: Action) -> bool:
    if one.name != other.name or one.arguments.keys() != other.arguments.keys():
        return False
    for name, value in one.arguments.items():
        against = other.arguments[name]
        if not name.endswith("_box"):
            if value != against:
                return False
        elif len(value) != len(against) or any(
            abs(a - b) > _NEAR for a, b in zip(value, against, strict=True)
        ):
            return False
    return True


def _same_screens(one: Screen, other: Screen) -> bool:
    return one is other or np.array_equal(one.pixels, other.pixels)
