r"""Kimi-VL's texts: prompts of unequal length read at once, then a token a row a step.

$$ x_{t+1} \sim p(\cdot \mid \text{pictures}, x_{\le t}) ,\qquad p(\text{marker}) = 0 . $$

The cache holds one latent a token and layer. Draws depend on the seed and the row alone.

References:
    DeepSeek-AI (2024), DeepSeek-V2, arXiv:2405.04434, section 2.1 (what the cache holds).

Shapes: B rows, T time, V vocabulary, M model width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paragone.language.sampling import Drawing, Sampling
from paragone.multimodal._kimi_config import MARKERS
from paragone.multimodal._kimi_rows import rows_of
from paragone.multimodal.documents import Document

__all__ = ["continued"]


@torch.no_grad()
def continued(
    model: Any,
    documents: Sequence[Document],
    *,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
) -> list[list[int]]:
    """New tokens of each prompt, without the one that ended it.

    Args:
        model: A `KimiVL`.
        documents: Prompts, at least one.
        max_new_tokens: Most tokens of a row; what goes beyond the model's longest text is left out.
        temperature: 0 takes the most likely token.
        top_p: Share of probability that is drawn from.
        seed: Of all draws.
    """
    config = model.config.text_config
    device = model.language_model.lm_head.weight.device
    rows = rows_of(documents, model.config, model.processor, model.tokenizer, device, ended=False)
    room = config.max_position_embeddings - int(rows.lengths.max())
    most = min(max_new_tokens, room)
    samplings = [
        Sampling(temperature=temperature, top_p=top_p, seed=(seed << 24) + at)
        for at in range(len(documents))
    ]
    # The draw's history serves penalties, of which there are none.
    drawing = Drawing(samplings, [[] for _ in documents], max(most, 1), config.vocab_size)
    h, state = model.read(rows.input_ids, rows.patches, rows.grid_hws, lengths=rows.lengths)
    h = h[torch.arange(len(h), device=device), rows.lengths - 1]
    found: list[list[int]] = [[] for _ in documents]
    open_ = np.arange(len(documents))
    tokens = np.zeros(len(documents), np.int64)
    for step in range(most):
        scores = _scores(model, h[torch.from_numpy(open_).to(device)])
        drawn, _ = drawing.pick(scores, open_)
        tokens[open_] = drawn
        going = ~np.isin(drawn, config.eos)
        for row, token in zip(open_[going], drawn[going], strict=True):
            found[row].append(int(token))
        open_ = open_[going]
        if not len(open_) or step + 1 == most:
            break
        ids = torch.from_numpy(tokens).to(device)[:, None]
        h, state = model.read(ids, state=state)
        h = h[:, 0]
    return found


def _scores(model: Any, h: Tensor) -> np.ndarray:
    """(A, V) logits in which no marker and no beginning can be drawn."""
    logits = model.language_model.lm_head(h).float()
    banned = [getattr(model.config, name) for name in MARKERS]
    banned.append(model.config.text_config.bos_token_id)
    logits[:, [one for one in banned if one is not None]] = -torch.inf
    return logits.cpu().numpy()
