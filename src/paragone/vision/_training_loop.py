r"""The loop of a training run: steps, validations, states to go on from.

Every step depends on the recipe, the seed and its number alone: its images, and what torch draws
in it. A state is written after each validation, twice a minute and on Ctrl-C; from any of them
the run goes on to the same weights, bit for bit, as long as it is limited by epochs. A run with a
budget goes by the clock: the share of the schedule that is done is the larger of steps and seconds,

$$ p = \max\Bigl( \frac{\text{step}}{\text{steps}}, \;
   \frac{\text{seconds}}{\text{budget} - \text{one validation}} \Bigr) . $$

References:
    Tan and Le (2021), "EfficientNetV2", arXiv:2104.00298, section 4 (progressive resizing).
    Milletari et al. (2016), "V-Net", arXiv:1606.04797, eq. 2-3 (soft Dice).
    Zhang et al. (2018), "mixup", arXiv:1710.09412, eq. 2.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from paragone.training.by_name import make_optimizer
from paragone.training.precision import MixedPrecision
from paragone.training.run_folder import Folder, Interrupt, seeded
from paragone.vision._data_sets import IGNORED, ImageData
from paragone.vision._training_feed import Batch, Feed
from paragone.vision._training_recipe import Recipe, rate
from paragone.vision._training_state import Average
from paragone.vision._training_use import PRIMARY, Inputs, evaluate

__all__ = ["Loop", "Progressed", "batch_loss", "frozen", "segment_loss"]

_SAVE_EVERY = 30.0
_MOST_BAD = 10
_FULL_SIZE_FROM = 0.7
"""Share of a run at which progressive resizing reaches the full size."""


@dataclasses.dataclass(frozen=True)
class Progressed:
    """One event of a run.

    Attributes:
        kind: "note", "step", "validated" or "end".
        epoch: Epochs begun.
        epochs: Of how many; None: as the budget allows.
        done: Share of the run that is done.
        loss: Mean loss of this epoch so far.
        metrics: Of the last validation.
        rate: Images in a second.
        seconds: Seconds of the run so far, over all its parts.
        left: Seconds that it will still take, or None.
        text: What a note says.
    """

    kind: str
    epoch: int = 0
    epochs: int | None = None
    done: float = 0.0
    loss: float = math.nan
    metrics: dict[str, Any] = dataclasses.field(default_factory=dict)
    rate: float = math.nan
    seconds: float = 0.0
    left: float | None = None
    text: str = ""


def frozen(network: nn.Module, prefixes: tuple[str, ...]) -> list[nn.Module]:
    """Takes the parts with these names out of training and returns them.

    Raises:
        ValueError: The network has no such part.
    """
    parts = dict(network.named_modules())
    for prefix in prefixes:
        if prefix not in parts or not prefix:
            some = ", ".join(n for n, _ in network.named_children())
            raise ValueError(f"freeze={prefix!r}: the network has no such part, only {some}, …")
        parts[prefix].requires_grad_(False)
    return [parts[prefix] for prefix in prefixes]


def segment_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Cross-entropy of pixels plus one minus the mean soft Dice of the classes that occur.

    The second part weighs a class as another, however few its pixels are.
    """
    counted = masks != IGNORED
    total = functional.cross_entropy(logits, masks, ignore_index=IGNORED, reduction="sum")
    entropy = total / counted.sum().clamp(min=1)
    shares = logits.softmax(1) * counted[:, None]
    truth = functional.one_hot(masks * counted, logits.shape[1]).movedim(-1, 1) * counted[:, None]
    both = (shares * truth).sum((0, 2, 3))
    sizes = truth.sum((0, 2, 3))
    dice = (2 * both + 1) / (shares.sum((0, 2, 3)) + sizes + 1)
    there = (sizes > 0).float()
    return entropy + 1 - ((dice * there).sum() + 1e-6) / (there.sum() + 1e-6)


