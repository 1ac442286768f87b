r"""Training of models of texts and pictures: one call for all three, and it goes on where it ended.

What is minimised is the mean over what is learned, tokens of text and tokens or patches of
pictures alike,

$$ L = \frac{\sum_d \bigl( \sum_t \ell_{d,t} + \lambda \sum_p \ell_{d,p} + r_d \bigr)}
            {\sum_d (\#t_d + \#p_d)} , $$

of documents that are made of records by tasks: read, draw, answer. A Chameleon first learns its
image tokenizer, for a share of the budget. The run's folder is a model's folder at every instant,
also while it is written to: files are renamed into place, and configuration and tokenizer do not
change within a run.

Cost: as the models say; a validation draws and reads pictures, a few with each of ten on the way,
and all that were asked for in the end.

References:
    Chameleon Team (2024), arXiv:2405.09818, section 2.3 (both modalities in one loss).
    Zhou et al. (2024), arXiv:2408.11039, eq. 4.

Shapes: none; documents go in, numbers come out.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from paragone.language._train_ranks import Ranks
from paragone.language._train_setup import free_memory, threads_of
from paragone.language.fitting import Loop, Loss, Progressed, Recipe
from paragone.multimodal import _train_vl_models as models
from paragone.multimodal._captions_fit import fitted
from paragone.multimodal._pictures_out import grid, save_png
from paragone.multimodal._train_vl_data import Feed, Trial
from paragone.multimodal.captions import Captioned, digits_with_captions, read_captions
from paragone.multimodal.contract import ARCHITECTURES, VisionLanguage
from paragone.multimodal.documents import Document
from paragone.training.by_name import OPTIMIZERS, RATES
from paragone.training.run_folder import Folder, write_files

__all__ = ["TrainedVL", "train_vl"]

_VALIDATIONS = 10
_ON_THE_WAY = 0.1
"""Share of pictures and captions, and of the time, that validations before the last one take."""
_STEPS = 3000
_SHARES = {"kimi": 0.5, "chameleon": 1.0, "lossless": 1.5}
"""Usual rate of each, as a share of the optimizer's."""

_METRICS = ("validation_", "captions_", "answers_", "drawn_", "expert_")
_BYTES = {"adamw": 16, "adam": 16, "muon": 16, "schedule_free": 16, "lion": 12, "sgd": 12}
"""Bytes a weight: itself, its gradient and what the optimizer keeps of it."""


@dataclasses.dataclass(frozen=True)
class TrainedVL:
    """What a run has come to.

    Attributes:
        model: The model, in evaluation mode.
        metrics: Of the last validation: "validation_loss", "validation_text",
            "validation_image"; "captions_exact", "answers_exact", "drawn_as_asked" (shares);
            "expert_load" (the largest over the mean, of the last step).
        history: A dict for each line of metrics.jsonl.
        seconds: Seconds, over all parts of the run.
        folder: Where it lies, or None.
        notes: What was left out of the data, in lines.
        caption: One that it has learned from.
    """

    model: VisionLanguage
    metrics: dict[str, float]
    history: list[dict[str, Any]]
    seconds: float
    folder: Path | None
    notes: tuple[str, ...] = ()
    caption: str = ""


