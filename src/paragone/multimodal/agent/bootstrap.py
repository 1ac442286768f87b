r"""Online bootstrapping: an agent's own successes become what it learns from next.

The agent acts on fresh exercises with some temperature; episodes that pass all filters are kept,
and their steps join the demonstrations of the next round:

$$ D_{n+1} = D_n \cup \{ \tau : \tau \sim \pi_n, \; f(\tau) = 1 \text{ for all } f \} . $$

The first filter is the page's own reward. The others refuse successes that teach bad habits: texts
that are no action, circles, steps that changed nothing, detours, and what is known already. Each
filter has a name, and how many episodes it was the first to refuse is counted.

Prefer it to `find_mistakes` where a page tells whether it is done, but not what is right to do: a
user's own pages need a reward alone. Where a judge says what is right, mistakes teach more than
successes do.

Cost: an episode of the agent, and one of the judge's for those that pass all other filters.

References:
    Qin et al. (2025), arXiv:2501.12326, section 4.5 (rounds of filtered traces).
    Anthony et al. (2017), arXiv:1705.08439 (an agent that imitates its own better tries).

Shapes: none; samples come out.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from paragone.multimodal.agent._mistakes import agrees, judge_steps
from paragone.multimodal.agent.actions import Action
from paragone.multimodal.agent.contract import (
    Box,
    Context,
    Element,
    Exercise,
    OperatorError,
    Policy,
    Sample,
    Screen,
    Task,
    Wanted,
)
from paragone.multimodal.agent.loop import Episode, run

__all__ = ["FILTERS", "Bootstrapped", "Try", "bootstrap", "tried"]

_ROUND_A_POINT = 4.0


@dataclasses.dataclass(frozen=True)
class Try:
    """One episode, as filters see it.

    Attributes:
        task: Name of the task.
        seed: Seed of the exercise.
        episode: What the agent did.
        reward: The page's; 0 where it gave none.
        contexts: What the agent saw before each step.
        shortest: Steps that the judge needs; None where it was not asked, or cannot.
        extra: Steps beyond those that are allowed.
        known: Whether an episode of the same actions to the same instruction was kept before.
    """

    task: str
    seed: int
    episode: Episode
    reward: float
    contexts: tuple[Context, ...] = ()
    shortest: int | None = None
    extra: int = 0
    known: bool = False


def _rewarded(one: Try) -> bool:
    return one.reward == 1


def _readable(one: Try) -> bool:
    steps = one.episode.steps
    return len(one.contexts) == len(steps) and all(
        not step.error and len(step.actions) == 1 for step in steps
    )


def _straight(one: Try) -> bool:
    """No state of the page comes back, and the loop did not end for a circle."""
    seen = {step.screen.pixels.tobytes() for step in one.episode.steps}
    return one.episode.outcome != "loop" and len(seen) == len(one.episode.steps)


def _busy(one: Try) -> bool:
    """The last step may change nothing that is seen: the page has ended."""
    return all(step.changed is not False for step in one.episode.steps[:-1])


def _short(one: Try) -> bool:
    return one.shortest is None or len(one.episode.steps) <= one.shortest + one.extra


def _new(one: Try) -> bool:
    return not one.known


FILTERS: dict[str, Callable[[Try], bool]] = {
    "reward": _rewarded, "readable": _readable, "busy": _busy, "straight": _straight,
    "new": _new, "short": _short,
}  # fmt: skip
"""Name to the rule that an episode must pass, in the order in which they are asked:

