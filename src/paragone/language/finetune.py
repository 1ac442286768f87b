r"""Supervised tuning: a model learns to answer, from conversations.

The loss is that of pre-training, on what the assistant writes alone,

$$ \mathcal{L} = -\frac{1}{\sum_i |A_i|} \sum_i \sum_{t \in A_i}
   \log p(x_{i,t} \mid x_{i,<t}) , $$

with A_i the tokens of answers of conversation i, their end included: that is how a model learns to
stop. The sum runs over the whole batch of a step, however it is cut into packed rows, ranks and
accumulated parts, so that a long answer's tokens count as much as a short one's. Masked tokens
cost no head, which for small models is most of their cost.

A run's folder holds at every instant what the same call goes on from:

    config.json, model.safetensors, tokenizer files    the tuned model (merged, for LoRA)
    adapter/                                           LoRA: the adapter, in PEFT's layout
    run.json, last.pt, metrics.jsonl                   recipe, state, history
    left-out.txt                                       rows that were left out, if any

Cost: 6 N operations a token and 4 N less for a frozen model's weights, N weights without the head,
plus 6 V M a learned token.

References:
    Taori et al. (2023), Stanford Alpaca, section "Fine-tuning" (rates, batch, epochs).
    Ouyang et al. (2022), arXiv:2203.02155, section 3.5 (step 1 of three).
    Hu et al. (2022), "LoRA", arXiv:2106.09685.

Shapes: N weights, V vocabulary, M model width.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from paragone._core.lazy import resolve
from paragone.language._train_setup import probed_precision
from paragone.language._tune_data import Stream, Taught, encoded, row_batches
from paragone.language._tune_tokens import resize_embeddings
from paragone.language.chat import ChatTemplate
from paragone.language.fitting import Loop, Loss, Progressed, Recipe
from paragone.language.llama import Llama
from paragone.language.lora import Merged, add_lora, merge_lora, save_adapter
from paragone.language.losses import token_loss
from paragone.language.packing import Row
from paragone.training.run_folder import Folder

__all__ = ["Tuned", "answer_loss", "finetune"]

_LONGEST = 2048
_MOST_NAMED = 3
_WORTH_A_PROBE = 200


@dataclasses.dataclass(frozen=True)
class Tuned:
    """What a run has come to.

    Attributes:
        model: The tuned model, the one that was given.
        tokenizer: Its tokenizer, with the template that conversations were written in.
        history: A dict for each line of metrics.jsonl.
        rows: What became of the rows.
        new_tokens: Words that the template needed and the tokenizer had not.
        merged: What merging an adapter did, or None.
        seconds: Of training, over all parts of the run.
        folder: Where the run lies, or None.
    """

    model: Llama
    tokenizer: Any
    history: list[dict[str, Any]]
    rows: Taught
    new_tokens: tuple[str, ...]
    merged: Merged | None
    seconds: float
    folder: Path | None

    @property
    def loss(self) -> float:
        """Mean loss of the last stretch of training, in nats a learned token."""
        return self.history[-1]["loss"]


def answer_loss(model: Any, row: Row) -> Loss:
    """The summed loss of a packed row's learned tokens.

    Args:
        model: A `Llama`.
        row: Of `packing.pack`.
    """
    out = model(row.input_ids, lengths=row.lengths, logits=False)
    total, count = token_loss(out.hidden, model.lm_head.weight, row.labels)
    if out.balance_loss is not None:
        total = total + count * out.balance_loss
    return Loss(total, count, tokens=row.input_ids.numel())


def finetune(
    model: Llama,
    tokenizer: Any,
    rows: Any,
    *,
    epochs: float = 1,
    lora_rank: int | None = None,
    lora_alpha: float = 16.0,
    lora_dropout: float = 0.0,
    lora_targets: Sequence[str] | Literal["all-linear"] = "all-linear",
    rslora: bool = False,
    quantize: Literal["nf4"] | None = None,
    merge: bool = True,
    template: str | ChatTemplate | None = None,
    learn: Literal["all", "last"] = "all",
    max_length: int | None = None,
    batch: int = 16,
    packed: bool = True,
    pack_length: int | None = None,
    lr: float | None = None,
    optimizer: str = "adamw",
    weight_decay: float = 0.0,
    warmup: float = 0.03,
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine",
    clip_norm: float | None = 1.0,
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    validation: Any = 0.0,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    progress: Callable[[Progressed], None] | None = None,
) -> Tuned:
    """Tunes a model on conversations; the same call with the same folder goes on.

    Prefer all weights (no `lora_rank`) for small models and much data; LoRA where memory is short
    or the tuned variants of one model are many. Prefer `dpo` afterwards where it is known which of
    two answers is better.

    Args:
        model: Changed in place.
        tokenizer: Of the model; it gets the template, and the tokens that this needs.
        rows: What `read_rows` takes: the 52k format, messages, ShareGPT, prompts and completions.
        epochs: Passes over the rows.
        lora_rank: Rank r of LoRA (None: all weights are trained).
        lora_alpha: LoRA's change of scale alpha / r.
        lora_dropout: Share of inputs that LoRA's matrices do not see in training.
        lora_targets: Names of linear maps, or "all-linear".
        rslora: Whether LoRA's scale is alpha / sqrt(r).
        quantize: "nf4" keeps LoRA's frozen weights in four bits.
        merge: Whether LoRA's change is merged into the weights in the end; False leaves the
            adapter beside them.
        template: A name of `ChatTemplate.named`, or a template (None: the tokenizer's own, or
            "alpaca").
        learn: "all" answers of a conversation, or the "last".
        max_length: Most tokens of a conversation (None: what the model is made for, at most
            2048); what lies beyond is cut off, counted and told.
        batch: Conversations of a step.
        packed: Whether conversations are packed; the loss is the same.
        pack_length: Most tokens that go through the model at once (None: `max_length`, or 2048).
        lr: Largest learning rate (None: 2e-5 at the width of 4096, as 1 / M otherwise; ten times
            that for LoRA).
        optimizer: A name of `paragone.training.by_name.OPTIMIZERS`.
        weight_decay: Decay of matrices.
        warmup: Share of the run in which the rate rises.
        schedule: How it falls.
        clip_norm: Largest norm of a step's gradients, or None.
        precision: "fp32", "bf16" or "fp16"; "auto" measures whether a narrow type is faster here,
            where the run is long enough to be worth it.
        validation: Rows to validate on after each epoch, or the share of `rows` to keep for it.
        seed: Of order, dropout and LoRA's first matrices.
        out: The run's folder; None: nothing is written.
        progress: Called with each event.

    Raises:
        ValueError: An argument out of range, rows without anything to learn, a folder of another
            run.

    Example:
        >>> from paragone.language import LlamaConfig, Tokenizer
        >>> words = Tokenizer.train(["Hi? Hello!"] * 9, 270)
        >>> model = Llama(LlamaConfig(words.vocab_size, 32, 64, 1, 4))
        >>> finetune(model, words, [{"prompt": "Hi?", "completion": "Hello!"}]).rows.targets > 1
        True
    """
    if quantize is not None and lora_rank is None:
        raise ValueError("quantize needs lora_rank: weights of four bits are not trained")
    if batch < 1 or not epochs > 0:
        raise ValueError(f"batch={batch}, epochs={epochs}: both must be above 0")
    begun, tell = time.monotonic(), progress or (lambda event: None)
    written, new = _template(tokenizer, template, model.config.vocab_size)
    base = _fingerprint(model)
    length = max_length or min(model.config.max_position_embeddings, _LONGEST)
    taught = encoded(rows, tokenizer, written, length, learn)
    kept, held = _held_out(taught, validation, tokenizer, written, length, learn, seed)
    _tokens(model, tokenizer, taught, new)
    if lora_rank is not None:
        generator = torch.Generator(model.lm_head.weight.device).manual_seed(seed)
        add_lora(
            model, lora_rank, lora_alpha, lora_dropout, lora_targets, rslora=rslora,
            saved=("embed_tokens", "lm_head") if new else (), quantize=quantize,
            generator=generator,
        )  # fmt: skip
    rank, ranks = _place()
    stream = Stream(kept, batch, epochs, max(pack_length or _LONGEST, length), seed, packed,
                    model.lm_head.weight.device, rank, ranks)  # fmt: skip
    folder = None if out is None else Folder(out)
    recipe = Recipe(
        stream.steps, lr or _usual_rate(model.config.hidden_size, lora_rank), warmup, schedule,
        final=0.0, optimizer=optimizer, weight_decay=weight_decay, clip_norm=clip_norm,
        precision=_precision(precision, model, stream, folder), seed=seed,
        evaluate_every=_every(stream, held),
    )  # fmt: skip
    for line in _notes(taught, new, folder):
        tell(Progressed("note", text=line))
    loop = Loop(
        model, recipe, stream, lambda row: answer_loss(model, row), folder, progress,
        _evaluation(model, held, stream) if held else None, begun=begun,
        identity={
            "rows": taught.fingerprint(), "model": base, "template": written.template,
            "batch": batch, "packed": packed, "learn": learn, "max_length": length,
            "lora": [lora_rank, lora_alpha, lora_dropout, lora_targets, rslora, quantize],
        },
        export=lambda folder: _export(model, tokenizer, folder),
    )  # fmt: skip
    loop.run()
    model.eval()
    merged = merge_lora(model) if lora_rank is not None and merge else None
    if merged is not None:
        tell(Progressed("note", text=str(merged)))
        if folder is not None and loop.ranks.first:
            _export(model, tokenizer, folder)
    return Tuned(model, tokenizer, loop.history, taught, new, merged, loop.seconds,
                 None if folder is None else folder.path)  # fmt: skip


def _template(
    tokenizer: Any, given: str | ChatTemplate | None, size: int
) -> tuple[Any, tuple[str, ...]]:
    """The template in the tokenizer's words, and its words that tokenizer or model lack."""
    found: Any = given
    if given is None:
        found = tokenizer.chat_template or "alpaca"
    if isinstance(found, str):
        found = ChatTemplate.named(found)
        words = [
            None if id is None else tokenizer.piece(id)
            for id in (tokenizer.bos_id, tokenizer.eos_id)
        ]
        found = found.with_tokens(*words)
    lacking = [w for w in found.special_tokens() if tokenizer.id_of(w) is None]
    tokenizer.add_tokens(lacking)
    new = tuple(
        w for w in found.special_tokens() if w in lacking or (tokenizer.id_of(w) or 0) >= size
    )
    tokenizer.chat_template = found
    return found, new