def batch_loss(network: nn.Module, batch: Batch, inputs: Inputs, recipe: Recipe) -> Tensor:
    """The loss of one batch."""
    x = inputs.tensor(batch.images)
    if batch.labels is not None:
        labels = torch.from_numpy(batch.labels).to(x.device)
        if batch.mix < 1:
            x = batch.mix * x + (1 - batch.mix) * x.roll(1, 0)
        answer = network(x)
        beside = getattr(answer, "auxiliary", ())
        total = torch.zeros((), device=x.device)
        for share, logits in (
            (1.0, getattr(answer, "logits", answer)),
            *((0.3, b) for b in beside),
        ):
            smooth = recipe.label_smoothing
            loss = functional.cross_entropy(logits.float(), labels, label_smoothing=smooth)
            if batch.mix < 1:
                other = functional.cross_entropy(
                    logits.float(), labels.roll(1), label_smoothing=smooth
                )
                loss = batch.mix * loss + (1 - batch.mix) * other
            total = total + share * loss
        return total
    if batch.masks is not None:
        masks = torch.from_numpy(batch.masks).to(x.device).long()
        logits = network(x).float()
        return segment_loss(logits, masks)
    assert batch.boxes is not None
    assert batch.box_labels is not None
    targets = [
        {"boxes": torch.from_numpy(b).float().to(x.device),
         "labels": torch.from_numpy(k).to(x.device)}
        for b, k in zip(batch.boxes, batch.box_labels, strict=True)
    ]  # fmt: skip
    return torch.stack(list(network(x, targets).values())).sum()


