r"""One run of the study `decoding`: someone decodes the prompts, and plain decoding beside it.

A contestant is a function of a `Stage` that gives what `generate(speculate=…)` takes: None (plain
decoding), a name, a drafter, a smaller model; or, for other libraries, a callable of token ids and
a number of tokens that gives the new ones. Heads that it trains are kept under the model's hash,
with the seconds that their training took.

Each prompt is decoded by plain decoding and by the contestant, by turns, round after round. The
gain is the median over the rounds of

$$ \frac{\text{seconds of plain decoding}}{\text{seconds of the contestant}} , $$

on the CPU's clock with one thread, else on the wall's. Whoever drafts chooses how much as it likes
(`draft="auto"`), which may be nothing at all; so it then decodes once more with a fixed plan, which
tells how good the guesses are, and what they are worth where nothing else is chosen.

Values: `same` (share of prompts that got the tokens of plain decoding), `token_s` and
`token_cpu_s` (of a token, reading the prompt included), `per_second`, `gain` and its inverse
`share`, `steps` (tokens by passes of the model); with the fixed plan `full_steps`, `full_gain`,
`accepted` (of first guesses) and `full_same`; `train_s`, `train_cpu_s` (of heads or of a draft
model), `extra` (memory beyond what was resident with the model alone). Curves: `accepted by
depth`; of plain decoding `cost of a pass`, T(n) / T(1).

Shapes: P prompts.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from paragone._core.lazy import resolve
from paragone.lab.build import load_inputs, resolve_target
from paragone.lab.drafting_problem import Problem, name_of
from paragone.lab.probe import Probe
from paragone.lab.spec import Job

__all__ = ["Stage", "Told", "by_depth", "run"]

PASSES = (1, 2, 4, 8, 16)
_MOST_ROUNDS = 200
_FEELER, _MOST_CLOCK = 0.3, 6.0


class Told:
    """What one call decoded.

    Attributes:
        ids: Tokens of each prompt.
        steps: Tokens by passes of the model, of each prompt (1 where it is not known).
        accepted: Of each prompt, the shares that were agreed to, by depth.
    """

    def __init__(
        self, ids: list[list[int]], steps: list[float], accepted: list[list[float]]
    ) -> None:
        self.ids, self.steps, self.accepted = ids, steps, accepted

    @property
    def tokens(self) -> int:
        """Tokens of all prompts."""
        return sum(map(len, self.ids))

    @property
    def per_step(self) -> float:
        """Tokens by passes of the model, over all prompts."""
        # The first token of each is the prompt's.
        later = [max(len(ids) - 1, 0) for ids in self.ids]
        passes = sum(n / max(step, 1e-9) for n, step in zip(later, self.steps, strict=True))
        return sum(later) / passes if passes else 1.0


class Stage:
    """What a contestant works with.

    Attributes:
        model: The model that decides, not to be changed.
        tokenizer: Its tokenizer.
        texts: Texts whose beginnings the model may continue to train on; None: it begins itself.
        budget: Seconds of the CPU (on a GPU, of the wall) that training may take.
        threads: Threads of every engine.
        seed: Of what is trained.
        problem: All that is known of the input; `problem.form(…)` gives checkpoints for rivals.
        plan: What is drafted where it is not chosen: `(nodes, depth, width)`; for the contestant
            to set.
        cost: Seconds of its training, by the wall and of the CPU.
    """

    def __init__(self, problem: Problem, facts: Any, threads: int, device: str = "cpu") -> None:
        self.model, self.tokenizer, self.texts = problem.model, problem.tokenizer, problem.texts
        self.problem, self.threads, self.seed = problem, threads, 0
        self.budget = float(facts["budget"])
        self.plan: tuple[int, int, int] = (4, 4, 1)
        self.cost = (0.0, 0.0)
        if device != "cpu":
            self.model.to(device)

    @property
    def clock(self) -> float:
        """Seconds on the wall that the budget comes to, on a machine as busy as it is now."""
        began, value = (time.perf_counter(), time.process_time()), np.ones((256, 256))
        while time.process_time() - began[1] < _FEELER:
            value = np.tanh(value @ value)
        wall, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
        return self.budget * min(max(wall / cpu, 1.0), _MOST_CLOCK)

    def trained(self, name: str, make: Callable[[], Any], read: Callable[[str], Any]) -> Any:
        """Something that is trained once for a model, with `save(folder)`.

        Args:
            name: What it is, its sizes included.
            make: Trains it.
            read: Reads it from a folder.
        """

        def fill(folder: Path) -> None:
            began = time.perf_counter(), time.process_time()
            made = make()
            cost = time.perf_counter() - began[0], time.process_time() - began[1]
            made.save(str(folder / "made"))
            (folder / "cost.json").write_text(json.dumps(cost), encoding="utf-8")

        key = f"{name}-{name_of(self.budget, self.problem.texts is None)}"
        folder = self.problem.kept(key, fill)
        wall, cpu = json.loads((folder / "cost.json").read_text(encoding="utf-8"))
        self.cost = self.cost[0] + wall, self.cost[1] + cpu
        return read(str(folder / "made"))


def run(job: Job, probe: Probe) -> None:
    """Performs the run; see the module's text."""
    torch.set_num_threads(job.threads)
    with probe.phase("load"):
        problem: Problem = load_inputs(job)[0]
    probe.digest("model", problem.digest)
    probe.digest("prompts", problem.prompts)
    stage = Stage(problem, job.workload.facts, job.threads, job.device)
    plain = _speaker(stage, None)
    with probe.phase("plain"):
        # Known texts or not, the engine is ready before memory is counted.
        plain(problem.prompts[:1])
        reference = _reference(plain, problem)
    with probe.phase("prepare"):
        made = resolve_target(job.contestant.make)(stage, **job.contestant.params)
    probe.value("train_s", stage.cost[0])
    probe.value("train_cpu_s", stage.cost[1])
    speak = _speaker(stage, made)
    with probe.phase("first_call"):
        speak(problem.prompts[:1])
    least = float(job.workload.facts.get("least", 0.5))
    with probe.phase("decode"):
        told, times = _by_turns(plain, speak, problem, least)
    _figures(probe, told, times, reference, job)
    # Not the difference to "plain": its phase ends with whatever its own decoding needed.
    probe.value("extra", max(probe.phases["decode"]["peak"] - probe.phases["prepare"]["start"], 0))
    drafts = made is not None and not _is_rival(made)
    if drafts:
        with probe.phase("full"):
            _with_plan(stage, made, plain, reference, probe, least / 2, job)
    if made is None:
        with probe.phase("passes"):
            clock = time.process_time if _by_cpu(job) else time.perf_counter
            found = resolve("paragone.language.cost_curve:cost_curve")(
                plain.engine, PASSES, rows=len(problem.prompts) if problem.together else 1,
                clock=clock,
            )  # fmt: skip
        probe.curve("cost of a pass", list(found.tokens), list(found.ratios))


