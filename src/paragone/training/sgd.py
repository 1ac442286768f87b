r"""Stochastic gradient descent with momentum, bit for bit PyTorch's.

The gradient of a batch is the full gradient plus noise. A running sum of gradients, the
momentum, keeps what they agree on and lets the noise cancel; along a valley it is as if the
step were $1 / (1 - \mu)$ times as long:

$$ b_t = \mu\, b_{t-1} + (1 - \tau)\, g_t, \qquad
   \theta_t = \theta_{t-1} - \eta\, b_t \quad\text{or, after Nesterov,}\quad
   \theta_{t-1} - \eta\, (g_t + \mu\, b_t), $$

with $b_1 = g_1$. L2 decay adds $\lambda\theta$ to $g$ and so passes through the momentum;
decoupled decay (SGDW) shrinks $\theta$ by $1 - \eta\lambda$ beside it, after which the best
$\lambda$ no longer depends on $\mu$.

Cost: one state a parameter (none without momentum); about 20 bytes moved a parameter and step.

References:
    Robbins and Monro (1951), "A stochastic approximation method".
    Polyak (1964), "Some methods of speeding up the convergence of iteration methods", eq. 9.
    Sutskever et al. (2013), "On the importance of initialization and momentum", eq. 1-4.
    Loshchilov and Hutter (2019), arXiv:1711.05101, algorithm 1, for decoupled decay.

Shapes: parameters of any shape, each stepped number by number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from paragone.training._plain import Plain, between

__all__ = ["SGD"]


class SGD(Plain):
    r"""Gradient descent with momentum, dampening and Nesterov's step.

    Prefer it to `AdamW` for convolutional nets when there is time to tune its rate and a
    schedule, or when no second state fits; prefer `AdamW` for attention models and embeddings,
    where gradients of different tensors differ by orders of magnitude. Results are those of
    `torch.optim.SGD(foreach=False)`, bit for bit in fp32 and fp64. fp16 and bf16 parameters are
    stepped in fp32 with a momentum in fp32, which PyTorch does not do.

    Args:
        params: Tensors or groups; real or complex.
        lr: Step size $\eta$; a number or a tensor of one.
        momentum: $\mu$ in [0, 1).
        dampening: $\tau$; 0 sums gradients up, $\mu$ would average them.
        weight_decay: $\lambda$.
        nesterov: Look ahead; needs a momentum and no dampening.
        decay: "l2" adds $\lambda\theta$ to the gradient, "decoupled" shrinks the parameter.
        maximize: Ascend.

    Raises:
        ValueError: A number is out of range, or a gradient is sparse.

    Example:
        >>> w = torch.nn.Parameter(torch.tensor([1.0]))
        >>> w.grad = torch.tensor([2.0])
        >>> SGD([w], lr=0.1).step(); w.data
        tensor([0.8000])
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        decay: str = "l2",
        maximize: bool = False,
    ) -> None:
        super().__init__(params, {
            "lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay,
            "nesterov": nesterov, "decay": decay, "maximize": maximize,
        })  # fmt: skip

    def _check(self, group: Mapping[str, Any]) -> None:
        between("lr", group["lr"], 0.0)
        between("momentum", group["momentum"], 0.0, 1.0)
        between("weight_decay", group["weight_decay"], 0.0)
        if group["decay"] not in ("l2", "decoupled"):
            raise ValueError(f"decay={group['decay']!r} is none of 'l2', 'decoupled'")
        if group["nesterov"] and (group["momentum"] == 0 or group["dampening"] != 0):
            raise ValueError(
                f"nesterov=True with momentum={group['momentum']} and "
                f"dampening={group['dampening']}: it needs a momentum and dampening=0"
            )

    def _update(self, p: Tensor, grad: Tensor, state: dict[str, Any], group: Any) -> None:
        lr, mu, decay = float(group["lr"]), group["momentum"], group["weight_decay"]
        if decay and group["decay"] == "l2":
            grad = grad.add(p, alpha=decay)
        elif decay:
            p.mul_(1 - lr * decay)
        if mu:
            buffer = state.get("momentum_buffer")
            if buffer is None:
                buffer = state["momentum_buffer"] = torch.clone(grad).detach()
            else:
                buffer.mul_(mu).add_(grad, alpha=1 - group["dampening"])
            grad = grad.add(buffer, alpha=mu) if group["nesterov"] else buffer
        p.add_(grad, alpha=-lr)