class Loop:
    """One run.

    Args:
        recipe: How to train.
        data: What on.
        network: What is trained.
        inputs: How pixels become what it takes.
        folder: Where states go, or None.
        progress: Called with each event.
        workers: Threads that make batches.
        begun: When the run began, on the monotonic clock.
    """

    def __init__(
        self, recipe: Recipe, data: ImageData, network: nn.Module, inputs: Inputs,
        folder: Folder | None, progress: Callable[[Progressed], None], workers: int,
        begun: float,
    ) -> None:  # fmt: skip
        self.recipe, self.data, self.network, self.inputs = recipe, data, network, inputs
        self.folder, self.progress = folder, progress
        self.still = frozen(network, recipe.freeze)
        self.feed = Feed(data.train, recipe, workers)
        self.average = Average(network) if recipe.ema else None
        optimizer = make_optimizer(
            network, recipe.optimizer, lr=recipe.lr, weight_decay=recipe.weight_decay
        )
        self.rates = [float(group["lr"]) / recipe.lr for group in optimizer.param_groups]
        self.mixed = MixedPrecision(network, optimizer, inputs.precision, group=False)  # pyright: ignore
        self.epoch = self.step = 0
        self.finished = False
        self.total = self.counted = 0.0
        self.history: list[dict[str, Any]] = []
        self.best: float | None = None
        self.chosen: dict[str, Any] = {}
        self.kept: dict[str, Tensor] = {}
        self.validation_seconds = 0.0
        self._before, self._begun = 0.0, begun
        self._saved = self._told = self._validated = time.monotonic()
        self._bad = self._seen = 0

    @property
    def seconds(self) -> float:
        """Seconds of the run, those before an interruption included."""
        return self._before + time.monotonic() - self._begun

    def done(self, step: int | None = None) -> float:
        """Share of the run that is done at a step of this epoch."""
        step = self.step if step is None else step
        shares = [0.0]
        if self.recipe.epochs is not None:
            shares.append((self.epoch + step / self.feed.steps) / self.recipe.epochs)
        if self.recipe.budget is not None:
            usable = max(self.recipe.budget - self.validation_seconds, 1e-3)
            shares.append(self.seconds / usable)
        return min(1.0, max(shares))

    def _size(self, step: int) -> int:
        first, full = self.recipe.progressive, self.recipe.size
        if first == 1:
            return full
        share = first + (1 - first) * min(1.0, self.done(step) / _FULL_SIZE_FROM)
        return min(full, max(16, round(full * share / 16) * 16))

    def go(self) -> None:
        """Trains until all is done.

        Raises:
            KeyboardInterrupt: Ctrl-C, after the state was written.
        """
        with Interrupt() as interrupt:
            while not self.finished:
                self._epoch(interrupt)
        self._tell("end")

    def _epoch(self, interrupt: Interrupt) -> None:
        start = self.step
        ahead = iter(range(start, self.feed.steps))
        batches = self.feed.epoch(self.epoch, start, lambda: self._size(next(ahead)))
        self.network.train()
        for part in self.still:
            part.eval()
        with contextlib.closing(batches):
            for batch in batches:
                self._one(batch)
                if self.done() >= 1 and self.step < self.feed.steps:
                    break
                if interrupt.pending:
                    self.save()
                    raise KeyboardInterrupt
                now = time.monotonic()
                if now - self._told > 0.5:
                    self._tell("step")
                if now - self._saved > _SAVE_EVERY:
                    self.save()
        self.epoch, self.step = self.epoch + 1, 0
        self.finished = self.done() >= 1
        if self.finished or self._is_time_to_validate():
            self._validate()
        self.total = self.counted = 0.0
        if self._validated > self._saved or time.monotonic() - self._saved > _SAVE_EVERY:
            self.save()
        if interrupt.pending and not self.finished:
            self.save()
            raise KeyboardInterrupt

    def _one(self, batch: Batch) -> None:
        lr = rate(self.recipe, self.done())
        for group, share in zip(self.mixed.optimizers[0].param_groups, self.rates, strict=True):
            group["lr"] = share * lr
        with seeded(self.recipe.seed, self.epoch, self.step):
            with self.mixed.autocast():
                loss = batch_loss(self.network, batch, self.inputs, self.recipe)
            self.mixed.zero_grad()
            self.mixed.backward(loss)
        self.mixed.step(self.recipe.clip_norm)
        value = float(loss.detach())
        self._bad = 0 if math.isfinite(value) else self._bad + 1
        if self._bad >= _MOST_BAD:
            raise ValueError(
                f"the loss is {value} for {_MOST_BAD} steps (epoch {self.epoch + 1}, step "
                f"{self.step + 1}): lower lr={self.recipe.lr}, or set clip_norm"
            )
        if self.average is not None:
            self.average.update(self.network)
        self.step += 1
        self.total += value
        self.counted += 1
        self._seen += len(batch.images)

    def _is_time_to_validate(self) -> bool:
        if self.recipe.budget is not None:
            return time.monotonic() - self._validated >= 9 * self.validation_seconds
        assert self.recipe.epochs is not None
        return self.epoch % max(1, self.recipe.epochs // 20) == 0

    def _validate(self) -> None:
        network = self.network if self.average is None else self.average.network
        begun = time.monotonic()
        metrics: dict[str, Any] = {}
        if len(self.data.validation):
            metrics = evaluate(network, self.data.validation, self.data.classes, self.inputs,
                               max(self.recipe.batch, 16))  # fmt: skip
        self._validated = time.monotonic()
        self.validation_seconds = self._validated - begun
        loss = self.total / max(self.counted, 1)
        self.history.append({"epoch": self.epoch, "loss": loss, **metrics})
        score = metrics.get(PRIMARY[self.recipe.task])
        better = self.best is None or score is None or score > self.best
        if better or self.recipe.keep == "last":
            self.best, self.chosen = score, {"epoch": self.epoch, **metrics}
            self._keep(network)
        self._tell("validated", metrics)

    def _keep(self, network: nn.Module) -> None:
        if self.folder is not None:
            self.folder.write_model(network, {"epoch": str(self.epoch)})
        else:
            self.kept = {k: v.detach().clone() for k, v in network.state_dict().items()}

    def _tell(self, kind: str, metrics: dict[str, Any] | None = None) -> None:
        self._told = now = time.monotonic()
        done = self.done()
        here = now - self._begun
        left = self.seconds * (1 - done) / done if done > 0.01 else None
        epoch = self.epoch + (kind == "step")
        self.progress(Progressed(
            kind, epoch, self.recipe.epochs,
            done, self.total / max(self.counted, 1), metrics or {}, self._seen / max(here, 1e-9),
            self.seconds, left,
        ))  # fmt: skip

    def save(self) -> None:
        """Writes the state to go on from."""
        self._saved = time.monotonic()
        if self.folder is None:
            return
        average = self.average
        self.folder.write_metrics(self.history)
        self.folder.write_last({
            "epoch": self.epoch, "step": self.step, "seconds": self.seconds,
            "finished": self.finished, "total": self.total, "counted": self.counted,
            "history": self.history, "best": self.best, "chosen": self.chosen,
            "validation_seconds": self.validation_seconds,
            "network": self.network.state_dict(),
            "optimizer": self.mixed.optimizers[0].state_dict(),
            "mixed": self.mixed.state_dict(),
            "average": None if average is None else average.network.state_dict(),
            "average_steps": 0 if average is None else average.steps,
        })  # fmt: skip

    def load(self, state: dict[str, Any]) -> None:
        """Takes back what `save` wrote."""
        for name in ("epoch", "step", "finished", "total", "counted", "history", "best", "chosen",
                     "validation_seconds"):  # fmt: skip
            setattr(self, name, state[name])
        self._before = state["seconds"]
        self.network.load_state_dict(state["network"])
        self.mixed.optimizers[0].load_state_dict(state["optimizer"])
        self.mixed.load_state_dict(state["mixed"])
        if self.average is not None:
            self.average.network.load_state_dict(state["average"])
            self.average.steps = state["average_steps"]
