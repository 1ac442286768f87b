r"""Adafactor: Adam's second moment, of matrices kept as one row sum and one column sum.

Adam keeps $V$, the running mean of $G^2$, as large as the matrix itself. Adafactor keeps the
means of its rows $R$ and of its columns $C$ only, and takes the matrix of rank one that has
them, which is the nearest to $V$ in generalized Kullback-Leibler divergence:

$$ R_t = \beta_t R_{t-1} + (1 - \beta_t)\, \overline{(G_t^2 + \epsilon_1)}^{\,\text{columns}},
   \qquad \hat V_t = \frac{R_t C_t^\top}{\overline{R_t}}, \qquad \beta_t = 1 - t^{-0.8} . $$

Without a first moment a gradient that is suddenly large would make a large step, as $V$ is
behind; so an update is scaled down until its root mean square is at most d, and its size is
relative to that of the parameter:

$$ U_t = \frac{G_t}{\sqrt{\hat V_t}}, \qquad
   X_t = X_{t-1} - \rho_t \max(\epsilon_2, \operatorname{RMS}(X_{t-1}))\,
         \frac{U_t}{\max(1, \operatorname{RMS}(U_t) / d)}, \qquad
   \rho_t = \min(\eta, 1 / \sqrt t) . $$

$\beta_1 = 0$: the first second moment is the first squared gradient, and no bias is corrected.

Cost: r + c numbers an r x c matrix; vectors keep theirs in full; about Adam's time.

References:
    Shazeer and Stern (2018), "Adafactor: adaptive learning rates with sublinear memory cost",
    arXiv:1804.04235, algorithms 4-6.

Shapes: r x c the two largest dimensions of a parameter, all others are kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from paragone.training._plain import Plain, between

__all__ = ["Adafactor"]


class Adafactor(Plain):
    r"""Factored second moment, clipped updates, steps relative to the parameter.

    Prefer it to `AdamW` where 8 bytes of moments a parameter do not fit; prefer `AdamW` with
    8-bit states where they do, which keeps a first moment. Equals `torch.optim.Adafactor` on
    matrices and vectors with gradients above about $10^{-7}$: PyTorch's has a floor under
    $\hat V$ in place of $\epsilon_1$. Row means are over the whole row, so a step needs whole
    tensors: `shard_by` is "tensor".

    Args:
        params: Tensors or groups; real.
        lr: $\eta$: most of the relative step; the step itself with `relative=False`.
        beta2_decay: Exponent of $1 - \beta_t = t^{-0.8}$, negative.
        eps: $(\epsilon_1, \epsilon_2)$: added to squared gradients; least size of a parameter.
        d: Root mean square beyond which an update is scaled down.
        weight_decay: $\lambda$; the parameter shrinks by $1 - \eta\lambda$ a step.
        relative: Whether the step falls as $1 / \sqrt t$ below $\eta$; False leaves the
            schedule to the caller.
        scale: Whether steps are relative to the root mean square of the parameter.
        beta1: Weight of a first moment of the updates; 0 keeps none.
        maximize: Ascend.

    Raises:
        ValueError: A number is out of range, a parameter is complex, or a gradient is sparse.

    Example:
        >>> w = torch.nn.Parameter(torch.ones(4, 6))
        >>> w.grad = torch.ones(4, 6)
        >>> optimizer = Adafactor([w]); optimizer.step()
        >>> [tuple(s.shape) for s in optimizer.state[w].values()]
        [(), (4, 1), (1, 6)]
    """

    shard_by = "tensor"
    complex_reason = "Adafactor is defined for real ones: give torch.view_as_real of it"

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-2,
        beta2_decay: float = -0.8,
        eps: tuple[float, float] = (1e-30, 1e-3),
        d: float = 1.0,
        weight_decay: float = 0.0,
        *,
        relative: bool = True,
        scale: bool = True,
        beta1: float = 0.0,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, {
            "lr": lr, "beta2_decay": beta2_decay, "eps": eps, "d": d, "beta1": beta1,
            "weight_decay": weight_decay, "relative": relative, "scale": scale,
            "maximize": maximize,
        })  # fmt: skip

    def _check(self, group: Mapping[str, Any]) -> None:
        between("lr", group["lr"], 0.0)
        between("weight_decay", group["weight_decay"], 0.0)
        between("beta1", group["beta1"], 0.0, 1.0)
        between("eps[0]", group["eps"][0], 0.0)
        between("eps[1]", group["eps"][1], 0.0)
        between("d", group["d"], 1e-12)
        if not group["beta2_decay"] < 0:
            raise ValueError(f"beta2_decay={group['beta2_decay']} must be below 0, such as -0.8")

    def _update(self, p: Tensor, grad: Tensor, state: dict[str, Any], group: Any) -> None:
        if not p.numel():
            return
        lr, (eps1, eps2) = float(group["lr"]), group["eps"]
        if not state:
            _begin(state, grad, group["beta1"])
        state["step"] += 1
        t = state["step"].item()
        rho = min(lr, 1 / math.sqrt(t)) if group["relative"] else lr
        size = rho * max(eps2, _rms(p)) if group["scale"] else rho
        if group["weight_decay"]:
            p.mul_(1 - lr * group["weight_decay"])
        squared = grad.square().add_(eps1)
        update = _divided(grad, squared, state, t ** group["beta2_decay"])
        size /= max(1.0, _rms(update) / group["d"])
        if group["beta1"]:
            m = state["exp_avg"].lerp_(update.mul_(size), 1 - group["beta1"])
            p.sub_(m)
        else:
            p.add_(update, alpha=-size)


def _rms(x: Tensor) -> float:
    return x.norm(2).item() / math.sqrt(x.numel())


def _largest(shape: torch.Size) -> tuple[int, int]:
    """The two largest dimensions in order, of equal ones the last."""
    rows, columns = sorted(sorted(range(len(shape)), key=lambda i: shape[i])[-2:])
    return rows, columns


def _begin(state: dict[str, Any], grad: Tensor, beta1: float) -> None:
    state["step"] = torch.zeros((), dtype=torch.float32)
    if grad.ndim > 1:
        rows, columns = _largest(grad.shape)
        state["row_var"] = torch.zeros_like(grad.select(columns, 0).unsqueeze(columns))
        state["col_var"] = torch.zeros_like(grad.select(rows, 0).unsqueeze(rows))
    else:
        state["variance"] = torch.zeros_like(grad)
    if beta1:
        state["exp_avg"] = torch.zeros_like(grad)


def _divided(grad: Tensor, squared: Tensor, state: dict[str, Any], weight: float) -> Tensor:
    r"""Moves the means on by `weight` $= 1 - \beta_t$, and returns $G / \sqrt{\hat V}$.

    The roots of both factors are taken apart: where a row and a column are dead, their product
    would be below the least number and the quotient no number.
    """
    if squared.ndim < 2:
        return state["variance"].lerp_(squared, weight).rsqrt().mul_(grad)
    rows, columns = _largest(squared.shape)
    row = state["row_var"].lerp_(squared.mean(columns, keepdim=True), weight)
    column = state["col_var"].lerp_(squared.mean(rows, keepdim=True), weight)
    return (row / row.mean(rows, keepdim=True)).rsqrt_() * column.rsqrt() * grad
