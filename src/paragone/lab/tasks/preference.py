r"""One run of the study `alignment`: a method moves a base model towards a reward, on a leash.

A contestant is a function of a `Stage`: it trains `stage.model` in place, from the pairs, or from
the prompts and the reward, and lets `stage.mark` look in between. Looking is off the clock. Each
look draws answers to prompts that were held out and tells two numbers,

$$ \bar r = \frac1n \sum_i r(x_i, y_i), \qquad
   \widehat{\mathrm{KL}} = \frac1n \sum_i \log \frac{\pi(y_i|x_i)}{\pi_0(y_i|x_i)},
   \qquad y_i \sim \pi(\cdot | x_i), $$

so that a training is a path in the plane of divergence and reward. Methods are ranked by how high
their path is within a divergence that is the same for all: a reward alone can be had for any price.

Where the user brought pairs, no reward is known; then it counts how often the trained model ranks
held-out pairs as they were, by its implicit reward $\log \pi / \pi_0$, or by the reward model.

Values: `reward_at` (highest reward of the path within the divergence), `reward` and `kl` (at the
end), `accuracy` (held-out pairs ranked right), `labels` (answers whose reward was asked),
`train_s`, `train_cpu_s`, `train_extra`, `chosen_gain` (nats by which the chosen answers of
held-out pairs became more likely). Curves: `reward over kl`. Arrays: `answers`, texts as JSON.

References:
    Rafailov et al. (2023), arXiv:2305.18290, figure 2 (reward against KL).
    Gao et al. (2023), arXiv:2210.10760, section 3 (a known reward behind a learned one).

Shapes: n answers.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from paragone._core.lazy import resolve
from paragone.lab.build import load_inputs, resolve_target
from paragone.lab.preferences import Problem, draw, log_probs
from paragone.lab.probe import Probe
from paragone.lab.spec import Job

__all__ = ["Stage", "best_of", "reward_within", "run"]

SHOWN = 3
_LIKE = 0.5


class Stage:
    """What a contestant works with.

    Attributes:
        model: The policy, a copy of the base; to be trained in place.
        base: The base, not to be changed.
        tokenizer: Its tokenizer.
        prompts: Token ids of prompts to train on.
        reward: Prompts and answers to numbers, as `ppo` takes it; every answer is counted.
        length: Most tokens of an answer.
        effort: How much may be done: "epochs" over the pairs, "steps" of rollouts.
        seed: Of whatever is drawn.
        pace: What all learning rates are multiplied by: a base of few steps takes larger ones.
        backend: What draws: "auto", "numba" or "torch".
        ranks: What ranks answers in place of the policy's implicit reward, such as a reward model:
            set by the contestant, a function of prompts and answers as token ids.
    """

    def __init__(self, problem: Problem, seed: int, facts: Any) -> None:
        self.model = copy.deepcopy(problem.base)
        self.base, self.tokenizer, self.problem = problem.base, problem.tokenizer, problem
        self.prompts, self.used_pairs = problem.prompts, False
        self.length, self.seed = problem.length, seed
        self.effort: dict[str, float] = dict(facts["effort"])
        self.looks = int(facts["looks"])
        self.judged = int(facts["judged"])
        self.labels = 0
        self.path: list[tuple[float, float]] = []
        self.ranks: Callable[[Sequence[Any], Sequence[Any]], np.ndarray] | None = None
        self.away = [0.0, 0.0]
        self.pace = float(facts.get("pace", 1.0))
        self.backend = str(facts.get("backend", "auto"))
        self._engine: Any = None

    @property
    def pairs(self) -> list[Any]:
        """`EncodedPair`s of better and worse answers; who reads them has used their rewards."""
        self.used_pairs = True
        return self.problem.pairs

    def reward(self, prompts: Sequence[Any], answers: Sequence[str]) -> list[float]:
        """The reward of answers; each is counted."""
        assert self.problem.reward is not None
        self.labels += len(answers)
        return self.problem.reward(prompts, answers)

    def mark(self) -> None:
        """Looks at the policy as it is now, off the clock."""
        if self.problem.reward is None:
            return
        began = time.perf_counter(), time.process_time()
        training = self.model.training
        self.model.eval()
        reward, kl, _ = self.look(self.judged)
        self.path.append((kl, reward))
        self.model.train(training)
        self.away[0] += time.perf_counter() - began[0]
        self.away[1] += time.process_time() - began[1]

    def watch(self, kind: str, every: int = 1) -> Callable[[Any], None]:
        """A `progress` that marks at events of a kind: "validated", or every so many "step"s."""

        def tell(event: Any) -> None:
            if event.kind == kind and event.step % every == 0:
                self.mark()

        return tell

    def every(self, steps: int) -> int:
        """Steps between two looks."""
        return max(1, math.ceil(steps / self.looks))

    def look(self, count: int) -> tuple[float, float, Any]:
        """Reward and divergence on held-out prompts, and the answers."""
        if self._engine is None:
            make = resolve("paragone.language.engine:Engine").make
            self._engine = make(self.model, self.backend, threads=1)
        else:
            self._engine.refresh(self.model)
        held = self.problem.held
        asked = [held[i % len(held)] for i in range(count)]
        drawn = draw(self._engine, self.tokenizer, asked, self.length, 77, self.base.config.eos)
        before = log_probs(self.base, drawn.prompts, drawn.ids)
        assert self.problem.reward is not None
        rewards = self.problem.reward([""] * count, drawn.texts)
        return float(np.mean(rewards)), float((drawn.log_probs - before).mean()), drawn

    def accuracy(self) -> tuple[float, float]:
        """Share of held-out pairs ranked right, and the mean gain of chosen answers in nats."""
        held = self.problem.held_pairs
        if not held:
            return _LIKE, 0.0
        prompts = [pair.prompt for pair in held]
        sides = [[pair.chosen for pair in held], [pair.rejected for pair in held]]
        gains = [log_probs(self.model, prompts, side) - log_probs(self.base, prompts, side)
                 for side in sides]  # fmt: skip
        scores = gains if self.ranks is None else [self.ranks(prompts, side) for side in sides]
        right = (scores[0] > scores[1]) + _LIKE * (scores[0] == scores[1])
        return float(right.mean()), float(gains[0].mean())


def reward_within(path: Sequence[tuple[float, float]], limit: float) -> float:
    """The highest reward of a path before it leaves a divergence for the first time.

    Args:
        path: (KL, reward) in the order of training, the base first.
        limit: Nats an answer.

    Example:
        >>> reward_within([(0.0, 0.25), (4.0, 0.5), (12.0, 1.0)], 8.0)
        0.75
    """
    best, (last_kl, last) = path[0][1], path[0]
    for kl, reward in path[1:]:
        if kl > limit:
            share = (limit - last_kl) / (kl - last_kl) if kl > last_kl else 0.0
            return max(best, last + min(max(share, 0.0), 1.0) * (reward - last))
        best, last_kl, last = max(best, reward), kl, reward
    return best


def best_of(rewards: np.ndarray, n: int) -> tuple[float, float]:
    """Divergence and mean reward of taking the best of n answers, without bias.

    The divergence is at most log n - (n - 1) / n (Beirami et al., 2024, arXiv:2401.01879).

    Args:
        rewards: (P, K) of the base's answers; n at most K.
        n: Answers to choose from.
    """
    ordered, answers = np.sort(rewards, axis=1), rewards.shape[1]
    chances = np.array([math.comb(k, n - 1) for k in range(answers)]) / math.comb(answers, n)
    return math.log(n) - (n - 1) / n, float((ordered * chances).sum(1).mean())


def run(job: Job, probe: Probe) -> None:
    """Performs the run; see the module's text."""
    torch.set_num_threads(job.threads)
    facts = job.workload.facts
    with probe.phase("load"):
        problem: Problem = load_inputs(job)[0]
    probe.digest("base", *problem.base.state_dict().values())
    probe.digest("pairs", [pair.prompt + pair.chosen + pair.rejected for pair in problem.pairs])
    with probe.phase("import"):
        method = resolve_target(job.contestant.make)
        stage = Stage(problem, job.block.seed, facts)
    stage.mark()
    stage.away = [0.0, 0.0]
    with probe.phase("train"):
        began = time.perf_counter(), time.process_time()
        method(stage, **job.contestant.params)
        wall, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
    stage.model.eval()
    probe.value("train_s", max(wall - stage.away[0], 1e-6))
    probe.value("train_cpu_s", max(cpu - stage.away[1], 1e-6))
    phase = probe.phases["train"]
    probe.value("train_extra", max(phase["peak"] - phase["start"], 0))
    probe.value("labels", problem.labels * stage.used_pairs + stage.labels)
    with probe.phase("judge"):
        _judge(stage, facts, probe)


def _judge(stage: Stage, facts: Any, probe: Probe) -> None:
    accuracy, gain = stage.accuracy()
    probe.value("accuracy", accuracy)
    probe.value("chosen_gain", gain)
    probe.value("held_pairs", len(stage.problem.held_pairs))
    if stage.problem.reward is None:
        return
    reward, kl, drawn = stage.look(2 * stage.judged)
    path = [*stage.path, (kl, reward)]
    probe.value("reward", reward)
    probe.value("kl", kl)
    probe.value("reward_at", reward_within(path, float(facts["limit"])))
    probe.curve("reward over kl", [max(at, 0.0) for at, _ in path], [r for _, r in path])
    shown = [
        {"prompt": stage.tokenizer.decode(drawn.prompts[i][1:]), "answer": drawn.texts[i]}
        for i in range(min(SHOWN, len(drawn.texts)))
    ]
    content = json.dumps({"about": stage.problem.words, "texts": shown}).encode()
    probe.array("answers", np.frombuffer(content, np.uint8))