def train_vl(
    data: Any = None,
    out: str | os.PathLike[str] | None = None,
    *,
    arch: Literal["kimi", "chameleon", "lossless"] = "lossless",
    preset: str | None = None,
    model: Mapping[str, Any] | VisionLanguage | str | os.PathLike[str] | None = None,
    head: str | None = None,
    positions: str | None = None,
    image_tokenizer: Any = None,
    vocab_size: int | None = None,
    tasks: Sequence[Literal["read", "draw", "answer"]] | None = None,
    steps: int | None = None,
    seconds: float | None = None,
    batch: int = 32,
    accumulate: int = 1,
    lr: float | None = None,
    warmup: float = 0.05,
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine",
    optimizer: str = "adamw",
    weight_decay: float = 0.05,
    clip_norm: float | None = 1.0,
    freeze: Sequence[str] = (),
    rates: Mapping[str, float] | None = None,
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    validation: Any = 0.2,
    judged: int = 200,
    longest: int | None = 1024,
    shift: int = 0,
    seed: int = 0,
    threads: int | None = None,
    device: str = "auto",
    resume: bool = True,
    progress: Callable[[Progressed], None] | None = None,
) -> TrainedVL:
    """Trains a model of texts and pictures; the same call with the same folder goes on.

    Prefer it to each model's own loop: all three are then fed, validated and judged alike, and a
    run may be stopped at any moment. Prefer "kimi" where pictures are only read, "chameleon"
    where both are few tokens, "lossless" where small marks in pictures matter.

    Args:
        data: What `read_captions` takes; None: scikit-learn's digits with captions.
        out: The run's folder; None: nothing is written.
        arch: Which of the three.
        preset: Sizes by name, as in the model's `from_config` (None: "digits" for pictures of at
            most 12 pixels, else "tiny").
        model: In place of a preset: fields that differ from it, a model to go on from, or its
            folder; the latter two decide on `arch` themselves.
        head: Output head of "lossless".
        positions: Scheme of positions of "lossless".
        image_tokenizer: Of "chameleon": a trained one, its folder, or options of
            `ImageTokenizer.fit` such as {"steps": 500} (None: a fifth of the seconds, or 1,500
            steps).
        vocab_size: Tokens of the texts' tokenizer, which is learned first (None: by the preset).
        tasks: What is learned: "read", "draw", "answer" (None: all that model and data allow).
        steps: Budget in steps (None, and no seconds: 3000).
        seconds: Budget in seconds, all but compiling included; the schedule ends with it.
        batch: Documents of a micro-batch.
        accumulate: Micro-batches of a step.
        lr: Largest learning rate (None: what is usual for optimizer and model).
        warmup: Share of the run in which it rises.
        schedule: How it falls to a tenth.
        optimizer: One of `paragone.training.by_name.OPTIMIZERS`.
        weight_decay: Decay of matrices.
        clip_norm: Largest norm of a step's gradients, or None.
        freeze: Parts of the model that are not trained, names of its `parts()`.
        rates: Part of the model to its share of `lr`; not with "muon".
        precision: Type of the arithmetic.
        validation: Share of the pictures that is held out, or records as `data`.
        judged: Captions, answers and drawn pictures that are judged at the end; 0: none.
        longest: Pixels that larger pictures' longer side is shrunk to. What "lossless" is to draw
            is also cropped to the size that it draws, as "chameleon" does by itself.
        shift: Pixels that pictures which are read are moved by at most, each time anew.
        seed: Of weights, order and what is drawn.
        threads: Threads of torch; None: as they are.
        device: "auto", "cpu", "cuda" and so on.
        resume: Whether to go on from what lies in `out`; False starts anew.
        progress: Called with each event.

    Raises:
        ValueError: An argument out of range, data of which nothing can be used, tasks that the
            model cannot do, a folder of another run, or too little memory.

    Example:
        >>> pages = [{"image": [[0.0, 1.0]], "caption": "an edge"}]
        >>> train_vl(pages, steps=1, arch="kimi", judged=0, validation=0.0).history[0]["step"]
        1
    """
    begun = time.monotonic()
    _checked(arch=arch, batch=batch, accumulate=accumulate, optimizer=optimizer, judged=judged,
             steps=steps, seconds=seconds, shift=shift, freeze=freeze)  # fmt: skip
    place = _place(device)
    asked = {
        "arch": arch, "preset": preset, "model": models.described(model), "head": head,
        "positions": positions, "tasks": tasks and list(tasks), "batch": batch,
        "accumulate": accumulate, "freeze": list(freeze), "judged": judged, "asked_steps": steps,
        "shift": shift, "image_tokenizer": models.described(image_tokenizer),
        "vocab_size": vocab_size,
    }  # fmt: skip
    recipe = {
        "lr": lr, "warmup": warmup, "schedule": schedule,
        "optimizer": optimizer, "weight_decay": weight_decay, "clip_norm": clip_norm,
        "precision": precision, "seed": seed, "seconds": seconds,
    }  # fmt: skip
    with threads_of(threads):
        run = _Run(out, asked, resume, progress, place)
        run.read(data, validation, longest)
        stage = models.Stage(
            run.train, None if run.folder is None else run.folder.path, seconds, image_tokenizer,
            vocab_size, seed, place, run.tell, progress if run.ranks.first else None,
        )  # fmt: skip
        run.build(arch, preset, model, {"head": head, "positions": positions}, stage)
        run.fits(optimizer)
        run.choose(tasks, freeze, rates)
        loop = run.loop(recipe, steps, batch, accumulate, judged, begun)
        try:
            loop.run()
        except torch.OutOfMemoryError as error:
            raise ValueError(
                f"{place} has no memory for {batch} documents at a time; take "
                f"batch={max(1, batch // 2)} and accumulate={2 * accumulate} ({error})"
            ) from error
        return run.finished(loop)


