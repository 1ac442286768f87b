r"""Losses of next tokens that never hold all logits: the head and its softmax, chunk by chunk.

With 32,000 tokens and more the logits are by far the largest tensor of a training step, and a
masked token needs none. So the head is part of the loss. For the rows that have a label,
some hundred at a time,

$$ z = h W^\top, \qquad \ell = \log \textstyle\sum_v e^{z_v} - z_y, \qquad
   \frac{\partial \ell}{\partial z} = p - e_y, \qquad
   \frac{\partial \ell}{\partial h} = (p - e_y) W, \quad
   \frac{\partial \ell}{\partial W} = (p - e_y)^\top h , $$

and the sum's gradient is known before anyone asks for it, so that z is made once. Where each
token's log-probability is wanted by itself (`token_log_probs`), z is made again in the backward
pass. Softmax is in float32 whatever the type of h.

Cost: 6 V M operations a label (8 for `token_log_probs`), memory of one chunk of logits.

References:
    Milakov and Gimelshein (2018), arXiv:1805.02867, section 2 (the safe softmax).
    Wijmans et al. (2024), arXiv:2411.09009, section 4 (the head fused with cross-entropy).
    Hsu et al. (2024), arXiv:2410.10989, section 3.2 (gradients in the forward pass).

Shapes: N tokens, M model width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from paragone.language.ops.token_loss.interface import log_probs, loss_sum
from paragone.language.packing import IGNORED

__all__ = ["IGNORED", "token_log_probs", "token_loss"]


def token_loss(
    hidden: Tensor, weight: Tensor, labels: Tensor, *, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """The summed cross-entropy of the labels, and how many there are.

    Prefer it to `cross_entropy` of logits wherever the head is large or tokens are masked. Divide
    by the count of the whole batch, not by that of a part of it.

    Args:
        hidden: (N, M) what the head reads, or (B, T, M).
        weight: (V, M) the head.
        labels: (N,) token that follows, or (B, T); -100 where none is wanted.
        backend: "auto", or a name from `paragone.kernels.choice.backends("token_loss")`.

    Returns:
        The sum in nats, a float32 (float64) scalar with gradients to hidden and weight, and the
        number of labels, an int64 scalar.

    Raises:
        ValueError: Shapes or types that do not fit, or a label that is no token.

    Example:
        >>> hidden, weight = torch.zeros(3, 4), torch.zeros(8, 4)
        >>> token_loss(hidden, weight, torch.tensor([1, -100, 7]))
        (tensor(4.1589), tensor(2))
    """
    hidden, labels = _flat(hidden, weight, labels)
    return loss_sum(hidden, weight, labels, backend), (labels != IGNORED).sum()


def token_log_probs(
    hidden: Tensor, weight: Tensor, labels: Tensor, *, backend: str = "auto"
) -> Tensor:
    """The log-probability of each label.

    Prefer it to `token_loss` where tokens count differently, as in preference losses. For another
    temperature divide `hidden` by it.

    Args:
        hidden: (N, M) what the head reads, or (B, T, M).
        weight: (V, M) the head.
        labels: (N,) token, or (B, T); -100 where none is wanted.
        backend: "auto", or a name from `paragone.kernels.choice.backends("token_loss")`.

    Returns:
        Of the shape of labels, float32 (float64) with gradients; 0 where the label is -100.

    Raises:
        ValueError: Shapes or types that do not fit, or a label that is no token.

    Example:
        >>> token_log_probs(torch.zeros(2, 4), torch.zeros(8, 4), torch.tensor([1, -100])).exp()
        tensor([0.1250, 1.0000])
    """
    shape = labels.shape
    hidden, labels = _flat(hidden, weight, labels)
    return log_probs(hidden, weight, labels, backend).view(shape)


def _flat(hidden: Tensor, weight: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    if weight.ndim != 2 or hidden.ndim < 2 or hidden.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"hidden has shape {tuple(hidden.shape)}, weight {tuple(weight.shape)}; (N, M) and "
            "(V, M) are expected"
        )
    if labels.shape != hidden.shape[:-1]:
        raise ValueError(
            f"labels has shape {tuple(labels.shape)}, hidden {tuple(hidden.shape)}; one label for "
            "each row of hidden is expected"
        )
    if labels.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"labels is {labels.dtype}; int64 or int32 is expected")
    if not hidden.is_floating_point() or not weight.is_floating_point():
        raise ValueError(f"hidden is {hidden.dtype}, weight {weight.dtype}; floats are expected")
    if not hidden.device == weight.device == labels.device:
        raise ValueError(
            f"hidden is on {hidden.device}, weight on {weight.device}, labels on {labels.device}; "
            "one device is expected"
        )
    labels = labels.reshape(-1).to(torch.int64)
    if labels.device.type == "cpu" and len(labels):
        wrong = (labels != IGNORED) & ((labels < 0) | (labels >= weight.shape[0]))
        if bool(wrong.any()):
            raise ValueError(
                f"label {int(labels[wrong][0])} is no token of a vocabulary of {weight.shape[0]}; "
                "-100 marks what has none"
            )
    return hidden.reshape(-1, hidden.shape[-1]), labels
