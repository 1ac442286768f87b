"""The stages of an agent's training at work: those with a browser, and those that learn."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paragone._core.lazy import resolve
from paragone.language.fitting import Progressed
from paragone.multimodal.agent._train_files import append_line, publish, read_lines
from paragone.multimodal.agent._train_pool import Job, Work, carried_out
from paragone.multimodal.agent._train_stages import Ledger
from paragone.multimodal.agent._train_tally import Tally, common_success, numbers
from paragone.multimodal.agent.contract import Sample, Task
from paragone.multimodal.agent.demonstrations import Demonstrations, DemonstrationWriter
from paragone.multimodal.agent.reflection import prefer

__all__ = ["Parts", "Run", "TrainedAgent"]

_SEEDS = {"collect": 0, "mistakes": 500_000, "bootstrap": 700_000, "check": 900_000}
"""First seed of each stage."""
_SHIFT, _SHIFTS = 7_919, 12
"""Seeds between runs of different seeds, and how many such runs share none."""
_MOST_PAIRS = 3000
_SHARE_OF_MISTAKES = 0.25
"""Share of what is imitated again that is about mistakes, where there are enough."""
_MOST_REPEATS = 6
_AGAIN = 5e-3
"""Largest learning rate of imitation that goes on, by Muon: a quarter of the first one."""
_PREFER = 2e-4
"""Largest learning rate of preference; 5e-5 moved nothing."""
_FEWEST_PAIRS = 64
"""Of fewer pairs it learns less than the steps spoil: 18 took 7 points."""
_PUBLISHED_EVERY = 60.0
_IN_A_ROW = 8
"""Exercises of a task that follow each other: a page that is open already costs less."""


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a training is made with, as import targets; others than the usual ones for own agents.

    Attributes:
        model: Class of the agent, with `from_pretrained` and `save_pretrained`.
        build: Called with samples and `encoder`, `preset`, `history`, `seed`; a new agent.
        imitate: Called with agent, samples, `seconds`, `seed`, `out`, `progress`; trains it.
        browser: What makes a browser.
    """

    model: str = "paragone.multimodal.ui_tars:UITars"
    build: str = "paragone.multimodal.agent.train_agent:built"
    imitate: str = "paragone.multimodal.agent.imitation:imitate"
    browser: str = "paragone.multimodal.agent.browser:Browser"


@dataclasses.dataclass(frozen=True)
class TrainedAgent:
    """What a training has come to.

    Attributes:
        folder: The agent's.
        success: Task to the share of the last check's exercises that succeeded.
        seconds: Seconds, over all parts of the run.
        stages: What each stage came to.
        notes: Remarks, in lines.
    """

    folder: Path
    success: dict[str, float]
    seconds: float
    stages: dict[str, dict[str, Any]]
    notes: tuple[str, ...] = ()


