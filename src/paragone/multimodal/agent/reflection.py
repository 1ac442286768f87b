r"""Learning from one's own mistakes: pairs of a right and a wrong step, and preference for one.

Imitation sees only states that its teacher reaches. An agent that errs once stands where it has
never been. So the agent leads, and where it errs (`find_mistakes`), two kinds of samples are made:

- error correction, at the state of the error: the right action is wanted, the agent's is rejected;
- post-reflection, at the state behind it, with the error in the history: a reflection that names
  the mistake, and the action that mends it. Only this step is learned, never the error.

Pairs are learned by direct preference optimisation from a frozen reference $\pi_0$, with the
likelihood of right actions (a: whole texts, and points) beside it:

$$ L = -\log \sigma\Bigl( \beta \log \frac{\pi(a_w | s)}{\pi_0(a_w | s)}
   - \beta \log \frac{\pi(a_l | s)}{\pi_0(a_l | s)} \Bigr) - \lambda \log \pi(a_w | s) . $$

The second term holds what the first may give up: a pair's difference also grows when both become
less likely, only the wrong one faster.

Cost: a pair takes two forward passes and a backward one, and two of the reference once.

References:
    Qin et al. (2025), arXiv:2501.12326, section 4.5 (both kinds of samples, then DPO).
    Rafailov et al. (2023), arXiv:2305.18290, eq. 7; Pang et al. (2024), arXiv:2404.19733, eq. 1
    (with the likelihood beside it).

Shapes: n pairs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from paragone.language._preference_losses import Options, Scores, checked_losses, pair_losses
from paragone.language.fitting import Loop, Loss, Progressed, Recipe
from paragone.multimodal.agent._mistakes import agrees, find_mistakes
from paragone.multimodal.agent._train_files import publish
from paragone.multimodal.agent.actions import Action
from paragone.multimodal.agent.contract import Sample
from paragone.training.run_folder import Folder, write_whole

__all__ = ["Preferred", "agrees", "find_mistakes", "prefer"]

_SCORED = 32
_JUDGED = 512


@dataclasses.dataclass(frozen=True)
class Preferred:
    """What preference learning has come to.

    Attributes:
        model: The model, trained in place.
        pairs: How many pairs there were.
        margin: Mean difference of the implicit rewards, right less wrong, over the pairs.
        accuracy: Share of the pairs whose right action has the larger implicit reward.
        history: A dict for each line: step, seconds, loss, margin, accuracy, nll.
        steps: Steps taken.
        seconds: Seconds, over all parts of the run.
        notes: What was left out.
    """

    model: Any
    pairs: int
    margin: float
    accuracy: float
    history: list[dict[str, Any]]
    steps: int
    seconds: float
    notes: tuple[str, ...] = ()


def prefer(
    model: Any,
    samples: Iterable[Sample],
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    sft: float = 1.0,
    reference: nn.Module | None = None,
    steps: int | None = None,
    seconds: float | None = None,
    epochs: float = 3.0,
    batch: int = 16,
    plain: int | None = None,
    lr: float = 1e-4,
    warmup: float = 0.1,
    optimizer: str = "adamw",
    weight_decay: float = 0.0,
    clip_norm: float | None = 1.0,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    progress: Callable[[Progressed], None] | None = None,
) -> Preferred:
    """Teaches a model to prefer right actions to its own wrong ones; with `out` it goes on.

    Prefer it to more imitation where the agent knows the right action and takes another one that
    it finds a little more likely; prefer imitation where it has not seen the right one yet.

    Args:
        model: Anything with `log_probability(samples, actions=None)`; trained in place.
        samples: Pairs are those with `rejected`, one for each rejected action; all others are
            learned by their likelihood alone.
        beta: Strength of the leash to the reference.
        label_smoothing: Share of the pairs that are the wrong way round.
        sft: Weight of the likelihood of right actions, of pairs and of other samples.
        reference: What the model is compared with; None: the model as it is now.
        steps: Steps of the optimizer (None: as many as `epochs` passes over the pairs take).
        seconds: Budget; the schedule ends with it, if it ends before the steps do.
        epochs: Passes over the pairs.
        batch: Pairs of a step.
        plain: Other samples of a step (None: as many as pairs).
        lr: Largest learning rate.
        warmup: Share of the run in which it rises.
        optimizer: A name of `paragone.training.by_name.OPTIMIZERS`.
        weight_decay: Decay of matrices.
        clip_norm: Largest norm of a step's gradients, or None.
        seed: Of the order.
        out: The run's folder; None: nothing is written.
        progress: Called with each event.

    Raises:
        ValueError: No pairs, an argument out of range, a reference that is the model, or a folder
            of another run.
    """
    begun = time.monotonic()
    every = list(samples)
    pairs = [(sample, action) for sample in every for action in sample.rejected]
    others = [sample for sample in every if not sample.rejected]
    _checked(pairs, sft, epochs, batch, plain, model, reference)
    options = Options(beta, label_smoothing)
    weights = checked_losses("sigmoid", options)
    folder = None if out is None else Folder(out)
    known = _known(model if reference is None else reference, pairs, folder)
    kept = [at for at, row in enumerate(known) if np.isfinite(row).all()]
    notes = ()
    if len(kept) < len(pairs):
        notes = (f"{len(pairs) - len(kept)} pairs have an action that the model cannot write",)
        if not kept:
            raise ValueError(f"{notes[0]}, and these are all pairs; correct their actions")
    trial = _Trial(
        model, [pairs[at] for at in kept], [known[at] for at in kept], others, weights, options, sft
    )
    feed = _Feed(len(kept), len(others), batch, batch if plain is None else plain, seed)
    most = steps or max(1, math.ceil(epochs * len(kept) / batch))
    recipe = Recipe(
        most, lr, warmup, "linear", 0.0, optimizer, weight_decay, clip_norm, seed=seed,
        seconds=seconds,
    )  # fmt: skip
    loop = Loop(
        model, recipe, feed, trial.loss, folder, progress, trial.validated, begun=begun,
        identity={"method": "prefer", "beta": beta, "label_smoothing": label_smoothing,
                  "sft": sft, "batch": batch, "pairs": _digest(pairs), "others": len(others)},
        export=lambda where: publish(model, where.path),
    )  # fmt: skip
    history = loop.run()
    model.eval()
    last = history[-1]
    return Preferred(
        model, len(kept), last["final_margin"], last["final_accuracy"], history, loop.step,
        loop.seconds, notes,
    )  # fmt: skip


def _checked(
    pairs: Sequence[Any], sft: float, epochs: float, batch: int, plain: int | None, model: Any,
    reference: Any,
) -> None:  # fmt: skip
    if not pairs:
        raise ValueError(
            "no sample has a rejected action, so there is nothing to prefer; find some with "
            "find_mistakes, or learn by imitate"
        )
    if sft < 0 or not math.isfinite(sft):
        raise ValueError(f"sft={sft}: a weight of at least 0 is expected")
    if not epochs > 0:
        raise ValueError(f"epochs={epochs}: more than 0 is expected")
    if batch < 1 or (plain is not None and plain < 0):
        raise ValueError(f"batch={batch}, plain={plain}: at least 1 and 0 are expected")
    if reference is not None and reference is model:
        raise ValueError("reference is the model that is trained; give a copy, or None for as now")


def _digest(pairs: Sequence[tuple[Sample, Action]]) -> str:
    found = hashlib.blake2b(digest_size=12)
    for sample, action in pairs:
        told = (sample.task, sample.seed, sample.step, sample.wanted.action, action)
        found.update(repr(told).encode())
    return found.hexdigest()


@torch.no_grad()
def _known(
    model: Any, pairs: Sequence[tuple[Sample, Action]], folder: Folder | None
) -> list[list[float]]:
    """The reference's log-probabilities, right and wrong: once, also over interruptions."""
    path = None if folder is None else folder.path / "reference.json"
    name = _digest(pairs)
    if path is not None and path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        if before.get("pairs") == name:
            return [[float(x) for x in row] for row in before["scores"]]
    was = model.training
    model.eval()
    rows: list[list[float]] = []
    for at in range(0, len(pairs), _SCORED):
        part = pairs[at : at + _SCORED]
        good = model.log_probability([sample for sample, _ in part])
        bad = model.log_probability([s for s, _ in part], [action for _, action in part])
        rows += torch.stack([good, bad], -1).double().cpu().tolist()
    model.train(was)
    if path is not None:
        # Python's JSON has words for what is not finite, and reads them back.
        write_whole(path, json.dumps({"pairs": name, "scores": rows}).encode())
    return rows


