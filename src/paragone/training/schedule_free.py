r"""Schedule-Free: an average of the path takes the place of the learning-rate schedule.

A decaying rate needs the day of the end; averaging the path needs none, but a plain average is
slow to forget. Schedule-Free takes the gradient *between* the newest point and the average:

$$ y_t = (1 - \beta)\, z_t + \beta\, x_t, \qquad
   z_{t+1} = z_t - \gamma_t\, \bigl(u(y_t) + \lambda y_t\bigr), \qquad
   x_{t+1} = (1 - c_{t+1})\, x_t + c_{t+1}\, z_{t+1}, $$

with $c_{t+1} = w_t / \sum_{i \le t} w_i$, $w_t = t^r (\max_{i \le t} \gamma_i)^2$ and a rate
$\gamma$ that is constant after the warm-up. $u$ is the gradient (base "sgd"), or the gradient
over the root of Adam's second moment (base "adamw"). $\beta = 0$ would be Polyak-Ruppert
averaging and $\beta = 1$ primal averaging.

The parameters hold y while training and x when the model is judged: call `optimizer.train()`
and `optimizer.eval()` beside the model's. Only y and z are kept, since
$x = (y - (1 - \beta) z) / \beta$.

Cost: SGD: one state a parameter, as much as momentum; AdamW: two, as much as AdamW.

References:
    Defazio et al. (2024), "The road less scheduled", arXiv:2405.15682, eq. 3-5, algorithm 1.

Shapes: parameters of any shape, each stepped number by number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from paragone.training._plain import Plain, between

__all__ = ["ScheduleFree"]


class ScheduleFree(Plain):
    r"""SGD or AdamW on an average of its own path; no schedule, no known end.

    Prefer it to `AdamW` with a schedule where the end of the run is not known or the model is
    wanted at any time; prefer the schedule where the end is known and the rate is tuned for it.
    It equals `schedulefree.SGDScheduleFree` and `AdamWScheduleFree`. Running statistics of
    batch norms belong to y: after `eval()`, pass some batches through the model in train mode
    to renew them.

    Args:
        params: Tensors or groups; real.
        lr: $\gamma$; constant, so larger than a scheduled one's mean: about 1 to 10 times that
            of AdamW or SGD.
        betas: $\beta$ of the interpolation in (0, 1), and $\beta_2$ of the second moment.
        eps: Added to the root of the second moment.
        weight_decay: $\lambda$, at y.
        warmup_steps: Steps in which the rate rises linearly.
        base: "adamw" or "sgd".
        r: Power of t in the weights of the average; 0 weighs all steps alike.
        weight_lr_power: Power of the rate in them.
        maximize: Ascend.

    Raises:
        ValueError: A number is out of range, a parameter is complex, or a gradient is sparse.
        RuntimeError: A step is taken after `eval()`.

    Example:
        >>> w = torch.nn.Parameter(torch.tensor([1.0]))
        >>> optimizer = ScheduleFree([w], lr=0.5, base="sgd")
        >>> w.grad = torch.tensor([1.0]); optimizer.step(); optimizer.eval(); w.data
        tensor([0.5000])
    """

    complex_reason = "the second moment is of real numbers: give torch.view_as_real of it"

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 2.5e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        warmup_steps: int = 0,
        *,
        base: str = "adamw",
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay,
            "warmup_steps": warmup_steps, "base": base, "r": r,
            "weight_lr_power": weight_lr_power, "maximize": maximize, "k": 0,
            "train_mode": True, "weight_sum": 0.0, "lr_max": 0.0, "scheduled_lr": 0.0,
        })  # fmt: skip

    def _check(self, group: Mapping[str, Any]) -> None:
        between("lr", group["lr"], 0.0)
        if not 0 < group["betas"][0] < 1:
            raise ValueError(
                f"betas[0]={group['betas'][0]} does not lie between 0 and 1: x could not be "
                "told from y"
            )
        between("beta2", group["betas"][1], 0.0, 1.0)
        between("eps", group["eps"], 0.0)
        between("weight_decay", group["weight_decay"], 0.0)
        between("warmup_steps", group["warmup_steps"], 0)
        if group["base"] not in ("adamw", "sgd"):
            raise ValueError(f"base={group['base']!r} is none of 'adamw', 'sgd'")

    def train(self) -> None:
        """Puts y, where gradients are taken, into the parameters."""
        self._turn(True)

    def eval(self) -> None:
        """Puts x, the average, into the parameters: judge and save the model now."""
        self._turn(False)

    @torch.no_grad()
    def _turn(self, train: bool) -> None:
        for group in self.param_groups:
            if group["train_mode"] == train:
                continue
            beta = group["betas"][0]
            for p in group["params"]:
                z = self.state[p].get("z") if p in self.state else None
                if z is not None:
                    y = p.to(z.dtype)
                    p.copy_(y.lerp(z, 1 - beta if train else 1 - 1 / beta))
            group["train_mode"] = train

    def _advance(self, group: dict[str, Any], ready: list[Tensor]) -> None:
        if not group["train_mode"]:
            raise RuntimeError(
                "the parameters hold the average: call optimizer.train() before a step, and "
                "optimizer.eval() before the model is judged or saved"
            )
        t = group["k"] = group["k"] + 1
        rate = float(group["lr"]) * min(1.0, t / max(1, group["warmup_steps"]))
        group["scheduled_lr"] = rate
        group["lr_max"] = max(rate, group["lr_max"])
        weight = t ** group["r"] * group["lr_max"] ** group["weight_lr_power"]
        group["weight_sum"] += weight
        super()._advance(group, ready)

    def _update(self, p: Tensor, grad: Tensor, state: dict[str, Any], group: Any) -> None:
        beta, beta2 = group["betas"]
        adaptive, t, rate = group["base"] == "adamw", group["k"], group["scheduled_lr"]
        if not state:
            state["z"] = p.clone()
            if adaptive:
                state["exp_avg_sq"] = torch.zeros_like(p)
        z = state["z"]
        weight = t ** group["r"] * group["lr_max"] ** group["weight_lr_power"]
        c = weight / group["weight_sum"] if group["weight_sum"] else 0.0
        if adaptive:
            v = state["exp_avg_sq"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
            grad = grad / v.div(1 - beta2**t).sqrt_().add_(group["eps"])
        if group["weight_decay"]:
            grad = grad.add(p, alpha=group["weight_decay"])
        # y moves so that x = (y - (1 - beta) z) / beta moves on by c towards the new z.
        p.lerp_(z, c).add_(grad, alpha=rate * (beta * (1 - c) - 1))
        z.sub_(grad, alpha=rate)
