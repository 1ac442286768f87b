r"""Training of modules that predict further tokens, for a model that is there already.

The model writes; the modules learn what it wrote, from the streams that it wrote it from. One
sequential module learns to go on from its own stream as well, which is what drafting asks of it:

$$ g^1_t = \mathrm{module}(x_{t+1}, h_t), \qquad g^{d+1}_t = \mathrm{module}(x_{t+d+1}, g^d_t),
   \qquad \min \sum_{d=1}^{U} \sum_t -\log p(x_{t+d+1} \mid g^d_t) . $$

Here it reads at each depth the slots of that depth; in drafting it reads those of certain tokens
and its own few. The difference is small, and what is agreed to is measured as in drafting.

Cost: drawing and reading the samples, and U blocks and heads a token and epoch.

References:
    DeepSeek-AI (2024), arXiv:2412.19437, section 2.2.
    Zhou et al. (2023), "DistillSpec", arXiv:2310.08461, section 4 (samples of the model itself).

Shapes: U depths that are unrolled, V vocabulary.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from paragone.language._heads_data import HeadBatch, own_samples
from paragone.language._heads_fit import fit_heads
from paragone.language.fitting import Loss, Progressed
from paragone.training.run_folder import seeded

__all__ = ["trained"]

_UNROLLED = 4
_SMALL = 4096
"""A vocabulary that is not worth trimming."""


def trained(
    cls: Any, model: Any, tokenizer: Any, texts: Any, depth: int, kind: Any, *, joint: bool,
    start: Any, reads: Any, unroll: int | None, weight: Any, soft: bool, draft_vocab: Any,
    tokens: int, temperature: float, seconds: float | None, steps: int | None, lr: float | None,
    batch: int, length: int, seed: int, out: str | os.PathLike[str] | None, progress: Any,
) -> Any:  # fmt: skip
    """What `MultiTokenPrediction.train` does."""
    length = min(length, model.config.max_position_embeddings)
    ahead = _begun(cls, model, depth, kind, reads, start, seed)
    if ahead.reads == "trunk":
        raise ValueError("heads of a model that is there read its stream: reads='stream'")
    usual: int = max(ahead.depth, _UNROLLED) if ahead.kind == "sequential" else ahead.depth
    deep: int = usual if unroll is None else unroll
    if deep < ahead.depth or (deep > ahead.depth and ahead.kind == "parallel"):
        raise ValueError(
            f"unroll={deep} of {ahead.depth} {ahead.kind} modules: sequential ones can be used "
            "beyond their depth, and none is left out"
        )
    tell = progress or (lambda event: None)
    tell(Progressed("note", text=f"{tokens:,} tokens are drawn from the model"))
    rows = own_samples(
        model, tokenizer, texts, tokens, temperature=temperature, length=length, seed=seed,
        progress=progress, **({} if length > 32 else {"prefix": (1, max(1, length // 4))}),
    )  # fmt: skip
    if ahead.draft_ids is None:
        ahead.draft_ids = _commonest(rows, model, draft_vocab)
    weights = weight
    if weight is None and not joint:
        weights = [1.0] * deep

    def loss(found: HeadBatch) -> Loss:
        return ahead.losses(
            found, weights, frozen=not joint, soft=soft and not joint, depth=deep
        ).loss()

    rate = lr or (1e-4 if joint else 3e-3 * (64 / model.config.hidden_size) ** 0.5)
    asked = {"method": "mtp", "depth": ahead.depth, "modules": ahead.kind, "unroll": deep,
             "weights": weights, "soft": soft and not joint}  # fmt: skip
    fitted = fit_heads(
        ahead.modules, model, rows, loss, seconds=seconds, steps=steps, lr=rate, batch=batch,
        length=length, seed=seed, folder=out, identity=asked, progress=progress, joint=joint,
    )  # fmt: skip
    known = fitted.metrics
    ahead.accuracies = tuple(
        float(known[f"validation_agreed_{d}"]) for d in range(1, deep + 1)
        if f"validation_agreed_{d}" in known
    )  # fmt: skip
    ahead.history = fitted.history
    ahead.certify()
    if out is not None:
        ahead.save(Path(out))
        if joint:
            from paragone.language.checkpoints import save

            save(model, tokenizer, out)
    return ahead


def _begun(cls: Any, model: Any, depth: int, kind: Any, reads: Any, start: Any, seed: int) -> Any:
    """New modules, whose blocks begin as the model's last one; or those to go on from."""
    if start is not None:
        found = cls(model, start.depth, start.kind, reads=start.reads)
        found.modules.load_state_dict(start.modules.state_dict())
        found.draft_ids = start.draft_ids
        return found
    with seeded(seed, 1):
        found = cls(model, depth, kind, reads=reads if kind == "parallel" else None)
    last = model.model.layers[-1].state_dict()
    for layer in found.modules.layers:
        own = layer.state_dict()
        fitting = {n: x for n, x in last.items() if n in own and own[n].shape == x.shape}
        layer.load_state_dict(fitting, strict=False)
        with torch.no_grad():
            layer.shared_head.norm.weight.copy_(model.model.norm.weight)
    return found


def _commonest(rows: Sequence[np.ndarray], model: Any, wanted: Any) -> torch.Tensor | None:
    """The tokens that drafts are made of, rising; None for all."""
    size = model.config.vocab_size
    if wanted is None or (wanted == "auto" and size <= _SMALL):
        return None
    if wanted != "auto" and not 1 <= wanted <= size:
        raise ValueError(f"draft_vocab={wanted}: 1 to {size} tokens are expected")
    counts = np.bincount(np.concatenate(rows), minlength=size)
    most = int((counts > 0).sum()) if wanted == "auto" else wanted
    if most >= size:
        return None
    chosen = np.sort(np.argsort(-counts, kind="stable")[:most])
    return torch.from_numpy(chosen).to(model.lm_head.weight.device)
