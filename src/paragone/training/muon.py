r"""Muon: momentum whose matrices are made orthogonal before they are applied.

The gradient of a layer $W x$ is a sum of few outer products, so a momentum of such gradients
has a few large singular values and many small ones, and a step along it moves $W$ in few
directions. Muon replaces every singular value by one: of $M = U S V^\top$ it applies
$U V^\top$, the steepest descent when a step is measured by its spectral norm.

No decomposition is needed. With $X_0 = M / \lVert M \rVert_F$, five steps of an odd polynomial
push every singular value towards one,

$$ A = X X^\top, \qquad X \leftarrow a X + (b A + c A^2) X,
   \qquad (a, b, c) = (3.4445, -4.7750, 2.0315), $$

whose slope at zero, $a$, is as large as it can be while all end in about [0.7, 1.2]; more exact
ones bring nothing. The update is

$$ B_t = \mu B_{t-1} + (1 - \mu) G_t, \qquad
   W_t = (1 - \eta\lambda) W_{t-1} - \eta\, s\, \mathrm{NS}_5\bigl((1 - \mu) G_t + \mu B_t\bigr), $$

with $s = \sqrt{\max(1, r / c)}$ for $r \times c$ matrices ("original"), or
$s = 0.2 \sqrt{\max(r, c)}$, by which the root mean square of an update is that of AdamW's, and
AdamW's $\eta$ and $\lambda$ carry over ("match_rms_adamw").

What is no hidden matrix (biases, norms, embeddings, the head) is stepped by AdamW; `Muon.split`
makes the groups.

Cost: one state a parameter; $5 (4 r^2 c + 2 r^3)$ operations a matrix of $r \le c$ a step,
which is below $10\, r / b$ of the layer's own for a batch of b rows. Matrices of one shape are
multiplied as a batch.

References:
    Jordan et al. (2024), "Muon: an optimizer for hidden layers in neural networks".
    Liu et al. (2025), "Muon is scalable for LLM training", arXiv:2502.16982, eq. 4.
    Bernstein and Newhouse (2024), "Old optimizer, new norm", arXiv:2409.20325.

Shapes: r rows (outputs), c columns (inputs), ... leading sizes of a batch of matrices.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from paragone.training._plain import Plain, adamw_update, between, working

__all__ = ["COEFFICIENTS", "Muon", "orthogonalize"]

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ADJUST = ("original", "match_rms_adamw", "none")
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d,
                 nn.ConvTranspose3d)  # fmt: skip
_NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm)


def orthogonalize(
    x: Tensor,
    steps: int = 5,
    coefficients: tuple[float, float, float] = COEFFICIENTS,
    eps: float = 1e-7,
    dtype: torch.dtype | None = None,
) -> Tensor:
    r"""Brings the singular values of matrices (..., r, c) near one by Newton-Schulz steps.

    Args:
        x: Matrices, real or complex.
        steps: Steps; five bring what is above 0.002 of the norm to [0.68, 1.21].
        coefficients: a, b, c of the polynomial $a x + b x^3 + c x^5$.
        eps: Least norm; a smaller matrix keeps small singular values.
        dtype: Type to compute in; None is bf16 on a GPU and fp32 elsewhere.

    Returns:
        Matrices (..., r, c) of type `dtype` (of complex ones: complex64 or complex128).

    Example:
        >>> torch.linalg.svdvals(orthogonalize(torch.randn(4, 6))).max() < 1.3
        tensor(True)
    """
    a, b, c = coefficients
    if not x.is_complex():
        chosen = dtype or (torch.bfloat16 if x.is_cuda else torch.float32)
        x = x.to(chosen)
    wide = x.shape[-2] <= x.shape[-1]
    x = x if wide else x.mH
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=eps)
    shape = x.shape
    x = x.reshape(-1, *shape[-2:])
    multiply = torch.baddbmm
    for _ in range(steps):
        gram = x @ x.mH
        x = multiply(x, multiply(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    x = x.reshape(shape)
    return x if wide else x.mH


class Muon(Plain):
    r"""Orthogonalized momentum for hidden matrices, AdamW for all else.

    Prefer it to `AdamW` for models whose cost is in matrices, where fewer steps count for more
    than the products of a step; prefer `AdamW` for small layers and for models of many vectors.
    Prefer it to `torch.optim.Muon`, which it equals on matrices, for convolutions, batches of
    matrices, many matrices of one shape, and models that need one optimizer. A step needs whole
    matrices: sharding by element is wrong, so `shard_by` is "tensor".

    Args:
        params: Groups of `Muon.split`, or tensors of two dimensions or more. A group may set
            `adamw=True` (stepped by AdamW with the group's `lr`, `betas`, `adamw_eps` and
            `weight_decay`), and `flatten`.
        lr: Step size $\eta$ of the matrices; with "original" about 0.02, with
            "match_rms_adamw" that of AdamW.
        weight_decay: $\lambda$, decoupled.
        momentum: $\mu$ in [0, 1).
        nesterov: Whether the newest gradient is added once more.
        ns_steps: Newton-Schulz steps.
        ns_coefficients: Their coefficients.
        eps: Least norm of a matrix.
        adjust: "original", "match_rms_adamw" or "none": the factor s.
        flatten: Whether a tensor (r, ...) is one matrix of r rows, as the kernel of a
            convolution is; False takes the last two dimensions of each as a matrix, as experts
            are stacked; None flattens from four dimensions on.
        ns_dtype: Type of the products; None is bf16 on a GPU, and fp32 elsewhere, where bf16
            is slow. PyTorch's has bf16 everywhere.
        adamw_lr: Step size of groups with `adamw=True` that set none.
        betas: Those of AdamW.
        adamw_eps: Epsilon of AdamW.
        maximize: Ascend.

    Raises:
        ValueError: A number is out of range, a gradient is sparse, or a vector is in a group
            without `adamw=True`.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Linear(8, 2))
        >>> [group["adamw"] for group in Muon(Muon.split(model), lr=0.02).param_groups]
        [False, True, True]
    """

    shard_by = "tensor"

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 0.02,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        nesterov: bool = True,
        *,
        ns_steps: int = 5,
        ns_coefficients: tuple[float, float, float] = COEFFICIENTS,
        eps: float = 1e-7,
        adjust: str = "original",
        flatten: bool | None = None,
        ns_dtype: torch.dtype | None = None,
        adamw_lr: float | Tensor = 3e-4,
        betas: tuple[float, float] = (0.9, 0.95),
        adamw_eps: float = 1e-8,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, {
            "lr": lr, "weight_decay": weight_decay, "momentum": momentum, "nesterov": nesterov,
            "ns_steps": ns_steps, "ns_coefficients": ns_coefficients, "eps": eps,
            "adjust": adjust, "flatten": flatten, "ns_dtype": ns_dtype, "adamw": False,
            "adamw_lr": adamw_lr, "betas": betas, "adamw_eps": adamw_eps, "maximize": maximize,
        })  # fmt: skip

    @staticmethod
    def split(
        model: nn.Module, head: str | Sequence[str] | None = None, **adamw: Any
    ) -> list[dict[str, Any]]:
        """Divides a model's parameters into hidden matrices and what AdamW steps.

        AdamW gets what has fewer than two dimensions, norms of any shape, every embedding with
        what is tied to it, and the head. Frozen parameters are left out.

        Args:
            model: Any module.
            head: Beginning of the names of the head's parameters, one or several; None takes
                those that the model itself names in `outer_weights`, else the matrix registered
                last, "" none.
            adamw: Hyper-parameters of both groups of AdamW, such as `lr`, `weight_decay` or
                `betas`. Vectors are not decayed.

        Returns:
            Groups for `Muon`, those that are not empty: "hidden", "kernels" (of convolutions),
            "embeddings and head", "vectors".

        Raises:
            ValueError: No parameter's name begins as `head` says.
        """
        named = dict(model.named_parameters())
        embedded, kernels, norms = set(), set(), set()
        for module in model.modules():
            own = {id(p) for p in module.parameters(recurse=False)}
            embedded |= own if isinstance(module, nn.Embedding | nn.EmbeddingBag) else set()
            kernels |= own if isinstance(module, _CONVOLUTIONS) else set()
            norms |= own if isinstance(module, _NORMS) else set()
        matrices = [name for name, p in named.items() if p.ndim > 1]
        head = getattr(model, "outer_weights", None) if head is None else head
        if head is None:
            heads = set(matrices[-1:])
        else:
            starts = (head,) if isinstance(head, str) else tuple(head)
            heads = {n for n in named if any(start and n.startswith(start) for start in starts)}
            if not heads and any(starts):
                raise ValueError(
                    f"head={head!r}: no parameter's name begins so; there are {', '.join(named)}"
                )
        groups: dict[str, list[tuple[str, Tensor]]] = defaultdict(list)
        for name, p in named.items():
            if not p.requires_grad:
                continue
            if p.ndim < 2 or id(p) in norms:
                kind = "vectors"
            elif id(p) in embedded or name in heads:
                kind = "embeddings and head"
            else:
                kind = "kernels" if id(p) in kernels else "hidden"
            groups[kind].append((name, p))
        extra: dict[str, dict[str, Any]] = {
            "hidden": {},
            "kernels": {"flatten": True},
            "embeddings and head": {"adamw": True, **adamw},
            "vectors": {"adamw": True, **adamw, "weight_decay": 0.0},
        }
        return [
            {"params": [p for _, p in groups[kind]], "name": kind, **more}
            for kind, more in extra.items()
            if groups[kind]
        ]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group; with `adamw=True` its `lr` is `adamw_lr` if it sets none.

        Raises:
            ValueError: A hyper-parameter is out of range, or a vector needs `adamw=True`.
        """
        if param_group.get("adamw"):
            lr = param_group.get("adamw_lr", self.defaults["adamw_lr"])
            param_group = {"lr": lr, **param_group}
        super().add_param_group(param_group)

    def _check(self, group: Mapping[str, Any]) -> None:
        between("lr", group["lr"], 0.0)
        between("weight_decay", group["weight_decay"], 0.0)
        between("momentum", group["momentum"], 0.0, 1.0)
        between("beta1", group["betas"][0], 0.0, 1.0)
        between("beta2", group["betas"][1], 0.0, 1.0)
        between("eps", group["eps"], 0.0)
        between("ns_steps", group["ns_steps"], 1, 100)
        if group["adjust"] not in _ADJUST:
            raise ValueError(f"adjust={group['adjust']!r} is none of {', '.join(_ADJUST)}")
        if len(group["ns_coefficients"]) != 3:
            raise ValueError(f"ns_coefficients={group['ns_coefficients']} are not three numbers")
        for p in group["params"]:
            if p.ndim < 2 and not group["adamw"]:
                raise ValueError(
                    f"a parameter of shape {tuple(p.shape)} is no matrix: put it into a group "
                    "with adamw=True, or make the groups by Muon.split(model)"
                )

    def _update(self, p: Tensor, grad: Tensor, state: dict[str, Any], group: Any) -> None:
        adamw_update(
            p, grad, state, lr=float(group["lr"]), betas=group["betas"], eps=group["adamw_eps"],
            weight_decay=group["weight_decay"],
        )  # fmt: skip

    def _advance(self, group: dict[str, Any], ready: list[Tensor]) -> None:
        if group["adamw"]:
            super()._advance(group, ready)
            return
        alike: dict[Any, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for p in ready:
            update = _whole(self._direction(p, group))
            if update.numel():
                matrices = _matrices(update, group["flatten"])
                key = (matrices.shape[-2:], matrices.dtype, matrices.device)
                alike[key].append((p, matrices))
        for ((rows, columns), _, _), members in alike.items():
            stacked = torch.cat([m for _, m in members]) if len(members) > 1 else members[0][1]
            done = orthogonalize(
                stacked, group["ns_steps"], group["ns_coefficients"], group["eps"],
                group["ns_dtype"],
            )  # fmt: skip
            lr = float(group["lr"])
            size = lr * _factor(group["adjust"], rows, columns)
            for (p, _), part in zip(members, done.split([len(m) for _, m in members]), strict=True):
                weight, _ = working(p, False)
                weight.mul_(1 - lr * group["weight_decay"])
                weight.add_(_like(part.reshape(p.shape), p, weight.dtype), alpha=-size)
                if weight is not p:
                    p.copy_(weight)

    def _direction(self, p: Tensor, group: dict[str, Any]) -> Tensor:
        """Moves the momentum on, and returns what is to be made orthogonal."""
        _, grad = working(p, group["maximize"])
        state, mu = self.state[p], group["momentum"]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(grad)
        buffer = state["momentum_buffer"].lerp_(grad, 1 - mu)
        return grad.lerp(buffer, mu) if group["nesterov"] else buffer


def _matrices(update: Tensor, flatten: bool | None) -> Tensor:
    """A tensor as a batch of matrices (b, r, c)."""
    if update.ndim == 2 or flatten or (flatten is None and update.ndim > 3):
        return update.flatten(1)[None]
    return update.flatten(0, -3)


def _factor(adjust: str, rows: int, columns: int) -> float:
    if adjust == "none":
        return 1.0
    if adjust == "original":
        return math.sqrt(max(1.0, rows / columns))
    return 0.2 * math.sqrt(max(rows, columns))


def _whole(update: Tensor) -> Tensor:
    """The whole of a tensor that is spread over ranks (`DTensor`)."""
    gather = getattr(update, "full_tensor", None)
    return update if gather is None else gather()


def _like(update: Tensor, p: Tensor, dtype: torch.dtype) -> Tensor:
    """The update in the type of the parameter, spread over ranks as that is."""
    update = update.to(dtype)
    if getattr(p, "full_tensor", None) is None:
        return update
    from torch.distributed.tensor import distribute_tensor

    spread: Any = p
    return distribute_tensor(update, spread.device_mesh, spread.placements, src_data_rank=None)
