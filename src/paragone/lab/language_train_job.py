"""`train`: pre-training as the shell calls it.

Importing this module loads the standard library alone.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from paragone._core.errors import UsageError
from paragone.lab import units

__all__ = ["TrainedModel", "counted", "figures", "train"]


@dataclass(frozen=True)
class TrainedModel:
    """A finished run; `str()` is what the shell prints."""

    folder: str
    metrics: dict[str, float]
    tokens: int
    seconds: float

    def json(self) -> str:
        return json.dumps({
            "folder": self.folder, "metrics": self.metrics, "tokens": self.tokens,
            "seconds": round(self.seconds, 1),
        })  # fmt: skip

    def __str__(self) -> str:
        if int(os.environ.get("RANK", "0")):
            return ""
        from paragone.lab import format as fmt

        return "\n".join([
            f"{self.folder}: {fmt.count(self.tokens)} tokens, {fmt.seconds(self.seconds)}",
            f"validation  {figures(self.metrics)}",
            f"next: paragone generate {self.folder} TEXT, or paragone serve-model {self.folder}",
        ])  # fmt: skip


_NAMES = {"validation_loss": "loss", "bits_per_byte": "bits/byte"}


def figures(metrics: Any) -> str:
    """Metrics in words.

    Example:
        >>> figures({"validation_loss": 1.25, "bits_per_byte": 1.8})
        'loss 1.250  bits/byte 1.800'
    """
    names = {k: _NAMES.get(k, k.removeprefix("validation_").replace("_", " ")) for k in metrics}
    found = [f"{names[k]} {v:.3f}" for k, v in metrics.items() if math.isfinite(v)]
    return "  ".join(found) or "none measured"


def train(
    data: str | None = None,
    *,
    out: str | None = None,
    preset: str = "tiny",
    model: str | None = None,
    tokenizer: str | None = None,
    vocab: int | None = None,
    length: int | None = None,
    batch: int = 8,
    accumulate: int = 1,
    budget: str | float | None = None,
    tokens: str | float | None = None,
    lr: float | None = None,
    optimizer: str = "adamw",
    weight_decay: float = 0.1,
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine",
    mixer: str | None = None,
    ahead: int = 0,
    ahead_kind: Literal["sequential", "parallel"] = "sequential",
    ahead_weight: float | None = None,
    options: str = "",
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    compile: Literal["auto", "yes", "no"] = "auto",
    validation: float = 0.05,
    key: str | None = None,
    zero: int = 0,
    engine: Literal["own", "fsdp2"] = "own",
    memory: str | None = None,
    timeout: str | None = None,
    seed: int = 0,
    threads: int | None = None,
    device: str = "auto",
    fresh: bool = False,
    progress: Callable[[Any], None] | None = None,
) -> TrainedModel:
    """Trains a language model on text. The same call continues, also after Ctrl-C.

    The run's folder is a model's folder in the layout of Hugging Face: generate, serve-model and
    finetune open it. Several GPUs or processes: torchrun --nproc_per_node N -m paragone train …

    Args:
        data: A text file, a JSON Lines file, or a folder of them; without it, the sources of
            Python's standard library.
        out: The run's folder; runs/PRESET without it.
        preset: Size of the model: tiny, 15m, 42m, 110m.
        model: A model's folder to go on from, in place of a preset.
        tokenizer: A tokenizer's file or folder; bytes: single bytes; without it, one is trained.
        vocab: Tokens of a tokenizer that is trained.
        length: Tokens of a row.
        batch: Rows of a step; with several processes, of each.
        accumulate: Batches whose gradients make a step.
        budget: Time for the run, such as 5m; the schedule ends with it.
        tokens: Tokens to train on, such as 2M; without it and a budget, 20 a weight but the data
            twice at most.
        lr: Largest learning rate.
        optimizer: adamw, muon, lion or another of paragone.training.
        weight_decay: Decay of matrices.
        schedule: How the rate falls.
        mixer: In place of attention, such as mamba2, or several for the layers: gqa,mamba2.
        ahead: Modules that predict the tokens behind the next one, trained with the model and
            saved beside it.
        ahead_kind: sequential as in DeepSeek-V3, or parallel as in Meta's models.
        ahead_weight: Weight of their losses; 0.3 over all sequential ones, 1 for each parallel one.
        options: Other sizes, such as hidden_size=256,num_hidden_layers=6.
        precision: auto measures whether bf16 is faster here.
        compile: auto measures whether torch.compile pays within the run.
        validation: Share of the text to validate on.
        key: Field of JSON records that has the text.
        zero: ZeRO stage, with several processes.
        engine: own, or fsdp2 for stage 3.
        memory: What the run may take, such as 4GB; without it, what is free.
        timeout: How long to wait for another process, such as 2m; without it, half an hour.
        seed: Seed of weights and order.
        threads: Threads of torch.
        device: Where it runs.
        fresh: Start anew.
        progress: Called with each event.
    """
    from paragone.lab.vision_jobs import named_values

    seconds = units.seconds(budget, "--budget")
    sizes: Any = model
    if options:
        if model is not None:
            raise UsageError("--options are sizes of a new model; --model has its own")
        sizes = named_values(options)
    folder = out or os.path.join("runs", preset if model is None else "continued")
    try:
        from paragone.language.train import train as run

        done = run(
            data, folder, preset=preset if model is None else None, model=sizes,
            tokenizer=tokenizer, vocab_size=vocab, key=key, length=length, batch=batch,
            accumulate=accumulate, tokens=counted(tokens), seconds=seconds, lr=lr,
            schedule=schedule, optimizer=optimizer, weight_decay=weight_decay, mixer=mixer,
            ahead=ahead, ahead_kind=ahead_kind, ahead_weight=ahead_weight,
            precision=precision, compile={"yes": True, "no": False}.get(compile, "auto"),
            validation=validation, seed=seed, threads=threads, device=device, zero=zero,
            engine=engine, memory=units.size(memory, "--memory"), resume=not fresh,
            timeout=units.seconds(timeout, "--timeout"), progress=progress,
        )  # fmt: skip
    except UsageError:
        raise
    except (ValueError, FileNotFoundError) as error:
        raise UsageError(str(error)) from error
    return TrainedModel(str(done.folder), done.metrics, done.tokens, done.seconds)


def counted(text: str | float | None) -> float | None:
    """A number such as 2M or 600k.

    Example:
        >>> counted("2M"), counted("600k"), counted(5000)
        (2000000.0, 600000.0, 5000.0)
    """
    if text is None:
        return None
    words = str(text).strip().lower()
    scale = {"k": 1e3, "m": 1e6, "b": 1e9}.get(words[-1:], 1.0)
    try:
        found = float(words.rstrip("kmb")) * scale
    except ValueError:
        found = math.nan
    if not found > 0 or math.isinf(found):
        raise UsageError(f"--tokens {text!r} is not understood; write it like 600k or 2M")
    return found
