r"""Imitation: a policy learns what demonstrations say is right, step by step.

A step of training takes samples of all tasks alike, however many each has, and lowers

$$ L(\theta) = \frac1B \sum_{i=1}^{B} \Bigl( -\log P_\theta(t_i, a_i \mid c_i)
   + \frac{\lambda}{K_i} \sum_{k=1}^{K_i} \ell_k(\theta) \Bigr) , $$

with the thought and the action that are right in the context c, and questions k about the screen,
which the elements of a page answer. Screens are moved by a few pixels with their boxes and made
a little lighter or darker, each time anew. The run is bounded by seconds or by steps, its rate
falls to nothing with the budget, and it goes on where it ended.

Cost: at preset "small" some tens of samples a second on a core.

References:
    Qin et al. (2025), UI-TARS, arXiv:2501.12326, section 4.5 (the present step alone).
    Pomerleau (1989), ALVINN (moved pictures, so that a policy off its path finds back).

Shapes: B samples of a step.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from paragone.language.fitting import Loop, Loss, Progressed, Recipe
from paragone.multimodal.agent.contract import Box, Sample, Screen

if TYPE_CHECKING:
    from paragone.multimodal.ui_tars import UITars

__all__ = ["Imitated", "augmented", "imitate", "judged"]

_STEPS = 1000
_MOST_STEPS = 1_000_000


@dataclasses.dataclass(frozen=True)
class Imitated:
    """What a run has come to.

    Attributes:
        model: The model, in evaluation mode.
        metrics: Of the held-out samples: "right" (the share whose action is right: its name, a
            place in the box, or texts that are the same), and "right/TASK" of each task.
        history: A dict for each line of metrics.jsonl.
        seconds: Seconds, over all parts of the run.
        samples: Presentations in all.
        folder: Where it lies, or None.
    """

    model: UITars
    metrics: dict[str, float]
    history: list[dict[str, Any]]
    seconds: float
    samples: int
    folder: Path | None


def imitate(
    model: UITars,
    samples: Sequence[Sample],
    *,
    seconds: float | None = None,
    steps: int | None = None,
    batch: int = 32,
    lr: float | None = None,
    warmup: float = 0.03,
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine",
    final: float = 0.02,
    optimizer: str = "muon",
    weight_decay: float = 0.05,
    clip_norm: float | None = 1.0,
    freeze: Sequence[str] = (),
    rates: Mapping[str, float] | None = None,
    perception: int = 8,
    perception_weight: float = 3.0,
    augment: bool = True,
    held_out: float | Sequence[Sample] = 0.02,
    judge: int = 400,
    evaluations: int = 1,
    precision: Literal["fp32", "bf16", "fp16"] | None = None,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    progress: Callable[[Progressed], None] | None = None,
) -> Imitated:
    """Trains a model on demonstrations; the same call with the same folder goes on.

    Prefer it to `prefer` for a model that knows nothing yet; `prefer` then teaches it not to make
    the mistakes it makes.

    Args:
        model: What is trained; it is changed.
        samples: Demonstrations; read as they are needed.
        seconds: Budget in seconds; the schedule ends with it.
        steps: Budget in steps (None, and no seconds: 1000).
        batch: Samples of a step.
        lr: Largest learning rate (None: what is usual here for the optimizer).
        warmup: Share of the run in which it rises.
        schedule: How it falls.
        final: Last rate as a share of the largest.
        optimizer: One of `paragone.training.by_name.OPTIMIZERS`; "muon" learned as much as
            "adamw" in about half the time.
        weight_decay: Decay of matrices.
        clip_norm: Largest norm of a step's gradients, or None.
        freeze: Parts that are not trained, names of `model.parts()`.
        rates: Part of the model to its share of `lr`; with an optimizer other than "muon".
        perception: Questions about each screen.
        perception_weight: What the questions of a screen count beside its action.
        augment: Whether screens are moved and tinted.
        held_out: Share of the exercises that is held out for judging, or samples for that.
        judge: Most held-out samples that are judged.
        evaluations: How often, the last time at the end.
        precision: Type of the arithmetic (None: "bf16" on an accelerator, else "fp32").
        seed: Of the order, the questions and the movements.
        out: The run's folder; the model is written there, too (None: nowhere).
        progress: Called with each event.

    Returns:
        The model and how well it does.

    Raises:
        ValueError: An argument out of range, no samples, or a folder of another run.
    """
    _checked(samples, batch, perception, held_out, evaluations)
    chosen, judges = _split(samples, held_out, judge, seed)
    model.freeze(*freeze)
    bounded = steps if steps is not None else (_STEPS if seconds is None else _MOST_STEPS)
    recipe = Recipe(
        bounded, lr=_rate(optimizer) if lr is None else lr, warmup=warmup, schedule=schedule,
        final=final, optimizer=optimizer, weight_decay=weight_decay, clip_norm=clip_norm,
        precision=precision or ("fp32" if model.device.type == "cpu" else "bf16"), seed=seed,
        seconds=seconds, optimizer_options=_options(model, rates, optimizer),
        evaluate_every=None if evaluations < 2 else max(1, bounded // evaluations),
    )  # fmt: skip
    feed = _Feed(samples, chosen, batch, seed, augment)

    def loss(micro: Sequence[Sample]) -> Loss:
        found = model.losses(micro, perception=perception, perception_weight=perception_weight)
        metrics = {
            "tokens": (found.action_tokens, found.action_count),
            "points": (found.points, found.point_count),
            "pointed": (float(found.right), found.point_count),
            "perception": (found.perception, found.perception_count),
        }
        return Loss(found.total, found.samples, metrics, found.samples)

    loop = Loop(
        model, recipe, feed.batch, loss, out, progress,
        (lambda: judged(model, judges)) if judges else None,
        identity={"kind": "imitation", "samples": len(chosen), "batch": batch,
                  "perception": perception, "augment": augment, "freeze": list(freeze)},
        export=lambda folder: _written(model, folder.path),
    )  # fmt: skip
    history = loop.run()
    model.eval()
    last = history[-1] if history else {}
    metrics = {k: float(v) for k, v in last.items() if k == "right" or k.startswith("right/")}
    folder = None if loop.folder is None else loop.folder.path
    return Imitated(model, metrics, history, loop.seconds, loop.step * batch, folder)


def _checked(
    samples: Sequence[Sample], batch: int, perception: int, held_out: Any, evaluations: int
) -> None:
    if not len(samples):
        raise ValueError("no samples; `paragone agent generate` and `record` make them")
    if batch < 1 or perception < 0 or evaluations < 1:
        raise ValueError(
            f"batch={batch}, perception={perception}, evaluations={evaluations}: at least 1, 0 and "
            "1 are expected"
        )
    if isinstance(held_out, int | float) and not 0 <= held_out < 1:
        raise ValueError(f"held_out={held_out}: a share from 0 to below 1, or samples")


def _rate(optimizer: str) -> float:
    from paragone.training.by_name import OPTIMIZERS, RATES

    if optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer {optimizer!r} is none of {', '.join(OPTIMIZERS)}")
    return RATES[optimizer]


def _options(
    model: UITars, rates: Mapping[str, float] | None, optimizer: str
) -> dict[str, Any]:  # fmt: skip
    options: dict[str, Any] = {"betas": (0.9, 0.98)} if optimizer == "adamw" else {}
    if not rates:
        return options
    parts = model.parts()
    unknown = [name for name in rates if name not in parts]
    if unknown:
        raise ValueError(f"parts {', '.join(unknown)} are none of {', '.join(parts)}")
    starts = {start: rates[name] for name in rates for start in parts[name]}
    return {**options, "rates": starts}


def _written(model: UITars, path: Path) -> None:
    from paragone.multimodal._ui_tars_files import write_folder

    write_folder(model, path)


def _heads(samples: Sequence[Sample]) -> list[tuple[str, int]]:
    """Task and seed of each sample; a folder of demonstrations knows them without reading."""
    known = getattr(samples, "heads", None)
    if callable(known):
        return list(known())  # pyright: ignore[reportArgumentType]
    return [(one.task, one.seed) for one in samples]


def _split(
    samples: Sequence[Sample], held_out: float | Sequence[Sample], judge: int, seed: int
) -> tuple[dict[str, list[int]], list[Sample]]:
    """Numbers of the samples of each task that are learned, and the samples that judge."""
    heads = _heads(samples)
    tasks: dict[str, list[int]] = {}
    if not isinstance(held_out, int | float):
        for at, (task, _) in enumerate(heads):
            tasks.setdefault(task, []).append(at)
        return tasks, list(held_out)[:judge]
    rng = np.random.default_rng((seed, 1))
    exercises = sorted(set(heads))
    order = rng.permutation(len(exercises))
    kept = {exercises[int(at)] for at in order[: int(held_out * len(exercises))]}
    judges = []
    for at, head in enumerate(heads):
        if head in kept:
            judges.append(at)
        else:
            tasks.setdefault(head[0], []).append(at)
    picked = rng.permutation(len(judges))[:judge]
    return tasks, [samples[judges[int(at)]] for at in sorted(picked.tolist())]


class _Feed:
    """Batches by the number of their step, tasks alike."""

    def __init__(
        self, samples: Sequence[Sample], tasks: Mapping[str, Sequence[int]], size: int, seed: int,
        augment: bool,
    ) -> None:  # fmt: skip
        self.samples, self.size, self.seed, self.augment = samples, size, seed, augment
        self.tasks = [np.asarray(tasks[name]) for name in sorted(tasks)]

    def batch(self, step: int) -> list[list[Sample]]:
        """One micro-batch."""
        rng = np.random.default_rng((self.seed, 2, step))
        found = []
        for task in rng.integers(len(self.tasks), size=self.size):
            own = self.tasks[int(task)]
            one = self.samples[int(own[rng.integers(len(own))])]
            found.append(augmented(one, rng) if self.augment else one)
        return [found]


def augmented(sample: Sample, rng: np.random.Generator, most: int = 3) -> Sample:
    """A sample whose screens are moved with all boxes and points, and a little tinted.

    Args:
        sample: What is moved.
        rng: What is drawn.
        most: Pixels that screens are moved by at most, down and across; what comes in is the edge
            again. Where the box would leave the screen they stay.

    Returns:
        A new sample; the old one is unchanged.
    """
    across, down = (int(x) for x in rng.integers(-most, most + 1, 2))
    rows, columns = sample.context.screens[-1].size
    box = sample.wanted.box
    if box is not None and not (
        box[0] + across >= 0 and box[2] + across <= columns
        and box[1] + down >= 0 and box[3] + down <= rows
    ):  # fmt: skip
        across = down = 0
    tint = rng.normal(0.0, 3.0, 3)

    def screen(one: Screen) -> Screen:
        pixels = one.pixels
        if across or down:
            high, wide = pixels.shape[:2]
            lines = np.clip(np.arange(high) - down, 0, high - 1)
            pixels = pixels[lines][:, np.clip(np.arange(wide) - across, 0, wide - 1)]
        table = np.clip(np.arange(256)[:, None] + tint, 0, 255).astype(np.uint8)
        made = np.empty_like(pixels)
        for channel in range(3):
            made[..., channel] = table[:, channel][pixels[..., channel]]
        return dataclasses.replace(one, pixels=made)

    def point(x: float, y: float) -> tuple[float, float]:
        return x + across, y + down

    def area(one: Box) -> Box:
        return (one[0] + across, one[1] + down, one[2] + across, one[3] + down)

    context = dataclasses.replace(
        sample.context,
        screens=tuple(screen(one) for one in sample.context.screens),
        history=tuple(one.moved(point) for one in sample.context.history),
    )
    wanted = dataclasses.replace(
        sample.wanted,
        action=sample.wanted.action.moved(point),
        box=None if box is None else area(box),
    )
    elements = tuple(dataclasses.replace(one, box=area(one.box)) for one in sample.elements)
    rejected = tuple(one.moved(point) for one in sample.rejected)
    return dataclasses.replace(
        sample, context=context, wanted=wanted, elements=elements, rejected=rejected
    )


@torch.no_grad()
def judged(model: UITars, samples: Sequence[Sample], batch: int = 32) -> dict[str, float]:
    """Shares of samples whose proposal is right: "right", and "right/TASK" of each task.

    A proposal is right where its name is the wanted one, its point lies in the box (at most 4
    pixels off where no box is known), and its texts are the same. Closed loop says more: `score`.

    Args:
        model: What proposes.
        samples: With what is wanted.
        batch: Contexts at a time.
    """
    from paragone.multimodal._ui_tars_generate import propose_all

    right: dict[str, list[bool]] = {}
    for at in range(0, len(samples), batch):
        part = samples[at : at + batch]
        for one, said in zip(
            part, propose_all(model, [s.context for s in part], 0.0, 0), strict=True
        ):
            scale = model.coordinates(one.context.screens[-1])
            right.setdefault(one.task, []).append(_fits(one, said.moved(scale.to_screenshot)))
    found = {f"right/{task}": sum(own) / len(own) for task, own in sorted(right.items())}
    every = [one for own in right.values() for one in own]
    return {"right": sum(every) / max(1, len(every)), **found}


def _fits(sample: Sample, said: Any) -> bool:
    wanted = sample.wanted.action
    if said.name != wanted.name:
        return False
    point, box = said.point, sample.wanted.box
    if box is None and wanted.point is not None:
        x, y = wanted.point
        box = (x - 4, y - 4, x + 4, y + 4)
    if box is not None and (
        point is None or not (box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3])
    ):
        return False
    texts = {k: v for k, v in wanted.arguments.items() if isinstance(v, str) and v}
    return all(said.arguments.get(name) == text for name, text in texts.items())
