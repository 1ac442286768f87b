r"""The loop under `train`, `finetune`, `dpo` and `reward_model`: steps, states, events.

A step takes its micro-batches, adds up their gradients, and divides by what was counted in all of
them, on all ranks. Dividing each by its own count would weigh tokens of short batches more:

$$ g = \frac{\sum_r \sum_i \nabla\, \mathrm{total}_{r,i}}{\sum_r \sum_i \mathrm{count}_{r,i}} ,
   \qquad \eta(p) = \eta_0 \cdot
   \begin{cases} p / w & p < w \\
   f + (1 - f)\,\frac{1 + \cos(\pi (p - w) / (1 - w))}{2} & \text{else} \end{cases} , $$

with p the share of the run that is done, w the share of warm-up and f that of the last rate.
Every step depends on the recipe, the seed and its own number alone, and a state is written every
half minute and on Ctrl-C: a run that goes on comes to the same weights, bit for bit. A run that is
bounded by seconds goes by the clock as well, and then may not.

References:
    Loshchilov and Hutter (2017), "SGDR", arXiv:1608.03983, eq. 5 (the cosine).
    Hu et al. (2024), "MiniCPM", arXiv:2404.06395, section 4 (warm-up, stable, decay).
    Rajbhandari et al. (2020), "ZeRO", arXiv:1910.02054, section 5.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from paragone.language import _train_hosts as hosts
from paragone.language._train_ranks import Ranks, Way
from paragone.training.run_folder import Folder, Interrupt, seeded, write_whole

__all__ = ["Loop", "Loss", "Progressed", "Recipe", "rate"]

_SAVE_EVERY = 30.0
_TELL_EVERY = 0.5
_MOST_BAD = 10
_POINTS = 200
"""Lines of the history that a run of any length has, about."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to train, apart from what on.

    Args:
        steps: Steps of the optimizer.
        lr: Largest learning rate.
        warmup: Share of the run in which the rate rises.
        schedule: "cosine", "linear", "constant", or "wsd": constant, and linear at the end.
        final: Last rate as a share of `lr`.
        optimizer: A name of `paragone.training.by_name.OPTIMIZERS`.
        weight_decay: Decay of matrices.
        clip_norm: Largest norm of a step's gradients, or None.
        precision: "fp32", "bf16" or "fp16" (with a scaled loss).
        seed: Of what is drawn in steps.
        seconds: Budget: the schedule ends with it, if it ends before the steps do.
        evaluate_every: Steps between validations (None: only at the end).
        zero: ZeRO stage under several ranks; 0: each has everything.
        engine: "own" or "fsdp2" (for stage 3).
        optimizer_options: Further arguments of the optimizer, e.g. betas.

    Raises:
        ValueError: A value out of range.
    """

    steps: int
    lr: float = 1e-3
    warmup: float = 0.05
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    final: float = 0.1
    optimizer: str = "adamw"
    weight_decay: float = 0.0
    clip_norm: float | None = 1.0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    seed: int = 0
    seconds: float | None = None
    evaluate_every: int | None = None
    zero: int = 0
    engine: Literal["own", "fsdp2"] = "own"
    optimizer_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps={self.steps}: at least 1")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr={self.lr}: a rate above 0 is expected")
        for name in ("warmup", "final"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}: a share from 0 to 1 is expected")
        if self.schedule not in ("cosine", "linear", "constant", "wsd"):
            raise ValueError(f"schedule={self.schedule!r} is none of cosine, linear, constant, wsd")
        if self.precision not in ("fp32", "bf16", "fp16"):
            raise ValueError(f"precision={self.precision!r} is none of fp32, bf16, fp16")
        if self.seconds is not None and not self.seconds > 0:
            raise ValueError(f"seconds={self.seconds}: a budget above 0 is expected")
        if self.zero not in (0, 1, 2, 3):
            raise ValueError(f"zero={self.zero} is none of 0, 1, 2, 3")


def rate(recipe: Recipe, done: float) -> float:
    """Learning rate when a share of the run is done.

    Example:
        >>> rate(Recipe(10, lr=1.0, warmup=0.0, final=0.0), 0.5)
        0.5
    """
    if done < recipe.warmup:
        return recipe.lr * done / recipe.warmup
    share = min(1.0, (done - recipe.warmup) / max(1 - recipe.warmup, 1e-9))
    if recipe.schedule == "constant":
        return recipe.lr
    if recipe.schedule == "wsd":
        share = max(0.0, (share - 0.8) / 0.2)
    fall = (1 + math.cos(math.pi * share)) / 2 if recipe.schedule == "cosine" else 1 - share
    return recipe.lr * (recipe.final + (1 - recipe.final) * fall)


@dataclasses.dataclass(frozen=True)
class Loss:
    """What a micro-batch gives.

    Attributes:
        total: Sum over what counts, a scalar with a gradient.
        count: How much counts: tokens, pairs.
        metrics: Further sums, and their counts.
        tokens: Tokens that were worked on, for the speed (None: the count).
    """

    total: Tensor
    count: Tensor | int | float
    metrics: Mapping[str, tuple[Tensor | float, Tensor | int | float]] = dataclasses.field(
        default_factory=dict
    )
    tokens: int | None = None


@dataclasses.dataclass(frozen=True)
class Progressed:
    """One event of a run.

    Attributes:
        kind: "note", "step", "validated" or "end".
        step: Steps done.
        steps: Of how many.
        loss: Mean loss since the last line of the history.
        metrics: Means of the same span; of a validation, its own.
        tokens_per_second: Speed since the run began or went on.
        seconds: Seconds of the run so far, over all its parts.
        left: Seconds that it will still take, or None.
        text: What a note says.
        done: Share of the run that is done.
    """

    kind: str
    step: int = 0
    steps: int = 0
    loss: float = math.nan
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    tokens_per_second: float = math.nan
    seconds: float = 0.0
    left: float | None = None
    text: str = ""
    done: float = 0.0


class Loop:
    """One run.

    Args:
        model: What is trained: all parameters that require a gradient.
        recipe: How.
        batch: Step to its micro-batches, on this rank; a function of the step alone.
        loss: Micro-batch to its `Loss`.
        folder: Where states go (None: nowhere). The same call with it goes on.
        progress: Called with each event.
        evaluate: Returns metrics; on several ranks called on each, and to agree on all.
        identity: What else makes this run this run, as JSON; another one is refused.
        export: Called on the first rank after a validation, with the model whole: writes it.
        after: Called after each step of the optimizer.
        begun: When the run began, on the monotonic clock (None: now).

    Attributes:
        step: Steps done.
        history: A dict for each line of metrics.jsonl.
        finished: Whether all is done.

    Raises:
        ValueError: The folder holds another run.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        batch: Callable[[int], Sequence[Any]],
        loss: Callable[[Any], Loss],
        folder: str | os.PathLike[str] | Folder | None = None,
        progress: Callable[[Progressed], None] | None = None,
        evaluate: Callable[[], Mapping[str, float]] | None = None,
        *,
        identity: Mapping[str, Any] | None = None,
        export: Callable[[Folder], None] | None = None,
        after: Callable[[], Any] | None = None,
        begun: float | None = None,
    ) -> None:
        self.model, self.recipe, self.batch, self.loss = model, recipe, batch, loss
        self.folder = Folder(folder) if isinstance(folder, str | os.PathLike) else folder
        self.evaluate, self.export, self.after = evaluate, export, after
        self.ranks = Ranks()
        self._listener = progress if self.ranks.first else None
        self.identity = _plain({**dataclasses.asdict(recipe), **(identity or {})})
        self.step, self.finished = 0, False
        self.history: list[dict[str, Any]] = []
        self._sums: dict[str, list[float]] = {}
        self._before, self._begun = 0.0, time.monotonic() if begun is None else begun
        self._evaluation = 0.0
        self._bad, self._tokens, self._spent = 0, 0, 0.0
        self._saved = self._told = self._started = time.monotonic()
        self._from = 0.0
        state = self._continued()
        self.way = Way(model, recipe, loss, self.ranks, None if state is None else "zero" in state)
        if state is not None:
            self._load(state)
            self._say(Progressed("note", text=f"goes on from step {self.step}"))

    @property
    def seconds(self) -> float:
        """Seconds of the run, those before an interruption included."""
        return self._before + time.monotonic() - self._begun

    def done(self) -> float:
        """Share of the run that is done."""
        share = self.step / self.recipe.steps
        if self.recipe.seconds is not None:
            usable = max(self.recipe.seconds - self._evaluation, 1e-3)
            share = max(share, self.ranks.agreed(self.seconds / usable))
        return min(1.0, share)

    def run(self) -> list[dict[str, Any]]:
        """Trains until all is done, and returns the history.

        Raises:
            KeyboardInterrupt: Ctrl-C, after the state was written.
            ValueError: The loss is no number for several steps.
            LostRankError: Another rank has ended, or does not answer.
        """
        try:
            done = self._steps()
        except RuntimeError as error:
            lost = hosts.lost(error, self.ranks, self.step)
            if lost is None:
                raise
            raise lost from error
        self._tell("end", done)
        return self.history

    def _steps(self) -> float:
        with Interrupt() as interrupt:
            self.model.train()
            done = self._from = self.done()
            self._started = time.monotonic()
            while not self.finished:
                self._one(done)
                done = self.done()
                self.finished = done >= 1
                every = self.recipe.evaluate_every
                if self.finished or (every and self.step % every == 0):
                    self._validate(done)
                elif self.step % max(1, self.recipe.steps // _POINTS) == 0:
                    self._record(done, {})
                self._between(done, bool(self.ranks.agreed(float(interrupt.pending))))
        return done

    def _between(self, done: float, stop: bool) -> None:
        now = time.monotonic()
        if now - self._told > _TELL_EVERY:
            self._tell("step", done)
        late = bool(self.ranks.agreed(float(now - self._saved > _SAVE_EVERY)))
        if stop or self.finished or late:
            self.save()
        if stop and not self.finished:
            with self.way.for_evaluation():
                self._export()
            raise KeyboardInterrupt

    def _one(self, done: float) -> None:
        begun = time.monotonic()
        micros = self.batch(self.step)
        if not micros:
            raise ValueError(f"batch({self.step}) gave no micro-batch; at least one is expected")
        # The rate of a step is that of its middle: the first one moves, too.
        self.way.set_rate(rate(self.recipe, min(1.0, done + 0.5 / self.recipe.steps)))
        with seeded(self.recipe.seed, self.step, self.ranks.rank):
            sums, tokens = self.way.step(micros)
            if self.after is not None:
                self.after()
        total, count = sums["loss"]
        self._bad = 0 if math.isfinite(total) else self._bad + 1
        if self._bad >= _MOST_BAD:
            raise ValueError(
                f"the loss is {total / max(count, 1)} for {_MOST_BAD} steps (step {self.step + 1}):"
                f" lower lr={self.recipe.lr}, or set clip_norm"
            )
        for name, (value, weight) in sums.items():
            so_far = self._sums.setdefault(name, [0.0, 0.0])
            so_far[0] += value
            so_far[1] += weight
        self.step += 1
        self._tokens += tokens
        self._spent += time.monotonic() - begun

    def _means(self) -> dict[str, float]:
        return {name: a / b if b else math.nan for name, (a, b) in self._sums.items()}

    def _record(self, done: float, metrics: Mapping[str, float]) -> None:
        line = {"step": self.step, "seconds": round(self.seconds, 3), **self._means(), **metrics}
        self.history.append(line)
        self._last = self._means()
        self._sums = {}

    def _validate(self, done: float) -> None:
        begun = time.monotonic()
        metrics: Mapping[str, float] = {}
        with self.way.for_evaluation():
            if self.evaluate is not None:
                self.model.eval()
                with torch.no_grad():
                    metrics = dict(self.evaluate())
                self.model.train()
            loss = self._means().get("loss", math.nan)
            self._record(done, metrics)
            self._evaluation = time.monotonic() - begun
            self._export()
        self._tell("validated", done, metrics, loss)

    def _export(self) -> None:
        with self.way.whole():
            if self.export is not None and self.folder is not None and self.ranks.first:
                self.export(self.folder)

    def _tell(
        self, kind: str, done: float, metrics: Mapping[str, float] | None = None,
        loss: float | None = None,
    ) -> None:  # fmt: skip
        self._told = time.monotonic()
        means = self._means() or getattr(self, "_last", {})
        here, went = time.monotonic() - self._started, done - self._from
        left = here * (1 - done) / went if went > 0.002 else None
        self._say(Progressed(
            kind, self.step, self.recipe.steps,
            means.get("loss", math.nan) if loss is None else loss,
            {k: v for k, v in means.items() if k != "loss"} if metrics is None else metrics,
            self._tokens / max(self._spent, 1e-9), self.seconds, left, "", done,
        ))  # fmt: skip

    def _say(self, event: Progressed) -> None:
        if self._listener is not None:
            self._listener(event)

    def save(self) -> None:
        """Writes the state to go on from; with ZeRO every rank must call it."""
        self._saved = time.monotonic()
        if self.folder is None:
            return
        state = self.way.state()
        if not self.ranks.first:
            return
        lines = "".join(json.dumps(line) + "\n" for line in self.history)
        write_whole(self.folder.path / "metrics.jsonl", lines.encode())
        self.folder.write_last({
            "step": self.step, "finished": self.finished, "seconds": self.seconds,
            "history": self.history, "sums": self._sums, "evaluation": self._evaluation, **state,
        })  # fmt: skip

    def _continued(self) -> dict[str, Any] | None:
        """The state of an earlier part of this run; another run is refused."""
        if self.folder is None:
            return None
        path = self.folder.path / "run.json"
        before = hosts.settings(self.folder, self.ranks)
        state, own = hosts.furthest(self.folder, self.ranks)
        if state is not None and before is not None:
            changed = [
                f"{key} (there {before.get(key)!r}, now {value!r})"
                for key, value in self.identity.items() if before.get(key) != value
            ]  # fmt: skip
            if changed:
                raise ValueError(
                    f"{self.folder.path} holds another run: {'; '.join(changed[:3])}; give another "
                    "folder, or delete this one to start anew"
                )
        self.ranks.wait()
        if self.ranks.first and (state is None or not own):
            self.folder.clean()
            write_whole(path, json.dumps(self.identity, indent=1).encode())
        return state

    def _load(self, state: dict[str, Any]) -> None:
        self.step, self.finished = state["step"], state["finished"]
        self.history, self._sums = state["history"], state["sums"]
        self._evaluation, self._before = state["evaluation"], state["seconds"]
        self.way.load(state)


def _plain(value: Any) -> Any:
    """As it comes back from JSON, so that the two can be compared."""
    return json.loads(json.dumps(value))
