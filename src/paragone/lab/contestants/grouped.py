"""Optimizers that need more than a list of parameters and a rate, for the study `optimizers`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from paragone.lab.build import resolve_target

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["muon"]


def muon(model: nn.Module, *, lr: float, target: str, **params: Any) -> torch.optim.Optimizer:
    """Hidden matrices and kernels by Muon, the rest by AdamW, with one rate and one decay."""
    cls = resolve_target(target)
    groups = cls.split(model, lr=lr, weight_decay=params.get("weight_decay", 0.0))
    return cls(groups, lr=lr, adjust="match_rms_adamw", **params)
