r"""Training of draft heads on a model that stays as it is, or together with it.

Rows of the model's own samples are put into batches of rows of like length once; each epoch takes
the batches in another order. A frozen model gives the same streams in every epoch, so they are kept
where memory allows it,

$$ \min_\phi \sum_{\text{batches}} L_\phi(x, h), \qquad h = \mathrm{norm}(\text{stream}_\theta(x))
   \ \text{once, and for all epochs}, $$

and a step costs the heads alone. `fitting.Loop` does the rest: a run that goes on comes to the same
weights, bit for bit, unless it is bounded by seconds.

Cost: as much memory as `keep` allows; 4 M bytes a token.

References:
    Cai et al. (2024), arXiv:2401.10774, section 2.2 (heads alone, and jointly).

Shapes: R rows, T tokens of the longest, M model width.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from paragone.language._heads_data import HeadBatch, padded, streams
from paragone.language._preference_reference import weights_hash
from paragone.language.fitting import Loop, Loss, Progressed, Recipe
from paragone.language.losses import token_loss
from paragone.training.run_folder import Folder

__all__ = ["Fitted", "fit_heads", "held_out", "main_loss"]

_VALIDATIONS = 8
_EPOCHS = 4


@dataclasses.dataclass(frozen=True)
class Fitted:
    """What `fit_heads` returns.

    Attributes:
        history: A dict for each line: step, seconds, loss, what else the loss tells; at validations
            validation_* of all these.
        metrics: The last validation's.
        tokens: Tokens that were trained on, those of all epochs.
        seconds: Seconds of the run.
        held: Rows that were validated on, and not learnt from.
    """

    history: list[dict[str, Any]]
    metrics: dict[str, float]
    tokens: int
    seconds: float
    held: list[np.ndarray]


def held_out(
    rows: Sequence[np.ndarray], share: float = 0.05
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Rows to learn from, and rows to validate on, spread evenly; of few rows at least one.

    Args:
        rows: All rows, two or more.
        share: Share of the second.

    Raises:
        ValueError: A single row, or a share outside (0, 1).
    """
    if not 0 < share < 1:
        raise ValueError(f"validation={share}: a share above 0 and below 1 is expected")
    if len(rows) < 2:
        raise ValueError(f"{len(rows)} rows: one to learn from and one to validate on are needed")
    count = min(max(1, round(len(rows) * share)), len(rows) - 1)
    chosen = {round((i + 0.5) * len(rows) / count - 0.5) for i in range(count)}
    parts = [[row for i, row in enumerate(rows) if (i in chosen) == held] for held in (False, True)]
    return parts[0], parts[1]