"reward" (the page's own is 1), "readable" (each text one action that could be carried out),
"busy" (each step but the last changed the screen), "straight" (no screen came back), "new" (not the
same actions to the same instruction as one that was kept), "short" (few steps beyond the judge's).
"""


@dataclasses.dataclass(frozen=True)
class Bootstrapped:
    """What the rounds have come to.

    Attributes:
        samples: Steps of the episodes that were kept.
        tried: Episodes.
        succeeded: Those with the page's full reward.
        kept: Those that passed all filters.
        refused: Filter to how many it was the first to refuse; "broken" for pages that broke.
    """

    samples: list[Sample]
    tried: int
    succeeded: int
    kept: int
    refused: Mapping[str, int]

    def __str__(self) -> str:
        refused = ", ".join(f"{name} {count}" for name, count in self.refused.items() if count)
        told = f"{self.tried} episodes, {self.succeeded} succeeded, {self.kept} kept"
        return told + (f" (refused: {refused})" if refused else "")


class _Watched:
    """A policy that acts with a temperature, while the judge notes what was right at each step.

    What the judge says is kept aside for the samples; the policy is given its context alone.
    """

    def __init__(self, policy: Policy, exercise: Exercise, temperature: float, seed: int) -> None:
        self.policy, self.exercise = policy, exercise
        self.temperature, self.seed = temperature, seed
        self.dialect, self.screenshots = policy.dialect, policy.screenshots
        self.contexts: list[Context] = []
        self.right: list[Wanted | None] = []
        self.elements: list[tuple[Element, ...]] = []

    def coordinates(self, screen: Screen) -> Any:
        return self.policy.coordinates(screen)

    def propose(self, context: Context) -> str:
        self.contexts.append(context)
        self.right.append(self.exercise.wanted())
        self.elements.append(tuple(self.exercise.elements()))
        many = getattr(self.policy, "propose_many", None)
        if many is None or not self.temperature:
            return self.policy.propose(context)
        seed = (self.seed << 8) + len(self.contexts)
        return many([context], temperature=self.temperature, seed=seed)[0]


def bootstrap(
    policy: Policy,
    tasks: Iterable[Task],
    browser: Any,
    seeds: Iterable[int],
    *,
    temperature: float = 0.5,
    extra: int = 2,
    filters: Mapping[str, Callable[[Try], bool]] = FILTERS,
    stop: Callable[[], bool] | None = None,
    tell: Callable[[str, int, Try | None, list[Sample]], None] | None = None,
) -> Bootstrapped:
    """Leads an agent through fresh exercises and keeps what went well; one round.

    Args:
        policy: The agent; a temperature needs its `propose_many`.
        tasks: Kinds of exercises; each seed is tried with all of them before the next.
        browser: A `Browser`.
        seeds: Those of training that were not used yet; scores use others.
        temperature: Of what is drawn; 0: what the agent holds best.
        extra: Steps that an episode may take beyond the judge's.
        filters: Name to rule; an episode is kept if all say yes.
        stop: Asked before each exercise; true ends the round.
        tell: Called with each exercise's task, seed, try (None: the page broke) and samples.

    Raises:
        ValueError: A temperature or a number of steps below 0.
        OperatorError: The browser does not come back.
    """
    if not temperature >= 0:
        raise ValueError(f"temperature={temperature}: at least 0 is expected")
    if extra < 0:
        raise ValueError(f"extra={extra}: at least 0 steps are expected")
    every = list(tasks)
    counts = collections.Counter(dict.fromkeys([*filters, "broken"], 0))
    samples: list[Sample] = []
    known: set[Any] = set()
    tries = succeeded = kept = 0
    for seed in seeds:
        for task in every:
            if stop is not None and stop():
                return Bootstrapped(samples, tries, succeeded, kept, dict(counts))
            tries += 1
            try:
                one, refused, steps = tried(
                    policy, task, browser, seed, temperature=temperature, extra=extra,
                    filters=filters, known=known,
                )  # fmt: skip
                succeeded += one.reward == 1
            except OperatorError:
                browser.restart()
                one, refused, steps = None, "broken", []
            if refused:
                counts[refused] += 1
            else:
                kept += 1
                samples += steps
            if tell is not None:
                tell(task.name, seed, one, steps)
    return Bootstrapped(samples, tries, succeeded, kept, dict(counts))


def _refusing(one: Try, filters: Mapping[str, Callable[[Try], bool]]) -> str:
    """The first filter that says no, or nothing."""
    return next((name for name, passes in filters.items() if not passes(one)), "")


def tried(
    policy: Policy, task: Task, browser: Any, seed: int, *, temperature: float, extra: int,
    filters: Mapping[str, Callable[[Try], bool]], known: set[Any],
) -> tuple[Try, str, list[Sample]]:  # fmt: skip
    """One episode; the filter that refuses it, or ""; and its steps as samples, if none does.

    Args:
        policy: The agent.
        task: The kind of exercise.
        browser: A `Browser`.
        seed: Which one.
        temperature: Of what is drawn.
        extra: Steps beyond the judge's.
        filters: Name to rule.
        known: What was kept before; what is kept is added.

    Raises:
        OperatorError: A page that does not answer.
    """
    exercise = task.start(browser, seed)
    try:
        watched = _Watched(policy, exercise, temperature, seed)
        episode = run(
            watched, exercise.operator, exercise.instruction, max_steps=task.max_steps,
            done=lambda: exercise.reward() is not None,
        )  # fmt: skip
        reward = exercise.reward() or 0.0
    finally:
        exercise.close()
    key = _key(episode)
    one = Try(task.name, seed, episode, reward, tuple(watched.contexts), None, extra, key in known)
    refused = _refusing(one, filters)
    if not refused:
        # The judge is asked for its own length only where everything else is well.
        one = dataclasses.replace(one, shortest=judge_steps(task, browser, seed))
        refused = _refusing(one, filters)
    if refused:
        return one, refused, []
    known.add(key)
    return one, "", _samples(one, watched)


def _key(episode: Episode) -> Any:
    """What makes two episodes the same to learn from."""
    acts = [step.actions for step in episode.steps]
    told = [(a.name, sorted((k, str(v)) for k, v in a.arguments.items())) for s in acts for a in s]
    return episode.instruction, repr(told)


def _samples(one: Try, watched: _Watched) -> list[Sample]:
    found = []
    for number, (step, context) in enumerate(zip(one.episode.steps, one.contexts, strict=True)):
        elements = watched.elements[number]
        wanted = _as_wanted(step.actions[0], watched.right[number], elements)
        found.append(Sample(context, wanted, elements, (), one.task, one.seed, number))
    return found


def _as_wanted(action: Action, right: Wanted | None, elements: tuple[Element, ...]) -> Wanted:
    """The agent's own action, with the box in which its point may be."""
    if action.point is None:
        return Wanted(action)
    if right is not None and agrees(action, right):
        return Wanted(action, right.box)
    return Wanted(action, _box_at(action.point, elements))


def _box_at(point: tuple[float, float], elements: tuple[Element, ...]) -> Box:
    """The smallest element's that holds the point; a few pixels around it if none does."""
    x, y = point
    boxes = [e.box for e in elements if e.box[0] <= x <= e.box[2] and e.box[1] <= y <= e.box[3]]
    if not boxes:
        r = _ROUND_A_POINT
        return (x - r, y - r, x + r, y + r)
    return min(boxes, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]))