def _is_rival(made: Any) -> bool:
    return callable(made) and not isinstance(made, torch.nn.Module) and not hasattr(made, "open")


def _by_cpu(job: Job) -> bool:
    return job.threads == 1 and job.device == "cpu"


class _Speaker:
    """Decodes prompts; those of a batch together."""

    def __init__(self, stage: Stage, made: Any, plan: Any = "auto") -> None:
        self.stage, self.made, self.plan = stage, made, plan
        make = resolve("paragone.language.engine:engine_of")
        self.engine = make(stage.model, threads=stage.threads)
        self.generate = resolve("paragone.language.generate:generate")

    def __call__(self, prompts: Sequence[Sequence[int]], count: int = 0) -> Told:
        problem = self.stage.problem
        most = count or problem.length
        if _is_rival(self.made):
            ids = [list(self.made(list(prompt), most)) for prompt in prompts]
            return Told(ids, [1.0] * len(ids), [[]] * len(ids))
        options: dict[str, Any] = {"temperature": problem.temperature, "seed": problem.seed,
                                   "threads": self.stage.threads}  # fmt: skip
        if self.made is not None:
            options |= {"speculate": self.made, "draft": self.plan}
        asked = [list(prompt) for prompt in prompts]
        if problem.together and len(asked) > 1:
            found = self.generate(self.engine, None, asked, max_new_tokens=most, **options)
        else:
            found = [self.generate(self.engine, None, prompt, max_new_tokens=most, **options)
                     for prompt in asked]  # fmt: skip
        return Told(
            [list(one.tokens) for one in found], [float(one.tokens_per_step) for one in found],
            [list(one.accepted_by_depth) for one in found],
        )  # fmt: skip


def _speaker(stage: Stage, made: Any, plan: Any = "auto") -> _Speaker:
    return _Speaker(stage, made, plan)


