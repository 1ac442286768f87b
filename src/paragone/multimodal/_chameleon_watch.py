r"""What grows before a run diverges: stream, scores of attention, logits.

A softmax sees only differences, so nothing holds what is common to all scores, until float16 and
bfloat16 can no longer tell them apart. The paper saw the norm of the last layer's output grow
long before the loss did. Measured are

$$ \max_{t} \lVert h^L_t \rVert / \sqrt M, \qquad
   \max_{l,h,s \le t} \lvert q_{lht} \cdot k_{lhs} \rvert / \sqrt D, \qquad
   \max_t \lVert z_t \rVert_\infty, \qquad \overline{\log Z_t} . $$

References:
    Chameleon Team (2024), arXiv:2405.09818, section 2.3 and figure 5.
    Wortsman et al. (2023), arXiv:2309.14322, section 3.1 (attention logits, log Z).
    Dehghani et al. (2023), arXiv:2302.05442, figure 1 (attention logits).

Shapes: T tokens, H heads, G key heads, D head width, M model width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from paragone.multimodal._chameleon_documents import rows_of
from paragone.multimodal.documents import Document

__all__ = ["watched"]


@torch.no_grad()
def watched(model: Any, documents: Sequence[Document]) -> dict[str, float]:
    """Largest sizes over documents, in float32.

    Args:
        model: A `Chameleon`, or another with `hidden`, `lm_head` and attention in `model.layers`.
        documents: A few.

    Returns:
        "stream" (root mean square of the last layer's output), "score" (of attention, before the
        softmax), "logit" (of the head) and "log_z" (its mean).
    """
    training = model.training
    model.eval()
    found = {"stream": 0.0, "score": 0.0, "logit": 0.0}
    log_z, tokens = 0.0, 0
    try:
        for row in rows_of(model, documents):
            ids = torch.tensor([row.ids], device=model.lm_head.weight.device)
            h, states = model.model.embed_tokens(ids), []
            for block in model.model.layers:
                found["score"] = max(found["score"], _score(block, h))
                h, state = block(h, None, None, None)
                states.append(state)
            found["stream"] = max(found["stream"], _largest(h.float().square().mean(-1).sqrt()))
            logits = model.lm_head(model.model.norm(h)).float()
            found["logit"] = max(found["logit"], _largest(logits.abs()))
            log_z += float(logits.logsumexp(-1).sum())
            tokens += ids.shape[1]
    finally:
        model.train(training)
    return found | {"log_z": log_z / max(tokens, 1)}


def _score(block: Any, h: Tensor) -> float:
    """Largest score of a layer; turning by places moves none beyond |q| |k|, and is applied."""
    mixer = block.self_attn
    x = h if block.behind else block.input_layernorm(h)
    table = mixer.rotary.table(0, h.shape[1], x, torch.float32)
    q, k, _ = mixer._projected(x, table)
    k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    scores = (q.float() @ k.float().transpose(2, 3)).tril() * mixer.scale
    return _largest(scores.abs())


def _largest(x: Tensor) -> float:
    return float(x.max())
