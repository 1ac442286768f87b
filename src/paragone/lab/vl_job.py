"""`train-vl`: training of models of texts and pictures as the shell calls it.

Importing this module loads the standard library alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from paragone._core.errors import UsageError
from paragone.lab import units

__all__ = ["TrainedPictures", "train_vl", "words"]


@dataclass(frozen=True)
class TrainedPictures:
    """A finished run; `str()` is what the shell prints."""

    folder: str
    metrics: dict[str, float]
    seconds: float
    draws: bool
    caption: str = ""
    notes: tuple[str, ...] = field(default=())

    def json(self) -> str:
        return json.dumps({
            "folder": self.folder, "metrics": self.metrics, "seconds": round(self.seconds, 1),
            "notes": self.notes,
        })  # fmt: skip

    def __str__(self) -> str:
        from paragone.lab import format as fmt

        losses = {k.removeprefix("validation_"): v for k, v in self.metrics.items()
                  if k.startswith("validation_")}  # fmt: skip
        shares = {k: v for k, v in self.metrics.items() if not k.startswith("validation_")}
        lines = [f"{self.folder}: {fmt.seconds(self.seconds)}"]
        if losses:
            told = "  ".join(f"{name} {value:.4f}" for name, value in losses.items())
            lines.append(f"held out    {told}")
        load = shares.pop("expert_load", None)
        lines += [f"{name.replace('_', ' ')}  {fmt.percent(x)}" for name, x in shares.items()]
        if load is not None:
            lines.append(f"the fullest expert has {fmt.ratio(load)} the mean")
        lines += self.notes
        drawn = f"paragone draw {self.folder} '{self.caption}', or " if self.draws else ""
        lines.append(f"next: {drawn}paragone caption {self.folder} IMAGES")
        return "\n".join(lines)


def words(text: str, name: str, known: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Words of a text such as read,draw.

    Args:
        text: Words with commas.
        name: Of the option, for the message.
        known: Those that there are (empty: any).

    Raises:
        UsageError: An unknown word.

    Example:
        >>> words("read, draw", "--tasks")
        ('read', 'draw')
    """
    found = tuple(word.strip() for word in text.split(",") if word.strip())
    for word in found:
        if known and word not in known:
            raise UsageError(f"{name}: {word!r} is none of {', '.join(known)}")
    return found


def train_vl(
    data: str | None = None,
    *,
    out: str | None = None,
    arch: Literal["kimi", "chameleon", "lossless"] = "lossless",
    preset: str | None = None,
    model: str | None = None,
    head: str | None = None,
    positions: str | None = None,
    image_tokenizer: str | None = None,
    vocab: int | None = None,
    tasks: str = "",
    budget: str | float | None = None,
    steps: int | None = None,
    batch: int = 32,
    accumulate: int = 1,
    lr: float | None = None,
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine",
    optimizer: str = "adamw",
    weight_decay: float = 0.05,
    freeze: str = "",
    rates: str = "",
    options: str = "",
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    validation: float = 0.2,
    judged: int = 200,
    longest: int = 1024,
    shift: int = 0,
    seed: int = 0,
    threads: int | None = None,
    device: str = "auto",
    fresh: bool = False,
    progress: Callable[[Any], None] | None = None,
) -> TrainedPictures:
    """Trains a model that reads and draws pictures. The same call continues, also after Ctrl-C.

    The run's folder is a model's folder: caption, ask and draw open it, at any moment of the run.

    Args:
        data: A JSON Lines file of {"image", "caption"}, {"image", "question", "answer"} or
            {"parts": [...]}, or a folder of pictures whose folders or names are captions; without
            it, scikit-learn's handwritten digits.
        out: The run's folder; runs/ARCH-DATA without it.
        arch: kimi reads; chameleon reads and draws, as tokens of a codebook; lossless reads and
            draws, as raw patches.
        preset: Size of the model, such as digits (8 x 8, grey) or tiny (32 to 64 pixels); without
            it, the one that fits the pictures.
        model: A model's folder to go on from, in place of a preset.
        head: What draws patches in lossless: flow, mar, expanded, vq or mse.
        positions: Positions in lossless: 1d, m-rope, rope-tie or rope-tv.
        image_tokenizer: Folder of a trained one, for chameleon; without it, it is trained first.
        vocab: Tokens of the texts' tokenizer.
        tasks: What is learned: read,draw,answer; without it, all that model and data allow.
        budget: Time for the run, such as 10m; the schedule ends with it.
        steps: Steps of the run; without it and a budget, 3000.
        batch: Documents of a step.
        accumulate: Batches whose gradients make a step.
        lr: Largest learning rate.
        schedule: How the rate falls.
        optimizer: adamw, muon, lion or another of paragone.training.
        weight_decay: Decay of matrices.
        freeze: Parts that are not trained, such as vision,projector.
        rates: Parts with other rates, as shares: vision=0.1.
        options: Other sizes, such as hidden_size=192,num_hidden_layers=6.
        precision: Type of the arithmetic.
        validation: Share of the pictures to validate on.
        judged: Captions and drawn pictures that are judged in the end.
        longest: Pixels that larger pictures are shrunk to.
        shift: Pixels that pictures which are read are moved by, each time anew.
        seed: Seed of weights and order.
        threads: Threads of torch.
        device: Where it runs.
        fresh: Start anew.
        progress: Called with each event.
    """
    from paragone.lab.vision_jobs import named_values

    if options and model is not None:
        raise UsageError("--options are sizes of a new model; --model has its own")
    seconds = units.seconds(budget, "--budget")
    learned: Any = words(tasks, "--tasks", ("read", "draw", "answer")) or None
    name = "digits" if data is None else Path(data).name.split(".")[0] or "pictures"
    folder = out or os.path.join("runs", f"{arch}-{name}")
    sizes: Any = named_values(options) if options else model
    shares: Any = named_values(rates) or None
    try:
        from paragone.multimodal.train_vl import train_vl as run

        done = run(
            data, folder, arch=arch, preset=preset, model=sizes, head=head, positions=positions,
            image_tokenizer=image_tokenizer, vocab_size=vocab, tasks=learned, steps=steps,
            seconds=seconds, batch=batch, accumulate=accumulate, lr=lr, schedule=schedule,
            optimizer=optimizer, weight_decay=weight_decay, freeze=words(freeze, "--freeze"),
            rates=shares, precision=precision, validation=validation, judged=judged,
            longest=longest, shift=shift, seed=seed, threads=threads, device=device,
            resume=not fresh, progress=progress,
        )  # fmt: skip
    except UsageError:
        raise
    except (ValueError, FileNotFoundError) as error:
        raise UsageError(str(error)) from error
    return TrainedPictures(
        str(done.folder), done.metrics, done.seconds, done.model.draws, done.caption, done.notes
    )