def main_loss(model: Any, batch: HeadBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed cross-entropy of the model's own head, and how many labels it has.

    Args:
        model: The `Llama` that gave the streams.
        batch: Tokens and streams; experts' balance loss is added where there is one.
    """
    total, count = token_loss(batch.hidden, model.lm_head.weight, batch.ahead(1))
    if batch.balance_loss is not None:
        total = total + count * batch.balance_loss
    return total, count


def fit_heads(
    module: nn.Module,
    model: Any,
    rows: Sequence[np.ndarray],
    loss: Callable[[HeadBatch], Loss],
    *,
    seconds: float | None = None,
    steps: int | None = None,
    tokens: float | None = None,
    lr: float = 1e-3,
    batch: int = 8,
    length: int = 256,
    warmup: float = 0.05,
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine",
    optimizer: str = "adamw",
    weight_decay: float = 0.0,
    clip_norm: float | None = 1.0,
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    base_rate: float = 1.0,
    validation: float = 0.05,
    keep: int = 1 << 30,
    seed: int = 0,
    folder: str | os.PathLike[str] | None = None,
    identity: Mapping[str, Any] | None = None,
    progress: Callable[[Progressed], None] | None = None,
    joint: bool = False,
) -> Fitted:
    """Trains heads; the same call with `folder` goes on.

    Args:
        module: The heads: all its parameters that want a gradient are trained. It must not hold the
            model as a submodule.
        model: The `Llama` that they read.
        rows: (T,) tokens of each row, as `own_samples` gives them; long ones are cut.
        loss: Batch to a `fitting.Loss`; its metrics come back in the history.
        seconds: Budget by the clock; give one of `seconds`, `steps` and `tokens`, or none for four
            rounds through the rows.
        steps: Budget in steps.
        tokens: Budget in tokens, those of all epochs.
        lr: Largest learning rate.
        batch: Rows of a step.
        length: Most tokens of a row.
        warmup: Share of the run in which the rate rises.
        schedule: As in `fitting.Recipe`.
        optimizer: Any of `paragone.training`, in lower case.
        weight_decay: Decay of matrices.
        clip_norm: Largest norm of a step's gradients, or None.
        precision: "fp32", "bf16" or "fp16".
        base_rate: With `joint` the model's learning rate as a share of `lr`.
        validation: Share of the rows that is validated on.
        keep: Most bytes of streams that are kept for later epochs.
        seed: Of order and draws.
        folder: The run's folder; None: nothing is written.
        identity: What else makes this run this run, as JSON.
        progress: Called with each event.
        joint: Whether the model is trained, too; then streams have a gradient.

    Returns:
        History, metrics and the rows that were held out. `module` is left in evaluation mode.

    Raises:
        ValueError: More than one budget, rows too short, a number out of range, or a folder of
            another run.
    """
    if sum(x is not None for x in (seconds, steps, tokens)) > 1:
        raise ValueError(f"seconds={seconds}, steps={steps}, tokens={tokens}: give one budget")
    begun = time.monotonic()
    learnt, held = held_out(rows, validation)
    feed = _Feed(model, learnt, batch, length, seed, 0 if joint else keep, joint)
    tested = _Feed(model, held, batch, length, seed, 0 if joint else keep // 8, joint)
    trained = nn.ModuleDict({"heads": module, "base": model}) if joint else module

    def value(found: HeadBatch) -> Loss:
        return loss(_read(model, found) if joint else found)

    kept = Folder(folder) if folder is not None else None
    with _frozen(model, not joint):
        if tokens is not None:
            steps = max(1, round(tokens / feed.step_tokens))
        elif seconds is not None:
            steps = _steps_before(kept) or _reached(feed, value, trained, seconds)
        steps = steps or _EPOCHS * feed.steps
        rates = {"base.": base_rate} if joint and base_rate != 1 else None
        recipe = Recipe(
            steps, lr, warmup, schedule, 0.05, optimizer, weight_decay, clip_norm, precision, seed,
            seconds, max(1, steps // _VALIDATIONS),
            optimizer_options={} if rates is None else {"rates": rates},
        )  # fmt: skip
        asked = {
            "rows": len(rows), "tokens": sum(map(len, rows)), "batch": batch, "length": length,
            "joint": joint, "model": None if joint else weights_hash(model), **(identity or {}),
        }  # fmt: skip
        loop = Loop(
            trained, recipe, feed, value, kept, progress, lambda: _validated(tested, value),
            identity=asked, begun=begun,
        )  # fmt: skip
        history = loop.run()
    trained.eval()
    metrics = {k: v for k, v in history[-1].items() if k.startswith("validation_")}
    done = round(loop.step * feed.step_tokens)
    return Fitted(history, metrics, done, loop.seconds, held)


class _Feed:
    """Batches of rows of like length, in another order each epoch; a function of the step alone."""

    def __init__(
        self, model: Any, rows: Sequence[np.ndarray], batch: int, length: int, seed: int,
        keep: int, joint: bool,
    ) -> None:  # fmt: skip
        if batch < 1 or length < 3:
            raise ValueError(f"batch={batch}, length={length}: at least 1 row of 3 tokens")
        parts = [
            np.asarray(row[i : i + length]) for row in rows for i in range(0, len(row), length)
        ]
        parts = sorted((part for part in parts if len(part) > 2), key=len)
        if not parts:
            raise ValueError(f"none of {len(rows)} rows has three tokens or more to learn from")
        # Where rows are not a multiple of the batch, the last ones, the longest, come twice.
        firsts = [max(0, min(i, len(parts) - batch)) for i in range(0, len(parts), batch)]
        self.groups = [parts[first : first + batch] for first in firsts]
        self.model, self.seed, self.joint = model, seed, joint
        self.steps = len(self.groups)
        self.step_tokens = sum(map(len, parts)) / self.steps
        self._keeps = 4 * model.config.hidden_size * sum(map(len, parts)) <= keep
        self._kept: dict[int, HeadBatch] = {}
        self._epoch, self._order = -1, np.zeros(0, np.int64)

    def __call__(self, step: int) -> list[HeadBatch]:
        epoch, at = divmod(step, self.steps)
        if epoch != self._epoch:
            generator = np.random.default_rng([self.seed, epoch, 0x68656164])
            self._epoch, self._order = epoch, generator.permutation(self.steps)
        return [self.batch(int(self._order[at]))]

    def batch(self, number: int) -> HeadBatch:
        if number in self._kept:
            return self._kept[number]
        if self.joint:
            # Streams with a gradient are made in the step itself: see `_read`.
            tokens, lengths = padded(self.groups[number], self.model.lm_head.weight.device)
            return HeadBatch(tokens, lengths, torch.empty(0))
        found = streams(self.model, self.groups[number])
        if self._keeps:
            self._kept[number] = found
        return found


def _read(model: Any, batch: HeadBatch) -> HeadBatch:
    """A batch with the streams of a model that is trained."""
    tokens, lengths = batch.tokens, batch.lengths
    same = bool((lengths == tokens.shape[1]).all())
    out = model(tokens, lengths=None if same else lengths, logits=False)
    return HeadBatch(tokens, lengths, out.hidden, out.balance_loss)


def _validated(feed: _Feed, loss: Callable[[HeadBatch], Loss]) -> dict[str, float]:
    """Means over the rows that were held out."""
    sums: dict[str, list[float]] = {}
    for number in range(feed.steps):
        found = loss(feed.batch(number))
        for name, (total, count) in {"loss": (found.total, found.count), **found.metrics}.items():
            so_far = sums.setdefault(name, [0.0, 0.0])
            so_far[0] += float(total)
            so_far[1] += float(count)
    return {f"validation_{k}": a / b if b else math.nan for k, (a, b) in sums.items()}


def _steps_before(folder: Folder | None) -> int | None:
    """Steps that an earlier part of this run has set out for."""
    path = None if folder is None else folder.path / "run.json"
    if path is None or not path.exists():
        return None
    return json.loads(path.read_text(encoding="utf-8")).get("steps")


def _reached(
    feed: _Feed, loss: Callable[[HeadBatch], Loss], module: nn.Module, seconds: float
) -> int:
    """More steps than will be reached: the clock ends the run."""
    batch, times = feed.batch(feed.steps // 2), []
    for _ in range(2):
        began = time.perf_counter()
        found = loss(batch)
        (found.total / found.count).backward()
        times.append(time.perf_counter() - began)
    module.zero_grad()
    return max(_VALIDATIONS, math.ceil(2 * seconds / min(times)))


@contextlib.contextmanager
def _frozen(model: nn.Module, wanted: bool) -> Iterator[None]:
    """Within it no parameter of the model wants a gradient."""
    moving = [p for p in model.parameters() if p.requires_grad] if wanted else []
    for p in moving:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in moving:
            p.requires_grad_(True)