@dataclasses.dataclass(frozen=True)
class _Feed:
    """Step to one micro-batch: numbers of pairs, and of other samples."""

    pairs: int
    others: int
    batch: int
    plain: int
    seed: int

    def __call__(self, step: int) -> list[tuple[list[int], list[int]]]:
        return [(
            self._drawn(step, self.pairs, min(self.batch, self.pairs), 0),
            self._drawn(step, self.others, min(self.plain, self.others), 1),
        )]  # fmt: skip

    def _drawn(self, step: int, count: int, size: int, kind: int) -> list[int]:
        return [self._order(at // count, count, kind)[at % count]
                for at in range(step * size, (step + 1) * size)]  # fmt: skip

    def _order(self, epoch: int, count: int, kind: int) -> list[int]:
        return np.random.default_rng([self.seed, kind, epoch]).permutation(count).tolist()


class _Trial:
    """Losses of micro-batches, and what all pairs have come to."""

    def __init__(
        self, model: Any, pairs: Sequence[tuple[Sample, Action]], known: Sequence[list[float]],
        others: Sequence[Sample], weights: dict[str, float], options: Options, sft: float,
    ) -> None:  # fmt: skip
        self.model, self.pairs, self.known, self.others = model, pairs, known, others
        self.weights, self.options, self.sft = weights, options, sft

    def _scores(self, numbers: Sequence[int], others: Sequence[int] = ()) -> tuple[Scores, Tensor]:
        """Of pairs; and the log-probabilities of all right actions."""
        self.model.eval()
        chosen = [self.pairs[at] for at in numbers]
        right = [sample for sample, _ in chosen] + [self.others[at] for at in others]
        good = self.model.log_probability(right)
        bad = self.model.log_probability([s for s, _ in chosen], [action for _, action in chosen])
        known = torch.tensor([self.known[at] for at in numbers]).to(bad)
        ones = torch.ones_like(bad)
        return Scores(good[: len(chosen)], bad, known[:, 0], known[:, 1], ones, ones), good

    def loss(self, micro: tuple[list[int], list[int]]) -> Loss:
        numbers, others = micro
        scores, good = self._scores(numbers, others)
        losses = pair_losses(self.weights, scores, self.options)
        total = losses.sum() - self.sft * len(numbers) * good.mean()
        gap = self.options.beta * (scores.chosen_ratios - scores.rejected_ratios).detach()
        count = len(numbers)
        return Loss(total, count, {
            "margin": (gap.sum(), count), "accuracy": ((gap > 0).to(gap.dtype).sum(), count),
            "nll": (-good.detach().sum(), len(good)),
        }, count)  # fmt: skip

    @torch.no_grad()
    def validated(self) -> dict[str, float]:
        """Margin and accuracy over the first pairs, at most 512."""
        gaps: list[float] = []
        last = min(len(self.pairs), _JUDGED)
        for part in _parts(range(last), _SCORED):
            scores, _ = self._scores(part)
            gaps += (scores.chosen_ratios - scores.rejected_ratios).double().cpu().tolist()
        gap = self.options.beta * np.array(gaps)
        return {"final_margin": float(gap.mean()), "final_accuracy": float((gap > 0).mean())}


def _parts(numbers: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for at in range(0, len(numbers), size):
        yield numbers[at : at + size]
