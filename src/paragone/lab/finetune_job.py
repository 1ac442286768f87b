"""`finetune`: tuning of `paragone.language` as the shell calls it.

Importing this module loads the standard library alone.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from typing import Any, Literal

from paragone.lab.language_models import opened

__all__ = ["Finetuned", "finetune"]


@dataclasses.dataclass(frozen=True)
class Finetuned:
    """A finished run; `str()` is what the shell prints."""

    tuned: Any

    def json(self) -> str:
        t = self.tuned
        return json.dumps({
            "folder": str(t.folder), "loss": t.loss, "rows": len(t.rows.rows),
            "tokens": t.rows.tokens, "learned": t.rows.targets, "truncated": t.rows.truncated,
            "dropped": t.rows.dropped, "skipped": t.rows.skipped,
            "validation_loss": t.history[-1].get("validation_loss"),
            "merged": None if t.merged is None else str(t.merged),
            "seconds": round(t.seconds, 1),
        })  # fmt: skip

    def __str__(self) -> str:
        from paragone.lab import format as fmt

        t = self.tuned
        held = t.history[-1].get("validation_loss")
        lines = [f"{t.folder}: {t.rows}, {fmt.seconds(t.seconds)}"]
        lines.append(f"loss {t.loss:.3f}" + ("" if held is None else f", validation {held:.3f}"))
        if (t.folder / "adapter").is_dir():
            lines.append(f"adapter, as PEFT reads it: {t.folder / 'adapter'}")
        if (t.folder / "config.json").is_file():
            lines.append(f"next: paragone chat {t.folder}")
        return "\n".join(lines)


def finetune(
    model: str | os.PathLike[str],
    *,
    rows: str,
    out: str | os.PathLike[str],
    tokenizer: str | None = None,
    template: str | None = None,
    epochs: float = 1.0,
    lora_rank: int | None = None,
    lora_alpha: float = 16.0,
    lora_targets: str = "all-linear",
    quantize: Literal["nf4"] | None = None,
    adapter_only: bool = False,
    learn: Literal["all", "last"] = "all",
    max_length: int | None = None,
    batch: int = 16,
    lr: float | None = None,
    optimizer: str = "adamw",
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    validation: float = 0.0,
    validation_rows: str | None = None,
    seed: int = 0,
    threads: int | None = None,
    device: str = "auto",
    progress: Callable[[Any], None] | None = None,
) -> Finetuned:
    """Teaches a model to answer, from instructions or conversations. The same call continues.

    Args:
        model: Its folder, a llama2.c .bin or a .gguf.
        rows: A file of the 52k format, messages, ShareGPT, or prompts and completions: .json,
            .jsonl, .csv, .parquet; or a folder of them.
        out: The run's folder; the tuned model lies there in the end.
        tokenizer: Its tokenizer, if it does not lie beside it.
        template: alpaca, chatml, llama2, llama3 or plain; without it the model's own, or alpaca.
        epochs: Passes over the rows.
        lora_rank: Train small matrices of this rank, not all weights.
        lora_alpha: Their change counts alpha / rank.
        lora_targets: Linear maps, commas in between, such as q_proj,v_proj.
        quantize: nf4: keep the frozen weights in four bits.
        adapter_only: Keep LoRA's adapter alone; without it it is also merged into the weights.
        learn: All answers of a conversation, or the last.
        max_length: Most tokens of a conversation.
        batch: Conversations of a step.
        lr: Largest learning rate; without it one that is usual for the model's width.
        optimizer: adamw, or another of paragone.training.
        precision: auto measures whether a narrow type is faster here, on long runs.
        validation: Share of the rows to validate on.
        validation_rows: A file of rows to validate on.
        seed: Of order and first matrices.
        threads: Threads of torch.
        device: Where it runs: auto, cpu, cuda.
        progress: Called with each event.
    """
    from paragone._core.errors import UsageError
    from paragone.language.finetune import finetune as tune

    targets = lora_targets if lora_targets == "all-linear" else _names(lora_targets)
    try:
        network, words = opened(model, tokenizer, device=device, threads=threads)
        done = tune(
            network, words, rows, out=out, epochs=epochs, lora_rank=lora_rank,
            lora_alpha=lora_alpha, lora_targets=targets, quantize=quantize, merge=not adapter_only,
            template=template, learn=learn, max_length=max_length, batch=batch, lr=lr,
            optimizer=optimizer, precision=precision, validation=validation_rows or validation,
            seed=seed, progress=progress,
        )  # fmt: skip
    except UsageError:
        raise
    except (ValueError, FileNotFoundError) as error:
        raise UsageError(str(error)) from error
    return Finetuned(done)


def _names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (name.strip() for name in text.split(","))))