class _Run:
    """The parts of a run in the order in which they are made."""

    model: VisionLanguage
    trial: Trial
    told: dict[str, float]
    rates: dict[str, float]

    def __init__(
        self, out: str | os.PathLike[str] | None, asked: dict[str, Any], resume: bool,
        progress: Callable[[Progressed], None] | None, device: str,
    ) -> None:  # fmt: skip
        self.asked, self.progress, self.device = asked, progress, device
        self.notes: list[str] = []
        self.told = {}
        self.ranks = Ranks()
        self.folder = None if out is None else Folder(out)
        if self.folder is not None and self.ranks.first:
            if not resume:
                for name in ("last.pt", "run.json", "metrics.jsonl"):
                    (self.folder.path / name).unlink(missing_ok=True)
                shutil.rmtree(self.folder.path / models.STAGE_ONE, ignore_errors=True)
            for left in self.folder.path.glob(".export.*"):
                shutil.rmtree(left, ignore_errors=True)
        self.ranks.wait()
        path = None if self.folder is None else self.folder.path / "run.json"
        self.before = (
            None if path is None or not path.exists()
            else json.loads(path.read_text(encoding="utf-8"))
        )  # fmt: skip

    def tell(self, text: str) -> None:
        """A note to the user."""
        if self.progress is not None and self.ranks.first:
            self.progress(Progressed("note", text=text))

    def read(self, data: Any, validation: Any, longest: int | None) -> None:
        """Takes the data apart: to learn from, and held out."""
        if data is None:
            wants = "answer" in (self.asked["tasks"] or ())
            every = digits_with_captions("all", questions=wants)
        else:
            every = read_captions(data, longest=longest)
        self.notes += every.notes()
        if isinstance(validation, int | float):
            self.train, self.held = every.split(float(validation))
        else:
            self.train, self.held = every, read_captions(validation, longest=longest)
            self.notes += self.held.notes()
        problems = list(dict.fromkeys([*every.problems, *self.held.problems]))
        if self.folder is not None and self.ranks.first and problems:
            self.folder.write_problems(problems)
        self.key = f"{self.train.fingerprint()} {self.held.fingerprint()}"
        self.tell(
            f"{every.name}: {len(self.train)} records to learn from, {len(self.held)} held out"
        )
        for line in self.notes:
            self.tell(line)

    def build(
        self, arch: str, preset: str | None, model: Any, options: Mapping[str, Any],
        stage: models.Stage,
    ) -> None:  # fmt: skip
        """Makes the model, or takes the one that was given."""
        preset = preset or models.usual_preset(self.train)
        self.model = models.built(arch, preset, model, options, stage)
        count = sum(p.numel() for p in self.model.parameters())
        self.tell(f"{type(self.model).__name__}: {count / 1e6:.2f} M weights on {self.device}")

    def fits(self, optimizer: str) -> None:
        """Refuses what has no room, before anything is computed."""
        count = sum(p.numel() for p in self.model.parameters())
        needed, free = count * _BYTES.get(optimizer, 16), free_memory(self.device)
        if free is not None and needed > free:
            raise ValueError(
                f"training {count / 1e6:.0f} M weights needs {needed / 1e9:.1f} GB and activations,"
                f" but {free / 1e9:.1f} GB are free on {self.device}; take a smaller preset"
            )

    def choose(
        self, tasks: Sequence[str] | None, freeze: Sequence[str],
        rates: Mapping[str, float] | None,
    ) -> None:  # fmt: skip
        """Tasks that model and data allow, and which parts are trained, and how fast."""
        if tasks is None:
            able = ("read", "draw", "answer") if self.model.draws else ("read", "answer")
            found = {task for _, task in self.train.work(able)}
            tasks = [task for task in able if task in found] or ["read"]
        elif "draw" in tasks and not self.model.draws:
            raise ValueError(
                f"arch={self.model.arch!r} reads pictures and does not draw them; take "
                "tasks=('read',), or arch='chameleon' or 'lossless'"
            )
        self.tasks = tuple(tasks)
        size = getattr(getattr(self.model, "config", None), "image_size", None)
        if "draw" in tasks and isinstance(size, tuple):
            (self.train, count), (self.held, more) = (
                fitted(side, size) for side in (self.train, self.held)
            )
            if count + more:
                self.tell(f"{count + more} pictures are cropped to {size[0]} x {size[1]} pixels")
        parts = self.model.parts()
        unknown = [name for name in (*freeze, *(rates or ())) if name not in parts]
        if unknown:
            raise ValueError(f"{unknown[0]!r} is no part of {self.model.arch}: {', '.join(parts)}")
        # The longest beginning decides: "" stands for all that has no other.
        starts = sorted(((s, n) for n, own in parts.items() for s in own), key=lambda p: -len(p[0]))
        for name, p in self.model.named_parameters():
            part = next((part for start, part in starts if name.startswith(start)), "")
            if part in freeze:
                p.requires_grad_(False)
        self.rates = {start: rates.get(part, 1.0) for start, part in starts} if rates else {}

    def loop(
        self, options: dict[str, Any], steps: int | None, batch: int, accumulate: int, judged: int,
        begun: float,
    ) -> Loop:  # fmt: skip
        """Chooses what is to be measured, and makes the loop."""
        seed = options["seed"]
        feed = Feed(
            self.train, self.tasks, batch, accumulate, seed, self.ranks.rank, self.ranks.size,
            self.asked["shift"],
        )  # fmt: skip
        chosen = None if self.before is None else self.before.get("chosen")
        if chosen is None:
            chosen, compiling = self._steps(feed, steps, options["seconds"])
            begun += compiling
        self.trial = Trial(self.model, self.train, self.held, self.tasks, judged, batch, seed)
        usual = _SHARES.get(self.model.arch, 1.0) * RATES[options["optimizer"]]
        given: dict[str, Any] = {**options, **chosen, "lr": options["lr"] or usual}
        if self.rates:
            given["optimizer_options"] = {"rates": self.rates}
        recipe = Recipe(**given)

        def evaluate() -> dict[str, float]:
            # What is drawn and read on the way may take a tenth of the run.
            pays = self.ranks.agreed(self.trial.seconds - _ON_THE_WAY * loop.seconds) <= 0
            share = 1.0 if loop.finished else _ON_THE_WAY if pays else 0.0
            return {**self.trial(share), **self.told}

        def after() -> None:
            self.told = self.model.after_step()

        loop = Loop(
            self.model, recipe, feed, self.loss, self.folder, self.progress, evaluate,
            export=self.export, begun=begun, after=after,
            identity={**self.asked, "data": self.key, "learned": self.tasks, "chosen": chosen},
        )  # fmt: skip
        if self.folder is not None and not loop.step and self.ranks.first:
            self.export(self.folder)
        return loop

    def _steps(
        self, feed: Feed, steps: int | None, seconds: float | None
    ) -> tuple[dict[str, int], float]:
        """Steps of the run and between validations, and seconds that compiling took.

        With a clock they are more than it will let through.
        """
        if steps is None and seconds is None:
            steps = _STEPS
        if steps is not None and seconds is None:
            return {"steps": steps, "evaluate_every": max(1, steps // _VALIDATIONS)}, 0.0
        assert seconds is not None
        times = []
        for number in range(3):
            began = time.perf_counter()
            for documents in feed(number):
                self.loss(documents).total.backward()
            times.append(time.perf_counter() - began)
        self.model.zero_grad()
        reached = max(_VALIDATIONS, math.ceil(seconds / self.ranks.agreed(min(times))))
        most = min(steps or 2 * reached, 2 * reached)
        every = max(1, min(most, reached) // _VALIDATIONS)
        return {"steps": most, "evaluate_every": every}, max(times) - min(times)

    def loss(self, documents: list[Document]) -> Loss:
        """The loss of a micro-batch, and its parts as metrics."""
        found = self.model.losses(documents)
        metrics: dict[str, Any] = {"text": (found.text.detach(), found.text_count)}
        if self.model.draws:
            metrics["image"] = (found.image.detach(), found.image_count)
        for name, value in found.others.items():
            metrics[name] = (value.detach(), found.count)
        metrics = {name: pair for name, pair in metrics.items() if pair[1] or self.ranks.size > 1}
        return Loss(found.total, found.count, metrics, found.count)

    def export(self, folder: Folder) -> None:
        """Writes the model so that a reader finds the old one or the new one."""
        write_files(folder.path, self.model.save_pretrained)
        if getattr(self, "trial", None) is not None and self.trial.pictures:
            save_png(grid(self.trial.pictures[:64]), folder.path / "drawn.png")

    def finished(self, loop: Loop) -> TrainedVL:
        """What the run has come to."""
        last = loop.history[-1] if loop.history else {}
        said = (x.caption for x in self.train if isinstance(x, Captioned) and not x.question)
        self.model.eval()
        return TrainedVL(
            self.model, {k: v for k, v in last.items() if k.startswith(_METRICS)}, loop.history,
            loop.seconds, None if self.folder is None else self.folder.path, tuple(self.notes),
            next(said, ""),
        )  # fmt: skip


def _checked(
    *, arch: str, batch: int, accumulate: int, optimizer: str, judged: int, steps: int | None,
    seconds: float | None, shift: int, freeze: Sequence[str],
) -> None:  # fmt: skip
    if arch not in ARCHITECTURES:
        raise ValueError(f"arch={arch!r} is none of {', '.join(ARCHITECTURES)}")
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer={optimizer!r} is none of {', '.join(OPTIMIZERS)}")
    if batch < 1 or accumulate < 1 or judged < 0 or shift < 0:
        raise ValueError(
            f"batch={batch}, accumulate={accumulate}, judged={judged}, shift={shift}: at least 1, "
            "1, 0 and 0"
        )
    for name, value in (("steps", steps), ("seconds", seconds)):
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name}={value}: more than 0 is expected")
    if isinstance(freeze, str):
        raise ValueError(f"freeze={freeze!r}: a sequence of names is expected, ({freeze!r},)")


def _place(device: str) -> str:
    if device != "auto":
        return str(torch.device(device))
    return "cuda" if torch.cuda.is_available() else "cpu"
