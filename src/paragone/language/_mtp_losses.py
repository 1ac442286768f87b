r"""Losses of heads that predict further tokens, and what a step of training takes of them.

Each head's loss is summed over the labels that it has, and divided by those of the main head, as
the papers have it: a head d loses the last d tokens of a text.

$$ L = \frac{1}{n}\Big(\sum_t \ell^0_t + \sum_{d \ge 1} w_d \sum_t \ell^d_t\Big), \qquad
   w_d = \lambda / D \ \text{(DeepSeek-V3)}, \qquad w_d = 1 \ \text{(Meta)} . $$

Heads that stand side by side are run one at a time, forward and backward, and meet in the gradient
of the stream that all of them read: only one head's activations are alive at a time.

For a model that stays as it is, each label may be all that the model thinks of its place, not only
the token that was drawn there, which has the same mean and less noise:

$$ \ell^d_t = -\sum_v p(v \mid x_{\le t+d}) \log q_d(v) . $$

References:
    DeepSeek-AI (2024), arXiv:2412.19437, eq. 24-25.
    Gloeckle et al. (2024), arXiv:2404.19737, eq. 2 and figure 2 (one head at a time).
    Hinton et al. (2015), arXiv:1503.02531, section 2 (targets that are distributions).

Shapes: B rows, T time, M model width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from paragone.language.fitting import Loss

__all__ = ["AheadLosses", "one_at_a_time", "soft_loss", "weights_of"]


_LOGITS = 1 << 22
"""Most logits that are held at once."""


@dataclasses.dataclass(frozen=True)
class AheadLosses:
    """Losses of the main head and of those that look further ahead, as sums over labels.

    Attributes:
        main: Sum of the main head, None where the model was not trained.
        count: Labels of the main head.
        ahead: Sum of each further head, without gradients; the nearest first.
        counts: Labels of each.
        weighted: Their weighted sum, with gradients.
        balance: What the model's experts add to the mean loss, or None.
        agreed: Of each head, guesses that the main head would have made in its place, of how many;
            counted without gradients alone.
        tokens: Tokens that were worked on.
    """

    main: Tensor | None
    count: Tensor
    ahead: tuple[Tensor, ...]
    counts: tuple[Tensor, ...]
    weighted: Tensor
    balance: Tensor | None = None
    agreed: tuple[tuple[Tensor, Tensor], ...] = ()
    tokens: int = 0

    def loss(self) -> Loss:
        """For `fitting.Loop`: the value is the main head's alone, the gradient that of all.

        So a run with further heads logs what a run without them logs, and `ahead_1` and so on
        beside it. Without a main head it is the weighted sum.
        """
        names = range(1, len(self.ahead) + 1)
        metrics: dict[str, Any] = {
            f"ahead_{d}": pair for d, *pair in zip(names, self.ahead, self.counts, strict=True)
        }
        metrics |= {f"agreed_{d}": pair for d, pair in zip(names, self.agreed, strict=False)}
        total = self.weighted
        if self.main is not None:
            total = self.main + (total - total.detach())
            if self.balance is not None:
                total = total + self.count * self.balance
        return Loss(total, self.count, metrics, self.tokens or None)


def weights_of(weight: float | Sequence[float] | None, depth: int, kind: str) -> tuple[float, ...]:
    """The weight of each depth.

    Args:
        weight: Of "sequential" modules lambda, shared out over them; of "parallel" heads that of
            each; or one for each depth. None: 0.3, the first value of DeepSeek-V3, and 1.
        depth: How many.
        kind: "sequential" or "parallel".

    Raises:
        ValueError: A negative weight, or not one for each depth.

    Example:
        >>> weights_of(None, 2, "sequential"), weights_of(None, 2, "parallel")
        ((0.15, 0.15), (1.0, 1.0))
    """
    if weight is None:
        weight = 0.3 if kind == "sequential" else 1.0
    if isinstance(weight, int | float):
        each = weight / depth if kind == "sequential" else float(weight)
        found = (each,) * depth
    else:
        found = tuple(float(x) for x in weight)
    if len(found) != depth or not all(x >= 0 for x in found):
        raise ValueError(f"weight={weight}: at least 0, one for all or one for each of {depth}")
    return found


def soft_loss(stream: Tensor, target: Tensor, weight: Tensor, there: Tensor) -> Tensor:
    """The summed cross-entropy between what a model thinks and what a head does.

    Args:
        stream: (B, T, M) what the head reads.
        target: (B, T, M) the model's stream at the place that is guessed.
        weight: (V, M) the head of both; it gets no gradient.
        there: (B, T) whether a place counts.
    """
    return _Soft.apply(stream[there], target[there], weight.detach())  # pyright: ignore


class _Soft(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, stream: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        step = max(1, _LOGITS // len(weight))
        total, grads = stream.new_zeros((), dtype=torch.float64), []
        for mine, other in zip(stream.split(step), target.split(step), strict=True):
            logs = (mine @ weight.T).float().log_softmax(-1)
            chances = (other @ weight.T).float().softmax(-1)
            total -= (chances * logs).sum(dtype=torch.float64)
            grads.append((logs.exp_().sub_(chances).to(weight.dtype) @ weight).to(stream.dtype))
        ctx.save_for_backward(torch.cat(grads) if grads else stream)
        return total.to(torch.float32)

    @staticmethod
    def backward(ctx: Any, *outer: Any) -> Any:
        return ctx.saved_tensors[0] * outer[0], None, None


def one_at_a_time(
    run: Callable[[int, Tensor], Tensor], weights: Sequence[float], stream: Tensor,
    parameters: Sequence[Tensor],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The weighted sum of heads' losses; with gradients each head is run and let go in its turn.

    Args:
        run: Number of a head and the stream to its summed loss.
        weights: Of the heads.
        stream: What all of them read.
        parameters: All that they depend on besides.

    Returns:
        The weighted sum, with gradients to stream and parameters, and the (D,) sums without.
    """
    if not torch.is_grad_enabled():
        sums = torch.stack([run(k, stream) for k in range(len(weights))])
        return (sums * sums.new_tensor(weights)).sum(), sums
    moving = [p for p in parameters if p.requires_grad]
    return _OneAtATime.apply(run, tuple(weights), stream, *moving)  # pyright: ignore


class _OneAtATime(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, run: Any, weights: Any, stream: Tensor, *parameters: Tensor) -> Any:
        leaf = stream.detach().requires_grad_()
        wanted = [leaf, *parameters]
        total: list[Tensor | None] = [None] * len(wanted)
        sums = []
        for k, weight in enumerate(weights):
            with torch.enable_grad():
                one = run(k, leaf)
                grads = torch.autograd.grad(weight * one, wanted, allow_unused=True)
            sums.append(one.detach())
            for at, grad in enumerate(grads):
                before = total[at]
                if grad is not None:
                    total[at] = grad if before is None else before.add_(grad)
        ctx.there = [grad is not None for grad in total]
        ctx.save_for_backward(*[grad for grad in total if grad is not None])
        found = torch.stack(sums)
        ctx.mark_non_differentiable(found)
        return (found * found.new_tensor(weights)).sum(), found

    @staticmethod
    def backward(ctx: Any, *outer: Any) -> Any:
        kept = iter(ctx.saved_tensors)
        grads = [next(kept) * outer[0] if there else None for there in ctx.there]
        return None, None, *grads