def _tokens(model: Llama, tokenizer: Any, taught: Taught, new: Sequence[str]) -> None:
    """Rows for new tokens; the token that ends answers ends generation."""
    if new and tokenizer.vocab_size > model.config.vocab_size:
        resize_embeddings(model, tokenizer.vocab_size)
    highest = max(max(row.ids) for row in taught.rows)
    if highest >= model.config.vocab_size:
        raise ValueError(
            f"the tokenizer gives {highest}, but the model has {model.config.vocab_size} tokens: "
            "it is another model's"
        )
    ends = [id for id in taught.ends if tokenizer.is_special(id)]
    if missing := [id for id in ends if id not in model.config.eos]:
        model.config = model.config.replace(eos_token_id=(*model.config.eos, *missing))


def _held_out(
    taught: Taught, validation: Any, tokenizer: Any, template: Any, length: int, learn: Any,
    seed: int,
) -> tuple[list[Any], list[Any]]:  # fmt: skip
    if not isinstance(validation, int | float):
        return taught.rows, encoded(validation, tokenizer, template, length, learn).rows
    if not 0 <= validation < 1:
        raise ValueError(f"validation={validation}: rows, or a share from 0 to below 1")
    count = round(validation * len(taught.rows))
    if validation and not 0 < count < len(taught.rows):
        raise ValueError(
            f"validation={validation} of {len(taught.rows)} conversations leaves none on one side"
        )
    drawn = torch.randperm(len(taught.rows), generator=torch.Generator().manual_seed(seed))
    held = set(drawn[:count].tolist())
    return (
        [row for at, row in enumerate(taught.rows) if at not in held],
        [taught.rows[at] for at in sorted(held)],
    )


