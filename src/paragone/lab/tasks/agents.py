r"""One run of the study `agents`: train an agent on a budget, then let it act in a real browser.

A contestant's `make` is called with `Lessons` and those of `seconds`, `seed`, `threads` and
`device` that it names, beside its own parameters. It trains within the budget of CPU seconds and
returns a `Policy`; or, for rows that look into the page, a function of an exercise that returns
one; or either of them in a `Built` that tells more.

The agent is then led through `facts["episodes"]` exercises of each task that training has never
seen, the same for all contestants. With $r_e$ the page's own reward of exercise e,

$$ \text{success} = P(r_e = 1), \qquad
   \text{in box} = P(\text{a single step on a teacher's screenshot is right}) . $$

The second is what is easily measured offline; it is recorded to show by how much it flatters.

Values: `accuracy` (success; the mean over exercises), `unseen` (of instructions never seen in
training), `in_box`, `step_s` and `step_cpu_s` (a step, browser included), `policy_s` (the agent's
part), `steps` (of an episode), `train_s`, `train_cpu_s`, `train_extra`, `parameters`, `seen`
(samples, each as often as it came), `instructions_unseen`. Arrays: `correct` (success of each
exercise), `ended` (how it ended), `strip_done`, `strip_failed` (film strips). Curve:
`loss over CPU seconds`.

Shapes: E exercises; H rows and W columns of a film strip.
"""

from __future__ import annotations

import dataclasses
import inspect
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from paragone._core.lazy import resolve
from paragone.lab.build import load_inputs, resolve_target
from paragone.lab.probe import Probe
from paragone.lab.sequences import drawn_from
from paragone.lab.spec import Job
from paragone.lab.tasks._agents_lessons import FIRST_TEST_SEED, Lessons

__all__ = ["Built", "Lessons", "built", "in_box", "run"]

_AGENT = "paragone.multimodal.agent."
_STRIPS = (("strip_failed", False), ("strip_done", True))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Built:
    """A trained contestant.

    Attributes:
        agent: A `Policy`, or a function of an exercise that returns one.
        parameters: How many were trained or are used.
        seen: Samples, each as often as it came.
        curve: (CPU seconds, training loss).
        offline: Whether single steps can be judged on stored screenshots.
    """

    agent: Any
    parameters: int = 0
    seen: int = 0
    curve: Sequence[tuple[float, float]] = ()
    offline: bool = True


def built(job: Job, lessons: Lessons) -> Built:
    """What a contestant makes, trained.

    Raises:
        TypeError: Neither a policy nor a function.
    """
    make = resolve_target(job.contestant.make)
    known = {
        "seconds": job.workload.facts.get("seconds"), "seed": job.block.seed,
        "threads": job.threads, "device": job.device,
    }  # fmt: skip
    named = inspect.signature(make).parameters
    given = {name: value for name, value in known.items() if name in named}
    found = make(lessons, **{**given, **job.contestant.params})
    found = found if isinstance(found, Built) else Built(agent=found)
    if not _is_policy(found.agent) and not callable(found.agent):
        raise TypeError(
            f"{job.contestant.id} made a {type(found.agent).__name__}: a Policy, or a function of "
            "an exercise that returns one, is expected"
        )
    if not found.parameters and isinstance(found.agent, torch.nn.Module):
        count = sum(one.numel() for one in found.agent.parameters())
        found = dataclasses.replace(found, parameters=count)
    return found


def _is_policy(agent: Any) -> bool:
    return not inspect.isclass(agent) and isinstance(agent, resolve(_AGENT + "contract:Policy"))


def run(job: Job, probe: Probe) -> None:
    """Performs the run; see the module's text."""
    torch.set_num_threads(job.threads)
    with probe.phase("load"):
        lessons: Lessons = load_inputs(job)[0]
    probe.digest("data", *lessons.identity())
    with drawn_from(job.block.seed):
        with probe.phase("train"):
            made = built(job, lessons)
        phase = probe.phases["train"]
        probe.value("train_extra", max(phase["peak"] - phase["start"], 0))
        probe.value("parameters", made.parameters)
        probe.value("seen", made.seen)
        if made.curve:
            probe.curve("loss over CPU seconds", *zip(*made.curve, strict=True))
        if made.offline and len(lessons.held):
            probe.value("in_box", in_box(made.agent, lessons.held))
        _score(job, made, lessons, probe)


def in_box(policy: Any, samples: Sequence[Any]) -> float:
    """The share of single steps that are right on stored screenshots, as offline scores count.

    Args:
        policy: The agent.
        samples: Steps with what is right.
    """
    agrees = resolve(_AGENT + "reflection:agrees")
    parse, trouble = (resolve(f"{_AGENT}actions:{name}") for name in ("parse", "ActionError"))
    hits = 0
    for sample in samples:
        screens = sample.context.screens[-policy.screenshots :]
        context = dataclasses.replace(sample.context, screens=screens)
        try:
            action = parse(policy.propose(context), policy.dialect)[0]
            action = action.moved(policy.coordinates(screens[-1]).to_screenshot)
        except trouble:
            continue
        hits += agrees(action, sample.wanted)
    return hits / max(len(samples), 1)


def _score(job: Job, made: Built, lessons: Lessons, probe: Probe) -> None:
    """Episodes in a browser, and what the report shows of them."""
    facts, agent = job.workload.facts, made.agent
    factory: Callable[[Any], Any] = (lambda exercise: agent) if _is_policy(agent) else agent
    folder = Path(job.folder) / "score" if job.folder else None
    with probe.phase("score"):
        began = time.process_time()
        found = resolve(_AGENT + "scoring:score")(
            factory, lessons.tasks, episodes=int(facts["episodes"]), first_seed=FIRST_TEST_SEED,
            agent=job.contestant.id, seen=lessons.instructions, kept=1, out=folder,
            max_seconds=facts.get("max_seconds"), browser=lessons.open_browser,
        )  # fmt: skip
        spent = time.process_time() - began
    attempts = found.attempts
    steps = max(sum(one.steps for one in attempts), 1)
    policy, browser = (sum(getattr(one, name) for one in attempts)
                       for name in ("policy_s", "browser_s"))  # fmt: skip
    right = np.array([one.success for one in attempts], float)
    probe.value("accuracy", right.mean())
    probe.value("step_s", (policy + browser) / steps)
    # Chromium's own CPU time, its start included, would tell little of a step.
    probe.value("step_cpu_s", spent / steps)
    probe.value("policy_s", policy / steps)
    probe.value("steps", steps / len(attempts))
    unseen = [one.success for one in attempts if one.seen is False]
    probe.value("instructions_unseen", len(unseen) / len(attempts))
    if unseen:
        probe.value("unseen", float(np.mean(unseen)))
    probe.array("correct", right)
    probe.array("ended", np.array([one.outcome for one in attempts]))
    _strips(attempts, probe)


def _strips(attempts: Sequence[Any], probe: Probe) -> None:
    """A film strip of the longest kept failure and success."""
    load = resolve(_AGENT + "loop:Episode").load
    draw = resolve(_AGENT + "replay:film_strip")
    for name, success in _STRIPS:
        kept = [one for one in attempts if one.kept and one.success is success]
        if kept:
            one = max(kept, key=lambda a: a.steps)
            probe.array(name, draw(load(one.kept)))