class Run:
    """The stages, each of which goes on where it ended.

    Args:
        folder: The run's, and the agent's.
        ledger: Its book.
        tasks: Kinds of exercises.
        given: Demonstrations that were given (empty: they are collected).
        workers: Browsers at once.
        device: Where it is trained.
        parts: What it is made with.
    """

    def __init__(
        self, folder: Path, ledger: Ledger, tasks: list[Task], given: list[Demonstrations],
        workers: int, device: str, parts: Parts,
    ) -> None:  # fmt: skip
        self.folder, self.ledger, self.tasks, self.given = folder, ledger, tasks, given
        self.workers, self.device, self.parts = workers, device, parts
        self.asked = ledger.asked
        self.notes: list[str] = []
        self.model: Any = None
        self._published = time.monotonic()

    def all(self) -> TrainedAgent:
        """Runs what is not done yet."""
        stages: tuple[tuple[str, Callable[[float], dict[str, Any]]], ...] = (
            ("collect", self.collect), ("imitate", self.imitate), ("mistakes", self.mistakes),
            ("bootstrap", self.bootstrap), ("again", self.again), ("prefer", self.prefer),
            ("check", self.check),
        )  # fmt: skip
        for name, stage in stages:
            if not self.ledger.finished(name):
                facts = stage(self.ledger.begin(name))
                self.ledger.end(name, **facts)
                append_line(
                    self.folder / "metrics.jsonl",
                    {"stage": name, "seconds": round(self.ledger.seconds, 3), **numbers(facts)},
                )
        self.ledger.tell("end")
        success = self.ledger.stages.get("check", {}).get("success", {})
        return TrainedAgent(
            self.folder, success, self.ledger.seconds, self.ledger.stages, tuple(self.notes)
        )

    def note(self, text: str) -> None:
        """A remark to the user."""
        self.notes.append(text)
        self.ledger.tell("note", text)

    # Stages with a browser.

    def collect(self, seconds: float) -> dict[str, Any]:
        """Demonstrations by the judge."""
        options = {"screenshots": self.asked["history"], "noise": self.asked["noise"]}
        jobs = self._evenly("collect", "demonstrations", _IN_A_ROW)
        tally = self._worked("demonstrate", "demonstrations", jobs, options)
        if not tally.samples:
            raise ValueError(
                f"no demonstration was collected in {seconds:.0f} s: {tally.error or 'no success'};"
                " give it more minutes, or other tasks"
            )
        return tally.facts("success")

    def mistakes(self, seconds: float) -> dict[str, Any]:
        """States where the agent errs, and what is right there."""
        jobs = self._where_it_pays("mistakes", "mistakes", "mistake")
        return self._worked("mistakes", "mistakes", jobs, {}, self.folder / "sft").facts("mistakes")

    def bootstrap(self, seconds: float) -> dict[str, Any]:
        """Its own successes."""
        jobs = self._where_it_pays("bootstrap", "bootstrap", "samples")
        tally = self._worked("bootstrap", "bootstrap", jobs, {}, self.folder / "sft")
        return {**tally.facts("success"), "refused": dict(tally.refused)}

    def check(self, seconds: float) -> dict[str, Any]:
        """Exercises that it has not seen, each task at least once; the better agent stays.

        Preference may take away more than it gives, and so may what is learned again: the last two
        agents do the same exercises, and the earlier one stays if it is the better.
        """
        last = [name for name in ("preference", "again", "sft")
                if (self.folder / name / "config.json").exists()][:2]  # fmt: skip
        done: dict[str, Tally] = {}
        for number, name in enumerate(last):
            place = f"check/{name}"
            rest = seconds * (len(last) - 1 - number) / len(last)
            done[name] = self._worked(
                "check", place, self._evenly("check", place), {}, self.folder / name,
                len(self.tasks), rest,
            )  # fmt: skip
        rated = common_success([done[name] for name in last])
        best = last[int(np.argmax(rated))]
        if best != last[0]:
            publish(self._opened(best), self.folder)
            self.note(f"the agent of {best}/ did better than that of {last[0]}/, and stays")
        facts = done[best].facts("success")
        shown = ", ".join(f"{name} {share:.0%}" for name, share in facts["success"].items())
        self.note(f"unseen exercises of training: {shown}")
        return {**facts, "agent": best, "compared": dict(zip(last, rated, strict=True))}

    def _worked(
        self, kind: Any, name: str, jobs: Iterator[Job], options: dict[str, Any],
        agent: Path | None = None, least: int = 0, rest: float = 0.0,
    ) -> Tally:  # fmt: skip
        """Carries out jobs until the stage's time is up but for a rest; keeps what comes back."""
        place = self.folder / name
        work = Work(
            kind, tuple(self.tasks), place, agent, self.parts.model, self.parts.browser, options
        )
        tally = self.tally = Tally(self.tasks, read_lines(place / "done.jsonl"))
        with DemonstrationWriter(place) as pen:
            for told in carried_out(
                work, jobs, workers=self.workers,
                stop=lambda: self.ledger.left <= rest and tally.tried >= least,
            ):  # fmt: skip
                pen.append(told.pop("lines"))
                append_line(place / "done.jsonl", told)
                tally.add(told)
                self.ledger.tell("step", str(tally), tally.numbers())
        return tally

    def _first(self, stage: str) -> int:
        return _SEEDS[stage] + _SHIFT * (int(self.asked["seed"]) % _SHIFTS)

    def _evenly(self, stage: str, name: str, row: int = 1) -> Iterator[Job]:
        """All tasks with a row of seeds, then with the next; without what is done."""
        done = {(x["task"], x["seed"]) for x in read_lines(self.folder / name / "done.jsonl")}
        first = self._first(stage)
        while True:
            for at, task in enumerate(self.tasks):
                for seed in range(first, first + row):
                    if (task.name, seed) not in done:
                        yield at, seed
            first += row

    def _where_it_pays(self, stage: str, name: str, key: str) -> Iterator[Job]:
        """Tasks by how often they have given something so far; each has its own seeds."""
        first = self._first(stage)
        done = read_lines(self.folder / name / "done.jsonl")
        following = {
            task.name: max([x["seed"] + 1 for x in done if x["task"] == task.name], default=first)
            for task in self.tasks
        }
        draws = np.random.default_rng([int(self.asked["seed"]), first, len(done)])
        while True:
            tries, hits = self.tally.tries, self.tally.gave
            weights = np.array([(hits[t.name] + 1) / (tries[t.name] + 2) for t in self.tasks])
            at = int(draws.choice(len(self.tasks), p=weights / weights.sum()))
            name = self.tasks[at].name
            for _ in range(_IN_A_ROW // 2):
                yield at, following[name]
                following[name] += 1

    # Stages that learn.

    def imitate(self, seconds: float) -> dict[str, Any]:
        """Supervised learning from demonstrations; what comes out is kept as it is."""
        first, *more = self._shown()
        samples = first.concat(*more) if more else first
        model = self._placed(resolve(self.parts.build)(
            samples, encoder=self.asked["encoder"], preset=self.asked["preset"],
            history=self.asked["history"], seed=self.asked["seed"],
        ))  # fmt: skip
        if not (self.folder / "imitation" / "last.pt").exists():
            publish(model, self.folder)
        facts = self._imitated(model, samples, "imitation")
        publish(model, self.folder / "sft")
        publish(model, self.folder)
        return facts

    def again(self, seconds: float) -> dict[str, Any]:
        """Imitation goes on, with mistakes and successes."""
        mistakes, kept = self._own("mistakes"), self._own("bootstrap")
        model = self._placed(self._opened("sft"))
        facts: dict[str, Any] = {"samples": len(mistakes) + len(kept)}
        if facts["samples"]:
            first, *more = self._shown()
            count = len(first) + sum(map(len, more)) + len(kept)
            wanted = _SHARE_OF_MISTAKES * count / (1 - _SHARE_OF_MISTAKES)
            repeats = min(max(round(wanted / max(len(mistakes), 1)), 1), _MOST_REPEATS)
            parts = [part for part in (*more, kept, *[mistakes] * repeats) if len(part)]
            facts |= self._imitated(model, first.concat(*parts), "again", lr=_AGAIN)
        publish(model, self.folder / "again")
        publish(model, self.folder)
        return facts

    def prefer(self, seconds: float) -> dict[str, Any]:
        """Right actions against its own wrong ones."""
        mistakes = list(self._own("mistakes")[:_MOST_PAIRS])
        pairs = sum(len(sample.rejected) for sample in mistakes)
        if not pairs:
            self.note("the agent made no mistake that could be learned from")
            return {"pairs": 0}
        if pairs < _FEWEST_PAIRS:
            self.note(f"{pairs} pairs of a right and a wrong action are too few for preference")
            return {"pairs": pairs, "steps": 0}
        there = (self.folder / "again" / "config.json").exists()
        self.model = model = self._placed(self._opened("again" if there else "sft"))
        draws = np.random.default_rng([int(self.asked["seed"]), 3])
        shown = self._shown()
        some = shown[0].concat(*shown[1:])
        replayed = [some[int(at)] for at in draws.integers(len(some), size=pairs)]
        plain = [dataclasses.replace(sample, rejected=()) for sample in replayed]
        done = prefer(
            model, [*mistakes, *plain], seconds=self.ledger.granted(), seed=self.asked["seed"],
            lr=_PREFER, out=self.folder / "preference", progress=self._heard,
        )  # fmt: skip
        publish(model, self.folder)
        for line in done.notes:
            self.note(line)
        return {
            "pairs": done.pairs, "margin": done.margin, "accuracy": done.accuracy,
            "steps": done.steps,
        }  # fmt: skip

    def _imitated(
        self, model: Any, samples: Sequence[Sample], name: str, **options: Any
    ) -> dict[str, Any]:
        self.model = model
        place = self.folder / name
        resolve(self.parts.imitate)(
            model, samples, seconds=self.ledger.granted(), seed=self.asked["seed"], out=place,
            progress=self._heard, **options,
        )  # fmt: skip
        model.eval()
        history = read_lines(place / "metrics.jsonl")
        return {**numbers(history[-1] if history else {}), "samples": len(samples)}

    def _heard(self, event: Progressed) -> None:
        """Hands on what a loop tells; now and then the run's folder gets the model as it is."""
        if event.kind == "note":
            self.ledger.tell("note", event.text)
            return
        metrics = {"loss": event.loss, **event.metrics}
        self.ledger.tell("step", f"step {event.step}", metrics)
        late = time.monotonic() - self._published > _PUBLISHED_EVERY
        if event.kind == "validated" or late:
            line = {"stage": self.ledger.stage, "seconds": round(self.ledger.seconds, 3)}
            append_line(
                self.folder / "metrics.jsonl", {**line, "step": event.step, **numbers(metrics)}
            )
            publish(self.model, self.folder)
            self._published = time.monotonic()

    def _opened(self, name: str) -> Any:
        """The agent as a stage left it."""
        return resolve(self.parts.model).from_pretrained(self.folder / name)

    def _placed(self, model: Any) -> Any:
        """The model where it is to be trained."""
        import torch

        device = self.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        return model.to(torch.device(device))

    def _shown(self) -> list[Demonstrations]:
        return self.given or [Demonstrations(self.folder / "demonstrations")]

    def _own(self, name: str) -> Sequence[Sample]:
        """Samples of a stage with a browser; none if it was not part of the run."""
        path = self.folder / name / "samples.jsonl"
        return Demonstrations(path.parent) if path.exists() else []
