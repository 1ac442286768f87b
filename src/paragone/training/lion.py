r"""Lion: every number moves by the same step, in the direction of the sign of a momentum.

Found by a search over programs. Only the sign of an interpolation between the momentum and the
newest gradient is used, so that the step of every number is exactly $\eta$:

$$ \theta_t = (1 - \eta\lambda)\,\theta_{t-1}
      - \eta\, \operatorname{sign}\bigl(\beta_1 m_{t-1} + (1 - \beta_1) g_t\bigr), \qquad
   m_t = \beta_2 m_{t-1} + (1 - \beta_2) g_t . $$

The newest gradient weighs more in the direction ($1 - \beta_1 = 0.1$) than in the memory
($1 - \beta_2 = 0.01$). Since a sign is as large as Adam's largest update, $\eta$ is 3 to 10
times smaller than AdamW's and $\lambda$ as much larger, so that $\eta\lambda$ stays. What it
minimizes with decay is the loss under the bound $|\theta| \le 1 / \lambda$.

Cost: one state a parameter, half of Adam's; no square root, no division.

References:
    Chen et al. (2023), "Symbolic discovery of optimization algorithms", arXiv:2302.06675,
    algorithm 2.
    Chen, Liu, Liang and Liu (2024), "Lion secretly solves constrained optimization",
    arXiv:2310.05898, for the bound.

Shapes: parameters of any shape, each stepped number by number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from paragone.training._plain import Plain, between

__all__ = ["Lion"]


class Lion(Plain):
    r"""Sign of an interpolated momentum, with decoupled decay.

    Prefer it to `AdamW` where the second moment does not fit or batches are large; prefer
    `AdamW` for small batches, whose noise a sign makes as large as the signal. States are those
    of `lion_pytorch.Lion`, which it equals. A complex number moves by $\eta$ along its phase.

    Args:
        params: Tensors or groups; real or complex.
        lr: Step size $\eta$ of every number.
        betas: $(\beta_1, \beta_2)$: weight of the momentum in the direction, and in the memory.
        weight_decay: $\lambda$; the parameter shrinks by $1 - \eta\lambda$ a step.
        maximize: Ascend.

    Raises:
        ValueError: A number is out of range, or a gradient is sparse.

    Example:
        >>> w = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
        >>> w.grad = torch.tensor([2.0, -0.1])
        >>> Lion([w], lr=0.1).step(); w.data
        tensor([0.9000, 1.1000])
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, {
            "lr": lr, "betas": betas, "weight_decay": weight_decay, "maximize": maximize,
        })  # fmt: skip

    def _check(self, group: Mapping[str, Any]) -> None:
        between("lr", group["lr"], 0.0)
        between("beta1", group["betas"][0], 0.0, 1.0)
        between("beta2", group["betas"][1], 0.0, 1.0)
        between("weight_decay", group["weight_decay"], 0.0)

    def _update(self, p: Tensor, grad: Tensor, state: dict[str, Any], group: Any) -> None:
        lr, (beta1, beta2) = float(group["lr"]), group["betas"]
        if not state:
            state["exp_avg"] = torch.zeros_like(p)
        m = state["exp_avg"]
        if group["weight_decay"]:
            p.mul_(1 - lr * group["weight_decay"])
        direction = m.mul(beta1).add_(grad, alpha=1 - beta1).sgn_()
        p.add_(direction, alpha=-lr)
        m.mul_(beta2).add_(grad, alpha=1 - beta2)
