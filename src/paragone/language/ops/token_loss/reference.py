r"""The definition: all logits at once, in float32 at least.

$$ \log p_n = z_{n, y_n} - \log \textstyle\sum_v e^{z_{n,v}}, \qquad z = h W^\top . $$

References:
    Goodfellow et al. (2016), Deep Learning, eq. 6.29-6.30.

Shapes: N tokens, M model width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["token_log_probs_reference"]


def token_log_probs_reference(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """(N,) log-probabilities of the labels, 0 where the label is -100."""
    logits = (hidden @ weight.T).to(torch.promote_types(hidden.dtype, torch.float32))
    wanted = labels >= 0
    found = logits.log_softmax(-1).gather(1, labels.clamp(min=0)[:, None])[:, 0]
    return torch.where(wanted, found, torch.zeros_like(found))