def _reference(plain: Callable[..., Told], problem: Problem) -> list[list[int]]:
    """Tokens of plain decoding, from the cache where they are known."""
    name = name_of(problem.prompts, problem.length, problem.temperature, problem.seed)
    place = problem.home / f"plain-{name}.json"
    if not place.is_file():
        beside = place.with_suffix(f".{os.getpid()}")
        beside.write_text(json.dumps(plain(problem.prompts).ids), encoding="utf-8")
        os.replace(beside, place)
    return json.loads(place.read_text(encoding="utf-8"))


def _by_turns(
    plain: Callable[..., Told], speak: Callable[..., Told], problem: Problem, least: float
) -> tuple[Told, np.ndarray]:
    """Both decode all prompts by turns; (rounds, 2, 2) seconds by speaker and clock."""
    parts = [problem.prompts] if problem.together else [[prompt] for prompt in problem.prompts]
    rounds, spent, told = [], 0.0, []
    while not rounds or (spent < least and len(rounds) < _MOST_ROUNDS):
        seconds, last = np.zeros((2, 2)), []
        for number, part in enumerate(parts):
            # Who is first alternates: the second finds the caches as the first left them.
            for who in (0, 1) if (number + len(rounds)) % 2 else (1, 0):
                began = time.perf_counter(), time.process_time()
                found = (plain, speak)[who](part)
                seconds[who] += time.perf_counter() - began[0], time.process_time() - began[1]
                if who:
                    last.append(found)
        rounds.append(seconds)
        spent += float(seconds[1, 0])
        told = last
    return _joined(told), np.array(rounds)


def _joined(parts: Sequence[Told]) -> Told:
    return Told(
        [ids for one in parts for ids in one.ids], [s for one in parts for s in one.steps],
        [a for one in parts for a in one.accepted],
    )  # fmt: skip


def _gain(times: np.ndarray, job: Job) -> float:
    clock = int(_by_cpu(job))
    return float(np.median(times[:, 0, clock] / np.maximum(times[:, 1, clock], 1e-9)))


def _same(told: Told, reference: Sequence[Sequence[int]]) -> float:
    equal = [list(a) == list(b) for a, b in zip(told.ids, reference, strict=True)]
    return float(np.mean(equal))


def _figures(probe: Probe, told: Told, times: np.ndarray, reference: Any, job: Job) -> None:
    if not told.tokens:
        raise ValueError("nothing was decoded: every continuation ended at once; other prompts?")
    wall, cpu = np.median(times[:, 1], 0) / told.tokens
    probe.value("same", _same(told, reference))
    probe.value("token_s", float(wall))
    probe.value("token_cpu_s", float(max(cpu, 1e-9)))
    probe.value("per_second", float(1 / max(cpu if _by_cpu(job) else wall, 1e-9)))
    gain = _gain(times, job)
    probe.value("gain", gain)
    probe.value("share", 1 / gain)
    probe.value("steps", told.per_step)


def _with_plan(
    stage: Stage, made: Any, plain: Any, reference: Any, probe: Probe, least: float, job: Job
) -> None:
    """The same prompts with a plan that is fixed: how good are the guesses, what are they worth?"""
    plan = resolve("paragone.language.drafting:Plan")(*stage.plan)
    fixed = _speaker(stage, made, plan)
    told, times = _by_turns(plain, fixed, stage.problem, least)
    probe.value("full_same", _same(told, reference))
    probe.value("full_steps", told.per_step)
    probe.value("full_gain", _gain(times, job))
    probe.value("full_nodes", plan.nodes)
    shares = by_depth(told)
    probe.value("accepted", shares[0] if shares else 0.0)
    if shares:
        probe.curve("accepted by depth", range(1, len(shares) + 1), shares)


def by_depth(told: Told) -> list[float]:
    """Shares that were agreed to, by depth, over all prompts.

    A prompt counts by the steps in which that depth was reached: its passes times the shares of
    the depths before.

    Example:
        >>> by_depth(Told([[1] * 9, [1] * 5], [2.0, 1.0], [[1.0, 0.5], [0.0]]))
        [0.5, 0.5]
    """
    depth = max((len(shares) for shares in told.accepted), default=0)
    agreed, offered = np.zeros(depth), np.zeros(depth)
    for ids, step, shares in zip(told.ids, told.steps, told.accepted, strict=True):
        weight = (len(ids) - 1) / max(step, 1e-9)
        for at, share in enumerate(shares):
            offered[at] += weight
            weight *= share
            agreed[at] += weight
    known = offered > 0
    return [float(a / o) for a, o in zip(agreed[known], offered[known], strict=True)]
