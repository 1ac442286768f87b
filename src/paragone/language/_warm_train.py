"""Small calls that lead through every compiled kernel of training, for `paragone warmup`."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["CALLS"]


def _token_loss() -> None:
    import torch

    from paragone.language.losses import token_loss

    hidden = torch.zeros(9, 4, requires_grad=True)
    weight = torch.zeros(7, 4, requires_grad=True)
    token_loss(hidden, weight, torch.zeros(9, dtype=torch.int64))[0].backward()


CALLS: tuple[Callable[[], None], ...] = (_token_loss,)
