"""Every optimizer by name, with the rate that is usual for it and the weights that do not decay.

References:
    Loshchilov and Hutter (2019), arXiv:1711.05101, section 5 (decay apart from the gradient).
    Jordan et al. (2024), "Muon", section "Embedding parameters" (what is left to AdamW).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from paragone._core.lazy import resolve

__all__ = ["OPTIMIZERS", "RATES", "make_optimizer"]

OPTIMIZERS = {
    "sgd": "SGD", "adamw": "AdamW", "adam": "Adam", "lion": "Lion", "muon": "Muon",
    "adafactor": "Adafactor", "schedule_free": "ScheduleFree",
}  # fmt: skip
"""Name to the class in `paragone.training`."""

RATES = {
    "sgd": 0.05, "adamw": 2e-3, "adam": 2e-3, "lion": 3e-4, "muon": 0.02, "adafactor": 1e-2,
    "schedule_free": 2e-3,
}  # fmt: skip
"""Peak learning rates to start from, for small networks trained from scratch."""

_NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm)
_MUON_VECTORS = 0.1
"""Rate of what Muon leaves to AdamW, as a share of its own."""


def make_optimizer(
    network: nn.Module,
    name: str,
    *,
    lr: float,
    weight_decay: float = 0.0,
    rates: Mapping[str, float] | None = None,
    **options: Any,
) -> torch.optim.Optimizer:
    """Builds an optimizer for all weights that are trained; norms and biases do not decay.

    Args:
        network: What is trained.
        name: One of `OPTIMIZERS`.
        lr: Peak learning rate.
        weight_decay: Decay of the matrices.
        rates: Beginning of a parameter's name to its share of `lr`; not with "muon".
        options: Further arguments of the optimizer, e.g. betas.

    Raises:
        ValueError: Unknown name, or nothing to train.

    Example:
        >>> len(make_optimizer(nn.Linear(3, 2), "adamw", lr=1e-3).param_groups)
        2
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"optimizer {name!r} is none of {', '.join(OPTIMIZERS)}")
    trained = [p for p in network.parameters() if p.requires_grad]
    if not trained:
        raise ValueError("everything is frozen: nothing is left to train")
    if rates and name == "muon":
        raise ValueError(
            f"rates={dict(rates)}: optimizer 'muon' has rates of its own; take another"
        )
    groups = []
    norms = {
        id(p) for one in network.modules() if isinstance(one, _NORMS)
        for p in one.parameters(recurse=False)
    }  # fmt: skip

    def decays(p: nn.Parameter) -> bool:
        return p.ndim > 1 and id(p) not in norms

    for share, part in _by_rate(network, rates or {}).items():
        rate = {} if share == 1 else {"lr": share * lr}
        groups += [
            {"params": [p for p in part if decays(p)], "weight_decay": weight_decay, **rate},
            {"params": [p for p in part if not decays(p)], "weight_decay": 0.0, **rate},
        ]
    kind = resolve(f"paragone.training:{OPTIMIZERS[name]}")
    if name == "muon":
        groups = kind.split(network, lr=_MUON_VECTORS * lr, weight_decay=weight_decay)
        return kind(groups, lr=lr, weight_decay=weight_decay, **options)
    if name == "sgd":
        options = {"momentum": 0.9, "nesterov": True, **options}
    return kind([g for g in groups if g["params"]], lr=lr, **options)


def _by_rate(network: nn.Module, rates: Mapping[str, float]) -> dict[float, list[nn.Parameter]]:
    """Share of the rate to the parameters that are trained with it."""
    found: dict[float, list[nn.Parameter]] = {}
    for name, p in network.named_parameters():
        if p.requires_grad:
            share = next((x for start, x in rates.items() if name.startswith(start)), 1.0)
            found.setdefault(share, []).append(p)
    return found
