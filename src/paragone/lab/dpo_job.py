"""`dpo`: preferences of `paragone.language` as the shell calls them.

Importing this module loads the standard library alone.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from paragone.lab.language_models import opened, place_of

__all__ = ["Preferred", "dpo"]

_TOLD = ("accuracy", "margin", "rewards_chosen", "rewards_rejected", "kl")


@dataclasses.dataclass(frozen=True)
class Preferred:
    """A finished run; `str()` is what the shell prints."""

    aligned: Any

    def json(self) -> str:
        a = self.aligned
        return json.dumps({
            "folder": str(a.folder), "metrics": a.metrics, "notes": a.notes,
            "seconds": round(a.seconds, 1),
        })  # fmt: skip

    def __str__(self) -> str:
        from paragone.lab import format as fmt

        a = self.aligned
        lines = [f"{a.folder}: {fmt.seconds(a.seconds)}", f"training    {_told(a.metrics, '')}"]
        if "validation_accuracy" in a.metrics:
            lines.append(f"validation  {_told(a.metrics, 'validation_')}")
        lines += [note for note in a.notes if note.startswith(("left out", "cut"))]
        if (Path(a.folder) / "config.json").is_file():
            lines.append(f"next: paragone chat {a.folder}")
        else:
            lines.append(f"adapter, as PEFT reads it: {a.folder}")
        return "\n".join(lines)


def _told(metrics: dict[str, Any], lead: str) -> str:
    parts = [f"loss {metrics[lead + 'loss']:.4f}"]
    for name in _TOLD:
        if lead + name in metrics:
            unit = " nats an answer" if name == "kl" else ""
            parts.append(f"{name.replace('_', ' ')} {metrics[lead + name]:.3f}{unit}")
    return ", ".join(parts)


def dpo(
    model: str | os.PathLike[str],
    *,
    pairs: str,
    out: str | os.PathLike[str],
    tokenizer: str | None = None,
    template: str | None = None,
    beta: float = 0.1,
    loss: str = "sigmoid",
    label_smoothing: float = 0.0,
    reference: str | None = None,
    epochs: float = 1.0,
    batch: int = 16,
    lr: float | None = None,
    lora_rank: int | None = None,
    max_length: int | None = None,
    optimizer: str = "adamw",
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    validation_pairs: str | None = None,
    evaluate_every: int | None = None,
    samples: int = 16,
    seed: int = 0,
    threads: int | None = None,
    device: str = "auto",
    progress: Callable[[Any], None] | None = None,
) -> Preferred:
    """Teaches a model which answers are preferred, from pairs. The same call continues.

    Args:
        model: Its folder, a llama2.c .bin or a .gguf.
        pairs: A file of prompts with chosen and rejected answers, or of ShareGPT pairs: .json,
            .jsonl, .csv, .parquet; or a folder of them.
        out: The run's folder; the model, or its adapter, lies there in the end.
        tokenizer: Its tokenizer, if it does not lie beside it.
        template: alpaca, chatml, llama2, llama3 or plain; without it the model's own, or alpaca.
        beta: Strength of the leash to the reference.
        loss: sigmoid, ipo, hinge, kto, robust, exo, nca, bco, sppo, aot, aot_unpaired, apo_zero,
            apo_down, discopop, sigmoid_norm; without a reference: sft, orpo, simpo, cpo.
        label_smoothing: Share of labels that are wrong.
        reference: Folder or file of the model to compare with; without it the model as it starts.
        epochs: Passes over the pairs.
        batch: Pairs of a step.
        lr: Largest learning rate; without it 1e-5, with an adapter 1e-4.
        lora_rank: Train small matrices of this rank, not all weights.
        max_length: Most tokens of a text.
        optimizer: adamw, or another of paragone.training.
        precision: Type of the arithmetic.
        validation_pairs: A file of pairs to validate on.
        evaluate_every: Steps between validations.
        samples: Answers that are drawn to measure the divergence; 0: none.
        seed: Of order and draws.
        threads: Threads of torch.
        device: Where it runs: auto, cpu, cuda.
        progress: Called with each event.
    """
    from paragone._core.errors import UsageError
    from paragone.language.checkpoints import load
    from paragone.language.dpo import dpo as align

    try:
        network, words = opened(model, tokenizer, device=device, threads=threads)
        other = None if reference is None else load(Path(reference), device=place_of(device))[0]
        done = align(
            network, words, pairs, beta, loss, label_smoothing=label_smoothing, reference=other,
            lora_rank=lora_rank, epochs=epochs, batch=batch, lr=lr, optimizer=optimizer,
            precision=precision, template=template, max_length=max_length,
            evaluation=validation_pairs, evaluate_every=evaluate_every, samples=samples, out=out,
            progress=progress, seed=seed,
        )  # fmt: skip
    except UsageError:
        raise
    except (ValueError, FileNotFoundError) as error:
        raise UsageError(str(error)) from error
    return Preferred(done)
