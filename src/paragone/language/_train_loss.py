"""What a step of pre-training minimises: the next token's loss, alone or with those further ahead.

References:
    DeepSeek-AI (2024), DeepSeek-V3, arXiv:2412.19437, eq. 24-25 (modules trained with the model).

Shapes: none; rows are `packing.Row`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from paragone.language._train_data import output_of
from paragone.language.fitting import Loss
from paragone.language.llama import Llama
from paragone.language.losses import token_loss
from paragone.language.multi_token_prediction import MultiTokenPrediction
from paragone.language.packing import Row

__all__ = ["LossHead", "WithAhead", "next_token_loss", "step_loss"]


class LossHead(nn.Linear):
    """A head that is asked for the loss: with ZeRO-3 it has its weight while it is called alone."""

    def forward(self, hidden: Tensor, labels: Tensor | None = None) -> Any:
        if labels is None:
            return super().forward(hidden)
        return token_loss(hidden, self.weight, labels)


def next_token_loss(model: Llama, row: Row) -> Loss:
    """The loss of a row of packed documents, for `fitting.Loop`."""
    out, labels = output_of(model, row), row.labels.flatten()
    hidden = out.hidden.flatten(0, 1)
    if isinstance(model.lm_head, LossHead):
        total, count = model.lm_head(hidden, labels)
    else:
        total, count = token_loss(hidden, model.lm_head.weight, labels)
    if out.balance_loss is not None:
        total = total + count * out.balance_loss
    return Loss(total, count, tokens=row.input_ids.numel())


class WithAhead(nn.Module):
    """A model and the modules that look further ahead, as one thing to train.

    Args:
        model: The model.
        ahead: Its modules.
        weight: As in `MultiTokenPrediction.losses`.
    """

    def __init__(
        self, model: Llama, ahead: MultiTokenPrediction, weight: float | Sequence[float] | None
    ) -> None:
        super().__init__()
        self.whole, self.modules_ahead = model, ahead.modules
        self.ahead, self.weight = ahead, weight

    @property
    def model(self) -> nn.Module:
        """The decoder, as of a `Llama`."""
        return self.whole.model


def step_loss(trained: Any, row: Row) -> Loss:
    """The loss of a row, with modules that look further ahead where there are some."""
    if not isinstance(trained, WithAhead):
        return next_token_loss(trained, row)
    return trained.ahead.losses(row, trained.weight).loss()