def _precision(asked: str, model: nn.Module, stream: Stream, folder: Folder | None) -> Any:
    """As asked; of "auto", what an earlier part of the run had, or what is measured now."""
    if asked != "auto":
        return asked
    before = None if folder is None else folder.path / "run.json"
    if before is not None and before.exists():
        return json.loads(before.read_text(encoding="utf-8")).get("precision", "fp32")
    kind = torch.device(stream.device).type
    if stream.ranks > 1 or (kind == "cpu" and stream.steps < _WORTH_A_PROBE):
        return "fp32"
    row = stream(0)[0]

    def step(trial: nn.Module) -> torch.Tensor:
        found = answer_loss(trial, row)
        return found.total / found.count

    return probed_precision(model, step, kind)


def _every(stream: Stream, held: Sequence[Any]) -> int | None:
    """Steps of an epoch, if there is something to validate on."""
    return -(-len(stream.rows) // stream.batch) if held else None


def _evaluation(model: Any, held: Sequence[Any], stream: Stream) -> Callable[[], dict[str, float]]:
    rows = row_batches(held, stream.length, stream.packed, stream.device)

    def evaluate() -> dict[str, float]:
        losses = [answer_loss(model, row) for row in rows]
        total = sum(float(loss.total) for loss in losses)
        return {"validation_loss": total / sum(int(loss.count) for loss in losses)}

    return evaluate


def _usual_rate(width: int, rank: int | None) -> float:
    return min(2e-5 * 4096 / width * (1 if rank is None else 10), 3e-3)


def _place() -> tuple[int, int]:
    there = torch.distributed.is_available() and torch.distributed.is_initialized()
    if not there:
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def _notes(taught: Taught, new: Sequence[str], folder: Folder | None) -> list[str]:
    lines = [str(taught), *taught.problems[:_MOST_NAMED]]
    if len(taught.problems) > _MOST_NAMED:
        where = "" if folder is None else ", all in left-out.txt"
        lines.append(f"… and {len(taught.problems) - _MOST_NAMED} more{where}")
    if folder is not None and taught.problems:
        folder.write_problems(taught.problems)
    if new:
        lines.append(f"new tokens: {', '.join(new)}")
    return lines


def _fingerprint(model: nn.Module) -> str:
    """Tells other weights apart: a thousand numbers of each."""
    found = hashlib.sha256()
    for name, weight in model.state_dict().items():
        flat = weight.detach().reshape(-1)
        some = flat[:: max(1, len(flat) // 1000)].double().cpu().numpy()
        found.update(name.encode() + some.tobytes())
    return found.hexdigest()[:16]


def _export(model: Llama, tokenizer: Any, folder: Folder) -> None:
    if getattr(model, "adapter", None) is None:
        resolve("paragone.language.checkpoints:save")(model, tokenizer, folder.path)
        return
    save_adapter(model, folder.path / "adapter")
    tokenizer.save(folder.path / "adapter")
